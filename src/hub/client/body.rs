//! The body of a commit, a JSON object a line, made while it is sent: no more than a piece of it is in memory.
//!
//! Knows the lines and how long they will be. Does not send.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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
    let lines = std::iter::once(Ok(header)).chain(operations.map(move |operation| line(&operation, copies)));
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

fn line(operation: &Operation, copies: Copies) -> Result<Vec<u8>> {
    match operation {
        Operation::AddFile { path, file, size } => written(&inline(path, STANDARD.encode(whole(file, *size)?))),
        other => written(&plain(other, copies)),
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

fn whole(file: &Path, size: u64) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity(size as usize);
    File::open(file).on("open", file)?.take(size + 1).read_to_end(&mut content).on("read", file)?;
    match content.len() as u64 == size {
        true => Ok(content),
        false => Err(changed(file, size, content.len() as u64)),
    }
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
        for size in [0, 1, 2, 3, 1000] {
            let file = dir.path().join("content");
            std::fs::write(&file, vec![7; size]).unwrap();
            let add = Operation::AddFile { path: "a \"b\".txt".into(), file: file.clone(), size: size as u64 };
            let said = length_of(&add, Copies::Named).unwrap();
            let made = line(&add, Copies::Named).unwrap();
            assert_eq!(made.len() as u64, said);
            let same = Operation::AddRegular { path: "a \"b\".txt".into(), bytes: vec![7; size] };
            assert_eq!(made, line(&same, Copies::Named).unwrap());
            std::fs::write(&file, vec![7; size + 1]).unwrap();
            assert!(length_of(&add, Copies::Named).is_err() && line(&add, Copies::Named).is_err());
        }
    }
}
