//! `card`: the model card, README.md. A template whose every figure comes from facts or is declared with its source, and
//! which is checked: the front matter against the Hub's rules, the licence against its text, the links against the tree,
//! and typed figures against the facts.
//!
//! Also `eval_results`, the files of `.eval_results/`. Knows no network: what the remote's validator says is asked by
//! whoever publishes.

mod anchors;
mod front;
mod index;
mod license;
mod links;
mod lint;
pub mod space;
mod yaml;

pub use index::EvalResults;

use super::{Declare, Kind, Workspace, check_fact, helpers, pages, param, template, text_param};
use crate::core::action::{Action, Declaration};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::fields::Field;
use crate::core::manifest::{KindInfo, Manifest};
use crate::core::name::{ArtifactName, RelPath};
use crate::core::value::Value;
use std::sync::Arc;

/// See the module.
pub struct Card;

impl Kind for Card {
    fn info(&self) -> KindInfo {
        const FIELDS: &[Field] = &[template::FIELDS[0], template::FIELDS[1], index::RESULTS];
        KindInfo {
            name: "card",
            doc: "the model card, its front matter, licence, links and figures checked",
            fields: FIELDS,
            facts: &["bytes", "links"],
        }
    }

    fn version(&self) -> u32 {
        5
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        check_license(cx)?;
        let declaration = template::declare(cx, "card", self.version(), Some("README.md"))?;
        let path = cx.path("template")?;
        if let Some(Some(text)) = cx.texts.get(path.as_str()) {
            front::check_static(path.as_str(), &unix(text), &cx.manifest.project.license)?;
        }
        let published = cx.manifest.artifacts.iter().filter(|s| s.kind == super::UPLOAD.name);
        let mut tree: Vec<String> = published
            .filter(|s| s.map("files").iter().any(|(_, _, artifact, _)| *artifact == cx.spec.name.as_str()))
            .flat_map(|s| s.map("files").into_iter().map(|(path, ..)| path))
            .collect();
        tree.push(crate::core::plan::RECORD.into());
        tree.sort();
        tree.dedup();
        let declaration = declaration.param("tree", tree).param("license", cx.manifest.project.license.as_str());
        let mut declaration = index::declare(cx, declaration)?;
        if declaration.params.contains_key("results") {
            declaration = declaration.param("model", cx.manifest.project.name.as_str());
        }
        for (artifact, span) in cx.spec.texts("facts") {
            let Ok(name) = artifact.parse::<ArtifactName>() else { continue };
            let measured = lint::facts().filter(|fact| check_fact(cx.manifest, &artifact, fact).is_ok());
            index::add_read(&mut declaration, &name, measured.map(String::from), span);
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let license = text_param(action, "license")?;
        let file = workspace.file("template")?.path.clone();
        let template = unix(&template::source(workspace)?);
        lint::check(&file, &template, &action.facts, license)?;
        let mut renderer = pages::Renderer::new(action, workspace)?;
        let text = unix(&renderer.render(&template)?);
        front::check_filled(&template, &mut renderer)?;
        let text = with_results(text, &index::model_index(action, workspace)?)?;
        let tree: Vec<&str> =
            param(action, "tree")?.as_list().unwrap_or_default().iter().filter_map(Value::as_text).collect();
        let known = |path: &str| links::is_in(tree.iter().copied(), path);
        let source: Arc<str> = text.as_str().into();
        let front = front::read(&text)?;
        front::check(&source, &front, license, &known)?;
        let links = links::all(&text, &front, &[]);
        if let Some(bad) = links.iter().find(|link| !known(&link.path)) {
            return Err(links::dangling(&source, bad));
        }
        anchors::dangling(&text).map_or(Ok(()), Err)?;
        let digest = workspace.write("README.md", text.as_bytes())?;
        let mut facts = Facts::default();
        let of = facts.subject("README.md", digest);
        facts.set("bytes", text.len(), of);
        facts.set("links", links.len(), of);
        Ok(facts)
    }
}

/// Adds `model-index` to the front matter, which must have none of its own: what a template writes there is no fact that was
/// measured on a published file, however it is spelled.
fn with_results(text: String, results: &str) -> Result<String> {
    let front = front::read(&text)?;
    if let Some((_, key, _)) = front.root.entries().iter().find(|(key, ..)| key == "model-index") {
        let place = front::place(&text.as_str().into(), key.start, key.end);
        return Err(Error::stage("the template writes `model-index`, which is made of facts alone")
            .at(place)
            .hint("take it out, and name the facts under `results` of the card's artifact: the stage adds it"));
    }
    if results.is_empty() {
        return Ok(text);
    }
    let (before, after) = text.split_at(front.end);
    Ok(format!("{before}{results}{after}"))
}

/// A text whose lines end as on Unix.
fn unix(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// Checks the links of a card against the paths of the very tree that would be published. `repos`: URLs of the repo, without
/// a slash at the end, below which links are its own.
pub fn check_links(text: &str, repos: &[String], tree: &[&str]) -> Result<()> {
    let front = front::read(text)?;
    match links::all(text, &front, repos).iter().find(|link| !links::is_in(tree.iter().copied(), &link.path)) {
        Some(bad) => Err(links::dangling(&text.into(), bad)),
        None => Ok(()),
    }
}

/// The files that hold the licence's text: those that are published under such a name, else those of the project's root.
/// None where the manifest has no card.
pub fn license_files(manifest: &Manifest) -> Vec<RelPath> {
    if !manifest.artifacts.iter().any(|s| s.kind == "card") {
        return vec![];
    }
    let source = |name: &str| {
        let (artifact, _) = helpers::published(manifest, name)?;
        let spec = manifest.artifact(artifact.as_str()).filter(|s| s.kind == "files")?;
        let paths = spec.texts("paths");
        paths.iter().find_map(|(path, _)| path.parse().ok().filter(|_| paths.len() == 1))
    };
    let paths = manifest.artifacts.iter().filter(|s| s.kind == super::UPLOAD.name).flat_map(|s| s.map("files"));
    let paths = paths.map(|(path, ..)| path).filter(|path| license::is_file(path));
    let published: Vec<RelPath> = paths.filter_map(|path| source(&path)).collect();
    match published.is_empty() {
        true => license::FILES.iter().filter_map(|name| name.parse().ok()).collect(),
        false => published,
    }
}

/// Refuses a file that is about to be published under a licence's name and is the text of another than the manifest's.
pub fn check_license_text(path: &str, text: &str, says: &str) -> Result<()> {
    match license::of_text(text).filter(|found| license::is_file(path) && !license::agree(says, found)) {
        Some(found) => {
            Err(Error::stage(format!("the manifest says license `{says}`, and `{path}` is the text of `{found}`"))
                .hint(format!("write `license = \"{found}\"` in [project], or publish the text of `{says}`")))
        }
        None => Ok(()),
    }
}

/// Whether a path of the tree has a name under which people look for a licence.
pub fn is_license(path: &str) -> bool {
    license::is_file(path)
}

/// The manifest's licence against the licence's text.
fn check_license(cx: &Declare<'_>) -> Result<()> {
    let says = &cx.manifest.project.license;
    for file in license_files(cx.manifest) {
        let text = cx.texts.get(file.as_str()).and_then(Option::as_deref).unwrap_or_default();
        let Some(found) = license::of_text(text).filter(|found| !license::agree(says, found)) else { continue };
        let message = format!("the manifest says license `{says}`, and `{file}` is the text of `{found}`");
        let hint = format!(
            "write `license = \"{found}\"` in [project], or publish the text of `{says}` as `{}`",
            file.file_name()
        );
        return Err(cx.manifest.source.error(cx.manifest.project.license_span.clone(), message).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
