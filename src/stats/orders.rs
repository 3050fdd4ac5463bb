//! Which of several events comes before which, over runs.

use super::draws::Draws;
use super::errors::median;
use super::missing::Missing;
use super::onset::{Censored, Onset};
use super::p_values::{add_one, adjusted, at_least};
use crate::random::Stream;

/// Two events, over runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The two, by their places in the list; the first has the smaller.
    pub events: [usize; 2],
    /// Runs in which the first certainly came before the second.
    pub before: usize,
    /// Runs in which it certainly came after.
    pub after: usize,
    /// Runs in which both are dated between the same measurements, or so nearly that their dates overlap.
    pub tied: usize,
    /// Runs that cannot tell, since one or both had not come when the run ended, or were not looked for.
    pub unknown: usize,
    /// Steps by which the first leads, in the median over the runs in which both are dated; NaN of none. Runs in which one did
    /// not come are not in it: where there are many, compare their times as [`Survival`](super::Survival).
    pub lead: f64,
    /// Leads of those runs between which that of the median run lies with 95 % confidence, whatever their distribution;
    /// `None` of fewer than six.
    pub interval: Option<[f64; 2]>,
    /// The sign test: the probability that so many of the runs that tell agree, where either order is as likely.
    pub p: f64,
    /// The same among all pairs (Benjamini and Hochberg).
    pub q: f64,
    /// The probability that any pair at all agrees as well where events of each run are put in any order: within the run, so
    /// that quick and slow runs stay what they are, and pairs that share an event stay together (Westfall and Young 1993).
    pub family: f64,
}

/// Orders of all pairs of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Orders {
    /// Each pair once, those with the first event first.
    pub pairs: Vec<Pair>,
    /// The probability that a pair agrees as well as the one that agrees best, where events have no order.
    pub p: f64,
}

impl Orders {
    /// Of `runs`, each with the onsets of the same events; `None` where one was not looked for.
    ///
    /// An onset is known to lie behind the measurement before it and up to its own. One event came before another where all of
    /// its interval did; what had not come by the end of a run came after everything that had by then.
    ///
    /// ```
    /// use thermoscope::stats::{Onset, Orders};
    ///
    /// // In each of eight runs a key is born before the test loss falls; in the last it did not fall.
    /// let run = |at: u64| vec![Some(Onset::seen(at, Some(at - 10))), Some(Onset::seen(at + 300, Some(at + 290)))];
    /// let mut runs: Vec<Vec<Option<Onset>>> = (1..8).map(|seed| run(100 * seed)).collect();
    /// runs.push(vec![Some(Onset::seen(500, Some(490))), Some(Onset::not_by(9000))]);
    /// let orders = Orders::of(&runs, 500, 0)?;
    /// assert_eq!((orders.pairs[0].before, orders.pairs[0].lead), (8, 300.0));
    /// assert!((orders.pairs[0].p - 2.0 / 256.0).abs() < 1e-12);
    /// # Ok::<(), thermoscope::stats::Missing>(())
    /// ```
    ///
    /// # Errors
    /// [`Missing`] of fewer than two events or runs, of runs with different numbers of events, and of fewer than 20 draws.
    pub fn of(runs: &[Vec<Option<Onset>>], draws: usize, seed: u64) -> Result<Self, Missing> {
        Missing::unless_enough("runs", runs.len(), 2)?;
        Missing::unless_enough("draws", draws, 20)?;
        let events = runs[0].len();
        Missing::unless_enough("events", events, 2)?;
        if let Some(run) = runs.iter().find(|run| run.len() != events) {
            return Err(Missing::Lengths(events, run.len()));
        }
        let all: Vec<[usize; 2]> = (0..events).flat_map(|a| (a + 1..events).map(move |b| [a, b])).collect();
        let counts =
            |runs: &[Vec<Option<Onset>>]| -> Vec<[usize; 4]> { all.iter().map(|pair| count(runs, *pair)).collect() };
        let seen = counts(runs);
        // The least chance that any pair has of agreeing so well, in each draw.
        let mut again = runs.to_vec();
        let least: Vec<f64> = (0..draws)
            .map(|draw| {
                let mut draws = Draws::new(seed, Stream::Shuffle, draw);
                again.iter_mut().for_each(|run| draws.shuffle(run));
                counts(&again).iter().map(|counts| sign_test(*counts)).fold(1.0, f64::min)
            })
            .collect();
        let family = |p: f64| add_one(least.iter().filter(|least| **least <= p).count(), draws);
        let p: Vec<f64> = seen.iter().map(|counts| sign_test(*counts)).collect();
        let q = adjusted(&p);
        let pair = |at: usize| {
            let ([before, after, tied, unknown], leads) = (seen[at], leads(runs, all[at]));
            let (lead, interval) = (middle(&leads), interval(&leads));
            let (p, q, family) = (p[at], q[at], family(p[at]));
            Pair { events: all[at], before, after, tied, unknown, lead, interval, p, q, family }
        };
        let pairs = (0..all.len()).map(pair).collect();
        Ok(Self { pairs, p: family(p.iter().copied().fold(1.0, f64::min)) })
    }
}

