//! Gates that guard nothing. A condition that no upload waits for refuses nothing, and who wrote it believes that it does.
//!
//! Pure; knows the graph alone.

use crate::core::error::Result;
use crate::core::graph::{Graph, NodeId, Work};
use crate::core::manifest::dom::{Source, join};
use std::collections::BTreeSet;

/// Refuses, in a project that publishes, a `check` that no upload waits for; and anywhere a condition over `published` that
/// no upload would ask.
pub fn check(graph: &Graph, source: &Source) -> Result<()> {
    let uploads: Vec<NodeId> = graph.ids().filter(|id| matches!(graph.node(*id).work, Work::Upload(_))).collect();
    let guarded = graph.closure(&uploads);
    let mut told = BTreeSet::new();
    let mut problems = Vec::new();
    for id in graph.ids().filter(|id| !guarded[id.index()]) {
        let (node, Some(clause)) = (graph.node(id), graph.clause(id)) else { continue };
        let check = &node.name.artifact;
        let message = match uploads.is_empty() {
            true if clause.is_about_published() => "compares with what is published, and nothing here publishes",
            true => continue,
            false => "guards nothing: no upload waits for it",
        };
        if !told.insert(check.clone()) {
            continue;
        }
        let error = source.error(node.span.clone(), format!("`{check}` {message}"));
        problems.push(match uploads.first() {
            Some(upload) => {
                let upload = &graph.node(*upload).name;
                error.hint(format!("add `\"{check}\"` to `after` of [artifact.{upload}], or take the check out"))
            }
            None => error.hint("a condition over `published` belongs to a check that an upload waits for"),
        });
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}
