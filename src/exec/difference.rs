//! What a publish would change, file by file: the files that are made against what the remote has, small texts line by
//! line, and the facts that differ.
//!
//! Reads blobs and small files of the remote. Decides nothing: the tree and the facts are the plan's.

use crate::core::digest::HubDigests;
use crate::core::error::Result;
use crate::core::estimate::names;
use crate::core::facts::{FOLDS, FactSet, Facts};
use crate::core::graph::{Graph, NodeId, Upload, placed_path, repo_place};
use crate::core::plan::{Plan, RECORD, Settled, World, fact_set, tree_of};
use crate::core::publish::{
    ATTRIBUTES, Drifted, Observed, Published, RemoteFile, TreeFile, UploadVerdict, certain_drift, is_same,
};
use crate::core::replaced::Replaced;
use crate::core::value::Value;
use crate::exec::leaks::not_to_be_shown;
use crate::exec::remote::Remote;
use crate::store::blobs::Blobs;
use serde::Serialize;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};

/// Larger texts are told by size and digest.
const TEXT: u64 = 256 << 10;
/// Lines around a change.
const CONTEXT: usize = 3;

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It gets other content.
    Changed,
    /// An earlier publish put it there, and the manifest no longer names it.
    Deleted,
    /// It is not made yet: whether it changes is not known.
    Pending,
}

/// A file as it is or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Bytes.
    pub size: u64,
    /// Of an LFS file, and of every file that is to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Git's blob SHA-1, of a regular file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_sha1: Option<String>,
}

/// One file that differs or may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Path in the repo; of a directory that is not made yet it ends in `/`.
    pub path: String,
    /// What happens.
    pub change: Change,
    /// As the remote has it.
    pub before: Option<Side>,
    /// As it would be.
    pub after: Option<Side>,
    /// Of a small text that changes: the unified diff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Why the text is not shown: a secret that one of the sides holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_shown: Option<String>,
}

/// A fact that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct FactChange {
    /// `checkpoint.step`, `samples[Tiger].pictures`, `samples.mean.pictures`
    pub name: String,
    /// Whose it is.
    pub of: Whose,
    /// In what is published; `None`: it has no such fact.
    pub was: Option<Value>,
    /// Now.
    pub now: Option<Value>,
}

/// Whose a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// An artifact of one node.
    Artifact,
    /// One shard of a family.
    Shard,
    /// A family: the mean over its shards.
    Family,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    /// Files that differ or may differ, by path.
    pub files: Vec<FileChange>,
    /// Files that stay as they are.
    pub same: usize,
    /// Facts that differ.
    pub facts: Vec<FactChange>,
    /// Artifacts that are not made yet.
    pub pending: Vec<String>,
    /// What others changed on the remote, where a publish would be refused for it.
    pub drift: Vec<Drifted>,
}

/// What is looked at.
pub struct Sides<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The upload's node.
    pub id: NodeId,
    /// The upload.
    pub upload: &'a Upload,
    /// The plan.
    pub plan: &'a Plan,
    /// The world that it was made in.
    pub world: &'a World,
    /// The remote as it was observed.
    pub observed: &'a Observed,
    /// The last publish's receipt.
    pub last: Option<&'a Published>,
    /// The remote.
    pub remote: &'a Remote,
    /// The store.
    pub blobs: &'a Blobs,
}

