//! A `.pt` file as `torch.save` writes it, by hand: for loading with `torch.load(weights_only=True)`.
//!
//! The zip form of PyTorch 1.6 and later ([`zip`]) around a pickle of protocol 2 ([`pickle`]) that names three globals:
//! `collections.OrderedDict`, `torch._utils._rebuild_tensor_v2` and the storages' types. The same values give the same
//! bytes: no clock, no identity of objects, and the folder inside is the name that is asked for. Knows no checkpoint's
//! layout and no network.

mod pickle;
mod zip;

use super::checkpoint::Scalar;
use super::tensor::{StateDict, TensorEntry};
use crate::core::error::{Error, OnPath, Result};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// What can be saved.
#[derive(Debug, Clone)]
pub enum Saved<'a> {
    /// A plain value.
    Plain(Scalar),
    /// A dict, its keys in this order.
    Dict(Vec<(String, Saved<'a>)>),
    /// An `OrderedDict` of tensors, sorted by name.
    Tensors(&'a StateDict),
}

/// Writes `saved` to `path`, a piece of a tensor in memory at a time. `stem` is the folder inside, torch's is the file's
/// name without its suffix.
///
/// # Errors
/// A tensor of a type that torch has no typed storage for, one that cannot be read, a file that cannot be written.
pub fn write(path: &Path, stem: &str, saved: &Saved<'_>) -> Result<u64> {
    let (pickle, tensors) = pickle::dump(saved)?;
    let file = BufWriter::with_capacity(1 << 20, File::create(path).on("create", path)?);
    let mut archive = zip::Writer::new(file, stem);
    write_entries(&mut archive, &pickle, &tensors, path)?;
    archive.finish().on("write", path)
}

/// The entries, in torch's order.
fn write_entries(
    archive: &mut zip::Writer<BufWriter<File>>,
    pickle: &[u8],
    tensors: &[&TensorEntry],
    path: &Path,
) -> Result<()> {
    let mut small = |name: &str, bytes: &[u8]| archive.add(name, bytes).on("write", path);
    small("data.pkl", pickle)?;
    small(".format_version", b"1")?;
    small(".storage_alignment", zip::ALIGNMENT.to_string().as_bytes())?;
    small("byteorder", b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        let mut entry = archive.begin(&format!("data/{key}"), tensor.byte_len() as u64).on("write", path)?;
        tensor.chunks(&mut |bytes| entry.put(bytes).on("write", path))?;
        let whole = entry.end().on("write", path)?;
        if !whole {
            return Err(Error::stage(format!("tensor `{}` changed its length while it was written", tensor.name)));
        }
    }
    archive.add("version", b"3\n").on("write", path)
}
