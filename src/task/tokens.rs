//! The user's own sequences of token ids.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use crate::autograd::ops::IGNORE;
use crate::error::{Error, Result};
use crate::model::ReadOut;

/// Which predictions count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LossOn {
    /// Each next token.
    #[default]
    All,
    /// The last token of each sequence.
    Last,
}

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TokensConfig", into = "TokensConfig")]
pub struct Tokens {
    config: TokensConfig,
    sequences: Vec<Vec<u32>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensConfig {
    /// `"tokens"`.
    kind: String,
    /// A JSON list of lists of token ids, or a safetensors file with one integer tensor `tokens` [E, T].
    path: PathBuf,
    /// Which predictions count. Default all.
    #[serde(default)]
    loss_on: LossOn,
    /// Share of the sequences that is trained on. Default 0.9.
    #[serde(default = "default_fraction")]
    train_fraction: f64,
    /// Instead of a random split: a JSON list of the numbers (from 0) of the sequences to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train_sequences: Option<PathBuf>,
}

fn default_fraction() -> f64 {
    0.9
}

impl TryFrom<TokensConfig> for Tokens {
    type Error = Error;

    /// Reads the file, whose contents decide the task's shape.
    fn try_from(config: TokensConfig) -> Result<Self> {
        let sequences = read(&config.path)?;
        Ok(Self { config, sequences })
    }
}

impl From<Tokens> for TokensConfig {
    fn from(task: Tokens) -> Self {
        task.config
    }
}

fn read(path: &Path) -> Result<Vec<Vec<u32>>> {
    let bytes = std::fs::read(path).map_err(Error::io("cannot read", path))?;
    let sequences = if path.extension().is_some_and(|e| e == "safetensors") {
        read_safetensors(path, &bytes)?
    } else {
        serde_json::from_slice::<Vec<Vec<u32>>>(&bytes)
            .map_err(|error| Error::format(path, format!("must hold a JSON list of lists of token ids: {error}")))?
    };
    if let Some(short) = sequences.iter().position(|s| s.len() < 2) {
        return Err(Error::format(path, format!("sequence {short} has fewer than two tokens")));
    }
    if sequences.len() < 2 {
        return Err(Error::format(path, "needs two sequences at least, one to train on and one to test on"));
    }
    if let Some(large) = sequences.iter().flatten().find(|t| **t >= 1 << 20) {
        return Err(Error::format(path, format!("token id {large} is beyond 1048575")));
    }
    Ok(sequences)
}

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u32>>> {
    use safetensors::Dtype;
    let tensors = crate::model::open(path, bytes)?;
    let view = tensors.tensor("tokens").map_err(|_| Error::format(path, "has no tensor called tokens"))?;
    let &[_, width] = view.shape() else {
        return Err(Error::format(
            path,
            format!("tensor tokens has shape {:?}, [sequences, tokens] is needed", view.shape()),
        ));
    };
    let size = match view.dtype() {
        Dtype::U8 | Dtype::I8 => 1,
        Dtype::U16 | Dtype::I16 => 2,
        Dtype::U32 | Dtype::I32 => 4,
        Dtype::U64 | Dtype::I64 => 8,
        other => return Err(Error::format(path, format!("tensor tokens is {other:?}; integers are needed"))),
    };
    let signed = matches!(view.dtype(), Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64);
    let ids: Vec<u32> = view
        .data()
        .chunks_exact(size)
        .map(|element| {
            // A negative number carries its sign into all eight bytes and is then beyond u32.
            let negative = signed && element[size - 1] >= 0x80;
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..size].copy_from_slice(element);
            u32::try_from(u64::from_le_bytes(wide)).ok()
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Error::format(path, "holds token ids that are negative or too large"))?;
    Ok(ids.chunks_exact(width.max(1)).map(<[u32]>::to_vec).collect())
}

impl Tokens {
    fn longest(&self) -> usize {
        self.sequences.iter().map(Vec::len).max().unwrap_or(2)
    }

