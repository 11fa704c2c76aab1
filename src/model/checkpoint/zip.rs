//! The directory of a zip archive as `torch.save` and `numpy.savez` write them: stored entries, zip64 where needed.
//!
//! Reads the central directory alone, bounded, and hands out where an entry's bytes lie. It decompresses nothing: a
//! deflated entry is refused by its user, so that no claimed size is ever allocated. It knows nothing of pickles.

use crate::core::error::{Error, OnPath, Result};
use crate::model::tensor::read_exact_at;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Largest central directory read: a million tensors.
const MAX_DIRECTORY: u64 = 128 << 20;

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, e.g. `model/data/0`.
    pub name: String,
    /// 0 is stored, 8 is deflated.
    pub method: u16,
    /// Bytes in the archive.
    pub compressed: u64,
    /// Bytes once decompressed, as the archive claims.
    pub size: u64,
    /// CRC-32 of the bytes, zero where the writer left it out.
    pub crc32: u32,
    /// Where its local header starts.
    header: u64,
}

/// An archive's directory, and its file.
pub struct Archive {
    file: Arc<File>,
    length: u64,
    name: String,
    /// All entries, in the order of the directory.
    pub entries: Vec<Entry>,
}

impl Archive {
    /// Reads the directory of `path`.
    ///
    /// # Errors
    /// Not a zip file, truncated, a directory that does not fit the file, a name that comes twice.
    pub fn open(path: &Path) -> Result<Archive> {
        let damaged = |what: &str| damaged(&path.display().to_string(), what);
        let archive = Archive::scan(path)?.ok_or_else(|| damaged("the end of the archive is missing"))?;
        let mut names: Vec<&str> = archive.entries.iter().map(|e| e.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(damaged(&format!("entry `{}` comes twice", pair[0]))),
            None => Ok(archive),
        }
    }

    /// The same as lenient programs read it (Python's `zipfile`): a name may come twice, in any encoding, and something may
    /// stand before the archive. `None`: it has no end, so nobody reads it.
    ///
    /// # Errors
    /// A directory that does not fit the file.
    pub fn scan(path: &Path) -> Result<Option<Archive>> {
        let file = File::open(path).on("open", path)?;
        let length = file.metadata().on("stat", path)?.len();
        let name = path.display().to_string();
        let tail_at = length.saturating_sub(65_557 + 20);
        let tail = read_at(&file, tail_at, length - tail_at).on("read", path)?;
        let damaged = |what: &str| damaged(&name, what);
        let Some(end) = tail.windows(4).rposition(|w| w == END) else { return Ok(None) };
        let (count, size, offset, ends) =
            directory_of(&file, &tail, end, tail_at).ok_or_else(|| damaged("the end of the archive is malformed"))?;
        if size > MAX_DIRECTORY || offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(damaged("the archive's directory does not fit the file"));
        }
        // offsets are counted from where the archive begins
        let before = ends.saturating_sub(size + offset);
        let directory = read_at(&file, offset + before, size).on("read", path)?;
        let mut entries =
            parse_entries(&directory, count).ok_or_else(|| damaged("the archive's directory is malformed"))?;
        entries.iter_mut().for_each(|entry| entry.header = entry.header.saturating_add(before));
        Ok(Some(Archive { file: Arc::new(file), length, name, entries }))
    }

    /// The bytes of a stored entry of at most `limit` bytes.
    ///
    /// # Errors
    /// The entry is compressed, larger than `limit`, or does not fit the file.
    pub fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>> {
        let fail = |what: &str| damaged(&self.name, &format!("entry `{}` {what}", entry.name));
        if entry.method != 0 || entry.size != entry.compressed {
            return Err(fail("is compressed, which torch.save never does"));
        }
        if entry.size > limit {
            return Err(fail(&format!("claims {} bytes, at most {limit} are read", entry.size)));
        }
        let start = self.locate(entry)?;
        read_at(&self.file, start, entry.size).map_err(|_| fail("cannot be read"))
    }

    /// Where a stored entry's first byte lies in the file; all of its bytes lie within.
    ///
    /// # Errors
    /// It has no local header, or does not fit the file.
    pub fn locate(&self, entry: &Entry) -> Result<u64> {
        let fail = |what: &str| damaged(&self.name, &format!("entry `{}` {what}", entry.name));
        let inside = entry.header.checked_add(30).is_some_and(|end| end <= self.length);
        let head = match inside {
            true => read_at(&self.file, entry.header, 30).map_err(|_| fail("lies outside the file"))?,
            false => return Err(fail("lies outside the file")),
        };
        let lengths = u16_at(&head, 26).zip(u16_at(&head, 28)).filter(|_| head.starts_with(&LOCAL));
        let (name, extra) = lengths.ok_or_else(|| fail("has no local header"))?;
        let start = entry.header + 30 + u64::from(name) + u64::from(extra);
        match start.checked_add(entry.size).is_none_or(|end| end > self.length) {
            true => Err(fail("ends beyond the file")),
            false => Ok(start),
        }
    }

    /// The file, and its length in bytes.
    pub fn into_file(self) -> (Arc<File>, u64) {
        (self.file, self.length)
    }
}

