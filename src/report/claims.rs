//! Which claims about a run survive its control arms.
//!
//! A claim is a rule over the recorded series of one arm. It survives only where it holds in the main arm, the first,
//! and fails in every arm in which it should fail. Claims about causes should fail where the cause was taken away;
//! claims about signs of generalization should fail where nothing generalized.

use std::collections::BTreeMap;

use super::phases::{HIGH_ACCURACY, HOLD, crossing, first_key};
use crate::record::{Key, Series};

/// What sets an arm apart from the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that a claim asks for.
    Nothing,
    NoDecay,
    /// More than three times the decay.
    MoreDecay,
    LessData,
    MoreData,
    ShuffledLabels,
}

impl Change {
    /// The change of each replica of a configuration against the first.
    pub(super) fn of(config: &serde_json::Value) -> Vec<Self> {
        let replicas = config["replica"].as_array().map_or(&[][..], Vec::as_slice);
        let decay = |at: usize| {
            replicas[at]["weight_decay"].as_f64().or(config["optimizer"]["weight_decay"].as_f64()).unwrap_or(0.0)
        };
        let fraction = |at: usize| {
            replicas[at]["train_fraction"].as_f64().or(config["task"]["train_fraction"].as_f64()).unwrap_or(0.0)
        };
        let change = |at: usize| match (decay(at), decay(0), fraction(at), fraction(0)) {
            _ if replicas[at]["shuffle_labels"] == true => Self::ShuffledLabels,
            (own, main, ..) if own == 0.0 && main > 0.0 => Self::NoDecay,
            (own, main, ..) if own > 3.0 * main => Self::MoreDecay,
            (_, _, own, main) if own < main => Self::LessData,
            (_, _, own, main) if own > main => Self::MoreData,
            _ => Self::Nothing,
        };
        (0..replicas.len()).map(change).collect()
    }
}

/// One arm's series, and what follows from them.
struct Arm<'a> {
    series: &'a BTreeMap<Key, Series>,
    replica: i32,
    change: Change,
    memorized: Option<i64>,
    generalized: Option<i64>,
}

impl<'a> Arm<'a> {
    fn new(series: &'a BTreeMap<Key, Series>, replica: i32, change: Change) -> Self {
        let mut arm = Self { series, replica, change, memorized: None, generalized: None };
        arm.memorized = arm.get("accuracy.train", "", -1).and_then(|s| crossing(s, |a| a >= HIGH_ACCURACY));
        arm.generalized = arm.get("accuracy.test", "", -1).and_then(|s| crossing(s, |a| a >= HIGH_ACCURACY));
        arm
    }

    /// The first series of a metric whose site begins like this, with this index.
    fn get(&self, metric: &str, site: &str, index: i32) -> Option<&'a Series> {
        let wanted = |key: &Key| {
            key.metric == metric && key.replica == self.replica && key.index == index && key.site.starts_with(site)
        };
        self.series.iter().find(|(key, _)| wanted(key)).map(|(_, series)| series)
    }

    /// A sign that came at a step, or did not: it holds where it came, and before generalization where there was one.
    fn sign(&self, step: Option<i64>) -> Outcome {
        match (step, self.generalized) {
            (None, _) => Outcome { holds: false, why: "never".to_owned() },
            (Some(step), None) => Outcome { holds: true, why: format!("step {step}, nothing followed") },
            (Some(step), Some(then)) => {
                Outcome { holds: step < then, why: format!("step {step}, lead {} steps", then - step) }
            }
        }
    }
}

/// What a rule found in one arm.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// Whether the claim holds.
    pub(super) holds: bool,
    /// The number it rests on.
    pub(super) why: String,
}

