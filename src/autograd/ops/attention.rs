//! Causal attention with its hook points, grouped key and value heads, and its gradient.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, length, like};
use super::attention_tangent::{backward, forward};
use super::matmul::{Finish, Form, Layout, Matmul};
use crate::error::{Error, Result};
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    pub(super) struct AttentionParams {
        batch: u32, queries: u32, keys: u32, heads: u32,
        groups: u32, width: u32, scale: f32, q_replica: u32,
        k_replica: u32, v_replica: u32, pattern_replica: u32, scores_replica: u32,
        z_replica: u32, dz_replica: u32, ds_replica: u32, dq_replica: u32,
        dk_replica: u32, dv_replica: u32, lengths_replica: u32,
    }
}
const WIDE: Knob<'_> = Knob { name: "WIDE", values: &[0, 1] };
static SMALL_FORWARD: Shader<'_> = Shader {
    name: "attention/small_forward",
    source: include_str!("../../../shaders/attention/small_forward.wgsl"),
    knobs: &[WIDE],
    params: AttentionParams::FIELDS,
};
static SMALL_BACKWARD_Q: Shader<'_> = Shader {
    name: "attention/small_backward_q",
    source: include_str!("../../../shaders/attention/small_backward_q.wgsl"),
    knobs: &[WIDE],
    params: AttentionParams::FIELDS,
};
static SMALL_BACKWARD_KV: Shader<'_> = Shader {
    name: "attention/small_backward_kv",
    source: include_str!("../../../shaders/attention/small_backward_kv.wgsl"),
    knobs: &[WIDE],
    params: AttentionParams::FIELDS,
};
static SOFTMAX: Shader<'_> = Shader {
    name: "attention/causal_softmax",
    source: include_str!("../../../shaders/attention/causal_softmax.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: AttentionParams::FIELDS,
};
static SOFTMAX_BACKWARD: Shader<'_> = Shader {
    name: "attention/softmax_backward",
    source: include_str!("../../../shaders/attention/softmax_backward.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: AttentionParams::FIELDS,
};
static GROUP_SUM: Shader<'_> = Shader {
    name: "attention/group_sum",
    source: include_str!("../../../shaders/attention/group_sum.wgsl"),
    knobs: &[],
    params: AttentionParams::FIELDS,
};
crate::params! {
    struct MixParams {
        batch: u32, patterns: u32, queries: u32, keys: u32, heads: u32, groups: u32, width: u32,
        pattern_replica: u32, v_replica: u32, z_replica: u32,
    }
}
static MIX_VALUES: Shader<'_> = Shader {
    name: "attention/mix_values",
    source: include_str!("../../../shaders/attention/mix_values.wgsl"),
    knobs: &[],
    params: MixParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] =
    &[&SMALL_FORWARD, &SMALL_BACKWARD_Q, &SMALL_BACKWARD_KV, &SOFTMAX, &SOFTMAX_BACKWARD, &GROUP_SUM, &MIX_VALUES];

/// Up to this many keys, one invocation handles a query from scores to z.
pub(super) const SMALL: usize = 16;

/// z [B, Tq, H, K] = softmax(scale q kᵀ) v, causal. Inputs: q [B, Tq, H, K], k and v [B, T, G, K] with H a
/// multiple of G; the Tq queries are the last of the T positions. Outputs: z, pattern [B, H, Tq, T], the
/// scores [B, H, Tq, T] (scaled; masked ones hold a large negative number), and for up to 16 keys the lengths of
/// z's rows [B, Tq, H, 1].
#[derive(Clone, Copy)]
pub struct Attention {
    /// What scores are multiplied by: 1/√K as a rule.
    pub scale: f32,
}

#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    pub(super) groups: usize,
    pub(super) width: usize,
}

impl Sizes {
    pub(super) fn of(q: &[usize], k: &[usize]) -> Option<Self> {
        let ([b, tq, h, w], [b2, t, g, w2]) = (q, k) else { return None };
        let fits = b == b2 && w == w2 && tq <= t && *g > 0 && h.is_multiple_of(*g);
        fits.then_some(Self { batch: *b, queries: *tq, keys: *t, heads: *h, groups: *g, width: *w })
    }

    fn lengths(&self) -> [usize; 4] {
        [self.batch, self.queries, self.heads, 1]
    }

