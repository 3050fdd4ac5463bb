//! Attention among rows that few tables hold and many examples share: queries, keys and values are computed once for
//! each row, and picked by number.

use super::super::op::{Links, misfit};
use super::super::{Array, DType, Lower, Op, Shape, Tape, Var, like};
use super::attention::{Attention, SMALL, gradients};
use super::attention_tangent::{backward, forward};
use super::gather::{GatherColumns, GatherRows, SHARES, bucket_rows, scatter_lists, scatter_rows, shares};
use super::linear::Linear;
use crate::error::{Error, Result};
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct PickedParams {
        batch: u32, queries: u32, keys: u32, heads: u32,
        groups: u32, width: u32, stream_width: u32, last: u32, scale: f32,
        table_replica: u32, stream_replica: u32, index_replica: u32, pattern_replica: u32, scores_replica: u32,
        z_replica: u32, rows_replica: u32, dz_replica: u32, dq_replica: u32, dkv_replica: u32,
        dtable_replica: u32, starts_replica: u32, order_replica: u32, segments: u32, lengths_replica: u32,
    }
}
const WIDE: Knob<'_> = Knob { name: "WIDE", values: &[0, 1] };
static FORWARD: Shader<'_> = Shader {
    name: "attention/picked_forward",
    source: include_str!("../../../shaders/attention/picked_forward.wgsl"),
    knobs: &[WIDE],
    params: PickedParams::FIELDS,
};
static BACKWARD: Shader<'_> = Shader {
    name: "attention/picked_backward",
    source: include_str!("../../../shaders/attention/picked_backward.wgsl"),
    knobs: &[WIDE, Knob { name: "SINGLE", values: &[0, 1] }],
    params: PickedParams::FIELDS,
};
static SCATTER: Shader<'_> = Shader {
    name: "attention/picked_scatter",
    source: include_str!("../../../shaders/attention/picked_scatter.wgsl"),
    knobs: &[WIDE, Knob { name: "SHARES", values: SHARES }, Knob { name: "STREAM", values: &[0, 1] }],
    params: PickedParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&FORWARD, &BACKWARD, &SCATTER];

/// [`Attention`] whose q, k and v are rows of one table: [U, (H + 2 G) K], q of all heads, then k and v of all groups.
/// Inputs: the table; the residual stream [U, D] it was computed from; index [B T], the row at each place of the batch.
/// The Tq queries are the last of the T positions. Outputs: z [B, Tq, H, K]; pattern and scores [B, H, Tq, T]; lengths of
/// z's rows [B, Tq, H, 1]; the stream's rows at the queries [B Tq, D].
#[derive(Clone, Copy)]
pub struct PickedAttention {
    /// Query heads H.
    pub heads: usize,
    /// Key and value heads G.
    pub groups: usize,
    /// Queries Tq.
    pub queries: usize,
    /// Keys T.
    pub keys: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

impl PickedAttention {
    /// Whether sequences of `keys` tokens are short enough.
    pub fn suits(keys: usize) -> bool {
        keys <= SMALL
    }

    /// Width K of a head, of a table with rows of that many columns.
    fn width(&self, columns: usize) -> usize {
        columns / (self.heads + 2 * self.groups)
    }

    fn params(&self, table: &Tensor, index: &Tensor) -> PickedParams {
        let columns = *table.dims.last().unwrap_or(&1);
        PickedParams {
            batch: (index.len() / self.keys) as u32,
            queries: self.queries as u32,
            keys: self.keys as u32,
            heads: self.heads as u32,
            groups: self.groups as u32,
            width: self.width(columns) as u32,
            last: (table.len() / columns).max(1) as u32 - 1,
            scale: self.scale,
            table_replica: table.replica_stride,
            index_replica: index.replica_stride,
            ..Default::default()
        }
    }

    /// Floating-point operations of two products over all queries and keys.
    fn flops(&self, params: &PickedParams, replicas: u32) -> u64 {
        let queries = u64::from(replicas) * u64::from(params.batch) * (self.queries * self.heads) as u64;
        4 * queries * self.keys as u64 * u64::from(params.width)
    }

