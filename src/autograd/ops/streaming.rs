//! Causal attention that walks over keys and never holds a pattern, with statistics of the pattern taken on the way.
//! After Milakov and Gimelshein 2018 (1805.02867) and Dao et al. 2022 (2205.14135).

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, length, like};
use super::attention::{Sizes, wide};
use super::attention_tangent::{backward, forward, pattern_tangent};
use super::{Attention, AttentionPattern};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct StreamParams {
        batch: u32, queries: u32, keys: u32, heads: u32,
        groups: u32, width: u32, scale: f32, q_replica: u32,
        k_replica: u32, v_replica: u32, z_replica: u32, lse_replica: u32,
        dz_replica: u32, delta_replica: u32, dq_replica: u32, dk_replica: u32,
        dv_replica: u32, tokens_replica: u32, statistics_replica: u32, tiles: u32,
    }
}
/// Vectors of four that a kernel keeps of a row: the widest head is 128.
const VECTORS: Knob<'_> = Knob { name: "VECTORS", values: &[2, 4, 8, 16, 32] };
const WIDE: Knob<'_> = Knob { name: "WIDE", values: &[0, 1] };
const SG: Knob<'_> = Knob { name: "SG", values: &[0, 4, 8, 16] };
static FORWARD: Shader<'_> = Shader {
    name: "attention/stream_forward",
    source: include_str!("../../../shaders/attention/stream_forward.wgsl"),
    knobs: &[VECTORS, WIDE, SG, Knob { name: "TOKENS", values: &[0, 1] }],
    params: StreamParams::FIELDS,
};
static BACKWARD_Q: Shader<'_> = Shader {
    name: "attention/stream_backward_q",
    source: include_str!("../../../shaders/attention/stream_backward_q.wgsl"),
    knobs: &[VECTORS, WIDE, SG],
    params: StreamParams::FIELDS,
};
static BACKWARD_KV: Shader<'_> = Shader {
    name: "attention/stream_backward_kv",
    source: include_str!("../../../shaders/attention/stream_backward_kv.wgsl"),
    knobs: &[VECTORS, WIDE, SG],
    params: StreamParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&FORWARD, &BACKWARD_Q, &BACKWARD_KV];

/// Invocations of a workgroup.
const WG: u32 = 64;

/// z [B, Tq, H, K] as of [`Attention`]. Inputs: q [B, Tq, H, K], k and v [B, T, G, K], and tokens [B * T] for the
/// third and fourth statistic, or none. Outputs: z; the log-sum-exp of each query's scores [B, H, Tq]; and statistics
/// of its pattern [B, H, Tq, 5]: entropy in nats, attention to the token before, to earlier places of the query's own
/// token, and to what followed those, and the length of z. Memory grows with T, not with T².
#[derive(Clone, Copy)]
pub struct StreamedAttention {
    /// What scores are multiplied by: 1/√K as a rule.
    pub scale: f32,
}

impl StreamedAttention {
    /// From how many keys on a pattern is better not kept.
    const FROM: usize = 64;

    /// Whether attention over so many keys, with heads so wide, streams.
    pub fn suits(keys: usize, width: usize) -> bool {
        keys >= Self::FROM && width <= 128
    }
}

/// Which kernels serve heads of a width on a device.
struct Variant {
    vectors: u32,
    wide: u32,
    subgroup: u32,
}

impl Variant {
    fn of(caps: &Caps, sizes: &Sizes, tensors: &[&Tensor]) -> Result<Self> {
        let needed = sizes.width.div_ceil(4) as u32;
        let vectors = *VECTORS.values.iter().find(|count| **count >= needed).ok_or_else(|| {
            Error::Unsupported(format!("streaming attention with heads of {}; the widest is 128", sizes.width))
        })?;
        let wide = u32::from(wide(sizes, tensors) == 1 && vectors * 4 == sizes.width as u32);
        let subgroup = match caps.fixed_subgroup() {
            Some(size @ (4 | 8 | 16)) if caps.is_software() => size,
            _ => 0,
        };
        Ok(Self { vectors, wide, subgroup })
    }

    fn knobs(&self) -> Vec<u32> {
        vec![self.vectors, self.wide, self.subgroup]
    }

    /// Tiles that cover `rows`, and the grid over all of `batch` examples and `heads`.
    fn grid(&self, rows: usize, batch: usize, heads: usize, replicas: u32) -> (u32, [u32; 3]) {
        let (team, teams_each) = if self.subgroup == 0 { (WG, 1) } else { (self.subgroup, WG / self.subgroup) };
        let tiles = (rows as u32).div_ceil(team);
        let teams = u64::from(tiles) * (batch * heads) as u64;
        (tiles, grid_1d(teams.div_ceil(u64::from(teams_each)), replicas))
    }
}

