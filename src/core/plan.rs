//! The planner: one pure decision function, [`decide`], that `plan` and `build` both call.
//!
//! It sees the graph, the history, and a [`World`] that was observed before. It reads no file, asks no clock and prints
//! nothing; given the same arguments it gives the same answer.

use crate::core::action::{Action, ActionInput, Declaration, InputFrom, Shape};
use crate::core::digest::{Canonical, Digest, HubDigests};
use crate::core::facts::FactSet;
use crate::core::gate::{self, Clause, Outcome};
use crate::core::graph::{Graph, NodeId, Upload, Work, placed_path, repo_place};
use crate::core::manifest::OnDrift;
use crate::core::name::ArtifactName;
use crate::core::publish::{How, Observed, Tree, TreeFile, UploadVerdict, decide_upload};
use crate::core::receipt::{History, Receipt};
use crate::core::replaced::Replaced;
use crate::core::value::Value;
use crate::core::verdict::{Reason, Verdict, difference};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What was observed before planning. Everything that a decision may depend on beside graph and history is here.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Digest of each source file; `None`: it is not there.
    pub sources: HashMap<String, Option<Digest>>,
    /// What each pattern matched, by path.
    pub matched: HashMap<String, BTreeMap<String, Digest>>,
    /// Values of declared environment variables.
    pub env: BTreeMap<String, Option<String>>,
    /// Fingerprints of declared tools.
    pub tools: BTreeMap<String, String>,
    /// Digest of what stands at each place; absent: nothing does.
    pub placed: HashMap<String, Digest>,
    /// Blobs that were looked for and are gone or damaged.
    pub lost: BTreeSet<Digest>,
    /// Nodes that the user forces.
    pub forced: BTreeSet<NodeId>,
    /// What is known of published content, by BLAKE3, where a receipt does not say it.
    pub hub_digests: HashMap<Digest, HubDigests>,
    /// The remote of each upload; absent: not asked for.
    pub remotes: BTreeMap<NodeId, Observed>,
    /// `[params]` and `[declared]`, for gates.
    pub params: BTreeMap<String, Value>,
    /// `[declared]`
    pub declared: BTreeMap<String, Value>,
    /// `[project]`, for the published record.
    pub project: BTreeMap<String, Value>,
    /// Whether every publish may go over a remote that drifted, whatever the manifest says.
    pub overwrite: bool,
    /// Whether every publish is proposed as a pull request, whatever the manifest says.
    pub pull_request: bool,
    /// Whether a publish may go where a gate over `published` refuses.
    pub allow_regression: bool,
}

impl World {
    /// How an upload goes about it: by its own keys and what this call asks for.
    pub fn how(&self, upload: &Upload) -> How {
        let on_drift = if self.overwrite { OnDrift::Overwrite } else { upload.to.on_drift };
        How { on_drift, pull_request: self.pull_request || upload.to.pull_request, mirror: upload.to.mirror }
    }
}

/// How a node ended, or where it stands.
#[derive(Debug, Clone)]
pub enum Settled {
    /// Its outputs and facts are known.
    Made(Arc<Receipt>),
    /// The gate's outcome is known.
    Judged(Outcome),
    /// The gate is over `published`: it is asked when something is sent, and not before.
    AtUpload,
    /// The publish is done (or there was nothing to send).
    Published,
    /// It failed, or something before it did.
    Failed,
}

/// What was decided for a node.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Of a stage whose inputs are known: its action and the action's digest.
    pub action: Option<(Digest, Action)>,
    /// Of a hit: the receipt.
    pub receipt: Option<Arc<Receipt>>,
    /// Of a gate whose facts are known: its outcome.
    pub outcome: Option<Outcome>,
    /// Of an upload whose inputs are known: the tree and the verdict on it (`None`: the remote was not observed).
    pub upload: Option<(Tree, Vec<u8>, Option<UploadVerdict>)>,
    /// Of an upload that has something to send: the gates over `published` before it, with their outcomes. Where one of
    /// them refuses and may, `upload` is `None`.
    pub asked: Vec<(NodeId, Outcome)>,
    /// The clauses that refused and were allowed to, as the published record says it.
    pub allowed: Vec<String>,
}

