//! What has to be set for the whole process before any thread starts.

/// Variables that send requests through a proxy.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// What no proxy can reach: a hub on this machine.
const LOOPBACK: &str = "127.0.0.0/8,::1,localhost";

/// Turns off the transfer statistics that hf-xet posts unless the user turned them on, keeps what goes to a hub on this
/// machine from the proxy (hf-xet's client takes that from the environment alone), and makes a panic a clear message with
/// the exit code for a bug of ours.
pub fn prepare() {
    // CUDA numbers devices by their place on the bus, as NVML does, and not by their speed
    let settings = [("HF_XET_TELEMETRY_ENABLED", "0"), ("DO_NOT_TRACK", "1"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];
    let unset = settings.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let all = unset.map(|(name, off)| (name, off.to_string())).chain(without_proxy(&|name| std::env::var(name).ok()));
    for (name, value) in all.collect::<Vec<_>>() {
        // SAFETY: called first in `main`, before any other thread exists that could read the environment.
        unsafe { std::env::set_var(name, value) };
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        eprintln!("error: this is a bug of hfbuild: please report it with the lines above");
        std::process::exit(70);
    }));
}

/// The variable, and its value, that adds loopback to what goes through no proxy. `None`: there is no proxy.
fn without_proxy(env: &dyn Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    PROXIES.iter().find_map(|name| env(name).filter(|proxy| !proxy.is_empty()))?;
    let name = ["NO_PROXY", "no_proxy"].into_iter().find(|name| env(name).is_some()).unwrap_or("NO_PROXY");
    let others = env(name).filter(|list| !list.trim().is_empty());
    Some((name, others.map_or(LOOPBACK.into(), |others| format!("{others},{LOOPBACK}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_added_to_what_goes_through_no_proxy_where_there_is_a_proxy() {
        let with = |set: &'static [(&str, &str)]| {
            without_proxy(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(with(&[("NO_PROXY", "a.example")]), None);
        assert_eq!(with(&[("HTTP_PROXY", "")]), None);
        assert_eq!(with(&[("http_proxy", "http://p:1")]), Some(("NO_PROXY", LOOPBACK.into())));
        let own = with(&[("ALL_PROXY", "http://p:1"), ("no_proxy", "a.example")]);
        assert_eq!(own, Some(("no_proxy", format!("a.example,{LOOPBACK}"))));
    }
}
