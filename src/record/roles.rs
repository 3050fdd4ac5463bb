//! Birth records of heads: when a head's effect on the logit difference first clears the null and stays.
//!
//! A head is called a *suppressor* where zeroing it raises the logit difference of the probe, and a *contributor* where
//! zeroing it lowers it; by no other rule, and only where two questions are answered yes. Does the effect differ from 0? By
//! Student's t of the paired differences of the probe's examples (`ablation.logit_difference.se`, `probe.n`). Is it more than
//! what an average share of its layer does, which is what random subspaces of the same size stand for? By twice the one-sided
//! p-value of its direction (`ablation.p`). Heads that share their layer's work alike are never born: none is beyond the
//! average. A head's p-value is the greater of the two, so that it is small only where both are (Berger 1982), and it is born
//! where that is among those that Benjamini and Hochberg's procedure rejects at a false discovery rate of [`RATE`], taken over
//! the heads of a replica at that probe. It counts once it has held at [`HOLD`] probes in a row, and at an eighth of all so far.
//!
//! That it held says that it stayed, not that it was found so often: probes share their examples and their subspaces. It
//! is there because a long run has many probes: heads that neither question tells from chance, but whose effects wander
//! slowly, clear one now and then. With it any of them is born in at most some 20 % of replicas' whole runs where chance alone
//! answers one of the questions, and in fewer than 1 % where it answers both and heads wander on their own, however slowly they
//! wander and however many probes there are (a test simulates it, with 8 and 16 heads). Heads that wander together, as the
//! choice of a probe's examples may make them, are born together: fewer runs have a birth, some 12 %, but those have several, up
//! to 1.7 a run in the mean over all. Several births at one probe are hardly more than one. A rate over all
//! heads and all probes so far would be stricter, and blind: a head that begins to matter in the middle of a run could not make
//! up for the probes before, since the least p-value that a few hundred draws can give is not small enough.

use std::collections::{BTreeMap, BTreeSet};

use super::events::{Event, HeadRole, Subject, Turned, What};
use super::reader::{Key, Series};
use crate::instrument::Label;
use crate::stats::{Births, Onset, Paired, add_one, false_discovery_threshold, two_sided};
use crate::train::Row;

/// Share of false discoveries among the heads that clear the null.
pub const RATE: f64 = 0.05;
/// Probes in a row that a role must hold. Fewer than the measurements of what is measured often: a short run has ten probes, and
/// each asks hundreds of examples.
pub const HOLD: u32 = 3;

/// p-values, of which index 1 is that of a raised and 3 that of a lowered logit difference.
const P: &str = "ablation.p";
/// Effects, of which index 0 is zero ablation's.
const EFFECT: &str = "ablation.logit_difference";
/// Their standard errors.
const ERROR: &str = "ablation.logit_difference.se";
/// Over how many examples.
const EXAMPLES: &str = "probe.n";

/// A head, and whether removing it raises the logit difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Role {
    layer: i32,
    head: i32,
    raises: bool,
}

/// The heads of one replica.
#[derive(Default)]
struct Heads {
    /// Probes so far.
    probes: u32,
    births: Births<Role>,
    /// The last role of each head that had one.
    last: BTreeMap<(i32, i32), bool>,
}

/// The heads of a run.
pub struct Roles {
    /// The metric that roles rest on.
    metric: &'static str,
    replicas: Vec<Heads>,
}

/// What a probe says of one head: a p-value, its effect, or the error of that; or over how many examples.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    replica: usize,
    layer: i32,
    head: i32,
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Raised(f64),
    Lowered(f64),
    Effect(f64),
    Error(f64),
    Examples(f64),
}

impl Finding {
    /// A row of the metric table, if it is one. What is measured behind the last step, at a step that the metric's
    /// cadence does not divide, is none.
    pub fn of(row: &Row<'_>) -> Option<Self> {
        let due = row.step.is_multiple_of(row.metric.every);
        Self::new(row.metric.card.name, row.replica as usize, row.label, row.value).filter(|_| due)
    }

    /// All that a probe says of one head: its effect with the error of that, and the two-sided p-value of the null.
    pub fn of_head(replica: u32, [layer, head]: [usize; 2], effect: Paired, exceeds_null: f64) -> [Self; 5] {
        let values = [
            Value::Raised(exceeds_null / 2.0),
            Value::Lowered(exceeds_null / 2.0),
            Value::Effect(effect.mean),
            Value::Error(effect.standard_error),
            Value::Examples(effect.count as f64),
        ];
        values.map(|value| Self { replica: replica as usize, layer: layer as i32, head: head as i32, value })
    }

