//! Reads an ONNX file and says what it is: signature, opset, producer, metadata, weights, external data.
//!
//! Checks no graph and runs nothing: that is a runtime's work. Weights can be held against a state dict by name and values,
//! these cast to the type that the graph holds them in.

use super::bounds;
use super::graph::MAX_BYTES;
use super::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto, data_type_name};
use crate::core::error::{Error, OnPath, Result};
use crate::model::cast::Cast;
use crate::model::magic::{self, Magic};
use crate::model::tensor::{DType, StateDict, TensorEntry, byte_count};
use bytes::Bytes;
use prost::Message;
use rayon::prelude::*;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The safetensors name of its element type, e.g. `F32`.
    pub dtype: String,
    /// Extents; a dynamic one is its symbol (`batch_size`) or `?`.
    pub shape: Vec<Extent>,
}

/// One extent of a [`Port`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Extent {
    /// A fixed size.
    Fixed(i64),
    /// A symbol.
    Symbol(String),
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shape = self.shape.iter().map(|extent| match extent {
            Extent::Fixed(size) => size.to_string(),
            Extent::Symbol(symbol) => symbol.clone(),
        });
        write!(f, "{} {} [{}]", self.name, self.dtype, shape.collect::<Vec<_>>().join(", "))
    }
}

/// A file of external data that the model names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalFile {
    /// Its path relative to the model's folder.
    pub location: String,
    /// Its size; `None` where it is absent.
    pub bytes: Option<u64>,
    /// One past the last byte that the model keeps there.
    pub needs: u64,
}

impl ExternalFile {
    /// Fails where the file is there and too short for what the model keeps in it: cut off, or a pointer in its place.
    ///
    /// # Errors
    /// It is, with both sizes.
    pub fn whole(&self) -> Result<()> {
        match self.bytes {
            Some(bytes) if bytes < self.needs => Err(Error::stage(format!(
                "the external data `{}` has {bytes} bytes, the model keeps {} there",
                self.location, self.needs
            ))
            .hint("is it a Git LFS pointer, or cut off? Export the model again, or `git lfs pull`")),
            _ => Ok(()),
        }
    }
}

/// What a graph says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GraphInfo {
    /// Inputs (without those that initialisers give).
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Version of the default operator set.
    pub opset: i64,
    /// Version of the file format.
    pub ir_version: i64,
    /// Who wrote it.
    pub producer: String,
    /// The writer's version.
    pub producer_version: String,
    /// `metadata_props`, sorted by key.
    pub metadata: BTreeMap<String, String>,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Initialisers of the main graph.
    pub initializers: usize,
    /// Elements of the initialisers.
    pub parameters: u64,
    /// Bytes of the initialisers, external ones included.
    pub initializer_bytes: u64,
    /// External data, each file once, sorted by location.
    pub external: Vec<ExternalFile>,
}

/// How a graph's weights compare with a state dict's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightsMatch {
    /// Tensors of the state dict that the graph holds: an initialiser of the same name and shape whose bytes are the
    /// tensor's, cast to its type, or, where none has the name, one of any name with these values, as they are or
    /// transposed (exporters rename and turn; a checkpoint in half precision is written into an f32 graph as f32).
    pub equal: usize,
    /// Tensors whose initialiser has the same name and differs.
    pub differing: Vec<String>,
    /// Tensors of which the graph holds neither name nor values (folded into others, quantized, or of other weights).
    pub absent: Vec<String>,
}

/// The bytes of a file that nobody writes: weights stay in it until they are looked at.
fn mapped(path: &Path) -> Result<Bytes> {
    let file = std::fs::File::open(path).on("open", path)?;
    let size = file.metadata().on("stat", path)?.len();
    if size > MAX_BYTES {
        return Err(Error::stage(format!(
            "`{}` has {size} bytes, an ONNX model has at most {MAX_BYTES}",
            path.display()
        ))
        .hint("larger models keep their weights in external data"));
    }
    // SAFETY: the map is only read. Stages get read-only files; of a file that is cut short meanwhile, reading ends the
    // process, as it would while a runtime has it mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.on("map", path)?;
    Ok(Bytes::from_owner(map))
}

