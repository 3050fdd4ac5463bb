//! What a series owes to its own past, and what is new in it.

use super::missing::Missing;

/// x_t - mean = Σ φ_i (x_(t-i) - mean) + e_t, with as many φ as Akaike's criterion, as mended for short series, asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Autoregression {
    pub(super) mean: f64,
    /// φ_1, φ_2, ...
    pub(super) coefficients: Vec<f64>,
    /// Of e.
    pub(super) variance: f64,
}

impl Autoregression {
    /// By Burg's recursion (1975), which is stationary however close to a random walk a series comes, of the order p up to
    /// 10 log10 n that makes n ln σ² + 2 (p + 1) n/(n - p - 2) least (Hurvich and Tsai 1989).
    pub(super) fn of(values: &[f64]) -> Result<Self, Missing> {
        Missing::unless_enough("values", values.len(), 10)?;
        Missing::unless_finite(values)?;
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let whole = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        // What a mean of numbers that are all the same is off by.
        if whole <= (4.0 * f64::EPSILON * mean).powi(2) {
            return Err(Missing::Constant(0));
        }
        let most = ((10.0 * n.log10()) as usize).min(values.len() / 4);
        let mut forward: Vec<f64> = values.iter().map(|value| value - mean).collect();
        let mut backward = forward.clone();
        let mut found = Self { mean, coefficients: Vec::new(), variance: whole };
        let mut tried = found.clone();
        let criterion = |of: &Self| {
            let order = of.coefficients.len() as f64;
            n * of.variance.ln() + 2.0 * (order + 1.0) * n / (n - order - 2.0)
        };
        for order in 1..=most {
            let pairs = || (order..values.len()).map(|t| (t, t - 1));
            let product: f64 = pairs().map(|(t, before)| forward[t] * backward[before]).sum();
            let squares: f64 = pairs().map(|(t, before)| forward[t].powi(2) + backward[before].powi(2)).sum();
            let reflection = 2.0 * product / squares;
            let left = tried.variance * (1.0 - reflection * reflection);
            // A series that its past determines has nothing new; neither has what is left but rounding.
            if !reflection.is_finite() || left <= 1e-20 * whole {
                break;
            }
            for t in (order..values.len()).rev() {
                let (f, b) = (forward[t], backward[t - 1]);
                (forward[t], backward[t]) = (f - reflection * b, b - reflection * f);
            }
            let before = tried.coefficients.clone();
            tried.coefficients = before.iter().zip(before.iter().rev()).map(|(a, b)| a - reflection * b).collect();
            tried.coefficients.push(reflection);
            tried.variance = left;
            if criterion(&tried) < criterion(&found) {
                found = tried.clone();
            }
        }
        Ok(found)
    }

    /// e_t, from the first t that has a whole past.
    pub(super) fn residuals(&self, values: &[f64]) -> Vec<f64> {
        let order = self.coefficients.len();
        let residual = |t: usize| {
            let past: f64 = self.coefficients.iter().zip(1..).map(|(phi, i)| phi * (values[t - i] - self.mean)).sum();
            values[t] - self.mean - past
        };
        (order..values.len()).map(residual).collect()
    }
}

/// How much of its distance from a fit each value hands on to the next, from 0 to 0.99, of what a fit of so many numbers leaves
/// over on some stretches: Σ e_t e_(t-1)/Σ e² without its bias of (1 + 3 ρ)/n for each number (Kendall 1954). Negative ones count
/// as 0, since what errs there errs on the safe side.
pub(super) fn handed_on<'a>(left_over: impl Iterator<Item = &'a [f64]>, numbers: usize) -> f64 {
    let (mut products, mut squares, mut count) = (0.0, 0.0, 0.0);
    for stretch in left_over {
        products += stretch.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>();
        squares += stretch.iter().map(|value| value * value).sum::<f64>();
        count += stretch.len() as f64;
    }
    let seen = if squares > 0.0 { products / squares } else { 0.0 };
    (seen + (1.0 + 3.0 * seen) * numbers as f64 / count).clamp(0.0, 0.99)
}

