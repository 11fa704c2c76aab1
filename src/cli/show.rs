//! Commands that only look: `explain`, `status`, `graph`, `inspect`, `schema`, `hub serve`.

use super::out::print;
use super::{Failure, Global, build, past};
use crate::core::action::{Component, InputFrom};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::graph::{Graph, NodeId, Work};
use crate::core::name::NodeName;
use crate::core::plan::{Decision, Plan, Settled, World, action_of};
use crate::core::publish::{Observed, PullRequest, Target, UploadVerdict};
use crate::core::receipt::History;
use crate::core::value::human_bytes;
use crate::core::verdict::{Reason, Verdict, difference};
use crate::exec::baseline::{self, Baseline};
use crate::exec::drive::Sink;
use crate::exec::observe;
use crate::exec::planning::plan_whole;
use crate::exec::project::Project;
use crate::exec::remote::{self, Access, EMBEDDED};
use crate::exec::targets;
use crate::model::inspect as model;
use crate::store::Store;
use crate::store::memo::Memo;
use crate::store::records;
use crate::ui::{self, explain as words, table};
use serde_json::Value as Json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

fn when(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default()
}

/// `hfbuild explain ARTIFACT`
pub fn explain(global: &Global, word: &str) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let ids = project.graph.find(word)?;
    let asked = build::asked(&project, &[word.to_string()])?;
    let store = Store::at(&project.root);
    let loaded = records::load(&store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let mut world = observe::observe(&project, &asked.wanted, &loaded.history, &mut memo)?;
    let sink: Sink = Arc::new(|_| {});
    let plan = plan_whole(&project, &store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
    let mut out = String::new();
    for id in ids {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        let node = project.graph.node(id);
        out.push_str(&format!("{}\n", node.name));
        out.push_str(&verdict_lines(&decision.verdict, decision.outcome.as_ref()));
        for reason in known_reasons(&project.graph, id, &plan, &loaded.history, &world) {
            out.push_str(&format!("    because {}\n", words::reason(&reason)));
        }
        if project.graph.stage(id).is_some_and(|d| d.frozen) {
            out.push_str("  frozen  keeps its last result, whatever changes; `--force` runs it\n");
        }
        if let Work::Upload(upload) = &node.work {
            out.push_str(&target_lines(&project, global, id)?);
            upload
                .files
                .iter()
                .for_each(|(path, _, artifact, _)| out.push_str(&format!("  file    {path} from {artifact}\n")));
        }
        if let Some((digest, action)) = &decision.action {
            out.push_str(&format!("  action  {}\n", digest.short()));
            for (component, value) in action.components() {
                let text = words::component(&component, action);
                out.push_str(&format!("    {text}: {}\n", words::brief(&value)));
            }
        }
        out.push_str(&last_lines(&loaded.history, &node.name));
    }
    print(&out);
    Ok(())
}

/// Where an upload goes, and how.
fn target_lines(project: &Project, global: &Global, id: NodeId) -> Result<String> {
    let Some(upload) = project.graph.upload(id) else { return Ok(String::new()) };
    let wanted: Vec<bool> = project.graph.ids().map(|other| other == id).collect();
    let Some(target) = targets::targets(project, &wanted, global.flags())?.remove(&id) else {
        return Ok(String::new());
    };
    let (kind, repo, branch, hub) = (&target.kind, &target.repo, &target.revision, &target.endpoint);
    let how = if upload.to.pull_request { ", as a pull request" } else { "" };
    Ok(format!("  to      the {kind} {repo}, branch {branch}, on {hub}{how}\n  laid out in {}/\n", upload.dist))
}

/// The last result: when it was made, from what other than the one before it, and what was measured.
fn last_lines(history: &History, name: &NodeName) -> String {
    let mut out = String::new();
    if let Some(last) = history.last(name) {
        out.push_str(&format!(
            "  last    {} in {} on {}\n",
            when(last.started_ms),
            ui::seconds(last.seconds),
            last.host
        ));
        let before = history.before(name).and_then(|before| before.action.read());
        if let (Some(before), Some(last)) = (before, last.action.read()) {
            for reason in difference(before, last) {
                out.push_str(&format!("    since the one before: {}\n", words::reason(&reason)));
            }
        }
        if let Some(device) = &last.device {
            out.push_str(&format!("    device: {device}\n"));
        }
        for output in &last.outputs {
            out.push_str(&format!(
                "    made {} ({}, {})\n",
                output.path,
                human_bytes(output.size),
                output.digest.short()
            ));
        }
        let of = |name: &str| {
            let subject = last.facts.subject_of(name);
            subject.map_or(String::new(), |s| format!(" (of {}, {})", s.what, s.digest.short()))
        };
        for (name, fact) in &last.facts.values {
            out.push_str(&format!("    fact {name} = {}{}\n", words::brief(&fact.value), of(name)));
        }
        for (name, value) in &last.facts.volatile {
            out.push_str(&format!("    fact {name} = {}{}, differs by run\n", words::brief(value), of(name)));
        }
    }
    out
}

/// What is known to have changed since the last run, where the verdict itself does not say: of a result that comes back
/// from the cache, and of a node that waits, as far as that does not depend on what it waits for.
fn known_reasons(graph: &Graph, id: NodeId, plan: &Plan, history: &History, world: &World) -> Vec<Reason> {
    let (Some(decision), Some(declaration)) = (&plan.decisions[id.index()], graph.stage(id)) else { return vec![] };
    let Some(last) = history.last(&graph.node(id).name).and_then(|last| last.action.read()) else { return vec![] };
    match &decision.verdict {
        Verdict::Restore { .. } => {
            decision.receipt.iter().filter_map(|r| r.action.read()).flat_map(|now| difference(last, now)).collect()
        }
        Verdict::Pending { .. } => {
            let settled = action_of(graph, declaration, &plan.settled, world);
            let own = |role: &str| {
                let input = declaration.inputs.iter().find(|i| i.role == role);
                input.is_some_and(|i| matches!(i.from, InputFrom::File(_) | InputFrom::Files(_)))
            };
            let known = |reason: &Reason| match reason {
                Reason::Changed { component: Component::Input(role), .. } => own(role),
                Reason::Changed { component: Component::Fact(_), .. } => false,
                _ => true,
            };
            difference(last, &settled).into_iter().filter(known).collect()
        }
        _ => vec![],
    }
}

fn verdict_lines(verdict: &Verdict, outcome: Option<&crate::core::gate::Outcome>) -> String {
    if let Some(outcome) = outcome {
        let word = if outcome.passed() { "passed" } else { "refused" };
        return format!("  gate    {word}: {}\n", words::outcome(outcome));
    }
    let names = |list: &[NodeName]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match verdict {
        Verdict::UpToDate => "  verdict up to date\n".into(),
        Verdict::Restore { places } if places.is_empty() => {
            "  verdict cached: an earlier result of this very action\n".into()
        }
        Verdict::Restore { places } => format!("  verdict would be restored from the cache: {}\n", places.join(", ")),
        Verdict::Pending { on } if on.is_empty() => "  verdict depends on the remote: see `hfbuild plan`\n".into(),
        Verdict::Pending { on } => format!("  verdict not known before these have run: {}\n", names(on)),
        Verdict::Blocked { by } => format!("  verdict blocked by {}\n", names(by)),
        Verdict::Run { reasons } => {
            let mut out = "  verdict would run\n".to_string();
            reasons.iter().for_each(|r| out.push_str(&format!("    because {}\n", words::reason(r))));
            out
        }
    }
}

/// `hfbuild status`
pub fn status(global: &Global, offline: bool) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let asked = build::asked(&project, &[])?;
    let store = Store::at(&project.root);
    let mut loaded = records::load(&store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let mut world = observe::observe(&project, &asked.wanted, &loaded.history, &mut memo)?;
    let uploads = targets::targets(&project, &asked.wanted, global.flags())?;
    let mut silent = None;
    let mut remote_lines = None;
    if !offline {
        let looked = look(global, &project, &store, &asked.wanted, &mut loaded, &mut world);
        match build::runtime()?.block_on(looked) {
            Ok(lines) => remote_lines = Some(lines),
            Err(error) if error.kind() == ErrorKind::Hub => silent = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let remote_lines = match remote_lines {
        Some(lines) => lines,
        None => {
            build::assume(global, &project, &store, &asked.wanted, &loaded, &mut world)?;
            uploads.values().map(|target| last_publish(target, &loaded) + "remote        not asked\n").collect()
        }
    };
    let sink: Sink = Arc::new(|_| {});
    let plan = plan_whole(&project, &store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
    let mut rows: Vec<(String, Json)> = Vec::new();
    for (artifact, ids) in &project.graph.artifacts {
        rows.push((artifact.to_string(), state(&project.graph, &plan, ids).into()));
    }
    print(&table::render(&rows));
    print(&remote_lines);
    let _ = writeln!(std::io::stderr(), "{}", ui::plan::last_line(&ui::plan::totals(&project.graph, &plan), &plan));
    match silent {
        None => Ok(()),
        Some(error) if uploads.values().all(|target| loaded.publishes.last(target).is_some()) => {
            past::talk(
                global,
                &format!("warning: the remote cannot be asked, so it is taken as this machine left it: {error}"),
            );
            Ok(())
        }
        Some(error) => Err(error.into()),
    }
}

/// What is seen of the remotes, in lines.
async fn look(
    global: &Global,
    project: &Project,
    store: &Store,
    wanted: &[bool],
    loaded: &mut records::Loaded,
    world: &mut World,
) -> crate::core::error::Result<String> {
    let remotes = targets::open(project, store, wanted, global.flags(), Access::Read).await?;
    targets::settle(&remotes, loaded, None, &|_| {}).await?;
    targets::observe(project, &remotes, loaded, world).await?;
    let mut lines = String::new();
    for (id, remote) in &remotes.of {
        lines.push_str(&remote_status(global, remote, loaded, world.remotes.get(id), store).await?);
    }
    remotes.close().await;
    Ok(lines)
}

fn last_publish(target: &Target, loaded: &records::Loaded) -> String {
    match loaded.publishes.last(target) {
        Some(last) => format!(
            "\nlast publish  {} at {} on {} ({})\n",
            target,
            ui::short(&last.commit),
            when(last.at_ms),
            ui::count(last.tree.len(), "file")
        ),
        None => format!("\nlast publish  none to {target} from here\n"),
    }
}

/// The state of an artifact in a word or two.
fn state(graph: &Graph, plan: &crate::core::plan::Plan, ids: &[NodeId]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for id in ids {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        let word = match (&decision.verdict, &decision.outcome, &plan.settled[id.index()]) {
            (_, Some(outcome), _) if outcome.passed() => "passed",
            (_, Some(_), _) => "refused",
            (Verdict::UpToDate, _, _) if is_proposed(decision) => "proposed",
            (Verdict::UpToDate, _, _) if matches!(graph.node(*id).work, Work::Upload(_)) => "published",
            (Verdict::UpToDate, _, Some(Settled::AtUpload)) => "asked at the upload",
            (Verdict::UpToDate, ..) => "up to date",
            (Verdict::Restore { .. }, _, Some(Settled::Made(_))) => "cached",
            (Verdict::Restore { .. }, ..) => "cached",
            (Verdict::Run { .. }, ..) if matches!(graph.node(*id).work, Work::Upload(_)) => "to be published",
            (Verdict::Run { .. }, ..) => "stale",
            (Verdict::Pending { .. }, ..) => "pending",
            (Verdict::Blocked { .. }, ..) => "blocked",
        };
        match counts.iter_mut().find(|(w, _)| *w == word) {
            Some((_, n)) => *n += 1,
            None => counts.push((word, 1)),
        }
    }
    let single = ids.len() == 1;
    let words = counts.iter().map(|(word, n)| if single { (*word).to_string() } else { format!("{n} {word}") });
    words.collect::<Vec<_>>().join(", ")
}

fn is_proposed(decision: &Decision) -> bool {
    matches!(decision.upload, Some((_, _, Some(UploadVerdict::Proposed { .. }))))
}

async fn remote_status(
    global: &Global,
    remote: &remote::Remote,
    loaded: &records::Loaded,
    observed: Option<&Observed>,
    store: &Store,
) -> Result<String> {
    let target = &remote.target;
    let mut out = last_publish(target, loaded);
    if let Some(name) = observed.and_then(|o| o.renamed.as_ref()) {
        out.push_str(&format!("renamed       it is called {name} now\n"));
    }
    let seen = baseline::look(remote, &loaded.publishes, &store.blobs()).await?;
    let Some(head) = &seen.head else {
        out.push_str(&match observed.and_then(|o| o.start.as_ref()) {
            Some(start) => format!("remote        no such branch yet; `main` is at {}\n", ui::short(start)),
            None if loaded.publishes.last(target).is_some() => {
                "remote        the repo or its branch is no longer there\n".to_string()
            }
            None => "remote        there is no such repo or branch yet\n".to_string(),
        });
        return Ok(out);
    };
    let published = seen.baseline.as_ref().and_then(|b| b.commit.as_ref());
    let elsewhere = published.filter(|commit| loaded.publishes.last(target).is_none_or(|last| last.commit != **commit));
    if let Some(commit) = elsewhere {
        out.push_str(&format!("              published from elsewhere at {}\n", ui::short(commit)));
    }
    let at = ui::short(&head.sha);
    out.push_str(&match (&seen.baseline, seen.comparison()) {
        (None, _) => format!("remote        at {at}, with nothing that hfbuild published\n"),
        (Some(Baseline { commit: None, .. }), _) => format!("remote        at {at}; no commit names its record\n"),
        (_, Some(found)) if published == Some(&head.sha) => match found.drifted.len() {
            0 => "remote        as the last publish left it\n".to_string(),
            n => format!("remote        at {at}, the last publish; changed there: {}\n", ui::count(n, "file")),
        },
        (_, Some(found)) if found.drifted.is_empty() => {
            format!("remote        at {at}, moved since; what was published is as it was\n")
        }
        _ => format!("remote        at {at}, moved since\n"),
    });
    out.push_str(&past::since_lines(global, remote, &seen).await?);
    let listed = || seen.there.values().map(|file| file.size).sum();
    out.push_str(&format!("stored        {}\n", human_bytes(head.used_storage.unwrap_or_else(listed))));
    // one that `--pr` opened was not looked for to plan
    let proposal = match observed.and_then(|o| o.proposal.clone()) {
        None if loaded.publishes.last_proposed(target).is_some() => {
            remote.proposal(&loaded.publishes).await?.map(Box::new)
        }
        looked => looked,
    };
    if let Some(open) = proposal {
        let PullRequest { number, url } = &open.pull_request;
        let page = url.as_deref().filter(|_| target.endpoint != EMBEDDED).unwrap_or("open");
        out.push_str(&format!("pull request  #{number}, {page}\n"));
    }
    Ok(out)
}

/// `hfbuild graph`
pub fn graph(global: &Global) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let graph = &project.graph;
    let mut out = "flowchart LR\n".to_string();
    let mut edges = std::collections::BTreeSet::new();
    for (artifact, ids) in &graph.artifacts {
        let Some(first) = ids.first() else { continue };
        let shape = match &graph.node(*first).work {
            Work::Gate(_) => format!("{artifact}{{{{\"{artifact}: {}\"}}}}", ui::count(ids.len(), "gate")),
            Work::Upload(_) => format!("{artifact}([\"{artifact}\"])"),
            Work::Stage(_) if graph.families.contains(artifact) => {
                format!("{artifact}[[\"{artifact}: {}\"]]", ui::count(ids.len(), "shard"))
            }
            Work::Stage(_) => format!("{artifact}[\"{artifact}\"]"),
        };
        out.push_str(&format!("    {shape}\n"));
        for id in ids {
            edges.extend(graph.node(*id).deps.iter().map(|d| (graph.node(*d).name.artifact.clone(), artifact.clone())));
        }
    }
    edges.into_iter().for_each(|(from, to)| out.push_str(&format!("    {from} --> {to}\n")));
    print(&out);
    Ok(())
}

/// `hfbuild inspect FILE`
pub fn inspect(file: &Path, json: bool) -> Result<(), Failure> {
    let inspection =
        model::inspect(file).map_err(|e| if e.kind() == ErrorKind::Io { e.with_kind(ErrorKind::Usage) } else { e })?;
    let rows = inspection.facts;
    if json {
        let object: serde_json::Map<String, Json> = rows.into_iter().collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&Json::Object(object)).unwrap_or_default()));
    } else {
        print(&table::render(&rows));
    }
    Ok(())
}

