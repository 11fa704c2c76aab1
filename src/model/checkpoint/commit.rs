//! The commit of the training code, where a checkpoint records it: an entry of the file itself, so that it is bound to the
//! weights beside it. The commit that a publish happens at proves nothing of what trained them.
//!
//! Knows the names that trainers write it under; a name that can be of something else (`dataset.commit`) is none of them.

use super::{Checkpoint, Scalar};

/// Names of the entry.
const KEYS: [&str; 8] =
    ["training_commit", "git_commit", "git_commit_hash", "git_hash", "git_sha", "commit", "commit_hash", "commit_sha"];
/// The same in a dict of what git says.
const IN_GIT: [&str; 4] = ["git.commit", "git.hash", "git.sha", "git.commit_hash"];
/// Dicts that the names may stand in, beside the trainer's settings.
const DICTS: [&str; 3] = ["", "metadata.", "meta."];

/// Fills in the commit from the plain values that were read. Two that differ are no record: that is told in `unread`.
pub(super) fn read(checkpoint: &mut Checkpoint) {
    let mut found: Vec<String> = vec![];
    for settings in [&checkpoint.extras, &checkpoint.config] {
        for dict in DICTS {
            let names = KEYS.iter().chain(&IN_GIT).map(|key| format!("{dict}{key}"));
            found.extend(names.filter_map(|name| commit(settings.get(&name)?)));
        }
    }
    // a full name and a short one of it are one commit
    found.sort_by_key(|commit| std::cmp::Reverse(commit.len()));
    let Some(first) = found.first() else { return };
    match found.iter().find(|other| !same(first, other)) {
        None => checkpoint.training_commit = Some(first.clone()),
        Some(other) => {
            drop(checkpoint.unread.insert("training_commit".into(), format!("two commits, {first} and {other}")));
        }
    }
}

/// Whether two names are of one commit: the same, or one is the beginning of the other.
pub fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim().to_lowercase(), b.trim().to_lowercase());
    let dirty = |name: &str| name.ends_with(DIRTY);
    let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    dirty(&a) == dirty(&b)
        && long.trim_end_matches(DIRTY).starts_with(short.trim_end_matches(DIRTY))
        && is_commit(short)
        || a == b
}

/// What `git describe --dirty` puts behind the commit of a changed work tree.
const DIRTY: &str = "-dirty";

/// 7 to 64 hexadecimal digits (SHA-1 and SHA-256, or their beginning), with `-dirty` behind it where it says so.
fn is_commit(text: &str) -> bool {
    let digits = text.strip_suffix(DIRTY).unwrap_or(text);
    (7..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn commit(value: &Scalar) -> Option<String> {
    let Scalar::Text(text) = value else { return None };
    let text = text.trim().to_lowercase();
    is_commit(&text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::{Container, Layout, Settings};
    use super::*;

    const FULL: &str = "0123456789abcdef0123456789abcdef01234567";

    fn of(extras: &[(&str, &str)], config: &[(&str, &str)]) -> Checkpoint {
        let settings = |items: &[(&str, &str)]| -> Settings {
            items.iter().map(|(k, v)| ((*k).to_string(), Scalar::Text((*v).to_string()))).collect()
        };
        let mut checkpoint = Checkpoint::empty(Container::Zip, Layout::Export);
        (checkpoint.extras, checkpoint.config) = (settings(extras), settings(config));
        read(&mut checkpoint);
        checkpoint
    }

    #[test]
    fn a_recorded_commit_is_read_where_trainers_write_it() {
        for name in ["git_commit", "git_sha", "commit", "git.commit", "metadata.git_hash"] {
            assert_eq!(of(&[(name, FULL)], &[]).training_commit.as_deref(), Some(FULL), "{name}");
            assert_eq!(of(&[], &[(name, FULL)]).training_commit.as_deref(), Some(FULL), "{name}");
        }
        assert_eq!(of(&[("commit", "ABCDEF1-dirty")], &[]).training_commit.as_deref(), Some("abcdef1-dirty"));
        assert_eq!(of(&[("commit", &FULL[..8])], &[("git_sha", FULL)]).training_commit.as_deref(), Some(FULL));
    }

    #[test]
    fn what_is_no_commit_or_anothers_is_none_and_two_that_differ_are_told() {
        for (name, value) in [("commit", "yes"), ("commit", "main"), ("dataset.commit", FULL), ("commit", "abc123")] {
            assert_eq!(of(&[(name, value)], &[]).training_commit, None, "{name} = {value}");
        }
        let two = of(&[("commit", FULL)], &[("git_sha", "fedcba9876543210")]);
        assert_eq!(two.training_commit, None);
        assert!(two.unread["training_commit"].starts_with("two commits"), "{:?}", two.unread);
        assert!(!same(FULL, &format!("{FULL}-dirty")) && same(FULL, &FULL[..7]) && !same(FULL, ""));
    }
}
