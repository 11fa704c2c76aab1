//! What a publish is: the desired tree, the observed remote, and the pure decision between them.
//!
//! Knows digests, paths and commits. Does not speak to the Hub and reads no file.

use crate::core::digest::{Canonical, Digest, HubDigests};
use crate::core::manifest::OnDrift;
use crate::core::past::in_the_way;
use crate::core::replaced::Replaced;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One file of the desired tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Bytes.
    pub size: u64,
    /// BLAKE3: its name in the CAS.
    pub digest: Digest,
    /// What the Hub knows it by.
    pub hub: HubDigests,
}

/// The file in which the server keeps what is large; it makes it itself.
pub const ATTRIBUTES: &str = ".gitattributes";

/// The desired tree by path in the repo.
pub type Tree = BTreeMap<String, TreeFile>;

/// The digest of a tree: paths, sizes and SHA-256, sorted.
pub fn tree_digest(tree: &Tree) -> Digest {
    files_digest(&crate::core::past::files_of(tree))
}

/// The same of a tree's files.
pub fn files_digest(files: &crate::core::past::Files) -> Digest {
    let mut out = Canonical::new("hfbuild published tree 1");
    out.number(files.len() as u64);
    for (path, file) in files {
        out.text(path).number(file.size).text(&file.hub.sha256);
    }
    out.finish()
}

/// One file as the Hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Bytes of the content.
    pub size: u64,
    /// Git's blob SHA-1 (of an LFS file: of its pointer).
    pub git_sha1: String,
    /// SHA-256, of an LFS file.
    pub sha256: Option<String>,
}

/// A publish that landed: history, never a cache hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Where: endpoint, repo kind, repo, revision.
    pub target: Target,
    /// The commit.
    pub commit: String,
    /// Where the branch stood when it was seen last to have this tree, where that is a later commit, of somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// What became of the manifest's tag: that it was set, or left where it is; nothing: there was none, or it could not be
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The commit that it was made on; `None`: it was adopted, not made.
    pub parent: Option<String>,
    /// What was published.
    pub tree: Tree,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Clauses over `published` that refused and were allowed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// Of a rollback: the commit whose tree it restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<String>,
    /// The pull request that it was made as; nothing: it is on the branch itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
}

impl Published {
    /// The commit at which the remote is known to have this tree.
    pub fn seen_at(&self) -> &str {
        self.head.as_deref().unwrap_or(&self.commit)
    }
}

/// A pull request on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// Its number in the repo.
    pub number: u64,
    /// Its page.
    pub url: Option<String>,
}

impl PullRequest {
    /// The ref that its commits stand on.
    pub fn revision(number: u64) -> String {
        format!("refs/pr/{number}")
    }
}

/// How a change is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propose {
    /// The open pull request that gets another commit; nothing: a new one is opened.
    pub number: Option<u64>,
}

/// Where a publish goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// `embedded`, or the URL without a slash at its end.
    pub endpoint: String,
    /// `model`, `dataset`, `space`.
    pub kind: String,
    /// `namespace/name`.
    pub repo: String,
    /// The branch.
    pub revision: String,
}

impl std::fmt::Display for Target {
    /// As the Hub's own paths name it: `ns/name`, `spaces/ns/name`, `datasets/ns/name@staging`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let folder = if self.kind == "model" { String::new() } else { format!("{}s/", self.kind) };
        let branch = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        write!(f, "{folder}{}{branch}", self.repo)
    }
}

/// A commit about to be sent, journalled before its POST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Where.
    pub target: Target,
    /// The parent commit.
    pub parent: String,
    /// The tree that it would leave.
    pub tree: Tree,
    /// The word in the commit's description by which it is found again.
    pub nonce: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Clauses over `published` that refused and were allowed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// Of a rollback: the commit whose tree it restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<String>,
    /// How it is proposed, where it does not go to the branch itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<Propose>,
}

