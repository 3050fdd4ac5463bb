//! An instrument: how large the logits are.

use thermoscope::autograd::ops::{ColumnSum, MeanRows};
use thermoscope::autograd::{Tape, Var};
use thermoscope::instrument::{Attach, Card, CostClass, Instrument, Label};
use thermoscope::Result;

use crate::square::Square;

/// `logit_square`.
pub struct LogitSquare;

const CARDS: &[Card] = &[Card {
    name: "logit_square",
    formula: "mean of z² over the rows of the training batch and all classes",
    unit: "logits²",
    axes: "site: logits",
    cost: CostClass::L,
    every: 10,
    control: "that of an untrained model, at step 0",
    source: "definition",
    not_for: "confidence: what all classes have in common counts too",
    bounds: Card::SIZE,
    ..Card::BASE
}];

impl Instrument for LogitSquare {
    fn name(&self) -> &'static str {
        "logit_size"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let logits = cx.train.forward.logits;
        let mean = cx.tape.at_cadence(every, |tape| mean_square(tape, logits))?;
        cx.record(self, "logit_square", "logits", mean, 0, vec![Label::NONE]);
        Ok(())
    }
}

/// Mean of x² over all elements of x [N, V], [1].
fn mean_square(tape: &mut Tape, x: Var) -> Result<Var> {
    let count = tape.shape(x).len() as f32;
    let count = tape.constant(&[1], &[count]);
    let squares = tape.push1(Square::default(), &[x])?;
    let sums = tape.push1(ColumnSum, &[squares])?;
    tape.push1(MeanRows, &[sums, count])
}

#[cfg(test)]
mod tests {
    use thermoscope::autograd::check::Case;

    use super::*;

    #[test]
    fn the_mean_square_matches_its_reference() {
        let mut case = Case::new("logit square");
        let z = case.owned(&[31, 7]);
        let mean = mean_square(&mut case.tape, z).unwrap();
        // Terms of one sign: a dozen roundings of 6e-8 on a way through the tree.
        case.agree(&[mean], 1e-6);
    }
}
