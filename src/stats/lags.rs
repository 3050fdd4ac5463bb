//! Which of two series moves first, and by how much.

use super::autoregression::Autoregression;
use super::bootstrap::{block_length, quantile};
use super::draws::Draws;
use super::missing::Missing;
use super::p_values::add_one;
use crate::random::Stream;

/// How two series go together, shifted against each other.
///
/// Two curves of training agree at many lags whether or not one has to do with the other, since each resembles its own past.
/// So each is reduced to what is new in it (an autoregression of its own, Haugh 1976), and these are correlated:
/// r_k = Σ a_t b_(t+k)/(n s_a s_b).
///
/// Levels that drift or jump together are a common cause, and no lag: take differences of such series, or look at them between
/// their [change points](super::ChangePoints).
///
/// ```
/// use thermoscope::stats::Lag;
///
/// let noise = |at: usize| (((at * 7919 + at * at * 104_729) % 1009) as f64 / 1009.0) - 0.5;
/// let keys: Vec<f64> = (5..205).map(noise).collect();
/// let values: Vec<f64> = (0..200).map(|at| noise(at) + 0.3 * noise(at + 1000)).collect(); // five measurements later
/// let lag = Lag::between(&keys, &values, 12, 500, 0)?;
/// assert_eq!(lag.lag, 5);
/// assert!(lag.p < 0.01);
/// # Ok::<(), thermoscope::stats::Missing>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Lag {
    /// The lag, in measurements, of the greatest correlation to either side of 0; positive where the second series follows.
    pub lag: i64,
    /// That correlation.
    pub correlation: f64,
    /// Between which lags the greatest one lies in 95 % of series drawn again.
    pub interval: [i64; 2],
    /// The probability of such a correlation at any lag that was looked at, of series that have nothing to do with each other.
    pub p: f64,
    /// Correlations from the lag -most to most.
    pub correlations: Vec<f64>,
    /// Orders of the two autoregressions.
    pub orders: [usize; 2],
}

impl Lag {
    /// The lag between two series, measured at the same steps at equal distances, among lags up to `most`.
    ///
    /// The p-value is that of the greatest |r_k| beside those of the first series' news in another order, put together in blocks
    /// as long as the memory that may be left in them. For the interval the products a_t b_(t+k) of all lags are drawn again
    /// together, in blocks of t (the bootstrap of blocks of blocks of Politis and Romano 1992). Where p is not small the
    /// interval means nothing.
    ///
    /// # Errors
    /// [`Missing`] of series of different length or fewer than 5 (2 most + 1) values, of what is no finite number, of
    /// fewer than 20 draws, and where a series, named by its place, does not vary.
    pub fn between(first: &[f64], second: &[f64], most: usize, draws: usize, seed: u64) -> Result<Self, Missing> {
        if first.len() != second.len() {
            return Err(Missing::Lengths(first.len(), second.len()));
        }
        Missing::unless_enough("values", first.len(), 5 * (2 * most + 1))?;
        Missing::unless_enough("draws", draws, 20)?;
        let named = |series: usize| {
            move |missing| if missing == Missing::Constant(0) { Missing::Constant(series) } else { missing }
        };
        let models = [Autoregression::of(first).map_err(named(0))?, Autoregression::of(second).map_err(named(1))?];
        let orders = [0, 1].map(|series| models[series].coefficients.len());
        let news = [models[0].residuals(first), models[1].residuals(second)];
        // What is new in both, at the same steps.
        let count = news[0].len().min(news[1].len());
        let [a, mut b] = news.map(|news| standard(&news[news.len() - count..]));
        let correlations = correlations(&a, &b, most);
        let (at, correlation) = greatest(&correlations);
        let interval = Self::interval(&a, &b, most, draws, seed);
        let mut shuffled = Vec::with_capacity(count);
        let length =
            [&a, &b].map(|news| block_length(news).unwrap_or(1.0)).into_iter().fold(1.0, f64::max).round() as usize;
        let reached = (0..draws).filter(|draw| {
            let mut draws = Draws::new(seed, Stream::Shuffle, *draw);
            // Blocks begin anywhere, so that it is not always the same ones that stay together.
            b.rotate_left(draws.below(count));
            let mut blocks: Vec<&[f64]> = b.chunks(length).collect();
            draws.shuffle(&mut blocks);
            shuffled.clear();
            blocks.iter().for_each(|block| shuffled.extend_from_slice(block));
            greatest(&self::correlations(&a, &shuffled, most)).1.abs() >= correlation.abs()
        });
        let p = add_one(reached.count(), draws);
        Ok(Self { lag: at as i64 - most as i64, correlation, interval, p, correlations, orders })
    }

    fn interval(a: &[f64], b: &[f64], most: usize, draws: usize, seed: u64) -> [i64; 2] {
        let lags = 2 * most + 1;
        // Σ over t of the products of all lags, where all are there.
        let inner = a.len() - 2 * most;
        let products: Vec<f64> = (0..inner).flat_map(|t| b[t..t + lags].iter().map(move |b| a[t + most] * b)).collect();
        let mean: Vec<f64> =
            (0..lags).map(|k| (0..inner).map(|t| products[t * lags + k]).sum::<f64>() / inner as f64).collect();
        let best = greatest(&mean).0;
        let at_best: Vec<f64> = (0..inner).map(|t| products[t * lags + best]).collect();
        let length = block_length(&at_best).unwrap_or(1.0);
        let (mut rows, mut sums) = (Vec::new(), vec![0.0; lags]);
        let mut found: Vec<f64> = (0..draws)
            .map(|draw| {
                Draws::new(seed, Stream::Resample, draw).blocks(inner, length, &mut rows);
                sums.fill(0.0);
                for row in &rows {
                    sums.iter_mut().zip(&products[row * lags..][..lags]).for_each(|(sum, product)| *sum += product);
                }
                greatest(&sums).0 as f64 - most as f64
            })
            .collect();
        found.sort_by(f64::total_cmp);
        [quantile(&found, 0.025).floor() as i64, quantile(&found, 0.975).ceil() as i64]
    }
}

