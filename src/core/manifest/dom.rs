//! The manifest's text as a tree with a span on every key and value, by the `toml` crate.
//!
//! Knows TOML; does not know what any key means.

use crate::core::error::{Error, ErrorKind, Place};
use crate::core::value::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// A value with its place, as byte offsets into the manifest.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it stands.
    pub span: Range<usize>,
    /// What it is.
    pub data: Data,
}

/// The kinds of TOML values that a manifest uses.
#[derive(Debug, Clone)]
pub enum Data {
    /// `true`, `false`
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
    /// A date or time, which no key takes.
    Datetime,
}

/// A table in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Keys with their places, and values.
    pub entries: Vec<(String, Range<usize>, Node)>,
}

impl Table {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(k, ..)| k == key).map(|(.., node)| node)
    }
}

impl Node {
    /// The word for its type in messages.
    pub fn type_name(&self) -> &'static str {
        match self.data {
            Data::Bool(_) => "a boolean",
            Data::Int(_) => "an integer",
            Data::Float(_) => "a float",
            Data::Text(_) => "a string",
            Data::Array(_) => "an array",
            Data::Table(_) => "a table",
            Data::Datetime => "a date",
        }
    }
    /// As a plain value, where it is one (`None` for dates).
    pub fn to_value(&self) -> Option<Value> {
        Some(match &self.data {
            Data::Bool(b) => Value::Bool(*b),
            Data::Int(i) => Value::Int(*i),
            Data::Float(f) => Value::float(*f),
            Data::Text(t) => Value::Text(t.clone()),
            Data::Array(a) => Value::List(a.iter().map(Node::to_value).collect::<Option<_>>()?),
            Data::Table(t) => Value::Map(
                t.entries
                    .iter()
                    .map(|(k, _, n)| Some((k.clone(), n.to_value()?)))
                    .collect::<Option<BTreeMap<_, _>>>()?,
            ),
            Data::Datetime => return None,
        })
    }
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Data::Text(t) = &self.data { Some(t) } else { None }
    }
    /// The table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        if let Data::Table(t) = &self.data { Some(t) } else { None }
    }
    /// The array's items, if it is one.
    pub fn as_array(&self) -> Option<&[Node]> {
        if let Data::Array(a) = &self.data { Some(a) } else { None }
    }
}

/// The manifest's text with its file name: makes errors that point into it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file's name as shown.
    pub file: String,
    /// The whole text.
    pub text: Arc<str>,
}

impl Source {
    /// A manifest error that points at `span`.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Manifest, message).at(self.place(span))
    }
    /// The place of `span`.
    pub fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file.clone(), source: self.text.clone(), start: span.start, end: span.end }
    }
}

/// Parses TOML. All syntax errors that the parser could recover from are reported together, ten at most.
pub fn parse(source: &Source) -> Result<Table, Error> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let mut errors = errors.into_iter().map(|e| {
        let hint = match e.message().contains("duplicate") {
            true => "a key stands once in its table: give one of the two another name",
            false => "strings stand in quotes, tables open with [name], a key and its value are joined by `=`",
        };
        let message = format!("this is not TOML: {}", e.message().replace('\n', ", "));
        source.error(e.span().unwrap_or(0..0), message).hint(hint)
    });
    if let Some(first) = errors.next() {
        return Err(first.also(errors.take(9).collect()));
    }
    let mut problems = Vec::new();
    let table = convert_table(table.get_ref(), source, &mut problems);
    match problems.is_empty() {
        true => Ok(table),
        false => Err(join(problems)),
    }
}

/// Several failures as one, the first in front.
pub fn join(mut problems: Vec<Error>) -> Error {
    let first = problems.remove(0);
    first.also(problems)
}

fn convert_table(table: &DeTable<'_>, source: &Source, problems: &mut Vec<Error>) -> Table {
    let mut out = Table::default();
    for (key, value) in table {
        let node = convert(value.get_ref(), value.span(), source, problems);
        out.entries.push((key.get_ref().to_string(), key.span(), node));
    }
    out.entries.sort_by_key(|(_, span, _)| span.start);
    out
}

fn convert(value: &DeValue<'_>, span: Range<usize>, source: &Source, problems: &mut Vec<Error>) -> Node {
    let data = match value {
        DeValue::String(s) => Data::Text(s.to_string()),
        DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(i) => Data::Int(i),
            Err(_) => {
                problems.push(source.error(span.clone(), "this integer does not fit in 64 bits"));
                Data::Int(0)
            }
        },
        DeValue::Float(f) => match f.as_str().parse::<f64>() {
            Ok(f) if f.is_finite() => Data::Float(f),
            _ => {
                problems.push(source.error(span.clone(), "this float is not a finite number"));
                Data::Float(0.0)
            }
        },
        DeValue::Boolean(b) => Data::Bool(*b),
        DeValue::Datetime(_) => Data::Datetime,
        DeValue::Array(a) => Data::Array(a.iter().map(|v| convert(v.get_ref(), v.span(), source, problems)).collect()),
        DeValue::Table(t) => Data::Table(convert_table(t, source, problems)),
    };
    Node { span, data }
}