impl Decision {
    fn bare(verdict: Verdict) -> Decision {
        let (asked, allowed) = (vec![], vec![]);
        Decision { verdict, action: None, receipt: None, outcome: None, upload: None, asked, allowed }
    }
    /// Whether it is that of a gate that is asked at the upload.
    pub fn is_at_upload(&self) -> bool {
        let nothing = self.receipt.is_none() && self.outcome.is_none() && self.upload.is_none();
        self.verdict == Verdict::UpToDate && nothing
    }
}

/// Decides one node from what is settled. The one decision function.
pub fn decide(graph: &Graph, id: NodeId, settled: &[Option<Settled>], history: &History, world: &World) -> Decision {
    let node = graph.node(id);
    if let Some(decision) = frozen(graph, id, history, world) {
        return decision;
    }
    let failed = |dep: &&NodeId| match &settled[dep.index()] {
        Some(Settled::Failed) => true,
        Some(Settled::Judged(outcome)) => !outcome.passed(),
        _ => false,
    };
    let blocked: Vec<_> = node.deps.iter().filter(failed).map(|d| graph.node(*d).name.clone()).collect();
    if !blocked.is_empty() {
        return Decision::bare(Verdict::Blocked { by: blocked });
    }
    let unknown = node.deps.iter().filter(|d| settled[d.index()].is_none());
    let pending: Vec<_> = unknown.map(|d| graph.node(*d).name.clone()).collect();
    if !pending.is_empty() {
        let ahead = ahead_of(graph, id, settled, world);
        return ahead.unwrap_or_else(|| Decision::bare(Verdict::Pending { on: pending }));
    }
    match &node.work {
        Work::Stage(declaration) => decide_stage(graph, id, declaration, settled, history, world),
        Work::Gate(clause) if clause.is_about_published() => Decision::bare(Verdict::UpToDate),
        Work::Gate(clause) => {
            let outcome = evaluate(graph, clause, settled, world, &Replaced::Unknown);
            let verdict = match outcome.passed() {
                true => Verdict::UpToDate,
                false => Verdict::Blocked { by: vec![node.name.clone()] },
            };
            Decision { outcome: Some(outcome), ..Decision::bare(verdict) }
        }
        Work::Upload(upload) => decide_publish(graph, id, upload, settled, world),
    }
}

/// Evaluates a clause over what is settled.
fn evaluate(
    graph: &Graph,
    clause: &Clause,
    settled: &[Option<Settled>],
    world: &World,
    replaced: &Replaced,
) -> Outcome {
    let facts = clause.artifacts().filter_map(|root| {
        let name: ArtifactName = root.parse().ok()?;
        Some((name.clone(), fact_set(graph, &name, settled)?))
    });
    gate::evaluate(clause, &facts.collect(), &world.params, &world.declared, replaced)
}

fn decide_stage(
    graph: &Graph,
    id: NodeId,
    declaration: &Declaration,
    settled: &[Option<Settled>],
    history: &History,
    world: &World,
) -> Decision {
    let node = graph.node(id);
    let action = action_of(graph, declaration, settled, world);
    let digest = action.digest();
    let reasons = |first: Option<Reason>| {
        let mut reasons: Vec<Reason> = first.into_iter().collect();
        if reasons.is_empty() {
            match history.last(&node.name).and_then(|last| last.action.read()) {
                Some(last) => reasons = difference(last, &action),
                None => reasons.push(Reason::NeverRan),
            }
        }
        reasons
    };
    let run = |first: Option<Reason>| Verdict::Run { reasons: reasons(first) };
    let Some(receipt) = history.receipt(&digest) else {
        let verdict = run(None);
        return Decision { action: Some((digest, action)), ..Decision::bare(verdict) };
    };
    let lost = receipt.outputs.iter().find(|o| world.lost.contains(&o.digest));
    let verdict = if world.forced.contains(&id) {
        run(Some(Reason::Forced))
    } else if let Some(lost) = lost {
        run(Some(Reason::BlobLost { path: lost.path.clone(), digest: lost.digest }))
    } else {
        let places = displaced(graph, id, receipt, world);
        let was_current = history.last(&node.name).is_some_and(|last| last.action_digest == digest);
        if places.is_empty() && was_current { Verdict::UpToDate } else { Verdict::Restore { places } }
    };
    let receipt = (!matches!(verdict, Verdict::Run { .. })).then(|| receipt.clone());
    Decision { action: Some((digest, action)), receipt, ..Decision::bare(verdict) }
}

