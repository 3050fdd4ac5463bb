//! A fork: a run that goes on from a step of another, in several arms.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::directory::{Manifest, RunDir, RunKind};
use super::setup::{Draft, Setup, parse, table_of};
use crate::error::{Error, Result};
use crate::intervene::Pulse;
use crate::train::{ArmRole, MOST_REPLICAS, ReplicaConfig, ScheduleKind, Snapshot};

/// Where a fork left the run that it goes on from: `fork` in its `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// The run's folder.
    pub run: PathBuf,
    /// Its hash, as it was then.
    pub hash: String,
    /// Which of its replicas goes on, or the first of those that do.
    pub replica: u32,
    /// Of each replica of the fork which one it goes on from, where that is not the same for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<u32>,
    /// From which step.
    pub step: u64,
}

impl Origin {
    /// The replica of the run that a replica of the fork goes on from.
    pub fn of(&self, replica: usize) -> u32 {
        self.each.get(replica).copied().unwrap_or(self.replica)
    }

    /// `replica 0 of /runs/grok, left at step 2000`.
    pub fn words(&self) -> String {
        let mut own = if self.each.is_empty() { vec![self.replica] } else { self.each.clone() };
        own.sort_unstable();
        own.dedup();
        let own: Vec<String> = own.iter().map(u32::to_string).collect();
        let replicas = if own.len() == 1 { "replica" } else { "replicas" };
        format!("{replicas} {} of {}, left at step {}", own.join(", "), self.run.display(), self.step)
    }
}

/// A run that something forks off: the trunk. Of its replicas one goes on, or for [`Trunk::branch`] several.
pub struct Trunk {
    /// Its `run.json`.
    pub manifest: Manifest,
    /// The run as it was configured.
    pub setup: Setup,
    /// Where it is left.
    pub origin: Origin,
}

/// What the arms file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arms {
    #[serde(default)]
    arm: Vec<ReplicaConfig>,
}

/// Seeds of a fork are the trunk's plus so much for each: replicas of runs have seeds that count up by 1.
const APART: u64 = 1 << 32;

fn moved(seed: u64, by: u64) -> u64 {
    seed.wrapping_add(by.wrapping_mul(APART)) & i64::MAX as u64
}

impl Trunk {
    /// The trunk in a run's folder.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds no run, or the step or replica is not in it; [`Error::Format`] where the run was
    /// edited, or a file that it depends on has changed.
    pub fn open(run: &Path, replica: u32, step: u64) -> Result<Self> {
        let manifest = RunDir::read_manifest(run)?;
        manifest.must_be(run, RunKind::Run, "which has no steps to fork at")?;
        manifest.check_hash(run)?;
        manifest.check_files()?;
        let setup = Setup::from_json(&manifest.config)?;
        if replica >= setup.config.replicas {
            return Err(Error::Refused(format!(
                "--replica {replica}: {} has {}, counted from 0",
                run.display(),
                setup.config.replicas
            )));
        }
        if step > manifest.steps_done {
            return Err(Error::Refused(format!(
                "--at {step} is beyond the trunk: {} has come to step {}",
                run.display(),
                manifest.steps_done
            )));
        }
        let run = std::path::absolute(run).map_err(Error::io("cannot find", run))?;
        let origin = Origin { run, hash: manifest.hash.clone(), replica, each: Vec::new(), step };
        Ok(Self { manifest, setup, origin })
    }

    /// The state to replay from: the nearest checkpoint at or before the step, of these replicas alone; `None` where that is
    /// the run's beginning.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none, and the beginning cannot be made again.
    pub fn nearest(&self, replicas: &[usize]) -> Result<Option<Snapshot>> {
        let Origin { run, step, .. } = &self.origin;
        let (found, steps) = RunDir::read_state(run, *step, &self.setup.config.model)?;
        match found {
            Some(snapshot) => Ok(Some(snapshot.select(replicas))),
            // A fork does not begin with weights drawn from seeds.
            None if self.manifest.fork.is_some() => {
                let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
                let there =
                    if steps.is_empty() { "none".to_owned() } else { format!("those of steps {}", steps.join(", ")) };
                Err(Error::Refused(format!(
                    "{} has no checkpoint at or before step {step}: there are {there}. Fork at a later step; checkpoint.keep = 0 keeps all",
                    run.display()
                )))
            }
            None => Ok(None),
        }
    }

    /// Replicas of the trunk alone, without instruments, to be replayed.
    ///
    /// # Errors
    /// Where `run.json` was damaged.
    pub fn alone(&self, replicas: &[usize]) -> Result<Setup> {
        let own = |replica: &usize| value(&self.replica(*replica));
        let mut config = self.with(replicas.iter().map(own).collect::<Result<_>>()?);
        let all = crate::instrument::registry().into_iter().map(|instrument| instrument.name());
        config["measure"] = serde_json::json!({ "off": all.collect::<Vec<_>>() });
        Setup::from_json(&config)
    }

