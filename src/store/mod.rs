//! The local store under `cache/`. The only code that knows a path there.
//!
//! | path | what |
//! |---|---|
//! | `CACHEDIR.TAG` | says to backup tools that this is a cache |
//! | `VERSION` | the layout's version |
//! | `lock` | held by the build that writes (freed by the kernel on death) |
//! | `blobs/ab/abcd..` | outputs by BLAKE3, read-only |
//! | `actions/log` | receipts and what is current, append-only, a checksum a line |
//! | `parts/ACTION/` | partial results of actions without a receipt, verified when read; may be deleted at any time |
//! | `publishes/log` | intents and publishes, likewise |
//! | `memo/log` | stat memo and Hub digests, likewise; may be deleted at any time |
//! | `memo/fresh` | what the last build that found nothing to do had looked at; may be deleted at any time |
//! | `runs/<id>/` | events as JSON lines, a log a stage |
//! | `displaced/<run>/` | files of the user's that stood where an output had to go |
//! | `tmp/` | work directories; cleared by whoever takes the lock |
//! | `runtimes/` | what `hfbuild runtime install` put there; a program, and no part of the cache |
//! | `hub/` | the embedded hub's repos |
//!
//! Losing any of it costs work, never truth: a record without its blob is a miss. Does not know what a stage is.

pub mod blobs;
pub mod gc;
pub mod hash;
pub mod lock;
pub mod log;
pub mod memo;
pub mod parts;
pub mod records;
pub mod verify;

use crate::core::error::{Error, ErrorKind, OnPath, Result};
use std::path::{Path, PathBuf};

/// The layout's version. A store of another version is set aside, not read.
const VERSION: &str = "1\n";
/// How many runs keep their events and logs.
const RUNS: usize = 20;

/// The store's paths.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Where blobs, receipts and memo are read: for a store of another version a folder that is not there.
    data: PathBuf,
}

