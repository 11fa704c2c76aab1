//! Where a tensor of a torch file lies: a region of the file, strides, byte order, and the checksum of its storage.
//!
//! Contiguous tensors are read straight from the file; views are gathered. Nothing is kept between reads but whether a
//! storage's checksum held. It knows no pickles and no names.

use super::tensor::read_exact_at;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, OnceLock};

/// Bytes read at once to check a storage.
const CHUNK: u64 = 1 << 20;
/// A view is read with the holes between its elements where it spans at most this often its own bytes.
const SPAN: u64 = 4;

/// A whole storage, and the CRC-32 that the archive records for it.
#[derive(Debug)]
pub struct Checksum {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What the archive says.
    pub crc32: u32,
    /// Whether it held, once somebody looked.
    pub held: OnceLock<bool>,
}

/// Where a tensor's elements lie. Whoever makes one has checked that all of them lie within the file.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The file.
    pub file: Arc<File>,
    /// The first element's first byte.
    pub start: u64,
    /// Bytes from one element to the next along each axis; `None`: contiguous.
    pub strides: Option<Vec<u64>>,
    /// Elements are big-endian.
    pub big_endian: bool,
    /// The storage's checksum, where there is one.
    pub checksum: Option<Arc<Checksum>>,
}

impl Stored {
    /// The bytes of a tensor of this shape with elements of `size` bytes: contiguous, row-major, little-endian.
    ///
    /// # Errors
    /// The file cannot be read, or the storage's checksum fails.
    pub fn read(&self, shape: &[usize], size: usize) -> Result<Vec<u8>> {
        let length = shape.iter().product::<usize>() * size;
        let mut bytes = match &self.strides {
            _ if length == 0 => Vec::new(),
            None => self.read_at(self.start, length)?,
            Some(strides) => self.gather(shape, strides, size, length)?,
        };
        self.check(&bytes)?;
        if self.big_endian && size > 1 {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, offset)?;
        Ok(bytes)
    }

    fn gather(&self, shape: &[usize], strides: &[u64], size: usize, length: usize) -> Result<Vec<u8>> {
        let span: u64 =
            shape.iter().zip(strides).map(|(&n, stride)| (n as u64 - 1) * stride).sum::<u64>() + size as u64;
        let whole = match span <= SPAN * length as u64 + CHUNK {
            true => Some(self.read_at(self.start, span as usize)?),
            false => None,
        };
        let mut out = vec![0; length];
        let mut index = vec![0usize; shape.len()];
        for element in out.chunks_exact_mut(size) {
            let at: u64 = index.iter().zip(strides).map(|(&i, stride)| i as u64 * stride).sum();
            match &whole {
                Some(bytes) => element.copy_from_slice(&bytes[at as usize..at as usize + size]),
                None => read_exact_at(&self.file, element, self.start + at)?,
            }
            advance(&mut index, shape);
        }
        Ok(out)
    }

    /// Holds the storage against its checksum: by the bytes just read where they are all of it, else once by reading it.
    fn check(&self, bytes: &[u8]) -> Result<()> {
        let Some(checksum) = &self.checksum else { return Ok(()) };
        let all = self.strides.is_none() && self.start == checksum.offset && bytes.len() as u64 == checksum.bytes;
        let held = match (all, checksum.held.get()) {
            (true, _) => crc32fast::hash(bytes) == checksum.crc32,
            (false, Some(held)) => *held,
            (false, None) => {
                let held = self.crc32(checksum)? == checksum.crc32;
                *checksum.held.get_or_init(|| held)
            }
        };
        match held {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::InvalidData, "its bytes do not match the archive's checksum (CRC-32)")),
        }
    }

    fn crc32(&self, of: &Checksum) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut at = 0;
        while at < of.bytes {
            let length = CHUNK.min(of.bytes - at);
            hasher.update(&self.read_at(of.offset + at, length as usize)?);
            at += length;
        }
        Ok(hasher.finalize())
    }
}

/// The next index in row-major order.
fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, &extent) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < extent {
            return;
        }
        *i = 0;
    }
}
