//! Whether examples pull the same way: signs of gradients at the outputs of layers, and gradients of examples of one class and of
//! different ones, each beside what chance gives.

use super::noise::{Beside, sites};
use super::norms::layer_of;
use crate::autograd::check::Build;
use crate::autograd::op::misfit;
use crate::autograd::ops::{GatherColumns, Gram, IGNORE, sum_columns};
use crate::autograd::{Array, Lower, Op, Shape, Tape, Var, like};
use crate::error::Result;
use crate::gpu::{Params, Philox, Shader, Stream, Tensor, grid_1d};
use crate::instrument::geometry::alignment::present;
use crate::instrument::{Attach, Card, Chance, CostClass, Index, Instrument, Label, Presence, UNKNOWN};
use crate::model::ReadOut;

/// `sign_agreement` and `class_agreement`.
pub(crate) struct Agreement;

/// Examples in pairs at most, and rows of theirs.
const EXAMPLES: usize = 128;
const ROWS: usize = 512;
/// Rows whose signs one invocation counts: software drivers end loops after 65,535 rounds.
const MOST: usize = 60_000;

const CARDS: &[Card] = &[
    Card {
        name: "sign_agreement",
        formula: "mean over the elements e of ∂L/∂h of |Σ sign g| / n, over the n examples of the batch whose g at e is not 0",
        unit: "1",
        axes: "site: hook h; layer, -1 for logits; index: 0 as it is, 1 with each sign turned by chance",
        cost: CostClass::L,
        every: 100,
        control: "index 1: about √(2/(π n)) where examples have nothing to do with each other; 1 where all agree",
        source: "definition, of the gradients that enter biases and weights",
        not_for: "single weights, whose gradients by example are not formed; sizes, which class_agreement weighs",
        bounds: Card::SHARE,
        gradients: true,
        index: Index::Names(&["as it is", "signs turned by chance"]),
        ..Card::BASE
    },
    Card {
        name: "class_agreement",
        formula: "mean cos(g_i, g_j) over pairs of different examples of one class, and of different classes; g_i an example's gradient of the tensor",
        unit: "1",
        axes: "site: tensor; layer; index: 0 one class, 1 different classes, 2 and 3 the same with the classes dealt out anew",
        cost: CostClass::L,
        every: 100,
        control: "index 2 and 3: classes that mean nothing; below 0 where examples pull against each other, which those of different classes do",
        source: "stiffness, Fort et al. 2019, by the Gram identity: ⟨g_i, g_j⟩ = Σ (a · a')(δ · δ')",
        not_for: "tasks that predict at every position, whose examples have no class. The first examples of the batch, at most 128; embeddings, biases and weights of norms are left out",
        bounds: Card::COSINE,
        chance: Some(Chance::At(0.0)),
        gradients: true,
        index: Index::Names(&[
            "one class",
            "different classes",
            "one class, dealt anew",
            "different classes, dealt anew",
        ]),
    },
];

impl Instrument for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn cards(&self) -> &'static [Card] {
        CARDS
    }

    fn attach(&self, cx: &mut Attach<'_>) -> Result<()> {
        if cx.task.shape().read != ReadOut::Last {
            return Ok(());
        }
        self.attach_signs(cx)?;
        self.attach_classes(cx)
    }
}

