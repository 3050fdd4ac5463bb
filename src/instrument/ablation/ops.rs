//! What ablation makes of outcomes: what the rest of the model makes up for, and how heads compare with random subspaces.

use crate::autograd::check::{Build, Case};
use crate::autograd::op::misfit;
use crate::autograd::{Array, Lower, Op, Shape, Var, like};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor, grid_1d};
use crate::instrument::UNKNOWN;
use crate::intervene::OUTCOMES;
use crate::intervene::column::{LOGIT_DIFFERENCE, LOSS};

crate::params! {
    struct EffectParams { rows: u32, columns: u32, x_replica: u32, clean_replica: u32, y_replica: u32 }
}
static EFFECTS: Shader<'_> = Shader {
    name: "instrument/ablation/effects",
    source: include_str!("../../../shaders/instrument/ablation/effects.wgsl"),
    knobs: &[],
    params: EffectParams::FIELDS,
};
crate::params! {
    struct NullParams { heads: u32, draws: u32, x_replica: u32, null_replica: u32, clean_replica: u32, out_replica: u32 }
}
static NULL_SUMMARY: Shader<'_> = Shader {
    name: "instrument/ablation/null_summary",
    source: include_str!("../../../shaders/instrument/ablation/null_summary.wgsl"),
    knobs: &[],
    params: NullParams::FIELDS,
};
crate::params! {
    struct RepairParams { heads: u32, column: u32, mediated_replica: u32, direct_replica: u32, y_replica: u32 }
}
static SELF_REPAIR: Shader<'_> = Shader {
    name: "instrument/ablation/self_repair",
    source: include_str!("../../../shaders/instrument/ablation/self_repair.wgsl"),
    knobs: &[],
    params: RepairParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&EFFECTS, &NULL_SUMMARY, &SELF_REPAIR];

/// y [C, I] = x[i, c] - clean[c]. Inputs: x [I, C], clean [1, C].
pub(crate) struct Effects;