fn params(sizes: &Sizes, scale: f32) -> StreamParams {
    StreamParams {
        batch: sizes.batch as u32,
        queries: sizes.queries as u32,
        keys: sizes.keys as u32,
        heads: sizes.heads as u32,
        groups: sizes.groups as u32,
        width: sizes.width as u32,
        scale,
        ..Default::default()
    }
}

/// Floating-point operations of `products` products of which causality leaves the visible part.
fn flops(sizes: &Sizes, products: u64, replicas: u32) -> u64 {
    let seen: usize = (0..sizes.queries).map(|query| sizes.horizon(query) + 1).sum();
    2 * products * u64::from(replicas) * (sizes.batch * sizes.heads * sizes.width * seen) as u64
}

impl Op for StreamedAttention {
    fn name(&self) -> &'static str {
        "streamed attention"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [q, k, v, tokens @ ..] = inputs else { return Err(misfit("streamed attention", "takes q, k, v")) };
        let sizes = Sizes::of(&q.dims, &k.dims)
            .filter(|s| k.dims == v.dims && tokens.iter().all(|t| t.len() == s.batch * s.keys))
            .ok_or_else(|| misfit("streamed attention", format!("q {:?}, k {:?}, v {:?}", q.dims, k.dims, v.dims)))?;
        let rows = [sizes.batch, sizes.heads, sizes.queries];
        let [b, h, t] = rows;
        Ok(vec![like(inputs, &q.dims), like(inputs, &rows), like(inputs, &[b, h, t, 5])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [q, k, v, tokens @ ..] = inputs else { return Err(misfit("streamed attention", "inputs")) };
        let [z, lse, statistics] = outputs else { return Err(misfit("streamed attention", "outputs")) };
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("streamed attention", "sizes"))?;
        let variant = Variant::of(cx.gpu().caps(), &sizes, &[q, k, v, z])?;
        let (tiles, grid) = variant.grid(sizes.queries, sizes.batch, sizes.heads, cx.replicas);
        let params = StreamParams {
            q_replica: q.replica_stride,
            k_replica: k.replica_stride,
            v_replica: v.replica_stride,
            z_replica: z.replica_stride,
            lse_replica: lse.replica_stride,
            statistics_replica: statistics.replica_stride,
            tokens_replica: tokens.first().map_or(0, |t| t.replica_stride),
            tiles,
            ..params(&sizes, self.scale)
        };
        let mut knobs = variant.knobs();
        knobs.push(u32::from(!tokens.is_empty()));
        let mut tensors = vec![q, k, v, z, lse, statistics];
        tensors.extend(tokens);
        cx.dispatch(&FORWARD, &knobs, &params, &tensors, grid)?;
        cx.count_flops(flops(&sizes, 2, cx.replicas));
        Ok(())
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        if grads[1..].iter().any(Option::is_some) {
            return Err(Error::Unsupported("only the result z of attention has a gradient".to_owned()));
        }
        let Some(dz) = grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let [q, k, v] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        let inputs = [q, k, v, node.outputs[0], node.outputs[1], dz];
        let found = tape.push(StreamedAttentionGrad { scale: self.scale }, &inputs)?;
        let mut all: Vec<Option<Var>> = found.into_iter().map(Some).collect();
        all.resize(node.inputs.len(), None);
        Ok(all)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [q, k, v] = [0, 1, 2].map(|at| node.inputs[at]);
        let pattern = tape.push(AttentionPattern { scale: self.scale }, &[q, k])?[0];
        let [z, _] = forward(tape, self.scale, [q, k, v], pattern, [0, 1, 2].map(|at| tangents[at]))?;
        Ok(vec![z, None, None])
    }

