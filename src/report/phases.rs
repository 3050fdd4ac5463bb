//! When a replica did what: first crossings that hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Key, Series};

/// An event on the step axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Short name for the charts.
    pub name: &'static str,
    /// First step at which it holds.
    pub step: i64,
    /// What was found, for the table.
    pub meaning: String,
}

/// Measurements in a row for which a crossing must hold; fewer are noise.
pub(super) const HOLD: usize = 5;

/// Accuracy from which a split counts as learned.
pub(super) const HIGH_ACCURACY: f32 = 0.99;

/// First step from which `holds` is true for [`HOLD`] measurements, or to the end.
pub(super) fn crossing(series: &Series, holds: impl Fn(f32) -> bool) -> Option<i64> {
    (0..series.values.len())
        .find(|at| series.values[*at..].iter().take(HOLD).all(|value| holds(*value)))
        .map(|at| series.steps[at])
}

/// A spike takes the train loss from below `LOW` to above `HIGH`, nats.
const LOW: f32 = 1e-4;
const HIGH: f32 = 1e-3;

/// The steps at which spikes begin.
fn spikes(loss: &Series) -> Vec<i64> {
    let mut was_low = false;
    let mut spikes = Vec::new();
    for (step, value) in loss.steps.iter().zip(&loss.values) {
        if was_low && *value > HIGH {
            spikes.push(*step);
            was_low = false;
        }
        was_low |= *value < LOW;
    }
    spikes
}

/// The events of a replica, in order of step.
pub(super) fn find(series: &BTreeMap<Key, Series>, replica: i32) -> Vec<Phase> {
    let get =
        |metric: &str| series.iter().find(|(key, _)| key.metric == metric && key.replica == replica).map(|(_, s)| s);
    let mut phases = Vec::new();
    if series.values().all(|s| s.steps.len() < 2) {
        // One measurement is no history.
        return phases;
    }
    if let Some(step) = get("loss.train").and_then(|loss| crossing(loss, |value| !value.is_finite())) {
        phases.push(Phase {
            name: "diverged",
            step,
            meaning: "the train loss is no finite number any more; nothing after this means anything".to_owned(),
        });
        return phases;
    }
    let mut add = |name, step: Option<i64>, meaning: &str| {
        phases.extend(step.map(|step| Phase { name, step, meaning: meaning.to_owned() }));
    };
    if let Some(loss) = get("loss.train") {
        let spikes = spikes(loss);
        let meaning = format!(
            "the train loss rises above {HIGH} after having been below {LOW}: {} such episodes from here on",
            spikes.len()
        );
        add("spikes", spikes.first().copied(), &meaning);
    }
    if let Some(accuracy) = get("accuracy.train") {
        add("memorized", crossing(accuracy, |a| a >= HIGH_ACCURACY), "training accuracy reaches 99 %");
    }
    if let Some(accuracy) = get("accuracy.test") {
        add("generalizing", crossing(accuracy, |a| a >= 0.5), "test accuracy reaches 50 %");
        let grokked = crossing(accuracy, |a| a >= HIGH_ACCURACY);
        add("grokked", grokked, "test accuracy reaches 99 %");
        let clean = grokked.and_then(|from| cleaned_up(&weight_norm(series, replica), from));
        add(
            "cleaned up",
            clean,
            "nine tenths of what the norm of all weights loses from grokking to its least are lost",
        );
    }
    if let Some(step) = first_key(series, replica) {
        add("first key", Some(step.0), &step.1);
    }
    phases.sort_by_key(|phase| phase.step);
    phases
}

/// Norm of all weights together.
fn weight_norm(series: &BTreeMap<Key, Series>, replica: i32) -> Series {
    let mut squares: BTreeMap<i64, f32> = BTreeMap::new();
    for (_, norm) in series.iter().filter(|(key, _)| key.metric == "weight_norm" && key.replica == replica) {
        for (step, value) in norm.steps.iter().zip(&norm.values) {
            *squares.entry(*step).or_default() += value * value;
        }
    }
    let (steps, values) = squares.into_iter().map(|(step, square)| (step, square.sqrt())).unzip();
    Series { steps, values }
}

/// The step at which 9/10 of the fall of the norm after step `from` are done; `None` where it loses less than a
/// twentieth, or is still falling at the end of the run.
fn cleaned_up(norm: &Series, from: i64) -> Option<i64> {
    let at = norm.steps.partition_point(|step| *step < from);
    let (steps, values) = (&norm.steps[at..], &norm.values[at..]);
    let first = *values.first()?;
    let least = values.iter().copied().fold(first, f32::min);
    let done = values.iter().position(|value| *value <= least + 0.1 * (first - least))?;
    // A fall that ends with the run has not come to its end.
    (least < 0.95 * first && done < values.len() * 9 / 10).then(|| steps[done])
}

/// The first step from which one of the keys the run ends with stays key in the logits.
pub(super) fn first_key(series: &BTreeMap<Key, Series>, replica: i32) -> Option<(i64, String)> {
    const METRIC: &str = "key_frequencies.logits";
    let keys: Vec<(&Key, &Series)> =
        series.iter().filter(|(key, _)| key.metric == METRIC && key.replica == replica).collect();
    // Steps at which the logits were looked at: those of the restricted loss, which is always written.
    let looked: Vec<i64> = series
        .iter()
        .find(|(key, _)| key.metric == "loss.restricted" && key.replica == replica && key.index == 0)
        .map(|(_, s)| s.steps.clone())?;
    let born = |steps: &[i64]| {
        let present: BTreeSet<i64> = steps.iter().copied().collect();
        looked.iter().rev().take_while(|step| present.contains(step)).last().copied()
    };
    let births: Vec<(i64, i32)> = keys.iter().filter_map(|(key, s)| Some((born(&s.steps)?, key.index))).collect();
    let first = births.iter().min()?;
    let all: Vec<String> = births.iter().map(|(step, k)| format!("{k} (from step {step})")).collect();
    Some((
        first.0,
        format!("frequency {} becomes key in the logits and stays; keys at the end: {}", first.1, all.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crossing_must_hold() {
        let series =
            Series { steps: (0..10).collect(), values: vec![0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0] };
        assert_eq!(crossing(&series, |v| v > 0.5), Some(4));
        let late = Series { steps: vec![0, 5], values: vec![0.0, 1.0] };
        assert_eq!(crossing(&late, |v| v > 0.5), Some(5));
        assert_eq!(crossing(&late, |v| v > 2.0), None);
    }

    #[test]
    fn cleaning_up_is_a_fall_that_ends() {
        let norm = |value: &dyn Fn(f32) -> f32| Series {
            steps: (0..100).collect(),
            values: (0..100).map(|step| value(step as f32)).collect(),
        };
        // From 50 at step 20 to 30 at step 60: nine tenths are 32, at step 56.
        let falling = norm(&|step| 50.0 - 0.5 * (step - 20.0).clamp(0.0, 40.0));
        assert_eq!(cleaned_up(&falling, 10), Some(56));
        assert_eq!(cleaned_up(&norm(&|_| 50.0), 10), None);
        assert_eq!(cleaned_up(&norm(&|step| 150.0 - step), 10), None, "it goes on to the end");
    }

    #[test]
    fn a_spike_needs_a_low_loss_before_it() {
        let values = vec![1.0, 5e-4, 2e-3, 5e-5, 5e-4, 2e-3, 3e-3, 5e-4, 2e-3, 9e-5, 1.1e-3];
        assert_eq!(spikes(&Series { steps: (0..11).collect(), values }), [5, 10]);
    }
}
