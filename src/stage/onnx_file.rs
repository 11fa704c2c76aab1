//! `onnx_file`: an ONNX model that was made elsewhere, taken in with what it says of itself, its external data, and a
//! comparison of its weights with those of a checkpoint; where `verify` asks for it, also of what it computes with the plain
//! forward of a network that hfbuild knows, or with libtorch's, or with a TorchScript module.
//!
//! The model is a file of the project, or what the user's own exporter (kind `command`) made. Nothing in it is changed.

use super::torch::{self, Held};
use super::{Declare, Kind, Workspace, onnx, safetensors};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::digest::Canonical;
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::RelPath;
use crate::core::value::Value;
use crate::model::architecture::Architecture;
use crate::model::magic;
use crate::model::onnx::emit::Guidance;
use crate::model::onnx::import::{ExternalFile, GraphInfo, OnnxFile};
use crate::model::onnx::verify::{Question, verify};
use crate::model::torch::Subject;
use std::collections::BTreeSet;
use std::path::Path;

/// See the module.
pub struct OnnxImport;

/// So many names of differing tensors are kept as a fact.
const NAMED: usize = 16;
/// The bound where the manifest names none.
const ATOL: f64 = 1e-4;

impl Kind for OnnxImport {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "onnx_file",
            doc: "an ONNX model that was made elsewhere: its signature, its external data, its weights compared",
            fields: &[
                Field::optional("path", FieldType::Path, "the model, a file of the project"),
                Field::optional("data", FieldType::List(&FieldType::Path), "its external data, beside it"),
                Field::optional("from", FieldType::Artifact, "in place of `path`: the command that exports it"),
                Field::optional(
                    "weights",
                    FieldType::Artifact,
                    "what its weights are compared with (kind `safetensors`)",
                ),
                Field::optional(
                    "verify",
                    torch::VERIFY,
                    "runs it against a forward of `weights`, a network that hfbuild knows, or against `torchscript`",
                ),
                Field::optional(
                    "torchscript",
                    FieldType::Text,
                    "a TorchScript module of the same network, an artifact or a file, that `verify` runs by libtorch",
                ),
                Field::optional(
                    "guidance",
                    FieldType::Either(&FieldType::Choice(&["external"]), &FieldType::Table(onnx::BAKED)),
                    "what `verify` expects of a generator that does not say so itself: who applies guidance",
                ),
            ],
            facts: &[
                "inputs",
                "outputs",
                "opset",
                "ir_version",
                "producer",
                "producer_version",
                "nodes",
                "initializers",
                "parameters",
                "bytes",
                "external_bytes",
                "external",
                "guidance",
                "weights_equal",
                "weights_differing",
                "weights_absent",
                "differing",
                "network",
                "max_abs_diff",
                "relative_l2",
                "runtime",
                "reference",
                "max_abs_diff_cuda",
                "relative_l2_cuda",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        3
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let data = cx.spec.texts("data");
        let mut inputs = Vec::new();
        let shape = match (cx.spec.text("path"), cx.spec.text("from")) {
            (Some(_), None) => {
                let path = cx.path("path")?;
                let shape = match data.is_empty() {
                    true => Shape::File(path.file_name().to_string()),
                    false => Shape::Dir,
                };
                inputs.push(("model".to_string(), InputFrom::File(path.clone()), cx.spec.place("path")));
                for (at, (text, span)) in data.into_iter().enumerate() {
                    let file: RelPath = text.parse().map_err(|why| cx.manifest.source.error(span.clone(), why))?;
                    if beside(path.as_str(), file.as_str()).is_none() {
                        let message = format!("`{file}` is not in the folder of `{path}`, where a model looks for it");
                        return Err(cx.manifest.source.error(span, message));
                    }
                    inputs.push((format!("data{at}"), InputFrom::File(file), span));
                }
                shape
            }
            (None, Some(_)) if data.is_empty() => {
                let from = cx.artifact_of("from", &["command"])?;
                let made = cx.manifest.artifact(from.as_str()).map(|spec| spec.texts("outputs")).unwrap_or_default();
                inputs.push(("model".to_string(), InputFrom::Artifact(from), cx.spec.place("from")));
                match &made[..] {
                    [(one, _)] if one.to_lowercase().ends_with(".onnx") => {
                        Shape::File(one.rsplit('/').next().unwrap_or(one).to_string())
                    }
                    _ => Shape::Dir,
                }
            }
            (None, Some(_)) => {
                let error = cx.error("data", "`data` belongs to `path`");
                return Err(error.hint("of a command, its external data is one of its `outputs`"));
            }
            _ => return Err(cx.error("path", "an imported model is named by `path` or by `from`, one of them")),
        };
        let mut declaration = Declaration::new("onnx_file", self.version(), shape);
        for (role, from, span) in inputs {
            declaration = declaration.input(&role, from, span);
        }
        if cx.spec.node("weights").is_some() {
            let weights = cx.artifact_of("weights", &["safetensors"])?;
            declaration = declaration.input("weights", InputFrom::Artifact(weights), cx.spec.place("weights"));
        }
        declaration = with_reference(cx, declaration)?;
        match (cx.spec.node("guidance").is_some(), cx.spec.node("verify").is_some()) {
            (true, true) => declaration = declaration.param("guidance", onnx::guidance(cx)),
            (true, false) => {
                return Err(cx.error("guidance", "`guidance` is what `verify` expects, which is not asked for"));
            }
            (false, _) => {}
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let laid = lay_out(workspace)?;
        let model = workspace.out().join(&laid.model);
        let file = OnnxFile::open(&model)?;
        let info = file.info()?;
        check_external(&info, &laid)?;
        file.require_external()?;
        let mut whole = Canonical::new("hfbuild onnx file 1");
        laid.files.iter().for_each(|(path, digest)| {
            whole.text(path).digest(digest);
        });
        let mut facts = Facts::default();
        let digest = match &laid.files[..] {
            [(_, one)] => *one,
            _ => whole.finish(),
        };
        let of = facts.subject(&laid.name, digest);
        describe(&mut facts, &info, of);
        facts.set("bytes", std::fs::metadata(&model).on("stat", &model)?.len(), of);
        if action.inputs.contains_key("weights") {
            let weights = safetensors::open(workspace.files("weights")?)?;
            let same = file.compare(&weights.tensors)?;
            facts.set("weights_equal", same.equal, of);
            // what cannot be found is no weight that is known to be the same
            facts.set("weights_differing", same.differing.len() + same.absent.len(), of);
            facts.set("weights_absent", same.absent.len(), of);
            let names = same.differing.into_iter().chain(same.absent).take(NAMED);
            facts.set("differing", names.collect::<Vec<_>>(), of);
        }
        if let Some(atol) = action.params.get("atol").and_then(Value::as_f64) {
            let (network, held) = verified(action, workspace, &model, &info)?;
            held.within(atol, workspace)?;
            held.facts(&mut facts, of);
            if let Some(network) = network {
                facts.set("network", network, of);
            }
        }
        Ok(facts)
    }
}

/// Who applies guidance, by the manifest and by the file itself; a contradiction is an error.
fn guidance(action: &Action, info: &GraphInfo) -> Result<Guidance> {
    let given = action.params.get("guidance").map(|given| match given {
        Value::Float(scale) => Guidance::Baked(*scale as f32),
        _ => Guidance::External,
    });
    let said = match info.metadata.get("hfbuild.guidance").map(String::as_str) {
        None => None,
        Some("external") => Some(Guidance::External),
        Some(word) => {
            let scale = word.strip_prefix("baked:").and_then(|scale| scale.parse().ok());
            let scale = scale.ok_or_else(|| Error::stage(format!("the model says its guidance is `{word}`")))?;
            Some(Guidance::Baked(scale))
        }
    };
    match (given, said) {
        (Some(given), Some(said)) if given != said => {
            Err(Error::stage(format!("the manifest says guidance is {given:?}, the model itself says {said:?}")))
        }
        (given, said) => Ok(said.or(given).unwrap_or(Guidance::External)),
    }
}

/// Adds what the model is compared with, only where it is asked for, so that what was taken in before stays valid.
fn with_reference(cx: &Declare<'_>, mut declaration: Declaration) -> Result<Declaration> {
    let has = |key: &str| cx.spec.node(key).is_some();
    if !has("verify") {
        return match has("torchscript") {
            true => {
                Err(cx.error("torchscript", "`torchscript` is what `verify` compares with, which is not asked for"))
            }
            false => Ok(declaration),
        };
    }
    declaration = declaration.param("atol", onnx::atol(cx, ATOL));
    declaration.resources.insert("cores".into(), usize::MAX);
    if has("torchscript") {
        without_effect(cx)?;
        let word = cx.spec.text("torchscript").unwrap_or_default();
        let module = match cx.manifest.artifact(word) {
            Some(_) => InputFrom::Artifact(cx.artifact_of("torchscript", &["command", "files"])?),
            None => InputFrom::File(cx.parsed("torchscript")?),
        };
        declaration = declaration.input("torchscript", module, cx.spec.place("torchscript"));
        return Ok(torch::declare(cx, declaration));
    }
    if !has("weights") {
        return Err(cx.error("verify", "`verify` compares with a forward of `weights`, which are not named"));
    }
    Ok(if torch::is_reference(cx) { torch::declare(cx, declaration) } else { declaration })
}

/// What says nothing beside `torchscript`, which is run as it is and on the graph's own inputs.
fn without_effect(cx: &Declare<'_>) -> Result<()> {
    if cx.spec.node("guidance").is_some() {
        return Err(cx
            .error("guidance", "`guidance` has no effect beside `torchscript`: the module is run as it is")
            .hint("take `guidance` out; a graph that applies it is compared with a module that applies it too"));
    }
    match torch::names_plain(cx) {
        true => Err(cx
            .error("verify", "`verify` names the plain forward, and `torchscript` a module to compare with instead")
            .hint("take `torchscript` out, or write `verify = \"torch\"`")),
        false => Ok(()),
    }
}

/// The graph run against its reference: the TorchScript module, or the network that the weights are of, which is named too.
fn verified(action: &Action, workspace: &Workspace, model: &Path, info: &GraphInfo) -> Result<(Option<String>, Held)> {
    if action.inputs.contains_key("torchscript") {
        let subject = Subject::TorchScript { path: workspace.file("torchscript")?.file.clone() };
        let held = torch::held(workspace, model, &subject, &Question::of_graph(info)?, Guidance::External)?;
        return Ok((None, held));
    }
    let guidance = guidance(action, info)?;
    let files = workspace.files("weights")?;
    let weights = safetensors::open(files)?;
    let architecture = Architecture::of_metadata(&weights.metadata)?.ok_or_else(|| {
        Error::stage("hfbuild knows the forward of TinyDiT and ResNet-18, and these weights are of another network")
            .hint("name a TorchScript module of it under `torchscript`, or leave `verify` out")
    })?;
    if let (Some(_), Architecture::ResNet18(_)) = (action.params.get("guidance"), &architecture) {
        return Err(Error::stage(format!(
            "`guidance` is of a generator, and these weights are a {}",
            architecture.name()
        ))
        .hint("take `guidance` out"));
    }
    let held = match torch::is_asked(action) {
        true => {
            let subject = torch::weights(files, &architecture);
            torch::held(workspace, model, &subject, &Question::of(&architecture), guidance)?
        }
        false => Held::plain(verify(model, &weights.tensors, &architecture, guidance)?),
    };
    Ok((Some(architecture.name()), held))
}

/// Where `file` lies relative to the folder of `model`; `None`: elsewhere.
fn beside<'a>(model: &str, file: &'a str) -> Option<&'a str> {
    match model.rsplit_once('/') {
        Some((folder, _)) => file.strip_prefix(folder)?.strip_prefix('/'),
        None => Some(file),
    }
}

