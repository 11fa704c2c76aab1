//! `diff`: what a publish would change, file by file.
//!
//! Plans as `plan` does, and prints what the engine found; decides nothing.

use super::past;
use super::{Failure, Global, build};
use crate::core::graph::Work;
use crate::core::publish::Target;
use crate::core::value::{Value, human_bytes};
use crate::exec::difference::{Change, Difference, FactChange, FileChange, Side, Sides, Whose};
use crate::exec::drive::Sink;
use crate::exec::observe;
use crate::exec::planning::plan_whole;
use crate::exec::targets::names_new;
use crate::store::memo::Memo;
use crate::ui::{count, explain};
use anstyle::{AnsiColor, Style};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// A directory of more files than this is one line.
const FOLD: usize = 4;

/// `hfbuild diff`
pub fn diff(global: &Global, json: bool) -> Result<(), Failure> {
    let mut opened = past::open(global)?;
    let uploads = opened.uploads.clone();
    let asked = build::asked(&opened.project, &[])?;
    let mut memo = Memo::load(&opened.store.memo_log())?;
    let mut told = Vec::new();
    for (id, target) in &uploads {
        let mut world = observe::observe(&opened.project, &asked.wanted, &opened.loaded.history, &mut memo)?;
        let found = past::block_on(async {
            let (remotes, remote) = opened.reading(*id).await?;
            let blobs = opened.store.blobs();
            let how = opened.project.graph.upload(*id).map(|upload| world.how(upload)).unwrap_or_default();
            let mut observed = remote.observe(&opened.loaded.publishes, Some(&blobs), how).await?;
            if opened.project.graph.upload(*id).is_some_and(|upload| names_new(upload, &observed)) {
                remote.list(&opened.loaded.publishes, how, &mut observed).await?;
            }
            world.remotes.insert(*id, observed.clone());
            let (project, store, loaded) = (&opened.project, &opened.store, &opened.loaded);
            let sink: Sink = Arc::new(|_| {});
            let plan = plan_whole(project, store, &asked.wanted, &asked.targets, loaded, &mut memo, &mut world, &sink)?;
            let Work::Upload(upload) = &project.graph.node(*id).work else { return Ok(Difference::default()) };
            let sides = Sides {
                graph: &project.graph,
                id: *id,
                upload,
                plan: &plan,
                world: &world,
                observed: &observed,
                last: loaded.publishes.last(target),
                remote: &remote,
                blobs: &blobs,
            };
            let found = sides.compare().await?;
            remotes.close().await;
            Ok(found)
        })?;
        if json {
            told.push(past::repo_json(&opened, *id, target, as_json(&found)));
            continue;
        }
        show(&text(&found, global.verbose));
        past::talk(global, &summary(target, &found));
    }
    if json {
        past::print_json(&json!({"schema": 1, "repos": told}));
    }
    Ok(())
}

/// Prints; on a terminal lines of a diff in colour.
fn show(text: &str) {
    let mut out = anstream::stdout().lock();
    for line in text.lines() {
        let colour = match line.as_bytes().first() {
            Some(b'+') => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Some(b'-') => Style::new().fg_color(Some(AnsiColor::Red.into())),
            Some(b'@') => Style::new().fg_color(Some(AnsiColor::Cyan.into())),
            _ => Style::new(),
        };
        super::out::written(writeln!(out, "{colour}{line}{colour:#}"));
    }
}

/// Files, then facts, then texts, with an empty line between.
fn text(found: &Difference, all: bool) -> String {
    let told = |f: &FileChange| f.not_shown.as_ref().map(|why| format!("not shown: {why}\n"));
    let texts = found.files.iter().filter_map(|f| f.diff.clone().or_else(|| told(f))).map(|text| safe(&text));
    let parts = [file_lines(&found.files, all), fact_lines(&found.facts, all)].into_iter().chain(texts);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// A text without what could steer the terminal.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Changed => '~',
        Change::Deleted => '-',
        Change::Pending => '?',
    }
}

/// A line a file; of a directory in which many files meet the same end one line.
fn file_lines(files: &[FileChange], all: bool) -> String {
    let folder = |f: &FileChange| f.path.split_once('/').map(|(folder, _)| (sign(f.change), folder.to_string()));
    let mut groups: BTreeMap<(char, String), Vec<&FileChange>> = BTreeMap::new();
    for file in files {
        if let Some(key) = folder(file) {
            groups.entry(key).or_default().push(file);
        }
    }
    let mut out = String::new();
    for file in files {
        let group = folder(file).and_then(|key| groups.get(&key)).filter(|group| !all && group.len() > FOLD);
        match group {
            None => out.push_str(&format!("{} {}  {}\n", sign(file.change), past::plain(&file.path), sizes(file))),
            Some(group) if std::ptr::eq(group[0], file) => out.push_str(&folded(group)),
            Some(_) => {}
        }
    }
    out
}

