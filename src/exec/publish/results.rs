//! Results for machines (`model-index`, `.eval_results/`) are of what is published with them: held against the tree, and
//! against what each stage was given when it measured.
//!
//! Knows receipts and digests; does not know what a metric means.

use crate::core::action::Declaration;
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::facts::{Subject, is_family_word};
use crate::core::graph::{Graph, NodeId};
use crate::core::name::ArtifactName;
use crate::core::plan::{Settled, family_content};
use crate::core::publish::Tree;
use crate::core::receipt::Receipt;
use crate::core::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Kinds whose facts are of what they make. The facts of the others (`report`, `command`, `classify`, ...) are of what they
/// were given.
const OF_THEIR_OWN: [&str; 7] = ["checkpoint", "safetensors", "pytorch", "onnx", "onnx_file", "samples", "files"];
/// Kinds that write the weights that they are given, every number as it was.
const SAME_WEIGHTS: [&str; 2] = ["safetensors", "pytorch"];

/// Refuses a result of a page of the tree whose fact was not measured on a file of the tree, nor on the weights that one was
/// made from.
///
/// # Errors
/// That, with the fact and what it was measured on.
pub fn check(graph: &Graph, settled: &[Option<Settled>], tree: &Tree) -> Result<()> {
    let files: BTreeSet<Digest> = tree.values().map(|file| file.digest).collect();
    // of several uploads, another may publish the page
    let is_here = |id: &NodeId| match &settled[id.index()] {
        Some(Settled::Made(receipt)) => receipt.outputs.iter().any(|output| files.contains(&output.digest)),
        _ => true,
    };
    let published = graph.ids().filter(|id| graph.node(*id).published).filter(is_here);
    let stages = published.filter_map(|id| graph.stage(id));
    for stage in stages.filter(|stage| ["card", "eval_results"].contains(&stage.kind)) {
        for result in stage.params.get("results").and_then(Value::as_list).unwrap_or_default() {
            let Value::Map(result) = result else { continue };
            let word = |key: &str| result.get(key).and_then(Value::as_text);
            let Some((artifact, fact)) = word("value").and_then(|name| name.split_once('.')) else { continue };
            let Ok(artifact) = artifact.parse::<ArtifactName>() else { continue };
            let proof = Proof::of(graph, settled, tree, word("on"));
            let measured = receipts(graph, settled, &artifact).filter_map(|made| Some((made, subject(made, fact)?)));
            if let Some((_, subject)) = measured.into_iter().find(|(made, subject)| !proof.holds(made, subject)) {
                return Err(unproven(&format!("{artifact}.{fact}"), word("on"), subject));
            }
        }
    }
    Ok(())
}

/// The subject of a fact, of a family the views set aside.
fn subject<'r>(receipt: &'r Receipt, fact: &str) -> Option<&'r Subject> {
    let inner = || fact.split_once('.').filter(|(word, _)| is_family_word(word)).map(|(_, fact)| fact);
    receipt.facts.subject_of(fact).or_else(|| receipt.facts.subject_of(inner()?))
}

fn receipts<'s>(
    graph: &'s Graph,
    settled: &'s [Option<Settled>],
    artifact: &ArtifactName,
) -> impl Iterator<Item = &'s Receipt> {
    graph.of(artifact).iter().filter_map(|id| match &settled[id.index()] {
        Some(Settled::Made(receipt)) => Some(&**receipt),
        _ => None,
    })
}

fn unproven(name: &str, on: Option<&str>, subject: &Subject) -> Error {
    let was = format!("`{name}` was measured on `{}`, {}", subject.what, subject.digest.short());
    match on {
        Some(path) => Error::stage(format!("{was}, which is not `{path}` of the published tree"))
            .hint(format!("measure `{path}` as it is now, or take the result out")),
        None => Error::stage(format!("{was}, which is not in the published tree: it is no result of this model"))
            .hint("publish what was measured, or measure what is published; `on = \"path\"` names the file where the stage was given several"),
    }
}

/// What a fact has to be of.
struct Proof {
    /// The files of the tree, or those that `on` names.
    files: BTreeSet<Digest>,
    /// The artifacts that these files are of, as a consumer's action holds them.
    artifacts: BTreeSet<Digest>,
    /// What those of them that are weights were made from.
    sources: BTreeSet<Digest>,
    /// Whether the manifest names the file, so that a stage that was given it may have measured it.
    named: bool,
}

impl Proof {
    fn of(graph: &Graph, settled: &[Option<Settled>], tree: &Tree, on: Option<&str>) -> Proof {
        let folder = on.map(|path| format!("{}/", path.trim_end_matches('/')));
        let is_meant = |path: &str| {
            on.is_none_or(|on| path == on) || folder.as_ref().is_some_and(|folder| path.starts_with(folder))
        };
        let files: BTreeSet<Digest> = tree.iter().filter(|(path, _)| is_meant(path)).map(|(_, f)| f.digest).collect();
        let made: BTreeMap<Digest, &Receipt> = graph
            .artifacts
            .values()
            .flatten()
            .filter_map(|id| Some((id, settled[id.index()].as_ref()?)))
            .filter_map(
                |(_, s)| if let Settled::Made(receipt) = s { Some((receipt.content(), &**receipt)) } else { None },
            )
            .collect();
        let mut proof = Proof { files, artifacts: BTreeSet::new(), sources: BTreeSet::new(), named: on.is_some() };
        for id in graph.ids().filter(|id| graph.node(*id).published) {
            let Some(Settled::Made(receipt)) = &settled[id.index()] else { continue };
            if !receipt.outputs.iter().any(|output| proof.files.contains(&output.digest)) {
                continue;
            }
            proof.artifacts.insert(receipt.content());
            proof.artifacts.extend(family_content(graph, &graph.node(id).name.artifact, settled));
            let cast = |stage: &Declaration| stage.params.get("dtype").is_some_and(|dtype| *dtype != Value::Null);
            if graph.stage(id).is_some_and(|stage| SAME_WEIGHTS.contains(&stage.kind) && !cast(stage)) {
                proof.add_sources(receipt, &made);
            }
        }
        proof
    }

    /// What a stage was given, and what that was made from.
    fn add_sources(&mut self, receipt: &Receipt, made: &BTreeMap<Digest, &Receipt>) {
        for input in receipt.action.read().into_iter().flat_map(|action| action.inputs.values()) {
            let known = std::iter::once(&input.digest).chain(input.files.values());
            let new: Vec<Digest> = known.copied().filter(|digest| self.sources.insert(*digest)).collect();
            new.iter().filter_map(|digest| made.get(digest)).for_each(|source| self.add_sources(source, made));
        }
    }

    fn holds(&self, receipt: &Receipt, subject: &Subject) -> bool {
        let given = receipt.action.read();
        let own = given.is_some_and(|action| OF_THEIR_OWN.contains(&action.kind.as_str()))
            && (receipt.outputs.iter().any(|output| self.files.contains(&output.digest))
                || self.sources.contains(&receipt.content()));
        let was_given = || {
            let inputs = given.into_iter().flat_map(|action| action.inputs.values());
            let mut digests = inputs.flat_map(|input| std::iter::once(&input.digest).chain(input.files.values()));
            digests.any(|d| self.files.contains(d) || self.artifacts.contains(d) || self.sources.contains(d))
        };
        let digest = &subject.digest;
        own || self.files.contains(digest) || self.sources.contains(digest) || (self.named && was_given())
    }
}
