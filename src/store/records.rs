//! Receipts and publishes on disk: the two logs, read into a [`History`] and a list of publishes.
//!
//! A receipt is appended after its blobs are in the CAS, so a record that can be read never lies; one that cannot is a
//! miss.

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::name::NodeName;
use crate::core::plan::RECORD;
use crate::core::publish::{Intent, Published, Target};
use crate::core::receipt::{History, Receipt};
use crate::store::Store;
use crate::store::log::{self, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionRecord {
    Receipt(Arc<Receipt>),
    Current { node: NodeName, action: Digest },
}

impl ActionRecord {
    /// Which node it makes stand for which action.
    pub(super) fn says(&self) -> (&NodeName, Digest) {
        match self {
            ActionRecord::Receipt(receipt) => (&receipt.node, receipt.action_digest),
            ActionRecord::Current { node, action } => (node, *action),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PublishRecord {
    Intent(Intent),
    Published(Published),
    /// The intent of this nonce did not land and never will.
    Abandoned(String),
    /// The tag of the last publish to a target was seen to.
    Tagged {
        target: Target,
        tag: String,
    },
}

/// What was read of the logs.
pub struct Loaded {
    /// Receipts.
    pub history: History,
    /// Publishes, oldest first.
    pub publishes: Publishes,
    /// Damaged lines, in both logs.
    pub damaged: usize,
}

/// Publishes and intents.
#[derive(Debug, Clone, Default)]
pub struct Publishes {
    /// Landed ones, oldest first.
    pub landed: Vec<Published>,
    /// Intents whose end is not known.
    pub open: Vec<Intent>,
}

impl Publishes {
    /// The last publish to a target's branch itself.
    pub fn last(&self, target: &Target) -> Option<&Published> {
        self.landed.iter().rev().find(|p| p.target == *target && p.pull_request.is_none())
    }
    /// The last publish to a target that was made as a pull request.
    pub fn last_proposed(&self, target: &Target) -> Option<&Published> {
        self.landed.iter().rev().find(|p| p.target == *target && p.pull_request.is_some())
    }
    /// SHA-256 of the records that were proposed since the last publish to a target's branch itself.
    pub fn proposed(&self, target: &Target) -> BTreeSet<String> {
        let ours = self.landed.iter().rev().filter(|p| p.target == *target);
        let since = ours.take_while(|p| p.pull_request.is_some());
        since.filter_map(|p| Some(p.tree.get(RECORD)?.hub.sha256.clone())).collect()
    }
    /// The tag of the last publish to a target's branch was seen to.
    pub fn tagged(&mut self, target: &Target, tag: String) {
        let last = self.landed.iter_mut().rev().find(|p| p.target == *target && p.pull_request.is_none());
        last.into_iter().for_each(|last| last.tag = Some(tag.clone()));
    }
    /// The open intent for a target.
    pub fn intent(&self, target: &Target) -> Option<&Intent> {
        self.open.iter().rev().find(|i| i.target == *target)
    }
}

/// Loads both logs.
pub fn load(store: &Store) -> Result<Loaded> {
    let mut history = History::default();
    let lost_actions = log::each(&store.actions_log(), |record| match record {
        ActionRecord::Receipt(receipt) => history.add(receipt),
        ActionRecord::Current { node, action } => history.make_current(&node, action),
    })?;
    let mut publishes = Publishes::default();
    let lost_publishes = log::each(&store.publishes_log(), |record| match record {
        PublishRecord::Intent(intent) => publishes.open.push(intent),
        PublishRecord::Published(published) => {
            publishes.open.retain(|i| i.target != published.target);
            publishes.landed.push(published);
        }
        PublishRecord::Abandoned(nonce) => publishes.open.retain(|i| i.nonce != nonce),
        PublishRecord::Tagged { target, tag } => publishes.tagged(&target, tag),
    })?;
    Ok(Loaded { history, publishes, damaged: lost_actions + lost_publishes })
}

/// Writes both logs anew without their damaged lines, so that they are told once. Call with the lock held.
pub fn mend(store: &Store) -> Result<()> {
    let actions = log::read::<ActionRecord>(&store.actions_log())?;
    log::rewrite(&store.actions_log(), &actions.records)?;
    let publishes = log::read::<PublishRecord>(&store.publishes_log())?;
    log::rewrite(&store.publishes_log(), &publishes.records)
}

/// Appends to both logs.
pub struct Recorder {
    actions: Writer,
    publishes: Writer,
}

impl Recorder {
    /// Opens both. Call with the lock held.
    pub fn open(store: &Store) -> Result<Recorder> {
        Ok(Recorder { actions: Writer::open(&store.actions_log())?, publishes: Writer::open(&store.publishes_log())? })
    }
    /// A stage has made its outputs.
    pub fn receipt(&mut self, receipt: &Arc<Receipt>) -> Result<()> {
        self.actions.append(&ActionRecord::Receipt(receipt.clone()))
    }
    /// A node stands for an earlier action again.
    pub fn current(&mut self, node: &NodeName, action: Digest) -> Result<()> {
        self.actions.append(&ActionRecord::Current { node: node.clone(), action })
    }
    /// A commit is about to be sent; on the disk before this returns.
    pub fn intent(&mut self, intent: &Intent) -> Result<()> {
        self.publishes.append_synced(&PublishRecord::Intent(intent.clone()))
    }
    /// A commit landed.
    pub fn published(&mut self, published: &Published) -> Result<()> {
        self.publishes.append_synced(&PublishRecord::Published(published.clone()))
    }
    /// The tag of the last publish to a target was seen to.
    pub fn tagged(&mut self, target: &Target, tag: &str) -> Result<()> {
        self.publishes.append_synced(&PublishRecord::Tagged { target: target.clone(), tag: tag.into() })
    }
    /// An intent did not land.
    pub fn abandoned(&mut self, nonce: &str) -> Result<()> {
        self.publishes.append_synced(&PublishRecord::Abandoned(nonce.into()))
    }
}
