//! What changes a repository: preupload (which only asks), the commit, and the check of a card's front matter.
//!
//! Knows the write half of the commit layer but for the content of large files ([`super::lfs`]). The commit is sent
//! exactly once: what became of it is a [`CommitOutcome`], and what to do then is the caller's to decide.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::HubClient;
use super::body::{Copies, body};
use super::http::{Answer, Call, Failure, Refusal, segment, send};
use crate::core::error::{Error, Result};
use crate::hub::protocol::{
    BATCH, CommitAnswer, NDJSON, PreuploadAnswer, PreuploadFile, PreuploadRequest, SAMPLE, ValidateYaml, YamlAnswer,
};
use crate::hub::repo::{RepoId, RepoKind};

/// A file that is to be published, as preupload asks about it.
#[derive(Debug, Clone)]
pub struct Preupload {
    /// The path in the repository.
    pub path: String,
    /// Its size.
    pub size: u64,
    /// Its first 512 bytes (more are cut off).
    pub sample: Vec<u8>,
}

/// How a hub wants one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// By LFS: send the content first. Otherwise whole in the commit.
    pub lfs: bool,
    /// The hub would leave it out: an ignore rule matches or, on some hubs, it is unchanged (then `oid` tells).
    pub ignore: bool,
    /// What is now at that path: an LFS file's SHA-256, a regular file's git blob SHA-1.
    pub oid: Option<String>,
}

/// One change of a commit.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Adds or replaces a regular file; the content travels in the commit.
    AddRegular {
        /// The path in the repository.
        path: String,
        /// The content.
        bytes: Vec<u8>,
    },
    /// The same with the content of a file on this machine, which is read when the commit is sent.
    AddFile {
        /// The path in the repository.
        path: String,
        /// Where it lies.
        file: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Adds or replaces an LFS file, whose content the hub already has.
    AddLfs {
        /// The path in the repository.
        path: String,
        /// The content's SHA-256 in hex.
        sha256: String,
        /// The content's size.
        size: u64,
    },
    /// Adds or replaces an LFS file with the content of one that the repository has: nothing is sent.
    Copy {
        /// The path in the repository.
        path: String,
        /// The file whose content it gets.
        source: String,
        /// The commit in which `source` lies.
        revision: String,
        /// The content's SHA-256 in hex: a hub that knows no copies is told this.
        sha256: String,
        /// The content's size.
        size: u64,
    },
    /// Deletes one file.
    Delete {
        /// The path in the repository.
        path: String,
    },
}

/// A commit, ready to be sent.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The title.
    pub summary: String,
    /// The text below it: the place for the nonce by which a lost commit is found again.
    pub description: String,
    /// The head that the plan was made from.
    pub parent: String,
    /// The changes.
    pub operations: Vec<Operation>,
}

/// What became of a commit that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It landed.
    Landed {
        /// The new commit.
        oid: String,
        /// Its page, absolute.
        url: Option<String>,
        /// The page of the pull request that it opened.
        pull_request: Option<String>,
    },
    /// It was refused: the head is no longer the parent it names. Plan again.
    ParentMoved,
    /// It was refused before anything was done, for want of rate. It may be sent again after the pause.
    Throttled {
        /// What the hub asks for.
        wait: Option<Duration>,
    },
    /// It may have landed, now or in some minutes. Look for its nonce before anything else.
    Unknown {
        /// What happened instead of an answer.
        reason: String,
    },
}

/// What the hub says of a card's front matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct YamlReport {
    /// Makes the hub refuse the file.
    pub errors: Vec<String>,
    /// It only complains of these.
    pub warnings: Vec<String>,
}

impl HubClient {
    /// Asks how each of `files` is to be sent. Changes nothing.
    pub async fn preupload(
        &self,
        repo: &RepoId,
        revision: &str,
        files: &[Preupload],
    ) -> Result<HashMap<String, Verdict>> {
        let call = Call::post(format!("{}/preupload/{}", repo.api_path(), segment(revision)));
        let mut verdicts = HashMap::with_capacity(files.len());
        for batch in files.chunks(BATCH) {
            let asked = batch.iter().map(|file| PreuploadFile {
                path: file.path.clone(),
                size: file.size,
                sample: STANDARD.encode(&file.sample[..file.sample.len().min(SAMPLE)]),
            });
            let body = PreuploadRequest { files: asked.collect() };
            let answer = self.http().json::<PreuploadAnswer>(&call, Some(&body)).await;
            let answer = answer.map_err(|failure| self.http().explain(&call, failure))?;
            let by_path: HashMap<_, _> = answer.files.into_iter().map(|file| (file.path.clone(), file)).collect();
            for file in batch {
                let Some(said) = by_path.get(&file.path) else {
                    return Err(Error::hub(format!("the hub does not say how to send `{}`", file.path)));
                };
                // Storage behind LFS takes no empty objects.
                let lfs = said.upload_mode == "lfs" && file.size > 0;
                let verdict = Verdict { lfs, ignore: said.should_ignore, oid: said.oid.clone() };
                verdicts.insert(file.path.clone(), verdict);
            }
        }
        Ok(verdicts)
    }

