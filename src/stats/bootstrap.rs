//! How sure a statistic is, by drawing its sample again: what it would have been, had other rows been seen.
//!
//! What is drawn is what is independent: rows, whole clusters of rows, or blocks of a series that are longer than its memory.
//! A statistic is any function of a list of rows, so that one rule serves means, medians, slopes and differences alike.

use std::collections::BTreeMap;

use super::draws::Draws;
use super::missing::Missing;
use super::special::{normal_below, normal_quantile};
use crate::random::Stream;

/// What is drawn as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drawn<'a> {
    /// Each row: rows are independent of each other.
    Rows,
    /// All rows that share a label, of one label for each row: rows of a cluster depend on each other, clusters do not.
    Clusters(&'a [usize]),
    /// Blocks of neighbours, of this mean length: rows are a series in order, and level and spread stay the same all along it.
    /// [`block_length`] says how long. The stationary bootstrap of Politis and Romano (1994).
    Blocks(f64),
}

/// A statistic, and what it is of samples drawn again.
///
/// ```
/// use thermoscope::stats::{Bootstrap, Drawn};
///
/// // What ablating a head did to thirty prompts: two of each of fifteen facts, which are what is independent.
/// let fact: Vec<usize> = (0..30).map(|at| at / 2).collect();
/// let change: Vec<f64> = (0..30).map(|at| 0.1 * (at / 2 * 7 % 15) as f64 + 0.05 * (at % 2) as f64).collect();
/// let mean = |rows: &[usize]| rows.iter().map(|row| change[*row]).sum::<f64>() / rows.len() as f64;
/// let by_prompt = Bootstrap::of(change.len(), Drawn::Rows, 2000, 0, mean)?;
/// let by_fact = Bootstrap::of(change.len(), Drawn::Clusters(&fact), 2000, 0, mean)?;
/// assert!(by_fact.standard_error() > 1.2 * by_prompt.standard_error());
/// let [low, high] = by_fact.bca(0.95)?;
/// assert!(low < by_fact.estimate && by_fact.estimate < high);
/// # Ok::<(), thermoscope::stats::Missing>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Of the sample itself.
    pub estimate: f64,
    /// Of each draw, from the least to the greatest, where it is a finite number.
    pub draws: Vec<f64>,
    /// Draws of which it is none.
    pub undefined: usize,
    /// Of the sample without one row, cluster or block, for each.
    without: Vec<f64>,
}

impl Bootstrap {
    /// Rows, clusters or blocks of which there must be as many for [`Bootstrap::bca`].
    const BCA_UNITS: usize = 10;

