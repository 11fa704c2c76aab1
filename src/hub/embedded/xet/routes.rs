//! The HTTP of xet storage: tokens, and the requests that `hf-xet` makes with them.
//!
//! A token is a keyed digest of its scope and its end; addresses of xorbs carry a digest of their own, as those of the
//! live Hub's are signed. Tokens are for the whole storage: the hub has one account. The protocol's second version
//! (`/v2/`) and upload grants are answered 404, on which clients take the first.

use std::io::Write;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, header};
use futures_util::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use xet_core_structures::metadata_shard::streaming_shard::MDBMinimalShard;

use super::{XetFile, no_xorb};
use crate::core::error::OnPath;
use crate::hub::embedded::answer::{Answer, Outcome, Refused, answer, json_answer};
use crate::hub::embedded::files::{self, Span};
use crate::hub::embedded::routes::{Ask, Hub};
use crate::hub::repo::RepoId;

/// How long a token is good, in seconds.
const TOKEN_LIFE: i64 = 3600;
/// The largest xorb: 64 MiB of chunks, their headers, a footer.
const MOST_XORB: usize = 72 << 20;
/// The largest shard.
const MOST_SHARD: usize = 80 << 20;

/// What a URL below the storage's address means.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub::embedded) enum Cas {
    Xorb(String),
    Shards,
    Chunk(String),
    Pieces(String),
    /// Bytes of a xorb.
    Fetch(String),
    /// What the protocol has and this hub has not.
    Other,
}

/// Reads what follows `/api/xet/<id>/`.
pub(in crate::hub::embedded) fn route(parts: &[&str]) -> Cas {
    match parts {
        ["v1", "xorbs", _, hash] => Cas::Xorb((*hash).to_owned()),
        ["v1", "shards"] => Cas::Shards,
        ["v1", "chunks", _, hash] => Cas::Chunk((*hash).to_owned()),
        ["v1", "reconstructions", hash] => Cas::Pieces((*hash).to_owned()),
        ["fetch", hash] => Cas::Fetch((*hash).to_owned()),
        _ => Cas::Other,
    }
}

impl Cas {
    /// Its name among the points of faults.
    pub fn point(&self) -> &'static str {
        match self {
            Cas::Xorb(_) => "xet.xorb",
            Cas::Shards => "xet.shard",
            Cas::Chunk(_) => "xet.chunk",
            Cas::Pieces(_) => "xet.pieces",
            Cas::Fetch(_) => "xet.fetch",
            Cas::Other => "xet.other",
        }
    }
}

/// What a client needs to speak to the storage.
struct Access {
    url: String,
    token: String,
    ends: i64,
}

/// Names and values.
type Headers = [(&'static str, String); 3];

impl Access {
    fn headers(&self) -> Headers {
        [
            ("X-Xet-Cas-Url", self.url.clone()),
            ("X-Xet-Access-Token", self.token.clone()),
            ("X-Xet-Token-Expiration", self.ends.to_string()),
        ]
    }
}

impl Hub {
    fn xet_digest(&self, words: &[&str]) -> String {
        let mut hash = Sha256::new_with_prefix(b"xet");
        self.secret.iter().for_each(|word| hash.update(word.to_le_bytes()));
        words.iter().for_each(|word| hash.update(format!("{} {word}", word.len())));
        hex::encode(&hash.finalize()[..16])
    }

    fn xet_token(&self, scope: &str, ends: i64) -> String {
        format!("{scope}.{ends}.{}", self.xet_digest(&[scope, &ends.to_string()]))
    }

    fn xet_id(&self) -> Result<String, Refused> {
        let _guard = self.store.lock();
        Ok(self.store.xet.id(&format!("{:016x}", self.secret[0]))?)
    }

    fn xet_access(&self, ask: &Ask, write: bool) -> Result<Access, Refused> {
        let ends = jiff::Timestamp::now().as_second() + TOKEN_LIFE;
        let url = format!("{}/api/xet/{}", ask.base, self.xet_id()?);
        Ok(Access { url, token: self.xet_token(if write { "write" } else { "read" }, ends), ends })
    }

    /// Whether the request carries a token that is good for it.
    fn admit_xet(&self, ask: &Ask, write: bool) -> Result<(), Refused> {
        let given = ask.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|given| given.strip_prefix("Bearer ")).unwrap_or_default();
        let ends = token.split('.').nth(1).and_then(|ends| ends.parse::<i64>().ok()).unwrap_or_default();
        let good = |scope| token == self.xet_token(scope, ends) && ends > jiff::Timestamp::now().as_second();
        let fits = good("write") || (!write && good("read"));
        if fits { Ok(()) } else { Err(Refused::new(401, "this xet token is not good here, or no longer")) }
    }

    /// The xet hash of some content, where xet is offered.
    pub fn xet_hash(&self, sha256: &str) -> Option<String> {
        self.store.xet.hash_of(sha256).filter(|_| self.options.xet)
    }

    /// What an LFS batch answers to a client that can do xet.
    pub fn xet_upload(&self, ask: &Ask) -> Result<(String, Headers), Refused> {
        let access = self.xet_access(ask, true)?;
        Ok((access.url.clone(), access.headers()))
    }
}

/// `xet-read-token` and `xet-write-token`.
pub(in crate::hub::embedded) fn token(hub: &Hub, ask: &Ask, repo: &RepoId, write: bool, revision: &str) -> Outcome {
    if !hub.options.xet {
        return Err(Refused::new(404, "this hub is served without xet"));
    }
    hub.at(repo, revision)?;
    let access = hub.xet_access(ask, write)?;
    let said = json!({ "accessToken": access.token, "exp": access.ends, "casUrl": access.url });
    let mut answer = json_answer(200, &said);
    for (name, value) in access.headers() {
        set(&mut answer, name, &value);
    }
    Ok(answer)
}

fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), HeaderValue::from_str(value)) {
        answer.headers_mut().insert(name, value);
    }
}

