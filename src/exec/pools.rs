//! Tokens: `cores`, which every stage takes at least one of, and the manifest's pools. Those of a small pool have ids, which
//! the stage's environment names; those of a pool of a size are bytes.
//!
//! Knows the machine's devices and memory, where a pool is `auto`; knows no stage.

use crate::core::action::ALL_WITHOUT_GPU;
use crate::core::manifest::{MEMORY, Pool};
use crate::core::runtime::visible;
use crate::stage;
use std::collections::{BTreeMap, BTreeSet};

/// The pool that limits how many stages run side by side.
const CORES: &str = "cores";
/// The pool whose ids are CUDA's.
const GPU: &str = "gpu";
/// Tokens of a pool with more than these have no ids.
const MOST_IDS: usize = 1024;

/// What there is, and what of it is free.
#[derive(Debug)]
pub struct Pools(BTreeMap<String, Tokens>);

#[derive(Debug)]
struct Tokens {
    all: usize,
    free: usize,
    /// The name of each token, where they have names.
    ids: Option<Vec<String>>,
    /// Those of the names that are free, by number.
    free_ids: BTreeSet<usize>,
}

/// What a stage holds: of each pool how many, and which.
#[derive(Debug)]
pub struct Held(BTreeMap<String, (usize, Vec<usize>)>);

impl Tokens {
    fn plain(all: usize) -> Tokens {
        Tokens { all, free: all, ids: None, free_ids: BTreeSet::new() }
    }
    fn named(ids: Vec<String>) -> Tokens {
        Tokens { all: ids.len(), free: ids.len(), free_ids: (0..ids.len()).collect(), ids: Some(ids) }
    }
    fn numbered(all: usize) -> Tokens {
        if all > MOST_IDS { Tokens::plain(all) } else { Tokens::named((0..all).map(|n| n.to_string()).collect()) }
    }
}

impl Pools {
    /// As the manifest says; `jobs` 0 stands for the `cores` of the manifest, or the machine's. An `auto` pool has what the
    /// machine has: of `gpu` the NVIDIA devices (those in `CUDA_VISIBLE_DEVICES` where hfbuild itself was given it), of
    /// `memory` its bytes, of anything else the cores.
    pub fn new(pools: &BTreeMap<String, Pool>, jobs: usize) -> Pools {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let tokens = |name: &str, pool: &Pool| match pool {
            Pool::Count(n) if name == CORES => Tokens::plain(*n),
            Pool::Count(n) if name == GPU => Tokens::named(first_devices(*n)),
            Pool::Count(n) => Tokens::numbered(*n),
            Pool::Ids(ids) => Tokens::named(ids.clone()),
            Pool::Size(bytes) => Tokens::plain(usize::try_from(*bytes).unwrap_or(usize::MAX)),
            Pool::Auto if name == GPU => Tokens::named(gpus()),
            Pool::Auto if name == MEMORY => Tokens::plain(memory()),
            Pool::Auto if name == CORES => Tokens::plain(cores),
            Pool::Auto => Tokens::numbered(cores),
        };
        let mut all: BTreeMap<_, _> = pools.iter().map(|(name, pool)| (name.clone(), tokens(name, pool))).collect();
        if jobs > 0 {
            all.insert(CORES.into(), Tokens::plain(jobs));
        }
        if all.get(CORES).is_none_or(|t| t.all == 0) {
            all.insert(CORES.into(), Tokens::plain(cores));
        }
        Pools(all)
    }

    /// How many of a pool a stage gets that asks for so many: all there is where it asks for more. With a machine that
    /// lacks the device, `device = "auto"` runs on what it has.
    fn due(&self, pool: &str, wanted: usize) -> usize {
        let count = wanted.min(self.0.get(pool).map_or(0, |t| t.all));
        if pool == CORES { count.max(1) } else { count }
    }

    /// What a stage asks for: of `cores` one at least, and not all of them where it gets a device instead.
    fn asked(&self, wanted: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
        let mut asked = BTreeMap::from([(CORES.to_string(), 1)]);
        asked.extend(wanted.iter().map(|(pool, count)| (pool.clone(), *count)));
        let on_device = wanted.get(GPU).is_some_and(|count| self.due(GPU, *count) > 0);
        if on_device && wanted.get(CORES) == Some(&ALL_WITHOUT_GPU) {
            asked.insert(CORES.into(), 1);
        }
        asked
    }

    /// The devices that a stage which asks for this gets where nothing else runs; `None`: no pool says which.
    pub fn devices_for(&self, wanted: &BTreeMap<String, usize>) -> Option<&[String]> {
        let ids = self.devices()?;
        let count = wanted.get(GPU).map_or(0, |count| self.due(GPU, *count));
        ids.get(..count)
    }

    /// All devices of the pool of devices; `None`: there is no such pool.
    pub fn devices(&self) -> Option<&[String]> {
        self.0.get(GPU)?.ids.as_deref()
    }

