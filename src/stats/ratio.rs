//! Ratios of means, and errors of what has no formula for its error.

use super::errors::Paired;

/// A ratio of two means over the same groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Σ y / Σ x.
    pub ratio: f64,
    /// Its standard error to first order, √(Σ (y - ratio x)²/(n - 1)/n) / |mean x| (Cochran 1977, section 6.4); NaN of fewer
    /// than two.
    pub standard_error: f64,
}

impl Ratio {
    /// Of `parts` to `wholes`. Unlike a mean of ratios it does not hang on the groups whose whole is next to nothing.
    pub fn of(parts: &[f64], wholes: &[f64]) -> Self {
        let whole: f64 = wholes.iter().sum();
        let ratio = parts.iter().sum::<f64>() / whole;
        // Their mean is 0.
        let left: Vec<f64> = parts.iter().zip(wholes).map(|(y, x)| y - ratio * x).collect();
        let mean = whole / parts.len() as f64;
        Self { ratio, standard_error: Paired::of(&left).standard_error / mean.abs() }
    }
}

/// Standard errors from the values that some numbers take with one block of the examples left out each time:
/// √((b - 1)/b Σ (θ_i - mean θ)²) for b blocks (Quenouille's and Tukey's jackknife). NaN of fewer than two blocks, and of a number
/// that is none in some of them.
pub fn jackknife<const N: usize>(left_out: &[[f64; N]]) -> [f64; N] {
    let blocks = left_out.len() as f64;
    std::array::from_fn(|at| {
        let mean = left_out.iter().map(|values| values[at]).sum::<f64>() / blocks;
        let squares: f64 = left_out.iter().map(|values| (values[at] - mean).powi(2)).sum();
        if left_out.len() < 2 { f64::NAN } else { ((blocks - 1.0) / blocks * squares).sqrt() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_means_have_the_errors_of_the_formula_and_of_the_jackknife() {
        // By hand: 12/8; residuals 1 - 1.5, 5 - 4.5, 6 - 6.
        let found = Ratio::of(&[1.0, 5.0, 6.0], &[1.0, 3.0, 4.0]);
        assert!((found.ratio - 1.5).abs() < 1e-15);
        assert!((found.standard_error - (0.5f64 / 2.0 / 3.0).sqrt() / (8.0 / 3.0)).abs() < 1e-15, "{found:?}");
        // Two hundred groups: to first order both are the same, to 1/n.
        let parts: Vec<f64> = (0..200).map(|at| 1.0 + f64::from(at * 37 % 101) / 50.0).collect();
        let wholes: Vec<f64> = (0..200).map(|at| 2.0 + f64::from(at * 53 % 97) / 60.0).collect();
        let without = |left: usize| {
            let sum = |of: &[f64]| of.iter().sum::<f64>() - of[left];
            [sum(&parts) / sum(&wholes)]
        };
        let [error] = jackknife(&(0..200).map(without).collect::<Vec<_>>());
        let found = Ratio::of(&parts, &wholes);
        assert!((error / found.standard_error - 1.0).abs() < 0.01, "{error} and {found:?}");
        // The same share everywhere is known exactly; one group says nothing of its error.
        assert!(Ratio::of(&[1.0, 2.0], &[2.0, 4.0]).standard_error < 1e-15);
        assert!(Ratio::of(&[1.0], &[2.0]).standard_error.is_nan());
    }

    #[test]
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let data = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let total: f64 = data.iter().sum();
        let left_out: Vec<[f64; 1]> = data.iter().map(|x| [(total - x) / 9.0]).collect();
        assert!((jackknife(&left_out)[0] - Paired::of(&data).standard_error).abs() < 1e-14);
        assert!(jackknife(&left_out[..1])[0].is_nan());
    }
}
