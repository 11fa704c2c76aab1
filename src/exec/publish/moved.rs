//! A branch that moved while a publish was under way: found out as late as possible, and said with who moved it.
//!
//! Hubs compare the parent that a commit names; some do not. So the head is looked at once more after the content was
//! sent, which may have taken hours. Decides nothing.

use crate::core::error::Result;
use crate::core::event::Event;
use crate::exec::publish::{Moved, Publisher};
use crate::exec::remote::Remote;
use crate::hub::client::CommitInfo;

/// How many commits of others are named.
const NAMED: usize = 3;

/// Whether the branch is no longer at `parent`.
pub(super) async fn has_moved(remote: &Remote, parent: &str) -> Result<bool> {
    let head = remote.client.head(&remote.repo, &remote.target.revision).await?;
    Ok(head.is_none_or(|head| head.sha != parent))
}

impl Publisher<'_, '_> {
    /// Says which commits came after the one that was planned on, and that the plan is made anew.
    pub(super) async fn tell_moved(&self, moved: &Moved) -> Result<()> {
        let (remote, Moved { revision, parent }) = (self.remote, moved);
        let mut commits = match remote.client.head(&remote.repo, revision).await? {
            Some(_) if !parent.is_empty() => {
                remote.client.commits_since(&remote.repo, revision, parent, NAMED + 1).await?
            }
            _ => vec![],
        };
        let more = if commits.len() > NAMED { " and more" } else { "" };
        commits.truncate(NAMED);
        let named = commits.iter().map(in_words).collect::<Vec<_>>().join(", ");
        let by = if named.is_empty() { String::new() } else { format!(" by {named}{more}") };
        self.driver.emit(Event::Note { text: format!("`{revision}` was moved meanwhile{by}: planning again") });
        Ok(())
    }
}

/// `anna: "fix a typo" (1a2b3c4, 2026-01-31T10:00:00Z)`
fn in_words(commit: &CommitInfo) -> String {
    let author = commit.author.as_deref().unwrap_or("somebody");
    let date = commit.date.as_deref().map(|date| format!(", {date}")).unwrap_or_default();
    format!("{author}: \"{}\" ({}{date})", commit.title, commit.id.chars().take(7).collect::<String>())
}
