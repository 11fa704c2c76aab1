//! The snapshot of a build that found nothing to do: what it looked at, so that the next one need only look again.
//!
//! A plan is a pure function of the manifest, the records and the observed world. Where manifest, command line and binary
//! have the same digest, and every file that was looked at (records, sources, outputs) has the same stat by the memo's own
//! rule, the answer is the same, and neither the manifest nor the records have to be read. Anything else is the long way.
//! Graphs that publish, read globs or name `pip:` packages always take the long way: their answer depends on more than
//! the stat of known files.
//!
//! Decides nothing: it remembers one answer of the planner, "all of it is up to date", and never another.

use crate::core::action::InputFrom;
use crate::core::digest::{Canonical, Digest};
use crate::core::error::{OnPath, Result};
use crate::core::graph::{Work, placed_path};
use crate::core::plan::{Plan, Settled, World};
use crate::core::verdict::Verdict;
use crate::exec::observe::on_path;
use crate::exec::project::{MANIFEST, Project};
use crate::store::Store;
use crate::store::memo::{Memo, Signature};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What was looked at, and what was said.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    key: Digest,
    /// Paths below the root; those with `true` are places of outputs, where a symbolic link counts as nothing.
    files: Vec<(String, Signature, bool)>,
    env: Vec<(String, Digest)>,
    tools: Vec<(String, PathBuf, Signature)>,
    /// Nodes that are up to date, as the screen shows them.
    shown: Vec<String>,
    fresh: usize,
}

/// What a remembered answer says.
pub struct Fresh {
    /// Names of what is up to date; only the first of very many.
    pub shown: Vec<String>,
    /// How many there are.
    pub count: usize,
}

/// How many names are kept for the screen, which folds them anyway.
const SHOWN: usize = 2000;

/// The key of an answer: the manifest's bytes, what was asked for, and the binary that answers.
pub fn key(root: &Path, asked: &[String]) -> Result<Digest> {
    let manifest = root.join(MANIFEST);
    let mut key = Canonical::new("hfbuild snapshot 1");
    key.digest(&crate::store::hash::blake3_of(&manifest)?);
    key.number(asked.len() as u64);
    asked.iter().for_each(|word| {
        key.text(word);
    });
    let binary = std::env::current_exe().on("find", Path::new("hfbuild"))?;
    key.text(&format!("{:?}", Signature::of(&binary)?));
    Ok(key.finish())
}

fn value_digest(name: &str) -> Digest {
    let value = std::env::var_os(name);
    Canonical::new("hfbuild variable 1").text(&format!("{value:?}")).finish()
}

/// The remembered answer, if nothing has changed since. Any doubt is `None`.
pub fn still_fresh(root: &Path, store: &Store, key: Digest) -> Option<Fresh> {
    let bytes = std::fs::read(store.snapshot()).ok()?;
    let (sum, body) = bytes.split_at_checked(32)?;
    if Digest::of(body).bytes() != sum {
        return None;
    }
    let snapshot: Snapshot = postcard::from_bytes(body).ok()?;
    if snapshot.key != key || snapshot.env.iter().any(|(name, digest)| value_digest(name) != *digest) {
        return None;
    }
    let same_tool = |(name, real, signature): &(String, PathBuf, Signature)| {
        on_path(root, name).and_then(|p| p.canonicalize().ok()).as_ref() == Some(real)
            && Signature::of(real).ok().flatten() == Some(*signature)
    };
    if !snapshot.tools.iter().all(same_tool) {
        return None;
    }
    // work directories that a killed run left are cleared the long way
    if std::fs::read_dir(store.tmp()).ok()?.next().is_some() {
        return None;
    }
    let folder = std::fs::File::open(root).ok()?;
    let same = |(path, signature, place): &(String, Signature, bool)| {
        Signature::below(&folder, path, !place).is_some_and(|now| now == *signature)
    };
    let all_same = snapshot.files.par_iter().with_min_len(256).all(same);
    all_same.then_some(Fresh { shown: snapshot.shown, count: snapshot.fresh })
}

/// Remembers that a plan found nothing to do. Where something about it cannot be told from stats, nothing is remembered.
pub fn remember(project: &Project, store: &Store, plan: &Plan, world: &World, memo: &Memo, key: Digest) -> Result<()> {
    let Some(snapshot) = take(project, store, plan, world, memo, key) else { return Ok(()) };
    let body = postcard::to_stdvec(&snapshot)
        .map_err(|e| crate::core::error::Error::bug(format!("a snapshot cannot be written: {e}")))?;
    let mut bytes = Digest::of(&body).bytes().to_vec();
    bytes.extend(body);
    let (path, tmp) = (store.snapshot(), store.tmp().join("snapshot"));
    std::fs::write(&tmp, bytes).on("write", &tmp)?;
    std::fs::rename(&tmp, &path).on("rename to", &path)
}

fn take(project: &Project, store: &Store, plan: &Plan, world: &World, memo: &Memo, key: Digest) -> Option<Snapshot> {
    let graph = &project.graph;
    let mut out = Snapshot { key, files: vec![], env: vec![], tools: vec![], shown: vec![], fresh: 0 };
    let folder = std::fs::File::open(&project.root).ok()?;
    let mut add = |path: &str, digest: &Digest, place: bool| {
        let signature = Signature::below(&folder, path, !place)?;
        (memo.known(path, &signature) == Some(*digest)).then(|| out.files.push((path.into(), signature, place)))
    };
    for (path, digest) in &world.sources {
        add(path, &(*digest)?, false)?;
    }
    for id in graph.ids() {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        let node = graph.node(id);
        match (&node.work, &decision.verdict, &plan.settled[id.index()]) {
            (Work::Gate(_), Verdict::UpToDate, Some(Settled::Judged(outcome))) if outcome.passed() => {}
            (Work::Stage(d), Verdict::UpToDate, Some(Settled::Made(receipt))) => {
                if d.inputs.iter().any(|i| matches!(i.from, InputFrom::Files(_))) {
                    return None;
                }
                for output in &receipt.outputs {
                    for place in &node.places {
                        add(&placed_path(place, &output.path), &output.digest, true)?;
                    }
                }
                out.fresh += 1;
                if out.shown.len() < SHOWN {
                    out.shown.push(node.name.to_string());
                }
            }
            _ => return None,
        }
    }
    out.env = world.env.keys().chain([&"PATH".to_string()]).map(|name| (name.clone(), value_digest(name))).collect();
    for name in world.tools.keys() {
        let real = on_path(&project.root, name).filter(|_| !name.starts_with("pip:"))?.canonicalize().ok()?;
        let signature = Signature::of(&real).ok()??;
        memo.known(&format!("tool:{}", real.display()), &signature)?;
        out.tools.push((name.clone(), real, signature));
    }
    // the records as this very process has read them: it holds the lock, so nobody has written since
    for log in [store.actions_log(), store.root_version()] {
        let path = log.strip_prefix(&project.root).ok()?.to_str()?.to_string();
        out.files.push((path.clone(), Signature::below(&folder, &path, true)?, false));
    }
    Some(out)
}
