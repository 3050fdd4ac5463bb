//! What decides what a replica does: replicas that differ in nothing but their seeds are one arm.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::intervene::Pulse;
use crate::record::Manifest;
use crate::train::ReplicaConfig;

/// A replica of a run, taken apart.
pub(super) struct Settings {
    /// Everything that decides what it does but seeds.
    pub(super) all: Value,
    /// Seeds of weights, split and batches, and the state that a fork began with.
    pub(super) start: Value,
    /// Seeds of its interventions.
    pub(super) drawn: Value,
}

impl Settings {
    /// Of a replica of a run.
    pub(super) fn of(manifest: &Manifest, own: &ReplicaConfig) -> Self {
        let config = &manifest.config;
        let mut all: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
        for key in ["name", "description", "steps", "seed", "replicas", "replica", "measure", "checkpoint", "intervene"]
        {
            all.remove(key);
        }
        let mut all = Value::Object(all);
        if all["schedule"]["kind"] == "cosine" && all["schedule"]["steps"] == 0 {
            all["schedule"]["steps"] = config["steps"].clone();
        }
        let mut set = |part: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                all[part][key] = value;
            }
        };
        set("optimizer", "learning_rate", own.learning_rate.map(Value::from));
        set("optimizer", "weight_decay", own.weight_decay.map(Value::from));
        set("optimizer", "betas", own.betas.map(|betas| json!(betas)));
        set("task", "train_fraction", own.train_fraction.map(Value::from));
        set("task", "shuffle_labels", own.shuffle_labels.then_some(Value::Bool(true)));
        let pulses: Vec<Pulse> = match &own.intervene {
            Some(own) => own.clone(),
            None => serde_json::from_value(config["intervene"].clone()).unwrap_or_default(),
        };
        if !pulses.is_empty() {
            all["intervene"] = json!(pulses.iter().map(words).collect::<Vec<_>>().join("; "));
        }
        if let Some(from) = &manifest.from {
            all["weights from"] = json!(from);
        }
        let origin = manifest.fork.as_ref();
        if let Some(origin) = origin {
            all["forked at"] = json!(origin.step);
        }
        let origin = origin.map(|origin| json!([origin.hash, origin.replica]));
        let start = json!([own.seed, own.data_seed.or(own.seed), own.batch_seed, origin]);
        let drawn = json!(pulses.iter().map(|pulse| pulse.seed).collect::<Vec<_>>());
        Self { all, start, drawn }
    }
}

fn words(pulse: &Pulse) -> String {
    let to = pulse.end().map_or_else(|| "on".to_owned(), |end| format!("to {end}"));
    let when = if pulse.is_once() { format!("at {}", pulse.from) } else { format!("from {} {to}", pulse.from) };
    format!("{} {when}", pulse.words())
}

/// The name of a seed's arm: what a fork calls it without its seed.
pub(super) fn without_seed(name: &str) -> &str {
    match name.rsplit_once(", seed ") {
        Some((arm, seed)) if !seed.is_empty() && seed.chars().all(|c| c.is_ascii_digit()) => arm,
        _ => name,
    }
}

/// Replicas of a run that differ in nothing but their seeds.
pub(super) struct Arm {
    /// The name of the first, without its seed; empty where replicas have no names.
    pub(super) name: String,
    pub(super) replicas: Vec<usize>,
    /// Everything that decides what it does but seeds.
    settings: Value,
}

impl Arm {
    /// All arms of a run, in the order of their first replicas.
    pub(super) fn all(manifest: &Manifest, names: &[String], configs: &[ReplicaConfig]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (at, own) in configs.iter().enumerate() {
            let settings = Settings::of(manifest, own).all;
            match all.iter_mut().find(|arm| arm.settings == settings) {
                Some(arm) => arm.replicas.push(at),
                None => {
                    let name = names.get(at).map_or("", |name| without_seed(name)).to_owned();
                    all.push(Self { name, replicas: vec![at], settings });
                }
            }
        }
        all
    }

    /// Of each arm what sets it apart from the others: see [`apart`].
    pub(super) fn apart(all: &[Self]) -> Vec<BTreeMap<String, String>> {
        apart(&all.iter().map(|arm| &arm.settings).collect::<Vec<_>>())
    }
}

/// Of each of several settings the keys, dotted, in which not all agree, with `none` where it lacks one.
pub(super) fn apart(settings: &[&Value]) -> Vec<BTreeMap<String, String>> {
    let flat = |settings: &&Value| {
        let mut all = BTreeMap::new();
        flat("", settings, &mut all);
        all
    };
    let all: Vec<BTreeMap<String, String>> = settings.iter().map(flat).collect();
    let differs = |key: &&String| all.iter().any(|other| other.get(*key) != all[0].get(*key));
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).filter(differs).collect();
    let value = |own: &BTreeMap<String, String>, key: &str| own.get(key).map_or("none", String::as_str).to_owned();
    all.iter().map(|own| keys.iter().map(|key| ((*key).clone(), value(own, key))).collect()).collect()
}

/// Numbers and words of settings by their dotted keys.
fn flat(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            flat(&key, value, into);
        }),
        Value::String(text) => drop(into.insert(prefix.to_owned(), text.clone())),
        other => drop(into.insert(prefix.to_owned(), other.to_string())),
    }
}
