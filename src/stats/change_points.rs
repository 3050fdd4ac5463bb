//! When a series jumped: the places at which its level, or its level and spread, changed for good.

use super::autoregression::{handed_on, inflation, unless_wandering};
use super::bootstrap::{block_length, quantile};
use super::draws::Draws;
use super::missing::Missing;
use super::onset::LASTING;
use crate::random::Stream;

/// What changes at a change point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The level alone: a stretch costs Σ (x - mean)², in units of the noise.
    Level,
    /// Level and spread, either or both: a stretch of n costs n ln of its variance, of normal noise.
    LevelAndSpread,
}

/// The noise about the levels of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Standard deviation of what is new in each value.
    pub deviation: f64,
    /// How much of its distance from the level each value hands on to the next, from 0: negative ones count as 0.
    pub correlation: f64,
}

/// Change points of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangePoints {
    /// The first value behind each change, in order.
    pub at: Vec<usize>,
    /// Mean of each stretch between them.
    pub levels: Vec<f64>,
    /// About them.
    pub noise: Noise,
    /// What a change must save to be one, in the units of [`Change`].
    pub penalty: f64,
}

impl ChangePoints {
    /// The changes that cost least: Σ cost of stretches + penalty for each change, exactly, by the pruned search of Killick,
    /// Fearnhead and Eckley (PELT, 2012). No stretch is shorter than [`LASTING`] values.
    ///
    /// The penalty is Schwarz's, ln n for each number that a change adds (2 ln n for a level and its place, 3 ln n for level,
    /// spread and place), times (1 + ρ)/(1 - ρ) where neighbours are correlated: what that does to the variance of means
    /// (Lavielle 1999). The noise and its correlation are first taken from the differences of neighbours and of next but one,
    /// which few changes touch (Chakar et al. 2017, with Rousseeuw and Croux's Qn for the median), then from what the changes
    /// found leave over, until these stay. So of 100 series of 200 values without changes 2 have one where ρ is 0, 5 at 0.8, 12 at
    /// 0.9, and fewer of longer ones, but 9 of 30 values at 0.5; noise with a longer memory than a first-order autoregression's is
    /// not told from changes. Noise is taken for normal: of series of t with 3 degrees of freedom 14 have a change of level and 57
    /// one of level and spread, of lognormal ones 39 and 98. Take the logarithm of what is skewed. What comes in whole steps, such as
    /// accuracies of a few examples, varies by half a step at least, whether or not it does so in a stretch.
    ///
    /// ```
    /// use thermoscope::stats::{Change, ChangePoints};
    ///
    /// let noise = |at: usize| ((at * at * 7919) % 1009) as f64 / 1009.0;
    /// let loss: Vec<f64> = (0..120).map(|at| noise(at) + if at < 70 { 5.0 } else { 2.0 }).collect();
    /// let found = ChangePoints::of(&loss, Change::Level)?;
    /// assert_eq!(found.at, [70]);
    /// let [low, high] = found.intervals(&loss, 0.95, 500, 0)?[0];
    /// assert!(low <= 70 && 70 <= high);
    /// # Ok::<(), thermoscope::stats::Missing>(())
    /// ```
    ///
    /// # Errors
    /// [`Missing`] of fewer than 30 values, of what is no finite number, of a series half of whose neighbours are equal (which
    /// has no noise to measure jumps by), and of one whose neighbours are correlated by more than 0.9, or so that it is worth
    /// fewer than ten independent values: it wanders as far as it may have jumped. So is a series in which a straight line costs no
    /// more than the levels found, ln n for its slope included: it drifts. A bend is not asked for, and steps along one are found.
    pub fn of(values: &[f64], change: Change) -> Result<Self, Missing> {
        Missing::unless_enough("values", values.len(), 30)?;
        Missing::unless_finite(values)?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        if values.iter().all(|value| *value == values[0]) {
            return Err(Missing::Constant(0));
        }
        let mut noise = Noise::of_differences(&centred)?;
        let mut at = Vec::new();
        let mut penalty = f64::INFINITY;
        let numbers = if change == Change::Level { 2.0 } else { 3.0 };
        let mut costs = Costs::new(&centred, change, noise);
        // It settles at once or goes round between two; five times is enough for either.
        for round in 0..=5 {
            if round > 0 {
                noise = Noise::left(&centred, &at);
            }
            penalty = numbers * (values.len() as f64).ln() * inflation(noise.correlation);
            costs = Costs::new(&centred, change, noise);
            let found = cheapest(&centred, &costs, penalty);
            let same = found == at;
            at = found;
            if round > 0 && same {
                break;
            }
        }
        unless_wandering(values.len(), noise.correlation)?;
        let found: f64 = stretches(&at, values.len()).map(|(from, to)| costs.of(from, to)).sum();
        if !at.is_empty() && costs.of_line(&centred) + penalty / numbers <= found + penalty * at.len() as f64 {
            return Err(Missing::Because(
                "a straight line fits as well as levels do: it drifts, and where it may have jumped cannot be told",
            ));
        }
        let levels = stretches(&at, values.len()).map(|(from, to)| level(&values[from..to])).collect();
        Ok(Self { at, levels, noise, penalty })
    }

