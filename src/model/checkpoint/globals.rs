//! Refuses pickles that name code: walks the opcodes of a pickle and holds every global against a known list.
//!
//! Executes nothing and builds no object. It tracks just enough (the strings pushed and memoised) to know what
//! `STACK_GLOBAL` names, and refuses where it cannot know. `pytorch-reader` does not execute hostile globals either;
//! this makes such a file an error by name, so that it is never passed on.

use crate::core::error::{Error, Result};
use std::collections::HashMap;
use std::io::BufRead;

/// Longest string kept or line read; longer ones are skipped (no module name is that long).
const MAX_NAME: u64 = 4096;
/// Most strings kept on the walk's stack or memo.
const MAX_STRINGS: usize = 4_000_000;

/// Globals that may stand in a checkpoint: `module name`.
const KNOWN: &[(&str, &str)] = &[
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("argparse", "Namespace"),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PurePosixPath"),
];

/// Constructors of plain values that may come from `builtins`.
const BUILTINS: &[&str] = &[
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "float",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "complex",
    "slice",
    "range",
];

/// Names of `torch.X` that are element types.
const DTYPES: &[&str] = &[
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "double",
    "float",
    "half",
    "int64",
    "int32",
    "int16",
    "int8",
    "long",
    "int",
    "short",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "qint8",
    "quint8",
    "qint32",
];

/// Whether a global may stand in a checkpoint.
pub fn is_known(module: &str, name: &str) -> bool {
    let storage = matches!(module, "torch" | "torch.storage" | "torch.cuda");
    let numpy_dtype = module == "numpy.dtypes" && name.ends_with("DType");
    KNOWN.contains(&(module, name))
        || (storage && name.ends_with("Storage") && name.bytes().all(|b| b.is_ascii_alphanumeric()))
        || (module == "torch" && DTYPES.contains(&name))
        || (matches!(module, "builtins" | "__builtin__") && BUILTINS.contains(&name))
        || numpy_dtype
}

/// Walks one pickle of `input` up to and with its `STOP`. `what` names it in messages, e.g. "`model.pt`".
///
/// # Errors
/// A global outside the known list (named), an extension opcode, an opcode that is none, an end before `STOP`.
pub fn scan(input: &mut impl BufRead, what: &str) -> Result<()> {
    let mut walk = Walk { input, what, stack: vec![], memo: HashMap::new() };
    while walk.step()? {}
    Ok(())
}

/// What a value on the stack is to the walk: a string that it knows, or anything else.
type Word = Option<String>;

struct Walk<'a, R> {
    input: &'a mut R,
    what: &'a str,
    /// The last values pushed. Opcodes that pop more than it knows of just empty it.
    stack: Vec<Word>,
    memo: HashMap<u64, Word>,
}

