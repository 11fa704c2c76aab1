//! The body of a commit, a JSON object a line, made while it is sent: no more than a piece of it is in memory.
//!
//! Knows the lines and how long they will be. Does not send.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Body;

use super::write::{CommitRequest, Operation};
use crate::core::error::{Error, OnPath, Result};
use crate::hub::protocol::{CommitCopy, CommitFile, CommitHeader, CommitLfsFile, CommitLine, CommitPath};

/// How much is made at a time.
const PIECE: usize = 256 << 10;

/// How a copy is written into a commit.
#[derive(Clone, Copy)]
pub(super) enum Copies {
    /// As a copy of its source.
    Named,
    /// As an LFS file whose content the hub has.
    ByContent,
}

/// The length of the body, and the body.
///
/// # Errors
/// A file is not there any more, or has another size.
pub(super) fn body(commit: &CommitRequest, copies: Copies) -> Result<(u64, Body)> {
    let header = CommitLine::Header(CommitHeader {
        summary: commit.summary.clone(),
        description: commit.description.clone(),
        parent_commit: Some(commit.parent.clone()),
    });
    let header = written(&header)?;
    let mut length = header.len() as u64;
    for operation in &commit.operations {
        length += length_of(operation, copies)?;
    }
    let operations = commit.operations.clone().into_iter();
    let lines = std::iter::once(Ok(header)).chain(operations.flat_map(move |operation| line(&operation, copies)));
    Ok((length, Body::wrap_stream(futures_util::stream::iter(Pieces(lines)))))
}

/// Lines together, up to a size.
struct Pieces<I>(I);

impl<I: Iterator<Item = Result<Vec<u8>>>> Iterator for Pieces<I> {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::new();
        while piece.len() < PIECE {
            match self.0.next() {
                Some(Ok(line)) => piece.extend(line),
                Some(Err(error)) => return Some(Err(std::io::Error::other(error.to_string()))),
                None => break,
            }
        }
        (!piece.is_empty()).then(|| Ok(piece.into()))
    }
}

/// A line in pieces: that of a file holds its content.
fn line(operation: &Operation, copies: Copies) -> Box<dyn Iterator<Item = Result<Vec<u8>>> + Send> {
    let made = match operation {
        Operation::AddFile { path, file, size } => match Inline::open(path, file, *size) {
            Ok(inline) => return Box::new(inline),
            Err(error) => Err(error),
        },
        other => written(&plain(other, copies)),
    };
    Box::new(std::iter::once(made))
}

/// The line of a file, whose content is read while it is sent: one file may be as large as all that goes in lines.
struct Inline {
    /// What stands before the content; `None`: it was handed out.
    head: Option<Vec<u8>>,
    /// `None`: read to its end.
    file: Option<File>,
    path: PathBuf,
    size: u64,
    read: u64,
    tail: Vec<u8>,
}

impl Inline {
    /// Bytes at a time, of which base64 makes whole groups.
    const STEP: u64 = 3 << 16;

    fn open(path: &str, file: &Path, size: u64) -> Result<Inline> {
        let mut head = written(&inline(path, String::new()))?;
        // the content is the first of the fields, and empty here
        let at = head.windows(2).position(|pair| pair == b"\"\"").map(|at| at + 1);
        let tail = head.split_off(at.ok_or_else(|| Error::bug("a commit's line has no place for the content"))?);
        let open = File::open(file).on("open", file)?;
        Ok(Inline { head: Some(head), file: Some(open), path: file.to_owned(), size, read: 0, tail })
    }

    fn piece(&mut self, file: &File) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(Self::STEP.min(self.size - self.read + 1) as usize);
        file.take(Self::STEP).read_to_end(&mut content).on("read", &self.path)?;
        self.read += content.len() as u64;
        let ended = (content.len() as u64) < Self::STEP;
        if self.read > self.size || (ended && self.read < self.size) {
            return Err(changed(&self.path, self.size, self.read));
        }
        let mut piece = STANDARD.encode(content).into_bytes();
        if ended {
            piece.append(&mut self.tail);
        }
        Ok(piece)
    }
}

impl Iterator for Inline {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        if let Some(head) = self.head.take() {
            return Some(Ok(head));
        }
        let file = self.file.take()?;
        let piece = self.piece(&file);
        if piece.is_ok() && !self.tail.is_empty() {
            self.file = Some(file);
        }
        Some(piece)
    }
}

/// The length of a line. Of a file only the size is looked at.
fn length_of(operation: &Operation, copies: Copies) -> Result<u64> {
    let Operation::AddFile { path, file, size } = operation else {
        return Ok(written(&plain(operation, copies))?.len() as u64);
    };
    let found = std::fs::metadata(file).on("read", file)?.len();
    if found != *size {
        return Err(changed(file, *size, found));
    }
    Ok(written(&inline(path, String::new()))?.len() as u64 + size.div_ceil(3) * 4)
}

fn changed(file: &Path, size: u64, found: u64) -> Error {
    Error::stage(format!("`{}` changed while it was published", file.display()))
        .cause(format!("expected {size} bytes, found {found}"))
}

fn inline(path: &str, content: String) -> CommitLine {
    CommitLine::File(CommitFile { content, path: path.to_owned(), encoding: Some("base64".to_owned()) })
}

fn plain(operation: &Operation, copies: Copies) -> CommitLine {
    let lfs = |path: &str, sha256: &str, size: u64| {
        let (path, oid) = (path.to_owned(), sha256.to_owned());
        CommitLine::LfsFile(CommitLfsFile { path, algo: Some("sha256".to_owned()), oid, size: Some(size) })
    };
    match operation {
        Operation::AddRegular { path, bytes } => inline(path, STANDARD.encode(bytes)),
        Operation::AddFile { path, .. } => inline(path, String::new()),
        Operation::AddLfs { path, sha256, size } => lfs(path, sha256, *size),
        Operation::Copy { path, source, revision, sha256, size } => match copies {
            Copies::ByContent => lfs(path, sha256, *size),
            Copies::Named => CommitLine::CopyFile(CommitCopy {
                path: path.clone(),
                src_path: source.clone(),
                src_revision: Some(revision.clone()),
            }),
        },
        Operation::Delete { path } => CommitLine::DeletedFile(CommitPath { path: path.clone() }),
    }
}

fn written(line: &CommitLine) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line).map_err(|e| Error::bug(format!("a commit cannot be written: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_was_said_whatever_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let line =
            |operation: &Operation| line(operation, Copies::Named).collect::<Result<Vec<_>>>().map(|all| all.concat());
        let step = Inline::STEP as usize;
        for size in [0, 1, 2, 3, 1000, step - 1, step, step + 1, 2 * step + 7] {
            let file = dir.path().join("content");
            std::fs::write(&file, vec![7; size]).unwrap();
            let add = Operation::AddFile { path: "a \"b\".txt".into(), file: file.clone(), size: size as u64 };
            let said = length_of(&add, Copies::Named).unwrap();
            let made = line(&add).unwrap();
            assert_eq!(made.len() as u64, said);
            let same = Operation::AddRegular { path: "a \"b\".txt".into(), bytes: vec![7; size] };
            assert!(made == line(&same).unwrap(), "{size}");
            std::fs::write(&file, vec![7; size + 1]).unwrap();
            assert!(length_of(&add, Copies::Named).is_err() && line(&add).is_err());
            std::fs::write(&file, vec![7; size.saturating_sub(1)]).unwrap();
            assert!(size == 0 || line(&add).is_err(), "{size}");
        }
    }
}
