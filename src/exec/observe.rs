//! Observing the world before planning: digests of sources, what stands at the places of outputs, declared environment,
//! tools. Effects only; decides nothing.

use crate::core::action::{Declaration, InputFrom};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::graph::{Graph, Work, placed_path};
use crate::core::manifest::Manifest;
use crate::core::manifest::dom::join;
use crate::core::name::nearest;
use crate::core::plan::World;
use crate::core::receipt::History;
use crate::core::value::Value;
use crate::exec::matched;
use crate::exec::project::Project;
use crate::store::memo::Memo;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The fingerprint of a tool that is not there.
const NOT_THERE: &str = "not there";

/// Observes everything that the wanted nodes depend on, but for the remote.
pub fn observe(project: &Project, wanted: &[bool], history: &History, memo: &mut Memo) -> Result<World> {
    let mut world = settings(&project.manifest);
    sources(project, wanted, memo, &mut world)?;
    placed(project, wanted, history, memo, &mut world)?;
    environment(project, wanted, memo, &mut world)?;
    world.hub_digests = memo.hub_digests().clone();
    Ok(world)
}

fn settings(manifest: &Manifest) -> World {
    let declared = manifest.declared.iter().map(|(k, d)| {
        let entry =
            BTreeMap::from([("value".to_string(), d.value.clone()), ("source".to_string(), d.source.as_str().into())]);
        (k.clone(), Value::Map(entry))
    });
    let p = &manifest.project;
    World {
        params: manifest.params.clone(),
        declared: declared.collect(),
        project: [("name", &p.name), ("version", &p.version), ("license", &p.license)]
            .map(|(k, v)| (k.to_string(), v.as_str().into()))
            .into(),
        ..World::default()
    }
}

