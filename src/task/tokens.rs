//! The user's own sequences of token ids.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::{Examples, Feed, ReplicaData, Split, Task, TaskShape, check_fraction};
use crate::autograd::ops::IGNORE;
use crate::error::{Error, Result};
use crate::model::ReadOut;

/// Which predictions count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossOn {
    /// Each next token.
    #[default]
    All,
    /// The last token of each sequence.
    Last,
}

/// A task on sequences that were read from a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "TokensConfig")]
pub struct Tokens {
    config: TokensConfig,
    sequences: Vec<Vec<u32>>,
    /// For each token of each sequence, whether predicting it counts; `None` where `loss_on` says it.
    mask: Option<Vec<Vec<bool>>>,
}

/// The configuration of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TokensConfig {
    /// `"tokens"`.
    kind: String,
    /// A JSON list of lists of token ids, or a safetensors file with one integer tensor `tokens` [E, T].
    pub path: PathBuf,
    /// Which predictions count. Default all.
    #[serde(default)]
    pub loss_on: LossOn,
    /// Instead: a JSON list of lists of 0 and 1 (or false and true), or a safetensors file with an integer or boolean
    /// tensor `loss_mask` [E, T], which may be the file of the tokens. It has an entry for each token of each sequence: 1
    /// where predicting that token from those before it counts. The first token of a sequence is never predicted, and its
    /// entry does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_mask: Option<PathBuf>,
    /// Share of the sequences that is trained on. Default 0.9.
    #[serde(default = "default_fraction")]
    pub train_fraction: f64,
    /// Instead of a random split: a JSON list of the numbers (from 0) of the sequences to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_sequences: Option<PathBuf>,
}

impl TokensConfig {
    /// The sequences of a file, nine tenths of them to train on, with every prediction counted.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            kind: "tokens".to_owned(),
            path: path.into(),
            loss_on: LossOn::default(),
            loss_mask: None,
            train_fraction: default_fraction(),
            train_sequences: None,
        }
    }
}

fn default_fraction() -> f64 {
    0.9
}

impl From<Tokens> for TokensConfig {
    fn from(task: Tokens) -> Self {
        task.config
    }
}

impl Tokens {
    /// Reads the files, whose contents decide the task's shape.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] with the file and what is wrong with it.
    pub fn read(config: TokensConfig) -> Result<Self> {
        let sequences = read(&config)?;
        let mask = match &config.loss_mask {
            Some(_) if config.loss_on != LossOn::All => {
                return Err(Error::Config(
                    "task.loss_on and task.loss_mask both say which predictions count: leave one out".to_owned(),
                ));
            }
            Some(path) => Some(read_mask(path, &sequences)?),
            None => None,
        };
        Ok(Self { config, sequences, mask })
    }
}

fn read(config: &TokensConfig) -> Result<Vec<Vec<u32>>> {
    let path = &config.path;
    let bytes = std::fs::read(path).map_err(Error::io("cannot read", path))?;
    let sequences = if is_safetensors(path) {
        let tensors = crate::model::open(path, &bytes)?;
        let masked = config.loss_mask.as_ref() == Some(path);
        let known = |name: &str| name == "tokens" || masked && name == "loss_mask";
        if let Some(name) = tensors.names().into_iter().find(|name| !known(name)) {
            let advice = match name {
                "loss_mask" => "set task.loss_mask to this file to use it",
                _ => "nothing reads it",
            };
            return Err(Error::format(path, format!("has a tensor {name}: {advice}, or leave it out of the file")));
        }
        read_safetensors(path, &tensors, "tokens")?
    } else {
        crate::files::json(path, &bytes, "a JSON list of lists of token ids")?
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

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

/// Which predictions count, in the shape of the sequences.
fn read_mask(path: &Path, sequences: &[Vec<u32>]) -> Result<Vec<Vec<bool>>> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "0, 1, false or true")]
    enum Mark {
        Bool(bool),
        Number(u32),
    }
    let bytes = std::fs::read(path).map_err(Error::io("cannot read", path))?;
    let numbers: Vec<Vec<u32>> = if is_safetensors(path) {
        read_safetensors(path, &crate::model::open(path, &bytes)?, "loss_mask")?
    } else {
        let marks: Vec<Vec<Mark>> = crate::files::json(path, &bytes, "a JSON list of lists of 0 and 1")?;
        let number = |mark| match mark {
            Mark::Bool(counts) => u32::from(counts),
            Mark::Number(number) => number,
        };
        marks.into_iter().map(|marks| marks.into_iter().map(number).collect()).collect()
    };
    if numbers.len() != sequences.len() {
        return Err(Error::format(
            path,
            format!(
                "masks {} sequences, and there are {}: one entry for each token is needed",
                numbers.len(),
                sequences.len()
            ),
        ));
    }
    for (number, (marks, sequence)) in numbers.iter().zip(sequences).enumerate() {
        let fail = |what: String| Err(Error::format(path, format!("sequence {number}: {what}")));
        if marks.len() != sequence.len() {
            return fail(format!(
                "{} entries for {} tokens; one for each token is needed",
                marks.len(),
                sequence.len()
            ));
        }
        if let Some(other) = marks.iter().find(|mark| **mark > 1) {
            return fail(format!("{other} is neither 0 nor 1"));
        }
        if marks[1..].iter().all(|mark| *mark == 0) {
            return fail(
                "no prediction counts (the first token is never predicted): leave the sequence out".to_owned(),
            );
        }
    }
    Ok(numbers.into_iter().map(|marks| marks.into_iter().map(|mark| mark == 1).collect()).collect())
}

