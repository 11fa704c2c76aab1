//! Pull requests: a commit that opens one, the open ones, and where one stands. And branches, which they are made for.
//!
//! hf-hub 1.0.0 has no discussions. The requests are those of Python's `huggingface_hub` 2.4 (`get_repo_discussions`,
//! `get_discussion_details`, `create_commit(create_pr=True)`). Knows no plan; says what the hub says.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::HubClient;
use super::http::{Call, Failure, segment};
use super::write::{CommitOutcome, CommitRequest};
use crate::core::error::{Error, Result};
use crate::hub::repo::RepoId;

/// A pull request as a hub tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Its number in the repository.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Whether it can still be changed and merged (`open` or `draft`).
    pub is_open: bool,
    /// The branch that it would be merged into; unknown in listings and on some hubs.
    pub base: Option<String>,
}

/// A discussion, of which pull requests are one sort.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discussion {
    num: u64,
    #[serde(default)]
    title: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    is_pull_request: bool,
    #[serde(default)]
    changes: Option<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default)]
    base: Option<String>,
}

#[derive(Deserialize)]
struct Discussions {
    #[serde(default)]
    discussions: Vec<Discussion>,
    /// How many there are on all pages.
    #[serde(default)]
    count: u64,
}

/// Pages that are read of a listing.
const PAGES: u64 = 200;

impl From<Discussion> for Pull {
    fn from(discussion: Discussion) -> Pull {
        let base = discussion.changes.and_then(|c| c.base);
        Pull {
            number: discussion.num,
            title: discussion.title,
            is_open: matches!(discussion.status.as_str(), "open" | "draft"),
            base: base.map(|base| base.strip_prefix("refs/heads/").unwrap_or(&base).to_owned()),
        }
    }
}

const NOTHING: Option<&()> = None;

impl HubClient {
    /// Sends `commit` once, as a new pull request against the branch `revision`. An error means that it surely did not
    /// land.
    pub async fn propose(&self, repo: &RepoId, revision: &str, commit: &CommitRequest) -> Result<CommitOutcome> {
        match self.send_commit(repo, revision, commit, "?create_pr=1").await {
            Err(Failure::Refused(refusal)) if matches!(refusal.status, 405 | 501) => {
                let said = format!("the hub answered {}", refusal.status);
                let cause = refusal.message.map_or(said.clone(), |message| format!("{said}: {message}"));
                Err(Error::hub(format!("`{}` takes no pull requests", self.endpoint())).cause(cause).hint(
                    "publish to a branch of its own instead: `revision = \"NAME\"`, without `pull_request`, and merge that",
                ))
            }
            Err(failure) => Err(self.http().explain(&Self::commit_call(repo, revision, ""), failure)),
            Ok(outcome) => Ok(outcome),
        }
    }

    /// The open pull requests of `repo`, newest first, all pages. None on a hub that has no such thing.
    pub async fn open_pulls(&self, repo: &RepoId) -> Result<Vec<Pull>> {
        let (mut pulls, mut seen) = (BTreeMap::new(), 0);
        for page in 0..PAGES {
            let query = format!("p={page}&type=pull_request&status=open");
            let call = Call::get(format!("{}/discussions?{query}", repo.api_path()));
            let listed: Discussions = match self.http().json(&call, NOTHING).await {
                Ok(listed) => listed,
                Err(failure) if lacks(&failure) => return Ok(vec![]),
                Err(failure) => return Err(self.http().explain(&call, failure)),
            };
            seen += listed.discussions.len() as u64;
            let known = pulls.len();
            let found = listed.discussions.into_iter().filter(|d| d.is_pull_request).map(Pull::from);
            pulls.extend(found.filter(|pull| pull.is_open).map(|pull| (pull.number, pull)));
            if seen >= listed.count || pulls.len() == known {
                break;
            }
        }
        Ok(pulls.into_values().rev().collect())
    }

    /// The pull request `number`; `None` where there is none.
    pub async fn pull(&self, repo: &RepoId, number: u64) -> Result<Option<Pull>> {
        let call = Call::get(format!("{}/discussions/{number}", repo.api_path()));
        match self.http().json::<Discussion>(&call, NOTHING).await {
            Ok(discussion) if discussion.is_pull_request => Ok(Some(discussion.into())),
            Ok(_) => Ok(None),
            Err(failure) if lacks(&failure) => Ok(None),
            Err(failure) => Err(self.http().explain(&call, failure)),
        }
    }

    /// The page of the pull request `number`.
    pub fn pull_page(&self, repo: &RepoId, number: u64) -> String {
        format!("{}/{}/discussions/{number}", self.endpoint(), repo.web_path())
    }

    /// Makes the branch `name` at the commit `start`. One that is there already is left as it is.
    pub async fn create_branch(&self, repo: &RepoId, name: &str, start: &str) -> Result<()> {
        let call = Call::post(format!("{}/branch/{}", repo.api_path(), segment(name)));
        let body = serde_json::json!({ "startingPoint": start });
        match self.http().fetch(&call, Some(&body)).await {
            Err(failure) if failure.status() != Some(409) => Err(self.http().explain(&call, failure)),
            _ => Ok(()),
        }
    }
}

fn lacks(failure: &Failure) -> bool {
    matches!(failure.status(), Some(404 | 405 | 501))
}

/// The number at the end of a pull request's page.
pub fn number_of(page: &str) -> Option<u64> {
    page.trim_end_matches('/').rsplit_once("/discussions/")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_at_the_end_of_the_page() {
        assert_eq!(number_of("https://huggingface.co/spaces/a/b/discussions/17"), Some(17));
        assert_eq!(number_of("/a/b/discussions/3/"), Some(3));
        assert_eq!(number_of("https://huggingface.co/a/b/commit/17"), None);
    }

    #[test]
    fn a_discussion_of_the_live_hub_is_read() {
        let text = r#"{"num": 4, "title": "t", "status": "draft", "isPullRequest": true, "author": {"name": "x"},
            "changes": {"base": "refs/heads/main"}}"#;
        let pull: Pull = serde_json::from_str::<Discussion>(text).unwrap().into();
        assert_eq!(pull, Pull { number: 4, title: "t".into(), is_open: true, base: Some("main".into()) });
    }
}