    fn new(metric: &str, replica: usize, Label { layer, head, index }: Label, value: f32) -> Option<Self> {
        let value = match (metric, index) {
            (P, 1) => Value::Raised(f64::from(value)),
            (P, 3) => Value::Lowered(f64::from(value)),
            (EFFECT, 0) if head >= 0 => Value::Effect(f64::from(value)),
            (ERROR, 0) if head >= 0 => Value::Error(f64::from(value)),
            (EXAMPLES, _) => Value::Examples(f64::from(value)),
            _ => return None,
        };
        Some(Self { replica, layer, head, value })
    }
}

impl Roles {
    /// Nothing seen yet.
    pub fn new(replicas: u32) -> Self {
        Self::by(EFFECT, replicas)
    }

    /// The same by effects of another name.
    pub fn by(metric: &'static str, replicas: u32) -> Self {
        Self { metric, replicas: (0..replicas).map(|_| Heads::default()).collect() }
    }

    /// Whether a metric says something of heads' roles.
    pub fn wants(metric: &str) -> bool {
        [P, EFFECT, ERROR, EXAMPLES].contains(&metric)
    }

    /// Takes in what was written of a run up to, and without, a step: the series of the metrics that it wants, among others.
    pub fn replay(&mut self, written: &BTreeMap<Key, Series>, before: u64) {
        let mut steps: BTreeMap<u64, Vec<Finding>> = BTreeMap::new();
        for (key, series) in written {
            let label = Label { layer: key.layer, head: key.head, index: key.index };
            for (step, value) in series.steps.iter().zip(&series.values).filter(|(step, _)| **step < before as i64) {
                let found = Finding::new(&key.metric, key.replica as usize, label, *value);
                steps.entry(*step as u64).or_default().extend(found);
            }
        }
        for (step, findings) in steps {
            self.measure(step, &findings);
        }
    }

    /// Takes in the findings of one step; returns the births, sign flips and deaths that are certain by now.
    pub fn measure(&mut self, step: u64, findings: &[Finding]) -> Vec<Event> {
        let mut events = Vec::new();
        for (replica, heads) in self.replicas.iter_mut().enumerate() {
            let mut of_head: BTreeMap<(i32, i32), [f64; 4]> = BTreeMap::new();
            let mut examples = 0.0;
            for found in findings.iter().filter(|found| found.replica == replica) {
                let values = of_head.entry((found.layer, found.head)).or_insert([f64::NAN; 4]);
                match found.value {
                    Value::Raised(p) => values[0] = p,
                    Value::Lowered(p) => values[1] = p,
                    Value::Effect(effect) => values[2] = effect,
                    Value::Error(error) => values[3] = error,
                    Value::Examples(count) => examples = count,
                }
            }
            let known: Vec<(Role, f64)> = of_head
                .iter()
                .filter(|(_, values)| values.iter().all(|value| value.is_finite()))
                .map(|((layer, head), [raised, lowered, effect, error])| {
                    let role = Role { layer: *layer, head: *head, raises: *effect > 0.0 };
                    (role, p_of_head(*effect, *error, examples, [*raised, *lowered]))
                })
                .collect();
            if known.is_empty() {
                continue;
            }
            let (threshold, turns) = heads.measure(step, &known);
            for (onset, turn, role) in turns {
                let subject = Subject {
                    metric: self.metric.to_owned(),
                    site: format!("blocks.{}.attn.hook_result", role.layer),
                    layer: role.layer,
                    head: role.head,
                    index: -1,
                    role: Some(if role.raises { HeadRole::Suppressor } else { HeadRole::Contributor }),
                };
                let [raised, lowered, effect, error] = of_head[&(role.layer, role.head)];
                let numbers = [
                    ("p", Some(p_of_head(effect, error, examples, [raised, lowered]))),
                    ("p_exceeds_null", Some(two_sided(effect, raised, lowered))),
                    ("p_differs_from_0", Some(differs(effect, error, examples))),
                    ("effect", Some(effect)),
                    ("standard_error", Some(error)),
                    ("examples", Some(examples)),
                    ("threshold", threshold),
                    ("rate", Some(RATE)),
                    ("hold", Some(f64::from(heads.hold()))),
                ];
                // A head that dies may have no number for one of them any more; JSON has none for NaN.
                let numbers = numbers.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?)));
                let numbers = numbers.filter(|(_, value)| value.is_finite());
                let turned = Turned { subject, numbers: numbers.collect() };
                let what = match turn {
                    Turning::Birth => What::Birth(turned),
                    Turning::Death => What::Death(turned),
                    Turning::Flip => What::Flip(turned),
                };
                events.push(Event::dated(onset, step, replica as u32, what));
            }
        }
        events
    }
}

