//! Trains small transformers with handwritten WGSL kernels and measures their circuits inside the
//! training step, on the GPU.

pub mod autograd;
mod error;
pub mod gpu;

pub use error::{Error, Result};
