//! What the commands about past publishes share: the project with its targets, and words for commits, dates and texts
//! that others wrote.

use super::{Global, build, out};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::graph::NodeId;
use crate::core::publish::{Drifted, Target};
use crate::exec::baseline::{self, Seen};
use crate::exec::project::Project;
use crate::exec::publish::settle_intents;
use crate::exec::remote::{Access, Remote, Remotes};
use crate::exec::targets;
use crate::hub::client::CommitInfo;
use crate::store::Store;
use crate::store::records::{self, Loaded};
use crate::ui::{count, short};
use std::collections::BTreeMap;
use std::io::Write;

/// So many lines of one sort are told without `--verbose`.
pub const TOLD: usize = 20;

/// A project that publishes.
pub struct Opened {
    pub project: Project,
    pub store: Store,
    pub loaded: Loaded,
    /// Its uploads, and where each goes.
    pub uploads: Vec<(NodeId, Target)>,
}

/// Opens it; one that publishes nothing has no past.
pub fn open(global: &Global) -> Result<Opened> {
    let project = Project::open(&global.project, &global.settings())?;
    let all = vec![true; project.graph.nodes.len()];
    let uploads: Vec<_> = targets::targets(&project, &all, global.flags())?.into_iter().collect();
    if uploads.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the manifest publishes nothing")
            .hint("it needs a [hub] and an artifact of kind `upload`"));
    }
    let store = Store::at(&project.root);
    let loaded = records::load(&store)?;
    Ok(Opened { project, store, loaded, uploads })
}

impl Opened {
    /// The hub with one upload's repo, only to be read, with what an interrupted publish left there taken into account.
    pub async fn reading(&mut self, id: NodeId) -> Result<(Remotes, Remote)> {
        let (remotes, remote) = self.open(id, Access::Read).await?;
        settle_intents(&remote, &mut self.loaded, None).await?;
        Ok((remotes, remote))
    }

    /// The hub with one upload's repo.
    pub async fn open(&self, id: NodeId, access: Access) -> Result<(Remotes, Remote)> {
        let one = self.uploads.iter().filter(|(other, _)| *other == id).cloned().collect();
        let remotes = Remotes::open(one, &self.store.hub(), access).await?;
        let remote = remotes.of.get(&id).cloned().ok_or_else(|| Error::bug("an upload without a target"))?;
        Ok((remotes, remote))
    }
}

/// Runs one command's requests.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    build::runtime()?.block_on(work)
}

/// Prints data.
pub fn print(text: &str) {
    out::print(text);
}

/// What is told of one repo in JSON: first which it is, by its upload, type and branch.
pub fn repo_json(opened: &Opened, id: NodeId, target: &Target, told: serde_json::Value) -> serde_json::Value {
    let mut out = serde_json::json!({
        "artifact": opened.project.graph.node(id).name.to_string(),
        "repo": target.repo,
        "type": target.kind,
        "revision": target.revision,
        "endpoint": target.endpoint,
    });
    if let (Some(out), serde_json::Value::Object(told)) = (out.as_object_mut(), told) {
        out.extend(told);
    }
    out
}

/// Prints a JSON document.
pub fn print_json(value: &serde_json::Value) {
    print(&format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
}

/// Says something beside the data.
pub fn talk(global: &Global, text: &str) {
    if !global.quiet {
        let _ = writeln!(std::io::stderr(), "{text}"); // a closed pipe ends the talk
    }
}

/// A date for people, of RFC 3339.
pub fn date(rfc3339: &str) -> String {
    let time = rfc3339.parse::<jiff::Timestamp>();
    time.map_or_else(|_| plain(rfc3339), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A text that others wrote, on one line, without what could steer the terminal.
pub fn plain(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    if out.len() < text.len() && out.chars().count() == 100 {
        out.push_str("...");
    }
    out
}

/// `3f2a91c "better words" by alice, 2026-01-02 03:04:05 UTC`
pub fn commit(commit: &CommitInfo) -> String {
    let by = commit.author.as_ref().map_or(String::new(), |author| format!(" by {}", plain(author)));
    let on = commit.date.as_ref().map_or(String::new(), |d| format!(", {}", date(d)));
    format!("{} \"{}\"{by}{on}", short(&commit.id), plain(&commit.title))
}

/// The path and the word of something that drifted.
pub fn drifted(drifted: &Drifted) -> (&str, &'static str) {
    match drifted {
        Drifted::Changed { path } => (path, "changed"),
        Drifted::Deleted { path } => (path, "deleted"),
        Drifted::Foreign { path } => (path, "not of ours"),
        Drifted::Gone => ("the repo or its branch", "gone"),
    }
}

/// What happened on the remote since the last publish, as lines: the commits, then the files with the commit that did it.
pub async fn since_lines(global: &Global, remote: &Remote, seen: &Seen) -> Result<String> {
    let (Some(comparison), Some(_)) = (seen.comparison(), &seen.head) else { return Ok(String::new()) };
    let most = if global.verbose { usize::MAX } else { TOLD };
    let mut out = String::new();
    let indent = " ".repeat(14);
    let mut lines: Vec<String> = seen.since.iter().map(commit).collect();
    if !seen.connected && seen.baseline.as_ref().is_some_and(|b| b.commit.is_some()) {
        let where_to = match seen.whole {
            true => "in its history".to_string(),
            false => format!("among its newest {} commits", baseline::SEARCHED),
        };
        lines = vec![format!("the last publish's commit is not {where_to}: which commits came after it is not known")];
    }
    out.push_str(&limited(&lines, most, &indent));
    let mut rows: Vec<(&str, &str)> = comparison.drifted.iter().map(drifted).collect();
    rows.extend(comparison.others.iter().map(|path| (path.as_str(), "not of ours")));
    let paths: Vec<&str> = rows.iter().map(|(path, _)| *path).collect();
    let touched: BTreeMap<String, &CommitInfo> = seen.touched(remote, &paths).await?;
    let width = rows.iter().map(|(path, _)| plain(path).chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = rows
        .iter()
        .map(|(path, word)| {
            let by = touched.get(*path).map_or(String::new(), |commit| format!("  by {}", short(&commit.id)));
            format!("{:<width$}  {word:<11}{by}", plain(path)).trim_end().to_string()
        })
        .collect();
    out.push_str(&limited(&lines, most, &indent));
    Ok(out)
}

/// The first lines, and how many more there are.
pub fn limited(lines: &[String], most: usize, indent: &str) -> String {
    let mut out: String = lines.iter().take(most).map(|line| format!("{indent}{line}\n")).collect();
    if lines.len() > most {
        out.push_str(&format!("{indent}and {} (-v shows all)\n", count(lines.len() - most, "more line")));
    }
    out
}
