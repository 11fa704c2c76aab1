//! From the unpickler's nodes, which may share and hold one another, to a tree of plain values.
//!
//! Bounded in depth and in number: lists that hold themselves, and nests of shared lists that would unfold without end
//! ("billion laughs"), are errors; so are texts that would be copied without end, because many values name them or many
//! dotted names begin with them. It knows no opcodes.

use super::globals::Role;
use super::unpickle::{DEEPEST, Item, MOST_VALUES, Node};
use super::value::{Object, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// So many bytes of text, in a value or in the keys above it, count as a value more.
const TEXT: usize = 16;

/// The tree below `item`, or why there is none.
pub(super) fn build(nodes: &[Node], item: Item) -> Result<Value, String> {
    Builder { nodes, left: MOST_VALUES, above: 0 }.value(item, 0)
}

struct Builder<'a> {
    nodes: &'a [Node],
    left: usize,
    /// Bytes of the keys above: what the dotted name of a value would have.
    above: usize,
}

impl Builder<'_> {
    fn value(&mut self, item: Item, depth: usize) -> Result<Value, String> {
        self.spend(1 + self.above / TEXT)?;
        if depth > DEEPEST {
            return Err(format!("it is nested deeper than {DEEPEST} levels, or holds itself"));
        }
        let index = match item {
            Item::None => return Ok(Value::None),
            Item::Bool(value) => return Ok(Value::Bool(value)),
            Item::Int(value) => return Ok(Value::Int(value)),
            Item::Float(value) => return Ok(Value::Float(value)),
            Item::Node(index) => index as usize,
        };
        let nodes = self.nodes;
        let node = nodes.get(index).ok_or_else(|| "it names a value that it did not make".to_owned())?;
        Ok(match node {
            Node::Text(text) => {
                self.spend(text.len() / TEXT)?;
                Value::Text(Arc::clone(text))
            }
            Node::Bytes(bytes) => Value::Bytes(Arc::clone(bytes)),
            Node::List(items) => Value::List(self.all(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.all(items, depth)?),
            Node::Set(items) => Value::Set(self.all(items, depth)?),
            Node::Dict(entries) => Value::Dict(self.entries(entries, depth)?),
            Node::Tensor(tensor) => Value::Tensor(Arc::clone(tensor)),
            Node::Storage(storage) => Value::Storage(Arc::clone(storage)),
            Node::Global(global) => match global.role {
                Role::Dtype(_) => Value::Text(Arc::clone(&global.path)),
                _ => object(&global.path, vec![]),
            },
            Node::NumpyDtype(..) => object(&"numpy.dtype".into(), vec![]),
            Node::Object(class, fields) => object(class, self.entries(fields, depth)?),
        })
    }

    fn spend(&mut self, count: usize) -> Result<(), String> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or_else(|| {
            format!("it unfolds to more than {MOST_VALUES} values, or {TEXT} times the bytes of text")
        })?;
        Ok(())
    }

    fn all(&mut self, items: &[Item], depth: usize) -> Result<Vec<Value>, String> {
        items.iter().map(|&item| self.value(item, depth + 1)).collect()
    }

    /// As Python's dicts: a key that comes again replaces the value, and keeps its place.
    fn entries(&mut self, entries: &[(Item, Item)], depth: usize) -> Result<Vec<(Value, Value)>, String> {
        let mut made: Vec<(Value, Value)> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for &(key, value) in entries {
            let key = self.value(key, depth + 1)?;
            let named = if let Value::Text(text) = &key { text.len() + 1 } else { 0 };
            self.above += named;
            let value = self.value(value, depth + 1)?;
            self.above -= named;
            let place = match &key {
                Value::Text(text) => Some(Key::Text(Arc::clone(text))),
                Value::Int(value) => Some(Key::Int(*value)),
                _ => None,
            };
            match place.map(|place| *places.entry(place).or_insert(made.len())) {
                Some(at) if at < made.len() => made[at].1 = value,
                _ => made.push((key, value)),
            }
        }
        Ok(made)
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Text(Arc<str>),
    Int(i64),
}

fn object(class: &Arc<str>, fields: Vec<(Value, Value)>) -> Value {
    Value::Object(Box::new(Object { class: Arc::clone(class), fields }))
}