/// Digests of source files; one that is missing, or is no file, is an error at its place in the manifest.
fn sources(project: &Project, wanted: &[bool], memo: &mut Memo, world: &mut World) -> Result<()> {
    let mut problems = Vec::new();
    let mut plain = HashSet::new();
    let named = named(project, wanted);
    let told = memo.learn(&project.root, &named)?;
    for id in project.graph.ids().filter(|id| wanted[id.index()]) {
        let Some(declaration) = project.graph.stage(id) else { continue };
        for input in &declaration.inputs {
            if let InputFrom::Files(pattern) = &input.from
                && !world.matched.contains_key(pattern.as_str())
            {
                let found = matched::digests(project, pattern, memo, world)
                    .map_err(|e| e.at(project.manifest.source.place(input.span.clone())))?;
                world.matched.insert(pattern.to_string(), found);
            }
        }
        let named = declaration.inputs.iter().filter_map(|i| match &i.from {
            InputFrom::File(path) => Some((path.as_str(), i.span.clone())),
            _ => None,
        });
        for (path, span) in named {
            if world.sources.contains_key(path) {
                continue;
            }
            if leaves(&project.root, path, &mut plain) {
                let error = project.manifest.source.error(
                    span.clone(),
                    format!("`{path}` is a symbolic link that leaves the project, or lies behind one"),
                );
                problems.push(error.hint("copy the file into the project"));
            }
            let digest = told.get(path).copied();
            world.sources.insert(path.into(), digest);
            if digest.is_none() {
                problems.push(missing(project, &project.graph.node(id).name.artifact.to_string(), path, span));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

/// The source files that stages name, each once, and whether it is published as it is, so that its digests for the Hub will
/// be wanted too.
fn named<'p>(project: &'p Project, wanted: &[bool]) -> Vec<(&'p str, bool)> {
    let graph = &project.graph;
    let mut named: HashMap<&str, bool> = HashMap::new();
    let mut order = vec![];
    for id in graph.ids().filter(|id| wanted[id.index()]) {
        let Some(declaration) = graph.stage(id) else { continue };
        let goes_out = graph.node(id).published && declaration.kind == "files";
        for input in &declaration.inputs {
            let InputFrom::File(path) = &input.from else { continue };
            let known = named.entry(path.as_str()).or_insert_with(|| {
                order.push(path.as_str());
                false
            });
            *known |= goes_out;
        }
    }
    order.into_iter().map(|path| (path, named[path])).collect()
}

/// Whether a path leads out of the project by a symbolic link. `plain` are folders that are known to be none.
fn leaves(root: &Path, path: &str, plain: &mut HashSet<PathBuf>) -> bool {
    let mut at = root.to_path_buf();
    for part in Path::new(path).components() {
        at.push(part);
        if plain.contains(&at) {
            continue;
        }
        match std::fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => {
                return root.join(path).canonicalize().is_ok_and(|real| !real.starts_with(root));
            }
            Ok(meta) if meta.is_dir() => drop(plain.insert(at.clone())),
            _ => {}
        }
    }
    false
}

/// Every source file that a stage reads.
pub fn source_paths(declaration: &Declaration, world: &World) -> Vec<String> {
    let mut out = Vec::new();
    for input in &declaration.inputs {
        match &input.from {
            InputFrom::File(path) => out.push(path.to_string()),
            InputFrom::Files(pattern) => {
                out.extend(world.matched.get(pattern.as_str()).into_iter().flat_map(|m| m.keys().cloned()));
            }
            InputFrom::Artifact(_) | InputFrom::Shard(_) => {}
        }
    }
    out
}

fn missing(project: &Project, artifact: &str, path: &str, span: std::ops::Range<usize>) -> Error {
    let full = project.root.join(path);
    let source = &project.manifest.source;
    if full.is_dir() {
        return source
            .error(span, format!("artifact `{artifact}` reads `{path}`, which is a directory"))
            .hint(format!("a command takes all that is in it as `\"{path}/\"`"));
    }
    if std::fs::symlink_metadata(&full).is_ok() {
        return source
            .error(span, format!("artifact `{artifact}` reads `{path}`, which is no regular file"))
            .hint("a symbolic link has to lead to a file; pipes and devices have no content to tell by");
    }
    let error =
        source.error(span, format!("artifact `{artifact}` reads `{path}`, which nothing makes and is not there"));
    let makers = project.graph.ids().flat_map(|id| {
        let node = project.graph.node(id);
        node.places.iter().filter(|p| !p.is_empty()).map(move |p| (p.clone(), node.name.artifact.to_string()))
    });
    let mut known: BTreeMap<String, String> =
        makers.map(|(place, maker)| (place, format!("artifact `{maker}`"))).collect();
    for entry in full.parent().and_then(|d| std::fs::read_dir(d).ok()).into_iter().flatten().flatten() {
        if let Ok(relative) = entry.path().strip_prefix(&project.root) {
            known.insert(relative.display().to_string(), String::new());
        }
    }
    match nearest(path, known.keys().map(String::as_str)) {
        Some(near) if known[near].is_empty() => error.hint(format!("did you mean `{near}`?")),
        Some(near) => error.hint(format!("{} makes `{near}`: name the artifact", known[near])),
        None => error.hint("paths are relative to the project's root"),
    }
}

/// What stands at every place where some receipt of a wanted node would put an output.
fn placed(project: &Project, wanted: &[bool], history: &History, memo: &mut Memo, world: &mut World) -> Result<()> {
    let graph = &project.graph;
    let mut by_node: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for receipt in history.all() {
        let paths = receipt.outputs.iter().map(|o| o.path.as_str());
        by_node.entry(receipt.node.to_string()).or_default().extend(paths);
    }
    for id in graph.ids().filter(|id| wanted[id.index()]) {
        let node = graph.node(id);
        if node.places.is_empty() {
            continue;
        }
        let Some(paths) = by_node.get(&node.name.to_string()) else { continue };
        for place in node.places.iter().flat_map(|p| paths.iter().map(move |path| placed_path(p, path))) {
            observe_place(&project.root, &place, memo, world)?;
        }
    }
    Ok(())
}

/// Looks at one place; a symbolic link there counts as nothing, for hfbuild never puts one.
pub fn observe_place(root: &Path, place: &str, memo: &mut Memo, world: &mut World) -> Result<()> {
    if world.placed.contains_key(place) || std::fs::symlink_metadata(root.join(place)).is_ok_and(|m| m.is_symlink()) {
        return Ok(());
    }
    if let Some(digest) = memo.digest(root, place)? {
        world.placed.insert(place.into(), digest);
    }
    Ok(())
}

fn environment(project: &Project, wanted: &[bool], memo: &mut Memo, world: &mut World) -> Result<()> {
    for id in project.graph.ids().filter(|id| wanted[id.index()]) {
        let Some(declaration) = project.graph.stage(id) else { continue };
        let span = project.graph.node(id).span.clone();
        let artifact = &project.graph.node(id).name.artifact;
        for name in &declaration.env {
            let value = match std::env::var(name) {
                Ok(value) => Some(value),
                Err(std::env::VarError::NotPresent) => None,
                Err(std::env::VarError::NotUnicode(_)) => {
                    let what = format!("artifact `{artifact}` declares `{name}`, whose value is no UTF-8");
                    return Err(project.manifest.source.error(span, what).hint("a receipt keeps it as text"));
                }
            };
            world.env.insert(name.clone(), value);
        }
        for tool in &declaration.tools {
            if !world.tools.contains_key(tool) {
                let print = fingerprint(&project.root, tool, memo)?.unwrap_or_else(|| NOT_THERE.into());
                world.tools.insert(tool.clone(), print);
            }
        }
    }
    Ok(())
}

/// Refuses, before anything runs, what needs a tool that is not there. `status` and `explain` say it in their own words.
pub fn check_tools(project: &Project, wanted: &[bool], world: &World) -> Result<()> {
    for id in project.graph.ids().filter(|id| wanted[id.index()]) {
        let Some(declaration) = project.graph.stage(id).filter(|d| !d.frozen) else { continue };
        let missing = declaration.tools.iter().find(|tool| world.tools.get(*tool).is_some_and(|p| p == NOT_THERE));
        if let Some(tool) = missing {
            let node = project.graph.node(id);
            let what = format!("artifact `{}` needs the tool `{tool}`, which is not there", node.name.artifact);
            let hint = match tool.starts_with("pip:") {
                true => "install it in the active Python environment",
                false => "it is looked for on the PATH",
            };
            return Err(project.manifest.source.error(node.span.clone(), what).hint(hint));
        }
    }
    Ok(())
}

/// A tool's fingerprint, without starting a process: of a program the digest of its file, of `pip:NAME` the version in
/// the metadata of the package beside the `python` on the PATH.
fn fingerprint(root: &Path, tool: &str, memo: &mut Memo) -> Result<Option<String>> {
    if let Some(package) = tool.strip_prefix("pip:") {
        return Ok(pip_version(root, package).map(|v| format!("{package} {v}")));
    }
    let Some(path) = on_path(root, tool) else { return Ok(None) };
    let real = path.canonicalize().unwrap_or(path);
    let digest: Option<Digest> = memo.digest_as(&real, &format!("tool:{}", real.display()))?;
    Ok(digest.map(|d| format!("{} {}", real.file_name().unwrap_or_default().to_string_lossy(), d.short())))
}

/// Where a program is: relative to the project's root where it has a slash, else on the PATH.
pub fn on_path(root: &Path, program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(root.join(program)).filter(|p| p.is_file());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(program)).find(|p| p.is_file())
}

fn pip_version(root: &Path, package: &str) -> Option<String> {
    let wanted = package.replace('-', "_").to_lowercase();
    let python = on_path(root, "python").or_else(|| on_path(root, "python3"))?;
    // both the environment that the link stands in and the installation that it leads to
    let prefixes = [Some(python.clone()), python.canonicalize().ok()];
    let prefixes = prefixes.into_iter().flatten().filter_map(|p| Some(p.parent()?.parent()?.to_path_buf()));
    for lib in prefixes.flat_map(|p| [p.join("lib"), p.join("local/lib")]) {
        for version in std::fs::read_dir(lib).into_iter().flatten().flatten() {
            for packages in ["site-packages", "dist-packages"] {
                for entry in std::fs::read_dir(version.path().join(packages)).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().to_lowercase();
                    let found = name.strip_suffix(".dist-info").and_then(|n| n.split_once('-'));
                    if let Some((_, version)) = found.filter(|(n, _)| n.replace('-', "_") == wanted) {
                        return Some(version.to_string());
                    }
                }
            }
        }
    }
    None
}

/// Whether any wanted node is a publish.
pub fn has_upload(graph: &Graph, wanted: &[bool]) -> bool {
    graph.ids().any(|id| wanted[id.index()] && matches!(graph.node(id).work, Work::Upload(_)))
}
