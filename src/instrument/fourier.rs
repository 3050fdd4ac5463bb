//! Fourier instruments for tasks with a cyclic group: which frequencies the weights hold, which the
//! logits use, and how much loss depends on them. Definitions: Nanda et al. 2023.

use super::{Attach, Card, CostClass, Instrument, Label, Pass};
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{
    Add, ColumnSum, CrossEntropy, GatherRows, IGNORE, Linear, MeanRows, Scale, TransposedProduct, scatter_rows,
    sum_columns,
};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use crate::task::{Cyclic, Examples, Feed};

/// `fourier_norm`, `gini`, `key_frequencies`.
pub(super) struct Spectrum;

/// `loss.restricted`, `loss.excluded`, `key_frequencies.logits`.
pub(super) struct FourierLosses;

const SPECTRUM_CARDS: &[Card] = &[
    Card {
        name: "fourier_norm",
        formula: "√(‖cos_k W‖² + ‖sin_k W‖²), cos_k and sin_k of unit length along the group",
        unit: "1",
        axes: "site: embed.W_E, or W_L = W_out W_U of the last layer (W_U itself without MLP); index: frequency k",
        cost: CostClass::F,
        every: 1,
        control: "a flat spectrum: what initial weights have",
        source: "Nanda et al. 2023, section 4",
        not_for: "whether the model uses the frequency: embeddings may hold what the logits ignore",
    },
    Card {
        name: "gini",
        formula: "Gini coefficient of the norms of all components, the constant included",
        unit: "1",
        axes: "site: embed.W_E or W_L",
        cost: CostClass::F,
        every: 1,
        control: "about 0.05 for initial weights; 0.18 for a net that generalizes without sparsity (no decay, 90 % of the data)",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "generalization: perfect nets without a sparse circuit exist",
    },
    Card {
        name: "key_frequencies",
        formula: "1 for each k whose norm in W_E exceeds a quarter of the largest",
        unit: "1",
        axes: "site: embed.W_E; index: frequency k, which has a row only where it is key",
        cost: CostClass::F,
        every: 1,
        control: "key_frequencies.logits: on the same weights one rule may give 10 keys and the other 5",
        source: "the rule of TransformerLens's grokking demo",
        not_for: "counting circuits without saying which rule was used",
    },
];

const LOSS_CARDS: &[Card] = &[
    Card {
        name: "loss.restricted",
        formula: "cross-entropy over all pairs of logits projected onto cos and sin of the key frequencies of the answer, per-class mean kept",
        unit: "nats",
        axes: "index: 0 keys by the logit rule, n > 0 the n strongest frequencies",
        cost: CostClass::M,
        every: 100,
        control: "loss of all data; index n shows where the knee is, without choosing keys by hand",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "tasks without a cyclic group",
    },
    Card {
        name: "loss.excluded",
        formula: "cross-entropy over the training pairs of logits without those projections",
        unit: "nats",
        axes: "index: 0 keys by the logit rule, n > 0 the n strongest frequencies",
        cost: CostClass::M,
        every: 100,
        control: "train loss: what excluding nothing gives",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "tasks without a cyclic group",
    },
    Card {
        name: "key_frequencies.logits",
        formula: "1 for each k with more than 1 % of the class-centred power of the logits over all pairs",
        unit: "1",
        axes: "site: logits; index: frequency k, which has a row only where it is key",
        cost: CostClass::M,
        every: 100,
        control: "key_frequencies: on the same weights one rule may give 10 keys and the other 5",
        source: "Nanda et al. 2023, released weights",
        not_for: "counting circuits without saying which rule was used",
    },
];

/// Strongest frequencies for which restricted and excluded loss are given one by one.
const RANKS: usize = 8;

