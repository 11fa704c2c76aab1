//! Commands held against the machine and the project before anything runs: the program is there, and the files of the
//! project that its command line names are declared, so that it will find them.
//!
//! Looks at files and starts nothing. Does not know what a program's own options mean.

use crate::core::action::Declaration;
use crate::core::error::{Error, Result};
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::manifest::dom::join;
use crate::core::plan::{Plan, World};
use crate::core::value::Value;
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::observe::{on_path, source_paths};
use crate::exec::project::Project;
use crate::stage;
use std::collections::{BTreeMap, BTreeSet};

/// Endings of programs' files: a word of a command line with such a one is read and not made.
const SCRIPTS: [&str; 6] = [".py", ".sh", ".pl", ".rb", ".R", ".jl"];

/// Checks the commands that a plan would run. One that may yet end without a run is only warned of; what may run in
/// libtorch's worker is refused too where it `builds`.
///
/// # Errors
/// A program that is not there, a file that the work directory will lack, each with the artifact's place.
pub fn check(project: &Project, plan: &Plan, world: &World, builds: bool, sink: &Sink) -> Result<()> {
    let mut problems = Vec::new();
    let (mut told, mut there) = (BTreeSet::new(), BTreeMap::new());
    for id in project.graph.ids() {
        let Some(declaration) = project.graph.stage(id).filter(|d| d.kind == "command") else { continue };
        let verdict = plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
        let certain = matches!(verdict, Some(Verdict::Run { .. }));
        if !certain && !matches!(verdict, Some(Verdict::Pending { .. })) {
            continue;
        }
        let words = declaration.params.get("run").and_then(Value::as_list).unwrap_or_default();
        let line: Vec<&str> = words.iter().filter_map(Value::as_text).collect();
        let program = line.first().copied().unwrap_or_default();
        let is_there = *there.entry(program).or_insert_with(|| on_path(&project.root, program).is_some());
        let error = match is_there || is_brought(declaration, program) {
            true => undeclared(project, id, declaration, &line, world),
            false => Some(lost_program(project, id, program)),
        };
        let Some(error) = error.filter(|e| told.insert(e.message().to_string())) else { continue };
        match certain {
            true => problems.push(error),
            false => sink(Event::Warning { text: error.message().to_string() }),
        }
    }
    problems.extend(lost_worker(project, plan, builds, sink));
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

/// The first stage that would run in libtorch's worker, where there is no worker. A plan only warns of one that may yet end
/// without a run.
fn lost_worker(project: &Project, plan: &Plan, builds: bool, sink: &Sink) -> Option<Error> {
    let verdict = |id: NodeId| plan.decisions[id.index()].as_ref().map(|decision| &decision.verdict);
    let needs = |id: &NodeId| project.graph.stage(*id).is_some_and(stage::needs_worker);
    let runs = |id: &NodeId| matches!(verdict(*id), Some(Verdict::Run { .. }));
    let may_run = |id: &NodeId| matches!(verdict(*id), Some(Verdict::Pending { .. }));
    let certain = project.graph.ids().filter(needs).find(runs);
    let id = certain.or_else(|| project.graph.ids().filter(needs).find(may_run))?;
    let why = stage::worker().err()?;
    let node = project.graph.node(id);
    let message = format!("artifact `{}` asks for libtorch: {}", node.name.artifact, why.message());
    if certain.is_none() && !builds {
        sink(Event::Warning { text: message });
        return None;
    }
    let error = project.manifest.source.error(node.span.clone(), message);
    let error = why.causes().iter().fold(error, |error, cause| error.cause(cause.clone()));
    Some(error.hint(why.hint_text().unwrap_or_default()))
}

/// Whether a program is one of the command's inputs, which were looked for, and not to be found on the PATH.
fn is_brought(declaration: &Declaration, program: &str) -> bool {
    let path = program.strip_prefix("./").unwrap_or(program);
    (program.contains('/') && !program.starts_with('/'))
        || declaration.inputs.iter().any(|input| input.path.as_deref() == Some(path))
}

fn lost_program(project: &Project, id: NodeId, program: &str) -> Error {
    let node = project.graph.node(id);
    let message = format!("artifact `{}` runs `{program}`, which is not there", node.name.artifact);
    let error = project.manifest.source.error(node.span.clone(), message);
    error.hint("programs are looked for on the PATH; one of the project is named under `inputs`")
}

/// A word of the command line that is a file of the project, or is called a script, and that no input brings along.
fn undeclared(project: &Project, id: NodeId, declaration: &Declaration, line: &[&str], world: &World) -> Option<Error> {
    let outputs = match &declaration.shape {
        crate::core::action::Shape::Paths(paths) => paths.as_slice(),
        _ => &[],
    };
    let below = |word: &str, path: &str| word == path || word.starts_with(&format!("{path}/"));
    let lacks = |word: &&&str| {
        let path = word.strip_prefix("./").unwrap_or(word);
        let relative = !path.starts_with(['/', '-']) && !path.contains("..") && !path.contains(char::is_whitespace);
        let is_script = SCRIPTS.iter().any(|ending| path.ends_with(ending));
        let is_there = || path.contains('.') && project.root.join(path).is_file();
        relative
            && !outputs.iter().any(|output| below(path, output))
            && !declaration.inputs.iter().any(|input| input.path.as_deref().is_some_and(|p| below(path, p)))
            && (is_script || is_there())
            && !source_paths(declaration, world).iter().any(|source| source == path)
    };
    let word = line.iter().skip(1).find(lacks)?;
    let node = project.graph.node(id);
    let message = format!(
        "the command of `{}` names `{word}`, which is no input of it: it will not be in its work directory",
        node.name.artifact
    );
    let hint = match project.root.join(word).is_file() {
        true => "name it under `inputs`, so that a change of it reruns the stage, and use it as {in.ROLE}",
        false => "there is no such file in the project either",
    };
    Some(project.manifest.source.error(node.span.clone(), message).hint(hint))
}
