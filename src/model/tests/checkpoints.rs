//! Checkpoints, tables, safetensors, the network's configuration.

use super::support::*;
use crate::model::checkpoint::{Checkpoint, Container, EmaForm, Layout, Scalar, WeightsChoice};
use crate::model::inspect::inspect;
use crate::model::safetensors_out;
use crate::model::table::TensorTable;
use crate::model::tensor::{StateDict, TensorEntry};
use crate::model::tinydit::{Config, NetworkLayout, freshly_initialised};
use std::collections::BTreeMap;
use std::io::Write;

#[test]
fn every_fixture_has_its_layout() {
    for (name, container, layout, tensors, parameters, ema) in [
        ("tiny_trained_trainer.pt", Container::Zip, Layout::Trainer, 40, 189_808, true),
        ("tiny_trained_ema_state_dict.pt", Container::Zip, Layout::Bare, 40, 189_808, false),
        ("tiny_trained.safetensors", Container::Safetensors, Layout::Bare, 40, 189_808, false),
        ("tiny_placeholder.pt", Container::Zip, Layout::Export, 39, 123_264, false),
        ("tiny_bare_state_dict.pt", Container::Zip, Layout::Bare, 39, 123_264, false),
        ("tiny_legacy_nonzip.pt", Container::Legacy, Layout::Bare, 39, 123_264, false),
        ("tiny_classifier_trainer.pt", Container::Zip, Layout::Classifier, 122, 177_557, false),
    ] {
        let checkpoint = open(name);
        let raw = checkpoint.raw.as_ref().unwrap();
        let found = (checkpoint.container, checkpoint.layout, raw.len(), checkpoint.ema.is_some());
        assert_eq!(found, (container, layout, tensors, ema), "{name}");
        assert_eq!(raw.parameters(), parameters, "{name}");
    }
}

#[test]
fn the_trainer_gives_its_values() {
    let checkpoint = open("tiny_trained_trainer.pt");
    assert_eq!(checkpoint.step, Some(1800));
    assert!((checkpoint.loss.unwrap() - 0.152).abs() < 0.001);
    assert!(checkpoint.ema_step.is_some() && checkpoint.timestamp.is_some());
    assert_eq!(checkpoint.config.get("num_heads"), Some(&Scalar::Int(4)));
    assert!(checkpoint.unread.is_empty(), "{:?}", checkpoint.unread);
    assert_eq!(checkpoint.ema.as_ref().unwrap().len(), 40);
    let classifier = open("tiny_classifier_trainer.pt");
    assert!(classifier.epoch.is_some() && classifier.val_acc.is_some());
}

#[test]
fn the_published_model_is_trained() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tinydit_final.pt");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let ema = checkpoint.select(WeightsChoice::Ema).unwrap();
    let config = Config::infer(ema, &checkpoint.config).unwrap();
    assert_eq!((checkpoint.layout, checkpoint.step, ema.parameters()), (Layout::Export, Some(7293), 906_768));
    assert_eq!((config.layout, config.num_classes, config.null_label()), (NetworkLayout::V2, 13, 13));
    assert!(!freshly_initialised(ema).unwrap());
    let facts = inspect(&path).unwrap();
    assert_eq!(facts.get("network").unwrap(), "tinydit-v2");
}

#[test]
fn the_placeholder_has_no_step_and_no_ema() {
    let checkpoint = open("tiny_placeholder.pt");
    let raw = checkpoint.select(WeightsChoice::Raw).unwrap();
    assert_eq!(checkpoint.step, Some(0));
    let error = checkpoint.select(WeightsChoice::Ema).unwrap_err();
    assert!(error.message().contains("no moving average"), "{error}");
    assert!(error.hint_text().unwrap().contains("raw"));
    let config = Config::infer(raw, &checkpoint.config).unwrap();
    let sizes = (config.image_size, config.patch_size, config.embed_dim, config.depth, config.num_heads);
    assert_eq!((config.layout, sizes, config.null_label()), (NetworkLayout::V1, (32, 8, 48, 2, 3), 12));
    let facts = inspect(&fixture("tiny_placeholder.pt")).unwrap();
    assert_eq!((facts.get("step").unwrap(), facts.get("ema_present").unwrap()), (&0.into(), &false.into()));
    // The fixture's final layer is random (std .02), so this fact alone does not catch it.
    assert_eq!(facts.get("freshly_initialised").unwrap(), false);
}

