//! The baseline: what was published last to a remote, by this cache's receipt or by the record in the repo itself, and
//! what happened there since.
//!
//! Which of the two is believed, by `plan` and `build` as by `status` and `verify`: the record of the newest commit that
//! says it is a publish, with the digests of record and tree (a merge says it by its pull request's commits), and the
//! receipt where that commit is this cache's own. A record that was changed or put back by hand is believed by nobody: it
//! is drift. Only where no commit says anything (the history was squashed) and there is no receipt, the record stands alone.

use crate::core::error::Result;
use crate::core::past::{Comparison, Files, compare, files_of, marks, nonce_of, touched_by};
use crate::core::plan::RECORD;
use crate::core::publish::{Drifted, Published, RemoteFile, files_digest};
use crate::core::record;
use crate::exec::remote::Remote;
use crate::hub::client::{CommitInfo, Head};
use crate::store::blobs::Blobs;
use crate::store::records::Publishes;
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};

/// How many commits are looked through.
pub const SEARCHED: usize = 1000;
/// So many commits are told apart by their trees, a request each.
const TOLD_APART: usize = 20;

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This cache's receipt of the publish.
    Receipt,
    /// The record in the repo, and the digest of it in a commit.
    Record,
    /// The record in the repo alone: no commit that was looked at names it.
    RecordAlone,
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// The publish's commit, where it is known.
    pub commit: Option<String>,
    /// Its files.
    pub files: Files,
    /// The published record, where it is at hand.
    pub record: Option<Vec<u8>>,
    /// Who says so.
    pub source: Source,
}

/// A remote, and what it was.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Where the branch stands; `None`: no repo, or no such branch.
    pub head: Option<Head>,
    /// The files at the head.
    pub there: BTreeMap<String, RemoteFile>,
    /// What was published last; `None`: nothing by hfbuild, as far as can be seen.
    pub baseline: Option<Baseline>,
    /// Commits after it, newest first.
    pub since: Vec<CommitInfo>,
    /// Whether the baseline's commit is in the branch's history, as far as it was looked through.
    pub connected: bool,
    /// Whether all of the branch's history was looked through.
    pub whole: bool,
}

/// The remote's files as the core names them.
pub async fn files_at(remote: &Remote, revision: &str) -> Result<BTreeMap<String, RemoteFile>> {
    let tree = remote.client.tree(&remote.repo, revision).await?;
    let file = |f: crate::hub::client::RemoteFile| RemoteFile { size: f.size, git_sha1: f.git_sha1, sha256: f.sha256 };
    Ok(tree.into_iter().map(|(path, f)| (path, file(f))).collect())
}

/// The published record of a receipt, from the store.
pub fn kept_record(published: &Published, blobs: &Blobs) -> Result<Option<Vec<u8>>> {
    published.tree.get(RECORD).map_or(Ok(None), |file| blobs.read(&file.digest))
}

/// Looks.
pub async fn look(remote: &Remote, publishes: &Publishes, blobs: &Blobs) -> Result<Seen> {
    let receipt = publishes.last(&remote.target);
    let own = |record| {
        receipt.map(|last| Baseline {
            commit: Some(last.commit.clone()),
            files: files_of(&last.tree),
            record,
            source: Source::Receipt,
        })
    };
    let kept = receipt.map(|last| kept_record(last, blobs)).transpose()?.flatten();
    let Some(head) = remote.client.head(&remote.repo, &remote.target.revision).await? else {
        return Ok(Seen { baseline: own(kept), ..Seen::default() });
    };
    let there = files_at(remote, &head.sha).await?;
    let mut seen = Seen { there, ..Seen::default() };
    let last = receipt.map_or("", |last| last.commit.as_str());
    let own_commits = publishes.commits(&remote.target);
    if last != head.sha {
        seen.since = remote.client.commits_since(&remote.repo, &head.sha, "", SEARCHED).await?;
        seen.whole = seen.since.len() < SEARCHED;
    }
    let found = match last == head.sha {
        true => None,
        false => recorded(remote, &head.sha, &mut seen, last, &own_commits).await?,
    };
    if found.is_none() {
        let at = seen.since.iter().position(|commit| commit.id == last);
        seen.connected = at.is_some() || last == head.sha;
        seen.since.truncate(at.unwrap_or(0));
    }
    seen.baseline = found.or_else(|| own(kept));
    seen.head = Some(head);
    Ok(seen)
}

