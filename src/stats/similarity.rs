//! How alike two representations of the same examples are, whatever their bases and scales.

use super::missing::Missing;

/// X Xᵀ [N, N] of features X [N, D], row by row.
///
/// # Errors
/// [`Missing`] where there are not D features of each of N examples.
pub fn gram(features: &[f64], examples: usize) -> Result<Vec<f64>, Missing> {
    if examples == 0 || !features.len().is_multiple_of(examples) {
        return Err(Missing::Lengths(examples, features.len()));
    }
    Missing::unless_finite(features)?;
    let width = features.len() / examples;
    let row = |at: usize| &features[at * width..][..width];
    let mut gram = vec![0.0; examples * examples];
    for i in 0..examples {
        for j in 0..=i {
            let product: f64 = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
            (gram[i * examples + j], gram[j * examples + i]) = (product, product);
        }
    }
    Ok(gram)
}

/// The unbiased estimate HSIC₁ of the Hilbert-Schmidt independence criterion of Gram matrices K and L [N, N] without their
/// diagonals: (tr(K L) + 1ᵀK1 1ᵀL1/((N - 1)(N - 2)) - 2 1ᵀK L1/(N - 2))/(N (N - 3)) (Song et al. 2012, equation 5). Its mean is 0
/// where features have nothing to do with each other; centring changes nothing, so none is needed. Means of it over batches are
/// unbiased too.
///
/// # Errors
/// [`Missing`] of fewer than four examples, and of matrices of other sizes.
pub fn hsic(k: &[f64], l: &[f64], examples: usize) -> Result<f64, Missing> {
    Missing::unless_enough("examples", examples, 4)?;
    if let Some(other) = [k, l].iter().find(|gram| gram.len() != examples * examples) {
        return Err(Missing::Lengths(examples * examples, other.len()));
    }
    let (mut product, mut sums) = (0.0, [0.0; 2]);
    let mut rows = 0.0;
    for i in 0..examples {
        let mut of_row = [0.0; 2];
        for j in (0..examples).filter(|j| *j != i) {
            let [k, l] = [k, l].map(|gram| gram[i * examples + j]);
            product += k * l;
            of_row = [of_row[0] + k, of_row[1] + l];
        }
        rows += of_row[0] * of_row[1];
        sums = [sums[0] + of_row[0], sums[1] + of_row[1]];
    }
    let n = examples as f64;
    let sum = product + sums[0] * sums[1] / ((n - 1.0) * (n - 2.0)) - 2.0 * rows / (n - 2.0);
    Ok(sum / (n * (n - 3.0)))
}

