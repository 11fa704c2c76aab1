//! Weights and moving averages in the forms that trainers save them in: by name, by order, behind prefixes.
//!
//! `torch.compile` puts `_orig_mod.` before every name, DataParallel and AveragedModel `module.`, Lightning the name of the
//! attribute that holds the network. A prefix goes where all names have it. It knows no containers and reads no tensor.

use super::value::{TensorRef, Value};
use crate::core::error::{Error, Result};
use crate::model::tensor::is_buffer;
use std::collections::{BTreeSet, HashMap};

/// Prefixes that wrappers of a network put before all of its names.
const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];
/// What Lightning users call the attribute that holds the network.
const LIGHTNING: &str = "model.";
/// Prefixes of a moving average that is a module beside the network.
const EMA_PREFIXES: [&str; 3] = ["ema_model.", "model_ema.", "ema."];
/// Counters that keepers of averages save among the weights: AveragedModel's, ema-pytorch's.
const COUNTERS: [&str; 3] = ["n_averaged", "initted", "step"];

/// Tensors by name, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Named<'a> {
    pub tensors: Vec<(String, &'a TensorRef)>,
    /// What was taken off the names.
    pub prefix: String,
    /// Updates of a moving average, where they stand among its tensors.
    pub updates: Option<&'a TensorRef>,
}

/// The tensors of a dict. `what` names it: "`model` of `x.pt`".
///
/// # Errors
/// No dict, an empty one, an entry that is no tensor.
pub(super) fn by_name<'a>(what: &str, value: &'a Value) -> Result<Named<'a>> {
    let fail = |why: String| Err(Error::stage(format!("{what} {why}")).hint("expected a dict of tensors by name"));
    let Value::Dict(entries) = value else {
        return fail(format!("is {}, not a dict by name", value.describe()));
    };
    if entries.is_empty() {
        return fail("is an empty dict".into());
    }
    let mut tensors = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match (key, value) {
            (Value::Text(key), Value::Tensor(tensor)) => tensors.push((key.to_string(), &**tensor)),
            _ if is_torch_metadata(key, value) => {}
            (Value::Text(_), _) => {
                let (key, kind) = (key.key_text(), value.describe());
                return fail(format!("holds `{key}`, which is {kind} and not a tensor"));
            }
            _ => return fail(format!("has the key `{}`, which is {} and not a name", key.key_text(), key.describe())),
        }
    }
    Ok(Named { tensors, ..Named::default() })
}

/// The tensors of nested dicts, under dotted names; `None` where anything else is in them.
pub(super) fn nested<'a>(value: &'a Value) -> Option<Named<'a>> {
    let mut named = Named::default();
    collect(value, "", &mut named.tensors)?;
    (!named.tensors.is_empty()).then_some(named)
}

fn collect<'a>(value: &'a Value, prefix: &str, into: &mut Vec<(String, &'a TensorRef)>) -> Option<()> {
    let Value::Dict(entries) = value else { return None };
    for (key, value) in entries {
        if is_torch_metadata(key, value) {
            continue;
        }
        let Value::Text(key) = key else { return None };
        let name = format!("{prefix}{key}");
        match value {
            Value::Tensor(tensor) => into.push((name, tensor)),
            _ => collect(value, &format!("{name}."), into)?,
        }
    }
    Some(())
}

/// torch hangs a dict of versions on each state dict; some writers save it as an entry.
pub(super) fn is_torch_metadata(key: &Value, value: &Value) -> bool {
    matches!(key, Value::Text(key) if &**key == "_metadata") && matches!(value, Value::Dict(_))
}

impl<'a> Named<'a> {
    /// Takes off what all names begin with, of the known prefixes.
    pub(super) fn stripped(mut self, lightning: bool) -> Self {
        let prefixes = || WRAPPERS.into_iter().chain(lightning.then_some(LIGHTNING));
        while let Some(prefix) = prefixes().find(|&prefix| self.all_have(prefix)) {
            self.strip(prefix);
        }
        self
    }

