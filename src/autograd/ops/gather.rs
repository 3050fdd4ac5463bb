//! Rows by number, and their sums back: embeddings, positions, rows computed once and used often.

use super::super::op::{Links, misfit};
use super::super::{Array, DType, Lower, Op, Shape, Tape, Var, like};
use super::matmul::SOFTWARE_DEPTH;
use crate::error::{Error, Result};
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

/// An index or class that stands for "none": its row is not counted.
pub const IGNORE: u32 = u32::MAX;

crate::params! {
    struct GatherParams {
        n: u32, vectors: u32, table_ld: u32, first: u32, table_replica: u32, index_replica: u32,
        second_replica: u32, second_index_replica: u32, y_replica: u32, last: u32, second_last: u32,
    }
}
static GATHER: Shader<'_> = Shader {
    name: "embed/gather_rows",
    source: include_str!("../../../shaders/embed/gather_rows.wgsl"),
    knobs: &[Knob { name: "SECOND", values: &[0, 1] }, Knob { name: "WIDE", values: &[0, 1] }],
    params: GatherParams::FIELDS,
};
crate::params! {
    struct BucketParams { n: u32, rows: u32, segment: u32, index_replica: u32, starts_replica: u32, order_replica: u32 }
}
static BUCKET: Shader<'_> = Shader {
    name: "embed/bucket_rows",
    source: include_str!("../../../shaders/embed/bucket_rows.wgsl"),
    knobs: &[],
    params: BucketParams::FIELDS,
};
crate::params! {
    struct ScatterParams {
        rows: u32, vectors: u32, segments: u32, x_replica: u32, starts_replica: u32, order_replica: u32, y_replica: u32,
        second_rows: u32, second_segments: u32, second_starts_replica: u32, second_order_replica: u32, second_y_replica: u32,
        before_replica: u32,
    }
}
static SCATTER: Shader<'_> = Shader {
    name: "embed/scatter_rows",
    source: include_str!("../../../shaders/embed/scatter_rows.wgsl"),
    knobs: &[
        Knob { name: "WIDE", values: &[0, 1] },
        Knob { name: "SHARES", values: SHARES },
        Knob { name: "BOTH", values: &[0, 1] },
        Knob { name: "BEFORE", values: &[0, 1] },
    ],
    params: ScatterParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&GATHER, &BUCKET, &SCATTER];

/// `y [N, D] = table[index[n]] (+ second[second_index[n]])`. Inputs: table [U, D], index `[N]`, and then
/// perhaps a second table and its index, as positions are added to tokens.
#[derive(Clone, Copy)]
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
        Ok(vec![like(inputs, &[n, d])])
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
            table_ld: d as u32 / width,
            first: 0,
            table_replica: inputs[0].replica_stride / width,
            index_replica: inputs[1].replica_stride,
            second_replica: inputs.get(2).map_or(0, |t| t.replica_stride) / width,
            second_index_replica: inputs.get(3).map_or(0, |t| t.replica_stride),
            y_replica: y.replica_stride / width,
            last: (inputs[0].len() / d) as u32 - 1,
            second_last: inputs.get(2).map_or(0, |t| (t.len() / d) as u32 - 1),
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
            results.push(Some(scatter_rows(tape, dy, pair[1], rows)?));
            results.push(None);
        }
        Ok(results)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let moving = node.inputs.chunks_exact(2).zip(tangents.chunks_exact(2));
        let tables: Vec<Var> = moving.filter_map(|(pair, tangents)| Some([tangents[0]?, pair[1]])).flatten().collect();
        Ok(vec![if tables.is_empty() { None } else { Some(tape.push1(Self, &tables)?) }])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, d) = inputs[0].rows();
        let n = inputs[1].data.len();
        vec![Array::from_fn(&[n, d], |at| {
            inputs.chunks_exact(2).map(|pair| pair[0].data[pair[1].index(at / d) * d + at % d]).sum()
        })]
    }
}

/// `y [N, width] = table[index[n], first..first + width]`, from table [U, D] and index `[N]`. It has no
/// gradient.
#[derive(Clone, Copy)]
pub struct GatherColumns {
    /// First column.
    pub first: usize,
    /// Number of columns.
    pub width: usize,
}

