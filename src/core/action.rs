//! Declarations and actions.
//!
//! A [`Declaration`] is what a stage says of itself from the manifest alone; an [`Action`] is the declaration with
//! every digest filled in: all that the result may depend on. One traversal, [`Action::components`], feeds both the
//! digest and the explanation, so that what is hashed and what is explained cannot drift.
//!
//! Does not know what a stage does, and reads nothing.

use crate::core::digest::{Canonical, Digest};
use crate::core::facts::Facts;
use crate::core::name::{ArtifactName, FilePattern, NodeName, RelPath};
use crate::core::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What an artifact's output looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One file of this name.
    File(String),
    /// A directory, its files named by the stage. With `each`, every shard adds to the same directory.
    Dir,
    /// These files, at their project-relative paths (a command's outputs). A path that ends in `/` is a directory.
    Paths(Vec<String>),
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputFrom {
    /// The output of an artifact.
    Artifact(ArtifactName),
    /// The output of one shard of an artifact.
    Shard(NodeName),
    /// A file of the project.
    File(RelPath),
    /// Every file of the project that a pattern matches.
    Files(FilePattern),
}

/// One input of a stage.
#[derive(Debug, Clone)]
pub struct Input {
    /// The stage's name for it.
    pub role: String,
    /// Where it comes from.
    pub from: InputFrom,
    /// Where it is named in the manifest.
    pub span: Range<usize>,
    /// Where it stands in a command's work directory; part of the key there, because the program sees it.
    pub path: Option<String>,
}

/// Which facts of an artifact a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactRead {
    /// All that are not volatile.
    All,
    /// All that are not volatile, and what each was measured on.
    AllOf,
    /// Those whose name is one of these, or lies in one of these groups.
    Names(BTreeSet<String>),
}

impl FactRead {
    /// Whether the fact `name` is read.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            FactRead::All | FactRead::AllOf => true,
            FactRead::Names(names) => names.iter().any(|n| {
                n == name
                    || (name.starts_with(n.as_str()) && name.as_bytes().get(n.len()) == Some(&b'.'))
                    || (n.starts_with(name) && n.as_bytes().get(name.len()) == Some(&b'.'))
            }),
        }
    }
}

/// Behind a fact's name in [`FactRead::Names`]: not its value is read, but the digest of what it was measured on.
pub const SUBJECT: &str = "#of";

impl FactRead {
    /// The facts that are read, by name: volatile ones only where they are named.
    pub fn of(&self, facts: &Facts) -> Vec<(String, Value)> {
        let kept = self.keep(facts);
        let subjects = self.subjects(facts);
        kept.values.into_iter().map(|(k, f)| (k, f.value)).chain(kept.volatile).chain(subjects).collect()
    }
    /// The digests of what facts were measured on, where they are read.
    fn subjects(&self, facts: &Facts) -> Vec<(String, Value)> {
        let names = match self {
            FactRead::Names(names) => names.clone(),
            FactRead::AllOf => facts.values.keys().map(|name| format!("{name}{SUBJECT}")).collect(),
            FactRead::All => return vec![],
        };
        let subject = |name: &String| {
            let fact = name.strip_suffix(SUBJECT)?;
            Some((name.clone(), facts.subject_of(fact)?.digest.hex().into()))
        };
        names.iter().filter_map(subject).collect()
    }
    /// The same as facts, everything else left out.
    pub fn keep(&self, facts: &Facts) -> Facts {
        let named = |name: &str| matches!(self, FactRead::Names(names) if names.contains(name));
        let mut out = facts.clone();
        out.values.retain(|name, _| self.covers(name));
        out.volatile.retain(|name, _| named(name));
        out
    }
}

/// Of the pool `cores`: all of them, so that nothing runs beside the stage.
pub const ALL: usize = usize::MAX;
/// Of the pool `cores`: all of them, unless the stage holds a token of `gpu`. It takes one then, and stages on other devices
/// run beside it.
pub const ALL_WITHOUT_GPU: usize = usize::MAX - 1;

/// What one stage (or one shard of it) says of itself.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// The kind's name.
    pub kind: &'static str,
    /// The kind's version.
    pub version: u32,
    /// Settings that the result depends on.
    pub params: BTreeMap<String, Value>,
    /// Data that the result depends on.
    pub inputs: Vec<Input>,
    /// Facts, by value, that the result depends on.
    pub facts: Vec<(ArtifactName, FactRead, Range<usize>)>,
    /// Order only.
    pub after: Vec<(ArtifactName, Range<usize>)>,
    /// A source file that the stage reads but is not keyed by, because an input's digest already proves every byte that
    /// it takes from there (a checkpoint's tensors, by the tensor table).
    pub proven: BTreeMap<String, RelPath>,
    /// The output.
    pub shape: Shape,
    /// Environment variables whose values are part of the action.
    pub env: Vec<String>,
    /// Environment variables handed through, never keyed and never logged (secrets).
    pub pass_env: Vec<String>,
    /// Tools whose fingerprint is part of the action.
    pub tools: Vec<String>,
    /// Tokens of pools.
    pub resources: BTreeMap<String, usize>,
    /// Milliseconds after which the stage is stopped.
    pub timeout_ms: Option<u64>,
    /// Things that go through a graph at once. No part of the action: a thing's result does not depend on it.
    pub batch: Option<usize>,
    /// How often a failed stage is tried again.
    pub retries: u32,
    /// Whether the last result stands, whatever changes.
    pub frozen: bool,
}

