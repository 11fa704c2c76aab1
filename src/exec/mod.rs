//! Effects around the pure core: a project is opened, the world is observed, stages run, the tree is published.
//!
//! The way of a run: [`project`] -> [`observe`] and [`remote`] -> [`planning`] -> [`drive`] (with [`work`] for one stage
//! and [`publish`] for the commit) -> the store's records. What was published: [`baseline`] -> [`verify`], [`history`],
//! [`difference`]. Reports events; prints nothing.

pub mod baseline;
pub mod difference;
pub mod drive;
pub mod history;
pub mod install;
pub mod leaks;
pub mod matched;
pub mod observe;
mod partial;
mod place;
pub mod planning;
pub mod pools;
pub mod preflight;
pub mod programs;
pub mod project;
pub mod publish;
mod pulls;
pub mod queue;
pub mod remote;
pub mod runtimes;
pub mod snapshot;
pub mod targets;
pub mod twice;
pub mod verify;
pub mod work;

pub use crate::stage::guard;