/// Of a frozen stage that has a result: that result, whatever it was made from.
fn frozen(graph: &Graph, id: NodeId, history: &History, world: &World) -> Option<Decision> {
    graph.stage(id).filter(|d| d.frozen && !world.forced.contains(&id))?;
    let last = history.last(&graph.node(id).name)?;
    if last.outputs.iter().any(|o| world.lost.contains(&o.digest)) {
        return None;
    }
    let places = displaced(graph, id, last, world);
    let verdict = if places.is_empty() { Verdict::UpToDate } else { Verdict::Restore { places } };
    Some(Decision { receipt: Some(last.clone()), ..Decision::bare(verdict) })
}

/// The places of a receipt's outputs where something else stands, or nothing.
fn displaced(graph: &Graph, id: NodeId, receipt: &Receipt, world: &World) -> Vec<String> {
    let mut out = Vec::new();
    for place in &graph.node(id).places {
        for output in &receipt.outputs {
            let path = placed_path(place, &output.path);
            if world.placed.get(&path) != Some(&output.digest) {
                out.push(path);
            }
        }
    }
    out
}

/// The action of a stage whose dependencies are settled.
pub fn action_of(graph: &Graph, declaration: &Declaration, settled: &[Option<Settled>], world: &World) -> Action {
    let mut inputs = BTreeMap::new();
    for input in &declaration.inputs {
        let mut files = BTreeMap::new();
        let (digest, name) = match &input.from {
            InputFrom::Artifact(artifact) => (family_content(graph, artifact, settled), artifact.to_string()),
            InputFrom::Shard(name) => {
                let made = graph.shard(name).and_then(|id| match &settled[id.index()] {
                    Some(Settled::Made(receipt)) => Some(receipt.content()),
                    _ => None,
                });
                (made, name.to_string())
            }
            InputFrom::File(path) => (world.sources.get(path.as_str()).copied().flatten(), path.to_string()),
            InputFrom::Files(pattern) => {
                files = world.matched.get(pattern.as_str()).cloned().unwrap_or_default();
                (Some(content_of_files(&files)), pattern.to_string())
            }
        };
        // a missing source is refused before planning, so the digest is always there
        let digest = digest.unwrap_or_else(|| Digest::of(b"missing"));
        inputs.insert(input.role.clone(), ActionInput { digest, path: input.path.clone(), name, files });
    }
    let mut facts = BTreeMap::new();
    for (artifact, read, _) in &declaration.facts {
        for dep in graph.of(artifact) {
            let Some(Settled::Made(receipt)) = &settled[dep.index()] else { continue };
            let owner = &graph.node(*dep).name;
            facts.extend(read.of(&receipt.facts).into_iter().map(|(name, value)| (format!("{owner}.{name}"), value)));
        }
    }
    let named = |names: &[String], from: &BTreeMap<String, Option<String>>| -> BTreeMap<String, Option<String>> {
        names.iter().map(|n| (n.clone(), from.get(n).cloned().flatten())).collect()
    };
    Action {
        kind: declaration.kind.into(),
        version: declaration.version,
        params: declaration.params.clone(),
        inputs,
        facts,
        env: named(&declaration.env, &world.env),
        tools: declaration.tools.iter().map(|t| (t.clone(), world.tools.get(t).cloned().unwrap_or_default())).collect(),
        outputs: match &declaration.shape {
            Shape::File(name) => vec![name.clone()],
            Shape::Dir => vec!["./".into()],
            Shape::Paths(paths) => paths.clone(),
        },
    }
}

/// The digest of the sorted list of matched files.
fn content_of_files(files: &BTreeMap<String, Digest>) -> Digest {
    let mut out = Canonical::new("hfbuild files 1");
    out.number(files.len() as u64);
    files.iter().for_each(|(path, digest)| {
        out.text(path).digest(digest);
    });
    out.finish()
}

