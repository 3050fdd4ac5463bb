//! Attention patterns: how spread out each head looks, and how alike heads look.

use super::{Attach, Card, CostClass, Instrument, Label};
use crate::autograd::op::misfit;
use crate::autograd::ops::{ColumnSum, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor};

/// `attention_entropy`, `head_similarity`, `head_similarity.centered`.
pub(super) struct Patterns;

const CARDS: &[Card] = &[
    Card {
        name: "attention_entropy",
        formula: "mean over examples (and queries, unless only the last is read out) of -Σ_j A_ij ln A_ij",
        unit: "nats",
        axes: "site: hook_pattern, layer, head",
        cost: CostClass::F,
        every: 1,
        control: "ln n for uniform attention over n keys",
        source: "definition; Verma 2026 (2605.20441) for its spread over heads",
        not_for: "importance: a head may look sharply and write nothing",
    },
    Card {
        name: "head_similarity",
        formula: "cos(vec A_h, vec A_h') over examples, queries, keys",
        unit: "1",
        axes: "site: hook_pattern, layer, index: pair (h, h') with h < h', row by row",
        cost: CostClass::L,
        every: 10,
        control: "head_similarity.centered: patterns are positive, so unrelated heads have cosines near 1 too",
        source: "Verma 2026 (2605.20441)",
        not_for: "synchronization by itself: short sequences give 0.9 with no relation at all",
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
        not_for: "heads whose pattern hardly varies: a cosine of almost nothing; 0 where it does not vary at all",
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
        let [entropy, plain, centered] = CARDS else { return Ok(()) };
        let heads = cx.model.config.n_heads;
        for layer in 0..cx.model.config.n_layers {
            let site = format!("blocks.{layer}.attn.hook_pattern");
            let pattern = cx.train.forward.hook(&site)?;
            let layer = layer as i32;
            if let Some(every) = cx.every(self, entropy) {
                let value = cx.tape.at_cadence(every, |tape| tape.push1(HeadEntropy, &[pattern]))?;
                let labels = (0..heads as i32).map(|head| Label { layer, head, index: -1 }).collect();
                cx.record(self, entropy.name, &site, value, 0, labels);
            }
            let every = [plain, centered].into_iter().filter_map(|card| cx.every(self, card)).min();
            if let (Some(every), true) = (every, heads > 1) {
                let cosines = cx.tape.at_cadence(every, |tape| similarity(tape, pattern))?;
                let pairs = (heads * (heads - 1) / 2) as i32;
                let labels: Vec<Label> = (0..pairs).map(|index| Label { layer, head: -1, index }).collect();
                cx.record(self, plain.name, &site, cosines, 0, labels.clone());
                cx.record(self, centered.name, &site, cosines, pairs as usize, labels);
            }
        }
        Ok(())
    }
}

/// Cosines of the patterns of all pairs of heads, [2, pairs]: plain, then centred.
fn similarity(tape: &mut Tape, pattern: Var) -> Result<Var> {
    let sums = tape.push1(PatternSum, &[pattern])?;
    let products = tape.push1(PatternProducts, &[pattern, sums])?;
    let heads = tape.shape(pattern).dims[1];
    tape.push1(Cosines { heads }, &[products])
}

crate::gpu::params! {
    struct PatternParams {
        batch: u32, heads: u32, queries: u32, keys: u32, chunk: u32, x_replica: u32, sums_replica: u32, out_replica: u32,
    }
}
static HEAD_ENTROPY: Shader = Shader {
    name: "instrument/head_entropy",
    source: include_str!("../../shaders/instrument/head_entropy.wgsl"),
    knobs: &[],
    params: PatternParams::FIELDS,
};
static PATTERN_PRODUCTS: Shader = Shader {
    name: "instrument/pattern_products",
    source: include_str!("../../shaders/instrument/pattern_products.wgsl"),
    knobs: &[],
    params: PatternParams::FIELDS,
};
crate::gpu::params! {
    struct CosineParams { heads: u32, x_replica: u32, out_replica: u32 }
}
static COSINES: Shader = Shader {
    name: "instrument/cosines",
    source: include_str!("../../shaders/instrument/cosines.wgsl"),
    knobs: &[],
    params: CosineParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader] = &[&HEAD_ENTROPY, &PATTERN_PRODUCTS, &COSINES];

