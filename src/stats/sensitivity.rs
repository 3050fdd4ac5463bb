//! Whether it matters when something is done: the same change at several times, in several runs.

use serde::{Deserialize, Serialize};

use super::draws::Draws;
use super::errors::Paired;
use super::missing::Missing;
use crate::random::{Stream, normal};

/// Differences that changes made: a row for each run, of each time at which the run was changed what that changed; `None` where
/// it was not, or could not matter any more.
pub type Differences = [Vec<Option<f64>>];

/// What a change did at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Runs that were changed then.
    pub count: usize,
    /// The mean over them; NaN of none.
    pub mean: f64,
    /// Its standard error over runs; NaN of fewer than two.
    pub error: f64,
    /// The probability that anywhere in the curve a mean is as far from 0, where the change does nothing.
    pub p_effect: f64,
    /// The probability that anywhere in the curve a mean is as far from the mean of all times, where time does not matter.
    pub p_time: f64,
}

/// How a curve of effects over times stands against chance; see [`Sensitivity::of`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// At each time.
    pub points: Vec<Point>,
    /// A mean over n runs further from 0 than this by √n is an effect, at the rate: what the times that have none could do.
    pub effect_bound: f64,
    /// And further from `level` than this by √n: time matters.
    pub time_bound: f64,
    /// The mean over runs of the mean of each over the times at which time does not matter.
    pub level: f64,
    /// The standard deviation of a difference, within times; NaN where no time has two.
    pub spread: f64,
    /// The probability of any effect or window where there is none, over all times together.
    pub rate: f64,
}

/// Up to so many runs all signs are tried.
const EVERY_SIGN: usize = 10;

