//! From examples to the variables a model reads: whole training sets, batches drawn on the device, and
//! test sets in pieces.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::examples::Distinct;
use super::repeated::{Generator, TEST_STEP};
use super::text::Corpus;
use super::{Examples, ReplicaData, Split, Task};
use crate::autograd::op::{Links, misfit};
use crate::autograd::ops::{IGNORE, PickedAttention};
use crate::autograd::{Array, DType, Lower, Op, Shape, Tape, Var, like_u32};
use crate::error::{Error, Result};
use crate::gpu::{Params, Philox, Shader, Stream, Tensor, grid_1d};
use crate::model::Rows;

/// Where batches come from, for every replica.
#[derive(Clone)]
#[non_exhaustive]
pub enum Feed {
    /// A finite set.
    Examples(Examples),
    /// Batches that are drawn as training goes on.
    Endless(Arc<dyn Source>),
}

/// Training batches without end, drawn on the device, and a test set that stays.
pub trait Source: Send + Sync {
    /// Appends the batch of `size` sequences that a training step sees, the same for the same seed and step. `seeds`, `[2]`,
    /// are the two words of each replica's seed, `clock` begins with the step, all u32.
    ///
    /// # Errors
    /// Where an op does not fit.
    fn draw(&self, tape: &mut Tape, size: usize, seeds: Var, clock: Var) -> Result<Batch>;

    /// The test set, without splits, and which of its examples are each replica's: one list for all replicas or one for each.
    fn test_set(&self) -> (Examples, Vec<Vec<u32>>);
}

/// Which examples a probe takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProbeSet {
    /// Held-out ones.
    #[default]
    Test,
    /// Those trained on.
    Train,
    /// Both.
    All,
}

/// What a forward pass and its loss read.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Token rows.
    pub rows: Rows,
    /// Target class of each read-out position, `[B]` or [B * T].
    pub targets: Var,
    /// How many targets the loss is divided by, `[1]`. For a piece of a test set: of the whole set.
    pub count: Var,
    /// Number of sequences B.
    pub size: usize,
    /// Tokens of a sequence T.
    pub seq: usize,
    /// Which of the task's examples each sequence is, `[B]`, where they are a finite set.
    pub ids: Option<Var>,
}

/// Predictions that a measurement is a mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// How many there are.
    pub count: u64,
    /// The share of the most frequent target among them: what a constant answer gets right.
    pub most_frequent: f64,
}

impl Asked {
    /// What these examples ask for, with targets [E, W].
    fn of(examples: &Examples, ids: &[u32], targets: &[u32]) -> Self {
        let mut times: BTreeMap<u32, u64> = BTreeMap::new();
        for id in ids {
            let own = &targets[*id as usize * examples.width..][..examples.width];
            own.iter().filter(|target| **target != IGNORE).for_each(|target| *times.entry(*target).or_default() += 1);
        }
        let count = times.values().sum();
        let most = times.into_values().max().unwrap_or(0);
        Self { count, most_frequent: most as f64 / (count as f64).max(1.0) }
    }
}

impl Feed {
    /// What a task gives each replica, with the labels shuffled where a replica asks for that.
    ///
    /// # Errors
    /// As [`Task::feed`]; [`Error::Config`] where there are no labels to shuffle.
    pub fn new(task: &dyn Task, replicas: &[ReplicaData]) -> Result<Self> {
        let mut feed = task.feed(replicas)?;
        match &mut feed {
            Self::Examples(examples) => examples.shuffle_labels(replicas),
            _ if replicas.iter().any(|replica| replica.shuffle_labels) => {
                return Err(Error::Config("shuffle_labels needs a finite set of examples".to_owned()));
            }
            _ => {}
        }
        Ok(feed)
    }

    /// The batch one training step sees: all examples where `size` is `None`, else `size` drawn with
    /// replacement for each step on the device. `clock` is the step counter, `seeds` are the replicas'.
    ///
    /// # Errors
    /// [`Error::Config`] where the feed has no end and no size was given.
    pub fn train_batch(&self, tape: &mut Tape, size: Option<usize>, clock: Var, seeds: &[u64]) -> Result<Batch> {
        match (self, size) {
            (Self::Examples(examples), None) => {
                let ids: Vec<&[u32]> = examples.splits.iter().map(|s| s.train.as_slice()).collect();
                let counts: Vec<usize> = ids.iter().map(|ids| examples.counted(ids)).collect();
                let labels: Vec<&[u32]> = (0..ids.len()).map(|replica| examples.trained(replica)).collect();
                fixed(tape, examples, examples.distinct(), &ids, &labels, &counts)
            }
            (Self::Examples(examples), Some(size)) => drawn(tape, examples, size, clock, seeds),
            (_, None) => {
                Err(Error::Config("batch.size = \"full\" needs a finite set of examples; give a number".to_owned()))
            }
            (Self::Endless(source), Some(size)) => {
                let seeds = seed_words(tape, seeds);
                source.draw(tape, size, seeds, clock)
            }
        }
    }

