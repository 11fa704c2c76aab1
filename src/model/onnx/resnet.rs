//! Emits the ResNet-18 classifier as an ONNX graph straight from a state dict.
//!
//! Shares nothing with the plain forward ([`crate::model::resnet`]) but the configuration. Batch norms stay nodes of their
//! own, so that weights keep their names and bytes and can be compared with the checkpoint's; runtimes fold them into
//! the convolutions when they load the graph. No clock: same input, same bytes.

use super::emit::{EmitOptions, Emitted, Guidance, finish};
use super::graph::{Attribute::*, Dim, GraphBuilder};
use super::proto::FLOAT;
use crate::core::error::{Error, Result};
use crate::model::resnet::{Block, Config};
use crate::model::tensor::StateDict;
use std::path::Path;

/// Writes the graph of a ResNet-18's weights to `path`.
///
/// Input `input` f32 `[batch_size, C, height, width]`; output `output` f32 `[batch_size, classes]`, the logits. Height and
/// width are the configuration's `image_size` where it is known, since a classifier is only proven at the size that it
/// was trained at; else they are dynamic, as the network takes any.
///
/// # Errors
/// Weights that do not fit `config` or that the precision cannot hold, guidance that is to be baked in, an opset that is
/// not 17..=21, one file beyond 2 GB.
pub fn emit(path: &Path, dict: &StateDict, config: &Config, options: &EmitOptions) -> Result<Emitted> {
    if options.guidance != Guidance::External {
        return Err(Error::stage("guidance cannot be baked into a classifier").hint("take `guidance` out"));
    }
    config.check(dict)?;
    let mut emitter = Emitter { graph: GraphBuilder::new("resnet18", dict, options.precision), config };
    emitter.network();
    let mut said = vec![
        ("network", "resnet18".to_owned()),
        ("num_labels", config.num_classes.to_string()),
        ("config", serde_json::to_string(config).unwrap_or_default()),
    ];
    said.extend(config.image_size.map(|size| ("image_size", size.to_string())));
    finish(&emitter.graph, path, options, &said)
}

struct Emitter<'a> {
    graph: GraphBuilder<'a>,
    config: &'a Config,
}

impl Emitter<'_> {
    fn network(&mut self) {
        let side = |symbol| self.config.image_size.map_or(Dim::Any(symbol), Dim::Fixed);
        let picture = [Dim::Batch, Dim::Fixed(self.config.channels), side("height"), side("width")];
        self.graph.input("input", FLOAT, &picture);
        self.graph.output("output", FLOAT, &[Dim::Batch, Dim::Fixed(self.config.num_classes)]);
        let input = self.graph.narrow("input", "input.half");
        let stem = self.conv(&input, "conv1", "bn1", 7, 2);
        let active = self.graph.node("Relu", &[&stem], "stem", &[]);
        let attributes =
            [("kernel_shape", Ints(vec![3, 3])), ("strides", Ints(vec![2, 2])), ("pads", Ints(vec![1, 1, 1, 1]))];
        let mut x = self.graph.node("MaxPool", &[&active], "stem.pooled", &attributes);
        for block in self.config.blocks() {
            x = self.block(&x, &block);
        }
        let means = self.graph.node("GlobalAveragePool", &[&x], "means", &[]);
        let flat = self.graph.node("Flatten", &[&means], "means.flat", &[("axis", Int(1))]);
        let weight = self.graph.weight(&format!("{}.weight", self.config.head));
        let bias = self.graph.weight(&format!("{}.bias", self.config.head));
        let computed = self.graph.before_widening("output");
        self.graph.node("Gemm", &[&flat, &weight, &bias], &computed, &[("transB", Int(1))]);
        self.graph.widen("output");
    }

    fn block(&mut self, x: &str, block: &Block) -> String {
        let part = |part: &str| format!("{}.{part}", block.name);
        let first = self.conv(x, &part("conv1"), &part("bn1"), 3, block.stride);
        let active = self.graph.node("Relu", &[&first], &part("active"), &[]);
        let second = self.conv(&active, &part("conv2"), &part("bn2"), 3, 1);
        let shortcut = match block.downsamples() {
            true => self.conv(x, &part("downsample.0"), &part("downsample.1"), 1, block.stride),
            false => x.to_owned(),
        };
        let sum = self.graph.node("Add", &[&second, &shortcut], &part("sum"), &[]);
        self.graph.node("Relu", &[&sum], &part("output"), &[])
    }

    /// A convolution that keeps the size but for its stride, then its batch norm.
    fn conv(&mut self, x: &str, conv: &str, bn: &str, kernel: i64, stride: usize) -> String {
        let (stride, pad) = (stride as i64, kernel / 2);
        let weight = self.graph.weight(&format!("{conv}.weight"));
        let attributes =
            [("kernel_shape", Ints(vec![kernel; 2])), ("strides", Ints(vec![stride; 2])), ("pads", Ints(vec![pad; 4]))];
        let y = self.graph.node("Conv", &[x, &weight], &format!("{conv}.output"), &attributes);
        let norm = ["weight", "bias", "running_mean", "running_var"].map(|p| self.graph.weight(&format!("{bn}.{p}")));
        let [scale, shift, mean, variance] = norm.each_ref().map(String::as_str);
        let inputs = [y.as_str(), scale, shift, mean, variance];
        self.graph.node("BatchNormalization", &inputs, &format!("{bn}.output"), &[("epsilon", Float(1e-5))])
    }
}
