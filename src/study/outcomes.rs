//! What became of each run of a study: its whole history, before and behind the pulse.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::config::{EventConfig, StudyConfig};
use super::plan::{Batch, Plan};
use crate::error::{Error, Result};
use crate::instrument::LOGIT_KEYS;
use crate::model::ModelConfig;
use crate::record::{Catalog, Key, RunDir, Series, read_metrics};
use crate::stats::{LASTING, Living, Onset};
use crate::train::Snapshot;

/// What is to be seen in a run.
#[derive(Clone, Copy, Debug)]
pub enum Watched<'a> {
    /// An accuracy reaches a threshold, by more than guessing.
    Accuracy {
        /// On the training set, or on the test set.
        train: bool,
        /// The threshold.
        reaches: f64,
    },
    /// The oldest key frequency of the logits that lives at the end is born.
    FirstKey,
    /// An event of one's own.
    Own(&'a EventConfig),
}

impl<'a> Watched<'a> {
    /// The metric that tells.
    pub fn metric(self) -> &'a str {
        match self {
            Self::Accuracy { train: true, .. } => "accuracy.train",
            Self::Accuracy { train: false, .. } => "accuracy.test",
            Self::FirstKey => LOGIT_KEYS,
            Self::Own(event) => &event.metric,
        }
    }

    /// When it came, in the history of a replica of a run of so many steps; `None` where nothing was measured.
    fn onset(self, of: &History, catalog: &Catalog, replica: usize, steps: u64) -> Option<Onset> {
        let every = catalog.metrics.get(self.metric())?.every.max(1);
        match self {
            Self::Accuracy { train, reaches } => {
                let series = of.one(self.metric())?;
                let mut reach = catalog.reach(replica, train, reaches, steps)?;
                series.steps.iter().zip(&series.values).for_each(|(step, value)| reach.measure(*step as u64, *value));
                reach.onset()
            }
            Self::FirstKey => {
                let mut present: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
                for (key, series) in of.of(LOGIT_KEYS) {
                    for step in &series.steps {
                        present.entry(*step as u64).or_default().insert(key.index);
                    }
                }
                // What is a set has rows for its members alone. What is measured behind the last step, out of turn, is no look.
                let mut living = Living::default();
                for step in (of.first.next_multiple_of(every)..=steps).step_by(every as usize) {
                    living.measure(step, &present.remove(&step).unwrap_or_default(), LASTING);
                }
                living.oldest()
            }
            Self::Own(event) => {
                let bound = event.at_least.or(event.at_most).unwrap_or_default();
                let beyond = |value: f32| {
                    if event.at_least.is_some() { f64::from(value) >= bound } else { f64::from(value) <= bound }
                };
                let mut found: BTreeMap<i64, bool> = BTreeMap::new();
                for (_, series) in of.of(&event.metric).filter(|(key, _)| event.is_of(key)) {
                    for (step, value) in series.steps.iter().zip(&series.values) {
                        *found.entry(*step).or_default() |= beyond(*value);
                    }
                }
                Onset::of(found.into_iter().map(|(step, now)| (step as u64, now)), LASTING)
            }
        }
    }
}

impl EventConfig {
    fn is_of(&self, key: &Key) -> bool {
        let fits = |wanted: Option<i32>, is: i32| wanted.is_none_or(|wanted| wanted == is);
        fits(self.layer, key.layer)
            && fits(self.head, key.head)
            && fits(self.index, key.index)
            && self.site.as_ref().is_none_or(|site| *site == key.site)
    }
}

/// Series of one replica, from the first step of its trunk on.
#[derive(Clone, Debug, Default)]
struct History {
    series: BTreeMap<Key, Series>,
    /// The step from which on anybody looked: that of the fork, where the trunk is one.
    first: u64,
}

impl History {
    fn of<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (&'a Key, &'a Series)> {
        self.series.iter().filter(move |(key, _)| key.metric == metric)
    }

    /// Of a metric that is one number.
    fn one(&self, metric: &str) -> Option<&Series> {
        self.series.iter().find(|(key, _)| key.metric == metric).map(|(_, series)| series)
    }

