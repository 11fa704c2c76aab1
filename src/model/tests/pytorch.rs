//! The `.pt` that is written, read back by our own reader.

use super::support::*;
use crate::model::checkpoint::{Checkpoint, Layout, Scalar, WeightsChoice};
use crate::model::pytorch_out::{self, Saved};
use crate::model::table::TensorTable;
use crate::model::tensor::{DType, StateDict, TensorEntry};

fn write(saved: &Saved<'_>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let length = pytorch_out::write(file.path(), "model", saved).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes.len() as u64, length);
    bytes
}

fn plain(value: Scalar) -> Saved<'static> {
    Saved::Plain(value)
}

#[test]
fn a_written_checkpoint_is_read_back_with_every_tensor_and_value_and_has_the_same_bytes_twice() {
    let source = open("tiny_trained_trainer.pt");
    let (raw, ema) = (source.raw.as_ref().unwrap(), source.ema.as_ref().unwrap());
    let config = source.config.iter().map(|(key, value)| (key.clone(), plain(value.clone()))).collect();
    let saved = Saved::Dict(vec![
        ("model".into(), Saved::Tensors(raw)),
        ("ema_params".into(), Saved::Tensors(ema)),
        ("step".into(), plain(Scalar::Int(1 << 40))),
        ("epoch".into(), plain(Scalar::Int(-3))),
        ("loss".into(), plain(Scalar::Float(0.1))),
        ("config".into(), Saved::Dict(config)),
    ]);
    let bytes = write(&saved);
    assert!(bytes == write(&saved));
    let back = try_open(&bytes).unwrap();
    assert_eq!((back.layout, back.step, back.epoch), (Layout::Export, Some(1 << 40), Some(-3)));
    assert_eq!((back.loss, &back.config), (Some(0.1), &source.config));
    TensorTable::of(raw).unwrap().verify(back.select(WeightsChoice::Raw).unwrap()).unwrap();
    TensorTable::of(ema).unwrap().verify(back.select(WeightsChoice::Ema).unwrap()).unwrap();
}

#[test]
fn every_type_that_torch_has_a_storage_for_is_written_and_any_other_is_refused_by_name() {
    let kinds = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];
    let entry = |dtype: DType| {
        let bytes = (0..6 * dtype.size()).map(|k| (k % 2) as u8).collect();
        TensorEntry::in_memory(dtype.name(), dtype, vec![3, 1, 2], bytes).unwrap()
    };
    let mut tensors: Vec<_> = kinds.into_iter().map(entry).collect();
    tensors.push(TensorEntry::of_f32("scalar", vec![], &[1.5]).unwrap());
    let dict = StateDict::new(tensors).unwrap();
    let model = |dict| Saved::Dict(vec![("model".into(), Saved::Tensors(dict))]);
    let back = try_open(&write(&model(&dict))).unwrap();
    TensorTable::of(&dict).unwrap().verify(back.raw.as_ref().unwrap()).unwrap();

    let unsigned = StateDict::new(vec![entry(DType::U32)]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = pytorch_out::write(file.path(), "model", &model(&unsigned)).unwrap_err();
    assert_eq!(error.message(), "tensor `U32` is U32, which torch has no typed storage for");
}

#[test]
fn a_flipped_byte_in_the_written_file_does_not_pass_for_the_weights() {
    let source = open("tiny_trained_trainer.pt");
    let raw = source.raw.as_ref().unwrap();
    let mut bytes = write(&Saved::Dict(vec![("model".into(), Saved::Tensors(raw))]));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let same = Checkpoint::open(file.path()).and_then(|c| TensorTable::of(raw)?.verify(c.raw.as_ref().unwrap()));
    assert!(same.is_err());
}