    pub(super) fn pattern(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    /// Floating-point operations of two products over all queries and keys.
    pub(super) fn flops(&self, replicas: u32) -> u64 {
        4 * u64::from(replicas) * self.rows() as u64 * self.keys as u64 * self.width as u64
    }

    pub(super) fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    /// The last key a query may see.
    pub(super) fn horizon(&self, query: usize) -> usize {
        self.keys - self.queries + query
    }

    /// Where the query of a row of the pattern begins in q.
    pub(super) fn query_at(&self, row: usize) -> usize {
        let (b, h, i) = (row / (self.heads * self.queries), row / self.queries % self.heads, row % self.queries);
        ((b * self.queries + i) * self.heads + h) * self.width
    }

    /// Where key 0 of a row of the pattern begins in k.
    pub(super) fn key_at(&self, row: usize) -> usize {
        let (b, h) = (row / (self.heads * self.queries), row / self.queries % self.heads);
        (b * self.keys * self.groups + h / (self.heads / self.groups)) * self.width
    }

    pub(super) fn params(&self, scale: f32) -> AttentionParams {
        AttentionParams {
            batch: self.batch as u32,
            queries: self.queries as u32,
            keys: self.keys as u32,
            heads: self.heads as u32,
            groups: self.groups as u32,
            width: self.width as u32,
            scale,
            ..Default::default()
        }
    }

    /// A product over all heads of all examples.
    #[expect(clippy::too_many_arguments, reason = "a matrix product has this many parts")]
    pub(super) fn product<'a>(
        &self,
        form: Form,
        (m, n, k): (usize, usize, usize),
        a: (&'a Tensor, Layout),
        b: (&'a Tensor, Layout),
        c: (&'a Tensor, Layout),
        b_group: usize,
        alpha: f32,
    ) -> Matmul<'a> {
        Matmul { form, m, n, k, batches: (self.batch, self.heads), b_group, a, b, c, alpha, finish: Finish::default() }
    }

    /// Records out [B, T, G, K] = alpha aᵀ x of a [B, H, Tq, T] and x [B, Tq, H, K]: keys and values of a group collect from each
    /// of its query heads, first per head, then summed.
    pub(super) fn collect_keys(
        &self,
        cx: &mut Lower<'_>,
        a: &Tensor,
        x: &Tensor,
        out: &Tensor,
        alpha: f32,
    ) -> Result<()> {
        let per_head = (self.heads > self.groups).then(|| cx.scratch(&[self.batch, self.keys, self.heads, self.width]));
        let to = (per_head.as_ref().unwrap_or(out), self.kv(self.heads));
        let size = (self.keys, self.width, self.queries);
        self.product(Form::TN, size, (a, self.scores()), (x, self.q()), to, 1, alpha).record(cx)?;
        let Some(per_head) = &per_head else { return Ok(()) };
        let params = AttentionParams {
            z_replica: per_head.replica_stride,
            dk_replica: out.replica_stride,
            ..self.params(alpha)
        };
        let grid = grid_1d((out.len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&GROUP_SUM, &[], &params, &[per_head, out], grid)
    }

    /// Layout of q, z and their gradients.
    pub(super) fn q(&self) -> Layout {
        Layout::heads(self.queries, self.heads, self.width)
    }

    /// Layout of k and v; the matrix product divides the head by the group size.
    pub(super) fn kv(&self, heads: usize) -> Layout {
        Layout::heads(self.keys, heads, self.width)
    }

    pub(super) fn scores(&self) -> Layout {
        Layout::stacked(self.keys, self.queries, self.heads)
    }
}

/// Lengths of the rows of z, for references.
fn lengths(z: &Array, dims: [usize; 4]) -> Array {
    let rows = z.data.chunks_exact(z.data.len() / dims.iter().product::<usize>());
    Array::new(&dims, rows.map(length).collect())
}

pub(super) fn wide(sizes: &Sizes, tensors: &[&Tensor]) -> u32 {
    u32::from(sizes.width.is_multiple_of(4) && tensors.iter().all(|t| t.replica_stride.is_multiple_of(4)))
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [q, k, v] = inputs else { return Err(misfit("attention", "takes q, k, v")) };
        let sizes = Sizes::of(&q.dims, &k.dims)
            .filter(|_| k.dims == v.dims)
            .ok_or_else(|| misfit("attention", format!("q {:?}, k {:?}, v {:?}", q.dims, k.dims, v.dims)))?;
        let pattern = like(&[q, k], &sizes.pattern());
        let mut shapes = vec![like(inputs, &q.dims), pattern.clone(), pattern];
        if sizes.keys <= SMALL {
            shapes.push(like(inputs, &sizes.lengths()));
        }
        Ok(shapes)
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [q, k, v] = inputs else { return Err(misfit("attention", "inputs")) };
        let [z, pattern, scores, lengths @ ..] = outputs else { return Err(misfit("attention", "outputs")) };
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("attention", "sizes"))?;
        let params = AttentionParams {
            q_replica: q.replica_stride,
            k_replica: k.replica_stride,
            v_replica: v.replica_stride,
            pattern_replica: pattern.replica_stride,
            scores_replica: scores.replica_stride,
            z_replica: z.replica_stride,
            lengths_replica: lengths.first().map_or(0, |t| t.replica_stride),
            ..sizes.params(self.scale)
        };
        if let [lengths] = lengths {
            let grid = grid_1d((sizes.rows() as u64).div_ceil(64), cx.replicas);
            let knobs = [wide(&sizes, &[q, k, v, z])];
            cx.dispatch(&SMALL_FORWARD, &knobs, &params, &[q, k, v, z, pattern, scores, lengths], grid)?;
            cx.count_flops(sizes.flops(cx.replicas));
            return Ok(());
        }
        AttentionPattern { scale: self.scale }.lower(cx, &inputs[..2], &outputs[1..3])?;
        let (group, kv) = (sizes.heads / sizes.groups, sizes.kv(sizes.groups));
        let size = (sizes.queries, sizes.width, sizes.keys);
        sizes.product(Form::NN, size, (pattern, sizes.scores()), (v, kv), (z, sizes.q()), group, 1.0).record(cx)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        if grads[1..].iter().any(Option::is_some) {
            return Err(Error::Unsupported("only the result z of attention has a gradient".to_owned()));
        }
        let Some(dz) = grads[0] else { return Ok(vec![None; 3]) };
        let inputs = [node.inputs[0], node.inputs[1], node.inputs[2], node.outputs[1], dz];
        Ok(tape.push(AttentionGrad { scale: self.scale }, &inputs)?.into_iter().map(Some).collect())
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [q, k, v, pattern] = [node.inputs[0], node.inputs[1], node.inputs[2], node.outputs[1]];
        let moved = [tangents[0], tangents[1], tangents[2]];
        let mut found = forward(tape, self.scale, [q, k, v], pattern, moved)?.to_vec();
        found.resize(node.outputs.len(), None);
        Ok(found)
    }

    fn keeps(&self, output: usize) -> bool {
        output > 1
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let Some(s) = Sizes::of(&q.dims, &k.dims) else { return Vec::new() };
        let found = AttentionPattern { scale: self.scale }.reference(&[q, k]);
        let mut z = Array::zeros(&q.dims);
        for row in 0..s.rows() {
            let (q_at, kv_at) = (s.query_at(row), s.key_at(row));
            for j in 0..=s.horizon(row % s.queries) {
                for x in 0..s.width {
                    z.data[q_at + x] += found[0].data[row * s.keys + j] * v.data[kv_at + j * s.groups * s.width + x];
                }
            }
        }
        let lengths = (s.keys <= SMALL).then(|| lengths(&z, s.lengths()));
        [vec![z], found, lengths.into_iter().collect()].concat()
    }
}

/// Pattern and scores [B, H, Tq, T] of [`Attention`] alone, from q [B, Tq, H, K] and k [B, T, G, K]. Measures only: it
/// has no gradient.
#[derive(Clone, Copy)]
pub struct AttentionPattern {
    /// What scores are multiplied by.
    pub scale: f32,
}

impl Op for AttentionPattern {
    fn name(&self) -> &'static str {
        "attention pattern"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [q, k] = inputs else { return Err(misfit("attention pattern", "takes q and k")) };
        let sizes = Sizes::of(&q.dims, &k.dims)
            .ok_or_else(|| misfit("attention pattern", format!("q {:?}, k {:?}", q.dims, k.dims)))?;
        Ok(vec![like(inputs, &sizes.pattern()); 2])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [q, k] = inputs else { return Err(misfit("attention pattern", "inputs")) };
        let [pattern, scores] = outputs else { return Err(misfit("attention pattern", "outputs")) };
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("attention pattern", "sizes"))?;
        let (group, kv) = (sizes.heads / sizes.groups, sizes.kv(sizes.groups));
        let size = (sizes.queries, sizes.keys, sizes.width);
        let to = (scores, sizes.scores());
        sizes.product(Form::NT, size, (q, sizes.q()), (k, kv), to, group, self.scale).record(cx)?;
        let params = AttentionParams {
            pattern_replica: pattern.replica_stride,
            scores_replica: scores.replica_stride,
            ..sizes.params(self.scale)
        };
        let (subgroups, grid) = cx.by_rows(sizes.rows(), 64);
        cx.dispatch(&SOFTMAX, &[subgroups], &params, &[scores, pattern], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (q, k) = (inputs[0], inputs[1]);
        let Some(s) = Sizes::of(&q.dims, &k.dims) else { return Vec::new() };
        let (mut pattern, mut scores) = (Array::zeros(&s.pattern()), Array::zeros(&s.pattern()));
        for row in 0..s.rows() {
            let (q_at, kv_at) = (s.query_at(row), s.key_at(row));
            let (line, horizon) = (row * s.keys, s.horizon(row % s.queries));
            for j in 0..s.keys {
                let k_at = kv_at + j * s.groups * s.width;
                let dot: f64 = (0..s.width).map(|x| q.data[q_at + x] * k.data[k_at + x]).sum();
                scores.data[line + j] = if j <= horizon { f64::from(self.scale) * dot } else { MASKED };
            }
            let seen = line..=line + horizon;
            let top = scores.data[seen.clone()].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.data[seen.clone()].iter().map(|score| (score - top).exp()).sum();
            for at in seen {
                pattern.data[at] = (scores.data[at] - top).exp() / total;
            }
        }
        vec![pattern, scores]
    }
}

