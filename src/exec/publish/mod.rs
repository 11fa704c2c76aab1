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

pub use drift::drift_error;
pub use intents::settle_intents;

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::gate::Outcome;
use crate::core::graph::NodeId;
use crate::core::limits;
use crate::core::manifest::{Hub, OnTag};
use crate::core::plan::{Decision, RECORD, Settled, decide};
use crate::core::publish::{self, Changes, Intent, Published, Tree, UploadVerdict, is_same};
use crate::exec::drive::{Driver, now_ms};
use crate::exec::remote::Remote;
use crate::hub::client::{CommitOutcome, CommitRequest};
use std::time::Duration;

/// How often a publish is planned anew after somebody moved the branch.
const REPLANS: usize = 5;

/// One publish.
pub struct Publisher<'d, 'a> {
    /// The run.
    pub driver: &'d mut Driver<'a>,
    /// The hub.
    pub remote: &'d Remote,
    /// The node.
    pub upload: NodeId,
}

/// What came of one try.
enum Sent {
    Commit { commit: String, parent: String, found: bool },
    Moved { parent: String },
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
            let unchanged = matches!(verdict, Some(UploadVerdict::UpToDate { adopt: false, .. }));
            if !(unchanged && self.is_laid_out(&record)?) {
                self.lay_out(&tree, &record)?;
            }
            let allowed = &decision.allowed;
            match verdict.ok_or_else(|| Error::bug("a publish whose remote was not observed"))? {
                UploadVerdict::UpToDate { commit, adopt } => {
                    return self.up_to_date(tree, commit, adopt, allowed).await;
                }
                UploadVerdict::Drift { files } => return Err(drift_error(&files, self.remote)),
                UploadVerdict::Send { changes, over } => {
                    if !over.is_empty() {
                        let list: Vec<_> = over.iter().map(drift::drifted_path).collect();
                        self.driver.emit(Event::Warning {
                            text: format!("publishing over changes on the remote: {}", list.join(", ")),
                        });
                    }
                    self.tell_asked(&decision.asked);
                    match self.send(&tree, changes, allowed).await? {
                        Sent::Commit { commit, parent, found } => {
                            return self.landed(tree, commit, parent, found, allowed).await;
                        }
                        Sent::Moved { parent } => {
                            self.tell_moved(&parent).await?;
                            decision = self.look_again().await?;
                        }
                    }
                }
            }
        }
        Err(Error::hub(format!("`{}` moved {REPLANS} times while publishing", self.remote.target.repo))
            .hint("run hfbuild again when it is quieter"))
    }

    async fn look_again(&mut self) -> Result<Decision> {
        let graph = &self.driver.project.graph;
        let blobs = graph.asks_published().then(|| self.driver.store.blobs());
        let observed = self.remote.observe(&self.driver.loaded.publishes, blobs.as_ref()).await?;
        self.driver.world.remotes.insert(self.upload, observed);
        let driver = &self.driver;
        Ok(decide(graph, self.upload, &driver.settled, &driver.loaded.history, &driver.world))
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
        if adopt {
            let target = self.remote.target.clone();
            let allowed = allowed.to_vec();
            let published = Published { target, commit: commit.clone(), parent: None, tree, at_ms: now_ms(), allowed };
            self.driver.recorder.published(&published)?;
            self.driver.loaded.publishes.landed.push(published);
        }
        let repo = self.remote.target.repo.clone();
        if self.driver.recovered.as_ref() == Some(&commit) {
            // the run before was cut off between its commit and its record: finish what it began
            self.tag(&commit).await?;
            self.driver.emit(Event::Published { repo, commit: commit.clone(), found: true });
            self.driver.summary.commits.push(commit);
            return Ok(());
        }
        self.driver.emit(Event::RemoteFresh { repo, commit: commit.clone() });
        self.driver.summary.unchanged.push(commit);
        Ok(())
    }

    /// Preflight of the tree, repo, content, intent, commit.
    async fn send(&mut self, tree: &Tree, changes: Changes, allowed: &[String]) -> Result<Sent> {
        limits::check(tree, &changes)?;
        self.check_card(tree).await?;
        let (remote, target) = (self.remote, self.remote.target.clone());
        let parent = self.parent().await?;
        self.driver.emit(Event::Uploading { repo: target.repo.clone(), changes: changes.clone() });
        let operations = self.upload_content(tree, &changes, &parent).await?;
        if self.has_moved(&parent).await? {
            return Ok(Sent::Moved { parent });
        }
        let nonce = format!("hfbuild-{}", intents::nonce());
        let digest = publish::tree_digest(tree);
        let intent = Intent {
            target,
            parent: parent.clone(),
            tree: tree.clone(),
            nonce: nonce.clone(),
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
        };
        self.driver.cancel.check()?;
        self.driver.recorder.intent(&intent)?;
        let request = CommitRequest {
            summary: self.summary(&changes),
            description: format!(
                "{}\n\n{}tree: {digest}\nrecord: {}\nnonce: {nonce}",
                describe(&changes),
                allowed.iter().map(|clause| format!("allowed regression: {clause}\n")).collect::<String>(),
                tree[RECORD].hub.sha256
            ),
            parent,
            operations,
        };
        loop {
            match remote.client.commit(&remote.repo, &remote.target.revision, &request).await? {
                CommitOutcome::Landed { oid, .. } => {
                    return Ok(Sent::Commit { commit: oid, parent: intent.parent, found: false });
                }
                CommitOutcome::ParentMoved => {
                    // our own commit may be what moved it: an answer that was lost on the way, then a second try
                    if let Some(commit) = remote.find_landed(&intent, Duration::ZERO).await? {
                        return Ok(Sent::Commit { commit, parent: intent.parent, found: true });
                    }
                    self.driver.recorder.abandoned(&nonce)?;
                    return Ok(Sent::Moved { parent: intent.parent });
                }
                CommitOutcome::Throttled { wait } => {
                    let wait = wait.unwrap_or(Duration::from_secs(5)).min(Duration::from_secs(300));
                    self.driver.emit(Event::Note { text: format!("the Hub asks to wait {} s", wait.as_secs()) });
                    tokio::time::sleep(wait).await;
                }
                CommitOutcome::Unknown { reason } => {
                    self.driver.emit(Event::Warning {
                        text: format!("the answer to the commit was lost ({reason}): looking for it"),
                    });
                    if let Some(commit) = remote.find_landed(&intent, remote.may_still_land()).await? {
                        return Ok(Sent::Commit { commit, parent: intent.parent, found: true });
                    }
                    // it carries its parent: should it land after all, the second one is refused
                    self.driver.emit(Event::Note { text: "the commit did not land: sending it again".into() });
                }
            }
            self.driver.cancel.check()?;
        }
    }

    /// The commit to publish on: the head that was observed, or that of a repo that is made now.
    async fn parent(&self) -> Result<String> {
        let (remote, target) = (self.remote, &self.remote.target);
        if let Some(head) = self.driver.world.remotes.get(&self.upload).and_then(|observed| observed.head.clone()) {
            return Ok(head);
        }
        remote.client.create_repo(&remote.repo, self.hub()?.private, None).await?;
        let head = remote.client.head(&remote.repo, &target.revision).await?;
        let none = || Error::hub(format!("`{}` has no branch `{}`", target.repo, target.revision));
        Ok(head.ok_or_else(none)?.sha)
    }

    /// After the commit: verify, tag, record. The record comes last, so that a kill before it is found by the intent.
    async fn landed(
        &mut self,
        tree: Tree,
        commit: String,
        parent: String,
        found: bool,
        allowed: &[String],
    ) -> Result<()> {
        self.verify(&tree, &commit).await?;
        self.tag(&commit).await?;
        let published = Published {
            target: self.remote.target.clone(),
            commit: commit.clone(),
            parent: Some(parent),
            tree,
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
        };
        self.driver.recorder.published(&published)?;
        self.driver.loaded.publishes.landed.push(published);
        self.driver.emit(Event::Published { repo: self.remote.target.repo.clone(), commit: commit.clone(), found });
        self.driver.summary.commits.push(commit);
        Ok(())
    }

    /// Proves by digest that the remote is what was sent.
    async fn verify(&self, tree: &Tree, commit: &str) -> Result<()> {
        let there = self.remote.client.tree(&self.remote.repo, commit).await?;
        for (path, file) in tree {
            let same = there.get(path).is_some_and(|r| {
                is_same(
                    file,
                    &publish::RemoteFile { size: r.size, git_sha1: r.git_sha1.clone(), sha256: r.sha256.clone() },
                )
            });
            if !same {
                let what = if there.contains_key(path) { "has other content" } else { "is missing" };
                return Err(Error::hub(format!("commit {commit} landed, but `{path}` {what} there"))
                    .hint("run hfbuild again to look at it anew"));
            }
        }
        Ok(())
    }

    async fn tag(&mut self, commit: &str) -> Result<()> {
        let Some(name) = self.hub()?.tag.clone() else { return Ok(()) };
        let tags = self.remote.client.tags(&self.remote.repo).await?;
        match tags.get(&name) {
            Some(at) if at == commit => Ok(()),
            Some(_) => {
                let text =
                    format!("tag `{name}` is there already and stays where it is (raise `version` for a new one)");
                self.driver.emit(Event::Note { text });
                Ok(())
            }
            None => self.remote.client.create_tag(&self.remote.repo, &name, commit).await,
        }
    }

    fn hub(&self) -> Result<&Hub> {
        self.driver.project.manifest.hub.as_ref().ok_or_else(|| Error::bug("a publish without [hub]"))
    }

    fn summary(&self, changes: &Changes) -> String {
        let project = &self.driver.project.manifest.project;
        let files = changes.sent().count() + changes.delete.len();
        format!("{} {}: {files} {}", project.name, project.version, if files == 1 { "file" } else { "files" })
    }
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

/// Refuses, before any stage runs, a publish whose tag is there already where the manifest says `on_tag = "fail"`.
pub async fn check_tag(remote: &Remote, hub: &Hub) -> Result<()> {
    let Some(name) = hub.tag.as_ref().filter(|_| hub.on_tag == OnTag::Fail) else { return Ok(()) };
    match remote.client.tags(&remote.repo).await?.contains_key(name) {
        false => Ok(()),
        true => Err(Error::hub(format!("tag `{name}` is there already, and `on_tag` is \"fail\""))
            .hint("raise `version` in [project]")),
    }
}
