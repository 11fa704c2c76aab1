//! The ResNet-18 classifier: its configuration, told from the keys and shapes of a state dict, and its plain f32 forward,
//! the reference that every graph of it is compared with.
//!
//! Keys are torchvision's; the head is `fc`, or `fc.1` where it is Dropout, Linear. The network is that of He et al.,
//! "Deep Residual Learning", 18 layers, in evaluation mode. The forward shares no code with the ONNX emitter
//! ([`super::onnx::resnet`]) but the configuration. Knows no file and no runtime.

use super::checkpoint::Settings;
use super::matmul::linear;
use super::tensor::StateDict;
use crate::core::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Stages of two blocks each.
pub const STAGES: usize = 4;
/// Blocks a stage.
pub const BLOCKS: usize = 2;
/// What batch norm adds to a variance: torch's default, which torchvision keeps.
const EPSILON: f64 = 1e-5;
/// The largest size believed.
const MAX_SIZE: usize = 1 << 20;

/// The word for this network in facts and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Name {
    /// Eighteen layers of weights.
    #[serde(rename = "resnet18")]
    ResNet18,
}

/// The network's sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The network, so that the configuration says what it is of.
    pub network: Name,
    /// Channels of the first stage (64 in torchvision); each later stage has twice as many as the one before.
    pub width: usize,
    /// Channels of the picture.
    pub channels: usize,
    /// Labels.
    pub num_classes: usize,
    /// The head's Linear: `fc` or `fc.1`.
    pub head: String,
    /// Side of the pictures that it was trained on, where the checkpoint's config or the manifest says it: no shape does,
    /// and the network takes pictures of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
}

impl Config {
    /// Infers the configuration and checks every key and shape against it. `settings` is the checkpoint's `config` with
    /// the manifest's: it may give `image_size`, and must not contradict what shapes say.
    ///
    /// # Errors
    /// A missing or unexpected key, another shape, a setting that contradicts a shape.
    pub fn infer(dict: &StateDict, settings: &Settings) -> Result<Config> {
        let head = if dict.get("fc.1.weight").is_some() { "fc.1" } else { "fc" };
        let size = |name: &str, axis: usize| {
            let size = dict.require(name)?.shape.get(axis).copied().filter(|size| (1..=MAX_SIZE).contains(size));
            size.ok_or_else(|| Error::stage(format!("ResNet-18: tensor `{name}` has an impossible shape")))
        };
        let config = Config {
            network: Name::ResNet18,
            width: size("conv1.weight", 0)?,
            channels: size("conv1.weight", 1)?,
            num_classes: size(&format!("{head}.weight"), 0)?,
            head: head.into(),
            image_size: number(settings, "image_size")?,
        };
        for (key, found) in [("width", config.width), ("num_classes", config.num_classes)] {
            match number(settings, key)? {
                Some(said) if said != found => {
                    return Err(Error::stage(format!(
                        "the checkpoint's config says `{key}` {said}, its tensors say {found}"
                    )));
                }
                _ => {}
            }
        }
        config.check(dict)?;
        Ok(config)
    }

    /// Channels of a stage, 0 to 3.
    pub fn stage_width(&self, stage: usize) -> usize {
        self.width << stage
    }

    /// Whether `dict` has exactly this configuration's keys and shapes. `num_batches_tracked`, which only training uses,
    /// may be there or not.
    ///
    /// # Errors
    /// A missing or unexpected key, another shape.
    pub fn check(&self, dict: &StateDict) -> Result<()> {
        if !(1..=MAX_SIZE).contains(&self.width) {
            return Err(Error::stage(format!("ResNet-18: `width` {} is not in 1..={MAX_SIZE}", self.width)));
        }
        let expected = self.expected();
        for (name, shape) in &expected {
            let Some(tensor) = dict.get(name) else {
                return Err(Error::stage(format!("ResNet-18: tensor `{name}` is missing")));
            };
            if tensor.shape != *shape {
                let found = &tensor.shape;
                return Err(Error::stage(format!(
                    "ResNet-18: tensor `{name}` has shape {found:?}, expected {shape:?}"
                )));
            }
        }
        let known = |name: &str| expected.iter().any(|(key, _)| key == name) || !is_read(name);
        match dict.tensors().iter().find(|tensor| !known(&tensor.name)) {
            Some(tensor) => Err(Error::stage(format!("ResNet-18: tensor `{}` is unexpected", tensor.name))),
            None => Ok(()),
        }
    }