/// The content of an artifact: of one node its own, of a family the digest over its shards.
pub fn family_content(graph: &Graph, artifact: &ArtifactName, settled: &[Option<Settled>]) -> Option<Digest> {
    let contents: Option<Vec<_>> = graph
        .of(artifact)
        .iter()
        .map(|id| match &settled[id.index()] {
            Some(Settled::Made(receipt)) => Some(receipt.clone()),
            _ => None,
        })
        .collect();
    let contents = contents?;
    if let [one] = &contents[..] {
        return Some(one.content());
    }
    let mut outputs: Vec<_> = contents.iter().flat_map(|r| r.outputs.clone()).collect();
    outputs.sort_by(|a, b| a.path.cmp(&b.path));
    Some(crate::core::receipt::content_of(&outputs))
}

/// The facts of an artifact whose nodes are all settled.
pub fn fact_set(graph: &Graph, artifact: &ArtifactName, settled: &[Option<Settled>]) -> Option<FactSet> {
    let receipt = |id: &NodeId| match &settled[id.index()] {
        Some(Settled::Made(receipt)) => Some(receipt.clone()),
        _ => None,
    };
    let ids = graph.of(artifact);
    if graph.families.contains(artifact) {
        let shards: Option<Vec<_>> = ids
            .iter()
            .map(|id| Some((graph.node(*id).name.key.clone().unwrap_or_default(), receipt(id)?.facts.clone())))
            .collect();
        return shards.map(FactSet::Family);
    }
    Some(FactSet::One(receipt(ids.first()?)?.facts.clone()))
}

/// The name of the published record in the repo.
pub const RECORD: &str = "provenance.json";

/// Decides a publish. The record holds what regressions were allowed, and those are known only when the gates over
/// `published` were asked, which is when something is sent: so the tree is first what it would be with those that were
/// allowed at the last publish, and where that differs from the remote the gates are asked.
fn decide_publish(graph: &Graph, id: NodeId, upload: &Upload, settled: &[Option<Settled>], world: &World) -> Decision {
    let files = tree_of(graph, upload, settled, world);
    let observed = world.remotes.get(&id);
    let judge = |allowed: &[String]| {
        let mut tree = files.clone();
        let record = crate::core::record::render(graph, id, &tree, settled, world, allowed);
        tree.insert(RECORD.into(), crate::core::record::tree_file(&record));
        let verdict = observed.map(|observed| decide_upload(&tree, observed, world.how(upload)));
        (tree, record, verdict)
    };
    let before = observed.map(|o| o.allowed.clone()).unwrap_or_default();
    let (mut made, mut allowed, mut asked) = (judge(&before), before, vec![]);
    if let (Some(UploadVerdict::Send { .. }), Some(observed)) = (&made.2, observed) {
        asked = ask(graph, id, settled, world, observed);
        let refused = asked.iter().filter(|(_, outcome)| !outcome.passed());
        // what a clause asks beside `published` is no regression
        let holds = |clause: &Clause| evaluate(graph, clause, settled, world, &Replaced::First).passed();
        let regression = |gate: &NodeId, outcome: &Outcome| {
            let absolute = graph.clause(*gate).map(Clause::absolute).unwrap_or_default();
            world.allow_regression && matches!(outcome, Outcome::Refused { .. }) && absolute.iter().all(holds)
        };
        let (may, stop): (Vec<_>, Vec<_>) = refused.partition(|(gate, outcome)| regression(gate, outcome));
        if !stop.is_empty() {
            let by = stop.iter().map(|(gate, _)| graph.node(*gate).name.clone()).collect();
            return Decision { asked, ..Decision::bare(Verdict::Blocked { by }) };
        }
        let clauses = may.iter().filter_map(|(gate, _)| graph.clause(*gate));
        let now: Vec<String> = clauses.map(|clause| clause.text.clone()).collect();
        if now != allowed {
            made = judge(&now);
            allowed = now;
        }
    }
    let shown = match &made.2 {
        Some(UploadVerdict::UpToDate { .. } | UploadVerdict::Proposed { .. }) => Verdict::UpToDate,
        Some(UploadVerdict::Drift { .. }) => Verdict::Blocked { by: vec![graph.node(id).name.clone()] },
        Some(UploadVerdict::Send { .. }) => Verdict::Run { reasons: vec![] },
        None => Verdict::Pending { on: vec![] },
    };
    Decision { upload: Some(made), asked, allowed, ..Decision::bare(shown) }
}

