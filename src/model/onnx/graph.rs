//! Builds a graph node by node, and writes it as an ONNX file with the weights streamed from a state dict.
//!
//! Knows ONNX and no network. Node and value names are the caller's or are counted, so that the same calls give the same
//! bytes. Weights are `raw_data` initialisers under their state dict's names, with its very bytes.

use super::proto::*;
use crate::core::error::{Error, OnPath, Result};
use crate::model::tensor::{StateDict, TensorEntry};
use bytes::Bytes;
use prost::Message;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What protobuf and every runtime take in one file.
const MAX_BYTES: u64 = (1 << 31) - 1;
/// Field tags, written by hand where the content is streamed: number << 3 | length-delimited.
const MODEL_GRAPH: u8 = 7 << 3 | 2;
const GRAPH_INITIALIZER: u8 = 5 << 3 | 2;
const TENSOR_RAW_DATA: u8 = 9 << 3 | 2;

/// A graph in the making. A value is known by its name.
#[derive(Default)]
pub struct GraphBuilder {
    graph: GraphProto,
    /// Names of state dict tensors in use, each once, in order of first use.
    weights: Vec<String>,
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

impl GraphBuilder {
    /// An empty graph of this name.
    pub fn new(name: &str) -> Self {
        GraphBuilder { graph: GraphProto { name: Some(name.into()), ..Default::default() }, weights: vec![] }
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

    /// Uses a tensor of the state dict by its name.
    pub fn weight(&mut self, name: &str) -> String {
        if !self.weights.iter().any(|known| known == name) {
            self.weights.push(name.to_owned());
        }
        name.to_owned()
    }

    /// A constant of integers.
    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, 7, dims, raw)
    }

    /// A constant of floats.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, 1, dims, raw)
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

    /// Declares an input; a dimension of `None` is `batch_size`.
    pub fn input(&mut self, name: &str, data_type: i32, dims: &[Option<usize>]) {
        self.graph.input.push(value_info(name, data_type, dims));
    }

    /// Declares an output; a dimension of `None` is `batch_size`.
    pub fn output(&mut self, name: &str, data_type: i32, dims: &[Option<usize>]) {
        self.graph.output.push(value_info(name, data_type, dims));
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.graph.node.len()
    }

    /// Writes the model: `model`'s own fields, then the graph with its constants, then the weights, one at a time.
    /// Gives the bytes written.
    ///
    /// # Errors
    /// A weight that `dict` lacks or whose type ONNX lacks, a model beyond 2 GB, a failed write.
    pub fn write(&self, model: &ModelProto, dict: &StateDict, path: &Path) -> Result<u64> {
        let weights = self.weights.iter().map(|name| dict.require(name)).collect::<Result<Vec<_>>>()?;
        let heads = weights.iter().map(|tensor| tensor_head(tensor)).collect::<Result<Vec<_>>>()?;
        let graph = self.graph.encode_to_vec();
        let inner: u64 = heads.iter().zip(&weights).map(|(head, w)| 1 + delimited(tensor_len(head, w))).sum();
        let graph_len = graph.len() as u64 + inner;
        let own = model.encode_to_vec();
        let total = own.len() as u64 + 1 + delimited(graph_len);
        if total > MAX_BYTES {
            return Err(Error::stage(format!(
                "the ONNX model would have {total} bytes, one file takes at most {MAX_BYTES}"
            ))
            .hint("models of 2 GB and more need external data, which hfbuild does not write yet"));
        }
        let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).on("create", path)?);
        let mut put = |bytes: &[u8]| out.write_all(bytes).on("write", path);
        put(&own)?;
        put(&tag(MODEL_GRAPH, graph_len))?;
        put(&graph)?;
        for (head, weight) in heads.iter().zip(&weights) {
            put(&tag(GRAPH_INITIALIZER, tensor_len(head, weight)))?;
            put(head)?;
            put(&tag(TENSOR_RAW_DATA, weight.byte_len() as u64))?;
            put(&weight.bytes()?)?;
        }
        out.flush().on("write", path)?;
        Ok(total)
    }
}

/// A tensor's message without its data.
fn tensor_head(tensor: &TensorEntry) -> Result<Vec<u8>> {
    let data_type = data_type_code(tensor.dtype.name())
        .ok_or_else(|| Error::stage(format!("tensor `{}` has a type that ONNX lacks", tensor.name)))?;
    let head = TensorProto {
        dims: tensor.shape.iter().map(|&extent| extent as i64).collect(),
        data_type: Some(data_type),
        name: Some(tensor.name.clone()),
        ..Default::default()
    };
    Ok(head.encode_to_vec())
}

/// Bytes of a tensor's message with its data.
fn tensor_len(head: &[u8], tensor: &TensorEntry) -> u64 {
    head.len() as u64 + 1 + delimited(tensor.byte_len() as u64)
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

fn value_info(name: &str, data_type: i32, dims: &[Option<usize>]) -> ValueInfoProto {
    let dim = |extent: &Option<usize>| match extent {
        Some(extent) => DimensionProto { dim_value: Some(*extent as i64), dim_param: None },
        None => DimensionProto { dim_value: None, dim_param: Some("batch_size".into()) },
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(data_type), shape });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type }) }
}