    /// For each change, where it may have been: the first and the last place, with a confidence of `level`. The series is made
    /// anew `draws` times from the levels found and blocks of what they leave over on each side, the change looked for again
    /// between its neighbours, and what that missed by taken from where it was found (Hušková and Kirch 2008).
    ///
    /// # Errors
    /// [`Missing`] of fewer than 20 draws.
    pub fn intervals(&self, values: &[f64], level: f64, draws: usize, seed: u64) -> Result<Vec<[usize; 2]>, Missing> {
        Missing::unless_enough("draws", draws, 20)?;
        if self.at.last().is_some_and(|last| *last >= values.len()) {
            return Err(Missing::Because("these are not the values in which the changes were found"));
        }
        let left_over = left_over(values, &self.at);
        let mean_length = block_length(&left_over).unwrap_or(1.0);
        let bounds: Vec<usize> = [0].into_iter().chain(self.at.iter().copied()).chain([values.len()]).collect();
        let of_change = |index: usize| {
            let [from, at, to] = [bounds[index], bounds[index + 1], bounds[index + 2]];
            let step = self.levels[index + 1] - self.levels[index];
            let (mut rows, mut again) = (Vec::new(), vec![0.0; to - from]);
            let mut missed: Vec<f64> = (0..draws)
                .map(|draw| {
                    let mut draws = Draws::new(seed, Stream::Resample, index * draws + draw);
                    for (side, jump) in [(from..at, 0.0), (at..to, step)] {
                        draws.blocks(side.len(), mean_length, &mut rows);
                        for (place, row) in side.clone().zip(&rows) {
                            again[place - from] = jump + left_over[side.start + row];
                        }
                    }
                    (from + split(&again)) as f64 - at as f64
                })
                .collect();
            missed.sort_by(f64::total_cmp);
            let end = |share: f64| at as f64 - quantile(&missed, share);
            let [low, high] = [end((1.0 + level) / 2.0).floor(), end((1.0 - level) / 2.0).ceil()];
            [low.max(from as f64 + 1.0) as usize, (high.max(0.0) as usize).min(to - 1)]
        };
        Ok((0..self.at.len()).map(of_change).collect())
    }
}

impl Noise {
    /// From differences d1 of neighbours and d2 of next but one: 1 + ρ = (scale of d2/scale of d1)², σ = scale of d2/√2.
    fn of_differences(values: &[f64]) -> Result<Self, Missing> {
        let scale = |apart: usize| scale(values.windows(apart + 1).map(|window| window[apart] - window[0]));
        let (near, far) = (scale(1), scale(2));
        if near <= 0.0 || far <= 0.0 {
            return Err(Missing::Because(
                "half of its neighbours are equal: there is no noise to measure jumps by, and every change is one",
            ));
        }
        // Not more than a first search bears: what this finds too many of is put right by the next, what it misses is not.
        let correlation = ((far / near).powi(2) - 1.0).clamp(0.0, 0.8);
        Ok(Self { deviation: far / std::f64::consts::SQRT_2, correlation })
    }

    /// From what levels leave over.
    fn left(values: &[f64], at: &[usize]) -> Self {
        let left = left_over(values, at);
        let correlation = handed_on(stretches(at, values.len()).map(|(from, to)| &left[from..to]), at.len() + 1);
        let squares: f64 = left.iter().map(|value| value * value).sum();
        let variance = squares / (values.len() - at.len() - 1) as f64;
        Self { deviation: (variance * (1.0 - correlation * correlation)).sqrt(), correlation }
    }
}

