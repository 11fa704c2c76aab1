//! The commit: its body line by line, and the one moment in which the branch moves.
//!
//! Regular files are stored as their lines arrive, so that no more than one of them is in memory. The parent is compared
//! and the ref moved under the store's lock; whatever fails before leaves nothing but unnamed content.

use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use super::answer::{Outcome, Refused, json_answer};
use super::pulls;
use super::routes::{Ask, Hub};
use super::store::{Commit, RefKind, StoredFile, Tree, is_hex};
use crate::hub::protocol::{CommitAnswer, CommitCopy, CommitHeader, CommitLfsFile, CommitLine};
use crate::hub::repo::RepoId;

/// The longest line: a regular file of 64 MiB in base64.
const LINE: u64 = 88 << 20;

/// A line whose content is stored already.
enum Change {
    Put(String, StoredFile),
    Delete(String),
    DeleteFolder(String),
    Copy(CommitCopy),
}

pub(super) async fn receive(hub: Arc<Hub>, ask: Ask, repo: RepoId, revision: String, body: Body) -> Outcome {
    let propose = ask.is_set("create_pr");
    if propose && !hub.options.pull_requests {
        return Err(Refused::new(501, "this hub has no pull requests"));
    }
    hub.at(&repo, &revision)?;
    let mut lines = BufReader::new(StreamReader::new(body.into_data_stream().map_err(std::io::Error::other)));
    let (mut header, mut changes) = (None, Vec::new());
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE).read_until(b'\n', &mut line).await;
        match read.map_err(|_| Refused::bad("the body broke off"))? {
            0 => break,
            _ if line.len() as u64 >= LINE => return Err(Refused::new(413, "a file is too large for a commit's body")),
            _ if line.trim_ascii().is_empty() => continue,
            _ => {}
        }
        let line = serde_json::from_slice(&line).map_err(|e| Refused::bad(format!("a line cannot be read: {e}")))?;
        match line {
            CommitLine::Header(first) => header = Some(first),
            line => changes.push(change(&hub, line)?),
        }
    }
    let header = header.ok_or_else(|| Refused::bad("the header is missing"))?;
    let worker = hub.clone();
    let landed = tokio::task::spawn_blocking({
        let repo = repo.clone();
        move || land(&worker, &repo, &revision, &header, changes, propose)
    });
    let (commit, pull) = landed.await.map_err(|_| Refused::new(500, "the embedded hub failed"))??;
    if let Some(answer) = hub.fault("commit.after") {
        return Ok(answer);
    }
    let url = format!("{}/{}/commit/{}", ask.base, repo.web_path(), commit.oid);
    let pull = pull.map(|number| pulls::page(&ask, &repo, number));
    let said = CommitAnswer { commit_oid: commit.oid, commit_url: Some(url), pull_request_url: pull };
    Ok(json_answer(200, &said))
}

fn change(hub: &Hub, line: CommitLine) -> Result<Change, Refused> {
    Ok(match line {
        CommitLine::Header(_) => return Err(Refused::bad("a second header")),
        CommitLine::File(file) => {
            let path = checked(file.path)?;
            let content = match file.encoding.as_deref() {
                Some("base64") => {
                    STANDARD.decode(&file.content).map_err(|_| Refused::bad(format!("`{path}` is no base64")))?
                }
                _ => file.content.into_bytes(),
            };
            Change::Put(path, hub.store.put_regular(&content)?)
        }
        CommitLine::LfsFile(file) => lfs_file(hub, file)?,
        CommitLine::DeletedFile(file) => Change::Delete(file.path),
        CommitLine::DeletedFolder(folder) => Change::DeleteFolder(folder.path),
        CommitLine::CopyFile(copy) => Change::Copy(CommitCopy { path: checked(copy.path)?, ..copy }),
    })
}

