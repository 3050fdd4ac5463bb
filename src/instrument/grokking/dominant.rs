//! Which part of a group's functions (frequency, irrep) each column of a matrix follows: the ops behind
//! `synchrony`.

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{IGNORE, bucket_rows, rows_in, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};
use crate::instrument::ROUNDING;

crate::params! {
    struct SpreadParams {
        rows: u32, columns: u32, chunk: u32, x_replica: u32, pivot_replica: u32, index_replica: u32, out_replica: u32,
    }
}
static COLUMN_SPREAD: Shader<'_> = Shader {
    name: "instrument/grokking/column_spread",
    source: include_str!("../../../shaders/instrument/grokking/column_spread.wgsl"),
    knobs: &[],
    params: SpreadParams::FIELDS,
};
crate::params! {
    struct ListParams {
        lists: u32, columns: u32, segments: u32, x_replica: u32, pivot_replica: u32, starts_replica: u32, order_replica: u32,
        before_replica: u32, out_replica: u32,
    }
}
static LIST_SPREAD: Shader<'_> = Shader {
    name: "instrument/grokking/list_spread",
    source: include_str!("../../../shaders/instrument/grokking/list_spread.wgsl"),
    knobs: &[Knob { name: "BEFORE", values: &[0, 1] }],
    params: ListParams::FIELDS,
};
crate::params! {
    struct BinParams { bins: u32, columns: u32, sums_replica: u32, counts_replica: u32, y_replica: u32 }
}
static BIN_MEANS: Shader<'_> = Shader {
    name: "instrument/grokking/bin_means",
    source: include_str!("../../../shaders/instrument/grokking/bin_means.wgsl"),
    knobs: &[],
    params: BinParams::FIELDS,
};
crate::params! {
    struct DominantParams {
        parts: u32, columns: u32, count: f32, unit: f32, x_replica: u32, spread_replica: u32, out_replica: u32,
    }
}
static DOMINANT: Shader<'_> = Shader {
    name: "instrument/grokking/dominant",
    source: include_str!("../../../shaders/instrument/grokking/dominant.wgsl"),
    knobs: &[Knob { name: "GRID", values: &[0, 1] }],
    params: DominantParams::FIELDS,
};
crate::params! {
    struct SummaryParams {
        parts: u32, columns: u32, threshold: f32, x_replica: u32, dominant_replica: u32, out_replica: u32, stats_replica: u32,
    }
}
static DOMINANT_SUMMARY: Shader<'_> = Shader {
    name: "instrument/grokking/dominant_summary",
    source: include_str!("../../../shaders/instrument/grokking/dominant_summary.wgsl"),
    knobs: &[],
    params: SummaryParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&COLUMN_SPREAD, &LIST_SPREAD, &BIN_MEANS, &DOMINANT, &DOMINANT_SUMMARY];

/// Parts whose joint share [`DominantSummary`] gives.
pub(crate) const TOP: usize = 8;

/// y [3, C] = sums over the rows that count of x - pivot, of (x - pivot)², and of x². Inputs: x [N, C], pivot
/// `[C]`, an index [N] that is [`IGNORE`] where a row does not count.
pub(crate) struct ColumnSpread;

