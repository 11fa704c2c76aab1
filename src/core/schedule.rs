//! Who goes first, and what never got its turn: decided by the graph, by what stages took earlier and by what is settled.
//!
//! Pure and the same for the same history. Does not know pools, nor what is running.

use crate::core::graph::{Graph, NodeId, Work};
use crate::core::plan::{Settled, useless};
use crate::core::receipt::History;
use std::collections::{BTreeSet, HashMap};

/// Seconds of a stage of which nothing is known.
const UNKNOWN: f64 = 1.0;

/// For each node the seconds from its start to the end of the longest chain of wanted nodes that begins with it. A stage
/// takes what it took last, else what the shards of its artifact took on average, else a second; gates and uploads take
/// nothing.
pub fn critical_paths(graph: &Graph, wanted: &[bool], history: &History) -> Vec<f64> {
    let mut paths = own_seconds(graph, history);
    for &id in graph.order.iter().rev() {
        let after = graph.node(id).consumers.iter().filter(|c| wanted[c.index()]).map(|c| paths[c.index()]);
        paths[id.index()] += after.fold(0.0, f64::max);
    }
    paths
}

/// The turn of each node: gates and what does not have to run (`decided`), in topological order; then stages, those with
/// the longest critical path first; then uploads. Among equals in topological order; no two nodes have the same turn.
pub fn turns(graph: &Graph, wanted: &[bool], history: &History, decided: impl Fn(NodeId) -> bool) -> Vec<u32> {
    let paths = critical_paths(graph, wanted, history);
    let rank = |id: NodeId| match graph.node(id).work {
        Work::Upload(_) => (2, 0.0),
        Work::Stage(_) if !decided(id) => (1, -paths[id.index()]),
        Work::Stage(_) | Work::Gate(_) => (0, 0.0),
    };
    let mut order: Vec<_> = graph.order.iter().map(|id| (rank(*id), *id)).collect();
    // a stable sort: what is equal stays in topological order
    order.sort_by(|((a, path_a), _), ((b, path_b), _)| a.cmp(b).then(path_a.total_cmp(path_b)));
    let mut turns = vec![0; graph.nodes.len()];
    for (turn, (_, id)) in (0..).zip(order) {
        turns[id.index()] = turn;
    }
    turns
}

fn own_seconds(graph: &Graph, history: &History) -> Vec<f64> {
    let mut seconds = vec![0.0; graph.nodes.len()];
    for ids in graph.artifacts.values() {
        let stages = || ids.iter().filter(|id| graph.stage(**id).is_some());
        let last: Vec<Option<f64>> = stages()
            .map(|id| history.last(&graph.node(*id).name).map(|r| r.seconds))
            .map(|took| took.filter(|s| s.is_finite() && *s >= 0.0))
            .collect();
        let known = last.iter().flatten().count();
        let mean = if known == 0 { UNKNOWN } else { last.iter().flatten().sum::<f64>() / known as f64 };
        for (id, took) in stages().zip(last) {
            seconds[id.index()] = took.unwrap_or(mean);
        }
    }
    seconds
}

/// What never got its turn because something before it was refused or failed.
pub struct Left {
    /// How many nodes, gates among them.
    pub count: usize,
    /// Their names without the gates (a clause that was never asked is counted, not listed), by what is in the way.
    pub groups: Vec<(NodeId, Vec<String>)>,
}

/// See [`Left`].
pub fn left_over(graph: &Graph, wanted: &[bool], targets: &BTreeSet<NodeId>, settled: &[Option<Settled>]) -> Left {
    let open = graph.order.iter().filter(|id| wanted[id.index()] && settled[id.index()].is_none());
    let causes: HashMap<NodeId, NodeId> = useless(graph, wanted, targets, settled).into_iter().collect();
    let mut left = Left { count: 0, groups: Vec::new() };
    let mut at: HashMap<NodeId, usize> = HashMap::new();
    for id in open {
        left.count += 1;
        let node = graph.node(*id);
        let Some(by) = causes.get(id).filter(|_| !matches!(node.work, Work::Gate(_))) else { continue };
        let group = *at.entry(*by).or_insert(left.groups.len());
        match left.groups.get_mut(group) {
            Some((_, names)) => names.push(node.name.to_string()),
            None => left.groups.push((*by, vec![node.name.to_string()])),
        }
    }
    left
}
