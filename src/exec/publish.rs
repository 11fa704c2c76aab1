//! Publishing: one atomic commit on the known parent, journalled before it is sent, found again after a lost answer,
//! verified by digest, recorded.
//!
//! The steps stand in the order of [`Publisher::send`]. A kill between any two of them leaves either nothing on the
//! remote or a commit that the next run finds by its nonce; blobs that were uploaded are not sent again.

use crate::core::action::Shape;
use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::event::Event;
use crate::core::gate::Outcome;
use crate::core::graph::{NodeId, Work};
use crate::core::manifest::{Hub, OnTag};
use crate::core::plan::{Decision, RECORD, Settled, decide};
use crate::core::publish::{self, Changes, Drifted, Intent, Published, Tree, UploadVerdict, is_same};
use crate::exec::drive::{Driver, now_ms};
use crate::exec::remote::Remote;
use crate::hub::RepoKind;
use crate::hub::client::{CommitOutcome, CommitRequest, LfsObject, Operation, Preupload};
use crate::stage;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

/// Larger texts are not searched for secrets: nobody types them.
const SCANNED: u64 = 32 << 20;
/// How often a publish is planned anew after somebody moved the branch.
const REPLANS: usize = 5;

/// One publish.
pub struct Publisher<'d, 'a> {
    /// The run.
    pub driver: &'d mut Driver<'a>,
    /// The hub.
    pub remote: &'d Remote,
    /// The node.
    pub upload: NodeId,
}

/// What came of one try.
enum Sent {
    Commit { commit: String, parent: String, found: bool },
    Moved,
}

impl Driver<'_> {
    /// Gates over `published` refused: nothing is sent.
    pub(super) fn refuse(&mut self, asked: &[(NodeId, Outcome)]) {
        for (gate, outcome) in asked {
            let node = self.project.graph.node(*gate).name.to_string();
            self.emit(Event::Gate { node, outcome: outcome.clone() });
            if !outcome.passed() {
                self.settled[gate.index()] = Some(Settled::Judged(outcome.clone()));
                self.summary.refused += 1;
            }
        }
        self.spare();
    }
}

impl Publisher<'_, '_> {
    /// Brings the remote to the decided tree, or finds that it is there already.
    pub async fn publish(&mut self, mut decision: Decision) -> Result<()> {
        for _ in 0..REPLANS {
            let Some((tree, record, verdict)) = decision.upload.take() else {
                self.driver.refuse(&decision.asked);
                return Err(Error::new(ErrorKind::Gate, "a gate refuses against what was published meanwhile"));
            };
            let unchanged = matches!(verdict, Some(UploadVerdict::UpToDate { adopt: false, .. }));
            if !(unchanged && self.is_laid_out(&record)?) {
                self.lay_out(&tree, &record)?;
            }
            let allowed = &decision.allowed;
            match verdict.ok_or_else(|| Error::bug("a publish whose remote was not observed"))? {
                UploadVerdict::UpToDate { commit, adopt } => {
                    return self.up_to_date(tree, commit, adopt, allowed).await;
                }
                UploadVerdict::Drift { files } => return Err(drift_error(&files, self.remote)),
                UploadVerdict::Send { changes, over } => {
                    if !over.is_empty() {
                        let list: Vec<_> = over.iter().map(drifted_path).collect();
                        self.driver.emit(Event::Warning {
                            text: format!("publishing over changes on the remote: {}", list.join(", ")),
                        });
                    }
                    self.tell_asked(&decision.asked);
                    match self.send(&tree, changes, allowed).await? {
                        Sent::Commit { commit, parent, found } => {
                            return self.landed(tree, commit, parent, found, allowed).await;
                        }
                        Sent::Moved => {
                            self.driver.emit(Event::Note { text: "the branch moved meanwhile: planning again".into() });
                            decision = self.look_again().await?;
                        }
                    }
                }
            }
        }
        Err(Error::hub(format!("`{}` moved {REPLANS} times while publishing", self.remote.target.repo))
            .hint("run hfbuild again when it is quieter"))
    }

