//! Settings that one call brings along: a chosen `[profile.NAME]` and `--set params.NAME=VALUE`, laid over the
//! manifest's tree before it is validated, so that they pass the same checks as what the manifest itself says.
//!
//! Knows that a profile changes `[hub]`, uploads and `[params]`, and that a parameter keeps its type. Does not know what a
//! parameter is for, and reads no environment.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::manifest::dom::{self, Data, Node, Source, Table};
use crate::core::manifest::fields::node_of;
use crate::core::manifest::target;
use crate::core::name::nearest;
use std::collections::BTreeMap;
use std::mem::discriminant;
use std::ops::Range;

/// What a call asks for beside the manifest. The default asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The profile's name.
    pub profile: Option<String>,
    /// As given: `params.NAME=VALUE`. The last one of a name counts.
    pub set: Vec<String>,
}

/// Where the parameters come from that the manifest's `[params]` does not decide.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    origins: BTreeMap<String, Origin>,
}

#[derive(Debug, Clone)]
enum Origin {
    /// A profile's name, and where in it the value stands.
    Profile(String, Range<usize>),
    /// The text after `--set`.
    Set(String),
}

impl Overlay {
    /// A complaint about a value that names a parameter from outside says so; a profile's value is pointed at.
    pub fn told(&self, source: &Source, error: Error) -> Error {
        let named = error.place().filter(|p| p.file == source.file && !self.origins.is_empty()).and_then(|place| {
            let text = source.text.get(place.start..place.end)?;
            text.trim_matches(['"', '\'']).strip_prefix("params.")
        });
        let Some(name) = named else { return error };
        match self.origins.get(name) {
            None => error,
            Some(Origin::Set(text)) => {
                error.cause(format!("`params.{name}` is given by `--set {}`", text.escape_debug()))
            }
            Some(Origin::Profile(profile, span)) => {
                let cause = format!("`params.{name}` is given by [profile.{}]", profile.escape_debug());
                error.at(source.place(span.clone())).cause(cause)
            }
        }
    }
}

/// The profiles with the names that they go by.
pub fn profiles(top: &Table) -> impl Iterator<Item = (&str, &Table)> {
    let profiles = top.get("profile").and_then(Node::as_table).map(|t| t.entries.as_slice()).unwrap_or_default();
    profiles.iter().filter_map(|(name, _, node)| Some((name.as_str(), node.as_table()?)))
}

/// Checks the parameters of every profile, chosen or not, against `[params]`.
pub fn check_profiles(top: &Table, source: &Source, problems: &mut Vec<Error>) {
    let none = Table::default();
    let base = top.get("params").and_then(Node::as_table).unwrap_or(&none);
    for (profile, table) in profiles(top) {
        let params = table.get("params").and_then(Node::as_table).unwrap_or(&none);
        for (name, span, node) in &params.entries {
            let Some(own) = base.get(name) else {
                let (profile, shown) = (profile.escape_debug(), name.escape_debug());
                let message = format!("profile `{profile}` sets the parameter `{shown}`, which [params] lacks");
                let hint = match nearest(name, names(base)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("add `{shown} = ...` to [params]: a profile changes what is there"),
                };
                problems.push(source.error(span.clone(), message).hint(hint));
                continue;
            };
            if fitted(node, own).is_none() && !matches!(node.data, Data::Datetime) {
                let message =
                    format!("`{}` is {} in [params], not {}", name.escape_debug(), type_of(own), type_of(node));
                problems.push(source.error(node.span.clone(), message).hint("a profile's value has the same type"));
            }
        }
    }
}

/// Lays the chosen profile and then what was set over the tree. What is wrong with the words of the call is an error at
/// once; what the manifest lacks goes to `problems`.
pub fn lay(top: &mut Table, source: &Source, settings: &Settings, problems: &mut Vec<Error>) -> Result<Overlay> {
    let mut overlay = Overlay::default();
    let base = top.get("params").and_then(Node::as_table).cloned().unwrap_or_default();
    if let Some(name) = &settings.profile {
        let profile = chosen(top, name)?.clone();
        if let Some(node) = profile.get("hub") {
            lay_hub(top, node, source, name, problems);
        }
        target::lay(top, &profile);
        let params = profile.get("params").and_then(Node::as_table).cloned().unwrap_or_default();
        for (param, _, node) in params.entries {
            if let Some(fitted) = base.get(&param).and_then(|own| fitted(&node, own)) {
                overlay.origins.insert(param.clone(), Origin::Profile(name.clone(), node.span));
                replace(top, "params", &param, fitted);
            }
        }
    }
    for text in &settings.set {
        let (param, node) = parse(text, &base)?;
        overlay.origins.insert(param.to_string(), Origin::Set(text.clone()));
        replace(top, "params", param, node);
    }
    Ok(overlay)
}

fn chosen<'a>(top: &'a Table, name: &str) -> Result<&'a Table> {
    if let Some((_, table)) = profiles(top).find(|(n, _)| *n == name) {
        return Ok(table);
    }
    let known: Vec<_> = profiles(top).map(|(n, _)| n).collect();
    let hint = match (nearest(name, known.iter().copied()), known.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, true) => "the manifest has no [profile.NAME]".into(),
        (None, false) => format!("profiles: {}", list(known)),
    };
    Err(usage(format!("no profile is called `{}`", name.escape_debug()), hint))
}

