//! Where a tensor of a torch file lies: a region of the file, strides, byte order, and the checksum of its storage.
//!
//! Read in pieces, so that no tensor is in memory as a whole: contiguous ones straight from the file, views gathered a box
//! of elements at a time. Nothing is kept between reads but whether a storage's checksum held. It knows no pickles and no
//! names.

use super::tensor::{CHUNK, read_exact_at};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, OnceLock};

/// Elements are read with the holes between them where they span at most this often their own bytes, and [`HOLE`] more.
const SPAN: u64 = 4;
/// A hole that costs less than another read.
const HOLE: u64 = 4096;

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
    /// A tensor of this shape with elements of `size` bytes, to be read in pieces: contiguous, row-major, little-endian.
    ///
    /// # Errors
    /// A view's storage fails its checksum, or cannot be read.
    pub fn pieces<'a>(&'a self, shape: &'a [usize], size: usize) -> Result<Pieces<'a>> {
        let length = shape.iter().product::<usize>() as u64 * size as u64;
        let mut running = None;
        if let Some(checksum) = &self.checksum {
            let whole = self.strides.is_none() && self.start == checksum.offset && length == checksum.bytes;
            match whole {
                true => running = Some((crc32fast::Hasher::new(), checksum.crc32)),
                false => self.check(checksum)?,
            }
        }
        Ok(Pieces { stored: self, shape, size, length, next: 0, running, piece: vec![], scratch: vec![] })
    }

    /// Holds a storage against its checksum, once.
    fn check(&self, checksum: &Checksum) -> Result<()> {
        let held = match checksum.held.get() {
            Some(held) => *held,
            None => {
                let held = self.crc32(checksum)? == checksum.crc32;
                *checksum.held.get_or_init(|| held)
            }
        };
        if held { Ok(()) } else { Err(mismatch()) }
    }

    fn crc32(&self, of: &Checksum) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; CHUNK.min(of.bytes as usize)];
        let mut at = 0;
        while at < of.bytes {
            let length = buffer.len().min((of.bytes - at) as usize);
            read_exact_at(&self.file, &mut buffer[..length], of.offset + at)?;
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(hasher.finalize())
    }

    /// Copies a box of elements that begins at byte `start` of the file to `out`, from byte `at` on. A box with too many
    /// holes to be read at once is cut along the axis whose elements lie farthest apart.
    fn gather(&self, start: u64, axes: &[Axis], size: usize, to: &mut Target<'_>, at: usize) -> Result<()> {
        let length = axes.iter().map(|axis| axis.extent).product::<usize>() * size;
        let span = axes.iter().map(|axis| (axis.extent as u64 - 1) * axis.stride).sum::<u64>() + size as u64;
        let farthest = axes.iter().enumerate().filter(|(_, axis)| axis.extent > 1).max_by_key(|(_, axis)| axis.stride);
        match farthest {
            Some((cut, axis)) if span > SPAN * length as u64 + HOLE => {
                let rest = [&axes[..cut], &axes[cut + 1..]].concat();
                (0..axis.extent)
                    .try_for_each(|n| self.gather(start + n as u64 * axis.stride, &rest, size, to, at + n * axis.step))
            }
            _ => {
                to.scratch.resize(span as usize, 0);
                read_exact_at(&self.file, to.scratch, start)?;
                spread(to.scratch, axes, size, to.piece, at);
                Ok(())
            }
        }
    }
}

/// One axis of a box of elements.
#[derive(Clone, Copy)]
struct Axis {
    extent: usize,
    /// Bytes from one element to the next in the file.
    stride: u64,
    /// And in the piece.
    step: usize,
}

/// Where a box goes, and room to read it.
struct Target<'a> {
    piece: &'a mut [u8],
    scratch: &'a mut Vec<u8>,
}

