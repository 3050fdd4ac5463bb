//! Sums over rows, columns and everything, in trees of fixed shape.

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor, grid_1d};

crate::params! {
    struct ColumnSumParams { rows: u32, columns: u32, chunk: u32, x_replica: u32, y_replica: u32 }
}
static COLUMN_SUM: Shader<'_> = Shader {
    name: "reduce/column_sum",
    source: include_str!("../../../shaders/reduce/column_sum.wgsl"),
    knobs: &[],
    params: ColumnSumParams::FIELDS,
};
crate::params! {
    struct MeanParams { n: u32, x_replica: u32, count_replica: u32, y_replica: u32 }
}
static MEAN_ROWS: Shader<'_> = Shader {
    name: "reduce/mean_rows",
    source: include_str!("../../../shaders/reduce/mean_rows.wgsl"),
    knobs: &[],
    params: MeanParams::FIELDS,
};
static SPREAD: Shader<'_> = Shader {
    name: "reduce/spread_mean",
    source: include_str!("../../../shaders/reduce/spread_mean.wgsl"),
    knobs: &[],
    params: MeanParams::FIELDS,
};
crate::params! {
    struct DotParams { n: u32, chunk: u32, a_replica: u32, b_replica: u32, y_replica: u32 }
}
static DOT: Shader<'_> = Shader {
    name: "reduce/dot_product",
    source: include_str!("../../../shaders/reduce/dot_product.wgsl"),
    knobs: &[],
    params: DotParams::FIELDS,
};
crate::params! {
    struct MultiplyParams { n: u32, x_replica: u32, factor_replica: u32, y_replica: u32 }
}
static MULTIPLY: Shader<'_> = Shader {
    name: "reduce/multiply_scalar",
    source: include_str!("../../../shaders/reduce/multiply_scalar.wgsl"),
    knobs: &[],
    params: MultiplyParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&COLUMN_SUM, &MEAN_ROWS, &SPREAD, &DOT, &MULTIPLY];

/// Rows one workgroup of `column_sum` adds up; more rows need a second round.
const ROWS: usize = 256;

/// Records y [C] = column sums of x [N, C].
pub(crate) fn sum_columns(cx: &mut Lower<'_>, x: &Tensor, rows: usize, columns: usize, y: &Tensor) -> Result<()> {
    let chunks = rows.div_ceil(ROWS);
    let partial = (chunks > 1).then(|| cx.scratch(&[chunks, columns]));
    let target = partial.as_ref().unwrap_or(y);
    let params = ColumnSumParams {
        rows: rows as u32,
        columns: columns as u32,
        chunk: ROWS as u32,
        x_replica: x.replica_stride,
        y_replica: target.replica_stride,
    };
    let grid = grid_1d(columns.div_ceil(32) as u64 * chunks as u64, cx.replicas);
    cx.dispatch(&COLUMN_SUM, &[], &params, &[x, target], grid)?;
    match &partial {
        Some(partial) => sum_columns(cx, partial, chunks, columns, y),
        None => Ok(()),
    }
}

/// y `[C]` = sum over rows of x [N, C].
#[derive(Clone, Copy)]
pub struct ColumnSum;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column sum"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = outputs[0].len();
        sum_columns(cx, &inputs[0], inputs[0].len() / columns, columns, &outputs[0])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[columns], |c| (0..rows).map(|r| inputs[0].data[r * columns + c]).sum())]
    }
}

/// y `[1]` = sum of x `[N]` divided by count `[1]`, the number of rows that count.
#[derive(Clone, Copy)]
pub struct MeanRows;

impl Op for MeanRows {
    fn name(&self) -> &'static str {
        "mean of rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[1].len() != 1 {
            return Err(misfit("mean of rows", "the count must be one number"));
        }
        Ok(vec![like(inputs, &[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = MeanParams {
            n: inputs[0].len() as u32,
            x_replica: inputs[0].replica_stride,
            count_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        cx.dispatch(&MEAN_ROWS, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], [1, 1, cx.replicas])
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let n = tape.shape(node.inputs[0]).len();
        Ok(vec![grads[0].map(|dy| tape.push1(SpreadMean { n }, &[dy, node.inputs[1]])).transpose()?, None])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::new(&[1], vec![inputs[0].data.iter().sum::<f64>() / inputs[1].data[0]])]
    }
}

/// x [N] = dy / count for every row.
#[derive(Clone, Copy)]
pub(in crate::autograd) struct SpreadMean {
    n: usize,
}

impl Op for SpreadMean {
    fn name(&self) -> &'static str {
        "spread mean"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[self.n])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = MeanParams {
            n: self.n as u32,
            x_replica: inputs[0].replica_stride,
            count_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((self.n as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&SPREAD, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&[self.n], |_| inputs[0].data[0] / inputs[1].data[0])]
    }
}

