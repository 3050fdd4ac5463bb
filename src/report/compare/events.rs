//! When events came in the arms: how many have not come to one by when, which arm is later, and which of two events comes first.

use serde::Serialize;

use super::Said;
use super::members::{Arm, Date, Member, Party};
use crate::stats::{Estimate, Missing, Onset, Orders, Survival, Time, adjusted, log_rank, restricted_difference};

/// Replicas of an arm from which on a test says something of the arm.
pub(super) const ENOUGH: usize = 5;
/// Orders of events that are drawn for the null, and the seed of that.
const DRAWS: usize = 999;

/// One event in arms that began together.
#[derive(Serialize)]
pub(super) struct Event {
    pub(super) event: &'static str,
    /// Step of the fork at which the arms began; none of runs from the beginning.
    pub(super) from: Option<u64>,
    /// To which step means are restricted: all arms were watched to there.
    pub(super) until: f64,
    /// The first is what the others are compared with.
    pub(super) arms: Vec<OfArm>,
}

/// The same in one arm.
#[derive(Serialize)]
pub(super) struct OfArm {
    pub(super) arm: String,
    pub(super) replicas: usize,
    pub(super) came: usize,
    /// When, in words, in each replica.
    pub(super) dates: Vec<String>,
    /// The first step by which it had come to half of them.
    pub(super) median: Option<f64>,
    /// Mean steps to the event, restricted to `until`.
    pub(super) mean: Said<Number>,
    /// Against the first arm.
    pub(super) against: Option<Against>,
    /// The curve of those to which it had not come, for the picture.
    #[serde(skip)]
    pub(super) left: Survival,
    #[serde(skip)]
    pub(super) number: usize,
}

/// An arm against the first.
#[derive(Serialize)]
pub(super) struct Against {
    /// Steps by which the event comes later, in restricted means.
    pub(super) later: Said<Number>,
    /// p-value of the log-rank test, and the same among all arms and events of the page (Benjamini and Hochberg).
    pub(super) p: Said<f64>,
    pub(super) q: Option<f64>,
    /// Whether both arms have replicas enough for that.
    pub(super) enough: bool,
    /// Replicas that began with the same state and draws, side by side.
    pub(super) pairs: Said<Pairs>,
}

/// Pairs of replicas that differ in nothing but their arms.
#[derive(Serialize)]
pub(super) struct Pairs {
    pub(super) later: usize,
    pub(super) earlier: usize,
    pub(super) tied: usize,
    pub(super) unknown: usize,
    /// Steps by which it is later in the median pair of those with two dates, and where that lies with 95 % confidence.
    pub(super) by: Option<f64>,
    pub(super) interval: Option<[f64; 2]>,
    /// Of the sign test.
    pub(super) p: f64,
}

/// A number and its standard error.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Number {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl From<Estimate> for Number {
    fn from(Estimate { value, error }: Estimate) -> Self {
        Self { value, error }
    }
}

/// Which event comes before which.
#[derive(Serialize)]
pub(super) struct Matrix {
    /// The arm; none where each has one replica, and all are taken together.
    pub(super) arm: Option<String>,
    pub(super) replicas: usize,
    /// In the order of their median dates.
    pub(super) events: Vec<&'static str>,
    pub(super) pairs: Vec<Order>,
    /// The probability that a pair agrees as well as the one that agrees best where events of a run have no order.
    pub(super) p: f64,
}

/// Two events.
#[derive(Serialize)]
pub(super) struct Order {
    pub(super) events: [&'static str; 2],
    pub(super) before: usize,
    pub(super) after: usize,
    pub(super) tied: usize,
    pub(super) unknown: usize,
    /// Steps by which the first leads in the median.
    pub(super) lead: Option<f64>,
    pub(super) interval: Option<[f64; 2]>,
    pub(super) p: f64,
    pub(super) q: f64,
    pub(super) family: f64,
}

fn date(member: &Member, event: &str) -> Date {
    member.dates.iter().find(|(name, _)| *name == event).map_or(Date::Unknown, |(_, date)| *date)
}

/// All events of all arms that can be compared.
pub(super) fn events(party: &Party) -> Vec<Event> {
    let mut all = Vec::new();
    for (from, arms) in party.families() {
        for event in names(party) {
            let of: Vec<OfArm> = arms.iter().filter_map(|arm| of_arm(party, *arm, event)).collect();
            if of.iter().any(|arm| arm.came > 0) {
                all.push(Event { event, from, until: restricted_to(&of), arms: of });
            }
        }
    }
    for event in &mut all {
        compare(party, event);
    }
    let mut tested: Vec<&mut Against> =
        all.iter_mut().flat_map(|event| &mut event.arms).filter_map(|a| a.against.as_mut()).collect();
    let p: Vec<f64> =
        tested.iter().filter(|against| against.enough).filter_map(|against| against.p.number().copied()).collect();
    let mut q = adjusted(&p).into_iter();
    for against in tested.iter_mut().filter(|against| against.enough && against.p.number().is_some()) {
        against.q = q.next();
    }
    all
}

fn names(party: &Party) -> Vec<&'static str> {
    party.members[0].dates.iter().map(|(name, _)| *name).collect()
}

