//! What has to be set for the whole process before any thread starts.

/// Turns off the transfer statistics that hf-xet posts unless the user turned them on, and makes a panic a clear message
/// with the exit code for a bug of ours.
pub fn prepare() {
    // CUDA numbers devices by their place on the bus, as NVML does, and not by their speed
    let wanted = [("HF_XET_TELEMETRY_ENABLED", "0"), ("DO_NOT_TRACK", "1"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];
    for (name, off) in wanted {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first in `main`, before any other thread exists that could read the environment.
            unsafe { std::env::set_var(name, off) };
        }
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        eprintln!("error: this is a bug of hfbuild: please report it with the lines above");
        std::process::exit(70);
    }));
}