impl Op for Effects {
    fn name(&self) -> &'static str {
        "effects"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (rows, columns) = inputs[0].rows();
        if inputs[1].len() != columns {
            return Err(misfit("effects", format!("{columns} columns beside {}", inputs[1].len())));
        }
        Ok(vec![like(inputs, &[columns, rows])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [columns, rows] = outputs[0].dims[..] else { return Err(misfit("effects", "outputs")) };
        let params = EffectParams {
            rows: rows as u32,
            columns: columns as u32,
            x_replica: inputs[0].replica_stride,
            clean_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d(((rows * columns) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&EFFECTS, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        let unknown = f64::from(UNKNOWN);
        vec![Array::from_fn(&[columns, rows], |at| {
            let (after, before) = (inputs[0].data[at % rows * columns + at / rows], inputs[1].data[at / rows]);
            if after == unknown || before == unknown { unknown } else { after - before }
        })]
    }
}

/// Where heads stand among random subspaces, [4 H + 6]: for loss, then logit difference, the share
/// (1 + #{null >= head})/(N + 1) of each head; the same two for <=; then, for loss and for logit difference, the points
/// of the null, less clean, that 2.5 %, 50 % and 97.5 % of the draws do not exceed. Inputs: outcomes [I, 8] whose first
/// H rows are heads, null [N, 8], clean [1, 8].
pub(crate) struct NullSummary {
    /// H.
    pub(crate) heads: usize,
}

impl Op for NullSummary {
    fn name(&self) -> &'static str {
        "null summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[4 * self.heads + 6])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = NullParams {
            heads: self.heads as u32,
            draws: (inputs[1].len() / OUTCOMES) as u32,
            x_replica: inputs[0].replica_stride,
            null_replica: inputs[1].replica_stride,
            clean_replica: inputs[2].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&NULL_SUMMARY, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (mut above, mut below, mut points) = (Vec::new(), Vec::new(), Vec::new());
        for c in [LOSS, LOGIT_DIFFERENCE] {
            let mut null: Vec<f64> = inputs[1].data.iter().skip(c).step_by(OUTCOMES).copied().collect();
            null.sort_by(f64::total_cmp);
            // Not reached only where it is certain: what is no number clears no null.
            let share = |certain: usize| (1 + null.len() - certain) as f64 / (null.len() + 1) as f64;
            for head in 0..self.heads {
                let own = inputs[0].data[head * OUTCOMES + c];
                above.push(share(null.iter().filter(|x| **x < own).count()));
                below.push(share(null.iter().filter(|x| **x > own).count()));
            }
            let point = |permille: usize| null[((null.len() - 1) * permille + 500) / 1000] - inputs[2].data[c];
            points.extend([25, 500, 975].map(point));
        }
        let shares = [above, below, points].concat();
        vec![Array::new(&[shares.len()], shares)]
    }
}

/// How much of a head's direct effect on the logit difference the rest makes up for, `[H]`: -mediated/direct. [`UNKNOWN`] where
/// the direct effect is not beyond two of its standard errors: the interval of a ratio has no end where what it is divided by
/// may be 0 (Fieller 1954). Inputs: contrasts [16 H + 1] of the mediated and of the direct effect (see
/// [`Contrasts`](crate::intervene::Contrasts)).
pub(crate) struct SelfRepair {
    /// H.
    pub(crate) heads: usize,
}

impl Op for SelfRepair {
    fn name(&self) -> &'static str {
        "self-repair"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[self.heads])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = RepairParams {
            heads: self.heads as u32,
            column: LOGIT_DIFFERENCE as u32,
            mediated_replica: inputs[0].replica_stride,
            direct_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&SELF_REPAIR, &[], &params, &tensors, [self.heads.div_ceil(64) as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&[self.heads], |head| {
            let of = |input: usize, column: usize| inputs[input].data[column * self.heads + head];
            let (direct, error) = (of(1, LOGIT_DIFFERENCE), of(1, OUTCOMES + LOGIT_DIFFERENCE));
            let known = direct.abs() > 2.0 * error || !direct.is_finite();
            if known { -of(0, LOGIT_DIFFERENCE) / direct } else { f64::from(UNKNOWN) }
        })]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[("ablation", |case| Ok((everything(case, 31, 2)?, Vec::new())))];

/// Every op of this file, on one case: outcomes of `h` heads, of `n` draws, and of no intervention.
fn everything(case: &mut Case, n: usize, h: usize) -> Result<Vec<Var>> {
    let (means, null, clean) = (case.owned(&[h + 1, OUTCOMES]), case.owned(&[n, OUTCOMES]), case.owned(&[1, OUTCOMES]));
    let [mediated, direct] = [0, 1].map(|_| case.owned(&[2 * OUTCOMES * h + 1]));
    let tape = &mut case.tape;
    Ok(vec![
        tape.push1(Effects, &[means, clean])?,
        tape.push1(NullSummary { heads: h }, &[means, null, clean])?,
        tape.push1(SelfRepair { heads: h }, &[mediated, direct])?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_match_their_references() {
        for (n, h) in [(1, 1), (3, 2), (31, 3), (257, 31)] {
            let mut case = Case::new(&format!("ablation {n} {h}"));
            let all = everything(&mut case, n, h).unwrap();
            // Differences of numbers of order 1; self-repair divides by effects that may be small.
            case.agree(&all[..2], 1e-4);
            case.agree_each(&all[2..], 1e-4);
        }
    }

    #[test]
    fn what_is_no_number_clears_no_null() {
        let mut case = Case::new("null summary of what is no number");
        let rows = |values: &[f32]| -> Vec<f32> { values.iter().flat_map(|value| [*value; OUTCOMES]).collect() };
        let (heads, clean) = (rows(&[5.0, f32::NAN, 0.0]), case.tape.constant(&[1, OUTCOMES], &[0.0; OUTCOMES]));
        let heads = case.tape.constant(&[3, OUTCOMES], &heads);
        let draws = [[1.0, 2.0, -1.0, 0.5], [1.0, f32::NAN, -1.0, f32::NAN]].map(|draws| {
            let draws = case.tape.constant(&[4, OUTCOMES], &rows(&draws));
            case.tape.push1(NullSummary { heads: 3 }, &[heads, draws, clean]).unwrap()
        });
        // Shares of draws that reach a head from above, of the loss; of five, the head included.
        let expected = [[0.2, 1.0, 0.8], [0.6, 1.0, 0.8]];
        for (found, expected) in case.reference(0, &draws).unwrap().iter().zip(expected) {
            assert_eq!(found.data[..3], expected);
        }
        for gpu in crate::autograd::check::gpus() {
            for (found, expected) in case.run(gpu, &draws).unwrap().iter().zip(expected) {
                let apart = found[0].iter().zip(expected).map(|(found, share)| (f64::from(*found) - share).abs());
                assert!(apart.fold(0.0, f64::max) < 1e-6, "{found:?} on {}", gpu.caps().name);
            }
        }
    }

    #[test]
    fn no_effect_is_divided_by_one_that_may_be_none() {
        // Direct effects and their errors of six heads, all made up for by half.
        let cases = [(2.0, 0.5), (-2.0, 0.5), (1.0, 0.6), (1e-7, 1e-6), (0.0, 0.0), (2.0, f32::NAN)];
        let mut case = Case::new("self-repair");
        let contrasts = |of: &dyn Fn((f32, f32)) -> (f32, f32)| -> Vec<f32> {
            let mut all = vec![0.25; 2 * OUTCOMES * 6 + 1];
            for (head, (effect, error)) in cases.map(of).into_iter().enumerate() {
                all[LOGIT_DIFFERENCE * 6 + head] = effect;
                all[(OUTCOMES + LOGIT_DIFFERENCE) * 6 + head] = error;
            }
            all
        };
        let [mediated, direct] = [contrasts(&|(d, e)| (-0.5 * d, e)), contrasts(&|direct| direct)]
            .map(|data| case.tape.constant(&[data.len()], &data));
        let found = case.tape.push1(SelfRepair { heads: 6 }, &[mediated, direct]).unwrap();
        let expected = [0.5, 0.5, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN];
        assert_eq!(case.reference(0, &[found]).unwrap()[0].data, expected.map(f64::from));
        for gpu in crate::autograd::check::gpus() {
            assert_eq!(case.run(gpu, &[found]).unwrap()[0][0], expected);
        }
    }
}
