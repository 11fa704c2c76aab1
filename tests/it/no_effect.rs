//! A key that is accepted and does nothing is a promise that is not kept: each is an error that names the key, before
//! anything runs where the manifest alone shows it, else before the graph does.

use crate::check::HEAD;
use crate::evaluation::{CLASSIFY, coloured, picture, write_classifier, write_graph, write_noise_generator};
use crate::support::{Project, root};
use hfbuild::model::onnx::graph::{Attribute, Dim, GraphBuilder};
use hfbuild::model::onnx::precision::Precision;
use hfbuild::model::tensor::StateDict;
use std::path::Path;

/// A manifest is refused at the line of `at`.
#[track_caller]
fn refused(tables: &str, at: &str, says: &str, hint: &str) {
    let text = format!("{HEAD}{tables}");
    let line = 1 + text[..text.find(at).expect("the mistake")].matches('\n').count();
    let run =
        Project::with(&text).run(&["plan", "--offline"]).code(2).says(says).says(&format!("publish.toml:{line}:"));
    run.says(&format!("hint: {hint}"));
}

const IMPORTED: &str = "[artifact.model]\nkind = \"onnx_file\"\npath = \"model.onnx\"\ntorchscript = \"script.pt\"\n";

#[test]
fn guidance_and_a_plain_forward_beside_torchscript_are_mistakes() {
    for guidance in ["guidance = \"external\"", "guidance = { baked = 1.5 }"] {
        let tables = format!("{IMPORTED}verify = \"torch\"\n{guidance}\n");
        refused(&tables, guidance, "`guidance` has no effect beside `torchscript`", "take `guidance` out");
    }
    for verify in ["verify = \"plain\"", "verify = { atol = 1e-3, with = \"plain\" }"] {
        let says = "`verify` names the plain forward, and `torchscript` a module to compare with instead";
        refused(&format!("{IMPORTED}{verify}\n"), verify, says, "take `torchscript` out");
    }
}

#[test]
fn guidance_of_an_imported_classifier_is_a_mistake() {
    let project = Project::with(&format!(
        "{HEAD}[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\nweights = \"raw\"\n\
         [artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n\
         [artifact.graph]\nkind = \"onnx\"\nfrom = \"weights\"\nguidance = {{ baked = 1.5 }}\n\
         [artifact.model]\nkind = \"onnx_file\"\npath = \"model.onnx\"\nweights = \"weights\"\nverify = \"plain\"\n\
         guidance = {{ baked = 1.5 }}\n"
    ));
    project.copy(&root().join("tests/fixtures/tiny_classifier_trainer.pt"), "model.pt");
    write_classifier(&project.path("model.onnx"));
    project.run(&["build", "graph"]).code(1).says("guidance cannot be baked into a classifier");
    project.run(&["build", "model"]).code(1).says("`guidance` is of a generator, and these weights are a resnet18");
}

#[test]
fn threads_on_a_device_and_guidance_twice_are_mistakes_of_latency() {
    let speed = "[artifact.graph]\nkind = \"onnx\"\nfrom = \"weights\"\nguidance = { baked = 2.0 }\n\
        [artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\n\
        [artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n\
        [artifact.speed]\nkind = \"latency\"\nfrom = \"graph\"\n";
    let says = "`threads` are those of the CPU, and `device = \"cuda\"` asks for a GPU";
    refused(&format!("{speed}device = \"cuda\"\nthreads = 2\n"), "threads = 2", says, "take one of both out");
    let says = "`graph` applies guidance 2 itself, so it would be applied twice";
    refused(&format!("{speed}steps = 2\nguidance = 1.5\n"), "guidance = 1.5", says, "take `guidance` out here");
}

/// A graph of two rows, no more and no less.
fn write_of_two_rows(path: &Path) {
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("two", &none, Precision::Fp32);
    graph.input("input", 1, &[Dim::Fixed(2), Dim::Fixed(3)]);
    graph.output("output", 1, &[Dim::Fixed(2), Dim::Fixed(3)]);
    graph.node("Neg", &["input"], "output", &[]);
    write_graph(&graph, &[], path);
}

#[test]
fn a_batch_that_a_graph_does_not_take_is_no_latency() {
    let manifest = |batch: &str| {
        format!(
            "{HEAD}[artifact.graph]\nkind = \"onnx_file\"\npath = \"two.onnx\"\n\
             [artifact.speed]\nkind = \"latency\"\nfrom = \"graph\"\nruns = 2\nthreads = 1\n{batch}"
        )
    };
    let project = Project::with(&manifest(""));
    write_of_two_rows(&project.path("two.onnx"));
    let refused = project.run(&[]).code(1).says("takes 2 rows, and `batch` is 1");
    refused.says("hint: set `batch = 2`");
    project.write("publish.toml", &manifest("batch = 4\n"));
    project.run(&[]).code(1).says("takes 2 rows, and `batch` is 4");
    project.write("publish.toml", &manifest("batch = 2\n"));
    project.run(&[]).code(0);
    project.run(&["explain", "speed"]).prints("fact rows = 2 ").prints("fact batch = 2 ");
}

/// Tells colours by the mean of each channel, of pictures of any size.
fn write_of_any_size(path: &Path) {
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("colours", &none, Precision::Fp32);
    graph.input("input", 1, &[Dim::Batch, Dim::Fixed(3), Dim::Any("height"), Dim::Any("width")]);
    graph.output("output", 1, &[Dim::Batch, Dim::Fixed(3)]);
    let pooled = graph.node("GlobalAveragePool", &["input"], "pooled", &[]);
    graph.node("Flatten", &[&pooled], "output", &[("axis", Attribute::Int(1))]);
    write_graph(&graph, &[], path);
}

#[test]
fn a_classifier_of_any_size_names_none_to_resize_to() {
    let project = coloured(CLASSIFY, false);
    write_of_any_size(&project.path("colours.onnx"));
    let manifest = project.read("publish.toml");
    project.run(&[]).code(0);
    project.run(&["explain", "seen"]).prints("fact agreement = 1 ");
    project.write("publish.toml", &manifest.replace("classifier =", "resize = \"bilinear\"\nclassifier ="));
    project.run(&[]).code(1).says("takes pictures of any size, so `resize` has none to bring them to");
    project.write("publish.toml", &manifest.replace("classifier =", "batch = 1\nclassifier ="));
    std::fs::write(project.path("pictures/red/0.png"), picture([200, 10, 10], 0, 10)).unwrap();
    project.run(&[]).code(1).says("there are pictures of 8x8 and of 10x10 pixels, and the classifier takes any size");
}

#[test]
fn guidance_of_a_generator_that_applies_it_is_a_mistake_of_samples() {
    let drawn = "[artifact.graph]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\nweights = \"weights\"\nverify = \"plain\"\n\
        guidance = { baked = 1.5 }\n[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\n\
        [artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n\
        [artifact.drawn]\nkind = \"samples\"\nfrom = \"graph\"\neach = [\"a\"]\ncount = 1\nsteps = 1\nseed = 0\nguidance = 2.5\n";
    let says = "`graph` applies guidance 1.5 itself, so it would be applied twice";
    refused(drawn, "guidance = 2.5", says, "take `guidance` out here");
    let project = Project::with(&format!(
        "{HEAD}[artifact.graph]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\n\
         [artifact.drawn]\nkind = \"samples\"\nfrom = \"graph\"\neach = [\"a\"]\ncount = 1\nsteps = 1\nseed = 0\nguidance = 2.5\n"
    ));
    write_noise_generator(&project.path("noise.onnx"));
    project.run(&["build", "drawn"]).code(0); // this one leaves it to the caller
}
