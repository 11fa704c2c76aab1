//! The administration: accounts, repositories, refs, preupload, the check of front matter.
//!
//! Knows the JSON of these requests. Listings are in [`super::listing`].

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::{Outcome, Refused, ok_json};
use super::attributes::{LfsRules, default_attributes};
use super::card;
use super::routes::{Ask, Hub};
use super::store::{AUTHOR, Commit, RefKind, RepoRecord, Tree};
use crate::hub::protocol::{PreuploadAnswer, PreuploadRequest, PreuploadVerdict, ValidateYaml, YamlAnswer, YamlRemark};
use crate::hub::repo::{RepoId, RepoKind};

pub(super) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused::bad(format!("the body cannot be read: {e}")))
}

impl Hub {
    pub fn record(&self, repo: &RepoId) -> Result<RepoRecord, Refused> {
        self.store.repo(repo)?.ok_or_else(Refused::no_repo)
    }

    /// The commit that `revision` names, of a repository that exists.
    pub fn at(&self, repo: &RepoId, revision: &str) -> Result<Commit, Refused> {
        self.record(repo)?;
        self.store.resolve(repo, revision)?.ok_or_else(|| Refused::no_revision(revision))
    }
}

pub(super) fn whoami() -> Outcome {
    ok_json(&json!({
        "type": "user", "id": AUTHOR, "name": AUTHOR, "fullname": "embedded hub", "email": null,
        "emailVerified": true, "canPay": false, "isPro": false, "orgs": [],
        "auth": {"type": "access_token", "accessToken": {"displayName": AUTHOR, "role": "write"}},
    }))
}

/// The body of `repos/create` and `repos/delete`.
#[derive(Deserialize)]
struct Named {
    name: String,
    organization: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    private: Option<bool>,
    visibility: Option<String>,
    sdk: Option<String>,
}

impl Named {
    fn repo(&self) -> Result<RepoId, Refused> {
        let kind = self.kind.as_deref().unwrap_or("model");
        let kind = RepoKind::from_word(kind).ok_or_else(|| Refused::bad(format!("`{kind}` is no type")))?;
        let name = match &self.organization {
            Some(organization) => format!("{organization}/{}", self.name),
            None if self.name.contains('/') => self.name.clone(),
            None => format!("{AUTHOR}/{}", self.name),
        };
        let repo = RepoId::new(kind, &name).map_err(|e| Refused::bad(e.to_string()))?;
        // These would lie where other pages are.
        if matches!(repo.namespace(), "api" | "datasets" | "spaces") {
            return Err(Refused::bad(format!("`{}` is no namespace", repo.namespace())));
        }
        Ok(repo)
    }
}

pub(super) fn create(hub: &Hub, ask: &Ask, body: &Bytes) -> Outcome {
    let named: Named = parse(body)?;
    let repo = named.repo()?;
    let url = format!("{}/{}", ask.base, repo.web_path());
    if hub.store.repo(&repo)?.is_some() {
        let error = format!("You already created this {} repo", repo.kind().word());
        return Ok(super::answer::json_answer(409, &json!({ "error": error, "url": url })));
    }
    let private = named.private.unwrap_or(false) || named.visibility.as_deref().is_some_and(|v| v != "public");
    let attributes = hub.store.put_regular(default_attributes(repo.kind()).as_bytes())?;
    let tree = Tree::from([(".gitattributes".to_owned(), attributes)]);
    hub.store.create(&repo, private, named.sdk, tree)?;
    ok_json(&json!({ "url": url, "name": repo.name(), "id": repo.name() }))
}

pub(super) fn delete(hub: &Hub, body: &Bytes) -> Outcome {
    let repo = parse::<Named>(body)?.repo()?;
    hub.record(&repo)?;
    hub.store.delete(&repo)?;
    ok_json(&json!({}))
}

pub(super) fn settings(hub: &Hub, repo: &RepoId, body: &Bytes) -> Outcome {
    let mut record = hub.record(repo)?;
    let wish: Value = parse(body)?;
    if let Some(private) = wish.get("private").and_then(Value::as_bool) {
        record.private = private;
    }
    if let Some(visibility) = wish.get("visibility").and_then(Value::as_str) {
        record.private = visibility != "public";
    }
    hub.store.set_record(repo, &record)?;
    ok_json(&json!({ "private": record.private }))
}

