//! How alike what heads write and what layers hold is: unbiased linear CKA, beside what the same gives where the examples of
//! one of the two are dealt out anew.

use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{GatherColumns, Gram, HeadResult, IGNORE};
use crate::autograd::{Array, DType, Lower, Op, Shape, Tape, Var, like, like_u32};
use crate::error::Result;
use crate::gpu::{Params, Philox, Shader, Stream, Tensor, grid_1d};
use crate::instrument::heads::synchronization::HeadProducts;
use crate::instrument::{Attach, Card, CostClass, Index, Instrument, Label, Presence, ROUNDING, UNKNOWN};
use crate::model::ReadOut;

/// `cka` and `cka.null`.
pub(crate) struct Alignment;

/// Predictions that are compared, and positions of a sequence that are taken of those that are read at all.
const EXAMPLES: usize = 128;
const POSITIONS: usize = 4;
/// Most rows that the kernels take.
const MOST: usize = 256;

const CARDS: &[Card] = &[
    Card {
        name: "cka",
        formula: "HSIC₁(K, L) / sqrt(HSIC₁(K, K) HSIC₁(L, L)) of the Gram matrices K = X Xᵀ of two of these over 128 predictions of the training batch: what a head writes (hook_result), what a layer leaves (hook_resid_post)",
        unit: "1",
        axes: "index: pair (s, t) with s < t of heads and layers, of each layer its heads and then its stream; those of t behind those of t - 1",
        cost: CostClass::L,
        every: 50,
        control: "cka.null, pair by pair; 1 for the same but for rotation, scale and what is added to every example",
        source: "Kornblith et al. 2019 with HSIC₁ of Song et al. 2012, whose mean is 0 where two have nothing to do with each other, however wide they are (Nguyen, Raghu and Kornblith 2021)",
        not_for: "computing alike: heads that write the same directions for the same inputs are alike, whoever reads them. The first 128 examples of the batch, of long sequences 4 positions of each, which are not independent; examples drawn twice count twice. What is the same for all examples has no row; runs of so many replicas that their Gram matrices exceed half of what the device binds have none",
        bounds: Card::COSINE,
        index: Index::PairsOfParts,
        ..Card::BASE
    },
    Card {
        name: "cka.null",
        formula: "cka of s with t, whose examples are dealt out anew among each other, the same way in every run",
        unit: "1",
        axes: "index: pair (s, t), as cka",
        cost: CostClass::L,
        every: 50,
        control: "it is the control: one draw for each pair and step, with mean 0; all draws of a run together say how wide chance is",
        source: "definition",
        not_for: "a p-value of one pair at one step: it is one draw",
        bounds: Card::COSINE,
        index: Index::PairsOfParts,
        ..Card::BASE
    },
];

impl Instrument for Alignment {
    fn name(&self) -> &'static str {
        "alignment"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence(self) else { return Ok(()) };
        let (model, train, read) = (cx.model, cx.train, cx.task.shape().read);
        let (config, batch) = (&model.config, &train.batch);
        // Squares of everything, once as it is and once dealt out anew, are one activation.
        if !cx.pieces.hold(2 * config.n_layers * (config.n_heads + 1) * EXAMPLES * EXAMPLES) {
            return Ok(());
        }
        let candidates = candidates(batch.size, batch.seq, read);
        let (heads, width, depth) = (config.n_heads, config.d_head, config.d_model);
        let mut parts = Vec::new();
        for layer in 0..config.n_layers {
            let [z, stream] =
                ["attn.hook_z", "hook_resid_post"].map(|name| train.forward.hook(&format!("blocks.{layer}.{name}")));
            let w_o = model.need(&format!("blocks.{layer}.attn.W_O"))?;
            parts.push((z?, w_o, stream?));
        }
        let found = cx.tape.at_cadence(every, |tape| {
            let [order, shuffled, count] = present(tape, batch.targets, &candidates)?;
            let mut features = Vec::new();
            for rows in [order, shuffled] {
                for (z, w_o, stream) in &parts {
                    let z = rows_of(tape, *z, batch.targets, rows, heads * width)?;
                    let z = tape.reshape(z, &[candidates.len(), 1, heads, width])?;
                    features.push((tape.push1(HeadResult, &[z, *w_o])?, heads));
                    features.push((rows_of(tape, *stream, batch.targets, rows, depth)?, 1));
                }
            }
            alignments(tape, &features, count)
        })?;
        let pairs = cx.tape.shape(found).dims[1];
        for (at, name) in ["cka", "cka.null"].into_iter().enumerate() {
            let labels = Label::indices(0..pairs as i32);
            cx.record_where(Presence::WhereKnown, self, name, "", found, at * pairs, labels);
        }
        Ok(())
    }
}

