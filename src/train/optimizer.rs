//! AdamW, Adam and SGD with momentum, their schedule, clipping and norms, all on the device.
//!
//! One step: square sums of the gradients where clipping needs them; one kernel per replica turns step
//! and hyper-parameters into coefficients; one pass over all parameters updates them and leaves the
//! norms as partial sums.

use super::config::{OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind};
use crate::autograd::check::{Build, Case};
use crate::autograd::ops::{ActFn, Activation};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Phase, Shader, Tensor, grid_1d};
use crate::instrument::UpdateNorms;
use crate::model::WeightTable;

/// Elements of one block: what a workgroup updates.
const BLOCK: usize = 1024;

crate::gpu::params! {
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
        }
    }

    /// Number of fields.
    pub(crate) const LEN: usize = size_of::<Self>() / 4;
}

/// Numbers `coefficients.wgsl` works out for one replica and step: learning rate, step size,
/// 1/√(1 - beta2^t), factor of the gradient, and whether anything moves at all.
const COEFFICIENTS: usize = 5;

const OPTIMIZER: Knob = Knob { name: "OPTIMIZER", values: &[0, 1, 2] };
crate::gpu::params! {
    struct CoefficientParams { blocks: u32, sums_replica: u32, out_replica: u32, moves: f32 }
}
static COEFFICIENTS_SHADER: Shader = Shader {
    name: "optim/coefficients",
    source: include_str!("../../shaders/optim/coefficients.wgsl"),
    knobs: &[OPTIMIZER, Knob { name: "CLIP", values: &[0, 1] }],
    params: CoefficientParams::FIELDS,
};
crate::gpu::params! {
    struct SquareSumParams { blocks: u32, grads_replica: u32, sums_replica: u32 }
}
static SQUARE_SUMS: Shader = Shader {
    name: "optim/square_sums",
    source: include_str!("../../shaders/optim/square_sums.wgsl"),
    knobs: &[],
    params: SquareSumParams::FIELDS,
};
crate::gpu::params! {
    struct UpdateParams {
        blocks: u32, weights_replica: u32, grads_replica: u32, moments_replica: u32,
        coefficients_replica: u32, sums_replica: u32,
    }
}
static UPDATE: Shader = Shader {
    name: "optim/update",
    source: include_str!("../../shaders/optim/update.wgsl"),
    knobs: &[OPTIMIZER],
    params: UpdateParams::FIELDS,
};
crate::gpu::params! {
    struct NormParams { tensors: u32, column: u32, sums_replica: u32, out_replica: u32 }
}
static TENSOR_NORMS: Shader = Shader {
    name: "optim/tensor_norms",
    source: include_str!("../../shaders/optim/tensor_norms.wgsl"),
    knobs: &[],
    params: NormParams::FIELDS,
};
crate::gpu::params! {
    struct AdvanceParams { by: u32 }
}
static ADVANCE: Shader = Shader {
    name: "optim/advance",
    source: include_str!("../../shaders/optim/advance.wgsl"),
    knobs: &[],
    params: AdvanceParams::FIELDS,
};

/// Every kernel of the optimizers.
pub fn shaders() -> Vec<&'static Shader> {
    vec![&COEFFICIENTS_SHADER, &SQUARE_SUMS, &UPDATE, &TENSOR_NORMS, &ADVANCE]
}

/// The parameters cut into blocks of at most [`BLOCK`] elements, none across two tensors.
struct Blocks {
    /// For each block: first element, elements rounded up to vectors of four, whether it decays, 0.
    rows: Vec<u32>,
    /// For each tensor: first block and number of blocks.
    tensors: Vec<u32>,
}

