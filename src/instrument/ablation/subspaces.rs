//! The null of ablation: random K-dimensional subspaces of what a layer's heads write.
//!
//! Such a subspace must depend on the model alone, not on the basis in which a head happens to keep its z: W_V A and A⁻¹ W_O
//! are the same model for every invertible A. So it is drawn in the residual stream. What head h writes lies in the rows of
//! W_O,h, which have an orthonormal basis Q_h; its coordinates there are y_h = result_h Q_hᵀ, and a Gaussian direction g_h of
//! the stream has the coordinates Q_h g_h. K directions for each head, one behind the other over all heads and made
//! orthonormal, are B [H K, K], and the stream loses y B Bᵀ Q. Another basis turns y_h and Q_h g_h alike, so B Bᵀ stays what
//! it was. Each head has directions of its own, so that the subspaces are uniformly distributed also where heads write to the
//! same part of the stream. Where W_O has a rank lower than K, the coordinates that nothing is written with are Gaussian too, so
//! that a draw takes the same share of the layer whether a head writes with few dimensions or with few that count. Where
//! the singular values of W_O fall off without a gap, rounding decides which coordinates these are, and it depends on the
//! basis: the subspaces are distributed as before then, but others are drawn.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::{HeadResult, Linear};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Philox, Shader, Stream, Tensor};
use crate::intervene::{AblateEach, Probe, Writers};

crate::params! {
    struct OrthonormalParams {
        vectors: u32, width: u32, of_head: u32, first: u32, begin: u32, end: u32, sweep: u32, last: u32,
        x_replica: u32, y_replica: u32, turned_replica: u32,
    }
}
static ORTHONORMAL: Shader<'_> = Shader {
    name: "instrument/ablation/orthonormal",
    source: include_str!("../../../shaders/instrument/ablation/orthonormal.wgsl"),
    knobs: &[Knob { name: "DRAWS", values: &[0, 1] }],
    params: OrthonormalParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&ORTHONORMAL];

/// Draws whose directions are made and multiplied together at least, however few of them are computed at once: a draw has
/// blocks in common with its neighbours, which would be there again for each.
const TOGETHER: usize = 16;

/// Directions of the residual stream for some draws.
pub(crate) struct Draws {
    /// How many.
    pub(crate) count: usize,
    /// Gaussian, [B K, D] for B blocks of K: head h of draw d takes block d + h. The same for all layers, replicas and steps,
    /// however many are computed at once.
    pub(crate) directions: Var,
    /// Gaussian, [B K, H K]: coordinates that nothing is written with.
    pub(crate) fill: Var,
}

/// The numbers of [`Draws`].
pub(crate) struct Drawn {
    /// How many.
    pub(crate) count: usize,
    /// B: no two heads of a draw share a block.
    pub(crate) blocks: usize,
    /// [B K, D].
    pub(crate) directions: Vec<f32>,
    /// [B K, H K].
    pub(crate) fill: Vec<f32>,
}

/// Draws directions for `draws` subspaces, of which `chunk` are computed at once, of heads `[H, K, D]`.
pub(crate) fn drawn([heads, k, d]: [usize; 3], draws: usize, chunk: usize) -> Vec<Drawn> {
    let most = chunk * TOGETHER.div_ceil(chunk);
    let some = |first: usize| {
        let count = most.min(draws - first);
        let blocks = count + heads - 1;
        let gaussian = |width: usize, skipped: usize| {
            let of_block = |block: usize| {
                let stream = Philox::new(0, Stream::Subspace, (first + block) as u32);
                let pairs = skipped.div_ceil(2)..skipped.div_ceil(2) + (k * width).div_ceil(2);
                pairs.flat_map(move |at| stream.normals(at as u64)).take(k * width)
            };
            (0..blocks).flat_map(of_block).map(|x| x as f32).collect()
        };
        Drawn { count, blocks, directions: gaussian(d, 0), fill: gaussian(heads * k, k * d) }
    };
    (0..draws).step_by(most).map(some).collect()
}

