//! Partial results: what a stage has made of its action so far, so that a run which is killed, preempted or fails loses a
//! batch of them at most.
//!
//! A part is bound to the action and to what made it (runtime, version, device): parts of another runtime are not handed
//! out, for the result would be a mixture that its receipt misdescribes. Knows no files: the store keeps them.

use crate::core::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Where parts of one action are kept.
pub trait Parts: Send + Sync {
    /// Keeps a part under a name, whole or not at all; `by` says what made it.
    ///
    /// # Errors
    /// It cannot be written.
    fn keep(&self, by: &str, name: &str, bytes: &[u8]) -> Result<()>;
    /// All whole parts that `by` made.
    ///
    /// # Errors
    /// Some are there and cannot be read.
    fn kept(&self, by: &str) -> Result<Kept>;
}

/// What was found of an action's parts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Bytes by name.
    pub parts: BTreeMap<String, Vec<u8>>,
    /// Damaged ones, which count as not there.
    pub damaged: usize,
    /// What else made parts of this action, which are left alone.
    pub others: BTreeSet<String>,
}