    fn keeps(&self, output: usize) -> bool {
        output > 0
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Some(s) = Sizes::of(&inputs[0].dims, &inputs[1].dims) else { return Vec::new() };
        let [z, pattern, scores, ..] = &Attention { scale: self.scale }.reference(&inputs[..3])[..] else {
            return Vec::new();
        };
        let rows = [s.batch, s.heads, s.queries];
        let line = |row: usize| row * s.keys..row * s.keys + s.horizon(row % s.queries) + 1;
        let lse = Array::from_fn(&rows, |row| {
            let seen = &scores.data[line(row)];
            let top = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + seen.iter().map(|score| (score - top).exp()).sum::<f64>().ln()
        });
        let statistics = Array::from_fn(&[rows[0], rows[1], rows[2], 5], |at| {
            let (row, which) = (at / 5, at % 5);
            let (seen, place) = (&pattern.data[line(row)], s.horizon(row % s.queries));
            let tokens = inputs.get(3).map(|t| &t.data[row / (s.heads * s.queries) * s.keys..][..s.keys]);
            let sum =
                |found: &dyn Fn(usize) -> bool| -> f64 { (0..=place).filter(|j| found(*j)).map(|j| seen[j]).sum() };
            match (which, tokens) {
                (0, _) => seen.iter().filter(|a| **a > 0.0).map(|a| -a * a.ln()).sum(),
                (1, _) => sum(&|j| j + 1 == place),
                (2, Some(t)) => sum(&|j| j < place && t[j] == t[place]),
                (3, Some(t)) => sum(&|j| j > 0 && t[j - 1] == t[place]),
                (4, _) => length(&z.data[s.query_at(row)..][..s.width]),
                _ => 0.0,
            }
        });
        vec![z.clone(), lse, statistics]
    }
}

/// Gradients of q, k, v. Inputs: q, k, v, z, log-sum-exp, dz. The pattern is computed anew, twice.
struct StreamedAttentionGrad {
    scale: f32,
}

impl Op for StreamedAttentionGrad {
    fn name(&self) -> &'static str {
        "streamed attention gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(inputs[..3].iter().map(|s| like(inputs, &s.dims)).collect())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [q, k, v, z, lse, dz] = inputs else { return Err(misfit("streamed attention gradient", "inputs")) };
        let [dq, dk, dv] = outputs else { return Err(misfit("streamed attention gradient", "outputs")) };
        let sizes = Sizes::of(&q.dims, &k.dims).ok_or_else(|| misfit("streamed attention gradient", "sizes"))?;
        let delta = cx.scratch(&[sizes.batch, sizes.heads, sizes.queries]);
        let variant = Variant::of(cx.gpu().caps(), &sizes, &[q, k, v, z, dz, dq, dk, dv])?;
        let params = StreamParams {
            q_replica: q.replica_stride,
            k_replica: k.replica_stride,
            v_replica: v.replica_stride,
            z_replica: z.replica_stride,
            lse_replica: lse.replica_stride,
            dz_replica: dz.replica_stride,
            delta_replica: delta.replica_stride,
            dq_replica: dq.replica_stride,
            dk_replica: dk.replica_stride,
            dv_replica: dv.replica_stride,
            ..params(&sizes, self.scale)
        };
        let (tiles, grid) = variant.grid(sizes.queries, sizes.batch, sizes.heads, cx.replicas);
        let by_query = StreamParams { tiles, ..params };
        cx.dispatch(&BACKWARD_Q, &variant.knobs(), &by_query, &[q, k, v, z, lse, dz, dq, &delta], grid)?;
        cx.count_flops(flops(&sizes, 3, cx.replicas));
        let (tiles, grid) = variant.grid(sizes.keys, sizes.batch, sizes.groups, cx.replicas);
        let by_key = StreamParams { tiles, ..params };
        cx.dispatch(&BACKWARD_KV, &variant.knobs(), &by_key, &[q, k, v, lse, dz, &delta, dk, dv], grid)?;
        cx.count_flops(flops(&sizes, 4, cx.replicas));
        Ok(())
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        // What the forward pass kept, z and the log-sum-exp, follows from q, k and v, and so do their tangents.
        let [q, k, v, dz] = [0, 1, 2, 5].map(|at| node.inputs[at]);
        let [dq, dk, dv, ddz] = [0, 1, 2, 5].map(|at| tangents[at]);
        let pattern = tape.push(AttentionPattern { scale: self.scale }, &[q, k])?[0];
        let moved = pattern_tangent(tape, self.scale, [q, k], pattern, [dq, dk])?;
        backward(tape, self.scale, [q, k, v, pattern, dz], [dq, dk, dv, moved, ddz])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [q, k, v, _, _, dz] = inputs else { return Vec::new() };
        let pattern = &AttentionPattern { scale: self.scale }.reference(&[q, k])[0];
        super::attention::gradients(self.scale, [q, k, v, pattern, dz])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    fn check(b: usize, tq: usize, t: usize, h: usize, g: usize, w: usize, with_tokens: bool) {
        let mut case = Case::new(&format!("streamed b{b} tq{tq} t{t} h{h} g{g} w{w}"));
        let (q, k, v) = (case.owned(&[b, tq, h, w]), case.owned(&[b, t, g, w]), case.owned(&[b, t, g, w]));
        let mut inputs = vec![q, k, v];
        if with_tokens {
            inputs.push(case.indices(&[b * t], 5, true));
        }
        let out = case.tape.push(StreamedAttention { scale: 0.7 }, &inputs).unwrap();
        // Sums of up to 257 terms, exp and divisions: 1e-5 of the largest element; scores of some tens in the
        // exponent cost a further digit in the gradients.
        case.check(&out[..1], &[q, k, v], 2e-5);
        case.agree(&out, 1e-5);
    }

