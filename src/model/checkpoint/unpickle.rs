//! A restricted unpickler: the opcodes of pickle protocols 0 to 5, building plain [`Value`]s.
//!
//! Nothing is imported and nothing is called: a global outside the table of [`super::globals`] is refused by name as soon
//! as it is named, and a call to one inside it builds a plain value ([`super::reduce`]). Work and memory are bounded by the
//! number of values ([`MOST_VALUES`]), by the bytes of the pickle and by [`DEEPEST`], whatever lengths the file claims.
//! Opcodes: CPython's `Lib/pickletools.py`. It knows nothing of files, layouts or networks.

use super::globals::{Role, role};
use super::tree;
use super::value::{StorageRef, TensorRef, Value};
use crate::core::error::{Error, Result};
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::sync::Arc;

/// Most values that a pickle may push, memoise or copy: some 150,000 tensors.
pub const MOST_VALUES: usize = 4_000_000;
/// Deepest nesting of the result.
pub const DEEPEST: usize = 100;
/// Longest text; no name, path or configuration is longer.
const LONGEST_TEXT: u64 = 16 << 20;
/// Longest bytes that are kept; the content of longer ones (numpy's arrays) is skipped.
const LONGEST_BYTES: u64 = 1 << 20;
/// Longest line of protocol 0.
const LONGEST_LINE: usize = 1 << 20;

/// A value on the stack: a plain one, or the number of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Node(u32),
}

/// A global of the known set.
#[derive(Debug, Clone)]
pub(super) struct Global {
    /// `module.name`.
    pub path: Arc<str>,
    pub role: Role,
}

/// A value that others may share, and that may still grow.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Vec<Item>),
    Tuple(Arc<[Item]>),
    Set(Vec<Item>),
    Dict(Vec<(Item, Item)>),
    Global(Global),
    Tensor(Arc<TensorRef>),
    Storage(Arc<StorageRef>),
    /// numpy's element type: its code, e.g. `f8`, and whether it is big-endian.
    NumpyDtype(Arc<str>, bool),
    Object(Arc<str>, Vec<(Item, Item)>),
}

/// What one pickle gave.
#[derive(Debug)]
pub struct Pickled {
    /// The value.
    pub value: Value,
    /// Every storage that it names, also those of values that were dropped again.
    pub storages: Vec<Arc<StorageRef>>,
    /// Bytes of the pickle.
    pub bytes: u64,
}

/// Unpickles what `input` holds up to and with the first `STOP`. `what` names it in messages, e.g. "`model.pt`".
///
/// # Errors
/// A global outside the known set (named), a call with arguments that it does not take, an opcode that is none, an end
/// before `STOP`, more than `limit` bytes, too many values or levels.
pub fn unpickle(input: &mut impl BufRead, what: &str, limit: u64) -> Result<Pickled> {
    let mut machine = Machine {
        input: Input { from: input, read: 0, limit },
        what,
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        nodes: vec![],
        storages: vec![],
        left: MOST_VALUES,
    };
    while machine.step()? {}
    let top = machine.pop()?;
    let value = tree::build(&machine.nodes, top).map_err(|why| machine.malformed(&why))?;
    Ok(Pickled { value, storages: machine.storages, bytes: machine.input.read })
}

/// Refuses a pickle that names what is not known, or is malformed; of any length. The same of those that follow it, up to
/// the end: who reads them one after the other runs them all.
///
/// # Errors
/// As [`unpickle`].
pub fn check(input: &mut impl BufRead, what: &str) -> Result<()> {
    loop {
        unpickle(input, what, u64::MAX)?;
        if input.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Ok(());
        }
    }
}

struct Input<'a, R> {
    from: &'a mut R,
    read: u64,
    limit: u64,
}

pub(super) struct Machine<'a, R> {
    input: Input<'a, R>,
    what: &'a str,
    stack: Vec<Item>,
    /// Heights of the stack at each `MARK`.
    marks: Vec<usize>,
    memo: HashMap<u64, Item>,
    pub(super) nodes: Vec<Node>,
    storages: Vec<Arc<StorageRef>>,
    /// Values that may still be made.
    left: usize,
}

