//! Safetensors files: written with reproducible bytes, and read back as a state dict.
//!
//! The header's keys are sorted by name, `__metadata__` first with its keys sorted (Python's writer leaves them in random
//! order), the header is padded with spaces to 8 bytes. Data lies in order of element size, largest first, then of
//! name, as the safetensors crate writes it, so that every tensor is aligned. Knows nothing of networks.

use super::cast::Cast;
use super::digesting::{DigestingFile, Each, Lane, Spares};
use super::magic::{self, Magic};
use super::table::TensorTable;
use super::tensor::{CHUNK, DType, StateDict, TensorEntry};
use crate::core::digest::FileDigests;
use crate::core::error::{Error, OnPath, Result};
use safetensors::tensor::Metadata;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// The largest header read (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Number of tensors.
    pub tensors: usize,
    /// Elements of all tensors but buffers.
    pub parameters: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes `dict` to `path`, piece by piece.
///
/// # Errors
/// `dict` holds no tensor, one cannot be read, or the file cannot be written.
pub fn write(path: &Path, dict: &StateDict, metadata: &BTreeMap<String, String>) -> Result<Written> {
    let how = How { metadata, table: None, digest: false };
    let (bytes, _) = write_tensors(path, dict.tensors().iter().collect(), how, None)?;
    Ok(Written { tensors: dict.len(), parameters: dict.parameters(), bytes })
}

/// How tensors are written.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// The file's `__metadata__`.
    pub metadata: &'a BTreeMap<String, String>,
    /// Each tensor is held against its row as it passes.
    pub table: Option<&'a TensorTable>,
    /// Whether the file is digested while it is written.
    pub digest: bool,
}

/// The same of some tensors, cast on their way where `cast` says so; the bytes of the file, and its digests where they were
/// asked for.
///
/// # Errors
/// As [`write`], a value that the cast cannot hold, a tensor that is not what the table says.
pub(super) fn write_tensors(
    path: &Path,
    mut tensors: Vec<&TensorEntry>,
    how: How<'_>,
    cast: Option<&mut Cast>,
) -> Result<(u64, Option<FileDigests>)> {
    if tensors.is_empty() {
        return Err(Error::stage(format!("there are no tensors to write to `{}`", path.display())));
    }
    let dtype = |tensor: &TensorEntry, cast: &Option<&mut Cast>| dtype_as(tensor, cast.as_deref());
    tensors.sort_by(|a, b| dtype(b, &cast).size().cmp(&dtype(a, &cast).size()).then_with(|| a.name.cmp(&b.name)));
    let header = header(&tensors, how.metadata, cast.as_deref());
    let data: usize = tensors.iter().map(|tensor| tensor.elements() * dtype(tensor, &cast).size()).sum();
    let bytes = 8 + (header.len() + data) as u64;
    if how.digest {
        return Ok((bytes, Some(put_digested(path, bytes, header, &tensors, how.table, cast)?)));
    }
    // a piece is as large as the buffer, and so passes it by
    let mut out = BufWriter::with_capacity(CHUNK, File::create(path).on("create", path)?);
    put(&mut out, path, &header, &tensors, how.table, cast)?;
    out.flush().on("write", path)?;
    Ok((bytes, None))
}

/// Writes the header and the tensors behind it, while the file is digested and the tensors are held against `table`.
fn put_digested(
    path: &Path,
    bytes: u64,
    header: Vec<u8>,
    tensors: &[&TensorEntry],
    table: Option<&TensorTable>,
    mut cast: Option<&mut Cast>,
) -> Result<FileDigests> {
    let spares = Spares::new();
    let out = DigestingFile::create(path, bytes, &spares)?;
    let each = || Lane::start(Each::of(tensors.iter().map(|tensor| tensor.byte_len())), &spares);
    let rows = table.map(|_| each()).transpose()?;
    let mut going = out.put(&Arc::new([&(header.len() as u64).to_le_bytes()[..], &header].concat()));
    let mut buffer = spares.get();
    let mut read = Ok(());
    for tensor in tensors {
        if !going || read.is_err() {
            break;
        }
        let mut first = 0;
        read = tensor.chunks_into(&mut buffer, &mut |piece| {
            let read = Arc::new(std::mem::replace(piece, spares.get()));
            let written = match cast.as_deref_mut() {
                Some(cast) => {
                    let mut written = spares.get();
                    cast.chunk(tensor, first, &read, &mut written)?;
                    first += read.len() / tensor.dtype.size();
                    &Arc::new(written)
                }
                None => &read,
            };
            going = out.put(written) && rows.as_ref().is_none_or(|rows| rows.put(&read));
            Ok(())
        });
    }
    let digests = out.finish()?; // a disk that is full is the first cause
    read?;
    if let (Some(table), Some(rows)) = (table, rows) {
        tensors.iter().zip(rows.end()?).try_for_each(|(tensor, hash)| table.holds(tensor, &hash))?;
    }
    Ok(digests)
}