/// Predictions that may be compared, as rows of the targets; so many whatever the batch, so that company changes no sum.
fn candidates(batch: usize, seq: usize, read: ReadOut) -> Vec<u32> {
    let positions = if read == ReadOut::All { seq.min(POSITIONS) } else { 1 };
    let stretch = if read == ReadOut::All { seq / positions } else { 1 };
    let row = |at: usize| {
        let (example, part) = (at / positions, at % positions);
        let position = part * stretch + example * 5 % stretch;
        let row = if read == ReadOut::All { example * seq + position } else { example };
        if example < batch { row as u32 } else { IGNORE }
    };
    (0..EXAMPLES).map(row).collect()
}

/// Candidates that count, in their order and in a random one, and how many they are: `[N]`, `[N]`, `[1]`.
pub(crate) fn present(tape: &mut Tape, targets: Var, candidates: &[u32]) -> Result<[Var; 3]> {
    let draw = Philox::new(0, Stream::Shuffle, 0);
    let keys: Vec<u32> = (0..candidates.len()).map(|at| draw.below(at as u64, 1 << 31)).collect();
    let [candidates, keys] = [candidates, &keys].map(|list| tape.constant_u32(&[list.len()], list));
    match tape.push(Present, &[targets, candidates, keys])?[..] {
        [order, shuffled, count] => Ok([order, shuffled, count]),
        _ => Err(misfit("present rows", "outputs")),
    }
}

/// Rows [N, width] of x by the numbers of their targets. Where a layer has rows for positions that are not read, that of the last
/// position.
fn rows_of(tape: &mut Tape, x: Var, targets: Var, rows: Var, width: usize) -> Result<Var> {
    let (count, len) = (tape.shape(targets).len(), tape.shape(x).len());
    let table = tape.reshape(x, &[count, len / count])?;
    tape.push1(GatherColumns { first: len / count - width, width }, &[table, rows])
}

/// CKA of all pairs of parts, and their null, [2, pairs]: of features [N, parts, D], given once in order and once more with
/// their examples in another one.
fn alignments(tape: &mut Tape, features: &[(Var, usize)], count: Var) -> Result<Var> {
    let rows = tape.shape(features[0].0).dims[0];
    let mut grams = Vec::new();
    for (x, heads) in features {
        let columns = tape.shape(*x).len() / rows;
        let x = tape.reshape(*x, &[rows, columns])?;
        let pivoted = tape.push1(PivotRows, &[x])?;
        let gram = tape.push1(Gram { batch: 1, heads: *heads, columns }, &[pivoted])?;
        grams.push(tape.reshape(gram, &[*heads, rows, rows])?);
    }
    grams.push(count);
    let centred = tape.push1(UCentre, &grams)?;
    let products = tape.push1(HeadProducts, &[centred])?;
    tape.push1(Alignments, &[products])
}

crate::params! {
    struct PresentParams {
        n: u32, targets_replica: u32, candidates_replica: u32, keys_replica: u32, order_replica: u32,
        shuffled_replica: u32, count_replica: u32,
    }
}
static PRESENT_ROWS: Shader<'_> = Shader {
    name: "instrument/geometry/present_rows",
    source: include_str!("../../../shaders/instrument/geometry/present_rows.wgsl"),
    knobs: &[],
    params: PresentParams::FIELDS,
};
crate::params! {
    struct PivotParams { len: u32, columns: u32, x_replica: u32, y_replica: u32 }
}
static PIVOT_ROWS: Shader<'_> = Shader {
    name: "instrument/geometry/pivot_rows",
    source: include_str!("../../../shaders/instrument/geometry/pivot_rows.wgsl"),
    knobs: &[],
    params: PivotParams::FIELDS,
};
crate::params! {
    struct UCentreParams { n: u32, first: u32, x_replica: u32, count_replica: u32, y_replica: u32 }
}
static U_CENTRE: Shader<'_> = Shader {
    name: "instrument/geometry/u_centre",
    source: include_str!("../../../shaders/instrument/geometry/u_centre.wgsl"),
    knobs: &[],
    params: UCentreParams::FIELDS,
};
crate::params! {
    struct AlignmentsParams { count: u32, pairs: u32, products_replica: u32, out_replica: u32 }
}
static ALIGNMENTS: Shader<'_> = Shader {
    name: "instrument/geometry/alignments",
    source: include_str!("../../../shaders/instrument/geometry/alignments.wgsl"),
    knobs: &[],
    params: AlignmentsParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&PRESENT_ROWS, &PIVOT_ROWS, &U_CENTRE, &ALIGNMENTS];

