//! Sums, products, multiples and copies, element by element.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

const WG: u32 = 64;

crate::params! {
    struct AddParams { vectors: u32, a_replica: u32, b_replica: u32, y_replica: u32 }
}
static ADD: Shader<'_> = Shader {
    name: "elementwise/add",
    source: include_str!("../../../shaders/elementwise/add.wgsl"),
    knobs: &[Knob { name: "WIDE", values: &[0, 1] }],
    params: AddParams::FIELDS,
};
crate::params! {
    struct ScaleParams { vectors: u32, x_replica: u32, y_replica: u32, factor: f32 }
}
static MULTIPLY: Shader<'_> = Shader {
    name: "elementwise/multiply",
    source: include_str!("../../../shaders/elementwise/multiply.wgsl"),
    knobs: &[Knob { name: "WIDE", values: &[0, 1] }],
    params: AddParams::FIELDS,
};
static SCALE: Shader<'_> = Shader {
    name: "elementwise/scale",
    source: include_str!("../../../shaders/elementwise/scale.wgsl"),
    knobs: &[Knob { name: "WIDE", values: &[0, 1] }],
    params: ScaleParams::FIELDS,
};
crate::params! {
    struct BiasParams { rows: u32, columns: u32, x_replica: u32, b_replica: u32, y_replica: u32 }
}
static ADD_BIAS: Shader<'_> = Shader {
    name: "elementwise/add_bias",
    source: include_str!("../../../shaders/elementwise/add_bias.wgsl"),
    knobs: &[],
    params: BiasParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&ADD, &MULTIPLY, &SCALE, &ADD_BIAS];

/// Whether all of these can be walked in vectors of four.
fn wide(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.len().is_multiple_of(4) && t.replica_stride.is_multiple_of(4))
}

/// Records a kernel over two inputs of equal size.
fn of_two(cx: &mut Lower<'_>, shader: &Shader<'_>, inputs: &[Tensor], y: &Tensor) -> Result<()> {
    let (a, b) = (&inputs[0], &inputs[1]);
    let wide = wide(&[a, b, y]);
    let width = if wide { 4 } else { 1 };
    let vectors = y.len() as u32 / width;
    let params = AddParams {
        vectors,
        a_replica: a.replica_stride / width,
        b_replica: b.replica_stride / width,
        y_replica: y.replica_stride / width,
    };
    let grid = grid_1d(u64::from(vectors).div_ceil(u64::from(WG)), cx.replicas);
    cx.dispatch(shader, &[u32::from(wide)], &params, &[a, b, y], grid)
}

/// y = a + b, of equal dimensions.
#[derive(Clone, Copy)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[0].dims != inputs[1].dims {
            return Err(misfit("add", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        of_two(cx, &ADD, inputs, &outputs[0])
    }

    fn vjp(&self, _tape: &mut Tape, _node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![grads[0], grads[0]])
    }

    fn jvp(&self, tape: &mut Tape, _node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![tape.total(tangents)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| inputs[0].data[i] + inputs[1].data[i])]
    }
}

/// y = a b, element by element, of equal dimensions.
#[derive(Clone, Copy)]
pub struct Multiply;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[0].dims != inputs[1].dims {
            return Err(misfit("multiply", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        of_two(cx, &MULTIPLY, inputs, &outputs[0])
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None, None]) };
        Ok(vec![Some(tape.push1(Self, &[dy, node.inputs[1]])?), Some(tape.push1(Self, &[dy, node.inputs[0]])?)])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| inputs[0].data[i] * inputs[1].data[i])]
    }
}

/// y = factor x.
#[derive(Clone, Copy)]
pub struct Scale(
    /// The factor.
    pub f32,
);

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let wide = wide(&[x, y]);
        let width = if wide { 4 } else { 1 };
        let vectors = y.len() as u32 / width;
        let params = ScaleParams {
            vectors,
            x_replica: x.replica_stride / width,
            y_replica: y.replica_stride / width,
            factor: self.0,
        };
        let grid = grid_1d(u64::from(vectors).div_ceil(u64::from(WG)), cx.replicas);
        cx.dispatch(&SCALE, &[u32::from(wide)], &params, &[x, y], grid)
    }

    fn vjp(&self, tape: &mut Tape, _node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![grads[0].map(|grad| tape.push1(Self(self.0), &[grad])).transpose()?])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| inputs[0].data[i] * f64::from(self.0))]
    }
}

