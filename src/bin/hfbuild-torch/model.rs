//! A loaded network: what is asked of it by name, and which one answers.

use crate::classifier::ResNet;
use crate::generator::TinyDit;
use crate::tensors::{self, failed};
use hfbuild::core::error::{Error, Result};
use hfbuild::core::runtime::DeviceKind;
use hfbuild::model::architecture::Architecture;
use hfbuild::model::shards;
use hfbuild::model::torch::protocol::{Subject, Tensor as Described};
use std::path::Path;
use tch::{CModule, Device, IValue, Tensor};

/// See the module.
pub struct Model {
    device: Device,
    network: Network,
}

enum Network {
    TinyDit(TinyDit),
    ResNet(ResNet),
    Script(CModule),
}

impl Model {
    /// Loads a network onto a device.
    ///
    /// # Errors
    /// It cannot be read, does not fit its architecture, is no TorchScript, or the device does not take it.
    pub fn load(subject: &Subject, device: DeviceKind, threads: Option<usize>) -> Result<Model> {
        if let Some(threads) = threads.and_then(|threads| i32::try_from(threads).ok()) {
            tch::set_num_threads(threads.max(1));
        }
        let device = match device {
            DeviceKind::Cpu => Device::Cpu,
            DeviceKind::Cuda => Device::Cuda(0),
        };
        let network = match subject {
            Subject::Weights { files, architecture } => {
                let files: Vec<(&str, &Path)> =
                    files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
                let dict = shards::open(&files)?.tensors;
                match architecture {
                    Architecture::TinyDit(config) => Network::TinyDit(TinyDit::load(&dict, config, device)?),
                    Architecture::ResNet18(config) => Network::ResNet(ResNet::load(&dict, config, device)?),
                }
            }
            Subject::TorchScript { path } => Network::Script(script(path, device)?),
        };
        Ok(Model { device, network })
    }

    /// Runs it: the output's shape, and its numbers as bytes.
    ///
    /// # Errors
    /// Inputs that do not fit, or libtorch fails.
    pub fn run(&self, described: &[Described], data: &[u8], output: &str) -> Result<(Vec<usize>, Vec<u8>)> {
        let inputs = tensors::inputs(described, data, self.device)?;
        let input = |name: &str| {
            let found = inputs.iter().find(|(given, _)| given == name).map(|(_, tensor)| tensor);
            found.ok_or_else(|| Error::stage(format!("the network lacks its input `{name}`")))
        };
        let expect = |name: &str| match output == name {
            true => Ok(()),
            false => Err(Error::stage(format!("the network has no output called `{output}`, but `{name}`"))),
        };
        let found = match &self.network {
            Network::TinyDit(network) => {
                expect("velocity")?;
                network.forward(input("noise")?, input("timestep")?, input("breed")?)?
            }
            Network::ResNet(network) => {
                expect("output")?;
                network.forward(input("input")?)?
            }
            Network::Script(module) => run_script(module, &inputs)?,
        };
        tensors::output(&found).map_err(|e| failed("libtorch cannot hand out what it computed", &e))
    }
}

fn script(path: &Path, device: Device) -> Result<CModule> {
    let what = format!("libtorch cannot load `{}` as TorchScript", path.display());
    let mut module = CModule::load_on_device(path, device).map_err(|e| {
        failed(&what, &e).hint("a module of `torch.jit.script` or `torch.jit.trace`, saved with its `save`, is")
    })?;
    module.f_set_eval().map_err(|e| failed(&what, &e))?;
    Ok(module)
}

/// A module takes its inputs by their places, and gives one tensor.
fn run_script(module: &CModule, inputs: &[(String, Tensor)]) -> Result<Tensor> {
    let places: Vec<IValue> = inputs.iter().map(|(_, tensor)| IValue::Tensor(tensor.shallow_clone())).collect();
    match module.forward_is(&places).map_err(|e| failed("the TorchScript module fails", &e))? {
        IValue::Tensor(tensor) => Ok(tensor),
        other => Err(Error::stage("the TorchScript module does not give one tensor")
            .cause(format!("it gives {}", described(&other)))),
    }
}

fn described(value: &IValue) -> String {
    match value {
        IValue::Tuple(items) => format!("a tuple of {}", items.len()),
        IValue::TensorList(items) => format!("a list of {} tensors", items.len()),
        IValue::GenericDict(_) => "a dict".into(),
        IValue::None => "nothing".into(),
        _ => "another value".into(),
    }
}
