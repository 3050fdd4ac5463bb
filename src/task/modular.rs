//! Arithmetic modulo p: tokens a, b, =; the answer is asked for at the last position.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use crate::error::{Error, Result, check_between};
use crate::model::ReadOut;

/// What is computed of a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// a + b.
    Add,
    /// a - b.
    Subtract,
    /// a b.
    Multiply,
    /// a / b for b other than 0, p being prime.
    Divide,
    /// a² + a b + b².
    Quadratic,
    /// a³ + a b.
    Cubic,
}

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Modular {
    kind: String,
    /// What is computed. Default add.
    #[serde(default = "default_operation")]
    pub operation: Operation,
    /// The modulus, from 3 to 257.
    pub p: u32,
    /// Share of the pairs that is trained on. Default 0.3.
    #[serde(default = "default_fraction")]
    pub train_fraction: f64,
    /// Whether the operation has a token of its own: a, ∘, b, = as in Power et al. 2022. Default false.
    #[serde(default)]
    pub operator_token: bool,
    /// Instead of a random split: a JSON file with the list of pairs [a, b] to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_pairs: Option<PathBuf>,
}

fn default_operation() -> Operation {
    Operation::Add
}

fn default_fraction() -> f64 {
    0.3
}

/// Elements of a cyclic group of `order` elements, written additively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cyclic {
    /// Number of elements n.
    pub order: usize,
    /// Element of each operand token; `None` for tokens outside of the group.
    pub tokens: Vec<Option<usize>>,
    /// Element of each answer class.
    pub classes: Vec<Option<usize>>,
}

impl Modular {
    /// The task with everything else at its default.
    pub fn new(operation: Operation, p: u32) -> Self {
        Self {
            kind: "modular".to_owned(),
            operation,
            p,
            train_fraction: default_fraction(),
            operator_token: false,
            train_pairs: None,
        }
    }

    fn check(&self) -> Result<()> {
        check_between("task.p", self.p, 3..=257)?;
        if self.operation == Operation::Divide && !is_prime(self.p) {
            return Err(Error::Config(format!("task.p = {} must be prime to divide modulo p", self.p)));
        }
        if self.train_pairs.is_none() {
            check_fraction("task.train_fraction", self.train_fraction)?;
        }
        Ok(())
    }

    fn answer(&self, a: u32, b: u32) -> Option<u32> {
        let (p, a, b) = (u64::from(self.p), u64::from(a), u64::from(b));
        let answer = match self.operation {
            Operation::Add => a + b,
            Operation::Subtract => a + p - b,
            Operation::Multiply => a * b,
            Operation::Divide if b == 0 => return None,
            Operation::Divide => a * power(b, p - 2, p),
            Operation::Quadratic => a * a + a * b + b * b,
            Operation::Cubic => a * a * a + a * b,
        };
        Some((answer % p) as u32)
    }

    /// Every pair with an answer, in order.
    fn pairs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        (0..self.p * self.p).filter_map(|at| {
            let (a, b) = (at / self.p, at % self.p);
            self.answer(a, b).map(|c| (a, b, c))
        })
    }

    fn read_pairs(&self, path: &PathBuf) -> Result<Vec<u32>> {
        let text = std::fs::read(path).map_err(Error::io("cannot read", path))?;
        let pairs: Vec<[u32; 2]> = crate::files::json(path, &text, "a JSON list of pairs [a, b]")?;
        let numbers: std::collections::HashMap<[u32; 2], u32> =
            self.pairs().enumerate().map(|(at, (a, b, _))| ([a, b], at as u32)).collect();
        let mut seen = std::collections::HashSet::new();
        pairs
            .into_iter()
            .map(|pair| {
                let id = numbers.get(&pair).copied().ok_or_else(|| {
                    Error::format(path, format!("{pair:?} is no pair of this task: both must lie below p = {}", self.p))
                })?;
                if !seen.insert(id) {
                    return Err(Error::format(path, format!("{pair:?} appears twice")));
                }
                Ok(id)
            })
            .collect()
    }
}

/// The tokens of a ∘ b =, where `equals` is the token of = and the next one that of ∘.
pub(super) fn written(a: u32, b: u32, equals: u32, operator: bool) -> impl Iterator<Item = u32> {
    [Some(a), operator.then_some(equals + 1), Some(b), Some(equals)].into_iter().flatten()
}

