//! The MLP's non-linearities, plain and gated.

use serde::{Deserialize, Serialize};

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use super::Multiply;
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// Non-linearity of the MLP, with TransformerLens's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActFn {
    /// max(x, 0).
    Relu = 0,
    /// x Phi(x), with the error function.
    Gelu = 1,
    /// GELU by its tanh approximation.
    #[serde(alias = "gelu_fast", alias = "gelu_pytorch_tanh")]
    GeluNew = 2,
    /// x sigmoid(x).
    Silu = 3,
}

impl ActFn {
    fn value(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Self::GeluNew => 0.5 * x * (1.0 + Self::inner(x).tanh()),
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }

    fn derivative(self, x: f64) -> f64 {
        match self {
            Self::Relu => f64::from(x > 0.0),
            Self::Gelu => {
                let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
                0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)) + x * density
            }
            Self::GeluNew => {
                let t = Self::inner(x).tanh();
                let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044_715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
            }
            Self::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                s * (1.0 + x * (1.0 - s))
            }
        }
    }

    fn curvature(self, x: f64) -> f64 {
        match self {
            Self::Relu => 0.0,
            Self::Gelu => (2.0 - x * x) * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt(),
            Self::GeluNew => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let (t, fall) = (Self::inner(x).tanh(), Self::inner(x).cosh().powi(-2));
                let (slope, bend) = (root * (1.0 + 3.0 * 0.044_715 * x * x), root * 6.0 * 0.044_715 * x);
                fall * (slope + 0.5 * x * (bend - 2.0 * t * slope * slope))
            }
            Self::Silu => {
                let (e, s) = ((-x.abs()).exp(), 1.0 / (1.0 + (-x).exp()));
                e / (1.0 + e).powi(2) * (2.0 + x * (1.0 - 2.0 * s))
            }
        }
    }

    fn inner(x: f64) -> f64 {
        (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)
    }
}

pub(super) const ACT: Knob<'_> = Knob { name: "ACT", values: &[0, 1, 2, 3] };
const WIDE: Knob<'_> = Knob { name: "WIDE", values: &[0, 1] };

crate::params! {
    struct ActParams { vectors: u32, a_replica: u32, b_replica: u32, c_replica: u32, y_replica: u32, z_replica: u32 }
}
static FORWARD: Shader<'_> = Shader {
    name: "activation/activation_forward",
    source: include_str!("../../../shaders/activation/activation_forward.wgsl"),
    knobs: &[ACT, WIDE],
    params: ActParams::FIELDS,
};
static BACKWARD: Shader<'_> = Shader {
    name: "activation/activation_backward",
    source: include_str!("../../../shaders/activation/activation_backward.wgsl"),
    knobs: &[ACT, WIDE],
    params: ActParams::FIELDS,
};
static GATED_FORWARD: Shader<'_> = Shader {
    name: "activation/gated_forward",
    source: include_str!("../../../shaders/activation/gated_forward.wgsl"),
    knobs: &[ACT, WIDE],
    params: ActParams::FIELDS,
};
static GATED_BACKWARD: Shader<'_> = Shader {
    name: "activation/gated_backward",
    source: include_str!("../../../shaders/activation/gated_backward.wgsl"),
    knobs: &[ACT, WIDE],
    params: ActParams::FIELDS,
};
static CURVE: Shader<'_> = Shader {
    name: "activation/activation_curve",
    source: include_str!("../../../shaders/activation/activation_curve.wgsl"),
    knobs: &[ACT, WIDE],
    params: ActParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&FORWARD, &BACKWARD, &CURVE, &GATED_FORWARD, &GATED_BACKWARD];

