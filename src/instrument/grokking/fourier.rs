//! Fourier instruments for tasks with a cyclic group: which frequencies the weights hold, which the
//! logits use, and how much loss depends on them. Definitions: Nanda et al. 2023.

use super::fourier_ops::{
    CentredSquares, ColumnSquares, ExcludeEach, KeepFrequencies, Largest, RankFrequencies, RowSquares, SpectrumSummary,
};
use super::parts::Parts;
use super::synchrony::Grid;
use crate::autograd::op::misfit;
use crate::autograd::ops::{
    ColumnSum, CrossEntropy, IGNORE, Linear, MeanRows, Scale, ShiftedCrossEntropy, TransposedProduct, add_rows,
    bucket_rows,
};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::instrument::{Attach, Card, Chance, CostClass, Index, Instrument, Label, Presence};
use crate::model::Model;
use crate::task::{Examples, Feed, Pass, Split};

/// `fourier_norm`, `gini`, `key_frequencies`.
pub(crate) struct Spectrum;

/// `loss.restricted`, `loss.excluded`, `key_frequencies.logits`.
pub(crate) struct FourierLosses;

/// The set of key frequencies of the logits.
pub const LOGIT_KEYS: &str = "key_frequencies.logits";

const SPECTRUM_CARDS: &[Card] = &[
    Card {
        name: "fourier_norm",
        formula: "√(‖cos_k W‖² + ‖sin_k W‖²), cos_k and sin_k of unit length along the group",
        unit: "1",
        axes: "site: embed.W_E, or W_L = W_out W_U of the last layer (W_U itself without MLP); index: frequency k",
        cost: CostClass::L,
        every: 1,
        control: "a flat spectrum: what initial weights have",
        source: "Nanda et al. 2023, section 4",
        not_for: "whether the model uses the frequency: embeddings may hold what the logits ignore",
        bounds: Card::SIZE,
        index: Index::Counts("frequency k"),
        ..Card::BASE
    },
    Card {
        name: "gini",
        formula: "Gini coefficient of the norms of all components, the constant included",
        unit: "1",
        axes: "site: embed.W_E or W_L",
        cost: CostClass::L,
        every: 1,
        control: "about 0.05 for initial weights; 0.18 for a net that generalizes without sparsity (no decay, 90 % of the data)",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "generalization: perfect nets without a sparse circuit exist",
        bounds: Card::SHARE,
        ..Card::BASE
    },
    Card {
        name: "key_frequencies",
        formula: "1 for each k whose norm in W_E exceeds a quarter of the largest",
        unit: "1",
        axes: "site: embed.W_E; index: frequency k, which has a row only where it is key",
        cost: CostClass::L,
        every: 1,
        control: "key_frequencies.logits: on the same weights one rule may give 10 keys and the other 5",
        source: "the rule of TransformerLens's grokking demo",
        not_for: "counting circuits without saying which rule was used",
        index: Index::Counts("frequency k"),
        ..Card::BASE
    },
];

