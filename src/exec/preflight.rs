//! Before the first stage runs: whether what the run makes could be published at all. Only where something may be sent.
//!
//! First what this machine can tell by itself (files that must not go up, the Hub's limits), then what only the hub knows
//! (whose token it is, what it may write). Decides nothing about content.

use crate::core::error::{Error, Result};
use crate::core::graph::{NodeId, placed_path, repo_place};
use crate::core::limits;
use crate::core::plan::{Plan, Settled};
use crate::core::receipt::History;
use crate::exec::project::Project;
use crate::exec::remote::{DEFAULT, EMBEDDED, Remote, is_loopback};
use crate::hub::client::{Scope, Who};
use crate::hub::{EmbeddedHub, RepoId};

/// The permission that a commit needs, in a fine-grained token.
const WRITE: &str = "repo.write";

/// The Hub's limits against what is known of a publish: what is made, and of what has to be made its last size.
///
/// # Errors
/// A limit is exceeded.
pub fn check_limits(project: &Project, plan: &Plan, history: &History, id: NodeId) -> Result<()> {
    let graph = &project.graph;
    let Some(upload) = graph.upload(id) else { return Ok(()) };
    let mut files: Vec<(String, u64)> = Vec::new();
    for (path, _, artifact, _) in &upload.files {
        for dep in graph.of(artifact) {
            let receipt = match &plan.settled[dep.index()] {
                Some(Settled::Made(receipt)) => Some(receipt),
                _ => history.last(&graph.node(*dep).name),
            };
            let (Some(receipt), Some(stage)) = (receipt, graph.stage(*dep)) else { continue };
            let place = repo_place(&stage.shape, path);
            files.extend(receipt.outputs.iter().map(|o| (placed_path(&place, &o.path), o.size)));
        }
    }
    limits::check(files.iter().map(|(path, size)| (path.as_str(), *size)))
}

impl Remote {
    /// Asks the hub whether a publish can go through: the token is good and may write to the repo, or make it where it is
    /// not there yet; what is no branch is there. `exists`: the repo was seen.
    ///
    /// # Errors
    /// It cannot; or the hub cannot be asked.
    pub async fn preflight(&self, exists: bool) -> Result<()> {
        if self.target.endpoint != EMBEDDED && self.client.has_token() {
            let who = self.client.whoami().await?;
            // the staging hub on loopback has one account, which may write everywhere
            if !(is_loopback(&self.target.endpoint) && who.name == EmbeddedHub::ACCOUNT) {
                may_write(&who, &self.repo, exists)?;
            }
        }
        let revision = &self.target.revision;
        if exists && revision != DEFAULT && !revision.starts_with("refs/") {
            let refs = self.client.refs(&self.repo).await?;
            let is_commit = revision.len() >= 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
            if refs.tags.contains_key(revision) && !refs.branches.contains_key(revision) || is_commit {
                let repo = &self.target.repo;
                return Err(Error::hub(format!("`{revision}` of `{repo}` is no branch, but a tag or a commit"))
                    .hint("name a branch as `revision`: only there can be published"));
            }
        }
        if !exists && self.target.revision.starts_with("refs/") {
            let (repo, revision) = (&self.target.repo, &self.target.revision);
            return Err(Error::hub(format!("`{repo}` has no branch `{revision}`"))
                .hint("only a branch can be made: name it without `refs/`"));
        }
        Ok(())
    }
}

