//! How far predictions can be trusted: reliability in bins, calibration errors, and the temperature at which they would be
//! best.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::ops::IGNORE;
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use crate::instrument::UNKNOWN;
use crate::intervene::column::{CORRECT, DOUBT};
use crate::intervene::{OUTCOMES, Probe, ROUNDING};

/// Bins of a reliability diagram.
pub(crate) const BINS: usize = 15;

crate::params! {
    struct RankParams { rows: u32, groups: u32, classes: u32, x_replica: u32, target_replica: u32, rank_replica: u32 }
}
static RANK: Shader<'_> = Shader {
    name: "instrument/ablation/confidence_rank",
    source: include_str!("../../../shaders/instrument/ablation/confidence_rank.wgsl"),
    knobs: &[],
    params: RankParams::FIELDS,
};
crate::params! {
    struct ReliabilityParams {
        rows: u32, classes: u32, x_replica: u32, target_replica: u32, count_replica: u32, rank_replica: u32,
        bins_replica: u32, error_replica: u32,
    }
}
static RELIABILITY: Shader<'_> = Shader {
    name: "instrument/ablation/reliability",
    source: include_str!("../../../shaders/instrument/ablation/reliability.wgsl"),
    knobs: &[],
    params: ReliabilityParams::FIELDS,
};
crate::params! {
    struct TemperatureParams {
        rows: u32, group: u32, classes: u32, z_replica: u32, target_replica: u32, b_replica: u32, out_replica: u32,
    }
}
static TEMPERATURE_ROWS: Shader<'_> = Shader {
    name: "instrument/ablation/temperature_rows",
    source: include_str!("../../../shaders/instrument/ablation/temperature_rows.wgsl"),
    knobs: &[Knob { name: "FIRST", values: &[0, 1] }, Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: TemperatureParams::FIELDS,
};
crate::params! {
    struct StepParams { rows: u32, x_replica: u32, count_replica: u32, b_replica: u32, out_replica: u32, factor: f32, bound: f32 }
}
static TEMPERATURE_STEP: Shader<'_> = Shader {
    name: "instrument/ablation/temperature_step",
    source: include_str!("../../../shaders/instrument/ablation/temperature_step.wgsl"),
    knobs: &[Knob { name: "FIRST", values: &[0, 1] }, Knob { name: "LAST", values: &[0, 1] }],
    params: StepParams::FIELDS,
};
crate::params! {
    struct ErrorParams {
        examples: u32, predictions: u32, x_replica: u32, clean_replica: u32, t_replica: u32, clean_t_replica: u32,
        target_replica: u32, count_replica: u32, y_replica: u32,
    }
}
static MATCHED_ERROR: Shader<'_> = Shader {
    name: "instrument/ablation/matched_error",
    source: include_str!("../../../shaders/instrument/ablation/matched_error.wgsl"),
    knobs: &[],
    params: ErrorParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&RANK, &RELIABILITY, &TEMPERATURE_ROWS, &TEMPERATURE_STEP, &MATCHED_ERROR];

/// How far the predictions of some logits [I * N, V] can be trusted.
#[derive(Clone, Copy)]
pub(super) struct Calibration {
    /// Reliability bins [I, 15, 3]: see [`Reliability`].
    pub(super) bins: Var,
    /// Calibration errors [I, 2].
    pub(super) errors: Var,
    /// Best temperatures and the losses there, [I, 2]: see [`Temperature`].
    pub(super) temperature: Var,
    /// Losses of all predictions there, and their slopes, [I * N, 2].
    losses: Var,
}

impl Calibration {
    /// Of logits [I * N, V] and their outcomes [I * N, 8].
    pub(super) fn of(tape: &mut Tape, probe: &Probe<'_>, logits: Var, rows: Var) -> Result<Self> {
        let (targets, count) = (probe.pass.batch.targets, probe.pass.batch.count);
        let classes = tape.shape(logits).rows().1;
        let (bins, errors) = two(tape.push(Reliability { classes }, &[rows, targets, count])?)?;
        let (temperature, losses) = two(tape.push(Temperature, &[logits, targets, count])?)?;
        Ok(Self { bins, errors, temperature, losses })
    }