    /// Draws as many rows, clusters or rows in blocks as there are, with replacement, `draws` times. The same seed draws
    /// the same; a few thousand draws tell the ends of a 95 % interval.
    ///
    /// # Errors
    /// [`Missing`] where fewer than two are independent, the statistic of the sample is no finite number, or that of more than
    /// one draw in twenty is none.
    pub fn of(
        rows: usize,
        drawn: Drawn<'_>,
        draws: usize,
        seed: u64,
        statistic: impl Fn(&[usize]) -> f64,
    ) -> Result<Self, Missing> {
        let whole: Vec<usize> = (0..rows).collect();
        let units: Vec<Vec<usize>> = match drawn {
            Drawn::Rows => whole.iter().map(|row| vec![*row]).collect(),
            Drawn::Clusters(labels) if labels.len() != rows => return Err(Missing::Lengths(rows, labels.len())),
            Drawn::Clusters(labels) => {
                let mut clusters: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                labels.iter().zip(&whole).for_each(|(label, row)| clusters.entry(*label).or_default().push(*row));
                clusters.into_values().collect()
            }
            Drawn::Blocks(length) if length.is_nan() || length < 1.0 => {
                return Err(Missing::Because("a block holds one row at least: give a mean length of 1 or more"));
            }
            Drawn::Blocks(length) => whole.chunks(length.round().max(1.0) as usize).map(<[usize]>::to_vec).collect(),
        };
        let of = match drawn {
            Drawn::Rows => "rows",
            Drawn::Clusters(_) => "clusters",
            Drawn::Blocks(_) => "blocks",
        };
        Missing::unless_enough(of, units.len(), 2)?;
        Missing::unless_enough("draws", draws, 20)?;
        let estimate = statistic(&whole);
        if !estimate.is_finite() {
            return Err(Missing::Because("the statistic of the sample is no finite number"));
        }
        let mut sample = Vec::with_capacity(rows);
        let mut found: Vec<f64> = (0..draws)
            .map(|draw| {
                let mut draws = Draws::new(seed, Stream::Resample, draw);
                match drawn {
                    Drawn::Blocks(length) => draws.blocks(rows, length, &mut sample),
                    Drawn::Rows | Drawn::Clusters(_) => {
                        sample.clear();
                        (0..units.len()).for_each(|_| sample.extend_from_slice(&units[draws.below(units.len())]));
                    }
                }
                statistic(&sample)
            })
            .filter(|value| value.is_finite())
            .collect();
        found.sort_by(f64::total_cmp);
        let undefined = draws - found.len();
        if 20 * undefined > draws {
            return Err(Missing::Because("the statistic of more than one draw in twenty is no finite number"));
        }
        let without = (0..units.len()).map(|left_out| {
            sample.clear();
            units.iter().enumerate().filter(|(at, _)| *at != left_out).for_each(|(_, unit)| sample.extend(unit));
            statistic(&sample)
        });
        Ok(Self { estimate, undefined, without: without.collect(), draws: found })
    }

    /// The standard error: the standard deviation of the draws.
    pub fn standard_error(&self) -> f64 {
        let count = self.draws.len() as f64;
        let mean = self.draws.iter().sum::<f64>() / count;
        (self.draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
    }

    /// The percentile interval: what lies between the outer (1 - level)/2 of the draws (Efron 1979). Of few units it is too
    /// narrow, and it does not mend a bias.
    pub fn percentile(&self, level: f64) -> [f64; 2] {
        [(1.0 - level) / 2.0, (1.0 + level) / 2.0].map(|share| quantile(&self.draws, share))
    }

    /// The bias-corrected and accelerated interval (Efron 1987), right to the second order: from z0, where the estimate stands
    /// among the draws, and a = Σ u³/(6 (Σ u²)^(3/2)) of u, what leaving out one unit takes from the mean of that, its ends are
    /// the shares Φ(z0 + (z0 ± z)/(1 - a (z0 ± z))) of the draws. In a series the units left out are consecutive blocks.
    ///
    /// It holds less than it says of few units: for 0.95, 0.90 of the means of 10 normal numbers and 0.94 of those of 20; 0.89 and
    /// 0.92 of exponential ones. Of fewer than ten, of 4 it would be 0.79, there is none: Student's
    /// ([`Paired::interval`](super::Paired::interval)) is for their means.
    ///
    /// # Errors
    /// [`Missing`] of fewer than ten rows, clusters or blocks, where the estimate lies beyond all draws, and where the statistic
    /// without some unit is no finite number.
    pub fn bca(&self, level: f64) -> Result<[f64; 2], Missing> {
        Missing::unless_enough("rows, clusters or blocks", self.without.len(), Self::BCA_UNITS)?;
        if self.without.iter().any(|value| !value.is_finite()) {
            return Err(Missing::Because("the statistic without one row, cluster or block is no finite number"));
        }
        let mean = self.without.iter().sum::<f64>() / self.without.len() as f64;
        let sum = |power: i32| self.without.iter().map(|value| (mean - value).powi(power)).sum::<f64>();
        let squares = sum(2);
        let acceleration = if squares > 0.0 { sum(3) / (6.0 * squares.powf(1.5)) } else { 0.0 };
        let below = self.draws.partition_point(|draw| *draw < self.estimate);
        let up_to = self.draws.partition_point(|draw| *draw <= self.estimate);
        let share = (below + up_to) as f64 / (2 * self.draws.len()) as f64;
        if share <= 0.0 || share >= 1.0 {
            return Err(Missing::Because("the estimate lies beyond all draws: it is biased by more than its spread"));
        }
        let bias = normal_quantile(share);
        let ends = [(1.0 - level) / 2.0, (1.0 + level) / 2.0].map(|share| {
            let z = bias + normal_quantile(share);
            quantile(&self.draws, normal_below(bias + z / (1.0 - acceleration * z)))
        });
        Ok(ends)
    }
}

/// The value below which a share of sorted values lies, between two of them in proportion; NaN of none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let low = (at.floor() as usize).min(last);
    let high = (low + 1).min(last);
    sorted[low] + (at - low as f64) * (sorted[high] - sorted[low])
}

