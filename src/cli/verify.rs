//! `verify`: whether the remote is what was published, by digest, and whether its page says so.
//!
//! Asks the engine and prints what it found; decides nothing but the exit code.

use super::past::{self, Opened};
use super::{Failure, Global};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::graph::{NodeId, Work};
use crate::core::past::Comparison;
use crate::core::publish::Target;
use crate::core::value::human_bytes;
use crate::exec::baseline::{self, Seen, Source};
use crate::exec::verify::{self, Claim, Downloaded};
use crate::ui::{count, short, table};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};
use std::io::IsTerminal;

/// What was found of one repo.
struct Found {
    seen: Seen,
    comparison: Comparison,
    claims: Vec<Claim>,
    /// What downloading all of it found, where that was asked for.
    read: Option<Downloaded>,
}

/// `hfbuild verify`
pub fn verify(global: &Global, full: bool, json: bool) -> Result<(), Failure> {
    let mut opened = past::open(global)?;
    let uploads = opened.uploads.clone();
    let mut errors = Vec::new();
    let mut told = Vec::new();
    for (id, target) in &uploads {
        match past::block_on(look(global, &mut opened, *id, target, full)) {
            Ok(found) => {
                match json {
                    true => told.push(past::repo_json(&opened, *id, target, as_json(target, &found))),
                    false => past::print(&table::render(&rows(global, target, &found))),
                }
                let verdict = found.errors(target);
                if verdict.is_empty() {
                    past::talk(global, &summary(target, &found));
                }
                errors.extend(verdict);
            }
            Err(error) => {
                let failed = json!({"holds": false, "error": error.message()});
                told.push(past::repo_json(&opened, *id, target, failed));
                errors.push(error);
            }
        }
    }
    if json {
        past::print_json(&json!({"schema": 1, "holds": errors.is_empty(), "repos": told}));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Many(errors)) }
}

async fn look(global: &Global, opened: &mut Opened, id: NodeId, target: &Target, full: bool) -> Result<Found> {
    let (remotes, remote) = opened.reading(id).await?;
    let blobs = opened.store.blobs();
    let seen = baseline::look(&remote, &opened.loaded.publishes, &blobs).await?;
    let mut comparison = seen.comparison().ok_or_else(|| {
        let what =
            if seen.head.is_some() { "nothing that hfbuild published is in" } else { "there is no repo or branch" };
        Error::hub(format!("{what} `{target}`"))
            .hint("a publish leaves `provenance.json` there, and a receipt in this cache; neither was found")
    })?;
    let mut read = None;
    if let (true, Some(head), Some(baseline)) = (full, &seen.head, &seen.baseline) {
        let bar = bar(global);
        let progress = |done: u64, total: u64| {
            if let Some(bar) = &bar {
                bar.set_message(format!("read {} of {}", human_bytes(done), human_bytes(total)));
            }
        };
        let got = verify::download_all(&remote, &head.sha, baseline, &mut comparison, &progress).await;
        bar.iter().for_each(ProgressBar::finish_and_clear);
        read = Some(got);
    }
    let receipt = opened.loaded.publishes.last(target);
    let claims = match &opened.project.graph.node(id).work {
        Work::Upload(upload) => verify::page(&opened.project, upload, &remote, &seen, receipt, &blobs).await?,
        _ => vec![],
    };
    remotes.close().await;
    Ok(Found { seen, comparison, claims, read })
}

