//! Running one stage: its workspace is laid out, the kind runs, the outputs are digested and taken into the store.
//!
//! Runs on a thread of its own. Knows stages and blobs; does not decide what runs, and writes no record.

use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::digest::{Digest, FileDigests};
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::facts::{FactSet, Facts};
use crate::core::graph::{Graph, NodeId, placed_path};
use crate::core::name::ArtifactName;
use crate::core::plan::{Settled, World, fact_set};
use crate::core::receipt::Output;
use crate::stage::workspace::{Cancel, InputFile};
use crate::stage::{self, Workspace};
use crate::store::blobs::Blobs;
use crate::store::hash;
use crate::store::memo::Signature;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// All that a stage's thread needs.
pub struct Job {
    /// The node.
    pub id: NodeId,
    /// The action.
    pub action: Action,
    /// Its digest.
    pub digest: Digest,
    /// Whether SHA-256 is wanted of the outputs.
    pub published: bool,
    /// The declared shape of the output.
    pub shape: Shape,
    /// Retries left.
    pub retries: u32,
    /// The workspace; its directory is no other running stage's, and what is in it is removed first.
    pub workspace: Workspace,
    /// The sources that were read, with the stat that they had when their digest was taken.
    pub sources: Vec<(String, PathBuf, Option<Signature>)>,
    /// The store's blobs.
    pub blobs: Blobs,
    /// The places of the project that outputs are put at.
    pub places: Vec<String>,
    /// The project's folder.
    pub root: PathBuf,
}

/// What a stage made.
pub struct Done {
    /// Outputs, sorted by path, in the store.
    pub outputs: Vec<Output>,
    /// Of outputs that will be published and that no program but hfbuild wrote: the stat of the blob that was digested.
    pub whole: Vec<(Digest, Signature)>,
    /// Copies of outputs for their places, by place.
    pub copies: BTreeMap<String, PathBuf>,
    /// What was measured.
    pub facts: Facts,
    /// Runtime and device.
    pub device: Option<String>,
    /// Wall seconds.
    pub seconds: f64,
}

/// Lays out what a stage is handed.
#[allow(clippy::too_many_arguments)]
pub fn workspace(
    graph: &Graph,
    declaration: &Declaration,
    settled: &[Option<Settled>],
    world: &World,
    blobs: &Blobs,
    root: &Path,
    dir: PathBuf,
    log: PathBuf,
) -> Result<Workspace> {
    let (mut inputs, mut directories) = (BTreeMap::new(), BTreeSet::new());
    for input in &declaration.inputs {
        let files = match &input.from {
            InputFrom::File(path) => {
                let digest = world.sources.get(path.as_str()).copied().flatten();
                let digest = digest.ok_or_else(|| Error::bug(format!("source `{path}` was not observed")))?;
                vec![source(root, path.as_str(), digest)]
            }
            InputFrom::Files(pattern) => {
                directories.insert(input.role.clone());
                let matched = world.matched.get(pattern.as_str()).into_iter().flat_map(BTreeMap::keys);
                let content = |path: &String| world.sources.get(path).copied().flatten();
                matched.filter_map(|path| Some(source(root, path, content(path)?))).collect()
            }
            InputFrom::Shard(name) => {
                let ids: Vec<_> = graph.shard(name).into_iter().collect();
                let files = made_files(&ids, settled, blobs);
                if !is_one_file(graph, &ids, &files) {
                    directories.insert(input.role.clone());
                }
                files
            }
            InputFrom::Artifact(artifact) => {
                let files = made_files(graph.of(artifact), settled, blobs);
                if !is_one_file(graph, graph.of(artifact), &files) {
                    directories.insert(input.role.clone());
                }
                files
            }
        };
        inputs.insert(input.role.clone(), files);
    }
    let facts = facts_read(graph, declaration, settled)?;
    let proven = declaration.proven.iter().map(|(role, path)| (role.clone(), root.join(path.as_str()))).collect();
    let secrets = declaration.pass_env.iter().filter_map(|n| Some((n.clone(), std::env::var(n).ok()?))).collect();
    Ok(Workspace {
        inputs,
        proven,
        facts,
        secrets,
        hidden: own_tokens(),
        directories,
        timeout_ms: declaration.timeout_ms,
        batch: declaration.batch,
        ..Workspace::new(dir, log)
    })
}

