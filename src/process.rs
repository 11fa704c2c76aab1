//! What has to be set for the whole process before any thread starts.

/// What is on this machine is reached by no proxy: the embedded hub above all.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
const LOOPBACK: &str = "127.0.0.1,localhost,::1";

/// Turns off the transfer statistics that hf-xet posts unless the user turned them on, keeps proxies away from this machine's own hubs, and makes a panic a clear message
/// with the exit code for a bug of ours.
pub fn prepare() {
    for (name, off) in [("HF_XET_TELEMETRY_ENABLED", "0"), ("DO_NOT_TRACK", "1")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first in `main`, before any other thread exists that could read the environment.
            unsafe { std::env::set_var(name, off) };
        }
    }
    let known = NO_PROXY.iter().find_map(|name| std::env::var(name).ok().filter(|hosts| !hosts.is_empty()));
    let hosts = known.map_or(LOOPBACK.to_string(), |hosts| format!("{hosts},{LOOPBACK}"));
    for name in NO_PROXY {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, &hosts) };
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        eprintln!("error: this is a bug of hfbuild: please report it with the lines above");
        std::process::exit(70);
    }));
}
