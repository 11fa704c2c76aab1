//! What the stages share that ask libtorch: how the manifest names it, what of it is in the action, the worker, and a graph
//! held against a network or a TorchScript module in it.
//!
//! The action holds the version of torch, which is that of every worker that hfbuild talks to. A stage that asks for libtorch
//! and has no worker fails: nothing else is taken in its place.

use super::workspace::InputFile;
use super::{Declare, Workspace, onnx};
use crate::core::action::{Action, Declaration};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::runtime::{Choice, DeviceKind, RuntimeKind, Wanted, visible};
use crate::core::value::Value;
use crate::model::architecture::Architecture;
use crate::model::onnx::emit::Guidance;
use crate::model::onnx::verify::{Question, Verified, compare};
use crate::model::runtime::{Machine, Rten, Runtime, Session};
use crate::model::torch::{self, Subject, TORCH, TorchSession};
use std::path::{Path, PathBuf};

/// What the action calls the version of torch, where a stage asks for it.
const PARAM: &str = "torch";
/// The word of the manifest.
pub(super) const WORD: &str = "torch";
/// `verify`: the reference alone, or with a bound.
pub(super) const VERIFY: FieldType = FieldType::Either(&WITH, &FieldType::Table(BOUND));
const WITH: FieldType = FieldType::Choice(&[PLAIN, WORD]);
const PLAIN: &str = "plain";
/// `{ atol = 1e-4, with = "torch" }`.
const BOUND: &[Field] = &[
    Field::required("atol", FieldType::Number(true), "the largest difference that is allowed"),
    Field::optional("with", WITH, "the reference: the plain forward by default, or libtorch"),
];

/// The reference that `verify` names, where it names one.
fn reference(cx: &Declare<'_>) -> Option<String> {
    let value = match cx.value("verify")? {
        Value::Map(map) => map.get("with")?.clone(),
        other => other,
    };
    value.as_text().map(String::from)
}

/// Whether `verify` names libtorch.
pub(super) fn is_reference(cx: &Declare<'_>) -> bool {
    reference(cx).as_deref() == Some(WORD)
}

/// Whether `verify` names the plain forward.
pub(super) fn names_plain(cx: &Declare<'_>) -> bool {
    reference(cx).as_deref() == Some(PLAIN)
}

/// Names libtorch in the action, and takes a token of the pool of devices, where there is one: the worker runs on a device
/// too, where it sees one.
pub(super) fn declare(cx: &Declare<'_>, declaration: Declaration) -> Declaration {
    let mut declaration = declaration.param(PARAM, TORCH);
    if cx.spec.text("device") != Some("cpu") && cx.manifest.pools.contains_key(super::runtimes::GPU_POOL) {
        declaration.resources.insert(super::runtimes::GPU_POOL.into(), 1);
    }
    declaration
}

/// Whether an action asks for libtorch.
pub(super) fn is_asked(action: &Action) -> bool {
    action.params.contains_key(PARAM)
}

/// Whether a stage asks for libtorch, and so for the worker.
pub fn needs_worker(declaration: &Declaration) -> bool {
    ["onnx", "onnx_file", "samples"].contains(&declaration.kind) && declaration.params.contains_key(PARAM)
}