    /// The history of what goes on from this one at a step.
    fn then(&self, own: &Self, at: i64) -> Self {
        let mut all: BTreeMap<Key, Series> = BTreeMap::new();
        for (key, series) in &self.series {
            let before = series.steps.partition_point(|step| *step < at);
            let (steps, values) = (series.steps[..before].to_vec(), series.values[..before].to_vec());
            all.insert(key.clone(), Series { steps, values });
        }
        for (key, series) in &own.series {
            let whole = all.entry(key.clone()).or_default();
            whole.steps.extend(&series.steps);
            whole.values.extend(&series.values);
        }
        Self { series: all, first: self.first }
    }

    fn last(&self, metric: &str) -> Option<f64> {
        self.one(metric)?.values.last().map(|value| f64::from(*value)).filter(|value| value.is_finite())
    }

    /// Keys at the last measurement.
    fn keys(&self, end: i64) -> BTreeSet<i32> {
        self.of(LOGIT_KEYS).filter(|(_, series)| series.steps.last() == Some(&end)).map(|(key, _)| key.index).collect()
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// When each event came; `None` where it could not be seen.
    pub events: Vec<Option<Onset>>,
    /// Last value of each metric asked for.
    pub last: Vec<Option<f64>>,
    /// How its end lies to that of the trunk; `None` of a trunk.
    pub apart: Option<Apart>,
}

/// How a disturbed run lies to its trunk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Apart {
    /// Whether weights and moments are the same to the bit at the end.
    pub equal: bool,
    /// Length of the difference of all weights at the end, by that of the trunk's.
    pub distance: f64,
    /// Key frequencies of the logits that both have at the end, by those that either has.
    pub keys: Option<f64>,
    /// Arm minus trunk where it is greatest, of the metric of the damage.
    pub damage: Option<f64>,
    /// Steps from there until half of it is gone for good; censored where it is not.
    pub half_life: Option<Onset>,
    /// The share of it that is left at the end, over the last five measurements.
    pub permanent: Option<f64>,
}

/// A run that the study reads.
pub struct Run {
    catalog: Catalog,
    histories: Vec<History>,
    end: Snapshot,
    steps: u64,
}

impl Run {
    /// What is needed of a run that is done.
    ///
    /// # Errors
    /// Where it cannot be read, or has no checkpoint of its last step.
    pub fn read(path: &Path, config: &StudyConfig) -> Result<Self> {
        let wanted = config.metrics();
        let manifest = RunDir::read_manifest(path)?;
        let model: ModelConfig = serde_json::from_value(manifest.config["model"].clone())
            .map_err(|error| Error::format(path.join("run.json"), format!("is damaged: {error}")))?;
        let replicas = manifest.config["replicas"].as_u64().unwrap_or(1) as usize;
        let first = manifest.fork.as_ref().map_or(0, |origin| origin.step);
        let mut histories = vec![History { first, ..History::default() }; replicas];
        for (key, series) in read_metrics(path, |metric| wanted.contains(metric))? {
            if let Some(history) = histories.get_mut(key.replica as usize) {
                history.series.insert(Key { replica: 0, ..key }, series);
            }
        }
        let end = RunDir::read_state(path, manifest.steps_done, &model)?.0;
        let end = end
            .filter(|end| end.step == manifest.steps_done)
            .ok_or_else(|| Error::Refused(format!("{} has no checkpoint of its last step", path.display())))?;
        Ok(Self { catalog: Catalog::read(path)?, histories, end, steps: manifest.steps_done })
    }

    fn outcome(&self, config: &StudyConfig, history: &History, replica: usize) -> Outcome {
        let onset = |watched: Watched<'_>| watched.onset(history, &self.catalog, replica, self.steps);
        Outcome {
            events: config.watched().into_iter().map(onset).collect(),
            last: config.last.iter().map(|metric| history.last(metric)).collect(),
            apart: None,
        }
    }

    /// What a replica of a trunk came to.
    pub fn trunk(&self, config: &StudyConfig, replica: usize) -> Outcome {
        self.outcome(config, &self.histories[replica], replica)
    }

