//! Which runtime a stage runs its graph on, and where: what a manifest may ask for, what a machine has, and the one
//! function that decides between them. Stages, `plan` and `doctor` all call it, so they cannot disagree.
//!
//! Pure: what was found on the machine is handed in. Knows no library and loads none.

use crate::core::error::{Error, Result};
use crate::core::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A library that runs ONNX graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// The embedded one: always there, on the CPU only.
    Rten,
    /// libonnxruntime, loaded where one is found.
    OnnxRuntime,
    /// libtorch, in a worker; never chosen, only named.
    Torch,
}

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// An NVIDIA device.
    Cuda,
}

impl RuntimeKind {
    /// The word of the manifest.
    pub fn word(self) -> &'static str {
        match self {
            RuntimeKind::Rten => "rten",
            RuntimeKind::OnnxRuntime => "onnxruntime",
            RuntimeKind::Torch => "torch",
        }
    }
}

impl DeviceKind {
    /// The word of the manifest.
    pub fn word(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
        }
    }
}

/// What `runtime` may say.
pub const RUNTIMES: &[&str] = &["auto", "rten", "onnxruntime"];
/// What `device` may say.
pub const DEVICES: &[&str] = &["auto", "cpu", "cuda"];

/// What a stage asks for; `None` stands for `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The runtime.
    pub runtime: Option<RuntimeKind>,
    /// The device.
    pub device: Option<DeviceKind>,
}

impl Wanted {
    /// What an action's parameters ask for. One that is absent, or says `auto`, asks for nothing.
    pub fn of(params: &BTreeMap<String, Value>) -> Wanted {
        let word = |name: &str| params.get(name).and_then(Value::as_text).unwrap_or("auto");
        let runtime = [RuntimeKind::Rten, RuntimeKind::OnnxRuntime].into_iter().find(|r| r.word() == word("runtime"));
        let device = [DeviceKind::Cpu, DeviceKind::Cuda].into_iter().find(|d| d.word() == word("device"));
        Wanted { runtime, device }
    }
    /// Whether the machine decides all of it.
    pub fn is_auto(self) -> bool {
        self == Wanted::default()
    }
}

/// A libonnxruntime that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Its file.
    pub path: String,
    /// What named the place, e.g. `ORT_DYLIB_PATH`.
    pub origin: String,
    /// Its version, e.g. `1.32.0`.
    pub version: String,
    /// The execution providers that it was built with.
    pub providers: Vec<String>,
    /// Why its CUDA provider cannot be used, where it cannot.
    pub cuda: Result<(), String>,
}

/// A libonnxruntime that is there and is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its file.
    pub path: String,
    /// What named the place.
    pub origin: String,
    /// What is wrong with it.
    pub why: String,
}

/// An NVIDIA device that this process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// The id that pins it, as `CUDA_VISIBLE_DEVICES` takes it: its UUID, or what that variable held.
    pub id: String,
    /// Its place in the driver's list, which is that of the bus.
    pub index: Option<u32>,
    /// Its UUID, `GPU-...`; empty: not known.
    pub uuid: String,
    /// Its name, e.g. `NVIDIA L4`.
    pub name: String,
    /// Bytes of its memory; 0: not known.
    pub memory: u64,
}

impl Gpu {
    /// Whether an id that pins a device means this one: as it is, its place, or the beginning of its UUID.
    pub fn is(&self, id: &str) -> bool {
        let by_uuid = id.starts_with("GPU-") && self.uuid.starts_with(id);
        self.id == id || by_uuid || (self.id == self.uuid && self.index.is_some_and(|index| index.to_string() == id))
    }
}

/// The devices that a `CUDA_VISIBLE_DEVICES` lists; CUDA stops at the first that is none, such as `-1`.
pub fn visible(list: &str) -> Vec<String> {
    let is_id = |id: &&str| id.starts_with(|c: char| c.is_ascii_alphanumeric()) && *id != "NoDevFiles";
    list.split(',').map(str::trim).take_while(is_id).map(String::from).collect()
}

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The version of the embedded runtime.
    pub rten: String,
    /// The libonnxruntime of this process.
    pub onnxruntime: Option<Library>,
    /// Those that were found before it and are not used.
    pub rejected: Vec<Rejected>,
    /// The devices that this process may use, or why there are none.
    pub devices: Result<Vec<Gpu>, String>,
    /// The worker that runs libtorch.
    pub torch: Option<String>,
}

