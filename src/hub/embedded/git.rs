//! The ids that git would give: blobs, trees, commits, LFS pointers.
//!
//! Knows git's object format. Pure: no files, no clock. Ids are real, so that any tool that recomputes them agrees.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::store::{StoredFile, Tree};

/// The id of the object `kind` with `content`.
pub(super) fn object_id(kind: &str, content: &[u8]) -> [u8; 20] {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {}\0", content.len()));
    hash.update(content);
    hash.finalize().into()
}

/// The id of a blob in hex.
pub(super) fn blob_id(content: &[u8]) -> String {
    hex::encode(object_id("blob", content))
}

/// What git stores in place of an LFS file.
pub(super) fn lfs_pointer(sha256: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

/// A folder of a tree: what lies directly in it.
#[derive(Default)]
struct Folder<'a> {
    files: BTreeMap<&'a str, &'a StoredFile>,
    folders: BTreeMap<&'a str, Folder<'a>>,
}

/// The ids of all folders of `tree` by path; the root's path is empty.
pub(super) fn folder_ids(tree: &Tree) -> BTreeMap<String, String> {
    let mut root = Folder::default();
    for (path, file) in tree {
        let mut folder = &mut root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                folder.files.insert(part, file);
            } else {
                folder = folder.folders.entry(part).or_default();
            }
        }
    }
    let mut ids = BTreeMap::new();
    folder_id(&root, "", &mut ids);
    ids
}

fn folder_id(folder: &Folder<'_>, path: &str, ids: &mut BTreeMap<String, String>) -> [u8; 20] {
    // Git sorts folders as if their names ended with a slash.
    let mut lines: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, file) in &folder.files {
        let id = hex::decode(&file.git_sha1).unwrap_or_default();
        lines.push(((*name).to_owned(), line("100644", name, &id)));
    }
    for (name, inner) in &folder.folders {
        let below = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
        let id = folder_id(inner, &below, ids);
        lines.push((format!("{name}/"), line("40000", name, &id)));
    }
    lines.sort();
    let content: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line).collect();
    let id = object_id("tree", &content);
    ids.insert(path.to_owned(), hex::encode(id));
    id
}

fn line(mode: &str, name: &str, id: &[u8]) -> Vec<u8> {
    [mode.as_bytes(), b" ", name.as_bytes(), b"\0", id].concat()
}

/// The id of a commit of `tree` by `author` at `seconds` since 1970.
pub(super) fn commit_id(tree: &Tree, parents: &[String], author: &str, seconds: i64, text: &str) -> String {
    let root = folder_ids(tree).remove("").unwrap_or_default();
    let parents: String = parents.iter().map(|parent| format!("parent {parent}\n")).collect();
    let who = format!("{author} <{author}@localhost> {seconds} +0000");
    let content = format!("tree {root}\n{parents}author {who}\ncommitter {who}\n\n{text}\n");
    hex::encode(object_id("commit", content.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> StoredFile {
        StoredFile { size: content.len() as u64, sha256: String::new(), git_sha1: blob_id(content), lfs: false }
    }

    /// The ids are what `git hash-object` and `git write-tree` print for the same files.
    #[test]
    fn ids_are_those_of_git() {
        assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(folder_ids(&Tree::new())[""], "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        let tree: Tree = [("a.b", "1"), ("a/x", "2"), ("a0", "3")]
            .map(|(path, content)| (path.to_owned(), file(content.as_bytes())))
            .into();
        assert_eq!(folder_ids(&tree)[""], GIT_SAYS);
    }

    const GIT_SAYS: &str = "0c33d053af02457eaf9f9442af86d1418e1d7360";
}
