//! When a replica did what: first crossings that last, seen at every measurement.

use std::collections::{BTreeMap, BTreeSet};

use super::derived::NORM;
use crate::instrument::LOGIT_KEYS as KEYS;
use crate::record::{Catalog, Key, Series};
use crate::stats::{LASTING, Living, Onset, Reach, Watch};

/// An event on the step axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Short name for the charts.
    pub name: &'static str,
    /// When, and how exactly that is known.
    pub onset: Onset,
    /// What was found, for the table.
    pub meaning: String,
}

/// Accuracy from which a split counts as learned.
const HIGH_ACCURACY: f64 = 0.99;
/// A spike takes the train loss from below `LOW` to above `HIGH`, nats.
const LOW: f32 = 1e-4;
const HIGH: f32 = 1e-3;
/// Rise of FSD over its first value that counts: neurons without relation keep within 0.1 of it.
const FSD_RISE: f32 = 0.2;
/// Share of its first value to which the dimension of W_E falls.
const FALL: f32 = 0.75;

/// A number that is to cross a threshold, which may follow from its first value.
#[derive(Clone, Debug, Default)]
struct Crossing {
    first: Option<f32>,
    watch: Watch,
    found: Option<Onset>,
}

impl Crossing {
    fn measure(&mut self, step: u64, value: f32, beyond: impl Fn(f32, f32) -> bool) {
        // What is only seen from some step on has no first value.
        if self.first.is_none() && step > 0 {
            return;
        }
        let first = *self.first.get_or_insert(value);
        let now = self.watch.measure(step, beyond(first, value), LASTING);
        // What goes back did not stay.
        if now.is_some() {
            self.found = now.filter(|_| self.watch.is_yes());
        }
    }

    fn onset(&self) -> Option<Onset> {
        self.found.or_else(|| self.watch.until())
    }
}

/// What is watched in one replica while its rows are read.
#[derive(Default)]
pub(super) struct Watched {
    train: Option<Reach>,
    half: Option<Reach>,
    test: Option<Reach>,
    /// From where on the train loss has been no finite number.
    diverged: Option<Onset>,
    loss_is_low: bool,
    /// Step of the last measurement of the train loss.
    loss_before: u64,
    spikes: Vec<Onset>,
    fsd: Crossing,
    dimension: Crossing,
    sparsity: Option<f32>,
    /// Site of the first layer at which neurons were looked at.
    fsd_site: Option<String>,
    /// Mean cosine of attention patterns, by layer, at the last measurement.
    similarity: BTreeMap<i32, f32>,
    /// Keys of the logits.
    keys: Living<i32>,
    /// Steps between two looks at them.
    keys_every: u64,
    cleaned_up: Option<Onset>,
    measurements: u64,
    /// The first step seen, which is that of the fork where it is one.
    first: Option<u64>,
}

impl Watched {
    /// Nothing seen yet of a replica of a run of so many steps.
    pub(super) fn new(catalog: &Catalog, replica: usize, steps: u64) -> Self {
        let reach = |train: bool, threshold: f64| catalog.reach(replica, train, threshold, steps);
        Self {
            train: reach(true, HIGH_ACCURACY),
            half: reach(false, 0.5),
            test: reach(false, HIGH_ACCURACY),
            keys_every: catalog.metrics.get(KEYS).map_or(1, |keys| keys.every),
            ..Self::default()
        }
    }

    /// Takes in a number of this replica.
    pub(super) fn take(&mut self, key: &Key, step: u64, value: f32) {
        self.first.get_or_insert(step);
        match (key.metric.as_str(), key.index) {
            ("accuracy.train", _) => {
                if let Some(train) = &mut self.train {
                    train.measure(step, value);
                }
            }
            ("accuracy.test", _) => {
                for reach in [&mut self.half, &mut self.test].into_iter().flatten() {
                    reach.measure(step, value);
                }
            }
            ("loss.train", _) => {
                self.measurements += 1;
                // No hold is waited for: what is no number any more at the end of a run comes to none.
                let before = (self.measurements > 1).then_some(self.loss_before);
                self.diverged = (!value.is_finite()).then(|| self.diverged.unwrap_or(Onset::seen(step, before)));
                if self.loss_is_low && value > HIGH {
                    self.spikes.push(Onset::seen(step, Some(self.loss_before)));
                    self.loss_is_low = false;
                }
                self.loss_before = step;
                self.loss_is_low |= value < LOW;
            }
            ("fsd", -1) => {
                let site = self.fsd_site.get_or_insert_with(|| key.site.clone());
                if *site == key.site {
                    self.fsd.measure(step, value, |first, value| value >= first + FSD_RISE);
                }
            }
            ("participation_ratio", -1) if key.site == "embed.W_E" => {
                self.dimension.measure(step, value, |first, value| value <= FALL * first);
            }
            ("gini", -1) if key.site == "embed.W_E" => self.sparsity = Some(value),
            ("sync.similarity", 0) => {
                self.similarity.insert(key.layer, value);
            }
            _ => {}
        }
    }

