//! State dicts: tensors by name, with their bytes read when asked for.
//!
//! Knows element types, shapes and where a tensor's bytes lie. It does not know of networks, and no file format: readers
//! ([`super::checkpoint`], [`super::safetensors_out`]) fill it. Bytes are always contiguous, row-major, little-endian.

use super::stored::Stored;
use crate::core::error::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;

/// Element type. The names are those of safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// Eight bits: sign, 4 of exponent, 3 of fraction; no infinities (torch's `float8_e4m3fn`).
    F8E4M3,
    /// Eight bits: sign, 5 of exponent, 2 of fraction (torch's `float8_e5m2`).
    F8E5M2,
}

/// Every type with its name and the bytes of one element.
const DTYPES: [(DType, &str, usize); 15] = [
    (DType::F64, "F64", 8),
    (DType::F32, "F32", 4),
    (DType::F16, "F16", 2),
    (DType::BF16, "BF16", 2),
    (DType::I64, "I64", 8),
    (DType::I32, "I32", 4),
    (DType::I16, "I16", 2),
    (DType::I8, "I8", 1),
    (DType::U64, "U64", 8),
    (DType::U32, "U32", 4),
    (DType::U16, "U16", 2),
    (DType::U8, "U8", 1),
    (DType::Bool, "BOOL", 1),
    (DType::F8E4M3, "F8_E4M3", 1),
    (DType::F8E5M2, "F8_E5M2", 1),
];

impl DType {
    /// The safetensors name, e.g. `F32`.
    pub fn name(self) -> &'static str {
        DTYPES.iter().find(|row| row.0 == self).map_or("?", |row| row.1)
    }
    /// Bytes of one element.
    pub fn size(self) -> usize {
        DTYPES.iter().find(|row| row.0 == self).map_or(1, |row| row.2)
    }
    /// The type of a safetensors name.
    pub fn from_name(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// Most bytes that [`TensorEntry::chunks`] reads at once: a multiple of every element's size.
pub const CHUNK: usize = 1 << 20;

/// Where the bytes lie.
#[derive(Clone)]
enum Source {
    Stored(Arc<Stored>),
    File { file: Arc<File>, offset: u64 },
    Memory(Arc<[u8]>),
}

/// One tensor: name, element type, shape (outermost first, empty for a scalar), and its bytes on demand.
#[derive(Clone)]
pub struct TensorEntry {
    /// The name in the state dict.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    source: Source,
}

impl std::fmt::Debug for TensorEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype.name(), self.shape)
    }
}

impl TensorEntry {
    /// A tensor of a torch file; its bytes stay in the file. The caller has checked that they lie within it.
    pub(super) fn stored(name: String, dtype: DType, shape: Vec<usize>, stored: Stored) -> Self {
        TensorEntry { name, dtype, shape, source: Source::Stored(Arc::new(stored)) }
    }

    /// A tensor whose bytes start at `offset` of `file`. The caller has checked that they lie within it.
    pub(super) fn in_file(name: String, dtype: DType, shape: Vec<usize>, file: Arc<File>, offset: u64) -> Self {
        TensorEntry { name, dtype, shape, source: Source::File { file, offset } }
    }