impl Op for ColumnSpread {
    fn name(&self) -> &'static str {
        "column spread"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (rows, columns) = inputs[0].rows();
        if inputs[1].len() != columns || inputs[2].len() != rows {
            return Err(misfit("column spread", format!("{:?} {:?}", inputs[0].dims, inputs[2].dims)));
        }
        Ok(vec![like(inputs, &[3, columns])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const ROWS: usize = 256;
        let columns = outputs[0].dims[1];
        let rows = inputs[0].len() / columns;
        let chunks = rows.div_ceil(ROWS);
        let partial = cx.scratch(&[chunks, 3 * columns]);
        let params = SpreadParams {
            rows: rows as u32,
            columns: columns as u32,
            chunk: ROWS as u32,
            x_replica: inputs[0].replica_stride,
            pivot_replica: inputs[1].replica_stride,
            index_replica: inputs[2].replica_stride,
            out_replica: partial.replica_stride,
        };
        let grid = [columns.div_ceil(32) as u32, chunks as u32, cx.replicas];
        cx.dispatch(&COLUMN_SPREAD, &[], &params, &[&inputs[0], &inputs[1], &inputs[2], &partial], grid)?;
        sum_columns(cx, &partial, chunks, 3 * columns, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        let sum = |at: usize| {
            let (kind, c) = (at / columns, at % columns);
            let counted = (0..rows).filter(|row| inputs[2].data[*row] != f64::from(IGNORE));
            let of = |x: f64| [x - inputs[1].data[c], (x - inputs[1].data[c]).powi(2), x * x][kind];
            counted.map(|row| of(inputs[0].data[row * columns + c])).sum()
        };
        vec![Array::from_fn(&[3, columns], sum)]
    }
}

/// y [U, 3, C] = what [`ColumnSpread`] sums, over the rows in each of U lists, going on from what an earlier piece of the rows
/// left: the bits do not depend on how rows are cut into pieces. Inputs: x [N, C], pivot `[C]`, the lists that `bucket_rows`
/// makes, and the earlier result.
pub(crate) struct ListSpread;

impl Op for ListSpread {
    fn name(&self) -> &'static str {
        "list spread"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ((rows, columns), lists) = (inputs[0].rows(), inputs[2].rows().1 - 1);
        let fits = inputs[1].len() == columns && inputs[3].len() == rows;
        if !fits || inputs.get(4).is_some_and(|before| before.len() != 3 * lists * columns) {
            return Err(misfit("list spread", format!("{:?} in {lists} lists", inputs[0].dims)));
        }
        Ok(vec![like(inputs, &[lists, 3, columns])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [lists, _, columns] = outputs[0].dims[..] else { return Err(misfit("list spread", "output")) };
        let before = inputs.get(4);
        let params = ListParams {
            lists: lists as u32,
            columns: columns as u32,
            segments: inputs[2].dims[0] as u32,
            x_replica: inputs[0].replica_stride,
            pivot_replica: inputs[1].replica_stride,
            starts_replica: inputs[2].replica_stride,
            order_replica: inputs[3].replica_stride,
            before_replica: before.map_or(0, |t| t.replica_stride),
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs[..4].iter().chain(outputs).chain(before).collect();
        let grid = grid_1d(((lists * columns) as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&LIST_SPREAD, &[u32::from(before.is_some())], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let ((_, columns), lists) = (inputs[0].rows(), inputs[2].rows().1 - 1);
        let sum = |at: usize| {
            let (list, kind, c) = (at / columns / 3, at / columns % 3, at % columns);
            let of = |x: f64| [x - inputs[1].data[c], (x - inputs[1].data[c]).powi(2), x * x][kind];
            let sum: f64 = rows_in(inputs[2], inputs[3], list).map(|row| of(inputs[0].data[row * columns + c])).sum();
            inputs.get(4).map_or(0.0, |before| before.data[at]) + sum
        };
        vec![Array::from_fn(&[lists, 3, columns], sum)]
    }
}

/// y [n, C] = sums [n, C] divided by counts [n], centred over the bins that hold anything; 0 in others, and in all where no
/// more than rounding is left.
pub(crate) struct BinMeans;

impl Op for BinMeans {
    fn name(&self) -> &'static str {
        "bin means"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let bins = inputs[1].len();
        let columns = outputs[0].len() / bins;
        let params = BinParams {
            bins: bins as u32,
            columns: columns as u32,
            sums_replica: inputs[0].replica_stride,
            counts_replica: inputs[1].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d(columns.div_ceil(64) as u64, cx.replicas);
        cx.dispatch(&BIN_MEANS, &[], &params, &[&inputs[0], &inputs[1], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let counts = &inputs[1].data;
        let columns = inputs[0].data.len() / counts.len();
        let filled: Vec<usize> = (0..counts.len()).filter(|b| counts[*b] > 0.0).collect();
        let value = |b: usize, c: usize| inputs[0].data[b * columns + c] / counts[b];
        let mut y = Array::zeros(&inputs[0].dims);
        for c in 0..columns {
            let mean = filled.iter().map(|b| value(*b, c)).sum::<f64>() / filled.len().max(1) as f64;
            let left: f64 = filled.iter().map(|b| (value(*b, c) - mean).powi(2)).sum();
            let whole: f64 = filled.iter().map(|b| value(*b, c).powi(2)).sum();
            for b in filled.iter().filter(|_| left > ROUNDING * whole) {
                y.data[b * columns + c] = value(*b, c) - mean;
            }
        }
        vec![y]
    }
}

/// For each column, the part with the most energy for its size, from 1, and its share of the whole; both 0
/// where there is nothing, or nothing but rounding: [2, C]. Inputs: where each part's components start, [K + 1]; one over each part's
/// size, `[K]`; components [n, C], one family or four whose energies add up, and then their columns' spread
/// [3, C], see [`ColumnSpread`].
pub(crate) struct Dominant {
    /// With four families: examples of the grid, whose variance is the whole, and what squares of
    /// components are multiplied by.
    pub(crate) grid: Option<(f32, f32)>,
}

impl Op for Dominant {
    fn name(&self) -> &'static str {
        "dominant part"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        if inputs.len() != if self.grid.is_some() { 7 } else { 3 } {
            return Err(misfit("dominant part", format!("{} inputs", inputs.len())));
        }
        Ok(vec![inputs[2].with_dims(&[2, inputs[2].rows().1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = outputs[0].dims[1];
        let (count, unit) = self.grid.unwrap_or((1.0, 1.0));
        let params = DominantParams {
            parts: inputs[1].len() as u32,
            columns: columns as u32,
            count,
            unit,
            x_replica: inputs[2].replica_stride,
            spread_replica: inputs.get(6).map_or(0, |spread| spread.replica_stride),
            out_replica: outputs[0].replica_stride,
        };
        let mut tensors = vec![&inputs[0], &inputs[1], &inputs[2], &outputs[0]];
        tensors.extend(&inputs[3..]);
        let grid = grid_1d(columns.div_ceil(64) as u64, cx.replicas);
        cx.dispatch(&DOMINANT, &[u32::from(self.grid.is_some())], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, columns) = inputs[2].rows();
        let (count, unit) = self.grid.unwrap_or((1.0, 1.0));
        let families = &inputs[2..inputs.len().min(6)];
        let mut out = Array::zeros(&[2, columns]);
        for c in 0..columns {
            let energy =
                |i: usize| f64::from(unit) * families.iter().map(|x| x.data[i * columns + c].powi(2)).sum::<f64>();
            let part = |k: usize| (inputs[0].index(k)..inputs[0].index(k + 1)).map(energy).sum::<f64>();
            let energies: Vec<f64> = (0..inputs[1].data.len()).map(part).collect();
            let whole = match inputs.get(6) {
                Some(spread) => spread.data[columns + c] - spread.data[c].powi(2) / f64::from(count),
                None => energies.iter().sum(),
            };
            let rounding = inputs.get(6).map_or(0.0, |spread| ROUNDING * spread.data[2 * columns + c]);
            let (mut best, mut top) = (0, 0.0);
            for (k, energy) in energies.iter().enumerate() {
                if energy * inputs[1].data[k] > top {
                    (best, top) = (k + 1, energy * inputs[1].data[k]);
                }
            }
            if whole > rounding && best > 0 {
                out.data[c] = best as f64;
                out.data[columns + c] = energies[best - 1] / whole;
            }
        }
        vec![out]
    }
}

/// Over columns whose dominant part holds more than `threshold`: how many follow each part [K], agreement of
/// the phases of those [K], and [3 + TOP]: (peak - 1/K) / (1 - 1/K) for the largest share of columns, 0 at least, mean
/// strength of all, share above the threshold, shares of the 1 to [`TOP`] most followed parts. Inputs: what
/// [`Dominant`] found [2, C], components [n, C], where each part's components start, [K + 1].
pub(crate) struct DominantSummary {
    /// Share of its energy from which a column follows its dominant part.
    pub(crate) threshold: f32,
}

impl Op for DominantSummary {
    fn name(&self) -> &'static str {
        "summary of dominant parts"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let parts = inputs[2].len() - 1;
        if !(1..=256).contains(&parts) {
            return Err(misfit("summary of dominant parts", format!("{parts} parts; 1 to 256 are taken")));
        }
        Ok([parts, parts, 3 + TOP].map(|n| inputs[0].with_dims(&[n])).to_vec())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = SummaryParams {
            parts: outputs[0].len() as u32,
            columns: inputs[0].dims[1] as u32,
            threshold: self.threshold,
            x_replica: inputs[1].replica_stride,
            dominant_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
            stats_replica: outputs[2].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&DOMINANT_SUMMARY, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, columns) = inputs[0].rows();
        let parts = inputs[2].data.len() - 1;
        let (best, strength) = inputs[0].data.split_at(columns);
        let (mut counts, mut phases) = (Array::zeros(&[parts]), Array::zeros(&[parts]));
        for k in 0..parts {
            let cosine = inputs[2].index(k);
            let paired = inputs[2].index(k + 1) > cosine + 1;
            let (mut x, mut y) = (0.0, 0.0);
            for c in (0..columns).filter(|c| best[*c] == (k + 1) as f64 && strength[*c] > f64::from(self.threshold)) {
                let cos = inputs[1].data[cosine * columns + c];
                let sin = if paired { inputs[1].data[(cosine + 1) * columns + c] } else { 0.0 };
                let length = cos.hypot(sin).max(1e-300);
                (x, y) = (x + cos / length, y + sin / length);
                counts.data[k] += 1.0;
            }
            phases.data[k] = f64::hypot(x, y) / counts.data[k].max(1.0);
        }
        let all = columns as f64;
        let mut sorted = counts.data.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let even = 1.0 / parts as f64;
        let mut stats =
            vec![((sorted[0] / all - even) / (1.0 - even).max(1e-37)).max(0.0), strength.iter().sum::<f64>() / all];
        stats.push(counts.data.iter().sum::<f64>() / all);
        stats.extend((1..=TOP).map(|top| sorted.iter().take(top).sum::<f64>() / all));
        vec![counts, phases, Array::new(&[3 + TOP], stats)]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("dominant frequencies", |c| {
        let (sums, counts) = (c.owned(&[31, 70]), c.tape.constant(&[31, 1], &[2.0; 31]));
        let means = c.tape.push1(BinMeans, &[sums, counts])?;
        let starts: Vec<u32> = (0..16).map(|k| 2 * k + 1).collect();
        let starts = c.tape.constant_u32(&[16], &starts);
        let weights = c.tape.constant(&[15], &[1.0; 15]);
        let found = c.tape.push1(Dominant { grid: None }, &[starts, weights, means])?;
        let mut summary = c.tape.push(DominantSummary { threshold: 0.1 }, &[found, means, starts])?;
        summary.push(means);
        Ok((summary, Vec::new()))
    }),
    ("column spread", |c| {
        let (x, pivot, index) = (c.owned(&[300, 33]), c.owned(&[33]), c.indices(&[300], 300, true));
        let (starts, order) = bucket_rows(&mut c.tape, index, 300)?;
        let first = c.tape.push1(ListSpread, &[x, pivot, starts, order])?;
        let both = c.tape.push1(ListSpread, &[x, pivot, starts, order, first])?;
        Ok((vec![c.tape.push1(ColumnSpread, &[x, pivot, index])?, both], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    #[test]
    fn dominant_parts_match_their_reference() {
        for (n, columns) in [(3, 1), (10, 3), (31, 64), (64, 65), (257, 31)] {
            for grid in [None, Some((40.0, 0.5))] {
                let mut case = Case::new(&format!("dominant {n} {columns} {grid:?}"));
                let ends: Vec<u32> = (1..n as u32).step_by(2).chain([n as u32]).collect();
                let (starts, parts) = (case.tape.constant_u32(&[ends.len()], &ends), ends.len() - 1);
                let weights: Vec<f32> = (0..parts).map(|k| 1.0 + (k % 3) as f32).collect();
                let weights = case.tape.constant(&[parts], &weights);
                let a = case.owned(&[n, columns]);
                let mut inputs = vec![starts, weights, a];
                if grid.is_some() {
                    inputs.extend([case.owned(&[n, columns]), case.owned(&[n, columns]), case.owned(&[n, columns])]);
                    inputs.push(spread(&mut case, 40, columns));
                }
                let found = case.tape.push1(Dominant { grid }, &inputs).unwrap();
                let summary = case.tape.push(DominantSummary { threshold: 0.1 }, &[found, a, starts]).unwrap();
                // Some hundred squares added in order, and means of unit vectors: a few roundings each.
                case.agree(&[found], 1e-5);
                case.agree(&summary, 1e-5);
            }
        }
    }

    fn spread(case: &mut Case, rows: usize, columns: usize) -> crate::autograd::Var {
        let (x, pivot) = (case.owned(&[rows, columns]), case.owned(&[columns]));
        let index: Vec<u32> = (0..rows as u32).map(|i| if i % 7 == 3 { IGNORE } else { i }).collect();
        let index = case.tape.constant_u32(&[rows], &index);
        case.tape.push1(ColumnSpread, &[x, pivot, index]).unwrap()
    }

    #[test]
    fn spreads_and_bin_means_match_their_reference() {
        for n in [1, 3, 31, 64, 257, 600] {
            let mut case = Case::new(&format!("spread {n}"));
            let out = spread(&mut case, n, 33);
            case.agree(&[out], 1e-5);
            let sums = case.owned(&[n, 33]);
            let counts: Vec<f32> = (0..n).map(|b| (b % 4) as f32).collect();
            let counts = case.tape.constant(&[n, 1], &counts);
            let means = case.tape.push1(BinMeans, &[sums, counts]).unwrap();
            case.agree(&[means], 1e-5);
        }
    }

    #[test]
    fn a_small_variance_beside_a_large_mean_survives() {
        let mut case = Case::new("pivot");
        // 1000 +- 1/1024, which f32 holds exactly; squares of a thousand would drown it.
        let data: Vec<f32> = (0..512).map(|i| 1000.0 + if i % 2 == 0 { 1.0 } else { -1.0 } / 1024.0).collect();
        let x = case.tape.constant(&[512, 1], &data);
        let pivot = case.tape.constant(&[1], &data[..1]);
        let index: Vec<u32> = (0..512).collect();
        let index = case.tape.constant_u32(&[512], &index);
        let out = case.tape.push1(ColumnSpread, &[x, pivot, index]).unwrap();
        for gpu in crate::autograd::check::gpus() {
            let found = case.run(gpu, &[out]).unwrap().concat().concat();
            let variance = f64::from(found[1]) / 512.0 - (f64::from(found[0]) / 512.0).powi(2);
            assert!((variance * 1024.0 * 1024.0 - 1.0).abs() < 1e-5, "{found:?}");
        }
    }
}
