//! Instruments: measures taken inside the step, on the device. Each names what it reads, appends
//! kernels behind the ones that own the data, and leaves numbers in the metric row.

pub(crate) mod ablation;
mod attach;
mod budget;
mod config;
pub(crate) mod geometry;
mod grokking;
pub(crate) mod heads;
mod index;
mod optimization;
mod row;

pub use attach::{Attach, Pieces};
#[cfg(feature = "cli")]
pub(crate) use budget::is_longest;
pub(crate) use budget::lengthened;
pub(crate) use config::check_names;
pub use config::{LandscapeConfig, MeasureConfig, ProbeConfig};
#[cfg(feature = "cli")]
pub(crate) use config::{check_name, names_of};
pub use grokking::fourier::LOGIT_KEYS;
pub use index::Index;
pub use optimization::norms::UpdateSummary;
pub(crate) use optimization::norms::layer_of;
#[cfg(all(test, feature = "cli"))]
pub(crate) use row::FILING;
#[cfg(test)]
pub(crate) use row::FileRow;
pub(crate) use row::{CLOCK, MetricRow, ROUNDING, STAMP};
pub use row::{Label, Metric, Presence, UNKNOWN};

use serde::Serialize;

use crate::autograd::check::Build;
use crate::error::Result;
use crate::gpu::Shader;

/// What measuring costs, relative to the training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub enum CostClass {
    /// Free: some 0.5 % of the step, at every step; all together at most 3 %.
    F,
    /// Light: at most 3 % at its cadence.
    L,
    /// Needs a forward pass of its own.
    M,
    /// Needs gradients of its own.
    H,
}

/// What a metric is.
#[derive(Debug, Serialize)]
pub struct Card {
    /// Name in the metric table.
    pub name: &'static str,
    /// Definition.
    pub formula: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// What the columns site, layer, head and index tell.
    pub axes: &'static str,
    /// What it costs.
    pub cost: CostClass,
    /// Steps between two measurements, unless the run says otherwise or they would take too much of its work: see
    /// [`MeasureConfig::budget`].
    pub every: u64,
    /// What it must be compared with.
    pub control: &'static str,
    /// Where the definition is from.
    pub source: &'static str,
    /// What it must not be used for.
    pub not_for: &'static str,
    /// The least and the greatest value that it can have; infinite where there is none.
    pub bounds: [f64; 2],
    /// The value that says nothing, drawn as a line.
    pub chance: Option<Chance>,
    /// What the index stands for.
    pub index: Index,
    /// Whether it needs gradients of the model as it stands. A session that only measures holds none for that, unless
    /// [`MeasureConfig::only`] names the metric or its instrument.
    pub gradients: bool,
}

/// What guessing, or a model that knows nothing, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chance {
    /// A number.
    At(f64),
    /// 1 / classes of the task.
    OneOfClasses,
    /// ln of the model's outputs: the loss and the entropy of even predictions, which may be more than the task has classes.
    LnOutputs,
}

impl Chance {
    /// The number, for a task of so many classes and a model of so many outputs.
    pub fn value(self, classes: usize, outputs: usize) -> f64 {
        match self {
            Self::At(value) => value,
            Self::OneOfClasses => 1.0 / classes as f64,
            Self::LnOutputs => (outputs as f64).ln(),
        }
    }
}

impl Card {
    /// What a card leaves out: no name, free, at every step, without bounds, chance level and index.
    pub const BASE: Self = Self {
        name: "",
        formula: "",
        unit: "1",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "",
        source: "definition",
        not_for: "",
        bounds: [f64::NEG_INFINITY, f64::INFINITY],
        chance: None,
        index: Index::None,
        gradients: false,
    };
    /// A share.
    pub const SHARE: [f64; 2] = [0.0, 1.0];
    /// A cosine.
    pub const COSINE: [f64; 2] = [-1.0, 1.0];
    /// A size.
    pub const SIZE: [f64; 2] = [0.0, f64::INFINITY];
}

/// A family of metrics that share their work.
pub trait Instrument: Sync {
    /// Name of the family, for `measure.every` and `measure.off`.
    fn name(&self) -> &'static str;

    /// The metrics.
    fn cards(&self) -> &'static [Card];

    /// Appends kernels that run before the update, and declares what they measure. Does nothing where
    /// the model or task has not what it needs.
    ///
    /// # Errors
    /// Where an op does not fit, which is a defect of the instrument.
    fn attach(&self, _cx: &mut Attach<'_>) -> Result<()> {
        Ok(())
    }

    /// Appends kernels that read what the optimizer left behind.
    ///
    /// # Errors
    /// Where an op does not fit, which is a defect of the instrument.
    fn attach_to_update(&self, _cx: &mut Attach<'_>, _summary: &UpdateSummary) -> Result<()> {
        Ok(())
    }
}

/// Every instrument, by topic.
pub fn registry() -> Vec<&'static dyn Instrument> {
    [optimization::INSTRUMENTS, heads::INSTRUMENTS, grokking::INSTRUMENTS, ablation::INSTRUMENTS, geometry::INSTRUMENTS]
        .concat()
}

/// The ops of the instruments, for the self-check.
pub(crate) fn checks() -> Vec<&'static [(&'static str, Build)]> {
    [optimization::CHECKS, heads::CHECKS, grokking::CHECKS, ablation::CHECKS, geometry::CHECKS].concat()
}

/// Every kernel of the instruments.
pub(crate) fn shaders() -> Vec<&'static Shader<'static>> {
    let topics =
        [optimization::SHADERS, heads::SHADERS, grokking::SHADERS, ablation::SHADERS, geometry::SHADERS, row::SHADERS];
    topics.concat().concat()
}
