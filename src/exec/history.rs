//! The publishes to a target, newest first: from this cache's records, and from the remote's commits where it has none.
//!
//! A commit is a publish where its description says so ([`crate::core::past::marks`]). What it published is read from its
//! own record (`provenance.json` at that commit). Decides nothing but which publish comes before the current one.

use crate::core::error::Result;
use crate::core::past::{Counts, Files, Marks, counts, files_of, marks};
use crate::core::plan::RECORD;
use crate::core::publish::{Published, Target, files_digest, tree_digest};
use crate::core::record::{self, Account};
use crate::exec::baseline::{SEARCHED, is_quoted, kept_record};
use crate::exec::remote::Remote;
use crate::hub::client::CommitInfo;
use crate::store::blobs::Blobs;
use crate::store::records::Publishes;
use std::collections::{BTreeMap, BTreeSet};

/// One publish.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its commit.
    pub commit: String,
    /// When, RFC 3339.
    pub date: String,
    /// The commit's title and author; `None`: the commit was not seen on the remote.
    pub title: Option<String>,
    /// Who made it, where the remote says so.
    pub author: Option<String>,
    /// Tags that point to it.
    pub tags: Vec<String>,
    /// The digest of its tree.
    pub tree: String,
    /// Of a rollback: the commit whose tree it restored.
    pub restores: Option<String>,
    /// This cache's receipt.
    pub receipt: Option<Published>,
    /// Whether the branch has it; `None`: nobody could look, or not that far.
    pub there: Option<bool>,
    /// Version and gates, where the record could be read.
    pub account: Option<Account>,
    /// What it brought against the publish before it, where both are known.
    pub counts: Option<Counts>,
    /// Its files, once they were read.
    files: Option<Files>,
}

/// What is seen of a branch: its newest commits and its tags.
#[derive(Debug, Clone, Default)]
pub struct Branch {
    commits: Vec<CommitInfo>,
    tags: BTreeMap<String, String>,
    /// Commits with tags, that are not among these because the search ended before.
    tagged: Vec<CommitInfo>,
    /// Whether these are all of its commits.
    whole: bool,
}

/// So many tags are followed beyond the commits that were looked through, a request each.
const FOLLOWED: usize = 50;

impl Branch {
    /// How many of its newest commits were looked through, where it has more.
    pub fn searched(&self) -> Option<usize> {
        (!self.whole).then_some(self.commits.len())
    }

    /// What was let pass in a publish's files, path and rule, as far as the descriptions tell: its own, and those before it
    /// of files that no later one sent anew.
    pub fn allowed_findings(&self, publish: &str) -> BTreeSet<(String, String)> {
        let from = self.commits.iter().skip_while(|commit| commit.id != publish);
        let tagged = self.tagged.iter().filter(|commit| commit.id == publish);
        let ours = from.chain(tagged).filter(|c| marks(&c.message).is_some() && !is_quoted(&self.commits, c));
        let (mut out, mut anew) = (BTreeSet::new(), BTreeSet::new());
        for commit in ours {
            let lines = || commit.message.lines().map(str::trim);
            let found = lines().filter_map(|line| line.strip_prefix("allowed finding: ")?.split_once(" in "));
            let found = found.filter(|(_, path)| !anew.contains(path));
            out.extend(found.map(|(rule, path)| (path.to_string(), rule.to_string())));
            anew.extend(lines().filter_map(|line| line.strip_prefix("+ ").or_else(|| line.strip_prefix("~ "))));
        }
        out
    }

    /// The commit that a tag is on.
    pub fn tagged(&self, tag: &str) -> Option<&str> {
        self.tags.get(tag).map(String::as_str)
    }
}

/// Looks at the branch. One that is not there has no commits.
pub async fn branch(remote: &Remote) -> Result<Branch> {
    let (client, repo, revision) = (&remote.client, &remote.repo, &remote.target.revision);
    let Some(head) = client.head(repo, revision).await? else {
        return Ok(Branch { whole: true, ..Branch::default() });
    };
    let commits = client.commits_since(repo, &head.sha, "", SEARCHED).await?;
    let (whole, tags) = (commits.len() < SEARCHED, client.tags(repo).await?);
    let beyond: BTreeSet<&String> = tags.values().filter(|at| commits.iter().all(|c| c.id != **at)).collect();
    let mut tagged = Vec::new();
    for at in beyond.into_iter().filter(|_| !whole).take(FOLLOWED) {
        tagged.extend(client.commits_since(repo, at, "", 1).await?);
    }
    Ok(Branch { commits, tags, tagged, whole })
}

