//! The ops behind interventions: streams without what heads wrote, and what that does to predictions.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// Numbers of an outcome.
pub const OUTCOMES: usize = 8;
/// Columns of outcomes.
pub mod column {
    /// Cross-entropy, nats.
    pub const LOSS: usize = 0;
    /// z_y - mean of the other logits; with foils, z_y - z_f.
    pub const LOGIT_DIFFERENCE: usize = 1;
    /// 1 where the target's logit exceeds every other.
    pub const CORRECT: usize = 2;
    /// KL(clean, changed), nats.
    pub const KL: usize = 3;
    /// 1 where another logit is the greatest.
    pub const ARGMAX_CHANGED: usize = 4;
    /// Entropy of the prediction, nats.
    pub const ENTROPY: usize = 5;
    /// Σ (p - 1_y)².
    pub const BRIER: usize = 6;
    /// 1 - confidence: the probability of all classes but the greatest.
    pub const DOUBT: usize = 7;
}

crate::params! {
    struct AblateParams {
        rows: u32, queries: u32, heads: u32, width: u32, interventions: u32,
        x_replica: u32, result_replica: u32, sum_replica: u32, held_replica: u32, out_replica: u32,
    }
}
static ABLATE: Shader<'_> = Shader {
    name: "intervene/ablate",
    source: include_str!("../../shaders/intervene/ablate.wgsl"),
    knobs: &[Knob { name: "ONE", values: &[0, 1] }],
    params: AblateParams::FIELDS,
};
crate::params! {
    struct OutcomeParams {
        rows: u32, clean_rows: u32, classes: u32, z_replica: u32, clean_replica: u32, target_replica: u32,
        foil_replica: u32, out_replica: u32,
    }
}
static OUTCOME: Shader<'_> = Shader {
    name: "intervene/outcomes",
    source: include_str!("../../shaders/intervene/outcomes.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }, Knob { name: "FOILS", values: &[0, 1] }],
    params: OutcomeParams::FIELDS,
};
crate::params! {
    struct MeansParams {
        rows: u32, first: u32, x_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
    }
}
static GROUP_MEANS: Shader<'_> = Shader {
    name: "intervene/group_means",
    source: include_str!("../../shaders/intervene/group_means.wgsl"),
    knobs: &[Knob { name: "BEFORE", values: &[0, 1] }],
    params: MeansParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&ABLATE, &OUTCOME, &GROUP_MEANS];

/// Dimensions N, H, D of a stream [N, D] and of what heads wrote to it, [N, H, D].
fn written(stream: &[usize], result: &[usize]) -> Result<(usize, usize, usize)> {
    match (stream, result) {
        ([n, d], [m, h, e]) if n == m && d == e => Ok((*n, *h, *d)),
        _ => Err(misfit("ablate", format!("stream {stream:?}, written {result:?}"))),
    }
}

/// The stream [I * N, D] for each intervention i: x - Σ_h c[i, h] (result_h - base_i). Inputs: stream [N, D],
/// result [N, H, D], its sum over examples [Tq, H, D], how many they are `[1]`, c [I, H], base `[I]` as numbers of
/// [`Baseline`](super::Baseline). Rows behind those of the examples only fill up.
pub struct Ablate;

