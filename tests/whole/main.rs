//! Whole programs, by subject. One crate of them all is linked once, and its tests share the devices they open and the
//! kernels compiled for those. A test that looks at its process alone, as that of memory does, has a crate of its own.

#[path = "../common/mod.rs"]
mod common;

mod ablation;
mod causality;
mod cli;
mod company;
mod compare;
mod curvature;
mod determinism;
mod diverged;
mod embed;
mod folders;
mod fork;
mod formats;
mod golden;
mod grokking;
mod induction;
#[cfg(unix)]
mod killed;
#[cfg(target_os = "linux")]
mod long;
#[cfg(target_os = "linux")]
mod lost;
mod own;
mod padding;
mod place;
mod precision;
mod pressure;
mod pulses;
mod report;
mod runs;
mod scan;
mod synchrony;
mod windows;
