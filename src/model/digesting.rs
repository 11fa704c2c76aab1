//! A file that is digested while it is written, so that nothing has to be read back. Each thing that is done with a piece is a
//! [`Lane`], a thread of its own: SHA-256, the slowest, sets the pace, and writing and BLAKE3 hide behind it.
//!
//! Knows no format.

use crate::core::digest::{Digest, FileDigests, HubDigests, HubHasher};
use crate::core::error::{Error, OnPath, Result};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pieces that wait for one lane, at most.
const WAITING: usize = 4;

/// What is done with pieces, one after the other.
pub(super) trait Consumer: Send + 'static {
    /// What it comes to.
    type End: Send + 'static;
    /// The next piece.
    fn take(&mut self, piece: &[u8]) -> Result<()>;
    /// After the last.
    fn end(self) -> Result<Self::End>;
}

/// A consumer on a thread of its own.
pub(super) struct Lane<T> {
    pieces: SyncSender<Arc<Vec<u8>>>,
    thread: JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Lane<T> {
    /// Starts the thread. Who has done the last thing with a piece puts its memory into `spares`.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(mut consumer: impl Consumer<End = T>, spares: &Spares) -> Result<Lane<T>> {
        let (pieces, waiting) = sync_channel::<Arc<Vec<u8>>>(WAITING);
        let done = spares.done.clone();
        let work = move || {
            for piece in waiting {
                consumer.take(&piece)?;
                if let Some(memory) = Arc::into_inner(piece) {
                    let _ = done.try_send(memory); // there are enough of them
                }
            }
            consumer.end()
        };
        let thread = std::thread::Builder::new().spawn(work);
        let thread = thread.map_err(|e| Error::stage("no thread can be had").cause(e.to_string()))?;
        Ok(Lane { pieces, thread })
    }

    /// Hands on a piece. Where the thread has ended, [`Lane::end`] says why.
    pub fn put(&self, piece: &Arc<Vec<u8>>) -> bool {
        self.pieces.send(Arc::clone(piece)).is_ok()
    }

    /// Waits until all is done.
    ///
    /// # Errors
    /// Those of the consumer.
    pub fn end(self) -> Result<T> {
        drop(self.pieces);
        self.thread.join().map_err(|_| Error::bug("a thread that digests ended too early"))?
    }
}

/// Memory of pieces that all are done with.
pub(super) struct Spares {
    done: SyncSender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

impl Spares {
    /// None yet.
    pub fn new() -> Spares {
        let (done, free) = sync_channel(3 * WAITING);
        Spares { done, free }
    }
    /// Memory for a piece, with anything in it.
    pub fn get(&self) -> Vec<u8> {
        self.free.try_recv().unwrap_or_default()
    }
}

/// See the module.
pub(super) struct DigestingFile {
    disk: Lane<(u64, Digest)>,
    hub: Lane<HubDigests>,
}

impl DigestingFile {
    /// Makes the file, or empties it, for `size` bytes.
    ///
    /// # Errors
    /// The file cannot be made, or no thread be had.
    pub fn create(path: &Path, size: u64, spares: &Spares) -> Result<DigestingFile> {
        let file = File::create(path).on("create", path)?;
        let disk = Disk { file, path: path.to_owned(), blake: blake3::Hasher::new(), size: 0 };
        let (disk, hub) = (Lane::start(disk, spares)?, Lane::start(HubHasher::new(size), spares)?);
        Ok(DigestingFile { disk, hub })
    }

    /// The next piece. `false`: it is of no use to go on, and [`DigestingFile::finish`] says why.
    pub fn put(&self, piece: &Arc<Vec<u8>>) -> bool {
        self.disk.put(piece) && self.hub.put(piece)
    }

    /// Waits until all is written, and tells what the file holds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<FileDigests> {
        let (size, digest) = self.disk.end()?;
        Ok(FileDigests { size, digest, hub: self.hub.end()? })
    }
}

