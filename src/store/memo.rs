//! The stat memo: (size, mtime, ctime, inode, device) -> digest, a shortcut and never an identity; and the Hub digests
//! of content, by BLAKE3; and what content was found to hold that is not to be published, by BLAKE3, file name and version
//! of the rules.
//!
//! The racy rule: an entry counts only if the file's times lie clearly before the moment when the entry was made. A file
//! that changed within a clock tick of being read could otherwise keep its stat and lose its truth. Times are compared
//! with `!=`, never with `<`, so a clock that runs backwards costs a read and nothing else.
//!
//! Files that hfbuild itself has just made or placed are the one exception: nobody knew them under that name before, so their
//! entry counts once a tick has passed with the stat unchanged. Should another program rewrite one within that very tick,
//! `dist/` is stale until the next change; what is published comes from the CAS and is never affected.

use crate::core::digest::{Digest, FileDigests, HubDigests};
use crate::core::error::{Error, Result};
use crate::core::leaks::Finding;
use crate::store::hash;
use crate::store::log;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far (ns) a file's times must lie before the entry's own: coarse kernel clocks tick every 4 to 10 ms.
const TICK: i64 = 20_000_000;

/// Bytes of a file from which on a read is dear: what the Hub knows it by is learnt with the first one, and that one waits
/// until the file's stat proves something.
const SMALL: u64 = 1 << 16;

/// What identifies an unchanged file to the memo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    size: u64,
    mtime: i64,
    ctime: i64,
    inode: u64,
    device: u64,
}

