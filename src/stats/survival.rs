//! Times to an event that some runs have not come to: how many have not by when, and whether arms differ.
//!
//! What ends before the event says that it took longer, and no more: leaving such runs out, or taking their last step for
//! the event's, makes slow arms quick. Everything here counts them as long as they were watched (censored on the right).

use super::errors::Estimate;
use super::missing::Missing;
use super::onset::{Censored, Onset};
use super::permutation::Permuted;
use super::special::{chi_squared_above, normal_quantile};
use super::systems::Cholesky;

/// How long one run was watched, and whether the event came then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// The event's time, or the last one by which it had not come.
    pub at: f64,
    /// Whether it came.
    pub came: bool,
}

impl From<Onset> for Time {
    /// Dates are those of measurements: what began between two of them counts from the later one, and what the first one shows
    /// already counts from there, so that the share that is left is right at every measurement.
    fn from(onset: Onset) -> Self {
        Self { at: onset.step as f64, came: onset.censored != Some(Censored::After) }
    }
}

/// A time at which the event came to some.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fall {
    /// When.
    pub at: f64,
    /// How many were watched until then.
    pub at_risk: usize,
    /// To how many it came.
    pub events: usize,
    /// The share to which it has not come from then on.
    pub left: f64,
    /// Σ d/(n (n - d)) so far, of d events among n: Greenwood's sum.
    greenwood: f64,
}

/// The share of runs to which an event has not come, by time: Kaplan and Meier's estimate, S(t) = Π (1 - d/n) over times up to t
/// of d events among n runs at risk. Who is watched until a time is at risk then.
///
/// ```
/// use thermoscope::stats::{Onset, Survival, Time};
///
/// // Steps at which four runs grokked; the fourth had not by its last step.
/// let onsets = [Onset::seen(900, Some(890)), Onset::seen(1250, Some(1240)), Onset::seen(2000, Some(1990)), Onset::not_by(3000)];
/// let times: Vec<Time> = onsets.into_iter().map(Time::from).collect();
/// let left = Survival::of(&times)?;
/// assert_eq!((left.at(1249.0), left.at(1250.0), left.median()), (0.75, 0.5, Some(1250.0)));
/// // The mean time to the event among the first 3,000 steps.
/// assert_eq!(left.restricted_mean(3000.0)?.value, (900.0 + 1250.0 + 2000.0 + 3000.0) / 4.0);
/// # Ok::<(), thermoscope::stats::Missing>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Survival {
    /// Times at which it fell, in order.
    pub falls: Vec<Fall>,
    /// The last time at which anybody was watched.
    pub last: f64,
}

impl Survival {
    /// Of times in any order.
    ///
    /// # Errors
    /// [`Missing`] of none, and where one is no finite number or less than 0.
    pub fn of(times: &[Time]) -> Result<Self, Missing> {
        let sorted = in_order(times)?;
        let (mut falls, mut left, mut greenwood) = (Vec::new(), 1.0, 0.0);
        let mut at_risk = sorted.len();
        for together in sorted.chunk_by(|a, b| a.at == b.at) {
            let events = together.iter().filter(|time| time.came).count();
            if events > 0 {
                let (d, n) = (events as f64, at_risk as f64);
                left *= (n - d) / n;
                greenwood += d / (n * (n - d));
                falls.push(Fall { at: together[0].at, at_risk, events, left, greenwood });
            }
            at_risk -= together.len();
        }
        Ok(Self { falls, last: sorted.last().map_or(0.0, |time| time.at) })
    }

    fn fall_before(&self, time: f64) -> Option<&Fall> {
        self.falls.partition_point(|fall| fall.at <= time).checked_sub(1).map(|at| &self.falls[at])
    }

    /// The share left at a time; behind the last that was watched, that of the last.
    pub fn at(&self, time: f64) -> f64 {
        self.fall_before(time).map_or(1.0, |fall| fall.left)
    }

