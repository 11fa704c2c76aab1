//! The plain f32 forward of TinyDiT, straight from a state dict: the reference that every graph is compared with.
//!
//! The formulas are those of `tinydit.md`, section 1, written with [`super::matmul`]. It shares no code with the ONNX
//! emitter, so that a mistake in one is not a mistake in both. It knows no file and no runtime.

use super::matmul::{dot, gelu, layer_norm, linear, silu, softmax};
use super::tensor::StateDict;
use super::tinydit::{Config, NetworkLayout};
use crate::core::error::{Error, Result};
use rayon::prelude::*;

/// A weight and its bias (empty where the layer has none).
struct Layer {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn load(dict: &StateDict, name: &str) -> Result<Layer> {
        let weight = dict.require(&format!("{name}.weight"))?.f32()?;
        let bias = dict.get(&format!("{name}.bias")).map(|tensor| tensor.f32()).transpose()?.unwrap_or_default();
        Ok(Layer { weight, bias })
    }
    fn apply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        linear(x, rows, &self.weight, &self.bias)
    }
    fn norm(&self, x: &[f32]) -> Vec<f32> {
        layer_norm(x, &self.weight, &self.bias)
    }
}

struct Block {
    norm1: Layer,
    norm2: Layer,
    qkv: Layer,
    proj: Layer,
    fc1: Layer,
    fc2: Layer,
    modulation: Layer,
}

/// A TinyDiT with its weights in memory as f32.
pub struct Network {
    config: Config,
    patch: Layer,
    position: Vec<f32>,
    labels: Vec<f32>,
    time: [Layer; 2],
    blocks: Vec<Block>,
    norm: Layer,
    modulation: Layer,
    last: Layer,
}

