//! TinyDiT's configuration, told from the keys and shapes of a state dict.
//!
//! The table of keys is that of `tinydit.md`, section 1. A missing key, an unexpected key or another shape is an error
//! that names it; nothing is ever loaded partly. Knows no arithmetic: that is [`super::network`]'s (the reference)
//! and [`super::onnx`]'s (the graph), which share nothing but this configuration.

use super::checkpoint::Settings;
use super::tensor::StateDict;
use crate::core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The largest size believed: products of three stay within 64 bits.
const MAX_SIZE: usize = 1 << 20;

/// The two layouts of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkLayout {
    /// February: no positional embedding, t raw, interleaving unpatchify, no null label.
    V1,
    /// September: `pos_embed`, t times 1000, right unpatchify, null label after the last.
    V2,
}

impl NetworkLayout {
    /// `v1` or `v2`.
    pub fn name(self) -> &'static str {
        match self {
            NetworkLayout::V1 => "v1",
            NetworkLayout::V2 => "v2",
        }
    }
}

/// The key of a safetensors header's metadata that holds a [`Config`] as JSON.
pub const CONFIG_KEY: &str = "hfbuild.config";

/// The network's sizes. Pictures are square.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The layout.
    pub layout: NetworkLayout,
    /// Side of the picture, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Channels of the picture.
    pub channels: usize,
    /// Labels, without the null label.
    pub num_classes: usize,
    /// Width of a token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the hidden layer of a block's MLP.
    pub mlp_dim: usize,
    /// Width of the time embedding before its MLP (sines and cosines).
    pub frequency_dim: usize,
}

