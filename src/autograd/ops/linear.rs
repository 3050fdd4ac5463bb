//! Products with weights: y = x W (+ b) (+ residual).

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var, like};
use super::ActFn;
use super::matmul::{Act, Finish, Form, Layout, Matmul};
use super::reduce::ColumnSum;
use crate::error::Result;
use crate::gpu::Tensor;

/// y [N, C] = x [N, D] W (+ b `[C]`) (+ residual [N, C]). W is [D, C], or [H, D, K] with C = H K as
/// TransformerLens stores W_Q. Inputs: x, W, then bias and residual where there are any.
#[derive(Clone, Copy, Default)]
pub struct Linear {
    /// Multiplies by Wᵀ instead: x [N, C], y [N, D].
    pub transposed: bool,
    /// Whether a bias follows W.
    pub bias: bool,
    /// Whether a residual of the output's shape comes last.
    pub residual: bool,
}

/// Rows D, columns C and memory layout of a weight.
fn weight_layout(dims: &[usize]) -> Option<(usize, usize, Layout)> {
    match *dims {
        [d, c] => Some((d, c, Layout::rows(c))),
        [h, d, k] => Some((d, h * k, Layout::blocks(d, k))),
        _ => None,
    }
}

/// Flat position of element (row, column) of a weight.
fn weight_index(dims: &[usize], row: usize, column: usize) -> usize {
    match *dims {
        [_, d, k] => column / k * d * k + row * k + column % k,
        _ => row * dims[1] + column,
    }
}

impl Linear {
    /// Length of a row of x and of y, and the weight's layout.
    fn sizes(&self, weight: &[usize]) -> Result<(usize, usize, Layout)> {
        let (d, c, layout) =
            weight_layout(weight).ok_or_else(|| misfit("linear", format!("a weight of {weight:?}")))?;
        Ok(if self.transposed { (c, d, layout) } else { (d, c, layout) })
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, width) = inputs[0].rows();
        let (from, to, _) = self.sizes(&inputs[1].dims)?;
        let extra = &inputs[2..];
        let fits = from == width
            && extra.len() == usize::from(self.bias) + usize::from(self.residual)
            && (!self.bias || extra[0].len() == to)
            && (!self.residual || extra[extra.len() - 1].len() == n * to);
        if !fits {
            let dims: Vec<_> = inputs.iter().map(|s| &s.dims).collect();
            return Err(misfit("linear", format!("x, W, bias, residual do not fit: {dims:?}")));
        }
        Ok(vec![like(inputs, &[n, to])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        Product::from(*self).lower(cx, inputs, outputs)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let (x, w) = (node.inputs[0], node.inputs[1]);
        let dims = tape.shape(w).dims.clone();
        // dW [D, C] sums an outer product over rows: of x and dy, or of dy and x where W was transposed.
        let (left, right) = if self.transposed { (dy, x) } else { (x, dy) };
        let mut results = vec![
            Some(tape.push1(Self { transposed: !self.transposed, ..Self::default() }, &[dy, w])?),
            Some(tape.push1(TransposedProduct { dims }, &[left, right])?),
        ];
        if self.bias {
            results.push(Some(tape.push1(ColumnSum, &[dy])?));
        }
        if self.residual {
            results.push(Some(dy));
        }
        Ok(results)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let (x, w, n) = (node.inputs[0], node.inputs[1], tape.shape(node.outputs[0]).rows().0);
        let mut bias = tangents[2..].first().copied().flatten().filter(|_| self.bias);
        let mut sum = tangents.last().copied().flatten().filter(|_| self.residual);
        for (x, w) in [(tangents[0], Some(w)), (Some(x), tangents[1])] {
            let (Some(x), Some(w)) = (x, w) else { continue };
            let op = Self { transposed: self.transposed, bias: bias.is_some(), residual: sum.is_some() };
            let inputs: Vec<Var> = [x, w].into_iter().chain(bias.take()).chain(sum).collect();
            sum = Some(tape.push1(op, &inputs)?);
        }
        Ok(vec![tape.biased(sum, bias, n)?])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, from) = inputs[0].rows();
        let (x, w) = (inputs[0], inputs[1]);
        let to = w.data.len() / from;
        let weight = |i: usize, j: usize| {
            let (row, column) = if self.transposed { (j, i) } else { (i, j) };
            w.data[weight_index(&w.dims, row, column)]
        };
        vec![Array::from_fn(&[n, to], |at| {
            let (row, column) = (at / to, at % to);
            let product: f64 = (0..from).map(|i| x.data[row * from + i] * weight(i, column)).sum();
            let bias = if self.bias { inputs[2].data[column] } else { 0.0 };
            let residual = if self.residual { inputs[inputs.len() - 1].data[at] } else { 0.0 };
            product + bias + residual
        })]
    }
}

