//! `metadata`: config.json, from the checkpoint's facts. Nothing in it is typed by hand but the labels' names.

use super::{Declare, Kind, Workspace, facts_under};
use crate::core::action::{Action, Declaration, FactRead, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::value::Value;
use serde_json::{Map, Value as Json, json};

/// See the module.
pub struct Metadata;

impl Kind for Metadata {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "metadata",
            doc: "config.json from the checkpoint's facts",
            fields: &[
                Field::required("from", FieldType::Artifact, "the checkpoint"),
                Field::optional(
                    "labels",
                    FieldType::Param(&FieldType::List(&FieldType::Text)),
                    "names of the labels, by index",
                ),
            ],
            facts: &["bytes"],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["checkpoint"])?;
        let mut declaration = Declaration::new("metadata", self.version(), Shape::File("config.json".into()));
        let reads = ["config", "network", "parameters"].map(String::from).into();
        declaration = declaration.param("from", from.as_str());
        declaration.facts.push((from, FactRead::Names(reads), cx.spec.place("from")));
        if let Some(labels) = cx.value("labels") {
            declaration = declaration.param("labels", labels);
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let from = super::text_param(action, "from")?;
        let config = facts_under(action, from, "config");
        if config.is_empty() {
            return Err(Error::stage(format!("`{from}` has no facts on its configuration"))
                .hint("config.json is made for networks that hfbuild knows; for others, publish your own file by kind = \"files\""));
        }
        let all = facts_under(action, from, "");
        let mut out = Map::new();
        // `tinydit-v2` is a layout of `tinydit`
        let network = all.get("network").and_then(|v| v.as_text()).unwrap_or_default();
        out.insert("model_type".into(), network.split('-').next().unwrap_or_default().into());
        for name in ["network", "parameters"] {
            let value = all.get(name).ok_or_else(|| Error::stage(format!("`{from}` has no fact `{name}`")))?;
            out.insert(name.into(), value.to_json());
        }
        for (name, value) in &config {
            out.insert((*name).into(), value.to_json());
        }
        if let Some(Value::List(labels)) = action.params.get("labels") {
            let classes = config.get("num_classes").and_then(|v| v.as_int());
            if classes != Some(labels.len() as i64) {
                return Err(Error::stage(format!(
                    "the manifest names {} labels, the checkpoint has {}",
                    labels.len(),
                    classes.unwrap_or(0)
                ))
                .hint("`labels` names every label of the network, by index"));
            }
            let names: Map<String, Json> =
                labels.iter().enumerate().map(|(i, l)| (i.to_string(), l.to_json())).collect();
            out.insert("id2label".into(), names.into());
        }
        let mut text = serde_json::to_string_pretty(&json!(out)).unwrap_or_default();
        text.push('\n');
        let digest = workspace.write("config.json", text.as_bytes())?;
        let mut facts = Facts::default();
        let of = facts.subject("config.json", digest);
        facts.set("bytes", text.len(), of);
        Ok(facts)
    }
}