impl Network {
    /// Copies the weights out of `dict`.
    ///
    /// # Errors
    /// `dict` does not fit `config`, or cannot be read.
    pub fn load(dict: &StateDict, config: &Config) -> Result<Network> {
        config.check(dict)?;
        let layer = |name: &str| Layer::load(dict, name);
        let position = dict.get("pos_embed").map(|tensor| tensor.f32()).transpose()?.unwrap_or_default();
        Ok(Network {
            config: config.clone(),
            patch: layer("patch_embed.proj")?,
            position,
            labels: dict.require("breed_embedder.embedding.weight")?.f32()?,
            time: [layer("t_embedder.mlp.0")?, layer("t_embedder.mlp.2")?],
            blocks: (0..config.depth).map(|n| block(dict, n)).collect::<Result<_>>()?,
            norm: layer("final_layer.norm_final")?,
            modulation: layer("final_layer.adaLN_modulation.1")?,
            last: layer("final_layer.linear")?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Velocity `[B, C, S, S]` at `noise` `[B, C, S, S]`, time `t` `[B]` in 0..1, `labels` `[B]`. The numbers of one
    /// picture do not depend on the others in the batch.
    ///
    /// # Errors
    /// Lengths that do not fit, or a label outside the embedding.
    pub fn forward(&self, noise: &[f32], t: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
        let (batch, e) = (t.len(), self.config.embed_dim);
        if noise.len() != batch * self.config.picture_len() || labels.len() != batch {
            let (noise, labels) = (noise.len(), labels.len());
            return Err(Error::stage(format!(
                "{batch} times, {labels} labels and {noise} numbers of noise do not fit"
            )));
        }
        let rows = batch * self.config.tokens();
        let condition = silu(&self.condition(t, labels)?);
        let mut x = self.patch.apply(&self.patches(noise), rows);
        if !self.position.is_empty() {
            x.chunks_exact_mut(self.position.len()).for_each(|x| add(x, &self.position));
        }
        for block in &self.blocks {
            self.block(block, &mut x, &condition, batch);
        }
        let modulation = self.modulation.apply(&condition, batch);
        let normed = self.norm.norm(&x);
        let y = self.last.apply(&modulated(&normed, &modulation, 0, 1, 2, e, self.config.tokens()), rows);
        Ok(self.unpatched(&y, batch))
    }

    /// Time embedding plus label embedding, `[B, E]`.
    fn condition(&self, t: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
        let (e, batch) = (self.config.embed_dim, t.len());
        let waves: Vec<f32> = t.iter().flat_map(|&t| self.waves(t)).collect();
        let mut condition = self.time[1].apply(&silu(&self.time[0].apply(&waves, batch)), batch);
        for (row, &label) in condition.chunks_exact_mut(e).zip(labels) {
            let embedding = usize::try_from(label).ok().and_then(|label| self.labels.chunks_exact(e).nth(label));
            let rows = self.config.embedding_rows();
            let embedding = embedding.ok_or_else(|| {
                Error::stage(format!("label {label} is outside 0..{rows}, the rows of the embedding"))
            })?;
            add(row, embedding);
        }
        Ok(condition)
    }

    /// Cosines, then sines, of `t * exp(-ln(10000) * i / half)`.
    fn waves(&self, t: f32) -> Vec<f32> {
        let half = self.config.frequency_dim / 2;
        let t = if self.config.layout == NetworkLayout::V2 { t * 1000.0 } else { t };
        let angle = |i: usize| t * (-(10000f32.ln()) * i as f32 / half as f32).exp();
        (0..half).map(|i| angle(i).cos()).chain((0..half).map(|i| angle(i).sin())).collect()
    }

    /// `[B, C, S, S]` to rows of patches `[B * tokens, C * p * p]`, as the convolution's weight lies.
    fn patches(&self, noise: &[f32]) -> Vec<f32> {
        let Config { image_size: s, patch_size: p, channels: c, .. } = self.config;
        let grid = self.config.grid();
        let mut patches = Vec::with_capacity(noise.len());
        for picture in noise.chunks_exact(self.config.picture_len()) {
            for (gy, gx) in (0..grid * grid).map(|token| (token / grid, token % grid)) {
                for (channel, y) in (0..c * p).map(|i| (i / p, i % p)) {
                    let start = (channel * s + gy * p + y) * s + gx * p;
                    patches.extend_from_slice(&picture[start..start + p]);
                }
            }
        }
        patches
    }

    /// Rows `[B * tokens, p * p * C]` to `[B, C, S, S]`: `v2` puts patches back, `v1` interleaves the tokens.
    fn unpatched(&self, y: &[f32], batch: usize) -> Vec<f32> {
        let Config { image_size: s, patch_size: p, channels: c, layout, .. } = self.config;
        let (grid, tokens, len) = (self.config.grid(), self.config.tokens(), self.config.patch_len());
        let mut out = vec![0.0; batch * self.config.picture_len()];
        for (row, values) in y.chunks_exact(len).enumerate() {
            let (picture, token) = (row / tokens, row % tokens);
            let (gy, gx) = (token / grid, token % grid);
            for (d, &value) in values.iter().enumerate() {
                let at = match layout {
                    NetworkLayout::V1 => d * tokens + token,
                    NetworkLayout::V2 => {
                        let (y, x, channel) = (d / c / p, d / c % p, d % c);
                        (channel * s + gy * p + y) * s + gx * p + x
                    }
                };
                out[picture * self.config.picture_len() + at] = value;
            }
        }
        out
    }

    fn block(&self, block: &Block, x: &mut [f32], condition: &[f32], batch: usize) {
        let (e, tokens) = (self.config.embed_dim, self.config.tokens());
        let rows = batch * tokens;
        let modulation = block.modulation.apply(condition, batch);
        let input = modulated(&block.norm1.norm(x), &modulation, 0, 1, 6, e, tokens);
        let attended = self.attention(&block.qkv.apply(&input, rows), batch);
        gated(x, &block.proj.apply(&attended, rows), &modulation, 2, e, tokens);
        let input = modulated(&block.norm2.norm(x), &modulation, 3, 4, 6, e, tokens);
        let mut hidden = block.fc1.apply(&input, rows);
        gelu(&mut hidden);
        gated(x, &block.fc2.apply(&hidden, rows), &modulation, 5, e, tokens);
    }

    /// Softmax attention over `qkv` `[B * tokens, 3 * E]`, giving `[B * tokens, E]`.
    fn attention(&self, qkv: &[f32], batch: usize) -> Vec<f32> {
        let (e, tokens, width) = (self.config.embed_dim, self.config.tokens(), self.config.head_dim());
        let scale = (width as f32).powf(-0.5);
        let part = |picture: usize, token: usize, which: usize, head: usize| {
            let start = (picture * tokens + token) * 3 * e + which * e + head * width;
            &qkv[start..start + width]
        };
        let mut out = vec![0.0; batch * tokens * e];
        out.par_chunks_mut(e).enumerate().for_each(|(row, out)| {
            let (picture, token) = (row / tokens, row % tokens);
            for head in 0..self.config.num_heads {
                let query: Vec<f32> = part(picture, token, 0, head).iter().map(|v| v * scale).collect();
                let mut weights: Vec<f32> = (0..tokens).map(|key| dot(&query, part(picture, key, 1, head))).collect();
                softmax(&mut weights);
                let out = &mut out[head * width..(head + 1) * width];
                for (key, weight) in weights.iter().enumerate() {
                    let value = part(picture, key, 2, head);
                    out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                }
            }
        });
        out
    }
}

fn block(dict: &StateDict, n: usize) -> Result<Block> {
    let layer = |name: &str| Layer::load(dict, &format!("blocks.{n}.{name}"));
    Ok(Block {
        norm1: layer("norm1")?,
        norm2: layer("norm2")?,
        qkv: layer("attn.qkv")?,
        proj: layer("attn.proj")?,
        fc1: layer("mlp.fc1")?,
        fc2: layer("mlp.fc2")?,
        modulation: layer("adaLN_modulation.1")?,
    })
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x * (1 + scale) + shift`, where `shift` and `scale` are parts of each picture's modulation of `of` parts.
fn modulated(
    x: &[f32],
    modulation: &[f32],
    shift: usize,
    scale: usize,
    of: usize,
    e: usize,
    tokens: usize,
) -> Vec<f32> {
    let parts = modulation.chunks_exact(of * e);
    let mut y = x.to_vec();
    for (y, m) in y.chunks_exact_mut(tokens * e).zip(parts) {
        let (shift, scale) = (&m[shift * e..(shift + 1) * e], &m[scale * e..(scale + 1) * e]);
        for row in y.chunks_exact_mut(e) {
            row.iter_mut().zip(scale).zip(shift).for_each(|((y, scale), shift)| *y = *y * (1.0 + scale) + shift);
        }
    }
    y
}

/// `x += gate * y`, where `gate` is part of each picture's modulation of six parts.
fn gated(x: &mut [f32], y: &[f32], modulation: &[f32], gate: usize, e: usize, tokens: usize) {
    let pictures = x.chunks_exact_mut(tokens * e).zip(y.chunks_exact(tokens * e));
    for ((x, y), m) in pictures.zip(modulation.chunks_exact(6 * e)) {
        let gate = &m[gate * e..(gate + 1) * e];
        for (x, y) in x.chunks_exact_mut(e).zip(y.chunks_exact(e)) {
            x.iter_mut().zip(y).zip(gate).for_each(|((x, y), gate)| *x += gate * y);
        }
    }
}
