//! Weights out: the `.pt` for fine-tuning, casts, shards, and what reads them.

use crate::python::script;
use crate::support::{Project, root, run};
use hfbuild::model::checkpoint::{Checkpoint, Scalar};
use hfbuild::model::safetensors_out;
use hfbuild::model::tensor::{StateDict, TensorEntry};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A project of the trained fixture with these artifacts, all published.
fn project(fixture: &str, weights: &str, artifacts: &str, files: &str) -> Project {
    let project = Project::with(&format!(
        "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n
[hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n
[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"run.pt\"\nweights = \"{weights}\"\n{artifacts}
[artifact.publish]\nkind = \"upload\"\nfiles = {{ {files} }}\n"
    ));
    project.copy(&root().join("tests/fixtures").join(fixture), "run.pt");
    project
}

fn rows(dict: &StateDict) -> Value {
    let row = |t: &hfbuild::model::tensor::TensorEntry| {
        let sha256 = hex::encode(Sha256::digest(t.bytes().expect("bytes")));
        (t.name.clone(), json!({"shape": t.shape, "sha256": sha256}))
    };
    Value::Object(dict.tensors().iter().map(row).collect::<Map<_, _>>())
}

fn facts(project: &Project, artifact: &str) -> String {
    project.run(&["explain", artifact]).code(0).stdout
}

const PT: &str = "[artifact.pytorch]\nkind = \"pytorch\"\nfrom = \"checkpoint\"\n";

#[test]
fn the_pt_for_fine_tuning_holds_weights_average_and_configuration_and_no_optimizer() {
    let project = project("tiny_trained_trainer.pt", "ema", PT, "\"pytorch/model.pt\" = \"pytorch\"");
    project.run(&["build", "pytorch"]).code(0);
    let made = project.path("dist/pytorch/model.pt");
    let source = Checkpoint::open(&project.path("run.pt")).expect("the fixture");
    let config: Map<String, Value> =
        source.config.iter().map(|(k, v)| (k.clone(), serde_json::to_value(v).expect("JSON"))).collect();
    assert!(config.len() >= 5 && matches!(source.config["num_heads"], Scalar::Int(4)));
    let mut values = json!({"step": source.step, "ema_step": source.ema_step, "loss": source.loss, "config": config});
    if !source.config.contains_key("num_classes") {
        values["config"]["num_classes"] = 13.into();
    }
    let expected = json!({"values": values, "model": rows(source.raw.as_ref().unwrap()), "ema_params": rows(source.ema.as_ref().unwrap())});
    let list = project.path("expected.json");
    std::fs::write(&list, expected.to_string()).expect("a file");
    let check = run(script("check_pt.py").arg(&made).arg(&list)).code(0).prints("40 tensors");
    println!("{}", check.stdout.trim());
    // the same from a file of another name and other bytes
    let bytes = std::fs::read(&made).expect("the file");
    project.run(&["build", "--force", "pytorch", "pytorch"]).code(0);
    assert!(bytes == std::fs::read(&made).expect("the file"));
    // hfbuild reads it as a checkpoint, optimizer gone
    let inspected = project.run(&["inspect", "dist/pytorch/model.pt"]).code(0);
    inspected.prints("export").prints("1800");
    assert!(!bytes.windows(9).any(|w| w == b"optimizer") && bytes.len() < 1_700_000, "{}", bytes.len());
}

#[test]
fn a_checkpoint_without_an_average_gives_a_pt_whose_ema_params_is_none() {
    let artifact = PT.to_owned() + "name = \"tiny.pth\"\n";
    let project = project("tiny_placeholder.pt", "raw", &artifact, "\"pytorch/\" = \"pytorch\"");
    project.run(&["build", "pytorch"]).code(0);
    let source = Checkpoint::open(&project.path("run.pt")).expect("the fixture");
    let config: Map<String, Value> =
        source.config.iter().map(|(k, v)| (k.clone(), serde_json::to_value(v).expect("JSON"))).collect();
    let values = json!({"step": 0, "config": config});
    let expected = json!({"values": values, "model": rows(source.raw.as_ref().unwrap()), "ema_params": null});
    let list = project.path("expected.json");
    std::fs::write(&list, expected.to_string()).expect("a file");
    run(script("check_pt.py").arg(project.path("dist/pytorch/tiny.pth")).arg(&list)).code(0).prints("39 tensors");
}

#[test]
fn a_name_that_is_no_pt_is_refused_with_its_place() {
    for name in ["model.bin", "a/model.pt", ".pt", ""] {
        let artifact = format!("{PT}name = \"{name}\"\n");
        let project = project("tiny_placeholder.pt", "raw", &artifact, "\"pytorch/\" = \"pytorch\"");
        project.run(&["plan"]).code(2).says("publish.toml:");
    }
}

fn weights(extra: &str) -> String {
    format!(
        "[artifact.full]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n
[artifact.cast]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n{extra}\n"
    )
}

#[test]
fn casts_round_as_numpy_does_their_error_is_a_fact_and_shards_are_as_the_hub_library_splits_them() {
    for kind in ["fp16", "bf16"] {
        let artifacts = weights(&format!("dtype = \"{kind}\"\nmax_shard_size = \"100kB\""));
        let files = "\"model.safetensors\" = \"full\", \"cast/\" = \"cast\"";
        let project = project("tiny_trained_trainer.pt", "ema", &artifacts, files);
        project.run(&["build", "full", "cast"]).code(0);
        let mut command = script("check_cast.py");
        command.arg(project.path("dist/model.safetensors")).arg(project.path("dist/cast")).args([kind, "100000"]);
        let found: Value = serde_json::from_str(&run(&mut command).code(0).stdout).expect("JSON");
        let facts = facts(&project, "cast");
        let said = |name: &str| -> f64 {
            let line = facts.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{name} in {facts}"));
            let mut numbers = line.split_whitespace().rev().filter_map(|w| w.parse().ok());
            numbers.next().unwrap_or_else(|| panic!("a figure in {line}"))
        };
        for (fact, measured) in [("cast_max_abs_error", "absolute"), ("cast_max_rel_error", "relative")] {
            let measured = found[measured].as_f64().expect("a number");
            assert!(measured > 0.0 && (said(fact) - measured).abs() <= 1e-3 * measured, "{fact}: {measured} {facts}");
        }
        assert_eq!(said("shards "), found["shards"].as_f64().unwrap());
    }
}

#[test]
fn the_graph_of_sharded_weights_is_the_graph_of_the_one_file() {
    let artifacts = weights("max_shard_size = \"100kB\"").replace("[artifact.cast]", "[artifact.split]")
        + "[artifact.one]\nkind = \"onnx\"\nfrom = \"full\"\n[artifact.many]\nkind = \"onnx\"\nfrom = \"split\"\n";
    let files = "\"one.onnx\" = \"one\", \"many.onnx\" = \"many\", \"shards/\" = \"split\"";
    let project = project("tiny_trained_trainer.pt", "ema", &artifacts, files);
    project.run(&["build", "one", "many", "split"]).code(0);
    let read = |name: &str| std::fs::read(project.path("dist").join(name)).expect("a graph");
    assert!(read("one.onnx") == read("many.onnx"));
    assert!(project.tree("dist/shards").len() > 3, "shards and their index");
}

#[test]
fn a_shard_size_that_everything_fits_gives_one_file_with_the_bytes_of_the_plain_one() {
    let artifacts = weights("max_shard_size = \"5GB\"");
    let files = "\"model.safetensors\" = \"full\", \"cast/\" = \"cast\"";
    let project = project("tiny_trained_trainer.pt", "ema", &artifacts, files);
    project.run(&["build", "full", "cast"]).code(0);
    let made = project.tree("dist/cast");
    assert_eq!(made.keys().collect::<Vec<_>>(), ["model.safetensors"]);
    assert!(made["model.safetensors"] == std::fs::read(project.path("dist/model.safetensors")).unwrap());
}

/// A project whose checkpoint is an index of shards under `shards/`, made from the trained fixture.
fn sharded() -> Project {
    let artifacts = weights("max_shard_size = \"100kB\"");
    let source = project(
        "tiny_trained_trainer.pt",
        "ema",
        &artifacts,
        "\"model.safetensors\" = \"full\", \"shards/\" = \"cast\"",
    );
    source.run(&["build", "full", "cast"]).code(0);
    let project = Project::with(
        "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n
[hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n
[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"shards/model.safetensors.index.json\"\nweights = \"raw\"
config = { num_heads = 4, image_size = 32 }\n
[artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n
[artifact.publish]\nkind = \"upload\"\nfiles = { \"model.safetensors\" = \"weights\" }\n",
    );
    for name in source.tree("dist/shards").keys() {
        project.copy(&source.path("dist/shards").join(name), &format!("shards/{name}"));
    }
    project.copy(&source.path("dist/model.safetensors"), "whole.safetensors");
    project
}

#[test]
fn a_checkpoint_in_shards_is_read_by_its_index_and_every_shard_is_in_the_key() {
    let project = sharded();
    project.run(&["build", "weights"]).code(0);
    let made = std::fs::read(project.path("dist/model.safetensors")).expect("the weights");
    assert!(made == std::fs::read(project.path("whole.safetensors")).expect("the one file"));
    project
        .run(&["explain", "checkpoint"])
        .prints("fact container = \"safetensors_index\"")
        .prints("fact tensors = 40 ");
    project.run(&["build", "weights"]).code(0).says("ran 0 stages");

    // one bit of one shard's data: the table differs, and with it the weights
    let shards: Vec<String> =
        project.tree("shards").into_keys().filter(|name| name.ends_with(".safetensors")).collect();
    let (name, next) = (&shards[1], &shards[2]);
    let second = project.path("shards").join(name);
    let whole = std::fs::read(&second).expect("a shard");
    let mut bytes = whole.clone();
    *bytes.last_mut().expect("data") ^= 1;
    std::fs::write(&second, &bytes).expect("a file");
    project.run(&["plan"]).prints("Run checkpoint");
    project.run(&["build", "weights"]).code(0);
    assert!(made != std::fs::read(project.path("dist/model.safetensors")).expect("the weights"));

    // cut off, or the next shard in its place
    std::fs::write(&second, &whole[..whole.len() - 1]).expect("a file");
    project.run(&["build", "weights"]).code(1).says(name);
    project.copy(&project.path("shards").join(next), &format!("shards/{name}"));
    project.run(&["build", "weights"]).code(1).says(&format!("says `{next}`"));
    std::fs::remove_file(&second).expect("removed");
    project.run(&["build", "weights"]).code(2).says(name);
}

/// A checkpoint (`model.safetensors`) with these tensors, published behind these conditions.
fn bare(tensors: &[(&str, Vec<f32>)], gates: &str) -> Project {
    let (check, after) = match gates {
        "" => (String::new(), ""),
        gates => (format!("[artifact.gates]\nkind = \"check\"\nrequire = {gates}\n"), "after = [\"gates\"]\n"),
    };
    let project = Project::with(&format!(
        "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n\
         [hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n\
         [artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.safetensors\"\nweights = \"raw\"\n\
         [artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n{check}\
         [artifact.publish]\nkind = \"upload\"\n{after}files = {{ \"model.safetensors\" = \"weights\" }}\n"
    ));
    let entry = |(name, values): &(&str, Vec<f32>)| TensorEntry::of_f32(*name, vec![values.len()], values);
    let dict = StateDict::new(tensors.iter().map(|row| entry(row).expect("a tensor")).collect()).expect("a dict");
    safetensors_out::write(&project.path("model.safetensors"), &dict, &Default::default()).expect("the file");
    project
}

#[test]
fn weights_that_are_no_numbers_are_counted_and_refused_unless_a_gate_names_them() {
    let broken = [("a", vec![1.0, f32::NAN, f32::INFINITY]), ("b", vec![f32::NEG_INFINITY, 2.0])];
    let project = bare(&broken, "");
    let run = project.run(&[]).code(1).says("`checkpoint` holds values that are NaN or infinite");
    run.says("`checkpoint.nonfinite`").never_says("Published");
    project.run(&["explain", "checkpoint"]).prints("fact nonfinite = 3 (of the raw weights, ");
    project.run(&["inspect", "model.safetensors"]).code(0).prints("nonfinite").prints("3");
    assert_eq!(project.commits("me/it"), 0);
    // a gate over it is asked before anything is made of them, and one that says so lets them through
    let project = bare(&broken, "[\"checkpoint.nonfinite == 0\"]");
    project.run(&[]).code(1).says("`checkpoint.nonfinite` is 3").never_says("Running weights");
    bare(&broken, "[\"checkpoint.nonfinite < 4\"]").run(&[]).code(0).says("Published");
    let sound = bare(&[("a", vec![1.0, -0.0, f32::MAX])], "[\"checkpoint.nonfinite == 0\"]");
    sound.run(&[]).code(0).says("1 gate passed");
}

#[test]
fn a_file_that_hfbuild_wrote_says_its_own_configuration_when_it_is_a_checkpoint() {
    let project = project("tiny_trained_trainer.pt", "ema", &weights(""), "\"model.safetensors\" = \"full\"");
    project.run(&["build", "full"]).code(0);
    let again =
        bare(&[("a", vec![1.0])], "[\"checkpoint.config.num_heads == 4 && checkpoint.config.image_size == 32\"]");
    again.copy(&project.path("dist/model.safetensors"), "model.safetensors");
    // nobody says how many heads there are but the file
    again.run(&[]).code(0).says("1 gate passed");
    assert!(
        std::fs::read(again.path("dist/model.safetensors")).unwrap()
            == std::fs::read(project.path("dist/model.safetensors")).unwrap()
    );
    // what the manifest says against it is a contradiction
    let manifest = again.read("publish.toml");
    again.write(
        "publish.toml",
        &manifest.replace("weights = \"raw\"\n", "weights = \"raw\"\nconfig = { num_heads = 2 }\n"),
    );
    again.run(&[]).code(1).says("the manifest says `num_heads` is 2, the checkpoint's config says 4");
    // and what cannot be read is no configuration
    let dict = safetensors_out::read_state_dict(&project.path("dist/model.safetensors")).expect("weights");
    let wrong = [("hfbuild.config".to_string(), "{".to_string())].into();
    safetensors_out::write(&again.path("model.safetensors"), &dict, &wrong).expect("the file");
    again.write("publish.toml", &manifest);
    again.run(&[]).code(1).says("the weights' configuration cannot be read");
}
