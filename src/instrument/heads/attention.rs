//! Attention patterns: how spread out each head looks, how much it brings along, and how alike heads look.

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{Attention, IGNORE, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, length, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use crate::instrument::{Attach, Card, Chance, CostClass, Index, Instrument, Label, ROUNDING, UNKNOWN};
use crate::model::Forward;
use crate::task::count_targets;

/// `attention_entropy`, `z_norm`, `head_similarity`, `head_similarity.centered`.
pub(crate) struct Patterns;

const CARDS: &[Card] = &[
    Card {
        name: "attention_entropy",
        formula: "mean over the queries whose prediction counts (the last ones where only those are read out) of -Σ_j A_ij ln A_ij",
        unit: "nats",
        axes: "site: hook_pattern, layer, head",
        cost: CostClass::F,
        every: 1,
        control: "ln n for uniform attention over n keys",
        source: "definition; Verma 2026 (2605.20441) for its spread over heads",
        not_for: "importance: a head may look sharply and write nothing",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "z_norm",
        formula: "mean of |z_h| over the same queries, z_h = Σ_j A_ij v_j",
        unit: "activations",
        axes: "site: hook_z, layer, head",
        cost: CostClass::F,
        every: 1,
        control: "the head's own at step 0; attention_entropy: averaging over n unrelated values shrinks them by √n",
        source: "definition",
        not_for: "importance: W_O may lead what a head brings along nowhere; see ablation",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "head_similarity",
        formula: "cos(vec A_h, vec A_h') over the queries whose prediction counts, and their keys",
        unit: "1",
        axes: "site: hook_pattern, layer, index: pair (h, h') with h < h', row by row",
        cost: CostClass::L,
        every: 10,
        control: "head_similarity.centered: patterns are positive, so unrelated heads have cosines near 1 too",
        source: "Verma 2026 (2605.20441)",
        not_for: "synchronization by itself: short sequences give 0.9 with no relation at all",
        bounds: Card::COSINE,
        index: Index::Pairs,
        ..Card::BASE
    },
    Card {
        name: "head_similarity.centered",
        formula: "the same after subtracting each head's mean pattern over examples",
        unit: "1",
        axes: "site: hook_pattern, layer, index: pair (h, h') with h < h', row by row",
        cost: CostClass::L,
        every: 10,
        control: "0 for heads that vary independently",
        source: "head_similarity with the position template removed",
        not_for: "heads whose pattern hardly varies: a cosine of almost nothing; 0 where it varies by less than 2^-18 of its size, which is rounding",
        bounds: Card::COSINE,
        chance: Some(Chance::At(0.0)),
        index: Index::Pairs,
        ..Card::BASE
    },
];

impl Instrument for Patterns {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let [entropy, length, plain, centered] = CARDS else { return Ok(()) };
        let heads = cx.model.config.n_heads;
        let (targets, count) = (cx.train.batch.targets, cx.train.batch.count);
        for layer in 0..cx.model.config.n_layers {
            let site = format!("blocks.{layer}.attn.hook_pattern");
            let pattern = cx.train.forward.hook(&site)?;
            let layer = layer as i32;
            if let Some(every) = cx.cadence_of(self, &[entropy.name, length.name]) {
                let train = cx.train;
                let means = cx
                    .tape
                    .at_cadence(every, |tape| HeadMeans::push(tape, &train.forward, layer as usize, targets, count))?;
                let labels: Vec<Label> = (0..heads as i32).map(|head| Label { layer, head, index: -1 }).collect();
                cx.record(self, entropy.name, &site, means, 0, labels.clone());
                cx.record(self, length.name, &format!("blocks.{layer}.attn.hook_z"), means, heads, labels);
            }
            let every = cx.cadence_of(self, &[plain.name, centered.name]);
            if let (Some(every), true) = (every, heads > 1) {
                let products = cx.pattern_products(every, pattern)?;
                let cosines = cx.tape.at_cadence(every, |tape| tape.push1(Cosines, &[products]))?;
                let pairs = (heads * (heads - 1) / 2) as i32;
                let labels: Vec<Label> = (0..pairs).map(|index| Label { layer, head: -1, index }).collect();
                cx.record(self, plain.name, &site, cosines, 0, labels.clone());
                cx.record(self, centered.name, &site, cosines, pairs as usize, labels);
            }
        }
        Ok(())
    }
}

