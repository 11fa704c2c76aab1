//! The remote: which hub it is, how it is reached, and what is seen of it before planning.
//!
//! The embedded hub lives in the process that publishes; where `hfbuild hub serve` runs, that one is used. Knows the
//! client; which record of the past is believed, [`crate::exec::baseline`] says.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::graph::NodeId;
use crate::core::manifest::{Hub, OnDrift};
use crate::core::past::marks;
use crate::core::plan::RECORD;
use crate::core::publish::{Elsewhere, How, Intent, Observed, Published, PullRequest, RemoteFile, Target};
use crate::core::record;
use crate::core::replaced::Replaced;
use crate::exec::baseline::{files_at, newest_publish};
use crate::hub::client::{CommitInfo, Head, check_endpoint};
use crate::hub::embedded::{Options, Running};
use crate::hub::{EmbeddedHub, HubClient, RepoId, RepoKind, Token, resolve_token, token_texts};
use crate::store::blobs::Blobs;
use crate::store::records::Publishes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// The public Hub.
pub const PUBLIC: &str = "https://huggingface.co";
/// The word for the hub under cache/.
pub const EMBEDDED: &str = "embedded";
/// The variable with the token of `hub serve`: a word of its own, so that nobody's token for the live Hub is asked for.
const SERVED_TOKEN: &str = "HFBUILD_HUB_TOKEN";
/// How many commits are searched for our own nonce.
const SEARCHED: usize = 200;
/// The branch that every repo has, and that other branches are made from.
pub const DEFAULT: &str = "main";

/// The hub of one call, with the repo of each upload.
#[derive(Default)]
pub struct Remotes {
    /// By the upload.
    pub of: BTreeMap<NodeId, Remote>,
    /// The hub that this process runs, if it does.
    running: Option<Running>,
}

/// A hub that can be spoken to, with the repo that an upload names.
#[derive(Clone)]
pub struct Remote {
    /// Where a publish goes.
    pub target: Target,
    /// The repo.
    pub repo: RepoId,
    /// The client.
    pub client: HubClient,
}

/// A commit of ours that was found.
pub struct Found {
    /// The commit.
    pub commit: String,
    /// The pull request that it stands on; nothing: the branch.
    pub pull_request: Option<PullRequest>,
}

/// How the hub will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read: `plan`, `status`.
    Read,
    /// Written to: a build. Needs a token on any hub but the embedded one.
    Write,
}

/// Where an upload goes: flag, then manifest, then `HF_ENDPOINT`, then the public Hub.
pub fn target(hub: &Hub, endpoint: Option<&str>, repo: Option<&str>) -> Target {
    let env = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
    let endpoint = endpoint.map(String::from).or_else(|| hub.endpoint.clone()).or(env).unwrap_or_else(|| PUBLIC.into());
    Target {
        endpoint: endpoint.trim_end_matches('/').to_string(),
        kind: hub.kind.clone(),
        repo: repo.unwrap_or(&hub.repo).to_string(),
        revision: hub.revision.clone(),
    }
}

/// The remote as this machine's last publish left it: no hub is asked. `None`: it never published there.
///
/// # Errors
/// The store cannot be read.
pub fn last_known(target: &Target, publishes: &Publishes, blobs: &Blobs) -> Result<Option<Observed>> {
    let Some(last) = publishes.last(target) else { return Ok(None) };
    let record = last.tree.get(RECORD).map(|file| blobs.read(&file.digest)).transpose()?.flatten();
    Ok(Some(Observed {
        head: Some(last.commit.clone()),
        replaced: record.map_or(Replaced::Unknown, |record| record::version(&record).0),
        allowed: last.allowed.clone(),
        ..seen(Some(last))
    }))
}

