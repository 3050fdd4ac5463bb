//! Which claims about a run survive its control arms.
//!
//! A claim is a rule, asked of every arm. It survives where it holds in the main arm of a group, where no arm contradicts
//! it, and where a control could have. Controls are arms that were declared such: an arm that did not do something by the
//! end of the run is no refutation of anything, and no control; it is censored. Claims about causes should fail in
//! controls in which the cause was changed. Signs of generalization are contradicted in two ways, by a control that shows
//! the sign and does not generalize, and by any arm that generalizes without it.

use super::phases::Watched;
use crate::stats::{Censored, Onset};
use crate::train::{ArmRole, ReplicaConfig};

/// What sets an arm apart from the one it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Nothing that a claim asks for.
    Nothing,
    NoDecay,
    /// More than three times the decay.
    MoreDecay,
    LessData,
    MoreData,
    ShuffledLabels,
}

/// An arm of a run: its place among the others, and what is known of it.
pub(super) struct Arm<'a> {
    pub(super) name: &'a str,
    pub(super) config: &'a ReplicaConfig,
    /// Weight decay and share of the examples trained on.
    decay: f64,
    fraction: f64,
    pub(super) watched: &'a Watched,
}

impl<'a> Arm<'a> {
    /// An arm of a run with a configuration.
    pub(super) fn of(name: &'a str, own: &'a ReplicaConfig, config: &serde_json::Value, watched: &'a Watched) -> Self {
        Self {
            name,
            config: own,
            decay: own.weight_decay.or(config["optimizer"]["weight_decay"].as_f64()).unwrap_or(0.0),
            fraction: own.train_fraction.or(config["task"]["train_fraction"].as_f64()).unwrap_or(0.0),
            watched,
        }
    }

    fn change(&self, from: &Self) -> Change {
        match (self.decay, from.decay, self.fraction, from.fraction) {
            _ if self.config.shuffle_labels => Change::ShuffledLabels,
            (own, main, ..) if own == 0.0 && main > 0.0 => Change::NoDecay,
            (own, main, ..) if own > 3.0 * main => Change::MoreDecay,
            (_, _, own, main) if own < main => Change::LessData,
            (_, _, own, main) if own > main => Change::MoreData,
            _ => Change::Nothing,
        }
    }
}

/// What a rule found in one arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Holds,
    Fails,
    /// The run ended, or was measured too rarely, before that could be told.
    Open,
}

/// The same, and the number it rests on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) found: Found,
    pub(super) why: String,
}