impl Instrument for Spectrum {
    fn name(&self) -> &'static str {
        "fourier"
    }

    fn cards(&self) -> &'static [Card] {
        SPECTRUM_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(group), Some(every)) = (cx.task.cyclic(), cx.cadence(self)) else { return Ok(()) };
        let model = cx.model;
        let w_e = model.need("embed.W_E")?;
        let energies = cx.tape.at_cadence(every, |tape| {
            let basis = basis(tape, &group, &group.tokens, model.config.d_vocab);
            let components = tape.push1(Linear::default(), &[basis, w_e])?;
            tape.push1(RowSquares::default(), &[components])
        })?;
        self.record_site(cx, every, "embed.W_E", true, energies)?;

        let last = model.config.n_layers - 1;
        let w_out = model.weight(&format!("blocks.{last}.mlp.W_out"));
        let energies = cx.tape.at_cadence(every, |tape| {
            let basis = basis(tape, &group, &group.classes, model.config.d_vocab_out);
            // Components of W_U along the classes, [n, D].
            let components = match model.weight("unembed.W_U") {
                Some(w_u) => tape.push1(Linear { transposed: true, ..Linear::default() }, &[basis, w_u])?,
                None => tape.push1(Linear::default(), &[basis, w_e])?,
            };
            match w_out {
                Some(w_out) => {
                    let along = tape.push1(Linear { transposed: true, ..Linear::default() }, &[w_out, components])?;
                    tape.push1(ColumnSquares, &[along])
                }
                None => tape.push1(RowSquares::default(), &[components]),
            }
        })?;
        self.record_site(cx, every, "W_L", false, energies)
    }
}

impl Spectrum {
    /// Norms and Gini of one weight's components, and its keys.
    fn record_site(&self, cx: &mut Attach<'_>, every: u64, site: &str, keys: bool, energies: Var) -> Result<()> {
        let out = cx.tape.at_cadence(every, |tape| tape.push(SpectrumSummary, &[energies]))?;
        let count = cx.tape.shape(out[0]).len() as i32;
        cx.record(self, "fourier_norm", site, out[0], 0, Label::indices(1..count + 1));
        cx.record(self, "gini", site, out[1], 0, vec![Label::NONE]);
        if keys {
            cx.record_sparse(self, "key_frequencies", site, out[2], Label::indices(1..count + 1));
        }
        Ok(())
    }
}

impl Instrument for FourierLosses {
    fn name(&self) -> &'static str {
        "fourier_losses"
    }

    fn cards(&self) -> &'static [Card] {
        LOSS_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(group), Some(every), Feed::Examples(examples)) = (cx.task.cyclic(), cx.cadence(self), cx.feed) else {
            return Ok(());
        };
        let (model, piece, read, classes) = (cx.model, cx.piece, cx.task.shape().read, cx.task.shape().classes);
        let feed = cx.feed;
        let (restricted, excluded, keys) = cx.tape.at_cadence(every, |tape| {
            let passes = feed
                .whole(tape, piece)?
                .into_iter()
                .map(|batch| Pass::new(tape, model, batch, read))
                .collect::<Result<Vec<_>>>()?;
            let walk = Walk { group: &group, examples, classes, passes };
            walk.losses(tape)
        })?;
        for (name, values) in [("loss.restricted", restricted), ("loss.excluded", excluded)] {
            for (rank, value) in (0..).zip(values) {
                cx.record(self, name, "logits", value, 0, Label::indices(rank..rank + 1));
            }
        }
        let count = cx.tape.shape(keys).len() as i32;
        cx.record_sparse(self, "key_frequencies.logits", "logits", keys, Label::indices(1..count + 1));
        Ok(())
    }
}

/// The logits of every example, piece by piece.
struct Walk<'a> {
    group: &'a Cyclic,
    examples: &'a Examples,
    classes: usize,
    passes: Vec<Pass>,
}

