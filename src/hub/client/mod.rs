//! The client of a hub: everything hfbuild asks of one, whoever runs it.
//!
//! Three ways lead there. hf-xet sends the content of large files where the hub offers that (`xet`). hf-hub 1.0.0 does the administration (`admin`): create a repository, list refs and commits,
//! tag. The commit layer (`read`, `write`, `lfs`) is our own, because of what hf-hub 1.0.0 does there:
//! - no plain LFS upload: without xet a large file is inlined as base64 into the commit's body;
//! - listings leave out the SHA-256 (the API calls it `lfs.oid`), so nothing can be skipped by content;
//! - 412, the parent moved, comes back as any HTTP error, and `upload_folder` knows no parent;
//! - the commit is retried, so a lost answer after a landed commit makes a second one;
//! - retries ignore `Retry-After` and `RateLimit` (so its own are turned off here, and ours are used around it), and
//!   its whoami drops the token's role.
//!
//! What other hubs do differently is coped with: commit ids of any length, relative `commitUrl`, no `validate-yaml`,
//! `shouldIgnore` for unchanged files, `parentCommit` ignored (the caller looks at the head before and after).
//!
//! Knows nothing of plans or journals. A commit is sent once and never again: see [`CommitOutcome`].

mod admin;
mod body;
mod http;
mod lfs;
mod proof;
mod pulls;
mod read;
mod token;
mod write;
mod xet;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::core::error::Result;

pub use admin::{CommitInfo, Creation, Refs};
pub use http::{Retry, check_endpoint};
pub use lfs::{LfsObject, Progress, Uploaded};
pub use proof::{Hashed, Page, Safetensors};
pub use pulls::{Pull, number_of};
pub use read::{Head, Org, RemoteFile, Scope, Who};
pub use token::{Token, resolve_token, token_texts};
pub use write::{CommitOutcome, CommitRequest, Operation, Preupload, Verdict, YamlReport};

/// A hub, as reached with one token. Cheap to clone.
#[derive(Clone)]
pub struct HubClient {
    inner: Arc<Inner>,
    xet: Option<Arc<Path>>,
}

struct Inner {
    http: http::Http,
    hf: hf_hub::HFClient,
}

impl std::fmt::Debug for HubClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HubClient({})", self.endpoint())
    }
}

impl HubClient {
    /// A client of the hub at `endpoint`. Sends nothing yet, and reads nothing of the environment.
    pub fn new(endpoint: &str, token: Option<Token>) -> Result<Self> {
        Self::with_retry(endpoint, token, Retry::default())
    }

    /// The same with other patience.
    pub fn with_retry(endpoint: &str, token: Option<Token>, retry: Retry) -> Result<Self> {
        let http = http::Http::new(endpoint, token, retry)?;
        let hf = admin::client(&http)?;
        Ok(HubClient { inner: Arc::new(Inner { http, hf }), xet: None })
    }

    /// Lets xet keep in `folder` what it knows of the hub's chunks, and how far a transfer was that was cut off. What
    /// lies there may be removed at any time. Without it each transfer begins anew.
    pub fn keeping(self, folder: PathBuf) -> Self {
        HubClient { xet: Some(folder.into()), ..self }
    }

    /// Its address, without a slash at the end.
    pub fn endpoint(&self) -> &str {
        &self.inner.http.endpoint
    }

    /// How long to wait before try number `nth` (from 1) of what was refused for want of rate; `None`: not at all, the
    /// tries are used up or the hub asks for more than is waited for.
    pub fn pause(&self, nth: u32, asked: Option<Duration>) -> Option<Duration> {
        self.http().retry.pause(nth, asked)
    }

    /// Whether requests carry a token.
    pub fn has_token(&self) -> bool {
        self.inner.http.token.is_some()
    }

    fn http(&self) -> &http::Http {
        &self.inner.http
    }
}
