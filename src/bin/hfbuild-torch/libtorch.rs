//! The libtorch of this process: its version, and its part for CUDA, which is loaded where it can be.
//!
//! The worker is linked with the part for the CPU alone. The one for CUDA needs a dozen libraries more, which only a machine
//! with a device has any use for: it is loaded from the same folder at the start, and where that fails, its loader says
//! what is lacking.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::path::{Path, PathBuf};

unsafe extern "C" {
    /// Of `torch/csrc/inductor/aoti_torch/c/shim.h`: the version of the library that is loaded, a byte each for major, minor
    /// and patch, from the top.
    fn aoti_torch_abi_version() -> u64;
}

/// The version, e.g. `2.13.0`.
pub fn version() -> String {
    // SAFETY: it takes nothing and gives a number.
    let [major, minor, patch, ..] = unsafe { aoti_torch_abi_version() }.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

/// Loads what CUDA needs.
///
/// # Errors
/// Why there is no CUDA.
pub fn load_cuda() -> Result<usize, String> {
    let folder = folder().ok_or("libtorch's own folder cannot be found")?;
    let library = folder.join("libtorch_cuda.so");
    if !library.is_file() {
        return Err("this libtorch was built without CUDA".into());
    }
    // SAFETY: it is the other half of the library that this process is linked with; it registers itself with it.
    let loaded = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) };
    let why = |e: libloading::Error| std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
    std::mem::forget(loaded.map_err(why)?); // it stays for the process's life
    match tch::Cuda::is_available() {
        true => Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or_default()),
        false => Err("it sees no NVIDIA device".into()),
    }
}

/// Where the loaded libtorch lies.
fn folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let library =
        maps.lines().find_map(|line| line.split_once('/').filter(|(_, path)| path.ends_with("/libtorch_cpu.so")));
    Some(Path::new("/").join(library?.1).parent()?.to_path_buf())
}
