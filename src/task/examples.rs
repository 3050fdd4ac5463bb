//! A finite set of examples, and its split into train and test.

use std::path::Path;
use std::sync::OnceLock;

use super::ReplicaData;
use crate::autograd::ops::IGNORE;
use crate::error::{Error, Result};
use crate::gpu::{Philox, Stream};

/// Examples as tables of token ids and target classes.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Token ids, [E, T].
    pub tokens: Vec<u32>,
    /// Tokens of an example.
    pub seq: usize,
    /// Target classes, [E, W]; [`IGNORE`] where nothing is asked.
    pub targets: Vec<u32>,
    /// Targets of an example: 1 where the last position is read out, else T.
    pub width: usize,
    /// Train and test of each replica.
    pub splits: Vec<Split>,
    /// See [`Examples::distinct`]; worked out when it is first asked for, which is often.
    distinct: OnceLock<Option<Distinct>>,
}

/// Numbers of the examples of one replica's train and test set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Trained on.
    pub train: Vec<u32>,
    /// Held out.
    pub test: Vec<u32>,
    /// Targets of all examples as this replica trains on them, [E, W], where those of the train set are not
    /// the true ones.
    pub labels: Option<Vec<u32>>,
}

impl Split {
    /// A random split of `count` examples: the first `fraction` of a permutation drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] where one side would be empty.
    pub fn random(count: usize, fraction: f64, seed: u64) -> Result<Self> {
        let train = (count as f64 * fraction) as usize;
        if train == 0 || train >= count {
            return Err(Error::Config(format!(
                "train_fraction = {fraction} of {count} examples leaves one side of the split empty"
            )));
        }
        let order = Philox::new(seed, Stream::Split, 0).permutation(count as u32);
        Ok(Self { train: order[..train].to_vec(), test: order[train..].to_vec(), labels: None })
    }

    /// The split with exactly these examples in train, as the file lists them, if one does.
    ///
    /// # Errors
    /// [`Error::Config`], or [`Error::Format`] of the file, where one side would be empty.
    pub fn explicit(count: usize, train: Vec<u32>, file: Option<&Path>) -> Result<Self> {
        let mut held = vec![true; count];
        for id in &train {
            held[*id as usize] = false;
        }
        let test: Vec<u32> = (0..count as u32).filter(|id| held[*id as usize]).collect();
        if train.is_empty() || test.is_empty() {
            let (what, advice) = match train.is_empty() {
                true => ("no example".to_owned(), "list some: there is nothing to train on"),
                false => (format!("all {count} examples"), "leave some out: there is nothing to test on"),
            };
            return Err(match file {
                Some(file) => Error::format(file, format!("lists {what} for training; {advice}")),
                None => Error::Config(format!("the split has {what} for training; {advice}")),
            });
        }
        Ok(Self { train, test, labels: None })
    }
}

/// Distinct rows of a finite set: the tokens U and the positions U of each, and which stands at each place, [E, T].
pub(super) type Distinct = (Vec<u32>, Vec<u32>, Vec<u32>);

impl Examples {
    /// A finite set: token ids [E, T], target classes [E, W], and the train and test set of each replica.
    pub fn new(tokens: Vec<u32>, seq: usize, targets: Vec<u32>, width: usize, splits: Vec<Split>) -> Self {
        Self { tokens, seq, targets, width, splits, distinct: OnceLock::new() }
    }

    /// With the targets of the train set dealt out anew among its examples, at random, for replicas that ask
    /// for it: there is nothing left to understand, and as much to memorize.
    pub(super) fn shuffle_labels(&mut self, replicas: &[ReplicaData]) {
        for (split, replica) in self.splits.iter_mut().zip(replicas).filter(|(_, replica)| replica.shuffle_labels) {
            // The split itself is drawn at step 0 of the stream.
            let order = Philox::new(replica.seed, Stream::Split, 1).permutation(split.train.len() as u32);
            let mut labels = self.targets.clone();
            for (to, from) in split.train.iter().zip(order) {
                let (to, from) = (*to as usize * self.width, split.train[from as usize] as usize * self.width);
                labels[to..to + self.width].copy_from_slice(&self.targets[from..from + self.width]);
            }
            split.labels = Some(labels);
        }
    }

