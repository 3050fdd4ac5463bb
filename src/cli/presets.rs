//! `thermoscope presets`

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::print;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, ModelFolder};
use crate::record::{Draft, Manifest, RunDir, Setup, table_of};

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

/// Whether there is a preset of this name.
pub(super) fn is_preset(name: &str) -> bool {
    find(name).is_some()
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

/// Keys of tasks that name files.
const FILES: [&str; 4] = ["path", "train_pairs", "train_sequences", "loss_mask"];

/// Names files of the task by their whole path, so that a run can be resumed from anywhere: as they are found from here,
/// or else beside the configuration.
fn beside(table: &mut Table, name: &str) {
    let dir = Path::new(name).parent().unwrap_or(Path::new(""));
    for key in FILES {
        let Some(Value::String(file)) = table.get_mut("task").and_then(|task| task.get_mut(key)) else { continue };
        let found = [Path::new(&*file).to_owned(), dir.join(&*file)].into_iter().find(|path| path.is_file());
        if let Some(whole) = found.and_then(|path| std::path::absolute(path).ok()) {
            *file = whole.to_string_lossy().into_owned();
        }
    }
}

/// Says whose text has the fault, unless it is a setting's.
fn named(name: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Config(message) => Error::Config(match message.strip_prefix("setting ") {
            Some(setting) => format!("--set {setting}"),
            None => format!("{name}: {message}"),
        }),
        other => other,
    }
}

/// A preset or file with settings.
pub(super) fn load(name: &str, sets: &[String]) -> Result<Setup> {
    let text = read(name)?;
    let mut draft = Draft::new(&text, sets).map_err(named(name))?;
    beside(&mut draft.table, name);
    draft.setup().map_err(named(name))
}

/// The same for training on from a model's weights: what its folder says takes the place of `[model]`. Second, why what
/// those weights were trained on may stand in the test set, if they are a run's and that may be.
pub(super) fn load_from(
    name: &str,
    sets: &[String],
    from: &Path,
    folder: &ModelFolder,
) -> Result<(Setup, Option<String>)> {
    let text = read(name)?;
    let mut draft = Draft::new(&text, sets).map_err(named(name))?;
    beside(&mut draft.table, name);
    take_model(&mut draft, name, from, folder)?;
    let setup = draft.setup().map_err(named(name))?;
    let Some(home) = Home::of(from)? else { return Ok((setup, None)) };
    let own = &home.manifest.config;
    let leak = "examples that the weights were trained on may stand in the test set";
    let changed = home.manifest.check_files().err().map(|error| format!("{error}. If not, {leak}"));
    let differs = || {
        let (key, [asked, own]) = split_of(&setup.resolved, own).into_iter().next()?;
        Some(format!("{key} = {asked} is not that of the run that the weights are from, which had {own}: {leak}"))
    };
    let warning = if other_task(&setup.resolved, own).is_some() { None } else { changed.or_else(differs) };
    Ok((setup, warning))
}

/// The first key by which two resolved runs have different tasks, splits and the like aside.
fn other_task<'a>(asked: &'a serde_json::Value, own: &'a serde_json::Value) -> Option<&'a str> {
    let keys = own["task"].as_object().into_iter().chain(asked["task"].as_object()).flat_map(|task| task.keys());
    keys.map(String::as_str)
        .filter(|key| !SPLIT.contains(key) && !READ.contains(key))
        .find(|key| own["task"][*key] != asked["task"][*key])
}

/// Puts a folder's model in the place of `[model]`, which must not contradict it.
fn take_model(draft: &mut Draft<'_>, name: &str, from: &Path, folder: &ModelFolder) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Part {
        #[serde(default)]
        model: ModelConfig,
    }
    let fail = |error: serde_json::Error| Error::Config(error.to_string());
    let part: Part = draft.typed().map_err(named(name))?;
    let asked = serde_json::to_value(part.model).map_err(fail)?;
    let own = serde_json::to_value(&folder.config).map_err(fail)?;
    let given = draft.table.get("model").and_then(Value::as_table).cloned().unwrap_or_default();
    // How weights are drawn makes no other model, and 0 leaves a number to follow from others.
    let matters = |key: &str| !["init_mode", "initializer_range"].contains(&key) && asked[key].as_f64() != Some(0.0);
    let other: Vec<String> = given
        .keys()
        .filter(|key| matters(key) && asked[key.as_str()] != own[key.as_str()])
        .map(|key| format!("model.{key} = {}, and {} in the folder", asked[key.as_str()], own[key.as_str()]))
        .collect();
    if !other.is_empty() {
        return Err(Error::format(
            from,
            format!(
                "holds another model than {name} describes: {}. Leave these out of [model]: the folder says what the model is",
                other.join("; ")
            ),
        ));
    }
    let model = Value::try_from(&folder.config).map_err(|error| Error::Config(error.to_string()))?;
    draft.table.insert("model".to_owned(), model);
    Ok(())
}

