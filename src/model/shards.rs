//! Safetensors in several files with an index, as transformers and huggingface_hub write and read them.
//!
//! Tensors fill the shards in the order of their names; a shard ends before the tensor that would make it larger than
//! allowed, and a tensor that is larger by itself has a shard of its own (`split_torch_state_dict_into_shards` of
//! huggingface_hub). Sizes are those of the tensors, without the header. What fits one file is one file without an index.

use super::cast::Cast;
use super::safetensors_out::{self, How, SafetensorsFile, dtype_as};
use super::table::TensorTable;
use super::tensor::{StateDict, TensorEntry};
use crate::core::digest::FileDigests;
use crate::core::error::{Error, OnPath, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The name of the one file.
pub const ONE: &str = "model.safetensors";
/// The name of the index.
pub const INDEX: &str = "model.safetensors.index.json";
/// Largest index read.
const MAX_INDEX: u64 = 100_000_000;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Number of safetensors files.
    pub shards: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Elements of all tensors but buffers.
    pub parameters: u64,
    /// Bytes of the safetensors files together.
    pub bytes: u64,
    /// The types that the tensors have there, sorted.
    pub dtypes: BTreeSet<&'static str>,
    /// Digests of the safetensors files by name, where they were asked for.
    pub digests: BTreeMap<String, FileDigests>,
}

/// What is asked of [`write`].
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// `__metadata__` of every file.
    pub metadata: &'a BTreeMap<String, String>,
    /// Largest shard in bytes of tensors; `None`: one file.
    pub max: Option<u64>,
    /// Every tensor is held against this table in the same reading.
    pub table: Option<&'a TensorTable>,
    /// Whether the files are digested while they are written.
    pub digest: bool,
}

/// The index, its keys in the order in which Python writes them sorted.
#[derive(Serialize, Deserialize)]
struct Index {
    metadata: IndexMetadata,
    weight_map: BTreeMap<String, String>,
}

#[derive(Default, Serialize, Deserialize)]
struct IndexMetadata {
    /// Bytes of all tensors. Not always there, and in old files a float.
    #[serde(default)]
    total_size: serde_json::Value,
}

