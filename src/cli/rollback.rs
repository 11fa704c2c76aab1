//! `rollback`: an earlier publish again, in one commit.
//!
//! Finds what is meant, takes the lock, and lets the engine do it.

use super::build::{guarding, listen, run_dir_sink};
use super::past::{self, Opened};
use super::{Failure, Global};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::event::Event;
use crate::core::graph::NodeId;
use crate::core::manifest::OnDrift;
use crate::core::plan::World;
use crate::core::publish::{Drifted, How, UploadVerdict};
use crate::exec::drive::{self, Cancel, Driver, Options, Sink, Start};
use crate::exec::history::{self, Entry};
use crate::exec::publish::rollback::{self, RolledBack, Version};
use crate::exec::publish::{Publisher, settle_intents};
use crate::exec::remote::{Access, Remote, Remotes};
use crate::store::memo::Memo;
use crate::store::records::{Loaded, Recorder};
use crate::store::{Store, lock, records};
use crate::ui::progress::Progress;
use crate::ui::{plan as shown, short};
use std::sync::Arc;

/// What is asked of it.
#[derive(Debug, Clone, clap::Args)]
pub struct RollbackArgs {
    /// A commit (its first digits) or a tag (default: the publish before the current one)
    pub version: Option<String>,
    /// Of several uploads, the one that is meant
    #[arg(long, value_name = "ARTIFACT")]
    pub upload: Option<String>,
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Roll back over what others changed on the remote
    #[arg(long)]
    pub overwrite: bool,
    /// Fail (exit code 6) where another hfbuild builds this project, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
}

/// What is to be done.
enum Aim {
    Nothing(String),
    Restore(Box<Version>),
}

/// `hfbuild rollback [COMMIT|TAG]`
pub fn rollback(global: &Global, args: &RollbackArgs) -> Result<(), Failure> {
    let opened = past::open(global)?;
    let upload = the_one(&opened, args.upload.as_deref())?;
    let to = opened.project.graph.upload(upload).map(|upload| &upload.to);
    let overwrite = args.overwrite || to.is_some_and(|to| to.on_drift == OnDrift::Overwrite);
    let word = args.version.as_deref();
    if to.is_some_and(|to| to.pull_request) {
        return Err(Error::new(
            ErrorKind::Usage,
            "`pull_request = true` proposes every change, and a rollback is a commit",
        )
        .hint("to commit it to the branch all the same, give a `--profile` whose [hub] says `pull_request = false`")
        .into());
    }
    if args.dry_run {
        let line = past::block_on(async {
            let (remotes, remote) = opened.open(upload, Access::Read).await?;
            let mut loaded = records::load(&opened.store)?;
            let recovered = settle_intents(&remote, &mut loaded, None).await?;
            let line = match aim(&remote, &loaded, &opened.store, word, recovered).await? {
                Aim::Nothing(line) => line,
                Aim::Restore(version) => would(global, &remote, &loaded, &version, overwrite).await?,
            };
            remotes.close().await;
            Ok(line)
        })?;
        past::talk(global, &format!("hfbuild: {line}"));
        return Ok(());
    }
    let progress = Arc::new(Progress::new(super::build::verbosity(global)));
    let store = Store::open(&opened.project.root, &|text| progress.show(&Event::Warning { text }))?;
    let tell = |text: String| progress.show(&Event::Note { text });
    let lock = lock::acquire(&store.lock_path(), !args.no_wait, &tell)?;
    store.clear_tmp()?;
    let (sink, run_dir) = run_dir_sink(&progress, &store)?;
    let cancel = Cancel::guarded(guarding(&store, &lock));
    let done = past::block_on(async {
        let guard = tokio::spawn(listen(cancel.clone()));
        let done = tokio::select! {
            done = restore(&opened, upload, &store, word, overwrite, sink, cancel.clone(), run_dir) => done,
            stopped = drive::stopped(&cancel) => Err(stopped),
        };
        guard.abort();
        done
    });
    progress.end();
    past::talk(global, &format!("hfbuild: {}", done?));
    Ok(())
}

/// The upload that is meant: the one that is named, or the only one.
fn the_one(opened: &Opened, name: Option<&str>) -> Result<NodeId> {
    let graph = &opened.project.graph;
    let names: Vec<String> = opened.uploads.iter().map(|(id, _)| graph.node(*id).name.to_string()).collect();
    let at = match (name, names.len()) {
        (Some(name), _) => names.iter().position(|other| other == name),
        (None, 1) => Some(0),
        (None, _) => None,
    };
    at.map(|at| opened.uploads[at].0).ok_or_else(|| {
        let what = name.map_or("there are several uploads".to_string(), |name| format!("no upload is called `{name}`"));
        Error::new(ErrorKind::Usage, what).hint(format!("name one with `--upload`: {}", names.join(", ")))
    })
}

