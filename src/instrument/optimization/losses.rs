//! Loss, accuracy and margin, on the training batch and on the test set.

use crate::autograd::op::misfit;
use crate::autograd::ops::{IGNORE, LogitRows};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor};
use crate::instrument::{Attach, Card, Chance, CostClass, Index, Instrument, Label};
use crate::task::Pass;

/// `loss.train`, `accuracy.train`.
pub(crate) struct Train;

/// `loss.test`, `accuracy.test`, `margin.test`.
pub(crate) struct Test;

const CROSS_ENTROPY: &str = "mean over targets of ln(1 + Σ_{j≠y} exp(z_j - z_y))";
const ACCURACY: &str = "share of targets whose logit exceeds every other";

const TRAIN_CARDS: &[Card] = &[
    Card {
        name: "loss.train",
        formula: CROSS_ENTROPY,
        unit: "nats",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "ln(classes): the loss of knowing nothing",
        source: "definition; form after Nanda et al. 2023, appendix on float64 losses",
        not_for: "comparing runs with other batch sizes step by step: it is the loss of the batch at hand",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        ..Card::BASE
    },
    Card {
        name: "accuracy.train",
        formula: ACCURACY,
        unit: "1",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "1/classes",
        source: "definition",
        not_for: "telling memorizing from generalizing",
        bounds: Card::SHARE,
        chance: Some(Chance::OneOfClasses),
        ..Card::BASE
    },
];

const TEST_CARDS: &[Card] = &[
    Card {
        name: "loss.test",
        formula: CROSS_ENTROPY,
        unit: "nats",
        axes: "none",
        cost: CostClass::M,
        every: 10,
        control: "ln(classes): the loss of knowing nothing",
        source: "definition",
        not_for: "choosing when to stop and then reporting it as held out",
        bounds: Card::SIZE,
        chance: Some(Chance::LnOutputs),
        ..Card::BASE
    },
    Card {
        name: "accuracy.test",
        formula: ACCURACY,
        unit: "1",
        axes: "none",
        cost: CostClass::M,
        every: 10,
        control: "1/classes",
        source: "definition",
        not_for: "dating a transition more finely than its cadence",
        bounds: Card::SHARE,
        chance: Some(Chance::OneOfClasses),
        ..Card::BASE
    },
    Card {
        name: "margin.test",
        formula: "min, mean, max over targets of z_y - max_{j≠y} z_j",
        unit: "logits",
        axes: "index: 0 min, 1 mean, 2 max",
        cost: CostClass::M,
        every: 10,
        control: "0: the border between right and wrong",
        source: "Nanda et al. 2023 (released weights: 9.61, 17.1, 21.6)",
        not_for: "comparing models of other logit scale",
        chance: Some(Chance::At(0.0)),
        index: Index::Names(&["min", "mean", "max"]),
        ..Card::BASE
    },
];

impl Instrument for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn cards(&self) -> &'static [Card] {
        TRAIN_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let stats = cx.train_summary(every)?;
        cx.record(self, "loss.train", "", stats, 0, vec![Label::NONE]);
        cx.record(self, "accuracy.train", "", stats, 1, vec![Label::NONE]);
        Ok(())
    }
}

impl Instrument for Test {
    fn name(&self) -> &'static str {
        "test"
    }

    fn cards(&self) -> &'static [Card] {
        TEST_CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let passes = cx.test_passes(every)?;
        let stats = cx.tape.at_cadence(every, |tape| summary(tape, &passes))?;
        cx.record(self, "loss.test", "", stats, 0, vec![Label::NONE]);
        cx.record(self, "accuracy.test", "", stats, 1, vec![Label::NONE]);
        cx.record(self, "margin.test", "", stats, 2, Label::indices(0..3));
        Ok(())
    }
}

/// Mean loss, accuracy, and min, mean, max margin, [5], over the pieces of one set.
fn summary(tape: &mut Tape, pieces: &[Pass]) -> Result<Var> {
    let mut sums: Option<Var> = None;
    let mut first = 0;
    for (at, pass) in pieces.iter().enumerate() {
        let mut inputs = vec![pass.loss, pass.correct, pass.margin, pass.batch.targets, pass.batch.count];
        inputs.extend(sums);
        let op = RowSummary { first, last: at + 1 == pieces.len(), classes: 0 };
        sums = Some(tape.push1(op, &inputs)?);
        first += tape.shape(pass.loss).len();
    }
    sums.ok_or_else(|| misfit("summary", "an empty test set"))
}