#[test]
fn a_final_layer_of_zeros_is_freshly_initialised() {
    let (dict, _) = trained();
    let zeroed = |names: &[&str]| {
        let zero = |t: &TensorEntry| match names.contains(&t.name.as_str()) {
            true => TensorEntry::of_f32(t.name.clone(), t.shape.clone(), &vec![0.0; t.elements()]).unwrap(),
            false => t.clone(),
        };
        freshly_initialised(&StateDict::new(dict.tensors().iter().map(zero).collect()).unwrap()).unwrap()
    };
    assert!(!zeroed(&[]) && !zeroed(&["final_layer.linear.weight"]));
    assert!(zeroed(&["final_layer.linear.weight", "final_layer.linear.bias"]));
}

#[test]
fn norms_of_ones_and_zeros_alone_are_freshly_initialised_and_one_that_moved_is_not() {
    let (dict, _) = trained();
    let fresh = |moved: &str| {
        let reset = |t: &TensorEntry| match t.name.contains("norm") && t.name != moved {
            true => {
                let value = if t.name.ends_with("weight") { 1.0 } else { 0.0 };
                TensorEntry::of_f32(t.name.clone(), t.shape.clone(), &vec![value; t.elements()]).unwrap()
            }
            false => t.clone(),
        };
        freshly_initialised(&StateDict::new(dict.tensors().iter().map(reset).collect()).unwrap()).unwrap()
    };
    assert!(fresh("") && !fresh("blocks.1.norm2.bias"));
}

#[test]
fn v1_without_settings_says_what_is_missing() {
    let raw = open("tiny_bare_state_dict.pt").raw.unwrap();
    let error = Config::infer(&raw, &BTreeMap::new()).unwrap_err();
    assert!(error.message().contains("`image_size`"), "{error}");
    assert!(Config::infer(&raw, &v1_settings()).is_ok());
}

#[test]
fn wrong_keys_shapes_and_settings_are_named() {
    let (dict, config) = trained();
    let settings: BTreeMap<_, _> = [("num_heads".to_owned(), Scalar::Int(config.num_heads as i64))].into();
    let with = |change: &dyn Fn(&mut Vec<TensorEntry>)| {
        let mut tensors = dict.tensors().to_vec();
        change(&mut tensors);
        Config::infer(&StateDict::new(tensors).unwrap(), &settings).unwrap_err().to_string()
    };
    let extra = TensorEntry::of_f32("extra.weight", vec![2], &[1.0, 2.0]).unwrap();
    assert!(with(&|t| t.retain(|t| t.name != "blocks.1.norm2.bias")).contains("`blocks.1.norm2.bias` is missing"));
    assert!(with(&|t| t.push(extra.clone())).contains("`extra.weight` is unexpected"));
    let short = TensorEntry::of_f32("final_layer.linear.bias", vec![1], &[0.0]).unwrap();
    let shape = with(&|t| t.iter_mut().filter(|t| t.name == short.name).for_each(|t| *t = short.clone()));
    assert!(shape.contains("`final_layer.linear.bias` has shape [1], expected [48]"), "{shape}");
    let mut said = settings.clone();
    said.insert("embed_dim".into(), Scalar::Int(65));
    let error = Config::infer(&dict, &said).unwrap_err().to_string();
    assert!(error.contains("says `embed_dim` 65, its tensors say 64"), "{error}");
    let classifier = open("tiny_classifier_trainer.pt").raw.unwrap();
    let error = Config::infer(&classifier, &settings).unwrap_err().to_string();
    assert!(error.contains("no TinyDiT"), "{error}");
}

#[test]
fn the_table_is_of_the_tensors_not_of_the_file() {
    let table = |name: &str| TensorTable::of(open(name).raw.as_ref().unwrap()).unwrap();
    let bare = table("tiny_trained_ema_state_dict.pt");
    assert_eq!(bare.to_bytes(), table("tiny_trained.safetensors").to_bytes());
    let (ema, _) = trained();
    assert_eq!(bare, TensorTable::of(&ema).unwrap());
    assert_eq!(bare, TensorTable::from_bytes(&bare.to_bytes()).unwrap());
    assert_eq!(bare.parameters(), 189_808);
    bare.verify(&ema).unwrap();
    let mut tensors = ema.tensors().to_vec();
    let last = tensors.last_mut().unwrap();
    *last = TensorEntry::of_f32(last.name.clone(), last.shape.clone(), &vec![0.5; last.elements()]).unwrap();
    let name = last.name.clone();
    let error = bare.verify(&StateDict::new(tensors).unwrap()).unwrap_err();
    assert!(error.message().contains(&name) && error.hint_text().unwrap().contains("changed while building"));
    assert!(TensorTable::of(&StateDict::default()).is_err());
}