impl Sides<'_> {
    /// Compares.
    pub async fn compare(&self) -> Result<Difference> {
        let before = self.before();
        let mut out = Difference { facts: shown(self.facts())?, drift: self.drift(), ..Difference::default() };
        let (after, pending) = self.after(&mut out.pending);
        for (path, file) in &after {
            let side =
                Side { size: file.size, sha256: Some(file.hub.sha256.clone()), git_sha1: file.hub.git_sha1.clone() };
            let was = before.get(path);
            if was.is_some_and(|was| is_there(file, was)) {
                out.same += 1;
                continue;
            }
            let change = if was.is_some() { Change::Changed } else { Change::Added };
            let texts = match was {
                Some(was) if path != RECORD => self.texts(path, was, file).await?,
                _ => None,
            };
            let not_shown = texts.as_ref().map_or(Ok(None), |(before, after)| not_shown(path, before, after))?;
            let diff = texts.filter(|_| not_shown.is_none()).map(|(before, after)| unified(path, &before, &after));
            let (path, before, after) = (path.clone(), was.cloned(), Some(side));
            out.files.push(FileChange { path, change, before, after, diff, not_shown });
        }
        let may_come =
            |path: &str| pending.iter().any(|p| path == p || (p.ends_with('/') && path.starts_with(p.as_str())));
        let ours = self.observed.managed.keys().filter(|path| before.contains_key(*path));
        let all = before.keys().filter(|path| self.upload.to.mirror && *path != ATTRIBUTES);
        let goes: BTreeSet<&String> = ours.chain(all).filter(|path| !after.contains_key(*path)).collect();
        for path in goes {
            let change = if may_come(path) { Change::Pending } else { Change::Deleted };
            let side = before.get(path).cloned();
            let path = path.clone();
            out.files.push(FileChange { path, change, before: side, after: None, diff: None, not_shown: None });
        }
        let told: BTreeSet<String> = out.files.iter().map(|f| f.path.clone()).collect();
        let new =
            pending.iter().filter(|p| !told.iter().any(|t| t == *p || (p.ends_with('/') && t.starts_with(p.as_str()))));
        out.files.extend(new.map(|path| FileChange {
            path: path.clone(),
            change: Change::Pending,
            before: None,
            after: None,
            diff: None,
            not_shown: None,
        }));
        out.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }

    /// What the remote has: as it was listed, or what the last publish left where that is the head.
    fn before(&self) -> BTreeMap<String, Side> {
        let listed = self.observed.files.as_ref();
        let listed = listed.map(|files| {
            let side = |f: &crate::core::publish::RemoteFile| Side {
                size: f.size,
                sha256: f.sha256.clone(),
                git_sha1: Some(f.git_sha1.clone()).filter(|_| f.sha256.is_none()),
            };
            files.iter().map(|(path, f)| (path.clone(), side(f))).collect()
        });
        listed.unwrap_or_else(|| {
            let tree = self.last.filter(|_| self.observed.head.is_some()).map(|p| &p.tree);
            let side = |f: &TreeFile| Side {
                size: f.size,
                sha256: Some(f.hub.sha256.clone()),
                git_sha1: f.hub.git_sha1.clone(),
            };
            tree.into_iter().flatten().map(|(path, f)| (path.clone(), side(f))).collect()
        })
    }

    /// The files that are made, and the places of those that are not.
    fn after(&self, names: &mut Vec<String>) -> (BTreeMap<String, TreeFile>, BTreeSet<String>) {
        let decision = self.plan.decisions[self.id.index()].as_ref();
        if let Some((tree, ..)) = decision.and_then(|d| d.upload.as_ref()) {
            return (tree.clone(), BTreeSet::new());
        }
        let (mut made, mut pending) = (BTreeMap::new(), BTreeSet::from([RECORD.to_string()]));
        for (path, _, artifact, _) in &self.upload.files {
            for dep in self.graph.of(artifact) {
                let place = self.graph.stage(*dep).map_or(path.clone(), |d| repo_place(&d.shape, path));
                let Some(Settled::Made(receipt)) = &self.plan.settled[dep.index()] else {
                    pending.insert(place);
                    names.push(self.graph.node(*dep).name.to_string());
                    continue;
                };
                for output in &receipt.outputs {
                    let hub = output.hub.clone().or_else(|| self.world.hub_digests.get(&output.digest).cloned());
                    let hub = hub.unwrap_or(HubDigests { sha256: String::new(), git_sha1: None });
                    let file = TreeFile { size: output.size, digest: output.digest, hub };
                    made.insert(placed_path(&place, &output.path), file);
                }
            }
        }
        (made, pending)
    }

    /// What others changed: where the manifest does not allow to publish over it, and where it does.
    fn drift(&self) -> Vec<Drifted> {
        let decision = self.plan.decisions[self.id.index()].as_ref();
        match decision.and_then(|d| d.upload.as_ref()) {
            Some((_, _, Some(UploadVerdict::Drift { files, .. }))) => files.clone(),
            Some((_, _, Some(UploadVerdict::Send { over, .. }))) => over.clone(),
            Some(_) => vec![],
            None => {
                let made = tree_of(self.graph, self.upload, &self.plan.settled, self.world);
                let same = |path: &str, there: &RemoteFile| made.get(path).is_some_and(|file| is_same(file, there));
                let drifted = certain_drift(self.observed, &|path| names(self.upload, path), &same);
                if self.world.how(self.upload).refuses(&drifted) { drifted } else { vec![] }
            }
        }
    }

    /// The facts that differ from those of what is published, of artifacts that are made.
    fn facts(&self) -> Vec<FactChange> {
        let nothing = BTreeMap::new();
        let was = match &self.observed.replaced {
            Replaced::Version(facts) => facts,
            Replaced::First => &nothing,
            Replaced::Unknown => return vec![],
        };
        let closure = self.graph.closure(&[self.id]);
        let mut out = Vec::new();
        for (artifact, ids) in &self.graph.artifacts {
            if !ids.iter().any(|id| closure[id.index()] && self.graph.stage(*id).is_some()) {
                continue;
            }
            let Some(now) = fact_set(self.graph, artifact, &self.plan.settled) else { continue };
            if let Some(was) = was.get(artifact) {
                changed_facts(artifact.as_str(), was, &now, &mut out);
            }
        }
        out
    }

    /// A small text before and after.
    async fn texts(&self, path: &str, was: &Side, now: &TreeFile) -> Result<Option<(String, String)>> {
        if was.size > TEXT || now.size > TEXT {
            return Ok(None);
        }
        let Some(after) = self.blobs.read(&now.digest)?.and_then(text_of) else { return Ok(None) };
        let kept = self.last.and_then(|p| p.tree.get(path)).filter(|f| is_there(f, was));
        let before = match kept.map(|f| self.blobs.read(&f.digest)).transpose()?.flatten() {
            Some(bytes) => Some(bytes),
            None => {
                let head = self.observed.head.as_deref().unwrap_or(&self.remote.target.revision);
                self.remote.client.download_small(&self.remote.repo, head, path).await?
            }
        };
        Ok(before.and_then(text_of).map(|before| (before, after)))
    }
}

