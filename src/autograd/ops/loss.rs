//! Cross-entropy, exact to the smallest f32: the naive form quantises at 1.2e-7, which ruins the late
//! phase of grokking.

use super::super::op::{Links, misfit};
use super::super::{Array, DType, Lower, Op, Shape, Tape, Var, like};
use super::{IGNORE, Linear, Multiply};
use crate::error::{Error, Result};
use crate::gpu::{Knob, Params, Shader, Tensor};

crate::params! {
    struct CrossEntropyParams {
        rows: u32, classes: u32, z_replica: u32, target_replica: u32, row_replica: u32, saved_replica: u32, dz_replica: u32,
        count_replica: u32, logits_replica: u32, factor: f32, shift_replica: u32, shift_row_replica: u32, last_shift: u32,
        moved_replica: u32,
    }
}
const SUBGROUPS: Knob<'_> = Knob { name: "SUBGROUPS", values: &[0, 1] };
static FORWARD: Shader<'_> = Shader {
    name: "loss/cross_entropy_forward",
    source: include_str!("../../../shaders/loss/cross_entropy_forward.wgsl"),
    knobs: &[
        SUBGROUPS,
        Knob { name: "SAVE", values: &[0, 1] },
        Knob { name: "GRAD", values: &[0, 1] },
        Knob { name: "LOGITS", values: &[0, 1] },
        Knob { name: "SHIFT", values: &[0, 1] },
    ],
    params: CrossEntropyParams::FIELDS,
};
static BACKWARD: Shader<'_> = Shader {
    name: "loss/cross_entropy_backward",
    source: include_str!("../../../shaders/loss/cross_entropy_backward.wgsl"),
    knobs: &[SUBGROUPS],
    params: CrossEntropyParams::FIELDS,
};
static CURVE: Shader<'_> = Shader {
    name: "loss/cross_entropy_curve",
    source: include_str!("../../../shaders/loss/cross_entropy_curve.wgsl"),
    knobs: &[SUBGROUPS],
    params: CrossEntropyParams::FIELDS,
};
crate::params! {
    struct LogitParams { rows: u32, classes: u32, z_replica: u32, y_replica: u32 }
}
static LOGIT_ROWS: Shader<'_> = Shader {
    name: "loss/logit_rows",
    source: include_str!("../../../shaders/loss/logit_rows.wgsl"),
    knobs: &[SUBGROUPS],
    params: LogitParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&FORWARD, &BACKWARD, &CURVE, &LOGIT_ROWS];