    /// Places of the queries among those of the batch, `[B Tq]`.
    fn query_places(&self, tape: &mut Tape, places: usize) -> Var {
        let queries = |b: usize| b * self.keys + self.keys - self.queries..(b + 1) * self.keys;
        let at: Vec<u32> = (0..places / self.keys).flat_map(queries).map(|at| at as u32).collect();
        tape.constant_u32(&[at.len()], &at)
    }

    /// Of the rows of all places those of the queries.
    fn at_queries(&self, tape: &mut Tape, rows: Var) -> Result<Var> {
        if self.queries == self.keys {
            return Ok(rows);
        }
        let places = self.query_places(tape, tape.shape(rows).rows().0);
        tape.push1(GatherRows, &[rows, places])
    }

    /// Rows of the queries among those of all places, where the others are 0.
    fn by_queries(&self, tape: &mut Tape, rows: Var) -> Result<Var> {
        if self.queries == self.keys {
            return Ok(rows);
        }
        let count = tape.shape(rows).rows().0 / self.queries * self.keys;
        let places = self.query_places(tape, count);
        scatter_rows(tape, rows, places, count)
    }

    /// Appends queries, keys and values of each place, as [`Attention`] takes them, from rows like those of the table.
    fn parts(&self, tape: &mut Tape, table: Var, index: Var) -> Result<[Var; 3]> {
        let width = self.width(tape.shape(table).rows().1);
        let mut part = |first: usize, positions: usize, heads: usize| {
            let columns = GatherColumns { first: first * width, width: heads * width };
            let rows = tape.push1(columns, &[table, index])?;
            let rows = if positions < self.keys { self.at_queries(tape, rows)? } else { rows };
            let batch = tape.shape(index).len() / self.keys;
            tape.reshape(rows, &[batch, positions, heads, width])
        };
        let q = part(0, self.queries, self.heads)?;
        let k = part(self.heads, self.keys, self.groups)?;
        Ok([q, k, part(self.heads + self.groups, self.keys, self.groups)?])
    }

