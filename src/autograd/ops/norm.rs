//! LayerNorm and RMSNorm, with and without their affine part.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use super::Multiply;
use super::reduce::{ColumnSum, sum_columns};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor};

crate::params! {
    struct NormParams {
        rows: u32, columns: u32, x_replica: u32, w_replica: u32, b_replica: u32,
        y_replica: u32, mean_replica: u32, scale_replica: u32, eps: f32,
    }
}
static FORWARD: Shader<'_> = Shader {
    name: "norm/norm_forward",
    source: include_str!("../../../shaders/norm/norm_forward.wgsl"),
    knobs: &[
        Knob { name: "RMS", values: &[0, 1] },
        Knob { name: "WEIGHT", values: &[0, 1] },
        Knob { name: "BIAS", values: &[0, 1] },
        Knob { name: "SUBGROUPS", values: &[0, 1] },
    ],
    params: NormParams::FIELDS,
};
crate::params! {
    struct NormGradParams {
        rows: u32, columns: u32, dy_replica: u32, x_replica: u32, mean_replica: u32, scale_replica: u32,
        w_replica: u32, dx_replica: u32,
    }
}
static BACKWARD: Shader<'_> = Shader {
    name: "norm/norm_backward",
    source: include_str!("../../../shaders/norm/norm_backward.wgsl"),
    knobs: &[
        Knob { name: "RMS", values: &[0, 1] },
        Knob { name: "WEIGHT", values: &[0, 1] },
        Knob { name: "SUBGROUPS", values: &[0, 1] },
    ],
    params: NormGradParams::FIELDS,
};
static WEIGHT_GRAD: Shader<'_> = Shader {
    name: "norm/norm_weight_grad",
    source: include_str!("../../../shaders/norm/norm_weight_grad.wgsl"),
    knobs: &[],
    params: NormGradParams::FIELDS,
};
crate::params! {
    struct NormCurveParams {
        rows: u32, columns: u32, dy_replica: u32, x_replica: u32, mean_replica: u32, scale_replica: u32,
        moved_replica: u32, w_replica: u32, y_replica: u32,
    }
}
static CURVE: Shader<'_> = Shader {
    name: "norm/norm_curve",
    source: include_str!("../../../shaders/norm/norm_curve.wgsl"),
    knobs: &[
        Knob { name: "RMS", values: &[0, 1] },
        Knob { name: "WEIGHT", values: &[0, 1] },
        Knob { name: "SUBGROUPS", values: &[0, 1] },
    ],
    params: NormCurveParams::FIELDS,
};
crate::params! {
    struct FrozenParams {
        rows: u32, columns: u32, scales: u32, x_replica: u32, scale_replica: u32, w_replica: u32, b_replica: u32,
        y_replica: u32,
    }
}
static FROZEN: Shader<'_> = Shader {
    name: "norm/norm_frozen",
    source: include_str!("../../../shaders/norm/norm_frozen.wgsl"),
    knobs: &[
        Knob { name: "RMS", values: &[0, 1] },
        Knob { name: "WEIGHT", values: &[0, 1] },
        Knob { name: "BIAS", values: &[0, 1] },
        Knob { name: "SUBGROUPS", values: &[0, 1] },
    ],
    params: FrozenParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&FORWARD, &BACKWARD, &WEIGHT_GRAD, &CURVE, &FROZEN];

/// Which statistics a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormKind {
    /// Centred, divided by the root of the variance plus eps.
    Layer,
    /// Divided by the root of the mean square plus eps.
    Rms,
}

