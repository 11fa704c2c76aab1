//! Pull requests of the embedded hub: `refs/pr/N`, the discussions that Python's client reads, close and merge.
//!
//! | request below `api/<kind>s/<ns>/<name>/discussions` | does |
//! |---|---|
//! | GET `?p=0&type=pull_request&status=open` | lists, newest first, all on one page |
//! | GET `/N` | one, with its commits as events |
//! | POST | opens a pull request without a change (`pullRequest: true`) |
//! | POST `/N/status` `{status}`, `/N/merge` | closes, opens again, merges |
//!
//! A merge takes what the pull request changed since it left its branch; a file that the branch changed meanwhile, too, is
//! a conflict (409). There are no comments, and no discussions but pull requests. `lock` is held wherever a number is given
//! or a ref moves.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Outcome, Refused, ok_json};
use super::api::parse;
use super::routes::{Ask, Hub};
use super::store::{AUTHOR, Commit, RefKind, StoredFile};
use crate::hub::repo::RepoId;

/// The folder of the records below a repository's.
const FOLDER: &str = "discussions";
/// How far back histories are compared.
const HISTORY: usize = 10_000;

/// What is known of a pull request beside its ref.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pull {
    title: String,
    /// `draft`, `open`, `closed`, `merged`.
    status: String,
    /// The branch that it is for.
    base: String,
    /// RFC 3339.
    created: String,
    #[serde(default)]
    merge_commit: Option<String>,
}

impl Pull {
    fn is_open(&self) -> bool {
        matches!(self.status.as_str(), "open" | "draft")
    }
}

/// The number in `refs/pr/N`.
pub(super) fn number_of(revision: &str) -> Option<u64> {
    revision.strip_prefix("refs/pr/")?.parse().ok()
}

/// Opens a pull request at `commit`, which is written already. `lock` is held.
pub(super) fn open(hub: &Hub, repo: &RepoId, base: &str, commit: &Commit, status: &str) -> Result<u64, Refused> {
    let number = pulls(hub, repo)?.keys().next_back().map_or(1, |last| last + 1);
    let pull = Pull {
        title: commit.title.clone(),
        status: status.to_owned(),
        base: base.to_owned(),
        created: commit.date.clone(),
        merge_commit: None,
    };
    hub.store.set_ref(repo, RefKind::Pull, &number.to_string(), &commit.oid)?;
    hub.store.set_numbered(repo, FOLDER, number, &pull)?;
    Ok(number)
}

/// Refuses a commit to a pull request that is closed or merged.
pub(super) fn must_be_open(hub: &Hub, repo: &RepoId, number: u64) -> Result<(), Refused> {
    match one(hub, repo, number)?.is_open() {
        true => Ok(()),
        false => Err(Refused::new(403, format!("pull request #{number} is closed"))),
    }
}

/// The page of a pull request.
pub(super) fn page(ask: &Ask, repo: &RepoId, number: u64) -> String {
    format!("{}/{}/discussions/{number}", ask.base, repo.web_path())
}

fn pulls(hub: &Hub, repo: &RepoId) -> Result<BTreeMap<u64, Pull>, Refused> {
    hub.record(repo)?;
    Ok(hub.store.numbered(repo, FOLDER)?)
}

fn one(hub: &Hub, repo: &RepoId, number: u64) -> Result<Pull, Refused> {
    pulls(hub, repo)?.remove(&number).ok_or_else(|| Refused::new(404, format!("there is no discussion #{number}")))
}

/// The references for `refs?include_prs=1`.
pub(super) fn refs(hub: &Hub, repo: &RepoId) -> Vec<Value> {
    let refs = hub.store.refs(repo, RefKind::Pull).into_iter();
    refs.map(|(number, oid)| {
        let name = format!("refs/pr/{number}");
        json!({"name": name, "ref": name, "targetCommit": oid})
    })
    .collect()
}

