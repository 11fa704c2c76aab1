//! What is asked of a hub to prove what it holds: content hashed as it streams by, which large objects are still there,
//! and what the page of a repository says.
//!
//! Reads only. Compares nothing.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RANGE};
use serde::Deserialize;
use sha1::Digest as _;

use super::HubClient;
use super::http::{Answer, Call, Failure, segment, segments, send};
use crate::core::error::{Error, Result};
use crate::hub::protocol::{LFS_JSON, LfsBatchAnswer, LfsBatchRequest, LfsPointer, LfsRefName};
use crate::hub::repo::RepoId;

/// What came of reading a file to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Bytes that came.
    pub size: u64,
    /// SHA-256 of them, in hex.
    pub sha256: String,
}

/// What a hub shows of a repository at a revision. `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Page {
    /// The library.
    #[serde(default)]
    pub library_name: Option<String>,
    /// The task.
    #[serde(default)]
    pub pipeline_tag: Option<String>,
    /// All tags, those of the front matter and the hub's own.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// From the header of `model.safetensors`.
    #[serde(default)]
    pub safetensors: Option<Safetensors>,
}

/// What a hub read of the weights' header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Safetensors {
    /// Parameters in all.
    #[serde(default)]
    pub total: Option<u64>,
}

const NOTHING: Option<&()> = None;
/// How many objects one batch request names.
const OBJECTS: usize = 100;

/// A download under way: what is hashed stays hashed when the connection is cut.
#[derive(Default)]
struct Under {
    sha256: sha2::Sha256,
    size: u64,
}

impl HubClient {
    /// Downloads a file and hashes it; nothing of it is kept, and no more than a piece is in memory. A cut connection is
    /// taken up where it broke, for as long as bytes come. `None`: there is no such file. Of one that is longer than
    /// `most` bytes no more than that is read. `progress` is called with the bytes of each piece.
    pub async fn hash_file(
        &self,
        repo: &RepoId,
        revision: &str,
        path: &str,
        most: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<Hashed>> {
        let call = Call::get(format!("{}/resolve/{}/{}", repo.web_path(), segment(revision), segments(path)));
        let under = tokio::sync::Mutex::new(Under::default());
        let get = || async {
            let mut under = under.lock().await;
            let request = self.http().api(&call);
            let request = match under.size {
                0 => request,
                have => request.header(RANGE, format!("bytes={have}-")),
            };
            let mut response = send(request).await?;
            if under.size > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                *under = Under::default(); // this server starts over, and so does the hash
            }
            while under.size <= most
                && let Some(piece) = response.chunk().await.map_err(Failure::of_transport)?
            {
                under.sha256.update(&piece);
                under.size += piece.len() as u64;
                progress(piece.len() as u64);
            }
            Ok(())
        };
        let mut before = 0;
        loop {
            let failure = match self.http().retrying(get).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            let came = under.lock().await.size;
            match failure.status() {
                // that the repository or the revision is gone says nothing of the file
                _ if failure.is_missing_file() => return Ok(None),
                Some(416) if came > 0 => break, // cut off at its very end: there is nothing after what came
                _ if failure.passes() && came > before => before = came,
                _ => return Err(self.http().explain(&call, failure)),
            }
        }
        let under = under.into_inner();
        Ok(Some(Hashed { size: under.size, sha256: hex::encode(under.sha256.finalize()) }))
    }

    /// What the hub shows of a revision.
    pub async fn page_of(&self, repo: &RepoId, revision: &str) -> Result<Page> {
        let call = Call::get(format!("{}/revision/{}", repo.api_path(), segment(revision)));
        self.http().json(&call, NOTHING).await.map_err(|failure| self.http().explain(&call, failure))
    }

    /// Which of these large objects (SHA-256 and size) the hub no longer has. A hub that does not answer such questions
    /// is taken to have them: it refuses the commit otherwise.
    pub async fn objects_gone(&self, repo: &RepoId, revision: &str, objects: &[(String, u64)]) -> Result<Vec<String>> {
        let call = Call::get(format!("{}.git/info/lfs/objects/batch", segments(&repo.web_path())));
        let call = Call { method: reqwest::Method::POST, ..call };
        let mut gone = Vec::new();
        for batch in objects.chunks(OBJECTS) {
            let body = LfsBatchRequest {
                operation: "download".to_owned(),
                transfers: vec!["basic".to_owned()],
                objects: batch.iter().map(|(oid, size)| LfsPointer { oid: oid.clone(), size: *size }).collect(),
                hash_algo: Some("sha256".to_owned()),
                to: Some(LfsRefName { name: revision.to_owned() }),
            };
            let body = serde_json::to_vec(&body).map_err(|e| Error::bug(e.to_string()))?;
            let ask = || async {
                let request = self.http().api(&call).header("accept", LFS_JSON).header(CONTENT_TYPE, LFS_JSON);
                Answer::of(send(request.body(body.clone())).await?).await
            };
            let answer = match self.http().retrying(ask).await {
                Ok(answer) => answer,
                Err(failure) if matches!(failure.status(), Some(400 | 404 | 405 | 422 | 501)) => return Ok(vec![]),
                Err(failure) => return Err(self.http().explain(&call, failure)),
            };
            let said: LfsBatchAnswer = answer.json(&call)?;
            gone.extend(said.objects.into_iter().filter(|o| o.error.is_some()).map(|o| o.oid));
        }
        Ok(gone)
    }
}
