//! For groups that do not commute: which irreducible representations weights, neurons and logits are made of.

use super::fourier::weight_energies;
use super::fourier_ops::{ColumnSquares, RowSquares};
use super::parts::Parts;
use super::synchrony::{answer_means, last_rows};
use crate::autograd::ops::Linear;
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label};

/// `irrep_power`.
pub(crate) struct IrrepPower;

const CARDS: &[Card] = &[Card {
    name: "irrep_power",
    formula: "‖P_ρ W‖², P_ρ[x, y] = d_ρ/n χ_ρ(x⁻¹ y) the projection of functions on the group onto irrep ρ",
    unit: "1",
    axes: "site: embed.W_E along tokens, W_L along classes, mlp.hook_post (and layer) along answers, logits along classes, the last two as means over the training batch for each answer; index: irrep, for S5 of the partitions 1 (1⁵), 2 (4 1), 3 (2 1³), 4 (3 2), 5 (2² 1), 6 (3 1²)",
    cost: CostClass::L,
    every: 10,
    control: "in proportion to d_ρ², 1 16 16 25 25 36 for S5, for initial weights; all irreps together are everything but the mean",
    source: "Chughtai et al. 2023 (2302.03025); isotypic projection",
    not_for: "whether the model uses the representation: embeddings may hold what the logits ignore",
    bounds: Card::SIZE,
    index: Index::Counts("irrep, in the order of axes"),
    ..Card::BASE
}];

impl Instrument for IrrepPower {
    fn name(&self) -> &'static str {
        "irreps"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let (Some(group), Some(every)) = (cx.task.irreps().map(|group| Parts::irreps(&group)), cx.cadence(self)) else {
            return Ok(());
        };
        let (model, train) = (cx.model, cx.train);
        let mut sites = vec![("embed.W_E".to_owned(), -1), ("W_L".to_owned(), -1), ("logits".to_owned(), -1)];
        if model.config.has_mlp() {
            sites.extend((0..model.config.n_layers).map(|l| (format!("blocks.{l}.mlp.hook_post"), l as i32)));
        }
        let powers = cx.tape.at_cadence(every, |tape| {
            let mut energies = weight_energies(tape, model, &group)?.to_vec();
            energies.push(along_classes(tape, &group, train.forward.logits, train.batch.targets)?);
            for (site, _) in &sites[3..] {
                let hidden = last_rows(tape, train.forward.hook(site)?)?;
                energies.push(along_answers(tape, &group, hidden, train.batch.targets)?);
            }
            let membership = group.membership(tape);
            let power = |energies: Var| {
                let row = tape.reshape(energies, &[1, group.order])?;
                tape.push1(Linear::default(), &[row, membership])
            };
            energies.into_iter().map(power).collect::<Result<Vec<_>>>()
        })?;
        for ((site, layer), power) in sites.iter().zip(powers) {
            let label = |index| Label { layer: *layer, head: -1, index };
            let labels = (1..=group.count() as i32).map(label).collect();
            cx.record(self, "irrep_power", site, power, 0, labels);
        }
        Ok(())
    }
}

/// Energy of each component along the answers of the mean of x [B, C] for each answer: [n].
fn along_answers(tape: &mut Tape, group: &Parts, x: Var, targets: Var) -> Result<Var> {
    let means = answer_means(tape, group, x, targets)?;
    let basis = group.over(tape, &group.classes, group.classes.len());
    let components = tape.push1(Linear::default(), &[basis, means])?;
    tape.push1(RowSquares, &[components])
}

/// Energy of each component along the classes of the mean logits [B, V] for each answer: [n].
fn along_classes(tape: &mut Tape, group: &Parts, logits: Var, targets: Var) -> Result<Var> {
    let means = answer_means(tape, group, logits, targets)?;
    let columns = tape.shape(logits).rows().1;
    let basis = group.over(tape, &group.classes, columns);
    let components = tape.push1(Linear { transposed: true, ..Linear::default() }, &[means, basis])?;
    tape.push1(ColumnSquares, &[components])
}

#[cfg(test)]
mod tests {
    use super::super::parts::tests::symmetric;
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::autograd::ops::IGNORE;
    use crate::task::{Permutation, Task as _};

    #[test]
    fn planted_irreps_are_found_along_answers_and_classes_and_energy_adds_up() {
        let group = symmetric(5);
        let characters = Permutation::new(5).irreps().unwrap();
        for padded in [0, 5] {
            let mut case = Case::new("irrep power");
            let count = 120 + padded;
            let targets: Vec<u32> = (0..count as u32).map(|g| if g < 120 { g } else { IGNORE }).collect();
            let targets = case.tape.constant_u32(&[count], &targets);
            // logit of class c for answer g: χ_4(g⁻¹ c), the projection onto irrep 4 but for its factor d/n.
            let logit = |g: usize, c: usize| characters.characters[4][characters.quotients[g * 120 + c]];
            let value = |at: usize| if at / 121 >= 120 || at % 121 == 120 { 7.0 } else { logit(at / 121, at % 121) };
            let data: Vec<f32> = (0..count * 121).map(|at| value(at) as f32).collect();
            let logits = case.tape.constant(&[count, 121], &data);
            let noise = case.owned(&[count, 9]);
            let hidden = answer_means(&mut case.tape, &group, noise, targets).unwrap();
            let squares = case.tape.push1(ColumnSquares, &[hidden]).unwrap();
            let answers = along_answers(&mut case.tape, &group, noise, targets).unwrap();
            let classes = along_classes(&mut case.tape, &group, logits, targets).unwrap();
            for gpu in gpus() {
                let found = case.run(gpu, &[classes, answers, squares]).unwrap();
                for (component, energy) in found[0][0].iter().enumerate() {
                    // (n/d)² for each of d² dimensions.
                    let inside = (group.starts[3]..group.starts[4]).contains(&(component as u32));
                    let expected = if inside { (120.0f32 / 5.0).powi(2) } else { 0.0 };
                    assert!((energy - expected).abs() < 1e-2, "{component}: {energy}");
                }
                for (energies, squares) in found[1].iter().zip(&found[2]) {
                    let (all, whole) = (energies.iter().sum::<f32>(), squares.iter().sum::<f32>());
                    assert!((all / whole - 1.0).abs() < 1e-5, "{all} and {whole}");
                }
            }
        }
    }
}
