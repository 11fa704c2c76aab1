//! The name of a repository on a hub, checked once at the edge.
//!
//! Knows the Hub's naming rules and where kinds of repositories lie in URLs. Knows no network.

use std::fmt;

use crate::core::error::{Error, ErrorKind, Result};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepoKind {
    /// A model: no prefix in web URLs.
    Model,
    /// A dataset: below `datasets/`.
    Dataset,
    /// A Space: below `spaces/`.
    Space,
}

impl RepoKind {
    /// All of them.
    pub const ALL: [RepoKind; 3] = [RepoKind::Model, RepoKind::Dataset, RepoKind::Space];

    /// As JSON bodies and manifests name it: `model`.
    pub fn word(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "dataset",
            RepoKind::Space => "space",
        }
    }

    /// As API paths name it: `models`.
    pub fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
            RepoKind::Space => "spaces",
        }
    }

    /// What precedes `ns/name` in web, resolve and LFS URLs: empty, `datasets/` or `spaces/`.
    pub fn web_prefix(self) -> &'static str {
        match self {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
            RepoKind::Space => "spaces/",
        }
    }

    /// Reads `model`, `dataset` or `space`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Reads `models`, `datasets` or `spaces`.
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

/// A repository: its kind and `namespace/name`. Only [`RepoId::new`] makes one, so it is always valid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId {
    kind: RepoKind,
    name: String,
    slash: usize,
}

impl RepoId {
    /// Checks `name` (`namespace/name`) by the Hub's rules: at most 96 characters of `A-Z a-z 0-9 . _ -`, neither `--`
    /// nor `..`, no part starting or ending with `-` or `.`, and no `.git` at the end.
    pub fn new(kind: RepoKind, name: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::Usage, format!("`{name}` is no repository name: {why}"))
                .hint("write it as `namespace/name`, for example `acme/tiny-model`"))
        };
        let Some(slash) = name.find('/') else {
            return refuse("the namespace is missing");
        };
        if name.len() > 96 {
            return refuse("it is longer than 96 characters");
        }
        for part in [&name[..slash], &name[slash + 1..]] {
            if let Some(why) = wrong_with_part(part) {
                return refuse(why);
            }
        }
        if name.ends_with(".git") {
            return refuse("it ends with `.git`");
        }
        Ok(RepoId { kind, name: name.to_owned(), slash })
    }

    /// Its kind.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `namespace/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part before the slash.
    pub fn namespace(&self) -> &str {
        &self.name[..self.slash]
    }

    /// The part after the slash.
    pub fn short_name(&self) -> &str {
        &self.name[self.slash + 1..]
    }

    /// Its path in the API: `api/models/ns/name`.
    pub fn api_path(&self) -> String {
        format!("api/{}/{}", self.kind.plural(), self.name)
    }

    /// Its path on the web: `ns/name`, `datasets/ns/name` or `spaces/ns/name`.
    pub fn web_path(&self) -> String {
        format!("{}{}", self.kind.web_prefix(), self.name)
    }
}

fn wrong_with_part(part: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if part.is_empty() {
        Some("a part is empty")
    } else if part.contains('/') {
        Some("it has more than one `/`")
    } else if !part.chars().all(allowed) {
        Some("only letters, digits, `.`, `_` and `-` are allowed")
    } else if part.contains("--") || part.contains("..") {
        Some("`--` and `..` are not allowed")
    } else if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        Some("a part must not start or end with `-` or `.`")
    } else {
        None
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_hub() {
        let of = |name: &str| RepoId::new(RepoKind::Model, name);
        let good = of("d-oit/tinydit-cats").unwrap();
        assert_eq!((good.namespace(), good.short_name()), ("d-oit", "tinydit-cats"));
        assert_eq!(good.api_path(), "api/models/d-oit/tinydit-cats");
        for bad in ["", "a", "/", "a/", "/b", "a/b/c", "a/b--c", "a/b..c", "-a/b", "a/b.", "a/b c", "a/ü", "a/x.git"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("a/{}", "b".repeat(94))).is_ok());
        assert!(of(&format!("a/{}", "b".repeat(95))).is_err());
        assert_eq!(RepoId::new(RepoKind::Space, "a/b").unwrap().web_path(), "spaces/a/b");
    }
}
