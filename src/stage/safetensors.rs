//! `safetensors`: the selected weights as one safetensors file, or as shards with an index, byte-reproducible; cast where
//! asked, with the error measured. Keyed by the tensor table: the checkpoint file itself is read again, and every tensor
//! is held against the table.

use super::workspace::InputFile;
use super::{Declare, Kind, Workspace, facts_under, text_param};
use crate::core::action::{Action, Declaration, FactRead, InputFrom, Shape};
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::size;
use crate::model::architecture::Architecture;
use crate::model::cast::Cast;
use crate::model::checkpoint::{Checkpoint, Scalar, WeightsChoice};
use crate::model::safetensors_out::SafetensorsFile;
use crate::model::shards::{self, Wanted};
use crate::model::table::TensorTable;
use crate::model::tinydit::CONFIG_KEY;
use std::collections::BTreeMap;

/// See the module.
pub struct Safetensors;

impl Kind for Safetensors {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "safetensors",
            doc: "the checkpoint's weights as model.safetensors",
            fields: &[
                Field::required("from", FieldType::Artifact, "the checkpoint"),
                Field::optional(
                    "dtype",
                    FieldType::Choice(&["fp32", "fp16", "bf16"]),
                    "what floating-point tensors are cast to; as they are by default",
                ),
                Field::optional(
                    "max_shard_size",
                    FieldType::Size,
                    "makes a directory: files of at most this size, and their index",
                ),
            ],
            facts: &["tensors", "parameters", "bytes", "dtypes", "shards", "cast_max_abs_error", "cast_max_rel_error"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["checkpoint"])?;
        let max = cx.spec.text("max_shard_size").and_then(size::parse);
        if max == Some(0) {
            return Err(cx.error("max_shard_size", "nothing fits a shard of no bytes"));
        }
        let shape = if max.is_some() { Shape::Dir } else { Shape::File(shards::ONE.into()) };
        let mut declaration = Declaration::new("safetensors", self.version(), shape)
            .param("from", from.as_str())
            .input("table", InputFrom::Artifact(from.clone()), cx.spec.place("from"));
        // only where they are set, so that what was made before there were such keys stays valid
        if let Some(bytes) = max.and_then(|max| i64::try_from(max).ok()) {
            declaration = declaration.param("max_shard_size", bytes);
        }
        if let Some(dtype) = cx.spec.text("dtype") {
            declaration = declaration.param("dtype", dtype);
        }
        if let Some(path) = cx.checkpoint_path(&from) {
            declaration.proven.insert("checkpoint".into(), path);
        }
        let reads = ["weights", "config"].map(String::from).into();
        declaration.facts.push((from, FactRead::Names(reads), cx.spec.place("from")));
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let from = text_param(action, "from")?;
        let table_file = workspace.file("table")?;
        let (table, table_digest) = (read_table(table_file)?, table_file.digest);
        let path = workspace.proven_file("checkpoint")?;
        let file = Checkpoint::open(path)?;
        let dict = file.select(choice(action, from))?;
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let settings = facts_under(action, from, "config")
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_string(), Scalar::Int(v.as_int()?))))
            .collect();
        if let Some(architecture) = Architecture::infer(dict, &settings)? {
            metadata.insert(CONFIG_KEY.into(), architecture.to_json());
        }
        let mut cast = action.params.get("dtype").and_then(|v| v.as_text()).and_then(Cast::to);
        let max = action.params.get("max_shard_size").and_then(|v| v.as_int()).and_then(|v| u64::try_from(v).ok());
        let dir = workspace.out();
        std::fs::create_dir_all(&dir).on("create", &dir)?;
        let wanted = Wanted { metadata: &metadata, max, table: Some(&table), digest: workspace.published };
        let written = shards::write(&dir, dict, wanted, cast.as_mut())?;
        workspace.digested.extend(written.digests);
        if written.tensors != table.tensors.len() || written.parameters != table.parameters() {
            return Err(Error::stage(format!(
                "{} tensors were written where the checkpoint has {}",
                written.tensors,
                table.tensors.len()
            )));
        }
        let mut facts = Facts::default();
        let of = facts.subject("the tensor table", table_digest);
        facts.set("tensors", written.tensors, of);
        facts.set("parameters", written.parameters, of);
        facts.set("bytes", written.bytes, of);
        facts.set("dtypes", written.dtypes.into_iter().map(String::from).collect::<Vec<_>>(), of);
        if max.is_some() {
            facts.set("shards", written.shards, of);
        }
        if let Some(cast) = cast {
            facts.set("cast_max_abs_error", cast.max_abs_error, of);
            facts.set("cast_max_rel_error", cast.max_rel_error, of);
        }
        Ok(facts)
    }
}

/// Which weights the checkpoint's table is of.
pub(super) fn choice(action: &Action, from: &str) -> WeightsChoice {
    match facts_under(action, from, "").get("weights").and_then(|v| v.as_text()) {
        Some("raw") => WeightsChoice::Raw,
        _ => WeightsChoice::Ema,
    }
}

/// The tensor table of an input.
pub(super) fn read_table(input: &InputFile) -> Result<TensorTable> {
    TensorTable::from_bytes(&std::fs::read(&input.file).on("read", &input.file)?)
}

/// The weights of an input, in one file or in shards.
pub(super) fn open(files: &[InputFile]) -> Result<SafetensorsFile> {
    let files: Vec<_> = files.iter().map(|input| (input.path.as_str(), input.file.as_path())).collect();
    shards::open(&files)
}