/// What was seen of the remote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The revision's commit; `None`: no repo, or no such branch.
    pub head: Option<String>,
    /// Its files; `None` where they were not asked for, because the head is the last publish's commit and nothing new is
    /// named.
    pub files: Option<BTreeMap<String, RemoteFile>>,
    /// What the last publish left there: from this machine's record, or from the repo's own (`provenance.json`).
    pub managed: BTreeMap<String, HubDigests>,
    /// The commit at which this machine last knew its publish to be there: the publish's own, or a later one of others.
    pub last_commit: Option<String>,
    /// The commit of the publish that `managed` is of, where it is known.
    pub by: Option<String>,
    /// That publish, where another machine made it after this one's last.
    pub elsewhere: Option<Elsewhere>,
    /// The facts of what is published there, where a gate may ask for them.
    pub replaced: Replaced,
    /// Clauses over `published` that what is published there was allowed to go against, by its own record.
    pub allowed: Vec<String>,
    /// Where the repo is there and the branch is not: the commit that the branch will be made at. `files`, `managed` and
    /// what was allowed are then those of this commit.
    pub start: Option<String>,
    /// The open pull request of an earlier publish, where it was looked for.
    pub proposal: Option<Box<Proposal>>,
    /// What the hub calls the repo now, where it was renamed.
    pub renamed: Option<String>,
}

impl Observed {
    /// Whether it has files that were not listed.
    pub fn is_unlisted(&self) -> bool {
        self.head.is_some() && self.files.is_none()
    }
}

/// A publish by another machine, after the last one that this machine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// Its commit.
    pub commit: String,
    /// Its title.
    pub title: String,
    /// Who made it, where the hub says so.
    pub author: Option<String>,
    /// When, RFC 3339.
    pub date: Option<String>,
    /// Of a rollback: the commit whose tree it restored.
    pub restores: Option<String>,
}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |id: &str| id.chars().take(7).collect::<String>();
        write!(f, "{} \"{}\"", short(&self.commit), self.title.escape_debug())?;
        if let Some(author) = &self.author {
            write!(f, " by {}", author.escape_debug())?;
        }
        match &self.restores {
            Some(to) => write!(f, ", a rollback to {}", short(to)),
            None => Ok(()),
        }
    }
}

/// An open pull request that an earlier publish made.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Its number and page.
    pub pull_request: PullRequest,
    /// What was seen of its ref.
    pub at: Observed,
}

/// A file of a change, with its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sized {
    /// Path in the repo.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// What a commit would bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New files.
    pub add: Vec<Sized>,
    /// Files with other content.
    pub change: Vec<Sized>,
    /// Files that an earlier publish put there and the manifest no longer names; of a mirror, all that it does not name.
    pub delete: Vec<String>,
    /// How many stay.
    pub same: usize,
}

impl Changes {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.change.is_empty() && self.delete.is_empty()
    }
    /// Bytes of the files that would be sent.
    pub fn bytes(&self) -> u64 {
        self.sent().map(|f| f.size).sum()
    }
    /// The files that would be sent.
    pub fn sent(&self) -> impl Iterator<Item = &Sized> {
        self.add.iter().chain(&self.change)
    }
}

/// A managed file that the remote has otherwise than the last publish left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "drift", rename_all = "snake_case")]
pub enum Drifted {
    /// Changed there.
    Changed {
        /// Path in the repo.
        path: String,
    },
    /// Deleted there.
    Deleted {
        /// Path in the repo.
        path: String,
    },
    /// The repo or its branch is no longer there.
    Gone,
    /// There, though no publish of ours put it there, and the desired tree has other content for it.
    Foreign {
        /// Path in the repo.
        path: String,
    },
}

impl Drifted {
    /// The path in the repo; `None`: all of it is gone.
    pub fn path(&self) -> Option<&str> {
        match self {
            Drifted::Changed { path } | Drifted::Deleted { path } | Drifted::Foreign { path } => Some(path),
            Drifted::Gone => None,
        }
    }
}

