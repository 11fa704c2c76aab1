//! Trimming the CAS to a size: what was used last stays longest, what is needed stays always.
//!
//! When a blob was used is read from the order of the actions log, not from the file's times: a receipt was in use when it
//! was made, when it was made current again, and until another one took its place. Knows receipts and publishes; which
//! nodes the manifest has it is told.

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::name::NodeName;
use crate::core::publish::Tree;
use crate::store::Store;
use crate::store::blobs::Stored;
use crate::store::log;
use crate::store::records::{self, ActionRecord, Loaded, Publishes};
use std::collections::{HashMap, HashSet};

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs removed.
    pub removed: usize,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Blobs that stay.
    pub kept: usize,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Bytes of those that stay whatever the size.
    pub needed_bytes: u64,
    /// Whether some of these are needed by publishes alone.
    pub for_publishes: bool,
    /// Partial results removed.
    pub parts: usize,
    /// Their bytes.
    pub parts_bytes: u64,
}

/// What has to stay.
#[derive(Default)]
struct Needed {
    actions: HashSet<Digest>,
    blobs: HashSet<Digest>,
    /// Blobs that only publishes need.
    published: HashSet<Digest>,
}

/// Removes the partial results of all actions but these, whatever the size: those that the manifest stands for now and
/// that have no receipt may still be resumed. Adds them to what was swept. Call with the lock held.
pub fn sweep_parts(store: &Store, resumable: &HashSet<Digest>, dry_run: bool, swept: &mut Swept) -> Result<()> {
    let parts = store.parts();
    for stale in parts.all()?.iter().filter(|of| !resumable.contains(&of.action)) {
        swept.parts += stale.count;
        swept.parts_bytes += stale.bytes;
        if !dry_run {
            parts.remove(&stale.action)?;
        }
    }
    Ok(())
}

/// Trims the blobs to `max` bytes, and the actions log to the receipts that still have theirs. `nodes` are those of the
/// manifest: their current receipts stay, those of the actions that it stands for now (`actions`), and the trees of
/// publishes that may have to be resumed. Call with the lock held.
pub fn sweep<'a>(
    store: &Store,
    nodes: impl Iterator<Item = &'a NodeName>,
    actions: &HashSet<Digest>,
    max: u64,
    dry_run: bool,
) -> Result<Swept> {
    let loaded = records::load(store)?;
    let needed = needed(&loaded, nodes, actions);
    let blobs = store.blobs();
    let stored = blobs.all()?;
    let actions = log::read::<ActionRecord>(&store.actions_log())?;
    let mut going = choose(&stored, &blob_uses(&loaded, &actions.records), &needed.blobs, max);
    let there: HashSet<Digest> = stored.iter().map(|b| b.digest).filter(|d| !going.contains(d)).collect();
    let (mut alive, mut named) = (needed.actions.clone(), needed.blobs.clone());
    for receipt in loaded.history.all().filter(|r| r.outputs.iter().all(|o| there.contains(&o.digest))) {
        alive.insert(receipt.action_digest);
        named.extend(receipt.outputs.iter().map(|o| o.digest));
    }
    // what only receipts named that go now would be nobody's: it goes with them
    let dropped = loaded.history.all().filter(|r| !alive.contains(&r.action_digest));
    going.extend(dropped.flat_map(|r| r.outputs.iter().map(|o| o.digest)).filter(|d| !named.contains(d)));
    if !dry_run {
        // The log first: a crash in between leaves blobs that no receipt names, and the next trim takes them first. The
        // other way round it would leave receipts without blobs: misses too, but each would be told as a loss.
        // Only a disk too full for the new log turns that round.
        let rewritten = rewrite(store, actions.records, &alive);
        for blob in stored.iter().filter(|b| going.contains(&b.digest)) {
            blobs.remove(&blob.digest)?;
        }
        if rewritten.is_err() {
            rewrite(store, log::read::<ActionRecord>(&store.actions_log())?.records, &alive)?;
        }
    }
    Ok(sum(&stored, &going, &needed))
}

/// Writes the actions log anew with the receipts of these actions alone, where that changes anything. Atomic.
pub(super) fn rewrite(store: &Store, records: Vec<ActionRecord>, alive: &HashSet<Digest>) -> Result<()> {
    let before = records.len();
    let after = compact(records, alive);
    if after.len() == before && after.iter().all(|r| alive.contains(&r.says().1)) {
        return Ok(());
    }
    log::rewrite(&store.actions_log(), &after)
}

fn needed<'a>(loaded: &Loaded, nodes: impl Iterator<Item = &'a NodeName>, actions: &HashSet<Digest>) -> Needed {
    let mut needed = Needed::default();
    let hits = actions.iter().filter_map(|action| loaded.history.receipt(action));
    for receipt in nodes.filter_map(|node| loaded.history.last(node)).chain(hits) {
        needed.actions.insert(receipt.action_digest);
        needed.blobs.extend(receipt.outputs.iter().map(|o| o.digest));
    }
    for file in trees(&loaded.publishes).into_iter().flat_map(Tree::values) {
        if needed.blobs.insert(file.digest) {
            needed.published.insert(file.digest);
        }
    }
    needed
}

/// The trees that a resumed publish may read: of every open intent, and of the last publish to each target.
fn trees(publishes: &Publishes) -> Vec<&Tree> {
    let mut seen = HashSet::new();
    let last = publishes.landed.iter().rev().filter(|p| seen.insert(&p.target)).map(|p| &p.tree);
    last.chain(publishes.open.iter().map(|i| &i.tree)).collect()
}