/// Which of the candidates `[N]` have a target that counts: their rows in order, the same in the order of keys `[N]`, and how
/// many they are, `[1]`. Behind the last stands 0. Inputs: targets, candidates, keys.
struct Present;

impl Op for Present {
    fn name(&self) -> &'static str {
        "present rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let n = inputs[1].len();
        if n > MOST || inputs[2].len() != n || inputs.iter().any(|input| input.dtype != DType::U32) {
            return Err(misfit("present rows", format!("{n} candidates, {} keys", inputs[2].len())));
        }
        let rows = like_u32(inputs, &[n]);
        Ok(vec![rows.clone(), rows, like(inputs, &[1])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = PresentParams {
            n: inputs[1].len() as u32,
            targets_replica: inputs[0].replica_stride,
            candidates_replica: inputs[1].replica_stride,
            keys_replica: inputs[2].replica_stride,
            order_replica: outputs[0].replica_stride,
            shuffled_replica: outputs[1].replica_stride,
            count_replica: outputs[2].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&PRESENT_ROWS, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let none = f64::from(IGNORE);
        let counts = |row: f64| row != none && inputs[0].data[row as usize] != none;
        let keyed = inputs[1].data.iter().zip(&inputs[2].data);
        let mut present: Vec<(f64, f64)> =
            keyed.map(|(row, key)| (*row, *key)).filter(|(row, _)| counts(*row)).collect();
        let n = inputs[1].data.len();
        let padded = |present: &[(f64, f64)]| Array::from_fn(&[n], |at| present.get(at).map_or(0.0, |one| one.0));
        let order = padded(&present);
        present.sort_by(|a, b| a.1.total_cmp(&b.1));
        vec![order, padded(&present), Array::new(&[1], vec![present.len() as f64])]
    }
}

/// y [N, C] = x less its first row, which changes no centred Gram matrix and keeps its precision; 0 where that is rounding.
struct PivotRows;

impl Op for PivotRows {
    fn name(&self) -> &'static str {
        "pivot rows"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let columns = x.dims[1] as u32;
        let params =
            PivotParams { len: x.len() as u32, columns, x_replica: x.replica_stride, y_replica: y.replica_stride };
        cx.dispatch(&PIVOT_ROWS, &[], &params, &[x, y], grid_1d((x.len() as u64).div_ceil(64), cx.replicas))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, columns) = (&inputs[0].data, inputs[0].dims[1]);
        vec![Array::from_fn(&inputs[0].dims, |at| {
            let (own, pivot) = (x[at], x[at % columns]);
            let size = own.abs().max(pivot.abs());
            let rounding = size.is_finite() && (own - pivot).powi(2) <= ROUNDING * size * size;
            if rounding { 0.0 } else { own - pivot }
        })]
    }
}

/// Lists of Gram matrices [.., N, N], one behind the other, [S, N, N], with means of rows and columns taken away so that products of two of them are N (N - 3) times HSIC₁
/// (the U-centring of Székely and Rizzo 2014), over the first `count` examples. Inputs: lists, count `[1]`.
struct UCentre;

