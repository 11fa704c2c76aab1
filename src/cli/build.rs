//! `build`, `plan`, `clean`: everything that plans.

use super::{BuildArgs, Failure, Global};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::estimate::estimate;
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::plan::World;
use crate::core::publish::Target;
use crate::exec::drive::{self, Cancel, Driver, Options, Sink, Start};
use crate::exec::guard;
use crate::exec::observe;
use crate::exec::planning::plan_whole;
use crate::exec::project::Project;
use crate::exec::remote::{self, Access};
use crate::exec::snapshot;
use crate::exec::targets;
use crate::exec::{programs, runtimes};
use crate::store::memo::Memo;
use crate::store::records::{self, Loaded, Recorder};
use crate::store::{Store, lock};
use crate::ui::doctor;
use crate::ui::plan as shown;
use crate::ui::progress::{Progress, Verbosity};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// What was asked for: the nodes themselves, and with all that they need.
pub struct Asked {
    pub targets: BTreeSet<NodeId>,
    pub wanted: Vec<bool>,
}

/// Finds the nodes that words name; without words, everything: the nodes that nothing else needs.
pub fn asked(project: &Project, words: &[String]) -> Result<Asked> {
    let graph = &project.graph;
    let mut targets = BTreeSet::new();
    for word in words {
        targets.extend(graph.find(word)?);
    }
    if words.is_empty() {
        targets.extend(graph.ids().filter(|id| graph.node(*id).consumers.is_empty()));
    }
    let list: Vec<_> = targets.iter().copied().collect();
    Ok(Asked { wanted: graph.closure(&list), targets })
}

/// The same without uploads, with all that these need.
fn without_uploads(project: &Project, asked: &Asked) -> Asked {
    let graph = &project.graph;
    let uploads = graph.ids().filter(|id| asked.wanted[id.index()] && graph.upload(*id).is_some());
    let needed = uploads.flat_map(|id| graph.node(id).deps.clone());
    let is_upload = |id: &NodeId| graph.upload(*id).is_some();
    let targets: BTreeSet<NodeId> = asked.targets.iter().copied().chain(needed).filter(|id| !is_upload(id)).collect();
    let list: Vec<_> = targets.iter().copied().collect();
    let mut wanted = graph.closure(&list);
    graph.ids().filter(is_upload).for_each(|id| wanted[id.index()] = false);
    Asked { targets, wanted }
}

/// Says what is not published.
fn tell_offline(global: &Global, project: &Project, wanted: &[bool]) -> Result<()> {
    for (id, target) in targets::targets(project, wanted, global.flags())? {
        let name = &project.graph.node(id).name;
        let _ = writeln!(std::io::stderr(), "offline: `{name}` is not published to `{target}`");
    }
    Ok(())
}

pub fn verbosity(global: &Global) -> Verbosity {
    match (global.quiet, global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}

/// A runtime for one command.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Error::new(ErrorKind::Io, "cannot start the runtime").cause(e.to_string()))
}

/// The nodes that are forced, which are asked for themselves then: something that stands in the way of what reads them
/// does not spare them.
fn forced(project: &Project, words: &[String], asked: &mut Asked) -> Result<BTreeSet<NodeId>> {
    let mut forced = BTreeSet::new();
    for word in words {
        let nodes = project.graph.find(word)?;
        if !nodes.iter().any(|id| asked.wanted[id.index()]) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("`{word}` is forced, and nothing that is built needs it"),
            )
            .hint(format!("name it as a target too: `hfbuild build {word} ...`")));
        }
        forced.extend(nodes);
    }
    asked.targets.extend(forced.iter().filter(|id| asked.wanted[id.index()]));
    Ok(forced)
}