/// A file of the project as an input.
fn source(root: &Path, path: &str, digest: Digest) -> InputFile {
    InputFile { path: path.to_string(), file: root.join(path), digest, is_source: true }
}

/// hfbuild's own tokens, which a program may come upon by itself (it has `HOME`).
fn own_tokens() -> Vec<String> {
    static TOKENS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    TOKENS.get_or_init(crate::exec::remote::own_tokens).clone()
}

/// The facts that a stage reads, and no others.
fn facts_read(
    graph: &Graph,
    declaration: &Declaration,
    settled: &[Option<Settled>],
) -> Result<BTreeMap<ArtifactName, FactSet>> {
    let mut facts: BTreeMap<ArtifactName, FactSet> = BTreeMap::new();
    for (artifact, read, _) in &declaration.facts {
        let set = fact_set(graph, artifact, settled)
            .ok_or_else(|| Error::bug(format!("facts of `{artifact}` are not known")))?;
        let kept = match set {
            FactSet::One(facts) => FactSet::One(read.keep(&facts)),
            FactSet::Family(shards) => FactSet::Family(shards.into_iter().map(|(k, f)| (k, read.keep(&f))).collect()),
        };
        facts.insert(artifact.clone(), kept);
    }
    Ok(facts)
}

/// Whether an artifact declares one file and made just that: then it is a file to its consumers, else a directory.
fn is_one_file(graph: &Graph, makers: &[NodeId], files: &[InputFile]) -> bool {
    if makers.len() != 1 {
        return false;
    }
    let declared = makers.first().and_then(|id| graph.stage(*id)).map(|d| &d.shape);
    match (declared, files) {
        (Some(Shape::File(_)), [_]) => true,
        (Some(Shape::Paths(paths)), [one]) => paths.len() == 1 && paths[0] == one.path,
        _ => false,
    }
}

fn made_files(makers: &[NodeId], settled: &[Option<Settled>], blobs: &Blobs) -> Vec<InputFile> {
    let receipts = makers.iter().filter_map(|id| match &settled[id.index()] {
        Some(Settled::Made(receipt)) => Some(receipt),
        _ => None,
    });
    let outputs = receipts.flat_map(|r| r.outputs.iter());
    let file = |o: &Output| InputFile {
        path: o.path.clone(),
        file: blobs.path(&o.digest),
        digest: o.digest,
        is_source: false,
    };
    outputs.map(file).collect()
}

/// Runs the stage, again where it fails and has retries left. No file is left in its work directory afterwards.
pub fn run(mut job: Job) -> (NodeId, Action, Digest, Result<Done>) {
    let mut pause = Duration::from_millis(500);
    let result = loop {
        let result = attempt(&mut job);
        job.workspace.empty();
        match &result {
            Err(e) if is_failure(e) && job.retries > 0 && job.workspace.cancel.stopped().is_none() => {
                job.retries -= 1;
                let _ = job.workspace.say(&format!("failed, {} retries left: {}", job.retries, e.message()));
                wait(pause, &job.workspace.cancel);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            _ => break result,
        }
    };
    (job.id, job.action, job.digest, result)
}

/// Whether another try may go better.
fn is_failure(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stage | ErrorKind::OutOfMemory)
}

