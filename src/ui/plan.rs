//! A plan, for people and as JSON.

use crate::core::event::verdict_word;
use crate::core::graph::{Graph, NodeId, Work, placed_path};
use crate::core::plan::{Plan, Settled};
use crate::core::publish::{Drifted, Observed, Published, Sized, UploadVerdict, early_drift};
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

/// The plan as lines; nodes of one artifact with one verdict are taken together. `sent` describes the publishes.
pub fn render(graph: &Graph, plan: &Plan, repo: &str, publishes: &[SendEstimate], all: bool) -> String {
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
        match groups.iter_mut().find(|(l, text, _)| shard && *l == label && *text == line) {
            Some((_, _, n)) => *n += 1,
            None => groups.push((label, line, usize::from(shard))),
        }
    }
    for (label, line, shards) in groups {
        let label = if shards > 0 { format!("{label} ({})", count(shards, "shard")) } else { label };
        out.push_str(&line.replacen("{}", &label, 1));
        out.push('\n');
    }
    for (by, nodes) in blocked {
        out.push_str(&format!("{:>9} {} by {by}\n", "Blocked", crate::ui::progress::fold(&nodes)));
    }
    for send in publishes {
        out.push_str(&send.lines(repo, all));
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

/// What a publish would send: known files, and files that are not made yet.
#[derive(Debug, Clone, Default)]
pub struct SendEstimate {
    /// The verdict, where the tree is known.
    pub verdict: Option<UploadVerdict>,
    /// The publish's own refusal.
    pub blocked: bool,
    /// Files of stages that are pending or will run, by path, with the size of what was last published there.
    pub maybe: Vec<(String, Option<u64>)>,
    /// Files that are known to differ.
    pub certain: Vec<(String, u64)>,
    /// Files that an earlier publish put there and the manifest no longer names.
    pub delete: Vec<String>,
}

impl SendEstimate {
    fn lines(&self, repo: &str, all: bool) -> String {
        if self.blocked {
            return String::new();
        }
        let mut out = String::new();
        match &self.verdict {
            Some(UploadVerdict::UpToDate { .. }) => return out,
            Some(UploadVerdict::Drift { files }) => {
                out.push_str(&format!("{:>9} {repo}: the remote was changed since\n", "Drift"));
                for file in files {
                    let (word, path) = match file {
                        Drifted::Changed { path } => ("changed", path),
                        Drifted::Deleted { path } => ("deleted", path),
                        Drifted::Foreign { path } => ("not of ours", path),
                    };
                    out.push_str(&format!("{:>9}   {path}: {word}\n", ""));
                }
                return out;
            }
            Some(UploadVerdict::Send { changes, .. }) => {
                out.push_str(&format!("{:>9} {repo}: {}\n", "Send", crate::ui::changes_line(changes)));
                let sized = |f: &Sized| (f.path.clone(), Some(f.size));
                out.push_str(&file_lines("+", "", changes.add.iter().map(sized).collect(), all));
                out.push_str(&file_lines("~", "", changes.change.iter().map(sized).collect(), all));
                changes.delete.iter().for_each(|p| out.push_str(&format!("{:>9}   - {p}\n", "")));
                return out;
            }
            None => {}
        }
        let bytes: u64 = self.certain.iter().map(|f| f.1).chain(self.maybe.iter().filter_map(|f| f.1)).sum();
        let about = if self.maybe.is_empty() { "" } else { "up to " };
        let unknown = self.maybe.iter().filter(|f| f.1.is_none()).count();
        let files = count(self.certain.len() + self.maybe.len(), "file");
        let size = match unknown {
            0 => format!("{about}{files}, about {}", human_bytes(bytes)),
            _ => format!(
                "{}, {unknown} of them not made yet",
                count(self.certain.len() + self.maybe.len(), "entry").replace("entrys", "entries")
            ),
        };
        out.push_str(&format!("{:>9} {repo}: {size}\n", "Send"));
        let certain = self.certain.iter().map(|(path, size)| (path.clone(), Some(*size))).collect();
        out.push_str(&file_lines("+", "", certain, all));
        out.push_str(&file_lines("?", "~", self.maybe.clone(), all));
        self.delete.iter().for_each(|p| out.push_str(&format!("{:>9}   - {p}\n", "")));
        out
    }
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

/// Estimates what an upload would send.
pub fn estimate(
    graph: &Graph,
    plan: &Plan,
    id: NodeId,
    last: Option<&Published>,
    observed: Option<&Observed>,
    overwrite: bool,
) -> SendEstimate {
    let Some(decision) = &plan.decisions[id.index()] else {
        return SendEstimate { blocked: true, ..Default::default() };
    };
    if let Some((_, _, verdict)) = &decision.upload {
        return SendEstimate { verdict: verdict.clone(), ..Default::default() };
    }
    if matches!(decision.verdict, Verdict::Blocked { .. }) {
        return SendEstimate { blocked: true, ..Default::default() };
    }
    let last = last.map(|p| p.tree.clone()).unwrap_or_default();
    let mut out = SendEstimate::default();
    let Work::Upload(upload) = &graph.node(id).work else { return out };
    if let Some(observed) = observed {
        let drifted = if overwrite { vec![] } else { early_drift(observed) };
        if !drifted.is_empty() {
            return SendEstimate { verdict: Some(UploadVerdict::Drift { files: drifted }), ..out };
        }
        let covered = |path: &String| {
            let named =
                |(to, ..): &(String, _, _, _)| path == to || (to.ends_with('/') && path.starts_with(to.as_str()));
            upload.files.iter().any(named) || path == crate::core::plan::RECORD
        };
        out.delete = observed.managed.keys().filter(|path| !covered(path)).cloned().collect();
    }
    for (path, _, artifact, _) in &upload.files {
        for dep in graph.of(artifact) {
            let place = match graph.stage(*dep).map(|d| &d.shape) {
                Some(crate::core::action::Shape::File(name)) if path.ends_with('/') => format!("{path}{name}"),
                _ => path.clone(),
            };
            match &plan.settled[dep.index()] {
                Some(Settled::Made(receipt)) => {
                    for output in &receipt.outputs {
                        let to = placed_path(&place, &output.path);
                        if last.get(&to).is_none_or(|f| f.digest != output.digest) {
                            out.certain.push((to, output.size));
                        }
                    }
                }
                _ if place.ends_with('/') => {
                    let slug = graph.node(*dep).name.key.as_deref().map(crate::core::name::slug);
                    let known: Vec<_> = last
                        .iter()
                        .filter(|(p, _)| {
                            p.strip_prefix(&place).is_some_and(|rest| {
                                slug.as_deref()
                                    .is_none_or(|s| rest.strip_prefix(s).is_some_and(|r| r.starts_with(['/', '.'])))
                            })
                        })
                        .map(|(p, f)| (p.clone(), Some(f.size)))
                        .collect();
                    match known.is_empty() {
                        true => out.maybe.push((format!("{place}{}", slug.unwrap_or_default()), None)),
                        false => out.maybe.extend(known),
                    }
                }
                _ => out.maybe.push((place.clone(), last.get(&place).map(|f| f.size))),
            }
        }
    }
    let record = crate::core::plan::RECORD;
    out.maybe.push((record.into(), last.get(record).map(|f| f.size)));
    out.maybe.dedup();
    out
}

/// The last line of a plan.
pub fn last_line(totals: &Totals, plan: &Plan) -> String {
    if !totals.work() {
        let commit = plan.decisions.iter().flatten().find_map(|d| match &d.upload {
            Some((_, _, Some(UploadVerdict::UpToDate { commit, .. }))) => {
                Some(format!(", remote unchanged at {}", short(commit)))
            }
            _ => None,
        });
        return format!("hfbuild: nothing to do, {} up to date{}", totals.fresh, commit.unwrap_or_default());
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
pub fn to_json(graph: &Graph, plan: &Plan, repo: &str, publishes: &[(NodeId, SendEstimate)]) -> Json {
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
        .map(|(id, send)| {
            json!({
                "artifact": graph.node(*id).name.to_string(),
                "repo": repo,
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
