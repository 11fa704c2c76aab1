//! Holds an emitted graph against a forward of its network, on fixed inputs: any machine can do it, and gets the same
//! question. The plain forward needs nothing; another reference is a [`Session`] that [`Question::ask_guided`] asks.
//!
//! rten widens f16 to f32 when it loads a graph, so of an fp16 graph this measures what rounding the weights costs, not
//! the arithmetic in f16 of runtimes that have it (the tests hold onnxruntime to the same bound).

use super::emit::Guidance;
use super::import::{Extent, GraphInfo, Port};
use crate::core::error::{Error, Result};
use crate::core::runtime::{DeviceKind, Used};
use crate::model::architecture::Architecture;
use crate::model::network::Network;
use crate::model::noise;
use crate::model::resnet::ResNet;
use crate::model::runtime::{Data, Input, Output, Rten, Runtime, Session};
use crate::model::tensor::StateDict;
use std::path::Path;

/// Pictures in the batch.
const BATCH: usize = 2;
/// Side of the pictures that a classifier is asked about where its configuration names none.
const SIDE: usize = 64;
/// The most numbers of an input that is made up.
const MOST: usize = 1 << 26;

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

/// What a graph is asked, and its reference with it.
pub struct Question {
    inputs: Vec<(String, Vec<usize>, Numbers)>,
    output: String,
    /// Of a generator: its last input are labels, and this is the one of the unconditional prediction.
    null_label: Option<i64>,
}

enum Numbers {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Question {
    /// A generator gets noise of Philox under seed 0, times .1 and .9, the first and the last label; a classifier gets the
    /// same noise as pictures.
    pub fn of(architecture: &Architecture) -> Question {
        match architecture {
            Architecture::TinyDit(config) => {
                let side = config.image_size;
                let noise = pictures(config.picture_len());
                let labels = vec![0, config.num_classes as i64 - 1];
                let inputs = vec![
                    ("noise".into(), vec![BATCH, config.channels, side, side], Numbers::F32(noise)),
                    ("timestep".into(), vec![BATCH], Numbers::F32(vec![0.1, 0.9])),
                    ("breed".into(), vec![BATCH], Numbers::I64(labels)),
                ];
                Question { inputs, output: "velocity".into(), null_label: Some(config.null_label()) }
            }
            Architecture::ResNet18(config) => {
                let side = config.image_size.unwrap_or(SIDE);
                let pictures = Numbers::F32(pictures(config.channels * side * side));
                let inputs = vec![("input".into(), vec![BATCH, config.channels, side, side], pictures)];
                Question { inputs, output: "output".into(), null_label: None }
            }
        }
    }

    /// What any graph can be asked: f32 inputs get noise, i64 inputs 0 and 1 by turns; an extent that is open is 2 where it
    /// is the first and 64 elsewhere.
    ///
    /// # Errors
    /// Inputs of another type, too large ones, or not one output alone, f32.
    pub fn of_graph(info: &GraphInfo) -> Result<Question> {
        let one = match &info.outputs[..] {
            [output] if output.dtype == "F32" => output,
            _ => return Err(Error::stage("a graph is compared by its one output, f32, and this one has others")),
        };
        let question = |(index, port): (usize, &Port)| {
            let extent = |(axis, extent): (usize, &Extent)| match extent {
                Extent::Fixed(n) => usize::try_from(*n).ok(),
                Extent::Symbol(_) => Some(if axis == 0 { BATCH } else { SIDE }),
            };
            let shape: Option<Vec<usize>> = port.shape.iter().enumerate().map(extent).collect();
            let length = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
            let fits = shape.and_then(|shape| Some((length(&shape).filter(|n| *n <= MOST)?, shape)));
            let (length, shape) =
                fits.ok_or_else(|| Error::stage(format!("the input `{port}` is too large to compare with")))?;
            let numbers = match port.dtype.as_str() {
                "F32" => Numbers::F32(noise::normals(0, 1, index as u64, length)),
                "I64" => Numbers::I64((0..length as i64).map(|n| n % 2).collect()),
                _ => return Err(Error::stage(format!("the input `{port}` is neither F32 nor I64"))),
            };
            Ok((port.name.clone(), shape, numbers))
        };
        let inputs = info.inputs.iter().enumerate().map(question).collect::<Result<_>>()?;
        Ok(Question { inputs, output: one.name.clone(), null_label: None })
    }

