//! The content of large files: LFS batch, `basic` and `multipart` uploads, streamed from disk.
//!
//! Knows the hub's LFS dialect. An object that the hub already has is not read. Where the hub chooses xet, the content
//! goes there ([`super::xet`]). An address that was granted and is refused later has expired: the batch is asked again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Url};
use serde_json::{Map, Value};

use super::HubClient;
use super::http::{Call, Failure, segments, send};
use crate::core::error::{Error, OnPath, Result};
use crate::hub::protocol::{
    LFS_JSON, LfsAction, LfsActions, LfsBatchAnswer, LfsBatchObject, LfsBatchRequest, LfsCompletion, LfsPart,
    LfsPointer, LfsRefName,
};
use crate::hub::repo::RepoId;

/// A large file on disk.
#[derive(Debug, Clone)]
pub struct LfsObject {
    /// What it is called in errors: its path in the repository.
    pub name: String,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Its size.
    pub size: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// Called with the number of further bytes that left. A part that is sent twice counts once.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What an upload came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Objects that were sent.
    pub sent: usize,
    /// Objects that the hub already had.
    pub skipped: usize,
    /// Bytes of the objects that were sent.
    pub bytes: u64,
    /// Bytes that left over xet: of the objects that were sent, only the chunks that the hub lacked. 0 without xet.
    pub xet: u64,
}

/// How many objects one batch request names.
const OBJECTS: usize = 100;
/// How many objects are sent at once, and of one in parts how many parts.
const AT_ONCE: usize = 6;
const PARTS_AT_ONCE: usize = 4;
/// How often addresses are asked for when they expire before the content is there.
const GRANTS: usize = 3;
/// What is offered to the hub, which chooses.
const TRANSFERS: [&str; 3] = ["basic", "multipart", "xet"];
/// How much is read from disk at a time.
const PIECE: usize = 512 << 10;

/// What a batch asks for.
struct Wanted<'a> {
    /// Over xet; the actions then say nothing more.
    xet: bool,
    objects: Vec<(&'a LfsObject, LfsActions)>,
}

/// Why an object was not sent.
enum Trouble {
    /// The address that was granted is refused.
    Expired(Error),
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Final(error)
    }
}

/// The error for a file whose size is not what was hashed.
pub(super) fn changed_while_published(object: &LfsObject, found: u64) -> Error {
    Error::stage(format!("`{}` changed while it was published", object.name))
        .cause(format!("expected {} bytes, found {found}", object.size))
        .hint("run it again when nothing writes the file any more")
}

impl HubClient {
    /// Makes sure that the hub has all of `objects`, and sends those that it lacks.
    pub async fn upload_lfs(
        &self,
        repo: &RepoId,
        revision: &str,
        objects: &[LfsObject],
        progress: Progress,
    ) -> Result<Uploaded> {
        let mut uploaded = Uploaded::default();
        let mut over_xet = Vec::new();
        for batch in objects.chunks(OBJECTS) {
            let batch: Vec<_> = batch.iter().collect();
            let wanted = self.lfs_batch(repo, revision, &batch, &TRANSFERS).await?;
            uploaded.skipped += batch.len() - wanted.objects.len();
            uploaded.sent += wanted.objects.len();
            uploaded.bytes += wanted.objects.iter().map(|(object, _)| object.size).sum::<u64>();
            match wanted.xet {
                true => over_xet.extend(wanted.objects.into_iter().map(|(object, _)| object)),
                false => self.send_wanted(repo, revision, wanted.objects, &progress).await?,
            }
        }
        if over_xet.is_empty() {
            return Ok(uploaded);
        }
        match self.upload_xet(repo, revision, &over_xet, &progress).await? {
            Some(left) => uploaded.xet = left,
            // it chose xet and gives no token for it: then the way that every hub knows
            None => {
                for batch in over_xet.chunks(OBJECTS) {
                    let wanted = self.lfs_batch(repo, revision, batch, &TRANSFERS[..2]).await?;
                    self.send_wanted(repo, revision, wanted.objects, &progress).await?;
                }
            }
        }
        Ok(uploaded)
    }

