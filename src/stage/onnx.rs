//! `onnx`: the network as an ONNX graph, written by hfbuild itself, and verified by running it against a plain forward in
//! Rust that shares no code with the emitter.
//!
//! One file, or with `external_data` a directory of two: the manifest has to say which, because the plan names the files
//! of the repository before any stage has run. [`graph_file`] is how other kinds read either.

use super::torch::{self, Held};
use super::{Declare, Kind, Workspace, int_param, param, text_param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::digest::{Canonical, Digest};
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::dom::Data;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::ArtifactName;
use crate::core::value::Value;
use crate::model::architecture::Architecture;
use crate::model::onnx::emit::{self, EmitOptions, Emitted, Guidance};
use crate::model::onnx::graph::data_path;
use crate::model::onnx::import::OnnxFile;
use crate::model::onnx::precision::Precision;
use crate::model::onnx::verify::{Question, Verified, verify};
use crate::model::tensor::StateDict;
use crate::model::{onnx, resnet};
use std::path::{Path, PathBuf};

/// See the module.
pub struct Onnx;

/// The file, and what it is called in an artifact of two.
const FILE: &str = "model.onnx";

impl Kind for Onnx {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "onnx",
            doc: "an ONNX graph from the weights, verified against a plain forward",
            fields: &[
                Field::required("from", FieldType::Artifact, "the weights (kind `safetensors`)"),
                Field::optional("opset", FieldType::Param(&FieldType::Int(17, 21)), "the opset, 18 by default"),
                Field::optional(
                    "guidance",
                    FieldType::Either(&FieldType::Choice(&["external"]), &FieldType::Table(BAKED)),
                    "who applies guidance: the caller, or the graph itself",
                ),
                Field::optional(
                    "precision",
                    FieldType::Choice(Precision::NAMES),
                    "what the weights are stored in, `fp32` by default",
                ),
                Field::optional(
                    "external_data",
                    FieldType::Bool,
                    "the weights in `model.onnx.data` beside `model.onnx`: needed from 2 GB on",
                ),
                Field::optional("verify", torch::VERIFY, "the reference of the verification, and its bound"),
            ],
            facts: &[
                "opset",
                "bytes",
                "nodes",
                "max_abs_diff",
                "relative_l2",
                "network",
                "precision",
                "null_label",
                "image_size",
                "guidance",
                "runtime",
                "inputs",
                "outputs",
                "weights_equal",
                "weights_differing",
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
        let from = cx.artifact_of("from", &["safetensors"])?;
        let precision = cx.spec.text("precision").and_then(Precision::from_name).unwrap_or_default();
        let external = matches!(cx.spec.node("external_data").map(|node| &node.data), Some(Data::Bool(true)));
        let shape = if external { Shape::Dir } else { Shape::File(FILE.into()) };
        let mut declaration = Declaration::new("onnx", self.version(), shape)
            .param("opset", cx.int("opset").unwrap_or(emit::DEFAULT_OPSET))
            .param("atol", atol(cx, default_atol(precision)))
            .param("guidance", guidance(cx))
            .param("precision", precision.name())
            .param("external_data", external)
            .input("weights", InputFrom::Artifact(from), cx.spec.place("from"));
        declaration.resources.insert("cores".into(), usize::MAX);
        Ok(if torch::is_reference(cx) { torch::declare(cx, declaration) } else { declaration })
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let file = super::safetensors::open(workspace.files("weights")?)?;
        let architecture = Architecture::of_metadata(&file.metadata)?.ok_or_else(|| {
            Error::stage("hfbuild writes ONNX for TinyDiT and ResNet-18, and these weights are of another network")
                .hint("for other networks, run your own exporter with kind = \"command\"")
        })?;
        let options = options(action)?;
        let out = workspace.output(FILE)?;
        let emitted = match &architecture {
            Architecture::TinyDit(config) => emit::emit(&out, &file.tensors, config, &options)?,
            Architecture::ResNet18(config) => onnx::resnet::emit(&out, &file.tensors, config, &options)?,
        };
        (workspace.progress)(1, 2);
        workspace.cancel.check()?;
        let held = match torch::is_asked(action) {
            true => {
                let subject = torch::weights(workspace.files("weights")?, &architecture);
                torch::held(workspace, &out, &subject, &Question::of(&architecture), options.guidance)?
            }
            false => Held::plain(verify(&out, &file.tensors, &architecture, options.guidance)?),
        };
        held.within(param(action, "atol")?.as_f64().unwrap_or_default(), workspace)?;
        (workspace.progress)(2, 2);
        facts(&out, &emitted, &architecture, &held, &options, &file.tensors)
    }
}

fn options(action: &Action) -> Result<EmitOptions> {
    let guidance = match param(action, "guidance")? {
        Value::Float(scale) => Guidance::Baked(*scale as f32),
        _ => Guidance::External,
    };
    Ok(EmitOptions {
        opset: int_param(action, "opset")?,
        guidance,
        precision: Precision::from_name(text_param(action, "precision")?).unwrap_or_default(),
        external_data: param(action, "external_data")? == &Value::Bool(true),
        ..Default::default()
    })
}

/// `{ baked = 1.5 }`.
pub(super) const BAKED: &[Field] =
    &[Field::required("baked", FieldType::Param(&FieldType::Number(true)), "the guidance scale")];

/// The bound where the manifest names none.
fn default_atol(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1e-4,
        Precision::Fp16 => 5e-3,
        Precision::Int8 => 1e-1,
    }
}

