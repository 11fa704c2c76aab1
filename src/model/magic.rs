//! Tells what a file is from its first bytes, never from its name.
//!
//! Knows the opening bytes of the formats that models travel in, and of what stands in their place by mistake (an empty
//! file, a Git LFS pointer). It parses none of them.

use crate::core::error::{Error, OnPath, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The first line of every Git LFS pointer.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// 0x1950a86a20f9469cfc6c, little-endian: what opens a legacy `torch.save` file.
const TORCH_LEGACY: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// What a file's content looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// A zip archive: what `torch.save` writes since PyTorch 1.6.
    Zip,
    /// `torch.save` before PyTorch 1.6.
    TorchLegacy,
    /// A safetensors file.
    Safetensors,
    /// An ONNX model (a protobuf that opens with `ir_version`).
    Onnx,
    /// A PNG picture.
    Png,
    /// A JSON object: an index of safetensors shards, perhaps.
    Json,
    /// None of these.
    Unknown,
}

impl Magic {
    /// The words for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Magic::Zip => "a zip archive",
            Magic::TorchLegacy => "a legacy torch file",
            Magic::Safetensors => "a safetensors file",
            Magic::Onnx => "an ONNX model",
            Magic::Png => "a PNG picture",
            Magic::Json => "JSON",
            Magic::Unknown => "an unknown format",
        }
    }
}

/// Whether content that begins so is a Git LFS pointer.
pub fn is_lfs_pointer(head: &[u8]) -> bool {
    head.starts_with(LFS)
}

/// Reads up to 512 bytes of `path` and says what it is.
///
/// # Errors
/// The file cannot be read, is empty, or is a Git LFS pointer in place of the content.
pub fn sniff(path: &Path) -> Result<Magic> {
    sniff_as(path, &path.display().to_string())
}

/// The same of a file that people know by another name than where it lies (an output in the store).
///
/// # Errors
/// As [`sniff`].
pub fn sniff_as(path: &Path, name: &str) -> Result<Magic> {
    let mut file = File::open(path).on("open", path)?;
    let length = file.metadata().on("stat", path)?.len();
    let mut head = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut head).on("read", path)?;
    if head.is_empty() {
        return Err(Error::stage(format!("`{name}` is empty")));
    }
    if head.starts_with(LFS) {
        return Err(Error::stage(format!(
            "`{name}` is a Git LFS pointer of {length} bytes, not the file it stands for"
        ))
        .hint(format!("run `git lfs pull --include {name}`")));
    }
    Ok(of_bytes(&head, length))
}

/// The same from bytes already read; `length` is the whole file's.
pub fn of_bytes(head: &[u8], length: u64) -> Magic {
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Magic::Zip
    } else if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        Magic::Png
    } else if head[..head.len().min(64)].windows(10).any(|w| w == TORCH_LEGACY) {
        Magic::TorchLegacy
    } else if opens_safetensors(head, length) {
        Magic::Safetensors
    } else if head.len() >= 2 && head[0] == 0x08 && (1..=32).contains(&head[1]) {
        Magic::Onnx
    } else if head.trim_ascii_start().first() == Some(&b'{')
        && head.iter().all(|b| !b.is_ascii_control() || b.is_ascii_whitespace())
    {
        Magic::Json
    } else {
        Magic::Unknown
    }
}

/// A little-endian u64 header length that fits the file, then `{`.
fn opens_safetensors(head: &[u8], length: u64) -> bool {
    let Some(first) = head.first_chunk::<8>() else { return false };
    head.get(8) == Some(&b'{') && u64::from_le_bytes(*first) <= length.saturating_sub(8).max(100_000_000)
}