    /// Whether this very record stands in `dist/`: then the whole tree was laid out with it.
    fn is_laid_out(&mut self, record: &[u8]) -> Result<bool> {
        let Work::Upload(upload) = &self.driver.project.graph.node(self.upload).work else { return Ok(true) };
        let place = format!("{}/{RECORD}", upload.dist);
        let there = self.driver.memo.digest(&self.driver.project.root, &place)?;
        Ok(there == Some(Digest::of(record)))
    }

    /// Puts the record beside the other files of the tree, and takes away files of earlier trees that are ours.
    fn lay_out(&mut self, tree: &Tree, record: &[u8]) -> Result<()> {
        let Work::Upload(upload) = &self.driver.project.graph.node(self.upload).work else { return Ok(()) };
        let dist = upload.dist.to_string();
        let blobs = self.driver.store.blobs();
        let digest = blobs.put(record)?;
        self.driver.place_one(&format!("{dist}/{RECORD}"), &digest, &blobs)?;
        self.clear_old(tree, &dist)?;
        let root = self.driver.project.root.clone();
        for entry in walkdir::WalkDir::new(root.join(&dist)).into_iter().flatten().filter(|e| e.file_type().is_file()) {
            let Some(path) = entry.path().strip_prefix(root.join(&dist)).ok().and_then(|p| p.to_str()) else {
                continue;
            };
            if !tree.contains_key(path) {
                self.driver.emit(Event::Warning {
                    text: format!("`{dist}/{path}` is not part of the tree and is not published"),
                });
            }
        }
        Ok(())
    }

    /// Takes away what an earlier publish laid out and this tree does not have: only files at the very paths of a
    /// recorded tree, with the very content that was recorded. Anything else is somebody's.
    fn clear_old(&mut self, tree: &Tree, dist: &str) -> Result<()> {
        let root = self.driver.project.root.clone();
        let trees = self.driver.loaded.publishes.landed.iter().map(|p| &p.tree);
        let old: BTreeMap<String, Vec<Digest>> = trees.flatten().filter(|(path, _)| !tree.contains_key(*path)).fold(
            BTreeMap::new(),
            |mut old, (path, file)| {
                old.entry(path.clone()).or_insert_with(Vec::new).push(file.digest);
                old
            },
        );
        for (path, digests) in old {
            let place = format!("{dist}/{path}");
            let there = self.driver.memo.digest(&root, &place)?;
            if self.is_somebodys(&place) || !there.is_some_and(|d| digests.contains(&d)) {
                continue;
            }
            let full = root.join(&place);
            std::fs::remove_file(&full).on("remove", &full)?;
            self.driver.world.placed.remove(&place);
            for parent in full.ancestors().skip(1).take_while(|p| *p != root.join(dist) && p.starts_with(&root)) {
                if std::fs::remove_dir(parent).is_err() {
                    break; // it holds something else
                }
            }
        }
        Ok(())
    }

    /// Whether an artifact of the project makes this very path.
    fn is_somebodys(&self, place: &str) -> bool {
        let declared = |id| self.driver.project.graph.stage(id).map(|d| &d.shape);
        self.driver.project.graph.ids().filter_map(declared).any(|shape| match shape {
            Shape::Paths(paths) => paths.iter().any(|p| p == place || place.starts_with(&format!("{p}/"))),
            _ => false,
        })
    }

    async fn look_again(&mut self) -> Result<Decision> {
        let graph = &self.driver.project.graph;
        let blobs = graph.asks_published().then(|| self.driver.store.blobs());
        let observed = self.remote.observe(&self.driver.loaded.publishes, blobs.as_ref()).await?;
        self.driver.world.remotes.insert(self.upload, observed);
        let driver = &self.driver;
        Ok(decide(graph, self.upload, &driver.settled, &driver.loaded.history, &driver.world))
    }

    /// Says how the gates over `published` ended: all of them passed, or may refuse.
    fn tell_asked(&self, asked: &[(NodeId, Outcome)]) {
        for (gate, outcome) in asked {
            let node = self.driver.project.graph.node(*gate).name.to_string();
            let values = outcome.values().iter().map(|(name, value)| format!("`{name}` is {value}"));
            self.driver.emit(match outcome.passed() {
                true => Event::Gate { node, outcome: outcome.clone() },
                false => Event::Warning {
                    text: format!(
                        "{node} refuses, and `--allow-regression` publishes all the same: {}",
                        values.collect::<Vec<_>>().join(", ")
                    ),
                },
            });
        }
    }

