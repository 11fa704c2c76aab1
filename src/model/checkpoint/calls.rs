//! Whether bytes are a pickle that calls something. Pickles of protocols 0 and 1 have no opening bytes, and what loads them
//! runs each opcode as it comes: what stands after a call does not matter, nor whether there is an end.
//!
//! Follows the opcodes of protocols 0 to 5 (CPython's `Lib/pickletools.py`) with kinds in place of values, and takes every
//! value that Python may take. Other content is none within a few bytes: an opcode that is none, a stack without the value
//! that an opcode takes, a global whose name is no Python name. Knows no file; [`super::unpickle`] is the strict one.

use super::globals::role;
use std::collections::HashMap;
use std::io::{BufRead, Read};

/// Most values that are kept at a time.
const MOST: usize = 4_000_000;
/// Longest line.
const LONGEST: u64 = 1 << 20;

/// What is known of a value on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Plain, as far as is known.
    Value,
    /// A global that the strict unpickler knows: calling it runs nothing.
    Known,
    /// Another global, or a collection with one: its number among the names.
    Foreign(usize),
}

struct Scan<'a, R> {
    from: &'a mut R,
    stack: Vec<Kind>,
    /// Heights of the stack at each `MARK`.
    marks: Vec<usize>,
    memo: HashMap<u64, Kind>,
    /// Of foreign globals.
    names: Vec<String>,
}

/// The first global that these bytes call as a pickle, other than those that run nothing; words for what cannot be told,
/// because there are too many values before it. `None`: there is none, or they are no pickle.
pub fn first_called(from: &mut impl BufRead) -> Option<String> {
    let mut scan = Scan { from, stack: vec![], marks: vec![], memo: HashMap::new(), names: vec![] };
    loop {
        let op = scan.byte()?;
        if op == b'.' {
            // another pickle may follow, which is loaded anew
            (scan.stack, scan.marks, scan.memo) = Default::default();
            continue;
        }
        if let Some(called) = scan.step(op)? {
            return Some(scan.names.swap_remove(called));
        }
        if scan.stack.len() + scan.memo.len() + scan.names.len() + scan.marks.len() > MOST {
            return Some(format!("what stands behind more than {MOST} values"));
        }
    }
}

impl<R: BufRead> Scan<'_, R> {
    /// One opcode: `Some(name)` where it calls a foreign global. `None`: this is no pickle, or it ends.
    fn step(&mut self, op: u8) -> Option<Option<usize>> {
        match op {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | 0x8f | 0x97 => self.stack.push(Kind::Value),
            b'F' | b'I' | b'L' | b'S' | b'V' | b'P' => {
                self.skip_line()?;
                self.stack.push(Kind::Value);
            }
            b'K' | b'M' | b'J' | b'G' | 0x82..=0x84 | b'U' | b'C' | b'T' | b'X' | b'B' | 0x8a..=0x8e | 0x96 => {
                self.skip_value(op)?;
                self.stack.push(Kind::Value);
            }
            b'p' | b'q' | b'r' | 0x94 => self.put(op)?,
            b'g' | b'h' | b'j' => {
                let kept = self.index(op)?;
                self.stack.push(self.memo.get(&kept).copied().unwrap_or(Kind::Value));
            }
            b'l' | b'd' | b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.stack.push(worst(&items));
            }
            0x85..=0x87 => {
                let items = (0..op - 0x84).map(|_| self.pop()).collect::<Option<Vec<_>>>()?;
                self.stack.push(worst(&items));
            }
            b'a' | b's' | b'e' | b'u' | 0x90 | b'b' => self.fill(op)?,
            b'Q' => {
                self.pop()?;
                self.stack.push(Kind::Value);
            }
            b'c' => {
                let global = self.global()?;
                self.stack.push(global);
            }
            0x93 => {
                self.pop()?;
                self.pop()?;
                let computed = self.foreign("a global whose name is computed".into());
                self.stack.push(computed);
            }
            b'R' | 0x81 | 0x92 | b'i' | b'o' => return self.call(op),
            0x80 => drop(self.skip(1)?),
            0x95 => drop(self.skip(8)?),
            0x98 => drop(self.top()?),
            _ => return None,
        }
        Some(None)
    }

    fn call(&mut self, op: u8) -> Option<Option<usize>> {
        let (callee, args) = match op {
            b'i' => (self.global()?, worst(&self.pop_mark()?)),
            b'o' => {
                let items = self.pop_mark()?;
                (*items.first()?, worst(&items[1..]))
            }
            _ => {
                let keywords = if op == 0x92 { self.pop()? } else { Kind::Value };
                let args = worst(&[self.pop()?, keywords]);
                (self.pop()?, args)
            }
        };
        match (callee, args) {
            (Kind::Foreign(name), _) | (Kind::Known, Kind::Foreign(name)) => Some(Some(name)),
            _ => {
                self.stack.push(Kind::Value);
                Some(None)
            }
        }
    }

    /// Adds items to the value below them, which holds what they are.
    fn fill(&mut self, op: u8) -> Option<()> {
        let items = match op {
            b'a' | b'b' => vec![self.pop()?],
            b's' => vec![self.pop()?, self.pop()?],
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        if let (Kind::Value, added, Some(top)) = (target, worst(&items), self.stack.last_mut()) {
            *top = added;
        }
        Some(())
    }

    fn global(&mut self) -> Option<Kind> {
        let (module, name) = (self.line()?, self.line()?);
        let is_name = |text: &str| {
            let mut parts = text.split('.');
            parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
        };
        if !is_name(&module) || !is_name(&name) {
            return None;
        }
        Some(match role(&module, &name) {
            Some(_) => Kind::Known,
            None => self.foreign(format!("{module}.{name}").chars().take(200).collect()),
        })
    }

    fn foreign(&mut self, name: String) -> Kind {
        self.names.push(name);
        Kind::Foreign(self.names.len() - 1)
    }

    fn put(&mut self, op: u8) -> Option<()> {
        let index = if op == 0x94 { self.memo.len() as u64 } else { self.index(op)? };
        self.memo.insert(index, self.top()?);
        Some(())
    }

    fn index(&mut self, op: u8) -> Option<u64> {
        match op {
            b'h' | b'q' => self.number(1),
            b'j' | b'r' => self.number(4),
            _ => self.line()?.trim().parse().ok(),
        }
    }

    /// Skips a value of a fixed length, or of one that is said.
    fn skip_value(&mut self, op: u8) -> Option<()> {
        let length = match op {
            b'K' | 0x82 => 1,
            b'M' | 0x83 => 2,
            b'J' | 0x84 => 4,
            b'G' => 8,
            b'U' | b'C' | 0x8a | 0x8c => self.number(1)?,
            0x8d | 0x8e | 0x96 => self.number(8)?,
            _ => self.number(4)?,
        };
        self.skip(length)
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Option<Kind> {
        if self.stack.len() > self.floor() { self.stack.pop() } else { None }
    }

    fn top(&self) -> Option<Kind> {
        self.stack.last().copied().filter(|_| self.stack.len() > self.floor())
    }

    fn pop_mark(&mut self) -> Option<Vec<Kind>> {
        let floor = self.marks.pop()?;
        Some(self.stack.split_off(floor.min(self.stack.len())))
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte).ok()?;
        Some(byte[0])
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut all = [0; 8];
        self.from.read_exact(&mut all[..bytes]).ok()?;
        Some(u64::from_le_bytes(all))
    }

    fn skip(&mut self, length: u64) -> Option<()> {
        let skipped = std::io::copy(&mut (&mut *self.from).take(length), &mut std::io::sink()).ok()?;
        (skipped == length).then_some(())
    }

    /// A text or number, in any encoding and of any length, as Python takes it.
    fn skip_line(&mut self) -> Option<()> {
        loop {
            let piece = self.from.fill_buf().ok().filter(|piece| !piece.is_empty())?;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let read = end.map_or(piece.len(), |at| at + 1);
            self.from.consume(read);
            if end.is_some() {
                return Some(());
            }
        }
    }

    /// A name.
    fn line(&mut self) -> Option<String> {
        let mut bytes = vec![];
        (&mut *self.from).take(LONGEST).read_until(b'\n', &mut bytes).ok()?;
        (bytes.pop()? == b'\n').then_some(())?;
        String::from_utf8(bytes).ok()
    }
}

