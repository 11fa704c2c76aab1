//! The local store under `cache/`. The only code that knows a path there.
//!
//! | path | what |
//! |---|---|
//! | `CACHEDIR.TAG` | says to backup tools that this is a cache |
//! | `VERSION` | the layout's version |
//! | `lock` | held by the build that writes (freed by the kernel on death) |
//! | `blobs/ab/abcd..` | outputs by BLAKE3, read-only |
//! | `actions/log` | receipts and what is current, append-only, a checksum a line |
//! | `publishes/log` | intents and publishes, likewise |
//! | `memo/log` | stat memo and Hub digests, likewise; may be deleted at any time |
//! | `runs/<id>/` | events as JSON lines, a log a stage |
//! | `tmp/` | work directories; cleared by whoever takes the lock |
//! | `hub/` | the embedded hub's repos |
//!
//! Losing any of it costs work, never truth: a record without its blob is a miss. Does not know what a stage is.

pub mod blobs;
pub mod hash;
pub mod lock;
pub mod log;
pub mod memo;
pub mod records;

use crate::core::error::{Error, ErrorKind, OnPath, Result};
use std::path::{Path, PathBuf};

/// The layout's version. A store of another version is set aside, not read.
const VERSION: &str = "1\n";

/// The store's paths.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store of a project, and makes it where it is not there. A store of another layout version is renamed to
    /// `cache.old-N` beside it: nothing is lost, and nothing is misread.
    pub fn open(project: &Path) -> Result<Store> {
        let root = project.join("cache");
        let version = root.join("VERSION");
        match std::fs::read_to_string(&version) {
            Ok(found) if found == VERSION => {}
            Ok(_) => {
                set_aside(project, &root)?;
                create(&root)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(&root)?,
            Err(e) => return Err(Error::io("read", &version, &e)),
        }
        Ok(Store { root })
    }

    /// The store of a project, for commands that only read; nothing is made.
    pub fn at(project: &Path) -> Store {
        Store { root: project.join("cache") }
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.root.join("VERSION").exists()
    }
    /// `cache/blobs`
    pub fn blobs(&self) -> blobs::Blobs {
        blobs::Blobs::new(self.root.join("blobs"), self.root.join("tmp"))
    }
    /// `cache/lock`
    pub fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// `cache/actions/log`
    pub fn actions_log(&self) -> PathBuf {
        self.root.join("actions/log")
    }
    /// `cache/publishes/log`
    pub fn publishes_log(&self) -> PathBuf {
        self.root.join("publishes/log")
    }
    /// `cache/memo/log`
    pub fn memo_log(&self) -> PathBuf {
        self.root.join("memo/log")
    }
    /// `cache/tmp`
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
    /// `cache/hub`
    pub fn hub(&self) -> PathBuf {
        self.root.join("hub")
    }
    /// `cache/runs`
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// A fresh folder for the events and logs of one run; the newest twenty are kept.
    pub fn new_run(&self, id: &str) -> Result<PathBuf> {
        let dir = self.runs().join(id);
        std::fs::create_dir_all(&dir).on("create", &dir)?;
        let mut old: Vec<_> =
            std::fs::read_dir(self.runs()).on("list", self.runs())?.flatten().map(|e| e.path()).collect();
        old.sort();
        let surplus = old.len().saturating_sub(20);
        for path in &old[..surplus] {
            let _ = std::fs::remove_dir_all(path); // a log that cannot be removed is no reason to stop
        }
        Ok(dir)
    }

    /// Clears work directories that a killed run left. Call with the lock held.
    pub fn clear_tmp(&self) -> Result<()> {
        let tmp = self.tmp();
        match std::fs::remove_dir_all(&tmp) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("clear", &tmp, &e)),
        }
        std::fs::create_dir_all(&tmp).on("create", &tmp)
    }

    /// Deletes everything but the embedded hub's repos and the README. Call with the lock held.
    pub fn clean(&self) -> Result<()> {
        for part in ["blobs", "actions", "memo", "runs", "tmp"] {
            let path = self.root.join(part);
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, &e)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn create(root: &Path) -> Result<()> {
    for part in ["blobs", "actions", "publishes", "memo", "runs", "tmp"] {
        let path = root.join(part);
        std::fs::create_dir_all(&path).map_err(|e| {
            Error::io("create", &path, &e)
                .hint("hfbuild keeps its store under cache/ in the project's root: is it writable?")
        })?;
    }
    let tag = root.join("CACHEDIR.TAG");
    let text = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is a cache made by hfbuild.\n";
    std::fs::write(&tag, text).on("write", &tag)?;
    let version = root.join("VERSION");
    std::fs::write(&version, VERSION).on("write", &version)
}

fn set_aside(project: &Path, root: &Path) -> Result<()> {
    for n in 1..1000 {
        let aside = project.join(format!("cache.old-{n}"));
        if !aside.exists() {
            return std::fs::rename(root, &aside).on("set aside", root);
        }
    }
    Err(Error::new(ErrorKind::Io, "cache/ has another layout version, and 999 older ones stand beside it")
        .hint("remove the cache.old-* folders"))
}
