//! Content over xet: hf-xet cuts files into chunks and sends those that the Hub's storage lacks.
//!
//! Knows hf-xet. The SHA-256 that is known is handed over, so nothing is hashed a second time for it. The token of the
//! storage is asked for here, with our patience and our words for a refusal; hf-xet asks for the next ones itself, 30
//! seconds before one ends. hf-xet posts statistics of every transfer: that is off unless `HF_XET_TELEMETRY_ENABLED` is
//! set (its other settings are read from the environment as documented there).
//!
//! A transfer that is cut off goes on where it was: each block that arrived is noted at once in the folder given to
//! [`HubClient::keeping`]. Memory: hf-xet builds a block of up to 64 MiB for each file that it reads, and holds those
//! under way; both counts are bounded here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use serde::Deserialize;
use xet::XetError;
use xet::xet_session::{Sha256Policy, XetCommitReport, XetConfig, XetSessionBuilder, XetUploadCommit};

use super::HubClient;
use super::http::{Call, WRITE, segment};
use super::lfs::{LfsObject, Progress, changed_while_published};
use crate::core::error::{Error, OnPath, Result};
use crate::hub::repo::RepoId;

/// How many files are handed to hf-xet before the first of them is waited for.
const HANDED: usize = 64;
/// How many files are read and cut at once, and how many blocks are under way: each may hold 64 MiB.
const FILES: usize = 2;
const BLOCKS: usize = 4;
/// How often it is asked how far it is.
const TICK: Duration = Duration::from_millis(200);

/// The storage and the right to write to it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Grant {
    access_token: String,
    /// Seconds since 1970.
    exp: u64,
    cas_url: String,
}

/// Ends what hf-xet does in the background when the transfer is given up, by an error or by the user.
struct Abort<'a>(&'a XetUploadCommit);

impl Drop for Abort<'_> {
    fn drop(&mut self) {
        let _ = self.0.abort(); // a finished one has nothing to end
    }
}

impl HubClient {
    /// Sends `objects`; gives the bytes that left. `None`: this hub gives no token for xet, nothing was done.
    pub(super) async fn upload_xet(
        &self,
        repo: &RepoId,
        revision: &str,
        objects: &[&LfsObject],
        progress: &Progress,
    ) -> Result<Option<u64>> {
        let route = format!("{}/xet-write-token/{}", repo.api_path(), segment(revision));
        let scratch = tempfile::tempdir().map_err(|e| Error::stage("cannot make a folder").cause(e.to_string()))?;
        let folder = self.xet.as_deref().unwrap_or(scratch.path());
        std::fs::create_dir_all(folder).on("make", folder)?;
        // a second time with a fresh token: one may end early, and what arrived is not sent again
        for last in [false, true] {
            let Some(grant) = self.xet_grant(&route).await? else { return Ok(None) };
            let (before, storage) =
                (notes(folder), self.http().address(&grant.cas_url)?.origin().ascii_serialization());
            match self.send_xet(&route, grant, folder, objects, progress).await {
                Ok(report) => {
                    // hf-xet keeps what it noted itself, and would send it with the next transfer once more
                    notes(folder).difference(&before).for_each(|note| drop(std::fs::remove_file(note)));
                    return Ok(Some(report.dedup_metrics.total_bytes_uploaded));
                }
                Err(Trouble::Ours(error)) => return Err(error),
                Err(Trouble::Xet(error)) if !last && is_refused(&error) => {}
                Err(Trouble::Xet(error)) => return Err(explain(&error, &storage)),
            }
        }
        Err(Error::bug("a transfer that neither ended nor failed"))
    }

    async fn xet_grant(&self, route: &str) -> Result<Option<Grant>> {
        let call = Call { needs: WRITE, ..Call::get(route.to_owned()) };
        match self.http().json::<Grant>(&call, None::<&()>).await {
            Ok(grant) => Ok(Some(grant)),
            Err(failure) if matches!(failure.status(), Some(404 | 405 | 501)) => Ok(None),
            Err(failure) => Err(self.http().explain(&call, failure)),
        }
    }

    async fn send_xet(
        &self,
        route: &str,
        grant: Grant,
        folder: &Path,
        objects: &[&LfsObject],
        progress: &Progress,
    ) -> Result<XetCommitReport, Trouble> {
        let session = XetSessionBuilder::new_with_config(self.xet_config()).with_cache_dir(folder).build()?;
        let refresh = format!("{}/{route}", self.endpoint());
        let commit = session
            .new_upload_commit()?
            .with_endpoint(self.http().address(&grant.cas_url)?.as_str().trim_end_matches('/'))
            .with_token_info(grant.access_token, grant.exp)
            .with_token_refresh_url(refresh, self.xet_headers())
            .build()
            .await?;
        let _abort = Abort(&commit);
        let work = hand_over(&commit, objects);
        tokio::pin!(work);
        let (mut ticks, mut told) = (tokio::time::interval(TICK), 0);
        loop {
            let done = tokio::select! {
                done = &mut work => Some(done?),
                _ = ticks.tick() => None,
            };
            let so_far = commit.progress().total_bytes_completed;
            if so_far > told {
                progress(so_far - told);
                told = so_far;
            }
            if let Some(report) = done {
                return Ok(report);
            }
        }
    }