    /// For each replica, what the training batch and the test set ask for.
    pub fn predictions(&self, replicas: usize, batch: Option<usize>) -> Vec<[Asked; 2]> {
        // Of drawn batches the mean.
        let drawn = |size: usize, set: Asked, examples: usize| Asked {
            count: (size as u64 * set.count).div_ceil(examples.max(1) as u64),
            ..set
        };
        match self {
            Self::Examples(examples) => {
                let of_split = |(replica, split): (usize, &Split)| {
                    let train = Asked::of(examples, &split.train, examples.trained(replica));
                    let train = batch.map_or(train, |size| drawn(size, train, split.train.len()));
                    [train, Asked::of(examples, &split.test, &examples.targets)]
                };
                examples.splits.iter().enumerate().map(of_split).collect()
            }
            Self::Endless(source) => {
                // Batches are drawn as test sets are.
                let (examples, lists) = source.test_set();
                let of_list = |ids: &Vec<u32>| {
                    let test = Asked::of(&examples, ids, &examples.targets);
                    [drawn(batch.unwrap_or(0), test, ids.len()), test]
                };
                let list = |replica: usize| lists.get(replica).or(lists.last());
                (0..replicas).map(|replica| list(replica).map_or([Asked::default(); 2], of_list)).collect()
            }
        }
    }

    /// The test set in pieces of at most `piece` sequences.
    ///
    /// # Errors
    /// None today; the signature leaves room for feeds that read files.
    pub fn test_batches(&self, tape: &mut Tape, piece: usize) -> Result<Vec<Batch>> {
        match self {
            Self::Examples(examples) => {
                let lists: Vec<&[u32]> = examples.splits.iter().map(|s| s.test.as_slice()).collect();
                in_pieces(tape, examples, examples.distinct(), &lists, &vec![&*examples.targets; lists.len()], piece)
            }
            Self::Endless(source) => {
                let (examples, lists) = source.test_set();
                // Made up for each replica: one's rows would be worth sharing because of another's.
                let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
                in_pieces(tape, &examples, None, &lists, &vec![&*examples.targets; lists.len()], piece)
            }
        }
    }

    /// A held batch of `size` random examples of each replica, or of all that it has; and for each sequence 0 where it is an
    /// example, [`IGNORE`] where it only fills up a replica that has fewer than another, `[B]`. Which examples these are, and
    /// how many, depends on the replica's own list and on `size` alone. Where `size` takes in every example of a finite set,
    /// trained on or not, the batch holds all of them and asks about those of the test set, so that means over it are means
    /// over the data.
    ///
    /// # Errors
    /// [`Error::Config`] where the training set or all examples are asked of a feed without end.
    pub fn probe(&self, tape: &mut Tape, set: ProbeSet, size: usize) -> Result<(Batch, Var)> {
        let made_up;
        let distinct = match self {
            Self::Examples(examples) => {
                examples.distinct().filter(|(tokens, ..)| size.min(examples.len()) * examples.seq > tokens.len())
            }
            Self::Endless(_) => None,
        };
        let (examples, lists): (&Examples, Vec<Vec<u32>>) = match (self, set) {
            (Self::Examples(examples), ProbeSet::Test) if size >= examples.len() => {
                let (batch, all) = (whole_test(tape, examples)?, vec![0; examples.len()]);
                return Ok((batch, tape.constant_u32(&[all.len()], &all)));
            }
            (Self::Examples(examples), ProbeSet::Test) => {
                (examples, examples.splits.iter().map(|s| s.test.clone()).collect())
            }
            (Self::Examples(examples), ProbeSet::Train) => {
                (examples, examples.splits.iter().map(|s| s.train.clone()).collect())
            }
            (Self::Examples(examples), ProbeSet::All) => (examples, vec![(0..examples.len() as u32).collect()]),
            (Self::Endless(source), ProbeSet::Test) => {
                made_up = source.test_set();
                (&made_up.0, made_up.1)
            }
            _ => {
                return Err(Error::Config(
                    "measure.probe.set: this task makes its training examples up as it goes; use \"test\"".to_owned(),
                ));
            }
        };
        let chosen: Vec<Vec<u32>> = lists
            .iter()
            .map(|ids| {
                let order = Philox::new(0, Stream::Probe, 0).permutation(ids.len() as u32);
                order.iter().take(size).map(|at| ids[*at as usize]).collect()
            })
            .collect();
        let chosen: Vec<&[u32]> = chosen.iter().map(Vec::as_slice).collect();
        let counts: Vec<usize> = chosen.iter().map(|ids| examples.counted(ids)).collect();
        // Of the training set with the labels that are trained on, else with the true ones.
        let label = |list: usize| match set {
            ProbeSet::Train => examples.trained(list),
            _ => examples.targets.as_slice(),
        };
        let labels: Vec<&[u32]> = (0..chosen.len()).map(label).collect();
        let batch = fixed(tape, examples, distinct, &chosen, &labels, &counts)?;
        let own =
            |ids: &&[u32]| (0..batch.size).map(|at| if at < ids.len() { 0 } else { IGNORE }).collect::<Vec<u32>>();
        let own = tape.constant_u32(&[batch.size], &chosen.iter().flat_map(own).collect::<Vec<u32>>());
        Ok((batch, own))
    }

