//! A machine whose driver names a device, with runtimes that cannot use it: what is named is refused before anything runs,
//! what is left open runs on the CPU. The driver is `tests/native/nvml.c`; the library is the real one, built without CUDA.

use crate::check::HEAD;
use crate::runtimes::{library, samples};
use crate::support::{Project, Run, native, root, run};
use std::path::Path;

/// A folder with the driver's library under the name by which it is loaded.
pub fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(native("nvml"), folder.path().join("libnvidia-ml.so.1")).expect("a link");
    folder
}

/// A run on that machine that finds this library and no other.
fn with(project: &Project, library: &Path, args: &[&str]) -> Run {
    let driver = driver();
    run(project.command(args).env("LD_LIBRARY_PATH", driver.path()).env("ORT_DYLIB_PATH", library))
}

#[test]
fn cuda_that_is_named_and_a_library_without_cuda_are_refused_before_anything_runs() {
    let project = samples("device = \"cuda\"");
    let file = library().0.canonicalize().expect("the library");
    let why = format!(
        "artifact `samples`: `device = \"cuda\"` cannot be had here: `{}` was built without CUDA",
        file.display()
    );
    for args in [&["plan", "--offline"][..], &["build", "samples"], &[]] {
        let refused = with(&project, &file, args).code(1).says(&why).says("device = \"cuda\"\n");
        refused
            .says("hint: run `hfbuild runtime install onnxruntime --gpu`")
            .never_says("Running")
            .never_says("samples (13");
    }
    assert!(project.tree("cache/blobs").is_empty());
}

/// The samples of the root model, with a pool of devices.
fn pooled(keys: &str, gpu: &str) -> Project {
    let project = samples(keys);
    let manifest = std::fs::read_to_string(project.path("publish.toml")).expect("the manifest");
    assert!(!manifest.contains("[pools]"));
    project.write("publish.toml", &format!("{manifest}\n[pools]\ngpu = {gpu}\n"));
    project
}

#[test]
fn a_pool_with_a_device_that_is_not_visible_is_refused_where_cuda_is_named_and_told_where_it_is_not() {
    let (file, version) = library();
    let lost = "the pool `gpu` has `7`, which is no visible NVIDIA device";
    for (gpu, why) in [("[\"0\", \"7\"]", lost), ("[]", "the pool `gpu` has no device")] {
        let project = pooled("device = \"cuda\"", gpu);
        for args in [&["plan", "--offline"][..], &["build", "samples"]] {
            with(&project, &file, args).code(1).says(why).says("artifact `samples`: ").never_says("Running");
        }
        assert!(project.tree("cache/blobs").is_empty());
    }
    let doctor = with(&pooled("", "[\"7\"]"), &file, &["doctor"]).code(0);
    doctor
        .prints(&format!("  samples      onnxruntime {version} on cpu\n"))
        .prints("not cuda: the pool `gpu` gives it `7`, which is no visible NVIDIA device");
}

#[test]
fn a_device_that_is_left_open_is_passed_over_with_the_reason_and_the_pictures_are_of_the_cpu() {
    let (file, version) = library();
    let project = samples("");
    let doctor = with(&project, &file, &["doctor"]).code(0);
    doctor.prints("NVIDIA Test").prints("not cuda: ").prints("was built without CUDA").says("1 NVIDIA device");
    with(&project, &file, &["build", "samples"]).code(0);
    project.run(&["explain", "samples[Tiger]"]).prints(&format!("onnxruntime {version} (cpu)"));
}

#[test]
fn cuda_that_libtorch_is_to_run_on_is_refused_where_there_is_no_device() {
    let project = Project::with(&format!(
        "{HEAD}[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\nweights = \"ema\"\n\
         [artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n\
         [artifact.drawn]\nkind = \"samples\"\nfrom = \"weights\"\neach = [\"a\"]\ncount = 1\nsteps = 1\nseed = 0\n\
         runtime = \"torch\"\ndevice = \"cuda\"\n"
    ));
    project.copy(&root().join("tests/fixtures/tiny_trained_trainer.pt"), "model.pt");
    let refused = project.run(&["build", "drawn"]).code(1);
    let refused =
        refused.says("artifact `drawn`: `device = \"cuda\"` cannot be had here: ").says("device = \"cuda\"\n");
    refused.never_says("Running").never_says("checkpoint");
    assert!(project.tree("cache/blobs").is_empty());
}
