//! The run directory: what was asked for, what was measured, what happened, and where to go on from.
//!
//! ```text
//! run.json                        resolved configuration, version, adapter, start and stop, hash
//! metrics/part-000000.parquet …   step, replica, metric, site, layer, head, index, value
//! events.jsonl                    births, deaths, checkpoints, warnings, what else happened
//! checkpoints/step-000000/        a model folder, plus optimizer.safetensors and state.json
//! report.html                     made by the report
//! ```
//!
//! Files are written beside their place, synced and renamed. A checkpoint names how far the metrics and
//! events belong to it; going on from it drops what came later and replays to the same bits.

mod births;
mod directory;
mod events;
mod reader;
mod roles;
mod segments;
mod setup;

pub use births::Sets;
pub use directory::{Manifest, RunDir, Status};
pub use events::Event;
pub use reader::{Key, Series, read_metrics};
pub use roles::{Finding, RATE, Roles};
pub use segments::{Segments, TableRow};
pub use setup::{Draft, Setup, table_of};
