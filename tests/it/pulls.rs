//! Pull requests: opened, not opened twice, added to, merged, and in the place of a refusal.

use crate::support::{Project, Served, python, root, run};
use crate::targets::{colleague, with_client};
use hfbuild::hub::client::{CommitRequest, Operation};
use hfbuild::hub::embedded::{EmbeddedHub, Fault, Faults, Options};
use hfbuild::hub::{RepoId, RepoKind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const REPO: &str = "me/it";

/// `more` is said of [hub].
fn manifest(more: &str) -> String {
    format!(
        "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n[hub]\nrepo = \"{REPO}\"\nendpoint = \"embedded\"\n\
         {more}\n[artifact.a]\nkind = \"files\"\npaths = [\"a.bin\"]\n[artifact.b]\nkind = \"files\"\npaths = [\"b.bin\"]\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"a.bin\" = \"a\", \"b.bin\" = \"b\" }}\n"
    )
}

fn project(more: &str) -> Project {
    let project = Project::with(&manifest(more));
    project.write("a.bin", "a1");
    project.write("b.bin", "b1");
    project
}

fn repo() -> RepoId {
    RepoId::new(RepoKind::Model, REPO).unwrap()
}

/// The open pull requests, and the content of a file on a revision.
fn open(project: &Project) -> Vec<u64> {
    with_client(project, async |client| client.open_pulls(&repo()).await.unwrap().iter().map(|p| p.number).collect())
}

fn content(project: &Project, revision: &str, path: &str) -> String {
    with_client(project, async |client| {
        let bytes = client.download_small(&repo(), revision, path).await.unwrap().unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    })
}

fn commits(project: &Project, revision: &str) -> usize {
    with_client(project, async |client| client.commits_since(&repo(), revision, "", 100).await.unwrap().len())
}

/// What a reviewer does in the browser.
fn review(project: &Project, number: u64, what: &str, body: &str) {
    let served = Served::of(project);
    let url = format!("{}/api/models/{REPO}/discussions/{number}/{what}", served.url);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = || reqwest::Client::new().post(url).header("content-type", "application/json").body(body.to_string());
    let status = runtime.block_on(async { request().send().await.unwrap().status() });
    assert!(status.is_success(), "{status}");
}

#[test]
fn a_pull_request_is_opened_once_added_to_and_merged() {
    let project = project("");
    project.run(&[]).code(0);
    project.write("publish.toml", &manifest("pull_request = true"));
    project.write("a.bin", "a2");
    project.run(&["plan"]).code(0);
    let opened = project.run(&[]).code(0).says("Proposed me/it: pull request #1, opened");
    assert!(opened.summary().ends_with("opened pull request #1"), "{}", opened.summary());
    assert_eq!((open(&project), project.commits(REPO)), (vec![1], 1));
    assert_eq!(content(&project, "refs/pr/1", "a.bin"), "a2");
    assert_eq!(content(&project, "main", "a.bin"), "a1");

    // nothing changed: no second one, and nothing to do
    let again = project.run(&[]).code(0);
    assert!(again.summary().ends_with("pull request #1 waits to be merged"), "{}", again.summary());
    project.run(&["plan", "--check"]).code(0).says("pull request #1 waits to be merged");
    project.run(&["status"]).code(0).prints("proposed").prints("pull request  #1");
    assert_eq!((open(&project), commits(&project, "refs/pr/1")), (vec![1], 3));

    // changed again: the open one gets another commit
    project.write("a.bin", "a3");
    project.run(&["build", "a"]).code(0);
    project.run(&["plan"]).code(0).prints("Propose me/it: 2 of 3 files changed").prints("to pull request #1");
    project.run(&[]).code(0).says("added a commit to pull request #1");
    assert_eq!((open(&project), commits(&project, "refs/pr/1")), (vec![1], 4));
    assert_eq!(content(&project, "refs/pr/1", "a.bin"), "a3");

    // merged: the branch is what it should be, and the next change is a new one
    review(&project, 1, "merge", "{}");
    project.run(&[]).code(0).says("remote unchanged");
    assert_eq!(content(&project, "main", "a.bin"), "a3");
    project.write("b.bin", "b2");
    project.run(&[]).code(0).says("opened pull request #2");
    assert_eq!(content(&project, "refs/pr/2", "a.bin"), "a3");
}

#[test]
fn a_fresh_clone_finds_the_open_pull_request() {
    let first = project("pull_request = true");
    first.run(&[]).code(0).says("opened pull request #1");
    let clone = || {
        let clone = project("pull_request = true");
        for (name, bytes) in first.tree("cache/hub") {
            let full = clone.path("cache/hub").join(name);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, bytes).unwrap();
        }
        clone
    };
    let second = clone();
    second.run(&[]).code(0).says("pull request #1 waits to be merged");
    assert_eq!(open(&second), [1]);
    let third = clone();
    third.write("a.bin", "a2");
    third.run(&[]).code(0).says("added a commit to pull request #1");
    assert_eq!(open(&third), [1]);
}

