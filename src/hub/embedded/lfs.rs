//! The content of large files: the LFS batch, uploads whole and in parts, verification.
//!
//! Content is hashed while it streams to disk, and becomes an object only when digest and size are what was promised.
//! URLs carry a grant (a keyed digest of object and size), so that uploads need no token.

use std::io::{Read, Write};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::answer::{Answer, Outcome, Refused, answer, json_answer};
use super::routes::{Ask, Hub};
use super::store::is_hex;
use crate::core::error::OnPath;
use crate::hub::protocol::{
    LFS_JSON, LfsAction, LfsActions, LfsBatchAnswer, LfsBatchObject, LfsBatchRequest, LfsCompletion, LfsError,
    LfsPointer,
};
use crate::hub::repo::RepoId;

impl Hub {
    fn grant(&self, oid: &str, size: u64) -> String {
        let mut hash = Sha256::new();
        self.secret.iter().for_each(|word| hash.update(word.to_le_bytes()));
        hash.update(oid);
        hash.update(size.to_le_bytes());
        hex::encode(&hash.finalize()[..16])
    }

    /// The promised size of `oid`, when the URL's grant is genuine.
    fn promised(&self, ask: &Ask, oid: &str) -> Result<u64, Refused> {
        let size = ask.get("size").and_then(|size| size.parse().ok());
        match size {
            Some(size) if is_hex(oid, 64) && ask.get("grant") == Some(&self.grant(oid, size)) => Ok(size),
            _ => Err(Refused::new(403, "this upload was not granted")),
        }
    }
}

pub(super) fn batch(hub: &Hub, ask: &Ask, repo: &RepoId, body: &Bytes) -> Outcome {
    hub.record(repo)?;
    let asked: LfsBatchRequest = super::api::parse(body)?;
    let can = |transfer: &str| asked.transfers.iter().any(|t| t == transfer);
    let upload = asked.operation == "upload";
    if upload && hub.options.xet && can("xet") {
        return xet_batch(hub, ask, asked.objects);
    }
    let parts = hub.options.multipart.filter(|_| can("multipart"));
    let objects: Vec<LfsBatchObject> = asked
        .objects
        .into_iter()
        .map(
            |object| {
                if upload { upload_object(hub, ask, repo, object, parts) } else { download_object(hub, ask, object) }
            },
        )
        .collect();
    let multipart = objects.iter().flat_map(|object| &object.actions).flat_map(|actions| &actions.upload);
    let multipart = multipart.into_iter().any(|action| action.header.is_some());
    let transfer = Some(if multipart { "multipart" } else { "basic" }.to_owned());
    Ok(batch_answer(&LfsBatchAnswer { transfer, objects }))
}

fn batch_answer(said: &LfsBatchAnswer) -> Answer {
    let mut answer = json_answer(200, said);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(LFS_JSON));
    answer
}

/// Sends a client that can do xet to the storage, for what is not there yet.
fn xet_batch(hub: &Hub, ask: &Ask, asked: Vec<LfsPointer>) -> Outcome {
    let (href, headers) = hub.xet_upload(ask)?;
    let header = Map::from_iter(headers.map(|(name, value)| (name.to_owned(), value.into())));
    let upload = LfsActions { upload: Some(LfsAction { href, header: Some(header) }), ..LfsActions::default() };
    let object = |object: LfsPointer| match is_there(hub, &object) {
        Ok(there) => {
            let actions = if there { None } else { Some(upload.clone()) };
            LfsBatchObject { oid: object.oid, size: object.size, actions, error: None }
        }
        Err(error) => failed(object, error),
    };
    let objects = asked.into_iter().map(object).collect();
    Ok(batch_answer(&LfsBatchAnswer { transfer: Some("xet".to_owned()), objects }))
}

/// Whether the object is stored; or why it cannot be.
fn is_there(hub: &Hub, object: &LfsPointer) -> Result<bool, LfsError> {
    if !is_hex(&object.oid, 64) {
        return Err(refusal(422, "the oid is no SHA-256"));
    }
    match hub.store.object_size(&object.oid) {
        Some(size) if size != object.size => Err(refusal(422, "this object has another size")),
        found => Ok(found.is_some()),
    }
}

fn refusal(code: u16, message: &str) -> LfsError {
    LfsError { code, message: message.to_owned() }
}

fn failed(object: LfsPointer, error: LfsError) -> LfsBatchObject {
    LfsBatchObject { oid: object.oid, size: object.size, actions: None, error: Some(error) }
}

fn download_object(hub: &Hub, ask: &Ask, object: LfsPointer) -> LfsBatchObject {
    if hub.store.object_size(&object.oid) != Some(object.size) {
        return failed(object, refusal(404, "no such object"));
    }
    let href = format!("{}/api/lfs/objects/{}", ask.base, object.oid);
    let actions = LfsActions { download: Some(LfsAction { href, header: None }), ..LfsActions::default() };
    LfsBatchObject { oid: object.oid, size: object.size, actions: Some(actions), error: None }
}

