//! What a repository holds: its information, its tree page by page, its history.
//!
//! Knows the JSON of these answers. Page cursors name the commit, so that a listing stays of one piece while the branch
//! moves on.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use serde_json::{Map, Value, json};

use super::answer::{Outcome, Refused, json_answer, ok_json};
use super::card;
use super::git;
use super::routes::{Ask, Hub, form};
use super::store::{Commit, RefKind, StoredFile};
use crate::hub::protocol::{LfsRef, TreeEntry};
use crate::hub::repo::{RepoId, RepoKind};

const PAGE: usize = 1000;
const COMMITS: usize = 50;
/// How far back a listing looks for the last commit of each path.
const EXPAND: usize = 1000;

pub(super) fn repos(hub: &Hub, ask: &Ask, kind: RepoKind) -> Outcome {
    let fits = |repo: &RepoId| {
        ask.get("author").is_none_or(|author| repo.namespace() == author)
            && ask.get("search").is_none_or(|text| repo.name().contains(text))
    };
    let limit = ask.get("limit").and_then(|n| n.parse().ok()).unwrap_or(PAGE);
    let found = hub.repos(ask, kind).into_iter().filter(fits).take(limit);
    let list: Result<Vec<Value>, Refused> =
        found.map(|repo| Ok(repo_info(hub, &repo, &hub.at(&repo, "main")?, false)?.into())).collect();
    ok_json(&list?)
}

pub(super) fn info(hub: &Hub, ask: &Ask, repo: &RepoId, revision: &str) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let mut info = repo_info(hub, repo, &commit, ask.is_set("blobs"))?;
    let wanted: Vec<&str> = ask
        .query
        .iter()
        .filter(|(key, _)| key == "expand" || key == "expand[]")
        .flat_map(|(_, value)| value.split(','))
        .collect();
    if !wanted.is_empty() {
        info.retain(|key, _| matches!(key.as_str(), "_id" | "id") || wanted.contains(&key.as_str()));
    }
    ok_json(&info)
}

fn repo_info(hub: &Hub, repo: &RepoId, commit: &Commit, blobs: bool) -> Result<Map<String, Value>, Refused> {
    let record = hub.record(repo)?;
    let readme = commit.tree.get("README.md").filter(|file| !file.lfs && file.size < 10 << 20);
    let readme = readme.map(|file| hub.store.read_object(file)).transpose()?.unwrap_or_default();
    let card = card::front_matter(&String::from_utf8_lossy(&readme)).unwrap_or_default();
    let siblings: Vec<Value> = commit.tree.iter().map(|(path, file)| sibling(path, file, blobs)).collect();
    let mut tags: Vec<Value> = card.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    for (key, prefix) in [("library_name", ""), ("pipeline_tag", ""), ("license", "license:")] {
        if let Some(value) = card.get(key).and_then(Value::as_str) {
            tags.push(format!("{prefix}{value}").into());
        }
    }
    let used: u64 = commit.tree.values().map(|file| file.size).sum();
    let mut info = json!({
        "_id": git::blob_id(repo.web_path().as_bytes())[..24], "id": repo.name(), "author": repo.namespace(),
        "sha": commit.oid, "lastModified": commit.date, "createdAt": record.created, "private": record.private,
        "gated": false, "disabled": false, "downloads": 0, "likes": 0, "tags": tags, "siblings": siblings,
        "usedStorage": used, "cardData": card,
    });
    if repo.kind() == RepoKind::Model {
        info["modelId"] = repo.name().into();
        for key in ["library_name", "pipeline_tag"] {
            if let Some(value) = card.get(key) {
                info[key] = value.clone();
            }
        }
        if let Some(parameters) = commit.tree.get("model.safetensors").and_then(|file| parameters(hub, file)) {
            let total: u64 = parameters.values().sum();
            info["safetensors"] = json!({ "parameters": parameters, "total": total });
        }
    }
    if let (RepoKind::Space, Some(sdk)) = (repo.kind(), record.sdk) {
        info["sdk"] = sdk.into();
    }
    match info {
        Value::Object(info) => Ok(info),
        _ => Err(Refused::new(500, "the information is no object")),
    }
}

