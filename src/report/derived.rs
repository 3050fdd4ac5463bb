//! Series that follow from others, step by step.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::{DERIVED, Thinned};
use super::phases::Watched;
use crate::record::{Key, Series};

/// Number of key frequencies; the rule stands for the site.
pub(super) const KEY_COUNT: &str = "key count";
/// Running average of `noise.trace` by that of `noise.signal`; no number where the signal is lost in its noise.
pub(super) const NOISE_SCALE: &str = "noise scale";
/// Norm of all weights together.
pub(super) const NORM: &str = "norm of all weights";
/// `phase_synchrony` of the frequencies that enough neurons follow.
pub(super) const FOLLOWED: &str = "phase synchrony of many";
/// Calibration errors, debiased, on the scale of the ECE. Of the probe: the root of the squared error, with its sign. Of an
/// ablation: the root of its squared error less that of the clean model, each 0 where the square is below 0, for a squared
/// error says nothing of the root of a change of it.
pub(super) const DEBIASED: &str = "debiased calibration error";
/// Where pairs of untrained heads lie in `sync.gradient`: index 0 two standard deviations below their mean, 1 above.
pub(super) const UNTRAINED: &str = "sync.gradient of untrained heads";

/// Neurons that are enough: phases of fewer agree by chance.
const FOLLOWERS: f32 = 5.0;
/// How much of a running average one measurement renews.
const RENEWED: f64 = 0.1;

/// Rules for keys: metric, name, and the metric and index that are written whenever the rule is asked.
const RULES: [(&str, &str, &str, i32); 3] = [
    ("key_frequencies", "W_E", "gini", -1),
    ("key_frequencies.logits", "logits", "loss.restricted", 0),
    ("key_frequencies.neurons", "neurons", "neuron_fve", 0),
];
/// The rule by which the first key is dated.
const LOGITS: usize = 1;

/// What one step says.
#[derive(Default)]
struct Step {
    /// By rule and layer: whether it was asked, and the keys.
    keys: BTreeMap<(usize, i32), (bool, BTreeSet<i32>)>,
    trace: Option<f64>,
    signal: Option<f64>,
    square: Option<f64>,
    /// Squared calibration error of the clean model, and what ablations change it by.
    calibration: Option<f64>,
    ablated: Vec<(Key, f64)>,
    /// Cosines of untrained heads.
    untrained: BTreeMap<(String, i32), Vec<f64>>,
}

/// What follows from the series of one replica.
#[derive(Default)]
pub(super) struct Derived {
    now: Step,
    counts: BTreeMap<(usize, i32), (bool, Option<Thinned>)>,
    /// Running averages of trace and signal.
    means: Option<(f64, f64)>,
    scale: Option<Thinned>,
    norm: Option<Thinned>,
    /// Of ablations.
    errors: BTreeMap<Key, Thinned>,
    /// By site, layer, and index.
    untrained: BTreeMap<(String, i32, i32), Thinned>,
}

fn push(series: &mut Option<Thinned>, step: i64, value: f32) {
    series.get_or_insert_with(Thinned::extremes).push(step, value, DERIVED);
}

impl Derived {
    /// Takes in a number of the present step.
    pub(super) fn take(&mut self, key: &Key, value: f32) {
        let value = f64::from(value);
        match key.metric.as_str() {
            "noise.trace" => *self.now.trace.get_or_insert(0.0) += value,
            "noise.signal" => *self.now.signal.get_or_insert(0.0) += value,
            "weight_norm" => *self.now.square.get_or_insert(0.0) += value * value,
            "probe.calibration" => self.now.calibration = Some(value),
            "ablation.calibration" => self.now.ablated.push((debiased(key), value)),
            "sync.gradient.null" => {
                self.now.untrained.entry((key.site.clone(), key.layer)).or_default().push(value);
            }
            metric => {
                for (rule, (name, _, asked, index)) in RULES.iter().enumerate() {
                    // What is asked of the whole model has rows at layer -1, or at one site of several.
                    let layer = if rule == 2 { key.layer } else { -1 };
                    if metric == *asked && key.index == *index {
                        self.now.keys.entry((rule, layer)).or_default().0 = true;
                    }
                    if metric == *name {
                        self.now.keys.entry((rule, layer)).or_default().1.insert(key.index);
                    }
                }
            }
        }
    }