/// y [N, D] = (x - mean) / scale (* w) (+ b), mean `[N]` (0 for RMS), scale `[N]`. Inputs: x, then w `[D]` and
/// b `[D]` where there are any. TransformerLens's `hook_scale` is `scale`, its `hook_normalized` is y.
#[derive(Clone, Copy)]
pub struct Norm {
    /// Which statistics.
    pub kind: NormKind,
    /// Whether a weight follows x.
    pub weight: bool,
    /// Whether a bias follows the weight.
    pub bias: bool,
    /// Added to the variance before the root.
    pub eps: f32,
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, d) = inputs[0].rows();
        if inputs.len() != 1 + usize::from(self.weight) + usize::from(self.bias)
            || inputs[1..].iter().any(|s| s.len() != d)
        {
            return Err(misfit("norm", format!("rows of {d} with {} affine vectors", inputs.len() - 1)));
        }
        let rows = like(&inputs[..1], &[n]);
        Ok(vec![like(inputs, &[n, d]), rows.clone(), rows])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (rows, columns) = (outputs[1].len(), outputs[0].dims[1]);
        let params = NormParams {
            rows: rows as u32,
            columns: columns as u32,
            x_replica: inputs[0].replica_stride,
            w_replica: inputs.get(1).map_or(0, |t| t.replica_stride),
            b_replica: inputs.get(2).map_or(0, |t| t.replica_stride),
            y_replica: outputs[0].replica_stride,
            mean_replica: outputs[1].replica_stride,
            scale_replica: outputs[2].replica_stride,
            eps: self.eps,
        };
        let mut tensors = vec![&inputs[0], &outputs[0], &outputs[1], &outputs[2]];
        tensors.extend(&inputs[1..]);
        let (subgroups, grid) = cx.by_rows(rows, 64);
        let knobs = [u32::from(self.kind == NormKind::Rms), u32::from(self.weight), u32::from(self.bias), subgroups];
        cx.dispatch(&FORWARD, &knobs, &params, &tensors, grid)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let (x, mean, scale) = (node.inputs[0], node.outputs[1], node.outputs[2]);
        let mut inputs = vec![dy, x, mean, scale];
        if self.weight {
            inputs.push(node.inputs[1]);
        }
        let mut results = vec![Some(tape.push1(NormGrad { kind: self.kind, weight: self.weight }, &inputs)?)];
        if self.weight {
            results.push(Some(tape.push1(NormGradW { kind: self.kind }, &[dy, x, mean, scale])?));
        }
        if self.bias {
            results.push(Some(tape.push1(ColumnSum, &[dy])?));
        }
        Ok(results)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [x, mean, scale] = [node.inputs[0], node.outputs[1], node.outputs[2]];
        let (n, d) = tape.shape(x).rows();
        // The Jacobian of a normalized row is symmetric.
        let plain = NormGrad { kind: self.kind, weight: false };
        let mut by_x = tangents[0].map(|moved| tape.push1(plain, &[moved, x, mean, scale])).transpose()?;
        if self.weight
            && let Some(normal) = by_x
        {
            let (normal, one) = (tape.reshape(normal, &[n, d])?, tape.constant(&[1], &[1.0]));
            let times = FrozenNorm { kind: NormKind::Rms, weight: true, bias: false };
            by_x = Some(tape.push1(times, &[normal, one, node.inputs[1]])?);
        }
        let by_w = tangents.get(1).copied().flatten().filter(|_| self.weight);
        let frozen = FrozenNorm { kind: self.kind, weight: true, bias: false };
        let by_w = by_w.map(|moved| tape.push1(frozen, &[x, scale, moved])).transpose()?;
        let bias = tangents.last().copied().flatten().filter(|_| self.bias);
        let sum = tape.total(&[by_w, by_x])?;
        Ok(vec![tape.biased(sum, bias, n)?, None, None])
    }

    fn keeps(&self, output: usize) -> bool {
        output > 0
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[0].rows();
        let (mut y, mut means, mut scales) = (Array::zeros(&[n, d]), Array::zeros(&[n]), Array::zeros(&[n]));
        for row in 0..n {
            let x = &inputs[0].data[row * d..][..d];
            let mean = if self.kind == NormKind::Layer { x.iter().sum::<f64>() / d as f64 } else { 0.0 };
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
            let scale = (variance + f64::from(self.eps)).sqrt();
            means.data[row] = mean;
            scales.data[row] = scale;
            for (i, value) in x.iter().enumerate() {
                let w = if self.weight { inputs[1].data[i] } else { 1.0 };
                let b = if self.bias { inputs[2].data[i] } else { 0.0 };
                y.data[row * d + i] = (value - mean) / scale * w + b;
            }
        }
        vec![y, means, scales]
    }
}

/// dx = (g - mean(g) - n mean(g n)) / scale with g = dy w and n the normalized row; no mean(g) for RMS.
#[derive(Clone, Copy)]
struct NormGrad {
    kind: NormKind,
    weight: bool,
}

