//! Text as bytes: any UTF-8 file, its end held out.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Feed, ReplicaData, Task, TaskShape, check_fraction};
use crate::error::{Error, Result, check_between};
use crate::model::ReadOut;

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Text {
    kind: String,
    /// The file. Its bytes are the tokens.
    pub path: PathBuf,
    /// Tokens of a sequence. Default 128.
    #[serde(default = "default_seq")]
    pub seq: u32,
    /// Share of the file, from its beginning, that is trained on. Default 0.9.
    #[serde(default = "default_fraction")]
    pub train_fraction: f64,
    /// Windows of the held-out part the test loss is taken over. Default 32.
    #[serde(default = "default_test")]
    pub test_sequences: u32,
}

fn default_seq() -> u32 {
    128
}

fn default_fraction() -> f64 {
    0.9
}

fn default_test() -> u32 {
    32
}

impl Text {
    /// The task with everything else at its default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            kind: "text".to_owned(),
            path: path.into(),
            seq: default_seq(),
            train_fraction: default_fraction(),
            test_sequences: default_test(),
        }
    }
}

/// A long sequence of tokens, a byte each, cut in two.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Trained on.
    pub train: Vec<u8>,
    /// Held out.
    pub test: Vec<u8>,
    /// Tokens of a window.
    pub seq: usize,
    /// Windows of the test set, spread evenly over the held-out part.
    pub test_sequences: usize,
}

impl Corpus {
    /// Inputs and targets of the test windows, [windows, T] each.
    pub fn test_windows(&self) -> (Vec<u32>, Vec<u32>) {
        let room = self.test.len() - self.seq - 1;
        let starts: Vec<usize> = (0..self.test_sequences).map(|w| w * room / self.test_sequences.max(1)).collect();
        let window = |shift: usize| {
            starts.iter().flat_map(|s| &self.test[s + shift..][..self.seq]).map(|b| (*b).into()).collect()
        };
        (window(0), window(1))
    }

    /// What is trained on, four tokens to a word, the first in the lowest byte.
    pub(super) fn packed(&self) -> Vec<u32> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        self.train.chunks(4).map(word).collect()
    }
}

impl Task for Text {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn shape(&self) -> TaskShape {
        TaskShape { d_vocab: 256, classes: 256, seq: self.seq as usize, read: ReadOut::All }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        check_fraction("task.train_fraction", self.train_fraction)?;
        check_between("task.seq", self.seq, 2..=1 << 16)?;
        check_between("task.test_sequences", self.test_sequences, 1..=1 << 16)?;
        if replicas.iter().any(|r| r.train_fraction.is_some()) {
            return Err(Error::Config("train_fraction cannot differ between replicas of a text".to_owned()));
        }
        if self.path.as_os_str().is_empty() {
            return Err(Error::Config("task.path is empty: name a text file".to_owned()));
        }
        let text = std::fs::read(&self.path).map_err(Error::io("cannot read", &self.path))?;
        if let Err(error) = std::str::from_utf8(&text) {
            return Err(Error::format(
                &self.path,
                format!(
                    "is not UTF-8 text (byte {} is not). Convert it, or give token ids with kind = \"tokens\"",
                    error.valid_up_to()
                ),
            ));
        }
        // In UTF-16 every second byte of plain English is zero, which is valid UTF-8 and no text.
        if let Some(at) = text.iter().position(|byte| *byte == 0) {
            let zeros = text.iter().filter(|byte| **byte == 0).count();
            let kind = if zeros * 8 > text.len() { "is it UTF-16? Save it as UTF-8" } else { "is it binary?" };
            return Err(Error::format(
                &self.path,
                format!(
                    "holds {zeros} zero bytes, the first at {at}, and text has none: {kind}, or give token ids with kind = \"tokens\""
                ),
            ));
        }
        let cut = (text.len() as f64 * self.train_fraction) as usize;
        let need = self.seq as usize + 2;
        if cut < need || text.len() - cut < need {
            return Err(Error::format(
                &self.path,
                format!(
                    "has {} bytes: too short for sequences of {} on both sides of the split at {}. Use a longer text or shorter task.seq",
                    text.len(),
                    self.seq,
                    self.train_fraction
                ),
            ));
        }
        let corpus = Corpus {
            train: text[..cut].to_vec(),
            test: text[cut..].to_vec(),
            seq: self.seq as usize,
            test_sequences: self.test_sequences as usize,
        };
        Ok(Feed::Endless(Arc::new(corpus)))
    }
}