    /// The run with other replicas, each with the interventions that are its own.
    fn with(&self, replicas: Vec<Value>) -> Value {
        let mut config = self.manifest.config.clone();
        config.as_object_mut().map(|config| config.remove("intervene"));
        config["replicas"] = replicas.len().into();
        config["replica"] = Value::Array(replicas);
        config
    }

    /// A replica of the trunk, an arm of nobody.
    fn replica(&self, replica: usize) -> ReplicaConfig {
        let config = &self.setup.config;
        let own = &config.replica[replica];
        let intervene = Some(config.pulses_of(replica).to_vec()).filter(|pulses| !pulses.is_empty());
        ReplicaConfig { name: None, role: None, control_of: None, group: None, intervene, ..own.clone() }
    }

    /// The fork: the arms of a file, each with so many seeds, to the trunk's last step or another.
    ///
    /// # Errors
    /// [`Error::Config`] with the line of the file, or naming the arm that cannot be.
    pub fn fork(&self, arms: (&str, &str), seeds: u32, steps: Option<u64>, sets: &[String]) -> Result<Setup> {
        let (file, text) = arms;
        let named = |error: Error| match error {
            Error::Config(message) => Error::Config(format!("{file}: {message}")),
            other => other,
        };
        let Arms { mut arm } = parse(text).map_err(named)?;
        let config = &self.setup.config;
        let at = self.origin.step;
        let steps = steps.unwrap_or(config.steps);
        if steps <= at {
            return Err(Error::Refused(format!(
                "there is nothing to train from step {at} to step {steps}; set --steps"
            )));
        }
        for (number, arm) in arm.iter_mut().enumerate() {
            let called = arm.name.get_or_insert_with(|| format!("arm {number}")).clone();
            let fail = |what: String| Err(named(Error::Config(format!("[[arm]] {called}: {what}"))));
            if arm.seed.is_some() {
                return fail(
                    "seed draws the first weights, and those of a fork are the trunk's; data_seed and batch_seed are for data, and interventions have seeds of their own".to_owned(),
                );
            }
            let (own, seed) =
                (arm.intervene.as_deref().unwrap_or_default(), config.seed_of(self.origin.replica as usize));
            let checked = Pulse::check_all(own, &config.model, seed, steps - at, config.task.shape().classes);
            if let Err(Error::Config(what)) = checked {
                return fail(what);
            }
        }
        let plain = |arm: &ReplicaConfig| {
            let ReplicaConfig { name, role, control_of, group, intervene, .. } = arm.clone();
            let names = ReplicaConfig { name, role, control_of, group, intervene, ..ReplicaConfig::default() };
            *arm == names && arm.intervene.iter().flatten().count() == 0
        };
        if !arm.iter().any(plain) {
            let taken = arm.iter().any(|arm| arm.name.as_deref() == Some("sham"));
            let name = Some(if taken { "trunk" } else { "sham" }.to_owned());
            arm.insert(0, ReplicaConfig { name, role: Some(ArmRole::Sham), ..ReplicaConfig::default() });
        }
        let drawn =
            config.batch.count().is_some() || arm.iter().flat_map(|arm| &arm.intervene).flatten().any(Pulse::draws);
        if seeds > 1 && !drawn {
            return Err(Error::Refused(format!(
                "--seeds {seeds}: nothing is drawn after step {at}: batches are full and no arm draws anything, so all seeds would be alike"
            )));
        }
        let count = arm.len() as u64 * u64::from(seeds.max(1));
        if count > u64::from(MOST_REPLICAS) {
            return Err(Error::Config(format!(
                "--seeds {seeds} of {} arms are {count} replicas; a run holds {MOST_REPLICAS} at most",
                arm.len()
            )));
        }
        let replicas: Vec<Value> = (0..seeds.max(1))
            .flat_map(|seed| arm.iter().map(move |arm| (seed, arm)))
            .map(|(seed, arm)| self.arm(self.origin.replica as usize, arm, (seed, seeds), steps))
            .collect::<Result<_>>()?;
        let known = |set: &str| {
            let key = set.split('=').next().unwrap_or_default().trim();
            ["name", "description"].contains(&key)
                || ["measure.", "checkpoint."].iter().any(|table| key.starts_with(table))
        };
        if let Some(set) = sets.iter().find(|set| !known(set)) {
            return Err(Error::Config(format!(
                "--set {set}: a fork goes on as its trunk does, but for what its arms say; only measure, checkpoint, name and description can be set"
            )));
        }
        // What the arms cannot be for themselves is not the settings' fault.
        self.goes_on(replicas.clone(), steps, &[]).map_err(named)?;
        self.goes_on(replicas, steps, sets)
    }

