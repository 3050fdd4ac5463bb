//! Middles, numbers with their errors, and errors of differences.

use super::special::{incomplete_beta, normal_below, normal_quantile};

/// The middle of some numbers, the upper of two; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// The interval of a normal number: value ± z error.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        let reach = normal_quantile((1.0 + level) / 2.0) * self.error;
        [self.value - reach, self.value + reach]
    }

    /// The probability of a normal number so far from 0, to either side, where it is 0; NaN where neither differs from 0.
    pub fn p(&self) -> f64 {
        2.0 * normal_below(-(self.value / self.error).abs())
    }
}

/// A mean of paired differences: what changed for each of some examples between two ways of treating the same ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Their mean.
    pub mean: f64,
    /// Its standard error: sqrt(Σ (d - mean)²/(n - 1)/n).
    pub standard_error: f64,
    /// How many there are.
    pub count: u64,
}

impl Paired {
    /// Of the differences themselves; NaN as the error of fewer than two.
    pub fn of(differences: &[f64]) -> Self {
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        let standard_error = if differences.len() < 2 { f64::NAN } else { (squares / (count - 1.0) / count).sqrt() };
        Self { mean, standard_error, count: differences.len() as u64 }
    }

    /// The same where each mean is known to so much at best: a second error, independent of that of the sample.
    #[must_use]
    pub fn rounded(self, rounding: f64) -> Self {
        Self { standard_error: self.standard_error.hypot(rounding), ..self }
    }

    /// Where the mean lies with a confidence of `level`: Student's t with n - 1 degrees of freedom, right for normal differences
    /// however few; NaN of fewer than two. Of four exponential ones an interval for 0.95 holds 0.88.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        if self.count < 2 {
            return [f64::NAN; 2];
        }
        let freedom = (self.count - 1) as f64;
        // The share of t² in freedom + t², by halving: how much lies beyond falls with t.
        let [mut low, mut high] = [0.0f64, 1.0];
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if incomplete_beta(freedom / 2.0, 0.5, middle) > 1.0 - level { high = middle } else { low = middle }
        }
        let t = (freedom * (1.0 - low) / low).sqrt();
        [-1.0, 1.0].map(|side| self.mean + side * t * self.standard_error)
    }

    /// The probability of a mean so far from 0, to either side, where there is no difference: Student's t with n - 1
    /// degrees of freedom. Differences that are all the same, and not 0, have 0; fewer than two have NaN.
    pub fn p(&self) -> f64 {
        if self.count < 2 || self.mean.is_nan() || self.standard_error.is_nan() {
            return f64::NAN;
        }
        if self.mean == 0.0 {
            return 1.0;
        }
        let freedom = (self.count - 1) as f64;
        let t = self.mean / self.standard_error;
        incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_share, normals};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![1.0, 2.0])), (2.0, 2.0));
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn paired_differences_have_the_p_values_of_the_tables() {
        // "Student" 1908, the sleep of ten patients under two drugs: t = 4.0621, p = 0.00283.
        let sleep = Paired::of(&[1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]);
        assert!((sleep.mean / sleep.standard_error - 4.0621).abs() < 1e-4);
        assert!((sleep.p() - 0.002_833).abs() < 1e-6, "{}", sleep.p());
        // Two-sided 5 % points of t: 12.706 with 1, 2.228 with 10, 1.962 with 1000 degrees of freedom.
        for (freedom, t) in [(1u64, 12.706), (10, 2.228), (1000, 1.962)] {
            let p = Paired { mean: -t, standard_error: 1.0, count: freedom + 1 }.p();
            assert!((p - 0.05).abs() < 1e-4, "{freedom}: {p}");
        }
    }

    #[test]
    fn intervals_of_few_are_those_of_students_tables_and_hold_the_mean() {
        for (freedom, level, t) in [(1u64, 0.95, 12.706), (3, 0.95, 3.182), (10, 0.9, 1.812), (1000, 0.95, 1.962)] {
            let [low, high] = Paired { mean: 2.0, standard_error: 0.5, count: freedom + 1 }.interval(level);
            assert!((high - 2.0 - 0.5 * t).abs() < 4e-4 && (low + high - 4.0).abs() < 1e-12, "{freedom}: {low} {high}");
        }
        let held = (0..1000).filter(|seed| {
            let [low, high] = Paired::of(&normals(*seed, 4)).interval(0.95);
            low <= 0.0 && 0.0 <= high
        });
        assert_share(held.count(), 1000, 0.95, "of four normal numbers");
        let skewed = (0..1000).filter(|seed| {
            let values: Vec<f64> =
                normals(*seed, 8).chunks(2).map(|pair| (pair[0] * pair[0] + pair[1] * pair[1]) / 2.0).collect();
            let [low, high] = Paired::of(&values).interval(0.95);
            low <= 1.0 && 1.0 <= high
        });
        assert_share(skewed.count(), 1000, 0.88, "of four exponential numbers");
        assert!(Paired::of(&[2.0]).interval(0.9)[0].is_nan());
    }

    #[test]
    fn a_normal_number_has_the_interval_and_p_value_of_the_tables() {
        let number = Estimate { value: 3.92, error: 2.0 };
        let [low, high] = number.interval(0.95);
        assert!((low - 7.2e-5).abs() < 1e-6 && (high - 7.839_928).abs() < 1e-6, "{low} {high}");
        assert!((number.p() - 0.05).abs() < 1e-5, "{}", number.p());
        assert_eq!(Estimate { value: 0.0, error: 1.0 }.p(), 1.0);
        assert!(Estimate { value: 0.0, error: 0.0 }.p().is_nan());
    }

    #[test]
    fn no_difference_and_too_few_are_told_apart() {
        assert_eq!(Paired::of(&[0.0, 0.0, 0.0]).p(), 1.0);
        assert_eq!(Paired::of(&[2.0, 2.0, 2.0]).p(), 0.0);
        assert!(Paired::of(&[2.0]).p().is_nan() && Paired::of(&[]).p().is_nan());
    }
}
