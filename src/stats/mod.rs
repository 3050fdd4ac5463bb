//! What numbers say and how surely: p-values, discoveries among many, changes that last, dates with their resolution,
//! errors of differences. Nothing here knows of transformers; each rule stands here once, for everyone.

mod errors;
mod holds;
mod onset;
mod p_values;
mod special;

pub use errors::{Paired, median};
pub use holds::{Births, Turn, Watch};
pub use onset::{Censored, LASTING, Onset, Sample};
pub use p_values::{add_one, adjusted, at_least, false_discovery_threshold, two_sided};
