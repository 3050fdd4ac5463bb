//! Targets that are not the true ones for a while.

use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape};
use crate::error::Result;
use crate::gpu::{Params, Philox, Shader, Stream, Tensor, grid_1d};

crate::params! {
    struct LabelParams {
        n: u32, left_out: u32, classes: u32, stream: u32, targets_replica: u32, doses_replica: u32, classes_replica: u32,
        seeds_replica: u32, out_replica: u32,
    }
}
static LABELS: Shader<'_> = Shader {
    name: "intervene/labels",
    source: include_str!("../../../shaders/intervene/labels.wgsl"),
    knobs: &[],
    params: LabelParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&LABELS];

/// Targets `[N]`: with the probability that is the first dose another, drawn from all classes, at each step anew; and none where
/// the true one is left out. Inputs: targets `[N]`; doses [1 + C]; the classes that may be left out `[C]`; seeds `[2]`; clock.
pub(super) struct Labels {
    /// Classes to draw from.
    pub(super) classes: usize,
}

impl Op for Labels {
    fn name(&self) -> &'static str {
        "labels"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[1].len() != inputs[2].len() + 1 {
            return Err(misfit("labels", format!("{} doses for {} classes", inputs[1].len(), inputs[2].len())));
        }
        Ok(vec![Shape::u32(&inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [targets, doses, left_out, seeds, clock] = inputs else { return Err(misfit("labels", "inputs")) };
        let params = LabelParams {
            n: targets.len() as u32,
            left_out: left_out.len() as u32,
            classes: self.classes as u32,
            stream: Stream::Labels as u32,
            targets_replica: targets.replica_stride,
            doses_replica: doses.replica_stride,
            classes_replica: left_out.replica_stride,
            seeds_replica: seeds.replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((targets.len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&LABELS, &[], &params, &[targets, doses, left_out, seeds, clock, &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [targets, doses, left_out, seeds, clock] = inputs else { return Vec::new() };
        let seed = seeds.data[0] as u64 | (seeds.data[1] as u64) << 32;
        let draw = Philox::new(seed, Stream::Labels, clock.data[0] as u32);
        let label = |i: usize| {
            let truth = targets.data[i];
            let gone = left_out.data.iter().zip(&doses.data[1..]).any(|(class, dose)| *dose != 0.0 && *class == truth);
            let [wrong, which, ..] = draw.words(i as u64);
            match () {
                _ if gone || truth == f64::from(IGNORE) => f64::from(IGNORE),
                _ if f64::from(wrong >> 8) / f64::from(1 << 24) < doses.data[0] => {
                    ((u64::from(which) * self.classes as u64) >> 32) as f64
                }
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
        for n in SIZES {
            let mut case = Case::new("labels");
            let (targets, _) = case.targets(n, 9);
            let doses = case.tape.constant_owned(&[3], &[0.25, 0.0, 1.0, 1.0, 1.0, 0.0]);
            let left_out = case.tape.constant_u32(&[2], &[1, 7, 0, 2]);
            let seeds = case.tape.constant_u32(&[2], &[5, 6, 7, 8]);
            let clock = case.tape.constant_u32(&[3], &[12, 13, 0]);
            let inputs = [targets, doses, left_out, seeds, clock];
            let labels = case.tape.push1(Labels { classes: 9 }, &inputs).unwrap();
            case.agree_bits(&[labels]);
        }
    }

    #[test]
    fn as_many_labels_are_wrong_as_asked_for_and_a_dose_of_nothing_changes_none() {
        let mut case = Case::new("label noise");
        let truth: Vec<u32> = (0..20_000).map(|i| if i % 10 == 0 { IGNORE } else { i % 100 }).collect();
        let targets = case.tape.constant_u32(&[truth.len()], &truth);
        let doses = case.tape.constant_owned(&[2], &[0.3, 0.0, 0.0, 0.0]);
        let left_out = case.tape.constant_u32(&[1], &[4]);
        let seeds = case.tape.constant_u32(&[2], &[1, 0]);
        let clock = case.tape.constant_u32(&[3], &[3, 4, 0]);
        let labels = case.tape.push1(Labels { classes: 100 }, &[targets, doses, left_out, seeds, clock]).unwrap();
        case.agree_bits(&[labels]);
        let noisy = case.reference(0, &[labels]).unwrap().remove(0).data;
        let wrong = noisy.iter().zip(&truth).filter(|(a, b)| **a != f64::from(**b)).count();
        // 18,000 of which 0.3 are drawn anew and 0.99 of those differ: five standard errors of 62.
        assert!((wrong as f64 - 18_000.0 * 0.3 * 0.99).abs() < 310.0, "{wrong}");
        let plain = case.reference(1, &[labels]).unwrap().remove(0).data;
        assert!(plain.iter().zip(&truth).all(|(a, b)| *a == f64::from(*b)));
    }
}
