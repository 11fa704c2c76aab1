//! The globals that may stand in a checkpoint, and what each is to the unpickler.
//!
//! Nothing of Python is ever called. A global has a role: what the machine of [`super::unpickle`] makes of a call to it.
//! One that has none is refused by name. The set is what `torch.load(weights_only=True)` allows, with argparse's and
//! Lightning's namespaces, numpy's scalars and paths.

use super::value::Element;
use crate::model::tensor::DType;

/// What a known global is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A dict or a subclass of it, made of nothing, of pairs or of a dict.
    Dict,
    /// A dict whose first argument is a factory.
    DefaultDict,
    /// A list or deque.
    List,
    /// A tuple or `torch.Size`.
    Tuple,
    /// A set or frozenset.
    Set,
    /// A plain value made of one like it.
    Plain,
    /// bytes, bytearray, `_codecs.encode`.
    Bytes,
    /// `_rebuild_tensor`, `_rebuild_tensor_v2`: storage, offset, shape, strides, and what does not matter here.
    Tensor,
    /// `_rebuild_tensor_v3`: the same, and a dtype in the seventh place.
    TypedTensor,
    /// `_rebuild_parameter`, `_rebuild_parameter_with_state`: a tensor first.
    Parameter,
    /// `_rebuild_from_type_v2`: function, type, arguments, state.
    FromType,
    /// `copyreg._reconstructor`: class, base, state of the base.
    Reconstructor,
    /// A class of attributes alone: Namespace.
    Namespace,
    /// `torch.device`: shown as `cuda:0`.
    Device,
    /// A path, of its parts.
    Path,
    /// `numpy.dtype`: of its code.
    NumpyDtype,
    /// A class of `numpy.dtypes`, of no argument: the code.
    NumpyDtypeClass(&'static str),
    /// `numpy...scalar`: of a dtype and bytes.
    NumpyScalar,
    /// A type of storage.
    Storage(Element),
    /// An element type as a value.
    Dtype(Element),
    /// A class that may be named but not called here.
    Class,
    /// Something harmless that is kept by its name alone: numpy's arrays, complex, range.
    Opaque,
}

const ROLES: &[(&str, &str, Role)] = &[
    ("collections", "OrderedDict", Role::Dict),
    ("collections", "Counter", Role::Dict),
    ("collections", "defaultdict", Role::DefaultDict),
    ("collections", "deque", Role::List),
    ("lightning_fabric.utilities.data", "AttributeDict", Role::Dict),
    ("lightning.fabric.utilities.data", "AttributeDict", Role::Dict),
    ("pytorch_lightning.utilities.parsing", "AttributeDict", Role::Dict),
    ("lightning.pytorch.utilities.parsing", "AttributeDict", Role::Dict),
    ("torch._utils", "_rebuild_tensor", Role::Tensor),
    ("torch._utils", "_rebuild_tensor_v2", Role::Tensor),
    ("torch._utils", "_rebuild_tensor_v3", Role::TypedTensor),
    ("torch._utils", "_rebuild_parameter", Role::Parameter),
    ("torch._utils", "_rebuild_parameter_with_state", Role::Parameter),
    ("torch._tensor", "_rebuild_from_type_v2", Role::FromType),
    ("torch", "Tensor", Role::Class),
    ("torch.nn.parameter", "Parameter", Role::Class),
    ("torch.nn.parameter", "Buffer", Role::Class),
    ("torch", "Size", Role::Tuple),
    ("torch", "device", Role::Device),
    ("torch.serialization", "_get_layout", Role::Plain),
    ("torch.torch_version", "TorchVersion", Role::Plain),
    ("numpy.core.multiarray", "scalar", Role::NumpyScalar),
    ("numpy._core.multiarray", "scalar", Role::NumpyScalar),
    ("numpy.core.multiarray", "_reconstruct", Role::Opaque),
    ("numpy._core.multiarray", "_reconstruct", Role::Opaque),
    ("numpy.core.numeric", "_frombuffer", Role::Opaque),
    ("numpy._core.numeric", "_frombuffer", Role::Opaque),
    ("numpy", "dtype", Role::NumpyDtype),
    ("numpy", "ndarray", Role::Class),
    ("argparse", "Namespace", Role::Namespace),
    ("types", "SimpleNamespace", Role::Namespace),
    ("_codecs", "encode", Role::Bytes),
    ("copyreg", "_reconstructor", Role::Reconstructor),
    ("copy_reg", "_reconstructor", Role::Reconstructor),
    ("pathlib", "PosixPath", Role::Path),
    ("pathlib", "WindowsPath", Role::Path),
    ("pathlib", "PurePosixPath", Role::Path),
    ("pathlib", "PureWindowsPath", Role::Path),
    ("pathlib._local", "PosixPath", Role::Path),
    ("pathlib._local", "WindowsPath", Role::Path),
];

