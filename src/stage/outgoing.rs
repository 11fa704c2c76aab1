//! Files that are about to be published, whoever made them: no Git LFS pointer in place of the content, no model without
//! weights, no ONNX graph without its external data; and weights that are not to be published unasked.
//!
//! Knows a file's path in the repository and the sizes of what will stand beside it. Does not know who made it.

use crate::core::error::{Error, OnPath, Result};
use crate::core::leaks::{Finding, NONFINITE, Spot, UNTRAINED};
use crate::model::inspect::inspect;
use crate::model::magic::{self, Magic};
use crate::model::onnx::import::OnnxFile;
use crate::model::safetensors_out;
use std::path::Path;

/// Endings of files that hold weights.
const MODELS: [&str; 6] = [".safetensors", ".onnx", ".pt", ".pth", ".ckpt", ".gguf"];

/// Refuses a file that is not what its name promises. `size_of` gives the size of another file of the published tree.
///
/// # Errors
/// An LFS pointer, an empty model, safetensors that are damaged or hold nothing, a graph whose external data is not in the
/// tree or too short.
pub fn check_outgoing(path: &str, file: &Path, size_of: &dyn Fn(&str) -> Option<u64>) -> Result<()> {
    let name = path.to_lowercase();
    if std::fs::metadata(file).on("stat", file)?.len() > 0 {
        magic::sniff_as(file, path)?; // an LFS pointer is an error here
    } else if MODELS.iter().any(|ending| name.ends_with(ending)) {
        return Err(
            Error::stage(format!("`{path}` is empty, and is called a model")).hint("was it written to its end?")
        );
    }
    if name.ends_with(".safetensors") {
        check_tensors(path, file)?;
    }
    if name.ends_with(".onnx") { check_external(path, file, size_of) } else { Ok(()) }
}

/// Refuses safetensors that hold no tensor, or no number.
///
/// # Errors
/// That, and a file that is damaged.
pub fn check_tensors(path: &str, file: &Path) -> Result<()> {
    let tensors = safetensors_out::open(file).map_err(|e| e.within(&format!("`{path}`")))?.tensors;
    if tensors.tensors().iter().all(|tensor| tensor.byte_len() == 0) {
        let what = if tensors.is_empty() { "no tensors" } else { "only empty tensors" };
        return Err(Error::stage(format!("`{path}` holds {what}"))
            .hint("whoever wrote it was handed nothing: look at how its keys were selected"));
    }
    Ok(())
}

/// What weights hold that is not to be published unasked: values that are no numbers, and what initialisation left. Reads
/// all of them. A file of another format holds none, and what cannot be read is refused elsewhere.
pub fn doubtful_weights(file: &Path) -> Vec<Finding> {
    let weights = |magic| matches!(magic, Magic::Safetensors | Magic::TorchLegacy | Magic::Zip);
    let found = if magic::sniff(file).is_ok_and(weights) { inspect(file).ok() } else { None };
    let Some(found) = found else { return vec![] };
    let is = |key: &str| found.get(key).is_some_and(|value| *value == true);
    let count = |key: &str| found.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let mut all = Vec::new();
    let mut add = |rule: &str, what: String| all.push(Finding { rule: rule.into(), spot: Spot::File, what });
    match count("nonfinite") + count("ema_nonfinite") {
        0 => {}
        1 => add(NONFINITE, "holds a value that is NaN or infinite".into()),
        values => add(NONFINITE, format!("holds {values} values that are NaN or infinite")),
    }
    for (key, which) in [("freshly_initialised", ""), ("ema_freshly_initialised", " of the moving average")] {
        if is(key) {
            let what =
                format!("was never trained: the last layer{which}, or all norms, are as initialisation left them");
            add(UNTRAINED, what);
        }
    }
    all
}

fn check_external(path: &str, file: &Path, size_of: &dyn Fn(&str) -> Option<u64>) -> Result<()> {
    let graph = OnnxFile::open(file).and_then(|graph| graph.info()).map_err(|e| e.within(&format!("`{path}`")))?;
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    for data in graph.external {
        let beside = format!("{folder}{}", data.location.trim_start_matches("./"));
        match size_of(&beside) {
            None => {
                return Err(Error::stage(format!(
                    "`{path}` keeps weights in the external data `{}`, and no `{beside}` is published",
                    data.location
                ))
                .hint("publish it beside the model: whoever loads the graph looks for it there"));
            }
            Some(bytes) if bytes < data.needs => {
                return Err(Error::stage(format!(
                    "`{beside}` has {bytes} bytes, and the weights of `{path}` in it end at {}",
                    data.needs
                ))
                .hint("was it written, or downloaded, to its end?"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
