//! Evaluation results for machines: `model-index` in the card's front matter, and the files of `.eval_results/`.
//!
//! Values come from facts only; the manifest names the fact. A date comes from a fact or a declared value, never from the
//! clock. Formats: <https://github.com/huggingface/hub-docs/blob/main/modelcard.md> (`model-index`) and the Hub's
//! documentation of evaluation results (`.eval_results/*.yaml`).

use super::{front, yaml};
use crate::core::action::{Action, Declaration, FactRead, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::{FactSet, Facts, is_family_word};
use crate::core::manifest::KindInfo;
use crate::core::manifest::dom::Node;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::{ArtifactName, nearest};
use crate::core::value::Value;
use crate::stage::{Declare, Kind, Workspace, check_fact, helpers, pages, param, text_param};
use std::collections::{BTreeMap, BTreeSet};

const SOURCE: FieldType = FieldType::Table(&[
    Field::required("url", FieldType::Text, "where the evaluation can be looked up"),
    Field::optional("name", FieldType::Text, "what is found there"),
]);
const RESULT: FieldType = FieldType::Table(&[
    Field::required("task", FieldType::Text, "the task's type, e.g. `image-classification`"),
    Field::required(
        "dataset",
        FieldType::Table(&[
            Field::required("type", FieldType::Text, "the dataset's id on the Hub, or a word for it"),
            Field::required("name", FieldType::Text, "its name for people"),
            Field::optional("config", FieldType::Text, "its configuration"),
            Field::optional("split", FieldType::Text, "its split"),
            Field::optional("revision", FieldType::Text, "its revision"),
        ]),
        "what it was evaluated on",
    ),
    Field::required("metric", FieldType::Text, "the metric's type, e.g. `accuracy`"),
    Field::required("value", FieldType::Text, "the fact that is the value, e.g. `evaluation.accuracy`"),
    Field::optional("name", FieldType::Text, "the metric's name for people"),
    Field::optional("on", FieldType::Text, "the published file that was measured, where the stage was given several"),
    Field::optional("source", SOURCE, "where the evaluation can be looked up"),
]);
const EVALUATION: FieldType = FieldType::Table(&[
    Field::required(
        "dataset",
        FieldType::Table(&[
            Field::required("id", FieldType::Text, "the benchmark's dataset on the Hub, `namespace/name`"),
            Field::required("task_id", FieldType::Text, "the task of it, as its eval.yaml calls it"),
            Field::optional("revision", FieldType::Text, "its revision"),
        ]),
        "the benchmark",
    ),
    Field::required("value", FieldType::Text, "the fact that is the value, e.g. `evaluation.accuracy`"),
    Field::optional("on", FieldType::Text, "the published file that was measured, where the stage was given several"),
    Field::optional(
        "date",
        FieldType::Text,
        "the fact or declared value that is the date, e.g. `declared.evaluated_on`",
    ),
    Field::optional("source", SOURCE, "where the evaluation can be looked up"),
    Field::optional("notes", FieldType::Text, "how it was evaluated"),
]);

/// The card's key.
pub const RESULTS: Field = Field::optional(
    "results",
    FieldType::List(&RESULT),
    "evaluation results, from facts, for the card's `model-index`",
);

/// `eval_results`: one file of `.eval_results/`.
pub struct EvalResults;

impl Kind for EvalResults {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "eval_results",
            doc: "a file of `.eval_results/`, its values from facts",
            fields: &[Field::required("results", FieldType::List(&EVALUATION), "the evaluation results")],
            facts: &["results"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let name = format!("{}.yaml", cx.spec.name);
        let declaration = Declaration::new("eval_results", self.version(), Shape::File(name.clone()));
        declare(cx, declaration.param("name", name))
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let mut text = String::new();
        let results = param(action, "results")?.as_list().unwrap_or_default();
        for result in results {
            let Value::Map(result) = result else { continue };
            text.push_str("- dataset:\n");
            lines(&mut text, "    ", result.get("dataset"), &["id", "task_id", "revision"]);
            text.push_str(&format!("  value: {}\n", number(&looked_up(result, "value", action, workspace)?, result)?));
            if result.contains_key("date") {
                text.push_str(&format!("  date: {}\n", date(&looked_up(result, "date", action, workspace)?, result)?));
            }
            if result.contains_key("source") {
                text.push_str("  source:\n");
                lines(&mut text, "    ", result.get("source"), &["url", "name"]);
            }
            lines(&mut text, "  ", Some(&Value::Map(result.clone())), &["notes"]);
        }
        let name = text_param(action, "name")?;
        let digest = workspace.write(name, text.as_bytes())?;
        let mut facts = Facts::default();
        let of = facts.subject(name, digest);
        facts.set("results", results.len(), of);
        Ok(facts)
    }
}

/// Puts the results and what they read into a declaration.
pub fn declare(cx: &Declare<'_>, mut declaration: Declaration) -> Result<Declaration> {
    let Some(node) = cx.spec.node("results") else { return Ok(declaration) };
    let items = node.as_array().unwrap_or_default();
    if items.is_empty() {
        return Err(cx.error("results", "`results` is empty"));
    }
    for (at, item) in items.iter().enumerate() {
        let table = item.as_table();
        check_on(cx, table.and_then(|t| t.get("on")))?;
        check_id(cx, table.and_then(|t| t.get("dataset")?.as_table()?.get("id")))?;
        let what = asked(item);
        if items[..at].iter().any(|other| asked(other) == what) {
            let message = "two results are of one task, dataset and metric: which one is it?";
            let hint = "keep one; where both are true, tell them apart by `name`, or the dataset's `config` or `split`";
            return Err(cx.manifest.source.error(item.span.clone(), message).hint(hint));
        }
        for key in ["value", "date"] {
            if let Some(node) = table.and_then(|t| t.get(key)) {
                declare_name(cx, node, key, &mut declaration)?;
            }
        }
    }
    let value = node.to_value().unwrap_or(Value::Null);
    Ok(declaration.param("results", value))
}

/// What a result answers: everything but its value, where it comes from, and what was measured.
fn asked(item: &Node) -> Value {
    let mut value = item.to_value().unwrap_or(Value::Null);
    if let Value::Map(map) = &mut value {
        map.retain(|key, _| ["task", "dataset", "metric", "name"].contains(&key.as_str()));
    }
    value
}

/// `on` names a path that is published.
fn check_on(cx: &Declare<'_>, node: Option<&Node>) -> Result<()> {
    let Some((path, node)) = node.and_then(|node| Some((node.as_text()?, node))) else { return Ok(()) };
    if helpers::published(cx.manifest, path).is_some() {
        return Ok(());
    }
    let message = format!("`on` names the path `{}`, which no upload publishes", path.escape_debug());
    let hint = "paths here are those of the repository: the keys of `files` of the upload";
    Err(cx.manifest.source.error(node.span.clone(), message).hint(hint))
}

/// `id` of a dataset names one on the Hub.
fn check_id(cx: &Declare<'_>, node: Option<&Node>) -> Result<()> {
    let Some((id, node)) = node.and_then(|node| Some((node.as_text()?, node))).filter(|(id, _)| !front::is_repo(id))
    else {
        return Ok(());
    };
    let message = format!("the dataset's `id` is `{}`, which is no repo on the Hub", id.escape_debug());
    Err(cx.manifest.source.error(node.span.clone(), message).hint("write `namespace/name`, without a URL before it"))
}

/// `artifact.fact`, and for a date also `declared.NAME`.
fn declare_name(cx: &Declare<'_>, node: &Node, key: &str, declaration: &mut Declaration) -> Result<()> {
    let text = node.as_text().unwrap_or_default();
    let error = |message: String| cx.manifest.source.error(node.span.clone(), message);
    let parts: Vec<String> = text.split('.').map(String::from).collect();
    let root = parts[0].as_str();
    if root == "declared" && key == "date" {
        let Some(declared) = parts.get(1).and_then(|name| cx.manifest.declared.get(name)) else {
            return Err(error(format!("`{text}` is nothing that [declared] has")));
        };
        declaration.params.insert(text.into(), declared.value.clone());
        return Ok(());
    }
    let Some(artifact) = cx.manifest.artifact(root).filter(|_| parts.len() > 1) else {
        let what = if text.parse::<f64>().is_ok() { "a typed figure" } else { "no fact" };
        let error = error(format!("`{key}` of a result is `{}`, which is {what}", text.escape_debug()));
        let near = nearest(root, cx.manifest.artifacts.iter().map(|a| a.name.as_str()));
        return Err(match near.filter(|_| parts.len() > 1) {
            Some(near) => error.hint(format!("did you mean `{near}.{}`?", parts[1..].join("."))),
            None => error.hint("name the fact that was measured: `evaluation.accuracy`"),
        });
    };
    let family = artifact.node("each").is_some();
    if family && (parts.len() < 3 || !is_family_word(&parts[1]) || parts[1] == "shards") {
        let hint = format!("write `{root}.mean.{}`, or `min`, `max`, `common`", parts[1..].join("."));
        return Err(error(format!("`{text}` is a figure a shard of `{root}`, not one figure")).hint(hint));
    }
    let fact = pages::fact_name(cx.manifest, root, &parts[1..]).unwrap_or_default();
    if let Err(near) = check_fact(cx.manifest, root, &fact) {
        let error = error(format!("kind `{}` does not measure `{fact}`", artifact.kind));
        return Err(match near {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("`hfbuild explain {root}` lists what it has")),
        });
    }
    add_read(declaration, &artifact.name, [fact], node.span.clone());
    Ok(())
}

