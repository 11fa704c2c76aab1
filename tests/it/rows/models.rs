//! Weights, graphs and pictures that are not what they are called.

use super::{
    CHECKPOINT, REPO, WEIGHTS, WEIGHTS_FILE, copies, edited, files, fixture, pointer, published, publishing, refused,
};
use crate::support::{Project, root, run};
use crate::{card, commands, evaluation};
use hfbuild::model::checkpoint::Checkpoint;
use hfbuild::model::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use hfbuild::model::safetensors_out;
use hfbuild::model::tensor::StateDict;
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

#[test]
fn row_01_an_untrained_placeholder_was_published_as_trained() {
    // the root manifest's own gates, on raw weights and on an average that is not there
    commands::a_placeholder_is_not_published_and_no_picture_is_drawn_for_it();
    // each gate alone
    let tables = format!("{CHECKPOINT}{WEIGHTS}");
    for (gate, why) in [
        ("checkpoint.step >= 1000", "`checkpoint.step` is 0"),
        ("checkpoint.ema_present", "`checkpoint.ema_present` is false"),
        ("checkpoint.loss < 0.5", "`checkpoint.loss` was not measured"),
    ] {
        let project = publishing(&tables, WEIGHTS_FILE, &[gate]);
        project.copy(&fixture("tiny_placeholder.pt"), "model.pt");
        refused(&project, 1, &["Refused gates[", why]).never_says("Running weights");
    }
    // a step that is a lie is seen through, also where nobody asked: weights that were never trained need a word for it
    let script = root().join("scripts/make_checkpoint.py");
    let untrained = |project: &Project, edit: &str| {
        let fresh = project.path("fresh.pt");
        run(Command::new("python3").arg(&script).arg("placeholder").arg(&fresh)).code(0);
        edited(project, &fresh, &format!("saved['step'] = 200000\n{edit}"));
    };
    let project = publishing(&tables, WEIGHTS_FILE, &["checkpoint.step >= 1000", "!checkpoint.freshly_initialised"]);
    untrained(&project, "");
    refused(&project, 1, &["Refused gates[", "`checkpoint.freshly_initialised` is true"]);
    let project = publishing(&tables, WEIGHTS_FILE, &["checkpoint.step >= 1000"]);
    untrained(&project, "");
    refused(&project, 1, &["`checkpoint` was never trained", "say so in a gate", "`checkpoint.freshly_initialised`"]);
    // the same where the last layer is drawn at random, and only the norms are as they began
    let random = "import array\n\
        def set_to(value): return lambda t: m.Tensor(t.shape, lambda: array.array('f', [value] * t.numel).tobytes())\n\
        for name, t in saved['model'].items():\n    \
        if '.norm' in name: saved['model'][name] = set_to(float(name.endswith('weight')))(t)\n    \
        elif name.startswith('final_layer'): saved['model'][name] = set_to(0.25)(t)";
    untrained(&project, random);
    refused(&project, 1, &["`checkpoint` was never trained"]);
    untrained(&project, "");
    project.write("publish.toml", &super::manifest(&tables, WEIGHTS_FILE, &["checkpoint.freshly_initialised"]));
    published(&project).says("1 gate passed");
    // a gate over the weights that are selected says nothing of the others in a file for fine-tuning
    let average = tables.replace("weights = \"raw\"", "weights = \"ema\"");
    let tuning = format!("{average}[artifact.tuning]\nkind = \"pytorch\"\nfrom = \"checkpoint\"\n");
    let both = format!("{WEIGHTS_FILE}, \"model.pt\" = \"tuning\"");
    let project = publishing(&tuning, &both, &["!checkpoint.freshly_initialised"]);
    let trained = root().join("checkpoints/tinydit_final.pt");
    let zeroed = "import array\n\
        raw = saved['model']\n\
        for name, t in raw.items():\n    \
        if name.startswith('final_layer'): raw[name] = m.Tensor(t.shape, lambda n=t.numel: array.array('f', [0.0] * n).tobytes())";
    edited(&project, &trained, zeroed);
    refused(&project, 1, &["`model.pt` was never trained", "\"model.pt\" = [\"untrained-weights\"]"]);
    project.copy(&trained, "model.pt");
    published(&project);
    // and that nothing was asked is said
    let project = publishing(&tables, WEIGHTS_FILE, &[]);
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    published(&project).says("; no gates");
}

