//! The embedded hub: the Hub's protocol on loopback, from a folder.
//!
//! A publish to `embedded` goes through the same client and the same requests as one to the live Hub; the official
//! Python client works against it, and a person opens its address in a browser. It speaks LFS (`basic`, `multipart`) and
//! xet, each kept as it came and served to both kinds of clients. Without [`Options::xet`] the xet routes answer 404, as
//! on other self-hosted hubs, and what came over xet before is still served.
//!
//! Files below the root:
//!
//! | path | holds | written |
//! |---|---|---|
//! | `lock` | the writer's lock, and its address | held while a hub that may write runs |
//! | `repos/<kind>s/<ns>/<name>/repo.json` | when created, private, a Space's SDK | replaced by rename |
//! | `repos/…/commits/<oid>.json` | one commit: parents, title, message, author, date, all files | once |
//! | `repos/…/discussions/<n>.json` | a pull request's title, status, branch | replaced by rename |
//! | `repos/…/refs/heads/<branch>`, `refs/tags/<tag>`, `refs/pr/<n>` | a commit's id; `/` in names is `%2f` | replaced by rename, last |
//! | `objects/sha256/<aa>/<sha256>` | content, regular files too | once |
//! | `xet/` | content that came over xet (see `xet`) | once |
//! | `tmp/` | what is being written | renamed from here; emptied when a writer starts |
//!
//! One process writes (it holds `lock`), any number of read-only ones may serve the same folder meanwhile. Commit ids
//! are git's own. Commits are strictly ordered: `parentCommit` is compared and the ref moved under one lock.
//!
//! | module | knows |
//! |---|---|
//! | `store` | the files |
//! | `git`, `attributes`, `card` | git's ids; what is large; a README's front matter. Pure |
//! | `routes` | which URL means what; who may. Calls the rest |
//! | `api`, `commit`, `lfs`, `files`, `pulls` | the protocol |
//! | `xet` | the xet protocol, and the storage behind it |
//! | `pages`, `markdown` | HTML for people |
//!
//! Safety: bound to loopback only; a foreign `Host` (DNS rebinding) or, on writes, a foreign `Origin` is refused; all
//! content is served with `nosniff` and a sandboxing policy, HTML as plain text. It has no accounts: whoever reaches the
//! port may write, unless [`Options::token`] or [`Options::read_only`] says otherwise.
//!
//! Known flaws: a README's front matter is read by a small reader of a part of YAML; content that no commit names any
//! more is never removed; no discussions but pull requests, and no page for those.

mod answer;
mod api;
mod attributes;
mod card;
mod commit;
mod files;
mod git;
mod lfs;
mod listing;
mod markdown;
mod pages;
mod pulls;
mod routes;
mod store;
mod xet;

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::core::error::{Error, ErrorKind, OnPath, Result};

/// What a test makes go wrong at one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The answer is this status.
    Status(u16),
    /// The answer is 429 with `Retry-After` in seconds.
    Throttle {
        /// The seconds.
        retry_after: u64,
    },
    /// The answer is 429 with the Hub's own header, `RateLimit: "api";r=0;t=`, and no `Retry-After`.
    Exhausted {
        /// The seconds until the window ends.
        reset: u64,
    },
    /// There is no answer: the connection ends.
    DropConnection,
}

/// Decides about faults. The points are the names of the requests, asked before anything is done: `whoami`, `create`,
/// `delete`, `yaml`, `repos`, `info`, `revision`, `tree`, `paths`, `refs`, `commits`, `preupload`, `commit.before`,
/// `tag`, `branch`, `settings`, `access`, `discussions`, `resolve`, `lfs.batch`, `lfs.put`, `lfs.part`, `lfs.complete`,
/// `lfs.verify`, `page`, `xet.token`, `xet.xorb`, `xet.shard`, `xet.chunk`, `xet.pieces`, `xet.fetch`; and `commit.after`:
/// the commit landed, its answer is not yet sent.
pub trait Faults: Send + Sync {
    /// What happens at `point` this time.
    fn at(&self, point: &str) -> Fault;
}

