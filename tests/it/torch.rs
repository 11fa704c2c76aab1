//! A stage that asks for libtorch, where there is no worker or a bad one. The worker itself is at work in tests/torch.

use crate::support::{Project, Run, root, run};
use std::os::unix::fs::PermissionsExt;

const MANIFEST: &str = "[project]
name = \"p\"
version = \"0.1.0\"
license = \"mit\"
[artifact.checkpoint]
kind = \"checkpoint\"
path = \"model.pt\"
weights = \"ema\"
[artifact.weights]
kind = \"safetensors\"
from = \"checkpoint\"
[artifact.graph]
kind = \"onnx\"
from = \"weights\"
verify = \"torch\"
";

fn project(manifest: &str) -> Project {
    let project = Project::with(manifest);
    project.copy(&root().join("tests/fixtures/tiny_trained_trainer.pt"), "model.pt");
    project
}

/// A run where this is the worker.
fn with(project: &Project, worker: &str, args: &[&str]) -> Run {
    run(project.command(args).env("HFBUILD_TORCH", project.path(worker)))
}

#[test]
fn a_stage_that_asks_for_libtorch_is_refused_before_anything_runs_where_there_is_no_worker() {
    let project = project(MANIFEST);
    // whether it will run is not known before the weights are: a plan warns, and a build that may need it begins nothing
    with(&project, "nowhere", &["plan"]).code(0).says("artifact `graph` asks for libtorch: HFBUILD_TORCH names");
    with(&project, "nowhere", &[]).code(2).says("artifact `graph` asks for libtorch: HFBUILD_TORCH names");
    assert!(project.tree("cache/blobs").is_empty());
    with(&project, "nowhere", &["build", "weights"]).code(0);
    let refused = with(&project, "nowhere", &["plan"]).code(2);
    let refused = refused.says("artifact `graph` asks for libtorch: HFBUILD_TORCH names").says("which is no program");
    refused.says("hint: let it name `hfbuild-torch`, or unset it").never_says("panicked");
    with(&project, "nowhere", &[]).code(2).says("asks for libtorch");
    // what asks for nothing needs none
    project.write("publish.toml", &MANIFEST.replace("\"torch\"", "\"plain\""));
    with(&project, "nowhere", &[]).code(0);
}

#[test]
fn a_worker_that_is_another_program_fails_the_stage_and_nothing_is_kept() {
    let project = project(MANIFEST);
    project.write("other", "#!/bin/sh\necho 'some other program'\ncat > /dev/null\n");
    std::fs::set_permissions(project.path("other"), PermissionsExt::from_mode(0o755)).expect("a program");
    with(&project, "other", &[]).code(1).says("`hfbuild-torch` does not speak as it should").says("some other prog");
    with(&project, "other", &["plan", "--check"]).code(3);
}

#[test]
fn what_libtorch_is_asked_for_must_make_sense() {
    let refused = |from: &str, to: &str, says: &str| {
        let manifest = MANIFEST.replace(from, to);
        assert_ne!(manifest, MANIFEST);
        project(&manifest).run(&["plan"]).code(2).says(says);
    };
    refused("\"torch\"", "\"libtorch\"", "`libtorch`");
    refused("\"torch\"", "{ with = \"torch\" }", "`atol`");
    let model =
        "[artifact.model]\nkind = \"onnx_file\"\npath = \"model.onnx\"\ntorchscript = \"script.pt\"\n[artifact.graph]";
    refused("[artifact.graph]", model, "`torchscript` is what `verify` compares with, which is not asked for");
    let model = model.replace("torchscript = \"script.pt\"", "verify = \"torch\"");
    refused("[artifact.graph]", &model, "`verify` compares with a forward of `weights`, which are not named");
    let samples = "[artifact.drawn]\nkind = \"samples\"\nfrom = \"graph\"\neach = [\"a\"]\ncount = 1\nsteps = 1\nseed = 0\nruntime = \"torch\"\n[artifact.graph]";
    refused("[artifact.graph]", samples, "`graph` is of kind `onnx`");
}
