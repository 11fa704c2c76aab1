//! What the Hub takes, and no more: <https://huggingface.co/docs/hub/storage-limits>.
//!
//! Pure: paths and sizes.

use crate::core::error::{Error, Result};
use crate::core::value::human_bytes;
use std::collections::BTreeMap;

/// Bytes of one file.
pub const FILE: u64 = 500_000_000_000;
/// Files and folders in one folder.
pub const ENTRIES: usize = 10_000;

/// Refuses files that the Hub would refuse, by path in the repo and size in bytes.
///
/// # Errors
/// A file is too large, or a folder has too many entries.
pub fn check<'a>(files: impl Iterator<Item = (&'a str, u64)>) -> Result<()> {
    let mut entries: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    for (path, size) in files {
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

#[cfg(test)]
mod tests {
    use super::*;

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