#[test]
fn a_closed_pull_request_is_left_alone_and_a_new_one_is_opened() {
    let project = project("pull_request = true");
    project.run(&[]).code(0);
    review(&project, 1, "status", "{\"status\": \"closed\"}");
    project.run(&[]).code(0).says("opened pull request #2");
    assert_eq!(open(&project), [2]);
}

#[test]
fn the_flag_asks_for_a_pull_request_once() {
    let project = project("");
    project.run(&[]).code(0);
    project.write("a.bin", "a2");
    project.run(&["plan", "--pr"]).code(0);
    project.run(&["--pr"]).code(0).says("opened pull request #1");
    assert_eq!(project.commits(REPO), 1);
    project.run(&[]).code(0).says("Published me/it");
    assert_eq!(project.commits(REPO), 2);
}

#[test]
fn drift_becomes_a_pull_request_where_the_manifest_says_so() {
    let project = project("on_drift = \"pull-request\"");
    project.run(&[]).code(0);
    // without drift the commit goes to the branch
    project.write("b.bin", "b2");
    project.run(&[]).code(0).says("Published me/it");
    colleague(&project, RepoKind::Model, REPO, "main", "a.bin", "by hand");
    project.write("b.bin", "b3");
    project.run(&["build", "b"]).code(0);
    project.run(&["plan"]).code(0).prints("as a new pull request").prints("a.bin: changed");
    let run = project.run(&[]).code(0).says("the remote was changed, so this is proposed and not published: `a.bin`");
    assert!(run.summary().ends_with("opened pull request #1 because the remote was changed"), "{}", run.summary());
    assert_eq!(
        (content(&project, "main", "a.bin"), content(&project, "main", "b.bin")),
        ("by hand".into(), "b2".into())
    );
    assert_eq!(content(&project, "refs/pr/1", "a.bin"), "a1");
    project.run(&[]).code(0).says("pull request #1 waits to be merged");
    assert_eq!(open(&project), [1]);
    review(&project, 1, "merge", "{}");
    project.run(&[]).code(0).says("remote unchanged");
}

#[test]
fn a_reviewers_edit_of_the_pull_request_is_drift_of_it() {
    let project = project("pull_request = true");
    project.run(&[]).code(0);
    colleague(&project, RepoKind::Model, REPO, "refs/pr/1", "a.bin", "by the reviewer");
    project.write("b.bin", "b2");
    project.run(&[]).code(5).says("pull request #1 of `me/it` is not what the last publish left: 1 file differs");
    project.run(&["--overwrite"]).code(0).says("added a commit to pull request #1");
    assert_eq!(content(&project, "refs/pr/1", "a.bin"), "a1");
}

struct LoseOne(AtomicBool);

impl Faults for LoseOne {
    fn at(&self, point: &str) -> Fault {
        match point == "commit.after" && self.0.swap(false, Ordering::SeqCst) {
            true => Fault::DropConnection,
            false => Fault::None,
        }
    }
}

#[test]
fn a_lost_answer_opens_no_second_pull_request() {
    let project = project("pull_request = true");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let faults: Arc<dyn Faults> = Arc::new(LoseOne(AtomicBool::new(true)));
    let options = Options { faults: Some(faults), ..Options::default() };
    let folder = project.path("cache/hub");
    let hub = runtime.block_on(EmbeddedHub::start(&folder, options)).unwrap();
    project.run(&[]).code(0).says("the answer to the commit was lost").says("opened pull request #1");
    project.run(&[]).code(0).says("pull request #1 waits");
    runtime.block_on(hub.stop());
    assert_eq!(open(&project), [1]);
}