/// What follows a [`Linear`] within its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::autograd) enum Follow {
    /// Nothing.
    #[default]
    Nothing,
    /// The activation of y. Outputs: that, and y itself where it is read elsewhere too.
    Activation(ActFn),
    /// y times the activation's derivative at a last input of its shape.
    Slope(ActFn),
}

/// A [`Linear`] with what one kernel does besides. Inputs: those of the linear, where `picked` is set the residual's
/// row for each row of y, and the slope's.
#[derive(Clone, Copy)]
pub(in crate::autograd) struct Product {
    pub(in crate::autograd) linear: Linear,
    pub(in crate::autograd) picked: bool,
    pub(in crate::autograd) follow: Follow,
}

impl From<Linear> for Product {
    fn from(linear: Linear) -> Self {
        Self { linear, picked: false, follow: Follow::Nothing }
    }
}

impl Product {
    pub(in crate::autograd) fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (from, to, layout) = self.linear.sizes(&inputs[1].dims)?;
        let mut rest = inputs[2..].iter();
        let mut next = |present: bool| if present { rest.next() } else { None };
        let bias = next(self.linear.bias);
        let residual = next(self.linear.residual);
        let picked = next(self.picked);
        let activation = match self.follow {
            Follow::Nothing => Act::None,
            Follow::Activation(act) => Act::Of(act, outputs.get(1)),
            Follow::Slope(act) => next(true).map_or(Act::None, |before| Act::Slope(act, before)),
        };
        Matmul {
            form: if self.linear.transposed { Form::NT } else { Form::NN },
            m: outputs[0].len() / to,
            n: to,
            k: from,
            batches: (1, 1),
            b_group: 1,
            a: (&inputs[0], Layout::rows(from)),
            b: (&inputs[1], layout),
            c: (&outputs[0], Layout::rows(to)),
            alpha: 1.0,
            finish: Finish { bias, residual, picked, activation, sums: None },
        }
        .record(cx)
    }
}

/// y [D, C] = leftᵀ right, from left [N, D] and right [N, C]; the gradient of a weight, in its layout.
#[derive(Clone)]
pub struct TransposedProduct {
    /// Dimensions of the result: [D, C], or [H, D, K] with C = H K.
    pub dims: Vec<usize>,
}

impl Op for TransposedProduct {
    fn name(&self) -> &'static str {
        "transposed product"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![like(inputs, &self.dims)])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        self.lower_with_sums(cx, inputs, outputs)
    }

    fn jvp(&self, tape: &mut Tape, node: &Links<'_>, tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        tape.linear_tangent(self, node, tangents, &[0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (left, right) = (inputs[0], inputs[1]);
        let (n, d) = left.rows();
        let c = right.data.len() / n;
        let mut dw = Array::zeros(&self.dims);
        for i in 0..d {
            for column in 0..c {
                dw.data[weight_index(&self.dims, i, column)] =
                    (0..n).map(|row| left.data[row * d + i] * right.data[row * c + column]).sum();
            }
        }
        vec![dw]
    }
}

