//! Publishing over HTTP to a hub with faults: the binary speaks to it as it does to the live Hub, with a token.

use crate::hubs::{Hub, REPO, TOKEN};
use crate::support::{Project, run};
use hfbuild::hub::embedded::{Fault, Options};

/// A project that publishes quickly: a card and two files.
pub fn light() -> Project {
    let project = Project::with(
        r##"
[project]
name = "light"
version = "1.0.0"
license = "apache-2.0"
[hub]
repo = "d-oit/tinydit-cats"
tag = "v{project.version}"
[artifact.data]
kind = "files"
paths = ["data.bin"]
[artifact.card]
kind = "card"
template = "card.md.hbs"
facts = ["data"]
[artifact.publish]
kind = "upload"
files = { "README.md" = "card", "data.bin" = "data" }
"##,
    );
    project.write(
        "card.md.hbs",
        "---\nlicense: {{project.license}}\n---\n# {{project.name}}\n\n[data](data.bin) has {{data.bytes}} bytes.\n",
    );
    project.write("data.bin", "one");
    project
}

#[test]
fn an_unchanged_publish_is_one_request() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    let first = hub.asked();
    assert!(first.iter().any(|p| p == "whoami"), "{first:?}");
    let again = hub.publish(&project, &[]).code(0);
    assert!(again.summary().contains("ran 0 stages"), "{}", again.summary());
    assert_eq!(hub.asked(), ["revision"]);
    assert_eq!(hub.commits(), 1);
}

/// A row of `rows`.
pub fn a_lost_answer_after_a_landed_commit_makes_no_second_commit() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.will("commit.after", &[Fault::DropConnection]);
    hub.publish(&project, &[]).code(0).says("the answer to the commit was lost").says("it had landed already");
    assert_eq!(hub.commits(), 1);
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.commits(), 1);
}

#[test]
fn a_throttled_commit_waits_as_it_is_told_and_lands_once() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.will("commit.before", &[Fault::Throttle { retry_after: 1 }]);
    let begun = std::time::Instant::now();
    hub.publish(&project, &[]).code(0);
    assert!(begun.elapsed().as_secs() >= 1);
    assert_eq!(hub.commits(), 1);
}

/// A row of `rows`.
pub fn a_colleagues_edit_of_a_published_file_is_drift_and_is_not_overwritten() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "README.md", b"---\nlicense: mit\n---\nbetter words\n");
    project.write("data.bin", "two");
    hub.publish(&project, &["plan"]).code(0).prints("Drift").prints("README.md: changed");
    hub.publish(&project, &[])
        .code(5)
        .says("is not what the last publish left")
        .says("`README.md` (changed there)")
        .says("--overwrite");
    assert_eq!(hub.commits(), 2);
    hub.publish(&project, &["--overwrite"]).code(0).says("publishing over changes on the remote");
    assert_eq!(hub.commits(), 3);
    hub.publish(&project, &[]).code(0).says("remote unchanged");
}

/// A row of `rows`.
pub fn a_colleagues_own_file_is_no_drift_and_stays() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "notes.md", b"mine\n");
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.commits(), 2);
    project.write("data.bin", "two");
    hub.publish(&project, &[]).code(0);
    let list = format!("{}/api/models/{REPO}/tree/main", hub.url());
    let listed = hub.runtime.block_on(async { reqwest::get(list).await.unwrap().text().await.unwrap() });
    assert!(listed.contains("notes.md") && listed.contains("data.bin"), "{listed}");
}

#[test]
fn a_colleagues_file_from_before_the_last_publish_is_not_overwritten_when_its_path_is_named() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "terms.txt", b"theirs\n");
    project.write("data.bin", "two");
    hub.publish(&project, &[]).code(0);
    project.write("terms.txt", "ours\n");
    let manifest = project
        .read("publish.toml")
        .replace("[artifact.card]", "[artifact.terms]\nkind = \"files\"\npaths = [\"terms.txt\"]\n[artifact.card]");
    let manifest = manifest.replace("\"data.bin\" = \"data\"", "\"data.bin\" = \"data\", \"terms.txt\" = \"terms\"");
    project.write("publish.toml", &manifest);
    hub.publish(&project, &[]).code(5).says("`terms.txt` (not of ours)");
    assert_eq!(hub.commits(), 3);
    let url = format!("{}/{REPO}/resolve/main/terms.txt", hub.url());
    let there = hub.runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
    assert_eq!(there, "theirs\n");
}

