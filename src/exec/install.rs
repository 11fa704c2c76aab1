//! Putting a runtime in place: pip of a Python that is there fetches wheels whose versions and digests are pinned here.
//!
//! Starts pip and moves folders; which runtime is used is decided elsewhere.

use crate::core::error::{Error, OnPath, Result};
use crate::exec::observe::on_path;
use crate::stage::guard::{self, Guard};
use crate::stage::in_folder;
use crate::store::Store;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned wheels, as pip reads them.
const CPU: &str = include_str!("onnxruntime.txt");
/// The same for CUDA.
const GPU: &str = include_str!("onnxruntime-gpu.txt");
/// The list that a folder was made from, kept in it.
const STAMP: &str = "hfbuild-requirements.txt";

/// What of pip's settings in the environment would put the wheels elsewhere, or nowhere.
const ASTRAY: [&str; 6] = ["PIP_DRY_RUN", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"];

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Installed {
    /// The package and its version, `onnxruntime 1.32.0`.
    pub what: String,
    /// Where it is.
    pub folder: PathBuf,
    /// Whether it was there already.
    pub before: bool,
}

/// The first pin of a list: `onnxruntime 1.32.0`.
fn pinned(list: &str) -> String {
    let line = list.lines().find(|line| line.contains("==")).unwrap_or_default();
    line.trim_end_matches('\\').trim().replace("==", " ")
}

/// Puts onnxruntime under the store's folder for runtimes, in place of another one there. What is half done is never seen.
///
/// # Errors
/// There is no Python or no pip, pip fails (its last lines are the cause), the folder cannot be written.
pub fn onnxruntime(store: &Store, gpu: bool) -> Result<Installed> {
    let list = if gpu { GPU } else { CPU };
    let (root, what) = (store.runtimes(), pinned(list));
    let folder = root.join("onnxruntime");
    let stamped = std::fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp == list);
    if stamped && in_folder(&folder).is_ok() {
        return Ok(Installed { what, folder, before: true });
    }
    let python = python()?;
    std::fs::create_dir_all(&root).on("create", &root)?;
    let lock = std::fs::File::open(&root).on("open", &root)?;
    lock.lock().on("lock", &root)?; // one at a time, and what is half done there is nobody's
    sweep(&root);
    let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&root).on("create a folder in", &root)?;
    let stamp = new.path().join(STAMP);
    std::fs::write(&stamp, list).on("write", &stamp)?;
    let mut guard = guard(&root, &lock);
    pip(&python, &stamp, new.path(), &what, &mut guard)?;
    in_folder(new.path()).map_err(|why| {
        Error::stage(format!("pip ended well and installed no {what} that can be used: {why}"))
            .hint(format!("see pip's own settings (`python3 -m pip config list`), {OTHERWISE}"))
    })?;
    let old = tempfile::Builder::new().prefix(".old-").tempdir_in(&root).on("create a folder in", &root)?;
    if folder.exists() {
        std::fs::rename(&folder, old.path().join("onnxruntime")).on("set aside", &folder)?;
    }
    let new = new.keep();
    std::fs::rename(&new, &folder).on("rename to", &folder)?;
    Ok(Installed { what, folder, before: false })
}

/// What ends pip where hfbuild is killed, and keeps the lock until then.
fn guard(root: &Path, lock: &std::fs::File) -> Option<Guard> {
    let hfbuild = std::env::current_exe().ok()?;
    Guard::start(guard::Wanted { hfbuild, work: root.to_path_buf(), lock: lock.try_clone().ok()? }).ok()
}

/// Takes away what an installation that was killed left.
fn sweep(root: &Path) {
    let is_left = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(".new-") || name.starts_with(".old-"))
    };
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten().filter(is_left) {
        let _ = std::fs::remove_dir_all(entry.path()); // it is in nobody's way, but for its size
    }
}

/// Takes it away, with what an installation that was killed may have left. `false`: nothing was there.
///
/// # Errors
/// The folder cannot be removed.
pub fn remove(store: &Store) -> Result<bool> {
    let folder = store.runtimes();
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        result => result.on("remove", &folder).map(|()| true),
    }
}

const OTHERWISE: &str =
    "or set ORT_DYLIB_PATH to a libonnxruntime of 1.24 or newer; without one, graphs run on the embedded runtime";

fn python() -> Result<PathBuf> {
    let found = ["python3", "python"].into_iter().find_map(|name| on_path(Path::new("."), name));
    found.ok_or_else(|| {
        Error::stage("there is no `python3` on the PATH, whose pip would fetch onnxruntime")
            .hint(format!("install Python 3.11 or newer with pip, {OTHERWISE}"))
    })
}

fn pip(python: &Path, list: &Path, target: &Path, what: &str, guard: &mut Option<Guard>) -> Result<()> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]);
    command.args(["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(list);
    command.arg("--target").arg(target).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if guard.is_some() {
        command.process_group(0);
    }
    ASTRAY.iter().for_each(|name| {
        command.env_remove(name);
    });
    let child = command.spawn().on("start", python)?;
    let group = i32::try_from(child.id()).unwrap_or_default();
    guard.iter_mut().for_each(|guard| guard.began(group));
    let output = child.wait_with_output().on("wait for", python)?;
    guard.iter_mut().for_each(|guard| guard.ended(group));
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("No module named pip") {
        return Err(Error::stage(format!("`{}` has no pip, which would fetch {what}", python.display()))
            .hint(format!("install it (`python3 -m ensurepip`, or the system's package), {OTHERWISE}")));
    }
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let failed = Error::stage(format!("pip cannot install {what}"));
    let failed = lines.iter().rev().take(3).rev().fold(failed, |error, line| error.cause(*line));
    Err(failed.hint(format!("see that the package index can be reached and that Python is 3.11 to 3.14, {OTHERWISE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_version_and_digest() {
        for (list, what) in [(CPU, "onnxruntime 1.32.0"), (GPU, "onnxruntime-gpu 1.31.1")] {
            assert_eq!(pinned(list), what);
            let text = list.replace("\\\n", " ");
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let mut words = line.split_whitespace();
                assert!(words.next().is_some_and(|first| first.contains("==")), "{line}");
                let digests: Vec<_> = words.collect();
                let is_digest = |word: &&str| word.strip_prefix("--hash=sha256:").is_some_and(|hex| hex.len() == 64);
                assert!(!digests.is_empty() && digests.iter().all(is_digest), "{line}");
            }
        }
    }
}
