//! Runtimes and devices: which library is found and used, what is refused, and that all of them agree. The library is the
//! real one of the tests' own Python environment.

use crate::check::{HEAD, project};
use crate::evaluation::{CLASSIFY, coloured, write_classifier, write_graph};
use crate::support::{Project, Run, native, python, root, run};
use hfbuild::core::error::ErrorKind;
use hfbuild::core::runtime::{DeviceKind, RuntimeKind, Wanted};
use hfbuild::model::checkpoint::{Checkpoint, WeightsChoice};
use hfbuild::model::onnx::emit::{EmitOptions, Guidance, emit};
use hfbuild::model::onnx::graph::{Attribute, Dim, GraphBuilder};
use hfbuild::model::onnx::precision::Precision;
use hfbuild::model::runtime::{Data, Input, Machine, Places, Runtime, Setting};
use hfbuild::model::sample::{Picture, read_png, session_velocity};
use hfbuild::model::tensor::StateDict;
use hfbuild::model::tinydit::Config;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tests' Python environment.
fn venv() -> PathBuf {
    python().parent().and_then(Path::parent).expect("its folder").to_path_buf()
}

/// Its libonnxruntime, and the version that its name says.
pub fn library() -> (PathBuf, String) {
    let packages = venv().join("lib/python3.11/site-packages/onnxruntime/capi");
    let names = std::fs::read_dir(&packages).expect("the package").flatten();
    let mut names = names.filter_map(|e| e.file_name().into_string().ok());
    let name = names.find(|name| name.starts_with("libonnxruntime.so.")).expect("its library");
    let version = name.trim_start_matches("libonnxruntime.so.").to_string();
    (packages.join(&name), version)
}

/// A run that finds this library and no other.
fn with_library(project: &Project, args: &[&str]) -> Run {
    run(project.command(args).env("ORT_DYLIB_PATH", library().0))
}

fn doctor(command: &mut Command) -> Value {
    let run = run(command).code(0);
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

/// The root model with few and quick pictures, drawn with these keys.
pub fn samples(keys: &str) -> Project {
    let keys = format!("kind = \"samples\"\n{keys}");
    Project::root_model(move |m| {
        assert_eq!(m.matches("device = \"auto\"\n").count(), 1, "the manifest names no other device");
        let m = m.replace("steps = 50", "steps = 4").replace("count = 8", "count = 2");
        m.replace("device = \"auto\"\n", "").replace("kind = \"samples\"", &keys)
    })
}

#[test]
fn doctor_says_what_is_there_and_where_it_was_found() {
    let (file, version) = library();
    let file = file.canonicalize().unwrap().display().to_string();
    let project = Project::empty();
    let none = doctor(&mut project.command(&["doctor", "--json"]));
    assert_eq!(none["runtimes"]["onnxruntime"], Value::Null);
    assert_eq!(none["project"], "there is no publish.toml here");
    for (name, value) in [("ORT_DYLIB_PATH", Path::new(&file)), ("VIRTUAL_ENV", &venv()), ("CONDA_PREFIX", &venv())] {
        let found = doctor(project.command(&["doctor", "--json"]).env(name, value));
        let library = &found["runtimes"]["onnxruntime"];
        assert_eq!((&library["path"], &library["origin"]), (&file.clone().into(), &name.into()));
        assert_eq!((&library["version"], &library["cuda"]), (&version.clone().into(), &false.into()));
        assert!(library["providers"].as_array().unwrap().contains(&"CPUExecutionProvider".into()), "{library}");
    }
    let screen = with_library(&project, &["doctor"]).code(0);
    screen
        .prints("  rten         0.27.0   built in")
        .prints(&format!("  onnxruntime  {version}   {file} (ORT_DYLIB_PATH)"));
    project.run(&["doctor"]).code(0).prints("not found: run `hfbuild runtime install onnxruntime`");
}

#[test]
fn doctor_says_what_each_stage_would_use_and_why_not_the_better_one() {
    let project = samples("");
    let all = project.run(&["doctor"]).code(0);
    let all = all.prints("  samples      rten 0.27.0 on cpu\n").prints("not onnxruntime: no libonnxruntime was found");
    assert!(!all.stdout.contains("generator"), "{}", all.stdout);
    let (_, version) = library();
    let better = with_library(&project, &["doctor"]).code(0);
    better.prints(&format!("  samples      onnxruntime {version} on cpu\n")).prints("not cuda: ");
    let named = samples("runtime = \"onnxruntime\"");
    named.run(&["doctor"]).code(0).prints("  samples      `runtime = \"onnxruntime\"` cannot be had here: no lib");
    project.write("publish.toml", "[project\n");
    project.run(&["doctor"]).code(0).prints("  none: publish.toml: ");
}

#[test]
fn a_library_that_cannot_be_used_is_not_used_and_doctor_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let nonsense = folder.path().join("nonsense.so");
    std::fs::write(&nonsense, "no library").unwrap();
    let cut = folder.path().join("cut.so");
    let whole = std::fs::read(library().0).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let project = latency("");
    let cases = [
        (cut, "it is cut off: it has "),
        (folder.path().to_path_buf(), "which is a folder, and no library"),
        (nonsense, "it cannot be loaded: "),
        (native("old_onnxruntime"), "it is onnxruntime 1.17.3, and 1.24 is the oldest that can be used"),
        (native("clock"), "it is no libonnxruntime: it has no `OrtGetApiBase`"),
        (folder.path().join("absent.so"), "which is not there"),
    ];
    for (file, why) in cases {
        let with = |args: &[&str]| run(project.command(args).env("ORT_DYLIB_PATH", &file));
        with(&["doctor"]).code(0).prints(why).prints("  onnxruntime  -        none that can be used");
        with(&["build", "--force", "speed"]).code(0);
        project.run(&["explain", "speed"]).prints("rten 0.27.0 (cpu)");
        let named = latency("runtime = \"onnxruntime\"\n");
        let refused = run(named.command(&[]).env("ORT_DYLIB_PATH", &file)).code(1);
        refused.says("`runtime = \"onnxruntime\"` cannot be had here: ORT_DYLIB_PATH names ").says(why);
    }
}