impl Agreement {
    fn attach_signs(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence_of(self, &["sign_agreement"]) else { return Ok(()) };
        let (train, layers) = (cx.train, cx.model.config.n_layers);
        let mut hooks: Vec<(String, i32)> = Vec::new();
        for layer in 0..layers {
            for name in ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "mlp.hook_pre", "hook_resid_post"]
            {
                hooks.push((format!("blocks.{layer}.{name}"), layer as i32));
            }
        }
        hooks.push(("logits".to_owned(), -1));
        for (hook, layer) in hooks {
            let Some(gradient) = train.gradients.get(&hook).copied().filter(|_| train.batch.size <= MOST) else {
                continue;
            };
            let rows = train.batch.size;
            let found = cx.tape.at_cadence(every, |tape| {
                let columns = tape.shape(gradient).len() / rows;
                let gradient = tape.reshape(gradient, &[rows, columns])?;
                tape.push1(SignAgreement, &[gradient])
            })?;
            let labels = [0, 1].map(|index| Label { layer, head: -1, index }).to_vec();
            cx.record(self, "sign_agreement", &hook, found, 0, labels);
        }
        Ok(())
    }

    fn attach_classes(&self, cx: &mut Attach<'_>) -> Result<()> {
        let Some(every) = cx.cadence_of(self, &["class_agreement"]) else { return Ok(()) };
        let (model, train) = (cx.model, cx.train);
        let batch = &train.batch;
        let examples = (ROWS / batch.seq).min(EXAMPLES);
        if examples < 4 {
            return Ok(());
        }
        let candidates: Vec<u32> = (0..examples).map(|at| if at < batch.size { at as u32 } else { IGNORE }).collect();
        let found = cx.tape.at_cadence(every, |tape| {
            let [order, shuffled, count] = present(tape, batch.targets, &candidates)?;
            let mut found = Vec::new();
            for site in sites(tape, model, train) {
                let (Beside::Rows(beside), true) = (site.beside, train.gradients.contains_key(&site.tensor)) else {
                    continue;
                };
                let [of, beside] = [site.of, beside].map(|x| gram_of(tape, x, (batch.size, examples), order));
                let products = tape.push1(PairProducts { examples }, &[of?, beside?])?;
                let inputs = [products, batch.targets, order, shuffled, count];
                found.push((site.tensor, tape.push1(ClassPairs, &inputs)?));
            }
            Ok(found)
        })?;
        for (tensor, found) in found {
            let labels = (0..4).map(|index| Label { layer: layer_of(&tensor), head: -1, index }).collect();
            cx.record_where(Presence::WhereKnown, self, "class_agreement", &tensor, found, 0, labels);
        }
        Ok(())
    }
}

/// Products of the rows of some examples, [N T, N T], of x [B, T, ..].
fn gram_of(tape: &mut Tape, x: Var, (batch, examples): (usize, usize), order: Var) -> Result<Var> {
    let (positions, len) = (tape.shape(x).dims[1], tape.shape(x).len() / batch);
    let table = tape.reshape(x, &[batch, len])?;
    let rows = tape.push1(GatherColumns { first: 0, width: len }, &[table, order])?;
    let (rows_here, columns) = (examples * positions, len / positions);
    let rows = tape.reshape(rows, &[rows_here, columns])?;
    let gram = tape.push1(Gram { batch: 1, heads: 1, columns }, &[rows])?;
    tape.reshape(gram, &[rows_here, rows_here])
}

