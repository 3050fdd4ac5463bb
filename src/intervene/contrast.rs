//! Outcomes by example, and what changes between them: paired differences with their standard errors.

use super::OUTCOMES;
use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct SumParams { predictions: u32, first: u32, len: u32, x_replica: u32, before_replica: u32, y_replica: u32 }
}
static EXAMPLE_SUMS: Shader<'_> = Shader {
    name: "intervene/example_sums",
    source: include_str!("../../shaders/intervene/example_sums.wgsl"),
    knobs: &[Knob { name: "BEFORE", values: &[0, 1] }],
    params: SumParams::FIELDS,
};
crate::params! {
    struct ContrastParams {
        interventions: u32, examples: u32, predictions: u32, terms: u32,
        x_replica: u32, against_replica: u32, target_replica: u32, count_replica: u32, y_replica: u32,
    }
}
static CONTRASTS: Shader<'_> = Shader {
    name: "intervene/contrasts",
    source: include_str!("../../shaders/intervene/contrasts.wgsl"),
    knobs: &[],
    params: ContrastParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&EXAMPLE_SUMS, &CONTRASTS];

/// Outcomes by example [F + I, E, 8]: sums over its predictions, behind the F of earlier interventions. Inputs: outcomes
/// [I * E * T, 8], and the earlier result.
pub struct ExampleSums {
    /// E.
    pub examples: usize,
    /// T: predictions of an example.
    pub predictions: usize,
}

