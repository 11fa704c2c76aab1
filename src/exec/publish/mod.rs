//! Publishing: one atomic commit on the known parent, journalled before it is sent, found again after a lost answer,
//! verified by digest, recorded.
//!
//! The steps stand in the order of [`Publisher::send`]. A kill between any two of them leaves either nothing on the
//! remote or a commit that the next run finds by its nonce; blobs that were uploaded are not sent again.

mod content;
mod dist;
mod drift;
mod intents;
mod moved;
mod proof;
mod propose;
mod results;
pub mod rollback;
mod tag;

use moved::has_moved;

pub use drift::drift_error;
pub use intents::settle_intents;
pub use tag::check_tag;

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::gate::Outcome;
use crate::core::graph::NodeId;
use crate::core::limits;
use crate::core::manifest::Hub;
use crate::core::plan::{Decision, RECORD, Settled, decide};
use crate::core::publish::{self, Changes, Intent, Observed, Propose, Published, PullRequest, Tree, UploadVerdict};
use crate::exec::drive::{Driver, now_ms};
use crate::exec::remote::{Found, Remote};
use crate::hub::client::{CommitOutcome, CommitRequest, Operation};
use std::time::Duration;

/// How often a publish is planned anew after somebody moved the branch.
const REPLANS: usize = 5;
/// How often a commit is sent whose answers are lost.
const LOST: u32 = 3;

/// One publish.
pub struct Publisher<'d, 'a> {
    /// The run.
    pub driver: &'d mut Driver<'a>,
    /// The hub.
    pub remote: &'d Remote,
    /// The node.
    pub upload: NodeId,
    /// Of a rollback: what it restores.
    pub restores: Option<rollback::Restores>,
}

/// What came of one try.
enum Sent {
    Commit(Landed),
    /// From which commit, and what was there.
    Moved(Moved),
}

/// A branch, or the ref of a pull request, that is no longer where a plan saw it.
struct Moved {
    revision: String,
    parent: String,
}

/// What a commit brings.
struct Content {
    operations: Vec<Operation>,
    /// What the manifest lets pass in it, a line each.
    findings: Vec<String>,
}

/// A commit that is there.
struct Landed {
    commit: String,
    parent: String,
    /// Found there, after a lost answer.
    found: bool,
    pull_request: Option<PullRequest>,
}

impl Driver<'_> {
    /// Gates over `published` refused: nothing is sent.
    pub(super) fn refuse(&mut self, asked: &[(NodeId, Outcome)]) {
        for (gate, outcome) in asked {
            let node = self.project.graph.node(*gate).name.to_string();
            self.emit(Event::Gate { node, outcome: outcome.clone() });
            if !outcome.passed() {
                self.settled[gate.index()] = Some(Settled::Judged(outcome.clone()));
                self.summary.refused += 1;
            }
        }
        self.spare();
    }
}

impl Publisher<'_, '_> {
    /// Brings the remote to the decided tree, or finds that it is there already.
    pub async fn publish(&mut self, mut decision: Decision) -> Result<()> {
        for _ in 0..REPLANS {
            let Some((tree, record, verdict)) = decision.upload.take() else {
                self.driver.refuse(&decision.asked);
                return Err(Error::new(ErrorKind::Gate, "a gate refuses against what was published meanwhile"));
            };
            if matches!(&verdict, Some(UploadVerdict::Send { changes, .. }) if !changes.add.is_empty())
                && self.list_unlisted().await?
            {
                decision = self.decide_again();
                continue;
            }
            let unchanged =
                matches!(verdict, Some(UploadVerdict::UpToDate { adopt: false, .. } | UploadVerdict::Proposed { .. }));
            if !(unchanged && self.is_laid_out(&record)?) {
                self.lay_out(&tree, &record)?;
            }
            let allowed = &decision.allowed;
            match verdict.ok_or_else(|| Error::bug("a publish whose remote was not observed"))? {
                UploadVerdict::UpToDate { commit, adopt } => {
                    return self.up_to_date(tree, commit, adopt, allowed).await;
                }
                UploadVerdict::Proposed { pull_request, commit } => {
                    return self.is_proposed(tree, commit, pull_request, allowed);
                }
                UploadVerdict::Drift { files, pull_request } => {
                    return Err(drift_error(&files, self.remote, pull_request));
                }
                UploadVerdict::Send { changes, over, pull_request } => {
                    self.tell_over(&over, pull_request);
                    self.tell_asked(&decision.asked);
                    match self.send(&tree, changes, allowed, pull_request).await? {
                        Sent::Commit(landed) => {
                            return self.landed(tree, landed, allowed, pull_request, !over.is_empty()).await;
                        }
                        Sent::Moved(moved) => {
                            self.tell_moved(&moved).await?;
                            decision = self.look_again().await?;
                        }
                    }
                }
            }
        }
        Err(Error::hub(format!("`{}` moved {REPLANS} times while publishing", self.remote.target))
            .hint("run hfbuild again when it is quieter"))
    }

