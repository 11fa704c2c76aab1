//! Every graph that hfbuild can write, before Python's own onnx checker and onnxruntime; and the kind `onnx` at work on
//! the classifier, on other precisions and on external data.

use crate::support::{Project, Served, python, root, run};
use hfbuild::model::architecture::Architecture;
use hfbuild::model::checkpoint::{Checkpoint, WeightsChoice};
use hfbuild::model::onnx::emit::{EmitOptions, Guidance, emit};
use hfbuild::model::onnx::precision::Precision;
use hfbuild::model::onnx::resnet;
use hfbuild::model::tensor::StateDict;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn network(file: &str, choice: WeightsChoice) -> (StateDict, Architecture) {
    let checkpoint = Checkpoint::open(&fixture(file)).expect("the fixture");
    let dict = checkpoint.select(choice).expect("its weights").clone();
    let architecture = Architecture::infer(&dict, &checkpoint.config).expect("it fits").expect("a known network");
    (dict, architecture)
}

/// A graph in `folder` and what Python shall make of it.
fn case(folder: &Path, dict: &StateDict, architecture: &Architecture, options: &EmitOptions, tolerance: f64) -> Value {
    let name = format!(
        "{}-{}-{}-{}-{}.onnx",
        architecture.name(),
        options.opset,
        options.precision.name(),
        if options.external_data { "external" } else { "whole" },
        if options.guidance == Guidance::External { "bare" } else { "guided" }
    );
    let graph = folder.join(&name);
    let (file, inputs, output, expected): (_, &[&str], _, _) = match architecture {
        Architecture::TinyDit(config) => {
            emit(&graph, dict, config, options).expect("a graph");
            let expected = if options.guidance == Guidance::External { "velocity" } else { "velocity_cfg15" };
            ("tiny_trained_reference.npz", &["noise", "timestep", "breed"], "velocity", expected)
        }
        Architecture::ResNet18(config) => {
            resnet::emit(&graph, dict, config, options).expect("a graph");
            ("tiny_classifier_reference.npz", &["input"], "output", "output")
        }
    };
    let array = |key: &str| format!("{}:{key}", fixture(file).display());
    let inputs: serde_json::Map<String, Value> = inputs.iter().map(|k| (k.to_string(), array(k).into())).collect();
    let mut case = json!({
        "graph": graph, "opset": options.opset, "inputs": inputs, "output": output, "expected": array(expected),
        "tolerance": tolerance,
    });
    if options.external_data {
        case["external"] = format!("{name}.data").into();
    }
    case
}

#[test]
fn onnxruntime_agrees_with_torch_for_both_networks_in_every_precision() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cases = Vec::new();
    for (dict, architecture) in [
        network("tiny_trained_trainer.pt", WeightsChoice::Ema),
        network("tiny_classifier_trainer.pt", WeightsChoice::Raw),
    ] {
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Fp16, 5e-3), (Precision::Int8, 0.1)] {
            for (opset, external_data) in [(17, false), (18, true), (21, false)] {
                let options = EmitOptions { opset, precision, external_data, ..Default::default() };
                cases.push(case(folder.path(), &dict, &architecture, &options, tolerance));
            }
            if matches!(architecture, Architecture::TinyDit(_)) {
                let options = EmitOptions { precision, guidance: Guidance::Baked(1.5), ..Default::default() };
                // 1.5 times one error, less half of another
                let tolerance = if precision == Precision::Fp32 { tolerance } else { 2.0 * tolerance };
                cases.push(case(folder.path(), &dict, &architecture, &options, tolerance));
            }
        }
    }
    let list = folder.path().join("cases.json");
    std::fs::write(&list, Value::Array(cases).to_string()).expect("a file");
    let mut check = Command::new(python());
    check.arg(root().join("tests/python/check_onnx.py")).arg(&list).env_remove("PYTHONPATH");
    let run = run(&mut check).code(0).prints("21 graphs");
    println!("{}", run.stdout);
}

const HEAD: &str = "[project]
name = \"p\"
version = \"0.1.0\"
license = \"mit\"
[hub]
repo = \"me/it\"
endpoint = \"embedded\"
[artifact.checkpoint]
kind = \"checkpoint\"
path = \"model.pt\"
weights = \"raw\"
[artifact.weights]
kind = \"safetensors\"
from = \"checkpoint\"
";