/// A graph that is a file of the project, timed.
fn latency(more: &str) -> Project {
    let project = project(&format!(
        "[artifact.graph]\nkind = \"onnx_file\"\npath = \"graph.onnx\"\n\
         [artifact.speed]\nkind = \"latency\"\nfrom = \"graph\"\nruns = 2\nthreads = 1\n{more}"
    ));
    write_classifier(&project.path("graph.onnx"));
    project
}

#[test]
fn a_device_that_is_not_here_is_refused_before_anything_is_spent() {
    let project = samples("device = \"cuda\"");
    for args in [&["plan", "--offline"][..], &[]] {
        let refused = with_library(&project, args).code(1);
        let refused = refused.says("artifact `samples`: `device = \"cuda\"` cannot be had here: ");
        refused.says("device = \"cuda\"\n").never_says("Running").never_says("samples (13");
    }
    assert!(project.tree("cache/blobs").is_empty());
    project.run(&[]).code(1).says("`device = \"cuda\"` cannot be had here: ");
    let both = samples("device = \"cuda\"\nruntime = \"rten\"");
    both.run(&["plan", "--offline"]).code(2).says("`runtime = \"rten\"` runs on the CPU alone");
}

#[test]
fn pictures_of_both_runtimes_agree_and_with_auto_a_result_of_either_is_good() {
    let project = samples("");
    let (_, version) = library();
    let plan = with_library(&project, &["plan", "--offline"]).code(0);
    plan.prints(&format!("  Runtime samples: onnxruntime {version} on cpu ("));
    with_library(&project, &["build", "samples"]).code(0);
    project.run(&["explain", "samples[Tiger]"]).prints(&format!("onnxruntime {version} (cpu)"));
    // another runtime is no reason to draw again, and nothing is looked for
    project.run(&["build", "samples"]).code(0).says("ran 0 stages");
    let fast = pictures(&project);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("kind = \"samples\"", "kind = \"samples\"\nruntime = \"rten\""));
    let json: Value = serde_json::from_str(&project.run(&["plan", "--json", "--offline"]).code(0).stdout).unwrap();
    assert_eq!(json["runtimes"][0]["runtime"], "rten", "{}", json["runtimes"]);
    with_library(&project, &["build", "samples"]).code(0).says("parameter `runtime` is new");
    project.run(&["explain", "samples[Tiger]"]).prints("rten 0.27.0 (cpu)").prints("parameter `runtime`: \"rten\"");
    let plain = pictures(&project);
    assert_eq!((fast.len(), plain.len()), (39, 39));
    let apart = |(a, b): (&Picture, &Picture)| a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).max();
    let worst = fast.iter().zip(&plain).filter_map(apart).max();
    assert!(worst.is_some_and(|worst| worst <= 1), "{worst:?}");
    assert_ne!(fast[0].pixels, fast[1].pixels);
}

/// The pictures as they were placed in the project, by path.
fn pictures(project: &Project) -> Vec<Picture> {
    let tree = project.tree("dist/samples");
    tree.values().map(|bytes| read_png(bytes).expect("a picture")).collect()
}

