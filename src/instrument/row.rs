//! The metric row: what is measured, how the numbers of a step lie in memory, and the kernel that files them.

use std::collections::BTreeMap;

use super::Card;
use crate::autograd::ops::Copy;
use crate::autograd::{Bindings, Lower, Op, Shape, Tape, Var, gcd};
use crate::error::Result;
use crate::gpu::{Class, Gpu, Params, Phase, Shader, Storage, Tensor, grid_1d};
pub use crate::intervene::UNKNOWN;

/// Where in the model a number belongs; -1 where a column does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Layer.
    pub layer: i32,
    /// Head.
    pub head: i32,
    /// Whatever the metric counts: frequency, pair, statistic.
    pub index: i32,
}

impl Label {
    /// No layer, no head, no index.
    pub const NONE: Self = Self { layer: -1, head: -1, index: -1 };

    /// 0, 1, 2, ... in the index column.
    pub fn indices(range: std::ops::Range<i32>) -> Vec<Self> {
        range.map(|index| Self { index, ..Self::NONE }).collect()
    }
}

/// Share of a sum of squares below which what is left after a mean was subtracted is rounding, not variation. See `ROUNDING`
/// in `shaders/shared/numerics.wgsl`.
pub(crate) const ROUNDING: f64 = 1.0 / (1u64 << 36) as f64;

/// When a metric has rows in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// Whenever it is due.
    Always,
    /// Only where the model moved on, and its value is known.
    InUpdates,
    /// Only where its value is known: not [`UNKNOWN`].
    WhereKnown,
    /// Only where its value is not 0: a set, whose members are born and die.
    WhereNotZero,
    /// Only where its value is not 0, which says who belongs to a set: births and deaths of members are events.
    InSet,
}

impl Presence {
    /// Whether a value has no row.
    pub(crate) fn hides(self, value: f32) -> bool {
        match self {
            Self::Always => false,
            Self::InUpdates | Self::WhereKnown => value == UNKNOWN,
            Self::WhereNotZero | Self::InSet => value == 0.0,
        }
    }
}

/// Numbers of one metric at one site, neighbours in the metric row.
#[derive(Clone, Debug)]
pub struct Metric {
    /// What it is.
    pub card: &'static Card,
    /// Name of the instrument that measures it.
    pub instrument: &'static str,
    /// Tensor or hook name, empty where none applies.
    pub site: String,
    /// One for each number.
    pub labels: Vec<Label>,
    /// It is measured at steps that this divides.
    pub every: u64,
    /// When it has rows in the table.
    pub presence: Presence,
    /// First element within a step's row, of replica 0.
    pub offset: usize,
    /// Elements from one replica to the next.
    pub replica_stride: usize,
    pub(super) var: Var,
    pub(super) first: usize,
}

/// The metric row: what is measured, and how a step's numbers lie in memory.
pub(crate) struct MetricRow {
    /// What is measured.
    pub(crate) metrics: Vec<Metric>,
    /// Elements of one step's row, the two words behind its numbers included.
    pub(crate) len: usize,
    /// The rows of past steps, step modulo `slots`. Behind a row's numbers stand, as u32, the step that the device's clock
    /// showed and the number of the replay, counted by the device since the session began.
    pub(crate) ring: wgpu::Buffer,
    /// Rows of the ring.
    pub(crate) slots: usize,
}

/// Scope of what files the numbers of all instruments.
pub(crate) const FILING: &str = "filing";

/// Words behind the numbers of a row: step and replay.
pub(crate) const STAMP: usize = 2;

/// Words of the clock: this step's number, the next one's, and how many replays there were.
pub(crate) const CLOCK: usize = 3;

/// Rows the ring holds at most.
const SLOTS: usize = 64;

impl MetricRow {
    /// Places every recorded value in the metric row, and appends the kernel that files the row.
    pub(crate) fn new(
        gpu: &Gpu,
        tape: &mut Tape,
        mut metrics: Vec<Metric>,
        clock: Var,
        bindings: &mut Bindings,
    ) -> Result<Self> {
        let replicas = tape.replicas() as usize;
        // A value is written straight into the row unless something else reads it too, which would need
        // the row as input and output of one kernel.
        let mut places: BTreeMap<Var, (Var, usize)> = BTreeMap::new();
        let mut len = 0;
        for metric in &metrics {
            if places.contains_key(&metric.var) {
                continue;
            }
            let size = tape.shape(metric.var).len();
            let direct = tape.is_computed(metric.var) && tape.readers(metric.var) == 0 && tape.shape(metric.var).owned;
            let cadence = metrics.iter().filter(|m| m.var == metric.var).map(|m| m.every).reduce(gcd).unwrap_or(1);
            tape.in_scope(metric.instrument);
            let placed =
                if direct { metric.var } else { tape.at_cadence(cadence, |tape| tape.push1(Copy, &[metric.var]))? };
            places.insert(metric.var, (placed, len));
            len += (replicas * size).next_multiple_of(64);
        }
        let numbers = len.max(64);
        let len = numbers + STAMP;
        let slots = SLOTS.min(gpu.caps().max_binding as usize / 4 / len).max(1);
        let row = gpu.buffer(Class::Metrics, numbers as u64)?;
        let ring = gpu.buffer(Class::Metrics, (len * slots) as u64)?;
        for (placed, offset) in places.values() {
            let stride = tape.shape(*placed).len() as u64;
            bindings.bind(*placed, Storage { buffer: row.clone(), offset: *offset as u64, replica_stride: stride });
        }
        for metric in &mut metrics {
            let (placed, offset) = places[&metric.var];
            metric.offset = offset + metric.first;
            metric.replica_stride = tape.shape(placed).len();
        }
        let row_var = tape.input("metric row", Shape::f32(&[numbers]).shared());
        let ring_var = tape.input("metric ring", Shape::f32(&[slots, len]).shared());
        bindings.bind(row_var, Storage::whole(&row, 0)).bind(ring_var, Storage::whole(&ring, 0));
        tape.in_scope(FILING);
        tape.effect(FileRow { slots }, &[row_var, ring_var, clock])?;
        Ok(Self { metrics, len, ring, slots })
    }
}

crate::params! {
    struct FileParams { len: u32, slots: u32, moves: u32 }
}
static FILE_ROW: Shader<'_> = Shader {
    name: "instrument/file_row",
    source: include_str!("../../shaders/instrument/file_row.wgsl"),
    knobs: &[],
    params: FileParams::FIELDS,
};
pub(super) const SHADERS: &[&[&Shader<'_>]] = &[&[&FILE_ROW]];

/// The step's end: ring[step mod slots] = row and its stamp, and the clock goes on where the model did. Inputs: row, ring,
/// clock.
pub(crate) struct FileRow {
    /// Rows of the ring.
    pub(crate) slots: usize,
}

impl Op for FileRow {
    fn name(&self) -> &'static str {
        "file metric row"
    }

    fn shapes(&self, _inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        let tensors: Vec<&Tensor> = inputs.iter().collect();
        let len = inputs[0].len() as u32;
        for (phase, moves) in [(Phase::Update, 1), (Phase::Still, 0)] {
            let params = FileParams { len, slots: self.slots as u32, moves };
            let grid = grid_1d(u64::from(len).div_ceil(64), 1);
            cx.in_phase(phase, |cx| cx.dispatch(&FILE_ROW, &[], &params, &tensors, grid))?;
        }
        Ok(())
    }

    fn reference(&self, _inputs: &[&crate::autograd::Array]) -> Vec<crate::autograd::Array> {
        Vec::new()
    }
}