impl Config {
    /// Patches a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
    /// Tokens a picture.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
    }
    /// Numbers of one patch: side x side x channels.
    pub fn patch_len(&self) -> usize {
        self.patch_size * self.patch_size * self.channels
    }
    /// Numbers of one picture.
    pub fn picture_len(&self) -> usize {
        self.channels * self.image_size * self.image_size
    }
    /// Rows of the label embedding.
    pub fn embedding_rows(&self) -> usize {
        match self.layout {
            NetworkLayout::V1 => self.num_classes,
            NetworkLayout::V2 => self.num_classes + 1,
        }
    }
    /// The label of the unconditional prediction: the last label ("Other", 12 of 13) in `v1`, the one after it in `v2`.
    pub fn null_label(&self) -> i64 {
        self.embedding_rows() as i64 - 1
    }

    /// Infers the configuration and checks every key and shape against it. `settings` is the checkpoint's `config` (or
    /// the manifest's): it gives what shapes cannot (heads; the image size in `v1`) and must not contradict them.
    ///
    /// # Errors
    /// Not a TinyDiT, a missing or unexpected key, another shape, a setting that is missing or contradicts a shape.
    pub fn infer(dict: &StateDict, settings: &Settings) -> Result<Config> {
        let [embed_dim, channels, patch_size, width] = dims(dict, "patch_embed.proj.weight")?;
        let [rows, _] = dims(dict, "breed_embedder.embedding.weight")?;
        let [_, frequency_dim] = dims(dict, "t_embedder.mlp.0.weight")?;
        let [mlp_dim, _] = dims(dict, "blocks.0.mlp.fc1.weight")?;
        if width != patch_size || [embed_dim, channels, patch_size, rows].contains(&0) {
            return Err(shape_error(dict, "patch_embed.proj.weight", "a square, non-empty patch"));
        }
        let layout = if dict.get("pos_embed").is_some() { NetworkLayout::V2 } else { NetworkLayout::V1 };
        let num_classes = if layout == NetworkLayout::V2 { rows - 1 } else { rows };
        let image_size = image_size(dict, settings, layout, patch_size)?;
        let num_heads = required(settings, "num_heads", "how many heads attention has is in no tensor's shape")?;
        let depth = depth(dict);
        for (key, found) in [
            ("patch_size", patch_size),
            ("embed_dim", embed_dim),
            ("depth", depth),
            ("num_classes", num_classes),
            ("channels", channels),
            ("in_channels", channels),
        ] {
            agree(settings, key, found)?;
        }
        let config = Config {
            layout,
            image_size,
            patch_size,
            channels,
            num_classes,
            embed_dim,
            depth,
            num_heads,
            mlp_dim,
            frequency_dim,
        };
        config.check(dict)?;
        Ok(config)
    }

    /// Whether the sizes fit one another and `dict` has exactly this configuration's keys and shapes.
    ///
    /// # Errors
    /// Sizes that do not fit, a missing or unexpected key, another shape.
    pub fn check(&self, dict: &StateDict) -> Result<()> {
        self.check_sizes()?;
        if self.depth > dict.len() {
            return Err(Error::stage(format!("TinyDiT: `depth` is {}, more than there are tensors", self.depth)));
        }
        self.check_keys(dict)
    }

    fn check_sizes(&self) -> Result<()> {
        let fail = |what: String| Err(Error::stage(format!("the network's sizes do not fit: {what}")));
        let sizes = [self.image_size, self.patch_size, self.channels, self.num_classes, self.embed_dim, self.mlp_dim];
        if let Some(size) = sizes.iter().find(|size| !(1..=MAX_SIZE).contains(*size)) {
            return fail(format!("{size} is not in 1..={MAX_SIZE}"));
        }
        if self.num_heads == 0 || !self.embed_dim.is_multiple_of(self.num_heads) {
            return fail(format!("`embed_dim` {} is no multiple of `num_heads` {}", self.embed_dim, self.num_heads));
        }
        if self.image_size == 0 || !self.image_size.is_multiple_of(self.patch_size) {
            return fail(format!(
                "`image_size` {} is no multiple of `patch_size` {}",
                self.image_size, self.patch_size
            ));
        }
        if self.frequency_dim == 0 || self.frequency_dim > MAX_SIZE || !self.frequency_dim.is_multiple_of(2) {
            return fail(format!("the time embedding's width {} is not even, or out of range", self.frequency_dim));
        }
        Ok(())
    }

    /// Every key with its shape.
    pub fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let (e, hidden, patch) = (self.embed_dim, self.mlp_dim, self.patch_len());
        let mut keys: Vec<(String, Vec<usize>)> = vec![];
        let mut add = |name: String, shape: &[usize]| keys.push((name, shape.to_vec()));
        if self.layout == NetworkLayout::V2 {
            add("pos_embed".into(), &[1, self.tokens(), e]);
        }
        add("breed_embedder.embedding.weight".into(), &[self.embedding_rows(), e]);
        let mut layer = |name: &str, shape: &[usize]| {
            add(format!("{name}.weight"), shape);
            add(format!("{name}.bias"), &shape[..1]);
        };
        layer("patch_embed.proj", &[e, self.channels, self.patch_size, self.patch_size]);
        layer("t_embedder.mlp.0", &[e, self.frequency_dim]);
        layer("t_embedder.mlp.2", &[e, e]);
        for n in 0..self.depth {
            layer(&format!("blocks.{n}.norm1"), &[e]);
            layer(&format!("blocks.{n}.norm2"), &[e]);
            layer(&format!("blocks.{n}.attn.proj"), &[e, e]);
            layer(&format!("blocks.{n}.mlp.fc1"), &[hidden, e]);
            layer(&format!("blocks.{n}.mlp.fc2"), &[e, hidden]);
            layer(&format!("blocks.{n}.adaLN_modulation.1"), &[6 * e, e]);
        }
        layer("final_layer.norm_final", &[e]);
        layer("final_layer.linear", &[patch, e]);
        layer("final_layer.adaLN_modulation.1", &[2 * e, e]);
        for n in 0..self.depth {
            add(format!("blocks.{n}.attn.qkv.weight"), &[3 * e, e]);
        }
        keys.sort();
        keys
    }

    fn check_keys(&self, dict: &StateDict) -> Result<()> {
        let expected = self.expected();
        let network = format!("TinyDiT {}", self.layout.name());
        for (name, shape) in &expected {
            let Some(tensor) = dict.get(name) else {
                return Err(Error::stage(format!("{network}: tensor `{name}` is missing")));
            };
            if tensor.shape != *shape {
                let found = &tensor.shape;
                return Err(Error::stage(format!(
                    "{network}: tensor `{name}` has shape {found:?}, expected {shape:?}"
                )));
            }
        }
        let known = |name: &str| expected.binary_search_by(|(key, _)| key.as_str().cmp(name)).is_ok();
        match dict.tensors().iter().find(|tensor| !known(&tensor.name)) {
            Some(tensor) => Err(Error::stage(format!("{network}: tensor `{}` is unexpected", tensor.name))),
            None => Ok(()),
        }
    }
}

