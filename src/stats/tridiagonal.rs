//! Eigenvalues and eigenvectors of small symmetric tridiagonal matrices, which Lanczos's method leaves behind.

use super::Missing;

/// Eigenvalues in ascending order, each with its eigenvector of length 1.
pub struct Eigen {
    /// Eigenvalues.
    pub values: Vec<f64>,
    /// Eigenvectors, in the order of the values.
    pub vectors: Vec<Vec<f64>>,
}

/// How often an eigenvalue is sought anew before it is given up; two or three times do, as a rule.
const ROUNDS: usize = 60;

/// Of the matrix with this diagonal `[n]` and, beside it on both sides, these `[n - 1]`: by QL with implicit shifts (Bowdler,
/// Martin, Reinsch and Wilkinson 1968, `tql2`). Absolute errors are some roundings of the largest eigenvalue.
///
/// # Errors
/// [`Missing`] where a number is not finite.
pub fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> Result<Eigen, Missing> {
    let n = diagonal.len();
    let mut d = diagonal.to_vec();
    let mut e = beside[..n.saturating_sub(1)].to_vec();
    e.push(0.0);
    Missing::unless_finite(&d)?;
    Missing::unless_finite(&e)?;
    // Row i of `z` is eigenvector i.
    let mut z: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(i == j)).collect()).collect();
    for l in 0..n {
        for round in 0.. {
            let small = |i: &usize| e[*i].abs() <= f64::EPSILON * (d[*i].abs() + d[*i + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if round == ROUNDS {
                return Err(Missing::Because("the eigenvalues of a small matrix do not settle"));
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut broken = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    broken = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (low, high) = z.split_at_mut(i + 1);
                for (a, b) in low[i].iter_mut().zip(&mut high[0]) {
                    (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
                }
            }
            if !broken {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| d[*a].total_cmp(&d[*b]));
    Ok(Eigen {
        values: order.iter().map(|at| d[*at]).collect(),
        vectors: order.iter().map(|at| std::mem::take(&mut z[*at])).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::normals;

    #[test]
    fn constant_diagonals_have_the_known_spectrum() {
        for n in [1, 2, 3, 31, 64, 257] {
            let found = tridiagonal(&vec![0.5; n], &vec![1.0; n - 1]).unwrap();
            for (k, value) in found.values.iter().enumerate() {
                let angle = std::f64::consts::PI * (n - k) as f64 / (n + 1) as f64;
                assert!((value - 0.5 - 2.0 * angle.cos()).abs() < 1e-13, "{k} of {n}: {value}");
            }
        }
    }

    #[test]
    fn eigenvectors_are_eigenvectors_and_at_right_angles() {
        for n in [1, 2, 3, 17, 64] {
            let (d, e) = (normals(n as u64, n), normals(100 + n as u64, n));
            // One matrix that falls into two, and one with a twin of an eigenvalue.
            let mut apart = e[..n - 1].to_vec();
            if n > 2 {
                apart[n / 2] = 0.0;
            }
            for (d, e) in [(d.clone(), e[..n - 1].to_vec()), (d, apart), (vec![2.0; n], vec![0.0; n - 1])] {
                let found = tridiagonal(&d, &e).unwrap();
                assert!(found.values.is_sorted());
                for (value, vector) in found.values.iter().zip(&found.vectors) {
                    for i in 0..n {
                        let below = if i > 0 { e[i - 1] * vector[i - 1] } else { 0.0 };
                        let above = if i + 1 < n { e[i] * vector[i + 1] } else { 0.0 };
                        assert!((below + d[i] * vector[i] + above - value * vector[i]).abs() < 1e-13);
                    }
                }
                for (i, a) in found.vectors.iter().enumerate() {
                    for (j, b) in found.vectors.iter().enumerate() {
                        let along: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                        assert!((along - f64::from(i == j)).abs() < 1e-13, "{i} and {j} of {n}: {along}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_has_no_spectrum() {
        assert!(tridiagonal(&[1.0, f64::NAN], &[0.0]).is_err());
        assert!(tridiagonal(&[], &[]).unwrap().values.is_empty());
    }
}