    /// The training set of each replica in pieces of at most `piece` examples, with the true targets.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for feeds without end.
    pub fn train_batches(&self, tape: &mut Tape, piece: usize) -> Result<Vec<Batch>> {
        let Self::Examples(examples) = self else {
            return Err(Error::Unsupported("only a finite set of examples can be walked through".to_owned()));
        };
        let lists: Vec<&[u32]> = examples.splits.iter().map(|s| s.train.as_slice()).collect();
        in_pieces(tape, examples, examples.distinct(), &lists, &vec![&*examples.targets; lists.len()], piece)
    }

    /// What the one replica of this feed is trained on, for every replica of the tape alike, in pieces of at most `piece`
    /// sequences: all examples of its own, or where `drawn` is a number, so many sequences as its training draws a batch of that
    /// size at step 0, whatever the pieces.
    ///
    /// # Errors
    /// [`Error::Config`] where all are asked of a feed without end.
    pub fn trained_on(&self, tape: &mut Tape, seed: u64, drawn: Option<usize>, piece: usize) -> Result<Vec<Batch>> {
        let Some(count) = drawn else {
            let Self::Examples(examples) = self else {
                let why = "sequences are drawn without end; say how many of them shall count";
                return Err(Error::Config(why.to_owned()));
            };
            let lists = [examples.splits[0].train.as_slice()];
            return in_pieces(tape, examples, examples.distinct(), &lists, &[examples.trained(0)], piece);
        };
        if count == 0 {
            return Err(Error::Config("0 sequences are nothing to look at; ask for 1 or more".to_owned()));
        }
        let clock = tape.constant_u32(&[2], &[0, 0]);
        let mut whole = self.train_batch(tape, Some(count), clock, &[seed])?;
        if let Rows::Distinct { tokens, .. } = whole.rows
            && !shared(whole.seq, piece, tape.shape(tokens).len())
        {
            whole.rows = Rows::Each { tokens: whole.tokens(tape)? };
        }
        (0..count).step_by(piece).map(|first| whole.cut(tape, first..count.min(first + piece))).collect()
    }

    /// The split of each replica, where there is one.
    pub fn splits(&self) -> &[Split] {
        match self {
            Self::Examples(examples) => &examples.splits,
            _ => &[],
        }
    }
}

/// All examples in a random order, with targets where they are of a replica's test set.
fn whole_test(tape: &mut Tape, examples: &Examples) -> Result<Batch> {
    let order = Philox::new(0, Stream::Probe, 0).permutation(examples.len() as u32);
    let distinct = examples.distinct();
    let batch = fixed(tape, examples, distinct, &[&order], &[&examples.targets], &[examples.counted(&order)])?;
    let width = examples.width;
    let (mut targets, mut counts) = (Vec::new(), Vec::new());
    for split in &examples.splits {
        let mut held = vec![IGNORE; examples.targets.len()];
        for id in &split.test {
            let place = *id as usize * width..(*id as usize + 1) * width;
            held[place.clone()].copy_from_slice(&examples.targets[place]);
        }
        targets.extend(Examples::rows(&held, width, &order, order.len(), None));
        counts.push(examples.counted(&split.test) as f32);
    }
    let targets = tape.constant_u32(&[order.len() * width], &targets);
    let count = if counts.len() == 1 { tape.constant(&[1], &counts) } else { tape.constant_owned(&[1], &counts) };
    Ok(Batch { targets, count, ..batch })
}

impl Batch {
    /// The token at each place, [B * T].
    ///
    /// # Errors
    /// Where the rows do not fit each other.
    pub fn tokens(&self, tape: &mut Tape) -> Result<Var> {
        match self.rows {
            Rows::Each { tokens } => Ok(tokens),
            Rows::Distinct { tokens, index, .. } => {
                let pairs = tape.shape(tokens).len();
                let table = tape.reshape(tokens, &[pairs, 1])?;
                tape.push1(TakeRows, &[table, index])
            }
        }
    }

    /// Some of its sequences. The count stays that of all.
    fn cut(&self, tape: &mut Tape, some: Range<usize>) -> Result<Self> {
        let at: Vec<u32> = some.clone().map(|at| at as u32).collect();
        let at = tape.constant_u32(&[at.len()], &at);
        let mut take = |all: Var| {
            let width = tape.shape(all).len() / self.size;
            let table = tape.reshape(all, &[self.size, width])?;
            tape.push1(TakeRows, &[table, at])
        };
        let rows = match self.rows {
            Rows::Each { tokens } => Rows::Each { tokens: take(tokens)? },
            Rows::Distinct { tokens, positions, index, last } => {
                Rows::Distinct { tokens, positions, index: take(index)?, last: take(last)? }
            }
        };
        let (targets, ids) = (take(self.targets)?, self.ids.map(&mut take).transpose()?);
        Ok(Self { rows, targets, ids, size: some.len(), ..*self })
    }
}

