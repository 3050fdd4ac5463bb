//! Gradient noise: how much the gradients of single examples differ, tensor by tensor and head by head,
//! without ever forming them: ‖Aᵀ G‖² = Σ_{t,u} (a_t · a_u)(g_t · g_u) over the positions of an example, with
//! rows a that enter a weight and gradients g of what leaves it.

use std::collections::BTreeMap;

use super::norms::layer_of;
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{Gram, IGNORE, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor};
use crate::instrument::grokking::fourier_ops::RowSquares;
use crate::instrument::{Attach, Card, Chance, CostClass, Instrument, Label, Presence, ROUNDING, UNKNOWN};
use crate::model::{Model, Rows};
use crate::task::Pass;

/// `example_gradient_norm`, `noise.trace`, `noise.signal`, `gradient_dispersion`, `gradient_snr`.
pub(crate) struct Noise;

const AXES: &str =
    "site: tensor; layer, and for W_Q, W_K, W_V, W_O and their biases in Q, K, V the head; heads add up to the tensor";
const LEFT_OUT: &str = "tensors without rows: weights of norms; tied embeddings; embeddings where equal rows of the batch are computed once (modular arithmetic); W_Q and W_K behind rotary positions where rows are picked from those";

const CARDS: &[Card] = &[
    Card {
        name: "example_gradient_norm",
        formula: "√ mean over examples of ‖g_i‖², g_i the gradient of the batch's loss if all of it were example i: mean of g_i = ∂L/∂w",
        unit: "nats",
        axes: AXES,
        cost: CostClass::L,
        every: 100,
        control: "grad_norm, which is smaller by what examples disagree about",
        source: "Gram identity (Goodfellow 2015); squares of these heads add up to the tensor's",
        not_for: LEFT_OUT,
        bounds: Card::SIZE,
        gradients: true,
        ..Card::BASE
    },
    Card {
        name: "noise.trace",
        formula: "tr Σ estimated without bias: (mean ‖g_i‖² - ‖ḡ‖²) B/(B - 1); for drawn batches",
        unit: "nats²",
        axes: AXES,
        cost: CostClass::L,
        every: 100,
        control: "the noise scale is average of trace / average of signal over steps, never an average of ratios",
        source: "McCandlish et al. 2018, with small batches of 1 and the batch as the large one",
        not_for: LEFT_OUT,
        bounds: Card::SIZE,
        gradients: true,
        ..Card::BASE
    },
    Card {
        name: "noise.signal",
        formula: "‖E g‖² estimated without bias: ‖ḡ‖² - trace/B; for drawn batches",
        unit: "nats²",
        axes: AXES,
        cost: CostClass::L,
        every: 100,
        control: "0 on average for pure noise, and so below 0 about half the time",
        source: "McCandlish et al. 2018",
        not_for: "a single step: only averages over steps mean something, and their ratio with noise.trace",
        chance: Some(Chance::At(0.0)),
        gradients: true,
        ..Card::BASE
    },
    Card {
        name: "gradient_dispersion",
        formula: "mean ‖g_i - ḡ‖², where the batch is all there is",
        unit: "nats²",
        axes: AXES,
        cost: CostClass::L,
        every: 100,
        control: "grad_norm²: what examples agree about",
        source: "definition",
        not_for: "noise: a full batch draws nothing",
        bounds: Card::SIZE,
        gradients: true,
        ..Card::BASE
    },
    Card {
        name: "gradient_snr",
        formula: "‖ḡ‖² / noise.trace, or ‖ḡ‖² / gradient_dispersion for a full batch",
        unit: "1",
        axes: AXES,
        cost: CostClass::L,
        every: 100,
        control: "1/B: what independent noise around 0 gives",
        source: "definition",
        not_for: "averaging over steps, or a noise scale: a ratio of two noisy numbers is biased; b_K without rotary positions, whose gradient is 0 but for rounding; where examples agree to 2^-18 there is no row",
        bounds: Card::SIZE,
        gradients: true,
        ..Card::BASE
    },
];