/// Writes `dict` into the folder `dir`: one file, or shards and their index.
///
/// # Errors
/// As [`safetensors_out::write`], a value that the cast cannot hold, a tensor that is not what the table says.
pub fn write(dir: &Path, dict: &StateDict, wanted: Wanted<'_>, mut cast: Option<&mut Cast>) -> Result<Written> {
    let Wanted { metadata, max, table, digest } = wanted;
    table.map_or(Ok(()), |table| table.verify_names(dict))?;
    let size = |tensor: &TensorEntry| (tensor.elements() * dtype_as(tensor, cast.as_deref()).size()) as u64;
    let dtypes = dict.tensors().iter().map(|tensor| dtype_as(tensor, cast.as_deref()).name()).collect();
    let total: u64 = dict.tensors().iter().map(size).sum();
    let shards = split(dict, size, max.unwrap_or(u64::MAX));
    let count = shards.len().max(1);
    let how = How { metadata, table, digest };
    let (mut bytes, mut weight_map, mut digests) = (0, BTreeMap::new(), BTreeMap::new());
    for (at, tensors) in shards.into_iter().enumerate() {
        let name = if count == 1 { ONE.to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", at + 1) };
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        let (size, found) = safetensors_out::write_tensors(&dir.join(&name), tensors, how, cast.as_deref_mut())?;
        bytes += size;
        digests.extend(found.map(|found| (name, found)));
    }
    if count > 1 {
        let index = Index { metadata: IndexMetadata { total_size: total.into() }, weight_map };
        let text = serde_json::to_string_pretty(&index).map_err(|e| Error::bug(format!("an index is no JSON: {e}")))?;
        let path = dir.join(INDEX);
        std::fs::write(&path, text + "\n").on("write", &path)?;
    }
    Ok(Written { shards: count, tensors: dict.len(), parameters: dict.parameters(), bytes, dtypes, digests })
}

/// The tensors of each shard. An empty `dict` has one empty shard, which no file is written for.
fn split(dict: &StateDict, size: impl Fn(&TensorEntry) -> u64, max: u64) -> Vec<Vec<&TensorEntry>> {
    let (mut shards, mut current, mut filled) = (vec![], vec![], 0);
    for tensor in dict.tensors() {
        let size = size(tensor);
        if size > max {
            shards.push(vec![tensor]);
            continue;
        }
        if filled + size > max {
            shards.push(std::mem::take(&mut current));
            filled = 0;
        }
        current.push(tensor);
        filled += size;
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

/// Opens what [`write`] made, or what another program laid out the same way: files by their names in the folder, with
/// where each can be read. Tensors are read on demand; the metadata is that of the first shard.
///
/// # Errors
/// Several files without an index, a shard that the index names and that is not there, one that it does not name, a
/// tensor that is not where the index says or is in no shard that it names, and those of [`safetensors_out::open`].
pub fn open(files: &[(&str, &Path)]) -> Result<SafetensorsFile> {
    if let [(_, one)] = files {
        return safetensors_out::open(one);
    }
    let Some((index_name, path)) = files.iter().find(|(name, _)| name.ends_with(".index.json")) else {
        return Err(Error::stage(format!("the weights are {} files, and none is an index", files.len()))
            .hint(format!("shards come with `{INDEX}`, which says which tensor is where")));
    };
    let index = read_index(index_name, path)?;
    let named: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let stray = files.iter().find(|(name, _)| name != index_name && !named.contains(name));
    if let Some((name, _)) = stray {
        return Err(Error::stage(format!("`{name}` is there, and `{index_name}` does not name it")));
    }
    let (mut tensors, mut metadata) = (vec![], None);
    for shard in named {
        let path = files.iter().find(|(name, _)| *name == shard).map(|(_, path)| path);
        let path = path.ok_or_else(|| Error::stage(format!("`{index_name}` names `{shard}`, which is not there")))?;
        let file = safetensors_out::open(path)?;
        let wrong = |tensor: &&TensorEntry| index.weight_map.get(&tensor.name).is_none_or(|place| place != shard);
        if let Some(tensor) = file.tensors.tensors().iter().find(wrong) {
            let name = &tensor.name;
            return Err(Error::stage(format!("tensor `{name}` is in `{shard}`, and `{index_name}` says otherwise")));
        }
        tensors.extend(file.tensors.tensors().iter().cloned());
        metadata.get_or_insert(file.metadata);
    }
    let tensors = StateDict::new(tensors)?;
    match index.weight_map.iter().find(|(name, _)| tensors.get(name).is_none()) {
        Some((name, shard)) => Err(Error::stage(format!("`{shard}` lacks tensor `{name}`, which it should hold"))
            .hint(format!("`{index_name}` says so: was the shard written to its end?"))),
        None => Ok(SafetensorsFile { tensors, metadata: metadata.unwrap_or_default() }),
    }
}

fn read_index(name: &str, path: &Path) -> Result<Index> {
    let size = std::fs::metadata(path).on("stat", path)?.len();
    if size > MAX_INDEX {
        return Err(Error::stage(format!("the index `{name}` has {size} bytes, at most {MAX_INDEX} are read")));
    }
    let bytes = std::fs::read(path).on("read", path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::stage(format!("`{name}` is no index of safetensors shards")).cause(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(sizes: &[usize]) -> StateDict {
        let tensor = |(at, n): (usize, &usize)| TensorEntry::of_f32(format!("t{at}"), vec![*n], &vec![at as f32; *n]);
        StateDict::new(sizes.iter().enumerate().map(|row| tensor(row).unwrap()).collect()).unwrap()
    }

    fn names(shards: &[Vec<&TensorEntry>]) -> Vec<Vec<String>> {
        shards.iter().map(|s| s.iter().map(|t| t.name.clone()).collect()).collect()
    }

    #[test]
    fn shards_end_before_the_tensor_that_is_too_much_and_a_larger_one_has_its_own() {
        let dict = dict(&[2, 2, 9, 3, 1]);
        let size = |t: &TensorEntry| t.byte_len() as u64;
        assert_eq!(names(&split(&dict, size, 16)), [vec!["t2"], vec!["t0", "t1"], vec!["t3", "t4"]]);
        assert_eq!(split(&dict, size, u64::MAX).len(), 1);
        assert_eq!(split(&dict, size, 1).len(), 5);
    }

    /// A folder of shards, its files by name.
    fn written(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let wanted = Wanted { metadata: &metadata, max: Some(16), table: None, digest: false };
        let done = write(dir, &dict(&[2, 2, 9, 3, 1]), wanted, None).unwrap();
        assert_eq!((done.shards, done.tensors, done.parameters), (3, 5, 17));
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), p)).collect()
    }

    fn opened(files: &[(String, std::path::PathBuf)]) -> Result<SafetensorsFile> {
        open(&files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect::<Vec<_>>())
    }

    #[test]
    fn shards_are_read_back_as_one_state_dict_by_their_index() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        assert_eq!(files.len(), 4);
        let back = opened(&files).unwrap();
        assert_eq!((back.tensors.len(), back.metadata["format"].as_str()), (5, "pt"));
        assert_eq!(back.tensors.get("t3").unwrap().f32().unwrap(), [3.0; 3]);
        let index = std::fs::read_to_string(dir.path().join(INDEX)).unwrap();
        assert!(
            index.starts_with("{\n  \"metadata\": {\n    \"total_size\": 68\n  },\n  \"weight_map\": {\n    \"t0\":")
        );
    }

    #[test]
    fn a_shard_that_is_missing_swapped_unnamed_or_without_its_index_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        let without = |at: usize| files.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| f.clone()).collect();
        let message = |files: &Vec<_>| opened(files).unwrap_err().message().to_string();
        assert!(message(&without(1)).contains("names `model-00002-of-00003.safetensors`, which is not there"));
        assert!(message(&without(3)).contains("none is an index"));
        let mut swapped = files.clone();
        swapped[0].1 = files[1].1.clone();
        assert!(message(&swapped).contains("says otherwise"), "{}", message(&swapped));
        let mut stray = files.clone();
        stray.push(("model-00004-of-00003.safetensors".into(), files[0].1.clone()));
        assert!(message(&stray).contains("does not name it"));
        let index = std::fs::read_to_string(&files[3].1).unwrap();
        std::fs::write(&files[3].1, index.replace("\"t0\"", "\"t9\": \"model-00002-of-00003.safetensors\", \"t0\""))
            .unwrap();
        assert!(message(&files).contains("lacks tensor `t9`"), "{}", message(&files));
    }
}