/// Copies a box from what spans it.
fn spread(from: &[u8], axes: &[Axis], size: usize, to: &mut [u8], at: usize) {
    let mut index = vec![0usize; axes.len()];
    loop {
        let place = |by: &dyn Fn(&Axis) -> usize| index.iter().zip(axes).map(|(n, axis)| n * by(axis)).sum::<usize>();
        let (source, target) = (place(&|axis| axis.stride as usize), at + place(&|axis| axis.step));
        to[target..target + size].copy_from_slice(&from[source..source + size]);
        let Some(axis) = (0..axes.len()).rev().find(|&axis| index[axis] + 1 < axes[axis].extent) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// A tensor on its way out of the file.
pub struct Pieces<'a> {
    stored: &'a Stored,
    shape: &'a [usize],
    size: usize,
    /// Bytes of the tensor.
    length: u64,
    /// Bytes handed out.
    next: u64,
    /// The checksum of what was read so far and what it must become, where the tensor is a whole storage.
    running: Option<(crc32fast::Hasher, u32)>,
    piece: Vec<u8>,
    scratch: Vec<u8>,
}

impl Pieces<'_> {
    /// The next whole elements, at most [`CHUNK`] bytes of them; `None` after the last.
    ///
    /// # Errors
    /// The file cannot be read, or the storage's checksum fails: told in place of the last piece.
    pub fn next(&mut self) -> Result<Option<&mut [u8]>> {
        if self.next == self.length {
            return Ok(None);
        }
        match &self.stored.strides {
            None => {
                self.piece.resize((self.length - self.next).min(CHUNK as u64) as usize, 0);
                read_exact_at(&self.stored.file, &mut self.piece, self.stored.start + self.next)?;
            }
            Some(strides) => self.view(strides)?,
        }
        self.next += self.piece.len() as u64;
        if let Some((hasher, _)) = &mut self.running {
            hasher.update(&self.piece);
        }
        if self.next == self.length && self.running.take().is_some_and(|(hasher, crc32)| hasher.finalize() != crc32) {
            return Err(mismatch());
        }
        if self.stored.big_endian && self.size > 1 {
            self.piece.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
        Ok(Some(&mut self.piece))
    }

    /// Gathers the next box: some steps along one axis, with all that lies within each.
    fn view(&mut self, strides: &[u64]) -> Result<()> {
        let within = |axis: usize| self.shape[axis + 1..].iter().product::<usize>() * self.size;
        let axis = (0..self.shape.len()).find(|&axis| within(axis) <= CHUNK).unwrap_or(0);
        let step = within(axis);
        let mut steps = (self.next / step as u64) as usize;
        let count = (CHUNK / step).clamp(1, self.shape[axis] - steps % self.shape[axis]);
        let mut start = self.stored.start;
        for axis in (0..=axis).rev() {
            start += (steps % self.shape[axis]) as u64 * strides[axis];
            steps /= self.shape[axis];
        }
        let inner = (axis + 1..self.shape.len()).map(|axis| Axis {
            extent: self.shape[axis],
            stride: strides[axis],
            step: within(axis),
        });
        let mut axes = vec![Axis { extent: count, stride: strides[axis], step }];
        axes.extend(inner);
        self.piece.resize(count * step, 0);
        let mut to = Target { piece: &mut self.piece, scratch: &mut self.scratch };
        self.stored.gather(start, &axes, self.size, &mut to, 0)
    }
}

fn mismatch() -> Error {
    Error::new(ErrorKind::InvalidData, "its bytes do not match the archive's checksum (CRC-32)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The elements of a view, one by one.
    fn one_by_one(data: &[u8], start: usize, shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
        let mut out = vec![];
        for mut n in 0..shape.iter().product::<usize>() {
            let mut at = start;
            for (extent, stride) in shape.iter().zip(strides).rev() {
                at += n % extent * stride;
                n /= extent;
            }
            out.extend_from_slice(&data[at..at + size]);
        }
        out
    }

    #[test]
    fn a_view_comes_in_bounded_pieces_of_whole_elements_however_its_strides_lie() {
        let data: Vec<u8> = (0..13_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        for (shape, strides, size) in [
            (vec![1500, 2000], vec![4, 6000], 4),             // transposed
            (vec![2, 3, 500, 700], vec![4, 8, 16800, 24], 4), // channels last
            (vec![700, 1000, 3], vec![0, 12, 4], 4),          // expanded
            (vec![3, 400_000], vec![4_000_000, 8], 8),        // a large inner axis
            (vec![40, 50], vec![200_000, 4000], 2),           // far apart
            (vec![1, 5, 1, 7], vec![9, 1_000_000, 9, 30], 1),
        ] {
            let stored = Stored {
                file: Arc::new(file.try_clone().unwrap()),
                start: 16,
                strides: Some(strides.iter().map(|&n| n as u64).collect()),
                big_endian: false,
                checksum: None,
            };
            let (mut pieces, mut found) = (stored.pieces(&shape, size).unwrap(), vec![]);
            while let Some(piece) = pieces.next().unwrap() {
                assert!(!piece.is_empty() && piece.len() <= CHUNK && piece.len() % size == 0);
                found.extend_from_slice(piece);
            }
            assert!(pieces.scratch.len() <= SPAN as usize * CHUNK + HOLE as usize);
            assert!(found == one_by_one(&data, 16, &shape, &strides, size), "{shape:?} {strides:?}");
        }
    }
}
