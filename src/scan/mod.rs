//! Batteries of interventions on pretrained models: the exact effect of every head and every MLP block on a set of prompts.
//!
//! [`Prompts`] are read and checked first; an [`Engine`] holds a model's weights and, layer by layer, the residual stream of all
//! prompts. At a layer it takes away what each head or the MLP block wrote, each alone, and computes the rest of the pass again,
//! many interventions one behind the other along the batch axis. What comes out are outcomes of every prompt under every
//! intervention ([`crate::intervene`]); [`Findings`] are what these say: effects with their errors over groups of prompts,
//! discoveries among all that were tried, and where random subspaces of a layer stand.

mod cards;
mod engine;
mod findings;
mod page;
mod probes;
#[cfg(test)]
mod tests;

pub use cards::{BASELINES, catalog};
pub use engine::{Battery, Engine, LayerOutcomes, Outcome};
pub use findings::{Effect, Example, Findings, Mean, Measure, NullPoint, Setting};
pub use page::write as write_page;
pub use probes::{Prompt, Prompts};
