//! TorchScript modules, told from checkpoints: archives of `torch.jit` that hold a program beside its tensors.
//!
//! Reads the archive's directory alone. Running one is libtorch's ([`super::torch`]).

use super::checkpoint::zip::Archive;

/// What an archive holds of a TorchScript module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// Files of its program.
    pub code: usize,
    /// Its tensors' storages, constants among them.
    pub storages: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What it holds; `None`: it is no TorchScript module.
pub fn of_archive(archive: &Archive) -> Option<Script> {
    let entries = &archive.entries;
    let is_script = |name: &str| name.ends_with("/constants.pkl") || name.contains("/code/");
    entries.iter().find(|entry| is_script(&entry.name))?;
    let code = entries.iter().filter(|entry| entry.name.contains("/code/") && entry.name.ends_with(".py")).count();
    let is_storage = |name: &str| {
        let mut parts = name.rsplit('/');
        let (last, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        ["data", "constants"].contains(&folder) && last.bytes().all(|b| b.is_ascii_digit())
    };
    let storages: Vec<u64> = entries.iter().filter(|e| is_storage(&e.name)).map(|entry| entry.size).collect();
    let bytes = storages.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    Some(Script { code, storages: storages.len(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::inspect::inspect;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_torchscript_module_is_told_from_a_checkpoint() {
        let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let of = |name: &str| of_archive(&Archive::open(&fixture(name)).unwrap());
        assert_eq!(of("small_script.pt"), Some(Script { code: 5, storages: 5, bytes: 864 + 24 + 120 + 72 + 12 }));
        assert_eq!(of("tiny_trained_trainer.pt"), None);
        let seen = inspect(&fixture("small_script.pt")).unwrap();
        assert_eq!(
            (seen.format, seen.get("storages"), seen.get("code_files")),
            ("torchscript", Some(&json!(5)), Some(&json!(5)))
        );
        let error = crate::model::checkpoint::Checkpoint::open(&fixture("small_script.pt")).unwrap_err();
        assert!(error.message().contains("is a TorchScript program, not a checkpoint"), "{error}");
        assert!(error.hint_text().unwrap().contains("`torchscript`"), "{error:?}");
    }
}
