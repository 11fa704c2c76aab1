//! Running a program: in a process group of its own, with a cleared environment, its output in the stage's log, stopped
//! with everything that it started.
//!
//! Knows processes; does not know what the program is for.

use super::Workspace;
use super::guard::MARK;
use crate::core::action::Action;
use crate::core::error::{Error, OnPath, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Undeclared environment that a program gets.
const HANDED_THROUGH: [&str; 8] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"];
/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long what it started may take to end after it.
const REST: Duration = Duration::from_secs(1);
/// Bytes of a log that are looked at.
const TAIL: u64 = 64 << 10;
/// How long the log's filter may take after the program's end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a program to its end. Nothing that it started outlives it.
///
/// # Errors
/// It cannot be started, it took longer than its `timeout`, or the build was interrupted.
pub fn run(program: &Path, args: &[&str], action: &Action, workspace: &Workspace, work: &Path) -> Result<ExitStatus> {
    let (mut child, drained) = spawn(program, args, action, workspace, work)?;
    workspace.cancel.began(group(&child).as_raw());
    let ended = wait(&mut child, program, workspace);
    let _ = killpg(group(&child), Signal::SIGKILL); // what it left in the background
    workspace.cancel.ended(group(&child).as_raw());
    if let Some(drained) = drained {
        let _ = drained.recv_timeout(DRAIN); // a program that hides from its group may hold the pipe: not for ever
    }
    ended
}

fn spawn(
    program: &Path,
    args: &[&str],
    action: &Action,
    workspace: &Workspace,
    work: &Path,
) -> Result<(Child, Option<Receiver<()>>)> {
    let (log, drained) = output_to(workspace)?;
    // by its whole path: the standard library forks where it has to look for a program on a PATH that it was handed, and
    // a fork copies hfbuild's page tables
    let mut command = Command::new(on_path(program));
    command.arg0(program).args(args).current_dir(work).env_clear().stdin(Stdio::null()).process_group(0);
    command.stdout(log.try_clone().on("open", &workspace.log)?).stderr(log);
    command.envs(HANDED_THROUGH.iter().filter_map(|n| Some((*n, std::env::var_os(n)?))));
    command.env(MARK.0, MARK.1).env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
    command.envs(action.env.iter().filter_map(|(k, v)| Some((k, v.as_ref()?))));
    command.envs(&workspace.secrets).envs(&workspace.pinned);
    let child = spawn_unbusy(&mut command).map_err(|e| {
        Error::stage(format!("cannot start `{}`", program.display()))
            .cause(e.to_string())
            .hint("is it on the PATH, or executable where it is declared as an input?")
    })?;
    Ok((child, drained))
}

/// Starts it. A program that was just copied may be open for writing for a moment more, in a child of another thread that
/// has not come to its exec.
fn spawn_unbusy(command: &mut Command) -> std::io::Result<Child> {
    let begun = Instant::now();
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && begun.elapsed() < GRACE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Where a program without a slash in its name is; the name itself where it is nowhere. Where one was found before, it is
/// looked for there first.
fn on_path(program: &Path) -> PathBuf {
    static FOUND: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
    let is_program =
        |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let mut before = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = before.get(program).filter(|path| is_program(path)) {
        return path.clone();
    }
    let dirs = std::env::var_os("PATH").filter(|_| program.components().count() == 1).unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|dir| dir.join(program)).find(is_program);
    let found = found.unwrap_or_else(|| program.to_path_buf());
    before.insert(program.to_path_buf(), found.clone());
    found
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

fn wait(child: &mut Child, program: &Path, workspace: &Workspace) -> Result<ExitStatus> {
    let begun = Instant::now();
    let notice = notice(child);
    loop {
        if let Some(status) =
            child.try_wait().map_err(|e| Error::stage("cannot wait for the program").cause(e.to_string()))?
        {
            return Ok(status);
        }
        if workspace.cancel.stopped().is_some() {
            stop(child);
            workspace.cancel.check()?;
        }
        if let Some(limit) = workspace.timeout_ms.filter(|ms| begun.elapsed().as_millis() >= u128::from(*ms)) {
            stop(child);
            let (name, limit) = (program.display(), Duration::from_millis(limit));
            return Err(Error::stage(format!("`{name}` took longer than its `timeout` of {limit:?} and was stopped")));
        }
        match &notice {
            Some(ended) => drop(poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_u8))),
            None => std::thread::sleep(Duration::from_millis(if begun.elapsed().as_millis() < 200 { 1 } else { 20 })),
        }
    }
}

