//! AdamW, Adam and SGD with momentum, their schedule, clipping and norms, all on the device.
//!
//! One step: where gradients are clipped or scaled, one pass over them for their norm; one pass over all parameters updates
//! them and leaves sums for each block; one kernel makes norms and pressures of each tensor of them.

use std::sync::Arc;

use super::config::{OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind};
use crate::autograd::check::{Build, Case};
use crate::autograd::ops::{ActFn, Activation};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Phase, Shader, Slot, Tensor, grid_1d};
use crate::instrument::UpdateSummary;
use crate::model::WeightTable;

/// Elements of one block: what a workgroup updates.
const BLOCK: usize = 1024;
/// Sums that `update.wgsl` leaves for each block.
const SUMS: usize = 8;

crate::params! {
    #[derive(bytemuck::Pod, bytemuck::Zeroable)]
    /// Hyper-parameters of one replica, as the kernels read them. What is a difference from 1 is taken
    /// in f64, because 1 - 0.999 in f32 is off by 1e-5.
    pub struct Hyper {
        /// Peak learning rate.
        learning_rate: f32,
        /// Weight decay.
        weight_decay: f32,
        /// Decay of the first moment; momentum of SGD.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta1.
        one_minus_beta1: f32,
        /// 1 - beta2.
        one_minus_beta2: f32,
        /// ln beta1.
        ln_beta1: f32,
        /// ln beta2.
        ln_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Largest norm of the gradient; 0 for no clipping.
        clip: f32,
        /// Steps of linear warm-up.
        warmup: f32,
        /// Steps after which a cosine has come down.
        total: f32,
        /// Share of the peak learning rate a cosine ends at.
        floor: f32,
        /// 1 for a cosine, 0 for a constant.
        cosine: f32,
        /// What gradients are multiplied by in this step so that they keep to the largest norm, or -1 where nothing shall
        /// move; the device writes it.
        factor: f32,
        /// Step from which the moments count: 0, or where they began anew.
        restarted: f32,
    }
}

impl Hyper {
    /// The hyper-parameters of one replica for a run of `steps`.
    pub fn new(optimizer: &OptimizerConfig, schedule: &ScheduleConfig, steps: u64) -> Self {
        let [beta1, beta2] =
            if optimizer.kind == OptimizerKind::Sgd { [optimizer.momentum, 0.0] } else { optimizer.betas };
        // A moment that forgets at once has ln 0; any very negative number gives the same corrections.
        let ln = |beta: f64| beta.ln().max(-1e4) as f32;
        Self {
            learning_rate: optimizer.learning_rate as f32,
            weight_decay: optimizer.weight_decay as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            ln_beta1: ln(beta1),
            ln_beta2: ln(beta2),
            eps: optimizer.eps as f32,
            clip: optimizer.clip as f32,
            warmup: schedule.warmup as f32,
            total: if schedule.steps == 0 { steps } else { schedule.steps } as f32,
            floor: schedule.floor as f32,
            cosine: f32::from(u8::from(schedule.kind == ScheduleKind::Cosine)),
            factor: 1.0,
            restarted: 0.0,
        }
    }

    /// Number of fields.
    pub(crate) const LEN: usize = size_of::<Self>() / 4;

    /// Where a field lies.
    pub(super) fn field(name: &str) -> usize {
        Self::FIELDS.iter().position(|field| field.name == name).unwrap_or(0)
    }
}

