//! Training checkpoints: what `torch.save` (zip or legacy) and safetensors files hold, read without running pickle code.
//!
//! [`Checkpoint::open`] tells the container by its first bytes and the layout by its keys (never by the file's name),
//! refuses hostile pickles ([`globals`]), compressed archives ([`zip`]), Git LFS pointers and truncated files, and hands
//! out state dicts whose tensors are read when asked for. It does not know what network the tensors are of.

pub mod globals;
mod layout;
pub mod zip;

use super::magic::{self, Magic};
use super::safetensors_out;
use super::tensor::{StateDict, TensorEntry};
use crate::core::error::{Error, OnPath, Result};
use pytorch_reader::{PickleValue, PytorchReader};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;

/// Largest `data.pkl` read.
const MAX_PICKLE: u64 = 100 << 20;
/// Pickles that open a legacy file: magic number, protocol, system info, the object, the storage keys.
const LEGACY_PICKLES: usize = 5;

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `torch.save` since PyTorch 1.6.
    Zip,
    /// `torch.save` before PyTorch 1.6.
    Legacy,
    /// A safetensors file.
    Safetensors,
}

impl Container {
    /// The word for facts: `zip`, `legacy` or `safetensors`.
    pub fn name(self) -> &'static str {
        match self {
            Container::Zip => "zip",
            Container::Legacy => "legacy",
            Container::Safetensors => "safetensors",
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
    /// The state dict itself.
    Bare,
}

impl Layout {
    /// The word for facts: `export`, `trainer`, `classifier`, `ema_helper` or `bare`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Export => "export",
            Layout::Trainer => "trainer",
            Layout::Classifier => "classifier",
            Layout::EmaHelper => "ema_helper",
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
    /// When the trainer says that it saved.
    pub timestamp: Option<String>,
    /// The trainer's settings.
    pub config: Settings,
    /// Values that are there but are no plain Python values: name and Python type, e.g. `loss` -> `numpy...scalar`.
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
            Magic::Zip => {
                scan_zip(path)?;
                open_torch(path, Container::Zip)
            }
            Magic::TorchLegacy => {
                scan_legacy(path)?;
                open_torch(path, Container::Legacy)
            }
            other => Err(Error::stage(format!(
                "`{}` is not a checkpoint, it looks like {}",
                path.display(),
                other.describe()
            ))
            .hint("expected a file of `torch.save`, or a safetensors file")),
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
            timestamp: None,
            config: Settings::new(),
            unread: BTreeMap::new(),
        }
    }
}

fn open_safetensors(path: &Path) -> Result<Checkpoint> {
    let raw = Some(safetensors_out::read_state_dict(path)?);
    Ok(Checkpoint { raw, ..Checkpoint::empty(Container::Safetensors, Layout::Bare) })
}

/// Refuses what `torch.save` does not write, then walks the pickle.
fn scan_zip(path: &Path) -> Result<()> {
    let mut archive = zip::Archive::open(path)?;
    let name = format!("`{}`", path.display());
    if archive.entries.iter().any(|e| e.name.ends_with("/constants.pkl") || e.name.contains("/code/")) {
        return Err(Error::stage(format!("{name} is a TorchScript program, not a checkpoint"))
            .hint("save `model.state_dict()` with `torch.save`"));
    }
    if let Some(entry) = archive.entries.iter().find(|e| e.method != 0 || e.size != e.compressed) {
        let (entry, claimed) = (&entry.name, entry.size);
        return Err(Error::stage(format!(
            "{name} holds the compressed entry `{entry}` ({claimed} bytes once unpacked)"
        ))
        .hint("`torch.save` stores entries uncompressed: save the checkpoint again with it"));
    }
    let pickles: Vec<_> = archive.entries.iter().filter(|e| is_pickle(&e.name)).cloned().collect();
    let [pickle] = pickles.as_slice() else {
        let found = pickles.len();
        return Err(Error::stage(format!(
            "{name} is a zip archive with {found} `data.pkl` entries, a checkpoint has one"
        ))
        .hint("expected a file of `torch.save`"));
    };
    let bytes = archive.read(pickle, MAX_PICKLE)?;
    globals::scan(&mut Cursor::new(bytes), &name)
}

fn is_pickle(entry: &str) -> bool {
    entry == "data.pkl" || entry.ends_with("/data.pkl")
}

fn scan_legacy(path: &Path) -> Result<()> {
    let mut input = BufReader::new(File::open(path).on("open", path)?);
    let name = format!("`{}`", path.display());
    (0..LEGACY_PICKLES).try_for_each(|_| globals::scan(&mut input, &name))
}

/// A torch file's tensors by dotted path, and the plain values beside them.
pub(super) struct Saved {
    tensors: HashMap<String, pytorch_reader::Tensor>,
    root: HashMap<String, PickleValue>,
}

fn open_torch(path: &Path, container: Container) -> Result<Checkpoint> {
    let unreadable = |cause: pytorch_reader::PytorchError| {
        Error::stage(format!("cannot read `{}` as a torch checkpoint", path.display()))
            .cause(cause.to_string())
            .hint("the file is damaged, truncated, or holds what no state dict holds")
    };
    let PickleValue::Dict(root) = PytorchReader::read_pickle_data(path, None).map_err(unreadable)? else {
        return Err(Error::stage(format!("`{}` does not hold a dict", path.display()))
            .hint("save `model.state_dict()`, or a dict that holds it"));
    };
    let tensors = PytorchReader::new(path).map_err(unreadable)?.into_tensors();
    let length = std::fs::metadata(path).on("stat", path)?.len();
    if let Some(tensor) = tensors.values().find(|tensor| tensor.byte_len() as u64 > length) {
        let (name, bytes) = (&tensor.name, tensor.byte_len());
        return Err(Error::stage(format!("tensor `{name}` claims {bytes} bytes, `{}` has {length}", path.display()))
            .hint("the file is damaged, or the tensor is an expanded view: save `tensor.contiguous()`"));
    }
    layout::read(path, container, Saved { tensors, root })
}

fn state_dict(tensors: impl Iterator<Item = (String, pytorch_reader::Tensor)>) -> Result<StateDict> {
    StateDict::new(tensors.map(|(name, tensor)| TensorEntry::torch(name, tensor)).collect())
}
