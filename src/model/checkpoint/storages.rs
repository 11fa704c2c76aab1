//! The two containers of `torch.save`, opened: the unpickled object, and where each storage lies in the file.
//!
//! Zip (PyTorch 1.6 and later): `STEM/data.pkl`, `STEM/data/KEY`, `STEM/byteorder`. Legacy: five pickles (magic number,
//! protocol, system, object, keys), then each storage as a count and its bytes, little-endian whatever the machine was
//! (`torch/csrc/serialization.cpp`). A tensor is held against its storage before anything of it is read. It knows no layouts.

use super::unpickle::{self, Pickled};
use super::value::{Element, StorageRef, TensorRef, Value};
use super::zip::{Archive, Entry};
use crate::core::error::{Error, OnPath, Result};
use crate::model::stored::{Checksum, Stored};
use crate::model::tensor::{DType, StateDict, TensorEntry, read_exact_at};
use crate::model::torchscript;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Longest pickle read.
const MAX_PICKLE: u64 = 100 << 20;
/// Longest `byteorder` entry read.
const MAX_ORDER: u64 = 64;
/// Tensors of a state dict may claim this often the file's bytes (storages are shared), and no more.
const MOST_SHARING: u64 = 16;

/// A torch file, opened.
pub struct TorchFile {
    /// The object that was saved.
    pub root: Value,
    /// Where its tensors lie.
    pub storages: Storages,
}

/// Where each storage lies.
pub struct Storages {
    file: Arc<File>,
    /// Bytes of the file.
    length: u64,
    big_endian: bool,
    regions: HashMap<String, Region>,
}

#[derive(Clone)]
struct Region {
    offset: u64,
    bytes: u64,
    checksum: Option<Arc<Checksum>>,
}

/// Opens a zip archive of `torch.save`.
///
/// # Errors
/// Compressed entries, TorchScript, no or several pickles, whatever [`unpickle::unpickle`] refuses.
pub fn open_zip(path: &Path) -> Result<TorchFile> {
    let archive = Archive::open(path)?;
    let name = format!("`{}`", path.display());
    refuse_foreign(&archive, &name)?;
    let pickles: Vec<_> = archive.entries.iter().filter(|e| is_pickle(&e.name)).collect();
    let [pickle] = pickles.as_slice() else {
        let found = pickles.len();
        return Err(Error::stage(format!(
            "{name} is a zip archive with {found} `data.pkl` entries, a checkpoint has one"
        ))
        .hint("expected a file of `torch.save`"));
    };
    let stem = pickle.name.strip_suffix("data.pkl").unwrap_or_default();
    let order = archive.entries.iter().find(|e| e.name.strip_prefix(stem) == Some("byteorder"));
    let big_endian = match order.map(|entry| archive.read(entry, MAX_ORDER)).transpose()?.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => {
            let found = String::from_utf8_lossy(other).escape_debug().to_string();
            return Err(Error::stage(format!("{name} has the byte order `{found}`, expected `little` or `big`")));
        }
    };
    let bytes = archive.read(pickle, MAX_PICKLE)?;
    check_crc(pickle, &bytes, &name)?;
    let Pickled { value, .. } = unpickle::unpickle(&mut Cursor::new(bytes), &name, MAX_PICKLE)?;
    let data = format!("{stem}data/");
    let mut regions = HashMap::new();
    for entry in &archive.entries {
        if let Some(key) = entry.name.strip_prefix(&data) {
            regions.insert(key.to_owned(), region(entry, archive.locate(entry)?));
        }
    }
    let (file, length) = archive.into_file();
    Ok(TorchFile { root: value, storages: Storages { file, length, big_endian, regions } })
}

fn refuse_foreign(archive: &Archive, name: &str) -> Result<()> {
    if torchscript::of_archive(archive).is_some() {
        return Err(Error::stage(format!("{name} is a TorchScript program, not a checkpoint")).hint(
            "save `model.state_dict()` with `torch.save`; an `onnx_file` is compared with the program as its `torchscript`",
        ));
    }
    match archive.entries.iter().find(|e| e.method != 0 || e.size != e.compressed) {
        None => Ok(()),
        Some(entry) => {
            let (entry, claimed) = (&entry.name, entry.size);
            Err(Error::stage(format!("{name} holds the compressed entry `{entry}` ({claimed} bytes once unpacked)"))
                .hint("`torch.save` stores entries uncompressed: save the checkpoint again with it"))
        }
    }
}