fn lfs_file(hub: &Hub, file: CommitLfsFile) -> Result<Change, Refused> {
    let path = checked(file.path)?;
    let size = hub.store.object_size(&file.oid).filter(|_| is_hex(&file.oid, 64));
    match (size, file.size) {
        (None, _) => Err(Refused::bad(format!("the content of `{path}` was not uploaded"))),
        (Some(there), Some(said)) if there != said => {
            Err(Refused::bad(format!("`{path}` has {there} bytes, the commit says {said}")))
        }
        (Some(there), _) => Ok(Change::Put(path, StoredFile::lfs(&file.oid, there))),
    }
}

/// A path that is safe to check out anywhere.
fn checked(path: String) -> Result<String, Refused> {
    let bad = |part: &str| part.is_empty() || matches!(part, "." | ".." | ".git");
    if path.len() > 1024 || path.split('/').any(bad) || path.chars().any(|c| c.is_control() || c == '\\') {
        return Err(Refused::bad(format!("`{path}` is no path of a repository")));
    }
    Ok(path)
}

/// Makes the commit on a branch or on a pull request's ref, or as a new pull request (whose number is told); or finds that
/// the parent moved.
fn land(
    hub: &Hub,
    repo: &RepoId,
    revision: &str,
    header: &CommitHeader,
    changes: Vec<Change>,
    propose: bool,
) -> Result<(Commit, Option<u64>), Refused> {
    let _guard = hub.store.lock();
    let (kind, name) = match pulls::number_of(revision) {
        Some(number) => (RefKind::Pull, number.to_string()),
        None => (RefKind::Head, revision.strip_prefix("refs/heads/").unwrap_or(revision).to_owned()),
    };
    pulls::number_of(revision).map_or(Ok(()), |number| pulls::must_be_open(hub, repo, number))?;
    let head = hub.store.get_ref(repo, kind, &name);
    let head =
        head.ok_or_else(|| Refused::bad(format!("`{revision}` is no branch, nothing can be committed to it")))?;
    if let Some(parent) = header.parent_commit.as_deref().filter(|parent| *parent != head) {
        let message = format!("the branch has moved: its head is {head}, the commit was made from {parent}");
        return Err(Refused::new(412, message));
    }
    let parent = hub.store.commit(repo, &head)?.ok_or_else(|| Refused::no_revision(revision))?;
    let tree = apply(hub, repo, parent.tree, changes)?;
    let commit = Commit::new(vec![head], &header.summary, &header.description, tree);
    hub.store.put_commit(repo, &commit)?;
    if propose {
        let number = pulls::open(hub, repo, &name, &commit, "open")?;
        return Ok((commit, Some(number)));
    }
    hub.store.set_ref(repo, kind, &name, &commit.oid)?;
    Ok((commit, None))
}

fn apply(hub: &Hub, repo: &RepoId, before: Tree, changes: Vec<Change>) -> Result<Tree, Refused> {
    let mut tree = before.clone();
    for change in changes {
        match change {
            Change::Put(path, file) => drop(tree.insert(path, file)),
            Change::Delete(path) => {
                tree.remove(&path).ok_or_else(|| Refused::no_entry(&path))?;
            }
            Change::DeleteFolder(path) => {
                let prefix = format!("{}/", path.trim_end_matches('/'));
                tree.retain(|path, _| !path.starts_with(&prefix));
            }
            Change::Copy(copy) => {
                let from = match &copy.src_revision {
                    Some(revision) => hub.at(repo, revision)?.tree.remove(&copy.src_path),
                    None => before.get(&copy.src_path).cloned(),
                };
                tree.insert(copy.path, from.ok_or_else(|| Refused::no_entry(&copy.src_path))?);
            }
        }
    }
    // A file where a folder is would make a tree that nothing can check out.
    let clash = tree.keys().find(|path| {
        let prefix = format!("{path}/");
        tree.range(prefix.clone()..).next().is_some_and(|(next, _)| next.starts_with(&prefix))
    });
    match clash {
        Some(path) => Err(Refused::bad(format!("`{path}` would be a file and a folder"))),
        None => Ok(tree),
    }
}