enum Rule {
    /// It holds or not; it should fail in controls that were changed in one of these ways. `None` where what it needs
    /// was not measured.
    Cause(&'static [Change], fn(&Watched) -> Option<Outcome>),
    /// A date that should come before generalization.
    Before(fn(&Watched) -> Option<Onset>),
    /// Something that is there at the end of arms that generalized.
    With(fn(&Watched) -> Option<(bool, String)>),
}

struct Claim {
    name: &'static str,
    words: &'static str,
    rule: Rule,
}

/// Gini coefficient of W_E from which a spectrum is called sparse: initial weights have 0.05, nets that generalize
/// without sparsity 0.18, a clean grokked net more than 0.5.
const SPARSE: f32 = 0.4;
/// Mean cosine of the attention patterns from which heads are one.
const ONE: f32 = 0.999;

fn reached(onset: Option<Onset>) -> Option<Outcome> {
    let onset = onset?;
    let found = if onset.began().is_some() { Found::Holds } else { Found::Open };
    Some(Outcome { found, why: onset.words() })
}

const CLAIMS: &[Claim] = &[
    Claim {
        name: "memorizes",
        words: "train accuracy reaches 99 %",
        rule: Rule::Cause(&[], |arm| reached(arm.memorized())),
    },
    Claim {
        name: "generalizes",
        words: "test accuracy reaches 99 %; should fail with shuffled labels and with less data",
        rule: Rule::Cause(&[Change::ShuffledLabels, Change::LessData], |arm| reached(arm.generalized())),
    },
    Claim {
        name: "groks: generalizes late",
        words: "test accuracy reaches 99 % at least twice as late as train accuracy; should fail with shuffled labels, less data, more data and without decay",
        rule: Rule::Cause(&[Change::ShuffledLabels, Change::LessData, Change::MoreData, Change::NoDecay], |arm| {
            let (first, then) = (arm.memorized()?, arm.generalized()?);
            let (Some(first), Some(then)) = (first.began(), then.began()) else { return reached(Some(then)) };
            let ratio = then as f64 / first.max(1) as f64;
            let found = if ratio >= 2.0 { Found::Holds } else { Found::Fails };
            Some(Outcome { found, why: format!("{ratio:.1} times as late") })
        }),
    },
    Claim {
        name: "a sparse spectrum goes with generalization",
        words: "the Gini coefficient of W_E ends at 0.4 or more where test accuracy reached 99 %, and below in controls where it did not",
        rule: Rule::With(|arm| arm.sparsity().map(|last| (last >= SPARSE, format!("{last:.2}")))),
    },
    Claim {
        name: "a lasting key precedes generalization",
        words: "a key frequency of the logits that is there at the end is born before test accuracy reaches 99 %, and in no control where it does not",
        rule: Rule::Before(Watched::first_key),
    },
    Claim {
        name: "neurons synchronize before generalization",
        words: "FSD rises by 0.2 over its first value, and stays, before test accuracy reaches 99 %, and in no control where it does not",
        rule: Rule::Before(Watched::synchronized),
    },
    Claim {
        name: "the embedding loses dimensions before generalization",
        words: "the participation ratio of W_E falls to 3/4 of its first value, and stays, before test accuracy reaches 99 %, and in no control where it does not",
        rule: Rule::Before(Watched::lost_dimensions),
    },
    Claim {
        name: "heads stay different",
        words: "the mean cosine of attention patterns, over layers, ends below 0.999; should fail with much more decay",
        rule: Rule::Cause(&[Change::MoreDecay], |arm| {
            let mean = arm.similarity()?;
            Some(Outcome { found: if mean < ONE { Found::Holds } else { Found::Fails }, why: format!("{mean:.4}") })
        }),
    },
];

impl Rule {
    /// What it finds in an arm; a sign is asked of every arm, whether or not it generalized.
    fn ask(&self, arm: &Watched) -> Option<Outcome> {
        match self {
            Self::Cause(_, holds) => holds(arm),
            Self::With(sign) => {
                let (there, why) = sign(arm)?;
                arm.generalized()?;
                Some(Outcome { found: if there { Found::Holds } else { Found::Fails }, why })
            }
            Self::Before(sign) => Some(before(sign(arm)?, arm.generalized()?)),
        }
    }

    fn is_sign(&self) -> bool {
        !matches!(self, Self::Cause(..))
    }
}

/// Whether a sign came before generalization, as far as the resolution of both tells.
fn before(sign: Onset, then: Onset) -> Outcome {
    let (began, generalized) = (sign.began(), then.began());
    let (found, why) = match (began, generalized) {
        (None, None) => (Found::Fails, sign.words()),
        (Some(_), None) => (Found::Holds, format!("{}, nothing followed", sign.words())),
        // Nothing before the last look, which was at or behind generalization.
        (None, Some(then)) if sign.step >= then => (Found::Fails, format!("{}, generalized at {then}", sign.words())),
        (None, Some(_)) => (Found::Open, sign.words()),
        (Some(step), Some(_)) => {
            let earliest = |onset: Onset| match onset.censored {
                Some(Censored::Before) => 0,
                _ => onset.step - onset.resolution,
            };
            let lead = i128::from(then.step) - i128::from(step);
            let found = match () {
                // The first look showed both already.
                _ if sign.censored == Some(Censored::Before) && then.censored == sign.censored => Found::Open,
                _ if step <= earliest(then) && step < then.step => Found::Holds,
                _ if then.step <= earliest(sign) => Found::Fails,
                _ => Found::Open,
            };
            let so = if found == Found::Open { ", within the resolution" } else { "" };
            (found, format!("{}, lead {lead} ± {}{so}", sign.words(), sign.resolution.max(then.resolution)))
        }
    };
    Outcome { found, why }
}

/// Arms that belong together: claims are about the main one.
pub(super) struct Group<'a> {
    pub(super) name: Option<&'a str>,
    /// Numbers of its arms; the main one is first.
    pub(super) arms: Vec<usize>,
}