#[test]
fn a_hub_without_pull_requests_is_said_clearly() {
    let project = project("pull_request = true");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = Options { pull_requests: false, ..Options::default() };
    let hub = runtime.block_on(EmbeddedHub::start(&project.path("cache/hub"), options)).unwrap();
    project
        .run(&[])
        .code(4)
        .says("takes no pull requests")
        .says("caused by: the hub answered 501")
        .says("hint: publish to a branch of its own instead");
    runtime.block_on(hub.stop());
}

#[test]
fn the_official_client_opens_lists_and_merges_pull_requests_of_the_embedded_hub() {
    let project = Project::with("[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n");
    let hub = Served::of(&project);
    let mut command = Command::new(python());
    command.arg(root().join("tests/conformance/pull_requests.py")).arg(&hub.url);
    command.env("HF_HOME", project.path("hf-home")).env_remove("HF_TOKEN").env_remove("PYTHONPATH");
    let run = run(&mut command).code(0);
    assert_eq!(run.stdout.lines().filter(|l| l.starts_with("ok: ")).count(), 7, "{}", run.stdout);
}

#[test]
fn a_proposal_is_not_refused_for_a_tag_that_it_does_not_set() {
    let project = project("tag = \"v1\"\non_tag = \"fail\"");
    project.run(&[]).code(0);
    project.write("a.bin", "a2");
    project.run(&[]).code(4).says("tag `v1` is there already");
    project.run(&["--pr"]).code(0).says("pull request #1, opened");
}

#[test]
fn what_is_only_proposed_is_tagged_by_the_build_after_the_merge() {
    let project = project("pull_request = true\ntag = \"v{project.version}\"");
    let tags = || with_client(&project, async |client| client.tags(&repo()).await.unwrap());
    project.run(&[]).code(0).says("opened pull request #1");
    assert!(tags().is_empty());
    review(&project, 1, "merge", "{}");
    project.run(&[]).code(0).says("`v1.0.0`");
    let head = with_client(&project, async |client| client.head(&repo(), "main").await.unwrap().unwrap().sha);
    assert_eq!(tags().get("v1.0.0"), Some(&head));
}

#[test]
fn what_a_merge_brought_is_ours_on_another_machine_too() {
    let project = project("");
    project.run(&[]).code(0);
    project.write("a.bin", "a2");
    project.run(&["--pr"]).code(0);
    review(&project, 1, "merge", "{}");
    // a fresh clone: no record of either publish
    for kept in ["actions", "publishes"] {
        std::fs::remove_dir_all(project.path("cache").join(kept)).unwrap();
    }
    project.write("a.bin", "a3");
    project.run(&[]).code(0).never_says("changed there");
    assert_eq!(content(&project, "main", "a.bin"), "a3");
}

#[test]
fn status_knows_the_pull_request_that_a_flag_opened() {
    let project = project("");
    project.run(&[]).code(0);
    project.write("a.bin", "a2");
    project.run(&["--pr"]).code(0).says("opened pull request #1");
    project.run(&["status"]).code(0).prints("pull request  #1, open");
    review(&project, 1, "status", "{\"status\": \"closed\"}");
    let closed = project.run(&["status"]).code(0);
    assert!(!closed.stdout.contains("pull request"), "{}", closed.stdout);
}

#[test]
fn a_pull_request_of_ours_is_found_below_many_newer_ones() {
    let project = project("");
    project.run(&[]).code(0);
    project.write("a.bin", "a2");
    project.run(&["--pr"]).code(0).says("opened pull request #1");
    with_client(&project, async |client| {
        let parent = client.head(&repo(), "main").await.unwrap().unwrap().sha;
        for n in 0..55 {
            let content = Operation::AddRegular { path: "notes.md".into(), bytes: format!("{n}\n").into() };
            let (summary, operations) = (format!("a note {n}"), vec![content]);
            let request = CommitRequest { summary, description: String::new(), parent: parent.clone(), operations };
            client.propose(&repo(), "main", &request).await.unwrap();
        }
    });
    assert_eq!(open(&project).len(), 56);
    for folder in ["cache/publishes", "cache/actions", "cache/memo"] {
        std::fs::remove_dir_all(project.path(folder)).unwrap();
    }
    project.run(&["--pr"]).code(0).says("pull request #1");
    assert_eq!(open(&project).len(), 56, "a second one was opened");
}
