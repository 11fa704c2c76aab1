//! What is ready, in the order in which it takes its turn.
//!
//! Knows turns (see [`crate::core::schedule`]) and what stages ask of the pools; does not decide whether a node has to run.

use crate::core::graph::NodeId;
use crate::exec::pools::Pools;
use std::collections::{BTreeMap, BTreeSet};

/// Ready nodes. Those that nobody looked at yet come in turn whatever is free, for a hit or a gate needs no tokens. Stages
/// that wait for tokens are kept by what they ask for: where the first of those that ask for the same cannot start, none
/// of them can, so that a thousand waiting stages cost no more than one. A stage that fits starts, also before one whose
/// turn is earlier and that does not fit. Uploads come when nothing runs and nothing waits: what they send does not change
/// under them.
#[derive(Debug)]
pub struct Queue {
    turns: Vec<u32>,
    new: BTreeSet<(u32, NodeId)>,
    waiting: BTreeMap<BTreeMap<String, usize>, BTreeSet<(u32, NodeId)>>,
    uploads: BTreeSet<(u32, NodeId)>,
}

impl Queue {
    /// An empty queue; `turns` are by node.
    pub fn new(turns: Vec<u32>) -> Queue {
        Queue { turns, new: BTreeSet::new(), waiting: BTreeMap::new(), uploads: BTreeSet::new() }
    }

    /// A node is ready.
    pub fn push(&mut self, id: NodeId, upload: bool) {
        let turn = (self.turns[id.index()], id);
        if upload {
            self.uploads.insert(turn)
        } else {
            self.new.insert(turn)
        };
    }

    /// A stage has to run and the pools lack what it asks for.
    pub fn wait(&mut self, id: NodeId, resources: &BTreeMap<String, usize>) {
        let turn = (self.turns[id.index()], id);
        match self.waiting.get_mut(resources) {
            Some(group) => group.insert(turn),
            None => self.waiting.entry(resources.clone()).or_default().insert(turn),
        };
    }

    /// The next node to look at, taken out: one that is new, or one that waited and for which there is room now. `idle`:
    /// nothing runs.
    pub fn next(&mut self, pools: &Pools, idle: bool) -> Option<NodeId> {
        let fits = |(resources, group): (&BTreeMap<String, usize>, &BTreeSet<(u32, NodeId)>)| {
            let first = group.first().copied()?;
            pools.have(resources).then(|| (first, resources.clone()))
        };
        let waiting = if pools.are_full() { None } else { self.waiting.iter().filter_map(fits).min() };
        let new = self.new.first().copied();
        match waiting {
            Some((turn, resources)) if new.is_none_or(|new| turn < new) => {
                if let Some(group) = self.waiting.get_mut(&resources) {
                    group.remove(&turn);
                    if group.is_empty() {
                        self.waiting.remove(&resources);
                    }
                }
                Some(turn.1)
            }
            _ if new.is_some() => self.new.pop_first().map(|(_, id)| id),
            _ if idle && self.waiting.is_empty() => self.uploads.pop_first().map(|(_, id)| id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::manifest::Pool;

    #[test]
    fn the_earliest_turn_that_fits_comes_next_and_uploads_come_last() {
        let mut pools = Pools::new(&BTreeMap::from([("gpu".into(), Pool::Count(2))]), 2);
        let mut queue = Queue::new(vec![5, 4, 3, 2, 1, 0]);
        let gpus = |n: usize| BTreeMap::from([("gpu".to_string(), n)]);
        queue.push(NodeId(5), true);
        queue.wait(NodeId(4), &gpus(2));
        queue.wait(NodeId(3), &gpus(1));
        queue.wait(NodeId(2), &BTreeMap::new());
        queue.push(NodeId(0), false);
        let one = pools.take(&gpus(1)).expect("a token");
        let mut next = |pools: &Pools| queue.next(pools, true).map(|id| id.0);
        assert_eq!([next(&pools), next(&pools)], [Some(3), Some(2)], "two devices are not there, one is");
        let two = pools.take(&gpus(1)).expect("the other");
        assert!(pools.are_full());
        assert_eq!([next(&pools), next(&pools)], [Some(0), None], "what is new is looked at when nothing is free");
        pools.give_back(one);
        assert_eq!(next(&pools), None);
        pools.give_back(two);
        assert_eq!([next(&pools), next(&pools), next(&pools)], [Some(4), Some(5), None]);
    }
}