    /// The same for a moving average, whose counters may stand between its tensors and its own prefix.
    pub(super) fn stripped_average(mut self, lightning: bool) -> Self {
        let counter =
            |(name, tensor): &(String, &TensorRef)| COUNTERS.contains(&name.as_str()) && tensor.elements() == Some(1);
        loop {
            let (counters, rest): (Vec<_>, Vec<_>) = self.tensors.iter().cloned().partition(counter);
            let rest = Named { tensors: rest, prefix: self.prefix.clone(), updates: self.updates };
            let mut prefixes = WRAPPERS.iter().chain(&EMA_PREFIXES);
            let Some(prefix) = prefixes.find(|prefix| rest.all_have(prefix)) else { return self.stripped(lightning) };
            let updates = counters.iter().find(|(name, _)| name != "initted").map(|(_, tensor)| *tensor);
            self = rest;
            self.updates = updates.or(self.updates);
            self.strip(prefix);
        }
    }

    fn all_have(&self, prefix: &str) -> bool {
        !self.tensors.is_empty()
            && self.tensors.iter().all(|(name, _)| name.len() > prefix.len() && name.starts_with(prefix))
    }

    fn strip(&mut self, prefix: &str) {
        self.tensors.iter_mut().for_each(|(name, _)| drop(name.drain(..prefix.len())));
        self.prefix.push_str(prefix);
    }

    /// Takes out a moving average that stands among the weights behind a prefix of its own. Lightning's always is one;
    /// elsewhere only where it has the names of all the weights.
    pub(super) fn split_average(self, lightning: bool) -> (Named<'a>, Option<Named<'a>>) {
        let prefixed = |prefix: &str| self.tensors.iter().any(|(name, _)| name.starts_with(prefix));
        let Some(prefix) = EMA_PREFIXES.into_iter().find(|prefix| prefixed(prefix)) else { return (self, None) };
        let (mut average, mut raw) = (Named::default(), Named::default());
        for (name, tensor) in &self.tensors {
            let into = if name.starts_with(prefix) { &mut average } else { &mut raw };
            into.tensors.push((name.clone(), *tensor));
        }
        if raw.tensors.is_empty() {
            return (self, None);
        }
        let (raw, average) = (raw.stripped(lightning), average.stripped_average(lightning));
        match lightning || raw.names() == average.names() {
            true => (raw, Some(average)),
            false => (self, None),
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.tensors.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// A moving average saved as a list, in the order of the network's parameters (`torch_ema`, diffusers). Buffers are
    /// no parameters and are taken from the weights; a parameter with two names comes once in the list.
    ///
    /// # Errors
    /// Another number of tensors than parameters, another shape at a place, something that is no tensor.
    pub(super) fn named_by_order(&self, what: &str, items: &'a [Value]) -> Result<Named<'a>> {
        let mut shared = HashMap::new();
        let mut next = items.iter().enumerate();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, parameter) in &self.tensors {
            let place = (&parameter.storage.key, &parameter.storage.view, parameter.offset, &parameter.shape);
            if is_buffer(name) {
                tensors.push((name.clone(), *parameter));
                continue;
            }
            if let Some(&averaged) = shared.get(&place) {
                tensors.push((name.clone(), averaged));
                continue;
            }
            let averaged = match next.next() {
                Some((_, Value::Tensor(tensor))) if tensor.shape == parameter.shape => &**tensor,
                Some((at, Value::Tensor(tensor))) => {
                    return Err(out_of_order(
                        what,
                        &format!(
                            "has shape {:?} at place {at}, the parameter `{name}` has {:?}",
                            tensor.shape, parameter.shape
                        ),
                    ));
                }
                Some((at, other)) => return Err(out_of_order(what, &format!("is {} at place {at}", other.describe()))),
                None => return Err(self.miscounted(what, items.len())),
            };
            shared.insert(place, averaged);
            tensors.push((name.clone(), averaged));
        }
        match next.next() {
            None => Ok(Named { tensors, ..Named::default() }),
            Some(_) => Err(self.miscounted(what, items.len())),
        }
    }

    fn miscounted(&self, what: &str, found: usize) -> Error {
        let parameters = self.tensors.iter().filter(|(name, _)| !is_buffer(name)).count();
        out_of_order(what, &format!("has {found} tensors, the weights have {parameters} parameters"))
    }
}

fn out_of_order(what: &str, why: &str) -> Error {
    Error::stage(format!("{what} is a list without names, and {why}")).hint("save the moving average as a dict by name")
}
