//! Where a libonnxruntime may be, and whether it can be used; and what a machine has of all there is.
//!
//! Looks at files and loads libraries, and starts no process. Nothing is looked for until somebody asks.

use super::onnxruntime::{self, OnnxRuntime};
use super::{RTEN_VERSION, Rten, Runtime, Setting, devices};
use crate::core::error::{Error, Result};
use crate::core::runtime::{self, Choice, DeviceKind, ENV, Found, Gpu, Library, Rejected, RuntimeKind, Wanted};
use ort::sys::{OrtApi, OrtApiBase};
use std::ffi::{CStr, c_char, c_int};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The library has to know this version of the interface; its minor version is that of its own newest one.
const API: u32 = ort::MINOR_VERSION;

/// The execution provider for NVIDIA devices.
const CUDA: &str = "CUDAExecutionProvider";

/// Where to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The value of `ORT_DYLIB_PATH`. Where it is there, it is the only place: what was named is not replaced by another.
    pub named: Option<PathBuf>,
    /// Where `hfbuild runtime install onnxruntime` puts it.
    pub installed: Option<PathBuf>,
    /// The folder of the executable.
    pub beside: Option<PathBuf>,
    /// Active Python environments, each with the variable that names it.
    pub python: Vec<(String, PathBuf)>,
    /// The system's library folders.
    pub system: Vec<PathBuf>,
    /// The worker that runs libtorch.
    pub worker: Option<PathBuf>,
    /// The value of `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
}

impl Places {
    /// Those of this process. `installed` is the folder under which runtimes are installed.
    pub fn of_process(installed: Option<PathBuf>) -> Places {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let folders = |name: &str| var(name).map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
        let python = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|n| Some((n.to_string(), var(n)?.into())));
        let arch = std::env::consts::ARCH;
        let fixed = ["/usr/local/lib".into(), "/opt/homebrew/lib".into(), format!("/usr/lib/{arch}-linux-gnu")];
        let fixed = fixed.into_iter().chain(["/usr/lib64".into(), "/usr/lib".into()]).map(PathBuf::from);
        Places {
            // whole, for a bare name is a file of this folder here, and for the system's loader one of its own folders
            named: var(ENV).map(PathBuf::from).map(|file| std::path::absolute(&file).unwrap_or(file)),
            installed,
            beside: std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf())),
            python: python.collect(),
            system: folders("LD_LIBRARY_PATH").into_iter().chain(fixed).collect(),
            worker: crate::model::torch::find().ok(),
            visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        }
    }

    /// Every library that is there, in the order in which they are tried, with what names the place.
    fn libraries(&self) -> Vec<(PathBuf, String)> {
        if let Some(named) = &self.named {
            return vec![(named.clone(), ENV.into())];
        }
        let mut found = Vec::new();
        let mut look = |folder: &Path, origin: &str| {
            found.extend(library_in(folder).map(|file| (file, origin.to_string())));
        };
        self.installed
            .iter()
            .for_each(|root| in_package(&root.join("onnxruntime"), &mut |f| look(f, "hfbuild runtime install")));
        self.beside.iter().for_each(|folder| look(folder, "beside hfbuild"));
        for (name, prefix) in &self.python {
            site_packages(prefix).iter().for_each(|site| in_package(site, &mut |f| look(f, name)));
        }
        self.system.iter().for_each(|folder| look(folder, "the system"));
        found
    }
}

/// The version of the library of the package `onnxruntime` in a folder of packages.
///
/// # Errors
/// There is none, or it cannot be used; as one line.
pub fn in_folder(site: &Path) -> Result<String, String> {
    let mut file = None;
    in_package(site, &mut |folder| file = library_in(folder));
    Ok(probe(&file.ok_or("there is no libonnxruntime in it")?)?.0)
}

/// Where the package `onnxruntime` keeps its library, below a folder of packages.
fn in_package(site: &Path, look: &mut dyn FnMut(&Path)) {
    look(&site.join("onnxruntime/capi"));
}

/// `lib/python3.N/site-packages` of an environment.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
    let pythons = entries.filter(|e| e.file_name().to_string_lossy().starts_with("python3"));
    let mut found: Vec<_> = pythons.map(|e| e.path().join("site-packages")).filter(|site| site.is_dir()).collect();
    found.sort();
    found
}

/// The libonnxruntime of a folder; of several the one of the highest version.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let version = |name: &str| -> Option<Vec<u32>> {
        let rest = name.strip_prefix("libonnxruntime.")?;
        let numbers = match rest.strip_prefix("so") {
            Some(rest) => rest.strip_prefix('.').unwrap_or(rest),
            None => rest.strip_suffix("dylib")?.trim_end_matches('.'),
        };
        numbers.split('.').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect()
    };
    let names = std::fs::read_dir(folder).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok());
    let best = names.filter_map(|name| Some((version(&name)?, name))).max()?;
    Some(folder.join(best.1))
}

