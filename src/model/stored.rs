//! Where a tensor of a torch file lies: a region of the file, strides, byte order, and the checksum of its storage.
//!
//! Read in pieces, so that no tensor is in memory as a whole: contiguous ones straight from the file, views gathered a box
//! of elements at a time: what lies close is read at once, holes and all, and copied in blocks, so that neither side of a
//! transposition leaves the processor's cache. Nothing is kept between reads but whether a storage's checksum held. It
//! knows no pickles and no names.

use super::tensor::{CHUNK, read_exact_at};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, OnceLock};

/// A hole that costs less than another read.
const HOLE: u64 = 4096;
/// Bytes of a view that are gathered at once: the more, the longer the runs that a transposed matrix is read in.
const GATHER: usize = 8 * CHUNK;
/// Most bytes that are read for that before they are copied.
const SCRATCH: u64 = 4 * CHUNK as u64;
/// Elements of either side of a block: 64 bytes, a line of the cache, of the largest.
const BLOCK: usize = 16;

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
        let (gathered, scratch, ready) = (vec![], vec![], 0..0);
        Ok(Pieces { stored: self, shape, size, length, next: 0, running, gathered, scratch, ready })
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

    /// Copies a box of elements that begins at byte `start` of the file to `out`, from byte `at` on. A box with a hole that
    /// is not worth reading is read in the runs between such holes, one that spans too much in halves.
    fn gather(&self, start: u64, axes: &[Axis], size: usize, to: &mut Target<'_>, at: usize) -> Result<()> {
        let farthest = axes.iter().enumerate().filter(|(_, axis)| axis.extent > 1).max_by_key(|(_, axis)| axis.stride);
        let Some((cut, axis)) = farthest.map(|(cut, axis)| (cut, *axis)) else {
            return self.read_box(start, axes, size, to, at);
        };
        let rest = [&axes[..cut], &axes[cut + 1..]].concat();
        let (run, whole) = (span(&rest, size), span(axes, size));
        if axis.stride.saturating_sub(run) > HOLE {
            return self.gather_runs(start, (axis, &rest), size, to, at);
        }
        if whole <= SCRATCH {
            return self.read_box(start, axes, size, to, at);
        }
        let half = axis.extent / 2;
        let part = |extent| [&axes[..cut], &[Axis { extent, ..axis }], &axes[cut + 1..]].concat();
        self.gather(start, &part(half), size, to, at)?;
        let (start, at) = (start + half as u64 * axis.stride, at + half * axis.step);
        self.gather(start, &part(axis.extent - half), size, to, at)
    }

    /// A box of which the runs along `axis` lie far apart: some of them are read side by side, then copied together.
    fn gather_runs(
        &self,
        start: u64,
        (axis, rest): (Axis, &[Axis]),
        size: usize,
        to: &mut Target<'_>,
        at: usize,
    ) -> Result<()> {
        let run = span(rest, size);
        let holes = rest.iter().any(|inner| inner.extent > 1 && inner.stride > HOLE);
        if holes || run > SCRATCH / 2 {
            return (0..axis.extent)
                .try_for_each(|n| self.gather(start + n as u64 * axis.stride, rest, size, to, at + n * axis.step));
        }
        let together = (SCRATCH / run).clamp(1, axis.extent as u64) as usize;
        for first in (0..axis.extent).step_by(together) {
            let count = together.min(axis.extent - first);
            to.scratch.resize((count as u64 * run) as usize, 0);
            for (n, piece) in to.scratch.chunks_exact_mut(run as usize).enumerate() {
                read_exact_at(&self.file, piece, start + (first + n) as u64 * axis.stride)?;
            }
            let side = Axis { extent: count, stride: run, step: axis.step };
            spread(to.scratch, &[&[side], rest].concat(), size, to.piece, at + first * axis.step);
        }
        Ok(())
    }

    fn read_box(&self, start: u64, axes: &[Axis], size: usize, to: &mut Target<'_>, at: usize) -> Result<()> {
        to.scratch.resize(span(axes, size) as usize, 0);
        read_exact_at(&self.file, to.scratch, start)?;
        spread(to.scratch, axes, size, to.piece, at);
        Ok(())
    }
}

/// Bytes from the first of a box to its last.
fn span(axes: &[Axis], size: usize) -> u64 {
    axes.iter().map(|axis| (axis.extent as u64 - 1) * axis.stride).sum::<u64>() + size as u64
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
    match size {
        8 => spread_of::<8>(from, axes, to, at),
        4 => spread_of::<4>(from, axes, to, at),
        2 => spread_of::<2>(from, axes, to, at),
        1 => spread_of::<1>(from, axes, to, at),
        _ => spread_of::<1>(from, &[axes, &[Axis { extent: size, stride: 1, step: 1 }]].concat(), to, at),
    }
}