/// y = x in other memory: one copy per replica where R is given, also of a shared x.
#[derive(Clone, Copy)]
pub struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: true, ..inputs[0].clone() }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        Scale(1.0).lower(cx, inputs, outputs)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![inputs[0].clone()]
    }
}

/// y [N, C] = x + b `[C]` in every row.
#[derive(Clone, Copy)]
pub struct AddBias;

impl Op for AddBias {
    fn name(&self) -> &'static str {
        "add bias"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[1].len() != inputs[0].rows().1 {
            return Err(misfit("add bias", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = inputs[1].len();
        let params = BiasParams {
            rows: (outputs[0].len() / columns) as u32,
            columns: columns as u32,
            x_replica: inputs[0].replica_stride,
            b_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(u64::from(WG)), cx.replicas);
        cx.dispatch(&ADD_BIAS, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn vjp(&self, tape: &mut Tape, _node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Ok(vec![grads[0], grads[0].map(|dy| tape.push1(super::ColumnSum, &[dy])).transpose()?])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let rows = tape.shape(node.inputs[0]).rows().0;
        Ok(vec![tape.biased(tangents[0], tangents[1], rows)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let columns = inputs[1].data.len();
        vec![Array::from_fn(&inputs[0].dims, |i| inputs[0].data[i] + inputs[1].data[i % columns])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn add_matches_its_reference() {
        for n in SIZES {
            let mut case = Case::new("add");
            let (a, b) = (case.owned(&[n, 3]), case.shared(&[n, 3]));
            let y = case.tape.push1(Add, &[a, b]).unwrap();
            case.check(&[y], &[a], 1e-6);
        }
    }

    #[test]
    fn products_match_their_reference() {
        for n in SIZES {
            let mut case = Case::new("multiply");
            let (a, b) = (case.owned(&[n, 3]), case.owned(&[n, 3]));
            let y = case.tape.push1(Multiply, &[a, b]).unwrap();
            case.check(&[y], &[a, b], 1e-6);
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for n in SIZES {
            let mut case = Case::new("tangents of sums and products");
            let (a, b, bias) = (case.owned(&[n, 3]), case.shared(&[n, 3]), case.owned(&[3]));
            let sum = case.tape.push1(Add, &[a, b]).unwrap();
            let product = case.tape.push1(Multiply, &[sum, b]).unwrap();
            let y = case.tape.push1(AddBias, &[product, bias]).unwrap();
            let y = case.tape.push1(Scale(-1.75), &[y]).unwrap();
            case.check_tangents(y, &[a, b, bias], 1e-5);
        }
        let mut case = Case::new("a bias alone moves");
        let (x, bias) = (case.shared(&[31, 7]), case.shared(&[7]));
        let y = case.tape.push1(AddBias, &[x, bias]).unwrap();
        case.check_tangents(y, &[bias], 1e-5);
    }

    #[test]
    fn biases_match_their_reference() {
        for n in SIZES {
            let mut case = Case::new("add bias");
            let (x, b) = (case.owned(&[n, 7]), case.owned(&[7]));
            let y = case.tape.push1(AddBias, &[x, b]).unwrap();
            case.check(&[y], &[x, b], 1e-5);
        }
    }

    #[test]
    fn a_value_used_twice_sums_its_gradients() {
        let mut case = Case::new("add twice");
        let a = case.owned(&[8]);
        let b = case.tape.push1(Add, &[a, a]).unwrap();
        let y = case.tape.push1(Add, &[b, a]).unwrap();
        case.check(&[y], &[a], 1e-6);
    }

    #[test]
    fn scale_matches_its_reference() {
        for n in SIZES {
            let mut case = Case::new("scale");
            let x = case.owned(&[n]);
            let y = case.tape.push1(Scale(-1.75), &[x]).unwrap();
            case.check(&[y], &[x], 1e-6);
        }
    }
}
