//! The pickle of a `.pt` file: protocol 2, opcode by opcode, without a memo (nothing in it is shared).
//!
//! A tensor is `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`, its storage a persistent id
//! `('storage', torch.FloatStorage, '0', 'cpu', elements)` that names the entry `data/0` (torch's `serialization.py`).

use super::Saved;
use crate::core::error::{Error, Result};
use crate::model::checkpoint::Scalar;
use crate::model::tensor::{DType, TensorEntry};

/// The types that torch has a storage class for. The others came after typed storages had been given up.
const STORAGES: [(DType, &str); 10] = [
    (DType::F64, "DoubleStorage"),
    (DType::F32, "FloatStorage"),
    (DType::F16, "HalfStorage"),
    (DType::BF16, "BFloat16Storage"),
    (DType::I64, "LongStorage"),
    (DType::I32, "IntStorage"),
    (DType::I16, "ShortStorage"),
    (DType::I8, "CharStorage"),
    (DType::U8, "ByteStorage"),
    (DType::Bool, "BoolStorage"),
];

/// The pickle, and the tensors in the order of their storages' keys.
pub fn dump<'a>(saved: &Saved<'a>) -> Result<(Vec<u8>, Vec<&'a TensorEntry>)> {
    let mut pickler = Pickler { out: b"\x80\x02".to_vec(), tensors: vec![] };
    pickler.saved(saved)?;
    pickler.out.push(b'.');
    Ok((pickler.out, pickler.tensors))
}

struct Pickler<'a> {
    out: Vec<u8>,
    tensors: Vec<&'a TensorEntry>,
}

impl<'a> Pickler<'a> {
    fn saved(&mut self, saved: &Saved<'a>) -> Result<()> {
        match saved {
            Saved::Plain(value) => self.plain(value),
            Saved::Dict(items) => {
                self.out.push(b'}');
                self.out.push(b'(');
                for (key, value) in items {
                    self.text(key);
                    self.saved(value)?;
                }
                self.out.push(b'u');
            }
            Saved::Tensors(dict) => {
                self.empty_ordered_dict();
                self.out.push(b'(');
                for tensor in dict.tensors() {
                    self.text(&tensor.name);
                    self.tensor(tensor)?;
                }
                self.out.push(b'u');
            }
        }
        Ok(())
    }

    fn plain(&mut self, value: &Scalar) {
        match value {
            Scalar::Null => self.out.push(b'N'),
            Scalar::Bool(true) => self.out.push(0x88),
            Scalar::Bool(false) => self.out.push(0x89),
            Scalar::Int(value) => self.int(*value),
            Scalar::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Scalar::Text(text) => self.text(text),
            Scalar::List(items) => {
                self.out.extend(b"](");
                items.iter().for_each(|item| self.plain(item));
                self.out.push(b'e');
            }
        }
    }

    /// One byte, two, four, or a long of eight.
    fn int(&mut self, value: i64) {
        if let Ok(byte) = u8::try_from(value) {
            self.out.extend([b'K', byte]);
        } else if let Ok(short) = u16::try_from(value) {
            self.out.push(b'M');
            self.out.extend(short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend(int.to_le_bytes());
        } else {
            self.out.extend([0x8a, 8]);
            self.out.extend(value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.out.extend(b")R");
    }

    fn tensor(&mut self, tensor: &'a TensorEntry) -> Result<()> {
        let Some((_, storage)) = STORAGES.iter().find(|row| row.0 == tensor.dtype) else {
            let (name, dtype) = (&tensor.name, tensor.dtype.name());
            return Err(Error::stage(format!("tensor `{name}` is {dtype}, which torch has no typed storage for"))
                .hint("publish the weights as safetensors (kind = \"safetensors\"), which holds every type"));
        };
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.out.extend(b"((");
        self.text("storage");
        self.global("torch", storage);
        self.text(&self.tensors.len().to_string());
        self.text("cpu");
        self.int(tensor.elements() as i64);
        self.out.extend(b"tQ");
        self.int(0); // the offset in the storage
        self.extents(&tensor.shape);
        self.extents(&strides(&tensor.shape));
        self.out.push(0x89); // requires_grad
        self.empty_ordered_dict(); // hooks
        self.out.extend(b"tR");
        self.tensors.push(tensor);
        Ok(())
    }

    fn extents(&mut self, extents: &[usize]) {
        self.out.push(b'(');
        extents.iter().for_each(|&extent| self.int(extent as i64));
        self.out.push(b't');
    }
}

/// Of a contiguous tensor, in elements; an extent of zero counts as one, as in torch.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
