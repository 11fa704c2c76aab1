//! The worker's forwards: one file's numbers by libtorch's C++, by Python's torch, and by hfbuild's own arithmetic.

use super::{fixture, opened, started, worker};
use hfbuild::core::runtime::DeviceKind;
use hfbuild::model::architecture::Architecture;
use hfbuild::model::checkpoint::zip::Archive;
use hfbuild::model::checkpoint::{Checkpoint, Scalar, Settings, WeightsChoice};
use hfbuild::model::network::Network;
use hfbuild::model::noise::normals;
use hfbuild::model::onnx::emit::{EmitOptions, emit};
use hfbuild::model::resnet::ResNet;
use hfbuild::model::runtime::{Data, Input, Rten, Runtime, Session};
use hfbuild::model::safetensors_out::write;
use hfbuild::model::tensor::{StateDict, TensorEntry};
use hfbuild::model::tinydit;
use hfbuild::model::torch::{Subject, TORCH};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const TOLERANCE: f32 = 1e-5;

/// The bytes after the header of an array of an `.npz` file.
fn npy(file: &str, name: &str) -> Vec<u8> {
    let archive = Archive::open(&fixture(file)).expect("the archive");
    let entry = archive.entries.iter().find(|e| e.name == format!("{name}.npy")).expect("the array").clone();
    let bytes = archive.read(&entry, 1 << 30).expect("its bytes");
    bytes[10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))..].to_vec()
}

fn npy_f32(file: &str, name: &str) -> Vec<f32> {
    npy(file, name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn npy_i64(file: &str, name: &str) -> Vec<i64> {
    npy(file, name).as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

#[track_caller]
fn agree(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    assert!(want.iter().any(|v| v.abs() > 0.05), "the reference says nothing");
    let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < TOLERANCE, "{difference:e}");
}

fn network(file: &str, choice: WeightsChoice, settings: Option<Settings>) -> (StateDict, Architecture) {
    let checkpoint = Checkpoint::open(&fixture(file)).expect("the fixture");
    let dict = checkpoint.select(choice).expect("its weights").clone();
    let settings = settings.unwrap_or(checkpoint.config);
    let architecture = Architecture::infer(&dict, &settings).expect("it fits").expect("a known network");
    (dict, architecture)
}

/// Weights as the kind `safetensors` writes them, for the worker.
fn written(folder: &Path, dict: &StateDict, architecture: &Architecture) -> Subject {
    let path = folder.join("model.safetensors");
    write(&path, dict, &Default::default()).expect("the weights");
    Subject::Weights { files: vec![("model.safetensors".into(), path)], architecture: architecture.clone() }
}

/// A generator's inputs.
fn asked<'a>(config: &tinydit::Config, noise: &'a [f32], time: &'a [f32], labels: &'a [i64]) -> [Input<'a>; 3] {
    let side = config.image_size;
    [
        Input { name: "noise", shape: vec![time.len(), config.channels, side, side], data: Data::F32(noise) },
        Input { name: "timestep", shape: vec![time.len()], data: Data::F32(time) },
        Input { name: "breed", shape: vec![labels.len()], data: Data::I64(labels) },
    ]
}

struct Reference {
    noise: Vec<f32>,
    time: Vec<f32>,
    labels: Vec<i64>,
    velocity: Vec<f32>,
}

fn reference() -> Reference {
    let file = "tiny_trained_reference.npz";
    Reference {
        noise: npy_f32(file, "noise"),
        time: npy_f32(file, "timestep"),
        labels: npy_i64(file, "breed"),
        velocity: npy_f32(file, "velocity"),
    }
}

#[test]
fn the_worker_says_who_it_is_and_what_it_lacks() {
    let session = started();
    let hello = session.hello();
    assert_eq!(hello.torch, TORCH);
    assert!(hello.threads > 0);
    // a machine has devices or a reason why not, and the reason is the loader's or the driver's own
    assert_eq!(hello.cuda_devices == 0, hello.no_cuda.is_some(), "{hello:?}");
    println!("{hello:?}");
}

#[test]
fn tinydits_forward_agrees_with_torchs_own_numbers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (dict, architecture) = network("tiny_trained_trainer.pt", WeightsChoice::Ema, None);
    let Architecture::TinyDit(config) = &architecture else { panic!("no TinyDiT") };
    let r = reference();
    let mut session = opened(written(folder.path(), &dict, &architecture));
    let output = session.run(&asked(config, &r.noise, &r.time, &r.labels), "velocity").expect("its forward");
    assert_eq!(output.shape, [r.time.len(), config.channels, config.image_size, config.image_size]);
    agree(&output.values, &r.velocity);
    let used = session.used();
    assert_eq!((used.to_string(), used.device), (format!("torch {TORCH} (cpu)"), DeviceKind::Cpu));
}