/// The arm that one is declared a control of.
fn controlled<'b, 'a>(arm: &Arm<'_>, arms: &'b [Arm<'a>]) -> Option<&'b Arm<'a>> {
    let of = arm.config.control_of.as_deref()?;
    arms.iter().find(|other| other.name == of)
}

/// The groups of a run's arms, in order; a control belongs to the group of what it is a control of.
pub(super) fn groups<'a>(arms: &[Arm<'a>]) -> Vec<Group<'a>> {
    let group_of = |arm: &Arm<'a>| controlled(arm, arms).unwrap_or(arm).config.group.as_deref();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (at, arm) in arms.iter().enumerate() {
        let name = group_of(arm);
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.arms.push(at),
            None => groups.push(Group { name, arms: vec![at] }),
        }
    }
    for group in &mut groups {
        // The declared one, or else the first that is no control.
        let rank = |at: &usize| match arms[*at].config.role {
            Some(ArmRole::Main) => 0,
            _ if arms[*at].config.is_control() => 2,
            _ => 1,
        };
        if let Some(main) = group.arms.iter().copied().min_by_key(rank) {
            group.arms.sort_by_key(|at| (*at != main, *at));
        }
    }
    groups
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) name: &'static str,
    pub(super) rule: &'static str,
    /// For each arm of the group, what was found, and whether it is an arm in which the claim should fail.
    pub(super) outcomes: Vec<(Option<Outcome>, bool)>,
    /// Whether it survived, where that can be said.
    pub(super) survives: Option<bool>,
    pub(super) words: String,
}