/// What is known of a publish that waits for other publishes alone: order is all that they give, so its tree is known, and
/// whether it differs. It stays pending where something is to be sent, for they may yet fail.
fn ahead_of(graph: &Graph, id: NodeId, settled: &[Option<Settled>], world: &World) -> Option<Decision> {
    let upload = graph.upload(id)?;
    let open = |d: &&NodeId| settled[d.index()].is_none();
    let on: Vec<NodeId> = graph.node(id).deps.iter().filter(open).copied().collect();
    on.iter().all(|d| graph.upload(*d).is_some()).then_some(())?;
    let known = decide_publish(graph, id, upload, settled, world);
    let verdict = match known.verdict {
        Verdict::Run { .. } => Verdict::Pending { on: on.iter().map(|d| graph.node(*d).name.clone()).collect() },
        verdict => verdict,
    };
    Some(Decision { verdict, ..known })
}

/// Asks the gates over `published` that an upload waits for.
fn ask(
    graph: &Graph,
    upload: NodeId,
    settled: &[Option<Settled>],
    world: &World,
    observed: &Observed,
) -> Vec<(NodeId, Outcome)> {
    let before = graph.behind(upload);
    let asked = graph.ids().filter(|id| before[id.index()]);
    let asked = asked.filter_map(|id| Some((id, graph.clause(id).filter(|c| c.is_about_published())?)));
    let key = |id: &NodeId| graph.node(*id).name.key.clone();
    let keys = |artifact: &ArtifactName| graph.of(artifact).iter().filter_map(key).collect();
    let replaced = observed.replaced.clone().in_order(&keys);
    asked.map(|(id, clause)| (id, evaluate(graph, clause, settled, world, &replaced))).collect()
}

/// The files of an upload whose inputs are settled, without the record.
pub fn tree_of(graph: &Graph, upload: &Upload, settled: &[Option<Settled>], world: &World) -> Tree {
    let mut tree = Tree::new();
    for (path, _, artifact, _) in &upload.files {
        for dep in graph.of(artifact) {
            let (Some(Settled::Made(receipt)), Some(d)) = (&settled[dep.index()], graph.stage(*dep)) else { continue };
            let place = repo_place(&d.shape, path);
            for output in &receipt.outputs {
                let hub = output.hub.clone().or_else(|| world.hub_digests.get(&output.digest).cloned());
                let hub = hub.unwrap_or(HubDigests { sha256: String::new(), git_sha1: None });
                tree.insert(
                    placed_path(&place, &output.path),
                    TreeFile { size: output.size, digest: output.digest, hub },
                );
            }
        }
    }
    tree
}

/// The content of published outputs whose Hub digests nobody knows yet: they have to be read once before planning on.
pub fn without_hub_digests(graph: &Graph, settled: &[Option<Settled>], world: &World) -> Vec<(Digest, u64)> {
    let published = graph.ids().filter(|id| graph.node(*id).published);
    let receipts = published.filter_map(|id| match &settled[id.index()] {
        Some(Settled::Made(receipt)) => Some(receipt),
        _ => None,
    });
    let outputs = receipts.flat_map(|r| r.outputs.iter());
    outputs
        .filter(|o| o.hub.is_none() && !world.hub_digests.contains_key(&o.digest))
        .map(|o| (o.digest, o.size))
        .collect()
}

/// A whole plan: a decision for every node that was asked for.
#[derive(Debug)]
pub struct Plan {
    /// By node; `None`: not among the targets and their ancestors.
    pub decisions: Vec<Option<Decision>>,
    /// What the plan knows to be settled.
    pub settled: Vec<Option<Settled>>,
}