/// The mean length of blocks for a stationary bootstrap of the mean of a series: (2 G²/D n)^(1/3) with D = 2 g², g = Σ λ R(k),
/// G = Σ λ |k| R(k), over autocovariances R up to twice the lag from which on they do not differ from 0 (Politis and White 2004,
/// as corrected by Patton, Politis and White 2009); at least 1, and at most 3 √n and n/3.
///
/// # Errors
/// [`Missing`] of fewer than ten values, of what is no finite number and of what does not vary.
pub fn block_length(values: &[f64]) -> Result<f64, Missing> {
    Missing::unless_enough("values", values.len(), 10)?;
    Missing::unless_finite(values)?;
    let count = values.len();
    let n = count as f64;
    let mean = values.iter().sum::<f64>() / n;
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let covariance = |lag: usize| centred[lag..].iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>() / n;
    let variance = covariance(0);
    if variance <= (f64::EPSILON * mean).powi(2) {
        return Err(Missing::Constant(0));
    }
    // So many lags in a row must not differ from 0.
    let row = (n.log10().sqrt().ceil() as usize).max(5);
    let most = (n.sqrt().ceil() as usize + row).min(count - 1);
    let covariances: Vec<f64> = (0..=most).map(covariance).collect();
    let bound = 2.0 * (n.log10() / n).sqrt();
    let small = |lag: usize| covariances[lag].abs() < bound * variance;
    let memory = (1..=most.saturating_sub(row)).find(|lag| (*lag..lag + row).all(small));
    let reach = memory.map_or(most, |lag| (2 * lag).min(most));
    let (mut spectrum, mut slope) = (variance, 0.0);
    for (lag, covariance) in covariances.iter().enumerate().take(reach + 1).skip(1) {
        let window = (2.0 * (1.0 - lag as f64 / reach as f64)).min(1.0);
        spectrum += 2.0 * window * covariance;
        slope += 2.0 * window * lag as f64 * covariance;
    }
    let length = (slope * slope / (spectrum * spectrum) * n).cbrt();
    let longest = (3.0 * n.sqrt()).min(n / 3.0).ceil();
    // A series whose spectrum vanishes at 0 has no length; the longest is safe.
    Ok(if length.is_finite() { length.clamp(1.0, longest) } else { longest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_share, normals, wandering};
    use crate::stats::golden::{assert_same, each, golden, number, numbers};

    fn mean_of(values: &[f64]) -> impl Fn(&[usize]) -> f64 {
        move |rows| rows.iter().map(|row| values[*row]).sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn intervals_of_the_same_draws_are_those_of_scipy() {
        let golden = golden("bootstrap");
        for name in ["mean", "median_of_skewed"] {
            let case = &golden[name];
            let values = numbers(&case["values"]);
            let statistic = |rows: &[usize]| {
                let mut drawn: Vec<f64> = rows.iter().map(|row| values[*row]).collect();
                drawn.sort_by(f64::total_cmp);
                if name == "mean" { drawn.iter().sum::<f64>() / rows.len() as f64 } else { quantile(&drawn, 0.5) }
            };
            let mut found = Bootstrap::of(values.len(), Drawn::Rows, 4000, 3, statistic).unwrap();
            // Its own draws agree to what 4,000 and 999 of them can tell.
            let spread = number(&case["standard_error"]);
            assert!((found.standard_error() / spread - 1.0).abs() < 0.15, "{} {spread}", found.standard_error());
            for (own, scipy) in found.bca(0.95).unwrap().iter().zip(numbers(&case["bca"])) {
                assert!((own - scipy).abs() < 0.4 * spread, "{own} for {scipy}");
            }
            found.draws = numbers(&case["draws"]);
            found.draws.sort_by(f64::total_cmp);
            assert_same(found.standard_error(), spread, "standard error");
            for (own, scipy) in found.bca(0.95).unwrap().iter().zip(numbers(&case["bca"])) {
                assert_same(*own, scipy, "BCa");
            }
            for (own, scipy) in found.percentile(0.95).iter().zip(numbers(&case["percentile"])) {
                assert_same(*own, scipy, "percentile");
            }
        }
    }

    /// How many of 300 intervals of a mean hold it.
    fn covered(interval: impl Fn(u64) -> [f64; 2], truth: f64) -> usize {
        (0..300).map(interval).filter(|[low, high]| *low <= truth && truth <= *high).count()
    }

    #[test]
    fn intervals_over_rows_hold_the_mean_as_often_as_they_say() {
        // Exponential numbers, whose mean is 1: skewed, so that percentiles miss more often on one side.
        let skewed = |seed: u64| -> Vec<f64> {
            normals(seed, 80).chunks(2).map(|pair| (pair[0] * pair[0] + pair[1] * pair[1]) / 2.0).collect()
        };
        let bca = covered(
            |seed| {
                let values = skewed(seed);
                Bootstrap::of(40, Drawn::Rows, 400, seed, mean_of(&values)).unwrap().bca(0.9).unwrap()
            },
            1.0,
        );
        // What scipy's BCa intervals hold of 40 exponential numbers, for 0.90, in 1,500 simulations.
        assert_share(bca, 300, 0.863, "BCa of skewed rows");
    }

    #[test]
    fn intervals_over_clusters_hold_the_mean_and_those_over_rows_do_not() {
        // Thirty clusters of one to nine rows each; all that differs between rows differs between clusters.
        let labels: Vec<usize> = (0..30).flat_map(|cluster| vec![cluster; 1 + cluster * 7 % 9]).collect();
        let over = |drawn: Drawn<'_>, seed: u64| {
            let of_cluster = normals(seed, 30);
            let values: Vec<f64> = labels.iter().map(|label| of_cluster[*label]).collect();
            Bootstrap::of(values.len(), drawn, 300, seed, mean_of(&values)).unwrap().percentile(0.9)
        };
        let by_cluster = covered(|seed| over(Drawn::Clusters(&labels), seed), 0.0);
        let by_row = covered(|seed| over(Drawn::Rows, seed), 0.0);
        // What numpy's draws hold in 2,000 simulations: percentile intervals of thirty clusters of unequal size, and of their rows.
        assert_share(by_cluster, 300, 0.874, "clusters");
        assert_share(by_row, 300, 0.453, "rows of clusters");
    }

    #[test]
    fn intervals_over_blocks_hold_the_mean_of_a_series_and_those_over_rows_do_not() {
        let over = |rows: bool, seed: u64| {
            let values = wandering(seed, 400, 0.6);
            let drawn = if rows { Drawn::Rows } else { Drawn::Blocks(block_length(&values).unwrap()) };
            Bootstrap::of(400, drawn, 200, seed, mean_of(&values)).unwrap().percentile(0.9)
        };
        // What stationary bootstraps of the `arch` package's block length hold in 1,000 simulations, and what rows do.
        assert_share(covered(|seed| over(false, seed), 0.0), 300, 0.824, "blocks");
        assert_share(covered(|seed| over(true, seed), 0.0), 300, 0.592, "rows of a series");
    }

    #[test]
    fn blocks_are_as_long_as_the_theory_of_autoregressions_says() {
        // (2 ρ/(1 - ρ²))^(2/3) n^(1/3): Politis and White 2004, section 3.
        // The rule looks as far as the memory shows, so it falls short of what an endless one would give, by a tenth.
        for correlation in [0.3, 0.6, 0.9] {
            let mut lengths: Vec<f64> =
                (0..40).map(|seed| block_length(&wandering(seed, 1000, correlation)).unwrap()).collect();
            lengths.sort_by(f64::total_cmp);
            let theory = (2.0 * correlation / (1.0 - correlation * correlation)).powf(2.0 / 3.0) * 10.0;
            let ratio = lengths[20] / theory;
            assert!((0.75..1.1).contains(&ratio), "{correlation}: {ratio} of {theory}");
        }
        for case in each(&golden("bootstrap")["series"]) {
            let (own, arch) = (block_length(&numbers(&case["values"])).unwrap(), number(&case["stationary"]));
            assert_same(own, arch, "block length");
        }
        assert_eq!(block_length(&[1.0; 50]), Err(Missing::Constant(0)));
        assert!(block_length(&normals(1, 500)).unwrap() < 6.0, "independent rows need no blocks");
    }

    #[test]
    fn the_same_seed_draws_the_same_and_what_is_no_sample_is_refused() {
        let values = normals(4, 30);
        let of = |seed| Bootstrap::of(30, Drawn::Rows, 100, seed, mean_of(&values)).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1).draws, of(2).draws);
        let refused = |rows, drawn: Drawn<'_>| Bootstrap::of(rows, drawn, 100, 0, mean_of(&values)).unwrap_err();
        assert_eq!(refused(1, Drawn::Rows), Missing::TooFew { of: "rows", have: 1, need: 2 });
        assert_eq!(refused(9, Drawn::Clusters(&[3; 9])), Missing::TooFew { of: "clusters", have: 1, need: 2 });
        assert_eq!(refused(9, Drawn::Clusters(&[3; 8])), Missing::Lengths(9, 8));
        assert_eq!(refused(9, Drawn::Blocks(9.0)), Missing::TooFew { of: "blocks", have: 1, need: 2 });
        assert!(matches!(refused(9, Drawn::Blocks(0.5)), Missing::Because(_)));
        let nothing = Bootstrap::of(30, Drawn::Rows, 100, 0, |_| f64::NAN).unwrap_err();
        assert!(matches!(nothing, Missing::Because(_)));
        // No number of one draw in thirty, and of one in three.
        let unless_last = |rows: &[usize], below: usize| if rows[rows.len() - 1] < below { f64::NAN } else { 1.0 };
        let found = Bootstrap::of(30, Drawn::Rows, 1000, 0, |rows| unless_last(rows, 1)).unwrap();
        assert_share(found.undefined, 1000, 1.0 / 30.0, "draws of which the statistic is none");
        assert_eq!(found.draws.len() + found.undefined, 1000);
        assert!(Bootstrap::of(30, Drawn::Rows, 1000, 0, |rows| unless_last(rows, 10)).is_err());
        // How many different rows there are is never so many in a draw: nothing lies above.
        let kinds = |rows: &[usize]| rows.iter().collect::<std::collections::BTreeSet<_>>().len() as f64;
        assert!(Bootstrap::of(30, Drawn::Rows, 100, 0, kinds).unwrap().bca(0.95).is_err());
        // Nine rows tell no ends of an interval that mends its bias, ten do.
        let of_few = |rows: usize| Bootstrap::of(rows, Drawn::Rows, 100, 0, mean_of(&values)).unwrap().bca(0.95);
        assert_eq!(of_few(9), Err(Missing::TooFew { of: "rows, clusters or blocks", have: 9, need: 10 }));
        assert!(of_few(10).is_ok());
        let constant = Bootstrap::of(30, Drawn::Rows, 100, 0, |_| 2.0).unwrap();
        assert_eq!((constant.bca(0.95), constant.percentile(0.95)), (Ok([2.0; 2]), [2.0; 2]));
    }
}
