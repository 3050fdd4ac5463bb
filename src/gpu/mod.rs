//! Speaks wgpu, and nothing of transformers: the device and its capabilities, kernels assembled from
//! WGSL files, programs recorded once and replayed, read-back that never waits, timing, random numbers.

mod buffers;
mod caps;
mod commands;
mod context;
mod kernel;
mod plan;
mod program;
mod readback;
mod shader;
mod timer;
mod tuning;

pub use buffers::{Bytes, Class};
pub use caps::{Caps, CoopMatrix};
use commands::Pace;
pub use context::{AdapterChoice, Gpu, Options, adapters, no_adapter_help, pick};
pub use kernel::Kernel;
pub use program::{Part, Phase, Program, Recording, STEP, Select, Slot, Storage, Tensor, Work, grid_1d};
pub use readback::{Readback, read_now};
pub use shader::{Field, Knob, Params, Shader, assemble};
pub use timer::{Span, Timer};
pub use tuning::{Tiling, Tuning};

/// The random numbers that kernels draw too.
pub use crate::random::{Philox, Stream, normal};

pub(crate) use commands::Commands;
#[cfg(feature = "cli")]
pub(crate) use context::of_poll;
pub(crate) use readback::read_together;