/// The run in whose folder a checkpoint lies.
pub(super) struct Home {
    dir: PathBuf,
    manifest: Manifest,
}

impl Home {
    /// The run of a checkpoint, if the folder is one.
    ///
    /// # Errors
    /// Where `run.json` is damaged, or the checkpoint is of another run.
    pub(super) fn of(model: &Path) -> Result<Option<Self>> {
        let whole = std::fs::canonicalize(model).map_err(Error::io("cannot find", model))?;
        let checkpoints = whole.parent().filter(|dir| dir.file_name().is_some_and(|name| name == "checkpoints"));
        match checkpoints.and_then(Path::parent) {
            Some(dir) if dir.join("run.json").exists() => {
                let manifest = RunDir::read_manifest(dir)?;
                manifest.check_owns(&whole)?;
                Ok(Some(Self { dir: dir.to_owned(), manifest }))
            }
            _ => Ok(None),
        }
    }

    /// The run's configuration. Seeds that count up from the run's are left to do so.
    fn table(&self) -> Result<Table> {
        let mut table = table_of(&self.manifest.config)?;
        let first = table.get("seed").and_then(seed).unwrap_or(0);
        let replicas = table.get_mut("replica").and_then(Value::as_array_mut);
        for (at, replica) in replicas.into_iter().flatten().filter_map(Value::as_table_mut).enumerate() {
            if replica.get("seed").and_then(seed) == Some(first.wrapping_add(at as u64)) {
                replica.remove("seed");
            }
        }
        Ok(table)
    }
}

/// A seed as `run.json` keeps it: above i64's numbers as text.
fn seed(value: &Value) -> Option<u64> {
    match value {
        Value::String(digits) => digits.parse().ok(),
        other => u64::try_from(other.as_integer()?).ok(),
    }
}

/// Keys of tasks that split their examples.
const SPLIT: [&str; 3] = ["train_fraction", "train_pairs", "train_sequences"];

/// Keys of tasks that say how examples are cut and read, not which there are.
const READ: [&str; 4] = ["seq", "test_sequences", "loss_on", "loss_mask"];

/// As many replicas as the folder holds, in f32, whatever was asked for.
fn as_measured(table: &mut Table, folder: &ModelFolder) {
    table.insert("replicas".to_owned(), Value::from(folder.replicas.len() as i64));
    table.insert("precision".to_owned(), Value::from("f32"));
}