/// Answers below `discussions`.
pub(super) fn answer(hub: &Hub, ask: &Ask, repo: &RepoId, rest: &[String], body: &Bytes) -> Outcome {
    let post = ask.method == axum::http::Method::POST;
    let parts: Vec<&str> = rest.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| Refused::no_route());
    match parts.as_slice() {
        [] if post => create(hub, ask, repo, body),
        [] => list(hub, ask, repo),
        [n] if !post => details(hub, repo, number(n)?),
        [n, "status"] if post => set_status(hub, repo, number(n)?, body),
        [n, "merge"] if post => merge(hub, repo, number(n)?),
        _ => Err(Refused::no_route()),
    }
}

fn summary(repo: &RepoId, number: u64, pull: &Pull) -> Value {
    json!({
        "num": number, "title": pull.title, "status": pull.status, "isPullRequest": true, "createdAt": pull.created,
        "author": {"name": AUTHOR}, "repo": {"name": repo.name(), "type": repo.kind().word()},
    })
}

/// Pull requests of one page of a listing.
const PAGE: usize = 50;

fn list(hub: &Hub, ask: &Ask, repo: &RepoId) -> Outcome {
    let all = pulls(hub, repo)?;
    let sort = ask.get("type").is_none_or(|t| matches!(t, "all" | "pull_request"));
    let author = ask.get("author").is_none_or(|name| name == AUTHOR);
    let status = |pull: &Pull| match ask.get("status") {
        Some("open") => pull.is_open(),
        Some("closed") => !pull.is_open(),
        _ => true,
    };
    let start = ask.get("p").and_then(|page| page.parse::<usize>().ok()).unwrap_or(0).saturating_mul(PAGE);
    let kept: Vec<_> = all.iter().rev().filter(|(_, pull)| sort && author && status(pull)).collect();
    let here = kept.iter().skip(start).take(PAGE);
    let found: Vec<Value> = here.map(|(number, pull)| summary(repo, **number, pull)).collect();
    ok_json(&json!({"count": kept.len(), "start": start, "numClosedDiscussions": 0, "discussions": found}))
}

fn details(hub: &Hub, repo: &RepoId, number: u64) -> Outcome {
    let pull = one(hub, repo, number)?;
    let (_, own) = since_branch(hub, repo, number, &pull.base)?;
    let event = |commit: &Commit| {
        json!({
            "id": commit.oid, "type": "commit", "createdAt": commit.date, "author": {"name": AUTHOR},
            "data": {"subject": commit.title, "oid": commit.oid},
        })
    };
    let mut said = summary(repo, number, &pull);
    said["events"] = own.iter().rev().map(event).collect::<Vec<_>>().into();
    said["changes"] = json!({"base": format!("refs/heads/{}", pull.base), "mergeCommitId": pull.merge_commit});
    said["filesWithConflicts"] = conflicts(hub, repo, number, &pull)?.0.into();
    ok_json(&said)
}

fn create(hub: &Hub, ask: &Ask, repo: &RepoId, body: &Bytes) -> Outcome {
    let wish: Value = parse(body)?;
    if wish.get("pullRequest").and_then(Value::as_bool) != Some(true) {
        return Err(Refused::new(501, "the embedded hub has pull requests, and no other discussions"));
    }
    let mut commit = hub.at(repo, "main")?;
    commit.title = wish.get("title").and_then(Value::as_str).unwrap_or("pull request").to_owned();
    let _guard = hub.store.lock();
    let number = open(hub, repo, "main", &commit, "draft")?;
    ok_json(&json!({"num": number, "url": page(ask, repo, number), "pullRequest": true}))
}

