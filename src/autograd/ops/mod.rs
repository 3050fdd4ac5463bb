//! The ops, one file per family: shape rule, kernels, gradient, f64 reference and tests side by side.

mod activation;
mod attention;
mod cooperative;
mod elementwise;
mod gather;
mod gram;
mod linear;
mod loss;
mod matmul;
mod norm;
mod reduce;
mod rotary;
mod streaming;

pub use activation::{ActFn, Activation, GatedActivation};
pub use attention::{Attention, AttentionPattern, MixValues};
#[cfg(feature = "cli")]
pub(crate) use cooperative::trial;
pub use cooperative::verify_cooperative;
pub use elementwise::{Add, AddBias, Copy, Scale};
pub use gather::{GatherRows, IGNORE, scatter_rows};
pub(crate) use gram::Gram;
pub use linear::{HeadResult, Linear, TransposedProduct};
pub use loss::CrossEntropy;
#[cfg(any(test, feature = "cli"))]
pub(crate) use matmul::tilings;
pub use norm::{FrozenNorm, Norm, NormKind};
pub use reduce::{ColumnSum, Dot, MeanRows};
pub(crate) use reduce::{MultiplyScalar, sum_columns};
pub use rotary::Rotary;
pub use streaming::StreamedAttention;

use crate::gpu::Shader;

/// Every kernel of the ops.
pub(crate) fn shaders() -> Vec<&'static Shader> {
    [
        activation::SHADERS,
        attention::SHADERS,
        cooperative::SHADERS,
        elementwise::SHADERS,
        gather::SHADERS,
        gram::SHADERS,
        loss::SHADERS,
        matmul::SHADERS,
        norm::SHADERS,
        reduce::SHADERS,
        rotary::SHADERS,
        streaming::SHADERS,
    ]
    .concat()
}
