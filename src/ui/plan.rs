//! A plan, for people and as JSON.

use crate::core::estimate::SendEstimate;
use crate::core::event::verdict_word;
use crate::core::graph::{Graph, NodeId, Work};
use crate::core::plan::Plan;
use crate::core::publish::{Changes, Drifted, Elsewhere, Propose, Sized, Target, UploadVerdict};
use crate::core::value::human_bytes;
use crate::core::verdict::Verdict;
use crate::ui::{count, explain, short};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The version of the JSON form; it changes when a key changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// What a plan came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Stages that will run.
    pub run: usize,
    /// Stages that may run.
    pub pending: usize,
    /// Stages that will be restored.
    pub restore: usize,
    /// Stages that are up to date.
    pub fresh: usize,
    /// Nodes that will not run.
    pub blocked: usize,
    /// Publishes that will or may make a commit.
    pub commits: usize,
}

impl Totals {
    /// Whether anything is to be done.
    pub fn work(&self) -> bool {
        self.run + self.pending + self.restore + self.blocked + self.commits > 0
    }
}

/// What an upload would send, and where.
#[derive(Debug)]
pub struct Sending {
    /// The upload.
    pub id: NodeId,
    /// Where it goes.
    pub target: Target,
    /// Where its branch is not there: the commit that it would be made at.
    pub start: Option<String>,
    /// The publish that it goes over, where another machine made it since.
    pub elsewhere: Option<Elsewhere>,
    /// What it would send.
    pub send: SendEstimate,
}

/// Counts a plan.
pub fn totals(graph: &Graph, plan: &Plan) -> Totals {
    let mut totals = Totals::default();
    for id in graph.ids() {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        match (&decision.verdict, &graph.node(id).work) {
            (Verdict::Run { .. } | Verdict::Pending { .. }, Work::Upload(_)) => totals.commits += 1,
            (Verdict::Blocked { .. }, _) => totals.blocked += 1,
            (_, Work::Gate(_) | Work::Upload(_)) => {}
            (Verdict::UpToDate, _) => totals.fresh += 1,
            (Verdict::Restore { .. }, _) => totals.restore += 1,
            (Verdict::Run { .. }, _) => totals.run += 1,
            (Verdict::Pending { .. }, _) => totals.pending += 1,
        }
    }
    totals
}

/// The plan as lines; nodes of one artifact with one verdict are taken together. `publishes` describes the uploads.
pub fn render(graph: &Graph, plan: &Plan, publishes: &[Sending], all: bool) -> String {
    let mut out = String::new();
    let mut groups: Vec<(String, String, usize)> = Vec::new();
    let mut blocked: Vec<(String, Vec<String>)> = Vec::new();
    for &id in &graph.order {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        let node = graph.node(id);
        if let (Verdict::Blocked { by }, None, Work::Stage(_) | Work::Upload(_)) =
            (&decision.verdict, &decision.outcome, &node.work)
        {
            if by.contains(&node.name) {
                continue; // its own drift, which is shown with what would be sent
            }
            let by = by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            match blocked.iter_mut().find(|(other, _)| *other == by) {
                Some((_, nodes)) => nodes.push(node.name.to_string()),
                None => blocked.push((by, vec![node.name.to_string()])),
            }
            continue;
        }
        let Some((verb, rest)) = node_line(graph, id, plan) else { continue };
        let line = format!("{verb:>9} {{}}{rest}");
        let shard = node.name.key.is_some() && matches!(node.work, Work::Stage(_));
        let label = if shard { node.name.artifact.to_string() } else { node.name.to_string() };
        let same = |(l, text, _): &&mut (String, String, usize)| *l == label && *text == line;
        match shard.then(|| groups.iter_mut().find(same)).flatten() {
            Some((_, _, n)) => *n += 1,
            None => groups.push((label, line, usize::from(shard))),
        }
    }
    for (label, line, shards) in groups {
        let label = if shards > 0 { format!("{label} ({})", count(shards, "shard")) } else { label };
        let line = if shards > 1 { line.replace("from the cache", "each from the cache") } else { line };
        out.push_str(&line.replacen("{}", &label, 1));
        out.push('\n');
    }
    for (by, nodes) in blocked {
        out.push_str(&format!("{:>9} {} by {by}\n", "Blocked", crate::ui::progress::fold(&nodes)));
    }
    for send in publishes {
        out.push_str(&send_lines(send, all));
    }
    out
}