impl Signature {
    /// Of a file (symlinks followed); `None`: there is no regular file.
    pub fn of(path: &Path) -> Result<Option<Signature>> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => return Ok(None), // links that lead to one another
            Err(e) => return Err(Error::io("stat", path, &e)),
        };
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(meta.is_file().then(|| Signature {
            size: meta.size(),
            mtime: ns(meta.mtime(), meta.mtime_nsec()),
            ctime: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        }))
    }
    /// Of a file below an open folder; `follow`: of what a symbolic link there leads to. `None`: no regular file, or it
    /// cannot be told.
    pub fn below(folder: &std::fs::File, path: &str, follow: bool) -> Option<Signature> {
        use nix::fcntl::AtFlags;
        let flags = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
        let stat = nix::sys::stat::fstatat(folder, path, flags).ok()?;
        let regular = stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG;
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        regular.then(|| Signature {
            size: stat.st_size as u64,
            mtime: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime: ns(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            device: stat.st_dev,
        })
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Record {
    Stat { path: String, signature: Signature, digest: Digest, at: i64 },
    Hub { digest: Digest, hub: HubDigests },
    Leaks { digest: Digest, judged: String, found: Vec<Finding> },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    signature: Signature,
    digest: Digest,
    at: i64,
}

/// The memo in memory.
#[derive(Debug, Default)]
pub struct Memo {
    stats: HashMap<String, Entry>,
    hub: HashMap<Digest, HubDigests>,
    leaks: HashMap<(Digest, String), Vec<Finding>>,
    fresh: Vec<Record>,
    own: Vec<(String, Signature, Digest)>,
    /// Blobs that this process has digested as it took them in.
    made: HashMap<Digest, Signature>,
    lines: usize,
    /// Whether this run saves it.
    kept: bool,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

impl Memo {
    /// Loads it; a damaged line is only a lost shortcut.
    pub fn load(path: &Path) -> Result<Memo> {
        let mut memo = Memo::default();
        let damaged = log::each(path, |record| {
            memo.lines += 1;
            match record {
                Record::Stat { path, signature, digest, at } => {
                    memo.stats.insert(path, Entry { signature, digest, at });
                }
                Record::Hub { digest, hub } => {
                    memo.hub.insert(digest, hub);
                }
                Record::Leaks { digest, judged, found } => {
                    memo.leaks.insert((digest, judged), found);
                }
            }
        })?;
        memo.lines += damaged;
        Ok(memo)
    }

    /// Says that this run saves it: what is dear to learn is learnt then alone.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// The digest of a file if it can be told without reading.
    pub fn known(&self, path: &str, signature: &Signature) -> Option<Digest> {
        let entry = self.stats.get(path)?;
        let settled =
            |time: i64| time.checked_add(TICK).is_some_and(|t| t < entry.at) || time > entry.at.saturating_add(TICK);
        let counts = entry.signature == *signature && settled(signature.mtime) && settled(signature.ctime);
        counts.then_some(entry.digest)
    }

    /// The digest of a file under `root`, read if it must be. `None`: there is no regular file.
    pub fn digest(&mut self, root: &Path, path: &str) -> Result<Option<Digest>> {
        self.digest_as(&root.join(path), path)
    }

    /// The same for any file, remembered under `name`.
    pub fn digest_as(&mut self, full: &Path, name: &str) -> Result<Option<Digest>> {
        let Some(before) = Signature::of(full)? else { return Ok(None) };
        if let Some(digest) = self.known(name, &before) {
            return Ok(Some(digest));
        }
        settled(&before);
        let at = now();
        let digest = hash::blake3_of(full)?;
        if Signature::of(full)? == Some(before) {
            self.remember(name, before, digest, at);
        }
        Ok(Some(digest))
    }

    /// The digests of many files under `root`, those that must be read side by side. Of a path that comes with `true` the
    /// Hub's digests are learnt in the same read, unless it is so small that another read costs less than remembering. Paths
    /// where there is no regular file are not in the answer.
    pub fn learn<'p>(&mut self, root: &Path, paths: &[(&'p str, bool)]) -> Result<HashMap<&'p str, Digest>> {
        let (mut told, mut unknown) = (HashMap::with_capacity(paths.len()), vec![]);
        for (path, hub) in paths {
            let full = root.join(path);
            let Some(before) = Signature::of(&full)? else { continue };
            match self.known(path, &before) {
                Some(digest) => drop(told.insert(*path, digest)),
                None => unknown.push((*path, full, *hub, before)),
            }
        }
        let is_kept = self.kept;
        let read = |(path, full, hub, before): (&'p str, PathBuf, bool, Signature)| {
            settled(&before);
            let at = now();
            let (digest, hub) = match hub && is_kept && before.size >= SMALL {
                true => hash::all_of(&full).map(|all| (all.digest, Some(all.hub)))?,
                false => (hash::blake3_of(&full)?, None),
            };
            let is_same = Signature::of(&full)? == Some(before);
            Ok((path, digest, hub, is_same.then_some((before, at))))
        };
        for (path, digest, hub, same) in unknown.into_par_iter().map(read).collect::<Result<Vec<_>>>()? {
            if let Some((signature, at)) = same {
                self.remember(path, signature, digest, at);
                if let Some(hub) = hub.filter(|_| !self.hub.contains_key(&digest)) {
                    self.remember_hub(digest, hub);
                }
            }
            told.insert(path, digest);
        }
        Ok(told)
    }

    /// All digests of a file with this stat, if they can be told without reading.
    pub fn known_all(&self, path: &str, signature: &Signature) -> Option<FileDigests> {
        let digest = self.known(path, signature)?;
        Some(FileDigests { size: signature.size, digest, hub: self.hub.get(&digest)?.clone() })
    }

    /// Remembers a digest that was computed from a read which began at `at`.
    fn remember(&mut self, path: &str, signature: Signature, digest: Digest, at: i64) {
        self.stats.insert(path.into(), Entry { signature, digest, at });
        self.fresh.push(Record::Stat { path: path.into(), signature, digest, at });
    }

    /// Remembers what hfbuild itself has just put at a place.
    pub fn placed(&mut self, root: &Path, path: &str, digest: Digest) -> Result<()> {
        if let Some(signature) = Signature::of(&root.join(path))? {
            self.own.push((path.into(), signature, digest));
        }
        Ok(())
    }

    /// Remembers, for this run, the stat of blobs that hfbuild itself wrote, digested and took in: nobody knew them before.
    pub fn made(&mut self, blobs: Vec<(Digest, Signature)>) {
        self.made.extend(blobs);
    }
    /// Whether a blob is as it was then.
    pub fn was_made(&self, digest: &Digest, seen: &Signature) -> bool {
        self.made.get(digest) == Some(seen)
    }

    /// The Hub digests of content.
    pub fn hub_digests(&self) -> &HashMap<Digest, HubDigests> {
        &self.hub
    }
    /// Remembers Hub digests.
    pub fn remember_hub(&mut self, digest: Digest, hub: HubDigests) {
        self.hub.insert(digest, hub.clone());
        self.fresh.push(Record::Hub { digest, hub });
    }

    /// What content was found to hold, where it was `judged` so.
    pub fn leaks(&self, digest: Digest, judged: &str) -> Option<&Vec<Finding>> {
        self.leaks.get(&(digest, judged.to_string()))
    }
    /// Remembers it.
    pub fn remember_leaks(&mut self, digest: Digest, judged: String, found: Vec<Finding>) {
        self.leaks.insert((digest, judged.clone()), found.clone());
        self.fresh.push(Record::Leaks { digest, judged, found });
    }

    /// Writes what is new. Waits out the tick of files that were placed last: 40 ms at most, once a run that placed any.
    pub fn save(&mut self, root: &Path, path: &Path) -> Result<()> {
        let own = std::mem::take(&mut self.own);
        pass_the_tick_of(own.iter().map(|(_, s, _)| s.ctime.max(s.mtime)).max().unwrap_or(0));
        for (path, signature, digest) in own {
            if Signature::of(&root.join(&path))? == Some(signature) {
                self.remember(&path, signature, digest, now());
            }
        }
        let fresh = std::mem::take(&mut self.fresh);
        self.lines += fresh.len();
        if self.lines > 1000 && self.lines > 2 * (self.stats.len() + self.hub.len() + self.leaks.len()) {
            return self.compact(path);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let mut writer = log::Writer::open(path)?;
        fresh.iter().try_for_each(|r| writer.append(r))
    }

    fn compact(&mut self, path: &Path) -> Result<()> {
        let stats = self.stats.iter().map(|(path, e)| Record::Stat {
            path: path.clone(),
            signature: e.signature,
            digest: e.digest,
            at: e.at,
        });
        let hub = self.hub.iter().map(|(digest, hub)| Record::Hub { digest: *digest, hub: hub.clone() });
        let leaks = self.leaks.iter().map(|((digest, judged), found)| Record::Leaks {
            digest: *digest,
            judged: judged.clone(),
            found: found.clone(),
        });
        let all: Vec<_> = stats.chain(hub).chain(leaks).collect();
        self.lines = all.len();
        log::rewrite(path, &all)
    }
}

