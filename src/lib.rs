//! Trains small transformers with handwritten WGSL kernels and measures their circuits inside the
//! training step, on the GPU.

pub mod autograd;
mod error;
mod files;
pub mod gpu;
pub mod instrument;
pub mod model;
pub mod task;
pub mod train;

pub use error::{Error, Result};