/// Linear centred kernel alignment of two Gram matrices, HSIC₁(K, L)/√(HSIC₁(K, K) HSIC₁(L, L)): 1 of representations that
/// are the same but for rotation and scale, and 0 in the mean of those that have nothing to do with each other, however many
/// features they have; the biased estimate is near 1 there as soon as features outnumber examples (Nguyen, Raghu and Kornblith
/// 2021). Below 0 by chance only.
///
/// ```
/// use thermoscope::stats::{cka, gram};
///
/// let x = [1.0, 0.2, -0.3, 1.1, 0.8, -0.9, -1.0, 0.4, 0.1, 0.0]; // five examples of two features
/// let turned: Vec<f64> = x.chunks(2).flat_map(|of| [3.0 * of[1], -3.0 * of[0]]).collect();
/// assert!((cka(&gram(&x, 5)?, &gram(&turned, 5)?, 5)? - 1.0).abs() < 1e-12);
/// # Ok::<(), thermoscope::stats::Missing>(())
/// ```
///
/// # Errors
/// [`Missing`], see [`hsic`], and where a representation is the same for all examples or has no spread beyond chance.
pub fn cka(k: &[f64], l: &[f64], examples: usize) -> Result<f64, Missing> {
    let [own, other] = [hsic(k, k, examples)?, hsic(l, l, examples)?];
    // Rounding leaves about so much of what does not vary.
    let least = |gram: &[f64]| 1e-14 * gram.iter().map(|value| value * value).sum::<f64>() / gram.len() as f64;
    for (at, (own, gram)) in [(own, k), (other, l)].into_iter().enumerate() {
        if own.is_nan() || own <= least(gram) {
            return Err(Missing::Constant(at));
        }
    }
    Ok(hsic(k, l, examples)? / (own * other).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::normals;
    use crate::stats::golden::{assert_same, each, golden, number, numbers};

    #[test]
    fn it_is_the_published_formula() {
        for case in each(&golden("similarity")) {
            let examples = number(&case["examples"]) as usize;
            let [k, l] = ["x", "y"].map(|name| gram(&numbers(&case[name]), examples).unwrap());
            assert_same(hsic(&k, &l, examples).unwrap(), number(&case["hsic"]), "HSIC");
            assert_same(cka(&k, &l, examples).unwrap(), number(&case["cka"]), "CKA");
        }
    }

    #[test]
    fn it_is_the_mean_over_all_fours_of_examples() {
        // Song et al. 2012, theorem 2: k_ij l_ij + k_ij l_qr - 2 k_ij l_iq, over all ordered i, j, q, r that differ.
        let examples = 7;
        let [k, l] = [1, 2].map(|seed| gram(&normals(seed, examples * 3), examples).unwrap());
        let (mut sum, mut count) = (0.0, 0.0);
        for fours in 0..examples.pow(4) {
            let [i, j, q, r] = [0, 1, 2, 3].map(|place| fours / examples.pow(place) % examples);
            if [i == j, i == q, i == r, j == q, j == r, q == r].contains(&true) {
                continue;
            }
            let at = |gram: &[f64], a: usize, b: usize| gram[a * examples + b];
            sum += at(&k, i, j) * (at(&l, i, j) + at(&l, q, r) - 2.0 * at(&l, i, q));
            count += 1.0;
        }
        assert_same(hsic(&k, &l, examples).unwrap(), sum / count, "HSIC");
    }

    #[test]
    fn strangers_are_not_alike_however_many_features_they_have() {
        let (examples, width) = (20, 200);
        let found: Vec<f64> = (0..40)
            .map(|seed| {
                let [k, l] = [seed, seed + 100].map(|seed| gram(&normals(seed, examples * width), examples).unwrap());
                cka(&k, &l, examples).unwrap()
            })
            .collect();
        let mean = found.iter().sum::<f64>() / 40.0;
        let squares: f64 = found.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / 39.0 / 40.0).sqrt();
        assert!(mean.abs() < 4.0 * error && error < 0.05, "{mean} ± {error}");
    }

    #[test]
    fn neither_basis_nor_scale_nor_shift_matters_and_what_does_not_vary_is_refused() {
        let x = normals(1, 60);
        let y: Vec<f64> = x.iter().zip(normals(2, 60)).map(|(x, e)| x + 0.7 * e).collect();
        let of = |x: &[f64], y: &[f64]| cka(&gram(x, 20).unwrap(), &gram(y, 20).unwrap(), 20);
        let plain = of(&x, &y).unwrap();
        let (c, s) = (0.6, 0.8);
        let other: Vec<f64> = y
            .chunks(3)
            .flat_map(|of| [5.0 * (c * of[0] - s * of[1]) + 9.0, 5.0 * (s * of[0] + c * of[1]) - 2.0, 5.0 * of[2]])
            .collect();
        assert!((of(&x, &other).unwrap() - plain).abs() < 1e-10 && plain < 1.0 && plain > 0.2, "{plain}");
        assert_same(of(&x, &x).unwrap(), 1.0, "of itself");
        let same: Vec<f64> = (0..60).map(|at| [0.1, 2.0, -3.0][at % 3]).collect();
        assert_eq!(of(&x, &same), Err(Missing::Constant(1)));
        assert!(gram(&x, 7).is_err() && gram(&[], 0).is_err() && hsic(&[0.0; 9], &[0.0; 9], 3).is_err());
        assert!(hsic(&[0.0; 16], &[0.0; 25], 4).is_err());
    }
}