const LOSS_CARDS: &[Card] = &[
    Card {
        name: "loss.restricted",
        formula: "cross-entropy over all pairs of logits, each column projected onto cos and sin of the key frequencies of the answer, its mean kept",
        unit: "nats",
        axes: "index: 0 keys by the logit rule, n > 0 the n strongest frequencies",
        cost: CostClass::M,
        every: 100,
        control: "loss of all data; index n shows where the knee is, without choosing keys by hand",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "tasks without a cyclic group",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        index: Index::Ranks("keys by the logit rule", "strongest frequencies"),
        ..Card::BASE
    },
    Card {
        name: "loss.excluded",
        formula: "cross-entropy over the training pairs of logits without those projections, in every column",
        unit: "nats",
        axes: "index: 0 keys by the logit rule, n > 0 the n strongest frequencies",
        cost: CostClass::M,
        every: 100,
        control: "train loss: what excluding nothing gives",
        source: "Nanda et al. 2023, section 5.1",
        not_for: "tasks without a cyclic group",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        index: Index::Ranks("keys by the logit rule", "strongest frequencies"),
        ..Card::BASE
    },
    Card {
        name: "loss.excluded.each",
        formula: "cross-entropy over the training pairs of logits without their projection onto frequency k alone",
        unit: "nats",
        axes: "index: frequency k",
        cost: CostClass::M,
        every: 1000,
        control: "train loss: what excluding a frequency gives that nothing depends on",
        source: "Nanda et al. 2023, section 5.1, per frequency",
        not_for: "shares: what two frequencies do together is more than the sum of both",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        index: Index::Counts("frequency k"),
        ..Card::BASE
    },
    Card {
        name: "loss.excluded.max",
        formula: "the largest loss.excluded.each over all k",
        unit: "nats",
        axes: "site: logits",
        cost: CostClass::M,
        every: 1000,
        control: "train loss; needs no keys, so nothing was chosen in hindsight",
        source: "Nanda et al. 2023, with the maximum in place of chosen keys",
        not_for: "how much all keys matter together: that is loss.excluded",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        ..Card::BASE
    },
    Card {
        name: LOGIT_KEYS,
        formula: "1 for each k with more than 1 % of the power of the logits over all pairs; power and its parts around the mean over the task's classes",
        unit: "1",
        axes: "site: logits; index: frequency k, which has a row only where it is key",
        cost: CostClass::M,
        every: 100,
        control: "key_frequencies: on the same weights one rule may give 10 keys and the other 5",
        source: "Nanda et al. 2023, released weights",
        not_for: "counting circuits without saying which rule was used",
        index: Index::Counts("frequency k"),
        ..Card::BASE
    },
    Card {
        name: "key_frequencies.neurons",
        formula: "number of neurons that follow frequency k: neuron_fve above 0.85, with k the best",
        unit: "neurons",
        axes: "site: mlp.hook_post, layer; index: frequency k, which has a row only where a neuron follows it",
        cost: CostClass::M,
        every: 100,
        control: "key_frequencies and key_frequencies.logits: three rules, three sets on the same weights",
        source: "Nanda et al. 2023, section 4.2 and its notebook",
        not_for: "counting circuits without saying which rule was used: one neuron makes a key",
        index: Index::Counts("frequency k"),
        ..Card::BASE
    },
    Card {
        name: "neuron_fve",
        formula: "variance over all pairs (a, b) explained by the best single frequency: max_k of the energy of cos, sin of k a, k b, k (a + b), k (a - b), by the variance",
        unit: "1",
        axes: "site: mlp.hook_post, layer; index: 0 mean over neurons, 1 share of neurons above 0.85",
        cost: CostClass::M,
        every: 100,
        control: "about 0.05 for initial weights of the published size, none above 0.85; 0 for a neuron that never varies",
        source: "Nanda et al. 2023, section 4.2 (84.6 % of neurons above 0.85)",
        not_for: "whether the logits use what the neurons follow",
        bounds: Card::SHARE,
        index: Index::Names(&["mean over neurons", "share above 0.85"]),
        ..Card::BASE
    },
    Card {
        name: "fsd.grid",
        formula: "fsd over all pairs in place of the training batch",
        unit: "1",
        axes: "site: mlp.hook_post, layer",
        cost: CostClass::M,
        every: 100,
        control: "fsd",
        source: "Sivasankar 2026 (2606.12966)",
        not_for: "see fsd",
        ..Card::BASE
    },
    Card {
        name: "attention_frequency",
        formula: "the single frequency that explains most of the variance over all pairs of what the last token attends with to each position",
        unit: "1",
        axes: "site: hook_pattern, layer, head; index: position attended to",
        cost: CostClass::M,
        every: 100,
        control: "attention_fve: how much it explains",
        source: "Nanda et al. 2023, section 4.2",
        not_for: "heads that attend alike whatever they read",
        index: Index::Counts("position attended to"),
        ..Card::BASE
    },
    Card {
        name: "attention_fve",
        formula: "neuron_fve for what the last token attends with to each position",
        unit: "1",
        axes: "site: hook_pattern, layer, head; index: position attended to",
        cost: CostClass::M,
        every: 100,
        control: "about 0.08 for initial weights of the published size; 0 for a pattern that never varies",
        source: "Nanda et al. 2023, section 4.2 (0.98 to 0.99)",
        not_for: "how much a head matters: a pattern that hardly varies may follow one frequency",
        bounds: Card::SHARE,
        index: Index::Counts("position attended to"),
        ..Card::BASE
    },
];

