//! Which claims about a run survive its control arms.
//!
//! A claim is a rule, asked of every arm. It survives where it holds in the main arm of a group, where no arm contradicts
//! it, and where a control could have. Controls are arms that were declared such: an arm that did not do something by the
//! end of the run is no refutation of anything, and no control; it is censored. Claims about causes should fail in
//! controls in which the cause was changed. Signs of generalization are contradicted in two ways, by a control that shows
//! the sign and does not generalize, and by any arm that generalizes without it.
//!
//! A control says something only where it lived: where it has memorized and has not diverged. That one has not generalized is
//! said of a control that was watched for [`WATCHED`] times as many steps as the main arm took, and of no other: it may just
//! be later. An arm that diverged says nothing of anything.

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
/// How many times as long as the main arm took to generalize a control is watched that is said not to: what is changed in it
/// makes it slower before it keeps it from that.
const WATCHED: u64 = 2;
/// How many times as late as memorization generalization is late.
const LATE: f64 = 2.0;

fn began(onset: Option<Onset>) -> bool {
    onset.is_some_and(|onset| onset.began().is_some())
}

fn reached(onset: Option<Onset>) -> Option<Outcome> {
    let onset = onset?;
    // What the first look of a fork shows came of nothing that was done in it.
    let found = if onset.censored.is_none() { Found::Holds } else { Found::Open };
    Some(Outcome { found, why: onset.words() })
}

/// Whether one came so many times as late as another, as far as the resolution of both tells.
fn late(first: Onset, then: Onset) -> Outcome {
    // Nobody saw when it came, or it has not come.
    let unseen = |onset: Onset| onset.censored.map(|_| onset.words());
    if let Some(why) = unseen(first).map(|words| format!("memorized {words}")).or(unseen(then)) {
        return Outcome { found: Found::Open, why };
    }
    let ratio = |then: u64, first: u64| then as f64 / first as f64;
    // Each came after the measurement before, and by the one that shows it.
    let least = ratio(then.step - then.resolution, first.step);
    let most = ratio(then.step, first.step - first.resolution);
    let found = match () {
        _ if least >= LATE => Found::Holds,
        _ if most <= LATE => Found::Fails,
        _ => Found::Open,
    };
    let so = if found == Found::Open { ", within the resolution" } else { "" };
    Outcome { found, why: format!("{:.1} times as late{so}", ratio(then.step, first.step)) }
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
            Some(late(arm.memorized()?, arm.generalized()?))
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
        let asked = of_group.iter().map(|arm| {
            let should_fail = arm.config.is_control()
                && match &claim.rule {
                    Rule::Cause(changes, _) => {
                        changes.contains(&arm.change(controlled(arm, arms).unwrap_or(of_group[0])))
                    }
                    _ => arm.watched.generalized().is_some_and(|onset| onset.began().is_none()),
                };
            let mut outcome = claim.rule.ask(arm.watched);
            let silent = silent(arm.watched, of_group[0].watched, &claim.rule, outcome.as_ref());
            // An arm that may only have been cut off before it generalized does not lack a sign of that.
            let says = began(arm.watched.generalized()) || (should_fail && silent.is_none());
            if let Some(outcome) = outcome.as_mut().filter(|outcome| outcome.found == Found::Fails)
                && claim.rule.is_sign()
                && !says
            {
                outcome.found = Found::Open;
            }
            (outcome, should_fail, silent)
        });
        let asked: Vec<Asked> = asked.collect();
        let (survives, words) = verdict(&claim.rule, &asked, &of_group);
        let outcomes =
            asked.into_iter().map(|(outcome, should_fail, silent)| (outcome, should_fail && silent.is_none()));
        Verdict { name: claim.name, rule: claim.words, outcomes: outcomes.collect(), survives, words }
    });
    verdicts.filter(|verdict| verdict.outcomes.iter().any(|(outcome, _)| outcome.is_some())).collect()
}

/// What was found in an arm, whether a claim should fail in it, and why it can say nothing of that.
type Asked = (Option<Outcome>, bool, Option<String>);

/// Why a control says nothing of a claim that should fail in it, about a main arm; `None` where it does.
fn silent(control: &Watched, main: &Watched, rule: &Rule, outcome: Option<&Outcome>) -> Option<String> {
    if let Some(diverged) = control.diverged() {
        return Some(format!("diverged {}", diverged.words()));
    }
    if let Some(memorized) = control.memorized().filter(|onset| onset.began().is_none()) {
        return Some(format!("memorized {}", memorized.words()));
    }
    let open = outcome.is_some_and(|outcome| outcome.found == Found::Open);
    // What it was seen to do is no matter of how long it was watched.
    let (Some(own), Some(date), true) = (control.generalized(), main.generalized(), open || rule.is_sign()) else {
        return None;
    };
    if own.began().is_some() {
        return outcome.filter(|_| open).map(|outcome| outcome.why.clone());
    }
    let needed = WATCHED * date.step.saturating_sub(main.first_step()) + main.first_step();
    (own.step < needed).then(|| format!("generalized {}, watched for less than to step {needed}", own.words()))
}

