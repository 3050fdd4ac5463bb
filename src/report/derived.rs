//! Series that follow from others.

use std::collections::BTreeMap;

use crate::record::{Key, Series};

/// Number of key frequencies; the rule stands for the site.
pub(super) const KEY_COUNT: &str = "key count";
/// Running average of `noise.trace` by that of `noise.signal`.
pub(super) const NOISE_SCALE: &str = "noise scale";

/// `phase_synchrony` of the frequencies that enough neurons follow.
pub(super) const FOLLOWED: &str = "phase synchrony of many";

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

/// Adds everything that can be derived.
pub(super) fn add(series: &mut BTreeMap<Key, Series>) {
    let mut found = Vec::new();
    for replica in 0..=series.keys().map(|key| key.replica).max().unwrap_or(0) {
        let key = |metric: &str, site: &str| Key {
            metric: metric.to_owned(),
            site: site.to_owned(),
            layer: -1,
            head: -1,
            index: -1,
            replica,
        };
        for (metric, name, asked, index) in RULES {
            found.extend(key_count(series, replica, metric, asked, index).map(|s| (key(KEY_COUNT, name), s)));
        }
        found.extend(noise_scale(series, replica).map(|s| (key(NOISE_SCALE, ""), s)));
    }
    for (key, phases) in series.iter().filter(|(key, _)| key.metric == "phase_synchrony") {
        let followers = series.get(&Key { metric: "fsd.participation".to_owned(), ..key.clone() });
        found.push((Key { metric: FOLLOWED.to_owned(), ..key.clone() }, followed(phases, followers)));
    }
    series.extend(found);
}

/// No number where fewer than [`FOLLOWERS`] neurons follow.
fn followed(phases: &Series, followers: Option<&Series>) -> Series {
    let enough = |step: &i64| {
        followers.is_some_and(|found| found.steps.binary_search(step).is_ok_and(|at| found.values[at] >= FOLLOWERS))
    };
    let value = |(step, value): (&i64, &f32)| if enough(step) { *value } else { f32::NAN };
    Series { steps: phases.steps.clone(), values: phases.steps.iter().zip(&phases.values).map(value).collect() }
}

/// A key has a row only where it is one, so that steps without any are known by another metric.
fn key_count(series: &BTreeMap<Key, Series>, replica: i32, metric: &str, asked: &str, index: i32) -> Option<Series> {
    let (_, looked) =
        series.iter().find(|(key, _)| key.metric == asked && key.index == index && key.replica == replica)?;
    let mut count: BTreeMap<i64, f32> = looked.steps.iter().map(|step| (*step, 0.0)).collect();
    let rows = series.iter().filter(|(key, _)| key.metric == metric && key.replica == replica);
    for step in rows.flat_map(|(_, s)| &s.steps) {
        *count.entry(*step).or_default() += 1.0;
    }
    let (steps, values) = count.into_iter().unzip();
    // A task may know the one rule and not the other.
    series.keys().any(|key| key.metric == metric).then_some(Series { steps, values })
}

fn noise_scale(series: &BTreeMap<Key, Series>, replica: i32) -> Option<Series> {
    let total = |metric: &str| {
        let mut total: BTreeMap<i64, f64> = BTreeMap::new();
        let rows = series.iter().filter(|(key, _)| key.metric == metric && key.replica == replica);
        for (step, value) in rows.flat_map(|(_, s)| s.steps.iter().zip(&s.values)) {
            *total.entry(*step).or_default() += f64::from(*value);
        }
        total
    };
    let (trace, signal) = (total("noise.trace"), total("noise.signal"));
    let mut means: Option<(f64, f64)> = None;
    let mut scale = Series::default();
    for (step, trace) in trace {
        let signal = *signal.get(&step)?;
        let (t, s) = means.unwrap_or((trace, signal));
        let now = (t + RENEWED * (trace - t), s + RENEWED * (signal - s));
        means = Some(now);
        // Below 0 the signal is lost in its own noise, and there is no scale.
        if now.1 > 0.0 {
            scale.steps.push(step);
            scale.values.push((now.0 / now.1) as f32);
        }
    }
    (!scale.steps.is_empty()).then_some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_shown_where_enough_neurons_follow() {
        let phases = Series { steps: vec![0, 10, 20], values: vec![1.0, 0.5, 0.25] };
        // Not every step has both.
        let followers = Series { steps: vec![0, 20], values: vec![4.0, 5.0] };
        let mut series =
            BTreeMap::from([(key("phase_synchrony", 3), phases), (key("fsd.participation", 3), followers)]);
        add(&mut series);
        let shown = &series[&key(FOLLOWED, 3)];
        assert_eq!(shown.steps, [0, 10, 20]);
        assert!(shown.values[0].is_nan() && shown.values[1].is_nan() && shown.values[2] == 0.25, "{shown:?}");
        assert!(!series.contains_key(&key(FOLLOWED, 4)));
    }

    fn key(metric: &str, index: i32) -> Key {
        Key { metric: metric.to_owned(), site: String::new(), layer: -1, head: -1, index, replica: 0 }
    }

    #[test]
    fn steps_without_keys_count_none() {
        let mut series = BTreeMap::new();
        series.insert(key("gini", -1), Series { steps: vec![0, 1, 2], values: vec![0.0; 3] });
        series.insert(key("key_frequencies", 3), Series { steps: vec![1, 2], values: vec![1.0; 2] });
        series.insert(key("key_frequencies", 5), Series { steps: vec![2], values: vec![1.0] });
        add(&mut series);
        let count = &series[&Key { site: "W_E".to_owned(), ..key(KEY_COUNT, -1) }];
        assert_eq!(count.values, [0.0, 1.0, 2.0]);
        assert!(!series.keys().any(|key| key.site == "neurons"));
    }

    #[test]
    fn the_noise_scale_is_a_ratio_of_averages() {
        let steps: Vec<i64> = (0..400).collect();
        // Signal 2 on average and often below 0: the mean of ratios would be far off.
        let signal: Vec<f32> = steps.iter().map(|step| if step % 2 == 0 { 5.0 } else { -1.0 }).collect();
        let mut series = BTreeMap::new();
        series.insert(key("noise.signal", -1), Series { steps: steps.clone(), values: signal });
        series.insert(key("noise.trace", -1), Series { steps, values: vec![60.0; 400] });
        add(&mut series);
        let last = *series[&key(NOISE_SCALE, -1)].values.last().unwrap();
        // 60 / 2, within the ripple of the running average: 0.1 of 3.
        assert!((last - 30.0).abs() < 5.0, "{last}");
    }
}
