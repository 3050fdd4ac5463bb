//! Trains small transformers with handwritten WGSL kernels and measures their circuits inside the
//! training step, on any GPU that wgpu reaches.
//!
//! A [`RunConfig`] says what is trained on what; a [`Session`] records one training step, backward pass,
//! optimizer and instruments included, as a [`Program`] of GPU kernels and replays it: into its own
//! submissions, or into the compute pass of a host that owns the device. Every step leaves a row of
//! numbers in a ring on the device, which is copied to the host without waiting.
//!
//! ```
//! use thermoscope::task::{Modular, Operation};
//! use thermoscope::{AdapterChoice, Gpu, Options, RunConfig, Session};
//!
//! # fn main() -> thermoscope::Result<()> {
//! let gpu = Gpu::open(&AdapterChoice::Best, Options::default())?;
//! let mut task = Modular::new(Operation::Add, 13);
//! task.train_fraction = 0.5;
//! let mut run = RunConfig::new(20, task);
//! run.model.d_model = 32;
//! let mut session = Session::new(&gpu, run.resolve()?)?;
//! session.submit(20);
//! gpu.wait()?;
//! while let Some(steps) = session.take_rows()? {
//!     for step in &steps {
//!         for row in session.rows(step).filter(|row| row.metric.card.name == "loss.train") {
//!             println!("step {}: {}", row.step, row.value);
//!         }
//!     }
//! }
//! # assert_eq!(session.step(), 20);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed.rs` does the same on a device of its own; `ARCHITECTURE.md` leads through the rooms.
//! Without default features the crate is the engine alone.

pub mod autograd;
#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
mod error;
mod files;
pub mod gpu;
pub mod instrument;
pub mod intervene;
mod kernels;
pub mod landscape;
pub mod model;
mod random;
#[cfg(feature = "record")]
pub mod record;
#[cfg(feature = "report")]
pub mod report;
#[cfg(feature = "cli")]
pub mod scan;
pub mod stats;
#[cfg(feature = "cli")]
pub mod study;
pub mod task;
pub mod train;

pub use autograd::{Op, Tape, Var};
pub use error::{Error, Result};
pub use gpu::{AdapterChoice, Gpu, Options, Program};
pub use instrument::{Instrument, Metric};
pub use kernels::self_check;
pub use model::{Model, ModelConfig};
pub use task::Task;
pub use train::{ResolvedRun, RunConfig, Session, Snapshot};
/// The wgpu that devices, buffers and passes of this crate are of.
pub use wgpu;