/// What measures of single rows of a layer's pattern read: statistics of the rows [B, H, Tq, 5], which long attention takes
/// on its way, and `true`; else the pattern.
pub(crate) fn rows_of(forward: &Forward, layer: usize) -> Result<(Var, bool)> {
    match forward.statistics(layer) {
        Some(statistics) => Ok((statistics, true)),
        None => Ok((forward.hook(&format!("blocks.{layer}.attn.hook_pattern"))?, false)),
    }
}

impl Attach<'_> {
    /// [`pattern_products`] of a pattern of the training batch, [2, H, H], for readers at a cadence. Two instruments
    /// read them: where a cadence divides another, one set of products serves both.
    pub(crate) fn pattern_products(&mut self, every: u64, pattern: Var) -> Result<Var> {
        if let Some((_, products)) = self.products.get(&pattern).filter(|(source, _)| every.is_multiple_of(*source)) {
            return Ok(*products);
        }
        let targets = self.train.batch.targets;
        let products = self.tape.at_cadence(every, |tape| pattern_products(tape, pattern, targets))?;
        self.products.insert(pattern, (every, products));
        Ok(products)
    }
}

/// Products of the patterns of all pairs of heads over the queries that count, [2, H, H], upper triangle:
/// plain, then with each head's mean pattern over examples subtracted.
pub(crate) fn pattern_products(tape: &mut Tape, pattern: Var, targets: Var) -> Result<Var> {
    let [batch, ..] = four(&tape.shape(pattern).dims)?;
    let columns = tape.shape(targets).len() / batch;
    let counts = count_targets(tape, targets, columns)?;
    let sums = tape.push1(PatternSum, &[pattern, targets])?;
    tape.push1(PatternProducts, &[pattern, targets, counts, sums])
}

crate::params! {
    /// Dimensions of a pattern, and the strides of what belongs to it.
    pub(crate) struct PatternParams {
        batch: u32, heads: u32, queries: u32, keys: u32, chunk: u32, own: u32, x_replica: u32, targets_replica: u32,
        counts_replica: u32, sums_replica: u32, tokens_replica: u32, out_replica: u32, width: u32, z_replica: u32,
    }
}
static HEAD_MEANS: Shader<'_> = Shader {
    name: "instrument/heads/head_means",
    source: include_str!("../../../shaders/instrument/heads/head_means.wgsl"),
    knobs: &[Knob { name: "TAKEN", values: &[0, 1] }],
    params: PatternParams::FIELDS,
};
static PATTERN_SUM: Shader<'_> = Shader {
    name: "instrument/heads/pattern_sum",
    source: include_str!("../../../shaders/instrument/heads/pattern_sum.wgsl"),
    knobs: &[],
    params: PatternParams::FIELDS,
};
static PATTERN_PRODUCTS: Shader<'_> = Shader {
    name: "instrument/heads/pattern_products",
    source: include_str!("../../../shaders/instrument/heads/pattern_products.wgsl"),
    knobs: &[],
    params: PatternParams::FIELDS,
};
crate::params! {
    struct CosineParams { kinds: u32, heads: u32, x_replica: u32, a_replica: u32, b_replica: u32, out_replica: u32 }
}
static COSINES: Shader<'_> = Shader {
    name: "instrument/heads/cosines",
    source: include_str!("../../../shaders/instrument/heads/cosines.wgsl"),
    knobs: &[Knob { name: "STEP", values: &[0, 1] }],
    params: CosineParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&HEAD_MEANS, &PATTERN_SUM, &PATTERN_PRODUCTS, &COSINES];

/// Pattern entries that one workgroup walks through.
const CHUNK: usize = 2048;
/// Entries of a head that one workgroup adds up alone: fewer would more often need a kernel more.
const ALONE: usize = 16_384;
/// Examples one invocation of `pattern_sum` adds up.
const EXAMPLES: usize = 128;

/// Dimensions of a pattern, and the strides of what belongs to it.
pub(crate) fn params(
    dims: [usize; 4],
    own: bool,
    chunk: usize,
    [x, targets, counts, sums, out]: [Option<&Tensor>; 5],
) -> PatternParams {
    let stride = |tensor: Option<&Tensor>| tensor.map_or(0, |t| t.replica_stride);
    PatternParams {
        batch: dims[0] as u32,
        heads: dims[1] as u32,
        queries: dims[2] as u32,
        keys: dims[3] as u32,
        chunk: chunk as u32,
        own: u32::from(own),
        x_replica: stride(x),
        targets_replica: stride(targets),
        counts_replica: stride(counts),
        sums_replica: stride(sums),
        out_replica: stride(out),
        ..Default::default()
    }
}

