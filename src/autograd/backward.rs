//! Reverse differentiation: appends gradient ops to the tape.
//!
//! The rule every `vjp` keeps: a returned gradient is multiplied by the incoming one. Each op is
//! checked in the middle of a graph, with a coefficient other than 1 behind it, against its f64
//! reference and against central differences (`autograd::check`). What goes wrong otherwise: a loss
//! op that ignores its incoming gradient passes every test that ends with it.

use super::ops::{Add, MultiplyScalar};
use super::{Tape, Var};
use crate::error::{Error, Result};

impl Tape {
    /// Appends ops that compute the gradient of `loss`, a scalar of each replica, with respect to each
    /// variable of `wrt`. `None` where the loss does not depend on it.
    ///
    /// # Errors
    /// [`Error::Shape`] where `loss` is no scalar; [`Error::Unsupported`] where an op on the way has no
    /// gradient.
    pub fn backward(&mut self, loss: Var, wrt: &[Var]) -> Result<Vec<Option<Var>>> {
        self.scalar(loss)?;
        let one = self.constant(&[1], &[1.0]);
        self.backward_from(loss, one, wrt)
    }

    /// The same with every gradient on the way a multiple of itself, so that none is too small for f16: `scale` and its
    /// inverse, `[1]`, powers of two, by which all are multiplied at the end. That is exact.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_scaled(
        &mut self,
        loss: Var,
        (scale, inverse): (Var, Var),
        wrt: &[Var],
    ) -> Result<Vec<Option<Var>>> {
        self.scalar(loss)?;
        let scaled = self.backward_from(loss, scale, wrt)?;
        let unscale = |grad: Option<Var>| grad.map(|grad| self.push1(MultiplyScalar, &[grad, inverse])).transpose();
        scaled.into_iter().map(unscale).collect()
    }

    fn scalar(&self, loss: Var) -> Result<()> {
        let shape = self.shape(loss);
        if shape.len() == 1 {
            return Ok(());
        }
        Err(Error::Shape { op: "backward", detail: format!("the loss must be a scalar, is {:?}", shape.dims) })
    }

    /// Gradients by way of `y` of something whose gradient by `y` is `seed`.
    ///
    /// # Errors
    /// Where an op on the way has no gradient, or the seed is of another size.
    pub(crate) fn backward_from(&mut self, y: Var, seed: Var, wrt: &[Var]) -> Result<Vec<Option<Var>>> {
        let count = self.len();
        let needed = self.needed(&[y]);
        let reaches = self.reaches(wrt);
        // Gradients known so far, by the variable's number.
        let mut grads: Vec<Option<Var>> = vec![None; self.vars().count()];
        let root = self.root(y);
        let dims = self.shape(root).dims.clone();
        grads[root.index()] = Some(self.reshape(seed, &dims)?);

        for at in (0..count).rev() {
            let node = &self.nodes()[at];
            let incoming: Vec<Option<Var>> = node.outputs.iter().map(|var| grads[var.index()]).collect();
            let wanted = node.inputs.iter().any(|var| reaches[self.root(*var).index()]);
            if !needed[at] || !wanted || incoming.iter().all(Option::is_none) {
                continue;
            }
            let op = std::sync::Arc::clone(&node.op);
            let (inputs, outputs) = (node.inputs.clone(), node.outputs.clone());
            let results = op.vjp(self, &super::op::Links { inputs: &inputs, outputs: &outputs }, &incoming)?;
            debug_assert_eq!(results.len(), inputs.len(), "vjp of {}", op.name());
            for (input, grad) in inputs.into_iter().zip(results) {
                let Some(grad) = grad else { continue };
                let root = self.root(input);
                if !reaches[root.index()] {
                    continue;
                }
                let dims = self.shape(root).dims.clone();
                let grad = self.reshape(grad, &dims)?;
                let total = match grads[root.index()] {
                    Some(sum) => self.push1(Add, &[sum, grad])?,
                    None => grad,
                };
                grads[root.index()] = Some(total);
            }
        }
        wrt.iter()
            .map(|var| {
                let dims = self.shape(*var).dims.clone();
                grads[self.root(*var).index()].map(|grad| self.reshape(grad, &dims)).transpose()
            })
            .collect()
    }

    /// For each variable, whether its gradient leads to one of `wrt`.
    fn reaches(&self, wrt: &[Var]) -> Vec<bool> {
        let mut reaches = vec![false; self.vars().count()];
        for var in wrt {
            reaches[self.root(*var).index()] = true;
        }
        for node in self.nodes() {
            if node.inputs.iter().any(|var| reaches[self.root(*var).index()]) {
                for var in &node.outputs {
                    reaches[var.index()] = true;
                }
            }
        }
        reaches
    }
}