/// [`summary`] of the training batch, and behind it, where asked for, softmax collapse, softmax residue, largest logit and
/// logit scale, [9].
pub(crate) fn train_summary(tape: &mut Tape, pass: &Pass, with_health: bool) -> Result<Var> {
    if !with_health {
        return summary(tape, std::slice::from_ref(pass));
    }
    let logits = pass.forward.logits;
    health(tape, logits, [pass.loss, pass.correct, pass.margin], pass.batch.targets, pass.batch.count)
}

/// The nine measures of logits [N, V] and their losses, `[N]` each, over the targets that count.
pub(crate) fn health(tape: &mut Tape, logits: Var, rows: [Var; 3], targets: Var, count: Var) -> Result<Var> {
    let of_logits = tape.push1(LogitRows, &[logits])?;
    let op = RowSummary { first: 0, last: true, classes: tape.shape(logits).rows().1 };
    tape.push1(op, &[rows[0], rows[1], rows[2], targets, count, of_logits])
}

crate::params! {
    struct SummaryParams {
        n: u32, lane: u32, rows_replica: u32, target_replica: u32, count_replica: u32, before_replica: u32, out_replica: u32,
        logits_replica: u32, classes: u32,
    }
}
static ROW_SUMMARY: Shader<'_> = Shader {
    name: "instrument/optimization/row_summary",
    source: include_str!("../../../shaders/instrument/optimization/row_summary.wgsl"),
    knobs: &[
        Knob { name: "BEFORE", values: &[0, 1] },
        Knob { name: "LAST", values: &[0, 1] },
        Knob { name: "HEALTH", values: &[0, 1] },
    ],
    params: SummaryParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&ROW_SUMMARY];

/// Lanes of `row_summary`.
const LANES: usize = 256;

/// Sums of loss and correct, and min, sum, max of margins over the rows that count, going on from what an
/// earlier piece left: [5, lanes], or [5] and means in the last piece. The bits do not depend on how a set
/// is cut into pieces. Inputs: loss, correct, margin, targets [N], count [1], and the earlier result. With `classes`,
/// for a set in one piece, numerical health behind them, [9]; the last input is [`LogitRows`] then.
struct RowSummary {
    /// Rows of the set before this piece.
    first: usize,
    last: bool,
    /// Columns of the logits whose health is asked for; 0 for none.
    classes: usize,
}

/// Spacing of f32 below 1.
const ULP: f64 = 1.0 / (1 << 24) as f64;