/// A library's version and the providers that it was built with.
///
/// # Errors
/// It cannot be loaded, is no onnxruntime, or is too old; as one line.
fn probe(path: &Path) -> Result<(String, Vec<String>), String> {
    if path.is_dir() {
        return Err("which is a folder, and no library".into());
    }
    if !path.is_file() {
        return Err("which is not there".into());
    }
    whole(path)?;
    // SAFETY: a library is loaded on the user's word: it was named, or stands where libraries stand.
    let library =
        unsafe { libloading::Library::new(path) }.map_err(|e| format!("it cannot be loaded: {}", in_short(&e)))?;
    // it stays loaded: it may be the one that is used, and some do not survive being unloaded
    let library = std::mem::ManuallyDrop::new(library);
    // SAFETY: the signatures are those of onnxruntime_c_api.h, which no version has changed.
    unsafe {
        let base = library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase");
        let base = base.map_err(|_| "it is no libonnxruntime: it has no `OrtGetApiBase`")?();
        let base = base.as_ref().ok_or("it is no libonnxruntime: it has no interface")?;
        let version = text((base.GetVersionString)()).ok_or("it does not say its version")?;
        let minor = version.strip_prefix("1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        if minor.is_none_or(|minor| minor < API) {
            return Err(format!("it is onnxruntime {version}, and 1.{API} is the oldest that can be used"));
        }
        let api =
            (base.GetApi)(API).as_ref().ok_or(format!("onnxruntime {version} lacks version {API} of its interface"))?;
        Ok((version, providers(api)))
    }
}

/// Holds that an ELF file (of 64 bits, little-endian) is as long as what it has to be loaded of: the loader does not look,
/// and a process that touches what is missing is killed. Any other file is left to the loader.
///
/// # Errors
/// It is shorter; as one line.
fn whole(path: &Path) -> Result<(), String> {
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(()) };
    let Ok(length) = file.metadata().map(|m| m.len()) else { return Ok(()) };
    let mut header = [0; 64];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(());
    }
    let (table, count) = (number(&header, 32, 8), number(&header, 56, 2));
    if number(&header, 54, 2) != ENTRY as u64 {
        return Ok(()); // no such file is loaded
    }
    let mut bytes = vec![0; ENTRY * usize::try_from(count).unwrap_or(0)];
    let mut needed = table.saturating_add(bytes.len() as u64);
    if file.seek(SeekFrom::Start(table)).is_ok() && file.read_exact(&mut bytes).is_ok() {
        let loaded = bytes.chunks_exact(ENTRY).filter(|one| number(one, 0, 4) == PT_LOAD);
        let ends = loaded.map(|one| number(one, 8, 8).saturating_add(number(one, 32, 8)));
        needed = ends.fold(needed, u64::max);
    }
    match needed > length {
        true => Err(format!("it is cut off: it has {length} bytes, and its header says {needed}")),
        false => Ok(()),
    }
}

/// Bytes of a program header.
const ENTRY: usize = 56;
/// The type of a part of an ELF file that is loaded.
const PT_LOAD: u64 = 1;

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes.iter().skip(at).take(width).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Without the path, which stands beside it.
fn in_short(error: &libloading::Error) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.rsplit_once(": ").map_or(text.clone(), |(_, last)| last.to_string())
}

/// SAFETY: `raw` is null or a C string.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: as above.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}

/// SAFETY: `api` is one that a library gave for the version that it was asked for.
unsafe fn providers(api: &OrtApi) -> Vec<String> {
    let (mut names, mut count): (*mut *mut c_char, c_int) = (std::ptr::null_mut(), 0);
    // SAFETY: it fills both, or gives a status, which is then left: that happens once, in an error.
    unsafe {
        if !(api.GetAvailableProviders)(&mut names, &mut count).0.is_null() || names.is_null() {
            return vec![];
        }
        let all = (0..usize::try_from(count).unwrap_or(0)).filter_map(|n| text(*names.add(n))).collect();
        let _ = (api.ReleaseAvailableProviders)(names, count); // it cannot fail
        all
    }
}

/// What this machine has: looked for once, when it is first asked.
#[derive(Debug, Default)]
pub struct Machine {
    places: Places,
    found: OnceLock<Found>,
    gpus: OnceLock<Result<Vec<Gpu>, String>>,
}

impl Machine {
    /// One that looks in these places.
    pub fn new(places: Places) -> Machine {
        Machine { places, ..Machine::default() }
    }

    /// The devices that this process may use, or why there are none.
    pub fn gpus(&self) -> &Result<Vec<Gpu>, String> {
        self.gpus.get_or_init(|| devices::gpus(self.places.visible_devices.as_deref()))
    }