impl Store {
    /// Opens the store of a project, and makes it where it is not there. What a store of another layout version holds is
    /// moved to `cache/old-N` and `tell` is told: nothing is lost, and nothing is misread. The embedded hub and the
    /// record of publishes stay.
    pub fn open(project: &Path, tell: &dyn Fn(String)) -> Result<Store> {
        let root = project.join("cache");
        let version = root.join("VERSION");
        match std::fs::read(&version) {
            Ok(found) if is_ours(&found) => {}
            Ok(_) => {
                let _lock = lock::acquire(&root.join("lock"), true, tell)?; // a build may be at work in it
                if !std::fs::read(&version).is_ok_and(|found| is_ours(&found)) {
                    let aside = set_aside(&root)?;
                    tell(format!(
                        "the cache is of another version: it is kept as `cache/{aside}`, and everything is made again"
                    ));
                    create(&root)?;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(&root)?,
            Err(e) => {
                return Err(Error::io("read", &version, &e)
                    .hint("`cache` in the project's root is hfbuild's folder: is something else there?"));
            }
        }
        Ok(Store { data: root.clone(), root })
    }

    /// The store of a project, for commands that only read; nothing is made. A store of another version reads as empty.
    pub fn at(project: &Path) -> Store {
        let root = project.join("cache");
        let ours = match std::fs::read(root.join("VERSION")) {
            Ok(found) => is_ours(&found),
            Err(e) => e.kind() == std::io::ErrorKind::NotFound, // a build takes what is there for its own
        };
        let data = if ours { root.clone() } else { root.join("none") };
        Store { root, data }
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        ["VERSION", "actions", "blobs"].iter().any(|part| self.root.join(part).exists())
    }
    /// `cache/blobs`
    pub fn blobs(&self) -> blobs::Blobs {
        blobs::Blobs::new(self.data.join("blobs"), self.root.join("tmp"))
    }
    /// `cache/parts`
    pub fn parts(&self) -> parts::AllParts {
        parts::AllParts::new(self.data.join("parts"), self.root.join("tmp"))
    }
    /// `cache/lock`
    pub fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// `cache/actions/log`
    pub fn actions_log(&self) -> PathBuf {
        self.data.join("actions/log")
    }
    /// `cache/publishes/log`
    pub fn publishes_log(&self) -> PathBuf {
        self.root.join("publishes/log")
    }
    /// `cache/memo/log`
    pub fn memo_log(&self) -> PathBuf {
        self.data.join("memo/log")
    }
    /// `cache/runtimes`: what `hfbuild runtime install` put there. No build changes it, and `gc` leaves it alone.
    pub fn runtimes(&self) -> PathBuf {
        self.root.join("runtimes")
    }
    /// `cache/memo/fresh`
    pub fn snapshot(&self) -> PathBuf {
        self.data.join("memo/fresh")
    }
    /// `cache/VERSION`
    pub fn root_version(&self) -> PathBuf {
        self.root.join("VERSION")
    }
    /// `cache/tmp`
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
    /// `cache/hub`
    pub fn hub(&self) -> PathBuf {
        self.root.join("hub")
    }
    /// `cache/xet`: what xet knows of the chunks that a hub has. May be removed at any time.
    pub fn xet(&self) -> PathBuf {
        self.root.join("xet")
    }
    /// `cache/runs`
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// `cache/displaced`: files of the user's that stood where an output had to go. Never trimmed, never cleaned.
    pub fn displaced(&self) -> PathBuf {
        self.root.join("displaced")
    }

    /// A fresh folder for the events and logs of one run; the newest twenty are kept.
    pub fn new_run(&self, id: &str) -> Result<PathBuf> {
        let dir = self.runs().join(id);
        std::fs::create_dir_all(&dir).on("create", &dir)?;
        let entries = std::fs::read_dir(self.runs()).on("list", self.runs())?.flatten().map(|e| e.path());
        // the new one stays even where the clock ran backwards and it sorts first
        let mut old: Vec<_> = entries.filter(|path| *path != dir).collect();
        old.sort();
        let surplus = old.len().saturating_sub(RUNS - 1);
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

    /// Whether it is of another layout version.
    pub fn is_foreign(&self) -> bool {
        self.data != self.root
    }

    /// Deletes everything but the embedded hub's repos, the record of publishes, displaced files and the README. Call with the lock held.
    pub fn clean(&self) -> Result<()> {
        let aside = std::fs::read_dir(&self.root).on("list", &self.root)?.flatten().map(|e| e.file_name());
        let aside = aside.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("old-"));
        // records first: what a crash leaves is then blobs that nothing names, and no record lacks its blob
        let parts = ["memo", "actions", "parts", "blobs", "runs", "tmp"].map(String::from);
        for part in parts.into_iter().chain(aside) {
            let path = self.root.join(part);
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, &e)),
                _ => {}
            }
        }
        match std::fs::remove_file(self.root_version()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &self.root_version(), &e)),
            _ => Ok(()),
        }
    }
}

/// Whether a VERSION file is that of this layout.
fn is_ours(found: &[u8]) -> bool {
    found.trim_ascii_end() == VERSION.trim_ascii_end().as_bytes()
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
    // by rename: an empty VERSION would read as another version
    let (version, new) = (root.join("VERSION"), root.join(format!("VERSION.{}", std::process::id())));
    std::fs::write(&new, VERSION).on("write", &new)?;
    std::fs::rename(&new, &version).on("rename to", &version)
}

/// Moves what the layout's version is about into a folder of its own; its name.
fn set_aside(root: &Path) -> Result<String> {
    let name = (1..1000).map(|n| format!("old-{n}")).find(|n| !root.join(n).exists());
    let name = name.ok_or_else(|| {
        Error::new(ErrorKind::Io, "cache/ has another layout version, and 999 older ones are in it")
            .hint("remove the cache/old-* folders")
    })?;
    let aside = root.join(&name);
    std::fs::create_dir(&aside).on("create", &aside)?;
    for part in ["VERSION", "blobs", "actions", "parts", "memo", "runs"] {
        let path = root.join(part);
        if path.exists() {
            std::fs::rename(&path, aside.join(part)).on("set aside", &path)?;
        }
    }
    Ok(name)
}
