//! Validated names: artifacts, nodes of the graph, and paths relative to the project. Whoever holds one need not check
//! it again; serde goes through the same door.
//!
//! Does not know whether a path exists.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(s: String) -> Result<Self, String> {
                s.parse()
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }
    };
}

/// The name of an artifact: a letter or `_`, then letters, digits, `_`; at most 64. No `-`, because gates and templates
/// name artifacts as identifiers (`checkpoint.step`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactName(String);
text_newtype!(ArtifactName);

impl FromStr for ArtifactName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut chars = s.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || s.len() > 64 {
            return Err("an artifact's name is a letter, then letters, digits and `_`, at most 64 in all".into());
        }
        if RESERVED.contains(&s) {
            return Err(format!("`{s}` is taken: gates and templates know it as something else"));
        }
        Ok(ArtifactName(s.into()))
    }
}

/// Names that gates and templates use for other things, and CEL's own words.
const RESERVED: [&str; 12] =
    ["project", "hub", "params", "declared", "published", "in", "out", "true", "false", "null", "this", "shards"];

/// A path relative to the project's root: `/` as separator, no `.`/`..` component, no backslash, no control character,
/// not absolute, not empty, no component over 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);
text_newtype!(RelPath);

impl FromStr for RelPath {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s.is_empty() {
            return Err("a path may not be empty".into());
        }
        if s.starts_with('/') || s.as_bytes().get(1) == Some(&b':') {
            return Err("a path is relative to the project's root, not absolute".into());
        }
        if s.chars().any(|c| c.is_control() || c == '\\') {
            return Err("a path holds no control characters and no backslash".into());
        }
        for part in s.split('/') {
            match part {
                "" => return Err("a path has no empty component and no slash at its end".into()),
                "." => return Err("a path holds no `.` component".into()),
                ".." => return Err("a path may not leave the project (`..`)".into()),
                long if long.len() > 255 => return Err("a path's component is at most 255 bytes".into()),
                _ => {}
            }
        }
        if s.len() > 4000 {
            return Err("a path is at most 4000 bytes".into());
        }
        Ok(RelPath(s.into()))
    }
}

impl RelPath {
    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
    /// Whether `self` is `other` or lies inside it.
    pub fn is_within(&self, other: &str) -> bool {
        self.0 == other || (self.0.starts_with(other) && self.0.as_bytes().get(other.len()) == Some(&b'/'))
    }
}

/// Files of the project by a pattern: a directory (`data/`, all below it) or a glob (`data/**/*.txt`; `*` and `?` stop at
/// a `/`). Relative to the root, by the rules of [`RelPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePattern(String);
text_newtype!(FilePattern);

impl FilePattern {
    /// Whether a text is written as a pattern rather than as one path.
    pub fn looks_like(text: &str) -> bool {
        text.ends_with('/') || text.contains(['*', '?', '[', '{'])
    }
    /// The folder that every match lies in; nothing: the root.
    pub fn base(&self) -> &str {
        let fixed = self.0.find(['*', '?', '[', '{']).map_or(self.0.as_str(), |at| &self.0[..at]);
        fixed.rsplit_once('/').map_or("", |(base, _)| base)
    }
}

impl FromStr for FilePattern {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.strip_suffix('/').unwrap_or(s).parse::<RelPath>()?;
        Ok(FilePattern(s.into()))
    }
}

/// A node of the graph: an artifact, or one shard of it: `samples[Siamese]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName {
    /// The artifact.
    pub artifact: ArtifactName,
    /// The shard's key, a gate's clause, or nothing.
    pub key: Option<String>,
}

impl NodeName {
    /// An artifact that is one node.
    pub fn whole(artifact: ArtifactName) -> Self {
        NodeName { artifact, key: None }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}[{key}]", self.artifact),
            None => write!(f, "{}", self.artifact),
        }
    }
}
impl FromStr for NodeName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once('[') {
            Some((artifact, rest)) => {
                let key = rest.strip_suffix(']').ok_or("a shard is written `artifact[key]`")?;
                Ok(NodeName { artifact: artifact.parse()?, key: Some(key.into()) })
            }
            None => Ok(NodeName::whole(s.parse()?)),
        }
    }
}
impl TryFrom<String> for NodeName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}
impl From<NodeName> for String {
    fn from(n: NodeName) -> String {
        n.to_string()
    }
}

/// A text as a file name: letters, digits, `.`, `_`, `-` stay, anything else becomes `_`. Labels become folders so.
pub fn slug(text: &str) -> String {
    let slug: String = text.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    match slug.as_str() {
        "" | "." | ".." => format!("_{slug}"),
        _ => slug,
    }
}

/// The nearest of `known` to a mistyped `word`, if one is near enough to suggest (Jaro-Winkler over .8).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}