impl Op for UCentre {
    fn name(&self) -> &'static str {
        "U-centre"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (lists, n) = (&inputs[..inputs.len() - 1], inputs[0].dims[1]);
        if n > MOST || lists.iter().any(|list| list.dims[1..] != [n, n]) {
            return Err(misfit("U-centre", format!("{:?}; squares up to {MOST} are taken", inputs[0].dims)));
        }
        Ok(vec![like(inputs, &[lists.iter().map(|list| list.dims[0]).sum(), n, n])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [lists @ .., count] = inputs else { return Err(misfit("U-centre", "no inputs")) };
        let mut first = 0;
        for list in lists {
            let params = UCentreParams {
                n: list.dims[1] as u32,
                first,
                x_replica: list.replica_stride,
                count_replica: count.replica_stride,
                y_replica: outputs[0].replica_stride,
            };
            let grid = [list.dims[0] as u32, 1, cx.replicas];
            cx.dispatch(&U_CENTRE, &[], &params, &[list, count, &outputs[0]], grid)?;
            first += list.len() as u32;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, here) = (inputs[0].dims[1], inputs[inputs.len() - 1].data[0] as usize);
        let count = here as f64;
        let of_matrix = |x: &[f64]| {
            let row = |i: usize| (0..here).filter(|j| *j != i).map(|j| x[i * n + j]).sum::<f64>();
            let rows: Vec<f64> = (0..here).map(row).collect();
            let total: f64 = rows.iter().sum();
            let entry = |at: usize| {
                let (i, j) = (at / n, at % n);
                let inside = i < here && j < here && i != j && here > 3;
                let means = || (rows[i] + rows[j]) / (count - 2.0) - total / ((count - 1.0) * (count - 2.0));
                if inside { x[at] - means() } else { 0.0 }
            };
            (0..n * n).map(entry).collect::<Vec<_>>()
        };
        let lists = &inputs[..inputs.len() - 1];
        let all: Vec<f64> = lists.iter().flat_map(|list| list.data.chunks_exact(n * n)).flat_map(of_matrix).collect();
        vec![Array::new(&[all.len() / (n * n), n, n], all)]
    }
}

/// Cosines of pairs of S matrices, and of each with the second of a pair in another order of examples, [2, S (S - 1)/2], from
/// the products of all 2 S, [1, 2 S, 2 S], upper triangle. Pairs (s, t) are ordered by t and then s.
struct Alignments;

impl Op for Alignments {
    fn name(&self) -> &'static str {
        "alignments"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        match inputs[0].dims[..] {
            [1, all, same] if all == same && all >= 4 && all % 2 == 0 => {
                Ok(vec![inputs[0].with_dims(&[2, all / 2 * (all / 2 - 1) / 2])])
            }
            _ => Err(misfit("alignments", format!("{:?}", inputs[0].dims))),
        }
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let pairs = outputs[0].dims[1] as u32;
        let params = AlignmentsParams {
            count: inputs[0].dims[1] as u32 / 2,
            pairs,
            products_replica: inputs[0].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        cx.dispatch(&ALIGNMENTS, &[], &params, &[&inputs[0], &outputs[0]], [pairs.div_ceil(64), 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let all = inputs[0].dims[1];
        let (count, products) = (all / 2, &inputs[0].data);
        let cosine = |s: usize, t: usize| {
            let [a, b] = [s, t].map(|at| products[at * (all + 1)]);
            match (a + b).is_finite() {
                false => a + b,
                true if a > 0.0 && b > 0.0 => products[s * all + t] / (a.sqrt() * b.sqrt()),
                true => f64::from(UNKNOWN),
            }
        };
        let pairs: Vec<(usize, usize)> = (1..count).flat_map(|t| (0..t).map(move |s| (s, t))).collect();
        let plain = pairs.iter().map(|(s, t)| cosine(*s, *t));
        let null = pairs.iter().map(|(s, t)| cosine(*s, count + t));
        vec![Array::new(&[2, pairs.len()], plain.chain(null).collect())]
    }
}

pub(super) const CHECKS: &[(&str, Build)] = &[("alignment", |c| {
    let (heads, stream) = (c.owned(&[40, 3, 9]), c.owned(&[40, 1, 9]));
    let (again, other) = (c.owned(&[40, 3, 9]), c.owned(&[40, 1, 9]));
    let targets = c.indices(&[40], 7, true);
    let candidates: Vec<u32> = (0..40).collect();
    let [.., count] = present(&mut c.tape, targets, &candidates)?;
    Ok((vec![alignments(&mut c.tape, &[(heads, 3), (stream, 1), (again, 3), (other, 1)], count)?], Vec::new()))
})];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};
    use crate::stats::{cka, gram};

