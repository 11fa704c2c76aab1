//! What the evaluating stages share: pictures by label out of a directory of samples, and the one graph of an input.
//!
//! Knows how `samples` names its files (`LABEL/K.png`, a grid `LABEL.png`). Measures nothing.

use super::sessions::{Key, Lent};
use super::{Workspace, runtimes};
use crate::core::action::Action;
use crate::core::digest::{Canonical, Digest};
use crate::core::error::{Error, OnPath, Result};
use crate::core::runtime::DeviceKind;
use crate::model::runtime::Session;
use crate::model::sample::{Picture, read_png};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The pictures of one label: the folder's name, and each with its path, in the order of their paths.
pub type Labelled = BTreeMap<String, Vec<(String, Picture)>>;

/// Reads every `FOLDER/NAME.png` of an input, and gives the digest over all of them. Files at the top are grids, and are
/// left out.
///
/// # Errors
/// A file in a folder that is no PNG, a folder in a folder, no pictures.
pub fn pictures(workspace: &Workspace, role: &str) -> Result<(Labelled, Digest)> {
    let mut files: Vec<_> = workspace.inputs.get(role).into_iter().flatten().collect();
    files.sort_by_key(|file| number_aware(&file.path));
    let mut out = Labelled::new();
    let mut all = Canonical::new("hfbuild pictures by label 1");
    for file in files {
        let Some((folder, name)) = file.path.rsplit_once('/') else { continue };
        let label = folder.rsplit('/').next().unwrap_or(folder);
        if !name.to_lowercase().ends_with(".png") {
            return Err(Error::stage(format!("`{}` is no PNG, and stands among the samples", file.path)));
        }
        let bytes = std::fs::read(&file.file).on("read", &file.file)?;
        let picture = read_png(&bytes).map_err(|e| e.within(&format!("`{}`", file.path)))?;
        all.text(&file.path).digest(&file.digest);
        out.entry(label.to_string()).or_default().push((file.path.clone(), picture));
        workspace.cancel.check()?;
    }
    match out.is_empty() {
        true => Err(Error::stage("there are no pictures").hint("they are expected as `LABEL/NAME.png`")),
        false => Ok((out, all.finish())),
    }
}

/// Sorts `10.png` after `9.png`.
fn number_aware(path: &str) -> (String, u64, String) {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let number = name.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    (folder.to_string(), number, name.to_string())
}

/// A graph that can be opened, and the digest of its file.
pub struct Graph {
    /// Where it stands.
    pub file: PathBuf,
    /// Its path within the artifact or the project.
    pub path: String,
    /// BLAKE3 of the model file, without external data.
    pub digest: Digest,
}

/// The one ONNX graph of an input. Where the input has external data too, all of it is copied into one folder under its
/// own names, for a graph finds its data by them, and rten follows no links there.
///
/// # Errors
/// No `.onnx` file among several, or two of them.
pub fn graph(workspace: &Workspace, role: &str) -> Result<Graph> {
    let files = workspace.inputs.get(role).map(Vec::as_slice).unwrap_or_default();
    if let [one] = files {
        return Ok(Graph { file: one.file.clone(), path: one.path.clone(), digest: one.digest });
    }
    let graphs: Vec<_> = files.iter().filter(|f| f.path.to_lowercase().ends_with(".onnx")).collect();
    let [graph] = graphs[..] else {
        return Err(Error::stage(format!("input `{role}` has {} files called `.onnx`, expected one", graphs.len())));
    };
    let folder = workspace.dir.join(role);
    for file in files {
        let place = folder.join(&file.path);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).on("create", parent)?;
        }
        reflink_copy::reflink_or_copy(&file.file, &place).on("copy", &file.file)?;
    }
    Ok(Graph { file: folder.join(&graph.path), path: graph.path.clone(), digest: graph.digest })
}

/// A session of the graph of an input, on the runtime and device that the stage gets: one that another stage of this build
/// has loaded, or a new one. The log says which, and the receipt what it runs on.
///
/// # Errors
/// What the manifest names cannot be had on this machine, or the graph cannot be loaded.
pub fn lend(workspace: &mut Workspace, action: &Action, role: &str, file: &Path) -> Result<Lent> {
    let runtime = runtimes::runtime(action, workspace, None)?;
    let name = format!("{} {}", runtime.name(), runtime.version());
    let place = runtimes::place(action, workspace)?;
    lend_by(workspace, action, role, [name, place], || runtime.open(file))
}

/// The same of what `open` loads. `by`: the runtime with its version, and the device.
///
/// # Errors
/// Those of `open`.
pub fn lend_by(
    workspace: &mut Workspace,
    action: &Action,
    role: &str,
    by: [String; 2],
    open: impl FnOnce() -> Result<Box<dyn Session>>,
) -> Result<Lent> {
    let input = action.inputs.get(role).ok_or_else(|| Error::bug(format!("the action lacks its input `{role}`")))?;
    let [runtime, device] = by;
    let key = Key { graph: input.digest, runtime, device, threads: None };
    let begun = Instant::now();
    let mut lent = workspace.sessions.open(key, open)?;
    let used = lent.session()?.used();
    if let Some(why) = used.instead.as_ref().filter(|_| !lent.again) {
        workspace.say(why)?;
        (workspace.tell)(why.clone());
    }
    workspace.device = Some(used.with_reason());
    // on the CPU the same bytes hold for the same number of threads, and for the same instructions
    lent.by = match used.device {
        DeviceKind::Cpu => format!("{used}, {} threads of {}", cores(), cpu()),
        DeviceKind::Cuda => used.to_string(),
    };
    workspace.say(&match lent.again {
        true => format!("the graph is loaded already: {}", lent.by),
        false => format!("loaded the graph in {:.2} s: {}", begun.elapsed().as_secs_f64(), lent.by),
    })?;
    Ok(lent)
}

/// Threads that this machine runs at once, as far as this process may use them.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The processor's name, as the kernel says it.
pub fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    named.map_or_else(|| format!("{} cpu", std::env::consts::ARCH), |(_, name)| name.trim().to_string())
}