    /// What the arms of a batch came to, in their order.
    ///
    /// # Errors
    /// [`Error::Refused`] where it was not measured as its trunk was.
    pub fn arms(&self, config: &StudyConfig, plan: &Plan, batch: &Batch, trunk: &Self) -> Result<Vec<Outcome>> {
        let every = |of: &Self, metric: &String| of.catalog.metrics.get(metric).map(|metric| metric.every);
        if let Some(other) = config.needed().iter().find(|metric| every(self, metric) != every(trunk, metric)) {
            return Err(Error::Refused(format!(
                "{other} was not measured as often in a batch as in its trunk, so that dates cannot be compared"
            )));
        }
        let at = plan.times[batch.time] as i64;
        let arms = batch.arms.iter().enumerate().map(|(number, arm)| {
            let replica = plan.seeds[arm.seed].replica;
            let before = &trunk.histories[replica];
            let history = before.then(&self.histories[number], at);
            let mut outcome = self.outcome(config, &history, number);
            outcome.apart = Some(self.apart(config, number, trunk, replica, at));
            outcome
        });
        Ok(arms.collect())
    }

    fn apart(&self, config: &StudyConfig, arm: usize, trunk: &Self, replica: usize, at: i64) -> Apart {
        let [own, other] = [(self, arm), (trunk, replica)].map(|(run, replica)| &run.end.weights[replica]);
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let difference = length(&mut own.iter().zip(other).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let whole = length(&mut other.iter().map(|value| f64::from(*value)));
        let [own, other] = [&self.histories[arm], &trunk.histories[replica]];
        let end = self.steps as i64;
        let both = [own, other].map(|history| history.keys(end));
        let union = both[0].union(&both[1]).count();
        let share = both[0].intersection(&both[1]).count() as f64 / union as f64;
        let damage = Damage::of(own.one(&config.damage), other.one(&config.damage), at);
        Apart {
            equal: self.end.select(&[arm]) == trunk.end.select(&[replica]),
            distance: difference / whole,
            keys: (union > 0).then_some(share),
            damage: damage.as_ref().map(|damage| damage.greatest),
            half_life: damage.as_ref().and_then(|damage| damage.half_life),
            permanent: damage.map(|damage| damage.permanent),
        }
    }
}

/// What a pulse did to a metric, and what became of that.
#[derive(Clone, Debug, PartialEq)]
struct Damage {
    greatest: f64,
    half_life: Option<Onset>,
    permanent: f64,
}

impl Damage {
    /// `None` where nothing was measured in both, or nothing was done.
    fn of(arm: Option<&Series>, trunk: Option<&Series>, at: i64) -> Option<Self> {
        let trunk = trunk?;
        let of_trunk: BTreeMap<i64, f32> = trunk.steps.iter().copied().zip(trunk.values.iter().copied()).collect();
        let arm = arm?;
        let differences: Vec<(i64, f64)> = arm
            .steps
            .iter()
            .zip(&arm.values)
            .filter(|(step, _)| **step >= at)
            .filter_map(|(step, value)| Some((*step, f64::from(*value) - f64::from(*of_trunk.get(step)?))))
            .filter(|(_, difference)| difference.is_finite())
            .collect();
        // The first of several that are as great.
        let most = differences.iter().map(|(_, difference)| difference.abs()).fold(0.0, f64::max);
        let peak = differences.iter().position(|(_, difference)| difference.abs() == most)?;
        let greatest = differences[peak].1;
        if greatest == 0.0 {
            return None;
        }
        let first = differences[peak].0;
        let behind = differences[peak..]
            .iter()
            .map(|(step, difference)| ((step - first) as u64, difference.abs() <= greatest.abs() / 2.0));
        let last = &differences[differences.len().saturating_sub(LASTING as usize)..];
        let left = last.iter().map(|(_, difference)| difference).sum::<f64>() / last.len() as f64;
        Some(Self { greatest, half_life: Onset::of(behind, LASTING), permanent: left / greatest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Censored;

    fn series(values: &[f32]) -> Series {
        Series { steps: (0..values.len() as i64).map(|at| 10 * at).collect(), values: values.to_vec() }
    }

    fn history(metric: &str, index: i32, of: Series) -> History {
        let key = Key { metric: metric.to_owned(), site: String::new(), layer: -1, head: -1, index, replica: 0 };
        History { series: [(key, of)].into(), first: 0 }
    }

    #[test]
    fn damage_is_made_good_by_half_from_its_greatest_on() {
        let trunk = series(&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let arm = series(&[9.0, 4.0, 3.0, 6.0, 4.0, 1.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        // What came before the pulse does not count: 4 at step 30, 3 at 40, below 2 from 50 on.
        let damage = Damage::of(Some(&arm), Some(&trunk), 20).unwrap();
        assert_eq!(damage.greatest, 4.0);
        assert_eq!(damage.half_life, Some(Onset { step: 20, resolution: 10, censored: None }));
        assert_eq!(damage.permanent, 0.25);
        // Never by half: known for as long as was looked.
        let lasting = series(&[5.0, 4.0, 3.0, 6.0, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
        let damage = Damage::of(Some(&lasting), Some(&trunk), 20).unwrap();
        assert_eq!(damage.half_life.map(|life| (life.step, life.censored)), Some((80, Some(Censored::After))));
        assert_eq!(damage.permanent, 1.0);
        assert_eq!(Damage::of(Some(&trunk), Some(&trunk), 20), None);
        assert_eq!(Damage::of(None, Some(&trunk), 20), None);
    }

    #[test]
    fn a_history_is_the_trunks_before_the_pulse_and_its_own_behind() {
        let trunk = history("loss.test", -1, series(&[9.0, 8.0, 7.0, 6.0]));
        let arm = Series { steps: vec![20, 30], values: vec![1.0, 2.0] };
        let whole = trunk.then(&history("loss.test", -1, arm), 20);
        assert_eq!(
            *whole.one("loss.test").unwrap(),
            Series { steps: vec![0, 10, 20, 30], values: vec![9.0, 8.0, 1.0, 2.0] }
        );
        assert_eq!(whole.last("loss.test"), Some(2.0));
        // A key that lived before the pulse is not born by it.
        let every = |steps: std::ops::Range<i64>| {
            let steps: Vec<i64> = steps.map(|at| 10 * at).collect();
            Series { values: vec![1.0; steps.len()], steps }
        };
        let trunk = history(LOGIT_KEYS, 3, every(2..20));
        let arm = history(LOGIT_KEYS, 3, every(10..20));
        let other = arm.series.iter().map(|(key, s)| (Key { index: 4, ..key.clone() }, s.clone())).collect();
        let other = History { series: other, first: 0 };
        let mut catalog = Catalog::default();
        catalog.metrics.insert(LOGIT_KEYS.to_owned(), crate::record::Described { every: 10, ..Default::default() });
        let onset = |of: &History| Watched::FirstKey.onset(of, &catalog, 0, 190).unwrap();
        assert_eq!(onset(&trunk.then(&arm, 100)), Onset { step: 20, resolution: 10, censored: None });
        assert_eq!(onset(&trunk.then(&other, 100)), Onset { step: 100, resolution: 10, censored: None });
        assert_eq!(onset(&History::default()), Onset::not_by(190));
        // What a fork shows at its first look was born by then, and what is measured out of turn at the end is no look.
        let fork = History { first: 95, ..history(LOGIT_KEYS, 3, every(10..20)) };
        assert_eq!(onset(&fork).words(), "by step 100");
        let mut late = every(16..20);
        late.steps.push(195);
        late.values.push(1.0);
        let late = Watched::FirstKey.onset(&history(LOGIT_KEYS, 3, late), &catalog, 0, 195).unwrap();
        assert_eq!(late, Onset::not_by(150));
        assert_eq!((trunk.keys(190), trunk.keys(200)), (BTreeSet::from([3]), BTreeSet::new()));
    }

    #[test]
    fn an_event_of_ones_own_is_of_the_place_that_it_names() {
        let event = |head| EventConfig {
            name: "a".to_owned(),
            metric: "m".to_owned(),
            at_least: Some(0.5),
            at_most: None,
            site: None,
            layer: None,
            head,
            index: None,
        };
        let mut of = History::default();
        for (head, from) in [(0, 3), (1, 6)] {
            let key = Key { metric: "m".to_owned(), site: String::new(), layer: 0, head, index: -1, replica: 0 };
            of.series.insert(key, series(&(0..20).map(|at| if at < from { 0.4 } else { 0.5 }).collect::<Vec<_>>()));
        }
        let mut catalog = Catalog::default();
        catalog.metrics.insert("m".to_owned(), crate::record::Described { every: 10, ..Default::default() });
        let step = |head| Watched::Own(&event(head)).onset(&of, &catalog, 0, 190).unwrap().step;
        assert_eq!([step(None), step(Some(0)), step(Some(1))], [30, 30, 60]);
        assert!(Watched::Own(&event(Some(2))).onset(&of, &catalog, 0, 190).is_none());
    }
}
