//! Downloads: `resolve` with its headers and ranges, `raw`, and objects by their digest.
//!
//! Content is streamed from disk. What a browser could run is served as plain text, and nothing that is served may
//! run scripts: it comes from whoever published it.

use std::io::Read;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;

use super::answer::{Answer, Outcome, Refused, answer};
use super::git;
use super::routes::{Ask, Hub};
use super::store::{Content, is_hex};
use super::xet::{XetFile, XetReader, XetStore};
use crate::core::error::OnPath;
use crate::hub::repo::RepoId;

const PIECE: usize = 256 << 10;

pub(super) async fn resolve(hub: &Hub, ask: &Ask, repo: &RepoId, revision: &str, path: &str) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let file = commit.tree.get(path).ok_or_else(|| Refused::no_entry(path))?;
    let etag = format!("\"{}\"", file.identity());
    let mut answer = content(hub, ask, &file.sha256, &etag, content_type(path)).await?;
    let headers = answer.headers_mut();
    set(headers, "x-repo-commit", &commit.oid);
    if file.lfs {
        set(headers, "x-linked-etag", &etag);
        set(headers, "x-linked-size", &file.size.to_string());
        if let Some(hash) = hub.xet_hash(&file.sha256) {
            let route = format!("api/{}/{}/xet-read-token/{}", repo.kind().plural(), repo.name(), commit.oid);
            set(headers, "x-xet-hash", &hash);
            set(headers, "link", &format!("<{}/{route}>; rel=\"xet-auth\"", ask.base));
        }
    }
    Ok(answer)
}

/// An object by its digest, for LFS downloads.
pub(super) async fn object(hub: &Hub, ask: &Ask, oid: &str) -> Outcome {
    if !is_hex(oid, 64) || hub.store.object_size(oid).is_none() {
        return Err(Refused::new(404, "no such object"));
    }
    content(hub, ask, oid, &format!("\"{oid}\""), "application/octet-stream").await
}

/// What git stores: the pointer of an LFS file.
pub(super) fn raw(hub: &Hub, repo: &RepoId, revision: &str, path: &str) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let file = commit.tree.get(path).ok_or_else(|| Refused::no_entry(path))?;
    let content =
        if file.lfs { git::lfs_pointer(&file.sha256, file.size).into_bytes() } else { hub.store.read_object(file)? };
    let mut answer = answer(200, "text/plain; charset=utf-8", content);
    set(answer.headers_mut(), "x-repo-commit", &commit.oid);
    Ok(answer)
}

async fn content(hub: &Hub, ask: &Ask, sha256: &str, etag: &str, kind: &'static str) -> Outcome {
    match hub.store.content(sha256)? {
        Some(Content::File(path)) => send_file(ask, &path, etag, kind).await,
        Some(Content::Xet(file)) => {
            let (mut answer, span) = prepare(ask, file.size, etag, kind);
            if let Some((first, length)) = span {
                *answer.body_mut() = xet_body(hub.store.xet.clone(), file, first, length);
            }
            Ok(answer)
        }
        None => Err(Refused::new(500, format!("the content {sha256} is missing"))),
    }
}

/// Sends a file, or the range of it that was asked for.
pub(super) async fn send_file(ask: &Ask, path: &Path, etag: &str, kind: &'static str) -> Outcome {
    let mut file = tokio::fs::File::open(path).await.on("open", path)?;
    let size = file.metadata().await.on("read", path)?.len();
    let (mut answer, span) = prepare(ask, size, etag, kind);
    if let Some((first, length)) = span {
        file.seek(SeekFrom::Start(first)).await.on("read", path)?;
        *answer.body_mut() = Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE));
    }
    Ok(answer)
}

/// The body of a file that is in pieces, read as fast as it is taken.
fn xet_body(store: XetStore, file: XetFile, first: u64, length: u64) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut reader = match XetReader::new(&store, &file, first) {
            Ok(reader) => reader.take(length),
            Err(e) => return drop(sender.blocking_send(Err(std::io::Error::other(e.to_string())))),
        };
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            // Nobody listens any more, or it is the end.
            if read.as_ref().is_ok_and(|read| *read == 0) || sender.blocking_send(read.map(|_| piece)).is_err() {
                return;
            }
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) }))
}

/// The answer less its body, and which bytes the body is: first and count. No bytes: it has none.
fn prepare(ask: &Ask, size: u64, etag: &str, kind: &'static str) -> (Answer, Option<(u64, u64)>) {
    let named = |value: &str| value.split(',').any(|one| one.trim().trim_start_matches("W/") == etag);
    let matches = |name| ask.headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(named);
    if matches(header::IF_NONE_MATCH) {
        let mut answer = answer(304, kind, Body::empty());
        set(answer.headers_mut(), "etag", etag);
        return (answer, None);
    }
    let range = ask.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| !ask.headers.contains_key(header::IF_RANGE) || matches(header::IF_RANGE));
    let (first, length, status) = match range.map(|range| span(range, size)) {
        None | Some(Span::Whole) => (0, size, 200),
        Some(Span::Part(first, last)) => (first, last - first + 1, 206),
        Some(Span::Beyond) => return (beyond(size), None),
    };
    let mut answer = answer(status, kind, Body::empty());
    let headers = answer.headers_mut();
    set(headers, "content-length", &length.to_string());
    set(headers, "accept-ranges", "bytes");
    set(headers, "etag", etag);
    set(headers, "content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    if status == 206 {
        set(headers, "content-range", &format!("bytes {first}-{}/{size}", first + length - 1));
    }
    (answer, (ask.method != Method::HEAD).then_some((first, length)))
}

pub(super) fn beyond(size: u64) -> Answer {
    let mut answer = answer(StatusCode::RANGE_NOT_SATISFIABLE.as_u16(), "text/plain", Body::empty());
    set(answer.headers_mut(), "content-range", &format!("bytes */{size}"));
    answer
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Which bytes a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Span {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Beyond,
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n`; of anything else the whole is sent.
pub(super) fn span(range: &str, size: u64) -> Span {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Span::Whole;
    };
    let end = size.saturating_sub(1);
    match (first.parse::<u64>().ok(), last.parse::<u64>().ok()) {
        (Some(first), _) if first >= size => Span::Beyond,
        (Some(first), Some(last)) if first <= last => Span::Part(first, last.min(end)),
        (Some(first), None) if last.is_empty() => Span::Part(first, end),
        (None, Some(0)) if first.is_empty() => Span::Beyond,
        (None, Some(count)) if first.is_empty() && size > 0 => Span::Part(size.saturating_sub(count), end),
        _ => Span::Whole,
    }
}

/// What a browser is told. Unknown content is never guessed, HTML and scripts are text.
pub(super) fn content_type(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "json" | "jsonl" => "application/json; charset=utf-8",
        "md" | "txt" | "py" | "rs" | "toml" | "yaml" | "yml" | "csv" | "html" | "htm" | "js" | "css" | "xml"
        | "cfg" | "ini" | "sh" | "hbs" | "gitattributes" | "gitignore" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(span("bytes=0-3", 10), Span::Part(0, 3));
        assert_eq!(span("bytes=4-", 10), Span::Part(4, 9));
        assert_eq!(span("bytes=-3", 10), Span::Part(7, 9));
        assert_eq!(span("bytes=8-99", 10), Span::Part(8, 9));
        assert_eq!(span("bytes=10-", 10), Span::Beyond);
        assert_eq!(span("bytes=3-1", 10), Span::Whole);
        assert_eq!(span("bytes=0-1,3-4", 10), Span::Whole);
        assert_eq!(span("bytes=0-0", 0), Span::Beyond);
    }
}
