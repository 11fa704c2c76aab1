//! `samples`: pictures of a label, drawn by the flow-matching sampler from an ONNX graph. With `each`, a shard a label.
//!
//! Picture k of a label depends on seed, label and k alone, never on the batch, the shard or the order.

use super::draw::{self, Drawn};
use super::generator::Generator;
use super::{Declare, Kind, Workspace, int_param, onnx, param, runtimes, text_param, torch};
use crate::core::action::{ALL_WITHOUT_GPU, Action, Declaration, InputFrom, Shape};
use crate::core::digest::Canonical;
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::slug;
use crate::core::value::Value;
use crate::model::onnx::import::{Extent, GraphInfo};
use crate::model::pictures;
use crate::model::sample::{self, SampleSpec};

/// See the module.
pub struct Samples;

impl Kind for Samples {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "samples",
            doc: "pictures drawn from an ONNX graph, with a grid, a label at a time",
            fields: &[
                Field::required(
                    "from",
                    FieldType::Artifact,
                    "the graph (kind `onnx`); with `runtime = \"torch\"` the weights",
                ),
                Field::required(
                    "each",
                    FieldType::Param(&FieldType::List(&FieldType::Either(
                        &FieldType::Text,
                        &FieldType::Int(0, i64::MAX),
                    ))),
                    "the labels, by index: a shard each",
                ),
                Field::required("count", FieldType::Param(&FieldType::Int(1, 10_000)), "pictures a label"),
                Field::required("steps", FieldType::Param(&FieldType::Int(1, 10_000)), "Euler steps"),
                Field::required("seed", FieldType::Param(&FieldType::Int(0, i64::MAX)), "the noise's seed"),
                Field::optional(
                    "guidance",
                    FieldType::Param(&FieldType::Number(false)),
                    "the guidance scale, where the graph leaves it to the caller",
                ),
                Field::optional(
                    "batch",
                    FieldType::Param(&FieldType::Int(1, 4096)),
                    "pictures at once, 8 by default; halved where the memory is too small, and no part of the action",
                ),
                Field::optional(
                    "runtime",
                    FieldType::Choice(&["auto", "rten", "onnxruntime", "torch"]),
                    "what runs it: the best that is found by default, never libtorch",
                ),
                runtimes::DEVICE,
            ],
            facts: &[
                "count",
                "saturated",
                "neighbour_correlation",
                "standard_deviation",
                "pair_difference",
                "noise_correlation",
                "noise_difference",
                "label",
                "steps",
                "seed",
                "guidance",
                "seconds",
                "graph_seconds",
                "pictures_per_second",
                "runtime",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let by_torch = cx.spec.text("runtime") == Some(torch::WORD);
        let (role, kinds): (_, &[&str]) =
            if by_torch { ("weights", &["safetensors"]) } else { ("graph", &["onnx", "onnx_file"]) };
        let from = cx.artifact_of("from", kinds)?;
        let shard = cx.shard.ok_or_else(|| cx.error("each", "`samples` takes `each`"))?;
        let mut declaration = Declaration::new("samples", self.version(), Shape::Dir)
            .param("label", shard.index)
            .param("name", shard.key.as_str())
            .param("device", cx.spec.text("device").unwrap_or("auto"))
            .input(role, InputFrom::Artifact(from.clone()), cx.spec.place("from"));
        for name in ["count", "steps", "seed"] {
            declaration = declaration.param(name, cx.int(name).unwrap_or_default());
        }
        onnx::applied_once(cx, &from)?;
        declaration = declaration.param("guidance", cx.float("guidance"));
        declaration.batch = cx.int("batch").map(|batch| batch as usize);
        declaration.resources.insert("cores".into(), ALL_WITHOUT_GPU);
        let declaration = runtimes::declare(cx, declaration)?;
        Ok(if by_torch { torch::declare(cx, declaration) } else { declaration })
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let generator = Generator::of(action, workspace)?;
        let guidance = param(action, "guidance")?.as_f64().map(|g| g as f32);
        let label = int_param(action, "label")?;
        if label >= generator.labels {
            return Err(Error::stage(format!(
                "label {label} (`{}`) is beyond the network's {} labels",
                text_param(action, "name")?,
                generator.labels
            )));
        }
        let count = int_param(action, "count")? as usize;
        let spec = SampleSpec {
            label,
            null_label: generator.null_label,
            guidance,
            steps: int_param(action, "steps")? as usize,
            seed: int_param(action, "seed")? as u64,
            first: 0,
            count,
            shape: generator.shape,
        };
        let mut lent = generator.lend(action, workspace)?;
        let drawn = draw::draw(workspace, &mut lent, &spec, &slug(text_param(action, "name")?))?;
        drop(lent);
        let mut facts = measured(workspace, action, &drawn, &generator)?;
        facts.set_volatile("seconds", drawn.times.drawing);
        facts.set_volatile("graph_seconds", drawn.times.graph);
        facts.set_volatile("pictures_per_second", count as f64 / drawn.times.drawing);
        facts.set_volatile("runtime", workspace.device.clone());
        Ok(facts)
    }
}

/// Channels, height and width of the graph's input `noise`.
pub(super) fn picture_shape(graph: &GraphInfo) -> Result<[usize; 3]> {
    let noise = graph.inputs.iter().find(|port| port.name == "noise");
    match noise.map(|port| &port.shape[..]) {
        Some([_, Extent::Fixed(c), Extent::Fixed(h), Extent::Fixed(w)]) if *c > 0 && *h > 0 && *w > 0 => {
            Ok([*c as usize, *h as usize, *w as usize])
        }
        _ => Err(Error::stage("the graph has no input `noise` of shape [batch, channels, height, width]")),
    }
}

/// Writes the grid `LABEL.png` and measures the pictures.
fn measured(workspace: &Workspace, action: &Action, drawn: &Drawn, generator: &Generator) -> Result<Facts> {
    let name = text_param(action, "name")?;
    let grid = || sample::png(&sample::grid(&drawn.pictures, drawn.pictures.len().min(8))?);
    let (grid, stats) = rayon::join(grid, || pictures::stats(&drawn.pictures));
    workspace.write(&format!("{}.png", slug(name)), &grid?)?;
    let stats = stats?;
    let mut all = Canonical::new("hfbuild pictures 1");
    for digest in &drawn.files {
        all.digest(digest);
    }
    let mut facts = Facts::default();
    let of = facts.subject(&format!("the pictures of `{name}`"), all.finish());
    facts.set("count", drawn.pictures.len(), of);
    facts.set("saturated", stats.saturated, of);
    facts.set("neighbour_correlation", stats.neighbour_correlation, of);
    facts.set("standard_deviation", stats.std, of);
    facts.set("pair_difference", stats.pair_difference, of);
    let against = pictures::against(&drawn.pictures, &drawn.noise)?;
    facts.set("noise_correlation", against.correlation, of);
    facts.set("noise_difference", against.difference, of);
    let of = facts.subject(generator.name, generator.digest);
    facts.set("label", int_param(action, "label")?, of);
    facts.set("steps", int_param(action, "steps")?, of);
    facts.set("seed", int_param(action, "seed")?, of);
    let guidance = match param(action, "guidance")? {
        Value::Null => Value::from("as the graph has it"),
        scale => scale.clone(),
    };
    facts.set("guidance", guidance, of);
    Ok(facts)
}
