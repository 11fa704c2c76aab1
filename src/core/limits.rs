//! What fits into one commit and one repository of the Hub.
//!
//! The limits of folder, repository and file are the Hub's documented ones (docs/hub/repositories-recommendations); those
//! of one commit are what its commit request takes. A publish is one commit, so what does not fit is refused before
//! anything is sent. Knows paths and sizes only.

use crate::core::error::{Error, Result};
use crate::core::publish::{Changes, Tree};
use std::collections::BTreeMap;

/// Files in one repository.
pub const REPO_FILES: usize = 100_000;
/// Files directly in one folder.
pub const FOLDER_FILES: usize = 10_000;
/// Bytes of one file.
pub const FILE: u64 = 500_000_000_000;
/// Files that one commit changes.
pub const COMMIT_FILES: usize = 25_000;
/// Bytes of one file that travels in the commit itself.
pub const INLINE: u64 = 10 << 20;
/// Bytes of all files that travel in one commit: they are in memory, and a server takes no body without end.
pub const COMMIT_BYTES: u64 = 512 << 20;

const SHARDS: &str = "pack them: an archive, or shards of many records a file (`.tar`, `.parquet`, `.safetensors`)";

/// Refuses a tree that the Hub does not hold, and changes that are too many for one commit.
pub fn check(tree: &Tree, changes: &Changes) -> Result<()> {
    if tree.len() > REPO_FILES {
        let error = format!("{} files are too many for a repo: the Hub takes {REPO_FILES}", tree.len());
        return Err(Error::hub(error).hint(SHARDS));
    }
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for path in tree.keys() {
        *folders.entry(path.rsplit_once('/').map_or("", |(folder, _)| folder)).or_default() += 1;
    }
    if let Some((folder, files)) = folders.into_iter().find(|(_, files)| *files > FOLDER_FILES) {
        let folder = if folder.is_empty() { "the repo's root" } else { folder };
        let error = format!("{files} files are too many for one folder, `{folder}`: the Hub takes {FOLDER_FILES}");
        return Err(Error::hub(error).hint(format!("spread them over folders, or {SHARDS}")));
    }
    if let Some((path, file)) = tree.iter().find(|(_, file)| file.size > FILE) {
        let error = format!("`{path}` has {} bytes: the Hub takes {FILE} a file", file.size);
        return Err(Error::hub(error).hint("cut it into shards"));
    }
    let changed = changes.sent().count() + changes.delete.len();
    if changed > COMMIT_FILES {
        let error = format!("{changed} files are too many for one commit: it takes {COMMIT_FILES}");
        return Err(Error::hub(error).cause("a publish is one commit, so that nobody sees half of it").hint(SHARDS));
    }
    Ok(())
}

/// Refuses a file that the Hub wants in the commit itself and that is too large for that.
pub fn check_inline(path: &str, size: u64) -> Result<()> {
    if size <= INLINE {
        return Ok(());
    }
    Err(Error::hub(format!("`{path}` has {size} bytes, and the Hub takes {INLINE} of a file that is no LFS file"))
        .hint(format!("add `{path} filter=lfs diff=lfs merge=lfs -text` to the repo's `.gitattributes`")))
}

/// Refuses more in one commit than it holds.
pub fn check_commit(bytes: u64) -> Result<()> {
    if bytes <= COMMIT_BYTES {
        return Ok(());
    }
    Err(Error::hub(format!("{bytes} bytes of small files are too many for one commit: it takes {COMMIT_BYTES}"))
        .hint(SHARDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::digest::{Digest, HubDigests};
    use crate::core::publish::{Sized, TreeFile};

    fn tree(paths: impl Iterator<Item = String>, size: u64) -> Tree {
        let hub = HubDigests { sha256: String::new(), git_sha1: None };
        paths.map(|path| (path, TreeFile { size, digest: Digest::of(b""), hub: hub.clone() })).collect()
    }

    fn adds(n: usize) -> Changes {
        Changes { add: (0..n).map(|n| Sized { path: n.to_string(), size: 1 }).collect(), ..Changes::default() }
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let said = |tree: &Tree, changes: &Changes| check(tree, changes).err().map(|e| e.to_string());
        let spread = |n: usize| tree((0..n).map(|n| format!("{}/{n}", n / 5_000)), 1);
        assert_eq!(said(&spread(25_000), &adds(25_000)), None);
        assert!(said(&spread(25_001), &adds(25_001)).unwrap().contains("too many for one commit"));
        assert!(said(&spread(100_001), &adds(1)).unwrap().contains("too many for a repo"));
        assert!(said(&tree((0..10_001).map(|n| format!("x/{n}")), 1), &adds(1)).unwrap().contains("one folder, `x`"));
        assert!(said(&tree(std::iter::once("w".into()), FILE + 1), &adds(1)).unwrap().contains("`w` has"));
        assert!(check_inline("a", INLINE).is_ok() && check_inline("a", INLINE + 1).is_err());
        assert!(check_commit(COMMIT_BYTES).is_ok() && check_commit(COMMIT_BYTES + 1).is_err());
    }
}
