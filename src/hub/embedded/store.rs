//! The embedded hub's storage: repositories, commits, refs and content as plain files.
//!
//! The only code that knows a path below the root (see the layout in [`super`]). Objects and commits are immutable and
//! appear by rename; a ref is replaced by rename and is the last thing a commit writes, so a reader in another process
//! sees either all of a commit or nothing. Nothing is synced to disk: it is a staging hub, a kill loses nothing, a power
//! cut may. Knows no HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::git;
use crate::core::error::{Error, OnPath, Result};
use crate::hub::repo::{RepoId, RepoKind};

/// A file of a commit. Its content is the object `sha256`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    pub size: u64,
    pub sha256: String,
    /// Of the content, or for an LFS file of its pointer.
    pub git_sha1: String,
    pub lfs: bool,
}

impl StoredFile {
    /// An LFS file, whose content is an object already.
    pub fn lfs(sha256: &str, size: u64) -> Self {
        let git_sha1 = git::blob_id(git::lfs_pointer(sha256, size).as_bytes());
        StoredFile { size, sha256: sha256.to_owned(), git_sha1, lfs: true }
    }

    /// What names the content in ETags and preupload answers: the SHA-256 of an LFS file, else the git blob's SHA-1.
    pub fn identity(&self) -> &str {
        if self.lfs { &self.sha256 } else { &self.git_sha1 }
    }
}

/// All files of a commit by path.
pub(super) type Tree = BTreeMap<String, StoredFile>;

/// A commit, with all that its revision holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Commit {
    pub oid: String,
    pub parents: Vec<String>,
    pub title: String,
    pub message: String,
    pub author: String,
    /// RFC 3339.
    pub date: String,
    pub tree: Tree,
}

impl Commit {
    /// A commit of `tree` now.
    pub fn new(parents: Vec<String>, title: &str, message: &str, tree: Tree) -> Self {
        let now = jiff::Timestamp::now();
        let text = if message.is_empty() { title.to_owned() } else { format!("{title}\n\n{message}") };
        Commit {
            oid: git::commit_id(&tree, &parents, AUTHOR, now.as_second(), &text),
            parents,
            title: title.to_owned(),
            message: message.to_owned(),
            author: AUTHOR.to_owned(),
            date: date_of(now.as_second()),
            tree,
        }
    }
}

/// The one account of the embedded hub.
pub(super) const AUTHOR: &str = "local";

/// As the live Hub writes dates: `2024-01-31T12:00:00.000Z`.
fn date_of(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// What is known of a repository besides its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RepoRecord {
    pub created: String,
    pub private: bool,
    #[serde(default)]
    pub sdk: Option<String>,
}

/// Branches, tags, pull requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefKind {
    Head,
    Tag,
    Pull,
}

impl RefKind {
    fn folder(self) -> &'static str {
        match self {
            RefKind::Head => "refs/heads",
            RefKind::Tag => "refs/tags",
            RefKind::Pull => "refs/pr",
        }
    }
}

/// The folder.
pub(super) struct Store {
    root: PathBuf,
    writing: Mutex<()>,
}

impl Store {
    /// Opens `root`; the folders are made when something is written.
    pub fn new(root: &Path) -> Self {
        Store { root: root.to_owned(), writing: Mutex::new(()) }
    }

    /// One writer at a time: hold it from reading a ref to replacing it.
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repo_dir(&self, repo: &RepoId) -> PathBuf {
        self.root.join("repos").join(repo.kind().plural()).join(repo.namespace()).join(repo.short_name())
    }

    /// A repository's record; `None` when it does not exist.
    pub fn repo(&self, repo: &RepoId) -> Result<Option<RepoRecord>> {
        read_json(&self.repo_dir(repo).join("repo.json"))
    }

    /// All repositories of a kind, sorted.
    pub fn repos(&self, kind: RepoKind) -> Vec<RepoId> {
        let top = self.root.join("repos").join(kind.plural());
        let mut found = Vec::new();
        for namespace in names(&top) {
            for name in names(&top.join(&namespace)) {
                found.extend(RepoId::new(kind, &format!("{namespace}/{name}")));
            }
        }
        found.retain(|repo| matches!(self.repo(repo), Ok(Some(_))));
        found
    }