/// (entries, bytes, offset) of the directory, and where it ends in the file. The zip64 record counts where there is one,
/// which torch.save always writes; Python's `zipfile` and miniz do the same. `at`: where `tail` begins.
fn directory_of(file: &File, tail: &[u8], end: usize, at: u64) -> Option<(u64, u64, u64, u64)> {
    let record = tail.get(end..end + 22)?;
    let ends = at + end as u64;
    let (count, size, offset) = (u16_at(record, 10)?, u32_at(record, 12)?, u32_at(record, 16)?);
    let locator = end.checked_sub(20).and_then(|start| tail.get(start..end));
    let Some(locator) = locator.filter(|bytes| bytes.starts_with(&LOCATOR_64)) else {
        return Some((count.into(), size.into(), offset.into(), ends));
    };
    // it stands before its locator; where something precedes the archive that is not where the locator says
    let record_at = |at: u64| Some((at, read_at(file, at, 56).ok().filter(|record| record.starts_with(&END_64))?));
    let (ends, record) = record_at(u64_at(locator, 8)?).or_else(|| record_at(ends.checked_sub(20 + 56)?))?;
    Some((u64_at(&record, 32)?, u64_at(&record, 40)?, u64_at(&record, 48)?, ends))
}

fn parse_entries(mut rest: &[u8], count: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        if !rest.starts_with(&ENTRY) {
            return None;
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| u16_at(rest, at).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        let mut entry = Entry {
            name: String::from_utf8_lossy(rest.get(46..46 + name)?).into_owned(),
            method: u16_at(rest, 10)?,
            compressed: u32_at(rest, 20)?.into(),
            size: u32_at(rest, 24)?.into(),
            crc32: u32_at(rest, 16)?,
            header: u32_at(rest, 42)?.into(),
        };
        apply_zip64(&mut entry, rest.get(46 + name..46 + name + extra)?)?;
        entries.push(entry);
        rest = rest.get(46 + name + extra + comment..)?;
    }
    (entries.len() as u64 == count).then_some(entries)
}

/// Fields that are all ones in the entry stand in its zip64 extra field, in this order.
fn apply_zip64(entry: &mut Entry, mut extra: &[u8]) -> Option<()> {
    while extra.len() >= 4 {
        let length = usize::from(u16_at(extra, 2)?);
        let body = extra.get(4..4 + length)?;
        if u16_at(extra, 0)? == 1 {
            let mut at = 0;
            for field in [&mut entry.size, &mut entry.compressed, &mut entry.header] {
                if *field == u64::from(u32::MAX) {
                    *field = u64_at(body, at)?;
                    at += 8;
                }
            }
        }
        extra = extra.get(4 + length..)?;
    }
    Some(())
}

/// The caller has bounded `length`.
fn read_at(file: &File, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| std::io::ErrorKind::OutOfMemory)?];
    read_exact_at(file, &mut bytes, offset)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

fn damaged(name: &str, what: &str) -> Error {
    Error::stage(format!("cannot read `{name}` as a zip archive: {what}"))
        .hint("the file is damaged or truncated: copy it again")
}
