//! Safetensors behind an index.

use super::support::*;
use crate::core::digest::Digest;
use crate::model::cast::Cast;
use crate::model::checkpoint::{Checkpoint, Container};
use crate::model::inspect::inspect;
use crate::model::safetensors_out;
use crate::model::shards::{self, Wanted};
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

#[test]
fn files_digested_while_they_are_written_are_those_written_plainly_and_a_tensor_that_changed_is_refused() {
    let values: Vec<f32> = (0..700_000).map(|n| n as f32 / 64.0).collect();
    let of = |name: &str, values: &[f32]| TensorEntry::of_f32(name, vec![values.len()], values).unwrap();
    let dict = StateDict::new(vec![of("a", &values[1..]), of("b", &[]), of("c", &values[..3])]).unwrap();
    let source = tempfile::tempdir().unwrap();
    safetensors_out::write(&source.path().join("in"), &dict, &BTreeMap::new()).unwrap();
    let in_file = safetensors_out::read_state_dict(&source.path().join("in")).unwrap();
    let (table, metadata) = (TensorTable::of(&dict).unwrap(), BTreeMap::from([("format".into(), "pt".into())]));
    let plain = Wanted { metadata: &metadata, max: None, table: Some(&table), digest: false };
    for (dict, word, max) in [(&dict, "", None), (&in_file, "", Some(100)), (&in_file, "bf16", None)] {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut cast, mut same) = (Cast::to(word), Cast::to(word));
        let written = shards::write(one.path(), dict, Wanted { max, ..plain }, cast.as_mut()).unwrap();
        let digested = Wanted { max, digest: true, ..plain };
        let both = shards::write(two.path(), dict, digested, same.as_mut()).unwrap();
        assert_eq!(both.digests.len(), both.shards);
        for (name, digests) in &both.digests {
            let bytes = std::fs::read(two.path().join(name)).unwrap();
            assert!(bytes == std::fs::read(one.path().join(name)).unwrap(), "{name}");
            assert_eq!((digests.size, digests.digest), (bytes.len() as u64, Digest::of(&bytes)));
        }
        assert_eq!((written.bytes, written.dtypes), (both.bytes, both.dtypes));
        assert_eq!(cast.map(|cast| cast.max_abs_error), same.map(|cast| cast.max_abs_error));
        let mut wrong = table.clone();
        wrong.tensors[0].blake3 = wrong.tensors[2].blake3.clone();
        let refused = shards::write(two.path(), dict, Wanted { table: Some(&wrong), ..digested }, None).unwrap_err();
        assert!(refused.message().contains("tensor `a` differs from what the table says"), "{refused}");
    }
}