#[test]
fn row_02_noise_was_published_as_samples() {
    commands::a_model_that_draws_noise_is_refused_by_the_picture_gate_and_not_published();
    evaluation::a_generator_that_hands_its_noise_through_is_seen();
    evaluation::the_classes_of_a_trained_model_are_farther_apart_than_its_noise_is();
}

/// A graph as an exporter leaves it that names no weight after its parameter, and turns every matrix.
fn renamed(from: &Path, to: &Path) {
    let mut model = ModelProto::decode(std::fs::read(from).unwrap().as_slice()).unwrap();
    for (at, tensor) in model.graph.as_mut().unwrap().initializer.iter_mut().enumerate() {
        tensor.name = Some(format!("onnx::MatMul_{at}"));
        if let ([rows, columns], Some(raw)) = (&tensor.dims[..], &tensor.raw_data) {
            let (rows, columns) = (*rows as usize, *columns as usize);
            let cell = |at: usize| raw[4 * (at % rows * columns + at / rows)..][..4].to_vec();
            let turned: Vec<u8> = (0..rows * columns).flat_map(cell).collect();
            tensor.raw_data = Some(turned.into());
            tensor.dims = vec![columns as i64, rows as i64];
        }
    }
    std::fs::write(to, model.encode_to_vec()).unwrap();
}

#[test]
fn row_03_the_onnx_was_older_than_the_weights() {
    // by name, from the same run and from an earlier one
    evaluation::an_imported_graph_older_than_the_weights_is_refused();
    // an exporter that renames and transposes hides nothing: neither what is the same nor what is not
    let tables = format!(
        "{}{WEIGHTS}[artifact.exported]\nkind = \"onnx_file\"\npath = \"export.onnx\"\nweights = \"weights\"\n",
        CHECKPOINT.replace("raw", "ema")
    );
    let files = "\"model.safetensors\" = \"weights\", \"onnx/model.onnx\" = \"exported\"";
    let project = publishing(&tables, files, &["exported.weights_differing == 0"]);
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    renamed(&fixture("tiny_trained_velocity.onnx"), &project.path("export.onnx"));
    published(&project);
    project.run(&["explain", "exported"]).prints("fact weights_equal = 40 ").prints("fact weights_absent = 0 ");
    project.write("publish.toml", &project.read("publish.toml").replace("\"ema\"", "\"raw\""));
    refused(&project, 1, &["Refused gates[exported.weights_differing == 0]"]);
    let explained = project.run(&["explain", "exported"]).stdout;
    let absent = explained.lines().find_map(|l| l.trim().strip_prefix("fact weights_absent = ")).unwrap();
    assert!(absent.split(' ').next().unwrap().parse::<u32>().unwrap() > 0, "{explained}");
    // and a graph that was compared with nothing passes no gate about it
    project.write("publish.toml", &project.read("publish.toml").replace("weights = \"weights\"\n", ""));
    refused(&project, 1, &["`exported.weights_differing` was not measured"]);
    // what hfbuild writes itself is made again, and holds the new weights
    let project = Project::small_model();
    project.run(&["build", "generator"]).code(0);
    project.copy(&root().join("checkpoints/tinydit_retrained.pt"), "checkpoints/tinydit_final.pt");
    project.run(&["build", "generator"]).code(0).says("Running generator: input `weights` changed");
    project.run(&["explain", "generator"]).prints("fact weights_differing = 0 ");
}