fn node_line(graph: &Graph, id: NodeId, plan: &Plan) -> Option<(&'static str, String)> {
    let decision = plan.decisions[id.index()].as_ref()?;
    let node = graph.node(id);
    Some(match (&decision.verdict, &node.work) {
        (_, Work::Gate(_)) if decision.outcome.is_some() => {
            let outcome = decision.outcome.as_ref()?;
            if outcome.passed() {
                return None;
            }
            ("Refused", format!(": {}", explain::outcome(outcome)))
        }
        (Verdict::Pending { .. }, Work::Gate(_)) | (Verdict::UpToDate, _) | (_, Work::Upload(_)) => return None,
        (Verdict::Restore { places }, _) if places.is_empty() => ("Restore", ": cached".into()),
        (Verdict::Restore { places }, _) => ("Restore", format!(": {} from the cache", count(places.len(), "file"))),
        (Verdict::Run { reasons }, _) => ("Run", format!(": {}", explain::reasons(reasons))),
        (Verdict::Pending { on }, _) => {
            let mut names: Vec<_> = on.iter().map(|n| n.artifact.to_string()).collect();
            names.dedup();
            ("Pending", format!(": waits for {}", names.join(", ")))
        }
        (Verdict::Blocked { .. }, _) => return None,
    })
}

/// What a publish would send, as lines.
fn send_lines(sending: &Sending, all: bool) -> String {
    let (this, repo) = (&sending.send, sending.target.to_string());
    if this.blocked {
        return String::new();
    }
    let mut out = String::new();
    match &this.verdict {
        Some(UploadVerdict::UpToDate { .. }) => return out,
        Some(UploadVerdict::Proposed { pull_request, .. }) => {
            let number = pull_request.number;
            return format!(
                "{:>9} {repo}: pull request #{number} has this already, and waits to be merged\n",
                "Proposed"
            );
        }
        Some(UploadVerdict::Drift { files, pull_request }) => {
            let what = pull_request.map_or("the remote".into(), |number| format!("pull request #{number}"));
            out.push_str(&format!("{:>9} {repo}: {what} was changed since\n", "Drift"));
            out.push_str(&drift_lines(files));
            return out;
        }
        Some(UploadVerdict::Send { changes: sent, over, pull_request }) => {
            let (verb, how) = match pull_request {
                None => ("Send", String::new()),
                Some(Propose { number: None }) => ("Propose", ", as a new pull request".into()),
                Some(Propose { number: Some(number) }) => ("Propose", format!(", to pull request #{number}")),
            };
            out.push_str(&format!("{verb:>9} {repo}: {}{how}\n", crate::ui::changes_line(sent)));
            out.push_str(&start_line(sending));
            if pull_request.is_none() && !over.is_empty() {
                out.push_str(&format!("{:>9}   over what others changed on the remote:\n", ""));
            }
            out.push_str(&drift_lines(over));
            out.push_str(&changed_files(sent, all));
            return out;
        }
        None => {}
    }
    let bytes: u64 = this.certain.iter().map(|f| f.1).chain(this.maybe.iter().filter_map(|f| f.1)).sum();
    let about = if this.maybe.is_empty() { "" } else { "up to " };
    let unknown = this.maybe.iter().filter(|f| f.1.is_none()).count();
    let files = count(this.certain.len() + this.maybe.len(), "file");
    let size = match unknown {
        0 => format!("{about}{files}, about {}", human_bytes(bytes)),
        _ => format!(
            "{}, {unknown} of them not made yet",
            count(this.certain.len() + this.maybe.len(), "entry").replace("entrys", "entries")
        ),
    };
    out.push_str(&format!("{:>9} {repo}: {size}\n", "Send"));
    out.push_str(&start_line(sending));
    let certain = this.certain.iter().map(|(path, size)| (path.clone(), Some(*size))).collect();
    out.push_str(&file_lines("+", "", certain, all));
    out.push_str(&file_lines("?", "~", this.maybe.clone(), all));
    this.delete.iter().for_each(|p| out.push_str(&format!("{:>9}   - {}\n", "", plain(p))));
    out
}

