//! Running a stage twice from the same action, to see whether it makes the same both times. Nothing is placed, recorded
//! or taken into the store: work directories and outputs stand below the store's folder for work, and are gone
//! afterwards.
//!
//! Knows what a build would have handed to the stage; does not judge what differs, and prints nothing.

use crate::core::action::{Action, Declaration};
use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::graph::{NodeId, Work};
use crate::core::plan::{Plan, World, action_of};
use crate::core::receipt::{History, Output, Receipt};
use crate::core::value::Value;
use crate::exec::observe;
use crate::exec::pools::Pools;
use crate::exec::project::Project;
use crate::exec::runtimes;
use crate::exec::work::{self, Done, Job};
use crate::stage::workspace::Cancel;
use crate::store::Store;
use crate::store::blobs::Blobs;
use crate::store::memo::{Memo, Signature};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// What a result is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// The first run with the second.
    Itself,
    /// The first run with the receipt of the same action.
    Receipt,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Differing {
    /// What was compared.
    pub against: Against,
    /// What differs.
    pub what: What,
}

/// What differs.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A file's content.
    Content {
        /// The file.
        path: String,
        /// Both sizes.
        sizes: (u64, u64),
        /// The first byte that differs, counted from 1; `None`: the other content is no longer there to be read.
        byte: Option<u64>,
    },
    /// A file that only one of both has.
    Path {
        /// The file.
        path: String,
        /// Whether it is the first run that has it.
        first: bool,
    },
    /// A fact that is not volatile.
    Fact {
        /// Its name.
        name: String,
        /// Both values; `None`: not measured.
        values: (Option<Value>, Option<Value>),
    },
}

impl What {
    /// What it is about, whatever the difference.
    fn subject(&self) -> (u8, &str) {
        match self {
            What::Content { path, .. } | What::Path { path, .. } => (0, path),
            What::Fact { name, .. } => (1, name),
        }
    }
}

/// What two runs of a stage came to.
#[derive(Debug)]
pub struct Compared {
    /// Files that the first run made.
    pub files: usize,
    /// What differs; empty: the same.
    pub differing: Vec<Differing>,
}

/// All that running a stage again takes.
pub struct Twice<'a> {
    /// The project.
    pub project: &'a Project,
    /// Its store, locked.
    pub store: &'a Store,
    /// What is remembered.
    pub history: &'a History,
    /// The stat memo; what it learns is not kept.
    pub memo: Memo,
    /// What was observed.
    pub world: World,
    /// What the planner says of the nodes and of all that they need.
    pub plan: Plan,
    /// The stop flag.
    pub cancel: Cancel,
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // what stays is cleared by the next build
    }
}

impl Twice<'_> {
    /// Whether a node can be run by itself, told before anything runs.
    ///
    /// # Errors
    /// It is no stage, or something that it needs is not up to date.
    pub fn ready(&self, id: NodeId) -> Result<()> {
        let graph = &self.project.graph;
        let node = graph.node(id);
        let kind = match &node.work {
            Work::Stage(_) => None,
            Work::Gate(_) => Some("a gate"),
            Work::Upload(_) => Some("an upload"),
        };
        if let Some(kind) = kind {
            let text = format!("`{}` is {kind}: it has no stage that could run twice", node.name.artifact);
            return Err(Error::new(ErrorKind::Usage, text).hint("name an artifact that makes files"));
        }
        let stale = node.deps.iter().filter(|dep| {
            let made = matches!(self.plan.settled[dep.index()], Some(crate::core::plan::Settled::Made(_)));
            graph.stage(**dep).is_some() && !made
        });
        let stale: BTreeSet<String> = stale.map(|dep| format!("`{}`", graph.node(*dep).name)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let list = stale.into_iter().collect::<Vec<_>>().join(", ");
        let text = format!("`{}` cannot be checked: what it needs is not up to date: {list}", node.name);
        Err(Error::new(ErrorKind::Usage, text).hint(format!("run `hfbuild build {}` first", node.name.artifact)))
    }

    /// Runs a node twice and compares.
    ///
    /// # Errors
    /// The stage fails, or what it reads is lost or changes meanwhile.
    pub fn compare(&mut self, id: NodeId) -> Result<Compared> {
        self.ready(id)?;
        let project = self.project;
        let Some(declaration) = project.graph.stage(id) else {
            return Err(Error::bug("a stage without a declaration"));
        };
        let action = action_of(&project.graph, declaration, &self.plan.settled, &self.world);
        let digest = action.digest();
        let scratch = Scratch(self.store.tmp().join(format!("twice-{}", id.0)));
        std::fs::create_dir_all(&scratch.0).on("create", &scratch.0)?;
        let made = Blobs::new(scratch.0.join("made"), scratch.0.clone());
        let name = project.graph.node(id).name.to_string();
        let mut run = |which: &str| {
            let job = self.job(id, declaration, &action, digest, &made, &scratch.0.join(which))?;
            let (_, _, _, done) = work::run(job);
            done.map_err(|e| e.within(&format!("`{name}`, {which} run")))
        };
        let (first, second) = (run("first")?, run("second")?);
        let mut differing = difference(Against::Itself, &first, &made, &Other::of(&second), &made)?;
        if let Some(receipt) = self.history.receipt(&digest) {
            let more = difference(Against::Receipt, &first, &made, &Other::kept(receipt), &self.store.blobs())?;
            let told: BTreeSet<_> = differing.iter().map(|d| d.what.subject()).collect();
            let more: Vec<_> = more.into_iter().filter(|d| !told.contains(&d.what.subject())).collect();
            differing.extend(more);
        }
        Ok(Compared { files: first.outputs.len(), differing })
    }

    /// A run as a build would start it, but that its outputs go elsewhere.
    fn job(
        &mut self,
        id: NodeId,
        declaration: &Declaration,
        action: &Action,
        digest: Digest,
        made: &Blobs,
        dir: &Path,
    ) -> Result<Job> {
        let (project, blobs) = (self.project, self.store.blobs());
        let log = dir.with_extension("log");
        let (graph, root) = (&project.graph, &project.root);
        let dir = dir.to_path_buf();
        let mut workspace =
            work::workspace(graph, declaration, &self.plan.settled, &self.world, &blobs, root, dir, log)?;
        workspace.cancel = self.cancel.clone();
        workspace.machine = runtimes::machine(self.store);
        let mut pools = Pools::new(&project.manifest.pools, 0);
        workspace.pinned = pools.take(&declaration.resources).map(|h| pools.environment(&h)).unwrap_or_default();
        let mut sources = Vec::new();
        for path in observe::source_paths(declaration, &self.world) {
            let full = project.root.join(&path);
            let signature = Signature::of(&full)?;
            if self.memo.digest(&project.root, &path)? != self.world.sources.get(&path).copied().flatten() {
                return Err(Error::stage(format!("`{path}` changed after it was looked at")).hint("check again"));
            }
            sources.push((path, full, signature));
        }
        // what comes from the store is watched like a source: a stage that writes to it would be compared with itself
        for (role, file) in workspace.inputs.iter().flat_map(|(role, files)| files.iter().map(move |f| (role, f))) {
            if file.file != blobs.path(&file.digest) {
                continue;
            }
            if !blobs.is_whole(&file.digest, &mut self.memo)? {
                return Err(lost(action, role, &file.path));
            }
            sources.push((file.path.clone(), file.file.clone(), Signature::of(&file.file)?));
        }
        Ok(Job {
            id,
            action: action.clone(),
            digest,
            published: false,
            shape: declaration.shape.clone(),
            retries: declaration.retries,
            workspace,
            sources,
            blobs: made.clone(),
            places: vec![],
            root: self.project.root.clone(),
        })
    }
}

