//! The CAS: outputs by BLAKE3, read-only, verified when read back.
//!
//! A blob enters by rename from a work directory on the same file system, and leaves by reflink or copy, never by a hard
//! link to a file that a user may write. Does not know whose output a blob is.

use crate::core::digest::{Digest, FileDigests};
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::store::hash;
use crate::store::memo::{Memo, Signature};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The CAS's folder, and the one for files on their way.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
    tmp: PathBuf,
}

/// A blob as it lies there; nothing of it was read.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub modified: std::time::SystemTime,
}

static NEXT: AtomicU64 = AtomicU64::new(0);
/// Set by the first reflink that fails: asking again for every file costs more than the copy of a small one.
static CANNOT_REFLINK: AtomicBool = AtomicBool::new(false);

impl Blobs {
    /// Of a store.
    pub fn new(root: PathBuf, tmp: PathBuf) -> Blobs {
        Blobs { root, tmp }
    }

    /// Where a blob stands.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(&hex[..2]).join(hex)
    }

    /// Takes a file in by rename; its digest was computed by the caller from this very file. A whole blob that is there
    /// already stays: somebody may be reading it, and programs notice when a file is replaced meanwhile.
    pub fn take(&self, file: &Path, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).on("make read-only", file)?;
        let renamed = within(&path, || rename_new(file, &path));
        if renamed.on("rename into the store as", &path)? {
            return Ok(());
        }
        if hash::blake3_of(&path).ok() == Some(*digest) {
            return std::fs::remove_file(file).on("remove", file);
        }
        self.discard(digest);
        std::fs::rename(file, &path).on("rename into the store as", &path)
    }

    /// Takes bytes in.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let tmp = self.scratch();
        within(&tmp, || std::fs::write(&tmp, bytes)).on("write", &tmp)?;
        self.take(&tmp, &digest)?;
        Ok(digest)
    }

    fn scratch(&self) -> PathBuf {
        self.tmp.join(format!("file-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Whether a blob is there and whole: by the memo where its stat is known, else by reading it.
    pub fn is_whole(&self, digest: &Digest, memo: &mut Memo) -> Result<bool> {
        let path = self.path(digest);
        match Signature::of(&path)? {
            None => return Ok(false),
            Some(seen) if memo.was_made(digest, &seen) => return Ok(true),
            Some(_) => {}
        }
        let name = format!("blob:{}", digest.hex());
        let found = memo.digest_as(&path, &name)?;
        Ok(found == Some(*digest))
    }

    /// Removes a damaged blob, so that a new one can take its place.
    pub fn discard(&self, digest: &Digest) {
        let path = self.path(digest);
        let _ = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        }; // if it stays, the next rename replaces it, or says why not
    }

    /// Every blob that is there. Files whose names are no digests are nobody's here, and left alone.
    pub fn all(&self) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for entry in walkdir::WalkDir::new(&self.root).min_depth(2).max_depth(2) {
            let entry = match entry.map_err(std::io::Error::from) {
                Ok(entry) => entry,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("list", &self.root, &e)),
            };
            let Some(digest) = entry.file_name().to_str().and_then(|n| n.parse::<Digest>().ok()) else { continue };
            if entry.file_type().is_file() && entry.path() == self.path(&digest) {
                let meta = std::fs::symlink_metadata(entry.path()).on("stat", entry.path())?;
                let modified = meta.modified().on("stat", entry.path())?;
                all.push(Stored { digest, size: meta.len(), modified });
            }
        }
        Ok(all)
    }

    /// Removes a blob, and its folder where it was the last in it. One that is gone already is fine.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, &e)),
            _ => {}
        }
        if let Some(dir) = path.parent() {
            let _ = std::fs::remove_dir(dir); // it holds others, mostly
        }
        Ok(())
    }

    /// Puts a blob at a place of the project, atomically: reflinked or copied beside it, then renamed over what is there.
    /// What a user may have put there by hand is kept: the caller moves it aside first. `copy`: one of
    /// [`Blobs::copy_aside`].
    pub fn place(&self, digest: &Digest, root: &Path, path: &str, copy: Option<PathBuf>) -> Result<()> {
        let target = root.join(path);
        let dir = target.parent().unwrap_or(root);
        let mut plain = is_plain(root, dir);
        if !plain {
            std::fs::create_dir_all(dir).on("create", dir)?;
            plain = is_plain(root, dir);
        }
        if !plain && !dir.canonicalize().on("resolve", dir)?.starts_with(root.canonicalize().on("resolve", root)?) {
            return Err(Error::new(ErrorKind::Io, format!("`{path}` leaves the project by a symbolic link"))
                .hint("hfbuild writes inside the project only: replace the link by a folder"));
        }
        let tmp = copy.map_or_else(|| self.copy_aside(digest), Ok)?;
        let placed = rename_over(&tmp, &target);
        if placed.is_err() {
            let _ = std::fs::remove_file(&tmp); // the first error says more
        }
        placed
    }

    /// Copies a blob to a file among those on their way, which is the caller's.
    pub fn copy_aside(&self, digest: &Digest) -> Result<PathBuf> {
        let tmp = self.scratch();
        match self.copy_out(digest, &tmp) {
            Ok(()) => Ok(tmp),
            Err(error) => {
                let _ = std::fs::remove_file(&tmp); // the first error says more
                Err(error)
            }
        }
    }

    /// Copies a blob to a new, writable file.
    pub fn copy_out(&self, digest: &Digest, to: &Path) -> Result<()> {
        let blob = self.path(digest);
        if !CANNOT_REFLINK.load(Ordering::Relaxed) {
            if within(to, || reflink_copy::reflink(&blob, to)).is_ok() {
                let mode = std::fs::Permissions::from_mode(0o644);
                return std::fs::set_permissions(to, mode).on("set the permissions of", to);
            }
            CANNOT_REFLINK.store(blob.exists(), Ordering::Relaxed);
        }
        within(to, || {
            let mut from = std::fs::File::open(&blob)?;
            let mut new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(to)?;
            std::io::copy(&mut from, &mut new)
        })
        .on("copy a blob to", to)
        .map(drop)
    }

    /// Reads a small blob, verified.
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(digest)) {
            Ok(bytes) => Ok((Digest::of(&bytes) == *digest).then_some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &self.path(digest), &e)),
        }
    }

    /// All digests of a blob, in one read.
    pub fn hash_all(&self, digest: &Digest) -> Result<FileDigests> {
        hash::all_of(&self.path(digest))
    }
}