impl Sensitivity {
    /// Of differences between runs that were changed and the same runs unchanged, or changed in a way that should not matter.
    ///
    /// Two tests, each by the greatest deviation among all times, so that the whole curve has one rate of false positives; what is
    /// found is set aside, and the rest is tested again among itself, until nothing more is found (Westfall and Young 1993, step
    /// down): a great effect at one time does not hide a lesser one at another.
    ///
    /// * *An effect*: were changed and unchanged runs alike, each row would be as likely with all its signs turned. Signs are
    ///   turned row by row, all ways of up to ten rows, and the greatest √n |mean| is what a mean is compared with.
    /// * *Its time*: were no time special, each row's values would be as likely in another order. Values are put in random
    ///   orders within rows, and the greatest √n |mean of what differs from the row's own mean| is what a deviation is compared
    ///   with. This is the same dose at a random time. Two times left over say nothing of each other.
    ///
    /// A window ([`Sensitivity::windows`]) needs both.
    ///
    /// # Errors
    /// [`Missing`] of fewer than two times, of rows that are not equally long or not finite, and of so few runs that signs
    /// cannot tell at that rate: n runs can tell at 2^(1 - n), six at 5 %.
    ///
    /// ```
    /// use thermoscope::stats::Sensitivity;
    ///
    /// // Delays in eight runs that were disturbed at six times: some 40 steps at the fourth, noise elsewhere.
    /// let delay = |run: u64, time: u64| Some(((run * 7 + time * 11) % 13) as f64 - 6.0 + if time == 3 { 40.0 } else { 0.0 });
    /// let rows: Vec<Vec<Option<f64>>> = (0..8).map(|run| (0..6).map(|time| delay(run, time)).collect()).collect();
    /// let curve = Sensitivity::of(&rows, 0.05, 999, 0)?;
    /// assert_eq!(curve.windows(), [3..4]);
    /// # Ok::<(), thermoscope::stats::Missing>(())
    /// ```
    pub fn of(rows: &Differences, rate: f64, draws: usize, seed: u64) -> Result<Self, Missing> {
        let times = rows.first().map_or(0, Vec::len);
        if let Some(row) = rows.iter().find(|row| row.len() != times) {
            return Err(Missing::Lengths(times, row.len()));
        }
        Missing::unless_enough("times", times, 2)?;
        let all: Vec<f64> = rows.iter().flatten().copied().flatten().collect();
        Missing::unless_finite(&all)?;
        let rows: Vec<&Vec<Option<f64>>> = rows.iter().filter(|row| row.iter().any(Option::is_some)).collect();
        Missing::unless_enough("runs", rows.len(), least_runs(rate))?;

        let signs = signs(rows.len(), draws, seed);
        let all_signs = rows.len() <= EVERY_SIGN;
        let effect = step_down(times, rate, all_signs, |open| {
            let maxima = signs.iter().map(|signs| {
                let turned = rows.iter().zip(signs).map(|(row, sign)| row.iter().map(move |x| x.map(|x| sign * x)));
                greatest(&scores(turned, times), open)
            });
            (scores(rows.iter().map(|row| row.iter().copied()), times), maxima.collect())
        });
        let time = step_down(times, rate, false, |open| {
            let centred: Vec<Vec<Option<f64>>> = rows.iter().map(|row| less_their_mean(row, open)).collect();
            let maxima = (0..draws).map(|draw| {
                let mut chance = Draws::new(seed, Stream::Shuffle, draw);
                let mixed = centred.iter().map(|row| {
                    let mut known: Vec<f64> = row.iter().copied().flatten().collect();
                    chance.shuffle(&mut known);
                    let mut known = known.into_iter();
                    row.iter().map(|x| x.and_then(|_| known.next())).collect::<Vec<_>>()
                });
                greatest(&scores(mixed, times), open)
            });
            let maxima = maxima.collect();
            (scores(centred.iter().map(|row| row.iter().copied()), times), maxima)
        });
        let levels: Vec<f64> = rows.iter().filter_map(|row| mean_of(row, &time.open)).collect();
        let column = |at: usize| -> Vec<f64> { rows.iter().filter_map(|row| row[at]).collect() };
        let points = (0..times).map(|at| {
            let Paired { mean, standard_error, count } = Paired::of(&column(at));
            Point { count: count as usize, mean, error: standard_error, p_effect: effect.p[at], p_time: time.p[at] }
        });
        let (mut squares, mut freedom) = (0.0, 0);
        for values in (0..times).map(column).filter(|values| values.len() > 1) {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            squares += values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            freedom += values.len() - 1;
        }
        Ok(Self {
            points: points.collect(),
            effect_bound: effect.bound,
            time_bound: time.bound,
            level: levels.iter().sum::<f64>() / levels.len() as f64,
            spread: (squares / freedom as f64).sqrt(),
            rate,
        })
    }

    /// Times at which the change has an effect, whether or not it has it at all others too: stretches of neighbours.
    pub fn effective(&self) -> Vec<std::ops::Range<usize>> {
        self.stretches(|point| point.p_effect <= self.rate)
    }

    /// Windows: stretches of neighbouring times at which the change has an effect, and one that is beyond what it has at a random
    /// time. Found where there is none with at most the probability [`Sensitivity::rate`], over all times together.
    pub fn windows(&self) -> Vec<std::ops::Range<usize>> {
        self.stretches(|point| {
            let same_way = point.mean * (point.mean - self.level) > 0.0;
            point.p_effect <= self.rate && point.p_time <= self.rate && same_way
        })
    }

    fn stretches(&self, is_in: impl Fn(&Point) -> bool) -> Vec<std::ops::Range<usize>> {
        let mut found: Vec<std::ops::Range<usize>> = Vec::new();
        for at in (0..self.points.len()).filter(|at| is_in(&self.points[*at])) {
            let before = at.checked_sub(1).map(|before| self.points[before].mean);
            // Opposite effects are not one window.
            let joins = before.is_some_and(|before| before * self.points[at].mean > 0.0);
            match found.last_mut().filter(|last| last.end == at && joins) {
                Some(last) => last.end = at + 1,
                None => found.push(at..at + 1),
            }
        }
        found
    }