    /// Queries, keys and values as [`Attention`] takes them.
    fn picked(&self, table: &Array, index: &Array) -> [Array; 3] {
        let columns = *table.dims.last().unwrap_or(&1);
        let (width, batch) = (self.width(columns), index.data.len() / self.keys);
        let part = |first: usize, positions: usize, heads: usize| {
            let row = heads * width;
            Array::from_fn(&[batch, positions, heads, width], |at| {
                let (b, i) = (at / (positions * row), at / row % positions);
                let place = b * self.keys + self.keys - positions + i;
                table.data[index.index(place) * columns + first + at % row]
            })
        };
        let (q, kv) = (self.heads * width, self.groups * width);
        [part(0, self.queries, self.heads), part(q, self.keys, self.groups), part(q + kv, self.keys, self.groups)]
    }
}

fn wide(width: usize, stream_width: usize, tensors: &[&Tensor]) -> bool {
    let strides = tensors.iter().all(|t| t.replica_stride.is_multiple_of(4));
    width.is_multiple_of(4) && stream_width.is_multiple_of(4) && strides
}

impl Op for PickedAttention {
    fn name(&self) -> &'static str {
        "picked attention"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [table, stream, index] = inputs else {
            return Err(misfit("picked attention", "takes a table, a stream, an index"));
        };
        let ((rows, columns), (stream_rows, d)) = (table.rows(), stream.rows());
        let places = index.len();
        let fits = index.dtype == DType::U32
            && rows == stream_rows
            && (1..=self.keys).contains(&self.queries)
            && Self::suits(self.keys)
            && places.is_multiple_of(self.keys)
            && self.groups > 0
            && self.heads.is_multiple_of(self.groups)
            && columns.is_multiple_of(self.heads + 2 * self.groups);
        if !fits {
            let dims: Vec<_> = inputs.iter().map(|s| &s.dims).collect();
            return Err(misfit("picked attention", format!("table, stream and index do not fit: {dims:?}")));
        }
        let batch = places / self.keys;
        let of = |dims: &[usize]| like(inputs, dims);
        let pattern = of(&[batch, self.heads, self.queries, self.keys]);
        let z = of(&[batch, self.queries, self.heads, self.width(columns)]);
        let lengths = of(&[batch, self.queries, self.heads, 1]);
        Ok(vec![z, pattern.clone(), pattern, lengths, of(&[batch * self.queries, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [table, stream, index] = inputs else { return Err(misfit("picked attention", "inputs")) };
        let [z, pattern, scores, lengths, rows] = outputs else { return Err(misfit("picked attention", "outputs")) };
        let d = rows.dims[1];
        let params = PickedParams {
            stream_width: d as u32,
            stream_replica: stream.replica_stride,
            pattern_replica: pattern.replica_stride,
            scores_replica: scores.replica_stride,
            z_replica: z.replica_stride,
            rows_replica: rows.replica_stride,
            lengths_replica: lengths.replica_stride,
            ..self.params(table, index)
        };
        let wide = wide(params.width as usize, d, &[table, stream, z, rows]);
        let invocations = rows.dims[0] * (self.heads + d / if wide { 4 } else { 1 });
        let grid = grid_1d((invocations as u64).div_ceil(64), cx.replicas);
        let tensors = [table, stream, index, z, pattern, scores, rows, lengths];
        cx.dispatch(&FORWARD, &[u32::from(wide)], &params, &tensors, grid)?;
        cx.count_flops(self.flops(&params, cx.replicas));
        Ok(())
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let (Some(dz), None, None, None, d_rows) = (grads[0], grads[1], grads[2], grads[3], grads[4]) else {
            let why = "only z and the stream's rows of picked attention have a gradient, and not these without that";
            return Err(Error::Unsupported(why.to_owned()));
        };
        let (table, stream, index) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let (starts, order) = bucket_rows(tape, index, tape.shape(table).rows().0)?;
        let mut inputs = vec![table, stream, index, node.outputs[1], dz, starts, order];
        inputs.extend(d_rows);
        let mut results = tape.push(PickedAttentionGrad(*self), &inputs)?.into_iter().map(Some).collect::<Vec<_>>();
        results.resize(3, None);
        Ok(results)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let ([table, _, index], pattern) = ([0, 1, 2].map(|at| node.inputs[at]), node.outputs[1]);
        let own = self.parts(tape, table, index)?;
        let moved = tangents[0].map(|moved| self.parts(tape, moved, index)).transpose()?;
        let moved = moved.map_or([None; 3], |parts| parts.map(Some));
        let [z, pattern] = forward(tape, self.scale, own, pattern, moved)?;
        let rows = tangents[1].map(|stream| tape.push1(GatherRows, &[stream, index])).transpose()?;
        let rows = rows.map(|rows| self.at_queries(tape, rows)).transpose()?;
        Ok(vec![z, pattern, None, None, rows])
    }

    fn keeps(&self, output: usize) -> bool {
        matches!(output, 2 | 3)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (table, stream, index) = (inputs[0], inputs[1], inputs[2]);
        let [q, k, v] = self.picked(table, index);
        let mut out = Attention { scale: self.scale }.reference(&[&q, &k, &v]);
        let (batch, d) = (index.data.len() / self.keys, stream.rows().1);
        out.push(Array::from_fn(&[batch * self.queries, d], |at| {
            let (b, i) = (at / d / self.queries, at / d % self.queries);
            stream.data[index.index(b * self.keys + self.keys - self.queries + i) * d + at % d]
        }));
        out
    }
}

/// Gradients of the table and, where there is one of its rows at the queries, of the stream. Inputs: table, stream, index,
/// pattern, dz, the lists that `bucket_rows` makes of the index, and the gradient of the stream's rows.
struct PickedAttentionGrad(PickedAttention);

impl Op for PickedAttentionGrad {
    fn name(&self) -> &'static str {
        "picked attention gradient"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let mut shapes = vec![like(inputs, &inputs[0].dims)];
        shapes.extend(inputs.get(7).map(|_| like(inputs, &inputs[1].dims)));
        Ok(shapes)
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [table, _, index, pattern, dz, starts, order, d_rows @ ..] = inputs else {
            return Err(misfit("picked attention gradient", "inputs"));
        };
        let (columns, batch) = (*table.dims.last().unwrap_or(&1), index.len() / self.0.keys);
        let width = self.0.width(columns);
        let dq = cx.scratch(&[batch * self.0.queries, self.0.heads * width]);
        let dkv = cx.scratch(&[index.len(), 2 * self.0.groups * width]);
        let (d_rows, stream) = (d_rows.first(), outputs.get(1));
        let stride = |tensor: Option<&Tensor>| tensor.map_or(0, |t| t.replica_stride);
        let params = PickedParams {
            stream_width: stream.and_then(|t| t.dims.last()).map_or(0, |d| *d as u32),
            pattern_replica: pattern.replica_stride,
            dz_replica: dz.replica_stride,
            dq_replica: dq.replica_stride,
            dkv_replica: dkv.replica_stride,
            dtable_replica: outputs[0].replica_stride,
            rows_replica: stride(d_rows),
            stream_replica: stride(stream),
            starts_replica: starts.replica_stride,
            order_replica: order.replica_stride,
            segments: starts.dims[0] as u32,
            ..self.0.params(table, index)
        };
        let mut floats = vec![table, dz, &dq, &dkv, &outputs[0]];
        floats.extend(d_rows.iter().chain(&stream));
        let wide = wide(width, params.stream_width as usize, &floats);
        let single = self.0.queries == 1 && self.0.heads == self.0.groups;
        let grid = grid_1d(u64::from(params.batch * params.groups).div_ceil(64), cx.replicas);
        let tensors = [table, index, pattern, dz, &dq, &dkv];
        cx.dispatch(&BACKWARD, &[u32::from(wide), u32::from(single)], &params, &tensors, grid)?;
        cx.count_flops(2 * self.0.flops(&params, cx.replicas));

        let mut tensors = vec![starts, order, &dq, &dkv, &outputs[0]];
        tensors.extend(d_rows.iter().chain(&stream));
        let (vectors, (shares, across)) = (if wide { 4 } else { 1 }, shares(cx, index.len())?);
        let chunks = ((columns as u32 + params.stream_width) / vectors).div_ceil(across);
        let grid = grid_1d(u64::from(params.last + 1) * u64::from(chunks), cx.replicas);
        cx.dispatch(&SCATTER, &[u32::from(wide), shares, u32::from(stream.is_some())], &params, &tensors, grid)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let op = self.0;
        let [table, _, index, pattern, dz, starts, order] = [0, 1, 2, 3, 4, 5, 6].map(|at| node.inputs[at]);
        let [q, k, v] = op.parts(tape, table, index)?;
        let moved = tangents[0].map(|moved| op.parts(tape, moved, index)).transpose()?;
        let [dq, dk, dv] = moved.map_or([None; 3], |parts| parts.map(Some));
        let found = backward(tape, op.scale, [q, k, v, pattern, dz], [dq, dk, dv, tangents[3], tangents[4]])?;

        let (rows, columns) = tape.shape(table).rows();
        let summed = |tape: &mut Tape, x: Var| scatter_lists(tape, x, (index, starts, order), rows);
        let width = op.width(columns);
        let mut d_table = None;
        let places = [(0, op.heads), (op.heads, op.groups), (op.heads + op.groups, op.groups)];
        for (which, (part, (first, heads))) in found.into_iter().zip(places).enumerate() {
            let Some(part) = part else { continue };
            let per_place = tape.reshape(part, &[tape.shape(part).len() / (heads * width), heads * width])?;
            let per_place = if which == 0 { op.by_queries(tape, per_place)? } else { per_place };
            let sum = summed(tape, per_place)?;
            // A product with ones and zeros puts columns in their places, exactly.
            let unit = |at: usize| f32::from(u8::from(at % columns == first * width + at / columns));
            let unit: Vec<f32> = (0..heads * width * columns).map(unit).collect();
            let unit = tape.constant(&[heads * width, columns], &unit);
            let inputs: Vec<Var> = [sum, unit].into_iter().chain(d_table).collect();
            d_table = Some(tape.push1(Linear { residual: d_table.is_some(), ..Linear::default() }, &inputs)?);
        }
        let mut out = vec![d_table];
        if node.outputs.len() > 1 {
            let d_rows = tangents.get(7).copied().flatten();
            let d_rows = d_rows.map(|rows| op.by_queries(tape, rows)).transpose()?;
            out.push(d_rows.map(|rows| summed(tape, rows)).transpose()?);
        }
        Ok(out)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (table, stream, index) = (inputs[0], inputs[1], inputs[2]);
        let [q, k, v] = self.0.picked(table, index);
        let columns = *table.dims.last().unwrap_or(&1);
        let (heads, groups, keys, queries) = (self.0.heads, self.0.groups, self.0.keys, self.0.queries);
        let width = self.0.width(columns);
        let mut d_table = Array::zeros(&table.dims);
        let parts = [(0, queries, heads), (heads * width, keys, groups), ((heads + groups) * width, keys, groups)];
        let grads = gradients(self.0.scale, [&q, &k, &v, inputs[3], inputs[4]]);
        for (grad, (first, positions, heads)) in grads.iter().zip(parts) {
            for (at, value) in grad.data.iter().enumerate() {
                let place = at / (heads * width);
                let place = place / positions * keys + keys - positions + place % positions;
                d_table.data[index.index(place) * columns + first + at % (heads * width)] += value;
            }
        }
        let mut out = vec![d_table];
        if let Some(d_rows) = inputs.get(7) {
            let (mut d_stream, d) = (Array::zeros(&stream.dims), stream.rows().1);
            for (at, value) in d_rows.data.iter().enumerate() {
                let place = at / d / queries * keys + keys - queries + at / d % queries;
                d_stream.data[index.index(place) * d + at % d] += value;
            }
            out.push(d_stream);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::Add;
    use super::*;
    use crate::autograd::check::Case;

    fn check([batch, rows, d]: [usize; 3], op: PickedAttention, width: usize, owned: bool) {
        let mut case = Case::new(&format!("picked attention {batch} {rows} {d} {width} {owned}"));
        let columns = (op.heads + 2 * op.groups) * width;
        let (table, stream) = (case.owned(&[rows, columns]), case.owned(&[rows, d]));
        let index = case.indices(&[batch * op.keys], rows as u32, owned);
        let out = case.tape.push(op, &[table, stream, index]).unwrap();
        // As for attention; a row's gradient adds up to a few hundred places.
        case.check(&out[..1], &[table], 1e-5);
        case.agree(&out, 1e-5);
        // z and the stream's rows together, as a model reads them.
        if d == op.heads * width {
            let z = case.tape.reshape(out[0], &[batch * op.queries, d]).unwrap();
            let sum = case.tape.push1(Add, &[z, out[4]]).unwrap();
            case.check(&[sum], &[table, stream], 1e-5);
        }
    }

    #[test]
    fn picked_attention_matches_its_reference() {
        let op = PickedAttention { heads: 4, groups: 4, queries: 1, keys: 3, scale: 0.7 };
        check([64, 9, 32], op, 8, true);
        check([64, 9, 32], op, 8, false);
        check([1, 1, 7], op, 3, true);
        // More places of a row than one workgroup of its list takes at once.
        check([1500, 2, 12], op, 3, true);
        let grouped = PickedAttention { heads: 4, groups: 2, queries: 3, keys: 5, ..op };
        check([31, 17, 12], grouped, 3, true);
        check([31, 17, 16], grouped, 4, false);
        check([3, 40, 8], PickedAttention { heads: 2, groups: 1, queries: 16, keys: 16, ..op }, 4, true);
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        let op = PickedAttention { heads: 4, groups: 4, queries: 1, keys: 3, scale: 0.7 };
        let grouped = PickedAttention { heads: 4, groups: 2, queries: 3, keys: 5, ..op };
        let square = PickedAttention { heads: 2, groups: 1, queries: 3, keys: 3, ..op };
        for (batch, rows, op, width, owned) in
            [(64, 9, op, 8, true), (1, 1, op, 3, true), (31, 17, grouped, 4, false), (3, 7, square, 5, false)]
        {
            let mut case = Case::new(&format!("tangent of picked attention {batch} {rows} {width}"));
            let d = op.heads * width;
            let (table, stream) = (case.shared(&[rows, (op.heads + 2 * op.groups) * width]), case.shared(&[rows, d]));
            let index = case.indices(&[batch * op.keys], rows as u32, owned);
            let out = case.tape.push(op, &[table, stream, index]).unwrap();
            let z = case.tape.reshape(out[0], &[batch * op.queries, d]).unwrap();
            let sum = case.tape.push1(Add, &[z, out[4]]).unwrap();
            case.check_tangents(sum, &[table, stream], 3e-5);
        }
    }
}
