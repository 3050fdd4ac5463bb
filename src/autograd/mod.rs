//! A minimal, static autograd: a [`Tape`] of ops over [`Var`]s with shapes. [`Tape::backward`] appends
//! gradient ops, [`Tape::tangent`] tangents of either; [`Tape::compile`] drops what nobody needs and records the rest as a
//! [`Program`](crate::gpu::Program). The same tape can be interpreted in f64 on the CPU
//! ([`Tape::evaluate`]), which is the reference of every op, gradient and instrument.

mod array;
mod backward;
pub mod check;
mod compile;
mod fuse;
pub(crate) mod op;
pub mod ops;
mod tangent;
mod tape;

pub use array::Array;
pub(crate) use array::length;
pub use check::Checked;
pub use compile::Bindings;
pub use op::{Links, Lower, Op, misfit};
pub use ops::verify_cooperative;
pub(crate) use tape::gcd;
pub use tape::{DType, Shape, Tape, Var};
pub(crate) use tape::{like, like_u32};
