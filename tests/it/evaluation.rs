//! Samples against their noise and between classes, a classifier over them, latency, reports, imported graphs.

use crate::check::{HEAD, project, shell};
use crate::support::Project;
use hfbuild::model::noise::normals;
use hfbuild::model::onnx::graph::{Attribute, Dim, GraphBuilder};
use hfbuild::model::onnx::precision::Precision;
use hfbuild::model::onnx::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use hfbuild::model::sample::{Picture, png, to_rgb8};
use hfbuild::model::tensor::StateDict;
use std::path::Path;

fn model(metadata: &[(&str, &str)]) -> ModelProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("test".into()),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
        metadata_props: metadata.iter().map(entry).collect(),
        ..Default::default()
    }
}

pub fn write_graph(graph: &GraphBuilder, metadata: &[(&str, &str)], path: &Path) {
    graph.write(&model(metadata), path, false).unwrap();
}

/// `[batch, 3, side, side]`.
fn picture_of(side: usize) -> [Dim; 4] {
    [Dim::Batch, Dim::Fixed(3), Dim::Fixed(side), Dim::Fixed(side)]
}

/// Tells red, green and blue by the mean of each channel.
pub fn write_classifier(path: &Path) {
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("colours", &none, Precision::Fp32);
    graph.input("input", 1, &picture_of(8));
    graph.output("output", 1, &[Dim::Batch, Dim::Fixed(3)]);
    let weight = graph.floats("weight", &[3, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let bias = graph.floats("bias", &[3], &[0.0; 3]);
    let pooled = graph.node("GlobalAveragePool", &["input"], "pooled", &[]);
    let flat = graph.node("Flatten", &[&pooled], "flat", &[("axis", Attribute::Int(1))]);
    graph.node("Gemm", &[&flat, &weight, &bias], "output", &[("transB", Attribute::Int(1))]);
    write_graph(&graph, &[], path);
}

/// A generator whose velocity is zero, so that it hands its noise through.
pub fn write_noise_generator(path: &Path) {
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("noise", &none, Precision::Fp32);
    let shape = picture_of(16);
    graph.input("noise", 1, &shape);
    graph.input("timestep", 1, &[Dim::Batch]);
    graph.input("breed", 7, &[Dim::Batch]);
    graph.output("velocity", 1, &shape);
    graph.node("Sub", &["noise", "noise"], "velocity", &[]);
    let metadata = [("hfbuild.num_labels", "2"), ("hfbuild.null_label", "1"), ("hfbuild.guidance", "external")];
    write_graph(&graph, &metadata, path);
}

pub fn picture(colour: [u8; 3], k: u8, side: usize) -> Vec<u8> {
    let pixels = (0..side * side).flat_map(|_| colour.map(|v| v.saturating_sub(k))).collect();
    png(&Picture { width: side, height: side, pixels }).unwrap()
}

/// Three labels of one colour each, which a command hands on; blue's second picture is red where `wrong`.
pub fn coloured(tables: &str, wrong: bool) -> Project {
    let copy = shell("drawn", "cp -rL pictures drawn", r#"["drawn"]"#, "inputs = { set = \"pictures/\" }");
    let project = project(&format!("{copy}{tables}"));
    for (label, colour) in [("red", [200, 10, 10]), ("green", [10, 200, 10]), ("deep_blue", [10, 10, 200])] {
        for k in 0..2u8 {
            let colour = if wrong && label == "deep_blue" && k == 1 { [200, 10, 10] } else { colour };
            let path = project.path(&format!("pictures/{label}/{k}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, picture(colour, k, 8)).unwrap();
        }
    }
    project
}

/// A row of `rows`.
pub fn a_generator_that_hands_its_noise_through_is_seen() {
    let gates = "[artifact.gates]\nkind = \"check\"\nrequire = [\"samples.noise_correlation < 0.9\"]\n\
         [artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = { \"samples/\" = \"samples\" }\n\
         [hub]\nrepo = \"me/noise\"\nendpoint = \"embedded\"\n";
    let tables = "[artifact.generator]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\n\
         [artifact.samples]\nkind = \"samples\"\nfrom = \"generator\"\neach = [\"a\", \"b\"]\ncount = 3\nsteps = 2\nseed = 5\n\
         [artifact.apart]\nkind = \"statistics\"\nfrom = \"samples\"\n";
    let project = project(&format!("{tables}{gates}"));
    write_noise_generator(&project.path("noise.onnx"));
    project.run(&[]).code(1).says("Refused gates[").says("`samples.noise_correlation` is 1");
    assert_eq!(project.commits("me/noise"), 0);
    project.run(&["build", "apart"]).code(0);
    project.run(&["explain", "samples[a]"]).prints("fact noise_difference = 0 ").prints("fact noise_correlation = 1 ");
    // drawn without regard to the label, the classes are no farther apart than pictures of one class
    let json: serde_json::Value = serde_json::from_str(&statistics(&project)).unwrap();
    let ratio = json["between_within_ratio"].as_f64().unwrap();
    assert!((0.95..1.05).contains(&ratio), "{json}");
    let noise = to_rgb8(&normals(5, 0, 0, 3 * 16 * 16), [3, 16, 16]).unwrap();
    assert_eq!(project.run(&["explain", "samples[a]"]).stdout.matches("made a/0.png").count(), 1);
    assert!(project.tree("cache/blobs").values().any(|bytes| *bytes == png(&noise[0]).unwrap()));
}

/// The text of the artifact `apart`, out of the store.
fn statistics(project: &Project) -> String {
    let blobs = project.tree("cache/blobs");
    let found = blobs.values().find(|bytes| String::from_utf8_lossy(bytes).contains("between_within_ratio"));
    String::from_utf8(found.expect("statistics.json").clone()).unwrap()
}

/// A row of `rows`.
pub fn the_classes_of_a_trained_model_are_farther_apart_than_its_noise_is() {
    let apart = "\n[artifact.apart]\nkind = \"statistics\"\nfrom = \"samples\"\n";
    let project = Project::root_model(|m| {
        m.replace("steps = 50", "steps = 8")
            .replace("count = 8", "count = 3")
            .replace("[artifact.gates]", &format!("{apart}[artifact.gates]"))
    });
    project.run(&["build", "apart"]).code(0);
    let json: serde_json::Value = serde_json::from_str(&statistics(&project)).unwrap();
    assert!(json["between_within_ratio"].as_f64().unwrap() > 1.05, "{json}");
    assert_eq!((json["classes"].as_i64(), json["count"].as_i64()), (Some(13), Some(39)));
    let explained = project.run(&["explain", "samples[Tiger]"]).stdout;
    let noise = explained.lines().find_map(|l| l.trim().strip_prefix("fact noise_correlation = ")).unwrap();
    let noise: f64 = noise.split(' ').next().unwrap().parse().unwrap();
    assert!(noise.abs() < 0.6, "{noise}");
}

pub const CLASSIFY: &str = "[params]\nclasses = [\"red\", \"green\", \"deep blue\"]\n[artifact.seen]\nkind = \"classify\"\n\
    samples = \"drawn\"\nclassifier = \"colours.onnx\"\nlabels = \"params.classes\"\n";

#[test]
fn a_classifier_says_how_many_samples_show_the_label_that_was_asked_for() {
    let project = coloured(CLASSIFY, true);
    write_classifier(&project.path("colours.onnx"));
    project.run(&[]).code(0);
    project
        .run(&["explain", "seen"])
        .prints("fact agreement = 0.833333 (of the samples, judged by colours.onnx")
        .prints("fact by_label.deep_blue = 0.5 ")
        .prints("fact by_label.red = 1 ")
        .prints("fact lowest_agreement = 0.5 ")
        .prints("fact count = 6 ")
        .prints("fact classifier_blake3 = ")
        .prints("fact samples_blake3 = ");
}

#[test]
fn a_classifier_of_other_labels_classes_or_sizes_is_refused() {
    let project = coloured(CLASSIFY, false);
    write_classifier(&project.path("colours.onnx"));
    let manifest = project.read("publish.toml");
    let with = |from: &str, to: &str| project.write("publish.toml", &manifest.replace(from, to));
    with("\"green\", ", "");
    project.run(&[]).code(1).says("the label `green`, which the classifier does not");
    with("\"green\", ", "\"green\", \"grey\", ");
    project.run(&[]).code(1).says("tells 3 classes apart, and `labels` names 4");
    std::fs::write(project.path("pictures/red/0.png"), picture([200, 10, 10], 0, 10)).unwrap();
    with("x", "x");
    project.run(&[]).code(1).says("10x10 pixels, the classifier takes 8x8").says("resize");
    with("classifier =", "resize = \"bilinear\"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\nclassifier =");
    project.run(&[]).code(0);
    project.run(&["explain", "seen"]).prints("fact agreement = 1 ");
    project.copy(&project.path("pictures/red/0.png"), "colours.onnx");
    project.run(&[]).code(1).says("not an ONNX model");
}

#[test]
fn latency_is_measured_once_and_stands_on_a_card_that_names_it() {
    let tables = "[artifact.generator]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\n\
        [artifact.speed]\nkind = \"latency\"\nfrom = \"generator\"\nbatch = 2\nthreads = 1\nruns = 3\nsteps = 4\nguidance = 1.5\n\
        [artifact.card]\nkind = \"card\"\ntemplate = \"card.hbs\"\nfacts = [\"speed\"]\n\
        [artifact.publish]\nkind = \"upload\"\nfiles = { \"README.md\" = \"card\", \"model.onnx\" = \"generator\" }\n\
        [hub]\nrepo = \"me/speed\"\nendpoint = \"embedded\"\n";
    let project = project(tables);
    write_noise_generator(&project.path("noise.onnx"));
    project.write(
        "card.hbs",
        "---\nlicense: mit\n---\n{{sci speed.picture_seconds}} s a picture (batch {{speed.batch}}, {{speed.threads}} thread, \
         {{speed.forwards}} forwards of {{speed.rows}} rows, {{sci speed.forward_seconds}} s each, {{speed.runtime}})\n\
         {{measured_on speed.picture_seconds \"model.onnx\"}} {{subject speed.picture_seconds}}\n",
    );
    project.run(&[]).code(0);
    let card = project.read("dist/README.md");
    assert!(card.contains("(batch 2, 1 thread, 12 forwards of 4 rows, ") && card.contains("rten 0."), "{card}");
    assert!(!project.read("dist/provenance.json").contains("forward_seconds\": {"));
    project.run(&["explain", "speed"]).code(0).prints("fact picture_seconds = ").prints("(of noise.onnx, ");
    project.run(&[]).code(0).says("ran 0 stages").says("remote unchanged");
    assert_eq!((project.commits("me/speed"), project.read("dist/README.md")), (1, card));
}

/// A command that writes this report on `model.bin`.
fn reported(report: &str) -> Project {
    let more = "inputs = { model = \"model.bin\", report = \"report.txt\" }\nfacts_file = \"fid.json\"\n\
        facts_schema = { fid = \"number\", samples = \"integer\" }\n\
        facts_subject = { input = \"model\", key = \"model.sha256\" }";
    let project = project(&shell("fid", "cp report.txt fid.json", r#"["fid.json"]"#, more));
    project.write("model.bin", "weights");
    project.write("report.txt", report);
    project
}

const SHA256: &str = "9d4b2e3a16ed5f4ba27eea4ea1e2ca9e6e1bbd5f2f0d0b2f0000000000000000";

fn sha256(bytes: &[u8]) -> String {
    hfbuild::core::record::hub_digests(bytes).sha256
}

/// A row of `rows`.
pub fn a_report_is_typed_and_bound_to_the_file_that_it_names() {
    let good = format!("{{\"fid\": 12.5, \"samples\": 100, \"model\": {{\"sha256\": \"{}\"}}}}", sha256(b"weights"));
    let project = reported(&good);
    project.run(&[]).code(0);
    project.run(&["explain", "fid"]).prints("fact fid = 12.5 (of model.bin, ");
    let refused = |report: &str, texts: &[&str]| {
        project.write("report.txt", report);
        let run = project.run(&[]).code(1);
        texts.iter().for_each(|text| assert!(run.stderr.contains(text), "`{text}` is not in {}", run.stderr));
    };
    refused(
        &good.replace("12.5", "\"12.5\"").replace("100", "100.5").replace("\"model\"", "\"extra\": 1, \"model\""),
        &[
            "`fid` is a string, expected a number",
            "`samples` is a float (100.5), expected an integer",
            "`extra` is not in the schema",
        ],
    );
    refused(&good.replace("\"samples\": 100, ", ""), &["`samples` is missing"]);
    refused(&good.replace(&sha256(b"weights"), SHA256), &["about another file", SHA256, &sha256(b"weights")]);
    refused(&good.replace("sha256", "md5"), &["`model.sha256` is missing"]);
    refused("{\"fid\": NaN}", &["is no JSON"]);
    refused(&good.replace("12.5", "50.5, \"fid\": 12.5"), &["the key `fid` comes twice"]);
    refused(
        &good.replace("\"sha256\"", &format!("\"sha256\": \"{SHA256}\", \"sha256\"")),
        &["the key `sha256` comes twice"],
    );
    let blake3 = hfbuild::core::digest::Digest::of(b"weights").hex();
    project.write("report.txt", &good.replace(&sha256(b"weights"), &format!("blake3:{blake3}")));
    project.run(&[]).code(0);
}

/// A row of `rows`.
pub fn a_report_made_elsewhere_is_held_against_the_file_that_it_is_about() {
    let tables = "[artifact.fid]\nkind = \"report\"\npath = \"fid.json\"\nschema = { fid = \"number\" }\n\
        subject = { of = \"weights\", key = \"sha256\" }\n\
        [artifact.weights]\nkind = \"files\"\npaths = [\"model.txt\"]\n\
        [artifact.gates]\nkind = \"check\"\nrequire = [\"fid.fid < 30.0\"]\n";
    let project = project(tables);
    project.write("model.txt", "one");
    project.write("fid.json", &format!("{{\"fid\": 12.5, \"sha256\": \"{}\"}}", sha256(b"one")));
    project.run(&[]).code(0);
    project.run(&["check"]).code(0).prints("`fid.fid` is 12.5").prints("(of model.txt, ");
    project.write("model.txt", "two");
    project.run(&[]).code(1).says("about another file than `weights`").says(&sha256(b"one")).says(&sha256(b"two"));
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("fid.fid < 30.0", "fid.fids < 30.0"));
    project.run(&["plan"]).code(2).says("`fid.fids` in this condition is nothing").says("did you mean `fid.fid`?");
}

/// A graph whose one weight is in `w.data` beside it.
fn write_external(project: &Project, path: &str) {
    use prost::Message;
    let plain = project.path("plain.onnx");
    let none = StateDict::new(vec![]).unwrap();
    let mut graph = GraphBuilder::new("external", &none, Precision::Fp32);
    graph.input("x", 1, &[Dim::Batch, Dim::Fixed(2)]);
    graph.output("y", 1, &[Dim::Batch, Dim::Fixed(2)]);
    let weight = graph.floats("w", &[2], &[1.0, 2.0]);
    graph.node("Add", &["x", &weight], "y", &[]);
    write_graph(&graph, &[], &plain);
    let mut model = ModelProto::decode(std::fs::read(&plain).unwrap().as_slice()).unwrap();
    std::fs::remove_file(plain).unwrap();
    let tensor: &mut TensorProto = &mut model.graph.as_mut().unwrap().initializer[0];
    let raw = tensor.raw_data.take().unwrap();
    tensor.data_location = Some(1);
    tensor.external_data = [("location", "w.data"), ("offset", "0"), ("length", "8")]
        .map(|(k, v)| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) })
        .to_vec();
    project.write(path, "");
    std::fs::write(project.path(path), model.encode_to_vec()).unwrap();
    std::fs::write(project.path(path).with_file_name("w.data"), raw).unwrap();
}

/// A row of `rows`.
pub fn external_data_of_an_imported_graph_is_followed_and_absent_is_fatal() {
    let project = project("[artifact.graph]\nkind = \"onnx_file\"\npath = \"out/model.onnx\"\n");
    write_external(&project, "out/model.onnx");
    project.run(&[]).code(1).says("keeps weights in the external data `w.data`").says("name it under `data`");
    let data =
        format!("{HEAD}[artifact.graph]\nkind = \"onnx_file\"\npath = \"out/model.onnx\"\ndata = [\"out/w.data\"]\n");
    let publish = "[artifact.publish]\nkind = \"upload\"\nfiles = { \"onnx/\" = \"graph\" }\n[hub]\nrepo = \"me/x\"\nendpoint = \"embedded\"\n";
    project.write(
        "publish.toml",
        &format!("{data}[artifact.speed]\nkind = \"latency\"\nfrom = \"graph\"\nruns = 2\n{publish}"),
    );
    project.run(&[]).code(0);
    assert!(project.path("dist/onnx/w.data").exists() && project.path("dist/onnx/model.onnx").exists());
    project.run(&["explain", "graph"]).prints("fact external = [\"w.data\"]").prints("fact external_bytes = 8 ");
    // a pointer in place of the data, or a part of it
    project.write("out/w.data", "1234567");
    project
        .run(&["build", "graph"])
        .code(1)
        .says("`w.data` of `out/model.onnx` has 7 bytes, and the model's weights in it end at 8");
    std::fs::remove_file(project.path("out/w.data")).unwrap();
    project.run(&["plan"]).code(2).says("out/w.data");
    // published as it is, it is looked at too
    project.write("publish.toml", &format!("{HEAD}[artifact.graph]\nkind = \"files\"\npaths = [\"out/model.onnx\"]\n"));
    project.run(&[]).code(1).says("external data `w.data`, which is not among `paths`");
}

/// A row of `rows`.
pub fn an_imported_graph_older_than_the_weights_is_refused() {
    let project = Project::small_model();
    project.run(&["build", "generator"]).code(0);
    project.copy(&project.path("dist/onnx/model.onnx"), "export.onnx");
    let manifest = project.read("publish.toml").replace(
        "[artifact.card]",
        "[artifact.exported]\nkind = \"onnx_file\"\npath = \"export.onnx\"\nweights = \"weights\"\n\n[artifact.card]",
    );
    project.write(
        "publish.toml",
        &manifest.replace("\"samples.saturated <= 0.9\"", "\"exported.weights_differing == 0\""),
    );
    project.run(&["build", "exported"]).code(0);
    project.run(&["check"]).prints("passed   gates[exported.weights_differing == 0]");
    project.run(&["explain", "exported"]).prints("fact opset = 18 ").prints("fact inputs = [\"noise F32 [batch_size");
    project.copy(&crate::support::root().join("checkpoints/tinydit_retrained.pt"), "checkpoints/tinydit_final.pt");
    project.run(&["build", "exported"]).code(0);
    project.run(&["check"]).code(1).prints("refused  gates[exported.weights_differing == 0]");
}

#[test]
fn the_figures_of_a_program_without_inputs_are_of_its_command_line() {
    let told = |score: &str| {
        let line = format!("printf '{{{{\"score\": %s}}}}' {score} > a.json");
        let project = project(&shell("a", &line, r#"["a.json"]"#, "facts_file = \"a.json\""));
        project.run(&[]).code(0);
        let told = project.run(&["explain", "a"]).code(0).prints("(of the command line, no input, ").stdout;
        told.lines().find(|line| line.contains("fact score = ")).expect("the fact").to_string()
    };
    let digest = |line: &str| line.rsplit(' ').next().map(String::from);
    assert_ne!(digest(&told("0.5")), digest(&told("0.75")));
}
