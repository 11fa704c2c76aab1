//! TinyDiT's forward in libtorch: the formulas of `tinydit.md`, section 1, with torch's own layers and attention.
//!
//! Shares the configuration with the rest of hfbuild, and no arithmetic.

use crate::tensors::{Weights, failed};
use hfbuild::core::error::{Error, Result};
use hfbuild::model::tensor::StateDict;
use hfbuild::model::tinydit::{Config, NetworkLayout};
use tch::{Device, Kind, TchError, Tensor};

/// What layer norm adds to a variance: torch's default.
const EPSILON: f64 = 1e-5;

/// A TinyDiT on a device.
pub struct TinyDit {
    config: Config,
    weights: Weights,
    device: Device,
}

impl TinyDit {
    /// Loads the weights.
    ///
    /// # Errors
    /// They do not fit the configuration, or cannot be read.
    pub fn load(dict: &StateDict, config: &Config, device: Device) -> Result<TinyDit> {
        config.check(dict)?;
        Ok(TinyDit { config: config.clone(), weights: Weights::load(dict, device, |_| true)?, device })
    }

    /// Velocity `[B, C, S, S]` at `noise` `[B, C, S, S]`, `t` `[B]` and labels `breed` `[B]`.
    ///
    /// # Errors
    /// Shapes that do not fit, a label outside the embedding, or libtorch fails.
    pub fn forward(&self, noise: &Tensor, t: &Tensor, breed: &Tensor) -> Result<Tensor> {
        let failed = |e: TchError| failed("libtorch's forward of TinyDiT fails", &e);
        let (channels, side) = (self.config.channels as i64, self.config.image_size as i64);
        let batch = t.size().first().copied().unwrap_or_default();
        let fits = noise.size() == [batch, channels, side, side] && t.size() == [batch] && breed.size() == [batch];
        if !fits || batch == 0 {
            let (noise, t, breed) = (noise.size(), t.size(), breed.size());
            return Err(Error::stage(format!("noise {noise:?}, timestep {t:?} and breed {breed:?} do not fit")));
        }
        // on a device a label that is outside would end the process
        let labels = Vec::<i64>::try_from(breed.f_to_device(Device::Cpu).map_err(failed)?).map_err(failed)?;
        let rows = self.config.embedding_rows() as i64;
        if let Some(label) = labels.iter().find(|label| !(0..rows).contains(*label)) {
            return Err(Error::stage(format!("label {label} is outside 0..{rows}, the rows of the embedding")));
        }
        self.velocity(noise, t, breed).map_err(failed)
    }

    fn velocity(&self, noise: &Tensor, t: &Tensor, breed: &Tensor) -> Result<Tensor, TchError> {
        let condition = self.condition(t, breed)?.f_silu()?;
        let mut x = self.embedded(noise)?;
        for n in 0..self.config.depth {
            x = self.block(&x, &condition, &format!("blocks.{n}"))?;
        }
        let modulation = self.modulation(&condition, "final_layer", 2)?;
        let x = self.modulated(&x, "final_layer.norm_final", &modulation[0], &modulation[1])?;
        self.unpatchified(&self.linear(&x, "final_layer.linear")?)
    }