/// What a model is measured on: a preset or file, or what the run trained on in whose folder the checkpoint lies. Of such a
/// checkpoint the run's own split and seeds count, unless settings say otherwise or the file has another task: with others,
/// examples that were trained on would stand in the test set. Second, what people should know about that.
///
/// # Errors
/// Where the configuration is wrong, contradicts the folder, or a file of the run's task has changed.
pub(super) fn load_for_model(
    name: Option<&str>,
    sets: &[String],
    from: &Path,
    folder: &ModelFolder,
) -> Result<(Setup, Vec<String>)> {
    let home = Home::of(from)?;
    let text = name.map(read).transpose()?.unwrap_or_default();
    let from_run = home.as_ref().map(|home| home.dir.join("run.json").display().to_string());
    let label = name.map(str::to_owned).or(from_run).ok_or_else(|| {
        Error::Config(
            "--config is missing: a file with a [task] says what the model is measured on (checkpoints of a run know)"
                .to_owned(),
        )
    })?;
    let mut draft = match (&home, name) {
        (Some(home), None) => {
            home.manifest.check_files()?;
            let mut draft = Draft { table: home.table()?, text: "", sets };
            draft.set_again()?;
            draft
        }
        _ => Draft::new(&text, sets).map_err(named(&label))?,
    };
    beside(&mut draft.table, &label);
    take_model(&mut draft, &label, from, folder)?;
    let table = &mut draft.table;
    as_measured(table, folder);
    table.entry("steps").or_insert(Value::from(1));
    // Measured once, there is time for every example.
    let measure = table.entry("measure").or_insert(Table::new().into()).as_table_mut();
    let probe = measure.and_then(|m| m.entry("probe").or_insert(Table::new().into()).as_table_mut());
    if let Some(probe) = probe {
        probe.entry("size").or_insert(Value::from(i64::from(u32::MAX)));
    }
    let Some(home) = home else { return Ok((draft.setup().map_err(named(&label))?, Vec::new())) };

    let own = &home.manifest.config;
    // What of the file gave way to the run's.
    let mut taken = Vec::new();
    if name.is_some() {
        let task = draft.table.get("task");
        let files: Vec<PathBuf> = FILES.iter().filter_map(|key| Some(task?.get(key)?.as_str()?.into())).collect();
        let seen = |path: &Path| files.iter().any(|file| file == path);
        home.manifest.check_those(seen)?;
        let setup = draft.setup().map_err(named(&label))?;
        let asked = &setup.resolved;
        if let Some(key) = other_task(asked, own) {
            let said = format!(
                "warning: measured on another task than the run trained on: task.{key} = {}, the run had {}",
                asked["task"][key], own["task"][key]
            );
            return Ok((setup, vec![said]));
        }
        home.manifest.check_those(|path| !seen(path) && !home.manifest.is_of_weights(path))?;
        let run = home.table()?;
        for key in ["seed", "replica"] {
            draft.table.remove(key);
            draft.table.extend(run.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        if let (Some(task), Some(run)) =
            (draft.table.get_mut("task").and_then(Value::as_table_mut), run.get("task").and_then(Value::as_table))
        {
            for key in SPLIT {
                task.remove(key);
                task.extend(run.get(key).map(|value| (key.to_owned(), value.clone())));
            }
        }
        taken = split_of(asked, own);
        // The settings have the last word, but not about the model.
        draft.set_again()?;
        take_model(&mut draft, &label, from, folder)?;
        as_measured(&mut draft.table, folder);
        beside(&mut draft.table, &label);
    }
    let setup = draft.setup().map_err(named(&label))?;
    let set = split_of(&setup.resolved, own);
    taken.retain(|(key, _)| set.iter().all(|(other, _)| other != key));
    let notes = taken
        .iter()
        .map(|(key, [asked, own])| format!("note: {key} = {own} is the run's own and is taken, not {asked}"));
    let warnings = set.iter().map(|(key, [asked, own])| {
        format!(
            "warning: {key} = {asked} is not the run's, which had {own}: examples that were trained on may stand in the test set"
        )
    });
    Ok((setup, notes.chain(warnings).collect()))
}

/// Where two resolved runs split their examples differently: key and both values.
fn split_of(asked: &serde_json::Value, own: &serde_json::Value) -> Vec<(String, [serde_json::Value; 2])> {
    let task = |config: &serde_json::Value, key: &str| config["task"][key].clone();
    let of_task = SPLIT.map(|key| (format!("task.{key}"), [task(asked, key), task(own, key)]));
    let seed = ("seed".to_owned(), [asked["seed"].clone(), own["seed"].clone()]);
    let part = |config: &serde_json::Value| {
        let part =
            |replica: &serde_json::Value| ["seed", "data_seed", "train_fraction"].map(|key| replica[key].clone());
        config["replica"].as_array().map(|replicas| replicas.iter().map(part).collect::<Vec<_>>())
    };
    let mut all = vec![seed];
    if asked["seed"] == own["seed"] && part(asked) != part(own) {
        all.push(("replica".to_owned(), [asked["replica"].clone(), own["replica"].clone()]));
    }
    all.extend(of_task);
    all.retain(|(_, [asked, own])| asked != own);
    all
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
                let table: Table = toml::from_str(text).map_err(|error| Error::Config(error.to_string()))?;
                let description = table.get("description").and_then(Value::as_str).unwrap_or_default();
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