pub(crate) fn four(dims: &[usize]) -> Result<[usize; 4]> {
    dims.try_into().map_err(|_| misfit("pattern", format!("{dims:?} is not [B, H, Tq, T]")))
}

/// Whether each query has a target of its own: else only the last query of each example counts.
pub(crate) fn own_targets(dims: [usize; 4], targets: usize) -> bool {
    targets == dims[0] * dims[2]
}

/// Whether a query's prediction counts, for references.
pub(crate) fn counts(dims: [usize; 4], targets: &Array, example: usize, query: usize) -> bool {
    let [_, _, queries, _] = dims;
    let target = match own_targets(dims, targets.data.len()) {
        true => targets.data[example * queries + query],
        false if query + 1 == queries => targets.data[example],
        false => return false,
    };
    target != f64::from(IGNORE)
}

/// y [2, H] = means over the queries that count: of the entropy of a row of A, and of the length of that row of z.
/// Inputs: A [B, H, Tq, T], targets, how many count in all `[1]`, z [B, Tq, H, K] (or its lengths, as K = 1); or, where
/// they were taken on the way, the statistics of the rows [B, H, Tq, 5] instead of A, and no z.
pub(crate) struct HeadMeans {
    /// Whether the first input is statistics.
    pub(crate) taken: bool,
}

impl HeadMeans {
    /// Appends the means of a layer's heads.
    pub(crate) fn push(tape: &mut Tape, forward: &Forward, layer: usize, targets: Var, count: Var) -> Result<Var> {
        let (x, taken) = rows_of(forward, layer)?;
        let mut inputs = vec![x, targets, count];
        if !taken {
            inputs.push(forward.brought(layer)?);
        }
        tape.push1(Self { taken }, &inputs)
    }
}

