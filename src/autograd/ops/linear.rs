//! Products with weights: y = x W (+ b) (+ residual).

use super::super::op::{Links, misfit};
use super::super::{Array, Lower, Op, Shape, Tape, Var};
use super::matmul::{Form, Layout, Matmul};
use super::reduce::ColumnSum;
use crate::error::Result;
use crate::gpu::Tensor;

/// y [N, C] = x [N, D] W (+ b [C]) (+ residual [N, C]). W is [D, C], or [H, D, K] with C = H K as
/// TransformerLens stores W_Q. Inputs: x, W, then bias and residual where there are any.
#[derive(Clone, Copy)]
pub struct Linear {
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

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, d) = inputs[0].rows();
        let (rows, columns, _) = weight_layout(&inputs[1].dims)
            .ok_or_else(|| misfit("linear", format!("a weight of {:?}", inputs[1].dims)))?;
        let extra = &inputs[2..];
        let fits = rows == d
            && extra.len() == usize::from(self.bias) + usize::from(self.residual)
            && (!self.bias || extra[0].len() == columns)
            && (!self.residual || extra[extra.len() - 1].len() == n * columns);
        if !fits {
            let dims: Vec<_> = inputs.iter().map(|s| &s.dims).collect();
            return Err(misfit("linear", format!("x, W, bias, residual do not fit: {dims:?}")));
        }
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&[n, columns]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (d, c, layout) = weight_layout(&inputs[1].dims).unwrap_or((0, 0, Layout::rows(0)));
        let n = outputs[0].len() / c;
        Matmul {
            form: Form::NN,
            m: n,
            n: c,
            k: d,
            batches: (1, 1),
            b_group: 1,
            a: (&inputs[0], Layout::rows(d)),
            b: (&inputs[1], layout),
            c: (&outputs[0], Layout::rows(c)),
            bias: self.bias.then(|| &inputs[2]),
            residual: self.residual.then(|| &inputs[inputs.len() - 1]),
            alpha: 1.0,
        }
        .record(cx)
    }

    fn vjp(&self, tape: &mut Tape, node: &Links<'_>, grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        let Some(dy) = grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let (x, w) = (node.inputs[0], node.inputs[1]);
        let mut results = vec![
            Some(tape.push1(LinearGradX, &[dy, w])?),
            Some(tape.push1(LinearGradW { dims: tape.shape(w).dims.clone() }, &[x, dy])?),
        ];
        if self.bias {
            results.push(Some(tape.push1(ColumnSum, &[dy])?));
        }
        if self.residual {
            results.push(Some(dy));
        }
        Ok(results)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, d) = inputs[0].rows();
        let (x, w) = (inputs[0], inputs[1]);
        let columns = w.data.len() / d;
        vec![Array::from_fn(&[n, columns], |at| {
            let (row, column) = (at / columns, at % columns);
            let product: f64 =
                (0..d).map(|i| x.data[row * d + i] * w.data[weight_index(&w.dims, i, column)]).sum();
            let bias = if self.bias { inputs[2].data[column] } else { 0.0 };
            let residual = if self.residual { inputs[inputs.len() - 1].data[at] } else { 0.0 };
            product + bias + residual
        })]
    }
}

/// dx [N, D] = dy [N, C] Wᵀ.
struct LinearGradX;

impl Op for LinearGradX {
    fn name(&self) -> &'static str {
        "linear gradient of x"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (n, _) = inputs[0].rows();
        let (d, _, _) = weight_layout(&inputs[1].dims).ok_or_else(|| misfit("linear", "weight"))?;
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&[n, d]) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (d, c, layout) = weight_layout(&inputs[1].dims).unwrap_or((0, 0, Layout::rows(0)));
        Matmul {
            form: Form::NT,
            m: outputs[0].len() / d,
            n: d,
            k: c,
            batches: (1, 1),
            b_group: 1,
            a: (&inputs[0], Layout::rows(c)),
            b: (&inputs[1], layout),
            c: (&outputs[0], Layout::rows(d)),
            bias: None,
            residual: None,
            alpha: 1.0,
        }
        .record(cx)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (n, c) = inputs[0].rows();
        let (dy, w) = (inputs[0], inputs[1]);
        let d = w.data.len() / c;
        vec![Array::from_fn(&[n, d], |at| {
            let (row, i) = (at / d, at % d);
            (0..c).map(|column| dy.data[row * c + column] * w.data[weight_index(&w.dims, i, column)]).sum()
        })]
    }
}

/// dW = xᵀ dy, in the layout of W.
struct LinearGradW {
    dims: Vec<usize>,
}

impl Op for LinearGradW {
    fn name(&self) -> &'static str {
        "linear gradient of W"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        Ok(vec![Shape { owned: inputs.iter().any(|s| s.owned), ..Shape::f32(&self.dims) }])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (d, c, layout) = weight_layout(&self.dims).unwrap_or((0, 0, Layout::rows(0)));
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
            bias: None,
            residual: None,
            alpha: 1.0,
        }
        .record(cx)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, dy) = (inputs[0], inputs[1]);
        let (n, d) = x.rows();
        let c = dy.data.len() / n;
        let mut dw = Array::zeros(&self.dims);
        for i in 0..d {
            for column in 0..c {
                dw.data[weight_index(&self.dims, i, column)] =
                    (0..n).map(|row| x.data[row * d + i] * dy.data[row * c + column]).sum();
            }
        }
        vec![dw]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::{Case, SIZES};

    // Sums of up to 257 products of order 1: rounding grows as the square root of their number times 6e-8.
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
        let y = case.tape.push1(Linear { bias, residual }, &inputs).unwrap();
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
    }

    #[test]
    fn head_blocked_weights_match_their_reference() {
        check(31, 64, &[4, 64, 16], true, false, false);
        check(3, 31, &[3, 31, 5], true, false, false);
        check(64, 8, &[2, 8, 257], false, false, true);
    }
}
