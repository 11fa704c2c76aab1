//! What would stand in a publish's way is said before the first stage runs, and only where something may be sent.

use crate::support::{Project, Run, run};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const TOKEN: &str = "hf_onlyForThisTest";

/// A hub that says whose token it is, and whether the repo is there, as the live Hub does; it takes nothing.
struct Live {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Live {
    fn start(whoami: &str, exists: bool) -> Live {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (log, whoami) = (asked.clone(), whoami.to_string());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
                let path = head.split_whitespace().nth(1).unwrap_or_default().to_string();
                let length =
                    head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
                let _ = reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut vec![]);
                let (status, body) = match path.as_str() {
                    "/api/whoami-v2" => ("200 OK", whoami.as_str()),
                    path if path.contains("/tree/") || path.contains("/commits/") => ("200 OK", "[]"),
                    path if path.contains("/revision/") && exists => {
                        ("200 OK", r#"{"id":"ann/cats","sha":"1111111111111111111111111111111111111111"}"#)
                    }
                    "/api/repos/create" => ("409 Conflict", r#"{"error":"You already created this model repo"}"#),
                    _ => ("404 Not Found\r\nX-Error-Code: RepoNotFound", r#"{"error":"Repository not found"}"#),
                };
                log.lock().unwrap().push(path.trim_start_matches("/api/").to_string());
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        });
        Live { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn whoami(role: &str, fine: &str, orgs: &str) -> String {
    format!(
        r#"{{"type":"user","name":"ann","orgs":[{orgs}],"auth":{{"type":"access_token","accessToken":{{"displayName":"ci","role":"{role}"{fine}}}}}}}"#
    )
}

fn scoped(kind: &str, name: &str, permission: &str) -> String {
    format!(
        r#","fineGrained":{{"canReadGatedRepos":true,"global":[],"scoped":[{{"entity":{{"_id":"1","type":"{kind}","name":"{name}"}},"permissions":["repo.content.read","{permission}"]}}]}}"#
    )
}

fn project() -> Project {
    let project = Project::with(
        r##"
[project]
name = "cats"
version = "1.0.0"
license = "apache-2.0"
[hub]
repo = "ann/cats"
[artifact.made]
kind = "command"
run = ["sh", "-c", "touch $MARK; echo one > out.txt"]
pass_env = ["MARK"]
outputs = ["out.txt"]
[artifact.card]
kind = "card"
template = "card.md.hbs"
facts = ["made"]
[artifact.publish]
kind = "upload"
files = { "README.md" = "card", "out.txt" = "made" }
"##,
    );
    project.write("card.md.hbs", "---\nlicense: {{project.license}}\n---\n# cats\n\n[out](out.txt)\n");
    project
}

fn build(project: &Project, url: &str, args: &[&str]) -> Run {
    let mut command = project.command(args);
    run(command.args(["--endpoint", url]).env("HF_TOKEN", TOKEN).env("MARK", project.path("ran")))
}

/// A build against a hub whose whoami this is: what it says, and that no stage ran and nothing but questions was sent.
fn refused(whoami: &str, exists: bool) -> Run {
    let (hub, project) = (Live::start(whoami, exists), project());
    let run = build(&project, &hub.url, &[]).code(4).never_says(TOKEN);
    assert!(!project.path("ran").exists(), "a stage ran");
    let asked = hub.asked();
    assert!(asked.iter().all(|path| path == "whoami-v2" || path.starts_with("models/ann/cats/")), "{asked:?}");
    assert_eq!(asked.iter().filter(|path| *path == "whoami-v2").count(), 1, "{asked:?}");
    run
}

#[test]
fn a_token_that_may_only_read_is_refused_before_any_stage() {
    refused(&whoami("read", "", ""), true).says("the token of `ann` may only read").says("`write`");
}

#[test]
fn a_fine_grained_token_without_the_scope_for_the_repo_is_refused_before_any_stage() {
    let fine = |kind, name, permission| whoami("fineGrained", &scoped(kind, name, permission), "");
    refused(&fine("user", "ann", "discussion.write"), true)
        .says("the fine-grained token of `ann` may not write to `ann/cats`")
        .says("`repo.write`");
    refused(&fine("model", "ann/dogs", "repo.write"), true).says("may not write to `ann/cats`");
    refused(&fine("model", "ann/cats", "repo.write"), false).says("may make the repo");
}

#[test]
fn a_namespace_of_others_is_refused_before_any_stage() {
    let project = project();
    project.write("publish.toml", &project.read("publish.toml").replace("ann/cats", "birds/cats"));
    let hub = Live::start(&whoami("write", "", r#"{"name":"cats","roleInOrg":"admin"}"#), false);
    build(&project, &hub.url, &[]).code(4).says("`ann` may not publish to `birds/cats`");
    assert!(!project.path("ran").exists());
    let member = Live::start(&whoami("write", "", r#"{"name":"birds","roleInOrg":"read"}"#), false);
    build(&project, &member.url, &[]).code(4).says("`ann` may only read in `birds`");
    assert!(!project.path("ran").exists());
}

#[test]
fn a_repo_that_is_there_and_that_the_token_may_not_see_is_said_to_be_that() {
    let (hub, project) = (Live::start(&whoami("write", "", ""), false), project());
    let run = build(&project, &hub.url, &[]).code(4).says("`ann/cats` is there, and cannot be seen");
    run.says("You already created this model repo").says("this token may not read it");
}

#[test]
fn a_ref_that_is_not_there_and_is_no_branch_is_refused_before_any_stage() {
    let project = project();
    project.write(
        "publish.toml",
        &project.read("publish.toml").replace("\"ann/cats\"\n", "\"ann/cats\"\nrevision = \"refs/pr/3\"\n"),
    );
    let hub = Live::start(&whoami("write", "", ""), false);
    build(&project, &hub.url, &[])
        .code(4)
        .says("`ann/cats` has no branch `refs/pr/3`")
        .says("only a branch can be made");
    assert!(!project.path("ran").exists());
}

#[test]
fn a_template_that_cannot_be_read_and_wrong_front_matter_are_refused_before_any_stage() {
    let project = project();
    let hub = Live::start(&whoami("write", "", ""), true);
    project.write("card.md.hbs", "# cats {{#if}\n");
    build(&project, &hub.url, &[]).code(2).says("card.md.hbs");
    assert!(!project.path("ran").exists());
    project.write("card.md.hbs", "---\nlicense: apache-two\n---\n# cats\n");
    build(&project, &hub.url, &[]).code(2).says("apache-two");
    assert!(!project.path("ran").exists());
    assert!(hub.asked().is_empty(), "the hub was asked about what the manifest already shows");
}

#[test]
fn a_stage_alone_asks_no_hub_and_an_unchanged_publish_asks_no_account() {
    let project = project();
    let hub = Live::start(&whoami("read", "", ""), true);
    build(&project, &hub.url, &["build", "made"]).code(0);
    build(&project, &hub.url, &["build", "made"]).code(0);
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[test]
fn an_offline_plan_asks_no_hub_and_says_what_it_was_planned_against() {
    let project = project();
    let hub = Live::start(&whoami("write", "", ""), true);
    build(&project, &hub.url, &["plan", "--offline"]).code(0).says("this machine never published to `ann/cats`");
    assert_eq!(hub.asked(), Vec::<String>::new());
    let embedded =
        |args: &[&str]| run(project.command(args).args(["--endpoint", "embedded"]).env("MARK", project.path("ran")));
    embedded(&[]).code(0);
    let plan = embedded(&["plan", "--offline"])
        .code(0)
        .says("offline: planned against commit ")
        .says(" UTC, which this machine published last");
    assert!(
        plan.stderr.contains("nothing to do") || plan.stdout.contains("unchanged"),
        "{}\n{}",
        plan.stdout,
        plan.stderr
    );
    // it needs no hub, not even the folder of one
    std::fs::remove_dir_all(project.path("cache/hub")).unwrap();
    project.write("card.md.hbs", "# cats again\n\n[out](out.txt)\n");
    embedded(&["plan", "--offline"]).code(0).prints("README.md");
}