/// Whether sequences in pieces of so many read their rows from so many that they share: where these are fewer. Where sequences
/// are so short that attention reads the shared rows themselves, always: its bits depend on whether they are shared, which the
/// length of a piece may not decide then.
fn shared(seq: usize, piece: usize, distinct: usize) -> bool {
    PickedAttention::suits(seq) || piece * seq > distinct
}

fn in_pieces(
    tape: &mut Tape,
    examples: &Examples,
    distinct: Option<&Distinct>,
    lists: &[&[u32]],
    labels: &[&[u32]],
    piece: usize,
) -> Result<Vec<Batch>> {
    let longest = lists.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let counts: Vec<usize> = lists.iter().map(|ids| examples.counted(ids)).collect();
    let distinct = distinct.filter(|(tokens, ..)| shared(examples.seq, piece, tokens.len()));
    (0..longest)
        .step_by(piece.max(1))
        .map(|first| {
            let parts: Vec<&[u32]> =
                lists.iter().map(|ids| &ids[first.min(ids.len())..(first + piece).min(ids.len())]).collect();
            fixed(tape, examples, distinct, &parts, labels, &counts)
        })
        .collect()
}

/// A batch that never changes: one list of examples for all replicas, or one for each, with a table of
/// targets for each. Shorter lists are filled up with rows that do not count. Whether the examples' `distinct` rows are shared
/// may not depend on the lists' length: a replica alone must not go another way than in company.
fn fixed(
    tape: &mut Tape,
    examples: &Examples,
    distinct: Option<&Distinct>,
    lists: &[&[u32]],
    labels: &[&[u32]],
    counts: &[usize],
) -> Result<Batch> {
    fn equal<T: PartialEq>(all: &[T]) -> bool {
        all.windows(2).all(|pair| pair[0] == pair[1])
    }
    let same = equal(lists) && equal(labels) && equal(counts);
    let (lists, counts) = if same { (&lists[..1], &counts[..1]) } else { (lists, counts) };
    let size = lists.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let (seq, width) = (examples.seq, examples.width);
    let gather = |table: &[u32], width: usize, filler: Option<u32>| -> Vec<u32> {
        lists.iter().flat_map(|ids| Examples::rows(table, width, ids, size, filler)).collect()
    };
    let rows = match distinct {
        Some((tokens, positions, pairs)) => {
            let last: Vec<u32> = pairs.chunks_exact(seq).map(|example| example[seq - 1]).collect();
            Rows::Distinct {
                tokens: tape.constant_u32(&[tokens.len()], tokens),
                positions: tape.constant_u32(&[positions.len()], positions),
                index: tape.constant_u32(&[size * seq], &gather(pairs, seq, None)),
                last: tape.constant_u32(&[size], &gather(&last, 1, None)),
            }
        }
        None => Rows::Each { tokens: tape.constant_u32(&[size * seq], &gather(&examples.tokens, seq, None)) },
    };
    let targets: Vec<u32> = lists
        .iter()
        .zip(labels)
        .flat_map(|(ids, labels)| Examples::rows(labels, width, ids, size, Some(IGNORE)))
        .collect();
    let targets = tape.constant_u32(&[size * width], &targets);
    let counts: Vec<f32> = counts.iter().map(|c| *c as f32).collect();
    let count = if same { tape.constant(&[1], &counts) } else { tape.constant_owned(&[1], &counts) };
    let padded = |ids: &&[u32]| ids.iter().copied().chain(std::iter::repeat_n(0, size - ids.len())).collect::<Vec<_>>();
    let ids = tape.constant_u32(&[size], &lists.iter().flat_map(padded).collect::<Vec<u32>>());
    Ok(Batch { rows, targets, count, size, seq, ids: Some(ids) })
}