/// Whether the keys look like a TinyDiT's at all (not whether they are complete).
pub fn looks_like(dict: &StateDict) -> bool {
    // none of these keys alone must be enough to lose a network by: what lacks one is a TinyDiT that is damaged
    let has = |key: &str| dict.get(key).is_some();
    has("breed_embedder.embedding.weight")
        || (has("patch_embed.proj.weight") && has("final_layer.adaLN_modulation.1.weight"))
}

/// Whether the weights are as initialisation leaves them, so that nothing was ever trained: the final layer's weight and
/// bias are all zero, or every norm still has ones for its weight and zeros for its bias.
///
/// # Errors
/// A tensor is missing or cannot be read.
pub fn freshly_initialised(dict: &StateDict) -> Result<bool> {
    let all = |name: &str, value: f32| -> Result<bool> { Ok(dict.require(name)?.f32()?.iter().all(|v| *v == value)) };
    if all("final_layer.linear.weight", 0.0)? && all("final_layer.linear.bias", 0.0)? {
        return Ok(true);
    }
    let norms = dict.tensors().iter().filter_map(|tensor| {
        let (layer, part) = tensor.name.rsplit_once('.')?;
        layer.rsplit('.').next()?.starts_with("norm").then_some((tensor.name.as_str(), part == "weight"))
    });
    for (name, is_weight) in norms {
        if !all(name, if is_weight { 1.0 } else { 0.0 })? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn dims<const N: usize>(dict: &StateDict, name: &str) -> Result<[usize; N]> {
    let tensor = dict.get(name).ok_or_else(|| {
        Error::stage(format!("this is no TinyDiT: tensor `{name}` is missing"))
            .hint("the network is told from the keys of the state dict; `tinydit.md` lists them")
    })?;
    <[usize; N]>::try_from(tensor.shape.as_slice()).map_err(|_| shape_error(dict, name, &format!("{N} dimensions")))
}

fn shape_error(dict: &StateDict, name: &str, expected: &str) -> Error {
    let found = dict.get(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    Error::stage(format!("tensor `{name}` has shape {found:?}, expected {expected}"))
}

fn depth(dict: &StateDict) -> usize {
    let numbers = dict.tensors().iter().filter_map(|t| t.name.strip_prefix("blocks.")?.split_once('.')?.0.parse().ok());
    // Bounded by the number of tensors: a hostile `blocks.99999999.x` shall not make a list that long.
    numbers.max().map_or(0, |last: usize| last.saturating_add(1)).min(dict.len())
}

fn image_size(dict: &StateDict, settings: &Settings, layout: NetworkLayout, patch: usize) -> Result<usize> {
    if layout == NetworkLayout::V1 {
        return required(settings, "image_size", "layout `v1` has no positional embedding that would give it");
    }
    let [_, tokens, _] = dims(dict, "pos_embed")?;
    let side = tokens.isqrt();
    if side * side != tokens {
        return Err(shape_error(dict, "pos_embed", "a square number of tokens"));
    }
    agree(settings, "image_size", side * patch)?;
    Ok(side * patch)
}

fn required(settings: &Settings, key: &str, why: &str) -> Result<usize> {
    match settings.get(key) {
        Some(value) => value.as_usize().ok_or_else(|| not_a_number(key)),
        None => Err(Error::stage(format!("the checkpoint's config lacks `{key}`: {why}"))
            .hint(format!("give `{key}` in the artifact's `config` table of the manifest"))),
    }
}

fn agree(settings: &Settings, key: &str, found: usize) -> Result<()> {
    let Some(value) = settings.get(key) else { return Ok(()) };
    match value.as_usize().ok_or_else(|| not_a_number(key))? {
        said if said == found => Ok(()),
        said => Err(Error::stage(format!("the checkpoint's config says `{key}` {said}, its tensors say {found}"))),
    }
}

fn not_a_number(key: &str) -> Error {
    Error::stage(format!("the checkpoint's config has `{key}`, which is not a whole number"))
}
