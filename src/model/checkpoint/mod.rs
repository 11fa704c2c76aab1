//! Training checkpoints: what `torch.save` (zip or legacy) and safetensors files hold, read without running pickle code.
//!
//! [`Checkpoint::open`] tells the container by its first bytes and the layout by its keys (never by the file's name),
//! and hands out state dicts whose tensors are read when asked for. The way in: [`zip`] and [`storages`] (containers) ->
//! [`unpickle`] (opcodes; [`globals`] is the set of what may be named, [`reduce`] what calls become, [`tree`] bounds what
//! they unfold to) -> [`value`] -> [`layout`] ([`weights`], [`training`]). [`sharded`] reads safetensors with an index.
//!
//! Refused: pickles that name code, compressed archives, Git LFS pointers, tensors that reach beyond their storage, what is
//! truncated. Memory is bounded by the pickle, never by a claimed size. It does not know what network the tensors are of.

pub mod calls;
pub mod commit;
pub mod globals;
mod layout;
mod reduce;
pub mod sharded;
pub mod storages;
mod training;
mod tree;
pub mod unpickle;
pub mod value;
mod weights;
pub mod zip;

use super::architecture::Architecture;
use super::magic::{self, Magic};
use super::safetensors_out::{self, SafetensorsFile};
use super::tensor::StateDict;
use crate::core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `torch.save` since PyTorch 1.6.
    Zip,
    /// `torch.save` before PyTorch 1.6.
    Legacy,
    /// A safetensors file.
    Safetensors,
    /// An index of safetensors shards.
    SafetensorsIndex,
}

impl Container {
    /// The word for facts: `zip`, `legacy`, `safetensors` or `safetensors_index`.
    pub fn name(self) -> &'static str {
        match self {
            Container::Zip => "zip",
            Container::Legacy => "legacy",
            Container::Safetensors => "safetensors",
            Container::SafetensorsIndex => "safetensors_index",
        }
    }
}

/// How the saved dict is laid out, told from its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A: `model`, `ema_params`, `step`, `config`.
    Export,
    /// B: `model_state_dict`, `ema_shadow_params`, `step`, `optimizer_state_dict`, ...
    Trainer,
    /// C: `epoch`, `model_state_dict`, `val_acc`, ...
    Classifier,
    /// D: `shadow_params`, `step`.
    EmaHelper,
    /// Lightning's: `state_dict`, `hyper_parameters`, `callbacks`, `global_step`, ...
    Lightning,
    /// The state dict itself.
    Bare,
}

impl Layout {
    /// The word for facts: `export`, `trainer`, `classifier`, `ema_helper`, `lightning` or `bare`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Export => "export",
            Layout::Trainer => "trainer",
            Layout::Classifier => "classifier",
            Layout::EmaHelper => "ema_helper",
            Layout::Lightning => "lightning",
            Layout::Bare => "bare",
        }
    }
}

/// Which weights of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsChoice {
    /// The weights as the optimizer left them.
    Raw,
    /// Their exponential moving average.
    Ema,
}

/// A plain value of a checkpoint's `config`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `None`.
    Null,
    /// A bool.
    Bool(bool),
    /// An int.
    Int(i64),
    /// A float.
    Float(f64),
    /// A str.
    Text(String),
    /// A list or tuple of plain values.
    List(Vec<Scalar>),
}

impl Scalar {
    /// The value as a non-negative integer, if it is one.
    pub fn as_usize(&self) -> Option<usize> {
        match self {
            Scalar::Int(value) => usize::try_from(*value).ok(),
            Scalar::Float(value) if *value >= 0.0 && value.fract() == 0.0 && *value < 1e15 => Some(*value as usize),
            _ => None,
        }
    }
    /// The value as an integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Scalar::Int(value) => Some(*value),
            Scalar::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(*value as i64),
            _ => None,
        }
    }
    /// The value as a float, if it is a number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Scalar::Int(value) => Some(*value as f64),
            Scalar::Float(value) => Some(*value),
            _ => None,
        }
    }
}

/// How the moving average is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmaForm {
    /// A dict by name.
    ByName,
    /// A list in the order of the parameters.
    ByOrder,
    /// Among the weights, behind a prefix of its own.
    Prefix,
    /// In the state of a Lightning callback.
    Callback,
    /// In the place of the weights, with the raw ones beside it (Lightning's WeightAveraging).
    Averaged,
}

impl EmaForm {
    /// The word for facts: `by_name`, `by_order`, `prefix`, `callback` or `averaged`.
    pub fn name(self) -> &'static str {
        match self {
            EmaForm::ByName => "by_name",
            EmaForm::ByOrder => "by_order",
            EmaForm::Prefix => "prefix",
            EmaForm::Callback => "callback",
            EmaForm::Averaged => "averaged",
        }
    }
}

/// An optimizer's state: never published, but told.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// Which optimizer, by what it keeps: `adam or adamw`, `sgd`, `unknown`, ...
    pub kind: &'static str,
    /// Tensors that it keeps.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The first group's settings: `lr`, `betas`, ...
    pub settings: Settings,
}