/// The publishes, newest first. Without a branch (nobody answers) they are those of this cache.
pub fn entries(publishes: &Publishes, target: &Target, branch: Option<&Branch>) -> Vec<Entry> {
    let mut receipts: BTreeMap<&str, &Published> = BTreeMap::new();
    let ours = publishes.landed.iter().filter(|p| p.target == *target && p.pull_request.is_none());
    receipts.extend(ours.map(|p| (p.commit.as_str(), p)));
    let mut out = Vec::new();
    let nothing = Branch::default();
    let seen = branch.unwrap_or(&nothing);
    for commit in &seen.commits {
        let receipt = receipts.remove(commit.id.as_str());
        let marks = marks(&commit.message).filter(|_| !is_quoted(&seen.commits, commit));
        if receipt.is_some() || marks.is_some() {
            out.push(entry(commit, receipt, marks, &seen.tags));
        }
    }
    let mut others = Vec::new();
    // one that is newer than what was looked through is on another branch
    let oldest = seen.commits.last().map(|commit| commit.date.clone());
    for commit in seen.tagged.iter().filter(|commit| oldest.as_ref().is_none_or(|oldest| commit.date <= *oldest)) {
        let (receipt, marks) = (receipts.remove(commit.id.as_str()), marks(&commit.message));
        if receipt.is_some() || marks.is_some() {
            others.push(Entry { there: None, ..entry(commit, receipt, marks, &seen.tags) });
        }
    }
    let there = branch.filter(|b| b.whole).map(|_| false);
    others.extend(receipts.into_values().map(|published| unseen(published, there)));
    others.sort_by(|a, b| b.date.cmp(&a.date));
    for entry in others {
        // those that the branch has stand in its order, the others between them by date
        let at = out.iter().position(|other: &Entry| other.date < entry.date).unwrap_or(out.len());
        out.insert(at, entry);
    }
    out
}

fn entry(
    commit: &CommitInfo,
    receipt: Option<&Published>,
    marks: Option<Marks>,
    tags: &BTreeMap<String, String>,
) -> Entry {
    let tree = receipt.map(|p| tree_digest(&p.tree)).or(marks.as_ref().map(|m| m.tree));
    let restores = receipt.and_then(|p| p.restores.clone()).or(marks.and_then(|m| m.restores));
    let date = commit.date.clone().or_else(|| receipt.map(|p| date_of(p.at_ms)));
    let here = tags.iter().filter(|(_, at)| **at == commit.id);
    Entry {
        commit: commit.id.clone(),
        date: date.unwrap_or_default(),
        title: Some(commit.title.clone()),
        author: commit.author.clone(),
        tags: here.map(|(name, _)| name.clone()).collect(),
        tree: tree.map(|t| t.hex()).unwrap_or_default(),
        restores,
        receipt: receipt.cloned(),
        there: Some(true),
        account: None,
        counts: None,
        files: receipt.map(|p| files_of(&p.tree)),
    }
}

/// A publish whose commit was not seen.
fn unseen(published: &Published, there: Option<bool>) -> Entry {
    Entry {
        commit: published.commit.clone(),
        date: date_of(published.at_ms),
        title: None,
        author: None,
        tags: vec![],
        tree: tree_digest(&published.tree).hex(),
        restores: published.restores.clone(),
        receipt: Some(published.clone()),
        there,
        account: None,
        counts: None,
        files: Some(files_of(&published.tree)),
    }
}

fn date_of(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// Reads the records of the first `most` publishes: version, gates, and what each brought against the one before it.
/// Those that the cache does not have are asked of the remote, where one is given.
pub async fn fill(entries: &mut [Entry], most: usize, remote: Option<&Remote>, blobs: &Blobs) -> Result<()> {
    let told = entries.len().min(most);
    for at in 0..entries.len().min(told + 1) {
        let Some(bytes) = record_of(&entries[at], remote, blobs).await? else { continue };
        let entry = &mut entries[at];
        entry.account = record::account(&bytes);
        if entry.files.is_none() {
            let files = record::files(&bytes).filter(|files| files_digest(files).hex() == entry.tree);
            entry.files = files;
        }
    }
    for at in 0..told {
        let nothing = Files::new();
        // a publish that the remote lost came before none that it has
        let lost = entries[at].there == Some(false);
        let before = match entries[at + 1..].iter().find(|other| lost || other.there != Some(false)) {
            Some(before) => before.files.as_ref(),
            None => Some(&nothing),
        };
        entries[at].counts = entries[at].files.as_ref().zip(before).map(|(after, before)| counts(before, after));
    }
    Ok(())
}

/// The published record of an entry: from the cache, else from its commit.
pub async fn record_of(entry: &Entry, remote: Option<&Remote>, blobs: &Blobs) -> Result<Option<Vec<u8>>> {
    let kept = entry.receipt.as_ref().map(|p| kept_record(p, blobs)).transpose()?.flatten();
    match (kept, remote.filter(|_| entry.there != Some(false))) {
        (Some(kept), _) => Ok(Some(kept)),
        (None, Some(remote)) => remote.client.download_small(&remote.repo, &entry.commit, RECORD).await,
        (None, None) => Ok(None),
    }
}

/// The publish that a word means: a tag, or the beginning of a commit's id.
pub fn find<'e>(entries: &'e [Entry], branch: &Branch, word: &str) -> Vec<&'e Entry> {
    let tagged = branch.tags.get(word);
    let is_meant = |e: &&Entry| match tagged {
        Some(commit) => e.commit == *commit,
        None => word.len() >= 4 && e.commit.starts_with(&word.to_ascii_lowercase()),
    };
    entries.iter().filter(is_meant).collect()
}

