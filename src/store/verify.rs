//! Reading the whole store back: every blob against its name, every receipt against the blobs that it names.
//!
//! What is damaged is removed, and receipts that lack a blob are dropped: the next build makes their outputs again. Says
//! what it found as data; does not know how that is shown.

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::store::blobs::{Blobs, Stored};
use crate::store::records::{self, ActionRecord, Loaded};
use crate::store::{Store, gc, log};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// A blob whose content is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its name.
    pub digest: Digest,
    /// Whose output it is: `weights: model.safetensors`. Empty: nobody's.
    pub of: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Blobs read.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged ones.
    pub damaged: Vec<Damaged>,
    /// Outputs in receipts that have no blob, by node.
    pub missing: BTreeMap<String, usize>,
    /// Damaged lines of the logs.
    pub lines: usize,
}

impl Found {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty() && self.lines == 0
    }
}

/// Reads everything back and repairs what can be: see above. Call with the lock held.
pub fn verify(store: &Store) -> Result<Found> {
    let loaded = records::load(store)?;
    let blobs = store.blobs();
    let stored = blobs.all()?;
    let whole: Vec<bool> = stored.par_iter().map(|blob| is_whole(&blobs, blob)).collect::<Result<_>>()?;
    let bad: Vec<Digest> = stored.iter().zip(&whole).filter(|(_, whole)| !**whole).map(|(b, _)| b.digest).collect();
    let there: HashSet<Digest> = stored.iter().map(|b| b.digest).collect();
    let owners = owners(&loaded, &bad);
    let found = Found {
        blobs: stored.len(),
        bytes: stored.iter().map(|b| b.size).sum(),
        damaged: bad.iter().map(|d| Damaged { digest: *d, of: owners.get(d).cloned().unwrap_or_default() }).collect(),
        missing: missing(&loaded, &there),
        lines: loaded.damaged,
    };
    if found.lines > 0 {
        records::mend(store)?;
    }
    let bad: HashSet<Digest> = bad.into_iter().collect();
    let is_there = |digest: &Digest| there.contains(digest) && !bad.contains(digest);
    let complete = loaded.history.all().filter(|r| r.outputs.iter().all(|o| is_there(&o.digest)));
    let alive = complete.map(|r| r.action_digest).collect();
    // the log first, as in `gc`: what a crash leaves is then a damaged blob that no receipt names
    let rewrite = || gc::rewrite(store, log::read::<ActionRecord>(&store.actions_log())?.records, &alive);
    let rewritten = rewrite();
    bad.iter().try_for_each(|digest| blobs.remove(digest))?;
    if rewritten.is_err() {
        rewrite()?; // the disk was full, and what was damaged has made room
    }
    Ok(found)
}

/// Whose outputs these blobs are, by receipts and by publishes.
fn owners(loaded: &Loaded, bad: &[Digest]) -> HashMap<Digest, Vec<String>> {
    let bad: HashSet<&Digest> = bad.iter().collect();
    let mut owners: HashMap<Digest, BTreeSet<String>> = HashMap::new();
    for receipt in loaded.history.all() {
        for output in receipt.outputs.iter().filter(|o| bad.contains(&o.digest)) {
            owners.entry(output.digest).or_default().insert(format!("{}: {}", receipt.node, output.path));
        }
    }
    for published in &loaded.publishes.landed {
        for (path, file) in published.tree.iter().filter(|(_, f)| bad.contains(&f.digest)) {
            let owner = format!("{}: {path}", published.target.repo);
            let made_by = owners.entry(file.digest).or_default();
            if made_by.is_empty() {
                made_by.insert(owner); // only where no stage made it: the record of a publish
            }
        }
    }
    owners.into_iter().map(|(digest, names)| (digest, names.into_iter().collect())).collect()
}

fn missing(loaded: &Loaded, there: &HashSet<Digest>) -> BTreeMap<String, usize> {
    let mut missing: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    for receipt in loaded.history.all() {
        for output in receipt.outputs.iter().filter(|o| !there.contains(&o.digest)) {
            missing.entry(receipt.node.to_string()).or_default().insert(output.digest);
        }
    }
    missing.into_iter().map(|(node, digests)| (node, digests.len())).collect()
}

/// Reads a blob. One that the disk no longer gives back is as good as damaged; one that may not be read is an error.
fn is_whole(blobs: &Blobs, blob: &Stored) -> Result<bool> {
    let path = blobs.path(&blob.digest);
    match read(&path) {
        Ok(digest) => Ok(digest == blob.digest),
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => {
            Err(Error::io("read", &path, &e))
        }
        Err(_) => Ok(false),
    }
}

/// BLAKE3 by plain reads, and no mapping as for inputs: a bad sector is then an error and no fatal signal.
fn read(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).clamp(1, 4 << 20)];
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_hash(hasher.finalize())),
            Ok(n) => drop(hasher.update_rayon(&buffer[..n])),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