fn of_arm(party: &Party, number: usize, event: &'static str) -> Option<OfArm> {
    let arm: &Arm = &party.arms[number];
    let dates: Vec<Date> = arm.members.iter().map(|member| date(&party.members[*member], event)).collect();
    let times: Vec<Time> = dates.iter().filter_map(|date| date.known()).map(Time::from).collect();
    let left = Survival::of(&times).ok()?;
    Some(OfArm {
        arm: arm.name.clone(),
        replicas: times.len(),
        came: times.iter().filter(|time| time.came).count(),
        dates: dates.iter().map(|date| date.words()).collect(),
        median: left.median(),
        mean: Said::Missing { missing: String::new() },
        against: None,
        left,
        number,
    })
}

/// To where all arms were watched, or had come to the event.
fn restricted_to(arms: &[OfArm]) -> f64 {
    let watched = arms.iter().filter(|arm| arm.left.at(arm.left.last) > 0.0).map(|arm| arm.left.last);
    let least = watched.fold(f64::INFINITY, f64::min);
    if least.is_finite() { least } else { arms.iter().map(|arm| arm.left.last).fold(0.0, f64::max) }
}

fn compare(party: &Party, event: &mut Event) {
    let times = |arm: &OfArm| -> Vec<Time> {
        let members = party.arms[arm.number].members.iter();
        members.filter_map(|member| date(&party.members[*member], event.event).known()).map(Time::from).collect()
    };
    let all: Vec<Vec<Time>> = event.arms.iter().map(times).collect();
    let control = event.arms[0].left.clone();
    let first = event.arms[0].number;
    for (at, arm) in event.arms.iter_mut().enumerate() {
        arm.mean = arm.left.restricted_mean(event.until).map(Number::from).into();
        if at > 0 {
            arm.against = Some(Against {
                later: restricted_difference(&arm.left, &control, event.until).map(Number::from).into(),
                p: log_rank(&[&all[at], &all[0]]).map(|test| test.p).into(),
                q: None,
                enough: all[at].len().min(all[0].len()) >= ENOUGH,
                pairs: pairs(party, [first, arm.number], event.event).into(),
            });
        }
    }
}

/// Replicas of two arms that began alike.
fn pairs(party: &Party, [first, second]: [usize; 2], event: &str) -> Result<Pairs, Missing> {
    let of = |arm: usize| party.arms[arm].members.iter().map(|member| &party.members[*member]);
    let dated = |member: &Member| date(member, event).known();
    let pair = |one: &Member| {
        let other = of(second).find(|other| other.start == one.start)?;
        Some(vec![dated(one), dated(other)])
    };
    let rows: Vec<Vec<Option<Onset>>> = of(first).filter_map(pair).collect();
    // Nothing is drawn for two events: the sign test is all.
    let found = match rows.len() {
        0 => return Err(Missing::Because("no two replicas of them began with the same state and draws")),
        1 => Orders::of(&[rows[0].clone(), vec![None, None]], 20, 0)?,
        _ => Orders::of(&rows, 20, 0)?,
    };
    let pair = &found.pairs[0];
    Ok(Pairs {
        later: pair.before,
        earlier: pair.after,
        tied: pair.tied,
        unknown: pair.unknown - usize::from(rows.len() == 1),
        by: Some(pair.lead).filter(|lead| lead.is_finite()),
        interval: pair.interval,
        p: pair.p,
    })
}

/// Which event comes first: in each arm of several replicas, or, where none has, over all.
pub(super) fn matrices(party: &Party) -> Vec<Matrix> {
    let of = |arm: &Arm| matrix(party, Some(arm.name.clone()), &arm.members);
    let by_arm: Vec<Matrix> = party.arms.iter().filter(|arm| arm.members.len() > 1).filter_map(of).collect();
    if !party.arms.iter().all(|arm| arm.members.len() < 2) {
        return by_arm;
    }
    let all: Vec<usize> = party.arms.iter().flat_map(|arm| arm.members.iter().copied()).collect();
    matrix(party, None, &all).into_iter().collect()
}

fn matrix(party: &Party, arm: Option<String>, members: &[usize]) -> Option<Matrix> {
    let known =
        |event: &str| members.iter().map(|member| date(&party.members[*member], event).known()).collect::<Vec<_>>();
    let came = |onset: &Option<Onset>| onset.is_some_and(|onset| onset.began().is_some());
    let mut events: Vec<(&'static str, Vec<Option<Onset>>)> = names(party)
        .into_iter()
        .map(|event| (event, known(event)))
        .filter(|(_, dates)| dates.iter().any(came))
        .collect();
    let median = |dates: &Vec<Option<Onset>>| {
        let times: Vec<Time> = dates.iter().flatten().copied().map(Time::from).collect();
        Survival::of(&times).ok().and_then(|left| left.median()).unwrap_or(f64::INFINITY)
    };
    events.sort_by(|a, b| median(&a.1).total_cmp(&median(&b.1)));
    let runs: Vec<Vec<Option<Onset>>> =
        (0..members.len()).map(|at| events.iter().map(|(_, dates)| dates[at]).collect()).collect();
    let found = Orders::of(&runs, DRAWS, 0).ok()?;
    let names: Vec<&'static str> = events.iter().map(|(name, _)| *name).collect();
    let order = |pair: &crate::stats::Pair| Order {
        events: pair.events.map(|at| names[at]),
        before: pair.before,
        after: pair.after,
        tied: pair.tied,
        unknown: pair.unknown,
        lead: Some(pair.lead).filter(|lead| lead.is_finite()),
        interval: pair.interval,
        p: pair.p,
        q: pair.q,
        family: pair.family,
    };
    let pairs = found.pairs.iter().map(order).collect();
    Some(Matrix { arm, replicas: members.len(), events: names, pairs, p: found.p })
}