/// What excludes one frequency after the other.
const EACH: [&str; 2] = ["loss.excluded.each", "loss.excluded.max"];

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
        let (Some(group), Some(every)) = (cx.task.cyclic().map(Parts::cyclic), cx.cadence(self)) else {
            return Ok(());
        };
        let model = cx.model;
        let out = cx.tape.at_cadence(every, |tape| {
            let (w_e, w_l, down) = weight_components(tape, model, &group)?;
            tape.push(SpectrumSummary { down }, &[w_e, w_l])
        })?;
        let count = cx.tape.shape(out[0]).dims[1];
        let frequencies = Label::indices(1..count as i32 + 1);
        for (at, site) in ["embed.W_E", "W_L"].into_iter().enumerate() {
            cx.record(self, "fourier_norm", site, out[0], at * count, frequencies.clone());
            cx.record(self, "gini", site, out[1], at, vec![Label::NONE]);
        }
        cx.record_where(Presence::InSet, self, "key_frequencies", "embed.W_E", out[2], 0, frequencies);
        Ok(())
    }
}

/// Components along the tokens of W_E, [n, D], and along the classes of W_L = W_out W_U of the last layer, [M, n]; or of
/// W_U itself without MLP, [n, D]. And whether those of W_L run down its columns.
fn weight_components(tape: &mut Tape, model: &Model, group: &Parts) -> Result<(Var, Var, bool)> {
    let w_e = model.need("embed.W_E")?;
    let basis = group.over(tape, &group.tokens, model.config.d_vocab);
    let of_w_e = tape.push1(Linear::default(), &[basis, w_e])?;

    let basis = group.over(tape, &group.classes, model.config.d_vocab_out);
    // Components of W_U along the classes, [n, D].
    let components = match model.weight("unembed.W_U") {
        Some(w_u) => tape.push1(Linear { transposed: true, ..Linear::default() }, &[basis, w_u])?,
        None => tape.push1(Linear::default(), &[basis, w_e])?,
    };
    Ok(match model.weight(&format!("blocks.{}.mlp.W_out", model.config.n_layers - 1)) {
        Some(w_out) => {
            let along = tape.push1(Linear { transposed: true, ..Linear::default() }, &[w_out, components])?;
            (of_w_e, along, true)
        }
        None => (of_w_e, components, false),
    })
}

/// Energies of the components of W_E and of W_L, [n] each.
pub(crate) fn weight_energies(tape: &mut Tape, model: &Model, group: &Parts) -> Result<[Var; 2]> {
    let (w_e, w_l, down) = weight_components(tape, model, group)?;
    let of_w_e = tape.push1(RowSquares, &[w_e])?;
    let of_w_l = if down { tape.push1(ColumnSquares, &[w_l])? } else { tape.push1(RowSquares, &[w_l])? };
    Ok([of_w_e, of_w_l])
}

impl Instrument for FourierLosses {
    fn name(&self) -> &'static str {
        "fourier_losses"
    }

    fn cards(&self) -> &'static [Card] {
        LOSS_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(group), Some(every), Feed::Examples(examples)) =
            (cx.task.cyclic().map(Parts::cyclic), cx.cadence(self), cx.feed)
        else {
            return Ok(());
        };
        let each = cx.cadence_of(self, &EACH);
        let classes = cx.task.shape().classes;
        let (train, test) = (cx.train_passes(every)?, cx.test_passes(every)?);
        let lists =
            |of: fn(&Split) -> &Vec<u32>| -> Vec<&[u32]> { examples.splits.iter().map(|s| of(s).as_slice()).collect() };
        let mut passes = walked(&train, &lists(|split| &split.train));
        passes.extend(walked(&test, &lists(|split| &split.test)));
        let walk = Walk { group: &group, examples, classes, passes, trained: train.len() };
        let found = cx.tape.at_cadence(every, |tape| walk.losses(tape, each))?;
        for (name, values) in [("loss.restricted", found.restricted), ("loss.excluded", found.excluded)] {
            for (rank, value) in (0..).zip(values) {
                cx.record(self, name, "logits", value, 0, Label::indices(rank..rank + 1));
            }
        }
        let labels = Label::indices(1..group.count() as i32 + 1);
        let keys = found.keys;
        cx.record_where(Presence::InSet, self, LOGIT_KEYS, "logits", keys, 0, labels.clone());
        if let Some([each, largest]) = found.each {
            cx.record(self, "loss.excluded.each", "logits", each, 0, labels);
            cx.record(self, "loss.excluded.max", "logits", largest, 0, vec![Label::NONE]);
        }
        let grid = Grid { group: &group, examples, passes: &walk.passes };
        grid.attach(cx, self, every)
    }
}