fn lay_hub(top: &mut Table, node: &Node, source: &Source, name: &str, problems: &mut Vec<Error>) {
    let Some(table) = node.as_table() else { return };
    if top.get("hub").is_none() {
        if table.get("repo").is_none() {
            let message = format!("`hub` of profile `{}` lacks `repo`, and there is no [hub]", name.escape_debug());
            let hint = "`repo`: the repo on the Hub, `namespace/name`; it takes a string";
            problems.push(source.error(node.span.clone(), message).hint(hint));
        }
        top.entries.push(("hub".into(), node.span.clone(), node.clone()));
        return;
    }
    table.entries.iter().for_each(|(key, _, value)| replace(top, "hub", key, value.clone()));
}

/// Puts a value under `key` of the table `table`, which is there.
fn replace(top: &mut Table, table: &str, key: &str, node: Node) {
    let Some((.., outer)) = top.entries.iter_mut().find(|(k, ..)| k == table) else { return };
    let Data::Table(inner) = &mut outer.data else { return };
    match inner.entries.iter_mut().find(|(k, ..)| k == key) {
        Some((.., old)) => *old = node,
        None => inner.entries.push((key.to_string(), node.span.clone(), node)),
    }
}

/// A `params.NAME=VALUE`, checked against the manifest's own value, at whose place it then stands.
fn parse<'a>(text: &'a str, base: &Table) -> Result<(&'a str, Node)> {
    let shown = text.escape_debug();
    let Some((key, value)) = text.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else {
        return Err(usage(
            format!("`--set {shown}` has no value"),
            "write `--set params.NAME=VALUE`, for example `--set params.steps=10`",
        ));
    };
    let Some(name) = key.strip_prefix("params.") else {
        let hint = match base.get(key) {
            Some(_) => format!("write `--set params.{key}=...`"),
            None => "only parameters can be set: `--set params.NAME=VALUE`".into(),
        };
        return Err(usage(format!("`--set {shown}` names no parameter"), hint));
    };
    let Some(own) = base.get(name) else {
        let hint = match (nearest(name, names(base)), base.entries.is_empty()) {
            (Some(near), _) => format!("did you mean `params.{near}`?"),
            (None, true) => "the manifest has no [params]".into(),
            (None, false) => format!("parameters: {}", list(names(base))),
        };
        let message = format!("`--set` names the parameter `{}`, which [params] lacks", name.escape_debug());
        return Err(usage(message, hint));
    };
    let given = value_of(value, own.span.clone());
    fitted(&given, own).map(|node| (name, node)).ok_or_else(|| {
        let message = format!(
            "`params.{name}` is {} in the manifest, and `--set {shown}` gives {}",
            type_of(own),
            type_of(&given)
        );
        let hint = match &own.data {
            Data::Text(_) => format!("a string that looks like something else stands in quotes: 'params.{name}=\"7\"'"),
            _ => format!("values are written as in TOML: {}", example(name, own)),
        };
        usage(message, hint)
    })
}

/// A TOML value; what is none is taken as a string.
fn value_of(text: &str, span: Range<usize>) -> Node {
    let source = Source { file: "--set".into(), text: format!("v = {text}").into() };
    let as_text = || Node { span: span.clone(), data: Data::Text(text.to_string()) };
    match dom::parse(&source).map(|t| t.entries) {
        Ok(entries) => match entries.as_slice() {
            [(key, _, node)] if key == "v" => match node.to_value() {
                Some(value) => node_of(&value, span),
                None => Node { span, data: Data::Datetime },
            },
            _ => as_text(),
        },
        Err(_) => as_text(),
    }
}

/// The value as `own` has its type: a whole number stands for a float. `None` where the types differ.
fn fitted(node: &Node, own: &Node) -> Option<Node> {
    let data = match (&node.data, &own.data) {
        (Data::Int(i), Data::Float(_)) => Data::Float(*i as f64),
        (Data::Array(items), Data::Array(known)) => match plain_item(known) {
            Some(item) => Data::Array(items.iter().map(|i| fitted(i, item)).collect::<Option<_>>()?),
            None => Data::Array(items.clone()),
        },
        (given, known) if discriminant(given) == discriminant(known) => given.clone(),
        _ => return None,
    };
    Some(Node { span: node.span.clone(), data })
}

/// An item that stands for all: where all are of one type, and that is neither an array nor a table.
fn plain_item(items: &[Node]) -> Option<&Node> {
    let first = items.first().filter(|n| !matches!(n.data, Data::Array(_) | Data::Table(_)))?;
    items.iter().all(|n| discriminant(&n.data) == discriminant(&first.data)).then_some(first)
}

fn type_of(node: &Node) -> String {
    match node.as_array().and_then(plain_item) {
        Some(item) => format!("an array, each item {}", item.type_name()),
        None => node.type_name().to_string(),
    }
}

fn example(name: &str, own: &Node) -> String {
    match &own.data {
        Data::Bool(_) => format!("`params.{name}=true`"),
        Data::Float(_) => format!("`params.{name}=1.5`"),
        Data::Int(_) => format!("`params.{name}=10`"),
        Data::Table(_) => format!("'params.{name}={{ key = 1 }}'"),
        _ => format!("'params.{name}=[\"a\", \"b\"]'"),
    }
}

fn names(table: &Table) -> impl Iterator<Item = &str> {
    table.entries.iter().map(|(name, ..)| name.as_str())
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|n| format!("`{}`", n.escape_debug())).collect::<Vec<_>>().join(", ")
}

fn usage(message: String, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message).hint(hint)
}