/// `hfbuild`, `hfbuild build TARGET...`
pub fn build(global: &Global, words: &[String], args: &BuildArgs) -> Result<(), Failure> {
    let progress = Arc::new(Progress::new(verbosity(global)));
    let key = snapshot_key(global, words).filter(|_| args.force.is_empty() && !args.offline);
    if key.is_some_and(|key| nothing_to_do(global, key, &progress)) {
        return Ok(());
    }
    let project = Project::open(&global.project, &global.settings())?;
    let mut asked = asked(&project, words)?;
    let forced = forced(&project, &args.force, &mut asked)?;
    if args.offline {
        tell_offline(global, &project, &asked.wanted)?;
        asked = without_uploads(&project, &asked);
    }
    let store = Store::open(&project.root, &|text| progress.show(&Event::Warning { text }))?;
    let tell = |text: String| progress.show(&Event::Note { text });
    let lock = lock::acquire(&store.lock_path(), !args.no_wait, &tell)?;
    store.clear_tmp()?;
    let (sink, run_dir) = run_dir_sink(&progress, &store)?;
    let cancel = Cancel::guarded(guarding(&store, &lock));
    let (project, store) = (&project, &store);
    let summary = runtime()?.block_on(async move {
        let guard = tokio::spawn(listen(cancel.clone()));
        let prepared = tokio::select! {
            prepared = prepare(global, project, store, asked, forced, args, sink, cancel.clone(), run_dir) => prepared,
            stopped = drive::stopped(&cancel) => Err(stopped),
        };
        let result = match prepared {
            Ok(mut start) => {
                start.options.snapshot = key;
                Driver::new(start)?.run().await
            }
            Err(error) => Err(error),
        };
        guard.abort();
        result
    });
    progress.end();
    let summary = summary?;
    let _ = writeln!(std::io::stderr(), "{}", crate::ui::summary(&summary));
    for line in look_at(&summary) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let mut errors = summary.errors;
    if summary.refused > 0 {
        errors.push(Error::new(ErrorKind::Gate, "")); // what was refused is said above; this carries the exit code
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Many(errors)) }
}

/// What a guard takes; `None` where it cannot be had.
pub fn guarding(store: &Store, lock: &lock::Lock) -> Option<guard::Wanted> {
    Some(guard::Wanted { hfbuild: std::env::current_exe().ok()?, work: store.tmp(), lock: lock.share().ok()? })
}

/// The key under which "nothing to do" may be remembered for this command line.
fn snapshot_key(global: &Global, words: &[String]) -> Option<crate::core::digest::Digest> {
    let mut asked = words.to_vec();
    asked.push(format!("{global:?}"));
    snapshot::key(&global.project.canonicalize().ok()?, &asked).ok()
}

/// Whether what an earlier build looked at is all as it was then; says so.
fn nothing_to_do(global: &Global, key: crate::core::digest::Digest, progress: &Progress) -> bool {
    let Ok(root) = global.project.canonicalize() else { return false };
    let store = Store::at(&root);
    if !store.exists() {
        return false;
    }
    // where another build is at work, the long way waits for it
    let Ok(_lock) = lock::acquire(&store.lock_path(), false, &|_| {}) else { return false };
    let Some(fresh) = snapshot::still_fresh(&root, &store, key) else { return false };
    if !fresh.shown.is_empty() {
        progress.show(&Event::Fresh { nodes: fresh.shown });
    }
    progress.end();
    let summary = crate::core::event::Summary { fresh: fresh.count, ..Default::default() };
    let _ = writeln!(std::io::stderr(), "{}", crate::ui::summary(&summary));
    true
}

/// Everything before the first stage: what is remembered, what is there, whether it could be published.
#[allow(clippy::too_many_arguments)]
async fn prepare<'a>(
    global: &Global,
    project: &'a Project,
    store: &'a Store,
    asked: Asked,
    forced: BTreeSet<NodeId>,
    args: &BuildArgs,
    sink: Sink,
    cancel: Cancel,
    run_dir: std::path::PathBuf,
) -> Result<Start<'a>> {
    let mut loaded = records::load(store)?;
    if loaded.damaged > 0 {
        sink(Event::Warning {
            text: format!("{} damaged in the cache's logs are left out", crate::ui::count(loaded.damaged, "record")),
        });
        records::mend(store)?; // told once
    }
    let mut memo = Memo::load(&store.memo_log())?;
    memo.keep();
    let mut world = observe::observe(project, &asked.wanted, &loaded.history, &mut memo)?;
    observe::check_tools(project, &asked.wanted, &world)?;
    world.forced = forced;
    world.allow_regression = args.allow_regression;
    world.overwrite = args.overwrite;
    world.pull_request = args.pr;
    let remotes = targets::open(project, store, &asked.wanted, global.flags(), Access::Write).await?;
    let tell = |text| sink(Event::Note { text });
    let recovered = targets::settle(&remotes, &mut loaded, Some(&mut Recorder::open(store)?), &tell).await?;
    targets::observe(project, &remotes, &loaded, &mut world).await?;
    let (mut wanted, targets) = (asked.wanted, asked.targets);
    let mut turned_down = vec![];
    if !remotes.of.is_empty() {
        let plan = plan_whole(project, store, &wanted, &targets, &loaded, &mut memo, &mut world, &sink)?;
        let named = remotes.of.iter().map(|(id, remote)| (*id, remote.target.clone())).collect();
        for text in targets::notes(project, &named, &plan, &world) {
            sink(Event::Note { text });
        }
        let history = &loaded.history;
        turned_down = targets::preflight(project, store, &remotes, &plan, &world, history, &mut memo).await?;
        if !turned_down.is_empty() {
            let ends: Vec<NodeId> = targets.iter().copied().collect();
            wanted = targets::without(project, &wanted, &ends, &turned_down);
        }
    }
    let options = Options { jobs: args.jobs.map_or(0, usize::from), keep_going: args.keep_going, snapshot: None };
    Ok(Start {
        project,
        store,
        loaded,
        memo,
        world,
        remotes,
        turned_down,
        sink,
        cancel,
        options,
        wanted,
        targets,
        run_dir,
        recovered,
    })
}

