//! Builds a graph node by node, and writes it as an ONNX file with the weights streamed from a state dict.
//!
//! Knows ONNX and no network. Node and value names are the caller's, so that the same calls give the same bytes. Weights
//! are initialisers under their state dict's names: in fp32 with its very bytes, else as [`super::precision`] makes them;
//! inside the model's file or in a file of external data beside it.

use super::precision::{Form, Precision, f32_to_f16};
use super::proto::*;
use crate::core::error::{Error, OnPath, Result};
use crate::model::tensor::{StateDict, TensorEntry};
use bytes::Bytes;
use prost::Message;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What protobuf and every runtime take in one file.
pub(super) const MAX_BYTES: u64 = (1 << 31) - 1;
/// Field tags, written by hand where the content is streamed: number << 3 | length-delimited.
const MODEL_GRAPH: u8 = 7 << 3 | 2;
const GRAPH_INITIALIZER: u8 = 5 << 3 | 2;
const TENSOR_RAW_DATA: u8 = 9 << 3 | 2;

/// External data begins at multiples of this, so that runtimes may map it with their widest vectors' alignment.
const ALIGNMENT: u64 = 64;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// A graph in the making. A value is known by its name.
pub struct GraphBuilder<'a> {
    graph: GraphProto,
    dict: &'a StateDict,
    precision: Precision,
    /// Initialisers made of tensors, each once, in order of first use.
    weights: Vec<Weight>,
}

/// An initialiser made of a tensor of the state dict.
struct Weight {
    name: String,
    tensor: String,
    form: Form,
}

/// One extent of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Any number of rows: `batch_size`.
    Batch,
    /// This many.
    Fixed(usize),
    /// Any number, under this symbol.
    Any(&'static str),
}

/// An attribute's value.
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph of this name, with weights of `dict`.
    pub fn new(name: &str, dict: &'a StateDict, precision: Precision) -> Self {
        let graph = GraphProto { name: Some(name.into()), ..Default::default() };
        GraphBuilder { graph, dict, precision, weights: vec![] }
    }

    /// Adds a node with one output, called `output`, and gives the name back.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> String {
        self.nodes(op, inputs, &[output.to_owned()], attributes);
        output.to_owned()
    }

    /// Adds a node with several outputs.
    pub fn nodes(&mut self, op: &str, inputs: &[&str], outputs: &[String], attributes: &[(&str, Attribute)]) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.to_vec(),
            name: Some(format!("{}.{op}", outputs.first().map_or("node", String::as_str))),
            op_type: Some(op.into()),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            domain: None,
        });
    }

    /// Uses a tensor of the state dict by its name, in the graph's precision. In int8, matrices and kernels are stored as
    /// integers with a scale a row, and a `DequantizeLinear` gives the value of this name.
    pub fn weight(&mut self, name: &str) -> String {
        let rank = self.dict.get(name).map_or(0, |tensor| tensor.shape.len());
        match self.precision {
            Precision::Fp16 => self.initializer(name, name, Form::F16),
            Precision::Int8 if rank == 2 || rank == 4 => {
                let (integers, scales) = (format!("{name}.int8"), format!("{name}.scale"));
                if !self.weights.iter().any(|known| known.name == integers) {
                    self.initializer(&integers, name, Form::Int8);
                    self.initializer(&scales, name, Form::Scale);
                    self.node("DequantizeLinear", &[&integers, &scales], name, &[("axis", Attribute::Int(0))]);
                }
            }
            Precision::Fp32 | Precision::Int8 => self.initializer(name, name, Form::F32),
        }
        name.to_owned()
    }

    fn initializer(&mut self, name: &str, tensor: &str, form: Form) {
        if !self.weights.iter().any(|known| known.name == name) {
            self.weights.push(Weight { name: name.into(), tensor: tensor.into(), form });
        }
    }

    /// The f32 value `x` in the type that the graph computes in.
    pub fn narrow(&mut self, x: &str, output: &str) -> String {
        match self.precision {
            Precision::Fp16 => self.node("Cast", &[x], output, &[("to", Attribute::Int(FLOAT16.into()))]),
            Precision::Fp32 | Precision::Int8 => x.to_owned(),
        }
    }

    /// The name for a computed value whose f32 form shall be called `output`: `output` itself, where the graph computes
    /// in f32. See [`GraphBuilder::widen`].
    pub fn before_widening(&self, output: &str) -> String {
        match self.precision {
            Precision::Fp16 => format!("{output}.half"),
            Precision::Fp32 | Precision::Int8 => output.to_owned(),
        }
    }

    /// The value named by [`GraphBuilder::before_widening`] as f32, called `output`.
    pub fn widen(&mut self, output: &str) -> String {
        let computed = self.before_widening(output);
        match self.precision {
            Precision::Fp16 => self.node("Cast", &[&computed], output, &[("to", Attribute::Int(FLOAT.into()))]),
            Precision::Fp32 | Precision::Int8 => computed,
        }
    }

    /// A constant scalar in the type that the graph computes in.
    pub fn scalar(&mut self, name: &str, value: f32) -> String {
        match self.precision {
            Precision::Fp16 => self.constant(name, FLOAT16, &[], f32_to_f16(value).to_le_bytes().to_vec()),
            Precision::Fp32 | Precision::Int8 => self.floats(name, &[], &[value]),
        }
    }

    /// A constant of integers.
    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, INT64, dims, raw)
    }

    /// A constant of f32 numbers, whatever the graph computes in.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, FLOAT, dims, raw)
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> String {
        if !self.graph.initializer.iter().any(|tensor| tensor.name.as_deref() == Some(name)) {
            self.graph.initializer.push(TensorProto {
                dims: dims.to_vec(),
                data_type: Some(data_type),
                name: Some(name.into()),
                raw_data: Some(Bytes::from(raw)),
                ..Default::default()
            });
        }
        name.to_owned()
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, data_type: i32, dims: &[Dim]) {
        self.graph.input.push(value_info(name, data_type, dims));
    }

    /// Declares an output.
    pub fn output(&mut self, name: &str, data_type: i32, dims: &[Dim]) {
        self.graph.output.push(value_info(name, data_type, dims));
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.graph.node.len()
    }

    /// Writes the model: `model`'s own fields, then the graph with its constants, then the weights, one at a time. With
    /// `external`, the weights go to [`data_path`] and the model says where they lie in it. Gives the bytes written.
    ///
    /// # Errors
    /// A weight that the state dict lacks or that the precision cannot hold, one file beyond 2 GB, a failed write.
    pub fn write(&self, model: &ModelProto, path: &Path, external: bool) -> Result<u64> {
        if external {
            return self.write_external(model, path);
        }
        let weights = self.tensors()?;
        let heads: Vec<Vec<u8>> = weights.iter().map(|(weight, tensor)| head(weight, tensor).encode_to_vec()).collect();
        let lengths: Vec<u64> = weights.iter().map(|(weight, tensor)| weight.form.byte_len(tensor) as u64).collect();
        let message = |n: usize| heads[n].len() as u64 + 1 + delimited(lengths[n]);
        let graph = self.graph.encode_to_vec();
        let graph_len = graph.len() as u64 + (0..weights.len()).map(|n| 1 + delimited(message(n))).sum::<u64>();
        let own = model.encode_to_vec();
        let total = own.len() as u64 + 1 + delimited(graph_len);
        if total > MAX_BYTES {
            return Err(Error::stage(format!(
                "the ONNX model would have {total} bytes, one file takes at most {MAX_BYTES}"
            ))
            .hint("set `external_data = true`: the weights then go to `model.onnx.data` beside `model.onnx`"));
        }
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).on("create", path)?);
        let mut put = |bytes: &[u8]| out.write_all(bytes).on("write", path);
        put(&own)?;
        put(&tag(MODEL_GRAPH, graph_len))?;
        put(&graph)?;
        for (n, (weight, tensor)) in weights.iter().enumerate() {
            put(&tag(GRAPH_INITIALIZER, message(n)))?;
            put(&heads[n])?;
            put(&tag(TENSOR_RAW_DATA, lengths[n]))?;
            put(&weight.form.bytes(tensor)?)?;
        }
        out.flush().on("write", path)?;
        Ok(total)
    }

    /// See [`GraphBuilder::write`].
    fn write_external(&self, model: &ModelProto, path: &Path) -> Result<u64> {
        let data = data_path(path);
        let location = data.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut graph = self.graph.clone();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&data).on("create", &data)?);
        let mut offset = 0u64;
        for (weight, tensor) in self.tensors()? {
            let start = offset.next_multiple_of(ALIGNMENT);
            out.write_all(&vec![0; (start - offset) as usize]).on("write", &data)?;
            let bytes = weight.form.bytes(tensor)?;
            out.write_all(&bytes).on("write", &data)?;
            offset = start + bytes.len() as u64;
            let place =
                [("location", location.clone()), ("offset", start.to_string()), ("length", bytes.len().to_string())];
            graph.initializer.push(TensorProto {
                external_data: place.map(|(key, value)| entry(key, value)).into(),
                data_location: Some(EXTERNAL),
                ..head(weight, tensor)
            });
        }
        out.flush().on("write", &data)?;
        let bytes = ModelProto { graph: Some(graph), ..model.clone() }.encode_to_vec();
        std::fs::write(path, &bytes).on("write", path)?;
        Ok(bytes.len() as u64 + offset)
    }

    fn tensors(&self) -> Result<Vec<(&Weight, &TensorEntry)>> {
        self.weights.iter().map(|weight| Ok((weight, self.dict.require(&weight.tensor)?))).collect()
    }
}