fn sibling(path: &str, file: &StoredFile, blobs: bool) -> Value {
    let mut value = json!({ "rfilename": path });
    if blobs {
        value["size"] = file.size.into();
        value["blobId"] = file.git_sha1.clone().into();
        if file.lfs {
            let pointer = git::lfs_pointer(&file.sha256, file.size).len();
            value["lfs"] = json!({ "sha256": file.sha256, "size": file.size, "pointerSize": pointer });
        }
    }
    value
}

/// Parameter counts by dtype, from the header of a safetensors file.
fn parameters(hub: &Hub, file: &StoredFile) -> Option<BTreeMap<String, u64>> {
    use std::io::Read;
    let mut content = hub.store.open_object(file).ok()?;
    let mut length = [0; 8];
    content.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > (16 << 20).min(file.size) {
        return None;
    }
    let mut header = Vec::new();
    content.take(length).read_to_end(&mut header).ok()?;
    let header: Map<String, Value> = serde_json::from_slice(&header).ok()?;
    let mut counts = BTreeMap::new();
    for (_, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let shape = tensor.get("shape")?.as_array()?;
        let count = shape.iter().try_fold(1u64, |product, n| product.checked_mul(n.as_u64()?))?;
        *counts.entry(tensor.get("dtype")?.as_str()?.to_owned()).or_default() += count;
    }
    Some(counts)
}

fn file_entry(path: &str, file: &StoredFile) -> TreeEntry {
    let lfs = file.lfs.then(|| LfsRef {
        oid: file.sha256.clone(),
        size: file.size,
        pointer_size: git::lfs_pointer(&file.sha256, file.size).len() as u64,
    });
    let oid = file.git_sha1.clone();
    TreeEntry { kind: "file".into(), oid, size: file.size, path: path.into(), lfs, xet_hash: None, last_commit: None }
}

fn folder_entry(path: &str, oid: &str) -> TreeEntry {
    let (kind, oid) = ("directory".to_owned(), oid.to_owned());
    TreeEntry { kind, oid, size: 0, path: path.to_owned(), lfs: None, xet_hash: None, last_commit: None }
}

/// Everything in `commit` by path, folders too.
fn entries(commit: &Commit) -> BTreeMap<String, TreeEntry> {
    let folders = git::folder_ids(&commit.tree).into_iter().filter(|(path, _)| !path.is_empty());
    let mut all: BTreeMap<_, _> = folders.map(|(path, oid)| (path.clone(), folder_entry(&path, &oid))).collect();
    all.extend(commit.tree.iter().map(|(path, file)| (path.clone(), file_entry(path, file))));
    all
}

pub(super) fn tree(hub: &Hub, ask: &Ask, repo: &RepoId, revision: &str, path: &str) -> Outcome {
    let cursor = ask.get("cursor").and_then(|cursor| cursor.split_once(':'));
    let (revision, start) = cursor.map_or((revision, 0), |(oid, start)| (oid, start.parse().unwrap_or(0)));
    let commit = hub.at(repo, revision)?;
    let prefix = if path.is_empty() { String::new() } else { format!("{}/", path.trim_end_matches('/')) };
    let all = entries(&commit);
    if !prefix.is_empty() && all.get(prefix.trim_end_matches('/')).is_none_or(|entry| entry.kind == "file") {
        return Err(Refused::no_entry(path));
    }
    let recursive = ask.is_set("recursive");
    let below = |path: &str| path.strip_prefix(prefix.as_str()).is_some_and(|rest| recursive || !rest.contains('/'));
    let limit = ask.get("limit").and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(PAGE).min(PAGE);
    let mut found: Vec<TreeEntry> = all.into_values().filter(|entry| below(&entry.path)).skip(start).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    if ask.is_set("expand") {
        expand(hub, repo, &commit, &mut found)?;
    }
    add_xet(hub, &mut found);
    let mut answer = json_answer(200, &found);
    if more {
        let next = format!("cursor={}%3A{}&limit={limit}&recursive={recursive}", commit.oid, start + limit);
        let expand = if ask.is_set("expand") { "&expand=true" } else { "" };
        set_next(&mut answer, &format!("{}{}?{next}{expand}", ask.base, ask.path));
    }
    Ok(answer)
}

