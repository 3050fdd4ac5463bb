//! Inner products of the rows of each example.

use super::super::op::misfit;
use super::super::{Array, Lower, Op, Shape};
use super::matmul::{Finish, Form, Layout, Matmul};
use crate::error::Result;
use crate::gpu::{Knob, Params, Shader, Tensor};

crate::params! {
    struct GramParams { rows: u32, seq: u32, heads: u32, width: u32, x_replica: u32, y_replica: u32 }
}
static GRAM: Shader<'_> = Shader {
    name: "linear/gram",
    source: include_str!("../../../shaders/linear/gram.wgsl"),
    knobs: &[Knob { name: "SUBGROUPS", values: &[0, 1] }],
    params: GramParams::FIELDS,
};
pub(super) const SHADERS: &[&Shader<'_>] = &[&GRAM];

/// Beyond this many rows of an example, tiles of a matrix product pay.
const SMALL: usize = 16;

/// y [B, H, T, T] = Σ_k x[b, t, h, k] x[b, u, h, k] of x [B, T, H, K], taken as that whatever its dimensions.
pub(crate) struct Gram {
    /// Examples B.
    pub(crate) batch: usize,
    /// Heads H, 1 for whole rows.
    pub(crate) heads: usize,
    /// Length of a row, H K.
    pub(crate) columns: usize,
}

impl Op for Gram {
    fn name(&self) -> &'static str {
        "gram"
    }

    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>> {
        let (len, per_row) = (inputs[0].len(), self.batch * self.columns);
        if per_row == 0 || !len.is_multiple_of(per_row) || !self.columns.is_multiple_of(self.heads) {
            return Err(misfit("gram", format!("{:?} for {} examples", inputs[0].dims, self.batch)));
        }
        Ok(vec![inputs[0].with_dims(&[self.batch, self.heads, len / per_row, len / per_row])])
    }

    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let (seq, width) = (y.dims[2], self.columns / self.heads);
        if seq > SMALL {
            let rows = Layout::heads(seq, self.heads, width);
            return Matmul {
                form: Form::NT,
                m: seq,
                n: seq,
                k: width,
                batches: (self.batch, self.heads),
                b_group: 1,
                a: (x, rows),
                b: (x, rows),
                c: (y, Layout::stacked(seq, seq, self.heads)),
                alpha: 1.0,
                finish: Finish::default(),
            }
            .record(cx);
        }
        let params = GramParams {
            rows: y.len() as u32,
            seq: seq as u32,
            heads: self.heads as u32,
            width: width as u32,
            x_replica: x.replica_stride,
            y_replica: y.replica_stride,
        };
        let (subgroups, grid) = cx.by_rows(y.len(), 64);
        cx.dispatch(&GRAM, &[subgroups], &params, &[x, y], grid)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = &inputs[0].data;
        let (heads, width) = (self.heads, self.columns / self.heads);
        let seq = x.len() / (self.batch * self.columns);
        vec![Array::from_fn(&[self.batch, heads, seq, seq], |at| {
            let (u, t, h, b) = (at % seq, at / seq % seq, at / (seq * seq) % heads, at / (seq * seq * heads));
            let row = |t: usize| &x[((b * seq + t) * heads + h) * width..][..width];
            row(t).iter().zip(row(u)).map(|(a, b)| a * b).sum()
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::check::Case;

    #[test]
    fn grams_match_their_reference() {
        for (batch, seq, heads, width) in
            [(1, 1, 1, 1), (31, 3, 4, 31), (257, 1, 1, 64), (3, 17, 2, 5), (2, 64, 1, 257)]
        {
            let mut case = Case::new(&format!("gram {batch} {seq} {heads} {width}"));
            let x = case.owned(&[batch * seq, heads * width]);
            let y = case.tape.push1(Gram { batch, heads, columns: heads * width }, &[x]).unwrap();
            // Sums of up to 257 products of order 1.
            case.agree(&[y], 5e-6);
        }
    }
}
