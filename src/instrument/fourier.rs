//! Fourier instruments for tasks with a cyclic group: which frequencies the weights hold, which the
//! logits use, and how much loss depends on them. Definitions: Nanda et al. 2023.

use super::fourier_ops::{
    CentredSquares, ColumnSquares, KeepFrequencies, RankFrequencies, RowSquares, SpectrumSummary,
};
use super::{Attach, Card, CostClass, Instrument, Label, Pass, Presence};
use crate::autograd::op::misfit;
use crate::autograd::ops::{
    Add, ColumnSum, CrossEntropy, GatherRows, IGNORE, Linear, MeanRows, Scale, TransposedProduct, scatter_rows,
};
use crate::autograd::{Tape, Var};
use crate::error::Result;
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
            cx.record_where(
                Presence::WhereNotZero,
                self,
                "key_frequencies",
                site,
                out[2],
                0,
                Label::indices(1..count + 1),
            );
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
        let labels = Label::indices(1..count + 1);
        cx.record_where(Presence::WhereNotZero, self, "key_frequencies.logits", "logits", keys, 0, labels);
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
        // Answers outside of the group are ignored below; any row serves them.
        let inside: Vec<u32> = elements.iter().map(|e| if *e == IGNORE { 0 } else { *e }).collect();
        let inside: Vec<Var> =
            self.pieces(&inside).into_iter().map(|piece| tape.constant_u32(&[piece.len()], piece)).collect();
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
            for ((pass, index), (targets, count)) in self.passes.iter().zip(&inside).zip(&train) {
                let correction = tape.push1(GatherRows, &[minus, *index])?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

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
}
