//! `gc`, `store verify`: looking after the cache.
//!
//! Reads sizes, takes the lock, says what was done. What goes and what stays is decided in `store`.

use super::{Failure, Global};
use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::manifest::overlay::Settings;
use crate::core::value::human_bytes;
use crate::core::{plan, size};
use crate::exec::observe;
use crate::exec::project::Project;
use crate::store::Store;
use crate::store::gc::{self, Swept};
use crate::store::lock::{self, Lock};
use crate::store::memo::Memo;
use crate::store::records;
use crate::store::verify::{self, Damaged, Found};
use crate::ui;
use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody to tell when the terminal is gone
}

/// The project's store with its lock; `None`, said so: there is none.
fn locked(project: &Path) -> Result<Option<(Store, Lock)>> {
    if !Store::at(project).exists() {
        tell("hfbuild: there is no cache here");
        return Ok(None);
    }
    let store = Store::at(project);
    if store.is_foreign() {
        tell("hfbuild: the cache is of another version: the next build sets it aside, `hfbuild clean` removes it");
        return Ok(None);
    }
    let lock = lock::acquire(&store.lock_path(), true, &|text| tell(text))?;
    Ok(Some((store, lock)))
}

/// `hfbuild gc --max-size SIZE`
pub fn gc(global: &Global, max_size: &str, dry_run: bool) -> Result<(), Failure> {
    let max = size(max_size)?;
    let project = Project::open(&global.project, &global.settings())?;
    let Some((store, _lock)) = locked(&project.root)? else { return Ok(()) };
    if !dry_run {
        store.clear_tmp()?;
    }
    let graph = &project.graph;
    let (made, to_be_made) = stood_for(global, &project, &store)?;
    let mut swept = gc::sweep(&store, graph.ids().map(|id| &graph.node(id).name), &made, max, dry_run)?;
    gc::sweep_parts(&store, &to_be_made, dry_run, &mut swept)?;
    tell(swept_line(&swept, max, dry_run));
    Ok(())
}

/// The actions of all receipts that a build would find now, and those that it would run: with this command line, and with
/// the manifest's own settings and each of its profiles.
fn stood_for(global: &Global, project: &Project, store: &Store) -> Result<(HashSet<Digest>, HashSet<Digest>)> {
    let loaded = records::load(store)?;
    let mut memo = Memo::load(&store.memo_log())?;
    let profiles = project.manifest.profiles.iter().map(|name| Settings { profile: Some(name.clone()), set: vec![] });
    let (mut made, mut to_be_made) = (HashSet::new(), HashSet::new());
    for settings in [global.settings(), Settings::default()].into_iter().chain(profiles) {
        // where a file is missing, nothing can be built with these settings, and nothing is stood for
        let Ok(project) = Project::open(&global.project, &settings) else { continue };
        let wanted = vec![true; project.graph.nodes.len()];
        let Ok(world) = observe::observe(&project, &wanted, &loaded.history, &mut memo) else { continue };
        let plan = plan::plan(&project.graph, &wanted, &BTreeSet::new(), &loaded.history, &world);
        let decisions = || plan.decisions.iter().flatten();
        made.extend(decisions().filter_map(|d| d.receipt.as_ref()).map(|r| r.action_digest));
        let actions = decisions().filter(|d| d.receipt.is_none()).filter_map(|d| d.action.as_ref());
        to_be_made.extend(actions.map(|(digest, _)| *digest));
    }
    Ok((made, to_be_made))
}

fn swept_line(swept: &Swept, max: u64, dry_run: bool) -> String {
    let (removed, gone) = (ui::count(swept.removed, "blob"), human_bytes(swept.removed_bytes));
    let (kept, stay) = (swept.kept, human_bytes(swept.kept_bytes));
    let mut line = match dry_run {
        true => format!("hfbuild: would remove {removed} ({gone}) and keep {kept} ({stay})"),
        false => format!("hfbuild: removed {removed} ({gone}), kept {kept} ({stay})"),
    };
    if swept.parts > 0 {
        let (parts, bytes) = (ui::count(swept.parts, "partial result"), human_bytes(swept.parts_bytes));
        line.push_str(&format!("; {}{parts} ({bytes})", if dry_run { "would remove " } else { "removed " }));
    }
    if swept.needed_bytes > max {
        let whose = if swept.for_publishes { " and the last publishes" } else { "" };
        let needed = human_bytes(swept.needed_bytes);
        line.push_str(&format!("; {needed} are needed by the current manifest{whose}, more than {}", human_bytes(max)));
    }
    line
}

fn size(text: &str) -> Result<u64> {
    size::parse(text.trim()).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("`--max-size` is a number and a unit, not `{}`", text.escape_debug()))
            .hint("for example `20GB`, `1.5TB`, `512MiB`")
    })
}

/// `hfbuild store verify`
pub fn verify(global: &Global) -> Result<(), Failure> {
    let project = global
        .project
        .canonicalize()
        .map_err(|e| Error::io("open", &global.project, &e).with_kind(ErrorKind::Usage))?;
    let Some((store, _lock)) = locked(&project)? else { return Ok(()) };
    let found = verify::verify(&store)?;
    super::out::print(&found_lines(&found).iter().map(|line| format!("{line}\n")).collect::<String>());
    tell(found_line(&found));
    match found.is_well() {
        true => Ok(()),
        false => Err(Failure::Many(vec![Error::new(ErrorKind::Io, "")])), // said above; this carries the exit code
    }
}

fn found_lines(found: &Found) -> Vec<String> {
    let mut lines = Vec::new();
    for Damaged { digest, of } in &found.damaged {
        let digest = digest.short();
        match of.is_empty() {
            true => lines.push(format!("a blob that nothing names is damaged ({digest})")),
            false => lines.extend(of.iter().map(|output| format!("{output} is damaged ({digest})"))),
        }
    }
    for (node, n) in &found.missing {
        let are = if *n == 1 { "is" } else { "are" };
        lines.push(format!("{node}: {} {are} missing", ui::count(*n, "blob")));
    }
    if found.lines > 0 {
        lines.push(format!("{} of the logs left out as damaged", ui::count(found.lines, "line")));
    }
    lines
}

fn found_line(found: &Found) -> String {
    let mut line = format!("hfbuild: {} ({}) verified", ui::count(found.blobs, "blob"), human_bytes(found.bytes));
    let missing: usize = found.missing.values().sum();
    for (n, what) in [(found.damaged.len(), "damaged"), (missing, "missing")] {
        line.push_str(&format!(", {n} {what}"));
    }
    if found.lines > 0 {
        line.push_str(&format!(", {} damaged", ui::count(found.lines, "record")));
    }
    line
}
