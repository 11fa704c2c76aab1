//! Partial results, loaded graphs and devices, as the driver hands them to stages and takes them away again.
//!
//! Knows when an action's parts are wanted; not where they lie, and not what is in them.

use crate::core::action::Action;
use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::exec::drive::Driver;
use crate::exec::work::Done;
use crate::stage::Workspace;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinError;

/// A stage that has ended, or a thread that has ended badly.
pub(super) type Ended = Result<(NodeId, Action, Digest, Result<Done>), JoinError>;

/// The way by which stages that still run say that they need their device no longer.
pub(super) struct Released(UnboundedSender<NodeId>, UnboundedReceiver<NodeId>);

impl Default for Released {
    fn default() -> Released {
        let (say, hear) = unbounded_channel();
        Released(say, hear)
    }
}

impl Driver<'_> {
    /// Waits for a stage to end; meanwhile devices that are released go to the next ones. `None`: nothing runs.
    pub(super) async fn ended(&mut self) -> Result<Option<Ended>> {
        loop {
            tokio::select! {
                ended = self.running.join_next() => return Ok(ended),
                Some(id) = self.released.1.recv() => {
                    if let Some(held) = self.held.get_mut(&id) {
                        self.pools.release(held);
                        self.start_ready().await?;
                    }
                }
            }
        }
    }

    /// Gives a stage the parts of its action and the sessions of this build. A stage that is forced begins anew.
    pub(super) fn partial(&self, workspace: &mut Workspace, id: NodeId, action: Digest) -> Result<()> {
        let parts = self.store.parts();
        if self.world.forced.contains(&id) {
            parts.remove(&action)?;
        }
        workspace.parts = Some(parts.of(action));
        workspace.sessions = self.sessions.clone();
        let (sink, node) = (self.sink.clone(), self.project.graph.node(id).name.to_string());
        let say = self.released.0.clone();
        workspace.release = Box::new(move || {
            let _ = say.send(id); // nobody hears it where the build has ended
        });
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
