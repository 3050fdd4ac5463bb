//! What a run is made of: the typed form of a preset or TOML file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check_between};
use crate::instrument::MeasureConfig;
use crate::intervene::Pulse;
use crate::model::{ModelConfig, WeightTable, matches};
use crate::task::{ReplicaData, Task};

/// Replicas that a run holds at most.
pub(crate) const MOST_REPLICAS: u32 = 4096;

/// A whole run. `T` is the task, one of `crate::task`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RunConfig<T> {
    /// A name for people. Default empty.
    #[serde(default)]
    pub name: String,
    /// What the run shows, for people. Default empty.
    #[serde(default)]
    pub description: String,
    /// Optimizer updates.
    pub steps: u64,
    /// Seed of replica 0; replica i has seed + i unless `[[replica]]` says otherwise. TOML's numbers end at 2^63 - 1: a
    /// larger seed stands there in quotes. Default 0.
    #[serde(default, with = "seed")]
    pub seed: u64,
    /// Copies of the model that train side by side. Default: as many as there are `[[replica]]`, or 1.
    #[serde(default, deserialize_with = "at_least_one")]
    pub replicas: u32,
    /// Where examples come from.
    pub task: T,
    /// The architecture.
    #[serde(default)]
    pub model: ModelConfig,
    /// How weights move.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// What one step sees.
    #[serde(default)]
    pub batch: BatchConfig,
    /// Numbers that large matrix products of training are made of. Default f32.
    #[serde(default)]
    pub precision: Precision,
    /// With precision f16: what the gradient of the loss is multiplied by at first, a power of two. Default 65536.
    #[serde(default = "loss_scale")]
    pub loss_scale: u32,
    /// What is measured, and how often.
    #[serde(default)]
    pub measure: MeasureConfig,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// What is changed while replicas train that have no list of their own. Default nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervene: Vec<Pulse>,
    /// What differs between replicas, one table for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica: Vec<ReplicaConfig>,
}

/// Seeds in files: any u64. TOML and its readers have numbers up to 2^63 - 1; larger ones are digits in quotes.
mod seed {
    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    struct Seed;

    impl Visitor<'_> for Seed {
        type Value = u64;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(out, "a whole number from 0 to {}, in quotes above {}", u64::MAX, i64::MAX)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
            value.parse().map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        from.deserialize_any(Seed)
    }

    pub(super) fn serialize<S: Serializer>(seed: &u64, into: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(*seed) {
            Ok(seed) => into.serialize_i64(seed),
            Err(_) => into.serialize_str(&seed.to_string()),
        }
    }

    /// The same where a replica may have one of its own.
    pub(super) mod own {
        use serde::{Deserializer, Serializer};

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
            super::deserialize(from).map(Some)
        }

        pub(in super::super) fn serialize<S: Serializer>(seed: &Option<u64>, into: S) -> Result<S::Ok, S::Error> {
            match seed {
                Some(seed) => super::serialize(seed, into),
                None => into.serialize_none(),
            }
        }
    }
}

/// A number of replicas that a file gives: 0 stands for one that it does not give.
fn at_least_one<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(serde::de::Error::custom(
            "replicas = 0: at least one is trained. Leave it out for as many as there are [[replica]] tables, or 1",
        )),
        count => Ok(count),
    }
}

/// Numbers that large matrix products of the training pass are made of. Weights, activations, gradients and sums are f32
/// in any case, and so is whatever instruments compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Precision {
    /// f32 throughout.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// f16 in the forward pass, f32 in the backward pass.
    #[serde(rename = "f16-forward")]
    F16Forward,
    /// f16 in both. Gradients are small: the loss's is multiplied by `loss_scale` before them and what comes out divided
    /// by it, both exactly. A step whose gradients are not finite leaves weights and moments alone, and halves the scale.
    #[serde(rename = "f16")]
    F16,
}

/// Of a mean over some thousand rows, gradients of single logits are 1e-4 and less; so they come to order 1. One that is
/// too large costs a step for each halving.
fn loss_scale() -> u32 {
    1 << 16
}

/// Which optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    Adamw = 0,
    /// Adam with decay added to the gradient.
    Adam = 1,
    /// SGD with momentum, decay added to the gradient.
    Sgd = 2,
}

