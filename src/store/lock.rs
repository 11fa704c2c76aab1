//! The project's lock: a `flock` that the kernel frees when its holder dies, so no unlock command exists.
//!
//! Knows files; does not know what it guards.

use crate::core::error::{Error, ErrorKind, OnPath, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The same lock for another process: it is free once both have closed it, or once this one is dropped.
    pub fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.unlock(); // closing it does the same, unless it is shared
    }
}

/// Takes the lock. Where another process holds it: with `wait`, says for whom (once, through `tell`) and waits; else
/// fails with exit code 6.
pub fn acquire(path: &Path, wait: bool, tell: &dyn Fn(String)) -> Result<Lock> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).on("open", path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder); // only for the message
            let holder = if holder.is_empty() { "another hfbuild".to_string() } else { holder };
            if !wait {
                return Err(Error::new(ErrorKind::Locked, format!("{holder} is building this project"))
                    .hint("leave out `--no-wait` to wait for it"));
            }
            tell(format!("waiting for {holder}, which is building this project"));
            file.lock().on("lock", path)?;
        }
        Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, &e)),
    }
    file.set_len(0).on("write", path)?;
    file.rewind().on("write", path)?;
    write!(file, "process {}", std::process::id()).on("write", path)?;
    Ok(Lock { file })
}