/// The verdict on a publish.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "upload", rename_all = "snake_case")]
pub enum UploadVerdict {
    /// The remote is what it should be.
    UpToDate {
        /// Its commit.
        commit: String,
        /// Whether this machine did not know so yet (a fresh clone, an adopted tree): a record is written, no commit.
        adopt: bool,
    },
    /// An open pull request has it already; nobody has merged it yet.
    Proposed {
        /// The pull request.
        pull_request: PullRequest,
        /// The head of its ref.
        commit: String,
    },
    /// One commit has to be made.
    Send {
        /// What it brings.
        changes: Changes,
        /// What it publishes over, where the manifest allows that.
        over: Vec<Drifted>,
        /// How it is proposed; nothing: it goes to the branch itself.
        pull_request: Option<Propose>,
    },
    /// The remote is neither what the last publish left nor what is desired.
    Drift {
        /// What differs.
        files: Vec<Drifted>,
        /// The pull request on whose ref it differs; nothing: on the branch.
        pull_request: Option<u64>,
    },
}

/// How a publish goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// What becomes of changes that others made.
    pub on_drift: OnDrift,
    /// Whether every change is proposed as a pull request.
    pub pull_request: bool,
    /// Whether files that the desired tree does not have go, whoever put them there. Needs the remote's files.
    pub mirror: bool,
}

/// Decides. Files of the remote that neither the desired tree nor an earlier publish names are left alone, and are no
/// drift; of a mirror they are deleted. [`ATTRIBUTES`] is touched only where the desired tree has it, and never deleted.
pub fn decide_upload(desired: &Tree, observed: &Observed, how: How) -> UploadVerdict {
    let direct = on_branch(desired, observed, how);
    match direct {
        // a branch that only has to be made is nothing to propose
        UploadVerdict::Send { changes, over, .. } if how.pull_request && !changes.is_empty() => {
            propose(desired, observed, how, changes, over)
        }
        UploadVerdict::Drift { files, .. } if how.proposes_drift() && files != [Drifted::Gone] => {
            let nothing = BTreeMap::new();
            let changes = changes(desired, observed.files.as_ref().unwrap_or(&nothing), &observed.managed, how.mirror);
            propose(desired, observed, how, changes, files)
        }
        direct => direct,
    }
}

impl How {
    fn proposes_drift(self) -> bool {
        self.pull_request || self.on_drift == OnDrift::PullRequest
    }
    /// Whether changes that others made stop a publish.
    pub fn refuses(self, drifted: &[Drifted]) -> bool {
        let gone = drifted == [Drifted::Gone];
        !drifted.is_empty() && self.on_drift != OnDrift::Overwrite && (gone || !self.proposes_drift())
    }
}

/// A change as a pull request: as another commit of the one that is open, where nobody else has changed that one.
fn propose(desired: &Tree, observed: &Observed, how: How, changes: Changes, over: Vec<Drifted>) -> UploadVerdict {
    let new = |changes, over| UploadVerdict::Send { changes, over, pull_request: Some(Propose { number: None }) };
    let Some(open) = &observed.proposal else { return new(changes, over) };
    let number = open.pull_request.number;
    match on_branch(desired, &open.at, how) {
        UploadVerdict::UpToDate { commit, .. } => {
            UploadVerdict::Proposed { pull_request: open.pull_request.clone(), commit }
        }
        UploadVerdict::Send { changes, over: there, .. } => {
            let over = over.into_iter().chain(there).collect();
            UploadVerdict::Send { changes, over, pull_request: Some(Propose { number: Some(number) }) }
        }
        UploadVerdict::Drift { .. } if how.on_drift == OnDrift::PullRequest => new(changes, over),
        UploadVerdict::Drift { files, .. } => UploadVerdict::Drift { files, pull_request: Some(number) },
        proposed => proposed,
    }
}

