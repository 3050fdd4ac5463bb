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
    /// Of x.
    whole: f64,
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
        let mut found = Self { mean, coefficients: Vec::new(), variance: whole, whole };
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

    /// How much greater the variance of the mean of many values is than if they were independent: σ²/(1 - Σ φ)² by the
    /// variance of one.
    pub(super) fn inflation(&self) -> f64 {
        self.variance / (1.0 - self.coefficients.iter().sum::<f64>()).powi(2) / self.whole
    }
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
        // Standard errors of 0.6/√2000 and, of the ratio (1 + ρ)/(1 - ρ) = 9, some tenth.
        assert!((found.coefficients[0] - 0.8).abs() < 0.09, "{found:?}");
        assert!((found.inflation() / 9.0 - 1.0).abs() < 0.35, "{}", found.inflation());
        let fresh = found.residuals(&values);
        let squares: f64 = fresh.iter().map(|e| e * e).sum();
        let neighbours: f64 = fresh.windows(2).map(|e| e[0] * e[1]).sum();
        assert!((neighbours / squares).abs() < 4.0 / (2000f64).sqrt());
        let white = Autoregression::of(&normals(9, 1000)).unwrap();
        assert!((white.inflation() - 1.0).abs() < 0.3, "{}", white.inflation());
        assert_eq!(Autoregression::of(&[0.1; 40]), Err(Missing::Constant(0)));
        // A sine is its own past.
        let sine: Vec<f64> = (0..200).map(|t| f64::from(t).sin()).collect();
        assert!(Autoregression::of(&sine).unwrap().residuals(&sine).iter().all(|e| e.abs() < 0.02));
    }
}