fn is_pickle(entry: &str) -> bool {
    entry == "data.pkl" || entry.ends_with("/data.pkl")
}

/// A recorded checksum of zero is none: what writers leave that were told not to compute it.
fn check_crc(entry: &Entry, bytes: &[u8], name: &str) -> Result<()> {
    match entry.crc32 == 0 || crc32fast::hash(bytes) == entry.crc32 {
        true => Ok(()),
        false => Err(Error::stage(format!("entry `{}` of {name} does not match its checksum (CRC-32)", entry.name))
            .hint("the file is damaged: copy it again")),
    }
}

fn region(entry: &Entry, offset: u64) -> Region {
    let checksum = Checksum { offset, bytes: entry.size, crc32: entry.crc32, held: OnceLock::new() };
    Region { offset, bytes: entry.size, checksum: (entry.crc32 != 0).then(|| Arc::new(checksum)) }
}

/// Opens a file of `torch.save` before PyTorch 1.6.
///
/// # Errors
/// Truncated, storages that do not fit the file, whatever [`unpickle::unpickle`] refuses.
pub fn open_legacy(path: &Path) -> Result<TorchFile> {
    let file = Arc::new(File::open(path).on("open", path)?);
    let length = file.metadata().on("stat", path)?.len();
    let name = format!("`{}`", path.display());
    let mut input = BufReader::new(File::open(path).on("open", path)?);
    let mut at = 0;
    let mut next = |input: &mut dyn BufRead| {
        let mut input = input;
        let pickled = unpickle::unpickle(&mut input, &name, MAX_PICKLE)?;
        at += pickled.bytes;
        Ok::<_, Error>(pickled)
    };
    for _ in 0..3 {
        next(&mut input)?; // magic number, protocol, system: told by `magic`, and of no use here
    }
    let Pickled { value, storages, .. } = next(&mut input)?;
    let keys = next(&mut input)?.value;
    let elements: HashMap<&str, &StorageRef> = storages.iter().map(|s| (&*s.key, &**s)).collect();
    let mut regions = HashMap::new();
    for key in keys.items().ok_or_else(|| damaged(&name, "its list of storages is no list"))? {
        let key = key.key_text();
        let storage = elements.get(key.as_str());
        let storage = storage.ok_or_else(|| damaged(&name, &format!("no tensor uses its storage `{key}`")))?;
        let region = legacy_region(&file, length, at, storage)
            .ok_or_else(|| damaged(&name, &format!("storage `{key}` does not fit the file, or its own count")))?;
        at = region.offset + region.bytes;
        regions.insert(key, region);
    }
    Ok(TorchFile { root: value, storages: Storages { file, length, big_endian: false, regions } })
}

/// A count of elements, then the bytes.
fn legacy_region(file: &File, length: u64, at: u64, storage: &StorageRef) -> Option<Region> {
    let mut count = [0; 8];
    read_exact_at(file, &mut count, at).ok()?;
    let bytes = u64::from_le_bytes(count).checked_mul(storage.element.size())?;
    let offset = at + 8;
    let fits = offset.checked_add(bytes)? <= length && u64::from_le_bytes(count) == storage.elements;
    fits.then_some(Region { offset, bytes, checksum: None })
}

fn damaged(name: &str, why: &str) -> Error {
    Error::stage(format!("cannot read {name} as a legacy torch file: {why}"))
        .hint("the file is damaged or truncated: copy it again")
}

