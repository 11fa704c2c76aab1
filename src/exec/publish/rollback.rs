//! A rollback: the tree of an earlier publish, in one commit on the known parent, through the same intent, verification
//! and record as any publish.
//!
//! Large files are named by their SHA-256: the Hub still has them, and they are neither read nor sent. Small ones are read
//! from the cache or from the old commit. What the Hub lacks is sent from the cache. Only files that a publish put there
//! are touched, and no tag is set.

use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::leaks::{Finding, Findings, Spot};
use crate::core::manifest::OnDrift;
use crate::core::past::{Recorded, compare, files_of};
use crate::core::plan::RECORD;
use crate::core::publish::{
    Changes, Drifted, How, Published, RemoteFile, Tree, TreeFile, UploadVerdict, decide_upload, tree_digest,
};
use crate::core::record;
use crate::exec::baseline::files_at;
use crate::exec::history::Entry;
use crate::exec::publish::{Content, Moved, Publisher, REPLANS, Sent, drift, drift_error};
use crate::exec::remote::Remote;
use crate::hub::client::Operation;
use crate::store::blobs::Blobs;
use crate::store::records::Publishes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a rollback restores.
#[derive(Debug, Clone)]
pub struct Restores {
    /// The publish's commit.
    pub commit: String,
    /// Its version or tag, for the commit's title.
    pub version: Option<String>,
}

impl Restores {
    /// `3f2a91c (1.0.0)`
    pub fn label(&self) -> String {
        let short = self.commit.get(..7).unwrap_or(&self.commit);
        self.version.as_ref().map_or(short.to_string(), |version| format!("{short} ({version})"))
    }
}

/// A tree that can be restored.
#[derive(Debug, Clone)]
pub struct Version {
    /// What it is.
    pub restores: Restores,
    /// Its files; content that this machine never held is [`Digest::UNHELD`].
    pub tree: Tree,
    /// Regressions that were allowed then.
    pub allowed: Vec<String>,
    /// Findings that were let pass in it then, path and rule.
    pub findings: BTreeSet<(String, String)>,
    /// What its commit has on the remote; `None`: it is no longer there.
    there: Option<BTreeMap<String, RemoteFile>>,
}

/// Finds out what a publish left, from its receipt or from its own record at its commit.
pub async fn version(
    remote: &Remote,
    entry: &Entry,
    record: Option<&[u8]>,
    findings: BTreeSet<(String, String)>,
    publishes: &Publishes,
    held: &HashMap<String, Digest>,
) -> Result<Version> {
    let unreadable = |why: &str| {
        Error::hub(format!("what commit {} published is not known: {why}", entry.commit))
            .hint("`hfbuild history` lists the publishes that can be restored")
    };
    let tree = match &entry.receipt {
        Some(receipt) => receipt.tree.clone(),
        None => {
            let bytes = record.ok_or_else(|| unreadable(&format!("`{RECORD}` is not there")))?;
            let files =
                record::files(bytes).ok_or_else(|| unreadable(&format!("`{RECORD}` is no record of hfbuild")))?;
            let known: HashMap<&str, Digest> = publishes
                .landed
                .iter()
                .flat_map(|p| p.tree.values())
                .map(|f| (f.hub.sha256.as_str(), f.digest))
                .collect();
            let digest = |sha256: &str| known.get(sha256).or_else(|| held.get(sha256)).copied();
            let file = |f: Recorded| TreeFile {
                size: f.size,
                digest: digest(&f.hub.sha256).unwrap_or(Digest::UNHELD),
                hub: f.hub,
            };
            files.into_iter().map(|(path, f)| (path, file(f))).collect()
        }
    };
    if tree_digest(&tree).hex() != entry.tree {
        return Err(unreadable("its record is not the one that the commit names"));
    }
    let there = match entry.there {
        Some(false) => None,
        _ => files_at(remote, &entry.commit).await.map(Some).or_else(|e| match entry.receipt {
            Some(_) => Ok(None), // the commit is no more, and the cache may have it all
            None => Err(e),
        })?,
    };
    let account = record.and_then(record::account).unwrap_or_default();
    let version = account.version.or_else(|| entry.tags.first().cloned());
    let allowed = entry.receipt.as_ref().map_or(account.allowed, |receipt| receipt.allowed.clone());
    Ok(Version { restores: Restores { commit: entry.commit.clone(), version }, tree, allowed, findings, there })
}

