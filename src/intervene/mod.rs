//! Interventions: what is changed in a forward pass, where, by how much, and what that does to every prediction.
//!
//! A [`Probe`] is a batch with its clean forward pass. [`Writers`] are what wrote to the residual stream at one place of it:
//! the heads of a layer, or its MLP block. An [`Intervention`] takes away a share of what each of them wrote and puts a
//! [`Baseline`] in its place; only what lies above is computed again ([`Model::resume`](crate::model::Model::resume)), many
//! interventions one behind the other along the batch axis. What comes out are *outcomes*: a var with [`OUTCOMES`] numbers
//! for every prediction under every intervention, to be kept, summed by example ([`ExampleSums`]), averaged ([`GroupMeans`]),
//! or compared, example by example, with the clean ones or with others ([`Contrasts`]): a difference with its standard error.
//! When it happens is the tape's matter: [`Tape::at_cadence`](crate::autograd::Tape::at_cadence).
//!
//! What is changed while a replica trains is a [`Pulse`]; there the device's clock says when.

mod contrast;
mod ops;
mod probe;
mod pulse;

pub use contrast::{Contrasts, ExampleSums, ROUNDING, UNKNOWN};
pub use ops::{Ablate, AblateEach, GroupMeans, OUTCOMES, Outcomes, column};
pub use probe::{Changed, Probe, Writers};
pub(crate) use pulse::Pulses;
pub use pulse::{Pulse, PulseKind, Sham};

use serde::{Deserialize, Serialize};

use crate::autograd::check::Build;
use crate::gpu::Shader;

/// Every kernel of this room.
pub(crate) fn shaders() -> Vec<&'static Shader<'static>> {
    [&[ops::SHADERS, contrast::SHADERS], pulse::SHADERS].concat().concat()
}
/// Its ops, for the self-check.
pub(crate) fn checks() -> Vec<&'static [(&'static str, Build)]> {
    [&[ops::CHECKS, contrast::CHECKS], pulse::CHECKS].concat()
}

/// One way of changing what writers wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervention {
    /// How much of what each of them wrote is taken away, `[H]`: 1 all of it, 0 nothing, -0.25 makes it a quarter more.
    pub removed: Vec<f32>,
    /// What takes its place.
    pub baseline: Baseline,
}

/// What an ablated head is taken to have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Baseline {
    /// Nothing.
    Zero = 0,
    /// What it writes at that position in the mean over examples.
    Mean = 1,
    /// What it wrote in the next example of the batch.
    Resample = 2,
}

impl Intervention {
    /// Writer `writer` of `writers` alone, `share` of it taken away.
    pub fn one(writer: usize, writers: usize, share: f32, baseline: Baseline) -> Self {
        Self { removed: (0..writers).map(|at| if at == writer { share } else { 0.0 }).collect(), baseline }
    }

    /// Each of `writers` ablated alone, one after the other.
    pub fn each(writers: usize, baseline: Baseline) -> Vec<Self> {
        (0..writers).map(|writer| Self::one(writer, writers, 1.0, baseline)).collect()
    }

    /// All of `writers` at once.
    pub fn all(writers: usize, baseline: Baseline) -> Self {
        Self { removed: vec![1.0; writers], baseline }
    }
}