/// A batch drawn with replacement from each replica's training set.
fn drawn(tape: &mut Tape, examples: &Examples, size: usize, clock: Var, seeds: &[u64]) -> Result<Batch> {
    let (seq, width) = (examples.seq, examples.width);
    let longest = examples.splits.iter().map(|s| s.train.len()).max().unwrap_or(0);
    let pool: Vec<u32> = examples
        .splits
        .iter()
        .flat_map(|s| s.train.iter().copied().chain(std::iter::repeat_n(0, longest - s.train.len())))
        .collect();
    let sizes: Vec<u32> = examples.splits.iter().map(|s| s.train.len() as u32).collect();
    let pool = tape.constant_u32(&[longest], &pool);
    let sizes = tape.constant_u32(&[1], &sizes);
    let seeds = seed_words(tape, seeds);
    let ids = tape.push1(SampleIds { size }, &[pool, sizes, seeds, clock])?;
    let take = |tape: &mut Tape, table: &[u32], width: usize| -> Result<Var> {
        let table = tape.constant_u32(&[examples.len(), width], table);
        tape.push1(TakeRows, &[table, ids])
    };
    let rows = match examples.distinct() {
        Some((tokens, positions, pairs)) if size * seq > tokens.len() => {
            let last: Vec<u32> = pairs.chunks_exact(seq).map(|example| example[seq - 1]).collect();
            Rows::Distinct {
                tokens: tape.constant_u32(&[tokens.len()], tokens),
                positions: tape.constant_u32(&[positions.len()], positions),
                index: take(tape, pairs, seq)?,
                last: take(tape, &last, 1)?,
            }
        }
        _ => Rows::Each { tokens: take(tape, &examples.tokens, seq)? },
    };
    let targets = if examples.splits.iter().all(|split| split.labels.is_none()) {
        take(tape, &examples.targets, width)?
    } else {
        let labels: Vec<&[u32]> = (0..examples.splits.len()).map(|replica| examples.trained(replica)).collect();
        take(tape, &labels.concat(), width)?
    };
    let count = count_targets(tape, targets, 1)?;
    Ok(Batch { rows, targets, count, size, seq, ids: Some(ids) })
}

/// Each replica's seed as the two words of a Philox key.
fn seed_words(tape: &mut Tape, seeds: &[u64]) -> Var {
    let words: Vec<u32> = seeds.iter().flat_map(|s| [*s as u32, (*s >> 32) as u32]).collect();
    tape.constant_u32(&[2], &words)
}

/// Windows at random places of a long sequence.
impl Source for Corpus {
    fn draw(&self, tape: &mut Tape, size: usize, seeds: Var, clock: Var) -> Result<Batch> {
        let words = self.packed();
        let stream = tape.constant_u32(&[words.len()], &words);
        tape.describe(stream, "the part of the text that is trained on");
        let windows = SampleWindows { size, seq: self.seq, length: self.train.len() };
        let out = tape.push(windows, &[stream, seeds, clock])?;
        let count = tape.constant(&[1], &[(size * self.seq) as f32]);
        Ok(Batch { rows: Rows::Each { tokens: out[0] }, targets: out[1], count, size, seq: self.seq, ids: None })
    }

    fn test_set(&self) -> (Examples, Vec<Vec<u32>>) {
        let (tokens, targets) = self.test_windows();
        let all = (0..self.test_sequences as u32).collect();
        (Examples::new(tokens, self.seq, targets, self.seq, Vec::new()), vec![all])
    }
}

/// Sequences made up on the device.
#[derive(Clone, Debug)]
pub(super) struct Sequences {
    /// What they look like.
    pub(super) generator: Generator,
    /// Seed of each replica's test set.
    pub(super) seeds: Vec<u64>,
}

impl Source for Sequences {
    fn draw(&self, tape: &mut Tape, size: usize, seeds: Var, clock: Var) -> Result<Batch> {
        let out = tape.push(RepeatedSequences { generator: self.generator, size }, &[seeds, clock])?;
        let count = count_targets(tape, out[1], 1)?;
        let seq = self.generator.seq as usize;
        Ok(Batch { rows: Rows::Each { tokens: out[0] }, targets: out[1], count, size, seq, ids: None })
    }

    fn test_set(&self) -> (Examples, Vec<Vec<u32>>) {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        let count = self.generator.test_sequences;
        for seed in &self.seeds {
            for number in 0..count {
                let (a, b) = self.generator.sequence(*seed, TEST_STEP, number);
                tokens.extend(a);
                targets.extend(b);
            }
        }
        let seq = self.generator.seq as usize;
        let lists = (0..self.seeds.len() as u32).map(|list| (list * count..(list + 1) * count).collect()).collect();
        (Examples::new(tokens, seq, targets, seq, Vec::new()), lists)
    }
}

crate::params! {
    struct SampleParams {
        size: u32, seq: u32, length: u32, stream: u32,
        pool_replica: u32, sizes_replica: u32, seeds_replica: u32, out_replica: u32,
    }
}
static SAMPLE_IDS: Shader<'_> = Shader {
    name: "task/sample_ids",
    source: include_str!("../../shaders/task/sample_ids.wgsl"),
    knobs: &[],
    params: SampleParams::FIELDS,
};
static SAMPLE_WINDOWS: Shader<'_> = Shader {
    name: "task/sample_windows",
    source: include_str!("../../shaders/task/sample_windows.wgsl"),
    knobs: &[],
    params: SampleParams::FIELDS,
};
crate::params! {
    struct RepeatedParams {
        size: u32, seq: u32, d_vocab: u32, min_period: u32,
        periods: u32, loss_on_all: u32, stream: u32, seeds_replica: u32, out_replica: u32,
    }
}
static REPEATED: Shader<'_> = Shader {
    name: "task/repeated",
    source: include_str!("../../shaders/task/repeated.wgsl"),
    knobs: &[],
    params: RepeatedParams::FIELDS,
};
crate::params! {
    struct TakeParams { n: u32, width: u32, last: u32, table_replica: u32, ids_replica: u32, y_replica: u32 }
}
static TAKE_ROWS: Shader<'_> = Shader {
    name: "task/take_rows",
    source: include_str!("../../shaders/task/take_rows.wgsl"),
    knobs: &[],
    params: TakeParams::FIELDS,
};
crate::params! {
    struct CountParams { rows: u32, columns: u32, x_replica: u32, y_replica: u32 }
}
static COUNT_TARGETS: Shader<'_> = Shader {
    name: "task/count_targets",
    source: include_str!("../../shaders/task/count_targets.wgsl"),
    knobs: &[],
    params: CountParams::FIELDS,
};

