//! What a stage is handed: its inputs, an empty directory for its outputs, a log, a way to say how far it is, and a flag
//! that says stop. Nothing else is reachable through it.
//!
//! Does not know the store: paths are handed in.

use super::guard::{self, Guard};
use super::sessions::Sessions;
use crate::core::digest::{Digest, FileDigests};
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::facts::FactSet;
use crate::core::name::ArtifactName;
use crate::core::parts::Parts;
use crate::model::runtime::Machine;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One file of an input.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Its path within the artifact, or the source's project-relative path.
    pub path: String,
    /// Where it can be read (a blob of the store, or the source itself).
    pub file: PathBuf,
    /// BLAKE3 of its content.
    pub digest: Digest,
    /// Whether it is a file of the project, and no blob of the store.
    pub is_source: bool,
}

/// Whether to go on, and what has to end where it is not.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    how: AtomicU8,
    running: Mutex<Running>,
}

/// Programs that run.
#[derive(Debug, Default)]
struct Running {
    /// Their process groups.
    groups: BTreeSet<i32>,
    /// Where a guard is wanted and none is there yet.
    wanted: Option<guard::Wanted>,
    guard: Option<Guard>,
}

impl Cancel {
    /// One whose programs do not outlive a kill of hfbuild: see [`super::guard`].
    pub fn guarded(wanted: Option<guard::Wanted>) -> Cancel {
        let running = Mutex::new(Running { wanted, ..Running::default() });
        Cancel(Arc::new(State { running, ..State::default() }))
    }
    /// Asks everything to stop, as `kind` says ([`ErrorKind::Interrupted`] or [`ErrorKind::Terminated`]).
    pub fn stop(&self, kind: ErrorKind) {
        self.0.how.store(if kind == ErrorKind::Terminated { 2 } else { 1 }, Ordering::SeqCst);
    }
    /// How it was stopped, if it was.
    pub fn stopped(&self) -> Option<ErrorKind> {
        match self.0.how.load(Ordering::SeqCst) {
            0 => None,
            2 => Some(ErrorKind::Terminated),
            _ => Some(ErrorKind::Interrupted),
        }
    }
    /// A program runs as this process group.
    pub fn began(&self, group: i32) {
        let mut running = self.running();
        if let Some(wanted) = running.wanted.take() {
            running.guard = Guard::start(wanted).ok(); // without one only a kill of hfbuild differs
        }
        running.groups.insert(group);
        running.guard.iter_mut().for_each(|guard| guard.began(group));
    }
    /// It has ended, with all that it started.
    pub fn ended(&self, group: i32) {
        let mut running = self.running();
        running.groups.remove(&group);
        running.guard.iter_mut().for_each(|guard| guard.ended(group));
    }
    /// Ends every program that runs at once, with all that it started: for a second signal, which waits for nothing.
    pub fn kill(&self) {
        for group in &self.running().groups {
            let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL); // it may have ended by itself
        }
    }
    fn running(&self) -> MutexGuard<'_, Running> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner) // a set is whole after every step
    }
    /// An error where it was stopped.
    pub fn check(&self) -> Result<()> {
        match self.stopped() {
            None => Ok(()),
            Some(kind) => Err(Error::new(kind, "interrupted")),
        }
    }
}

/// What is known to stand in a work directory between two stages: these folders, and nothing else. `None`: not known.
pub type Left = Arc<Mutex<Option<BTreeSet<PathBuf>>>>;

/// Removes everything below a folder but the folders that `stays` says; opens those that a program has closed.
fn prune(folder: &Path, stays: &mut dyn FnMut(&Path) -> bool) -> std::io::Result<()> {
    let open = |folder: &Path| std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let entries = std::fs::read_dir(folder).or_else(|_| open(folder).and_then(|()| std::fs::read_dir(folder)))?;
    for entry in entries {
        let (entry, path) = entry.map(|e| (e.file_type(), e.path()))?;
        let remove = || match &entry {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir(&path),
            _ => std::fs::remove_file(&path),
        };
        if entry.as_ref().is_ok_and(std::fs::FileType::is_dir) {
            prune(&path, stays)?;
            if stays(&path) {
                continue;
            }
        }
        remove().or_else(|_| open(folder).and_then(|()| remove()))?;
    }
    Ok(())
}

/// See the module.
pub struct Workspace {
    /// The work directory: `out/` for outputs, and what a command stage sees beside it.
    pub dir: PathBuf,
    /// Inputs by role.
    pub inputs: BTreeMap<String, Vec<InputFile>>,
    /// Source files that an input's digest proves, by role.
    pub proven: BTreeMap<String, PathBuf>,
    /// Facts of artifacts, only those that the declaration reads.
    pub facts: BTreeMap<ArtifactName, FactSet>,
    /// Environment values that are handed through unkeyed and unlogged.
    pub secrets: BTreeMap<String, String>,
    /// Values that no log may hold, whoever says them: hfbuild's own token.
    pub hidden: Vec<String>,
    /// Environment that says which tokens of pools the stage holds. Not part of the action: the result is the same on any.
    pub pinned: BTreeMap<String, String>,
    /// Roles whose input is a directory, however many files it holds.
    pub directories: BTreeSet<String>,
    /// Milliseconds until a command is stopped.
    pub timeout_ms: Option<u64>,
    /// Where the stage's log goes.
    pub log: PathBuf,
    /// Says how far the stage is: done, total.
    pub progress: Box<dyn Fn(u64, u64) + Send>,
    /// The stop flag.
    pub cancel: Cancel,
    /// The runtimes and devices of this machine.
    pub machine: Arc<Machine>,
    /// Runtime and device that made the output, set by the stage.
    pub device: Option<String>,
    /// What the stage before this one left in the work directory.
    pub left: Left,
    /// Whether the outputs are to be published, so that the digests that the Hub knows them by are wanted.
    pub published: bool,
    /// All digests of sources that are published as they are, by path, where they are known for certain.
    pub known: BTreeMap<String, FileDigests>,
    /// Digests of outputs that the stage took while it wrote them, by path below `out/`: they are not read again for these.
    pub digested: BTreeMap<String, FileDigests>,
    /// Where partial results of the action are kept; `None`: nowhere, and each run begins anew.
    pub parts: Option<Box<dyn Parts>>,
    /// Graphs that are loaded.
    pub sessions: Sessions,
    /// Things that go through a graph at once, where the manifest says it.
    pub batch: Option<usize>,
    /// Tells the user something.
    pub tell: Box<dyn Fn(String) + Send>,
    /// Says that the stage needs its device no longer, though it has not ended: another may have it.
    pub release: Box<dyn Fn() + Send>,
}