impl Remotes {
    /// Connects, once for all targets, which are on one hub; for the embedded hub, finds the one that serves or starts one.
    pub async fn open(targets: BTreeMap<NodeId, Target>, folder: &Path, access: Access) -> Result<Remotes> {
        let mut repos = BTreeMap::new();
        for (id, target) in &targets {
            let kind = RepoKind::from_word(&target.kind)
                .ok_or_else(|| Error::bug(format!("no repo type `{}`", target.kind)))?;
            repos.insert(*id, RepoId::new(kind, &target.repo).map_err(|e| e.with_kind(ErrorKind::Manifest))?);
        }
        let Some(endpoint) = targets.values().next().map(|t| t.endpoint.clone()) else { return Ok(Remotes::default()) };
        let (client, running) = match endpoint == EMBEDDED {
            true => embedded(folder, access).await?,
            false => (elsewhere(&endpoint, access)?, None),
        };
        let remote =
            |(id, target)| Some((id, Remote { target, repo: repos.get(&id)?.clone(), client: client.clone() }));
        Ok(Remotes { of: targets.into_iter().filter_map(remote).collect(), running })
    }

    /// Ends the hub that this process runs.
    pub async fn close(self) {
        if let Some(running) = self.running {
            running.stop().await;
        }
    }
}

fn elsewhere(endpoint: &str, access: Access) -> Result<HubClient> {
    let env = |name: &str| std::env::var(name).ok();
    check_endpoint(endpoint)?;
    let token = resolve_token(&env)?;
    let named = env("HF_TOKEN_PATH").filter(|path| token.is_none() && !path.is_empty());
    if let (Some(path), Access::Write) = (named, access) {
        return Err(Error::hub(format!("`HF_TOKEN_PATH` names `{path}`, where no token is"))
            .hint("log in with `hf auth login`, or unset it where none is needed"));
    }
    if token.is_none() && access == Access::Write && !is_loopback(endpoint) {
        return Err(Error::hub(format!("there is no token for `{endpoint}`")).hint(
            "set HF_TOKEN, or log in with `hf auth login`; to try without a hub of your own, use `--endpoint embedded`",
        ));
    }
    HubClient::new(endpoint, token)
}

impl Remote {
    /// The same repo at another revision.
    pub fn at(&self, revision: &str) -> Remote {
        let target = Target { revision: revision.into(), ..self.target.clone() };
        Remote { target, ..self.clone() }
    }

    /// Observes the remote. When the head is the last publish's own commit and nothing is proposed, that was the only
    /// request. `blobs` is given where gates ask for the facts of what is published: of the last publish they are in the
    /// store. A branch that is not there is seen as the default branch's head, which it will be made from.
    pub async fn observe(&self, publishes: &Publishes, blobs: Option<&Blobs>, how: How) -> Result<Observed> {
        let mut observed = self.observe_branch(publishes, blobs, how).await?;
        let moved = observed.head.is_some() && observed.head != observed.last_commit;
        if how.pull_request || how.on_drift == OnDrift::PullRequest && moved {
            observed.proposal = self.proposal(publishes).await?.map(Box::new);
        }
        Ok(observed)
    }

