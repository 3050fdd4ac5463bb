//! `metrics.json`: what the metrics of a run are, so that its table needs nobody to explain it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::read_json;
use crate::error::Result;
use crate::instrument::{Card, Index, Metric, Presence};
use crate::landscape;
use crate::stats::{Reach, Sample};
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
    /// What the index is the number of, where it has no names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub counts: String,
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
    /// By its card, of a task of so many classes and a model of so many outputs; sites are still to come, and names that
    /// depend on the model.
    pub fn new(instrument: &str, card: &Card, every: u64, [classes, outputs]: [usize; 2], set: bool) -> Self {
        Self {
            instrument: instrument.to_owned(),
            formula: card.formula.to_owned(),
            unit: card.unit.to_owned(),
            axes: card.axes.to_owned(),
            index: match card.index {
                Index::Names(names) => names.iter().map(|name| (*name).to_owned()).collect(),
                _ => Vec::new(),
            },
            counts: card.index.counts().to_owned(),
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
        let (model, sizes) = (&config.model, [classes, config.model.d_vocab_out]);
        let mut metrics = describe(session.metrics(), sizes, model.n_heads);
        let every = config.measure.landscape.every;
        let looked = landscape::CARDS.iter().filter(|_| every > 0);
        metrics.extend(looked.map(|card| {
            let described = Described::new(landscape::INSTRUMENT, card, every, sizes, false);
            let sites = if card.axes.contains("site") { session.table().specs() } else { &[] };
            let all = sites.first().map(|_| "all".to_owned());
            let sites = all.into_iter().chain(sites.iter().map(|spec| spec.name.clone())).collect();
            (card.name.to_owned(), Described { sites, ..described })
        }));
        Ok(Self { classes, predictions, metrics })
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

    /// The watch for such an accuracy to reach a threshold in a run of so many steps; `None` where it is not measured.
    pub fn reach(&self, replica: usize, train: bool, threshold: f64, steps: u64) -> Option<Reach> {
        let metric = if train { "accuracy.train" } else { "accuracy.test" };
        let looks = steps / self.metrics.get(metric)?.every.max(1) + 1;
        Some(Reach::new(self.sample(replica, train)?, threshold, looks))
    }
}

const FILE: &str = "metrics.json";

fn describe(metrics: &[Metric], sizes: [usize; 2], heads: usize) -> BTreeMap<String, Described> {
    let mut found: BTreeMap<String, Described> = BTreeMap::new();
    for metric in metrics {
        let Metric { instrument, card, every, presence, .. } = metric;
        let new = || Described::new(instrument, card, *every, sizes, *presence == Presence::InSet);
        let described = found.entry(card.name.to_owned()).or_insert_with(new);
        described.every = described.every.min(*every);
        let count = metric.labels.iter().filter_map(|label| usize::try_from(label.index + 1).ok()).max().unwrap_or(0);
        let known = described.index.len();
        described.index.extend((known..count).filter_map(|index| card.index.name(index, heads)));
        if !described.sites.contains(&metric.site) {
            described.sites.push(metric.site.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::record::Setup;

    #[test]
    fn every_index_of_a_table_has_a_name_or_is_a_number_of_something() {
        let mut seen = std::collections::BTreeSet::new();
        for task in [
            "kind = \"modular\"\np = 7\n[model]\nn_heads = 3\nd_model = 12",
            "kind = \"permutation\"\nn = 3\n[model]\nn_heads = 3\nd_model = 12",
            "kind = \"repeated\"\n[batch]\nsize = 2\n[model]\nn_layers = 2\nn_heads = 3\nd_model = 12\nd_mlp = 8",
        ] {
            let setup = Setup::from_toml(&format!("steps = 4\n[measure]\nbudget = 1e9\n[task]\n{task}")).unwrap();
            let session = Session::new(&gpus()[0], setup.config).unwrap();
            let catalog = Catalog::of(&session).unwrap();
            for metric in session.metrics() {
                let described = &catalog.metrics[metric.card.name];
                for index in metric.labels.iter().filter_map(|label| usize::try_from(label.index).ok()) {
                    let known = described.index.get(index).is_some_and(|name| !name.is_empty());
                    assert!(known || !described.counts.is_empty(), "{} index {index}", metric.card.name);
                    seen.insert(metric.card.name);
                }
            }
            let pairs = &catalog.metrics["sync.drift"].index;
            assert_eq!(pairs.as_slice(), ["heads 0 and 1", "heads 0 and 2", "heads 1 and 2"]);
        }
        let all: Vec<&str> = crate::instrument::registry()
            .iter()
            .flat_map(|instrument| instrument.cards())
            .filter(|card| card.index != Index::None)
            .map(|card| card.name)
            .collect();
        let missing: Vec<&&str> = all.iter().filter(|name| !seen.contains(**name)).collect();
        assert!(missing.is_empty(), "none of the tasks has {missing:?}");
    }
}
