//! What numbers say and how surely: p-values, discoveries among many, changes that last, dates with their resolution,
//! errors of differences, intervals of anything, times that some did not come to, jumps, rises, lags and orders of events,
//! likeness of representations. Nothing here knows of transformers; each rule stands here once, for everyone.
//!
//! | what is asked | |
//! |---|---|
//! | how sure is a statistic of rows, of groups of rows, of a series | [`Bootstrap`] |
//! | did it change between two ways of treating the same examples | [`Paired`] |
//! | which of many tests are discoveries | [`adjusted`] |
//! | when did something come to stay, for how long is it gone | [`Onset`], [`Births`], [`Living`] |
//! | when was half of a rise done | [`Rise`] |
//! | when did a series jump | [`ChangePoints`] |
//! | how long does it take in arms that partly end before it | [`Survival`], [`restricted_difference`], [`restricted_test`], [`log_rank`] |
//! | which of two series moves first | [`Lag`] |
//! | which of several events comes first, over seeds | [`Orders`] |
//! | does it matter when something is done | [`Sensitivity`] |
//! | do chains of draws agree, and what is their mean worth | [`Chains`] |
//! | do two layers hold the same | [`cka`] |
//! | what spectrum has a small tridiagonal matrix | [`tridiagonal`] |
//!
//! What cannot be said is [`Missing`], with the reason. Everything random comes from the crate's generator and a seed.

mod autoregression;
mod bootstrap;
mod chains;
mod change_points;
mod draws;
mod errors;
#[cfg(test)]
mod golden;
mod holds;
mod lags;
mod logistic;
mod missing;
mod onset;
mod orders;
mod p_values;
mod permutation;
mod ratio;
mod sensitivity;
mod similarity;
mod special;
mod survival;
mod systems;
mod tridiagonal;

pub use bootstrap::{Bootstrap, Drawn, block_length};
pub use chains::Chains;
pub use change_points::{Change, ChangePoints, Noise};
pub use errors::{Estimate, Paired, median};
pub use holds::{Births, Living, Turn, Watch};
pub use lags::Lag;
pub use logistic::Rise;
pub use missing::Missing;
pub use onset::{Censored, LASTING, Onset, Reach, Sample};
pub use orders::{Orders, Pair};
pub use p_values::{add_one, adjusted, at_least, false_discovery_threshold, two_sided};
pub use permutation::Permuted;
pub use ratio::{Ratio, jackknife};
pub use sensitivity::{Differences, Point, Sensitivity, least_runs};
pub use similarity::{cka, gram, hsic};
#[cfg(test)]
pub(crate) use special::normal_below;
pub use survival::{Fall, LogRank, Survival, Time, log_rank, restricted_difference, restricted_test};
pub use tridiagonal::{Eigen, tridiagonal};