impl Declaration {
    /// An empty declaration of a kind.
    pub fn new(kind: &'static str, version: u32, shape: Shape) -> Self {
        Declaration {
            kind,
            version,
            params: BTreeMap::new(),
            inputs: vec![],
            facts: vec![],
            after: vec![],
            proven: BTreeMap::new(),
            shape,
            env: vec![],
            pass_env: vec![],
            tools: vec![],
            resources: BTreeMap::new(),
            timeout_ms: None,
            batch: None,
            retries: 0,
            frozen: false,
        }
    }
    /// Adds a setting.
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }
    /// Adds an input.
    pub fn input(mut self, role: &str, from: InputFrom, span: Range<usize>) -> Self {
        self.inputs.push(Input { role: role.into(), from, span, path: None });
        self
    }
}

/// All that a result may depend on. Kept whole in the receipt, not only as a hash, so that `explain` can say what
/// differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The kind's name.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Inputs by role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, ActionInput>,
    /// Facts by `artifact.name` or `artifact[shard].name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Value>,
    /// Declared environment variables; `None`: not set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// Tool fingerprints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// Declared output paths.
    pub outputs: Vec<String>,
}

/// One input of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionInput {
    /// BLAKE3 of the content (of a directory: of its sorted manifest).
    pub digest: Digest,
    /// Where a program sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The name for people: the source file or the artifact. Not part of the key.
    pub name: String,
    /// Of a directory or a pattern: what it matched, by path, each with its digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Digest>,
}

/// One thing that an action depends on, as a sentence can name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "what", content = "name", rename_all = "snake_case")]
pub enum Component {
    /// The kind's name.
    Kind,
    /// The kind's version.
    KindVersion,
    /// A setting.
    Param(String),
    /// An input's content.
    Input(String),
    /// Where an input stands.
    InputPath(String),
    /// A file that an input's pattern matched.
    File(String),
    /// A fact.
    Fact(String),
    /// An environment variable.
    Env(String),
    /// A tool.
    Tool(String),
    /// The declared outputs.
    Outputs,
}

impl Action {
    /// Every component with its value, in canonical order. The one traversal.
    pub fn components(&self) -> Vec<(Component, Value)> {
        let mut all = vec![
            (Component::Kind, Value::from(self.kind.as_str())),
            (Component::KindVersion, Value::Int(i64::from(self.version))),
        ];
        all.extend(self.params.iter().map(|(k, v)| (Component::Param(k.clone()), v.clone())));
        for (role, input) in &self.inputs {
            if input.files.is_empty() {
                all.push((Component::Input(role.clone()), input.digest.hex().into()));
            }
            if let Some(path) = &input.path {
                all.push((Component::InputPath(role.clone()), path.as_str().into()));
            }
            let files = input.files.iter();
            all.extend(files.map(|(path, digest)| (Component::File(path.clone()), digest.hex().into())));
        }
        all.extend(self.facts.iter().map(|(k, v)| (Component::Fact(k.clone()), v.clone())));
        all.extend(self.env.iter().map(|(k, v)| (Component::Env(k.clone()), v.clone().into())));
        all.extend(self.tools.iter().map(|(k, v)| (Component::Tool(k.clone()), v.as_str().into())));
        all.push((Component::Outputs, self.outputs.clone().into()));
        all
    }

    /// BLAKE3 of the canonical bytes: the domain, then each component with its tag, name and value, all length-prefixed.
    pub fn digest(&self) -> Digest {
        let mut out = Canonical::new("hfbuild action 1");
        for (component, value) in self.components() {
            let (tag, name) = match &component {
                Component::Kind => (0, ""),
                Component::KindVersion => (1, ""),
                Component::Param(n) => (2, n.as_str()),
                Component::Input(n) => (3, n.as_str()),
                Component::InputPath(n) => (4, n.as_str()),
                Component::Fact(n) => (5, n.as_str()),
                Component::Env(n) => (6, n.as_str()),
                Component::Tool(n) => (7, n.as_str()),
                Component::Outputs => (8, ""),
                Component::File(n) => (9, n.as_str()),
            };
            value.feed(out.tag(tag).text(name));
        }
        out.finish()
    }
}
