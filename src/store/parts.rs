//! `parts/ACTION/`: partial results of actions that have no receipt yet, a file each.
//!
//! A file is the BLAKE3 of what follows in hexadecimal digits, a line of JSON that says whose it is (action, what made it,
//! name), and the bytes. It comes into its place by rename and is verified when it is read: what a kill or a power cut
//! leaves is a part or none. Parts go once their action has its receipt; `gc` takes those whose action nothing stands for
//! any more. Does not know what a part holds.

use crate::core::digest::{Canonical, Digest};
use crate::core::error::{Error, OnPath, Result};
use crate::core::parts::{Kept, Parts};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder of all partial results, and the one for files on their way.
#[derive(Debug, Clone)]
pub struct AllParts {
    root: PathBuf,
    tmp: PathBuf,
}

/// The parts of one action as they lie there; nothing of them was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfAction {
    /// The action.
    pub action: Digest,
    /// Parts.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl AllParts {
    /// Of a store.
    pub fn new(root: PathBuf, tmp: PathBuf) -> AllParts {
        AllParts { root, tmp }
    }
    /// Those of one action.
    pub fn of(&self, action: Digest) -> Box<dyn Parts> {
        Box::new(Folder { path: self.folder(&action), tmp: self.tmp.clone(), action })
    }
    /// Removes the parts of an action, if there are any.
    ///
    /// # Errors
    /// They stay.
    pub fn remove(&self, action: &Digest) -> Result<()> {
        let path = self.folder(action);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, &e)),
            _ => Ok(()),
        }
    }
    /// The actions that have parts, in the order of their digests. Anything else that lies there is nobody's.
    ///
    /// # Errors
    /// The folder is there and cannot be listed.
    pub fn all(&self) -> Result<Vec<OfAction>> {
        let mut all = Vec::new();
        for path in list(&self.root)? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let Ok(action) = name.parse::<Digest>() else { continue };
            let files = list(&path)?;
            let bytes = files.iter().filter_map(|f| f.symlink_metadata().ok()).map(|m| m.len()).sum();
            all.push(OfAction { action, count: files.len(), bytes });
        }
        Ok(all)
    }
    fn folder(&self, action: &Digest) -> PathBuf {
        self.root.join(action.hex())
    }
}

/// What a folder holds, sorted; nothing where it is not there.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => paths.extend(entries.flatten().map(|entry| entry.path())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(e) => return Err(Error::io("list", folder, &e)),
    }
    paths.sort();
    Ok(paths)
}

struct Folder {
    path: PathBuf,
    tmp: PathBuf,
    action: Digest,
}

/// Whose a part is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    action: Digest,
    by: String,
    name: String,
}

impl Parts for Folder {
    fn keep(&self, by: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let head = Head { action: self.action, by: by.into(), name: name.into() };
        let file = Canonical::new("hfbuild part 1").text(by).text(name).finish().short();
        let (new, path) = (self.scratch(), self.path.join(file));
        for folder in [&self.tmp, &self.path].into_iter().filter(|folder| !folder.is_dir()) {
            std::fs::create_dir_all(folder).on("create", folder)?;
        }
        std::fs::write(&new, encoded(&head, bytes)?).on("write", &new)?;
        std::fs::rename(&new, &path).on("rename to", &path)
    }

    fn kept(&self, by: &str) -> Result<Kept> {
        let mut kept = Kept::default();
        for path in list(&self.path)? {
            match decoded(&std::fs::read(&path).unwrap_or_default(), &self.action) {
                Some((head, bytes)) if head.by == by => drop(kept.parts.insert(head.name, bytes)),
                Some((head, _)) => drop(kept.others.insert(head.by)),
                None => {
                    kept.damaged += 1;
                    let _ = std::fs::remove_file(&path); // the next one of its name replaces it, if it stays
                }
            }
        }
        Ok(kept)
    }
}

impl Folder {
    fn scratch(&self) -> PathBuf {
        self.tmp.join(format!("part-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

fn encoded(head: &Head, bytes: &[u8]) -> Result<Vec<u8>> {
    let head = serde_json::to_vec(head).map_err(|e| Error::bug(format!("a part's head is no JSON: {e}")))?;
    let rest = [&head, &b"\n"[..], bytes].concat();
    Ok([Digest::of(&rest).hex().as_bytes(), b"\n", &rest].concat())
}

/// Head and bytes of a file; `None`: it is damaged, or of another action.
fn decoded(file: &[u8], action: &Digest) -> Option<(Head, Vec<u8>)> {
    let (sum, rest) = (file.get(..64)?, file.get(65..)?);
    if Digest::of(rest).hex().as_bytes() != sum {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&rest[..end]).ok()?;
    (head.action == *action).then(|| (head, rest[end + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, AllParts, Digest) {
        let dir = tempfile::tempdir().expect("a folder");
        let parts = AllParts::new(dir.path().join("parts"), dir.path().join("tmp"));
        (dir, parts, Digest::of(b"an action"))
    }

    #[test]
    fn a_part_comes_back_to_its_action_and_its_maker_alone() {
        let (_dir, all, action) = store();
        let parts = all.of(action);
        parts.keep("rten (cpu)", "0-8", b"\n\0pixels").expect("kept");
        parts.keep("rten (cpu)", "8-8", b"").expect("kept");
        parts.keep("ort (cuda)", "0-8", b"others").expect("kept");
        let kept = parts.kept("rten (cpu)").expect("read");
        assert_eq!(kept.parts, [("0-8", &b"\n\0pixels"[..]), ("8-8", b"")].map(|(n, b)| (n.into(), b.into())).into());
        assert_eq!((kept.damaged, kept.others), (0, ["ort (cuda)".to_string()].into()));
        assert_eq!(all.of(Digest::of(b"another")).kept("rten (cpu)").expect("read"), Kept::default());
        assert_eq!(all.all().expect("listed").iter().map(|a| (a.action, a.count)).collect::<Vec<_>>(), [(action, 3)]);
        all.remove(&action).expect("removed");
        all.remove(&action).expect("a second time too");
        assert_eq!((all.all().expect("listed"), parts.kept("rten (cpu)").expect("read")), (vec![], Kept::default()));
    }

    #[test]
    fn a_part_that_is_damaged_at_any_byte_is_not_handed_out() {
        let (_dir, all, action) = store();
        let parts = all.of(action);
        parts.keep("by", "0-1", b"pixels").expect("kept");
        let file = list(&all.folder(&action)).expect("listed").remove(0);
        let whole = std::fs::read(&file).expect("read");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for damaged in [&flipped[..], &whole[..at]] {
                std::fs::write(&file, damaged).expect("written");
                let kept = parts.kept("by").expect("read");
                // the byte between checksum and head says nothing
                let harmless = at == 64 && damaged.len() == whole.len();
                assert_eq!((kept.parts.len(), kept.damaged), if harmless { (1, 0) } else { (0, 1) }, "byte {at}");
                assert_eq!(file.exists(), harmless, "byte {at}");
            }
        }
        let other = Digest::of(b"another");
        std::fs::create_dir_all(all.folder(&other)).expect("a folder");
        std::fs::write(all.folder(&other).join("moved"), &whole).expect("written");
        assert_eq!(all.of(other).kept("by").expect("read").damaged, 1, "a part of another action");
    }
}
