//! What hf-hub does for us: repositories, refs, tags, the list of commits.
//!
//! Knows hf-hub's types and turns them and its errors into ours. hf-hub's retries are off; ours go around it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use hf_hub::{HFClient, HFError, HFRepository, HFResult, RepoTypeAny};

use super::HubClient;
use super::http::{Call, Failure, Http, READ, Refusal, segment};
use crate::core::error::{Error, Result};
use crate::hub::repo::{RepoId, RepoKind};

/// One commit of a repository's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its id: 40 hex digits on the live Hub, 64 on others.
    pub id: String,
    /// The first line.
    pub title: String,
    /// The text below it.
    pub message: String,
    /// Who made it.
    pub author: Option<String>,
    /// When, RFC 3339.
    pub date: Option<String>,
}

/// The branches and tags of a repository, each with its commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// By name.
    pub branches: BTreeMap<String, String>,
    /// By name.
    pub tags: BTreeMap<String, String>,
}

/// A token that fits in no header. hf-hub looks for a token of the user's when it is given none, and would send it
/// to any endpoint; given this one it sends none.
const NO_TOKEN: &str = "\n";

pub(super) fn client(http: &Http) -> Result<HFClient> {
    let token = http.token.as_ref().map_or(NO_TOKEN, |token| token.secret());
    HFClient::builder()
        .endpoint(http.endpoint.clone())
        .token(token)
        .user_agent(super::http::USER_AGENT)
        .cache_enabled(false)
        .retry_max_attempts(0)
        .build()
        .map_err(|_| Error::hub("cannot set up the HTTP client"))
}

/// What came of asking for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// It was made.
    Made,
    /// It was there, in the hub's words.
    There(Option<String>),
}

impl HubClient {
    /// Creates `repo`; one that exists is left as it is. A Space needs `space_sdk` (`static`, `gradio`, `docker`).
    pub async fn create_repo(&self, repo: &RepoId, private: bool, space_sdk: Option<&str>) -> Result<Creation> {
        let call = Call::post("api/repos/create".to_owned());
        let sdk = (repo.kind() == RepoKind::Space).then(|| space_sdk.unwrap_or("static").to_owned());
        let made = self.around(async || {
            let request = self.inner.hf.create_repository().repo_id(repo.name()).repo_type(kind(repo));
            request.private(private).exist_ok(false).maybe_space_sdk(sdk.clone()).send().await
        });
        match made.await {
            Ok(_) => Ok(Creation::Made),
            Err(Failure::Refused(refusal)) if refusal.status == 409 => Ok(Creation::There(refusal.message)),
            Err(failure) => Err(self.http().explain(&call, failure)),
        }
    }

    /// The branches and tags of `repo`.
    pub async fn refs(&self, repo: &RepoId) -> Result<Refs> {
        let call = Call::get(format!("{}/refs", repo.api_path()));
        let refs = self.around(async || self.repository(repo).list_refs().send().await).await;
        let refs = refs.map_err(|failure| self.http().explain(&call, failure))?;
        let by_name =
            |list: Vec<hf_hub::repository::GitRefInfo>| list.into_iter().map(|r| (r.name, r.target_commit)).collect();
        Ok(Refs { branches: by_name(refs.branches), tags: by_name(refs.tags) })
    }

    /// The tags of `repo`, each with its commit.
    pub async fn tags(&self, repo: &RepoId) -> Result<BTreeMap<String, String>> {
        Ok(self.refs(repo).await?.tags)
    }

    /// Sets `tag` on `revision`. One that already points there is success, one that points elsewhere an error.
    pub async fn create_tag(&self, repo: &RepoId, tag: &str, revision: &str) -> Result<()> {
        let call = Call::post(format!("{}/tag/{}", repo.api_path(), segment(revision)));
        let made = self.around(async || self.repository(repo).create_tag().tag(tag).revision(revision).send().await);
        let failure = match made.await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if failure.status() != Some(409) {
            return Err(self.http().explain(&call, failure));
        }
        match self.tags(repo).await?.get(tag) {
            Some(target) if target == revision => Ok(()),
            Some(target) => Err(Error::hub(format!("the tag `{tag}` already points to `{target}`"))
                .hint("choose another tag; one that is published is not moved")),
            None => Err(self.http().explain(&call, failure)),
        }
    }