/// Every tensor of the export's raw weights, those whose name `edit` takes away left out, others renamed.
fn safetensors(project: &Project, edit: impl Fn(&str) -> Option<String>) {
    let source = Checkpoint::open(&fixture("tiny_trained_trainer.pt")).unwrap();
    let tensors = source.raw.as_ref().unwrap().tensors().iter().filter_map(|tensor| {
        let mut tensor = tensor.clone();
        tensor.name = edit(&tensor.name)?;
        Some(tensor)
    });
    let dict = StateDict::new(tensors.collect()).unwrap();
    safetensors_out::write(&project.path("model.safetensors"), &dict, &BTreeMap::new()).unwrap();
}

#[test]
fn row_07_a_key_that_was_missing_or_unexpected_was_read_over() {
    // one inspector, and it says of every layout what it is
    for (file, layout) in [
        ("tiny_placeholder.pt", "export"),
        ("tiny_trained_trainer.pt", "trainer"),
        ("tiny_classifier_trainer.pt", "classifier"),
        ("tiny_bare_state_dict.pt", "bare"),
        ("tiny_trained_ema_state_dict.pt", "bare"),
        ("tiny_legacy_nonzip.pt", "bare"),
    ] {
        let inspected = Project::empty().run(&["inspect", "--json", fixture(file).to_str().unwrap()]).code(0);
        let facts: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap();
        assert_eq!(facts["layout"], layout, "{file}");
        assert!(facts["tensors"].as_u64().unwrap() >= 39, "{file}: {facts}");
    }
    // a key too few, a key too many, a key misspelled: fatal, and named
    let config = "config = { num_heads = 4, depth = 2 }\n";
    let tables = format!("{CHECKPOINT}{config}{WEIGHTS}").replace("model.pt", "model.safetensors");
    let project = publishing(&tables, WEIGHTS_FILE, &[]);
    let keys = Checkpoint::open(&fixture("tiny_trained_trainer.pt")).unwrap();
    let keys: Vec<String> = keys.raw.unwrap().tensors().iter().map(|t| t.name.clone()).collect();
    assert_eq!(keys.len(), 40);
    for key in &keys {
        safetensors(&project, |name| Some(name.to_string()).filter(|name| name != key));
        match key.as_str() {
            // without it, it is the older layout, which is told by what it cannot say itself
            "pos_embed" => refused(&project, 1, &["`image_size`"]),
            _ => refused(&project, 1, &[&format!("`{key}` is missing")]),
        };
    }
    safetensors(&project, |name| Some(name.replace("blocks.1.norm2.bias", "blocks.1.norm2.bais")));
    refused(&project, 1, &["`blocks.1.norm2.bias` is missing"]);
    safetensors(&project, |name| Some(if name == "pos_embed" { "blocks.0.extra.weight".into() } else { name.into() }));
    refused(&project, 1, &["checkpoint"]);
    safetensors(&project, |name| Some(name.to_string()));
    published(&project);
    // an average that does not go with the weights
    let project = publishing(&format!("{CHECKPOINT}{WEIGHTS}").replace("raw", "ema"), WEIGHTS_FILE, &[]);
    let trained = root().join("checkpoints/tinydit_final.pt");
    edited(&project, &trained, "del saved['ema_params']['pos_embed']");
    refused(&project, 1, &["the EMA of ", "`pos_embed`"]);
    edited(&project, &trained, "saved['ema_params']['head.bias'] = saved['ema_params']['pos_embed']");
    refused(&project, 1, &["the EMA of ", "`head.bias`"]);
}