/// The publish before the current one that left another tree: the newest two of those that are there.
pub fn before_current(entries: &[Entry]) -> Option<&Entry> {
    let mut there = entries.iter().filter(|e| e.there != Some(false));
    let current = there.next()?;
    there.find(|e| e.tree != current.tree)
}

/// The current publish.
pub fn current(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().find(|e| e.there != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::digest::Digest;
    use crate::core::publish::Tree;

    fn target() -> Target {
        let text = |t: &str| t.to_string();
        Target { endpoint: text("embedded"), kind: text("model"), repo: text("a/b"), revision: text("main") }
    }

    fn commit(id: &str, tree: Option<&str>, date: &str) -> CommitInfo {
        let says = |tree: &str| format!("tree: {}\nrecord: 12\nnonce: hfbuild-{id}", Digest::of(tree.as_bytes()));
        CommitInfo {
            id: id.into(),
            title: "a title".into(),
            message: tree.map(says).unwrap_or_default(),
            author: None,
            date: Some(date.into()),
        }
    }

    fn branch() -> Branch {
        let commits = vec![
            commit("dddd444", Some("two"), "2026-01-04T00:00:00.000Z"),
            commit("cccc333", None, "2026-01-03T00:00:00.000Z"),
            commit("bbbb222", Some("two"), "2026-01-02T00:00:00.000Z"),
            commit("aaaa111", Some("one"), "2026-01-01T00:00:00.000Z"),
        ];
        Branch { commits, tags: [("v1".to_string(), "aaaa111".to_string())].into(), tagged: vec![], whole: true }
    }

    fn ids(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|e| e.commit.as_str()).collect()
    }

    #[test]
    fn the_publishes_of_a_branch_and_the_one_before_the_current_that_was_another() {
        let entries = entries(&Publishes::default(), &target(), Some(&branch()));
        assert_eq!(ids(&entries), ["dddd444", "bbbb222", "aaaa111"]);
        assert_eq!(before_current(&entries).map(|e| e.commit.as_str()), Some("aaaa111"));
        let found = |word: &str| find(&entries, &branch(), word).len();
        assert_eq!((found("v1"), found("bbbb"), found("bbb"), found("cccc333")), (1, 1, 0, 0));
    }

    #[test]
    fn a_tag_leads_to_a_publish_below_the_commits_that_were_looked_through() {
        let mut seen = branch();
        let oldest = seen.commits.pop().unwrap();
        seen = Branch { tagged: vec![oldest], whole: false, ..seen };
        let entries = entries(&Publishes::default(), &target(), Some(&seen));
        assert_eq!(ids(&entries), ["dddd444", "bbbb222", "aaaa111"]);
        assert_eq!((entries[2].there, &entries[2].tags[..], seen.searched()), (None, &["v1".to_string()][..], Some(3)));
        assert_eq!(find(&entries, &seen, "v1").len(), 1);
    }

    #[test]
    fn a_finding_that_was_let_pass_is_known_until_the_file_was_sent_anew() {
        let said = |id: &str, text: &str| CommitInfo {
            message: format!("{text}\ntree: {}\nrecord: 12\nnonce: hfbuild-{id}", Digest::of(b"tree")),
            ..commit(id, None, "2026-01-01T00:00:00.000Z")
        };
        let newest = said("cccc333", "~ a.bin\n\nallowed finding: pickle in b.bin");
        let commits = vec![newest, said("bbbb222", "+ c"), said("aaaa111", "+ a.bin\n\nallowed finding: key in a.bin")];
        let seen = Branch { commits, whole: true, ..Branch::default() };
        let found = |path: &str, rule: &str| BTreeSet::from([(path.to_string(), rule.to_string())]);
        assert_eq!(seen.allowed_findings("cccc333"), found("b.bin", "pickle"));
        assert_eq!(seen.allowed_findings("bbbb222"), found("a.bin", "key"));
        assert!(seen.allowed_findings("dddd444").is_empty());
    }

    #[test]
    fn a_publish_that_the_branch_lost_stands_where_it_was_and_is_not_the_one_before() {
        let lost = Published {
            target: target(),
            commit: "eeee555".into(),
            head: None,
            tag: None,
            parent: None,
            tree: Tree::new(),
            at_ms: "2026-01-03T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond(),
            allowed: vec![],
            pull_request: None,
            restores: None,
        };
        let publishes = Publishes { landed: vec![lost], open: vec![] };
        let seen = entries(&publishes, &target(), Some(&branch()));
        assert_eq!(ids(&seen), ["dddd444", "eeee555", "bbbb222", "aaaa111"]);
        assert_eq!(seen[1].there, Some(false));
        assert_eq!(before_current(&seen).map(|e| e.commit.as_str()), Some("aaaa111"));
        let alone = entries(&publishes, &target(), None);
        assert_eq!((ids(&alone), alone[0].there), (vec!["eeee555"], None));
    }
}
