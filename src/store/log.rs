//! An append-only log of JSON lines, each with a checksum before it.
//!
//! Why lines and not a database: readers need no lock while a build writes, a torn tail or a flipped bit costs its own
//! line and nothing after it, and a person can read it. A record is one `write`, so a killed process leaves at most one
//! incomplete line, which the checksum tells.
//!
//! Does not know what a record means.

use crate::core::error::{Error, OnPath, Result};
use rayon::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What was read.
pub struct Read1<T> {
    /// The records in order.
    pub records: Vec<T>,
    /// Lines that were damaged or of an unknown form, and were left out.
    pub damaged: usize,
}

fn checksum(json: &[u8]) -> String {
    blake3::hash(json).to_hex()[..16].to_string()
}

/// How many bytes of a log are parsed before their records are handed on: enough for all cores, and little beside the log.
const CHUNK: usize = 4 << 20;

/// Reads a log. A log that is not there is empty.
pub fn read<T: DeserializeOwned + Send>(path: &Path) -> Result<Read1<T>> {
    let mut records = Vec::new();
    let damaged = each(path, |record| records.push(record))?;
    Ok(Read1 { records, damaged })
}

/// Hands every record of a log to `take`, in order, and says how many lines were damaged.
pub fn each<T: DeserializeOwned + Send>(path: &Path, mut take: impl FnMut(T)) -> Result<usize> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io("read", path, &e)),
    };
    let mut damaged = 0;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(end_of_line(rest, CHUNK));
        rest = after;
        let lines: Vec<_> = chunk.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
        let parsed: Vec<Option<T>> = lines.par_iter().with_min_len(256).map(|line| parse(line)).collect();
        for record in parsed {
            match record {
                Some(record) => take(record),
                None => damaged += 1,
            }
        }
    }
    // a line without its newline is a write in progress, or one that was cut off: no damage, only a tail
    if damaged > 0 && bytes.last() != Some(&b'\n') && parse::<T>(last_line(&bytes)).is_none() {
        damaged -= 1;
    }
    Ok(damaged)
}

/// Where the first line ends that ends at `from` or after it.
fn end_of_line(bytes: &[u8], from: usize) -> usize {
    let newline = bytes.iter().skip(from).position(|b| *b == b'\n');
    newline.map_or(bytes.len(), |at| from + at + 1)
}

fn last_line(bytes: &[u8]) -> &[u8] {
    bytes.rsplit(|b| *b == b'\n').next().unwrap_or_default()
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = (line.get(..16)?, line.get(17..)?);
    (line.get(16) == Some(&b' ') && checksum(json).as_bytes() == sum).then_some(())?;
    serde_json::from_slice(json).ok()
}

/// Appends to a log. One writer at a time: the build holds the lock.
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Opens for appending; a torn tail, which never was a record, is cut off.
    pub fn open(path: &Path) -> Result<Writer> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).on("create", dir)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).on("open", path)?;
        if file.seek(SeekFrom::End(0)).on("seek in", path)? > 0 {
            file.seek(SeekFrom::End(-1)).on("seek in", path)?;
            let mut last = [0];
            file.read_exact(&mut last).on("read", path)?;
            if last != *b"\n" {
                let bytes = std::fs::read(path).on("read", path)?;
                let tail = last_line(&bytes);
                match parse::<serde::de::IgnoredAny>(tail) {
                    Some(_) => file.write_all(b"\n").on("write", path)?, // whole but for its end
                    None => file.set_len((bytes.len() - tail.len()) as u64).on("cut", path)?, // it never was a record
                }
            }
        }
        Ok(Writer { file, path: path.into() })
    }

    /// Appends a record with a single write.
    pub fn append<T: Serialize>(&mut self, record: &T) -> Result<()> {
        let line = line_of(record)?;
        self.file.write_all(&line).on("write", &self.path)
    }

    /// Appends and waits until the disk has it: for records that must survive a power cut.
    pub fn append_synced<T: Serialize>(&mut self, record: &T) -> Result<()> {
        self.append(record)?;
        self.file.sync_data().on("sync", &self.path)
    }
}

fn line_of<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    let json =
        serde_json::to_vec(record).map_err(|e| Error::bug(format!("a record cannot be written as JSON: {e}")))?;
    let mut line = format!("{} ", checksum(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Writes a whole log anew, atomically.
pub fn rewrite<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(line_of(record)?);
    }
    let tmp = path.with_extension("new");
    std::fs::write(&tmp, bytes).on("write", &tmp)?;
    std::fs::rename(&tmp, path).on("rename", &tmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path).unwrap();
        (0..3).for_each(|i| writer.append(&i).unwrap());
        (dir, path)
    }

    #[test]
    fn a_tail_torn_at_any_byte_loses_only_its_own_record() {
        let (_dir, path) = written();
        let whole = std::fs::read(&path).unwrap();
        let second_ends = whole.len() - whole.len() / 3;
        for cut in second_ends..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let read: Read1<i32> = read(&path).unwrap();
            let complete = cut == whole.len() - 1; // only the newline is missing
            assert_eq!(read.records.len(), if complete { 3 } else { 2 }, "cut at {cut}");
            assert_eq!(read.damaged, 0);
            Writer::open(&path).unwrap().append(&9).unwrap();
            let again: Read1<i32> = super::read(&path).unwrap();
            assert_eq!(again.records.last(), Some(&9));
        }
    }

    #[test]
    fn a_flipped_bit_loses_its_line_and_is_counted() {
        let (_dir, path) = written();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[17] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let read: Read1<i32> = read(&path).unwrap();
        assert_eq!((read.records, read.damaged), (vec![1, 2], 1));
    }
}