/// The verdict where the commit would go to what was observed itself.
fn on_branch(desired: &Tree, observed: &Observed, how: How) -> UploadVerdict {
    let same_head = observed.head.is_some() && observed.head == observed.last_commit;
    let nothing = BTreeMap::new();
    let remote = match (&observed.files, same_head) {
        (Some(files), _) => files,
        (None, true) => return against_last(desired, observed),
        (None, false) => &nothing,
    };
    let changes = changes(desired, remote, &observed.managed, how.mirror);
    if let (true, Some(head)) = (changes.is_empty(), &observed.head) {
        return UploadVerdict::UpToDate { commit: head.clone(), adopt: !same_head };
    }
    let drifted = match early_drift(observed) {
        gone if gone == [Drifted::Gone] => gone,
        _ => drift(desired, remote, &observed.managed, how.mirror),
    };
    if drifted.is_empty() || how.on_drift == OnDrift::Overwrite {
        return UploadVerdict::Send { changes, over: drifted, pull_request: None };
    }
    UploadVerdict::Drift { files: drifted, pull_request: None }
}

/// The head is the last publish's own commit: the remote is what that publish left, so nothing more is asked of it.
fn against_last(desired: &Tree, observed: &Observed) -> UploadVerdict {
    let mut changes = Changes::default();
    for (path, file) in desired {
        match observed.managed.get(path) {
            Some(last) if last.sha256 == file.hub.sha256 => changes.same += 1,
            Some(_) => changes.change.push(Sized { path: path.clone(), size: file.size }),
            None => changes.add.push(Sized { path: path.clone(), size: file.size }),
        }
    }
    changes.delete = observed.managed.keys().filter(|path| goes(desired, path)).cloned().collect();
    match (changes.is_empty(), &observed.head) {
        (true, Some(head)) => UploadVerdict::UpToDate { commit: head.clone(), adopt: false },
        _ => UploadVerdict::Send { changes, over: vec![], pull_request: None },
    }
}

/// Whether the remote's file is this one.
pub fn is_same(file: &TreeFile, remote: &RemoteFile) -> bool {
    is_recorded(&file.hub, remote) && file.size == remote.size
}

fn changes(
    desired: &Tree,
    remote: &BTreeMap<String, RemoteFile>,
    managed: &BTreeMap<String, HubDigests>,
    mirror: bool,
) -> Changes {
    let mut changes = Changes::default();
    for (path, file) in desired {
        match remote.get(path) {
            Some(there) if is_same(file, there) => changes.same += 1,
            Some(_) => changes.change.push(Sized { path: path.clone(), size: file.size }),
            None => changes.add.push(Sized { path: path.clone(), size: file.size }),
        }
    }
    let way: BTreeSet<&String> = in_the_way(desired, remote, managed).collect();
    let ours = |path: &String| mirror || managed.contains_key(path) || way.contains(path);
    changes.delete = remote.keys().filter(|path| ours(path) && goes(desired, path)).cloned().collect();
    changes
}

/// Whether a path that may be deleted is to be.
fn goes(desired: &Tree, path: &str) -> bool {
    path != ATTRIBUTES && !desired.contains_key(path)
}

/// What is drift whatever is still to be made: of the managed files that were changed or deleted there those that the
/// desired tree will not have just so. `named`: whether the desired tree will have this path; `same`: whether it is known
/// that it will have this very content.
pub fn certain_drift(
    observed: &Observed,
    named: &dyn Fn(&str) -> bool,
    same: &dyn Fn(&str, &RemoteFile) -> bool,
) -> Vec<Drifted> {
    let stays = |drifted: &Drifted| match drifted {
        Drifted::Deleted { path } => named(path),
        Drifted::Changed { path } => {
            let there = observed.files.as_ref().and_then(|files| files.get(path));
            !there.is_some_and(|there| same(path, there))
        }
        _ => true,
    };
    early_drift(observed).into_iter().filter(stays).collect()
}

/// What can be said of drift before the desired tree is known: managed files that were changed or deleted there.
fn early_drift(observed: &Observed) -> Vec<Drifted> {
    if observed.head.is_none() && observed.last_commit.is_some() {
        return vec![Drifted::Gone];
    }
    let Some(remote) = &observed.files else { return vec![] };
    let moved = |(path, recorded): (&String, &HubDigests)| match remote.get(path) {
        None => Some(Drifted::Deleted { path: path.clone() }),
        Some(there) if !is_recorded(recorded, there) => Some(Drifted::Changed { path: path.clone() }),
        Some(_) => None,
    };
    observed.managed.iter().filter_map(moved).collect()
}