    /// Works out what followed from the step.
    pub(super) fn end_of_step(&mut self, step: i64, watched: &mut Watched) {
        let now = std::mem::take(&mut self.now);
        for (place, (asked, keys)) in now.keys {
            let (known, count) = self.counts.entry(place).or_default();
            *known |= !keys.is_empty();
            if asked {
                push(count, step, keys.len() as f32);
                if place.0 == LOGITS {
                    watched.keys(step as u64, &keys);
                }
            }
        }
        if let (Some(trace), Some(signal)) = (now.trace, now.signal) {
            let (t, s) = self.means.unwrap_or((trace, signal));
            let (t, s) = (t + RENEWED * (trace - t), s + RENEWED * (signal - s));
            self.means = Some((t, s));
            push(&mut self.scale, step, if s > 0.0 { (t / s) as f32 } else { f32::NAN });
        }
        if let Some(square) = now.square {
            push(&mut self.norm, step, square.sqrt() as f32);
        }
        if let Some(clean) = now.calibration {
            for (key, change) in now.ablated {
                let root = |square: f64| square.max(0.0).sqrt();
                let series = self.errors.entry(key).or_insert_with(Thinned::extremes);
                series.push(step, (root(clean + change) - root(clean)) as f32, DERIVED);
            }
        }
        for ((site, layer), cosines) in now.untrained {
            let count = cosines.len() as f64;
            let mean = cosines.iter().sum::<f64>() / count;
            let squares: f64 = cosines.iter().map(|c| (c - mean).powi(2)).sum();
            let spread = (squares / (count - 1.0)).sqrt();
            for (index, end) in [(0, mean - 2.0 * spread), (1, mean + 2.0 * spread)] {
                let series = self.untrained.entry((site.clone(), layer, index)).or_insert_with(Thinned::extremes);
                series.push(step, end as f32, DERIVED);
            }
        }
    }

    /// Adds everything that was derived, and what follows from whole series.
    pub(super) fn finish(self, replica: i32, series: &mut BTreeMap<Key, Series>) {
        let key = |metric: &str, site: String, layer: i32| Key {
            metric: metric.to_owned(),
            site,
            layer,
            head: -1,
            index: -1,
            replica,
        };
        let mut found = Vec::new();
        for ((rule, layer), (known, count)) in self.counts {
            // A task may know the one rule and not the other.
            let name = RULES[rule].1;
            let site = if layer < 0 { name.to_owned() } else { format!("{name} L{layer}") };
            found.extend(count.filter(|_| known).map(|count| (key(KEY_COUNT, site, layer), count.finish())));
        }
        found.extend(self.scale.map(|scale| (key(NOISE_SCALE, String::new(), -1), scale.finish())));
        found.extend(self.norm.map(|norm| (key(NORM, String::new(), -1), norm.finish())));
        found.extend(self.errors.into_iter().map(|(key, errors)| (key, errors.finish())));
        found.extend(
            self.untrained
                .into_iter()
                .map(|((site, layer, index), end)| (Key { index, ..key(UNTRAINED, site, layer) }, end.finish())),
        );
        for (key, given) in series.iter().filter(|(key, _)| key.replica == replica) {
            match key.metric.as_str() {
                "phase_synchrony" => {
                    let followers = series.get(&Key { metric: "fsd.participation".to_owned(), ..key.clone() });
                    found.push((Key { metric: FOLLOWED.to_owned(), ..key.clone() }, followed(given, followers)));
                }
                "probe.calibration" => {
                    let values = given.values.iter().map(|v| v.signum() * v.abs().sqrt()).collect();
                    found.push((debiased(key), Series { steps: given.steps.clone(), values }));
                }
                _ => {}
            }
        }
        series.extend(found);
    }
}

/// The place of a calibration error under [`DEBIASED`], where the metric stays known: of the probe, or of an ablation.
fn debiased(key: &Key) -> Key {
    Key { metric: DEBIASED.to_owned(), site: format!("{} {}", key.metric, key.site), ..key.clone() }
}

