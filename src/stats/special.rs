//! Two special functions.

/// The regularized incomplete beta function I_x(a, b), for a, b > 0 and x in [0, 1]: by the continued fraction of Lentz
/// (Press et al., Numerical Recipes, section 6.4), to about 1e-14 of itself.
pub(super) fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return f64::from(x >= 1.0);
    }
    // The fraction converges quickly below the mean of the distribution; above it the other tail does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let ln_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (-x).ln_1p();
    let away = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut sum = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = sum;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            sum *= c * d;
        }
        if (sum - before).abs() <= 1e-15 * sum.abs() {
            break;
        }
    }
    (ln_front.exp() * sum / a).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_incomplete_beta_function_is_a_binomial_sum() {
        // I_x(k, n - k + 1) = P(Binomial(n, x) >= k).
        for (n, k, x) in [(10u32, 3u32, 0.2f64), (40, 40, 0.9), (40, 1, 0.01), (200, 150, 0.7)] {
            let choose = |j: u32| (0..j).map(|i| f64::from(n - i) / f64::from(i + 1)).product::<f64>();
            let sum: f64 = (k..=n).map(|j| choose(j) * x.powi(j as i32) * (1.0 - x).powi((n - j) as i32)).sum();
            let found = incomplete_beta(f64::from(k), f64::from(n - k + 1), x);
            assert!((found / sum - 1.0).abs() < 1e-11, "{n} {k} {x}: {found} for {sum}");
        }
        assert_eq!((incomplete_beta(2.0, 3.0, 0.0), incomplete_beta(2.0, 3.0, 1.0)), (0.0, 1.0));
    }
}