/// Pattern entries one workgroup walks through.
const CHUNK: usize = 2048;

fn params(pattern: &Tensor, sums: Option<&Tensor>, out: &Tensor) -> PatternParams {
    PatternParams {
        batch: pattern.dims[0] as u32,
        heads: pattern.dims[1] as u32,
        queries: pattern.dims[2] as u32,
        keys: pattern.dims[3] as u32,
        chunk: CHUNK as u32,
        x_replica: pattern.replica_stride,
        sums_replica: sums.map_or(0, |t| t.replica_stride),
        out_replica: out.replica_stride,
    }
}

fn four(shape: &Shape) -> Result<[usize; 4]> {
    shape.dims.as_slice().try_into().map_err(|_| misfit("pattern", format!("{:?} is not [B, H, Tq, T]", shape.dims)))
}

/// y [H] = mean over examples and queries of the entropy of a row of A [B, H, Tq, T].
struct HeadEntropy;

impl Op for HeadEntropy {
    fn name(&self) -> &'static str {
        "head entropy"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, _, _] = four(inputs[0])?;
        Ok(vec![inputs[0].with_dims(&[heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let heads = inputs[0].dims[1];
        let chunks = (inputs[0].len() / heads).div_ceil(CHUNK);
        let partial = cx.scratch(&[chunks, heads]);
        let params = params(&inputs[0], None, &partial);
        cx.dispatch(&HEAD_ENTROPY, &[], &params, &[&inputs[0], &partial], [heads as u32, chunks as u32, cx.replicas])?;
        sum_columns(cx, &partial, chunks, heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [batch, heads, queries, keys] = inputs[0].dims[..] else { return Vec::new() };
        let mut out = Array::zeros(&[heads]);
        for (at, a) in inputs[0].data.iter().enumerate() {
            if *a > 0.0 {
                out.data[at / (queries * keys) % heads] -= a * a.ln() / (batch * queries) as f64;
            }
        }
        vec![out]
    }
}

/// y [H, Tq, T] = sum of A [B, H, Tq, T] over examples.
struct PatternSum;

impl Op for PatternSum {
    fn name(&self) -> &'static str {
        "pattern sum"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, queries, keys] = four(inputs[0])?;
        Ok(vec![inputs[0].with_dims(&[heads, queries, keys])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        sum_columns(cx, &inputs[0], inputs[0].dims[0], outputs[0].len(), &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let dims = inputs[0].dims[1..].to_vec();
        let columns: usize = dims.iter().product();
        let rows = Array { dims: vec![inputs[0].dims[0], columns], data: inputs[0].data.clone() };
        vec![Array { dims, data: ColumnSum.reference(&[&rows]).remove(0).data }]
    }
}

/// y [2, H, H], upper triangle: sums over examples, queries, keys of A_h A_h', plain and with each head's
/// mean pattern over examples subtracted. Inputs: A [B, H, Tq, T], its sum over examples.
struct PatternProducts;

impl Op for PatternProducts {
    fn name(&self) -> &'static str {
        "pattern products"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, _, _] = four(inputs[0])?;
        Ok(vec![inputs[0].with_dims(&[2, heads, heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let heads = inputs[0].dims[1];
        let chunks = (inputs[0].len() / heads).div_ceil(CHUNK);
        let partial = cx.scratch(&[chunks, 2 * heads * heads]);
        let params = params(&inputs[0], Some(&inputs[1]), &partial);
        let tensors = [&inputs[0], &inputs[1], &partial];
        cx.dispatch(&PATTERN_PRODUCTS, &[], &params, &tensors, [(heads * heads) as u32, chunks as u32, cx.replicas])?;
        sum_columns(cx, &partial, chunks, 2 * heads * heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [batch, heads, queries, keys] = inputs[0].dims[..] else { return Vec::new() };
        let size = queries * keys;
        let mut out = Array::zeros(&[2, heads, heads]);
        for b in 0..batch {
            for (h, g) in (0..heads).flat_map(|h| (h..heads).map(move |g| (h, g))) {
                for e in 0..size {
                    let entry = |head: usize| inputs[0].data[(b * heads + head) * size + e];
                    let centred = |head: usize| entry(head) - inputs[1].data[head * size + e] / batch as f64;
                    out.data[h * heads + g] += entry(h) * entry(g);
                    out.data[(heads + h) * heads + g] += centred(h) * centred(g);
                }
            }
        }
        vec![out]
    }
}

/// y [2, pairs]: products [2, H, H] divided by the roots of their diagonals; 0 where a diagonal is 0.
struct Cosines {
    heads: usize,
}

impl Op for Cosines {
    fn name(&self) -> &'static str {
        "cosines"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[2, self.heads * (self.heads - 1) / 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = CosineParams {
            heads: self.heads as u32,
            x_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let groups = (2 * self.heads * self.heads).div_ceil(64) as u32;
        cx.dispatch(&COSINES, &[], &params, &[&inputs[0], &outputs[0]], [groups, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let h = self.heads;
        let mut out = Vec::new();
        for kind in 0..2 {
            let product = |a: usize, b: usize| inputs[0].data[(kind * h + a) * h + b];
            for (a, b) in (0..h).flat_map(|a| (a + 1..h).map(move |b| (a, b))) {
                let size = (product(a, a) * product(b, b)).sqrt();
                out.push(if size > 0.0 { product(a, b) / size } else { 0.0 });
            }
        }
        vec![Array::new(&[2, h * (h - 1) / 2], out)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;
    use crate::autograd::ops::{Attention, GatherRows};

    fn pattern(case: &mut Case, b: usize, t: usize, h: usize) -> Var {
        let (q, k, v) = (case.owned(&[b, t, h, 4]), case.owned(&[b, t, h, 4]), case.owned(&[b, t, h, 4]));
        case.tape.push(Attention { scale: 0.9 }, &[q, k, v]).unwrap()[1]
    }

    #[test]
    fn entropies_and_similarities_match_their_reference() {
        for (b, t, h) in [(1, 1, 2), (31, 3, 4), (300, 3, 2), (3, 31, 3), (2, 64, 8)] {
            let mut case = Case::new(&format!("patterns b{b} t{t} h{h}"));
            let pattern = pattern(&mut case, b, t, h);
            let entropy = case.tape.push1(HeadEntropy, &[pattern]).unwrap();
            let cosines = similarity(&mut case.tape, pattern).unwrap();
            case.agree(&[entropy], 1e-5);
            if b > 1 {
                // Centring subtracts numbers of order 1 from each other: 1e-4 of what is left.
                case.agree(&[cosines], 1e-4);
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
        let entropy = case.tape.push1(HeadEntropy, &[out[1]]).unwrap();
        for gpu in crate::autograd::check::gpus() {
            for value in case.run(gpu, &[entropy]).unwrap().concat().concat() {
                assert!((f64::from(value) - (t as f64).ln()).abs() < 1e-6, "{value}");
            }
        }
    }

    #[test]
    fn independent_heads_are_alike_before_centring_and_unrelated_after() {
        let mut case = Case::new("independent heads");
        let pattern = pattern(&mut case, 2000, 3, 2);
        let cosines = similarity(&mut case.tape, pattern).unwrap();
        for gpu in crate::autograd::check::gpus() {
            for replica in &case.run(gpu, &[cosines]).unwrap()[0] {
                assert!(replica[0] > 0.5, "{replica:?}");
                // 2,000 examples with a few free entries each: four standard errors are about 0.05.
                assert!(replica[1].abs() < 0.05, "{replica:?}");
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
        let cosines = similarity(&mut case.tape, pattern).unwrap();
        for gpu in crate::autograd::check::gpus() {
            for value in case.run(gpu, &[cosines]).unwrap().concat().concat() {
                assert!((value - 1.0).abs() < 1e-6, "{value}");
            }
        }
    }
}