    /// Sends objects where the batch said. Those whose addresses have expired meanwhile are asked for again.
    async fn send_wanted<'a>(
        &self,
        repo: &RepoId,
        revision: &str,
        mut wanted: Vec<(&'a LfsObject, LfsActions)>,
        progress: &Progress,
    ) -> Result<()> {
        for round in 1..=GRANTS {
            let uploads = wanted.into_iter().map(|(object, actions)| async move {
                match self.upload_object(object, &actions, progress).await {
                    Ok(()) => Ok(None),
                    Err(Trouble::Expired(_)) if round < GRANTS => Ok(Some(object)),
                    Err(Trouble::Expired(error) | Trouble::Final(error)) => Err(error),
                }
            });
            let uploads: Vec<_> = uploads.collect();
            let ended: Vec<Option<&'a LfsObject>> =
                futures_util::stream::iter(uploads).buffer_unordered(AT_ONCE).try_collect().await?;
            let expired: Vec<_> = ended.into_iter().flatten().collect();
            if expired.is_empty() {
                return Ok(());
            }
            wanted = self.lfs_batch(repo, revision, &expired, &TRANSFERS[..2]).await?.objects;
        }
        Ok(())
    }

    /// Asks which of `objects` are wanted, and where.
    async fn lfs_batch<'a>(
        &self,
        repo: &RepoId,
        revision: &str,
        objects: &[&'a LfsObject],
        transfers: &[&str],
    ) -> Result<Wanted<'a>> {
        let call = Call::post(format!("{}.git/info/lfs/objects/batch", segments(&repo.web_path())));
        let body = LfsBatchRequest {
            operation: "upload".to_owned(),
            transfers: transfers.iter().map(|&name| name.to_owned()).collect(),
            objects: objects.iter().map(|o| LfsPointer { oid: o.sha256.clone(), size: o.size }).collect(),
            hash_algo: Some("sha256".to_owned()),
            to: Some(LfsRefName { name: revision.to_owned() }),
        };
        let body = serde_json::to_vec(&body).map_err(|e| Error::bug(e.to_string()))?;
        let ask = || async {
            let request = self.http().api(&call).header("accept", LFS_JSON).header(CONTENT_TYPE, LFS_JSON);
            super::http::Answer::of(send(request.body(body.clone())).await?).await
        };
        let answer = self.http().retrying(ask).await.map_err(|failure| self.http().explain(&call, failure))?;
        let answer: LfsBatchAnswer = answer.json(&call)?;
        let chosen = answer.transfer.as_deref().unwrap_or("basic");
        if !transfers.contains(&chosen) {
            return Err(Error::hub(format!("the hub takes large files by `{chosen}` only"))
                .hint(format!("hfbuild offered {}", transfers.join(", "))));
        }
        let mut wanted = Wanted { xet: chosen == "xet", objects: Vec::new() };
        for said in answer.objects {
            let Some(object) = objects.iter().copied().find(|object| object.sha256 == said.oid) else { continue };
            if let Some(actions) = actions_of(object, said)? {
                wanted.objects.push((object, actions));
            }
        }
        Ok(wanted)
    }

    async fn upload_object(
        &self,
        object: &LfsObject,
        actions: &LfsActions,
        progress: &Progress,
    ) -> Result<(), Trouble> {
        let found = tokio::fs::metadata(&object.path).await.on("read", &object.path)?.len();
        if found != object.size {
            return Err(changed_while_published(object, found).into());
        }
        let Some(upload) = &actions.upload else { return Ok(()) };
        let empty = Map::new();
        let header = upload.header.as_ref().unwrap_or(&empty);
        match header.get("chunk_size").and_then(number) {
            Some(chunk) if chunk > 0 => self.upload_parts(object, upload, header, chunk, progress).await?,
            Some(_) => return Err(malformed(object, "`chunk_size` is 0").into()),
            None => {
                let url = self.http().address(&upload.href)?;
                self.put(object, &url, 0, object.size, Some(header), progress).await?;
            }
        }
        match &actions.verify {
            Some(verify) => Ok(self.verify(object, verify).await?),
            None => Ok(()),
        }
    }

    /// Sends `length` bytes from `offset` on; gives the answer's `ETag`.
    async fn put(
        &self,
        object: &LfsObject,
        url: &Url,
        offset: u64,
        length: u64,
        header: Option<&Map<String, Value>>,
        progress: &Progress,
    ) -> Result<Option<String>, Trouble> {
        let call = Call { method: Method::PUT, ..Call::post(url.path().trim_start_matches('/').to_owned()) };
        let farthest = Arc::new(AtomicU64::new(0));
        let attempt = || async {
            let body = body(object, offset, length, progress.clone(), farthest.clone()).await?;
            let request = self.http().elsewhere(Method::PUT, url).header(CONTENT_LENGTH, length).body(body);
            let response = send(with_headers(request, header)).await?;
            Ok(response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned))
        };
        self.http().retrying(attempt).await.map_err(|failure| {
            let expired = matches!(failure.status(), Some(401 | 403 | 410));
            let error = self.explain_at(&call, url, object, failure);
            if expired { Trouble::Expired(error) } else { Trouble::Final(error) }
        })
    }

    async fn upload_parts(
        &self,
        object: &LfsObject,
        upload: &LfsAction,
        header: &Map<String, Value>,
        chunk: u64,
        progress: &Progress,
    ) -> Result<(), Trouble> {
        let mut parts: Vec<(u32, &str)> =
            header.iter().filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?))).collect();
        parts.sort_unstable();
        if parts.len() as u64 != object.size.div_ceil(chunk) {
            let why = format!("{} parts of {chunk} bytes do not make {}", parts.len(), object.size);
            return Err(malformed(object, &why).into());
        }
        let sends = parts.iter().enumerate().map(|(index, (_, url))| async move {
            let offset = index as u64 * chunk;
            let url = self.http().address(url)?;
            let etag = self.put(object, &url, offset, chunk.min(object.size - offset), None, progress).await?;
            let etag = etag.ok_or_else(|| malformed(object, "a part's answer has no `ETag`"))?;
            Ok::<_, Trouble>(LfsPart { part_number: index as u32 + 1, etag })
        });
        let sends: Vec<_> = sends.collect();
        let parts = futures_util::stream::iter(sends).buffered(PARTS_AT_ONCE).try_collect().await?;
        let completion = LfsCompletion { oid: object.sha256.clone(), parts };
        Ok(self.post(object, &upload.href, None, &completion).await?)
    }

    async fn verify(&self, object: &LfsObject, action: &LfsAction) -> Result<()> {
        let pointer = LfsPointer { oid: object.sha256.clone(), size: object.size };
        self.post(object, &action.href, action.header.as_ref(), &pointer).await
    }

    async fn post(
        &self,
        object: &LfsObject,
        href: &str,
        header: Option<&Map<String, Value>>,
        body: &impl serde::Serialize,
    ) -> Result<()> {
        let url = self.http().address(href)?;
        let call = Call::post(url.path().trim_start_matches('/').to_owned());
        let body = serde_json::to_vec(body).map_err(|e| Error::bug(e.to_string()))?;
        let attempt = || async {
            let request = self.http().elsewhere(Method::POST, &url).header("accept", LFS_JSON);
            let request = with_headers(request.header(CONTENT_TYPE, LFS_JSON), header);
            send(request.body(body.clone())).await.map(drop)
        };
        self.http().retrying(attempt).await.map_err(|failure| self.explain_at(&call, &url, object, failure))
    }

    /// The failure of a request for one object in words. Where it went to a storage on another host, that one is named.
    fn explain_at(&self, call: &Call, url: &Url, object: &LfsObject, failure: Failure) -> Error {
        let error = match failure {
            Failure::Ours(error) => return error,
            failure if self.http().is_own(url) => self.http().explain(call, failure),
            failure => explain_storage(call, url, failure),
        };
        error.within(&format!("`{}`", object.name))
    }
}

