//! The remote: which hub it is, how it is reached, and what is seen of it before planning.
//!
//! The embedded hub lives in the process that publishes; where `hfbuild hub serve` runs, that one is used. Knows the
//! client; decides nothing but which of two records of the past to believe.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::manifest::Hub;
use crate::core::plan::RECORD;
use crate::core::publish::{Intent, Observed, Published, RemoteFile, Target};
use crate::core::record;
use crate::core::replaced::Replaced;
use crate::hub::client::CommitInfo;
use crate::hub::embedded::{Options, Running};
use crate::hub::{EmbeddedHub, HubClient, RepoId, RepoKind, Token, resolve_token};
use crate::store::blobs::Blobs;
use crate::store::records::Publishes;
use std::path::Path;
use std::time::Duration;

/// The public Hub.
const PUBLIC: &str = "https://huggingface.co";
/// The word for the hub under cache/.
pub const EMBEDDED: &str = "embedded";
/// The variable with the token of `hub serve`: a word of its own, so that nobody's token for the live Hub is asked for.
const SERVED_TOKEN: &str = "HFBUILD_HUB_TOKEN";
/// How many commits are searched for our own nonce.
const SEARCHED: usize = 200;

/// A hub that can be spoken to, with the repo that the manifest names.
pub struct Remote {
    /// Where a publish goes.
    pub target: Target,
    /// The repo.
    pub repo: RepoId,
    /// The client.
    pub client: HubClient,
    /// Whether the repo is to hold nothing but the tree: then its files are always listed.
    pub mirror: bool,
    /// The hub that this process runs, if it does.
    running: Option<Running>,
}

/// How the hub will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read: `plan`, `status`.
    Read,
    /// Written to: a build. Needs a token on any hub but the embedded one.
    Write,
}

/// Where the manifest's repo goes: flag, then manifest, then `HF_ENDPOINT`, then the public Hub.
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

impl Remote {
    /// Connects; for the embedded hub, finds the one that serves or starts one.
    pub async fn open(target: Target, folder: &Path, access: Access) -> Result<Remote> {
        let kind =
            RepoKind::from_word(&target.kind).ok_or_else(|| Error::bug(format!("no repo type `{}`", target.kind)))?;
        let repo = RepoId::new(kind, &target.repo).map_err(|e| e.with_kind(ErrorKind::Manifest))?;
        if target.endpoint == EMBEDDED {
            let (client, running) = embedded(folder, access).await?;
            return Ok(Remote { target, repo, client, mirror: false, running });
        }
        let token = resolve_token(&|name| std::env::var(name).ok());
        if token.is_none() && access == Access::Write && !is_loopback(&target.endpoint) {
            return Err(Error::hub(format!("there is no token for `{}`", target.endpoint))
                .hint("set HF_TOKEN, or log in with `hf auth login`; to try without a hub of your own, use `--endpoint embedded`"));
        }
        let client = HubClient::new(&target.endpoint, token)?;
        Ok(Remote { target, repo, client, mirror: false, running: None })
    }

    /// Checks, before any stage runs, that a publish can go through: the token is good, it may write, and a repo that is
    /// not there yet may be made. A hub on loopback may do without tokens.
    pub async fn preflight(&self, exists: bool) -> Result<()> {
        if self.target.endpoint == EMBEDDED || !self.client.has_token() {
            return Ok(());
        }
        let who = self.client.whoami().await?;
        if who.role.as_deref() == Some("read") {
            return Err(Error::hub(format!("the token of `{}` may only read", who.name)).hint(
                "a publish needs a token with the role `write`, or a fine-grained one with write access to the repo",
            ));
        }
        let namespace = self.repo.namespace();
        if exists || is_loopback(&self.target.endpoint) {
            return Ok(());
        }
        if namespace != who.name && !who.orgs.iter().any(|org| org == namespace) {
            return Err(Error::hub(format!("`{}` may not publish to `{}`", who.name, self.repo.name()))
                .hint(format!("`{namespace}` is neither the account nor one of its organisations")));
        }
        Ok(())
    }

    /// Observes the remote. When the head is the last publish's own commit, that was the only request. `blobs` is given
    /// where gates ask for the facts of what is published: of the last publish they are in the store.
    pub async fn observe(&self, publishes: &Publishes, blobs: Option<&Blobs>) -> Result<Observed> {
        let last = publishes.last(&self.target);
        let last_commit = last.map(|p| p.commit.clone());
        let mut observed = Observed { last_commit, mirror: self.mirror, ..Observed::default() };
        let last_managed = |o: &mut Observed| {
            o.managed =
                last.map(|p| p.tree.iter().map(|(k, f)| (k.clone(), f.hub.clone())).collect()).unwrap_or_default();
        };
        last_managed(&mut observed);
        observed.replaced = Replaced::First;
        let Some(head) = self.client.head(&self.repo, &self.target.revision).await? else { return Ok(observed) };
        observed.head = Some(head.sha.clone());
        if let Some(last) = last.filter(|_| observed.head == observed.last_commit && !self.mirror) {
            observed.allowed = last.allowed.clone();
            observed.replaced = match blobs {
                Some(blobs) => self.replaced(last, blobs).await?,
                None => Replaced::Unknown,
            };
            return Ok(observed);
        }
        let tree = self.client.tree(&self.repo, &head.sha).await?;
        let record = match tree.contains_key(RECORD) {
            true => self.client.download_small(&self.repo, &head.sha, RECORD).await?,
            false => None,
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
        Ok(observed)
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
    pub async fn find_landed(&self, intent: &Intent, wait: Duration) -> Result<Option<String>> {
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            let commits = match self.client.head(&self.repo, &self.target.revision).await? {
                Some(_) => {
                    self.client.commits_since(&self.repo, &self.target.revision, &intent.parent, SEARCHED).await?
                }
                None => vec![],
            };
            let ours = |c: &CommitInfo| c.message.contains(&intent.nonce) || c.title.contains(&intent.nonce);
            if let Some(commit) = commits.into_iter().find(ours) {
                return Ok(Some(commit.id));
            }
            if begun.elapsed() >= wait {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
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

    /// Ends the hub that this process runs.
    pub async fn close(self) {
        if let Some(running) = self.running {
            running.stop().await;
        }
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

fn is_loopback(endpoint: &str) -> bool {
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