/// With mean 0 and standard deviation 1.
fn standard(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    // What its past determines wholly has no news.
    values.iter().map(|value| if deviation > 0.0 { (value - mean) / deviation } else { 0.0 }).collect()
}

/// r_k from the lag -most to most.
fn correlations(a: &[f64], b: &[f64], most: usize) -> Vec<f64> {
    let of = |early: &[f64], late: &[f64]| early.iter().zip(late).map(|(a, b)| a * b).sum::<f64>() / a.len() as f64;
    let before = (1..=most).rev().map(|lag| of(&a[lag..], b));
    before.chain((0..=most).map(|lag| of(a, &b[lag..]))).collect()
}

/// The place of the greatest to either side of 0, and it.
fn greatest(values: &[f64]) -> (usize, f64) {
    let mut best = (0, 0.0f64);
    for (at, value) in values.iter().enumerate() {
        if value.abs() > best.1.abs() {
            best = (at, *value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_share, normals, wandering};
    use crate::stats::golden::{assert_same, golden, numbers};

    #[test]
    fn correlations_are_those_of_numpy() {
        let case = &golden("lags");
        let found = correlations(&standard(&numbers(&case["first"])), &standard(&numbers(&case["second"])), 6);
        let expected = numbers(&case["correlations"]);
        assert_eq!(found.len(), expected.len());
        found.iter().zip(&expected).for_each(|(own, other)| assert_same(*own, *other, "correlation"));
    }

    /// Two series of which the second is the first so many measurements later, and something of its own.
    fn led(seed: u64, lag: usize, correlation: f64, own: f64) -> [Vec<f64>; 2] {
        let source = wandering(seed, 260, correlation);
        let noise = wandering(seed + 5000, 260, correlation);
        let second = (20..220).map(|t| source[t - lag] + own * noise[t]).collect();
        [source[20..220].to_vec(), second]
    }

    #[test]
    fn a_planted_lag_is_found_and_its_interval_holds_it() {
        for correlation in [0.0, 0.9] {
            let (mut right, mut held, mut sure) = (0, 0, 0);
            for seed in 0..60 {
                let [first, second] = led(seed, 4, correlation, 1.5);
                let found = Lag::between(&first, &second, 10, 100, seed).unwrap();
                right += usize::from(found.lag == 4);
                held += usize::from(found.interval[0] <= 4 && 4 <= found.interval[1]);
                sure += usize::from(found.p <= 0.05);
            }
            // A correlation of 0.55 is eight standard errors of 1/√200.
            assert!(right >= 58 && held >= 57 && sure >= 58, "{right}, {held} and {sure} of 60 at {correlation}");
        }
        // The other way round it is the other lag.
        let [first, second] = led(1, 3, 0.5, 0.5);
        let [there, back] =
            [Lag::between(&first, &second, 10, 100, 1).unwrap(), Lag::between(&second, &first, 10, 100, 1).unwrap()];
        assert_eq!((there.lag, back.lag), (3, -3));
        assert!(there.correlations.iter().eq(back.correlations.iter().rev()));
    }

    #[test]
    fn series_that_have_nothing_to_do_with_each_other_have_no_lag() {
        for correlation in [0.0, 0.9] {
            let p = |seed: u64| {
                let [first, second] = [seed, seed + 9000].map(|seed| wandering(seed, 150, correlation));
                Lag::between(&first, &second, 8, 99, seed).unwrap().p
            };
            let found = (0..200).filter(|seed| p(*seed) <= 0.1).count();
            assert_share(found, 200, 0.1, &format!("lags by chance at correlation {correlation}"));
        }
        // Without whitening a third and more of them would.
        let raw = (0..200u64).filter(|seed| {
            let [a, b] = [*seed, seed + 9000].map(|seed| standard(&wandering(seed, 150, 0.9)));
            greatest(&correlations(&a, &b, 8)).1.abs() > 2.7 / (150f64).sqrt()
        });
        assert!(raw.count() > 66);
    }

    #[test]
    fn series_that_do_not_vary_are_named() {
        let values = normals(1, 200);
        let between = |a: &[f64], b: &[f64]| Lag::between(a, b, 5, 50, 0).unwrap_err();
        assert_eq!(between(&values, &[0.1; 200]), Missing::Constant(1));
        assert_eq!(between(&[3.0; 200], &values), Missing::Constant(0));
        assert_eq!(between(&values, &values[..199]), Missing::Lengths(200, 199));
        assert_eq!(between(&values[..54], &values[..54]), Missing::TooFew { of: "values", have: 54, need: 55 });
        let mut hole = values.clone();
        hole[9] = f64::INFINITY;
        assert_eq!(between(&values, &hole), Missing::NotFinite(9));
    }
}
