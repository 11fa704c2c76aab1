//! The canonical tensor table: what a set of weights is, whatever file they came in.
//!
//! A row is a tensor's name, element type, shape and the BLAKE3 of its bytes (contiguous, row-major, little-endian). Two
//! files with the same tensors give the same table and the same bytes of it; `torch.save` does not (its bytes depend
//! on the file's name). Knows nothing of layouts, networks or files.

use super::finite;
use super::tensor::{StateDict, TensorEntry, is_buffer};
use crate::core::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A piece of fewer bytes is hashed where it is: another core would cost more than it saves.
const ALONE: usize = 1 << 16;

/// One tensor of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The name in the state dict.
    pub name: String,
    /// The safetensors name of the element type, e.g. `F32`.
    pub dtype: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// BLAKE3 of the bytes, 64 hex digits.
    pub blake3: String,
}

/// All tensors, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorTable {
    /// The rows, sorted by name.
    pub tensors: Vec<Row>,
}

impl TensorTable {
    /// Reads and hashes every tensor, in parallel; at most one piece of a tensor a thread is in memory.
    ///
    /// # Errors
    /// There is no tensor, or one cannot be read.
    pub fn of(dict: &StateDict) -> Result<TensorTable> {
        Ok(TensorTable::measured(dict)?.0)
    }

    /// The same, and how many values are NaN or infinite, from the one reading.
    ///
    /// # Errors
    /// As [`TensorTable::of`].
    pub fn measured(dict: &StateDict) -> Result<(TensorTable, u64)> {
        if dict.is_empty() {
            return Err(Error::stage("there are no tensors to make a table of"));
        }
        let rows = dict.tensors().par_iter().map(row).collect::<Result<Vec<_>>>()?;
        let nonfinite = rows.iter().map(|(_, nonfinite)| nonfinite).sum();
        Ok((TensorTable { tensors: rows.into_iter().map(|(row, _)| row).collect() }, nonfinite))
    }

    /// The canonical bytes: compact JSON, keys in the order of the fields, rows sorted by name, one final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and integers alone: serialising them cannot fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads [`TensorTable::to_bytes`] back.
    ///
    /// # Errors
    /// The bytes are no table, or its rows are not sorted.
    pub fn from_bytes(bytes: &[u8]) -> Result<TensorTable> {
        let table: TensorTable = serde_json::from_slice(bytes)
            .map_err(|e| Error::stage("this is not a tensor table").cause(e.to_string()))?;
        match table.tensors.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            Some(pair) => Err(Error::stage(format!("the tensor table is not sorted at `{}`", pair[1].name))),
            None => Ok(table),
        }
    }

    /// Elements of all tensors but buffers ([`is_buffer`]).
    pub fn parameters(&self) -> u64 {
        let rows = self.tensors.iter().filter(|row| !is_buffer(&row.name));
        rows.map(|row| row.shape.iter().product::<usize>() as u64).sum()
    }

    /// Holds `dict` against this table.
    ///
    /// # Errors
    /// The first tensor that is missing, new, of another type or shape, or of other bytes.
    pub fn verify(&self, dict: &StateDict) -> Result<()> {
        self.verify_names(dict)?;
        let differing = self.tensors.par_iter().zip(dict.tensors()).find_map_first(|(was, tensor)| match row(tensor) {
            Err(error) => Some(error),
            Ok((now, _)) if now == *was => None,
            Ok(_) => Some(changed(&was.name, "differs from what the table says")),
        });
        differing.map_or(Ok(()), Err)
    }

    /// Hands out `tensor` in pieces and holds it against its row on the way, on another core: what got them is of use only
    /// if this ends well.
    ///
    /// # Errors
    /// Another type, shape or other bytes than the table says; those of reading, and of `each`.
    pub(super) fn passing(
        &self,
        tensor: &TensorEntry,
        each: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    ) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        tensor.chunks(&mut |piece| match piece.len() < ALONE {
            true => {
                hasher.update(piece);
                each(piece)
            }
            false => rayon::join(|| hasher.update(piece), || each(piece)).1,
        })?;
        self.holds(tensor, &hasher.finalize())
    }

    /// Holds a tensor whose bytes have this BLAKE3 against its row.
    ///
    /// # Errors
    /// Another type, shape or other bytes than the table says.
    pub(super) fn holds(&self, tensor: &TensorEntry, hash: &blake3::Hash) -> Result<()> {
        let found = self.tensors.binary_search_by(|row| row.name.as_str().cmp(&tensor.name));
        match found.map(|at| &self.tensors[at]) {
            Ok(was) if *was == row_of(tensor, hash) => Ok(()),
            Ok(was) => Err(changed(&was.name, "differs from what the table says")),
            Err(_) => Err(changed(&tensor.name, "is in the file and not in the table")),
        }
    }

    /// Holds the names of `dict` against this table's.
    ///
    /// # Errors
    /// The first tensor that is missing or new.
    pub fn verify_names(&self, dict: &StateDict) -> Result<()> {
        if let Some(row) = self.tensors.iter().find(|row| dict.get(&row.name).is_none()) {
            return Err(changed(&row.name, "is in the table and not in the file"));
        }
        let known = |name: &str| self.tensors.binary_search_by(|row| row.name.as_str().cmp(name)).is_ok();
        match dict.tensors().iter().find(|tensor| !known(&tensor.name)) {
            Some(tensor) => Err(changed(&tensor.name, "is in the file and not in the table")),
            None => Ok(()),
        }
    }
}

/// A tensor's row, and how many of its values are no number.
fn row(tensor: &TensorEntry) -> Result<(Row, u64)> {
    let (mut hasher, mut nonfinite) = (blake3::Hasher::new(), 0);
    tensor.chunks(&mut |bytes| {
        hasher.update(bytes);
        nonfinite += finite::nonfinite(tensor.dtype, bytes);
        Ok(())
    })?;
    Ok((row_of(tensor, &hasher.finalize()), nonfinite))
}

fn row_of(tensor: &TensorEntry, hash: &blake3::Hash) -> Row {
    Row {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().to_owned(),
        shape: tensor.shape.clone(),
        blake3: hash.to_hex().to_string(),
    }
}

fn changed(name: &str, how: &str) -> Error {
    Error::stage(format!("tensor `{name}` {how}")).hint("the checkpoint changed while building: run again")
}