/// Inputs: logits z [N, V], target class y `[N]` ([`IGNORE`]: the row does not count and gets 0).
/// Outputs, for each row: loss ln(1 + Σ_{j≠y} exp(z_j - z_y)) in nats; correct, 1 where z_y exceeds every
/// other logit; margin z_y - max_{j≠y} z_j; and two numbers kept for the gradient.
#[derive(Clone, Copy)]
pub struct CrossEntropy;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, _) = inputs[0].rows();
        if inputs[1].len() != n || inputs[1].dtype != DType::U32 {
            return Err(misfit("cross-entropy", format!("{n} rows of logits, {} targets", inputs[1].len())));
        }
        let row = like(inputs, &[n]);
        Ok(vec![row.clone(), row.clone(), row, like(inputs, &[n, 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        Loss::from(*self).lower(cx, inputs, outputs)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        if grads[1..].iter().any(Option::is_some) {
            return Err(Error::Unsupported("only the loss of a cross-entropy has a gradient".to_owned()));
        }
        let dz = grads[0]
            .map(|d| tape.push1(CrossEntropyGrad, &[node.inputs[0], node.inputs[1], node.outputs[3], d]))
            .transpose()?;
        Ok(vec![dz, None])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(moved) = tangents[0] else { return Ok(vec![None; 4]) };
        let (z, targets, kept) = (node.inputs[0], node.inputs[1], node.outputs[3]);
        let (n, v) = tape.shape(z).rows();
        let (each, sum) = (tape.constant(&[n], &vec![1.0; n]), tape.constant(&[v, 1], &vec![1.0; v]));
        let slope = tape.push1(CrossEntropyGrad, &[z, targets, kept, each])?;
        let along = tape.push1(Multiply, &[slope, moved])?;
        Ok(vec![Some(tape.push1(Linear::default(), &[along, sum])?), None, None, None])
    }

    fn keeps(&self, output: usize) -> bool {
        output > 1
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, v) = inputs[0].rows();
        let mut out = [Array::zeros(&[n]), Array::zeros(&[n]), Array::zeros(&[n]), Array::zeros(&[n, 2])];
        for row in 0..n {
            if inputs[1].data[row] == f64::from(IGNORE) {
                continue;
            }
            let (z, y) = (&inputs[0].data[row * v..][..v], inputs[1].index(row));
            let others = || (0..v).filter(|j| *j != y).map(|j| z[j] - z[y]);
            let top = others().fold(f64::NEG_INFINITY, f64::max);
            let shift = top.max(0.0);
            let sum: f64 = others().map(|d| (d - shift).exp()).sum();
            out[0].data[row] = if top > 0.0 { shift + ((-shift).exp() + sum).ln() } else { sum.ln_1p() };
            out[1].data[row] = f64::from(top < 0.0);
            out[2].data[row] = -top;
            out[3].data[row * 2] = shift;
            out[3].data[row * 2 + 1] = sum;
        }
        out.into()
    }
}

/// A [`CrossEntropy`] with what one kernel does besides. Inputs: logits, targets, and for a gradient the number of rows
/// that count `[1]`. Outputs: loss, correct, margin, and of the rest what is asked for, in order.
#[derive(Clone, Copy)]
pub(in crate::autograd) struct Loss {
    /// Whether the numbers kept for a gradient are written, [N, 2].
    pub(in crate::autograd) save: bool,
    /// The gradient of this factor times the mean loss by the logits, [N, V].
    pub(in crate::autograd) gradient: Option<f32>,
    /// Whether [`LogitRows`] are written, [N, 2].
    pub(in crate::autograd) logits: bool,
}

impl From<CrossEntropy> for Loss {
    fn from(_: CrossEntropy) -> Self {
        Self { save: true, gradient: None, logits: false }
    }
}

impl Loss {
    pub(in crate::autograd) fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let columns = inputs[0].len() / rows;
        let mut rest = outputs[3..].iter();
        let mut next = |present: bool| if present { rest.next() } else { None };
        let (saved, dz, logits) = (next(self.save), next(self.gradient.is_some()), next(self.logits));
        let stride = |tensor: Option<&Tensor>| tensor.map_or(0, |t| t.replica_stride);
        let params = CrossEntropyParams {
            rows: rows as u32,
            classes: columns as u32,
            z_replica: inputs[0].replica_stride,
            target_replica: inputs[1].replica_stride,
            row_replica: outputs[0].replica_stride,
            saved_replica: stride(saved),
            dz_replica: stride(dz),
            count_replica: stride(inputs.get(2)),
            logits_replica: stride(logits),
            factor: self.gradient.unwrap_or(0.0),
            ..Default::default()
        };
        let mut tensors: Vec<&Tensor> = inputs[..2].iter().chain(&outputs[..3]).collect();
        tensors.extend([saved, inputs.get(2).filter(|_| dz.is_some()), dz, logits].into_iter().flatten());
        let (subgroups, grid) = cx.by_rows(rows, 64);
        let knobs = [subgroups, u32::from(self.save), u32::from(dz.is_some()), u32::from(self.logits), 0];
        cx.dispatch(&FORWARD, &knobs, &params, &tensors, grid)
    }
}

/// Loss, correct and margin of [`CrossEntropy`], `[N]` each, for logits to each row of which a row of shifts is added.
/// Inputs: logits [N, V], targets `[N]`, shifts [E, V], and which of them each row takes, `[N]`. Measures only: it has no
/// gradient.
pub(crate) struct ShiftedCrossEntropy;