/// By how much the variance of the mean of many values exceeds that of independent ones, of a first-order autoregression.
pub(super) fn inflation(correlation: f64) -> f64 {
    (1.0 + correlation) / (1.0 - correlation)
}

/// Greatest correlation of neighbours at which something that lasts can be told from wandering, and least number of independent
/// values that a series must be worth.
const WANDERING: f64 = 0.9;
const WORTH: f64 = 10.0;

/// Fails where a series wanders as far as it may have changed.
pub(super) fn unless_wandering(count: usize, correlation: f64) -> Result<(), Missing> {
    if correlation <= WANDERING && count as f64 >= WORTH * inflation(correlation) {
        return Ok(());
    }
    Err(Missing::Because(
        "neighbours are so alike that it wanders as far as it may have changed: measure for longer, or look at its differences",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{normals, wandering};
    use crate::stats::golden::{assert_same, each, golden, number, numbers};

    #[test]
    fn coefficients_are_those_of_statsmodels() {
        for case in each(&golden("autoregression")) {
            let values = numbers(&case["values"]);
            let found = Autoregression::of(&values).unwrap();
            let coefficients = numbers(&case["coefficients"]);
            assert_eq!(found.coefficients.len(), coefficients.len());
            for (own, other) in found.coefficients.iter().zip(&coefficients) {
                assert_same(*own, *other, "coefficient");
            }
            assert_same(found.variance, number(&case["variance"]), "variance");
        }
    }

    #[test]
    fn what_is_new_is_found_again() {
        let values = wandering(3, 2000, 0.8);
        let found = Autoregression::of(&values).unwrap();
        // A standard error of 0.6/√2000.
        assert!((found.coefficients[0] - 0.8).abs() < 0.06, "{found:?}");
        let fresh = found.residuals(&values);
        let squares: f64 = fresh.iter().map(|e| e * e).sum();
        let neighbours: f64 = fresh.windows(2).map(|e| e[0] * e[1]).sum();
        assert!((neighbours / squares).abs() < 4.0 / (2000f64).sqrt());
        let orders = (0..50).map(|seed| Autoregression::of(&normals(seed, 200)).unwrap().coefficients.len());
        assert!(orders.filter(|order| *order > 0).count() < 20, "noise owes nothing to its past");
        assert_eq!(Autoregression::of(&[0.1; 40]), Err(Missing::Constant(0)));
        // A sine is its own past.
        let sine: Vec<f64> = (0..200).map(|t| f64::from(t).sin()).collect();
        assert!(Autoregression::of(&sine).unwrap().residuals(&sine).iter().all(|e| e.abs() < 0.02));
    }

    #[test]
    fn what_is_handed_on_has_no_bias_in_short_series() {
        for correlation in [0.3, 0.8] {
            let found = |seed| {
                let values = wandering(seed, 60, correlation);
                let mean = values.iter().sum::<f64>() / 60.0;
                let left: Vec<f64> = values.iter().map(|value| value - mean).collect();
                handed_on([left.as_slice()].into_iter(), 1)
            };
            let mean = (0..400).map(found).sum::<f64>() / 400.0;
            // A standard error of √((1 - ρ²)/60/400), and what the expansion leaves.
            assert!((mean - correlation).abs() < 0.03, "{mean} for {correlation}");
        }
        assert_eq!(handed_on([[1.0, -1.0, 1.0, -1.0].as_slice()].into_iter(), 0), 0.0);
        assert_eq!((inflation(0.0), inflation(0.6)), (1.0, 4.0));
        assert!(unless_wandering(91, 0.8).is_ok() && unless_wandering(89, 0.8).is_err());
        assert!(unless_wandering(100_000, 0.91).is_err());
    }
}