/// Whether a file of a tree is what the remote has.
fn is_there(file: &TreeFile, was: &Side) -> bool {
    let there = crate::core::publish::RemoteFile {
        size: was.size,
        git_sha1: was.git_sha1.clone().unwrap_or_default(),
        sha256: was.sha256.clone(),
    };
    is_same(file, &there)
}

/// A text, where it is one.
fn text_of(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Why neither side is shown, if one of them holds a secret.
fn not_shown(path: &str, before: &str, after: &str) -> Result<Option<String>> {
    if let Some(why) = not_to_be_shown(path, after)? {
        return Ok(Some(format!("{why}, as it would be published")));
    }
    Ok(not_to_be_shown(path, before)?.map(|why| format!("{why}, as it is published")))
}

/// The facts, with words in the place of values that hold a secret.
fn shown(mut facts: Vec<FactChange>) -> Result<Vec<FactChange>> {
    let text = |name: &str, value: &Option<Value>| {
        value.as_ref().map_or(String::new(), |value| format!("{name} = {}\n", value.to_json()))
    };
    let all: String = facts.iter().flat_map(|f| [text(&f.name, &f.was), text(&f.name, &f.now)]).collect();
    if not_to_be_shown("facts", &all)?.is_none() {
        return Ok(facts);
    }
    for fact in &mut facts {
        for value in [&mut fact.was, &mut fact.now] {
            if let Some(why) = not_to_be_shown("the value", &text(&fact.name, value))? {
                *value = Some(Value::Text(format!("not shown: {why}")));
            }
        }
    }
    Ok(facts)
}

fn unified(path: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let (a, b) = (format!("a/{path}"), format!("b/{path}"));
    diff.unified_diff().context_radius(CONTEXT).header(&a, &b).to_string()
}

fn changed_facts(artifact: &str, was: &FactSet, now: &FactSet, out: &mut Vec<FactChange>) {
    let nodes = |set: &FactSet| -> BTreeMap<String, BTreeMap<String, Value>> {
        let plain = |facts: &Facts| facts.values.iter().map(|(k, f)| (k.clone(), f.value.clone())).collect();
        match set {
            FactSet::One(facts) => [(artifact.to_string(), plain(facts))].into(),
            FactSet::Family(list) => list.iter().map(|(k, facts)| (format!("{artifact}[{k}]"), plain(facts))).collect(),
        }
    };
    let one = matches!(now, FactSet::One(_));
    changed_values(&nodes(was), &nodes(now), if one { Whose::Artifact } else { Whose::Shard }, out);
    let mean = FOLDS.iter().find(|(name, _)| *name == "mean").filter(|_| !one);
    if let Some((name, fold)) = mean {
        let of = |set: &FactSet| [(format!("{artifact}.{name}"), set.fold(*fold))].into();
        changed_values(&of(was), &of(now), Whose::Family, out);
    }
}

fn changed_values(
    was: &BTreeMap<String, BTreeMap<String, Value>>,
    now: &BTreeMap<String, BTreeMap<String, Value>>,
    of: Whose,
    out: &mut Vec<FactChange>,
) {
    let nothing = BTreeMap::new();
    for node in was.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
        let (was, now) = (was.get(node).unwrap_or(&nothing), now.get(node).unwrap_or(&nothing));
        for name in was.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
            let (was, now) = (was.get(name).cloned(), now.get(name).cloned());
            if was != now {
                out.push(FactChange { name: format!("{node}.{name}"), of, was, now });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_diff_has_the_form_that_patch_reads() {
        let found = unified("README.md", "a\nb\nc\n", "a\nB\nc\n");
        assert_eq!(found, "--- a/README.md\n+++ b/README.md\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
    }

    #[test]
    fn facts_that_come_go_and_change() {
        let facts = |list: &[(&str, i64)]| {
            let mut facts = Facts::default();
            let of = facts.subject("x", crate::core::digest::Digest::of(b"x"));
            list.iter().for_each(|(name, value)| facts.set(name, *value, of));
            facts
        };
        let was = FactSet::One(facts(&[("step", 1), ("same", 7), ("gone", 3)]));
        let now = FactSet::One(facts(&[("step", 2), ("same", 7), ("new", 4)]));
        let mut out = vec![];
        changed_facts("checkpoint", &was, &now, &mut out);
        let told: Vec<_> = out.iter().map(|f| (f.name.as_str(), f.was.clone(), f.now.clone())).collect();
        let int = |n| Some(Value::Int(n));
        let expected =
            [("checkpoint.gone", int(3), None), ("checkpoint.new", None, int(4)), ("checkpoint.step", int(1), int(2))];
        assert_eq!(told, expected);
        let family =
            |n| FactSet::Family(vec![("Tiger".into(), facts(&[("n", n)])), ("Cat".into(), facts(&[("n", 1)]))]);
        let mut out = vec![];
        changed_facts("samples", &family(1), &family(3), &mut out);
        let told: Vec<_> = out.iter().map(|f| (f.name.as_str(), f.of, f.now.clone())).collect();
        let mean = ("samples.mean.n", Whose::Family, Some(Value::Float(2.0)));
        assert_eq!(told, [("samples[Tiger].n", Whose::Shard, int(3)), mean]);
        let mut out = vec![];
        changed_facts("samples", &family(1), &family(1), &mut out);
        assert!(out.is_empty());
    }
}
