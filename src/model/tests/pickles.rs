//! The unpickler and the containers of torch files: against pytorch-reader as the oracle, and over hand-made pickles.

use super::support::*;
use crate::model::checkpoint::unpickle::unpickle;
use crate::model::checkpoint::value::Value;
use crate::model::checkpoint::{Checkpoint, EmaForm, Layout, Scalar, WeightsChoice};
use crate::model::inspect::inspect;
use crate::model::table::TensorTable;
use crate::model::tensor::{DType, StateDict};
use proptest::prelude::*;
use pytorch_reader::PytorchReader;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

fn torch_fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("tests/fixtures")).unwrap().map(|e| e.unwrap().path()).collect();
    files.push(folder.join("checkpoints/tinydit_final.pt"));
    let is_script = |path: &Path| path.to_string_lossy().ends_with("_script.pt"); // programs, and no checkpoints
    files.retain(|path| path.extension().is_some_and(|ending| ending == "pt") && !is_script(path));
    files.sort();
    files
}

#[test]
fn every_fixture_reads_as_pytorch_reader_reads_it() {
    let files = torch_fixtures();
    assert!(files.len() >= 7, "{files:?}");
    for path in files {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let oracle = PytorchReader::new(&path).unwrap();
        let mut compared = 0;
        for (dict, keys) in [
            (&checkpoint.raw, &["", "model.", "model_state_dict."][..]),
            (&checkpoint.ema, &["ema_params.", "ema_shadow_params."]),
        ] {
            for tensor in dict.iter().flat_map(StateDict::tensors) {
                let theirs = keys.iter().find_map(|key| oracle.get(&format!("{key}{}", tensor.name))).unwrap();
                assert_eq!(theirs.shape(), tensor.shape, "{path:?} {}", tensor.name);
                let dtype = format!("{:?}", theirs.dtype()).to_uppercase();
                assert_eq!(dtype, tensor.dtype.name(), "{path:?} {}", tensor.name);
                assert!(theirs.read().unwrap() == *tensor.bytes().unwrap(), "{path:?} {}", tensor.name);
                compared += 1;
            }
        }
        let optimizer = checkpoint.optimizer.as_ref().map_or(0, |optimizer| optimizer.tensors);
        assert_eq!(compared + optimizer, oracle.tensors().len(), "{path:?}: a tensor is not accounted for");
    }
}

fn value(pickle: &[u8]) -> Value {
    unpickle(&mut Cursor::new(pickle), "`x`", 1 << 20).unwrap().value
}
fn no_value(pickle: &[u8]) -> String {
    unpickle(&mut Cursor::new(pickle), "`x`", 1 << 20).unwrap_err().to_string()
}