impl Instrument for Noise {
    fn name(&self) -> &'static str {
        "noise"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let (train, model) = (cx.train, cx.model);
        let sampled = cx.drawn;
        let measured = cx.tape.at_cadence(every, |tape| measure(tape, model, train, sampled))?;
        let spread: &[&str] = if sampled { &["noise.trace", "noise.signal"] } else { &["gradient_dispersion"] };
        for (tensor, per_head, values) in measured {
            let (heads, layer) = (cx.tape.shape(values).dims[1], layer_of(&tensor));
            let head = |head: usize| if per_head { head as i32 } else { -1 };
            let labels: Vec<Label> = (0..heads).map(|h| Label { layer, head: head(h), index: -1 }).collect();
            let mut record = |name: &str, row: usize| {
                cx.record(self, name, &tensor, values, row * heads, labels.clone());
            };
            record("example_gradient_norm", 0);
            for (name, row) in spread.iter().zip(1..) {
                record(name, row);
            }
            cx.record_where(Presence::WhereKnown, self, "gradient_snr", &tensor, values, 3 * heads, labels);
        }
        Ok(())
    }
}

/// What stands beside the gradients at a weight's output, example by example.
#[derive(Clone, Copy)]
pub(super) enum Beside {
    /// Rows that enter the weight, [B, T, D].
    Rows(Var),
    /// The rows of a table that were taken, [B, T]: those of equal ones add up.
    Picked(Var),
    /// Nothing: a bias.
    Nothing,
}

/// A weight's gradient as a sum over positions.
pub(super) struct Site {
    pub(super) tensor: String,
    /// Gradients at its output, or for W_O the rows that enter it: what has heads.
    pub(super) of: Var,
    heads: Option<usize>,
    pub(super) beside: Beside,
}

/// For each tensor that has rows, its name, whether it is told by head, and [4, H]: see [`GradientNoise`].
fn measure(tape: &mut Tape, model: &Model, pass: &Pass, sampled: bool) -> Result<Vec<(String, bool, Var)>> {
    let (batch, targets) = (pass.batch.size, pass.batch.targets);
    let mut grams: BTreeMap<(Var, usize), Var> = BTreeMap::new();
    let mut gram = |tape: &mut Tape, x: Var, heads: usize, columns: usize| -> Result<Var> {
        if let Some(gram) = grams.get(&(x, heads)) {
            return Ok(*gram);
        }
        let gram = tape.push1(Gram { batch, heads, columns }, &[x])?;
        grams.insert((x, heads), gram);
        Ok(gram)
    };
    // Columns of a value [B, T, ...].
    let columns = |tape: &Tape, x: Var| tape.shape(x).dims[2..].iter().product::<usize>();
    let mut measured = Vec::new();
    for site in sites(tape, model, pass) {
        let Some(gradient) = pass.gradients.get(&site.tensor) else { continue };
        let heads = site.heads.unwrap_or(1);
        let width = columns(tape, site.of);
        let mut inputs = vec![gram(tape, site.of, heads, width)?];
        let weight = match site.beside {
            Beside::Nothing => 0,
            Beside::Picked(rows) => {
                inputs.push(rows);
                1
            }
            Beside::Rows(x) => {
                let width = columns(tape, x);
                inputs.push(gram(tape, x, 1, width)?);
                2
            }
        };
        let products = tape.push1(GramSum { weight }, &inputs)?;
        let rows = tape.shape(*gradient).rows();
        let gradient = tape.reshape(*gradient, &[rows.0, rows.1])?;
        let squares = tape.push1(RowSquares, &[gradient])?;
        let noise = tape.push1(GradientNoise { batch, sampled }, &[products, squares, targets])?;
        measured.push((site.tensor, site.heads.is_some(), noise));
    }
    Ok(measured)
}