    async fn observe_branch(&self, publishes: &Publishes, blobs: Option<&Blobs>, how: How) -> Result<Observed> {
        let (last, revision) = (publishes.last(&self.target), &self.target.revision);
        let mut observed = seen(last);
        match self.client.head(&self.repo, revision).await? {
            Some(head) => {
                observed.renamed = self.renamed(&head);
                observed.head = Some(head.sha);
            }
            None if revision == DEFAULT || revision.starts_with("refs/") => return Ok(observed),
            // one that is no longer there is made anew, and has then what the default branch has
            None => match self.client.head(&self.repo, DEFAULT).await? {
                Some(head) => {
                    observed = Observed { last_commit: observed.last_commit, ..seen(None) };
                    observed.renamed = self.renamed(&head);
                    observed.start = Some(head.sha);
                }
                None => return Ok(observed),
            },
        }
        // a mirror's files are always listed: others may have put some there
        if let Some(last) = last.filter(|_| observed.head == observed.last_commit && !how.mirror) {
            observed.allowed = last.allowed.clone();
            observed.replaced = match blobs {
                Some(blobs) => self.replaced(last, blobs).await?,
                None => Replaced::Unknown,
            };
            return Ok(observed);
        }
        let commit = observed.head.clone().or_else(|| observed.start.clone()).unwrap_or_default();
        // what stood on a branch that is gone says nothing of the one that it would be made from
        let last = last.filter(|_| observed.start.is_none());
        self.look(&commit, last, &publishes.commits(&self.target), &mut observed).await?;
        let is_there = |p: &Published| {
            p.tree.len() == observed.managed.len()
                && p.tree.iter().all(|(path, file)| observed.managed.get(path) == Some(&file.hub))
        };
        if publishes.landed.iter().any(is_there) {
            observed.elsewhere = None; // our own pull request, merged
        }
        if let (Some(last), Some(blobs)) = (last, blobs)
            && observed.by.as_ref() == Some(&last.commit)
        {
            observed.replaced = self.replaced(last, blobs).await?;
        }
        Ok(observed)
    }

    /// Lists the files where they were not asked for: others may have put some there before the last publish. What is found
    /// so may have to be proposed: then the open pull request is looked for, too.
    pub async fn list(&self, publishes: &Publishes, how: How, observed: &mut Observed) -> Result<()> {
        let Some(head) = observed.head.clone().filter(|_| observed.is_unlisted()) else { return Ok(()) };
        observed.files = Some(files_at(self, &head).await?);
        if how.on_drift == OnDrift::PullRequest && observed.proposal.is_none() {
            observed.proposal = self.proposal(publishes).await?.map(Box::new);
        }
        Ok(())
    }

    /// The repo's name as the hub writes it, where it is another: a hub leads from the name before to the one after.
    fn renamed(&self, head: &Head) -> Option<String> {
        let name = head.id.as_ref().filter(|id| id.contains('/'))?;
        (!name.eq_ignore_ascii_case(self.repo.name())).then(|| name.clone())
    }

    /// Looks at the files of a commit, and at what the newest publish below it left: another machine's, by its record, or
    /// `last`, this machine's. `own` are the commits of this machine's publishes.
    pub(super) async fn look(
        &self,
        commit: &str,
        last: Option<&Published>,
        own: &BTreeSet<&str>,
        observed: &mut Observed,
    ) -> Result<()> {
        let tree = self.client.tree(&self.repo, commit).await?;
        let commits = self.client.commits_since(&self.repo, commit, "", SEARCHED).await?;
        let newest = newest_publish(self, &commits, last.map_or("", |last| &last.commit), own).await?;
        let (by, record) = match (newest, last) {
            (Some((at, baseline)), last) => {
                observed.elsewhere = last.map(|_| made_elsewhere(&commits[at]));
                (baseline.commit, baseline.record)
            }
            (None, Some(last)) => {
                observed.replaced = Replaced::Unknown;
                observed.allowed = last.allowed.clone();
                (Some(last.commit.clone()), None)
            }
            (None, None) if tree.contains_key(RECORD) => {
                (None, self.client.download_small(&self.repo, commit, RECORD).await?)
            }
            (None, None) => (None, None),
        };
        observed.by = by;
        if let Some(managed) = record.as_deref().and_then(record::managed) {
            observed.managed = managed;
        }
        if let Some(record) = &record {
            (observed.replaced, observed.allowed) = record::version(record);
        }
        let file =
            |f: crate::hub::client::RemoteFile| RemoteFile { size: f.size, git_sha1: f.git_sha1, sha256: f.sha256 };
        observed.files = Some(tree.into_iter().map(|(path, f)| (path, file(f))).collect());
        Ok(())
    }