/// After which step, if any, an event came, and by which.
fn bounds(onset: Onset) -> (Option<u64>, Option<u64>) {
    match onset.censored {
        // At the step itself, where nothing says how exactly.
        None => (Some(onset.step.saturating_sub(onset.resolution.max(1))), Some(onset.step)),
        Some(Censored::Before) => (None, Some(onset.step)),
        Some(Censored::After) => (Some(onset.step), None),
    }
}

/// Runs in which the first of a pair came before, after, tied, and that cannot tell.
fn count(runs: &[Vec<Option<Onset>>], [a, b]: [usize; 2]) -> [usize; 4] {
    let mut counts = [0; 4];
    for run in runs {
        let (Some(a), Some(b)) = (run[a], run[b]) else {
            counts[3] += 1;
            continue;
        };
        let certainly = |early: Onset, late: Onset| match (bounds(early).1, bounds(late).0) {
            (Some(by), Some(after)) => by <= after,
            _ => false,
        };
        let came = |onset: Onset| onset.began().is_some();
        let which = match (certainly(a, b), certainly(b, a)) {
            (true, _) => 0,
            (_, true) => 1,
            _ if came(a) && came(b) => 2,
            _ => 3,
        };
        counts[which] += 1;
    }
    counts
}

/// Two-sided, of the runs that tell.
fn sign_test([before, after, ..]: [usize; 4]) -> f64 {
    (2.0 * at_least(before.max(after) as u64, (before + after) as u64, 0.5)).min(1.0)
}

/// Steps by which the first leads where both are dated, in order.
fn leads(runs: &[Vec<Option<Onset>>], [a, b]: [usize; 2]) -> Vec<f64> {
    let dated = |onset: Option<Onset>| onset.filter(|onset| onset.censored.is_none()).map(|onset| onset.step as f64);
    let mut leads: Vec<f64> = runs.iter().filter_map(|run| Some(dated(run[b])? - dated(run[a])?)).collect();
    leads.sort_by(f64::total_cmp);
    leads
}

/// The middle of sorted leads, halfway between two.
fn middle(leads: &[f64]) -> f64 {
    let upper = median(leads.to_vec());
    if leads.len().is_multiple_of(2) && !leads.is_empty() { (upper + leads[leads.len() / 2 - 1]) / 2.0 } else { upper }
}

