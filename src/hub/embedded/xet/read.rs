//! Files in xet storage, read back: for clients without xet as a stream of bytes, for those with it as a list of pieces.
//!
//! A reader holds one chunk (at most 128 KiB) at a time.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde_json::{Value, json};
use xet_core_structures::xorb_object::{XorbObject, deserialize_chunk_to_writer};

use super::{Segment, XetFile, XetStore, no_xorb};
use crate::core::error::{Error, Result};
use crate::hub::embedded::answer::Refused;

/// How much is read and sent at once.
pub(super) const PIECE: usize = 256 << 10;

/// Reads a file from some byte to its end.
pub(in crate::hub::embedded) struct XetReader {
    store: XetStore,
    ahead: VecDeque<Segment>,
    /// The xorb that is being read, and how many of its chunks are still to come.
    open: Option<(BufReader<File>, u32)>,
    /// The chunk at hand, and how much of it was given.
    chunk: Vec<u8>,
    given: usize,
}

impl XetReader {
    /// Reads `file` from byte `start` on.
    pub fn new(store: &XetStore, file: &XetFile, start: u64) -> Result<Self> {
        let mut ahead: VecDeque<Segment> = file.segments.iter().cloned().collect();
        let mut before = start;
        while ahead.front().is_some_and(|segment| segment.size <= before) {
            before -= ahead.pop_front().map_or(0, |segment| segment.size);
        }
        let mut reader = XetReader { store: store.clone(), ahead, open: None, chunk: Vec::new(), given: 0 };
        if let Some(segment) = reader.ahead.front_mut().filter(|_| before > 0) {
            let (_, footer) = store.xorb(&segment.xorb)?.ok_or_else(|| Error::hub("a xorb is missing"))?;
            while let Some(size) = size_of(&footer, segment.first).filter(|size| *size <= before) {
                before -= size;
                segment.first += 1;
            }
            reader.next_chunk().map_err(|e| Error::hub("a xorb cannot be read").cause(e.to_string()))?;
            reader.given = reader.chunk.len().min(usize::try_from(before).unwrap_or(usize::MAX));
        }
        Ok(reader)
    }

    /// Takes the next chunk in hand; false at the end.
    fn next_chunk(&mut self) -> io::Result<bool> {
        (self.given, _) = (0, self.chunk.clear());
        while self.open.as_ref().is_none_or(|(_, left)| *left == 0) {
            let Some(segment) = self.ahead.pop_front() else { return Ok(false) };
            let found = self.store.xorb(&segment.xorb).map_err(|e| io::Error::other(e.to_string()))?;
            let (mut file, footer) = found.ok_or_else(|| io::Error::other("a xorb is missing"))?;
            let (start, _) = footer.get_byte_offset(segment.first, segment.end).map_err(io::Error::other)?;
            file.seek(SeekFrom::Start(u64::from(start)))?;
            self.open = Some((BufReader::with_capacity(PIECE, file), segment.end - segment.first));
        }
        let Some((file, left)) = &mut self.open else { return Ok(false) };
        *left -= 1;
        deserialize_chunk_to_writer(file, &mut self.chunk).map_err(io::Error::other)?;
        Ok(true)
    }
}

impl Read for XetReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunk.len() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let read = (&self.chunk[self.given..]).read(into)?;
        self.given += read;
        Ok(read)
    }
}

fn size_of(footer: &XorbObject, chunk: u32) -> Option<u64> {
    footer.uncompressed_chunk_length(chunk).ok().map(u64::from)
}

impl XetStore {
    /// The pieces that bytes `start..end` of `file` are in, as the xet protocol's first version says it; `url` gives the
    /// address of a xorb. `None`: the range begins behind the end.
    pub(super) fn pieces(
        &self,
        file: &XetFile,
        start: u64,
        end: u64,
        url: impl Fn(&str) -> String,
    ) -> Result<Option<Value>, Refused> {
        if start >= file.size && (start, file.size) != (0, 0) {
            return Ok(None);
        }
        let (mut at, mut skipped, mut terms) = (0, 0, Vec::new());
        let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        for segment in &file.segments {
            let (from, to) = (at, at + segment.size);
            at = to;
            if to <= start || from >= end {
                continue;
            }
            let (_, footer) = self.xorb(&segment.xorb)?.ok_or_else(|| no_xorb(&segment.xorb))?;
            let cut = cut(&footer, segment, start.saturating_sub(from), end.min(to) - from);
            if terms.is_empty() {
                skipped = start - from - cut.before;
            }
            let bytes = footer.get_byte_offset(cut.first, cut.end);
            let (first, behind) = bytes.map_err(|e| Refused::new(500, e.to_string()))?;
            let range = json!({ "start": cut.first, "end": cut.end });
            terms.push(json!({ "hash": segment.xorb, "unpacked_length": cut.size, "range": range }));
            let run = Run { first: cut.first, end: cut.end, byte: first, behind };
            runs.entry(segment.xorb.clone()).or_default().push(run);
        }
        let fetch: serde_json::Map<String, Value> = runs
            .into_iter()
            .map(|(xorb, runs)| {
                let url = url(&xorb);
                (xorb, joined(runs).iter().map(|run| run.json(&url)).collect())
            })
            .collect();
        Ok(Some(json!({ "offset_into_first_range": skipped, "terms": terms, "fetch_info": fetch })))
    }
}

/// Chunks `first..end`; `before` bytes of the segment lie before them, `size` in them.
struct Cut {
    first: u32,
    end: u32,
    before: u64,
    size: u64,
}

/// The fewest chunks of `segment` that hold its bytes `start..end`.
fn cut(footer: &XorbObject, segment: &Segment, start: u64, end: u64) -> Cut {
    let mut cut = Cut { first: segment.first, end: segment.end, before: 0, size: segment.size };
    while let Some(size) = size_of(footer, cut.first).filter(|size| cut.before + size <= start) {
        cut.first += 1;
        cut.before += size;
        cut.size -= size;
    }
    while let Some(size) = size_of(footer, cut.end.saturating_sub(1)).filter(|size| cut.before + cut.size - size >= end)
    {
        cut.end -= 1;
        cut.size -= size;
    }
    cut
}

/// Chunks `first..end` of a xorb, its bytes `byte..behind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    end: u32,
    byte: u32,
    behind: u32,
}

impl Run {
    fn json(&self, url: &str) -> Value {
        json!({
            "range": { "start": self.first, "end": self.end }, "url": url,
            // The last byte, as in a Range header.
            "url_range": { "start": self.byte, "end": self.behind.saturating_sub(1) },
        })
    }
}

/// Runs that overlap or meet become one.
fn joined(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_by_key(|run| run.first);
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut().filter(|last| run.first <= last.end) {
            Some(last) => (last.end, last.behind) = (last.end.max(run.end), last.behind.max(run.behind)),
            None => all.push(run),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_meet_are_fetched_at_once() {
        let run = |first: u32, end: u32| Run { first, end, byte: first * 10, behind: end * 10 };
        assert_eq!(joined(vec![run(5, 7), run(0, 2), run(2, 4)]), [run(0, 4), run(5, 7)]);
        assert_eq!(joined(vec![run(0, 9), run(3, 4)]), [run(0, 9)]);
    }
}