impl Walk<'_> {
    /// Group element of every example's answer; [`IGNORE`] for answers outside of the group.
    fn elements(&self) -> Vec<u32> {
        let element = |class: &u32| self.group.classes[*class as usize].map_or(IGNORE, |e| e as u32);
        self.examples.targets.iter().map(element).collect()
    }

    /// Restricted and excluded losses by rank, [1] each, and the key frequencies, [K].
    fn losses(&self, tape: &mut Tape) -> Result<(Vec<Var>, Vec<Var>, Var)> {
        let (order, classes) = (self.group.order, self.classes);
        let elements = self.elements();
        // Every element is the answer of equally many pairs.
        let pairs = elements.iter().filter(|e| **e != IGNORE).count() as f32 / order as f32;
        let unit = 1.0 / pairs.sqrt();

        // Logits summed by the answer's element, and their class-centred power.
        let (mut sums, mut power): (Option<Var>, Option<Var>) = (None, None);
        for (pass, elements) in self.passes.iter().zip(self.pieces(&elements)) {
            let index = tape.constant_u32(&[elements.len()], elements);
            let by_element = scatter_rows(tape, pass.forward.logits, index, order)?;
            sums = Some(sum_of(tape, sums, by_element)?);
            let centred = tape.push1(CentredSquares { classes }, &[pass.forward.logits, index])?;
            let column = tape.reshape(centred, &[elements.len(), 1])?;
            let total = tape.push1(ColumnSum, &[column])?;
            power = Some(sum_of(tape, power, total)?);
        }
        let (Some(sums), Some(power)) = (sums, power) else { return Err(misfit("fourier losses", "no examples")) };

        // Coefficients along unit vectors in the space of all pairs, [n, V]. An example's value depends on
        // its answer alone, so a unit vector over pairs is one over elements divided by the root of `pairs`.
        let all: Vec<Option<usize>> = (0..order).map(Some).collect();
        let basis = basis(tape, self.group, &all, order);
        let coefficients = tape.push1(Linear::default(), &[basis, sums])?;
        let coefficients = tape.push1(Scale(unit), &[coefficients])?;
        let energies = tape.push1(RowSquares { take: classes }, &[coefficients])?;
        let ranked = tape.push(RankFrequencies, &[energies, power])?;

        let targets: Vec<u32> = (0..order)
            .map(|e| self.group.classes.iter().position(|c| *c == Some(e)).map_or(IGNORE, |c| c as u32))
            .collect();
        let targets = tape.constant_u32(&[order], &targets);
        let count = tape.constant(&[1], &[order as f32]);
        let train = self.train_targets(tape, &elements);
        let (mut restricted, mut excluded) = (Vec::new(), Vec::new());
        for rank in 0..=RANKS {
            let part = |tape: &mut Tape, constant: bool, factor: f32| -> Result<Var> {
                let kept = tape.push1(KeepFrequencies { rank, constant }, &[coefficients, ranked[0], ranked[1]])?;
                let columns = tape.shape(kept).dims[1];
                let logits = tape.push1(TransposedProduct { dims: vec![order, columns] }, &[basis, kept])?;
                tape.push1(Scale(factor), &[logits])
            };
            // Restricted logits depend on the answer alone: one row for each element.
            let logits = part(tape, true, unit)?;
            let rows = tape.push(CrossEntropy { classes }, &[logits, targets])?[0];
            restricted.push(tape.push1(MeanRows, &[rows, count])?);

            let minus = part(tape, false, -unit)?;
            let mut sum = None;
            for ((pass, elements), (targets, count)) in self.passes.iter().zip(self.pieces(&elements)).zip(&train) {
                let inside: Vec<u32> = elements.iter().map(|e| if *e == IGNORE { 0 } else { *e }).collect();
                let index = tape.constant_u32(&[inside.len()], &inside);
                let correction = tape.push1(GatherRows, &[minus, index])?;
                let logits = tape.push1(Add, &[pass.forward.logits, correction])?;
                let rows = tape.push(CrossEntropy { classes }, &[logits, *targets])?[0];
                let mean = tape.push1(MeanRows, &[rows, *count])?;
                sum = Some(sum_of(tape, sum, mean)?);
            }
            excluded.extend(sum);
        }
        Ok((restricted, excluded, ranked[1]))
    }

    /// One number for each example, cut into the pieces of the walk.
    fn pieces<'a>(&self, values: &'a [u32]) -> Vec<&'a [u32]> {
        let mut rest = values;
        self.passes
            .iter()
            .map(|pass| {
                let (piece, after) = rest.split_at(pass.batch.size);
                rest = after;
                piece
            })
            .collect()
    }

    /// For each piece the targets of each replica's training pairs, all others ignored, and how many
    /// there are in all pieces together.
    fn train_targets(&self, tape: &mut Tape, elements: &[u32]) -> Vec<(Var, Var)> {
        let per_replica: Vec<Vec<u32>> = self
            .examples
            .splits
            .iter()
            .map(|split| {
                let mut targets = vec![IGNORE; elements.len()];
                for id in split.train.iter().map(|id| *id as usize).filter(|id| elements[*id] != IGNORE) {
                    targets[id] = self.examples.targets[id];
                }
                targets
            })
            .collect();
        let counts: Vec<f32> = per_replica.iter().map(|t| t.iter().filter(|t| **t != IGNORE).count() as f32).collect();
        let count = tape.constant_owned(&[1], &counts);
        let mut first = 0;
        self.passes
            .iter()
            .map(|pass| {
                let piece = first..first + pass.batch.size;
                first = piece.end;
                let targets: Vec<u32> = per_replica.iter().flat_map(|t| &t[piece.clone()]).copied().collect();
                (tape.constant_u32(&[piece.len()], &targets), count)
            })
            .collect()
    }
}