const OPTIMIZER: Knob<'_> = Knob { name: "OPTIMIZER", values: &[0, 1, 2] };
crate::params! {
    struct ClipParams { blocks: u32, sums_replica: u32, scale_replica: u32, used_replica: u32, moves: u32 }
}
static CLIP_FACTOR: Shader<'_> = Shader {
    name: "optim/clip_factor",
    source: include_str!("../../shaders/optim/clip_factor.wgsl"),
    knobs: &[Knob { name: "GUARD", values: &[0, 1] }],
    params: ClipParams::FIELDS,
};
crate::params! {
    struct SumParams { first: u32, blocks: u32, base: u32, x_replica: u32, sums_replica: u32 }
}
static SQUARE_SUMS: Shader<'_> = Shader {
    name: "optim/square_sums",
    source: include_str!("../../shaders/optim/square_sums.wgsl"),
    knobs: &[],
    params: SumParams::FIELDS,
};
crate::params! {
    struct UpdateParams {
        first: u32, blocks: u32, base: u32, weights_replica: u32, grads_replica: u32, moments_replica: u32,
        sums_replica: u32, moves: u32,
    }
}
static UPDATE: Shader<'_> = Shader {
    name: "optim/update",
    source: include_str!("../../shaders/optim/update.wgsl"),
    knobs: &[OPTIMIZER],
    params: UpdateParams::FIELDS,
};
static WEIGHT_SUMS: Shader<'_> = Shader {
    name: "optim/weight_sums",
    source: include_str!("../../shaders/optim/weight_sums.wgsl"),
    knobs: &[],
    params: SumParams::FIELDS,
};
crate::params! {
    struct SummaryParams {
        tensors: u32, decoupled: u32, sums_replica: u32, out_replica: u32,
    }
}
static TENSOR_SUMMARY: Shader<'_> = Shader {
    name: "optim/tensor_summary",
    source: include_str!("../../shaders/optim/tensor_summary.wgsl"),
    knobs: &[],
    params: SummaryParams::FIELDS,
};
/// Every kernel of the optimizers.
pub fn shaders() -> Vec<&'static Shader<'static>> {
    vec![&CLIP_FACTOR, &SQUARE_SUMS, &UPDATE, &WEIGHT_SUMS, &TENSOR_SUMMARY]
}

/// The parameters cut into blocks of at most [`BLOCK`] elements, none across two tensors.
struct Blocks {
    /// For each block: first element, elements rounded up to vectors of four, whether it decays, elements.
    rows: Vec<u32>,
    /// For each tensor: first block, number of blocks, elements, whether it decays.
    tensors: Vec<u32>,
}

impl Blocks {
    fn new(table: &WeightTable, decays: &[bool]) -> Self {
        let (mut rows, mut tensors) = (Vec::new(), Vec::new());
        for (spec, decays) in table.specs().iter().zip(decays) {
            let first_block = rows.len() as u32 / 4;
            for first in (0..spec.len()).step_by(BLOCK) {
                // The gap behind a tensor is zero and stays zero, so whole vectors may be updated.
                let len = (spec.len() - first).min(BLOCK);
                let vectors = len.next_multiple_of(4) as u32;
                rows.extend([(spec.offset + first) as u32, vectors, u32::from(*decays), len as u32]);
            }
            let blocks = rows.len() as u32 / 4 - first_block;
            tensors.extend([first_block, blocks, spec.len() as u32, u32::from(*decays)]);
        }
        Self { rows, tensors }
    }

    fn len(&self) -> usize {
        self.rows.len() / 4
    }
}

/// Blocks in parts that a device can bind: each is a dispatch of its own, and leaves the sums that it would leave beside
/// the others.
#[derive(Clone)]
struct Parts {
    /// First element of each block, and the end of the last.
    starts: Arc<[u32]>,
    /// Bytes that may be bound at once.
    binding: u64,
}

/// Blocks from `first` to `blocks`; what is bound begins with element `base`.
struct Part {
    first: u32,
    blocks: u32,
    base: u32,
    elements: u64,
}

impl Parts {
    fn new(rows: &[u32], len: usize, binding: u64) -> Self {
        let starts = rows.iter().step_by(4).copied().chain([len as u32]);
        Self { starts: starts.collect(), binding }
    }

    /// The parts, where `behind` elements of other replicas are bound with each.
    fn cut(&self, behind: u64) -> Vec<Part> {
        let (starts, room) = (&self.starts, (self.binding / 4).saturating_sub(behind));
        let mut parts = Vec::new();
        let mut first = 0;
        while first + 1 < starts.len() {
            let limit = u64::from(starts[first]) + room;
            // No block is divided: one that does not fit is refused where it is bound.
            let end = (starts.partition_point(|start| u64::from(*start) <= limit) - 1).max(first + 1);
            let elements = u64::from(starts[end] - starts[first]);
            parts.push(Part { first: first as u32, blocks: end as u32, base: starts[first], elements });
            first = end;
        }
        parts
    }