#[test]
fn safetensors_bytes_are_reproducible_and_readable() {
    let dict = open("tiny_classifier_trainer.pt").raw.unwrap(); // f32 and i64, scalars among them
    let metadata: BTreeMap<_, _> = [("format", "pt"), ("b", "2"), ("a", "1")].map(|(k, v)| (k.into(), v.into())).into();
    let folder = tempfile::tempdir().unwrap();
    let paths = ["x.safetensors", "y.safetensors"].map(|name| folder.path().join(name));
    let written = paths.each_ref().map(|path| safetensors_out::write(path, &dict, &metadata).unwrap());
    let bytes = paths.each_ref().map(|path| std::fs::read(path).unwrap());
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(written[0].bytes, bytes[0].len() as u64);
    let crate_view = safetensors::SafeTensors::deserialize(&bytes[0]).unwrap();
    assert_eq!(crate_view.len(), dict.len());
    for tensor in dict.tensors() {
        let view = crate_view.tensor(&tensor.name).unwrap();
        assert_eq!((view.shape(), view.data()), (tensor.shape.as_slice(), tensor.bytes().unwrap().as_ref()));
    }
    let back = safetensors_out::open(&paths[0]).unwrap();
    assert_eq!(back.metadata, metadata);
    assert_eq!(TensorTable::of(&back.tensors).unwrap(), TensorTable::of(&dict).unwrap());
    let empty = safetensors_out::write(&paths[0], &StateDict::default(), &metadata).unwrap_err();
    assert!(empty.message().contains("no tensors"));
}

const RESOLVE_OS: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01cos\nsystem\nq\x02X\x02\x00\x00\x00ls\x85Ru.";

#[test]
fn a_safetensors_header_that_names_a_tensor_twice_is_refused() {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let error = refused(&file);
    assert!(error.contains("as safetensors"), "{error}");
    assert!(try_open(&file).unwrap_err().causes().iter().any(|cause| cause.contains("`w` comes twice")));
}

