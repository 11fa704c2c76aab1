//! The manifest `publish.toml`, read into validated types with places.
//!
//! Knows the fixed tables (`project`, `hub`, `params`, `profile`, `declared`, `pools`) and, through the table of kinds that it is
//! handed, every artifact's keys. Does not read files and does not know what a kind does.

pub mod dom;
pub mod fields;
pub mod overlay;
pub mod target;

use crate::core::error::{Error, Result};
use crate::core::name::{ArtifactName, nearest};
use crate::core::size;
use crate::core::value::Value;
use dom::{Data, Node, Source, Table, join};
use fields::{Check, Field, FieldType, check_table, schema_of};
use overlay::{Overlay, Settings};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
pub use target::{Hub, OnDrift, OnTag};

/// What the manifest needs to know of a kind.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// As in `kind = "..."`.
    pub name: &'static str,
    /// One line for people.
    pub doc: &'static str,
    /// Its keys, beside [`COMMON`].
    pub fields: &'static [Field],
    /// The facts that it may measure; `config.*` is a group. Empty: only its run can tell (a command), or it has none.
    pub facts: &'static [&'static str],
}

impl KindInfo {
    /// Whether a fact of this name can be measured. A group's name alone stands for the group.
    pub fn has_fact(&self, name: &str) -> bool {
        self.facts.is_empty()
            || self.facts.iter().any(|fact| match fact.strip_suffix(".*") {
                Some(group) => name == group || name.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')),
                // an item of a list is reached by its number
                None => name.strip_prefix(fact).is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('.').is_some_and(|i| i.bytes().all(|b| b.is_ascii_digit()))
                }),
            })
    }
}

/// The whole manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its text.
    pub source: Source,
    /// `[project]`
    pub project: Project,
    /// `[hub]`, if there.
    pub hub: Option<Hub>,
    /// `[params]`
    pub params: BTreeMap<String, Value>,
    /// `[declared]`
    pub declared: BTreeMap<String, Declared>,
    /// `[pools]`
    pub pools: BTreeMap<String, Pool>,
    /// The artifacts in the order of the file.
    pub artifacts: Vec<Spec>,
    /// The names of its profiles.
    pub profiles: Vec<String>,
    /// What a profile or the command line changed in it.
    pub overlay: Overlay,
    hub_table: Option<Table>,
    uploads: Vec<usize>,
    by_name: HashMap<String, usize>,
}

/// `[project]`
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, by the Hub's identifier.
    pub license: String,
    /// Where `license` stands.
    pub license_span: Range<usize>,
}

/// A figure that no file can prove.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The figure.
    pub value: Value,
    /// Who says so.
    pub source: String,
}

/// A named resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pool {
    /// As many as this machine has.
    Auto,
    /// So many, with the ids 0, 1, 2...
    Count(usize),
    /// These, by id.
    Ids(Vec<String>),
    /// So many bytes.
    Size(u64),
}

/// What a stage takes of a pool, as the manifest says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(usize),
    /// So many bytes.
    Size(u64),
}

/// The pool that is the machine's memory where it is `auto`.
pub const MEMORY: &str = "memory";

/// One `[artifact.NAME]`, checked against its kind's keys.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: ArtifactName,
    /// Its kind.
    pub kind: &'static str,
    /// Where its name stands.
    pub span: Range<usize>,
    table: Table,
}

/// Keys that every kind takes.
pub const COMMON: &[Field] = &[
    Field::required("kind", FieldType::Text, "what makes this artifact"),
    Field::optional("after", FieldType::List(&FieldType::Artifact), "artifacts that must be done before; order only"),
    Field::optional("frozen", FieldType::Bool, "whether the last result stands, whatever changes"),
    Field::optional("resources", FieldType::Map(&AMOUNT), "tokens of pools that the stage holds"),
];

