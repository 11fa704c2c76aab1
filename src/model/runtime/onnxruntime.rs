//! libonnxruntime by the crate `ort`, loaded at run time. A process has one; which, [`super::found`] says.
//!
//! Settings: the threads are set and not guessed, one operator runs at a time, deterministic kernels where there are such,
//! no TF32, and cuDNN's algorithms by its heuristic instead of by trying: what is fastest at one time need not be at
//! another. So the same library, device and threads give the same bytes.

use super::rten::absent;
use super::{Data, Input, Output, Runtime, Session, profile};
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::runtime::{DeviceKind, Library, RuntimeKind, Used};
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{SessionInputValue, SessionInputs};
use ort::value::TensorRef;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A libonnxruntime with what a stage wants of it.
#[derive(Debug, Clone)]
pub(super) struct OnnxRuntime {
    /// The library.
    pub library: Library,
    /// Threads on the CPU.
    pub threads: usize,
    /// On CUDA: the device's number in this process, and its name.
    pub cuda: Option<(i32, String)>,
    /// Whether nothing but that device will do.
    pub only: bool,
}

/// The library of this process, and its environment.
struct Loaded {
    path: String,
    environment: ort::environment::Environment,
}

static LOADED: OnceLock<Result<Loaded, String>> = OnceLock::new();
/// What the library logged last: its errors say less than its log.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The environment of the library at `path`, which is loaded where none is.
fn environment(path: &str) -> Result<&'static ort::environment::Environment> {
    let load = || {
        let logger = Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, message: &str| {
            let mut kept = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < 8 {
                kept.push(message.trim().to_string());
            }
        });
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        let environment = builder.with_name("hfbuild").with_telemetry(false).with_logger(logger).build();
        Ok(Loaded { path: path.to_string(), environment: environment.map_err(|e| e.to_string())? })
    };
    match LOADED.get_or_init(load) {
        Ok(loaded) if loaded.path == path => Ok(&loaded.environment),
        Ok(loaded) => Err(Error::bug(format!("`{path}` was to be loaded beside `{}`", loaded.path))),
        Err(why) => Err(Error::stage(format!("`{path}` cannot be loaded")).cause(why.clone())),
    }
}

/// Whether the CUDA provider of a library can be loaded, with all that it needs.
///
/// # Errors
/// It cannot; why, as one line.
pub(super) fn cuda(path: &str) -> Result<(), String> {
    let try_it = || -> Result<()> {
        preload(Path::new(path));
        let builder =
            ort::session::Session::builder(environment(path)?).map_err(|e| failed("cannot begin a session", &e));
        let provider = CUDA::default().build().error_on_failure();
        forget_log();
        builder?.with_execution_providers([provider]).map_err(|e| failed("the CUDA provider cannot be loaded", &e))?;
        Ok(())
    };
    try_it().map_err(|error| match error.causes().last() {
        Some(cause) => format!("{}: {cause}", error.message()),
        None => error.message().to_string(),
    })
}

/// Loads CUDA's own libraries where pip put them beside the library, so that its provider finds them by their names. What
/// is not there the system may have.
fn preload(library: &Path) {
    let Some(site) = library.ancestors().nth(3) else { return };
    let folders = std::fs::read_dir(site.join("nvidia")).into_iter().flatten().flatten().map(|e| e.path());
    let folders: Vec<PathBuf> = folders.flat_map(|f| [f.join("lib"), f]).filter(|f| f.is_dir()).collect();
    for name in
        ort::ep::cuda::CUDA_DYLIBS.iter().chain(["libnvJitLink.so.13"].iter()).chain(ort::ep::cuda::CUDNN_DYLIBS)
    {
        if let Some(file) = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()) {
            let _ = ort::util::preload_dylib(file); // the provider says what it lacks
        }
    }
}