/// Whether the remote's file is what a record says: LFS files by SHA-256, regular ones by git's blob SHA-1.
pub fn is_recorded(recorded: &HubDigests, remote: &RemoteFile) -> bool {
    match &remote.sha256 {
        Some(sha256) => *sha256 == recorded.sha256,
        None => recorded.git_sha1.as_ref() == Some(&remote.git_sha1),
    }
}

/// Managed files that the remote has otherwise than the last publish left them, and foreign files in the way.
fn drift(
    desired: &Tree,
    remote: &BTreeMap<String, RemoteFile>,
    managed: &BTreeMap<String, HubDigests>,
    mirror: bool,
) -> Vec<Drifted> {
    let mut out = Vec::new();
    for (path, recorded) in managed {
        match remote.get(path) {
            None if desired.contains_key(path) => out.push(Drifted::Deleted { path: path.clone() }),
            None => {}
            Some(there) => {
                let wanted = desired.get(path).is_some_and(|file| is_same(file, there));
                let unmoved = is_recorded(recorded, there);
                if !wanted && !unmoved {
                    out.push(Drifted::Changed { path: path.clone() });
                }
            }
        }
    }
    for (path, file) in desired {
        if !managed.contains_key(path) && remote.get(path).is_some_and(|there| !is_same(file, there)) {
            out.push(Drifted::Foreign { path: path.clone() });
        }
    }
    // of a mirror they go, as all that others put there
    let way = in_the_way(desired, remote, managed).filter(|_| !mirror);
    out.extend(way.map(|path| Drifted::Foreign { path: path.clone() }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> HubDigests {
        HubDigests { sha256: "0".repeat(64), git_sha1: Some("0".repeat(40)) }
    }

    fn deleted(mirror: bool, head_is_ours: bool) -> Vec<String> {
        let there = |path: &str| {
            (path.to_owned(), RemoteFile { size: 1, git_sha1: "0".repeat(40), sha256: Some("0".repeat(64)) })
        };
        let observed = Observed {
            head: Some("b".into()),
            last_commit: head_is_ours.then(|| "b".into()),
            files: (!head_is_ours).then(|| [ATTRIBUTES, "ours", "theirs"].map(there).into()),
            managed: [ATTRIBUTES, "ours"].map(|path| (path.to_owned(), digests())).into(),
            ..Observed::default()
        };
        match decide_upload(&Tree::new(), &observed, How { on_drift: OnDrift::Overwrite, pull_request: false, mirror })
        {
            UploadVerdict::Send { changes, .. } => changes.delete,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_others_put_there_goes_only_from_a_mirror_and_the_attributes_never() {
        assert_eq!(deleted(false, false), ["ours"]);
        assert_eq!(deleted(false, true), ["ours"]);
        assert_eq!(deleted(true, false), ["ours", "theirs"]);
    }

    #[test]
    fn a_file_of_others_where_a_folder_must_be_is_in_the_way_and_the_other_way_round() {
        let there = |path: &str| (path.to_owned(), RemoteFile { size: 1, git_sha1: "1".repeat(40), sha256: None });
        let file = || TreeFile { size: 1, digest: Digest::UNHELD, hub: digests() };
        let desired: Tree = ["docs/notes.txt", "x"].map(|path| (path.to_owned(), file())).into();
        let observed = Observed {
            head: Some("b".into()),
            files: Some(["docs", "x/y.txt", "xy"].map(there).into()),
            ..Observed::default()
        };
        let foreign = ["docs", "x/y.txt"].map(|path| Drifted::Foreign { path: path.into() });
        let refused = UploadVerdict::Drift { files: foreign.to_vec(), pull_request: None };
        assert_eq!(decide_upload(&desired, &observed, How::default()), refused);
        let how = How { on_drift: OnDrift::Overwrite, ..How::default() };
        let UploadVerdict::Send { changes, over, .. } = decide_upload(&desired, &observed, how) else { panic!() };
        assert_eq!((changes.delete, over), (vec!["docs".to_string(), "x/y.txt".to_string()], foreign.to_vec()));
    }
}
