//! Reading files for their digests. BLAKE3 alone by mapping and all cores; BLAKE3, SHA-256 and git's SHA-1 together in
//! one read where content will be published.
//!
//! Does not know whose files these are.

use crate::core::digest::{Digest, FileDigests, HubHasher};
use crate::core::error::{OnPath, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// BLAKE3 of a file, on all cores for large ones.
pub fn blake3_of(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).on("read", path)?;
    Ok(Digest::from_hash(hasher.finalize()))
}

/// All digests of a file in one read. SHA-256 sets the pace; BLAKE3 hides behind it on a second core.
pub fn all_of(path: &Path) -> Result<FileDigests> {
    let mut file = File::open(path).on("open", path)?;
    let mut blake = blake3::Hasher::new();
    let mut hub = HubHasher::new(file.metadata().on("stat", path)?.len());
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).on("read", path)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        rayon::join(|| blake.update(&buffer[..n]), || hub.update(&buffer[..n]));
    }
    Ok(FileDigests { size, digest: Digest::from_hash(blake.finalize()), hub: hub.finish() })
}