impl Op for Ablate {
    fn name(&self) -> &'static str {
        "ablate"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, h, d) = written(&inputs[0].dims, &inputs[1].dims)?;
        let (interventions, columns) = inputs[4].rows();
        if columns != h || inputs[5].len() != interventions || !(n * h * d).is_multiple_of(inputs[2].len()) {
            return Err(misfit("ablate", format!("{interventions} interventions on {columns} of {h} heads")));
        }
        Ok(vec![like(inputs, &[interventions * n, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, result, sum, held, c, base] = inputs else { return Err(misfit("ablate", "inputs")) };
        let (rows, heads, width) = written(&x.dims, &result.dims)?;
        let params = AblateParams {
            rows: rows as u32,
            queries: (sum.len() / (heads * width)) as u32,
            heads: heads as u32,
            width: width as u32,
            interventions: base.len() as u32,
            x_replica: x.replica_stride,
            result_replica: result.replica_stride,
            sum_replica: sum.replica_stride,
            held_replica: held.replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&ABLATE, &[0], &params, &[x, result, &outputs[0], sum, held, c, base], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [x, result, sum, held, c, base] = inputs else { return Vec::new() };
        let [n, h, d] = result.dims[..] else { return Vec::new() };
        let queries = sum.data.len() / (h * d);
        let rows = held.data[0] as usize * queries;
        vec![Array::from_fn(&[base.data.len() * n, d], |at| {
            let (i, row, e) = (at / (n * d), at / d % n, at % d);
            let lost: f64 = (0..h)
                .map(|head| {
                    let instead = match base.index(i) {
                        0 => 0.0,
                        1 => sum.data[(row % queries * h + head) * d + e] / held.data[0],
                        _ => result.data[((row + queries) % rows * h + head) * d + e],
                    };
                    c.data[i * h + head] * (result.data[(row * h + head) * d + e] - instead)
                })
                .sum();
            x.data[row * d + e] - lost
        })]
    }
}

/// The stream [H * N, D] without all that each of H writers wrote. Inputs: stream [N, D], result [N, H, D].
pub struct AblateEach;

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
            sum_replica: 0,
            held_replica: 0,
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
/// KL(clean, z), argmax changed, entropy, Brier score Σ(p - 1_y)², doubt 1 - max p. Rows where nothing is
/// asked are 0. Inputs: logits [I * N, V], clean logits [N, V], targets `[N]`; and, where the logit difference shall be the
/// one to another answer, z_y - z_f, the foils f `[N]`.
pub struct Outcomes;

impl Op for Outcomes {
    fn name(&self) -> &'static str {
        "outcomes"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ((rows, v), (clean, w)) = (inputs[0].rows(), inputs[1].rows());
        let foils = inputs.get(3).is_none_or(|foils| foils.len() == clean);
        if v != w || inputs[2].len() != clean || !foils || !rows.is_multiple_of(clean) {
            return Err(misfit("outcomes", format!("logits {:?} beside {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[rows, OUTCOMES])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [z, clean, targets, foils @ ..] = inputs else { return Err(misfit("outcomes", "inputs")) };
        let foils = foils.first();
        let rows = outputs[0].len() / OUTCOMES;
        let params = OutcomeParams {
            rows: rows as u32,
            clean_rows: targets.len() as u32,
            classes: (z.len() / rows) as u32,
            z_replica: z.replica_stride,
            clean_replica: clean.replica_stride,
            target_replica: targets.replica_stride,
            foil_replica: foils.map_or(0, |foils| foils.replica_stride),
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        let tensors: Vec<&Tensor> = [z, clean, targets, &outputs[0]].into_iter().chain(foils).collect();
        cx.dispatch(&OUTCOME, &[subgroups, u32::from(foils.is_some())], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, v) = inputs[0].rows();
        let (clean_rows, _) = inputs[1].rows();
        let mut out = Array::zeros(&[rows, OUTCOMES]);
        let first_greatest = |z: &[f64]| (1..z.len()).fold(0, |best, j| if z[j] > z[best] { j } else { best });
        let softmax = |z: &[f64]| -> Vec<f64> {
            let best = first_greatest(z);
            let rest: f64 = (0..z.len()).filter(|j| *j != best).map(|j| (z[j] - z[best]).exp()).sum();
            z.iter().map(|x| x - z[best] - rest.ln_1p()).collect()
        };
        for row in 0..rows {
            let source = row % clean_rows;
            if inputs[2].data[source] == f64::from(IGNORE) {
                continue;
            }
            let y = inputs[2].index(source);
            let foil = inputs.get(3).map(|foils| foils.index(source));
            let (z, c) = (&inputs[0].data[row * v..][..v], &inputs[1].data[source * v..][..v]);
            let (ln_p, ln_c) = (softmax(z), softmax(c));
            let others = || (0..v).filter(|j| *j != y);
            let wrong: f64 = others().map(|j| (z[j] - z[y]).exp()).sum();
            let p_wrong: f64 = others().map(|j| ln_p[j].exp()).sum();
            out.data[row * OUTCOMES..][..OUTCOMES].copy_from_slice(&[
                wrong.ln_1p(),
                z[y] - foil.map_or_else(|| others().map(|j| z[j]).sum::<f64>() / (v.max(2) - 1) as f64, |foil| z[foil]),
                f64::from(u8::from(others().all(|j| z[j] < z[y]))),
                (0..v).map(|j| ln_c[j].exp() * (ln_c[j] - ln_p[j])).sum(),
                f64::from(u8::from(first_greatest(z) != first_greatest(c))),
                -ln_p.iter().map(|l| l.exp() * l).sum::<f64>(),
                p_wrong.powi(2) + others().map(|j| ln_p[j].exp().powi(2)).sum::<f64>(),
                (0..v).filter(|j| *j != first_greatest(z)).map(|j| ln_p[j].exp()).sum(),
            ]);
        }
        vec![out]
    }
}

/// Means of outcomes over the predictions of each intervention, [F + I, 8], behind the F rows of an earlier
/// result. Inputs: outcomes of predictions or sums of those of examples, [I * N, 8] or [I, N, 8]; how many predictions count
/// `[1]`; and the earlier result.
pub struct GroupMeans {
    /// N: predictions or examples of one intervention.
    pub rows: usize,
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

pub(super) const CHECKS: &[(&str, Build)] = &[("interventions", |case| Ok((everything(case, 31, 3, 2)?, Vec::new())))];

/// Every op of this file, on one case: `n` predictions of `v` classes, and `h` heads.
fn everything(case: &mut Case, n: usize, v: usize, h: usize) -> Result<Vec<Var>> {
    let (stream, result) = (case.owned(&[n, v]), case.owned(&[n, h, v]));
    let sum = case.owned(&[1, h, v]);
    // The last row fills up, where there is more than one.
    let held = case.tape.constant(&[1], &[(n - 1).max(1) as f32]);
    let coefficients: Vec<f32> = (0..4 * h).map(|i| [1.0, 0.0, -0.25][i % 3]).collect();
    let coefficients = case.tape.constant(&[4, h], &coefficients);
    let base = case.tape.constant_u32(&[4], &[0, 1, 2, 0]);
    let (targets, count) = case.targets(n, v);
    let foils = case.indices(&[n], v as u32, true);

    let tape = &mut case.tape;
    let logits = tape.push1(Ablate, &[stream, result, sum, held, coefficients, base])?;
    let each = tape.push1(AblateEach, &[stream, result])?;
    let rows = tape.push1(Outcomes, &[logits, stream, targets])?;
    let each_rows = tape.push1(Outcomes, &[each, stream, targets])?;
    let each = tape.push1(GroupMeans { rows: n }, &[each_rows, count])?;
    let means = tape.push1(GroupMeans { rows: n }, &[rows, count, each])?;
    let foiled = tape.push1(Outcomes, &[logits, stream, targets, foils])?;
    Ok(vec![logits, rows, means, foiled])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_match_their_references() {
        for (n, v, h) in [(1, 3, 1), (3, 2, 2), (31, 31, 3), (64, 113, 4), (257, 5, 2)] {
            let mut case = Case::new(&format!("interventions {n} {v} {h}"));
            let all = everything(&mut case, n, v, h).unwrap();
            // Sums of up to 257 terms of either sign.
            case.agree(&all, 3e-4);
        }
    }
}
