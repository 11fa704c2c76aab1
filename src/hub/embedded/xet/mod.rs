//! xet storage: files as lists of chunks in shared blocks (xorbs), for clients that send only the chunks that are new.
//!
//! Formats and hashes are `xet-core-structures`' own (the crate that clients use); the files on disk are the embedded
//! hub's, so that read-only hubs may read what another process writes, and nothing is ever whole in memory.
//! `xet-client`'s simulation server was no choice: it locks its database for one process, reads whole xorbs for any part
//! of them, and listens without tokens on a port that any web page may reach, deletion included.
//!
//! | below `xet/` | holds |
//! |---|---|
//! | `id` | names this storage in URLs: clients remember per URL which chunks a server has |
//! | `xorbs/<aa>/<hash>` | compressed chunks, and the footer that says where each lies |
//! | `shards/<aa>/<hash>` | which chunks are in which xorbs, as clients sent it, less the files |
//! | `chunks/<aa>/<hash>` | the shard to answer with when a client asks for this chunk |
//! | `files/<aa>/<hash>` | [`XetFile`]: the pieces of one file |
//! | `sha256/<aa>/<sha256>` | the file's xet hash |
//!
//! Nothing is believed: a xorb's chunks, a file's xet hash and its SHA-256 are computed from the content before either is
//! known under that name.
//!
//! | module | knows |
//! |---|---|
//! | `accept` | what clients send: checks and stores it |
//! | `read` | files put together again, and where their pieces lie |
//! | `routes` | the HTTP of it, and the tokens |

mod accept;
mod read;
pub(super) mod routes;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use xet_core_structures::xorb_object::XorbObject;

pub(super) use read::XetReader;

use super::answer::Refused;
use super::store::{is_hex, place, read_json};
use crate::core::error::{Error, OnPath, Result};

/// A run of chunks in one xorb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub xorb: String,
    /// The first chunk.
    pub first: u32,
    /// The chunk after the last.
    pub end: u32,
    /// How many bytes of the file they are.
    pub size: u64,
}

/// A file: its pieces in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct XetFile {
    pub hash: String,
    pub sha256: String,
    pub size: u64,
    pub segments: Vec<Segment>,
}

/// The folder `xet/` of a hub.
#[derive(Debug, Clone)]
pub(super) struct XetStore {
    dir: PathBuf,
    tmp: PathBuf,
}

impl XetStore {
    /// The storage below the hub's `root`; the folder is made when something is written.
    pub fn new(root: &Path) -> Self {
        XetStore { dir: root.join("xet"), tmp: root.join("tmp") }
    }

    /// The name of this storage in URLs; made when it is first asked for by a hub that may write.
    pub fn id(&self, fresh: &str) -> Result<String> {
        let path = self.dir.join("id");
        if let Ok(id) = fs::read_to_string(&path) {
            return Ok(id);
        }
        self.write(&path, fresh.as_bytes())?;
        Ok(fresh.to_owned())
    }

    /// A file by its xet hash.
    pub fn file(&self, hash: &str) -> Result<Option<XetFile>> {
        match self.path("files", hash) {
            Some(path) => read_json(&path),
            None => Ok(None),
        }
    }

    /// The xet hash of the content with this SHA-256.
    pub fn hash_of(&self, sha256: &str) -> Option<String> {
        fs::read_to_string(self.path("sha256", sha256)?).ok()
    }

    /// A file by its SHA-256.
    pub fn by_sha256(&self, sha256: &str) -> Result<Option<XetFile>> {
        self.hash_of(sha256).map_or(Ok(None), |hash| self.file(&hash))
    }

    /// The shard that knows this chunk.
    fn shard_of(&self, chunk: &str) -> Option<PathBuf> {
        self.path("shards", &fs::read_to_string(self.path("chunks", chunk)?).ok()?)
    }

    /// A xorb and its footer; `None` when it is not here.
    fn xorb(&self, hash: &str) -> Result<Option<(File, XorbObject)>> {
        let Some(path) = self.path("xorbs", hash) else { return Ok(None) };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let damaged = |e| Error::hub(format!("`{}` is damaged", path.display())).cause(format!("{e}"));
        let footer = XorbObject::deserialize(&mut file).map_err(damaged)?;
        Ok(Some((file, footer)))
    }

    /// Where `name` lies or would lie; `None` for what is no hash.
    fn path(&self, kind: &str, name: &str) -> Option<PathBuf> {
        is_hex(name, 64).then(|| self.dir.join(kind).join(&name[..2]).join(name))
    }

    fn temp(&self) -> Result<NamedTempFile> {
        fs::create_dir_all(&self.tmp).on("make", &self.tmp)?;
        NamedTempFile::new_in(&self.tmp).on("write below", &self.tmp)
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let mut temp = self.temp()?;
        temp.write_all(content).on("write", temp.path())?;
        place(temp, path)
    }

    fn put(&self, kind: &str, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(kind, name).ok_or_else(|| Error::bug(format!("`{name}` is no hash")))?;
        self.write(&path, content)
    }
}

fn no_xorb(hash: &str) -> Refused {
    Refused::new(404, format!("no xorb `{hash}` was uploaded"))
}
