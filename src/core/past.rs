//! What was published before, held against what the remote has now: which files are as they were left, what a commit's
//! description says of the publish behind it, and which commit touched what.
//!
//! Pure: knows digests, trees and texts of commits. Does not know where any of it was read.

use crate::core::digest::{Digest, HubDigests};
use crate::core::publish::{Drifted, RemoteFile, Tree, TreeFile};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A published file as a record names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Bytes.
    pub size: u64,
    /// What the Hub knows it by.
    pub hub: HubDigests,
}

impl From<&TreeFile> for Recorded {
    fn from(file: &TreeFile) -> Recorded {
        Recorded { size: file.size, hub: file.hub.clone() }
    }
}

impl Recorded {
    /// Whether the remote has this very content: an LFS file by SHA-256, a regular one by git's blob SHA-1; and by size.
    pub fn is(&self, there: &RemoteFile) -> bool {
        let same = match &there.sha256 {
            Some(sha256) => *sha256 == self.hub.sha256,
            None => self.hub.git_sha1.as_ref() == Some(&there.git_sha1),
        };
        same && self.size == there.size
    }
}

/// The files of a publish by path.
pub type Files = BTreeMap<String, Recorded>;

/// The files of a tree.
pub fn files_of(tree: &Tree) -> Files {
    tree.iter().map(|(path, file)| (path.clone(), file.into())).collect()
}

/// What the remote has of a publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many files are as they were published.
    pub same: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files with other content, or that are gone.
    pub drifted: Vec<Drifted>,
    /// Files that the publish does not name.
    pub others: Vec<String>,
}

/// Holds the remote's files against those of a publish. `.gitattributes` is the server's own.
pub fn compare(published: &Files, there: &BTreeMap<String, RemoteFile>) -> Comparison {
    let mut out = Comparison::default();
    for (path, recorded) in published {
        match there.get(path) {
            None => out.drifted.push(Drifted::Deleted { path: path.clone() }),
            Some(file) if recorded.is(file) => {
                out.same += 1;
                out.bytes += file.size;
            }
            Some(_) => out.drifted.push(Drifted::Changed { path: path.clone() }),
        }
    }
    let foreign = there.keys().filter(|path| !published.contains_key(*path) && *path != ".gitattributes");
    out.others = foreign.cloned().collect();
    out
}

/// How many files a publish brought, against the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// New ones.
    pub added: usize,
    /// Ones with other content.
    pub changed: usize,
    /// Ones that it took away.
    pub deleted: usize,
    /// All that it holds.
    pub total: usize,
}

/// Counts what differs between two publishes.
pub fn counts(before: &Files, after: &Files) -> Counts {
    let differs =
        |(path, file): &(&String, &Recorded)| before.get(*path).is_some_and(|b| b.hub.sha256 != file.hub.sha256);
    Counts {
        added: after.keys().filter(|path| !before.contains_key(*path)).count(),
        changed: after.iter().filter(differs).count(),
        deleted: before.keys().filter(|path| !after.contains_key(*path)).count(),
        total: after.len(),
    }
}

/// What the description of a publish's commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The tree's digest.
    pub tree: Digest,
    /// SHA-256 of the published record.
    pub record: String,
    /// The commit whose tree a rollback restored.
    pub restores: Option<String>,
}

/// Reads them. `None`: it is no publish of hfbuild.
pub fn marks(description: &str) -> Option<Marks> {
    let line = |key: &str| description.lines().rev().find_map(|l| l.trim().strip_prefix(key)).map(str::trim);
    nonce_of(description)?;
    Some(Marks {
        tree: line("tree:")?.parse().ok()?,
        record: line("record:")?.to_string(),
        restores: line("restores:").map(String::from),
    })
}

/// The word that one commit of ours alone has: of two with it the older is the publish, and the other quotes it.
pub fn nonce_of(description: &str) -> Option<&str> {
    let mut lines = description.lines().rev().filter_map(|line| line.trim().strip_prefix("nonce:"));
    lines.next().map(str::trim).filter(|nonce| nonce.starts_with("hfbuild-"))
}