pub(super) fn access(hub: &Hub, repo: &RepoId) -> Outcome {
    hub.record(repo)?;
    ok_json(&json!({}))
}

pub(super) fn refs(hub: &Hub, ask: &Ask, repo: &RepoId) -> Outcome {
    hub.record(repo)?;
    let list = |kind, prefix: &str| -> Vec<Value> {
        let refs = hub.store.refs(repo, kind).into_iter();
        refs.map(|(name, oid)| json!({"name": name, "ref": format!("{prefix}{name}"), "targetCommit": oid})).collect()
    };
    ok_json(&json!({
        "branches": list(RefKind::Head, "refs/heads/"), "tags": list(RefKind::Tag, "refs/tags/"),
        "converts": [],
        "pullRequests": if ask.is_set("include_prs") { super::pulls::refs(hub, repo) } else { vec![] },
    }))
}

pub(super) fn create_tag(hub: &Hub, repo: &RepoId, revision: &str, body: &Bytes) -> Outcome {
    #[derive(Deserialize)]
    struct Wish {
        tag: String,
    }
    let tag = parse::<Wish>(body)?.tag;
    let commit = hub.at(repo, revision)?;
    set_new_ref(hub, repo, RefKind::Tag, &tag, &commit.oid)
}

pub(super) fn create_branch(hub: &Hub, repo: &RepoId, name: &str, body: &Bytes) -> Outcome {
    let wish: Value = if body.is_empty() { Value::Null } else { parse(body)? };
    let from = wish.get("startingPoint").and_then(Value::as_str).unwrap_or("main");
    let commit = hub.at(repo, from)?;
    set_new_ref(hub, repo, RefKind::Head, name, &commit.oid)
}

fn set_new_ref(hub: &Hub, repo: &RepoId, kind: RefKind, name: &str, oid: &str) -> Outcome {
    let _guard = hub.store.lock();
    if hub.store.get_ref(repo, kind, name).is_some() {
        return Err(Refused::new(409, format!("`{name}` already exists")));
    }
    hub.store.set_ref(repo, kind, name, oid).map_err(|e| Refused::bad(e.to_string()))?;
    ok_json(&json!({ "name": name, "targetCommit": oid }))
}

pub(super) fn delete_tag(hub: &Hub, repo: &RepoId, name: &str) -> Outcome {
    delete_ref(hub, repo, RefKind::Tag, name)
}

pub(super) fn delete_branch(hub: &Hub, repo: &RepoId, name: &str) -> Outcome {
    if name == "main" {
        return Err(Refused::new(403, "the branch `main` cannot be deleted"));
    }
    delete_ref(hub, repo, RefKind::Head, name)
}

fn delete_ref(hub: &Hub, repo: &RepoId, kind: RefKind, name: &str) -> Outcome {
    hub.record(repo)?;
    let _guard = hub.store.lock();
    if hub.store.delete_ref(repo, kind, name) { ok_json(&json!({})) } else { Err(Refused::no_revision(name)) }
}

pub(super) fn preupload(hub: &Hub, repo: &RepoId, revision: &str, body: &Bytes) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let asked: PreuploadRequest = parse(body)?;
    let attributes = commit.tree.get(".gitattributes").map(|file| hub.store.read_object(file)).transpose()?;
    let rules = LfsRules::read(&String::from_utf8_lossy(&attributes.unwrap_or_default()));
    let verdict = |file: crate::hub::protocol::PreuploadFile| {
        let sample = STANDARD.decode(&file.sample).unwrap_or_default();
        let large = rules.is_large(&file.path, file.size, &sample);
        PreuploadVerdict {
            upload_mode: if large { "lfs" } else { "regular" }.to_owned(),
            should_ignore: false,
            oid: commit.tree.get(&file.path).map(|there| there.identity().to_owned()),
            path: file.path,
        }
    };
    ok_json(&PreuploadAnswer { files: asked.files.into_iter().map(verdict).collect() })
}

pub(super) fn validate_yaml(body: &Bytes) -> Outcome {
    let asked: ValidateYaml = parse(body)?;
    let found = card::lint(&asked.content);
    let remarks = |list: Vec<String>| list.into_iter().map(|message| YamlRemark { message }).collect();
    let status = if found.errors.is_empty() { 200 } else { 400 };
    let said = YamlAnswer { errors: remarks(found.errors), warnings: remarks(found.warnings) };
    Ok(super::answer::json_answer(status, &said))
}
