//! `latency`: how long a graph takes for a forward and for a picture, with what it was measured on and how.
//!
//! Seconds differ from run to run, so they are volatile facts: no part of the published record, and of a card only where
//! it names them. The stage is cached like any other, so they stay as they are until something that they were measured on
//! changes, and an unchanged publish makes no commit.

use super::{Declare, Kind, Workspace, evaluation, int_param, onnx, param, runtimes};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::runtime::DeviceKind;
use crate::core::value::Value;
use crate::model::noise::normals;
use crate::model::onnx::import::{Extent, GraphInfo, OnnxFile, Port};
use crate::model::runtime::{Data, Input, Session};
use crate::model::sample::{self, SampleSpec};
use std::time::Instant;

/// See the module.
pub struct Latency;

impl Kind for Latency {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "latency",
            doc: "seconds a forward and a picture, on this machine",
            fields: &[
                Field::required("from", FieldType::Artifact, "the graph (kind `onnx` or `onnx_file`)"),
                Field::optional("batch", FieldType::Param(&FieldType::Int(1, 1024)), "pictures at once, 1 by default"),
                Field::optional(
                    "threads",
                    FieldType::Param(&FieldType::Int(1, 1024)),
                    "threads; all that the machine has by default",
                ),
                Field::optional(
                    "warmup",
                    FieldType::Param(&FieldType::Int(0, 10_000)),
                    "forwards before, 2 by default",
                ),
                Field::optional(
                    "runs",
                    FieldType::Param(&FieldType::Int(1, 10_000)),
                    "forwards (with `steps`: whole drawings) that are timed, 5 by default",
                ),
                Field::optional(
                    "steps",
                    FieldType::Param(&FieldType::Int(1, 10_000)),
                    "of a generator: Euler steps a picture",
                ),
                Field::optional(
                    "guidance",
                    FieldType::Param(&FieldType::Number(false)),
                    "of a generator: the guidance scale, where the graph leaves it to the caller",
                ),
                runtimes::RUNTIME,
                runtimes::DEVICE,
            ],
            facts: &[
                "batch",
                "rows",
                "warmup",
                "runs",
                "steps",
                "guidance",
                "forward_seconds",
                "forward_spread",
                "forwards",
                "picture_seconds",
                "picture_spread",
                "threads",
                "device",
                "runtime",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["onnx", "onnx_file"])?;
        if cx.spec.node("guidance").is_some() && cx.spec.node("steps").is_none() {
            return Err(cx.error("guidance", "`guidance` is of drawing, which takes `steps`"));
        }
        if cx.spec.node("threads").is_some() && cx.spec.text("device") == Some(DeviceKind::Cuda.word()) {
            return Err(cx
                .error("threads", "`threads` are those of the CPU, and `device = \"cuda\"` asks for a GPU")
                .hint("take one of both out"));
        }
        onnx::applied_once(cx, &from)?;
        let mut declaration = Declaration::new("latency", self.version(), Shape::File("latency.json".into()))
            .param("batch", cx.int("batch").unwrap_or(1))
            .param("warmup", cx.int("warmup").unwrap_or(2))
            .param("runs", cx.int("runs").unwrap_or(5))
            .param("threads", cx.int("threads"))
            .param("steps", cx.int("steps"))
            .param("guidance", cx.float("guidance"))
            .input("graph", InputFrom::Artifact(from), cx.spec.place("from"));
        // alone on the machine: what else runs would be measured with it
        declaration.resources.insert("cores".into(), usize::MAX);
        runtimes::declare(cx, declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let graph = evaluation::graph(workspace, "graph")?;
        let info = OnnxFile::open(&graph.file)?.info()?;
        takes(&info, action)?;
        let threads = param(action, "threads")?.as_int().map_or_else(evaluation::cores, |n| n as usize);
        let mut session = runtimes::open(action, workspace, &graph.file, Some(threads))?;
        let times = match param(action, "steps")?.as_int() {
            Some(steps) => drawings(workspace, action, &mut *session, &info, steps as usize)?,
            None => forwards(workspace, action, &mut *session, &info)?,
        };
        let mut facts = Facts::default();
        let of = facts.subject(&graph.path, graph.digest);
        for name in ["batch", "warmup", "runs", "steps", "guidance"] {
            match param(action, name)? {
                Value::Null => {}
                value => facts.set(name, value.clone(), of),
            }
        }
        facts.set("rows", times.rows, of);
        facts.set("forwards", times.forwards.len(), of);
        let batch = int_param(action, "batch")? as f64;
        let pictures: Vec<f64> = times.drawings.iter().map(|seconds| seconds / batch).collect();
        for (name, all) in [("forward", &times.forwards), ("picture", &pictures)] {
            let (median, spread) = quartiles(all);
            facts.set_volatile(&format!("{name}_seconds"), median);
            facts.set_volatile(&format!("{name}_spread"), spread);
        }
        facts.set_volatile("threads", threads);
        let used = session.used();
        let device = match (used.device, &used.detail) {
            (DeviceKind::Cuda, Some(device)) => device.clone(),
            _ => evaluation::cpu(),
        };
        facts.set_volatile("device", device);
        facts.set_volatile("runtime", format!("{} {}", used.runtime, used.version));
        let fixed = facts.values.iter().map(|(name, fact)| (name.clone(), fact.value.clone()));
        let all = fixed.chain(facts.volatile.clone()).collect();
        workspace.write("latency.json", &super::json_text(&Value::Map(all)))?;
        Ok(facts)
    }
}

