//! What the weights of heads alone say: whether a head writes the token it reads, and which heads of later
//! layers read what a head writes. Norms stand between those weights in most models and are left out.

use super::synchronization::per_head;
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{Add, ColumnSum, GatherRows, HeadResult, Linear, Scale};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label, Presence, ROUNDING, UNKNOWN};
use crate::model::Model;

/// `copying_score`.
pub(crate) struct Copying;

/// `composition.q`, `composition.k`, `composition.v`.
pub(crate) struct Compositions;

const COPYING_CARDS: &[Card] = &[Card {
    name: "copying_score",
    formula: "mean over tokens t of (z_t - mean z) / Σ max(z - mean z, 0), z = W_E[t] W_V W_O W_U",
    unit: "1",
    axes: "site: attn, layer, head",
    cost: CostClass::L,
    every: 100,
    control: "0: heads that prefer no token; 1 copies, -1 lowers what it reads. Initial weights: 0 ± 2.5 V^-1.5",
    source: "Olsson et al. 2022, as share of the raised logits, and minus the share of the lowered where t is lowered",
    not_for: "heads that read other heads or MLPs, or write for them; beyond 1,024 tokens it is over 513 to 1,024 evenly spaced ones",
    ..Card::BASE
}];

const fn composition(name: &'static str, formula: &'static str) -> Card {
    Card {
        name,
        formula,
        unit: "1",
        axes: "site: attn, layer and head: reader, index: layer H + head of the writer",
        cost: CostClass::L,
        every: 100,
        control: "0: what random weights have. 1/√d_model, the root of the ratio of expected squares of Gaussian matrices of these shapes, is taken off",
        source: "Elhage et al. 2021",
        index: Index::Heads,
        not_for: "use: heads that could compose need not look there; a head without weights has no row. Rotary positions turn Q and K, which this leaves out",
        ..Card::BASE
    }
}

const COMPOSITION_CARDS: &[Card] = &[
    composition("composition.q", "‖W_V W_O W_Q' W_K'ᵀ‖ / (‖W_V W_O‖ ‖W_Q' W_K'ᵀ‖) - 1/√d_model"),
    composition("composition.k", "‖W_V W_O W_K' W_Q'ᵀ‖ / (‖W_V W_O‖ ‖W_K' W_Q'ᵀ‖) - 1/√d_model"),
    composition("composition.v", "‖W_V W_O W_V' W_O'‖ / (‖W_V W_O‖ ‖W_V' W_O'‖) - 1/√d_model"),
];

impl Instrument for Copying {
    fn name(&self) -> &'static str {
        "copying"
    }

    fn cards(&self) -> &'static [Card] {
        COPYING_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (model, Some(every)) = (cx.model, cx.cadence(self)) else { return Ok(()) };
        if model.config.d_vocab != model.config.d_vocab_out {
            return Ok(());
        }
        for layer in 0..model.config.n_layers {
            let scores = cx.tape.at_cadence(every, |tape| copying(tape, model, layer, TOKENS, PIECE))?;
            let labels = (0..model.config.n_heads as i32).map(|head| Label { layer: layer as i32, head, index: -1 });
            cx.record(self, "copying_score", &format!("blocks.{layer}.attn"), scores, 0, labels.collect());
        }
        Ok(())
    }
}

impl Instrument for Compositions {
    fn name(&self) -> &'static str {
        "composition"
    }

    fn cards(&self) -> &'static [Card] {
        COMPOSITION_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (model, Some(every)) = (cx.model, cx.cadence(self)) else { return Ok(()) };
        let layers =
            (0..model.config.n_layers).map(|layer| cx.tape.at_cadence(every, |tape| Heads::new(tape, model, layer)));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let heads = model.config.n_heads as i32;
        for (at, reader) in layers.iter().enumerate() {
            for (from, writer) in layers[..at].iter().enumerate() {
                let scores = cx.tape.at_cadence(every, |tape| compose(tape, writer, reader))?;
                for (card, scores) in COMPOSITION_CARDS.iter().zip(scores) {
                    let pairs = (0..heads).flat_map(|head| (0..heads).map(move |by| (head, from as i32 * heads + by)));
                    let labels = pairs.map(|(head, index)| Label { layer: at as i32, head, index });
                    let site = format!("blocks.{at}.attn");
                    cx.record_where(Presence::WhereKnown, self, card.name, &site, scores, 0, labels.collect());
                }
            }
        }
        Ok(())
    }
}

