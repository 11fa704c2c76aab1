//! `files`: files of the project, published as they are, after a look: no Git LFS pointer in place of a model, no pickle
//! that would run code. Secrets are looked for in all that is published: see [`super::leaks`].

use super::{Declare, Kind, Workspace, archives, arrays};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::RelPath;
use crate::model::checkpoint::zip::Archive;
use crate::model::checkpoint::{Checkpoint, calls, unpickle};
use crate::model::magic::{self, Magic};
use crate::model::onnx::import::OnnxFile;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};

/// See the module.
pub struct Files;

impl Kind for Files {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "files",
            doc: "files of the project as they are, checked for LFS pointers and hostile pickles",
            fields: &[Field::required("paths", FieldType::List(&FieldType::Path), "the files")],
            facts: &["bytes", "bytes.*"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let mut names: BTreeMap<String, RelPath> = BTreeMap::new();
        let mut inputs = Vec::new();
        for (text, span) in cx.spec.texts("paths") {
            let path: RelPath = text.parse().map_err(|why: String| cx.manifest.source.error(span.clone(), why))?;
            if let Some(other) = names.insert(path.file_name().to_string(), path.clone()) {
                return Err(cx
                    .manifest
                    .source
                    .error(span, format!("`{other}` and `{path}` would be one file"))
                    .hint("files are published by their last name: give them artifacts of their own"));
            }
            inputs.push((path, span));
        }
        let shape = match &inputs[..] {
            [] => return Err(cx.error("paths", "`paths` is empty")),
            [(one, _)] => Shape::File(one.file_name().to_string()),
            _ => Shape::Dir,
        };
        let mut declaration = Declaration::new("files", self.version(), shape);
        for (path, span) in inputs {
            let role = path.file_name().to_string();
            declaration = declaration.input(&role, InputFrom::File(path), span);
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let mut facts = Facts::default();
        for role in action.inputs.keys() {
            let input = workspace.file(role)?.clone();
            check(&input.path, &input.file)?;
            check_data(&input.path, &input.file, action)?;
            let out = workspace.output(role)?;
            reflink_copy::reflink_or_copy(&input.file, &out).on("copy", &input.file)?;
            // that the source stayed as it was meanwhile is held when the stage has ended
            if let Some(known) = workspace.known.get(&input.path).filter(|known| known.digest == input.digest) {
                workspace.digested.insert(role.clone(), known.clone());
            }
            let of = facts.subject(&input.path, input.digest);
            let bytes = std::fs::metadata(&out).on("stat", &out)?.len();
            let name = if action.inputs.len() == 1 { "bytes".to_string() } else { format!("bytes.{role}") };
            facts.set(&name, bytes, of);
        }
        Ok(facts)
    }
}

/// Refuses an ONNX model whose external data is not one of the files: without its weights it is no model.
fn check_data(path: &str, file: &std::path::Path, action: &Action) -> Result<()> {
    if !path.to_lowercase().ends_with(".onnx") {
        return Ok(());
    }
    let info = OnnxFile::open(file)?.info()?;
    match info.external.iter().find(|data| !action.inputs.contains_key(data.location.trim_start_matches("./"))) {
        None => info.external.iter().try_for_each(|data| data.whole().map_err(|e| e.within(&format!("`{path}`")))),
        Some(lost) => Err(Error::stage(format!(
            "`{path}` keeps weights in the external data `{}`, which is not among `paths`",
            lost.location
        ))
        .hint("name it under `paths` of the same artifact: a model looks for it beside itself")),
    }
}

/// Refuses what must not be published.
pub fn check(path: &str, file: &std::path::Path) -> Result<()> {
    let size = std::fs::metadata(file).on("stat", file)?.len();
    let model = PICKLE_NAMES.iter().chain(&[".safetensors", ".onnx"]).any(|e| path.to_lowercase().ends_with(e));
    if size == 0 && model {
        return Err(
            Error::stage(format!("`{path}` is empty, and is called a model")).hint("was it written to its end?")
        );
    }
    if size > 0 {
        let found = magic::sniff(file)?; // a Git LFS pointer is an error here
        check_pickle(path, file, found)?;
        if found == Magic::Safetensors || path.to_lowercase().ends_with(".safetensors") {
            super::outgoing::check_tensors(path, file)?;
        }
    }
    Ok(())
}

/// Refuses a pickle that would run code, whatever the file is called, and a file that is called a checkpoint and cannot
/// be read as one: nobody could say what it would do. (`.bin` is what anybody calls any bytes.)
pub fn check_pickle(path: &str, file: &std::path::Path, found: Magic) -> Result<()> {
    let open = || Ok::<_, Error>(BufReader::new(File::open(file).on("open", file)?));
    let what = format!("`{path}`");
    let name = path.to_lowercase();
    let named = PICKLE_NAMES.iter().any(|e| name.ends_with(e));
    let torch_zip = || Archive::open(file).is_ok_and(|a| a.entries.iter().any(|e| e.name.ends_with("data.pkl")));
    match found {
        Magic::TorchLegacy => return Checkpoint::open(file).map(drop),
        Magic::Zip if named || torch_zip() => return Checkpoint::open(file).map(drop),
        Magic::Zip => return archives::check(path, file),
        Magic::Unknown if starts_like_pickle(file)? => return unpickle::check(&mut open()?, &what),
        Magic::Unknown => archives::check(path, file)?,
        _ => archives::check_behind(path, file)?,
    }
    arrays::refuse_called(calls::first_called(&mut open()?), &what)?;
    let unreadable = named && !name.ends_with(".bin") && matches!(found, Magic::Unknown | Magic::Json);
    if unreadable && unpickle::check(&mut open()?, &what).is_err() {
        return Err(Error::stage(format!("{what} is called a checkpoint and is none that hfbuild can read"))
            .hint("whoever loads it may run whatever it holds: publish it under another name if it is no pickle"));
    }
    Ok(())
}

/// Names that loaders unpickle.
const PICKLE_NAMES: [&str; 8] = [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".dill"];

fn starts_like_pickle(file: &std::path::Path) -> Result<bool> {
    let mut head = [0; 2];
    let read = File::open(file).on("open", file)?.read_exact(&mut head);
    Ok(read.is_ok() && arrays::opens_pickle(&head))
}