impl Op for GatherColumns {
    fn name(&self) -> &'static str {
        "gather columns"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs[1].dtype != DType::U32 || self.first + self.width > inputs[0].rows().1 {
            return Err(misfit(
                "gather columns",
                format!("{} from {} of {:?}", self.width, self.first, inputs[0].dims),
            ));
        }
        Ok(vec![like(inputs, &[inputs[1].len(), self.width])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (table, index, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let columns = *table.dims.last().unwrap_or(&1);
        let sizes = [self.first, self.width, columns];
        let wide =
            sizes.iter().all(|n| n.is_multiple_of(4)) && [table, y].iter().all(|t| t.replica_stride.is_multiple_of(4));
        let width = if wide { 4 } else { 1 };
        let params = GatherParams {
            n: index.len() as u32,
            vectors: self.width as u32 / width,
            table_ld: columns as u32 / width,
            first: self.first as u32 / width,
            table_replica: table.replica_stride / width,
            index_replica: index.replica_stride,
            y_replica: y.replica_stride / width,
            last: (table.len() / columns) as u32 - 1,
            ..Default::default()
        };
        let grid = grid_1d((index.len() as u64 * u64::from(params.vectors)).div_ceil(64), cx.replicas);
        cx.dispatch(&GATHER, &[0, u32::from(wide)], &params, &[table, index, y], grid)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, d) = inputs[0].rows();
        vec![Array::from_fn(&[inputs[1].data.len(), self.width], |at| {
            inputs[0].data[inputs[1].index(at / self.width) * d + self.first + at % self.width]
        })]
    }
}

/// Appends y [`rows`, D] = sum of the x [N, D] whose index `[N]` is that row; [`IGNORE`] goes nowhere. In a
/// fixed order, so that the bits do not depend on scheduling.
///
/// # Errors
/// [`crate::Error::Shape`] where there is not one index for each row of x.
pub fn scatter_rows(tape: &mut Tape, x: Var, index: Var, rows: usize) -> Result<Var> {
    let (starts, order) = bucket_rows(tape, index, rows)?;
    tape.push1(ScatterRows { rows }, &[x, index, starts, order])
}

/// The same with lists that are there already: index, starts and order.
pub(super) fn scatter_lists(tape: &mut Tape, x: Var, lists: (Var, Var, Var), rows: usize) -> Result<Var> {
    tape.push1(ScatterRows { rows }, &[x, lists.0, lists.1, lists.2])
}

/// Appends y [U, D] = before [U, D] + sum of the x [N, D] in each list of `lists`, which [`bucket_rows`] makes. Of rows that come
/// in several pieces, one going on from the other, the bits do not depend on how they are cut.
///
/// # Errors
/// Where the lists are not those of x.
pub(crate) fn add_rows(tape: &mut Tape, before: Option<Var>, x: Var, lists: (Var, Var)) -> Result<Var> {
    let inputs: Vec<Var> = [x, lists.0, lists.1].into_iter().chain(before).collect();
    tape.push1(AddRows, &inputs)
}

/// Appends the lists of the places of each of `rows` numbers in an index `[N]`: where each list starts in each segment
/// of the index, and the places in the lists' order.
pub(crate) fn bucket_rows(tape: &mut Tape, index: Var, rows: usize) -> Result<(Var, Var)> {
    let lists = tape.push(BucketRows { rows }, &[index])?;
    Ok((lists[0], lists[1]))
}

/// Lists of places, where each of them starts, and a tensor for what they sum.
struct Lists<'a> {
    starts: &'a Tensor,
    order: &'a Tensor,
    y: &'a Tensor,
}

/// What is summed beside the rows in one set of lists.
enum Beside<'a> {
    Nothing,
    /// The same rows in other lists.
    Second(&'a Lists<'a>),
    /// Earlier rows, which an invocation for each list goes on from; at first none.
    Before(Option<&'a Tensor>),
}