impl Op for ShiftedCrossEntropy {
    fn name(&self) -> &'static str {
        "shifted cross-entropy"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, v) = inputs[0].rows();
        let fits = inputs[2].rows().1 == v && inputs[3].len() == n && inputs[3].dtype == DType::U32;
        if !fits || inputs[1].len() != n || inputs[1].dtype != DType::U32 {
            let dims: Vec<_> = inputs.iter().map(|s| &s.dims).collect();
            return Err(misfit("shifted cross-entropy", format!("{dims:?}")));
        }
        Ok(vec![like(inputs, &[n]); 3])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [z, targets, shifts, shift_row] = inputs else { return Err(misfit("shifted cross-entropy", "inputs")) };
        let rows = outputs[0].len();
        let columns = z.len() / rows;
        let params = CrossEntropyParams {
            rows: rows as u32,
            classes: columns as u32,
            z_replica: z.replica_stride,
            target_replica: targets.replica_stride,
            row_replica: outputs[0].replica_stride,
            shift_replica: shifts.replica_stride,
            shift_row_replica: shift_row.replica_stride,
            last_shift: (shifts.len() / columns) as u32 - 1,
            ..Default::default()
        };
        let tensors = [z, targets, &outputs[0], &outputs[1], &outputs[2], shifts, shift_row];
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&FORWARD, &[subgroups, 0, 0, 0, 1], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, v) = inputs[0].rows();
        let shifted =
            Array::from_fn(&[n, v], |at| inputs[0].data[at] + inputs[2].data[inputs[3].index(at / v) * v + at % v]);
        CrossEntropy.reference(&[&shifted, inputs[1]]).drain(..3).collect()
    }
}

/// y [N, 2] = maximum of each row of z [N, V], and sum of squares around its mean. Measures only: it has no gradient.
pub(crate) struct LogitRows;

impl Op for LogitRows {
    fn name(&self) -> &'static str {
        "logit rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().0, 2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len() / 2;
        let params = LogitParams {
            rows: rows as u32,
            classes: (inputs[0].len() / rows) as u32,
            z_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&LOGIT_ROWS, &[subgroups], &params, &[&inputs[0], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, classes) = inputs[0].rows();
        let mut out = Array::zeros(&[n, 2]);
        for (z, out) in inputs[0].data.chunks_exact(classes).zip(out.data.chunks_exact_mut(2)) {
            let mean = z.iter().sum::<f64>() / classes as f64;
            out[0] = z.iter().copied().fold(f64::MIN, f64::max);
            out[1] = z.iter().map(|z| (z - mean).powi(2)).sum();
        }
        vec![out]
    }
}

/// dz_j = d p_j for the wrong classes, dz_y = -d Σ_{j≠y} p_j, which keeps its precision when p_y rounds
/// to 1. Inputs: logits, targets, what the forward pass kept, d [N].
#[derive(Clone, Copy)]
pub(in crate::autograd) struct CrossEntropyGrad;

impl Op for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross-entropy gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = inputs[3].len();
        let columns = inputs[0].len() / rows;
        let params = CrossEntropyParams {
            rows: rows as u32,
            classes: columns as u32,
            z_replica: inputs[0].replica_stride,
            target_replica: inputs[1].replica_stride,
            row_replica: inputs[3].replica_stride,
            saved_replica: inputs[2].replica_stride,
            dz_replica: outputs[0].replica_stride,
            ..Default::default()
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&BACKWARD, &[subgroups], &params, &tensors, grid)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [z, targets, kept, d] = [0, 1, 2, 3].map(|at| node.inputs[at]);
        let mut terms = tape.by_linear(self, node, tangents, &[3])?;
        if let Some(moved) = tangents[0] {
            terms.push(Some(tape.push1(CrossEntropyCurve, &[z, targets, kept, d, moved])?));
        }
        Ok(vec![tape.total(&terms)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, v) = inputs[0].rows();
        let mut dz = Array::zeros(&inputs[0].dims);
        for row in (0..n).filter(|row| inputs[1].data[*row] != f64::from(IGNORE)) {
            let (z, y) = (&inputs[0].data[row * v..][..v], inputs[1].index(row));
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
            for j in (0..v).filter(|j| *j != y) {
                let p = (z[j] - top).exp() / total;
                dz.data[row * v + j] = inputs[3].data[row] * p;
                dz.data[row * v + y] -= inputs[3].data[row] * p;
            }
        }
        vec![dz]
    }
}

/// dz = d (p z' - p (p . z')): the Hessian of each row's loss by its logits times a direction. Inputs: logits, targets, what
/// the forward pass kept, d `[N]`, the direction z' [N, V].
pub(crate) struct CrossEntropyCurve;

