//! The NVIDIA devices of this machine, by NVML, which is loaded when it is asked for: no CUDA is needed to build, and
//! without a driver there is an error that says so.

use crate::core::runtime::{Gpu, visible};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// The devices that this process may use, in the order in which CUDA numbers them here: those of `visible_devices` (the
/// value of `CUDA_VISIBLE_DEVICES`), or all, by their place on the bus.
///
/// # Errors
/// There is no driver, or it does not answer; as one line.
pub fn gpus(visible_devices: Option<&str>) -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::init().map_err(|e| unavailable(&e))?;
    let count = nvml.device_count().map_err(|e| unavailable(&e))?;
    let all: Vec<Gpu> = (0..count).filter_map(|n| Some(described(n, &nvml.device_by_index(n).ok()?))).collect();
    Ok(match visible_devices {
        None => all,
        Some(list) => pick(&all, list),
    })
}

/// The devices of a list of ids. One that the driver does not know ends it, as CUDA has it; a part of a device (`MIG-`)
/// is taken as it is.
fn pick(all: &[Gpu], list: &str) -> Vec<Gpu> {
    let known = |id: String| {
        let part = id.starts_with("MIG-").then(|| Gpu {
            id: id.clone(),
            index: None,
            uuid: id.clone(),
            name: "a part of an NVIDIA device".into(),
            memory: 0,
        });
        all.iter().find(|gpu| gpu.is(&id)).map(|gpu| Gpu { id: id.clone(), ..gpu.clone() }).or(part)
    };
    visible(list).into_iter().map_while(known).collect()
}

fn described(index: u32, device: &Device<'_>) -> Gpu {
    let uuid = device.uuid().unwrap_or_default();
    Gpu {
        id: if uuid.is_empty() { index.to_string() } else { uuid.clone() },
        index: Some(index),
        uuid,
        name: device.name().unwrap_or_else(|_| "an NVIDIA device".into()),
        memory: device.memory_info().map_or(0, |memory| memory.total),
    }
}

fn unavailable(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => "there is no NVIDIA driver".into(),
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".into(),
        other => format!("the NVIDIA driver does not answer: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, uuid: &str) -> Gpu {
        Gpu { id: uuid.into(), index: Some(index), uuid: uuid.into(), name: "NVIDIA L4".into(), memory: 1 << 34 }
    }

    #[test]
    fn visible_devices_are_picked_by_place_and_by_uuid_and_end_at_one_that_is_not_there() {
        let all = [gpu(0, "GPU-aa11"), gpu(1, "GPU-bb22"), gpu(2, "GPU-cc33")];
        let ids = |list: &str| pick(&all, list).into_iter().map(|g| (g.id, g.index)).collect::<Vec<_>>();
        assert_eq!(ids("2,GPU-bb"), [("2".to_string(), Some(2)), ("GPU-bb".to_string(), Some(1))]);
        assert_eq!(ids("1,7,0"), [("1".to_string(), Some(1))]);
        assert_eq!(ids("MIG-5"), [("MIG-5".to_string(), None)]);
        assert!(ids("").is_empty() && ids("-1,0").is_empty());
    }
}
