//! A project on disk: where its root is, and its manifest read into a graph.
//!
//! Reads the manifest and the templates; nothing else.

use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::graph::{self, Graph};
use crate::core::manifest::dom::Source;
use crate::core::manifest::overlay::Settings;
use crate::core::manifest::{self, Hub, Manifest};
use crate::core::targets;
use crate::core::wiring;
use crate::hub::{RepoId, RepoKind};
use crate::stage::{self, Texts};
use std::path::{Path, PathBuf};

/// The manifest's name.
pub const MANIFEST: &str = "publish.toml";
/// A manifest beyond this is a mistake; one of 100,000 tables is a fifth of it.
const MANIFEST_LIMIT: u64 = 256 << 20;
/// A template beyond this is a mistake.
const TEMPLATE_LIMIT: u64 = 16 << 20;

/// A project.
#[derive(Debug)]
pub struct Project {
    /// Its root.
    pub root: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// The graph.
    pub graph: Graph,
}

impl Project {
    /// Opens the project in `dir`, which holds `publish.toml`, with these settings laid over the manifest.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Project> {
        let root = dir.canonicalize().map_err(|e| Error::io("open", dir, &e).with_kind(ErrorKind::Usage))?;
        let source = Source { file: MANIFEST.into(), text: read_manifest(&root)?.into() };
        let manifest = manifest::read(source, settings, &stage::infos())?;
        manifest.hub.iter().try_for_each(|hub| check_repo(&manifest, hub))?;
        let texts: Texts = stage::texts_wanted(&manifest)
            .into_iter()
            .map(|p| (p.to_string(), read_template(&root, p.as_str())))
            .collect();
        let told = |error| manifest.overlay.told(&manifest.source, error);
        let graph = graph::build(stage::parts(&manifest, &texts).map_err(told)?, &manifest.source)?;
        graph.uploads().try_for_each(|(_, upload)| check_repo(&manifest, &upload.to))?;
        targets::check(&graph, &manifest.source)?;
        wiring::check(&graph, &manifest.source)?;
        Ok(Project { root, manifest, graph })
    }
}

/// The repos' names by the Hub's own rules.
fn check_repo(manifest: &Manifest, hub: &Hub) -> Result<()> {
    let Some(kind) = RepoKind::from_word(&hub.kind) else { return Ok(()) };
    let place = || manifest.source.place(hub.repo_span.clone());
    RepoId::new(kind, &hub.repo).map(drop).map_err(|e| e.with_kind(ErrorKind::Manifest).at(place()))
}

/// The JSON Schema of the manifest.
pub fn schema() -> serde_json::Value {
    manifest::schema(&stage::infos())
}

fn read_manifest(root: &Path) -> Result<String> {
    let path = root.join(MANIFEST);
    let wrong = |message: String| Error::new(ErrorKind::Manifest, message);
    let size = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(wrong(format!("`{MANIFEST}` is no file"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::Usage, format!("there is no `{MANIFEST}` in `{}`", root.display()))
                .hint("run hfbuild in the project's root, or name it with `-C DIR`"));
        }
        Err(e) => return Err(Error::io("read", &path, &e)),
    };
    if size > MANIFEST_LIMIT {
        return Err(wrong(format!("`{MANIFEST}` has {size} bytes, and {MANIFEST_LIMIT} is the most that is read")));
    }
    let bytes = std::fs::read(&path).on("read", &path)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        wrong(format!("`{MANIFEST}` is no UTF-8 text: line {line}, byte {at}"))
    })
}

/// The text of a template; what is wrong with it is reported where inputs are observed.
fn read_template(root: &Path, path: &str) -> Option<String> {
    let path = root.join(path);
    let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
    if size > TEMPLATE_LIMIT {
        return None;
    }
    String::from_utf8(std::fs::read(&path).ok()?).ok()
}
