//! Distributions: the beta function behind Student's t and the binomial, the normal, and chi-squared.

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

/// The probability that a standard normal number is below x.
pub(crate) fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// The number below which a standard normal one is with probability p: Halley's iteration from Abramowitz and Stegun 26.2.23.
pub(super) fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let t = (-2.0 * p.ln()).sqrt();
    let ratio =
        (2.515_517 + t * (0.802_853 + t * 0.010_328)) / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    // From 4.5e-4 each step leaves the cube of the error: two leave rounding.
    (0..2).fold(ratio - t, |x, _| {
        let step = (normal_below(x) - p) * (std::f64::consts::TAU).sqrt() * (x * x / 2.0).exp();
        x - step / (1.0 + x * step / 2.0)
    })
}

/// The probability that chi-squared of so many degrees of freedom is x or more: a finite sum (Abramowitz and Stegun 26.4.4-5).
pub(super) fn chi_squared_above(x: f64, freedom: usize) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let half = x / 2.0;
    // e^-h h^s/Γ(s + 1) for s = 0, 1, ... or 1/2, 3/2, ...
    let first = if freedom.is_multiple_of(2) { 0.0 } else { 0.5 };
    let start = if freedom.is_multiple_of(2) { 0.0 } else { libm::erfc(half.sqrt()) };
    let term = |at: usize| {
        let s = first + at as f64;
        (s * half.ln() - half - libm::lgamma(s + 1.0)).exp()
    };
    (start + (0..freedom / 2).map(term).sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::golden::{each, golden, number};

    #[test]
    fn the_normal_and_chi_squared_are_those_of_scipy() {
        let golden = golden("special");
        for case in each(&golden["normal"]) {
            let (x, p) = (number(&case["x"]), number(&case["below"]));
            assert!((normal_below(x) / p - 1.0).abs() < 1e-13, "{x}: {} for {p}", normal_below(x));
            // Above 1, p itself is known to 1e-16 only.
            let known = if x > 1.0 { 1e-9 } else { 1e-14 };
            assert!((normal_quantile(p) - x).abs() <= known * x.abs(), "{} for {x}", normal_quantile(p));
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        for case in each(&golden["chi_squared"]) {
            let (x, freedom, p) = (number(&case["x"]), number(&case["freedom"]), number(&case["above"]));
            let own = chi_squared_above(x, freedom as usize);
            assert!((own / p - 1.0).abs() < 1e-11, "{x} {freedom}: {own} for {p}");
        }
    }

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