/// What was put into the output directory.
struct Laid {
    /// The model's path there.
    model: String,
    /// Its name for people.
    name: String,
    /// Every file with its digest, the model first.
    files: Vec<(String, crate::core::digest::Digest)>,
}

/// Copies the model and its data into the output directory, each where the model looks for it.
fn lay_out(workspace: &Workspace) -> Result<Laid> {
    let given = workspace.inputs.get("model").map(Vec::as_slice).unwrap_or_default();
    let models: Vec<_> =
        given.iter().filter(|f| given.len() == 1 || f.path.to_lowercase().ends_with(".onnx")).collect();
    let [model] = models[..] else {
        return Err(Error::stage(format!("the command made {} files called `.onnx`, expected one", models.len())));
    };
    let data = workspace.inputs.iter().filter(|(role, _)| role.starts_with("data")).flat_map(|(_, files)| files);
    let others = given.iter().filter(|f| f.path != model.path).chain(data);
    let name = model.path.rsplit('/').next().unwrap_or(&model.path).to_string();
    let mut files = vec![(name.clone(), model.clone())];
    for other in others {
        let place = beside(&model.path, &other.path).ok_or_else(|| {
            Error::stage(format!(
                "`{}` is not in the folder of `{}`, where a model looks for it",
                other.path, model.path
            ))
        })?;
        files.push((place.to_string(), other.clone()));
    }
    for (place, file) in &files {
        magic::sniff_as(&file.file, &file.path)?; // nothing, or a Git LFS pointer in place of the content
        let out = workspace.output(place)?;
        reflink_copy::reflink_or_copy(&file.file, &out).on("copy", &file.file)?;
    }
    let files = files.into_iter().map(|(place, file)| (place, file.digest)).collect();
    Ok(Laid { model: name, name: model.path.clone(), files })
}

