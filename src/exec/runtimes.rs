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
use crate::core::runtime::{Choice, Wanted};
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::project::Project;
use crate::stage::{self, Machine, Places};
use crate::store::Store;
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
    of_nodes(project, project.graph.order.iter().copied().filter(runs), machine)
}

/// Of every artifact that runs a graph.
pub fn of_project(project: &Project, machine: &Machine) -> Vec<RunsOn> {
    of_nodes(project, project.graph.order.iter().copied(), machine)
}

fn of_nodes(project: &Project, ids: impl Iterator<Item = NodeId>, machine: &Machine) -> Vec<RunsOn> {
    let mut seen = BTreeSet::new();
    let of = |id: NodeId| {
        let wanted = wanted(project, id)?;
        let artifact = project.graph.node(id).name.artifact.to_string();
        seen.insert(artifact.clone()).then(|| RunsOn { artifact, choice: machine.choose(wanted, None) })
    };
    ids.filter_map(of).collect()
}

fn wanted(project: &Project, id: NodeId) -> Option<Wanted> {
    stage::wanted(project.graph.stage(id)?)
}

/// Holds that what the manifest names can be had, before the first stage runs. Of a stage that may yet end without a run,
/// since its result may be in the cache, that is only a warning; of one that never ran here it is an error.
///
/// # Errors
/// It cannot, each with the artifact's place.
pub fn check(project: &Project, plan: &Plan, history: &History, machine: &Machine, sink: &Sink) -> Result<()> {
    let (mut problems, mut asked) = (Vec::new(), BTreeSet::new());
    for id in project.graph.ids() {
        let Some(declaration) = project.graph.stage(id).filter(|stage| asks(stage)) else { continue };
        let node = project.graph.node(id);
        let certain = match plan.decisions[id.index()].as_ref().map(|d| &d.verdict) {
            Some(Verdict::Run { .. }) => true,
            Some(Verdict::Pending { .. }) => history.last(&node.name).is_none(),
            _ => continue,
        };
        if !asked.insert((node.name.artifact.to_string(), certain)) {
            continue;
        }
        let had = match stage::wanted(declaration) {
            Some(wanted) => machine.choose(wanted, None).map(drop),
            None => stage::check_device(declaration, machine),
        };
        let Err(error) = had else { continue };
        let error = error.within(&format!("artifact `{}`", node.name.artifact));
        match certain {
            true => problems.push(placed(project, id, error)),
            false => sink(Event::Warning { text: error.message().to_string() }),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems).with_kind(ErrorKind::Stage)) }
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
