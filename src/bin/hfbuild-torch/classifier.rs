//! ResNet-18's forward in libtorch, in evaluation mode, with torch's own layers.
//!
//! Shares the configuration with the rest of hfbuild, and no arithmetic.

use crate::tensors::{Weights, failed};
use hfbuild::core::error::{Error, Result};
use hfbuild::model::resnet::{Block, Config, is_read};
use hfbuild::model::tensor::StateDict;
use tch::{Device, Kind, TchError, Tensor};

/// What batch norm adds to a variance: torch's default.
const EPSILON: f64 = 1e-5;

/// A ResNet-18 on a device.
pub struct ResNet {
    config: Config,
    weights: Weights,
}

impl ResNet {
    /// Loads the weights.
    ///
    /// # Errors
    /// They do not fit the configuration, or cannot be read.
    pub fn load(dict: &StateDict, config: &Config, device: Device) -> Result<ResNet> {
        config.check(dict)?;
        Ok(ResNet { config: config.clone(), weights: Weights::load(dict, device, is_read)? })
    }

    /// Scores `[B, classes]` of pictures `[B, C, H, W]`.
    ///
    /// # Errors
    /// A shape that does not fit, or libtorch fails.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let shape = pictures.size();
        if shape.len() != 4 || shape[1] != self.config.channels as i64 || shape.contains(&0) {
            return Err(Error::stage(format!("pictures of shape {shape:?} do not fit the classifier")));
        }
        self.scores(pictures).map_err(|e| failed("libtorch's forward of ResNet-18 fails", &e))
    }

    fn scores(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let x = self.convolved(pictures, "conv1", "bn1", 2, 3)?.f_relu()?;
        let mut x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        for block in self.config.blocks() {
            x = self.residual(&x, &block)?;
        }
        let head = &self.config.head;
        let (weight, bias) = (self.weights.get(&format!("{head}.weight"))?, self.weights.get(&format!("{head}.bias"))?);
        x.f_mean_dim(Some([2i64, 3].as_slice()), false, Kind::Float)?.f_linear(weight, Some(bias))
    }

    fn residual(&self, x: &Tensor, block: &Block) -> Result<Tensor, TchError> {
        let name = &block.name;
        let stride = block.stride as i64;
        let hidden = self.convolved(x, &format!("{name}.conv1"), &format!("{name}.bn1"), stride, 1)?.f_relu()?;
        let hidden = self.convolved(&hidden, &format!("{name}.conv2"), &format!("{name}.bn2"), 1, 1)?;
        let shortcut = match block.downsamples() {
            true => self.convolved(x, &format!("{name}.downsample.0"), &format!("{name}.downsample.1"), stride, 0)?,
            false => x.shallow_clone(),
        };
        hidden.f_add(&shortcut)?.f_relu()
    }

    /// A convolution without bias, and the batch norm behind it.
    fn convolved(&self, x: &Tensor, conv: &str, norm: &str, stride: i64, padding: i64) -> Result<Tensor, TchError> {
        let weight = self.weights.get(&format!("{conv}.weight"))?;
        let x = x.f_conv2d(weight, None::<&Tensor>, [stride, stride], [padding, padding], [1, 1], 1)?;
        let part = |part: &str| self.weights.get(&format!("{norm}.{part}"));
        let (weight, bias) = (part("weight")?, part("bias")?);
        let (mean, variance) = (part("running_mean")?, part("running_var")?);
        x.f_batch_norm(Some(weight), Some(bias), Some(mean), Some(variance), false, 0.0, EPSILON, true)
    }
}