#[test]
fn latency_and_classify_run_on_both_and_say_on_which() {
    let (_, version) = library();
    let project = latency("");
    with_library(&project, &[]).code(0);
    project.run(&["explain", "speed"]).prints(&format!("onnxruntime {version} (cpu)"));
    let judged = |runtime: &str| {
        let project = coloured(&format!("{CLASSIFY}runtime = \"{runtime}\"\n"), true);
        write_classifier(&project.path("colours.onnx"));
        with_library(&project, &[]).code(0);
        project
            .run(&["explain", "seen"])
            .prints("fact agreement = 0.833333")
            .prints(&format!("{runtime} "))
            .code(0)
            .stdout
    };
    assert!(judged("rten").contains("rten 0.27.0 (cpu)"));
    assert!(judged("onnxruntime").contains(&format!("onnxruntime {version} (cpu)")));
}

/// A machine that has the library and no other.
fn machine() -> &'static Machine {
    static MACHINE: std::sync::OnceLock<Machine> = std::sync::OnceLock::new();
    MACHINE.get_or_init(|| Machine::new(Places { named: Some(library().0), ..Places::default() }))
}

fn on(runtime: RuntimeKind) -> Box<dyn Runtime> {
    let wanted = Wanted { runtime: Some(runtime), device: None };
    machine().runtime(wanted, &Setting { threads: Some(2), gpus: None }).expect("the runtime")
}

