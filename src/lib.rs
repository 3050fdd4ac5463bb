//! Trains small transformers with handwritten WGSL kernels and measures their circuits inside the
//! training step, on the GPU.

pub mod autograd;
#[cfg(feature = "cli")]
pub mod cli;
mod error;
mod files;
pub mod gpu;
pub mod instrument;
mod kernels;
pub mod model;
#[cfg(feature = "record")]
pub mod record;
#[cfg(feature = "report")]
pub mod report;
pub mod task;
pub mod train;

pub use error::{Error, Result};
