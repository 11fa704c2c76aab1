//! fp16 and int8 graphs, and external data: what they cost, measured against torch's numbers and the plain forwards.

use super::support::*;
use crate::model::architecture::Architecture;
use crate::model::checkpoint::{Settings, WeightsChoice};
use crate::model::onnx::emit::{EmitOptions, Guidance};
use crate::model::onnx::graph::data_path;
use crate::model::onnx::import::OnnxFile;
use crate::model::onnx::precision::Precision;
use crate::model::onnx::verify::{Verified, verify};
use crate::model::onnx::{emit, resnet};
use crate::model::tensor::StateDict;
use std::path::Path;

/// The two networks of the fixtures.
fn networks() -> [(StateDict, Architecture); 2] {
    let (generator, config) = trained();
    let classifier = open("tiny_classifier_trainer.pt").select(WeightsChoice::Raw).unwrap().clone();
    let architecture = Architecture::infer(&classifier, &Settings::new()).unwrap().unwrap();
    [(generator, Architecture::TinyDit(config)), (classifier, architecture)]
}

fn emitted(path: &Path, dict: &StateDict, architecture: &Architecture, options: &EmitOptions) -> u64 {
    let emitted = match architecture {
        Architecture::TinyDit(config) => emit::emit(path, dict, config, options),
        Architecture::ResNet18(config) => resnet::emit(path, dict, config, options),
    };
    emitted.unwrap().bytes
}

fn measured(dict: &StateDict, architecture: &Architecture, options: &EmitOptions) -> (Verified, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let bytes = emitted(&path, dict, architecture, options);
    (verify(&path, dict, architecture, options.guidance).unwrap(), bytes)
}

#[test]
fn each_precision_costs_what_it_may_and_saves_what_it_should() {
    for (dict, architecture) in networks() {
        let mut sizes = vec![];
        for (precision, most, relative) in
            [(Precision::Fp32, 1e-5, 1e-5), (Precision::Fp16, 5e-3, 2e-3), (Precision::Int8, 0.1, 3e-2)]
        {
            let (found, bytes) =
                measured(&dict, &architecture, &EmitOptions { precision, opset: 17, ..Default::default() });
            println!("{} {}: {found:?} {bytes}", architecture.name(), precision.name());
            assert!(found.max_abs_diff < most && found.relative_l2 < relative, "{} {found:?}", precision.name());
            assert!(precision == Precision::Fp32 || found.relative_l2 > 1e-6, "nothing was rounded: {found:?}");
            sizes.push(bytes as f64);
        }
        assert!(sizes[1] < 0.62 * sizes[0] && sizes[2] < 0.5 * sizes[0], "{sizes:?}");
    }
}

#[test]
fn baked_guidance_works_in_every_precision() {
    let [(dict, architecture), _] = networks();
    for (precision, most) in [(Precision::Fp16, 5e-3), (Precision::Int8, 0.15)] {
        let options = EmitOptions { precision, guidance: Guidance::Baked(1.5), ..Default::default() };
        let (found, _) = measured(&dict, &architecture, &options);
        assert!(found.max_abs_diff < most, "{} {found:?}", precision.name());
    }
}

#[test]
fn the_file_says_its_precision_and_keeps_its_signature() {
    let folder = tempfile::tempdir().unwrap();
    for (dict, architecture) in networks() {
        let mut signatures = vec![];
        for name in Precision::NAMES {
            let path = folder.path().join(format!("{}-{name}.onnx", architecture.name()));
            let options = EmitOptions { precision: Precision::from_name(name).unwrap(), ..Default::default() };
            emitted(&path, &dict, &architecture, &options);
            let first = std::fs::read(&path).unwrap();
            emitted(&path, &dict, &architecture, &options);
            assert!(first == std::fs::read(&path).unwrap(), "the same weights give the same bytes");
            let info = OnnxFile::open(&path).unwrap().info().unwrap();
            assert_eq!(info.metadata["hfbuild.precision"], *name);
            assert_eq!(info.metadata["hfbuild.network"], architecture.name());
            signatures.push((info.inputs, info.outputs));
        }
        assert!(signatures.iter().all(|other| *other == signatures[0]));
    }
}

#[test]
fn weights_beside_the_model_are_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    for (dict, architecture) in networks() {
        for precision in [Precision::Fp32, Precision::Int8] {
            let path = folder.path().join("model.onnx");
            let options = EmitOptions { precision, external_data: true, ..Default::default() };
            let bytes = emitted(&path, &dict, &architecture, &options);
            let size = |path: &Path| std::fs::metadata(path).unwrap().len();
            assert_eq!(bytes, size(&path) + size(&data_path(&path)));
            assert!(size(&path) < 80_000, "the model holds {} bytes", size(&path));
            let file = OnnxFile::open(&path).unwrap();
            let info = file.info().unwrap();
            let external: Vec<_> = info.external.iter().map(|f| (f.location.as_str(), f.bytes)).collect();
            assert_eq!(external, [("model.onnx.data", Some(size(&data_path(&path))))]);
            let apart = verify(&path, &dict, &architecture, Guidance::External).unwrap();
            let whole = measured(&dict, &architecture, &EmitOptions { external_data: false, ..options }).0;
            assert_eq!(apart, whole);
            if precision == Precision::Fp32 {
                let matched = file.compare(&dict).unwrap();
                assert!(matched.differing.is_empty());
                assert!(matched.absent.iter().all(|name| name.ends_with("num_batches_tracked")));
            }
            std::fs::remove_file(data_path(&path)).unwrap();
            assert!(
                file.require_external().unwrap_err().message().contains("needs the external data `model.onnx.data`")
            );
        }
    }
}
