//! In how many directions activations and embeddings vary, whatever the task; and, in `alignment`, how alike they are.

pub(crate) mod alignment;

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{GatherRows, TransposedProduct};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Params, Shader, Tensor, grid_1d};
use crate::instrument::grokking::dominant::ColumnSpread;
use crate::instrument::{Attach, Card, CostClass, Instrument, Label, ROUNDING};

/// `participation_ratio`, `spectral_entropy`, `effective_rank`.
pub(crate) struct Geometry;

const CARDS: &[Card] = &[
    Card {
        name: "participation_ratio",
        formula: "(Σ λ)² / Σ λ² = (tr C)² / ‖C‖² for the covariance C with eigenvalues λ",
        unit: "1",
        axes: "site: hook_resid_post of the last layer over the predictions of the batch that count (layer), or embed.W_E over tokens",
        cost: CostClass::L,
        every: 200,
        control: "near D N / (D + N) for N rows of noise in D dimensions, 1 where all vary along one line, 0 where nothing varies",
        source: "definition; Verma 2026 (2605.20441) for heads",
        not_for: "a lead over grokking by itself: it falls in runs that never generalize too",
        bounds: Card::SIZE,
        ..Card::BASE
    },
    Card {
        name: "spectral_entropy",
        formula: "H / ln D, H = -Σ p ln p, p = λ / Σ λ; D up to 232",
        unit: "1",
        axes: "as participation_ratio",
        cost: CostClass::L,
        every: 200,
        control: "participation_ratio; 1 for noise with many more rows than dimensions",
        source: "2604.13123: 0.61 where addition modulo 97 generalizes",
        not_for: "generalization: nets reach low values without it",
        bounds: Card::SHARE,
        ..Card::BASE
    },
    Card {
        name: "effective_rank",
        formula: "exp(H)",
        unit: "1",
        axes: "as participation_ratio",
        cost: CostClass::L,
        every: 200,
        control: "participation_ratio, which is never larger",
        source: "Roy and Vetterli 2007",
        not_for: "rank: small eigenvalues count little",
        bounds: Card::SIZE,
        ..Card::BASE
    },
];

impl Instrument for Geometry {
    fn name(&self) -> &'static str {
        "geometry"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let columns = cx.model.config.d_model;
        if columns > PRODUCTS {
            return Ok(());
        }
        let last = cx.model.config.n_layers - 1;
        let site = format!("blocks.{last}.hook_resid_post");
        let stream = cx.train.forward.hook(&site)?;
        let (targets, count) = (cx.train.batch.targets, cx.train.batch.count);
        let w_e = cx.model.need("embed.W_E")?;
        let tokens = cx.model.config.d_vocab;
        let covariances = cx.tape.at_cadence(every, |tape| {
            let rows = tape.shape(targets).len();
            let stream = tape.reshape(stream, &[rows, columns])?;
            let all: Vec<u32> = (0..tokens as u32).collect();
            let (all, number) = (tape.constant_u32(&[tokens], &all), tape.constant(&[1], &[tokens as f32]));
            Ok([covariance(tape, stream, targets, count)?, covariance(tape, w_e, all, number)?])
        })?;
        let layers = [(site.as_str(), last as i32), ("embed.W_E", -1)];
        for (covariance, (site, layer)) in covariances.into_iter().zip(layers) {
            let label = vec![Label { layer, ..Label::NONE }];
            let ratio = cx.tape.at_cadence(every, |tape| tape.push1(Participation, &[covariance]))?;
            cx.record(self, "participation_ratio", site, ratio, 0, label.clone());
            if columns <= EIGENVALUES {
                let entropy = cx.tape.at_cadence(every, |tape| tape.push1(SpectralEntropy, &[covariance]))?;
                cx.record(self, "spectral_entropy", site, entropy, 0, label.clone());
                cx.record(self, "effective_rank", site, entropy, 1, label);
            }
        }
        Ok(())
    }
}