/// The innermost leads outside of which the median lies with 5 % probability at most: those that a sign test at 5 % leaves.
fn interval(leads: &[f64]) -> Option<[f64; 2]> {
    let count = leads.len();
    // So many of the outer ones, on either side, may lie beyond the median.
    let fits = |from: &usize| 2.0 * at_least((count - from) as u64, count as u64, 0.5) <= 0.05;
    let from = (0..count / 2).rev().find(fits)?;
    Some([leads[from], leads[count - 1 - from]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_at_most, assert_share, normals};
    use crate::stats::golden::{assert_same, each, golden, number};

    #[test]
    fn sign_tests_and_false_discoveries_are_those_of_scipy() {
        for case in each(&golden("orders")["sign"]) {
            let [before, after] = ["before", "after"].map(|name| number(&case[name]) as usize);
            assert_same(sign_test([before, after, 0, 0]), number(&case["p"]), "sign test");
        }
    }

    #[test]
    fn ties_and_what_did_not_come_are_told_apart() {
        let seen = |step, before| Some(Onset::seen(step, Some(before)));
        let runs = vec![
            vec![seen(100, 90), seen(110, 100)], // before: between 90 and 100, and behind 100
            vec![seen(100, 90), seen(105, 95)],  // overlap
            vec![seen(100, 50), seen(60, 55)],   // one lies within the other
            vec![seen(100, 90), Some(Onset::not_by(100))], // had not come by then
            vec![seen(100, 90), Some(Onset::not_by(99))], // the run ended too soon
            vec![Some(Onset::not_by(50)), Some(Onset::not_by(50))], // neither
            vec![Some(Onset::seen(10, None)), seen(20, 10)], // by the first look
            vec![Some(Onset::seen(10, None)), seen(10, 5)], // and the other too, between 5 and 10
            vec![None, seen(10, 5)],             // not looked for
            vec![seen(80, 70), seen(70, 60)],    // after
        ];
        let found = Orders::of(&runs, 20, 0).unwrap().pairs.remove(0);
        assert_eq!([found.before, found.after, found.tied, found.unknown], [3, 1, 3, 3]);
        // Both dated in four: leads of 10, 5, -40 and -10.
        assert_eq!((found.lead, found.interval), (-2.5, None));
        assert_same(found.p, 2.0 * 5.0 / 16.0, "sign test of four");
        assert_eq!(count(&runs, [1, 0]), [1, 3, 3, 3]);
    }

    #[test]
    fn medians_lie_between_the_order_statistics_of_the_tables() {
        // Conover 1999, table of the binomial: of 6 the ends, of 10 the second, of 20 the sixth from either end.
        for (count, from) in [(6usize, 0usize), (10, 1), (20, 5)] {
            let leads: Vec<f64> = (0..count).map(|at| at as f64).collect();
            assert_eq!(interval(&leads), Some([from as f64, (count - 1 - from) as f64]));
        }
        assert_eq!((interval(&[1.0; 5]), interval(&[])), (None, None));
        assert_eq!((middle(&[1.0, 2.0]), middle(&[1.0, 2.0, 9.0])), (1.5, 2.0));
        let held = (0..400).filter(|seed| {
            let mut leads = normals(*seed, 15);
            leads.sort_by(f64::total_cmp);
            interval(&leads).is_some_and(|[low, high]| low <= 0.0 && 0.0 <= high)
        });
        // The fourth of fifteen: 1 - 2 P(B ≤ 3) = 0.9648.
        assert_share(held.count(), 400, 0.9648, "medians");
    }

    /// Runs of some events, each `lead` later than the one before, scattered by 1, in runs that differ by ten; an event later
    /// than the run's end is censored.
    fn runs(seed: u64, count: usize, events: usize, lead: f64, end: u64) -> Vec<Vec<Option<Onset>>> {
        let drawn = normals(seed, count * (events + 1));
        let run = |drawn: &[f64]| -> Vec<Option<Onset>> {
            let step =
                |at: usize| (1000.0 + 100.0 * drawn[0] + 10.0 * (drawn[1 + at] + lead * at as f64)).max(2.0) as u64;
            (0..events)
                .map(step)
                .map(|step| Some(if step <= end { Onset::seen(step, Some(step - 2)) } else { Onset::not_by(end) }))
                .collect()
        };
        drawn.chunks(events + 1).map(run).collect()
    }

    #[test]
    fn events_without_an_order_have_none_and_planted_orders_are_found() {
        let (mut any, mut family, mut found, mut sure) = (0, 0, 0, 0);
        for seed in 0..150 {
            let none = Orders::of(&runs(seed, 12, 5, 0.0, 1050), 99, seed).unwrap();
            any += usize::from(none.pairs.iter().any(|pair| pair.q <= 0.05));
            family += usize::from(none.p <= 0.1);
            let planted = Orders::of(&runs(seed, 12, 3, 2.0, 1100), 99, seed).unwrap();
            let right = |pair: &Pair| pair.q <= 0.05 && pair.before > pair.after && pair.lead > 0.0;
            found += usize::from(planted.pairs.iter().all(right));
            sure += usize::from(planted.p <= 0.05);
        }
        // Sign tests of a dozen have few values, so their levels are below those asked for.
        assert_at_most(any, 150, 0.05, "orders by chance");
        assert_at_most(family, 150, 0.1, "orders by chance within runs");
        // What scipy's tests find in 3,000 simulations: all three pairs, of which one in ten is tied and one in six censored.
        assert_share(found, 150, 0.667, "planted orders");
        assert!(sure >= 140, "{sure} of 150 planted orders within runs");
    }

    #[test]
    fn runs_that_do_not_fit_together_are_refused() {
        let one = runs(1, 3, 2, 0.0, 2000);
        assert!(Orders::of(&one[..1], 99, 0).is_err() && Orders::of(&one, 10, 0).is_err());
        let mut uneven = one.clone();
        uneven[2].push(None);
        assert_eq!(Orders::of(&uneven, 99, 0), Err(Missing::Lengths(2, 3)));
        assert!(Orders::of(&[vec![None], vec![None]], 99, 0).is_err());
        assert_eq!(Orders::of(&one, 99, 5).unwrap(), Orders::of(&one, 99, 5).unwrap());
    }
}