/// Waits until a file of some size that has just been written is old enough for its stat to prove something: less long than
/// reading it again, and again, at each later look of this run.
fn settled(seen: &Signature) {
    if seen.size >= SMALL {
        pass_the_tick_of(seen.ctime.max(seen.mtime));
    }
}

/// Waits 40 ms at most; a time in the future is not waited for.
fn pass_the_tick_of(time: i64) {
    let wait = time.saturating_add(TICK + 1_000_000).saturating_sub(now());
    if (1..=2 * TICK).contains(&wait) {
        std::thread::sleep(std::time::Duration::from_nanos(wait as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_tells_all_digests_and_they_are_told_only_of_a_file_that_is_surely_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, size: usize| {
            let file = dir.path().join(name);
            std::fs::write(&file, vec![7; size]).unwrap();
            file
        };
        let (large, small) = (write("large", 100_000), write("small", 10));
        let paths = [("large", true), ("small", true), ("large2", false), ("none", true)];
        write("large2", 70_000);
        let mut memo = Memo { kept: true, ..Memo::default() };
        let told = memo.learn(dir.path(), &paths).unwrap();
        assert_eq!(told.len(), 3);
        let seen = |file: &Path| Signature::of(file).unwrap().unwrap();
        let all = hash::all_of(&large).unwrap();
        assert_eq!((told["large"], memo.known_all("large", &seen(&large))), (all.digest, Some(all)));
        assert_eq!(told["small"], hash::blake3_of(&small).unwrap());
        assert_eq!(memo.known_all("small", &seen(&small)), None);
        assert_eq!(memo.known_all("large2", &seen(&dir.path().join("large2"))), None);
        std::fs::write(&large, vec![8; 100_000]).unwrap();
        assert_eq!(memo.known_all("large", &seen(&large)), None);
        assert_ne!(memo.learn(dir.path(), &paths).unwrap()["large"], told["large"]);
        assert!(memo.known_all("large", &seen(&large)).is_some(), "the tick of one just written is waited out");
    }
}