    /// Every key that the forward reads, with its shape.
    fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let mut keys = vec![("conv1.weight".to_owned(), vec![self.width, self.channels, 7, 7])];
        let mut norms = vec![("bn1".to_owned(), self.width)];
        for block in self.blocks() {
            let Block { name, inputs, outputs, .. } = &block;
            keys.push((format!("{name}.conv1.weight"), vec![*outputs, *inputs, 3, 3]));
            keys.push((format!("{name}.conv2.weight"), vec![*outputs, *outputs, 3, 3]));
            norms.extend([(format!("{name}.bn1"), *outputs), (format!("{name}.bn2"), *outputs)]);
            if block.downsamples() {
                keys.push((format!("{name}.downsample.0.weight"), vec![*outputs, *inputs, 1, 1]));
                norms.push((format!("{name}.downsample.1"), *outputs));
            }
        }
        for (norm, width) in norms {
            keys.extend(
                ["weight", "bias", "running_mean", "running_var"].map(|k| (format!("{norm}.{k}"), vec![width])),
            );
        }
        keys.push((format!("{}.weight", self.head), vec![self.num_classes, self.stage_width(STAGES - 1)]));
        keys.push((format!("{}.bias", self.head), vec![self.num_classes]));
        keys
    }

    /// The residual blocks in order.
    pub fn blocks(&self) -> Vec<Block> {
        let block = |stage: usize, n: usize| {
            let outputs = self.stage_width(stage);
            let first = n == 0 && stage > 0;
            Block {
                name: format!("layer{}.{n}", stage + 1),
                inputs: if first { outputs / 2 } else { outputs },
                outputs,
                stride: if first { 2 } else { 1 },
            }
        };
        (0..STAGES).flat_map(|stage| (0..BLOCKS).map(move |n| (stage, n))).map(|(stage, n)| block(stage, n)).collect()
    }
}

/// A residual block: two 3x3 convolutions beside a shortcut.
pub struct Block {
    /// The prefix of its keys.
    pub name: String,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Stride of its first convolution.
    pub stride: usize,
}

impl Block {
    /// Whether the shortcut is a 1x1 convolution.
    pub fn downsamples(&self) -> bool {
        self.inputs != self.outputs
    }
}

/// Whether the keys look like a ResNet-18's (not whether they are complete): blocks of two convolutions, two a stage, and
/// a stem of 7x7. Deeper ResNets, and those for tiny pictures, are other networks.
pub fn looks_like(dict: &StateDict) -> bool {
    let stem = dict.get("conv1.weight").is_some_and(|stem| stem.shape.len() == 4 && stem.shape[2..] == [7, 7]);
    let has = |name: &str| dict.get(name).is_some();
    let deeper =
        (1..=STAGES).any(|s| has(&format!("layer{s}.2.conv1.weight")) || has(&format!("layer{s}.0.conv3.weight")));
    stem && has("layer4.1.conv2.weight") && (has("fc.weight") || has("fc.1.weight")) && !deeper
}

/// Whether evaluation reads a tensor of this name.
pub fn is_read(name: &str) -> bool {
    !name.ends_with(".num_batches_tracked")
}

fn number(settings: &Settings, key: &str) -> Result<Option<usize>> {
    let Some(value) = settings.get(key) else { return Ok(None) };
    let size = value.as_usize().filter(|size| (1..=MAX_SIZE).contains(size));
    size.map(Some).ok_or_else(|| Error::stage(format!("the checkpoint's config has `{key}`, which is no size")))
}

/// Numbers of one picture, `[height * width, channels]`: a row a pixel, so that a convolution is a matrix product.
struct Pixels {
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<f32>,
}

/// A convolution without bias, and the batch norm behind it.
struct Conv {
    weight: Vec<f32>,
    kernel: usize,
    stride: usize,
    /// Batch norm as `y * factor + offset`.
    factor: Vec<f32>,
    offset: Vec<f32>,
}

struct Residual {
    conv1: Conv,
    conv2: Conv,
    shortcut: Option<Conv>,
}

/// A ResNet-18 with its weights in memory as f32.
pub struct ResNet {
    config: Config,
    stem: Conv,
    blocks: Vec<Residual>,
    head: Vec<f32>,
    bias: Vec<f32>,
}