#[test]
fn a_colleagues_file_where_our_folder_must_be_is_drift_and_goes_only_when_that_is_asked_for() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "docs", b"theirs\n");
    project.write("terms.txt", "ours\n");
    let terms = "[artifact.terms]\nkind = \"files\"\npaths = [\"terms.txt\"]\n[artifact.card]";
    let manifest = project.read("publish.toml").replace("[artifact.card]", terms);
    let manifest =
        manifest.replace("\"data.bin\" = \"data\"", "\"data.bin\" = \"data\", \"docs/terms.txt\" = \"terms\"");
    project.write("publish.toml", &manifest);
    hub.publish(&project, &[]).code(5).says("`docs` (not of ours)");
    assert_eq!(hub.commits(), 2);
    hub.publish(&project, &["--overwrite"]).code(0).says("publishing over changes on the remote: `docs`");
    assert_eq!(hub.commits(), 3);
    hub.publish(&project, &[]).code(0).says("remote unchanged");
}

#[test]
fn a_second_laptop_knows_from_the_repo_itself_what_was_published() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    let laptop = light();
    let run = hub.publish(&laptop, &[]).code(0);
    assert!(run.summary().contains("remote unchanged"), "{}", run.summary());
    assert_eq!(hub.commits(), 1);
    // it publishes a change, and a file that is no longer named is deleted
    laptop.write(
        "publish.toml",
        &laptop.read("publish.toml").replace(", \"data.bin\" = \"data\"", ", \"other.bin\" = \"data\""),
    );
    laptop.write("card.md.hbs", &laptop.read("card.md.hbs").replace("(data.bin)", "(other.bin)"));
    hub.publish(&laptop, &["plan"]).code(0).prints("- data.bin");
    hub.publish(&laptop, &[]).code(0);
    assert!(!laptop.path("dist/data.bin").exists() && laptop.path("dist/other.bin").exists());
    // and the first one sees that it was another publish, not drift
    let old = hub.publish(&project, &["plan"]).code(0);
    assert!(!old.stdout.contains("Drift"), "{}", old.stdout);
}

/// A row of `rows`.
pub fn a_refused_or_missing_token_is_said_before_any_stage_runs() {
    let (hub, project) = (Hub::start(Options::default()), light());
    let wrong = "hf_anotherTokenThatMustNeverBeSeen12345";
    let refused = run(project.command(&["--endpoint", hub.url()]).env("HF_TOKEN", wrong))
        .code(4)
        .never_says("Running")
        .never_says(wrong);
    assert!(refused.stderr.contains("token"), "{}", refused.stderr);
    let missing = run(&mut project.command(&["--endpoint", "https://hub.invalid"])).code(4).never_says("Running");
    assert!(
        missing.stderr.contains("there is no token for") && missing.stderr.contains("HF_TOKEN"),
        "{}",
        missing.stderr
    );
    for (name, bytes) in project.tree("cache") {
        assert!(!bytes.windows(wrong.len()).any(|w| w == wrong.as_bytes()), "{name} holds the token");
    }
}

/// A row of `rows`.
pub fn the_token_is_written_nowhere() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &["-v"]).code(0).never_says(TOKEN);
    for folder in ["cache", "dist"] {
        for (name, bytes) in project.tree(folder) {
            assert!(!bytes.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes()), "{folder}/{name} holds the token");
        }
    }
}

#[test]
fn passing_failures_of_the_server_are_ridden_out() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.will("revision", &[Fault::Status(503), Fault::DropConnection]);
    hub.will("preupload", &[Fault::Throttle { retry_after: 1 }]);
    hub.will("tree", &[Fault::Status(500)]);
    hub.publish(&project, &[]).code(0);
    assert_eq!(hub.commits(), 1);
}

#[test]
fn the_plan_sends_what_it_says() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    project.write("data.bin", "four");
    hub.publish(&project, &["build", "data", "card"]).code(0);
    let plan = hub.publish(&project, &["plan"]).code(0).prints("~ data.bin  4 B").prints("3 of 3 files changed");
    assert!(plan.stdout.contains("~ README.md"), "{}", plan.stdout);
    hub.publish(&project, &[]).code(0).says("3 of 3 files changed");
}
