//! What the unpickler makes of calls, of attributes that are set, and of persistent ids: plain values.
//!
//! The signatures are those of `torch/_utils.py`, `torch/serialization.py`, `numpy/core/multiarray` and `copyreg`. What a
//! tensor claims (offset, shape, strides) is taken down as it stands; [`super::storages`] holds it against the file.

use super::globals::Role;
use super::unpickle::{Global, Item, Machine, Node};
use super::value::{Element, StorageRef, TensorRef};
use crate::core::error::Result;
use crate::model::tensor::f16_to_f32;
use std::io::BufRead;
use std::sync::Arc;

/// Most axes of a tensor.
const MOST_AXES: usize = 64;

impl<R: BufRead> Machine<'_, R> {
    /// The value of a call.
    pub(super) fn call(&mut self, callee: &Global, args: &[Item]) -> Result<Item> {
        let made = match callee.role {
            Role::Dict => self.dict(args.first().copied())?,
            Role::DefaultDict => self.dict(args.get(1).copied())?,
            Role::List => self.items(args.first().copied())?.map(Node::List),
            Role::Set => self.items(args.first().copied())?.map(Node::Set),
            Role::Tuple => self.items(args.first().copied())?.map(|items| Node::Tuple(items.into())),
            Role::Plain => return self.plain(callee, args),
            Role::Bytes => self.encoded(args)?,
            Role::Tensor => self.tensor(args, None).map(|t| Node::Tensor(Arc::new(t))),
            Role::TypedTensor => {
                let element = args.get(6).and_then(|&dtype| self.dtype(dtype));
                element.and_then(|e| self.tensor(args, Some(e))).map(|t| Node::Tensor(Arc::new(t)))
            }
            Role::Parameter => match args.first().and_then(|&first| self.look(first)) {
                Some(Node::Tensor(tensor)) => Some(Node::Tensor(Arc::clone(tensor))),
                _ => None,
            },
            Role::FromType => return self.of_type(callee, args),
            Role::Reconstructor => self.reconstructed(args)?,
            Role::Namespace => args.is_empty().then(|| Node::Object(Arc::clone(&callee.path), vec![])),
            Role::Device => self.device(args),
            Role::Path => self.path(args)?,
            Role::NumpyDtype => args.first().and_then(|&code| self.text_of(code)).map(|c| Node::NumpyDtype(c, false)),
            Role::NumpyDtypeClass(code) => Some(Node::NumpyDtype(code.into(), false)),
            Role::NumpyScalar => match self.numpy_scalar(args) {
                Some(item) => return Ok(item),
                None => Some(Node::Object(Arc::clone(&callee.path), vec![])),
            },
            Role::Opaque => Some(Node::Object(Arc::clone(&callee.path), vec![])),
            Role::Storage(_) | Role::Dtype(_) | Role::Class => None,
        };
        match made {
            Some(node) => self.node(node),
            None => Err(self.wrong_call(callee)),
        }
    }

    fn wrong_call(&self, callee: &Global) -> crate::core::error::Error {
        self.malformed(&format!("it calls `{}` with arguments that it does not take", callee.path))
    }

    fn items(&mut self, of: Option<Item>) -> Result<Option<Vec<Item>>> {
        let Some(of) = of else { return Ok(Some(vec![])) };
        let items = match self.look(of) {
            Some(Node::List(items) | Node::Set(items)) => items.clone(),
            Some(Node::Tuple(items)) => items.to_vec(),
            Some(Node::Dict(entries)) => entries.iter().map(|entry| entry.0).collect(),
            _ => return Ok(None),
        };
        self.spend(items.len())?;
        Ok(Some(items))
    }

    /// A dict of nothing, of a dict, or of pairs.
    fn dict(&mut self, of: Option<Item>) -> Result<Option<Node>> {
        if let Some(Node::Dict(entries)) = of.and_then(|of| self.look(of)) {
            let entries = entries.clone();
            self.spend(entries.len())?;
            return Ok(Some(Node::Dict(entries)));
        }
        let Some(items) = self.items(of)? else { return Ok(None) };
        let pair = |item: &Item| match self.items_of(*item) {
            Some(&[key, value]) => Some((key, value)),
            _ => None,
        };
        Ok(items.iter().map(pair).collect::<Option<Vec<_>>>().map(Node::Dict))
    }

    fn items_of(&self, item: Item) -> Option<&[Item]> {
        match self.look(item) {
            Some(Node::List(items)) => Some(items),
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// `int(5)`, `str("a")`, `TorchVersion("2.5")`: the value itself.
    fn plain(&mut self, callee: &Global, args: &[Item]) -> Result<Item> {
        match args {
            [Item::Node(_)] if self.text_of(args[0]).is_none() => Err(self.wrong_call(callee)),
            [item] => Ok(*item),
            _ => Err(self.wrong_call(callee)),
        }
    }

    /// Bytes of bytes, or of a text in latin-1 (or UTF-8).
    fn encoded(&mut self, args: &[Item]) -> Result<Option<Node>> {
        let Some(&first) = args.first() else { return Ok(Some(Node::Bytes([].into()))) };
        let (text, codec) = (self.text_of(first), args.get(1).and_then(|&codec| self.text_of(codec)));
        let latin = codec.as_deref().is_none_or(|c| matches!(c, "latin1" | "latin-1" | "iso-8859-1"));
        let bytes: Option<Arc<[u8]>> = match (self.look(first), text) {
            (Some(Node::Bytes(bytes)), _) => Some(Arc::clone(bytes)),
            (Some(Node::Object(class, _)), _) => return Ok(Some(Node::Object(Arc::clone(class), vec![]))),
            (_, Some(text)) => {
                self.spend(text.len() / 16)?;
                match latin {
                    true => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<_>>>(),
                    false => Some(text.as_bytes().to_vec()),
                }
                .map(Into::into)
            }
            _ => None,
        };
        Ok(bytes.map(Node::Bytes))
    }

    /// `storage, offset, shape, strides, ...`.
    fn tensor(&self, args: &[Item], dtype: Option<Element>) -> Option<TensorRef> {
        let [storage, Item::Int(offset), shape, strides, ..] = args else { return None };
        let Some(Node::Storage(storage)) = self.look(*storage) else { return None };
        let (shape, strides) = (self.extents(*shape)?, self.extents(*strides)?);
        let element = dtype.unwrap_or(storage.element);
        (shape.len() == strides.len()).then(|| TensorRef {
            storage: Arc::clone(storage),
            element,
            offset: *offset,
            shape,
            strides,
        })
    }

    fn extents(&self, item: Item) -> Option<Vec<i64>> {
        let items = self.items_of(item).filter(|items| items.len() <= MOST_AXES)?;
        let extent = |item: &Item| match item {
            Item::Int(value) => Some(*value),
            _ => None,
        };
        items.iter().map(extent).collect()
    }

    fn dtype(&self, item: Item) -> Option<Element> {
        match self.look(item) {
            Some(Node::Global(Global { role: Role::Dtype(element), .. })) => Some(*element),
            _ => None,
        }
    }

    /// A subclass of tensor, or a tensor with attributes: what its function gives.
    fn of_type(&mut self, callee: &Global, args: &[Item]) -> Result<Item> {
        let (Some(&function), Some(Node::Tuple(inner))) = (args.first(), args.get(2).and_then(|&a| self.look(a)))
        else {
            return Err(self.wrong_call(callee));
        };
        let inner = Arc::clone(inner);
        let function = self.callee(function)?;
        match function.role {
            Role::Tensor | Role::TypedTensor | Role::Parameter => {
                self.spend(inner.len())?;
                self.call(&function, &inner)
            }
            _ => Err(self.wrong_call(callee)),
        }
    }

    /// What protocols 0 and 1 write for an object: its class, a base, and the base's own state.
    fn reconstructed(&mut self, args: &[Item]) -> Result<Option<Node>> {
        let [class, _base, state] = args else { return Ok(None) };
        let class = self.callee(*class)?;
        match class.role {
            Role::Namespace => Ok(Some(Node::Object(class.path, vec![]))),
            Role::Dict => self.dict(Some(*state).filter(|state| *state != Item::None)),
            _ => Ok(None),
        }
    }

    fn device(&self, args: &[Item]) -> Option<Node> {
        let kind = self.text_of(*args.first()?).filter(|kind| kind.len() <= 64)?;
        match args.get(1) {
            None => Some(Node::Text(kind)),
            Some(Item::Int(index)) => Some(Node::Text(format!("{kind}:{index}").into())),
            Some(_) => None,
        }
    }

    fn path(&mut self, args: &[Item]) -> Result<Option<Node>> {
        let Some(parts) = args.iter().map(|&part| self.text_of(part)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        self.spend(parts.iter().map(|part| part.len()).sum::<usize>() / 16)?;
        let joined = parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
        Ok(Some(Node::Text(joined.replacen("//", "/", 1).into())))
    }

    /// A number of numpy, by its dtype's code and its bytes; `None` for any other scalar.
    fn numpy_scalar(&self, args: &[Item]) -> Option<Item> {
        let [dtype, raw] = args else { return None };
        let Some(Node::NumpyDtype(code, big)) = self.look(*dtype) else { return None };
        let mut bytes = match self.look(*raw)? {
            Node::Bytes(bytes) if bytes.len() <= 8 => bytes.to_vec(),
            Node::Text(text) if text.len() <= 8 => text.as_bytes().to_vec(),
            _ => return None,
        };
        if *big {
            bytes.reverse();
        }
        let bytes = bytes.as_slice();
        Some(match code.trim_start_matches(['<', '>', '=', '|']) {
            "f8" => Item::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            "f4" => Item::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            "f2" => Item::Float(f16_to_f32(u16::from_le_bytes(bytes.try_into().ok()?)).into()),
            "i8" => Item::Int(i64::from_le_bytes(bytes.try_into().ok()?)),
            "i4" => Item::Int(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            "i2" => Item::Int(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            "i1" => Item::Int(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            "u8" => Item::Int(i64::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()?),
            "u4" => Item::Int(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            "u2" => Item::Int(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            "u1" => Item::Int(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            "b1" => Item::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            _ => return None,
        })
    }

    /// `BUILD`: attributes of a namespace, the byte order of numpy's dtype; attributes of anything else are left out.
    pub(super) fn build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        let parts = match self.look(state) {
            Some(Node::Tuple(parts)) => parts.to_vec(),
            _ => vec![state],
        };
        self.spend(parts.len())?;
        let order = parts.get(1).and_then(|&order| self.text_of(order));
        let mut fields = Vec::new();
        if let Some(Node::Object(..)) = self.look(target) {
            for part in &parts {
                if let Some(Node::Dict(entries)) = self.look(*part) {
                    fields.extend_from_slice(entries);
                }
            }
            self.spend(fields.len())?;
        }
        match self.look_mut(target) {
            Some(Node::NumpyDtype(_, big)) => *big = order.as_deref() == Some(">"),
            Some(Node::Object(class, own)) if NAMESPACES.contains(&&**class) => own.extend(fields),
            Some(Node::Object(..) | Node::Dict(_) | Node::List(_) | Node::Set(_) | Node::Tensor(_)) => {}
            _ => return Err(self.malformed("it sets attributes of what has none")),
        }
        Ok(())
    }

    /// `("storage", type, key, place, elements)`; legacy files add `None` or `(view key, offset, elements)`.
    pub(super) fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| {
            self.malformed("a persistent id of it is no storage (a whole module cannot be read, only its state dict)")
        })?;
        let storage = Arc::new(storage);
        self.remember(&storage);
        let item = self.node(Node::Storage(storage))?;
        self.push(item)
    }

    fn storage(&self, id: Item) -> Option<StorageRef> {
        let Some(Node::Tuple(parts)) = self.look(id) else { return None };
        let [tag, class, key, _place, Item::Int(elements), rest @ ..] = &**parts else { return None };
        if &*self.text_of(*tag)? != "storage" {
            return None;
        }
        let Some(Node::Global(Global { role: Role::Storage(element), .. })) = self.look(*class) else { return None };
        let key = self.text_of(*key)?;
        let view = match rest {
            [] | [Item::None] => None,
            [view] => match self.items_of(*view)? {
                &[_, Item::Int(offset), Item::Int(size)] => {
                    Some((u64::try_from(offset).ok()?, u64::try_from(size).ok()?))
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(StorageRef { key, element: *element, elements: u64::try_from(*elements).ok()?, view })
    }
}

const NAMESPACES: [&str; 2] = ["argparse.Namespace", "types.SimpleNamespace"];
