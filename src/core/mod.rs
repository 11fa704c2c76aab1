//! The pure core: names, digests, manifest, graph, actions, facts, receipts, verdicts, plan.
//!
//! Nothing here reads a file, a clock, the environment or prints; the test `tidy` holds that.

pub mod action;
pub mod comparison;
pub mod digest;
pub mod error;
pub mod estimate;
pub mod event;
mod evidence;
pub mod facts;
pub mod fill;
pub mod gate;
pub mod graph;
pub mod leaks;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod parts;
pub mod past;
pub mod plan;
pub mod publish;
pub mod receipt;
pub mod record;
pub mod replaced;
pub mod runtime;
pub mod schedule;
pub mod size;
mod strict;
pub mod targets;
pub mod value;
pub mod verdict;
pub mod wiring;