/// How weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// Default adamw.
    pub kind: OptimizerKind,
    /// Peak learning rate. Default 0.001.
    pub learning_rate: f64,
    /// Default 1.
    pub weight_decay: f64,
    /// Decay of Adam's moments. Default [0.9, 0.98].
    pub betas: [f64; 2],
    /// Added to the root of Adam's second moment. Default 1e-8.
    pub eps: f64,
    /// Of SGD. Default 0.9.
    pub momentum: f64,
    /// Largest norm of the whole gradient; 0 for none. Default 0.
    pub clip: f64,
    /// Tensors without decay, by name; `*` stands for anything. Default none.
    pub no_decay: Vec<String>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-3,
            weight_decay: 1.0,
            betas: [0.9, 0.98],
            eps: 1e-8,
            momentum: 0.9,
            clip: 0.0,
            no_decay: Vec::new(),
        }
    }
}

/// What the learning rate does after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls along half a cosine.
    Cosine,
}

/// How the learning rate changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ScheduleConfig {
    /// Default constant.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up: step s has the share min(s / warmup, 1), so step 0 moves nothing.
    /// Default 0, no warm-up.
    pub warmup: u64,
    /// Step at which a cosine has come down; 0 for the last step of the run. Default 0.
    pub steps: u64,
    /// Share of the peak a cosine ends at. Default 0.
    pub floor: f64,
}

impl ScheduleConfig {
    /// Share of the peak learning rate at a step of a run of so many.
    pub fn share(&self, step: u64, steps: u64) -> f64 {
        let (step, warmup) = (step as f64, self.warmup as f64);
        let warm = if self.warmup > 0 { (step / warmup).min(1.0) } else { 1.0 };
        let end = if self.steps == 0 { steps } else { self.steps } as f64;
        let past = ((step - warmup) / (end - warmup).max(1.0)).clamp(0.0, 1.0);
        match self.kind {
            ScheduleKind::Constant => warm,
            ScheduleKind::Cosine => {
                let half = 0.5 * (1.0 + (std::f64::consts::PI * past).cos());
                warm * (self.floor + (1.0 - self.floor) * half)
            }
        }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Constant, warmup: 0, steps: 0, floor: 0.0 }
    }
}

/// How many examples a step sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "batch.size must be a number of examples or \"full\"")]
pub enum BatchSize {
    /// This many, drawn with replacement on the device.
    Count(u32),
    /// `"full"`: the whole training set.
    Word(Full),
}

/// The word "full".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Full {
    /// The whole training set.
    #[serde(rename = "full")]
    Full,
}

/// What one step sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BatchConfig {
    /// `"full"` or a number of examples. Default "full".
    pub size: BatchSize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { size: BatchSize::Word(Full::Full) }
    }
}

impl BatchConfig {
    /// The number of examples, `None` for all.
    pub fn count(&self) -> Option<usize> {
        match self.size {
            BatchSize::Count(count) => Some(count as usize),
            BatchSize::Word(Full::Full) => None,
        }
    }
}

/// When the state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CheckpointConfig {
    /// Steps between two checkpoints. Default 1000.
    pub every: u64,
    /// How many of the latest are kept; 0 for all. Default 2.
    pub keep: u32,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 1000, keep: 2 }
    }
}

/// What a replica is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmRole {
    /// What claims are about.
    Main,
    /// Changed such that claims should fail in it.
    Control,
    /// Changed in something that must not matter: claims should hold in it as in the main one.
    Sham,
}

/// What one replica has for itself; everything left out is the run's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReplicaConfig {
    /// A name for tables and pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is there for. Default: `"control"` where `control_of` is set; else the first of its group is the main
    /// one, and others are more of the same, such as other seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<ArmRole>,
    /// Name of the replica that this one is a control of: it is expected not to do what that one does. Default for a
    /// control: the main one of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_of: Option<String>,
    /// Name of the experiment that it belongs to, where a run holds several; claims are judged in each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Seed of the weights, and of split and batches unless `data_seed` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none", with = "seed::own")]
    pub seed: Option<u64>,
    /// Seed of the split and of the batches.
    #[serde(skip_serializing_if = "Option::is_none", with = "seed::own")]
    pub data_seed: Option<u64>,
    /// Seed of the batches alone, where they are drawn: which examples each step sees. Default: that of the split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_seed: Option<u64>,
    /// Peak learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Weight decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Decay of Adam's moments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Share of the examples that is trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_fraction: Option<f64>,
    /// Whether the targets of the train set are dealt out anew among its examples: nothing to understand is
    /// left. Test targets stay true. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shuffle_labels: bool,
    /// What is changed while it trains, in the place of the run's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervene: Option<Vec<Pulse>>,
}

