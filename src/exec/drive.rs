//! The driver: asks the planner, runs what it says, records what was made, until nothing is left.
//!
//! The only loop of the engine. It holds the state (what is settled, what runs) and performs effects through the store,
//! the stages and the hub; every decision is [`decide`]'s. Reports events and prints nothing.

use crate::core::action::Action;
use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::{Event, Summary};
use crate::core::graph::{NodeId, Work};
use crate::core::name::ArtifactName;
use crate::core::plan::{self, Decision, Settled, World, decide};
use crate::core::receipt::{KeptAction, Output, Receipt};
use crate::core::schedule;
use crate::core::verdict::Verdict;
use crate::exec::partial::Released;
use crate::exec::planning::{lose, plan_whole};
use crate::exec::project::Project;
use crate::exec::publish::Publisher;
use crate::exec::remote::Remotes;
use crate::exec::work::{self, Done, Job};
use crate::exec::{observe, pools::Held, pools::Pools, programs, queue::Queue, runtimes, snapshot};
use crate::stage::Machine;
use crate::stage::sessions::Sessions;
pub use crate::stage::workspace::Cancel;
use crate::stage::workspace::Left;
use crate::store::Store;
use crate::store::memo::{Memo, Signature};
use crate::store::records::{Loaded, Recorder};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::task::JoinSet;

/// Where events go.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stages side by side; 0: as many as there are cores.
    pub jobs: usize,
    /// Go on with what does not depend on a failure.
    pub keep_going: bool,
    /// Under which key to remember that there was nothing to do; nothing: it is not remembered.
    pub snapshot: Option<Digest>,
}

/// A run under way.
pub struct Driver<'a> {
    pub(super) project: &'a Project,
    pub(super) store: &'a Store,
    pub(super) loaded: Loaded,
    pub(super) memo: Memo,
    pub(super) world: World,
    pub(super) recorder: Recorder,
    pub(super) sink: Sink,
    pub(super) cancel: Cancel,
    pub(super) summary: Summary,
    /// Commits of interrupted publishes that were found landed.
    pub(super) recovered: Vec<String>,
    remotes: Remotes,
    turned_down: Vec<(NodeId, Error)>,
    options: Options,
    wanted: Vec<bool>,
    targets: BTreeSet<NodeId>,
    pub(super) settled: Vec<Option<Settled>>,
    waits: Vec<usize>,
    /// Nodes of each artifact that have not ended.
    open: HashMap<ArtifactName, usize>,
    queue: Queue,
    spared: BTreeSet<NodeId>,
    surprised: BTreeSet<NodeId>,
    /// Blobs that this run made or found whole.
    verified: HashSet<Digest>,
    pub(super) running: JoinSet<(NodeId, Action, Digest, Result<Done>)>,
    pub(super) held: HashMap<NodeId, Held>,
    /// The work directories of running stages, by number.
    dirs: HashMap<NodeId, u32>,
    /// What is left in each of them between two stages.
    left: HashMap<u32, Left>,
    pub(super) pools: Pools,
    /// What this machine runs graphs on; looked for when the first stage asks.
    machine: Arc<Machine>,
    pub(super) sessions: Sessions,
    pub(super) released: Released,
    pub(super) run_dir: PathBuf,
    stopping: bool,
}

/// All that a driver starts from.
pub struct Start<'a> {
    /// The project.
    pub project: &'a Project,
    /// Its store, locked.
    pub store: &'a Store,
    /// What is remembered.
    pub loaded: Loaded,
    /// The stat memo.
    pub memo: Memo,
    /// What was observed.
    pub world: World,
    /// The hub and the repos, where something is to be published.
    pub remotes: Remotes,
    /// Uploads that cannot be, with why; the others go on.
    pub turned_down: Vec<(NodeId, Error)>,
    /// Where events go.
    pub sink: Sink,
    /// The stop flag.
    pub cancel: Cancel,
    /// How to run.
    pub options: Options,
    /// The nodes that are wanted.
    pub wanted: Vec<bool>,
    /// The nodes that were asked for.
    pub targets: BTreeSet<NodeId>,
    /// The folder for logs of this run.
    pub run_dir: PathBuf,
    /// Commits of interrupted publishes that were found landed.
    pub recovered: Vec<String>,
}

