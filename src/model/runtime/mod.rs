//! Running ONNX graphs: one small seam, and what stands behind it.
//!
//! A [`Runtime`] opens a file, a [`Session`] runs it on named inputs and says what it ran on. [`Machine`] knows what this
//! machine has, looks for it when it is first asked, and gives the runtime that a stage wants: which one that is,
//! [`crate::core::runtime::choose`] says. Nothing else knows which one runs.
//!
//! | file | what |
//! |---|---|
//! | `rten.rs` | the embedded runtime |
//! | `onnxruntime.rs` | libonnxruntime, loaded at run time, on the CPU or on CUDA |
//! | `profile.rs` | which provider ran the nodes of a graph |
//! | `found.rs` | where a libonnxruntime may be, and whether it can be used |
//! | `devices.rs` | the NVIDIA devices, by NVML |

pub mod devices;
mod found;
mod onnxruntime;
mod profile;
mod rten;

pub use found::{Machine, Places, in_folder};
pub use rten::{RTEN_VERSION, Rten};

use crate::core::error::Result;
use crate::core::runtime::Used;
use std::path::Path;

/// One named input, row-major.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The graph's name for it.
    pub name: &'a str,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Data<'a>,
}

/// Numbers of an input.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// f32.
    F32(&'a [f32]),
    /// i64 (a runtime without them takes i32).
    I64(&'a [i64]),
}

/// An f32 output, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f32>,
}

/// How a stage wants its graph run, beside the runtime and the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// Threads on the CPU; `None` takes what the runtime takes by itself: all cores.
    pub threads: Option<usize>,
    /// The ids of the devices that the stage holds, as `CUDA_VISIBLE_DEVICES` takes them; `None`: no pool says which, so
    /// any that this process sees.
    pub gpus: Option<Vec<String>>,
}

/// A library that runs ONNX graphs.
pub trait Runtime {
    /// Its name, e.g. `rten`.
    fn name(&self) -> &'static str;
    /// Its version, e.g. `0.27.0`.
    fn version(&self) -> String;
    /// Loads a graph.
    ///
    /// # Errors
    /// The file cannot be read, the runtime does not take it, or it cannot be run on the device that was asked for.
    fn open(&self, path: &Path) -> Result<Box<dyn Session>>;
}

/// A loaded graph.
pub trait Session: Send {
    /// Runs it and gives the f32 output called `output`.
    ///
    /// # Errors
    /// An input or output that the graph lacks, shapes that do not fit, an output that is not f32. Where the memory does
    /// not suffice, one of the kind [`crate::core::error::ErrorKind::OutOfMemory`]: the session is as good as before, and
    /// fewer rows may do.
    fn run(&mut self, inputs: &[Input<'_>], output: &str) -> Result<Output>;
    /// What it runs on.
    fn used(&self) -> Used;
}