impl Task for Modular {
    fn shape(&self) -> TaskShape {
        let p = self.p as usize;
        let extra = usize::from(self.operator_token);
        TaskShape { d_vocab: p + 1 + extra, classes: p, seq: 3 + extra, read: ReadOut::Last }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        self.check()?;
        let mut tokens = Vec::new();
        let mut targets = Vec::new();
        for (a, b, c) in self.pairs() {
            tokens.extend(written(a, b, self.p, self.operator_token));
            targets.push(c);
        }
        let count = targets.len();
        let explicit = self.train_pairs.as_ref().map(|path| self.read_pairs(path)).transpose()?;
        let splits = replicas
            .iter()
            .map(|replica| match (&explicit, replica.train_fraction) {
                (Some(train), None) => Split::explicit(count, train.clone(), self.train_pairs.as_deref()),
                (_, fraction) => {
                    let fraction = fraction.unwrap_or(self.train_fraction);
                    check_fraction("train_fraction", fraction)?;
                    Split::random(count, fraction, replica.seed)
                }
            })
            .collect::<Result<_>>()?;
        Ok(Feed::Examples(Examples::new(tokens, self.shape().seq, targets, 1, splits)))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.train_pairs.iter().cloned().collect()
    }

    fn cyclic(&self) -> Option<Cyclic> {
        let p = self.p as usize;
        match self.operation {
            Operation::Add | Operation::Subtract => {
                let all: Vec<Option<usize>> = (0..p).map(Some).collect();
                Some(Cyclic { order: p, tokens: all.clone(), classes: all })
            }
            Operation::Multiply | Operation::Divide if is_prime(self.p) => {
                // In discrete logarithms, products are sums.
                let mut logs = vec![None; p];
                let root = primitive_root(self.p);
                let mut power = 1u64;
                for exponent in 0..p - 1 {
                    logs[power as usize] = Some(exponent);
                    power = power * u64::from(root) % u64::from(self.p);
                }
                Some(Cyclic { order: p - 1, tokens: logs.clone(), classes: logs })
            }
            _ => None,
        }
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn power(base: u64, exponent: u64, modulus: u64) -> u64 {
    (0..exponent).fold(1, |product, _| product * base % modulus)
}

/// The smallest generator of the multiplicative group modulo a prime.
fn primitive_root(p: u32) -> u32 {
    let order = |g: u32| {
        let mut value = u64::from(g);
        (1..p).find(|_| {
            let done = value == 1;
            value = value * u64::from(g) % u64::from(p);
            done
        })
    };
    (1..p).find(|g| order(*g) == Some(p - 1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_right() {
        assert_eq!(Modular::new(Operation::Add, 7).answer(5, 4), Some(2));
        assert_eq!(Modular::new(Operation::Subtract, 7).answer(2, 4), Some(5));
        assert_eq!(Modular::new(Operation::Quadratic, 7).answer(2, 3), Some(5));
        assert_eq!(Modular::new(Operation::Cubic, 7).answer(2, 3), Some(0));
        for a in 0..13 {
            for b in 1..13 {
                let c = Modular::new(Operation::Divide, 13).answer(a, b).unwrap();
                assert_eq!(Modular::new(Operation::Multiply, 13).answer(c, b), Some(a));
            }
            assert_eq!(Modular::new(Operation::Divide, 13).answer(a, 0), None);
        }
    }

    #[test]
    fn the_group_turns_the_operation_into_addition() {
        for operation in [Operation::Add, Operation::Subtract, Operation::Multiply, Operation::Divide] {
            let task = Modular::new(operation, 11);
            let group = task.cyclic().unwrap();
            for (a, b, c) in task.pairs() {
                let of = |t: u32| group.tokens[t as usize];
                let (Some(x), Some(y), Some(z)) = (of(a), of(b), group.classes[c as usize]) else { continue };
                let expected = match operation {
                    Operation::Subtract | Operation::Divide => x + group.order - y,
                    _ => x + y,
                };
                assert_eq!(expected % group.order, z, "{operation:?} {a} {b}");
            }
        }
        assert!(Modular::new(Operation::Cubic, 11).cyclic().is_none());
    }

    #[test]
    fn the_operation_may_have_a_token() {
        for (operator_token, expected) in [(false, vec![2, 3, 5]), (true, vec![2, 6, 3, 5])] {
            let task = Modular { operator_token, ..Modular::new(Operation::Add, 5) };
            let one = [ReplicaData::new(0)];
            let Feed::Examples(examples) = task.feed(&one).unwrap() else { panic!("examples expected") };
            let (seq, all) = (task.shape().seq, &examples.tokens);
            assert_eq!((all[13 * seq..][..seq].to_vec(), examples.len()), (expected, 25));
            assert_eq!(all.iter().max().map(|t| *t as usize + 1), Some(task.shape().d_vocab));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let one = [ReplicaData::new(0)];
        assert!(Modular::new(Operation::Add, 2).feed(&one).is_err());
        assert!(Modular::new(Operation::Add, 258).feed(&one).is_err());
        assert!(Modular::new(Operation::Divide, 9).feed(&one).is_err());
        for fraction in [0.0, 1.0, f64::NAN] {
            assert!(Modular { train_fraction: fraction, ..Modular::new(Operation::Add, 7) }.feed(&one).is_err());
        }
    }
}