impl Storages {
    /// A state dict of named tensors.
    ///
    /// # Errors
    /// A tensor that is no part of the file, or of a type that a state dict cannot have; together they claim many times
    /// the file's bytes; a name that comes twice.
    pub fn state_dict<'a>(&self, named: impl Iterator<Item = (&'a str, &'a TensorRef)>) -> Result<StateDict> {
        let tensors = named.map(|(name, tensor)| self.entry(name, tensor)).collect::<Result<Vec<_>>>()?;
        let dict = StateDict::new(tensors)?;
        let claimed = dict.tensors().iter().fold(0u64, |sum, t| sum.saturating_add(t.byte_len() as u64));
        match claimed > self.length.saturating_mul(MOST_SHARING) {
            true => Err(Error::stage(format!("its tensors claim {claimed} bytes, the file has {}", self.length))
                .hint("they are views of shared storages: save `tensor.clone()` of each")),
            false => Ok(dict),
        }
    }

    /// One tensor, held against its storage.
    ///
    /// # Errors
    /// As [`Storages::state_dict`], for this tensor, which is named.
    pub fn entry(&self, name: &str, tensor: &TensorRef) -> Result<TensorEntry> {
        let fail = |why: String| Error::stage(format!("tensor `{name}` {why}"));
        let Element::Known(dtype) = tensor.element else {
            return Err(fail(format!("is of type `{}`, which no weights have here", tensor.element.name()))
                .hint("known are floats of 8 to 64 bits, ints, and bool"));
        };
        let extents = Extents::of(tensor, dtype).ok_or_else(|| {
            fail(format!("has the impossible shape {:?} with strides {:?}", tensor.shape, tensor.strides))
        })?;
        let storage = &tensor.storage;
        let region = self.regions.get(&*storage.key);
        let region = region.ok_or_else(|| fail(format!("lies in storage `{}`, which is not there", storage.key)))?;
        let window = window(storage, region).map_err(|why| fail(why).hint("the file is damaged"))?;
        if extents.bytes > self.length {
            return Err(fail(format!("claims {} bytes, the file has {}", extents.bytes, self.length))
                .hint("it is an expanded view: save `tensor.contiguous()`"));
        }
        if extents.end > window.bytes {
            let (end, bytes, key) = (extents.end, window.bytes, &storage.key);
            return Err(fail(format!("reaches to byte {end} of storage `{key}`, which has {bytes}"))
                .hint("the file is damaged, or was made to mislead"));
        }
        let stored = Stored {
            file: Arc::clone(&self.file),
            start: window.offset + extents.start,
            strides: extents.strides,
            big_endian: self.big_endian,
            checksum: region.checksum.clone(),
        };
        Ok(TensorEntry::stored(name.to_owned(), dtype, extents.shape, stored))
    }
}

/// The part of the file that a storage is, checked against what the pickle says of it.
fn window(storage: &StorageRef, region: &Region) -> Result<Region, String> {
    let (key, size) = (&storage.key, storage.element.size());
    let said = storage.elements.checked_mul(size);
    if said != Some(region.bytes) {
        let (elements, kind, bytes) = (storage.elements, storage.element.name(), region.bytes);
        return Err(format!("lies in storage `{key}` of {elements} elements of {kind}, which has {bytes} bytes"));
    }
    let Some((first, count)) = storage.view else { return Ok(region.clone()) };
    let (start, bytes) = (first.checked_mul(size), count.checked_mul(size));
    match (start, bytes, start.zip(bytes).and_then(|(a, b)| a.checked_add(b))) {
        (Some(start), Some(bytes), Some(end)) if end <= region.bytes => {
            Ok(Region { offset: region.offset + start, bytes, checksum: region.checksum.clone() })
        }
        _ => Err(format!("lies in a view of storage `{key}` that reaches beyond it")),
    }
}

/// A tensor's claims, in bytes.
struct Extents {
    shape: Vec<usize>,
    /// `None`: contiguous.
    strides: Option<Vec<u64>>,
    start: u64,
    /// One past its last byte.
    end: u64,
    /// Bytes of all its elements.
    bytes: u64,
}

impl Extents {
    /// `None` where a number is negative or a product overflows.
    fn of(tensor: &TensorRef, dtype: DType) -> Option<Extents> {
        let size = dtype.size() as u64;
        let unsigned = |value: i64| u64::try_from(value).ok();
        let shape = tensor.shape.iter().map(|&n| unsigned(n)).collect::<Option<Vec<_>>>()?;
        let strides = tensor.strides.iter().map(|&n| unsigned(n)).collect::<Option<Vec<_>>>()?;
        let bytes = tensor.elements()?.checked_mul(size)?;
        let start = unsigned(tensor.offset)?.checked_mul(size)?;
        let mut last = 0u64;
        let mut contiguous = true;
        let mut expected = 1u64;
        for (&extent, &stride) in shape.iter().zip(&strides).rev() {
            last = last.checked_add(extent.saturating_sub(1).checked_mul(stride)?)?;
            contiguous &= extent == 1 || stride == expected;
            expected = expected.checked_mul(extent.max(1))?;
        }
        let taken = if bytes == 0 { 0 } else { last.checked_add(1)?.checked_mul(size)? };
        let strides = match contiguous || bytes == 0 {
            true => None,
            false => Some(strides.iter().map(|n| n.checked_mul(size)).collect::<Option<Vec<_>>>()?),
        };
        let shape = shape.into_iter().map(|n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>()?;
        Some(Extents { shape, strides, start, end: start.checked_add(taken)?, bytes })
    }
}