/// How an embedded hub behaves.
#[derive(Clone)]
pub struct Options {
    /// The port on loopback; 0 for any free one.
    pub port: u16,
    /// Refuses whatever would change something.
    pub read_only: bool,
    /// The one token that may write; without it anyone may.
    pub token: Option<String>,
    /// Offers xet. A hub inside a publish does not: on one machine there is no network to spare, and cutting into chunks
    /// costs more time than sending all; `hub serve` does, for clients that expect what the live Hub offers.
    pub xet: bool,
    /// Offers `multipart` for objects above so many bytes, in parts of so many.
    pub multipart: Option<u64>,
    /// Takes pull requests; without them a commit that asks for one is answered 501, as some self-hosted hubs do.
    pub pull_requests: bool,
    /// For tests.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: 0,
            read_only: false,
            token: None,
            xet: false,
            multipart: None,
            pull_requests: true,
            faults: None,
        }
    }
}

/// The staging hub on loopback.
pub struct EmbeddedHub;

/// A hub that serves until it is stopped or dropped.
pub struct Running {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _lock: Option<File>,
}

impl EmbeddedHub {
    /// The one account of an embedded hub, which may write everywhere.
    pub const ACCOUNT: &str = store::AUTHOR;

    /// Serves `root`, which is made when it is not there. Needs a tokio runtime around it.
    pub async fn start(root: &Path, options: Options) -> Result<Running> {
        let mut lock = if options.read_only { None } else { Some(take_lock(root)?) };
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let unavailable = |e: std::io::Error| {
            Error::hub(format!("the embedded hub cannot listen on `{asked}`"))
                .cause(e.to_string())
                .hint("choose another port, or 0 for any")
        };
        let listener = TcpListener::bind(asked).await.map_err(unavailable)?;
        let port = listener.local_addr().map_err(unavailable)?.port();
        let url = format!("http://127.0.0.1:{port}");
        if let Some(file) = &mut lock {
            announce(root, file, &url)?;
        }
        let hub = routes::Hub { store: store::Store::new(root), options, port, secret: random() };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(listener, routes::service(Arc::new(hub)));
        let server = server.with_graceful_shutdown(async move { drop(stopped.await) });
        let task = tokio::spawn(async move { drop(server.await) });
        Ok(Running { url, stop: Some(stop), task, _lock: lock })
    }
}

impl EmbeddedHub {
    /// The address of the hub that now writes to `root`, in this process or another; `None` when none does.
    pub fn writer_of(root: &Path) -> Option<String> {
        let mut file = File::open(root.join("lock")).ok()?;
        let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let mut url = String::new();
        file.read_to_string(&mut url).ok()?;
        (held && !url.is_empty()).then_some(url)
    }
}

impl Running {
    /// Its address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops serving: requests under way are finished, for two seconds at most.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn take_lock(root: &Path) -> Result<File> {
    std::fs::create_dir_all(root).on("make", root)?;
    let path = root.join("lock");
    let file = File::options().create(true).append(true).open(&path).on("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, &e)),
        Err(TryLockError::WouldBlock) => {
            let error = Error::new(ErrorKind::Locked, format!("another hub writes to `{}`", root.display()));
            Err(error.hint("use that one, or serve the folder read-only"))
        }
    }
}

/// Says in the lock's file where the writer listens, and clears away what a killed one was writing.
fn announce(root: &Path, lock: &mut File, url: &str) -> Result<()> {
    let tmp = root.join("tmp");
    if tmp.exists() {
        std::fs::remove_dir_all(&tmp).on("remove", &tmp)?;
    }
    let path = root.join("lock");
    lock.set_len(0).on("write", &path)?;
    lock.write_all(url.as_bytes()).on("write", &path)
}

/// Unguessable enough for grants that live as long as this process.
fn random() -> [u64; 4] {
    std::array::from_fn(|n| RandomState::new().hash_one(n))
}