impl Workspace {
    /// One with nothing in it.
    pub fn new(dir: PathBuf, log: PathBuf) -> Workspace {
        Workspace {
            dir,
            log,
            inputs: BTreeMap::new(),
            proven: BTreeMap::new(),
            facts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            hidden: vec![],
            pinned: BTreeMap::new(),
            directories: BTreeSet::new(),
            timeout_ms: None,
            progress: Box::new(|_, _| {}),
            cancel: Cancel::default(),
            machine: Arc::default(),
            device: None,
            left: Left::default(),
            published: false,
            known: BTreeMap::new(),
            digested: BTreeMap::new(),
            parts: None,
            sessions: Sessions::default(),
            batch: None,
            tell: Box::new(drop),
            release: Box::new(|| {}),
        }
    }
    /// Keeps a part of the result, see [`Parts`]. One that cannot be kept is told of, and costs the next run work.
    pub fn keep(&self, by: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let kept = self.parts.as_ref().map_or(Ok(()), |parts| parts.keep(by, name, bytes));
        kept.or_else(|error| self.say(&format!("what is done so far cannot be kept: {error}")))
    }
    /// The parts that an interrupted run of the same action kept, made by the same.
    pub fn kept(&self, by: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let Some(parts) = &self.parts else { return Ok(BTreeMap::new()) };
        let kept = parts.kept(by)?;
        if kept.damaged > 0 {
            self.say(&format!("of what an interrupted run kept, {} damaged and made again", kept.damaged))?;
        }
        for other in kept.others {
            self.say(&format!("what an interrupted run made by {other} is left alone: this run is by {by}"))?;
        }
        Ok(kept.parts)
    }
    /// Makes the work directory as if it was new, with these folders, given with all those above them. It stands for one
    /// stage after the other, and folders that are wanted again stay: file systems take their time over new ones, and
    /// more of it where many were removed a moment ago.
    ///
    /// # Errors
    /// What an earlier stage left cannot be removed, or a folder cannot be made.
    pub fn renew(&self, folders: &BTreeSet<PathBuf>) -> Result<()> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        if left.as_ref() == Some(folders) {
            return Ok(());
        }
        if self.dir.exists() {
            prune(&self.dir, &mut |folder| folders.contains(folder)).on("clear", &self.dir)?;
        }
        folders.iter().try_for_each(|folder| match folder.is_dir() {
            true => Ok(()),
            false => std::fs::create_dir_all(folder).on("create", folder),
        })
    }
    /// Removes what takes room: everything but folders. What cannot be removed now is in the way of [`Self::renew`].
    pub fn empty(&self) {
        let mut folders = BTreeSet::new();
        let emptied = prune(&self.dir, &mut |folder| folders.insert(folder.to_path_buf()));
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = emptied.is_ok().then_some(folders);
    }
    /// Every value that no log may hold.
    pub fn unlogged(&self) -> Vec<String> {
        self.secrets.values().chain(&self.hidden).cloned().collect()
    }
    /// The directory for outputs.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }
    /// A path for an output below it; folders on the way are made.
    pub fn output(&self, path: &str) -> Result<PathBuf> {
        let full = self.out().join(path);
        if let Some(dir) = full.parent().filter(|dir| !dir.is_dir()) {
            std::fs::create_dir_all(dir).on("create", dir)?;
        }
        Ok(full)
    }
    /// Writes a small output.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<Digest> {
        let full = self.output(path)?;
        std::fs::write(&full, bytes).on("write", &full)?;
        Ok(Digest::of(bytes))
    }
    /// The one file of an input.
    pub fn file(&self, role: &str) -> Result<&InputFile> {
        match self.inputs.get(role).map(Vec::as_slice) {
            Some([one]) => Ok(one),
            Some(many) => Err(Error::stage(format!("input `{role}` is {} files where one was expected", many.len()))),
            None => Err(Error::bug(format!("the workspace lacks its input `{role}`"))),
        }
    }
    /// All files of an input.
    pub fn files(&self, role: &str) -> Result<&[InputFile]> {
        self.inputs
            .get(role)
            .map(Vec::as_slice)
            .ok_or_else(|| Error::bug(format!("the workspace lacks its input `{role}`")))
    }
    /// A source file that an input's digest proves.
    pub fn proven_file(&self, role: &str) -> Result<&Path> {
        self.proven.get(role).map(PathBuf::as_path).ok_or_else(|| Error::bug(format!("the workspace lacks `{role}`")))
    }
    /// Adds a line to the stage's log.
    pub fn say(&self, line: &str) -> Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).on("open", &self.log)?;
        writeln!(file, "{line}").on("write", &self.log)
    }
}
