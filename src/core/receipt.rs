//! Receipts: what a stage did, kept as history. And the history that the planner asks.
//!
//! Does not know where receipts are stored.

use crate::core::action::Action;
use crate::core::digest::{Canonical, Digest, HubDigests};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// One file of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its path within the artifact, `/` as separator.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3: its name in the CAS.
    pub digest: Digest,
    /// What the Hub knows it by; there where it was to be published, from the same read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubDigests>,
}

/// An action as a receipt keeps it: its JSON, read when somebody asks. Most of a log is actions, and a plan needs only their
/// digests; what differs is asked for where something does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptAction {
    json: Box<RawValue>,
    #[serde(skip)]
    read: OnceLock<Option<Box<Action>>>,
}

impl KeptAction {
    /// Of an action.
    ///
    /// # Errors
    /// It cannot be written as JSON: a bug.
    pub fn new(action: &Action) -> Result<KeptAction> {
        let json = serde_json::value::to_raw_value(action)
            .map_err(|e| Error::bug(format!("an action cannot be written as JSON: {e}")))?;
        Ok(KeptAction { json, read: OnceLock::new() })
    }
    /// The action; `None`: another version of hfbuild wrote it, in a form that this one does not know.
    pub fn read(&self) -> Option<&Action> {
        self.read.get_or_init(|| serde_json::from_str(self.json.get()).ok()).as_deref()
    }
}

impl PartialEq for KeptAction {
    fn eq(&self, other: &Self) -> bool {
        self.json.get() == other.json.get()
    }
}

/// What a stage did. Written last, so whatever it names is in the CAS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose it is.
    pub node: NodeName,
    /// The action's digest.
    pub action_digest: Digest,
    /// The whole action.
    pub action: KeptAction,
    /// The outputs, sorted by path.
    pub outputs: Vec<Output>,
    /// What was measured.
    pub facts: Facts,
    /// When it began, milliseconds since 1970.
    pub started_ms: i64,
    /// Wall seconds.
    pub seconds: f64,
    /// The machine.
    pub host: String,
    /// Device and runtime that made it, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Receipt {
    /// The content digest that a consumer's action holds: of a single file its own, else that of the sorted manifest.
    pub fn content(&self) -> Digest {
        content_of(&self.outputs)
    }
}

/// The content digest of outputs: of a single file its BLAKE3 alone (its name is not part of the content), of several
/// the digest of the sorted list of (path, digest).
pub fn content_of(outputs: &[Output]) -> Digest {
    if let [one] = outputs {
        return one.digest;
    }
    let mut out = Canonical::new("hfbuild tree 1");
    out.number(outputs.len() as u64);
    for output in outputs {
        out.text(&output.path).digest(&output.digest);
    }
    out.finish()
}

/// All that is remembered: receipts by action digest, and for every node the action that was current last.
#[derive(Debug, Clone, Default)]
pub struct History {
    receipts: HashMap<Digest, Arc<Receipt>>,
    current: BTreeMap<NodeName, Digest>,
    /// Of a node whose current action changed: the one before it.
    before: HashMap<NodeName, Digest>,
}

impl History {
    /// Adds a receipt, which becomes its node's current one.
    pub fn add(&mut self, receipt: Arc<Receipt>) {
        self.make_current(&receipt.node, receipt.action_digest);
        self.receipts.insert(receipt.action_digest, receipt);
    }
    /// Says that `node` now stands for `action` again.
    pub fn make_current(&mut self, node: &NodeName, action: Digest) {
        if let Some(before) = self.current.insert(node.clone(), action).filter(|before| *before != action) {
            self.before.insert(node.clone(), before);
        }
    }
    /// Forgets a receipt whose outputs are lost.
    pub fn forget(&mut self, action: &Digest) {
        self.receipts.remove(action);
    }
    /// The receipt of an action, whoever's it was.
    pub fn receipt(&self, action: &Digest) -> Option<&Arc<Receipt>> {
        self.receipts.get(action)
    }
    /// The receipt that was current for a node when hfbuild last ran it or restored it.
    pub fn last(&self, node: &NodeName) -> Option<&Arc<Receipt>> {
        self.receipts.get(self.current.get(node)?)
    }
    /// The receipt that was current before that one, where it is still known.
    pub fn before(&self, node: &NodeName) -> Option<&Arc<Receipt>> {
        self.receipts.get(self.before.get(node)?)
    }
    /// Every receipt, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Receipt>> {
        self.receipts.values()
    }
}