    async fn up_to_date(&mut self, tree: Tree, commit: String, adopt: bool, allowed: &[String]) -> Result<()> {
        if adopt {
            let target = self.remote.target.clone();
            let allowed = allowed.to_vec();
            let published = Published { target, commit: commit.clone(), parent: None, tree, at_ms: now_ms(), allowed };
            self.driver.recorder.published(&published)?;
            self.driver.loaded.publishes.landed.push(published);
        }
        let repo = self.remote.target.repo.clone();
        if self.driver.recovered.as_ref() == Some(&commit) {
            // the run before was cut off between its commit and its record: finish what it began
            self.tag(&commit).await?;
            self.driver.emit(Event::Published { repo, commit: commit.clone(), found: true });
            self.driver.summary.commits.push(commit);
            return Ok(());
        }
        self.driver.emit(Event::RemoteFresh { repo, commit: commit.clone() });
        self.driver.summary.unchanged.push(commit);
        Ok(())
    }

    /// Preflight of the tree, repo, content, intent, commit.
    async fn send(&mut self, tree: &Tree, changes: Changes, allowed: &[String]) -> Result<Sent> {
        self.check_card(tree).await?;
        let (remote, target) = (self.remote, self.remote.target.clone());
        let mut parent = self.driver.world.remotes.get(&self.upload).and_then(|o| o.head.clone());
        if parent.is_none() {
            let hub = self.hub()?;
            remote.client.create_repo(&remote.repo, hub.private, None).await?;
            let head = remote.client.head(&remote.repo, &target.revision).await?;
            parent = Some(
                head.ok_or_else(|| Error::hub(format!("`{}` has no branch `{}`", target.repo, target.revision)))?.sha,
            );
        }
        let parent = parent.unwrap_or_default();
        self.driver.emit(Event::Uploading { repo: target.repo.clone(), changes: changes.clone() });
        let operations = self.upload_content(tree, &changes).await?;
        let nonce = format!("hfbuild-{}", nonce());
        let digest = publish::tree_digest(tree);
        let intent = Intent {
            target,
            parent: parent.clone(),
            tree: tree.clone(),
            nonce: nonce.clone(),
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
        };
        self.driver.cancel.check()?;
        self.driver.recorder.intent(&intent)?;
        let request = CommitRequest {
            summary: self.summary(&changes),
            description: format!(
                "{}\n\n{}tree: {digest}\nrecord: {}\nnonce: {nonce}",
                describe(&changes),
                allowed.iter().map(|clause| format!("allowed regression: {clause}\n")).collect::<String>(),
                tree[RECORD].hub.sha256
            ),
            parent,
            operations,
        };
        loop {
            match remote.client.commit(&remote.repo, &remote.target.revision, &request).await? {
                CommitOutcome::Landed { oid, .. } => {
                    return Ok(Sent::Commit { commit: oid, parent: intent.parent, found: false });
                }
                CommitOutcome::ParentMoved => {
                    // our own commit may be what moved it: an answer that was lost on the way, then a second try
                    if let Some(commit) = remote.find_landed(&intent, Duration::ZERO).await? {
                        return Ok(Sent::Commit { commit, parent: intent.parent, found: true });
                    }
                    self.driver.recorder.abandoned(&nonce)?;
                    return Ok(Sent::Moved);
                }
                CommitOutcome::Throttled { wait } => {
                    let wait = wait.unwrap_or(Duration::from_secs(5)).min(Duration::from_secs(300));
                    self.driver.emit(Event::Note { text: format!("the Hub asks to wait {} s", wait.as_secs()) });
                    tokio::time::sleep(wait).await;
                }
                CommitOutcome::Unknown { reason } => {
                    self.driver.emit(Event::Warning {
                        text: format!("the answer to the commit was lost ({reason}): looking for it"),
                    });
                    if let Some(commit) = remote.find_landed(&intent, remote.may_still_land()).await? {
                        return Ok(Sent::Commit { commit, parent: intent.parent, found: true });
                    }
                    // it carries its parent: should it land after all, the second one is refused
                    self.driver.emit(Event::Note { text: "the commit did not land: sending it again".into() });
                }
            }
            self.driver.cancel.check()?;
        }
    }

