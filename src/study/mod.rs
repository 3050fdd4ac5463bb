//! Studies: runs made of runs. A [`StudyConfig`] says which run is disturbed, how and when; the [`Plan`] is every arm that
//! is trained, in batches that fork off the run; [`Run`] reads what became of each, and [`Findings`] says when a pulse matters.

mod config;
mod effects;
mod findings;
mod outcomes;
mod page;
mod plan;
mod plot;
mod tables;

pub use config::{EVENTS, EventConfig, Kind, PulseConfig, Spread, StudyConfig, Times};
pub use effects::{Asked, Bounds, Came, Curve, CurvePoint, Left, Outcomes, Stretch};
pub use findings::{Behind, Findings, least, times_together};
pub use outcomes::{Apart, Outcome, Run, Watched};
pub use page::write as write_page;
pub use plan::{Arm, Batch, Plan, Seed};
pub use tables::{Kept, catalog, file};