    /// Dispatches for each part with the `flat` tensors, [P] all of them, narrowed to it.
    fn each(
        &self,
        cx: &mut Lower<'_>,
        flat: &[Tensor],
        mut dispatch: impl FnMut(&mut Lower<'_>, &Part, &[Tensor], [u32; 3]) -> Result<()>,
    ) -> Result<()> {
        let replicas = cx.replicas;
        let before = |tensor: &Tensor| u64::from(replicas - 1) * u64::from(tensor.replica_stride);
        for part in self.cut(flat.iter().map(before).max().unwrap_or(0)) {
            let narrowed: Vec<Tensor> = flat
                .iter()
                .map(|tensor| match &tensor.slot {
                    Slot::Fixed { buffer, offset, .. } => {
                        let size = 4 * (before(tensor) + part.elements);
                        let slot =
                            Slot::Fixed { buffer: buffer.clone(), offset: offset + 4 * u64::from(part.base), size };
                        Tensor { slot, ..tensor.clone() }
                    }
                    Slot::Planned(_) => tensor.clone(),
                })
                .collect();
            dispatch(cx, &part, &narrowed, grid_1d(u64::from(part.blocks - part.first), replicas))?;
        }
        Ok(())
    }

    /// Sums of each block, by a kernel that takes what is summed, [P], and the blocks.
    fn sums(
        &self,
        cx: &mut Lower<'_>,
        shader: &'static Shader<'static>,
        inputs: &[Tensor],
        sums: &Tensor,
    ) -> Result<()> {
        self.each(cx, &inputs[..1], |cx, part, flat, grid| {
            let params = SumParams {
                first: part.first,
                blocks: part.blocks,
                base: part.base,
                x_replica: flat[0].replica_stride / 4,
                sums_replica: sums.replica_stride,
            };
            cx.dispatch(shader, &[], &params, &[&flat[0], &inputs[1], sums], grid)
        })
    }
}

/// The variables the optimizer works on, [P] except where said.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) weights: Var,
    pub(super) grads: Var,
    /// First moment; SGD's velocity.
    pub(super) first: Var,
    pub(super) second: Var,
    /// [`Hyper::LEN`] numbers.
    pub(super) hyper: Var,
    /// The step's number, and the next one's, which [`Update`] writes: [2], shared.
    pub(super) clock: Var,
    /// Where gradients are scaled: by what, a power of two, and its inverse, [1].
    pub(super) scale: Option<(Var, Var)>,
}

/// A step of the optimizer.
pub(super) struct Step<'a> {
    pub(super) table: &'a WeightTable,
    /// Whether each tensor decays.
    pub(super) decays: &'a [bool],
    pub(super) kind: OptimizerKind,
    /// Whether gradients are clipped.
    pub(super) clip: bool,
    /// Whether weights are ever moved. Where not, only what is read of the kernels runs, and leaves everything as it is.
    pub(super) trains: bool,
    /// Bytes that the device binds at once: weights beyond that are walked in parts.
    pub(super) binding: u64,
}