    /// Standard errors of what is changed, from a clean pass, in the mean loss at the best temperature: see [`MatchedError`], `[I]`.
    pub(super) fn matched_error(self, tape: &mut Tape, probe: &Probe<'_>, clean: Self) -> Result<Var> {
        let (batch, matched) = (&probe.pass.batch, MatchedError { examples: probe.pass.batch.size });
        let inputs = [self.losses, clean.losses, self.temperature, clean.temperature, batch.targets, batch.count];
        tape.push1(matched, &inputs)
    }
}

fn two(outputs: Vec<Var>) -> Result<(Var, Var)> {
    let [a, b] = outputs[..] else { return Err(misfit("calibration", "outputs")) };
    Ok((a, b))
}

/// Reliability in 15 bins of equal mass, or as near to it as predictions of equal confidence, which share a bin, allow, [I, 15, 3] (rows, sum of correct, sum of confidence), and [I, 2]: the
/// expected calibration error Σ n_b/N |acc_b - conf_b|, and its square freed from what finite bins add,
/// Σ n_b/N ((acc_b - conf_b)² - acc_b (1 - acc_b)/(n_b - 1)) (Kumar, Liang, Ma 2019), whose expectation is 0
/// for a calibrated model. Inputs: outcomes [I * N, 8], targets `[N]`, how many count `[1]`.
pub(crate) struct Reliability {
    /// Classes; a target beyond them does not count.
    pub(crate) classes: usize,
}

