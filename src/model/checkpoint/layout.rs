//! Tells a checkpoint's layout from the keys of its dict, and takes its parts.
//!
//! The table is that of `tinydit.md`, section 3, with Lightning's keys. Knows key names alone, no network and no file format.

use super::storages::{Storages, TorchFile};
use super::training;
use super::value::Value;
use super::weights::{self, Named};
use super::{Checkpoint, Container, EmaForm, Layout};
use crate::core::error::{Error, Result};
use std::path::Path;

/// Keys of the raw weights, and the layout that each means; the first that holds a dict counts.
const RAW_KEYS: [(&str, Layout); 5] = [
    ("model_state_dict", Layout::Trainer),
    ("model", Layout::Export),
    ("state_dict", Layout::Trainer),
    ("model_state", Layout::Trainer),
    ("params", Layout::Trainer), // BasicSR's, beside `params_ema`
];
/// Keys of a moving average. A scalar under one of the loose ones is a setting.
const EMA_KEYS: [&str; 11] = [
    "ema_params",
    "ema_shadow_params",
    "shadow_params",
    "ema_state_dict",
    "ema_model_state_dict",
    "state_dict_ema",
    "ema_weights",
    "ema_model",
    "model_ema",
    "params_ema",
    "ema",
];
/// Of these, the ones whose value is wrong where it is no average.
const STRICT: [&str; 3] = ["ema_params", "ema_shadow_params", "shadow_params"];
/// Where the keeper of an average saves itself: the key of the average inside.
const INNER: [&str; 6] = ["shadow_params", "shadow", "module", "ema_model", "state_dict", "model_state_dict"];
/// And its count of updates.
const UPDATES: [&str; 4] = ["num_updates", "optimization_step", "updates", "step"];
/// Keys that only Lightning's Trainer writes.
const LIGHTNING: [&str; 5] =
    ["pytorch-lightning_version", "callbacks", "hyper_parameters", "loops", "current_model_state"];

/// Reads what `torch.save` wrote.
///
/// # Errors
/// No dict, keys that fit no layout, weights that are no tensors, an average that does not go with the weights.
pub(super) fn read(path: &Path, container: Container, file: &TorchFile) -> Result<Checkpoint> {
    let name = format!("`{}`", path.display());
    let Value::Dict(_) = file.root else {
        let found = file.root.describe();
        return Err(Error::stage(format!("{name} does not hold a dict, it holds {found}"))
            .hint("save `model.state_dict()`, or a dict that holds it"));
    };
    let root = Root { name: &name, dict: &file.root, storages: &file.storages };
    let parts = root.parts()?;
    let mut checkpoint = Checkpoint::empty(container, parts.layout);
    let take = |named: &Named| file.storages.state_dict(named.tensors.iter().map(|(n, t)| (n.as_str(), *t)));
    checkpoint.raw = parts.raw.as_ref().map(take).transpose()?;
    checkpoint.ema = parts.ema.as_ref().map(take).transpose()?;
    if let (Some(raw), Some(ema)) = (&checkpoint.raw, &checkpoint.ema) {
        ema.same_keys(&format!("the EMA of {name}"), raw)?;
    }
    let of_prefix = parts.raw.as_ref().or(parts.ema.as_ref()).map(|named| named.prefix.clone());
    checkpoint.prefix = of_prefix.filter(|prefix| !prefix.is_empty());
    checkpoint.ema_form = parts.form.filter(|_| checkpoint.ema.is_some());
    checkpoint.ema_step = parts.updates;
    if parts.layout != Layout::Bare {
        training::read(&mut checkpoint, &file.root, &file.storages, &parts.used);
    }
    Ok(checkpoint)
}

struct Root<'a> {
    name: &'a str,
    dict: &'a Value,
    storages: &'a Storages,
}

/// What was found.
struct Parts<'a> {
    layout: Layout,
    raw: Option<Named<'a>>,
    ema: Option<Named<'a>>,
    form: Option<EmaForm>,
    updates: Option<i64>,
    /// Keys that were taken.
    used: Vec<String>,
}

/// A moving average as it was found: where, what, its form.
struct Found<'a> {
    key: String,
    value: &'a Value,
    form: EmaForm,
}

impl<'a> Root<'a> {
    fn has(&self, key: &str) -> bool {
        self.dict.get(key).is_some()
    }

