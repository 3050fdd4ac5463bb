//! The ops behind ablation: streams without what heads wrote, what that does to predictions, and how it
//! compares with random subspaces.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// Columns of an outcome.
pub(crate) const OUTCOMES: usize = 8;
const LOSS: usize = 0;
const LOGIT_DIFFERENCE: usize = 1;
pub(crate) const CORRECT: usize = 2;
pub(crate) const CONFIDENCE: usize = 7;

/// What an ablated head is taken to have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// Nothing.
    Zero = 0,
    /// What it writes at that position in the mean over examples.
    Mean = 1,
    /// What it wrote in the next example of the batch.
    Resample = 2,
}

crate::gpu::params! {
    struct AblateParams {
        rows: u32, queries: u32, heads: u32, width: u32, interventions: u32,
        x_replica: u32, result_replica: u32, mean_replica: u32, out_replica: u32,
    }
}
static ABLATE: Shader = Shader {
    name: "instrument/ablation/ablate",
    source: include_str!("../../../shaders/instrument/ablation/ablate.wgsl"),
    knobs: &[Knob { name: "ONE", values: &[0, 1] }],
    params: AblateParams::FIELDS,
};
crate::gpu::params! {
    struct OutcomeParams {
        rows: u32, clean_rows: u32, classes: u32, z_replica: u32, clean_replica: u32, target_replica: u32, out_replica: u32,
    }
}
static OUTCOME: Shader = Shader {
    name: "instrument/ablation/outcomes",
    source: include_str!("../../../shaders/instrument/ablation/outcomes.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: OutcomeParams::FIELDS,
};
crate::gpu::params! {
    struct MeansParams {
        rows: u32, first: u32, x_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
    }
}
static GROUP_MEANS: Shader = Shader {
    name: "instrument/ablation/group_means",
    source: include_str!("../../../shaders/instrument/ablation/group_means.wgsl"),
    knobs: &[Knob { name: "BEFORE", values: &[0, 1] }],
    params: MeansParams::FIELDS,
};
crate::gpu::params! {
    struct EffectParams { rows: u32, columns: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
}
static EFFECTS: Shader = Shader {
    name: "instrument/ablation/effects",
    source: include_str!("../../../shaders/instrument/ablation/effects.wgsl"),
    knobs: &[],
    params: EffectParams::FIELDS,
};
crate::gpu::params! {
    struct NullParams { heads: u32, draws: u32, x_replica: u32, null_replica: u32, clean_replica: u32, out_replica: u32 }
}
static NULL_SUMMARY: Shader = Shader {
    name: "instrument/ablation/null_summary",
    source: include_str!("../../../shaders/instrument/ablation/null_summary.wgsl"),
    knobs: &[],
    params: NullParams::FIELDS,
};
crate::gpu::params! {
    struct InteractionParams { heads: u32, pairs_replica: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
}
static INTERACTIONS: Shader = Shader {
    name: "instrument/ablation/interactions",
    source: include_str!("../../../shaders/instrument/ablation/interactions.wgsl"),
    knobs: &[],
    params: InteractionParams::FIELDS,
};
crate::gpu::params! {
    struct PathParams {
        heads: u32, x_replica: u32, direct_replica: u32, frozen_replica: u32, clean_replica: u32, y_replica: u32,
    }
}
static PATHS: Shader = Shader {
    name: "instrument/ablation/effect_paths",
    source: include_str!("../../../shaders/instrument/ablation/effect_paths.wgsl"),
    knobs: &[],
    params: PathParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader] =
    &[&ABLATE, &OUTCOME, &GROUP_MEANS, &EFFECTS, &NULL_SUMMARY, &INTERACTIONS, &PATHS];

/// Floats, owned where any input is.
pub(crate) fn like(inputs: &[&Shape], dims: &[usize]) -> Shape {
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
pub(crate) struct Ablate;

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
pub(crate) struct AblateEach;

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
pub(crate) struct Outcomes;

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
pub(crate) struct GroupMeans {
    /// N: predictions of one intervention.
    pub(crate) rows: usize,
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
pub(crate) struct Effects;

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

/// Where heads stand among random subspaces, [4 H + 6]: for loss, then logit difference, the share
/// (1 + #{null >= head})/(N + 1) of each head; the same two for <=; then, for loss and for logit difference, the points
/// of the null, less clean, that 2.5 %, 50 % and 97.5 % of the draws do not exceed. Inputs: outcomes [I, 8] whose first
/// H rows are heads, null [N, 8], clean [1, 8].
pub(crate) struct NullSummary {
    /// H.
    pub(crate) heads: usize,
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
pub(crate) struct Interactions {
    /// H.
    pub(crate) heads: usize,
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
pub(crate) struct Paths {
    /// H.
    pub(crate) heads: usize,
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

pub(crate) const CHECKS: &[(&str, Build)] = &[("ablation", |case| Ok((everything(case, 31, 3, 2)?, Vec::new())))];

/// Every op of this file, on one case: `n` predictions of `v` classes, and `h` heads.
fn everything(case: &mut Case, n: usize, v: usize, h: usize) -> Result<Vec<Var>> {
    let (stream, result) = (case.owned(&[n, v]), case.owned(&[n, h, v]));
    let mean = case.owned(&[1, h, v]);
    let coefficients: Vec<f32> = (0..4 * h).map(|i| [1.0, 0.0, -0.25][i % 3]).collect();
    let coefficients = case.tape.constant(&[4, h], &coefficients);
    let base = case.tape.constant_u32(&[4], &[0, 1, 2, 0]);
    let (targets, count) = case.targets(n, v);

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
    let summary = tape.push1(NullSummary { heads: h }, &[each, means, clean])?;
    let mut all = vec![logits, rows, means, effects, summary];
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
            // Sums of up to 257 terms of either sign; self-repair divides by effects that may be small.
            case.agree(&all, 3e-4);
        }
    }
}