impl Op for ExampleSums {
    fn name(&self) -> &'static str {
        "example sums"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (rows, group) = (inputs[0].rows().0, self.examples * self.predictions);
        if !rows.is_multiple_of(group) {
            return Err(misfit("example sums", format!("{rows} predictions in groups of {group}")));
        }
        let before = inputs.get(1).map_or(0, |s| s.dims[0]);
        Ok(vec![like(inputs, &[before + rows / group, self.examples, OUTCOMES])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (before, y) = (inputs.get(1), &outputs[0]);
        let params = SumParams {
            predictions: self.predictions as u32,
            first: before.map_or(0, Tensor::len) as u32,
            len: y.len() as u32,
            x_replica: inputs[0].replica_stride,
            before_replica: before.map_or(0, |t| t.replica_stride),
            y_replica: y.replica_stride,
        };
        let tensors: Vec<&Tensor> = [&inputs[0], y].into_iter().chain(before).collect();
        let grid = grid_1d((y.len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&EXAMPLE_SUMS, &[u32::from(before.is_some())], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut data = inputs.get(1).map_or_else(Vec::new, |before| before.data.clone());
        for example in inputs[0].data.chunks_exact(self.predictions * OUTCOMES) {
            data.extend((0..OUTCOMES).map(|c| example.iter().skip(c).step_by(OUTCOMES).sum::<f64>()));
        }
        vec![Array::new(&[data.len() / self.examples / OUTCOMES, self.examples, OUTCOMES], data)]
    }
}

/// What a kernel writes where there is no number to write: it ran into a bound, or nothing varies. What diverged stays what
/// it is, infinite or no number. See `UNKNOWN` in `shaders/shared/numerics.wgsl`.
pub const UNKNOWN: f32 = 3.2e38;

/// Part of what is added up that rounding may be: 2^-22.
pub const ROUNDING: f64 = 2.384_185_791_015_625e-7;

/// Contrasts of interventions, [16 I + 1]: for each of the 8 columns the means over predictions of
/// u = x_i + Σ_f factor\[i, f\] against\[term\[i, f\]\], for all i; the same for their standard errors; and E, how many examples
/// count. Predictions of an example are not independent, so errors are those of examples, n_e of the N predictions in each:
/// √(E/(E - 1) Σ_e (u_e - n_e mean)²) / N, and no less than what f32 can tell, 2^-22 of the mean size of what is added up; no
/// number ([`UNKNOWN`]) where one example is all. Inputs: x [I, E, 8] and against [J, E, 8], outcomes by example; targets [E * T], count
/// `[1]`; term and factor [I, F].
pub struct Contrasts;

impl Op for Contrasts {
    fn name(&self) -> &'static str {
        "contrasts"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ([interventions, e, _], [_, f, _]) = (&inputs[0].dims[..], &inputs[1].dims[..]) else {
            return Err(misfit("contrasts", format!("{:?} against {:?}", inputs[0].dims, inputs[1].dims)));
        };
        let fits = e == f && inputs[2].len().is_multiple_of(*e) && inputs[4].len() == inputs[5].len();
        if !fits || inputs[4].rows().0 != *interventions {
            return Err(misfit("contrasts", format!("{:?} against {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[2 * OUTCOMES * interventions + 1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, against, targets, count, term, factor] = inputs else { return Err(misfit("contrasts", "inputs")) };
        let (interventions, examples) = (x.dims[0], x.dims[1]);
        let params = ContrastParams {
            interventions: interventions as u32,
            examples: examples as u32,
            predictions: (targets.len() / examples) as u32,
            terms: (term.len() / interventions) as u32,
            x_replica: x.replica_stride,
            against_replica: against.replica_stride,
            target_replica: targets.replica_stride,
            count_replica: count.replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors = [x, against, targets, count, term, factor, &outputs[0]];
        cx.dispatch(&CONTRASTS, &[], &params, &tensors, [interventions as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, against, total) = (inputs[0], inputs[1], inputs[3].data[0]);
        let (interventions, examples) = (x.dims[0], x.dims[1]);
        let terms = inputs[4].data.len() / interventions;
        let predictions = inputs[2].data.len() / examples;
        let counted: Vec<f64> = inputs[2]
            .data
            .chunks_exact(predictions)
            .map(|targets| targets.iter().filter(|target| **target != f64::from(IGNORE)).count() as f64)
            .collect();
        let held = counted.iter().filter(|n| **n > 0.0).count() as f64;
        let mut y = vec![held; 2 * OUTCOMES * interventions + 1];
        for (i, c) in (0..interventions).flat_map(|i| (0..OUTCOMES).map(move |c| (i, c))) {
            let parts = |e: usize| {
                let own = x.data[(i * examples + e) * OUTCOMES + c];
                let others = (i * terms..(i + 1) * terms)
                    .map(move |f| inputs[5].data[f] * against.data[(inputs[4].index(f) * examples + e) * OUTCOMES + c]);
                std::iter::once(own).chain(others)
            };
            let mean = (0..examples).flat_map(parts).sum::<f64>() / total;
            let size = (0..examples).flat_map(parts).map(f64::abs).sum::<f64>() / total;
            let apart = |e: usize| parts(e).sum::<f64>() - counted[e] * mean;
            let squares = (0..examples).map(|e| apart(e).powi(2)).sum::<f64>() / total.powi(2);
            let error = (squares * held / (held - 1.0).max(1.0) + (ROUNDING * size).powi(2)).sqrt();
            y[c * interventions + i] = mean;
            y[(OUTCOMES + c) * interventions + i] = if held > 1.0 { error } else { f64::from(UNKNOWN) };
        }
        vec![Array::new(&[y.len()], y)]
    }
}

pub(super) const CHECKS: &[(&str, Build)] = &[("contrasts", |case| Ok((everything(case, 31, 3, 2)?, Vec::new())))];

/// Both ops, on one case: `groups` interventions on `examples` of `predictions` each, against three others.
fn everything(case: &mut Case, examples: usize, predictions: usize, groups: usize) -> Result<Vec<Var>> {
    let n = examples * predictions;
    let (rows, more) = (case.owned(&[groups * n, OUTCOMES]), case.owned(&[2 * n, OUTCOMES]));
    let earlier = case.owned(&[1, examples, OUTCOMES]);
    let (targets, count) = case.targets(n, 7);
    let tape = &mut case.tape;
    let sums = ExampleSums { examples, predictions };
    let x = tape.push1(ExampleSums { ..sums }, &[rows])?;
    let against = tape.push1(sums, &[more, earlier])?;
    let terms: Vec<u32> = (0..2 * groups as u32).map(|at| at % 3).collect();
    let factors: Vec<f32> = (0..2 * groups).map(|at| [-1.0, 0.5, -2.0, 0.0][at % 4]).collect();
    let (terms, factors) = (tape.constant_u32(&[groups, 2], &terms), tape.constant(&[groups, 2], &factors));
    Ok(vec![x, against, tape.push1(Contrasts, &[x, against, targets, count, terms, factors])?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::gpus;

    #[test]
    fn ops_match_their_references() {
        for (examples, predictions, groups) in [(2, 1, 1), (3, 31, 2), (31, 1, 3), (64, 3, 4), (257, 5, 2)] {
            let mut case = Case::new(&format!("contrasts {examples} {predictions} {groups}"));
            let all = everything(&mut case, examples, predictions, groups).unwrap();
            // Sums of up to 1285 terms of either sign.
            case.agree(&all, 1e-4);
        }
    }

    /// Contrasts of one intervention with nothing, of outcomes that are all `value(prediction)`.
    fn errors(targets: &[u32], examples: usize, value: impl Fn(usize) -> f32) -> Vec<f32> {
        let n = targets.len();
        let mut case = Case::new("errors");
        let rows: Vec<f32> = (0..n * OUTCOMES).map(|at| value(at / OUTCOMES)).collect();
        let rows = case.tape.constant(&[n, OUTCOMES], &rows);
        let counted = targets.iter().filter(|target| **target != IGNORE).count();
        let (targets, count) = (case.tape.constant_u32(&[n], targets), case.tape.constant(&[1], &[counted as f32]));
        let sums = ExampleSums { examples, predictions: n / examples };
        let x = case.tape.push1(sums, &[rows]).unwrap();
        let (term, factor) = (case.tape.constant_u32(&[1, 1], &[0]), case.tape.constant(&[1, 1], &[0.0]));
        let y = case.tape.push1(Contrasts, &[x, x, targets, count, term, factor]).unwrap();
        case.run(&gpus()[0], &[y]).unwrap().remove(0).remove(0)
    }

    #[test]
    fn errors_are_those_of_examples_and_not_of_their_predictions() {
        // 1 to 10 once each: deviation 3.0277, error 3.0277/√10. The last two do not count.
        let targets: Vec<u32> = (0..12).map(|at| if at < 10 { 0 } else { IGNORE }).collect();
        let value = |at: usize| if at < 10 { at as f32 + 1.0 } else { 0.0 };
        let found = errors(&targets, 12, value);
        assert!((found[0] - 5.5).abs() < 1e-6 && (found[8] - 0.957_427).abs() < 1e-5, "{found:?}");
        assert_eq!(found[16], 10.0);
        // Each of them four times within its example says nothing more.
        let repeated: Vec<u32> = targets.iter().flat_map(|target| [*target; 4]).collect();
        let found = errors(&repeated, 12, |at| value(at / 4));
        assert!((found[0] - 5.5).abs() < 1e-6 && (found[8] - 0.957_427).abs() < 1e-5, "{found:?}");
        assert_eq!(found[16], 10.0);
        // What is the same in all examples is known to rounding, and one example has no error.
        let found = errors(&targets, 12, |at| if at < 10 { 3.0 } else { 0.0 });
        assert!((found[8] - 3.0 * ROUNDING as f32).abs() < 1e-9, "{found:?}");
        let found = errors(&targets, 1, value);
        assert!(found[0] == 5.5 && found[8] == UNKNOWN && found[16] == 1.0, "{found:?}");
    }
}
