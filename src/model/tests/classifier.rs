//! The ResNet-18 classifier: told from its keys, its plain forward and its graph against torch's numbers.

use super::support::*;
use crate::model::architecture::Architecture;
use crate::model::checkpoint::{Scalar, Settings};
use crate::model::onnx::emit::{EmitOptions, Guidance};
use crate::model::onnx::import::OnnxFile;
use crate::model::onnx::resnet::emit;
use crate::model::resnet::{Config, ResNet, looks_like};
use crate::model::runtime::{Data, Input, Rten, Runtime};
use crate::model::tensor::{StateDict, TensorEntry};

const REFERENCE: &str = "tiny_classifier_reference.npz";

fn weights() -> StateDict {
    open("tiny_classifier_trainer.pt").raw.unwrap()
}

/// The dict with a tensor taken out, or another shape of it, or under another name.
fn changed(change: impl Fn(TensorEntry) -> Option<TensorEntry>) -> StateDict {
    StateDict::new(weights().tensors().iter().cloned().filter_map(change).collect()).unwrap()
}

fn renamed(from: &str, to: &str) -> StateDict {
    changed(|mut tensor| {
        tensor.name = tensor.name.replace(from, to);
        Some(tensor)
    })
}

#[test]
fn the_classifier_is_told_from_its_keys_and_shapes() {
    let inferred = Architecture::infer(&weights(), &Settings::new()).unwrap().unwrap();
    assert_eq!(inferred.name(), "resnet18");
    assert_eq!(inferred.sizes(), [("width", 8), ("channels", 3), ("num_classes", 13)]);
    let json = inferred.to_json();
    assert_eq!(json, r#"{"network":"resnet18","width":8,"channels":3,"num_classes":13,"head":"fc.1"}"#);
    let metadata = [("hfbuild.config".to_string(), json)].into();
    assert_eq!(Architecture::of_metadata(&metadata).unwrap(), Some(inferred));

    let bare_head = renamed("fc.1.", "fc.");
    assert_eq!(Config::infer(&bare_head, &Settings::new()).unwrap().head, "fc");
    let said: Settings = [("image_size".to_string(), Scalar::Int(64))].into();
    assert_eq!(Config::infer(&weights(), &said).unwrap().image_size, Some(64));
    let lie: Settings = [("num_classes".to_string(), Scalar::Int(2))].into();
    let error = Config::infer(&weights(), &lie).unwrap_err().to_string();
    assert!(error.contains("says `num_classes` 2, its tensors say 13"), "{error}");
}

#[test]
fn a_classifier_that_does_not_fit_is_refused_by_the_tensors_name() {
    let refused = |dict: StateDict| Architecture::infer(&dict, &Settings::new()).unwrap_err().to_string();
    let error = refused(changed(|t| (t.name != "layer3.0.bn2.running_var").then_some(t)));
    assert!(error.contains("tensor `layer3.0.bn2.running_var` is missing"), "{error}");
    let error = refused(renamed("layer2.1.bn1.bias", "layer2.1.bn1.beta"));
    assert!(error.contains("tensor `layer2.1.bn1.bias` is missing"), "{error}");
    let error = refused(changed(|t| {
        let wrong = || TensorEntry::of_f32("fc.1.bias", vec![12], &[0.0; 12]).unwrap();
        Some(if t.name == "fc.1.bias" { wrong() } else { t })
    }));
    assert!(error.contains("tensor `fc.1.bias` has shape [12], expected [13]"), "{error}");
    let mut more = weights().tensors().to_vec();
    more.push(TensorEntry::of_f32("extra", vec![1], &[0.0]).unwrap());
    let error = refused(StateDict::new(more).unwrap());
    assert!(error.contains("tensor `extra` is unexpected"), "{error}");
}

#[test]
fn other_resnets_are_not_taken_for_this_one() {
    let with = |name: &str| {
        let mut tensors = weights().tensors().to_vec();
        tensors.push(TensorEntry::of_f32(name, vec![1], &[0.0]).unwrap());
        StateDict::new(tensors).unwrap()
    };
    assert!(looks_like(&weights()));
    assert!(!looks_like(&with("layer1.0.conv3.weight")), "50 layers");
    assert!(!looks_like(&with("layer3.2.conv1.weight")), "34 layers");
    assert!(!looks_like(&renamed("conv1.weight", "stem.weight")));
    assert!(!looks_like(&trained().0));
}

#[test]
fn the_plain_classifier_agrees_with_torch() {
    let dict = weights();
    let network = ResNet::load(&dict, &Config::infer(&dict, &Settings::new()).unwrap()).unwrap();
    let got = network.forward(&npy_f32(REFERENCE, "input"), 64, 64).unwrap();
    let difference = max_abs_diff(&got, &npy_f32(REFERENCE, "output"));
    assert!(difference < 1e-5, "{difference:e}");
    assert!(network.forward(&[0.0; 3 * 64 * 64 + 1], 64, 64).is_err());
}

#[test]
fn the_classifiers_graph_agrees_with_torch_at_every_opset() {
    let (dict, folder) = (weights(), tempfile::tempdir().unwrap());
    let config = Config::infer(&dict, &Settings::new()).unwrap();
    let input = npy_f32(REFERENCE, "input");
    for opset in 17..=21 {
        let path = folder.path().join(format!("{opset}.onnx"));
        emit(&path, &dict, &config, &EmitOptions { opset, ..Default::default() }).unwrap();
        let inputs = [Input { name: "input", shape: vec![2, 3, 64, 64], data: Data::F32(&input) }];
        let got = Rten::default().open(&path).unwrap().run(&inputs, "output").unwrap();
        assert_eq!(got.shape, [2, 13]);
        let difference = max_abs_diff(&got.values, &npy_f32(REFERENCE, "output"));
        assert!(difference < 1e-5, "opset {opset}: {difference:e}");
    }
}

#[test]
fn the_classifiers_graph_takes_any_size_unless_its_configuration_names_one() {
    let (dict, folder) = (weights(), tempfile::tempdir().unwrap());
    let mut config = Config::infer(&dict, &Settings::new()).unwrap();
    let path = folder.path().join("x.onnx");
    let ports = |config: &Config| {
        emit(&path, &dict, config, &EmitOptions::default()).unwrap();
        let info = OnnxFile::open(&path).unwrap().info().unwrap();
        assert_eq!(info.metadata["hfbuild.network"], "resnet18");
        assert_eq!(info.metadata["hfbuild.precision"], "fp32");
        assert_eq!(info.metadata.get("hfbuild.image_size").map(String::as_str), config.image_size.map(|_| "32"));
        [info.inputs[0].to_string(), info.outputs[0].to_string()]
    };
    assert_eq!(ports(&config), ["input F32 [batch_size, 3, height, width]", "output F32 [batch_size, 13]"]);
    let pictures = crate::model::noise::normals(0, 0, 0, 3 * 3 * 33 * 47);
    let inputs = [Input { name: "input", shape: vec![3, 3, 33, 47], data: Data::F32(&pictures) }];
    let got = Rten::default().open(&path).unwrap().run(&inputs, "output").unwrap();
    let want = ResNet::load(&dict, &config).unwrap().forward(&pictures, 33, 47).unwrap();
    assert!(max_abs_diff(&got.values, &want) < 1e-5, "sizes that are odd");
    config.image_size = Some(32);
    assert_eq!(ports(&config)[0], "input F32 [batch_size, 3, 32, 32]");
    let options = EmitOptions { guidance: Guidance::Baked(1.5), ..Default::default() };
    assert!(emit(&path, &dict, &config, &options).unwrap_err().message().contains("guidance cannot be baked"));
}
