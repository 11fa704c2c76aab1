//! Intents: what is journalled before a commit is sent, so that a commit whose answer was lost is found again.
//!
//! Knows the record of publishes and how a nonce is made. Sends nothing.

use crate::core::error::Result;
use crate::core::publish::Published;
use crate::exec::drive::now_ms;
use crate::exec::publish::proof::unlike;
use crate::exec::remote::Remote;
use std::io::Read;
use std::time::Duration;

/// 128 bits that no other publish has: only its being unlike any other matters, and it is nobody's secret.
pub(super) fn nonce() -> String {
    let mut seed = [0u8; 16];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed));
    if random.is_ok() { hex::encode(seed) } else { format!("{}-{}", std::process::id(), now_ms()) }
}

/// Ends what an interrupted publish left open: an intent whose commit is found, and is what was sent, is a publish; one that
/// cannot land any more is abandoned.
pub async fn settle_intents(
    remote: &Remote,
    loaded: &mut crate::store::records::Loaded,
    recorder: Option<&mut crate::store::records::Recorder>,
) -> Result<Option<String>> {
    let Some(intent) = loaded.publishes.intent(&remote.target).cloned() else { return Ok(None) };
    let age = Duration::from_millis(now_ms().saturating_sub(intent.at_ms).max(0) as u64);
    let wait = if recorder.is_some() { remote.may_still_land().saturating_sub(age) } else { Duration::ZERO };
    let mut found = remote.find_landed(&intent, wait).await?;
    if let Some(at) = &found
        && unlike(remote, &intent.tree, &at.commit).await?.is_some()
    {
        found = None; // it landed and is not what was sent: what stands there is told as drift
    }
    let commit = found.as_ref().map(|found| found.commit.clone());
    match found {
        Some(found) => {
            let published = Published {
                target: intent.target.clone(),
                commit: found.commit,
                parent: Some(intent.parent.clone()),
                tree: intent.tree.clone(),
                at_ms: now_ms(),
                allowed: intent.allowed.clone(),
                pull_request: found.pull_request,
                restores: intent.restores.clone(),
                tag: None,
            };
            if let Some(recorder) = recorder {
                recorder.published(&published)?;
            }
            loaded.publishes.landed.push(published);
        }
        None => {
            if let Some(recorder) = recorder {
                recorder.abandoned(&intent.nonce)?;
            }
        }
    }
    loaded.publishes.open.retain(|i| i.nonce != intent.nonce);
    Ok(commit)
}