    /// Features of an example and a column, of order 1 and without any pattern.
    fn value(seed: u64, at: u64) -> f32 {
        let draw = Philox::new(seed, Stream::Probe, 0);
        (0..4).map(|i| draw.below(4 * at + i, 1000) as f32 / 1000.0 - 0.5).sum()
    }

    fn features(seed: u64, rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|at| value(seed, at as u64)).collect()
    }

    /// Alignments and null of parts [N, D] whose first `count` examples count, on every device: `[device][2 pairs]`. The second
    /// list holds the same with examples in another order.
    fn measured(parts: &[Vec<f32>], again: &[Vec<f32>], rows: usize, count: usize) -> Vec<Vec<f32>> {
        let mut case = Case::new("alignment");
        let all: Vec<(Var, usize)> =
            parts.iter().chain(again).map(|x| (case.tape.constant(&[rows, x.len() / rows], x), 1)).collect();
        let count = case.tape.constant(&[1], &[count as f32]);
        let found = alignments(&mut case.tape, &all, count).unwrap();
        gpus().iter().map(|gpu| case.run(gpu, &[found]).unwrap()[0][0].clone()).collect()
    }

    fn by_stats(a: &[f32], b: &[f32], rows: usize, count: usize) -> f64 {
        let of = |x: &[f32]| {
            let width = x.len() / rows;
            gram(&x[..count * width].iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), count).unwrap()
        };
        cka(&of(a), &of(b), count).unwrap()
    }

    #[test]
    fn alignment_matches_its_reference() {
        for (rows, heads, columns) in [(4, 1, 1), (5, 3, 1), (31, 2, 3), (64, 4, 31), (128, 3, 64), (256, 2, 257)] {
            let mut case = Case::new(&format!("alignment {rows} {heads} {columns}"));
            let sets = [heads, 1, heads, 1].map(|heads| (case.owned(&[rows, heads, columns]), heads));
            let targets: Vec<u32> = (0..rows as u32).map(|at| if at % 9 == 7 { IGNORE } else { 1 }).collect();
            let targets = case.tape.constant_u32(&[rows], &targets);
            let candidates: Vec<u32> = (0..rows as u32).collect();
            let [.., count] = present(&mut case.tape, targets, &candidates).unwrap();
            let found = alignments(&mut case.tape, &sets, count).unwrap();
            // Sums of up to 65,000 products of numbers that are sums of up to 257: 1e-5 of the largest, which is 1 at most.
            case.agree(&[found], 2e-5);
        }
    }

    #[test]
    fn which_rows_count_and_in_which_order_matches_its_reference() {
        for n in [1, 3, 31, 64, 256] {
            let mut case = Case::new(&format!("present {n}"));
            let targets: Vec<u32> = (0..2 * n as u32).map(|at| if at % 5 == 2 { IGNORE } else { at % 7 }).collect();
            let targets = case.tape.constant_u32(&[2 * n], &targets);
            let candidates: Vec<u32> =
                (0..n as u32).map(|at| if at % 11 == 10 { IGNORE } else { (at * 2 + 1) % (2 * n as u32) }).collect();
            let [order, shuffled, count] = present(&mut case.tape, targets, &candidates).unwrap();
            for gpu in gpus() {
                let found = case.run(gpu, &[order, shuffled, count]).unwrap();
                let expected = case.reference(0, &[order, shuffled, count]).unwrap();
                let bits = |at: usize| found[at][0].iter().map(|x| f64::from(x.to_bits())).collect::<Vec<_>>();
                assert_eq!([bits(0), bits(1)], [expected[0].data.clone(), expected[1].data.clone()]);
                assert_eq!(f64::from(found[2][0][0]), expected[2].data[0]);
                // Another order of the same rows.
                let mut sorted = [bits(0), bits(1)];
                sorted.iter_mut().for_each(|rows| rows.sort_by(f64::total_cmp));
                assert_eq!(sorted[0], sorted[1]);
                assert!(n < 31 || bits(0) != bits(1));
            }
        }
    }

    #[test]
    fn it_is_the_cka_of_the_statistics() {
        // Rows behind the count hold what must not count.
        let (rows, count) = (40, 33);
        let a = features(1, rows, 6);
        let mixed: Vec<f32> = (0..rows * 4).map(|at| a[at / 4 * 6 + at % 4] + 0.7 * value(2, at as u64)).collect();
        let parts = [a, mixed, features(3, rows, 90)];
        let again = [features(4, rows, 6), features(5, rows, 4), features(6, rows, 90)];
        let pairs = [(0, 1), (0, 2), (1, 2)];
        for found in measured(&parts, &again, rows, count) {
            for (at, (s, t)) in pairs.into_iter().enumerate() {
                for (found, other) in [(found[at], &parts[t]), (found[3 + at], &again[t])] {
                    let expected = by_stats(&parts[s], other, rows, count);
                    assert!((f64::from(found) - expected).abs() < 1e-5, "{s} {t}: {found} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn rotation_scale_what_is_added_to_all_and_the_order_of_examples_change_nothing() {
        let (rows, columns) = (48, 8);
        let [a, b] = [1, 2].map(|seed| features(seed, rows, columns));
        let b: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let turned = |x: &[f32]| -> Vec<f32> {
            // Householder's reflection by a vector of ones, times 300, and far from the origin.
            let row = |row: &[f32]| {
                let mean = row.iter().sum::<f32>() / columns as f32;
                row.iter().map(|x| 300.0 * (x - 2.0 * mean) + 5000.0).collect::<Vec<_>>()
            };
            x.chunks(columns).flat_map(row).collect()
        };
        let reversed = |x: &[f32]| x.chunks(columns).rev().flatten().copied().collect::<Vec<f32>>();
        let of = |a: Vec<f32>, b: Vec<f32>| measured(&[a.clone(), b.clone()], &[a, b], rows, rows);
        let plain = of(a.clone(), b.clone());
        for changed in [of(turned(&a), b.clone()), of(a.clone(), turned(&b)), of(reversed(&a), reversed(&b))] {
            for (plain, changed) in plain.iter().zip(&changed) {
                // 5,000 is rounded to 2e-4 beside differences of 300: some 1e-6 of each.
                assert!((plain[0] - changed[0]).abs() < 2e-5, "{} and {}", plain[0], changed[0]);
                assert!(plain[0] > 0.3 && plain[0] < 0.9);
            }
        }
        for same in of(a.clone(), turned(&a)) {
            assert!((same[0] - 1.0).abs() < 2e-5, "{}", same[0]);
        }
    }

    #[test]
    fn examples_dealt_out_anew_have_a_mean_of_nothing_however_wide_they_are() {
        // Eighty features of twenty examples: the biased estimate is near 1.
        let (rows, columns) = (20, 80);
        let mut null = Vec::new();
        for seed in 0..60 {
            let x = features(seed, rows, columns);
            let order = |at: usize| (at * 7 + 3 + seed as usize) % rows;
            let dealt: Vec<f32> =
                (0..rows * columns).map(|at| x[order(at / columns) * columns + at % columns]).collect();
            null.push(f64::from(measured(&[x.clone(), x.clone()], &[dealt.clone(), dealt], rows, rows)[0][1]));
        }
        let mean = null.iter().sum::<f64>() / null.len() as f64;
        let spread = (null.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (null.len() - 1) as f64).sqrt();
        // One direction of chance for each of twenty examples: 1/√(n (n - 3)/2), about 0.077; and a mean of 0 to four errors.
        assert!(mean.abs() < 4.0 * spread / (null.len() as f64).sqrt(), "{mean} ± {spread}");
        assert!((0.04..0.15).contains(&spread), "{spread}");
    }

    #[test]
    fn what_is_the_same_for_all_examples_is_like_nothing() {
        let rows = 20;
        let noise = features(1, rows, 3);
        let still: Vec<f32> = (0..rows * 3).map(|at| 1000.0 + (at % 3) as f32 + 1e-4 * (at % 2) as f32).collect();
        for found in measured(&[noise.clone(), still.clone()], &[noise.clone(), still], rows, rows) {
            assert_eq!(found, [UNKNOWN; 2]);
        }
        // Three examples are too few for any.
        for found in measured(&[noise.clone(), noise.clone()], &[noise.clone(), noise.clone()], rows, 3) {
            assert_eq!(found, [UNKNOWN; 2]);
        }
        let mut broken = noise.clone();
        broken[5] = f32::NAN;
        for found in measured(&[noise.clone(), broken.clone()], &[noise, broken], rows, rows) {
            assert!(found.iter().all(|x| !x.is_finite()), "{found:?}");
        }
    }
}
