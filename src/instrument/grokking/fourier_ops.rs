//! The ops behind the Fourier instruments: energies of components, and which frequencies are strong.

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{ColumnSum, IGNORE, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, like};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor, grid_1d};

crate::params! {
    struct SquareParams { rows: u32, columns: u32, take: u32, chunk: u32, x_replica: u32, index_replica: u32, out_replica: u32 }
}
static ROW_SQUARES: Shader<'_> = Shader {
    name: "instrument/grokking/row_squares",
    source: include_str!("../../../shaders/instrument/grokking/row_squares.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }, Knob { name: "CENTRED", values: &[0, 1] }],
    params: SquareParams::FIELDS,
};
static COLUMN_SQUARES: Shader<'_> = Shader {
    name: "instrument/grokking/column_squares",
    source: include_str!("../../../shaders/instrument/grokking/column_squares.wgsl"),
    knobs: &[],
    params: SquareParams::FIELDS,
};
crate::params! {
    struct SpectrumParams {
        components: u32, frequencies: u32, first_length: u32, second_length: u32, first_replica: u32, second_replica: u32,
        scalar_replica: u32, out_replica: u32,
    }
}
static SPECTRUM_SUMMARY: Shader<'_> = Shader {
    name: "instrument/grokking/spectrum_summary",
    source: include_str!("../../../shaders/instrument/grokking/spectrum_summary.wgsl"),
    knobs: &[Knob { name: "DOWN", values: &[0, 1] }],
    params: SpectrumParams::FIELDS,
};
crate::params! {
    struct RankParams {
        components: u32, frequencies: u32, energies_replica: u32, scalar_replica: u32, ranks_replica: u32, keys_replica: u32,
    }
}
static RANK_FREQUENCIES: Shader<'_> = Shader {
    name: "instrument/grokking/rank_frequencies",
    source: include_str!("../../../shaders/instrument/grokking/rank_frequencies.wgsl"),
    knobs: &[],
    params: RankParams::FIELDS,
};
crate::params! {
    struct KeepParams { components: u32, columns: u32, rank: u32, constant: u32, x_replica: u32, ranks_replica: u32, out_replica: u32 }
}
static KEEP_FREQUENCIES: Shader<'_> = Shader {
    name: "instrument/grokking/keep_frequencies",
    source: include_str!("../../../shaders/instrument/grokking/keep_frequencies.wgsl"),
    knobs: &[],
    params: KeepParams::FIELDS,
};
crate::params! {
    struct ExcludeParams {
        rows: u32, columns: u32, components: u32, z_replica: u32, coefficients_replica: u32,
        targets_replica: u32, count_replica: u32, out_replica: u32, elements_replica: u32, unit: f32,
    }
}
static EXCLUDE_EACH: Shader<'_> = Shader {
    name: "instrument/grokking/exclude_each",
    source: include_str!("../../../shaders/instrument/grokking/exclude_each.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: ExcludeParams::FIELDS,
};
crate::params! {
    struct LargestParams { n: u32, x_replica: u32, y_replica: u32 }
}
static LARGEST: Shader<'_> = Shader {
    name: "instrument/grokking/largest",
    source: include_str!("../../../shaders/instrument/grokking/largest.wgsl"),
    knobs: &[],
    params: LargestParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] =
    &[&ROW_SQUARES, &COLUMN_SQUARES, &SPECTRUM_SUMMARY, &RANK_FREQUENCIES, &KEEP_FREQUENCIES, &EXCLUDE_EACH, &LARGEST];

/// y [N] = sum of squares of each row of x [N, C].
pub(crate) struct RowSquares;

impl Op for RowSquares {
    fn name(&self) -> &'static str {
        "row squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().0])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let columns = inputs[0].len() / rows;
        let params = SquareParams {
            rows: rows as u32,
            columns: columns as u32,
            take: columns as u32,
            chunk: 0,
            x_replica: inputs[0].replica_stride,
            index_replica: 0,
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&ROW_SQUARES, &[subgroups, 0], &params, &[&inputs[0], &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[rows], |r| inputs[0].data[r * columns..][..columns].iter().map(|x| x * x).sum())]
    }
}

/// y [N] = sum over the first classes of (z - mean over those classes)²; 0 for ignored rows. Inputs:
/// z [N, V], index [N].
pub(crate) struct CentredSquares {
    pub(crate) classes: usize,
}