impl<R: BufRead> Machine<'_, R> {
    /// One opcode; false after `STOP`.
    fn step(&mut self) -> Result<bool> {
        let op = self.fixed::<1>()?[0];
        match op {
            b'.' => return Ok(false),
            0x80 => self.protocol()?,
            0x95 => drop(self.fixed::<8>()?),
            b'(' => self.mark()?,
            b'0' => self.discard()?,
            b'1' => drop(self.pop_mark()?),
            b'2' => self.push(self.top()?)?,
            b'N' => self.push(Item::None)?,
            0x88 | 0x89 => self.push(Item::Bool(op == 0x88))?,
            b'I' | b'L' | b'F' | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(op)?,
            b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d => self.text(op)?,
            b'B' | b'C' | 0x8e | 0x96 => self.bytes(op)?,
            b'p' | b'q' | b'r' | 0x94 => self.put(op)?,
            b'g' | b'h' | b'j' => self.get(op)?,
            b')' | b']' | b'}' | 0x8f | b'l' | b'd' | b't' | 0x85..=0x87 | 0x91 => self.collection(op)?,
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(op)?,
            b'c' | 0x93 => self.global(op)?,
            b'R' | 0x81 | 0x92 | b'i' | b'o' => self.construct(op)?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            b'P' => return Err(self.refuse("a persistent id in text, which torch never writes", op)),
            0x82..=0x84 => return Err(self.refuse("an extension registry code", op)),
            0x97 | 0x98 => return Err(self.refuse("a buffer that is not in the file", op)),
            _ => return Err(self.malformed(&format!("0x{op:02x} is no pickle opcode"))),
        }
        Ok(true)
    }

    fn protocol(&mut self) -> Result<()> {
        match self.fixed::<1>()?[0] {
            0..=5 => Ok(()),
            other => Err(self.malformed(&format!("it is of protocol {other}, protocols 0 to 5 are known"))),
        }
    }

    /// Takes `count` of the values that may be made.
    pub(super) fn spend(&mut self, count: usize) -> Result<()> {
        match self.left.checked_sub(count) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.malformed(&format!("it holds more than {MOST_VALUES} values"))),
        }
    }

    pub(super) fn push(&mut self, item: Item) -> Result<()> {
        self.spend(1)?;
        self.stack.push(item);
        Ok(())
    }

    pub(super) fn node(&mut self, node: Node) -> Result<Item> {
        self.spend(1)?;
        let index = u32::try_from(self.nodes.len()).map_err(|_| self.malformed("it holds too many values"))?;
        self.nodes.push(node);
        Ok(Item::Node(index))
    }

    fn push_node(&mut self, node: Node) -> Result<()> {
        let item = self.node(node)?;
        self.push(item)
    }

    /// Pops what was pushed since the last mark.
    pub(super) fn pop(&mut self) -> Result<Item> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| self.malformed("its stack is empty")),
            false => Err(self.malformed("it takes a value where there is none")),
        }
    }

    pub(super) fn top(&self) -> Result<Item> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor);
        top.copied().ok_or_else(|| self.malformed("it takes a value where there is none"))
    }

    fn mark(&mut self) -> Result<()> {
        self.spend(1)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// `POP` takes the last value, or the mark above it.
    fn discard(&mut self) -> Result<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Item>> {
        let floor = self.marks.pop().ok_or_else(|| self.malformed("it ends a group that it did not begin"))?;
        Ok(self.stack.split_off(floor.min(self.stack.len())))
    }

    pub(super) fn look(&self, item: Item) -> Option<&Node> {
        match item {
            Item::Node(index) => self.nodes.get(index as usize),
            _ => None,
        }
    }

    pub(super) fn look_mut(&mut self, item: Item) -> Option<&mut Node> {
        match item {
            Item::Node(index) => self.nodes.get_mut(index as usize),
            _ => None,
        }
    }

    pub(super) fn text_of(&self, item: Item) -> Option<Arc<str>> {
        match self.look(item) {
            Some(Node::Text(text)) => Some(Arc::clone(text)),
            _ => None,
        }
    }

    pub(super) fn remember(&mut self, storage: &Arc<StorageRef>) {
        self.storages.push(Arc::clone(storage));
    }

    fn number(&mut self, op: u8) -> Result<()> {
        let item = match op {
            b'K' => Item::Int(self.fixed::<1>()?[0].into()),
            b'M' => Item::Int(u16::from_le_bytes(self.fixed()?).into()),
            b'J' => Item::Int(i32::from_le_bytes(self.fixed()?).into()),
            b'G' => Item::Float(f64::from_be_bytes(self.fixed()?)),
            b'F' => {
                let line = self.line()?;
                Item::Float(line.trim().parse().map_err(|_| self.malformed("a float of it is no number"))?)
            }
            b'I' | b'L' => {
                let line = self.line()?;
                self.integer(line.trim(), op == b'I')?
            }
            _ => self.long(op)?,
        };
        self.push(item)
    }

    /// `I00` and `I01` are bools; an int beyond 64 bits stays text.
    fn integer(&mut self, digits: &str, or_bool: bool) -> Result<Item> {
        let digits = digits.strip_suffix('L').unwrap_or(digits);
        match (digits, digits.parse()) {
            ("00", _) if or_bool => Ok(Item::Bool(false)),
            ("01", _) if or_bool => Ok(Item::Bool(true)),
            (_, Ok(value)) => Ok(Item::Int(value)),
            _ if !digits.is_empty() && digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) => {
                self.node(Node::Text(digits.into()))
            }
            _ => Err(self.malformed("an int of it is no number")),
        }
    }

    /// A little-endian two's complement int of any length.
    fn long(&mut self, op: u8) -> Result<Item> {
        let length = if op == 0x8a { self.fixed::<1>()?[0].into() } else { self.length(op)? };
        let bytes = self.take(length, LONGEST_BYTES)?;
        if bytes.len() > 16 {
            let text = format!("an int of {} bytes", bytes.len());
            return self.node(Node::Text(text.into()));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 16];
        all[..bytes.len()].copy_from_slice(&bytes);
        let value = i128::from_le_bytes(all);
        match i64::try_from(value) {
            Ok(value) => Ok(Item::Int(value)),
            Err(_) => self.node(Node::Text(value.to_string().into())),
        }
    }

    fn text(&mut self, op: u8) -> Result<()> {
        let node = match op {
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted = [b'\'', b'"'].iter().any(|&q| {
                    let bytes = line.as_bytes();
                    bytes.len() >= 2 && bytes[0] == q && bytes[bytes.len() - 1] == q
                });
                match (op, quoted) {
                    (b'S', false) => return Err(self.malformed("a text of it lacks its quotes")),
                    (b'S', true) => Node::Text(unescaped(&line[1..line.len() - 1]).into()),
                    _ => Node::Text(unescaped(&line).into()),
                }
            }
            _ => {
                let length = self.length(op)?;
                let bytes = self.take(length, LONGEST_TEXT)?;
                match String::from_utf8(bytes) {
                    Ok(text) => Node::Text(text.into()),
                    // Python 2 wrote its byte strings so
                    Err(e) if matches!(op, b'T' | b'U') => Node::Bytes(e.into_bytes().into()),
                    Err(_) => return Err(self.malformed("a text of it is no UTF-8")),
                }
            }
        };
        self.push_node(node)
    }

    fn bytes(&mut self, op: u8) -> Result<()> {
        let length = self.length(op)?;
        let node = if length > LONGEST_BYTES {
            self.skip(length)?;
            Node::Object("bytes".into(), vec![])
        } else {
            Node::Bytes(self.take(length, LONGEST_BYTES)?.into())
        };
        self.push_node(node)
    }

    fn put(&mut self, op: u8) -> Result<()> {
        let index = if op == 0x94 { self.memo.len() as u64 } else { self.index(op)? };
        let item = self.top()?;
        self.spend(1)?;
        self.memo.insert(index, item);
        Ok(())
    }

    fn get(&mut self, op: u8) -> Result<()> {
        let index = self.index(op)?;
        match self.memo.get(&index) {
            Some(&item) => self.push(item),
            None => Err(self.malformed(&format!("it takes the value {index}, which it did not keep"))),
        }
    }

    fn index(&mut self, op: u8) -> Result<u64> {
        Ok(match op {
            b'h' | b'q' => self.fixed::<1>()?[0].into(),
            b'j' | b'r' => u32::from_le_bytes(self.fixed()?).into(),
            _ => {
                let line = self.line()?;
                line.trim().parse().map_err(|_| self.malformed("a memo index is no number"))?
            }
        })
    }

    fn collection(&mut self, op: u8) -> Result<()> {
        let node = match op {
            b')' => Node::Tuple([].into()),
            b']' => Node::List(vec![]),
            b'}' => Node::Dict(vec![]),
            0x8f => Node::Set(vec![]),
            b'l' => Node::List(self.pop_mark()?),
            b't' => Node::Tuple(self.pop_mark()?.into()),
            0x91 => Node::Set(self.pop_mark()?),
            b'd' => {
                let items = self.pop_mark()?;
                Node::Dict(self.pairs(&items)?)
            }
            _ => {
                let count = usize::from(op - 0x84);
                let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                items.reverse();
                Node::Tuple(items.into())
            }
        };
        self.push_node(node)
    }

    fn pairs(&self, items: &[Item]) -> Result<Vec<(Item, Item)>> {
        match items.as_chunks::<2>() {
            (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
            _ => Err(self.malformed("a dict of it has a key without a value")),
        }
    }

    /// Adds items to the collection below them.
    fn fill(&mut self, op: u8) -> Result<()> {
        let items = match op {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let pairs = if matches!(op, b's' | b'u') { self.pairs(&items)? } else { vec![] };
        let target = self.top()?;
        match (op, self.look_mut(target)) {
            (b's' | b'u', Some(Node::Dict(entries))) => entries.extend(pairs),
            (b'a' | b'e', Some(Node::List(list))) => list.extend(items),
            (0x90, Some(Node::Set(set))) => set.extend(items),
            _ => return Err(self.malformed("it adds items to what is no collection for them")),
        }
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<()> {
        let (module, name) = if op == b'c' {
            (self.line()?.into(), self.line()?.into())
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.text_of(module), self.text_of(name)) {
                (Some(module), Some(name)) => (module, name),
                _ => return Err(self.refuse("a global whose name is computed", op)),
            }
        };
        let global = self.known(&module, &name)?;
        self.push_node(Node::Global(global))
    }

    fn known(&self, module: &str, name: &str) -> Result<Global> {
        let path: Arc<str> = format!("{module}.{name}").into();
        match role(module, name) {
            Some(role) => Ok(Global { path, role }),
            None => {
                let what = self.what;
                let shown: String = path.chars().take(200).flat_map(char::escape_debug).collect();
                Err(Error::stage(format!("{what} names the Python global `{shown}`, which is refused"))
                    .hint("a checkpoint holds tensors and plain values: save `model.state_dict()`, not the model"))
            }
        }
    }

    fn construct(&mut self, op: u8) -> Result<()> {
        let (callee, args) = match op {
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                (self.known(&module, &name)?, self.pop_mark()?)
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                let class = if items.is_empty() { Item::None } else { items.remove(0) };
                (self.callee(class)?, items)
            }
            _ => {
                if op == 0x92 {
                    let keywords = self.pop()?;
                    if !matches!(self.look(keywords), Some(Node::Dict(entries)) if entries.is_empty()) {
                        return Err(self.malformed("it calls a class with keywords, which no known class takes"));
                    }
                }
                let args = self.pop()?;
                let Some(Node::Tuple(args)) = self.look(args).cloned() else {
                    return Err(self.malformed("it calls something with arguments that are no tuple"));
                };
                let callee = self.pop()?;
                (self.callee(callee)?, args.to_vec())
            }
        };
        self.spend(args.len())?;
        let made = self.call(&callee, &args)?;
        self.push(made)
    }

    pub(super) fn callee(&self, item: Item) -> Result<Global> {
        match self.look(item) {
            Some(Node::Global(global)) => Ok(global.clone()),
            _ => Err(self.malformed("it calls what is no known global")),
        }
    }

    /// The length that follows a string or bytes opcode.
    fn length(&mut self, op: u8) -> Result<u64> {
        Ok(match op {
            b'U' | 0x8c | b'C' => self.fixed::<1>()?[0].into(),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.fixed()?),
            _ => u32::from_le_bytes(self.fixed()?).into(),
        })
    }

    /// `length` bytes, read as they come: a claimed length allocates nothing.
    fn take(&mut self, length: u64, most: u64) -> Result<Vec<u8>> {
        if length > most {
            return Err(self.malformed(&format!("it claims a value of {length} bytes, at most {most} are read")));
        }
        self.count(length)?;
        let mut bytes = Vec::new();
        let read = (&mut *self.input.from).take(length).read_to_end(&mut bytes).map_err(|e| self.ended(&e))?;
        if read as u64 != length {
            return Err(self.ended(&std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.count(length)?;
        let skipped = std::io::copy(&mut (&mut *self.input.from).take(length), &mut std::io::sink());
        match skipped.map_err(|e| self.ended(&e))? == length {
            true => Ok(()),
            false => Err(self.ended(&std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.count(N as u64)?;
        self.input.from.read_exact(&mut bytes).map_err(|e| self.ended(&e))?;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let mut bytes = vec![];
        let most = LONGEST_LINE as u64;
        let read = (&mut *self.input.from).take(most).read_until(b'\n', &mut bytes).map_err(|e| self.ended(&e))?;
        self.count(read as u64)?;
        match bytes.pop() {
            Some(b'\n') => String::from_utf8(bytes).map_err(|_| self.malformed("a line of it is no UTF-8")),
            _ if read == LONGEST_LINE => Err(self.malformed("a line of it is too long")),
            _ => Err(self.ended(&std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.input.read = self.input.read.saturating_add(bytes);
        match self.input.read > self.input.limit {
            true => Err(self.malformed(&format!("it is longer than {} bytes", self.input.limit))),
            false => Ok(()),
        }
    }

    fn ended(&self, cause: &std::io::Error) -> Error {
        Error::stage(format!("the pickle of {} ends early", self.what))
            .cause(cause.to_string())
            .hint("the file is damaged or truncated: copy it again")
    }

    fn refuse(&self, what: &str, op: u8) -> Error {
        Error::stage(format!("the pickle of {} holds {what} (opcode 0x{op:02x}), which is refused", self.what))
    }

    pub(super) fn malformed(&self, why: &str) -> Error {
        Error::stage(format!("the pickle of {} is malformed: {why}", self.what))
            .hint("the file is damaged, or it was not written by `torch.save`")
    }
}

/// The escapes of protocol 0: those of Python's `repr`, and `\u` with four hex digits.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = rest.next();
        let digits = match escape {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        let hex: String = rest.clone().take(digits).collect();
        match (escape, u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)) {
            (Some('n'), _) => out.push('\n'),
            (Some('t'), _) => out.push('\t'),
            (Some('r'), _) => out.push('\r'),
            (Some('x' | 'u' | 'U'), Some(decoded)) if hex.len() == digits => {
                out.push(decoded);
                rest.nth(digits - 1);
            }
            (Some(c @ ('\\' | '\'' | '"')), _) => out.push(c),
            (other, _) => out.extend(std::iter::once('\\').chain(other)),
        }
    }
    out
}
