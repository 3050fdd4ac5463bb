//! Tangents of attention and of its gradient, as a few products that all forms of attention share. With S' = scale (q' kᵀ + q k'ᵀ):
//! P' = P (S' - Σ P S') and z' = P' v + P v'. With dP = dz vᵀ, dP' = dz' vᵀ + dz v'ᵀ and dS = P (dP - Σ P dP):
//! dS' = P (dP' - Σ P dP') + P' (dP - Σ P dP) - P Σ P' dP; dq' = scale (dS' k + dS k'), dk' = scale (dS'ᵀ q + dSᵀ q') and
//! dv' = P'ᵀ dz + Pᵀ dz'. The pattern lies in memory for that, also where attention itself streams.

use super::super::op::misfit;
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use super::attention::{AttentionParams, SMALL, Sizes, wide};
use super::matmul::Form;
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct SoftmaxParams {
        rows: u32, queries: u32, keys: u32, pattern_replica: u32, x_replica: u32, w_replica: u32, y_replica: u32,
    }
}
const WIDE: Knob<'_> = Knob { name: "WIDE", values: &[0, 1] };
static SOFTMAX: Shader<'_> = Shader {
    name: "attention/softmax_tangent",
    source: include_str!("../../../shaders/attention/softmax_tangent.wgsl"),
    knobs: &[Knob { name: "CURVE", values: &[0, 1] }, Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: SoftmaxParams::FIELDS,
};
static SCORES: Shader<'_> = Shader {
    name: "attention/head_scores",
    source: include_str!("../../../shaders/attention/head_scores.wgsl"),
    knobs: &[WIDE],
    params: AttentionParams::FIELDS,
};
static COLLECT: Shader<'_> = Shader {
    name: "attention/collect_keys",
    source: include_str!("../../../shaders/attention/collect_keys.wgsl"),
    knobs: &[WIDE],
    params: AttentionParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&SOFTMAX, &SCORES, &COLLECT];

/// Appends the tangents of z and of the pattern P [B, H, Tq, T], from q, k, v, P and the tangents of q, k and v.
pub(super) fn forward(
    tape: &mut Tape,
    scale: f32,
    [q, k, v]: [Var; 3],
    pattern: Var,
    moved: [Option<Var>; 3],
) -> Result<[Option<Var>; 2]> {
    let pattern_moved = pattern_tangent(tape, scale, [q, k], pattern, [moved[0], moved[1]])?;
    let terms = [values(tape, pattern_moved, Some(v))?, values(tape, Some(pattern), moved[2])?];
    Ok([tape.total(&terms)?, pattern_moved])
}

/// Appends the tangent of the pattern alone.
pub(super) fn pattern_tangent(
    tape: &mut Tape,
    scale: f32,
    [q, k]: [Var; 2],
    pattern: Var,
    moved: [Option<Var>; 2],
) -> Result<Option<Var>> {
    let terms = [scores(tape, moved[0], Some(k))?, scores(tape, Some(q), moved[1])?];
    let sum = tape.total(&terms)?;
    let slopes = tape.scaled(scale, sum)?;
    slopes.map(|slopes| tape.push1(SoftmaxTangent, &[pattern, slopes])).transpose()
}

/// Appends the tangents of the gradients of q, k and v, from q, k, v, pattern and dz and the tangents of all five.
pub(super) fn backward(
    tape: &mut Tape,
    scale: f32,
    [q, k, v, pattern, dz]: [Var; 5],
    moved: [Option<Var>; 5],
) -> Result<Vec<Option<Var>>> {
    let [q_moved, k_moved, v_moved, pattern_moved, dz_moved] = moved;
    let dp = tape.push1(HeadScores, &[dz, v])?;
    let ds = tape.push1(SoftmaxTangent, &[pattern, dp])?;
    let terms = [scores(tape, dz_moved, Some(v))?, scores(tape, Some(dz), v_moved)?];
    let dp_moved = tape.total(&terms)?;
    let terms = [
        dp_moved.map(|moved| tape.push1(SoftmaxTangent, &[pattern, moved])).transpose()?,
        pattern_moved.map(|moved| tape.push1(SoftmaxTangent, &[pattern, dp, moved])).transpose()?,
    ];
    let ds_moved = tape.total(&terms)?;
    let groups = tape.shape(k).dims[2];
    let dq = [values(tape, ds_moved, Some(k))?, values(tape, Some(ds), k_moved)?];
    let dk = [keys(tape, groups, ds_moved, Some(q))?, keys(tape, groups, Some(ds), q_moved)?];
    let dv = [keys(tape, groups, pattern_moved, Some(dz))?, keys(tape, groups, Some(pattern), dz_moved)?];
    let [dq, dk, dv] = [tape.total(&dq)?, tape.total(&dk)?, tape.total(&dv)?];
    Ok(vec![tape.scaled(scale, dq)?, tape.scaled(scale, dk)?, dv])
}