/// Tokens a copying score is taken over at most.
const TOKENS: usize = 1024;
/// Logits of one piece.
const PIECE: usize = 1 << 24;

/// W_Q, W_K, W_V or W_O of a layer for each query head: [H, D, K], or [H, K, D] for W_O.
fn weight(tape: &mut Tape, model: &Model, layer: usize, which: &str) -> Result<Var> {
    let at = model.table.attention(layer, which).ok_or_else(|| misfit("circuits", format!("no W_{which}")))?;
    let var = model.weights[at];
    let [_, a, b] = tape.shape(var).dims[..] else { return Err(misfit("circuits", format!("W_{which}"))) };
    let rows = per_head(tape, var, model.config.n_heads)?;
    tape.reshape(rows, &[model.config.n_heads, a, b])
}

/// Copying score of each head of a layer, [H], over at most `tokens` tokens, of pieces with at most `room` logits.
fn copying(tape: &mut Tape, model: &Model, layer: usize, tokens: usize, room: usize) -> Result<Var> {
    let (heads, vocabulary) = (model.config.n_heads, model.config.d_vocab);
    let (w_v, w_o) = (weight(tape, model, layer, "V")?, weight(tape, model, layer, "O")?);
    let w_e = model.need("embed.W_E")?;
    let unembed = model.weight("unembed.W_U");
    let step = vocabulary.div_ceil(tokens);
    let ids: Vec<u32> = (0..vocabulary as u32).step_by(step).collect();
    let mut sums: Option<Var> = None;
    for ids in ids.chunks((room / (heads * vocabulary)).max(1)) {
        let index = tape.constant_u32(&[ids.len()], ids);
        let read = tape.push1(GatherRows, &[w_e, index])?;
        let z = tape.push1(Linear::default(), &[read, w_v])?;
        let z = tape.reshape(z, &[ids.len(), heads, model.config.d_head])?;
        let written = tape.push1(HeadResult, &[z, w_o])?;
        let written = tape.reshape(written, &[ids.len() * heads, model.config.d_model])?;
        let linear = Linear { transposed: unembed.is_none(), ..Linear::default() };
        let logits = tape.push1(linear, &[written, unembed.unwrap_or(w_e)])?;
        let shares = tape.push1(CopyShare { heads, first: ids[0] as usize, step }, &[logits])?;
        let shares = tape.reshape(shares, &[ids.len(), heads])?;
        let sum = tape.push1(ColumnSum, &[shares])?;
        sums = Some(match sums {
            Some(before) => tape.push1(Add, &[before, sum])?,
            None => sum,
        });
    }
    let sums = sums.ok_or_else(|| misfit("copying", "an empty vocabulary"))?;
    tape.push1(Scale(1.0 / ids.len() as f32), &[sums])
}

/// Weights of a layer's heads, and the products of size d_head that make up norms of their circuits.
struct Heads {
    w_q: Var,
    w_k: Var,
    w_v: Var,
    w_o: Var,
    /// W_Qᵀ W_Q, W_Kᵀ W_K, W_Vᵀ W_V and W_O W_Oᵀ of each head, [H, K, K].
    q: Var,
    k: Var,
    v: Var,
    o: Var,
    /// `v` as [K, H, K].
    v_rows: Var,
}