impl<R: BufRead> Walk<'_, R> {
    /// One opcode; false after `STOP`.
    fn step(&mut self) -> Result<bool> {
        let op = self.bytes::<1>()?[0];
        match op {
            b'.' => return Ok(false),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
                self.blur();
            }
            0x93 => self.stack_global()?,
            0x82..=0x84 => return Err(self.refuse("an extension registry code", op)),
            b'P' | b'I' | b'L' | b'F' => {
                self.line()?;
                self.stack.push(None);
            }
            b'V' | b'S' => {
                let text = self.line()?;
                self.stack.push(Some(text.trim_matches(['\'', '"']).to_owned()));
            }
            b'X' | b'T' | 0x8d | b'U' | 0x8c => self.string(op)?,
            b'B' | b'C' | 0x8e | 0x96 | 0x8a | 0x8b => self.skipped(op)?,
            b'K' => self.fixed::<1>()?,
            b'M' => self.fixed::<2>()?,
            b'J' => self.fixed::<4>()?,
            b'G' => self.fixed::<8>()?,
            0x80 => drop(self.bytes::<1>()?),
            0x95 => drop(self.bytes::<8>()?),
            b'g' | b'p' | b'h' | b'q' | b'j' | b'r' | 0x94 => self.memo(op)?,
            b'2' => self.stack.push(self.stack.last().cloned().flatten()),
            b'0' => drop(self.stack.pop()),
            _ => self.structural(op)?,
        }
        match self.stack.len() > MAX_STRINGS || self.memo.len() > MAX_STRINGS {
            true => Err(self.malformed("it holds too many values")),
            false => Ok(true),
        }
    }

    /// Opcodes that combine values: what they leave is no string.
    fn structural(&mut self, op: u8) -> Result<()> {
        match op {
            // MARK, the constants, empty containers.
            b'(' | b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | 0x8f => self.stack.push(None),
            // REDUCE, BUILD, containers, items, NEWOBJ, tuples, OBJ, BINPERSID, buffers, POP_MARK.
            b'R' | b'b' | b'd' | b'l' | b't' | b's' | b'a' | b'e' | b'u' | b'Q' | b'o' | b'1' => self.blur(),
            0x81 | 0x85..=0x87 | 0x90..=0x92 | 0x97 | 0x98 => self.blur(),
            _ => return Err(self.malformed(&format!("0x{op:02x} is no pickle opcode"))),
        }
        Ok(())
    }

    /// Forgets the stack: after a combining opcode, `STACK_GLOBAL` must find two strings pushed anew.
    fn blur(&mut self) {
        self.stack.clear();
        self.stack.push(None);
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.stack.pop().flatten();
        let module = self.stack.pop().flatten();
        match (module, name) {
            (Some(module), Some(name)) => self.global(&module, &name),
            _ => Err(self.refuse("a global whose name is computed", 0x93)),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        if !is_known(module, name) {
            return Err(Error::stage(format!(
                "{} names the Python global `{module}.{name}`, which is refused",
                self.what
            ))
            .hint("a checkpoint holds tensors and plain values: save `model.state_dict()`, not the model"));
        }
        self.stack.push(None);
        Ok(())
    }

    fn memo(&mut self, op: u8) -> Result<()> {
        let index = match op {
            0x94 => self.memo.len() as u64,
            b'h' | b'q' => self.bytes::<1>()?[0].into(),
            b'j' | b'r' => u32::from_le_bytes(self.bytes()?).into(),
            _ => self.line()?.trim().parse().map_err(|_| self.malformed("a memo index is no number"))?,
        };
        match op {
            b'g' | b'h' | b'j' => self.stack.push(self.memo.get(&index).cloned().flatten()),
            _ => drop(self.memo.insert(index, self.stack.last().cloned().flatten())),
        }
        Ok(())
    }

    fn string(&mut self, op: u8) -> Result<()> {
        let length = self.length(op)?;
        if length > MAX_NAME {
            self.skip(length)?;
            self.stack.push(None);
            return Ok(());
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(|e| self.ended(&e))?;
        self.stack.push(String::from_utf8(bytes).ok());
        Ok(())
    }

    fn skipped(&mut self, op: u8) -> Result<()> {
        let length = self.length(op)?;
        self.skip(length)?;
        self.stack.push(None);
        Ok(())
    }

    /// The length that follows a string or bytes opcode.
    fn length(&mut self, op: u8) -> Result<u64> {
        Ok(match op {
            b'U' | 0x8c | b'C' | 0x8a => self.bytes::<1>()?[0].into(),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.bytes()?),
            _ => u32::from_le_bytes(self.bytes()?).into(),
        })
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let here = self.input.fill_buf().map_err(|e| ended(self.what, &e))?.len() as u64;
            if here == 0 {
                return Err(self.malformed("it ends within a value"));
            }
            let taken = here.min(left);
            self.input.consume(taken as usize);
            left -= taken;
        }
        Ok(())
    }

    fn fixed<const N: usize>(&mut self) -> Result<()> {
        self.bytes::<N>()?;
        self.stack.push(None);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|e| self.ended(&e))?;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let mut bytes = vec![];
        loop {
            let byte = self.bytes::<1>()?[0];
            match byte {
                b'\n' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                _ if bytes.len() as u64 >= 16 * MAX_NAME => return Err(self.malformed("a line of it is too long")),
                _ => bytes.push(byte),
            }
        }
    }

    fn ended(&self, cause: &std::io::Error) -> Error {
        ended(self.what, cause)
    }

    fn refuse(&self, what: &str, op: u8) -> Error {
        Error::stage(format!("the pickle of {} holds {what} (opcode 0x{op:02x}), which is refused", self.what))
    }

    fn malformed(&self, why: &str) -> Error {
        Error::stage(format!("the pickle of {} is malformed: {why}", self.what))
    }
}

fn ended(what: &str, cause: &std::io::Error) -> Error {
    Error::stage(format!("the pickle of {what} ends early"))
        .cause(cause.to_string())
        .hint("the file is damaged or truncated: copy it again")
}
