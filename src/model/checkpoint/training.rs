//! What a checkpoint says beside its weights: step, loss, configuration, optimizer, and whatever else is there.
//!
//! Values are taken from plain Python and numpy scalars and from tensors of one element. Nothing is dropped in silence: what
//! is no plain value is named in `unread`. Knows key names, no layouts.

use super::storages::Storages;
use super::value::{TensorRef, Value};
use super::{Checkpoint, OptimizerState, Scalar, Settings};
use crate::model::tensor::DType;

/// Keys of the trainer's settings; the first that is there counts.
const CONFIG_KEYS: [&str; 6] = ["config", "model_config", "hyper_parameters", "hparams", "args", "cfg"];
/// Keys of the count of optimizer steps.
const STEP_KEYS: [&str; 4] = ["step", "global_step", "train_steps", "iteration"];
/// Most plain values shown of one entry that nobody asked for.
const MOST_EXTRAS: usize = 64;

/// Fills in all but the weights. `used` are the keys already taken.
pub(super) fn read(checkpoint: &mut Checkpoint, root: &Value, storages: &Storages, used: &[String]) {
    let mut reader = Reader { root, storages, used: used.to_vec(), checkpoint };
    reader.checkpoint.step = STEP_KEYS.iter().find_map(|key| reader.int(key));
    reader.checkpoint.epoch = reader.int("epoch");
    let updates = reader.int("ema_step");
    reader.checkpoint.ema_step = updates.or(reader.checkpoint.ema_step);
    reader.checkpoint.loss = reader.float("loss");
    reader.checkpoint.val_acc = reader.float("val_acc");
    reader.checkpoint.timestamp = reader.value("timestamp").map(|v| match v {
        Scalar::Text(text) => text,
        Scalar::Int(seconds) => seconds.to_string(),
        Scalar::Float(seconds) => seconds.to_string(),
        _ => String::new(),
    });
    reader.config();
    reader.rest();
    super::commit::read(checkpoint);
}

struct Reader<'a> {
    root: &'a Value,
    storages: &'a Storages,
    used: Vec<String>,
    checkpoint: &'a mut Checkpoint,
}

impl Reader<'_> {
    /// The plain value of a top-level key.
    fn value(&mut self, key: &str) -> Option<Scalar> {
        let value = self.root.get(key)?;
        self.used.push(key.to_owned());
        match scalar(self.storages, value) {
            Ok(Scalar::Null) => None,
            Ok(value) => Some(value),
            Err(kind) => {
                self.checkpoint.unread.insert(key.to_owned(), kind);
                None
            }
        }
    }

    fn int(&mut self, key: &str) -> Option<i64> {
        let value = self.value(key)?;
        self.expected(key, value.as_int(), "no whole number of 64 bits")
    }

    fn float(&mut self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        self.expected(key, value.as_float(), "no number")
    }

    fn expected<T>(&mut self, key: &str, found: Option<T>, otherwise: &str) -> Option<T> {
        if found.is_none() {
            self.checkpoint.unread.insert(key.to_owned(), otherwise.to_owned());
        }
        found
    }

    fn config(&mut self) {
        let key = CONFIG_KEYS.into_iter().find(|key| self.root.get(key).is_some_and(|v| *v != Value::None));
        let Some((key, value)) = key.and_then(|key| Some((key, self.root.get(key)?))) else { return };
        self.used.push(key.to_owned());
        let (mut settings, mut unread) = (Settings::new(), vec![]);
        match value.entries() {
            Some(_) => flatten(self.storages, "", value, &mut settings, &mut unread),
            None => flatten(self.storages, key, value, &mut settings, &mut unread),
        }
        let named = |name: String| if value.entries().is_some() { format!("{key}.{name}") } else { name };
        self.checkpoint.unread.extend(unread.into_iter().map(|(name, kind)| (named(name), kind)));
        self.checkpoint.config = settings;
    }

    /// Everything that no key asked for: optimizers, plain values, and the names of the rest.
    fn rest(&mut self) {
        let root = self.root;
        for (key, value) in root.entries().unwrap_or_default() {
            let name = key.key_text();
            if self.used.iter().any(|used| *used == name || used.starts_with(&format!("{name}."))) {
                continue;
            }
            if let Some(optimizer) = optimizer(self.storages, value) {
                match &mut self.checkpoint.optimizer {
                    Some(first) => {
                        first.tensors += optimizer.tensors;
                        first.bytes += optimizer.bytes;
                    }
                    none => *none = Some(optimizer),
                }
                continue;
            }
            let (mut extras, mut unread) = (Settings::new(), vec![]);
            flatten(self.storages, &name, value, &mut extras, &mut unread);
            match unread.is_empty() && extras.len() <= MOST_EXTRAS {
                true => self.checkpoint.extras.extend(extras),
                false => drop(self.checkpoint.unread.insert(name, described(value))),
            }
        }
    }
}

/// `a dict of 3 entries, 12 tensors of 4096 bytes`.
fn described(value: &Value) -> String {
    let (mut tensors, mut bytes) = (0, 0u64);
    value.each_tensor(&mut |tensor| {
        tensors += 1;
        bytes = bytes.saturating_add(tensor.bytes());
    });
    let entries = value.entries().map(<[_]>::len).or(value.items().map(<[_]>::len));
    let entries = entries.map_or(String::new(), |n| format!(" of {n} {}", if n == 1 { "entry" } else { "entries" }));
    let within = match (tensors, value) {
        (0, _) | (_, Value::Tensor(_)) => String::new(),
        (1, _) => format!(", 1 tensor of {bytes} bytes"),
        _ => format!(", {tensors} tensors of {bytes} bytes"),
    };
    format!("{}{entries}{within}", value.describe())
}