/// Plans: decides every wanted node in topological order, taking hits as settled. A node that leads only to refused or
/// failed ends is blocked, so that nothing is spent on it.
pub fn plan(graph: &Graph, wanted: &[bool], targets: &BTreeSet<NodeId>, history: &History, world: &World) -> Plan {
    let mut settled: Vec<Option<Settled>> = vec![None; graph.nodes.len()];
    let mut decisions: Vec<Option<Decision>> = vec![None; graph.nodes.len()];
    for &id in graph.order.iter().filter(|id| wanted[id.index()]) {
        let decision = decide(graph, id, &settled, history, world);
        settled[id.index()] = settle(&decision, graph, id);
        for (gate, outcome) in &decision.asked {
            let verdict = match outcome.passed() || decision.upload.is_some() {
                true => Verdict::UpToDate,
                false => Verdict::Blocked { by: vec![graph.node(*gate).name.clone()] },
            };
            if verdict != Verdict::UpToDate {
                settled[gate.index()] = Some(Settled::Judged(outcome.clone()));
            }
            decisions[gate.index()] = Some(Decision { outcome: Some(outcome.clone()), ..Decision::bare(verdict) });
        }
        decisions[id.index()] = Some(decision);
    }
    for (id, by) in useless(graph, wanted, targets, &settled) {
        let decision = decisions[id.index()].as_ref();
        if decision.is_some_and(|d| {
            matches!(d.verdict, Verdict::Run { .. } | Verdict::Restore { .. } | Verdict::Pending { .. })
        }) {
            decisions[id.index()] = Some(Decision::bare(Verdict::Blocked { by: vec![graph.node(by).name.clone()] }));
        }
    }
    Plan { decisions, settled }
}

/// What a decision alone settles, before anything runs.
pub fn settle(decision: &Decision, graph: &Graph, id: NodeId) -> Option<Settled> {
    if let Some(outcome) = &decision.outcome {
        return Some(Settled::Judged(outcome.clone()));
    }
    match (&decision.verdict, &decision.receipt, &graph.node(id).work) {
        (Verdict::UpToDate | Verdict::Restore { .. }, Some(receipt), _) => Some(Settled::Made(receipt.clone())),
        (Verdict::UpToDate, None, Work::Upload(_)) => Some(Settled::Published),
        (Verdict::UpToDate, None, Work::Gate(_)) => Some(Settled::AtUpload),
        _ => None,
    }
}

/// Nodes that lead only to refused gates' uploads, and those that read a failure, each with the node that stands in the
/// way. A target that the user named leads to itself.
pub fn useless(
    graph: &Graph,
    wanted: &[bool],
    targets: &BTreeSet<NodeId>,
    settled: &[Option<Settled>],
) -> Vec<(NodeId, NodeId)> {
    let mut in_the_way: Vec<Option<NodeId>> = vec![None; graph.nodes.len()];
    for &id in graph.order.iter().filter(|id| wanted[id.index()]) {
        let blocker = |d: &NodeId| match &settled[d.index()] {
            Some(Settled::Judged(outcome)) if !outcome.passed() => Some(*d),
            Some(Settled::Failed) => Some(*d),
            _ => in_the_way[d.index()],
        };
        // a refused gate goes before a failure: what it spared stays spared
        let blockers = || graph.node(id).deps.iter().filter_map(blocker);
        in_the_way[id.index()] = blockers().find(|by| is_refused(settled, *by)).or_else(|| blockers().next());
    }
    let mut out = Vec::new();
    let mut spared: Vec<Option<NodeId>> = vec![None; graph.nodes.len()];
    for &id in graph.order.iter().rev().filter(|id| wanted[id.index()]) {
        if settled[id.index()].is_some() {
            continue;
        }
        if let Some(by) = in_the_way[id.index()] {
            // what else a failed stage's consumers need is still of use: the failure may be mended
            spared[id.index()] = Some(by).filter(|by| is_refused(settled, *by));
            out.push((id, by));
            continue;
        }
        let consumers: Vec<_> = graph.node(id).consumers.iter().filter(|c| wanted[c.index()]).collect();
        // a gate alone is no reason to run a stage: it only guards what comes after it
        let reason = |c: &&&NodeId| spared[c.index()].is_none() && !is_refused(settled, ***c);
        if targets.contains(&id) || consumers.is_empty() || consumers.iter().any(|c| reason(&c)) {
            continue;
        }
        let by = consumers.iter().find_map(|c| spared[c.index()].or_else(|| is_refused(settled, **c).then_some(**c)));
        spared[id.index()] = by;
        out.extend(by.map(|by| (id, by)));
    }
    out
}

fn is_refused(settled: &[Option<Settled>], id: NodeId) -> bool {
    matches!(&settled[id.index()], Some(Settled::Judged(outcome)) if !outcome.passed())
}