const PROJECT: &[Field] = &[
    Field::required("name", FieldType::Text, "the project's name"),
    Field::required("version", FieldType::Text, "its version"),
    Field::required("license", FieldType::Text, "its licence, by the Hub's identifier, e.g. `apache-2.0`"),
];
const HUB: &[Field] = &[
    Field { required: true, ..target::TARGET[0] },
    target::TARGET[1],
    target::TARGET[2],
    Field::optional("endpoint", FieldType::Text, "a URL, or `embedded` for the local hub under cache/"),
    target::TARGET[3],
    target::TARGET[4],
    target::TARGET[5],
    target::TARGET[6],
    target::TARGET[7],
    target::TARGET[8],
    target::TARGET[9],
];
/// `[hub]` in a profile: any of its keys.
const PROFILE_HUB: [Field; HUB.len()] = {
    let mut fields = [HUB[0]; HUB.len()];
    let mut at = 0;
    while at < HUB.len() {
        fields[at] = Field { required: false, ..HUB[at] };
        at += 1;
    }
    fields
};
const PROFILE: &[Field] = &[
    Field::optional("hub", FieldType::Table(&PROFILE_HUB), "keys of [hub] that are other with this profile"),
    Field::optional("params", FieldType::Map(&FieldType::Any), "parameters that are other with this profile"),
    Field::optional(
        "upload",
        FieldType::Map(&FieldType::Table(&target::TARGET)),
        "keys of single uploads, by name, that are other with this profile",
    ),
];
const DECLARED: &[Field] = &[
    Field::required("value", FieldType::Any, "the figure"),
    Field::required("source", FieldType::Text, "who says so"),
];
const AMOUNT: FieldType = FieldType::Either(&FieldType::Int(0, 1 << 20), &FieldType::Size);
const IDS: FieldType = FieldType::List(&FieldType::Either(&FieldType::Text, &FieldType::Int(0, 1 << 20)));
const POOL: FieldType = FieldType::Either(&AMOUNT, &FieldType::Either(&IDS, &FieldType::Choice(&["auto"])));
const TOP: &[Field] = &[
    Field::required("project", FieldType::Table(PROJECT), "name, version, licence"),
    Field::optional("hub", FieldType::Table(HUB), "where to publish"),
    Field::optional("params", FieldType::Map(&FieldType::Any), "settings of stages"),
    Field::optional("profile", FieldType::Map(&FieldType::Table(PROFILE)), "other settings, chosen by --profile NAME"),
    Field::optional("declared", FieldType::Map(&FieldType::Table(DECLARED)), "figures that no file can prove"),
    Field::optional("pools", FieldType::Map(&POOL), "named resources: a count, ids, a size, or `auto`"),
    Field::optional("artifact", FieldType::Map(&FieldType::Any), "the artifacts"),
];

/// Reads a manifest, with the settings laid over it. Every mistake that can be told apart is reported, not only the
/// first.
pub fn read(source: Source, settings: &Settings, kinds: &[KindInfo]) -> Result<Manifest> {
    let mut top = dom::parse(&source)?;
    let mut problems = Vec::new();
    let check = Check { source: &source, params: &BTreeMap::new() }; // no key of these tables takes a parameter
    check_table(&top, 0..0, TOP, "the manifest", &check, &mut problems);
    overlay::check_profiles(&top, &source, &mut problems);
    target::check(&top, &source, &mut problems);
    check_pools(&top, &source, &mut problems);
    let overlay = overlay::lay(&mut top, &source, settings, &mut problems)?;
    let params = params_of(&top);
    let check = Check { source: &source, params: &params };
    let artifacts = artifacts(&top, kinds, &check, &mut problems);
    problems.sort_by_key(|e| e.place().map_or(0, |p| p.start));
    if !problems.is_empty() {
        return Err(join(problems.into_iter().map(|e| overlay.told(&source, e)).collect()));
    }
    let declared =
        table_at(&top, "declared").entries.iter().map(|(name, _, node)| (name.clone(), declared(node))).collect();
    let pools = table_at(&top, "pools").entries.iter().map(|(name, _, node)| (name.clone(), pool(node))).collect();
    let project = project(&table_at(&top, "project"));
    let hub_table = top.get("hub").and_then(Node::as_table).cloned();
    let hub = hub_table.as_ref().map(|table| target::of_hub(table, &project));
    let by_name = artifacts.iter().enumerate().map(|(at, spec)| (spec.name.to_string(), at)).collect();
    let is_upload = |(at, spec): (usize, &Spec)| (spec.kind == target::UPLOAD).then_some(at);
    let uploads = artifacts.iter().enumerate().filter_map(is_upload).collect();
    let profiles = overlay::profiles(&top).map(|(name, _)| name.to_string()).collect();
    Ok(Manifest {
        project,
        hub,
        hub_table,
        uploads,
        params,
        declared,
        pools,
        artifacts,
        profiles,
        overlay,
        by_name,
        source,
    })
}

/// The JSON Schema of the manifest, out of the same tables that check it.
pub fn schema(kinds: &[KindInfo]) -> serde_json::Value {
    let mut schema = schema_of(TOP);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "hfbuild manifest (publish.toml)".into();
    let one_of: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let all: Vec<Field> = COMMON.iter().chain(kind.fields).copied().collect();
            let mut schema = schema_of(&all);
            schema["description"] = kind.doc.into();
            schema["properties"]["kind"] = serde_json::json!({"const": kind.name});
            schema
        })
        .collect();
    schema["properties"]["artifact"]["additionalProperties"] = serde_json::json!({"oneOf": one_of});
    schema
}

