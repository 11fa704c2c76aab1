//! Verdicts and reasons: data with old and new, never sentences. `ui::explain` is the one place that renders them.

use crate::core::action::{Action, Component};
use crate::core::digest::Digest;
use crate::core::name::NodeName;
use crate::core::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is to be done with a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The receipt of this very action is there and the outputs are in place.
    UpToDate,
    /// The receipt is there; the outputs have to be put in place from the CAS.
    Restore {
        /// The places that differ from the receipt (empty: only the record of what is current changes).
        places: Vec<String>,
    },
    /// The stage has to run.
    Run {
        /// Why.
        reasons: Vec<Reason>,
    },
    /// Not known before these have ended: it may end as run, cutoff or restore.
    Pending {
        /// The inputs that are not known yet.
        on: Vec<NodeName>,
    },
    /// Will not run, because of these.
    Blocked {
        /// A failed stage, a refused gate.
        by: Vec<NodeName>,
    },
}

/// Why a stage has to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// There is no receipt of this node.
    NeverRan,
    /// A component of the action differs from the last one. `None`: was not there, or is not there now.
    Changed {
        /// What differs.
        component: Component,
        /// The value in the last receipt.
        was: Option<Value>,
        /// The value now.
        now: Option<Value>,
        /// For an input: its name for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
    /// The receipt is there, but a blob of its output is gone from the CAS or damaged.
    BlobLost {
        /// The output.
        path: String,
        /// Its digest.
        digest: Digest,
    },
    /// The user asked for it.
    Forced,
}

/// The difference of two actions, component by component, in canonical order.
pub fn difference(was: &Action, now: &Action) -> Vec<Reason> {
    let old: BTreeMap<Component, Value> = was.components().into_iter().collect();
    let new: BTreeMap<Component, Value> = now.components().into_iter().collect();
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|k| old.get(k) != new.get(k));
    changed
        .map(|component| Reason::Changed {
            component: component.clone(),
            was: old.get(component).cloned(),
            now: new.get(component).cloned(),
            subject: match component {
                Component::File(path) => Some(path.clone()),
                Component::Input(role) => now.inputs.get(role).or(was.inputs.get(role)).map(|i| i.name.clone()),
                _ => None,
            },
        })
        .collect()
}