fn scores(tape: &mut Tape, q: Option<Var>, k: Option<Var>) -> Result<Option<Var>> {
    q.zip(k).map(|(q, k)| tape.push1(HeadScores, &[q, k])).transpose()
}

fn values(tape: &mut Tape, a: Option<Var>, v: Option<Var>) -> Result<Option<Var>> {
    a.zip(v).map(|(a, v)| tape.push1(HeadValues, &[a, v])).transpose()
}

fn keys(tape: &mut Tape, groups: usize, a: Option<Var>, q: Option<Var>) -> Result<Option<Var>> {
    a.zip(q).map(|(a, q)| tape.push1(HeadKeys { groups }, &[a, q])).transpose()
}

/// s [B, H, Tq, T] = q kᵀ of q [B, Tq, H, K] and k [B, T, G, K], neither scaled nor masked.
struct HeadScores;

impl Op for HeadScores {
    fn name(&self) -> &'static str {
        "head scores"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let sizes = Sizes::of(&inputs[0].dims, &inputs[1].dims)
            .ok_or_else(|| misfit("head scores", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)))?;
        Ok(vec![like(inputs, &sizes.pattern())])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (q, k, s) = (&inputs[0], &inputs[1], &outputs[0]);
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("head scores", "sizes"))?;
        if sizes.keys > SMALL {
            let (size, group) = ((sizes.queries, sizes.keys, sizes.width), sizes.heads / sizes.groups);
            let (from, to) = ((k, sizes.kv(sizes.groups)), (s, sizes.scores()));
            return sizes.product(Form::NT, size, (q, sizes.q()), from, to, group, 1.0).record(cx);
        }
        let params = AttentionParams {
            q_replica: q.replica_stride,
            k_replica: k.replica_stride,
            scores_replica: s.replica_stride,
            ..sizes.params(1.0)
        };
        let grid = grid_1d((s.len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&SCORES, &[wide(&sizes, &[q, k])], &params, &[q, k, s], grid)?;
        cx.count_flops(sizes.flops(cx.replicas) / 2);
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (q, k) = (inputs[0], inputs[1]);
        let Some(s) = Sizes::of(&q.dims, &k.dims) else { return Vec::new() };
        vec![Array::from_fn(&s.pattern(), |at| {
            let (row, j) = (at / s.keys, at % s.keys);
            let (q_at, k_at) = (s.query_at(row), s.key_at(row) + j * s.groups * s.width);
            (0..s.width).map(|x| q.data[q_at + x] * k.data[k_at + x]).sum()
        })]
    }
}

/// y [B, Tq, H, K] = A v of A [B, H, Tq, T], 0 for what a query does not see, and v [B, T, G, K].
struct HeadValues;

impl HeadValues {
    fn sizes(a: &[usize], v: &[usize]) -> Option<Sizes> {
        let ([b, h, tq, t], [_, _, _, width]) = (a, v) else { return None };
        Sizes::of(&[*b, *tq, *h, *width], v).filter(|sizes| sizes.keys == *t)
    }
}

