//! Training: what a run is made of, optimizers, and the session that replays the step.

mod builder;
mod config;
mod optimizer;
#[cfg(test)]
mod optimizer_tests;
mod session;

pub use builder::SessionBuilder;
#[cfg(feature = "record")]
pub(crate) use config::MOST_REPLICAS;
pub use config::{
    ArmRole, BatchConfig, BatchSize, CheckpointConfig, OptimizerConfig, OptimizerKind, Precision, ReplicaConfig,
    ResolvedRun, RunConfig, ScheduleConfig, ScheduleKind,
};
pub(crate) use optimizer::CHECKS;
pub use optimizer::{Hyper, shaders as optimizer_shaders};
pub use session::{Row, Session, Snapshot, StepRow};
