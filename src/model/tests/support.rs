//! Fixtures, arrays of `.npz` files, hand-made torch files.

use crate::core::error::Result;
use crate::model::checkpoint::zip::Archive;
use crate::model::checkpoint::{Checkpoint, Scalar, Settings, WeightsChoice};
use crate::model::tensor::StateDict;
use crate::model::tinydit::Config;
use std::path::PathBuf;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// The EMA weights of the trained fixture, and their configuration.
pub fn trained() -> (StateDict, Config) {
    let checkpoint = open("tiny_trained_trainer.pt");
    let dict = checkpoint.select(WeightsChoice::Ema).unwrap().clone();
    let config = Config::infer(&dict, &checkpoint.config).unwrap();
    (dict, config)
}

/// The v1 fixture's settings, for files that hold none.
pub fn v1_settings() -> Settings {
    [("image_size", 32), ("num_heads", 3)].into_iter().map(|(k, v)| (k.to_owned(), Scalar::Int(v))).collect()
}

/// The bytes after the header of an array of an `.npz` file.
fn npy(file: &str, name: &str) -> Vec<u8> {
    let archive = Archive::open(&fixture(file)).unwrap();
    let entry = archive.entries.iter().find(|e| e.name == format!("{name}.npy")).unwrap().clone();
    let bytes = archive.read(&entry, 1 << 30).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].to_vec()
}

pub fn npy_f32(file: &str, name: &str) -> Vec<f32> {
    npy(file, name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub fn npy_i64(file: &str, name: &str) -> Vec<i64> {
    npy(file, name).as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

pub fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A zip archive of entries (name, method, bytes, claimed size), as `torch.save` lays them out.
pub fn zip_of(entries: &[(&str, u16, &[u8], u32)]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, method, bytes, claimed) in entries {
        let at = out.len() as u32;
        let sizes = [(bytes.len() as u32).to_le_bytes(), claimed.to_le_bytes()].concat();
        let common = [&[0; 2][..], &method.to_le_bytes(), &[0; 8], &sizes, &(name.len() as u16).to_le_bytes(), &[0; 2]];
        let common = common.concat();
        out.extend([b"PK\x03\x04", &[20, 0][..], &common, name.as_bytes(), bytes].concat());
        let tail = [&[0; 10][..], &at.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02", &[20, 0, 20, 0][..], &common, &tail].concat());
    }
    let (count, at) = ((entries.len() as u16).to_le_bytes(), (out.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &at, &[0; 2]].concat());
    out
}

/// The message of the error of opening these bytes as a checkpoint.
pub fn refused(bytes: &[u8]) -> String {
    try_open(bytes).expect_err("it should be refused").to_string()
}

pub fn try_open(bytes: &[u8]) -> Result<Checkpoint> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Checkpoint::open(file.path())
}

/// Pickle opcodes: a str.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}
/// An int of 32 bits.
pub fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat());
    b"}(".iter().copied().chain(items).chain(*b"u").collect()
}
pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", items.concat().as_slice(), b"e"].concat()
}
fn tuple(items: &[i32]) -> Vec<u8> {
    [b"(", items.iter().flat_map(|n| int(*n)).collect::<Vec<_>>().as_slice(), b"t"].concat()
}
/// `_rebuild_tensor_v2` of storage `key` of `count` elements.
pub fn tensor_at(class: &str, key: &str, count: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    let storage =
        [b"(".to_vec(), text("storage"), class.into_bytes(), text(key), text("cpu"), int(count), b"tQ".to_vec()];
    let rest = [int(offset), tuple(shape), tuple(strides), b"\x89ccollections\nOrderedDict\n)RtR".to_vec()].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), &storage.concat(), &rest].concat()
}
/// A tensor of two floats in storage `0`.
pub fn tensor() -> Vec<u8> {
    tensor_at("FloatStorage", "0", 2, 0, &[2], &[1])
}
/// A zip file of this object, with its storages.
pub fn saved_with(root: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let pickle = [b"\x80\x02", root, b"."].concat();
    let names: Vec<_> = storages.iter().map(|(key, _)| format!("m/data/{key}")).collect();
    let mut entries = vec![("m/data.pkl", 0, pickle.as_slice(), pickle.len() as u32)];
    entries.extend(names.iter().zip(storages).map(|(name, (_, data))| (name.as_str(), 0, *data, data.len() as u32)));
    zip_of(&entries)
}
/// A zip file of this object; storage `0` holds 1 and 2.
pub fn saved(root: Vec<u8>) -> Vec<u8> {
    saved_with(&root, &[("0", &[1f32, 2.0].map(f32::to_le_bytes).concat())])
}
