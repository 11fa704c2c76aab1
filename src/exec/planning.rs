//! Planning with the effects that a plan needs: blobs are looked for, Hub digests that nobody knows are computed.
//!
//! The pure planner is asked again until nothing new comes up; it alone decides.

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::plan::{self, Settled, World};
use crate::core::receipt::Receipt;
use crate::core::verdict::Verdict;
use crate::exec::drive::Sink;
use crate::exec::project::Project;
use crate::store::Store;
use crate::store::blobs::Blobs;
use crate::store::memo::Memo;
use crate::store::records::Loaded;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Plans with every effect that a plan needs: blobs that hits and runs need are looked for, Hub digests that nobody knows
/// are computed; then the pure planner is asked again, until nothing new comes up.
#[allow(clippy::too_many_arguments)]
pub fn plan_whole(
    project: &Project,
    store: &Store,
    wanted: &[bool],
    targets: &BTreeSet<NodeId>,
    loaded: &Loaded,
    memo: &mut Memo,
    world: &mut World,
    sink: &Sink,
) -> Result<plan::Plan> {
    let blobs = store.blobs();
    loop {
        let plan = plan::plan(&project.graph, wanted, targets, &loaded.history, world);
        let mut again = false;
        for receipt in needed(project, &plan) {
            for output in &receipt.outputs {
                if !world.lost.contains(&output.digest) && !blobs.is_whole(&output.digest, memo)? {
                    lose(&output.digest, &blobs, world, sink, &receipt.node.to_string(), &output.path);
                    again = true;
                }
            }
        }
        for (digest, _) in plan::without_hub_digests(&project.graph, &plan.settled, world) {
            if blobs.is_whole(&digest, memo)? {
                let read = blobs.hash_all(&digest)?;
                memo.remember_hub(digest, read.hub.clone());
                world.hub_digests.insert(digest, read.hub);
            } else {
                world.lost.insert(digest);
            }
            again = true;
        }
        if !again {
            return Ok(plan);
        }
    }
}

/// Receipts whose blobs will be read: those that are restored, and those that something that may run takes as input.
fn needed(project: &Project, plan: &plan::Plan) -> Vec<Arc<Receipt>> {
    let graph = &project.graph;
    let mut out = Vec::new();
    for id in graph.ids() {
        let Some(decision) = &plan.decisions[id.index()] else { continue };
        match (&decision.verdict, &decision.receipt) {
            (Verdict::Restore { places }, Some(receipt)) if !places.is_empty() => out.push(receipt.clone()),
            (Verdict::Run { .. } | Verdict::Pending { .. }, _) => {
                let made = graph.node(id).deps.iter().filter_map(|d| match &plan.settled[d.index()] {
                    Some(Settled::Made(receipt)) => Some(receipt.clone()),
                    _ => None,
                });
                out.extend(made);
            }
            _ => {}
        }
    }
    out
}

/// Says that a blob is gone or damaged, and lets the world know.
pub fn lose(digest: &Digest, blobs: &Blobs, world: &mut World, sink: &Sink, node: &str, path: &str) {
    let how = if blobs.path(digest).exists() { "damaged" } else { "gone" };
    blobs.discard(digest);
    world.lost.insert(*digest);
    sink(Event::Warning {
        text: format!("`{path}` of `{node}` is {how} in the cache ({}), so it is made again", digest.short()),
    });
}
