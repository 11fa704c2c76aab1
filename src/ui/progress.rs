//! A build as it goes: plain lines anywhere, and on a terminal a live view of what runs below them.

use crate::core::event::Event;
use crate::core::value::human_bytes;
use crate::ui::{changes_line, count, explain, seconds, short};
use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Only warnings and failures.
    Quiet,
    /// A line for what happens.
    Normal,
    /// Also what is usually taken together: every shard, every reason.
    Verbose,
}

/// Shows events on stderr.
pub struct Progress {
    verbosity: Verbosity,
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    families: BTreeSet<String>,
    bars: BTreeMap<String, ProgressBar>,
    multi: Option<MultiProgress>,
    passed: usize,
}

const GOOD: AnsiColor = AnsiColor::Green;
const BUSY: AnsiColor = AnsiColor::Cyan;
const BAD: AnsiColor = AnsiColor::Red;
const ODD: AnsiColor = AnsiColor::Yellow;

impl Progress {
    /// For stderr as it is.
    pub fn new(verbosity: Verbosity) -> Progress {
        let live = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let multi = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Progress { verbosity, live, state: Mutex::new(State { multi, ..State::default() }) }
    }

    /// Shows one event.
    pub fn show(&self, event: &Event) {
        let Ok(mut state) = self.state.lock() else { return };
        self.track(&mut state, event);
        let Some((colour, verb, text, loud)) = self.line(&mut state, event) else { return };
        if self.verbosity == Verbosity::Quiet && !loud {
            return;
        }
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let text = format!("{style}{verb:>9}{style:#} {text}");
        let write = || {
            let _ = writeln!(anstream::stderr(), "{text}"); // nobody to tell when stderr is gone
        };
        match &state.multi {
            Some(multi) => multi.suspend(write),
            None => write(),
        }
    }

    /// Takes the live view away.
    pub fn end(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.bars.values().for_each(ProgressBar::finish_and_clear);
            state.bars.clear();
        }
    }

    fn track(&self, state: &mut State, event: &Event) {
        let Some(multi) = state.multi.clone().filter(|_| self.live && self.verbosity != Verbosity::Quiet) else {
            return;
        };
        match event {
            Event::Running { node, .. } => {
                let style = ProgressStyle::with_template("          {spinner} {msg} {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bar = multi.add(ProgressBar::new_spinner().with_style(style).with_message(node.clone()));
                bar.enable_steady_tick(std::time::Duration::from_millis(120));
                state.bars.insert(node.clone(), bar);
            }
            Event::Progress { node, done, total } => {
                if let Some(bar) = state.bars.get(node) {
                    bar.set_message(format!("{node} {done}/{total}"));
                }
            }
            Event::Sent { repo, done, total } => {
                let bar = state.bars.entry(repo.clone()).or_insert_with(|| {
                    let style = ProgressStyle::with_template("          {spinner} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner());
                    multi.add(ProgressBar::new_spinner().with_style(style))
                });
                bar.set_message(format!("sent {} of {}", human_bytes(*done), human_bytes(*total)));
            }
            Event::Finished { node, .. } | Event::Failed { node, .. } => {
                if let Some(bar) = state.bars.remove(node) {
                    bar.finish_and_clear();
                }
            }
            Event::Published { repo, .. } => {
                if let Some(bar) = state.bars.remove(repo) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }

    /// Colour, verb, text, and whether it is said in quiet mode too.
    fn line(&self, state: &mut State, event: &Event) -> Option<(AnsiColor, &'static str, String, bool)> {
        let verbose = self.verbosity == Verbosity::Verbose;
        Some(match event {
            Event::Fresh { nodes } => (GOOD, "Fresh", fold(nodes), false),
            Event::Running { node, reasons } => {
                let family = family(node);
                if let Some(family) = family.filter(|_| !verbose) {
                    if !state.families.insert(family.to_string()) {
                        return None;
                    }
                    return Some((BUSY, "Running", format!("{family}: {}", explain::reasons(reasons)), false));
                }
                let why = if verbose {
                    reasons.iter().map(explain::reason).collect::<Vec<_>>().join(", ")
                } else {
                    explain::reasons(reasons)
                };
                (BUSY, "Running", format!("{node}: {why}"), false)
            }
            Event::Finished { node, seconds: s, bytes, same } => {
                if !verbose && *s < 1.0 {
                    return None;
                }
                let same = if *same { ", the same as before" } else { "" };
                (GOOD, "Finished", format!("{node} in {} ({}{same})", seconds(*s), human_bytes(*bytes)), false)
            }
            Event::Cutoff { node } => {
                if let Some(family) = family(node).filter(|_| !verbose) {
                    if !state.families.insert(format!("cutoff {family}")) {
                        return None;
                    }
                    return Some((GOOD, "Cutoff", format!("{family}: inputs unchanged"), false));
                }
                (GOOD, "Cutoff", format!("{node}: inputs unchanged"), false)
            }
            Event::Restored { node, .. } => {
                if let Some(family) = family(node).filter(|_| !verbose) {
                    if !state.families.insert(format!("restored {family}")) {
                        return None;
                    }
                    return Some((GOOD, "Restored", format!("{family} from the cache"), false));
                }
                (GOOD, "Restored", format!("{node} from the cache"), false)
            }
            Event::Gate { node, outcome } if outcome.passed() => {
                state.passed += 1;
                if !verbose {
                    return None;
                }
                (GOOD, "Passed", format!("{node}: {}", explain::outcome(outcome)), false)
            }
            Event::Gate { node, outcome } => (BAD, "Refused", format!("{node}: {}", explain::outcome(outcome)), true),
            Event::Blocked { nodes, by } => (ODD, "Blocked", format!("{} by {by}", fold(nodes)), false),
            Event::Failed { node, .. } => (BAD, "Failed", node.clone(), true),
            Event::Uploading { repo, changes } => {
                let gates = std::mem::take(&mut state.passed);
                let passed = if gates > 0 { format!("; {} passed", count(gates, "gate")) } else { String::new() };
                (BUSY, "Upload", format!("{repo}: {}{passed}", changes_line(changes)), false)
            }
            Event::Published { repo, commit, found } => {
                let how = if *found { " (it had landed already)" } else { "" };
                (GOOD, "Published", format!("{repo} at {}{how}", short(commit)), false)
            }
            Event::RemoteFresh { repo, commit } => (GOOD, "Fresh", format!("{repo} at {}", short(commit)), false),
            Event::Note { text } => (BUSY, "Note", text.clone(), false),
            Event::Warning { text } => (ODD, "Warning", text.clone(), true),
            Event::Planned { .. } | Event::Progress { .. } | Event::Sent { .. } => return None,
        })
    }
}

/// The family of a shard: `samples` of `samples[Siamese]`. A gate's clause is no shard.
fn family(node: &str) -> Option<&str> {
    node.split_once('[').map(|(family, _)| family)
}

/// Names on one line, shards of a family taken together: `checkpoint, samples (13 shards)`.
pub fn fold(nodes: &[String]) -> String {
    let mut out: Vec<(String, usize)> = Vec::new();
    for node in nodes {
        let (name, shard) = family(node).map_or((node.as_str(), false), |f| (f, true));
        match out.last_mut() {
            Some((last, n)) if shard && last == name => *n += 1,
            _ => out.push((name.to_string(), usize::from(shard))),
        }
    }
    let names: Vec<_> = out
        .into_iter()
        .map(|(name, shards)| if shards == 0 { name } else { format!("{name} ({})", count(shards, "shard")) })
        .collect();
    names.join(", ")
}
