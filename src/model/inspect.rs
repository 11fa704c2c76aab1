//! One inspector for every file a model travels in: an ordered list of facts, told from the content.
//!
//! The only place that decides what a file is; stages and the `inspect` command show the same facts. It measures, and
//! judges nothing.

use super::architecture::Architecture;
use super::checkpoint::zip::Archive;
use super::checkpoint::{Checkpoint, EmaForm, Scalar, Settings, sharded};
use super::magic::{self, Magic};
use super::onnx::import::{GraphInfo, OnnxFile};
use super::safetensors_out::{self, SafetensorsFile};
use super::tensor::StateDict;
use super::torchscript::{self, Script};
use super::{finite, pictures, sample, tinydit};
use crate::core::error::{Error, OnPath, Result};
use serde_json::{Value, json};
use std::path::Path;

/// What a file is, and its facts in the order to show them.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// `checkpoint`, `torchscript`, `safetensors`, `safetensors_index`, `onnx` or `png`.
    pub format: &'static str,
    /// Facts by dotted name.
    pub facts: Vec<(String, Value)>,
}

impl Inspection {
    /// The fact of a name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.facts.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Inspects `path`.
///
/// # Errors
/// The file is none of the formats, or is damaged.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if !std::fs::metadata(path).on("stat", path)?.is_file() {
        return Err(Error::stage(format!("`{}` is no regular file", path.display())));
    }
    let (format, mut facts) = match magic::sniff(path)? {
        Magic::Zip => zip_facts(path)?,
        Magic::TorchLegacy => ("checkpoint", checkpoint_facts(&Checkpoint::open(path)?)?),
        Magic::Safetensors => ("safetensors", safetensors_facts(&safetensors_out::open(path)?)?),
        Magic::Json => ("safetensors_index", safetensors_facts(&sharded::open(path)?)?),
        Magic::Png => ("png", png_facts(path)?),
        Magic::Onnx => ("onnx", onnx_facts(&OnnxFile::open(path)?)?),
        Magic::Unknown if path.extension().is_some_and(|ending| ending == "onnx") => {
            ("onnx", onnx_facts(&OnnxFile::open(path)?)?)
        }
        Magic::Unknown => {
            return Err(Error::stage(format!("`{}` is no format that hfbuild knows", path.display()))
                .hint("expected a torch checkpoint, safetensors, ONNX or PNG file"));
        }
    };
    let size = std::fs::metadata(path).on("stat", path)?.len();
    facts.insert(0, ("file_bytes".into(), json!(size)));
    facts.insert(0, ("format".into(), json!(format)));
    Ok(Inspection { format, facts })
}

type Facts = Vec<(String, Value)>;

fn put(facts: &mut Facts, key: &str, value: impl Into<Value>) {
    facts.push((key.to_owned(), value.into()));
}

/// The facts of a checkpoint: container, layout, weights, network, training, `optimizer.*`, `config.*`; `extra.*` are
/// plain values that mean nothing here, `unread.*` what is no plain value.
///
/// # Errors
/// A tensor cannot be read.
pub fn checkpoint_facts(checkpoint: &Checkpoint) -> Result<Facts> {
    let mut facts = Facts::new();
    put(&mut facts, "container", checkpoint.container.name());
    put(&mut facts, "layout", checkpoint.layout.name());
    if let Some(dict) = checkpoint.raw.as_ref().or(checkpoint.ema.as_ref()) {
        facts.extend(weights_facts(dict, &checkpoint.config)?);
    }
    if let (Some(_), Some(ema)) = (&checkpoint.raw, &checkpoint.ema) {
        put(&mut facts, "ema_nonfinite", finite::nonfinite_of(ema)?);
        if let Ok(Some(Architecture::TinyDit(_))) = Architecture::infer(ema, &checkpoint.config) {
            put(&mut facts, "ema_freshly_initialised", tinydit::freshly_initialised(ema)?);
        }
    }
    put(&mut facts, "raw_present", checkpoint.raw.is_some());
    put(&mut facts, "ema_present", checkpoint.ema.is_some());
    for (key, value) in [
        ("ema_form", json!(checkpoint.ema_form.map(EmaForm::name))),
        ("prefix_taken_off", json!(checkpoint.prefix)),
        ("step", json!(checkpoint.step)),
        ("epoch", json!(checkpoint.epoch)),
        ("loss", json!(checkpoint.loss.map(number))),
        ("ema_step", json!(checkpoint.ema_step)),
        ("val_acc", json!(checkpoint.val_acc.map(number))),
        ("training_commit", json!(checkpoint.training_commit)),
        ("timestamp", json!(checkpoint.timestamp)),
    ] {
        if !value.is_null() {
            put(&mut facts, key, value);
        }
    }
    if let Some(optimizer) = &checkpoint.optimizer {
        put(&mut facts, "optimizer", optimizer.kind);
        put(&mut facts, "optimizer.tensors", optimizer.tensors);
        put(&mut facts, "optimizer.bytes", optimizer.bytes);
        facts.extend(under("optimizer", &optimizer.settings));
    }
    facts.extend(under("config", &checkpoint.config));
    facts.extend(under("extra", &checkpoint.extras));
    facts.extend(checkpoint.unread.iter().map(|(key, kind)| (format!("unread.{key}"), json!(kind))));
    Ok(facts)
}