impl Op for CentredSquares {
    fn name(&self) -> &'static str {
        "centred squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &[inputs[0].rows().0])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let rows = outputs[0].len();
        let params = SquareParams {
            rows: rows as u32,
            columns: (inputs[0].len() / rows) as u32,
            take: self.classes as u32,
            chunk: 0,
            x_replica: inputs[0].replica_stride,
            index_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&ROW_SQUARES, &[subgroups, 1], &params, &[&inputs[0], &outputs[0], &inputs[1]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[rows], |r| {
            let z = &inputs[0].data[r * columns..][..self.classes];
            let mean = z.iter().sum::<f64>() / self.classes as f64;
            let counts = inputs[1].data[r] != f64::from(IGNORE);
            if counts { z.iter().map(|x| (x - mean).powi(2)).sum() } else { 0.0 }
        })]
    }
}

/// y [C] = sum over rows of the squares of x [N, C].
pub(crate) struct ColumnSquares;

impl Op for ColumnSquares {
    fn name(&self) -> &'static str {
        "column squares"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[inputs[0].rows().1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        const ROWS: usize = 256;
        let columns = outputs[0].len();
        let rows = inputs[0].len() / columns;
        let chunks = rows.div_ceil(ROWS);
        let partial = cx.scratch(&[chunks, columns]);
        let params = SquareParams {
            rows: rows as u32,
            columns: columns as u32,
            take: columns as u32,
            chunk: ROWS as u32,
            x_replica: inputs[0].replica_stride,
            index_replica: 0,
            out_replica: partial.replica_stride,
        };
        let grid = [columns.div_ceil(32) as u32, chunks as u32, cx.replicas];
        cx.dispatch(&COLUMN_SQUARES, &[], &params, &[&inputs[0], &partial], grid)?;
        sum_columns(cx, &partial, chunks, columns, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        vec![Array::from_fn(&[columns], |c| (0..rows).map(|r| inputs[0].data[r * columns + c].powi(2)).sum())]
    }
}

/// Energy of frequency k from the energies of its components.
fn frequency_energy(energies: &[f64], k: usize) -> f64 {
    energies[2 * k - 1] + energies.get(2 * k).copied().unwrap_or(0.0)
}

/// Frequencies of n components.
fn frequencies(n: usize) -> Result<usize> {
    if (2..=512).contains(&n) {
        Ok(n / 2)
    } else {
        Err(misfit("spectrum", format!("{n} components; 2 to 512 are taken")))
    }
}

/// Of two weights: norms of the frequencies [2, K], Gini coefficients of the components' norms [2], and 1 for each
/// frequency above a quarter of its weight's largest [2, K]. Inputs: components of one weight [n, C]; of the other
/// [n, C], or [C, n] where they run `down` its columns.
pub(crate) struct SpectrumSummary {
    pub(crate) down: bool,
}

impl SpectrumSummary {
    fn components(&self, inputs: [&[usize]; 2]) -> Result<usize> {
        let n = inputs[0].first().copied().unwrap_or(0);
        let other = if self.down { inputs[1].last() } else { inputs[1].first() };
        if inputs[0].len() != 2 || inputs[1].len() != 2 || other != Some(&n) {
            return Err(misfit("spectrum", format!("components {inputs:?}")));
        }
        Ok(n)
    }
}

impl Op for SpectrumSummary {
    fn name(&self) -> &'static str {
        "spectrum summary"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let count = frequencies(self.components([&inputs[0].dims, &inputs[1].dims])?)?;
        Ok([&[2, count][..], &[2], &[2, count]].map(|dims| like(inputs, dims)).to_vec())
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let n = self.components([&inputs[0].dims, &inputs[1].dims])?;
        let params = SpectrumParams {
            components: n as u32,
            frequencies: outputs[0].dims[1] as u32,
            first_length: (inputs[0].len() / n) as u32,
            second_length: (inputs[1].len() / n) as u32,
            first_replica: inputs[0].replica_stride,
            second_replica: inputs[1].replica_stride,
            scalar_replica: outputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&SPECTRUM_SUMMARY, &[u32::from(self.down)], &params, &tensors, [2, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = inputs[0].dims[0];
        let rows = |x: &Array| x.data.chunks_exact(x.data.len() / n).map(|r| r.iter().map(|v| v * v).sum()).collect();
        let columns = |x: &Array| (0..n).map(|c| x.data.iter().skip(c).step_by(n).map(|v| v * v).sum()).collect();
        let sites: [Vec<f64>; 2] = [rows(inputs[0]), if self.down { columns(inputs[1]) } else { rows(inputs[1]) }];
        let (mut norms, mut gini, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for energies in sites {
            let own: Vec<f64> = (1..=n / 2).map(|k| frequency_energy(&energies, k).sqrt()).collect();
            let mut sorted: Vec<f64> = energies.iter().map(|e| e.sqrt()).collect();
            sorted.sort_by(f64::total_cmp);
            let total: f64 = sorted.iter().sum();
            let weighted: f64 =
                sorted.iter().enumerate().map(|(i, x)| (2.0 * (i + 1) as f64 - n as f64 - 1.0) * x).sum();
            let top = own.iter().fold(0.0f64, |m, x| m.max(*x));
            keys.extend(own.iter().map(|norm| f64::from(*norm > top / 4.0)));
            norms.extend(own);
            gini.push(weighted / (n as f64 * total));
        }
        vec![Array::new(&[2, n / 2], norms), Array::new(&[2], gini), Array::new(&[2, n / 2], keys)]
    }
}

/// From energies [n] of the logits' components and their whole power [1]: rank of each frequency by
/// energy, from 1 [K], and 1 for each with more than 1 % of the power [K].
pub(crate) struct RankFrequencies;

impl Op for RankFrequencies {
    fn name(&self) -> &'static str {
        "rank frequencies"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let count = frequencies(inputs[0].len())?;
        Ok(vec![inputs[0].with_dims(&[count]), inputs[0].with_dims(&[count])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = RankParams {
            components: inputs[0].len() as u32,
            frequencies: outputs[0].len() as u32,
            energies_replica: inputs[0].replica_stride,
            scalar_replica: inputs[1].replica_stride,
            ranks_replica: outputs[0].replica_stride,
            keys_replica: outputs[1].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&RANK_FREQUENCIES, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let count = inputs[0].data.len() / 2;
        let energy: Vec<f64> = (1..=count).map(|k| frequency_energy(&inputs[0].data, k)).collect();
        let before =
            |i: usize| (0..count).filter(|j| energy[*j] > energy[i] || (energy[*j] == energy[i] && *j < i)).count();
        let ranks = Array::from_fn(&[count], |i| (before(i) + 1) as f64);
        let keys = Array::from_fn(&[count], |i| f64::from(energy[i] > 0.01 * inputs[1].data[0]));
        vec![ranks, keys]
    }
}

/// Rows of x [n, V] that belong to the frequencies asked for, the others 0: those of `rank` at most, or
/// the key ones where `rank` is 0; and the constant's row if it is asked for. Inputs: x, ranks [K], keys [K].
pub(crate) struct KeepFrequencies {
    pub(crate) rank: usize,
    pub(crate) constant: bool,
}

impl Op for KeepFrequencies {
    fn name(&self) -> &'static str {
        "keep frequencies"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let components = inputs[0].dims[0];
        let params = KeepParams {
            components: components as u32,
            columns: (inputs[0].len() / components) as u32,
            rank: self.rank as u32,
            constant: u32::from(self.constant),
            x_replica: inputs[0].replica_stride,
            ranks_replica: inputs[1].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(
            &KEEP_FREQUENCIES,
            &[],
            &params,
            &tensors,
            grid_1d((inputs[0].len() as u64).div_ceil(64), cx.replicas),
        )
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (_, columns) = inputs[0].rows();
        let keeps = |component: usize| match (component.div_ceil(2), self.rank) {
            (0, _) => self.constant,
            (k, 0) => inputs[2].data[k - 1] != 0.0,
            (k, rank) => inputs[1].data[k - 1] <= rank as f64,
        };
        vec![Array::from_fn(&inputs[0].dims, |at| if keeps(at / columns) { inputs[0].data[at] } else { 0.0 })]
    }
}

/// y [N, K] = 1 / count cross-entropy over all columns of each row's logits without their projection onto each frequency
/// alone; 0 for ignored rows. Inputs: logits [N, V], coefficients [n, V], components by element [n, n], the
/// rows' elements [N], their targets [N], the count `[1]`.
pub(crate) struct ExcludeEach {
    /// What a component is multiplied by, to be one of unit length over all pairs.
    pub(crate) unit: f32,
}

impl Op for ExcludeEach {
    fn name(&self) -> &'static str {
        "exclude each frequency"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let [z, coefficients, waves, elements, targets, _] = inputs else {
            return Err(misfit("exclude each frequency", "inputs"));
        };
        let ((rows, columns), (components, same)) = (z.rows(), coefficients.rows());
        if columns != same
            || waves.len() != components * components
            || [elements, targets].iter().any(|s| s.len() != rows)
        {
            return Err(misfit("exclude each frequency", format!("{:?} and {:?}", z.dims, coefficients.dims)));
        }
        Ok(vec![like(inputs, &[rows, frequencies(components)?])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (rows, components) = (outputs[0].dims[0], inputs[1].dims[0]);
        let params = ExcludeParams {
            rows: rows as u32,
            columns: (inputs[0].len() / rows) as u32,
            components: components as u32,
            z_replica: inputs[0].replica_stride,
            coefficients_replica: inputs[1].replica_stride,
            elements_replica: inputs[3].replica_stride,
            targets_replica: inputs[4].replica_stride,
            count_replica: inputs[5].replica_stride,
            out_replica: outputs[0].replica_stride,
            unit: self.unit,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let (subgroups, grid) = cx.by_rows(rows, 64);
        cx.dispatch(&EXCLUDE_EACH, &[subgroups], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let [z, coefficients, waves, elements, targets, count] = inputs else { return Vec::new() };
        let ((rows, columns), n) = (z.rows(), coefficients.dims[0]);
        let parts = n / 2;
        let loss = |at: usize| {
            let (row, k) = (at / parts, at % parts + 1);
            if targets.data[row] == f64::from(IGNORE) {
                return 0.0;
            }
            let (y, element) = (targets.index(row), elements.index(row));
            let without = |j: usize| {
                let along = |component: usize| {
                    coefficients.data[component * columns + j]
                        * f64::from(self.unit)
                        * waves.data[component * n + element]
                };
                let sine = if 2 * k < n { along(2 * k) } else { 0.0 };
                z.data[row * columns + j] - along(2 * k - 1) - sine
            };
            let right = without(y);
            let wrong: f64 = (0..columns).filter(|j| *j != y).map(|j| (without(j) - right).exp()).sum();
            wrong.ln_1p() / count.data[0]
        };
        vec![Array::from_fn(&[rows, parts], loss)]
    }
}

/// y `[1]` = the largest element of x.
pub(crate) struct Largest;

impl Op for Largest {
    fn name(&self) -> &'static str {
        "largest"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].with_dims(&[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = LargestParams {
            n: inputs[0].len() as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        cx.dispatch(&LARGEST, &[], &params, &[&inputs[0], &outputs[0]], [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::new(&[1], vec![inputs[0].data.iter().fold(f64::MIN, |top, x| top.max(*x))])]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[
    ("spectrum", |c| {
        let x = c.owned(&[57, 33]);
        let below = c.owned(&[300, 57]);
        Ok((c.tape.push(SpectrumSummary { down: true }, &[x, below])?, Vec::new()))
    }),
    ("key frequencies", |c| {
        let x = c.owned(&[57, 33]);
        let energies = c.tape.push1(RowSquares, &[x])?;
        let column = c.tape.reshape(energies, &[57, 1])?;
        let power = c.tape.push1(ColumnSum, &[column])?;
        let ranked = c.tape.push(RankFrequencies, &[energies, power])?;
        Ok((vec![c.tape.push1(KeepFrequencies { rank: 2, constant: true }, &[x, ranked[0], ranked[1]])?], Vec::new()))
    }),
    ("squares", |c| {
        let (x, index) = (c.owned(&[300, 9]), c.indices(&[300], 300, true));
        let columns = c.tape.push1(ColumnSquares, &[x])?;
        Ok((vec![columns, c.tape.push1(CentredSquares { classes: 5 }, &[x, index])?], Vec::new()))
    }),
    ("exclude each frequency", |c| {
        let (z, coefficients, waves) = (c.owned(&[40, 12]), c.owned(&[11, 12]), c.shared(&[11, 11]));
        let (elements, targets) = (c.indices(&[40], 11, true), c.indices(&[40], 11, true));
        let count = c.tape.constant(&[1], &[40.0]);
        let inputs = [z, coefficients, waves, elements, targets, count];
        let each = c.tape.push1(ExcludeEach { unit: 0.5 }, &inputs)?;
        let top = c.tape.push1(Largest, &[each])?;
        Ok((vec![each, top], Vec::new()))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};

    #[test]
    fn summaries_and_ranks_match_their_reference() {
        for n in [3, 10, 31, 64, 257] {
            let mut case = Case::new(&format!("spectrum {n}"));
            let x = case.owned(&[n, 33]);
            let energies = case.tape.push1(RowSquares, &[x]).unwrap();
            let other = case.owned(&[n, 7]);
            let below = case.owned(&[300, n]);
            for (down, second) in [(false, other), (true, below)] {
                let summary = case.tape.push(SpectrumSummary { down }, &[x, second]).unwrap();
                case.agree(&summary, 1e-5);
            }
            let column = case.tape.reshape(energies, &[n, 1]).unwrap();
            let power = case.tape.push1(ColumnSum, &[column]).unwrap();
            let ranked = case.tape.push(RankFrequencies, &[energies, power]).unwrap();
            case.agree(&[energies], 1e-5);
            case.agree(&ranked, 0.0);
            for (rank, constant) in [(0, true), (2, false)] {
                let kept = case.tape.push1(KeepFrequencies { rank, constant }, &[x, ranked[0], ranked[1]]).unwrap();
                case.agree(&[kept], 0.0);
            }
        }
    }

    #[test]
    fn squares_match_their_reference() {
        for n in [1, 31, 300] {
            let mut case = Case::new(&format!("squares {n}"));
            let x = case.owned(&[n, 9]);
            let columns = case.tape.push1(ColumnSquares, &[x]).unwrap();
            let index: Vec<u32> = (0..n as u32).map(|i| if i % 7 == 3 { IGNORE } else { i }).collect();
            let index = case.tape.constant_u32(&[n], &index);
            let centred = case.tape.push1(CentredSquares { classes: 5 }, &[x, index]).unwrap();
            case.agree(&[columns, centred], 1e-5);
        }
    }

    #[test]
    fn losses_without_each_frequency_match_their_reference() {
        for (rows, order) in [(1, 3), (31, 10), (65, 31), (30, 64)] {
            let mut case = Case::new(&format!("exclude each {rows} {order}"));
            let (z, coefficients) = (case.owned(&[rows, order + 1]), case.owned(&[order, order + 1]));
            let (waves, elements) = (case.shared(&[order, order]), case.indices(&[rows], order as u32, rows % 2 == 1));
            let targets: Vec<u32> = (0..rows).map(|i| if i % 7 == 3 { IGNORE } else { (i % order) as u32 }).collect();
            let targets = case.tape.constant_u32(&[rows], &targets);
            let count = case.tape.constant(&[1], &[7.0]);
            let inputs = [z, coefficients, waves, elements, targets, count];
            let each = case.tape.push1(ExcludeEach { unit: 0.5 }, &inputs).unwrap();
            let top = case.tape.push1(Largest, &[each]).unwrap();
            case.agree(&[each, top], 1e-5);
        }
    }

    #[test]
    fn the_gini_coefficient_is_0_for_equal_parts_and_near_1_for_a_single_one() {
        for (energies, expected) in [(vec![2.0f32; 113], 0.0), ([vec![1.0], vec![0.0; 112]].concat(), 112.0 / 113.0)] {
            let mut case = Case::new("gini");
            let norms: Vec<f32> = energies.iter().map(|e| e.sqrt()).collect();
            let components = case.tape.constant(&[113, 1], &norms);
            let gini = case.tape.push(SpectrumSummary { down: false }, &[components, components]).unwrap()[1];
            for gpu in gpus() {
                for value in case.run(gpu, &[gini]).unwrap().concat().concat() {
                    assert!((f64::from(value) - expected).abs() < 1e-5, "{value} instead of {expected}");
                }
            }
        }
    }
}