/// The plain value of a tensor of one element.
pub(super) fn tensor_scalar(storages: &Storages, tensor: &TensorRef) -> Option<Scalar> {
    if tensor.elements() != Some(1) {
        return None;
    }
    let entry = storages.entry("a scalar", tensor).ok()?;
    let bytes = entry.bytes().ok()?;
    let eight = || bytes.first_chunk::<8>().copied();
    match entry.dtype {
        DType::I64 => Some(Scalar::Int(i64::from_le_bytes(eight()?))),
        DType::U64 => i64::try_from(u64::from_le_bytes(eight()?)).ok().map(Scalar::Int),
        DType::F64 => Some(Scalar::Float(f64::from_le_bytes(eight()?))),
        DType::Bool => Some(Scalar::Bool(bytes.first() != Some(&0))),
        dtype => {
            let value = f64::from(*entry.f32().ok()?.first()?);
            let whole = matches!(dtype, DType::I16 | DType::I8 | DType::U16 | DType::U8);
            let int = || Some(Scalar::Int(i32::from_le_bytes(*bytes.first_chunk()?).into()));
            let unsigned = || Some(Scalar::Int(u32::from_le_bytes(*bytes.first_chunk()?).into()));
            match dtype {
                DType::I32 => int(),
                DType::U32 => unsigned(),
                _ if whole => Some(Scalar::Int(value as i64)),
                _ => Some(Scalar::Float(value)),
            }
        }
    }
}

/// The plain value, or what it is instead.
fn scalar(storages: &Storages, value: &Value) -> Result<Scalar, String> {
    Ok(match value {
        Value::None => Scalar::Null,
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Int(value) => Scalar::Int(*value),
        Value::Float(value) => Scalar::Float(*value),
        Value::Text(value) => Scalar::Text(value.to_string()),
        Value::List(items) | Value::Tuple(items) => {
            let items = items.iter().map(|item| scalar(storages, item)).collect::<Result<_, _>>();
            Scalar::List(items.map_err(|_| described(value))?)
        }
        Value::Tensor(tensor) => tensor_scalar(storages, tensor).ok_or_else(|| value.describe())?,
        other => return Err(described(other)),
    })
}

/// Plain values under dotted names, and what is none.
fn flatten(storages: &Storages, name: &str, value: &Value, into: &mut Settings, unread: &mut Vec<(String, String)>) {
    let Some(entries) = value.entries() else {
        match scalar(storages, value) {
            Ok(value) => drop(into.insert(name.to_owned(), value)),
            Err(kind) => unread.push((name.to_owned(), kind)),
        }
        return;
    };
    for (key, value) in entries {
        let key = key.key_text();
        let name = if name.is_empty() { key } else { format!("{name}.{key}") };
        flatten(storages, &name, value, into, unread);
    }
}

/// Whether a value is the `state_dict()` of a `torch.optim.Optimizer`.
pub(super) fn is_optimizer(value: &Value) -> bool {
    value.get("param_groups").is_some_and(|groups| groups.items().is_some()) && value.get("state").is_some()
}

/// The state of an optimizer, of a list of them, or of a dict of them.
fn optimizer(storages: &Storages, value: &Value) -> Option<OptimizerState> {
    let members: Vec<&Value> = match value {
        _ if is_optimizer(value) => vec![value],
        Value::List(items) | Value::Tuple(items) => items.iter().collect(),
        Value::Dict(entries) => entries.iter().map(|(_, value)| value).collect(),
        _ => return None,
    };
    if members.is_empty() || !members.iter().all(|member| is_optimizer(member)) {
        return None;
    }
    let first = members.first()?;
    let mut state = OptimizerState { kind: kind(first), tensors: 0, bytes: 0, settings: Settings::new() };
    for member in &members {
        member.each_tensor(&mut |tensor| {
            state.tensors += 1;
            state.bytes = state.bytes.saturating_add(tensor.bytes());
        });
    }
    let group = first.get("param_groups")?.items()?.first();
    for name in ["lr", "betas", "momentum", "eps", "weight_decay", "initial_lr"] {
        if let Some(Ok(value)) = group.and_then(|group| group.get(name)).map(|value| scalar(storages, value)) {
            state.settings.insert(name.to_owned(), value);
        }
    }
    Some(state)
}

/// Which optimizer it was, by what it keeps of a parameter (`torch/optim`).
fn kind(optimizer: &Value) -> &'static str {
    let group = optimizer.get("param_groups").and_then(Value::items).and_then(<[_]>::first);
    let decoupled = group.and_then(|group| group.get("decoupled_weight_decay")) == Some(&Value::Bool(true));
    let kept = optimizer.get("state").and_then(Value::entries).and_then(<[_]>::first);
    let Some((_, kept)) = kept else { return "without state" };
    let has = |key: &str| kept.get(key).is_some();
    match () {
        () if has("exp_avg") && has("exp_inf") => "adamax",
        () if has("exp_avg") && has("exp_avg_sq") && decoupled => "adamw",
        () if has("exp_avg") && has("exp_avg_sq") => "adam or adamw",
        () if has("exp_avg") => "lion",
        () if has("square_avg") && has("acc_delta") => "adadelta",
        () if has("square_avg") => "rmsprop",
        () if has("momentum_buffer") => "sgd",
        () if has("sum") => "adagrad",
        () => "unknown",
    }
}