impl Op for RowSummary {
    fn name(&self) -> &'static str {
        "row summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[..4].iter().any(|s| s.len() != inputs[0].len()) {
            return Err(misfit("row summary", "rows of different length"));
        }
        let dims: &[usize] = match (self.classes, self.last) {
            (0, true) => &[5],
            (0, false) => &[5, LANES],
            _ => &[9],
        };
        Ok(vec![like(inputs, dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let health = self.classes != 0;
        let (before, rows) = (inputs.get(5).filter(|_| !health), inputs.get(5).filter(|_| health));
        let params = SummaryParams {
            n: inputs[0].len() as u32,
            lane: (self.first % LANES) as u32,
            rows_replica: inputs[0].replica_stride,
            target_replica: inputs[3].replica_stride,
            count_replica: inputs[4].replica_stride,
            before_replica: before.map_or(0, |t| t.replica_stride),
            out_replica: outputs[0].replica_stride,
            logits_replica: rows.map_or(0, |t| t.replica_stride),
            classes: self.classes as u32,
        };
        let mut tensors: Vec<&Tensor> = inputs[..5].iter().chain([&outputs[0]]).collect();
        tensors.extend(rows.or(before));
        let knobs = [u32::from(before.is_some()), u32::from(self.last), u32::from(health)];
        cx.dispatch(&ROW_SUMMARY, &knobs, &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        const EMPTY: [f64; 5] = [0.0, 0.0, f64::MAX, 0.0, f64::MIN];
        let mut lanes = inputs.get(5).filter(|_| self.classes == 0).map_or_else(
            || Array::from_fn(&[5, LANES], |at| EMPTY[at / LANES]),
            |before| Array::new(&[5, LANES], before.data.clone()),
        );
        for row in (0..inputs[0].data.len()).filter(|row| inputs[3].data[*row] != f64::from(IGNORE)) {
            let margin = inputs[2].data[row];
            let at = |i: usize| i * LANES + (self.first + row) % LANES;
            lanes.data[at(0)] += inputs[0].data[row];
            lanes.data[at(1)] += inputs[1].data[row];
            lanes.data[at(2)] = lanes.data[at(2)].min(margin);
            lanes.data[at(3)] += margin;
            lanes.data[at(4)] = lanes.data[at(4)].max(margin);
        }
        if !self.last {
            return vec![lanes];
        }
        let lane = |i: usize| lanes.data[i * LANES..][..LANES].iter().copied();
        let mean = |i: usize| lane(i).sum::<f64>() / inputs[4].data[0];
        let mut out =
            vec![mean(0), mean(1), lane(2).fold(f64::MAX, f64::min), mean(3), lane(4).fold(f64::MIN, f64::max)];
        if let Some(rows) = inputs.get(5).filter(|_| self.classes != 0) {
            let (all, mut health) = (inputs[4].data[0], [0.0, 0.0, f64::MIN, 0.0]);
            for n in (0..inputs[0].data.len()).filter(|n| inputs[3].data[*n] != f64::from(IGNORE)) {
                let loss = inputs[0].data[n];
                let wrong = -(-loss).exp_m1() / ULP;
                health[0] += f64::from(u8::from(loss <= ULP)) / all;
                health[1] += (wrong - wrong.round_ties_even()).abs() * ULP / all;
                health[2] = health[2].max(rows.data[n * 2]);
                health[3] += rows.data[n * 2 + 1] / (all * self.classes as f64);
            }
            health[3] = health[3].sqrt();
            out.extend(health);
        }
        vec![Array::new(&[out.len()], out)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::autograd::ops::{CrossEntropy, GatherRows};

    /// The summary of 700 rows, one of which does not count, cut into pieces of `piece`.
    fn summary_in_pieces(case: &mut Case, piece: u32) -> Var {
        let (all, count) = (case.owned(&[700, 7]), case.tape.constant(&[1], &[699.0]));
        let mut sums = None;
        for first in (0..700).step_by(piece as usize) {
            let rows: Vec<u32> = (first..700.min(first + piece)).collect();
            let targets: Vec<u32> = rows.iter().map(|row| if *row == 17 { IGNORE } else { row % 7 }).collect();
            let (n, last) = (rows.len(), first + piece >= 700);
            let rows = case.tape.constant_u32(&[n], &rows);
            let z = case.tape.push1(GatherRows, &[all, rows]).unwrap();
            let y = case.tape.constant_u32(&[n], &targets);
            let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
            let mut inputs = vec![out[0], out[1], out[2], y, count];
            inputs.extend(sums);
            sums = Some(case.tape.push1(RowSummary { first: first as usize, last, classes: 0 }, &inputs).unwrap());
        }
        sums.unwrap()
    }

    #[test]
    fn rows_that_do_not_count_have_no_extreme_margin() {
        // Their margin is 0, which would be the least of margins above it and the greatest of those below.
        for sign in [1.0, -1.0] {
            let mut case = Case::new("margins on one side");
            let z: Vec<f32> = (0..300).flat_map(|row| [sign * (2.0 + row as f32 * 0.01), 0.0]).collect();
            let targets: Vec<u32> = (0..300).map(|row| if row < 200 { 0 } else { IGNORE }).collect();
            let (z, y) = (case.tape.constant(&[300, 2], &z), case.tape.constant_u32(&[300], &targets));
            let count = case.tape.constant(&[1], &[200.0]);
            let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
            let inputs = [out[0], out[1], out[2], y, count];
            let summary = case.tape.push1(RowSummary { first: 0, last: true, classes: 0 }, &inputs).unwrap();
            for gpu in gpus() {
                for found in case.run(gpu, &[summary]).unwrap().remove(0) {
                    let margins = [found[2], found[3], found[4]].map(|margin| sign * margin);
                    let expected = if sign > 0.0 { [2.0, 2.995, 3.99] } else { [3.99, 2.995, 2.0] };
                    let apart = margins.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(apart < 1e-5, "{margins:?}");
                }
            }
        }
    }

    #[test]
    fn summaries_match_their_reference_and_do_not_depend_on_the_pieces() {
        let mut bits: Vec<Vec<Vec<f32>>> = Vec::new();
        for piece in [700, 256, 300, 77] {
            let mut case = Case::new(&format!("summary in pieces of {piece}"));
            let summary = summary_in_pieces(&mut case, piece);
            case.agree(&[summary], 5e-6);
            for (at, gpu) in gpus().iter().enumerate() {
                let found = case.run(gpu, &[summary]).unwrap().remove(0);
                match bits.get(at) {
                    Some(before) => assert_eq!(before, &found, "pieces of {piece}"),
                    None => bits.push(found),
                }
            }
        }
    }
}