/// A forward pass over some of the examples.
pub(crate) struct Walked<'a> {
    pub(crate) pass: &'a Pass,
    /// Which example each row is, `[B]` or one list behind the other for each replica; [`IGNORE`] for fillers.
    pub(crate) ids: Vec<u32>,
}

impl Walked<'_> {
    /// A number for each row from a number for each example, as an index of the tape; fillers are ignored.
    pub(crate) fn index(&self, tape: &mut Tape, of: impl Fn(usize) -> u32) -> Var {
        let index: Vec<u32> = self.ids.iter().map(|id| if *id == IGNORE { IGNORE } else { of(*id as usize) }).collect();
        tape.constant_u32(&[self.pass.batch.size], &index)
    }
}

/// Passes over the lists of all replicas, cut into pieces as they are.
fn walked<'a>(passes: &'a [Pass], lists: &[&[u32]]) -> Vec<Walked<'a>> {
    let same = lists.windows(2).all(|pair| pair[0] == pair[1]);
    let lists = if same { &lists[..1] } else { lists };
    let mut first = 0;
    let ids = |pass: &'a Pass| {
        let places = first..first + pass.batch.size;
        first = places.end;
        let ids = lists.iter().flat_map(|list| places.clone().map(|at| list.get(at).copied().unwrap_or(IGNORE)));
        Walked { pass, ids: ids.collect() }
    };
    passes.iter().map(ids).collect()
}

/// The logits of every example, piece by piece.
struct Walk<'a> {
    group: &'a Parts,
    examples: &'a Examples,
    classes: usize,
    passes: Vec<Walked<'a>>,
    /// How many of them, the first, are over the training set.
    trained: usize,
}

/// What the walk found, each [1] by rank, each frequency's [K] and their largest [1].
struct Losses {
    restricted: Vec<Var>,
    excluded: Vec<Var>,
    keys: Var,
    each: Option<[Var; 2]>,
}

