//! `pytorch`: a clean `.pt` for fine-tuning: the raw weights, their moving average, the configuration and what the trainer
//! said of itself, without the optimizer's state. Reproducible bytes, read back and compared before it counts as made.
//!
//! The layout is that of an export (`model`, `ema_params`, `step`, `loss`, `config`), which `kind = "checkpoint"` reads.
//! Keyed by the checkpoint file itself: the tensor table proves the selected weights alone, and this holds both.

use super::workspace::InputFile;
use super::{Declare, Kind, Workspace, facts_under, safetensors, text_param};
use crate::core::action::{Action, Declaration, FactRead, InputFrom, Shape};
use crate::core::digest::Digest;
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::RelPath;
use crate::model::checkpoint::{Checkpoint, Scalar, Settings};
use crate::model::pytorch_out::{self, Saved};
use crate::model::table::TensorTable;
use crate::model::tensor::StateDict;
use std::path::Path;

/// See the module.
pub struct Pytorch;

/// What a constructor of the network takes, where the checkpoint's own configuration lacks it and its facts do not.
const NEEDED: [&str; 6] = ["image_size", "num_classes", "patch_size", "embed_dim", "depth", "num_heads"];

impl Kind for Pytorch {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "pytorch",
            doc: "a clean .pt for fine-tuning: weights, moving average, configuration, no optimizer",
            fields: &[
                Field::required("from", FieldType::Artifact, "the checkpoint"),
                Field::optional("name", FieldType::Text, "the file's name, `model.pt` by default"),
            ],
            facts: &["tensors", "parameters", "nonfinite", "bytes", "ema_present"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        3
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["checkpoint"])?;
        let name = cx.spec.text("name").unwrap_or("model.pt");
        if name.parse::<RelPath>().is_err() || name.contains('/') || stem(name).is_none() {
            return Err(
                cx.error("name", format!("`{}` is no file name that ends in `.pt` or `.pth`", name.escape_debug()))
            );
        }
        let place = || cx.spec.place("from");
        let mut declaration = Declaration::new("pytorch", self.version(), Shape::File(name.into()))
            .param("from", from.as_str())
            .param("name", name)
            .input("table", InputFrom::Artifact(from.clone()), place());
        if let Some(path) = cx.checkpoint_path(&from) {
            declaration = declaration.input("file", InputFrom::File(path), place());
        }
        let reads = ["weights", "config"].map(String::from).into();
        declaration.facts.push((from, FactRead::Names(reads), place()));
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let (from, name) = (text_param(action, "from")?, text_param(action, "name")?);
        let input = workspace.file("file")?;
        let file = Checkpoint::open(&input.file)?;
        let raw = raw(&file, input)?;
        safetensors::read_table(workspace.file("table")?)?.verify(file.select(safetensors::choice(action, from))?)?;
        let settings = settings(action, from, &file);
        no_secrets(&input.path, &settings)?;
        let out = workspace.output(name)?;
        let bytes = pytorch_out::write(&out, stem(name).unwrap_or(name), &saved(&file, raw, &settings))?;
        (workspace.progress)(1, 2);
        workspace.cancel.check()?;
        let nonfinite = compare(&out, &file, raw, &settings)?;
        (workspace.progress)(2, 2);
        for (value, kind) in &file.unread {
            workspace.say(&format!("`{value}` is {kind}, and is left out"))?;
        }
        let mut hasher = blake3::Hasher::new();
        let digest = Digest::from_hash(hasher.update_mmap_rayon(&out).on("read", &out)?.finalize());
        let mut facts = Facts::default();
        let of = facts.subject(name, digest);
        facts.set("tensors", raw.len(), of);
        facts.set("parameters", raw.parameters(), of);
        facts.set("nonfinite", nonfinite, of);
        facts.set("bytes", bytes, of);
        facts.set("ema_present", file.ema.is_some(), of);
        Ok(facts)
    }
}

/// The name without its suffix, if it has the right one.
fn stem(name: &str) -> Option<&str> {
    [".pt", ".pth"].iter().find_map(|suffix| name.strip_suffix(suffix)).filter(|stem| !stem.is_empty())
}

fn raw<'a>(file: &'a Checkpoint, input: &InputFile) -> Result<&'a StateDict> {
    file.raw.as_ref().ok_or_else(|| {
        Error::stage(format!(
            "`{}` holds a moving average alone, and fine-tuning starts from the raw weights",
            input.path
        ))
        .hint("publish the average with kind = \"safetensors\", or take a checkpoint that holds both")
    })
}

/// The checkpoint's own configuration, and of the network's sizes what it lacks.
fn settings(action: &Action, from: &str, file: &Checkpoint) -> Settings {
    let mut settings = file.config.clone();
    for (name, value) in facts_under(action, from, "config") {
        if let Some(size) = value.as_int().filter(|_| NEEDED.contains(&name)) {
            settings.entry(name.to_owned()).or_insert(Scalar::Int(size));
        }
    }
    settings
}

/// Words in the name of a setting whose value is nobody else's.
const SECRET: [&str; 6] = ["token", "api_key", "apikey", "password", "passwd", "secret"];