    /// Whether a stage that asks for this could start now.
    pub fn have(&self, wanted: &BTreeMap<String, usize>) -> bool {
        let enough = |pool: &str, count: usize| {
            let free = self.0.get(pool).map_or(0, |t| t.free);
            free >= self.due(pool, count)
        };
        self.asked(wanted).iter().all(|(pool, count)| enough(pool, *count))
    }

    /// Whether no stage at all could start now.
    pub fn are_full(&self) -> bool {
        self.0.get(CORES).is_none_or(|t| t.free == 0)
    }

    /// Takes tokens, all or none, those with the lowest ids first.
    pub fn take(&mut self, wanted: &BTreeMap<String, usize>) -> Option<Held> {
        if !self.have(wanted) {
            return None;
        }
        let mut held = BTreeMap::new();
        for (pool, count) in self.asked(wanted) {
            let count = self.due(&pool, count);
            if let Some(tokens) = self.0.get_mut(&pool) {
                tokens.free = tokens.free.saturating_sub(count);
                let ids: Vec<usize> = tokens.free_ids.iter().copied().take(count).collect();
                ids.iter().for_each(|id| {
                    tokens.free_ids.remove(id);
                });
                held.insert(pool, (count, ids));
            }
        }
        Some(Held(held))
    }

    /// Gives tokens back.
    pub fn give_back(&mut self, held: Held) {
        for (pool, (count, ids)) in held.0 {
            if let Some(tokens) = self.0.get_mut(&pool) {
                tokens.free += count;
                tokens.free_ids.extend(ids);
            }
        }
    }

    /// Gives back all but one core: what a stage keeps that needs its device no longer.
    pub fn release(&mut self, held: &mut Held) {
        let mut rest = std::mem::take(&mut held.0);
        if let Some((count, ids)) = rest.remove(CORES) {
            held.0.insert(CORES.into(), (count.min(1), vec![]));
            rest.insert(CORES.into(), (count.saturating_sub(1), ids));
        }
        self.give_back(Held(rest));
    }

    /// The environment that tells a stage which tokens it holds: `HFBUILD_POOL_NAME` for each pool with ids that it takes
    /// of, and `CUDA_VISIBLE_DEVICES` wherever the manifest has a pool `gpu` with ids. A stage that holds none of it sees
    /// no device, or it would use one that another stage was given.
    pub fn environment(&self, held: &Held) -> BTreeMap<String, String> {
        let joined = |pool: &str| {
            let names = self.0.get(pool)?.ids.as_ref()?;
            let ids = held.0.get(pool).map_or(&[][..], |(_, ids)| ids);
            Some(ids.iter().filter_map(|id| names.get(*id).cloned()).collect::<Vec<_>>().join(","))
        };
        let taken = held.0.keys().filter_map(|pool| Some((variable(pool), joined(pool)?)));
        let gpus = joined(GPU).map(|ids| ("CUDA_VISIBLE_DEVICES".to_string(), ids));
        // so that numbers mean the same devices to all of them
        let order = std::env::var("CUDA_DEVICE_ORDER").ok().filter(|_| gpus.is_some());
        let order = order.map(|order| ("CUDA_DEVICE_ORDER".to_string(), order));
        taken.chain(gpus).chain(order).collect()
    }
}

/// The environment variable with the ids that a stage holds of a pool.
fn variable(pool: &str) -> String {
    let letters = pool.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("HFBUILD_POOL_{}", letters.collect::<String>())
}

/// So many devices: the first of those that hfbuild itself was given, where it was given any list.
fn first_devices(count: usize) -> Vec<String> {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => visible(&list).into_iter().take(count).collect(),
        Err(_) => (0..count).map(|n| n.to_string()).collect(),
    }
}

/// The devices that hfbuild may use.
fn gpus() -> Vec<String> {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => visible(&list),
        Err(_) => match stage::gpus() {
            Ok(all) => all.into_iter().map(|gpu| gpu.id).collect(),
            Err(_) => (0..devices()).map(|n| n.to_string()).collect(),
        },
    }
}

/// How many devices there are where the driver's library does not say: a container may lack it.
fn devices() -> usize {
    let is_gpu = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_str().is_some_and(is_gpu)).count()
}

