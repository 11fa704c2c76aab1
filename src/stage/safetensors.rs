//! `safetensors`: the selected weights as one safetensors file, byte-reproducible. Keyed by the tensor table: the
//! checkpoint file itself is read again, and every tensor is held against the table.

use super::{Declare, Kind, Workspace, facts_under, text_param};
use crate::core::action::{Action, Declaration, FactRead, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::model::architecture::Architecture;
use crate::model::checkpoint::{Checkpoint, Scalar, WeightsChoice};
use crate::model::safetensors_out;
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
            fields: &[Field::required("from", FieldType::Artifact, "the checkpoint")],
            facts: &["tensors", "parameters", "bytes", "dtypes"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["checkpoint"])?;
        let mut declaration = Declaration::new("safetensors", self.version(), Shape::File("model.safetensors".into()))
            .param("from", from.as_str())
            .input("table", InputFrom::Artifact(from.clone()), cx.spec.place("from"));
        if let Some(path) = cx.checkpoint_path(&from) {
            declaration.proven.insert("checkpoint".into(), path);
        }
        let reads = ["weights", "config"].map(String::from).into();
        declaration.facts.push((from, FactRead::Names(reads), cx.spec.place("from")));
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let from = text_param(action, "from")?;
        let read = facts_under(action, from, "");
        let choice = match read.get("weights").and_then(|v| v.as_text()) {
            Some("raw") => WeightsChoice::Raw,
            _ => WeightsChoice::Ema,
        };
        let table_file = workspace.file("table")?;
        let bytes = std::fs::read(&table_file.file).map_err(|e| Error::io("read", &table_file.file, &e))?;
        let table = TensorTable::from_bytes(&bytes)?;
        let path = workspace.proven_file("checkpoint")?;
        let file = Checkpoint::open(path)?;
        let dict = file.select(choice)?;
        table.verify(dict)?;
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let settings = facts_under(action, from, "config")
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_string(), Scalar::Int(v.as_int()?))))
            .collect();
        if let Some(architecture) = Architecture::infer(dict, &settings)? {
            metadata.insert(CONFIG_KEY.into(), architecture.to_json());
        }
        let out = workspace.output("model.safetensors")?;
        let written = safetensors_out::write(&out, dict, &metadata)?;
        if written.tensors != table.tensors.len() || written.parameters != table.parameters() {
            return Err(Error::stage(format!(
                "{} tensors were written where the checkpoint has {}",
                written.tensors,
                table.tensors.len()
            )));
        }
        let mut facts = Facts::default();
        let of = facts.subject("the tensor table", table_file.digest);
        facts.set("tensors", written.tensors, of);
        facts.set("parameters", written.parameters, of);
        facts.set("bytes", written.bytes, of);
        facts.set("dtypes", dict.dtypes().into_keys().map(String::from).collect::<Vec<_>>(), of);
        Ok(facts)
    }
}