/// Holds that a device which the manifest names for libtorch can be had; the worker is asked where there is one.
///
/// # Errors
/// It cannot.
pub fn check_device(declaration: &Declaration, machine: &Machine) -> Result<()> {
    if Wanted::of(&declaration.params).device != Some(DeviceKind::Cuda) {
        return Ok(());
    }
    let refused = |why: &str| Error::stage(format!("`device = \"cuda\"` cannot be had here: {why}"));
    match machine.gpus() {
        Err(why) => return Err(refused(why)),
        Ok(all) if all.is_empty() => return Err(refused("no NVIDIA device is visible")),
        Ok(_) => {}
    }
    let Ok(file) = worker() else { return Ok(()) }; // that it is lacking is told by itself
    match torch::hello() {
        Ok(hello) if hello.cuda_devices == 0 => {
            let why = hello.no_cuda.unwrap_or_else(|| "it sees no NVIDIA device".into());
            Err(refused(&format!("`{}` runs on the CPU alone: {why}", file.display()))
                .hint("build the worker against a whole installation of torch, which brings CUDA's libraries"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a stage that asks for libtorch runs on; the worker is asked.
///
/// # Errors
/// There is no worker, it cannot be talked to, or lacks the device that the manifest names.
pub fn worker_choice(declaration: &Declaration, machine: &Machine) -> Result<Choice> {
    worker()?;
    check_device(declaration, machine)?;
    let hello = torch::hello()?;
    let wanted = Wanted::of(&declaration.params).device;
    let best = if hello.cuda_devices > 0 { DeviceKind::Cuda } else { DeviceKind::Cpu };
    let (device, named) = (wanted.unwrap_or(best), wanted.is_some());
    Ok(Choice { runtime: RuntimeKind::Torch, version: hello.torch, device, named, passed_over: vec![] })
}

/// Where the worker is.
///
/// # Errors
/// It is nowhere.
pub fn worker() -> Result<PathBuf> {
    torch::find()
}

/// The devices that a stage holds, and its worker may see; `None`: no pool says which.
pub(super) fn gpus(workspace: &Workspace) -> Option<Vec<String>> {
    workspace.pinned.get("CUDA_VISIBLE_DEVICES").map(|list| visible(list))
}

/// The network of these weights, for a worker.
pub(super) fn weights(files: &[InputFile], architecture: &Architecture) -> Subject {
    let files = files.iter().map(|input| (input.path.clone(), input.file.clone())).collect();
    Subject::Weights { files, architecture: architecture.clone() }
}

/// How far a graph is from its reference.
pub(super) struct Held {
    found: Verified,
    /// Of libtorch: what ran, and how far the graph is from what it computes on a device, where there is one.
    torch: Option<(String, Option<Verified>)>,
}

impl Held {
    /// Against the plain forward.
    pub(super) fn plain(found: Verified) -> Held {
        Held { found, torch: None }
    }

    /// Holds what was found against the bound.
    ///
    /// # Errors
    /// It is beyond.
    pub(super) fn within(&self, atol: f64, workspace: &mut Workspace) -> Result<()> {
        workspace.device = Some(format!("{} {} (cpu)", self.found.runtime.0, self.found.runtime.1));
        let Some((reference, cuda)) = &self.torch else { return onnx::within(&self.found, atol, workspace, "") };
        onnx::within(&self.found, atol, workspace, &format!(", by {reference} on the CPU"))?;
        cuda.iter().try_for_each(|cuda| onnx::within(cuda, atol, workspace, &format!(", by {reference} on CUDA")))
    }

    /// The facts of it.
    pub(super) fn facts(&self, facts: &mut Facts, of: usize) {
        facts.set("max_abs_diff", self.found.max_abs_diff, of);
        facts.set("relative_l2", self.found.relative_l2, of);
        facts.set("runtime", format!("{} {}", self.found.runtime.0, self.found.runtime.1), of);
        let Some((reference, cuda)) = &self.torch else { return };
        facts.set("reference", reference.as_str(), of);
        if let Some(cuda) = cuda {
            facts.set("max_abs_diff_cuda", cuda.max_abs_diff, of);
            facts.set("relative_l2_cuda", cuda.relative_l2, of);
        }
    }
}

/// Runs a graph, and libtorch on the same inputs: on the CPU, and on CUDA where the worker sees a device.
///
/// # Errors
/// There is no worker, it fails, or the graph cannot be run.
pub(super) fn held(
    workspace: &Workspace,
    graph: &Path,
    subject: &Subject,
    question: &Question,
    guidance: Guidance,
) -> Result<Held> {
    let mut session = TorchSession::start(gpus(workspace).as_deref())?;
    let got = question.ask(&mut *Rten::default().open(graph)?)?;
    let mut against = |device: DeviceKind| {
        workspace.cancel.check()?;
        session.open(subject.clone(), device, None)?;
        let found = compare(&got, &question.ask_guided(&mut session, guidance)?)?;
        Ok((found, session.used(), session.hello().cuda_devices))
    };
    let (found, used, devices) = against(DeviceKind::Cpu)?;
    let cuda = if devices > 0 { Some(against(DeviceKind::Cuda)?.0) } else { None };
    let what = match subject {
        Subject::Weights { .. } => "",
        Subject::TorchScript { .. } => ", TorchScript",
    };
    Ok(Held { found, torch: Some((format!("{} {}{what}", used.runtime, used.version), cuda)) })
}
