//! What a commit stands on: the repo and the branch, made where they are not there; and what becomes of a pull request.
//!
//! Decides nothing: whether a change is proposed, and as which pull request, is decided in [`crate::core::publish`].

use crate::core::error::{Error, Result};
use crate::core::event::{Event, Proposing, Pulled};
use crate::core::publish::{ATTRIBUTES, Drifted, Intent, Propose, Published, PullRequest, Tree};
use crate::exec::drive::now_ms;
use crate::exec::publish::{Publisher, drift};
use crate::exec::remote::DEFAULT;
use crate::hub::RepoKind;
use crate::hub::client::{Creation, number_of};
use crate::stage;

impl Publisher<'_, '_> {
    /// The commit that the next one is made on. A repo or a branch that is not there is made first; `None`: it turned out
    /// to be another one than the plan was made from.
    pub(super) async fn parent(&mut self, tree: &Tree, propose: Option<Propose>) -> Result<Option<String>> {
        let observed = self.driver.world.remotes.get(&self.upload).cloned().unwrap_or_default();
        if propose.is_some_and(|p| p.number.is_some()) {
            return Ok(observed.proposal.and_then(|open| open.at.head));
        }
        if observed.head.is_some() {
            return Ok(observed.head);
        }
        let (client, repo, target) = (&self.remote.client, &self.remote.repo, &self.remote.target);
        let lost = |branch: &str| Error::hub(format!("`{}` has no branch `{branch}`", target.repo));
        let start = match observed.start {
            Some(start) => start,
            None => {
                let sdk = if repo.kind() == RepoKind::Space { self.space_sdk(tree)? } else { None };
                let creation = client.create_repo(repo, self.hub()?.private, sdk.as_deref()).await?;
                let start =
                    client.head(repo, DEFAULT).await?.ok_or_else(|| unseen(&target.to_string(), &creation))?.sha;
                // somebody was faster: what stands there has to be compared first
                let made_with =
                    |path: &String| creation == Creation::Made && [ATTRIBUTES, "README.md"].contains(&path.as_str());
                if !client.tree(repo, &start).await?.keys().all(made_with) {
                    return Ok(None);
                }
                start
            }
        };
        if target.revision == DEFAULT {
            return Ok(Some(start));
        }
        if target.revision.starts_with("refs/") {
            return Err(lost(&target.revision).hint("only a branch can be made: name it without `refs/`"));
        }
        client.create_branch(repo, &target.revision, &start).await?;
        let head = client.head(repo, &target.revision).await?.ok_or_else(|| lost(&target.revision))?.sha;
        let text =
            format!("made the branch `{}` from `{DEFAULT}` at {}", target.revision, &start[..start.len().min(7)]);
        self.driver.emit(Event::Note { text });
        Ok((head == start).then_some(head))
    }

    /// What a new Space runs on, by the front matter of its README.
    fn space_sdk(&self, tree: &Tree) -> Result<Option<String>> {
        let Some(file) = tree.get("README.md") else { return Ok(None) };
        let bytes = self.driver.store.blobs().read(&file.digest)?;
        Ok(bytes.and_then(|bytes| stage::space_sdk(&String::from_utf8_lossy(&bytes))))
    }

    /// Says what is published over, or would be where the proposal is merged.
    pub(super) fn tell_over(&mut self, over: &[Drifted], propose: Option<Propose>) {
        if over.is_empty() {
            return;
        }
        let list: Vec<_> = over.iter().map(drift::drifted_path).collect();
        let text = match propose {
            None => format!("publishing over changes on the remote: {}", list.join(", ")),
            Some(_) => format!("the remote was changed, so this is proposed and not published: {}", list.join(", ")),
        };
        self.driver.emit(Event::Warning { text });
    }

    /// The pull request that a commit stands on, by the page that the hub named.
    pub(super) async fn opened(&self, intent: &Intent, page: Option<String>) -> Result<Option<PullRequest>> {
        let Some(propose) = intent.pull_request else { return Ok(None) };
        if let Some(number) = propose.number {
            return Ok(Some(self.remote.pull_request(number)));
        }
        if let Some(number) = page.as_deref().and_then(number_of) {
            return Ok(Some(PullRequest { number, url: page }));
        }
        let found = self.remote.find_landed(intent, std::time::Duration::ZERO).await?;
        found.map(|found| found.pull_request).ok_or_else(|| {
            Error::hub("the hub took the commit, and said no pull request's number")
                .hint("look at the repo's pull requests; run hfbuild again to look for it anew")
        })
    }

    /// A commit landed on a pull request.
    pub(super) fn proposed(
        &mut self,
        pull_request: PullRequest,
        commit: String,
        propose: Option<Propose>,
        drifted: bool,
    ) {
        let how = if propose.is_some_and(|p| p.number.is_some()) { Proposing::Extended } else { Proposing::Opened };
        self.tell_pull(pull_request, commit, how, drifted);
    }

    /// An open pull request has the very tree: nothing is sent. What this machine did not know yet is recorded.
    pub(super) fn is_proposed(
        &mut self,
        tree: Tree,
        commit: String,
        pull_request: PullRequest,
        allowed: &[String],
    ) -> Result<()> {
        let target = self.remote.target.clone();
        if self.driver.loaded.publishes.last_proposed(&target).is_none_or(|last| last.commit != commit) {
            let published = Published {
                target,
                commit: commit.clone(),
                head: None,
                tag: None,
                parent: None,
                tree,
                at_ms: now_ms(),
                allowed: allowed.to_vec(),
                pull_request: Some(pull_request.clone()),
                restores: None,
            };
            self.driver.recorder.published(&published)?;
            self.driver.loaded.publishes.landed.push(published);
        }
        self.tell_pull(pull_request, commit, Proposing::Waits, false);
        Ok(())
    }

    fn tell_pull(&mut self, pull_request: PullRequest, commit: String, how: Proposing, drifted: bool) {
        let PullRequest { number, url } = pull_request;
        let repo = self.remote.target.to_string();
        self.driver.emit(Event::Proposed { repo, number, url: url.clone(), commit, how });
        self.driver.summary.pulls.push(Pulled { number, how, drifted });
        if how != Proposing::Waits {
            self.look_at_page(url);
        }
    }

    /// Remembers where people can look at what was published.
    pub(super) fn look_at(&mut self) {
        let page = format!("{}/{}", self.remote.target.endpoint, self.remote.repo.web_path());
        self.look_at_page(Some(page));
    }

    fn look_at_page(&mut self, page: Option<String>) {
        let embedded = self.remote.target.endpoint == crate::exec::remote::EMBEDDED;
        self.driver.summary.pages.extend(if embedded { Some(String::new()) } else { page });
    }
}

/// The refusal where a repo is neither made nor shown. No request tells that before the one that would make it.
fn unseen(target: &str, creation: &Creation) -> Error {
    let said = match creation {
        Creation::Made => "the hub made it just now".to_string(),
        Creation::There(None) => "the hub does not make it anew".to_string(),
        Creation::There(Some(words)) => format!("the hub does not make it anew: {words}"),
    };
    let error = Error::hub(format!("`{target}` is there, and cannot be seen"));
    error
        .cause(format!("{said}; it shows no branch `{DEFAULT}` of it"))
        .hint("it is private, and this token may not read it: give the token read and write access to it")
}