/// `hfbuild schema`
pub fn schema() -> Result<(), Failure> {
    let schema = crate::exec::project::schema();
    print(&format!("{}\n", serde_json::to_string_pretty(&schema).unwrap_or_default()));
    Ok(())
}

/// `hfbuild hub serve`
pub fn serve(global: &Global, port: u16, xet: bool) -> Result<(), Failure> {
    let root = global
        .project
        .canonicalize()
        .map_err(|e| Error::io("open", &global.project, &e).with_kind(ErrorKind::Usage))?;
    let folder = Store::at(&root).hub();
    if !folder.exists() && !root.join(crate::exec::project::MANIFEST).exists() {
        return Err(Error::new(ErrorKind::Usage, format!("there is no project in `{}`", root.display())).into());
    }
    build::runtime()?.block_on(async {
        let running = remote::serve(&folder, port, xet).await?;
        print(&format!("{}\n", running.url()));
        let _ = writeln!(
            std::io::stderr(),
            "a staging hub on loopback, {}; for Python: HF_ENDPOINT={}{} (Ctrl-C ends it)",
            if xet { "xet and LFS" } else { "LFS only, no xet" },
            running.url(),
            if xet { "" } else { " HF_HUB_DISABLE_XET=1" }
        );
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|e| Error::new(ErrorKind::Io, "cannot listen for signals").cause(e.to_string()))?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        running.stop().await;
        Ok::<_, Error>(())
    })?;
    Ok(())
}
