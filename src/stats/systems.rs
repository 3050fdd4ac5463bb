//! Small symmetric systems of equations.

/// The factor L of a symmetric matrix that is not negative, P A Pᵀ = L Lᵀ, with the greatest pivot first, so that it ends where
/// the matrix has no more to say.
pub(super) struct Cholesky {
    size: usize,
    /// Rows of A, in the order in which they were taken.
    order: Vec<usize>,
    /// L [n, n], row by row.
    factor: Vec<f64>,
    /// How many rows are independent of each other.
    pub(super) rank: usize,
}

impl Cholesky {
    /// Of A [n, n]. A row counts as dependent where less than 1e-10 of the greatest is left of its pivot.
    pub(super) fn of(matrix: &[f64], size: usize) -> Self {
        let mut rest = matrix.to_vec();
        let mut order: Vec<usize> = (0..size).collect();
        let mut factor = vec![0.0; size * size];
        let greatest = (0..size).map(|i| rest[i * size + i]).fold(0.0, f64::max);
        let mut rank = 0;
        while rank < size {
            let pivot = |i: &usize| rest[order[*i] * size + order[*i]];
            let Some(best) = (rank..size).max_by(|a, b| pivot(a).total_cmp(&pivot(b))) else { break };
            let left = pivot(&best);
            // A pivot that is no number ends it too.
            if left.is_nan() || left <= 1e-10 * greatest {
                break;
            }
            order.swap(rank, best);
            for column in 0..rank {
                factor.swap(rank * size + column, best * size + column);
            }
            let root = left.sqrt();
            factor[rank * size + rank] = root;
            for row in rank + 1..size {
                factor[row * size + rank] = rest[order[row] * size + order[rank]] / root;
            }
            for row in rank + 1..size {
                for column in rank + 1..size {
                    rest[order[row] * size + order[column]] -= factor[row * size + rank] * factor[column * size + rank];
                }
            }
            rank += 1;
        }
        Self { size, order, factor, rank }
    }

    /// A solution x of A x = b; zero in the rows that depend on others.
    pub(super) fn solve(&self, right: &[f64]) -> Vec<f64> {
        let at = |row: usize, column: usize| self.factor[row * self.size + column];
        let mut x: Vec<f64> = self.order[..self.rank].iter().map(|row| right[*row]).collect();
        for row in 0..self.rank {
            let known: f64 = (0..row).map(|column| at(row, column) * x[column]).sum();
            x[row] = (x[row] - known) / at(row, row);
        }
        for row in (0..self.rank).rev() {
            let known: f64 = (row + 1..self.rank).map(|other| at(other, row) * x[other]).sum();
            x[row] = (x[row] - known) / at(row, row);
        }
        let mut solution = vec![0.0; self.size];
        self.order.iter().zip(x).for_each(|(row, x)| solution[*row] = x);
        solution
    }

    /// The entries of the inverse's diagonal; `None` where rows depend on others.
    pub(super) fn inverse_diagonal(&self) -> Option<Vec<f64>> {
        let unit = |at: usize| (0..self.size).map(|i| f64::from(i == at)).collect::<Vec<_>>();
        (self.rank == self.size).then(|| (0..self.size).map(|at| self.solve(&unit(at))[at]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::draws::tests::normals;

    #[test]
    fn solutions_solve_and_dependent_rows_are_counted() {
        for (size, rank) in [(1, 1), (3, 3), (4, 2), (6, 5)] {
            let b = normals(size as u64, size * rank);
            let matrix: Vec<f64> = (0..size * size)
                .map(|at| (0..rank).map(|k| b[at / size * rank + k] * b[at % size * rank + k]).sum())
                .collect();
            let times = |x: &[f64]| -> Vec<f64> {
                (0..size).map(|row| (0..size).map(|column| matrix[row * size + column] * x[column]).sum()).collect()
            };
            let right = times(&normals(99, size));
            let found = Cholesky::of(&matrix, size);
            assert_eq!(found.rank, rank);
            let back = times(&found.solve(&right));
            for (back, right) in back.iter().zip(&right) {
                assert!((back - right).abs() < 1e-9 * right.abs().max(1.0), "{back} for {right}");
            }
            assert_eq!(found.inverse_diagonal().is_some(), rank == size);
        }
        let diagonal = Cholesky::of(&[2.0, 1.0, 1.0, 3.0], 2).inverse_diagonal().unwrap();
        assert!((diagonal[0] - 0.6).abs() < 1e-15 && (diagonal[1] - 0.4).abs() < 1e-15);
        assert_eq!(Cholesky::of(&[0.0, 0.0, 0.0, 0.0], 2).rank, 0);
        assert_eq!(Cholesky::of(&[f64::NAN; 4], 2).rank, 0);
    }
}
