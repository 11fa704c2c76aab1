//! `checkpoint`: reads a checkpoint file without running any pickle code. The output is the canonical tensor table, so a
//! re-save of the same weights, whose bytes differ, reruns nothing below it.

use super::{Declare, Kind, Workspace, text_param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::manifest::{KindInfo, Spec};
use crate::core::value::Value;
use crate::model::architecture::Architecture;
use crate::model::checkpoint::{Checkpoint as File, EmaForm, Scalar, Settings, WeightsChoice, sharded};
use crate::model::table::TensorTable;
use crate::model::tinydit;

/// See the module.
pub struct Checkpoint;

impl Kind for Checkpoint {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "checkpoint",
            doc: "reads a torch.save or safetensors file: the tensor table and what the file says of itself",
            fields: &[
                Field::required(
                    "path",
                    FieldType::Path,
                    "the checkpoint file, or a `.safetensors.index.json` beside its shards",
                ),
                Field::optional(
                    "weights",
                    FieldType::Choice(&["ema", "raw"]),
                    "which weights to publish, `ema` by default",
                ),
                Field::optional(
                    "config",
                    FieldType::Map(&FieldType::Int(0, 1 << 32)),
                    "what the file does not say, e.g. { num_heads = 6 }",
                ),
            ],
            facts: &[
                "container",
                "layout",
                "ema_present",
                "ema_form",
                "step",
                "epoch",
                "loss",
                "ema_step",
                "val_acc",
                "training_commit",
                "weights",
                "tensors",
                "parameters",
                "nonfinite",
                "freshly_initialised",
                "network",
                "config.*",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        4
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let declaration = Declaration::new("checkpoint", self.version(), Shape::File("tensors.json".into()));
        let config = cx.spec.counts("config").into_iter().map(|(k, v)| (k, Value::from(v))).collect();
        let path = cx.path("path")?;
        let mut declaration = declaration
            .param("config", Value::Map(config))
            .param("weights", cx.spec.text("weights").unwrap_or("ema"))
            .input("file", InputFrom::File(path.clone()), cx.spec.place("path"));
        // an index that is not there, or is none, is told when the file itself is looked for or read
        let index = cx.texts.get(path.as_str()).filter(|_| index_path(cx.spec).is_some()).and_then(Option::as_ref);
        let shards = index.and_then(|text| sharded::shards(text, path.as_str()).ok()).unwrap_or_default();
        for shard in shards {
            let beside =
                path.as_str().rsplit_once('/').map_or(shard.clone(), |(folder, _)| format!("{folder}/{shard}"));
            let beside = beside.parse().map_err(|why: String| cx.error("path", format!("shard `{shard}`: {why}")))?;
            declaration = declaration.input(&format!("shard {shard}"), InputFrom::File(beside), cx.spec.place("path"));
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let input = workspace.file("file")?;
        let file = File::open(&input.file)?;
        let choice = choice(action)?;
        let dict = file.select(choice)?;
        let (table, nonfinite) = TensorTable::measured(dict)?;
        if table.tensors.is_empty() {
            return Err(Error::stage(format!("`{}` holds no tensors", input.path)));
        }
        let mut facts = Facts::default();
        let source = facts.subject(&input.path, input.digest);
        of_file(&mut facts, &file, source);
        let text = table.to_bytes();
        let digest = workspace.write("tensors.json", &text)?;
        let weights = facts.subject(&format!("the {} weights", text_param(action, "weights")?), digest);
        facts.set("weights", text_param(action, "weights")?, weights);
        facts.set("tensors", dict.len(), weights);
        facts.set("parameters", dict.parameters(), weights);
        facts.set("nonfinite", nonfinite, weights);
        let architecture = Architecture::infer(dict, &settings(action, &file)?)?;
        if let Some(Architecture::TinyDit(_)) = architecture {
            facts.set("freshly_initialised", tinydit::freshly_initialised(dict)?, weights);
        }
        if let Some(architecture) = architecture {
            facts.set("network", architecture.name(), weights);
            for (name, value) in architecture.sizes() {
                facts.set(&format!("config.{name}"), value, weights);
            }
        }
        Ok(facts)
    }
}

/// The path of a checkpoint that is an index of safetensors shards, by its name: shards are inputs, so that they are in
/// the key, and have to be known before anything is read.
pub(super) fn index_path(spec: &Spec) -> Option<&str> {
    spec.text("path").filter(|path| spec.kind == "checkpoint" && path.ends_with(".safetensors.index.json"))
}

fn choice(action: &Action) -> Result<WeightsChoice> {
    Ok(if text_param(action, "weights")? == "raw" { WeightsChoice::Raw } else { WeightsChoice::Ema })
}

/// The file's own configuration, with what the manifest adds; a contradiction is an error.
fn settings(action: &Action, file: &File) -> Result<Settings> {
    let mut settings = file.config.clone();
    let Some(Value::Map(given)) = action.params.get("config") else { return Ok(settings) };
    for (name, value) in given {
        let value = Scalar::Int(value.as_int().unwrap_or_default());
        match settings.get(name) {
            Some(said) if said.as_usize() != value.as_usize() => {
                let shown = |scalar: &Scalar| scalar.as_usize().map_or("what is no size".into(), |n| n.to_string());
                return Err(Error::stage(format!(
                    "the manifest says `{name}` is {}, the checkpoint's config says {}",
                    shown(&value),
                    shown(said)
                )));
            }
            _ => settings.insert(name.clone(), value),
        };
    }
    Ok(settings)
}

/// What the file says of itself.
fn of_file(facts: &mut Facts, file: &File, of: usize) {
    facts.set("container", file.container.name(), of);
    facts.set("layout", file.layout.name(), of);
    facts.set("ema_present", file.ema.is_some(), of);
    let form = file.ema_form.map(|form| EmaForm::name(form).to_string());
    let optional: [(&str, Value); 7] = [
        ("ema_form", form.into()),
        ("step", file.step.into()),
        ("epoch", file.epoch.into()),
        ("loss", number(file.loss)),
        ("ema_step", file.ema_step.into()),
        ("val_acc", number(file.val_acc)),
        ("training_commit", file.training_commit.clone().into()),
    ];
    for (name, value) in optional {
        if value != Value::Null {
            facts.set(name, value, of);
        }
    }
}

/// NaN and infinity as words, which no gate takes for a number: a training that diverged must not look like one that said
/// nothing.
fn number(value: Option<f64>) -> Value {
    match value {
        Some(value) if !value.is_finite() => value.to_string().into(),
        value => value.into(),
    }
}