/// Records an element-wise kernel over up to three inputs and two outputs of equal size.
fn record(cx: &mut Lower<'_>, shader: &Shader<'_>, act: ActFn, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
    let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
    let wide = tensors.iter().all(|t| t.len().is_multiple_of(4) && t.replica_stride.is_multiple_of(4));
    let width = if wide { 4 } else { 1 };
    let stride = |t: Option<&Tensor>| t.map_or(0, |t| t.replica_stride / width);
    let params = ActParams {
        vectors: outputs[0].len() as u32 / width,
        a_replica: stride(inputs.first()),
        b_replica: stride(inputs.get(1)),
        c_replica: stride(inputs.get(2)),
        y_replica: stride(outputs.first()),
        z_replica: stride(outputs.get(1)),
    };
    let grid = grid_1d(u64::from(params.vectors).div_ceil(64), cx.replicas);
    cx.dispatch(shader, &[act as u32, u32::from(wide)], &params, &tensors, grid)
}

fn same_shape(op: &'static str, inputs: &[&Shape]) -> Result<Shape> {
    if inputs.iter().any(|s| s.len() != inputs[0].len()) {
        return Err(misfit(op, format!("{:?}", inputs.iter().map(|s| &s.dims).collect::<Vec<_>>())));
    }
    Ok(like(inputs, &inputs[0].dims))
}

/// y = act(x).
#[derive(Clone, Copy)]
pub struct Activation(
    /// The non-linearity.
    pub ActFn,
);

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, &FORWARD, self.0, inputs, outputs)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![grads[0].map(|dy| tape.push1(ActivationGrad(self.0), &[dy, node.inputs[0]])).transpose()?])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let x = node.inputs[0];
        Ok(vec![tangents[0].map(|moved| tape.push1(ActivationGrad(self.0), &[moved, x])).transpose()?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| self.0.value(inputs[0].data[i]))]
    }
}

/// dx = dy act'(x).
#[derive(Clone, Copy)]
pub(in crate::autograd) struct ActivationGrad(pub(in crate::autograd) ActFn);

impl Op for ActivationGrad {
    fn name(&self) -> &'static str {
        "activation gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { dims: inputs[1].dims.clone(), ..same_shape("activation gradient", inputs)? }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, &BACKWARD, self.0, inputs, outputs)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let mut terms = tape.by_linear(self, node, tangents, &[0])?;
        terms.push(bent(tape, self.0, node.inputs[0], node.inputs[1], tangents[1])?);
        Ok(vec![tape.total(&terms)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[1].dims, |i| inputs[0].data[i] * self.0.derivative(inputs[1].data[i]))]
    }
}

/// y = dy act''(x). Inputs: dy, x.
struct ActivationCurve(ActFn);

impl Op for ActivationCurve {
    fn name(&self) -> &'static str {
        "activation curve"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { dims: inputs[1].dims.clone(), ..same_shape("activation curve", inputs)? }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, &CURVE, self.0, inputs, outputs)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[1].dims, |i| inputs[0].data[i] * self.0.curvature(inputs[1].data[i]))]
    }
}

/// Appends how dy act'(x) moves with x: dy act''(x) x'.
fn bent(tape: &mut Tape, act: ActFn, dy: Var, x: Var, moved: Option<Var>) -> Result<Option<Var>> {
    let Some(moved) = moved.filter(|_| act != ActFn::Relu) else { return Ok(None) };
    let curve = tape.push1(ActivationCurve(act), &[dy, x])?;
    Ok(Some(tape.push1(Multiply, &[curve, moved])?))
}

/// y = act(gate) * up. Inputs: gate, up.
#[derive(Clone, Copy)]
pub struct GatedActivation(
    /// The non-linearity of the gate.
    pub ActFn,
);

impl Op for GatedActivation {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![same_shape("gated activation", inputs)?])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, &GATED_FORWARD, self.0, inputs, outputs)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None, None]) };
        let both = tape.push(GatedActivationGrad(self.0), &[dy, node.inputs[0], node.inputs[1]])?;
        Ok(both.into_iter().map(Some).collect())
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let (gate, up) = (node.inputs[0], node.inputs[1]);
        let by_up = tape.by_linear(self, node, tangents, &[1])?[0];
        let by_gate =
            tangents[0].map(|moved| tape.push1(GatedActivationGrad(self.0), &[moved, gate, up])).transpose()?;
        Ok(vec![tape.total(&[by_gate, by_up])?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| self.0.value(inputs[0].data[i]) * inputs[1].data[i])]
    }
}

