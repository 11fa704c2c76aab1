//! `statistics`: how far the classes of a set of samples lie apart, over all labels together.
//!
//! A model that does not heed its label draws every class alike: the difference between classes is then that within one.

use super::{Declare, Kind, Workspace, evaluation};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::Result;
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::value::Value;
use crate::model::pictures;
use crate::model::sample::Picture;

/// See the module.
pub struct Statistics;

impl Kind for Statistics {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "statistics",
            doc: "differences between and within the classes of samples",
            fields: &[Field::required(
                "from",
                FieldType::Artifact,
                "the samples (kind `samples`, or a command that makes LABEL/NAME.png)",
            )],
            facts: &[
                "classes",
                "count",
                "between_class_difference",
                "within_class_difference",
                "between_within_ratio",
                "closest_class_difference",
                "closest_classes",
            ],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let from = cx.artifact_of("from", &["samples", "command"])?;
        Ok(Declaration::new("statistics", self.version(), Shape::File("statistics.json".into())).input(
            "samples",
            InputFrom::Artifact(from),
            cx.spec.place("from"),
        ))
    }

    fn run(&self, _: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let (labelled, digest) = evaluation::pictures(workspace, "samples")?;
        let names: Vec<String> = labelled.keys().cloned().collect();
        let classes: Vec<Vec<Picture>> =
            labelled.into_values().map(|class| class.into_iter().map(|(_, picture)| picture).collect()).collect();
        let stats = pictures::class_stats(&classes)?;
        let mut facts = Facts::default();
        let of = facts.subject("the pictures of all labels", digest);
        facts.set("classes", names.len(), of);
        facts.set("count", classes.iter().map(Vec::len).sum::<usize>(), of);
        facts.set("between_class_difference", stats.between, of);
        facts.set("within_class_difference", stats.within, of);
        // two pictures that are one and the same divide by nothing: the ratio is then not measured
        facts.set("between_within_ratio", stats.within.filter(|w| *w > 0.0).map(|w| stats.between / w), of);
        facts.set("closest_class_difference", stats.closest, of);
        let (a, b) = stats.closest_pair;
        facts.set("closest_classes", vec![names[a].clone(), names[b].clone()], of);
        let all = facts.values.iter().map(|(name, fact)| (name.clone(), fact.value.clone())).collect();
        workspace.write("statistics.json", &super::json_text(&Value::Map(all)))?;
        Ok(facts)
    }
}