/// Appends the gradients of q, k and v from those three, the pattern and dz, as [`Attention`] has them; for what reads
/// them where attention itself took another way.
///
/// # Errors
/// [`Error::Shape`] where they do not fit together.
pub(crate) fn attention_gradients(tape: &mut Tape, scale: f32, inputs: [Var; 5]) -> Result<Vec<Var>> {
    tape.push(AttentionGrad { scale }, &inputs)
}

/// What masked scores hold; the same in the kernels.
const MASKED: f64 = -1e30;

/// Gradients of q, k, v. Inputs: q, k, v, pattern P, dz. With dP = dz vᵀ and
/// dS = P (dP - Σ P dP): dq = scale dS k, dk = scale dSᵀ q, dv = Pᵀ dz.
struct AttentionGrad {
    scale: f32,
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(inputs[..3].iter().map(|s| like(inputs, &s.dims)).collect())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [q, k, v, pattern, dz] = inputs else { return Err(misfit("attention gradient", "inputs")) };
        let [dq, dk, dv] = outputs else { return Err(misfit("attention gradient", "outputs")) };
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("attention gradient", "sizes"))?;
        let ds = cx.scratch(&sizes.pattern());
        let params = AttentionParams {
            q_replica: q.replica_stride,
            k_replica: k.replica_stride,
            v_replica: v.replica_stride,
            pattern_replica: pattern.replica_stride,
            dz_replica: dz.replica_stride,
            ds_replica: ds.replica_stride,
            dq_replica: dq.replica_stride,
            dk_replica: dk.replica_stride,
            dv_replica: dv.replica_stride,
            ..sizes.params(self.scale)
        };
        if sizes.keys <= SMALL {
            let wide = wide(&sizes, &[q, k, v, dz, dq, dk, dv]);
            let grid = grid_1d((sizes.rows() as u64).div_ceil(64), cx.replicas);
            cx.dispatch(&SMALL_BACKWARD_Q, &[wide], &params, &[k, v, pattern, dz, dq, &ds], grid)?;
            cx.count_flops(sizes.flops(cx.replicas));
            let vectors = sizes.batch * sizes.keys * sizes.groups * sizes.width / if wide == 1 { 4 } else { 1 };
            let grid = grid_1d((vectors as u64).div_ceil(64), cx.replicas);
            cx.dispatch(&SMALL_BACKWARD_KV, &[wide], &params, &[q, pattern, dz, &ds, dk, dv], grid)?;
            cx.count_flops(sizes.flops(cx.replicas));
            return Ok(());
        }
        let group = sizes.heads / sizes.groups;
        let (t, tq, w) = (sizes.keys, sizes.queries, sizes.width);
        let (line, kv) = (sizes.scores(), sizes.kv(sizes.groups));
        sizes.product(Form::NT, (tq, t, w), (dz, sizes.q()), (v, kv), (&ds, line), group, 1.0).record(cx)?;
        let (subgroups, grid) = cx.by_rows(sizes.rows(), 64);
        cx.dispatch(&SOFTMAX_BACKWARD, &[subgroups], &params, &[pattern, &ds], grid)?;
        sizes.product(Form::NN, (tq, w, t), (&ds, line), (k, kv), (dq, sizes.q()), group, self.scale).record(cx)?;
        sizes.collect_keys(cx, &ds, q, dk, self.scale)?;
        sizes.collect_keys(cx, pattern, dz, dv, 1.0)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let all = [0, 1, 2, 3, 4];
        backward(tape, self.scale, all.map(|at| node.inputs[at]), all.map(|at| tangents[at]))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [q, k, v, pattern, dz] = inputs else { return Vec::new() };
        gradients(self.scale, [q, k, v, pattern, dz])
    }
}

