//! What a project's graphs run on, on this machine: for the plan and for `doctor`, and as a check before anything is spent.
//!
//! Decides nothing: [`crate::core::runtime::choose`] does. Looks at the machine only where a stage would run that asks.

use crate::core::action::Declaration;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::manifest::Spec;
use crate::core::manifest::dom::join;
use crate::core::plan::Plan;
use crate::core::receipt::History;
use crate::core::runtime::{Choice, DeviceKind, Wanted};
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::pools::Pools;
use crate::exec::project::Project;
use crate::stage::{self, Machine, Places};
use crate::store::Store;
use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A project's machine. Nothing is looked for until somebody asks it.
pub fn machine(store: &Store) -> Arc<Machine> {
    Arc::new(Machine::new(Places::of_process(Some(store.runtimes()))))
}

/// What an artifact's stages run on, or why they cannot.
#[derive(Debug)]
pub struct RunsOn {
    /// The artifact.
    pub artifact: String,
    /// The choice.
    pub choice: Result<Choice>,
}

/// Of every artifact that runs a graph and of which a plan runs, or may run, a stage.
pub fn of_plan(project: &Project, plan: &Plan, machine: &Machine) -> Vec<RunsOn> {
    let runs = |id: &NodeId| {
        let verdict = plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
        matches!(verdict, Some(Verdict::Run { .. } | Verdict::Pending { .. }))
    };
    of_nodes(project, project.graph.order.iter().copied().filter(runs), machine, false)
}

/// Of every artifact that runs a graph, or asks for libtorch.
pub fn of_project(project: &Project, machine: &Machine) -> Vec<RunsOn> {
    of_nodes(project, project.graph.order.iter().copied(), machine, true)
}

fn of_nodes(project: &Project, ids: impl Iterator<Item = NodeId>, machine: &Machine, torch: bool) -> Vec<RunsOn> {
    let mut seen = BTreeSet::new();
    let pools = LazyCell::new(|| Pools::new(&project.manifest.pools, 0));
    let of = |id: NodeId| {
        let declaration = project.graph.stage(id)?;
        let wanted = stage::wanted(declaration);
        if wanted.is_none() && !(torch && stage::needs_worker(declaration)) {
            return None;
        }
        let artifact = project.graph.node(id).name.artifact.to_string();
        let choice = || match wanted {
            Some(wanted) => machine.choose(wanted, pools.devices_for(&declaration.resources)),
            None => stage::worker_choice(declaration, machine),
        };
        seen.insert(artifact.clone()).then(|| RunsOn { artifact, choice: choice() })
    };
    ids.filter_map(of).collect()
}

/// Holds that what the manifest names can be had, before the first stage runs: of each stage that runs, or may run. A plan
/// hands in the `history`: of a stage that ran here and may yet end without a run it only warns.
///
/// # Errors
/// It cannot, each with the artifact's place.
pub fn check(project: &Project, plan: &Plan, history: Option<&History>, machine: &Machine, sink: &Sink) -> Result<()> {
    let (mut problems, mut asked) = (Vec::new(), BTreeSet::new());
    let pools = LazyCell::new(|| Pools::new(&project.manifest.pools, 0));
    for id in project.graph.ids() {
        let Some(declaration) = project.graph.stage(id).filter(|stage| asks(stage)) else { continue };
        let node = project.graph.node(id);
        let certain = match plan.decisions[id.index()].as_ref().map(|d| &d.verdict) {
            Some(Verdict::Run { .. }) => true,
            Some(Verdict::Pending { .. }) => history.is_none_or(|history| history.last(&node.name).is_none()),
            _ => continue,
        };
        if !asked.insert((node.name.artifact.to_string(), certain)) {
            continue;
        }
        let had = check_pool(declaration, &pools, machine).and_then(|()| match stage::wanted(declaration) {
            Some(wanted) => machine.choose(wanted, pools.devices_for(&declaration.resources)).map(drop),
            None => stage::check_device(declaration, machine),
        });
        let Err(error) = had else { continue };
        let error = error.within(&format!("artifact `{}`", node.name.artifact));
        match certain {
            true => problems.push(placed(project, id, error)),
            false => sink(Event::Warning { text: error.message().to_string() }),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems).with_kind(ErrorKind::Stage)) }
}

/// Holds that each device of the pool is there that a stage which names CUDA may be given.
fn check_pool(declaration: &Declaration, pools: &Pools, machine: &Machine) -> Result<()> {
    if Wanted::of(&declaration.params).device != Some(DeviceKind::Cuda) {
        return Ok(());
    }
    let (Some(ids), Ok(all)) = (pools.devices(), machine.gpus()) else { return Ok(()) };
    if all.is_empty() {
        return Ok(()); // that there is none at all is told by itself
    }
    let lost = match ids.iter().find(|id| !all.iter().any(|gpu| gpu.is(id))) {
        Some(id) => format!("the pool `gpu` has `{id}`, which is no visible NVIDIA device"),
        None if ids.is_empty() => "the pool `gpu` has no device".to_string(),
        None => return Ok(()),
    };
    Err(Error::stage(format!("`device = \"cuda\"` cannot be had here: {lost}"))
        .hint("`hfbuild doctor` lists the devices; name those under `[pools]`, or set `gpu = \"auto\"`"))
}

/// Whether a stage asks for a runtime or a device by name, or for libtorch.
fn asks(declaration: &Declaration) -> bool {
    stage::needs_worker(declaration) || stage::wanted(declaration).is_some_and(|wanted| !wanted.is_auto())
}

/// With the place of the key that asks.
fn placed(project: &Project, id: NodeId, error: Error) -> Error {
    let node = project.graph.node(id);
    let spec = project.manifest.artifact(node.name.artifact.as_str());
    let key = |spec: &&Spec| ["device", "runtime"].into_iter().find(|key| spec.text(key).is_some_and(|w| w != "auto"));
    let span = spec.and_then(|spec| Some(spec.place(key(&spec)?))).unwrap_or(node.span.clone());
    error.at(project.manifest.source.place(span))
}
