//! Partial results and loaded graphs, as the driver hands them to stages and takes them away again.
//!
//! Knows when an action's parts are wanted; not where they lie, and not what is in them.

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::exec::drive::Driver;
use crate::stage::Workspace;

impl Driver<'_> {
    /// Gives a stage the parts of its action and the sessions of this build. A stage that is forced begins anew.
    pub(super) fn partial(&self, workspace: &mut Workspace, id: NodeId, action: Digest) -> Result<()> {
        let parts = self.store.parts();
        if self.world.forced.contains(&id) {
            parts.remove(&action)?;
        }
        workspace.parts = Some(parts.of(action));
        workspace.sessions = self.sessions.clone();
        let (sink, node) = (self.sink.clone(), self.project.graph.node(id).name.to_string());
        workspace.tell = Box::new(move |text| sink(Event::Note { text: format!("{node} {text}") }));
        Ok(())
    }

    /// An action has its receipt, so its parts have done their service.
    pub(super) fn whole(&self, action: &Digest) {
        let _ = self.store.parts().remove(action); // what stays is swept at the end of a build
    }

    /// Removes parts of actions that have a receipt: what a kill between receipt and removal leaves.
    pub(super) fn sweep_parts(&self) {
        let all = self.store.parts().all().unwrap_or_default(); // they take room, and stand in nobody's way
        all.iter().filter(|of| self.loaded.history.receipt(&of.action).is_some()).for_each(|of| self.whole(&of.action));
    }
}
