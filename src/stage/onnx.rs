//! `onnx`: the network as an ONNX graph, written by hfbuild itself, and verified by running it against a plain forward in
//! Rust that shares no code with the emitter.

use super::{Declare, Kind, Workspace, int_param, param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::value::Value;
use crate::model::network::Network;
use crate::model::noise;
use crate::model::onnx::emit::{self, EmitOptions, Guidance};
use crate::model::onnx::import::OnnxFile;
use crate::model::runtime::{Data, Input, Rten, Runtime};
use crate::model::tinydit::{CONFIG_KEY, Config};
use std::path::Path;

/// See the module.
pub struct Onnx;

/// The bound on the largest difference where the manifest names none.
const ATOL: f64 = 1e-4;
/// Pictures in the verification's batch.
const BATCH: usize = 2;

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
                Field::optional("verify", FieldType::Table(VERIFY), "bounds of the verification"),
            ],
            facts: &[
                "opset",
                "bytes",
                "nodes",
                "max_abs_diff",
                "null_label",
                "image_size",
                "guidance",
                "runtime",
                "inputs",
                "outputs",
                "weights_equal",
                "weights_differing",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["safetensors"])?;
        let mut declaration = Declaration::new("onnx", self.version(), Shape::File("model.onnx".into()))
            .param("opset", cx.int("opset").unwrap_or(emit::DEFAULT_OPSET))
            .param("atol", atol(cx))
            .param("guidance", guidance(cx))
            .input("weights", InputFrom::Artifact(from), cx.spec.place("from"));
        declaration.resources.insert("cores".into(), usize::MAX);
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let file = super::safetensors::open(workspace.files("weights")?)?;
        let config: Config = match file.metadata.get(CONFIG_KEY) {
            Some(json) => serde_json::from_str(json)
                .map_err(|e| Error::stage("the weights' configuration cannot be read").cause(e.to_string()))?,
            None => {
                return Err(Error::stage("hfbuild writes ONNX for TinyDiT, and these weights are of another network")
                    .hint("for other networks, run your own exporter with kind = \"command\""));
            }
        };
        let guidance = match param(action, "guidance")? {
            Value::Float(scale) => Guidance::Baked(*scale as f32),
            _ => Guidance::External,
        };
        let out = workspace.output("model.onnx")?;
        let options = EmitOptions { opset: int_param(action, "opset")?, guidance, ..Default::default() };
        let emitted = emit::emit(&out, &file.tensors, &config, &options)?;
        (workspace.progress)(1, 2);
        workspace.cancel.check()?;
        let network = Network::load(&file.tensors, &config)?;
        let found = verify(&out, &network, guidance)?;
        let atol = param(action, "atol")?.as_f64().unwrap_or(ATOL);
        workspace.say(&format!("largest difference {:e}, bound {atol:e}", found.max_abs_diff))?;
        if found.max_abs_diff.is_nan() || found.max_abs_diff > atol {
            return Err(Error::stage(format!(
                "the graph differs from the network by {:.3e} at most, and {atol:.3e} is allowed",
                found.max_abs_diff
            ))
            .hint("the bound is `verify = { atol = ... }`"));
        }
        (workspace.progress)(2, 2);
        workspace.device = Some(format!("{} {} (cpu)", found.runtime.0, found.runtime.1));
        facts(&out, &emitted, &config, &found, &options, &file.tensors)
    }
}

const BAKED: &[Field] = &[Field::required("baked", FieldType::Param(&FieldType::Number(true)), "the guidance scale")];
const VERIFY: &[Field] = &[Field::required("atol", FieldType::Number(true), "the largest difference that is allowed")];

fn atol(cx: &Declare<'_>) -> f64 {
    match cx.value("verify") {
        Some(Value::Map(map)) => map.get("atol").and_then(Value::as_f64).unwrap_or(ATOL),
        _ => ATOL,
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

struct Verified {
    max_abs_diff: f64,
    runtime: (&'static str, String),
}

/// Runs the graph and the plain forward on fixed inputs: noise of Philox under seed 0, times .1 and .9, the first and
/// the last label.
fn verify(graph: &Path, network: &Network, guidance: Guidance) -> Result<Verified> {
    let config = network.config();
    let length = config.picture_len();
    let noise: Vec<f32> = (0..BATCH as u64).flat_map(|k| noise::normals(0, 0, k, length)).collect();
    let (times, labels) = ([0.1f32, 0.9], [0i64, config.num_classes as i64 - 1]);
    let runtime = Rten::default();
    let mut session = runtime.open(graph)?;
    let side = config.image_size;
    let inputs = [
        Input { name: "noise", shape: vec![BATCH, config.channels, side, side], data: Data::F32(&noise) },
        Input { name: "timestep", shape: vec![BATCH], data: Data::F32(&times) },
        Input { name: "breed", shape: vec![BATCH], data: Data::I64(&labels) },
    ];
    let got = session.run(&inputs, "velocity")?.values;
    let conditional = network.forward(&noise, &times, &labels)?;
    let want = match guidance {
        Guidance::External => conditional,
        Guidance::Baked(scale) => {
            let null = network.forward(&noise, &times, &[config.null_label(); BATCH])?;
            null.iter().zip(&conditional).map(|(u, c)| u + scale * (c - u)).collect()
        }
    };
    if got.len() != want.len() {
        return Err(Error::stage(format!(
            "the graph gives {} numbers where the network gives {}",
            got.len(),
            want.len()
        )));
    }
    let largest = got.iter().zip(&want).map(|(a, b)| f64::from((a - b).abs()));
    // NaN must not hide in `max`: any makes the whole NaN, which no bound allows
    let max_abs_diff = largest.fold(0.0, |m: f64, d| if m.is_nan() || d.is_nan() { f64::NAN } else { m.max(d) });
    Ok(Verified { max_abs_diff, runtime: (runtime.name(), runtime.version()) })
}

fn facts(
    out: &Path,
    emitted: &emit::Emitted,
    config: &Config,
    found: &Verified,
    options: &EmitOptions,
    tensors: &crate::model::tensor::StateDict,
) -> Result<Facts> {
    let mut facts = Facts::default();
    let digest = crate::core::digest::Digest::from_hash(
        blake3::Hasher::new().update_mmap_rayon(out).map_err(|e| Error::io("read", out, &e))?.finalize(),
    );
    let of = facts.subject("model.onnx", digest);
    facts.set("opset", options.opset, of);
    facts.set("bytes", emitted.bytes, of);
    facts.set("nodes", emitted.nodes, of);
    facts.set("max_abs_diff", found.max_abs_diff, of);
    facts.set("null_label", config.null_label(), of);
    facts.set("image_size", config.image_size, of);
    let guidance = match options.guidance {
        Guidance::External => "external".to_string(),
        Guidance::Baked(scale) => format!("baked:{scale}"),
    };
    facts.set("guidance", guidance, of);
    facts.set("runtime", format!("{} {}", found.runtime.0, found.runtime.1), of);
    let file = OnnxFile::open(out)?;
    let described = file.info()?;
    facts.set("inputs", described.inputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    facts.set("outputs", described.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(), of);
    let same = file.compare(tensors)?;
    facts.set("weights_equal", same.equal, of);
    facts.set("weights_differing", same.differing.len() + same.absent.len(), of);
    Ok(facts)
}
