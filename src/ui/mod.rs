//! What people see. Events and errors come in as data; lines go out: talk on stderr, data on stdout.
//!
//! Decides nothing. The same words stand on a terminal (with a live view below them) and in a log.

pub mod doctor;
pub mod error;
pub mod explain;
pub mod markdown;
pub mod plan;
pub mod progress;
pub mod table;

use crate::core::event::{Proposing, Pulled, Summary};
use crate::core::value::human_bytes;

/// `1 file`, `2 files`.
pub fn count(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// Seconds for people: `0.4s`, `12.4s`, `3m 05s`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 60.0 => format!("{s:.1}s"),
        s if s < 3600.0 => format!("{}m {:02}s", (s / 60.0) as u64, (s % 60.0) as u64),
        s => format!("{}h {:02}m", (s / 3600.0) as u64, ((s % 3600.0) / 60.0) as u64),
    }
}

/// The first seven digits of a commit.
pub fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

/// The last line of a build.
pub fn summary(summary: &Summary) -> String {
    let mut parts = vec![format!("ran {}", count(summary.ran, "stage"))];
    let up_to_date = summary.fresh - summary.restored;
    let mut add = |n: usize, words: String| {
        if n > 0 {
            parts.push(words);
        }
    };
    add(up_to_date, format!("{up_to_date} up to date"));
    add(summary.restored, format!("{} restored", summary.restored));
    add(summary.failed, format!("{} failed", summary.failed));
    add(summary.refused, format!("{} refused", count(summary.refused, "gate")));
    add(summary.blocked, format!("{} not run", summary.blocked));
    for commit in &summary.commits {
        parts.push(format!("published {}", short(commit)));
    }
    for commit in &summary.unchanged {
        parts.push(format!("remote unchanged at {}", short(commit)));
    }
    parts.extend(summary.pulls.iter().map(pulled));
    format!("hfbuild: {}", parts.join(", "))
}

/// What became of a pull request, for the last line.
fn pulled(pull: &Pulled) -> String {
    let why = if pull.drifted { " because the remote was changed" } else { "" };
    match pull.how {
        Proposing::Opened => format!("opened pull request #{}{why}", pull.number),
        Proposing::Extended => format!("added a commit to pull request #{}{why}", pull.number),
        Proposing::Waits => format!("pull request #{} waits to be merged", pull.number),
    }
}

/// `+ 3 files (4.2 MB)`: what a commit would send, for one line.
pub fn changes_line(changes: &crate::core::publish::Changes) -> String {
    let sent = changes.sent().count();
    let all = sent + changes.same;
    let mut line = format!("{sent} of {} changed ({})", count(all, "file"), human_bytes(changes.bytes()));
    if !changes.delete.is_empty() {
        line.push_str(&format!(", {} deleted", changes.delete.len()));
    }
    line
}