#[test]
fn the_first_layout_agrees_with_the_plain_forward() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings: Settings = [("num_heads", 3), ("image_size", 32)].map(|(k, v)| (k.into(), Scalar::Int(v))).into();
    let (dict, architecture) = network("tiny_bare_state_dict.pt", WeightsChoice::Raw, Some(settings));
    let Architecture::TinyDit(config) = &architecture else { panic!("no TinyDiT") };
    assert_eq!(architecture.name(), "tinydit-v1");
    // larger random weights, so that every block counts
    let random = dict.tensors().iter().enumerate().map(|(k, tensor)| {
        let values: Vec<f32> = normals(1, 2, k as u64, tensor.elements()).iter().map(|v| v * 0.1).collect();
        TensorEntry::of_f32(tensor.name.clone(), tensor.shape.clone(), &values).expect("a tensor")
    });
    let dict = StateDict::new(random.collect()).expect("a state dict");
    let (noise, time, labels) = (normals(0, 0, 0, 2 * config.picture_len()), [0.25f32, 0.9], [3i64, 12]);
    let plain =
        Network::load(&dict, config).expect("the network").forward(&noise, &time, &labels).expect("its forward");
    let mut session = opened(written(folder.path(), &dict, &architecture));
    let output = session.run(&asked(config, &noise, &time, &labels), "velocity").expect("its forward");
    agree(&output.values, &plain);
}

#[test]
fn the_classifier_agrees_with_torchs_own_numbers_and_with_the_plain_forward_at_odd_sizes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (dict, architecture) = network("tiny_classifier_trainer.pt", WeightsChoice::Raw, None);
    let Architecture::ResNet18(config) = &architecture else { panic!("no ResNet-18") };
    let mut session = opened(written(folder.path(), &dict, &architecture));
    let file = "tiny_classifier_reference.npz";
    let pictures = npy_f32(file, "input");
    let input = Input { name: "input", shape: vec![2, 3, 64, 64], data: Data::F32(&pictures) };
    agree(&session.run(&[input], "output").expect("its forward").values, &npy_f32(file, "output"));
    let pictures = normals(0, 0, 0, 3 * 33 * 47);
    let plain = ResNet::load(&dict, config).expect("the network").forward(&pictures, 33, 47).expect("its forward");
    let input = Input { name: "input", shape: vec![1, 3, 33, 47], data: Data::F32(&pictures) };
    agree(&session.run(&[input], "output").expect("its forward").values, &plain);
}

#[test]
fn a_torchscript_module_of_python_runs_and_agrees() {
    let (_, architecture) = network("tiny_trained_trainer.pt", WeightsChoice::Ema, None);
    let Architecture::TinyDit(config) = &architecture else { panic!("no TinyDiT") };
    let r = reference();
    let mut session = opened(Subject::TorchScript { path: fixture("tiny_trained_script.pt") });
    let output = session.run(&asked(config, &r.noise, &r.time, &r.labels), "velocity").expect("its forward");
    agree(&output.values, &r.velocity);
}