impl Op for CrossEntropyCurve {
    fn name(&self) -> &'static str {
        "cross-entropy curve"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = inputs[3].len();
        let params = CrossEntropyParams {
            rows: rows as u32,
            classes: (inputs[0].len() / rows) as u32,
            z_replica: inputs[0].replica_stride,
            target_replica: inputs[1].replica_stride,
            saved_replica: inputs[2].replica_stride,
            row_replica: inputs[3].replica_stride,
            moved_replica: inputs[4].replica_stride,
            dz_replica: outputs[0].replica_stride,
            ..Default::default()
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&CURVE, &[subgroups], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, v) = inputs[0].rows();
        let mut dz = Array::zeros(&inputs[0].dims);
        for row in (0..n).filter(|row| inputs[1].data[*row] != f64::from(IGNORE)) {
            let [z, moved] = [0, 4].map(|of| &inputs[of].data[row * v..][..v]);
            let (y, top) = (inputs[1].index(row), z.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
            let p = |j: usize| (z[j] - top).exp() / total;
            // From the right class's on, so that nothing is lost where its probability rounds to 1.
            let mean: f64 = (0..v).map(|j| p(j) * (moved[j] - moved[y])).sum();
            for j in 0..v {
                dz.data[row * v + j] = inputs[3].data[row] * p(j) * (moved[j] - moved[y] - mean);
            }
        }
        vec![dz]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn cross_entropy_matches_its_reference() {
        for n in SIZES {
            for v in [2, 7, 113] {
                let mut case = Case::new(&format!("cross-entropy {n} {v}"));
                let z = case.owned(&[n, v]);
                let y = case.indices(&[n], v as u32, true);
                let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
                case.check(&out[..1], &[z], 5e-6);
                case.agree(&out[..3], 5e-6);
            }
        }
    }

    #[test]
    fn small_losses_keep_their_relative_precision() {
        // Losses from 37 nats down to 1e-37; the naive form returns 0 below 6e-8.
        let mut case = Case::new("tiny losses");
        let data: Vec<f32> = (0..16).flat_map(|i| [8.0 * i as f32 - 37.0, 0.0]).collect();
        let z = case.tape.constant(&[16, 2], &data);
        let y = case.tape.constant_u32(&[16], &[0; 16]);
        let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
        // Each element relative to itself, so a loss of 1e-37 must be right too. WGSL grants exp(x) an error
        // of 3 + 2|x| ulps, which is 1e-5 at x = -85.
        case.agree_each(&out[..1], 1e-5);
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for n in SIZES {
            for v in [2, 31] {
                let mut case = Case::new(&format!("tangent of cross-entropy {n} {v}"));
                let z = if v == 2 { case.owned(&[n, v]) } else { case.shared(&[n, v]) };
                let (y, _) = case.targets(n, v);
                let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
                case.check_tangents(out[0], &[z], 1e-5);
            }
        }
    }

    #[test]
    fn the_curvature_of_small_losses_keeps_its_relative_precision() {
        // Up to probabilities of 1e-36 of what is wrong: p (1 - p) of both classes, and both signs.
        let mut case = Case::new("tiny curvatures");
        let data: Vec<f32> = (0..12).flat_map(|i| [8.0 * i as f32 - 5.0, 0.0]).collect();
        let z = case.tape.constant(&[12, 2], &data);
        let y = case.tape.constant_u32(&[12], &[0; 12]);
        let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
        let one = case.tape.constant(&[12], &[1.0; 12]);
        let moved = case.tape.constant(&[12, 2], &[[0.5, 2.0]; 12].concat());
        let curve = case.tape.push1(CrossEntropyCurve, &[z, y, out[3], one, moved]).unwrap();
        // As of losses: exp(x) is granted 3 + 2|x| ulps.
        case.agree_each(&[curve], 1e-5);
    }

    #[test]
    fn ignored_rows_cost_nothing_and_move_nothing() {
        let mut case = Case::new("ignored rows");
        let z = case.owned(&[4, 5]);
        let y = case.tape.constant_u32(&[4], &[1, IGNORE, 4, IGNORE]);
        let out = case.tape.push(CrossEntropy, &[z, y]).unwrap();
        case.check(&out[..1], &[z], 5e-6);
        case.agree(&out[..3], 5e-6);
    }

    #[test]
    fn shifts_are_added_to_the_logits() {
        for n in SIZES {
            let mut case = Case::new(&format!("shifted {n}"));
            let (z, shifts) = (case.owned(&[n, 9]), case.owned(&[5, 9]));
            let (y, row) = (case.indices(&[n], 7, true), case.indices(&[n], 5, false));
            let out = case.tape.push(ShiftedCrossEntropy, &[z, y, shifts, row]).unwrap();
            case.agree(&out, 5e-6);
        }
    }
}