fn grad_params(inputs: &[Tensor], columns: usize, out: &Tensor) -> NormGradParams {
    NormGradParams {
        rows: (inputs[0].len() / columns) as u32,
        columns: columns as u32,
        dy_replica: inputs[0].replica_stride,
        x_replica: inputs[1].replica_stride,
        mean_replica: inputs[2].replica_stride,
        scale_replica: inputs[3].replica_stride,
        w_replica: inputs.get(4).map_or(0, |t| t.replica_stride),
        dx_replica: out.replica_stride,
    }
}

impl Op for NormGrad {
    fn name(&self) -> &'static str {
        "norm gradient of x"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[1].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = *inputs[1].dims.last().unwrap_or(&1);
        let params = grad_params(inputs, columns, &outputs[0]);
        let mut tensors: Vec<&Tensor> = inputs[..4].iter().chain([&outputs[0]]).collect();
        tensors.extend(inputs.get(4));
        let (subgroups, grid) = cx.by_rows(params.rows as usize, 64);
        let knobs = [u32::from(self.kind == NormKind::Rms), u32::from(self.weight), subgroups];
        cx.dispatch(&BACKWARD, &knobs, &params, &tensors, grid)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let mut terms = tape.by_linear(self, node, tangents, &[0, 4])?;
        if let Some(moved) = tangents[1] {
            let mut inputs = node.inputs.to_vec();
            inputs.insert(4, moved);
            terms.push(Some(tape.push1(NormCurve(*self), &inputs)?));
        }
        Ok(vec![tape.total(&terms)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[1].rows();
        let mut dx = Array::zeros(&inputs[1].dims);
        for row in 0..n {
            let (mean, scale) = (inputs[2].data[row], inputs[3].data[row]);
            let g = |i: usize| inputs[0].data[row * d + i] * if self.weight { inputs[4].data[i] } else { 1.0 };
            let normal = |i: usize| (inputs[1].data[row * d + i] - mean) / scale;
            let along = (0..d).map(|i| g(i) * normal(i)).sum::<f64>() / d as f64;
            let centre = if self.kind == NormKind::Layer { (0..d).map(g).sum::<f64>() / d as f64 } else { 0.0 };
            for i in 0..d {
                dx.data[row * d + i] = (g(i) - centre - normal(i) * along) / scale;
            }
        }
        vec![dx]
    }
}

/// How [`NormGrad`] moves with x along x'. Inputs: dy, x, mean, scale, x', and w where there is one.
struct NormCurve(NormGrad);

impl Op for NormCurve {
    fn name(&self) -> &'static str {
        "norm curve"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[1].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = *inputs[1].dims.last().unwrap_or(&1);
        let rows = inputs[1].len() / columns;
        let params = NormCurveParams {
            rows: rows as u32,
            columns: columns as u32,
            dy_replica: inputs[0].replica_stride,
            x_replica: inputs[1].replica_stride,
            mean_replica: inputs[2].replica_stride,
            scale_replica: inputs[3].replica_stride,
            moved_replica: inputs[4].replica_stride,
            w_replica: inputs.get(5).map_or(0, |t| t.replica_stride),
            y_replica: outputs[0].replica_stride,
        };
        let mut tensors: Vec<&Tensor> = inputs[..5].iter().chain([&outputs[0]]).collect();
        tensors.extend(inputs.get(5));
        let (subgroups, grid) = cx.by_rows(rows, 64);
        let knobs = [u32::from(self.0.kind == NormKind::Rms), u32::from(self.0.weight), subgroups];
        cx.dispatch(&CURVE, &knobs, &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[1].rows();
        let plain = NormGrad { kind: self.0.kind, weight: false };
        let dx = self.0.reference(&[&inputs[..4], &inputs[5..]].concat()).remove(0);
        let normal_moved = plain.reference(&[inputs[4], inputs[1], inputs[2], inputs[3]]).remove(0);
        let mut y = Array::zeros(&inputs[1].dims);
        for row in 0..n {
            let (mean, scale) = (inputs[2].data[row], inputs[3].data[row]);
            let g = |i: usize| inputs[0].data[row * d + i] * if self.0.weight { inputs[5].data[i] } else { 1.0 };
            let normal = |i: usize| (inputs[1].data[row * d + i] - mean) / scale;
            let mean_of = |f: &dyn Fn(usize) -> f64| (0..d).map(f).sum::<f64>() / d as f64;
            let stretch = mean_of(&|i| normal(i) * inputs[4].data[row * d + i]);
            let along = mean_of(&|i| g(i) * normal(i));
            let turned = mean_of(&|i| g(i) * normal_moved.data[row * d + i]);
            for i in 0..d {
                let at = row * d + i;
                y.data[at] = -(stretch * dx.data[at] + normal_moved.data[at] * along + normal(i) * turned) / scale;
            }
        }
        vec![y]
    }
}

/// dw [D] = sum over rows of dy n, n the normalized row.
#[derive(Clone, Copy)]
struct NormGradW {
    kind: NormKind,
}

impl Op for NormGradW {
    fn name(&self) -> &'static str {
        "norm gradient of w"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let columns = inputs[1].rows().1;
        Ok(vec![like(inputs, &[columns])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const ROWS: usize = 256;
        let columns = outputs[0].len();
        let rows = inputs[0].len() / columns;
        let chunks = rows.div_ceil(ROWS);
        let partial = cx.scratch(&[chunks, columns]);
        let params = grad_params(inputs, columns, &partial);
        let tensors: Vec<&Tensor> = inputs[..4].iter().chain([&partial]).collect();
        let grid = [columns.div_ceil(32) as u32, chunks as u32, cx.replicas];
        cx.dispatch(&WEIGHT_GRAD, &[], &params, &tensors, grid)?;
        sum_columns(cx, &partial, chunks, columns, &outputs[0])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [dy, x, mean, scale] = [0, 1, 2, 3].map(|at| node.inputs[at]);
        let mut terms = tape.by_linear(self, node, tangents, &[0])?;
        if let Some(moved) = tangents[1] {
            let plain = NormGrad { kind: self.kind, weight: false };
            let normal = tape.push1(plain, &[moved, x, mean, scale])?;
            let dims = tape.shape(normal).dims.clone();
            let dy = tape.reshape(dy, &dims)?;
            let product = tape.push1(Multiply, &[dy, normal])?;
            terms.push(Some(tape.push1(ColumnSum, &[product])?));
        }
        Ok(vec![tape.total(&terms)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[1].rows();
        vec![Array::from_fn(&[d], |i| {
            (0..n)
                .map(|row| {
                    inputs[0].data[row * d + i] * (inputs[1].data[row * d + i] - inputs[2].data[row])
                        / inputs[3].data[row]
                })
                .sum()
        })]
    }
}

/// y [N, D] = (x - mean) / scale (* w) (+ b) with scales `[M]` of other rows, as if the norm did not react to
/// x: row n takes scale n mod M. Inputs: x, the scales, then w and b where there are any. Measures only:
/// it has no gradient.
#[derive(Clone, Copy)]
pub struct FrozenNorm {
    /// Which statistics: RMS has no mean.
    pub kind: NormKind,
    /// Whether a weight follows the scales.
    pub weight: bool,
    /// Whether a bias follows the weight.
    pub bias: bool,
}

impl Op for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen norm"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, d) = inputs[0].rows();
        if inputs.len() != 2 + usize::from(self.weight) + usize::from(self.bias)
            || !n.is_multiple_of(inputs[1].len())
            || inputs[2..].iter().any(|s| s.len() != d)
        {
            return Err(misfit("frozen norm", format!("{n} rows of {d}, {} scales", inputs[1].len())));
        }
        Ok(vec![like(inputs, &[n, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [rows, columns] = outputs[0].dims[..] else { return Err(misfit("frozen norm", "outputs")) };
        let params = FrozenParams {
            rows: rows as u32,
            columns: columns as u32,
            scales: inputs[1].len() as u32,
            x_replica: inputs[0].replica_stride,
            scale_replica: inputs[1].replica_stride,
            w_replica: inputs.get(2).map_or(0, |t| t.replica_stride),
            b_replica: inputs.get(3).map_or(0, |t| t.replica_stride),
            y_replica: outputs[0].replica_stride,
        };
        let mut tensors = vec![&inputs[0], &inputs[1], &outputs[0]];
        tensors.extend(&inputs[2..]);
        let (subgroups, grid) = cx.by_rows(rows, 64);
        let knobs = [u32::from(self.kind == NormKind::Rms), u32::from(self.weight), u32::from(self.bias), subgroups];
        cx.dispatch(&FROZEN, &knobs, &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[0].rows();
        let mut y = Array::zeros(&[n, d]);
        for row in 0..n {
            let x = &inputs[0].data[row * d..][..d];
            let mean = if self.kind == NormKind::Layer { x.iter().sum::<f64>() / d as f64 } else { 0.0 };
            let scale = inputs[1].data[row % inputs[1].data.len()];
            for (i, value) in x.iter().enumerate() {
                let w = if self.weight { inputs[2].data[i] } else { 1.0 };
                let b = if self.bias { inputs[2 + usize::from(self.weight)].data[i] } else { 0.0 };
                y.data[row * d + i] = (value - mean) / scale * w + b;
            }
        }
        vec![y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    fn check(kind: NormKind, weight: bool, bias: bool, n: usize, d: usize) {
        let mut case = Case::new(&format!("norm {kind:?} {weight} {bias} {n} {d}"));
        let x = case.owned(&[n, d]);
        let mut inputs = vec![x];
        if weight {
            inputs.push(case.owned(&[d]));
        }
        if bias {
            inputs.push(case.shared(&[d]));
        }
        // The eps is large here so that a row of one element has a gradient worth comparing.
        let out = case.tape.push(Norm { kind, weight, bias, eps: 0.1 }, &inputs).unwrap();
        let wrt: Vec<Var> = inputs.iter().copied().take(1 + usize::from(weight)).collect();
        // Two sums of D terms and a root: a few dozen roundings of 6e-8.
        case.check(&out, &wrt, 1e-5);
    }

    #[test]
    fn norms_match_their_reference() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for size in SIZES {
                check(kind, true, kind == NormKind::Layer, 3, size);
                check(kind, true, kind == NormKind::Layer, size, 31);
            }
            check(kind, false, false, 64, 128);
            check(kind, true, false, 300, 8);
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (n, d) in SIZES.into_iter().flat_map(|size| [(3, size), (size, 31)]) {
                let mut case = Case::new(&format!("tangent of norm {kind:?} {n} {d}"));
                let bias = kind == NormKind::Layer;
                let x = if n == 3 { case.shared(&[n, d]) } else { case.owned(&[n, d]) };
                let mut inputs = vec![x, case.owned(&[d])];
                if bias {
                    inputs.push(case.shared(&[d]));
                }
                let out = case.tape.push(Norm { kind, weight: true, bias, eps: 0.1 }, &inputs).unwrap();
                // Twice the sums of a gradient.
                case.check_tangents(out[0], &inputs, 2e-5);
            }
            let mut case = Case::new(&format!("tangent of plain norm {kind:?}"));
            let x = case.shared(&[5, 64]);
            let out = case.tape.push(Norm { kind, weight: false, bias: false, eps: 1e-5 }, &[x]).unwrap();
            case.check_tangents(out[0], &[x], 2e-5);
        }
    }

    #[test]
    fn frozen_norms_match_their_reference_and_at_their_own_scale_the_norm() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for size in SIZES {
                let mut case = Case::new(&format!("frozen norm {kind:?} {size}"));
                let bias = kind == NormKind::Layer;
                let (x, w, b) = (case.owned(&[3, size]), case.owned(&[size]), case.owned(&[size]));
                let affine: Vec<Var> = [w, b].into_iter().take(1 + usize::from(bias)).collect();
                let own =
                    case.tape.push(Norm { kind, weight: true, bias, eps: 0.1 }, &[&[x], &affine[..]].concat()).unwrap();
                let frozen = FrozenNorm { kind, weight: true, bias };
                let same = case.tape.push1(frozen, &[&[x, own[2]], &affine[..]].concat()).unwrap();
                let copies = case.owned(&[6, size]);
                let other = case.tape.push1(frozen, &[&[copies, own[2]], &affine[..]].concat()).unwrap();
                case.check(&[same, other], &[], 1e-5);
                let (a, b) = (case.reference(0, &[own[0]]).unwrap(), case.reference(0, &[same]).unwrap());
                assert_eq!(a[0].data, b[0].data);
            }
        }
    }

    #[test]
    fn variance_survives_a_large_mean() {
        // E[x^2] - E[x]^2 would lose every digit here; two passes lose none.
        let mut case = Case::new("norm with large mean");
        let x = case.tape.constant(&[1, 4], &[10_000.0, 10_001.0, 10_002.0, 10_003.0]);
        let out = case.tape.push(Norm { kind: NormKind::Layer, weight: false, bias: false, eps: 1e-5 }, &[x]).unwrap();
        case.check(&out[..1], &[], 1e-5);
    }
}