#[test]
fn what_does_not_fit_is_an_error_and_the_worker_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (dict, architecture) = network("tiny_trained_trainer.pt", WeightsChoice::Ema, None);
    let Architecture::TinyDit(config) = &architecture else { panic!("no TinyDiT") };
    let r = reference();
    let mut session = started();
    let no_script = Subject::TorchScript { path: fixture("tiny_trained_ema_state_dict.pt") };
    let error = session.open(no_script, DeviceKind::Cpu, None).expect_err("a state dict is no TorchScript");
    assert!(error.message().contains("as TorchScript"), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("torch.jit.script")), "{error:?}");
    session.open(written(folder.path(), &dict, &architecture), DeviceKind::Cpu, None).expect("the network is loaded");
    let mut refused = |labels: &[i64], output: &str| {
        session.run(&asked(config, &r.noise, &r.time, labels), output).expect_err("it does not fit").to_string()
    };
    let beyond = vec![14; r.labels.len()];
    assert!(refused(&beyond, "velocity").contains("label 14 is outside 0..14"));
    assert!(refused(&r.labels[1..], "velocity").contains("do not fit"));
    assert!(refused(&r.labels, "noise").contains("no output called `noise`"));
    let output = session.run(&asked(config, &r.noise, &r.time, &r.labels), "velocity").expect("its forward");
    agree(&output.values, &r.velocity);
}

#[test]
fn a_worker_that_is_killed_is_told_as_such() {
    let mut session = opened(Subject::TorchScript { path: fixture("small_script.pt") });
    let process = nix::unistd::Pid::from_raw(session.process() as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    let input = Input { name: "picture", shape: vec![1, 4, 8, 8], data: Data::F32(&[0.0; 256]) };
    let error = session.run(&[input], "scores").expect_err("it is gone");
    assert!(error.message().contains("was ended by signal 9 before it answered"), "{error}");
}

#[test]
fn the_worker_is_no_program_for_people() {
    let output = Command::new(worker()).arg("--help").output().expect("it starts");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hfbuild, which starts it"));
    // and it ends when nobody asks any more
    let output = Command::new(worker()).stdin(std::process::Stdio::null()).output().expect("it starts");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
}

/// Run by hand, it prints how fast the worker is beside the embedded runtime, at the size of the published model.
#[test]
fn the_full_size_forward_agrees_with_the_embedded_runtime() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = tinydit::Config {
        layout: tinydit::NetworkLayout::V2,
        image_size: 128,
        patch_size: 16,
        channels: 3,
        num_classes: 13,
        embed_dim: 384,
        depth: 12,
        num_heads: 6,
        mlp_dim: 1536,
        frequency_dim: 256,
    };
    let tensors = config.expected().into_iter().enumerate().map(|(k, (name, shape))| {
        let values: Vec<f32> = normals(7, 0, k as u64, shape.iter().product()).iter().map(|v| v * 0.05).collect();
        TensorEntry::of_f32(name, shape, &values).expect("a tensor")
    });
    let dict = StateDict::new(tensors.collect()).expect("a state dict");
    let graph = folder.path().join("model.onnx");
    emit(&graph, &dict, &config, &EmitOptions::default()).expect("the graph");
    let mut rten = Rten::default().open(&graph).expect("it is loaded");
    let mut torch = opened(written(folder.path(), &dict, &Architecture::TinyDit(config.clone())));
    let (noise, time, labels) = (normals(0, 0, 0, 2 * config.picture_len()), [0.1f32, 0.9], [0i64, 12]);
    let timed = |session: &mut dyn Session, name: &str| {
        let mut best = f64::INFINITY;
        let mut last = vec![];
        for _ in 0..3 {
            let begun = Instant::now();
            last = session.run(&asked(&config, &noise, &time, &labels), "velocity").expect("its forward").values;
            best = best.min(begun.elapsed().as_secs_f64());
        }
        println!("{name}: {best:.3} s for a batch of 2, the best of 3");
        last
    };
    let want = timed(&mut *rten, "rten");
    let got = timed(&mut torch, "torch");
    let size = want.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let wrong = got.iter().zip(&want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    assert!(wrong / size < 1e-5, "{:e}", wrong / size);
}