/// A valid safetensors file without a tensor.
fn write_hollow(path: &Path, header: &str) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn row_08_an_empty_safetensors_was_written_and_reported_as_success() {
    const NONE: &str = "{\"__metadata__\":{\"format\":\"pt\"}}  ";
    const EMPTY: &str = "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[0,0]}}";
    for (header, says) in [(NONE, "holds no tensors"), (EMPTY, "holds only empty tensors")] {
        let project = publishing(&files("model.safetensors"), "\"model.safetensors\" = \"file\"", &[]);
        write_hollow(&project.path("model.safetensors"), header);
        refused(&project, 1, &["model.safetensors`", says]);
        // by a program of the user's own, which ended well
        let made = copies("model = \"model.safetensors\"", "cp {in.model} out.safetensors", "[\"out.safetensors\"]");
        project.write("publish.toml", &super::manifest(&made, "\"weights/model.safetensors\" = \"made\"", &[]));
        refused(&project, 1, &["`weights/model.safetensors`", says]);
    }
    // and out of a checkpoint whose keys were selected away
    let tables = format!("{CHECKPOINT}{WEIGHTS}");
    let project = publishing(&tables, WEIGHTS_FILE, &["weights.parameters == checkpoint.parameters"]);
    edited(&project, &fixture("tiny_placeholder.pt"), "saved['model'] = {}");
    refused(&project, 1, &["checkpoint"]);
    write_hollow(&project.path("model.pt"), NONE);
    refused(&project, 1, &["checkpoint", "no tensors"]);
    std::fs::write(project.path("model.pt"), "").unwrap();
    refused(&project, 1, &["model.pt` is empty"]);
    // what is written is counted
    project.copy(&fixture("tiny_trained_trainer.pt"), "model.pt");
    published(&project);
    project.run(&["explain", "weights"]).prints("fact tensors = 40 ").prints("fact parameters = 189808 ");
    let dict = safetensors_out::open(&project.path("dist/model.safetensors")).unwrap().tensors;
    assert_eq!((dict.len(), dict.parameters()), (40, 189_808));
}

/// A graph whose weights are in `weights.data` beside it, and the data.
fn write_external(folder: &Path) {
    let mut model =
        ModelProto::decode(std::fs::read(fixture("tiny_trained_velocity.onnx")).unwrap().as_slice()).unwrap();
    let mut data = Vec::new();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let tensor: &mut TensorProto = tensor;
        let Some(raw) = tensor.raw_data.take() else { continue };
        let (offset, length) = (data.len().to_string(), raw.len().to_string());
        data.extend_from_slice(&raw);
        tensor.data_location = Some(1);
        let entry =
            |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
        tensor.external_data =
            vec![entry("location", "weights.data"), entry("offset", &offset), entry("length", &length)];
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.onnx"), model.encode_to_vec()).unwrap();
    std::fs::write(folder.join("weights.data"), data).unwrap();
}

#[test]
fn row_09_the_external_data_of_an_onnx_was_dropped() {
    evaluation::external_data_of_an_imported_graph_is_followed_and_absent_is_fatal();
    // a program that makes both, of which only the `*.onnx` goes on
    let exporter = |outputs: &str| copies("model = \"out/\"", "mkdir -p x; cp {in.model}/* x/", outputs);
    let both = exporter("[\"x/model.onnx\", \"x/weights.data\"]");
    let alone = exporter("[\"x/model.onnx\"]");
    let project = publishing(&alone, "\"onnx/model.onnx\" = \"made\"", &[]);
    write_external(&project.path("out"));
    refused(
        &project,
        1,
        &["`onnx/model.onnx` keeps weights in the external data `weights.data`", "`onnx/weights.data`"],
    );
    // both, but apart
    let project = publishing(&both, "\"onnx/\" = \"made\"", &[]);
    write_external(&project.path("out"));
    published(&project);
    assert!(project.tree("dist").keys().any(|path| path.ends_with("weights.data")));
    // cut off on its way: as it is, and taken in
    let data = std::fs::read(project.path("out/weights.data")).unwrap();
    std::fs::write(project.path("out/weights.data"), &data[..data.len() - 1]).unwrap();
    refused(&project, 1, &["weights.data` has 759231 bytes", "end at 759232"]);
    let imported =
        "[artifact.made]\nkind = \"onnx_file\"\npath = \"out/model.onnx\"\ndata = [\"out/weights.data\"]\n".to_string();
    project.write("publish.toml", &super::manifest(&imported, "\"onnx/\" = \"made\"", &[]));
    refused(&project, 1, &["`weights.data` of `out/model.onnx` has 759231 bytes", "to its end"]);
    std::fs::write(project.path("out/weights.data"), data).unwrap();
    published(&project);
    project.run(&["explain", "made"]).prints("fact external_bytes = 759232 ");
}