/// No number where fewer than [`FOLLOWERS`] neurons follow.
fn followed(phases: &Series, followers: Option<&Series>) -> Series {
    let enough = |step: &i64| {
        followers.is_some_and(|found| found.steps.binary_search(step).is_ok_and(|at| found.values[at] >= FOLLOWERS))
    };
    let value = |(step, value): (&i64, &f32)| if enough(step) { *value } else { f32::NAN };
    Series { steps: phases.steps.clone(), values: phases.steps.iter().zip(&phases.values).map(value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Catalog;

    fn key(metric: &str, layer: i32, index: i32) -> Key {
        Key { metric: metric.to_owned(), site: String::new(), layer, head: -1, index, replica: 0 }
    }

    /// What follows from rows of (metric, layer, index, step, value), in order of step.
    fn derived(rows: &[(&str, i32, i32, i64, f32)]) -> BTreeMap<Key, Series> {
        let (mut derived, mut series) = (Derived::default(), BTreeMap::new());
        let mut watched = Watched::new(&Catalog::default(), 0, 1000);
        for step in rows.chunk_by(|a, b| a.3 == b.3) {
            for (metric, layer, index, step, value) in step {
                derived.take(&key(metric, *layer, *index), *value);
                let whole: &mut Series = series.entry(key(metric, *layer, *index)).or_default();
                whole.steps.push(*step);
                whole.values.push(*value);
            }
            derived.end_of_step(step[0].3, &mut watched);
        }
        derived.finish(0, &mut series);
        series
    }

    #[test]
    fn phases_are_shown_where_enough_neurons_follow() {
        let [phase, follow] = ["phase_synchrony", "fsd.participation"];
        // Not every step has both.
        let rows = [
            (phase, 0, 3, 0, 1.0),
            (follow, 0, 3, 0, 4.0),
            (phase, 0, 3, 10, 0.5),
            (phase, 0, 3, 20, 0.25),
            (follow, 0, 3, 20, 5.0),
        ];
        let series = derived(&rows);
        let shown = &series[&key(FOLLOWED, 0, 3)];
        assert_eq!(shown.steps, [0, 10, 20]);
        assert!(shown.values[0].is_nan() && shown.values[1].is_nan() && shown.values[2] == 0.25, "{shown:?}");
        assert!(!series.contains_key(&key(FOLLOWED, 0, 4)));
    }

    #[test]
    fn steps_without_keys_count_none_and_layers_count_for_themselves() {
        let series = derived(&[
            ("gini", -1, -1, 0, 0.0),
            ("gini", -1, -1, 1, 0.0),
            ("key_frequencies", -1, 3, 1, 1.0),
            ("neuron_fve", 0, 0, 2, 0.5),
            ("neuron_fve", 1, 0, 2, 0.5),
            ("key_frequencies", -1, 3, 2, 1.0),
            ("key_frequencies", -1, 5, 2, 1.0),
            ("gini", -1, -1, 2, 0.0),
            ("key_frequencies.neurons", 0, 3, 2, 1.0),
            ("key_frequencies.neurons", 0, 5, 2, 1.0),
            ("key_frequencies.neurons", 1, 3, 2, 1.0),
        ]);
        let count =
            |site: &str, layer: i32| &series[&Key { site: site.to_owned(), ..key(KEY_COUNT, layer, -1) }].values;
        assert_eq!(count("W_E", -1), &[0.0, 1.0, 2.0]);
        assert_eq!((count("neurons L0", 0), count("neurons L1", 1)), (&vec![2.0], &vec![1.0]));
        assert!(!series.keys().any(|key| key.site == "logits"));
    }

    #[test]
    fn the_noise_scale_is_a_ratio_of_averages_and_has_gaps() {
        let mut rows = Vec::new();
        for step in 0..400 {
            // Signal 2 on average and often below 0: the mean of ratios would be far off.
            rows.push(("noise.signal", 0, -1, step, if step % 2 == 0 { 5.0 } else { -1.0 }));
            rows.push(("noise.trace", 0, -1, step, 60.0));
        }
        for step in 400..500 {
            rows.push(("noise.signal", 0, -1, step, -1.0));
            rows.push(("noise.trace", 0, -1, step, 60.0));
        }
        let series = derived(&rows);
        let scale = &series[&key(NOISE_SCALE, -1, -1)];
        // 60 / 2, within the ripple of the running average: 0.1 of 3.
        assert!((scale.values[399] - 30.0).abs() < 5.0, "{}", scale.values[399]);
        // Without a signal there is a measurement and no number.
        assert!(scale.steps.contains(&450) && scale.values[450].is_nan());
    }

    #[test]
    fn a_change_of_the_calibration_error_is_a_difference_of_roots() {
        let (probe, ablation) = ("probe.calibration", "ablation.calibration");
        // Squares 0.09 and 0.16; 0.16 and 0.09; 0.16 and below 0, which is no error; both below 0; no clean model.
        let rows = [
            (probe, -1, -1, 0, 0.09),
            (ablation, 0, -1, 0, 0.07),
            (ablation, 0, -1, 10, -0.07),
            (probe, -1, -1, 10, 0.16),
            (probe, -1, -1, 20, 0.16),
            (ablation, 0, -1, 20, -0.17),
            (probe, -1, -1, 30, -0.001),
            (ablation, 0, -1, 30, 0.0005),
            (ablation, 0, -1, 40, 0.07),
        ];
        let series = derived(&rows);
        let of = |metric: &str, layer| &series[&debiased(&key(metric, layer, -1))];
        assert_eq!(of(ablation, 0).steps, [0, 10, 20, 30]);
        for (found, expected) in of(ablation, 0).values.iter().zip([0.1, -0.1, -0.4, 0.0]) {
            // Roots of f32 numbers of order 0.1.
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
        for (found, expected) in of(probe, -1).values.iter().zip([0.3, 0.4, 0.4, -(0.001f32.sqrt())]) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn chance_for_pairs_of_heads_is_two_deviations_around_the_mean_of_untrained_ones() {
        // Mean 0.2 and deviation 0.1 in layer 0, mean 0 and deviation 0.2 in layer 1.
        let pairs = |layer: i32, cosines: [f32; 3]| {
            (0..3).zip(cosines).map(move |(pair, cosine)| ("sync.gradient.null", layer, pair, 100, cosine))
        };
        let series = derived(&pairs(0, [0.1, 0.2, 0.3]).chain(pairs(1, [-0.2, 0.0, 0.2])).collect::<Vec<_>>());
        for (layer, index, expected) in [(0, 0, 0.0), (0, 1, 0.4), (1, 0, -0.4), (1, 1, 0.4)] {
            let found = &series[&key(UNTRAINED, layer, index)];
            assert!(found.steps == [100] && (found.values[0] - expected).abs() < 1e-6, "{layer} {index}: {found:?}");
        }
    }
}