    /// Targets of all examples as a replica trains on them; those of its test set are the true ones.
    pub fn trained(&self, replica: usize) -> &[u32] {
        self.splits[replica].labels.as_deref().unwrap_or(&self.targets)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.seq
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Rows of a table by number: of the tokens with width T, of the targets with width W. Missing
    /// numbers, beyond the end of a shorter list, repeat example 0 with `filler`.
    pub(crate) fn rows(table: &[u32], width: usize, ids: &[u32], count: usize, filler: Option<u32>) -> Vec<u32> {
        let mut out = Vec::with_capacity(count * width);
        for at in 0..count {
            match ids.get(at) {
                Some(id) => out.extend_from_slice(&table[*id as usize * width..][..width]),
                None => match filler {
                    Some(value) => out.extend(std::iter::repeat_n(value, width)),
                    None => out.extend_from_slice(&table[..width]),
                },
            }
        }
        out
    }

    /// The distinct pairs of token and position, and which of them stands at each place, [E, T]; `None`
    /// where they are too many to be worth it.
    pub(super) fn distinct(&self) -> Option<&Distinct> {
        self.distinct.get_or_init(|| self.distinct_pairs()).as_ref()
    }

    fn distinct_pairs(&self) -> Option<Distinct> {
        let mut numbers = std::collections::BTreeMap::new();
        for (at, token) in self.tokens.iter().enumerate() {
            numbers.entry(((at % self.seq) as u32, *token)).or_insert(0u32);
        }
        // A row is worth sharing if it is used four times at least.
        if numbers.len() * 4 > self.tokens.len() {
            return None;
        }
        for (number, value) in numbers.values_mut().enumerate() {
            *value = number as u32;
        }
        let pairs =
            self.tokens.iter().enumerate().map(|(at, token)| numbers[&((at % self.seq) as u32, *token)]).collect();
        let (positions, tokens) = numbers.into_keys().unzip();
        Some((tokens, positions, pairs))
    }

    /// How many targets of these examples count.
    pub(crate) fn counted(&self, ids: &[u32]) -> usize {
        ids.iter()
            .flat_map(|id| &self.targets[*id as usize * self.width..][..self.width])
            .filter(|target| **target != IGNORE)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_covers_everything_once() {
        let split = Split::random(1000, 0.3, 5).unwrap();
        assert_eq!(split.train.len(), 300);
        let mut all = [split.train.clone(), split.test.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
        assert_eq!(split, Split::random(1000, 0.3, 5).unwrap());
        assert_ne!(split, Split::random(1000, 0.3, 6).unwrap());
        assert!(Split::random(10, 0.01, 0).is_err());
    }

    #[test]
    fn shuffled_labels_are_those_of_the_train_set_in_another_order() {
        let replica = |shuffle_labels| ReplicaData { shuffle_labels, ..ReplicaData::new(3) };
        let split = Split::random(100, 0.4, 3).unwrap();
        // Two targets for each example: they move together.
        let targets: Vec<u32> = (0..200).collect();
        let splits = vec![split.clone(); 2];
        let mut examples = Examples::new(vec![0; 100], 1, targets, 2, splits);
        examples.shuffle_labels(&[replica(false), replica(true)]);
        assert_eq!(examples.trained(0), examples.targets);
        let plain = &examples.splits[1];
        assert_eq!((&plain.train, &plain.test), (&split.train, &split.test), "the split stays");
        let of = |table: &[u32], ids: &[u32]| Examples::rows(table, 2, ids, ids.len(), None);
        assert_eq!(of(examples.trained(1), &split.test), of(&examples.targets, &split.test), "test labels are true");
        let (shuffled, truth) = (of(examples.trained(1), &split.train), of(&examples.targets, &split.train));
        let sorted = |targets: &[u32]| {
            let mut pairs: Vec<[u32; 2]> = targets.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
            pairs.sort_unstable();
            pairs
        };
        assert_eq!(sorted(&shuffled), sorted(&truth));
        // A random order leaves one example in its place, on average.
        let moved = shuffled.iter().zip(&truth).filter(|(a, b)| a != b).count();
        assert!(moved > 60, "{moved} of 80");
    }

    #[test]
    fn distinct_pairs_reproduce_the_tokens() {
        let tokens: Vec<u32> = (0..25).flat_map(|e| [e / 5, e % 5, 9]).collect();
        let examples = Examples::new(tokens.clone(), 3, vec![0; 25], 1, Vec::new());
        let (pair_tokens, positions, pairs) = examples.distinct().unwrap();
        assert_eq!(pair_tokens.len(), 11);
        for (at, pair) in pairs.iter().enumerate() {
            assert_eq!(pair_tokens[*pair as usize], tokens[at]);
            assert_eq!(positions[*pair as usize], (at % 3) as u32);
        }
    }
}