#[test]
fn plain_values_of_every_protocol_come_back() {
    let text = |t: &str| Value::Text(t.into());
    for (pickle, expected) in [
        (&b"I01\n."[..], Value::Bool(true)),
        (b"I-7\n.", Value::Int(-7)),
        (b"L12345678901234567890L\n.", text("12345678901234567890")),
        (b"F1.5\n.", Value::Float(1.5)),
        (b"S'a\\n\\'b'\n.", text("a\n'b")),
        (b"V\\u00e9x\n.", text("\u{e9}x")),
        (b"\x80\x02\x8a\x02\xff\xff.", Value::Int(-1)),
        (b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", text("18446744073709551616")),
        (b"\x80\x02\x8a\x00.", Value::Int(0)),
        (b"\x80\x02U\x01\xff.", Value::Bytes([0xff].as_slice().into())),
        (b"(I1\nI2\nl.", Value::List(vec![Value::Int(1), Value::Int(2)])),
        (b"(S'k'\nNd.", Value::Dict(vec![(text("k"), Value::None)])),
        (b"\x80\x04\x8f(K\x01\x90.", Value::Set(vec![Value::Int(1)])),
        (b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", Value::Bytes(b"a".as_slice().into())),
        // a list that is kept while empty, filled, and taken again
        (b"\x80\x02]q\x00K\x01ah\x00\x86.", {
            let one = || Value::List(vec![Value::Int(1)]);
            Value::Tuple(vec![one(), one()])
        }),
        // a key that comes again replaces the value and keeps its place
        (
            b"}(S'a'\nI1\nS'b'\nI2\nS'a'\nI3\nu.",
            Value::Dict(vec![(text("a"), Value::Int(3)), (text("b"), Value::Int(2))]),
        ),
        (b"\x80\x02ctorch\nSize\n(K\x02K\x03t\x85R.", Value::Tuple(vec![Value::Int(2), Value::Int(3)])),
        (b"\x80\x02ctorch\ndevice\nX\x04\0\0\0cudaK\x01\x86R.", text("cuda:1")),
        (b"\x80\x02ctorch\nbfloat16\n.", text("torch.bfloat16")),
        (b"\x80\x02cpathlib\nPosixPath\nX\x01\0\0\0/X\x04\0\0\0data\x86R.", text("/data")),
        (b"\x80\x02c__builtin__\nset\n]K\x05a\x85R.", Value::Set(vec![Value::Int(5)])),
        (
            b"\x80\x02c_codecs\nencode\nX\x02\0\0\0\xc3\xbfX\x06\0\0\0latin1\x86R.",
            Value::Bytes([0xff].as_slice().into()),
        ),
    ] {
        assert_eq!(value(pickle), expected, "{}", pickle.escape_ascii());
    }
}

#[test]
fn namespaces_of_every_protocol_give_their_attributes() {
    let new = b"\x80\x02cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?\xf0\0\0\0\0\0\0sb.";
    let reconstructed = b"ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR(S'lr'\nF1.0\ndb.";
    for pickle in [&new[..], reconstructed] {
        assert_eq!(value(pickle).get("lr"), Some(&Value::Float(1.0)));
    }
    let saved = saved(dict(&[("model", dict(&[("w", tensor())])), ("args", new[2..new.len() - 1].to_vec())]));
    assert_eq!(try_open(&saved).unwrap().config["lr"], Scalar::Float(1.0));
}

#[test]
fn numpy_scalars_are_numbers_of_either_byte_order() {
    let scalar = |code: &str, order: &str, raw: &[u8]| {
        let dtype = [&b"cnumpy\ndtype\n("[..], &text(code), b"\x89\x88tR(K\x03", &text(order), b"NNNK\x00K\x00K\x00tb"];
        let dtype = dtype.concat();
        let raw = [b"C", &[raw.len() as u8][..], raw].concat();
        [b"\x80\x03cnumpy._core.multiarray\nscalar\n", dtype.as_slice(), &raw, b"\x86R."].concat()
    };
    assert_eq!(value(&scalar("f8", "<", &0.25f64.to_le_bytes())), Value::Float(0.25));
    assert_eq!(value(&scalar("f4", ">", &0.25f32.to_be_bytes())), Value::Float(0.25));
    assert_eq!(value(&scalar("i8", "<", &(-3i64).to_le_bytes())), Value::Int(-3));
    assert_eq!(value(&scalar("u1", "|", &[200])), Value::Int(200));
    assert_eq!(value(&scalar("b1", "|", &[1])), Value::Bool(true));
    assert_eq!(value(&scalar("c8", "<", &[0; 8])).describe(), "numpy._core.multiarray.scalar");
}

#[test]
fn pickles_that_would_unfold_or_allocate_without_end_are_refused() {
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for _ in 0..64 {
        laughs.extend(b"h\x00h\x00\x86q\x00"); // each level holds the one below twice
    }
    laughs.push(b'.');
    assert!(no_value(&laughs).contains("unfolds to more than"));
    assert!(no_value(b"\x80\x02]q\x00h\x00a.").contains("nested deeper than"));
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 5000], vec![b'a'; 4999], b".".to_vec()].concat();
    assert!(no_value(&deep).contains("nested deeper than"));
    let copies = [
        b"\x80\x02](".to_vec(),
        vec![b'N'; 5000],
        b"eq\x00".to_vec(),
        b"0cbuiltins\nlist\nh\x00\x85Rq\x01".repeat(2000),
        b".".to_vec(),
    ];
    assert!(no_value(&copies.concat()).contains("holds more than"));
    assert!(no_value(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.").contains("claims a value of"));
    assert!(no_value(b"\x80\x02X\xff\xff\xff\x00abc").contains("longer than"));
    let long_bytes = unpickle(&mut Cursor::new(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."), "`x`", u64::MAX);
    assert!(long_bytes.unwrap_err().to_string().contains("ends early"));
}

#[test]
fn calls_that_a_known_global_does_not_take_are_refused() {
    for (pickle, why) in [
        (&b"\x80\x02ctorch\nTensor\n)R."[..], "calls `torch.Tensor`"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "calls `torch._utils._rebuild_tensor_v2`"),
        (b"\x80\x02K\x01)R.", "calls what is no known global"),
        (b"\x80\x02}K\x01R.", "arguments that are no tuple"),
        (b"\x80\x04cargparse\nNamespace\n)}K\x01K\x02s\x92.", "with keywords"),
        (b"\x80\x02K\x01}b.", "sets attributes"),
        (b"\x80\x02K\x01Q.", "persistent id"),
        (b"\x80\x02h\x07.", "did not keep"),
        (b"\x80\x020.", "no value"),
        (b"\x80\x02(R.", "takes a value where there is none"),
        (b"\x80\x06N.", "of protocol 6"),
        (b"\x80\x05\x97.", "not in the file"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "`torch.storage._load_from_bytes`"),
        (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(c_codecs\nencode\nctorch\nTensor\n)}tR.", "calls"),
    ] {
        let found = no_value(pickle);
        assert!(found.contains(why) || why == "no value", "{}: {found}", pickle.escape_ascii());
    }
}

fn weights(root: Vec<u8>, storages: &[(&str, &[u8])]) -> crate::core::error::Result<StateDict> {
    Ok(try_open(&saved_with(&dict(&[("w", root)]), storages))?.select(WeightsChoice::Raw)?.clone())
}

#[test]
fn views_are_gathered_and_storages_may_be_shared() {
    let data: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let read = |offset, shape: &[i32], strides: &[i32]| {
        let dict = weights(tensor_at("FloatStorage", "0", 12, offset, shape, strides), &[("0", &data)]).unwrap();
        dict.tensors()[0].f32().unwrap()
    };
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0., 3., 1., 4., 2., 5.]); // a transpose
    assert_eq!(read(5, &[2, 2], &[4, 1]), [5., 6., 9., 10.]); // a window
    assert_eq!(read(2, &[3], &[0]), [2., 2., 2.]); // an expanded one
    assert_eq!(read(11, &[], &[]), [11.]);
    assert_eq!(read(0, &[2, 0], &[9, 9]), Vec::<f32>::new());
    let two = dict(&[
        ("a", tensor_at("FloatStorage", "0", 12, 0, &[2], &[1])),
        ("b", tensor_at("FloatStorage", "0", 12, 1, &[2], &[1])),
    ]);
    let both = try_open(&saved_with(&two, &[("0", &data)])).unwrap().raw.unwrap();
    let of = |name: &str| both.require(name).unwrap().f32().unwrap();
    assert_eq!((of("a"), of("b")), (vec![0., 1.], vec![1., 2.]));
}

#[test]
fn a_tensor_that_reaches_beyond_its_storage_is_refused_by_name() {
    for (offset, shape, strides, why) in [
        (0, &[3][..], &[1][..], "`w` reaches to byte 12 of storage `0`, which has 8"),
        (1, &[2], &[1], "reaches to byte 12"),
        (0, &[2], &[i32::MAX], "reaches to byte"),
        (0, &[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1], "impossible shape"),
        (0, &[i32::MAX, i32::MAX], &[0, 0], "an expanded view"),
        (-1, &[1], &[1], "impossible shape"),
        (0, &[-1], &[1], "impossible shape"),
        (0, &[1], &[-1], "impossible shape"),
        (3, &[0], &[1], "reaches to byte 12"),
    ] {
        let error = weights(tensor_at("FloatStorage", "0", 2, offset, shape, strides), &[("0", &[0; 8])]).unwrap_err();
        let found = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(found.contains(why) && found.contains("`w`"), "{shape:?}: {found}");
    }
    let error = |class: &str, key: &str, count| {
        weights(tensor_at(class, key, count, 0, &[2], &[1]), &[("0", &[0; 8])]).unwrap_err().to_string()
    };
    assert!(error("FloatStorage", "7", 2).contains("storage `7`, which is not there"));
    assert!(error("FloatStorage", "0", 3).contains("3 elements of F32, which has 8 bytes"));
    assert!(error("ComplexFloatStorage", "0", 2).contains("tensor `w` is of type `complex64`"));
}

#[test]
fn a_complex_tensor_beside_the_weights_is_named_and_not_fatal() {
    let beside = tensor_at("ComplexFloatStorage", "1", 1, 0, &[1], &[1]);
    let file =
        saved_with(&dict(&[("model", dict(&[("w", tensor())])), ("rope", beside)]), &[("0", &[0; 8]), ("1", &[0; 8])]);
    assert_eq!(try_open(&file).unwrap().unread["rope"], "a tensor");
}

#[test]
fn many_views_of_one_storage_are_no_way_to_more_bytes_than_the_file_has() {
    let names: Vec<_> = (0..400).map(|i| format!("w{i}")).collect();
    let entries: Vec<_> =
        names.iter().map(|n| (n.as_str(), tensor_at("ByteStorage", "0", 99_999, 0, &[99_999], &[1]))).collect();
    let bytes = vec![1; 99_999];
    assert!(refused(&saved_with(&dict(&entries), &[("0", &bytes)])).contains("its tensors claim 39999600 bytes"));
}

#[test]
fn tensors_of_untyped_storages_have_the_type_that_the_pickle_says() {
    for (torch, dtype, value) in [("float8_e4m3fn", DType::F8E4M3, 1.0), ("float8_e5m2", DType::F8E5M2, 0.0078125)] {
        let storage =
            [b"((".as_slice(), &text("storage"), b"ctorch.storage\nUntypedStorage\n", &text("0"), &text("cpu")];
        let rest = [b"K\x02tQK\x00K\x02\x85K\x01\x85\x89}ctorch\n", torch.as_bytes(), b"\ntR"].concat();
        let tensor = [b"ctorch._utils\n_rebuild_tensor_v3\n", storage.concat().as_slice(), &rest].concat();
        let parameter = [b"ctorch._utils\n_rebuild_parameter\n(", tensor.as_slice(), b"\x88}tR"].concat();
        let dict = weights(parameter, &[("0", &[0x38, 0x20])]).unwrap();
        let found = &dict.tensors()[0];
        assert_eq!(found.dtype, dtype);
        let expected = if dtype == DType::F8E4M3 { [value, 0.125] } else { [0.5, value] };
        assert_eq!(found.f32().unwrap(), expected);
    }
}

#[test]
fn big_endian_files_are_read_and_other_orders_refused() {
    let pickle = [b"\x80\x02", dict(&[("w", tensor())]).as_slice(), b"."].concat();
    let data = [1f32, 2.0].map(f32::to_be_bytes).concat();
    let file = |order: &[u8]| {
        zip_of(&[
            ("m/data.pkl", 0, &pickle, pickle.len() as u32),
            ("m/byteorder", 0, order, order.len() as u32),
            ("m/data/0", 0, &data, 8),
        ])
    };
    assert_eq!(try_open(&file(b"big")).unwrap().raw.unwrap().tensors()[0].f32().unwrap(), [1., 2.]);
    assert!(refused(&file(b"middle")).contains("byte order `middle`"));
}

/// A legacy file: magic, protocol, system, object, keys, storages.
fn legacy(root: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02";
    [head.as_slice(), root, b".\x80\x02", keys, b".", storages].concat()
}

#[test]
fn legacy_views_are_windows_of_their_storage() {
    let view = |first: u8, count: u8| {
        let storage =
            [b"((".as_slice(), &text("storage"), b"ctorch\nFloatStorage\n", &text("9"), &text("cpu"), b"K\x03("];
        let rest = [&text("8"), [b'K', first, b'K', count].as_slice(), b"ttQK\x00K\x02\x85K\x01\x85\x89}tR"].concat();
        [b"ctorch._utils\n_rebuild_tensor_v2\n", storage.concat().as_slice(), &rest].concat()
    };
    let data = [3u64.to_le_bytes().to_vec(), [1f32, 2.0, 3.0].map(f32::to_le_bytes).concat()].concat();
    let file = |first, count| legacy(&dict(&[("w", view(first, count))]), &list(&[text("9")]), &data);
    assert_eq!(try_open(&file(1, 2)).unwrap().raw.unwrap().tensors()[0].f32().unwrap(), [2., 3.]);
    assert!(refused(&file(2, 2)).contains("reaches beyond it"));
    assert!(refused(&file(0, 1)).contains("reaches to byte 8"));
    let whole = file(1, 2);
    for length in 0..whole.len() {
        assert!(try_open(&whole[..length]).is_err(), "cut to {length} bytes");
    }
    let unused = legacy(&dict(&[("w", view(1, 2))]), &list(&[text("9"), text("4")]), &data);
    assert!(refused(&unused).contains("no tensor uses its storage `4`"));
}

#[test]
fn damaged_tensor_data_fails_its_checksum() {
    let path = fixture("tiny_placeholder.pt");
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 2; // in the data of some tensor
    bytes[at] ^= 1;
    let checkpoint = try_open(&bytes).unwrap();
    let error = TensorTable::of(checkpoint.raw.as_ref().unwrap()).unwrap_err().to_string();
    assert!(error.contains("cannot read tensor"), "{error}");
}

#[test]
fn averages_of_every_form_are_found() {
    let w = || dict(&[("w", tensor())]);
    let with = |entries: &[(&str, Vec<u8>)]| try_open(&saved(dict(entries))).unwrap();
    let wrapped =
        with(&[("model", dict(&[("_orig_mod.module.w", tensor())])), ("ema", dict(&[("module.w", tensor())]))]);
    assert_eq!(wrapped.prefix.as_deref(), Some("_orig_mod.module."));
    assert_eq!((wrapped.ema_form, wrapped.raw.unwrap().tensors()[0].name.as_str()), (Some(EmaForm::ByName), "w"));
    let helper = dict(&[
        ("decay", b"G?\xe0\0\0\0\0\0\0".to_vec()),
        ("num_updates", int(7)),
        ("shadow_params", list(&[tensor()])),
    ]);
    let inside = with(&[("model", w()), ("ema", helper)]);
    assert_eq!((inside.ema_form, inside.ema_step), (Some(EmaForm::ByOrder), Some(7)));
    let lightning = with(&[
        ("state_dict", dict(&[("model._orig_mod.w", tensor()), ("ema_model.module.w", tensor())])),
        ("pytorch-lightning_version", text("2.5")),
        ("global_step", int(9)),
        ("hyper_parameters", dict(&[("depth", int(2))])),
    ]);
    assert_eq!(
        (lightning.layout, lightning.step, lightning.ema_form),
        (Layout::Lightning, Some(9), Some(EmaForm::Prefix))
    );
    assert_eq!(lightning.config["depth"], Scalar::Int(2));
    let callback = dict(&[("EMA", dict(&[("ema_state_dict", dict(&[("model.w", tensor())]))]))]);
    let called = with(&[("state_dict", dict(&[("model.w", tensor())])), ("callbacks", callback)]);
    assert_eq!(called.ema_form, Some(EmaForm::Callback));
    let averaged = with(&[("state_dict", w()), ("current_model_state", w())]);
    assert_eq!(averaged.ema_form, Some(EmaForm::Averaged));
    let basicsr = with(&[("params", w()), ("params_ema", w())]);
    assert_eq!((basicsr.raw.is_some(), basicsr.ema_form), (true, Some(EmaForm::ByName)));
    let two = refused(&saved(dict(&[("model", w()), ("ema", w()), ("ema_params", w())])));
    assert!(two.contains("two moving averages"), "{two}");
    let alone = refused(&saved(dict(&[("shadow_params", list(&[tensor()]))])));
    assert!(alone.contains("is a list"), "{alone}");
    let nested = with(&[("encoder", w()), ("decoder", dict(&[("layer", w())]))]);
    let names: Vec<_> = nested.raw.as_ref().unwrap().tensors().iter().map(|t| t.name.clone()).collect();
    assert_eq!((nested.layout, names), (Layout::Bare, vec!["decoder.layer.w".into(), "encoder.w".into()]));
}

#[test]
fn an_optimizer_is_told_from_weights_and_extras_are_named() {
    let state = dict(&[("exp_avg", tensor()), ("exp_avg_sq", tensor()), ("step", int(3))]);
    let groups = list(&[dict(&[("lr", b"G?\xe0\0\0\0\0\0\0".to_vec())])]);
    let optimizer = || {
        let by_index = [b"}".to_vec(), int(0), state.clone(), b"s".to_vec()].concat();
        dict(&[("state", by_index), ("param_groups", groups.clone())])
    };
    let file = saved(dict(&[
        ("model", dict(&[("w", tensor())])),
        ("opt", optimizer()),
        ("best", int(4)),
        ("note", text("hello")),
        ("rng", tensor()),
    ]));
    let checkpoint = try_open(&file).unwrap();
    let found = checkpoint.optimizer.unwrap();
    assert_eq!((found.kind, found.tensors, found.bytes), ("adam or adamw", 2, 16));
    assert_eq!(found.settings["lr"], Scalar::Float(0.5));
    assert_eq!((&checkpoint.extras["best"], checkpoint.extras.len()), (&Scalar::Int(4), 2));
    assert_eq!(checkpoint.unread["rng"], "a tensor");
    let other = try_open(&saved(dict(&[("model_state", dict(&[("w", tensor())])), ("optimizer_state", optimizer())])));
    let other = other.unwrap();
    assert_eq!((other.layout, other.optimizer.map(|found| found.tensors)), (Layout::Trainer, Some(2)));
    assert!(refused(&saved(optimizer())).contains("an optimizer's state and no weights"));
    let facts = inspect(&fixture("tiny_trained_trainer.pt")).unwrap();
    let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
    assert_eq!((fact("ema_form"), fact("container")), ("by_name".into(), "zip".into()));
    assert!(fact("optimizer").as_str().unwrap().starts_with("adam") && fact("optimizer.tensors").as_u64() > Some(0));
}

/// A key or value of `length` bytes that is kept in the memo's place 0.
fn kept(length: usize) -> Vec<u8> {
    [text(&"k".repeat(length)), b"q\x00".to_vec()].concat()
}

#[test]
fn texts_that_many_values_or_names_would_copy_are_refused_in_bounded_memory() {
    let many = |item: &[u8]| [b"](".to_vec(), item.repeat(4000), b"e".to_vec()].concat();
    let entries: Vec<(String, Vec<u8>)> = (0..4000).map(|n| (format!("k{n}"), b"N".to_vec())).collect();
    let entries = dict(&entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect::<Vec<_>>());
    let model = || dict(&[("w", tensor())]);
    let named =
        |key: Vec<u8>, value: Vec<u8>| [b"}(".to_vec(), text("model"), model(), key, value, b"u".to_vec()].concat();
    let tensors: Vec<u8> = (0..4000).flat_map(|n| [text(&format!("t{n}")), b"h\x01".to_vec()].concat()).collect();
    let first = [text("w"), tensor(), b"q\x01".to_vec()].concat();
    let below = [b"}(".to_vec(), kept(1 << 20), b"}(".to_vec(), first, tensors, b"uu".to_vec()].concat();
    for pickle in [named(kept(1 << 20), many(b"h\x00")), named(kept(1 << 20), entries), below] {
        let error = refused(&saved(pickle));
        assert!(error.contains("or 16 times the bytes of text"), "{error}");
    }
    // a long text that comes once is a setting like any other
    let one = try_open(&saved(named(text("note"), kept(1 << 20)))).unwrap();
    assert_eq!(one.extras["note"], Scalar::Text("k".repeat(1 << 20)));
}

#[test]
fn a_key_that_is_no_name_and_a_loss_that_is_no_number_are_told() {
    let by_number = [b"}".to_vec(), int(0), tensor(), b"s".to_vec()].concat();
    let error = refused(&saved(dict(&[("model", by_number)])));
    assert!(error.contains("has the key `0`, which is an int and not a name"), "{error}");
    let nan = [b"G".to_vec(), f64::NAN.to_be_bytes().to_vec()].concat();
    let config = dict(&[("lr", [b"G".to_vec(), f64::INFINITY.to_be_bytes().to_vec()].concat())]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = saved(dict(&[("model", dict(&[("w", tensor())])), ("loss", nan), ("config", config)]));
    std::fs::write(file.path(), bytes).unwrap();
    let facts = inspect(file.path()).unwrap();
    assert_eq!((facts.get("loss"), facts.get("config.lr")), (Some(&"NaN".into()), Some(&"inf".into())));
}

#[test]
fn files_of_ten_gigabytes_are_answered_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    for (name, head) in [
        ("zip", &b"PK\x03\x04"[..]),
        ("legacy", legacy),
        ("onnx", b"\x08\x08"),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("safetensors", b"\x40\0\0\0\0\0\0\0{"),
        ("json", b"{    "),
        ("nothing", b"zz"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, head).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(10 << 30).unwrap();
        inspect(&path).expect_err(name);
    }
    assert!(peak_kilobytes() < 1 << 20, "{} kB", peak_kilobytes());
}

/// The most memory that this process has had.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Opens and reads everything of these bytes; only that it ends without a panic matters.
fn touch(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::open(file.path()) else { return };
    for dict in [&checkpoint.raw, &checkpoint.ema].into_iter().flatten() {
        let _ = TensorTable::of(dict);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_fixtures_never_panic(
        which in 0usize..4, cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        splice in any::<(prop::sample::Index, prop::sample::Index)>(), how in 0u8..3,
    ) {
        let names = ["tiny_placeholder.pt", "tiny_legacy_nonzip.pt", "tiny_classifier_trainer.pt", "tiny_trained.safetensors"];
        let mut bytes = std::fs::read(fixture(names[which])).unwrap();
        match how {
            0 => bytes.truncate(cut.index(bytes.len())),
            1 => {
                let (from, to) = (splice.0.index(bytes.len()), splice.1.index(bytes.len()));
                let count = 64.min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + count, to);
            }
            _ => {}
        }
        for (at, with) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len().min(20_000)); // the pickle lies in front
                bytes[at] ^= with;
            }
        }
        touch(&bytes);
    }

    #[test]
    fn random_opcodes_never_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        let root: Vec<u8> = pieces.concat();
        let _ = unpickle(&mut Cursor::new([root.as_slice(), b"."].concat()), "`x`", 1 << 20);
        touch(&saved(root.clone()));
        touch(&legacy(&root, &list(&[text("0")]), &[2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]));
    }
}

