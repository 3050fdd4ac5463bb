//! p-values, and discoveries among many of them.

use super::special::incomplete_beta;

/// The p-value of what `reached` of `draws` draws from the null reach too: (1 + reached)/(draws + 1), which is never 0
/// and never too small (Phipson and Smyth 2010).
pub fn add_one(reached: usize, draws: usize) -> f64 {
    (reached + 1) as f64 / (draws + 1) as f64
}

/// The p-value of an effect from those of either direction: that of its own, twice, for it was chosen by looking.
pub fn two_sided(effect: f64, raised: f64, lowered: f64) -> f64 {
    (2.0 * if effect > 0.0 { raised } else { lowered }).min(1.0)
}

/// The p-values of several tests, each as the least rate of false discoveries at which it is one (Benjamini and Hochberg 1995):
/// the least m p_(j)/j of those not below it.
pub fn adjusted(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut least = 1.0f64;
    let mut q = vec![1.0; p.len()];
    for (rank, at) in order.iter().enumerate().rev() {
        least = least.min(p[*at] * p.len() as f64 / (rank + 1) as f64);
        q[*at] = least;
    }
    q
}

/// The greatest p-value that Benjamini and Hochberg reject at a false discovery rate: of those whose [`adjusted`] one is at most
/// that; `None` where there is none.
pub fn false_discovery_threshold(p: &[f64], rate: f64) -> Option<f64> {
    let rejected = adjusted(p).into_iter().zip(p).filter(|(q, _)| *q <= rate).map(|(_, p)| *p);
    rejected.max_by(f64::total_cmp)
}

/// The probability of `hits` or more among `trials` independent ones that hit with probability `chance`.
pub fn at_least(hits: u64, trials: u64, chance: f64) -> f64 {
    match hits {
        0 => 1.0,
        _ if hits > trials => 0.0,
        _ => incomplete_beta(hits as f64, (trials - hits + 1) as f64, chance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_same, each, golden, numbers};

    #[test]
    fn the_threshold_is_that_of_the_published_example() {
        // Benjamini and Hochberg 1995, section 3.2: fifteen p-values, four of which are rejected at 0.05.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        assert_eq!(false_discovery_threshold(&p, 0.05), Some(0.0095));
        assert_eq!(false_discovery_threshold(&[0.2, 0.9], 0.05), None);
        assert_eq!(false_discovery_threshold(&[], 0.05), None);
        // The same four, by adjusted p-values: 0.0095 is the fourth of fifteen.
        let q = adjusted(&p);
        assert_eq!(q.iter().filter(|q| **q <= 0.05).count(), 4);
        assert!((q[3] - 0.0095 * 15.0 / 4.0).abs() < 1e-12 && q[14] == 1.0);
        for case in each(&golden("orders")["discoveries"]) {
            let q = adjusted(&numbers(&case["p"]));
            q.iter().zip(numbers(&case["q"])).for_each(|(own, scipy)| assert_same(*own, scipy, "adjusted"));
        }
        // The order does not matter, and none is below one with a smaller p.
        assert_eq!(adjusted(&[0.9, 0.01, 0.011]), [0.9, 0.0165, 0.0165]);
    }

    #[test]
    fn p_values_count_the_observation_and_both_sides() {
        assert_eq!((add_one(0, 199), add_one(199, 199)), (0.005, 1.0));
        assert_eq!((two_sided(1.0, 0.01, 0.99), two_sided(-1.0, 0.3, 0.7), two_sided(0.0, 1.0, 1.0)), (0.02, 1.0, 1.0));
        // Three coins, all heads.
        assert!((at_least(3, 3, 0.5) - 0.125).abs() < 1e-15);
        assert_eq!((at_least(0, 3, 0.5), at_least(4, 3, 0.5)), (1.0, 0.0));
    }
}
