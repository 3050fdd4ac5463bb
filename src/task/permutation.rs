//! Composition of permutations: tokens a, b, =; the product a b is asked for at the last position.

use serde::{Deserialize, Serialize};

use super::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use crate::error::{Result, check_between};
use crate::model::ReadOut;

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permutation {
    /// `"permutation"`.
    pub kind: String,
    /// Permuted things, from 3 to 5: the group S_n has n! elements. Default 5.
    #[serde(default = "default_n")]
    pub n: u32,
    /// Share of the pairs that is trained on. Default 0.5.
    #[serde(default = "default_fraction")]
    pub train_fraction: f64,
}

fn default_n() -> u32 {
    5
}

fn default_fraction() -> f64 {
    0.5
}

/// All permutations of 0..n in lexicographic order.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    (0..n)
        .flat_map(|first| {
            permutations(n - 1).into_iter().map(move |rest| {
                std::iter::once(first).chain(rest.into_iter().map(|x| if x < first { x } else { x + 1 })).collect()
            })
        })
        .collect()
}

impl Task for Permutation {
    fn shape(&self) -> TaskShape {
        let order: u32 = (1..=self.n.min(6)).product();
        TaskShape { d_vocab: order as usize + 1, classes: order as usize, seq: 3, read: ReadOut::Last }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        check_between("task.n", self.n, 3..=5)?;
        check_fraction("task.train_fraction", self.train_fraction)?;
        let elements = permutations(self.n as usize);
        let order = elements.len() as u32;
        let numbers: std::collections::HashMap<&[usize], u32> =
            elements.iter().zip(0..).map(|(element, at)| (element.as_slice(), at)).collect();
        let mut tokens = Vec::new();
        let mut targets = Vec::new();
        for (a, left) in (0..).zip(&elements) {
            for (b, right) in (0..).zip(&elements) {
                // (a b)(x) = a(b(x)).
                let product: Vec<usize> = right.iter().map(|x| left[*x]).collect();
                tokens.extend([a, b, order]);
                targets.push(numbers[product.as_slice()]);
            }
        }
        let count = targets.len();
        let splits = replicas
            .iter()
            .map(|replica| {
                let fraction = replica.train_fraction.unwrap_or(self.train_fraction);
                check_fraction("train_fraction", fraction)?;
                Split::random(count, fraction, replica.seed)
            })
            .collect::<Result<_>>()?;
        Ok(Feed::Examples(Examples { tokens, seq: 3, targets, width: 1, splits }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_a_group() {
        let task = Permutation { kind: "permutation".to_owned(), n: 4, train_fraction: 0.5 };
        let Feed::Examples(examples) = task.feed(&[ReplicaData { seed: 0, train_fraction: None }]).unwrap() else {
            panic!("examples expected")
        };
        let order = 24;
        let product = |a: usize, b: usize| examples.targets[a * order + b] as usize;
        assert_eq!(examples.len(), order * order);
        // The identity comes first; every row holds each element once; the product is associative.
        for a in 0..order {
            assert_eq!((product(0, a), product(a, 0)), (a, a));
            let mut row: Vec<usize> = (0..order).map(|b| product(a, b)).collect();
            row.sort_unstable();
            assert!(row.into_iter().eq(0..order));
            for b in (0..order).step_by(5) {
                assert_eq!(product(product(a, b), 17), product(a, product(b, 17)));
            }
        }
    }
}