impl TransposedProduct {
    /// Records the product and, where there is a second output, the column sums of right: the gradient of a bias.
    pub(in crate::autograd) fn lower_with_sums(
        &self,
        cx: &mut Lower<'_>,
        inputs: &[Tensor],
        outputs: &[Tensor],
    ) -> Result<()> {
        let (d, c, layout) =
            weight_layout(&self.dims).ok_or_else(|| misfit("linear", format!("a weight of {:?}", self.dims)))?;
        Matmul {
            form: Form::TN,
            m: d,
            n: c,
            k: inputs[1].len() / c,
            batches: (1, 1),
            b_group: 1,
            a: (&inputs[0], Layout::rows(d)),
            b: (&inputs[1], Layout::rows(c)),
            c: (&outputs[0], layout),
            alpha: 1.0,
            finish: Finish { sums: outputs.get(1), ..Finish::default() },
        }
        .record(cx)
    }
}

/// What each head writes to the residual stream: result [N, H, D] = z [N, H, K] W_O [H, K, D].
pub struct HeadResult;

impl Op for HeadResult {
    fn name(&self) -> &'static str {
        "head result"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let ([h, k, d], (rows, width)) = (inputs[1].dims.as_slice(), inputs[0].rows()) else {
            return Err(misfit("head result", format!("W_O of {:?}", inputs[1].dims)));
        };
        if width != *k || rows % h != 0 {
            return Err(misfit("head result", format!("z {:?}, W_O {:?}", inputs[0].dims, inputs[1].dims)));
        }
        Ok(vec![like(inputs, &[rows / h, *h, *d])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [h, k, d] = inputs[1].dims[..] else { return Err(misfit("head result", "W_O")) };
        let n = outputs[0].dims[0];
        Matmul {
            form: Form::NN,
            m: n,
            n: d,
            k,
            batches: (1, h),
            b_group: 1,
            a: (&inputs[0], Layout::heads(n, h, k)),
            b: (&inputs[1], Layout::stacked(d, k, h)),
            c: (&outputs[0], Layout::heads(n, h, d)),
            alpha: 1.0,
            finish: Finish::default(),
        }
        .record(cx)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (z, w) = (inputs[0], inputs[1]);
        let (h, k, d) = (w.dims[0], w.dims[1], w.dims[2]);
        vec![Array::from_fn(&[z.data.len() / (h * k), h, d], |at| {
            let (row, head, i) = (at / (h * d), at / d % h, at % d);
            (0..k).map(|x| z.data[(row * h + head) * k + x] * w.data[(head * k + x) * d + i]).sum()
        })]
    }
}

/// Products head by head: y [H, N, D] = a [H, N, K] bᵀ of b [H, D, K], or a b of b [H, K, D] in `rows`; with `residual` plus
/// what lies like y. Inputs: a, b, then the residual where there is one.
#[derive(Clone, Copy, Default)]
pub(crate) struct HeadProduct {
    /// Whether b's rows are K.
    pub(crate) rows: bool,
    pub(crate) residual: bool,
}

impl Op for HeadProduct {
    fn name(&self) -> &'static str {
        "head product"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (&[h, n, k], &[g, p, q]) = (&inputs[0].dims[..], &inputs[1].dims[..]) else {
            return Err(misfit("head product", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        };
        let (width, d) = if self.rows { (p, q) } else { (q, p) };
        if h != g || k != width || inputs.len() != 2 + usize::from(self.residual) {
            return Err(misfit("head product", format!("{:?} and {:?}", inputs[0].dims, inputs[1].dims)));
        }
        let y = like(inputs, &[h, n, d]);
        if inputs.get(2).is_some_and(|residual| **residual != y) {
            return Err(misfit("head product", format!("residual {:?}", inputs[2].dims)));
        }
        Ok(vec![y])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (&[h, n, d], k) = (&outputs[0].dims[..], inputs[0].dims[2]) else {
            return Err(misfit("head product", "y"));
        };
        let (form, b) =
            if self.rows { (Form::NN, Layout::stacked(d, k, h)) } else { (Form::NT, Layout::stacked(k, d, h)) };
        Matmul {
            form,
            m: n,
            n: d,
            k,
            batches: (1, h),
            b_group: 1,
            a: (&inputs[0], Layout::stacked(k, n, h)),
            b: (&inputs[1], b),
            c: (&outputs[0], Layout::stacked(d, n, h)),
            alpha: 1.0,
            finish: Finish { residual: inputs.get(2), ..Finish::default() },
        }
        .record(cx)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (a, b) = (inputs[0], inputs[1]);
        let (h, n, k) = (a.dims[0], a.dims[1], a.dims[2]);
        let d = if self.rows { b.dims[2] } else { b.dims[1] };
        vec![Array::from_fn(&[h, n, d], |at| {
            let (head, row, i) = (at / (n * d), at / d % n, at % d);
            let b_at = |x: usize| if self.rows { (head * k + x) * d + i } else { (head * d + i) * k + x };
            let product: f64 = (0..k).map(|x| a.data[(head * n + row) * k + x] * b.data[b_at(x)]).sum();
            product + inputs.get(2).map_or(0.0, |residual| residual.data[at])
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tilings;
    use super::*;
    use crate::autograd::check::{Case, SIZES, gpus};
    use crate::gpu::Tuning;

    // Sums of up to 577 products of order 1: rounding grows as the square root of their number times 6e-8.
    const TOLERANCE: f64 = 5e-6;

    fn check(n: usize, d: usize, weight: &[usize], bias: bool, residual: bool, shared_w: bool) {
        let mut case = Case::new(&format!("linear {n} {d} {weight:?} {bias} {residual}"));
        let columns = weight.iter().product::<usize>() / d;
        let x = case.owned(&[n, d]);
        let w = if shared_w { case.shared(weight) } else { case.owned(weight) };
        let mut inputs = vec![x, w];
        if bias {
            inputs.push(case.owned(&[columns]));
        }
        if residual {
            inputs.push(case.owned(&[n, columns]));
        }
        let y = case.tape.push1(Linear { transposed: false, bias, residual }, &inputs).unwrap();
        // The gradient of a shared weight would be a sum over replicas, which no model asks for.
        let wrt: Vec<_> = inputs.iter().copied().filter(|v| !(shared_w && *v == w)).collect();
        case.check(&[y], &wrt, TOLERANCE);
    }

    #[test]
    fn linear_matches_its_reference_at_awkward_sizes() {
        for n in SIZES {
            check(n, 31, &[31, 3], true, true, false);
            check(3, n, &[n, 31], false, false, false);
            check(31, 3, &[3, n], true, false, true);
        }
        check(257, 64, &[64, 128], true, true, false);
        check(64, 257, &[257, 64], false, true, false);
        // Gradients whose sums are long, and products whose are.
        check(514, 31, &[31, 34], true, false, false);
        check(3, 577, &[577, 6], true, true, false);
    }

    #[test]
    fn head_blocked_weights_match_their_reference() {
        check(31, 64, &[4, 64, 16], true, false, false);
        check(3, 31, &[3, 31, 5], true, false, false);
        check(64, 8, &[2, 8, 257], false, false, true);
    }

    #[test]
    fn products_head_by_head_match_their_reference() {
        for (h, n, d, k) in [(1, 1, 1, 1), (3, 31, 3, 64), (4, 64, 31, 3), (2, 257, 64, 31)] {
            let mut case = Case::new(&format!("head product {h} {n} {d} {k}"));
            let (a, residual) = (case.owned(&[h, n, k]), case.owned(&[h, n, d]));
            let (columns, rows) = (case.owned(&[h, d, k]), case.owned(&[h, k, d]));
            let of = |op: HeadProduct| -> Vec<_> {
                let b = if op.rows { rows } else { columns };
                if op.residual { vec![a, b, residual] } else { vec![a, b] }
            };
            let all = [(false, false), (false, true), (true, false), (true, true)];
            let all = all.map(|(rows, residual)| HeadProduct { rows, residual });
            let found = all.map(|op| case.tape.push1(op, &of(op)).unwrap());
            case.agree(&found, TOLERANCE);
        }
    }

    #[test]
    fn tangents_match_differences_of_gradients() {
        for n in SIZES {
            for (weight, transposed) in [([31, 3].as_slice(), false), (&[3, 31], true), (&[2, 31, 5], false)] {
                let mut case = Case::new(&format!("tangent of linear {n} {weight:?}"));
                let columns = weight.iter().product::<usize>() / 31;
                let (x, w) = (case.shared(&[n, 31]), case.shared(weight));
                let (b, r) = (case.owned(&[columns]), case.owned(&[n, columns]));
                let y = case.tape.push1(Linear { transposed, bias: true, residual: true }, &[x, w, b, r]).unwrap();
                case.check_tangents(y, &[x, w, b, r], 2e-5);
            }
        }
        let mut case = Case::new("weights, or biases, alone move");
        let (x, w, b) = (case.shared(&[9, 4]), case.shared(&[4, 3]), case.shared(&[3]));
        let y = case.tape.push1(Linear { bias: true, ..Linear::default() }, &[x, w, b]).unwrap();
        for wrt in [vec![w], vec![b], vec![w, b]] {
            case.check_tangents(y, &wrt, 1e-5);
        }
    }

    #[test]
    fn every_tiling_matches_and_gives_the_same_bits() {
        for gpu in gpus() {
            for [m, n, k] in [[33, 130, 31], [130, 64, 68], [257, 132, 20], [33, 70, 515]] {
                let mut case = Case::new(&format!("tilings {m} {n} {k}"));
                let (x, w, u) = (case.owned(&[m, k]), case.owned(&[k, n]), case.owned(&[n, k]));
                let (left, right) = (case.owned(&[k, m]), case.owned(&[k, n]));
                let results = [
                    case.tape.push1(Linear::default(), &[x, w]).unwrap(),
                    case.tape.push1(Linear { transposed: true, ..Linear::default() }, &[x, u]).unwrap(),
                    case.tape.push1(TransposedProduct { dims: vec![m, n] }, &[left, right]).unwrap(),
                ];
                let mut first: Option<Vec<Vec<Vec<f32>>>> = None;
                for tiling in tilings(gpu.caps()) {
                    let mut tuning = Tuning::default();
                    (0..3).for_each(|form| tuning.set(form, m, n, tiling));
                    gpu.tune(tuning);
                    let worst = case.worst(gpu, &results, false).unwrap();
                    assert!(worst.error < TOLERANCE, "{tiling:?}: {} of {m} {n} {k}", worst.error);
                    let found = case.run(gpu, &results).unwrap();
                    assert!(first.get_or_insert_with(|| found.clone()) == &found, "{tiling:?} rounds differently");
                }
                gpu.tune(Tuning::default());
            }
        }
    }

    #[test]
    fn transposed_weights_match_their_reference() {
        for n in SIZES {
            let mut case = Case::new(&format!("transposed {n}"));
            let (x, w, b) = (case.owned(&[n, 31]), case.owned(&[64, 31]), case.owned(&[64]));
            let y = case.tape.push1(Linear { transposed: true, bias: true, residual: false }, &[x, w, b]).unwrap();
            case.check(&[y], &[x, w, b], TOLERANCE);
        }
    }

    #[test]
    fn head_results_sum_to_the_output_of_attention() {
        let mut case = Case::new("head result");
        let (z, w) = (case.owned(&[31, 4, 8]), case.owned(&[4, 8, 33]));
        let result = case.tape.push1(HeadResult, &[z, w]).unwrap();
        case.agree(&[result], TOLERANCE);
        // Heads side by side times the stacked matrices is what attention writes.
        let (flat, stacked) = (case.tape.reshape(z, &[31, 32]).unwrap(), case.tape.reshape(w, &[32, 33]).unwrap());
        let out =
            case.tape.push1(Linear { transposed: false, bias: false, residual: false }, &[flat, stacked]).unwrap();
        for gpu in gpus() {
            let found = case.run(gpu, &[result, out]).unwrap();
            for (heads, whole) in found[0].iter().zip(&found[1]) {
                for (at, whole) in whole.iter().enumerate() {
                    let sum: f32 = (0..4).map(|head| heads[(at / 33 * 4 + head) * 33 + at % 33]).sum();
                    // 32 products of order 1.
                    assert!((sum - whole).abs() < 1e-5, "{sum} and {whole}");
                }
            }
        }
    }
}