/// Something better that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// What: `onnxruntime` or `cuda`.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What would mend it.
    pub mend: Option<String>,
}

/// What a stage runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The runtime.
    pub runtime: RuntimeKind,
    /// Its version.
    pub version: String,
    /// Where it runs.
    pub device: DeviceKind,
    /// Whether the manifest named the device: then nothing else will do.
    pub named: bool,
    /// What was not taken, and why.
    pub passed_over: Vec<PassedOver>,
}

impl Found {
    /// Of a machine that has nothing but the embedded runtime.
    pub fn bare(rten: &str) -> Found {
        let devices = Ok(vec![]);
        Found { rten: rten.into(), onnxruntime: None, rejected: vec![], devices, torch: None }
    }
    /// What a stage finds that holds these devices and no others (`None`: it may take any).
    pub fn holding(&self, gpus: Option<&[String]>) -> Found {
        let mut found = self.clone();
        let (Some(ids), Ok(all)) = (gpus, &mut found.devices) else { return found };
        let had_any = !all.is_empty();
        all.retain(|gpu| ids.iter().any(|id| gpu.is(id)));
        if had_any && all.is_empty() {
            found.devices = Err(match ids.first() {
                None => "the pool `gpu` gives it no device".into(),
                Some(id) => format!("the pool `gpu` gives it `{id}`, which is no visible NVIDIA device"),
            });
        }
        found
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}", self.runtime.word(), self.version, self.device.word())
    }
}

/// What a session ran on, for receipts and facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The runtime's name.
    pub runtime: String,
    /// Its version.
    pub version: String,
    /// The device: `cpu`, `cuda`.
    pub device: DeviceKind,
    /// The execution provider, where the runtime has several, and the device's name: `CUDAExecutionProvider, NVIDIA L4`.
    pub detail: Option<String>,
    /// Why it was not the device that was tried first; for a log and the receipt.
    pub instead: Option<String>,
}

impl Used {
    /// The same with the reason, shortly, where it is not the device that was tried first: what a receipt says to people.
    pub fn with_reason(&self) -> String {
        let line = |why: &String| why.lines().next().unwrap_or_default().chars().take(200).collect::<String>();
        self.instead.as_ref().map_or_else(|| self.to_string(), |why| format!("{self}: {}", line(why)))
    }
}

impl fmt::Display for Used {
    /// As a receipt holds it: `rten 0.27.0 (cpu)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.detail.as_ref().map_or(String::new(), |detail| format!(", {detail}"));
        write!(f, "{} {} ({}{detail})", self.runtime, self.version, self.device.word())
    }
}

const INSTALL: &str = "run `hfbuild runtime install onnxruntime`";
const INSTALL_GPU: &str = "run `hfbuild runtime install onnxruntime --gpu`";

/// What a stage that wants this runs on, on a machine that has that. Left to itself it takes CUDA where device, library
/// and provider are there, else onnxruntime, else the embedded runtime.
///
/// # Errors
/// What is asked for by name is not there, or two words exclude each other; with what is lacking, and the mend.
pub fn choose(wanted: Wanted, found: &Found) -> Result<Choice> {
    let named = wanted.device.is_some();
    let rten = |passed_over| Choice {
        runtime: RuntimeKind::Rten,
        version: found.rten.clone(),
        device: DeviceKind::Cpu,
        named,
        passed_over,
    };
    if wanted.runtime == Some(RuntimeKind::Rten) {
        return match wanted.device {
            Some(DeviceKind::Cuda) => {
                Err(Error::stage("`device = \"cuda\"` with `runtime = \"rten\"`, which has no CUDA")
                    .hint("take `runtime` out, or set it to \"onnxruntime\""))
            }
            _ => Ok(rten(vec![])),
        };
    }
    let device = no_device(found);
    if let (Some(DeviceKind::Cuda), Some(lacking)) = (wanted.device, &device) {
        return Err(refused("`device = \"cuda\"`", lacking)); // no library would mend that
    }
    let Some(library) = &found.onnxruntime else {
        let lacking = no_library(found);
        return match (wanted.runtime, wanted.device) {
            (_, Some(DeviceKind::Cuda)) => Err(refused("`device = \"cuda\"`", &lacking)),
            (Some(RuntimeKind::OnnxRuntime), _) => Err(refused("`runtime = \"onnxruntime\"`", &lacking)),
            _ => Ok(rten(vec![lacking])),
        };
    };
    let on = |device, passed_over| Choice {
        runtime: RuntimeKind::OnnxRuntime,
        version: library.version.clone(),
        device,
        named,
        passed_over,
    };
    match (wanted.device, device.or_else(|| no_cuda(library))) {
        (Some(DeviceKind::Cpu), _) => Ok(on(DeviceKind::Cpu, vec![])),
        (_, None) => Ok(on(DeviceKind::Cuda, vec![])),
        (None, Some(lacking)) => Ok(on(DeviceKind::Cpu, vec![lacking])),
        (Some(DeviceKind::Cuda), Some(lacking)) => Err(refused("`device = \"cuda\"`", &lacking)),
    }
}