fn sum_of(tape: &mut Tape, sum: Option<Var>, next: Var) -> Result<Var> {
    match sum {
        Some(sum) => tape.push1(Add, &[sum, next]),
        None => Ok(next),
    }
}

/// Orthonormal Fourier components over a cyclic group, as rows over tokens or classes: constant, then
/// cosine and sine of each frequency; for an even order the last has a cosine only. Tokens outside of
/// the group have zeros. [n, `columns`].
fn basis(tape: &mut Tape, group: &Cyclic, elements: &[Option<usize>], columns: usize) -> Var {
    let n = group.order;
    let mut data = vec![0.0; n * columns];
    for (token, element) in elements.iter().enumerate() {
        let Some(element) = element else { continue };
        for component in 0..n {
            let k = component.div_ceil(2);
            // Reduced before it becomes an angle, so that large products lose nothing.
            let angle = std::f64::consts::TAU * (k * element % n) as f64 / n as f64;
            let wave = if component % 2 == 1 { libm::cos(angle) } else { libm::sin(angle) };
            let (value, share) = match component {
                0 => (1.0, 1.0),
                _ if 2 * k == n => (wave, 1.0),
                _ => (wave, 2.0),
            };
            data[component * columns + token] = (value * libm::sqrt(share / n as f64)) as f32;
        }
    }
    tape.constant(&[n, columns], &data)
}

