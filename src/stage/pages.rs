//! Rendering of templates (handlebars, strict mode) from facts, params and declared values, and what a rendered card
//! must satisfy: front matter that parses, links that lead somewhere.
//!
//! Which names a template reads is told from its syntax tree, before it is rendered, so that only those enter the key.
//! Does not know whose template it is.

use super::reads::{HELPERS, Reads};
use super::{Declare, Workspace, check_fact, helpers};
use crate::core::action::{Action, Declaration, FactRead};
use crate::core::error::{Error, ErrorKind, Place, Result};
use crate::core::facts::{FactSet, is_family_word};
use crate::core::name::{ArtifactName, nearest, slug};
use crate::core::value::Value;
use handlebars::{Handlebars, RenderErrorReason, Template};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a card says where a fact could not be measured.
pub const NOT_MEASURED: &str = "not measured";

/// Adds to a declaration what the template under the key `template` reads.
pub fn declare_reads(cx: &Declare<'_>, mut declaration: Declaration) -> Result<Declaration> {
    let path = cx.path("template")?;
    let text = match cx.texts.get(path.as_str()) {
        Some(Some(text)) => text,
        _ => return Ok(declaration), // that the file is missing is reported where inputs are observed
    };
    let template = Template::compile(text).map_err(|e| syntax_error(path.as_str(), text, &e))?;
    let found = Reads::of(&template);
    check_helpers(&found, path.as_str(), text)?;
    let names = &found.names;
    let listed = cx.spec.texts("facts");
    let mut reads: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    for name in names {
        let (root, rest) = (name[0].as_str(), &name[1..]);
        if listed.iter().any(|(artifact, _)| artifact == root) {
            let fact = fact_name(cx.manifest, root, rest);
            if let Some(Err(near)) = fact.as_ref().map(|fact| check_fact(cx.manifest, root, fact)) {
                let fact = fact.unwrap_or_default();
                let message = format!(
                    "the template names `{root}.{fact}`, which kind `{}` does not measure",
                    cx.manifest.artifact(root).map_or("", |s| s.kind)
                );
                let spelled = name.join(".");
                let word =
                    if text.contains(&spelled) { spelled.as_str() } else { rest.last().map_or(root, String::as_str) };
                let error = at_word(path.as_str(), text, word, message);
                return Err(match near {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(NO_FIGURE),
                });
            }
            note_read(reads.entry(root.into()).or_insert_with(|| Some(BTreeSet::new())), rest);
        } else if let Some((key, value)) = setting(cx, root, rest, path.as_str(), text)? {
            declaration.params.insert(key, value);
        } else if cx.manifest.artifact(root).is_some() {
            return Err(at_word(
                path.as_str(),
                text,
                root,
                format!("the template reads facts of `{root}`, which `facts` does not list"),
            )
            .hint(format!("add `\"{root}\"` to `facts` of [artifact.{}]", cx.spec.name)));
        } else if found.free.contains(root) {
            let word = name.join(".");
            let error = at_word(
                path.as_str(),
                text,
                root,
                format!("the template names `{word}`, which is no artifact and no setting"),
            );
            let known =
                cx.manifest.artifacts.iter().map(|a| a.name.as_str()).chain(["params", "declared", "project", "hub"]);
            return Err(match nearest(root, known) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("known: the artifacts under `facts`, `params`, `declared`, `project`, `hub`"),
            });
        }
    }
    for (artifact, span) in listed {
        let name: ArtifactName = artifact.parse().map_err(|why: String| cx.error("facts", why))?;
        let read = match reads.remove(&artifact) {
            Some(Some(names)) => FactRead::Names(names),
            Some(None) => FactRead::All,
            None => FactRead::Names(BTreeSet::new()),
        };
        declaration.facts.push((name, read, span));
    }
    declare_recorded(cx, &mut declaration, &found.declared, path.as_str(), text)?;
    declare_proofs(cx, declaration, &found.subjects, &found.paths, path.as_str(), text)
}

/// Adds the declared figures that `recorded` falls back on, where there are such.
fn declare_recorded(
    cx: &Declare<'_>,
    declaration: &mut Declaration,
    names: &BTreeSet<String>,
    file: &str,
    text: &str,
) -> Result<()> {
    for name in names.iter().filter(|name| cx.manifest.declared.contains_key(*name)) {
        declaration.params.extend(setting(cx, "declared", std::slice::from_ref(name), file, text)?);
    }
    Ok(())
}