/// When an action was in use last, as a place in the log: twice the line where another took its place, or once more where
/// it was made or made current.
fn action_uses(records: &[ActionRecord]) -> HashMap<Digest, usize> {
    let (mut current, mut uses) = (HashMap::new(), HashMap::new());
    for (line, record) in records.iter().enumerate() {
        let (node, action) = record.says();
        if let Some(before) = current.insert(node, action).filter(|before| *before != action) {
            uses.insert(before, 2 * line);
        }
        uses.insert(action, 2 * line + 1);
    }
    uses
}

/// When a blob was in use last: the latest of the receipts that name it. One that is not in here is nobody's.
fn blob_uses(loaded: &Loaded, records: &[ActionRecord]) -> HashMap<Digest, usize> {
    let actions = action_uses(records);
    let mut uses: HashMap<Digest, usize> = HashMap::new();
    for receipt in loaded.history.all() {
        let at = actions.get(&receipt.action_digest).copied().unwrap_or_default();
        for output in &receipt.outputs {
            let newest = uses.entry(output.digest).or_default();
            *newest = at.max(*newest);
        }
    }
    uses
}

/// Which blobs go: nobody's first, the oldest of them before the others; then by their last use; none that is needed.
fn choose(stored: &[Stored], uses: &HashMap<Digest, usize>, needed: &HashSet<Digest>, max: u64) -> HashSet<Digest> {
    let mut left: u64 = stored.iter().map(|b| b.size).sum();
    let mut order: Vec<&Stored> = stored.iter().filter(|b| !needed.contains(&b.digest)).collect();
    order.sort_by_key(|b| (uses.get(&b.digest), b.modified, b.digest));
    let mut going = HashSet::new();
    for blob in order {
        if left <= max {
            break;
        }
        left -= blob.size;
        going.insert(blob.digest);
    }
    going
}

/// The records that still say something, in their order, which is also that of use. Of equal ones the last stays. Where a
/// node stands for an action whose receipt goes, that it does so stays: else an earlier action would pass for current.
fn compact(records: Vec<ActionRecord>, alive: &HashSet<Digest>) -> Vec<ActionRecord> {
    let (mut nodes, mut seen) = (HashSet::new(), HashSet::new());
    let mut kept = Vec::new();
    for record in records.into_iter().rev() {
        let (node, action) = record.says();
        let (node, is_receipt) = (node.clone(), matches!(record, ActionRecord::Receipt(_)));
        let newest = nodes.insert(node.clone());
        if !alive.contains(&action) {
            if newest {
                kept.push(ActionRecord::Current { node, action });
            }
        } else if seen.insert((node, action, is_receipt)) {
            kept.push(record);
        }
    }
    kept.reverse();
    kept
}

fn sum(stored: &[Stored], going: &HashSet<Digest>, needed: &Needed) -> Swept {
    let mut swept = Swept::default();
    for blob in stored {
        if going.contains(&blob.digest) {
            swept.removed += 1;
            swept.removed_bytes += blob.size;
            continue;
        }
        swept.kept += 1;
        swept.kept_bytes += blob.size;
        if needed.blobs.contains(&blob.digest) {
            swept.needed_bytes += blob.size;
            swept.for_publishes |= needed.published.contains(&blob.digest);
        }
    }
    swept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn current(node: &str, action: &str) -> ActionRecord {
        ActionRecord::Current { node: node.parse().unwrap(), action: Digest::of(action.as_bytes()) }
    }

    fn said(records: &[ActionRecord]) -> Vec<(String, Digest)> {
        records.iter().map(|r| (r.says().0.to_string(), r.says().1)).collect()
    }

    #[test]
    fn an_action_is_in_use_until_another_takes_its_place() {
        let log = [current("n", "a"), current("m", "x"), current("n", "a"), current("n", "b"), current("n", "c")];
        let uses = action_uses(&log);
        let of = |action: &str| uses[&Digest::of(action.as_bytes())];
        assert_eq!((of("a"), of("x"), of("b"), of("c")), (6, 3, 8, 9));
    }

    #[test]
    fn the_log_keeps_what_is_current_even_where_its_receipt_goes() {
        let log = [current("n", "a"), current("n", "b"), current("m", "a"), current("n", "a"), current("m", "b")];
        let alive = HashSet::from([Digest::of(b"a")]);
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let kept = said(&compact(log.into(), &alive));
        assert_eq!(kept, [("m".to_string(), a), ("n".to_string(), a), ("m".to_string(), b)]);
    }

    #[test]
    fn nobodys_blobs_go_first_then_the_least_recently_used_and_never_a_needed_one() {
        let blob = |name: &str, age: u64| Stored {
            digest: Digest::of(name.as_bytes()),
            size: 10,
            modified: UNIX_EPOCH + Duration::from_secs(age),
        };
        let stored = [blob("new", 1), blob("old", 9), blob("needed", 2), blob("stray 1", 5), blob("stray 2", 4)];
        let uses = HashMap::from([("new", 7), ("old", 3), ("needed", 1)].map(|(n, u)| (Digest::of(n.as_bytes()), u)));
        let needed = HashSet::from([Digest::of(b"needed")]);
        let going = |max: u64| {
            let set = choose(&stored, &uses, &needed, max);
            let names = ["new", "old", "needed", "stray 1", "stray 2"];
            names.into_iter().filter(|n| set.contains(&Digest::of(n.as_bytes()))).collect::<Vec<_>>()
        };
        assert!(going(50).is_empty());
        assert_eq!(going(49), ["stray 2"]);
        assert_eq!(going(30), ["stray 1", "stray 2"]);
        assert_eq!(going(20), ["old", "stray 1", "stray 2"]);
        assert_eq!(going(0), ["new", "old", "stray 1", "stray 2"]);
    }
}