/// Where to look at what was published.
fn look_at(summary: &crate::core::event::Summary) -> Vec<String> {
    let served = |page: &String| if page.is_empty() { "hfbuild hub serve".to_string() } else { page.clone() };
    summary.pages.iter().map(served).map(|page| format!("look at it: {page}")).collect()
}

fn run_id() -> String {
    format!("{}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3f"), std::process::id())
}

/// A folder for this run, and where its events go.
pub fn run_dir_sink(progress: &Arc<Progress>, store: &Store) -> Result<(Sink, std::path::PathBuf)> {
    let run_dir = store.new_run(&run_id())?;
    Ok((sink(progress, &run_dir), run_dir))
}

/// Shows events and keeps them as JSON lines in the run's folder.
fn sink(progress: &Arc<Progress>, run_dir: &std::path::Path) -> Sink {
    let progress = progress.clone();
    let file =
        std::fs::OpenOptions::new().create(true).append(true).open(run_dir.join("events.jsonl")).ok().map(Mutex::new);
    Arc::new(move |event: Event| {
        progress.show(&event);
        if matches!(event, Event::Progress { .. } | Event::Sent { .. }) {
            return;
        }
        if let (Some(file), Ok(line)) = (&file, serde_json::to_string(&event))
            && let Ok(mut file) = file.lock()
        {
            let _ = file.write_all(format!("{line}\n").as_bytes()); // a log that cannot be written stops no build
        }
    })
}

/// The first signal asks everything to stop in good order; the second ends the process at once.
pub async fn listen(cancel: Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => ErrorKind::Interrupted,
            _ = terminate.recv() => ErrorKind::Terminated,
        };
        if cancel.stopped().is_some() {
            cancel.kill();
            std::process::exit(i32::from(kind.exit_code()));
        }
        cancel.stop(kind);
    }
}

/// What the last build with nothing to do remembers, where that is still so. Read without the lock: a plan is an answer of
/// the moment.
fn remembered(global: &Global, words: &[String]) -> Option<snapshot::Fresh> {
    let root = global.project.canonicalize().ok()?;
    snapshot::still_fresh(&root, &Store::at(&root), snapshot_key(global, words)?)
}

/// What is seen of the remotes by a command that only looks, and where the wanted uploads go.
pub async fn look(
    global: &Global,
    project: &Project,
    store: &Store,
    wanted: &[bool],
    loaded: &mut Loaded,
    world: &mut World,
) -> Result<BTreeMap<NodeId, Target>> {
    let remotes = targets::open(project, store, wanted, global.flags(), Access::Read).await?;
    targets::settle(&remotes, loaded, None, &|_| {}).await?;
    targets::observe(project, &remotes, loaded, world).await?;
    let targets = remotes.of.iter().map(|(id, remote)| (*id, remote.target.clone())).collect();
    remotes.close().await;
    Ok(targets)
}

/// Puts the remotes into the world as the last publishes left them, and says so; where the wanted uploads go.
pub fn assume(
    global: &Global,
    project: &Project,
    store: &Store,
    wanted: &[bool],
    loaded: &Loaded,
    world: &mut World,
) -> Result<BTreeMap<NodeId, Target>> {
    let targets = targets::targets(project, wanted, global.flags())?;
    for (id, target) in &targets {
        let said = match loaded.publishes.last(target) {
            Some(last) => {
                let when = jiff::Timestamp::from_millisecond(last.at_ms)
                    .map_or(String::new(), |at| at.strftime(" of %F %H:%M UTC").to_string());
                let to = if targets.len() > 1 { format!(" to `{target}`") } else { String::new() };
                let commit = crate::ui::short(&last.commit);
                format!("planned against commit {commit}{when}, which this machine published last{to}")
            }
            None => format!("this machine never published to `{target}`, so what would be sent is not known"),
        };
        let _ = writeln!(std::io::stderr(), "offline: {said}");
        let known = remote::last_known(target, &loaded.publishes, &store.blobs())?;
        world.remotes.extend(known.map(|observed| (*id, observed)));
    }
    Ok(targets)
}