    /// The facts of the last publish: from the store, else from the repo.
    async fn replaced(&self, last: &Published, blobs: &Blobs) -> Result<Replaced> {
        let kept = match last.tree.get(RECORD) {
            Some(file) => blobs.read(&file.digest)?,
            None => None,
        };
        let record = match kept {
            Some(record) => Some(record),
            None => self.client.download_small(&self.repo, &last.commit, RECORD).await?,
        };
        Ok(record.map_or(Replaced::Unknown, |record| record::version(&record).0))
    }

    /// Looks for the commit of an intent: one after its parent whose message holds the nonce. `wait` says how long the
    /// server may still land it.
    pub async fn find_landed(&self, intent: &Intent, wait: Duration) -> Result<Option<Found>> {
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            for number in self.places_of(intent).await? {
                let revision = number.map_or(self.target.revision.clone(), PullRequest::revision);
                if let Some(commit) = self.find_on(&revision, intent).await? {
                    let pull_request = number.map(|number| self.pull_request(number));
                    return Ok(Some(Found { commit, pull_request }));
                }
            }
            if begun.elapsed() >= wait {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn find_on(&self, revision: &str, intent: &Intent) -> Result<Option<String>> {
        if self.client.head(&self.repo, revision).await?.is_none() {
            return Ok(None);
        }
        let commits = self.client.commits_since(&self.repo, revision, &intent.parent, SEARCHED).await?;
        let ours = |c: &CommitInfo| c.message.contains(&intent.nonce) || c.title.contains(&intent.nonce);
        Ok(commits.into_iter().find(ours).map(|commit| commit.id))
    }

    /// How long a commit whose answer was lost may still land. A hub of this very process cannot land it later, one on
    /// this machine hardly.
    pub fn may_still_land(&self) -> Duration {
        Duration::from_secs(match self.target.endpoint.as_str() {
            EMBEDDED => 0,
            endpoint if is_loopback(endpoint) => 2,
            _ => 90,
        })
    }
}

fn made_elsewhere(commit: &CommitInfo) -> Elsewhere {
    Elsewhere {
        commit: commit.id.clone(),
        title: commit.title.clone(),
        author: commit.author.clone(),
        date: commit.date.clone(),
        restores: marks(&commit.message).and_then(|marks| marks.restores),
    }
}

/// What is known of a remote before it is asked.
pub(super) fn seen(last: Option<&Published>) -> Observed {
    let managed = last.map(|p| p.tree.iter().map(|(path, file)| (path.clone(), file.hub.clone())).collect());
    Observed {
        last_commit: last.map(|p| p.seen_at().to_string()),
        by: last.map(|p| p.commit.clone()),
        managed: managed.unwrap_or_default(),
        replaced: Replaced::First,
        ..Observed::default()
    }
}

async fn embedded(folder: &Path, access: Access) -> Result<(HubClient, Option<Running>)> {
    if access == Access::Write
        && let Some(url) = EmbeddedHub::writer_of(folder)
    {
        return Ok((HubClient::new(&url, served_token().as_deref().and_then(Token::new))?, None));
    }
    let options = Options { read_only: access == Access::Read, ..Options::default() };
    let running = EmbeddedHub::start(folder, options).await?;
    Ok((HubClient::new(running.url(), None)?, Some(running)))
}

pub(super) fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|l| host.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with([':', '/'])))
}

/// Starts the hub that people and tools look at; a build that runs meanwhile publishes through it.
pub async fn serve(folder: &Path, port: u16, xet: bool) -> Result<Running> {
    EmbeddedHub::start(folder, Options { port, xet, token: served_token(), ..Options::default() }).await
}

/// Every text that may be a token which hfbuild uses.
pub fn own_tokens() -> Vec<String> {
    token_texts(&|name| std::env::var(name).ok()).into_iter().chain(served_token()).collect()
}

/// The token that `hub serve` asks for, if it asks for any.
fn served_token() -> Option<String> {
    std::env::var(SERVED_TOKEN).ok().filter(|token| !token.is_empty())
}