    fn parts(&self) -> Result<Parts<'a>> {
        let raw = RAW_KEYS.iter().find(|(key, _)| matches!(self.dict.get(key), Some(Value::Dict(_))));
        let lightning = raw.is_some_and(|(key, _)| *key == "state_dict") && LIGHTNING.iter().any(|key| self.has(key));
        let averaged = self.dict.get("current_model_state").filter(|_| lightning);
        let mut found = self.average(lightning)?;
        let Some((key, layout)) = raw else {
            return match found {
                Some(found) => self.average_alone(&found),
                None => self.bare(),
            };
        };
        let mut raw_key = *key;
        if let (Some(_), Some(value)) = (averaged, self.dict.get("state_dict")) {
            raw_key = "current_model_state";
            found = Some(Found { key: "state_dict".into(), value, form: EmaForm::Averaged });
        }
        let layout = match *layout {
            _ if lightning => Layout::Lightning,
            Layout::Trainer if self.is_classifier() => Layout::Classifier,
            other => other,
        };
        let mut parts = Parts { layout, raw: None, ema: None, form: None, updates: None, used: vec![raw_key.into()] };
        let value = self.dict.get(raw_key).unwrap_or(self.dict);
        let raw = weights::by_name(&self.of(raw_key), value)?;
        let (raw, beside) = raw.split_average(lightning);
        let raw = raw.stripped(lightning);
        if let Some(found) = &found {
            self.take_average(&mut parts, found, Some(&raw), lightning)?;
        } else if let Some(beside) = beside {
            (parts.ema, parts.form) = (Some(beside), Some(EmaForm::Prefix));
        }
        parts.updates = parts.updates.or_else(|| self.counter(parts.ema.as_ref()?));
        parts.raw = Some(raw);
        Ok(parts)
    }

    fn of(&self, key: &str) -> String {
        format!("`{key}` of {}", self.name)
    }

    fn is_classifier(&self) -> bool {
        let has = |key: &str| self.has(key);
        has("model_state_dict") && (has("val_acc") || (has("epoch") && !has("step") && !has("ema_shadow_params")))
    }

    /// The moving average, wherever it is.
    fn average(&self, lightning: bool) -> Result<Option<Found<'a>>> {
        let mut found = averages_in(self.dict, "");
        if let (true, Some(Value::Dict(callbacks))) = (lightning, self.dict.get("callbacks")) {
            for (callback, state) in callbacks {
                let within = averages_in(state, &format!("callbacks.{}.", callback.key_text()));
                found.extend(within.into_iter().map(|found| Found { form: EmaForm::Callback, ..found }));
            }
        }
        match &found[..] {
            [one, two, ..] => {
                Err(Error::stage(format!("{} holds two moving averages, `{}` and `{}`", self.name, one.key, two.key))
                    .hint("save one of them"))
            }
            _ => Ok(found.pop()),
        }
    }

    fn take_average(
        &self,
        parts: &mut Parts<'a>,
        found: &Found<'a>,
        raw: Option<&Named<'a>>,
        lightning: bool,
    ) -> Result<()> {
        let what = self.of(&found.key);
        let (value, updates) = unwrapped(found.value);
        let listed = value.items();
        let named = match (listed, raw) {
            (Some([]), _) => return Err(Error::stage(format!("{what} is an empty list"))),
            (Some(items), Some(raw)) => raw.named_by_order(&what, items)?,
            _ => weights::by_name(&what, value)?.stripped_average(lightning),
        };
        parts.form = Some(match found.form {
            EmaForm::ByName if listed.is_some() => EmaForm::ByOrder,
            form => form,
        });
        parts.updates = updates.or_else(|| self.counter(&named));
        parts.ema = Some(named);
        parts.used.push(found.key.clone());
        Ok(())
    }

    fn average_alone(&self, found: &Found<'a>) -> Result<Parts<'a>> {
        let used = vec![];
        let mut parts = Parts { layout: Layout::EmaHelper, raw: None, ema: None, form: None, updates: None, used };
        self.take_average(&mut parts, found, None, false)?;
        Ok(parts)
    }

    /// The count that stands among an average's tensors.
    fn counter(&self, named: &Named) -> Option<i64> {
        training::tensor_scalar(self.storages, named.updates?).and_then(|value| value.as_int())
    }

    fn bare(&self) -> Result<Parts<'a>> {
        if training::is_optimizer(self.dict) {
            return Err(Error::stage(format!("{} holds an optimizer's state and no weights", self.name))
                .hint("save `model.state_dict()`"));
        }
        let named = weights::nested(self.dict).ok_or_else(|| self.unknown())?;
        let (raw, ema) = named.split_average(false);
        let form = ema.as_ref().map(|_| EmaForm::Prefix);
        let updates = ema.as_ref().and_then(|ema| self.counter(ema));
        Ok(Parts { layout: Layout::Bare, raw: Some(raw.stripped(false)), ema, form, updates, used: vec![] })
    }

    fn unknown(&self) -> Error {
        let name = self.name;
        let mut keys: Vec<_> =
            self.dict.entries().unwrap_or_default().iter().map(|(key, _)| format!("`{}`", key.key_text())).collect();
        keys.sort();
        keys.truncate(12);
        let found = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        Error::stage(format!("{name} holds no weights in a layout that is known; its keys are {found}")).hint(
            "expected `model` (export), `model_state_dict` (trainer), `state_dict` (Lightning), `shadow_params` (EMA \
             helper), or a bare state dict",
        )
    }
}

/// Averages directly in a dict.
fn averages_in<'a>(dict: &'a Value, prefix: &str) -> Vec<Found<'a>> {
    let found = |key: &&str| {
        let value = dict.get(key)?;
        let kept = match value {
            Value::None => false,
            Value::Dict(_) | Value::List(_) | Value::Tuple(_) => true,
            _ => STRICT.contains(key),
        };
        kept.then(|| Found { key: format!("{prefix}{key}"), value, form: EmaForm::ByName })
    };
    EMA_KEYS.iter().filter_map(found).collect()
}

/// The average within its keeper's state, and how often it was updated.
fn unwrapped(value: &Value) -> (&Value, Option<i64>) {
    let inner = INNER.iter().filter_map(|key| value.get(key));
    let inner = inner.into_iter().find(|inner| matches!(inner, Value::Dict(_) | Value::List(_) | Value::Tuple(_)));
    let updates = UPDATES.iter().find_map(|key| match value.get(key) {
        Some(Value::Int(updates)) => Some(*updates),
        _ => None,
    });
    (inner.unwrap_or(value), updates)
}
