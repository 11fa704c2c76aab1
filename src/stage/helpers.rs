//! Helpers of templates that prove what they say: `sha256`, `subject`, `measured_on`, `recorded`; and `gallery`, `literal`.
//!
//! | helper | gives |
//! |---|---|
//! | `{{sha256 "model.safetensors"}}` | the digest of the file that is published under that path |
//! | `{{subject generator.max_abs_diff}}` | what the fact was measured on, and the start of its BLAKE3 |
//! | `{{measured_on latency.picture_seconds "onnx/model.onnx"}}` | the path, after a proof that the fact was measured on that very file |
//! | `{{recorded checkpoint.training_commit "training_commit"}}` | the fact and what records it; else the declared value and its source; else `not recorded` |
//! | `{{gallery samples.shards "samples/" 2}}` | items of `widget` in the front matter: the first pictures of each label |
//! | `{{literal "22M" "why"}}` | the first text, passed over by the card's lint |
//!
//! What they read beside values (subjects, files) is in the key, told by `reads`. Knows no kind.

use super::{Declare, Workspace};
use crate::core::action::{Declaration, InputFrom, SUBJECT};
use crate::core::digest::Digest;
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::{FactSet, Subject};
use crate::core::manifest::{Manifest, Spec};
use crate::core::name::{ArtifactName, slug};
use crate::core::value::Value;
use crate::model::checkpoint::commit;
use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Before the path, in the role of an input that a template reads the content of.
const ROLE: &str = "path:";

/// The artifact that an upload publishes under a path, and the file's path within it (empty: the artifact is the file).
pub fn published(manifest: &Manifest, path: &str) -> Option<(ArtifactName, String)> {
    uploads(manifest).find_map(|upload| published_by(upload, path))
}

/// The same for the artifact `page`, which speaks of the files beside it: of the uploads that publish it, all that have the
/// path must have the same file there. Where none has it, another repository's is meant (a Space's program and its model).
fn published_for(manifest: &Manifest, page: &ArtifactName, path: &str) -> Option<(ArtifactName, String)> {
    let carries = |upload: &&Spec| upload.map("files").iter().any(|(_, _, made, _)| *made == page.as_str());
    let mut beside = uploads(manifest).filter(carries).filter_map(|upload| published_by(upload, path));
    let Some(first) = beside.next() else { return published(manifest, path) };
    beside.all(|other| other == first).then_some(first)
}

fn uploads(manifest: &Manifest) -> impl Iterator<Item = &Spec> {
    manifest.artifacts.iter().filter(|s| s.kind == super::UPLOAD.name)
}

fn published_by(upload: &Spec, path: &str) -> Option<(ArtifactName, String)> {
    upload.map("files").into_iter().find_map(|(target, _, artifact, _)| {
        let inner = match target == path {
            true => "",
            false => path.strip_prefix(target.as_str()).filter(|_| target.ends_with('/'))?,
        };
        Some((artifact.parse().ok()?, inner.to_string()))
    })
}

/// Adds the files whose content a template reads to a declaration; the error is the path that is not published.
pub fn declare_paths(
    cx: &Declare<'_>,
    mut declaration: Declaration,
    paths: &BTreeSet<String>,
) -> Result<Declaration, String> {
    for path in paths {
        let found = published_for(cx.manifest, &cx.spec.name, path).filter(|(a, _)| *a != cx.spec.name);
        let (artifact, inner) = found.ok_or(path.clone())?;
        let maker: BTreeMap<String, _> =
            [("artifact".to_string(), artifact.as_str().into()), ("file".into(), inner.as_str().into())].into();
        declaration = declaration.param(&format!("{ROLE}{path}"), Value::Map(maker));
        let role = format!("{ROLE}{path}");
        declaration = declaration.input(&role, InputFrom::Artifact(artifact), cx.spec.place("template"));
    }
    Ok(declaration)
}

/// The name under which the subject of a fact is read.
pub fn subject_name(fact: &str) -> String {
    format!("{fact}{SUBJECT}")
}

