//! Chains that draw from one distribution: do they agree, and what is their mean worth.

use super::errors::Estimate;
use super::missing::Missing;

/// What draws of one number say that several chains made, each draw out of the one before.
///
/// Chains are cut in halves first, so that one that still drifts disagrees with itself (Gelman et al. 2013, section 11.4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chains {
    /// The mean of all draws. Its error is their standard deviation over the root of `effective`; it knows nothing of a bias that
    /// all chains share.
    pub mean: Estimate,
    /// Split R-hat: the standard deviation of all draws over that within half-chains. It is 1 where all agree; Vehtari et al. (2021)
    /// trust draws below 1.01. It compares means: chains that differ in their spread alone have 1 too.
    pub r_hat: f64,
    /// The number of independent draws whose mean would be as sure (Geyer 1992's initial monotone sequence over split chains, as
    /// in Vehtari et al. 2021, section 3). More than there are where draws alternate around the mean, n log10 n at most.
    pub effective: f64,
}

impl Chains {
    /// Of chains of equal length, of 8 draws or more each; of an odd number the one in the middle is left out, but for the mean.
    /// One chain will do, though it cannot show that others would end elsewhere. Nothing is said of draws that are all the same.
    pub fn of<C: AsRef<[f64]>>(chains: &[C]) -> Result<Self, Missing> {
        Missing::unless_enough("chains", chains.len(), 1)?;
        let length = chains[0].as_ref().len();
        Missing::unless_enough("draws of a chain", length, 8)?;
        for chain in chains {
            if chain.as_ref().len() != length {
                return Err(Missing::Lengths(length, chain.as_ref().len()));
            }
        }
        let all: Vec<f64> = chains.iter().flat_map(|chain| chain.as_ref()).copied().collect();
        Missing::unless_finite(&all)?;
        let half = length / 2;
        let halves: Vec<&[f64]> =
            chains.iter().flat_map(|chain| [&chain.as_ref()[..half], &chain.as_ref()[length - half..]]).collect();
        let (mean, variance) = moments(&all);
        let (means, variances): (Vec<f64>, Vec<f64>) = halves.iter().map(|half| moments(half)).unzip();
        let within = moments(&variances).0;
        // What the mean of numbers that are all the same is off by.
        if within <= (4.0 * f64::EPSILON * mean).powi(2) {
            return Err(Missing::Constant(0));
        }
        let n = half as f64;
        let total = within * (n - 1.0) / n + moments(&means).1;
        let correlation = |lag: usize| {
            let product = |(half, mean): (&&[f64], &f64)| {
                half.iter().zip(&half[lag..]).map(|(now, later)| (now - mean) * (later - mean)).sum::<f64>() / n
            };
            let shared = halves.iter().zip(&means).map(product).sum::<f64>() / halves.len() as f64;
            1.0 - (within - shared) / total
        };
        let draws = n * halves.len() as f64;
        let effective = draws / correlation_time(half, correlation).max(1.0 / draws.log10());
        let mean = Estimate { value: mean, error: (variance / effective).sqrt() };
        Ok(Self { mean, r_hat: (total / within).sqrt(), effective })
    }
}

/// Mean, and variance with n - 1.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (values.len() as f64 - 1.0))
}