impl Walk<'_> {
    /// Group element of every example's answer; [`IGNORE`] for answers outside of the group.
    fn elements(&self) -> Vec<u32> {
        let element = |class: &u32| self.group.classes[*class as usize].map_or(IGNORE, |e| e as u32);
        self.examples.targets.iter().map(element).collect()
    }

    /// Restricted and excluded losses, over all columns as every loss is, and the key frequencies, of the task's classes;
    /// `each` is the cadence of what excludes one frequency after the other.
    fn losses(&self, tape: &mut Tape, each: Option<u64>) -> Result<Losses> {
        let (order, classes) = (self.group.order, self.classes);
        let elements = self.elements();
        // Every element is the answer of equally many pairs.
        let pairs = elements.iter().filter(|e| **e != IGNORE).count() as f32 / order as f32;
        let unit = 1.0 / pairs.sqrt();

        // Logits summed by the answer's element, and their class-centred power. All sums over rows are of those with one answer,
        // and go on from one piece to the next: no bit depends on the cut.
        let (mut sums, mut powers) = (None, None);
        for walked in &self.passes {
            let (logits, index) = (walked.pass.forward.logits, walked.index(tape, |id| elements[id]));
            let lists = bucket_rows(tape, index, order)?;
            sums = Some(add_rows(tape, sums, logits, lists)?);
            let centred = tape.push1(CentredSquares { classes }, &[logits, index])?;
            let column = tape.reshape(centred, &[walked.pass.batch.size, 1])?;
            powers = Some(add_rows(tape, powers, column, lists)?);
        }
        let (Some(sums), Some(powers)) = (sums, powers) else { return Err(misfit("fourier losses", "no examples")) };
        let power = tape.push1(ColumnSum, &[powers])?;

        // Coefficients along unit vectors in the space of all pairs, [n, V]. An example's value depends on
        // its answer alone, so a unit vector over pairs is one over elements divided by the root of `pairs`.
        let basis = self.group.over_elements(tape);
        let coefficients = tape.push1(Linear::default(), &[basis, sums])?;
        let coefficients = tape.push1(Scale(unit), &[coefficients])?;
        // What is added to all classes is no part of any frequency, no more than of the power.
        let every = tape.constant_u32(&[order], &vec![0; order]);
        let energies = tape.push1(CentredSquares { classes }, &[coefficients, every])?;
        let ranked = tape.push(RankFrequencies, &[energies, power])?;

        let targets: Vec<u32> = (0..order)
            .map(|e| self.group.classes.iter().position(|c| *c == Some(e)).map_or(IGNORE, |c| c as u32))
            .collect();
        let targets = tape.constant_u32(&[order], &targets);
        let count = tape.constant(&[1], &[order as f32]);
        let (train, train_count) = self.train_rows(tape, &elements)?;
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
            let rows = tape.push(CrossEntropy, &[logits, targets])?[0];
            restricted.push(tape.push1(MeanRows, &[rows, count])?);

            let minus = part(tape, false, -unit)?;
            let mut sum = None;
            for rows in &train {
                let inputs = [rows.logits, rows.targets, minus, rows.elements];
                let losses = tape.push(ShiftedCrossEntropy, &inputs)?[0];
                let losses = tape.reshape(losses, &[tape.shape(rows.elements).len(), 1])?;
                sum = Some(add_rows(tape, sum, losses, rows.lists)?);
            }
            excluded.extend(sum.map(|sum| tape.push1(MeanRows, &[sum, train_count])).transpose()?);
        }
        let one_by_one = |tape: &mut Tape| {
            let mut sum = None;
            for rows in &train {
                let inputs = [rows.logits, coefficients, basis, rows.elements, rows.targets, train_count];
                let losses = tape.push1(ExcludeEach { unit }, &inputs)?;
                sum = Some(add_rows(tape, sum, losses, rows.lists)?);
            }
            let sum = sum.ok_or_else(|| misfit("fourier losses", "no examples"))?;
            let sum = tape.push1(ColumnSum, &[sum])?;
            Ok([sum, tape.push1(Largest, &[sum])?])
        };
        let each = each.filter(|_| !train.is_empty());
        let each = each.map(|every| tape.at_cadence(every, one_by_one)).transpose()?;
        Ok(Losses { restricted, excluded, keys: ranked[1], each })
    }

    /// The rows of the training pairs whose answers are in the group, and how many there are.
    fn train_rows(&self, tape: &mut Tape, elements: &[u32]) -> Result<(Vec<TrainRows>, Var)> {
        let splits = &self.examples.splits;
        let inside = |id: u32| elements.get(id as usize).is_some_and(|element| *element != IGNORE);
        let counts: Vec<f32> =
            splits.iter().map(|split| split.train.iter().filter(|id| inside(**id)).count() as f32).collect();
        let count = tape.constant_owned(&[1], &counts);
        let mut found = Vec::new();
        for walked in &self.passes[..self.trained] {
            let size = walked.pass.batch.size;
            let ids = |replica: usize| &walked.ids[if walked.ids.len() == size { 0 } else { replica * size }..][..size];
            let target = |replica: usize, id: u32| match inside(id) {
                true => self.examples.trained(replica)[id as usize],
                false => IGNORE,
            };
            let targets: Vec<u32> =
                (0..splits.len()).flat_map(|replica| ids(replica).iter().map(move |id| target(replica, *id))).collect();
            if targets.iter().all(|target| *target == IGNORE) {
                continue;
            }
            // Any row serves those that are ignored.
            let row: Vec<u32> =
                walked.ids.iter().map(|id| if inside(*id) { elements[*id as usize] } else { 0 }).collect();
            let counted = walked.index(tape, |id| elements[id]);
            found.push(TrainRows {
                logits: walked.pass.forward.logits,
                elements: tape.constant_u32(&[size], &row),
                lists: bucket_rows(tape, counted, self.group.order)?,
                targets: tape.constant_u32(&[size], &targets),
            });
        }
        Ok((found, count))
    }
}

/// Rows of a pass of which some are training pairs.
struct TrainRows {
    logits: Var,
    /// Element of each row's answer.
    elements: Var,
    /// The rows that count by that: see `bucket_rows`.
    lists: (Var, Var),
    /// Targets of each replica's training pairs, all others ignored.
    targets: Var,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::model::ModelConfig;
    use crate::task::{Modular, Operation, ReplicaData, Task};

    const P: usize = 7;
    /// Two columns more than the task has classes.
    const V: usize = P + 2;