    /// Takes in the key frequencies of the logits at a step at which they were asked for.
    pub(super) fn keys(&mut self, step: u64, keys: &BTreeSet<i32>) {
        // What is measured behind the last step, out of turn, is no look of the events either.
        if !step.is_multiple_of(self.keys_every.max(1)) {
            return;
        }
        self.keys.measure(step, keys, LASTING);
    }

    /// What follows from whole series.
    pub(super) fn finish(&mut self, series: &BTreeMap<Key, Series>, replica: i32) {
        let norm = series.iter().find(|(key, _)| key.metric == NORM && key.replica == replica);
        // Where a fork begins behind it, what was lost before is not known.
        let grokked = self.generalized().filter(|onset| onset.censored.is_none()).map(|onset| onset.step);
        self.cleaned_up = norm.zip(grokked).and_then(|((_, norm), from)| cleaned_up(norm, from as i64));
    }

    /// Train accuracy reaches 99 %.
    pub(super) fn memorized(&self) -> Option<Onset> {
        self.train.as_ref()?.onset()
    }

    /// Test accuracy reaches 99 %.
    pub(super) fn generalized(&self) -> Option<Onset> {
        self.test.as_ref()?.onset()
    }

    /// The first step seen.
    pub(super) fn first_step(&self) -> u64 {
        self.first.unwrap_or(0)
    }

    /// From where on the train loss has been no finite number; nothing that is measured behind that means anything.
    pub(super) fn diverged(&self) -> Option<Onset> {
        self.diverged
    }

    /// FSD of the first layer rises by 0.2 over its value at the first step; `None` where that is not known.
    pub(super) fn synchronized(&self) -> Option<Onset> {
        self.fsd.onset()
    }

    /// The participation ratio of W_E falls to 3/4 of its value at the first step; `None` where that is not known.
    pub(super) fn lost_dimensions(&self) -> Option<Onset> {
        self.dimension.onset()
    }

    /// The last Gini coefficient of W_E, where it is a number.
    pub(super) fn sparsity(&self) -> Option<f32> {
        self.sparsity.filter(|last| last.is_finite())
    }

    /// The last mean cosine of attention patterns, over layers, where all are numbers.
    pub(super) fn similarity(&self) -> Option<f32> {
        let count = self.similarity.len() as f32;
        Some(self.similarity.values().sum::<f32>() / count).filter(|mean| mean.is_finite())
    }

    /// The birth of the oldest of the keys of the logits that live at the end.
    pub(super) fn first_key(&self) -> Option<Onset> {
        self.keys.oldest()
    }

    /// What the measurements of this run could have shown, and have not by the last of them.
    pub(super) fn missing(&self) -> Vec<(&'static str, Onset)> {
        let looked = self.dates().into_iter().take(4);
        looked.filter_map(|(name, onset)| Some((name, onset.filter(|onset| onset.began().is_none())?))).collect()
    }