/// 1 + 2 Σ ρ(lag) of a series of `length`. Pairs ρ(2k) + ρ(2k + 1) of a reversible chain are positive and fall with k: the sum ends
/// before the first that is not positive, which is noise, and pairs that rise count as much as the one before. Of the lag behind
/// the last pair what is positive counts once, which halves the variance where draws alternate.
fn correlation_time(length: usize, correlation: impl Fn(usize) -> f64) -> f64 {
    let (mut sum, mut least) = (0.0, f64::INFINITY);
    let mut even = 1.0;
    let mut odd = correlation(1);
    let mut lag = 2;
    while lag + 2 < length && even + odd > 0.0 {
        least = least.min(even + odd);
        sum += least;
        (even, odd) = (correlation(lag), correlation(lag + 1));
        lag += 2;
    }
    2.0 * sum - 1.0 + even.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::{assert_share, normals, wandering};
    use crate::stats::golden::{assert_same, each, golden, number, numbers};

    #[test]
    fn chains_are_worth_what_arviz_says() {
        let cases = golden("chains");
        assert_eq!(each(&cases).len(), 6);
        for case in each(&cases) {
            let chains: Vec<Vec<f64>> = each(&case["chains"]).iter().map(numbers).collect();
            let found = Chains::of(&chains).unwrap();
            assert_same(found.r_hat, number(&case["r_hat"]), "R-hat");
            assert_same(found.effective, number(&case["effective"]), "effective draws");
            assert_same(found.mean.value, number(&case["mean"]), "mean");
            assert_same(found.mean.error, number(&case["error"]), "error");
        }
    }

    /// `count` chains of 400 draws, each of which hands on so much.
    fn chains(seed: u64, count: u64, correlation: f64) -> Vec<Vec<f64>> {
        (0..count).map(|chain| wandering(1000 * seed + chain, 400, correlation)).collect()
    }

    #[test]
    fn the_mean_is_as_sure_as_it_says() {
        for correlation in [0.0, 0.8, -0.5] {
            let found: Vec<Chains> = (0..200).map(|seed| Chains::of(&chains(seed, 4, correlation)).unwrap()).collect();
            let held = found.iter().filter(|found| found.mean.value.abs() < 1.96 * found.mean.error).count();
            assert_share(held, 200, 0.95, "means within their intervals");
            // Of a first-order autoregression n (1 - ρ)/(1 + ρ) count. Noise in the correlations moves one over their sum by up to
            // 4 % here, as a mean of 200 shows that is known to 1 %; twice that is allowed.
            let expected = 1600.0 * (1.0 - correlation) / (1.0 + correlation);
            let mean = found.iter().map(|found| found.effective).sum::<f64>() / 200.0;
            assert!((0.92..1.08).contains(&(mean / expected)), "{mean} for {expected}");
        }
    }

    #[test]
    fn chains_that_have_not_met_or_still_drift_are_told() {
        let same = (0..100).filter(|seed| Chains::of(&chains(*seed, 4, 0.0)).unwrap().r_hat < 1.01).count();
        assert!(same >= 99, "{same} of 100 that are the same");
        let mut apart = chains(1, 4, 0.5);
        apart[2].iter_mut().for_each(|draw| *draw += 2.0);
        let found = Chains::of(&apart).unwrap();
        assert!(found.r_hat > 1.2 && found.effective < 20.0, "{found:?}");
        // All drift alike, so that only their halves differ.
        let mut drifting = chains(2, 4, 0.5);
        drifting
            .iter_mut()
            .for_each(|chain| chain.iter_mut().zip(0..).for_each(|(draw, t)| *draw += 0.01 * f64::from(t)));
        assert!(Chains::of(&drifting).unwrap().r_hat > 1.2);
        assert!(Chains::of(&drifting[..1]).unwrap().r_hat > 1.2, "one chain can be seen to drift");
    }

    #[test]
    fn neither_units_nor_the_order_of_chains_matter() {
        let draws = chains(3, 3, 0.7);
        let found = Chains::of(&draws).unwrap();
        let other: Vec<Vec<f64>> =
            draws.iter().rev().map(|chain| chain.iter().map(|draw| 5.0 - 3.0 * draw).collect()).collect();
        let other = Chains::of(&other).unwrap();
        assert_same(other.r_hat, found.r_hat, "R-hat");
        assert_same(other.effective, found.effective, "effective draws");
        assert_same(other.mean.value, 5.0 - 3.0 * found.mean.value, "mean");
        assert_same(other.mean.error, 3.0 * found.mean.error, "error");
    }

    #[test]
    fn what_says_nothing_is_missing() {
        let few = Missing::TooFew { of: "draws of a chain", have: 7, need: 8 };
        assert_eq!(Chains::of(&[normals(1, 7)]), Err(few));
        assert_eq!(Chains::of::<Vec<f64>>(&[]), Err(Missing::TooFew { of: "chains", have: 0, need: 1 }));
        assert_eq!(Chains::of(&[normals(1, 9), normals(2, 8)]), Err(Missing::Lengths(9, 8)));
        let mut draws = [normals(1, 9), normals(2, 9)];
        draws[1][0] = f64::NAN;
        assert_eq!(Chains::of(&draws), Err(Missing::NotFinite(9)));
        // One that is stuck beside one that moves is told by R-hat.
        assert_eq!(Chains::of(&[[0.1; 10], [0.1; 10]]), Err(Missing::Constant(0)));
        assert!(Chains::of(&[vec![2.0; 40], normals(1, 40)]).unwrap().r_hat > 1.2);
    }
}