/// The same, on a tape.
pub(super) fn draw(tape: &mut Tape, [heads, k, d]: [usize; 3], draws: usize, chunk: usize) -> Vec<Draws> {
    let mut constant = |blocks: usize, width: usize, data: &[f32]| tape.constant(&[blocks * k, width], data);
    let some = |drawn: Drawn| Draws {
        count: drawn.count,
        directions: constant(drawn.blocks, d, &drawn.directions),
        fill: constant(drawn.blocks, heads * k, &drawn.fill),
    };
    drawn([heads, k, d], draws, chunk).into_iter().map(some).collect()
}

/// Means of outcomes [draws, 8] where a random K-dimensional subspace of what a layer's heads write is taken away.
pub(super) fn null(tape: &mut Tape, probe: &Probe<'_>, on: &Writers, draws: &[Draws]) -> Result<Var> {
    let w_o = probe.model.need(&format!("blocks.{}.attn.W_O", on.layer))?;
    let mut means = None;
    without(tape, w_o, (on.stream, on.result), draws, probe.chunk, |tape, stream| {
        let logits = probe.above(tape, on, stream, false)?.logits;
        let outcomes = probe.rows_of(tape, logits)?;
        let examples = probe.examples(tape, outcomes, None)?;
        means = Some(probe.means(tape, examples, means)?);
        Ok(())
    })?;
    means.ok_or_else(|| misfit("null", "no draws"))
}

/// Hands `each` the streams [C * N, D] without what lies in a random K-dimensional subspace of what heads wrote, for `chunk`
/// draws C at once. Of heads with W_O [H, K, D], the stream [N, D] behind them and what they wrote to it [N, H, D].
///
/// # Errors
/// Where these do not fit, and whatever `each` returns.
pub(crate) fn without(
    tape: &mut Tape,
    w_o: Var,
    (stream, result): (Var, Var),
    draws: &[Draws],
    chunk: usize,
    mut each: impl FnMut(&mut Tape, Var) -> Result<()>,
) -> Result<()> {
    let [heads, k, d] = tape.shape(w_o).dims[..] else { return Err(misfit("null", "W_O")) };
    let rows = tape.shape(stream).rows().0;
    let spaces = tape.push(RowSpaces, &[w_o])?;
    let q = tape.reshape(spaces[0], &[heads * k, d])?;
    let y = tape.push1(HeadResult, &[result, spaces[1]])?;
    let y = tape.reshape(y, &[rows, heads * k])?;
    let transposed = Linear { transposed: true, ..Linear::default() };
    for some in draws {
        let drawn = tape.push1(transposed, &[some.directions, q])?;
        for first in (0..some.count).step_by(chunk) {
            let count = chunk.min(some.count - first);
            let b = tape.push1(Subspaces { heads, vectors: k, first, count }, &[drawn, some.fill])?;
            let b = tape.reshape(b, &[count * k, heads * k])?;
            let inside = tape.push1(transposed, &[y, b])?;
            let inside = tape.reshape(inside, &[rows * count, k])?;
            let out = tape.push1(Linear::default(), &[b, q])?;
            let out = tape.reshape(out, &[count, k, d])?;
            let result = tape.push1(HeadResult, &[inside, out])?;
            let stream = tape.push1(AblateEach, &[stream, result])?;
            each(tape, stream)?;
        }
    }
    Ok(())
}

/// Orthonormal bases of the rows of each head's W_O: q [H, K, D], and the same as [H, D, K]. Where the rank is lower than K
/// the last are 0. Input: W_O [H, K, D].
struct RowSpaces;

