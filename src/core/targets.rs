//! Several uploads side by side: no two of them to one place on the Hub, and no two trees laid out in one folder.
//!
//! Pure; knows the graph alone. What a flag changes is looked at again by whoever reads flags.

use crate::core::error::Result;
use crate::core::graph::{Graph, NodeId, Upload};
use crate::core::manifest::dom::{Source, join};

/// Refuses two uploads that would get into each other's way; both places are told.
pub fn check(graph: &Graph, source: &Source) -> Result<()> {
    let uploads: Vec<(NodeId, &Upload)> = graph.uploads().collect();
    let mut problems = Vec::new();
    for (at, (second, upload)) in uploads.iter().enumerate() {
        for (first, other) in &uploads[..at] {
            let (one, two) = (graph.node(*first), graph.node(*second));
            let (a, b) = (&one.name.artifact, &two.name.artifact);
            let (to, into) = (&upload.to, &other.to);
            let why = if (&to.kind, &to.repo, &to.revision) == (&into.kind, &into.repo, &into.revision) {
                let message = format!(
                    "`{b}` and `{a}` both publish to the {} `{}` at `{}`: each would delete the other's files",
                    to.kind, to.repo, to.revision
                );
                (
                    message,
                    format!("give `{b}` another `repo`, `type` or `revision`, or put its files into [artifact.{a}]"),
                )
            } else if let (Some(tag), true) =
                (&to.tag, (&to.kind, &to.repo, &to.tag) == (&into.kind, &into.repo, &into.tag))
            {
                (
                    format!(
                        "`{b}` and `{a}` both tag the {} `{}` with `{tag}`: it would stand where one of them was first",
                        to.kind, to.repo
                    ),
                    format!("give [artifact.{b}] a `tag` of its own"),
                )
            } else if is_within(upload.dist.as_str(), other.dist.as_str())
                || is_within(other.dist.as_str(), upload.dist.as_str())
            {
                let message = format!(
                    "`{b}` is laid out in `{}/`, and `{a}` in `{}/`: one tree would stand in the other",
                    upload.dist, other.dist
                );
                (message, format!("give each its own `dist`, or leave both out: `dist/{a}`, `dist/{b}`"))
            } else {
                continue;
            };
            problems.push(source.error(two.span.clone(), why.0).hint(why.1));
            problems.push(source.error(one.span.clone(), format!("the other upload, `{a}`, is here")));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

fn is_within(path: &str, folder: &str) -> bool {
    path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