/// The failure of a request to a storage that the hub named. Its query may hold a signature, and is not said.
fn explain_storage(call: &Call, url: &Url, failure: Failure) -> Error {
    let host = url.origin().ascii_serialization();
    match failure {
        Failure::Ours(error) => error,
        Failure::Lost { reason, .. } => {
            Error::hub(format!("cannot reach the storage `{host}`, to which the hub sends large files"))
                .cause(reason)
                .hint("may this machine reach that host, through a firewall or a proxy? nothing is lost, run it again")
        }
        Failure::Refused(refusal) => {
            let said = format!("the storage `{host}` answered {} to `{} /{}`", refusal.status, call.method, call.path);
            let hint = match refusal.status {
                401 | 403 | 410 => {
                    "the addresses that the hub gives for it are refused: is this machine's clock right?"
                }
                500.. => "this is the storage's trouble: run it again later, nothing is lost",
                _ => "nothing is lost: run it again",
            };
            refusal.message.into_iter().fold(Error::hub(said), Error::cause).hint(hint)
        }
    }
}

/// The steps for one object; `None` when the hub has it.
fn actions_of(object: &LfsObject, said: LfsBatchObject) -> Result<Option<LfsActions>> {
    if let Some(error) = said.error {
        return Err(Error::hub(format!("the hub does not take `{}`", object.name)).cause(error.message));
    }
    Ok(said.actions.filter(|actions| actions.upload.is_some()))
}

