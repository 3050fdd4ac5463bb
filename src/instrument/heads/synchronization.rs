//! Synchronization of the heads of a layer: how alike they are in what they look at, in what pulls on
//! their circuits, and in how these move. Definitions: Verma 2026 (2605.20441), each also with the mean
//! pattern removed, because patterns are positive and heads without any relation look alike.

use super::attention::{Cosines, HeadMeans, pattern_products, varying};
use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::{Add, AttentionPattern, GatherRows, HeadProduct, Scale, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor};
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label, Presence, UNKNOWN, UpdateSummary};
use crate::model::Model;
use crate::task::count_targets;

/// `sync.similarity`, `sync.participation`, `sync.entropy_spread`, `sync.gradient` and its null, `sync.drift`.
pub(crate) struct Synchronization;

const CARDS: &[Card] = &[
    Card {
        name: "sync.similarity",
        formula: "mean over pairs of heads of cos(vec A_h, vec A_h'), over the queries whose prediction counts",
        unit: "1",
        axes: "site: hook_pattern, layer, index: 0 as it is, 1 without each head's mean pattern over examples",
        cost: CostClass::L,
        every: 10,
        control: "index 1, which is 0 for heads without relation, and for pairs of which one does not vary; short sequences give index 0 near 0.9 then",
        source: "Verma 2026 (2605.20441), whose value is the mean over layers",
        not_for: "predicting grokking: its author found nothing beyond clock, loss and norm",
        bounds: Card::COSINE,
        index: Index::Names(&["as it is", "without mean pattern"]),
        ..Card::BASE
    },
    Card {
        name: "sync.participation",
        formula: "(P - 1) / (H - 1), P = (Σ λ)² / Σ λ² over the eigenvalues of the H x H products of vec A_h",
        unit: "1",
        axes: "site: hook_pattern, layer, index: 0 as it is, 1 without each head's mean pattern over examples",
        cost: CostClass::L,
        every: 10,
        control: "0 for equal heads, 1 for orthogonal heads of equal size",
        source: "Verma 2026 (2605.20441), whose value is the mean over layers of index 1",
        not_for: "counting circuits: a head whose pattern hardly varies hardly enters index 1. Where fewer than two heads vary there is no row",
        bounds: Card::SHARE,
        index: Index::Names(&["as it is", "without mean pattern"]),
        ..Card::BASE
    },
    Card {
        name: "sync.entropy_spread",
        formula: "population standard deviation over heads of attention_entropy",
        unit: "nats",
        axes: "site: hook_pattern, layer",
        cost: CostClass::L,
        every: 10,
        control: "0 for equal heads, and for heads that all look everywhere alike",
        source: "Verma 2026 (2605.20441), whose value is the mean over layers",
        not_for: "specialization by itself: heads of equal entropy may look at different places",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "sync.gradient",
        formula: "cos(T_h, T_h'), T how a step along the gradient changes a head's circuit: (∂L/∂W_Q) W_Kᵀ + W_Q (∂L/∂W_K)ᵀ of W_Q W_Kᵀ, the same of W_V W_O",
        unit: "1",
        axes: "site: attn.QK or attn.OV, layer, index: pair (h, h') with h < h', row by row",
        cost: CostClass::L,
        every: 10,
        control: "sync.gradient.null: heads of a layer read one stream and one gradient, so chance is many times wider than for independent numbers; 1 for heads that started equal",
        source: "definition, before clipping; rotating a head's basis changes nothing",
        not_for: "one pair among many without counting them. Rescaling W_Q by s and W_K by 1/s leaves the circuit, but not what a step does to it",
        bounds: Card::COSINE,
        gradients: true,
        index: Index::Pairs,
        ..Card::BASE
    },
    Card {
        name: "sync.gradient.null",
        formula: "sync.gradient of 8 heads that have nothing to do with one another: W_Q, W_K, W_V, W_O drawn as at initialization, reading the layer's stream as it is now, with the gradient of what they would write there, and trained by nothing",
        unit: "1",
        axes: "site: attn.QK or attn.OV, layer, index: pair (i, j) of those heads with i < j, row by row",
        cost: CostClass::H,
        every: 1000,
        control: "it is the control: mean and spread of its 28 pairs are chance for a pair of sync.gradient at that step; at step 0 both are of untrained heads",
        source: "definition; the same draws in every run",
        not_for: "heads that attend sharply: those of the null attend as untrained heads do, nearly evenly. Its pairs are not independent, each head is in seven",
        bounds: Card::COSINE,
        gradients: true,
        index: Index::PairsOfStrangers(STRANGERS),
        ..Card::BASE
    },
    Card {
        name: "sync.drift",
        formula: "cos(ΔT_h, ΔT_h'), ΔT the change of W_Q W_Kᵀ, or of W_V W_O, from step t to t + 1, decay included",
        unit: "1",
        axes: "site: attn.QK or attn.OV, layer, index: pair (h, h') with h < h', row by row",
        cost: CostClass::L,
        every: 10,
        control: "no null is measured: heads beside the model's have no moments in the optimizer. Compare runs or steps with each other, and with sync.gradient; what decay takes from two circuits has the cosine of the circuits",
        source: "definition; rotating a head's basis changes nothing",
        not_for: "whether a pair moves together more than by chance; the path: it is one step, and steps may undo each other. A step below 2^-20 of the weights' sizes is rounding, and has no row",
        bounds: Card::COSINE,
        index: Index::Pairs,
        ..Card::BASE
    },
];

