//! Random sequences that repeat themselves: what comes next can be known from the second round on, by
//! looking up what followed last time. Training on it makes induction heads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Sequences;
use super::{Feed, ReplicaData, Task, TaskShape};
use crate::autograd::ops::IGNORE;
use crate::error::{Error, Result, check_between};
use crate::gpu::{Philox, Stream};
use crate::model::ReadOut;

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Repeated {
    kind: String,
    /// Token ids lie below this; 0 begins every sequence and stands nowhere else. Default 64.
    #[serde(default = "default_vocab")]
    pub d_vocab: u32,
    /// Tokens of a sequence. Default 64.
    #[serde(default = "default_seq")]
    pub seq: u32,
    /// The repeated part has between `min_period` and `max_period` tokens, drawn for each sequence, so
    /// that no fixed offset tells what comes next. Default a quarter of the sequence.
    #[serde(default)]
    pub min_period: u32,
    /// See `min_period`. Default half of the sequence.
    #[serde(default)]
    pub max_period: u32,
    /// Whether the first round, which cannot be known, counts in the loss. Default false.
    #[serde(default)]
    pub loss_on_all: bool,
    /// Sequences the test loss is taken over. Default 64.
    #[serde(default = "default_test")]
    pub test_sequences: u32,
}

fn default_vocab() -> u32 {
    64
}

fn default_seq() -> u32 {
    64
}

fn default_test() -> u32 {
    64
}

impl Default for Repeated {
    fn default() -> Self {
        Self {
            kind: "repeated".to_owned(),
            d_vocab: default_vocab(),
            seq: default_seq(),
            min_period: 0,
            max_period: 0,
            loss_on_all: false,
            test_sequences: default_test(),
        }
    }
}

/// The step whose draws are the test set: no training step reaches it.
pub(super) const TEST_STEP: u32 = u32::MAX;

/// A generator of sequences, the same in Rust and in `task/repeated.wgsl`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generator {
    /// Token ids lie below this.
    pub(super) d_vocab: u32,
    /// Tokens of a sequence.
    pub(super) seq: u32,
    /// Shortest period.
    pub(super) min_period: u32,
    /// Longest period.
    pub(super) max_period: u32,
    /// Whether the first round counts.
    pub(super) loss_on_all: bool,
    /// Sequences of the test set.
    pub(super) test_sequences: u32,
}

impl Generator {
    /// Tokens and targets of one sequence. Position 0 holds token 0; position t > 0 holds the random
    /// token number (t - 1) mod period. Targets are the next token, where it was seen before.
    pub(super) fn sequence(&self, seed: u64, step: u32, number: u32) -> (Vec<u32>, Vec<u32>) {
        let stream = Philox::new(seed, Stream::Tokens, step);
        let period = self.min_period + stream.below(u64::from(number), self.max_period - self.min_period + 1);
        let token = |t: u32| match t.checked_sub(1) {
            None => 0,
            Some(t) => {
                let at = number.wrapping_mul(self.seq).wrapping_add(t % period).wrapping_add(1 << 31);
                1 + stream.below(u64::from(at), self.d_vocab - 1)
            }
        };
        let target = |t: u32| if self.loss_on_all || t > period { token(t + 1) } else { IGNORE };
        ((0..self.seq).map(token).collect(), (0..self.seq).map(target).collect())
    }
}

impl Task for Repeated {
    fn shape(&self) -> TaskShape {
        let (vocab, seq) = (self.d_vocab as usize, self.seq as usize);
        TaskShape { d_vocab: vocab, classes: vocab, seq, read: ReadOut::All }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        let fail = |what: String| Err(Error::Config(what));
        check_between("task.d_vocab", self.d_vocab, 3..=1 << 20)?;
        check_between("task.seq", self.seq, 4..=1 << 16)?;
        check_between("task.test_sequences", self.test_sequences, 1..=1 << 16)?;
        let min_period = if self.min_period == 0 { (self.seq / 4).max(1) } else { self.min_period };
        let max_period = if self.max_period == 0 { (self.seq / 2).max(min_period) } else { self.max_period };
        if max_period < min_period || max_period > self.seq - 2 {
            return fail(format!(
                "task.min_period = {min_period} and task.max_period = {max_period} must be in order and leave room for a second round in {} tokens",
                self.seq
            ));
        }
        if replicas.iter().any(|r| r.train_fraction.is_some()) {
            return fail("train_fraction does not apply to generated sequences".to_owned());
        }
        let generator = Generator {
            d_vocab: self.d_vocab,
            seq: self.seq,
            min_period,
            max_period,
            loss_on_all: self.loss_on_all,
            test_sequences: self.test_sequences,
        };
        let seeds = replicas.iter().map(|replica| replica.seed).collect();
        Ok(Feed::Endless(Arc::new(Sequences { generator, seeds })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_repeat_and_ask_only_for_what_was_seen() {
        let generator =
            Generator { d_vocab: 50, seq: 40, min_period: 7, max_period: 13, loss_on_all: false, test_sequences: 1 };
        let mut periods = std::collections::BTreeSet::new();
        for number in 0..50 {
            let (tokens, targets) = generator.sequence(3, 17, number);
            let period = (1..20).find(|p| (1..40 - p).all(|t| tokens[t] == tokens[t + p])).unwrap();
            periods.insert(period);
            assert_eq!(tokens[0], 0);
            assert!(tokens[1..].iter().all(|t| (1..50).contains(t)));
            for t in 0..39 {
                if targets[t] != IGNORE {
                    assert_eq!(targets[t], tokens[t + 1]);
                    // The token at t stood one period earlier, followed by the answer.
                    assert_eq!((tokens[t - period], tokens[t - period + 1]), (tokens[t], targets[t]));
                }
            }
            assert_eq!(targets.iter().filter(|t| **t != IGNORE).count(), 40 - period - 1);
        }
        assert!(periods.len() > 4, "{periods:?}");
    }
}