crate::gpu::params! {
    struct SquareParams { rows: u32, columns: u32, take: u32, chunk: u32, x_replica: u32, index_replica: u32, out_replica: u32 }
}
static ROW_SQUARES: Shader = Shader {
    name: "instrument/row_squares",
    source: include_str!("../../shaders/instrument/row_squares.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }, Knob { name: "CENTRED", values: &[0, 1] }],
    params: SquareParams::FIELDS,
};
static COLUMN_SQUARES: Shader = Shader {
    name: "instrument/column_squares",
    source: include_str!("../../shaders/instrument/column_squares.wgsl"),
    knobs: &[],
    params: SquareParams::FIELDS,
};
crate::gpu::params! {
    struct SpectrumParams { components: u32, frequencies: u32, energies_replica: u32, scalar_replica: u32, out_replica: u32 }
}
static SPECTRUM_SUMMARY: Shader = Shader {
    name: "instrument/spectrum_summary",
    source: include_str!("../../shaders/instrument/spectrum_summary.wgsl"),
    knobs: &[],
    params: SpectrumParams::FIELDS,
};
static RANK_FREQUENCIES: Shader = Shader {
    name: "instrument/rank_frequencies",
    source: include_str!("../../shaders/instrument/rank_frequencies.wgsl"),
    knobs: &[],
    params: SpectrumParams::FIELDS,
};
crate::gpu::params! {
    struct KeepParams { components: u32, columns: u32, rank: u32, constant: u32, x_replica: u32, ranks_replica: u32, out_replica: u32 }
}
static KEEP_FREQUENCIES: Shader = Shader {
    name: "instrument/keep_frequencies",
    source: include_str!("../../shaders/instrument/keep_frequencies.wgsl"),
    knobs: &[],
    params: KeepParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader] =
    &[&ROW_SQUARES, &COLUMN_SQUARES, &SPECTRUM_SUMMARY, &RANK_FREQUENCIES, &KEEP_FREQUENCIES];

/// y [N] = sum of squares of the first `take` columns of x [N, C]; 0 takes all.
#[derive(Default)]
struct RowSquares {
    take: usize,
}

impl Op for RowSquares {
    fn name(&self) -> &'static str {
        "row squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().0])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let columns = inputs[0].len() / rows;
        let params = SquareParams {
            rows: rows as u32,
            columns: columns as u32,
            take: if self.take == 0 { columns } else { self.take } as u32,
            chunk: 0,
            x_replica: inputs[0].replica_stride,
            index_replica: 0,
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&ROW_SQUARES, &[subgroups, 0], &params, &[&inputs[0], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        let take = if self.take == 0 { columns } else { self.take };
        vec![Array::from_fn(&[rows], |r| inputs[0].data[r * columns..][..take].iter().map(|x| x * x).sum())]
    }
}

/// y [N] = sum over the first classes of (z - mean over those classes)²; 0 for ignored rows. Inputs:
/// z [N, V], index [N].
struct CentredSquares {
    classes: usize,
}

impl Op for CentredSquares {
    fn name(&self) -> &'static str {
        "centred squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&[inputs[0].rows().0]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let params = SquareParams {
            rows: rows as u32,
            columns: (inputs[0].len() / rows) as u32,
            take: self.classes as u32,
            chunk: 0,
            x_replica: inputs[0].replica_stride,
            index_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&ROW_SQUARES, &[subgroups, 1], &params, &[&inputs[0], &outputs[0], &inputs[1]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[rows], |r| {
            let z = &inputs[0].data[r * columns..][..self.classes];
            let mean = z.iter().sum::<f64>() / self.classes as f64;
            let counts = inputs[1].data[r] != f64::from(IGNORE);
            if counts { z.iter().map(|x| (x - mean).powi(2)).sum() } else { 0.0 }
        })]
    }
}

/// y [C] = sum over rows of the squares of x [N, C].
struct ColumnSquares;

impl Op for ColumnSquares {
    fn name(&self) -> &'static str {
        "column squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const ROWS: usize = 256;
        let columns = outputs[0].len();
        let rows = inputs[0].len() / columns;
        let chunks = rows.div_ceil(ROWS);
        let partial = cx.scratch(&[chunks, columns]);
        let params = SquareParams {
            rows: rows as u32,
            columns: columns as u32,
            take: columns as u32,
            chunk: ROWS as u32,
            x_replica: inputs[0].replica_stride,
            index_replica: 0,
            out_replica: partial.replica_stride,
        };
        let grid = [columns.div_ceil(32) as u32, chunks as u32, cx.replicas];
        cx.dispatch(&COLUMN_SQUARES, &[], &params, &[&inputs[0], &partial], grid)?;
        sum_columns(cx, &partial, chunks, columns, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[columns], |c| (0..rows).map(|r| inputs[0].data[r * columns + c].powi(2)).sum())]
    }
}

/// Energy of frequency k from the energies of its components.
fn frequency_energy(energies: &[f64], k: usize) -> f64 {
    energies[2 * k - 1] + energies.get(2 * k).copied().unwrap_or(0.0)
}

fn frequencies(shape: &Shape) -> Result<usize> {
    let n = shape.len();
    if (2..=512).contains(&n) {
        Ok(n / 2)
    } else {
        Err(misfit("spectrum", format!("{n} components; 2 to 512 are taken")))
    }
}

/// From energies [n] of the components: norms of the frequencies [K], Gini coefficient of the
/// components' norms [1], and 1 for each frequency above a quarter of the largest [K].
struct SpectrumSummary;