/// What came of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolledBack {
    /// It is the new head.
    Commit(String),
    /// The remote had this tree already.
    Already(String),
}

/// What a rollback would change, or why it may not.
pub fn decide(version: &Version, observed: &crate::core::publish::Observed, overwrite: bool) -> UploadVerdict {
    let on_drift = if overwrite { OnDrift::Overwrite } else { OnDrift::Fail };
    decide_upload(&version.tree, observed, How { on_drift, pull_request: false, mirror: false })
}

impl Publisher<'_, '_> {
    /// Restores a version.
    pub async fn roll_back(&mut self, version: &Version, overwrite: bool) -> Result<RolledBack> {
        for _ in 0..REPLANS {
            let (publishes, how) = (&self.driver.loaded.publishes, How::default());
            let mut observed = self.remote.observe(publishes, None, how).await?;
            self.remote.list(publishes, how, &mut observed).await?;
            match decide(version, &observed, overwrite) {
                UploadVerdict::UpToDate { commit, .. } => return Ok(RolledBack::Already(commit)),
                UploadVerdict::Drift { files, .. } => return Err(may_not(&files, self.remote)),
                UploadVerdict::Proposed { .. } => return Err(Error::bug("a rollback proposes nothing")),
                UploadVerdict::Send { changes, over, .. } => {
                    if !over.is_empty() {
                        let list: Vec<_> = over.iter().map(drift::drifted_path).collect();
                        let text = format!("rolling back over changes on the remote: {}", list.join(", "));
                        self.driver.emit(Event::Warning { text });
                    }
                    let parent = observed.head.ok_or_else(|| may_not(&[Drifted::Gone], self.remote))?;
                    match self.restore(version, changes, parent).await? {
                        Ok(commit) => return Ok(RolledBack::Commit(commit)),
                        Err(moved) => self.tell_moved(&moved).await?,
                    }
                }
            }
        }
        Err(Error::hub(format!("`{}` moved {REPLANS} times while rolling back", self.remote.target.repo))
            .hint("run it again when it is quieter"))
    }

    /// One try: the commit, or what somebody else moved meanwhile.
    async fn restore(
        &mut self,
        version: &Version,
        changes: Changes,
        parent: String,
    ) -> Result<std::result::Result<String, Moved>> {
        let repo = self.remote.target.to_string();
        self.driver.emit(Event::RollingBack { repo, to: version.restores.label(), changes: changes.clone() });
        let mut tree = version.tree.clone();
        let content = self.content(version, &mut tree, &changes, &parent).await?;
        match self.journalled(&tree, &changes, &version.allowed, None, parent, content).await? {
            Sent::Moved(moved) => Ok(Err(moved)),
            Sent::Commit(landed) => {
                let commit = landed.commit.clone();
                self.landed(tree, landed, &version.allowed, None, false).await?;
                Ok(Ok(commit))
            }
        }
    }