impl Step<'_> {
    /// Appends the step.
    pub(super) fn append(&self, tape: &mut Tape, state: State) -> Result<UpdateSummary> {
        let &Self { table, kind, trains, .. } = self;
        let blocks = Blocks::new(table, self.decays);
        let rows = tape.constant_u32(&[blocks.len(), 4], &blocks.rows);
        let tensors = tape.constant_u32(&[table.specs().len(), 4], &blocks.tensors);
        let parts = Parts::new(&blocks.rows, table.len(), self.binding);
        let mut loss_scale = None;
        if trains && (self.clip || state.scale.is_some()) {
            // The gradient's norm must be known before anything moves: one reading pass more.
            let sums = tape.push1(SquareSums(parts.clone()), &[state.grads, rows])?;
            let mut inputs = vec![sums, state.hyper];
            inputs.extend(state.scale.map(|(scale, inverse)| [scale, inverse]).into_iter().flatten());
            loss_scale = tape.effect(ClipFactor, &inputs)?.first().copied();
        }
        let inputs = [state.weights, state.grads, state.first, state.second, state.hyper, state.clock, rows];
        let update = Update { kind, parts: parts.clone() };
        let sums = if trains { tape.effect(update, &inputs)? } else { tape.push(update, &inputs)? }[0];
        // Only instruments read it, and several do.
        let before = tape.in_scope("update summary");
        let summary =
            |tape: &mut Tape, sums: Var| tape.push1(TensorSummary { kind }, &[sums, tensors, state.hyper, state.clock]);
        let of_update = summary(tape, sums)?;
        let weights = if trains {
            of_update
        } else {
            let sums = tape.push1(WeightSums(parts), &[state.weights, rows])?;
            summary(tape, sums)?
        };
        tape.in_scope(before);
        Ok(UpdateSummary { tensors: of_update, weights, adaptive: kind != OptimizerKind::Sgd, loss_scale })
    }
}

/// Sums of squares of each block of the gradients. Inputs: gradients [P], blocks [n, 4].
struct SquareSums(Parts);

impl Op for SquareSums {
    fn name(&self) -> &'static str {
        "square sums"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[1].dims[0]]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        self.0.sums(cx, &SQUARE_SUMS, inputs, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let sum = |block: usize| {
            let (first, len) = (inputs[1].index(block * 4), inputs[1].index(block * 4 + 1));
            inputs[0].data[first..first + len].iter().map(|g| g * g).sum()
        };
        vec![Array::from_fn(&[inputs[1].dims[0]], sum)]
    }
}

/// Writes the factor among the hyper-parameters, by which the gradient's norm keeps to the limit. Inputs: square sums,
/// hyper; and where gradients are scaled, the scale and its inverse. Where the norm is not finite then, nothing moves and
/// the scale is halved; the output, [1], is what it was.
struct ClipFactor;

impl Op for ClipFactor {
    fn name(&self) -> &'static str {
        "clip factor"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(inputs.get(2).map(|scale| (*scale).clone()).into_iter().collect())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let stride = |tensor: Option<&Tensor>| tensor.map_or(0, |t| t.replica_stride);
        for (phase, moves) in [(Phase::Update, 1), (Phase::Still, 0)] {
            let params = ClipParams {
                blocks: inputs[0].len() as u32,
                sums_replica: inputs[0].replica_stride,
                scale_replica: stride(inputs.get(2)),
                used_replica: stride(outputs.first()),
                moves,
            };
            let knobs = [u32::from(inputs.len() > 2)];
            cx.in_phase(phase, |cx| cx.dispatch(&CLIP_FACTOR, &knobs, &params, &tensors, [1, 1, cx.replicas]))?;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        inputs.get(2).map(|scale| (*scale).clone()).into_iter().collect()
    }
}

/// A hyper-parameter by name.
fn hyper(of: &Array, name: &str) -> f64 {
    of.data[Hyper::field(name)]
}

/// Learning rate, step size and 1/√(1 - beta2^t) of a step, in f64.
fn rates(kind: OptimizerKind, of: &Array, step: f64) -> [f64; 3] {
    let hyper = |name: &str| hyper(of, name);
    let warm = if hyper("warmup") > 0.0 { (step / hyper("warmup")).min(1.0) } else { 1.0 };
    let share = ((step - hyper("warmup")) / (hyper("total") - hyper("warmup")).max(1.0)).clamp(0.0, 1.0);
    let fall = hyper("floor") + (1.0 - hyper("floor")) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
    let rate = hyper("learning_rate") * warm * if hyper("cosine") == 1.0 { fall } else { 1.0 };
    let left = |ln: f64| -((step - hyper("restarted") + 1.0) * ln).exp_m1();
    match kind {
        OptimizerKind::Sgd => [rate, rate, 1.0],
        _ => [rate, rate / left(hyper("ln_beta1")), 1.0 / left(hyper("ln_beta2")).sqrt()],
    }
}