/// d gate = dy up act'(gate), d up = dy act(gate).
#[derive(Clone, Copy)]
struct GatedActivationGrad(ActFn);

impl Op for GatedActivationGrad {
    fn name(&self) -> &'static str {
        "gated activation gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let shape = Shape { dims: inputs[1].dims.clone(), ..same_shape("gated activation gradient", inputs)? };
        Ok(vec![shape.clone(), shape])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, &GATED_BACKWARD, self.0, inputs, outputs)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let [dy, gate, up] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        let by_dy = tape.by_linear(self, node, tangents, &[0])?;
        // Of each the first output alone: dy times the third input times act'(gate).
        let by_up = tangents[2].map(|moved| tape.push1(*self, &[dy, gate, moved])).transpose()?;
        let by_gate = tangents[1].map(|moved| tape.push1(*self, &[dy, gate, moved])).transpose()?;
        let curve = bent(tape, self.0, dy, gate, tangents[1])?;
        let curve = curve.map(|curve| tape.push1(Multiply, &[curve, up])).transpose()?;
        Ok(vec![tape.total(&[by_dy[0], by_up, curve])?, tape.total(&[by_dy[1], by_gate])?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (dy, gate, up) = (inputs[0], inputs[1], inputs[2]);
        vec![
            Array::from_fn(&gate.dims, |i| dy.data[i] * up.data[i] * self.0.derivative(gate.data[i])),
            Array::from_fn(&gate.dims, |i| dy.data[i] * self.0.value(gate.data[i])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    const ALL: [ActFn; 4] = [ActFn::Relu, ActFn::Gelu, ActFn::GeluNew, ActFn::Silu];
    // exp and division of the device: a few ulps, WGSL allows more for large arguments.
    const TOLERANCE: f64 = 5e-6;

    #[test]
    fn activations_match_their_reference() {
        for act in ALL {
            for n in SIZES {
                let mut case = Case::new(&format!("{act:?} {n}"));
                let x = case.owned(&[n, 4]);
                let y = case.tape.push1(Activation(act), &[x]).unwrap();
                case.check(&[y], &[x], TOLERANCE);
            }
        }
    }

    #[test]
    fn gated_activations_match_their_reference() {
        for act in ALL {
            for n in [3, 64] {
                let mut case = Case::new(&format!("gated {act:?} {n}"));
                let (gate, up) = (case.owned(&[n, 5]), case.owned(&[n, 5]));
                let y = case.tape.push1(GatedActivation(act), &[gate, up]).unwrap();
                case.check(&[y], &[gate, up], TOLERANCE);
            }
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for act in ALL {
            for n in SIZES {
                let mut case = Case::new(&format!("tangent of {act:?} {n}"));
                let x = if n % 2 == 0 { case.shared(&[n, 4]) } else { case.owned(&[n, 4]) };
                let y = case.tape.push1(Activation(act), &[x]).unwrap();
                case.check_tangents(y, &[x], TOLERANCE);
            }
            for n in [3, 64] {
                let mut case = Case::new(&format!("tangent of gated {act:?} {n}"));
                let (gate, up) = (case.owned(&[n, 5]), case.shared(&[n, 5]));
                let y = case.tape.push1(GatedActivation(act), &[gate, up]).unwrap();
                case.check_tangents(y, &[gate, up], TOLERANCE);
            }
        }
    }

    #[test]
    fn activations_hold_far_from_zero() {
        for act in ALL {
            let mut case = Case::new(&format!("{act:?} far"));
            let x = case.tape.constant(&[9], &[-200.0, -30.0, -6.0, -1e-3, 1e-3, 0.84, 6.0, 30.0, 200.0]);
            let y = case.tape.push1(Activation(act), &[x]).unwrap();
            let curve = case.tape.push1(ActivationCurve(act), &[x, x]).unwrap();
            case.check(&[y, curve], &[], TOLERANCE);
        }
    }
}
