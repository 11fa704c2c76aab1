//! What Python's own tools make of what hfbuild publishes, and of its hub: the model from its download, the official
//! client, numpy, onnx, onnxruntime, safetensors.

use crate::support::{Project, Run, Served, python, root, run};
use hfbuild::model::checkpoint::{Checkpoint, Scalar, Settings, WeightsChoice};
use hfbuild::model::network::Network;
use hfbuild::model::noise::normals;
use hfbuild::model::onnx::emit::{EmitOptions, Guidance, emit};
use hfbuild::model::safetensors_out;
use hfbuild::model::tinydit::Config;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

const REPO: &str = "d-oit/tinydit-cats";

/// A script of this folder, with an environment in which the user's own hub, token and packages cannot be found.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(root().join("tests/python").join(name));
    for name in ["HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_PATH", "PYTHONPATH"] {
        command.env_remove(name);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The snapshot of a repo by the official client, into `dir`; the commit.
fn download(project: &Project, hub: &Served, repo: &str, dir: &Path) -> String {
    let mut command = script("download.py");
    command.env("HF_HUB_DISABLE_XET", "1").env("HF_HOME", project.path("hf-home"));
    let run = run(command.args([&hub.url, repo]).arg(dir)).code(0);
    run.stdout.trim().to_string()
}

/// Every file of a download, without what the client keeps for itself.
fn downloaded(project: &Project, dir: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut tree = project.tree(dir);
    tree.retain(|name, _| !name.starts_with(".cache/"));
    tree
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn write_f32(path: &Path, values: &[f32]) {
    std::fs::write(path, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).expect("a file");
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("a file");
}

#[test]
fn the_published_model_works_from_its_download() {
    let project = Project::root_model(|m| m.replace("count = 8", "count = 4"));
    assert!(project.read("publish.toml").contains("steps = 50"));
    project.run(&[]).code(0);
    let hub = Served::of(&project);
    let dir = project.path("download");
    download(&project, &hub, REPO, &dir);
    drop(hub);

    let (mut got, published) = (downloaded(&project, "download"), project.tree("dist"));
    let record: Value = serde_json::from_slice(&got.remove("provenance.json").expect("the record")).expect("JSON");
    assert!(record.is_object());
    got.remove(".gitattributes").expect("the server's own file");
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        published.keys().filter(|k| *k != "provenance.json").collect::<Vec<_>>()
    );
    for (name, bytes) in &got {
        assert!(*bytes == published[name], "{name} differs from what was published");
    }

    // from the download alone: a folder that holds nothing else of the project
    let only = script("only_imports.py").arg(dir.join("inference.py")).args(["PIL", "numpy", "onnxruntime"]).output();
    let only = only.expect("Python");
    assert!(only.status.success(), "inference.py imports {}", String::from_utf8_lossy(&only.stdout));
    let mut infer = Command::new(python());
    infer.args(["inference.py", "--breed", "Crying Cat", "--num-images", "4"]).current_dir(&dir);
    let drawn = run(infer.env_remove("PYTHONPATH")).code(0);
    let files: Vec<&str> = drawn.stdout.lines().collect();
    let expected: Vec<String> = (0..4).map(|k| format!("pictures/Crying_Cat-{k}.png")).collect();
    assert_eq!(files, expected);

    for (k, file) in files.iter().enumerate() {
        project.copy(&dir.join(file), &format!("renamed/{k}.png"));
    }
    let mut compare = script("compare_png.py");
    let compared = run(compare.arg(project.path("renamed")).arg(project.path("dist/samples/Crying_Cat"))).code(0);
    compared.prints("4 pairs, max abs diff ");
}

#[test]
fn the_official_client_uploads_to_the_embedded_hub_and_gets_the_same_bytes_back() {
    let project = Project::with("[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n");
    let hub = Served::of(&project);
    let mut command = Command::new(python());
    command.arg(root().join("tests/conformance/upload_download.py")).arg(&hub.url);
    command.env("HF_HOME", project.path("hf-home")).env_remove("HF_TOKEN").env_remove("PYTHONPATH");
    let run = run(&mut command).code(0);
    let steps = run.stdout.lines().filter(|l| l.starts_with("ok: ")).count();
    assert_eq!(steps, 17, "{}", run.stdout);
    run.prints("ok: snapshot_download, byte-equal").prints("ok: delete_repo");
}

#[test]
fn numpy_repeats_the_noise_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let top = u64::from(u32::MAX);
    let keys = [
        (0, 0, 0, 3072),
        (0, 8, 3, 3072),
        (0, 12, 7, 3073),
        (1, 0, 0, 3072 + 333),
        (42, 5, 1, 1),
        (42, 5, 1, 2),
        (7, 1, 0, 5),
        (u64::MAX, top, top, 4095),
        (1 << 40, top, 0, 3072),
        (3, 0, top, 12289),
    ];
    let case = |(at, (seed, label, index, n)): (usize, (u64, u64, u64, usize))| {
        let file = folder.path().join(format!("{at}.f32"));
        write_f32(&file, &normals(seed, label, index, n));
        json!({"seed": seed, "label": label, "index": index, "n": n, "file": file})
    };
    let cases = folder.path().join("cases.json");
    write_json(&cases, &keys.into_iter().enumerate().map(case).collect());
    run(script("check_noise.py").arg(cases)).code(0).prints("10 equal");
}

