//! What the kinds that run a graph share: the keys `runtime` and `device`, their part of the action, and the runtime that a
//! stage gets.
//!
//! With `auto` a result is good wherever it was made; what the manifest names is part of the action.

use super::{Declare, Workspace};
use crate::core::action::{Action, Declaration};
use crate::core::error::Result;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::runtime::{DEVICES, DeviceKind, Gpu, RUNTIMES, Wanted, visible};
use crate::model::runtime::{Runtime, Session, Setting, devices};

pub use crate::model::runtime::{Machine, Places, in_folder};

/// The key `runtime`.
pub(super) const RUNTIME: Field =
    Field::optional("runtime", FieldType::Choice(RUNTIMES), "what runs the graph: the best that is found by default");
/// The key `device`.
pub(super) const DEVICE: Field =
    Field::optional("device", FieldType::Choice(DEVICES), "where to run: the best that is found by default");

/// The kinds that have both keys.
const KINDS: [&str; 3] = ["samples", "latency", "classify"];
/// The pool whose tokens are NVIDIA devices.
pub(super) const GPU_POOL: &str = "gpu";

/// What a stage asks for; `None`: it is of a kind that runs no graph, or has no choice.
pub fn wanted(declaration: &Declaration) -> Option<Wanted> {
    (KINDS.contains(&declaration.kind) && !super::needs_worker(declaration)).then(|| Wanted::of(&declaration.params))
}

/// The NVIDIA devices of this process.
///
/// # Errors
/// There is no driver, or it does not answer.
pub fn gpus() -> Result<Vec<Gpu>, String> {
    devices::gpus(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
}

/// Adds what the manifest names to the action, and a token of the pool `gpu`, where there is one, to what a stage holds
/// that may run on a device.
pub(super) fn declare(cx: &Declare<'_>, mut declaration: Declaration) -> Result<Declaration> {
    let word = |key: &str| cx.spec.text(key).filter(|word| *word != "auto");
    for key in ["runtime", "device"] {
        if let Some(word) = word(key) {
            declaration = declaration.param(key, word);
        }
    }
    if (word("runtime"), word("device")) == (Some("rten"), Some("cuda")) {
        return Err(cx
            .error("device", "`runtime = \"rten\"` runs on the CPU alone")
            .hint("take `runtime` out, or set it to \"onnxruntime\""));
    }
    let may_use_gpu = word("runtime") != Some("rten") && word("device") != Some("cpu");
    if may_use_gpu && cx.manifest.pools.contains_key(GPU_POOL) {
        declaration.resources.insert(GPU_POOL.into(), 1);
    }
    Ok(declaration)
}

/// The runtime of a stage. `threads`: on the CPU; by default as many as there are cores.
///
/// # Errors
/// What the manifest names cannot be had on this machine.
pub fn runtime(action: &Action, workspace: &Workspace, threads: Option<usize>) -> Result<Box<dyn Runtime>> {
    let gpus = workspace.pinned.get("CUDA_VISIBLE_DEVICES").map(|list| visible(list));
    workspace.machine.runtime(Wanted::of(&action.params), &Setting { threads, gpus })
}

/// Where a stage's graph runs, as one word for each device: what a session is kept by.
///
/// # Errors
/// As [`runtime`].
pub(super) fn place(action: &Action, workspace: &Workspace) -> Result<String> {
    let gpus = workspace.pinned.get("CUDA_VISIBLE_DEVICES").map(|list| visible(list));
    let choice = workspace.machine.choose(Wanted::of(&action.params), gpus.as_deref())?;
    Ok(match choice.device {
        DeviceKind::Cpu => choice.device.word().into(),
        DeviceKind::Cuda => format!("{} {}", choice.device.word(), gpus.unwrap_or_default().join(",")),
    })
}

/// Opens a graph with it, and says in the receipt what it runs on.
///
/// # Errors
/// As [`runtime`]; and where the graph cannot be loaded.
pub(super) fn open(
    action: &Action,
    workspace: &mut Workspace,
    graph: &std::path::Path,
    threads: Option<usize>,
) -> Result<Box<dyn Session>> {
    let session = runtime(action, workspace, threads)?.open(graph)?;
    let used = session.used();
    if let Some(why) = &used.instead {
        workspace.say(why)?;
        (workspace.tell)(why.clone());
    }
    workspace.device = Some(used.with_reason());
    Ok(session)
}