/// A decoded model.
pub struct OnnxFile {
    path: PathBuf,
    model: ModelProto,
}

impl OnnxFile {
    /// Reads and decodes `path`.
    ///
    /// # Errors
    /// Empty, a Git LFS pointer, truncated, or no ONNX model.
    pub fn open(path: &Path) -> Result<OnnxFile> {
        let found = magic::sniff(path)?;
        if !matches!(found, Magic::Onnx | Magic::Unknown) {
            let message = format!("`{}` is not an ONNX model, it looks like {}", path.display(), found.describe());
            return Err(Error::stage(message));
        }
        let bytes = mapped(path)?;
        if !bounds::holds(&bytes) {
            let most = bounds::MOST_FIELDS;
            return Err(Error::stage(format!(
                "`{}` has more than {most} fields, which no model needs",
                path.display()
            )));
        }
        let model = ModelProto::decode(bytes).map_err(|e| {
            Error::stage(format!("cannot read `{}` as an ONNX model", path.display()))
                .cause(e.to_string())
                .hint("the file is damaged, truncated, or no ONNX model")
        })?;
        let file = OnnxFile { path: path.to_owned(), model };
        match file.lacks() {
            Some(what) => Err(Error::stage(format!("`{}` is not an ONNX model: it has no {what}", path.display()))),
            None => Ok(file),
        }
    }