    /// All that there is.
    pub fn found(&self) -> &Found {
        self.found.get_or_init(|| {
            let mut found = Found {
                rten: RTEN_VERSION.into(),
                onnxruntime: None,
                rejected: vec![],
                devices: self.gpus().clone(),
                torch: self.places.worker.as_ref().map(|file| file.display().to_string()),
            };
            found.onnxruntime = self.best(&mut found.rejected);
            found
        })
    }

    /// The first library that can be used; where there is a device, the first of those with CUDA. The others that were
    /// looked at are told with the reason.
    fn best(&self, rejected: &mut Vec<Rejected>) -> Option<Library> {
        let has_device = self.gpus().as_ref().is_ok_and(|all| !all.is_empty());
        let mut plain: Option<Library> = None;
        for (file, origin) in self.places.libraries() {
            let path = file.canonicalize().unwrap_or(file.clone()).display().to_string();
            let (version, providers) = match probe(&file) {
                Ok(said) => said,
                Err(why) => {
                    rejected.push(Rejected { path, origin, why });
                    continue;
                }
            };
            let with_cuda = providers.iter().any(|name| name == CUDA);
            let library = Library { path, origin, version, providers, cuda: Ok(()) };
            if with_cuda || !has_device {
                if let Some(Library { path, origin, .. }) = plain {
                    let why = format!("it was built without CUDA, and `{}` with it", library.path);
                    rejected.push(Rejected { path, origin, why });
                }
                return Some(self.with_cuda(library));
            }
            plain = plain.or(Some(library));
        }
        plain.map(|library| self.with_cuda(library))
    }

    fn with_cuda(&self, library: Library) -> Library {
        Library { cuda: self.cuda(&library.path, &library.providers), ..library }
    }

    /// Whether a library's CUDA provider loads. Without a device nobody asks, and it could not.
    fn cuda(&self, path: &str, providers: &[String]) -> Result<(), String> {
        if !providers.iter().any(|name| name == CUDA) {
            return Err(format!("`{path}` was built without CUDA"));
        }
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"] {
            let file = Path::new(path).with_file_name(name);
            whole(&file).map_err(|why| format!("`{}` cannot be loaded: {why}", file.display()))?;
        }
        match self.gpus() {
            Ok(all) if !all.is_empty() => onnxruntime::cuda(path),
            _ => Ok(()),
        }
    }

    /// What a stage runs on.
    ///
    /// # Errors
    /// As [`runtime::choose`].
    pub fn choose(&self, wanted: Wanted, gpus: Option<&[String]>) -> Result<Choice> {
        // what the embedded runtime alone can do needs no look at the machine
        match (wanted.runtime, wanted.device) {
            (Some(RuntimeKind::Rten), _) => runtime::choose(wanted, &Found::bare(RTEN_VERSION)),
            _ => runtime::choose(wanted, &self.found().holding(gpus)),
        }
    }

    /// The runtime that a stage wants, on the device that it holds.
    ///
    /// # Errors
    /// As [`runtime::choose`].
    pub fn runtime(&self, wanted: Wanted, setting: &Setting) -> Result<Box<dyn Runtime>> {
        let choice = self.choose(wanted, setting.gpus.as_deref())?;
        if choice.runtime == RuntimeKind::Rten {
            return Ok(Box::new(Rten { threads: setting.threads }));
        }
        let library =
            self.found().onnxruntime.clone().ok_or_else(|| Error::bug("a library was chosen and is not there"))?;
        let threads = setting.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let lost = || Error::bug("a device was chosen and is not there");
        let cuda = match choice.device {
            DeviceKind::Cuda => Some(self.device(setting).ok_or_else(lost)?),
            DeviceKind::Cpu => None,
        };
        Ok(Box::new(OnnxRuntime { library, threads, cuda, only: choice.named }))
    }

    /// The number that CUDA knows the stage's device by in this process, and its name.
    fn device(&self, setting: &Setting) -> Option<(i32, String)> {
        let all = self.gpus().as_deref().unwrap_or_default();
        let held = |gpu: &Gpu| setting.gpus.as_ref().is_none_or(|ids| ids.iter().any(|id| gpu.is(id)));
        let at = all.iter().position(held)?;
        Some((i32::try_from(at).ok()?, all[at].name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_cut_off_is_told_and_other_files_are_left_to_the_loader() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lib.so");
        let mut elf = vec![0_u8; 300];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 1); // one program header, right behind the header
        (elf[64], elf[64 + 8], elf[64 + 32]) = (1, 100, 200); // loads 200 bytes from 100 on
        let looked = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            whole(&file)
        };
        assert_eq!(looked(&elf), Ok(()));
        let cut = |has: usize| Err(format!("it is cut off: it has {has} bytes, and its header says 300"));
        assert_eq!(looked(&elf[..299]), cut(299));
        assert_eq!(looked(&elf[..120]), cut(120));
        assert!(looked(&elf[..100]).unwrap_err().ends_with("it has 100 bytes, and its header says 120"));
        assert_eq!([looked(&elf[..40]), looked(b"no library")], [Ok(()), Ok(())]);
    }
}