    async fn look_again(&mut self) -> Result<Decision> {
        let graph = &self.driver.project.graph;
        let blobs = graph.asks_published().then(|| self.driver.store.blobs());
        let how = graph.upload(self.upload).map(|upload| self.driver.world.how(upload)).unwrap_or_default();
        let observed = self.remote.observe(&self.driver.loaded.publishes, blobs.as_ref(), how).await?;
        self.driver.world.remotes.insert(self.upload, observed);
        Ok(self.decide_again())
    }

    /// Lists what the remote has, where it was not: a file may stand where a new one would go. Whether it did.
    async fn list_unlisted(&mut self) -> Result<bool> {
        let upload = self.driver.project.graph.upload(self.upload);
        let how = upload.map(|upload| self.driver.world.how(upload)).unwrap_or_default();
        let observed = self.driver.world.remotes.get_mut(&self.upload).filter(|observed| observed.is_unlisted());
        let Some(observed) = observed else { return Ok(false) };
        self.remote.list(&self.driver.loaded.publishes, how, observed).await?;
        Ok(true)
    }

    fn decide_again(&self) -> Decision {
        let driver = &self.driver;
        decide(&driver.project.graph, self.upload, &driver.settled, &driver.loaded.history, &driver.world)
    }

    /// Says how the gates over `published` ended: all of them passed, or may refuse.
    fn tell_asked(&self, asked: &[(NodeId, Outcome)]) {
        for (gate, outcome) in asked {
            let node = self.driver.project.graph.node(*gate).name.to_string();
            let values = outcome.values().iter().map(|(name, value)| format!("`{name}` is {value}"));
            self.driver.emit(match outcome.passed() {
                true => Event::Gate { node, outcome: outcome.clone() },
                false => Event::Warning {
                    text: format!(
                        "{node} refuses, and `--allow-regression` publishes all the same: {}",
                        values.collect::<Vec<_>>().join(", ")
                    ),
                },
            });
        }
    }

    async fn up_to_date(&mut self, tree: Tree, commit: String, adopt: bool, allowed: &[String]) -> Result<()> {
        let repo = self.remote.target.to_string();
        let was_cut_off = self.driver.recovered.contains(&commit);
        let last = self.driver.loaded.publishes.last(&self.remote.target);
        let known = last.filter(|_| !adopt).cloned();
        let mut published = known.unwrap_or_else(|| self.adopted(tree, &commit, allowed));
        // a tag that could not be set then, or that the manifest names since
        let due =
            self.hub()?.tag.clone().filter(|tag| published.restores.is_none() && published.tag.as_ref() != Some(tag));
        if due.is_some() {
            if self.tag(&published.commit).await? && !was_cut_off {
                let text = format!("tagged {} `{}`", short(&published.commit), due.as_deref().unwrap_or_default());
                self.driver.emit(Event::Note { text });
            }
            published.tag.clone_from(&due);
        }
        if adopt || due.is_some() {
            self.record(published)?;
        }
        if was_cut_off {
            self.driver.emit(Event::Published { repo, commit: commit.clone(), found: true });
            self.driver.summary.commits.push(commit);
            self.look_at();
            return Ok(());
        }
        self.driver.emit(Event::RemoteFresh { repo, commit: commit.clone() });
        self.driver.summary.unchanged.push(commit);
        Ok(())
    }

    /// What this machine did not know yet: the remote has this tree at `head`. The publish that left it is the one whose
    /// files they are, which others may have committed upon.
    fn adopted(&self, tree: Tree, head: &str, allowed: &[String]) -> Published {
        let observed = self.driver.world.remotes.get(&self.upload);
        let is_its = |observed: &&Observed| {
            observed.managed.len() == tree.len()
                && tree.iter().all(|(path, file)| observed.managed.get(path) == Some(&file.hub))
        };
        let commit = observed.filter(is_its).and_then(|observed| observed.by.clone()).unwrap_or_else(|| head.into());
        let before = self.driver.loaded.publishes.landed.iter().rev();
        let before = before.clone().find(|p| p.target == self.remote.target && p.commit == commit).cloned();
        let head = (commit != head).then(|| head.to_string());
        match before {
            Some(before) => Published { head, ..before },
            None => Published {
                target: self.remote.target.clone(),
                commit,
                head,
                tag: None,
                parent: None,
                tree,
                at_ms: now_ms(),
                allowed: allowed.to_vec(),
                pull_request: None,
                restores: None,
            },
        }
    }

    fn record(&mut self, published: Published) -> Result<()> {
        self.driver.recorder.published(&published)?;
        self.driver.loaded.publishes.landed.push(published);
        Ok(())
    }