crate::params! {
    struct PairParams { n: u32, seq: u32, beside_seq: u32, s_replica: u32, w_replica: u32, y_replica: u32 }
}
static PAIR_PRODUCTS: Shader<'_> = Shader {
    name: "instrument/optimization/pair_products",
    source: include_str!("../../../shaders/instrument/optimization/pair_products.wgsl"),
    knobs: &[],
    params: PairParams::FIELDS,
};
crate::params! {
    struct ClassParams {
        n: u32, products_replica: u32, targets_replica: u32, order_replica: u32, shuffled_replica: u32, count_replica: u32,
        out_replica: u32,
    }
}
static CLASS_PAIRS: Shader<'_> = Shader {
    name: "instrument/optimization/class_pairs",
    source: include_str!("../../../shaders/instrument/optimization/class_pairs.wgsl"),
    knobs: &[],
    params: ClassParams::FIELDS,
};
crate::params! {
    struct SignParams { rows: u32, columns: u32, stream: u32, x_replica: u32, y_replica: u32 }
}
static SIGN_COUNTS: Shader<'_> = Shader {
    name: "instrument/optimization/sign_counts",
    source: include_str!("../../../shaders/instrument/optimization/sign_counts.wgsl"),
    knobs: &[],
    params: SignParams::FIELDS,
};
pub(crate) const SHADERS: &[&Shader<'_>] = &[&PAIR_PRODUCTS, &CLASS_PAIRS, &SIGN_COUNTS];

/// y [N, N]: inner products of the gradients of two examples, from the products of what enters a weight and those of the
/// gradients that leave it, [N T, N T] and [N Tw, N Tw], T of which may be the last of Tw positions.
struct PairProducts {
    examples: usize,
}

impl Op for PairProducts {
    fn name(&self) -> &'static str {
        "pair products"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let n = self.examples;
        let fits =
            |shape: &Shape| shape.dims.len() == 2 && shape.dims[0] == shape.dims[1] && shape.dims[0].is_multiple_of(n);
        if !inputs.iter().all(|shape| fits(shape)) {
            return Err(misfit("pair products", format!("{:?} and {:?} of {n}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[n, n])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        // The one of fewer positions first.
        let few = usize::from(inputs[0].dims[0] > inputs[1].dims[0]);
        let (s, w) = (&inputs[few], &inputs[1 - few]);
        let params = PairParams {
            n: self.examples as u32,
            seq: (s.dims[0] / self.examples) as u32,
            beside_seq: (w.dims[0] / self.examples) as u32,
            s_replica: s.replica_stride,
            w_replica: w.replica_stride,
            y_replica: outputs[0].replica_stride,
        };
        let grid = grid_1d((outputs[0].len() as u64).div_ceil(64), cx.replicas);
        cx.dispatch(&PAIR_PRODUCTS, &[], &params, &[s, w, &outputs[0]], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = self.examples;
        let few = usize::from(inputs[0].dims[0] > inputs[1].dims[0]);
        let [s, w] = [inputs[few], inputs[1 - few]];
        let [seq, long] = [s, w].map(|x| x.dims[0] / n);
        let product = |i: usize, j: usize| -> f64 {
            let at = |x: &Array, t: usize, u: usize, of: usize| x.data[(i * of + t) * n * of + j * of + u];
            let each = (0..seq).flat_map(|t| (0..seq).map(move |u| (t, u)));
            each.map(|(t, u)| at(s, t, u, seq) * at(w, long - seq + t, long - seq + u, long)).sum()
        };
        vec![Array::from_fn(&[n, n], |at| product(at / n, at % n))]
    }
}

/// y [4]: mean cosines of pairs of one class and of different ones, and the same with the classes dealt out anew. Inputs: products
/// [N, N], targets, the rows of the examples in order and in another one `[N]`, and how many count `[1]`.
struct ClassPairs;

impl Op for ClassPairs {
    fn name(&self) -> &'static str {
        "class pairs"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let n = inputs[2].len();
        if inputs[0].len() != n * n || inputs[3].len() != n {
            return Err(misfit("class pairs", format!("{:?} of {n} examples", inputs[0].dims)));
        }
        Ok(vec![like(inputs, &[4])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let params = ClassParams {
            n: inputs[2].len() as u32,
            products_replica: inputs[0].replica_stride,
            targets_replica: inputs[1].replica_stride,
            order_replica: inputs[2].replica_stride,
            shuffled_replica: inputs[3].replica_stride,
            count_replica: inputs[4].replica_stride,
            out_replica: outputs[0].replica_stride,
        };
        let tensors: Vec<&Tensor> = inputs.iter().chain(outputs).collect();
        cx.dispatch(&CLASS_PAIRS, &[], &params, &tensors, [1, 1, cx.replicas])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (products, n, here) = (&inputs[0].data, inputs[2].data.len(), inputs[4].data[0] as usize);
        let class = |order: usize, at: usize| inputs[1].data[inputs[order].data[at] as usize];
        let mut found = [(0.0, 0.0); 4];
        for (i, j) in (0..here).flat_map(|j| (0..j).map(move |i| (i, j))) {
            let [a, b] = [i, j].map(|at| products[at * (n + 1)]);
            if a > 0.0 && b > 0.0 {
                for (first, order) in [(0, 2), (2, 3)] {
                    let own = &mut found[first + usize::from(class(order, i) != class(order, j))];
                    *own = (own.0 + products[i * n + j] / (a.sqrt() * b.sqrt()), own.1 + 1.0);
                }
            }
        }
        let mean = |(sum, count): (f64, f64)| if count > 0.0 { sum / count } else { f64::from(UNKNOWN) };
        vec![Array::new(&[4], found.map(mean).to_vec())]
    }
}

/// y [2]: mean over columns of |Σ signs| / how many are not 0, of x [rows, C], and the same where each sign is turned by chance.
struct SignAgreement;

impl Op for SignAgreement {
    fn name(&self) -> &'static str {
        "sign agreement"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        match inputs[0].dims[..] {
            [rows, _] if rows <= MOST => Ok(vec![inputs[0].with_dims(&[2])]),
            _ => Err(misfit("sign agreement", format!("{:?}; up to {MOST} rows are taken", inputs[0].dims))),
        }
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [rows, columns] = inputs[0].dims[..] else { return Err(misfit("sign agreement", "rows")) };
        let counts = cx.scratch(&[columns, 2]);
        let params = SignParams {
            rows: rows as u32,
            columns: columns as u32,
            stream: Stream::Shuffle as u32,
            x_replica: inputs[0].replica_stride,
            y_replica: counts.replica_stride,
        };
        let grid = [(columns as u32).div_ceil(64), 1, cx.replicas];
        cx.dispatch(&SIGN_COUNTS, &[], &params, &[&inputs[0], &counts], grid)?;
        sum_columns(cx, &counts, columns, 2, &outputs[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (rows, columns) = inputs[0].rows();
        let mut found = [0.0; 2];
        for column in 0..columns {
            let (mut signs, mut counted) = ([0.0; 2], 0.0f64);
            for row in 0..rows {
                let value = inputs[0].data[row * columns + column];
                let own = if value == 0.0 { 0.0 } else { value.signum() };
                let words = Philox::new(0, Stream::Shuffle, (row / 128) as u32).words(column as u64);
                let turned = words[row / 32 % 4] >> (row % 32) & 1 == 1;
                signs = [signs[0] + own, signs[1] + if turned { -own } else { own }];
                counted += own.abs();
            }
            for (found, sum) in found.iter_mut().zip(signs) {
                *found += sum.abs() / (counted.max(1.0) * columns as f64);
            }
        }
        vec![Array::new(&[2], found.to_vec())]
    }
}

pub(crate) const CHECKS: &[(&str, Build)] = &[("agreement of gradients", |c| {
    let (g, a) = (c.owned(&[40, 2, 7]), c.owned(&[40, 3, 5]));
    let targets = c.indices(&[40], 4, true);
    let candidates: Vec<u32> = (0..30).collect();
    let [order, shuffled, count] = present(&mut c.tape, targets, &candidates)?;
    let [g_gram, a_gram] = [g, a].map(|x| gram_of(&mut c.tape, x, (40, 30), order));
    let products = c.tape.push1(PairProducts { examples: 30 }, &[g_gram?, a_gram?])?;
    let pairs = c.tape.push1(ClassPairs, &[products, targets, order, shuffled, count])?;
    let signs = c.tape.reshape(g, &[40, 14])?;
    Ok((vec![products, pairs, c.tape.push1(SignAgreement, &[signs])?], Vec::new()))
})];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, gpus};

    #[test]
    fn agreement_matches_its_reference() {
        for (examples, seq, long, columns) in [(4, 1, 1, 1), (31, 3, 3, 3), (64, 1, 3, 31), (128, 2, 4, 64)] {
            let mut case = Case::new(&format!("agreement {examples} {seq} {long} {columns}"));
            let batch = examples + 5;
            let (g, a) = (case.owned(&[batch, seq, columns]), case.owned(&[batch, long, columns + 2]));
            let targets: Vec<u32> =
                (0..batch as u32).map(|at| if at % 9 == 4 { IGNORE } else { at * at % 5 }).collect();
            let targets = case.tape.constant_u32(&[batch], &targets);
            let candidates: Vec<u32> = (0..examples as u32).collect();
            let [order, shuffled, count] = present(&mut case.tape, targets, &candidates).unwrap();
            let [g, a] = [g, a].map(|x| gram_of(&mut case.tape, x, (batch, examples), order).unwrap());
            let products = case.tape.push1(PairProducts { examples }, &[g, a]).unwrap();
            // Sums of up to 16 products of sums of 66.
            case.agree(&[products], 5e-6);
            let pairs = case.tape.push1(ClassPairs, &[products, targets, order, shuffled, count]).unwrap();
            // Means of thousands of cosines that are right to 1e-6; of order 0.01 the largest.
            case.agree(&[pairs], 2e-4);
        }
    }

    #[test]
    fn signs_match_their_reference_and_rows_of_zeros_change_nothing() {
        for (rows, columns) in [(1, 1), (3, 31), (31, 3), (129, 64), (257, 257)] {
            let mut case = Case::new(&format!("signs {rows} {columns}"));
            let x = case.owned(&[rows, columns]);
            let found = case.tape.push1(SignAgreement, &[x]).unwrap();
            case.agree(&[found], 1e-6);
        }
        let value = |at: usize| ((at * at * 7919) % 1009) as f32 - 504.0;
        let of = |rows: usize| {
            let data: Vec<f32> = (0..rows * 5).map(|at| if at < 500 { value(at) } else { 0.0 }).collect();
            let mut case = Case::new("padded signs");
            let x = case.tape.constant(&[rows, 5], &data);
            let found = case.tape.push1(SignAgreement, &[x]).unwrap();
            gpus().iter().map(|gpu| case.run(gpu, &[found]).unwrap()[0][0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(of(100), of(300));
    }

    #[test]
    fn signs_that_agree_are_told_from_chance() {
        // Of 400 rows three columns agree, one in two of another's signs is turned, and half of the last are 0.
        let rows = 400;
        let value = |at: usize| match (at % 5, at / 5) {
            (0..=2, row) => 1.0 + row as f32,
            (3, row) => {
                if Philox::new(9, Stream::Probe, 0).below(row as u64, 2) == 0 {
                    1.0
                } else {
                    -2.0
                }
            }
            (_, row) => {
                if row % 2 == 0 {
                    -3.0
                } else {
                    0.0
                }
            }
        };
        let data: Vec<f32> = (0..rows * 5).map(value).collect();
        let mut case = Case::new("planted signs");
        let x = case.tape.constant(&[rows, 5], &data);
        let found = case.tape.push1(SignAgreement, &[x]).unwrap();
        for gpu in gpus() {
            let found = &case.run(gpu, &[found]).unwrap()[0][0];
            // Four of five agree wholly; chance leaves √(2/(π 400)) = 0.04 of the fifth, up to 0.15.
            assert!(found[0] >= 0.8 && found[0] < 0.83, "{found:?}");
            assert!(found[1] < 0.15, "{found:?}");
        }
    }

    #[test]
    fn examples_of_one_class_that_pull_together_are_seen_and_classes_dealt_anew_show_none() {
        // Gradients that enter by one unit row for each class, with what all have in common taken away: cosines of 1, and of
        // -1/3 between four classes.
        let (batch, classes) = (64, 4);
        let rows: Vec<f32> =
            (0..batch * classes).map(|at| if at / classes % classes == at % classes { 0.75 } else { -0.25 }).collect();
        let mut case = Case::new("planted classes");
        let delta = case.tape.constant(&[batch, 1, classes], &rows);
        let a = case.tape.constant(&[batch, 1, 2], &[3.0, 4.0].repeat(batch));
        let targets: Vec<u32> = (0..batch as u32).map(|at| at % classes as u32).collect();
        let targets = case.tape.constant_u32(&[batch], &targets);
        let candidates: Vec<u32> = (0..batch as u32).collect();
        let [order, shuffled, count] = present(&mut case.tape, targets, &candidates).unwrap();
        let [g, a] = [delta, a].map(|x| gram_of(&mut case.tape, x, (batch, batch), order).unwrap());
        let products = case.tape.push1(PairProducts { examples: batch }, &[g, a]).unwrap();
        let found = case.tape.push1(ClassPairs, &[products, targets, order, shuffled, count]).unwrap();
        for gpu in gpus() {
            let found = &case.run(gpu, &[found]).unwrap()[0][0];
            assert!((found[0] - 1.0).abs() < 1e-5 && (found[1] + 1.0 / 3.0).abs() < 1e-5, "{found:?}");
            // Of 2,016 pairs a mean of about -1/63, wherever the classes are dealt: 480 of one class scatter by 0.03.
            assert!(found[2].abs() < 0.12 && found[3].abs() < 0.05, "{found:?}");
        }
    }
}
