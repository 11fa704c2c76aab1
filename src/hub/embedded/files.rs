//! Downloads: `resolve` with its headers and ranges, `raw`, and objects by their digest.
//!
//! Content is streamed from disk. What a browser could run is served as plain text, and nothing that is served may
//! run scripts: it comes from whoever published it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;

use super::answer::{Answer, Outcome, Refused, answer};
use super::git;
use super::routes::{Ask, Hub};
use super::store::is_hex;
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
    let path = hub.store.object_path(sha256).ok_or_else(Refused::no_route)?;
    let mut file = tokio::fs::File::open(&path).await.on("open", &path)?;
    let size = file.metadata().await.on("read", &path)?.len();
    let matches = |name| ask.headers.get(name).is_some_and(|value: &HeaderValue| value.as_bytes() == etag.as_bytes());
    if matches(header::IF_NONE_MATCH) {
        let mut answer = answer(304, kind, Body::empty());
        set(answer.headers_mut(), "etag", etag);
        return Ok(answer);
    }
    let range = ask.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| !ask.headers.contains_key(header::IF_RANGE) || matches(header::IF_RANGE));
    let (first, length, status) = match range.map(|range| span(range, size)) {
        None | Some(Span::Whole) => (0, size, 200),
        Some(Span::Part(first, last)) => (first, last - first + 1, 206),
        Some(Span::Beyond) => return Ok(beyond(size)),
    };
    let body = if ask.method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(first)).await.on("read", &path)?;
        Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE))
    };
    let mut answer = answer(status, kind, body);
    let headers = answer.headers_mut();
    set(headers, "content-length", &length.to_string());
    set(headers, "accept-ranges", "bytes");
    set(headers, "etag", etag);
    set(headers, "content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    if status == 206 {
        set(headers, "content-range", &format!("bytes {first}-{}/{size}", first + length - 1));
    }
    Ok(answer)
}

fn beyond(size: u64) -> Answer {
    let mut answer = answer(StatusCode::RANGE_NOT_SATISFIABLE.as_u16(), "text/plain", Body::empty());
    set(answer.headers_mut(), "content-range", &format!("bytes */{size}"));
    answer
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Span {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Beyond,
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n`; of anything else the whole is sent.
fn span(range: &str, size: u64) -> Span {
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