/// This machine's memory in bytes; as good as without end where it does not say.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: Option<usize> = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(usize::MAX, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gpu: Pool) -> Pools {
        Pools::new(&BTreeMap::from([("gpu".to_string(), gpu), ("a-b".to_string(), Pool::Count(3))]), 4)
    }

    fn wants(pool: &str, count: usize) -> BTreeMap<String, usize> {
        BTreeMap::from([(pool.to_string(), count)])
    }

    #[test]
    fn the_lowest_free_ids_are_taken_and_come_back() {
        let mut pools = of(Pool::Ids(vec!["0".into(), "3".into()]));
        let devices = |pools: &Pools, held: &Held| pools.environment(held)["CUDA_VISIBLE_DEVICES"].clone();
        let (one, two) = (pools.take(&wants("gpu", 1)), pools.take(&wants("gpu", 1)));
        let (one, two) = (one.expect("a token"), two.expect("a token"));
        assert_eq!([devices(&pools, &one), devices(&pools, &two)], ["0", "3"]);
        assert!(pools.take(&wants("gpu", 1)).is_none());
        let none = pools.take(&wants("a-b", 2)).expect("tokens");
        assert_eq!(devices(&pools, &none), "");
        assert_eq!(pools.environment(&none)["HFBUILD_POOL_A_B"], "0,1");
        pools.give_back(one);
        let again = pools.take(&wants("gpu", 1)).expect("a token");
        assert_eq!(
            (devices(&pools, &again), pools.environment(&again)["HFBUILD_POOL_GPU"].as_str()),
            ("0".into(), "0")
        );
        pools.give_back(again);
        pools.give_back(two);
        let both = pools.take(&wants("gpu", 9)).expect("all there is");
        assert_eq!(devices(&pools, &both), "0,3");
    }

    #[test]
    fn the_devices_of_a_stage_are_told_without_taking_them() {
        let ids = ["0".to_string(), "7".to_string()];
        let pools = of(Pool::Ids(ids.to_vec()));
        assert_eq!(pools.devices_for(&wants("gpu", 1)), Some(&ids[..1]));
        assert_eq!(pools.devices_for(&wants("gpu", 9)), Some(&ids[..]));
        assert_eq!(pools.devices_for(&wants("a-b", 1)), Some(&[][..]));
        assert_eq!(Pools::new(&BTreeMap::new(), 4).devices_for(&wants("gpu", 1)), None);
    }

    #[test]
    fn shards_on_devices_run_side_by_side_one_a_device_and_without_one_alone() {
        let shard = BTreeMap::from([("cores".to_string(), ALL_WITHOUT_GPU), ("gpu".to_string(), 1)]);
        let mut pools = of(Pool::Ids(vec!["0".into(), "GPU-1a".into()]));
        let both = [pools.take(&shard).expect("a device"), pools.take(&shard).expect("the other")];
        let ids = both.each_ref().map(|held| pools.environment(held)["CUDA_VISIBLE_DEVICES"].clone());
        assert_eq!((ids, pools.have(&shard)), (["0".to_string(), "GPU-1a".to_string()], false));
        assert!(pools.have(&wants("cores", 2)) && !pools.have(&wants("cores", 3)), "each of them takes one core");
        for none in [of(Pool::Ids(vec![])), Pools::new(&BTreeMap::new(), 4)] {
            let mut pools = none;
            let held = pools.take(&shard).expect("the cores");
            assert!(!pools.have(&wants("cores", 1)), "all cores are taken");
            pools.give_back(held);
            assert!(pools.have(&wants("cores", 4)));
        }
    }

    #[test]
    fn a_stage_that_needs_its_device_no_longer_keeps_one_core() {
        let mut pools = of(Pool::Ids(vec!["7".into()]));
        let wanted = BTreeMap::from([("cores".to_string(), 3), ("gpu".to_string(), 1)]);
        let mut held = pools.take(&wanted).expect("all of it");
        assert!(!pools.have(&wants("gpu", 1)) && !pools.have(&wants("cores", 2)));
        pools.release(&mut held);
        pools.release(&mut held);
        assert!(pools.have(&wants("gpu", 1)) && pools.have(&wants("cores", 3)) && !pools.have(&wants("cores", 4)));
        let next = pools.take(&wanted).expect("the device again");
        assert_eq!(pools.environment(&next)["CUDA_VISIBLE_DEVICES"], "7");
        pools.give_back(held);
        pools.give_back(next);
        assert!(pools.have(&wants("cores", 4)));
    }

    #[test]
    fn without_a_pool_of_devices_nothing_is_said_of_them_and_bytes_have_no_ids() {
        let pools = BTreeMap::from([("memory".to_string(), Pool::Size(1 << 40))]);
        let mut pools = Pools::new(&pools, 2);
        let held = pools.take(&wants("memory", 1 << 39)).expect("memory");
        assert!(pools.environment(&held).is_empty());
        assert!(!pools.have(&wants("memory", (1 << 39) + 1)) && pools.have(&wants("memory", 1 << 39)));
    }

    #[test]
    fn the_visible_devices_are_read_as_cuda_reads_them() {
        assert_eq!(visible("2, GPU-8932f937"), ["2", "GPU-8932f937"]);
        assert_eq!(visible("1,-1,0"), ["1"]);
        assert!(visible("").is_empty() && visible("NoDevFiles").is_empty());
    }
}