impl Heads {
    fn new(tape: &mut Tape, model: &Model, layer: usize) -> Result<Self> {
        let [w_q, w_k, w_v, w_o] = ["Q", "K", "V", "O"].map(|which| weight(tape, model, layer, which));
        Self::of(tape, w_q?, w_k?, w_v?, w_o?)
    }

    fn of(tape: &mut Tape, w_q: Var, w_k: Var, w_v: Var, w_o: Var) -> Result<Self> {
        let plain = HeadGram { rows: false, by_row: false };
        Ok(Self {
            w_q,
            w_k,
            w_v,
            w_o,
            q: tape.push1(plain, &[w_q])?,
            k: tape.push1(plain, &[w_k])?,
            v: tape.push1(plain, &[w_v])?,
            o: tape.push1(HeadGram { rows: true, ..plain }, &[w_o])?,
            v_rows: tape.push1(HeadGram { by_row: true, ..plain }, &[w_v])?,
        })
    }
}

/// Q-, K- and V-composition of the heads of two layers, each [H readers, H writers].
///
/// With W_V W_O of the writer and C Eᵀ of the reader, ‖W_V W_O C Eᵀ‖² = tr(Mᵀ (W_Vᵀ W_V) M (Eᵀ E)) with
/// M = W_O C: nothing is larger than [H K, H K].
fn compose(tape: &mut Tape, writer: &Heads, reader: &Heads) -> Result<[Var; 3]> {
    let [heads, width, d_model] = tape.shape(writer.w_o).dims[..] else { return Err(misfit("composition", "W_O")) };
    let written = tape.reshape(writer.w_o, &[heads * width, d_model])?;
    let mut one = |c: Var, c_gram: Var, e_gram: Var| -> Result<Var> {
        let m = tape.push1(Linear::default(), &[written, c])?;
        let rows = tape.reshape(m, &[heads, width, heads * width])?;
        let left = tape.push1(HeadResult, &[writer.v_rows, rows])?;
        let left = tape.reshape(left, &[width * heads, heads, width])?;
        let both = tape.push1(HeadResult, &[left, e_gram])?;
        let baseline = 1.0 / (d_model as f32).sqrt();
        let inputs = [m, both, writer.v_rows, writer.o, c_gram, e_gram];
        tape.push1(Composition { heads, width, baseline }, &inputs)
    };
    Ok([
        one(reader.w_q, reader.q, reader.k)?,
        one(reader.w_k, reader.k, reader.q)?,
        one(reader.w_v, reader.v, reader.o)?,
    ])
}

crate::params! {
    struct ShareParams {
        rows: u32, columns: u32, heads: u32, first: u32, step: u32, z_replica: u32, y_replica: u32,
    }
}
static COPY_SHARE: Shader<'_> = Shader {
    name: "instrument/heads/copy_share",
    source: include_str!("../../../shaders/instrument/heads/copy_share.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: ShareParams::FIELDS,
};
crate::params! {
    struct GramParams {
        heads: u32, width: u32, depth: u32, x_width: u32, x_depth: u32, y_head: u32, y_row: u32, x_replica: u32,
        y_replica: u32,
    }
}
static HEAD_GRAM: Shader<'_> = Shader {
    name: "instrument/heads/head_gram",
    source: include_str!("../../../shaders/instrument/heads/head_gram.wgsl"),
    knobs: &[],
    params: GramParams::FIELDS,
};
crate::params! {
    struct CompositionParams {
        heads: u32, width: u32, baseline: f32, m_replica: u32, q_replica: u32, v_replica: u32, o_replica: u32,
        a_replica: u32, b_replica: u32, y_replica: u32,
    }
}
static COMPOSITION: Shader<'_> = Shader {
    name: "instrument/heads/composition",
    source: include_str!("../../../shaders/instrument/heads/composition.wgsl"),
    knobs: &[],
    params: CompositionParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&COPY_SHARE, &HEAD_GRAM, &COMPOSITION];

/// Product of the norms of two circuits below which f32 has lost them.
const NOTHING: f64 = 1e-18;

