//! Tells a checkpoint's layout from the keys of its dict, and takes its parts.
//!
//! The table is that of `tinydit.md`, section 3. Knows key names alone, no network and no file format.

use super::{Checkpoint, Container, Layout, Saved, Scalar, Settings, state_dict};
use crate::core::error::{Error, Result};
use crate::model::tensor::StateDict;
use pytorch_reader::PickleValue;
use std::collections::BTreeMap;
use std::path::Path;

/// The key of the raw weights and that of the moving average.
struct Keys {
    raw: Option<&'static str>,
    ema: Option<&'static str>,
}

pub(super) fn read(path: &Path, container: Container, saved: Saved) -> Result<Checkpoint> {
    let name = format!("`{}`", path.display());
    let layout = tell(&name, &saved)?;
    let keys = keys_of(layout);
    let mut checkpoint = Checkpoint::empty(container, layout);
    match layout {
        Layout::Bare => checkpoint.raw = Some(state_dict(saved.tensors.clone().into_iter())?),
        _ => {
            checkpoint.raw = keys.raw.map(|key| part(&name, &saved, key)).transpose()?.flatten();
            checkpoint.ema = keys.ema.map(|key| part(&name, &saved, key)).transpose()?.flatten();
            read_values(&mut checkpoint, &saved);
        }
    }
    if let (Some(raw), Some(ema)) = (&checkpoint.raw, &checkpoint.ema) {
        ema.same_keys(&format!("the EMA of {name}"), raw)?;
    }
    match checkpoint.raw.is_none() && checkpoint.ema.is_none() {
        true => Err(unknown(&name, &saved)),
        false => Ok(checkpoint),
    }
}

fn tell(name: &str, saved: &Saved) -> Result<Layout> {
    let has = |key: &str| saved.root.contains_key(key);
    let dict = |key: &str| matches!(saved.root.get(key), Some(PickleValue::Dict(_)));
    if dict("model_state_dict") {
        let classifier = has("val_acc") || (has("epoch") && !has("step") && !has("ema_shadow_params"));
        return Ok(if classifier { Layout::Classifier } else { Layout::Trainer });
    }
    if dict("model") {
        return Ok(Layout::Export);
    }
    if has("shadow_params") {
        return Ok(Layout::EmaHelper);
    }
    let mut entries = saved.root.iter().filter(|(key, value)| !is_torch_metadata(key, value));
    let bare = !saved.tensors.is_empty() && entries.all(|(key, _)| saved.tensors.contains_key(key));
    if bare { Ok(Layout::Bare) } else { Err(unknown(name, saved)) }
}

fn keys_of(layout: Layout) -> Keys {
    let (raw, ema) = match layout {
        Layout::Export => (Some("model"), Some("ema_params")),
        Layout::Trainer => (Some("model_state_dict"), Some("ema_shadow_params")),
        Layout::Classifier => (Some("model_state_dict"), None),
        Layout::EmaHelper => (None, Some("shadow_params")),
        Layout::Bare => (None, None),
    };
    Keys { raw, ema }
}

/// The state dict under `key`; `None` where the key is absent or holds `None`.
fn part(name: &str, saved: &Saved, key: &str) -> Result<Option<StateDict>> {
    let fail =
        |what: &str| Err(Error::stage(format!("`{key}` of {name} {what}")).hint("expected a dict of tensors by name"));
    match saved.root.get(key) {
        None | Some(PickleValue::None) => Ok(None),
        Some(PickleValue::Dict(entries)) if entries.is_empty() => fail("is an empty dict"),
        Some(PickleValue::Dict(entries)) => {
            let prefix = format!("{key}.");
            let entries = || entries.iter().filter(|(entry, value)| !is_torch_metadata(entry, value));
            for (entry, value) in entries() {
                if !saved.tensors.contains_key(&format!("{prefix}{entry}")) {
                    return fail(&format!("holds `{entry}`, which is {} and not a tensor", type_name(value)));
                }
            }
            let tensors = entries().filter_map(|(entry, _)| {
                let tensor = saved.tensors.get(&format!("{prefix}{entry}"))?;
                Some((entry.clone(), tensor.clone()))
            });
            state_dict(tensors).map(Some)
        }
        Some(other) => fail(&format!("is {}, not a dict by name", type_name(other))),
    }
}