    /// Preflight of the tree, repo and branch, content, intent, commit.
    async fn send(
        &mut self,
        tree: &Tree,
        changes: Changes,
        allowed: &[String],
        propose: Option<Propose>,
    ) -> Result<Sent> {
        limits::check_changes(tree, &changes)?;
        self.check_weights()?; // says which gate would let them pass
        let findings = self.refuse_leaks(tree, &changes)?;
        let asked = self.check_tree(tree, &changes).await?;
        let target = self.remote.target.clone();
        let Some(parent) = self.parent(tree, propose).await? else {
            let observed = self.driver.world.remotes.get(&self.upload);
            let parent = observed.and_then(|observed| observed.start.clone()).unwrap_or_default();
            return Ok(Sent::Moved(Moved { revision: target.revision, parent }));
        };
        if changes.is_empty() {
            // the branch alone was missing
            let commit = parent.clone();
            return Ok(Sent::Commit(Landed { commit, parent, found: false, pull_request: None }));
        }
        self.driver.emit(Event::Uploading { repo: target.to_string(), changes: changes.clone() });
        let number = propose.and_then(|p| p.number);
        let remote = number.map_or(self.remote.clone(), |n| self.remote.at(&PullRequest::revision(n)));
        let mut on_ref = Publisher { driver: &mut *self.driver, remote: &remote, upload: self.upload, restores: None };
        let operations = on_ref.upload_content(tree, &changes, &asked, &parent).await?;
        self.journalled(tree, &changes, allowed, propose, parent, Content { operations, findings }).await
    }

    /// Intent and commit. What it names is on the remote already.
    async fn journalled(
        &mut self,
        tree: &Tree,
        changes: &Changes,
        allowed: &[String],
        propose: Option<Propose>,
        parent: String,
        content: Content,
    ) -> Result<Sent> {
        let target = self.remote.target.clone();
        let number = propose.and_then(|p| p.number);
        let remote = number.map_or(self.remote.clone(), |n| self.remote.at(&PullRequest::revision(n)));
        if has_moved(&remote, &parent).await? {
            return Ok(Sent::Moved(Moved { revision: remote.target.revision, parent }));
        }
        let nonce = format!("hfbuild-{}", intents::nonce());
        let intent = Intent {
            target,
            parent: parent.clone(),
            tree: tree.clone(),
            nonce: nonce.clone(),
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
            pull_request: propose,
            restores: self.restores.as_ref().map(|r| r.commit.clone()),
        };
        self.driver.cancel.check()?;
        self.driver.recorder.intent(&intent)?;
        let request = CommitRequest {
            summary: self.summary(changes),
            description: format!(
                "{}\n\n{}{}{}tree: {}\nrecord: {}\nnonce: {nonce}",
                describe(changes),
                intent.restores.iter().map(|commit| format!("restores: {commit}\n")).collect::<String>(),
                content.findings.iter().map(|finding| format!("allowed finding: {finding}\n")).collect::<String>(),
                allowed.iter().map(|clause| format!("allowed regression: {clause}\n")).collect::<String>(),
                publish::tree_digest(tree),
                tree[RECORD].hub.sha256
            ),
            parent,
            operations: content.operations,
        };
        self.commit(&remote, &intent, &request).await
    }

    /// Posts the commit until it is known what became of it.
    async fn commit(&mut self, at: &Remote, intent: &Intent, request: &CommitRequest) -> Result<Sent> {
        let remote = self.remote;
        let landed = |commit, found, pull_request| {
            Ok(Sent::Commit(Landed { commit, parent: intent.parent.clone(), found, pull_request }))
        };
        let (mut throttled, mut lost) = (0, 0);
        loop {
            let outcome = match intent.pull_request {
                Some(Propose { number: None }) => remote.client.propose(&at.repo, &at.target.revision, request).await,
                _ => remote.client.commit(&at.repo, &at.target.revision, request).await,
            };
            if outcome.is_err() {
                self.driver.recorder.abandoned(&intent.nonce)?; // an error: it surely did not land
            }
            match outcome? {
                CommitOutcome::Landed { oid, pull_request, .. } => {
                    return landed(oid, false, self.opened(intent, pull_request).await?);
                }
                CommitOutcome::ParentMoved => {
                    // our own commit may be what moved it: an answer that was lost on the way, then a second try
                    if let Some(Found { commit, pull_request }) = remote.find_landed(intent, Duration::ZERO).await? {
                        return landed(commit, true, pull_request);
                    }
                    self.driver.recorder.abandoned(&intent.nonce)?;
                    let (revision, parent) = (at.target.revision.clone(), intent.parent.clone());
                    return Ok(Sent::Moved(Moved { revision, parent }));
                }
                CommitOutcome::Throttled { wait } => {
                    throttled += 1;
                    let Some(pause) = remote.client.pause(throttled, wait) else {
                        self.driver.recorder.abandoned(&intent.nonce)?;
                        return Err(throttled_too_long(wait));
                    };
                    self.driver.emit(Event::Note { text: format!("the Hub asks to wait {} s", pause.as_secs()) });
                    tokio::time::sleep(pause).await;
                }
                CommitOutcome::Unknown { reason } => {
                    self.driver.emit(Event::Warning {
                        text: format!("the answer to the commit was lost ({reason}): looking for it"),
                    });
                    if let Some(found) = remote.find_landed(intent, remote.may_still_land()).await? {
                        return landed(found.commit, true, found.pull_request);
                    }
                    if intent.pull_request == Some(Propose { number: None }) {
                        // nothing would refuse a second pull request
                        return Err(Error::hub("it is not known whether the pull request was opened")
                            .hint("run hfbuild again: it looks for it, and opens one only where there is none"));
                    }
                    lost += 1;
                    if lost == LOST {
                        return Err(Error::hub(format!("the commit was sent {LOST} times and did not land"))
                            .cause(reason)
                            .hint("what was uploaded stays there: run hfbuild again, it looks for the commit first"));
                    }
                    // it carries its parent: should it land after all, the second one is refused
                    self.driver.emit(Event::Note { text: "the commit did not land: sending it again".into() });
                }
            }
            self.driver.cancel.check()?;
        }
    }