/// An array of the reference vectors, as bytes.
fn reference(name: &str) -> Vec<u8> {
    let code = "import sys, numpy; sys.stdout.buffer.write(numpy.load(sys.argv[1])[sys.argv[2]].tobytes())";
    let file = root().join("tests/fixtures/tiny_trained_reference.npz");
    let output = Command::new(python()).args(["-c", code]).arg(file).arg(name).output().expect("Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn floats(name: &str) -> Vec<f32> {
    reference(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn both_runtimes_agree_with_the_reference_within_1e_5() {
    let trained = Checkpoint::open(&root().join("tests/fixtures/tiny_trained_trainer.pt")).unwrap();
    let dict = trained.select(WeightsChoice::Ema).unwrap();
    let config = Config::infer(dict, &trained.config).unwrap();
    let shape = [config.channels, config.image_size, config.image_size];
    let (noise, time) = (floats("noise"), floats("timestep"));
    let labels: Vec<i64> =
        reference("breed").chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut graphs = vec![
        (root().join("tests/fixtures/tiny_trained_velocity.onnx"), "velocity"),
        (root().join("tests/fixtures/tiny_trained_cfg.onnx"), "velocity_cfg15"),
    ];
    for opset in 17..=21 {
        for (guidance, expected) in [(Guidance::External, "velocity"), (Guidance::Baked(1.5), "velocity_cfg15")] {
            let path = folder.path().join(format!("{opset}-{expected}.onnx"));
            emit(&path, dict, &config, &EmitOptions { opset, guidance, ..Default::default() }).unwrap();
            graphs.push((path, expected));
        }
    }
    for (path, expected) in graphs {
        let want = floats(expected);
        for kind in [RuntimeKind::Rten, RuntimeKind::OnnxRuntime] {
            let mut session = on(kind).open(&path).unwrap();
            assert_eq!((session.used().runtime.as_str(), session.used().device), (kind.word(), DeviceKind::Cpu));
            let got = session_velocity(&mut *session, shape)(&noise, &time, &labels).unwrap();
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(got.len() == want.len() && worst < 1e-5, "{} {}: {worst}", path.display(), kind.word());
        }
    }
}

#[test]
fn want_of_memory_is_told_from_other_errors_and_the_session_goes_on() {
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("outer", &none, Precision::Fp32);
    graph.input("x", 1, &[Dim::Batch]);
    graph.output("y", 1, &[Dim::Batch, Dim::Batch]);
    let axes = |graph: &mut GraphBuilder<'_>, axis: i64, name: &str| {
        let axes = graph.ints(&format!("{name}.axes"), &[1], &[axis]);
        graph.node("Unsqueeze", &["x", &axes], name, &[])
    };
    let (row, column) = (axes(&mut graph, 0, "row"), axes(&mut graph, 1, "column"));
    graph.node("Mul", &[&row, &column], "y", &[] as &[(&str, Attribute)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outer.onnx");
    write_graph(&graph, &[], &path);
    let mut session = on(RuntimeKind::OnnxRuntime).open(&path).unwrap();
    let mut squares = |rows: usize, name: &str| {
        let x = vec![2.0f32; rows];
        session.run(&[Input { name, shape: vec![rows], data: Data::F32(&x) }], "y")
    };
    // 2^44 bytes, which no machine has
    let error = squares(1 << 21, "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(squares(3, "x").unwrap().values, [4.0f32; 9]);
    let absent = squares(3, "z").unwrap_err();
    assert_eq!((absent.kind(), absent.message()), (ErrorKind::Stage, "the graph has no input called `z`"));
}

/// A folder with a `python3` that does this.
fn fake_python(project: &Project, script: &str) -> PathBuf {
    project.write("bin/python3", &format!("#!/bin/sh\n{script}\n"));
    let file = project.path("bin/python3");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    project.path("bin")
}

fn install(project: &Project, path: &Path) -> Run {
    let path = format!("{}:/usr/bin:/bin", path.display());
    run(project.command(&["runtime", "install", "onnxruntime"]).env("PATH", path))
}

#[test]
fn a_runtime_is_installed_whole_or_not_at_all() {
    let project = Project::with(HEAD);
    let runtimes = || project.tree("cache/runtimes").into_keys().collect::<Vec<_>>();
    let bare = tempfile::tempdir().unwrap();
    let none = run(project.command(&["runtime", "install", "onnxruntime"]).env("PATH", bare.path())).code(1);
    none.says("there is no `python3` on the PATH")
        .says("hint: install Python 3.11 or newer with pip, or set ORT_DYLIB_PATH");
    let without = fake_python(&project, "echo \"$0: No module named pip\" >&2; exit 1");
    install(&project, &without).code(1).says("has no pip, which would fetch onnxruntime 1.32.0");
    // pip writes a part, then the network goes
    let part = "for last; do :; done; mkdir -p \"$last/onnxruntime\"; echo ERROR: no route >&2; exit 1";
    let broken = fake_python(&project, part);
    install(&project, &broken).code(1).says("pip cannot install onnxruntime 1.32.0").says("caused by: ERROR: no route");
    assert!(runtimes().is_empty(), "{:?}", runtimes());
    let idle = fake_python(&project, "test -z \"$PIP_DRY_RUN\"");
    let path = format!("{}:/usr/bin:/bin", idle.display());
    let mut dry = project.command(&["runtime", "install", "onnxruntime"]);
    run(dry.env("PATH", path).env("PIP_DRY_RUN", "1"))
        .code(1)
        .says("pip ended well and installed no onnxruntime 1.32.0 that can be used");
    assert!(runtimes().is_empty(), "{:?}", runtimes());
    project.write("cache/runtimes/.new-killed/part", "");
    let (file, version) = library();
    let whole = format!(
        "case \"$*\" in *--no-deps*--require-hashes*) ;; *) exit 9;; esac\n\
         for last; do :; done; mkdir -p \"$last/onnxruntime/capi\"; ln -s {} \"$last/onnxruntime/capi/\"",
        file.display()
    );
    let good = fake_python(&project, &whole);
    install(&project, &good).code(0).says("hfbuild: installed onnxruntime 1.32.0 in `cache/runtimes/onnxruntime`");
    assert!(!project.path("cache/runtimes/.new-killed").exists());
    install(&project, &good).code(0).says("hfbuild: onnxruntime 1.32.0 is there already");
    std::fs::remove_dir_all(project.path("cache/runtimes/onnxruntime/onnxruntime")).unwrap();
    install(&project, &good).code(0).says("hfbuild: installed onnxruntime 1.32.0");
    let _ = fake_python(&project, part);
    install(&project, &broken).code(0).says("hfbuild: onnxruntime 1.32.0 is there already");
    let found = doctor(&mut project.command(&["doctor", "--json"]));
    assert_eq!(found["runtimes"]["onnxruntime"]["origin"], "hfbuild runtime install");
    assert_eq!(found["runtimes"]["onnxruntime"]["version"], version.as_str());
    project.run(&["gc", "--max-size", "1kB"]).code(0);
    project.run(&["clean"]).code(0);
    assert_eq!(doctor(&mut project.command(&["doctor", "--json"])), found);
    project.run(&["runtime", "remove", "onnxruntime"]).code(0).says("removed onnxruntime");
    assert!(!project.path("cache/runtimes").exists());
    project.run(&["runtime", "remove", "onnxruntime"]).code(0).says("onnxruntime was not installed here");
    Project::empty().run(&["runtime", "install", "onnxruntime"]).code(2).says("there is no publish.toml in");
}

#[test]
fn pip_installs_the_pinned_wheel_and_it_is_used() {
    let project = latency("runtime = \"onnxruntime\"\n");
    project.run(&[]).code(1).says("hint: run `hfbuild runtime install onnxruntime`");
    let path = format!("{}:{}", venv().join("bin").display(), std::env::var("PATH").unwrap());
    let home = std::env::var_os("HOME").unwrap_or_default();
    run(project.command(&["runtime", "install", "onnxruntime"]).env("PATH", path).env("HOME", home)).code(0);
    project.run(&[]).code(0);
    project.run(&["explain", "speed"]).prints("onnxruntime 1.32.0 (cpu)");
}