/// The newest of these commits (newest first, down to `last`) that says it is a publish, with its place among them: its
/// record as it stands there, and as it names it. `own` are this cache's receipts: one of them is older than `last`, and
/// stands here only where somebody set the branch back to it.
pub(super) async fn newest_publish(
    remote: &Remote,
    commits: &[CommitInfo],
    last: &str,
    own: &BTreeSet<&str>,
) -> Result<Option<(usize, Baseline)>> {
    let after = commits.iter().enumerate().take_while(|(_, commit)| commit.id != last);
    for (at, commit) in after.filter(|(_, commit)| !own.contains(commit.id.as_str())) {
        let merged = match merged_number(&commit.title) {
            Some(number) if marks(&commit.message).is_none() => remote.merged(number).await?,
            _ => vec![],
        };
        // what lies below them is the branch's own history
        let brought = merged.iter().take_while(|merged| commits.iter().all(|commit| commit.id != merged.id));
        for said in std::iter::once(commit).chain(brought) {
            let Some(marks) = marks(&said.message).filter(|_| !is_quoted(commits, said)) else { continue };
            let bytes = remote.client.download_small(&remote.repo, &said.id, RECORD).await?;
            let Some(bytes) = bytes.filter(|b| hex::encode(sha2::Sha256::digest(b)) == marks.record) else { continue };
            let Some(files) = record::files(&bytes).filter(|files| files_digest(files) == marks.tree) else { continue };
            let (commit, record) = (Some(commit.id.clone()), Some(bytes));
            return Ok(Some((at, Baseline { commit, files, record, source: Source::Record })));
        }
    }
    Ok(None)
}

/// Whether a commit quotes the description of an older one (a revert, a cherry-pick), which is the publish.
pub fn is_quoted(commits: &[CommitInfo], commit: &CommitInfo) -> bool {
    let Some(nonce) = nonce_of(&commit.message) else { return false };
    let mut older = commits.iter().skip_while(|other| other.id != commit.id).skip(1);
    older.any(|other| other.message.contains(nonce))
}

/// The pull request whose merge a commit's title tells: `... (#12)`.
fn merged_number(title: &str) -> Option<u64> {
    title.strip_suffix(')')?.rsplit_once("(#")?.1.parse().ok()
}

/// The record of the newest commit that says it is a publish, where that is not `last` (this cache's own). Where no commit
/// says so and this cache has no receipt, the record at the head.
async fn recorded(
    remote: &Remote,
    head: &str,
    seen: &mut Seen,
    last: &str,
    own: &BTreeSet<&str>,
) -> Result<Option<Baseline>> {
    if let Some((at, baseline)) = newest_publish(remote, &seen.since, last, own).await? {
        seen.connected = true;
        seen.since.truncate(at);
        return Ok(Some(baseline));
    }
    if !last.is_empty() || !seen.there.contains_key(RECORD) {
        return Ok(None);
    }
    let Some(bytes) = remote.client.download_small(&remote.repo, head, RECORD).await? else { return Ok(None) };
    let files = record::files(&bytes);
    seen.since.clear();
    Ok(files.map(|files| Baseline { commit: None, files, record: Some(bytes), source: Source::RecordAlone }))
}

impl Seen {
    /// What the remote has of the baseline. `None`: nothing was published.
    pub fn comparison(&self) -> Option<Comparison> {
        let baseline = self.baseline.as_ref()?;
        match &self.head {
            None => Some(Comparison { drifted: vec![Drifted::Gone], ..Comparison::default() }),
            Some(_) => Some(compare(&baseline.files, &self.there)),
        }
    }

    /// Which commit did it, for each of these paths, as far as the newest commits tell.
    pub async fn touched(&self, remote: &Remote, paths: &[&str]) -> Result<BTreeMap<String, &CommitInfo>> {
        let (Some(baseline), false, true) = (&self.baseline, paths.is_empty() || self.since.is_empty(), self.connected)
        else {
            return Ok(BTreeMap::new());
        };
        let told = &self.since[..self.since.len().min(TOLD_APART)];
        let before = self.since.get(told.len()).map(|commit| &commit.id).or(baseline.commit.as_ref());
        let Some(before) = before else { return Ok(BTreeMap::new()) };
        let mut trees = vec![files_at(remote, before).await?];
        for commit in told.iter().rev() {
            trees.push(files_at(remote, &commit.id).await?);
        }
        let whose = |path: &&str| Some((path.to_string(), told.iter().rev().nth(touched_by(path, &trees)?)?));
        Ok(paths.iter().filter_map(whose).collect())
    }
}
