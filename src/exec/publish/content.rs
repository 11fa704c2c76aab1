//! What a commit carries: the card held against the tree, weights that were trained, files that are what their names
//! promise and hold no secret, LFS content sent, operations made.
//!
//! Knows blobs and the server's answers about them. Does not commit.

use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::leaks::NONFINITE;
use crate::core::limits;
use crate::core::plan::Settled;
use crate::core::publish::{Changes, Observed, Sized, Tree, TreeFile};
use crate::core::value::{Value, human_bytes};
use crate::exec::leaks::{self, Candidate};
use crate::exec::publish::Publisher;
use crate::hub::RepoKind;
use crate::hub::client::{LfsObject, Operation, Preupload, Verdict};
use crate::stage;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Whether a fact has a value that is not to be published unasked.
type Is = fn(&Value) -> bool;

/// Facts of weights with which it is not to be published unasked, and what each says of it.
const UNASKED: [(&str, Is, &str); 2] = [
    (
        "freshly_initialised",
        |value| *value == Value::Bool(true),
        "was never trained: its last layer, or all its norms, are as initialisation left them",
    ),
    ("nonfinite", |value| *value != Value::Int(0), "holds values that are NaN or infinite"),
];

impl Publisher<'_, '_> {
    /// All that can be refused before anything on the Hub is touched; what the Hub is to be asked of each file.
    pub(super) async fn check_tree(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<Preupload>> {
        super::results::check(&self.driver.project.graph, &self.driver.settled, tree)?;
        let asked = self.check_content(tree, changes)?;
        self.check_card(tree).await?;
        Ok(asked)
    }

    /// The card against the very tree: links, and the front matter by the Hub's own validator where it has one.
    async fn check_card(&self, tree: &Tree) -> Result<()> {
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
            let web = self.remote.repo.web_path();
            let repos = [crate::exec::remote::PUBLIC, &self.remote.target.endpoint, ""].map(|at| format!("{at}/{web}"));
            let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
            stage::check_links(&text, &repos, &paths)?;
            self.check_licenses(tree)?;
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

    /// The files of the tree with a licence's name, whoever made them, against the manifest's licence.
    fn check_licenses(&self, tree: &Tree) -> Result<()> {
        for (path, file) in tree.iter().filter(|(path, file)| stage::is_license(path) && file.size < 1 << 20) {
            let bytes = self.driver.store.blobs().read(&file.digest)?.unwrap_or_default();
            let says = &self.driver.project.manifest.project.license;
            stage::check_license_text(path, &String::from_utf8_lossy(&bytes), says)?;
        }
        Ok(())
    }

    fn check_file(&mut self, path: &str, file: &TreeFile, tree: &Tree) -> Result<()> {
        let blobs = self.driver.store.blobs();
        if !blobs.is_whole(&file.digest, &mut self.driver.memo)? {
            return Err(Error::stage(format!("`{path}` is gone from the cache, or damaged"))
                .hint("run hfbuild again: it is made again"));
        }
        stage::check_outgoing(path, &blobs.path(&file.digest), &|path| Some(tree.get(path)?.size))
    }

    /// Refuses what must not be published, before anything of it is sent. The findings that the manifest lets pass, a line
    /// each.
    pub(super) fn refuse_leaks(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<String>> {
        let allowed = self.hub()?.allow_findings.clone();
        let blobs = self.driver.store.blobs();
        let candidate = |path: &str| {
            let digest = tree.get(path)?.digest;
            Some(Candidate { path: path.into(), digest, file: blobs.path(&digest) })
        };
        let files: Vec<_> = changes.sent().filter_map(|file| candidate(&file.path)).collect();
        let whole = files.into_iter().filter(|candidate| candidate.file.exists()).collect::<Vec<_>>();
        let mut found = leaks::search(&whole, &allowed, &mut self.driver.memo)?;
        leaks::add_own_tokens(&whole, &mut found)?;
        for one in &whole {
            let doubts = stage::doubtful_weights(&one.file);
            found.add(
                &one.path,
                doubts.into_iter().filter(|doubt| !self.is_asked(one.digest, &doubt.rule)).collect(),
                &allowed,
            );
        }
        for (path, rule) in &found.allowed {
            self.driver.emit(Event::Note { text: format!("`{path}`: what `{rule}` finds is allowed by the manifest") });
        }
        match found.refusal() {
            Some(error) => Err(error),
            None => Ok(found.allowed.into_iter().map(|(path, rule)| format!("{rule} in {path}")).collect()),
        }
    }

    /// Looks at every file that will be sent; what the Hub is to be asked of each.
    pub(super) fn check_sent(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<Preupload>> {
        let blobs = self.driver.store.blobs();
        let mut asked = Vec::new();
        for file in changes.sent() {
            let digest = &tree[&file.path].digest;
            self.check_file(&file.path, &tree[&file.path], tree)?;
            let sample = first_bytes(&blobs.path(digest))?;
            asked.push(Preupload { path: file.path.clone(), size: file.size, sample });
        }
        Ok(asked)
    }

    /// Looks at every file that will be sent, and at graphs whose weights will be.
    fn check_content(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<Preupload>> {
        let asked = self.check_sent(tree, changes)?;
        // a graph that stays as it is may lose its external data, or get another's
        let changed = || changes.sent().map(|file| &file.path).chain(&changes.delete);
        for (path, file) in tree.iter().filter(|(path, _)| path.to_lowercase().ends_with(".onnx")) {
            let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            if !changed().any(|other| other == path) && changed().any(|other| other.starts_with(&folder)) {
                self.check_file(path, file, tree)?;
            }
        }
        Ok(asked)
    }

    /// Whether weights that were made from a checkpoint's are as a gate before the upload has asked. That a checkpoint was
    /// trained is a fact of the weights that it selects: it says nothing of the others that a `.pt` for fine-tuning has too.
    fn is_asked(&self, digest: Digest, rule: &str) -> bool {
        let (fact, kinds): (_, &[_]) = match rule {
            NONFINITE => ("nonfinite", &["safetensors", "pytorch"]),
            _ => ("freshly_initialised", &["safetensors"]),
        };
        let graph = &self.driver.project.graph;
        let makes = |id: &NodeId| match &self.driver.settled[id.index()] {
            Some(Settled::Made(receipt)) => receipt.outputs.iter().any(|output| output.digest == digest),
            _ => false,
        };
        let kind = |id| graph.stage(id).map(|stage| stage.kind);
        let is_made = graph.ids().filter(makes).filter_map(kind).any(|kind| kinds.contains(&kind));
        let before = graph.closure(&[self.upload]);
        let clauses = graph.ids().filter(|id| before[id.index()]).filter_map(|id| graph.clause(id));
        is_made && clauses.flat_map(|clause| &clause.names).any(|name| matches!(&name[..], [_, asked] if asked == fact))
    }

    /// Refuses weights that were never trained, and such that hold what is no number, unless a gate before the upload has
    /// asked for just that.
    pub(super) fn check_weights(&self) -> Result<()> {
        let graph = &self.driver.project.graph;
        let before = graph.closure(&[self.upload]);
        let before: Vec<_> = graph.ids().filter(|id| before[id.index()]).collect();
        let asks = |artifact: &str, asked: &str| {
            let names = before.iter().filter_map(|id| graph.clause(*id)).flat_map(|clause| &clause.names);
            names.into_iter().any(|name| matches!(&name[..], [root, fact] if root == artifact && fact == asked))
        };
        for id in &before {
            let (Some(Settled::Made(receipt)), Some(declaration)) =
                (&self.driver.settled[id.index()], graph.stage(*id))
            else {
                continue;
            };
            let artifact = graph.node(*id).name.artifact.to_string();
            let facts = &receipt.facts.values;
            let found = UNASKED
                .iter()
                .find(|(fact, is, _)| facts.get(*fact).is_some_and(|found| is(&found.value)) && !asks(&artifact, fact));
            if let Some((fact, _, what)) = found.filter(|_| ["checkpoint", "pytorch"].contains(&declaration.kind)) {
                return Err(Error::new(ErrorKind::Gate, format!("`{artifact}` {what}")).hint(format!(
                    "to publish it as it is, say so in a gate that the upload waits for: `{artifact}.{fact}`"
                )));
            }
        }
        Ok(())
    }

    /// Sends LFS content and gives the commit's operations. `parent` is the commit that it is made on.
    pub(super) async fn upload_content(
        &mut self,
        tree: &Tree,
        changes: &Changes,
        asked: &[Preupload],
        parent: &str,
    ) -> Result<Vec<Operation>> {
        let blobs = self.driver.store.blobs();
        let remote = self.remote;
        let verdicts = remote.client.preupload(&remote.repo, &remote.target.revision, asked).await?;
        let sources = self.copy_sources(tree, changes, parent).await?;
        let mut operations = Vec::new();
        let mut objects: BTreeMap<String, LfsObject> = BTreeMap::new();
        let mut inline = 0;
        for Sized { path, .. } in changes.sent() {
            let entry = &tree[path];
            let (size, sha256, path) = (entry.size, entry.hub.sha256.clone(), path.clone());
            let verdict = verdicts.get(&path);
            if let Some(verdict) = verdict.filter(|v| v.ignore) {
                refuse_ignored(&path, entry, verdict)?;
            }
            if !verdict.is_some_and(|v| v.lfs) || size == 0 {
                limits::check_inline(&path, size)?;
                inline += size;
                limits::check_commit(inline)?;
                operations.push(Operation::AddFile { path, file: blobs.path(&entry.digest), size });
            } else if let Some(source) = sources.get(&sha256) {
                let (source, revision) = (source.clone(), parent.to_owned());
                operations.push(Operation::Copy { path, source, revision, sha256, size });
            } else {
                let (name, file) = (path.clone(), blobs.path(&entry.digest));
                let object = LfsObject { name, sha256: sha256.clone(), size, path: file };
                objects.entry(sha256.clone()).or_insert(object);
                operations.push(Operation::AddLfs { path, sha256, size });
            }
        }
        operations.extend(changes.delete.iter().map(|path| Operation::Delete { path: path.clone() }));
        self.upload_objects(objects.into_values().collect()).await?;
        Ok(operations)
    }

    /// Sends LFS content, and tells how far it is.
    async fn upload_objects(&self, objects: Vec<LfsObject>) -> Result<()> {
        let remote = self.remote;
        let total: u64 = objects.iter().map(|o| o.size).sum();
        let (sink, repo) = (self.driver.sink.clone(), remote.target.to_string());
        let sent = std::sync::atomic::AtomicU64::new(0);
        let progress = move |bytes: u64| {
            let done = sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            sink(Event::Sent { repo: repo.clone(), done: done.min(total), total }); // what is sent again counts again
        };
        let (repo, revision) = (&remote.repo, &remote.target.revision);
        let uploaded = remote.client.upload_lfs(repo, revision, &objects, std::sync::Arc::new(progress)).await?;
        if uploaded.xet > 0 && uploaded.xet < uploaded.bytes / 2 {
            let (sent, of) = (human_bytes(uploaded.xet), human_bytes(uploaded.bytes));
            let text = format!("{sent} of {of} were sent: the Hub has the rest, or it compresses well");
            self.driver.emit(Event::Note { text });
        }
        Ok(())
    }

    /// By SHA-256, LFS files that the repo has at `parent` and that have the content of a file to be sent. The listing is
    /// only asked for where the record of the last publish lets one expect any.
    async fn copy_sources(&self, tree: &Tree, changes: &Changes, parent: &str) -> Result<BTreeMap<String, String>> {
        let wanted: BTreeSet<&str> =
            changes.sent().filter(|file| file.size > 0).map(|file| tree[&file.path].hub.sha256.as_str()).collect();
        let observed = self.driver.world.remotes.get(&self.upload);
        let proposal = observed.and_then(|observed| observed.proposal.as_ref()).map(|proposal| &proposal.at);
        // what was seen of another commit says nothing of this one
        let is_parent = |o: &&Observed| [&o.head, &o.start].iter().any(|seen| seen.as_deref() == Some(parent));
        let Some(observed) = observed.into_iter().chain(proposal).find(is_parent) else { return Ok(BTreeMap::new()) };
        let large = |(path, sha256): (&String, Option<&String>)| Some((sha256?.clone(), path.clone()));
        let mut sources: BTreeMap<String, String> = match &observed.files {
            Some(files) => files.iter().filter_map(|(path, file)| large((path, file.sha256.as_ref()))).collect(),
            None if observed.managed.values().any(|file| wanted.contains(file.sha256.as_str())) => {
                let files = self.remote.client.tree(&self.remote.repo, parent).await?;
                files.iter().filter_map(|(path, file)| large((path, file.sha256.as_ref()))).collect()
            }
            None => BTreeMap::new(),
        };
        sources.retain(|sha256, _| wanted.contains(sha256.as_str()));
        Ok(sources)
    }
}

/// A file that the Hub would leave out is refused, unless it says so because it has that very content.
fn refuse_ignored(path: &str, entry: &TreeFile, verdict: &Verdict) -> Result<()> {
    let there = verdict.oid.as_ref();
    if there.is_some() && (there == Some(&entry.hub.sha256) || there == entry.hub.git_sha1.as_ref()) {
        return Ok(());
    }
    Err(Error::hub(format!("the Hub would leave out `{path}`, because of the repo's .gitignore"))
        .hint("take the rule out of .gitignore on the Hub, or publish the file under another name"))
}

fn first_bytes(path: &std::path::Path) -> Result<Vec<u8>> {
    let mut sample = Vec::with_capacity(512);
    let file = std::fs::File::open(path).on("open", path)?;
    file.take(512).read_to_end(&mut sample).on("read", path)?;
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::digest::HubDigests;

    #[test]
    fn ignored_because_it_is_there_is_no_refusal() {
        let hub = HubDigests { sha256: "a".repeat(64), git_sha1: Some("b".repeat(40)) };
        let entry = TreeFile { size: 1, digest: Digest::of(b"x"), hub };
        let said = |oid: Option<String>| refuse_ignored("x", &entry, &Verdict { lfs: false, ignore: true, oid });
        assert!(said(Some("a".repeat(64))).is_ok() && said(Some("b".repeat(40))).is_ok());
        assert!(said(Some("c".repeat(40))).is_err() && said(None).unwrap_err().to_string().contains("leave out `x`"));
    }
}