    fn lacks(&self) -> Option<&'static str> {
        let graph = self.model.graph.as_ref();
        match () {
            () if self.model.ir_version.is_none_or(|v| v <= 0) => Some("`ir_version`"),
            () if graph.is_none() => Some("graph"),
            () if self.model.opset_import.is_empty() => Some("`opset_import`"),
            () if graph.is_some_and(|graph| graph.output.is_empty()) => Some("outputs"),
            () => None,
        }
    }

    /// The graph's own words.
    ///
    /// # Errors
    /// An external file whose location leaves the model's folder; an initialiser with more or less data than its shape takes.
    pub fn info(&self) -> Result<GraphInfo> {
        let model = &self.model;
        self.check_lengths()?;
        let empty = GraphProto::default();
        let graph = model.graph.as_ref().unwrap_or(&empty);
        let given: BTreeSet<&str> = graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
        let is_input = |port: &&ValueInfoProto| !given.contains(port.name.as_deref().unwrap_or(""));
        let default_set =
            model.opset_import.iter().find(|set| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx")));
        Ok(GraphInfo {
            inputs: graph.input.iter().filter(is_input).map(port).collect(),
            outputs: graph.output.iter().map(port).collect(),
            opset: default_set.and_then(|set| set.version).unwrap_or(0),
            ir_version: model.ir_version.unwrap_or(0),
            producer: model.producer_name.clone().unwrap_or_default(),
            producer_version: model.producer_version.clone().unwrap_or_default(),
            metadata: pairs(&model.metadata_props).into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            nodes: graph.node.len(),
            initializers: graph.initializer.len(),
            parameters: graph.initializer.iter().map(elements).sum(),
            initializer_bytes: graph.initializer.iter().map(stored_bytes).sum(),
            external: self.external()?,
        })
    }

    /// Refuses a tensor whose data is not what its shape says: the figures of a graph are told from shapes.
    fn check_lengths(&self) -> Result<()> {
        let mut wrong = None;
        if let Some(graph) = &self.model.graph {
            each_tensor(graph, &mut |tensor| {
                if let (None, Some(what)) = (&wrong, misfit(tensor)) {
                    wrong = Some((tensor.name.clone().unwrap_or_default(), what));
                }
            });
        }
        let Some((name, what)) = wrong else { return Ok(()) };
        let (model, name) = (self.path.display(), name.escape_debug());
        Err(Error::stage(format!("`{model}`: the tensor `{name}` {what}"))
            .hint("the file is damaged, or whoever wrote it was: export it again"))
    }

    /// External data files, each once.
    fn external(&self) -> Result<Vec<ExternalFile>> {
        let mut locations: BTreeMap<String, u64> = BTreeMap::new();
        if let Some(graph) = &self.model.graph {
            each_tensor(graph, &mut |tensor| {
                if is_external(tensor) {
                    let fields = pairs(&tensor.external_data);
                    let number = |key: &str| fields.get(key).and_then(|text| text.parse::<u64>().ok());
                    let length = number("length").unwrap_or_else(|| stored_bytes(tensor));
                    let end = number("offset").unwrap_or(0).saturating_add(length);
                    let needs = locations.entry(fields.get("location").copied().unwrap_or("").to_owned()).or_default();
                    *needs = end.max(*needs);
                }
            });
        }
        locations.into_iter().map(|(location, needs)| self.external_file(location, needs)).collect()
    }

    fn external_file(&self, location: String, needs: u64) -> Result<ExternalFile> {
        let path = self.beside(&location)?;
        let bytes = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
        Ok(ExternalFile { location, bytes, needs })
    }

    /// The path of a location, which must stay in the model's folder.
    fn beside(&self, location: &str) -> Result<PathBuf> {
        let relative = Path::new(location);
        let inside = !location.is_empty()
            && relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside {
            let model = self.path.display();
            return Err(Error::stage(format!(
                "`{model}` names the external data `{location}`, which is not in its folder"
            )));
        }
        Ok(self.path.parent().unwrap_or(Path::new(".")).join(relative))
    }

    /// Fails where an external data file is absent or too short.
    ///
    /// # Errors
    /// The first file that is, named.
    pub fn require_external(&self) -> Result<()> {
        let files = self.external()?;
        files.iter().try_for_each(ExternalFile::whole)?;
        match files.into_iter().find(|file| file.bytes.is_none()) {
            Some(file) => Err(Error::stage(format!(
                "`{}` needs the external data `{}`, which is not beside it",
                self.path.display(),
                file.location
            ))
            .hint("publish the data file with the model, or export the model in one file")),
            None => Ok(()),
        }
    }

    /// Holds the initialisers against `dict`: by name, and what no name is of by its values.
    ///
    /// # Errors
    /// External data or a tensor of `dict` cannot be read.
    pub fn compare(&self, dict: &StateDict) -> Result<WeightsMatch> {
        let initializers = self.model.graph.as_ref().map(|graph| graph.initializer.as_slice()).unwrap_or_default();
        let by_name: HashMap<&str, &TensorProto> =
            initializers.iter().filter_map(|tensor| Some((tensor.name.as_deref()?, tensor))).collect();
        let renamed: Vec<&TensorProto> = initializers
            .iter()
            .filter(|tensor| tensor.name.as_deref().is_none_or(|name| dict.get(name).is_none()))
            .collect();
        let verdicts = dict.tensors().par_iter().map(|tensor| match by_name.get(tensor.name.as_str()) {
            None => Ok(self.holds(&renamed, tensor)?.then_some(true)),
            Some(found) => self.same(found, tensor).map(Some),
        });
        let verdicts = verdicts.collect::<Result<Vec<Option<bool>>>>()?;
        let named = |verdict: Option<bool>| {
            let pairs = dict.tensors().iter().zip(&verdicts).filter(move |(_, found)| **found == verdict);
            pairs.map(|(tensor, _)| tensor.name.clone()).collect::<Vec<_>>()
        };
        let equal = verdicts.iter().filter(|verdict| **verdict == Some(true)).count();
        Ok(WeightsMatch { equal, differing: named(Some(false)), absent: named(None) })
    }

    fn same(&self, initializer: &TensorProto, tensor: &TensorEntry) -> Result<bool> {
        if !is_shaped(initializer, &tensor.shape) {
            return Ok(false);
        }
        let Some(bytes) = bytes_as(tensor, dtype_of(initializer))? else { return Ok(false) };
        Ok(self.data(initializer, bytes.len())? == bytes)
    }

    /// Whether one of these initialisers has the tensor's values, as they are or as a transposed matrix.
    fn holds(&self, initializers: &[&TensorProto], tensor: &TensorEntry) -> Result<bool> {
        let mut turned = tensor.shape.clone();
        turned.reverse();
        let types: BTreeSet<DType> = initializers.iter().filter_map(|i| dtype_of(i)).collect();
        for dtype in types {
            let of = |shape: &[usize]| -> Vec<&TensorProto> {
                initializers.iter().filter(|i| dtype_of(i) == Some(dtype) && is_shaped(i, shape)).copied().collect()
            };
            let (alike, turned) = (of(&tensor.shape), if turned.len() == 2 { of(&turned) } else { vec![] });
            if alike.is_empty() && turned.is_empty() {
                continue;
            }
            let Some(bytes) = bytes_as(tensor, Some(dtype))? else { continue };
            let columns_first = if turned.is_empty() { vec![] } else { transposed(&bytes, dtype, &tensor.shape) };
            for (initializer, expected) in
                alike.iter().map(|i| (i, &*bytes)).chain(turned.iter().map(|i| (i, &columns_first[..])))
            {
                if *self.data(initializer, expected.len())? == *expected {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// An initialiser's bytes, little-endian, from wherever they stand; `expected` of them where they are external.
    fn data<'a>(&self, tensor: &'a TensorProto, expected: usize) -> Result<Cow<'a, [u8]>> {
        if is_external(tensor) {
            return self.external_data(tensor, expected).map(Cow::Owned);
        }
        Ok(match &tensor.raw_data {
            Some(raw) => Cow::Borrowed(raw),
            None if !tensor.float_data.is_empty() => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            None if !tensor.int64_data.is_empty() => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            None => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }

    fn external_data(&self, tensor: &TensorProto, expected: usize) -> Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let fields = pairs(&tensor.external_data);
        let path = self.beside(fields.get("location").copied().unwrap_or(""))?;
        let offset = fields.get("offset").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut file = std::fs::File::open(&path).on("open", &path)?;
        file.seek(SeekFrom::Start(offset)).on("read", &path)?;
        let mut bytes = vec![];
        file.take(expected as u64).read_to_end(&mut bytes).on("read", &path)?;
        Ok(bytes)
    }
}

/// An initialiser's type, if weights can have it.
fn dtype_of(initializer: &TensorProto) -> Option<DType> {
    DType::from_name(&data_type_name(initializer.data_type.unwrap_or(0)))
}

fn is_shaped(initializer: &TensorProto, shape: &[usize]) -> bool {
    initializer.dims.iter().map(|&extent| usize::try_from(extent).ok()).eq(shape.iter().map(|&n| Some(n)))
}

/// A tensor's bytes as an initialiser of this type holds them; `None` where none can: of an integer only its own type, and
/// of a float not where it is too large for the type.
fn bytes_as(tensor: &TensorEntry, dtype: Option<DType>) -> Result<Option<Cow<'_, [u8]>>> {
    let Some(dtype) = dtype else { return Ok(None) };
    let bytes = tensor.bytes()?;
    if dtype == tensor.dtype {
        return Ok(Some(bytes));
    }
    let cast = Cast::to_dtype(dtype).filter(|cast| cast.dtype(tensor.dtype) == dtype);
    let mut out = vec![];
    Ok(cast.and_then(|mut cast| cast.chunk(tensor, 0, &bytes, &mut out).ok()).map(|()| Cow::Owned(out)))
}

/// The bytes of a matrix, columns first.
fn transposed(bytes: &[u8], dtype: DType, shape: &[usize]) -> Vec<u8> {
    let (size, columns) = (dtype.size(), shape.last().copied().unwrap_or(1).max(1));
    let mut out = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        bytes.chunks_exact(size).skip(column).step_by(columns).for_each(|value| out.extend_from_slice(value));
    }
    out
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(1)
}

/// Visits every tensor of a graph, of its nodes' attributes, and of their subgraphs.
fn each_tensor(graph: &GraphProto, visit: &mut dyn FnMut(&TensorProto)) {
    graph.initializer.iter().for_each(&mut *visit);
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().for_each(&mut *visit);
        if let Some(graph) = &attribute.g {
            each_tensor(graph, visit);
        }
    }
}