/// Whether this account, with this token, may write to a repo, or make it.
fn may_write(who: &Who, repo: &RepoId, exists: bool) -> Result<()> {
    if who.role.as_deref() == Some("read") {
        return Err(Error::hub(format!("the token of `{}` may only read", who.name)).hint(
            "a publish needs a token with the role `write`, or a fine-grained one with write access to the repo",
        ));
    }
    let namespace = repo.namespace();
    let org = who.orgs.iter().find(|org| org.name == namespace);
    if namespace != who.name && org.is_none() && !exists {
        return Err(Error::hub(format!("`{}` may not publish to `{}`", who.name, repo.name()))
            .hint(format!("`{namespace}` is neither the account nor one of its organisations")));
    }
    if org.and_then(|org| org.role.as_deref()) == Some("read") {
        return Err(Error::hub(format!("`{}` may only read in `{namespace}`", who.name)).hint(format!(
            "a publish to `{}` needs the role `write` there: ask an admin of `{namespace}`",
            repo.name()
        )));
    }
    match &who.scopes {
        Some(scopes) if !scopes.iter().any(|scope| covers(scope, repo, exists)) => {
            let what = if exists { "the repo" } else { "a namespace in which it may make the repo" };
            Err(Error::hub(format!("the fine-grained token of `{}` may not write to `{}`", who.name, repo.name())).hint(
                format!("give it `{WRITE}` (write access to contents) on {what}: `{namespace}` at huggingface.co/settings/tokens"),
            ))
        }
        _ => Ok(()),
    }
}

/// Whether a scope lets write to a repo; one that is not there yet can be made in its namespace only.
fn covers(scope: &Scope, repo: &RepoId, exists: bool) -> bool {
    let over = match scope.kind.as_str() {
        "user" | "org" => scope.name == repo.namespace(),
        "model" | "dataset" | "space" => exists && scope.kind == repo.kind().word() && scope.name == repo.name(),
        _ => true, // a group of repos, say: the hub knows what is in it
    };
    over && scope.permissions.iter().any(|permission| permission == WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RepoKind;
    use crate::hub::client::Org;

    fn who(role: &str, scopes: Option<Vec<Scope>>) -> Who {
        let orgs = vec![
            Org { name: "cats".into(), role: Some("write".into()) },
            Org { name: "dogs".into(), role: Some("read".into()) },
        ];
        Who { name: "ann".into(), orgs, role: Some(role.into()), scopes }
    }

    fn scope(kind: &str, name: &str, permission: &str) -> Scope {
        Scope { kind: kind.into(), name: name.into(), permissions: vec!["repo.content.read".into(), permission.into()] }
    }

    fn refused(who: &Who, repo: &str, exists: bool) -> String {
        let repo = RepoId::new(RepoKind::Model, repo).unwrap();
        may_write(who, &repo, exists).map_or_else(|e| e.message().to_string(), |()| String::new())
    }

    #[test]
    fn the_role_of_the_token_and_of_its_owner_count() {
        assert_eq!(refused(&who("write", None), "ann/a", false), "");
        assert_eq!(refused(&who("write", None), "cats/a", false), "");
        assert!(refused(&who("read", None), "ann/a", true).contains("may only read"));
        assert!(refused(&who("write", None), "dogs/a", true).contains("may only read in `dogs`"));
        assert!(refused(&who("write", None), "birds/a", false).contains("may not publish to `birds/a`"));
        // a collaborator of a repo elsewhere: only the hub knows
        assert_eq!(refused(&who("write", None), "birds/a", true), "");
    }

    #[test]
    fn a_fine_grained_token_needs_its_scope_for_this_repo() {
        let with = |scopes: Vec<Scope>| who("fineGrained", Some(scopes));
        assert!(refused(&with(vec![]), "ann/a", true).contains("may not write to `ann/a`"));
        assert!(
            refused(&with(vec![scope("user", "ann", "discussion.write")]), "ann/a", true).contains("may not write")
        );
        assert_eq!(refused(&with(vec![scope("user", "ann", WRITE)]), "ann/a", false), "");
        assert_eq!(refused(&with(vec![scope("org", "cats", WRITE)]), "cats/a", false), "");
        let one = with(vec![scope("model", "ann/a", WRITE)]);
        assert_eq!(refused(&one, "ann/a", true), "");
        assert!(refused(&one, "ann/b", true).contains("may not write"));
        assert!(refused(&one, "ann/a", false).contains("may not write"), "it may not make the repo");
        assert!(refused(&with(vec![scope("dataset", "ann/a", WRITE)]), "ann/a", true).contains("may not write"));
    }
}
