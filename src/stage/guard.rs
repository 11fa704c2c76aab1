//! A small process that ends the programs which a killed hfbuild leaves behind.
//!
//! hfbuild starts it before its first program, and tells it over a pipe which process groups run. The pipe closes when
//! hfbuild ends, however that happens; whatever group is then still open is killed, and so is every program that was
//! started by hfbuild and still stands in a work directory (one that had just been started, or that left its group). Until
//! that is done the guard shares hfbuild's lock, so that no other build meets such a program.
//!
//! Why not the kernel's signal on a parent's death: a child has to ask for it between fork and exec, and a fork copies
//! hfbuild's page tables, which costs more than all else that a small stage takes; and it reaches the program alone.
//!
//! Knows process groups and `/proc`; does not know what runs in them.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

/// The word on hfbuild's command line that makes it a guard; the folder of the work directories follows.
pub const WORD: &str = "__guard";
/// What every program of a stage has in its environment.
pub const MARK: (&str, &str) = ("HFBUILD", "1");

/// All that a guard takes.
#[derive(Debug)]
pub struct Wanted {
    /// hfbuild's own file.
    pub hfbuild: PathBuf,
    /// The folder of the work directories.
    pub work: PathBuf,
    /// The project's lock, as hfbuild has it.
    pub lock: File,
}

/// The end of the pipe that hfbuild holds.
#[derive(Debug)]
pub struct Guard(ChildStdin);

impl Guard {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(wanted: Wanted) -> std::io::Result<Guard> {
        let mut command = Command::new(&wanted.hfbuild);
        command.arg(WORD).arg(&wanted.work).env_clear().current_dir("/");
        command.process_group(0); // a Ctrl-C is not meant for it
        // its stdout is the lock: nothing is written there, and while it is open the lock is held
        let mut child = command.stdin(Stdio::piped()).stdout(wanted.lock).stderr(Stdio::null()).spawn()?;
        child.stdin.take().map(Guard).ok_or_else(|| std::io::Error::other("the guard has no stdin"))
    }
    /// A process group runs.
    pub fn began(&mut self, group: i32) {
        let _ = self.0.write_all(format!("+{group}\n").as_bytes()); // without its guard hfbuild works all the same
    }
    /// It has ended.
    pub fn ended(&mut self, group: i32) {
        let _ = self.0.write_all(format!("-{group}\n").as_bytes());
    }
}

/// What the guard does: reads until hfbuild has ended, then kills what is left.
pub fn watch(input: impl BufRead, work: &Path) {
    for group in left_open(input) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL); // it may have ended by itself
    }
    for program in std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| pid(&e.file_name())) {
        if is_left(program, work) {
            let _ = kill(Pid::from_raw(program), Signal::SIGKILL); // likewise
        }
    }
}

fn pid(name: &std::ffi::OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

/// Whether a process was started for a stage and stands in a work directory.
fn is_left(process: i32, work: &Path) -> bool {
    let of = |what: &str| PathBuf::from(format!("/proc/{process}/{what}"));
    let mark = format!("{}={}", MARK.0, MARK.1);
    std::fs::read_link(of("cwd")).is_ok_and(|cwd| cwd.starts_with(work))
        && std::fs::read(of("environ")).is_ok_and(|all| all.split(|b| *b == 0).any(|one| one == mark.as_bytes()))
}

/// The groups that began and did not end.
fn left_open(input: impl BufRead) -> BTreeSet<i32> {
    let mut open = BTreeSet::new();
    for line in input.lines().map_while(std::io::Result::ok) {
        let Some(group) = line.get(1..).and_then(|n| n.parse::<i32>().ok()).filter(|n| *n > 1) else { continue };
        match line.starts_with('+') {
            true => open.insert(group),
            false => open.remove(&group),
        };
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_and_did_not_end_is_left_and_nonsense_is_nothing() {
        let told = "+17\n+18\n-17\n+1\n+-5\n+0\nx\n\n+19\n+2";
        assert_eq!(left_open(told.as_bytes()).into_iter().collect::<Vec<_>>(), [2, 18, 19]);
    }
}
