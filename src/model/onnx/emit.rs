//! Emits TinyDiT as an ONNX graph straight from a state dict.
//!
//! The formulas are those of `tinydit.md`, section 1; the code shares nothing with [`crate::model::network`], which it is
//! compared with. Linear layers are `Gemm` over rows of tokens, so that weights keep their PyTorch layout and bytes. What
//! a consumer must know (guidance, labels, sizes) stands in the model's metadata. No clock: same input, same bytes.

use super::graph::{Attribute::*, Dim, GraphBuilder, entry};
use super::precision::Precision;
use super::proto::{FLOAT, INT64, ModelProto, OperatorSetIdProto};
use crate::core::error::{Error, Result};
use crate::model::tensor::StateDict;
use crate::model::tinydit::{Config, NetworkLayout};
use std::collections::BTreeMap;
use std::path::Path;

/// The opsets that can be emitted, and their IR versions.
const OPSETS: [(i64, i64); 5] = [(17, 8), (18, 8), (19, 9), (20, 9), (21, 10)];
/// The opset where nothing else is asked for.
pub const DEFAULT_OPSET: i64 = 18;
/// The emitter's own version, raised when it writes other bytes for the same weights. Not the crate's: a release that
/// changes nothing here must not change the file.
const EMITTER: &str = "2";

/// Who applies classifier-free guidance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guidance {
    /// The caller: the graph is the bare network.
    External,
    /// The graph, with this scale, in a doubled batch: `v = v_u + s * (v_c - v_u)`.
    Baked(f32),
}

/// What to emit.
#[derive(Debug, Clone, PartialEq)]
pub struct EmitOptions {
    /// 17 to 21.
    pub opset: i64,
    /// Who applies guidance (of a generator).
    pub guidance: Guidance,
    /// What weights are stored in.
    pub precision: Precision,
    /// Whether the weights go to a file of their own, `model.onnx.data` beside `model.onnx`. A model of 2 GB and more must.
    pub external_data: bool,
    /// More metadata; keys that begin with `hfbuild.` are taken.
    pub metadata: BTreeMap<String, String>,
}

