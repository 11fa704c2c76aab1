//! Safetensors behind an index.

use super::support::*;
use crate::model::checkpoint::{Checkpoint, Container};
use crate::model::inspect::inspect;
use crate::model::safetensors_out;
use crate::model::table::TensorTable;
use crate::model::tensor::{StateDict, TensorEntry};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Two shards and an index that says this.
fn sharded(folder: &Path, map: &[(&str, &str)], total: u64) -> PathBuf {
    for (file, names) in [("a.safetensors", &["x", "y"][..]), ("b.safetensors", &["z"])] {
        let tensors = names.iter().map(|name| TensorEntry::of_f32(*name, vec![2], &[1.0, 2.0]).unwrap()).collect();
        let dict = StateDict::new(tensors).unwrap();
        safetensors_out::write(&folder.join(file), &dict, &BTreeMap::new()).unwrap();
    }
    let rows: Vec<_> = map.iter().map(|(name, file)| format!("\"{name}\": \"{file}\"")).collect();
    let text = format!("{{\"metadata\": {{\"total_size\": {total}}}, \"weight_map\": {{{}}}}}", rows.join(", "));
    let index = folder.join("model.safetensors.index.json");
    std::fs::write(&index, text).unwrap();
    index
}

const MAP: [(&str, &str); 3] = [("x", "a.safetensors"), ("y", "a.safetensors"), ("z", "b.safetensors")];

#[test]
fn shards_are_read_as_one_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let index = sharded(folder.path(), &MAP, 24);
    let checkpoint = Checkpoint::open(&index).unwrap();
    let raw = checkpoint.raw.unwrap();
    assert_eq!((checkpoint.container, raw.len(), raw.parameters()), (Container::SafetensorsIndex, 3, 6));
    assert_eq!(TensorTable::of(&raw).unwrap().tensors.len(), 3);
    assert_eq!(inspect(&index).unwrap().get("tensors").unwrap(), 3);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let with =
        |map: &[(&str, &str)], total| Checkpoint::open(&sharded(folder.path(), map, total)).unwrap_err().to_string();
    let swap = |at: usize, row| {
        let mut map = MAP;
        map[at] = row;
        map
    };
    assert!(with(&MAP, 25).contains("says `total_size` 25, its shards hold 24"));
    assert!(with(&MAP[..2], 24).contains("shards hold 16"));
    assert!(with(&swap(2, ("z", "c.safetensors")), 24).contains("shard `c.safetensors`"));
    assert!(with(&swap(1, ("y", "b.safetensors")), 24).contains("tensor `y` is in `a.safetensors`"));
    assert!(with(&swap(1, ("v", "a.safetensors")), 24).contains("tensor `y` of `a.safetensors` is not in"));
    let more = [&MAP[..], &[("v", "a.safetensors")]].concat();
    assert!(with(&more, 24).contains("tensor `v` is not in `a.safetensors`"));
    assert!(with(&[&MAP[..], &MAP[..1]].concat(), 24).contains("`x` comes twice"));
    assert!(with(&swap(0, ("x", "../a.safetensors")), 24).contains("no file beside it"));
    assert!(with(&[], 24).contains("names no tensors"));
    assert!(refused(b"{\"a\": 1}").contains("no index"));
}