fn refused(asked: &str, lacking: &PassedOver) -> Error {
    let error = Error::stage(format!("{asked} cannot be had here: {}", lacking.why));
    match &lacking.mend {
        Some(mend) => error.hint(mend.clone()),
        None => error,
    }
}

/// Why no libonnxruntime is used.
fn no_library(found: &Found) -> PassedOver {
    let install = if no_device(found).is_none() { INSTALL_GPU } else { INSTALL };
    let (why, mend) = match found.rejected.first() {
        None => ("no libonnxruntime was found".to_string(), install.to_string()),
        Some(bad) if bad.origin == ENV => {
            (format!("{ENV} names `{}`, {}", bad.path, bad.why), format!("unset {ENV}, or name another file"))
        }
        Some(bad) => (format!("`{}` cannot be used: {}", bad.path, bad.why), install.to_string()),
    };
    PassedOver { what: RuntimeKind::OnnxRuntime.word().into(), why, mend: Some(mend) }
}

/// The environment variable that names a libonnxruntime.
pub const ENV: &str = "ORT_DYLIB_PATH";

/// Why there is no device, where there is none.
fn no_device(found: &Found) -> Option<PassedOver> {
    let why = match &found.devices {
        Err(why) => why.clone(),
        Ok(all) if all.is_empty() => "no NVIDIA device is visible".to_string(),
        Ok(_) => return None,
    };
    Some(PassedOver { what: DeviceKind::Cuda.word().into(), why, mend: None })
}