/// A line that says how far it is, on a terminal.
fn bar(global: &Global) -> Option<ProgressBar> {
    (std::io::stderr().is_terminal() && !global.quiet).then(|| {
        let style = ProgressStyle::with_template("          {spinner} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    })
}

impl Found {
    /// Of how many and which files it is said by the download alone.
    fn damaged(&self) -> &[String] {
        self.read.as_ref().map_or(&[], |read| &read.damaged)
    }

    fn unread(&self) -> &[(String, Error)] {
        self.read.as_ref().map_or(&[], |read| &read.unread)
    }

    fn errors(&self, target: &Target) -> Vec<Error> {
        self.difference(target).into_iter().chain(self.unknown(target)).collect()
    }

    /// What could not be read: it may be as it was published, or not.
    fn unknown(&self, target: &Target) -> Option<Error> {
        let unread = self.unread();
        if unread.is_empty() {
            return None;
        }
        let text = format!("of `{target}`, {} could not be read", count(unread.len(), "file"));
        let error = Error::hub(text).hint("run it again; the files above were read, and are told as they are");
        let told = unread.iter().take(10).map(|(path, error)| {
            let causes: String = error.causes().iter().map(|cause| format!(": {cause}")).collect();
            format!("`{}`: {}{causes}", past::plain(path), error.message())
        });
        Some(told.fold(error, Error::cause))
    }

    /// What is not as it was published.
    fn difference(&self, target: &Target) -> Option<Error> {
        let mut causes: Vec<String> = self.comparison.drifted.iter().map(past::drifted).map(told).collect();
        causes.extend(self.damaged().iter().map(|path| told((path, "damaged"))));
        let broken = self.claims.iter().filter(|claim| !claim.holds);
        causes.extend(broken.map(|claim| format!("the page's `{}` {}", claim.name, differs(claim))));
        if causes.is_empty() {
            return None;
        }
        let n = causes.len();
        let text =
            format!("`{target}` is not what was published: {} differ{}", things(n), if n == 1 { "s" } else { "" });
        let error = causes.into_iter().take(10).fold(Error::new(ErrorKind::Drift, text), Error::cause);
        // no commit did that, and none undoes it
        Some(error.hint(match self.damaged().len() == n {
            true => DAMAGED,
            false => "`hfbuild status` says which commits did it; `hfbuild diff` what a publish would change",
        }))
    }
}

/// What is to be said of files whose listing is right and whose bytes are not.
const DAMAGED: &str = "the hub lists the right digest and hands out other bytes, or none: the object is damaged there, or on \
    the way. A publish does not mend that, because a hub takes no object that it has; how it is sent anew, the README says \
    (`A damaged object`)";

fn things(n: usize) -> String {
    count(n, "thing")
}

fn told((path, word): (&str, &str)) -> String {
    format!("`{}` ({word} there)", past::plain(path))
}

fn differs(claim: &Claim) -> String {
    let page = claim.page.as_deref().map_or("nothing".to_string(), |page| format!("`{}`", past::plain(page)));
    match claim.name {
        "tags" => format!("lack {page}"),
        _ => format!("is {page}, published was `{}`", past::plain(&claim.published)),
    }
}

/// What it was held against, in words.
fn whose(seen: &Seen) -> &'static str {
    match seen.baseline.as_ref().map(|b| b.source) {
        Some(Source::Receipt) => "this cache's receipt",
        Some(Source::Record) => "the repo's record at that commit",
        Some(Source::RecordAlone) => "the repo's record, which no commit names",
        None => "nothing",
    }
}

fn rows(global: &Global, target: &Target, found: &Found) -> Vec<(String, Json)> {
    let row = |name: &str, text: String| (name.to_string(), Json::from(text));
    let at =
        |commit: &Option<String>| commit.as_deref().map_or("an unknown commit".to_string(), |c| short(c).to_string());
    let published = found.seen.baseline.as_ref().map(|b| at(&b.commit)).unwrap_or_default();
    let head = found.seen.head.as_ref().map_or("gone".to_string(), |h| short(&h.sha).to_string());
    let mut out = vec![
        row("repo", target.to_string()),
        row("published", format!("at {published}, by {}", whose(&found.seen))),
        row("head", head),
        row("files", format!("{} as published, {}", found.comparison.same, human_bytes(found.comparison.bytes))),
    ];
    if let Some(Downloaded { files, bytes, .. }) = found.read {
        out.push(row("content", format!("{} downloaded and hashed, {}", count(files, "file"), human_bytes(bytes))));
    }
    for claim in &found.claims {
        let text = match (claim.holds, &claim.page) {
            (true, Some(_)) => claim.published.clone(),
            (true, None) => format!("{} (this hub does not say)", claim.published),
            (false, _) => differs(claim),
        };
        out.push(row(claim.name, text));
    }
    let most = if global.verbose { usize::MAX } else { past::TOLD };
    let drifted = found.comparison.drifted.iter().map(past::drifted);
    let others = found.comparison.others.iter().map(|path| (path.as_str(), "not of ours"));
    let damaged = found.damaged().iter().map(|path| (path.as_str(), "damaged"));
    let unread = found.unread().iter().map(|(path, _)| (path.as_str(), "not read"));
    let lines: Vec<_> = drifted.chain(damaged).chain(unread).chain(others).collect();
    out.extend(lines.iter().take(most).map(|(path, word)| row(word, past::plain(path))));
    if lines.len() > most {
        out.push(row("", format!("and {} more (-v shows all)", lines.len() - most)));
    }
    out
}

fn summary(target: &Target, found: &Found) -> String {
    let how = if found.read.is_some() { "downloaded and hashed" } else { "by the digests that the Hub lists" };
    let head = found.seen.head.as_ref().map_or("", |head| short(&head.sha));
    format!("hfbuild: `{target}` at {head} is what was published ({how})")
}

fn as_json(target: &Target, found: &Found) -> Json {
    let paths = |word: &str| -> Vec<&str> {
        let all = found.comparison.drifted.iter().map(past::drifted);
        all.filter(|(_, w)| *w == word).map(|(path, _)| path).collect()
    };
    let baseline = found.seen.baseline.as_ref();
    json!({
        "holds": found.errors(target).is_empty(),
        "head": found.seen.head.as_ref().map(|head| &head.sha),
        "published": baseline.map(|b| json!({"commit": b.commit, "source": b.source})),
        "files": {
            "same": found.comparison.same,
            "bytes": found.comparison.bytes,
            "changed": paths("changed"),
            "deleted": paths("deleted"),
            "damaged": found.damaged(),
            "unread": found.unread().iter().map(|(path, e)| json!({"path": path, "error": e.message()})).collect::<Vec<_>>(),
            "others": found.comparison.others,
        },
        "downloaded": found.read.as_ref().map(|read| json!({"files": read.files, "bytes": read.bytes})),
        "page": found.claims,
    })
}
