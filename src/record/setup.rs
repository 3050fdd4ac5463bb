//! From TOML or JSON to a typed, resolved run.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Table;

use crate::error::{Error, Result};
use crate::task::{KINDS, Modular, Permutation, Repeated, Task, Text, Tokens};
use crate::train::{ResolvedRun, RunConfig};

/// A resolved run, typed and as data.
pub struct Setup {
    /// What a session is made of.
    pub config: ResolvedRun,
    /// The same with every default filled in, as it is kept in `run.json`.
    pub resolved: Value,
}

impl Setup {
    /// Reads a TOML file's text. Errors show the line and a caret.
    ///
    /// # Errors
    /// [`Error::Config`] for unknown keys, wrong types, values out of range; [`Error::Io`] and
    /// [`Error::Format`] for files the task reads.
    pub fn from_toml(text: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Peek {
            task: PeekTask,
        }
        #[derive(serde::Deserialize)]
        struct PeekTask {
            kind: String,
        }
        let peek: Peek = parse(text)?;
        match peek.task.kind.as_str() {
            "modular" => Self::new::<Modular>(parse(text)?),
            "permutation" => Self::new::<Permutation>(parse(text)?),
            "repeated" => Self::new::<Repeated>(parse(text)?),
            "text" => Self::new::<Text>(parse(text)?),
            "tokens" => Self::new::<Tokens>(parse(text)?),
            other => Err(Error::Config(format!("task.kind = \"{other}\" is unknown; there are {}", KINDS.join(", ")))),
        }
    }

    /// Reads what `run.json` keeps.
    ///
    /// # Errors
    /// As [`Setup::from_toml`].
    pub fn from_json(resolved: &Value) -> Result<Self> {
        let table: Table = serde_json::from_value(resolved.clone())
            .map_err(|error| Error::Config(format!("the configuration in run.json is damaged: {error}")))?;
        Self::from_toml(&to_text(&table)?)
    }

    fn new<T>(config: RunConfig<T>) -> Result<Self>
    where
        T: Task + Serialize + DeserializeOwned + 'static,
    {
        let config = config.resolve()?;
        let resolved = serde_json::to_value(&*config).map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self { config: config.boxed(), resolved })
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| Error::Config(error.to_string().trim_end().to_owned()))
}

fn to_text(table: &Table) -> Result<String> {
    toml::to_string(table).map_err(|error| Error::Config(error.to_string()))
}

/// The text of a configuration after `key=value` settings. Keys are TOML's dotted keys; a value that is
/// no TOML value is taken as a string.
///
/// # Errors
/// [`Error::Config`] naming the setting that cannot be read.
pub fn apply_sets(text: &str, sets: &[String]) -> Result<String> {
    if sets.is_empty() {
        return Ok(text.to_owned());
    }
    let mut table: Table = parse(text)?;
    for set in sets {
        let fail = |what: &str| {
            Error::Config(format!("setting {set}: {what}; write key=value, as in optimizer.weight_decay=0.3"))
        };
        let (key, value) = set.split_once('=').ok_or_else(|| fail("has no ="))?;
        let (key, value) = (quote_metric(key.trim()), value.trim());
        let quoted = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        let setting: Table = toml::from_str(&format!("{key} = {value}"))
            .or_else(|_| toml::from_str(&format!("{key} = {quoted}")))
            .map_err(|_| fail("cannot be read"))?;
        merge(&mut table, setting);
    }
    to_text(&table)
}

/// Metric names hold dots themselves: `measure.every.loss.test` means `measure.every."loss.test"`.
fn quote_metric(key: &str) -> String {
    match key.strip_prefix("measure.every.") {
        Some(name) if !name.starts_with(['"', '\'']) => format!("measure.every.\"{name}\""),
        _ => key.to_owned(),
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "steps = 10\n[task]\nkind = \"modular\"\np = 13\n[model]\nd_model = 16\n";

    #[test]
    fn the_run_that_the_readme_shows_is_one() {
        let readme = include_str!("../../README.md");
        let text = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let config = Setup::from_toml(text).unwrap().config;
        assert_eq!((config.steps, config.model.d_mlp, config.measure.every["test"]), (20_000, 512, 20));
        let all: Vec<_> = crate::instrument::registry().into_iter().map(|i| i as &dyn crate::Instrument).collect();
        crate::instrument::check_names(&config.measure, &all).unwrap();
    }

    #[test]
    fn a_run_survives_the_way_to_json_and_back() {
        let setup = Setup::from_toml(GOOD).unwrap();
        assert_eq!(setup.config.model.d_vocab, 14);
        let again = Setup::from_json(&setup.resolved).unwrap();
        assert_eq!(setup.resolved, again.resolved);
    }

    #[test]
    fn mistakes_are_shown_with_line_and_caret() {
        for (text, expected) in [
            ("steps = 10\n[task]\nkind = \"modular\"\np = 13\npp = 3\n", "pp"),
            ("steps = 10\n[task]\nkind = \"modular\"\np = \"many\"\n", "p ="),
            ("steps = -1\n[task]\nkind = \"modular\"\np = 13\n", "steps"),
        ] {
            let error = Setup::from_toml(text).err().unwrap().to_string();
            assert!(error.contains('^') && error.contains("line") && error.contains(expected), "{error}");
        }
        let error = Setup::from_toml("steps = 1\n[task]\nkind = \"chess\"\n").err().unwrap().to_string();
        assert!(error.contains("chess") && error.contains("modular"), "{error}");
    }

    #[test]
    fn settings_reach_their_place() {
        let sets =
            ["optimizer.weight_decay=0.3", "measure.every.loss.test=7", "name=two words", "task.operation=multiply"];
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let setup = Setup::from_toml(&apply_sets(GOOD, &sets).unwrap()).unwrap();
        assert_eq!(setup.config.optimizer.weight_decay, 0.3);
        assert_eq!(setup.config.measure.every["loss.test"], 7);
        assert_eq!(setup.config.name, "two words");
        assert_eq!(setup.resolved["task"]["operation"], "multiply");
        assert!(apply_sets(GOOD, &["nonsense".to_owned()]).is_err());
    }
}