/// A graph that was written for one number of rows runs these and no others: seconds by another number would be wrong. Of a
/// forward alone an input may be what the rows share, as long as another is open.
fn takes(info: &GraphInfo, action: &Action) -> Result<()> {
    let batch = int_param(action, "batch")?;
    let draws = param(action, "steps")?.as_int().is_some();
    let rows_of = if draws && !matches!(param(action, "guidance")?, Value::Null) { 2 } else { 1 };
    let is_open = |port: &Port| port.shape.first().is_some_and(|extent| !matches!(extent, Extent::Fixed(_)));
    if !draws && info.inputs.iter().any(is_open) {
        return Ok(());
    }
    let fixed = |port: &Port| match port.shape.first() {
        Some(Extent::Fixed(rows)) if *rows != batch * rows_of => Some(*rows),
        _ => None,
    };
    match info.inputs.iter().find_map(|port| Some((port, fixed(port)?))) {
        Some((port, rows)) => {
            let doubled = if rows_of == 2 { ", which guidance doubles" } else { "" };
            Err(Error::stage(format!("the graph's input `{port}` takes {rows} rows, and `batch` is {batch}{doubled}"))
                .hint(match rows % rows_of {
                    0 => format!("set `batch = {}`, or export the graph with an extent that is open", rows / rows_of),
                    _ => "export the graph with an extent that is open".into(),
                }))
        }
        None => Ok(()),
    }
}

/// Seconds that were measured.
struct Times {
    /// Rows that go through the graph in a forward: the batch, with guidance twice.
    rows: usize,
    /// Of each forward.
    forwards: Vec<f64>,
    /// Of each drawing of a batch (without steps: of each forward).
    drawings: Vec<f64>,
}