/// Heads of the null of `sync.gradient`.
const STRANGERS: usize = 8;

const OF_PATTERNS: &[&str] = &["sync.similarity", "sync.participation", "sync.entropy_spread"];

impl Instrument for Synchronization {
    fn name(&self) -> &'static str {
        "sync"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let heads = cx.model.config.n_heads;
        if heads == 1 {
            return Ok(());
        }
        self.attach_null(cx)?;
        for layer in 0..cx.model.config.n_layers {
            if let Some(every) = cx.cadence_of(self, OF_PATTERNS) {
                let site = format!("blocks.{layer}.attn.hook_pattern");
                let train = cx.train;
                let products = cx.pattern_products(every, train.forward.hook(&site)?)?;
                let found = cx.tape.at_cadence(every, |tape| {
                    let means = HeadMeans::push(tape, &train.forward, layer, train.batch.targets, train.batch.count)?;
                    tape.push1(HeadSynchrony, &[products, means])
                })?;
                let label = |index| Label { layer: layer as i32, head: -1, index };
                cx.record(self, "sync.similarity", &site, found, 0, vec![label(0), label(1)]);
                let labels = vec![label(0), label(1)];
                cx.record_where(Presence::WhereKnown, self, "sync.participation", &site, found, 2, labels);
                cx.record(self, "sync.entropy_spread", &site, found, 4, vec![label(-1)]);
            }
            let model = cx.model;
            if let Some(every) = cx.cadence_of(self, &["sync.gradient"]) {
                self.record_gradients(cx, every, "sync.gradient", model, cx.grads, layer)?;
            }
            if let Some(every) = cx.cadence_of(self, &["sync.drift"]) {
                for circuit in CIRCUITS {
                    for at in circuit.places(model, layer)? {
                        cx.keep(every, model.weights[at])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn attach_to_update(&self, cx: &mut Attach<'_>, _norms: &UpdateSummary) -> Result<()> {
        let (model, heads) = (cx.model, cx.model.config.n_heads);
        let Some(every) = cx.cadence_of(self, &["sync.drift"]).filter(|_| heads > 1) else { return Ok(()) };
        for layer in 0..model.config.n_layers {
            for circuit in CIRCUITS {
                let after = circuit.places(model, layer)?.map(|at| model.weights[at]);
                let [Some(a), Some(b)] = after.map(|weight| cx.kept(weight)) else { continue };
                let inputs = [a, after[0], b, after[1]];
                let found = cx.tape.at_cadence(every, |tape| circuit.cosines(tape, inputs, true, heads))?;
                self.record_pairs(cx, Presence::InUpdates, "sync.drift", layer, circuit, found);
            }
        }
        Ok(())
    }
}

/// What a head does, as a product of two of its weights: A Bᵀ, or A B, [D, D].
#[derive(Clone, Copy)]
struct Circuit {
    name: &'static str,
    weights: [&'static str; 2],
    /// The second weight is [H, K, D].
    rows: bool,
}

/// What is looked for, and what is written where it is found.
const CIRCUITS: [Circuit; 2] =
    [Circuit { name: "QK", weights: ["Q", "K"], rows: false }, Circuit { name: "OV", weights: ["V", "O"], rows: true }];

impl Circuit {
    /// Positions of its weights.
    fn places(self, model: &Model, layer: usize) -> Result<[usize; 2]> {
        let place = |which| {
            model
                .table
                .attention(layer, which)
                .ok_or_else(|| misfit("head circuit", format!("no W_{which} in layer {layer}")))
        };
        let [a, b] = self.weights.map(place);
        Ok([a?, b?])
    }

    /// Cosines of all pairs of heads between changes T = X Bᵀ + A Yᵀ of their circuits A Bᵀ, [1, pairs]. Inputs: A [H, D, K],
    /// X, B [H, D, K] ([H, K, D] where its rows are K), Y; or, where `moved`, A and B before and after a step, whose circuits
    /// differ by that with the B after it. Queries may share a B, or an A.
    fn cosines(self, tape: &mut Tape, inputs: [Var; 4], moved: bool, heads: usize) -> Result<Var> {
        let mut by_head = Vec::with_capacity(4);
        for x in inputs {
            let dims = [heads, tape.shape(x).dims[1], tape.shape(x).dims[2]];
            let rows = per_head(tape, x, heads)?;
            by_head.push(tape.reshape(rows, &dims)?);
        }
        let [a, mut x, mut b, mut y] = by_head[..] else { return Err(misfit("head circuit", "inputs")) };
        if moved {
            let after = y;
            [x, y] = [difference(tape, x, a)?, difference(tape, y, b)?];
            b = after;
        }
        let (depth, width) = (tape.shape(a).dims[1], tape.shape(a).dims[2]);
        // So many rows of all T at once take as much memory as the layer's four weights.
        let block = (4 * width).min(depth);
        let mut products: Option<Var> = None;
        for first in (0..depth).step_by(block) {
            let rows = first..(first + block).min(depth);
            let [x, a] = [rows_of_heads(tape, x, rows.clone())?, rows_of_heads(tape, a, rows)?];
            let plain = HeadProduct { rows: self.rows, residual: false };
            let first_part = tape.push1(plain, &[x, b])?;
            let change = tape.push1(HeadProduct { residual: true, ..plain }, &[a, y, first_part])?;
            let found = tape.push1(HeadProducts, &[change])?;
            products = Some(match products {
                Some(before) => tape.push1(Add, &[before, found])?,
                None => found,
            });
        }
        let mut inputs = vec![products.ok_or_else(|| misfit("head circuit", "no rows"))?];
        if moved {
            inputs.extend([tape.push1(HeadProducts, &[a])?, tape.push1(HeadProducts, &[b])?]);
        }
        tape.push1(Cosines, &inputs)
    }
}

/// x - before.
fn difference(tape: &mut Tape, x: Var, before: Var) -> Result<Var> {
    let minus = tape.push1(Scale(-1.0), &[before])?;
    tape.push1(Add, &[x, minus])
}

/// Some of the rows of each head's matrix: of x [H, D, K], [H, rows, K].
fn rows_of_heads(tape: &mut Tape, x: Var, rows: std::ops::Range<usize>) -> Result<Var> {
    let [heads, depth, width] = tape.shape(x).dims[..] else { return Err(misfit("head circuit", "rows")) };
    if rows.len() == depth {
        return Ok(x);
    }
    let index: Vec<u32> = (0..heads).flat_map(|h| rows.clone().map(move |row| (h * depth + row) as u32)).collect();
    let index = tape.constant_u32(&[index.len()], &index);
    let flat = tape.reshape(x, &[heads * depth, width])?;
    let picked = tape.push1(GatherRows, &[flat, index])?;
    tape.reshape(picked, &[heads, rows.len(), width])
}

impl Synchronization {
    /// Declares the null of `sync.gradient`: heads that write nowhere have the gradient of what they would write.
    fn attach_null(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence_of(self, &["sync.gradient.null"]) else { return Ok(()) };
        let (model, train, read) = (cx.model, cx.train, cx.task.shape().read);
        let strangers = cx.tape.at_cadence(every, |tape| model.with_strangers(tape, STRANGERS))?;
        for layer in 0..model.config.n_layers {
            let Some(seed) = train.gradients.get(&format!("blocks.{layer}.hook_resid_mid")) else { continue };
            let [qk, ov] = CIRCUITS.map(|circuit| circuit.places(&strangers, layer));
            let places = [qk?, ov?].concat();
            let weights: Vec<Var> = places.iter().map(|at| strangers.weights[*at]).collect();
            let found = cx.tape.at_cadence(every, |tape| {
                let (batch, forward) = (&train.batch, &train.forward);
                let written =
                    strangers.attend_within(tape, layer, forward, &batch.rows, (batch.size, batch.seq), read)?;
                tape.backward_from(written, *seed, &weights)
            })?;
            let mut grads = vec![None; strangers.weights.len()];
            places.into_iter().zip(found).for_each(|(at, grad)| grads[at] = grad);
            self.record_gradients(cx, every, "sync.gradient.null", &strangers, &grads, layer)?;
        }
        Ok(())
    }

    /// Declares cosines between what the gradients of a layer's heads do to their circuits.
    fn record_gradients(
        &self,
        cx: &mut Attach<'_>,
        every: u64,
        name: &str,
        model: &Model,
        grads: &[Option<Var>],
        layer: usize,
    ) -> Result<()> {
        for circuit in CIRCUITS {
            let at = circuit.places(model, layer)?;
            let [Some(a), Some(b)] = at.map(|at| grads[at]) else { continue };
            let [of_a, of_b] = at.map(|at| model.weights[at]);
            let (inputs, heads) = ([of_a, a, of_b, b], model.config.n_heads);
            let found = cx.tape.at_cadence(every, |tape| circuit.cosines(tape, inputs, false, heads))?;
            self.record_pairs(cx, Presence::Always, name, layer, circuit, found);
        }
        Ok(())
    }

    fn record_pairs(
        &self,
        cx: &mut Attach<'_>,
        presence: Presence,
        name: &str,
        layer: usize,
        circuit: Circuit,
        cosines: Var,
    ) {
        let pairs = cx.tape.shape(cosines).len() as i32;
        let labels = (0..pairs).map(|index| Label { layer: layer as i32, head: -1, index }).collect();
        let site = format!("blocks.{layer}.attn.{}", circuit.name);
        cx.record_where(presence, self, name, &site, cosines, 0, labels);
    }
}

/// A tensor [G, ..] as one row for each of H query heads, H / G of which share a row: [H, n].
pub(crate) fn per_head(tape: &mut Tape, x: Var, heads: usize) -> Result<Var> {
    let groups = tape.shape(x).dims[0];
    let rows = tape.reshape(x, &[groups, tape.shape(x).len() / groups])?;
    if groups == heads {
        return Ok(rows);
    }
    let index: Vec<u32> = (0..heads).map(|h| (h * groups / heads) as u32).collect();
    let index = tape.constant_u32(&[heads], &index);
    tape.push1(GatherRows, &[rows, index])
}

crate::params! {
    struct ProductParams { heads: u32, n: u32, chunk: u32, x_replica: u32, out_replica: u32 }
}
static HEAD_PRODUCTS: Shader<'_> = Shader {
    name: "instrument/heads/head_products",
    source: include_str!("../../../shaders/instrument/heads/head_products.wgsl"),
    knobs: &[],
    params: ProductParams::FIELDS,
};
crate::params! {
    struct SynchronyParams { heads: u32, x_replica: u32, entropy_replica: u32, out_replica: u32 }
}
static HEAD_SYNCHRONY: Shader<'_> = Shader {
    name: "instrument/heads/head_synchrony",
    source: include_str!("../../../shaders/instrument/heads/head_synchrony.wgsl"),
    knobs: &[],
    params: SynchronyParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&HEAD_PRODUCTS, &HEAD_SYNCHRONY];

/// y [1, H, H], upper triangle: products of two heads' numbers. Input: x [H, ..].
pub(crate) struct HeadProducts;

impl Op for HeadProducts {
    fn name(&self) -> &'static str {
        "head products"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let heads = inputs[0].dims[0];
        Ok(vec![Shape { owned: inputs[0].owned, ..Shape::f32(&[1, heads, heads]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const CHUNK: usize = 2048;
        let heads = outputs[0].dims[1];
        let n = inputs[0].len() / heads;
        let chunks = n.div_ceil(CHUNK);
        let partial = cx.scratch(&[chunks, heads * heads]);
        let params = ProductParams {
            heads: heads as u32,
            n: n as u32,
            chunk: CHUNK as u32,
            x_replica: inputs[0].replica_stride,
            out_replica: partial.replica_stride,
        };
        let grid = [chunks as u32, heads as u32, heads as u32 * cx.replicas];
        cx.dispatch(&HEAD_PRODUCTS, &[], &params, &[&inputs[0], &partial], grid)?;
        cx.count_flops((n * heads * (heads + 1)) as u64 * u64::from(cx.replicas));
        sum_columns(cx, &partial, chunks, heads * heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let heads = inputs[0].dims[0];
        let rows: Vec<&[f64]> = inputs[0].data.chunks_exact(inputs[0].data.len() / heads).collect();
        vec![Array::from_fn(&[1, heads, heads], |at| {
            let (h, g) = (at / heads, at % heads);
            if h > g { 0.0 } else { rows[h].iter().zip(rows[g]).map(|(x, y)| x * y).sum() }
        })]
    }
}

/// y [5]: mean cosine of the pairs in each of two tables of products, normed participation ratio of each, and
/// population standard deviation of the entropies. Heads that have nothing but rounding in the second table have no part in
/// it; of fewer than two heads the ratio is [`UNKNOWN`]. Inputs: products [2, H, H], upper triangle, and [`HeadMeans`],
/// entropies first.
struct HeadSynchrony;

impl Op for HeadSynchrony {
    fn name(&self) -> &'static str {
        "head synchrony"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let heads = inputs[0].dims.last().copied().unwrap_or_default();
        if heads < 2 || inputs[0].len() != 2 * heads * heads || inputs[1].len() < heads {
            return Err(misfit("head synchrony", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[5])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SynchronyParams {
            heads: inputs[0].dims[2] as u32,
            x_replica: inputs[0].replica_stride,
            entropy_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&HEAD_SYNCHRONY, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let h = inputs[0].dims[2];
        let ratio = |a: f64, d: f64| if d == 0.0 { 0.0 } else { a / d };
        let (mut similarity, mut participation) = (Vec::new(), Vec::new());
        for table in inputs[0].data.chunks_exact(h * h) {
            let pairs: Vec<(usize, usize)> = (0..h).flat_map(|a| (a + 1..h).map(move |b| (a, b))).collect();
            let vary = varying(table, &inputs[0].data[..h * h], h);
            let product = |a: usize, b: usize| if vary[a] && vary[b] { table[a * h + b] } else { 0.0 };
            let size = |a: usize| product(a, a);
            let cosines = pairs.iter().map(|(a, b)| ratio(product(*a, *b), (size(*a) * size(*b)).sqrt()));
            similarity.push(cosines.sum::<f64>() / pairs.len() as f64);
            let trace: f64 = (0..h).map(size).sum();
            let squares = (0..h).map(|a| size(a).powi(2)).sum::<f64>()
                + pairs.iter().map(|(a, b)| 2.0 * product(*a, *b).powi(2)).sum::<f64>();
            let known = vary.iter().filter(|v| **v).count() > 1;
            let spread = (trace * trace / squares - 1.0) / (h as f64 - 1.0);
            participation.push(if known { spread } else { f64::from(UNKNOWN) });
        }
        let entropies = &inputs[1].data[..h];
        let mean = entropies.iter().sum::<f64>() / h as f64;
        let variance = entropies.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / h as f64;
        vec![Array::new(&[5], [similarity, participation, vec![variance.sqrt()]].concat())]
    }
}

/// The five numbers of a pattern [B, H, Tq, T], whose heads bring nothing along.
fn synchrony(case: &mut Case, pattern: Var, targets: Var) -> Result<Var> {
    let dims = case.tape.shape(pattern).dims.clone();
    let z = case.tape.constant(&[dims[0], dims[2], dims[1], 1], &vec![0.0; dims[..3].iter().product()]);
    let count = count_targets(&mut case.tape, targets, 1)?;
    let means = case.tape.push1(HeadMeans { taken: false }, &[pattern, targets, count, z])?;
    let products = pattern_products(&mut case.tape, pattern, targets)?;
    case.tape.push1(HeadSynchrony, &[products, means])
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("head synchrony", |c| {
        let (q, k, targets) = (c.owned(&[40, 3, 4, 6]), c.owned(&[40, 5, 4, 6]), c.indices(&[40], 7, true));
        let pattern = c.tape.push1(AttentionPattern { scale: 0.7 }, &[q, k])?;
        Ok((vec![synchrony(c, pattern, targets)?], Vec::new()))
    }),
    ("circuit products", |c| {
        let [a, next_a, b, next_b] = [[3, 20, 7], [3, 20, 7], [3, 7, 20], [3, 7, 20]].map(|dims| c.owned(&dims));
        let [qk, ov] = CIRCUITS;
        let along = qk.cosines(&mut c.tape, [a, next_a, next_a, a], false, 3)?;
        Ok((vec![along, ov.cosines(&mut c.tape, [a, next_a, b, next_b], true, 3)?], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;
    use crate::autograd::ops::{Attention, IGNORE};

    /// The five numbers of a pattern all of whose last queries count.
    fn synchrony_of(case: &mut Case, pattern: Var) -> Var {
        let batch = case.tape.shape(pattern).dims[0];
        let targets = case.tape.constant_u32(&[batch], &vec![1; batch]);
        synchrony(case, pattern, targets).unwrap()
    }

    /// A pattern with one query in each example: `entry(example, head, key)`.
    fn planted(case: &mut Case, dims: [usize; 3], entry: impl Fn(usize, usize, usize) -> f32) -> Var {
        let [b, h, t] = dims;
        let data: Vec<f32> = (0..b * h * t).map(|at| entry(at / (h * t), at / t % h, at % t)).collect();
        case.tape.constant(&[b, h, 1, t], &data)
    }

    fn expect(pattern: impl Fn(&mut Case) -> Var, expected: [f64; 5]) {
        let mut case = Case::new("planted heads");
        let pattern = pattern(&mut case);
        let found = synchrony_of(&mut case, pattern);
        for gpu in gpus() {
            for replica in &case.run(gpu, &[found]).unwrap()[0] {
                for (at, (value, expected)) in replica.iter().zip(expected).enumerate() {
                    // A few roundings of sums of up to 64 equal terms.
                    assert!((f64::from(*value) - expected).abs() < 2e-6, "{at}: {value} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn synchrony_matches_its_reference() {
        for (b, tq, t, h) in [(31, 1, 3, 2), (64, 3, 3, 3), (257, 1, 5, 4), (40, 31, 31, 8)] {
            for own in [false, true] {
                let mut case = Case::new(&format!("synchrony b{b} tq{tq} t{t} h{h}, own targets {own}"));
                let [q, k] = [tq, t].map(|n| case.owned(&[b, n, h, 4]));
                let pattern = case.tape.push(Attention { scale: 0.9 }, &[q, k, k]).unwrap()[1];
                let targets = case.indices(&[if own { b * tq } else { b }], 7, true);
                let found = synchrony(&mut case, pattern, targets).unwrap();
                // Centring subtracts numbers of order 1 from each other.
                case.agree(&[found], 1e-4);
            }
        }
    }

    /// The same cosines of one replica by their definition, from A, X, B and Y as [`Circuit::cosines`] takes them.
    fn cosines_by_hand(circuit: Circuit, inputs: &[Array], moved: bool, heads: usize) -> Vec<f64> {
        let (depth, width) = (inputs[0].dims[1], inputs[0].dims[2]);
        let entry = |which: usize, h: usize, d: usize, k: usize| {
            let x = &inputs[which];
            let first = h * x.dims[0] / heads * depth * width;
            let rows = which > 1 && circuit.rows;
            x.data[first + if rows { k * depth + d } else { d * width + k }]
        };
        let [x, y] = [(1, 0), (3, 2)]
            .map(|(next, own)| move |h, d, k| entry(next, h, d, k) - if moved { entry(own, h, d, k) } else { 0.0 });
        let change = |h: usize| -> Vec<f64> {
            let at = |d: usize, e: usize| -> f64 {
                let part =
                    |k: usize| x(h, d, k) * entry(if moved { 3 } else { 2 }, h, e, k) + entry(0, h, d, k) * y(h, e, k);
                (0..width).map(part).sum()
            };
            (0..depth * depth).map(|i| at(i / depth, i % depth)).collect()
        };
        let changes: Vec<Vec<f64>> = (0..heads).map(change).collect();
        let dot = |h: usize, g: usize| changes[h].iter().zip(&changes[g]).map(|(x, y)| x * y).sum::<f64>();
        let pairs = (0..heads).flat_map(|h| (h + 1..heads).map(move |g| (h, g)));
        pairs.map(|(h, g)| dot(h, g) / (dot(h, h) * dot(g, g)).sqrt()).collect()
    }

    #[test]
    fn a_step_that_is_rounding_of_the_weights_has_no_cosine() {
        // Of four heads the first stays, the second moves by one rounding of each weight, two move by a thousandth.
        let moved = |before: &[f32]| -> Vec<f32> {
            let one = |(at, w): (usize, &f32)| match at / 35 {
                0 => *w,
                1 => f32::from_bits(w.to_bits() + 1),
                head => w * (1.0 + 1e-3 * (head * 7 + at % 5) as f32),
            };
            before.iter().enumerate().map(one).collect()
        };
        let mut case = Case::new("steps of nothing");
        let [a, b] = [0.3f32, 0.7].map(|from| (0..140).map(|at| (at as f32 * from).sin()).collect::<Vec<f32>>());
        let dims = [[4, 5, 7], [4, 7, 5]];
        let [[a, next_a], [b, next_b]] = [(&a, dims[0]), (&b, dims[1])]
            .map(|(w, dims)| [w.clone(), moved(w)].map(|w| case.tape.constant(&dims, &w)));
        let found = CIRCUITS[1].cosines(&mut case.tape, [a, next_a, b, next_b], true, 4).unwrap();
        for gpu in gpus() {
            let cosines = case.run(gpu, &[found]).unwrap().remove(0).remove(0);
            assert_eq!(cosines[..5], [UNKNOWN; 5], "{}", gpu.caps().name);
            assert!(cosines[5].abs() <= 1.0, "{cosines:?}");
        }
    }

    #[test]
    fn cosines_of_circuits_match_their_reference() {
        for (d, k) in [(1, 1), (3, 31), (64, 3), (31, 16)] {
            for (heads, groups) in [(2, 2), (3, 1), (8, 4)] {
                let mut case = Case::new(&format!("circuits d{d} k{k} h{heads} g{groups}"));
                let [qk, ov] = CIRCUITS;
                for moved in [false, true] {
                    let query = [case.owned(&[heads, d, k]), case.owned(&[heads, d, k])];
                    let [key, value] = [(); 2].map(|()| [case.owned(&[groups, d, k]), case.owned(&[groups, d, k])]);
                    let out = [case.owned(&[heads, k, d]), case.owned(&[heads, k, d])];
                    let of = [(qk, [query[0], query[1], key[0], key[1]]), (ov, [value[0], value[1], out[0], out[1]])];
                    let found =
                        of.map(|(circuit, inputs)| circuit.cosines(&mut case.tape, inputs, moved, heads).unwrap());
                    // Sums of some thousand terms of either sign.
                    case.agree(&found, 1e-4);
                    for ((circuit, inputs), found) in of.into_iter().zip(found) {
                        let inputs = case.reference(0, &inputs).unwrap();
                        let expected = cosines_by_hand(circuit, &inputs, moved, heads);
                        for (value, expected) in case.reference(0, &[found]).unwrap()[0].data.iter().zip(expected) {
                            assert!((value - expected).abs() < 1e-9, "{value} instead of {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rotating_the_basis_of_a_head_changes_no_cosine() {
        const D: usize = 12;
        let mut case = Case::new("rotated heads");
        let normals =
            |name: u64, at: usize| crate::gpu::Philox::new(name, crate::gpu::Stream::Weights, 0).normals(at as u64)[0];
        // Head 1 in a basis turned by 0.7 in its plane, of A, B and what they change by alike: of [H, D, 2], and [H, 2, D].
        let tensor = |name: u64, rows: bool, angle: f64| -> Vec<f32> {
            let value = |h: usize, d: usize, k: usize| normals(name, (h * D + d) * 2 + k);
            let turned = |h: usize, d: usize, k: usize| match (h, k) {
                (1, 0) => angle.cos() * value(h, d, 0) - angle.sin() * value(h, d, 1),
                (1, _) => angle.sin() * value(h, d, 0) + angle.cos() * value(h, d, 1),
                _ => value(h, d, k),
            };
            let at = |at: usize| match rows {
                true => turned(at / (2 * D), at % D, at / D % 2),
                false => turned(at / (2 * D), at / 2 % D, at % 2),
            };
            (0..3 * 2 * D).map(|i| at(i) as f32).collect()
        };
        let mut cosines = |angle: f64| -> Vec<Var> {
            let all = CIRCUITS.into_iter().flat_map(|circuit| [(circuit, false), (circuit, true)]);
            let found = all.map(|(circuit, moved)| {
                let dims = if circuit.rows { [3, 2, D] } else { [3, D, 2] };
                let inputs = [(1, false), (2, false), (3, circuit.rows), (4, circuit.rows)].map(|(name, rows)| {
                    let dims = if rows { dims } else { [3, D, 2] };
                    case.tape.constant(&dims, &tensor(name, rows, angle))
                });
                circuit.cosines(&mut case.tape, inputs, moved, 3).unwrap()
            });
            found.collect()
        };
        let (plain, turned) = (cosines(0.0), cosines(0.7));
        for gpu in gpus() {
            let values = case.run(gpu, &[plain.clone(), turned.clone()].concat()).unwrap().concat();
            let (plain, turned) = values.split_at(plain.len());
            for (a, b) in plain.concat().iter().zip(turned.concat()) {
                assert!((a - b).abs() < 2e-6, "{a} became {b}");
            }
        }
    }

    #[test]
    fn equal_heads_are_alike_in_everything() {
        let vary = |b: usize, k: usize| 0.1 + 0.3 * ((b * 5 + k * 3) % 7) as f32 / 7.0;
        let pattern = |case: &mut Case| {
            planted(case, [64, 4, 3], |b, _, k| if k == 2 { 1.0 - vary(b, 0) - vary(b, 1) } else { vary(b, k) })
        };
        expect(pattern, [1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn heads_that_look_at_different_keys_are_orthogonal() {
        // They never vary, so nothing is left without their mean.
        let pattern = |case: &mut Case| planted(case, [64, 4, 5], |_, h, k| f32::from(u8::from(k == h)));
        expect(pattern, [0.0, 0.0, 1.0, f64::from(UNKNOWN), 0.0]);
    }

    #[test]
    fn heads_that_vary_independently_are_alike_only_before_centring() {
        // Walsh functions of the example decide between two keys: products are 16 (1 + δ) of 32, centred 16 δ.
        let sign = |b: usize, h: usize| (b & (1 << h)).count_ones() as usize % 2;
        let pattern = |case: &mut Case| planted(case, [32, 4, 2], |b, h, k| f32::from(u8::from(sign(b, h) == k)));
        let plain = 16.0 / (4.0 + 12.0 / 4.0);
        expect(pattern, [0.5, 0.0, (plain - 1.0) / 3.0, 1.0, 0.0]);
    }

    #[test]
    fn heads_that_do_not_vary_have_no_part_in_what_heads_vary_by() {
        // Heads 0 and 1 attend evenly to three keys; 2 and 3 are Walsh functions, orthogonal and of equal size.
        let sign = |b: usize, h: usize| (b & (1 << h)).count_ones() as usize % 2;
        let entry = move |b: usize, h: usize, k: usize| {
            if h < 2 { 1.0 / 3.0 } else { f32::from(u8::from(k < 2 && sign(b, h - 2) == k)) }
        };
        let mut case = Case::new("even heads");
        let pattern = planted(&mut case, [32, 4, 3], entry);
        let found = synchrony_of(&mut case, pattern);
        for gpu in gpus() {
            for replica in &case.run(gpu, &[found]).unwrap()[0] {
                // P of two equal and orthogonal heads is 2.
                assert!(replica[1] == 0.0 && (replica[3] - 1.0 / 3.0).abs() < 1e-6, "{replica:?}");
            }
        }
    }

    #[test]
    fn the_spread_is_half_of_ln_n_where_half_of_the_heads_look_everywhere() {
        let pattern = |case: &mut Case| {
            planted(case, [64, 4, 4], |_, h, k| if h % 2 == 0 { 0.25 } else { f32::from(u8::from(k == 0)) })
        };
        let mut case = Case::new("half uniform");
        let pattern = pattern(&mut case);
        let found = synchrony_of(&mut case, pattern);
        for gpu in gpus() {
            let value = f64::from(case.run(gpu, &[found]).unwrap()[0][0][4]);
            assert!((value - 4f64.ln() / 2.0).abs() < 1e-6, "{value}");
        }
    }

    #[test]
    fn rows_that_do_not_count_change_nothing() {
        let values = |padded: bool| {
            let mut case = Case::new("padded heads");
            let (b, n) = (40, if padded { 100 } else { 40 });
            let entry = |b: usize, h: usize| 0.1 + 0.8 * ((b * (h + 3) * 7 + h) % 11) as f32 / 11.0;
            let pattern = planted(&mut case, [n, 3, 2], |e, h, k| {
                let a = entry(if e < b { e } else { 0 }, h);
                if k == 0 { a } else { 1.0 - a }
            });
            let targets: Vec<u32> = (0..n).map(|e| if e < b { 1 } else { IGNORE }).collect();
            let targets = case.tape.constant_u32(&[n], &targets);
            let found = synchrony(&mut case, pattern, targets).unwrap();
            gpus().iter().map(|gpu| case.run(gpu, &[found]).unwrap()[0][0].clone()).collect::<Vec<_>>()
        };
        for (alone, padded) in values(false).iter().zip(values(true)) {
            for (a, b) in alone.iter().zip(padded) {
                // Sums are cut into other chunks: a few roundings, where 0.1 is the smallest of the five.
                assert!((a - b).abs() <= 2e-6, "{a} and {b}");
            }
        }
    }
}
