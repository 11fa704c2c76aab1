//! What happens during a run, as data. The engine reports events; `ui` shows them and `store` keeps them as JSON lines.

use crate::core::error::Error;
use crate::core::gate::Outcome;
use crate::core::publish::Changes;
use crate::core::verdict::{Reason, Verdict};
use serde::Serialize;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The plan is made; so many nodes will be looked at.
    Planned {
        /// Nodes that are wanted.
        nodes: usize,
    },
    /// These are up to date.
    Fresh {
        /// Names.
        nodes: Vec<String>,
    },
    /// A stage starts.
    Running {
        /// Its name.
        node: String,
        /// Why.
        reasons: Vec<Reason>,
    },
    /// A stage says how far it is.
    Progress {
        /// Its name.
        node: String,
        /// Steps done.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// A stage has ended well.
    Finished {
        /// Its name.
        node: String,
        /// Wall seconds.
        seconds: f64,
        /// Bytes of output.
        bytes: u64,
        /// Whether the output is the same as before, so that the wave stops here.
        same: bool,
        /// Shards of the same artifact that are still to come.
        left: usize,
    },
    /// What was pending turned out unchanged.
    Cutoff {
        /// Its name.
        node: String,
    },
    /// Outputs were put in place from the CAS.
    Restored {
        /// Its name.
        node: String,
        /// How many places were written.
        places: usize,
    },
    /// A gate was asked.
    Gate {
        /// The clause's node.
        node: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// These will not run.
    Blocked {
        /// Their names.
        nodes: Vec<String>,
        /// Because of this failed stage or refused gate.
        by: String,
    },
    /// A stage failed.
    Failed {
        /// Its name.
        node: String,
        /// The message.
        error: String,
    },
    /// A publish starts.
    Uploading {
        /// The repo.
        repo: String,
        /// What the commit brings.
        changes: Changes,
    },
    /// An earlier publish is restored.
    RollingBack {
        /// The repo.
        repo: String,
        /// Its commit and version.
        to: String,
        /// What the commit changes.
        changes: Changes,
    },
    /// Bytes went to the Hub.
    Sent {
        /// The repo.
        repo: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A commit landed.
    Published {
        /// The repo.
        repo: String,
        /// Its commit.
        commit: String,
        /// Found landed already, after a lost answer or a kill.
        found: bool,
    },
    /// The remote is what it should be; no commit.
    RemoteFresh {
        /// The repo.
        repo: String,
        /// Its commit.
        commit: String,
    },
    /// Something worth knowing that stops nothing.
    Note {
        /// In words.
        text: String,
    },
    /// Something wrong that stops nothing.
    Warning {
        /// In words.
        text: String,
    },
}

/// What a run came to.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Summary {
    /// Stages that ran.
    pub ran: usize,
    /// Nodes that were up to date, restored ones included.
    pub fresh: usize,
    /// Nodes whose outputs were put in place from the CAS.
    pub restored: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Gates that refused.
    pub refused: usize,
    /// Nodes that did not run because of these.
    pub blocked: usize,
    /// Commits that were made.
    pub commits: Vec<String>,
    /// Where the remote was up to date: its commits.
    pub unchanged: Vec<String>,
    /// Everything that went wrong.
    pub errors: Vec<Error>,
}

/// A verdict as `plan --json` names it.
pub fn verdict_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::UpToDate => "up_to_date",
        Verdict::Restore { .. } => "restore",
        Verdict::Run { .. } => "run",
        Verdict::Pending { .. } => "pending",
        Verdict::Blocked { .. } => "blocked",
    }
}
