//! What hfbuild and its worker `hfbuild-torch` say to each other over a pipe, and how it is laid out in bytes.
//!
//! A frame is [`MAGIC`], the length of its header (u32), the length of its data (u64), the header as JSON, and the data:
//! the numbers of the tensors that the header lists, one after the other. All little-endian. Every request gets one reply.
//! Knows no process and no libtorch: both sides share this file, and nothing of the arithmetic.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::runtime::DeviceKind;
use crate::model::architecture::Architecture;
use crate::model::runtime::{Data, Input};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The version of this protocol. Another one is refused.
pub const PROTOCOL: u32 = 1;
/// The version of torch that the worker is built for: what its crate `tch` demands.
pub const TORCH: &str = "2.13.0";
/// Opens every frame.
pub const MAGIC: [u8; 4] = *b"hft1";
/// Bytes before the header.
pub const PREFIX: usize = 16;
/// The longest header that is believed.
const MAX_HEADER: u32 = 1 << 20;
/// The most data that is believed.
const MAX_DATA: u64 = 64 << 30;

/// What hfbuild asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Always the first.
    Hello {
        /// [`PROTOCOL`] of who asks.
        protocol: u32,
    },
    /// Load a network, in place of the one that is loaded.
    Open {
        /// What to load.
        subject: Subject,
        /// Where to; of NVIDIA devices the first that the worker sees.
        device: DeviceKind,
        /// Threads on the CPU; `None`: as torch decides.
        threads: Option<usize>,
    },
    /// Run it on the tensors of the data.
    Run {
        /// What the data holds.
        inputs: Vec<Tensor>,
        /// The output that is wanted; a TorchScript module has one alone.
        output: String,
    },
}

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// One that hfbuild knows, with weights as the kind `safetensors` writes them.
    Weights {
        /// The files: their names in the artifact, and where they lie.
        files: Vec<(String, PathBuf)>,
        /// The network and its sizes.
        architecture: Architecture,
    },
    /// A TorchScript module.
    TorchScript {
        /// Where it lies.
        path: PathBuf,
    },
}

/// A tensor of the data, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// The input's name.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The type of its numbers.
    pub kind: Kind,
}

/// The type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// 4 bytes each.
    F32,
    /// 8 bytes each.
    I64,
}

impl Tensor {
    /// Its bytes in the data; `None`: more than can be counted.
    pub fn bytes(&self) -> Option<usize> {
        let size = match self.kind {
            Kind::F32 => 4,
            Kind::I64 => 8,
        };
        self.shape.iter().try_fold(size, |bytes: usize, extent| bytes.checked_mul(*extent))
    }
}

/// What the worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Who it is.
    Hello(Hello),
    /// The network is loaded.
    Opened,
    /// The output, f32, is the data.
    Output {
        /// Its extents, outermost first.
        shape: Vec<usize>,
    },
    /// It cannot be done; the worker is as good as before.
    Failed {
        /// The memory did not suffice: with less it may do.
        out_of_memory: bool,
        /// What failed.
        message: String,
        /// Why.
        causes: Vec<String>,
        /// What would mend it.
        hint: Option<String>,
    },
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the worker.
    pub protocol: u32,
    /// The version of the libtorch that it loaded, e.g. `2.13.0`.
    pub torch: String,
    /// NVIDIA devices that it sees.
    pub cuda_devices: usize,
    /// Why it sees none, where it does not.
    pub no_cuda: Option<String>,
    /// Threads on the CPU, as torch decides.
    pub threads: usize,
}

/// What frames carry in their header: told apart by what is on the other side.
pub trait Header: Serialize + DeserializeOwned {}
impl Header for Request {}
impl Header for Reply {}

/// The bytes of a frame before its data.
///
/// # Errors
/// A path that is no UTF-8, or a header that is too long.
pub fn head(header: &impl Header, data: u64) -> Result<Vec<u8>> {
    let failed = |why: String| Error::stage("this cannot be asked of `hfbuild-torch`").cause(why);
    let json = serde_json::to_vec(header).map_err(|e| failed(e.to_string()))?;
    let length = u32::try_from(json.len()).ok().filter(|n| *n <= MAX_HEADER);
    let length = length.ok_or_else(|| failed(format!("its description has {} bytes", json.len())))?;
    let mut bytes = Vec::with_capacity(PREFIX + json.len());
    bytes.extend(MAGIC);
    bytes.extend(length.to_le_bytes());
    bytes.extend(data.to_le_bytes());
    bytes.extend(json);
    Ok(bytes)
}