impl Op for HeadMeans {
    fn name(&self) -> &'static str {
        "head means"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [batch, heads, queries, _] = four(&inputs[0].dims)?;
        let fits = match (self.taken, &inputs[3..]) {
            (true, []) => true,
            (false, [z]) => z.dims.starts_with(&[batch, queries, heads]),
            _ => false,
        };
        if !fits {
            return Err(misfit("head means", format!("{:?} and z do not fit", inputs[0].dims)));
        }
        Ok(vec![like(inputs, &[2, heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, targets, count, z @ ..] = inputs else { return Err(misfit("head means", "inputs")) };
        let dims @ [batch, heads, queries, keys] = four(&x.dims)?;
        let rows = batch * queries;
        let work = if self.taken { 1 } else { keys };
        // Whatever the number of rows, which company lengthens.
        let chunk = (ALONE / work).max(256);
        let chunks = rows.div_ceil(chunk);
        let partial = (chunks > 1).then(|| cx.scratch(&[chunks, 2 * heads]));
        let target = partial.as_ref().unwrap_or(&outputs[0]);
        let mut params = params(
            dims,
            own_targets(dims, targets.len()),
            chunk,
            [Some(x), Some(targets), Some(count), None, Some(target)],
        );
        if let [z] = z {
            params.width = z.dims[3] as u32;
            params.z_replica = z.replica_stride;
        }
        let tensors: Vec<&Tensor> = inputs.iter().chain([target]).collect();
        let grid = [heads as u32, chunks as u32, cx.replicas];
        cx.dispatch(&HEAD_MEANS, &[u32::from(self.taken)], &params, &tensors, grid)?;
        let Some(partial) = &partial else { return Ok(()) };
        sum_columns(cx, partial, chunks, 2 * heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok(dims @ [_, heads, queries, keys]) = four(&inputs[0].dims) else { return Vec::new() };
        let mut out = Array::zeros(&[2, heads]);
        for (row, a) in inputs[0].data.chunks_exact(keys).enumerate() {
            let (example, head, query) = (row / (heads * queries), row / queries % heads, row % queries);
            if !counts(dims, inputs[1], example, query) {
                continue;
            }
            let found = match inputs.get(3) {
                None => [a[0], a[4]],
                Some(z) => {
                    let width = z.dims[3];
                    let z = &z.data[((example * queries + query) * heads + head) * width..][..width];
                    let entropy = a.iter().filter(|a| **a > 0.0).map(|a| -a * a.ln()).sum();
                    [entropy, length(z)]
                }
            };
            for (kind, value) in found.into_iter().enumerate() {
                out.data[kind * heads + head] += value / inputs[2].data[0];
            }
        }
        vec![out]
    }
}

/// y [H, Tq, T] = sum of A over the examples that count at each query. Inputs: A [B, H, Tq, T], targets.
struct PatternSum;

impl Op for PatternSum {
    fn name(&self) -> &'static str {
        "pattern sum"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, queries, keys] = four(&inputs[0].dims)?;
        Ok(vec![like(inputs, &[heads, queries, keys])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let dims = four(&inputs[0].dims)?;
        let (columns, chunks) = (outputs[0].len(), dims[0].div_ceil(EXAMPLES));
        let partial = cx.scratch(&[chunks, columns]);
        let strides = [Some(&inputs[0]), Some(&inputs[1]), None, None, Some(&partial)];
        let params = params(dims, own_targets(dims, inputs[1].len()), EXAMPLES, strides);
        let grid = grid_1d(columns.div_ceil(64) as u64 * chunks as u64, cx.replicas);
        cx.dispatch(&PATTERN_SUM, &[], &params, &[&inputs[0], &inputs[1], &partial], grid)?;
        sum_columns(cx, &partial, chunks, columns, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok(dims @ [batch, heads, queries, keys]) = four(&inputs[0].dims) else { return Vec::new() };
        let columns = heads * queries * keys;
        let sum = |at: usize| {
            let examples = (0..batch).filter(|b| counts(dims, inputs[1], *b, at / keys % queries));
            examples.map(|b| inputs[0].data[b * columns + at]).sum()
        };
        vec![Array::from_fn(&[heads, queries, keys], sum)]
    }
}

/// y [2, H, H], upper triangle: sums over the queries that count, and their keys, of A_h A_h', plain and
/// with each head's mean pattern over examples subtracted. Inputs: A [B, H, Tq, T], targets, how many
/// of them count in each column, A's sum over examples.
struct PatternProducts;

impl Op for PatternProducts {
    fn name(&self) -> &'static str {
        "pattern products"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, _, _] = four(&inputs[0].dims)?;
        Ok(vec![like(inputs, &[2, heads, heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, targets, counts, sums] = inputs else { return Err(misfit("pattern products", "inputs")) };
        let dims = four(&x.dims)?;
        let heads = dims[1];
        let chunks = (x.len() / heads).div_ceil(CHUNK);
        let partial = cx.scratch(&[chunks, 2 * heads * heads]);
        let strides = [Some(x), Some(targets), Some(counts), Some(sums), Some(&partial)];
        let params = params(dims, own_targets(dims, targets.len()), CHUNK, strides);
        let tiles = heads.div_ceil(4) as u32;
        let grid = [chunks as u32, tiles * (tiles + 1) / 2, cx.replicas];
        cx.dispatch(&PATTERN_PRODUCTS, &[], &params, &[x, targets, counts, sums, &partial], grid)?;
        sum_columns(cx, &partial, chunks, 2 * heads * heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok(dims @ [batch, heads, queries, keys]) = four(&inputs[0].dims) else { return Vec::new() };
        let size = queries * keys;
        let mut out = Array::zeros(&[2, heads, heads]);
        for b in 0..batch {
            for e in (0..size).filter(|e| counts(dims, inputs[1], b, e / keys)) {
                let entry = |head: usize| inputs[0].data[(b * heads + head) * size + e];
                let centred = |head: usize| {
                    entry(head) - inputs[3].data[head * size + e] / inputs[2].data[(e / keys) % inputs[2].data.len()]
                };
                for (h, g) in (0..heads).flat_map(|h| (h..heads).map(move |g| (h, g))) {
                    out.data[h * heads + g] += entry(h) * entry(g);
                    out.data[(heads + h) * heads + g] += centred(h) * centred(g);
                }
            }
        }
        vec![out]
    }
}

/// y [N, pairs]: N tables of products [N, H, H] divided by the roots of their diagonals; 0 where a diagonal is 0, or rounding
/// beside that of the first table, from which a mean was subtracted to have the others. Where the products are of what a step
/// changed in products of two weights, those of the weights follow, [1, H, H] each; then it is [`UNKNOWN`] where a diagonal is
/// rounding of the weights.
pub(crate) struct Cosines;

/// Share of a product's squared size below which a change of it is rounding of its two weights: the square of 2^-20, 32 times
/// what one rounding changes.
const STILL: f64 = 1.0 / (1u64 << 40) as f64;

impl Op for Cosines {
    fn name(&self) -> &'static str {
        "cosines"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [kinds, heads, _] = inputs[0].dims[..] else {
            return Err(misfit("cosines", format!("{:?} is not [N, H, H]", inputs[0].dims)));
        };
        Ok(vec![inputs[0].with_dims(&[kinds, heads * (heads - 1) / 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let stride = |at: usize| inputs.get(at).map_or(0, |t| t.replica_stride);
        let params = CosineParams {
            kinds: inputs[0].dims[0] as u32,
            heads: inputs[0].dims[1] as u32,
            x_replica: stride(0),
            a_replica: stride(1),
            b_replica: stride(2),
            out_replica: outputs[0].replica_stride,
        };
        let groups = inputs[0].len().div_ceil(64) as u32;
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&COSINES, &[u32::from(inputs.len() > 1)], &params, &tensors, [groups, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (kinds, h) = (inputs[0].dims[0], inputs[0].dims[1]);
        let mut out = Vec::new();
        for kind in 0..kinds {
            let table = &inputs[0].data[kind * h * h..][..h * h];
            let vary = varying(table, &inputs[0].data[..h * h], h);
            for (a, b) in (0..h).flat_map(|a| (a + 1..h).map(move |b| (a, b))) {
                let size = (table[a * h + a] * table[b * h + b]).sqrt();
                let moved = |at: usize| match inputs[1..] {
                    [x, y] => table[at * h + at] > STILL * x.data[at * h + at] * y.data[at * h + at],
                    _ => true,
                };
                out.push(match (vary[a] && vary[b], moved(a) && moved(b)) {
                    (_, false) => f64::from(UNKNOWN),
                    (false, _) => 0.0,
                    _ => table[a * h + b] / size,
                });
            }
        }
        vec![Array::new(&[kinds, h * (h - 1) / 2], out)]
    }
}

/// Which heads have more than rounding left in a table of products [H, H], beside the table before a mean was subtracted.
pub(crate) fn varying(table: &[f64], before: &[f64], heads: usize) -> Vec<bool> {
    (0..heads).map(|h| h * heads + h).map(|at| table[at] > ROUNDING * before[at]).collect()
}

/// [`HeadMeans`] of a pattern and its z.
fn head_means(tape: &mut Tape, pattern: Var, z: Var, targets: Var) -> Result<Var> {
    let count = count_targets(tape, targets, 1)?;
    tape.push1(HeadMeans { taken: false }, &[pattern, targets, count, z])
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("head means", |c| {
        let targets = c.indices(&[120], 7, true);
        let (q, k) = (c.owned(&[40, 3, 4, 6]), c.owned(&[40, 5, 4, 6]));
        let out = c.tape.push(Attention { scale: 0.7 }, &[q, k, k])?;
        Ok((vec![head_means(&mut c.tape, out[1], out[0], targets)?], Vec::new()))
    }),
    ("head means, long", |c| {
        let [q, k] = [(); 2].map(|()| c.owned(&[2, 65, 4, 8]));
        let (out, targets) = (c.tape.push(Attention { scale: 0.7 }, &[q, k, k])?, c.indices(&[130], 7, true));
        Ok((vec![head_means(&mut c.tape, out[1], out[0], targets)?], Vec::new()))
    }),
    ("head similarity", |c| {
        let (pattern, targets) = (c.owned(&[40, 4, 3, 5]), c.indices(&[40], 7, true));
        let products = pattern_products(&mut c.tape, pattern, targets)?;
        Ok((vec![c.tape.push1(Cosines, &[products])?], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::autograd::ops::{AttentionPattern, GatherRows, StreamedAttention};
    use crate::model::{Model, ModelConfig, ReadOut, Rows};
    use crate::task::Batch;
    use crate::task::Pass;

    /// Cosines of the patterns of all pairs of heads, [2, pairs]: plain, then centred.
    fn similarity(tape: &mut Tape, pattern: Var, targets: Var) -> Result<Var> {
        let products = pattern_products(tape, pattern, targets)?;
        tape.push1(Cosines, &[products])
    }

    /// z and pattern of `h` heads.
    fn attention(case: &mut Case, b: usize, t: usize, h: usize) -> [Var; 2] {
        let [q, k, v] = [(); 3].map(|()| case.owned(&[b, t, h, 4]));
        let out = case.tape.push(Attention { scale: 0.9 }, &[q, k, v]).unwrap();
        [out[0], out[1]]
    }

    /// Targets of every query, some of which do not count where `ragged`.
    fn targets(case: &mut Case, n: usize, ragged: bool) -> Var {
        let targets: Vec<u32> = (0..n as u32).map(|i| if ragged && i % 3 == 1 { IGNORE } else { i % 2 }).collect();
        case.tape.constant_u32(&[n], &targets)
    }

    #[test]
    fn entropies_and_similarities_match_their_reference() {
        for (b, t, h) in [(1, 1, 2), (31, 3, 4), (300, 3, 2), (3, 31, 3), (2, 64, 8), (40, 5, 9), (60, 17, 5)] {
            for (n, ragged) in [(b * t, false), (b * t, true), (b, false), (b, true)] {
                let mut case = Case::new(&format!("patterns b{b} t{t} h{h}, {n} targets, ragged {ragged}"));
                let [z, pattern] = attention(&mut case, b, t, h);
                let targets = targets(&mut case, n, ragged);
                let means = head_means(&mut case.tape, pattern, z, targets).unwrap();
                let cosines = similarity(&mut case.tape, pattern, targets).unwrap();
                case.agree(&[means], 1e-5);
                if b > 3 {
                    // Centring subtracts numbers of order 1 from each other: 1e-4 of what is left.
                    case.agree(&[cosines], 1e-4);
                }
            }
        }
    }

    #[test]
    fn what_long_attention_takes_is_what_its_pattern_and_z_have() {
        for (b, t, h, ragged) in [(3, 65, 2, true), (1, 130, 3, false)] {
            let mut case = Case::new("taken on the way");
            let (q, k) = (case.owned(&[b, t, h, 8]), case.owned(&[b, t, h, 8]));
            let streamed = case.tape.push(StreamedAttention { scale: 0.9 }, &[q, k, k]).unwrap();
            let pattern = case.tape.push(AttentionPattern { scale: 0.9 }, &[q, k]).unwrap()[0];
            let targets = targets(&mut case, b * t, ragged);
            let count = count_targets(&mut case.tape, targets, 1).unwrap();
            let taken = case.tape.push1(HeadMeans { taken: true }, &[streamed[2], targets, count]).unwrap();
            let plain = head_means(&mut case.tape, pattern, streamed[0], targets).unwrap();
            case.agree(&[taken, plain], 1e-5);
            let exact = case.reference(0, &[taken, plain]).unwrap();
            for (taken, plain) in exact[0].data.iter().zip(&exact[1].data) {
                assert!((taken - plain).abs() < 1e-12, "{taken} and {plain}");
            }
        }
    }

    #[test]
    fn a_model_s_heads_have_the_means_of_their_pattern_and_z_however_attention_is_computed() {
        // One kernel with lengths; products; streaming with statistics.
        for (seq, layers) in [(3, 2), (20, 1), (70, 2)] {
            let mut case = Case::new(&format!("heads of a model, {seq} tokens"));
            let config = ModelConfig {
                n_layers: layers,
                d_model: 24,
                n_heads: 3,
                d_vocab: 11,
                n_ctx: seq,
                ..Default::default()
            };
            let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
            for (spec, var) in model.table.specs().iter().zip(&model.weights) {
                let scaled = model.table.draw(5)[spec.offset..][..spec.len()].iter().map(|w| 20.0 * w).collect();
                case.set(*var, scaled);
            }
            let (tokens, targets) = (case.indices(&[4 * seq], 11, false), case.indices(&[4 * seq], 11, true));
            let count = count_targets(&mut case.tape, targets, 1).unwrap();
            let batch = Batch { rows: Rows::Each { tokens }, targets, count, size: 4, seq, ids: None };
            let pass = Pass::new(&mut case.tape, &model, batch, ReadOut::All).unwrap();
            for layer in 0..layers {
                let found = HeadMeans::push(&mut case.tape, &pass.forward, layer, targets, count).unwrap();
                let hook = |name: &str| pass.forward.hook(&format!("blocks.{layer}.attn.{name}")).unwrap();
                let inputs = [hook("hook_pattern"), targets, count, hook("hook_z")];
                let plain = case.tape.push1(HeadMeans { taken: false }, &inputs).unwrap();
                for gpu in gpus() {
                    let values = case.run(gpu, &[found, plain]).unwrap();
                    for (a, b) in values[0].concat().iter().zip(values[1].concat()) {
                        // Both within a few roundings of the same sums over some dozens of terms.
                        assert!((a - b).abs() <= 2e-5 * b.abs().max(0.1), "{seq} tokens, layer {layer}: {a} and {b}");
                    }
                    assert!(values[1][0][3..].iter().all(|length| *length > 1e-3), "{:?}", values[1]);
                }
            }
        }
    }

    #[test]
    fn rows_that_do_not_count_change_nothing() {
        // The same 40 examples alone, and followed by 60 that do not count: copies of the first.
        let values = |padded: bool| {
            let mut case = Case::new("padded patterns");
            let [q, k] = [(); 2].map(|()| case.owned(&[40, 3 * 2 * 4]));
            let rows: Vec<u32> = (0..if padded { 100 } else { 40 }).map(|i| if i < 40 { i } else { 0 }).collect();
            let n = rows.len();
            let index = case.tape.constant_u32(&[n], &rows);
            let [q, k] = [q, k].map(|x| {
                let x = case.tape.push1(GatherRows, &[x, index]).unwrap();
                case.tape.reshape(x, &[n, 3, 2, 4]).unwrap()
            });
            let out = case.tape.push(Attention { scale: 0.9 }, &[q, k, k]).unwrap();
            let (z, pattern) = (out[0], out[1]);
            let targets: Vec<u32> = (0..3 * n).map(|i| if i < 3 * 40 { 1 } else { IGNORE }).collect();
            let targets = case.tape.constant_u32(&[3 * n], &targets);
            let means = head_means(&mut case.tape, pattern, z, targets).unwrap();
            let cosines = similarity(&mut case.tape, pattern, targets).unwrap();
            gpus().iter().map(|gpu| case.run(gpu, &[means, cosines]).unwrap().concat().concat()).collect::<Vec<_>>()
        };
        for (alone, padded) in values(false).iter().zip(values(true)) {
            for (a, b) in alone.iter().zip(padded) {
                // Sums are cut into other chunks: a few roundings.
                assert!((a - b).abs() <= 2e-6 * a.abs().max(0.1), "{a} and {b}");
            }
        }
    }

    #[test]
    fn uniform_attention_has_entropy_ln_n() {
        let mut case = Case::new("uniform attention");
        let (b, t) = (5, 7);
        let zero = case.tape.constant(&[b, 1, 2, 4], &[0.0; 40]);
        let key = case.owned(&[b, t, 2, 4]);
        let out = case.tape.push(Attention { scale: 1.0 }, &[zero, key, key]).unwrap();
        let targets = targets(&mut case, b, false);
        let means = head_means(&mut case.tape, out[1], out[0], targets).unwrap();
        for gpu in gpus() {
            for found in case.run(gpu, &[means]).unwrap().concat() {
                for entropy in &found[..2] {
                    assert!((f64::from(*entropy) - (t as f64).ln()).abs() < 1e-6, "{entropy}");
                }
            }
        }
    }

    #[test]
    fn a_head_that_looks_at_one_key_alone_has_the_entropy_of_what_it_leaves_to_the_others() {
        // The first key's score is 0, others have -18 to -19: all but some 1e-8 of every query's attention is on the first.
        for t in [7, 70] {
            let mut case = Case::new("sharp attention");
            let keys: Vec<f32> = (0..t).map(|at| if at == 0 { 0.0 } else { -18.0 - at as f32 / t as f32 }).collect();
            let query = case.tape.constant(&[1, t, 1, 1], &vec![1.0; t]);
            let key = case.tape.constant(&[1, t, 1, 1], &keys);
            let targets = targets(&mut case, t, false);
            let count = count_targets(&mut case.tape, targets, 1).unwrap();
            let plain = case.tape.push(Attention { scale: 1.0 }, &[query, key, key]).unwrap();
            let plain = head_means(&mut case.tape, plain[1], plain[0], targets).unwrap();
            let streamed = case.tape.push(StreamedAttention { scale: 1.0 }, &[query, key, key]).unwrap()[2];
            let streamed = case.tape.push1(HeadMeans { taken: true }, &[streamed, targets, count]).unwrap();
            let entropy = |seen: &[f32]| -> f64 {
                let e = |score: &f32| f64::from(*score).exp();
                let sum: f64 = seen.iter().map(e).sum();
                sum.ln() - seen.iter().map(|score| e(score) * f64::from(*score)).sum::<f64>() / sum
            };
            let wanted = (1..=t).map(|seen| entropy(&keys[..seen])).sum::<f64>() / t as f64;
            for gpu in gpus() {
                for found in case.run(gpu, &[plain, streamed]).unwrap().concat() {
                    // exp of a score near -19 is exact to 19 roundings.
                    assert!((f64::from(found[0]) - wanted).abs() < 3e-6 * wanted, "{} for {wanted} at {t}", found[0]);
                }
            }
        }
    }

    #[test]
    fn a_head_that_looks_everywhere_alike_brings_the_mean_value_along() {
        // Values of length 2 along one direction, and of length 1 along two opposite ones: they stay, and cancel.
        let mut case = Case::new("values of known length");
        let (b, t, k) = (3, 6, 5);
        let zero = case.tape.constant(&[b, 1, 2, k], &vec![0.0; b * 2 * k]);
        let values: Vec<f32> = (0..b * t * 2 * k)
            .map(|at| match (at / k % 2, at / (2 * k) % 2, at % k) {
                (0, _, 1) => 2.0,
                (1, 0, 3) => 1.0,
                (1, 1, 3) => -1.0,
                _ => 0.0,
            })
            .collect();
        let values = case.tape.constant(&[b, t, 2, k], &values);
        let out = case.tape.push(Attention { scale: 1.0 }, &[zero, values, values]).unwrap();
        let targets = targets(&mut case, b, true);
        let means = head_means(&mut case.tape, out[1], out[0], targets).unwrap();
        for gpu in gpus() {
            for found in case.run(gpu, &[means]).unwrap().concat() {
                assert!((found[2] - 2.0).abs() < 1e-6 && found[3].abs() < 1e-6, "{found:?}");
            }
        }
    }

    #[test]
    fn independent_heads_are_alike_before_centring_and_unrelated_after() {
        let mut case = Case::new("independent heads");
        let [_, pattern] = attention(&mut case, 2000, 3, 2);
        let targets = targets(&mut case, 6000, false);
        let cosines = similarity(&mut case.tape, pattern, targets).unwrap();
        for gpu in gpus() {
            for replica in &case.run(gpu, &[cosines]).unwrap()[0] {
                assert!(replica[0] > 0.5, "{replica:?}");
                // 2,000 examples with a few free entries each: four standard errors are about 0.05.
                assert!(replica[1].abs() < 0.05, "{replica:?}");
            }
        }
    }

    #[test]
    fn heads_that_do_not_vary_are_like_no_other() {
        // Heads 0 and 1 attend evenly, up to a rounding that both have in the same examples; the others vary.
        let (b, h, t) = (300, 4, 3);
        for noise in [0.0, 2f32.powi(-25)] {
            let mut case = Case::new("even heads");
            let entry = |at: usize| {
                let (example, head, key) = (at / (h * t), at / t % h, at % t);
                let wave = ((example * (head + 2) * 7 + key) as f32).sin();
                if head < 2 { 1.0 / 3.0 + noise * ((example + key) % 2) as f32 } else { 0.3 + 0.1 * wave }
            };
            let pattern: Vec<f32> = (0..b * h * t).map(entry).collect();
            let pattern = case.tape.constant(&[b, h, 1, t], &pattern);
            let targets = targets(&mut case, b, false);
            let cosines = similarity(&mut case.tape, pattern, targets).unwrap();
            for gpu in gpus() {
                let found = case.run(gpu, &[cosines]).unwrap().concat().concat();
                // Pairs 01 02 03 12 13 23, plain and then centred.
                assert!(found[..6].iter().all(|cosine| *cosine > 0.9), "{found:?}");
                assert_eq!(found[6..11], [0.0; 5]);
                assert!(found[11] != 0.0 && found[11].abs() < 0.3, "{found:?}");
            }
        }
    }

    #[test]
    fn identical_heads_have_cosine_one_before_and_after_centring() {
        let mut case = Case::new("identical heads");
        let twice = |case: &mut Case, rows: usize| {
            let one = case.owned(&[rows, 4]);
            let index: Vec<u32> = (0..2 * rows as u32).map(|i| i / 2).collect();
            let index = case.tape.constant_u32(&[2 * rows], &index);
            case.tape.push1(GatherRows, &[one, index]).unwrap()
        };
        let (q, k) = (twice(&mut case, 100), twice(&mut case, 300));
        let q = case.tape.reshape(q, &[100, 1, 2, 4]).unwrap();
        let k = case.tape.reshape(k, &[100, 3, 2, 4]).unwrap();
        let pattern = case.tape.push(Attention { scale: 0.9 }, &[q, k, k]).unwrap()[1];
        let targets = targets(&mut case, 100, true);
        let cosines = similarity(&mut case.tape, pattern, targets).unwrap();
        for gpu in gpus() {
            for value in case.run(gpu, &[cosines]).unwrap().concat().concat() {
                assert!((value - 1.0).abs() < 1e-6, "{value}");
            }
        }
    }
}
