//! Holds an emitted graph against the plain forward of its network, on fixed inputs: any machine can do it, and gets the
//! same question.
//!
//! rten widens f16 to f32 when it loads a graph, so of an fp16 graph this measures what rounding the weights costs, not
//! the arithmetic in f16 of runtimes that have it (the tests hold onnxruntime to the same bound).

use super::emit::Guidance;
use crate::core::error::{Error, Result};
use crate::model::architecture::Architecture;
use crate::model::network::Network;
use crate::model::noise;
use crate::model::resnet::ResNet;
use crate::model::runtime::{Data, Input, Rten, Runtime};
use crate::model::tensor::StateDict;
use crate::model::tinydit;
use std::path::Path;

/// Pictures in the batch.
const BATCH: usize = 2;
/// Side of the pictures that a classifier is asked about where its configuration names none.
const SIDE: usize = 64;

/// How far a graph is from its network.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The largest difference of any number.
    pub max_abs_diff: f64,
    /// The length of the difference over the length of what is right: what the difference means at this output's scale.
    pub relative_l2: f64,
    /// The runtime's name and version.
    pub runtime: (&'static str, String),
}

/// Runs the graph and the plain forward of `dict`. A generator gets noise of Philox under seed 0, times .1 and .9, the
/// first and the last label; a classifier gets the same noise as pictures.
///
/// # Errors
/// The graph cannot be run, or gives another number of numbers.
pub fn verify(graph: &Path, dict: &StateDict, architecture: &Architecture, guidance: Guidance) -> Result<Verified> {
    match architecture {
        Architecture::TinyDit(config) => generator(graph, dict, config, guidance),
        Architecture::ResNet18(config) => {
            let side = config.image_size.unwrap_or(SIDE);
            let pictures = pictures(config.channels * side * side);
            let shape = vec![BATCH, config.channels, side, side];
            let inputs = [Input { name: "input", shape, data: Data::F32(&pictures) }];
            let want = ResNet::load(dict, config)?.forward(&pictures, side, side)?;
            compared(graph, &inputs, "output", &want)
        }
    }
}

fn generator(graph: &Path, dict: &StateDict, config: &tinydit::Config, guidance: Guidance) -> Result<Verified> {
    let network = Network::load(dict, config)?;
    let noise = pictures(config.picture_len());
    let (times, labels) = ([0.1f32, 0.9], [0i64, config.num_classes as i64 - 1]);
    let side = config.image_size;
    let inputs = [
        Input { name: "noise", shape: vec![BATCH, config.channels, side, side], data: Data::F32(&noise) },
        Input { name: "timestep", shape: vec![BATCH], data: Data::F32(&times) },
        Input { name: "breed", shape: vec![BATCH], data: Data::I64(&labels) },
    ];
    let conditional = network.forward(&noise, &times, &labels)?;
    let want = match guidance {
        Guidance::External => conditional,
        Guidance::Baked(scale) => {
            let null = network.forward(&noise, &times, &[config.null_label(); BATCH])?;
            null.iter().zip(&conditional).map(|(u, c)| u + scale * (c - u)).collect()
        }
    };
    compared(graph, &inputs, "velocity", &want)
}

fn pictures(length: usize) -> Vec<f32> {
    (0..BATCH as u64).flat_map(|k| noise::normals(0, 0, k, length)).collect()
}

fn compared(graph: &Path, inputs: &[Input<'_>], output: &str, want: &[f32]) -> Result<Verified> {
    let runtime = Rten::default();
    let got = runtime.open(graph)?.run(inputs, output)?.values;
    if got.len() != want.len() {
        let (got, want) = (got.len(), want.len());
        return Err(Error::stage(format!("the graph gives {got} numbers where the network gives {want}")));
    }
    let pairs = || got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b), f64::from(*b)));
    // NaN must not hide in `max`: any makes the whole NaN, which no bound allows
    let larger = |m: f64, d: f64| if m.is_nan() || d.is_nan() { f64::NAN } else { m.max(d) };
    let (wrong, right) = pairs().fold((0.0, 0.0), |(wrong, right), (d, b)| (wrong + d * d, right + b * b));
    Ok(Verified {
        max_abs_diff: pairs().map(|(d, _)| d.abs()).fold(0.0, larger),
        relative_l2: if wrong == 0.0 { 0.0 } else { (wrong / right).sqrt() },
        runtime: (runtime.name(), runtime.version()),
    })
}