/// The weights whose gradients are sums over positions of what was kept of them.
pub(super) fn sites(tape: &mut Tape, model: &Model, pass: &Pass) -> Vec<Site> {
    let config = &model.config;
    let (h, g) = (config.n_heads, config.n_key_value_heads);
    let mark = if g < h { "_" } else { "" };
    let value = |name: &str| pass.forward.hook(name).ok();
    let mut sites = Vec::new();
    let mut add = |tensor: String, of: Option<Var>, heads: Option<usize>, beside: Option<Beside>| {
        if let (Some(of), Some(beside), Some(_)) = (of, beside, model.weight(&tensor)) {
            sites.push(Site { tensor, of, heads, beside });
        }
    };
    let gradient = |name: &str| pass.gradients.get(name).copied();
    for layer in 0..config.n_layers {
        let block = |name: &str| format!("blocks.{layer}.{name}");
        let rows = |norm: &str, plain: &str| {
            value(&block(&format!("{norm}.hook_normalized"))).or_else(|| value(&block(plain))).map(Beside::Rows)
        };
        let entering = rows("ln1", "hook_resid_pre");
        for (which, heads, mark) in [("Q", h, ""), ("K", g, mark), ("V", g, mark)] {
            let out = gradient(&block(&format!("attn.hook_{}", which.to_lowercase())));
            add(block(&format!("attn.{mark}W_{which}")), out, Some(heads), entering);
            add(block(&format!("attn.{mark}b_{which}")), out, Some(heads), Some(Beside::Nothing));
        }
        let mid = gradient(&block("hook_resid_mid"));
        add(block("attn.W_O"), value(&block("attn.hook_z")), Some(h), mid.map(Beside::Rows));
        add(block("attn.b_O"), mid, None, Some(Beside::Nothing));

        let entering = rows("ln2", if config.parallel_attn_mlp { "hook_resid_pre" } else { "hook_resid_mid" });
        let (pre, post) = (gradient(&block("mlp.hook_pre")), gradient(&block("mlp.hook_post")));
        let up = if config.gated_mlp { gradient(&block("mlp.hook_pre_linear")) } else { pre };
        // One bias of a gated MLP stands behind the gate, two stand before it.
        let b_in = if config.gated_mlp && !config.gate_biases { post } else { up };
        add(block("mlp.W_gate"), pre, None, entering);
        add(block("mlp.b_gate"), pre, None, Some(Beside::Nothing));
        add(block("mlp.W_in"), up, None, entering);
        add(block("mlp.b_in"), b_in, None, Some(Beside::Nothing));
        let out = gradient(&block("hook_resid_post"));
        add(block("mlp.W_out"), out, None, value(&block("mlp.hook_post")).map(Beside::Rows));
        add(block("mlp.b_out"), out, None, Some(Beside::Nothing));
    }
    let last = format!("blocks.{}.hook_resid_post", config.n_layers - 1);
    let entering = value("ln_final.hook_normalized").or_else(|| value(&last)).map(Beside::Rows);
    let logits = gradient("logits").and_then(|logits| {
        let classes = tape.shape(logits).rows().1;
        let queries = tape.shape(logits).len() / (pass.batch.size * classes);
        tape.reshape(logits, &[pass.batch.size, queries, classes]).ok()
    });
    add("unembed.W_U".to_owned(), logits, None, entering);
    add("unembed.b_U".to_owned(), logits, None, Some(Beside::Nothing));
    if let Rows::Each { tokens } = pass.batch.rows {
        let embedded = gradient("blocks.0.hook_resid_pre");
        let positions: Vec<u32> = (0..pass.batch.seq as u32).collect::<Vec<_>>().repeat(pass.batch.size);
        let positions = tape.constant_u32(&[positions.len()], &positions);
        if !config.tied_embeddings {
            add("embed.W_E".to_owned(), embedded, None, Some(Beside::Picked(tokens)));
        }
        add("pos_embed.W_pos".to_owned(), embedded, None, Some(Beside::Picked(positions)));
    }
    sites
}

