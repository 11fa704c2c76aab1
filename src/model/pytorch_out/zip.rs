//! A zip archive as torch writes it: stored entries, each aligned by padding in an extra field `FB`, sizes and checksum
//! in a data descriptor behind the bytes, no dates; zip64 fields where 32 bits do not do (PKWARE's APPNOTE, 4.3 and 4.5).
//!
//! Streams: an entry's length is known before its bytes, its checksum after them. Knows no pickles.

use std::io::{Result, Write};

/// Where entries' bytes begin: a multiple of this, so that a mapped file gives aligned tensors.
pub const ALIGNMENT: u64 = 64;
/// Sizes and offsets from here on stand in a zip64 field.
const MAX_32: u64 = u32::MAX as u64;
/// UTF-8 names, and a data descriptor.
const FLAGS: u16 = 0x808;

/// An archive that is being written.
pub struct Writer<W> {
    out: W,
    stem: String,
    offset: u64,
    directory: Vec<Row>,
}

/// One entry of the directory.
struct Row {
    path: String,
    crc: u32,
    size: u64,
    header: u64,
}

/// An entry that is being written.
pub struct Entry<'a, W: Write> {
    archive: &'a mut Writer<W>,
    crc: crc32fast::Hasher,
    left: i128,
    row: Row,
}

impl<W: Write> Writer<W> {
    /// An archive whose entries lie in the folder `stem`.
    pub fn new(out: W, stem: &str) -> Self {
        Writer { out, stem: stem.to_owned(), offset: 0, directory: vec![] }
    }

    /// A whole entry.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut entry = self.begin(name, bytes.len() as u64)?;
        entry.put(bytes)?;
        entry.end().map(drop)
    }

    /// An entry of `size` bytes, which are put into it next.
    pub fn begin(&mut self, name: &str, size: u64) -> Result<Entry<'_, W>> {
        let row = Row { path: format!("{}/{name}", self.stem), crc: 0, size, header: self.offset };
        let mut extra = if size >= MAX_32 { zip64(&[size, size]) } else { vec![] };
        let before = self.offset + 30 + (row.path.len() + extra.len() + 4) as u64;
        let padding = (before.next_multiple_of(ALIGNMENT) - before) as u16;
        extra.extend(b"FB");
        extra.extend(padding.to_le_bytes());
        extra.resize(extra.len() + usize::from(padding), b'Z');
        let mut head = b"PK\x03\x04\0\0".to_vec();
        head.extend(FLAGS.to_le_bytes());
        head.extend([0; 10]); // method, time, date, and the checksum that follows later
        head.extend(if size >= MAX_32 { [0xff; 8] } else { [0; 8] });
        head.extend((row.path.len() as u16).to_le_bytes());
        head.extend((extra.len() as u16).to_le_bytes());
        head.extend(row.path.as_bytes());
        head.extend(extra);
        self.put(&head)?;
        Ok(Entry { archive: self, crc: crc32fast::Hasher::new(), left: size.into(), row })
    }

    /// The directory. Returns the archive's length.
    pub fn finish(mut self) -> Result<u64> {
        let start = self.offset;
        let directory: Vec<u8> = self.directory.iter().flat_map(Row::bytes).collect();
        self.put(&directory)?;
        let (end, count) = (self.offset, self.directory.len() as u64);
        let mut tail = b"PK\x06\x06".to_vec(); // the zip64 end, always there, as torch has it
        tail.extend(44_u64.to_le_bytes());
        tail.extend([45, 0, 45, 0]);
        tail.extend([0; 8]);
        [count, count, end - start, start].iter().for_each(|n| tail.extend(n.to_le_bytes()));
        tail.extend(b"PK\x06\x07\0\0\0\0");
        tail.extend(end.to_le_bytes());
        tail.extend(1_u32.to_le_bytes());
        tail.extend(b"PK\x05\x06\0\0\0\0");
        let short = (count.min(u16::MAX.into()) as u16).to_le_bytes();
        tail.extend([short, short].concat());
        [end - start, start].iter().for_each(|n| tail.extend((*n.min(&MAX_32) as u32).to_le_bytes()));
        tail.extend([0; 2]);
        self.put(&tail)?;
        self.out.flush()?;
        Ok(self.offset)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

impl<W: Write> Entry<'_, W> {
    /// The next bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.left -= bytes.len() as i128;
        self.archive.put(bytes)
    }

    /// Ends the entry. Whether it got as many bytes as it was begun with.
    pub fn end(self) -> Result<bool> {
        let (size, crc) = (self.row.size, self.crc.finalize());
        let mut descriptor = b"PK\x07\x08".to_vec();
        descriptor.extend(crc.to_le_bytes());
        for _ in 0..2 {
            match size >= MAX_32 {
                true => descriptor.extend(size.to_le_bytes()),
                false => descriptor.extend((size as u32).to_le_bytes()),
            }
        }
        self.archive.put(&descriptor)?;
        self.archive.directory.push(Row { crc, ..self.row });
        Ok(self.left == 0)
    }
}