fn table_at(top: &Table, key: &str) -> Table {
    top.get(key).and_then(Node::as_table).cloned().unwrap_or_default()
}

fn params_of(top: &Table) -> BTreeMap<String, Value> {
    let table = table_at(top, "params");
    table.entries.iter().filter_map(|(k, _, n)| Some((k.clone(), n.to_value()?))).collect()
}

fn text_of(table: &Table, key: &str) -> Option<String> {
    table.get(key).and_then(Node::as_text).map(str::to_string)
}

fn project(table: &Table) -> Project {
    let text = |key| text_of(table, key).unwrap_or_default();
    let license_span = table.get("license").map_or(0..0, |n| n.span.clone());
    Project { name: text("name"), version: text("version"), license: text("license"), license_span }
}

fn declared(node: &Node) -> Declared {
    let table = node.as_table().cloned().unwrap_or_default();
    let value = table.get("value").and_then(Node::to_value).unwrap_or(Value::Null);
    Declared { value, source: text_of(&table, "source").unwrap_or_default() }
}

fn pool(node: &Node) -> Pool {
    match (amount(node), &node.data) {
        (Some(Amount::Count(n)), _) => Pool::Count(n),
        (Some(Amount::Size(bytes)), _) => Pool::Size(bytes),
        (None, Data::Array(items)) => Pool::Ids(items.iter().filter_map(token).collect()),
        (None, _) => Pool::Auto,
    }
}

fn amount(node: &Node) -> Option<Amount> {
    match &node.data {
        Data::Int(n) => Some(Amount::Count(*n as usize)),
        Data::Text(text) => size::parse(text).map(Amount::Size),
        _ => None,
    }
}

/// One id of a pool.
fn token(node: &Node) -> Option<String> {
    if let Data::Int(n) = node.data { Some(n.to_string()) } else { node.as_text().map(str::to_string) }
}

/// Ids stand side by side in a variable of the environment, and none of them is given to two stages.
fn check_pools(top: &Table, source: &Source, problems: &mut Vec<Error>) {
    for (name, _, node) in &table_at(top, "pools").entries {
        if name == "cores" && !matches!(&node.data, Data::Int(1..) | Data::Text(_)) {
            let error = source.error(node.span.clone(), "pool `cores` takes a count of 1 or more, or `\"auto\"`");
            problems.push(error.hint("every stage takes at least one core; which one is the kernel's to say"));
            continue;
        }
        let mut seen = BTreeSet::new();
        for item in node.as_array().unwrap_or_default() {
            let Some(id) = token(item) else { continue };
            if id.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
                let error = source.error(item.span.clone(), format!("`{}` cannot be an id", id.escape_debug()));
                problems.push(error.hint(format!("write each id by itself: `{name} = [\"0\", \"3\"]`")));
            } else if !seen.insert(id.clone()) {
                let error = source.error(item.span.clone(), format!("pool `{name}` has the id `{id}` twice"));
                problems.push(error.hint("name each id once: two stages would be given the same"));
            }
        }
    }
}

fn artifacts(top: &Table, kinds: &[KindInfo], check: &Check<'_>, problems: &mut Vec<Error>) -> Vec<Spec> {
    let Some(table) = top.get("artifact").and_then(Node::as_table) else { return vec![] };
    let mut specs = Vec::new();
    for (name, span, node) in &table.entries {
        match artifact(name, span, node, kinds, check, problems) {
            Ok(spec) => specs.push(spec),
            Err(error) => problems.push(error),
        }
    }
    specs
}