    /// Whether one fixed position serves all: else each sequence is read out at its own last one.
    fn last_only(&self) -> bool {
        self.config.loss_on == LossOn::Last && self.sequences.iter().all(|s| s.len() == self.longest())
    }
}

impl Task for Tokens {
    fn shape(&self) -> TaskShape {
        let vocab = self.sequences.iter().flatten().max().map_or(1, |t| *t as usize + 1);
        let read = if self.last_only() { ReadOut::Last } else { ReadOut::All };
        TaskShape { d_vocab: vocab, classes: vocab, seq: self.longest() - 1, read }
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        let seq = self.longest() - 1;
        let width = if self.last_only() { 1 } else { seq };
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for sequence in &self.sequences {
            let inputs = sequence.len() - 1;
            // Padding stands behind the end, where a causal model cannot see it, and is never a target.
            tokens.extend((0..seq).map(|t| if t < inputs { sequence[t] } else { 0 }));
            let counts = |t: usize| t < inputs && (self.config.loss_on == LossOn::All || t + 1 == inputs);
            let first = seq - width;
            targets.extend((first..seq).map(|t| if counts(t) { sequence[t + 1] } else { IGNORE }));
        }
        let count = self.sequences.len();
        let explicit = self.config.train_sequences.as_ref().map(|path| read_numbers(path, count)).transpose()?;
        let splits = replicas
            .iter()
            .map(|replica| match (&explicit, replica.train_fraction) {
                (Some(train), None) => Split::explicit(count, train.clone()),
                (_, fraction) => {
                    let fraction = fraction.unwrap_or(self.config.train_fraction);
                    check_fraction("task.train_fraction", fraction)?;
                    Split::random(count, fraction, replica.seed)
                }
            })
            .collect::<Result<_>>()?;
        Ok(Feed::Examples(Examples { tokens, seq, targets, width, splits }))
    }
}

fn read_numbers(path: &Path, count: usize) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
    let numbers: Vec<u32> = serde_json::from_str(&text)
        .map_err(|error| Error::format(path, format!("must hold a JSON list of sequence numbers: {error}")))?;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != numbers.len() || sorted.last().is_some_and(|last| *last as usize >= count) {
        return Err(Error::format(path, format!("numbers must be different and below {count}")));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(loss_on: LossOn, sequences: &[&[u32]]) -> Tokens {
        let config = TokensConfig {
            kind: "tokens".to_owned(),
            path: PathBuf::new(),
            loss_on,
            train_fraction: 0.5,
            train_sequences: None,
        };
        Tokens { config, sequences: sequences.iter().map(|s| s.to_vec()).collect() }
    }

    fn examples(task: &Tokens) -> Examples {
        match task.feed(&[ReplicaData { seed: 0, train_fraction: None, shuffle_labels: false }]).unwrap() {
            Feed::Examples(examples) => examples,
            _ => panic!("examples expected"),
        }
    }

    #[test]
    fn negative_tokens_of_any_width_are_refused() {
        use safetensors::{Dtype, tensor::TensorView};
        for (dtype, bytes) in [
            (Dtype::I8, vec![1, 2, 3, 0xff]),
            (Dtype::I16, vec![1, 0, 2, 0, 3, 0, 0x9c, 0xff]),
            (Dtype::I32, [1i32, 2, 3, -1].iter().flat_map(|i| i.to_le_bytes()).collect()),
            (Dtype::U8, vec![1, 2, 3, 0xff]),
        ] {
            let view = TensorView::new(dtype, vec![2, 2], &bytes).unwrap();
            let file = safetensors::serialize([("tokens", view)], None).unwrap();
            let read = read_safetensors(Path::new("x.safetensors"), &file);
            if dtype == Dtype::U8 {
                assert_eq!(read.unwrap(), [[1, 2], [3, 255]]);
            } else {
                assert!(read.unwrap_err().to_string().contains("negative"));
            }
        }
    }

    #[test]
    fn ragged_sequences_are_padded_where_nobody_looks() {
        let task = task(LossOn::All, &[&[5, 6, 7, 8], &[1, 2]]);
        assert_eq!(task.shape(), TaskShape { d_vocab: 9, classes: 9, seq: 3, read: ReadOut::All });
        let examples = examples(&task);
        assert_eq!(examples.tokens, [5, 6, 7, 1, 0, 0]);
        assert_eq!(examples.targets, [6, 7, 8, 2, IGNORE, IGNORE]);
    }

    #[test]
    fn the_last_token_is_read_out_at_each_sequences_own_end() {
        let even = task(LossOn::Last, &[&[5, 6, 7], &[1, 2, 3]]);
        assert_eq!(even.shape().read, ReadOut::Last);
        assert_eq!(examples(&even).targets, [7, 3]);
        let ragged = task(LossOn::Last, &[&[5, 6, 7], &[1, 2]]);
        assert_eq!(ragged.shape().read, ReadOut::All);
        assert_eq!(examples(&ragged).targets, [IGNORE, 7, 2, IGNORE]);
    }
}