/// The greatest two-sided p-value, of those of all heads of a replica at one probe, that clears the null.
pub fn threshold(p: &[f64]) -> Option<f64> {
    false_discovery_threshold(p, RATE)
}

/// Of how many draws of the null are too few to tell a single one of so many heads from chance, what they can tell: each p-value
/// counts twice, for its two sides.
pub fn too_few(draws: usize, heads: usize) -> Option<String> {
    let together = (2.0 * heads as f64 * add_one(0, draws) / RATE).ceil() as usize;
    match together {
        0 | 1 => None,
        _ if together > heads => {
            Some(format!("{draws} random subspaces are too few to tell any of {heads} heads from chance"))
        }
        _ => Some(format!(
            "{draws} random subspaces tell heads from chance only where {together} of {heads} differ from them at once"
        )),
    }
}

/// A birth, a death, or a birth on the other side than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turning {
    Birth,
    Death,
    Flip,
}

/// The p-value that a head's role rests on, from its effect on the logit difference, the standard error of that over so many
/// examples, and the one-sided p-values of the null, raised and lowered: the greater of those of both questions.
pub fn p_of_head(effect: f64, standard_error: f64, examples: f64, [raised, lowered]: [f64; 2]) -> f64 {
    let differs = differs(effect, standard_error, examples);
    // NaN, where one example is all, clears nothing.
    if differs >= 0.0 { differs.max(two_sided(effect, raised, lowered)) } else { 1.0 }
}

/// The p-value of an effect that is none, from its standard error over so many examples; NaN of fewer than two.
fn differs(effect: f64, standard_error: f64, examples: f64) -> f64 {
    Paired { mean: effect, standard_error, count: examples as u64 }.p()
}

impl Heads {
    /// Probes in a row that count, of those so far.
    fn hold(&self) -> u32 {
        HOLD.max(self.probes.div_ceil(8))
    }