    /// A case with a model of addition modulo 7, with these weights; the logits of its training passes; and the walk's losses.
    fn walked_losses(case: &mut Case, weights: impl Fn(&str, usize) -> f32) -> (Vec<Var>, Losses) {
        let mut task = Modular::new(Operation::Add, P as u32);
        task.train_fraction = 0.5;
        let config = ModelConfig {
            d_model: 12,
            n_heads: 2,
            d_mlp: 20,
            d_vocab: P + 1,
            d_vocab_out: V,
            n_ctx: 3,
            unembed_bias: true,
            ..ModelConfig::default()
        };
        let model = Model::new(&config.resolve().unwrap(), &mut case.tape);
        for (spec, var) in model.table.specs().iter().zip(&model.weights) {
            case.set(*var, (0..spec.len()).map(|at| weights(&spec.name, at)).collect());
        }
        let feed = task.feed(&[1, 1].map(ReplicaData::new)).unwrap();
        let read = task.shape().read;
        let batches =
            [feed.train_batches(&mut case.tape, 1000).unwrap(), feed.test_batches(&mut case.tape, 1000).unwrap()];
        let [train, test] = batches.map(|batches| -> Vec<Pass> {
            batches.into_iter().map(|batch| Pass::new(&mut case.tape, &model, batch, read).unwrap()).collect()
        });
        let Feed::Examples(examples) = &feed else { panic!("modular addition has examples") };
        let group = Parts::cyclic(task.cyclic().unwrap());
        let mut passes = walked(&train, &[&examples.splits[0].train, &examples.splits[1].train]);
        passes.extend(walked(&test, &[&examples.splits[0].test, &examples.splits[1].test]));
        let walk = Walk { group: &group, examples, classes: P, passes, trained: train.len() };
        let losses = walk.losses(&mut case.tape, Some(1)).unwrap();
        (train.iter().map(|pass| pass.loss).collect(), losses)
    }

    /// Normal numbers by name and place.
    fn random(name: &str, at: usize) -> f32 {
        let word = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        0.5 * crate::gpu::Philox::new(word, crate::gpu::Stream::Weights, 0).normals(at as u64)[0] as f32
    }

    #[test]
    fn excluding_nothing_is_the_training_loss_whatever_columns_there_are() {
        // Only the unembedding's bias: no frequency holds anything, and all nine columns have their share.
        let mut case = Case::new("nothing to exclude");
        let bias = |at: usize| 1.5 * (at as f32).sin();
        let (train, found) = walked_losses(&mut case, |name, at| if name == "unembed.b_U" { bias(at) } else { 0.0 });
        let mean = |classes: std::ops::Range<usize>| -> f64 {
            let all: f64 = (0..V).map(|j| f64::from(bias(j)).exp()).sum();
            let classes = classes.map(|y| all.ln() - f64::from(bias(y)));
            classes.sum::<f64>() / P as f64
        };
        let each = found.each.unwrap()[0];
        let wanted = [train[0], found.excluded[0], each, found.restricted[0]];
        for gpu in gpus() {
            let found = case.run(gpu, &wanted).unwrap();
            let losses = &found[0][0];
            let trained = losses.iter().sum::<f32>() / losses.iter().filter(|loss| **loss > 0.0).count() as f32;
            for excluded in found[1][0].iter().chain(&found[2][0]) {
                assert!((excluded - trained).abs() < 2e-6, "{excluded} instead of {trained}");
            }
            assert!(
                (f64::from(found[3][0][0]) - mean(0..P)).abs() < 2e-6,
                "{} instead of {}",
                found[3][0][0],
                mean(0..P)
            );
        }
    }

    #[test]
    fn what_is_added_to_all_classes_changes_no_key_no_rank_and_no_loss() {
        let measured = |shift: f32| {
            let mut case = Case::new("a constant for all classes");
            let (_, found) = walked_losses(&mut case, |name, at| {
                // A direction u of the stream, written to every column: W_U + u 1^T.
                let common = if name == "unembed.W_U" { random("u", at / V) } else { 0.0 };
                random(name, at) + shift * common
            });
            let [each, largest] = found.each.unwrap();
            let mut wanted = vec![found.keys, each, largest];
            wanted.extend(found.restricted.iter().chain(&found.excluded));
            gpus().iter().map(|gpu| case.run(gpu, &wanted).unwrap().concat()).collect::<Vec<_>>()
        };
        for (plain, shifted) in measured(0.0).iter().zip(measured(8.0)) {
            assert_eq!(plain[0], shifted[0], "keys");
            for (a, b) in plain[1..].iter().zip(&shifted[1..]).flat_map(|(a, b)| a.iter().zip(b)) {
                // Logits some ten times as large, in f32.
                assert!((a - b).abs() <= 1e-4 * a.abs(), "{a} became {b}");
            }
        }
    }
}