    /// When each event came, or by when it had not; `None` of those that were not looked for. Nothing comes behind a
    /// divergence.
    pub(super) fn dates(&self) -> [(&'static str, Option<Onset>); 7] {
        let all = [
            ("memorized", self.memorized()),
            ("generalizing", self.half.as_ref().and_then(Reach::onset)),
            ("grokked", self.generalized()),
            ("first key", self.first_key()),
            ("neurons synchronized", self.synchronized()),
            ("embedding lost dimensions", self.lost_dimensions()),
            ("cleaned up", self.cleaned_up),
        ];
        all.map(|(name, onset)| {
            let by = |onset: Onset| match self.diverged {
                Some(diverged) if onset.step >= diverged.step => Onset::not_by(diverged.step),
                _ => onset,
            };
            (name, onset.map(by))
        })
    }

    /// The events, in order of step.
    pub(super) fn phases(&self) -> Vec<Phase> {
        let mut phases = Vec::new();
        if self.measurements == 1 {
            // One measurement is no history.
            return phases;
        }
        let mut add = |name, onset: Option<Onset>, meaning: &str| {
            let began = onset.filter(|onset| onset.began().is_some());
            phases.extend(began.map(|onset| Phase { name, onset, meaning: meaning.to_owned() }));
        };
        add(
            "diverged",
            self.diverged,
            "the train loss is no finite number any more; nothing after this means anything",
        );
        if self.diverged.is_some() {
            return phases;
        }
        let spikes = format!(
            "the train loss rises above {HIGH} after having been below {LOW}: {} such episodes from here on",
            self.spikes.len()
        );
        add("spikes", self.spikes.first().copied(), &spikes);
        add("memorized", self.memorized(), "training accuracy reaches 99 %");
        add("generalizing", self.half.as_ref().and_then(Reach::onset), "test accuracy reaches 50 %");
        add("grokked", self.generalized(), "test accuracy reaches 99 %");
        add(
            "cleaned up",
            self.cleaned_up,
            "nine tenths of what the norm of all weights loses from grokking to its least are lost",
        );
        if let Some((first, onset)) = self.keys.since().iter().min_by_key(|(_, onset)| onset.step) {
            let mut all: Vec<(u64, i32)> = self.keys.since().iter().map(|(k, onset)| (onset.step, *k)).collect();
            all.sort_unstable();
            let all: Vec<String> = all.iter().map(|(step, k)| format!("{k} (from step {step})")).collect();
            let text =
                format!("frequency {first} becomes key in the logits and stays; keys at the end: {}", all.join(", "));
            add("first key", Some(*onset), &text);
        }
        phases.sort_by_key(|phase| phase.onset.step);
        phases
    }
}

/// When 9/10 of the fall of the norm after step `from` are done; `None` where it loses less than a twentieth, or is still
/// falling at the end of the run.
fn cleaned_up(norm: &Series, from: i64) -> Option<Onset> {
    let at = norm.steps.partition_point(|step| *step < from);
    let (steps, values) = (&norm.steps[at..], &norm.values[at..]);
    let first = *values.first()?;
    let least = values.iter().copied().fold(first, f32::min);
    let done = values.iter().position(|value| *value <= least + 0.1 * (first - least))?;
    // A fall that ends with the run has not come to its end.
    (least < 0.95 * first && done < values.len() * 9 / 10).then(|| {
        let before = steps[done.saturating_sub(1)];
        Onset::seen(steps[done] as u64, Some(before as u64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Described, Predictions};
    use crate::stats::{Censored, Sample};

    fn reached(sample: Sample, shares: impl Iterator<Item = f32>) -> Onset {
        let mut reach = Reach::new(sample, HIGH_ACCURACY, 4000);
        shares.enumerate().for_each(|(at, share)| reach.measure(10 * at as u64, share));
        reach.onset().unwrap()
    }

    #[test]
    fn an_accuracy_must_last_and_its_date_has_a_resolution() {
        let whole = Sample { trials: 1000, fresh: false, chance: 0.01 };
        let from = |at: usize, count: usize| (0..count).map(move |now| if now >= at { 1.0 } else { 0.2 });
        assert_eq!(reached(whole, from(4, 9)), Onset { step: 40, resolution: 10, censored: None });
        // At the very last measurements it is no event yet: they may be the first of many, so not by the step before.
        assert_eq!(reached(whole, from(5, 9)), Onset { step: 40, resolution: 0, censored: Some(Censored::After) });
        assert_eq!(reached(whole, from(99, 9)).words(), "not by step 80");
        assert_eq!(reached(whole, from(0, 9)).words(), "by step 0");
        assert_eq!(reached(whole, from(0, 4)).words(), "not by step 0", "four measurements do not last");
    }

    #[test]
    fn a_loss_that_ends_as_no_number_has_diverged_however_late() {
        let phases = |losses: &[f32]| {
            let mut watched = Watched::new(&Catalog::default(), 0, 100);
            let key = Key {
                metric: "loss.train".to_owned(),
                site: String::new(),
                layer: -1,
                head: -1,
                index: -1,
                replica: 0,
            };
            losses.iter().zip(0..).for_each(|(loss, at)| watched.take(&key, 10 * at, *loss));
            watched.phases().iter().map(|phase| (phase.name, phase.onset.step)).collect::<Vec<_>>()
        };
        assert_eq!(phases(&[1.0, 0.5, f32::NAN]), [("diverged", 20)], "the last measurement alone");
        assert_eq!(phases(&[1.0, f32::INFINITY, f32::NAN, f32::NAN]), [("diverged", 10)]);
        assert_eq!(phases(&[1.0, f32::INFINITY, 0.9]), [], "it came back");
    }

    #[test]
    fn guesses_in_small_batches_are_no_milestone() {
        // A model that guesses between two classes on batches of one: a coin has runs of nine heads in 1,000 throws.
        let coin = |at: u64| (crate::gpu::Philox::new(7, crate::gpu::Stream::Probe, 0).below(at, 2)) as f32;
        let one = Sample { trials: 1, fresh: true, chance: 0.5 };
        let runs = (0..996).filter(|at| (*at..at + 5).all(|at| coin(at) == 1.0)).count();
        assert!(runs > 0, "five in a row come by chance");
        assert_eq!(reached(one, (0..1000).map(coin)).began(), None);
        // One that knows is seen through batches of one too, and dated by the first of many right answers.
        let learned = reached(one, (0..4000).map(|at| if at < 300 { coin(at) } else { 1.0 }));
        assert!((250..=300).contains(&(learned.step / 10)), "{learned:?}");
        // A test set of three examples says nothing, however often it is looked at.
        assert_eq!(reached(Sample { trials: 3, fresh: false, chance: 0.5 }, (0..500).map(|_| 1.0)).began(), None);
    }

    #[test]
    fn the_most_frequent_answer_alone_is_no_milestone() {
        // 99.5 % of 10,000 test targets are of one of two classes; the training set is balanced.
        let predictions =
            vec![Predictions { train: 10_000, train_drawn: false, test: 10_000, most_frequent: [0.5, 0.995] }];
        let metric = |every| Described { every, ..Described::default() };
        let metrics = ["accuracy.train", "accuracy.test"].map(|name| (name.to_owned(), metric(10))).into();
        let catalog = Catalog { classes: 2, predictions, metrics };
        let dated = |share: f32| {
            let mut watched = Watched::new(&catalog, 0, 1000);
            for metric in ["accuracy.train", "accuracy.test"] {
                let (metric, site) = (metric.to_owned(), String::new());
                let key = Key { metric, site, layer: -1, head: -1, index: -1, replica: 0 };
                (0..9).for_each(|at| watched.take(&key, 10 * at, share));
            }
            [watched.memorized(), watched.half.as_ref().unwrap().onset(), watched.generalized()]
                .map(|onset| onset.unwrap().began().is_some())
        };
        // What one answer reaches says something of the balanced set alone; all right, of both.
        assert_eq!(dated(0.995), [true, false, false]);
        assert_eq!(dated(1.0), [true; 3]);
        // Four classes, of which none is frequent: one in four is right by guessing.
        let even = Catalog {
            classes: 4,
            predictions: vec![Predictions { most_frequent: [0.1; 2], ..catalog.predictions[0] }],
            ..catalog.clone()
        };
        assert_eq!([true, false].map(|train| even.sample(0, train).unwrap().chance), [0.25; 2]);
    }

    #[test]
    fn a_key_dates_from_where_it_stays_and_one_at_the_end_is_none() {
        let mut watched = Watched::new(&Catalog::default(), 0, 1000);
        for step in 0..20u64 {
            let mut keys = BTreeSet::new();
            keys.extend((step >= 6).then_some(5));
            // There for a while, and only just there.
            keys.extend((2..8).contains(&step).then_some(3));
            keys.extend((step >= 17).then_some(9));
            watched.keys(10 * step, &keys);
        }
        assert_eq!(watched.first_key(), Some(Onset { step: 60, resolution: 10, censored: None }));
        let mut late = Watched::new(&Catalog::default(), 0, 1000);
        (0..20u64).for_each(|step| late.keys(step, &(step >= 17).then_some(9).into_iter().collect()));
        // It may have come to stay after step 16.
        assert_eq!(late.first_key(), Some(Onset { step: 16, resolution: 0, censored: Some(Censored::After) }));
        assert_eq!(Watched::new(&Catalog::default(), 0, 1000).first_key(), None);
    }

    #[test]
    fn what_is_measured_out_of_turn_at_the_end_of_a_run_is_no_look() {
        let metrics = [(KEYS.to_owned(), Described { every: 10, ..Described::default() })].into();
        let mut watched = Watched::new(&Catalog { metrics, ..Catalog::default() }, 0, 97);
        // Key at 60, 70, 80, 90 and behind the last step: four looks do not last.
        for step in (0..=90).step_by(10).chain([97]) {
            watched.keys(step, &(step >= 60).then_some(3).into_iter().collect());
        }
        assert_eq!(watched.first_key(), Some(Onset::not_by(50)));
        watched.keys(100, &[3].into());
        assert_eq!(watched.first_key(), Some(Onset { step: 60, resolution: 10, censored: None }));
    }

    #[test]
    fn a_rise_that_goes_back_did_not_stay() {
        let onset = |values: &str| {
            let mut rise = Crossing::default();
            let value = |mark: char| if mark == '#' { 1.0 } else { 0.0 };
            values.chars().enumerate().for_each(|(at, mark)| rise.measure(10 * at as u64, value(mark), |_, x| x > 0.5));
            rise.onset().unwrap().began()
        };
        assert_eq!(onset("..######"), Some(20));
        assert_eq!(onset("..######.##.#"), Some(20), "four measurements are no return");
        assert_eq!(onset("..######......"), None);
        assert_eq!(onset("..######.....######"), Some(130));
    }

    #[test]
    fn cleaning_up_is_a_fall_that_ends() {
        let norm = |value: &dyn Fn(f32) -> f32| Series {
            steps: (0..100).collect(),
            values: (0..100).map(|step| value(step as f32)).collect(),
        };
        // From 50 at step 20 to 30 at step 60: nine tenths are 32, at step 56.
        let falling = norm(&|step| 50.0 - 0.5 * (step - 20.0).clamp(0.0, 40.0));
        assert_eq!(cleaned_up(&falling, 10).map(|onset| onset.step), Some(56));
        assert_eq!(cleaned_up(&norm(&|_| 50.0), 10), None);
        assert_eq!(cleaned_up(&norm(&|step| 150.0 - step), 10), None, "it goes on to the end");
    }

    #[test]
    fn a_fork_behind_generalization_does_not_know_what_was_lost_before() {
        let catalog = || {
            let metrics = [("accuracy.test".to_owned(), Described { every: 10, ..Described::default() })].into();
            let predictions = vec![Predictions { train: 100, train_drawn: false, test: 1000, most_frequent: [0.0; 2] }];
            Catalog { classes: 59, predictions, metrics }
        };
        let key = |metric: &str| Key {
            metric: metric.to_owned(),
            site: String::new(),
            layer: -1,
            head: -1,
            index: -1,
            replica: 0,
        };
        let cleaned = |first: u64| {
            let steps: Vec<u64> = (first..=1000).step_by(10).collect();
            let mut watched = Watched::new(&catalog(), 0, 1000);
            steps.iter().for_each(|step| {
                watched.take(&key("accuracy.test"), *step, if *step >= 200 { 1.0 } else { 0.1 });
            });
            let values = steps.iter().map(|step| 50.0 - 0.1 * (*step as f32 - 200.0).clamp(0.0, 300.0)).collect();
            let norm = Series { steps: steps.iter().map(|step| *step as i64).collect(), values };
            watched.finish(&[(key(NORM), norm)].into(), 0);
            watched.cleaned_up.map(|onset| onset.step)
        };
        assert_eq!((cleaned(0), cleaned(300)), (Some(470), None));
    }

    #[test]
    fn a_spike_needs_a_low_loss_before_it() {
        let mut watched = Watched::new(&Catalog::default(), 0, 1000);
        let loss = Key { metric: "loss.train".into(), site: String::new(), layer: -1, head: -1, index: -1, replica: 0 };
        for (step, value) in [1.0, 5e-4, 2e-3, 5e-5, 5e-4, 2e-3, 3e-3, 5e-4, 2e-3, 9e-5, 1.1e-3].into_iter().enumerate()
        {
            watched.take(&loss, 10 * step as u64, value);
        }
        assert_eq!(watched.spikes, [50, 100].map(|step| Onset { step, resolution: 10, censored: None }));
    }
}
