//! Numerical health: how near the training batch is to what f32 cannot tell apart.

use super::losses::health;
use crate::autograd::Var;
use crate::autograd::check::{Build, Case};
use crate::autograd::ops::CrossEntropy;
use crate::error::Result;
use crate::instrument::{Attach, Card, CostClass, Instrument, Label};
use crate::task::count_targets;

/// `softmax_collapse`, `softmax_residue`, `logit_max`, `logit_scale`.
pub(crate) struct Health;

const CARDS: &[Card] = &[
    Card {
        name: "softmax_collapse",
        formula: "share of targets with loss ≤ 2^-24: 1 + Σ_{j≠y} exp(z_j - z_y) is 1 in f32, and the naive gradient p_y - 1 is 0",
        unit: "1",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "0 until margins near 16; a naive loss in f32 stops learning from these targets, ours does not",
        source: "softmax collapse: Prieto et al. 2025, at the edge of numerical stability",
        not_for: "a fault of this run: its loss and gradients keep their precision down to 1e-38",
        bounds: Card::SHARE,
        ..Card::BASE
    },
    Card {
        name: "softmax_residue",
        formula: "mean over targets of |Σ_k ∂L/∂z_k| as the naive form has it: q = Σ_{j≠y} p_j, less q rounded to multiples of 2^-24",
        unit: "nats",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "loss.train: where the two are alike, a naive gradient would be mostly rounding",
        source: "Prieto et al. 2025; worked out from the exact loss, whose own gradient sums to 0 up to one rounding",
        not_for: "errors of the gradients of this run; losses above 0.01, where q itself is known no better than this",
        ..Card::BASE
    },
    Card {
        name: "logit_max",
        formula: "max over targets and classes of z",
        unit: "logits",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "logit_scale: what all classes have in common does not reach the loss",
        source: "Prieto et al. 2025",
        not_for: "confidence, a matter of differences",
        ..Card::BASE
    },
    Card {
        name: "logit_scale",
        formula: "root of the mean over targets and classes of (z_j - mean of z over classes)²",
        unit: "logits",
        axes: "none",
        cost: CostClass::F,
        every: 1,
        control: "weight_norm: without a norm before the unembedding, scaled weights scale the logits",
        source: "naive loss minimization: Prieto et al. 2025",
        not_for: "being right: wrong predictions grow with the scale too",
        bounds: Card::SIZE,
        ..Card::BASE
    },
];

impl Instrument for Health {
    fn name(&self) -> &'static str {
        "health"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let summary = cx.train_summary(every)?;
        for (at, card) in CARDS.iter().enumerate() {
            cx.record(self, card.name, "", summary, 5 + at, vec![Label::NONE]);
        }
        Ok(())
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[("numerical health", |c| {
    let (z, y) = (c.owned(&[257, 7]), c.indices(&[257], 7, true));
    Ok((vec![measured(c, z, y)?], Vec::new()))
})];

/// The summary of a batch with these logits.
fn measured(case: &mut Case, z: Var, targets: Var) -> Result<Var> {
    let rows = case.tape.push(CrossEntropy, &[z, targets])?;
    let count = count_targets(&mut case.tape, targets, 1)?;
    health(&mut case.tape, z, [rows[0], rows[1], rows[2]], targets, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{SIZES, gpus};
    use crate::autograd::ops::{IGNORE, LogitRows};

    #[test]
    fn logit_rows_and_health_match_their_reference() {
        for n in SIZES {
            for v in [2, 7, 113] {
                let mut case = Case::new(&format!("health {n} {v}"));
                let z = case.owned(&[n, v]);
                let rows = case.tape.push1(LogitRows, &[z]).unwrap();
                // Two passes over some hundred numbers of order 1.
                case.agree(&[rows], 5e-6);
                let y = case.indices(&[n], v as u32, true);
                let health = measured(&mut case, z, y).unwrap();
                case.agree(&[health], 5e-6);
            }
        }
    }

    /// Two classes with margins `margins`, after which come `padding` rows that do not count, copies of the first
    /// with other logits.
    fn planted(margins: &[f32], padding: usize) -> (Case, Var) {
        let mut case = Case::new("planted margins");
        let n = margins.len() + padding;
        let z: Vec<f32> = margins.iter().flat_map(|m| [*m + 3.0, 3.0]).chain([500.0; 2].repeat(padding)).collect();
        let z = case.tape.constant(&[n, 2], &z);
        let targets: Vec<u32> = (0..n).map(|i| if i < margins.len() { 0 } else { IGNORE }).collect();
        let targets = case.tape.constant_u32(&[n], &targets);
        let health = measured(&mut case, z, targets).unwrap();
        (case, health)
    }

    #[test]
    fn collapse_is_where_the_naive_softmax_has_no_gradient_left() {
        // Margins on both sides of 24 ln 2 = 16.64, where exp(-margin) is half a unit of f32 above 1.
        let margins = [8.0, 10.0, 16.0, 16.5, 16.7, 17.0, 30.0, 80.0];
        let naive = |margin: f32| (1.0 + (-margin).exp()) == 1.0f32;
        let share = margins.iter().filter(|m| naive(**m)).count() as f32 / 8.0;
        assert!((share - 0.5).abs() < 1e-6);
        let (case, health) = planted(&margins, 0);
        // The naive form's sum of the gradient over classes, in f32 with the wrong class's part exact.
        let residue = |margin: f32| {
            let p = 1.0 / (1.0 + (-f64::from(margin)).exp());
            (f64::from(p as f32) - 1.0 + 1.0 / (1.0 + f64::from(margin).exp())).abs()
        };
        let residue = margins.iter().map(|m| residue(*m)).sum::<f64>() / 8.0;
        for gpu in gpus() {
            for found in case.run(gpu, &[health]).unwrap().remove(0) {
                let found = &found[5..];
                assert_eq!(found[0], share, "{}", gpu.caps().name);
                // exp is off by up to 20 units in its last place at a margin of 8: 0.01 of the residue there.
                assert!((f64::from(found[1]) - residue).abs() < 0.05 * residue, "{} for {residue}", found[1]);
                assert_eq!(found[2], 83.0);
                let scale = margins.iter().map(|m| m * m / 4.0).sum::<f32>() / 8.0;
                assert!((found[3] / scale.sqrt() - 1.0).abs() < 1e-6, "{}", found[3]);
            }
        }
    }

    #[test]
    fn rows_that_do_not_count_change_nothing() {
        let margins: Vec<f32> = (0..300).map(|i| i as f32 * 0.07).collect();
        let ((alone, a), (padded, b)) = (planted(&margins, 0), planted(&margins, 400));
        for gpu in gpus() {
            // Padding comes last, so that every lane adds the same numbers in the same order.
            assert_eq!(alone.run(gpu, &[a]).unwrap(), padded.run(gpu, &[b]).unwrap());
        }
    }
}