    fn xet_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(super::http::USER_AGENT));
        let token = self.http().token.as_ref().map(|token| format!("Bearer {}", token.secret()));
        if let Some(mut value) = token.and_then(|token| HeaderValue::from_str(&token).ok()) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }

    fn xet_config(&self) -> XetConfig {
        let mut config = XetConfig::new();
        let set = |name: &str| std::env::var_os(name).is_some();
        config.telemetry.enabled &= set("HF_XET_TELEMETRY_ENABLED");
        config.data.session_xorb_metadata_flush_max_count = 1;
        if !set("HF_XET_DATA_MAX_CONCURRENT_FILE_INGESTION") {
            config.data.max_concurrent_file_ingestion = FILES;
        }
        if !set("HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY") {
            config.client.ac_max_upload_concurrency = BLOCKS;
        }
        config.client.retry_max_attempts = self.http().retry.tries as usize;
        if !set("HF_XET_CLIENT_RETRY_BASE_DELAY") {
            // it knows no `Retry-After`: from 3 s its pauses treble, so that five fill the Hub's window of five minutes
            config.client.retry_base_delay = self.http().retry.base * 6;
        }
        config
    }
}

/// What hf-xet has noted of blocks that arrived, so that a transfer that was cut off goes on: files in folders of this name.
/// Those of other transfers are among them.
fn notes(folder: &Path) -> BTreeSet<PathBuf> {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let noted = files.filter(|entry| entry.path().parent().is_some_and(|folder| folder.ends_with("xorb_metadata")));
    noted.map(walkdir::DirEntry::into_path).collect()
}

/// Gives all of `objects` to hf-xet, a few at a time, and ends the transfer.
async fn hand_over(commit: &XetUploadCommit, objects: &[&LfsObject]) -> Result<XetCommitReport, Trouble> {
    for some in objects.chunks(HANDED) {
        let mut handed = Vec::with_capacity(some.len());
        for object in some {
            let known = Sha256Policy::from_hex(&object.sha256);
            let file = commit.upload_from_path(object.path.clone(), known).await;
            handed.push((object, file.map_err(|error| of_file(object, error))?));
        }
        for (object, file) in handed {
            let read = file.finalize_ingestion().await.map_err(|error| of_file(object, error))?.xet_info.file_size;
            if read != Some(object.size) {
                return Err(changed_while_published(object, read.unwrap_or_default()).into());
            }
        }
    }
    Ok(commit.commit().await?)
}

enum Trouble {
    Xet(XetError),
    Ours(Error),
}

impl From<XetError> for Trouble {
    fn from(error: XetError) -> Self {
        Trouble::Xet(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Ours(error)
    }
}

/// What went wrong with one file; where it lies on this machine says nothing to whoever publishes it.
fn of_file(object: &LfsObject, error: XetError) -> Trouble {
    match error {
        XetError::Io(words) => {
            let words = words.replace(&object.path.display().to_string(), &object.name);
            Trouble::Ours(Error::stage(format!("cannot read `{}`", object.name)).cause(words))
        }
        other => Trouble::Xet(other),
    }
}

/// Whether the storage refused the token. hf-xet calls that a network error and names the status in its words only.
fn is_refused(error: &XetError) -> bool {
    match error {
        XetError::Authentication(_) => true,
        XetError::Network(words) => words.contains("(401 ") || words.contains("(403 "),
        _ => false,
    }
}

fn explain(error: &XetError, storage: &str) -> Error {
    let (what, hint) = match error {
        _ if is_refused(error) => ("refused the token", "it may have expired: make a new one and set `HF_TOKEN`"),
        XetError::RateLimited(_) => ("has no rate left for it", "wait some minutes"),
        XetError::ServerError(_) => ("failed", "this is the Hub's trouble: run it again later"),
        XetError::Network(_) | XetError::Timeout(_) => {
            ("cannot be reached", "is the network up, and may this machine reach that host?")
        }
        _ => ("did not take the transfer over xet", "run it again"),
    };
    let error = Error::hub(format!("the Hub's storage `{storage}` {what}")).cause(without_queries(&error.to_string()));
    error.hint(format!("{hint}; what was sent is not sent again"))
}

/// Cuts what follows `?` off every address: it may hold a signature.
fn without_queries(text: &str) -> String {
    let word = |word: &str| match (word.contains("://"), word.split_once('?')) {
        (true, Some((address, rest))) => {
            let end: String = rest.chars().rev().take_while(|c| ")]}>\"'`,;:.".contains(*c)).collect();
            format!("{address}{}", end.chars().rev().collect::<String>())
        }
        _ => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signature_gets_into_an_error() {
        let text = "error sending request for url (https://s.example/x?X-Signature=abc&b=c): closed? yes";
        let expected = "error sending request for url (https://s.example/x): closed? yes";
        assert_eq!(without_queries(text), expected);
    }
}