/// Does something to a path, and where something is missing, makes the folder that it stands in and does it again: nearly
/// always the folder is there. It may also have been made, by another thread, just after it was missing.
fn within<T>(path: &Path, act: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    match (act(), path.parent()) {
        (Err(e), Some(dir)) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            act()
        }
        (done, _) => done,
    }
}

/// Whether `dir` is a folder below `root` to which no symbolic link leads: true of nearly all, and told without resolving
/// the whole path.
fn is_plain(root: &Path, dir: &Path) -> bool {
    let Ok(relative) = dir.strip_prefix(root) else { return false };
    let mut at = root.to_path_buf();
    relative.components().all(|part| {
        at.push(part);
        std::fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_dir())
    })
}

/// Renames where nothing is in the way, in one step; `false`: something is, and nothing happened.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<bool> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(nix::Error::EEXIST) => Ok(false),
        // a file system that cannot do it in one step
        Err(nix::Error::EINVAL | nix::Error::ENOSYS | nix::Error::ENOTSUP) if to.symlink_metadata().is_ok() => {
            Ok(false)
        }
        Err(nix::Error::EINVAL | nix::Error::ENOSYS | nix::Error::ENOTSUP) => std::fs::rename(from, to).map(|()| true),
        Err(e) => Err(e.into()),
    }
}

/// Renames over the target; where the store stands on another file system, through a copy beside the target.
fn rename_over(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
            let beside = to.with_extension(format!("hfbuild-{}", std::process::id()));
            std::fs::copy(from, &beside).on("copy to", &beside)?;
            std::fs::rename(&beside, to).on("rename to", to)?;
            std::fs::remove_file(from).on("remove", from)
        }
        other => other.on("rename to", to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_content_are_taken_at_once_into_a_store_that_is_new() {
        for round in 0..200 {
            let dir = tempfile::tempdir().unwrap();
            let blobs = Blobs::new(dir.path().join("blobs"), dir.path().join("tmp"));
            let content = format!("content {round}");
            let digest = Digest::of(content.as_bytes());
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for n in 0..4 {
                    let file = dir.path().join(n.to_string());
                    std::fs::write(&file, &content).unwrap();
                    let (blobs, start) = (&blobs, &start);
                    scope.spawn(move || {
                        start.wait();
                        blobs.take(&file, &digest).unwrap();
                    });
                }
            });
            assert_eq!(blobs.read(&digest).unwrap().unwrap(), content.as_bytes());
        }
    }
}
