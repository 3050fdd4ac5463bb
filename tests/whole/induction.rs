//! Two layers learn induction in the order of Olsson et al. 2022: heads that look one token back, then heads that
//! find what followed last time. One layer never does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::CommandCargoExt as _;
use thermoscope::record::{Key, Series, read_metrics};

/// What is not looked at here.
const OFF: &str = "measure.off=[\"test\", \"health\", \"norms\", \"pressure\", \"noise\", \"attention\", \"ablation\", \
                   \"sync\", \"geometry\", \"copying\", \"composition\"]";

const STEPS: &str = "400";

/// A head has begun to look somewhere at this much above uniform attention: until the loss gives it a direction, its
/// score stays within 0.01 of that.
const BEGUN: f32 = 0.05;

/// A run of the preset, cut short: everything has happened by step 300.
struct Run(BTreeMap<Key, Series>);

impl Run {
    fn train(out: &Path, sets: &[&str]) -> Self {
        let mut command = Command::cargo_bin("thermoscope").unwrap();
        command
            .args(["run", "induction", "--steps", STEPS, "--set", OFF])
            .args(sets.iter().flat_map(|set| ["--set", set]));
        let output = command.arg("--out").arg(out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(read_metrics(out, |name| name == "loss.train" || name.ends_with("_score.probe")).unwrap())
    }

    /// The highest score of any head of a layer, by step, above that of uniform attention.
    fn above_chance(&self, metric: &str, layer: i32) -> Vec<(i64, f32)> {
        let [mut best, mut chance] = [BTreeMap::new(), BTreeMap::new()];
        for (key, series) in self.0.iter().filter(|(key, _)| key.metric == metric && key.layer == layer) {
            let scores = if key.head == -1 { &mut chance } else { &mut best };
            for (step, value) in series.steps.iter().zip(&series.values) {
                let score = scores.entry(*step).or_insert(*value);
                *score = value.max(*score);
            }
        }
        assert!(best.len() > 10 && best.keys().eq(chance.keys()), "{metric} in layer {layer}");
        best.into_iter().map(|(step, score)| (step, score - chance[&step])).collect()
    }

    /// Mean training loss of the last fifty steps.
    fn loss(&self) -> f32 {
        let (_, series) = self.0.iter().find(|(key, _)| key.metric == "loss.train").unwrap();
        let last = &series.values[series.values.len() - 50..];
        last.iter().sum::<f32>() / last.len() as f32
    }
}

/// The step from which on a score stays above a level.
fn rise(curve: &[(i64, f32)], level: f32) -> Option<i64> {
    curve.iter().rev().take_while(|(_, score)| *score >= level).last().map(|(step, _)| *step)
}

fn highest(curve: &[(i64, f32)]) -> f32 {
    curve.iter().map(|(_, score)| *score).fold(f32::MIN, f32::max)
}

#[test]
fn heads_look_one_token_back_before_they_find_what_followed() {
    let dir = tempfile::tempdir().unwrap();
    let two = Run::train(&dir.path().join("two"), &[]);
    let (previous, prefix) = ("previous_token_score.probe", "prefix_matching_score.probe");
    let (first, second) = (two.above_chance(previous, 0), two.above_chance(prefix, 1));
    let looks_back = rise(&first, BEGUN).expect("a head of layer 0 looks one token back");
    let matches = rise(&second, BEGUN).expect("a head of layer 1 looks at what followed");
    let crosses = rise(&second, 0.5).expect("induction forms");
    assert!(looks_back + 20 <= matches, "one token back from step {looks_back}, induction from step {matches}");
    assert!(crosses - matches <= 100, "it forms within a hundred steps: steps {matches} to {crosses}");
    assert!(first.last().unwrap().1 >= 0.3, "layer 0 looks one token back: {first:?}");
    assert!(highest(&two.above_chance(prefix, 0)) < 0.1, "layer 0 cannot match prefixes");

    let one = Run::train(&dir.path().join("one"), &["model.n_layers=1"]);
    // A head that looks back by as much as periods usually are finds some of what followed: 0.14 above chance.
    assert!(highest(&one.above_chance(prefix, 0)) < 0.25, "one layer cannot match prefixes");
    assert!(two.loss() < 0.3 && one.loss() > 1.0, "losses {} and {}", two.loss(), one.loss());
}