    /// A tensor in memory.
    ///
    /// # Errors
    /// The bytes are not as many as dtype and shape say.
    pub fn in_memory(name: impl Into<String>, dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self> {
        let name = name.into();
        let entry = TensorEntry { name, dtype, shape, source: Source::Memory(bytes.into()) };
        entry.checked(entry.bytes()?.len())?;
        Ok(entry)
    }

    /// An f32 tensor in memory.
    ///
    /// # Errors
    /// As [`TensorEntry::in_memory`].
    pub fn of_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        Self::in_memory(name, DType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// The bytes: contiguous, row-major, little-endian. Read from the file each time.
    ///
    /// # Errors
    /// The file cannot be read, ends early, or fails its checksum.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.source {
            Source::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
            Source::Stored(_) => {
                let mut bytes = Vec::with_capacity(self.byte_len());
                self.chunks(&mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                Ok(Cow::Owned(bytes))
            }
            Source::File { file, offset } => {
                let mut bytes = vec![0; self.byte_len()];
                read_exact_at(file, &mut bytes, *offset).map_err(|e| self.unreadable(&e))?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Hands out the bytes of [`TensorEntry::bytes`] in order, in pieces of whole elements: of a tensor in a file at most
    /// [`CHUNK`] bytes are in memory, however large it is.
    ///
    /// # Errors
    /// As [`TensorEntry::bytes`], and those of `each`, which end the reading.
    pub fn chunks(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match &self.source {
            Source::Memory(bytes) => each(bytes),
            _ => self.chunks_into(&mut vec![], &mut |piece| each(piece)),
        }
    }

    /// The same, each piece in `buffer`, in whose place `each` may leave another: nothing is copied for those who keep it.
    ///
    /// # Errors
    /// As [`TensorEntry::chunks`].
    pub(super) fn chunks_into(
        &self,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        match &self.source {
            Source::Memory(bytes) => bytes.chunks(CHUNK).try_for_each(|piece| {
                buffer.clear();
                buffer.extend_from_slice(piece);
                each(buffer)
            }),
            Source::Stored(stored) => {
                let mut pieces = stored.pieces(&self.shape, self.dtype.size()).map_err(|e| self.unreadable(&e))?;
                while pieces.next(buffer).map_err(|e| self.unreadable(&e))? {
                    if self.dtype == DType::Bool {
                        buffer.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
                    }
                    each(buffer)?;
                }
                Ok(())
            }
            Source::File { file, offset } => {
                let (mut at, end) = (*offset, *offset + self.byte_len() as u64);
                while at < end {
                    buffer.resize((end - at).min(CHUNK as u64) as usize, 0);
                    read_exact_at(file, buffer, at).map_err(|e| self.unreadable(&e))?;
                    at += buffer.len() as u64;
                    each(buffer)?;
                }
                Ok(())
            }
        }
    }

    fn checked(&self, found: usize) -> Result<()> {
        if found == self.byte_len() {
            return Ok(());
        }
        let (name, expected) = (&self.name, self.byte_len());
        Err(Error::stage(format!("tensor `{name}` has {found} bytes, its dtype and shape need {expected}")))
    }

    fn unreadable(&self, cause: &std::io::Error) -> Error {
        Error::stage(format!("cannot read tensor `{}`", self.name))
            .cause(cause.to_string())
            .hint("the file is damaged, or it changed while it was read")
    }

    /// The values as f32 (f16, bf16, f64 and integers are converted).
    ///
    /// # Errors
    /// As [`TensorEntry::bytes`].
    pub fn f32(&self) -> Result<Vec<f32>> {
        let bytes = self.bytes()?;
        Ok(match self.dtype {
            DType::F32 => each(&bytes, f32::from_le_bytes),
            DType::F64 => each(&bytes, |b| f64::from_le_bytes(b) as f32),
            DType::F16 => each(&bytes, |b| f16_to_f32(u16::from_le_bytes(b))),
            DType::BF16 => each(&bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            DType::I64 => each(&bytes, |b| i64::from_le_bytes(b) as f32),
            DType::I32 => each(&bytes, |b| i32::from_le_bytes(b) as f32),
            DType::I16 => each(&bytes, |b| f32::from(i16::from_le_bytes(b))),
            DType::I8 => each(&bytes, |b| f32::from(i8::from_le_bytes(b))),
            DType::U64 => each(&bytes, |b| u64::from_le_bytes(b) as f32),
            DType::U32 => each(&bytes, |b| u32::from_le_bytes(b) as f32),
            DType::U16 => each(&bytes, |b| f32::from(u16::from_le_bytes(b))),
            DType::U8 | DType::Bool => each(&bytes, |[b]: [u8; 1]| f32::from(b)),
            DType::F8E4M3 => each(&bytes, |[b]: [u8; 1]| f8_e4m3_to_f32(b)),
            // the upper half of an f16
            DType::F8E5M2 => each(&bytes, |[b]: [u8; 1]| f16_to_f32(u16::from(b) << 8)),
        })
    }
}

/// Tensors by name, sorted by name; no name twice.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    tensors: Vec<TensorEntry>,
}

impl StateDict {
    /// Sorts the tensors by name.
    ///
    /// # Errors
    /// A name that comes twice, or a shape whose byte count overflows.
    pub fn new(mut tensors: Vec<TensorEntry>) -> Result<StateDict> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::stage(format!("tensor `{}` comes twice", pair[0].name)));
        }
        for tensor in &tensors {
            if tensor.name == "__metadata__" {
                return Err(Error::stage(
                    "a tensor is called `__metadata__`, which safetensors keep for something else",
                ));
            }
            byte_count(tensor.dtype, &tensor.shape).ok_or_else(|| too_large(&tensor.name, &tensor.shape))?;
        }
        Ok(StateDict { tensors })
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|i| &self.tensors[i])
    }
    /// The tensor of a name, or an error that names it.
    ///
    /// # Errors
    /// There is none.
    pub fn require(&self, name: &str) -> Result<&TensorEntry> {
        self.get(name).ok_or_else(|| Error::stage(format!("tensor `{name}` is missing from the state dict")))
    }
    /// Elements of all tensors but PyTorch's buffers ([`is_buffer`]).
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().filter(|t| !is_buffer(&t.name)).map(|t| t.elements() as u64).sum()
    }
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.byte_len() as u64).sum()
    }
    /// Number of tensors of each element type, sorted by the type's name.
    pub fn dtypes(&self) -> std::collections::BTreeMap<&'static str, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for tensor in &self.tensors {
            *counts.entry(tensor.dtype.name()).or_insert(0) += 1;
        }
        counts
    }

    /// Says which key `self` (called `what`) lacks or has beyond `against`.
    ///
    /// # Errors
    /// A missing key, an unexpected key, or another shape, each named.
    pub fn same_keys(&self, what: &str, against: &StateDict) -> Result<()> {
        if let Some(lacks) = against.tensors.iter().find(|t| self.get(&t.name).is_none()) {
            return Err(Error::stage(format!("{what} lacks tensor `{}`, which the raw weights have", lacks.name)));
        }
        for tensor in &self.tensors {
            let Some(other) = against.get(&tensor.name) else {
                let name = &tensor.name;
                return Err(Error::stage(format!("{what} has tensor `{name}`, which the raw weights lack")));
            };
            if other.shape != tensor.shape {
                let (name, found, expected) = (&tensor.name, &tensor.shape, &other.shape);
                let message = format!("{what}: tensor `{name}` has shape {found:?}, the raw weights have {expected:?}");
                return Err(Error::stage(message));
            }
        }
        Ok(())
    }
}

/// Whether a name is that of a batch norm's running statistics: saved with the weights, and no parameters.
pub fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "running_mean" | "running_var" | "num_batches_tracked")
}

/// Bytes of a tensor, `None` where the count overflows.
pub(super) fn byte_count(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |product, &extent| product.checked_mul(extent))
}

fn too_large(name: &str, shape: &[usize]) -> Error {
    Error::stage(format!("tensor `{name}` has the impossible shape {shape:?}"))
}

fn each<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}

/// IEEE half precision to single, exactly.
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = ((half >> 10) & 31, f32::from(half & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        e => sign * (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(e) - 15),
    }
}

/// torch's `float8_e4m3fn` to single, exactly: bias 7, no infinities, one NaN of either sign
/// (<https://arxiv.org/abs/2209.05433>, table 1).
fn f8_e4m3_to_f32(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = ((byte >> 3) & 15, f32::from(byte & 7));
    match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * fraction * 2f32.powi(-9),
        (e, _) => sign * (1.0 + fraction / 8.0) * 2f32.powi(i32::from(e) - 7),
    }
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, buffer, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[count..];
        offset += count as u64;
    }
    Ok(())
}