    /// Sends `commit` once. An error means that it surely did not land.
    pub async fn commit(&self, repo: &RepoId, revision: &str, commit: &CommitRequest) -> Result<CommitOutcome> {
        let outcome = self.send_commit(repo, revision, commit, "").await;
        outcome.map_err(|failure| self.http().explain(&Self::commit_call(repo, revision, ""), failure))
    }

    pub(super) fn commit_call(repo: &RepoId, revision: &str, query: &str) -> Call {
        Call::post(format!("{}/commit/{}{query}", repo.api_path(), segment(revision)))
    }

    /// Sends `commit` once; `query` says what it is beside a commit. A failure means that it surely did not land.
    pub(super) async fn send_commit(
        &self,
        repo: &RepoId,
        revision: &str,
        commit: &CommitRequest,
        query: &str,
    ) -> Result<CommitOutcome, Failure> {
        let call = Self::commit_call(repo, revision, query);
        let mut answer = self.post_commit(&call, commit, Copies::Named).await;
        let copies = commit.operations.iter().any(|operation| matches!(operation, Operation::Copy { .. }));
        if copies && matches!(&answer, Err(failure) if matches!(failure.status(), Some(400 | 422 | 501))) {
            // refused, so nothing was done: perhaps this hub knows no copies
            answer = self.post_commit(&call, commit, Copies::ByContent).await;
        }
        match answer {
            Ok(answer) => Ok(self.landed(&call, &answer)),
            Err(Failure::Lost { sent: true, reason }) => Ok(CommitOutcome::Unknown { reason }),
            Err(Failure::Refused(refusal)) => match outcome_of(&refusal) {
                Some(outcome) => Ok(outcome),
                None => Err(Failure::Refused(refusal)),
            },
            Err(failure) => Err(failure),
        }
    }

    async fn post_commit(&self, call: &Call, commit: &CommitRequest, copies: Copies) -> Result<Answer, Failure> {
        let (length, body) = body(commit, copies)?;
        let request = self.http().api(call).header(CONTENT_TYPE, NDJSON).header(CONTENT_LENGTH, length);
        Answer::of(send(request.body(body)).await?).await
    }

    fn landed(&self, call: &Call, answer: &Answer) -> CommitOutcome {
        match answer.json::<CommitAnswer>(call) {
            Ok(said) => {
                let page = |url: Option<String>| url.and_then(|url| self.http().address(&url).ok()).map(String::from);
                let (url, pull_request) = (page(said.commit_url), page(said.pull_request_url));
                CommitOutcome::Landed { oid: said.commit_oid, url, pull_request }
            }
            // It said yes in words that we cannot read: the history will tell.
            Err(error) => CommitOutcome::Unknown { reason: error.to_string() },
        }
    }

    /// Asks the hub whether it would take `content` as a README. `None` when this hub does not offer that.
    pub async fn validate_yaml(&self, content: &str, kind: RepoKind) -> Result<Option<YamlReport>> {
        let call = Call::post("api/validate-yaml".to_owned());
        let body = ValidateYaml { content: content.to_owned(), repo_type: Some(kind.word().to_owned()) };
        let report = |said: YamlAnswer| {
            let words = |remarks: Vec<_>| remarks.into_iter().map(|r: crate::hub::protocol::YamlRemark| r.message);
            YamlReport { errors: words(said.errors).collect(), warnings: words(said.warnings).collect() }
        };
        match self.http().json::<YamlAnswer>(&call, Some(&body)).await {
            Ok(said) => Ok(Some(report(said))),
            Err(failure) if matches!(failure.status(), Some(404 | 405 | 501)) => Ok(None),
            Err(Failure::Refused(refusal)) if refusal.status == 400 => {
                let mut said = report(serde_json::from_slice(&refusal.body).unwrap_or_default());
                if said.errors.is_empty() {
                    said.errors.push(refusal.message.unwrap_or_else(|| "the hub refuses the front matter".to_owned()));
                }
                Ok(Some(said))
            }
            Err(failure) => Err(self.http().explain(&call, failure)),
        }
    }
}

/// What a refusal of a commit means; `None` when it is final and nothing was done.
fn outcome_of(refusal: &Refusal) -> Option<CommitOutcome> {
    match refusal.status {
        412 | 409 => Some(CommitOutcome::ParentMoved),
        429 => Some(CommitOutcome::Throttled { wait: refusal.wait }),
        408 | 500..=599 if refusal.status != 501 => {
            let said = refusal.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
            Some(CommitOutcome::Unknown { reason: format!("the hub answered {}{said}", refusal.status) })
        }
        _ => None,
    }
}