fn pairs(entries: &[StringStringEntryProto]) -> BTreeMap<&str, &str> {
    entries.iter().filter_map(|entry| Some((entry.key.as_deref()?, entry.value.as_deref().unwrap_or("")))).collect()
}

fn elements(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().fold(1u64, |product, &extent| product.saturating_mul(u64::try_from(extent).unwrap_or(0)))
}

fn stored_bytes(tensor: &TensorProto) -> u64 {
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dtype = DType::from_name(&data_type_name(tensor.data_type.unwrap_or(0)));
    let count = dtype.zip(shape).and_then(|(dtype, shape)| byte_count(dtype, &shape));
    count.map_or_else(|| tensor.raw_data.as_ref().map_or(0, |raw| raw.len() as u64), |count| count as u64)
}

/// How the data of a tensor differs from its type and shape. Types that weights cannot have are passed over.
fn misfit(tensor: &TensorProto) -> Option<String> {
    let dtype = dtype_of(tensor)?;
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let Some(expected) = shape.and_then(|shape| byte_count(dtype, &shape)) else {
        return Some(format!("has the shape {:?}, which no memory holds", tensor.dims));
    };
    if is_external(tensor) {
        let fields = pairs(&tensor.external_data);
        let number = |key: &str| fields.get(key).map(|text| text.parse::<u64>().map_err(|_| (*text).to_owned()));
        let numbers = [("offset", number("offset")), ("length", number("length"))];
        if let Some((key, text)) = numbers.iter().find_map(|(key, n)| Some((key, n.as_ref()?.as_ref().err()?))) {
            return Some(format!("says of its external data that `{key}` is `{}`", text.escape_debug()));
        }
        let length = number("length")?.ok()?;
        return (length != expected as u64)
            .then(|| format!("says that its external data has {length} bytes, and its shape takes {expected}"));
    }
    let typed = tensor.float_data.len() + tensor.int32_data.len() + tensor.int64_data.len() + tensor.double_data.len();
    let (has, takes, what) = match &tensor.raw_data {
        Some(raw) => (raw.len(), expected, "bytes"),
        // what these are written into is not read
        None if typed == 0 && ["U32", "U64"].contains(&dtype.name()) => return None,
        None => (typed, expected / dtype.size().max(1), "values"),
    };
    (has != takes).then(|| format!("holds {has} {what}, and its shape takes {takes}"))
}