/// Waits, unless the build is interrupted.
fn wait(pause: Duration, cancel: &Cancel) {
    let begun = Instant::now();
    while begun.elapsed() < pause && cancel.stopped().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attempt(job: &mut Job) -> Result<Done> {
    job.workspace.cancel.check()?; // it may have come during the pause before this try
    let begun = Instant::now();
    let before = blob_inputs(job)?;
    let out = job.workspace.out();
    job.workspace.renew(&folders(job))?;
    job.workspace.published = job.published;
    job.workspace.digested.clear();
    let kind = stage::kind(&job.action.kind)?;
    let facts = kind.run(&job.action, &mut job.workspace)?;
    job.workspace.cancel.check()?;
    for (name, path, before) in &job.sources {
        if Signature::of(path)? != *before {
            return Err(Error::stage(format!("`{name}` changed while it was being read, so the result is not kept"))
                .hint("run hfbuild again when the file is complete"));
        }
    }
    for ((name, path, digest), signature) in before {
        if Signature::of(&path)? != signature {
            job.blobs.discard(&digest);
            return Err(Error::stage(format!("input `{name}` was written to while the stage ran, so neither is kept"))
                .hint("inputs are for reading, for this stage and those beside it: copy what has to be changed"));
        }
    }
    let outputs = ingest(&out, job)?;
    check_shape(&outputs, &job.shape)?;
    let whole = whole(&outputs, job)?;
    let (copies, device) = (copies(&outputs, job), job.workspace.device.clone());
    Ok(Done { outputs, whole, copies, facts, device, seconds: begun.elapsed().as_secs_f64() })
}

/// What need not be read again to be published: a program may have left somebody behind who writes, hfbuild has not.
fn whole(outputs: &[Output], job: &Job) -> Result<Vec<(Digest, Signature)>> {
    if !job.published || job.action.kind == "command" {
        return Ok(vec![]);
    }
    let signed =
        |output: &Output| Ok(Signature::of(&job.blobs.path(&output.digest))?.map(|seen| (output.digest, seen)));
    outputs.iter().filter_map(|output| signed(output).transpose()).collect()
}

/// Copies outputs for places that are free or hold something of another size, beside other stages. One that fails is made
/// when the output is put there, and so is its error.
fn copies(outputs: &[Output], job: &Job) -> BTreeMap<String, PathBuf> {
    let (blobs, root) = (&job.blobs, &job.root);
    let copy = |place: &str, output: &Output| {
        let target = placed_path(place, &output.path);
        let there = std::fs::symlink_metadata(root.join(&target));
        match there.is_ok_and(|there| there.len() == output.size) {
            true => None, // it may be this very file
            false => Some((target, blobs.copy_aside(&output.digest).ok()?)),
        }
    };
    let of = |place: &String| match outputs {
        [output] => copy(place, output).into_iter().collect(),
        outputs => outputs.par_iter().filter_map(|output| copy(place, output)).collect::<Vec<_>>(),
    };
    job.places.iter().flat_map(of).collect()
}

/// The folders that a stage finds in its work directory.
fn folders(job: &Job) -> BTreeSet<PathBuf> {
    let (work, out) = (job.workspace.dir.join("work"), job.workspace.out());
    let mut deepest = vec![out.clone()];
    let inputs = job.action.inputs.values().filter_map(|input| input.path.as_ref());
    deepest.extend(inputs.filter_map(|path| Some(work.join(path).parent()?.to_path_buf())));
    if let Shape::Paths(paths) = &job.shape {
        for base in [&work, &out] {
            deepest.extend(paths.iter().filter_map(|path| Some(base.join(path).parent()?.to_path_buf())));
        }
    }
    let up_to = |folder: PathBuf| {
        let dir = job.workspace.dir.clone();
        folder.ancestors().take_while(move |f| *f != dir).map(Path::to_path_buf).collect::<Vec<_>>()
    };
    deepest.into_iter().flat_map(up_to).collect()
}

/// Inputs that are blobs of the store, with their stat: to see whether a program (run as root, say) wrote to one.
#[allow(clippy::type_complexity)]
fn blob_inputs(job: &Job) -> Result<Vec<((String, PathBuf, Digest), Option<Signature>)>> {
    let files = job.workspace.inputs.values().flatten();
    let blobs = files.filter(|f| f.file == job.blobs.path(&f.digest));
    blobs.map(|f| Ok(((f.path.clone(), f.file.clone(), f.digest), Signature::of(&f.file)?))).collect()
}

/// Digests every output in one read, where its stage did not as it wrote it, and takes it into the store.
fn ingest(out: &Path, job: &Job) -> Result<Vec<Output>> {
    let files: Vec<(PathBuf, String)> = match only_files(out, &job.shape) {
        Some(files) => files.iter().map(|path| (out.join(path), path.clone())).collect(),
        None => walk(out, job.published)?,
    };
    let (blobs, published) = (&job.blobs, job.published);
    // one file is not worth a thread of another pool
    let (digested, taken_over) = (&job.workspace.digested, job.action.kind == "files");
    let one = |(file, path): &(PathBuf, String)| {
        let known = digested.get(path).filter(|_| published);
        // what was taken over from a source rests on its stat; what a stage digested as it wrote it, on the bytes
        let known = match known.filter(|_| taken_over) {
            Some(known) => held(known, file)?,
            None => known,
        };
        take(file, path, blobs, published, known)
    };
    let mut outputs: Vec<Output> = match &files[..] {
        [file] => vec![one(file)?],
        files => files.par_iter().map(one).collect::<Result<_>>()?,
    };
    outputs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(outputs)
}

/// The outputs of a stage that declares files and no folder, told without looking through folders: a command's `out/` holds
/// what it declares and nothing else.
fn only_files<'s>(out: &Path, shape: &'s Shape) -> Option<&'s [String]> {
    let Shape::Paths(paths) = shape else { return None };
    let is_file = |path: &String| std::fs::symlink_metadata(out.join(path)).is_ok_and(|m| m.is_file());
    paths.iter().all(is_file).then_some(paths)
}