impl Op for HeadValues {
    fn name(&self) -> &'static str {
        "head values"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let sizes = Self::sizes(&inputs[0].dims, &inputs[1].dims)
            .ok_or_else(|| misfit("head values", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)))?;
        Ok(vec![like(inputs, &[sizes.batch, sizes.queries, sizes.heads, sizes.width])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (a, v, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let sizes = Self::sizes(&a.dims, &v.dims).ok_or_else(|| misfit("head values", "sizes"))?;
        if sizes.keys <= SMALL {
            return super::MixValues.lower(cx, inputs, outputs);
        }
        let (size, group) = ((sizes.queries, sizes.width, sizes.keys), sizes.heads / sizes.groups);
        let (from, to) = ((v, sizes.kv(sizes.groups)), (y, sizes.q()));
        sizes.product(Form::NN, size, (a, sizes.scores()), from, to, group, 1.0).record(cx)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        super::MixValues.reference(inputs)
    }
}

/// y [B, T, G, K] = Aᵀ q of A [B, H, Tq, T], 0 for what a query does not see, and q [B, Tq, H, K], summed over the query heads
/// of each group.
struct HeadKeys {
    groups: usize,
}

impl HeadKeys {
    fn sizes(&self, a: &[usize], q: &[usize]) -> Option<Sizes> {
        let ([b, h, tq, t], [_, _, _, width]) = (a, q) else { return None };
        Sizes::of(q, &[*b, *t, self.groups, *width]).filter(|sizes| (sizes.queries, sizes.heads) == (*tq, *h))
    }
}

impl Op for HeadKeys {
    fn name(&self) -> &'static str {
        "head keys"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let sizes = self
            .sizes(&inputs[0].dims, &inputs[1].dims)
            .ok_or_else(|| misfit("head keys", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)))?;
        Ok(vec![like(inputs, &[sizes.batch, sizes.keys, sizes.groups, sizes.width])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (a, q, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let sizes = self.sizes(&a.dims, &q.dims).ok_or_else(|| misfit("head keys", "sizes"))?;
        if sizes.keys > SMALL {
            return sizes.collect_keys(cx, a, q, y, 1.0);
        }
        let params = AttentionParams {
            pattern_replica: a.replica_stride,
            q_replica: q.replica_stride,
            dk_replica: y.replica_stride,
            ..sizes.params(1.0)
        };
        let wide = wide(&sizes, &[q, y]);
        let grid = grid_1d((y.len() as u64 / if wide == 1 { 4 } else { 1 }).div_ceil(64), cx.replicas);
        cx.dispatch(&COLLECT, &[wide], &params, &[a, q, y], grid)?;
        cx.count_flops(sizes.flops(cx.replicas) / 2);
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (a, q) = (inputs[0], inputs[1]);
        let Some(s) = self.sizes(&a.dims, &q.dims) else { return Vec::new() };
        let mut y = Array::zeros(&[s.batch, s.keys, s.groups, s.width]);
        for row in 0..s.rows() {
            let q_at = s.query_at(row);
            for j in 0..s.keys {
                let y_at = s.key_at(row) + j * s.groups * s.width;
                for x in 0..s.width {
                    y.data[y_at + x] += a.data[row * s.keys + j] * q.data[q_at + x];
                }
            }
        }
        vec![y]
    }
}

/// Each row of the pattern with what stands in the same places of others, up to the last key that a query sees.
fn by_rows(inputs: &[&Array], of_key: impl Fn(&[&[f64]], usize) -> f64) -> Array {
    let dims = &inputs[0].dims;
    let (queries, keys) = (dims[2], dims[3]);
    Array::from_fn(dims, |at| {
        let (row, j) = (at / keys, at % keys);
        let seen = keys - queries + row % queries + 1;
        let rows: Vec<&[f64]> = inputs.iter().map(|a| &a.data[row * keys..][..seen]).collect();
        if j < seen { of_key(&rows, j) } else { 0.0 }
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// y = P (x - Σ P x): how a pattern moves with its scores along x, [B, H, Tq, T]. Inputs: P, x. With a third, w, how that
/// moves with P along w: y = w (x - Σ P x) - P Σ w x.
struct SoftmaxTangent;

impl Op for SoftmaxTangent {
    fn name(&self) -> &'static str {
        "softmax tangent"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let y = &outputs[0];
        let [.., queries, keys] = y.dims[..] else { return Err(misfit("softmax tangent", "sizes")) };
        let rows = y.len() / keys;
        let params = SoftmaxParams {
            rows: rows as u32,
            queries: queries as u32,
            keys: keys as u32,
            pattern_replica: inputs[0].replica_stride,
            x_replica: inputs[1].replica_stride,
            w_replica: inputs.get(2).map_or(0, |w| w.replica_stride),
            y_replica: y.replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain([y]).collect();
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&SOFTMAX, &[u32::from(inputs.len() == 3), subgroups], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![by_rows(inputs, |rows, j| match rows {
            [p, x, w] => w[j] * (x[j] - dot(p, x)) - p[j] * dot(w, x),
            _ => rows[0][j] * (rows[1][j] - dot(rows[0], rows[1])),
        })]
    }
}