/// A checkpoint's settings by name; nested dicts give dotted names.
pub type Settings = BTreeMap<String, Scalar>;

/// What a checkpoint file holds. At least one of `raw` and `ema` is there.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What the file is.
    pub container: Container,
    /// How its dict is laid out.
    pub layout: Layout,
    /// The weights.
    pub raw: Option<StateDict>,
    /// Their moving average, with the same keys as `raw` where both are there.
    pub ema: Option<StateDict>,
    /// Optimizer steps taken.
    pub step: Option<i64>,
    /// Epochs done.
    pub epoch: Option<i64>,
    /// Last training loss.
    pub loss: Option<f64>,
    /// Updates of the moving average.
    pub ema_step: Option<i64>,
    /// Validation accuracy, as the trainer gave it (fraction or percent).
    pub val_acc: Option<f64>,
    /// The commit of the training code, as the trainer recorded it: hexadecimal, with `-dirty` where it says so.
    pub training_commit: Option<String>,
    /// When the trainer says that it saved.
    pub timestamp: Option<String>,
    /// How `ema` is saved.
    pub ema_form: Option<EmaForm>,
    /// What was taken off all names: `_orig_mod.`, `module.`, Lightning's `model.`.
    pub prefix: Option<String>,
    /// The trainer's settings.
    pub config: Settings,
    /// The optimizer's state.
    pub optimizer: Option<OptimizerState>,
    /// Plain values under keys that mean nothing here, dotted.
    pub extras: Settings,
    /// What is there and is neither weights nor a plain value: name and what it is, e.g. `rng` -> `a tensor`.
    pub unread: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a checkpoint. Reads the pickle and no tensor.
    ///
    /// # Errors
    /// Empty, truncated, a Git LFS pointer, no checkpoint at all, hostile or unknown globals, a dict whose keys fit no
    /// layout, moving averages whose keys differ from the raw weights'.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        match magic::sniff(path)? {
            Magic::Safetensors => open_safetensors(path),
            Magic::Zip => layout::read(path, Container::Zip, &storages::open_zip(path)?),
            Magic::TorchLegacy => layout::read(path, Container::Legacy, &storages::open_legacy(path)?),
            Magic::Json => open_sharded(path),
            other => Err(Error::stage(format!(
                "`{}` is not a checkpoint, it looks like {}",
                path.display(),
                other.describe()
            ))
            .hint("expected a file of `torch.save`, a safetensors file, or an index of safetensors shards")),
        }
    }

    /// The weights asked for.
    ///
    /// # Errors
    /// They are not in the checkpoint.
    pub fn select(&self, choice: WeightsChoice) -> Result<&StateDict> {
        let (found, absent, hint) = match choice {
            WeightsChoice::Raw => {
                (&self.raw, "raw weights", "it holds a moving average alone: set `weights = \"ema\"`")
            }
            WeightsChoice::Ema => {
                (&self.ema, "moving average (EMA)", "set `weights = \"raw\"`, or save the EMA as a dict by name")
            }
        };
        let layout = self.layout.name();
        found
            .as_ref()
            .ok_or_else(|| Error::stage(format!("the checkpoint (layout `{layout}`) holds no {absent}")).hint(hint))
    }

    fn empty(container: Container, layout: Layout) -> Checkpoint {
        Checkpoint {
            container,
            layout,
            raw: None,
            ema: None,
            step: None,
            epoch: None,
            loss: None,
            ema_step: None,
            val_acc: None,
            training_commit: None,
            timestamp: None,
            ema_form: None,
            prefix: None,
            config: Settings::new(),
            optimizer: None,
            extras: Settings::new(),
            unread: BTreeMap::new(),
        }
    }
}

fn open_safetensors(path: &Path) -> Result<Checkpoint> {
    let file = safetensors_out::open(path)?;
    let config = said(&file, path)?;
    let extras = file.metadata.into_iter().map(|(name, value)| (name, Scalar::Text(value))).collect();
    let mut checkpoint = Checkpoint {
        raw: Some(file.tensors),
        config,
        extras,
        ..Checkpoint::empty(Container::Safetensors, Layout::Bare)
    };
    commit::read(&mut checkpoint);
    Ok(checkpoint)
}

fn open_sharded(path: &Path) -> Result<Checkpoint> {
    let file = sharded::open(path)?;
    let config = said(&file, path)?;
    Ok(Checkpoint { raw: Some(file.tensors), config, ..Checkpoint::empty(Container::SafetensorsIndex, Layout::Bare) })
}

/// The configuration that hfbuild wrote into the metadata when it made the file: it says what shapes cannot (heads, the
/// image size of layout `v1`). Empty where others made it.
fn said(file: &SafetensorsFile, path: &Path) -> Result<Settings> {
    let said = Architecture::of_metadata(&file.metadata).map_err(|e| e.within(&format!("`{}`", path.display())))?;
    let sizes = said.map(|architecture| architecture.sizes()).unwrap_or_default();
    Ok(sizes.into_iter().map(|(name, size)| (name.to_string(), Scalar::Int(size as i64))).collect())
}
