//! The ops, one file per family: shape rule, kernels, gradient, f64 reference and tests side by side.

mod activation;
mod attention;
mod attention_tangent;
mod cooperative;
mod elementwise;
mod gate;
mod gather;
mod gram;
mod join;
mod linear;
mod loss;
mod matmul;
mod norm;
mod picked;
mod reduce;
mod rotary;
mod streaming;

pub(super) use activation::ActivationGrad;
pub use activation::{ActFn, Activation, GatedActivation};
pub(crate) use attention::attention_gradients;
pub use attention::{Attention, AttentionPattern, MixValues};
#[cfg(feature = "cli")]
pub(crate) use cooperative::trial;
pub use cooperative::verify_cooperative;
pub use elementwise::{Add, AddBias, Copy, Multiply, Scale};
pub use gate::Gate;
pub(super) use gather::ScatterRows;
pub use gather::{GatherColumns, GatherRows, IGNORE, scatter_rows};
pub(crate) use gather::{add_rows, bucket_rows, rows_in};
pub(crate) use gram::Gram;
pub use join::{Join, Split};
pub(crate) use linear::HeadProduct;
pub(super) use linear::{Follow, Product};
pub use linear::{HeadResult, Linear, TransposedProduct};
pub use loss::CrossEntropy;
pub(crate) use loss::{CrossEntropyCurve, LogitRows, ShiftedCrossEntropy};
pub(super) use loss::{CrossEntropyGrad, Loss};
#[cfg(any(test, feature = "cli"))]
pub(crate) use matmul::tilings;
pub use norm::{FrozenNorm, Norm, NormKind};
pub use picked::PickedAttention;
pub(super) use reduce::SpreadMean;
pub use reduce::{ColumnSum, Dot, MeanRows};
pub(crate) use reduce::{MultiplyScalar, sum_columns};
pub use rotary::{Rotary, RotaryScaling};
pub use streaming::StreamedAttention;

use crate::gpu::Shader;

/// Every kernel of the ops.
pub(crate) fn shaders() -> Vec<&'static Shader<'static>> {
    [
        activation::SHADERS,
        attention::SHADERS,
        attention_tangent::SHADERS,
        cooperative::SHADERS,
        elementwise::SHADERS,
        gate::SHADERS,
        gather::SHADERS,
        gram::SHADERS,
        join::SHADERS,
        loss::SHADERS,
        matmul::SHADERS,
        norm::SHADERS,
        picked::SHADERS,
        reduce::SHADERS,
        rotary::SHADERS,
        streaming::SHADERS,
    ]
    .concat()
}