impl Op for Reliability {
    fn name(&self) -> &'static str {
        "reliability"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let groups = inputs[0].rows().0 / inputs[1].len();
        Ok(vec![like(inputs, &[groups, BINS, 3]), like(inputs, &[groups, 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, targets, count] = inputs else { return Err(misfit("reliability", "inputs")) };
        let (rows, groups) = (targets.len(), outputs[1].len() / 2);
        let rank = cx.scratch(&[groups * rows]);
        let params = RankParams {
            rows: rows as u32,
            groups: groups as u32,
            classes: self.classes as u32,
            x_replica: x.replica_stride,
            target_replica: targets.replica_stride,
            rank_replica: rank.replica_stride,
        };
        let grid = grid_1d(((groups * rows) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&RANK, &[], &params, &[x, targets, &rank], grid)?;
        let params = ReliabilityParams {
            rows: rows as u32,
            classes: self.classes as u32,
            x_replica: x.replica_stride,
            target_replica: targets.replica_stride,
            count_replica: count.replica_stride,
            rank_replica: rank.replica_stride,
            bins_replica: outputs[0].replica_stride,
            error_replica: outputs[1].replica_stride,
        };
        let tensors = [x, targets, count, &rank, &outputs[0], &outputs[1]];
        cx.dispatch(&RELIABILITY, &[], &params, &tensors, [groups as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (targets, total) = (inputs[1], inputs[2].data[0]);
        let rows = targets.data.len();
        let groups = inputs[0].rows().0 / rows;
        let (mut bins, mut errors) = (Array::zeros(&[groups, BINS, 3]), Array::zeros(&[groups, 2]));
        for group in 0..groups {
            let x = |row: usize, column: usize| inputs[0].data[(group * rows + row) * OUTCOMES + column];
            let mut order: Vec<usize> = (0..rows).filter(|row| targets.data[*row] != f64::from(IGNORE)).collect();
            order.sort_by(|a, b| x(*b, DOUBT).total_cmp(&x(*a, DOUBT)));
            let mut doubts = [0.0; BINS];
            for row in &order {
                let rank = order.partition_point(|other| x(*other, DOUBT) > x(*row, DOUBT));
                let place = rank * BINS / total as usize;
                let bin = &mut bins.data[(group * BINS + place) * 3..][..3];
                bin[0] += 1.0;
                bin[1] += x(*row, CORRECT);
                doubts[place] += x(*row, DOUBT);
            }
            let bins = bins.data[group * BINS * 3..][..BINS * 3].chunks_exact_mut(3).zip(doubts);
            for (bin, doubt) in bins.filter(|(bin, _)| bin[0] > 0.0) {
                let (n, accuracy) = (bin[0], bin[1] / bin[0]);
                bin[2] = n - doubt;
                let gap = (doubt - (n - bin[1])) / n;
                errors.data[group * 2] += n / total * gap.abs();
                if n > 1.0 {
                    errors.data[group * 2 + 1] += n / total * (gap * gap - accuracy * (1.0 - accuracy) / (n - 1.0));
                }
            }
        }
        vec![bins, errors]
    }
}

/// Halvings of the interval in which the logarithm of the temperature lies: to 1e-4 of it.
const STEPS: i32 = 16;

/// Logarithm to base 2 of temperature or its inverse beyond which all steps went the same way, or all but the last: the
/// search ended at its bound of 5.
const BOUND: f32 = 4.9997;

/// What a halving multiplies or divides the inverse temperature by: from 1, the first reaches the middle of a half of
/// [1/32, 32].
fn factor(step: i32) -> f64 {
    2f64.powf(5.0 / 2f64.powi(step + 1))
}

/// The temperature within [1/32, 32] at which the mean loss is least, and that loss, [I, 2], both [`UNKNOWN`] where the
/// search ends at a bound; and the loss of each prediction where it ended, with its derivative by 1/T, [I * N, 2]. Inputs:
/// logits [I * N, V], targets `[N]`, how many count `[1]`. The loss is convex in 1/T, so bisection finds it; where its slope is
/// no finite number, neither is the temperature.
pub(crate) struct Temperature;

impl Op for Temperature {
    fn name(&self) -> &'static str {
        "temperature"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let rows = inputs[0].rows().0;
        Ok(vec![like(inputs, &[rows / inputs[1].len(), 2]), like(inputs, &[rows, 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [z, targets, count] = inputs else { return Err(misfit("temperature", "inputs")) };
        let [found, derivatives] = outputs else { return Err(misfit("temperature", "outputs")) };
        let (group, groups) = (targets.len(), found.len() / 2);
        let rows = groups * group;
        let mut inverse: Option<Tensor> = None;
        for step in 0..=STEPS {
            let first = u32::from(step == 0);
            let b_replica = inverse.as_ref().map_or(0, |t| t.replica_stride);
            let params = TemperatureParams {
                rows: rows as u32,
                group: group as u32,
                classes: (z.len() / rows) as u32,
                z_replica: z.replica_stride,
                target_replica: targets.replica_stride,
                b_replica,
                out_replica: derivatives.replica_stride,
            };
            let (subgroups, grid) = cx.by_rows(rows, 64);
            let mut tensors = vec![z, targets, derivatives];
            tensors.extend(&inverse);
            cx.dispatch(&TEMPERATURE_ROWS, &[first, subgroups], &params, &tensors, grid)?;
            let last = step == STEPS;
            let next = if last { None } else { Some(cx.scratch(&[groups])) };
            let out = next.as_ref().unwrap_or(found);
            let params = StepParams {
                rows: group as u32,
                x_replica: derivatives.replica_stride,
                count_replica: count.replica_stride,
                b_replica,
                out_replica: out.replica_stride,
                factor: factor(step) as f32,
                bound: BOUND,
            };
            let mut tensors = vec![derivatives, count, out];
            tensors.extend(&inverse);
            cx.dispatch(
                &TEMPERATURE_STEP,
                &[first, u32::from(last)],
                &params,
                &tensors,
                [groups as u32, 1, cx.replicas],
            )?;
            inverse = next;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, v) = inputs[0].rows();
        let group = inputs[1].data.len();
        let counted: Vec<usize> = (0..group).filter(|row| inputs[1].data[*row] != f64::from(IGNORE)).collect();
        let (mut out, mut losses) = (Array::zeros(&[rows / group, 2]), Array::zeros(&[rows, 2]));
        for i in 0..rows / group {
            // Loss and slope of a prediction at an inverse temperature.
            let of = |row: usize, beta: f64| {
                let z = &inputs[0].data[(i * group + row) * v..][..v];
                let y = inputs[1].index(row);
                let top = z.iter().map(|other| other - z[y]).fold(0.0, f64::max);
                // Over the wrong classes.
                let moment = |power: i32| -> f64 {
                    let wrong = z.iter().enumerate().filter(|(j, _)| *j != y).map(|(_, other)| other - z[y]);
                    wrong.map(|d| (beta * (d - top)).exp() * d.powi(power)).sum()
                };
                // A loss of what is left of 1 is small, not 0.
                let sum = moment(0) + (-beta * top).exp();
                [if top > 0.0 { beta * top + sum.ln() } else { moment(0).ln_1p() }, moment(1) / sum]
            };
            let at = |beta: f64| {
                let of_all = counted.iter().map(|row| of(*row, beta));
                of_all.fold([0.0; 2], |[loss, slope], [more, steeper]| [loss + more, slope + steeper])
            };
            let mut beta = 1.0f64;
            for step in 0..STEPS {
                beta = if at(beta)[1] > 0.0 { beta / factor(step) } else { beta * factor(step) };
            }
            let [loss, slope] = at(beta);
            for row in &counted {
                losses.data[(i * group + row) * 2..][..2].copy_from_slice(&of(*row, beta));
            }
            let at_bound = beta.log2().abs() > f64::from(BOUND);
            out.data[i * 2] = if slope.is_finite() { 1.0 / beta } else { slope };
            out.data[i * 2 + 1] = loss / inputs[2].data[0];
            if at_bound && slope.is_finite() {
                out.data[i * 2..][..2].fill(f64::from(UNKNOWN));
            }
        }
        vec![out, losses]
    }
}

/// Standard errors, over examples, of what interventions change in the mean loss where clean and changed predictions have each
/// their best temperature, `[I]`: as of [`Contrasts`](crate::intervene::Contrasts). At the best temperatures the loss has no slope,
/// so that they were found on the same examples adds nothing to first order. [`UNKNOWN`] where a temperature is. Inputs:
/// losses [I * N, 2] and clean ones [N, 2], best temperatures [I, 2] and the clean one [1, 2], as of [`Temperature`]; targets
/// `[N]`, how many count `[1]`.
struct MatchedError {
    /// E: so many examples have the N predictions.
    examples: usize,
}

impl Op for MatchedError {
    fn name(&self) -> &'static str {
        "matched error"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [x, clean, t, ..] = inputs else { return Err(misfit("matched error", "inputs")) };
        let groups = t.rows().0;
        if x.len() != groups * clean.len() || !inputs[4].len().is_multiple_of(self.examples) {
            return Err(misfit("matched error", format!("{:?} beside {:?} and {:?}", x.dims, clean.dims, t.dims)));
        }
        Ok(vec![like(inputs, &[groups])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, clean, t, clean_t, targets, count] = inputs else { return Err(misfit("matched error", "inputs")) };
        let params = ErrorParams {
            examples: self.examples as u32,
            predictions: (targets.len() / self.examples) as u32,
            x_replica: x.replica_stride,
            clean_replica: clean.replica_stride,
            t_replica: t.replica_stride,
            clean_t_replica: clean_t.replica_stride,
            target_replica: targets.replica_stride,
            count_replica: count.replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors = [x, clean, t, clean_t, targets, count, &outputs[0]];
        cx.dispatch(&MATCHED_ERROR, &[], &params, &tensors, [outputs[0].len() as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [x, clean, t, clean_t, targets, count] = inputs else { return Vec::new() };
        let (rows, unknown) = (targets.data.len(), f64::from(UNKNOWN));
        let counted: Vec<f64> = targets
            .data
            .chunks_exact(rows / self.examples)
            .map(|of| of.iter().filter(|target| **target != f64::from(IGNORE)).count() as f64)
            .collect();
        let held = counted.iter().filter(|n| **n > 0.0).count() as f64;
        vec![Array::from_fn(&[t.rows().0], |i| {
            let (after, before) = (t.data[i * 2 + 1], clean_t.data[1]);
            if held < 2.0 || after == unknown || before == unknown {
                return unknown;
            }
            let own = x.data[i * rows * 2..][..rows * 2].iter().zip(&clean.data).step_by(2).map(|(a, b)| a - b);
            let changes: Vec<f64> = own.collect();
            let apart = |(changes, n): (&[f64], &f64)| (changes.iter().sum::<f64>() - n * (after - before)).powi(2);
            let squares: f64 = changes.chunks_exact(rows / self.examples).zip(&counted).map(apart).sum();
            let rounded = (ROUNDING * (after + before)).powi(2);
            (squares / count.data[0].powi(2) * held / (held - 1.0) + rounded).sqrt()
        })]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[("calibration", |case| Ok((everything(case, 31, 3, 2)?, Vec::new())))];

/// All ops, on one case: `groups` times `n` predictions of `v` classes, and their outcomes.
fn everything(case: &mut Case, n: usize, v: usize, groups: usize) -> Result<Vec<Var>> {
    let (logits, rows) = (case.owned(&[groups * n, v]), case.owned(&[groups * n, OUTCOMES]));
    let (targets, count) = case.targets(n, v);
    let mut all = case.tape.push(Reliability { classes: v }, &[rows, targets, count])?;
    let (temperature, losses) = two(case.tape.push(Temperature, &[logits, targets, count])?)?;
    let clean = case.owned(&[n, v]);
    let (clean_t, clean) = two(case.tape.push(Temperature, &[clean, targets, count])?)?;
    // Examples of two predictions, or of as many as there are.
    let examples = if n.is_multiple_of(2) { n / 2 } else { n };
    let inputs = [losses, clean, temperature, clean_t, targets, count];
    let error = case.tape.push1(MatchedError { examples }, &inputs)?;
    all.extend([temperature, losses, error]);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_match_their_references() {
        for (n, v, groups) in [(1, 3, 1), (3, 2, 2), (31, 31, 3), (64, 113, 4), (257, 5, 2)] {
            let mut case = Case::new(&format!("calibration {n} {v} {groups}"));
            let all = everything(&mut case, n, v, groups).unwrap();
            // Sums of up to 257 terms of either sign, and the search for a temperature may turn at its last steps.
            case.agree(&all, 3e-4);
        }
    }

    /// Outcomes with planted correct and doubt, all else 0.
    fn planted(rows: impl Iterator<Item = (f32, f32)>) -> Vec<f32> {
        rows.flat_map(|(correct, doubt)| [0.0, 0.0, correct, 0.0, 0.0, 0.0, 0.0, doubt]).collect()
    }

    #[test]
    fn a_calibrated_model_has_no_debiased_error_and_a_plain_one() {
        let (n, groups) = (600, 40);
        let stream = crate::gpu::Philox::new(3, crate::gpu::Stream::Probe, 0);
        let uniform = |at: u64| f64::from(stream.words(at)[0]) / 2f64.powi(32);
        // Confidence anywhere in [0.2, 1], right as often as it says.
        let rows = planted((0..(n * groups) as u64).map(|at| {
            let confidence = 0.2 + 0.8 * uniform(2 * at);
            (f32::from(u8::from(uniform(2 * at + 1) < confidence)), (1.0 - confidence) as f32)
        }));
        let mut case = Case::new("calibrated");
        let x = case.tape.constant(&[groups * n, OUTCOMES], &rows);
        let targets = case.tape.constant_u32(&[n], &vec![0; n]);
        let count = case.tape.constant(&[1], &[n as f32]);
        let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
        case.agree(&out, 1e-5);
        let errors = &case.reference(0, &out).unwrap()[1].data;
        let plain: Vec<f64> = errors.iter().copied().step_by(2).collect();
        let debiased: Vec<f64> = errors.iter().copied().skip(1).step_by(2).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let spread = |x: &[f64]| (x.iter().map(|v| (v - mean(x)).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        // Within a bin confidence spreads by 0.05, so the binomial variance of a mixture is a little too large.
        assert!(mean(&debiased).abs() < 4.0 * spread(&debiased) / (groups as f64).sqrt() + 1e-4, "{}", mean(&debiased));
        assert!(mean(&plain) > 0.03, "{}", mean(&plain));
    }

    #[test]
    fn an_overconfident_model_shows_how_much() {
        // Half are right, and all claim 0.9, which is one bin: the error is 0.4, its square 0.16 but for the bin's noise.
        let n = 450;
        let rows = planted((0..n).map(|at| (f32::from(u8::from(at % 2 == 0)), 0.1)));
        let mut case = Case::new("overconfident");
        let x = case.tape.constant(&[n, OUTCOMES], &rows);
        let targets = case.tape.constant_u32(&[n], &vec![0; n]);
        let count = case.tape.constant(&[1], &[n as f32]);
        let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
        case.agree(&out, 1e-5);
        let errors = &case.reference(0, &out).unwrap()[1].data;
        assert!((errors[0] - 0.4).abs() < 1e-6, "{}", errors[0]);
        assert!((errors[1] - (0.16 - 0.25 / 449.0)).abs() < 1e-6, "{}", errors[1]);
    }

    #[test]
    fn the_order_of_examples_changes_no_bin() {
        // 90 predictions of 7 confidences, right in no pattern; every second is a hit where sorted.
        let one = |at: usize| (f32::from(u8::from(at % 14 < 7)), 0.1 * (1 + at % 7) as f32);
        let found = [1, 7, 37].map(|stride: usize| {
            let mut case = Case::new("ties");
            let rows = planted((0..90).map(|at| one(at * stride % 90)));
            let x = case.tape.constant(&[90, OUTCOMES], &rows);
            let targets = case.tape.constant_u32(&[90], &[0; 90]);
            let count = case.tape.constant(&[1], &[90.0]);
            let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
            case.agree(&out, 1e-5);
            crate::autograd::check::gpus()
                .iter()
                .flat_map(|gpu| case.run(gpu, &out).unwrap().concat())
                .collect::<Vec<_>>()
        });
        for other in &found[1..] {
            for (a, b) in found[0].concat().iter().zip(other.concat()) {
                // Sums of 13 numbers in another order.
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
        }
        assert_eq!(found[0][0].chunks_exact(3).filter(|bin| bin[0] > 0.0).count(), 7);
    }

    #[test]
    fn outcomes_of_saturated_predictions_keep_their_precision() {
        use crate::intervene::Outcomes;
        // Probabilities of all classes but the greatest from 0.1 to 1e-30; of the rows every third is wrong about it.
        for v in [2, 3, 64, 113] {
            let mut case = Case::new(&format!("saturated, {v} classes"));
            let rest = [1e-1f32, 1e-4, 1e-7, 1e-12, 1e-20, 1e-30];
            let logits = |row: usize, j: usize| {
                if j == row % v { -(rest[row % 6] / (v - 1) as f32).ln() } else { 0.5 * ((row * v + j) as f32).sin() }
            };
            let z: Vec<f32> = (0..60 * v).map(|at| logits(at / v, at % v)).collect();
            let clean: Vec<f32> =
                (0..60 * v).map(|at| logits(at / v, at % v) * 0.5 + 0.1 * (at as f32).cos()).collect();
            let targets: Vec<u32> =
                (0..60).map(|row| if row % 3 == 2 { row as u32 + 1 } else { row as u32 } % v as u32).collect();
            let [z, clean] = [z, clean].map(|data| case.tape.constant(&[60, v], &data));
            let targets = case.tape.constant_u32(&[60], &targets);
            let rows = case.tape.push1(Outcomes, &[z, clean, targets]).unwrap();
            // Each number relative to itself. WGSL grants exp(x) an error of 3 + 2|x| ulps, 1e-5 at x = -70; divergences are
            // differences of two such numbers.
            case.agree_each(&[rows], 1e-4);
        }
    }

    #[test]
    fn errors_of_saturated_predictions_are_those_of_their_doubts() {
        // All right, with doubts that confidences in f32 could not tell from 0.
        for doubt in [1e-7f32, 1e-12, 3e-30] {
            let mut case = Case::new("saturated");
            let x = case.tape.constant(&[90, OUTCOMES], &planted((0..90).map(|_| (1.0, doubt))));
            let targets = case.tape.constant_u32(&[90], &[0; 90]);
            let count = case.tape.constant(&[1], &[90.0]);
            let out = case.tape.push(Reliability { classes: 2 }, &[x, targets, count]).unwrap();
            for gpu in crate::autograd::check::gpus() {
                let error = case.run(gpu, &out).unwrap()[1][0][0];
                assert!((error / doubt - 1.0).abs() < 1e-5, "{error} instead of {doubt}");
            }
        }
    }

    #[test]
    fn a_temperature_at_the_bound_of_its_search_is_unknown() {
        // Of 40 rows, logits of the right class and of three others; T = 1 is best where a third of the rows is wrong.
        let best = |right: &dyn Fn(usize) -> f32| {
            let mut case = Case::new("bounds");
            let data: Vec<f32> = (0..120).flat_map(|at| [right(at), 0.0, 0.0]).collect();
            let z = case.tape.constant(&[120, 3], &data);
            let targets = case.tape.constant_u32(&[120], &[0; 120]);
            let count = case.tape.constant(&[1], &[120.0]);
            let found = case.tape.push(Temperature, &[z, targets, count]).unwrap()[0];
            case.agree(&[found], 3e-4);
            crate::autograd::check::gpus()
                .iter()
                .flat_map(|gpu| case.run(gpu, &[found]).unwrap().concat())
                .collect::<Vec<_>>()
        };
        // Never wrong, always wrong, without any preference, saturated.
        for right in [|_| 3.0, |_| -3.0, |_| 0.0, |_| 200.0] as [fn(usize) -> f32; 4] {
            for found in best(&right) {
                assert_eq!(found, [UNKNOWN; 2]);
            }
        }
        // e^a / (e^a + 2) = 2/3 for a = ln 4, in two of three rows; in the others the right one stands below both others.
        for found in best(&|at| if at % 3 == 0 { -0.5 } else { 4f32.ln() }) {
            assert!(found[0] > 0.1 && found[0] < 10.0 && found[1] > 0.1 && found[1] < 1.0, "{found:?}");
        }
    }

    #[test]
    fn changes_of_the_loss_at_the_best_temperatures_have_the_error_of_their_examples() {
        // Sixty examples of two predictions; a third of all is wrong, so that both temperatures exist. What is changed differs by
        // example, and hardly within it.
        let mut case = Case::new("matched losses");
        let logits = |change: f32| -> Vec<f32> {
            let right = |at: usize| if at.is_multiple_of(3) { -0.5 } else { 4f32.ln() };
            let moved = |at: usize| change * ((at / 2) as f32 * 1.7).sin();
            (0..120).flat_map(|at| [right(at) + moved(at), 0.1 * (at as f32).cos(), 0.0]).collect()
        };
        let [clean, changed] = [0.0, 0.8].map(|change| case.tape.constant(&[120, 3], &logits(change)));
        let (targets, count) = (case.tape.constant_u32(&[120], &[0; 120]), case.tape.constant(&[1], &[120.0]));
        let [(clean_t, clean), (t, changed)] =
            [clean, changed].map(|z| two(case.tape.push(Temperature, &[z, targets, count]).unwrap()).unwrap());
        let inputs = [changed, clean, t, clean_t, targets, count];
        let error = case.tape.push1(MatchedError { examples: 60 }, &inputs).unwrap();
        // The search ends within 1e-4 of the best temperature, and single losses have a slope there.
        case.agree(&[error], 3e-4);
        let exact = case.reference(0, &[error, changed, clean]).unwrap();
        let losses = |of: &Array| of.data.iter().step_by(2).copied().collect::<Vec<f64>>();
        let changes: Vec<f64> = losses(&exact[1]).iter().zip(losses(&exact[2])).map(|(a, b)| a - b).collect();
        let by_example: Vec<f64> = changes.chunks_exact(2).map(|two| (two[0] + two[1]) / 2.0).collect();
        let expected = crate::stats::Paired::of(&by_example).standard_error;
        assert!((exact[0].data[0] / expected - 1.0).abs() < 1e-9, "{:?} for {expected}", exact[0].data);
        // Predictions that are taken for independent would have an error too small by a third.
        assert!(expected > 1.2 * crate::stats::Paired::of(&changes).standard_error);
    }

    #[test]
    fn logits_that_are_no_numbers_have_no_best_temperature() {
        // One logit of 40 rows of 5: of a wrong class, and of the right one.
        for (broken, class) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().flat_map(|x| [(x, 1), (x, 2)]) {
            let mut case = Case::new("no temperature");
            let data: Vec<f32> = (0..200).map(|at| if at == 60 + class { broken } else { (at as f32).sin() }).collect();
            let z = case.tape.constant(&[40, 5], &data);
            let targets = case.tape.constant_u32(&[40], &[2; 40]);
            let count = case.tape.constant(&[1], &[40.0]);
            let found = case.tape.push(Temperature, &[z, targets, count]).unwrap()[0];
            for gpu in crate::autograd::check::gpus() {
                let temperature = case.run(gpu, &[found]).unwrap().concat().concat()[0];
                assert!(!temperature.is_finite(), "{broken} of class {class}: {temperature}");
            }
        }
    }

    #[test]
    fn scaling_logits_scales_the_best_temperature_and_nothing_else() {
        let (n, v) = (200, 7);
        let mut case = Case::new("temperature");
        let z = case.owned(&[n, v]);
        let louder = case.tape.push1(crate::autograd::ops::Scale(3.0), &[z]).unwrap();
        // Targets follow the logits more often than not, so that the best temperature is finite.
        let reference = case.reference(0, &[z]).unwrap();
        let targets: Vec<u32> = (0..n)
            .map(|row| {
                let z = &reference[0].data[row * v..][..v];
                let best = (1..v).fold(0, |b, j| if z[j] > z[b] { j } else { b });
                if row % 3 == 0 { (row % v) as u32 } else { best as u32 }
            })
            .collect();
        let targets = case.tape.constant_u32(&[n], &targets);
        let count = case.tape.constant(&[1], &[n as f32]);
        let a = case.tape.push(Temperature, &[z, targets, count]).unwrap()[0];
        let b = case.tape.push(Temperature, &[louder, targets, count]).unwrap()[0];
        case.agree(&[a, b], 3e-4);
        // Two results of a search to 1e-4; the loss is flat there.
        let exact = case.reference(0, &[a, b]).unwrap();
        assert!((exact[1].data[0] / exact[0].data[0] - 3.0).abs() < 1e-3, "{exact:?}");
        assert!((exact[1].data[1] - exact[0].data[1]).abs() < 1e-7, "{exact:?}");
    }
}