fn under<'a>(group: &str, settings: &'a Settings) -> impl Iterator<Item = (String, Value)> + use<'a> {
    let group = group.to_owned();
    settings.iter().map(move |(key, value)| (format!("{group}.{key}"), plain(value)))
}

fn plain(value: &Scalar) -> Value {
    match value {
        Scalar::Float(value) => number(*value),
        Scalar::List(items) => items.iter().map(plain).collect(),
        other => json!(other),
    }
}

/// JSON has no word for NaN and infinity; a loss that is one must not look like none.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// The facts of a state dict: network, tensors, parameters, bytes, dtypes, how many values are NaN or infinite,
/// whether it was ever trained.
///
/// # Errors
/// A tensor cannot be read.
pub fn weights_facts(dict: &StateDict, settings: &Settings) -> Result<Facts> {
    let mut facts = Facts::new();
    let architecture = Architecture::infer(dict, settings);
    let name = architecture.as_ref().ok().and_then(Option::as_ref).map(Architecture::name);
    put(&mut facts, "network", name.as_deref().unwrap_or("unknown"));
    if let Err(why) = &architecture {
        put(&mut facts, "network_error", why.to_string());
    }
    put(&mut facts, "tensors", dict.len());
    put(&mut facts, "parameters", dict.parameters());
    put(&mut facts, "tensor_bytes", dict.bytes());
    put(&mut facts, "dtypes", json!(dict.dtypes()));
    put(&mut facts, "nonfinite", finite::nonfinite_of(dict)?);
    match architecture {
        Ok(Some(Architecture::TinyDit(config))) => {
            put(&mut facts, "freshly_initialised", tinydit::freshly_initialised(dict)?);
            put(&mut facts, "num_labels", config.num_classes);
            put(&mut facts, "null_label", config.null_label());
            put(&mut facts, "image_size", config.image_size);
        }
        Ok(Some(Architecture::ResNet18(config))) => {
            put(&mut facts, "num_labels", config.num_classes);
            put(&mut facts, "width", config.width);
        }
        _ => {}
    }
    Ok(facts)
}

fn safetensors_facts(file: &SafetensorsFile) -> Result<Facts> {
    // what hfbuild wrote says its own configuration, which no tensor's shape can; one that cannot be read is shown below
    let said = Architecture::of_metadata(&file.metadata).ok().flatten();
    let sizes = said.map(|architecture| architecture.sizes()).unwrap_or_default();
    let settings = sizes.into_iter().map(|(key, size)| (key.to_string(), Scalar::Int(size as i64))).collect();
    let mut facts = weights_facts(&file.tensors, &settings)?;
    facts.extend(file.metadata.iter().map(|(key, value)| (format!("metadata.{key}"), json!(value))));
    Ok(facts)
}

fn onnx_facts(file: &OnnxFile) -> Result<Facts> {
    let info = file.info()?;
    let mut facts = Facts::new();
    put(&mut facts, "opset", info.opset);
    put(&mut facts, "ir_version", info.ir_version);
    put(&mut facts, "producer", format!("{} {}", info.producer, info.producer_version).trim().to_owned());
    ports(&mut facts, &info);
    put(&mut facts, "nodes", info.nodes);
    put(&mut facts, "initializers", info.initializers);
    put(&mut facts, "parameters", info.parameters);
    put(&mut facts, "initializer_bytes", info.initializer_bytes);
    for external in &info.external {
        put(
            &mut facts,
            &format!("external.{}", external.location),
            external.bytes.map_or(json!("absent"), |n| json!(n)),
        );
    }
    facts.extend(info.metadata.iter().map(|(key, value)| (format!("metadata.{key}"), json!(value))));
    Ok(facts)
}

/// torch's archives: checkpoints and programs.
fn zip_facts(path: &Path) -> Result<(&'static str, Facts)> {
    match torchscript::of_archive(&Archive::open(path)?) {
        Some(script) => Ok(("torchscript", script_facts(script))),
        None => Ok(("checkpoint", checkpoint_facts(&Checkpoint::open(path)?)?)),
    }
}

fn script_facts(script: Script) -> Facts {
    let mut facts = Facts::new();
    put(&mut facts, "code_files", script.code);
    put(&mut facts, "storages", script.storages);
    put(&mut facts, "storage_bytes", script.bytes);
    facts
}

fn ports(facts: &mut Facts, info: &GraphInfo) {
    for (kind, ports) in [("input", &info.inputs), ("output", &info.outputs)] {
        for port in ports {
            let shape = port.to_string();
            let described = shape.strip_prefix(&format!("{} ", port.name)).unwrap_or(&shape);
            put(facts, &format!("{kind}.{}", port.name), described);
        }
    }
}

fn png_facts(path: &Path) -> Result<Facts> {
    let file = std::io::BufReader::new(std::fs::File::open(path).on("open", path)?);
    let picture = sample::decode_png(file).map_err(|e| e.within(&path.display().to_string()))?;
    let (width, height) = (picture.width, picture.height);
    let stats = pictures::stats(&[picture])?;
    let mut facts = Facts::new();
    put(&mut facts, "width", width);
    put(&mut facts, "height", height);
    put(&mut facts, "saturated", stats.saturated);
    put(&mut facts, "neighbour_correlation", json!(stats.neighbour_correlation));
    put(&mut facts, "mean", stats.mean);
    put(&mut facts, "std", stats.std);
    Ok(facts)
}