/// Options of a plan.
pub struct PlanArgs {
    pub json: bool,
    pub check: bool,
    pub offline: bool,
    pub pr: bool,
}

/// `hfbuild plan`
pub fn plan(global: &Global, words: &[String], force: &[String], args: &PlanArgs) -> Result<(), Failure> {
    let PlanArgs { json, check, offline, pr } = *args;
    if let Some(fresh) = remembered(global, words).filter(|_| !json && force.is_empty()) {
        let _ = writeln!(std::io::stderr(), "{}", shown::nothing_to_do(fresh.count));
        return Ok(());
    }
    let project = Project::open(&global.project, &global.settings())?;
    let mut asked = asked(&project, words)?;
    let forced = forced(&project, force, &mut asked)?;
    let store = Store::at(&project.root);
    let mut loaded = records::load(&store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let mut world = observe::observe(&project, &asked.wanted, &loaded.history, &mut memo)?;
    observe::check_tools(&project, &asked.wanted, &world)?;
    world.forced = forced;
    world.pull_request = pr;
    let targets = match offline {
        true => assume(global, &project, &store, &asked.wanted, &loaded, &mut world)?,
        false => runtime()?.block_on(look(global, &project, &store, &asked.wanted, &mut loaded, &mut world))?,
    };
    let progress = Arc::new(Progress::new(verbosity(global)));
    let shower = progress.clone();
    let sink: Sink = Arc::new(move |event| shower.show(&event));
    let plan = plan_whole(&project, &store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
    programs::check(&project, &plan, &world, false, &sink)?;
    targets::notes(&project, &targets, &plan, &world).into_iter().for_each(|text| sink(Event::Note { text }));
    let machine = runtimes::machine(&store);
    runtimes::check(&project, &plan, Some(&loaded.history), &machine, &sink)?;
    let runs_on = runtimes::of_plan(&project, &plan, &machine);
    let runs_on: Vec<_> = runs_on.iter().map(|runs| (runs.artifact.as_str(), &runs.choice)).collect();
    let graph = &project.graph;
    let sends: Vec<shown::Sending> = targets
        .into_iter()
        .map(|(id, target)| {
            let (last, observed) = (loaded.publishes.last(&target), world.remotes.get(&id));
            let send = estimate(graph, &plan, &world, id, last);
            let start = observed.and_then(|o| o.start.clone());
            let elsewhere = observed.and_then(|o| o.elsewhere.clone());
            shown::Sending { id, target, start, elsewhere, send }
        })
        .collect();
    let totals = shown::totals(graph, &plan);
    if json {
        let mut form = shown::to_json(graph, &plan, &sends);
        form["runtimes"] = runs_on.iter().map(doctor::stage_json).collect::<Vec<_>>().into();
        let text = serde_json::to_string_pretty(&form).unwrap_or_default();
        super::out::print(&format!("{text}\n"));
    } else {
        let text = shown::render(graph, &plan, &sends, global.verbose);
        super::out::print(&format!("{text}{}", doctor::plan_lines(&runs_on)));
        let _ = writeln!(std::io::stderr(), "{}", shown::last_line(&totals, &plan));
    }
    match check && totals.work() {
        true => Err(Failure::Many(vec![Error::new(ErrorKind::WorkToDo, "")])),
        false => Ok(()),
    }
}

/// `hfbuild clean`
pub fn clean(global: &Global) -> Result<(), Failure> {
    let project = global
        .project
        .canonicalize()
        .map_err(|e| Error::io("open", &global.project, &e).with_kind(ErrorKind::Usage))?;
    if !Store::at(&project).exists() {
        let _ = writeln!(std::io::stderr(), "hfbuild: there is no cache here");
        return Ok(());
    }
    let store = Store::at(&project);
    let _lock = lock::acquire(&store.lock_path(), true, &|text| {
        let _ = writeln!(std::io::stderr(), "{text}");
    })?;
    store.clean()?;
    let _ = writeln!(std::io::stderr(), "hfbuild: removed the cache; what was published and the embedded hub stay");
    Ok(())
}