/// y `[1]` = sum of a b over all elements.
#[derive(Clone, Copy)]
pub struct Dot;

impl Op for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[0].len() != inputs[1].len() {
            return Err(misfit("dot", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const CHUNK: usize = 4096;
        let n = inputs[0].len();
        let chunks = n.div_ceil(CHUNK);
        let partial = (chunks > 1).then(|| cx.scratch(&[chunks]));
        let target = partial.as_ref().unwrap_or(&outputs[0]);
        let params = DotParams {
            n: n as u32,
            chunk: CHUNK as u32,
            a_replica: inputs[0].replica_stride,
            b_replica: inputs[1].replica_stride,
            y_replica: target.replica_stride,
        };
        cx.dispatch(&DOT, &[], &params, &[&inputs[0], &inputs[1], target], [chunks as u32, 1, cx.replicas])?;
        match &partial {
            Some(partial) => sum_columns(cx, partial, chunks, 1, &outputs[0]),
            None => Ok(()),
        }
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None, None]) };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        Ok(vec![Some(tape.push1(MultiplyScalar, &[b, dy])?), Some(tape.push1(MultiplyScalar, &[a, dy])?)])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::new(&[1], vec![inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a * b).sum()])]
    }
}

/// y = x times a scalar that lives on the device.
#[derive(Clone, Copy)]
pub(crate) struct MultiplyScalar;

impl Op for MultiplyScalar {
    fn name(&self) -> &'static str {
        "multiply by scalar"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let n = outputs[0].len();
        let params = MultiplyParams {
            n: n as u32,
            x_replica: inputs[0].replica_stride,
            factor_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((n as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&MULTIPLY, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None, None]) };
        let (x, factor) = (node.inputs[0], node.inputs[1]);
        Ok(vec![Some(tape.push1(Self, &[dy, factor])?), Some(tape.push1(Dot, &[dy, x])?)])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::from_fn(&inputs[0].dims, |i| inputs[0].data[i] * inputs[1].data[0])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scale;
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn column_sums_match_their_reference() {
        for n in SIZES.into_iter().chain([256, 1000, 70_000]) {
            for columns in [1, 3, 33] {
                let mut case = Case::new(&format!("column sum {n} {columns}"));
                let x = case.owned(&[n, columns]);
                let y = case.tape.push1(ColumnSum, &[x]).unwrap();
                // 32 terms in order, then trees: some 40 roundings of 6e-8 on terms of either sign.
                case.check(&[y], &[], 1e-5);
            }
        }
    }

    #[test]
    fn means_match_their_reference() {
        for n in SIZES {
            let mut case = Case::new("mean");
            let x = case.owned(&[n]);
            let count = case.tape.constant(&[1], &[5.0]);
            let y = case.tape.push1(MeanRows, &[x, count]).unwrap();
            // Terms of either sign cancel to a sum some twenty times smaller than what was rounded.
            case.check(&[y], &[x], 1e-5);
        }
    }

    #[test]
    fn dots_match_their_reference() {
        for n in SIZES.into_iter().chain([4096, 10_001]) {
            let mut case = Case::new("dot");
            let (a, b) = (case.owned(&[n]), case.owned(&[n]));
            let y = case.tape.push1(Dot, &[a, b]).unwrap();
            let y = case.tape.push1(Scale(3.0), &[y]).unwrap();
            case.check(&[y], &[a, b], 1e-5);
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for n in SIZES {
            let mut case = Case::new("tangents of sums");
            let (a, b, factor) = (case.owned(&[n]), case.shared(&[n]), case.shared(&[1]));
            let count = case.tape.constant(&[1], &[5.0]);
            let scaled = case.tape.push1(MultiplyScalar, &[a, factor]).unwrap();
            let y = case.tape.push1(Dot, &[scaled, b]).unwrap();
            let mean = case.tape.push1(MeanRows, &[scaled, count]).unwrap();
            let y = case.tape.push1(MultiplyScalar, &[y, mean]).unwrap();
            case.check_tangents(y, &[a, b, factor], 2e-5);
        }
    }
}