/// One pass over all parameters. Inputs: weights, gradients, first and second moment, hyper, clock, blocks. Output: for each block the sums that `update.wgsl` names.
struct Update {
    kind: OptimizerKind,
    parts: Parts,
}

impl Op for Update {
    fn name(&self) -> &'static str {
        "optimizer update"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[6].dims[0], SUMS]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        for (phase, moves) in [(Phase::Update, 1), (Phase::Still, 0)] {
            self.parts.each(cx, &inputs[..4], |cx, part, flat, grid| {
                let params = UpdateParams {
                    first: part.first,
                    blocks: part.blocks,
                    base: part.base,
                    weights_replica: flat[0].replica_stride / 4,
                    grads_replica: flat[1].replica_stride / 4,
                    moments_replica: flat[2].replica_stride / 4,
                    sums_replica: outputs[0].replica_stride,
                    moves,
                };
                let tensors: Vec<&Tensor> = flat.iter().chain(&inputs[4..]).chain(outputs).collect();
                cx.in_phase(phase, |cx| cx.dispatch(&UPDATE, &[self.kind as u32], &params, &tensors, grid))
            })?;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [w, g, m, v, hyper, clock, blocks] = inputs else { return Vec::new() };
        let rates = rates(self.kind, hyper, clock.data[0]);
        let mut sums = Array::zeros(&[blocks.dims[0], SUMS]);
        for (row, sums) in blocks.data.chunks_exact(4).zip(sums.data.chunks_exact_mut(SUMS)) {
            let first = row[0] as usize;
            for i in first..first + row[3] as usize {
                let (w, g) = (w.data[i], g.data[i]);
                let moved = moved(self.kind, hyper, rates, row[2] != 0.0, [w, g, m.data[i], v.data[i]]);
                let (delta, push) = (moved.weight - w, moved.push);
                let tiny = f64::from(moved.tiny);
                let terms = [w * w, g * g, delta * delta, w * push, push * push, g * delta, tiny, w * delta];
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum += term;
                }
            }
        }
        vec![sums]
    }
}

/// What [`Update`] leaves where there are no gradients and nothing moves. Inputs: weights [P], blocks [n, 4].
struct WeightSums(Parts);

impl Op for WeightSums {
    fn name(&self) -> &'static str {
        "weight sums"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[1].dims[0], SUMS]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        self.0.sums(cx, &WEIGHT_SUMS, inputs, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut sums = Array::zeros(&[inputs[1].dims[0], SUMS]);
        for (row, sums) in inputs[1].data.chunks_exact(4).zip(sums.data.chunks_exact_mut(SUMS)) {
            sums[0] = inputs[0].data[row[0] as usize..][..row[3] as usize].iter().map(|w| w * w).sum();
        }
        vec![sums]
    }
}

/// One parameter after a step.
struct Moved {
    weight: f64,
    /// What the gradient contributed, where decay acts beside it.
    push: f64,
    /// Whether the root of the second moment lies below eps.
    tiny: bool,
}

/// A step in f64: decoupled decay for AdamW (Loshchilov and Hutter 2019, as PyTorch has it), decay added to
/// the gradient for Adam and SGD.
fn moved(
    kind: OptimizerKind,
    of: &Array,
    [rate, size, root]: [f64; 3],
    decays: bool,
    [w, gradient, m, v]: [f64; 4],
) -> Moved {
    let h = |name: &str| hyper(of, name);
    let decay = if decays { h("weight_decay") } else { 0.0 };
    let g = gradient * h("factor") + if kind == OptimizerKind::Adamw { 0.0 } else { decay * w };
    let push = -rate * gradient * h("factor");
    if kind == OptimizerKind::Sgd {
        return Moved { weight: w - rate * (h("beta1") * m + g), push, tiny: false };
    }
    let m = h("beta1") * m + h("one_minus_beta1") * g;
    let v = h("beta2") * v + h("one_minus_beta2") * g * g;
    let typical = v.sqrt() * root;
    let (step, tiny) = (size * m / (typical + h("eps")), typical < h("eps"));
    match kind {
        OptimizerKind::Adamw => Moved { weight: w * (1.0 - rate * decay) - step, push: -step, tiny },
        _ => Moved { weight: w - step, push, tiny },
    }
}

