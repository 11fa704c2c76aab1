//! Safetensors in shards: `model.safetensors.index.json`, as huggingface_hub's `split_torch_state_dict_into_shards` writes it.
//!
//! `weight_map` says in which file beside the index each tensor is. Every shard must be there, and the map and the shards
//! must name the same tensors, each once; `metadata.total_size` is checked where it stands. It knows no pickles.

use crate::core::error::{Error, OnPath, Result};
use crate::model::safetensors_out::{self, SafetensorsFile};
use crate::model::tensor::StateDict;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest index read: half a million tensors.
const MAX_INDEX: u64 = 64 << 20;

/// The index's own fields; others are left alone.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    metadata: BTreeMap<String, serde_json::Value>,
    weight_map: Pairs,
}

/// A JSON object in its order, a name that comes twice and all.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of file names by tensor")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = vec![];
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The names of an index's shards, sorted: files beside it.
///
/// # Errors
/// No index, no tensors, a tensor that comes twice, a shard that is no plain file name.
pub fn shards(text: &str, name: &str) -> Result<Vec<String>> {
    let mut shards: Vec<String> = parsed(text, name)?.weight_map.0.into_iter().map(|(_, shard)| shard).collect();
    shards.sort();
    shards.dedup();
    Ok(shards)
}

fn parsed(text: &str, name: &str) -> Result<Index> {
    let index: Index = serde_json::from_str(text).map_err(|e| {
        Error::stage(format!("{name} is no index of safetensors shards"))
            .cause(e.to_string())
            .hint("expected JSON with a `weight_map` of file names by tensor")
    })?;
    let pairs = &index.weight_map.0;
    if pairs.is_empty() {
        return Err(Error::stage(format!("{name} names no tensors")));
    }
    let mut names: Vec<&str> = pairs.iter().map(|(tensor, _)| tensor.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::stage(format!("tensor `{}` comes twice in {name}", pair[0])));
    }
    let plain = |shard: &str| !shard.is_empty() && !shard.starts_with('.') && !shard.contains(['/', '\\', '\0']);
    match pairs.iter().find(|(_, shard)| !plain(shard)) {
        Some((tensor, shard)) => Err(Error::stage(format!(
            "{name} has tensor `{tensor}` in `{}`, which is no file beside it",
            shard.escape_debug()
        ))
        .hint("a shard is named by its file name alone")),
        None => Ok(index),
    }
}

/// Opens all shards of an index. Reads headers and no tensor.
///
/// # Errors
/// A shard that is missing or damaged; a tensor that is missing, elsewhere than the index says, or not in the index;
/// another total size than the index says. Each is named.
pub fn open(path: &Path) -> Result<SafetensorsFile> {
    let name = format!("`{}`", path.display());
    let mut text = String::new();
    let file = File::open(path).on("open", path)?;
    let length = file.take(MAX_INDEX + 1).read_to_string(&mut text).on("read", path)?;
    if length as u64 > MAX_INDEX {
        return Err(Error::stage(format!("{name} is longer than {MAX_INDEX} bytes, which no index is")));
    }
    let index = parsed(&text, &name)?;
    let place: HashMap<&str, &str> = index.weight_map.0.iter().map(|(t, s)| (t.as_str(), s.as_str())).collect();
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut tensors, mut metadata) = (vec![], BTreeMap::new());
    for shard in shards(&text, &name)? {
        let opened = open_shard(&folder.join(&shard), &shard, &name)?;
        for tensor in opened.tensors.tensors() {
            match place.get(tensor.name.as_str()) {
                Some(said) if *said == shard => tensors.push(tensor.clone()),
                Some(said) => {
                    let tensor = &tensor.name;
                    return Err(Error::stage(format!("tensor `{tensor}` is in `{shard}`, {name} says `{said}`")));
                }
                None => {
                    let tensor = &tensor.name;
                    return Err(Error::stage(format!("tensor `{tensor}` of `{shard}` is not in {name}")));
                }
            }
        }
        metadata.extend(opened.metadata);
    }
    let tensors = StateDict::new(tensors)?;
    if let Some((tensor, shard)) = index.weight_map.0.iter().find(|(tensor, _)| tensors.get(tensor).is_none()) {
        return Err(Error::stage(format!("tensor `{tensor}` is not in `{shard}`, where {name} says that it is")));
    }
    check_size(&index, tensors.bytes(), &name)?;
    Ok(SafetensorsFile { tensors, metadata })
}

fn open_shard(path: &Path, shard: &str, name: &str) -> Result<SafetensorsFile> {
    match path.try_exists() {
        Ok(true) => safetensors_out::open(path),
        _ => Err(Error::stage(format!("shard `{shard}` of {name} is missing"))
            .hint("every file that the index names must lie beside it")),
    }
}

fn check_size(index: &Index, found: u64, name: &str) -> Result<()> {
    let said = index.metadata.get("total_size");
    let said = said.and_then(|size| size.as_u64().or_else(|| size.as_f64().map(|size| size as u64)));
    match said {
        Some(said) if said != found => {
            Err(Error::stage(format!("{name} says `total_size` {said}, its shards hold {found} bytes of tensors")))
        }
        _ => Ok(()),
    }
}
