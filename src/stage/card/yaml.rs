//! The front matter's YAML as a tree with a place on every key and value, from the events of `yaml-rust2`'s parser.
//!
//! Knows YAML; does not know what any key means. Refuses what a card has no use for: aliases (which can grow without
//! bound), keys that are no text, a key that comes twice, tags (which a Python
//! reader may run), and a second document.

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::{Marker, ScanError, TScalarStyle};
use yaml_rust2::yaml::Yaml;

/// A value and its place, as byte offsets into the card.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What it is.
    pub data: Data,
}

/// What YAML 1.2's core schema makes of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file; the first node is the key's.
    Map(Vec<(String, Node, Node)>),
}

impl Node {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Data::Text(t) = &self.data { Some(t) } else { None }
    }
    /// The items, if it is a list.
    pub fn list(&self) -> &[Node] {
        if let Data::List(items) = &self.data { items } else { &[] }
    }
    /// The entries, if it is a mapping.
    pub fn entries(&self) -> &[(String, Node, Node)] {
        if let Data::Map(entries) = &self.data { entries } else { &[] }
    }
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, ..)| k == key).map(|(.., value)| value)
    }
    /// Whether lists and mappings are as many and as long.
    pub fn is_shaped_as(&self, other: &Node) -> bool {
        match (&self.data, &other.data) {
            (Data::List(a), Data::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_shaped_as(b)),
            (Data::Map(a), Data::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((.., a), (.., b))| a.is_shaped_as(b))
            }
            (Data::List(_) | Data::Map(_), _) | (_, Data::List(_) | Data::Map(_)) => false,
            _ => true,
        }
    }
    /// The word for its type in messages.
    pub fn type_name(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "a truth value",
            Data::Number(_) => "a number",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }
}

/// What is wrong with the YAML, and at which byte of the card.
pub struct Wrong {
    /// In words.
    pub message: String,
    /// Where.
    pub at: usize,
}

impl Open {
    /// A block mapping is marked at its first colon: it begins with its first key.
    fn node(self, end: usize) -> Node {
        let first = match &self.data {
            Data::Map(entries) => entries.first().map_or(self.start, |(_, key, _)| key.start),
            _ => self.start,
        };
        let start = self.start.min(first);
        Node { start, end: end.max(start), data: self.data }
    }
}

/// Deeper than any front matter.
const DEPTH: usize = 32;

/// A list or a mapping that is not closed yet.
struct Open {
    start: usize,
    data: Data,
    /// Of a mapping: the key that waits for its value.
    key: Option<(String, Node)>,
}

/// Parses one document. `offset` is where `text` begins in the card.
pub fn parse(text: &str, offset: usize) -> Result<Node, Wrong> {
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let byte = |mark: &Marker| offset + bytes.get(mark.index()).copied().unwrap_or(text.len());
    let wrong = |e: &ScanError| Wrong { message: e.info().to_string(), at: byte(e.marker()) };
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    loop {
        let (event, mark) = parser.next_token().map_err(|e| wrong(&e))?;
        let start = byte(&mark);
        let begin = |data| Open { start, data, key: None };
        let done = match event {
            Event::StreamEnd => {
                return Ok(root.unwrap_or(Node { start: offset, end: offset, data: Data::Null }));
            }
            Event::Alias(_) => {
                return Err(Wrong { message: "aliases (`*name`) are not read here".into(), at: start });
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(Wrong { message: "tags (`!name`, `!!type`) are not read here".into(), at: start });
            }
            Event::DocumentStart if root.is_some() => {
                return Err(Wrong { message: "a second document follows the first".into(), at: start });
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEPTH => {
                return Err(Wrong { message: format!("it is nested more than {DEPTH} deep"), at: start });
            }
            Event::SequenceStart(..) => {
                open.push(begin(Data::List(vec![])));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(begin(Data::Map(vec![])));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(closed) => closed.node(start),
                None => continue,
            },
            Event::Scalar(value, style, ..) => {
                let end = start + spelled(&text[(start - offset).min(text.len())..], &value, style);
                Node { start, end, data: scalar(value, style) }
            }
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(parent) => put(parent, done)?,
        }
    }
}

/// Puts a finished value into the list or mapping that it stands in.
fn put(parent: &mut Open, node: Node) -> Result<(), Wrong> {
    match &mut parent.data {
        Data::List(items) => items.push(node),
        Data::Map(entries) => match parent.key.take() {
            Some((key, at)) => entries.push((key, at, node)),
            None => {
                let Some(key) = key_of(&node) else {
                    return Err(Wrong {
                        message: format!("a key is {}, not a text", node.type_name()),
                        at: node.start,
                    });
                };
                if entries.iter().any(|(k, ..)| *k == key) {
                    return Err(Wrong {
                        message: format!("the key `{}` is there twice", key.escape_debug()),
                        at: node.start,
                    });
                }
                parent.key = Some((key, node));
            }
        },
        _ => {}
    }
    Ok(())
}

/// Keys such as `0:` and `true:` are texts too.
fn key_of(node: &Node) -> Option<String> {
    match &node.data {
        Data::Text(text) => Some(text.clone()),
        Data::Number(n) => Some(n.to_string()),
        Data::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn scalar(value: String, style: TScalarStyle) -> Data {
    if style != TScalarStyle::Plain {
        return Data::Text(value);
    }
    match Yaml::from_str(&value) {
        Yaml::Null => Data::Null,
        Yaml::Boolean(b) => Data::Bool(b),
        Yaml::Integer(i) => Data::Number(i as f64),
        // YAML 1.2 reads these as numbers, YAML 1.1 does not
        Yaml::Real(text) if number(&text) != text.replace('E', "e") => Data::Text(value),
        Yaml::Real(text) => Data::Number(text.trim_start_matches('+').parse().unwrap_or(f64::NAN)),
        _ => Data::Text(value),
    }
}

/// A JSON number as YAML 1.1 reads it, which the Hub's Python tools do: there `1e-9` is a text, and `1.0e-9` a number.
pub fn number(json: &str) -> String {
    let Some((mantissa, exponent)) = json.split_once(['e', 'E']) else { return json.into() };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// How many bytes of the text a scalar takes, for the mark below it: to its closing quote, or as long as it is.
fn spelled(rest: &str, value: &str, style: TScalarStyle) -> usize {
    let line = rest.lines().next().unwrap_or_default();
    match style {
        TScalarStyle::Plain if line.starts_with(value) => value.len(),
        _ => line.trim_end().len(),
    }
}