/// What the helpers look up.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Of a path: the artifact that makes it, the digest of the file (none: a folder), its SHA-256.
    files: BTreeMap<String, Published>,
    facts: BTreeMap<ArtifactName, FactSet>,
}

#[derive(Debug)]
struct Published {
    artifact: String,
    digest: Option<Digest>,
    sha256: Option<String>,
}

impl Proofs {
    /// Out of the workspace of a template's stage. Reads the files that `sha256` names.
    pub fn of(action: &crate::core::action::Action, workspace: &Workspace) -> Result<Proofs> {
        let mut files = BTreeMap::new();
        for (key, value) in &action.params {
            let Some(path) = key.strip_prefix(ROLE) else { continue };
            let Value::Map(maker) = value else { continue };
            let word = |key: &str| maker.get(key).and_then(|v| v.as_text()).unwrap_or_default();
            let inputs = workspace.inputs.get(key).map(Vec::as_slice).unwrap_or_default();
            let inner = word("file");
            let whole = !path.ends_with('/');
            let file = match inputs {
                [one] if inner.is_empty() && whole => Some(one),
                many => many.iter().find(|f| f.path == inner),
            };
            if file.is_none() && whole {
                return Err(Error::stage(format!("`{path}` is no file of `{}`", word("artifact"))));
            }
            let sha256 = file.map(|f| sha256_of(&f.file)).transpose()?;
            let digest = file.map(|f| f.digest);
            files.insert(path.to_string(), Published { artifact: word("artifact").into(), digest, sha256 });
        }
        Ok(Proofs { files, facts: workspace.facts.clone() })
    }

    /// The subject of a dotted fact name. Of a family: of all shards, where it is one.
    fn subject(&self, name: &str) -> Option<&Subject> {
        let (artifact, fact) = name.split_once('.')?;
        match self.facts.get(artifact)? {
            FactSet::One(facts) => facts.subject_of(fact),
            FactSet::Family(shards) => {
                if let Some((index, fact)) = fact.strip_prefix("shards.").and_then(|rest| rest.split_once('.')) {
                    return shards.get(index.parse::<usize>().ok()?)?.1.subject_of(fact);
                }
                let fact = fact
                    .split_once('.')
                    .filter(|(w, _)| crate::core::facts::is_family_word(w))
                    .map_or(fact, |(_, f)| f);
                let all = shards.iter().map(|(_, facts)| facts.subject_of(fact));
                let all: Option<Vec<&Subject>> = all.collect();
                let (first, rest) = all.as_deref()?.split_first()?;
                rest.iter().all(|s| s == first).then_some(*first)
            }
        }
    }

