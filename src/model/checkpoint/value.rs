//! What an unpickled file holds: plain values, and references to tensors whose bytes stay in the file.
//!
//! Knows Python's types by name and torch's element types. It knows no opcodes, no containers and no layouts.

use crate::model::tensor::DType;
use std::sync::Arc;

/// Element type of a storage or tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// One that a state dict can have.
    Known(DType),
    /// One that it cannot: complex and quantised types, by torch's name, with the bytes of one element.
    Other(&'static str, u64),
    /// A storage of bytes (`torch.UntypedStorage`): the tensor says the type.
    Untyped,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> u64 {
        match self {
            Element::Known(dtype) => dtype.size() as u64,
            Element::Other(_, size) => size,
            Element::Untyped => 1,
        }
    }
    /// The safetensors name of a known type, torch's name of another.
    pub fn name(self) -> &'static str {
        match self {
            Element::Known(dtype) => dtype.name(),
            Element::Other(name, _) => name,
            Element::Untyped => "untyped",
        }
    }
}

/// A storage as its persistent id claims it: nothing of it has been checked against the file.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageRef {
    /// Its key: `data/KEY` of the archive, or one of a legacy file's keys.
    pub key: Arc<str>,
    /// Its element type.
    pub element: Element,
    /// Number of elements of the whole storage.
    pub elements: u64,
    /// Legacy files: the storage is a window (first element, elements) of the one under `key`.
    pub view: Option<(u64, u64)>,
}

/// A tensor as the pickle claims it: offset and strides in elements, nothing checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRef {
    /// Where its elements lie.
    pub storage: Arc<StorageRef>,
    /// Its element type.
    pub element: Element,
    /// First element.
    pub offset: i64,
    /// Extents, outermost first.
    pub shape: Vec<i64>,
    /// Elements from one to the next along each axis.
    pub strides: Vec<i64>,
}

impl TensorRef {
    /// Number of elements; `None` where an extent is negative or the product overflows.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(u64::try_from(extent).ok()?))
    }
    /// Bytes of its elements, as far as they can be counted.
    pub fn bytes(&self) -> u64 {
        self.elements().unwrap_or(0).saturating_mul(self.element.size())
    }
}

/// An object of a known, harmless class.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// `module.name` of its class.
    pub class: Arc<str>,
    /// Its attributes; only namespaces have any.
    pub fields: Vec<(Value, Value)>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A bool, numpy's too.
    Bool(bool),
    /// An int of at most 64 bits, numpy's too. A larger one is a text of its digits.
    Int(i64),
    /// A float, numpy's too.
    Float(f64),
    /// A str; also a `torch.device`, a `torch.dtype` and a path, as Python prints them.
    Text(Arc<str>),
    /// bytes or bytearray.
    Bytes(Arc<[u8]>),
    /// A list or deque.
    List(Vec<Value>),
    /// A tuple or `torch.Size`.
    Tuple(Vec<Value>),
    /// A set or frozenset.
    Set(Vec<Value>),
    /// Any dict, in its order; no text or int comes twice as a key.
    Dict(Vec<(Value, Value)>),
    /// A tensor or parameter.
    Tensor(Arc<TensorRef>),
    /// A storage without a tensor.
    Storage(Arc<StorageRef>),
    /// Anything else that is known.
    Object(Box<Object>),
}

impl Value {
    /// The value under a text key of a dict.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries()?.iter().find(|(k, _)| matches!(k, Value::Text(text) if **text == *key)).map(|(_, value)| value)
    }
    /// The entries of a dict, or the attributes of a namespace.
    pub fn entries(&self) -> Option<&[(Value, Value)]> {
        match self {
            Value::Dict(entries) => Some(entries),
            Value::Object(object) if !object.fields.is_empty() => Some(&object.fields),
            _ => None,
        }
    }
    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }
    /// A key as it is shown: a text as it is, an int by its digits.
    pub fn key_text(&self) -> String {
        match self {
            Value::Text(text) => text.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            other => other.describe(),
        }
    }
    /// What it is, in words for messages: `a dict`, `a tensor`, `numpy.ndarray`.
    pub fn describe(&self) -> String {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Text(_) => "a str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Set(_) => "a set",
            Value::Dict(_) => "a dict",
            Value::Tensor(_) => "a tensor",
            Value::Storage(_) => "a storage",
            Value::Object(object) => &object.class,
        }
        .to_owned()
    }
    /// Calls `see` for every tensor within.
    pub fn each_tensor<'a>(&'a self, see: &mut impl FnMut(&'a Arc<TensorRef>)) {
        match self {
            Value::Tensor(tensor) => see(tensor),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().for_each(|item| item.each_tensor(see));
            }
            Value::Dict(entries) => entries.iter().for_each(|(_, value)| value.each_tensor(see)),
            Value::Object(object) => object.fields.iter().for_each(|(_, value)| value.each_tensor(see)),
            _ => {}
        }
    }
}
