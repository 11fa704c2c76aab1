//! The tag of a publish: set where it is new, left where it is right already, and else skipped, refused or moved, as the
//! manifest's `on_tag` says.
//!
//! Knows names of tags and commits. A hub cannot move a tag in one step: it is removed and set anew. The record of a
//! publish says which tag was seen to, so that what a kill or a refusal left undone is made good by a later run, and so is a
//! tag that the manifest names later.

use crate::core::error::{Error, Result};
use crate::core::event::Event;
use crate::core::manifest::{Hub, OnTag};
use crate::exec::publish::Publisher;
use crate::exec::remote::Remote;

impl Publisher<'_, '_> {
    /// Sees to the manifest's tag of the last publish, if that was not done yet. A rollback is no new version.
    pub(super) async fn tag_last(&mut self) -> Result<()> {
        let target = self.remote.target.clone();
        let Some(name) = self.hub()?.tag.clone() else { return Ok(()) };
        let last = self.driver.loaded.publishes.last(&target);
        let Some(last) = last.filter(|last| last.tag.as_ref() != Some(&name) && last.restores.is_none()) else {
            return Ok(());
        };
        let commit = last.commit.clone();
        if let Err(error) = self.tag(&name, &commit).await {
            let at = commit.get(..7).unwrap_or(&commit);
            let text = format!("commit {at} is published, and the tag `{name}` could not be set on it");
            return Err(Error::hub(text)
                .cause(error.to_string())
                .hint("run hfbuild again: it sets the tag, and no more"));
        }
        self.driver.recorder.tagged(&target, &name)?;
        self.driver.loaded.publishes.tagged(&target, name);
        Ok(())
    }

    async fn tag(&mut self, name: &str, commit: &str) -> Result<()> {
        let hub = self.hub()?;
        let (client, repo) = (&self.remote.client, &self.remote.repo);
        let tags = client.tags(repo).await?;
        let text = match tags.get(name) {
            Some(at) if at == commit => return Ok(()),
            None => return client.create_tag(repo, name, commit).await,
            Some(at) if hub.on_tag == OnTag::Move => {
                client.delete_tag(repo, name).await?;
                client.create_tag(repo, name, commit).await?;
                format!("tag `{name}` moved here from {}", at.get(..7).unwrap_or(at))
            }
            Some(_) => format!("tag `{name}` is there already and stays where it is (raise `version` for a new one)"),
        };
        self.driver.emit(Event::Note { text });
        Ok(())
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