    /// Greenwood's standard error of the share at a time, S √(Σ d/(n (n - d))); 0 where it is 0.
    pub fn error(&self, time: f64) -> f64 {
        self.fall_before(time).map_or(0.0, |fall| if fall.left > 0.0 { fall.left * fall.greenwood.sqrt() } else { 0.0 })
    }

    /// An interval of the share at a time that stays between 0 and 1: S^exp(±z √(Σ d/(n (n - d)))/ln S) (Kalbfleisch and Prentice
    /// 1980); `None` before the first event and where nobody is left.
    pub fn interval(&self, time: f64, level: f64) -> Option<[f64; 2]> {
        let fall = self.fall_before(time).filter(|fall| fall.left > 0.0)?;
        let reach = normal_quantile((1.0 + level) / 2.0) * fall.greenwood.sqrt() / fall.left.ln();
        Some([-reach, reach].map(|reach| fall.left.powf(reach.exp())))
    }

    /// The first time by which it had come to half of them; `None` where it has not.
    pub fn median(&self) -> Option<f64> {
        // Shares are products of fractions: a half may miss a half by rounding.
        self.falls.iter().find(|fall| fall.left <= 0.5 + 1e-12).map(|fall| fall.at)
    }

    /// The mean of the time to the event or to `until`, whichever comes first: the area under the curve up to there. Its error
    /// is √(Σ A² d/(n (n - d))), where A is the area from each event on (Klein and Moeschberger 2003, section 4.5). It is that of
    /// many runs: of few it is too small. It is NaN where nothing says how times differ, of one run and where no event came
    /// before `until`.
    ///
    /// # Errors
    /// [`Missing`] where somebody is left and nobody was watched for so long: choose an earlier time.
    pub fn restricted_mean(&self, until: f64) -> Result<Estimate, Missing> {
        if until.is_nan() || until <= 0.0 {
            return Err(Missing::Because("a mean is restricted to a time behind 0"));
        }
        if until > self.last && self.at(self.last) > 0.0 {
            return Err(Missing::Because(
                "nobody was watched for so long: restrict the mean to a time by which all were watched or had come to the event",
            ));
        }
        Ok(self.area(until))
    }

    /// The same, with the curve going on as it was last seen.
    fn area(&self, until: f64) -> Estimate {
        let before: Vec<&Fall> = self.falls.iter().take_while(|fall| fall.at < until).collect();
        let (mut area, mut variance, mut end) = (0.0, 0.0, until);
        for fall in before.iter().rev() {
            area += fall.left * (end - fall.at);
            end = fall.at;
            let (d, n) = (fall.events as f64, fall.at_risk as f64);
            // Where it comes to all that are left there is no area behind.
            variance += if fall.left > 0.0 { area * area * d / (n * (n - d)) } else { 0.0 };
        }
        let known = before.first().is_some_and(|fall| fall.at_risk > 1);
        Estimate { value: area + end, error: if known { variance.sqrt() } else { f64::NAN } }
    }
}

/// How much later the event comes in one arm than in another, in the mean up to `until`: the difference of restricted means, of
/// arms that are independent. Unlike a hazard ratio it needs no assumption of how the arms' curves go together, and it is in
/// units of time. Its error is NaN where that of an arm is. Of fewer than 20 runs an arm do not take its normal p, but that of
/// [`restricted_test`]: of two arms alike, of 2, 3, 5 and 8 runs each, it is at most 0.05 in 29, 18, 12 and 8 of a hundred.
///
/// # Errors
/// [`Missing`], see [`Survival::restricted_mean`].
pub fn restricted_difference(arm: &Survival, control: &Survival, until: f64) -> Result<Estimate, Missing> {
    let [arm, control] = [arm.restricted_mean(until)?, control.restricted_mean(until)?];
    Ok(Estimate { value: arm.value - control.value, error: arm.error.hypot(control.error) })
}