impl Blocks {
    fn new(table: &WeightTable, decays: &[bool]) -> Self {
        let (mut rows, mut tensors) = (Vec::new(), Vec::new());
        for (spec, decays) in table.specs().iter().zip(decays) {
            let first_block = rows.len() as u32 / 4;
            for first in (0..spec.len()).step_by(BLOCK) {
                // The gap behind a tensor is zero and stays zero, so whole vectors may be updated.
                let len = (spec.len() - first).min(BLOCK).next_multiple_of(4);
                rows.extend([(spec.offset + first) as u32, len as u32, u32::from(*decays), 0]);
            }
            tensors.extend([first_block, rows.len() as u32 / 4 - first_block]);
        }
        Self { rows, tensors }
    }

    fn len(&self) -> usize {
        self.rows.len() / 4
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
    /// Step counter, [1], shared.
    pub(super) clock: Var,
}

/// Appends one step of the optimizer. When the program only measures, the same kernels run and leave
/// everything as it is.
pub(super) fn append(
    tape: &mut Tape,
    table: &WeightTable,
    decays: &[bool],
    kind: OptimizerKind,
    clip: bool,
    state: State,
) -> Result<UpdateNorms> {
    let blocks = Blocks::new(table, decays);
    let rows = tape.constant_u32(&[blocks.len(), 4], &blocks.rows);
    let tensors = tape.constant_u32(&[table.specs().len(), 2], &blocks.tensors);
    let mut inputs = vec![state.hyper, state.clock];
    if clip {
        // The gradient's norm must be known before anything moves: one reading pass more.
        inputs.push(tape.push1(SquareSums, &[state.grads, rows])?);
    }
    let coefficients = tape.push1(Coefficients { kind }, &inputs)?;
    let inputs = [state.weights, state.grads, state.first, state.second, state.hyper, coefficients, rows];
    let sums = tape.effect(Update { kind }, &inputs)?[0];
    let before = tape.in_scope(UpdateNorms::INSTRUMENT);
    let mut norms = |column: u32| tape.push1(TensorNorms { column }, &[sums, tensors]);
    let norms = UpdateNorms { weight: norms(0)?, grad: norms(1)?, update: norms(2)? };
    tape.in_scope(before);
    Ok(norms)
}

/// Appends what ends a step: the clock goes on.
pub(super) fn advance(tape: &mut Tape, clock: Var) -> Result<()> {
    tape.effect(Advance, &[clock]).map(|_| ())
}

/// Sums of squares of each block of the gradients. Inputs: gradients [P], blocks [n, 4].
struct SquareSums;

impl Op for SquareSums {
    fn name(&self) -> &'static str {
        "square sums"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[1].dims[0]]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let blocks = outputs[0].len() as u32;
        let params = SquareSumParams {
            blocks,
            grads_replica: inputs[0].replica_stride / 4,
            sums_replica: outputs[0].replica_stride,
        };
        let tensors = [&inputs[0], &inputs[1], &outputs[0]];
        cx.dispatch(&SQUARE_SUMS, &[], &params, &tensors, grid_1d(u64::from(blocks), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let sum = |block: usize| {
            let (first, len) = (inputs[1].index(block * 4), inputs[1].index(block * 4 + 1));
            inputs[0].data[first..first + len].iter().map(|g| g * g).sum()
        };
        vec![Array::from_fn(&[inputs[1].dims[0]], sum)]
    }
}

/// Learning rate, step size, correction and clip factor of this step. Inputs: hyper, clock, and the
/// gradient's square sums where it is clipped.
struct Coefficients {
    kind: OptimizerKind,
}

impl Op for Coefficients {
    fn name(&self) -> &'static str {
        "optimizer coefficients"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[COEFFICIENTS]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let sums = inputs.get(2);
        let mut tensors = vec![&inputs[0], &inputs[1], &outputs[0]];
        tensors.extend(sums);
        let knobs = [self.kind as u32, u32::from(sums.is_some())];
        for (phase, moves) in [(Phase::Update, 1.0), (Phase::Still, 0.0)] {
            let params = CoefficientParams {
                blocks: sums.map_or(0, |t| t.len() as u32),
                sums_replica: sums.map_or(0, |t| t.replica_stride),
                out_replica: outputs[0].replica_stride,
                moves,
            };
            cx.in_phase(phase, |cx| cx.dispatch(&COEFFICIENTS_SHADER, &knobs, &params, &tensors, [1, 1, cx.replicas]))?;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let hyper = |name: &str| inputs[0].data[Hyper::FIELDS.iter().position(|f| f.name == name).unwrap_or(0)];
        let step = inputs[1].data[0];
        let warm = if hyper("warmup") > 0.0 { (step / hyper("warmup")).min(1.0) } else { 1.0 };
        let share = ((step - hyper("warmup")) / (hyper("total") - hyper("warmup")).max(1.0)).clamp(0.0, 1.0);
        let fall = hyper("floor") + (1.0 - hyper("floor")) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        let rate = hyper("learning_rate") * warm * if hyper("cosine") == 1.0 { fall } else { 1.0 };
        let left = |ln: f64| -((step + 1.0) * ln).exp_m1();
        let (size, root) = match self.kind {
            OptimizerKind::Sgd => (rate, 1.0),
            _ => (rate / left(hyper("ln_beta1")), 1.0 / left(hyper("ln_beta2")).sqrt()),
        };
        let factor = inputs.get(2).map_or(1.0, |sums| {
            let norm = sums.data.iter().sum::<f64>().sqrt();
            if hyper("clip") > 0.0 { (hyper("clip") / (norm + 1e-6)).min(1.0) } else { 1.0 }
        });
        vec![Array::new(&[COEFFICIENTS], vec![rate, size, root, factor, 1.0])]
    }
}

/// One pass over all parameters. Inputs: weights, gradients, first and second moment, hyper,
/// coefficients, blocks. Output: for each block, sums of squares of weights, gradients and updates.
struct Update {
    kind: OptimizerKind,
}

impl Op for Update {
    fn name(&self) -> &'static str {
        "optimizer update"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[6].dims[0], 3]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let blocks = outputs[0].dims[0] as u32;
        let params = UpdateParams {
            blocks,
            weights_replica: inputs[0].replica_stride / 4,
            grads_replica: inputs[1].replica_stride / 4,
            moments_replica: inputs[2].replica_stride / 4,
            coefficients_replica: inputs[5].replica_stride,
            sums_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&UPDATE, &[self.kind as u32], &params, &tensors, grid_1d(u64::from(blocks), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [w, g, m, v, hyper, coefficients, blocks] = inputs else { return Vec::new() };
        let mut sums = Array::zeros(&[blocks.dims[0], 3]);
        for (row, sums) in blocks.data.chunks_exact(4).zip(sums.data.chunks_exact_mut(3)) {
            let first = row[0] as usize;
            for i in first..first + row[1] as usize {
                let moved =
                    moved(self.kind, hyper, coefficients, row[2] != 0.0, [w.data[i], g.data[i], m.data[i], v.data[i]]);
                sums[0] += w.data[i].powi(2);
                sums[1] += g.data[i].powi(2);
                sums[2] += (moved[0] - w.data[i]).powi(2);
            }
        }
        vec![sums]
    }
}

/// Weight and moments of one parameter after a step, in f64: decoupled decay for AdamW (Loshchilov and
/// Hutter 2019, as PyTorch has it), decay added to the gradient for Adam and SGD.
pub(super) fn moved(
    kind: OptimizerKind,
    hyper: &Array,
    coefficients: &Array,
    decays: bool,
    [w, g, m, v]: [f64; 4],
) -> [f64; 3] {
    let h = |name: &str| hyper.data[Hyper::FIELDS.iter().position(|f| f.name == name).unwrap_or(0)];
    let [rate, size, root, factor, _] = coefficients.data[..] else { return [w, m, v] };
    let decay = if decays { h("weight_decay") } else { 0.0 };
    let g = g * factor + if kind == OptimizerKind::Adamw { 0.0 } else { decay * w };
    if kind == OptimizerKind::Sgd {
        let m = h("beta1") * m + g;
        return [w - rate * m, m, v];
    }
    let m = h("beta1") * m + h("one_minus_beta1") * g;
    let v = h("beta2") * v + h("one_minus_beta2") * g * g;
    let kept = if kind == OptimizerKind::Adamw { w * (1.0 - rate * decay) } else { w };
    [kept - size * m / (v.sqrt() * root + h("eps")), m, v]
}

/// Norm of each tensor from one column of the block sums. Inputs: sums [n, 3], tensors [T, 2].
struct TensorNorms {
    column: u32,
}

impl Op for TensorNorms {
    fn name(&self) -> &'static str {
        "tensor norms"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[inputs[1].dims[0]]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let tensors = outputs[0].len() as u32;
        let params = NormParams {
            tensors,
            column: self.column,
            sums_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        cx.dispatch(
            &TENSOR_NORMS,
            &[],
            &params,
            &[&inputs[0], &inputs[1], &outputs[0]],
            grid_1d(u64::from(tensors), cx.replicas),
        )
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let norm = |tensor: usize| {
            let (first, count) = (inputs[1].index(tensor * 2), inputs[1].index(tensor * 2 + 1));
            (first..first + count).map(|b| inputs[0].data[b * 3 + self.column as usize]).sum::<f64>().sqrt()
        };
        vec![Array::from_fn(&[inputs[1].dims[0]], norm)]
    }
}

/// clock += 1, in the update only.
struct Advance;

impl Op for Advance {
    fn name(&self) -> &'static str {
        "advance"
    }