/// Why CUDA is not used with a library, where it is not.
fn no_cuda(library: &Library) -> Option<PassedOver> {
    let why = library.cuda.clone().err()?;
    Some(PassedOver { what: DeviceKind::Cuda.word().into(), why, mend: Some(INSTALL_GPU.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(onnxruntime: bool, cuda: Result<(), &str>, devices: Result<usize, &str>) -> Found {
        let gpu = |n: usize| {
            let uuid = format!("GPU-{n}a");
            Gpu { id: uuid.clone(), index: u32::try_from(n).ok(), uuid, name: "NVIDIA L4".into(), memory: 1 << 34 }
        };
        let library = Library {
            path: "/x/libonnxruntime.so".into(),
            origin: "VIRTUAL_ENV".into(),
            version: "1.32.0".into(),
            providers: vec![],
            cuda: cuda.map_err(String::from),
        };
        Found {
            onnxruntime: onnxruntime.then_some(library),
            devices: devices.map(|n| (0..n).map(gpu).collect()).map_err(String::from),
            ..Found::bare("0.27.0")
        }
    }

    fn wanted(runtime: &str, device: &str) -> Wanted {
        let params = [("runtime", runtime), ("device", device)].map(|(k, v)| (k.to_string(), Value::from(v)));
        Wanted::of(&params.into())
    }

    fn chosen(runtime: &str, device: &str, found: &Found) -> String {
        match choose(wanted(runtime, device), found) {
            Ok(choice) => {
                let over = choice.passed_over.iter().map(|p| format!("; {}: {}", p.what, p.why)).collect::<String>();
                format!("{choice}{over}")
            }
            Err(error) => format!("{} | {}", error.message(), error.hint_text().unwrap_or_default()),
        }
    }

    #[test]
    fn the_best_that_is_there_is_taken_and_what_was_passed_over_is_said() {
        let none = machine(false, Ok(()), Err("there is no NVIDIA driver"));
        assert_eq!(chosen("auto", "auto", &none), "rten 0.27.0 on cpu; onnxruntime: no libonnxruntime was found");
        let library = machine(true, Err("built without CUDA"), Err("there is no NVIDIA driver"));
        assert_eq!(chosen("auto", "auto", &library), "onnxruntime 1.32.0 on cpu; cuda: there is no NVIDIA driver");
        let plain = machine(true, Err("built without CUDA"), Ok(1));
        assert_eq!(chosen("auto", "auto", &plain), "onnxruntime 1.32.0 on cpu; cuda: built without CUDA");
        let all = machine(true, Ok(()), Ok(1));
        assert_eq!(chosen("auto", "auto", &all), "onnxruntime 1.32.0 on cuda");
        assert_eq!(chosen("auto", "cpu", &all), "onnxruntime 1.32.0 on cpu");
        assert_eq!(chosen("rten", "auto", &all), "rten 0.27.0 on cpu");
        assert_eq!(chosen("onnxruntime", "cuda", &all), "onnxruntime 1.32.0 on cuda");
    }

    #[test]
    fn what_is_named_and_lacks_is_an_error_with_the_mend() {
        let none = machine(false, Ok(()), Err("there is no NVIDIA driver"));
        assert_eq!(
            chosen("onnxruntime", "auto", &none),
            "`runtime = \"onnxruntime\"` cannot be had here: no libonnxruntime was found | run `hfbuild runtime install onnxruntime`"
        );
        let library = machine(true, Ok(()), Err("there is no NVIDIA driver"));
        let refused = chosen("auto", "cuda", &library);
        assert!(refused.starts_with("`device = \"cuda\"` cannot be had here: there is no NVIDIA driver"), "{refused}");
        assert!(chosen("onnxruntime", "cuda", &none).contains("there is no NVIDIA driver"));
        let device = machine(false, Ok(()), Ok(1));
        assert!(chosen("auto", "cuda", &device).ends_with("found | run `hfbuild runtime install onnxruntime --gpu`"));
        let plain = machine(true, Err("built without CUDA"), Ok(1));
        assert!(chosen("auto", "cuda", &plain).ends_with("run `hfbuild runtime install onnxruntime --gpu`"));
        assert!(chosen("rten", "cuda", &plain).contains("which has no CUDA"));
        let named = Rejected { path: "/x".into(), origin: ENV.into(), why: "which is not there".into() };
        let bad = Found { rejected: vec![named], ..none };
        assert!(chosen("auto", "auto", &bad).ends_with("onnxruntime: ORT_DYLIB_PATH names `/x`, which is not there"));
    }

    #[test]
    fn what_ran_elsewhere_than_was_tried_says_why_in_one_line() {
        let (runtime, version) = ("onnxruntime".to_string(), "1.32.0".to_string());
        let used = Used { runtime, version, device: DeviceKind::Cpu, detail: None, instead: None };
        assert_eq!(used.with_reason(), "onnxruntime 1.32.0 (cpu)");
        let used = Used { instead: Some("on the CPU, for CUDA did not\nmore".into()), ..used };
        assert_eq!(used.with_reason(), "onnxruntime 1.32.0 (cpu): on the CPU, for CUDA did not");
        assert_eq!(used.to_string(), "onnxruntime 1.32.0 (cpu)");
    }

    #[test]
    fn a_stage_sees_the_devices_that_it_holds_and_no_others() {
        let two = machine(true, Ok(()), Ok(2));
        let on = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            chosen("auto", "auto", &two.holding(Some(&ids)))
        };
        assert_eq!([on(&["1"]), on(&["GPU-0"])], ["onnxruntime 1.32.0 on cuda", "onnxruntime 1.32.0 on cuda"]);
        assert_eq!(on(&[]), "onnxruntime 1.32.0 on cpu; cuda: the pool `gpu` gives it no device");
        let lost = "onnxruntime 1.32.0 on cpu; cuda: the pool `gpu` gives it `7`, which is no visible NVIDIA device";
        assert_eq!(on(&["7"]), lost);
        assert_eq!(chosen("auto", "auto", &two.holding(None)), "onnxruntime 1.32.0 on cuda");
    }
}
