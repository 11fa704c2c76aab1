//! The proof of a publish: what stands at a commit, held against what was sent.
//!
//! Knows digests. Does not know how the commit came about.

use crate::core::error::Result;
use crate::core::publish::{RemoteFile, Tree, is_same};
use crate::exec::remote::Remote;

/// Holds a commit against the tree that it was to bring, by digest: a listing with the right names is no proof. What is
/// otherwise there, if anything is.
pub(super) async fn unlike(remote: &Remote, tree: &Tree, commit: &str) -> Result<Option<String>> {
    let there = remote.client.tree(&remote.repo, commit).await?;
    for (path, file) in tree {
        let Some(found) = there.get(path) else { return Ok(Some(format!("`{path}` is missing"))) };
        let (git_sha1, sha256) = (found.git_sha1.clone(), found.sha256.clone());
        if !is_same(file, &RemoteFile { size: found.size, git_sha1, sha256 }) {
            return Ok(Some(format!("`{path}` has other content")));
        }
    }
    Ok(None)
}
