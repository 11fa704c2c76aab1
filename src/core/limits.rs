//! What fits into one commit and one repository of the Hub.
//!
//! The limits of folder, repository and file are the Hub's documented ones
//! (<https://huggingface.co/docs/hub/storage-limits>); those of one commit are what its commit request takes. A publish is
//! one commit, so what does not fit is refused before anything is sent. Knows paths and sizes only.

use crate::core::error::{Error, Result};
use crate::core::publish::{Changes, Tree};
use crate::core::value::human_bytes;
use std::collections::BTreeMap;

/// Bytes of one file.
pub const FILE: u64 = 500_000_000_000;
/// Files and folders in one folder.
pub const ENTRIES: usize = 10_000;
/// Files in one repository.
pub const REPO_FILES: usize = 100_000;
/// Files that one commit changes: our own, for the Hub's documentation names none. It says that a commit of more than about
/// 100 files may pass the server's 60 seconds and still land, which the intent is there for.
pub const COMMIT_FILES: usize = 25_000;
/// Bytes of one file that travels in the commit itself.
pub const INLINE: u64 = 10 << 20;
/// Bytes of all files that travel in one commit: our own, too, for a server takes no body without end.
pub const COMMIT_BYTES: u64 = 512 << 20;

const SHARDS: &str = "pack them: an archive, or shards of many records a file (`.tar`, `.parquet`, `.safetensors`)";

/// Refuses files that the Hub would refuse, by path in the repo and size in bytes.
///
/// # Errors
/// A file is too large, a folder has too many entries, or there are too many files.
pub fn check<'a>(files: impl Iterator<Item = (&'a str, u64)>) -> Result<()> {
    let mut entries: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    let mut count = 0;
    for (path, size) in files {
        count += 1;
        if size > FILE {
            let (is, most) = (human_bytes(size), human_bytes(FILE));
            return Err(Error::hub(format!("`{path}` has {is}, and the Hub takes files of {most} at most"))
                .hint("write it in shards, e.g. `max_shard_size` of a safetensors artifact"));
        }
        let mut rest = path;
        while let Some((folder, _)) = rest.rsplit_once('/') {
            entries.entry(folder.into()).or_default().insert(rest[folder.len() + 1..].into());
            rest = folder;
        }
        entries.entry(String::new()).or_default().insert(rest.into());
    }
    if count > REPO_FILES {
        let error = format!("{count} files are too many for a repo: the Hub takes {REPO_FILES}");
        return Err(Error::hub(error).hint(SHARDS));
    }
    match entries.iter().find(|(_, inside)| inside.len() > ENTRIES) {
        None => Ok(()),
        Some((folder, inside)) => {
            let folder = if folder.is_empty() { "the repo's root".to_string() } else { format!("`{folder}/`") };
            Err(Error::hub(format!(
                "{folder} has {} entries, and the Hub takes {ENTRIES} in a folder at most",
                inside.len()
            ))
            .hint("put them into folders of their own"))
        }
    }
}

/// Refuses a tree that the Hub does not hold, and changes that are too many for one commit.
///
/// # Errors
/// As [`check`], or the commit is too large.
pub fn check_changes(tree: &Tree, changes: &Changes) -> Result<()> {
    check(tree.iter().map(|(path, file)| (path.as_str(), file.size)))?;
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

    #[test]
    fn what_fits_into_a_repo_and_a_commit_and_what_does_not() {
        let hub = HubDigests { sha256: String::new(), git_sha1: None };
        let file = TreeFile { size: 1, digest: Digest::of(b""), hub };
        let tree = |n: usize| -> Tree { (0..n).map(|n| (format!("{}/{n}", n / 5_000), file.clone())).collect() };
        let adds = |n: usize| Changes {
            add: (0..n).map(|n| Sized { path: n.to_string(), size: 1 }).collect(),
            ..Changes::default()
        };
        let said = |files: usize, added: usize| check_changes(&tree(files), &adds(added)).err().map(|e| e.to_string());
        assert_eq!(said(25_000, 25_000), None);
        assert!(said(25_001, 25_001).unwrap().contains("too many for one commit"));
        assert!(said(100_001, 1).unwrap().contains("too many for a repo"));
        assert!(check_inline("a", INLINE).is_ok() && check_inline("a", INLINE + 1).is_err());
        assert!(check_commit(COMMIT_BYTES).is_ok() && check_commit(COMMIT_BYTES + 1).is_err());
    }

    #[test]
    fn a_file_that_the_hub_does_not_take_is_named() {
        assert!(check([("a/b.safetensors", FILE)].into_iter()).is_ok());
        let error = check([("a/b.safetensors", FILE + 1)].into_iter()).unwrap_err();
        assert!(error.message().contains("`a/b.safetensors`") && error.message().contains("500"), "{error}");
    }

    #[test]
    fn a_folder_with_too_many_entries_is_named_and_folders_count_once() {
        let names: Vec<String> = (0..=ENTRIES).map(|n| format!("data/{n}.png")).collect();
        let few = check(names[1..].iter().map(|n| (n.as_str(), 1)));
        assert!(few.is_ok(), "{few:?}");
        let error = check(names.iter().map(|n| (n.as_str(), 1))).unwrap_err();
        assert!(error.message().contains("`data/` has 10001 entries"), "{error}");
        let folders: Vec<String> = (0..=ENTRIES).map(|n| format!("{}/{n}.png", n % 100)).collect();
        assert!(check(folders.iter().map(|n| (n.as_str(), 1))).is_ok());
    }
}
