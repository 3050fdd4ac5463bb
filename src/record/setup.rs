//! From TOML or JSON to a typed, resolved run.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Table;

use crate::error::{Error, Result};
use crate::task::{KINDS, Modular, Permutation, Repeated, Task, Text, Tokens, TokensConfig};
use crate::train::{ResolvedRun, RunConfig};

/// A resolved run, typed and as data.
pub struct Setup {
    /// What a session is made of.
    pub config: ResolvedRun,
    /// The same with every default filled in, as it is kept in `run.json`.
    pub resolved: Value,
}

/// A configuration on its way to a [`Setup`]: what counts, and the texts that people wrote, which messages speak of.
pub struct Draft<'a> {
    /// All keys, with settings and files' whole paths merged in.
    pub table: Table,
    /// The text of the file.
    pub text: &'a str,
    /// Settings, as `key=value`.
    pub sets: &'a [String],
}

impl<'a> Draft<'a> {
    /// A text with settings. Keys of settings are TOML's dotted keys; a value that is no TOML value is taken as a string.
    ///
    /// # Errors
    /// [`Error::Config`] with the line of the text, or naming the setting that cannot be read.
    pub fn new(text: &'a str, sets: &'a [String]) -> Result<Self> {
        let mut draft = Self { table: parse(text)?, text, sets };
        draft.set_again()?;
        Ok(draft)
    }

    /// Applies the settings once more, behind other changes to the table.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting that cannot be read.
    pub fn set_again(&mut self) -> Result<()> {
        for set in self.sets {
            let fail = |what: &str| {
                Error::Config(format!("setting {set}: {what}; write key=value, as in optimizer.weight_decay=0.3"))
            };
            let (key, value) = set.split_once('=').ok_or_else(|| fail("has no ="))?;
            let (key, value) = (quote_metric(key.trim()), value.trim());
            let quoted = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
            let setting: Table = toml::from_str(&format!("{key} = {value}"))
                .or_else(|_| toml::from_str(&format!("{key} = {quoted}")))
                .map_err(|_| fail("cannot be read"))?;
            merge(&mut self.table, setting);
        }
        Ok(())
    }

    /// The run. Errors show the line and a caret where the file by itself has the fault, and else the setting or the key.
    ///
    /// # Errors
    /// [`Error::Config`] for unknown keys, wrong types, values out of range; [`Error::Io`] and
    /// [`Error::Format`] for files the task reads.
    pub fn setup(&self) -> Result<Setup> {
        #[derive(serde::Deserialize)]
        struct Peek {
            task: PeekTask,
        }
        #[derive(serde::Deserialize)]
        struct PeekTask {
            kind: String,
        }
        let peek: Peek = self.typed()?;
        match peek.task.kind.as_str() {
            "modular" => Setup::new::<Modular>(self.typed()?),
            "permutation" => Setup::new::<Permutation>(self.typed()?),
            "repeated" => Setup::new::<Repeated>(self.typed()?),
            "text" => Setup::new::<Text>(self.typed()?),
            "tokens" => {
                let config: RunConfig<TokensConfig> = self.typed()?;
                let tokens = Tokens::read(config.task.clone())?;
                Setup::new(config.with_task(|_| tokens))
            }
            other => Err(Error::Config(format!("task.kind = \"{other}\" is unknown; there are {}", KINDS.join(", ")))),
        }
    }

    /// One typed part of the table, the whole or what has a key.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Draft::setup`].
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T> {
        self.table.clone().try_into().map_err(|error: toml::de::Error| {
            if let Err(own) = toml::from_str::<T>(self.text)
                && own.message() == error.message()
            {
                return Error::Config(with_hint(own.to_string().trim_end(), None));
            }
            // The last line of such an error names the key.
            let text = error.to_string();
            let key = text.lines().last().and_then(|line| line.strip_prefix("in `")?.strip_suffix('`'));
            let of = |set: &&String| {
                let name = set.split('=').next().unwrap_or_default().trim().replace(['"', '\''], "");
                key.is_some_and(|key| {
                    name == key
                        || name.strip_prefix(key).is_some_and(|rest| {
                            rest.strip_prefix('.').is_some_and(|field| error.message().contains(&format!("`{field}`")))
                        })
                }) || error.message().contains(&format!("unknown field `{name}`"))
            };
            match self.sets.iter().rev().find(of) {
                Some(set) => Error::Config(with_hint(&format!("setting {set}: {}", error.message()), Some(set))),
                None => Error::Config(with_hint(&text.trim_end().replace('\n', ", "), None)),
            }
        })
    }
}

/// Says what to write where a list is needed and one word stands.
fn with_hint(message: &str, set: Option<&String>) -> String {
    let word = message.rsplit_once("invalid type: string \"").and_then(|(_, rest)| rest.split_once("\", expected "));
    match word {
        Some((word, expected)) if expected.starts_with("a sequence") || expected.starts_with("an array") => {
            let list = match set.and_then(|set| set.split_once('=')) {
                Some((key, _)) => format!("'{}=[\"{word}\"]'", key.trim()),
                None => format!("[\"{word}\"]"),
            };
            format!("{message}. Write a list: {list}")
        }
        _ => message.to_owned(),
    }
}