/// Every kernel that makes batches.
pub fn sampler_shaders() -> Vec<&'static Shader<'static>> {
    vec![&SAMPLE_IDS, &SAMPLE_WINDOWS, &REPEATED, &TAKE_ROWS, &COUNT_TARGETS]
}

fn seed_of(words: &Array) -> u64 {
    words.data[0] as u64 | (words.data[1] as u64) << 32
}

/// ids [B] u32: members of pool [n], drawn with replacement for this step. Inputs: pool, its size [1],
/// seed words [2], clock [2].
struct SampleIds {
    size: usize,
}

impl Op for SampleIds {
    fn name(&self) -> &'static str {
        "sample ids"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like_u32(inputs, &[self.size])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SampleParams {
            size: self.size as u32,
            seq: 1,
            length: 0,
            stream: Stream::Batch as u32,
            pool_replica: inputs[0].replica_stride,
            sizes_replica: inputs[1].replica_stride,
            seeds_replica: inputs[2].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&SAMPLE_IDS, &[], &params, &tensors, grid_1d((self.size as u64).div_ceil(64), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let stream = Philox::new(seed_of(inputs[2]), Stream::Batch, inputs[3].data[0] as u32);
        let draw = |i: usize| inputs[0].data[stream.below(i as u64, inputs[1].data[0] as u32) as usize];
        vec![Array::from_fn(&[self.size], draw)]
    }
}

/// y [B * W] u32 = rows of table [E, W] by ids [B].
struct TakeRows;

impl Op for TakeRows {
    fn name(&self) -> &'static str {
        "take rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs.iter().any(|s| s.dtype != DType::U32) {
            return Err(misfit("take rows", "takes indices"));
        }
        let n = inputs[1].len() * inputs[0].rows().1;
        Ok(vec![like_u32(inputs, &[n])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = TakeParams {
            n: outputs[0].len() as u32,
            width: inputs[0].dims[1] as u32,
            last: inputs[0].dims[0] as u32 - 1,
            table_replica: inputs[0].replica_stride,
            ids_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&TAKE_ROWS, &[], &params, &tensors, grid_1d(u64::from(params.n).div_ceil(64), cx.replicas))
    }

    fn vjp(&self, _tape: &mut Tape, node: &Links<'_>, _grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![None; node.inputs.len()])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let width = inputs[0].dims[1];
        let n = inputs[1].data.len() * width;
        vec![Array::from_fn(&[n], |at| inputs[0].data[inputs[1].index(at / width) * width + at % width])]
    }
}

/// Tokens and next tokens [B * T] u32 of windows at random places. Inputs: corpus [ceil(n / 4)], four tokens to a word,
/// seed words [2], clock [2].
struct SampleWindows {
    size: usize,
    seq: usize,
    /// Tokens n of the corpus.
    length: usize,
}

impl Op for SampleWindows {
    fn name(&self) -> &'static str {
        "sample windows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if self.length <= self.seq || inputs[0].len() != self.length.div_ceil(4) {
            return Err(misfit("sample windows", format!("windows of {} in {} tokens", self.seq, self.length)));
        }
        Ok(vec![like_u32(inputs, &[self.size * self.seq]); 2])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SampleParams {
            size: self.size as u32,
            seq: self.seq as u32,
            length: self.length as u32,
            stream: Stream::Batch as u32,
            pool_replica: inputs[0].replica_stride,
            sizes_replica: 0,
            seeds_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let grid = grid_1d(((self.size * self.seq) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&SAMPLE_WINDOWS, &[], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let stream = Philox::new(seed_of(inputs[1]), Stream::Batch, inputs[2].data[0] as u32);
        let places = (self.length - self.seq) as u32;
        let token = |shift: usize| {
            Array::from_fn(&[self.size * self.seq], |at| {
                let start = stream.below((at / self.seq) as u64, places) as usize;
                let place = start + at % self.seq + shift;
                f64::from(inputs[0].index(place / 4) as u32 >> (place % 4 * 8) & 0xff)
            })
        };
        vec![token(0), token(1)]
    }
}

/// Tokens and targets [B * T] u32 of sequences that repeat. Inputs: seed words [2], clock [2].
struct RepeatedSequences {
    generator: Generator,
    size: usize,
}

impl Op for RepeatedSequences {
    fn name(&self) -> &'static str {
        "repeated sequences"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like_u32(inputs, &[self.size * self.generator.seq as usize]); 2])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let g = &self.generator;
        let params = RepeatedParams {
            size: self.size as u32,
            seq: g.seq,
            d_vocab: g.d_vocab,
            min_period: g.min_period,
            periods: g.max_period - g.min_period + 1,
            loss_on_all: u32::from(g.loss_on_all),
            stream: Stream::Tokens as u32,
            seeds_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&REPEATED, &[], &params, &tensors, grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (seed, step) = (seed_of(inputs[0]), inputs[1].data[0] as u32);
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for number in 0..self.size as u32 {
            let (a, b) = self.generator.sequence(seed, step, number);
            tokens.extend(a.into_iter().map(f64::from));
            targets.extend(b.into_iter().map(f64::from));
        }
        let dims = [tokens.len()];
        vec![Array::new(&dims, tokens), Array::new(&dims, targets)]
    }
}

