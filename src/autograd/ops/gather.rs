//! Rows by number, and their sums back: embeddings, positions, rows computed once and used often.

use super::super::op::{Links, misfit};
use super::super::{Array, DType, Lower, Op, Shape, Tape, Var};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// An index or class that stands for "none": its row is not counted.
pub const IGNORE: u32 = u32::MAX;

crate::gpu::params! {
    struct GatherParams {
        n: u32, vectors: u32, table_replica: u32, index_replica: u32,
        second_replica: u32, second_index_replica: u32, y_replica: u32,
    }
}
static GATHER: Shader = Shader {
    name: "embed/gather_rows",
    source: include_str!("../../../shaders/embed/gather_rows.wgsl"),
    knobs: &[Knob { name: "SECOND", values: &[0, 1] }, Knob { name: "WIDE", values: &[0, 1] }],
    params: GatherParams::FIELDS,
};
crate::gpu::params! {
    struct ScatterParams {
        n: u32, d: u32, rows: u32, chunk: u32, x_replica: u32, index_replica: u32, y_replica: u32, y_chunk: u32,
    }
}
static SCATTER: Shader = Shader {
    name: "embed/scatter_rows",
    source: include_str!("../../../shaders/embed/scatter_rows.wgsl"),
    knobs: &[],
    params: ScatterParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader] = &[&GATHER, &SCATTER];

/// Rows of `x` that one workgroup of `scatter_rows` walks through.
const CHUNK: usize = 1024;

/// y [N, D] = table[index[n]] (+ second[second_index[n]]). Inputs: table [U, D], index [N], and then
/// perhaps a second table and its index, as positions are added to tokens.
pub struct GatherRows;

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (_, d) = inputs[0].rows();
        let n = inputs[1].len();
        let second = inputs.len() == 4;
        let fits = inputs[1].dtype == DType::U32
            && (inputs.len() == 2 || second)
            && (!second || (inputs[2].rows().1 == d && inputs[3].len() == n && inputs[3].dtype == DType::U32));
        if !fits {
            let dims: Vec<_> = inputs.iter().map(|s| &s.dims).collect();
            return Err(misfit("gather rows", format!("tables and indices do not fit: {dims:?}")));
        }
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&[n, d]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let y = &outputs[0];
        let (n, d) = (y.dims[0], y.dims[1]);
        let second = inputs.len() == 4;
        let mut tables = vec![&inputs[0], y];
        tables.extend(inputs.get(2));
        let wide = d.is_multiple_of(4) && tables.iter().all(|t| t.replica_stride.is_multiple_of(4));
        let width = if wide { 4 } else { 1 };
        let params = GatherParams {
            n: n as u32,
            vectors: d as u32 / width,
            table_replica: inputs[0].replica_stride / width,
            index_replica: inputs[1].replica_stride,
            second_replica: inputs.get(2).map_or(0, |t| t.replica_stride) / width,
            second_index_replica: inputs.get(3).map_or(0, |t| t.replica_stride),
            y_replica: y.replica_stride / width,
        };
        let mut tensors = vec![&inputs[0], &inputs[1], y];
        tensors.extend(&inputs[2..]);
        let grid = grid_1d((n as u64 * u64::from(params.vectors)).div_ceil(64), cx.replicas);
        cx.dispatch(&GATHER, &[u32::from(second), u32::from(wide)], &params, &tensors, grid)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let mut results = Vec::new();
        for pair in node.inputs.chunks_exact(2) {
            let rows = tape.shape(pair[0]).rows().0;
            results.push(Some(tape.push1(ScatterRows { rows }, &[dy, pair[1]])?));
            results.push(None);
        }
        Ok(results)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, d) = inputs[0].rows();
        let n = inputs[1].data.len();
        vec![Array::from_fn(&[n, d], |at| {
            inputs.chunks_exact(2).map(|pair| pair[0].data[pair[1].index(at / d) * d + at % d]).sum()
        })]
    }
}

