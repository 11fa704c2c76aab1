//! `build`, `plan`, `clean`: everything that plans.

use super::{BuildArgs, Failure, Global};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::estimate::estimate;
use crate::core::event::Event;
use crate::core::graph::{NodeId, Work};
use crate::core::manifest::OnDrift;
use crate::core::plan::World;
use crate::core::publish;
use crate::exec::drive::{self, Cancel, Driver, Options, Sink, Start};
use crate::exec::guard;
use crate::exec::observe;
use crate::exec::planning::plan_whole;
use crate::exec::project::Project;
use crate::exec::publish::{check_tag, drift_error, settle_intents};
use crate::exec::remote::{self, Access, Remote};
use crate::exec::snapshot;
use crate::store::memo::Memo;
use crate::store::records::{self, Loaded, Recorder};
use crate::store::{Store, lock};
use crate::ui::plan as shown;
use crate::ui::progress::{Progress, Verbosity};
use std::collections::BTreeSet;
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

fn verbosity(global: &Global) -> Verbosity {
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

/// Opens a remote for a project that publishes, if any upload is wanted.
pub async fn open_remote(
    global: &Global,
    project: &Project,
    store: &Store,
    wanted: &[bool],
    access: Access,
) -> Result<Option<Remote>> {
    let Some(hub) = &project.manifest.hub else { return Ok(None) };
    if !observe::has_upload(&project.graph, wanted) {
        return Ok(None);
    }
    let target = remote::target(hub, global.endpoint.as_deref(), global.repo.as_deref());
    let mut remote = Remote::open(target, &store.hub(), access).await.map_err(|e| match e.kind() {
        ErrorKind::Manifest if global.repo.is_none() => e.at(project.manifest.source.place(hub.repo_span.clone())),
        ErrorKind::Manifest => e.with_kind(ErrorKind::Usage),
        _ => e,
    })?;
    remote.client = remote.client.clone().keeping(store.xet());
    remote.mirror = hub.mirror;
    Ok(Some(remote))
}

/// Puts what is seen of the remote into the world, for each wanted upload.
pub async fn observe_remote(
    project: &Project,
    remote: &Remote,
    loaded: &Loaded,
    wanted: &[bool],
    world: &mut World,
) -> Result<()> {
    let graph = &project.graph;
    let blobs = graph.asks_published().then(|| Store::at(&project.root).blobs());
    let observed = remote.observe(&loaded.publishes, blobs.as_ref()).await?;
    for id in graph.ids().filter(|id| wanted[id.index()] && matches!(graph.node(*id).work, Work::Upload(_))) {
        world.remotes.insert(id, observed.clone());
    }
    Ok(())
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
    let key = snapshot_key(global, words).filter(|_| args.force.is_empty());
    if key.is_some_and(|key| nothing_to_do(global, key, &progress)) {
        return Ok(());
    }
    let project = Project::open(&global.project, &global.settings())?;
    let mut asked = asked(&project, words)?;
    let forced = forced(&project, &args.force, &mut asked)?;
    let store = Store::open(&project.root, &|text| progress.show(&Event::Warning { text }))?;
    let tell = |text: String| progress.show(&Event::Note { text });
    let lock = lock::acquire(&store.lock_path(), !args.no_wait, &tell)?;
    store.clear_tmp()?;
    let run_dir = store.new_run(&run_id())?;
    let sink = sink(&progress, &run_dir);
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
    if let Some(line) = look_at(project, global, &summary) {
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
    let mut world = observe::observe(project, &asked.wanted, &loaded.history, &mut memo)?;
    observe::check_tools(project, &asked.wanted, &world)?;
    world.forced = forced;
    world.allow_regression = args.allow_regression;
    world.overwrite = args.overwrite || project.manifest.hub.as_ref().is_some_and(|h| h.on_drift == OnDrift::Overwrite);
    let remote = open_remote(global, project, store, &asked.wanted, Access::Write).await?;
    let mut recovered = None;
    if let Some(remote) = &remote {
        if loaded.publishes.intent(&remote.target).is_some() {
            sink(Event::Note { text: "an earlier publish was cut off: looking for its commit".into() });
        }
        recovered = settle_intents(remote, &mut loaded, Some(&mut Recorder::open(store)?)).await?;
        observe_remote(project, remote, &loaded, &asked.wanted, &mut world).await?;
        let plan = plan_whole(project, store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
        if shown::totals(&project.graph, &plan).commits > 0 {
            let exists = world.remotes.values().any(|o| o.head.is_some());
            remote.preflight(exists).await?;
            if !exists && remote.target.revision != "main" {
                let (repo, branch) = (&remote.target.repo, &remote.target.revision);
                return Err(Error::hub(format!("`{repo}` has no branch `{branch}`"))
                    .hint("make the branch on the Hub first, or publish to `main`"));
            }
            if let Some(hub) = project.manifest.hub.as_ref().filter(|_| exists) {
                check_tag(remote, hub).await?;
            }
            let drifted = world.remotes.values().find_map(|o| Some(publish::early_drift(o)).filter(|d| !d.is_empty()));
            if let Some(files) = drifted.filter(|_| !world.overwrite) {
                return Err(drift_error(&files, remote));
            }
        }
    }
    let options = Options { jobs: args.jobs.map_or(0, usize::from), keep_going: args.keep_going, snapshot: None };
    let (wanted, targets) = (asked.wanted, asked.targets);
    Ok(Start {
        project,
        store,
        loaded,
        memo,
        world,
        remote,
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
fn look_at(project: &Project, global: &Global, summary: &crate::core::event::Summary) -> Option<String> {
    let target = remote::target(project.manifest.hub.as_ref()?, global.endpoint.as_deref(), global.repo.as_deref());
    if summary.commits.is_empty() {
        return None;
    }
    Some(match target.endpoint.as_str() {
        remote::EMBEDDED => "look at it: hfbuild hub serve".to_string(),
        url => format!("look at it: {url}/{}", target.repo),
    })
}

fn run_id() -> String {
    format!("{}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3f"), std::process::id())
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

/// `hfbuild plan`
pub fn plan(global: &Global, words: &[String], force: &[String], json: bool, check: bool) -> Result<(), Failure> {
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
    world.overwrite = project.manifest.hub.as_ref().is_some_and(|h| h.on_drift == OnDrift::Overwrite);
    let target =
        project.manifest.hub.as_ref().map(|h| remote::target(h, global.endpoint.as_deref(), global.repo.as_deref()));
    runtime()?.block_on(async {
        if let Some(remote) = open_remote(global, &project, &store, &asked.wanted, Access::Read).await? {
            settle_intents(&remote, &mut loaded, None).await?;
            observe_remote(&project, &remote, &loaded, &asked.wanted, &mut world).await?;
            remote.close().await;
        }
        Ok::<_, Error>(())
    })?;
    let progress = Arc::new(Progress::new(verbosity(global)));
    let shower = progress.clone();
    let sink: Sink = Arc::new(move |event| shower.show(&event));
    let plan = plan_whole(&project, &store, &asked.wanted, &asked.targets, &loaded, &mut memo, &mut world, &sink)?;
    let graph = &project.graph;
    let uploads = graph.ids().filter(|id| asked.wanted[id.index()] && matches!(graph.node(*id).work, Work::Upload(_)));
    let last = target.as_ref().and_then(|t| loaded.publishes.last(t));
    let sends: Vec<_> =
        uploads.map(|id| (id, estimate(graph, &plan, id, last, world.remotes.get(&id), world.overwrite))).collect();
    let repo = target.map_or(String::new(), |t| t.repo);
    let totals = shown::totals(graph, &plan);
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&shown::to_json(graph, &plan, &repo, &sends)).unwrap_or_default();
        let _ = writeln!(out, "{text}");
    } else {
        let estimates: Vec<_> = sends.into_iter().map(|(_, s)| s).collect();
        let _ = write!(out, "{}", shown::render(graph, &plan, &repo, &estimates, global.verbose));
        let _ = out.flush();
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
