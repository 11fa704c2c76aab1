//! The declarative table of keys: what a key is called, what it takes, what it is for. One table a kind drives the
//! check of the manifest, the suggestions for mistyped keys, and the JSON Schema.
//!
//! Does not know what a kind does with its keys.

use crate::core::error::Error;
use crate::core::manifest::dom::{Data, Node, Source, Table};
use crate::core::name::{ArtifactName, RelPath, nearest};
use crate::core::size;
use crate::core::value::Value;
use serde_json::json;
use std::collections::BTreeMap;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub enum FieldType {
    /// A string that is not empty.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A path relative to the project.
    Path,
    /// The name of an artifact.
    Artifact,
    /// A truth value.
    Bool,
    /// An integer from the first to the second number, both allowed.
    Int(i64, i64),
    /// A size in bytes, with its unit.
    Size,
    /// A number, whole or not, above zero where `true`.
    Number(bool),
    /// An array of these.
    List(&'static FieldType),
    /// A table by name, of these.
    Map(&'static FieldType),
    /// This, or a string `params.NAME` that stands for a parameter of this type.
    Param(&'static FieldType),
    /// The first or the second.
    Either(&'static FieldType, &'static FieldType),
    /// A table with exactly these keys.
    Table(&'static [Field]),
    /// Any plain value.
    Any,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As written in the manifest.
    pub name: &'static str,
    /// What it takes.
    pub ty: FieldType,
    /// Whether it must be there.
    pub required: bool,
    /// What it is for, in one line.
    pub doc: &'static str,
}

impl Field {
    /// A key that may be left out.
    pub const fn optional(name: &'static str, ty: FieldType, doc: &'static str) -> Field {
        Field { name, ty, required: false, doc }
    }
    /// A key that must be there.
    pub const fn required(name: &'static str, ty: FieldType, doc: &'static str) -> Field {
        Field { name, ty, required: true, doc }
    }
}

impl FieldType {
    /// What is expected, in words.
    pub fn expected(&self) -> String {
        match self {
            FieldType::Text => "a string".into(),
            FieldType::Choice(words) => {
                format!("one of {}", words.iter().map(|w| format!("`\"{w}\"`")).collect::<Vec<_>>().join(", "))
            }
            FieldType::Path => "a path inside the project".into(),
            FieldType::Artifact => "the name of an artifact".into(),
            FieldType::Bool => "`true` or `false`".into(),
            FieldType::Int(low, high) if *high == i64::MAX => format!("an integer of {low} or more"),
            FieldType::Int(low, high) => format!("an integer from {low} to {high}"),
            FieldType::Size => "a size such as `\"16GB\"`".into(),
            FieldType::Number(true) => "a number above zero".into(),
            FieldType::Number(false) => "a number".into(),
            FieldType::List(of) => format!("an array, each item {}", of.expected()),
            FieldType::Map(of) => format!("a table, each value {}", of.expected()),
            FieldType::Param(of) => format!("{}, or `\"params.NAME\"`", of.expected()),
            FieldType::Either(a, b) => format!("{}, or {}", a.expected(), b.expected()),
            FieldType::Table(fields) => {
                format!(
                    "a table with {}",
                    fields.iter().map(|f| format!("`{}`", f.name)).collect::<Vec<_>>().join(", ")
                )
            }
            FieldType::Any => "a value".into(),
        }
    }

    /// A value that it takes, for hints.
    pub fn example(&self) -> String {
        match self {
            FieldType::Text => "\"text\"".into(),
            FieldType::Choice(words) => format!("\"{}\"", words.first().unwrap_or(&"")),
            FieldType::Path => "\"folder/file\"".into(),
            FieldType::Artifact => "\"checkpoint\"".into(),
            FieldType::Bool => "true".into(),
            FieldType::Int(low, _) => low.max(&1).to_string(),
            FieldType::Size => "\"16GB\"".into(),
            FieldType::Number(_) => "1.5".into(),
            FieldType::List(of) => format!("[{}]", of.example()),
            FieldType::Map(of) => format!("{{ name = {} }}", of.example()),
            FieldType::Param(of) | FieldType::Either(of, _) => of.example(),
            FieldType::Table(fields) => {
                let keys: Vec<_> =
                    fields.iter().filter(|f| f.required).map(|f| format!("{} = {}", f.name, f.ty.example())).collect();
                format!("{{ {} }}", keys.join(", "))
            }
            FieldType::Any => "1".into(),
        }
    }

    /// A value that it takes, of the type that was written where it takes one.
    fn example_like(&self, data: &Data) -> String {
        match (self, data) {
            (FieldType::Either(FieldType::Int(..), other), Data::Text(_)) => other.example_like(data),
            (FieldType::Either(first @ FieldType::Either(..), _), _) => first.example_like(data),
            _ => self.example(),
        }
    }

    /// The JSON Schema of what it takes.
    pub fn schema(&self) -> serde_json::Value {
        match self {
            FieldType::Text | FieldType::Path | FieldType::Artifact => json!({"type": "string", "minLength": 1}),
            FieldType::Choice(words) => json!({"enum": words}),
            FieldType::Bool => json!({"type": "boolean"}),
            FieldType::Int(low, high) if *high == i64::MAX => json!({"type": "integer", "minimum": low}),
            FieldType::Int(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
            FieldType::Size => json!({"type": "string", "pattern": size::PATTERN}),
            FieldType::Number(true) => json!({"type": "number", "exclusiveMinimum": 0}),
            FieldType::Number(false) => json!({"type": "number"}),
            FieldType::List(of) => json!({"type": "array", "items": of.schema()}),
            FieldType::Map(of) => json!({"type": "object", "additionalProperties": of.schema()}),
            FieldType::Param(of) => json!({"anyOf": [of.schema(), {"type": "string", "pattern": "^params\\."}]}),
            FieldType::Either(a, b) => json!({"anyOf": [a.schema(), b.schema()]}),
            FieldType::Table(fields) => schema_of(fields),
            FieldType::Any => json!({}),
        }
    }
}

/// The JSON Schema of a table with these keys.
pub fn schema_of(fields: &[Field]) -> serde_json::Value {
    let properties: serde_json::Map<_, _> = fields
        .iter()
        .map(|f| {
            let mut schema = f.ty.schema();
            schema["description"] = f.doc.into();
            (f.name.to_string(), schema)
        })
        .collect();
    let required: Vec<_> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
}

/// Checks a table against its keys; every problem is collected. `what` names the table in messages.
pub fn check_table(
    table: &Table,
    span: std::ops::Range<usize>,
    fields: &[Field],
    what: &str,
    cx: &Check<'_>,
    out: &mut Vec<Error>,
) {
    for (key, key_span, node) in &table.entries {
        match fields.iter().find(|f| f.name == key) {
            Some(field) => cx.check(node, &field.ty, &format!("`{key}`"), out),
            None => out.push(unknown_key(cx.source, key, key_span.clone(), fields, what)),
        }
    }
    for field in fields.iter().filter(|f| f.required && table.get(f.name).is_none()) {
        let error = cx.source.error(span.clone(), format!("{what} lacks `{}`", field.name));
        out.push(error.hint(format!("`{}`: {}; it takes {}", field.name, field.doc, field.ty.expected())));
    }
}

fn unknown_key(source: &Source, key: &str, span: std::ops::Range<usize>, fields: &[Field], what: &str) -> Error {
    let error = source.error(span, format!("unknown key `{}` in {what}", key.escape_debug()));
    match nearest(key, fields.iter().map(|f| f.name)) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => {
            let known: Vec<_> = fields.iter().map(|f| format!("`{}`", f.name)).collect();
            error.hint(format!("known keys: {}", known.join(", ")))
        }
    }
}

/// What a check needs to know beside the value: the text to point into and the parameters that may be named.
pub struct Check<'a> {
    /// The manifest's text.
    pub source: &'a Source,
    /// The parameters, for `params.NAME`.
    pub params: &'a BTreeMap<String, Value>,
}

impl Check<'_> {
    /// Checks one value; `what` names it in messages.
    pub fn check(&self, node: &Node, ty: &FieldType, what: &str, out: &mut Vec<Error>) {
        match (ty, &node.data) {
            (FieldType::Text, Data::Text(t)) if !t.is_empty() => {}
            (FieldType::Choice(words), Data::Text(t)) => self.choice(node, words, t, what, out),
            (FieldType::Path, Data::Text(t)) => self.parsed::<RelPath>(node, t, what, out),
            (FieldType::Artifact, Data::Text(t)) => self.parsed::<ArtifactName>(node, t, what, out),
            (FieldType::Bool, Data::Bool(_)) | (FieldType::Number(false), Data::Int(_) | Data::Float(_)) => {}
            (FieldType::Int(low, high), Data::Int(i)) if i >= low && i <= high => {}
            (FieldType::Size, Data::Text(t)) if size::parse(t).is_some() => {}
            (FieldType::Number(true), Data::Int(i)) if *i > 0 => {}
            (FieldType::Number(true), Data::Float(f)) if *f > 0.0 => {}
            (FieldType::List(of), Data::Array(items)) => {
                items.iter().for_each(|item| self.check(item, of, &format!("an item of {what}"), out));
            }
            (FieldType::Map(of), Data::Table(table)) => {
                table.entries.iter().for_each(|(k, _, n)| self.check(n, of, &format!("{what}.`{k}`"), out));
            }
            (FieldType::Table(fields), Data::Table(table)) => {
                check_table(table, node.span.clone(), fields, what, self, out);
            }
            (FieldType::Param(of), Data::Text(t)) if t.starts_with("params.") => self.param(node, of, t, what, out),
            (FieldType::Param(of), _) => self.check(node, of, what, out),
            (FieldType::Either(a, b), _) => {
                let (mut first, mut second) = (Vec::new(), Vec::new());
                self.check(node, a, what, &mut first);
                self.check(node, b, what, &mut second);
                if !first.is_empty() && !second.is_empty() {
                    // where the value is a table and so is an alternative, its own complaint says more
                    match (a, b, &node.data) {
                        (FieldType::Param(_), _, Data::Text(t)) if t.starts_with("params.") => out.append(&mut first),
                        (FieldType::Table(_), _, Data::Table(_)) => out.append(&mut first),
                        (_, FieldType::Table(_), Data::Table(_)) => out.append(&mut second),
                        _ => out.push(self.mismatch(node, ty, what)),
                    }
                }
            }
            (FieldType::Any, data) if !matches!(data, Data::Datetime) => {}
            _ => out.push(self.mismatch(node, ty, what)),
        }
    }

    fn mismatch(&self, node: &Node, ty: &FieldType, what: &str) -> Error {
        let found = match &node.data {
            Data::Int(i) => format!("{i}"),
            Data::Float(f) => format!("{f}"),
            Data::Text(t) if t.is_empty() => "an empty string".into(),
            Data::Text(t) if t.len() < 40 => format!("the string `{}`", t.escape_debug()),
            _ => node.type_name().to_string(),
        };
        let message = format!("{what} takes {}, not {found}", ty.expected());
        self.source.error(node.span.clone(), message).hint(format!("for example `{}`", ty.example_like(&node.data)))
    }

    fn choice(&self, node: &Node, words: &[&'static str], text: &str, what: &str, out: &mut Vec<Error>) {
        if words.contains(&text) {
            return;
        }
        let error = self.mismatch(node, &FieldType::Text, what);
        let list = words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        let error = self
            .source
            .error(node.span.clone(), format!("{what} takes one of {list}, not `{}`", text.escape_debug()))
            .hint(error.hint_text().unwrap_or_default());
        out.push(match nearest(text, words.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("known: {list}")),
        });
    }

    fn parsed<T: std::str::FromStr<Err = String>>(&self, node: &Node, text: &str, what: &str, out: &mut Vec<Error>) {
        if let Err(why) = text.parse::<T>() {
            let error = self.source.error(node.span.clone(), format!("{what} is `{}`: {why}", text.escape_debug()));
            out.push(error.hint("paths are relative to the project's root, artifacts are named as in [artifact.NAME]"));
        }
    }

    fn param(&self, node: &Node, of: &FieldType, text: &str, what: &str, out: &mut Vec<Error>) {
        let name = &text["params.".len()..];
        let Some(value) = self.params.get(name) else {
            let error = self
                .source
                .error(node.span.clone(), format!("{what} names the parameter `{name}`, which [params] lacks"));
            let near = nearest(name, self.params.keys().map(String::as_str));
            let table =
                name.split_once('.').filter(|(table, _)| matches!(self.params.get(*table), Some(Value::Map(_))));
            out.push(match near {
                _ if table.is_some() => error.hint(format!(
                    "a parameter is a key of [params] itself: write `{} = ...` there, and use `params.{0}`",
                    name.replace('.', "_")
                )),
                Some(near) => error.hint(format!("did you mean `params.{near}`?")),
                None => error.hint(format!("add `{name} = ...` to [params]")),
            });
            return;
        };
        let mut problems = Vec::new();
        self.check(&node_of(value, node.span.clone()), of, &format!("{what} (`{text}`)"), &mut problems);
        out.append(&mut problems);
    }
}

/// A value as a node at a place, so that a parameter is checked by the same code as a literal.
pub fn node_of(value: &Value, span: std::ops::Range<usize>) -> Node {
    let data = match value {
        Value::Null => Data::Datetime,
        Value::Bool(b) => Data::Bool(*b),
        Value::Int(i) => Data::Int(*i),
        Value::Float(f) => Data::Float(*f),
        Value::Text(t) => Data::Text(t.clone()),
        Value::List(list) => Data::Array(list.iter().map(|v| node_of(v, span.clone())).collect()),
        Value::Map(map) => Data::Table(Table {
            entries: map.iter().map(|(k, v)| (k.clone(), span.clone(), node_of(v, span.clone()))).collect(),
        }),
    };
    Node { span, data }
}
