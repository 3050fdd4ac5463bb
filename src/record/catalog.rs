//! `metrics.json`: what the metrics of a run are, so that its table needs nobody to explain it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::read_json;
use crate::error::Result;
use crate::instrument::{Card, Metric, Presence};
use crate::stats::Sample;
use crate::task::Asked;
use crate::train::Session;

/// `metrics.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Classes that the task asks for.
    pub classes: usize,
    /// How many predictions one measurement sees, of each replica.
    pub predictions: Vec<Predictions>,
    /// Every metric of the run, by name.
    pub metrics: BTreeMap<String, Described>,
}

/// How many predictions a loss or accuracy is a mean of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// On the training batch.
    pub train: u64,
    /// Whether every batch is drawn anew; otherwise they are always the same.
    pub train_drawn: bool,
    /// On the test set, always the same.
    pub test: u64,
    /// Share of the most frequent target on the training set, and on the test set: what a constant answer gets right.
    #[serde(default)]
    pub most_frequent: [f64; 2],
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// Name of the instrument.
    pub instrument: String,
    /// Definition.
    pub formula: String,
    /// Unit of the value.
    pub unit: String,
    /// What the columns site, layer, head and index tell.
    pub axes: String,
    /// Names of index 0, 1, 2 ..., where it stands for things with names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index: Vec<String>,
    /// Steps between two measurements in this run.
    pub every: u64,
    /// Cost class.
    pub cost: String,
    /// What it must be compared with.
    pub control: String,
    /// The value that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The least and the greatest value that it can have; null where there is none.
    pub bounds: [Option<f64>; 2],
    /// Where the definition is from.
    pub source: String,
    /// What it must not be used for.
    pub not_for: String,
    /// Whether it is a set, which has rows for its members only.
    #[serde(default)]
    pub set: bool,
    /// Tensors and hooks at which it is measured.
    pub sites: Vec<String>,
}

impl Described {
    /// By its card, of a task of so many classes and a model of so many outputs; sites are still to come.
    pub fn new(instrument: &str, card: &Card, every: u64, [classes, outputs]: [usize; 2], set: bool) -> Self {
        Self {
            instrument: instrument.to_owned(),
            formula: card.formula.to_owned(),
            unit: card.unit.to_owned(),
            axes: card.axes.to_owned(),
            index: card.index.iter().map(|name| (*name).to_owned()).collect(),
            every,
            cost: format!("{:?}", card.cost),
            control: card.control.to_owned(),
            chance: card.chance.map(|chance| chance.value(classes, outputs)),
            bounds: card.bounds.map(|bound| bound.is_finite().then_some(bound)),
            source: card.source.to_owned(),
            not_for: card.not_for.to_owned(),
            set,
            sites: Vec::new(),
        }
    }
}

impl Catalog {
    /// What a session measures.
    ///
    /// # Errors
    /// Where the task's examples cannot be had.
    pub fn of(session: &Session) -> Result<Self> {
        let config = session.config();
        let drawn = config.batch.count();
        let count = |[train, test]: [Asked; 2]| Predictions {
            train: train.count,
            train_drawn: drawn.is_some(),
            test: test.count,
            most_frequent: [train.most_frequent, test.most_frequent],
        };
        let predictions = session.predictions().iter().copied().map(count).collect();
        let classes = config.task.shape().classes;
        Ok(Self { classes, predictions, metrics: describe(session.metrics(), [classes, config.model.d_vocab_out]) })
    }

    /// Writes it into a run directory.
    pub(super) fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        crate::files::write_whole(&run.join(FILE), text.as_bytes())
    }

    /// Reads it from a run directory.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Format`](crate::Error::Format) where it is not there, or damaged.
    pub fn read(run: &Path) -> Result<Self> {
        read_json(&run.join(FILE))
    }

    /// How an accuracy on the training batch, or on the test set, was counted; `None` for replicas that are not there. Who
    /// guesses knows which answer is the most frequent.
    pub fn sample(&self, replica: usize, train: bool) -> Option<Sample> {
        let seen = self.predictions.get(replica)?;
        let (trials, fresh) = if train { (seen.train, seen.train_drawn) } else { (seen.test, false) };
        let constant = seen.most_frequent[usize::from(!train)];
        Some(Sample { trials, fresh, chance: constant.max(1.0 / self.classes.max(1) as f64) })
    }
}

const FILE: &str = "metrics.json";

fn describe(metrics: &[Metric], sizes: [usize; 2]) -> BTreeMap<String, Described> {
    let mut found: BTreeMap<String, Described> = BTreeMap::new();
    for metric in metrics {
        let Metric { instrument, card, every, presence, .. } = metric;
        let new = || Described::new(instrument, card, *every, sizes, *presence == Presence::InSet);
        let described = found.entry(card.name.to_owned()).or_insert_with(new);
        described.every = described.every.min(*every);
        if !described.sites.contains(&metric.site) {
            described.sites.push(metric.site.clone());
        }
    }
    found
}