#[test]
fn onnx_checker_and_onnxruntime_accept_every_graph_that_is_emitted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: String| folder.path().join(name);
    let mut cases = Vec::new();

    // v2: torch's own numbers
    let trained = Checkpoint::open(&fixture("tiny_trained_trainer.pt")).expect("the trained fixture");
    let dict = trained.select(WeightsChoice::Ema).expect("its EMA weights");
    let config = Config::infer(dict, &trained.config).expect("its configuration");
    let reference = |key: &str| format!("{}:{key}", fixture("tiny_trained_reference.npz").display());
    // v1: a forward in numpy of its own, over random weights so that every block counts
    let bare = Checkpoint::open(&fixture("tiny_bare_state_dict.pt")).expect("the v1 fixture");
    let settings: Settings = [("num_heads", 3), ("image_size", 32)].map(|(k, v)| (k.into(), Scalar::Int(v))).into();
    let v1 = bare.select(WeightsChoice::Raw).expect("its weights");
    let v1_config = Config::infer(v1, &settings).expect("its configuration");
    let (times, labels) = ([0.25f32, 0.9], [3i64, 11]);
    let noise = normals(0, 0, 0, 2 * v1_config.picture_len());
    for (name, values) in [("noise", &noise[..]), ("time", &times)] {
        write_f32(&path(name.into()), values);
    }
    std::fs::write(path("labels".into()), labels.map(i64::to_le_bytes).concat()).expect("a file");
    safetensors_out::write(&path("v1.safetensors".into()), v1, &Default::default()).expect("its weights");
    for (word, scale) in [("external", None), ("baked", Some("1.5"))] {
        let mut numpy = script("reference_tinydit.py");
        let sizes = [v1_config.num_heads, v1_config.image_size].map(|n| n.to_string());
        numpy.arg("velocity").arg(path("v1.safetensors".into())).args(sizes).arg(folder.path()).arg(path(word.into()));
        run(numpy.args(scale)).code(0);
    }
    let network = Network::load(v1, &v1_config).expect("the v1 network");
    let plain = network.forward(&noise, &times, &labels).expect("its forward");
    let of_numpy = std::fs::read(path("external".into())).expect("numpy's");
    let of_numpy = of_numpy.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
    let apart = plain.iter().zip(of_numpy).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5 && plain.iter().any(|v| v.abs() > 0.1), "{apart}");

    for opset in [17, 18, 21] {
        for (guidance, word) in [(Guidance::External, "external"), (Guidance::Baked(1.5), "baked")] {
            let options = EmitOptions { opset, guidance, ..Default::default() };
            let graph = path(format!("v2-{opset}-{word}.onnx"));
            emit(&graph, dict, &config, &options).expect("a v2 graph");
            let velocity = reference(if word == "baked" { "velocity_cfg15" } else { "velocity" });
            cases.push(json!({
                "graph": graph, "opset": opset, "output": "velocity", "expected": velocity,
                "inputs": {"noise": reference("noise"), "timestep": reference("timestep"), "breed": reference("breed")},
            }));
            let graph = path(format!("v1-{opset}-{word}.onnx"));
            emit(&graph, v1, &v1_config, &options).expect("a v1 graph");
            let side = v1_config.image_size;
            cases.push(json!({
                "graph": graph, "opset": opset, "output": "velocity", "expected": path(word.into()),
                "inputs": {"noise": path("noise".into()), "timestep": path("time".into()), "breed": path("labels".into())},
                "shape": [2, v1_config.channels, side, side],
            }));
        }
    }
    let list = path("cases.json".into());
    write_json(&list, &Value::Array(cases));
    run(script("check_onnx.py").arg(list)).code(0).prints("12 graphs");
}