/// Writes the header and the tensors behind it.
fn put(
    out: &mut (impl Write + Send),
    path: &Path,
    header: &[u8],
    tensors: &[&TensorEntry],
    table: Option<&TensorTable>,
    mut cast: Option<&mut Cast>,
) -> Result<()> {
    out.write_all(&(header.len() as u64).to_le_bytes()).on("write", path)?;
    out.write_all(header).on("write", path)?;
    let mut buffer = Vec::new();
    for tensor in tensors {
        let mut first = 0;
        let mut put = |piece: &[u8]| {
            let data = match cast.as_deref_mut() {
                Some(cast) => {
                    cast.chunk(tensor, first, piece, &mut buffer)?;
                    first += piece.len() / tensor.dtype.size();
                    &buffer[..]
                }
                None => piece,
            };
            out.write_all(data).on("write", path)
        };
        match table {
            Some(table) => table.passing(tensor, &mut put)?,
            None => tensor.chunks(&mut put)?,
        }
    }
    Ok(())
}

/// The type that a tensor is written with.
pub(super) fn dtype_as(tensor: &TensorEntry, cast: Option<&Cast>) -> DType {
    cast.map_or(tensor.dtype, |cast| cast.dtype(tensor.dtype))
}

fn header(order: &[&TensorEntry], metadata: &BTreeMap<String, String>, cast: Option<&Cast>) -> Vec<u8> {
    let mut rows = BTreeMap::new();
    let mut offset = 0;
    for tensor in order {
        let dtype = dtype_as(tensor, cast);
        let end = offset + tensor.elements() * dtype.size();
        let row = json!({"dtype": dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        rows.insert(tensor.name.clone(), row);
        offset = end;
    }
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    header.extend(rows);
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

/// A safetensors file, opened: its tensors (read on demand) and its `__metadata__`.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    /// The tensors.
    pub tensors: StateDict,
    /// `__metadata__`, sorted by key; empty where there is none.
    pub metadata: BTreeMap<String, String>,
}

/// Opens a safetensors file. The header is checked by the safetensors crate: offsets without holes or overlaps, and
/// exactly the file's length.
///
/// # Errors
/// Not a safetensors file, truncated, an element type that hfbuild does not know, no tensors.
pub fn open(path: &Path) -> Result<SafetensorsFile> {
    let found = magic::sniff(path)?;
    if found != Magic::Safetensors {
        let message = format!("`{}` is not a safetensors file, it looks like {}", path.display(), found.describe());
        return Err(Error::stage(message));
    }
    let mut file = File::open(path).on("open", path)?;
    let length = file.metadata().on("stat", path)?.len();
    let mut head = vec![0u8; 8];
    file.read_exact(&mut head).on("read", path)?;
    let size = head.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if size > MAX_HEADER || size + 8 > length {
        return Err(damaged(path, &format!("the header claims {size} bytes, the file has {length}")));
    }
    head.resize(8 + size as usize, 0);
    file.read_exact(&mut head[8..]).on("read", path)?;
    let names: Names = serde_json::from_slice(&head[8..]).map_err(|e| damaged(path, &e.to_string()))?;
    if let Some(name) = names.twice() {
        return Err(damaged(path, &format!("tensor `{}` comes twice in its header", name.escape_debug())));
    }
    let parsed: Metadata = serde_json::from_slice(&head[8..]).map_err(|e| damaged(path, &e.to_string()))?;
    let data = 8 + size;
    if data + parsed.data_len() as u64 != length {
        let expected = data + parsed.data_len() as u64;
        return Err(damaged(path, &format!("the header describes {expected} bytes, the file has {length}")));
    }
    let tensors = entries(path, &parsed, &Arc::new(file), data)?;
    let metadata = parsed.metadata().as_ref().map(|m| m.clone().into_iter().collect()).unwrap_or_default();
    Ok(SafetensorsFile { tensors: StateDict::new(tensors)?, metadata })
}

/// The tensors alone.
///
/// # Errors
/// As [`open`].
pub fn read_state_dict(path: &Path) -> Result<StateDict> {
    Ok(open(path)?.tensors)
}

fn entries(path: &Path, parsed: &Metadata, file: &Arc<File>, data: u64) -> Result<Vec<TensorEntry>> {
    let mut entries = Vec::new();
    for (name, info) in parsed.tensors() {
        let stated = info.dtype.to_string();
        let dtype = DType::from_name(&stated)
            .ok_or_else(|| damaged(path, &format!("tensor `{name}` has the unsupported element type `{stated}`")))?;
        let offset = data + info.data_offsets.0 as u64;
        entries.push(TensorEntry::in_file(name.clone(), dtype, info.shape.clone(), Arc::clone(file), offset));
    }
    match entries.is_empty() {
        true => Err(damaged(path, "it holds no tensors")),
        false => Ok(entries),
    }
}

/// The keys of a header in their order: a name that comes twice would hide one of the two tensors.
struct Names(Vec<String>);

impl Names {
    fn twice(mut self) -> Option<String> {
        self.0.sort_unstable();
        self.0.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = vec![];
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn damaged(path: &Path, cause: &str) -> Error {
    Error::stage(format!("cannot read `{}` as safetensors", path.display())).cause(cause.to_owned())
}
