//! What this machine runs graphs on, for a project: the places are the process's and the store's.

use crate::stage::{Machine, Places};
use crate::store::Store;
use std::sync::Arc;

/// A project's machine. Nothing is looked for until somebody asks it.
pub fn machine(store: &Store) -> Arc<Machine> {
    Arc::new(Machine::new(Places::of_process(Some(store.runtimes()))))
}