/// Answers a request to the storage with this `id`.
pub(in crate::hub::embedded) async fn fulfil(hub: &Hub, ask: &Ask, id: &str, cas: &Cas, body: Body) -> Outcome {
    if !hub.options.xet || id != hub.xet_id()? {
        return Err(Refused::new(404, "this hub has no such xet storage"));
    }
    let (get, post) = (ask.method == Method::GET, ask.method == Method::POST);
    match cas {
        Cas::Fetch(xorb) if get => return fetch(hub, ask, xorb).await,
        Cas::Other => return Err(Refused::no_route()),
        _ => hub.admit_xet(ask, post)?,
    }
    match cas {
        Cas::Xorb(hash) if post => post_xorb(hub, hash, body).await,
        Cas::Shards if post => post_shard(hub, body).await,
        Cas::Chunk(hash) if get => chunk(hub, hash),
        Cas::Pieces(hash) if get => pieces(hub, ask, hash),
        _ => Err(Refused::new(405, "this method is not offered here")),
    }
}

/// Does what waits for the disk where it holds up nobody.
async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refused::new(500, "the embedded hub failed: this is a bug of hfbuild")))
}

async fn post_xorb(hub: &Hub, hash: &str, body: Body) -> Outcome {
    let (mut temp, mut size, mut pieces) = (hub.store.temp()?, 0, body.into_data_stream());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Refused::bad("the body broke off"))?;
        size += piece.len();
        if size > MOST_XORB {
            return Err(Refused::new(413, "the xorb is too large"));
        }
        temp.write_all(&piece).on("write", "tmp")?;
    }
    let (store, hash) = (hub.store.xet.clone(), hash.to_owned());
    let inserted = off(move || store.accept_xorb(temp, &hash)).await?;
    Ok(json_answer(200, &json!({ "was_inserted": inserted })))
}

async fn post_shard(hub: &Hub, body: Body) -> Outcome {
    let too_large = |_| Refused::new(413, "the shard is too large");
    let body: Bytes = axum::body::to_bytes(body, MOST_SHARD).await.map_err(too_large)?;
    let limit = Some(body.len() as u64);
    let shard = MDBMinimalShard::from_reader_async(&mut &body[..], true, true, limit).await;
    let shard = shard.map_err(|e| Refused::bad(format!("the shard cannot be read: {e}")))?;
    let store = hub.store.xet.clone();
    let hash = off(move || store.accept_shard(&shard)).await?;
    Ok(json_answer(200, &json!({ "result": 1, "shard_hash": hash })))
}

fn chunk(hub: &Hub, hash: &str) -> Outcome {
    let shard = hub.store.xet.shard_of(hash).and_then(|path| std::fs::read(path).ok());
    shard.map(|bytes| answer(200, "application/octet-stream", bytes)).ok_or_else(|| {
        // Not an error: the client will send the chunk.
        Refused::new(404, "no shard has this chunk")
    })
}

fn pieces(hub: &Hub, ask: &Ask, hash: &str) -> Outcome {
    let file: XetFile = hub.store.xet.file(hash)?.ok_or_else(|| Refused::new(404, "no such file in xet storage"))?;
    let range = ask.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (start, end) = match range.map(|range| files::span(range, file.size)) {
        None | Some(Span::Whole) => (0, file.size),
        Some(Span::Part(first, last)) => (first, last + 1),
        Some(Span::Beyond) => return Ok(files::beyond(file.size)),
    };
    let url = |xorb: &str| format!("{}{}", address(&ask.base, &ask.path), hub.xet_fetch(xorb));
    match hub.store.xet.pieces(&file, start, end, url)? {
        Some(value) => Ok(json_answer(200, &value)),
        None => Ok(files::beyond(file.size)),
    }
}

/// The storage's address, from that of the request: `…/api/xet/<id>`.
fn address(base: &str, path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).take(3).collect();
    format!("{base}/{}", parts.join("/"))
}

impl Hub {
    fn xet_fetch(&self, xorb: &str) -> String {
        format!("/fetch/{xorb}?grant={}", self.xet_digest(&["fetch", xorb]))
    }
}

async fn fetch(hub: &Hub, ask: &Ask, xorb: &str) -> Outcome {
    if ask.get("grant") != Some(&hub.xet_digest(&["fetch", xorb])) {
        return Err(Refused::new(403, "this download was not granted"));
    }
    let path = hub.store.xet.path("xorbs", xorb).filter(|path| path.exists()).ok_or_else(|| no_xorb(xorb))?;
    files::send_file(ask, &path, &format!("\"{xorb}\""), "application/octet-stream").await
}
