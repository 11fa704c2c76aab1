//! Kinds of stages. A new kind is one file here, one word in [`KINDS`], one transcript in the tests.
//!
//! A kind declares, purely, what it takes from the manifest; and it runs, on what its [`Workspace`] hands out and on
//! nothing else. `check` and `upload` are declared here too, but run elsewhere: gates are decided by the planner, and
//! the driver owns the publish.
//!
//! Knows manifests, workspaces and models. Does not know the store, the history or the Hub.

mod archives;
mod arrays;
mod batches;
mod bounds;
mod card;
mod checkpoint;
mod classify;
mod command;
mod declare;
mod draw;
mod evaluation;
mod files;
mod generator;
pub mod guard;
mod helpers;
mod latency;
pub mod leaks;
mod metadata;
mod onnx;
mod onnx_file;
mod outgoing;
mod pages;
mod process;
mod pytorch;
mod reads;
mod report;
mod runtimes;
mod safetensors;
mod samples;
mod secrets;
pub mod sessions;
mod statistics;
mod template;
mod torch;
pub mod workspace;

pub use card::space::{check as check_space, sdk as space_sdk};
pub use card::{check_license_text, check_links, is_license};
pub use declare::{Texts, parts, texts_wanted};
pub use outgoing::{check_outgoing, doubtful_weights};
pub use runtimes::{Machine, Places, gpus, in_folder, wanted};
pub use torch::{check_device, needs_worker, worker, worker_choice};
pub use workspace::Workspace;

use crate::core::action::{Action, Declaration};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::manifest::target::TARGET;
use crate::core::manifest::{KindInfo, Manifest, Spec};
use crate::core::name::{ArtifactName, RelPath};
use crate::core::value::Value;
use std::collections::BTreeMap;

/// One kind of stage.
pub trait Kind: Sync {
    /// Name, keys, one line for people.
    fn info(&self) -> KindInfo;
    /// Bumped when the same inputs give other bytes.
    fn version(&self) -> u32;
    /// What an artifact of this kind takes and makes. Pure: from the manifest and the texts of its templates alone.
    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration>;
    /// Makes the outputs in the workspace, and says what was measured.
    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts>;
}

/// Every kind that runs as a stage.
pub const KINDS: &[&dyn Kind] = &[
    &checkpoint::Checkpoint,
    &metadata::Metadata,
    &safetensors::Safetensors,
    &pytorch::Pytorch,
    &onnx::Onnx,
    &onnx_file::OnnxImport,
    &samples::Samples,
    &statistics::Statistics,
    &classify::Classify,
    &latency::Latency,
    &report::Report,
    &card::Card,
    &card::EvalResults,
    &template::TextTemplate,
    &files::Files,
    &command::Command,
];

/// `check`: gates, a node a clause.
pub const CHECK: KindInfo = KindInfo {
    name: "check",
    doc: "conditions over facts that must hold; they fail closed",
    fields: &[Field::required(
        "require",
        FieldType::List(&FieldType::Text),
        "conditions in CEL, e.g. `checkpoint.step >= 1000`",
    )],
    facts: &[],
};

/// `upload`: a publish.
pub const UPLOAD: KindInfo = KindInfo {
    name: "upload",
    doc: "publishes a tree of artifacts to the Hub in one commit",
    fields: &[
        Field::required(
            "files",
            FieldType::Map(&FieldType::Artifact),
            "path in the repo -> artifact; a directory ends in `/`",
        ),
        Field::optional(
            "dist",
            FieldType::Path,
            "where the tree is laid out in the project: `dist` by default, `dist/NAME` where there are several uploads",
        ),
        TARGET[0],
        TARGET[1],
        TARGET[2],
        TARGET[3],
        TARGET[4],
        TARGET[5],
        TARGET[6],
        TARGET[7],
    ],
    facts: &[],
};

/// The table of kinds for the manifest's reader and its schema.
pub fn infos() -> Vec<KindInfo> {
    KINDS.iter().map(|k| k.info()).chain([CHECK, UPLOAD]).collect()
}

/// The kind of this name.
pub fn kind(name: &str) -> Result<&'static dyn Kind> {
    KINDS.iter().copied().find(|k| k.info().name == name).ok_or_else(|| Error::bug(format!("no kind `{name}`")))
}