/// Dimensions one workgroup adds the squares of a covariance for, and finds its eigenvalues for, within the
/// loops that software drivers allow.
const PRODUCTS: usize = 2048;
const EIGENVALUES: usize = 232;

/// Sum over the rows of x [N, D] that count of the outer products of what differs from their mean, [D, D].
/// The index [N] is `IGNORE` where a row does not count; `count` says how many do.
fn covariance(tape: &mut Tape, x: Var, index: Var, count: Var) -> Result<Var> {
    let columns = tape.shape(x).rows().1;
    let first = tape.constant_u32(&[1], &[0]);
    let pivot = tape.push1(GatherRows, &[x, first])?;
    let spread = tape.push1(ColumnSpread, &[x, pivot, index])?;
    let centred = tape.push1(CentreRows, &[x, pivot, index, spread, count])?;
    tape.push1(TransposedProduct { dims: vec![columns, columns] }, &[centred, centred])
}

crate::params! {
    struct CentreParams {
        rows: u32, columns: u32, x_replica: u32, pivot_replica: u32, index_replica: u32, spread_replica: u32,
        count_replica: u32, y_replica: u32,
    }
}
static CENTRE_ROWS: Shader<'_> = Shader {
    name: "instrument/geometry/centre_rows",
    source: include_str!("../../../shaders/instrument/geometry/centre_rows.wgsl"),
    knobs: &[],
    params: CentreParams::FIELDS,
};
crate::params! {
    struct SpectrumParams { n: u32, x_replica: u32, out_replica: u32 }
}
static PARTICIPATION: Shader<'_> = Shader {
    name: "instrument/geometry/participation",
    source: include_str!("../../../shaders/instrument/geometry/participation.wgsl"),
    knobs: &[],
    params: SpectrumParams::FIELDS,
};
static SPECTRAL_ENTROPY: Shader<'_> = Shader {
    name: "instrument/geometry/spectral_entropy",
    source: include_str!("../../../shaders/instrument/geometry/spectral_entropy.wgsl"),
    knobs: &[],
    params: SpectrumParams::FIELDS,
};
crate::params! {
    struct TridiagonalParams { n: u32, x_replica: u32, work_replica: u32, out_replica: u32 }
}
static TRIDIAGONAL: Shader<'_> = Shader {
    name: "instrument/geometry/tridiagonal",
    source: include_str!("../../../shaders/instrument/geometry/tridiagonal.wgsl"),
    knobs: &[],
    params: TridiagonalParams::FIELDS,
};
pub(super) const SHADERS: &[&[&Shader<'_>]] =
    &[&[&CENTRE_ROWS, &PARTICIPATION, &SPECTRAL_ENTROPY, &TRIDIAGONAL], alignment::SHADERS];

/// y [N, C] = x less its mean over the rows that count; 0 for the others, and for columns of which no more than rounding is left. Inputs: x, pivot, index, spread
/// (see [`ColumnSpread`]) and the count `[1]`.
struct CentreRows;

impl Op for CentreRows {
    fn name(&self) -> &'static str {
        "centre rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &inputs[0].dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let columns = inputs[1].len();
        let params = CentreParams {
            rows: (inputs[0].len() / columns) as u32,
            columns: columns as u32,
            x_replica: inputs[0].replica_stride,
            pivot_replica: inputs[1].replica_stride,
            index_replica: inputs[2].replica_stride,
            spread_replica: inputs[3].replica_stride,
            count_replica: inputs[4].replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        let grid = grid_1d((inputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&CENTRE_ROWS, &[], &params, &tensors, grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let columns = inputs[1].data.len();
        vec![Array::from_fn(&inputs[0].dims, |at| {
            let c = at % columns;
            let counts = inputs[2].data[at / columns] != f64::from(crate::autograd::ops::IGNORE);
            let spread = |row: usize| inputs[3].data[row * columns + c];
            let (mean, left) = (spread(0) / inputs[4].data[0], spread(1) - spread(0).powi(2) / inputs[4].data[0]);
            let varies = left > ROUNDING * spread(2);
            if counts && varies { inputs[0].data[at] - inputs[1].data[c] - mean } else { 0.0 }
        })]
    }
}

fn square(op: &'static str, shape: &Shape, most: usize) -> Result<usize> {
    match shape.dims[..] {
        [n, m] if n == m && n <= most => Ok(n),
        _ => Err(misfit(op, format!("{:?}; square matrices up to {most} are taken", shape.dims))),
    }
}

/// `[1]`: (tr x)² / ‖x‖² of a symmetric x [n, n]; the trace itself where it is no finite number.
struct Participation;

impl Op for Participation {
    fn name(&self) -> &'static str {
        "participation ratio"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        square("participation ratio", inputs[0], PRODUCTS)?;
        Ok(vec![inputs[0].with_dims(&[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let n = inputs[0].dims[0] as u32;
        let params = SpectrumParams { n, x_replica: inputs[0].replica_stride, out_replica: outputs[0].replica_stride };
        cx.dispatch(&PARTICIPATION, &[], &params, &[&inputs[0], &outputs[0]], [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = inputs[0].dims[0];
        let trace: f64 = (0..n).map(|i| inputs[0].data[i * n + i]).sum();
        let squares: f64 = inputs[0].data.iter().map(|x| x * x).sum();
        let ratio = if squares > 0.0 { trace * trace / squares } else { 0.0 };
        vec![Array::new(&[1], vec![if trace.is_finite() { ratio } else { trace }])]
    }
}

/// [2]: entropy of the eigenvalues' shares over ln n, and its exponential, of a covariance x [n, n]; 0 and 1
/// where nothing varies, and both the trace where that is no finite number.
struct SpectralEntropy;

impl Op for SpectralEntropy {
    fn name(&self) -> &'static str {
        "spectral entropy"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        square("spectral entropy", inputs[0], EIGENVALUES)?;
        Ok(vec![inputs[0].with_dims(&[2])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let n = inputs[0].dims[0];
        let (work, bands) = (cx.scratch(&[n, n]), cx.scratch(&[2, n]));
        let params = TridiagonalParams {
            n: n as u32,
            x_replica: inputs[0].replica_stride,
            work_replica: work.replica_stride,
            out_replica: bands.replica_stride,
        };
        cx.dispatch(&TRIDIAGONAL, &[], &params, &[&inputs[0], &work, &bands], [1, 1, cx.replicas])?;
        let params =
            SpectrumParams { n: n as u32, x_replica: bands.replica_stride, out_replica: outputs[0].replica_stride };
        cx.dispatch(&SPECTRAL_ENTROPY, &[], &params, &[&bands, &outputs[0]], [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = inputs[0].dims[0];
        let trace: f64 = (0..n).map(|i| inputs[0].data[i * n + i]).sum();
        if !trace.is_finite() {
            return vec![Array::new(&[2], vec![trace; 2])];
        }
        let values = eigenvalues(inputs[0].data.clone(), n);
        let whole: f64 = values.iter().map(|l| l.max(0.0)).sum();
        let shares = values.iter().map(|l| l.max(0.0) / whole.max(1e-300)).filter(|p| *p > 0.0);
        let entropy: f64 = shares.map(|p| -p * p.ln()).sum();
        vec![Array::new(&[2], vec![entropy / (n.max(2) as f64).ln(), entropy.exp()])]
    }
}

/// Eigenvalues of a symmetric matrix by Jacobi's rotations.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for _ in 0..30 {
        for p in 0..n {
            for q in p + 1..n {
                let beside = a[p * n + q];
                if beside.abs() < 1e-300 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * beside);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for i in 0..n {
                    let (x, y) = (a[i * n + p], a[i * n + q]);
                    (a[i * n + p], a[i * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for i in 0..n {
                    let (x, y) = (a[p * n + i], a[q * n + i]);
                    (a[p * n + i], a[q * n + i]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        if off <= 1e-24 * a.iter().map(|x| x * x).sum::<f64>() {
            break;
        }
    }
    (0..n).map(|i| a[i * n + i]).collect()
}

pub(super) const INSTRUMENTS: &[&dyn Instrument] = &[&Geometry, &alignment::Alignment];

pub(super) const CHECKS: &[&[(&str, Build)]] = &[
    alignment::CHECKS,
    &[("covariance spectrum", |c| {
        let (x, index) = (c.owned(&[200, 31]), c.indices(&[200], 7, true));
        let count = c.tape.constant(&[1], &[200.0]);
        let covariance = covariance(&mut c.tape, x, index, count)?;
        let ratio = c.tape.push1(Participation, &[covariance])?;
        Ok((vec![c.tape.push1(SpectralEntropy, &[covariance])?, ratio], Vec::new()))
    })],
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::autograd::ops::IGNORE;

    /// Ratio and entropies of rows of which every seventh does not count.
    fn measured(case: &mut Case, x: Var, rows: usize) -> [Var; 2] {
        let index: Vec<u32> = (0..rows as u32).map(|i| if i % 7 == 3 { IGNORE } else { i }).collect();
        let count = index.iter().filter(|i| **i != IGNORE).count() as f32;
        let (index, count) = (case.tape.constant_u32(&[rows], &index), case.tape.constant(&[1], &[count]));
        let covariance = covariance(&mut case.tape, x, index, count).unwrap();
        let ratio = case.tape.push1(Participation, &[covariance]).unwrap();
        [ratio, case.tape.push1(SpectralEntropy, &[covariance]).unwrap()]
    }

    #[test]
    fn spectra_match_their_reference() {
        for (rows, columns) in [(9, 1), (40, 3), (20, 31), (300, 31), (100, 64), (50, 129), (240, EIGENVALUES)] {
            let mut case = Case::new(&format!("spectrum {rows} {columns}"));
            let x = case.owned(&[rows, columns]);
            let out = measured(&mut case, x, rows);
            // Eigenvalues to 1e-6 of the largest; their logarithms weigh small ones little.
            case.agree(&out, 2e-5);
        }
    }

    #[test]
    fn what_is_no_number_has_no_spectrum() {
        // One entry of the first replica is not finite; or all are, and their squares are not.
        for broken in [f32::NAN, f32::INFINITY, -3e38] {
            let mut case = Case::new("no numbers");
            let value = |at: usize| match (at, broken.is_finite()) {
                (7, false) => broken,
                (_, true) => broken * (at as f32).sin(),
                _ => (at as f32).sin(),
            };
            let data: Vec<f32> = (0..40 * 9).map(value).collect();
            let x = case.tape.constant(&[40, 9], &data);
            let out = measured(&mut case, x, 40);
            for gpu in gpus() {
                let found = case.run(gpu, &out).unwrap().concat().concat();
                assert!(found.len() == 3 && found.iter().all(|x| !x.is_finite()), "{broken}: {found:?}");
            }
        }
    }

    #[test]
    fn rows_that_vary_evenly_along_some_directions_count_those() {
        // ±1 along each of `directions` axes of 16, far from the origin; rows that do not count lie elsewhere.
        for directions in [1, 2, 5, 16] {
            let rows: Vec<usize> = (0..2 * directions).collect();
            let padded = 7 * rows.len();
            let value = |row: usize, c: usize| match row % 7 {
                3 => 1e3 * (row * c) as f32,
                _ if c == rows[row / 7] / 2 => 50.0 + if rows[row / 7].is_multiple_of(2) { 1.0 } else { -1.0 },
                _ => 50.0,
            };
            let data: Vec<f32> = (0..padded * 16).map(|at| value(at / 16, at % 16)).collect();
            let mut case = Case::new("directions");
            let x = case.tape.constant(&[padded, 16], &data);
            let out = measured(&mut case, x, padded);
            for gpu in gpus() {
                let found = case.run(gpu, &out).unwrap().concat().concat();
                let expected = [directions as f32, (directions as f32).ln() / 16f32.ln(), directions as f32];
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-3, "{directions}: {found} instead of {expected}");
                }
            }
        }
    }
}