/// Which of the commits after a publish touched a path last: `trees` are the publish's own tree and those after each
/// commit, oldest first; the answer is an index of a commit (0: the first after the publish). `None`: none of these.
pub fn touched_by(path: &str, trees: &[BTreeMap<String, RemoteFile>]) -> Option<usize> {
    (1..trees.len()).rev().find(|at| trees[*at].get(path) != trees[*at - 1].get(path)).map(|at| at - 1)
}

/// Files of others where the desired tree has a folder, or in a folder where it has a file. Both cannot stand there.
pub(super) fn in_the_way<'a>(
    desired: &'a Tree,
    remote: &'a BTreeMap<String, RemoteFile>,
    managed: &'a BTreeMap<String, HubDigests>,
) -> impl Iterator<Item = &'a String> {
    let above = |path: &'a String| path.match_indices('/').map(|(at, _)| &path[..at]);
    let folders: BTreeSet<&str> = desired.keys().flat_map(above).collect();
    remote.keys().filter(move |path| {
        let stands = folders.contains(path.as_str()) || above(path).any(|folder| desired.contains_key(folder));
        stands && !managed.contains_key(*path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(content: &str) -> Recorded {
        Recorded { size: content.len() as u64, hub: crate::core::record::hub_digests(content.as_bytes()) }
    }

    fn regular(content: &str) -> RemoteFile {
        let hub = crate::core::record::hub_digests(content.as_bytes());
        RemoteFile { size: content.len() as u64, git_sha1: hub.git_sha1.unwrap(), sha256: None }
    }

    fn lfs(content: &str) -> RemoteFile {
        RemoteFile { git_sha1: "of the pointer".into(), sha256: Some(recorded(content).hub.sha256), ..regular(content) }
    }

    fn by_path<T>(entries: Vec<(&str, T)>) -> BTreeMap<String, T> {
        entries.into_iter().map(|(path, file)| (path.to_string(), file)).collect()
    }

    #[test]
    fn what_the_remote_has_of_a_publish() {
        let published = by_path(vec![("a", recorded("1")), ("b", recorded("2")), ("c", recorded("3"))]);
        let there =
            by_path(vec![("a", regular("1")), ("b", lfs("4")), (".gitattributes", regular("")), ("x", lfs("9"))]);
        let found = compare(&published, &there);
        assert_eq!((found.same, found.bytes, found.others), (1, 1, vec!["x".to_string()]));
        let drifted = [Drifted::Changed { path: "b".into() }, Drifted::Deleted { path: "c".into() }];
        assert_eq!(found.drifted, drifted);
        assert!(
            compare(&published, &by_path(vec![("a", lfs("1")), ("b", lfs("2")), ("c", lfs("3"))])).drifted.is_empty()
        );
    }

    #[test]
    fn a_commit_of_ours_says_what_it_published_and_others_do_not() {
        let tree = Digest::of(b"tree");
        let text = format!("~ README.md\n\nrestores: abc\ntree: {tree}\nrecord: 12ef\nnonce: hfbuild-77");
        let expected = Marks { tree, record: "12ef".into(), restores: Some("abc".into()) };
        assert_eq!(marks(&text), Some(expected));
        assert_eq!(marks(&text.replace("hfbuild-77", "77")), None);
        assert_eq!(marks("tree: the tall one\nnonce: hfbuild-1"), None);
        assert_eq!(marks(""), None);
    }

    #[test]
    fn the_last_commit_that_touched_a_path() {
        let tree = |a: &str, b: Option<&str>| {
            let mut tree = by_path(vec![("a", regular(a))]);
            tree.extend(b.map(|b| ("b".to_string(), regular(b))));
            tree
        };
        let trees = [tree("1", Some("1")), tree("2", Some("1")), tree("3", Some("1")), tree("3", None)];
        assert_eq!(touched_by("a", &trees), Some(1));
        assert_eq!(touched_by("b", &trees), Some(2));
        assert_eq!(touched_by("c", &trees), None);
    }

    #[test]
    fn what_a_publish_brought() {
        let before = by_path(vec![("a", recorded("1")), ("b", recorded("2"))]);
        let after = by_path(vec![("a", recorded("1")), ("c", recorded("3"))]);
        assert_eq!(counts(&before, &after), Counts { added: 1, changed: 0, deleted: 1, total: 2 });
        assert_eq!(counts(&Files::new(), &after), Counts { added: 2, changed: 0, deleted: 0, total: 2 });
    }
}