#[test]
fn row_10_git_lfs_pointers_were_uploaded_as_models() {
    commands::a_git_lfs_pointer_in_place_of_a_file_is_refused();
    let is_one = "is a Git LFS pointer";
    // as a checkpoint
    let project = publishing(&format!("{CHECKPOINT}{WEIGHTS}"), WEIGHTS_FILE, &[]);
    project.write("model.pt", &pointer());
    refused(&project, 1, &["model.pt`", is_one, "git lfs pull"]);
    project.run(&["inspect", "model.pt"]).code(1).says(is_one);
    // as a graph, and as the data of one
    let imported = "[artifact.made]\nkind = \"onnx_file\"\npath = \"out/model.onnx\"\ndata = [\"out/weights.data\"]\n";
    let project = publishing(imported, "\"onnx/\" = \"made\"", &[]);
    write_external(&project.path("out"));
    project.write("out/weights.data", &pointer());
    refused(&project, 1, &["out/weights.data`", is_one]);
    project.write("out/model.onnx", &pointer());
    refused(&project, 1, &["out/model.onnx`", is_one]);
    // as what a program of the user's own copied, alone or somewhere in a folder, whatever it is called
    let made =
        copies("a = \"a.bin\"", "mkdir -p out/deep; echo 1 > out/b.txt; cp {in.a} out/deep/picture.png", "[\"out\"]");
    let project = publishing(&made, "\"samples/\" = \"made\"", &[]);
    project.write("a.bin", &pointer());
    refused(&project, 1, &["deep/picture.png` is a Git LFS pointer, and not the content"]);
    let made = copies("a = \"a.bin\"", "cp {in.a} model.safetensors", "[\"model.safetensors\"]");
    project.write("publish.toml", &super::manifest(&made, "\"model.safetensors\" = \"made\"", &[]));
    refused(&project, 1, &["`model.safetensors` is a Git LFS pointer"]);
    project.write("publish.toml", &super::manifest(&files("a.bin"), "\"a.bin\" = \"file\"", &[]));
    refused(&project, 1, &["a.bin`", is_one]);
}

#[test]
fn row_22_config_json_was_written_from_typed_constants() {
    card::config_json_says_what_the_checkpoint_is_not_what_somebody_typed();
    // a checkpoint whose own configuration is not that of its tensors
    let metadata = "[artifact.metadata]\nkind = \"metadata\"\nfrom = \"checkpoint\"\n";
    let trained = root().join("checkpoints/tinydit_final.pt");
    let project = publishing(&format!("{CHECKPOINT}{metadata}"), "\"config.json\" = \"metadata\"", &[]);
    for (key, value) in
        [("depth", 12), ("embed_dim", 384), ("num_classes", 12), ("patch_size", 16), ("image_size", 128)]
    {
        edited(&project, &trained, &format!("saved['config']['{key}'] = {value}"));
        refused(&project, 1, &[&format!("config says `{key}` {value}, its tensors say ")]);
    }
    // and a manifest that says otherwise
    edited(&project, &trained, "");
    let manifest = project.read("publish.toml");
    let typed = manifest.replace("weights = \"raw\"", "weights = \"raw\"\nconfig = { depth = 12 }");
    project.write("publish.toml", &typed);
    refused(&project, 1, &["the manifest says `depth` ", "the checkpoint's config says "]);
    project.write("publish.toml", &manifest);
    published(&project);
    let config: serde_json::Value = serde_json::from_str(&project.read("dist/config.json")).unwrap();
    assert_eq!((config["depth"].as_i64(), config["num_classes"].as_i64()), (Some(5), Some(13)));
}