/// All files below a folder, and their paths in it.
fn walk(out: &Path, published: bool) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(out).sort_by_file_name().follow_links(false) {
        let entry = entry.map_err(|e| Error::stage("cannot list the stage's outputs").cause(e.to_string()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let relative = entry.path().strip_prefix(out).unwrap_or(entry.path());
        let path =
            relative.to_str().ok_or_else(|| Error::stage(format!("output `{}` is no UTF-8", relative.display())))?;
        if path.chars().any(char::is_control) {
            return Err(Error::stage(format!("output `{}` holds control characters in its name", path.escape_debug())));
        }
        if published && path.contains('\\') {
            return Err(Error::stage(format!("output `{path}` holds a backslash in its name, and is to be published"))
                .hint("no repository takes such a path: let the program write `/`, or another sign"));
        }
        // `a:b` is a path on another drive to Python's client, which then downloads nothing of the whole repository
        let drive =
            |part: &str| part.as_bytes().get(1) == Some(&b':') && part.starts_with(|c: char| c.is_ascii_alphabetic());
        if published && path.split('/').any(drive) {
            return Err(Error::stage(format!(
                "output `{path}` has a name that begins as a drive's, and is to be published"
            ))
            .hint(
                "Python's client downloads no repository with such a path: let the program write another sign for `:`",
            ));
        }
        if !entry.file_type().is_file() {
            return Err(Error::stage(format!("output `{path}` is no regular file"))
                .hint("an output holds its content itself: copy what a link points to"));
        }
        let path = path.to_string();
        files.push((entry.into_path(), path));
    }
    Ok(files)
}

/// Digests that were known of a source, if its copy has the content that they are of: a program that has a file mapped can
/// change it without its stat. BLAKE3 tells, which costs the least.
fn held<'k>(known: &'k FileDigests, copy: &Path) -> Result<Option<&'k FileDigests>> {
    Ok((hash::blake3_of(copy)? == known.digest).then_some(known))
}

/// `known`: what the stage that wrote the file says of it. It is believed where it says all and the size is right.
fn take(file: &Path, path: &str, blobs: &Blobs, published: bool, known: Option<&FileDigests>) -> Result<Output> {
    let size = std::fs::metadata(file).on("stat", file)?.len();
    let output = if published {
        let read = match known {
            Some(known) if known.size == size => known.clone(),
            _ => hash::all_of(file)?,
        };
        Output { path: path.into(), size: read.size, digest: read.digest, hub: Some(read.hub) }
    } else {
        Output { path: path.into(), size, digest: hash::blake3_of(file)?, hub: None }
    };
    blobs.take(file, &output.digest)?;
    Ok(output)
}

/// Whether the stage made what it declared: partial is never success.
fn check_shape(outputs: &[Output], shape: &Shape) -> Result<()> {
    let has = |path: &str| {
        outputs.iter().any(|o| o.path == path || o.path.starts_with(&format!("{}/", path.trim_end_matches('/'))))
    };
    let lacking = match shape {
        Shape::File(name) => (outputs.len() != 1 || !has(name)).then(|| name.clone()),
        Shape::Dir => outputs.is_empty().then(|| "any file".to_string()),
        Shape::Paths(paths) => paths.iter().find(|p| !has(p)).cloned(),
    };
    match lacking {
        None => Ok(()),
        Some(what) => Err(Error::stage(format!("the stage ended well but did not make `{what}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_a_source_are_not_taken_over_for_a_copy_of_other_content() {
        let dir = tempfile::tempdir().unwrap();
        let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
        std::fs::write(&source, "as it was").unwrap();
        let known = hash::all_of(&source).unwrap();
        std::fs::copy(&source, &copy).unwrap();
        assert_eq!(held(&known, &copy).unwrap(), Some(&known));
        std::fs::write(&copy, "as it is!").unwrap();
        assert_eq!(held(&known, &copy).unwrap(), None);
    }
}
