//! libtorch, in a process of its own: `hfbuild-torch`, the worker, which is built with the cargo feature `tch` and started
//! where a stage asks for it.
//!
//! It runs TinyDiT and ResNet-18 from their weights, and TorchScript modules: an independent reference, for it shares no
//! arithmetic with the ONNX emitter nor with the plain forwards, and a way to draw pictures. [`find`] says where the worker
//! is, [`hello`] who it is, [`TorchSession`] runs a network in one. Nothing here links libtorch: the worker may be absent, of
//! another version, or die, and each of these is an error that says so, within a bounded time.

mod client;
pub mod protocol;

pub use client::{Limits, Worker};
pub use protocol::{Hello, Subject, TORCH};

use super::runtime::{Input, Output, Session};
use crate::core::error::{Error, Result};
use crate::core::runtime::{DeviceKind, Used};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The environment variable that names the worker.
pub const ENV: &str = "HFBUILD_TORCH";
/// The worker's file name.
pub const NAME: &str = "hfbuild-torch";

/// Where the worker is: as [`ENV`] says, else beside the running executable, else on the PATH.
///
/// # Errors
/// It is nowhere, or [`ENV`] names no program.
pub fn find() -> Result<PathBuf> {
    find_in(std::env::var_os(ENV), std::env::current_exe().ok().as_deref(), std::env::var_os("PATH"))
}

fn find_in(named: Option<OsString>, executable: Option<&Path>, path: Option<OsString>) -> Result<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let worker = PathBuf::from(named);
        return match is_program(&worker) {
            true => Ok(worker),
            false => Err(Error::stage(format!("{ENV} names `{}`, which is no program", worker.display()))
                .hint(format!("let it name `{NAME}`, or unset it"))),
        };
    }
    let beside = executable.and_then(Path::parent).map(Path::to_path_buf);
    let dirs: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
    let found = beside.into_iter().chain(dirs).map(|dir| dir.join(NAME)).find(|file| is_program(file));
    found.ok_or_else(|| {
        Error::stage(format!("the worker `{NAME}`, which runs libtorch, is not there"))
            .cause(format!("it is looked for beside hfbuild, on the PATH, and where {ENV} says"))
            .hint(format!("`scripts/build_torch.sh` builds it against PyPI's torch {TORCH}"))
    })
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Starts the worker, asks who it is, and lets it go.
///
/// # Errors
/// It is not there, or cannot be talked to.
pub fn hello() -> Result<Hello> {
    Ok(Worker::start(&find()?, Limits::default(), None)?.hello().clone())
}

/// A network in a worker of its own.
pub struct TorchSession {
    worker: Worker,
    device: DeviceKind,
}

impl TorchSession {
    /// Starts the worker that [`find`] finds. `gpus`: as [`Worker::start`] takes them.
    ///
    /// # Errors
    /// It is not there or cannot be talked to.
    pub fn start(gpus: Option<&[String]>) -> Result<TorchSession> {
        Ok(TorchSession::with(Worker::start(&find()?, Limits::default(), gpus)?))
    }
    /// The same of a worker that runs. Nothing is loaded yet.
    pub fn with(worker: Worker) -> TorchSession {
        TorchSession { worker, device: DeviceKind::Cpu }
    }
    /// Loads a network onto a device, in place of the one before. `threads` on the CPU: all cores by default.
    ///
    /// # Errors
    /// The worker sees no such device, or cannot load the network.
    pub fn open(&mut self, subject: Subject, device: DeviceKind, threads: Option<usize>) -> Result<()> {
        let hello = self.worker.hello();
        if device == DeviceKind::Cuda && hello.cuda_devices == 0 {
            let why = hello.no_cuda.clone().unwrap_or_else(|| "it sees no NVIDIA device".into());
            return Err(Error::stage(format!("`{NAME}` cannot run on CUDA here")).cause(why));
        }
        self.worker.open(subject, device, threads)?;
        self.device = device;
        Ok(())
    }
    /// Who runs it.
    pub fn hello(&self) -> &Hello {
        self.worker.hello()
    }
    /// The process that runs it.
    pub fn process(&self) -> u32 {
        self.worker.process()
    }
}

impl Session for TorchSession {
    fn run(&mut self, inputs: &[Input<'_>], output: &str) -> Result<Output> {
        self.worker.run(inputs, output)
    }
    fn used(&self) -> Used {
        let version = self.worker.hello().torch.clone();
        Used { runtime: "torch".into(), version, device: self.device, instead: None, detail: None }
    }
}

#[cfg(test)]
mod tests;