fn folded(group: &[&FileChange]) -> String {
    let sum =
        |side: fn(&FileChange) -> Option<&Side>| -> u64 { group.iter().filter_map(|f| side(f)).map(|s| s.size).sum() };
    let (before, after) = (sum(|f| f.before.as_ref()), sum(|f| f.after.as_ref()));
    let sizes = match group[0].change {
        Change::Added => human_bytes(after),
        Change::Changed => format!("{} -> {}", human_bytes(before), human_bytes(after)),
        Change::Deleted => human_bytes(before),
        Change::Pending => "not made yet".to_string(),
    };
    let folder = group[0].path.split('/').next().unwrap_or_default();
    format!("{} {}/  {}, {sizes}\n", sign(group[0].change), past::plain(folder), count(group.len(), "file"))
}

/// Sizes before and after; of what is told by no diff the digests too.
fn sizes(file: &FileChange) -> String {
    let size = |side: &Option<Side>| side.as_ref().map_or("nothing".to_string(), |s| human_bytes(s.size));
    let digest = |side: &Option<Side>| {
        let side = side.as_ref();
        side.and_then(|s| s.sha256.as_ref().or(s.git_sha1.as_ref()))
            .and_then(|d| d.get(..12))
            .unwrap_or("?")
            .to_string()
    };
    let (before, after) = (&file.before, &file.after);
    match file.change {
        Change::Added => size(after),
        Change::Deleted => size(before),
        Change::Pending if before.is_some() => format!("{} -> not made yet", size(before)),
        Change::Pending => "not made yet".to_string(),
        Change::Changed if file.diff.is_some() => format!("{} -> {}", size(before), size(after)),
        Change::Changed => format!("{} -> {}  {} -> {}", size(before), size(after), digest(before), digest(after)),
    }
}

/// Names, aligned, with the values before and after; of a family the means, unless all are asked for.
fn fact_lines(facts: &[FactChange], all: bool) -> String {
    let value = |v: &Option<Value>| match v {
        None => "nothing".to_string(),
        Some(v) if all => v.to_string(),
        Some(v) => explain::brief(v),
    };
    let told: Vec<_> = facts.iter().filter(|f| all || f.of != Whose::Shard).collect();
    let width = told.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
    let line = |f: &&FactChange| format!("{:<width$}  {} -> {}", f.name, value(&f.was), value(&f.now));
    let lines: Vec<String> = told.iter().map(line).collect();
    past::limited(&lines, if all { usize::MAX } else { past::TOLD }, "")
}

fn summary(target: &Target, found: &Difference) -> String {
    let of = |change| found.files.iter().filter(|f| f.change == change).count();
    let mut parts = Vec::new();
    for (n, word) in [(of(Change::Added), "added"), (of(Change::Changed), "changed"), (of(Change::Deleted), "deleted")]
    {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    if of(Change::Pending) > 0 {
        let waits = explain_pending(&found.pending);
        parts.push(format!("{} not made yet{waits}", of(Change::Pending)));
    }
    if parts.is_empty() {
        parts.push("nothing differs".into());
    }
    let drift = match found.drift.len() {
        0 => String::new(),
        n => format!("; the remote was changed by others ({}): see `hfbuild status`", count(n, "file")),
    };
    format!("hfbuild: `{target}`: {}, {} the same{drift}", parts.join(", "), found.same)
}

/// ` (waits for generator, samples)`
fn explain_pending(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" ({})", crate::ui::progress::fold(names)) }
}

fn as_json(found: &Difference) -> Json {
    let json_of = |v: &Option<Value>| v.as_ref().map(Value::to_json);
    let facts: Vec<Json> = found
        .facts
        .iter()
        .filter(|f| f.of != Whose::Family)
        .map(|f| json!({"name": f.name, "was": json_of(&f.was), "now": json_of(&f.now)}))
        .collect();
    json!({
        "files": found.files,
        "same": found.same,
        "facts": facts,
        "pending": found.pending,
        "drift": found.drift,
    })
}
