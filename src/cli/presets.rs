//! `thermoscope presets`

use std::path::Path;

use super::print;
use crate::error::{Error, Result};
use crate::model::ModelFolder;
use crate::record::{Setup, apply_sets};

#[derive(clap::Args)]
#[command(after_help = "Example: thermoscope presets grok > mine.toml")]
pub(super) struct Args {
    /// Print this preset as a configuration file
    name: Option<String>,
}

/// Names and texts.
const PRESETS: &[(&str, &str)] = &[
    ("grok", include_str!("presets/grok.toml")),
    ("grok-quick", include_str!("presets/grok-quick.toml")),
    ("arms", include_str!("presets/arms.toml")),
    ("power", include_str!("presets/power.toml")),
    ("verma", include_str!("presets/verma.toml")),
    ("fsd", include_str!("presets/fsd.toml")),
    ("induction", include_str!("presets/induction.toml")),
    ("olsson", include_str!("presets/olsson.toml")),
    ("text", include_str!("presets/text.toml")),
];

/// The text of a preset.
fn find(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

fn names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The text of a preset or file, and the name for messages.
fn read(name: &str) -> Result<String> {
    let path = Path::new(name);
    match find(name) {
        Some(text) => Ok(text.to_owned()),
        None if path.extension().is_some_and(|e| e == "toml") || path.exists() => {
            std::fs::read_to_string(path).map_err(Error::io("cannot read", path))
        }
        None => Err(Error::Config(format!("{name} is neither a preset ({}) nor a .toml file", names()))),
    }
}

/// The text with files of the task named by their whole path, so that a run can be resumed from anywhere:
/// as they are found from here, or else beside the configuration. `None` where nothing needs to change.
fn beside(text: &str, dir: &Path) -> Option<String> {
    let mut table: toml::Table = toml::from_str(text).ok()?;
    let mut changed = false;
    for key in ["path", "train_pairs", "train_sequences"] {
        let Some(toml::Value::String(file)) = table.get_mut("task").and_then(|task| task.get_mut(key)) else {
            continue;
        };
        let found = [Path::new(&*file).to_owned(), dir.join(&*file)].into_iter().find(|path| path.is_file());
        if let Some(whole) =
            found.and_then(|path| std::path::absolute(path).ok()).filter(|path| *path != Path::new(&*file))
        {
            *file = whole.to_string_lossy().into_owned();
            changed = true;
        }
    }
    changed.then(|| toml::to_string(&table).ok()).flatten()
}

fn named(name: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Config(message) => Error::Config(format!("{name}: {message}")),
        other => other,
    }
}

/// The text of a preset or file with settings, its files named by their whole path.
fn text(name: &str, sets: &[String]) -> Result<String> {
    let text = apply_sets(&read(name)?, sets)?;
    Ok(beside(&text, Path::new(name).parent().unwrap_or(Path::new(""))).unwrap_or(text))
}

/// A preset or file with settings.
pub(super) fn load(name: &str, sets: &[String]) -> Result<Setup> {
    let text = text(name, sets)?;
    // Settings are merged into a text of their own, whose lines are not the file's.
    let with = if sets.is_empty() { name.to_owned() } else { format!("{name}, with settings merged in") };
    Setup::from_toml(&text).map_err(named(&with))
}

/// The same for measuring a model: its own architecture takes the place of `[model]`.
pub(super) fn load_for_model(name: &str, sets: &[String], folder: &ModelFolder) -> Result<Setup> {
    let text = text(name, sets)?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|error| named(name)(Error::Config(error.to_string().trim_end().to_owned())))?;
    let model = toml::Value::try_from(&folder.config).map_err(|error| Error::Config(error.to_string()))?;
    table.insert("model".to_owned(), model);
    table.insert("replicas".to_owned(), toml::Value::from(folder.replicas.len() as i64));
    table.entry("steps").or_insert(toml::Value::from(1));
    table.insert("precision".to_owned(), toml::Value::from("f32"));
    // Measured once, there is time for every example.
    let measure = table.entry("measure").or_insert(toml::Table::new().into()).as_table_mut();
    let probe = measure.and_then(|m| m.entry("probe").or_insert(toml::Table::new().into()).as_table_mut());
    if let Some(probe) = probe {
        probe.entry("size").or_insert(toml::Value::from(i64::from(u32::MAX)));
    }
    let text = toml::to_string(&table).map_err(|error| Error::Config(error.to_string()))?;
    Setup::from_toml(&text).map_err(named(name))
}

pub(super) fn main(args: &Args) -> Result<()> {
    match &args.name {
        Some(name) => {
            let text =
                find(name).ok_or_else(|| Error::Config(format!("there is no preset {name}; there are {}", names())))?;
            print(text.trim_end());
        }
        None => {
            for (name, text) in PRESETS {
                let table: toml::Table = toml::from_str(text).map_err(|error| Error::Config(error.to_string()))?;
                let description = table.get("description").and_then(toml::Value::as_str).unwrap_or_default();
                print(&format!("{name:12} {description}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_valid_run() {
        for (name, _) in PRESETS {
            // The text preset asks for a file; any does here.
            let sets = if *name == "text" {
                vec![format!("task.path={}/Cargo.lock", env!("CARGO_MANIFEST_DIR"))]
            } else {
                Vec::new()
            };
            let setup = load(name, &sets).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(setup.config.name, *name);
        }
    }
}
