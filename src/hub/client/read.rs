//! What is asked of a hub without changing it: who am I, where is the head, what is in the tree.
//!
//! Knows the read half of the commit layer. Compares nothing.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

use super::HubClient;
use super::http::{Answer, Call, Failure, segment, segments, send};
use crate::core::error::{Error, Result};
use crate::hub::protocol::{RevisionInfo, TreeEntry, WhoAmI, WhoScope};
use crate::hub::repo::RepoId;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The account.
    pub name: String,
    /// The organizations it belongs to.
    pub orgs: Vec<Org>,
    /// What the token may do: `read`, `write`, `fineGrained`; unknown on some hubs.
    pub role: Option<String>,
    /// What a fine-grained token may do; `None`: it is another, or the hub does not say.
    pub scopes: Option<Vec<Scope>>,
}

/// An organization that an account belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// Its namespace.
    pub name: String,
    /// What the account may do there: `admin`, `write`, `contributor`, `read`; unknown on some hubs.
    pub role: Option<String>,
}

/// What a fine-grained token may do with something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// What it is: `user`, `org`, `model`, `dataset`, `space`, or something else.
    pub kind: String,
    /// The namespace, or `namespace/name`.
    pub name: String,
    /// `repo.content.read`, `repo.write`...
    pub permissions: Vec<String>,
}

/// Where a revision stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `ns/name` as the hub writes it, which differs after a rename.
    pub id: Option<String>,
    /// The commit.
    pub sha: String,
    /// When the repository last changed, RFC 3339.
    pub last_modified: Option<String>,
    /// Whether only its owners see it.
    pub private: Option<bool>,
    /// Bytes that the repository takes, where the hub says so.
    pub used_storage: Option<u64>,
}

/// A file as the hub holds it. Equal content has an equal `sha256` when there is one, else an equal `git_sha1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The content's size.
    pub size: u64,
    /// The git blob's SHA-1: of the content, or for an LFS file of its pointer.
    pub git_sha1: String,
    /// The content's SHA-256: LFS files only.
    pub sha256: Option<String>,
}

const NOTHING: Option<&()> = None;

impl HubClient {
    /// Whose token this is, or who everyone is without one. An error when the hub refuses that; `None`: it does not say.
    pub async fn whoami(&self) -> Result<Option<Who>> {
        let call = Call { needs: "to be valid for this hub", ..Call::get("api/whoami-v2".to_owned()) };
        let who: WhoAmI = match self.http().json(&call, NOTHING).await {
            Ok(who) => who,
            Err(failure) if matches!(failure.status(), Some(404 | 405 | 501)) => return Ok(None),
            Err(failure) => return Err(self.http().explain(&call, failure)),
        };
        let token = who.auth.and_then(|auth| auth.access_token);
        let (role, fine) = token.map_or((None, None), |token| (token.role, token.fine_grained));
        let scope = |s: WhoScope| Scope { kind: s.entity.kind, name: s.entity.name, permissions: s.permissions };
        let orgs = who.orgs.into_iter().map(|org| Org { name: org.name, role: org.role_in_org }).collect();
        let scopes = fine.map(|f| f.scoped.into_iter().map(scope).collect());
        Ok(Some(Who { name: who.name, orgs, role, scopes }))
    }

    /// Where `revision` stands: `None` when the repository or the revision does not exist. One request.
    pub async fn head(&self, repo: &RepoId, revision: &str) -> Result<Option<Head>> {
        let call = Call::get(format!("{}/revision/{}", repo.api_path(), segment(revision)));
        let info: RevisionInfo = match self.http().json(&call, NOTHING).await {
            Ok(info) => info,
            Err(failure) if failure.is_missing() => return Ok(None),
            Err(failure) => return Err(self.http().explain(&call, failure)),
        };
        // An empty repository of some hubs has no commit yet.
        let RevisionInfo { id, sha, last_modified, private, used_storage } = info;
        let head = |sha| Head { id, sha, last_modified, private, used_storage };
        Ok(sha.map(head))
    }

    /// All files of `revision` by path.
    pub async fn tree(&self, repo: &RepoId, revision: &str) -> Result<BTreeMap<String, RemoteFile>> {
        let call = Call::get(format!("{}/tree/{}", repo.api_path(), segment(revision)));
        let mut page = self.http().address(&format!("{}?recursive=true", call.path))?;
        let mut files = BTreeMap::new();
        loop {
            let answer = self.page(&page).await.map_err(|failure| self.http().explain(&call, failure))?;
            let entries: Vec<TreeEntry> = answer.json(&call)?;
            files.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(remote_file));
            match next_page(&answer.headers).map(|href| self.http().address(&href)).transpose()? {
                Some(next) if next != page => page = next,
                _ => return Ok(files),
            }
        }
    }

    async fn page(&self, url: &Url) -> Result<Answer, Failure> {
        let get = || async { Answer::of(send(self.http().page(url)).await?).await };
        self.http().retrying(get).await
    }

    /// The content of one small file; `None` when it does not exist. More than 64 MiB is refused.
    pub async fn download_small(&self, repo: &RepoId, revision: &str, path: &str) -> Result<Option<Vec<u8>>> {
        const MOST: usize = 64 << 20;
        let call = Call::get(format!("{}/resolve/{}/{}", repo.web_path(), segment(revision), segments(path)));
        let get = || async {
            let mut response = send(self.http().api(&call)).await?;
            let mut content = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(Failure::of_transport)? {
                content.extend_from_slice(&piece);
                if content.len() > MOST {
                    return Err(Error::hub(format!("`{path}` is larger than {} MiB", MOST >> 20)).into());
                }
            }
            Ok(content)
        };
        match self.http().retrying(get).await {
            Ok(content) => Ok(Some(content)),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.http().explain(&call, failure)),
        }
    }
}

fn remote_file(entry: TreeEntry) -> (String, RemoteFile) {
    let size = entry.lfs.as_ref().map_or(entry.size, |lfs| lfs.size);
    (entry.path, RemoteFile { size, git_sha1: entry.oid, sha256: entry.lfs.map(|lfs| lfs.oid) })
}

/// The address in `Link: <...>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(LINK)?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (address, about) = link.split_once(';')?;
        let next = about.split(';').any(|word| matches!(word.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| address.trim().trim_start_matches('<').trim_end_matches('>').to_owned())
    })
}
