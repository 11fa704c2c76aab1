//! `check`: the gates alone, and with `--determinism` whether a stage makes the same twice.
//!
//! Asks the engine and prints what it says; decides nothing of its own.

use super::{Failure, Global, build};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::gate::{Clause, Outcome};
use crate::core::graph::{Graph, NodeId, Work};
use crate::core::plan::{self, Plan, Settled, World};
use crate::core::publish::Observed;
use crate::core::value::{Value, human_bytes};
use crate::core::verdict::Verdict;
use crate::exec::drive::{Cancel, Sink};
use crate::exec::leaks;
use crate::exec::observe;
use crate::exec::planning::plan_whole;
use crate::exec::project::Project;
use crate::exec::remote;
use crate::exec::targets;
use crate::exec::twice::{Against, Differing, Twice, What};
use crate::store::memo::Memo;
use crate::store::records::Publishes;
use crate::store::{Store, lock, records};
use crate::ui::{count, explain as words};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

/// So many differences of a node are told without `--verbose`.
const TOLD: usize = 4;

fn talk(global: &Global, text: &str) {
    if !global.quiet {
        let _ = writeln!(std::io::stderr(), "hfbuild: {text}"); // a closed pipe ends the talk
    }
}

/// `hfbuild check`
pub fn gates(global: &Global) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let graph = &project.graph;
    let gates: Vec<NodeId> = graph.ids().filter(|id| graph.clause(*id).is_some()).collect();
    // what `published` is compared with is known only with the tree that would be sent
    let is_upload = |id: &NodeId| matches!(graph.node(*id).work, Work::Upload(_));
    let uploads: Vec<NodeId> = graph.ids().filter(is_upload).filter(|_| graph.asks_published()).collect();
    let wanted = graph.closure(&[&gates[..], &uploads].concat());
    let store = Store::at(&project.root);
    let loaded = records::load(&store)?;
    let mut world = observe::observe(&project, &wanted, &loaded.history, &mut Memo::load(&store.memo_log())?)?;
    world.remotes = last_publishes(global, &project, &store, &wanted, &loaded.publishes)?;
    let plan = plan::plan(graph, &wanted, &gates.iter().copied().collect(), &loaded.history, &world);
    let mut lines = Vec::new();
    for &id in &gates {
        let (Some(decision), Some(clause)) = (&plan.decisions[id.index()], graph.clause(id)) else { continue };
        let of = uploads.iter().find(|upload| graph.behind(**upload)[id.index()]);
        let last = of.and_then(|upload| world.remotes.get(upload));
        let against = last.and_then(|l| l.head.as_deref()).filter(|_| clause.is_about_published());
        let against = against.map_or(String::new(), |head| format!(" (published: {})", crate::ui::short(head)));
        let judged = |outcome| format!("{}{against}", judged(graph, &plan, &world, clause, outcome));
        let (word, text) = match &decision.outcome {
            Some(outcome) if outcome.passed() => ("passed", judged(outcome)),
            Some(outcome) => ("refused", judged(outcome)),
            None if decision.is_at_upload() => at_upload(&plan, &uploads),
            None => ("unknown", waits(graph, clause, &decision.verdict)),
        };
        lines.push((word, format!("{word:<7}  {}  {text}\n", graph.node(id).name)));
    }
    let _ = write!(std::io::stdout(), "{}", lines.iter().map(|(_, line)| line.as_str()).collect::<String>());
    let counted = |word: &str| lines.iter().filter(|(w, _)| *w == word).count();
    let words = [("passed", "passed"), ("refused", "refused"), ("unknown", "not known yet")];
    let leaks = leaks(&project, &store)?;
    let parts = words.iter().map(|(word, said)| (counted(word), said)).filter(|(n, _)| *n > 0);
    let parts: Vec<_> = parts.map(|(n, said)| format!("{n} {said}")).collect();
    match parts.is_empty() {
        true => talk(global, "the manifest has no gates"),
        false => talk(global, &format!("{}: {}", count(gates.len(), "gate"), parts.join(", "))),
    }
    if counted("unknown") > 0 {
        talk(global, "run `hfbuild build` to know the rest");
    }
    // what was refused is said above; what is not known yet is no pass
    match (counted("refused") + leaks, counted("unknown")) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Many(vec![Error::new(ErrorKind::WorkToDo, "")])),
        _ => Err(Failure::Many(vec![Error::new(ErrorKind::Gate, "")])),
    }
}