/// The arms in which a claim should fail.
enum Controls {
    /// Those changed in one of these ways.
    Changed(&'static [Change]),
    /// Those that did not generalize.
    NotGeneralizing,
}

struct Claim {
    name: &'static str,
    rule: &'static str,
    controls: Controls,
    /// `None` where what it needs was not measured.
    holds: fn(&Arm<'_>) -> Option<Outcome>,
}

/// Gini coefficient of W_E from which a spectrum is called sparse: initial weights have 0.05, nets that generalize
/// without sparsity 0.18, a clean grokked net more than 0.5.
const SPARSE: f32 = 0.4;
/// Rise of FSD over its first value that counts: neurons without relation keep within 0.1 of it.
const FSD_RISE: f32 = 0.2;
/// Share of its first value to which the dimension of W_E falls.
const FALL: f32 = 0.75;
/// Mean cosine of the attention patterns from which heads are one.
const ONE: f32 = 0.999;

/// A crossing that was measured often enough behind it to be one.
fn lasting(series: &Series, holds: impl Fn(f32) -> bool) -> Option<i64> {
    let last = series.steps.len().checked_sub(HOLD)?;
    crossing(series, holds).filter(|step| *step <= series.steps[last])
}

fn reached(step: Option<i64>) -> Outcome {
    Outcome { holds: step.is_some(), why: step.map_or_else(|| "never".to_owned(), |step| format!("step {step}")) }
}

const CLAIMS: &[Claim] = &[
    Claim {
        name: "memorizes",
        rule: "train accuracy reaches 99 %",
        controls: Controls::Changed(&[]),
        holds: |arm| arm.get("accuracy.train", "", -1).map(|_| reached(arm.memorized)),
    },
    Claim {
        name: "generalizes",
        rule: "test accuracy reaches 99 %; should fail with shuffled labels and with less data",
        controls: Controls::Changed(&[Change::ShuffledLabels, Change::LessData]),
        holds: |arm| arm.get("accuracy.test", "", -1).map(|_| reached(arm.generalized)),
    },
    Claim {
        name: "groks: generalizes late",
        rule: "test accuracy reaches 99 % at least twice as late as train accuracy; should fail with shuffled labels, less data, more data and without decay",
        controls: Controls::Changed(&[Change::ShuffledLabels, Change::LessData, Change::MoreData, Change::NoDecay]),
        holds: |arm| {
            arm.get("accuracy.test", "", -1)?;
            Some(match (arm.memorized, arm.generalized) {
                (Some(first), Some(then)) => {
                    let ratio = then as f64 / first.max(1) as f64;
                    Outcome { holds: ratio >= 2.0, why: format!("{ratio:.1} times as late") }
                }
                (_, then) => Outcome { holds: false, ..reached(then) },
            })
        },
    },
    Claim {
        name: "a sparse spectrum goes with generalization",
        rule: "the Gini coefficient of W_E ends at 0.4 or more; should fail where nothing generalized",
        controls: Controls::NotGeneralizing,
        holds: |arm| {
            let last = *arm.get("gini", "embed.W_E", -1)?.values.last()?;
            Some(Outcome { holds: last >= SPARSE, why: format!("{last:.2}") })
        },
    },
    Claim {
        name: "a lasting key precedes generalization",
        rule: "a key frequency of the logits that is there at the end is born before; should fail where nothing generalized",
        controls: Controls::NotGeneralizing,
        holds: |arm| {
            arm.get("loss.restricted", "", 0)?;
            Some(arm.sign(first_key(arm.series, arm.replica).map(|(step, _)| step)))
        },
    },
    Claim {
        name: "neurons synchronize before generalization",
        rule: "FSD rises by 0.2 over its first value for five measurements; should fail where nothing generalized",
        controls: Controls::NotGeneralizing,
        holds: |arm| {
            let series = arm.get("fsd", "", -1)?;
            let first = *series.values.first()?;
            Some(arm.sign(lasting(series, |value| value >= first + FSD_RISE)))
        },
    },
    Claim {
        name: "the embedding loses dimensions before generalization",
        rule: "the participation ratio of W_E falls to 3/4 of its first value for five measurements; should fail where nothing generalized",
        controls: Controls::NotGeneralizing,
        holds: |arm| {
            let series = arm.get("participation_ratio", "embed.W_E", -1)?;
            let first = *series.values.first()?;
            Some(arm.sign(lasting(series, |value| value <= FALL * first)))
        },
    },
    Claim {
        name: "heads stay different",
        rule: "the mean cosine of attention patterns, over layers, ends below 0.999; should fail with much more decay",
        controls: Controls::Changed(&[Change::MoreDecay]),
        holds: |arm| {
            let of_layers =
                |key: &&Key| key.metric == "sync.similarity" && key.replica == arm.replica && key.index == 0;
            let last: Vec<f32> =
                arm.series.keys().filter(of_layers).filter_map(|key| arm.series[key].values.last()).copied().collect();
            let mean = last.iter().sum::<f32>() / last.len() as f32;
            (!last.is_empty()).then(|| Outcome { holds: mean < ONE, why: format!("{mean:.4}") })
        },
    },
];

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) name: &'static str,
    pub(super) rule: &'static str,
    /// For each arm, what was found, and whether it is an arm in which the claim should fail.
    pub(super) outcomes: Vec<(Option<Outcome>, bool)>,
    /// Whether it survived, where that can be said.
    pub(super) survives: Option<bool>,
    pub(super) words: String,
}