fn lost(action: &Action, role: &str, path: &str) -> Error {
    let from = action.inputs.get(role).map_or(role, |i| i.name.as_str());
    Error::stage(format!("`{path}` of `{from}` is lost from the cache or damaged"))
        .hint(format!("run `hfbuild build {from} --force {from}` first"))
}

/// The result that the first run is compared with.
struct Other<'a> {
    outputs: &'a [Output],
    facts: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Other<'a> {
    fn of(done: &'a Done) -> Other<'a> {
        Other { outputs: &done.outputs, facts: measured(&done.facts) }
    }
    fn kept(receipt: &'a Receipt) -> Other<'a> {
        Other { outputs: &receipt.outputs, facts: measured(&receipt.facts) }
    }
}

fn measured(facts: &crate::core::facts::Facts) -> BTreeMap<&str, &Value> {
    facts.values.iter().map(|(name, fact)| (name.as_str(), &fact.value)).collect()
}

/// Everything that two results do not have in common, files first, each kind by name.
fn difference(
    against: Against,
    first: &Done,
    first_blobs: &Blobs,
    other: &Other<'_>,
    other_blobs: &Blobs,
) -> Result<Vec<Differing>> {
    let by_path = |outputs: &[Output]| -> BTreeMap<String, Output> {
        outputs.iter().map(|o| (o.path.clone(), o.clone())).collect()
    };
    let (ours, theirs) = (by_path(&first.outputs), by_path(other.outputs));
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut all = Vec::new();
    for path in paths {
        match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a.digest == b.digest => {}
            (Some(a), Some(b)) => {
                let byte = first_difference(&first_blobs.path(&a.digest), &other_blobs.path(&b.digest))?;
                all.push(What::Content { path: path.clone(), sizes: (a.size, b.size), byte });
            }
            (ours, _) => all.push(What::Path { path: path.clone(), first: ours.is_some() }),
        }
    }
    let facts = measured(&first.facts);
    let names: BTreeSet<&&str> = facts.keys().chain(other.facts.keys()).collect();
    for name in names {
        let (a, b) = (facts.get(*name), other.facts.get(*name));
        if a != b {
            let values = (a.map(|v| (*v).clone()), b.map(|v| (*v).clone()));
            all.push(What::Fact { name: name.to_string(), values });
        }
    }
    Ok(all.into_iter().map(|what| Differing { against, what }).collect())
}

/// The first byte, counted from 1, at which two files differ; `None` where one is not there.
fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>> {
    if !a.exists() || !b.exists() {
        return Ok(None);
    }
    let mut ours = BufReader::with_capacity(1 << 16, File::open(a).on("open", a)?);
    let mut theirs = BufReader::with_capacity(1 << 16, File::open(b).on("open", b)?);
    let mut before = 0;
    loop {
        let (x, y) = (ours.fill_buf().on("read", a)?, theirs.fill_buf().on("read", b)?);
        let both = x.len().min(y.len());
        if let Some(at) = x.iter().zip(y).position(|(x, y)| x != y) {
            return Ok(Some(before + at as u64 + 1));
        }
        if both == 0 {
            return Ok((x.len() != y.len()).then_some(before + 1));
        }
        ours.consume(both);
        theirs.consume(both);
        before += both as u64;
    }
}