/// Whether the event comes later in one arm than in another, in the mean up to `until`: how often [`restricted_difference`] would
/// be as far from 0, to either side, had the runs of both been given to the arms otherwise. It holds of any number of runs, where
/// arms that do not differ are watched alike; in 4 an arm the least p is 2/70, of 3 an arm 0.1.
///
/// # Errors
/// [`Missing`], see [`Survival::of`] and [`Survival::restricted_mean`].
pub fn restricted_test(arm: &[Time], control: &[Time], until: f64) -> Result<Permuted, Missing> {
    restricted_difference(&Survival::of(arm)?, &Survival::of(control)?, until)?;
    let all = [arm, control].concat();
    let groups: Vec<usize> = (0..all.len()).map(|at| usize::from(at < arm.len())).collect();
    let apart = |groups: &[usize]| {
        let area = |group: usize| {
            let own: Vec<Time> =
                all.iter().zip(groups).filter(|(_, of)| **of == group).map(|(time, _)| *time).collect();
            Survival::of(&own).map_or(f64::NAN, |left| left.area(until).value)
        };
        (area(1) - area(0)).abs()
    };
    Ok(Permuted::of(&groups, apart))
}

/// What the log-rank test says.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRank {
    /// zᵀ V⁻¹ z of the differences z between events and what is expected of them.
    pub statistic: f64,
    /// Its degrees of freedom: groups that can be told apart, less one.
    pub freedom: usize,
    /// The probability of such a statistic where the event comes as quickly in all groups: chi-squared.
    pub p: f64,
    /// Events of each group, and those expected.
    pub events: Vec<[f64; 2]>,
}

/// Whether an event comes as quickly in two or more groups (Mantel 1966; Peto and Peto 1972): at each time of d events among n
/// runs, group i with n_i of them is expected to have d n_i/n, with covariance d (n - d)/(n - 1) (n_i/n) (δ_ij - n_j/n). Events at
/// the same time are taken together. The p-value is that of many runs: of two groups alike, of 3, 4, 5 and 8 runs each, it is at most 0.05
/// in 10, 6, 8 and 6 of a hundred.
///
/// # Errors
/// [`Missing`] of fewer than two groups, an empty one, a time that is none, or where no event tells groups apart.
pub fn log_rank(groups: &[&[Time]]) -> Result<LogRank, Missing> {
    Missing::unless_enough("groups", groups.len(), 2)?;
    let sorted: Vec<Vec<Time>> = groups.iter().map(|group| in_order(group)).collect::<Result<_, _>>()?;
    let count = groups.len();
    let mut times: Vec<f64> = sorted.iter().flatten().filter(|time| time.came).map(|time| time.at).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let mut events = vec![[0.0; 2]; count];
    let mut covariance = vec![0.0; count * count];
    for at in times {
        let at_risk: Vec<f64> =
            sorted.iter().map(|group| (group.len() - group.partition_point(|time| time.at < at)) as f64).collect();
        let came: Vec<f64> =
            sorted.iter().map(|group| group.iter().filter(|time| time.came && time.at == at).count() as f64).collect();
        let (n, d): (f64, f64) = (at_risk.iter().sum(), came.iter().sum());
        let spread = if n > 1.0 { d * (n - d) / (n - 1.0) } else { 0.0 };
        for i in 0..count {
            let share = at_risk[i] / n;
            events[i][0] += came[i];
            events[i][1] += d * share;
            for j in 0..count {
                covariance[i * count + j] += spread * share * (f64::from(i == j) - at_risk[j] / n);
            }
        }
    }
    let differences: Vec<f64> = events.iter().map(|[seen, expected]| seen - expected).collect();
    let system = Cholesky::of(&covariance, count);
    if system.rank == 0 {
        return Err(Missing::Because("no event came while more than one group was watched: nothing tells them apart"));
    }
    let statistic = system.solve(&differences).iter().zip(&differences).map(|(x, z)| x * z).sum();
    Ok(LogRank { statistic, freedom: system.rank, p: chi_squared_above(statistic, system.rank), events })
}

