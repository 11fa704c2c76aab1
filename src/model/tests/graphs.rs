//! The plain forward, emitted graphs, the runtime: all against torch's numbers.

use super::support::*;
use crate::model::cast::Cast;
use crate::model::network::Network;
use crate::model::noise::normals;
use crate::model::onnx::emit::{EmitOptions, Guidance, emit};
use crate::model::onnx::import::OnnxFile;
use crate::model::onnx::precision::Precision;
use crate::model::runtime::{Data, Input, Rten, Runtime, Session};
use crate::model::sample::{SampleSpec, sample, session_velocity, to_rgb8};
use crate::model::tensor::{StateDict, TensorEntry};
use crate::model::tinydit::Config;
use std::path::Path;

const REFERENCE: &str = "tiny_trained_reference.npz";
const TOLERANCE: f32 = 1e-5;

struct Reference {
    noise: Vec<f32>,
    time: Vec<f32>,
    labels: Vec<i64>,
}

fn reference() -> Reference {
    Reference {
        noise: npy_f32(REFERENCE, "noise"),
        time: npy_f32(REFERENCE, "timestep"),
        labels: npy_i64(REFERENCE, "breed"),
    }
}

fn emitted(folder: &Path, dict: &StateDict, config: &Config, opset: i64, guidance: Guidance) -> std::path::PathBuf {
    let path = folder.join(format!("{}-{opset}-{guidance:?}.onnx", config.layout.name()));
    emit(&path, dict, config, &EmitOptions { opset, guidance, ..Default::default() }).unwrap();
    path
}

fn run(session: &mut dyn Session, config: &Config, r: &Reference) -> Vec<f32> {
    let shape = [config.channels, config.image_size, config.image_size];
    session_velocity(session, shape)(&r.noise, &r.time, &r.labels).unwrap()
}

#[test]
fn plain_forward_agrees_with_torch() {
    let (dict, config) = trained();
    let r = reference();
    let velocity = Network::load(&dict, &config).unwrap().forward(&r.noise, &r.time, &r.labels).unwrap();
    let difference = max_abs_diff(&velocity, &npy_f32(REFERENCE, "velocity"));
    assert!(difference < TOLERANCE, "{difference}");
}

#[test]
fn emitted_graphs_agree_with_torch_at_every_opset() {
    let (dict, config) = trained();
    let (r, folder) = (reference(), tempfile::tempdir().unwrap());
    for opset in 17..=21 {
        for (guidance, expected) in [(Guidance::External, "velocity"), (Guidance::Baked(1.5), "velocity_cfg15")] {
            let path = emitted(folder.path(), &dict, &config, opset, guidance);
            let mut session = Rten::default().open(&path).unwrap();
            let difference = max_abs_diff(&run(&mut *session, &config, &r), &npy_f32(REFERENCE, expected));
            assert!(difference < TOLERANCE, "opset {opset} {guidance:?}: {difference}");
        }
    }
}

#[test]
fn torchs_own_exports_run_too() {
    let (_, config) = trained();
    for (file, expected) in [("tiny_trained_velocity.onnx", "velocity"), ("tiny_trained_cfg.onnx", "velocity_cfg15")] {
        let mut session = Rten { threads: Some(1) }.open(&fixture(file)).unwrap();
        let difference = max_abs_diff(&run(&mut *session, &config, &reference()), &npy_f32(REFERENCE, expected));
        assert!(difference < TOLERANCE, "{file}: {difference}");
    }
}

/// The v1 fixture, and the same with larger random weights, so that every block counts.
fn v1() -> [StateDict; 2] {
    let dict = open("tiny_legacy_nonzip.pt").raw.unwrap();
    let random = dict.tensors().iter().enumerate().map(|(k, tensor)| {
        let values: Vec<f32> = normals(1, 2, k as u64, tensor.elements()).iter().map(|v| v * 0.1).collect();
        TensorEntry::of_f32(tensor.name.clone(), tensor.shape.clone(), &values).unwrap()
    });
    let random = StateDict::new(random.collect()).unwrap();
    [dict, random]
}