impl ReplicaConfig {
    /// Whether it was declared a control.
    pub fn is_control(&self) -> bool {
        self.role == Some(ArmRole::Control) || self.control_of.is_some()
    }
}

impl<T> RunConfig<T> {
    /// The same run with another task.
    pub(crate) fn with_task<U>(self, change: impl FnOnce(T) -> U) -> RunConfig<U> {
        RunConfig {
            name: self.name,
            description: self.description,
            steps: self.steps,
            seed: self.seed,
            replicas: self.replicas,
            task: change(self.task),
            model: self.model,
            optimizer: self.optimizer,
            schedule: self.schedule,
            batch: self.batch,
            precision: self.precision,
            loss_scale: self.loss_scale,
            measure: self.measure,
            checkpoint: self.checkpoint,
            intervene: self.intervene,
            replica: self.replica,
        }
    }
}

impl<T: Task> RunConfig<T> {
    /// A run of `steps` on a task, everything else at its default.
    pub fn new(steps: u64, task: T) -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            steps,
            seed: 0,
            replicas: 0,
            task,
            model: ModelConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            batch: BatchConfig::default(),
            precision: Precision::default(),
            loss_scale: loss_scale(),
            measure: MeasureConfig::default(),
            checkpoint: CheckpointConfig::default(),
            intervene: Vec::new(),
            replica: Vec::new(),
        }
    }

    /// Fills in what follows from other fields (the model's sizes from the task, one `[[replica]]` for
    /// each replica) and checks every number.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what it must be.
    pub fn resolve(mut self) -> Result<ResolvedRun<T>> {
        let fail = |what: String| Err(Error::Config(what));
        let shape = self.task.shape();
        for (name, value, least) in [
            ("d_vocab", &mut self.model.d_vocab, shape.d_vocab),
            ("d_vocab_out", &mut self.model.d_vocab_out, shape.classes),
            ("n_ctx", &mut self.model.n_ctx, shape.seq),
        ] {
            if *value == 0 {
                // Tied embeddings give as many classes as tokens.
                *value = if name == "d_vocab_out" && self.model.tied_embeddings { shape.d_vocab } else { least };
            } else if *value < least {
                return fail(format!("model.{name} = {value} is too small: the task needs {least}"));
            }
        }
        self.model = self.model.resolve()?;

        // Steps are f32 in the schedule and must stay exact; the last u32 is the test set's.
        check_between("steps", self.steps, 1..=(1 << 24) - 1)?;
        if self.replicas == 0 {
            self.replicas = self.replica.len().max(1) as u32;
        }
        check_between("replicas", self.replicas, 1..=MOST_REPLICAS)?;
        if self.replica.is_empty() {
            self.replica = vec![ReplicaConfig::default(); self.replicas as usize];
        }
        if self.replica.len() != self.replicas as usize {
            return fail(format!(
                "replicas = {}, but there are {} [[replica]] tables; leave one of the two out",
                self.replicas,
                self.replica.len()
            ));
        }
        for (at, replica) in self.replica.iter_mut().enumerate() {
            replica.seed.get_or_insert(self.seed.wrapping_add(at as u64));
        }
        let names: Vec<&String> = self.replica.iter().filter_map(|replica| replica.name.as_ref()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return fail(format!("two [[replica]] tables are named {}; names must differ", twice.1));
        }
        self.check_roles()?;
        self.check_pulses()?;
        if self.batch.count().is_some_and(|size| size == 0 || size > 1 << 24) {
            return fail("batch.size must be \"full\" or a number between 1 and 16777216".to_owned());
        }
        if !self.loss_scale.is_power_of_two() || self.loss_scale > 1 << 24 {
            return fail(format!("loss_scale = {} must be a power of two of at most 16777216", self.loss_scale));
        }
        if self.checkpoint.every == 0 {
            return fail("checkpoint.every must be 1 at least".to_owned());
        }
        if let Some((name, _)) = self.measure.every.iter().find(|(_, every)| **every == 0) {
            return fail(format!(
                "measure.every.{name} must be 1 at least; put {name} into measure.off to leave it out"
            ));
        }
        for replica in 0..self.replicas as usize {
            self.check_optimizer(&self.optimizer_of(replica))?;
        }
        let names: Vec<String> = WeightTable::new(&self.model).specs().iter().map(|s| s.name.clone()).collect();
        if let Some(pattern) = self.optimizer.no_decay.iter().find(|p| !names.iter().any(|n| matches(p, n))) {
            return fail(format!(
                "optimizer.no_decay: no tensor is called {pattern}; this model has {}",
                names.join(", ")
            ));
        }
        Ok(ResolvedRun(self))
    }

    fn check_roles(&self) -> Result<()> {
        for (at, arm) in self.replica.iter().enumerate() {
            let Some(of) = &arm.control_of else { continue };
            let called = arm.name.clone().unwrap_or_else(|| format!("replica {at}"));
            let fail = |what: &str| Err(Error::Config(format!("[[replica]] {called}: control_of = \"{of}\" {what}")));
            match self.replica.iter().find(|other| other.name.as_ref() == Some(of)) {
                None => return fail("names no [[replica]]; give that one this name"),
                Some(other) if other.is_control() => return fail("names a control; name what both are controls of"),
                Some(_) if arm.role.is_some_and(|role| role != ArmRole::Control) => {
                    return fail("makes it a control; leave role out, or set role = \"control\"");
                }
                Some(other) if arm.group.is_some() && arm.group != other.group => {
                    return fail("is of another group; leave group out");
                }
                Some(_) => {}
            }
        }
        let mains: Vec<&Option<String>> =
            self.replica.iter().filter(|arm| arm.role == Some(ArmRole::Main)).map(|arm| &arm.group).collect();
        if mains.iter().enumerate().any(|(at, group)| mains[..at].contains(group)) {
            return Err(Error::Config(
                "two [[replica]] tables of one group have role = \"main\"; leave it out in all but one".to_owned(),
            ));
        }
        Ok(())
    }

    fn check_pulses(&self) -> Result<()> {
        let classes = self.task.shape().classes;
        let check = |whose: &str, pulses: &[Pulse], seed: Option<u64>| {
            Pulse::check_all(pulses, &self.model, seed.unwrap_or(self.seed), self.steps, classes).map_err(|error| {
                match error {
                    Error::Config(what) => Error::Config(format!("{whose}{what}")),
                    other => other,
                }
            })
        };
        check("", &self.intervene, None)?;
        self.replica.iter().enumerate().try_for_each(|(at, arm)| {
            let called = arm.name.clone().unwrap_or_else(|| at.to_string());
            match &arm.intervene {
                Some(own) => check(&format!("[[replica]] {called}: "), own, arm.seed),
                None => check("", &self.intervene, arm.seed),
            }
        })
    }

    fn check_optimizer(&self, optimizer: &OptimizerConfig) -> Result<()> {
        let fine = |value: f64, low: f64, high: f64| value >= low && value < high;
        // Beyond this, f32 ends.
        const LARGEST: f64 = 1e30;
        // Adam divides by the root of a moment that may be 0.
        let least = if optimizer.kind == OptimizerKind::Sgd { 0.0 } else { 1e-30 };
        for (name, value, low, high) in [
            ("learning_rate", optimizer.learning_rate, 0.0, LARGEST),
            ("weight_decay", optimizer.weight_decay, 0.0, LARGEST),
            ("betas[0]", optimizer.betas[0], 0.0, 1.0),
            ("betas[1]", optimizer.betas[1], 0.0, 1.0),
            ("momentum", optimizer.momentum, 0.0, 1.0),
            ("clip", optimizer.clip, 0.0, LARGEST),
            ("eps", optimizer.eps, least, LARGEST),
        ] {
            if !fine(value, low, high) {
                let until = if high == 1.0 { "below 1" } else { "a finite number below 1e30" };
                return Err(Error::Config(format!("optimizer.{name} = {value} must be at least {low} and {until}")));
            }
        }
        check_between("schedule.floor", self.schedule.floor, 0.0..=1.0)
    }

    fn optimizer_of(&self, replica: usize) -> OptimizerConfig {
        let own = &self.replica[replica];
        OptimizerConfig {
            learning_rate: own.learning_rate.unwrap_or(self.optimizer.learning_rate),
            weight_decay: own.weight_decay.unwrap_or(self.optimizer.weight_decay),
            betas: own.betas.unwrap_or(self.optimizer.betas),
            ..self.optimizer.clone()
        }
    }
}

