//! The pull request of an earlier publish: which one it is, whether it is still open, and what stands on it.
//!
//! It is known from this machine's record, or for another machine from the nonce in the commits of the open ones: so a
//! build that runs in a fresh clone every time opens no second one. Decides nothing.

use crate::core::error::Result;
use crate::core::publish::{Intent, Proposal, Propose, PullRequest};
use crate::exec::remote::{Remote, seen};
use crate::store::records::Publishes;
use std::collections::BTreeSet;

/// How many of the open pull requests are looked into.
const LOOKED_AT: usize = 20;
/// How many commits of one are.
const COMMITS: usize = 20;
/// How many of the branch are.
const HISTORY: usize = 200;
/// What every commit of ours has in its description.
const NONCE: &str = "nonce: hfbuild-";

impl Remote {
    /// A pull request of this repo.
    pub fn pull_request(&self, number: u64) -> PullRequest {
        PullRequest { number, url: Some(self.client.pull_page(&self.repo, number)) }
    }

    /// The open pull request of an earlier publish to this branch, with what stands on it.
    pub(super) async fn proposal(&self, publishes: &Publishes) -> Result<Option<Proposal>> {
        let last = publishes.last_proposed(&self.target);
        let known = match last.and_then(|p| p.pull_request.as_ref()) {
            Some(pull) => self.open_against_branch(pull.number).await?.then_some(pull.number),
            None => None,
        };
        let number = match known {
            Some(number) => Some(number),
            None => self.ours_among_the_open().await?,
        };
        let Some(number) = number else { return Ok(None) };
        let revision = PullRequest::revision(number);
        let Some(head) = self.client.head(&self.repo, &revision).await? else { return Ok(None) };
        let mut at = seen(last.filter(|p| p.pull_request.as_ref().is_some_and(|pull| pull.number == number)));
        at.head = Some(head.sha.clone());
        if at.head != at.last_commit {
            self.look(&head.sha, &mut at, &publishes.proposed(&self.target)).await?;
        }
        Ok(Some(Proposal { pull_request: self.pull_request(number), at }))
    }

    /// Whether it can still be added to, and would be merged into the branch that is published to.
    async fn open_against_branch(&self, number: u64) -> Result<bool> {
        let pull = self.client.pull(&self.repo, number).await?;
        Ok(pull.is_some_and(|p| p.is_open && p.base.is_none_or(|base| base == self.target.revision)))
    }

    async fn ours_among_the_open(&self) -> Result<Option<u64>> {
        let open = self.client.open_pulls(&self.repo).await?;
        if open.is_empty() {
            return Ok(None);
        }
        let branch = match self.client.head(&self.repo, &self.target.revision).await? {
            Some(_) => self.client.commits_since(&self.repo, &self.target.revision, "", HISTORY).await?,
            None => vec![],
        };
        let on_branch: BTreeSet<&str> = branch.iter().map(|c| c.id.as_str()).collect();
        for pull in open.into_iter().take(LOOKED_AT) {
            let revision = PullRequest::revision(pull.number);
            let commits = self.client.commits_since(&self.repo, &revision, "", COMMITS).await?;
            // what lies below is the branch's own history
            let mut own = commits.iter().take_while(|c| !on_branch.contains(c.id.as_str()));
            if own.any(|c| c.message.contains(NONCE)) && self.open_against_branch(pull.number).await? {
                return Ok(Some(pull.number));
            }
        }
        Ok(None)
    }

    /// Where the commit of an intent may stand: on the branch (nothing), or on one of these pull requests.
    pub(super) async fn places_of(&self, intent: &Intent) -> Result<Vec<Option<u64>>> {
        Ok(match intent.pull_request {
            None => vec![None],
            Some(Propose { number: Some(number) }) => vec![Some(number)],
            Some(Propose { number: None }) => {
                let open = self.client.open_pulls(&self.repo).await?;
                open.into_iter().take(LOOKED_AT).map(|pull| Some(pull.number)).collect()
            }
        })
    }
}