/// Whether an artifact can have a fact of this name; where it cannot, the nearest that it can have.
pub fn check_fact(manifest: &Manifest, artifact: &str, name: &str) -> Result<(), Option<String>> {
    if let Some(near) = report::lacks(manifest, artifact, name) {
        return Err(near);
    }
    let Some(spec) = manifest.artifact(artifact) else { return Ok(()) };
    match infos().into_iter().find(|info| info.name == spec.kind) {
        Some(info) if !info.has_fact(name) => {
            Err(crate::core::name::nearest(name, info.facts.iter().copied()).map(str::to_string))
        }
        _ => Ok(()),
    }
}

/// What a kind sees when it declares.
pub struct Declare<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The artifact.
    pub spec: &'a Spec,
    /// With `each`: the shard.
    pub shard: Option<&'a Shard>,
    /// Texts of templates, by path.
    pub texts: &'a Texts,
}

/// One shard of an artifact with `each`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number in the list, or in the product of the lists, the last of them running fastest.
    pub index: usize,
    /// Its key: `Siamese`; of a product `Siamese,0`.
    pub key: String,
    /// Of a product: the item of each list, by the list's name.
    pub items: Vec<(String, String)>,
}

impl Declare<'_> {
    /// The artifact under a key that must be there (the manifest's check has seen to it).
    pub fn artifact(&self, key: &str) -> Result<ArtifactName> {
        self.parsed(key)
    }
    /// The path under a key that must be there.
    pub fn path(&self, key: &str) -> Result<RelPath> {
        self.parsed(key)
    }
    fn parsed<T: std::str::FromStr<Err = String>>(&self, key: &str) -> Result<T> {
        let text = self.spec.text(key).unwrap_or_default();
        text.parse().map_err(|why: String| self.manifest.source.error(self.spec.place(key), why))
    }
    /// The value under a key, parameters replaced.
    pub fn value(&self, key: &str) -> Option<Value> {
        self.manifest.value(self.spec, key)
    }
    /// A whole number under a key.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.value(key)?.as_int()
    }
    /// A number under a key.
    pub fn float(&self, key: &str) -> Option<f64> {
        self.value(key)?.as_f64()
    }
    /// A manifest error at the value under `key`.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        self.manifest.source.error(self.spec.place(key), message)
    }
    /// The artifact under `key`, which must be of one of these kinds where it exists (the graph reports where it does
    /// not).
    pub fn artifact_of(&self, key: &str, kinds: &[&str]) -> Result<ArtifactName> {
        let name = self.artifact(key)?;
        match self.manifest.artifact(name.as_str()) {
            Some(other) if !kinds.contains(&other.kind) => {
                let list: Vec<_> = kinds.iter().map(|k| format!("`{k}`")).collect();
                Err(self.error(
                    key,
                    format!(
                        "artifact `{}` takes an artifact of kind {}, and `{name}` is of kind `{}`",
                        self.spec.name,
                        list.join(" or "),
                        other.kind
                    ),
                ))
            }
            _ => Ok(name),
        }
    }
    /// The path of the checkpoint file behind a `checkpoint` artifact.
    pub fn checkpoint_path(&self, name: &ArtifactName) -> Option<RelPath> {
        self.manifest.artifact(name.as_str())?.text("path")?.parse().ok()
    }
}

/// A setting that must be in the action: a kind's `declare` put it there.
pub fn param<'a>(action: &'a Action, name: &str) -> Result<&'a Value> {
    action.params.get(name).ok_or_else(|| Error::bug(format!("the action lacks its parameter `{name}`")))
}

/// A whole number of the action.
pub fn int_param(action: &Action, name: &str) -> Result<i64> {
    param(action, name)?.as_int().ok_or_else(|| Error::bug(format!("the parameter `{name}` is no integer")))
}

/// A text of the action.
pub fn text_param<'a>(action: &'a Action, name: &str) -> Result<&'a str> {
    param(action, name)?.as_text().ok_or_else(|| Error::bug(format!("the parameter `{name}` is no text")))
}

/// A value as the text of a JSON file.
pub fn json_text(value: &Value) -> Vec<u8> {
    // plain values: serialising them cannot fail
    let mut text = serde_json::to_vec_pretty(&value.to_json()).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Facts under `prefix.` of an artifact, as an action holds them (`checkpoint.config.depth`).
pub fn facts_under<'a>(action: &'a Action, artifact: &str, group: &str) -> BTreeMap<&'a str, &'a Value> {
    let prefix = if group.is_empty() { format!("{artifact}.") } else { format!("{artifact}.{group}.") };
    action.facts.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?, v))).collect()
}