    /// The card against the very tree: links, and the front matter by the Hub's own validator where it has one.
    async fn check_card(&self, tree: &Tree) -> Result<()> {
        let Some(file) = tree.get("README.md") else { return Ok(()) };
        let bytes = self.driver.store.blobs().read(&file.digest)?;
        let bytes = bytes.ok_or_else(|| {
            Error::stage("`README.md` is gone from the cache").hint("run hfbuild again: it is made again")
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let is_card = self.driver.project.graph.ids().any(|id| {
            self.driver.project.graph.stage(id).is_some_and(|d| d.kind == "card")
                && self.driver.project.graph.node(id).published
        });
        if is_card {
            stage::check_links(&text, &|path| {
                tree.contains_key(path)
                    || tree.keys().any(|k| k.starts_with(&format!("{}/", path.trim_end_matches('/'))))
            })?;
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

    /// Sends LFS content and gives the commit's operations.
    async fn upload_content(&mut self, tree: &Tree, changes: &Changes) -> Result<Vec<Operation>> {
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
        let (sink, repo) = (self.driver.sink.clone(), remote.target.repo.clone());
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

    /// After the commit: verify, tag, record. The record comes last, so that a kill before it is found by the intent.
    async fn landed(
        &mut self,
        tree: Tree,
        commit: String,
        parent: String,
        found: bool,
        allowed: &[String],
    ) -> Result<()> {
        self.verify(&tree, &commit).await?;
        self.tag(&commit).await?;
        let published = Published {
            target: self.remote.target.clone(),
            commit: commit.clone(),
            parent: Some(parent),
            tree,
            at_ms: now_ms(),
            allowed: allowed.to_vec(),
        };
        self.driver.recorder.published(&published)?;
        self.driver.loaded.publishes.landed.push(published);
        self.driver.emit(Event::Published { repo: self.remote.target.repo.clone(), commit: commit.clone(), found });
        self.driver.summary.commits.push(commit);
        Ok(())
    }

    /// Proves by digest that the remote is what was sent.
    async fn verify(&self, tree: &Tree, commit: &str) -> Result<()> {
        let there = self.remote.client.tree(&self.remote.repo, commit).await?;
        for (path, file) in tree {
            let same = there.get(path).is_some_and(|r| {
                is_same(
                    file,
                    &publish::RemoteFile { size: r.size, git_sha1: r.git_sha1.clone(), sha256: r.sha256.clone() },
                )
            });
            if !same {
                let what = if there.contains_key(path) { "has other content" } else { "is missing" };
                return Err(Error::hub(format!("commit {commit} landed, but `{path}` {what} there"))
                    .hint("run hfbuild again to look at it anew"));
            }
        }
        Ok(())
    }

    async fn tag(&mut self, commit: &str) -> Result<()> {
        let Some(name) = self.hub()?.tag.clone() else { return Ok(()) };
        let tags = self.remote.client.tags(&self.remote.repo).await?;
        match tags.get(&name) {
            Some(at) if at == commit => Ok(()),
            Some(_) => {
                let text =
                    format!("tag `{name}` is there already and stays where it is (raise `version` for a new one)");
                self.driver.emit(Event::Note { text });
                Ok(())
            }
            None => self.remote.client.create_tag(&self.remote.repo, &name, commit).await,
        }
    }

    fn hub(&self) -> Result<&Hub> {
        self.driver.project.manifest.hub.as_ref().ok_or_else(|| Error::bug("a publish without [hub]"))
    }

    fn summary(&self, changes: &Changes) -> String {
        let project = &self.driver.project.manifest.project;
        let files = changes.sent().count() + changes.delete.len();
        format!("{} {}: {files} {}", project.name, project.version, if files == 1 { "file" } else { "files" })
    }
}

fn describe(changes: &Changes) -> String {
    let line = |sign: &str, path: &str| format!("{sign} {path}");
    let mut lines: Vec<String> = changes.add.iter().map(|f| line("+", &f.path)).collect();
    lines.extend(changes.change.iter().map(|f| line("~", &f.path)));
    lines.extend(changes.delete.iter().map(|p| line("-", p)));
    if lines.len() > 20 {
        let more = lines.len() - 20;
        lines.truncate(20);
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// Refuses, before any stage runs, a publish whose tag is there already where the manifest says `on_tag = "fail"`.
pub async fn check_tag(remote: &Remote, hub: &Hub) -> Result<()> {
    let Some(name) = hub.tag.as_ref().filter(|_| hub.on_tag == OnTag::Fail) else { return Ok(()) };
    match remote.client.tags(&remote.repo).await?.contains_key(name) {
        false => Ok(()),
        true => Err(Error::hub(format!("tag `{name}` is there already, and `on_tag` is \"fail\""))
            .hint("raise `version` in [project]")),
    }
}

/// 128 bits that no other publish has: only its being unlike any other matters, and it is nobody's secret.
fn nonce() -> String {
    let mut seed = [0u8; 16];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed));
    if random.is_ok() { hex::encode(seed) } else { format!("{}-{}", std::process::id(), now_ms()) }
}

fn first_bytes(path: &std::path::Path) -> Result<Vec<u8>> {
    let mut sample = Vec::with_capacity(512);
    let file = std::fs::File::open(path).on("open", path)?;
    file.take(512).read_to_end(&mut sample).on("read", path)?;
    Ok(sample)
}

fn drifted_path(drifted: &Drifted) -> String {
    match drifted {
        Drifted::Changed { path } => format!("`{path}` (changed there)"),
        Drifted::Deleted { path } => format!("`{path}` (deleted there)"),
        Drifted::Foreign { path } => format!("`{path}` (not of ours)"),
        Drifted::Gone => "the repo or its branch is gone".into(),
    }
}

/// The refusal to publish over what others changed.
pub fn drift_error(files: &[Drifted], remote: &Remote) -> Error {
    let mut error = Error::new(
        ErrorKind::Drift,
        format!(
            "`{}` is not what the last publish left: {}",
            remote.target.repo,
            match files {
                [Drifted::Gone] => "it is gone".to_string(),
                [_] => "1 file differs".to_string(),
                many => format!("{} files differ", many.len()),
            }
        ),
    );
    for file in files.iter().take(10) {
        error = error.cause(drifted_path(file));
    }
    error.hint("look at it there; to publish over it, set `on_drift = \"overwrite\"` in [hub] or give `--overwrite`")
}

/// Ends what an interrupted publish left open: an intent whose commit is found is a publish; one that cannot land any more
/// is abandoned.
pub async fn settle_intents(
    remote: &Remote,
    loaded: &mut crate::store::records::Loaded,
    recorder: Option<&mut crate::store::records::Recorder>,
) -> Result<Option<String>> {
    let Some(intent) = loaded.publishes.intent(&remote.target).cloned() else { return Ok(None) };
    let age = Duration::from_millis(now_ms().saturating_sub(intent.at_ms).max(0) as u64);
    let wait = if recorder.is_some() { remote.may_still_land().saturating_sub(age) } else { Duration::ZERO };
    let found = remote.find_landed(&intent, wait).await?;
    match &found {
        Some(commit) => {
            let published = Published {
                target: intent.target.clone(),
                commit: commit.clone(),
                parent: Some(intent.parent.clone()),
                tree: intent.tree.clone(),
                at_ms: now_ms(),
                allowed: intent.allowed.clone(),
            };
            if let Some(recorder) = recorder {
                recorder.published(&published)?;
            }
            loaded.publishes.landed.push(published);
        }
        None => {
            if let Some(recorder) = recorder {
                recorder.abandoned(&intent.nonce)?;
            }
        }
    }
    loaded.publishes.open.retain(|i| i.nonce != intent.nonce);
    Ok(found)
}
