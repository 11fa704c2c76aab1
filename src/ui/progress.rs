//! A build as it goes: plain lines anywhere, and on a terminal a live view of what runs below them.

use crate::core::event::{Event, Proposing};
use crate::core::value::human_bytes;
use crate::core::verdict::Reason;
use crate::ui::error::clean;
use crate::ui::{changes_line, count, explain, seconds, short};
use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

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
    /// Families whose shards run: how many have ended, and since when.
    under_way: BTreeMap<String, (usize, Instant)>,
    bars: BTreeMap<String, ProgressBar>,
    multi: Option<MultiProgress>,
    passed: usize,
}

/// Colour, verb, text, and whether it is said in quiet mode too.
type Line = (AnsiColor, &'static str, String, bool);

/// Seconds from which on the end of a stage, or of a shard, is worth a line.
const LONG_STAGE: f64 = 1.0;
const LONG_SHARD: f64 = 30.0;

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
            Event::Published { repo, .. } | Event::Proposed { repo, .. } => {
                if let Some(bar) = state.bars.remove(repo) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }

    /// The node's name, of a shard its family's at the first time and then nothing more.
    fn once<'n>(&self, state: &mut State, what: &str, node: &'n str) -> Option<&'n str> {
        match family(node).filter(|_| self.verbosity != Verbosity::Verbose) {
            Some(family) => state.families.insert(format!("{what} {family}")).then_some(family),
            None => Some(node),
        }
    }

    fn running(&self, state: &mut State, node: &str, reasons: &[Reason]) -> Option<Line> {
        if let Some(family) = family(node) {
            state.under_way.entry(family.to_string()).or_insert_with(|| (0, Instant::now()));
        }
        let name = self.once(state, "running", node)?;
        let why = match self.verbosity {
            Verbosity::Verbose => reasons.iter().map(explain::reason).collect::<Vec<_>>().join(", "),
            _ => explain::reasons(reasons),
        };
        Some((BUSY, "Running", format!("{name}: {why}"), false))
    }

    /// A stage's end is told where it took a while, shards together when the last of them ends.
    fn finished(&self, state: &mut State, node: &str, took: f64, left: usize, line: String) -> Option<String> {
        let shards = family(node).and_then(|family| Some((family, state.under_way.get_mut(family)?)));
        let all = shards.map(|(family, (ended, begun))| {
            *ended += 1;
            format!("{family}: {} in {}", count(*ended, "shard"), seconds(begun.elapsed().as_secs_f64()))
        });
        let long = if all.is_some() { LONG_SHARD } else { LONG_STAGE };
        match self.verbosity == Verbosity::Verbose || took >= long {
            true => Some(line),
            false => all.filter(|_| left == 0),
        }
    }

    /// Colour, verb, text, and whether it is said in quiet mode too.
    fn line(&self, state: &mut State, event: &Event) -> Option<Line> {
        let verbose = self.verbosity == Verbosity::Verbose;
        Some(match event {
            Event::Fresh { nodes } => (GOOD, "Fresh", fold(nodes), false),
            Event::Running { node, reasons } => return self.running(state, node, reasons),
            Event::Finished { node, seconds, bytes, same, left } => {
                let same = if *same { ", the same as before" } else { "" };
                let line = format!("{node} in {} ({}{same})", crate::ui::seconds(*seconds), human_bytes(*bytes));
                (GOOD, "Finished", self.finished(state, node, *seconds, *left, line)?, false)
            }
            Event::Cutoff { node } => {
                (GOOD, "Cutoff", format!("{}: inputs unchanged", self.once(state, "cutoff", node)?), false)
            }
            Event::Restored { node, .. } => {
                (GOOD, "Restored", format!("{} from the cache", self.once(state, "restored", node)?), false)
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
                let passed = if gates > 0 { format!("{} passed", count(gates, "gate")) } else { "no gates".into() };
                (BUSY, "Upload", format!("{repo}: {}; {passed}", changes_line(changes)), false)
            }
            Event::RollingBack { repo, to, changes } => {
                (BUSY, "Rollback", format!("{repo} to {to}: {}", changes_line(changes)), false)
            }
            Event::Published { repo, commit, found } => {
                let how = if *found { " (it had landed already)" } else { "" };
                (GOOD, "Published", format!("{repo} at {}{how}", short(commit)), false)
            }
            Event::Proposed { repo, number, how, .. } => {
                let what = match how {
                    Proposing::Opened => "opened",
                    Proposing::Extended => "another commit",
                    Proposing::Waits => "has this already, and waits to be merged",
                };
                (GOOD, "Proposed", format!("{repo}: pull request #{number}, {what}"), false)
            }
            Event::RemoteFresh { repo, commit } => (GOOD, "Fresh", format!("{repo} at {}", short(commit)), false),
            Event::Note { text } => (BUSY, "Note", clean(text), false),
            Event::Warning { text } => (ODD, "Warning", clean(text), true),
            Event::Planned { .. } | Event::Progress { .. } | Event::Sent { .. } => return None,
        })
    }
}

/// The family of a shard: `samples` of `samples[Siamese]`. A gate's clause is no shard.
fn family(node: &str) -> Option<&str> {
    node.split_once('[').map(|(family, _)| family)
}

/// More names than these say no more to a reader.
const MOST_NAMES: usize = 40;

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
    let more = out.len().saturating_sub(MOST_NAMES);
    let mut names: Vec<_> = out
        .into_iter()
        .take(MOST_NAMES)
        .map(|(name, shards)| if shards == 0 { name } else { format!("{name} ({})", count(shards, "shard")) })
        .collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}