/// Gradients of q, k and v in f64, from q, k, v, pattern and dz.
pub(super) fn gradients(scale: f32, [q, k, v, pattern, dz]: [&Array; 5]) -> Vec<Array> {
    let Some(s) = Sizes::of(&q.dims, &k.dims) else { return Vec::new() };
    let (mut dq, mut dk, mut dv) = (Array::zeros(&q.dims), Array::zeros(&k.dims), Array::zeros(&v.dims));
    let scale = f64::from(scale);
    for row in 0..s.rows() {
        let q_at = s.query_at(row);
        let kv_at = |j: usize| s.key_at(row) + j * s.groups * s.width;
        let p = &pattern.data[row * s.keys..][..s.keys];
        let dp: Vec<f64> =
            (0..s.keys).map(|j| (0..s.width).map(|x| dz.data[q_at + x] * v.data[kv_at(j) + x]).sum()).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
        for j in 0..s.keys {
            let ds = p[j] * (dp[j] - mean);
            for x in 0..s.width {
                dq.data[q_at + x] += scale * ds * k.data[kv_at(j) + x];
                dk.data[kv_at(j) + x] += scale * ds * q.data[q_at + x];
                dv.data[kv_at(j) + x] += p[j] * dz.data[q_at + x];
            }
        }
    }
    vec![dq, dk, dv]
}