fn upload_object(hub: &Hub, ask: &Ask, repo: &RepoId, object: LfsPointer, parts: Option<u64>) -> LfsBatchObject {
    match is_there(hub, &object) {
        Ok(true) => return LfsBatchObject { oid: object.oid, size: object.size, actions: None, error: None },
        Ok(false) => {}
        Err(error) => return failed(object, error),
    }
    let url = format!("{}/api/lfs/objects/{}", ask.base, object.oid);
    let grant = format!("size={}&grant={}", object.size, hub.grant(&object.oid, object.size));
    let upload = match parts.filter(|part| *part > 0 && object.size > *part) {
        None => LfsAction { href: format!("{url}?{grant}"), header: None },
        Some(part) => {
            let mut header = Map::from_iter([("chunk_size".to_owned(), Value::from(part.to_string()))]);
            for number in 1..=object.size.div_ceil(part) {
                header.insert(format!("{number:05}"), format!("{url}/parts/{number}?{grant}").into());
            }
            LfsAction { href: format!("{url}/complete?{grant}"), header: Some(header) }
        }
    };
    let verify = LfsAction { href: format!("{}/{}.git/info/lfs/verify", ask.base, repo.web_path()), header: None };
    let actions = LfsActions { upload: Some(upload), verify: Some(verify), download: None };
    LfsBatchObject { oid: object.oid, size: object.size, actions: Some(actions), error: None }
}

pub(super) async fn put(hub: &Hub, ask: &Ask, oid: &str, body: Body) -> Outcome {
    let size = hub.promised(ask, oid)?;
    let (temp, digest) = receive(hub, body, size).await?;
    keep(hub, temp, oid, size, &digest)?;
    Ok(answer(200, "text/plain", Body::empty()))
}

pub(super) async fn put_part(hub: &Hub, ask: &Ask, oid: &str, number: u32, body: Body) -> Outcome {
    let size = hub.promised(ask, oid)?;
    let (temp, digest) = receive(hub, body, size).await?;
    let path = hub.store.part_path(oid, number)?;
    temp.persist(&path).map_err(|e| e.error).on("write", &path)?;
    let mut answer = answer(200, "text/plain", Body::empty());
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    Ok(answer)
}

/// Puts the parts together.
pub(super) fn complete(hub: &Hub, ask: &Ask, oid: &str, body: &Bytes) -> Outcome {
    let size = hub.promised(ask, oid)?;
    let said: LfsCompletion = super::api::parse(body)?;
    let (mut temp, mut hash) = (hub.store.temp()?, Sha256::new());
    let mut used = Vec::new();
    for part in &said.parts {
        let path = hub.store.part_path(oid, part.part_number)?;
        let mut file = std::fs::File::open(&path).map_err(|_| Refused::bad("a part was not uploaded"))?;
        let (mut own, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            let read = file.read(&mut piece).on("read", &path)?;
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
            own.update(&piece[..read]);
            temp.write_all(&piece[..read]).on("write", "tmp")?;
        }
        if part.etag.trim_matches('"') != hex::encode(own.finalize()) {
            return Err(Refused::bad("a part's `etag` is not the one it was answered with"));
        }
        used.push(path);
    }
    keep(hub, temp, oid, size, &hex::encode(hash.finalize()))?;
    used.iter().for_each(|path| drop(std::fs::remove_file(path)));
    Ok(json_answer(200, &json!({ "success": true })))
}

pub(super) fn verify(hub: &Hub, body: &Bytes) -> Outcome {
    let object: LfsPointer = super::api::parse(body)?;
    match hub.store.object_size(&object.oid) {
        Some(size) if size == object.size => Ok(json_answer(200, &json!({}))),
        Some(_) => Err(Refused::new(422, "this object has another size")),
        None => Err(Refused::new(404, "this object was not uploaded")),
    }
}

/// Streams a body to a file, at most `most` bytes; gives its SHA-256.
async fn receive(hub: &Hub, body: Body, most: u64) -> Result<(NamedTempFile, String), Refused> {
    let (mut temp, mut hash, mut size) = (hub.store.temp()?, Sha256::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Refused::bad("the body broke off"))?;
        size += piece.len() as u64;
        if size > most {
            return Err(Refused::bad("the body is longer than was promised"));
        }
        hash.update(&piece);
        temp.write_all(&piece).on("write", "tmp")?;
    }
    Ok((temp, hex::encode(hash.finalize())))
}

fn keep(hub: &Hub, temp: NamedTempFile, oid: &str, size: u64, digest: &str) -> Result<(), Refused> {
    let found = temp.as_file().metadata().on("read", temp.path())?.len();
    if digest != oid || found != size {
        return Err(Refused::bad(format!("expected {size} bytes of {oid}, found {found} bytes of {digest}")));
    }
    Ok(hub.store.keep(temp, oid)?)
}