crate::params! {
    struct GramSumParams {
        batch: u32, heads: u32, seq: u32, beside_seq: u32, chunk: u32, s_replica: u32, beside_replica: u32, out_replica: u32,
    }
}
static GRAM_SUM: Shader<'_> = Shader {
    name: "instrument/optimization/gram_sum",
    source: include_str!("../../../shaders/instrument/optimization/gram_sum.wgsl"),
    knobs: &[Knob { name: "WEIGHT", values: &[0, 1, 2] }],
    params: GramSumParams::FIELDS,
};
crate::params! {
    struct NoiseParams {
        heads: u32, squares: u32, examples: u32, queries: u32, products_replica: u32, squares_replica: u32,
        targets_replica: u32, out_replica: u32,
    }
}
static GRADIENT_NOISE: Shader<'_> = Shader {
    name: "instrument/optimization/gradient_noise",
    source: include_str!("../../../shaders/instrument/optimization/gradient_noise.wgsl"),
    knobs: &[Knob { name: "SAMPLED", values: &[0, 1] }],
    params: NoiseParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&GRAM_SUM, &GRADIENT_NOISE];

/// Entries one workgroup of `gram_sum` adds up.
const CHUNK: usize = 2048;

/// y `[H]` = Σ_{b,t,u} S[b, h, t, u] w[b, t, u]. Inputs: S [B, H, T, T], and by `weight` 0: nothing, w = 1; 1:
/// picked rows [B, Tw], w = 1 where they are equal; 2: w [B, 1, Tw, Tw]. Of Tw positions the last T are meant.
struct GramSum {
    weight: u32,
}

impl GramSum {
    fn beside_seq(&self, s: &[usize], beside: Option<(&[usize], usize)>) -> usize {
        match (self.weight, beside) {
            (1, Some((_, len))) => len / s[0],
            (2, Some((dims, _))) => dims[3],
            _ => s[3],
        }
    }
}