impl ResNet {
    /// Copies the weights out of `dict`.
    ///
    /// # Errors
    /// `dict` does not fit `config`, or cannot be read.
    pub fn load(dict: &StateDict, config: &Config) -> Result<ResNet> {
        config.check(dict)?;
        let residual = |block: &Block| {
            let conv = |conv: &str, bn: &str, kernel, stride| {
                Conv::load(dict, &format!("{}.{conv}", block.name), &format!("{}.{bn}", block.name), kernel, stride)
            };
            let shortcut = block.downsamples().then(|| conv("downsample.0", "downsample.1", 1, block.stride));
            Ok(Residual {
                conv1: conv("conv1", "bn1", 3, block.stride)?,
                conv2: conv("conv2", "bn2", 3, 1)?,
                shortcut: shortcut.transpose()?,
            })
        };
        Ok(ResNet {
            config: config.clone(),
            stem: Conv::load(dict, "conv1", "bn1", 7, 2)?,
            blocks: config.blocks().iter().map(residual).collect::<Result<_>>()?,
            head: dict.require(&format!("{}.weight", config.head))?.f32()?,
            bias: dict.require(&format!("{}.bias", config.head))?.f32()?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Logits `[B, classes]` of pictures `[B, C, height, width]`, of any size.
    ///
    /// # Errors
    /// Numbers that are no whole pictures.
    pub fn forward(&self, pictures: &[f32], height: usize, width: usize) -> Result<Vec<f32>> {
        let size = self.config.channels * height * width;
        if size == 0 || !pictures.len().is_multiple_of(size) {
            let (found, channels) = (pictures.len(), self.config.channels);
            return Err(Error::stage(format!("{found} numbers are no pictures of [{channels}, {height}, {width}]")));
        }
        Ok(pictures.chunks_exact(size).flat_map(|picture| self.logits(picture, height, width)).collect())
    }

    fn logits(&self, picture: &[f32], height: usize, width: usize) -> Vec<f32> {
        let channels = self.config.channels;
        let at = |n: usize| picture[(n % channels) * height * width + n / channels];
        let values = (0..picture.len()).map(at).collect();
        let mut x = pooled(&rectified(self.stem.apply(&Pixels { height, width, channels, values })));
        for block in &self.blocks {
            let hidden = block.conv2.apply(&rectified(block.conv1.apply(&x)));
            let shortcut = block.shortcut.as_ref().map(|conv| conv.apply(&x)).unwrap_or(x);
            let values = hidden.values.iter().zip(&shortcut.values).map(|(a, b)| a + b).collect();
            x = rectified(Pixels { values, ..hidden });
        }
        let pixels = (x.height * x.width) as f64;
        let sum =
            |channel: usize| x.values.iter().skip(channel).step_by(x.channels).map(|&v| f64::from(v)).sum::<f64>();
        let means: Vec<f32> = (0..x.channels).map(|channel| (sum(channel) / pixels) as f32).collect();
        linear(&means, 1, &self.head, &self.bias)
    }
}

impl Conv {
    fn load(dict: &StateDict, conv: &str, bn: &str, kernel: usize, stride: usize) -> Result<Conv> {
        let norm = |part: &str| dict.require(&format!("{bn}.{part}"))?.f32();
        let (scale, shift, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        let factor: Vec<f64> =
            scale.iter().zip(&variance).map(|(s, v)| f64::from(*s) / (f64::from(*v) + EPSILON).sqrt()).collect();
        let offset = factor.iter().zip(&mean).zip(&shift).map(|((f, m), b)| (f64::from(*b) - f64::from(*m) * f) as f32);
        Ok(Conv {
            weight: dict.require(&format!("{conv}.weight"))?.f32()?,
            kernel,
            stride,
            offset: offset.collect(),
            factor: factor.iter().map(|f| *f as f32).collect(),
        })
    }

    /// Convolution with padding of half the kernel, then batch norm.
    fn apply(&self, x: &Pixels) -> Pixels {
        let side = |extent: usize| (extent - 1) / self.stride + 1; // odd kernels, padded by half of themselves
        let (height, width) = (side(x.height), side(x.width));
        let columns = x.channels * self.kernel * self.kernel;
        let mut patches = vec![0.0; height * width * columns];
        patches.par_chunks_mut(columns).enumerate().for_each(|(at, patch)| {
            self.patch(x, patch, at / width * self.stride, at % width * self.stride);
        });
        let mut values = linear(&patches, height * width, &self.weight, &[]);
        for row in values.chunks_exact_mut(self.factor.len()) {
            row.iter_mut().zip(&self.factor).zip(&self.offset).for_each(|((y, f), o)| *y = *y * f + o);
        }
        Pixels { height, width, channels: self.factor.len(), values }
    }

    /// The numbers under the kernel centred at a pixel, in the order of the weight: channel, row, column. Zero outside.
    fn patch(&self, x: &Pixels, patch: &mut [f32], centre_y: usize, centre_x: usize) {
        let half = self.kernel / 2;
        for (n, value) in patch.iter_mut().enumerate() {
            let (channel, ky, kx) = (n / self.kernel / self.kernel, n / self.kernel % self.kernel, n % self.kernel);
            // below zero wraps to a number that is outside too
            let (y, column) = ((centre_y + ky).wrapping_sub(half), (centre_x + kx).wrapping_sub(half));
            if y < x.height && column < x.width {
                *value = x.values[(y * x.width + column) * x.channels + channel];
            }
        }
    }
}

fn rectified(mut x: Pixels) -> Pixels {
    x.values.iter_mut().for_each(|v| *v = v.max(0.0));
    x
}

/// The largest of 3x3 at every second pixel, padded.
fn pooled(x: &Pixels) -> Pixels {
    let (height, width) = ((x.height - 1) / 2 + 1, (x.width - 1) / 2 + 1);
    let mut values = vec![f32::NEG_INFINITY; height * width * x.channels];
    for (at, out) in values.chunks_exact_mut(x.channels).enumerate() {
        let (centre_y, centre_x) = (at / width * 2, at % width * 2);
        for y in centre_y.saturating_sub(1)..=(centre_y + 1).min(x.height - 1) {
            for column in centre_x.saturating_sub(1)..=(centre_x + 1).min(x.width - 1) {
                let row = &x.values[(y * x.width + column) * x.channels..][..x.channels];
                out.iter_mut().zip(row).for_each(|(out, v)| *out = out.max(*v));
            }
        }
    }
    Pixels { height, width, channels: x.channels, values }
}