fn set_status(hub: &Hub, repo: &RepoId, number: u64, body: &Bytes) -> Outcome {
    let wish: Value = parse(body)?;
    let _guard = hub.store.lock();
    let pull = one(hub, repo, number)?;
    let status = wish.get("status").and_then(Value::as_str).filter(|s| matches!(*s, "open" | "closed"));
    let status = status.ok_or_else(|| Refused::bad("`status` is `open` or `closed`"))?.to_owned();
    if pull.status == "merged" {
        return Err(Refused::bad("it is merged already"));
    }
    let data = json!({"id": format!("{number}-{status}"), "type": "status-change", "createdAt": pull.created,
        "author": {"name": AUTHOR}, "data": {"status": status}});
    hub.store.set_numbered(repo, FOLDER, number, &Pull { status, ..pull })?;
    ok_json(&json!({ "newStatus": data }))
}

/// The commit at which a pull request left its branch, and its own commits since, newest first.
fn since_branch(hub: &Hub, repo: &RepoId, number: u64, base: &str) -> Result<(Option<Commit>, Vec<Commit>), Refused> {
    let head = hub.store.get_ref(repo, RefKind::Pull, &number.to_string());
    let mut own = hub.store.history(repo, &head.unwrap_or_default(), HISTORY)?;
    let branch = hub.store.get_ref(repo, RefKind::Head, base).unwrap_or_default();
    let branch = hub.store.history(repo, &branch, HISTORY)?;
    let known: BTreeSet<&str> = branch.iter().map(|commit| commit.oid.as_str()).collect();
    let left = own.iter().position(|commit| known.contains(commit.oid.as_str())).unwrap_or(own.len());
    let start = own.get(left).cloned();
    own.truncate(left);
    Ok((start, own))
}

/// By path; nothing: the file is deleted.
type Changed = BTreeMap<String, Option<StoredFile>>;

fn changed(from: &Commit, to: &Commit) -> Changed {
    let paths: BTreeSet<&String> = from.tree.keys().chain(to.tree.keys()).collect();
    let differs = paths.into_iter().filter(|path| from.tree.get(*path) != to.tree.get(*path));
    differs.map(|path| (path.clone(), to.tree.get(path).cloned())).collect()
}

/// The files that both sides changed, differently; and what the pull request changed.
fn conflicts(hub: &Hub, repo: &RepoId, number: u64, pull: &Pull) -> Result<(Vec<String>, Changed), Refused> {
    let (start, own) = since_branch(hub, repo, number, &pull.base)?;
    let (Some(start), Some(head)) = (start, own.first()) else { return Ok((vec![], Changed::new())) };
    let theirs = changed(&start, &hub.at(repo, &pull.base)?);
    let ours = changed(&start, head);
    let both = ours.iter().filter(|(path, file)| theirs.get(*path).is_some_and(|other| other != *file));
    Ok((both.map(|(path, _)| path.clone()).collect(), ours))
}

fn merge(hub: &Hub, repo: &RepoId, number: u64) -> Outcome {
    let _guard = hub.store.lock();
    let pull = one(hub, repo, number)?;
    if !pull.is_open() {
        return Err(Refused::bad(format!("it is {} already", pull.status)));
    }
    let (clash, ours) = conflicts(hub, repo, number, &pull)?;
    if !clash.is_empty() {
        return Err(Refused::new(409, format!("both changed `{}`", clash.join("`, `"))));
    }
    let branch = hub.at(repo, &pull.base)?;
    let head = hub.store.get_ref(repo, RefKind::Pull, &number.to_string()).unwrap_or_default();
    let mut tree = branch.tree;
    for (path, file) in ours {
        match file {
            Some(file) => drop(tree.insert(path, file)),
            None => drop(tree.remove(&path)),
        }
    }
    let commit = Commit::new(vec![branch.oid, head], &format!("{} (#{number})", pull.title), "", tree);
    hub.store.put_commit(repo, &commit)?;
    hub.store.set_ref(repo, RefKind::Head, &pull.base, &commit.oid)?;
    let merge_commit = Some(commit.oid.clone());
    hub.store.set_numbered(repo, FOLDER, number, &Pull { status: "merged".into(), merge_commit, ..pull })?;
    ok_json(&json!({ "status": "merged", "mergeCommitId": commit.oid }))
}