/// A file that can be read once the program has ended (Linux 5.3 and later).
fn notice(child: &Child) -> Option<OwnedFd> {
    // SAFETY: the call takes numbers and gives a new descriptor or -1; nobody else knows the descriptor.
    unsafe {
        let fd = nix::libc::syscall(nix::libc::SYS_pidfd_open, child.id(), 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// TERM to the process group, a grace for all of it (a short one where only what the program started is left), then KILL.
fn stop(child: &mut Child) {
    let _ = killpg(group(child), Signal::SIGTERM); // it may have ended by itself
    let mut end = Instant::now() + GRACE;
    let mut left = false;
    while Instant::now() < end {
        if !left && matches!(child.try_wait(), Ok(Some(_))) {
            left = true;
            end = end.min(Instant::now() + REST);
        }
        if left && killpg(group(child), None).is_err() {
            break; // nobody is left
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = killpg(group(child), Signal::SIGKILL); // what is left of the group
    let _ = child.wait();
}

/// Where the program's output goes: the log, through a filter where values were handed through that no log may hold. The
/// filter says when it is done.
fn output_to(workspace: &Workspace) -> Result<(File, Option<Receiver<()>>)> {
    let mut log =
        std::fs::OpenOptions::new().create(true).append(true).open(&workspace.log).on("open", &workspace.log)?;
    let secrets = workspace.unlogged();
    if secrets.is_empty() {
        return Ok((log, None));
    }
    let (reader, writer) = std::io::pipe().on("open a pipe for", &workspace.log)?;
    let (done, drained) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            let _ = log.write_all(mask(&text, &secrets).as_bytes()); // a full disk must not hang the program
            line.clear();
        }
        let _ = done.send(()); // nobody waits any more
    });
    Ok((std::os::fd::OwnedFd::from(writer).into(), Some(drained)))
}

/// The failure of a program, with the end of its log.
pub fn failed(name: &str, status: ExitStatus, workspace: &Workspace) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "no exit code".into(),
    };
    let mut error = Error::stage(format!("`{name}` failed with {how}"));
    let log = tail_of(&workspace.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let tail: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(8).collect();
    for line in tail.into_iter().rev() {
        error = error.cause(mask(line, &workspace.unlogged()));
    }
    if text.trim().is_empty()
        && let Err(full) = workspace.say(&error.to_string())
    {
        error = error.cause(full.to_string()); // a full disk takes the program's own words too
    }
    if ["No such file or directory", "FileNotFoundError", "ModuleNotFoundError"].iter().any(|w| text.contains(w)) {
        return error
            .hint("a stage sees only its declared inputs: name the file under `inputs`, and use it as {in.ROLE}");
    }
    if text.contains("KeyError") && text.contains("environ") {
        return error
            .hint("a stage gets a cleared environment: name the variable under `env` (or `pass_env`, a secret)");
    }
    error
}

/// The end of a log, of 64 KiB at most.
fn tail_of(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The line without the values that were handed through, nor any line of one. Values below four bytes are no secrets.
fn mask(line: &str, secrets: &[String]) -> String {
    let parts = secrets.iter().flat_map(|v| std::iter::once(v.as_str()).chain(v.lines()));
    parts.filter(|part| part.len() >= 4).fold(line.to_string(), |line, part| line.replace(part, "***"))
}