/// Adds the subjects of facts and the files that helpers read.
fn declare_proofs(
    cx: &Declare<'_>,
    mut declaration: Declaration,
    subjects: &BTreeSet<Vec<String>>,
    paths: &BTreeSet<String>,
    file: &str,
    text: &str,
) -> Result<Declaration> {
    for name in subjects {
        match fact_name(cx.manifest, &name[0], &name[1..]) {
            Some(fact) => {
                let mut facts = declaration.facts.iter_mut();
                if let Some((_, FactRead::Names(names), _)) = facts.find(|(a, ..)| a.as_str() == name[0]) {
                    names.insert(helpers::subject_name(&fact));
                }
            }
            // the item of a block, or one of `shards`: of what is read as a whole, every subject is read
            None => {
                let whole = declaration.facts.iter_mut().filter(|(_, read, _)| *read == FactRead::All);
                whole.for_each(|(_, read, _)| *read = FactRead::AllOf);
            }
        }
    }
    helpers::declare_paths(cx, declaration, paths).map_err(|path| {
        at_word(file, text, &path, format!("the template names the path `{path}`, which no upload publishes, or each another file"))
            .hint("paths here are those of the repository: the keys of `files` of the upload; uploads that publish one page must have the same artifact there")
    })
}

/// Refuses a helper that there is not.
fn check_helpers(found: &Reads, file: &str, text: &str) -> Result<()> {
    if let Some(helper) = found.helpers.iter().find(|h| !HELPERS.contains(&h.as_str())) {
        let error = at_word(file, text, helper, format!("the template calls `{helper}`, which is no helper"));
        return Err(match nearest(helper, HELPERS) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("helpers: {}", HELPERS.join(", "))),
        });
    }
    Ok(())
}

/// The fact that `artifact.rest` names, a family's views set aside; `None` where it names no single fact.
pub fn fact_name(manifest: &crate::core::manifest::Manifest, artifact: &str, rest: &[String]) -> Option<String> {
    let family = manifest.artifact(artifact)?.node("each").is_some();
    match rest {
        [first, ..] if family && first == "shards" => None,
        [first, inner @ ..] if family && is_family_word(first) => (!inner.is_empty()).then(|| inner.join(".")),
        [] => None,
        all => Some(all.join(".")),
    }
}

/// Adds what `a.rest` reads to the set of an artifact; `None` is everything.
fn note_read(reads: &mut Option<BTreeSet<String>>, rest: &[String]) {
    let name = match rest {
        [] => None,
        [first, ..] if first == "shards" => None,
        [first, inner @ ..] if is_family_word(first) => (!inner.is_empty()).then(|| inner.join(".")),
        all => Some(all.join(".")),
    };
    match (name, reads.as_mut()) {
        (Some(name), Some(names)) => {
            names.insert(name);
        }
        (None, _) => *reads = None,
        _ => {}
    }
}