/// The lengths of header and data, from the first bytes of a frame.
///
/// # Errors
/// It is no frame; the message shows what came instead.
pub fn lengths(prefix: &[u8; PREFIX]) -> Result<(usize, usize)> {
    let [m0, m1, m2, m3, h0, h1, h2, h3, data @ ..] = *prefix;
    let (header, data) = (u32::from_le_bytes([h0, h1, h2, h3]), u64::from_le_bytes(data));
    if [m0, m1, m2, m3] != MAGIC || header > MAX_HEADER || data > MAX_DATA {
        return Err(Error::stage("what came over the pipe is no message")
            .cause(format!("it begins with `{}`", prefix.escape_ascii())));
    }
    Ok((header as usize, data as usize))
}

/// A header from its bytes.
///
/// # Errors
/// It is none.
pub fn parse<H: Header>(bytes: &[u8]) -> Result<H> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::stage("what came over the pipe is no message").cause(e.to_string()))
}

/// What a list of inputs is called, and its numbers as bytes.
pub fn pack(inputs: &[Input<'_>]) -> (Vec<Tensor>, Vec<u8>) {
    let mut data = Vec::new();
    let tensors = inputs.iter().map(|input| {
        let kind = match input.data {
            Data::F32(values) => {
                data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                Kind::F32
            }
            Data::I64(values) => {
                data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                Kind::I64
            }
        };
        Tensor { name: input.name.to_string(), shape: input.shape.clone(), kind }
    });
    (tensors.collect(), data)
}

/// The f32 numbers of a reply.
pub fn unpack(data: &[u8]) -> Vec<f32> {
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

impl Reply {
    /// A failure as the other side gets it.
    pub fn failed(error: &Error, out_of_memory: bool) -> Reply {
        Reply::Failed {
            out_of_memory,
            message: error.message().to_string(),
            causes: error.causes().to_vec(),
            hint: error.hint_text().map(String::from),
        }
    }
    /// The failure that a reply tells, as an error; other replies as they are.
    ///
    /// # Errors
    /// The reply is a failure.
    pub fn ok(self) -> Result<Reply> {
        let Reply::Failed { out_of_memory, message, causes, hint } = self else { return Ok(self) };
        let kind = if out_of_memory { ErrorKind::OutOfMemory } else { ErrorKind::Stage };
        let error = causes.into_iter().fold(Error::new(kind, message), Error::cause);
        Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let values = [1.5f32, -2.0];
        let inputs = [
            Input { name: "noise", shape: vec![2], data: Data::F32(&values) },
            Input { name: "breed", shape: vec![1], data: Data::I64(&[7]) },
        ];
        let (tensors, data) = pack(&inputs);
        assert_eq!(tensors.iter().map(|t| t.bytes().unwrap()).sum::<usize>(), data.len());
        assert_eq!(unpack(&data[..8]), values);
        let request = Request::Run { inputs: tensors, output: "velocity".into() };
        let bytes = head(&request, data.len() as u64).unwrap();
        let (header, length) = lengths(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!((header, length), (bytes.len() - PREFIX, 16));
        assert_eq!(parse::<Request>(&bytes[PREFIX..]).unwrap(), request);
    }

    #[test]
    fn what_is_no_message_is_an_error_that_shows_how_it_begins() {
        let error = lengths(b"Hello, world!\n\0\0").unwrap_err();
        assert!(error.to_string().contains("Hello, world!\\n"), "{error}");
        let mut huge = *head(&Reply::Opened, 0).unwrap().first_chunk::<PREFIX>().unwrap();
        huge[15] = 0x7f;
        assert!(lengths(&huge).is_err());
        assert!(parse::<Reply>(b"{\"Gone\": 1}").is_err());
        assert!(Tensor { name: "x".into(), shape: vec![usize::MAX, 2], kind: Kind::F32 }.bytes().is_none());
    }
}
