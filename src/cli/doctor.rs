//! `doctor`, `runtime`: what runs graphs here, and putting a runtime in place.
//!
//! Prints what was found; decides nothing.

use super::{Failure, Global};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::value::human_bytes;
use crate::exec::project::{MANIFEST, Project};
use crate::exec::{install, runtimes};
use crate::model::torch;
use crate::store::Store;
use crate::ui::doctor;
use std::io::Write;
use std::path::PathBuf;

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody to tell when the terminal is gone
}

fn root(global: &Global) -> Result<PathBuf> {
    global.project.canonicalize().map_err(|e| Error::io("open", &global.project, &e).with_kind(ErrorKind::Usage))
}

/// `hfbuild doctor`
pub fn doctor(global: &Global, json: bool) -> Result<(), Failure> {
    let root = root(global)?;
    let machine = runtimes::machine(&Store::at(&root));
    let project = match root.join(MANIFEST).exists() {
        true => Project::open(&root, &global.settings()).map_err(|e| format!("{MANIFEST}: {}", e.message())),
        false => Err(format!("there is no {MANIFEST} here")),
    };
    let runs_on = project.as_ref().map(|project| runtimes::of_project(project, &machine)).unwrap_or_default();
    let stages: Vec<_> = runs_on.iter().map(|runs| (runs.artifact.as_str(), &runs.choice)).collect();
    let why = project.as_ref().err().map(String::as_str);
    let found = machine.found();
    let is_named = std::env::var_os(torch::ENV).is_some_and(|named| !named.is_empty());
    let torch = match torch::find() {
        Ok(_) => Some(worker()),
        Err(error) => is_named.then(|| Err(error.message().to_string())),
    };
    if json {
        let text = serde_json::to_string_pretty(&doctor::to_json(found, &torch, &stages, why)).unwrap_or_default();
        super::out::print(&format!("{text}\n"));
        return Ok(());
    }
    super::out::print(&doctor::render(found, &torch, &stages, why));
    tell(&doctor::last_line(found));
    Ok(())
}

/// Asks the worker that runs libtorch for its version and its devices.
fn worker() -> std::result::Result<(String, String), String> {
    let hello = torch::hello().map_err(|error| error.message().to_string())?;
    let devices = match (hello.cuda_devices, hello.no_cuda) {
        (0, Some(why)) => format!("on the CPU, {} threads; no CUDA: {why}", hello.threads),
        (0, None) => format!("on the CPU, {} threads; no CUDA device", hello.threads),
        (devices, _) => format!("{devices} CUDA devices; on the CPU {} threads", hello.threads),
    };
    Ok((hello.torch, devices))
}

fn store(global: &Global) -> Result<Store> {
    let root = root(global)?;
    if !root.join(MANIFEST).exists() {
        return Err(Error::new(ErrorKind::Usage, format!("there is no {MANIFEST} in `{}`", root.display()))
            .hint("a runtime is put under the project's cache/: go there, or name it with `-C DIR`"));
    }
    Store::open(&root, &|text| tell(&text))
}

/// `hfbuild runtime install onnxruntime`
pub fn install(global: &Global, gpu: bool) -> Result<(), Failure> {
    let store = store(global)?;
    let installed = install::onnxruntime(&store, gpu)?;
    let folder = installed.folder.strip_prefix(root(global)?).unwrap_or(&installed.folder).display();
    match installed.before {
        true => tell(&format!("hfbuild: {} is there already, in `{folder}`", installed.what)),
        false => {
            let size = human_bytes(size_of(&installed.folder));
            tell(&format!("hfbuild: installed {} in `{folder}` ({size})", installed.what));
        }
    }
    Ok(())
}

fn size_of(folder: &std::path::Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter_map(|entry| entry.metadata().ok());
    files.filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// `hfbuild runtime remove onnxruntime`
pub fn remove(global: &Global) -> Result<(), Failure> {
    match install::remove(&store(global)?)? {
        true => tell("hfbuild: removed onnxruntime"),
        false => tell("hfbuild: onnxruntime was not installed here"),
    }
    Ok(())
}