fn in_order(times: &[Time]) -> Result<Vec<Time>, Missing> {
    Missing::unless_enough("times", times.len(), 1)?;
    Missing::unless_finite(&times.iter().map(|time| time.at).collect::<Vec<_>>())?;
    if times.iter().any(|time| time.at < 0.0) {
        return Err(Missing::Because("a time is counted from a beginning: none is less than 0"));
    }
    let mut sorted = times.to_vec();
    sorted.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_share, normals};
    use crate::stats::golden::{assert_same, each, golden, number, numbers};
    use serde_json::Value;

    fn read(case: &Value) -> Vec<Time> {
        let times = numbers(&case["times"]).into_iter().zip(numbers(&case["came"]));
        times.map(|(at, came)| Time { at, came: came == 1.0 }).collect()
    }

    #[test]
    fn curves_and_tests_are_those_of_lifelines() {
        for case in each(&golden("survival")) {
            let groups: Vec<Vec<Time>> = each(&case["groups"]).iter().map(read).collect();
            for (times, group) in groups.iter().zip(each(&case["groups"])) {
                let left = Survival::of(times).unwrap();
                for (at, share) in numbers(&group["at"]).into_iter().zip(numbers(&group["left"])) {
                    assert_same(left.at(at), share, "share left");
                }
                for ((at, low), high) in
                    numbers(&group["inner"]).into_iter().zip(numbers(&group["low"])).zip(numbers(&group["high"]))
                {
                    let own = left.interval(at, 0.95).unwrap();
                    assert_same(own[0], low, "lower end");
                    assert_same(own[1], high, "upper end");
                }
                let mean = left.restricted_mean(number(&case["until"])).unwrap();
                assert_same(mean.value, number(&group["restricted_mean"]), "restricted mean");
                assert_eq!(left.median(), group["median"].as_f64(), "median");
            }
            let test = log_rank(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            assert_same(test.statistic, number(&case["statistic"]), "log-rank");
            assert!((test.p / number(&case["p"]) - 1.0).abs() < 1e-8, "{} for {}", test.p, case["p"]);
            assert_eq!(test.freedom, groups.len() - 1);
        }
    }

    #[test]
    fn the_published_trial_of_mercaptopurine_is_found() {
        // Freireich et al. 1963, weeks of remission of 21 leukemia patients with the drug and of 21 without, as in Cox 1972:
        // the drug's share left at 10 weeks 0.753 ± 0.0963, at 23 weeks 0.448 ± 0.1346; log-rank 16.79.
        let drug = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35];
        let none = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23];
        let times = |weeks: &[i32]| -> Vec<Time> {
            weeks.iter().map(|week| Time { at: f64::from(week.abs()), came: *week > 0 }).collect()
        };
        let left = Survival::of(&times(&drug)).unwrap();
        for (week, share, error) in [(10.0, 0.753, 0.0963), (23.0, 0.448, 0.1346)] {
            assert!((left.at(week) - share).abs() < 5e-4 && (left.error(week) - error).abs() < 5e-5);
        }
        let test = log_rank(&[&times(&drug), &times(&none)]).unwrap();
        assert!((test.statistic - 16.79).abs() < 5e-3 && test.freedom == 1, "{test:?}");
        assert!((test.events[0][0] - 9.0).abs() < 1e-12 && (test.events[0][1] - 19.25).abs() < 5e-3);
    }

    #[test]
    fn without_censoring_it_is_the_sample_itself() {
        let values: Vec<f64> = normals(5, 50).into_iter().map(|x| (x * 0.7).exp()).collect();
        let left = Survival::of(&values.iter().map(|at| Time { at: *at, came: true }).collect::<Vec<_>>()).unwrap();
        let above = values.iter().filter(|value| **value > 1.3).count() as f64 / 50.0;
        assert_same(left.at(1.3), above, "share");
        assert_same(left.error(1.3), (above * (1.0 - above) / 50.0).sqrt(), "binomial error");
        for until in [0.5, 1.0, 2.0, 100.0] {
            let restricted: Vec<f64> = values.iter().map(|value| value.min(until)).collect();
            let mean = restricted.iter().sum::<f64>() / 50.0;
            let squares: f64 = restricted.iter().map(|value| (value - mean).powi(2)).sum();
            let own = left.restricted_mean(until).unwrap();
            assert_same(own.value, mean, "mean");
            // The mean's error of a sample, by n: Greenwood's sums are binomial ones.
            assert!((own.error - squares.sqrt() / 50.0).abs() < 1e-9, "{until}: {own:?}");
        }
    }

    /// Exponential times with a mean, watched for at most `until` and for 1.5 in the mean.
    fn watched(seed: u64, count: usize, mean: f64) -> Vec<Time> {
        let drawn = normals(seed, 4 * count);
        let exponential = |pair: &[f64]| (pair[0] * pair[0] + pair[1] * pair[1]) / 2.0;
        drawn
            .chunks(4)
            .map(|four| {
                let (event, end) = (mean * exponential(&four[..2]), (1.5 * exponential(&four[2..])).max(0.8));
                Time { at: event.min(end), came: event <= end }
            })
            .collect()
    }

    #[test]
    fn restricted_means_and_their_differences_hold_what_is_true() {
        // The area under e^(-t/m) up to u: m (1 - e^(-u/m)).
        let truth = |mean: f64| mean * (1.0 - (-0.8 / mean).exp());
        let (mut held, mut differences, mut found) = (0, 0, 0);
        for seed in 0..400 {
            let [slow, quick] = [(2 * seed, 2.0), (2 * seed + 1, 1.0)]
                .map(|(seed, mean)| Survival::of(&watched(seed, 60, mean)).unwrap());
            let [low, high] = slow.restricted_mean(0.8).unwrap().interval(0.9);
            held += usize::from(low <= truth(2.0) && truth(2.0) <= high);
            let difference = restricted_difference(&slow, &quick, 0.8).unwrap();
            let [low, high] = difference.interval(0.9);
            differences += usize::from(low <= truth(2.0) - truth(1.0) && truth(2.0) - truth(1.0) <= high);
            found += usize::from(difference.p() <= 0.05);
        }
        assert_share(held, 400, 0.9, "restricted means");
        assert_share(differences, 400, 0.9, "differences");
        // What plain means of times up to 0.8 find in 20,000 simulations: nobody is censored before.
        assert_share(found, 400, 0.632, "differences found");
    }

    #[test]
    fn few_runs_an_arm_find_no_difference_more_often_than_said() {
        // Of two arms alike: the test by other arms, and the p of a normal number.
        for (count, share, normal) in [(2, 0.0, 0.29), (3, 0.0, 0.18), (4, 2.0 / 70.0, 0.13), (5, 12.0 / 252.0, 0.115)]
        {
            let (mut found, mut plain) = (0, 0);
            for seed in 0..300 {
                let times = |seed: u64| -> Vec<Time> {
                    normals(seed, count).iter().map(|x| Time { at: 1000.0 + 200.0 * x, came: true }).collect()
                };
                let [arm, control] = [times(2 * seed), times(2 * seed + 1)];
                let test = restricted_test(&arm, &control, 2500.0).unwrap();
                assert!(test.exact);
                found += usize::from(test.p <= 0.05);
                let [arm, control] = [arm, control].map(|times| Survival::of(&times).unwrap());
                plain += usize::from(restricted_difference(&arm, &control, 2500.0).unwrap().p() <= 0.05);
            }
            assert_share(found, 300, share, &format!("of {count} an arm, by other arms"));
            assert_share(plain, 300, normal, &format!("of {count} an arm, normal"));
        }
        // Four that came are told from four that did not; what was not watched alike is refused as in the difference.
        let came: Vec<Time> = (0..4).map(|at| Time { at: 500.0 + 10.0 * f64::from(at), came: true }).collect();
        let never = [Time { at: 3000.0, came: false }; 4];
        assert_eq!(restricted_test(&never, &came, 3000.0).unwrap().p, 2.0 / 70.0);
        assert!(restricted_test(&never, &came, 3001.0).is_err() && restricted_test(&[], &came, 10.0).is_err());
    }

    #[test]
    fn where_no_event_came_nothing_says_how_times_differ() {
        let never = Survival::of(&[Time { at: 3000.0, came: false }; 6]).unwrap();
        let mean = never.restricted_mean(3000.0).unwrap();
        assert!(mean.value == 3000.0 && mean.error.is_nan(), "{mean:?}");
        let some = Survival::of(&[1.0, 2.0, 3.0].map(|at| Time { at, came: true })).unwrap();
        let difference = restricted_difference(&never, &some, 2.5).unwrap();
        assert!((difference.value - (2.5 - 5.5 / 3.0)).abs() < 1e-12 && difference.error.is_nan(), "{difference:?}");
        // Before its first event, and of one run.
        assert!(some.restricted_mean(1.0).unwrap().error.is_nan());
        assert!(Survival::of(&[Time { at: 1.0, came: true }]).unwrap().restricted_mean(2.0).unwrap().error.is_nan());
        assert!(some.restricted_mean(1.5).unwrap().error > 0.0);
    }

    #[test]
    fn the_log_rank_test_keeps_its_level_and_finds_what_is_planted() {
        let p = |seed: u64, means: &[f64]| {
            let groups: Vec<Vec<Time>> =
                means.iter().zip(10 * seed..).map(|(mean, seed)| watched(seed, 40, *mean)).collect();
            log_rank(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap().p
        };
        let share = |means: &[f64]| (0..400).filter(|seed| p(*seed, means) <= 0.05).count();
        assert_share(share(&[1.0, 1.0]), 400, 0.05, "two alike");
        assert_share(share(&[1.0, 1.0, 1.0]), 400, 0.05, "three alike");
        // What lifelines' test finds in 1,500 simulations.
        assert_share(share(&[2.0, 1.0]), 400, 0.642, "one twice as slow");
    }

    #[test]
    fn dates_become_times_and_what_says_nothing_is_refused() {
        let times = [Onset::seen(40, Some(20)), Onset::seen(10, None), Onset::not_by(90)].map(Time::from);
        assert_eq!(times.map(|time| (time.at, time.came)), [(40.0, true), (10.0, true), (90.0, false)]);
        let left = Survival::of(&times).unwrap();
        assert!(left.restricted_mean(91.0).is_err() && left.restricted_mean(90.0).is_ok());
        assert!(left.restricted_mean(0.0).is_err() && left.restricted_mean(f64::NAN).is_err());
        assert_eq!((left.interval(5.0, 0.9), left.at(5.0), left.error(5.0)), (None, 1.0, 0.0));
        assert_eq!(Survival::of(&[]).unwrap_err(), Missing::TooFew { of: "times", have: 0, need: 1 });
        assert_eq!(Survival::of(&[Time { at: f64::NAN, came: true }]).unwrap_err(), Missing::NotFinite(0));
        assert!(Survival::of(&[Time { at: -1.0, came: true }]).is_err());
        let never = [Time { at: 5.0, came: false }; 3];
        assert!(log_rank(&[&never, &never]).is_err() && log_rank(&[&times]).is_err());
        // A group that was never watched with another adds no degree of freedom.
        let early = [Time { at: 1.0, came: false }; 3];
        let late = [Time { at: 9.0, came: true }, Time { at: 20.0, came: false }];
        let later = [Time { at: 12.0, came: true }, Time { at: 15.0, came: true }];
        assert_eq!(log_rank(&[&early, &late, &later]).unwrap().freedom, 1);
    }
}