#[test]
fn v1_forward_agrees_with_its_graph() {
    let folder = tempfile::tempdir().unwrap();
    for dict in v1() {
        let config = Config::infer(&dict, &v1_settings()).unwrap();
        let network = Network::load(&dict, &config).unwrap();
        let noise = normals(0, 0, 0, 2 * config.picture_len());
        let r = Reference { noise, time: vec![0.25, 0.9], labels: vec![3, 12] };
        let path = emitted(folder.path(), &dict, &config, 18, Guidance::External);
        let mut session = Rten::default().open(&path).unwrap();
        let plain = network.forward(&r.noise, &r.time, &r.labels).unwrap();
        assert!(plain.iter().any(|v| v.abs() > 0.1));
        let difference = max_abs_diff(&run(&mut *session, &config, &r), &plain);
        assert!(difference < TOLERANCE, "{difference}");
    }
}

#[test]
fn emitted_bytes_are_the_same_twice_and_hold_the_weights() {
    let (dict, config) = trained();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let paths = folders.each_ref().map(|f| emitted(f.path(), &dict, &config, 18, Guidance::Baked(1.5)));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
    let file = OnnxFile::open(&paths[0]).unwrap();
    let info = file.info().unwrap();
    assert_eq!((info.opset, info.ir_version, info.producer.as_str()), (18, 8, "hfbuild"));
    let ports: Vec<String> = info.inputs.iter().chain(&info.outputs).map(ToString::to_string).collect();
    let picture = "F32 [batch_size, 3, 32, 32]";
    let expected = [format!("noise {picture}"), "timestep F32 [batch_size]".into(), "breed I64 [batch_size]".into()];
    assert_eq!(ports[..3], expected);
    assert_eq!(ports[3], format!("velocity {picture}"));
    assert_eq!(info.metadata["hfbuild.guidance"], "baked:1.5");
    assert_eq!(info.metadata["hfbuild.null_label"], "13");
    let matched = file.compare(&dict).unwrap();
    assert_eq!((matched.equal, matched.differing.len(), matched.absent.len()), (dict.len(), 0, 0));
    let raw = open("tiny_trained_trainer.pt").raw.unwrap();
    let against_raw = file.compare(&raw).unwrap();
    assert!(against_raw.differing.len() > 30 && against_raw.absent.is_empty());
    file.require_external().unwrap();
}

#[test]
fn weights_in_another_precision_are_those_of_the_graph_after_the_cast() {
    let (dict, config) = trained();
    let folder = tempfile::tempdir().unwrap();
    let cast = |word: &str| {
        let entries = dict.tensors().iter().map(|tensor| {
            let (mut cast, mut out) = (Cast::to(word).unwrap(), vec![]);
            cast.chunk(tensor, 0, &tensor.bytes().unwrap(), &mut out).unwrap();
            TensorEntry::in_memory(tensor.name.clone(), cast.dtype(tensor.dtype), tensor.shape.clone(), out).unwrap()
        });
        StateDict::new(entries.collect()).unwrap()
    };
    for word in ["fp16", "bf16"] {
        // a checkpoint in half precision, in an f32 graph of it: exporters write it so
        let half = cast(word);
        let path = emitted(folder.path(), &half, &config, 18, Guidance::External);
        let file = OnnxFile::open(&path).unwrap();
        let same = file.compare(&half).unwrap();
        assert_eq!((same.equal, same.differing.len(), same.absent.len()), (dict.len(), 0, 0), "{word}");
        // the full-precision weights are not those of that graph
        let full = file.compare(&dict).unwrap();
        assert!(full.differing.len() > 30, "{word}: {full:?}");
    }
    // and an f16 graph holds the f32 weights, rounded
    let options = EmitOptions { precision: Precision::Fp16, ..Default::default() };
    let path = folder.path().join("half.onnx");
    emit(&path, &dict, &config, &options).unwrap();
    let same = OnnxFile::open(&path).unwrap().compare(&dict).unwrap();
    assert_eq!((same.equal, same.differing.len(), same.absent.len()), (dict.len(), 0, 0));
    let other = OnnxFile::open(&path).unwrap().compare(&cast("bf16")).unwrap();
    assert!(other.differing.len() > 30, "{other:?}");
}

