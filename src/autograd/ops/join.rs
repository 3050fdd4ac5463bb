//! Values one behind the other, and apart again. Where they lie so in memory, nothing is moved: see `autograd::fuse`.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var};
use super::Copy;
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct JoinParams {
        first: u32, second: u32, third: u32,
        first_replica: u32, second_replica: u32, third_replica: u32, whole_replica: u32,
    }
}
static JOIN: Shader<'_> = Shader {
    name: "elementwise/join",
    source: include_str!("../../../shaders/elementwise/join.wgsl"),
    knobs: &[Knob { name: "APART", values: &[0, 1] }],
    params: JoinParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&JOIN];

fn record(cx: &mut Lower<'_>, apart: bool, parts: &[Tensor], whole: &Tensor) -> Result<()> {
    let [first, second, third] = parts else { return Err(misfit("join", "three parts")) };
    let params = JoinParams {
        first: first.len() as u32,
        second: second.len() as u32,
        third: third.len() as u32,
        first_replica: first.replica_stride,
        second_replica: second.replica_stride,
        third_replica: third.replica_stride,
        whole_replica: whole.replica_stride,
    };
    let grid = grid_1d((whole.len() as u64).div_ceil(64), cx.replicas);
    cx.dispatch(&JOIN, &[u32::from(apart)], &params, &[first, second, third, whole], grid)
}

/// y of `dims` = three inputs, one behind the other.
pub struct Join {
    /// Dimensions of the whole.
    pub dims: Vec<usize>,
}

impl Op for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let whole = Shape { owned: inputs[0].owned, ..Shape::f32(&self.dims) };
        let fits = inputs.len() == 3 && inputs.iter().all(|s| s.owned == whole.owned);
        if !fits || whole.len() != inputs.iter().map(|s| s.len()).sum::<usize>() {
            return Err(misfit("join", format!("{:?}", inputs.iter().map(|s| &s.dims).collect::<Vec<_>>())));
        }
        Ok(vec![whole])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, false, inputs, &outputs[0])
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None; 3]) };
        let dims = node.inputs.iter().map(|var| tape.shape(*var).dims.clone()).collect();
        Ok(tape.push(Split { dims }, &[dy])?.into_iter().map(Some).collect())
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let owned = tangents.iter().flatten().any(|var| tape.shape(*var).owned);
        let parts: Vec<Var> = node
            .inputs
            .iter()
            .zip(tangents)
            .map(|(part, tangent)| {
                let dims = tape.shape(*part).dims.clone();
                let still = tangent.unwrap_or_else(|| tape.constant(&dims, &vec![0.0; dims.iter().product()]));
                if owned && !tape.shape(still).owned { tape.push1(Copy, &[still]) } else { Ok(still) }
            })
            .collect::<Result<_>>()?;
        Ok(vec![Some(tape.push1(Self { dims: self.dims.clone() }, &parts)?)])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::new(&self.dims, inputs.iter().flat_map(|a| a.data.iter().copied()).collect())]
    }
}

/// The three parts of x, which lie one behind the other.
#[derive(Clone)]
pub struct Split {
    /// Dimensions of each part.
    pub dims: Vec<Vec<usize>>,
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let parts: Vec<Shape> = self.dims.iter().map(|dims| inputs[0].with_dims(dims)).collect();
        if parts.len() != 3 || parts.iter().map(Shape::len).sum::<usize>() != inputs[0].len() {
            return Err(misfit("split", format!("{:?} into {:?}", inputs[0].dims, self.dims)));
        }
        Ok(parts)
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        record(cx, true, outputs, &inputs[0])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut rest = inputs[0].data.as_slice();
        let part = |dims: &Vec<usize>| {
            let (head, tail) = rest.split_at(dims.iter().product());
            rest = tail;
            Array::new(dims, head.to_vec())
        };
        self.dims.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    #[test]
    fn what_is_joined_comes_apart_again() {
        for sizes in [[1, 1, 1], [3, 64, 31], [257, 2, 5]] {
            let mut case = Case::new(&format!("join {sizes:?}"));
            let parts = sizes.map(|n| case.owned(&[n]));
            let whole = case.tape.push1(Join { dims: vec![sizes.iter().sum()] }, &parts).unwrap();
            case.check(&[whole], &parts, 1e-6);
            let again = case.tape.push(Split { dims: sizes.map(|n| vec![n]).to_vec() }, &[whole]).unwrap();
            case.agree(&again, 1e-7);
            case.check_tangents(whole, &parts[1..], 1e-5);
        }
    }
}
