//! Batteries of interventions on pretrained models: exact effects of heads, MLP blocks, pairs and sets of heads on prompts, what
//! patching carries from one prompt to another, and by which paths.
//!
//! [`Prompts`] are read and checked first; an [`Engine`] holds a model's weights and, layer by layer, the residual stream of all
//! prompts. At a layer it takes away what each head or the MLP block wrote, or puts another prompt's activation in its place, and
//! computes the rest of the pass again, many interventions one behind the other along the batch axis. What comes out are outcomes
//! of every prompt under every intervention ([`crate::intervene`]); [`Findings`] are what these say: effects with their errors over
//! groups of prompts, discoveries among all that were tried, and where random subspaces of a layer stand.

mod batch;
mod calibration;
mod cards;
mod direct;
mod engine;
mod findings;
mod joint;
mod maps;
mod page;
mod patch;
mod paths;
mod probes;
mod repeated;
mod routes;
mod series;
mod series_page;
mod sheet;
mod tables;
#[cfg(test)]
mod tests;
mod words;

pub use calibration::Calibration;
pub use cards::{BASELINES, catalog};
pub use engine::{Battery, Engine, LayerOutcomes, Outcome, Set, pairs};
pub use findings::{Effect, Example, Findings, Mean, Measure, NullPoint, Setting};
pub use joint::{Joint, Known, Sets};
pub use page::write as write_page;
pub use patch::{Patch, Patching, Share, Site};
pub use paths::{Direction, Input, Layer, Mediated, Part, Paths, Reader, Sender};
pub use probes::{Prompt, Prompts};
pub use repeated::{Repeated, Scores};
pub use routes::Routes;
pub use series::{Member, Series, hash};
pub use series_page::write as write_series_page;
pub use tables::Tables;
