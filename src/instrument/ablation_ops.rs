//! The ops behind ablation: streams without what heads wrote, what that does to predictions, and how it
//! compares with random subspaces.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// Columns of an outcome.
pub(super) const OUTCOMES: usize = 8;
const LOSS: usize = 0;
const LOGIT_DIFFERENCE: usize = 1;
const CORRECT: usize = 2;
const CONFIDENCE: usize = 7;

/// Bins of a reliability diagram.
pub(super) const BINS: usize = 15;

/// What an ablated head is taken to have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    /// Nothing.
    Zero = 0,
    /// What it writes at that position in the mean over examples.
    Mean = 1,
    /// What it wrote in the next example of the batch.
    Resample = 2,
}

const FLAGS: &[u32] = &[0, 1];
crate::gpu::params! {
    struct AblateParams {
        rows: u32, queries: u32, heads: u32, width: u32, interventions: u32,
        x_replica: u32, result_replica: u32, mean_replica: u32, out_replica: u32,
    }
}
static ABLATE: Shader = Shader {
    name: "instrument/ablate",
    source: include_str!("../../shaders/instrument/ablate.wgsl"),
    knobs: &[Knob { name: "ONE", values: FLAGS }],
    params: AblateParams::FIELDS,
};
crate::gpu::params! {
    struct OutcomeParams {
        rows: u32, clean_rows: u32, classes: u32, z_replica: u32, clean_replica: u32, target_replica: u32, out_replica: u32,
    }
}
static OUTCOME: Shader = Shader {
    name: "instrument/outcomes",
    source: include_str!("../../shaders/instrument/outcomes.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: FLAGS }],
    params: OutcomeParams::FIELDS,
};
crate::gpu::params! {
    struct MeansParams {
        rows: u32, first: u32, x_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
    }
}
static GROUP_MEANS: Shader = Shader {
    name: "instrument/group_means",
    source: include_str!("../../shaders/instrument/group_means.wgsl"),
    knobs: &[Knob { name: "BEFORE", values: FLAGS }],
    params: MeansParams::FIELDS,
};
crate::gpu::params! {
    struct EffectParams { rows: u32, columns: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
}
static EFFECTS: Shader = Shader {
    name: "instrument/effects",
    source: include_str!("../../shaders/instrument/effects.wgsl"),
    knobs: &[],
    params: EffectParams::FIELDS,
};
crate::gpu::params! {
    struct RankParams { rows: u32, groups: u32, classes: u32, x_replica: u32, target_replica: u32, rank_replica: u32 }
}
static RANK: Shader = Shader {
    name: "instrument/confidence_rank",
    source: include_str!("../../shaders/instrument/confidence_rank.wgsl"),
    knobs: &[],
    params: RankParams::FIELDS,
};
crate::gpu::params! {
    struct ReliabilityParams {
        rows: u32, classes: u32, x_replica: u32, target_replica: u32, count_replica: u32, rank_replica: u32,
        bins_replica: u32, error_replica: u32,
    }
}
static RELIABILITY: Shader = Shader {
    name: "instrument/reliability",
    source: include_str!("../../shaders/instrument/reliability.wgsl"),
    knobs: &[],
    params: ReliabilityParams::FIELDS,
};
crate::gpu::params! {
    struct TemperatureParams {
        rows: u32, group: u32, classes: u32, z_replica: u32, target_replica: u32, b_replica: u32, out_replica: u32,
    }
}
static TEMPERATURE_ROWS: Shader = Shader {
    name: "instrument/temperature_rows",
    source: include_str!("../../shaders/instrument/temperature_rows.wgsl"),
    knobs: &[Knob { name: "FIRST", values: FLAGS }, Knob { name: "SUBGROUPS", values: FLAGS }],
    params: TemperatureParams::FIELDS,
};
crate::gpu::params! {
    struct StepParams { rows: u32, x_replica: u32, count_replica: u32, b_replica: u32, out_replica: u32, factor: f32 }
}
static TEMPERATURE_STEP: Shader = Shader {
    name: "instrument/temperature_step",
    source: include_str!("../../shaders/instrument/temperature_step.wgsl"),
    knobs: &[Knob { name: "FIRST", values: FLAGS }, Knob { name: "LAST", values: FLAGS }],
    params: StepParams::FIELDS,
};
crate::gpu::params! {
    struct NullParams { heads: u32, draws: u32, x_replica: u32, null_replica: u32, clean_replica: u32, out_replica: u32 }
}
static NULL_SUMMARY: Shader = Shader {
    name: "instrument/null_summary",
    source: include_str!("../../shaders/instrument/null_summary.wgsl"),
    knobs: &[],
    params: NullParams::FIELDS,
};
crate::gpu::params! {
    struct InteractionParams { heads: u32, pairs_replica: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
}
static INTERACTIONS: Shader = Shader {
    name: "instrument/interactions",
    source: include_str!("../../shaders/instrument/interactions.wgsl"),
    knobs: &[],
    params: InteractionParams::FIELDS,
};
crate::gpu::params! {
    struct PathParams {
        heads: u32, x_replica: u32, direct_replica: u32, frozen_replica: u32, clean_replica: u32, y_replica: u32,
    }
}
static PATHS: Shader = Shader {
    name: "instrument/effect_paths",
    source: include_str!("../../shaders/instrument/effect_paths.wgsl"),
    knobs: &[],
    params: PathParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader] = &[
    &ABLATE,
    &OUTCOME,
    &GROUP_MEANS,
    &EFFECTS,
    &RANK,
    &RELIABILITY,
    &TEMPERATURE_ROWS,
    &TEMPERATURE_STEP,
    &NULL_SUMMARY,
    &INTERACTIONS,
    &PATHS,
];

/// Floats, owned where any input is.
fn like(inputs: &[&Shape], dims: &[usize]) -> Shape {
    Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(dims) }
}

/// Dimensions N, H, D of a stream [N, D] and of what heads wrote to it, [N, H, D].
fn written(stream: &[usize], result: &[usize]) -> Result<(usize, usize, usize)> {
    match (stream, result) {
        ([n, d], [m, h, e]) if n == m && d == e => Ok((*n, *h, *d)),
        _ => Err(misfit("ablate", format!("stream {stream:?}, written {result:?}"))),
    }
}

/// The stream [I * N, D] for each intervention i: x - Σ_h c[i, h] (result_h - base_i). Inputs: stream [N, D],
/// result [N, H, D], its mean over examples [Tq, H, D], c [I, H], base `[I]` as numbers of [`Baseline`].
pub(super) struct Ablate;

impl Op for Ablate {
    fn name(&self) -> &'static str {
        "ablate"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, h, d) = written(&inputs[0].dims, &inputs[1].dims)?;
        let (interventions, columns) = inputs[3].rows();
        if columns != h || inputs[4].len() != interventions || !(n * h * d).is_multiple_of(inputs[2].len()) {
            return Err(misfit("ablate", format!("{interventions} interventions on {columns} of {h} heads")));
        }
        Ok(vec![like(inputs, &[interventions * n, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, result, mean, c, base] = inputs else { return Err(misfit("ablate", "inputs")) };
        let (rows, heads, width) = written(&x.dims, &result.dims)?;
        let params = AblateParams {
            rows: rows as u32,
            queries: (mean.len() / (heads * width)) as u32,
            heads: heads as u32,
            width: width as u32,
            interventions: base.len() as u32,
            x_replica: x.replica_stride,
            result_replica: result.replica_stride,
            mean_replica: mean.replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&ABLATE, &[0], &params, &[x, result, &outputs[0], mean, c, base], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, result, mean, c, base) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        let [n, h, d] = result.dims[..] else { return Vec::new() };
        let queries = mean.data.len() / (h * d);
        vec![Array::from_fn(&[base.data.len() * n, d], |at| {
            let (i, row, e) = (at / (n * d), at / d % n, at % d);
            let lost: f64 = (0..h)
                .map(|head| {
                    let instead = match base.index(i) {
                        0 => 0.0,
                        1 => mean.data[(row % queries * h + head) * d + e],
                        _ => result.data[((row + queries) % n * h + head) * d + e],
                    };
                    c.data[i * h + head] * (result.data[(row * h + head) * d + e] - instead)
                })
                .sum();
            x.data[row * d + e] - lost
        })]
    }
}

/// The stream [H * N, D] without all that each of H writers wrote. Inputs: stream [N, D], result [N, H, D].
pub(super) struct AblateEach;

impl Op for AblateEach {
    fn name(&self) -> &'static str {
        "ablate each"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, h, d) = written(&inputs[0].dims, &inputs[1].dims)?;
        Ok(vec![like(inputs, &[h * n, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (rows, heads, width) = written(&inputs[0].dims, &inputs[1].dims)?;
        let params = AblateParams {
            rows: rows as u32,
            queries: 1,
            heads: heads as u32,
            width: width as u32,
            interventions: heads as u32,
            x_replica: inputs[0].replica_stride,
            result_replica: inputs[1].replica_stride,
            mean_replica: 0,
            out_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&ABLATE, &[1], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [n, h, d] = inputs[1].dims[..] else { return Vec::new() };
        vec![Array::from_fn(&[h * n, d], |at| {
            let (i, row, e) = (at / (n * d), at / d % n, at % d);
            inputs[0].data[row * d + e] - inputs[1].data[(row * h + i) * d + e]
        })]
    }
}

/// What each prediction became, [I * N, 8]: loss, logit difference z_y - mean of the others, correct,
/// KL(clean, z), argmax changed, entropy, Brier score Σ(p - 1_y)², confidence max p. Rows where nothing is
/// asked are 0. Inputs: logits [I * N, V], clean logits [N, V], targets `[N]`.
pub(super) struct Outcomes;

impl Op for Outcomes {
    fn name(&self) -> &'static str {
        "outcomes"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ((rows, v), (clean, w)) = (inputs[0].rows(), inputs[1].rows());
        if v != w || inputs[2].len() != clean || !rows.is_multiple_of(clean) {
            return Err(misfit("outcomes", format!("logits {:?} beside {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[rows, OUTCOMES])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [z, clean, targets] = inputs else { return Err(misfit("outcomes", "inputs")) };
        let rows = outputs[0].len() / OUTCOMES;
        let params = OutcomeParams {
            rows: rows as u32,
            clean_rows: targets.len() as u32,
            classes: (z.len() / rows) as u32,
            z_replica: z.replica_stride,
            clean_replica: clean.replica_stride,
            target_replica: targets.replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&OUTCOME, &[subgroups], &params, &[z, clean, targets, &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, v) = inputs[0].rows();
        let (clean_rows, _) = inputs[1].rows();
        let mut out = Array::zeros(&[rows, OUTCOMES]);
        let softmax = |z: &[f64]| -> Vec<f64> {
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
            z.iter().map(|z| z - top - total.ln()).collect()
        };
        let first_greatest = |z: &[f64]| (1..z.len()).fold(0, |best, j| if z[j] > z[best] { j } else { best });
        for row in 0..rows {
            let source = row % clean_rows;
            if inputs[2].data[source] == f64::from(IGNORE) {
                continue;
            }
            let y = inputs[2].index(source);
            let (z, c) = (&inputs[0].data[row * v..][..v], &inputs[1].data[source * v..][..v]);
            let (ln_p, ln_c) = (softmax(z), softmax(c));
            let others = || (0..v).filter(|j| *j != y);
            let wrong: f64 = others().map(|j| (z[j] - z[y]).exp()).sum();
            let p_wrong: f64 = others().map(|j| ln_p[j].exp()).sum();
            out.data[row * OUTCOMES..][..OUTCOMES].copy_from_slice(&[
                wrong.ln_1p(),
                z[y] - others().map(|j| z[j]).sum::<f64>() / (v.max(2) - 1) as f64,
                f64::from(u8::from(others().all(|j| z[j] < z[y]))),
                (0..v).map(|j| ln_c[j].exp() * (ln_c[j] - ln_p[j])).sum(),
                f64::from(u8::from(first_greatest(z) != first_greatest(c))),
                -ln_p.iter().map(|l| l.exp() * l).sum::<f64>(),
                p_wrong.powi(2) + others().map(|j| ln_p[j].exp().powi(2)).sum::<f64>(),
                ln_p.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp(),
            ]);
        }
        vec![out]
    }
}

/// Means of outcomes over the predictions of each intervention, [F + I, 8], behind the F rows of an earlier
/// result. Inputs: outcomes [I * N, 8], how many predictions count `[1]`, and the earlier result.
pub(super) struct GroupMeans {
    /// N: predictions of one intervention.
    pub(super) rows: usize,
}

impl Op for GroupMeans {
    fn name(&self) -> &'static str {
        "group means"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let before = inputs.get(2).map_or(0, |s| s.rows().0);
        Ok(vec![like(inputs, &[before + inputs[0].rows().0 / self.rows, OUTCOMES])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let before = inputs.get(2);
        let params = MeansParams {
            rows: self.rows as u32,
            first: before.map_or(0, |t| t.len() / OUTCOMES) as u32,
            x_replica: inputs[0].replica_stride,
            count_replica: inputs[1].replica_stride,
            before_replica: before.map_or(0, |t| t.replica_stride),
            out_replica: outputs[0].replica_stride,
        };
        let mut tensors = vec![&inputs[0], &inputs[1], &outputs[0]];
        tensors.extend(before);
        let groups = (outputs[0].len() / OUTCOMES) as u32;
        cx.dispatch(&GROUP_MEANS, &[u32::from(before.is_some())], &params, &tensors, [groups, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut data = inputs.get(2).map_or_else(Vec::new, |before| before.data.clone());
        for group in inputs[0].data.chunks_exact(self.rows * OUTCOMES) {
            let mean = |c: usize| group.iter().skip(c).step_by(OUTCOMES).sum::<f64>() / inputs[1].data[0];
            data.extend((0..OUTCOMES).map(mean));
        }
        vec![Array::new(&[data.len() / OUTCOMES, OUTCOMES], data)]
    }
}

/// y [C, I] = x[i, c] - clean[c]. Inputs: x [I, C], clean [1, C].
pub(super) struct Effects;

impl Op for Effects {
    fn name(&self) -> &'static str {
        "effects"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (rows, columns) = inputs[0].rows();
        if inputs[1].len() != columns {
            return Err(misfit("effects", format!("{columns} columns beside {}", inputs[1].len())));
        }
        Ok(vec![like(inputs, &[columns, rows])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [columns, rows] = outputs[0].dims[..] else { return Err(misfit("effects", "outputs")) };
        let params = EffectParams {
            rows: rows as u32,
            columns: columns as u32,
            x_replica: inputs[0].replica_stride,
            clean_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d(((rows * columns) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&EFFECTS, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[columns, rows], |at| {
            inputs[0].data[at % rows * columns + at / rows] - inputs[1].data[at / rows]
        })]
    }
}

/// Reliability in 15 bins of equal mass, [I, 15, 3] (rows, sum of correct, sum of confidence), and [I, 2]: the
/// expected calibration error Σ n_b/N |acc_b - conf_b|, and its square freed from what finite bins add,
/// Σ n_b/N ((acc_b - conf_b)² - acc_b (1 - acc_b)/(n_b - 1)) (Kumar, Liang, Ma 2019), whose expectation is 0
/// for a calibrated model. Inputs: outcomes [I * N, 8], targets `[N]`, how many count `[1]`.
pub(super) struct Reliability {
    /// Classes; a target beyond them does not count.
    pub(super) classes: usize,
}

impl Op for Reliability {
    fn name(&self) -> &'static str {
        "reliability"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let groups = inputs[0].rows().0 / inputs[1].len();
        Ok(vec![like(inputs, &[groups, BINS, 3]), like(inputs, &[groups, 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, targets, count] = inputs else { return Err(misfit("reliability", "inputs")) };
        let (rows, groups) = (targets.len(), outputs[1].len() / 2);
        let rank = cx.scratch(&[groups * rows]);
        let params = RankParams {
            rows: rows as u32,
            groups: groups as u32,
            classes: self.classes as u32,
            x_replica: x.replica_stride,
            target_replica: targets.replica_stride,
            rank_replica: rank.replica_stride,
        };
        let grid = grid_1d(((groups * rows) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&RANK, &[], &params, &[x, targets, &rank], grid)?;
        let params = ReliabilityParams {
            rows: rows as u32,
            classes: self.classes as u32,
            x_replica: x.replica_stride,
            target_replica: targets.replica_stride,
            count_replica: count.replica_stride,
            rank_replica: rank.replica_stride,
            bins_replica: outputs[0].replica_stride,
            error_replica: outputs[1].replica_stride,
        };
        let tensors = [x, targets, count, &rank, &outputs[0], &outputs[1]];
        cx.dispatch(&RELIABILITY, &[], &params, &tensors, [groups as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (targets, total) = (inputs[1], inputs[2].data[0]);
        let rows = targets.data.len();
        let groups = inputs[0].rows().0 / rows;
        let (mut bins, mut errors) = (Array::zeros(&[groups, BINS, 3]), Array::zeros(&[groups, 2]));
        for group in 0..groups {
            let x = |row: usize, column: usize| inputs[0].data[(group * rows + row) * OUTCOMES + column];
            let mut order: Vec<usize> = (0..rows).filter(|row| targets.data[*row] != f64::from(IGNORE)).collect();
            order.sort_by(|a, b| x(*a, CONFIDENCE).total_cmp(&x(*b, CONFIDENCE)));
            for (rank, row) in order.iter().enumerate() {
                let bin = &mut bins.data[(group * BINS + rank * BINS / total as usize) * 3..][..3];
                bin[0] += 1.0;
                bin[1] += x(*row, CORRECT);
                bin[2] += x(*row, CONFIDENCE);
            }
            for bin in bins.data[group * BINS * 3..][..BINS * 3].chunks_exact(3).filter(|bin| bin[0] > 0.0) {
                let (n, accuracy) = (bin[0], bin[1] / bin[0]);
                let gap = accuracy - bin[2] / n;
                errors.data[group * 2] += n / total * gap.abs();
                if n > 1.0 {
                    errors.data[group * 2 + 1] += n / total * (gap * gap - accuracy * (1.0 - accuracy) / (n - 1.0));
                }
            }
        }
        vec![bins, errors]
    }
}

/// Halvings of the interval in which the logarithm of the temperature lies: to 1e-4 of it.
const STEPS: i32 = 16;

/// What a halving multiplies or divides the inverse temperature by: from 1, the first reaches the middle of a half of
/// [1/32, 32].
fn factor(step: i32) -> f64 {
    2f64.powf(5.0 / 2f64.powi(step + 1))
}

/// The temperature within [1/32, 32] at which the mean loss is least, and that loss, [I, 2]. Inputs: logits
/// [I * N, V], targets `[N]`, how many count `[1]`. The loss is convex in 1/T, so bisection finds it; where its slope is no
/// finite number, neither is the temperature.
pub(super) struct Temperature;

impl Op for Temperature {
    fn name(&self) -> &'static str {
        "temperature"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[inputs[0].rows().0 / inputs[1].len(), 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [z, targets, count] = inputs else { return Err(misfit("temperature", "inputs")) };
        let (group, groups) = (targets.len(), outputs[0].len() / 2);
        let rows = groups * group;
        let derivatives = cx.scratch(&[rows, 2]);
        let mut inverse: Option<Tensor> = None;
        for step in 0..=STEPS {
            let first = u32::from(step == 0);
            let b_replica = inverse.as_ref().map_or(0, |t| t.replica_stride);
            let params = TemperatureParams {
                rows: rows as u32,
                group: group as u32,
                classes: (z.len() / rows) as u32,
                z_replica: z.replica_stride,
                target_replica: targets.replica_stride,
                b_replica,
                out_replica: derivatives.replica_stride,
            };
            let (subgroups, grid) = cx.by_rows(rows, 64);
            let mut tensors = vec![z, targets, &derivatives];
            tensors.extend(&inverse);
            cx.dispatch(&TEMPERATURE_ROWS, &[first, subgroups], &params, &tensors, grid)?;
            let last = step == STEPS;
            let next = if last { None } else { Some(cx.scratch(&[groups])) };
            let out = next.as_ref().unwrap_or(&outputs[0]);
            let params = StepParams {
                rows: group as u32,
                x_replica: derivatives.replica_stride,
                count_replica: count.replica_stride,
                b_replica,
                out_replica: out.replica_stride,
                factor: factor(step) as f32,
            };
            let mut tensors = vec![&derivatives, count, out];
            tensors.extend(&inverse);
            cx.dispatch(
                &TEMPERATURE_STEP,
                &[first, u32::from(last)],
                &params,
                &tensors,
                [groups as u32, 1, cx.replicas],
            )?;
            inverse = next;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, v) = inputs[0].rows();
        let group = inputs[1].data.len();
        let counted: Vec<usize> = (0..group).filter(|row| inputs[1].data[*row] != f64::from(IGNORE)).collect();
        let mut out = Array::zeros(&[rows / group, 2]);
        for i in 0..rows / group {
            // Loss and slope at an inverse temperature.
            let at = |beta: f64| {
                let mut sums = [0.0; 2];
                for row in &counted {
                    let z = &inputs[0].data[(i * group + row) * v..][..v];
                    let y = z[inputs[1].index(*row)];
                    let top = z.iter().map(|z| z - y).fold(0.0, f64::max);
                    let moment = |power: i32| -> f64 {
                        z.iter().map(|z| z - y).map(|d| (beta * (d - top)).exp() * d.powi(power)).sum()
                    };
                    sums[0] += beta * top + moment(0).ln();
                    sums[1] += moment(1) / moment(0);
                }
                sums
            };
            let mut beta = 1.0f64;
            for step in 0..STEPS {
                beta = if at(beta)[1] > 0.0 { beta / factor(step) } else { beta * factor(step) };
            }
            let [loss, slope] = at(beta);
            out.data[i * 2] = if slope.is_finite() { 1.0 / beta } else { slope };
            out.data[i * 2 + 1] = loss / inputs[2].data[0];
        }
        vec![out]
    }
}

/// Where heads stand among random subspaces, [4 H + 6]: for loss, then logit difference, the share
/// (1 + #{null >= head})/(N + 1) of each head; the same two for <=; then, for loss and for logit difference, the points
/// of the null, less clean, that 2.5 %, 50 % and 97.5 % of the draws do not exceed. Inputs: outcomes [I, 8] whose first
/// H rows are heads, null [N, 8], clean [1, 8].
pub(super) struct NullSummary {
    /// H.
    pub(super) heads: usize,
}

impl Op for NullSummary {
    fn name(&self) -> &'static str {
        "null summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[4 * self.heads + 6])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = NullParams {
            heads: self.heads as u32,
            draws: (inputs[1].len() / OUTCOMES) as u32,
            x_replica: inputs[0].replica_stride,
            null_replica: inputs[1].replica_stride,
            clean_replica: inputs[2].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&NULL_SUMMARY, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (mut above, mut below, mut points) = (Vec::new(), Vec::new(), Vec::new());
        for c in [LOSS, LOGIT_DIFFERENCE] {
            let mut null: Vec<f64> = inputs[1].data.iter().skip(c).step_by(OUTCOMES).copied().collect();
            null.sort_by(f64::total_cmp);
            let share = |reached: usize| (1 + reached) as f64 / (null.len() + 1) as f64;
            for head in 0..self.heads {
                let own = inputs[0].data[head * OUTCOMES + c];
                above.push(share(null.iter().filter(|x| **x >= own).count()));
                below.push(share(null.iter().filter(|x| **x <= own).count()));
            }
            let point = |permille: usize| null[((null.len() - 1) * permille + 500) / 1000] - inputs[2].data[c];
            points.extend([25, 500, 975].map(point));
        }
        let shares = [above, below, points].concat();
        vec![Array::new(&[shares.len()], shares)]
    }
}

/// x_ij - x_i - x_j + clean of every pair of heads i < j, for loss and logit difference, [2, H (H - 1)/2]: 0 where
/// heads add up. Inputs: pairs [H (H - 1)/2, 8], outcomes [I, 8] whose first H rows are heads, clean [1, 8].
pub(super) struct Interactions {
    /// H.
    pub(super) heads: usize,
}

impl Op for Interactions {
    fn name(&self) -> &'static str {
        "interactions"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[2, self.heads * (self.heads - 1) / 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = InteractionParams {
            heads: self.heads as u32,
            pairs_replica: inputs[0].replica_stride,
            x_replica: inputs[1].replica_stride,
            clean_replica: inputs[2].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let grid = [(self.heads * self.heads).div_ceil(64) as u32, 1, cx.replicas];
        cx.dispatch(&INTERACTIONS, &[], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let pairs: Vec<(usize, usize)> =
            (0..self.heads).flat_map(|i| (i + 1..self.heads).map(move |j| (i, j))).collect();
        vec![Array::from_fn(&[2, pairs.len()], |at| {
            let (c, pair) = (at / pairs.len(), at % pairs.len());
            let x = |head: usize| inputs[1].data[head * OUTCOMES + c];
            let (i, j) = pairs[pair];
            inputs[0].data[pair * OUTCOMES + c] - x(i) - x(j) + inputs[2].data[c]
        })]
    }
}

/// Ways of a head's effect on the logit difference, [4, H]: direct, mediated = total - direct, through the final
/// norm = total - total with its scale frozen, self-repair = -mediated/direct (0 where nothing is direct). Inputs:
/// outcomes [I, 8] whose first H rows are heads, the same for the direct path alone and for a frozen final norm,
/// clean [1, 8].
pub(super) struct Paths {
    /// H.
    pub(super) heads: usize,
}

impl Op for Paths {
    fn name(&self) -> &'static str {
        "effect paths"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[4, self.heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = PathParams {
            heads: self.heads as u32,
            x_replica: inputs[0].replica_stride,
            direct_replica: inputs[1].replica_stride,
            frozen_replica: inputs[2].replica_stride,
            clean_replica: inputs[3].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&PATHS, &[], &params, &tensors, [self.heads.div_ceil(64) as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let clean = inputs[3].data[LOGIT_DIFFERENCE];
        vec![Array::from_fn(&[4, self.heads], |at| {
            let [total, direct, frozen] =
                [0, 1, 2].map(|i| inputs[i].data[at % self.heads * OUTCOMES + LOGIT_DIFFERENCE] - clean);
            match at / self.heads {
                0 => direct,
                1 => total - direct,
                2 => total - frozen,
                _ if direct == 0.0 => 0.0,
                _ => -(total - direct) / direct,
            }
        })]
    }
}

pub(super) const CHECKS: &[(&str, Build)] = &[("ablation", |case| Ok((everything(case, 31, 3, 2)?, Vec::new())))];

/// Every op of this file, on one case: `n` predictions of `v` classes, and `h` heads.
fn everything(case: &mut Case, n: usize, v: usize, h: usize) -> Result<Vec<Var>> {
    let (stream, result) = (case.owned(&[n, v]), case.owned(&[n, h, v]));
    let mean = case.owned(&[1, h, v]);
    let coefficients: Vec<f32> = (0..4 * h).map(|i| [1.0, 0.0, -0.25][i % 3]).collect();
    let coefficients = case.tape.constant(&[4, h], &coefficients);
    let base = case.tape.constant_u32(&[4], &[0, 1, 2, 0]);
    let targets: Vec<u32> = (0..n as u32).map(|i| if i % 5 == 3 { IGNORE } else { i * 7 % v as u32 }).collect();
    let counted = targets.iter().filter(|t| **t != IGNORE).count();
    let targets = case.tape.constant_u32(&[n], &targets);
    let count = case.tape.constant(&[1], &[counted as f32]);

    let tape = &mut case.tape;
    let logits = tape.push1(Ablate, &[stream, result, mean, coefficients, base])?;
    let each = tape.push1(AblateEach, &[stream, result])?;
    let rows = tape.push1(Outcomes, &[logits, stream, targets])?;
    let each_rows = tape.push1(Outcomes, &[each, stream, targets])?;
    let clean_rows = tape.push1(Outcomes, &[stream, stream, targets])?;
    let clean = tape.push1(GroupMeans { rows: n }, &[clean_rows, count])?;
    let each = tape.push1(GroupMeans { rows: n }, &[each_rows, count])?;
    let means = tape.push1(GroupMeans { rows: n }, &[rows, count, each])?;
    let effects = tape.push1(Effects, &[means, clean])?;
    let calibration = tape.push(Reliability { classes: v }, &[rows, targets, count])?;
    let temperature = tape.push1(Temperature, &[logits, targets, count])?;
    let summary = tape.push1(NullSummary { heads: h }, &[each, means, clean])?;
    let mut all = vec![logits, rows, means, effects, calibration[0], calibration[1], temperature, summary];
    all.push(tape.push1(Paths { heads: h }, &[means, each, each, clean])?);
    if h > 1 {
        let pairs = vec![0; h * (h - 1) / 2];
        let pairs = tape.constant_u32(&[pairs.len()], &pairs);
        let pairs = tape.push1(crate::autograd::ops::GatherRows, &[means, pairs])?;
        all.push(tape.push1(Interactions { heads: h }, &[pairs, means, clean])?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_match_their_references() {
        for (n, v, h) in [(1, 3, 1), (3, 2, 2), (31, 31, 3), (64, 113, 4), (257, 5, 2)] {
            let mut case = Case::new(&format!("ablation {n} {v} {h}"));
            let all = everything(&mut case, n, v, h).unwrap();
            // Sums of up to 257 terms of either sign; self-repair divides by effects that may be small, and the search
            // for a temperature may turn at its last steps.
            case.agree(&all, 3e-4);
        }
    }

    /// Outcomes with planted correct and confidence, all else 0.
    fn planted(rows: impl Iterator<Item = (f32, f32)>) -> Vec<f32> {
        rows.flat_map(|(correct, confidence)| [0.0, 0.0, correct, 0.0, 0.0, 0.0, 0.0, confidence]).collect()
    }

    #[test]
    fn a_calibrated_model_has_no_debiased_error_and_a_plain_one() {
        let (n, groups) = (600, 40);
        let stream = crate::gpu::Philox::new(3, crate::gpu::Stream::Probe, 0);
        let uniform = |at: u64| f64::from(stream.words(at)[0]) / 2f64.powi(32);
        // Confidence anywhere in [0.2, 1], right as often as it says.
        let rows = planted((0..(n * groups) as u64).map(|at| {
            let confidence = 0.2 + 0.8 * uniform(2 * at);
            (f32::from(u8::from(uniform(2 * at + 1) < confidence)), confidence as f32)
        }));
        let mut case = Case::new("calibrated");
        let x = case.tape.constant(&[groups * n, OUTCOMES], &rows);
        let targets = case.tape.constant_u32(&[n], &vec![0; n]);
        let count = case.tape.constant(&[1], &[n as f32]);
        let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
        case.agree(&out, 1e-5);
        let errors = &case.reference(0, &out).unwrap()[1].data;
        let plain: Vec<f64> = errors.iter().copied().step_by(2).collect();
        let debiased: Vec<f64> = errors.iter().copied().skip(1).step_by(2).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let spread = |x: &[f64]| (x.iter().map(|v| (v - mean(x)).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        // Within a bin confidence spreads by 0.05, so the binomial variance of a mixture is a little too large.
        assert!(mean(&debiased).abs() < 4.0 * spread(&debiased) / (groups as f64).sqrt() + 1e-4, "{}", mean(&debiased));
        assert!(mean(&plain) > 0.03, "{}", mean(&plain));
    }

    #[test]
    fn an_overconfident_model_shows_how_much() {
        // Half are right in every bin, and all claim 0.9: the error is 0.4, its square 0.16 but for the bins' noise.
        let n = 450;
        let rows = planted((0..n).map(|at| (f32::from(u8::from(at % 2 == 0)), 0.9)));
        let mut case = Case::new("overconfident");
        let x = case.tape.constant(&[n, OUTCOMES], &rows);
        let targets = case.tape.constant_u32(&[n], &vec![0; n]);
        let count = case.tape.constant(&[1], &[n as f32]);
        let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
        case.agree(&out, 1e-5);
        let errors = &case.reference(0, &out).unwrap()[1].data;
        assert!((errors[0] - 0.4).abs() < 1e-6, "{}", errors[0]);
        assert!((errors[1] - (0.16 - 0.25 / 29.0)).abs() < 1e-6, "{}", errors[1]);
    }

    #[test]
    fn logits_that_are_no_numbers_have_no_best_temperature() {
        // One logit of 40 rows of 5: of a wrong class, and of the right one.
        for (broken, class) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().flat_map(|x| [(x, 1), (x, 2)]) {
            let mut case = Case::new("no temperature");
            let data: Vec<f32> = (0..200).map(|at| if at == 60 + class { broken } else { (at as f32).sin() }).collect();
            let z = case.tape.constant(&[40, 5], &data);
            let targets = case.tape.constant_u32(&[40], &[2; 40]);
            let count = case.tape.constant(&[1], &[40.0]);
            let found = case.tape.push1(Temperature, &[z, targets, count]).unwrap();
            for gpu in crate::autograd::check::gpus() {
                let temperature = case.run(gpu, &[found]).unwrap().concat().concat()[0];
                assert!(!temperature.is_finite(), "{broken} of class {class}: {temperature}");
            }
        }
    }

    #[test]
    fn scaling_logits_scales_the_best_temperature_and_nothing_else() {
        let (n, v) = (200, 7);
        let mut case = Case::new("temperature");
        let z = case.owned(&[n, v]);
        let louder = case.tape.push1(crate::autograd::ops::Scale(3.0), &[z]).unwrap();
        // Targets follow the logits more often than not, so that the best temperature is finite.
        let reference = case.reference(0, &[z]).unwrap();
        let targets: Vec<u32> = (0..n)
            .map(|row| {
                let z = &reference[0].data[row * v..][..v];
                let best = (1..v).fold(0, |b, j| if z[j] > z[b] { j } else { b });
                if row % 3 == 0 { (row % v) as u32 } else { best as u32 }
            })
            .collect();
        let targets = case.tape.constant_u32(&[n], &targets);
        let count = case.tape.constant(&[1], &[n as f32]);
        let a = case.tape.push1(Temperature, &[z, targets, count]).unwrap();
        let b = case.tape.push1(Temperature, &[louder, targets, count]).unwrap();
        case.agree(&[a, b], 3e-4);
        // Two results of a search to 1e-4; the loss is flat there.
        let exact = case.reference(0, &[a, b]).unwrap();
        assert!((exact[1].data[0] / exact[0].data[0] - 3.0).abs() < 1e-3, "{exact:?}");
        assert!((exact[1].data[1] - exact[0].data[1]).abs() < 1e-7, "{exact:?}");
    }
}