impl<'a> Driver<'a> {
    /// Sets up.
    pub fn new(start: Start<'a>) -> Result<Driver<'a>> {
        let nodes = start.project.graph.nodes.len();
        Ok(Driver {
            project: start.project,
            store: start.store,
            loaded: start.loaded,
            memo: start.memo,
            world: start.world,
            recorder: Recorder::open(start.store)?,
            sink: start.sink,
            cancel: start.cancel,
            summary: Summary::default(),
            recovered: start.recovered,
            remotes: start.remotes,
            turned_down: start.turned_down,
            machine: runtimes::machine(start.store),
            pools: Pools::new(&start.project.manifest.pools, start.options.jobs),
            options: start.options,
            wanted: start.wanted,
            targets: start.targets,
            settled: vec![None; nodes],
            waits: vec![0; nodes],
            open: HashMap::new(),
            queue: Queue::new(vec![]),
            spared: BTreeSet::new(),
            surprised: BTreeSet::new(),
            verified: HashSet::new(),
            running: JoinSet::new(),
            held: HashMap::new(),
            dirs: HashMap::new(),
            left: HashMap::new(),
            sessions: Sessions::default(),
            released: Released::default(),
            run_dir: start.run_dir,
            stopping: false,
        })
    }

    pub(super) fn emit(&self, event: Event) {
        (self.sink)(event);
    }

    /// Runs to the end. Failures of stages and gates are in the summary; an error is one of the engine's own effects.
    pub async fn run(mut self) -> Result<Summary> {
        let outcome = self.go().await;
        let saved = self.memo.save(&self.project.root, &self.store.memo_log());
        std::mem::take(&mut self.remotes).close().await;
        outcome?;
        self.store.clear_tmp()?;
        self.sweep_parts();
        match saved {
            Ok(()) if self.cancel.stopped().is_none() => self.remember_done(),
            Ok(()) => {}
            Err(error) => self.emit(Event::Warning {
                text: format!("the memo cannot be saved, so files are read again next time: {error}"),
            }),
        }
        if let Some(kind) = self.cancel.stopped() {
            self.summary
                .errors
                .push(Error::new(kind, "interrupted: what was finished is kept, run hfbuild again to go on"));
        }
        Ok(self.summary)
    }

    async fn go(&mut self) -> Result<()> {
        let first = self.plan_first()?;
        self.report_fresh(&first);
        self.remember(&first);
        let graph = &self.project.graph;
        let verdict = |id: NodeId| first.decisions[id.index()].as_ref().map(|d| &d.verdict);
        let decided = |id| matches!(verdict(id), Some(Verdict::UpToDate | Verdict::Restore { .. }));
        self.queue = Queue::new(schedule::turns(graph, &self.wanted, &self.loaded.history, decided));
        for id in graph.ids().filter(|id| self.wanted[id.index()]) {
            self.waits[id.index()] = graph.node(id).deps.len();
            *self.open.entry(graph.node(id).name.artifact.clone()).or_default() += 1;
        }
        let first = graph.ids().filter(|id| self.wanted[id.index()] && self.waits[id.index()] == 0);
        first.for_each(|id| self.queue.push(id, is_upload(&graph.node(id).work)));
        for (id, error) in std::mem::take(&mut self.turned_down) {
            self.fail_upload(id, error);
        }
        loop {
            self.start_ready().await?;
            let Some(joined) = self.ended().await? else { break };
            let (id, action, digest, result) =
                joined.map_err(|e| Error::bug(format!("a stage's thread ended badly: {e}")))?;
            self.finish(id, action, digest, result)?;
        }
        let left = schedule::left_over(graph, &self.wanted, &self.targets, &self.settled);
        self.summary.blocked = left.count;
        for (by, nodes) in left.groups {
            self.emit(Event::Blocked { nodes, by: graph.node(by).name.to_string() });
        }
        Ok(())
    }

    /// Remembers a plan that found nothing to do.
    fn remember(&self, plan: &plan::Plan) {
        let Some(key) = self.options.snapshot else { return };
        if let Err(error) = snapshot::remember(self.project, self.store, plan, &self.world, &self.memo, key) {
            self.emit(Event::Warning { text: format!("that there is nothing to do is not remembered: {error}") });
        }
    }

    /// After a build that did all it was asked for, the next one has nothing to do: planned and remembered at once, so that
    /// not even that one has to read manifest and records.
    fn remember_done(&self) {
        let done = &self.summary;
        let whole = done.errors.is_empty() && done.failed + done.refused + done.blocked == 0;
        if whole && done.ran + done.restored > 0 && self.options.snapshot.is_some() {
            let (graph, history) = (&self.project.graph, &self.loaded.history);
            self.remember(&plan::plan(graph, &self.wanted, &self.targets, history, &self.world));
        }
    }

    /// Plans, looks for the blobs that the plan needs, and plans again without those that are lost.
    fn plan_first(&mut self) -> Result<plan::Plan> {
        let plan = plan_whole(
            self.project,
            self.store,
            &self.wanted,
            &self.targets,
            &self.loaded,
            &mut self.memo,
            &mut self.world,
            &self.sink,
        )?;
        runtimes::check(self.project, &plan, None, &self.machine, &self.sink)?;
        programs::check(self.project, &plan, &self.world, true, &self.sink)?;
        for (id, by) in plan::useless(&self.project.graph, &self.wanted, &self.targets, &plan.settled) {
            let _ = by;
            self.spared.insert(id);
        }
        for id in self.project.graph.ids() {
            if matches!(plan.decisions[id.index()].as_ref().map(|d| &d.verdict), Some(Verdict::Pending { .. })) {
                self.surprised.insert(id);
            }
        }
        Ok(plan)
    }

    fn report_fresh(&self, plan: &plan::Plan) {
        let graph = &self.project.graph;
        let fresh = graph.ids().filter(|id| {
            let up_to_date = matches!(plan.decisions[id.index()].as_ref().map(|d| &d.verdict), Some(Verdict::UpToDate));
            up_to_date && matches!(graph.node(*id).work, Work::Stage(_))
        });
        let nodes: Vec<_> = fresh.map(|id| graph.node(id).name.to_string()).collect();
        self.emit(Event::Planned { nodes: self.wanted.iter().filter(|w| **w).count() });
        if !nodes.is_empty() {
            self.emit(Event::Fresh { nodes });
        }
    }

    /// Takes whatever is ready: settles hits and gates at once, starts stages while there is room.
    pub(super) async fn start_ready(&mut self) -> Result<()> {
        while let Some(id) = self.queue.next(&self.pools, self.running.is_empty()) {
            self.stopping |= self.cancel.stopped().is_some();
            if matches!(self.settled[id.index()], Some(Settled::Failed)) {
                continue; // an upload that was turned down
            }
            let decision = decide(&self.project.graph, id, &self.settled, &self.loaded.history, &self.world);
            match decision.verdict.clone() {
                Verdict::UpToDate if decision.is_at_upload() => self.settle(id, Settled::AtUpload),
                Verdict::UpToDate if decision.receipt.is_some() => {
                    if self.has_blobs(id, &decision)? {
                        self.hit(id, &decision);
                    } else {
                        self.queue.push(id, false);
                    }
                }
                Verdict::Restore { places } if !self.spared.contains(&id) => {
                    let placed = self.restore(id, &decision, &places)?;
                    if !placed {
                        self.queue.push(id, false); // a blob was lost meanwhile: decide again, now the stage has to run
                    }
                }
                Verdict::Run { reasons } if decision.action.is_some() => {
                    if self.stopping || self.spared.contains(&id) {
                        continue;
                    }
                    let Some(declaration) = self.project.graph.stage(id) else { continue };
                    match self.pools.take(&declaration.resources) {
                        Some(held) => {
                            self.held.insert(id, held);
                            self.spawn(id, decision, reasons)?;
                        }
                        None => self.queue.wait(id, &declaration.resources),
                    }
                }
                _ if decision.outcome.is_some() => self.judge(id, decision),
                _ if decision.upload.is_some() && !self.stopping => self.publish(id, decision).await?,
                _ if !decision.asked.is_empty() => self.refuse(&decision.asked),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the blobs of a hit that the plan could not foresee are there, where something may take them as input. What
    /// the plan foresaw, it looked for itself. `false`: one is lost, and the world knows now.
    fn has_blobs(&mut self, id: NodeId, decision: &Decision) -> Result<bool> {
        let Some(receipt) = decision.receipt.as_ref().filter(|_| self.surprised.contains(&id)) else { return Ok(true) };
        if self.project.graph.node(id).consumers.is_empty() {
            return Ok(true);
        }
        self.are_whole(&receipt.outputs, &receipt.node.to_string())
    }

    fn are_whole(&mut self, outputs: &[Output], node: &str) -> Result<bool> {
        let blobs = self.store.blobs();
        for output in outputs {
            if !self.verified.contains(&output.digest) && !blobs.is_whole(&output.digest, &mut self.memo)? {
                lose(&output.digest, &blobs, &mut self.world, &self.sink, node, &output.path);
                return Ok(false);
            }
            self.verified.insert(output.digest);
        }
        Ok(true)
    }

    fn hit(&mut self, id: NodeId, decision: &Decision) {
        if let Some(receipt) = &decision.receipt {
            if self.surprised.contains(&id) {
                self.emit(Event::Cutoff { node: self.project.graph.node(id).name.to_string() });
            }
            self.summary.fresh += 1;
            self.settle(id, Settled::Made(receipt.clone()));
        }
    }

    /// Puts a receipt's outputs in place. `false`: a blob was lost; the world knows now.
    fn restore(&mut self, id: NodeId, decision: &Decision, places: &[String]) -> Result<bool> {
        let Some(receipt) = decision.receipt.clone() else { return Ok(true) };
        let needed = !places.is_empty() || self.surprised.contains(&id);
        if needed && !self.are_whole(&receipt.outputs, &receipt.node.to_string())? {
            return Ok(false);
        }
        if let Err(error) = self.place(id, &receipt.outputs, &mut BTreeMap::new()) {
            self.fail(id, error);
            return Ok(true);
        }
        let node = &self.project.graph.node(id).name;
        self.recorder.current(node, receipt.action_digest)?;
        self.loaded.history.make_current(node, receipt.action_digest);
        self.emit(Event::Restored { node: node.to_string(), places: places.len() });
        self.summary.fresh += 1;
        self.summary.restored += 1;
        self.settle(id, Settled::Made(receipt));
        Ok(true)
    }

    fn judge(&mut self, id: NodeId, decision: Decision) {
        let Some(outcome) = decision.outcome else { return };
        let name = self.project.graph.node(id).name.to_string();
        let passed = outcome.passed();
        self.emit(Event::Gate { node: name, outcome: outcome.clone() });
        self.settle(id, Settled::Judged(outcome));
        if !passed {
            self.summary.refused += 1;
            self.spare();
        }
    }

    pub(super) fn spare(&mut self) {
        self.spared = plan::useless(&self.project.graph, &self.wanted, &self.targets, &self.settled)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
    }

    fn spawn(&mut self, id: NodeId, decision: Decision, reasons: Vec<crate::core::verdict::Reason>) -> Result<()> {
        let Some((digest, action)) = decision.action else { return Ok(()) };
        let graph = &self.project.graph;
        let Some(declaration) = graph.stage(id) else { return Ok(()) };
        let name = graph.node(id).name.to_string();
        let file = crate::core::name::slug(&name);
        let number = (0..).find(|n| !self.dirs.values().any(|taken| taken == n)).unwrap_or(id.0);
        self.dirs.insert(id, number);
        let dir = self.store.tmp().join(format!("work-{number}"));
        let log = self.run_dir.join(format!("{file}.log"));
        let mut workspace = work::workspace(
            graph,
            declaration,
            &self.settled,
            &self.world,
            &self.store.blobs(),
            &self.project.root,
            dir,
            log,
        )?;
        for (role, file) in workspace.inputs.iter().flat_map(|(role, files)| files.iter().map(move |f| (role, f))) {
            let blobs = self.store.blobs();
            let is_blob = file.file == blobs.path(&file.digest) && !self.verified.contains(&file.digest);
            if is_blob && !blobs.is_whole(&file.digest, &mut self.memo)? {
                let error =
                    Error::stage(format!("input `{role}` was lost from the cache meanwhile")).hint("run hfbuild again");
                return self.finish(id, action, digest, Err(error));
            }
        }
        workspace.cancel = self.cancel.clone();
        workspace.left = self.left.entry(number).or_default().clone();
        workspace.machine = self.machine.clone();
        workspace.pinned = self.held.get(&id).map(|held| self.pools.environment(held)).unwrap_or_default();
        self.partial(&mut workspace, id, digest)?;
        let (sink, node) = (self.sink.clone(), name.clone());
        workspace.progress = Box::new(move |done, total| sink(Event::Progress { node: node.clone(), done, total }));
        let mut sources = Vec::new();
        for path in observe::source_paths(declaration, &self.world) {
            let full = self.project.root.join(&path);
            let signature = Signature::of(&full)?;
            // what was observed when the plan was made must still be there when the stage starts
            if self.memo.digest(&self.project.root, &path)? != self.world.sources.get(&path).copied().flatten() {
                let error = Error::stage(format!("`{path}` changed after the plan was made")).hint("run hfbuild again");
                return self.finish(id, action, digest, Err(error));
            }
            if let Some(known) = signature.and_then(|seen| self.memo.known_all(&path, &seen)) {
                workspace.known.insert(path.clone(), known);
            }
            sources.push((path, full, signature));
        }
        self.emit(Event::Running { node: name, reasons });
        let job = Job {
            id,
            action,
            digest,
            published: graph.node(id).published,
            shape: declaration.shape.clone(),
            retries: declaration.retries,
            workspace,
            sources,
            blobs: self.store.blobs(),
            places: graph.node(id).places.clone(),
            root: self.project.root.clone(),
        };
        self.running.spawn_blocking(move || work::run(job));
        Ok(())
    }

    fn finish(&mut self, id: NodeId, action: Action, digest: Digest, result: Result<Done>) -> Result<()> {
        self.held.remove(&id).into_iter().for_each(|held| self.pools.give_back(held));
        self.dirs.remove(&id);
        let name = self.project.graph.node(id).name.clone();
        let mut done = match result {
            Ok(done) => done,
            Err(error) => {
                self.fail(id, error);
                return Ok(());
            }
        };
        let before = self.loaded.history.last(&name).map(|r| (r.content(), r.facts.values.clone()));
        let receipt = Arc::new(Receipt {
            node: name.clone(),
            action_digest: digest,
            action: KeptAction::new(&action)?,
            outputs: done.outputs,
            facts: done.facts,
            started_ms: now_ms() - (done.seconds * 1000.0) as i64,
            seconds: done.seconds,
            host: host(),
            device: done.device,
        });
        self.verified.extend(receipt.outputs.iter().map(|o| o.digest));
        self.memo.made(done.whole);
        let placed = self.place(id, &receipt.outputs, &mut done.copies);
        self.recorder.receipt(&receipt)?;
        self.whole(&digest);
        if let Err(error) = placed {
            // what was made is kept, and the next run only has to put it there
            self.loaded.history.add(receipt);
            self.fail(id, error);
            return Ok(());
        }
        self.emit(Event::Finished {
            node: name.to_string(),
            seconds: receipt.seconds,
            bytes: receipt.outputs.iter().map(|o| o.size).sum(),
            same: before == Some((receipt.content(), receipt.facts.values.clone())),
            left: self.left(id),
        });
        self.loaded.history.add(receipt.clone());
        self.summary.ran += 1;
        self.settle(id, Settled::Made(receipt));
        Ok(())
    }

    fn fail(&mut self, id: NodeId, error: Error) {
        let name = self.project.graph.node(id).name.to_string();
        if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Terminated) {
            self.emit(Event::Failed { node: name.clone(), error: error.to_string() });
            self.summary.failed += 1;
            self.summary.errors.push(error.within(&format!("`{name}`")));
        }
        self.settle(id, Settled::Failed);
        self.stopping |= !self.options.keep_going;
        self.spare();
    }

    /// How many shards beside this one have not ended.
    fn left(&self, id: NodeId) -> usize {
        let open = self.open.get(&self.project.graph.node(id).name.artifact);
        open.map_or(0, |n| n.saturating_sub(1))
    }

    async fn publish(&mut self, id: NodeId, decision: Decision) -> Result<()> {
        self.sessions.clear(); // nothing runs, and a publish may take long
        let remote = self.remotes.of.get(&id).cloned().ok_or_else(|| Error::bug("a publish without a hub"))?;
        let cancel = self.cancel.clone();
        // a publish may be dropped at any await: what it had begun is found again by its intent
        let mut publisher = Publisher { driver: self, remote: &remote, upload: id, restores: None };
        let result = tokio::select! {
            result = publisher.publish(decision) => result,
            interrupted = stopped(&cancel) => Err(interrupted),
        };
        match result {
            Ok(()) => self.settle(id, Settled::Published),
            Err(error) => self.fail_upload(id, error),
        }
        Ok(())
    }

    /// An upload's failure stops nothing but what waits for it.
    fn fail_upload(&mut self, id: NodeId, error: Error) {
        if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Terminated) {
            let node = self.project.graph.node(id).name.to_string();
            self.emit(Event::Failed { node: node.clone(), error: error.to_string() });
            self.summary.failed += 1;
            let several = self.project.graph.uploads().count() > 1;
            self.summary.errors.push(if several { error.within(&format!("`{node}`")) } else { error });
        }
        self.settle(id, Settled::Failed);
    }

    fn settle(&mut self, id: NodeId, how: Settled) {
        let graph = &self.project.graph;
        if self.settled[id.index()].replace(how).is_none()
            && let Some(open) = self.open.get_mut(&graph.node(id).name.artifact)
        {
            *open = open.saturating_sub(1);
        }
        for &consumer in &graph.node(id).consumers {
            let waits = &mut self.waits[consumer.index()];
            *waits = waits.saturating_sub(1);
            if *waits == 0 && self.wanted[consumer.index()] {
                self.queue.push(consumer, is_upload(&graph.node(consumer).work));
            }
        }
    }
}

fn is_upload(work: &Work) -> bool {
    matches!(work, Work::Upload(_))
}

/// Ends when the build is interrupted, with the error for it.
pub async fn stopped(cancel: &Cancel) -> Error {
    loop {
        if let Some(kind) = cancel.stopped() {
            return Error::new(kind, "interrupted: what was finished is kept, run hfbuild again to go on");
        }
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn host() -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
    HOST.get_or_init(read).clone()
}