impl Op for SpectrumSummary {
    fn name(&self) -> &'static str {
        "spectrum summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let count = frequencies(inputs[0])?;
        Ok(vec![inputs[0].with_dims(&[count]), inputs[0].with_dims(&[1]), inputs[0].with_dims(&[count])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SpectrumParams {
            components: inputs[0].len() as u32,
            frequencies: outputs[0].len() as u32,
            energies_replica: inputs[0].replica_stride,
            scalar_replica: outputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&SPECTRUM_SUMMARY, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let energies = &inputs[0].data;
        let n = energies.len();
        let norms = Array::from_fn(&[n / 2], |i| frequency_energy(energies, i + 1).sqrt());
        let mut sorted: Vec<f64> = energies.iter().map(|e| e.sqrt()).collect();
        sorted.sort_by(f64::total_cmp);
        let total: f64 = sorted.iter().sum();
        let weighted: f64 = sorted.iter().enumerate().map(|(i, x)| (2.0 * (i + 1) as f64 - n as f64 - 1.0) * x).sum();
        let top = norms.data.iter().fold(0.0f64, |m, x| m.max(*x));
        let keys = Array::from_fn(&[n / 2], |i| f64::from(norms.data[i] > top / 4.0));
        vec![norms, Array::new(&[1], vec![weighted / (n as f64 * total)]), keys]
    }
}

/// From energies [n] of the logits' components and their whole power [1]: rank of each frequency by
/// energy, from 1 [K], and 1 for each with more than 1 % of the power [K].
struct RankFrequencies;

impl Op for RankFrequencies {
    fn name(&self) -> &'static str {
        "rank frequencies"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let count = frequencies(inputs[0])?;
        Ok(vec![inputs[0].with_dims(&[count]), inputs[0].with_dims(&[count])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SpectrumParams {
            components: inputs[0].len() as u32,
            frequencies: outputs[0].len() as u32,
            energies_replica: inputs[0].replica_stride,
            scalar_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&RANK_FREQUENCIES, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let count = inputs[0].data.len() / 2;
        let energy: Vec<f64> = (1..=count).map(|k| frequency_energy(&inputs[0].data, k)).collect();
        let before =
            |i: usize| (0..count).filter(|j| energy[*j] > energy[i] || (energy[*j] == energy[i] && *j < i)).count();
        let ranks = Array::from_fn(&[count], |i| (before(i) + 1) as f64);
        let keys = Array::from_fn(&[count], |i| f64::from(energy[i] > 0.01 * inputs[1].data[0]));
        vec![ranks, keys]
    }
}

/// Rows of x [n, V] that belong to the frequencies asked for, the others 0: those of `rank` at most, or
/// the key ones where `rank` is 0; and the constant's row if it is asked for. Inputs: x, ranks [K], keys [K].
struct KeepFrequencies {
    rank: usize,
    constant: bool,
}

impl Op for KeepFrequencies {
    fn name(&self) -> &'static str {
        "keep frequencies"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let components = inputs[0].dims[0];
        let params = KeepParams {
            components: components as u32,
            columns: (inputs[0].len() / components) as u32,
            rank: self.rank as u32,
            constant: u32::from(self.constant),
            x_replica: inputs[0].replica_stride,
            ranks_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(
            &KEEP_FREQUENCIES,
            &[],
            &params,
            &tensors,
            grid_1d((inputs[0].len() as u64).div_ceil(64), cx.replicas),
        )
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, columns) = inputs[0].rows();
        let keeps = |component: usize| match (component.div_ceil(2), self.rank) {
            (0, _) => self.constant,
            (k, 0) => inputs[2].data[k - 1] != 0.0,
            (k, rank) => inputs[1].data[k - 1] <= rank as f64,
        };
        vec![Array::from_fn(&inputs[0].dims, |at| if keeps(at / columns) { inputs[0].data[at] } else { 0.0 })]
    }
}

pub(super) const CHECKS: &[(&str, Build)] = &[
    ("spectrum", |c| {
        let x = c.owned(&[57, 33]);
        let energies = c.tape.push1(RowSquares { take: 20 }, &[x])?;
        Ok((c.tape.push(SpectrumSummary, &[energies])?, Vec::new()))
    }),
    ("key frequencies", |c| {
        let x = c.owned(&[57, 33]);
        let energies = c.tape.push1(RowSquares { take: 20 }, &[x])?;
        let column = c.tape.reshape(energies, &[57, 1])?;
        let power = c.tape.push1(ColumnSum, &[column])?;
        let ranked = c.tape.push(RankFrequencies, &[energies, power])?;
        Ok((vec![c.tape.push1(KeepFrequencies { rank: 2, constant: true }, &[x, ranked[0], ranked[1]])?], Vec::new()))
    }),
    ("squares", |c| {
        let (x, index) = (c.owned(&[300, 9]), c.indices(&[300], 300, true));
        let columns = c.tape.push1(ColumnSquares, &[x])?;
        Ok((vec![columns, c.tape.push1(CentredSquares { classes: 5 }, &[x, index])?], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};

    fn group(order: usize) -> Cyclic {
        let all: Vec<Option<usize>> = (0..order).map(Some).collect();
        Cyclic { order, tokens: all.clone(), classes: all }
    }

    #[test]
    fn components_are_orthonormal() {
        for order in [7, 10, 113] {
            let mut case = Case::new("basis");
            let group = group(order);
            let basis = basis(&mut case.tape, &group, &group.tokens, order);
            let product = case.tape.push1(Linear { transposed: true, ..Linear::default() }, &[basis, basis]).unwrap();
            let values = case.tape.evaluate(0, &[], &[product]).unwrap().remove(0);
            for (at, value) in values.data.iter().enumerate() {
                let expected = f64::from(at / order == at % order);
                assert!((value - expected).abs() < 1e-6, "{order}: {at} is {value}");
            }
        }
    }

    #[test]
    fn summaries_and_ranks_match_their_reference() {
        for n in [3, 10, 31, 64, 257] {
            let mut case = Case::new(&format!("spectrum {n}"));
            let x = case.owned(&[n, 33]);
            let energies = case.tape.push1(RowSquares { take: 20 }, &[x]).unwrap();
            let summary = case.tape.push(SpectrumSummary, &[energies]).unwrap();
            let column = case.tape.reshape(energies, &[n, 1]).unwrap();
            let power = case.tape.push1(ColumnSum, &[column]).unwrap();
            let ranked = case.tape.push(RankFrequencies, &[energies, power]).unwrap();
            case.agree(&[energies], 1e-5);
            case.agree(&summary, 1e-5);
            case.agree(&ranked, 0.0);
            for (rank, constant) in [(0, true), (2, false)] {
                let kept = case.tape.push1(KeepFrequencies { rank, constant }, &[x, ranked[0], ranked[1]]).unwrap();
                case.agree(&[kept], 0.0);
            }
        }
    }

    #[test]
    fn squares_match_their_reference() {
        for n in [1, 31, 300] {
            let mut case = Case::new(&format!("squares {n}"));
            let x = case.owned(&[n, 9]);
            let columns = case.tape.push1(ColumnSquares, &[x]).unwrap();
            let index: Vec<u32> = (0..n as u32).map(|i| if i % 7 == 3 { IGNORE } else { i }).collect();
            let index = case.tape.constant_u32(&[n], &index);
            let centred = case.tape.push1(CentredSquares { classes: 5 }, &[x, index]).unwrap();
            case.agree(&[columns, centred], 1e-5);
        }
    }

    #[test]
    fn the_gini_coefficient_is_0_for_equal_parts_and_near_1_for_a_single_one() {
        for (energies, expected) in [(vec![2.0f32; 113], 0.0), ([vec![1.0], vec![0.0; 112]].concat(), 112.0 / 113.0)] {
            let mut case = Case::new("gini");
            let energies = case.tape.constant(&[113], &energies);
            let gini = case.tape.push(SpectrumSummary, &[energies]).unwrap()[1];
            for gpu in gpus() {
                for value in case.run(gpu, &[gini]).unwrap().concat().concat() {
                    assert!((f64::from(value) - expected).abs() < 1e-5, "{value} instead of {expected}");
                }
            }
        }
    }
}