/// A path that others chose, on one line, without what could steer the terminal.
fn plain(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn drift_lines(files: &[Drifted]) -> String {
    let line = |file: &Drifted| {
        let (word, path) = match file {
            Drifted::Changed { path } => ("changed", path.as_str()),
            Drifted::Deleted { path } => ("deleted", path.as_str()),
            Drifted::Foreign { path } => ("not of ours", path.as_str()),
            Drifted::Gone => ("gone", "the repo or its branch"),
        };
        format!("{:>9}   {}: {word}\n", "", plain(path))
    };
    files.iter().map(line).collect()
}

/// Says that a branch will be made.
fn start_line(sending: &Sending) -> String {
    let branch = &sending.target.revision;
    sending.start.as_ref().map_or(String::new(), |start| {
        format!("{:>9}   the branch `{branch}` is not there: it is made from `main` at {}\n", "", short(start))
    })
}

/// What a commit changes, file by file, below a head.
pub fn changes(head: &str, changes: &Changes, all: bool) -> String {
    format!("{head}: {}\n{}", crate::ui::changes_line(changes), changed_files(changes, all))
}

fn changed_files(changes: &Changes, all: bool) -> String {
    let sized = |f: &Sized| (f.path.clone(), Some(f.size));
    let mut out = file_lines("+", "", changes.add.iter().map(sized).collect(), all);
    out.push_str(&file_lines("~", "", changes.change.iter().map(sized).collect(), all));
    changes.delete.iter().for_each(|p| out.push_str(&format!("{:>9}   - {}\n", "", plain(p))));
    out
}

/// A directory of more files than this is one line.
const FOLD: usize = 4;

/// A line a file; a directory of many files is one line, unless all are asked for.
fn file_lines(sign: &str, about: &str, files: Vec<(String, Option<u64>)>, all: bool) -> String {
    let folder = |path: &str| path.split_once('/').map(|(folder, _)| format!("{folder}/"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    files.iter().filter_map(|(path, _)| folder(path)).for_each(|f| *counts.entry(f).or_default() += 1);
    let mut rows: Vec<(String, usize, Option<u64>)> = Vec::new();
    let mut folded: BTreeMap<String, usize> = BTreeMap::new();
    for (path, size) in files {
        let many = folder(&path).filter(|f| !all && counts[f] > FOLD);
        match many.as_ref().and_then(|f| folded.get(f)) {
            Some(&at) => {
                let (_, n, total): &mut (String, usize, Option<u64>) = &mut rows[at];
                *n += 1;
                *total = total.zip(size).map(|(a, b)| a + b);
            }
            None => {
                many.iter().for_each(|f| {
                    folded.insert(f.clone(), rows.len());
                });
                rows.push((many.unwrap_or(path), 1, size));
            }
        }
    }
    rows.into_iter().fold(String::new(), |out, (label, n, size)| {
        let size = size.map_or("not made yet".to_string(), |s| format!("{about}{}", human_bytes(s)));
        let many = if label.ends_with('/') { format!("{}, ", count(n, "file")) } else { String::new() };
        out + &format!("{:>9}   {sign} {label}  {many}{size}\n", "")
    })
}

/// The last line of a plan where so many are up to date, and nothing is to be done.
pub fn nothing_to_do(fresh: usize) -> String {
    format!("hfbuild: nothing to do, {fresh} up to date")
}

/// The last line of a plan.
pub fn last_line(totals: &Totals, plan: &Plan) -> String {
    if !totals.work() {
        let known = plan.decisions.iter().flatten().filter_map(|d| match &d.upload {
            Some((_, _, Some(UploadVerdict::UpToDate { commit, .. }))) => {
                Some(format!(", remote unchanged at {}", short(commit)))
            }
            Some((_, _, Some(UploadVerdict::Proposed { pull_request, .. }))) => {
                Some(format!(", pull request #{} waits to be merged", pull_request.number))
            }
            _ => None,
        });
        return format!("{}{}", nothing_to_do(totals.fresh), known.collect::<String>());
    }
    let mut parts = Vec::new();
    let mut add = |n: usize, words: String| {
        if n > 0 {
            parts.push(words);
        }
    };
    add(totals.run, format!("would run {}", count(totals.run, "stage")));
    add(totals.pending, format!("{} pending", totals.pending));
    add(totals.restore, format!("would restore {}", totals.restore));
    add(totals.fresh, format!("{} up to date", totals.fresh));
    add(totals.blocked, format!("{} blocked", totals.blocked));
    add(totals.commits, "then publish".into());
    format!("hfbuild: {}", parts.join(", "))
}

/// The plan as JSON; the README documents the form.
pub fn to_json(graph: &Graph, plan: &Plan, publishes: &[Sending]) -> Json {
    let nodes: Vec<Json> = graph
        .order
        .iter()
        .filter_map(|id| {
            let decision = plan.decisions[id.index()].as_ref()?;
            let mut node = serde_json::to_value(&decision.verdict).ok()?;
            node["name"] = graph.node(*id).name.to_string().into();
            node["verdict"] = verdict_word(&decision.verdict).into();
            node["kind"] = match &graph.node(*id).work {
                Work::Stage(d) => d.kind.into(),
                Work::Gate(_) => "gate".into(),
                Work::Upload(_) => "upload".into(),
            };
            if let Some((digest, _)) = &decision.action {
                node["action"] = digest.hex().into();
            }
            if let Some(outcome) = &decision.outcome {
                node["outcome"] = serde_json::to_value(outcome).ok()?;
            }
            Some(node)
        })
        .collect();
    let sends: Vec<Json> = publishes
        .iter()
        .map(|Sending { id, target, start, elsewhere, send }| {
            json!({
                "artifact": graph.node(*id).name.to_string(),
                "repo": target.repo,
                "type": target.kind,
                "revision": target.revision,
                "endpoint": target.endpoint,
                "branch_from": start,
                "over_publish": elsewhere,
                "known": send.verdict,
                "certain": send.certain.iter().map(|(p, s)| json!({"path": p, "size": s})).collect::<Vec<_>>(),
                "maybe": send.maybe.iter().map(|(p, s)| json!({"path": p, "last_size": s})).collect::<Vec<_>>(),
                "delete": send.delete,
                "blocked": send.blocked,
            })
        })
        .collect();
    json!({"schema": SCHEMA, "work": totals(graph, plan).work(), "nodes": nodes, "publishes": sends})
}