    /// A fork whose arms go on from several replicas, each as it is given with the replica it is of; their steps count from the
    /// fork, their names and groups are their own. To the trunk's last step.
    ///
    /// # Errors
    /// [`Error::Config`] naming what cannot be.
    pub fn branch(&mut self, arms: &[(usize, ReplicaConfig)], sets: &[String]) -> Result<Setup> {
        let steps = self.setup.config.steps;
        let replicas = arms.iter().map(|(of, arm)| self.arm(*of, arm, (0, 1), steps)).collect::<Result<_>>()?;
        self.origin.each = arms.iter().map(|(of, _)| *of as u32).collect();
        self.origin.replica = self.origin.each.first().copied().unwrap_or_default();
        self.goes_on(replicas, steps, sets)
    }

    /// A seed of batches that one of its replicas has not seen, as far from its own as `by` says.
    pub fn other_batches(&self, replica: usize, by: u64) -> u64 {
        moved(self.setup.config.batch_seeds()[replica], by)
    }

    /// The run with other replicas, from the step of the fork to another.
    fn goes_on(&self, replicas: Vec<Value>, steps: u64, sets: &[String]) -> Result<Setup> {
        let config = &self.setup.config;
        let mut resolved = self.with(replicas);
        // The learning rate comes down when it would have in the trunk.
        if config.schedule.kind == ScheduleKind::Cosine && config.schedule.steps == 0 {
            resolved["schedule"]["steps"] = config.steps.into();
        }
        resolved["steps"] = steps.into();
        let mut draft = Draft { table: table_of(&resolved)?, text: "", sets };
        draft.set_again()?;
        draft.setup()
    }

    /// An arm of a replica as a replica of the fork.
    fn arm(&self, of: usize, arm: &ReplicaConfig, (seed, seeds): (u32, u32), steps: u64) -> Result<Value> {
        let trunk = self.replica(of);
        let (at, seed) = (self.origin.step, u64::from(seed));
        let weights = trunk.seed.unwrap_or_default();
        let of_seed = |pulse: &Pulse| {
            let own = (seed > 0 && pulse.draws()).then(|| moved(pulse.seed.unwrap_or(weights), seed));
            Pulse { seed: own.or(pulse.seed), ..pulse.clone() }
        };
        let model = &self.setup.config.model;
        let of_trunk: Vec<Pulse> = trunk.intervene.iter().flatten().map(of_seed).collect();
        let heads = Pulse::heads(&of_trunk, model, weights)?;
        // What the trunk would never come to is none of the fork's.
        let before: Vec<(Pulse, Option<usize>)> =
            of_trunk.into_iter().zip(heads).filter(|(pulse, _)| pulse.from < steps).collect();
        let own = arm.intervene.iter().flatten().map(|pulse| Pulse {
            from: pulse.from + at,
            // TOML has no greater number.
            until: pulse.until.map(|until| until.saturating_add(at).min(i64::MAX as u64)),
            ..of_seed(pulse)
        });
        let pulses: Vec<Pulse> = before.iter().map(|(pulse, _)| pulse.clone()).chain(own).collect();
        // What goes on from the trunk goes on with the same heads; a list that leaves too few is refused where it is set up.
        let now = Pulse::heads(&pulses, model, weights).unwrap_or_default();
        if let Some(((pulse, head), _)) = before.iter().zip(now).find(|((_, before), now)| before != now) {
            return Err(Error::Config(format!(
                "[[arm]] {}: the trunk's \"{}\" is done to head {}, which this list or --steps would change: leave that head alone, and --steps beyond what the trunk declares",
                arm.name.as_deref().unwrap_or_default(),
                pulse.words(),
                head.unwrap_or_default(),
            )));
        }
        let data = arm.data_seed.or(trunk.data_seed).unwrap_or(weights);
        let batches = arm.batch_seed.or(trunk.batch_seed);
        let called = |name: &String| if seed > 0 { format!("{name}, seed {seed}") } else { name.clone() };
        let group = match &arm.group {
            _ if seeds < 2 => arm.group.clone(),
            Some(group) => Some(format!("{group}, seed {seed}")),
            None => Some(format!("seed {seed}")),
        };
        value(&ReplicaConfig {
            name: arm.name.as_ref().map(called),
            role: arm.role,
            control_of: arm.control_of.as_ref().map(called),
            group,
            seed: trunk.seed,
            data_seed: arm.data_seed.or(trunk.data_seed),
            batch_seed: if seed > 0 { Some(moved(batches.unwrap_or(data), seed)) } else { batches },
            learning_rate: arm.learning_rate.or(trunk.learning_rate),
            weight_decay: arm.weight_decay.or(trunk.weight_decay),
            betas: arm.betas.or(trunk.betas),
            train_fraction: arm.train_fraction.or(trunk.train_fraction),
            shuffle_labels: arm.shuffle_labels || trunk.shuffle_labels,
            intervene: Some(pulses).filter(|pulses| !pulses.is_empty()),
        })
    }
}

fn value(replica: &ReplicaConfig) -> Result<Value> {
    serde_json::to_value(replica).map_err(|error| Error::Config(error.to_string()))
}