    /// Removes `tag`; one that is not there is success.
    pub async fn delete_tag(&self, repo: &RepoId, tag: &str) -> Result<()> {
        let call = Call::post(format!("{}/tag/{}", repo.api_path(), segment(tag)));
        match self.around(async || self.repository(repo).delete_tag().tag(tag).send().await).await {
            Err(failure) if failure.status() != Some(404) => Err(self.http().explain(&call, failure)),
            _ => Ok(()),
        }
    }

    /// The commits of `revision`, newest first, up to but without `known_parent`, and at most `at_most`.
    pub async fn commits_since(
        &self,
        repo: &RepoId,
        revision: &str,
        known_parent: &str,
        at_most: usize,
    ) -> Result<Vec<CommitInfo>> {
        let call = Call { needs: READ, ..Call::get(format!("{}/commits/{}", repo.api_path(), segment(revision))) };
        let listed = self.around(async || {
            let repository = self.repository(repo);
            let stream = repository.list_commits().revision(revision).limit(at_most).send()?;
            pin_mut!(stream);
            let mut found = Vec::new();
            while let Some(commit) = stream.next().await.transpose()? {
                if commit.id == known_parent {
                    break;
                }
                found.push(CommitInfo::of(commit));
            }
            Ok(found)
        });
        listed.await.map_err(|failure| self.http().explain(&call, failure))
    }

    fn repository(&self, repo: &RepoId) -> HFRepository<RepoTypeAny> {
        self.inner.hf.repository(kind(repo), repo.namespace(), repo.short_name())
    }

    /// One idempotent call of hf-hub with our retries around it.
    async fn around<T>(&self, call: impl AsyncFn() -> HFResult<T>) -> Result<T, Failure> {
        self.http().retrying(|| async { call().await.map_err(failure_of) }).await
    }
}

impl CommitInfo {
    fn of(commit: hf_hub::repository::GitCommitInfo) -> Self {
        CommitInfo {
            author: commit.authors.into_iter().find_map(|author| author.user.or(author.name)),
            id: commit.id,
            title: commit.title,
            message: commit.message,
            date: commit.date,
        }
    }
}

fn kind(repo: &RepoId) -> RepoTypeAny {
    match repo.kind() {
        RepoKind::Model => RepoTypeAny::Model,
        RepoKind::Dataset => RepoTypeAny::Dataset,
        RepoKind::Space => RepoTypeAny::Space,
    }
}

/// The Hub's window of rate limits; hf-hub hands us no header but `Retry-After`, so without it half of this is waited.
const RATE_WINDOW: Duration = Duration::from_secs(300);

fn failure_of(error: HFError) -> Failure {
    let (context, wait) = match error {
        HFError::Request { source, .. } => return Failure::of_transport(source),
        HFError::RateLimited { retry_after, context } => (Some(context), Some(retry_after.unwrap_or(RATE_WINDOW / 2))),
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context } => (Some(context), None),
        HFError::RepoNotFound { context, .. }
        | HFError::RevisionNotFound { context, .. }
        | HFError::EntryNotFound { context, .. } => (context, None),
        other => {
            let error = Error::hub("the hub's answer cannot be read").cause(other.to_string());
            return Failure::Ours(error.hint("is this the address of a hub?"));
        }
    };
    let Some(context) = context else {
        return Failure::Refused(Refusal { status: 404, ..Refusal::default() });
    };
    Failure::Refused(Refusal {
        status: context.status.as_u16(),
        message: context.server_message,
        code: context.error_code,
        wait,
        body: Vec::new(),
    })
}
