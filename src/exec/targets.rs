//! The targets of a call: where each wanted upload goes, what is seen there, and whether it could be published.
//!
//! Flags go before the manifest: `--endpoint` for all, `--repo` where it can mean only one repo. Decides nothing about what
//! is published.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::estimate::names;
use crate::core::event::Event;
use crate::core::graph::{NodeId, Upload};
use crate::core::manifest::dom::join;
use crate::core::plan::{Plan, World};
use crate::core::publish::{Drifted, Observed, RemoteFile, Target, certain_drift, is_recorded};
use crate::core::receipt::History;
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::leaks::{self, Candidate};
use crate::exec::preflight::check_limits;
use crate::exec::project::Project;
use crate::exec::publish::{check_tag, drift_error, settle_intents};
use crate::exec::remote::{self, Access, EMBEDDED, Remote, Remotes};
use crate::hub::client::check_endpoint;
use crate::store::Store;
use crate::store::hash;
use crate::store::memo::Memo;
use crate::store::records::{Loaded, Recorder};
use std::collections::BTreeMap;

/// What a call says of where to publish.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags<'a> {
    /// The hub.
    pub endpoint: Option<&'a str>,
    /// The repo.
    pub repo: Option<&'a str>,
}

/// Where each wanted upload goes. `--repo` is for all uploads that take [hub]'s repo, or for the only one that is wanted.
pub fn targets(project: &Project, wanted: &[bool], flags: Flags<'_>) -> Result<BTreeMap<NodeId, Target>> {
    let graph = &project.graph;
    let uploads: Vec<_> = graph.uploads().filter(|(id, _)| wanted[id.index()]).collect();
    if let (Some(repo), Some((own, upload)), true) =
        (flags.repo, uploads.iter().find(|(_, upload)| upload.to.own_repo), uploads.len() > 1)
    {
        let name = &graph.node(*own).name;
        let message = format!("`--repo {repo}` is one repo, and `{name}` has its own, `{}`", upload.to.repo);
        return Err(Error::new(ErrorKind::Usage, message).hint(format!(
            "name one upload (`hfbuild build {name} --repo ...`), or write the repos into a [profile.NAME]"
        )));
    }
    let mut out: BTreeMap<NodeId, Target> = BTreeMap::new();
    for (id, upload) in uploads {
        let target = remote::target(&upload.to, flags.endpoint, flags.repo);
        if target.endpoint != EMBEDDED {
            check_endpoint(&target.endpoint)?; // before it is printed anywhere
        }
        if let Some((other, _)) = out.iter().find(|(_, other)| **other == target) {
            let (one, two) = (&graph.node(*other).name, &graph.node(id).name);
            return Err(Error::new(ErrorKind::Usage, format!("`{one}` and `{two}` would both publish to `{target}`"))
                .hint("each would delete the other's files: name one of them on the command line"));
        }
        out.insert(id, target);
    }
    Ok(out)
}

/// Opens the hub with the repos of the wanted uploads; nothing where there are none.
pub async fn open(
    project: &Project,
    store: &Store,
    wanted: &[bool],
    flags: Flags<'_>,
    access: Access,
) -> Result<Remotes> {
    let targets = targets(project, wanted, flags)?;
    // the manifest's own names were checked when it was read
    let mut remotes = Remotes::open(targets, &store.hub(), access).await.map_err(|e| match e.kind() {
        ErrorKind::Manifest => e.with_kind(ErrorKind::Usage),
        _ => e,
    })?;
    for remote in remotes.of.values_mut() {
        remote.client = remote.client.clone().keeping(store.xet());
    }
    Ok(remotes)
}

/// Ends what interrupted publishes left open; their commits that were found.
pub async fn settle(
    remotes: &Remotes,
    loaded: &mut Loaded,
    mut recorder: Option<&mut Recorder>,
    tell: &dyn Fn(String),
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for remote in remotes.of.values() {
        if recorder.is_some() && loaded.publishes.intent(&remote.target).is_some() {
            tell("an earlier publish was cut off: looking for its commit".into());
        }
        found.extend(settle_intents(remote, loaded, recorder.as_deref_mut()).await?);
    }
    Ok(found)
}

/// Puts what is seen of each repo into the world.
pub async fn observe(project: &Project, remotes: &Remotes, loaded: &Loaded, world: &mut World) -> Result<()> {
    let graph = &project.graph;
    let blobs = graph.asks_published().then(|| Store::at(&project.root).blobs());
    for (id, remote) in &remotes.of {
        let how = graph.upload(*id).map(|upload| world.how(upload)).unwrap_or_default();
        let mut observed = remote.observe(&loaded.publishes, blobs.as_ref(), how).await?;
        if graph.upload(*id).is_some_and(|upload| names_new(upload, &observed)) {
            remote.list(&loaded.publishes, how, &mut observed).await?;
        }
        world.remotes.insert(*id, observed);
    }
    Ok(())
}

/// Whether an upload names a file that no publish put there: others may have.
pub fn names_new(upload: &Upload, observed: &Observed) -> bool {
    let mut files = upload.files.iter().map(|(path, ..)| path).filter(|path| !path.ends_with('/'));
    files.any(|path| !observed.managed.contains_key(path))
}

