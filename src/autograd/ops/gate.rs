//! Values turned down, or towards others, by groups, as far as a dose says that is computed on the device.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use super::Scale;
use crate::error::{Error, Result};
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct GateParams {
        n: u32, inner: u32, groups: u32, repeat: u32, x_replica: u32, dose_replica: u32, base_replica: u32,
        y_replica: u32,
    }
}
static GATE: Shader<'_> = Shader {
    name: "elementwise/gate",
    source: include_str!("../../../shaders/elementwise/gate.wgsl"),
    knobs: &[Knob { name: "BASE", values: &[0, 1] }],
    params: GateParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&GATE];

/// y = (1 - d) x + d base, with the bits of x where d is 0. Inputs: x, of which `inner` neighbours make a group; the dose of
/// each group `[G]`, the groups repeating along x; and the base `[m]`, repeating along x too, if it is not 0. The base is taken
/// as it stands: neither it nor the dose has a gradient.
pub struct Gate {
    /// Elements of a group: K for heads of [N, G, K].
    pub inner: usize,
}

impl Op for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let len = inputs[0].len();
        let groups = self.inner * inputs[1].len();
        if groups == 0
            || !len.is_multiple_of(groups)
            || inputs.get(2).is_some_and(|base| !len.is_multiple_of(base.len()))
        {
            return Err(misfit(
                "gate",
                format!("{:?} in groups of {}, {} of them", inputs[0].dims, self.inner, groups),
            ));
        }
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let base = inputs.get(2);
        let params = GateParams {
            n: outputs[0].len() as u32,
            inner: self.inner as u32,
            groups: inputs[1].len() as u32,
            repeat: base.map_or(1, Tensor::len) as u32,
            x_replica: inputs[0].replica_stride,
            dose_replica: inputs[1].replica_stride,
            base_replica: base.map_or(0, |base| base.replica_stride),
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&GATE, &[u32::from(base.is_some())], &params, &tensors, grid)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let mut out = vec![None; node.inputs.len()];
        out[0] = grads[0].map(|dy| tape.push1(Self { inner: self.inner }, &[dy, node.inputs[1]])).transpose()?;
        Ok(out)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        if tangents[1].is_some() {
            return Err(Error::Unsupported("gate has no forward derivative by its dose".to_owned()));
        }
        let (x, base) = (tangents[0], tangents.get(2).copied().flatten());
        if x.is_none() && base.is_none() {
            return Ok(vec![None]);
        }
        let x = x.map_or_else(|| tape.push1(Scale(0.0), &[node.inputs[0]]), Ok)?;
        let inputs: Vec<Var> = [x, node.inputs[1]].into_iter().chain(base).collect();
        Ok(vec![Some(tape.push1(Self { inner: self.inner }, &inputs)?)])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, dose) = (inputs[0], inputs[1]);
        vec![Array::from_fn(&x.dims, |i| {
            let d = dose.data[i / self.inner % dose.data.len()];
            let base = inputs.get(2).map_or(0.0, |base| base.data[i % base.data.len()]);
            (1.0 - d) * x.data[i] + d * base
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES, gpus};

    #[test]
    fn gates_match_their_reference_with_and_without_a_base() {
        for n in SIZES {
            let mut case = Case::new("gate");
            let (x, base) = (case.owned(&[n, 3, 5]), case.owned(&[3, 5]));
            let doses: Vec<f32> = vec![0.0, 0.3, 1.0, -2.0, 0.0, 0.75];
            let dose = case.tape.constant_owned(&[3], &doses);
            let y = case.tape.push1(Gate { inner: 5 }, &[x, dose]).unwrap();
            let z = case.tape.push1(Gate { inner: 5 }, &[x, dose, base]).unwrap();
            case.check(&[y], &[x], 1e-6);
            case.check(&[z], &[x], 1e-6);
            case.check_tangents(z, &[x], 1e-6);
        }
    }

    #[test]
    fn a_dose_of_nothing_keeps_every_bit_and_a_whole_one_leaves_the_base() {
        let special = vec![-0.0, 0.0, 1e-42, f32::MAX, -1.5, f32::MIN_POSITIVE];
        for gpu in gpus() {
            let mut case = Case::new("gate bits");
            let x = case.tape.input("x", Shape::f32(&[6]));
            case.set(x, special.clone());
            let base = case.tape.constant(&[6], &[7.0; 6]);
            let dose = case.tape.constant_owned(&[1], &[0.0, 1.0]);
            let y = case.tape.push1(Gate { inner: 1 }, &[x, dose, base]).unwrap();
            let found = case.run(gpu, &[y]).unwrap().remove(0);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found[0]), bits(&special), "{}", gpu.caps().name);
            assert_eq!(found[1], [7.0; 6], "{}", gpu.caps().name);
        }
    }
}
