//! Where examples come from. Each task is one file; [`KINDS`] lists them.

mod batch;
mod examples;
mod modular;
mod pass;
mod permutation;
mod repeated;
mod text;
mod tokens;
mod whole;

pub use batch::{Asked, Batch, Feed, ProbeSet, Source, count_targets, sampler_shaders};
pub use examples::{Examples, Split};
pub use modular::{Cyclic, Modular, Operation};
pub use pass::Pass;
pub use permutation::{Irreps, Permutation};
pub use repeated::Repeated;
pub use text::{Corpus, Text};
pub use tokens::{LossOn, Tokens, TokensConfig};
pub use whole::Whole;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::model::ReadOut;

/// What a task asks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskShape {
    /// Token ids lie below this.
    pub d_vocab: usize,
    /// Target classes lie below this.
    pub classes: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Where predictions are read out.
    pub read: ReadOut,
}

/// What of a task may differ between replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReplicaData {
    /// Seed of the split and of the batches.
    pub seed: u64,
    /// Share of the examples that is trained on; `None` for the task's own.
    pub train_fraction: Option<f64>,
    /// Whether the targets of the train set are dealt out anew among its examples.
    pub shuffle_labels: bool,
}

impl ReplicaData {
    /// What a replica of that seed gets where it asks for nothing of its own.
    pub fn new(seed: u64) -> Self {
        Self { seed, train_fraction: None, shuffle_labels: false }
    }
}

/// A source of examples.
pub trait Task: Send + Sync {
    /// What it asks of the model.
    fn shape(&self) -> TaskShape;

    /// The examples for each replica.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Io`] where a parameter or file does not serve.
    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed>;

    /// The files it reads: a run depends on their content.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Tokens and classes as elements of a cyclic group, where the task has one. Fourier instruments
    /// need it.
    fn cyclic(&self) -> Option<Cyclic> {
        None
    }

    /// Characters of the group whose elements tokens and classes are, in its order, where the task has one
    /// that does not commute.
    fn irreps(&self) -> Option<Irreps> {
        None
    }
}

impl<T: Task + ?Sized> Task for Box<T> {
    fn shape(&self) -> TaskShape {
        (**self).shape()
    }

    fn feed(&self, replicas: &[ReplicaData]) -> Result<Feed> {
        (**self).feed(replicas)
    }

    fn files(&self) -> Vec<PathBuf> {
        (**self).files()
    }

    fn cyclic(&self) -> Option<Cyclic> {
        (**self).cyclic()
    }

    fn irreps(&self) -> Option<Irreps> {
        (**self).irreps()
    }
}

/// Names of the tasks.
pub const KINDS: [&str; 5] = ["modular", "permutation", "repeated", "text", "tokens"];

/// Checks a share of the examples, the setting of that name.
///
/// # Errors
/// [`Error::Config`] where a side of the split would have none.
pub fn check_fraction(name: &str, fraction: f64) -> Result<()> {
    if fraction > 0.0 && fraction < 1.0 {
        Ok(())
    } else {
        Err(Error::Config(format!(
            "{name} = {fraction} must lie between 0 and 1, both excluded: both sides of the split need examples"
        )))
    }
}
