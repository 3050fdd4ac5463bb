//! What decides what a replica does: replicas that differ in nothing but their seeds are one arm.

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
