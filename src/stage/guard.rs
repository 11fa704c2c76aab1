//! A small process that ends the programs which a killed hfbuild leaves behind.
//!
//! hfbuild starts it before its first program, and tells it over a pipe which process groups run. The pipe closes when
//! hfbuild ends, however that happens; whatever group is then still open is killed. So programs are started with
//! `posix_spawn`, which copies no page tables, and yet none outlives a `kill -9`; that a forked child asks the kernel for a
//! signal on its parent's death would cost a fork, and would reach the program alone and nothing that it started.
//!
//! Knows process groups; does not know what runs in them.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

/// The word on hfbuild's command line that makes it a guard.
pub const WORD: &str = "__guard";

/// The end of the pipe that hfbuild holds.
#[derive(Debug)]
pub struct Guard(ChildStdin);

impl Guard {
    /// Starts one; `hfbuild` is the program itself.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(hfbuild: &Path) -> std::io::Result<Guard> {
        let mut command = Command::new(hfbuild);
        command.arg(WORD).env_clear().current_dir("/").process_group(0); // a Ctrl-C is not meant for it
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
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
pub fn watch(input: impl BufRead) {
    for group in left_open(input) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL); // it may have ended by itself
    }
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