    /// What a session answers, which applies guidance itself where it is baked in.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn ask(&self, session: &mut dyn Session) -> Result<Vec<f32>> {
        self.ask_with(session, None)
    }

    /// What a network answers that leaves guidance to its caller.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn ask_guided(&self, session: &mut dyn Session, guidance: Guidance) -> Result<Vec<f32>> {
        let given = self.ask(session)?;
        let (Some(null), Guidance::Baked(scale)) = (self.null_label, guidance) else { return Ok(given) };
        let null = self.ask_with(session, Some(&[null; BATCH]))?;
        Ok(null.iter().zip(&given).map(|(u, c)| u + scale * (c - u)).collect())
    }

    fn ask_with(&self, session: &mut dyn Session, labels: Option<&[i64]>) -> Result<Vec<f32>> {
        let inputs = self.inputs.iter().map(|(name, shape, numbers)| {
            let data = match (numbers, labels) {
                (Numbers::I64(_), Some(labels)) => Data::I64(labels),
                (Numbers::I64(values), None) => Data::I64(values),
                (Numbers::F32(values), _) => Data::F32(values),
            };
            Input { name, shape: shape.clone(), data }
        });
        Ok(session.run(&inputs.collect::<Vec<_>>(), &self.output)?.values)
    }
}

/// The plain forward, as if it was a runtime's.
enum Plain {
    TinyDit(Box<Network>),
    ResNet(Box<ResNet>),
}

impl Session for Plain {
    fn run(&mut self, inputs: &[Input<'_>], _: &str) -> Result<Output> {
        let lacks = || Error::bug("the plain forward lacks an input");
        let floats = |at: usize| match inputs.get(at).map(|input| input.data) {
            Some(Data::F32(values)) => Ok(values),
            _ => Err(lacks()),
        };
        let values = match self {
            Plain::TinyDit(network) => {
                let Some(Data::I64(labels)) = inputs.get(2).map(|input| input.data) else { return Err(lacks()) };
                network.forward(floats(0)?, floats(1)?, labels)?
            }
            Plain::ResNet(network) => {
                let Some([_, _, height, width]) = inputs.first().map(|input| &input.shape[..]) else {
                    return Err(lacks());
                };
                network.forward(floats(0)?, *height, *width)?
            }
        };
        Ok(Output { shape: vec![values.len()], values })
    }
    fn used(&self) -> Used {
        let version = env!("CARGO_PKG_VERSION").into();
        Used { runtime: "hfbuild".into(), version, device: DeviceKind::Cpu, instead: None, detail: None }
    }
}

/// Runs the graph and the plain forward of `dict` on the [`Question`] of the network.
///
/// # Errors
/// The graph cannot be run, or gives another number of numbers.
pub fn verify(graph: &Path, dict: &StateDict, architecture: &Architecture, guidance: Guidance) -> Result<Verified> {
    let mut plain = match architecture {
        Architecture::TinyDit(config) => Plain::TinyDit(Box::new(Network::load(dict, config)?)),
        Architecture::ResNet18(config) => Plain::ResNet(Box::new(ResNet::load(dict, config)?)),
    };
    let question = Question::of(architecture);
    let want = question.ask_guided(&mut plain, guidance)?;
    compare(&question.ask(&mut *Rten::default().open(graph)?)?, &want)
}

fn pictures(length: usize) -> Vec<f32> {
    (0..BATCH as u64).flat_map(|k| noise::normals(0, 0, k, length)).collect()
}

/// How far the graph's numbers are from what is right.
///
/// # Errors
/// There are more of the one than of the other.
pub fn compare(got: &[f32], want: &[f32]) -> Result<Verified> {
    if got.len() != want.len() {
        let (got, want) = (got.len(), want.len());
        return Err(Error::stage(format!("the graph gives {got} numbers where the network gives {want}")));
    }
    let pairs = || got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b), f64::from(*b)));
    // NaN must not hide in `max`: any makes the whole NaN, which no bound allows
    let larger = |m: f64, d: f64| if m.is_nan() || d.is_nan() { f64::NAN } else { m.max(d) };
    let (wrong, right) = pairs().fold((0.0, 0.0), |(wrong, right), (d, b)| (wrong + d * d, right + b * b));
    let runtime = Rten::default();
    Ok(Verified {
        max_abs_diff: pairs().map(|(d, _)| d.abs()).fold(0.0, larger),
        relative_l2: if wrong == 0.0 { 0.0 } else { (wrong / right).sqrt() },
        runtime: (runtime.name(), runtime.version()),
    })
}
