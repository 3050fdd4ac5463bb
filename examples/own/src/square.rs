//! An op: y = x².

use thermoscope::autograd::{Array, Links, Lower, Op, Shape, Tape, Var, misfit};
use thermoscope::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use thermoscope::{Error, Result};

thermoscope::params! {
    struct SquareParams { n: u32, x_replica: u32, dy_replica: u32, y_replica: u32 }
}
static SQUARE: Shader<'_> = Shader {
    name: "own/square",
    source: include_str!("square.wgsl"),
    knobs: &[Knob { name: "BACKWARD", values: &[0, 1] }],
    params: SquareParams::FIELDS,
};

/// y = x², or the gradient 2 x dy. Inputs: x, and dy for the gradient.
#[derive(Default)]
pub struct Square {
    backward: bool,
}

impl Op for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs.iter().any(|shape| shape.len() != inputs[0].len()) {
            return Err(misfit("square", "x and dy differ in length"));
        }
        Ok(vec![Shape { owned: inputs.iter().any(|shape| shape.owned), ..inputs[0].clone() }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (x, dy, y) = (&inputs[0], inputs.get(1), &outputs[0]);
        let params = SquareParams {
            n: y.len() as u32,
            x_replica: x.replica_stride,
            dy_replica: dy.map_or(0, |dy| dy.replica_stride),
            y_replica: y.replica_stride,
        };
        // In the order of the bindings in the file.
        let tensors: Vec<&Tensor> = [x, y].into_iter().chain(dy).collect();
        let grid = grid_1d(u64::from(params.n).div_ceil(64), cx.replicas);
        cx.dispatch(&SQUARE, &[u32::from(self.backward)], &params, &tensors, grid)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        if self.backward {
            return Err(Error::Unsupported("the gradient of square has no gradient".to_owned()));
        }
        Ok(vec![grads[0].map(|dy| tape.push1(Self { backward: true }, &[node.inputs[0], dy])).transpose()?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = &inputs[0].data;
        let value = |i: usize| if self.backward { 2.0 * x[i] * inputs[1].data[i] } else { x[i] * x[i] };
        vec![Array::from_fn(&inputs[0].dims, value)]
    }
}

#[cfg(test)]
mod tests {
    use thermoscope::autograd::check::{Case, SIZES};
    use thermoscope::gpu::assemble;

    use super::*;

    #[test]
    fn squares_and_their_gradient_match_the_reference() {
        for n in SIZES {
            let mut case = Case::new("square");
            let x = case.owned(&[n, 3]);
            let y = case.tape.push1(Square::default(), &[x]).unwrap();
            // A product or two, each rounded to 6e-8.
            case.check(&[y], &[x], 1e-6);
        }
    }

    #[test]
    fn the_kernel_is_written_for_metal_and_directx_too() {
        for knobs in SQUARE.variants() {
            let module = naga::front::wgsl::parse_str(&assemble(&SQUARE, &knobs).unwrap()).unwrap();
            let capabilities = naga::valid::Capabilities::all();
            let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
                .validate(&module)
                .unwrap();
            let options = naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
            naga::back::msl::write_string(&module, &info, &options, &Default::default()).unwrap();
            let options = naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
            let mut text = String::new();
            naga::back::hlsl::Writer::new(&mut text, &options, &Default::default()).write(&module, &info, None).unwrap();
        }
    }
}