fn verdict(rule: &Rule, asked: &[Asked], arms: &[&Arm<'_>]) -> (Option<bool>, String) {
    let main = arms[0];
    if let Some(diverged) = main.watched.diverged() {
        return (None, format!("cannot be judged: {} diverged {}", main.name, diverged.words()));
    }
    match &asked[0].0 {
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
    let found = |at: usize| asked[at].0.as_ref().map(|outcome| outcome.found);
    let names = |wanted: &dyn Fn(usize) -> bool| -> Vec<&str> {
        (1..arms.len()).filter(|at| wanted(*at)).map(|at| arms[at].name).collect()
    };
    let should_fail = |at: usize| asked[at].1 && asked[at].2.is_none();
    let holds_too = names(&|at| should_fail(at) && found(at) == Some(Found::Holds));
    let generalized = |at: usize| arms[at].watched.generalized();
    // An arm that must show what the main one shows: one that generalized, for signs of that; no control, for the rest.
    let must_hold = |at: usize| {
        let counts = if rule.is_sign() { began(generalized(at)) } else { !arms[at].config.is_control() };
        counts && arms[at].watched.diverged().is_none()
    };
    let without = names(&|at| must_hold(at) && found(at) == Some(Found::Fails));
    let unknown = names(&|at| should_fail(at) && found(at).is_none());
    let censored = names(&|at| match rule.is_sign() {
        true => !asked[at].1 && !must_hold(at) && arms[at].watched.diverged().is_none(),
        false => must_hold(at) && found(at) == Some(Found::Open),
    });
    let never = names(&|at| should_fail(at) && generalized(at).is_some_and(|onset| onset.began().is_none()));
    let by = (1..arms.len()).filter(|at| should_fail(*at)).filter_map(generalized);
    let by = by.filter(|onset| onset.began().is_none()).map(|onset| onset.step).min().unwrap_or(0);
    let silent: Vec<String> = (1..arms.len())
        .filter(|at| asked[*at].1 || arms[*at].watched.diverged().is_some())
        .filter_map(|at| Some(format!("{} ({})", arms[at].name, asked[at].2.as_ref()?)))
        .collect();
    let so_far = [
        (format!("not generalized by step {by}"), never.join(", ")),
        ("censored".to_owned(), censored.join(", ")),
        ("says nothing".to_owned(), silent.join(", ")),
    ];
    let so_far: String =
        so_far.iter().filter(|(_, who)| !who.is_empty()).map(|(what, who)| format!("; {what}: {who}")).collect();
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

    fn watched(truth: Truth) -> Watched {
        seen(truth, 0, None)
    }

    /// What is seen of one from a step on, which may diverge.
    fn seen((memorized, generalized, born, gini): Truth, first: u64, diverges: Option<u64>) -> Watched {
        let described = || Described { every: 10, ..Described::default() };
        let names = ["accuracy.train", "accuracy.test"];
        let metrics: BTreeMap<String, Described> = names.map(|name| (name.to_owned(), described())).into();
        let predictions = vec![Predictions { train: 1000, train_drawn: false, test: 2000, most_frequent: [0.0; 2] }];
        let mut watched = Watched::new(&Catalog { classes: 59, predictions, metrics }, 0, 1500);
        let key = |metric: &str, site: &str| Key {
            metric: metric.into(),
            site: site.into(),
            layer: -1,
            head: -1,
            index: -1,
            replica: 0,
        };
        for step in (first..=1500).step_by(10) {
            let from = |when: Option<u64>| when.is_some_and(|when| step >= when);
            let lives = |value: f32| if from(diverges) { f32::NAN } else { value };
            let right = |share: f32| if from(diverges) { 0.02 } else { share };
            watched.take(&key("loss.train", ""), step, lives(0.1));
            watched.take(&key("accuracy.train", ""), step, right(if from(memorized) { 1.0 } else { 0.5 }));
            watched.take(&key("accuracy.test", ""), step, right(if from(generalized) { 0.995 } else { 0.98 }));
            watched.take(&key("gini", "embed.W_E"), step, lives(gini));
            watched.take(&key("participation_ratio", "embed.W_E"), step, if from(born) { 5.0 } else { 20.0 });
            watched.keys(step, &(from(born) && !from(diverges)).then_some(7).into_iter().collect());
        }
        watched
    }

    /// An arm: its truth and settings.
    type Given = (Truth, ReplicaConfig);

    fn judged(given: &[Given]) -> BTreeMap<&'static str, (Option<bool>, String)> {
        judge_all(given, given.iter().map(|(truth, _)| watched(*truth)).collect())
    }

    fn judge_all(given: &[Given], seen: Vec<Watched>) -> BTreeMap<&'static str, (Option<bool>, String)> {
        let verdicts = verdicts(given, &seen).into_iter();
        verdicts.map(|verdict| (verdict.name, (verdict.survives, verdict.words))).collect()
    }

    fn verdicts(given: &[Given], seen: &[Watched]) -> Vec<Verdict> {
        let names: Vec<String> =
            (0..given.len()).map(|at| given[at].1.name.clone().unwrap_or_else(|| format!("arm {at}"))).collect();
        let arm = |at: usize| Arm {
            name: &names[at],
            config: &given[at].1,
            decay: given[at].1.weight_decay.unwrap_or(1.0),
            fraction: given[at].1.train_fraction.unwrap_or(0.4),
            watched: &seen[at],
        };
        let arms: Vec<Arm<'_>> = (0..given.len()).map(arm).collect();
        judge(&arms, &groups(&arms)[0])
    }

    const MAIN: Truth = (Some(100), Some(600), Some(300), 0.6);
    const NEVER: Truth = (Some(200), None, None, 0.1);
    const SPECTRUM: &str = "a sparse spectrum goes with generalization";
    const GENERALIZES: &str = "generalizes";
    const LATE_CLAIM: &str = "groks: generalizes late";
    const NOT_BY: &str = "; not generalized by step 1500: ";
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
            assert_eq!(
                found[claim],
                (Some(true), format!("survives in this run{NOT_BY}arm 2; censored: arm 1")),
                "{claim}"
            );
        }
        // Nor is it a control: alone with it, nothing could be refuted.
        let found = judged(&[(MAIN, plain()), (NEVER, seed)]);
        assert_eq!(found[KEY].0, None);
        assert!(found[KEY].1.starts_with("holds, but no control of this run could refute it"), "{}", found[KEY].1);
    }

    #[test]
    fn a_sign_that_is_missing_fails_only_where_generalization_was_there_or_long_waited_for() {
        let less = ReplicaConfig { train_fraction: Some(0.2), ..control() };
        // Another seed and a control that may be cut off, a control that was watched for long, one that generalizes without it.
        let given =
            [(NEVER, plain()), (NEVER, less.clone()), (MAIN, plain()), ((Some(100), Some(400), Some(700), 0.2), less)];
        let found = |given: &[Given]| {
            let seen: Vec<Watched> = given.iter().map(|(truth, _)| watched(*truth)).collect();
            let of = |verdict: &Verdict| verdict.outcomes.iter().map(|(one, _)| one.as_ref().unwrap().found).collect();
            let all = verdicts(given, &seen);
            [SPECTRUM, KEY].map(|name| all.iter().find(|verdict| verdict.name == name).map(of).unwrap()).to_vec()
        };
        let cut_off: Vec<Vec<Found>> = found(&given[..2]);
        assert_eq!(cut_off, [[Found::Open; 2]; 2]);
        let told = found(&[given[2].clone(), given[0].clone(), given[1].clone(), given[3].clone()]);
        assert_eq!(told, [[Found::Holds, Found::Open, Found::Fails, Found::Fails]; 2]);
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
        let flicker = (Some(100), None, Some(1480), 0.1);
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
        assert_eq!(found["generalizes"], (None, "cannot be judged: in arm 0 not by step 1500".to_owned()));
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
    fn a_control_that_did_not_live_or_was_not_watched_long_enough_says_nothing() {
        let less = ReplicaConfig { train_fraction: Some(0.2), ..control() };
        // One that never memorized, and one that may generalize as soon as the run has ended: the main arm took to step 800.
        let late: Truth = (Some(100), Some(800), Some(300), 0.6);
        for (truths, words) in [
            ([MAIN, (None, None, None, 0.1)], "says nothing: arm 1 (memorized not by step 1500)"),
            ([MAIN, (None, None, Some(300), 0.7)], "says nothing: arm 1 (memorized not by step 1500)"),
            ([late, NEVER], "says nothing: arm 1 (generalized not by step 1500, watched for less than to step 1600)"),
            // Nor does it refute anything: it may generalize a little later, and show the sign for that.
            ([late, (Some(200), None, Some(300), 0.7)], "says nothing: arm 1 (generalized not by step 1500"),
        ] {
            for config in [less.clone(), shuffled()] {
                let found = judged(&[(truths[0], plain()), (truths[1], config)]);
                for claim in [GENERALIZES, LATE_CLAIM, SPECTRUM, KEY] {
                    let (survives, said) = &found[claim];
                    assert_eq!(*survives, None, "{claim}: {said}");
                    assert!(said.starts_with("holds, but no control") && said.contains(words), "{claim}: {said}");
                }
            }
        }
        // Beside one that says something it is told.
        let found = judged(&[(MAIN, plain()), (NEVER, shuffled()), ((None, None, None, 0.1), less)]);
        let said = format!("survives in this run{NOT_BY}arm 1; says nothing: arm 2 (memorized not by step 1500)");
        assert_eq!(found[GENERALIZES], (Some(true), said));
        // A date counts from where the looking began: both arms of a fork at step 1000 were watched for 500 steps.
        let given = [((Some(100), Some(1200), Some(900), 0.6), plain()), ((Some(100), None, None, 0.1), no_decay())];
        let fork = given.iter().map(|(truth, _)| seen(*truth, 1000, None)).collect();
        let (survives, said) = &judge_all(&given, fork)[SPECTRUM];
        assert_eq!(*survives, Some(true), "{said}");
    }

    #[test]
    fn an_arm_that_diverged_says_nothing() {
        // It generalized and had its key, before the loss was no number any more.
        let diverges = |config| {
            let given = [(MAIN, plain()), (NEVER, shuffled()), (MAIN, config)];
            let seen = [watched(MAIN), watched(NEVER), seen(MAIN, 0, Some(900))];
            judge_all(&given, seen.into())
        };
        for config in [plain(), no_decay()] {
            let found = diverges(config);
            for claim in [GENERALIZES, LATE_CLAIM, SPECTRUM, KEY] {
                let (survives, said) = &found[claim];
                assert_eq!(*survives, Some(true), "{claim}: {said}");
                assert!(said.contains("says nothing: arm 2 (diverged step 900 ± 10)"), "{claim}: {said}");
            }
        }
        let given = [(MAIN, plain()), (NEVER, shuffled())];
        for claim in judge_all(&given, vec![seen(MAIN, 0, Some(900)), watched(NEVER)]) {
            assert_eq!(claim.1, (None, "cannot be judged: arm 0 diverged step 900 ± 10".to_owned()), "{}", claim.0);
        }
        // What is no number at the end was not measured, and is no sign that is missing.
        let mut last = watched(MAIN);
        let key = |metric: &str, index| Key {
            metric: metric.into(),
            site: "embed.W_E".into(),
            layer: 0,
            head: -1,
            index,
            replica: 0,
        };
        last.take(&key("gini", -1), 1500, f32::NAN);
        last.take(&key("sync.similarity", 0), 1500, f32::NAN);
        assert_eq!((last.sparsity(), last.similarity()), (None, None));
    }

    #[test]
    fn late_is_said_where_the_resolution_tells_and_of_what_was_seen_to_begin() {
        let at = |step, resolution| Onset { step, resolution, censored: None };
        let by = |step| Onset { step, resolution: 0, censored: Some(Censored::Before) };
        assert_eq!(late(at(500, 200), at(1000, 200)).found, Found::Open);
        assert_eq!(late(at(500, 10), at(1010, 10)).found, Found::Holds);
        assert_eq!(late(at(500, 10), at(1000, 10)).found, Found::Open);
        assert_eq!(late(at(500, 10), at(980, 10)).found, Found::Fails);
        // Just once as late, however coarse.
        assert_eq!(late(at(1000, 100), at(1000, 100)).found, Found::Fails);
        // A fork, or a run from other weights, that knew at its first look.
        assert_eq!(late(by(2000), at(9000, 10)).found, Found::Open);
        assert_eq!(late(by(0), at(600, 10)).found, Found::Open);
        assert_eq!(late(at(100, 10), Onset::not_by(1000)).found, Found::Open);
    }

    #[test]
    fn what_a_fork_shows_at_its_first_look_came_of_nothing_in_it() {
        // Behind memorization, and behind both.
        for (first, claims) in [(500, [LATE_CLAIM, "memorizes"]), (700, [LATE_CLAIM, GENERALIZES])] {
            let given = [(MAIN, plain()), (MAIN, shuffled())];
            let found = judge_all(&given, given.iter().map(|(truth, _)| seen(*truth, first, None)).collect());
            for claim in claims {
                let said = &found[claim];
                assert!(said.0.is_none() && said.1.contains(&format!("by step {first}")), "{claim}: {}", said.1);
            }
            // No first value is known of what is measured against it.
            assert!(!found.keys().any(|claim| claim.contains("dimensions")));
        }
        let whole = judged(&[(MAIN, plain()), (NEVER, shuffled())]);
        assert_eq!(whole["the embedding loses dimensions before generalization"].0, Some(true));
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