impl Op for GramSum {
    fn name(&self) -> &'static str {
        "gram sum"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [_, heads, seq, _] = inputs[0].dims[..] else { return Err(misfit("gram sum", "no gram")) };
        let beside = inputs.get(1).map(|s| (s.dims.as_slice(), s.len()));
        if self.beside_seq(&inputs[0].dims, beside) < seq {
            return Err(misfit("gram sum", "fewer positions beside than in the gram"));
        }
        Ok(vec![like(inputs, &[heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (s, beside, heads) = (&inputs[0], inputs.get(1), outputs[0].len());
        let chunks = (s.len() / heads).div_ceil(CHUNK);
        let partial = cx.scratch(&[chunks, heads]);
        let params = GramSumParams {
            batch: s.dims[0] as u32,
            heads: heads as u32,
            seq: s.dims[3] as u32,
            beside_seq: self.beside_seq(&s.dims, beside.map(|t| (t.dims.as_slice(), t.len()))) as u32,
            chunk: CHUNK as u32,
            s_replica: s.replica_stride,
            beside_replica: beside.map_or(0, |t| t.replica_stride),
            out_replica: partial.replica_stride,
        };
        let tensors: Vec<&Tensor> = [s, &partial].into_iter().chain(beside).collect();
        let grid = [heads as u32, chunks as u32, cx.replicas];
        cx.dispatch(&GRAM_SUM, &[self.weight], &params, &tensors, grid)?;
        sum_columns(cx, &partial, chunks, heads, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [_, heads, seq, _] = inputs[0].dims[..] else { return Vec::new() };
        let beside = inputs.get(1);
        let long = self.beside_seq(&inputs[0].dims, beside.map(|a| (a.dims.as_slice(), a.data.len())));
        let weight = |b: usize, t: usize, u: usize| match (self.weight, beside) {
            (1, Some(rows)) => f64::from(u8::from(rows.data[b * long + t] == rows.data[b * long + u])),
            (2, Some(other)) => other.data[(b * long + t) * long + u],
            _ => 1.0,
        };
        let mut out = Array::zeros(&[heads]);
        for (at, s) in inputs[0].data.iter().enumerate() {
            let (u, t, h, b) = (at % seq, at / seq % seq, at / (seq * seq) % heads, at / (seq * seq * heads));
            out.data[h] += s * weight(b, long - seq + t, long - seq + u);
        }
        vec![out]
    }
}

/// y [4, H]: root mean square of the norms of the examples' gradients; their spread; the square of the mean
/// less spread / E; the square of the mean by the spread. Inputs: for each head the sum of the squared
/// norms of the examples' parts of the gradient `[H]`, squares of the gradient's rows, targets.
struct GradientNoise {
    batch: usize,
    /// The spread is tr Σ without bias; else the mean square around the mean.
    sampled: bool,
}

impl Op for GradientNoise {
    fn name(&self) -> &'static str {
        "gradient noise"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let heads = inputs[0].len();
        if !inputs[1].len().is_multiple_of(heads) || !inputs[2].len().is_multiple_of(self.batch) {
            return Err(misfit("gradient noise", "heads or examples do not fit"));
        }
        Ok(vec![like(inputs, &[4, heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let heads = inputs[0].len() as u32;
        let params = NoiseParams {
            heads,
            squares: inputs[1].len() as u32,
            examples: self.batch as u32,
            queries: (inputs[2].len() / self.batch) as u32,
            products_replica: inputs[0].replica_stride,
            squares_replica: inputs[1].replica_stride,
            targets_replica: inputs[2].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&GRADIENT_NOISE, &[u32::from(self.sampled)], &params, &tensors, [heads, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let heads = inputs[0].data.len();
        let queries = inputs[2].data.len() / self.batch;
        let counts = |targets: &&[f64]| targets.iter().any(|t| *t != f64::from(IGNORE));
        let examples = inputs[2].data.chunks_exact(queries).filter(counts).count() as f64;
        let mut out = Array::zeros(&[4, heads]);
        for (h, squares) in inputs[1].data.chunks_exact(inputs[1].data.len() / heads).enumerate() {
            let (each, whole) = (examples * inputs[0].data[h], squares.iter().sum::<f64>());
            let unbiased = if self.sampled { examples / (examples - 1.0).max(1.0) } else { 1.0 };
            let spread = (each - whole) * unbiased;
            let snr = match spread.abs() <= ROUNDING.sqrt() * each {
                _ if each == 0.0 => 0.0,
                true => f64::from(UNKNOWN),
                false => whole / spread,
            };
            for (row, value) in
                [each.max(0.0).sqrt(), spread, whole - spread / examples.max(1.0), snr].into_iter().enumerate()
            {
                out.data[row * heads + h] = value;
            }
        }
        vec![out]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[("gradient noise", |c| {
    let (a, g) = (c.owned(&[40, 5, 7]), c.owned(&[40, 3, 4, 8]));
    let (tokens, targets) = (c.indices(&[40 * 5], 3, true), c.indices(&[40 * 3], 7, true));
    let rows = c.tape.push1(Gram { batch: 40, heads: 1, columns: 7 }, &[a])?;
    let parts = c.tape.push1(Gram { batch: 40, heads: 4, columns: 32 }, &[g])?;
    let sums = [(0, None), (1, Some(tokens)), (2, Some(rows))].map(|(weight, beside)| {
        c.tape.push1(GramSum { weight }, &[Some(parts), beside].into_iter().flatten().collect::<Vec<_>>())
    });
    let sums = sums.into_iter().collect::<Result<Vec<_>>>()?;
    let squares = c.owned(&[4 * 3, 5]);
    let squares = c.tape.push1(RowSquares, &[squares])?;
    let noise = c.tape.push1(GradientNoise { batch: 40, sampled: true }, &[sums[2], squares, targets])?;
    Ok((sums.into_iter().chain([noise]).collect(), Vec::new()))
})];

#[cfg(test)]
mod tests;
