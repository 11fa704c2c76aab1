//! Looking for what must not be published, in what is about to be: before the first stage in all that is known by then, and
//! before the first byte is sent in all that would be sent.
//!
//! Content that was judged once is not read again while the rules are the same. Knows files and the memo; what a finding is
//! [`crate::stage::leaks`] says, and what may pass [`crate::core::leaks`].

use crate::core::action::InputFrom;
use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::graph::{NodeId, placed_path, repo_place};
use crate::core::leaks::{Allowed, Findings, LFS_POINTER, PICKLE, STRAY_FILE, say};
use crate::core::name::RelPath;
use crate::core::plan::{self, Plan, World};
use crate::exec::project::Project;
use crate::exec::remote::own_tokens;
use crate::stage::leaks;
use crate::store::Store;
use crate::store::memo::Memo;
use rayon::prelude::*;
use std::io::Write;
use std::path::PathBuf;

/// A file that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Path in the repo.
    pub path: String,
    /// BLAKE3.
    pub digest: Digest,
    /// Where it can be read.
    pub file: PathBuf,
}

/// Searches the files that were not judged yet, and says what is to be said of all of them.
///
/// # Errors
/// A file cannot be read, or the manifest lets a rule pass that there is not.
pub fn search(files: &[Candidate], allowed: &Allowed, memo: &mut Memo) -> Result<Findings> {
    check_rules(allowed)?;
    let version = leaks::version()?;
    // a rule may be for files of some names only
    let judged = |path: &str| format!("{version}, {}", path.rsplit('/').next().unwrap_or(path));
    let unknown: Vec<_> = files.iter().filter(|f| memo.leaks(f.digest, &judged(&f.path)).is_none()).collect();
    let found: Vec<_> = unknown.par_iter().map(|f| leaks::in_content(&f.path, &f.file)).collect::<Result<_>>()?;
    for (file, found) in unknown.into_iter().zip(found) {
        memo.remember_leaks(file.digest, judged(&file.path), found);
    }
    let mut findings = Findings::default();
    for file in files {
        findings.add(&file.path, leaks::by_name(&file.path).into_iter().collect(), allowed);
        findings.add(&file.path, memo.leaks(file.digest, &judged(&file.path)).cloned().unwrap_or_default(), allowed);
    }
    Ok(findings)
}

/// Adds the files that hold a token of this very call. They are read each time: what was found would have to be kept under
/// the token.
///
/// # Errors
/// A file cannot be read.
pub fn add_own_tokens(files: &[Candidate], findings: &mut Findings) -> Result<()> {
    let Some(own) = leaks::OwnTokens::of(&own_tokens()) else { return Ok(()) };
    let found: Vec<_> = files.par_iter().map(|f| own.in_file(&f.file)).collect::<Result<_>>()?;
    for (file, found) in files.iter().zip(found) {
        findings.add(&file.path, found.into_iter().collect(), &Allowed::new());
    }
    Ok(())
}

/// Why a text of `path` is not to be shown: a secret or a token of hfbuild's own that it holds, in words.
///
/// # Errors
/// No temporary file can be written.
pub fn not_to_be_shown(path: &str, text: &str) -> Result<Option<String>> {
    let mut file = tempfile::NamedTempFile::new().on("make", std::env::temp_dir())?;
    let at = file.path().to_path_buf();
    file.write_all(text.as_bytes()).on("write", &at)?;
    let mut found: Vec<_> = leaks::by_name(path).into_iter().chain(leaks::in_content(path, &at)?).collect();
    found.retain(|finding| ![STRAY_FILE, LFS_POINTER, PICKLE].contains(&finding.rule.as_str()));
    if let Some(own) = leaks::OwnTokens::of(&own_tokens()) {
        found.extend(own.in_file(&at)?);
    }
    Ok(found.first().map(|finding| say(path, finding)))
}

fn check_rules(allowed: &Allowed) -> Result<()> {
    match allowed.iter().find_map(|(path, rules)| Some((path, rules.iter().find(|rule| !leaks::is_rule(rule))?))) {
        None => Ok(()),
        Some((path, rule)) => Err(Error::new(
            ErrorKind::Manifest,
            format!(
                "[hub.allow_findings] names the rule `{}` for `{path}`, and there is none of that name",
                rule.escape_debug()
            ),
        )
        .hint("write the rule's name as the refusal says it")),
    }
}

/// The files of a publish that are known before anything runs: what is made and in the store, and the project's own files
/// that are published as they are. Of one that is not wanted, none.
pub fn known(project: &Project, store: &Store, plan: &Plan, world: &World, id: NodeId) -> Vec<Candidate> {
    let (graph, blobs) = (&project.graph, store.blobs());
    let wanted = plan.decisions[id.index()].is_some();
    let Some(upload) = graph.upload(id).filter(|_| wanted) else { return vec![] };
    let made = plan::tree_of(graph, upload, &plan.settled, world).into_iter().map(|(path, file)| Candidate {
        path,
        digest: file.digest,
        file: blobs.path(&file.digest),
    });
    let mut out: Vec<Candidate> = made.filter(|candidate| candidate.file.exists()).collect();
    for (path, _, artifact, _) in &upload.files {
        let waiting = graph.of(artifact).iter().filter(|dep| plan.settled[dep.index()].is_none());
        for declaration in waiting.filter_map(|dep| graph.stage(*dep)).filter(|d| d.kind == "files") {
            let place = repo_place(&declaration.shape, path);
            let sources = declaration.inputs.iter().filter_map(|input| match &input.from {
                InputFrom::File(source) => Some((source, world.sources.get(source.as_str()).copied().flatten()?)),
                _ => None,
            });
            let candidate = |(source, digest): (&RelPath, Digest)| Candidate {
                path: placed_path(&place, source.file_name()),
                digest,
                file: project.root.join(source.as_str()),
            };
            out.extend(sources.map(candidate));
        }
    }
    out
}