/// The external data that the model names must be there, and nothing else: a graph without its weights is no model.
fn check_external(info: &GraphInfo, laid: &Laid) -> Result<()> {
    let there: BTreeSet<&str> = laid.files.iter().skip(1).map(|(path, _)| path.as_str()).collect();
    let named: BTreeSet<&str> = info.external.iter().map(|file| file.location.trim_start_matches("./")).collect();
    if let Some(lost) = named.difference(&there).next() {
        return Err(Error::stage(format!(
            "`{}` keeps weights in the external data `{lost}`, which is not given with it",
            laid.name
        ))
        .hint(format!("name it under `data` (or among the command's `outputs`): a folder's path, then `{lost}`")));
    }
    let short = |file: &&ExternalFile| file.bytes.is_some_and(|bytes| bytes < file.needs);
    if let Some(file) = info.external.iter().find(short) {
        return Err(Error::stage(format!(
            "`{}` of `{}` has {} bytes, and the model's weights in it end at {}",
            file.location,
            laid.name,
            file.bytes.unwrap_or_default(),
            file.needs
        ))
        .hint("was it written, or downloaded, to its end?"));
    }
    match there.difference(&named).next() {
        Some(extra) => Err(Error::stage(format!("`{}` does not use `{extra}`, which is given as its data", laid.name))
            .hint("is it the data of another model?")),
        None => Ok(()),
    }
}

fn describe(facts: &mut Facts, info: &GraphInfo, of: usize) {
    facts.set("inputs", info.inputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    facts.set("outputs", info.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    facts.set("opset", info.opset, of);
    facts.set("ir_version", info.ir_version, of);
    facts.set("producer", info.producer.as_str(), of);
    facts.set("producer_version", info.producer_version.as_str(), of);
    facts.set("nodes", info.nodes, of);
    facts.set("initializers", info.initializers, of);
    facts.set("parameters", info.parameters, of);
    facts.set("external_bytes", info.external.iter().filter_map(|file| file.bytes).sum::<u64>(), of);
    facts.set("external", info.external.iter().map(|file| file.location.clone()).collect::<Vec<_>>(), of);
    if let Some(guidance) = info.metadata.get("hfbuild.guidance") {
        facts.set("guidance", Value::from(guidance.as_str()), of);
    }
}
