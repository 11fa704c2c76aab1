//! `history`: the publishes, newest first.
//!
//! Prints what the engine found; decides nothing.

use super::past::{self, Opened};
use super::{Failure, Global};
use crate::core::error::Result;
use crate::core::graph::NodeId;
use crate::core::past::Counts;
use crate::core::publish::Target;
use crate::exec::history::{self, Entry};
use crate::exec::remote::{Remote, Remotes};
use crate::ui::{count, short};
use serde_json::{Value as Json, json};

/// `hfbuild history`
pub fn history(global: &Global, most: usize, json: bool, offline: bool) -> Result<(), Failure> {
    let mut opened = past::open(global)?;
    let uploads = opened.uploads.clone();
    let mut told = Vec::new();
    for (id, target) in &uploads {
        let (entries, all, searched) = past::block_on(look(global, &mut opened, *id, target, most, offline))?;
        if json {
            let publishes: Vec<Json> = entries.iter().map(as_json).collect();
            told.push(past::repo_json(
                &opened,
                *id,
                target,
                json!({"publishes": publishes, "all": all, "searched": searched}),
            ));
            continue;
        }
        past::print(&lines(&entries));
        let shown = if entries.len() < all { format!(", the newest {} shown", entries.len()) } else { String::new() };
        let far = searched.map_or(String::new(), |n| format!(" (the newest {n} commits and the tags were looked at)"));
        past::talk(
            global,
            &format!("hfbuild: {} to `{target}`{shown}{far}", count(all, "publish").replace("publishs", "publishes")),
        );
    }
    if json {
        past::print_json(&json!({"schema": 1, "repos": told}));
    }
    Ok(())
}

/// The newest publishes, how many there are, and how many commits were looked through where there are more. Where the remote does not answer, those that this cache knows.
async fn look(
    global: &Global,
    opened: &mut Opened,
    id: NodeId,
    target: &Target,
    most: usize,
    offline: bool,
) -> Result<(Vec<Entry>, usize, Option<usize>)> {
    let blobs = opened.store.blobs();
    let asked = if offline { None } else { Some(ask(opened, id).await) };
    let remote = match asked {
        None => None,
        Some(Ok(remote)) => Some(remote),
        Some(Err(error)) if opened.loaded.publishes.last(target).is_none() => return Err(error),
        Some(Err(error)) => {
            past::talk(global, &format!("warning: the remote cannot be asked, so these are this cache's own: {error}"));
            None
        }
    };
    let branch = remote.as_ref().map(|(_, _, branch)| branch);
    let mut entries = history::entries(&opened.loaded.publishes, target, branch);
    let (all, searched) = (entries.len(), branch.and_then(history::Branch::searched));
    history::fill(&mut entries, most, remote.as_ref().map(|(_, remote, _)| remote), &blobs).await?;
    entries.truncate(most);
    if let Some((remotes, ..)) = remote {
        remotes.close().await;
    }
    Ok((entries, all, searched))
}

/// The remote, and what is seen of its branch.
async fn ask(opened: &mut Opened, id: NodeId) -> Result<(Remotes, Remote, history::Branch)> {
    let (remotes, remote) = opened.reading(id).await?;
    let branch = history::branch(&remote).await?;
    Ok((remotes, remote, branch))
}

/// Aligned lines below a head.
fn lines(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let head = ["commit", "date", "version", "tags", "files", "gates", "tree", ""].map(String::from);
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(entries.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(entry: &Entry) -> [String; 8] {
    let account = entry.account.as_ref();
    let gates = account.map(|a| match (a.passed, a.allowed.len()) {
        (0, 0) => "none".to_string(),
        (passed, 0) => format!("{passed} passed"),
        (passed, allowed) => format!("{passed} passed, {} allowed", count(allowed, "regression")),
    });
    let mut notes: Vec<String> = entry.restores.iter().map(|c| format!("rollback to {}", short(c))).collect();
    if entry.there == Some(false) {
        notes.push("no longer on the remote".into());
    }
    let version = account.and_then(|a| a.version.as_deref()).map(past::plain);
    let tags: Vec<String> = entry.tags.iter().map(|tag| past::plain(tag)).collect();
    [
        short(&entry.commit).to_string(),
        past::date(&entry.date),
        version.unwrap_or_else(|| "?".into()),
        if tags.is_empty() { "-".into() } else { tags.join(" ") },
        entry.counts.as_ref().map_or("?".into(), files),
        gates.unwrap_or_else(|| "?".into()),
        entry.tree.get(..12).unwrap_or(&entry.tree).to_string(),
        notes.join(", "),
    ]
}

/// `+3 ~2 -1 of 128`
fn files(counts: &Counts) -> String {
    let parts = [('+', counts.added), ('~', counts.changed), ('-', counts.deleted)];
    let parts: Vec<String> = parts.iter().filter(|(_, n)| *n > 0).map(|(sign, n)| format!("{sign}{n}")).collect();
    let what = if parts.is_empty() { "0".to_string() } else { parts.join(" ") };
    format!("{what} of {}", counts.total)
}

fn as_json(entry: &Entry) -> Json {
    json!({
        "commit": entry.commit,
        "date": entry.date,
        "title": entry.title,
        "author": entry.author,
        "version": entry.account.as_ref().and_then(|a| a.version.clone()),
        "tags": entry.tags,
        "files": entry.counts,
        "gates": entry.account.as_ref().map(|a| json!({"passed": a.passed, "allowed_regressions": a.allowed})),
        "tree": entry.tree,
        "restores": entry.restores,
        "receipt": entry.receipt.is_some(),
        "on_remote": entry.there,
    })
}