/// Draws whole pictures, timing every forward within; making files of them is left out.
fn drawings(
    workspace: &Workspace,
    action: &Action,
    session: &mut dyn Session,
    info: &GraphInfo,
    steps: usize,
) -> Result<Times> {
    let guidance = param(action, "guidance")?.as_f64().map(|g| g as f32);
    let written = info.metadata.get("hfbuild.guidance").map_or("", String::as_str);
    if guidance.is_some() && written.starts_with("baked") {
        return Err(Error::stage(format!("the graph says guidance `{written}`, and guidance would be applied twice")));
    }
    let null_label = info.metadata.get("hfbuild.null_label").and_then(|text| text.parse().ok()).unwrap_or(0);
    let batch = int_param(action, "batch")? as usize;
    let shape = super::samples::picture_shape(info)?;
    let spec = SampleSpec { label: 0, null_label, guidance, steps, seed: 0, first: 0, count: batch, shape };
    let rows = batch * if guidance.is_some() { 2 } else { 1 };
    let (noise, warmup) = (sample::initial_noise(&spec)?, int_param(action, "warmup")?);
    let noise = noise.repeat(rows / batch);
    let mut inner = sample::session_velocity(session, shape);
    for _ in 0..warmup {
        inner(&noise, &vec![0.5; rows], &vec![0; rows])?;
        workspace.cancel.check()?;
    }
    let (mut forwards, mut drawings) = (Vec::new(), Vec::new());
    let mut timed = |noise: &[f32], t: &[f32], labels: &[i64]| {
        let begun = Instant::now();
        let velocity = inner(noise, t, labels);
        forwards.push(begun.elapsed().as_secs_f64());
        velocity
    };
    let runs = int_param(action, "runs")?;
    for run in 0..runs {
        let begun = Instant::now();
        sample::sample(&mut timed, &spec, &mut |_| workspace.cancel.check())?;
        drawings.push(begun.elapsed().as_secs_f64());
        (workspace.progress)(run as u64 + 1, runs as u64);
    }
    Ok(Times { rows, forwards, drawings })
}

/// Times plain forwards on fixed inputs: noise for floats, zeros for integers.
fn forwards(workspace: &Workspace, action: &Action, session: &mut dyn Session, info: &GraphInfo) -> Result<Times> {
    let batch = int_param(action, "batch")? as usize;
    let mut floats: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut integers: Vec<(usize, Vec<i64>)> = Vec::new();
    let mut shapes = Vec::new();
    for (at, port) in info.inputs.iter().enumerate() {
        let shape = port.shape.iter().enumerate().map(|(axis, extent)| match extent {
            Extent::Fixed(n) if *n > 0 => Ok(*n as usize),
            Extent::Symbol(_) if axis == 0 => Ok(batch),
            _ => Err(Error::stage(format!("the input `{port}` has an extent that is not known"))
                .hint("only the first one may be open: `config = { image_size = N }` of the checkpoint fixes the others of a classifier's graph")),
        });
        let shape = shape.collect::<Result<Vec<usize>>>()?;
        let size = shape.iter().product();
        match port.dtype.as_str() {
            "F32" => floats.push((at, normals(0, 0, at as u64, size))),
            "I64" => integers.push((at, vec![0; size])),
            other => return Err(Error::stage(format!("the input `{}` is {other}; F32 and I64 are known", port.name))),
        }
        shapes.push(shape);
    }
    let output = info.outputs.first().map(|port| port.name.clone()).unwrap_or_default();
    let float = floats.iter().map(|(at, data)| (*at, Data::F32(data)));
    let data = float.chain(integers.iter().map(|(at, data)| (*at, Data::I64(data))));
    let inputs: Vec<Input<'_>> =
        data.map(|(at, data)| Input { name: &info.inputs[at].name, shape: shapes[at].clone(), data }).collect();
    let (warmup, runs) = (int_param(action, "warmup")?, int_param(action, "runs")?);
    let mut forwards = Vec::new();
    for run in 0..warmup + runs {
        let begun = Instant::now();
        session.run(&inputs, &output)?;
        if run >= warmup {
            forwards.push(begun.elapsed().as_secs_f64());
        }
        workspace.cancel.check()?;
        (workspace.progress)(run as u64 + 1, (warmup + runs) as u64);
    }
    Ok(Times { rows: batch, drawings: forwards.clone(), forwards })
}

/// The median, and the distance between the first and the third quartile (linear between neighbours).
fn quartiles(all: &[f64]) -> (f64, f64) {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let place = q * (sorted.len().saturating_sub(1)) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
    };
    (at(0.5), at(0.75) - at(0.25))
}

#[cfg(test)]
mod tests {
    use super::quartiles;

    #[test]
    fn the_median_and_the_spread_are_those_of_numpys_percentile() {
        assert_eq!(quartiles(&[4.0, 1.0, 3.0, 2.0]), (2.5, 1.5));
        assert_eq!(quartiles(&[7.0]), (7.0, 0.0));
    }
}