/// The body of one PUT, reading the file as it is sent.
async fn body(
    object: &LfsObject,
    offset: u64,
    length: u64,
    progress: Progress,
    farthest: Arc<AtomicU64>,
) -> Result<Body, Failure> {
    let mut file = File::open(&object.path).on("open", &object.path)?;
    file.seek(SeekFrom::Start(offset)).on("read", &object.path)?;
    let mut sent = 0;
    let pieces = futures_util::stream::try_unfold((file, length), next_piece).inspect_ok(move |piece| {
        sent += piece.len() as u64;
        let before = farthest.fetch_max(sent, Ordering::Relaxed);
        if sent > before {
            progress(sent - before);
        }
    });
    Ok(Body::wrap_stream(pieces))
}

/// Reads the next piece of a file of which `left` bytes are still to come. Its buffer is the one that is sent.
async fn next_piece((file, left): (File, u64)) -> std::io::Result<Option<(Bytes, (File, u64))>> {
    if left == 0 {
        return Ok(None);
    }
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = Vec::with_capacity(left.min(PIECE as u64) as usize);
        let read = (&file).take(left.min(PIECE as u64)).read_to_end(&mut piece)?;
        Ok((read > 0).then(|| (Bytes::from(piece), (file, left - read as u64))))
    });
    read.await.map_err(std::io::Error::other)?
}

/// Adds an action's headers. Names that are no headers (a multipart's numbers) do not come here.
fn with_headers(request: RequestBuilder, header: Option<&Map<String, Value>>) -> RequestBuilder {
    header.into_iter().flatten().fold(request, |request, (name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes());
        match (name, value.as_str().map(HeaderValue::from_str)) {
            (Ok(name), Some(Ok(value))) if name != CONTENT_LENGTH => request.header(name, value),
            _ => request,
        }
    })
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn malformed(object: &LfsObject, why: &str) -> Error {
    Error::hub(format!("the hub's instructions for sending `{}` are malformed", object.name)).cause(why.to_owned())
}