/// y [N H] = (z_t - mean z) / Σ max(z - mean z, 0) of each row of z [N H, V], t = first + step times the row's N; 0 where the
/// sum is rounding beside the mean.
struct CopyShare {
    heads: usize,
    first: usize,
    step: usize,
}

impl Op for CopyShare {
    fn name(&self) -> &'static str {
        "copy share"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().0])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let params = ShareParams {
            rows: rows as u32,
            columns: (inputs[0].len() / rows) as u32,
            heads: self.heads as u32,
            first: self.first as u32,
            step: self.step as u32,
            z_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&COPY_SHARE, &[subgroups], &params, &[&inputs[0], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[rows], |row| {
            let z = &inputs[0].data[row * columns..][..columns];
            let mean = z.iter().sum::<f64>() / columns as f64;
            let raised: f64 = z.iter().map(|z| (z - mean).max(0.0)).sum();
            let own = z[self.first + row / self.heads * self.step] - mean;
            if raised <= ROUNDING.sqrt() * columns as f64 * mean.abs() { 0.0 } else { own / raised }
        })]
    }
}

/// y [H, K, K] = xᵀ x of each head of x [H, D, K], or x xᵀ of x [H, K, D].
#[derive(Clone, Copy)]
struct HeadGram {
    /// x is [H, K, D].
    rows: bool,
    /// y is [K, H, K].
    by_row: bool,
}

impl HeadGram {
    /// H, K and D.
    fn sizes(&self, dims: &[usize]) -> Result<[usize; 3]> {
        match *dims {
            [h, k, d] if self.rows => Ok([h, k, d]),
            [h, d, k] => Ok([h, k, d]),
            _ => Err(misfit("head gram", format!("{dims:?}"))),
        }
    }
}