    #[test]
    fn streaming_matches_the_plain_formula_at_awkward_sizes() {
        for t in [1, 3, 31, 64, 65] {
            check(2, t, t, 2, 2, 8, true);
            check(1, t.div_ceil(2), t, 4, 2, 5, false);
            check(3, 1, t, 3, 1, 4, true);
        }
        check(1, 257, 257, 2, 1, 16, true);
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for (b, tq, t, h, g, w) in [(1, 3, 3, 2, 1, 4), (2, 31, 31, 2, 2, 5), (1, 33, 65, 4, 2, 8)] {
            let mut case = Case::new(&format!("tangent of streamed b{b} tq{tq} t{t} h{h} g{g} w{w}"));
            let (q, k, v) = (case.shared(&[b, tq, h, w]), case.shared(&[b, t, g, w]), case.owned(&[b, t, g, w]));
            let out = case.tape.push(StreamedAttention { scale: 0.7 }, &[q, k, v]).unwrap();
            case.check_tangents(out[0], &[q, k, v], 3e-5);
        }
    }

    #[test]
    fn every_width_of_head_up_to_the_widest() {
        for width in [1, 3, 8, 31, 32, 64, 80, 128] {
            check(1, 33, 67, 2, 1, width, false);
        }
    }

    #[test]
    fn no_driver_cuts_the_longest_loops_off() {
        // Lavapipe ends an invocation's loops after 65,535 rounds in all, and counts those it has not unrolled: here
        // 4 heads times 33 tiles of queries, times some 600 rounds over vectors and rows if none were unrolled.
        let mut case = Case::new("many heads of one group");
        let (q, k, v) = (case.owned(&[1, 260, 4, 128]), case.owned(&[1, 260, 1, 128]), case.owned(&[1, 260, 1, 128]));
        let out = case.tape.push(StreamedAttention { scale: 0.1 }, &[q, k, v]).unwrap();
        let wanted = case.gradients(out[0], &[q, k, v]).unwrap().1;
        case.agree(&wanted, 2e-5);
    }

    #[test]
    fn two_thousand_keys_are_walked_to_the_end() {
        let mut case = Case::new("long");
        let (q, k, v) = (case.owned(&[1, 2048, 2, 8]), case.owned(&[1, 2048, 1, 8]), case.owned(&[1, 2048, 1, 8]));
        let out = case.tape.push(StreamedAttention { scale: 0.5 }, &[q, k, v]).unwrap();
        let grads = case.gradients(out[0], &[q, k, v]).unwrap().1;
        let wanted = [vec![out[0], out[2]], grads].concat();
        // The gradient of a value adds up to 4,096 terms: 64 roundings of 6e-8 if they are independent, some dozens of the
        // largest in the worst place.
        case.agree(&wanted, 5e-5);
    }

    #[test]
    fn uniform_attention_spreads_over_what_a_query_sees() {
        let mut case = Case::new("uniform");
        let (q, k) = (case.tape.constant(&[1, 70, 1, 8], &[0.0; 560]), case.owned(&[1, 70, 1, 8]));
        let v = case.owned(&[1, 70, 1, 8]);
        let out = case.tape.push(StreamedAttention { scale: 1.0 }, &[q, k, v]).unwrap();
        for gpu in crate::autograd::check::gpus() {
            let found = case.run(gpu, &[out[2]]).unwrap();
            for (query, of) in found[0][0].chunks_exact(5).enumerate() {
                let seen = (query + 1) as f32;
                // Entropy is ln n, and one key of n is the token before; some roundings of 6e-8 times ln 70.
                assert!((of[0] - seen.ln()).abs() < 2e-6, "{} of {query}", of[0]);
                let before = if query == 0 { 0.0 } else { 1.0 / seen };
                assert!((of[1] - before).abs() < 1e-6, "{} of {query}", of[1]);
            }
        }
    }
}