/// Adds facts of an artifact to what a declaration reads.
pub fn add_read(
    declaration: &mut Declaration,
    artifact: &ArtifactName,
    names: impl IntoIterator<Item = String>,
    span: std::ops::Range<usize>,
) {
    let names: BTreeSet<String> = names.into_iter().collect();
    match declaration.facts.iter_mut().find(|(a, ..)| a == artifact) {
        Some((_, FactRead::Names(known), _)) => known.extend(names),
        Some((_, FactRead::All | FactRead::AllOf, _)) => {}
        None => declaration.facts.push((artifact.clone(), FactRead::Names(names), span)),
    }
}

/// The `model-index` lines of the front matter; nothing where the manifest names no results.
pub fn model_index(action: &Action, workspace: &Workspace) -> Result<String> {
    let results = action.params.get("results").and_then(Value::as_list).unwrap_or_default();
    if results.is_empty() {
        return Ok(String::new());
    }
    let mut text = format!("model-index:\n- name: {}\n  results:\n", quoted(text_param(action, "model")?));
    for result in results {
        let Value::Map(result) = result else { continue };
        let value = number(&looked_up(result, "value", action, workspace)?, result)?;
        let word = |key| quoted(result.get(key).and_then(Value::as_text).unwrap_or_default());
        text.push_str(&format!("  - task:\n      type: {}\n    dataset:\n", word("task")));
        lines(&mut text, "      ", result.get("dataset"), &["type", "name", "config", "split", "revision"]);
        text.push_str(&format!("    metrics:\n    - type: {}\n      value: {value}\n", word("metric")));
        if result.contains_key("name") {
            text.push_str(&format!("      name: {}\n", word("name")));
        }
        if result.contains_key("source") {
            text.push_str("    source:\n");
            lines(&mut text, "      ", result.get("source"), &["url", "name"]);
        }
    }
    Ok(text)
}

