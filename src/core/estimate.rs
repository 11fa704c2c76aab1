//! What a publish would send, told from a plan: for certain where the tree is known, else by what was published last.
//!
//! Pure; knows plans and records of publishes.

use crate::core::action::InputFrom;
use crate::core::graph::{Graph, Node, NodeId, Upload, Work, placed_path, repo_place};
use crate::core::name::slug;
use crate::core::plan::{Plan, RECORD, Settled, World, tree_of};
use crate::core::publish::{
    ATTRIBUTES, Observed, Published, RemoteFile, Tree, TreeFile, UploadVerdict, certain_drift, is_same,
};
use crate::core::receipt::Output;
use crate::core::verdict::Verdict;
use std::collections::BTreeSet;

/// What a publish would send: known files, and files that are not made yet.
#[derive(Debug, Clone, Default)]
pub struct SendEstimate {
    /// The verdict, where the tree is known.
    pub verdict: Option<UploadVerdict>,
    /// The publish's own refusal.
    pub blocked: bool,
    /// Files of stages that are pending or will run, by path, with the size of what was last published there.
    pub maybe: Vec<(String, Option<u64>)>,
    /// Files that are known to differ.
    pub certain: Vec<(String, u64)>,
    /// Files that an earlier publish put there and the manifest no longer names.
    pub delete: Vec<String>,
}

/// Estimates what an upload would send. `last` is its last publish.
pub fn estimate(graph: &Graph, plan: &Plan, world: &World, id: NodeId, last: Option<&Published>) -> SendEstimate {
    let blocked = SendEstimate { blocked: true, ..SendEstimate::default() };
    let (Some(decision), Work::Upload(upload)) = (&plan.decisions[id.index()], &graph.node(id).work) else {
        return blocked;
    };
    if let Some((_, _, verdict)) = &decision.upload {
        return SendEstimate { verdict: verdict.clone(), ..SendEstimate::default() };
    }
    if matches!(decision.verdict, Verdict::Blocked { .. }) {
        return blocked;
    }
    let (observed, how) = (world.remotes.get(&id), world.how(upload));
    let made = tree_of(graph, upload, &plan.settled, world);
    let same = |path: &str, there: &RemoteFile| made.get(path).is_some_and(|file| is_same(file, there));
    let drifted = observed.map(|o| certain_drift(o, &|path| names(upload, path), &same)).unwrap_or_default();
    if how.refuses(&drifted) {
        let verdict = Some(UploadVerdict::Drift { files: drifted, pull_request: None });
        return SendEstimate { verdict, ..SendEstimate::default() };
    }
    let nothing = Tree::new();
    let last = last.map_or(&nothing, |p| &p.tree);
    let mut out =
        SendEstimate { delete: observed.map(|o| unnamed(upload, o)).unwrap_or_default(), ..SendEstimate::default() };
    for (path, _, artifact, _) in &upload.files {
        for dep in graph.of(artifact) {
            let place = graph.stage(*dep).map_or(path.clone(), |d| repo_place(&d.shape, path));
            match &plan.settled[dep.index()] {
                Some(Settled::Made(receipt)) => {
                    let placed = receipt.outputs.iter().map(|o| (placed_path(&place, &o.path), o));
                    let same = |f: &TreeFile, o: &Output| {
                        f.digest == o.digest || o.hub.as_ref().is_some_and(|h| h.sha256 == f.hub.sha256)
                    };
                    let differs = placed.filter(|(to, o)| last.get(to).is_none_or(|f| !same(f, o)));
                    out.certain.extend(differs.map(|(to, o)| (to, o.size)));
                }
                _ => match sources(graph, *dep) {
                    Some(names) => out.maybe.extend(names.map(|name| {
                        let to = placed_path(&place, name);
                        let size = last.get(&to).map(|f| f.size);
                        (to, size)
                    })),
                    None => out.maybe.extend(published_before(graph.node(*dep), &place, last)),
                },
            }
        }
    }
    out.maybe.push((RECORD.into(), last.get(RECORD).map(|f| f.size)));
    out.maybe.dedup();
    out
}

/// Whether an upload will have this path, as far as the manifest says.
pub fn names(upload: &Upload, path: &str) -> bool {
    let is = |to: &str| path == to || (to.ends_with('/') && path.starts_with(to));
    path == RECORD || upload.files.iter().any(|(to, ..)| is(to))
}

/// Files that an earlier publish put there, of a mirror all that are there, and that no artifact is named for.
fn unnamed(upload: &Upload, observed: &Observed) -> Vec<String> {
    let others = observed.files.iter().filter(|_| upload.to.mirror).flat_map(|files| files.keys());
    let there: BTreeSet<&String> = observed.managed.keys().chain(others.filter(|path| *path != ATTRIBUTES)).collect();
    there.into_iter().filter(|path| !names(upload, path)).cloned().collect()
}

/// The names of the project's files that an artifact of them will have.
fn sources(graph: &Graph, id: NodeId) -> Option<impl Iterator<Item = &str>> {
    let declaration = graph.stage(id).filter(|declaration| declaration.kind == "files")?;
    Some(declaration.inputs.iter().filter_map(|input| match &input.from {
        InputFrom::File(path) => Some(path.file_name()),
        _ => None,
    }))
}

/// What the last publish had of a node that is not made yet, with sizes; a shard's files begin with its name.
fn published_before(node: &Node, place: &str, last: &Tree) -> Vec<(String, Option<u64>)> {
    if !place.ends_with('/') {
        return vec![(place.to_string(), last.get(place).map(|f| f.size))];
    }
    let shard = node.name.key.as_deref().map(slug);
    let of_shard =
        |rest: &str| shard.as_deref().is_none_or(|s| rest.strip_prefix(s).is_some_and(|r| r.starts_with(['/', '.'])));
    let ours = last.iter().filter(|(path, _)| path.strip_prefix(place).is_some_and(of_shard));
    let known: Vec<_> = ours.map(|(path, f)| (path.clone(), Some(f.size))).collect();
    if known.is_empty() { vec![(format!("{place}{}", shard.unwrap_or_default()), None)] } else { known }
}