/// A setting that a template names: its key in the action and its value.
fn setting(cx: &Declare<'_>, root: &str, rest: &[String], file: &str, text: &str) -> Result<Option<(String, Value)>> {
    let manifest = cx.manifest;
    let known: BTreeMap<String, Value> = match root {
        "params" => manifest.params.clone(),
        "declared" => manifest
            .declared
            .iter()
            .map(|(k, d)| {
                (
                    k.clone(),
                    Value::Map(BTreeMap::from([
                        ("value".into(), d.value.clone()),
                        ("source".into(), d.source.as_str().into()),
                    ])),
                )
            })
            .collect(),
        "project" => project(cx),
        "hub" => manifest.hub.as_ref().map_or_else(BTreeMap::new, |hub| {
            BTreeMap::from([
                ("repo".into(), hub.repo.as_str().into()),
                ("revision".into(), hub.revision.as_str().into()),
            ])
        }),
        _ => return Ok(None),
    };
    let Some(first) = rest.first() else { return Ok(Some((root.into(), Value::Map(known)))) };
    match known.get(first) {
        Some(value) => Ok(Some((format!("{root}.{first}"), value.clone()))),
        None => {
            let spelled = format!("{root}.{first}");
            let word = if text.contains(&spelled) { spelled } else { first.clone() };
            let error = at_word(file, text, &word, format!("the template names `{root}.{first}`, which is not there"));
            Err(match nearest(first, known.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{root}.{near}`?")),
                None => error.hint(format!("add it to [{root}] of the manifest")),
            })
        }
    }
}

fn project(cx: &Declare<'_>) -> BTreeMap<String, Value> {
    let p = &cx.manifest.project;
    [("name", &p.name), ("version", &p.version), ("license", &p.license)]
        .map(|(k, v)| (k.to_string(), v.as_str().into()))
        .into()
}

/// Renders the template file under the role `template` of an action.
pub fn render(action: &Action, text: &str, workspace: &Workspace) -> Result<String> {
    Renderer::new(action, workspace)?.render(text)
}

/// Renders templates from what an action and its workspace hold.
pub struct Renderer<'a> {
    registry: Handlebars<'static>,
    context: Json,
    file: &'a str,
}

impl<'a> Renderer<'a> {
    /// Reads the files that helpers name.
    pub fn new(action: &'a Action, workspace: &Workspace) -> Result<Self> {
        let file = action.inputs.get("template").map_or("the template", |i| i.name.as_str());
        let mut registry = Handlebars::new();
        registry.set_strict_mode(true);
        registry.register_escape_fn(handlebars::no_escape);
        register_helpers(&mut registry);
        helpers::register(&mut registry, helpers::Proofs::of(action, workspace)?);
        Ok(Renderer { registry, context: context(action, &workspace.facts), file })
    }

    /// Renders one more time, every value that is put in replaced by what `fill` makes of it.
    pub fn render_as(&mut self, text: &str, fill: impl Fn(&str) -> String + Send + Sync + 'static) -> Result<String> {
        self.registry.register_escape_fn(fill);
        let rendered = self.render(text);
        self.registry.register_escape_fn(handlebars::no_escape);
        rendered
    }

    /// Renders.
    pub fn render(&self, text: &str) -> Result<String> {
        self.registry.render_template(text, &self.context).map_err(|e| {
            let start = offset(text, e.line_no.unwrap_or(1), e.column_no.unwrap_or(1));
            let place = Place { file: self.file.into(), source: text.into(), start, end: start + 1 };
            match e.reason() {
                RenderErrorReason::MissingVariable(Some(name)) => Error::stage(format!(
                    "the template names `{name}`, which no fact, parameter or declared value gives"
                ))
                .at(place)
                .hint(NO_FIGURE),
                RenderErrorReason::TemplateError(e) => syntax_error(self.file, text, e),
                RenderErrorReason::Other(why) => Error::stage(why.as_str()).at(place),
                reason => Error::stage(format!("the template cannot be rendered: {reason}")).at(place),
            }
        })
    }
}

const NO_FIGURE: &str =
    "a figure that nothing measured cannot be on a card: measure it, declare it with its source, or take it out";

fn context(action: &Action, facts: &BTreeMap<ArtifactName, FactSet>) -> Json {
    let mut root = Map::new();
    for (key, value) in &action.params {
        if let Some((group, name)) = key.split_once('.') {
            let entry = root.entry(group.to_string()).or_insert_with(|| json!({}));
            entry[name] = shown(&value.to_json());
        } else if ["params", "declared", "project", "hub"].contains(&key.as_str()) {
            root.insert(key.clone(), shown(&value.to_json()));
        }
    }
    for (name, set) in facts {
        root.insert(name.to_string(), shown(&set.tree().to_json()));
    }
    Json::Object(root)
}

/// Nulls become the words that a reader understands.
fn shown(value: &Json) -> Json {
    match value {
        Json::Null => NOT_MEASURED.into(),
        Json::Array(items) => items.iter().map(shown).collect::<Vec<_>>().into(),
        Json::Object(map) => map.iter().map(|(k, v)| (k.clone(), shown(v))).collect::<Map<_, _>>().into(),
        other => other.clone(),
    }
}

fn syntax_error(file: &str, text: &str, e: &handlebars::TemplateError) -> Error {
    let (line, column) = e.pos().unwrap_or((1, 1));
    let start = offset(text, line, column);
    let reason = e.reason().to_string().to_lowercase();
    Error::new(ErrorKind::Manifest, format!("the template's syntax is wrong: {reason}")).at(Place {
        file: file.into(),
        source: text.into(),
        start,
        end: (start + 1).min(text.len()),
    })
}

/// A manifest error at the first place where `word` stands in an expression of the template.
fn at_word(file: &str, text: &str, word: &str, message: String) -> Error {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let in_braces = |at: &usize| {
        let (before, after) = (&text[..*at], &text[at + word.len()..]);
        before.rfind("{{") > before.rfind("}}")
            && !is_name(before.chars().next_back())
            && !is_name(after.chars().next())
    };
    let found = text.match_indices(word).map(|(at, _)| at).find(in_braces).or_else(|| text.find(word));
    let start = found.unwrap_or(0);
    let end = if found.is_some() { start + word.len() } else { start };
    Error::new(ErrorKind::Manifest, message).at(Place { file: file.into(), source: text.into(), start, end })
}

fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (start + column.saturating_sub(1)).min(text.len().saturating_sub(1));
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn register_helpers(registry: &mut Handlebars<'_>) {
    type Format = fn(&Json, Option<&Json>) -> String;
    let table: [(&str, Format); 7] = [
        ("bytes", |v, _| number(v, |n| crate::core::value::human_bytes(n as u64))),
        ("thousands", |v, _| number(v, |n| thousands(n as i64))),
        ("round", |v, digits| {
            let digits = digits.and_then(Json::as_u64).unwrap_or(2).min(12) as usize;
            number(v, |n| format!("{n:.digits$}"))
        }),
        ("sci", |v, _| number(v, |n| format!("{n:.1e}"))),
        ("percent", |v, digits| {
            let digits = digits.and_then(Json::as_u64).unwrap_or(1).min(12) as usize;
            number(v, |n| format!("{:.digits$} %", n * 100.0))
        }),
        ("slug", |v, _| slug(v.as_str().unwrap_or_default())),
        ("yaml", |v, _| v.to_string()),
    ];
    for (name, format) in table {
        let helper = move |h: &handlebars::Helper<'_>,
                           registry: &Handlebars<'_>,
                           _: &handlebars::Context,
                           _: &mut handlebars::RenderContext<'_, '_>,
                           out: &mut dyn handlebars::Output|
              -> handlebars::HelperResult {
            let value = h.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex(name, 0))?;
            if value.is_value_missing() {
                return Err(RenderErrorReason::MissingVariable(value.relative_path().cloned()).into());
            }
            let text = format(value.value(), h.param(1).map(handlebars::PathAndJson::value));
            // what is a text passes through as it is, and has to be looked at as if no helper stood there
            let plain = name != "yaml" && value.value().is_string();
            out.write(&if plain { registry.get_escape_fn()(&text) } else { text })?;
            Ok(())
        };
        registry.register_helper(name, Box::new(helper));
    }
    registry.register_helper("declared", Box::new(declared));
}

/// `{{declared "batch_size"}}`: the value, marked as declared, with its source.
fn declared(
    h: &handlebars::Helper<'_>,
    registry: &Handlebars<'_>,
    context: &handlebars::Context,
    _: &mut handlebars::RenderContext<'_, '_>,
    out: &mut dyn handlebars::Output,
) -> handlebars::HelperResult {
    let name =
        h.param(0).and_then(|p| p.value().as_str()).ok_or(RenderErrorReason::ParamNotFoundForIndex("declared", 0))?;
    let entry = context.data().get("declared").and_then(|d| d.get(name));
    let entry = entry.ok_or_else(|| RenderErrorReason::MissingVariable(Some(format!("declared.{name}"))))?;
    let value = match &entry["value"] {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = format!("{value} (declared; source: {})", entry["source"].as_str().unwrap_or_default());
    out.write(&registry.get_escape_fn()(&text))?;
    Ok(())
}

fn number(value: &Json, show: impl Fn(f64) -> String) -> String {
    match value.as_f64() {
        Some(n) => show(n),
        None => value.as_str().unwrap_or(NOT_MEASURED).to_string(),
    }
}

fn thousands(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if n < 0 { format!("-{out}") } else { out }
}