    /// Time embedding plus label embedding, `[B, E]`.
    fn condition(&self, t: &Tensor, breed: &Tensor) -> Result<Tensor, TchError> {
        let half = (self.config.frequency_dim / 2) as i64;
        let t = if self.config.layout == NetworkLayout::V2 { t * 1000.0 } else { t.shallow_clone() };
        let exponents = Tensor::f_arange(half, (Kind::Float, self.device))? * (-(10000f64.ln()) / half as f64);
        let angles = t.f_outer(&exponents.f_exp()?)?;
        let waves = Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], -1)?;
        let time = self.linear(&self.linear(&waves, "t_embedder.mlp.0")?.f_silu()?, "t_embedder.mlp.2")?;
        let labels = self.weights.get("breed_embedder.embedding.weight")?;
        time.f_add(&Tensor::f_embedding(labels, breed, -1, false, false)?)
    }

    /// Patches as tokens, `[B, tokens, E]`.
    fn embedded(&self, noise: &Tensor) -> Result<Tensor, TchError> {
        let patch = self.config.patch_size as i64;
        let (weight, bias) = (self.weights.get("patch_embed.proj.weight")?, self.weights.get("patch_embed.proj.bias")?);
        let x = noise.f_conv2d(weight, Some(bias), [patch, patch], [0, 0], [1, 1], 1)?;
        let x = x.f_flatten(2, -1)?.f_transpose(1, 2)?;
        match self.weights.maybe("pos_embed") {
            Some(position) => x.f_add(position),
            None => Ok(x),
        }
    }

    fn block(&self, x: &Tensor, condition: &Tensor, name: &str) -> Result<Tensor, TchError> {
        let parts = self.modulation(condition, name, 6)?;
        let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate] = &parts[..] else {
            return Err(TchError::Shape(format!("the modulation of `{name}` has {} parts", parts.len())));
        };
        let input = self.modulated(x, &format!("{name}.norm1"), shift, scale)?;
        let x = x.f_add(&gate.f_mul(&self.attention(&input, name)?)?)?;
        let input = self.modulated(&x, &format!("{name}.norm2"), mlp_shift, mlp_scale)?;
        let hidden = self.linear(&input, &format!("{name}.mlp.fc1"))?.f_gelu("none")?;
        x.f_add(&mlp_gate.f_mul(&self.linear(&hidden, &format!("{name}.mlp.fc2"))?)?)
    }

    fn attention(&self, x: &Tensor, name: &str) -> Result<Tensor, TchError> {
        let (heads, width) = (self.config.num_heads as i64, self.config.head_dim() as i64);
        let (batch, tokens, embed) = x.size3()?;
        let qkv = self.linear(x, &format!("{name}.attn.qkv"))?.f_reshape([batch, tokens, 3, heads, width])?;
        let qkv = qkv.f_permute([2, 0, 3, 1, 4])?;
        let (query, key, value) = (qkv.f_get(0)?, qkv.f_get(1)?, qkv.f_get(2)?);
        // softmax(query * key^T / sqrt(width)) * value
        let x = Tensor::f_scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            false,
            None::<f64>,
            false,
        )?;
        self.linear(&x.f_transpose(1, 2)?.f_reshape([batch, tokens, embed])?, &format!("{name}.attn.proj"))
    }

    /// The parts of a layer's modulation, `[B, 1, E]` each.
    fn modulation(&self, condition: &Tensor, name: &str, parts: i64) -> Result<Vec<Tensor>, TchError> {
        self.linear(condition, &format!("{name}.adaLN_modulation.1"))?.f_unsqueeze(1)?.f_chunk(parts, -1)
    }

    fn modulated(&self, x: &Tensor, norm: &str, shift: &Tensor, scale: &Tensor) -> Result<Tensor, TchError> {
        let (weight, bias) = (self.weights.get(&format!("{norm}.weight"))?, self.weights.get(&format!("{norm}.bias"))?);
        let x = x.f_layer_norm([self.config.embed_dim as i64], Some(weight), Some(bias), EPSILON, true)?;
        x.f_mul(&(scale + 1.0))?.f_add(shift)
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor, TchError> {
        x.f_linear(self.weights.get(&format!("{name}.weight"))?, self.weights.maybe(&format!("{name}.bias")))
    }

    /// `[B, tokens, p * p * C]` to `[B, C, S, S]`: `v2` puts patches back, `v1` interleaves the tokens.
    fn unpatchified(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let Config { channels, image_size, patch_size, layout, .. } = &self.config;
        let (c, s, p, grid) = (*channels as i64, *image_size as i64, *patch_size as i64, self.config.grid() as i64);
        let batch = x.size3()?.0;
        match layout {
            NetworkLayout::V1 => x.f_transpose(1, 2)?.f_reshape([batch, c, s, s]),
            NetworkLayout::V2 => {
                let x = x.f_reshape([batch, grid, grid, p, p, c])?.f_permute([0, 5, 1, 3, 2, 4])?;
                x.f_reshape([batch, c, s, s])
            }
        }
    }
}