/// y [rows, D] = sum of the x [N, D] whose index [N] is that row; [`IGNORE`] goes nowhere. In order of n,
/// so that the bits do not depend on scheduling.
pub struct ScatterRows {
    /// Number of rows of the result.
    pub rows: usize,
}

impl Op for ScatterRows {
    fn name(&self) -> &'static str {
        "scatter rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, d) = inputs[0].rows();
        if inputs[1].len() != n || inputs[1].dtype != DType::U32 {
            return Err(misfit("scatter rows", format!("{n} rows, {} indices", inputs[1].len())));
        }
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&[self.rows, d]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let y = &outputs[0];
        let d = y.dims[1];
        let n = inputs[0].len() / d;
        let chunks = n.div_ceil(CHUNK);
        let partial = (chunks > 1).then(|| cx.scratch(&[chunks, self.rows * d]));
        let target = partial.as_ref().unwrap_or(y);
        let params = ScatterParams {
            n: n as u32,
            d: d as u32,
            rows: self.rows as u32,
            chunk: CHUNK as u32,
            x_replica: inputs[0].replica_stride,
            index_replica: inputs[1].replica_stride,
            y_replica: target.replica_stride,
            y_chunk: (self.rows * d) as u32,
        };
        let grid = grid_1d(self.rows as u64, cx.replicas * chunks as u32);
        cx.dispatch(&SCATTER, &[], &params, &[&inputs[0], &inputs[1], target], grid)?;
        match &partial {
            Some(partial) => super::reduce::sum_columns(cx, partial, chunks, self.rows * d, y),
            None => Ok(()),
        }
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        // The gradient of a sum of rows is the row's gradient at each of them. Rows that were ignored
        // would need a zero row; no model differentiates through those.
        Ok(vec![grads[0].map(|dy| tape.push1(GatherRows, &[dy, node.inputs[1]])).transpose()?, None])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[0].rows();
        let mut y = Array::zeros(&[self.rows, d]);
        for row in 0..n {
            if inputs[1].data[row] != f64::from(IGNORE) {
                for i in 0..d {
                    y.data[inputs[1].index(row) * d + i] += inputs[0].data[row * d + i];
                }
            }
        }
        vec![y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    #[test]
    fn gather_matches_its_reference() {
        for n in SIZES {
            for d in [3, 8] {
                let mut case = Case::new("gather");
                let (table, second) = (case.owned(&[7, d]), case.owned(&[5, d]));
                let (index, second_index) = (case.indices(&[n], 7, true), case.indices(&[n], 5, false));
                let one = case.tape.push1(GatherRows, &[table, index]).unwrap();
                let two = case.tape.push1(GatherRows, &[table, index, second, second_index]).unwrap();
                let y = case.tape.push1(super::super::Add, &[one, two]).unwrap();
                // Sums of up to 257 equal-sized terms in order: 257 roundings of 6e-8 at worst.
                case.check(&[y], &[table, second], 1e-5);
            }
        }
    }

    #[test]
    fn scatter_over_many_chunks_matches_its_reference() {
        for n in [1, 63, 1024, 1025, 3000] {
            let mut case = Case::new("scatter");
            let x = case.owned(&[n, 5]);
            let index = case.indices(&[n], 3, true);
            let y = case.tape.push1(ScatterRows { rows: 3 }, &[x, index]).unwrap();
            case.check(&[y], &[x], 1e-5);
        }
    }

    #[test]
    fn ignored_rows_go_nowhere() {
        let mut case = Case::new("scatter ignored");
        let x = case.owned(&[4, 2]);
        let index = case.tape.constant_u32(&[4], &[1, IGNORE, 1, IGNORE]);
        let y = case.tape.push1(ScatterRows { rows: 3 }, &[x, index]).unwrap();
        case.check(&[y], &[], 1e-6);
    }
}
