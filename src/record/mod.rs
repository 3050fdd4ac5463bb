//! The run directory: what was asked for, what was measured, what happened, and where to go on from.
//!
//! ```text
//! run.json                        resolved configuration, version, adapter, start and stop, hash
//! metrics/part-000000.parquet …   step, replica, metric, site, layer, head, index, value
//! metrics.json                    what the metrics are: formula, unit, cadence, names of the index, chance level, bounds
//! events.jsonl                    births, deaths, checkpoints, warnings, what else happened
//! checkpoints/step-000000/        a model folder, plus optimizer.safetensors and state.json
//! report.html                     made by the report
//! ```
//!
//! Files are written beside their place, synced and renamed. A checkpoint names how far the metrics and
//! events belong to it; going on from it drops what came later and replays to the same bits.

mod births;
mod catalog;
mod directory;
mod events;
mod fork;
mod reader;
mod roles;
mod segments;
mod setup;

pub use births::Sets;
pub use catalog::{Catalog, Described, Predictions};
pub use directory::{GoesOn, Manifest, RunDir, RunKind, Status};
pub use events::{Event, HeadRole, Subject, Turned, What};
pub use fork::{Origin, Trunk};
pub use reader::{Key, Series, Sink, last_values, read_metrics, scan_metrics};
pub use roles::{Finding, HOLD, RATE, Roles, p_of_head, threshold, too_few};
pub use segments::{Segments, TableRow};
pub(crate) use setup::parse;
pub use setup::{Draft, Setup, table_of};