    /// The least effect, in standard deviations of a difference, that studies of so many runs and times find in four of five
    /// cases, where it lasts for `width` neighbouring times and differences are normal: by simulation.
    ///
    /// # Errors
    /// [`Missing`] as [`Sensitivity::of`], and where no effect is found so often, however great.
    pub fn smallest_effect(runs: usize, times: usize, width: usize, rate: f64) -> Result<f64, Missing> {
        const STUDIES: usize = 60;
        const GREATEST: f64 = 32.0;
        Missing::unless_enough("runs", runs, least_runs(rate))?;
        let first = (times - width.min(times)) / 2;
        let planted = first..first + width.min(times);
        let found = |effect: f64| -> Result<usize, Missing> {
            let mut count = 0;
            for study in 0..STUDIES {
                let mut chance = Draws::new(study as u64, Stream::Resample, runs);
                let rows: Vec<Vec<Option<f64>>> = (0..runs)
                    .map(|_| {
                        let value = |at| normal(chance.word()) + if planted.contains(&at) { effect } else { 0.0 };
                        (0..times).map(value).map(Some).collect()
                    })
                    .collect();
                let windows = Self::of(&rows, rate, 199, study as u64)?.windows();
                count += usize::from(windows.iter().any(|one| one.start < planted.end && planted.start < one.end));
            }
            Ok(count)
        };
        let enough = STUDIES * 4 / 5;
        if found(GREATEST)? < enough {
            return Err(Missing::Because(
                "no effect is found in four of five studies, however great: a window that fills so much of the times is not told from all times. More runs or more times would tell",
            ));
        }
        let (mut low, mut high) = (0.0, GREATEST);
        while high >= 0.1 && high - low > 0.02 * high {
            let middle = (low + high) / 2.0;
            if found(middle)? < enough {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(high)
    }
}

/// What a test of all times found.
struct Tested {
    p: Vec<f64>,
    /// Of those at which nothing was found.
    bound: f64,
    /// At which times nothing was found; all, where something was found at all.
    open: Vec<bool>,
}

/// Tests all times by the greatest score among them, then what is left by the greatest among that. `of` gives the scores of the times
/// that are open, and what the greatest of these comes to by chance.
fn step_down(times: usize, rate: f64, all: bool, of: impl Fn(&[bool]) -> (Vec<f64>, Vec<f64>)) -> Tested {
    let (mut p, mut open, mut least) = (vec![1.0; times], vec![true; times], 0.0f64);
    loop {
        let (scores, mut maxima) = of(&open);
        maxima.sort_by(|a, b| b.total_cmp(a));
        let mut found = Vec::new();
        for at in (0..times).filter(|at| open[*at]) {
            // Not less sure than what was found before it.
            p[at] = share(&maxima, scores[at].abs(), all).max(least);
            found.extend((p[at] <= rate).then_some(at));
        }
        let bound = bound(&maxima, rate, all);
        let left = open.iter().filter(|open| **open).count() - found.len();
        least = found.iter().fold(least, |least, at| least.max(p[*at]));
        if left > 0 {
            found.iter().for_each(|at| open[*at] = false);
        }
        if found.is_empty() || left < 3 {
            return Tested { p, bound, open };
        }
    }
}

/// The mean over open times; `None` of none.
fn mean_of(row: &[Option<f64>], open: &[bool]) -> Option<f64> {
    let known: Vec<f64> = row.iter().zip(open).filter_map(|(x, open)| x.filter(|_| *open)).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Values at open times, less their mean.
fn less_their_mean(row: &[Option<f64>], open: &[bool]) -> Vec<Option<f64>> {
    let mean = mean_of(row, open);
    row.iter().zip(open).map(|(x, open)| Some(x.filter(|_| *open)? - mean?)).collect()
}

/// How few runs can tell an effect at a rate: with n, the observed signs and their opposites are two of 2^n.
pub fn least_runs(rate: f64) -> usize {
    (1..60).find(|runs| 0.5f64.powi(runs - 1) <= rate).unwrap_or(60) as usize
}

/// Signs for each row, many times: all of them but for their opposites where rows are few, else drawn.
fn signs(rows: usize, draws: usize, seed: u64) -> Vec<Vec<f64>> {
    let sign = |minus: bool| if minus { -1.0 } else { 1.0 };
    if rows <= EVERY_SIGN {
        return (0..1usize << (rows - 1))
            .map(|mask| (0..rows).map(|row| sign(mask >> row & 1 == 1)).collect())
            .collect();
    }
    let drawn = |draw| {
        let mut chance = Draws::new(seed, Stream::Resample, draw);
        (0..rows).map(|_| sign(chance.happens(0.5))).collect()
    };
    (0..draws).map(drawn).collect()
}

/// Σ/√n of every time, 0 of none.
fn scores<R: IntoIterator<Item = Option<f64>>>(rows: impl Iterator<Item = R>, times: usize) -> Vec<f64> {
    let mut sums = vec![(0.0, 0usize); times];
    for row in rows {
        for (sum, value) in sums.iter_mut().zip(row) {
            if let Some(value) = value {
                *sum = (sum.0 + value, sum.1 + 1);
            }
        }
    }
    sums.into_iter().map(|(sum, count)| sum / (count.max(1) as f64).sqrt()).collect()
}

fn greatest(scores: &[f64], open: &[bool]) -> f64 {
    scores.iter().zip(open).filter(|(_, open)| **open).fold(0.0, |most, (score, _)| most.max(score.abs()))
}

/// The share of maxima, the greatest first, that reach a value; of drawn ones with the observation itself counted.
fn share(maxima: &[f64], value: f64, all: bool) -> f64 {
    // Sums of the same numbers in another order differ by rounding.
    let reached = maxima.partition_point(|most| *most >= value * (1.0 - 1e-9));
    match all {
        true => reached as f64 / maxima.len() as f64,
        false => super::add_one(reached, maxima.len()),
    }
}

/// What must be exceeded for a share of at most `rate`.
fn bound(maxima: &[f64], rate: f64, all: bool) -> f64 {
    let allowed = if all { rate * maxima.len() as f64 } else { rate * (maxima.len() + 1) as f64 - 1.0 };
    match allowed >= 0.0 {
        true => maxima.get((allowed + 1e-9) as usize).copied().unwrap_or(0.0),
        false => f64::INFINITY,
    }
}

#[cfg(test)]
// A list of stretches may have one.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_at_most, assert_share, normals};

    type Rows = Vec<Vec<Option<f64>>>;

    /// Differences of a simulated study.
    fn study(seed: u64, runs: usize, times: usize, value: impl Fn(f64, usize, usize) -> f64) -> Rows {
        let noise = normals(1_000 + seed, runs * times);
        (0..runs).map(|run| (0..times).map(|at| Some(value(noise[run * times + at], run, at))).collect()).collect()
    }

    #[test]
    fn signs_are_those_of_the_exact_test_by_hand() {
        // One time matters, so the greatest is always there: six rows of one sign, of 2^5 pairs of signs one is as far.
        let rows: Rows = (0..6).map(|run| vec![Some(10.0 + f64::from(run)), Some(0.0)]).collect();
        let curve = Sensitivity::of(&rows, 0.05, 199, 0).unwrap();
        assert_eq!((curve.points[0].p_effect, curve.points[1].p_effect), (1.0 / 32.0, 1.0));
        // One row against: with the smallest turned too it is as far, and with that alone further.
        let mut mixed = rows.clone();
        mixed[0][0] = Some(-10.0);
        assert_eq!(Sensitivity::of(&mixed, 0.05, 199, 0).unwrap().points[0].p_effect, 2.0 / 32.0);
        // At the bound nothing is told: the second of 32 sums, 75 - 20.
        let bound = Sensitivity::of(&mixed, 0.05, 199, 0).unwrap().effect_bound;
        assert!((bound - 55.0 / 6f64.sqrt()).abs() < 1e-12);
        // With eleven rows signs are drawn, and say much the same as all 2^10 pairs would: 1 of 1,024.
        let many: Rows = (0..11).map(|_| vec![Some(1.0), Some(0.0)]).collect();
        let p = Sensitivity::of(&many, 0.05, 1999, 0).unwrap().points[0].p_effect;
        assert!((0.0005..0.004).contains(&p), "{p}");
    }

    #[test]
    fn orders_are_those_of_the_exact_test_by_hand() {
        // Two times, six rows, the same difference in all: of 2^6 orders two are as far.
        let rows: Rows = (0..6).map(|_| vec![Some(2.0), Some(0.0)]).collect();
        let curve = Sensitivity::of(&rows, 0.05, 20_000, 0).unwrap();
        assert!((curve.points[0].p_time - 2.0 / 64.0).abs() < 4.0 * (0.031f64 / 20_000.0).sqrt());
        assert_eq!((curve.level, curve.points[0].mean, curve.points[0].error), (1.0, 2.0, 0.0));
        // What each run does by itself at all times is not of a time.
        let shifted: Rows =
            rows.iter().zip(normals(3, 6)).map(|(row, by)| row.iter().map(|x| x.map(|x| x + by)).collect()).collect();
        let p = Sensitivity::of(&shifted, 0.05, 20_000, 0).unwrap().points[0].p_time;
        assert!((p - curve.points[0].p_time).abs() < 1e-12);
    }

    #[test]
    fn where_there_is_no_window_none_is_found_at_the_rate() {
        const STUDIES: usize = 300;
        let count = |is: &dyn Fn(&Sensitivity) -> bool, value: &dyn Fn(f64, usize, usize) -> f64| {
            let study = |seed| Sensitivity::of(&study(seed, 8, 12, value), 0.05, 199, seed).unwrap();
            (0..STUDIES as u64).filter(|seed| is(&study(*seed))).count()
        };
        let (noise, skewed) = (|x: f64, _: usize, _: usize| x, |x: f64, _: usize, _: usize| x.exp());
        // 6 of 128 signs are beyond 5 %.
        assert_share(count(&|s| !s.effective().is_empty(), &noise), STUDIES, 6.0 / 128.0, "effects of nothing");
        assert_share(
            count(&|s| s.points.iter().any(|point| point.p_time <= 0.05), &skewed),
            STUDIES,
            0.05,
            "times that are like all others, of skewed effects",
        );
        assert_at_most(count(&|s| !s.windows().is_empty(), &noise), STUDIES, 0.05, "windows of nothing");
        // An effect of eight standard deviations and more at all times, and rows that differ between them: effects, and no window.
        let always = |x: f64, run: usize, _: usize| x + 8.0 + run as f64;
        assert_eq!(count(&|s| s.effective() == [0..12], &always), STUDIES);
        assert_at_most(count(&|s| !s.windows().is_empty(), &always), STUDIES, 0.05, "windows of what is always there");
        // Of what all times of a run share, as the unchanged run's own luck, nothing follows either.
        let shared = |x: f64, run: usize, _: usize| 0.1 * x + normals(77, 8)[run];
        assert_at_most(count(&|s| !s.windows().is_empty(), &shared), STUDIES, 0.05, "windows of shared luck");
    }

    #[test]
    fn a_planted_window_is_found_at_its_place_and_as_often_as_was_promised() {
        let effect = Sensitivity::smallest_effect(8, 12, 2, 0.05).unwrap();
        assert!((1.0..4.0).contains(&effect), "{effect}");
        let planted = |x: f64, _: usize, at: usize| x - if (5..7).contains(&at) { effect } else { 0.0 };
        let (mut found, mut beside) = (0, 0);
        for seed in 0..200 {
            let windows = Sensitivity::of(&study(seed, 8, 12, planted), 0.05, 199, seed).unwrap().windows();
            found += usize::from(windows.iter().any(|one| one.start < 7 && one.end > 5));
            beside += usize::from(windows.iter().any(|one| one.start < 5 || one.end > 7));
        }
        assert_share(found, 200, 0.8, "found");
        assert_at_most(beside, 200, 0.05, "found beside it");
        // A great one is found whole.
        let great = |x: f64, _: usize, at: usize| x + if (5..7).contains(&at) { 12.0 } else { 0.0 };
        assert_eq!(Sensitivity::of(&study(1, 8, 12, great), 0.05, 199, 1).unwrap().windows(), [5..7]);
        // A lesser one beside it is found too, and both are dated as one.
        let beside = |x: f64, _: usize, at: usize| {
            0.1 * x
                + if at == 5 {
                    30.0
                } else if at == 6 {
                    3.0
                } else {
                    0.0
                }
        };
        let curve = Sensitivity::of(&study(1, 8, 12, beside), 0.05, 199, 1).unwrap();
        assert_eq!((curve.windows(), curve.level.abs() < 0.2), (vec![5..7], true));
        // Two that go opposite ways are two.
        let both = |x: f64, _: usize, at: usize| x + [0.0, 12.0, -12.0, 0.0][at.min(3)];
        assert_eq!(Sensitivity::of(&study(1, 8, 12, both), 0.05, 199, 1).unwrap().windows(), [1..2, 2..3]);
        // More runs see less; and what fills all times is never told from all times.
        assert!(Sensitivity::smallest_effect(12, 12, 2, 0.05).unwrap() < effect);
        assert!(matches!(Sensitivity::smallest_effect(6, 4, 4, 0.05), Err(Missing::Because(_))));
    }

    #[test]
    fn runs_that_cannot_be_changed_any_more_are_left_out() {
        let mut rows = study(2, 7, 6, |x, _, at| x + if at == 1 { 20.0 } else { 0.0 });
        let whole = Sensitivity::of(&rows, 0.05, 199, 0).unwrap();
        rows.push(vec![None; 6]);
        assert_eq!(Sensitivity::of(&rows, 0.05, 199, 0).unwrap(), whole);
        rows[0][5] = None;
        (0..8).for_each(|run| rows[run][4] = None);
        let curve = Sensitivity::of(&rows, 0.05, 199, 0).unwrap();
        assert_eq!((curve.points[5].count, curve.points[4].count), (6, 0));
        assert!(curve.points[4].mean.is_nan() && curve.points[4].p_effect == 1.0 && curve.points[4].p_time == 1.0);
        assert_eq!(curve.windows(), [1..2]);
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let refused = |rows: &Rows| Sensitivity::of(rows, 0.05, 199, 0).unwrap_err();
        assert_eq!(refused(&study(0, 5, 4, |x, _, _| x)), Missing::TooFew { of: "runs", have: 5, need: 6 });
        assert_eq!(refused(&study(0, 6, 1, |x, _, _| x)), Missing::TooFew { of: "times", have: 1, need: 2 });
        assert_eq!(refused(&Vec::new()), Missing::TooFew { of: "times", have: 0, need: 2 });
        let mut uneven = study(0, 6, 4, |x, _, _| x);
        uneven[3].pop();
        assert_eq!(refused(&uneven), Missing::Lengths(4, 3));
        assert!(matches!(refused(&study(0, 6, 4, |_, _, _| f64::NAN)), Missing::NotFinite(0)));
        assert_eq!([0.05, 0.01, 0.5, 1.0].map(least_runs), [6, 8, 2, 1]);
    }
}
