//! Effects around the pure core: a project is opened, the world is observed, stages run, the tree is published.
//!
//! The way of a run: [`project`] -> [`observe`] and [`remote`] -> [`planning`] -> [`drive`] (with [`work`] for one stage
//! and [`publish`] for the commit) -> the store's records. Reports events; prints nothing.

pub mod drive;
pub mod matched;
pub mod observe;
mod place;
pub mod planning;
pub mod pools;
pub mod project;
pub mod publish;
mod pulls;
pub mod queue;
pub mod remote;
pub mod snapshot;
pub mod targets;
pub mod twice;
pub mod work;

pub use crate::stage::guard;