/// Judges every claim about a group.
pub(super) fn judge(arms: &[Arm<'_>], group: &Group<'_>) -> Vec<Verdict> {
    let of_group: Vec<&Arm<'_>> = group.arms.iter().map(|at| &arms[*at]).collect();
    let verdicts = CLAIMS.iter().map(|claim| {
        let outcomes = of_group.iter().map(|arm| {
            let should_fail = arm.config.is_control()
                && match &claim.rule {
                    Rule::Cause(changes, _) => {
                        changes.contains(&arm.change(controlled(arm, arms).unwrap_or(of_group[0])))
                    }
                    _ => arm.watched.generalized().is_some_and(|onset| onset.began().is_none()),
                };
            (claim.rule.ask(arm.watched), should_fail)
        });
        let outcomes: Vec<(Option<Outcome>, bool)> = outcomes.collect();
        let (survives, words) = verdict(&claim.rule, &outcomes, &of_group);
        Verdict { name: claim.name, rule: claim.words, outcomes, survives, words }
    });
    verdicts.filter(|verdict| verdict.outcomes.iter().any(|(outcome, _)| outcome.is_some())).collect()
}

fn verdict(rule: &Rule, outcomes: &[(Option<Outcome>, bool)], arms: &[&Arm<'_>]) -> (Option<bool>, String) {
    let began = |onset: Option<Onset>| onset.is_some_and(|onset| onset.began().is_some());
    let main = arms[0];
    match &outcomes[0].0 {
        None => return (None, format!("not measured in {}", main.name)),
        // Too early to say that something lasts.
        Some(_) if !began(main.watched.memorized()) => {
            return (None, format!("cannot be judged: {} has not memorized yet", main.name));
        }
        // A sign of something that has not happened.
        Some(_) if rule.is_sign() && !began(main.watched.generalized()) => {
            return (None, format!("cannot be judged: {} has not generalized yet", main.name));
        }
        Some(Outcome { found: Found::Fails, .. }) => {
            return (Some(false), format!("does not survive: fails in {} itself", main.name));
        }
        Some(Outcome { found: Found::Open, why }) => {
            return (None, format!("cannot be judged: in {} {why}", main.name));
        }
        Some(_) => {}
    }
    let found = |at: usize| outcomes[at].0.as_ref().map(|outcome| outcome.found);
    let names = |wanted: &dyn Fn(usize) -> bool| -> Vec<&str> {
        (1..arms.len()).filter(|at| wanted(*at)).map(|at| arms[at].name).collect()
    };
    let should_fail = |at: usize| outcomes[at].1;
    let holds_too = names(&|at| should_fail(at) && found(at) == Some(Found::Holds));
    // An arm that must show what the main one shows: one that generalized, for signs of that; no control, for the rest.
    let must_hold = |at: usize| match rule.is_sign() {
        true => began(arms[at].watched.generalized()),
        false => !arms[at].config.is_control(),
    };
    let without = names(&|at| must_hold(at) && found(at) == Some(Found::Fails));
    let unknown = names(&|at| should_fail(at) && found(at).is_none());
    let censored = names(&|at| match rule.is_sign() {
        true => !should_fail(at) && !must_hold(at),
        false => must_hold(at) && found(at) == Some(Found::Open),
    });
    let so_far = if censored.is_empty() { String::new() } else { format!("; censored: {}", censored.join(", ")) };
    if !holds_too.is_empty() {
        (Some(false), format!("does not survive: holds in {} too", holds_too.join(", ")))
    } else if !without.is_empty() {
        let verb = if rule.is_sign() { "generalizes without it" } else { "fails" };
        (Some(false), format!("does not survive: {} {verb}", without.join(", ")))
    } else if !unknown.is_empty() {
        (None, format!("cannot be judged: not measured in {}", unknown.join(", ")))
    } else if (1..arms.len()).any(should_fail) {
        (Some(true), format!("survives in this run{so_far}"))
    } else {
        (None, format!("holds, but no control of this run could refute it{so_far}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::{Catalog, Described, Key, Predictions};

    /// Arms with planted truths: when they memorize, generalize, get their first key, and their last Gini coefficient.
    type Truth = (Option<u64>, Option<u64>, Option<u64>, f32);

    fn watched((memorized, generalized, born, gini): Truth) -> Watched {
        let described = || Described { every: 10, ..Described::default() };
        let names = ["accuracy.train", "accuracy.test"];
        let metrics: BTreeMap<String, Described> = names.map(|name| (name.to_owned(), described())).into();
        let predictions = vec![Predictions { train: 1000, train_drawn: false, test: 2000, most_frequent: [0.0; 2] }];
        let mut watched = Watched::new(&Catalog { classes: 59, predictions, metrics }, 0, 1000);
        let key = |metric: &str, site: &str| Key {
            metric: metric.into(),
            site: site.into(),
            layer: -1,
            head: -1,
            index: -1,
            replica: 0,
        };
        for step in (0..=1000).step_by(10) {
            let from = |when: Option<u64>| when.is_some_and(|when| step >= when);
            watched.take(&key("accuracy.train", ""), step, if from(memorized) { 1.0 } else { 0.5 });
            watched.take(&key("accuracy.test", ""), step, if from(generalized) { 0.995 } else { 0.98 });
            watched.take(&key("gini", "embed.W_E"), step, gini);
            watched.keys(step, &from(born).then_some(7).into_iter().collect());
        }
        watched
    }

    /// An arm: its truth and settings.
    type Given = (Truth, ReplicaConfig);

    fn judged(given: &[Given]) -> BTreeMap<&'static str, (Option<bool>, String)> {
        let names: Vec<String> =
            (0..given.len()).map(|at| given[at].1.name.clone().unwrap_or_else(|| format!("arm {at}"))).collect();
        let seen: Vec<Watched> = given.iter().map(|(truth, _)| watched(*truth)).collect();
        let arm = |at: usize| Arm {
            name: &names[at],
            config: &given[at].1,
            decay: given[at].1.weight_decay.unwrap_or(1.0),
            fraction: given[at].1.train_fraction.unwrap_or(0.4),
            watched: &seen[at],
        };
        let arms: Vec<Arm<'_>> = (0..given.len()).map(arm).collect();
        let groups = groups(&arms);
        let verdicts = judge(&arms, &groups[0]);
        verdicts.into_iter().map(|verdict| (verdict.name, (verdict.survives, verdict.words))).collect()
    }

    const MAIN: Truth = (Some(100), Some(600), Some(300), 0.6);
    const NEVER: Truth = (Some(200), None, None, 0.1);
    const SPECTRUM: &str = "a sparse spectrum goes with generalization";
    const KEY: &str = "a lasting key precedes generalization";

    fn plain() -> ReplicaConfig {
        ReplicaConfig::default()
    }

    fn control() -> ReplicaConfig {
        ReplicaConfig { role: Some(ArmRole::Control), ..plain() }
    }

    fn shuffled() -> ReplicaConfig {
        ReplicaConfig { shuffle_labels: true, ..control() }
    }

    fn no_decay() -> ReplicaConfig {
        ReplicaConfig { weight_decay: Some(0.0), ..control() }
    }

    #[test]
    fn claims_that_fail_where_they_should_survive() {
        let at_once = (Some(100), Some(150), Some(80), 0.5);
        let more = ReplicaConfig { train_fraction: Some(0.8), ..control() };
        let found = judged(&[(MAIN, plain()), (NEVER, shuffled()), (NEVER, no_decay()), (at_once, more)]);
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
        let late_anyway = (Some(100), Some(900), Some(200), 0.5);
        let less = ReplicaConfig { train_fraction: Some(0.2), ..control() };
        let found = judged(&[(MAIN, plain()), (sparse_anyway, no_decay()), (late_anyway, less)]);
        for claim in [SPECTRUM, KEY] {
            assert_eq!(found[claim], (Some(false), "does not survive: holds in arm 1 too".to_owned()));
        }
        assert_eq!(found["generalizes"].1, "does not survive: holds in arm 2 too");
    }

    #[test]
    fn another_seed_that_the_end_cut_off_is_censored_and_refutes_nothing() {
        // Another seed has its key and a sparse spectrum, and would generalize a little later.
        let cut_off = (Some(100), None, Some(800), 0.6);
        let seed = ReplicaConfig { seed: Some(5), ..plain() };
        let found = judged(&[(MAIN, plain()), (cut_off, seed.clone()), (NEVER, shuffled())]);
        for claim in [SPECTRUM, KEY, "generalizes"] {
            assert_eq!(found[claim], (Some(true), "survives in this run; censored: arm 1".to_owned()), "{claim}");
        }
        // Nor is it a control: alone with it, nothing could be refuted.
        let found = judged(&[(MAIN, plain()), (NEVER, seed)]);
        assert_eq!(found[KEY].0, None);
        assert!(found[KEY].1.starts_with("holds, but no control of this run could refute it"), "{}", found[KEY].1);
    }

    #[test]
    fn an_arm_that_generalizes_without_the_sign_refutes_it() {
        // Whether it is another seed or a control that generalizes at once.
        let without = (Some(100), Some(400), Some(700), 0.2);
        let more = ReplicaConfig { train_fraction: Some(0.8), ..control() };
        for config in [plain(), more] {
            let found = judged(&[(MAIN, plain()), (NEVER, shuffled()), (without, config)]);
            for claim in [SPECTRUM, KEY] {
                assert_eq!(found[claim], (Some(false), "does not survive: arm 2 generalizes without it".to_owned()));
            }
        }
    }

    #[test]
    fn what_the_first_look_showed_already_has_no_order() {
        let by = |step, resolution, censored| Onset { step, resolution, censored };
        let already = Some(Censored::Before);
        assert_eq!(before(by(0, 0, already), by(0, 0, already)).found, Found::Open);
        assert_eq!(before(by(0, 0, already), by(50, 10, None)).found, Found::Holds);
        assert_eq!(before(by(50, 10, None), by(0, 0, already)).found, Found::Fails);
    }

    #[test]
    fn a_key_that_is_there_at_the_last_measurements_only_is_no_sign() {
        // A control whose logits have a key at three measurements before the end.
        let flicker = (Some(100), None, Some(980), 0.1);
        let found = judged(&[(MAIN, plain()), (flicker, shuffled())]);
        assert_eq!(found[KEY].0, Some(true), "{}", found[KEY].1);
    }

    #[test]
    fn what_the_resolution_cannot_tell_is_open() {
        let at = |step, resolution| Onset { step, resolution, censored: None };
        assert_eq!(before(at(100, 10), at(200, 10)).found, Found::Holds);
        assert_eq!(before(at(300, 10), at(200, 10)).found, Found::Fails);
        // Seen at the same measurement, or a step before in a stretch of fifty.
        assert_eq!(before(at(200, 10), at(200, 10)).found, Found::Open);
        assert_eq!(before(at(199, 1), at(200, 50)).found, Found::Open);
        // It may have begun 45 steps before what came at step 200, or 5 after it.
        assert_eq!(before(at(205, 50), at(200, 10)).found, Found::Open);
        assert_eq!(before(at(250, 50), at(200, 10)).found, Found::Fails);
    }

    #[test]
    fn nothing_survives_where_nothing_was_learned() {
        let young = (None, None, Some(50), 0.6);
        let found = judged(&[(young, plain()), (young, control())]);
        assert_eq!(found[KEY], (None, "cannot be judged: arm 0 has not memorized yet".to_owned()));
    }

    #[test]
    fn a_claim_needs_the_main_arm_and_the_order_of_events() {
        let found = judged(&[(NEVER, plain()), (NEVER, shuffled())]);
        assert_eq!(found["generalizes"], (None, "cannot be judged: in arm 0 not by step 1000".to_owned()));
        // A key without generalization is a sign of nothing.
        let found = judged(&[((Some(100), None, Some(300), 0.6), plain()), (NEVER, shuffled())]);
        assert_eq!(found[KEY].0, None);
        // Born too late.
        let found = judged(&[((Some(100), Some(600), Some(700), 0.6), plain()), (NEVER, shuffled())]);
        assert_eq!(found[KEY].0, Some(false));
        // Generalizing 1.5 times as late is not late.
        let found = judged(&[((Some(400), Some(600), Some(300), 0.6), plain()), (NEVER, shuffled())]);
        assert_eq!(found["groks: generalizes late"].0, Some(false));
        // Without an arm that could refute it nothing survives.
        assert_eq!(judged(&[(MAIN, plain())])["generalizes"].0, None);
    }

    #[test]
    fn groups_are_judged_by_themselves_and_controls_belong_to_what_they_control() {
        let named = |name: &str, group: Option<&str>, of: Option<&str>| ReplicaConfig {
            name: Some(name.to_owned()),
            group: group.map(str::to_owned),
            control_of: of.map(str::to_owned),
            ..plain()
        };
        let configs = [
            named("a control", None, Some("b")),
            named("a", Some("one"), None),
            named("b", Some("two"), None),
            ReplicaConfig { role: Some(ArmRole::Main), ..named("c", Some("two"), None) },
        ];
        let seen = watched(MAIN);
        let arm = |config| Arm { name: "", config, decay: 1.0, fraction: 0.5, watched: &seen };
        let arms: Vec<Arm<'_>> =
            configs.iter().map(|config| Arm { name: config.name.as_deref().unwrap(), ..arm(config) }).collect();
        let found: Vec<(Option<&str>, Vec<usize>)> = groups(&arms).into_iter().map(|g| (g.name, g.arms)).collect();
        assert_eq!(found, [(Some("two"), vec![3, 0, 2]), (Some("one"), vec![1])]);
    }

    #[test]
    fn arms_are_known_by_their_settings() {
        let seen = watched(NEVER);
        let with = |decay: f64, fraction: f64, config| Arm { name: "", config, decay, fraction, watched: &seen };
        let (plain, shuffled) = (plain(), shuffled());
        let main = with(1.0, 0.4, &plain);
        for (decay, fraction, config, change) in [
            (1.0, 0.4, &plain, Change::Nothing),
            (0.0, 0.4, &plain, Change::NoDecay),
            (10.0, 0.4, &plain, Change::MoreDecay),
            (1.0, 0.2, &plain, Change::LessData),
            (1.0, 0.8, &plain, Change::MoreData),
            (0.0, 0.4, &shuffled, Change::ShuffledLabels),
        ] {
            assert_eq!(with(decay, fraction, config).change(&main), change);
        }
    }
}