/// `key: value` for those of the keys that are there.
fn lines(text: &mut String, indent: &str, map: Option<&Value>, keys: &[&str]) {
    let Some(Value::Map(map)) = map else { return };
    for (key, value) in keys.iter().filter_map(|k| Some((k, map.get(*k)?.as_text()?))) {
        text.push_str(&format!("{indent}{key}: {}\n", quoted(value)));
    }
}

/// A JSON string, which is a YAML string too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The value of what a result names under `key`.
fn looked_up(result: &BTreeMap<String, Value>, key: &str, action: &Action, workspace: &Workspace) -> Result<Value> {
    let name = result.get(key).and_then(Value::as_text).unwrap_or_default();
    if let Some(declared) = action.params.get(name) {
        return Ok(declared.clone());
    }
    let missing = || {
        Error::stage(format!("`{name}` was not measured, so it is no result"))
            .hint("a result that nothing measured is not published: measure it, or take it out of `results`")
    };
    let (artifact, fact) = name.split_once('.').ok_or_else(missing)?;
    let set = workspace.facts.get(artifact).ok_or_else(missing)?;
    match find(set, fact) {
        None | Some(Value::Null) => Err(missing()),
        Some(value) => Ok(value),
    }
}

/// A fact by its dotted name; of a family below `mean`, `min`, `max`, `common`.
fn find(set: &FactSet, fact: &str) -> Option<Value> {
    if let FactSet::One(facts) = set {
        return facts.get(fact).cloned();
    }
    let (view, name) = fact.split_once('.')?;
    let Value::Map(mut root) = set.tree() else { return None };
    let mut value = root.remove(view)?;
    if let Value::Map(map) = &value
        && let Some(found) = map.get(name)
    {
        return Some(found.clone()); // the folds keep dotted names as they are
    }
    for part in name.split('.') {
        let Value::Map(mut map) = value else { return None };
        value = map.remove(part)?;
    }
    Some(value)
}

fn number(value: &Value, result: &BTreeMap<String, Value>) -> Result<String> {
    match value {
        Value::Int(_) | Value::Float(_) => Ok(yaml::number(&value.to_json().to_string())),
        other => Err(Error::stage(format!(
            "`{}` is {}, and a result's value is a number",
            result.get("value").and_then(Value::as_text).unwrap_or_default(),
            other.type_name()
        ))),
    }
}

/// `2025-09-30`, or with a time behind it.
fn date(value: &Value, result: &BTreeMap<String, Value>) -> Result<String> {
    let text = value.as_text().unwrap_or_default();
    let day = text.get(..10).is_some_and(|day| day.parse::<jiff::civil::Date>().is_ok());
    let rest = text.get(10..).unwrap_or_default();
    if day && (rest.is_empty() || text.parse::<jiff::Timestamp>().is_ok()) {
        return Ok(quoted(text));
    }
    let name = result.get("date").and_then(Value::as_text).unwrap_or_default();
    Err(Error::stage(format!("`{name}` is `{value}`, which is no date")).hint("write `2025-09-30`"))
}
