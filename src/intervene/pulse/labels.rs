//! Targets that are not the true ones for a while.

use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape};
use crate::error::Result;
use crate::gpu::{Params, Philox, Shader, Stream, Tensor, grid_1d};

crate::params! {
    struct LabelParams {
        n: u32, width: u32, left_out: u32, classes: u32, stream: u32, targets_replica: u32, ids_replica: u32,
        doses_replica: u32, classes_replica: u32, seeds_replica: u32, out_replica: u32,
    }
}
static LABELS: Shader<'_> = Shader {
    name: "intervene/labels",
    source: include_str!("../../../shaders/intervene/labels.wgsl"),
    knobs: &[],
    params: LabelParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&LABELS];

/// Targets `[N]`: with the probability that is the first dose another, drawn from all classes, at each step anew; none of examples
/// that are left out, a share of them that is the second dose, always the same ones; and none where the true one is left out.
/// Inputs: targets `[N]`; which examples they are of `[B]`; doses [2 + C]; the classes that may be left out `[C]`; seeds of both
/// draws `[4]`; clock.
pub(super) struct Labels {
    /// Classes to draw from.
    pub(super) classes: usize,
}

impl Op for Labels {
    fn name(&self) -> &'static str {
        "labels"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[2].len() != inputs[3].len() + 2 || !inputs[0].len().is_multiple_of(inputs[1].len()) {
            return Err(misfit("labels", format!("{} doses for {} classes", inputs[2].len(), inputs[3].len())));
        }
        Ok(vec![Shape::u32(&inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [targets, ids, doses, left_out, seeds, clock] = inputs else { return Err(misfit("labels", "inputs")) };
        let params = LabelParams {
            n: targets.len() as u32,
            width: (targets.len() / ids.len()) as u32,
            left_out: left_out.len() as u32,
            classes: self.classes as u32,
            stream: Stream::Labels as u32,
            targets_replica: targets.replica_stride,
            ids_replica: ids.replica_stride,
            doses_replica: doses.replica_stride,
            classes_replica: left_out.replica_stride,
            seeds_replica: seeds.replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((targets.len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&LABELS, &[], &params, &[targets, ids, doses, left_out, seeds, clock, &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [targets, ids, doses, left_out, seeds, clock] = inputs else { return Vec::new() };
        let seed = |at: usize| seeds.data[at] as u64 | (seeds.data[at + 1] as u64) << 32;
        let draw = Philox::new(seed(0), Stream::Labels, clock.data[0] as u32);
        // At a step that no run comes to.
        let once = Philox::new(seed(2), Stream::Labels, u32::MAX);
        let width = targets.data.len() / ids.data.len();
        let share = |word: u32| f64::from(word >> 8) / f64::from(1 << 24);
        let label = |i: usize| {
            let truth = targets.data[i];
            let gone = left_out.data.iter().zip(&doses.data[2..]).any(|(class, dose)| *dose != 0.0 && *class == truth)
                || share(once.words(ids.data[i / width] as u64)[0]) < doses.data[1];
            let [wrong, which, ..] = draw.words(i as u64);
            match () {
                _ if gone || truth == f64::from(IGNORE) => f64::from(IGNORE),
                _ if share(wrong) < doses.data[0] => ((u64::from(which) * self.classes as u64) >> 32) as f64,
                _ => truth,
            }
        };
        vec![Array::from_fn(&targets.dims, label)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn labels_are_those_of_the_reference() {
        for (n, width) in SIZES.into_iter().flat_map(|n| [(n, 1), (n, 3)]) {
            let mut case = Case::new("labels");
            let (targets, _) = case.targets(n * width, 9);
            let ids = case.indices(&[n], 500, true);
            let doses = case.tape.constant_owned(&[4], &[0.25, 0.4, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
            let left_out = case.tape.constant_u32(&[2], &[1, 7, 0, 2]);
            let seeds = case.tape.constant_u32(&[4], &[5, 6, 9, 10, 7, 8, 5, 6]);
            let clock = case.tape.constant_u32(&[3], &[12, 13, 0]);
            let inputs = [targets, ids, doses, left_out, seeds, clock];
            let labels = case.tape.push1(Labels { classes: 9 }, &inputs).unwrap();
            case.agree_bits(&[labels]);
        }
    }

    #[test]
    fn as_many_labels_are_wrong_as_asked_for_and_a_dose_of_nothing_changes_none() {
        let mut case = Case::new("label noise");
        let truth: Vec<u32> = (0..20_000).map(|i| if i % 10 == 0 { IGNORE } else { i % 100 }).collect();
        let targets = case.tape.constant_u32(&[truth.len()], &truth);
        let ids = case.tape.constant_u32(&[truth.len()], &(0..truth.len() as u32).collect::<Vec<_>>());
        let doses = case.tape.constant_owned(&[3], &[0.3, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let left_out = case.tape.constant_u32(&[1], &[4]);
        let seeds = case.tape.constant_u32(&[4], &[1, 0, 1, 0]);
        let clock = case.tape.constant_u32(&[3], &[3, 4, 0]);
        let labels = case.tape.push1(Labels { classes: 100 }, &[targets, ids, doses, left_out, seeds, clock]).unwrap();
        case.agree_bits(&[labels]);
        let noisy = case.reference(0, &[labels]).unwrap().remove(0).data;
        let wrong = noisy.iter().zip(&truth).filter(|(a, b)| **a != f64::from(**b)).count();
        // 18,000 of which 0.3 are drawn anew and 0.99 of those differ: five standard errors of 62.
        assert!((wrong as f64 - 18_000.0 * 0.3 * 0.99).abs() < 310.0, "{wrong}");
        let plain = case.reference(1, &[labels]).unwrap().remove(0).data;
        assert!(plain.iter().zip(&truth).all(|(a, b)| *a == f64::from(*b)));
    }

    #[test]
    fn the_same_share_of_examples_is_left_out_at_every_step_wherever_they_stand() {
        let count = 20_000;
        let left = |step: u32, reversed: bool| {
            let mut case = Case::new("a part of the examples");
            let targets = case.tape.constant_u32(&[count], &vec![1; count]);
            let own = |at: usize| if reversed { count - 1 - at } else { at } as u32;
            let ids = case.tape.constant_u32(&[count], &(0..count).map(own).collect::<Vec<_>>());
            let doses = case.tape.constant_owned(&[3], &[0.0, 0.3, 0.0, 0.0, 0.0, 0.0]);
            let left_out = case.tape.constant_u32(&[1], &[4]);
            let seeds = case.tape.constant_u32(&[4], &[1, 0, 2, 0]);
            let clock = case.tape.constant_u32(&[3], &[step, step + 1, 0]);
            let labels =
                case.tape.push1(Labels { classes: 9 }, &[targets, ids, doses, left_out, seeds, clock]).unwrap();
            case.agree_bits(&[labels]);
            assert!(case.reference(1, &[labels]).unwrap()[0].data.iter().all(|label| *label == 1.0));
            case.reference(0, &[labels]).unwrap().remove(0).data
        };
        let (first, mut other) = (left(3, false), left(900, true));
        other.reverse();
        assert_eq!(first, other);
        let gone = first.iter().filter(|label| **label == f64::from(IGNORE)).count();
        // 6,000 with a standard error of 65: five of them.
        assert!((gone as f64 - 6000.0).abs() < 325.0, "{gone}");
    }
}