/// Records y [U, D] = for each list the sum of the rows of x [N, D] in it.
fn scatter(cx: &mut Lower<'_>, x: &Tensor, first: &Lists<'_>, beside: &Beside<'_>) -> Result<()> {
    let (second, before) = match *beside {
        Beside::Nothing => (None, None),
        Beside::Second(lists) => (Some(lists), None),
        Beside::Before(before) => (None, before),
    };
    let y = first.y;
    let d = *y.dims.last().unwrap_or(&1);
    let ys = [Some(y), second.map(|s| s.y), before];
    let wide = d.is_multiple_of(4) && [Some(x)].iter().chain(&ys).flatten().all(|t| t.replica_stride.is_multiple_of(4));
    let width = if wide { 4 } else { 1 };
    let stride = |of: fn(&Lists<'_>) -> u32| second.map_or(0, of);
    let params = ScatterParams {
        rows: (y.len() / d) as u32,
        vectors: d as u32 / width,
        segments: first.starts.dims[0] as u32,
        x_replica: x.replica_stride / width,
        starts_replica: first.starts.replica_stride,
        order_replica: first.order.replica_stride,
        y_replica: y.replica_stride / width,
        second_rows: stride(|s| (s.y.len() / s.y.dims.last().unwrap_or(&1)) as u32),
        second_segments: stride(|s| s.starts.dims[0] as u32),
        second_starts_replica: stride(|s| s.starts.replica_stride),
        second_order_replica: stride(|s| s.order.replica_stride),
        second_y_replica: stride(|s| s.y.replica_stride) / width,
        before_replica: before.map_or(0, |t| t.replica_stride) / width,
    };
    let mut tensors = vec![x, first.starts, first.order, y];
    tensors.extend(second.iter().flat_map(|s| [s.starts, s.order, s.y]));
    tensors.extend(before);
    let (shares, across) = match beside {
        // The parts of several invocations would depend on where a list is cut.
        Beside::Before(_) => ALONE,
        _ => shares(cx, first.order.len())?,
    };
    let chunks = u64::from(params.vectors.div_ceil(across));
    let grid = grid_1d(u64::from(params.rows + params.second_rows) * chunks, cx.replicas);
    let knobs = [u32::from(wide), shares, u32::from(second.is_some()), u32::from(before.is_some())];
    cx.dispatch(&SCATTER, &knobs, &params, &tensors, grid)
}

/// Invocations that share a list: see `scatter_rows.wgsl`.
pub(super) const SHARES: &[u32] = &[1, 64];
/// One invocation for each list, and for how many vectors of columns a workgroup has one.
const ALONE: (u32, u32) = (SHARES[0], 32);

/// How many share a list on this device, and for how many vectors of columns a workgroup does it. A software adapter
/// opened without features stands in for a GPU, in tests too. The length of the lists may not decide: company lengthens
/// them, and the order of a sum would change with it.
///
/// # Errors
/// [`Error::Limit`] where a software driver would cut a walk off that one invocation takes alone.
pub(super) fn shares(cx: &Lower<'_>, places: usize) -> Result<(u32, u32)> {
    let caps = cx.gpu().caps();
    if !(caps.is_software() && caps.subgroup.is_some()) {
        return Ok((SHARES[1], 4));
    }
    if places > 4 * SOFTWARE_DEPTH {
        return Err(Error::Limit(format!(
            "a sum over {places} places of a table; {} cuts kernels off beyond {}. Use a smaller batch or a GPU",
            caps.name,
            4 * SOFTWARE_DEPTH
        )));
    }
    Ok(ALONE)
}

/// Rows of the index that one workgroup of `bucket_rows` sorts. Software drivers cut a shader off after
/// 65,535 loop iterations; this stays far below.
const SEGMENT: usize = 4096;

/// For each segment of an index [N], the numbers of its entries sorted by value, stable, and where each
/// value's entries begin: starts [segments, rows + 1], order [N].
struct BucketRows {
    rows: usize,
}

impl Op for BucketRows {
    fn name(&self) -> &'static str {
        "bucket rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let n = inputs[0].len();
        if inputs[0].dtype != DType::U32 || n == 0 {
            return Err(misfit("bucket rows", format!("an index of {:?}", inputs[0].dims)));
        }
        let starts = inputs[0].with_dims(&[n.div_ceil(SEGMENT), self.rows + 1]);
        Ok(vec![starts, inputs[0].with_dims(&[n])])
    }

    fn folds(&self) -> bool {
        true
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let n = inputs[0].len();
        let cursors = cx.scratch(&[n.div_ceil(SEGMENT), self.rows]);
        let params = BucketParams {
            n: n as u32,
            rows: self.rows as u32,
            segment: SEGMENT as u32,
            index_replica: inputs[0].replica_stride,
            starts_replica: outputs[0].replica_stride,
            order_replica: outputs[1].replica_stride,
        };
        let tensors = [&inputs[0], &outputs[0], &outputs[1], &cursors];
        cx.dispatch(&BUCKET, &[], &params, &tensors, [n.div_ceil(SEGMENT) as u32, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = inputs[0].data.len();
        let (mut starts, mut order) = (Vec::new(), vec![0.0; n]);
        for first in (0..n).step_by(SEGMENT) {
            let mut lists: Vec<Vec<usize>> = vec![Vec::new(); self.rows];
            for at in first..(first + SEGMENT).min(n) {
                if inputs[0].data[at] != f64::from(IGNORE) {
                    lists[inputs[0].index(at)].push(at);
                }
            }
            let mut place = first;
            for list in lists {
                starts.push(place as f64);
                for at in list {
                    order[place] = at as f64;
                    place += 1;
                }
            }
            starts.push(place as f64);
        }
        vec![Array::new(&[n.div_ceil(SEGMENT), self.rows + 1], starts), Array::new(&[n], order)]
    }
}

/// The sums. Inputs: x [N, D], index [N], and the lists that [`BucketRows`] makes of the index.
#[derive(Clone, Copy)]
pub(in crate::autograd) struct ScatterRows {
    rows: usize,
}

impl ScatterRows {
    /// Records two sums of the same rows at once. Inputs: x, index and lists of one, index and lists of the other.
    pub(in crate::autograd) fn lower_both(cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, _, starts, order, _, second_starts, second_order] = inputs else {
            return Err(misfit("scatter rows", "inputs"));
        };
        let second = Lists { starts: second_starts, order: second_order, y: &outputs[1] };
        scatter(cx, x, &Lists { starts, order, y: &outputs[0] }, &Beside::Second(&second))
    }
}

impl Op for ScatterRows {
    fn name(&self) -> &'static str {
        "scatter rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, d) = inputs[0].rows();
        if inputs[1].len() != n {
            return Err(misfit("scatter rows", format!("{n} rows, {} indices", inputs[1].len())));
        }
        Ok(vec![like(inputs, &[self.rows, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [x, _, starts, order] = inputs else { return Err(misfit("scatter rows", "inputs")) };
        scatter(cx, x, &Lists { starts, order, y: &outputs[0] }, &Beside::Nothing)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        // The gradient of a sum of rows is the sum's gradient at each of them. Rows that were ignored
        // would need a zero row; no model differentiates through those.
        let dx = grads[0].map(|dy| tape.push1(GatherRows, &[dy, node.inputs[1]])).transpose()?;
        Ok(vec![dx, None, None, None])
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0])
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

/// The rows in one of the lists that [`bucket_rows`] makes, in their order, for references.
pub(crate) fn rows_in<'a>(starts: &'a Array, order: &'a Array, list: usize) -> impl Iterator<Item = usize> + 'a {
    let (segments, ends) = starts.rows();
    let places = (0..segments).map(move |segment| segment * ends + list);
    places.flat_map(|at| starts.index(at)..starts.index(at + 1)).map(|place| order.index(place))
}

/// The sums of [`add_rows`]. Inputs: x [N, D], the lists, and the earlier sums [U, D].
struct AddRows;

impl Op for AddRows {
    fn name(&self) -> &'static str {
        "add rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ((n, d), rows) = (inputs[0].rows(), inputs[1].rows().1 - 1);
        if inputs[2].len() != n || inputs.get(3).is_some_and(|before| before.len() != rows * d) {
            return Err(misfit("add rows", format!("{n} rows, {} of them in {rows} lists", inputs[2].len())));
        }
        Ok(vec![like(inputs, &[rows, d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let lists = Lists { starts: &inputs[1], order: &inputs[2], y: &outputs[0] };
        scatter(cx, &inputs[0], &lists, &Beside::Before(inputs.get(3)))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let ((_, d), rows) = (inputs[0].rows(), inputs[1].rows().1 - 1);
        let mut y = inputs.get(3).map_or_else(|| Array::zeros(&[rows, d]), |before| (*before).clone());
        for (row, y) in y.data.chunks_exact_mut(d).enumerate() {
            for place in rows_in(inputs[1], inputs[2], row) {
                y.iter_mut().zip(&inputs[0].data[place * d..]).for_each(|(y, x)| *y += x);
            }
        }
        vec![y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES, gpus};

    #[test]
    fn gather_matches_its_reference() {
        for n in SIZES {
            for d in [3, 8] {
                let mut case = Case::new("gather");
                let (table, second) = (case.owned(&[7, d]), case.owned(&[5, d]));
                let (index, second_index) = (case.indices(&[n], 7, true), case.indices(&[n], 5, false));
                let one = case.tape.push1(GatherRows, &[table, index]).unwrap();
                let two = case.tape.push1(GatherRows, &[table, index, second, second_index]).unwrap();
                let part = GatherColumns { first: d / 2, width: d - d / 2 };
                let part = case.tape.push1(part, &[table, index]).unwrap();
                case.check(&[part], &[], 1e-6);
                let y = case.tape.push1(super::super::Add, &[one, two]).unwrap();
                // Sums of up to 257 equal-sized terms in order: 257 roundings of 6e-8 at worst.
                case.check(&[y], &[table, second], 1e-5);
            }
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for n in SIZES {
            let mut case = Case::new(&format!("tangents of gathers {n}"));
            let (table, second) = (case.shared(&[7, 8]), case.owned(&[5, 8]));
            let (index, second_index) = (case.indices(&[n], 7, true), case.indices(&[n], 5, false));
            let y = case.tape.push1(GatherRows, &[table, index, second, second_index]).unwrap();
            let back = scatter_rows(&mut case.tape, y, second_index, 5).unwrap();
            let y = case.tape.push1(super::super::Multiply, &[back, second]).unwrap();
            case.check_tangents(y, &[table, second], 2e-5);
        }
    }

    #[test]
    fn scatter_matches_its_reference_for_indices_known_before_and_on_the_device() {
        for (n, d, rows) in [(1, 5, 3), (63, 8, 300), (256, 260, 3), (4097, 8, 300), (9000, 3, 5)] {
            for owned in [true, false] {
                let mut case = Case::new(&format!("scatter {n} {d} {rows} {owned}"));
                let x = case.owned(&[n, d]);
                let index = case.indices(&[n], rows, owned);
                let y = scatter_rows(&mut case.tape, x, index, rows as usize).unwrap();
                // Up to 9,000 terms of either sign, an eighth of them in a row: 1e-5 of the largest sum.
                case.check(&[y], &[x], 1e-5);
            }
        }
    }

    #[test]
    fn sums_of_rows_do_not_depend_on_the_pieces_they_come_in() {
        let (n, rows) = (5000, 7);
        for d in [3, 8] {
            let mut bits: Vec<Vec<Vec<f32>>> = Vec::new();
            for piece in [n, 4096, 300, 77] {
                let mut case = Case::new(&format!("rows of {d} in pieces of {piece}"));
                let all = case.owned(&[n, d]);
                let mut sums = None;
                for first in (0..n).step_by(piece) {
                    let places: Vec<u32> = (first..n.min(first + piece)).map(|row| row as u32).collect();
                    let index = |row: &u32| if *row % 9 == 4 { IGNORE } else { row * row % 11 % rows as u32 };
                    let index: Vec<u32> = places.iter().map(index).collect();
                    let index = case.tape.constant_u32(&[places.len()], &index);
                    let places = case.tape.constant_u32(&[places.len()], &places);
                    let x = case.tape.push1(GatherRows, &[all, places]).unwrap();
                    let lists = bucket_rows(&mut case.tape, index, rows).unwrap();
                    sums = Some(add_rows(&mut case.tape, sums, x, lists).unwrap());
                }
                // Some thousand terms of either sign.
                case.agree(&[sums.unwrap()], 1e-5);
                for (at, gpu) in gpus().iter().enumerate() {
                    let found = case.run(gpu, &[sums.unwrap()]).unwrap().remove(0);
                    match bits.get(at) {
                        Some(before) => assert!(*before == found, "{} in pieces of {piece}", gpu.caps().name),
                        None => bits.push(found),
                    }
                }
            }
        }
    }

    #[test]
    fn lists_are_those_of_the_reference() {
        for n in [1, 255, 4096, 5000] {
            for rows in [1, 3, 700] {
                let mut case = Case::new(&format!("lists {n} {rows}"));
                let index = case.indices(&[n], rows, true);
                let lists = case.tape.push(BucketRows { rows: rows as usize }, &[index]).unwrap();
                case.agree_bits(&lists);
            }
        }
    }

    #[test]
    fn ignored_rows_go_nowhere() {
        let mut case = Case::new("scatter ignored");
        let x = case.owned(&[4, 2]);
        let index = case.tape.constant_u32(&[4], &[1, IGNORE, 1, IGNORE]);
        let y = scatter_rows(&mut case.tape, x, index, 3).unwrap();
        case.check(&[y], &[], 1e-6);
    }
}