/// The remotes as this machine's last publishes left them, of uploads that have been published: no hub is asked.
fn last_publishes(
    global: &Global,
    project: &Project,
    store: &Store,
    wanted: &[bool],
    publishes: &Publishes,
) -> Result<BTreeMap<NodeId, Observed>> {
    let mut out = BTreeMap::new();
    if !project.graph.asks_published() {
        return Ok(out);
    }
    for (id, target) in targets::targets(project, wanted, global.flags())? {
        out.extend(remote::last_known(&target, publishes, &store.blobs())?.map(|observed| (id, observed)));
    }
    Ok(out)
}

/// Says what must not be published of what is known without running anything; how many findings there are.
fn leaks(project: &Project, store: &Store) -> Result<usize> {
    let graph = &project.graph;
    let wanted = vec![true; graph.nodes.len()];
    let loaded = records::load(store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let world = observe::observe(project, &wanted, &loaded.history, &mut memo)?;
    let plan = plan::plan(graph, &wanted, &BTreeSet::new(), &loaded.history, &world);
    let mut lines = BTreeSet::new(); // uploads may share files
    for (id, upload) in graph.uploads() {
        let known = leaks::known(project, store, &plan, &world, id);
        let token = crate::hub::resolve_token(&|name| std::env::var(name).ok()).map(|token| token.for_masking());
        let found = leaks::search(&known, &upload.to.allow_findings, token, &mut memo)?;
        lines.extend(found.refused.iter().map(|(path, finding)| crate::core::leaks::say(path, finding)));
    }
    for line in &lines {
        let _ = writeln!(std::io::stdout(), "refused  leaks  {line}");
    }
    Ok(lines.len())
}

/// What can be said of a gate over `published` that was not asked.
fn at_upload(plan: &Plan, uploads: &[NodeId]) -> (&'static str, String) {
    let decided = uploads.iter().filter_map(|id| plan.decisions[id.index()].as_ref());
    match decided.map(|d| &d.verdict).next() {
        Some(Verdict::UpToDate) => ("passed", "not asked: nothing differs from what was published last".into()),
        _ => ("unknown", "it is asked when something is sent, against what is published then".into()),
    }
}

/// An outcome with its values, the bounds that the manifest names, and what was measured.
fn judged(graph: &Graph, plan: &Plan, world: &World, clause: &Clause, outcome: &Outcome) -> String {
    let mut text = words::outcome(outcome);
    let bounds = clause.names.iter().filter(|n| n.len() == 2 && n[0] == "params");
    for (name, value) in bounds.filter_map(|n| Some((n.join("."), world.params.get(&n[1])?))) {
        let comma = if text.is_empty() || text.ends_with(": ") { "" } else { ", " };
        text.push_str(&format!("{comma}`{name}` is {}", words::brief(value)));
    }
    let shard = match outcome {
        Outcome::Refused { shard, .. } | Outcome::Unmeasured { shard, .. } => shard.as_deref(),
        Outcome::Passed { .. } => None,
    };
    let subjects = subjects(graph, plan, clause, shard);
    if !subjects.is_empty() {
        text.push_str(&format!(" (of {})", subjects.into_iter().collect::<Vec<_>>().join("; ")));
    }
    text
}

/// What the facts of a clause were measured on: of a family only where it is about one shard.
fn subjects(graph: &Graph, plan: &Plan, clause: &Clause, shard: Option<&str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in &clause.names {
        let Some(artifact) = name.first().and_then(|root| root.parse().ok()) else { continue };
        let about = graph.of(&artifact).iter().filter(|id| graph.node(**id).name.key.as_deref() == shard);
        for receipt in about.filter_map(|id| plan.settled[id.index()].as_ref()) {
            let Settled::Made(receipt) = receipt else { continue };
            let subject = receipt.facts.subject_of(&name[1..].join("."));
            found.extend(subject.map(|s| format!("{}, {}", s.what, s.digest.short())));
        }
    }
    found
}

/// Why a gate cannot be asked yet.
fn waits(graph: &Graph, clause: &Clause, verdict: &Verdict) -> String {
    let facts = clause.names.iter().filter(|n| {
        n.len() > 1 && n.first().and_then(|root| root.parse().ok()).is_some_and(|a| !graph.of(&a).is_empty())
    });
    let facts: Vec<_> = facts.map(|n| format!("`{}`", n.join("."))).collect();
    let facts = if facts.is_empty() { "it".to_string() } else { facts.join(", ") };
    let artifacts = |names: &[crate::core::name::NodeName]| {
        let names: BTreeSet<_> = names.iter().map(|n| n.artifact.to_string()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    match verdict {
        Verdict::Pending { on } => format!("{facts} is not known before this is up to date: {}", artifacts(on)),
        Verdict::Blocked { by } => format!("{facts} is not known: blocked by {}", artifacts(by)),
        _ => format!("{facts} is not known"),
    }
}

/// `hfbuild check --determinism ARTIFACT...`
pub fn determinism(global: &Global, targets: &[String]) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let asked = build::asked(&project, targets)?;
    let store = Store::open(&project.root, &|text| talk(global, &text))?;
    let lock = lock::acquire(&store.lock_path(), true, &|text| talk(global, &text))?;
    store.clear_tmp()?;
    let loaded = records::load(&store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let mut world = observe::observe(&project, &asked.wanted, &loaded.history, &mut memo)?;
    observe::check_tools(&project, &asked.wanted, &world)?;
    let sink: Sink = Arc::new(|_| {});
    let plan = plan_whole(&project, &store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
    let cancel = Cancel::guarded(build::guarding(&store, &lock));
    let mut twice =
        Twice { project: &project, store: &store, history: &loaded.history, memo, world, plan, cancel: cancel.clone() };
    let nodes: Vec<NodeId> = asked.targets.iter().copied().collect();
    nodes.iter().try_for_each(|id| twice.ready(*id))?;
    let runtime = build::runtime()?;
    let listener = runtime.spawn(build::listen(cancel.clone()));
    let errors = run_each(global, &mut twice, &nodes);
    listener.abort();
    if let Some(kind) = cancel.stopped() {
        return Err(Error::new(kind, "interrupted: nothing was kept").into());
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Many(errors)) }
}

/// Runs every node twice, says what came out, and goes on after a failure; all errors.
fn run_each(global: &Global, twice: &mut Twice<'_>, nodes: &[NodeId]) -> Vec<Error> {
    let mut errors = Vec::new();
    for &id in nodes {
        let name = twice.project.graph.node(id).name.to_string();
        if global.verbose {
            talk(global, &format!("running {name} twice"));
        }
        let line = match twice.compare(id) {
            Ok(result) if result.differing.is_empty() => format!("same  {name}  {}", count(result.files, "file")),
            Ok(result) => {
                errors.push(Error::stage("")); // what differs is said in its line
                format!("differs  {name}  {}", differences(&result.differing, global.verbose))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Terminated) => break,
            Err(error) => {
                errors.push(error);
                format!("failed  {name}")
            }
        };
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    errors
}

fn differences(all: &[Differing], every: bool) -> String {
    let told = if every { all.len() } else { TOLD };
    let mut parts: Vec<String> = all.iter().take(told).map(difference).collect();
    if all.len() > told {
        parts.push(format!("and {} more (--verbose names them)", all.len() - told));
    }
    parts.join("; ")
}

fn difference(differing: &Differing) -> String {
    let (one, other) = match differing.against {
        Against::Itself => ("the first run", "the second run"),
        Against::Receipt => ("both runs", "the last build"),
    };
    let since = if differing.against == Against::Receipt { " (both runs and the last build)" } else { "" };
    match &differing.what {
        What::Content { path, sizes: (a, b), byte } => {
            let sizes = if a == b { human_bytes(*a) } else { format!("{} and {}", human_bytes(*a), human_bytes(*b)) };
            let byte = byte.map_or(String::new(), |n| format!(", first difference at byte {n}"));
            format!("{path}: {sizes}{byte}{since}")
        }
        What::Path { path, first } => format!("{path}: made by {} only", if *first { one } else { other }),
        What::Fact { name, values: (a, b) } => {
            let (mut was, mut now) = (value(a.as_ref(), words::brief), value(b.as_ref(), words::brief));
            if was == now {
                // what is rounded or cut for people may look the same
                (was, now) = (value(a.as_ref(), Value::to_string), value(b.as_ref(), Value::to_string));
            }
            format!("fact `{name}`: {was} and {now}{since}")
        }
    }
}

fn value(value: Option<&Value>, show: fn(&Value) -> String) -> String {
    value.map_or("nothing".into(), show)
}
