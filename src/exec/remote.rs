//! The remote: which hub it is, how it is reached, and what is seen of it before planning.
//!
//! The embedded hub lives in the process that publishes; where `hfbuild hub serve` runs, that one is used. Knows the
//! client; decides nothing but which of two records of the past to believe.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::graph::NodeId;
use crate::core::manifest::{Hub, OnDrift};
use crate::core::plan::RECORD;
use crate::core::publish::{ATTRIBUTES, How, Intent, Observed, Published, PullRequest, RemoteFile, Target};
use crate::core::record;
use crate::core::replaced::Replaced;
use crate::exec::baseline::believed;
use crate::hub::client::CommitInfo;
use crate::hub::embedded::{Options, Running};
use crate::hub::{EmbeddedHub, HubClient, RepoId, RepoKind, Token, resolve_token};
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
    let token = resolve_token(&|name| std::env::var(name).ok());
    if token.is_none() && access == Access::Write && !is_loopback(endpoint) {
        let named = ["HF_TOKEN", "HF_TOKEN_PATH"]
            .into_iter()
            .find(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
        let named = named.map(|name| format!(": `{name}` holds, or names, none")).unwrap_or_default();
        return Err(Error::hub(format!("there is no token for `{endpoint}`{named}")).hint(
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
        let last = publishes.last(&self.target);
        let mut observed = self.observe_branch(last, &publishes.proposed(&self.target), blobs, how).await?;
        let moved = observed.head.is_some() && observed.head != observed.last_commit;
        if how.pull_request || how.on_drift == OnDrift::PullRequest && moved {
            observed.proposal = self.proposal(publishes).await?.map(Box::new);
        }
        Ok(observed)
    }

    async fn observe_branch(
        &self,
        last: Option<&Published>,
        proposed: &BTreeSet<String>,
        blobs: Option<&Blobs>,
        how: How,
    ) -> Result<Observed> {
        let revision = &self.target.revision;
        let mut observed = seen(last);
        match self.client.head(&self.repo, revision).await? {
            Some(head) => observed.head = Some(head.sha),
            None if revision == DEFAULT || revision.starts_with("refs/") => return Ok(observed),
            None => match self.client.head(&self.repo, DEFAULT).await? {
                Some(head) => observed.start = Some(head.sha),
                None => return Ok(observed),
            },
        }
        // a mirror's files are always listed: others may have put some there
        if let Some(last) = last.filter(|_| observed.head == observed.last_commit && !how.mirror) {
            self.is_last(last, blobs, &mut observed).await?;
            return Ok(observed);
        }
        let commit = observed.head.clone().or_else(|| observed.start.clone()).unwrap_or_default();
        if let (false, Some(last)) = (self.look(&commit, &mut observed, proposed).await?, last) {
            self.is_last(last, blobs, &mut observed).await?;
        }
        Ok(observed)
    }

    /// What is published there is this machine's last publish, or was meant to be.
    async fn is_last(&self, last: &Published, blobs: Option<&Blobs>, observed: &mut Observed) -> Result<()> {
        observed.allowed = last.allowed.clone();
        observed.replaced = match blobs {
            Some(blobs) => self.replaced(last, blobs).await?,
            None => Replaced::Unknown,
        };
        Ok(())
    }

    /// Looks at the files of a commit, and at the record that says what a publish left there. A record that no publish
    /// brought is somebody's change, and says nothing. `false`: there is none that is to be believed before what this
    /// machine knows itself.
    pub(super) async fn look(
        &self,
        commit: &str,
        observed: &mut Observed,
        proposed: &BTreeSet<String>,
    ) -> Result<bool> {
        let tree = self.client.tree(&self.repo, commit).await?;
        // a repo that holds nothing but what the hub put there was never published to
        let is_empty = tree.keys().all(|path| path == ATTRIBUTES);
        let record = match is_empty || observed.last_commit.as_deref() == Some(commit) {
            true => None,
            false => believed(self, commit, observed.last_commit.as_deref(), proposed).await?,
        };
        if let Some(managed) = record.as_deref().and_then(record::managed) {
            observed.managed = managed;
        }
        if let Some(record) = &record {
            (observed.replaced, observed.allowed) = record::version(record);
        }
        let file =
            |f: crate::hub::client::RemoteFile| RemoteFile { size: f.size, git_sha1: f.git_sha1, sha256: f.sha256 };
        observed.files = Some(tree.into_iter().map(|(path, f)| (path, file(f))).collect());
        Ok(record.is_some())
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

/// What is known of a remote before it is asked.
pub(super) fn seen(last: Option<&Published>) -> Observed {
    let managed = last.map(|p| p.tree.iter().map(|(path, file)| (path.clone(), file.hub.clone())).collect());
    Observed {
        last_commit: last.map(|p| p.commit.clone()),
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

/// The token that `hub serve` asks for, if it asks for any.
fn served_token() -> Option<String> {
    std::env::var(SERVED_TOKEN).ok().filter(|token| !token.is_empty())
}