    /// Makes a repository with `main` at `first`, a commit of `tree`.
    pub fn create(&self, repo: &RepoId, private: bool, sdk: Option<String>, tree: Tree) -> Result<Commit> {
        let _guard = self.lock();
        let first = Commit::new(vec![], "initial commit", "", tree);
        self.put_commit(repo, &first)?;
        self.set_ref(repo, RefKind::Head, "main", &first.oid)?;
        self.set_record(repo, &RepoRecord { created: first.date.clone(), private, sdk })?;
        Ok(first)
    }

    /// Replaces a repository's record.
    pub fn set_record(&self, repo: &RepoId, record: &RepoRecord) -> Result<()> {
        self.write(&self.repo_dir(repo).join("repo.json"), &to_json(record)?)
    }

    /// Removes a repository; its content stays, another one may use it.
    pub fn delete(&self, repo: &RepoId) -> Result<()> {
        let _guard = self.lock();
        let dir = self.repo_dir(repo);
        let away = self.tmp()?.join(format!("gone-{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond()));
        fs::rename(&dir, &away).on("remove", &dir)?;
        fs::remove_dir_all(&away).on("remove", &away)
    }

    /// All branches or tags with their commits.
    pub fn refs(&self, repo: &RepoId, kind: RefKind) -> BTreeMap<String, String> {
        let dir = self.repo_dir(repo).join(kind.folder());
        let read = |file: String| Some((name_of_ref(&file)?, fs::read_to_string(dir.join(&file)).ok()?));
        names(&dir).into_iter().filter_map(read).collect()
    }

    /// The commit a branch or tag points to.
    pub fn get_ref(&self, repo: &RepoId, kind: RefKind, name: &str) -> Option<String> {
        fs::read_to_string(self.ref_path(repo, kind, name)?).ok()
    }

    /// Points a branch or tag to a commit. `lock` is held.
    pub fn set_ref(&self, repo: &RepoId, kind: RefKind, name: &str, oid: &str) -> Result<()> {
        let path =
            self.ref_path(repo, kind, name).ok_or_else(|| Error::hub(format!("`{name}` is no name of a ref")))?;
        self.write(&path, oid.as_bytes())
    }

    /// Removes a branch or tag; false when there is none.
    pub fn delete_ref(&self, repo: &RepoId, kind: RefKind, name: &str) -> bool {
        self.ref_path(repo, kind, name).is_some_and(|path| fs::remove_file(path).is_ok())
    }

    fn ref_path(&self, repo: &RepoId, kind: RefKind, name: &str) -> Option<PathBuf> {
        Some(self.repo_dir(repo).join(kind.folder()).join(file_of_ref(name)?))
    }

    /// The commit that a branch, a tag or a commit's id names.
    pub fn resolve(&self, repo: &RepoId, revision: &str) -> Result<Option<Commit>> {
        let bare = revision.strip_prefix("refs/heads/").or_else(|| revision.strip_prefix("refs/tags/"));
        let by_name = |name| self.get_ref(repo, RefKind::Head, name).or_else(|| self.get_ref(repo, RefKind::Tag, name));
        let pull = || self.get_ref(repo, RefKind::Pull, revision.strip_prefix("refs/pr/")?);
        let oid = by_name(revision).or_else(|| by_name(bare?)).or_else(pull).unwrap_or_else(|| revision.to_owned());
        self.commit(repo, &oid)
    }

    /// A repository's records of one sort, by number.
    pub fn numbered<T: DeserializeOwned>(&self, repo: &RepoId, folder: &str) -> Result<BTreeMap<u64, T>> {
        let dir = self.repo_dir(repo).join(folder);
        let mut found = BTreeMap::new();
        for number in names(&dir).iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()) {
            found.extend(read_json(&dir.join(format!("{number}.json")))?.map(|record| (number, record)));
        }
        Ok(found)
    }

    /// Replaces one of them.
    pub fn set_numbered(&self, repo: &RepoId, folder: &str, number: u64, record: &impl Serialize) -> Result<()> {
        self.write(&self.repo_dir(repo).join(folder).join(format!("{number}.json")), &to_json(record)?)
    }

    /// A commit by its id.
    pub fn commit(&self, repo: &RepoId, oid: &str) -> Result<Option<Commit>> {
        if !is_hex(oid, 40) {
            return Ok(None);
        }
        read_json(&self.repo_dir(repo).join("commits").join(format!("{oid}.json")))
    }

    /// `oid` and its ancestors, newest first, at most `at_most`.
    pub fn history(&self, repo: &RepoId, oid: &str, at_most: usize) -> Result<Vec<Commit>> {
        let mut found = Vec::new();
        let mut next = Some(oid.to_owned());
        while let Some(oid) = next.filter(|_| found.len() < at_most) {
            let Some(commit) = self.commit(repo, &oid)? else { break };
            next = commit.parents.first().cloned();
            found.push(commit);
        }
        Ok(found)
    }

    /// Writes a commit; no ref points to it yet.
    pub fn put_commit(&self, repo: &RepoId, commit: &Commit) -> Result<()> {
        let path = self.repo_dir(repo).join("commits").join(format!("{}.json", commit.oid));
        self.write(&path, &to_json(commit)?)
    }

    /// Where the content `sha256` lies or would lie; `None` for what is no SHA-256.
    pub fn object_path(&self, sha256: &str) -> Option<PathBuf> {
        is_hex(sha256, 64).then(|| self.root.join("objects/sha256").join(&sha256[..2]).join(sha256))
    }

    /// The size of the content `sha256`; `None` when it is not here.
    pub fn object_size(&self, sha256: &str) -> Option<u64> {
        Some(fs::metadata(self.object_path(sha256)?).ok()?.len())
    }

    /// The content of a small file.
    pub fn read_object(&self, file: &StoredFile) -> Result<Vec<u8>> {
        let path = self.object_path(&file.sha256).ok_or_else(|| Error::hub("a commit names no content"))?;
        fs::read(&path).on("read", &path)
    }

    /// Stores a regular file.
    pub fn put_regular(&self, content: &[u8]) -> Result<StoredFile> {
        let sha256 = hex::encode(Sha256::digest(content));
        if self.object_size(&sha256).is_none() {
            let mut temp = self.temp()?;
            temp.write_all(content).on("write", temp.path())?;
            self.keep(temp, &sha256)?;
        }
        Ok(StoredFile { size: content.len() as u64, sha256, git_sha1: git::blob_id(content), lfs: false })
    }

    /// A new file that is not yet an object.
    pub fn temp(&self) -> Result<NamedTempFile> {
        let dir = self.tmp()?;
        NamedTempFile::new_in(&dir).on("write below", &dir)
    }

    /// Makes a written file the object `sha256`; the caller hashed it.
    pub fn keep(&self, temp: NamedTempFile, sha256: &str) -> Result<()> {
        let path = self.object_path(sha256).ok_or_else(|| Error::bug("an object without a digest"))?;
        place(temp, &path)
    }

    /// Where the parts of a multipart upload wait.
    pub fn part_path(&self, sha256: &str, number: u32) -> Result<PathBuf> {
        Ok(self.tmp()?.join(format!("part-{sha256}-{number}")))
    }

    /// The folder for what is being written.
    pub fn tmp(&self) -> Result<PathBuf> {
        let dir = self.root.join("tmp");
        fs::create_dir_all(&dir).on("make", &dir)?;
        Ok(dir)
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let mut temp = self.temp()?;
        temp.write_all(content).on("write", temp.path())?;
        place(temp, path)
    }
}

fn place(temp: NamedTempFile, path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).on("make", dir)?;
    temp.persist(path).map(drop).map_err(|e| e.error).on("write", path)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::bug(e.to_string()))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("read", path, &e)),
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|e| Error::hub(format!("`{}` is damaged", path.display())).cause(e.to_string()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A ref's file name: `/` and all else that is not plain is escaped, so that no name leaves the folder.
fn file_of_ref(name: &str) -> Option<String> {
    let bad = name.is_empty() || name.len() > 80 || name.contains("..") || name.starts_with(['/', '-', '.']);
    if bad || name.ends_with(['/', '.']) || name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
        return None;
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let escaped = name.bytes().map(|b| if plain(&b) { (b as char).to_string() } else { format!("%{b:02x}") });
    Some(escaped.collect())
}

fn name_of_ref(file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = file.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.extend(hex::decode(pair).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_refs_stay_in_their_folder() {
        for name in ["main", "v1.0", "feature/x", "ü", "a%2fb"] {
            let file = file_of_ref(name).unwrap();
            assert!(!file.contains('/'), "{file}");
            assert_eq!(name_of_ref(&file).as_deref(), Some(name));
        }
        for name in ["", "..", "a/../b", "/a", ".a", "a b", "a\nb", "a/"] {
            assert!(file_of_ref(name).is_none(), "{name:?}");
        }
    }
}
