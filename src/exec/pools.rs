//! Tokens: `cores`, which every stage takes at least one of, and the manifest's pools.
//!
//! Counts only; knows no stage.

use crate::core::manifest::Pool;
use std::collections::BTreeMap;

/// The pool that limits how many stages run side by side.
const CORES: &str = "cores";

/// What is free.
#[derive(Debug)]
pub struct Pools {
    free: BTreeMap<String, usize>,
    all: BTreeMap<String, usize>,
}

/// What a stage holds.
#[derive(Debug)]
pub struct Held(BTreeMap<String, usize>);

impl Pools {
    /// As the manifest says; `jobs` 0 stands for the number of cores. An `auto` pool has what the machine has: of `gpu`
    /// the NVIDIA devices, of anything else the cores.
    pub fn new(pools: &BTreeMap<String, Pool>, jobs: usize) -> Pools {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut all: BTreeMap<String, usize> = pools
            .iter()
            .map(|(name, pool)| {
                let count = match pool {
                    Pool::Count(n) => *n,
                    Pool::Auto if name == "gpu" => gpus(),
                    Pool::Auto => cores,
                };
                (name.clone(), count)
            })
            .collect();
        all.insert(CORES.into(), if jobs == 0 { cores } else { jobs });
        Pools { free: all.clone(), all }
    }

    /// Takes tokens, all or none. A stage that asks for more than there is takes all there is: with a machine that lacks
    /// the device, `device = "auto"` runs on what it has.
    pub fn take(&mut self, wanted: &BTreeMap<String, usize>) -> Option<Held> {
        let mut held = BTreeMap::from([(CORES.to_string(), 1)]);
        for (pool, count) in wanted {
            let most = self.all.get(pool).copied().unwrap_or(0);
            let count = (*count).min(most);
            held.insert(pool.clone(), if pool == CORES { count.max(1) } else { count });
        }
        let enough = held.iter().all(|(pool, count)| self.free.get(pool).copied().unwrap_or(0) >= *count);
        enough.then(|| {
            for (pool, count) in &held {
                if let Some(free) = self.free.get_mut(pool) {
                    *free -= count;
                }
            }
            Held(held)
        })
    }

    /// Gives tokens back.
    pub fn give_back(&mut self, held: Held) {
        for (pool, count) in held.0 {
            if let Some(free) = self.free.get_mut(&pool) {
                *free += count;
            }
        }
    }
}

fn gpus() -> usize {
    let is_gpu = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_str().is_some_and(is_gpu)).count()
}