/// Appends y `[columns]` = how many targets of each column, seen as `[N, columns]`, are not [`IGNORE`].
///
/// # Errors
/// Where the targets do not fill the columns.
pub fn count_targets(tape: &mut Tape, targets: Var, columns: usize) -> Result<Var> {
    let rows = tape.shape(targets).len() / columns;
    let targets = tape.reshape(targets, &[rows, columns])?;
    tape.push1(CountTargets, &[targets])
}

struct CountTargets;

impl Op for CountTargets {
    fn name(&self) -> &'static str {
        "count targets"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[0].rows().1]) }])
    }

    fn folds(&self) -> bool {
        true
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = CountParams {
            rows: inputs[0].dims[0] as u32,
            columns: inputs[0].dims[1] as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        cx.dispatch(&COUNT_TARGETS, &[], &params, &[&inputs[0], &outputs[0]], [params.columns, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, columns) = inputs[0].rows();
        let column = |c: usize| inputs[0].data.iter().skip(c).step_by(columns);
        vec![Array::from_fn(&[columns], |c| column(c).filter(|t| **t != f64::from(IGNORE)).count() as f64)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Bindings;
    use crate::autograd::check::Case;
    use crate::gpu::{Class, Gpu, Storage};

    /// A clock that stands at `step`, and seeds for the two replicas of a case.
    fn clock_and_seeds(case: &mut Case, step: u32) -> (Var, [u64; 2]) {
        (case.tape.constant_u32(&[1], &[step]), [7, 1 << 40 | 3])
    }

    #[test]
    fn the_most_frequent_target_is_that_of_what_is_asked_with_the_labels_trained_on() {
        // Of examples 0 .. 6, two targets each: those that count of the first four are 3, 3 and 5, and 3, 1, 5 and 2 as replica 1 trains on them.
        let targets = vec![3, IGNORE, 3, IGNORE, 5, IGNORE, IGNORE, IGNORE, 7, 7, 2, 1];
        let labels = vec![3, IGNORE, 1, IGNORE, 5, 2, IGNORE, IGNORE, 0, 0, 0, 0];
        let split = |labels| Split { train: vec![0, 1, 2, 3], test: vec![4, 5], labels };
        let splits = vec![split(None), split(Some(labels))];
        let examples = Examples::new(vec![0; 12], 2, targets, 2, splits);
        let feed = Feed::Examples(examples);
        let asked = |count, most_frequent| Asked { count, most_frequent };
        let whole = feed.predictions(2, None);
        assert_eq!(whole, [[asked(3, 2.0 / 3.0), asked(4, 0.5)], [asked(4, 0.25), asked(4, 0.5)]]);
        // Batches of eight examples ask for six targets on average.
        assert_eq!(feed.predictions(2, Some(8))[0], [asked(6, 2.0 / 3.0), asked(4, 0.5)]);
        assert_eq!(Asked::of(&Examples::new(Vec::new(), 1, Vec::new(), 1, Vec::new()), &[], &[]), asked(0, 0.0));
    }

    #[test]
    fn drawn_batches_are_those_of_the_reference() {
        let splits = vec![
            Split { train: (0..300).collect(), test: (300..400).collect(), labels: None },
            Split { train: (50..150).collect(), test: (150..400).collect(), labels: None },
        ];
        let examples = Examples::new(
            (0..1200).map(|i| i % 37).collect(),
            3,
            (0..400).map(|i| if i % 5 == 0 { IGNORE } else { i % 11 }).collect(),
            1,
            splits,
        );
        let feed = Feed::Examples(examples);
        for step in [0, 1, 4_000_000] {
            let mut case = Case::new("drawn batch");
            let (clock, seeds) = clock_and_seeds(&mut case, step);
            let batch = feed.train_batch(&mut case.tape, Some(129), clock, &seeds).unwrap();
            let rows = match batch.rows {
                Rows::Distinct { index, last, .. } => vec![index, last],
                Rows::Each { tokens } => vec![tokens],
            };
            case.agree_bits(&[&rows[..], &[batch.targets]].concat());
            case.agree(&[batch.count], 0.0);
        }
    }

    #[test]
    fn what_is_drawn_is_the_same_in_pieces_of_any_length() {
        let examples = |seq: usize, vocab: u32| {
            let splits = vec![Split { train: (20..90).collect(), test: (0..20).collect(), labels: None }];
            let tokens = (0..100 * seq as u32).map(|i| (i * i + 3 * i) % vocab).collect();
            Examples::new(tokens, seq, (0..100).map(|i| i % 7).collect(), 1, splits)
        };
        let corpus = Corpus {
            train: (0..500).map(|i: u32| (i * i % 251) as u8).collect(),
            test: vec![0; 50],
            seq: 9,
            test_sequences: 2,
        };
        let feeds = [Feed::Examples(examples(3, 5)), Feed::Examples(examples(40, 2)), Feed::Endless(Arc::new(corpus))];
        for feed in feeds {
            let drawn = |piece: usize| -> Vec<Vec<f64>> {
                let mut case = Case::new("drawn in pieces");
                let pieces = feed.trained_on(&mut case.tape, 4, Some(20), piece).unwrap();
                assert_eq!(pieces.iter().map(|batch| batch.size).sum::<usize>(), 20);
                let tokens = pieces.iter().map(|batch| batch.tokens(&mut case.tape).unwrap()).collect::<Vec<_>>();
                let targets: Vec<Var> = pieces.iter().map(|batch| batch.targets).collect();
                let counts = [pieces[0].count, pieces[pieces.len() - 1].count];
                [&tokens[..], &targets, &counts]
                    .map(|vars| case.reference(0, vars).unwrap().into_iter().flat_map(|array| array.data).collect())
                    .to_vec()
            };
            assert_eq!(drawn(20), drawn(7));
            assert_eq!(drawn(20), drawn(1));
        }
    }

    #[test]
    fn windows_are_those_of_the_reference() {
        // Lengths that fill the last word and that do not, and one with a single place for a window.
        for length in [500, 501, 503, 32] {
            let train: Vec<u8> = (0..length).map(|i: u32| (i * i % 251) as u8).collect();
            let corpus = Corpus { train: train.clone(), test: vec![0; 50], seq: 31, test_sequences: 2 };
            let feed = Feed::Endless(Arc::new(corpus));
            let mut case = Case::new("windows");
            let (clock, seeds) = clock_and_seeds(&mut case, 12);
            let batch = feed.train_batch(&mut case.tape, Some(7), clock, &seeds).unwrap();
            let Rows::Each { tokens } = batch.rows else { panic!("rows for each token") };
            case.agree_bits(&[tokens, batch.targets]);
            let [tokens, next] = &case.reference(1, &[tokens, batch.targets]).unwrap()[..] else {
                panic!("two values")
            };
            for (window, following) in tokens.data.chunks(31).zip(next.data.chunks(31)) {
                let found = |place: usize| {
                    let text = train[place..place + 32].iter().map(|byte| f64::from(*byte));
                    text.eq(window.iter().chain(following.last()).copied())
                };
                assert!((0..train.len() - 31).any(found), "{window:?} stands in the text of {length}");
            }
        }
    }

    #[test]
    fn a_text_beyond_what_the_device_binds_is_refused_in_words_about_data() {
        let gpu = Gpu::noop();
        let bytes = gpu.caps().max_binding as usize;
        let mut case = Case::new("a long text");
        let (clock, seeds) = clock_and_seeds(&mut case, 0);
        let mut record = |length: usize| {
            let corpus = Corpus { train: vec![b'a'; length], test: vec![0; 50], seq: 31, test_sequences: 2 };
            let feed = Feed::Endless(Arc::new(corpus));
            let batch = feed.train_batch(&mut case.tape, Some(2), clock, &seeds).unwrap();
            let mut bindings = Bindings::new();
            bindings.bind(batch.targets, Storage::whole(&gpu.buffer(Class::Data, 200).unwrap(), 64));
            case.tape.record(&gpu, &bindings).map(|_| ())
        };
        record(bytes).unwrap();
        let error = record(bytes + 1).unwrap_err().to_string();
        assert!(error.contains("the text that is trained on") && error.contains("less data"), "{error}");
        assert!(error.contains(&bytes.to_string()) && !error.contains("batch"), "{error}");
    }

    #[test]
    fn repeated_sequences_are_those_of_the_reference() {
        for loss_on_all in [false, true] {
            let generator =
                Generator { d_vocab: 60, seq: 33, min_period: 5, max_period: 9, loss_on_all, test_sequences: 3 };
            let feed = Feed::Endless(Arc::new(Sequences { generator, seeds: vec![7, 8] }));
            let mut case = Case::new("repeated");
            let (clock, seeds) = clock_and_seeds(&mut case, 99);
            let batch = feed.train_batch(&mut case.tape, Some(5), clock, &seeds).unwrap();
            let Rows::Each { tokens } = batch.rows else { panic!("rows for each token") };
            case.agree_bits(&[tokens, batch.targets]);
            case.agree(&[batch.count], 0.0);
        }
    }
}