#[test]
fn what_is_no_graph_is_refused() {
    let error = OnnxFile::open(&fixture("tiny_trained.safetensors")).err().unwrap();
    assert!(error.message().contains("it looks like a safetensors file"), "{error}");
    let torch = OnnxFile::open(&fixture("tiny_trained_cfg.onnx")).unwrap().info().unwrap();
    assert_eq!((torch.opset, torch.inputs.len()), (17, 3));
    assert!(Rten::default().open(&fixture("tiny_bare_state_dict.pt")).is_err());
    let (dict, config) = trained();
    let folder = tempfile::tempdir().unwrap();
    let options = EmitOptions { opset: 16, ..Default::default() };
    assert!(emit(&folder.path().join("x.onnx"), &dict, &config, &options).is_err());
    let path = emitted(folder.path(), &dict, &config, 18, Guidance::External);
    let mut session = Rten::default().open(&path).unwrap();
    let absent =
        session.run(&[Input { name: "nose", shape: vec![1], data: Data::F32(&[0.0]) }], "velocity").unwrap_err();
    assert!(absent.message().contains("no input called `nose`"));
}

#[test]
fn rten_is_the_version_of_the_lock_file() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let version = Rten::default().version();
    assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{version}\"")));
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let (dict, config) = trained();
    let network = Network::load(&dict, &config).unwrap();
    let shape = [3, 32, 32];
    let mut velocity = |x: &[f32], t: &[f32], labels: &[i64]| network.forward(x, t, labels);
    let mut spec =
        SampleSpec { label: 3, null_label: 13, guidance: Some(1.5), steps: 5, seed: 7, first: 0, count: 5, shape };
    let mut steps = vec![];
    let mut note = |step| {
        steps.push(step);
        Ok(())
    };
    let together = to_rgb8(&sample(&mut velocity, &spec, &mut note).unwrap(), shape).unwrap();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    for k in [4u64, 0, 2] {
        (spec.first, spec.count) = (k, 1);
        let alone = to_rgb8(&sample(&mut velocity, &spec, &mut |_| Ok(())).unwrap(), shape).unwrap();
        assert_eq!(alone[0], together[k as usize], "picture {k}");
    }
}

#[test]
fn rtens_pictures_agree_within_one_level_across_batches() {
    let (dict, config) = trained();
    let (folder, shape) = (tempfile::tempdir().unwrap(), [3, 32, 32]);
    let path = emitted(folder.path(), &dict, &config, 18, Guidance::External);
    let spec =
        SampleSpec { label: 5, null_label: 13, guidance: Some(1.5), steps: 20, seed: 1, first: 0, count: 5, shape };
    let draw = |threads: usize, spec: &SampleSpec| {
        let mut session = Rten { threads: Some(threads) }.open(&path).unwrap();
        let values = sample(&mut session_velocity(&mut *session, shape), spec, &mut |_| Ok(())).unwrap();
        to_rgb8(&values, shape).unwrap()
    };
    let together = draw(2, &spec);
    assert_eq!(together, draw(2, &spec), "the same run gives the same pixels");
    for k in [0u64, 3] {
        let alone = draw(1, &SampleSpec { first: k, count: 1, ..spec.clone() });
        let pairs = alone[0].pixels.iter().zip(&together[k as usize].pixels);
        assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap() <= 1, "picture {k}");
    }
}

#[test]
fn samples_of_the_trained_model_are_no_noise() {
    let (dict, config) = trained();
    let folder = tempfile::tempdir().unwrap();
    let shape = [3, 32, 32];
    let spec =
        SampleSpec { label: 0, null_label: 13, guidance: Some(1.5), steps: 50, seed: 0, first: 0, count: 4, shape };
    let path = emitted(folder.path(), &dict, &config, 18, Guidance::External);
    let mut session = Rten::default().open(&path).unwrap();
    let external = sample(&mut session_velocity(&mut *session, shape), &spec, &mut |_| Ok(())).unwrap();
    let stats = crate::model::pictures::stats(&to_rgb8(&external, shape).unwrap()).unwrap();
    assert!(stats.neighbour_correlation.unwrap() > 0.6, "{stats:?}");
    let path = emitted(folder.path(), &dict, &config, 18, Guidance::Baked(1.5));
    let mut session = Rten::default().open(&path).unwrap();
    let spec = SampleSpec { guidance: None, ..spec };
    let baked = sample(&mut session_velocity(&mut *session, shape), &spec, &mut |_| Ok(())).unwrap();
    assert!(max_abs_diff(&external, &baked) < 1e-3);
}