/// Constructors of plain values that may come from `builtins`.
const BUILTINS: &[(&str, Role)] = &[
    ("set", Role::Set),
    ("frozenset", Role::Set),
    ("list", Role::List),
    ("dict", Role::Dict),
    ("tuple", Role::Tuple),
    ("int", Role::Plain),
    ("float", Role::Plain),
    ("bool", Role::Plain),
    ("str", Role::Plain),
    ("bytes", Role::Bytes),
    ("bytearray", Role::Bytes),
    ("complex", Role::Opaque),
    ("slice", Role::Opaque),
    ("range", Role::Opaque),
    ("object", Role::Class),
];

const fn known(dtype: DType) -> Element {
    Element::Known(dtype)
}

/// Storage types, and the element of each.
const STORAGES: &[(&str, Element)] = &[
    ("DoubleStorage", known(DType::F64)),
    ("FloatStorage", known(DType::F32)),
    ("HalfStorage", known(DType::F16)),
    ("BFloat16Storage", known(DType::BF16)),
    ("LongStorage", known(DType::I64)),
    ("IntStorage", known(DType::I32)),
    ("ShortStorage", known(DType::I16)),
    ("CharStorage", known(DType::I8)),
    ("ByteStorage", known(DType::U8)),
    ("BoolStorage", known(DType::Bool)),
    ("ComplexFloatStorage", Element::Other("complex64", 8)),
    ("ComplexDoubleStorage", Element::Other("complex128", 16)),
    ("QInt8Storage", Element::Other("qint8", 1)),
    ("QUInt8Storage", Element::Other("quint8", 1)),
    ("QInt32Storage", Element::Other("qint32", 4)),
    ("QUInt4x2Storage", Element::Other("quint4x2", 1)),
    ("QUInt2x4Storage", Element::Other("quint2x4", 1)),
    ("UntypedStorage", Element::Untyped),
];

/// Names of `torch.X` that are element types.
const DTYPES: &[(&str, Element)] = &[
    ("float64", known(DType::F64)),
    ("double", known(DType::F64)),
    ("float32", known(DType::F32)),
    ("float", known(DType::F32)),
    ("float16", known(DType::F16)),
    ("half", known(DType::F16)),
    ("bfloat16", known(DType::BF16)),
    ("float8_e4m3fn", known(DType::F8E4M3)),
    ("float8_e5m2", known(DType::F8E5M2)),
    ("float8_e4m3fnuz", Element::Other("float8_e4m3fnuz", 1)),
    ("float8_e5m2fnuz", Element::Other("float8_e5m2fnuz", 1)),
    ("float8_e8m0fnu", Element::Other("float8_e8m0fnu", 1)),
    ("int64", known(DType::I64)),
    ("long", known(DType::I64)),
    ("int32", known(DType::I32)),
    ("int", known(DType::I32)),
    ("int16", known(DType::I16)),
    ("short", known(DType::I16)),
    ("int8", known(DType::I8)),
    ("uint64", known(DType::U64)),
    ("uint32", known(DType::U32)),
    ("uint16", known(DType::U16)),
    ("uint8", known(DType::U8)),
    ("bool", known(DType::Bool)),
    ("complex32", Element::Other("complex32", 4)),
    ("complex64", Element::Other("complex64", 8)),
    ("complex128", Element::Other("complex128", 16)),
    ("qint8", Element::Other("qint8", 1)),
    ("quint8", Element::Other("quint8", 1)),
    ("qint32", Element::Other("qint32", 4)),
];

/// numpy's classes of element types, and the code of each.
const NUMPY_DTYPES: &[(&str, &str)] = &[
    ("Float64DType", "f8"),
    ("Float32DType", "f4"),
    ("Float16DType", "f2"),
    ("Int64DType", "i8"),
    ("Int32DType", "i4"),
    ("Int16DType", "i2"),
    ("Int8DType", "i1"),
    ("UInt64DType", "u8"),
    ("UInt32DType", "u4"),
    ("UInt16DType", "u2"),
    ("UInt8DType", "u1"),
    ("BoolDType", "b1"),
];

/// What a global is, `None` where it is not in the known set.
pub fn role(module: &str, name: &str) -> Option<Role> {
    let in_table = |table: &[(&str, Element)]| table.iter().find(|row| row.0 == name).map(|row| row.1);
    let known = ROLES.iter().find(|row| row.0 == module && row.1 == name).map(|row| row.2);
    known.or_else(|| match module {
        "builtins" | "__builtin__" => BUILTINS.iter().find(|row| row.0 == name).map(|row| row.1),
        "torch" => in_table(STORAGES).map(Role::Storage).or_else(|| in_table(DTYPES).map(Role::Dtype)),
        "torch.storage" | "torch.cuda" => in_table(STORAGES).map(Role::Storage),
        "numpy.dtypes" => NUMPY_DTYPES.iter().find(|row| row.0 == name).map(|row| Role::NumpyDtypeClass(row.1)),
        _ => None,
    })
}