/// The same of elements of `N` bytes: plane by plane, a plane being what lies closest together in the source and in the piece.
fn spread_of<const N: usize>(from: &[u8], axes: &[Axis], to: &mut [u8], at: usize) {
    const ONE: Axis = Axis { extent: 1, stride: 0, step: 0 };
    let mut outer: Vec<Axis> = axes.iter().filter(|axis| axis.extent > 1).copied().collect();
    let mut take = |key: fn(&Axis) -> u64| {
        let nearest = (0..outer.len()).min_by_key(|&n| key(&outer[n]));
        nearest.map_or(ONE, |n| outer.remove(n))
    };
    let columns = take(|axis| axis.step as u64);
    let rows = take(|axis| axis.stride);
    let mut index = vec![0usize; outer.len()];
    loop {
        let source: usize = index.iter().zip(&outer).map(|(n, axis)| n * axis.stride as usize).sum();
        let target: usize = at + index.iter().zip(&outer).map(|(n, axis)| n * axis.step).sum::<usize>();
        plane::<N>(&from[source..], rows, columns, &mut to[target..]);
        let Some(axis) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis].extent) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// Copies a plane, in blocks; runs as a whole where both sides have them.
fn plane<const N: usize>(from: &[u8], rows: Axis, columns: Axis, to: &mut [u8]) {
    if columns.stride as usize == N && columns.step == N {
        let run = columns.extent * N;
        for row in 0..rows.extent {
            let (source, target) = (row * rows.stride as usize, row * rows.step);
            to[target..target + run].copy_from_slice(&from[source..source + run]);
        }
        return;
    }
    for top in (0..rows.extent).step_by(BLOCK) {
        for left in (0..columns.extent).step_by(BLOCK) {
            for row in top..rows.extent.min(top + BLOCK) {
                for column in left..columns.extent.min(left + BLOCK) {
                    let source = row * rows.stride as usize + column * columns.stride as usize;
                    let target = row * rows.step + column * columns.step;
                    to[target..target + N].copy_from_slice(&from[source..source + N]);
                }
            }
        }
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
    /// Of a view: elements in their order.
    gathered: Vec<u8>,
    scratch: Vec<u8>,
    /// Of a view: the part of `gathered` that was not handed out.
    ready: std::ops::Range<usize>,
}

impl Pieces<'_> {
    /// Puts the next whole elements, at most [`CHUNK`] bytes of them, in the place of what `piece` holds; `false` after the
    /// last.
    ///
    /// # Errors
    /// The file cannot be read, or the storage's checksum fails: told in place of the last piece.
    pub fn next(&mut self, piece: &mut Vec<u8>) -> Result<bool> {
        if self.next == self.length {
            return Ok(false);
        }
        match &self.stored.strides {
            None => {
                piece.resize((self.length - self.next).min(CHUNK as u64) as usize, 0);
                read_exact_at(&self.stored.file, piece, self.stored.start + self.next)?;
            }
            Some(strides) => {
                if self.ready.is_empty() {
                    self.view(strides)?;
                    self.ready = 0..self.gathered.len();
                }
                let range = self.ready.start..self.ready.end.min(self.ready.start + CHUNK);
                self.ready.start = range.end;
                piece.clear();
                piece.extend_from_slice(&self.gathered[range]);
            }
        }
        self.next += piece.len() as u64;
        if let Some((hasher, _)) = &mut self.running {
            hasher.update(piece);
        }
        if self.next == self.length && self.running.take().is_some_and(|(hasher, crc32)| hasher.finalize() != crc32) {
            return Err(mismatch());
        }
        if self.stored.big_endian && self.size > 1 {
            piece.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
        Ok(true)
    }

    /// Gathers the next box: some steps along one axis, with all that lies within each.
    fn view(&mut self, strides: &[u64]) -> Result<()> {
        let within = |axis: usize| self.shape[axis + 1..].iter().product::<usize>() * self.size;
        let axis = (0..self.shape.len()).find(|&axis| within(axis) <= GATHER).unwrap_or(0);
        let step = within(axis);
        let mut steps = (self.next / step as u64) as usize;
        let count = (GATHER / step).clamp(1, self.shape[axis] - steps % self.shape[axis]);
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
        self.gathered.resize(count * step, 0);
        let mut to = Target { piece: &mut self.gathered, scratch: &mut self.scratch };
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
            (vec![1100, 1200], vec![8, 9600], 8), // transposed, holes on both sides
            (vec![3, 300, 400], vec![2, 6, 8200], 2), // all three turned, in runs
            (vec![900, 1300], vec![2, 1900], 2),  // transposed, rows that overlap
            (vec![3000, 1000], vec![4000, 4], 4), // every second row
        ] {
            let stored = Stored {
                file: Arc::new(file.try_clone().unwrap()),
                start: 16,
                strides: Some(strides.iter().map(|&n| n as u64).collect()),
                big_endian: false,
                checksum: None,
            };
            let (mut pieces, mut found, mut piece) = (stored.pieces(&shape, size).unwrap(), vec![], vec![]);
            while pieces.next(&mut piece).unwrap() {
                assert!(!piece.is_empty() && piece.len() <= CHUNK && piece.len() % size == 0);
                found.extend_from_slice(&piece);
            }
            assert!(pieces.scratch.len() <= SCRATCH as usize && pieces.gathered.len() <= GATHER);
            assert!(found == one_by_one(&data, 16, &shape, &strides, size), "{shape:?} {strides:?}");
        }
    }
}
