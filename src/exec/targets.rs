//! The targets of a call: where each wanted upload goes, what is seen there, and whether it could be published.
//!
//! Flags go before the manifest: `--endpoint` for all, `--repo` where it can mean only one repo. Decides nothing about what
//! is published.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::manifest::OnDrift;
use crate::core::manifest::dom::join;
use crate::core::plan::{Plan, World};
use crate::core::publish::{self, Target, UploadVerdict};
use crate::core::receipt::History;
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::leaks;
use crate::exec::preflight::check_limits;
use crate::exec::project::Project;
use crate::exec::publish::{check_tag, drift_error, settle_intents};
use crate::exec::remote::{self, Access, Remote, Remotes};
use crate::store::Store;
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
        world.remotes.insert(*id, remote.observe(&loaded.publishes, blobs.as_ref(), how).await?);
    }
    Ok(())
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
        let token = remotes.of[id].client.token_for_masking();
        let found = leaks::search(&leaks::known(project, store, plan, world, *id), &allowed, token, memo)?;
        // what this machine can tell goes before what a hub has to be asked
        let ready = match found.refusal() {
            Some(error) => Err(error),
            None => match check_limits(project, plan, history, *id) {
                Ok(()) => ready(project, &remotes.of[id], *id, world, plan).await,
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

async fn ready(project: &Project, remote: &Remote, id: NodeId, world: &World, plan: &Plan) -> Result<()> {
    let (Some(observed), Some(upload)) = (world.remotes.get(&id), project.graph.upload(id)) else { return Ok(()) };
    let exists = observed.head.is_some() || observed.start.is_some();
    remote.preflight(exists).await?;
    let (drifted, how) = (publish::early_drift(observed), world.how(upload));
    let proposes = how.pull_request || how.on_drift == OnDrift::PullRequest && !drifted.is_empty();
    if exists && !proposes {
        check_tag(remote, &upload.to).await?; // a proposal sets none
    }
    // where the whole tree is known so is what is drift; before that, a change there may turn out to be the same as ours
    let decision = plan.decisions[id.index()].as_ref().filter(|d| matches!(d.verdict, Verdict::Run { .. }));
    match decision.and_then(|d| d.upload.as_ref()?.2.as_ref()) {
        Some(UploadVerdict::Drift { files, pull_request }) => Err(drift_error(files, remote, *pull_request)),
        None if how.refuses(&drifted) => Err(drift_error(&drifted, remote, None)),
        _ => Ok(()),
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