fn port(value: &ValueInfoProto) -> Port {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
    let extent = |dim: &super::proto::DimensionProto| match (dim.dim_value, &dim.dim_param) {
        (Some(size), _) => Extent::Fixed(size),
        (None, Some(symbol)) if !symbol.is_empty() => Extent::Symbol(symbol.clone()),
        _ => Extent::Symbol("?".into()),
    };
    Port {
        name: value.name.clone().unwrap_or_default(),
        dtype: data_type_name(tensor.and_then(|tensor| tensor.elem_type).unwrap_or(0)),
        shape: dims.iter().map(extent).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_is_not_what_its_shape_says_is_a_misfit() {
        let tensor = |dims: &[i64], raw: usize| TensorProto {
            dims: dims.to_vec(),
            data_type: Some(1),
            raw_data: Some(vec![0; raw].into()),
            ..TensorProto::default()
        };
        assert_eq!(misfit(&tensor(&[2, 4], 32)), None);
        assert_eq!(misfit(&tensor(&[2, 4], 28)).unwrap(), "holds 28 bytes, and its shape takes 32");
        assert!(misfit(&tensor(&[1 << 40], 32)).unwrap().starts_with("holds 32 bytes, and its shape takes"));
        assert!(misfit(&tensor(&[-1], 4)).is_some() && misfit(&tensor(&[0], 0)).is_none());
        let typed = TensorProto { raw_data: None, float_data: vec![0.0; 3], ..tensor(&[4], 0) };
        assert_eq!(misfit(&typed).unwrap(), "holds 3 values, and its shape takes 4");
        let said = |key: &str, value: &str| {
            let field = StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
            misfit(&TensorProto { data_location: Some(1), external_data: vec![field], ..tensor(&[4], 0) })
        };
        assert!(said("offset", "-4").is_some() && said("length", "12").is_some());
        assert!(said("offset", "4").is_none() && said("length", "16").is_none());
    }
}