/// Writes, with BLAKE3.
struct Disk {
    file: File,
    path: PathBuf,
    blake: blake3::Hasher,
    size: u64,
}

impl Consumer for Disk {
    type End = (u64, Digest);
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).on("write", &self.path)?;
        self.blake.update(piece);
        self.size += piece.len() as u64;
        Ok(())
    }
    fn end(self) -> Result<(u64, Digest)> {
        Ok((self.size, Digest::from_hash(self.blake.finalize())))
    }
}

impl Consumer for HubHasher {
    type End = HubDigests;
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.update(piece);
        Ok(())
    }
    fn end(self) -> Result<HubDigests> {
        Ok(self.finish())
    }
}

/// BLAKE3 of each of several things that come one after the other, in pieces that hold bytes of one alone.
pub(super) struct Each {
    lengths: VecDeque<usize>,
    hasher: blake3::Hasher,
    fed: usize,
    hashes: Vec<blake3::Hash>,
}

impl Each {
    /// Of things of these lengths in bytes.
    pub fn of(lengths: impl Iterator<Item = usize>) -> Each {
        Each { lengths: lengths.collect(), hasher: blake3::Hasher::new(), fed: 0, hashes: vec![] }
    }

    /// Ends the things that are whole: an empty one as soon as the one before it is.
    fn close(&mut self) {
        while self.lengths.front() == Some(&self.fed) {
            self.hashes.push(self.hasher.finalize());
            self.hasher.reset();
            self.lengths.pop_front();
            self.fed = 0;
        }
    }
}

impl Consumer for Each {
    type End = Vec<blake3::Hash>;
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.close(); // empty ones at the beginning
        self.hasher.update(piece);
        self.fed += piece.len();
        self.close();
        Ok(())
    }
    fn end(mut self) -> Result<Vec<blake3::Hash>> {
        self.close();
        match self.lengths.is_empty() {
            true => Ok(self.hashes),
            false => Err(Error::bug("tensors were handed out in other lengths than theirs")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    #[test]
    fn what_is_written_in_pieces_of_any_size_is_in_the_file_and_has_its_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..100_000).map(|n| (n * 31 % 251) as u8).collect();
        for (length, step) in [(0, 1), (1, 1), (4096, 4096), (65_537, 7_777), (content.len(), 1013)] {
            let spares = Spares::new();
            let file = DigestingFile::create(&path, length as u64, &spares).unwrap();
            for piece in content[..length].chunks(step) {
                let mut memory = spares.get();
                memory.clear();
                memory.extend_from_slice(piece);
                assert!(file.put(&Arc::new(memory)));
            }
            let found = file.finish().unwrap();
            let written = std::fs::read(&path).unwrap();
            assert!(written == content[..length], "{length} bytes by {step}");
            assert_eq!((found.size, found.digest), (length as u64, Digest::of(&written)));
            assert_eq!(found.hub.sha256, hex::encode(sha2::Sha256::digest(&written)));
            let git = sha1::Sha1::new().chain_update(format!("blob {length}\0")).chain_update(&written);
            assert_eq!(found.hub.git_sha1, Some(hex::encode(git.finalize())));
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_that_names_it_and_no_digest() {
        let spares = Spares::new();
        let file = DigestingFile::create(Path::new("/dev/full"), 3, &spares).unwrap();
        file.put(&Arc::new(b"abc".to_vec()));
        assert!(file.finish().unwrap_err().to_string().contains("/dev/full"));
    }

    #[test]
    fn things_are_told_apart_by_their_lengths_the_empty_ones_too() {
        let mut each = Each::of([0, 3, 0, 0, 2, 0].into_iter());
        for piece in [&b"ab"[..], b"c", b"de"] {
            each.take(piece).unwrap();
        }
        let expected: Vec<_> = [&b""[..], b"abc", b"", b"", b"de", b""].map(blake3::hash).into();
        assert_eq!(each.end().unwrap(), expected);
        assert!(Each::of([1].into_iter()).end().is_err());
    }
}