/// The numbers of [`UpdateSummary`] for each tensor. Inputs: block sums [n, 8], tensors [T, 4], hyper, clock.
struct TensorSummary {
    kind: OptimizerKind,
}

impl Op for TensorSummary {
    fn name(&self) -> &'static str {
        "tensor summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[1].dims[0], UpdateSummary::COLUMNS]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let tensors = outputs[0].dims[0] as u32;
        let params = SummaryParams {
            tensors,
            decoupled: u32::from(self.kind == OptimizerKind::Adamw),
            sums_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let bound: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&TENSOR_SUMMARY, &[], &params, &bound, grid_1d(u64::from(tensors), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [sums, tensors, of, clock] = inputs else { return Vec::new() };
        let [rate, ..] = rates(self.kind, of, clock.data[0]);
        let share = |part: f64, of: f64| if of == 0.0 { 0.0 } else { part / of };
        let summary = |tensor: &[f64]| {
            let (first, blocks, elements) = (tensor[0] as usize, tensor[1] as usize, tensor[2]);
            let sum = |column: usize| (first..first + blocks).map(|b| sums.data[b * SUMS + column]).sum::<f64>();
            let [w, update, push] = [0, 2, 4].map(|column| sum(column).sqrt());
            let decay = rate * tensor[3] * hyper(of, "weight_decay") * w;
            let decoupled = self.kind == OptimizerKind::Adamw;
            let (step, along) = if decoupled { (push, share(sum(3), w)) } else { (update, share(sum(7), w)) };
            [
                w,
                sum(1).sqrt(),
                update,
                share(update, w),
                step / elements.sqrt(),
                share(decay, decay + push),
                share(-sum(3), w * push),
                sum(5),
                sum(6) / elements,
                share(sum(7), w * w),
                share(sum(3), w * w),
                share((step * step - along * along).max(0.0).sqrt(), w),
            ]
        };
        let out: Vec<f64> = tensors.data.chunks_exact(4).flat_map(summary).collect();
        vec![Array::new(&[tensors.dims[0], UpdateSummary::COLUMNS], out)]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("AdamW", |case| check(case, OptimizerKind::Adamw)),
    ("Adam", |case| check(case, OptimizerKind::Adam)),
    ("SGD", |case| check(case, OptimizerKind::Sgd)),
];

/// One update, seen through the norms it leaves behind.
fn check(case: &mut Case, kind: OptimizerKind) -> Result<(Vec<Var>, Vec<Var>)> {
    let [w, g, m, v] = [(); 4].map(|()| case.owned(&[2 * BLOCK]));
    let v = case.tape.push1(Activation(ActFn::Relu), &[v])?;
    let hyper = Hyper::new(&OptimizerConfig { kind, ..Default::default() }, &ScheduleConfig::default(), 100);
    let hyper: Vec<f32> = bytemuck::cast_slice(&[hyper]).repeat(case.tape.replicas() as usize);
    let hyper = case.tape.constant_owned(&[Hyper::LEN], &hyper);
    let clock = case.tape.constant_u32(&[2], &[4, 0]);
    let block = BLOCK as u32;
    let of_rows = [0, block, 1, block, block, block, 0, block];
    let rows = case.tape.constant_u32(&[2, 4], &of_rows);
    let parts = Parts::new(&of_rows, 2 * BLOCK, u64::MAX);
    let tensors = case.tape.constant_u32(&[2, 4], &[0, 1, block, 1, 1, 1, block, 0]);
    let squares = case.tape.push1(SquareSums(parts.clone()), &[g, rows])?;
    // Before they move.
    let still = case.tape.push1(WeightSums(parts.clone()), &[w, rows])?;
    let sums = case.tape.effect(Update { kind, parts }, &[w, g, m, v, hyper, clock, rows])?[0];
    let summary = case.tape.push1(TensorSummary { kind }, &[sums, tensors, hyper, clock])?;
    Ok((vec![squares, sums, summary, still], Vec::new()))
}