/// Holds what was found against the bound, and says it. `by`: the reference, where it is not the plain forward.
pub(super) fn within(found: &Verified, atol: f64, workspace: &Workspace, by: &str) -> Result<()> {
    workspace.say(&format!(
        "largest difference {:e}, bound {atol:e}; relative {:e}{by}",
        found.max_abs_diff, found.relative_l2
    ))?;
    if found.max_abs_diff.is_nan() || found.max_abs_diff > atol {
        return Err(Error::stage(format!(
            "the graph differs from the network by {:.3e} at most{by}, and {atol:.3e} is allowed",
            found.max_abs_diff
        ))
        .hint("the bound is `verify = { atol = ... }`"));
    }
    Ok(())
}

/// The largest difference that is allowed: the manifest's bound, or `default`.
pub(super) fn atol(cx: &Declare<'_>, default: f64) -> f64 {
    match cx.value("verify") {
        Some(Value::Map(map)) => map.get("atol").and_then(Value::as_f64).unwrap_or(default),
        _ => default,
    }
}

/// The scale that the graph applies itself, or the word `external`.
pub(super) fn guidance(cx: &Declare<'_>) -> Value {
    let Some(Value::Map(map)) = cx.value("guidance") else { return "external".into() };
    let scale = match map.get("baked") {
        Some(Value::Text(t)) => {
            t.strip_prefix("params.").and_then(|p| cx.manifest.params.get(p)).and_then(Value::as_f64)
        }
        other => other.and_then(Value::as_f64),
    };
    scale.map_or_else(|| "external".into(), Value::Float)
}

/// Refuses `guidance` under a generator that the manifest says applies it itself: it would be applied twice.
pub(super) fn applied_once(cx: &Declare<'_>, from: &ArtifactName) -> Result<()> {
    let Some(spec) = cx.manifest.artifact(from.as_str()) else { return Ok(()) };
    match (cx.float("guidance"), guidance(&Declare { spec, ..*cx })) {
        (Some(_), Value::Float(scale)) => Err(cx
            .error("guidance", format!("`{from}` applies guidance {scale} itself, so it would be applied twice"))
            .hint(format!("take `guidance` out here, or set `guidance = \"external\"` in [artifact.{from}]"))),
        _ => Ok(()),
    }
}

/// A graph that another kind reads.
pub(super) struct GraphInput {
    /// Where the model can be opened, with its external data beside it.
    pub file: PathBuf,
    /// Of the model and its external data.
    pub digest: Digest,
}

/// The graph of an input. The store keeps files by digest, so a graph of several files is laid out under their own names
/// in the work directory: the model as a copy, because readers look for external data beside the file that a link leads
/// to, and the data as links.
pub(super) fn graph_file(workspace: &Workspace, role: &str) -> Result<GraphInput> {
    let files = workspace.inputs.get(role).map(Vec::as_slice).unwrap_or_default();
    if let [one] = files {
        return Ok(GraphInput { file: one.file.clone(), digest: one.digest });
    }
    let dir = workspace.dir.join("graph");
    std::fs::create_dir_all(&dir).on("create", &dir)?;
    let (mut model, mut digest) = (None, Canonical::new("hfbuild graph 1"));
    for input in files {
        let to = dir.join(&input.path);
        digest.digest(&input.digest);
        if input.path.ends_with(".onnx") {
            std::fs::copy(&input.file, &to).on("copy", &input.file)?;
            model = Some(to);
        } else {
            std::os::unix::fs::symlink(&input.file, &to).on("link", &to)?;
        }
    }
    let file = model.ok_or_else(|| Error::stage(format!("input `{role}` holds no .onnx file")))?;
    OnnxFile::open(&file)?.require_external()?;
    Ok(GraphInput { file, digest: digest.finish() })
}

/// BLAKE3 of a file.
fn digest(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    Ok(Digest::from_hash(hasher.update_mmap_rayon(path).map_err(|e| Error::io("read", path, &e))?.finalize()))
}

/// What was written: the model, and with external data the model and it.
fn subject(facts: &mut Facts, out: &Path, external: bool) -> Result<usize> {
    let model = digest(out)?;
    if !external {
        return Ok(facts.subject(FILE, model));
    }
    let mut both = Canonical::new("hfbuild graph 1");
    both.digest(&model);
    both.digest(&digest(&data_path(out))?);
    Ok(facts.subject("model.onnx and model.onnx.data", both.finish()))
}

fn facts(
    out: &Path,
    emitted: &Emitted,
    architecture: &Architecture,
    held: &Held,
    options: &EmitOptions,
    tensors: &StateDict,
) -> Result<Facts> {
    let mut facts = Facts::default();
    let of = subject(&mut facts, out, options.external_data)?;
    facts.set("opset", options.opset, of);
    facts.set("bytes", emitted.bytes, of);
    facts.set("nodes", emitted.nodes, of);
    facts.set("network", architecture.name(), of);
    facts.set("precision", options.precision.name(), of);
    held.facts(&mut facts, of);
    if let Some((_, size)) = architecture.sizes().into_iter().find(|(name, _)| *name == "image_size") {
        facts.set("image_size", size, of);
    }
    if let Architecture::TinyDit(config) = architecture {
        facts.set("null_label", config.null_label(), of);
        let guidance = match options.guidance {
            Guidance::External => "external".to_string(),
            Guidance::Baked(scale) => format!("baked:{scale}"),
        };
        facts.set("guidance", guidance, of);
    }
    let file = OnnxFile::open(out)?;
    let described = file.info()?;
    facts.set("inputs", described.inputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    facts.set("outputs", described.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    let read = tensors.tensors().iter().filter(|tensor| resnet::is_read(&tensor.name)).cloned();
    let same = file.compare(&StateDict::new(read.collect())?)?;
    facts.set("weights_equal", same.equal, of);
    facts.set("weights_differing", same.differing.len() + same.absent.len(), of);
    Ok(facts)
}