/// A tensor [E, T] of integers that are not negative.
fn read_safetensors(path: &Path, tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<Vec<u32>>> {
    let view = tensors.tensor(name).map_err(|_| Error::format(path, format!("has no tensor called {name}")))?;
    let &[_, width] = view.shape() else {
        return Err(Error::format(
            path,
            format!("tensor {name} has shape {:?}, [sequences, tokens] is needed", view.shape()),
        ));
    };
    let size = match view.dtype() {
        Dtype::BOOL | Dtype::U8 | Dtype::I8 => 1,
        Dtype::U16 | Dtype::I16 => 2,
        Dtype::U32 | Dtype::I32 => 4,
        Dtype::U64 | Dtype::I64 => 8,
        other => return Err(Error::format(path, format!("tensor {name} is {other:?}; integers are needed"))),
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
        .ok_or_else(|| Error::format(path, format!("tensor {name} holds numbers that are negative or too large")))?;
    Ok(ids.chunks_exact(width.max(1)).map(<[u32]>::to_vec).collect())
}

impl Tokens {
    fn longest(&self) -> usize {
        self.sequences.iter().map(Vec::len).max().unwrap_or(2)
    }

    /// Whether one fixed position serves all: else each sequence is read out at its own last one.
    fn last_only(&self) -> bool {
        self.mask.is_none()
            && self.config.loss_on == LossOn::Last
            && self.sequences.iter().all(|s| s.len() == self.longest())
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
        for (number, sequence) in self.sequences.iter().enumerate() {
            let inputs = sequence.len() - 1;
            // Padding stands behind the end, where a causal model cannot see it, and is never a target.
            tokens.extend((0..seq).map(|t| if t < inputs { sequence[t] } else { 0 }));
            let counts = |t: usize| {
                t < inputs
                    && match (&self.mask, self.config.loss_on) {
                        (Some(mask), _) => mask[number][t + 1],
                        (None, LossOn::All) => true,
                        (None, LossOn::Last) => t + 1 == inputs,
                    }
            };
            let first = seq - width;
            targets.extend((first..seq).map(|t| if counts(t) { sequence[t + 1] } else { IGNORE }));
        }
        let count = self.sequences.len();
        let explicit = self.config.train_sequences.as_ref().map(|path| read_numbers(path, count)).transpose()?;
        let splits = replicas
            .iter()
            .map(|replica| match (&explicit, replica.train_fraction) {
                (Some(train), None) => Split::explicit(count, train.clone(), self.config.train_sequences.as_deref()),
                (_, fraction) => {
                    let fraction = fraction.unwrap_or(self.config.train_fraction);
                    check_fraction("task.train_fraction", fraction)?;
                    Split::random(count, fraction, replica.seed)
                }
            })
            .collect::<Result<_>>()?;
        Ok(Feed::Examples(Examples::new(tokens, seq, targets, width, splits)))
    }

    fn files(&self) -> Vec<PathBuf> {
        let TokensConfig { path, loss_mask, train_sequences, .. } = &self.config;
        [Some(path), loss_mask.as_ref(), train_sequences.as_ref()].into_iter().flatten().cloned().collect()
    }
}

fn read_numbers(path: &Path, count: usize) -> Result<Vec<u32>> {
    let text = std::fs::read(path).map_err(Error::io("cannot read", path))?;
    let numbers: Vec<u32> = crate::files::json(path, &text, "a JSON list of sequence numbers")?;
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
            loss_mask: None,
            train_fraction: 0.5,
            train_sequences: None,
        };
        Tokens { config, sequences: sequences.iter().map(|s| s.to_vec()).collect(), mask: None }
    }

    fn examples(task: &Tokens) -> Examples {
        match task.feed(&[ReplicaData::new(0)]).unwrap() {
            Feed::Examples(examples) => examples,
            _ => panic!("examples expected"),
        }
    }

    #[test]
    fn negative_tokens_of_any_width_are_refused() {
        use safetensors::tensor::TensorView;
        for (dtype, bytes) in [
            (Dtype::I8, vec![1, 2, 3, 0xff]),
            (Dtype::I16, vec![1, 0, 2, 0, 3, 0, 0x9c, 0xff]),
            (Dtype::I32, [1i32, 2, 3, -1].iter().flat_map(|i| i.to_le_bytes()).collect()),
            (Dtype::U8, vec![1, 2, 3, 0xff]),
        ] {
            let view = TensorView::new(dtype, vec![2, 2], &bytes).unwrap();
            let file = safetensors::serialize([("tokens", view)], None).unwrap();
            let read =
                read_safetensors(Path::new("x.safetensors"), &SafeTensors::deserialize(&file).unwrap(), "tokens");
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

    #[test]
    fn a_mask_says_which_predictions_count() {
        use safetensors::tensor::TensorView;
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name)
        };
        let config = |path: &Path, mask: &Path| TokensConfig {
            loss_mask: Some(mask.to_owned()),
            path: path.to_owned(),
            ..task(LossOn::All, &[]).config
        };
        let ragged = write("ragged.json", b"[[5, 6, 7, 8], [1, 2]]");
        let mask = write("mask.json", b"\xef\xbb\xbf[[1, 0, 1, true], [0, 1]]");
        let read = Tokens::read(config(&ragged, &mask)).unwrap();
        assert_eq!(read.shape().read, ReadOut::All);
        assert_eq!(examples(&read).targets, [IGNORE, 7, 8, 2, IGNORE, IGNORE]);
        assert_eq!(read.files(), [ragged.clone(), mask.clone()]);
        // The same from tensors of one file, bools among them.
        let tokens = TensorView::new(Dtype::U8, vec![2, 3], &[5, 6, 7, 1, 2, 3]).unwrap();
        let marks = TensorView::new(Dtype::BOOL, vec![2, 3], &[0, 0, 1, 1, 1, 0]).unwrap();
        let file = safetensors::serialize([("tokens", tokens), ("loss_mask", marks)], None).unwrap();
        let both = write("both.safetensors", &file);
        assert_eq!(examples(&Tokens::read(config(&both, &both)).unwrap()).targets, [IGNORE, 7, 2, IGNORE]);
        let unread = Tokens::read(TokensConfig { loss_mask: None, ..config(&both, &both) });
        assert!(unread.unwrap_err().to_string().contains("task.loss_mask"));
        for (text, words) in [
            ("[[1, 0, 1, 1]]", "masks 1 sequences"),
            ("[[1, 0, 1], [0, 1]]", "sequence 0: 3 entries for 4 tokens"),
            ("[[1, 0, 1, 2], [0, 1]]", "2 is neither"),
            ("[[1, 0, 1, 1], [1, 0]]", "sequence 1: no prediction counts"),
            ("[[1, 0, 1, 0.5], [1, 0]]", "0, 1, false or true"),
            ("[1, 0, 1, 1]\n[1, 0]", "JSON lines"),
        ] {
            let error = Tokens::read(config(&ragged, &write("bad.json", text.as_bytes()))).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("bad.json"), "{error}");
        }
        let both_ways = TokensConfig { loss_on: LossOn::Last, ..config(&ragged, &mask) };
        assert!(Tokens::read(both_ways).unwrap_err().to_string().contains("loss_on"));
    }

    #[test]
    fn json_with_a_mark_is_read_and_json_lines_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            let path = dir.path().join("tokens.json");
            std::fs::write(&path, bytes).unwrap();
            Tokens::read(TokensConfig { path, ..task(LossOn::All, &[]).config })
        };
        assert_eq!(read(b"\xef\xbb\xbf[[1, 2], [3, 4]]").unwrap().sequences, [[1, 2], [3, 4]]);
        for (bytes, words) in [
            (&b"[1, 2]\n[3, 4]\n[5, 6]\n"[..], &["JSON lines", "line 2"][..]),
            (b"\xff\xfe[\0[\0", &["UTF-16"]),
            (b"[[1, -2], [3, 4]]", &["-2", "line 1 column 7"]),
            (b"[[1, 2], [3, 4.5]]", &["4.5", "line 1"]),
            (b"{\"tokens\": [[1, 2], [3, 4]]}", &["a JSON list of lists", "line 1"]),
            (b"[[1, 2],\n[3, 4]", &["line 2"]),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            for word in words.iter().chain(&["tokens.json"]) {
                assert!(error.contains(word), "should speak of {word}: {error}");
            }
        }
    }
}
