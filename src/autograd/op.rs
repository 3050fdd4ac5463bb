//! What an op must know of itself.

use std::any::Any;

use super::{Array, Shape, Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Params, Phase, Recording, Shader, Tensor, grid_1d};

/// One operation on a tape: shape rule, kernels, gradient and f64 reference, side by side in one file.
pub trait Op: Any + Send + Sync {
    /// Name for messages.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit together.
    fn shapes(&self, inputs: &[&Shape]) -> Result<Vec<Shape>>;

    /// Whether the op is worked out by its reference when the tape is built, where all its inputs are
    /// constants. For lists and tables; numbers that are computed with stay on the device.
    fn folds(&self) -> bool {
        false
    }

    /// Records the kernels.
    ///
    /// # Errors
    /// Where a kernel does not compile or exceeds the device's limits.
    fn lower(&self, cx: &mut Lower<'_>, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()>;

    /// Appends ops that compute the gradient of each input from the gradients of the outputs; `None`
    /// for an output that the loss does not depend on, and for an input without gradient. Every
    /// returned gradient is multiplied by the incoming one.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for ops that are not differentiable (again).
    fn vjp(&self, _tape: &mut Tape, _node: &Links<'_>, _grads: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Err(Error::Unsupported(format!("{} has no gradient", self.name())))
    }

    /// Appends ops that compute the tangents of the outputs from the tangents of the inputs; `None` for an input that does
    /// not move, and for an output that does not. Gradient ops have one too: that is how products with the Hessian are exact.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for ops that are not differentiable forwards.
    fn jvp(&self, _tape: &mut Tape, _node: &Links<'_>, _tangents: &[Option<Var>]) -> Result<Vec<Option<Var>>> {
        Err(Error::Unsupported(format!("{} has no forward derivative", self.name())))
    }

    /// Whether an output is only measured or kept for the gradient, so that it has no tangent.
    fn keeps(&self, _output: usize) -> bool {
        false
    }

    /// The outputs of one replica in f64, by the plainest formula.
    fn reference(&self, inputs: &[&Array]) -> Vec<Array>;
}

/// The variables an op reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    /// Inputs, in order.
    pub inputs: &'a [Var],
    /// Outputs, in order.
    pub outputs: &'a [Var],
}

/// What an op sees while it records its kernels.
pub struct Lower<'a> {
    pub(super) recording: &'a mut Recording,
    /// Replicas of the outputs: R, or 1 where all inputs are shared.
    pub replicas: u32,
    /// Whether products may be of f16.
    pub(super) halves: bool,
}

impl Lower<'_> {
    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.recording.gpu()
    }

    /// Side of the cooperative matrices that this op's products may go through, in f16; `None` for f32.
    pub(super) fn cooperative(&self) -> Option<u32> {
        self.gpu().cooperative().filter(|_| self.halves)
    }

    /// Records one kernel; `tensors` follow the order of its bindings.
    ///
    /// # Errors
    /// See [`Recording::dispatch`].
    pub fn dispatch<P: Params>(
        &mut self,
        shader: &Shader<'_>,
        knobs: &[u32],
        params: &P,
        tensors: &[&Tensor],
        grid: [u32; 3],
    ) -> Result<()> {
        self.recording.dispatch(shader, knobs, params, tensors, grid)
    }

    /// States the floating-point operations, over all replicas, of the kernel dispatched last.
    pub fn count_flops(&mut self, flops: u64) {
        self.recording.count_flops(flops);
    }

    /// Records what `build` dispatches in one phase only.
    ///
    /// # Errors
    /// Whatever `build` returns.
    pub fn in_phase(&mut self, phase: Phase, build: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.recording.in_phase(phase);
        let result = build(self);
        self.recording.in_phase(before);
        result
    }

    /// For kernels that import `shared/rows` with workgroups of `wg`: the value of their knob SUBGROUPS,
    /// and the grid that covers `rows` whatever size the subgroups turn out to have.
    pub fn by_rows(&self, rows: usize, wg: u32) -> (u32, [u32; 3]) {
        match self.gpu().caps().subgroup {
            Some((_, max)) if max <= wg => (1, grid_1d((rows as u64).div_ceil(u64::from(wg / max)), self.replicas)),
            _ => (0, grid_1d(rows as u64, self.replicas)),
        }
    }

    /// A tensor that lives within this op only.
    pub fn scratch(&mut self, dims: &[usize]) -> Tensor {
        self.recording.scratch(self.replicas, dims)
    }
}

/// An [`Error::Shape`], for shape rules.
pub fn misfit(op: &'static str, detail: impl Into<String>) -> Error {
    Error::Shape { op, detail: detail.into() }
}