#[test]
fn row_23_input_names_drifted_and_guidance_was_applied_twice() {
    // the signature is published with the graph
    let trained = root().join("checkpoints/tinydit_final.pt");
    let generator = "[artifact.generator]\nkind = \"onnx\"\nfrom = \"weights\"\n";
    let samples = "[artifact.samples]\nkind = \"samples\"\nfrom = \"generator\"\neach = [\"a\"]\ncount = 1\nsteps = 1\nseed = 0\n";
    let tables = format!("{CHECKPOINT}{WEIGHTS}{generator}");
    let project = publishing(
        &tables,
        "\"onnx/model.onnx\" = \"generator\"",
        &["'timestep F32 [batch_size]' in generator.inputs"],
    );
    project.copy(&trained, "model.pt");
    published(&project);
    let record: serde_json::Value = serde_json::from_str(&project.read("dist/provenance.json")).unwrap();
    let facts = record.pointer("/predicate/hfbuild/artifacts/generator/facts").unwrap();
    let inputs = ["noise F32 [batch_size, 3, 32, 32]", "timestep F32 [batch_size]", "breed I64 [batch_size]"];
    assert!(inputs.iter().all(|input| facts["inputs"].to_string().contains(input)), "{facts}");
    assert!(facts["guidance"].to_string().contains("external"), "{facts}");
    // guidance that is in the graph is not applied by the sampler too
    let baked = generator.to_string() + "guidance = { baked = 1.5 }\n" + samples;
    let project =
        publishing(&format!("{CHECKPOINT}{WEIGHTS}{baked}guidance = 1.5\n"), "\"samples/\" = \"samples\"", &[]);
    project.copy(&trained, "model.pt");
    refused(&project, 2, &["`generator` applies guidance 1.5 itself, so it would be applied twice", "publish.toml:"]);
    project.write("publish.toml", &project.read("publish.toml").replace("\nguidance = 1.5\n", "\n"));
    project.run(&["build", "generator"]).code(0);
    let graph = project.path("baked.onnx");
    let made = project.tree("cache/blobs").into_values().find(|b| b.windows(9).any(|w| w == b"baked:1.5")).unwrap();
    std::fs::write(&graph, &made).unwrap();
    // nor where the graph was brought along
    let imported = "[artifact.generator]\nkind = \"onnx_file\"\npath = \"baked.onnx\"\n";
    let twice = format!("{imported}{samples}guidance = 1.5\n");
    project.write("publish.toml", &super::manifest(&twice, "\"samples/\" = \"samples\"", &[]));
    refused(&project, 1, &["the graph says guidance `baked:1.5`, and guidance would be applied twice"]);
    // a graph that does not say who applies guidance, and one whose input is called otherwise
    project.copy(&fixture("tiny_trained_cfg.onnx"), "baked.onnx");
    refused(&project, 1, &["the graph does not say who applies guidance"]);
    let gate = &["generator.guidance == 'external'"];
    project.write("publish.toml", &super::manifest(imported, "\"onnx/model.onnx\" = \"generator\"", gate));
    refused(&project, 1, &["`generator.guidance` was not measured"]);
    let mut model = ModelProto::decode(made.as_slice()).unwrap();
    let main = model.graph.as_mut().unwrap();
    main.input.iter_mut().filter(|i| i.name.as_deref() == Some("noise")).for_each(|i| i.name = Some("x".into()));
    for name in main.node.iter_mut().flat_map(|node| &mut node.input).filter(|name| *name == "noise") {
        *name = "x".into();
    }
    std::fs::write(&graph, model.encode_to_vec()).unwrap();
    project.write("publish.toml", &super::manifest(&format!("{imported}{samples}"), "\"samples/\" = \"samples\"", &[]));
    refused(&project, 1, &["the graph has no input `noise`"]);
    assert_eq!(project.commits(REPO), 0);
}