/// An opcode with its argument, often one that a torch file has.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = ["storage", "0", "cpu", "model", "collections", "OrderedDict", "torch", "os", "system", "state_dict"];
    let known = vec![
        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
        b"ctorch._utils\n_rebuild_tensor_v3\n".to_vec(),
        b"ctorch._utils\n_rebuild_parameter\n".to_vec(),
        b"ctorch._tensor\n_rebuild_from_type_v2\n".to_vec(),
        b"ctorch\nFloatStorage\n".to_vec(),
        b"ccollections\nOrderedDict\n".to_vec(),
        b"cargparse\nNamespace\n".to_vec(),
        b"cnumpy\ndtype\n".to_vec(),
        b"cnumpy.core.multiarray\nscalar\n".to_vec(),
        b"cbuiltins\nlist\n".to_vec(),
        tensor(),
    ];
    prop_oneof![
        3 => prop::sample::select(words.to_vec()).prop_map(text),
        3 => prop::sample::select(known),
        2 => any::<i32>().prop_map(int),
        2 => (0i32..4).prop_map(int),
        6 => prop::sample::select(b"(.012NRQ)]}tdlbaeus\x85\x86\x87\x88\x81\x8f\x90\x91\x92\x93\x94oI".to_vec()).prop_map(|op| vec![op]),
        2 => (prop::sample::select(b"hq".to_vec()), 0u8..4).prop_map(|(op, index)| vec![op, index]),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}