fn set_next(answer: &mut super::answer::Answer, url: &str) {
    if let Ok(link) = HeaderValue::from_str(&format!("<{url}>; rel=\"next\"")) {
        answer.headers_mut().insert(header::LINK, link);
    }
}

/// Gives each entry the newest commit that changed it.
fn expand(hub: &Hub, repo: &RepoId, commit: &Commit, found: &mut [TreeEntry]) -> Result<(), Refused> {
    let history = hub.store.history(repo, &commit.oid, EXPAND)?;
    let ids: Vec<BTreeMap<String, String>> =
        history.iter().map(|commit| entries(commit).into_iter().map(|(path, e)| (path, e.oid)).collect()).collect();
    for entry in found {
        let same = ids.iter().take_while(|ids| ids.get(&entry.path) == Some(&entry.oid)).count();
        let last = &history[same.saturating_sub(1)];
        entry.last_commit = Some(json!({ "id": last.oid, "title": last.title, "date": last.date }));
    }
    Ok(())
}

/// Gives each entry in xet storage its hash there.
fn add_xet(hub: &Hub, found: &mut [TreeEntry]) {
    for entry in found {
        entry.xet_hash = entry.lfs.as_ref().and_then(|lfs| hub.xet_hash(&lfs.oid));
    }
}

pub(super) fn paths(hub: &Hub, ask: &Ask, repo: &RepoId, revision: &str, body: &Bytes) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let is_form = ask.headers.get(header::CONTENT_TYPE).is_some_and(|kind| !kind.as_bytes().ends_with(b"json"));
    let (wanted, expanded) = if is_form {
        let pairs = form(&String::from_utf8_lossy(body));
        let expanded = pairs.iter().any(|(key, value)| key == "expand" && matches!(value.as_str(), "true" | "True"));
        (pairs.into_iter().filter(|(key, _)| key == "paths").map(|(_, path)| path).collect(), expanded)
    } else {
        let wish: Value = super::api::parse(body)?;
        let paths = wish.get("paths").and_then(Value::as_array).cloned().unwrap_or_default();
        let paths: Vec<String> = paths.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        (paths, wish.get("expand").and_then(Value::as_bool).unwrap_or(false))
    };
    let mut all = entries(&commit);
    let mut found: Vec<TreeEntry> = wanted.iter().filter_map(|path| all.remove(path.trim_end_matches('/'))).collect();
    if expanded {
        expand(hub, repo, &commit, &mut found)?;
    }
    add_xet(hub, &mut found);
    ok_json(&found)
}

pub(super) fn commits(hub: &Hub, ask: &Ask, repo: &RepoId, revision: &str) -> Outcome {
    let head = hub.at(repo, revision)?;
    let page: usize = ask.get("p").and_then(|n| n.parse().ok()).unwrap_or(0);
    let limit = ask.get("limit").and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(COMMITS).min(1000);
    let start = page.saturating_mul(limit);
    let history = hub.store.history(repo, &head.oid, start.saturating_add(limit).saturating_add(1))?;
    let list: Vec<Value> = history.iter().skip(start).take(limit).map(commit_json).collect();
    let mut answer = json_answer(200, &list);
    if history.len() > start + limit {
        // The next page hangs on this head: it stays of one piece while the branch moves on.
        let path = ask.path.rsplit_once('/').map_or("", |(before, _)| before);
        set_next(&mut answer, &format!("{}{path}/{}?p={}&limit={limit}", ask.base, head.oid, page + 1));
    }
    Ok(answer)
}

fn commit_json(commit: &Commit) -> Value {
    json!({
        "id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date,
        "authors": [{ "user": commit.author }], "parents": commit.parents,
    })
}

/// The tags that point to `oid`.
pub(super) fn tags_of(hub: &Hub, repo: &RepoId, oid: &str) -> Vec<String> {
    let tags = hub.store.refs(repo, RefKind::Tag).into_iter();
    tags.filter(|(_, target)| target == oid).map(|(name, _)| name).collect()
}
