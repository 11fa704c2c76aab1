//! The tag of a publish: set where it is new, left where it is right already, and else skipped, refused or moved, as the
//! manifest's `on_tag` says.
//!
//! Knows names of tags and commits. A hub cannot move a tag in one step: it is removed and set anew. The record of a publish
//! names the tag only once it is done, so that the next run makes good what a kill or a refusal left.

use crate::core::error::{Error, Result};
use crate::core::event::Event;
use crate::core::manifest::{Hub, OnTag};
use crate::exec::publish::Publisher;
use crate::exec::remote::Remote;

impl Publisher<'_, '_> {
    /// Sets the manifest's tag on a commit that landed. Whether it is new there.
    pub(super) async fn tag(&mut self, commit: &str) -> Result<bool> {
        let hub = self.hub()?;
        let Some(name) = hub.tag.clone() else { return Ok(false) };
        let (client, repo) = (&self.remote.client, &self.remote.repo);
        let tags = client.tags(repo).await?;
        let text = match tags.get(&name) {
            Some(at) if at == commit => return Ok(false),
            None => return client.create_tag(repo, &name, commit).await.map(|()| true),
            Some(at) if hub.on_tag == OnTag::Move => {
                client.delete_tag(repo, &name).await?;
                client.create_tag(repo, &name, commit).await?;
                format!("tag `{name}` moved here from {}", at.get(..7).unwrap_or(at))
            }
            Some(_) => format!("tag `{name}` is there already and stays where it is (raise `version` for a new one)"),
        };
        self.driver.emit(Event::Note { text });
        Ok(false)
    }
}

/// Refuses, before any stage runs, a publish whose tag is there already where the manifest says `on_tag = "fail"`.
pub async fn check_tag(remote: &Remote, hub: &Hub) -> Result<()> {
    let Some(name) = hub.tag.as_ref().filter(|_| hub.on_tag == OnTag::Fail) else { return Ok(()) };
    match remote.client.tags(&remote.repo).await?.contains_key(name) {
        false => Ok(()),
        true => Err(Error::hub(format!("tag `{name}` is there already, and `on_tag` is \"fail\""))
            .hint("raise `version` in [project]")),
    }
}