impl Row {
    /// The entry in the directory.
    fn bytes(&self) -> Vec<u8> {
        let large_size = self.size >= MAX_32;
        let wide: Vec<u64> = [(large_size, self.size), (large_size, self.size), (self.header >= MAX_32, self.header)]
            .iter()
            .filter(|(wide, _)| *wide)
            .map(|(_, value)| *value)
            .collect();
        let extra = if wide.is_empty() { vec![] } else { zip64(&wide) };
        let narrow = |value: u64| (value.min(MAX_32) as u32).to_le_bytes();
        let mut bytes = b"PK\x01\x02\0\0\0\0".to_vec();
        bytes.extend(FLAGS.to_le_bytes());
        bytes.extend([0; 6]); // method, time, date
        bytes.extend(self.crc.to_le_bytes());
        bytes.extend([narrow(self.size), narrow(self.size)].concat());
        bytes.extend((self.path.len() as u16).to_le_bytes());
        bytes.extend((extra.len() as u16).to_le_bytes());
        bytes.extend([0; 10]); // comment, disk, attributes
        bytes.extend(narrow(self.header));
        bytes.extend(self.path.as_bytes());
        bytes.extend(extra);
        bytes
    }
}

/// The zip64 extra field.
fn zip64(values: &[u64]) -> Vec<u8> {
    let mut field = vec![1, 0];
    field.extend((8 * values.len() as u16).to_le_bytes());
    values.iter().for_each(|value| field.extend(value.to_le_bytes()));
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::zip::Archive;
    use std::io::{Read, Seek, SeekFrom};

    /// Counts what is written, and keeps only what is not in the middle of a huge entry: as a sparse file.
    struct Sparse(std::fs::File);

    impl Write for Sparse {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            match bytes.len() >= 1 << 20 {
                true => self.0.seek(SeekFrom::Current(bytes.len() as i64)).map(|_| bytes.len()),
                false => self.0.write(bytes),
            }
        }
        fn flush(&mut self) -> Result<()> {
            self.0.flush()
        }
    }

    #[test]
    fn entries_above_4_gib_and_behind_them_are_found_by_zip64_fields() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = Writer::new(Sparse(file.reopen().unwrap()), "m");
        archive.add("small", b"first").unwrap();
        let (zeros, pieces) = (vec![0; 16 << 20], 257); // 4.02 GiB
        let mut entry = archive.begin("large", pieces * zeros.len() as u64).unwrap();
        for _ in 0..pieces {
            entry.archive.put(&zeros).unwrap(); // not summed: 4 GiB would take seconds
            entry.left -= zeros.len() as i128;
        }
        assert!(entry.end().unwrap());
        archive.add("last", b"behind").unwrap();
        let length = archive.finish().unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), length);

        let back = Archive::open(file.path()).unwrap();
        let found: Vec<_> = back.entries.iter().map(|e| (e.name.clone(), e.size)).collect();
        let large = pieces * zeros.len() as u64;
        assert_eq!(found, [("m/small".into(), 5), ("m/large".into(), large), ("m/last".into(), 6)]);
        let last = back.entries[2].clone();
        assert_eq!(back.read(&last, 100).unwrap(), b"behind");
        let mut head = [0; 4];
        let mut raw = file.reopen().unwrap();
        raw.seek(SeekFrom::Start(64)).unwrap();
        raw.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"firs", "aligned to 64 bytes");
    }
}