#[test]
fn a_classifier_goes_from_its_checkpoint_to_the_hub() {
    let project = Project::with(&format!(
        "{HEAD}
[artifact.metadata]
kind = \"metadata\"
from = \"checkpoint\"
[artifact.graph]
kind = \"onnx\"
from = \"weights\"
[artifact.gates]
kind = \"check\"
require = [
    \"checkpoint.network == 'resnet18' && checkpoint.config.width == 8 && checkpoint.config.num_classes == 13\",
    \"graph.max_abs_diff <= 1e-5 && graph.relative_l2 <= 1e-5 && graph.precision == 'fp32'\",
    \"graph.weights_equal == 102 && graph.weights_differing == 0\",
]
[artifact.publish]
kind = \"upload\"
after = [\"gates\"]
files = {{ \"config.json\" = \"metadata\", \"model.safetensors\" = \"weights\", \"model.onnx\" = \"graph\" }}
"
    ));
    project.copy(&fixture("tiny_classifier_trainer.pt"), "model.pt");
    project.run(&[]).code(0).says("3 gates passed");
    let config: Value = serde_json::from_str(&project.read("dist/config.json")).expect("JSON");
    assert_eq!((&config["model_type"], &config["num_classes"]), (&json!("resnet18"), &json!(13)));
    project.run(&["inspect", "dist/model.safetensors"]).code(0).prints("resnet18");
    project
        .run(&["inspect", "dist/model.onnx"])
        .code(0)
        .prints("F32 [batch_size, 3, height, width]")
        .prints("hfbuild.network");
}

#[test]
fn a_graph_with_external_data_is_sampled_and_published_whole() {
    let manifest = |external: bool, precision: &str| {
        let head = HEAD.replace("\"raw\"", "\"ema\"");
        format!(
            "{head}
[artifact.generator]
kind = \"onnx\"
from = \"weights\"
external_data = {external}
precision = \"{precision}\"
[artifact.samples]
kind = \"samples\"
from = \"generator\"
each = [\"a\", \"b\"]
count = 1
steps = 3
seed = 0
guidance = 1.5
[artifact.publish]
kind = \"upload\"
files = {{ \"onnx/\" = \"generator\", \"samples/\" = \"samples\" }}
"
        )
    };
    let project = Project::with(&manifest(true, "fp32"));
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    project.run(&[]).code(0);
    let apart = project.tree("dist");
    let names: Vec<&str> = apart.keys().map(String::as_str).filter(|name| name.starts_with("onnx/")).collect();
    assert_eq!(names, ["onnx/model.onnx", "onnx/model.onnx.data"]);
    let hub = Served::of(&project);
    drop(hub);
    project.run(&["inspect", "dist/onnx/model.onnx"]).code(0).prints("external.model.onnx.data");
    project.run(&["plan", "--check"]).code(0).says("nothing to do");

    // the same weights in one file draw the same pictures, and the data file leaves the repository
    project.write("publish.toml", &manifest(false, "fp32"));
    project.run(&[]).code(0);
    let whole = project.tree("dist");
    assert!(!whole.contains_key("onnx/model.onnx.data"));
    let pictures = |tree: &std::collections::BTreeMap<String, Vec<u8>>| -> Vec<Vec<u8>> {
        tree.iter().filter(|(name, _)| name.ends_with(".png")).map(|(_, bytes)| bytes.clone()).collect()
    };
    assert_eq!(pictures(&apart).len(), 4);
    assert!(pictures(&apart) == pictures(&whole));

    // a bound that int8 cannot keep fails the stage and sends nothing
    let tight = manifest(false, "int8").replace("precision =", "verify = { atol = 1e-4 }\nprecision =");
    project.write("publish.toml", &tight);
    project.run(&[]).code(1).says("the graph differs from the network by").says("`verify = { atol = ... }`");
    project.write("publish.toml", &manifest(false, "int8"));
    project.run(&[]).code(0);
}

/// The fixture's weights, and an exporter of the user's own: a command that hands out torch's export.
fn exported(graph: &str, more: &str) -> Project {
    let head = HEAD.replace("\"raw\"", "\"ema\"");
    let project = Project::with(&format!(
        "{head}
[artifact.export]
kind = \"command\"
run = [\"cp\", \"{{in.source}}\", \"{{out}}\"]
inputs = {{ source = \"{graph}\" }}
outputs = [\"model.onnx\"]
[artifact.graph]
kind = \"onnx_file\"
from = \"export\"
weights = \"weights\"
{more}
[artifact.publish]
kind = \"upload\"
files = {{ \"model.onnx\" = \"graph\" }}
"
    ));
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    project.copy(&fixture(graph), graph);
    project
}

#[test]
fn an_export_by_the_users_own_command_is_verified_against_the_forward_of_the_checkpoint() {
    let project = exported("tiny_trained_velocity.onnx", "verify = { atol = 1e-5 }");
    project.run(&[]).code(0);
    let facts = project.run(&["explain", "graph"]).code(0).prints("fact network = \"tinydit-v2\"").stdout;
    assert!(facts.contains("fact max_abs_diff = ") && facts.contains("fact relative_l2 = "), "{facts}");

    // guidance applied in the graph is not the bare network: it has to be said, and then it is right
    let baked = exported("tiny_trained_cfg.onnx", "verify = { atol = 1e-5 }");
    baked.run(&[]).code(1).says("the graph differs from the network by");
    let baked = exported("tiny_trained_cfg.onnx", "verify = { atol = 1e-5 }\nguidance = { baked = 1.5 }");
    baked.run(&[]).code(0);

    // what was exported from other weights computes something else, whatever its initialisers are called
    let other = exported("tiny_trained_velocity.onnx", "verify = { atol = 1e-5 }");
    let manifest = other.read("publish.toml");
    other.write("publish.toml", &manifest.replace("weights = \"ema\"", "weights = \"raw\""));
    other.run(&[]).code(1).says("the graph differs from the network by");
    assert_eq!(other.commits("me/it"), 0);
}

#[test]
fn verify_without_weights_and_guidance_without_verify_are_refused_with_their_place() {
    let project = exported("tiny_trained_velocity.onnx", "guidance = \"external\"");
    project.run(&["plan"]).code(2).says("`guidance` is what `verify` expects").says("publish.toml:");
    let manifest = project.read("publish.toml").replace("guidance = \"external\"", "verify = { atol = 1e-5 }");
    project.write("publish.toml", &manifest.replace("weights = \"weights\"\n", ""));
    project.run(&["plan"]).code(2).says("`weights`, which are not named").says("publish.toml:");
}