/// What is to be said of the repos before anything is sent: that one is called otherwise now, and that files stand where
/// files will be sent, which no publish of ours put there. What they hold is known only then.
pub fn notes(project: &Project, targets: &BTreeMap<NodeId, Target>, plan: &Plan, world: &World) -> Vec<String> {
    let mut notes = Vec::new();
    for (id, target) in targets {
        let (Some(observed), Some(upload)) = (world.remotes.get(id), project.graph.upload(*id)) else { continue };
        let verdict = plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
        let sends = matches!(verdict, Some(Verdict::Run { .. } | Verdict::Pending { .. }));
        notes.extend(observed.elsewhere.iter().filter(|_| sends).map(|commit| {
            format!("`{target}` was published from elsewhere since: {commit}; this is published over it")
        }));
        notes.extend(observed.renamed.iter().map(|name| {
            let folder = if target.kind == "model" { String::new() } else { format!("{}s/", target.kind) };
            format!("`{target}` is called `{folder}{name}` now: write that into the manifest")
        }));
        let waits = matches!(verdict, Some(Verdict::Pending { .. }));
        let others = |path: &&String| {
            observed.files.as_ref().is_some_and(|files| files.contains_key(*path))
                && !observed.managed.contains_key(*path)
        };
        let foreign: Vec<String> =
            upload.files.iter().map(|(path, ..)| path).filter(others).map(|path| format!("`{path}`")).collect();
        let refuses = world.how(upload).refuses(&[Drifted::Foreign { path: String::new() }]);
        if waits && refuses && !foreign.is_empty() {
            notes.push(format!(
                "`{target}` has {}, which hfbuild did not put there: if it comes out otherwise, the publish is refused without `--overwrite`",
                foreign.join(", ")
            ));
        }
    }
    notes
}

/// Checks, before any stage runs, every upload that has or may have something to send. Those that cannot be, with why;
/// an error where none can.
pub async fn preflight(
    project: &Project,
    store: &Store,
    remotes: &Remotes,
    plan: &Plan,
    world: &World,
    history: &History,
    memo: &mut Memo,
) -> Result<Vec<(NodeId, Error)>> {
    let sends = |id: &&NodeId| {
        let verdict = plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
        matches!(verdict, Some(Verdict::Run { .. } | Verdict::Pending { .. }))
    };
    let mut turned_down = Vec::new();
    for id in remotes.of.keys().filter(sends) {
        let allowed = project.graph.upload(*id).map(|upload| upload.to.allow_findings.clone()).unwrap_or_default();
        let known = leaks::known(project, store, plan, world, *id);
        let found = leaks::search(&known, &allowed, memo)?;
        // what this machine can tell goes before what a hub has to be asked
        let ready = match found.refusal() {
            Some(error) => Err(error),
            None => match check_limits(project, plan, history, *id) {
                Ok(()) => ready(project, &remotes.of[id], *id, plan, world, &known).await,
                refused => refused,
            },
        };
        turned_down.extend(ready.err().map(|error| (*id, error)));
    }
    match turned_down.len() == remotes.of.len() && !turned_down.is_empty() {
        true => {
            let mut errors: Vec<Error> = turned_down.into_iter().map(|(_, error)| error).collect();
            errors.dedup_by(|a, b| a == b); // a token is refused for all
            Err(join(errors))
        }
        false => Ok(turned_down),
    }
}

async fn ready(
    project: &Project,
    remote: &Remote,
    id: NodeId,
    plan: &Plan,
    world: &World,
    known: &[Candidate],
) -> Result<()> {
    let (Some(observed), Some(upload)) = (world.remotes.get(&id), project.graph.upload(id)) else { return Ok(()) };
    let exists = observed.head.is_some() || observed.start.is_some();
    remote.preflight(exists).await?;
    if exists && !world.how(upload).pull_request {
        check_tag(remote, &upload.to).await?;
    }
    // the very change that is to be published may stand there already
    let same = |path: &str, there: &RemoteFile| {
        let read = known.iter().find(|file| file.path == path).and_then(|file| hash::all_of(&file.file).ok());
        read.is_some_and(|read| read.size == there.size && is_recorded(&read.hub, there))
    };
    let drifted = match plan.decisions[id.index()].as_ref().and_then(|decision| decision.upload.as_ref()) {
        Some(_) => vec![], // the tree is known, and with it what became of the remote
        None => certain_drift(observed, &|path| names(upload, path), &same),
    };
    match world.how(upload).refuses(&drifted) {
        true => Err(drift_error(&drifted, remote, None)),
        false => Ok(()),
    }
}

/// What is wanted of a build some of whose uploads were turned down: what only leads to them is left out, they themselves
/// and what waits for them stay, so that they are told.
pub fn without(project: &Project, wanted: &[bool], targets: &[NodeId], down: &[(NodeId, Error)]) -> Vec<bool> {
    let graph = &project.graph;
    let mut lost = vec![false; graph.nodes.len()];
    for id in &graph.order {
        let is_down = down.iter().any(|(d, _)| d == id);
        lost[id.index()] = is_down || graph.node(*id).deps.iter().any(|d| lost[d.index()]);
    }
    let is_end = |id: &NodeId| targets.contains(id) || graph.upload(*id).is_some();
    let ends: Vec<NodeId> = graph.ids().filter(|id| wanted[id.index()] && !lost[id.index()]).filter(is_end).collect();
    let kept = graph.closure(&ends);
    graph.ids().map(|id| wanted[id.index()] && (kept[id.index()] || lost[id.index()])).collect()
}

/// Tells what is left of a build some of whose uploads were turned down.
pub fn tell(sink: &Sink, turned_down: &[(NodeId, Error)]) {
    if !turned_down.is_empty() {
        sink(Event::Note { text: "the other uploads go on".into() });
    }
}