impl Setup {
    /// Reads a TOML file's text. Errors show the line and a caret.
    ///
    /// # Errors
    /// As [`Draft::setup`].
    pub fn from_toml(text: &str) -> Result<Self> {
        Draft::new(text, &[])?.setup()
    }

    /// Reads what `run.json` keeps.
    ///
    /// # Errors
    /// As [`Draft::setup`].
    pub fn from_json(resolved: &Value) -> Result<Self> {
        Draft { table: table_of(resolved)?, text: "", sets: &[] }.setup()
    }

    fn new<T: Task + Serialize + 'static>(config: RunConfig<T>) -> Result<Self> {
        let config = config.resolve()?;
        let resolved = serde_json::to_value(&*config).map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self { config: config.boxed(), resolved })
    }
}

/// What `run.json` keeps of a configuration, as TOML has it.
///
/// # Errors
/// [`Error::Config`] where it was damaged.
pub fn table_of(resolved: &Value) -> Result<Table> {
    serde_json::from_value(resolved.clone())
        .map_err(|error| Error::Config(format!("the configuration in run.json is damaged: {error}")))
}

/// Reads a whole TOML file's text. Errors show the line and a caret.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let large = error.message().contains("too large");
        let hint = if large { format!("\nA seed above {} stands in quotes", i64::MAX) } else { String::new() };
        Error::Config(with_hint(error.to_string().trim_end(), None) + &hint)
    })
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
    fn errors_speak_of_what_people_wrote() {
        let error = |text: &str, sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let draft = Draft::new(text, &sets);
            draft.and_then(|draft| draft.setup().map(|_| ())).unwrap_err().to_string()
        };
        // The fourth line of the file, whatever else was set; and the key alone where the file is not at fault.
        let broken = format!("{GOOD}act_fn = \"tanh\"\n");
        for sets in [&[][..], &["steps=20"], &["steps=20", "model.d_mlp=8", "optimizer.kind=sgd"]] {
            let error = error(&broken, sets);
            assert!(
                error.contains("line 7") && error.contains("act_fn = \"tanh\"") && error.contains("relu"),
                "{error}"
            );
        }
        for (set, words) in [
            ("model.act_fn=tanh", &["setting model.act_fn=tanh", "relu"][..]),
            ("optimizer.lr=3", &["setting optimizer.lr=3", "learning_rate"]),
            ("model.ln_eps=1e-6", &["setting model.ln_eps=1e-6", "`eps`"]),
            ("foo=3", &["setting foo=3", "steps"]),
            ("measure.off=ablation", &["setting measure.off=ablation", "'measure.off=[\"ablation\"]'"]),
            ("measure.only=loss.test", &["'measure.only=[\"loss.test\"]'"]),
            ("optimizer.no_decay=*.b_*", &["'optimizer.no_decay=[\"*.b_*\"]'"]),
            ("measure.every.loss.test=often", &["setting measure.every.loss.test=often"]),
        ] {
            let error = error(GOOD, &["steps=20", set]);
            assert!(!error.contains("line "), "{error}");
            for word in words {
                assert!(error.contains(word), "{set} should speak of {word}: {error}");
            }
        }
        let list = error(&format!("{GOOD}[measure]\noff = \"ablation\"\n"), &[]);
        assert!(list.contains("line 8") && list.contains("Write a list: [\"ablation\"]"), "{list}");
    }

    #[test]
    fn a_run_survives_the_way_to_json_and_back() {
        let setup = Setup::from_toml(GOOD).unwrap();
        assert_eq!(setup.config.model.d_vocab, 14);
        let again = Setup::from_json(&setup.resolved).unwrap();
        assert_eq!(setup.resolved, again.resolved);
    }

    #[test]
    fn a_seed_may_be_any_number_of_64_bits() {
        let sets = ["seed=18446744073709551615".to_owned(), "replicas=2".to_owned()];
        let setup = Draft::new(GOOD, &sets).unwrap().setup().unwrap();
        assert_eq!((setup.config.seed, setup.config.seed_of(0), setup.config.seed_of(1)), (u64::MAX, u64::MAX, 0));
        let again = Setup::from_json(&setup.resolved).unwrap();
        assert!(again.resolved == setup.resolved && again.config.seed_of(0) == u64::MAX);
        let own = format!("{GOOD}[[replica]]\nseed = \"9223372036854775808\"\ndata_seed = 9223372036854775807\n");
        let own = Setup::from_toml(&own).unwrap();
        assert_eq!((own.config.seed_of(0), own.config.data()[0].seed), (1 << 63, (1 << 63) - 1));
        assert_eq!(Setup::from_json(&own.resolved).unwrap().config.replica, own.config.replica);
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
        let setup = Draft::new(GOOD, &sets).unwrap().setup().unwrap();
        assert_eq!(setup.config.optimizer.weight_decay, 0.3);
        assert_eq!(setup.config.measure.every["loss.test"], 7);
        assert_eq!(setup.config.name, "two words");
        assert_eq!(setup.resolved["task"]["operation"], "multiply");
        assert!(Draft::new(GOOD, &["nonsense".to_owned()]).is_err());
    }
}