/// A foreign global among values, if there is one.
fn worst(items: &[Kind]) -> Kind {
    items.iter().copied().find(|kind| matches!(kind, Kind::Foreign(_))).unwrap_or(Kind::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(bytes: &[u8]) -> Option<String> {
        first_called(&mut &bytes[..])
    }

    #[test]
    fn calls_are_found_in_every_protocol_also_without_an_end() {
        let system = Some("os.system".to_string());
        for pickle in [
            &b"cos\nsystem\n(S'id'\ntR."[..],
            b"cos\nsystem\n(S'id'\ntR",
            b"cos\nsystem\nq\x00(X\x02\x00\x00\x00idq\x01tq\x02Rq\x03.",
            b"(S'id'\nios\nsystem\n.",
            b"(cos\nsystem\nS'id'\no.",
            b"I1_0\n0cos\nsystem\np0\n0g0\n(S'id'\ntR.",
            b"(dp0\nS'a'\ncos\nsystem\n(S'id'\ntRs.",
            b"I1\n.cos\nsystem\n(S'id'\ntR.",
            b"V\xff\n0cos\nsystem\n(S'id'\ntR.", // latin-1, as Python reads these
            &[b"V", &[b'a'; 1 << 21][..], b"\n0cos\nsystem\n(S'id'\ntR."].concat(),
        ] {
            assert_eq!(called(pickle), system, "{}", pickle.escape_ascii());
        }
        let object = b"ccopy_reg\n_reconstructor\n(c__main__\nX\nc__builtin__\nobject\nNtR.";
        assert_eq!(called(object).as_deref(), Some("__main__.X"));
    }

    #[test]
    fn plain_pickles_texts_and_raw_numbers_call_nothing() {
        for plain in [
            &b"(dp0\nS'a'\np1\nI1\ns."[..],
            b"ccollections\nOrderedDict\n(tR.",
            b"cat\ndog\nRabbit\n",
            b"call\nme\n. Really.",
            b"(see below) is text.\nReally.",
            b"import os\nos.system('id')\n",
            b"I am\nSam\nR",
            b"",
        ] {
            assert_eq!(called(plain), None, "{}", plain.escape_ascii());
        }
        let mut seed = 1_u64;
        for _ in 0..2000 {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 56) as u8
            };
            let raw: Vec<u8> = (0..4096).map(|_| next()).collect();
            assert_eq!(called(&raw), None);
        }
    }
}