/// Judges every claim; `names` and `changes` are those of the arms.
pub(super) fn judge(series: &BTreeMap<Key, Series>, names: &[String], changes: &[Change]) -> Vec<Verdict> {
    let arms: Vec<Arm<'_>> = (0..).zip(changes).map(|(replica, change)| Arm::new(series, replica, *change)).collect();
    let verdicts = CLAIMS.iter().map(|claim| {
        let control = |at: usize| {
            at > 0
                && match claim.controls {
                    Controls::Changed(changes) => changes.contains(&arms[at].change),
                    Controls::NotGeneralizing => arms[at].generalized.is_none(),
                }
        };
        let outcomes: Vec<(Option<Outcome>, bool)> =
            (0..arms.len()).map(|at| ((claim.holds)(&arms[at]), control(at))).collect();
        let (survives, words) = verdict(&outcomes, names, matches!(claim.controls, Controls::NotGeneralizing), &arms);
        Verdict { name: claim.name, rule: claim.rule, outcomes, survives, words }
    });
    verdicts.filter(|verdict| verdict.outcomes.iter().any(|(outcome, _)| outcome.is_some())).collect()
}

fn verdict(
    outcomes: &[(Option<Outcome>, bool)],
    names: &[String],
    needs_generalization: bool,
    arms: &[Arm<'_>],
) -> (Option<bool>, String) {
    let among = |wanted: fn(&Option<Outcome>) -> bool| -> Vec<&str> {
        let found = outcomes.iter().zip(names).filter(|((outcome, control), _)| *control && wanted(outcome));
        found.map(|(_, name)| name.as_str()).collect()
    };
    match outcomes.first() {
        None | Some((None, _)) => return (None, format!("not measured in {}", names[0])),
        Some((Some(main), _)) if !main.holds => {
            return (Some(false), format!("does not survive: fails in {} itself", names[0]));
        }
        // Too early to say that something lasts.
        _ if arms[0].memorized.is_none() => {
            return (None, format!("cannot be judged: {} did not memorize", names[0]));
        }
        // A sign of something that did not happen.
        _ if needs_generalization && arms[0].generalized.is_none() => {
            return (None, format!("cannot be judged: {} did not generalize", names[0]));
        }
        _ => {}
    }
    let also = among(|outcome| outcome.as_ref().is_some_and(|outcome| outcome.holds));
    let unknown = among(Option::is_none);
    if !also.is_empty() {
        (Some(false), format!("does not survive: holds in {} too", also.join(", ")))
    } else if !unknown.is_empty() {
        (None, format!("cannot be judged: not measured in {}", unknown.join(", ")))
    } else if outcomes.iter().any(|(_, control)| *control) {
        (Some(true), "survives in this run".to_owned())
    } else {
        (None, "holds, but no arm of this run could refute it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Arms with planted truths: (memorized, generalized, first key of the logits, last Gini coefficient).
    type Truth = (Option<i64>, Option<i64>, Option<i64>, f32);

    fn plant(truths: &[Truth]) -> BTreeMap<Key, Series> {
        let steps: Vec<i64> = (0..=100).map(|at| at * 10).collect();
        let mut series = BTreeMap::new();
        for (replica, (memorized, generalized, born, gini)) in (0..).zip(truths) {
            let mut add = |metric: &str, site: &str, index: i32, value: &dyn Fn(i64) -> Option<f32>| {
                let found: Vec<(i64, f32)> = steps.iter().filter_map(|step| Some((*step, value(*step)?))).collect();
                let key = Key { metric: metric.into(), site: site.into(), layer: -1, head: -1, index, replica };
                let (steps, values) = found.into_iter().unzip();
                series.insert(key, Series { steps, values });
            };
            let from = |when: Option<i64>, step: i64| when.is_some_and(|when| step >= when);
            add("accuracy.train", "", -1, &|step| Some(if from(*memorized, step) { 1.0 } else { 0.5 }));
            add("accuracy.test", "", -1, &|step| Some(if from(*generalized, step) { 0.995 } else { 0.98 }));
            add("loss.restricted", "logits", 0, &|_| Some(1.0));
            add("key_frequencies.logits", "logits", 7, &|step| from(*born, step).then_some(1.0));
            add("gini", "embed.W_E", -1, &|step| Some(gini * step as f32 / 1000.0));
        }
        series
    }

    fn judged(truths: &[Truth], changes: &[Change]) -> BTreeMap<&'static str, (Option<bool>, String)> {
        let names: Vec<String> = (0..truths.len()).map(|at| format!("arm {at}")).collect();
        let verdicts = judge(&plant(truths), &names, changes);
        verdicts.into_iter().map(|verdict| (verdict.name, (verdict.survives, verdict.words))).collect()
    }

    const MAIN: Truth = (Some(100), Some(600), Some(300), 0.6);
    const NEVER: Truth = (Some(200), None, None, 0.1);
    const SPECTRUM: &str = "a sparse spectrum goes with generalization";
    const KEY: &str = "a lasting key precedes generalization";

    #[test]
    fn claims_that_fail_where_they_should_survive() {
        let at_once = (Some(100), Some(150), Some(80), 0.2);
        let found = judged(
            &[MAIN, NEVER, NEVER, at_once],
            &[Change::Nothing, Change::ShuffledLabels, Change::NoDecay, Change::MoreData],
        );
        for claim in ["generalizes", "groks: generalizes late", SPECTRUM, KEY] {
            assert_eq!(found[claim].0, Some(true), "{claim}: {}", found[claim].1);
        }
        // It holds everywhere, and no arm was made to refute it.
        assert_eq!(found["memorizes"].0, None);
        assert!(!found.contains_key("heads stay different"), "nothing was measured for it");
    }

    #[test]
    fn a_claim_that_holds_in_a_control_does_not_survive() {
        let sparse_anyway = (Some(100), None, Some(400), 0.7);
        let late_anyway = (Some(100), Some(900), None, 0.1);
        let found = judged(&[MAIN, sparse_anyway, late_anyway], &[Change::Nothing, Change::NoDecay, Change::LessData]);
        for claim in [SPECTRUM, KEY] {
            assert_eq!(found[claim], (Some(false), "does not survive: holds in arm 1 too".to_owned()));
        }
        assert_eq!(found["generalizes"].1, "does not survive: holds in arm 2 too");
    }

    #[test]
    fn nothing_survives_where_nothing_was_learned() {
        let young = (None, None, Some(50), 0.6);
        let found = judged(&[young, young], &[Change::Nothing, Change::MoreDecay]);
        assert_eq!(found[KEY], (None, "cannot be judged: arm 0 did not memorize".to_owned()));
    }

    #[test]
    fn a_claim_needs_the_main_arm_and_the_order_of_events() {
        let found = judged(&[NEVER, NEVER], &[Change::Nothing, Change::ShuffledLabels]);
        assert_eq!(found["generalizes"].1, "does not survive: fails in arm 0 itself");
        // A key without generalization is a sign of nothing.
        let found = judged(&[(Some(100), None, Some(300), 0.6), NEVER], &[Change::Nothing, Change::ShuffledLabels]);
        assert_eq!(found[KEY].0, None);
        // Born too late.
        let late = (Some(100), Some(600), Some(700), 0.6);
        let found = judged(&[late, NEVER], &[Change::Nothing, Change::ShuffledLabels]);
        assert_eq!(found[KEY].0, Some(false));
        // Generalizing 1.5 times as late is not late.
        let soon = (Some(400), Some(600), Some(300), 0.6);
        let found = judged(&[soon, NEVER], &[Change::Nothing, Change::ShuffledLabels]);
        assert_eq!(found["groks: generalizes late"].0, Some(false));
        // Without an arm that could refute it nothing survives.
        assert_eq!(judged(&[MAIN], &[Change::Nothing])["generalizes"].0, None);
    }

    #[test]
    fn a_rise_at_the_very_end_is_no_sign() {
        let of = |values: Vec<f32>| Series { steps: (0..values.len() as i64).collect(), values };
        let rises_at = |at: usize| of((0..20).map(|step| if step >= at { 1.0 } else { 0.0 }).collect());
        assert_eq!(lasting(&rises_at(15), |v| v > 0.5), Some(15));
        assert_eq!(lasting(&rises_at(16), |v| v > 0.5), None);
        assert_eq!(lasting(&of(vec![1.0; 4]), |v| v > 0.5), None);
    }

    #[test]
    fn arms_are_known_by_their_settings() {
        let config = json!({
            "optimizer": { "weight_decay": 1.0 }, "task": { "train_fraction": 0.4 },
            "replica": [
                {}, { "weight_decay": 0.0 }, { "weight_decay": 10.0 }, { "train_fraction": 0.2 },
                { "train_fraction": 0.8 }, { "shuffle_labels": true, "weight_decay": 0.0 }, { "seed": 5 },
            ],
        });
        let expected = [
            Change::Nothing,
            Change::NoDecay,
            Change::MoreDecay,
            Change::LessData,
            Change::MoreData,
            Change::ShuffledLabels,
            Change::Nothing,
        ];
        assert_eq!(Change::of(&config), expected);
    }
}