#[test]
fn python_reads_the_safetensors_that_was_written() {
    let project = Project::small_model();
    project.run(&["build", "weights"]).code(0);
    let checkpoint = Checkpoint::open(&project.path("checkpoints/tinydit_final.pt")).expect("the checkpoint");
    let dict = checkpoint.select(WeightsChoice::Ema).expect("its EMA weights");
    let rows = dict.tensors().iter().map(|tensor| {
        let sha256 = hex::encode(Sha256::digest(tensor.bytes().expect("its bytes")));
        assert_eq!(tensor.dtype.name(), "F32");
        (tensor.name.clone(), json!({"dtype": "float32", "shape": tensor.shape, "sha256": sha256}))
    });
    let tensors: serde_json::Map<String, Value> = rows.collect();
    assert!(tensors.len() > 30);
    let config = Config::infer(dict, &checkpoint.config).expect("its configuration");
    let config = serde_json::to_string(&config).expect("JSON");
    let expected = json!({"tensors": tensors, "metadata": {"format": "pt", "hfbuild.config": config}});
    let list = project.path("expected.json");
    write_json(&list, &expected);
    let file = made(&project, "weights", "model.safetensors");
    run(script("check_safetensors.py").arg(file).arg(list)).code(0).prints(&format!("{} tensors", dict.len()));
}

/// Where an output stands: at its place in dist/.
fn made(project: &Project, artifact: &str, name: &str) -> PathBuf {
    let path = project.path("dist").join(name);
    assert!(path.is_file(), "`{name}` of `{artifact}` is not in dist/");
    path
}

#[test]
fn a_hub_that_serves_takes_the_publish_of_another_process() {
    let manifest = "
[project]
name = \"p\"
version = \"0.1.0\"
license = \"mit\"
[hub]
repo = \"me/it\"
endpoint = \"embedded\"
[artifact.notes]
kind = \"files\"
paths = [\"notes.txt\"]
[artifact.publish]
kind = \"upload\"
files = { \"notes.txt\" = \"notes\" }
";
    let project = Project::with(manifest);
    project.write("notes.txt", "first\n");
    let hub = Served::of(&project);
    let plan = project.run(&["plan"]).code(0);
    assert!(plan.summary().ends_with("then publish"), "{}", plan.summary());
    let published = |run: Run| {
        let run = run.code(0);
        let commit = run.summary().rsplit(' ').next().expect("a commit").to_string();
        assert!(run.summary().contains(", published "), "{}", run.summary());
        commit
    };

    let first = published(project.run(&[]));
    let there = download(&project, &hub, "me/it", &project.path("one"));
    assert!(there.starts_with(&first), "{there} is not {first}");
    assert_eq!(downloaded(&project, "one")["notes.txt"], b"first\n");
    project.run(&["plan", "--check"]).code(0).says("nothing to do");
    project.run(&[]).code(0).says("remote unchanged at ");

    project.write("notes.txt", "second\n");
    project.run(&["plan", "--check"]).code(3);
    let second = published(project.run(&[]));
    let there = download(&project, &hub, "me/it", &project.path("two"));
    assert!(there.starts_with(&second) && first != second, "{there} is not {second}");
    assert_eq!(downloaded(&project, "two")["notes.txt"], b"second\n");

    // what it took stays when it ends
    drop(hub);
    assert_eq!(project.commits("me/it"), 2);
    project.run(&["plan", "--check"]).code(0);
}
