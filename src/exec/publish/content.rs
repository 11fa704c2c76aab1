//! What a commit carries: the card held against the tree, files searched for secrets, LFS content sent, operations made.
//!
//! Knows blobs and the server's answers about them. Does not commit.

use crate::core::error::{Error, OnPath, Result};
use crate::core::event::Event;
use crate::core::publish::{Changes, Tree};
use crate::exec::publish::Publisher;
use crate::hub::RepoKind;
use crate::hub::client::{LfsObject, Operation, Preupload};
use crate::stage;
use std::collections::BTreeMap;
use std::io::Read;

/// Larger texts are not searched for secrets: nobody types them.
const SCANNED: u64 = 32 << 20;

impl Publisher<'_, '_> {
    /// The card against the very tree: links, and the front matter by the Hub's own validator where it has one.
    pub(super) async fn check_card(&self, tree: &Tree) -> Result<()> {
        let Some(file) = tree.get("README.md") else { return Ok(()) };
        let bytes = self.driver.store.blobs().read(&file.digest)?;
        let bytes = bytes.ok_or_else(|| {
            Error::stage("`README.md` is gone from the cache").hint("run hfbuild again: it is made again")
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let exists = |path: &str| {
            let folder = format!("{}/", path.trim_end_matches('/'));
            tree.contains_key(path) || tree.keys().any(|k| k.starts_with(&folder))
        };
        if self.remote.target.kind == RepoKind::Space.word() {
            stage::check_space(&text, &self.driver.project.manifest.project.license, &exists)?;
        } else if self.is_card() {
            stage::check_links(&text, &exists)?;
        }
        let kind = RepoKind::from_word(&self.remote.target.kind).unwrap_or(RepoKind::Model);
        let Some(report) = self.remote.client.validate_yaml(&text, kind).await? else { return Ok(()) };
        for warning in &report.warnings {
            self.driver.emit(Event::Warning { text: format!("the Hub on the card: {warning}") });
        }
        match report.errors.is_empty() {
            true => Ok(()),
            false => Err(Error::hub("the Hub refuses the card's front matter").cause(report.errors.join("; "))),
        }
    }

    /// Whether the README is a `card`, and not anybody's text.
    fn is_card(&self) -> bool {
        let graph = &self.driver.project.graph;
        let files = graph.upload(self.upload).map(|upload| upload.files.as_slice()).unwrap_or_default();
        let readme = files.iter().filter(|(path, ..)| path == "README.md");
        let makers = readme.flat_map(|(_, _, artifact, _)| graph.of(artifact));
        makers.filter_map(|id| graph.stage(*id)).any(|stage| stage.kind == "card")
    }

    /// Sends LFS content and gives the commit's operations.
    pub(super) async fn upload_content(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<Operation>> {
        let blobs = self.driver.store.blobs();
        let mut asked = Vec::new();
        for file in changes.sent() {
            let digest = &tree[&file.path].digest;
            if !blobs.is_whole(digest, &mut self.driver.memo)? {
                return Err(Error::stage(format!("`{}` is gone from the cache, or damaged", file.path))
                    .hint("run hfbuild again: it is made again"));
            }
            let sample = first_bytes(&blobs.path(digest))?;
            if file.size <= SCANNED && !sample.contains(&0) {
                let bytes = std::fs::read(blobs.path(digest)).on("read", blobs.path(digest))?;
                stage::scan_text(&file.path, &bytes)?;
            }
            asked.push(Preupload { path: file.path.clone(), size: file.size, sample });
        }
        let remote = self.remote;
        let verdicts = remote.client.preupload(&remote.repo, &remote.target.revision, &asked).await?;
        let mut operations = Vec::new();
        let mut objects: BTreeMap<String, LfsObject> = BTreeMap::new();
        for file in changes.sent() {
            let entry = &tree[&file.path];
            let verdict = verdicts.get(&file.path);
            if verdict.is_some_and(|v| v.ignore) {
                let same = verdict.and_then(|v| v.oid.clone());
                if same.as_ref() != Some(&entry.hub.sha256) && same != entry.hub.git_sha1 {
                    return Err(Error::hub(format!(
                        "the Hub would leave out `{}`, because of the repo's .gitignore",
                        file.path
                    ))
                    .hint("take the rule out of .gitignore on the Hub, or publish the file under another name"));
                }
            }
            if verdict.is_some_and(|v| v.lfs) && entry.size > 0 {
                let object =
                    LfsObject { sha256: entry.hub.sha256.clone(), size: entry.size, path: blobs.path(&entry.digest) };
                objects.insert(entry.hub.sha256.clone(), object);
                operations.push(Operation::AddLfs {
                    path: file.path.clone(),
                    sha256: entry.hub.sha256.clone(),
                    size: entry.size,
                });
            } else {
                let bytes = blobs
                    .read(&entry.digest)?
                    .ok_or_else(|| Error::stage(format!("`{}` is gone from the cache", file.path)))?;
                operations.push(Operation::AddRegular { path: file.path.clone(), bytes });
            }
        }
        operations.extend(changes.delete.iter().map(|path| Operation::Delete { path: path.clone() }));
        let objects: Vec<_> = objects.into_values().collect();
        let total: u64 = objects.iter().map(|o| o.size).sum();
        let (sink, repo) = (self.driver.sink.clone(), remote.target.to_string());
        let sent = std::sync::atomic::AtomicU64::new(0);
        let progress = move |bytes: u64| {
            let done = sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            sink(Event::Sent { repo: repo.clone(), done, total });
        };
        remote
            .client
            .upload_lfs(&remote.repo, &remote.target.revision, &objects, std::sync::Arc::new(progress))
            .await?;
        Ok(operations)
    }
}

fn first_bytes(path: &std::path::Path) -> Result<Vec<u8>> {
    let mut sample = Vec::with_capacity(512);
    let file = std::fs::File::open(path).on("open", path)?;
    file.take(512).read_to_end(&mut sample).on("read", path)?;
    Ok(sample)
}