#[test]
fn hostile_pickles_are_refused_by_name() {
    let zipped = |pickle: &[u8]| zip_of(&[("m/data.pkl", 0, pickle, pickle.len() as u32), ("m/version", 0, b"3\n", 2)]);
    assert!(refused(&zipped(RESOLVE_OS)).contains("`os.system`"));
    let stack_global = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x8c\x02ls\x85R.";
    assert!(refused(&zipped(stack_global)).contains("`posix.system`"));
    let memoised = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.";
    assert!(refused(&zipped(memoised)).contains("`os.system`"));
    assert!(refused(&zipped(b"(S'ls'\nios\nsystem\n.")).contains("`os.system`"));
    assert!(refused(&zipped(b"\x80\x02\x82\x01.")).contains("extension"));
    // INST leaves one object where the known names stood: what `STACK_GLOBAL` then finds is `os.system`.
    let inst = b"\x80\x04\x8c\x02os\x8c\x06system(icollections\nOrderedDict\n0\x93.";
    assert!(refused(&zipped(inst)).contains("`os.system`"));
    let persistent = b"\x80\x04\x8c\x0bcollectionsPx\n\x8c\x0bOrderedDict\x93.";
    assert!(refused(&zipped(persistent)).contains("persistent id"));
    assert!(refused(&zipped(b"\x80\x02cbuiltins\neval\n.")).contains("`builtins.eval`"));
    assert!(refused(&zipped(b"\x80\x02ctorch\nload\n.")).contains("`torch.load`"));
    assert!(refused(&zipped(b"\x80\x02\xff.")).contains("no pickle opcode"));
    let legacy =
        [&b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00."[..], RESOLVE_OS].concat();
    assert!(refused(&legacy).contains("`os.system`"));
}

#[test]
fn odd_archives_are_refused() {
    let bomb = zip_of(&[("m/data.pkl", 8, b"\x03\x00", u32::MAX - 1)]);
    assert!(refused(&bomb).contains("compressed entry `m/data.pkl`"));
    assert!(refused(&zip_of(&[("m/other", 0, b"x", 1)])).contains("0 `data.pkl`"));
    assert!(refused(&zip_of(&[("a/data.pkl", 0, b"N.", 2), ("b/data.pkl", 0, b"N.", 2)])).contains("2 `data.pkl`"));
    assert!(refused(&zip_of(&[("a/data.pkl", 0, b"N.", 2), ("a/data.pkl", 0, b"N.", 2)])).contains("twice"));
    assert!(refused(&zip_of(&[("a/data.pkl", 0, b"N.", 2)])).contains("does not hold a dict"));
    assert!(refused(&zip_of(&[("a/data.pkl", 0, b"\x80\x02}X\x01\x00\x00\x00kK\x01s.", 13)])).contains("keys are `k`"));
    assert!(refused(b"").contains("is empty"));
    assert!(refused(b"hello, this is no model at all").contains("not a checkpoint"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 132312391\n";
    let error = try_open(pointer).unwrap_err();
    assert!(error.message().contains("Git LFS pointer") && error.hint_text().unwrap().contains("git lfs pull"));
}

#[test]
fn truncated_and_damaged_files_never_panic() {
    for name in
        ["tiny_placeholder.pt", "tiny_legacy_nonzip.pt", "tiny_trained.safetensors", "tiny_trained_velocity.onnx"]
    {
        let whole = std::fs::read(fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let touch = |bytes: &[u8]| {
            std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
            let read_all = |dict: &StateDict| TensorTable::of(dict).map(drop);
            let checkpoint = Checkpoint::open(&path).and_then(|c| c.raw.as_ref().map_or(Ok(()), read_all));
            checkpoint.and(inspect(&path).map(drop))
        };
        let step = (whole.len() / 40).max(1);
        for length in (0..600)
            .step_by(3)
            .chain((600..whole.len()).step_by(step))
            .chain((whole.len() - 300..whole.len()).step_by(7))
        {
            assert!(touch(&whole[..length]).is_err(), "{name} cut to {length} bytes is accepted");
        }
        for at in (0..6000.min(whole.len())).step_by(23) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x5a;
            let _ = touch(&damaged);
        }
    }
}

#[test]
fn hand_made_layouts_are_told_from_their_keys() {
    let one = || dict(&[("w", tensor())]);
    let helper = try_open(&saved(dict(&[("shadow_params", one()), ("step", b"K\x03".to_vec())]))).unwrap();
    assert_eq!((helper.layout, helper.step), (Layout::EmaHelper, Some(3)));
    assert_eq!(helper.select(WeightsChoice::Ema).unwrap().tensors()[0].f32().unwrap(), [1.0, 2.0]);
    assert!(helper.select(WeightsChoice::Raw).unwrap_err().to_string().contains("no raw weights"));
    let by_position = |count: usize| {
        let items = (0..count).flat_map(|_| tensor());
        let list: Vec<u8> = b"](".iter().copied().chain(items).chain(*b"e").collect();
        saved(dict(&[("model", one()), ("ema_params", list)]))
    };
    let listed = try_open(&by_position(1)).unwrap();
    assert_eq!((listed.ema_form, listed.ema.unwrap().tensors()[0].name.as_str()), (Some(EmaForm::ByOrder), "w"));
    assert!(refused(&by_position(2)).contains("has 2 tensors, the weights have 1 parameters"));
    let other = saved(dict(&[("model", one()), ("ema_params", dict(&[("v", tensor())]))]));
    assert!(refused(&other).contains("lacks tensor `w`"), "{}", refused(&other));
    let numpy =
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(X\x02\0\0\0f8\x89\x88tRU\x08\0\0\0\0\0\0\xf0?\x86R".to_vec();
    let loss = try_open(&saved(dict(&[("model", one()), ("loss", numpy), ("step", tensor())]))).unwrap();
    assert_eq!(loss.loss, Some(1.0));
    assert!(loss.step.is_none() && loss.unread.contains_key("step"));
    let nested = dict(&[("depth", b"K\x02".to_vec()), ("opt", dict(&[("lr", b"G?\xf0\0\0\0\0\0\0".to_vec())]))]);
    let config = try_open(&saved(dict(&[("model", one()), ("config", nested)]))).unwrap().config;
    let expected = [("depth".to_owned(), Scalar::Int(2)), ("opt.lr".to_owned(), Scalar::Float(1.0))];
    assert_eq!(config.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn zip64_directories_are_read() {
    let plain = saved(dict(&[("w", tensor())]));
    let end = plain.len() - 22;
    let field = |at: usize| u32::from_le_bytes(*plain[end + at..].first_chunk().unwrap());
    let [size, offset] = [12, 16].map(|at| u64::from(field(at)).to_le_bytes());
    let record = [
        b"PK\x06\x06".as_slice(),
        &44u64.to_le_bytes(),
        &[0; 12],
        &2u64.to_le_bytes(),
        &2u64.to_le_bytes(),
        &size,
        &offset,
    ]
    .concat();
    let locator = [b"PK\x06\x07".as_slice(), &[0; 4], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
    let last = [b"PK\x05\x06".as_slice(), &[0; 4], &[0xff; 12], &[0; 2]].concat();
    let large = [&plain[..end], &record, &locator, &last].concat();
    assert_eq!(try_open(&large).unwrap().raw.unwrap().parameters(), 2);
}

#[test]
fn an_ema_with_other_keys_is_an_error() {
    let (ema, _) = trained();
    let less = StateDict::new(ema.tensors()[1..].to_vec()).unwrap();
    assert!(less.same_keys("the EMA", &ema).unwrap_err().to_string().contains(&ema.tensors()[0].name));
    assert!(ema.same_keys("the EMA", &less).unwrap_err().to_string().contains(&ema.tensors()[0].name));
    assert!(ema.same_keys("the EMA", &ema).is_ok());
}