/// Does it; what came of it, in words.
#[allow(clippy::too_many_arguments)]
async fn restore(
    opened: &Opened,
    upload: NodeId,
    store: &Store,
    word: Option<&str>,
    overwrite: bool,
    sink: Sink,
    cancel: Cancel,
    run_dir: std::path::PathBuf,
) -> Result<String> {
    let (project, (remotes, remote)) = (&opened.project, opened.open(upload, Access::Write).await?);
    let mut loaded = records::load(store)?;
    if loaded.publishes.intent(&remote.target).is_some() {
        sink(Event::Note { text: "an earlier publish was cut off: looking for its commit".into() });
    }
    let recovered = settle_intents(&remote, &mut loaded, Some(&mut Recorder::open(store)?)).await?;
    let version = match aim(&remote, &loaded, store, word, recovered.clone()).await? {
        Aim::Nothing(line) => {
            let last = loaded.publishes.last(&remote.target).filter(|p| Some(&p.commit) == recovered.as_ref());
            if let Some(published) = last {
                rollback::confirm(&remote, published).await?;
            }
            remotes.close().await;
            return Ok(line);
        }
        Aim::Restore(version) => version,
    };
    remote.preflight(true).await?;
    let nodes = project.graph.nodes.len();
    let mut driver = Driver::new(Start {
        project,
        store,
        loaded,
        memo: Memo::load(&store.memo_log())?,
        world: World::default(),
        remotes: Remotes::default(),
        turned_down: vec![],
        sink,
        cancel,
        options: Options::default(),
        wanted: vec![false; nodes],
        targets: Default::default(),
        run_dir,
        recovered: vec![],
    })?;
    let restores = Some(version.restores.clone());
    let mut publisher = Publisher { driver: &mut driver, remote: &remote, upload, restores };
    let done = publisher.roll_back(&version, overwrite).await;
    let repo = remote.target.to_string();
    remotes.close().await;
    let label = version.restores.label();
    Ok(match done? {
        RolledBack::Commit(commit) => format!("rolled `{repo}` back to {label} by {}", short(&commit)),
        RolledBack::Already(commit) => already(&repo, &label, &commit),
    })
}

fn already(repo: &str, label: &str, commit: &str) -> String {
    format!("nothing to do, `{repo}` at {} is what {label} left", short(commit))
}

/// What is meant. Without a word a rollback is done once: running it again, after a kill or by mistake, goes no further
/// back.
async fn aim(
    remote: &Remote,
    loaded: &Loaded,
    store: &Store,
    word: Option<&str>,
    recovered: Option<String>,
) -> Result<Aim> {
    let branch = history::branch(remote).await?;
    let entries = history::entries(&loaded.publishes, &remote.target, Some(&branch));
    let repo = &remote.target.to_string();
    let found = match word {
        Some(word) => named(&entries, &branch, word, repo)?,
        None => {
            let current = history::current(&entries).ok_or_else(|| match loaded.publishes.last(&remote.target) {
                Some(_) => rollback::may_not(&[Drifted::Gone], remote),
                None => nothing(repo),
            })?;
            if let Some(to) = &current.restores {
                let how = if recovered.is_some() { " (it had landed already)" } else { "" };
                return Ok(Aim::Nothing(format!(
                    "nothing to do, `{repo}` is rolled back to {} by {}{how}; name a commit or a tag to go elsewhere",
                    short(to),
                    short(&current.commit)
                )));
            }
            history::before_current(&entries).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("`{repo}` has no publish before {}", short(&current.commit)))
            })?
        }
    };
    let record = history::record_of(found, Some(remote), &store.blobs()).await?;
    let memo = Memo::load(&store.memo_log())?;
    let held = memo.hub_digests().iter().map(|(digest, hub)| (hub.sha256.clone(), *digest)).collect();
    let findings = branch.allowed_findings(&found.commit);
    let version = rollback::version(remote, found, record.as_deref(), findings, &loaded.publishes, &held).await?;
    Ok(Aim::Restore(Box::new(version)))
}

fn nothing(repo: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("hfbuild has published nothing to `{repo}`"))
}

/// The one publish that a word means.
fn named<'e>(entries: &'e [Entry], branch: &history::Branch, word: &str, repo: &str) -> Result<&'e Entry> {
    let wrong = |text: String| {
        Error::new(ErrorKind::Usage, text).hint("`hfbuild history` lists the publishes with their commits and tags")
    };
    match &history::find(entries, branch, word)[..] {
        [one] => Ok(one),
        [] if branch.tagged(word).is_some() => {
            let at = short(branch.tagged(word).unwrap_or_default());
            Err(wrong(format!(
                "the tag `{word}` is on {at}, which is no publish to `{repo}` as far as its newest commits tell"
            )))
        }
        [] => Err(wrong(format!(
            "`{word}` is no publish to `{repo}`: neither a tag on one, nor the beginning of a commit"
        ))),
        several => Err(wrong(format!("`{word}` is the beginning of {} commits", several.len()))),
    }
}

/// Says what a rollback would change.
async fn would(
    global: &Global,
    remote: &Remote,
    loaded: &Loaded,
    version: &Version,
    overwrite: bool,
) -> Result<String> {
    let mut observed = remote.observe(&loaded.publishes, None, How::default()).await?;
    remote.list(&loaded.publishes, How::default(), &mut observed).await?;
    let (repo, label) = (&remote.target.to_string(), version.restores.label());
    match rollback::decide(version, &observed, overwrite) {
        UploadVerdict::UpToDate { commit, .. } => Ok(already(repo, &label, &commit)),
        UploadVerdict::Proposed { .. } => Err(Error::bug("a rollback proposes nothing")),
        UploadVerdict::Drift { files, .. } => Err(rollback::may_not(&files, remote)),
        UploadVerdict::Send { changes, .. } => {
            let head = format!("{:>9} {repo} to {label}", "Rollback");
            past::print(&shown::changes(&head, &changes, global.verbose));
            Ok("would make one commit; nothing was sent".into())
        }
    }
}
