//! What is trained in a study: every pulse at every time in every seed, in batches.

use serde::{Deserialize, Serialize};

use super::config::{Kind, StudyConfig};
use crate::error::{Error, Result};
use crate::intervene::Pulse;
use crate::record::Trunk;
use crate::train::{ArmRole, ReplicaConfig, ResolvedRun};

/// A replica of the trunk that is disturbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Its number in the run.
    pub replica: usize,
    /// Which trunk it is of: 0 the plain one, then those of `[[trunk]]`.
    pub trunk: usize,
    /// Which seed, counted from 0 in every trunk.
    pub number: usize,
}

/// A run that goes on from a seed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// What is done, by number; `None` where everything is, with a dose of nothing.
    pub kind: Option<usize>,
    /// To which of the seeds.
    pub seed: usize,
}

/// Arms that are trained side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// At which of the times, by number.
    pub time: usize,
    /// What is trained.
    pub arms: Vec<Arm>,
}

/// All that is trained. It is made once, and kept: a study that goes on has the batches that it began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Steps of the pulses.
    pub times: Vec<u64>,
    /// The last step.
    pub steps: u64,
    /// Names of the trunks, the plain one first.
    pub trunks: Vec<String>,
    /// Replicas of the trunk that are disturbed.
    pub seeds: Vec<Seed>,
    /// What is trained, in order.
    pub batches: Vec<Batch>,
}

impl Plan {
    /// Batches of at most so many arms, each of one time and with one arm that everything is done to with a dose of nothing.
    ///
    /// # Errors
    /// [`Error::Config`] naming the pulse that does not fit the run.
    pub fn new(config: &StudyConfig, run: &ResolvedRun, seeds: Vec<Seed>, most: usize) -> Result<Self> {
        let (times, kinds) = (config.times.steps()?, config.kinds()?);
        for (time, kind) in times.iter().flat_map(|time| kinds.iter().map(move |kind| (time, kind))) {
            let fail = |what: String| Err(Error::Config(format!("[[pulse]] {} at step {time}: {what}", kind.name)));
            if kind.batch_seed.is_some() && run.batch.count().is_none() {
                return fail("batches are full, so that the data have no order: leave out batch_seed".to_owned());
            }
            if *time >= run.steps || kind.end().is_some_and(|end| time + end > run.steps) {
                return fail(format!(
                    "it does not end within the run, which has {} steps: choose earlier times, or more steps",
                    run.steps
                ));
            }
            let classes = run.task.shape().classes;
            for seed in seeds.iter().map(|seed| run.seed_of(seed.replica)) {
                if let Err(Error::Config(what)) =
                    Pulse::check_all(&kind.intervene, &run.model, seed, run.steps - time, classes)
                {
                    return fail(what);
                }
            }
        }
        let sham = Arm { kind: None, seed: 0 };
        let kinds = kinds.len();
        let all: Vec<Arm> =
            (0..seeds.len()).flat_map(|seed| (0..kinds).map(move |kind| Arm { kind: Some(kind), seed })).collect();
        // As even as they can be.
        let count = all.len().div_ceil((most - 1).max(1)).max(1);
        let together = all.len().div_ceil(count).max(1);
        let of = |time: usize| all.chunks(together).map(move |arms| Batch { time, arms: [&[sham], arms].concat() });
        let batches = (0..times.len()).flat_map(of).collect();
        let plain = if config.trunk.is_empty() { "trunk" } else { "plain" };
        let others = config.trunk.iter().filter_map(|trunk| trunk.name.clone());
        let trunks = [plain.to_owned()].into_iter().chain(others).collect();
        Ok(Self { times, steps: run.steps, trunks, seeds, batches })
    }

    /// Seeds of a trunk, by their places.
    pub fn of_trunk(&self, trunk: usize) -> Vec<usize> {
        (0..self.seeds.len()).filter(|seed| self.seeds[*seed].trunk == trunk).collect()
    }

    /// Steps times arms that a batch takes.
    pub fn cost(&self, batch: &Batch) -> u64 {
        batch.arms.len() as u64 * (self.steps - self.times[batch.time])
    }

    /// The same of all batches.
    pub fn costs(&self) -> u64 {
        self.batches.iter().map(|batch| self.cost(batch)).sum()
    }

    /// The arms of a batch, with the replica that each goes on from.
    pub fn replicas(&self, batch: &Batch, kinds: &[Kind], trunk: &Trunk) -> Vec<(usize, ReplicaConfig)> {
        // Everything, with a dose of nothing: the program has all kinds in it, and this arm the bits of its trunk.
        let mut nothing: Vec<Pulse> = Vec::new();
        for pulse in kinds.iter().flat_map(|kind| &kind.intervene) {
            let without = Pulse { dose: 0.0, ..pulse.clone() };
            if !nothing.contains(&without) {
                nothing.push(without);
            }
        }
        let arm = |arm: &Arm| {
            let seed = &self.seeds[arm.seed];
            let kind = arm.kind.map(|kind| &kinds[kind]);
            let name = kind.map_or("sham", |kind| kind.name.as_str());
            let of = match seed.trunk {
                0 => String::new(),
                other => format!("{}, ", self.trunks[other]),
            };
            let config = ReplicaConfig {
                name: Some(format!("{name}, {of}seed {}", seed.number)),
                role: kind.is_none().then_some(ArmRole::Sham),
                batch_seed: kind.and_then(|kind| kind.batch_seed).map(|by| trunk.other_batches(seed.replica, by)),
                intervene: Some(kind.map_or_else(|| nothing.clone(), |kind| kind.intervene.clone())),
                ..ReplicaConfig::default()
            };
            (seed.replica, config)
        };
        batch.arms.iter().map(arm).collect()
    }
}