impl Default for EmitOptions {
    fn default() -> Self {
        EmitOptions {
            opset: DEFAULT_OPSET,
            guidance: Guidance::External,
            precision: Precision::Fp32,
            external_data: false,
            metadata: BTreeMap::new(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// Bytes of the file, and of its external data.
    pub bytes: u64,
    /// Nodes of the graph.
    pub nodes: usize,
}

/// Writes the graph of a TinyDiT's weights to `path`.
///
/// Inputs `noise` f32 `[batch_size, C, S, S]`, `timestep` f32 `[batch_size]`, `breed` i64 `[batch_size]`; output `velocity`
/// f32 `[batch_size, C, S, S]`.
///
/// # Errors
/// Weights that do not fit `config` or that the precision cannot hold, an opset that is not 17..=21, guidance that is not
/// finite, one file beyond 2 GB.
pub fn emit(path: &Path, dict: &StateDict, config: &Config, options: &EmitOptions) -> Result<Emitted> {
    if matches!(options.guidance, Guidance::Baked(scale) if !scale.is_finite()) {
        return Err(Error::stage("the guidance scale is not a finite number"));
    }
    config.check(dict)?;
    let mut emitter = Emitter { graph: GraphBuilder::new("tinydit", dict, options.precision), config };
    emitter.network(options.guidance);
    let guidance = match options.guidance {
        Guidance::External => "external".to_owned(),
        Guidance::Baked(scale) => format!("baked:{scale}"),
    };
    let said = [
        ("guidance", guidance),
        ("network", format!("tinydit-{}", config.layout.name())),
        ("num_labels", config.num_classes.to_string()),
        ("null_label", config.null_label().to_string()),
        ("image_size", config.image_size.to_string()),
        ("config", serde_json::to_string(config).unwrap_or_default()),
    ];
    finish(&emitter.graph, path, options, &said)
}

/// Writes a finished graph with its metadata: what is `said` of the network, under `hfbuild.`, and the precision.
///
/// # Errors
/// As [`emit`].
pub(super) fn finish(
    graph: &GraphBuilder<'_>,
    path: &Path,
    options: &EmitOptions,
    said: &[(&str, String)],
) -> Result<Emitted> {
    let Some(&(opset, ir)) = OPSETS.iter().find(|row| row.0 == options.opset) else {
        return Err(Error::stage(format!("opset {} cannot be emitted, 17 to 21 can", options.opset)));
    };
    let mut metadata = options.metadata.clone();
    metadata.insert("hfbuild.precision".into(), options.precision.name().into());
    metadata.extend(said.iter().map(|(key, value)| (format!("hfbuild.{key}"), value.clone())));
    let model = ModelProto {
        ir_version: Some(ir),
        producer_name: Some("hfbuild".into()),
        producer_version: Some(EMITTER.into()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        metadata_props: metadata.iter().map(|(key, value)| entry(key, value)).collect(),
        ..Default::default()
    };
    let bytes = graph.write(&model, path, options.external_data)?;
    Ok(Emitted { bytes, nodes: graph.node_count() })
}

struct Emitter<'a> {
    graph: GraphBuilder<'a>,
    config: &'a Config,
}

impl Emitter<'_> {
    fn network(&mut self, guidance: Guidance) {
        let size = Dim::Fixed(self.config.image_size);
        let picture = [Dim::Batch, Dim::Fixed(self.config.channels), size, size];
        self.graph.input("noise", FLOAT, &picture);
        self.graph.input("timestep", FLOAT, &[Dim::Batch]);
        self.graph.input("breed", INT64, &[Dim::Batch]);
        self.graph.output("velocity", FLOAT, &picture);
        let mut x = self.tokens();
        let mut time = self.time();
        let mut labels = "breed".to_owned();
        if let Guidance::Baked(_) = guidance {
            x = self.graph.node("Concat", &[&x, &x], "guided.tokens", &[("axis", Int(0))]);
            time = self.graph.node("Concat", &[&time, &time], "guided.time", &[("axis", Int(0))]);
            labels = self.both_labels();
        }
        let condition = self.condition(&time, &labels);
        for n in 0..self.config.depth {
            x = self.block(n, &x, &condition);
        }
        let output = if guidance == Guidance::External { "velocity" } else { "guided.velocity" };
        let computed = self.graph.before_widening(output);
        self.last(&x, &condition, &computed);
        let velocity = self.graph.widen(output);
        if let Guidance::Baked(scale) = guidance {
            self.combine(&velocity, scale);
        }
    }

    /// A binary or unary node.
    fn op(&mut self, op: &str, inputs: &[&str], output: &str) -> String {
        self.graph.node(op, inputs, output, &[])
    }

    fn reshape(&mut self, x: &str, dims: &[i64], output: &str) -> String {
        let name = format!("shape.{}", dims.iter().map(i64::to_string).collect::<Vec<_>>().join("x"));
        let shape = self.graph.ints(&name, &[dims.len() as i64], dims);
        self.op("Reshape", &[x, &shape], output)
    }

    fn transpose(&mut self, x: &str, order: &[i64], output: &str) -> String {
        self.graph.node("Transpose", &[x], output, &[("perm", Ints(order.to_vec()))])
    }

    /// PyTorch's Linear `layer` over rows: `[rows, in] -> [rows, out]`.
    fn linear(&mut self, x: &str, layer: &str, bias: bool, output: &str) -> String {
        let mut inputs = vec![x.to_owned(), self.graph.weight(&format!("{layer}.weight"))];
        if bias {
            inputs.push(self.graph.weight(&format!("{layer}.bias")));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.graph.node("Gemm", &inputs, output, &[("transB", Int(1))])
    }

    fn silu(&mut self, x: &str, output: &str) -> String {
        let sigmoid = self.op("Sigmoid", &[x], &format!("{output}.sigmoid"));
        self.op("Mul", &[x, &sigmoid], output)
    }

    /// Patches to tokens `[B, N, E]`, with their positions in `v2`.
    fn tokens(&mut self) -> String {
        let (e, p, n) = (self.config.embed_dim as i64, self.config.patch_size as i64, self.config.tokens() as i64);
        let weight = self.graph.weight("patch_embed.proj.weight");
        let bias = self.graph.weight("patch_embed.proj.bias");
        let attributes = [("kernel_shape", Ints(vec![p, p])), ("strides", Ints(vec![p, p]))];
        let noise = self.graph.narrow("noise", "noise.half");
        let patches = self.graph.node("Conv", &[&noise, &weight, &bias], "patches", &attributes);
        let flat = self.reshape(&patches, &[-1, e, n], "patches.flat");
        let tokens = self.transpose(&flat, &[0, 2, 1], "tokens");
        if self.config.layout == NetworkLayout::V1 {
            return tokens;
        }
        let positions = self.graph.weight("pos_embed");
        self.op("Add", &[&tokens, &positions], "tokens.placed")
    }

    /// The time embedding `[B, E]`. Angles are always f32: they go up to 1000, where f16 knows no fractions.
    fn time(&mut self) -> String {
        let half = self.config.frequency_dim / 2;
        let decay = -(10000f64.ln()) as f32;
        let frequencies: Vec<f32> = (0..half).map(|i| (decay * i as f32 / half as f32).exp()).collect();
        let mut t = "timestep".to_owned();
        if self.config.layout == NetworkLayout::V2 {
            let thousand = self.graph.floats("const.1000", &[], &[1000.0]);
            t = self.op("Mul", &[&t, &thousand], "time.scaled");
        }
        let column = self.reshape(&t, &[-1, 1], "time.column");
        let frequencies = self.graph.floats("time.frequencies", &[1, half as i64], &frequencies);
        let angles = self.op("Mul", &[&column, &frequencies], "time.angles");
        let cosines = self.op("Cos", &[&angles], "time.cosines");
        let sines = self.op("Sin", &[&angles], "time.sines");
        let waves = self.graph.node("Concat", &[&cosines, &sines], "time.waves", &[("axis", Int(1))]);
        let waves = self.graph.narrow(&waves, "time.waves.half");
        let hidden = self.linear(&waves, "t_embedder.mlp.0", true, "time.hidden");
        let active = self.silu(&hidden, "time.active");
        self.linear(&active, "t_embedder.mlp.2", true, "time.embedding")
    }

    /// The labels, then as many null labels.
    fn both_labels(&mut self) -> String {
        let zero = self.graph.ints("const.int0", &[], &[0]);
        let null = self.graph.ints("const.null_label", &[], &[self.config.null_label()]);
        let zeros = self.op("Mul", &["breed", &zero], "guided.zeros");
        let nulls = self.op("Add", &[&zeros, &null], "guided.nulls");
        self.graph.node("Concat", &["breed", &nulls], "guided.labels", &[("axis", Int(0))])
    }

    /// SiLU(time + label embedding) `[B, E]`: what every modulation begins with.
    fn condition(&mut self, time: &str, labels: &str) -> String {
        let table = self.graph.weight("breed_embedder.embedding.weight");
        let label = self.graph.node("Gather", &[&table, labels], "label.embedding", &[("axis", Int(0))]);
        let condition = self.op("Add", &[time, &label], "condition");
        self.silu(&condition, "condition.active")
    }

    /// The `parts` of a modulation, each `[B, 1, E]`.
    fn modulation(&mut self, condition: &str, layer: &str, parts: usize, output: &str) -> Vec<String> {
        let (e, count) = (self.config.embed_dim as i64, parts as i64);
        let all = self.linear(condition, layer, true, &format!("{output}.all"));
        let rows = self.reshape(&all, &[-1, count, e], &format!("{output}.rows"));
        self.split(&rows, &vec![1; parts], 1, output)
    }

    fn split(&mut self, x: &str, sizes: &[i64], axis: i64, output: &str) -> Vec<String> {
        let name = format!("split.{}x{}", sizes.len(), sizes.first().copied().unwrap_or(0));
        let sizes_name = self.graph.ints(&name, &[sizes.len() as i64], sizes);
        let outputs: Vec<String> = (0..sizes.len()).map(|i| format!("{output}.{i}")).collect();
        self.graph.nodes("Split", &[x, &sizes_name], &outputs, &[("axis", Int(axis))]);
        outputs
    }

    /// `norm(x) * (1 + scale) + shift`, as rows `[B * N, E]`.
    fn modulated_norm(&mut self, x: &str, norm: &str, shift: &str, scale: &str, output: &str) -> String {
        let weight = self.graph.weight(&format!("{norm}.weight"));
        let bias = self.graph.weight(&format!("{norm}.bias"));
        let attributes = [("axis", Int(-1)), ("epsilon", Float(1e-5))];
        let normed =
            self.graph.node("LayerNormalization", &[x, &weight, &bias], &format!("{output}.normed"), &attributes);
        let one = self.graph.scalar("const.1", 1.0);
        let factor = self.op("Add", &[scale, &one], &format!("{output}.factor"));
        let scaled = self.op("Mul", &[&normed, &factor], &format!("{output}.scaled"));
        let shifted = self.op("Add", &[&scaled, shift], &format!("{output}.shifted"));
        self.reshape(&shifted, &[-1, self.config.embed_dim as i64], output)
    }

    /// `x + gate * rows`, `[B, N, E]`.
    fn gated(&mut self, x: &str, rows: &str, gate: &str, output: &str) -> String {
        let (e, n) = (self.config.embed_dim as i64, self.config.tokens() as i64);
        let tokens = self.reshape(rows, &[-1, n, e], &format!("{output}.tokens"));
        let gated = self.op("Mul", &[gate, &tokens], &format!("{output}.gated"));
        self.op("Add", &[x, &gated], output)
    }

    fn block(&mut self, n: usize, x: &str, condition: &str) -> String {
        let name = format!("block{n}");
        let layer = |part: &str| format!("blocks.{n}.{part}");
        let m = self.modulation(condition, &layer("adaLN_modulation.1"), 6, &format!("{name}.modulation"));
        let input = self.modulated_norm(x, &layer("norm1"), &m[0], &m[1], &format!("{name}.attention.input"));
        let attended = self.attention(&input, &layer("attn.qkv"), &format!("{name}.attention"));
        let rows = self.linear(&attended, &layer("attn.proj"), true, &format!("{name}.attention.projected"));
        let x = self.gated(x, &rows, &m[2], &format!("{name}.attention.output"));
        let input = self.modulated_norm(&x, &layer("norm2"), &m[3], &m[4], &format!("{name}.mlp.input"));
        let hidden = self.linear(&input, &layer("mlp.fc1"), true, &format!("{name}.mlp.hidden"));
        let active = self.gelu(&hidden, &format!("{name}.mlp.active"));
        let rows = self.linear(&active, &layer("mlp.fc2"), true, &format!("{name}.mlp.projected"));
        self.gated(&x, &rows, &m[5], &format!("{name}.output"))
    }

    /// Attention of rows `[B * N, E]`, giving rows.
    fn attention(&mut self, input: &str, qkv: &str, name: &str) -> String {
        let config = self.config;
        let (e, n) = (config.embed_dim as i64, config.tokens() as i64);
        let (heads, width) = (config.num_heads as i64, config.head_dim() as i64);
        let all = self.linear(input, qkv, false, &format!("{name}.qkv"));
        let parts = self.split(&all, &[e, e, e], 1, &format!("{name}.part"));
        let side = |emitter: &mut Self, which: usize, letter: &str, order: &[i64]| {
            let split = emitter.reshape(&parts[which], &[-1, n, heads, width], &format!("{name}.{letter}.heads"));
            emitter.transpose(&split, order, &format!("{name}.{letter}"))
        };
        let query = side(self, 0, "q", &[0, 2, 1, 3]);
        let key = side(self, 1, "k", &[0, 2, 3, 1]);
        let value = side(self, 2, "v", &[0, 2, 1, 3]);
        let scale = self.graph.scalar("attention.scale", (width as f32).powf(-0.5));
        let query = self.op("Mul", &[&query, &scale], &format!("{name}.q.scaled"));
        let scores = self.op("MatMul", &[&query, &key], &format!("{name}.scores"));
        let weights = self.graph.node("Softmax", &[&scores], &format!("{name}.weights"), &[("axis", Int(-1))]);
        let mixed = self.op("MatMul", &[&weights, &value], &format!("{name}.mixed"));
        let merged = self.transpose(&mixed, &[0, 2, 1, 3], &format!("{name}.merged"));
        self.reshape(&merged, &[-1, e], &format!("{name}.rows"))
    }

    /// Exact GELU.
    fn gelu(&mut self, x: &str, output: &str) -> String {
        let root = self.graph.scalar("const.sqrt2", std::f32::consts::SQRT_2);
        let one = self.graph.scalar("const.1", 1.0);
        let half = self.graph.scalar("const.half", 0.5);
        let divided = self.op("Div", &[x, &root], &format!("{output}.divided"));
        let erf = self.op("Erf", &[&divided], &format!("{output}.erf"));
        let raised = self.op("Add", &[&erf, &one], &format!("{output}.raised"));
        let product = self.op("Mul", &[x, &raised], &format!("{output}.product"));
        self.op("Mul", &[&product, &half], output)
    }

    /// The final layer, and patches back to pictures (interleaved tokens in `v1`).
    fn last(&mut self, x: &str, condition: &str, output: &str) -> String {
        let config = self.config;
        let [s, p, c, grid] = [config.image_size, config.patch_size, config.channels, config.grid()].map(|v| v as i64);
        let m = self.modulation(condition, "final_layer.adaLN_modulation.1", 2, "final.modulation");
        let input = self.modulated_norm(x, "final_layer.norm_final", &m[0], &m[1], "final.input");
        let rows = self.linear(&input, "final_layer.linear", true, "final.rows");
        let ordered = match config.layout {
            NetworkLayout::V1 => {
                let tokens =
                    self.reshape(&rows, &[-1, config.tokens() as i64, config.patch_len() as i64], "final.tokens");
                self.transpose(&tokens, &[0, 2, 1], "final.interleaved")
            }
            NetworkLayout::V2 => {
                let patches = self.reshape(&rows, &[-1, grid, grid, p, p, c], "final.patches");
                self.transpose(&patches, &[0, 5, 1, 3, 2, 4], "final.ordered")
            }
        };
        self.reshape(&ordered, &[-1, c, s, s], output)
    }

    /// `v_u + scale * (v_c - v_u)` of the doubled batch.
    fn combine(&mut self, velocity: &str, scale: f32) {
        let (s, c) = (self.config.image_size as i64, self.config.channels as i64);
        let halves = self.reshape(velocity, &[2, -1, c, s, s], "guided.halves");
        let half = |emitter: &mut Self, index: i64, name: &str| {
            let index = emitter.graph.ints(&format!("const.index{index}"), &[], &[index]);
            emitter.graph.node("Gather", &[&halves, &index], name, &[("axis", Int(0))])
        };
        let conditional = half(self, 0, "guided.conditional");
        let unconditional = half(self, 1, "guided.unconditional");
        let difference = self.op("Sub", &[&conditional, &unconditional], "guided.difference");
        let scale = self.graph.floats("guided.scale", &[], &[scale]);
        let scaled = self.op("Mul", &[&difference, &scale], "guided.scaled");
        self.op("Add", &[&unconditional, &scaled], "velocity");
    }
}