    fn shapes(&self, _inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        cx.in_phase(Phase::Update, |cx| cx.dispatch(&ADVANCE, &[], &AdvanceParams { by: 1 }, &[&inputs[0]], [1, 1, 1]))
    }

    fn reference(&self, _inputs: &[&Array]) -> Vec<Array> {
        Vec::new()
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("AdamW", |case| check(case, OptimizerKind::Adamw)),
    ("Adam", |case| check(case, OptimizerKind::Adam)),
    ("SGD", |case| check(case, OptimizerKind::Sgd)),
];

/// One update, seen through its coefficients and the norms it leaves behind.
fn check(case: &mut Case, kind: OptimizerKind) -> Result<(Vec<Var>, Vec<Var>)> {
    let [w, g, m, v] = [(); 4].map(|()| case.owned(&[2 * BLOCK]));
    let v = case.tape.push1(Activation(ActFn::Relu), &[v])?;
    let hyper = Hyper::new(&OptimizerConfig { kind, ..Default::default() }, &ScheduleConfig::default(), 100);
    let hyper: Vec<f32> = bytemuck::cast_slice(&[hyper]).repeat(case.tape.replicas() as usize);
    let hyper = case.tape.constant_owned(&[Hyper::LEN], &hyper);
    let clock = case.tape.constant_u32(&[1], &[4]);
    let block = BLOCK as u32;
    let rows = case.tape.constant_u32(&[2, 4], &[0, block, 1, 0, block, block, 0, 0]);
    let coefficients = case.tape.push1(Coefficients { kind }, &[hyper, clock])?;
    let sums = case.tape.effect(Update { kind }, &[w, g, m, v, hyper, coefficients, rows])?[0];
    Ok((vec![coefficients, sums], Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Bindings;
    use crate::gpu::{Class, Gpu, Philox, Select, Storage, Stream, read_now};
    use crate::model::ModelConfig;

    const REPLICAS: usize = 2;
    const STEPS: u64 = 8;

    /// One parameter as PyTorch's documentation writes AdamW, Adam (decay as L2) and SGD with momentum.
    struct Textbook {
        w: f64,
        m: f64,
        v: f64,
    }

    impl Textbook {
        fn step(&mut self, config: &OptimizerConfig, rate: f64, decay: f64, g: f64, t: i32) {
            let [b1, b2] = config.betas;
            if config.kind == OptimizerKind::Sgd {
                self.m = config.momentum * self.m + g + decay * self.w;
                self.w -= rate * self.m;
                return;
            }
            let l2 = if config.kind == OptimizerKind::Adam { decay * self.w } else { 0.0 };
            if config.kind == OptimizerKind::Adamw {
                self.w -= rate * decay * self.w;
            }
            self.m = b1 * self.m + (1.0 - b1) * (g + l2);
            self.v = b2 * self.v + (1.0 - b2) * (g + l2) * (g + l2);
            let (m, v) = (self.m / (1.0 - b1.powi(t)), self.v / (1.0 - b2.powi(t)));
            self.w -= rate * m / (v.sqrt() + config.eps);
        }
    }

    fn rate(config: &OptimizerConfig, schedule: &ScheduleConfig, step: u64) -> f64 {
        let warm = if schedule.warmup > 0 { (step as f64 / schedule.warmup as f64).min(1.0) } else { 1.0 };
        let share = (step as f64 - schedule.warmup as f64) / (schedule.steps as f64 - schedule.warmup as f64);
        let fall = match schedule.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => {
                let half = 0.5 * (1.0 + (std::f64::consts::PI * share.clamp(0.0, 1.0)).cos());
                schedule.floor + (1.0 - schedule.floor) * half
            }
        };
        config.learning_rate * warm * fall
    }

    fn floats(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
        read_now(gpu, buffer, 0..buffer.size()).unwrap().into_iter().map(f32::from_bits).collect()
    }

    fn follow(gpu: &Gpu, configs: &[OptimizerConfig; REPLICAS], schedule: &ScheduleConfig) {
        let model = ModelConfig { d_model: 6, n_heads: 2, d_vocab: 5, d_vocab_out: 7, n_ctx: 3, ..Default::default() };
        let table = WeightTable::new(&model.resolve().unwrap());
        let decays: Vec<bool> = (0..table.specs().len()).map(|tensor| tensor % 3 != 1).collect();
        let len = table.len();
        let mut tape = Tape::new(REPLICAS as u32);
        let state = State {
            weights: tape.input("weights", Shape::f32(&[len])),
            grads: tape.input("gradients", Shape::f32(&[len])),
            first: tape.input("first", Shape::f32(&[len])),
            second: tape.input("second", Shape::f32(&[len])),
            hyper: tape.input("hyper", Shape::f32(&[Hyper::LEN])),
            clock: tape.input("clock", Shape::u32(&[1]).shared()),
        };
        let clip = configs[0].clip;
        let norms = append(&mut tape, &table, &decays, configs[0].kind, clip > 0.0, state).unwrap();
        advance(&mut tape, state.clock).unwrap();

        // Gaps between tensors are zero, as a session has them.
        let mut draws = 0;
        let mut fill = |scale: f64| {
            let mut data = vec![0.0f32; REPLICAS * len];
            for replica in data.chunks_exact_mut(len) {
                for spec in table.specs() {
                    for x in &mut replica[spec.offset..][..spec.len()] {
                        draws += 1;
                        *x = (scale * Philox::new(7, Stream::Weights, 0).normals(draws)[0]) as f32;
                    }
                }
            }
            data
        };
        let weights_before = fill(0.5);
        let gradients: Vec<Vec<f32>> = (0..STEPS).map(|step| fill(0.1 + step as f64)).collect();
        let hyper: Vec<Hyper> = configs.iter().map(|config| Hyper::new(config, schedule, 1)).collect();
        let hyper_words: &[f32] = bytemuck::cast_slice(&hyper);
        let weights = gpu.upload(Class::Weights, &weights_before).unwrap();
        let grads = gpu.upload(Class::Gradients, &gradients[0]).unwrap();
        let [first, second] = [(); 2].map(|()| gpu.upload(Class::Optimizer, &vec![0.0f32; REPLICAS * len]).unwrap());
        let out = [norms.weight, norms.grad, norms.update]
            .map(|var| (var, gpu.buffer(Class::Metrics, (REPLICAS * table.specs().len()) as u64).unwrap()));
        let mut bindings = Bindings::new();
        for (var, buffer, stride) in [
            (state.weights, &weights, len),
            (state.grads, &grads, len),
            (state.first, &first, len),
            (state.second, &second, len),
            (state.hyper, &gpu.upload(Class::State, hyper_words).unwrap(), Hyper::LEN),
            (state.clock, &gpu.upload(Class::State, &[0u32]).unwrap(), 0),
        ] {
            bindings.bind(var, Storage::whole(buffer, stride as u64));
        }
        for (var, buffer) in &out {
            bindings.bind(*var, Storage::whole(buffer, table.specs().len() as u64));
        }
        let program = tape.compile(gpu, &bindings).unwrap();
        program.poison(gpu);
        let replay = |gradient: &[f32], update: bool, step: u64| {
            gpu.queue().write_buffer(&grads, 0, bytemuck::cast_slice(gradient));
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            program.encode(&mut encoder.begin_compute_pass(&Default::default()), Select { step, update });
            gpu.queue().submit([encoder.finish()]);
        };

        let mut truth: Vec<Textbook> =
            weights_before.iter().map(|w| Textbook { w: f64::from(*w), m: 0.0, v: 0.0 }).collect();
        for (step, gradient) in gradients.iter().enumerate() {
            replay(gradient, true, step as u64);
            for (replica, config) in configs.iter().enumerate() {
                let rate = rate(config, schedule, step as u64);
                let own = &gradient[replica * len..][..len];
                let norm = own.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let factor = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
                for (spec, decays) in table.specs().iter().zip(&decays) {
                    let decay = if *decays { config.weight_decay } else { 0.0 };
                    for i in spec.offset..spec.offset + spec.len() {
                        let g = f64::from(own[i]) * factor;
                        truth[replica * len + i].step(config, rate, decay, g, step as i32 + 1);
                    }
                }
            }
        }
        // Eight steps of rounding to 24 bits, each at most a few units in the last place of numbers near 1.
        let close = |got: f32, want: f64, what: &str| {
            assert!((f64::from(got) - want).abs() <= 3e-6 * want.abs().max(1.0), "{what}: {got} for {want}");
        };
        let moved = floats(gpu, &weights);
        for (at, truth) in truth.iter().enumerate() {
            close(moved[at], truth.w, &format!("{:?} weight {at}", configs[0].kind));
        }
        // The norms are of the gradient as it came and of the weights before the last update.
        let last = &gradients[STEPS as usize - 1];
        for replica in 0..REPLICAS {
            for (tensor, spec) in table.specs().iter().enumerate() {
                let place = replica * len + spec.offset..replica * len + spec.offset + spec.len();
                let norm = last[place].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let got = floats(gpu, &out[1].1)[replica * table.specs().len() + tensor];
                close(got / norm as f32, 1.0, &format!("gradient norm of {}", spec.name));
            }
        }
        // Measuring moves nothing.
        replay(last, false, 0);
        assert_eq!(floats(gpu, &weights), moved);
    }

    #[test]
    fn every_optimizer_follows_its_textbook() {
        let schedules = [
            ScheduleConfig { warmup: 3, steps: 1, ..Default::default() },
            ScheduleConfig { kind: ScheduleKind::Cosine, warmup: 2, steps: 6, floor: 0.1 },
        ];
        for gpu in crate::autograd::check::gpus() {
            for kind in [OptimizerKind::Adamw, OptimizerKind::Adam, OptimizerKind::Sgd] {
                for (schedule, clip) in schedules.iter().zip([0.0, 2.5]) {
                    let config = OptimizerConfig { kind, clip, learning_rate: 0.01, ..Default::default() };
                    let other = OptimizerConfig {
                        learning_rate: 0.003,
                        weight_decay: 0.2,
                        betas: [0.8, 0.95],
                        ..config.clone()
                    };
                    follow(gpu, &[config, other], schedule);
                }
            }
        }
    }
}