fn artifact(
    name: &str,
    span: &Range<usize>,
    node: &Node,
    kinds: &[KindInfo],
    check: &Check<'_>,
    problems: &mut Vec<Error>,
) -> Result<Spec> {
    let source = check.source;
    let parsed: ArtifactName = name.parse().map_err(|why: String| {
        source.error(span.clone(), format!("no artifact can be called `{}`", name.escape_debug())).hint(why)
    })?;
    let table = node.as_table().ok_or_else(|| {
        source.error(node.span.clone(), format!("artifact `{name}` takes a table, not {}", node.type_name()))
    })?;
    let kind_node = table.get("kind").ok_or_else(|| {
        let known: Vec<_> = kinds.iter().map(|k| k.name).collect();
        source
            .error(span.clone(), format!("artifact `{name}` lacks `kind`"))
            .hint(format!("add `kind = \"...\"`, one of: {}", known.join(", ")))
    })?;
    let word = kind_node.as_text().ok_or_else(|| {
        source.error(kind_node.span.clone(), format!("`kind` takes a string, not {}", kind_node.type_name()))
    })?;
    let Some(kind) = kinds.iter().find(|k| k.name == word) else {
        let error = source.error(kind_node.span.clone(), format!("unknown kind `{}`", word.escape_debug()));
        let known: Vec<_> = kinds.iter().map(|k| k.name).collect();
        return Err(match nearest(word, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("known kinds: {}", known.join(", "))),
        });
    };
    let all: Vec<Field> = COMMON.iter().chain(kind.fields).copied().collect();
    check_table(table, span.clone(), &all, &format!("artifact `{name}` (kind `{}`)", kind.name), check, problems);
    Ok(Spec { name: parsed, kind: kind.name, span: span.clone(), table: table.clone() })
}

impl Manifest {
    /// The artifact of this name.
    pub fn artifact(&self, name: &str) -> Option<&Spec> {
        self.by_name.get(name).map(|at| &self.artifacts[*at])
    }

    /// The uploads, found without looking at every artifact.
    pub fn uploads(&self) -> impl Iterator<Item = &Spec> {
        self.uploads.iter().map(|at| &self.artifacts[*at])
    }

    /// The value under `key` of `spec`, with `params.NAME` replaced by the parameter.
    pub fn value(&self, spec: &Spec, key: &str) -> Option<Value> {
        let value = spec.table.get(key)?.to_value()?;
        if let Value::Text(text) = &value
            && let Some(param) = text.strip_prefix("params.")
            && let Some(value) = self.params.get(param)
        {
            return Some(value.clone());
        }
        Some(value)
    }

    /// The lists of a table under `key`, in the order of the file, parameters replaced.
    pub fn lists(&self, spec: &Spec, key: &str) -> Vec<(String, Vec<Value>)> {
        let table = spec.table.get(key).and_then(Node::as_table).cloned().unwrap_or_default();
        let list = |node: &Node| match node.to_value() {
            Some(Value::List(items)) => items,
            Some(Value::Text(text)) => {
                let param = text.strip_prefix("params.").and_then(|name| self.params.get(name));
                param.and_then(Value::as_list).map(<[Value]>::to_vec).unwrap_or_default()
            }
            _ => vec![],
        };
        table.entries.iter().map(|(name, _, node)| (name.clone(), list(node))).collect()
    }
}

impl Spec {
    /// A string as it stands in the manifest.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.table.get(key)?.as_text()
    }
    /// The names or texts of an array.
    pub fn texts(&self, key: &str) -> Vec<(String, Range<usize>)> {
        let items = self.table.get(key).and_then(Node::as_array).unwrap_or_default();
        items.iter().filter_map(|n| Some((n.as_text()?.to_string(), n.span.clone()))).collect()
    }
    /// A table of texts, in the order of the file, with the place of each key and each value.
    pub fn map(&self, key: &str) -> Vec<(String, Range<usize>, String, Range<usize>)> {
        let table = self.table.get(key).and_then(Node::as_table).cloned().unwrap_or_default();
        let entry = |(k, ks, n): &(String, Range<usize>, Node)| {
            Some((k.clone(), ks.clone(), n.as_text()?.to_string(), n.span.clone()))
        };
        table.entries.iter().filter_map(entry).collect()
    }
    /// What `resources` takes of each pool.
    pub fn resources(&self) -> Vec<(String, Amount)> {
        let table = self.table.get("resources").and_then(Node::as_table).cloned().unwrap_or_default();
        table.entries.iter().filter_map(|(pool, _, n)| Some((pool.clone(), amount(n)?))).collect()
    }
    /// A table of whole numbers.
    pub fn counts(&self, key: &str) -> BTreeMap<String, usize> {
        let table = self.table.get(key).and_then(Node::as_table).cloned().unwrap_or_default();
        let entry = |(k, _, n): &(String, Range<usize>, Node)| match n.data {
            Data::Int(i) => Some((k.clone(), i as usize)),
            _ => None,
        };
        table.entries.iter().filter_map(entry).collect()
    }
    /// Where the value under `key` stands, or the artifact's name where the key is absent.
    pub fn place(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or(self.span.clone(), |n| n.span.clone())
    }
    /// The raw node under `key`.
    pub fn node(&self, key: &str) -> Option<&Node> {
        self.table.get(key)
    }
}