/// Refuses settings that hold a secret: trainers keep their arguments, a Hub token among them, and the file would carry it.
fn no_secrets(file: &str, settings: &Settings) -> Result<()> {
    for (name, value) in settings {
        let mut texts = vec![];
        each_text(value, &mut texts);
        let last = name.rsplit('.').next().unwrap_or(name).to_lowercase();
        for text in texts {
            let line = format!("{name} = \"{text}\"").replace('\0', " ");
            let what = format!("{file}: config.{name}");
            if let Some(hit) = super::secrets::search("config", line.as_bytes())?.first() {
                return Err(Error::stage(format!("`{what}` holds what looks like a secret (rule `{}`)", hit.rule))
                    .hint("save the checkpoint without it, and revoke it if the file was ever shared"));
            }
            // `tokenizer` and `pad_token` are none
            let named = SECRET.iter().any(|word| last == *word || last.ends_with(&format!("_{word}")));
            if named && text.len() >= 16 && !text.contains(char::is_whitespace) {
                return Err(Error::stage(format!("`{what}` looks like a secret by its name, and would be published"))
                    .hint("save the checkpoint without it, and revoke it if the file was ever shared"));
            }
        }
    }
    Ok(())
}

fn each_text<'a>(value: &'a Scalar, into: &mut Vec<&'a str>) {
    match value {
        Scalar::Text(text) => into.push(text),
        Scalar::List(items) => items.iter().for_each(|item| each_text(item, into)),
        _ => {}
    }
}

/// What is saved, in this order. Values that the checkpoint does not give are left out, but for `ema_params`, which
/// loaders ask for: `None` where there is no moving average.
fn saved<'a>(file: &'a Checkpoint, raw: &'a StateDict, settings: &Settings) -> Saved<'a> {
    let plain = |value: Scalar| Some(Saved::Plain(value));
    let items = [
        ("model", Some(Saved::Tensors(raw))),
        ("ema_params", file.ema.as_ref().map_or_else(|| plain(Scalar::Null), |ema| Some(Saved::Tensors(ema)))),
        ("step", file.step.map(Scalar::Int).and_then(plain)),
        ("epoch", file.epoch.map(Scalar::Int).and_then(plain)),
        ("ema_step", file.ema_step.map(Scalar::Int).and_then(plain)),
        ("loss", file.loss.map(Scalar::Float).and_then(plain)),
        ("val_acc", file.val_acc.map(Scalar::Float).and_then(plain)),
        ("git_commit", file.training_commit.clone().map(Scalar::Text).and_then(plain)),
        ("config", Some(nested(settings))),
    ];
    Saved::Dict(items.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

/// Settings as they were saved: dotted names are dicts within dicts.
fn nested<'a>(settings: &Settings) -> Saved<'a> {
    let mut items: Vec<(String, Saved<'a>)> = vec![];
    let mut groups: Vec<(&str, Settings)> = vec![];
    for (name, value) in settings {
        // a name that is a value itself opens no group
        let opens =
            |(group, rest): &(&str, &str)| !group.is_empty() && !rest.is_empty() && !settings.contains_key(*group);
        let group = name.split_once('.').filter(opens);
        match group {
            None => items.push((name.clone(), Saved::Plain(value.clone()))),
            Some((group, rest)) => {
                let at = groups.iter().position(|(known, _)| *known == group).unwrap_or_else(|| {
                    groups.push((group, Settings::new()));
                    groups.len() - 1
                });
                groups[at].1.insert(rest.to_owned(), value.clone());
            }
        }
    }
    items.extend(groups.iter().map(|(group, inner)| ((*group).to_owned(), nested(inner))));
    Saved::Dict(items)
}

/// Reads the file back and holds all that it says against the checkpoint; how many values of its weights, raw and averaged,
/// are NaN or infinite.
fn compare(out: &Path, file: &Checkpoint, raw: &StateDict, settings: &Settings) -> Result<u64> {
    let back = Checkpoint::open(out)?;
    let differs =
        |what: &str| Error::stage(format!("the file that was written has another `{what}` than the checkpoint"));
    let back_raw = back.raw.as_ref().ok_or_else(|| differs("model"))?;
    let (table, mut nonfinite) = TensorTable::measured(raw)?;
    table.verify(back_raw)?;
    match (&file.ema, &back.ema) {
        (Some(ema), Some(written)) => {
            let (table, more) = TensorTable::measured(ema)?;
            table.verify(written)?;
            nonfinite += more;
        }
        (None, None) => {}
        _ => return Err(differs("ema_params")),
    }
    let float = |value: Option<f64>| value.map(f64::to_bits); // NaN equals itself, below too
    for (what, same) in [
        ("step", file.step == back.step),
        ("epoch", file.epoch == back.epoch),
        ("ema_step", file.ema_step == back.ema_step),
        ("loss", float(file.loss) == float(back.loss)),
        ("val_acc", float(file.val_acc) == float(back.val_acc)),
        ("git_commit", file.training_commit == back.training_commit),
        ("config", format!("{settings:?}") == format!("{:?}", back.config)),
    ] {
        if !same {
            return Err(differs(what));
        }
    }
    Ok(nonfinite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_among_the_trainers_arguments_is_refused_and_never_shown() {
        let hub = format!("hf_{}", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG");
        for (name, value) in [
            ("hub_token", hub.clone()),
            ("args.push_to", hub.clone()),
            ("logger.wandb_api_key", "0123456789abcdef".repeat(2)),
        ] {
            let values = [("depth", Scalar::Int(2)), (name, Scalar::List(vec![Scalar::Text(value.clone())]))];
            let settings = values.map(|(name, value)| (name.to_string(), value)).into();
            let error = no_secrets("run.pt", &settings).unwrap_err();
            assert!(error.message().contains(&format!("run.pt: config.{name}")), "{error}");
            assert!(!format!("{error:?}").contains(&value));
        }
        let harmless =
            [("pad_token", "<pad>"), ("tokenizer", "google/byt5-small-and-a-long-name"), ("note", "a secret plan")];
        let settings = harmless.map(|(name, text)| (name.to_string(), Scalar::Text(text.into()))).into();
        assert!(no_secrets("run.pt", &settings).is_ok());
    }
}