    /// The greatest p-value that clears the null, and who turned.
    fn measure(&mut self, step: u64, known: &[(Role, f64)]) -> (Option<f64>, Vec<(Onset, Turning, Role)>) {
        self.probes += 1;
        let threshold = threshold(&known.iter().map(|(_, p)| *p).collect::<Vec<_>>());
        let clear = |p: f64| threshold.is_some_and(|threshold| p <= threshold);
        let present: BTreeSet<Role> = known.iter().filter(|(_, p)| clear(*p)).map(|(role, _)| *role).collect();
        let turns = self.births.measure(step, &present, self.hold());
        // A head that changes sides dies before it is born anew.
        let (deaths, births): (Vec<_>, Vec<_>) = turns.into_iter().partition(|turn| !turn.born);
        let deaths = deaths.into_iter().map(|turn| (turn.onset, Turning::Death, turn.label));
        let births = births.into_iter().map(|turn| {
            let before = self.last.insert((turn.label.layer, turn.label.head), turn.label.raises);
            let flipped = before.is_some_and(|raised| raised != turn.label.raises);
            (turn.onset, if flipped { Turning::Flip } else { Turning::Birth }, turn.label)
        });
        (threshold, deaths.chain(births).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Philox, Stream};
    use crate::stats::normal_below;

    /// What of the two questions chance alone answers, where a head has no role.
    #[derive(Clone, Copy, PartialEq)]
    enum Chance {
        /// It matters, but no more than its layer's average: the null's p-values wander.
        Share,
        /// It is beyond the null, but the effect is that of the probe's choice of examples: the t-test's p-values wander.
        Examples,
        /// Both, on their own.
        Both,
    }

    /// How heads wander that have no role.
    #[derive(Clone, Copy)]
    struct Wander {
        heads: usize,
        /// Correlation of neighbouring probes.
        slow: f64,
        /// Correlation of heads.
        alike: f64,
    }

    const ALONE: Wander = Wander { heads: 8, slow: 0.9, alike: 0.0 };

    /// Births of the heads of a run of 100 probes, with the least p-values that the usual number of draws can give. Every
    /// head's effect wanders as a first-order autoregression, in units of the null's spread, of its
    /// error over examples, or of both; from probe `from` on that of head 0 is five deviations beyond in both.
    fn born(seed: u32, chance: Chance, Wander { heads: count, slow, alike }: Wander, from: usize) -> Vec<(u64, i32)> {
        const DRAWS: f64 = 320.0;
        let [stream, common] = [0, 1].map(|of| Philox::new(u64::from(seed), Stream::Probe, of));
        let mut heads = Heads::default();
        // The last is common to all heads.
        let mut effects = vec![[0.0; 2]; count + 1];
        let mut births = Vec::new();
        for probe in 0..100 {
            for (head, effect) in effects.iter_mut().enumerate() {
                let kept = if probe == 0 { 0.0 } else { slow };
                let fresh = (1.0 - kept * kept).sqrt();
                let drawn = match head {
                    head if head < count => stream.normals((probe * count + head) as u64),
                    _ => common.normals(probe as u64),
                };
                *effect = [0, 1].map(|question| kept * effect[question] + fresh * drawn[question]);
            }
            let known: Vec<(Role, f64)> = (0..count)
                .map(|head| {
                    let beyond = if head == 0 && probe >= from { 5.0 } else { 0.0 };
                    let joined = |question: usize| {
                        let [own, all]: [f64; 2] = [effects[head][question], effects[count][question]];
                        (1.0 - alike).sqrt() * own + alike.sqrt() * all
                    };
                    let [share, examples] = [0, 1].map(|question| joined(question) + beyond);
                    let reached = (DRAWS * normal_below(-share.abs())).round();
                    let exceeds = 2.0 * (1.0 + reached) / (DRAWS + 1.0);
                    let differs = Paired { mean: examples, standard_error: 1.0, count: 256 }.p();
                    let (p, sign) = match chance {
                        Chance::Share => (exceeds, share),
                        Chance::Examples => (differs, examples),
                        Chance::Both => (exceeds.max(differs), examples),
                    };
                    (Role { layer: 0, head: head as i32, raises: sign > 0.0 }, p)
                })
                .collect();
            let (_, turns) = heads.measure(100 * probe as u64, &known);
            let born = turns.iter().filter(|(_, kind, _)| *kind == Turning::Birth);
            births.extend(born.map(|(onset, _, r)| (onset.step, r.head)));
        }
        births
    }

    #[test]
    fn a_head_that_begins_to_matter_late_is_found_and_dated() {
        let found =
            (0..50).filter_map(|seed| born(seed, Chance::Both, ALONE, 60).into_iter().find(|(_, head)| *head == 0));
        let steps: Vec<u64> = found.map(|(step, _)| step).collect();
        assert!(steps.len() >= 48, "{} of 50", steps.len());
        let close = steps.iter().filter(|step| (6000..6300).contains(*step)).count();
        assert!(close >= 40, "{close} of 50 are dated by the first three probes: {steps:?}");
    }

    #[test]
    fn few_heads_without_a_role_are_born_however_slowly_they_wander() {
        for slow in [0.0, 0.7, 0.9, 0.95, 0.98, 1.0] {
            let [share, examples, both] = [Chance::Share, Chance::Examples, Chance::Both].map(|chance| {
                (0..300).map(|seed| born(seed, chance, Wander { slow, ..ALONE }, usize::MAX).len()).sum::<usize>()
            });
            assert!(share.max(examples) <= 90, "{share} and {examples} births in 300 runs at {slow}");
            assert!(both <= 3, "{both} births in 300 runs at {slow}");
        }
    }

    #[test]
    fn few_runs_have_a_birth_of_heads_without_a_role_also_where_heads_wander_together() {
        const RUNS: usize = 200;
        // 20 % of them, of heads that wander together 12 %, and four binomial errors.
        let most = |share: f64| share * RUNS as f64 + 4.0 * (share * (1.0 - share) * RUNS as f64).sqrt();
        for heads in [8, 16] {
            for (alike, slow) in [(0.0, 0.95), (0.5, 0.9), (0.9, 0.0), (0.9, 0.9), (0.9, 0.98)] {
                for chance in [Chance::Share, Chance::Examples] {
                    let births = |seed| born(seed, chance, Wander { heads, slow, alike }, usize::MAX).len();
                    let births: Vec<usize> = (0..RUNS as u32).map(births).collect();
                    let runs = births.iter().filter(|births| **births > 0).count();
                    let note = format!(
                        "{heads} heads alike by {alike}, slow by {slow}: {runs} of {RUNS} runs have {} births",
                        births.iter().sum::<usize>()
                    );
                    println!("{note}");
                    assert!(runs as f64 <= most(if alike > 0.0 { 0.12 } else { 0.2 }), "{note}");
                }
            }
        }
    }

    /// Events of a run of two heads in layer 0, from their p-values, negative where zeroing the head lowers the
    /// logit difference, and errors of effects of size 1.
    fn events(probes: &[[f32; 2]], error: f32) -> Vec<String> {
        let mut roles = Roles::new(1);
        let label = |head: usize, index| Label { layer: 0, head: head as i32, index };
        let measure = |(step, p): (usize, &[f32; 2])| {
            let of = |head: usize| {
                let (raised, lowered) = if p[head] > 0.0 { (p[head], 1.0) } else { (1.0, -p[head]) };
                let (effect, error) = ((EFFECT, label(head, 0), p[head].signum()), (ERROR, label(head, 0), error));
                [(P, label(head, 1), raised), (P, label(head, 3), lowered), effect, error]
            };
            let all = [of(0), of(1), [(EXAMPLES, Label::NONE, 256.0); 4]].concat();
            let found = all.into_iter().filter_map(|(m, l, v)| Finding::new(m, 0, l, v));
            roles.measure(100 * step as u64, &found.collect::<Vec<_>>())
        };
        let words = |event: Event| {
            let (kind, who) = match &event.what {
                What::Birth(who) => ("birth", who),
                What::Death(who) => ("death", who),
                What::Flip(who) => ("flip", who),
                other => panic!("{other:?}"),
            };
            assert!(who.numbers.contains_key("p") && who.numbers["hold"] == 3.0, "{who:?}");
            format!("{} {kind} {}", event.step, who.subject.words())
        };
        probes.iter().enumerate().flat_map(measure).map(words).collect()
    }

    #[test]
    fn births_flips_and_deaths_are_dated_by_their_first_probe() {
        let (low, no) = (0.0025, 0.5);
        let calm = [no, no];
        assert!(events(&[calm, calm, [low, no], [low, no], calm, calm], 0.1).is_empty(), "two probes are not three");
        assert_eq!(events(&[calm, [low, no], [low, no], [low, no]], 0.1), ["100 birth suppressor layer 0 head 0"]);
        let flipped = [[low, -low], [low, -low], [low, -low], [-low, -low], [-low, -low], [-low, -low]];
        assert_eq!(
            events(&flipped, 0.1),
            [
                "0 birth suppressor layer 0 head 0",
                "0 birth contributor layer 0 head 1",
                "300 death suppressor layer 0 head 0",
                "300 flip contributor layer 0 head 0",
            ]
        );
    }

    #[test]
    fn who_is_beyond_the_null_by_an_effect_that_is_none_is_not_born() {
        let low = [[0.0025, 0.5]; 5];
        // One error from 0, and one example.
        assert!(events(&low, 1.0).is_empty());
        assert!(events(&low, f32::NAN).is_empty());
        assert_eq!(events(&low, 0.1), ["0 birth suppressor layer 0 head 0"]);
    }

    /// Whether a head is born that has this p-value at each of thirty steps, among 39 that have 0.5.
    fn is_born(p: f64) -> bool {
        let mut heads = Heads::default();
        let role = |head| Role { layer: 0, head, raises: true };
        let known: Vec<(Role, f64)> = (0..40).map(|head| (role(head), if head == 0 { p } else { 0.5 })).collect();
        (0..30).any(|step| !heads.measure(step, &known).1.is_empty())
    }

    #[test]
    fn one_head_among_forty_needs_a_p_value_below_a_fortieth_of_the_rate() {
        // 2/201: the least that 200 draws can give.
        assert!(!is_born(2.0 / 201.0));
        assert!(!is_born(1.01 * RATE / 40.0));
        assert!(is_born(0.99 * RATE / 40.0));
    }
}