/// z [B, Tq, H, K] = A v with a pattern that was computed elsewhere. Inputs: pattern [P, H, Tq, T] with B a
/// multiple of P, v [B, T, G, K]; example b takes pattern b mod P. Measures only: it has no gradient.
pub struct MixValues;

impl Op for MixValues {
    fn name(&self) -> &'static str {
        "mix values"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ([p, h, tq, t], [b, t2, g, k]) = (&inputs[0].dims[..], &inputs[1].dims[..]) else {
            return Err(misfit("mix values", "takes a pattern and v"));
        };
        if t != t2 || !b.is_multiple_of(*p) || !h.is_multiple_of(*g) {
            return Err(misfit("mix values", format!("pattern {:?}, v {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[*b, *tq, *h, *k])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let ([patterns, heads, queries, keys], [batch, _, groups, width]) = (&inputs[0].dims[..], &inputs[1].dims[..])
        else {
            return Err(misfit("mix values", "inputs"));
        };
        let params = MixParams {
            batch: *batch as u32,
            patterns: *patterns as u32,
            queries: *queries as u32,
            keys: *keys as u32,
            heads: *heads as u32,
            groups: *groups as u32,
            width: *width as u32,
            pattern_replica: inputs[0].replica_stride,
            v_replica: inputs[1].replica_stride,
            z_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&MIX_VALUES, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)?;
        cx.count_flops(2 * u64::from(cx.replicas) * outputs[0].len() as u64 * *keys as u64);
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (a, v) = (inputs[0], inputs[1]);
        let [p, h, tq, t] = a.dims[..] else { return Vec::new() };
        let [b, _, g, k] = v.dims[..] else { return Vec::new() };
        vec![Array::from_fn(&[b, tq, h, k], |at| {
            let (example, query, head, x) = (at / (tq * h * k), at / (h * k) % tq, at / k % h, at % k);
            let line = ((example % p * h + head) * tq + query) * t;
            (0..t).map(|j| a.data[line + j] * v.data[((example * t + j) * g + head / (h / g)) * k + x]).sum()
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    fn check(b: usize, tq: usize, t: usize, h: usize, g: usize, w: usize) {
        let mut case = Case::new(&format!("attention b{b} tq{tq} t{t} h{h} g{g} w{w}"));
        let (q, k, v) = (case.owned(&[b, tq, h, w]), case.owned(&[b, t, g, w]), case.owned(&[b, t, g, w]));
        let out = case.tape.push(Attention { scale: 0.7 }, &[q, k, v]).unwrap();
        // Products of up to 257 terms, exp and a division: 1e-5 of the largest element.
        case.check(&out[..1], &[q, k, v], 1e-5);
        case.agree(&out, 1e-5);
    }

    #[test]
    fn small_attention_matches_its_reference() {
        for t in [1, 3, 16] {
            check(3, t, t, 2, 2, 8);
            check(2, 1, t, 4, 2, 5);
            check(31, 1, t, 1, 1, 4);
        }
        check(64, 1, 3, 4, 4, 32);
    }

    #[test]
    fn mixing_with_a_patterns_own_values_gives_z() {
        for (b, queries, keys, heads, groups, width) in [(1, 1, 1, 1, 1, 1), (3, 1, 3, 4, 2, 31), (2, 64, 64, 3, 1, 5)]
        {
            let mut case = Case::new(&format!("mix values {b} {queries} {keys} {heads} {groups} {width}"));
            let q = case.owned(&[b, queries, heads, width]);
            let (k, v) = (case.owned(&[b, keys, groups, width]), case.owned(&[b, keys, groups, width]));
            let out = case.tape.push(Attention { scale: 0.5 }, &[q, k, v]).unwrap();
            let same = case.tape.push1(MixValues, &[out[1], v]).unwrap();
            let copies = case.owned(&[2 * b, keys, groups, width]);
            let other = case.tape.push1(MixValues, &[out[1], copies]).unwrap();
            case.check(&[same, other], &[], 1e-5);
            let exact = case.reference(0, &[out[0], same]).unwrap();
            for (z, mixed) in exact[0].data.iter().zip(&exact[1].data) {
                assert!((z - mixed).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        // On both sides of the longest that goes without matrix products, with groups, and fewer queries than keys.
        for (b, tq, t, h, g, w) in [
            (3, 1, 1, 2, 2, 8),
            (2, 3, 3, 4, 2, 5),
            (31, 1, 3, 4, 4, 4),
            (2, 16, 16, 2, 1, 4),
            (1, 5, 31, 4, 2, 3),
            (2, 33, 33, 2, 2, 8),
        ] {
            let mut case = Case::new(&format!("tangent of attention b{b} tq{tq} t{t} h{h} g{g} w{w}"));
            let q = if t % 2 == 1 { case.shared(&[b, tq, h, w]) } else { case.owned(&[b, tq, h, w]) };
            let (k, v) = (case.shared(&[b, t, g, w]), case.owned(&[b, t, g, w]));
            let out = case.tape.push(Attention { scale: 0.7 }, &[q, k, v]).unwrap();
            // Sums of sums: scores of some tens in the exponent cost a digit.
            case.check_tangents(out[0], &[q, k, v], 3e-5);
        }
        let mut case = Case::new("values alone move");
        let (q, k, v) = (case.shared(&[2, 3, 2, 4]), case.shared(&[2, 3, 2, 4]), case.shared(&[2, 3, 2, 4]));
        let out = case.tape.push(Attention { scale: 0.7 }, &[q, k, v]).unwrap();
        case.check_tangents(out[0], &[v], 1e-5);
    }

    #[test]
    fn large_attention_matches_its_reference() {
        for t in [17, 31, 64] {
            check(2, t, t, 2, 2, 8);
            check(1, 5, t, 4, 2, 3);
            check(2, 1, t, 3, 1, 4);
        }
        check(1, 257, 257, 2, 1, 16);
    }
}
