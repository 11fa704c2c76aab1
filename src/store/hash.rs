//! Reading files for their digests. BLAKE3 alone by mapping and all cores; BLAKE3, SHA-256 and git's SHA-1 together in
//! one read where content will be published.
//!
//! Does not know whose files these are.

use crate::core::digest::{Digest, HubDigests, REGULAR_LIMIT};
use crate::core::error::{OnPath, Result};
use sha2::Digest as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// BLAKE3 of a file, on all cores for large ones.
pub fn blake3_of(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).on("read", path)?;
    Ok(Digest::from_hash(hasher.finalize()))
}

/// What one read of a file tells.
#[derive(Debug, Clone)]
pub struct Read1 {
    /// Bytes.
    pub size: u64,
    /// BLAKE3.
    pub digest: Digest,
    /// What the Hub knows it by.
    pub hub: HubDigests,
}

/// All digests of a file in one read. SHA-256 sets the pace; BLAKE3 hides behind it on a second core.
pub fn all_of(path: &Path) -> Result<Read1> {
    let mut file = File::open(path).on("open", path)?;
    let expected = file.metadata().on("stat", path)?.len();
    let mut blake = blake3::Hasher::new();
    let mut sha256 = sha2::Sha256::new();
    let mut git = (expected <= REGULAR_LIMIT).then(|| {
        let mut git = sha1::Sha1::new();
        git.update(format!("blob {expected}\0"));
        git
    });
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).on("read", path)?;
        if n == 0 {
            break;
        }
        let chunk = &buffer[..n];
        size += n as u64;
        rayon::join(
            || blake.update(chunk),
            || {
                sha256.update(chunk);
                git.iter_mut().for_each(|g| g.update(chunk));
            },
        );
    }
    let git_sha1 = git.filter(|_| size == expected).map(|g| hex::encode(g.finalize()));
    let hub = HubDigests { sha256: hex::encode(sha256.finalize()), git_sha1 };
    Ok(Read1 { size, digest: Digest::from_hash(blake.finalize()), hub })
}
