//! Which files are large: the `.gitattributes` that every new repository starts with, and how one is read.
//!
//! Knows the live Hub's default list and the little of the format that says `filter=lfs`. Pure.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::hub::repo::RepoKind;

const MODEL: &[&str] = &[
    "*.7z",
    "*.arrow",
    "*.bin",
    "*.bz2",
    "*.ckpt",
    "*.ftz",
    "*.gz",
    "*.h5",
    "*.joblib",
    "*.lfs.*",
    "*.mlmodel",
    "*.model",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.ot",
    "*.parquet",
    "*.pb",
    "*.pickle",
    "*.pkl",
    "*.pt",
    "*.pth",
    "*.rar",
    "*.safetensors",
    "saved_model/**/*",
    "*.tar.*",
    "*.tar",
    "*.tflite",
    "*.tgz",
    "*.wasm",
    "*.xz",
    "*.zip",
    "*.zst",
    "*tfevents*",
];

const DATASET_TOO: &[&str] = &[
    "*.lz4", "*.mds", "*.avro", "*.pcm", "*.sam", "*.raw", "*.aac", "*.flac", "*.mp3", "*.ogg", "*.wav", "*.bmp",
    "*.gif", "*.png", "*.tiff", "*.jpg", "*.jpeg", "*.webp", "*.mp4", "*.webm",
];

/// The `.gitattributes` of a new repository.
pub(super) fn default_attributes(kind: RepoKind) -> String {
    let more = if kind == RepoKind::Dataset { DATASET_TOO } else { &[] };
    MODEL.iter().chain(more).map(|glob| format!("{glob} filter=lfs diff=lfs merge=lfs -text\n")).collect()
}

/// The patterns that one `.gitattributes` gives to LFS.
pub(super) struct LfsRules(GlobSet);

impl LfsRules {
    /// Reads a `.gitattributes`; lines that cannot be read are left out.
    pub fn read(text: &str) -> Self {
        let mut set = GlobSetBuilder::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(pattern) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            if !words.any(|word| word == "filter=lfs") {
                continue;
            }
            // A pattern without a slash holds for the name in any folder.
            let anchored = pattern.trim_end_matches('/').contains('/');
            let pattern = if anchored { pattern.trim_start_matches('/').to_owned() } else { format!("**/{pattern}") };
            if let Ok(glob) = GlobBuilder::new(&pattern).literal_separator(true).build() {
                set.add(glob);
            }
        }
        LfsRules(set.build().unwrap_or_default())
    }

    /// Whether `path` belongs into LFS: by name, or above 10 MiB, or binary above 1 MiB.
    pub fn is_large(&self, path: &str, size: u64, sample: &[u8]) -> bool {
        size > 0 && (self.0.is_match(path) || size > 10 << 20 || (size > 1 << 20 && is_binary(sample)))
    }
}

fn is_binary(sample: &[u8]) -> bool {
    let text = match std::str::from_utf8(sample) {
        Ok(_) => true,
        // A sample may end inside a character.
        Err(error) => error.error_len().is_none(),
    };
    !text || sample.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large() {
        let rules = LfsRules::read(&default_attributes(RepoKind::Model));
        let large = |path: &str, size, sample: &[u8]| rules.is_large(path, size, sample);
        assert!(large("model.safetensors", 8, b"x"));
        assert!(large("onnx/model.onnx", 8, b"x"));
        assert!(large("saved_model/a/b", 8, b"x"));
        assert!(!large("model.safetensors", 0, b""));
        assert!(!large("README.md", 9 << 20, b"x"));
        assert!(large("README.md", 11 << 20, b"x"));
        assert!(!large("sample.png", 1 << 20, b"\x89PNG\0"));
        assert!(large("sample.png", 2 << 20, b"\x89PNG\0"));
        assert!(!large("text", 2 << 20, &"ä".as_bytes()[..1]));
        assert!(LfsRules::read(&default_attributes(RepoKind::Dataset)).is_large("a.png", 1, b"x"));
    }
}