impl Op for RowSpaces {
    fn name(&self) -> &'static str {
        "row spaces"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [h, k, d] = inputs[0].dims[..] else { return Err(misfit("row spaces", format!("{:?}", inputs[0].dims))) };
        Ok(vec![like(inputs, &[h, k, d]), like(inputs, &[h, d, k])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [groups, vectors, width] = inputs[0].dims[..] else { return Err(misfit("row spaces", "W_O")) };
        let params = OrthonormalParams {
            vectors: vectors as u32,
            width: width as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
            turned_replica: outputs[1].replica_stride,
            ..OrthonormalParams::default()
        };
        // Once leaves rounding along what was subtracted; rows of trained weights may be nearly dependent.
        orthonormalize(cx, params, groups, 2, &[&inputs[0], &outputs[0], &outputs[1]])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [h, k, d] = inputs[0].dims[..] else { return Vec::new() };
        let q: Vec<f64> = inputs[0].data.chunks_exact(k * d).flat_map(|head| row_space(head, d)).collect();
        let turned = Array::from_fn(&[h, d, k], |at| q[(at / (k * d) * k + at % k) * d + at / k % d]);
        vec![Array::new(&[h, k, d], q), turned]
    }
}

/// Orthonormal bases of `count` drawn subspaces from draw `first` on, [draws, K, H K]. Inputs: coordinates [B K, H k] of drawn
/// directions, of which coordinate c of draw d is that of block d + h where c is one of head h's; and what stands for those that
/// are 0.
struct Subspaces {
    heads: usize,
    /// K.
    vectors: usize,
    first: usize,
    count: usize,
}

impl Op for Subspaces {
    fn name(&self) -> &'static str {
        "subspaces"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (rows, width) = inputs[0].rows();
        let blocks = self.first + self.count + self.heads - 1;
        let fits = rows >= blocks * self.vectors && inputs[1].rows() == (rows, width);
        if !fits || !width.is_multiple_of(self.heads) {
            return Err(misfit("subspaces", format!("{:?} of {} heads", inputs[0].dims, self.heads)));
        }
        Ok(vec![like(inputs, &[self.count, self.vectors, width])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let width = inputs[0].dims[1];
        let params = OrthonormalParams {
            vectors: self.vectors as u32,
            width: width as u32,
            of_head: (width / self.heads) as u32,
            first: self.first as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
            ..OrthonormalParams::default()
        };
        // Gaussian vectors are far from dependent.
        orthonormalize(cx, params, self.count, 1, &[&inputs[0], &outputs[0], &inputs[1]])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (width, k) = (inputs[0].rows().1, self.vectors);
        let of_draw = |draw: usize| {
            let place = move |v: usize, c: usize| ((draw + c / (width / self.heads)) * k + v) * width + c;
            (0..k).flat_map(move |v| (0..width).map(move |c| place(v, c)))
        };
        let bases = (self.first..self.first + self.count).flat_map(|draw| {
            let coordinate =
                |at: usize| if inputs[0].data[at] == 0.0 { inputs[1].data[at] } else { inputs[0].data[at] };
            let drawn: Vec<f64> = of_draw(draw).map(coordinate).collect();
            gram_schmidt(&drawn, width, 1)
        });
        vec![Array::new(&[self.count, k, width], bases.collect())]
    }
}

/// Rounds of an invocation's loops that one dispatch takes: software drivers end them, without a word, after 65,535.
const ROUNDS: usize = 40_000;

/// Records sweeps of Gram and Schmidt over `groups` of vectors, in as many dispatches as it takes.
fn orthonormalize(
    cx: &mut Lower<'_>,
    params: OrthonormalParams,
    groups: usize,
    sweeps: u32,
    tensors: &[&Tensor],
) -> Result<()> {
    let (vectors, width) = (params.vectors as usize, params.width as usize);
    let part = (ROUNDS / (2 * width * vectors.div_ceil(64) + 2 * width.div_ceil(64))).max(1);
    for sweep in 0..sweeps {
        for begin in (0..vectors).step_by(part) {
            let end = (begin + part).min(vectors);
            let last = u32::from(sweep + 1 == sweeps && end == vectors);
            let params = OrthonormalParams { begin: begin as u32, end: end as u32, sweep, last, ..params };
            cx.dispatch(
                &ORTHONORMAL,
                &[u32::from(params.of_head > 0)],
                &params,
                tensors,
                [groups as u32, 1, cx.replicas],
            )?;
            let later: usize = (begin..end).map(|j| vectors - 1 - j).sum();
            cx.count_flops((4 * later * width * groups) as u64 * u64::from(cx.replicas));
        }
    }
    Ok(())
}

/// An orthonormal basis of some vectors of `width` numbers; behind it zeros, where they are dependent.
fn row_space(vectors: &[f64], width: usize) -> Vec<f64> {
    let q = gram_schmidt(vectors, width, 2);
    let (kept, gone): (Vec<&[f64]>, Vec<&[f64]>) =
        q.chunks_exact(width).partition(|vector| vector.iter().any(|x| *x != 0.0));
    [kept, gone].concat().concat()
}

/// Vectors of `width` numbers made orthonormal one after the other; one of which less than 2^-13 is left becomes 0.
fn gram_schmidt(vectors: &[f64], width: usize, sweeps: usize) -> Vec<f64> {
    let mut y = vectors.to_vec();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for sweep in 0..sweeps {
        for j in 0..y.len() / width {
            let own = if sweep == 0 { &vectors[j * width..][..width] } else { &[1.0][..] };
            let least = if sweep == 0 { (dot(own, own) * 2f64.powi(-26)).max(1e-30) } else { 0.25 };
            let (done, later) = y.split_at_mut((j + 1) * width);
            let pivot = &mut done[j * width..];
            let left = dot(pivot, pivot);
            let unit = if left > least { 1.0 / left.sqrt() } else { 0.0 };
            pivot.iter_mut().for_each(|x| *x *= unit);
            for other in later.chunks_exact_mut(width) {
                let along = dot(pivot, other);
                other.iter_mut().zip(&*pivot).for_each(|(x, p)| *x -= along * p);
            }
        }
    }
    y
}

pub(super) const CHECKS: &[(&str, Build)] =
    &[("random subspaces", |case| Ok((everything(case, 3, 8, 31)?, Vec::new())))];

/// Every op of this file, on one case: five subspaces, two and three at once, of `h` heads that write `k` numbers to a stream of `d`.
fn everything(case: &mut Case, h: usize, k: usize, d: usize) -> Result<Vec<Var>> {
    let w_o = case.owned(&[h, k, d]);
    let [directions, fill] = [d, h * k].map(|width| case.shared(&[(4 + h) * k, width]));
    let tape = &mut case.tape;
    let spaces = tape.push(RowSpaces, &[w_o])?;
    let q = tape.reshape(spaces[0], &[h * k, d])?;
    let drawn = tape.push1(Linear { transposed: true, ..Linear::default() }, &[directions, q])?;
    let mut all = spaces;
    for (first, count) in [(0, 2), (2, 3)] {
        all.push(tape.push1(Subspaces { heads: h, vectors: k, first, count }, &[drawn, fill])?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::intervene::OUTCOMES;
    use crate::model::{Model, ModelConfig};
    use crate::task::{Modular, Operation, ProbeSet, ReplicaData, Task};

    #[test]
    fn ops_match_their_references() {
        // More vectors than coordinates among them.
        for (h, k, d) in [(1, 1, 1), (2, 3, 2), (2, 3, 3), (3, 8, 31), (4, 31, 64), (2, 65, 257)] {
            let mut case = Case::new(&format!("subspaces {h} {k} {d}"));
            let all = everything(&mut case, h, k, d).unwrap();
            // Of the last of as many random vectors as coordinates a hundredth may be left.
            case.agree(&all, 1e-4);
        }
    }

    #[test]
    fn bases_are_orthonormal_and_span_the_rows() {
        // Rank 2 of 3: the third row is a sum of the others, in another scale.
        let row = |a: f64, b: f64| (0..7).map(move |i| a * f64::from(i).sin() + b * f64::from(i).cos());
        let w: Vec<f64> = [row(1.0, 0.0), row(1e-6, 1e-6), row(50.0, 20.0)].into_iter().flatten().collect();
        let q = gram_schmidt(&w, 7, 2);
        let dot = |a: usize, b: usize| q[a * 7..][..7].iter().zip(&q[b * 7..][..7]).map(|(x, y)| x * y).sum::<f64>();
        for (a, b, expected) in [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 0.0), (0, 1, 0.0), (1, 2, 0.0)] {
            assert!((dot(a, b) - expected).abs() < 1e-12, "{a} {b}: {}", dot(a, b));
        }
        let mut case = Case::new("deficient");
        let w_o = case.tape.constant(&[1, 3, 7], &w.iter().map(|x| *x as f32).collect::<Vec<_>>());
        let spaces = case.tape.push(RowSpaces, &[w_o]).unwrap();
        case.agree(&spaces, 1e-5);
        // The second of three depends on the first: the third takes its place.
        let w: Vec<f64> = [row(1.0, 0.0), row(3.0, 0.0), row(0.0, 1.0)].into_iter().flatten().collect();
        let q = row_space(&w, 7);
        assert!(q[7..14].iter().any(|x| *x != 0.0) && q[14..].iter().all(|x| *x == 0.0));
        let w_o = case.tape.constant(&[1, 3, 7], &w.iter().map(|x| *x as f32).collect::<Vec<_>>());
        let spaces = case.tape.push(RowSpaces, &[w_o]).unwrap();
        // Coordinates without a direction are those that fill them.
        let q = case.tape.reshape(spaces[0], &[3, 7]).unwrap();
        let [directions, fill] = [7, 3].map(|width| case.shared(&[5 * 3, width]));
        let drawn = case.tape.push1(Linear { transposed: true, ..Linear::default() }, &[directions, q]).unwrap();
        let drawn = case.tape.push1(Subspaces { heads: 1, vectors: 3, first: 0, count: 5 }, &[drawn, fill]).unwrap();
        case.agree(&[spaces[0], spaces[1], drawn], 1e-4);
        let found = case.reference(0, &[drawn]).unwrap();
        assert!(found[0].data.chunks_exact(3).all(|vector| vector[2] != 0.0));
    }

    #[test]
    fn the_null_has_the_same_bits_however_few_draws_are_computed_at_once() {
        let mut case = Case::new("pieces of the null");
        let (n_heads, d_model, d_vocab, n_ctx) = (3, 12, 6, 3);
        let config = ModelConfig { n_heads, d_model, d_vocab, n_ctx, d_mlp: 8, ..ModelConfig::default() };
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        model.weights.iter().for_each(|weight| case.fill(*weight, 0.5));
        let task = Modular::new(Operation::Add, 5);
        let batch = task.feed(&[1, 2].map(ReplicaData::new)).unwrap().probe(&mut case.tape, ProbeSet::Test, 7).unwrap();
        let draws = 2 * TOGETHER + 6;
        // One at a time; five at a time, of which the last are fewer; and all at once.
        let of = |chunk: usize| {
            let tape = &mut case.tape;
            let probe = Probe::new(tape, &model, batch, task.shape().read, chunk * batch.0.size).unwrap();
            let on = probe.heads(tape, 0).unwrap();
            let drawn = draw(tape, [n_heads, d_model / n_heads, d_model], draws, chunk);
            null(tape, &probe, &on, &drawn).unwrap()
        };
        let nulls = [1, 5, draws].map(of);
        for gpu in gpus() {
            let found = case.run(gpu, &nulls).unwrap();
            let bits = |null: &Vec<Vec<f32>>| null.concat().iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            let [one, five, all] = [0, 1, 2].map(|which| bits(&found[which]));
            assert!(one == all && five == all, "on {}", gpu.caps().name);
            // No draw is another one.
            let losses: std::collections::BTreeSet<u32> = all.iter().step_by(OUTCOMES).copied().collect();
            assert!(losses.len() > 2 * draws - 10, "{} of {}", losses.len(), 2 * draws);
        }
    }

    #[test]
    fn a_draw_takes_an_equal_share_of_what_is_written_whatever_the_ranks() {
        // Head 0 writes with four dimensions, head 1 with one of four, head 2 with none.
        let (h, k, d, count) = (3, 4, 9, 400);
        let mut case = Case::new("shares");
        let written = |at: usize| (at / d) < 4 || (at / d) == 5;
        let w_o: Vec<f32> = (0..h * k * d).map(|at| if written(at) { ((at * at) as f32).sin() } else { 0.0 }).collect();
        let w_o = case.tape.constant(&[h, k, d], &w_o);
        let part = draw(&mut case.tape, [h, k, d], count, count).remove(0);
        let spaces = case.tape.push(RowSpaces, &[w_o]).unwrap();
        let q = case.tape.reshape(spaces[0], &[h * k, d]).unwrap();
        let transposed = Linear { transposed: true, ..Linear::default() };
        let drawn = case.tape.push1(transposed, &[part.directions, q]).unwrap();
        let drawn = case.tape.push1(Subspaces { heads: h, vectors: k, first: 0, count }, &[drawn, part.fill]).unwrap();
        let bases = case.reference(0, &[drawn]).unwrap().remove(0);
        for dimension in [0, 1, 2, 3, 4] {
            // Squares of a coordinate over the k vectors of a draw: k of h k on average, with a deviation of 0.13 a draw.
            let squares = bases.data.iter().skip(dimension).step_by(h * k).map(|x| x * x).sum::<f64>() / count as f64;
            assert!((squares - 1.0 / 3.0).abs() < 0.04, "{dimension}: {squares}");
        }
    }
}