fn forget_log() {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// What the library says in its errors, or in its log, where its memory did not suffice.
const OF_MEMORY: &[&str] = &[
    "Failed to allocate memory",
    "out of memory",
    "OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "STATUS_ALLOC_FAILED",
    "bad_alloc",
    "bad allocation",
    "is smaller than requested bytes",
];

/// What it says where nodes are left for the CPU, and that was ruled out.
const REFUSED: &str = "fallback to CPU EP has been explicitly disabled";

/// An error of the library, with what it logged.
fn failed<R>(what: &str, error: &ort::Error<R>) -> Error {
    let logged = std::mem::take(&mut *LOGGED.lock().unwrap_or_else(PoisonError::into_inner));
    let said = error.message().trim().to_string();
    let is_memory = |text: &String| OF_MEMORY.iter().any(|words| text.contains(words));
    let kind = if is_memory(&said) || logged.iter().any(is_memory) { ErrorKind::OutOfMemory } else { ErrorKind::Stage };
    let more: Vec<String> = logged.into_iter().filter(|line| !said.contains(line.as_str())).collect();
    more.into_iter().fold(Error::new(kind, format!("onnxruntime: {what}")).cause(said), Error::cause)
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &'static str {
        RuntimeKind::OnnxRuntime.word()
    }

    fn version(&self) -> String {
        self.library.version.clone()
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Session>> {
        crate::model::magic::sniff(path)?;
        let Some((number, name)) = &self.cuda else { return self.on_cpu(path, None) };
        match self.on_cuda(path, *number, name) {
            Err(error) if !self.only && error.kind() == ErrorKind::Stage => {
                let why = error.causes().first().cloned().unwrap_or_else(|| error.message().to_string());
                self.on_cpu(path, Some(format!("on the CPU, for CUDA did not take the graph: {why}")))
            }
            result => result,
        }
    }
}

impl OnnxRuntime {
    fn builder(&self) -> Result<SessionBuilder> {
        let environment = environment(&self.library.path)?;
        let set = || -> ort::Result<SessionBuilder> {
            let builder = ort::session::Session::builder(environment)?.with_no_environment_execution_providers()?;
            let builder = builder.with_intra_threads(self.threads.max(1))?.with_inter_threads(1)?;
            // how long threads spin while they wait: the library's own default took two to three times as long on a machine
            // that had other work too, none at all a tenth longer on one that had not. Libraries that do not know it pass it over
            let builder = builder.with_config_entry("session.intra_op.spin_duration_us", "100")?;
            // left to itself the crate prefers a device that saves power (CoreML, on a Mac)
            let builder = builder.with_auto_device(AutoDevicePolicy::PreferCPU)?;
            Ok(builder.with_parallel_execution(false)?.with_deterministic_compute(true)?)
        };
        forget_log();
        set().map_err(|e| failed("cannot begin a session", &e))
    }

    fn used(&self, device: DeviceKind) -> Used {
        Used { runtime: self.name().into(), version: self.version(), device, detail: None, instead: None }
    }

    fn on_cpu(&self, path: &Path, instead: Option<String>) -> Result<Box<dyn Session>> {
        let session = self.builder()?.commit_from_file(path).map_err(|e| cannot_load(path, &e))?;
        Ok(Box::new(OrtSession { session, used: Used { instead, ..self.used(DeviceKind::Cpu) }, unproven: None }))
    }

    /// On the device and nowhere else: the library refuses what it cannot place there. Where that are nodes that compute
    /// shapes, a manifest that names the device lets it leave them to the CPU; the first run proves where it was.
    fn on_cuda(&self, path: &Path, number: i32, name: &str) -> Result<Box<dyn Session>> {
        match self.placed(path, number, name, true) {
            Err(error) if self.only && error.causes().iter().any(|cause| cause.contains(REFUSED)) => {
                self.placed(path, number, name, false)
            }
            result => result,
        }
    }

    fn placed(&self, path: &Path, number: i32, name: &str, wholly: bool) -> Result<Box<dyn Session>> {
        let folder = tempfile::tempdir().on("create a folder in", std::env::temp_dir())?;
        let provider = CUDA::default()
            .with_device_id(number)
            .with_tf32(false)
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            .build()
            .error_on_failure();
        let builder = self.builder()?;
        let set = || -> ort::Result<SessionBuilder> {
            let mut builder = builder.with_execution_providers([provider])?;
            if wholly {
                builder = builder.with_disable_cpu_fallback()?;
            }
            Ok(builder.with_profiling(folder.path().join("profile"))?)
        };
        let mut builder = set().map_err(|e| failed("the CUDA provider cannot be used", &e))?;
        let session = builder.commit_from_file(path).map_err(|e| cannot_load(path, &e))?;
        let detail = Some(format!("{}, {name}", CUDA::NAME));
        let used = Used { detail, ..self.used(DeviceKind::Cuda) };
        Ok(Box::new(OrtSession { session, used, unproven: Some(folder) }))
    }
}

fn cannot_load<R>(path: &Path, error: &ort::Error<R>) -> Error {
    failed(&format!("cannot load `{}`", path.display()), error)
}

struct OrtSession {
    session: ort::session::Session,
    used: Used,
    /// Until the first run is over: the folder of the profile that says where it ran.
    unproven: Option<tempfile::TempDir>,
}

impl Session for OrtSession {
    fn run(&mut self, inputs: &[Input<'_>], output: &str) -> Result<Output> {
        self.check_names(inputs, output)?;
        forget_log();
        let values =
            inputs.iter().map(|input| Ok((Cow::from(input.name), value(input)?))).collect::<Result<Vec<_>>>()?;
        let outputs = self.session.run(SessionInputs::<'_, '_, 0>::ValueMap(values));
        let outputs = outputs.map_err(|e| failed("cannot run the graph", &e))?;
        let lost = || Error::stage(format!("onnxruntime gave no output `{output}`"));
        let tensor = outputs.get(output).ok_or_else(lost)?.try_extract_tensor::<f32>();
        let (shape, values) = tensor.map_err(|e| failed(&format!("output `{output}` is not f32"), &e))?;
        let shape = shape.iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).collect();
        let output = Output { shape, values: values.to_vec() };
        drop(outputs);
        self.prove()?;
        Ok(output)
    }

    fn used(&self) -> Used {
        self.used.clone()
    }
}

impl OrtSession {
    fn check_names(&self, inputs: &[Input<'_>], output: &str) -> Result<()> {
        let known = |all: &[ort::value::Outlet], name: &str| all.iter().any(|outlet| outlet.name() == name);
        match inputs.iter().find(|input| !known(self.session.inputs(), input.name)) {
            Some(input) => Err(absent("input", input.name)),
            None if !known(self.session.outputs(), output) => Err(absent("output", output)),
            None => Ok(()),
        }
    }

    /// After the first run on a device: whether it was there. Profiling ends with it.
    fn prove(&mut self) -> Result<()> {
        let Some(folder) = self.unproven.take() else { return Ok(()) };
        let file = self.session.end_profiling().map_err(|e| failed("the profile cannot be written", &e))?;
        let text = std::fs::read_to_string(&file).on("read", Path::new(&file))?;
        drop(folder);
        profile::check(&text, CUDA::NAME)
    }
}

fn value<'v>(input: &'v Input<'_>) -> Result<SessionInputValue<'v>> {
    let misfit = |e: ort::Error| failed(&format!("input `{}` does not fit its shape", input.name), &e);
    Ok(match input.data {
        Data::F32(data) => TensorRef::from_array_view((input.shape.as_slice(), data)).map_err(misfit)?.into(),
        Data::I64(data) => TensorRef::from_array_view((input.shape.as_slice(), data)).map_err(misfit)?.into(),
    })
}