    /// After the commit: verify, tag, record. The record comes last, so that a kill before it is found by the intent.
    async fn landed(
        &mut self,
        tree: Tree,
        landed: Landed,
        allowed: &[String],
        propose: Option<Propose>,
        drifted: bool,
    ) -> Result<()> {
        let Landed { commit, parent, found, pull_request } = landed;
        self.verify(&tree, &commit).await?;
        // neither a proposal nor a rollback is a new version
        let tag = self.hub()?.tag.clone().filter(|_| pull_request.is_none() && self.restores.is_none());
        let tagged = if tag.is_some() { self.tag(&commit).await } else { Ok(false) };
        self.record(Published {
            target: self.remote.target.clone(),
            commit: commit.clone(),
            head: None,
            tag: tag.filter(|_| tagged.is_ok()),
            parent: Some(parent),
            tree,
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
            pull_request: pull_request.clone(),
            restores: self.restores.as_ref().map(|r| r.commit.clone()),
        })?;
        if let Some(pull_request) = pull_request {
            self.proposed(pull_request, commit, propose, drifted);
            return Ok(());
        }
        self.driver.emit(Event::Published { repo: self.remote.target.to_string(), commit: commit.clone(), found });
        self.driver.summary.commits.push(commit);
        self.look_at();
        // the commit stands and is recorded; the next run tries the tag again
        tagged.map(|_| ()).map_err(|e| e.hint("the commit is published without its tag: run hfbuild again to set it"))
    }

    /// Proves by digest that the remote is what was sent.
    async fn verify(&self, tree: &Tree, commit: &str) -> Result<()> {
        match proof::unlike(self.remote, tree, commit).await? {
            None => Ok(()),
            Some(what) => Err(Error::hub(format!("commit {commit} landed, but {what} there"))
                .hint("run hfbuild again to look at it anew")),
        }
    }

    fn hub(&self) -> Result<&Hub> {
        let upload = self.driver.project.graph.upload(self.upload);
        upload.map(|upload| &upload.to).ok_or_else(|| Error::bug("a publish that is no upload"))
    }

    fn summary(&self, changes: &Changes) -> String {
        let project = &self.driver.project.manifest.project;
        let n = changes.sent().count() + changes.delete.len();
        let files = if n == 1 { "1 file".to_string() } else { format!("{n} files") };
        match &self.restores {
            Some(restores) => format!("{}: back to {}: {files}", project.name, restores.label()),
            None => format!("{} {}: {files}", project.name, project.version),
        }
    }
}

fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

fn throttled_too_long(asked: Option<Duration>) -> Error {
    let error = Error::hub("the hub's rate limit is used up: the commit was not taken");
    let error = match asked {
        Some(asked) => error.cause(format!("it asks to wait {} s", asked.as_secs())),
        None => error,
    };
    error.hint("wait some minutes and run it again; nothing is lost")
}

fn describe(changes: &Changes) -> String {
    let line = |sign: &str, path: &str| format!("{sign} {path}");
    let mut lines: Vec<String> = changes.add.iter().map(|f| line("+", &f.path)).collect();
    lines.extend(changes.change.iter().map(|f| line("~", &f.path)));
    lines.extend(changes.delete.iter().map(|p| line("-", p)));
    if lines.len() > 20 {
        let more = lines.len() - 20;
        lines.truncate(20);
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}
