//! The transformer: its configuration, its weight table, its forward pass written as ops, and its
//! files. Names are TransformerLens's throughout.

mod config;
mod folder;
mod formats;
mod keys;
mod tensors;
#[cfg(feature = "tokenizers")]
pub mod tokenizer;
mod transformer;
mod weights;

pub use config::{InitMode, ModelConfig, Normalization, PositionalEmbedding};
pub use folder::{ModelFolder, TOKENIZER};
#[cfg(feature = "record")]
pub(crate) use folder::{read_weights, write_tensors};
#[cfg(feature = "record")]
pub(crate) use tensors::Tensors;
pub(crate) use tensors::open;
pub use transformer::{Forward, Model, Point, ReadOut, Resume, Rows};
pub(crate) use transformer::{Gates, UNGATED};
pub(crate) use weights::matches;
pub use weights::{Init, WeightSpec, WeightTable};