/// Where the weights of the model at `path` are written when they are external: `model.onnx.data` beside `model.onnx`.
pub fn data_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".data");
    name.into()
}

/// A pair of the model's metadata, or of a tensor's place.
pub fn entry(key: &str, value: impl Into<String>) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

/// A weight's message without its data.
fn head(weight: &Weight, tensor: &TensorEntry) -> TensorProto {
    TensorProto {
        dims: weight.form.shape(tensor).iter().map(|&extent| extent as i64).collect(),
        data_type: Some(weight.form.data_type()),
        name: Some(weight.name.clone()),
        ..Default::default()
    }
}

/// Bytes of a length and that many bytes after it.
fn delimited(length: u64) -> u64 {
    length + prost::encoding::encoded_len_varint(length) as u64
}

fn tag(field: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![field];
    prost::encoding::encode_varint(length, &mut bytes);
    bytes
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.into()), ..Default::default() };
    match value {
        Attribute::Int(value) => (proto.i, proto.r#type) = (Some(*value), Some(attribute_type::INT)),
        Attribute::Float(value) => (proto.f, proto.r#type) = (Some(*value), Some(attribute_type::FLOAT)),
        Attribute::Ints(values) => (proto.ints, proto.r#type) = (values.clone(), Some(attribute_type::INTS)),
    }
    proto
}

fn value_info(name: &str, data_type: i32, dims: &[Dim]) -> ValueInfoProto {
    let symbol = |name: &str| DimensionProto { dim_value: None, dim_param: Some(name.into()) };
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(extent) => DimensionProto { dim_value: Some(*extent as i64), dim_param: None },
        Dim::Batch => symbol("batch_size"),
        Dim::Any(name) => symbol(name),
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(data_type), shape });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type }) }
}
