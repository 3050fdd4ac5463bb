//! Composition of permutations: tokens a, b, =; the product a b is asked for at the last position.

use serde::{Deserialize, Serialize};

use super::modular::written;
use super::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use crate::error::{Result, check_between};
use crate::model::ReadOut;

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Permutation {
    kind: String,
    /// Permuted things, from 3 to 5: the group S_n has n! elements. Default 5.
    #[serde(default = "default_n")]
    pub n: u32,
    /// Share of the pairs that is trained on. Default 0.5.
    #[serde(default = "default_fraction")]
    pub train_fraction: f64,
    /// Whether the operation has a token of its own: a, ∘, b, = as in Power et al. 2022. Default false.
    #[serde(default)]
    pub operator_token: bool,
}

fn default_n() -> u32 {
    5
}

fn default_fraction() -> f64 {
    0.5
}

impl Permutation {
    /// The task with everything else at its default.
    pub fn new(n: u32) -> Self {
        Self { kind: "permutation".to_owned(), n, train_fraction: default_fraction(), operator_token: false }
    }
}

/// A finite group by the characters of its irreducible representations.
#[derive(Clone, Debug, PartialEq)]
pub struct Irreps {
    /// Character of each irrep at each element; the first irrep is the trivial one, the first element the
    /// identity.
    pub characters: Vec<Vec<f64>>,
    /// Number of x⁻¹ y, [n, n].
    pub quotients: Vec<usize>,
}

/// Irreps of S_3, S_4 and S_5 by cycle type: first the lengths of the cycles, longest first, then the
/// characters. Irreps belong to the partitions (n), (1ⁿ), (n-1, 1), (2, 1ⁿ⁻²), ...
type Characters = &'static [(&'static [usize], &'static [i8])];
/// (3), (1³), (2 1).
const S3: Characters = &[(&[1, 1, 1], &[1, 1, 2]), (&[2, 1], &[1, -1, 0]), (&[3], &[1, 1, -1])];
/// (4), (1⁴), (3 1), (2 1²), (2²).
const S4: Characters = &[
    (&[1, 1, 1, 1], &[1, 1, 3, 3, 2]),
    (&[2, 1, 1], &[1, -1, 1, -1, 0]),
    (&[2, 2], &[1, 1, -1, -1, 2]),
    (&[3, 1], &[1, 1, 0, 0, -1]),
    (&[4], &[1, -1, -1, 1, 0]),
];
/// (5), (1⁵), (4 1), (2 1³), (3 2), (2² 1), (3 1²).
const S5: Characters = &[
    (&[1, 1, 1, 1, 1], &[1, 1, 4, 4, 5, 5, 6]),
    (&[2, 1, 1, 1], &[1, -1, 2, -2, 1, -1, 0]),
    (&[2, 2, 1], &[1, 1, 0, 0, 1, 1, -2]),
    (&[3, 1, 1], &[1, 1, 1, 1, -1, -1, 0]),
    (&[3, 2], &[1, -1, -1, 1, 1, -1, 0]),
    (&[4, 1], &[1, -1, 0, 0, -1, 1, 0]),
    (&[5], &[1, 1, -1, -1, 0, 0, 1]),
];

/// Lengths of the cycles of a permutation, longest first.
fn cycle_type(permutation: &[usize]) -> Vec<usize> {
    let mut seen = vec![false; permutation.len()];
    let mut lengths = Vec::new();
    for start in 0..permutation.len() {
        let (mut at, mut length) = (start, 0);
        while !std::mem::replace(&mut seen[at], true) {
            (at, length) = (permutation[at], length + 1);
        }
        if length > 0 {
            lengths.push(length);
        }
    }
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths
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
        let extra = usize::from(self.operator_token);
        TaskShape { d_vocab: order as usize + 1 + extra, classes: order as usize, seq: 3 + extra, read: ReadOut::Last }
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
                tokens.extend(written(a, b, order, self.operator_token));
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
        Ok(Feed::Examples(Examples::new(tokens, self.shape().seq, targets, 1, splits)))
    }

    fn irreps(&self) -> Option<Irreps> {
        let table = match self.n {
            3 => S3,
            4 => S4,
            5 => S5,
            _ => return None,
        };
        let elements = permutations(self.n as usize);
        let types: Vec<Vec<usize>> = elements.iter().map(|element| cycle_type(element)).collect();
        let character = |irrep: usize, of: &Vec<usize>| {
            table.iter().find(|(cycles, _)| cycles == of).map_or(0.0, |(_, characters)| f64::from(characters[irrep]))
        };
        let numbers: std::collections::HashMap<&[usize], usize> =
            elements.iter().enumerate().map(|(at, element)| (element.as_slice(), at)).collect();
        let quotient = |x: &[usize], y: &[usize]| {
            let mut undone = vec![0; x.len()];
            x.iter().enumerate().for_each(|(from, to)| undone[*to] = from);
            let quotient: Vec<usize> = y.iter().map(|to| undone[*to]).collect();
            numbers[quotient.as_slice()]
        };
        Some(Irreps {
            characters: (0..table.len()).map(|irrep| types.iter().map(|of| character(irrep, of)).collect()).collect(),
            quotients: elements.iter().flat_map(|x| elements.iter().map(|y| quotient(x, y))).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_orthonormal_and_quotients_undo_products() {
        for n in 3..=5u32 {
            let task = Permutation::new(n);
            let group = task.irreps().unwrap();
            let order = group.characters[0].len();
            for (i, a) in group.characters.iter().enumerate() {
                for (j, b) in group.characters.iter().enumerate() {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert_eq!(product, if i == j { order as f64 } else { 0.0 }, "S{n}: {i} {j}");
                }
            }
            let Feed::Examples(examples) = task.feed(&[ReplicaData::new(0)]).unwrap() else {
                panic!("examples expected")
            };
            for x in (0..order).step_by(7) {
                for y in 0..order {
                    assert_eq!(examples.targets[x * order + group.quotients[x * order + y]], y as u32);
                }
            }
        }
    }

    #[test]
    fn the_table_is_that_of_a_group() {
        let task = Permutation::new(4);
        let Feed::Examples(examples) = task.feed(&[ReplicaData::new(0)]).unwrap() else { panic!("examples expected") };
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