impl Op for HeadGram {
    fn name(&self) -> &'static str {
        "head gram"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [h, k, _] = self.sizes(&inputs[0].dims)?;
        Ok(vec![inputs[0].with_dims(&if self.by_row { [k, h, k] } else { [h, k, k] })])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [h, k, d] = self.sizes(&inputs[0].dims)?;
        let (x_width, x_depth) = if self.rows { (d, 1) } else { (1, k) };
        let (y_head, y_row) = if self.by_row { (k, h * k) } else { (k * k, k) };
        let params = GramParams {
            heads: h as u32,
            width: k as u32,
            depth: d as u32,
            x_width: x_width as u32,
            x_depth: x_depth as u32,
            y_head: y_head as u32,
            y_row: y_row as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&HEAD_GRAM, &[], &params, &[&inputs[0], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok([h, k, d]) = self.sizes(&inputs[0].dims) else { return Vec::new() };
        let x = |head: usize, i: usize, at: usize| {
            inputs[0].data[head * k * d + if self.rows { i * d + at } else { at * k + i }]
        };
        let dims = if self.by_row { [k, h, k] } else { [h, k, k] };
        vec![Array::from_fn(&dims, |at| {
            let (outer, inner, j) = (at / (dims[1] * k), at / k % dims[1], at % k);
            let (head, i) = if self.by_row { (inner, outer) } else { (outer, inner) };
            (0..d).map(|d| x(head, i, d) * x(head, j, d)).sum()
        })]
    }
}

/// y [H, H] = ‖W_h W_g‖ / (‖W_h‖ ‖W_g‖) - baseline for reader g and writer h; [`UNKNOWN`] where one of them is nothing. Inputs, see [`compose`]: m [H K, H K],
/// q [K H, H, K] whose product with it is summed, v [K, H, K] and o [H, K, K] of the writer, and two of the reader.
struct Composition {
    heads: usize,
    width: usize,
    baseline: f32,
}

impl Op for Composition {
    fn name(&self) -> &'static str {
        "composition"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (h, k) = (self.heads, self.width);
        let sizes = [h * k * h * k, h * k * h * k, h * k * k, h * k * k, h * k * k, h * k * k];
        if inputs.iter().zip(sizes).any(|(s, size)| s.len() != size) {
            return Err(misfit("composition", "heads of different size"));
        }
        Ok(vec![like(inputs, &[h, h])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [m, q, v, o, a, b] = inputs else { return Err(misfit("composition", "inputs")) };
        let params = CompositionParams {
            heads: self.heads as u32,
            width: self.width as u32,
            baseline: self.baseline,
            m_replica: m.replica_stride,
            q_replica: q.replica_stride,
            v_replica: v.replica_stride,
            o_replica: o.replica_stride,
            a_replica: a.replica_stride,
            b_replica: b.replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&COMPOSITION, &[], &params, &tensors, [self.heads as u32, self.heads as u32, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (heads, k) = (self.heads, self.width);
        let root = |x: f64| x.max(0.0).sqrt();
        let sum = |f: &dyn Fn(usize, usize) -> f64| (0..k * k).map(|at| f(at / k, at % k)).sum::<f64>();
        vec![Array::from_fn(&[heads, heads], |at| {
            let (g, h) = (at / heads, at % heads);
            let product = |i: usize, j: usize| {
                inputs[0].data[((h * k + i) * heads + g) * k + j]
                    * inputs[1].data[((i * heads + h) * heads + g) * k + j]
            };
            let writer =
                |i: usize, j: usize| inputs[2].data[(i * heads + h) * k + j] * inputs[3].data[(h * k + i) * k + j];
            let reader = |i: usize, j: usize| inputs[4].data[(g * k + i) * k + j] * inputs[5].data[(g * k + i) * k + j];
            let size = root(sum(&writer)) * root(sum(&reader));
            if size < NOTHING { f64::from(UNKNOWN) } else { root(sum(&product)) / size - f64::from(self.baseline) }
        })]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("copy share", |c| {
        let z = c.owned(&[93, 40]);
        Ok((vec![c.tape.push1(CopyShare { heads: 3, first: 2, step: 1 }, &[z])?], Vec::new()))
    }),
    ("composition", |c| {
        let mut heads = || -> Result<Heads> {
            let [w_q, w_k, w_v] = [(); 3].map(|()| c.owned(&[3, 33, 5]));
            let w_o = c.owned(&[3, 5, 33]);
            Heads::of(&mut c.tape, w_q, w_k, w_v, w_o)
        };
        let (writer, reader) = (heads()?, heads()?);
        Ok((compose(&mut c.tape, &writer, &reader)?.to_vec(), Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::model::ModelConfig;

    fn model(case: &mut Case, config: ModelConfig) -> Model {
        Model::new(&config.resolve().unwrap(), &mut case.tape)
    }

    /// Gives every weight normal values, as large as keeps the stream's size.
    fn fill(case: &mut Case, model: &Model) {
        for weight in &model.weights {
            case.fill(*weight, 1.0 / (model.config.d_model as f32).sqrt());
        }
    }

    /// Gives every weight ones at `ones(name)`, (head, row, column, value), and zeros elsewhere.
    fn plant(case: &mut Case, model: &Model, ones: impl Fn(&str) -> Vec<(usize, usize, usize, f32)>) {
        for (spec, var) in model.table.specs().iter().zip(&model.weights) {
            let [.., rows, columns] = spec.dims[..] else { continue };
            let mut values = vec![0.0; spec.len()];
            for (head, row, column, value) in ones(&spec.name) {
                values[(head * rows + row) * columns + column] = value;
            }
            case.set(*var, values);
        }
    }

    #[test]
    fn copying_matches_its_reference_in_any_pieces() {
        for (d_vocab, n_heads, groups, tied) in
            [(3, 1, 1, false), (31, 2, 1, true), (64, 4, 2, false), (257, 3, 3, true)]
        {
            let mut case = Case::new(&format!("copying {d_vocab} {n_heads} {groups} {tied}"));
            let config = ModelConfig {
                d_model: 12,
                d_head: 5,
                n_heads,
                n_key_value_heads: groups,
                tied_embeddings: tied,
                attn_only: true,
                d_vocab,
                n_ctx: 4,
                ..ModelConfig::default()
            };
            let model = model(&mut case, config);
            fill(&mut case, &model);
            let whole = copying(&mut case.tape, &model, 0, 1024, 1 << 20).unwrap();
            let pieces = copying(&mut case.tape, &model, 0, 1024, 20 * n_heads * d_vocab).unwrap();
            let some = copying(&mut case.tape, &model, 0, 10, 1 << 20).unwrap();
            // Shares of either sign, some 1/V large, cancel over the tokens to a score of V^-1.5.
            case.agree(&[whole, pieces, some], 1e-4);
            for gpu in gpus() {
                let found =
                    case.run(gpu, &[whole, pieces]).unwrap().into_iter().map(|x| x.concat()).collect::<Vec<_>>();
                for (a, b) in found[0].iter().zip(&found[1]) {
                    assert!((a - b).abs() < 1e-6, "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn a_head_that_copies_scores_one_and_one_that_lowers_minus_one() {
        const V: usize = 9;
        let mut case = Case::new("copying heads");
        let config = ModelConfig {
            d_model: V,
            d_head: V,
            n_heads: 4,
            attn_only: true,
            attn_biases: false,
            unembed_bias: false,
            d_vocab: V,
            n_ctx: 4,
            positional_embedding_type: crate::model::PositionalEmbedding::None,
            ..ModelConfig::default()
        };
        let model = model(&mut case, config);
        // Heads 0 to 3 copy, lower, write the next token, and write nothing.
        plant(&mut case, &model, |name| {
            let each = |head: usize, shift: usize, value: f32| (0..V).map(move |t| (head, t, (t + shift) % V, value));
            match name {
                "blocks.0.attn.W_O" => each(0, 0, 1.0).chain(each(1, 0, -1.0)).chain(each(2, 1, 1.0)).collect(),
                "blocks.0.attn.W_V" => (0..4).flat_map(|head| each(head, 0, 1.0)).collect(),
                _ => each(0, 0, 1.0).collect(),
            }
        });
        let scores = copying(&mut case.tape, &model, 0, 1024, 1 << 20).unwrap();
        for gpu in gpus() {
            let found = case.run(gpu, &[scores]).unwrap().remove(0).remove(0);
            for (found, expected) in found.iter().zip([1.0, -1.0, -1.0 / (V as f32 - 1.0), 0.0]) {
                assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
            }
        }
    }

    fn two_layers(d_model: usize, d_head: usize, n_heads: usize, groups: usize) -> ModelConfig {
        ModelConfig {
            n_layers: 2,
            d_model,
            d_head,
            n_heads,
            n_key_value_heads: groups,
            attn_only: true,
            attn_biases: false,
            d_vocab: 5,
            n_ctx: 4,
            ..ModelConfig::default()
        }
    }

    fn compositions(case: &mut Case, model: &Model) -> [Var; 3] {
        let [writer, reader] = [0, 1].map(|layer| Heads::new(&mut case.tape, model, layer).unwrap());
        compose(&mut case.tape, &writer, &reader).unwrap()
    }

    #[test]
    fn compositions_match_products_of_whole_circuits() {
        for (d, k, h, g) in [(3, 1, 1, 1), (31, 3, 2, 1), (64, 16, 4, 2), (20, 31, 3, 3)] {
            let mut case = Case::new(&format!("composition d{d} k{k} h{h} g{g}"));
            let model = model(&mut case, two_layers(d, k, h, g));
            fill(&mut case, &model);
            let scores = compositions(&mut case, &model);
            // The baseline is subtracted from numbers of its size.
            case.agree(&scores, 1e-4);

            // In f64, with the circuits themselves, [D, D].
            let found = case.reference(0, &[&scores[..], &model.weights].concat()).unwrap();
            let weight = |layer: usize, which: &str, head: usize| {
                let at = model.table.attention(layer, which).unwrap();
                let array = &found[3 + at];
                array.data[head * array.dims[0] / h * d * k..][..d * k].to_vec()
            };
            let product = |a: &[f64], b: &[f64], n: usize| -> Vec<f64> {
                let (rows, columns) = (a.len() / n, b.len() / n);
                (0..rows * columns)
                    .map(|at| (0..n).map(|i| a[at / columns * n + i] * b[i * columns + at % columns]).sum())
                    .collect()
            };
            let turned = |a: &[f64]| -> Vec<f64> { (0..d * k).map(|at| a[at % d * k + at / d]).collect() };
            let norm = crate::autograd::length;
            for (reader, writer) in (0..h).flat_map(|a| (0..h).map(move |b| (a, b))) {
                let [q, key, v, o] = ["Q", "K", "V", "O"].map(|which| weight(1, which, reader));
                let from = product(&weight(0, "V", writer), &weight(0, "O", writer), k);
                let to = [product(&q, &turned(&key), k), product(&key, &turned(&q), k), product(&v, &o, k)];
                for (to, scores) in to.iter().zip(&found) {
                    let expected = norm(&product(&from, to, d)) / (norm(&from) * norm(to)) - 1.0 / (d as f64).sqrt();
                    // The baseline is an f32.
                    assert!((scores.data[reader * h + writer] - expected).abs() < 1e-7, "{expected}");
                }
            }
        }
    }

    #[test]
    fn random_heads_compose_by_chance() {
        let mut case = Case::new("random composition");
        let model = model(&mut case, two_layers(64, 16, 4, 4));
        fill(&mut case, &model);
        let scores = compositions(&mut case, &model);
        for gpu in gpus() {
            for found in case.run(gpu, &scores).unwrap() {
                let all = found.concat();
                let mean = all.iter().sum::<f32>() / all.len() as f32;
                // A ratio near 0.125 that varies by 7 % between pairs: five of its standard deviations, and three of
                // the mean's over 32 pairs.
                assert!(all.iter().all(|x| x.abs() < 0.045) && mean.abs() < 0.0047, "{mean}: {all:?}");
            }
        }
    }

    #[test]
    fn heads_that_read_what_another_writes_stand_out() {
        // Writer 0 moves the first 4 of 32 dimensions to the next 4; writer 1 to the last 4. Readers take queries, keys
        // and values from the former.
        let mut case = Case::new("planted composition");
        let model = model(&mut case, two_layers(32, 4, 2, 2));
        plant(&mut case, &model, |name| {
            let each = |at: [usize; 2], turned: bool| {
                let pairs = move |head: usize| (0..4).map(move |i| (head, at[head] + i, i, 1.0));
                let all: Vec<(usize, usize, usize, f32)> = (0..2).flat_map(pairs).collect();
                all.into_iter().map(|(h, a, b, x)| if turned { (h, b, a, x) } else { (h, a, b, x) }).collect()
            };
            match name {
                "blocks.0.attn.W_O" => each([4, 28], true),
                "blocks.1.attn.W_O" => each([0, 0], true),
                "blocks.1.attn.W_Q" | "blocks.1.attn.W_K" | "blocks.1.attn.W_V" => each([4, 4], false),
                _ if name.contains("attn") => each([0, 0], false),
                _ => Vec::new(),
            }
        });
        let scores = compositions(&mut case, &model);
        let baseline = 1.0 / 32f32.sqrt();
        for gpu in gpus() {
            for found in case.run(gpu, &scores).unwrap() {
                for (at, value) in found[0].iter().enumerate() {
                    // Circuits with four singular values 1: norms 2, and 2 for their product.
                    let expected = if at % 2 == 0 { 0.5 } else { 0.0 };
                    assert!((value + baseline - expected).abs() < 1e-6, "{at}: {value}");
                }
            }
        }
    }
}