/// A run of which every field is filled in and every number was checked: what [`RunConfig::resolve`] makes and a session
/// takes. It is read like the configuration it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRun<T = Box<dyn Task>>(RunConfig<T>);

impl<T> std::ops::Deref for ResolvedRun<T> {
    type Target = RunConfig<T>;

    fn deref(&self) -> &RunConfig<T> {
        &self.0
    }
}

impl<T: Task> ResolvedRun<T> {
    /// The configuration, to be changed and resolved again.
    pub fn into_config(self) -> RunConfig<T> {
        self.0
    }

    /// The same with a task of a type that is not told.
    pub fn boxed(self) -> ResolvedRun
    where
        T: 'static,
    {
        ResolvedRun(self.0.with_task(|task| Box::new(task) as Box<dyn Task>))
    }

    /// The same with these cadences, by metric, where `measure.every` sets none: those that a session of this run found
    /// out before ([`MeasureConfig::cadences`]). What is not named is measured as often as its card proposes.
    #[must_use]
    pub fn with_cadences(mut self, cadences: BTreeMap<String, u64>) -> Self {
        self.0.measure.cadences = Some(cadences);
        self
    }

    /// The optimizer of one replica.
    pub fn optimizer_of(&self, replica: usize) -> OptimizerConfig {
        self.0.optimizer_of(replica)
    }

