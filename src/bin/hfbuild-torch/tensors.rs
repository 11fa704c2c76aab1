//! Between hfbuild's tensors and libtorch's, and from its errors to ours.

use hfbuild::core::error::{Error, Result};
use hfbuild::model::tensor::StateDict;
use hfbuild::model::torch::protocol::{Kind, Tensor as Described};
use std::collections::BTreeMap;
use tch::{Device, TchError, Tensor};

/// libtorch's message, without the trace of its own functions.
pub fn failed(what: &str, error: &TchError) -> Error {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    let told =
        text.lines().take_while(|line| !line.starts_with("Exception raised from") && !line.starts_with("frame #"));
    told.filter(|line| !line.trim().is_empty()).take(12).fold(Error::stage(what), |e, line| e.cause(line.trim()))
}

/// Whether it was the memory that did not suffice.
pub fn is_out_of_memory(error: &Error) -> bool {
    let words =
        ["CUDA out of memory", "CUDA error: out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"];
    error.causes().iter().any(|cause| words.iter().any(|word| cause.contains(word)))
}

/// Weights by name, as f32 on a device.
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads those of `dict` that `wanted` says.
    ///
    /// # Errors
    /// A tensor cannot be read, or does not fit the device.
    pub fn load(dict: &StateDict, device: Device, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        let mut tensors = BTreeMap::new();
        for entry in dict.tensors().iter().filter(|entry| wanted(&entry.name)) {
            let what = format!("libtorch cannot take the tensor `{}`", entry.name);
            let shape: Vec<i64> = entry.shape.iter().map(|&extent| extent as i64).collect();
            let values = entry.f32()?;
            let tensor =
                Tensor::f_from_slice(&values).and_then(|t| t.f_reshape(&shape)).and_then(|t| t.f_to_device(device));
            tensors.insert(entry.name.clone(), tensor.map_err(|e| failed(&what, &e))?);
        }
        Ok(Weights { tensors })
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Result<&Tensor, TchError> {
        self.tensors.get(name).ok_or_else(|| TchError::TensorNameNotFound(name.into(), "the weights".into()))
    }

    /// The tensor of a name, if there is one.
    pub fn maybe(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

/// The inputs of a request, by name in its order.
///
/// # Errors
/// The data is shorter or longer than what is described.
pub fn inputs(described: &[Described], mut data: &[u8], device: Device) -> Result<Vec<(String, Tensor)>> {
    let mut inputs = Vec::with_capacity(described.len());
    for input in described {
        let misfit = || Error::stage(format!("input `{}` does not fit its shape {:?}", input.name, input.shape));
        let (bytes, rest) = input.bytes().and_then(|n| data.split_at_checked(n)).ok_or_else(misfit)?;
        let kind = match input.kind {
            Kind::F32 => tch::Kind::Float,
            Kind::I64 => tch::Kind::Int64,
        };
        let shape: Vec<i64> = input.shape.iter().map(|&extent| extent as i64).collect();
        let tensor = Tensor::f_from_data_size(bytes, &shape, kind).and_then(|t| t.f_to_device(device));
        inputs.push((input.name.clone(), tensor.map_err(|e| failed("libtorch cannot take an input", &e))?));
        data = rest;
    }
    match data.is_empty() {
        true => Ok(inputs),
        false => Err(Error::stage(format!("{} bytes are left over after the inputs", data.len()))),
    }
}

/// The shape and the numbers of a tensor, as f32, little-endian.
pub fn output(tensor: &Tensor) -> Result<(Vec<usize>, Vec<u8>), TchError> {
    let tensor = tensor.f_to_kind(tch::Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let shape = tensor.size().into_iter().map(|extent| usize::try_from(extent).unwrap_or_default()).collect();
    let mut bytes = vec![0; tensor.numel() * 4];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    if cfg!(target_endian = "big") {
        bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|number| number.reverse());
    }
    Ok((shape, bytes))
}