    /// A fact that a file may record or somebody may declare. What is declared must not contradict what is recorded.
    fn recorded(&self, name: &str, declared: &Json) -> Result<String, String> {
        let of = name.split_once('.').and_then(|(artifact, fact)| match self.facts.get(artifact)? {
            FactSet::One(facts) => facts.get(fact).filter(|value| **value != Value::Null),
            FactSet::Family(_) => None,
        });
        let said = match &declared["value"] {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let source = declared["source"].as_str().unwrap_or_default();
        match (of, said) {
            (Some(value), Some(said)) if !commit::same(&value.to_string(), &said) => {
                Err(format!("`{name}` is `{value}`, and it is declared as `{said}` (source: {source})"))
            }
            (Some(value), _) => {
                let subject = self.subject(name).ok_or_else(|| format!("`{name}` has not one subject"))?;
                Ok(format!("`{value}`, recorded in {} (BLAKE3 {})", subject.what, subject.digest.short()))
            }
            (None, Some(said)) => Ok(format!("`{said}` (declared; source: {source})")),
            (None, None) => Ok("not recorded".into()),
        }
    }

    fn measured_on(&self, fact: &str, path: &str) -> Result<String, String> {
        let file = self.files.get(path).ok_or_else(|| format!("`{path}` is not in the published tree"))?;
        let own = fact.split('.').next() == Some(file.artifact.as_str());
        let subject = self.subject(fact);
        let same = file.digest.is_some() && subject.map(|s| s.digest) == file.digest;
        if own || same {
            return Ok(format!("`{path}`"));
        }
        let was = subject
            .map_or("something that is no single file".into(), |s| format!("`{}`, {}", s.what, s.digest.short()));
        let is = file.digest.map_or("a folder".to_string(), |d| d.short());
        Err(format!(
            "`{fact}` was measured on {was}, and `{path}` of the published tree is {is}: it says nothing of that file"
        ))
    }
}

fn sha256_of(file: &std::path::Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut reader = std::fs::File::open(file).on("open", file)?;
    std::io::copy(&mut reader, &mut hasher).on("read", file)?;
    Ok(hex::encode(hasher.finalize()))
}

/// Registers the helpers.
pub fn register(registry: &mut Handlebars<'_>, proofs: Proofs) {
    let proofs = Arc::new(proofs);
    type Make = fn(&Helper<'_>, &Context, &Proofs) -> Result<String, RenderErrorReason>;
    let table: [(&'static str, Make); 6] = [
        ("literal", |h, _, _| {
            let reason = text(h, 1).filter(|t| !t.trim().is_empty());
            reason.ok_or_else(|| told("`literal` takes a text and the reason why no fact stands there"))?;
            text(h, 0).map(String::from).ok_or(RenderErrorReason::ParamNotFoundForIndex("literal", 0))
        }),
        ("sha256", |h, _, proofs| {
            let path = text(h, 0).ok_or_else(|| told("`sha256` takes a path of the published tree, in quotes"))?;
            let found = proofs.files.get(path).and_then(|f| f.sha256.clone());
            found.ok_or_else(|| told(&format!("`{path}` is no file of the published tree")))
        }),
        ("subject", |h, _, proofs| {
            let name = fact(h).ok_or_else(|| told("`subject` takes a fact"))?;
            let subject = proofs.subject(&name).ok_or_else(|| told(&format!("`{name}` has not one subject")))?;
            Ok(format!("{}, BLAKE3 {}", subject.what, subject.digest.short()))
        }),
        ("measured_on", |h, _, proofs| {
            let name = fact(h).ok_or_else(|| told("`measured_on` takes a fact and a path"))?;
            let path = text(h, 1).ok_or_else(|| told("`measured_on` takes a fact, and a path in quotes"))?;
            proofs.measured_on(&name, path).map_err(|why| told(&why))
        }),
        ("recorded", |h, context, proofs| {
            let usage = "`recorded` takes a fact, and the name of a declared value in quotes";
            let fact = fact(h).ok_or_else(|| told(usage))?;
            let declared = &context.data()["declared"][text(h, 1).ok_or_else(|| told(usage))?];
            proofs.recorded(&fact, declared).map_err(|why| told(&why))
        }),
        ("gallery", |h, _, _| gallery(h)),
    ];
    for (name, make) in table {
        let proofs = proofs.clone();
        let helper = move |h: &Helper<'_>,
                           registry: &Handlebars<'_>,
                           context: &Context,
                           _: &mut RenderContext<'_, '_>,
                           out: &mut dyn Output|
              -> HelperResult {
            let text = make(h, context, &proofs)?;
            // these hold names and sources that others gave; what `literal` says the template says itself
            let given = ["subject", "measured_on", "recorded"].contains(&name);
            out.write(&if given { registry.get_escape_fn()(&text) } else { text })?;
            Ok(())
        };
        registry.register_helper(name, Box::new(helper));
    }
}

fn told(why: &str) -> RenderErrorReason {
    RenderErrorReason::Other(why.into())
}

fn text<'a>(h: &'a Helper<'_>, at: usize) -> Option<&'a str> {
    h.param(at)?.value().as_str()
}

/// The dotted name of the first parameter; of an item of a block, from where the block took it (`ev.shards.0.fid`).
fn fact(h: &Helper<'_>) -> Option<String> {
    let param = h.param(0)?;
    if let Some(path) = param.context_path().filter(|path| !path.is_empty()) {
        return Some(path.iter().map(|part| part.trim_matches(['[', ']'])).collect::<Vec<_>>().join("."));
    }
    let path = param.relative_path()?;
    Some(path.strip_prefix("@root.").unwrap_or(path).replace('/', "."))
}

/// `{{gallery samples.shards "samples/" 2}}`: two pictures a shard.
fn gallery(h: &Helper<'_>) -> Result<String, RenderErrorReason> {
    let shards = h.param(0).and_then(|p| p.value().as_array());
    let shards =
        shards.ok_or_else(|| told("`gallery` takes the shards of samples: `gallery samples.shards \"samples/\"`"))?;
    let folder = text(h, 1).ok_or_else(|| told("`gallery` takes the folder of the samples, in quotes"))?;
    let each = h.param(2).map_or(Some(1), |p| p.value().as_u64());
    let each = each.ok_or_else(|| told("`gallery` takes as third how many pictures of each"))?;
    let folder = folder.trim_end_matches('/');
    let mut items = Vec::new();
    for shard in shards {
        let key = shard["key"].as_str().ok_or_else(|| told("an item of `gallery` is no shard: it has no `key`"))?;
        if shard["count"].as_u64().is_some_and(|count| count < each) {
            return Err(told(&format!(
                "`gallery` asks for {each} pictures of `{key}`, and there are {}",
                shard["count"]
            )));
        }
        for k in 0..each {
            let url = Json::from(format!("{folder}/{}/{k}.png", slug(key)));
            items.push(format!("- text: {}\n  output:\n    url: {url}", Json::from(key)));
        }
    }
    Ok(items.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::facts::Facts;

    #[test]
    fn a_fact_is_said_only_of_the_file_that_it_was_measured_on() {
        let (model, other) = (Digest::of(b"model"), Digest::of(b"other"));
        let mut facts = Facts::default();
        let of = facts.subject("model.onnx", model);
        facts.set("ms", 5i64, of);
        let facts = [("latency".parse().unwrap(), FactSet::One(facts))].into();
        let file = |digest| Published { artifact: "generator".into(), digest: Some(digest), sha256: None };
        let files = [("a.onnx".to_string(), file(model)), ("b.onnx".into(), file(other))].into();
        let proofs = Proofs { files, facts };
        assert_eq!(proofs.measured_on("latency.ms", "a.onnx").as_deref(), Ok("`a.onnx`"));
        let why = proofs.measured_on("latency.ms", "b.onnx").unwrap_err();
        assert!(why.contains("was measured on `model.onnx`") && why.contains(&other.short()), "{why}");
    }

    #[test]
    fn a_commit_is_said_as_the_file_records_it_or_as_declared_or_not_at_all() {
        let proofs = |commit: Option<&str>| {
            let mut facts = Facts::default();
            let of = facts.subject("a.pt", Digest::of(b"a"));
            facts.set("training_commit", commit.map(String::from), of);
            Proofs { facts: [("ckpt".parse().unwrap(), FactSet::One(facts))].into(), ..Proofs::default() }
        };
        let declared = serde_json::json!({"value": "0123456", "source": "the log"});
        let said = |commit, declared: &Json| proofs(commit).recorded("ckpt.training_commit", declared);
        assert!(said(Some("0123456789"), &Json::Null).unwrap().starts_with("`0123456789`, recorded in a.pt (BLAKE3 "));
        assert!(said(Some("0123456789"), &declared).unwrap().starts_with("`0123456789`, recorded in a.pt"));
        assert_eq!(said(None, &declared).as_deref(), Ok("`0123456` (declared; source: the log)"));
        assert_eq!(said(None, &Json::Null).as_deref(), Ok("not recorded"));
        assert!(said(Some("fedcba9"), &declared).unwrap_err().contains("declared as `0123456`"));
    }
}