    /// What the commit brings: what the Hub has is named, the rest is searched for leaks as in any publish, and sent.
    async fn content(
        &mut self,
        version: &Version,
        tree: &mut Tree,
        changes: &Changes,
        parent: &str,
    ) -> Result<Content> {
        let nothing = BTreeMap::new();
        let there = version.there.as_ref().unwrap_or(&nothing);
        let has = |path: &str| there.get(path).filter(|r| crate::core::publish::is_same(&version.tree[path], r));
        let large: Vec<_> = changes.sent().filter(|f| has(&f.path).is_some_and(|r| r.sha256.is_some())).collect();
        let objects: Vec<_> = large.iter().map(|f| (tree[&f.path].hub.sha256.clone(), f.size)).collect();
        let remote = self.remote;
        let gone = remote.client.objects_gone(&remote.repo, &remote.target.revision, &objects).await?;
        let mut operations = Vec::new();
        let mut bring = Changes { delete: changes.delete.clone(), ..Changes::default() };
        for file in changes.sent() {
            let entry = &tree[&file.path];
            let is_large = has(&file.path).is_some_and(|r| r.sha256.is_some());
            if is_large && !gone.contains(&entry.hub.sha256) {
                let (path, sha256) = (file.path.clone(), entry.hub.sha256.clone());
                operations.push(Operation::AddLfs { path, sha256, size: entry.size });
                continue;
            }
            let is_small = !is_large && has(&file.path).is_some();
            let digest = self.hold(&file.path, entry, is_small.then_some(&version.restores.commit)).await?;
            tree.entry(file.path.clone()).and_modify(|entry| entry.digest = digest);
            bring.change.push(file.clone());
        }
        // what is named is searched too where the cache holds it; else the publish's own word on it counts
        let mut findings =
            self.refuse_leaks(tree, &Changes { change: changes.sent().cloned().collect(), ..bring.clone() })?;
        findings.extend(self.refuse_known(version, tree, &operations)?);
        let asked = self.check_sent(tree, &bring)?;
        operations.extend(self.upload_content(tree, &bring, &asked, parent).await?);
        Ok(Content { operations, findings })
    }

    /// Refuses files that the Hub has and the cache does not, in which something was let pass that no longer is.
    fn refuse_known(&mut self, version: &Version, tree: &Tree, named: &[Operation]) -> Result<Vec<String>> {
        let allowed = &self.hub()?.allow_findings;
        let blobs = self.driver.store.blobs();
        let is_named = |path: &str| named.iter().any(|o| matches!(o, Operation::AddLfs { path: p, .. } if p == path));
        let mut known = Findings::default();
        for (path, rule) in version.findings.iter().filter(|(path, _)| is_named(path)) {
            if !blobs.path(&tree[path].digest).exists() {
                let what = format!("publish {} let it pass", version.restores.label());
                known.add(path, vec![Finding { rule: rule.clone(), spot: Spot::File, what }], allowed);
            }
        }
        match known.refusal() {
            Some(error) => Err(error),
            None => Ok(known.allowed.into_iter().map(|(path, rule)| format!("{rule} in {path}")).collect()),
        }
    }

    /// Makes sure that the cache holds a file's content: it does already, or it is a small one of the old commit.
    async fn hold(&mut self, path: &str, file: &TreeFile, at: Option<&String>) -> Result<Digest> {
        let blobs: Blobs = self.driver.store.blobs();
        if file.digest != Digest::UNHELD && blobs.is_whole(&file.digest, &mut self.driver.memo)? {
            return Ok(file.digest);
        }
        let lost = || {
            Error::new(
                ErrorKind::Hub,
                format!("`{path}` cannot be restored: the Hub no longer has it, and neither has the cache"),
            )
            .hint("put the older sources back, and build: what is made again is published as it was")
        };
        let revision = at.ok_or_else(lost)?;
        let bytes = self.remote.client.download_small(&self.remote.repo, revision, path).await?.ok_or_else(lost)?;
        let found = record::hub_digests(&bytes);
        if found.sha256 != file.hub.sha256 {
            return Err(Error::hub(format!("`{path}` at {revision} came with other content than its record says"))
                .cause(format!("expected SHA-256 {}, found {}", file.hub.sha256, found.sha256)));
        }
        blobs.put(&bytes)
    }
}

/// Proves by digest that a rollback which was cut off, and whose commit was found, left what it should.
pub async fn confirm(remote: &Remote, published: &Published) -> Result<()> {
    let there = files_at(remote, &published.commit).await?;
    match &compare(&files_of(&published.tree), &there).drifted[..] {
        [] => Ok(()),
        [first, ..] => Err(Error::hub(format!("commit {} landed, but not as it was sent", published.commit))
            .cause(drift::drifted_path(first))
            .hint("`hfbuild verify` says more")),
    }
}

/// The refusal to roll back over what others changed.
pub fn may_not(files: &[Drifted], remote: &Remote) -> Error {
    drift_error(files, remote, None).hint("look at it with `hfbuild status`; to roll back over it, give `--overwrite`")
}