/// Qn of Rousseeuw and Croux (1993): 2.2191 times the first quartile of the distances between all pairs, the standard
/// deviation of normal numbers, which a quarter of others does not move far. Of at most 1,000 values, evenly chosen.
fn scale(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let every = values.len().div_ceil(1000).max(1);
    let values: Vec<f64> = values.step_by(every).collect();
    let mut distances: Vec<f64> =
        values.iter().enumerate().flat_map(|(at, a)| values[..at].iter().map(move |b| (a - b).abs())).collect();
    let half = values.len() / 2 + 1;
    let rank = half * (half - 1) / 2 - 1;
    2.2191 * *distances.select_nth_unstable_by(rank, f64::total_cmp).1
}

/// The least distance of two values that differ.
fn grain(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let apart = sorted.windows(2).map(|pair| pair[1] - pair[0]).filter(|apart| *apart > 0.0);
    apart.min_by(f64::total_cmp).unwrap_or(0.0)
}

/// Stretches between changes, as [from, to).
fn stretches(at: &[usize], count: usize) -> impl Iterator<Item = (usize, usize)> {
    [0].into_iter().chain(at.iter().copied()).zip(at.iter().copied().chain([count]))
}

fn level(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Values without the levels of their stretches.
fn left_over(values: &[f64], at: &[usize]) -> Vec<f64> {
    let of = |(from, to): (usize, usize)| {
        let mean = level(&values[from..to]);
        values[from..to].iter().map(move |value| value - mean)
    };
    stretches(at, values.len()).flat_map(of).collect()
}

/// What stretches cost, from sums up to each value.
struct Costs {
    sums: Vec<[f64; 2]>,
    change: Change,
    /// Of the noise.
    variance: f64,
    /// The least variance of a stretch, in units of that.
    least: f64,
}

impl Costs {
    fn new(values: &[f64], change: Change, noise: Noise) -> Self {
        let mut sums = vec![[0.0; 2]];
        let mut sum = [0.0; 2];
        for value in values {
            sum = [sum[0] + value, sum[1] + value * value];
            sums.push(sum);
        }
        let variance = noise.deviation.powi(2) / (1.0 - noise.correlation.powi(2));
        // A stretch that does not vary at all varies by less than the values' own grain, the least distance of two that differ, or
        // by a thousandth of the noise.
        let least = ((grain(values) / 2.0).powi(2) / variance).max(1e-6);
        Self { sums, change, variance, least }
    }

    fn of(&self, from: usize, to: usize) -> f64 {
        let [sum, squares] = [0, 1].map(|power| self.sums[to][power] - self.sums[from][power]);
        let count = (to - from) as f64;
        self.of_squares((squares - sum * sum / count).max(0.0), count)
    }

    /// Of a stretch with such squares about its level, or about its line.
    fn of_squares(&self, about: f64, count: f64) -> f64 {
        match self.change {
            Change::Level => about / self.variance,
            // Added to every variance this leaves two stretches never dearer than one, on which the pruning rests.
            Change::LevelAndSpread => count * (about / count / self.variance + self.least).ln(),
        }
    }

    /// Of all values about a straight line.
    fn of_line(&self, values: &[f64]) -> f64 {
        let (count, mean) = (values.len() as f64, level(values));
        let place = |at: usize| at as f64 - (count - 1.0) / 2.0;
        let with: f64 = values.iter().enumerate().map(|(at, value)| place(at) * (value - mean)).sum();
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let slope = with * with * 12.0 / (count * (count * count - 1.0));
        self.of_squares((squares - slope).max(0.0), count)
    }
}

/// The changes for which the sum of costs and penalties is least.
fn cheapest(values: &[f64], costs: &Costs, penalty: f64) -> Vec<usize> {
    let shortest = LASTING as usize;
    let count = values.len();
    // Of the values before each place: the least sum, and where the last stretch begins.
    let mut least = vec![f64::INFINITY; count + 1];
    least[0] = -penalty;
    let mut last = vec![0; count + 1];
    // Where a last stretch may begin, and from which end on it need not be tried any more.
    let mut begins: Vec<(usize, usize)> = Vec::new();
    for to in shortest..=count {
        let new = to - shortest;
        if least[new].is_finite() {
            begins.push((new, usize::MAX));
        }
        begins.retain(|(_, until)| to < *until);
        for (from, _) in &begins {
            let sum = least[*from] + costs.of(*from, to) + penalty;
            if sum < least[to] {
                (least[to], last[to]) = (sum, *from);
            }
        }
        for (from, until) in &mut begins {
            // A stretch that begins here could as well end now; but the next one must be long enough to begin.
            if least[*from] + costs.of(*from, to) > least[to] {
                *until = (*until).min(to + shortest);
            }
        }
    }
    let mut at = Vec::new();
    let mut to = last[count];
    while to > 0 {
        at.push(to);
        to = last[to];
    }
    at.reverse();
    at
}

/// Where one change of level fits best: that of the greatest |Σ (x - mean)|/√(k (n - k)/n).
fn split(values: &[f64]) -> usize {
    let (count, mean) = (values.len(), level(values));
    let (mut sum, mut best) = (0.0, (1, f64::NEG_INFINITY));
    for at in 1..count {
        sum += values[at - 1] - mean;
        let (before, after) = (at as f64, (count - at) as f64);
        let gain = sum * sum / (before * after);
        if gain > best.1 {
            best = (at, gain);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_at_most, assert_share, normals, wandering};
    use crate::stats::golden::{each, golden, number, numbers};

    /// Every segmentation, by the plain recursion.
    fn plain(values: &[f64], costs: &Costs, penalty: f64) -> (f64, Vec<usize>) {
        let shortest = LASTING as usize;
        let mut best: Vec<Option<(f64, Vec<usize>)>> = vec![Some((-penalty, Vec::new()))];
        for to in 1..=values.len() {
            let of = |from: usize| {
                let (sum, at) = best[from].as_ref()?;
                let mut at = at.clone();
                at.extend((from > 0).then_some(from));
                Some((sum + costs.of(from, to) + penalty, at))
            };
            let found = (0..(to + 1).saturating_sub(shortest)).filter_map(of).min_by(|a, b| a.0.total_cmp(&b.0));
            best.push(found);
        }
        best.pop().flatten().unwrap()
    }

    #[test]
    fn pruning_loses_nothing() {
        for seed in 0..60 {
            let mut values = normals(seed, 60);
            let jumps = normals(1000 + seed, 6);
            values.iter_mut().enumerate().for_each(|(at, value)| *value += 1.5 * jumps[at / 10]);
            let noise = Noise { deviation: 1.0, correlation: 0.0 };
            for change in [Change::Level, Change::LevelAndSpread] {
                for penalty in [1.0, 4.0, 9.0] {
                    let costs = Costs::new(&values, change, noise);
                    assert_eq!(cheapest(&values, &costs, penalty), plain(&values, &costs, penalty).1);
                }
            }
        }
    }

    #[test]
    fn changes_are_those_of_ruptures() {
        for case in each(&golden("change_points")) {
            let values = numbers(&case["values"]);
            for search in each(&case["searches"]) {
                let change = if search["cost"] == "l2" { Change::Level } else { Change::LevelAndSpread };
                let costs = Costs::new(&values, change, Noise { deviation: 1.0, correlation: 0.0 });
                let at = cheapest(&values, &costs, number(&search["penalty"]));
                let expected: Vec<usize> = numbers(&search["at"]).iter().map(|at| *at as usize).collect();
                assert_eq!(at, expected, "{search}");
            }
        }
    }

    #[test]
    fn qn_is_the_standard_deviation_and_few_jumps_do_not_move_it() {
        let mut values = normals(3, 2000);
        assert!((scale(values.iter().copied()) - 1.0).abs() < 0.08);
        values.iter_mut().step_by(11).for_each(|value| *value += 100.0);
        // Of one in eleven: the quartile of all is at 0.299 of the pairs that have none.
        assert!((scale(values.iter().copied()) - 1.207).abs() < 0.1);
        // Of 1, 2, 4, 8: h = 3, the third of the distances 1, 2, 3, 4, 6, 7.
        assert_eq!(scale([1.0, 2.0, 4.0, 8.0].into_iter()), 2.2191 * 3.0);
    }

    fn changes(values: &[f64], change: Change) -> Option<Vec<usize>> {
        ChangePoints::of(values, change).ok().map(|found| found.at)
    }

    #[test]
    fn noise_has_no_changes_however_correlated() {
        // Shares of 1,000 simulations, which the docs state; series that are refused have none.
        for (correlation, share, change) in [
            (0.0, 0.02, Change::Level),
            (0.5, 0.035, Change::Level),
            (0.8, 0.05, Change::Level),
            (0.9, 0.12, Change::Level),
            (0.0, 0.02, Change::LevelAndSpread),
            (0.6, 0.02, Change::LevelAndSpread),
        ] {
            let found = (0..100)
                .filter(|seed| changes(&wandering(*seed, 200, correlation), change).is_some_and(|at| !at.is_empty()));
            assert_at_most(found.count(), 100, share, &format!("changes in noise of correlation {correlation}"));
        }
        // Without the correlation nearly every such series would have one.
        let series = |seed| wandering(seed, 200, 0.8);
        let blind = (0..100).filter(|seed| {
            let values = series(*seed);
            let costs = Costs::new(&values, Change::Level, Noise { deviation: 1.0, correlation: 0.0 });
            !cheapest(&values, &costs, 2.0 * 200f64.ln()).is_empty()
        });
        assert!(blind.count() > 90);
    }

    /// A series of shares of `trials` that hit with a probability.
    fn shares(seed: u64, trials: usize, chance: f64) -> Vec<f64> {
        let drawn = normals(seed, 200 * trials);
        let bound = crate::stats::special::normal_quantile(chance);
        let hits = |drawn: &[f64]| drawn.iter().filter(|x| **x < bound).count() as f64 / trials as f64;
        drawn.chunks(trials).map(hits).collect()
    }

    #[test]
    fn values_that_come_in_steps_have_no_changes_of_spread() {
        let rounded = |seed: u64, step: f64| -> Vec<f64> {
            normals(seed, 200).iter().map(|x| (x / step).round() * step).collect()
        };
        type Series<'a> = (&'a str, &'a dyn Fn(u64) -> Vec<f64>);
        let series: [Series<'_>; 4] = [
            ("accuracies of 100 at 0.98", &|seed| shares(seed, 100, 0.98)),
            ("accuracies of 64 at 0.95", &|seed| shares(seed, 64, 0.95)),
            ("numbers rounded to whole ones", &|seed| rounded(seed, 1.0)),
            ("numbers rounded to halves", &|seed| rounded(seed, 0.5)),
        ];
        for (name, series) in series {
            let found = |seed: &u64| changes(&series(*seed), Change::LevelAndSpread).is_some_and(|at| !at.is_empty());
            assert_at_most((0..100).filter(found).count(), 100, 0.03, name);
        }
        // Whether they are counted from 0 or in other units is the same.
        let steps = rounded(1, 0.5);
        let costs = |factor: f64| {
            let values: Vec<f64> = steps.iter().map(|x| factor * x).collect();
            Costs::new(&values, Change::LevelAndSpread, Noise { deviation: factor, correlation: 0.0 }).least
        };
        assert!((costs(1.0) - 0.0625).abs() < 1e-12 && (costs(3.0) - 0.0625).abs() < 1e-12);
    }

    #[test]
    fn a_straight_trend_is_no_jump_and_a_jump_is_no_trend() {
        for change in [Change::Level, Change::LevelAndSpread] {
            let trend = |seed: u64, jump: f64| -> Vec<f64> {
                let jump = |at: usize| if at >= 100 { jump } else { 0.0 };
                normals(seed, 200).iter().enumerate().map(|(at, x)| x + at as f64 / 50.0 + jump(at)).collect()
            };
            // From 0 to four deviations.
            let found = (0..100).filter(|seed| changes(&trend(*seed, 0.0), change).is_some_and(|at| !at.is_empty()));
            assert_at_most(found.count(), 100, 0.02, "changes in a trend");
            let jumps = (0..20).filter(|seed| {
                let noise = normals(*seed, 200).into_iter().enumerate();
                let values: Vec<f64> = noise.map(|(at, x)| x + if at >= 100 { 2.0 } else { 0.0 }).collect();
                changes(&values, change).is_some_and(|at| at.len() == 1)
            });
            assert!(jumps.count() >= 18);
        }
    }

    #[test]
    fn planted_changes_are_found_where_they_are() {
        let planted = |seed: u64, correlation: f64, jump: f64| -> Vec<f64> {
            let noise = wandering(seed, 200, correlation).into_iter().enumerate();
            noise.map(|(at, noise)| noise + if (70..140).contains(&at) { jump } else { 0.0 }).collect()
        };
        let found = |correlation, jump, within: usize| {
            let near = |at: &Vec<usize>| at.len() == 2 && at[0].abs_diff(70) <= within && at[1].abs_diff(140) <= within;
            (0..100)
                .filter(|seed| changes(&planted(*seed, correlation, jump), Change::Level).as_ref().is_some_and(near))
                .count()
        };
        // Two standard deviations; three where half of each value is handed on, whose means have the error of a third as many.
        let (white, correlated) = (found(0.0, 2.0, 4), found(0.5, 3.0, 4));
        assert!(white >= 85, "{white} of 100 in white noise");
        assert!(correlated >= 75, "{correlated} of 100 in correlated noise");
        // The spread alone, threefold from 100 on.
        let spread = (0..100).filter(|seed| {
            let values: Vec<f64> =
                normals(*seed, 200).iter().enumerate().map(|(at, x)| if at < 100 { *x } else { 3.0 * x }).collect();
            changes(&values, Change::LevelAndSpread).is_some_and(|at| at.len() == 1 && at[0].abs_diff(100) <= 8)
        });
        let spread = spread.count();
        assert!(spread >= 85, "{spread} of 100 changes of spread");
    }

    #[test]
    fn intervals_hold_the_change_as_often_as_they_say() {
        for (correlation, jump) in [(0.0, 1.5), (0.5, 2.5), (0.8, 4.0)] {
            let (mut held, mut found, mut width) = (0, 0, 0);
            for seed in 0..150 {
                let noise = wandering(seed, 120, correlation).into_iter().enumerate();
                let values: Vec<f64> = noise.map(|(at, noise)| noise + if at < 60 { 0.0 } else { jump }).collect();
                let Ok(points) = ChangePoints::of(&values, Change::Level) else { continue };
                if points.at.len() != 1 {
                    continue;
                }
                let [low, high] = points.intervals(&values, 0.9, 100, seed).unwrap()[0];
                found += 1;
                held += usize::from(low <= 60 && 60 <= high);
                width += high - low;
            }
            assert!(found >= 100, "{found} of 150 found");
            // Whole places: more than 0.9 where one is much of the interval, and no less.
            assert_share(held, found, 0.92, &format!("intervals at correlation {correlation}"));
            assert!(width < 20 * found, "{width} in {found}");
        }
    }

    #[test]
    fn a_jump_beyond_doubt_is_known_to_the_place() {
        let jumps = |at: usize| f64::from(u8::from(at >= 30)) * 50.0 - f64::from(u8::from(at >= 80)) * 90.0;
        let values: Vec<f64> = normals(1, 120).iter().enumerate().map(|(at, noise)| noise + jumps(at)).collect();
        let found = ChangePoints::of(&values, Change::Level).unwrap();
        assert_eq!(found.at, [30, 80]);
        assert_eq!(found.intervals(&values, 0.95, 100, 0), Ok(vec![[30, 30], [80, 80]]));
        assert!((found.levels[1] - 50.0).abs() < 4.0 / (50f64).sqrt(), "{:?}", found.levels);
    }

    #[test]
    fn what_has_no_noise_or_no_end_of_wandering_is_refused() {
        assert_eq!(changes(&[1.0; 50], Change::Level), None);
        let stairs: Vec<f64> = (0..60).map(|at| f64::from(at / 30)).collect();
        assert!(matches!(ChangePoints::of(&stairs, Change::Level), Err(Missing::Because(_))));
        assert!(matches!(ChangePoints::of(&normals(1, 29), Change::Level), Err(Missing::TooFew { .. })));
        let mut hole = normals(1, 50);
        hole[7] = f64::NAN;
        assert_eq!(ChangePoints::of(&hole, Change::Level), Err(Missing::NotFinite(7)));
        // Random walks: told for what they are, or cut into stretches by chance in a few.
        let refused = (0..100).filter(|seed| {
            let mut sum = 0.0;
            let walk: Vec<f64> = normals(*seed, 300)
                .iter()
                .map(|step| {
                    sum += step;
                    sum
                })
                .collect();
            ChangePoints::of(&walk, Change::Level).is_err()
        });
        let refused = refused.count();
        assert!(refused >= 75, "{refused} of 100 random walks refused");
        // Far from 0 it is the same.
        let values: Vec<f64> = normals(2, 100).iter().zip(0..).map(|(x, at)| x + f64::from(at / 50) * 4.0).collect();
        let far: Vec<f64> = values.iter().map(|value| value + 1e7).collect();
        assert_eq!(changes(&values, Change::Level), Some(vec![50]));
        assert_eq!(changes(&far, Change::Level), Some(vec![50]));
    }
}