/// torch hangs a dict of versions on each state dict, as an attribute; the reader shows it as an entry.
fn is_torch_metadata(key: &str, value: &PickleValue) -> bool {
    key == "_metadata" && matches!(value, PickleValue::Dict(_))
}

fn unknown(name: &str, saved: &Saved) -> Error {
    let mut keys: Vec<_> = saved.root.keys().map(|key| format!("`{key}`")).collect();
    keys.sort();
    keys.truncate(12);
    let found = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
    Error::stage(format!("{name} holds no weights in a layout that is known; its keys are {found}")).hint(
        "expected `model` (export), `model_state_dict` (trainer), `shadow_params` (EMA helper), or a bare state dict",
    )
}

fn read_values(checkpoint: &mut Checkpoint, saved: &Saved) {
    let mut unread = BTreeMap::new();
    let mut int = |key: &str| value(saved, key, &mut unread).and_then(|v| as_int(&v));
    checkpoint.step = int("step");
    checkpoint.epoch = int("epoch");
    checkpoint.ema_step = int("ema_step");
    let mut float = |key: &str| value(saved, key, &mut unread).and_then(|v| as_float(&v));
    checkpoint.loss = float("loss");
    checkpoint.val_acc = float("val_acc");
    checkpoint.timestamp = value(saved, "timestamp", &mut unread).map(|v| match v {
        Scalar::Text(text) => text,
        Scalar::Int(seconds) => seconds.to_string(),
        Scalar::Float(seconds) => seconds.to_string(),
        _ => String::new(),
    });
    if let Some(config) = saved.root.get("config") {
        flatten("", config, &mut checkpoint.config, &mut unread);
    }
    checkpoint.unread = unread;
}

/// The value of a top-level key: a plain one, or a tensor of one element.
fn value(saved: &Saved, key: &str, unread: &mut BTreeMap<String, String>) -> Option<Scalar> {
    if let Some(tensor) = saved.tensors.get(key).filter(|tensor| tensor.num_elements() == 1) {
        let entry = super::TensorEntry::torch(key.to_owned(), tensor.clone());
        return entry.f32().ok()?.first().map(|&v| Scalar::Float(f64::from(v)));
    }
    match scalar(saved.root.get(key)?) {
        Ok(Scalar::Null) => None,
        Ok(value) => Some(value),
        Err(kind) => {
            unread.insert(key.to_owned(), kind);
            None
        }
    }
}

fn as_int(value: &Scalar) -> Option<i64> {
    match value {
        Scalar::Int(value) => Some(*value),
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(*value as i64),
        _ => None,
    }
}

fn as_float(value: &Scalar) -> Option<f64> {
    match value {
        Scalar::Int(value) => Some(*value as f64),
        Scalar::Float(value) => Some(*value),
        _ => None,
    }
}

fn scalar(value: &PickleValue) -> Result<Scalar, String> {
    Ok(match value {
        PickleValue::None => Scalar::Null,
        PickleValue::Bool(value) => Scalar::Bool(*value),
        PickleValue::Int(value) => Scalar::Int(*value),
        PickleValue::Float(value) => Scalar::Float(*value),
        PickleValue::String(value) => Scalar::Text(value.clone()),
        PickleValue::List(items) => Scalar::List(items.iter().map(scalar).collect::<Result<_, _>>()?),
        other => return Err(type_name(other)),
    })
}

fn flatten(prefix: &str, value: &PickleValue, into: &mut Settings, unread: &mut BTreeMap<String, String>) {
    let PickleValue::Dict(entries) = value else {
        let name = if prefix.is_empty() { "config" } else { prefix };
        match scalar(value) {
            Ok(Scalar::Null) if prefix.is_empty() => {}
            Ok(value) => drop(into.insert(name.to_owned(), value)),
            Err(kind) => drop(unread.insert(format!("config.{name}").replace("config.config", "config"), kind)),
        }
        return;
    };
    for (key, value) in entries {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&name, value, into, unread);
    }
}

fn type_name(value: &PickleValue) -> String {
    match value {
        PickleValue::None => "None",
        PickleValue::Bool(_) => "a bool",
        PickleValue::Int(_) => "an int",
        PickleValue::Float(_) => "a float",
        PickleValue::String(_) => "a str",
        PickleValue::List(_) => "a list",
        PickleValue::Dict(_) => "a dict",
        PickleValue::Bytes(_) => "bytes",
        PickleValue::Unsupported(kind) => return kind.clone(),
    }
    .to_owned()
}
