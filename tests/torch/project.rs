//! libtorch in a project: `verify = "torch"`, TorchScript beside an ONNX model, samples; and a worker that dies.

use super::{fixture, worker};
use crate::support::{Project, Run, native, run};
use hfbuild::model::sample::read_png;
use hfbuild::model::torch::TORCH;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HEAD: &str = "[project]
name = \"p\"
version = \"0.1.0\"
license = \"mit\"
[hub]
repo = \"me/it\"
endpoint = \"embedded\"
";

/// Publishes an artifact behind the gates.
fn published(artifact: &str) -> String {
    format!(
        "[artifact.publish]
kind = \"upload\"
after = [\"gates\"]
files = {{ \"model.onnx\" = \"{artifact}\" }}
"
    )
}

const GENERATOR: &str = "[artifact.checkpoint]
kind = \"checkpoint\"
path = \"model.pt\"
weights = \"ema\"
[artifact.weights]
kind = \"safetensors\"
from = \"checkpoint\"
";

/// A run with this worker.
fn with(project: &Project, worker: &Path, args: &[&str]) -> Run {
    run(project.command(args).env("HFBUILD_TORCH", worker))
}

fn built(project: &Project, args: &[&str]) -> Run {
    with(project, worker(), args)
}

fn generator(artifacts: &str) -> Project {
    let project = Project::with(&format!("{HEAD}{GENERATOR}{artifacts}"));
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    project
}

#[test]
fn a_graph_is_verified_with_libtorch_and_its_facts_say_so() {
    let graph = |verify: &str| {
        format!(
            "[artifact.graph]
kind = \"onnx\"
from = \"weights\"
guidance = {{ baked = 1.5 }}
{verify}
[artifact.gates]
kind = \"check\"
require = [
    \"graph.max_abs_diff > 0.0 && graph.max_abs_diff <= 1e-5 && graph.relative_l2 <= 1e-5\",
    \"graph.reference == 'torch {TORCH}'\",
]
{}",
            published("graph")
        )
    };
    let project = generator(&graph("verify = \"torch\""));
    built(&project, &[]).code(0).says("2 gates passed");
    built(&project, &["plan", "--check"]).code(0);
    // the bound with it is another action, and the same answer
    project.write("publish.toml", &format!("{HEAD}{GENERATOR}{}", graph("verify = { atol = 1e-5, with = \"torch\" }")));
    built(&project, &[]).code(0).says("2 gates passed");
    // the plain forward is another reference, and no fact says that it was libtorch
    project.write("publish.toml", &format!("{HEAD}{GENERATOR}{}", graph("verify = \"plain\"")));
    built(&project, &["explain", "graph"]).code(0).prints("torch");
    built(&project, &[]).code(1).says("graph.reference");
    project
        .write("publish.toml", &format!("{HEAD}{GENERATOR}{}", graph("verify = { atol = 1e-12, with = \"torch\" }")));
    built(&project, &["build", "graph"]).code(1).says(&format!("at most, by torch {TORCH} on the CPU"));
}

#[test]
fn a_classifier_is_verified_with_libtorch() {
    let artifacts = "[artifact.graph]\nkind = \"onnx\"\nfrom = \"weights\"\nverify = \"torch\"\n";
    let project = Project::with(&format!("{HEAD}{}{artifacts}", GENERATOR.replace("\"ema\"", "\"raw\"")));
    project.copy(&fixture("tiny_classifier_trainer.pt"), "model.pt");
    built(&project, &[]).code(0);
    let facts = built(&project, &["explain", "graph"]).code(0);
    assert!(facts.stdout.contains(&format!("torch {TORCH}")), "{}", facts.stdout);
}

#[test]
fn an_imported_model_is_held_against_a_torchscript_module_of_a_network_that_hfbuild_does_not_know() {
    let manifest = |module: &str| {
        format!(
            "{HEAD}[artifact.model]
kind = \"onnx_file\"
path = \"small.onnx\"
torchscript = \"{module}\"
verify = {{ atol = 1e-5 }}
[artifact.gates]
kind = \"check\"
require = [\"model.max_abs_diff <= 1e-6 && model.reference == 'torch {TORCH}, TorchScript'\"]
{}",
            published("model")
        )
    };
    let project = Project::with(&manifest("small_script.pt"));
    for file in ["small.onnx", "small_script.pt", "small_wrong_script.pt"] {
        project.copy(&fixture(file), file);
    }
    built(&project, &[]).code(0).says("1 gate passed");
    // one weight of it was changed
    project.write("publish.toml", &manifest("small_wrong_script.pt"));
    built(&project, &[]).code(1).says("the graph differs from the network by");
    // a module that takes other inputs
    project.copy(&fixture("tiny_trained_script.pt"), "other.pt");
    project.write("publish.toml", &manifest("other.pt"));
    built(&project, &[]).code(1).says("the TorchScript module fails");
}

#[test]
fn torchs_own_export_is_held_against_the_weights_and_against_the_script() {
    let artifacts = "[artifact.by_weights]
kind = \"onnx_file\"
path = \"velocity.onnx\"
weights = \"weights\"
verify = \"torch\"
[artifact.by_script]
kind = \"onnx_file\"
path = \"velocity.onnx\"
torchscript = \"script.pt\"
verify = \"torch\"
[artifact.gates]
kind = \"check\"
require = [\"by_weights.max_abs_diff <= 1e-5 && by_script.max_abs_diff <= 1e-4 && by_weights.network == 'tinydit-v2'\"]
";
    let project = generator(&format!("{artifacts}{}", published("by_script")));
    project.copy(&fixture("tiny_trained_velocity.onnx"), "velocity.onnx");
    project.copy(&fixture("tiny_trained_script.pt"), "script.pt");
    built(&project, &[]).code(0).says("1 gate passed");
}

const SAMPLES: &str = "[artifact.graph]
kind = \"onnx\"
from = \"weights\"
[artifact.embedded]
kind = \"samples\"
from = \"graph\"
each = [\"Cat\", \"Tiger\"]
count = 3
steps = 10
guidance = 1.5
seed = 0
runtime = \"rten\"
[artifact.libtorch]
kind = \"samples\"
from = \"weights\"
each = [\"Cat\", \"Tiger\"]
count = 3
steps = 10
guidance = 1.5
seed = 0
runtime = \"torch\"
device = \"cpu\"
[artifact.a]
kind = \"upload\"
repo = \"me/a\"
files = { \"samples/\" = \"embedded\" }
[artifact.b]
kind = \"upload\"
repo = \"me/b\"
files = { \"samples/\" = \"libtorch\" }
";

#[test]
fn samples_of_libtorch_are_those_of_the_embedded_runtime_within_one_of_255() {
    let project = generator(SAMPLES);
    built(&project, &[]).code(0);
    let (embedded, libtorch) = (project.tree("dist/a/samples"), project.tree("dist/b/samples"));
    assert_eq!(embedded.keys().collect::<Vec<_>>(), libtorch.keys().collect::<Vec<_>>());
    assert_eq!(embedded.len(), 8, "three pictures and a grid of each label");
    for (name, bytes) in &embedded {
        let [a, b] = [bytes, &libtorch[name]].map(|bytes| read_png(bytes).expect("a picture"));
        let farthest = a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(farthest <= Some(1), "{name}: {farthest:?}");
    }
    built(&project, &["explain", "libtorch"]).code(0).prints(&format!("torch {TORCH} (cpu)"));
}

#[test]
fn a_worker_that_sees_no_device_is_refused_where_cuda_is_named_before_anything_runs() {
    let project = generator(&SAMPLES[..SAMPLES.find("[artifact.a]").expect("the uploads")]);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("device = \"cpu\"", "device = \"cuda\""));
    // a driver that names a device, which no CUDA can use
    let driver = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(native("nvml"), driver.path().join("libnvidia-ml.so.1")).expect("a link");
    let mut command = project.command(&["build", "libtorch"]);
    command.env("HFBUILD_TORCH", worker()).env("LD_LIBRARY_PATH", driver.path());
    let refused = run(command.env("CUDA_VISIBLE_DEVICES", "GPU-7e57")).code(1);
    let refused = refused.says("artifact `libtorch`: `device = \"cuda\"` cannot be had here: ");
    refused.says("hfbuild-torch` runs on the CPU alone: ").says("device = \"cuda\"\n").never_says("Running");
    assert!(project.tree("cache/blobs").is_empty());
}

/// A worker whose input ends after so many bytes, and that is killed then.
fn dying(project: &Project, bytes: usize) -> std::path::PathBuf {
    let script = format!("#!/bin/sh\ndd bs=1 count={bytes} 2>/dev/null | '{}'\nkill -9 $$\n", worker().display());
    project.write("dying", &script);
    let path = project.path("dying");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
    path
}

#[test]
fn a_worker_that_dies_in_the_middle_is_an_error_and_nothing_of_it_is_kept() {
    let project = generator(&SAMPLES[..SAMPLES.find("[artifact.a]").expect("the uploads")]);
    // past the greeting and the weights, in the middle of a step
    let worker = dying(&project, 100_000);
    let run = with(&project, &worker, &["build", "libtorch"]).code(1);
    run.says("`hfbuild-torch` was ended by signal 9 before it answered");
    built(&project, &["plan", "--check", "libtorch"]).code(3);
    built(&project, &["build", "libtorch"]).code(0);
    built(&project, &["plan", "--check", "libtorch"]).code(0);
}
