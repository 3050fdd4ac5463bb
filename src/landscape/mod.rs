//! The loss around a set of weights: exact products with its second derivatives, and what follows from these alone. Its largest
//! and smallest curvatures with residuals, its trace with an error, in total and by tensor and head, its spectrum.
//!
//! Nothing here holds the matrix: it is [`Symmetric`], known by what it does to vectors. [`Surface`] is the Hessian, or the
//! Gauss-Newton matrix, of a model's loss over fixed examples, on the device; vectors are f64 on the host.

mod lanczos;
mod look;
mod surface;
#[cfg(test)]
mod tests;
mod trace;

pub use lanczos::{Density, Ends, Pair, density, ends};
pub use look::{CARDS, INSTRUMENT, Looked, look};
pub use surface::{Examples, Matrix, Part, Surface, Tensor};
pub use trace::{Traces, signs, trace};

use crate::error::Result;

/// A symmetric matrix that is known by its products.
pub trait Symmetric {
    /// Number of rows.
    fn size(&self) -> usize;

    /// How many products are worked out together.
    fn together(&self) -> usize;

    /// Its products with some vectors, in their order.
    ///
    /// # Errors
    /// Where the device failed.
    fn times(&mut self, vectors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>>;
}

/// a b.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