    /// Seed of one replica's weights.
    pub fn seed_of(&self, replica: usize) -> u64 {
        self.replica[replica].seed.unwrap_or_else(|| self.seed.wrapping_add(replica as u64))
    }

    /// What the task needs to know of each replica.
    pub fn data(&self) -> Vec<ReplicaData> {
        (0..self.replicas as usize)
            .map(|at| ReplicaData {
                seed: self.replica[at].data_seed.unwrap_or_else(|| self.seed_of(at)),
                train_fraction: self.replica[at].train_fraction,
                shuffle_labels: self.replica[at].shuffle_labels,
            })
            .collect()
    }

    /// What is changed while one replica trains.
    pub fn pulses_of(&self, replica: usize) -> &[Pulse] {
        self.replica[replica].intervene.as_deref().unwrap_or(&self.intervene)
    }

    /// Seed of the batches that are drawn for each replica.
    pub fn batch_seeds(&self) -> Vec<u64> {
        self.data().iter().zip(&self.replica).map(|(data, own)| own.batch_seed.unwrap_or(data.seed)).collect()
    }

    /// For each tensor of the table, whether it decays.
    pub fn decays(&self, table: &WeightTable) -> Vec<bool> {
        table.specs().iter().map(|spec| !self.optimizer.no_decay.iter().any(|p| matches(p, &spec.name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Repeated;

    fn base() -> RunConfig<Repeated> {
        let task = serde_json::from_str(r#"{"kind": "repeated"}"#).unwrap();
        RunConfig { seed: 5, batch: BatchConfig { size: BatchSize::Count(4) }, ..RunConfig::new(10, task) }
    }

    #[test]
    fn replicas_count_their_seeds_up() {
        let config = RunConfig { replicas: 3, ..base() }.resolve().unwrap();
        assert_eq!((0..3).map(|r| config.seed_of(r)).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(config.model.d_vocab, 64);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let with = |change: &dyn Fn(&mut RunConfig<Repeated>)| {
            let mut config = base();
            change(&mut config);
            config.resolve().unwrap_err().to_string()
        };
        for (error, name) in [
            (with(&|c| c.steps = 0), "steps"),
            (with(&|c| c.optimizer.learning_rate = -1.0), "learning_rate"),
            (with(&|c| c.optimizer.betas = [0.9, 1.0]), "betas"),
            (with(&|c| c.optimizer.no_decay = vec!["nothing".to_owned()]), "no_decay"),
            (with(&|c| c.model.n_ctx = 5), "n_ctx"),
            (with(&|c| c.checkpoint.every = 0), "checkpoint"),
            (with(&|c| c.loss_scale = 1000), "loss_scale"),
            (
                with(&|c| {
                    c.measure.every.insert("loss.test".to_owned(), 0);
                }),
                "loss.test",
            ),
            (
                with(&|c| {
                    let named = ReplicaConfig { name: Some("sham".to_owned()), ..Default::default() };
                    c.replica = vec![named.clone(), named];
                }),
                "sham",
            ),
            (
                with(&|c| {
                    c.replica = vec![ReplicaConfig { control_of: Some("nobody".to_owned()), ..Default::default() }];
                }),
                "nobody",
            ),
            (with(&|c| c.replica = vec![ReplicaConfig { role: Some(ArmRole::Main), ..Default::default() }; 2]), "main"),
            (
                with(&|c| {
                    c.replicas = 2;
                    c.replica = vec![ReplicaConfig::default()];
                }),
                "[[replica]]",
            ),
        ] {
            assert!(error.contains(name), "{error}");
        }
    }
}
