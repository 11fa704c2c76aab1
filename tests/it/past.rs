//! What was published, looked at and brought back: status, verify, history, rollback, tags, diff, against a hub with
//! colleagues and faults.

use crate::hubs::{Hub, REPO, TOKEN};
use crate::publish::light;
use crate::support::{Project, Run, run};
use hfbuild::hub::client::Operation;
use hfbuild::hub::embedded::{Fault, Options};
use serde_json::Value as Json;
use std::time::{Duration, Instant};

/// Two publishes: `one` as 1.0.0, `second` as 1.1.0.
pub fn two_versions() -> (Hub, Project) {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    next(&project, "second", "1.1.0");
    hub.publish(&project, &[]).code(0);
    assert_eq!(hub.commits(), 2);
    hub.asked();
    (hub, project)
}

/// Another content under another version.
pub fn next(project: &Project, content: &str, version: &str) {
    project.write("data.bin", content);
    let manifest = project.read("publish.toml");
    let line = manifest.lines().find(|l| l.starts_with("version = ")).unwrap();
    project.write("publish.toml", &manifest.replace(line, &format!("version = \"{version}\"")));
}

pub fn get(hub: &Hub, path: &str) -> String {
    let url = format!("{}/{path}", hub.url());
    hub.runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
}

pub fn file(hub: &Hub, revision: &str, path: &str) -> String {
    get(hub, &format!("{REPO}/resolve/{revision}/{path}"))
}

/// The paths at a revision.
fn paths(hub: &Hub, revision: &str) -> Vec<String> {
    let tree: Json =
        serde_json::from_str(&get(hub, &format!("api/models/{REPO}/tree/{revision}?recursive=true"))).unwrap();
    tree.as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap().to_string()).collect()
}

pub fn tags(hub: &Hub) -> Vec<(String, String)> {
    let refs: Json = serde_json::from_str(&get(hub, &format!("api/models/{REPO}/refs"))).unwrap();
    let text = |v: &Json| v.as_str().unwrap().to_string();
    refs["tags"].as_array().unwrap().iter().map(|t| (text(&t["name"]), text(&t["targetCommit"]))).collect()
}

/// The branch's commits, newest first.
pub fn commits(hub: &Hub) -> Vec<String> {
    let list: Json = serde_json::from_str(&get(hub, &format!("api/models/{REPO}/commits/main"))).unwrap();
    list.as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_string()).collect()
}

fn json(run: &Run) -> Json {
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

#[test]
fn a_rollback_is_one_commit_that_restores_the_publish_before_and_sends_no_large_file() {
    let (hub, project) = two_versions();
    let (before, tagged) = (commits(&hub), tags(&hub));
    let dry = hub.publish(&project, &["rollback", "--dry-run"]).code(0);
    let dry = dry.prints("Rollback d-oit/tinydit-cats to ").prints("~ data.bin  3 B").says("would make one commit");
    assert!(dry.stdout.contains("(1.0.0)"), "{}", dry.stdout);
    assert_eq!(hub.commits(), 2);
    hub.asked();
    hub.publish(&project, &["rollback"]).code(0).says("Rollback d-oit/tinydit-cats to ").says("rolled `d-oit/");
    let asked = hub.asked();
    assert!(!asked.iter().any(|p| p == "lfs.put"), "{asked:?}");
    assert_eq!(hub.commits(), 3);
    assert_eq!(file(&hub, "main", "data.bin"), "one");
    for path in paths(&hub, &before[1]) {
        assert_eq!(file(&hub, "main", &path), file(&hub, &before[1], &path), "{path}");
    }
    assert_eq!(tags(&hub), tagged, "a rollback is no new version");
    // what a build would send again is the newer one
    hub.publish(&project, &["plan"]).code(0).prints("~ data.bin  6 B");
    hub.publish(&project, &["verify"]).code(0);
    // once more: it is done
    hub.publish(&project, &["rollback"]).code(0).says("nothing to do").says("is rolled back to");
    assert_eq!(hub.commits(), 3);
    hub.publish(&project, &[]).code(0);
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (4, "second".to_string()));
}

#[test]
fn a_rollback_goes_to_a_tag_or_a_commit_and_forth_again() {
    let (hub, project) = two_versions();
    next(&project, "the third", "1.2.0");
    hub.publish(&project, &[]).code(0);
    let published = commits(&hub);
    hub.publish(&project, &["rollback", "v1.0.0"]).code(0).says("(1.0.0)");
    assert_eq!(file(&hub, "main", "data.bin"), "one");
    hub.publish(&project, &["rollback", &published[1][..8]]).code(0);
    assert_eq!(file(&hub, "main", "data.bin"), "second");
    hub.publish(&project, &["rollback", "v1.1.0"]).code(0).says("nothing to do");
    assert_eq!(hub.commits(), 5);
    hub.publish(&project, &["rollback", "v9"]).code(2).says("`v9` is no publish").says("hfbuild history");
}

#[test]
fn a_rollback_takes_away_and_brings_back_files_and_leaves_those_of_others() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("\"data.bin\" = \"data\"", "\"other.bin\" = \"data\""));
    project.write("card.md.hbs", &project.read("card.md.hbs").replace("(data.bin)", "(other.bin)"));
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "notes.md", b"mine\n");
    hub.publish(&project, &["rollback"]).code(0);
    let there = paths(&hub, "main");
    assert_eq!(there, [".gitattributes", "README.md", "data.bin", "notes.md", "provenance.json"]);
    assert_eq!(hub.commits(), 4);
}

#[test]
fn what_the_hub_no_longer_has_is_sent_from_the_cache_or_said_to_be_lost() {
    let (hub, project) = two_versions();
    let laptop = light();
    let objects = walkdir::WalkDir::new(hub.dir.path().join("objects")).into_iter().flatten();
    let gone = objects.map(|e| e.into_path()).find(|p| p.is_file() && std::fs::read(p).unwrap() == b"one").unwrap();
    std::fs::remove_file(gone).unwrap();
    hub.publish(&laptop, &["rollback"]).code(4).says("`data.bin` cannot be restored: the Hub no longer has it");
    assert_eq!(hub.commits(), 2);
    hub.asked();
    hub.publish(&project, &["rollback"]).code(0);
    assert_eq!(hub.asked().iter().filter(|p| *p == "lfs.put").count(), 1);
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (3, "one".to_string()));
}

#[test]
fn a_rollback_without_the_cache_refuses_what_was_let_pass_then_and_no_longer_is() {
    let (hub, first, laptop) = (Hub::start(Options::default()), light(), light());
    let plain = first.read("publish.toml");
    let allows = "allow_findings = { \"data.bin\" = [\"huggingface-access-token\"] }\n[artifact.data]";
    first.write("publish.toml", &plain.replacen("[artifact.data]", allows, 1));
    first.write("data.bin", &format!("key = \"hf_{}\"\n", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG"));
    hub.publish(&first, &[]).code(0);
    next(&first, "second", "1.1.0");
    hub.publish(&first, &[]).code(0);
    let refused = "`data.bin` holds what looks like a secret";
    hub.publish(&laptop, &["rollback"]).code(1).says(refused).says("huggingface-access-token");
    first.write("publish.toml", &plain);
    hub.publish(&first, &["rollback"]).code(1).says(refused).says("on line 1");
    assert_eq!(hub.commits(), 2);
    first.write("publish.toml", &plain.replacen("[artifact.data]", allows, 1));
    hub.publish(&first, &["rollback"]).code(0);
}

#[test]
fn a_drifted_remote_is_rolled_back_only_where_that_is_asked_for() {
    let (hub, project) = two_versions();
    hub.colleague("from the web", "README.md", b"better words\n");
    hub.publish(&project, &["rollback", "--dry-run"]).code(5);
    hub.publish(&project, &["rollback"]).code(5).says("`README.md` (changed there)").says("--overwrite");
    assert_eq!(hub.commits(), 3);
    hub.publish(&project, &["rollback", "--overwrite"]).code(0).says("rolling back over changes on the remote");
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (4, "one".to_string()));
}

#[test]
fn a_lost_answer_or_a_moved_branch_makes_no_second_rollback() {
    let (hub, project) = two_versions();
    hub.will("commit.after", &[Fault::DropConnection]);
    hub.publish(&project, &["rollback"]).code(0).says("the answer to the commit was lost");
    assert_eq!(hub.commits(), 3);
    let (hub, project) = two_versions();
    hub.will("commit.before", &[Fault::Status(412)]);
    hub.publish(&project, &["rollback"]).code(0).says("`main` was moved meanwhile");
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (3, "one".to_string()));
}

#[test]
fn a_rollback_that_is_killed_and_run_again_is_one_commit() {
    const HERE: [&str; 2] = ["--endpoint", "embedded"];
    let mut kills = 0;
    for moment in 0..4 {
        let project = light();
        project.run(&HERE).code(0);
        next(&project, "second", "1.1.0");
        project.run(&HERE).code(0);
        let log = project.path("cache/publishes/log");
        let lines = || std::fs::read(&log).map_or(0, |b| b.iter().filter(|c| **c == b'\n').count());
        let (before, runs) = (lines(), std::fs::read_dir(project.path("cache/runs")).unwrap().count());
        let seen = || match moment {
            0 => std::fs::read_dir(project.path("cache/runs")).unwrap().count() > runs,
            1 => lines() > before,
            2 => project.commits(REPO) > 2,
            _ => lines() > before + 1,
        };
        let mut command = project.command(&[&["-q", "rollback"], &HERE[..]].concat());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "moment {moment} never came");
            if seen() {
                child.kill().unwrap(); // SIGKILL
                kills += usize::from(!child.wait().unwrap().success());
                break;
            }
            std::hint::spin_loop();
        }
        project.run(&[&["rollback"], &HERE[..]].concat()).code(0);
        assert_eq!(project.commits(REPO), 3, "moment {moment}");
        let list = json(&project.run(&[&["history", "--json"], &HERE[..]].concat()).code(0));
        let list = list["repos"][0]["publishes"].as_array().unwrap();
        assert_eq!((list.len(), &list[0]["tree"]), (3, &list[2]["tree"]), "moment {moment}");
        project.run(&[&["verify", "--full"], &HERE[..]].concat()).code(0);
    }
    assert!(kills >= 2, "{kills} of 4");
}

#[test]
fn gates_compare_with_what_a_rollback_restored() {
    let (hub, project) = (Hub::start(Options::default()), light());
    let gated =
        "[artifact.gates]\nkind = \"check\"\nrequire = [\"published == null || data.bytes >= published.data.bytes\"]\n";
    let manifest = project.read("publish.toml").replace("kind = \"upload\"", "kind = \"upload\"\nafter = [\"gates\"]");
    project.write("publish.toml", &format!("{manifest}{gated}"));
    hub.publish(&project, &[]).code(0);
    next(&project, "longer", "1.1.0");
    hub.publish(&project, &[]).code(0);
    next(&project, "four", "1.2.0");
    hub.publish(&project, &[]).code(1);
    hub.publish(&project, &["rollback"]).code(0);
    hub.publish(&project, &[]).code(0);
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (4, "four".to_string()));
}

#[test]
fn another_machine_without_this_cache_sees_verifies_and_restores() {
    let (hub, first) = two_versions();
    let laptop = light();
    next(&laptop, "second", "1.1.0");
    let own = json(&hub.publish(&first, &["history", "--json"]).code(0));
    let seen = json(&hub.publish(&laptop, &["history", "--json"]).code(0));
    for (mine, theirs) in
        own["repos"][0]["publishes"].as_array().unwrap().iter().zip(seen["repos"][0]["publishes"].as_array().unwrap())
    {
        for key in ["commit", "tree", "version", "tags", "files", "gates"] {
            assert_eq!(mine[key], theirs[key], "{key}");
        }
        assert_eq!((&mine["receipt"], &theirs["receipt"]), (&true.into(), &false.into()));
    }
    hub.publish(&laptop, &["verify"]).code(0).prints("the repo's record at that commit");
    hub.asked();
    hub.publish(&laptop, &["rollback"]).code(0);
    assert!(!hub.asked().iter().any(|p| p == "lfs.put"));
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (3, "one".to_string()));
    hub.publish(&laptop, &["verify", "--full"]).code(0);
    // the first machine sees a publish from elsewhere, and no drift
    hub.publish(&first, &["verify"]).code(0);
    hub.publish(&first, &["status"]).code(0).prints("published from elsewhere").prints("as the last publish left it");
    hub.publish(&first, &["rollback"]).code(0).says("is rolled back to");
    hub.publish(&laptop, &[]).code(0);
    assert_eq!((hub.commits(), file(&hub, "main", "data.bin")), (4, "second".to_string()));
}

#[test]
fn history_lists_publishes_with_versions_tags_files_and_rollbacks() {
    let (hub, project) = two_versions();
    hub.colleague("from the web", "notes.md", b"mine\n");
    hub.publish(&project, &["rollback"]).code(0);
    let told = hub.publish(&project, &["history"]).code(0).says("3 publishes to `d-oit/tinydit-cats`");
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", told.stdout);
    assert!(lines[0].starts_with("commit ") && lines[1].contains("rollback to "), "{}", told.stdout);
    assert!(lines[2].contains("  1.1.0    v1.1.0  ~3 of 3  none"), "{}", told.stdout);
    assert!(lines[3].contains("  1.0.0    v1.0.0  +3 of 3  none"), "{}", told.stdout);
    let list = json(&hub.publish(&project, &["history", "--json", "-n", "2"]).code(0));
    let publishes = list["repos"][0]["publishes"].as_array().unwrap();
    assert_eq!((publishes.len(), &list["repos"][0]["all"]), (2, &3.into()));
    assert_eq!(publishes[0]["restores"], commits(&hub)[3].as_str());
    assert_eq!(publishes[0]["tree"].as_str().unwrap().len(), 64);
    assert_eq!(publishes[1]["files"], serde_json::json!({"added": 0, "changed": 3, "deleted": 0, "total": 3}));
    // without the hub: what this cache knows
    let alone = run(project.command(&["history", "--endpoint", "http://127.0.0.1:9"]).env("HF_TOKEN", TOKEN));
    assert_eq!(alone.code, 4, "of another endpoint this cache knows nothing: {}", alone.stderr);
}

#[test]
fn history_without_the_remote_is_that_of_the_cache() {
    let project = light();
    let url = {
        let hub = Hub::start(Options::default());
        hub.publish(&project, &[]).code(0);
        hub.url().to_string()
    };
    let alone = run(project.command(&["history", "--endpoint", &url]).env("HF_TOKEN", TOKEN)).code(0);
    let alone = alone.says("the remote cannot be asked").says("1 publish to");
    assert!(alone.stdout.contains("  1.0.0 ") && alone.stdout.contains("+3 of 3"), "{}", alone.stdout);
    run(project.command(&["verify", "--endpoint", &url]).env("HF_TOKEN", TOKEN)).code(4).says("cannot reach the hub");
}

#[test]
fn status_says_what_others_did_and_which_commits_did_it() {
    let (hub, project) = two_versions();
    hub.publish(&project, &["status"])
        .code(0)
        .prints("remote        as the last publish left it")
        .prints("stored        ");
    hub.colleague("from the web", "README.md", b"better words\n");
    hub.colleague("from the web", "notes.md", b"mine\n");
    hub.colleague_does("from the web", Operation::Delete { path: "data.bin".into() });
    let made = commits(&hub);
    let told = hub.publish(&project, &["status"]).code(0).prints("moved since").prints("\"from the web\" by local, 2");
    for (path, word, commit) in
        [("README.md", "changed", &made[2]), ("notes.md", "not of ours", &made[1]), ("data.bin", "deleted", &made[0])]
    {
        let line = told.stdout.lines().find(|l| l.trim_start().starts_with(path)).unwrap_or_default();
        assert!(line.contains(word) && line.ends_with(&format!("by {}", &commit[..7])), "{path}: {}", told.stdout);
    }
}

#[test]
fn verify_says_which_files_are_not_what_was_published() {
    let (hub, project) = two_versions();
    hub.publish(&project, &["verify"]).code(0).prints("3 as published").says("is what was published");
    hub.colleague("from the web", "notes.md", b"mine\n");
    hub.publish(&project, &["verify"]).code(0).prints("not of ours");
    hub.colleague("from the web", "README.md", b"better words\n");
    hub.colleague_does("from the web", Operation::Delete { path: "data.bin".into() });
    let told = hub
        .publish(&project, &["verify"])
        .code(5)
        .says("`README.md` (changed there)")
        .says("`data.bin` (deleted there)");
    assert!(told.stdout.contains("1 as published"), "{}", told.stdout);
    let found = json(&hub.publish(&project, &["verify", "--json"]).code(5));
    assert_eq!((&found["holds"], &found["repos"][0]["files"]["deleted"][0]), (&false.into(), &"data.bin".into()));
    assert_eq!(found["repos"][0]["files"]["others"][0], "notes.md");
}

#[test]
fn a_record_that_was_changed_by_hand_is_believed_by_nobody() {
    let (hub, project) = two_versions();
    let record = file(&hub, "main", "provenance.json").replace("1.1.0", "9.9.9");
    hub.colleague("from the web", "provenance.json", record.as_bytes());
    hub.publish(&project, &["verify"]).code(5).says("`provenance.json` (changed there)");
    let laptop = light();
    hub.publish(&laptop, &["verify"]).code(5).says("`provenance.json` (changed there)");
}

#[test]
fn a_full_verification_reads_every_byte_and_finds_what_the_listing_hides() {
    let (hub, project) = two_versions();
    let full = json(&hub.publish(&project, &["verify", "--full", "--json"]).code(0));
    assert_eq!(full["repos"][0]["downloaded"]["files"], 3);
    assert_eq!(full["repos"][0]["downloaded"]["bytes"], full["repos"][0]["files"]["bytes"]);
    // a cut download is taken up again
    hub.will("resolve", &[Fault::DropConnection, Fault::Status(503)]);
    hub.publish(&project, &["verify", "--full"]).code(0).prints("3 files downloaded and hashed");
    // the hub's disk rots: its listing still says what was promised
    let objects = walkdir::WalkDir::new(hub.dir.path().join("objects")).into_iter().flatten();
    let rotten =
        objects.map(|e| e.into_path()).find(|p| p.is_file() && std::fs::read(p).unwrap() == b"second").unwrap();
    std::fs::write(rotten, "sEcond").unwrap();
    hub.publish(&project, &["verify"]).code(0);
    let full = hub.publish(&project, &["verify", "--full"]).code(5).says("`data.bin` (damaged there)");
    full.says("the object is damaged there").never_says("which commits did it");
}

#[test]
fn a_full_verification_goes_on_past_a_file_that_cannot_be_read() {
    let (hub, project) = two_versions();
    hub.once("resolve", Fault::Status(403));
    let run = hub.publish(&project, &["verify", "--full", "--json"]).code(4).says("1 file could not be read");
    let told = &json(&run)["repos"][0];
    assert_eq!((&told["holds"], &told["downloaded"]["files"]), (&false.into(), &2.into()));
    let unread = told["files"]["unread"].as_array().unwrap();
    assert!(unread.len() == 1 && unread[0]["error"].as_str().unwrap().contains("403"), "{told}");
    assert_eq!(told["files"]["same"], 2);
    // a 404 that is no hub's word says nothing of the file; and what differs is told beside what could not be read
    hub.will("resolve", &[Fault::Status(404); 3]);
    let run = hub.publish(&project, &["verify", "--full"]).code(4).prints("0 files downloaded and hashed");
    assert_eq!(run.stdout.matches("not read ").count(), 3, "{}", run.stdout);
    hub.colleague("from the web", "README.md", b"# mine\n");
    hub.will("resolve", &[Fault::Status(403); 2]);
    let run = hub.publish(&project, &["verify", "--full"]).code(5).says("`README.md` (changed there)");
    run.says("2 files could not be read").says("`data.bin`: ");
}

#[test]
fn a_damaged_object_is_sent_again_once_it_is_removed_on_the_hub() {
    let (hub, project) = two_versions();
    let objects = walkdir::WalkDir::new(hub.dir.path().join("objects")).into_iter().flatten();
    let rotten =
        objects.map(|e| e.into_path()).find(|p| p.is_file() && std::fs::read(p).unwrap() == b"second").unwrap();
    std::fs::write(&rotten, "sEcond").unwrap();
    hub.publish(&project, &["--overwrite"]).code(0).says("remote unchanged");
    hub.publish(&project, &["verify", "--full"]).code(5).says("a hub takes no object that it has");
    std::fs::remove_file(rotten).unwrap();
    hub.colleague_does("take the damaged file away", Operation::Delete { path: "data.bin".into() });
    hub.publish(&project, &["--overwrite"]).code(0).says("Published");
    hub.publish(&project, &["verify", "--full"]).code(0);
}

#[test]
fn the_page_shows_library_task_tags_and_parameters_that_were_published() {
    let project = Project::small_model();
    project.run(&[]).code(0);
    let told = project.run(&["verify"]).code(0).prints("parameters    906768");
    for name in ["pipeline_tag  unconditional-image-generation", "tags "] {
        assert!(told.stdout.contains(name), "{}", told.stdout);
    }
    // the hub reads another header from its disk than was published
    let objects = walkdir::WalkDir::new(project.path("cache/hub/objects")).into_iter().flatten();
    let is_weights = |p: &std::path::PathBuf| {
        let bytes = if p.is_file() { std::fs::read(p).unwrap() } else { vec![] };
        bytes.get(8..).is_some_and(|b| b.starts_with(b"{\"__metadata__\"")) && bytes.windows(6).any(|w| w == b"adaLN_")
    };
    let weights = objects.map(|e| e.into_path()).find(is_weights).unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    let at = bytes.windows(9).position(|w| w == b"\"shape\":[").unwrap() + 9;
    bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
    std::fs::write(&weights, bytes).unwrap();
    project.run(&["verify"]).code(5).says("the page's `parameters` is `").says("published was `906768`");
}

#[test]
fn a_tag_that_may_move_moves_to_the_new_commit_and_stays_where_it_is_right() {
    let (hub, project) = (Hub::start(Options::default()), light());
    project.write(
        "publish.toml",
        &project.read("publish.toml").replace("[artifact.data]", "on_tag = \"move\"\n[artifact.data]"),
    );
    hub.publish(&project, &[]).code(0).never_says("moved");
    let first = commits(&hub)[0].clone();
    assert_eq!(tags(&hub), [("v1.0.0".to_string(), first.clone())]);
    project.write("data.bin", "second");
    hub.publish(&project, &[]).code(0).says(&format!("tag `v1.0.0` moved here from {}", &first[..7]));
    assert_eq!(tags(&hub), [("v1.0.0".to_string(), commits(&hub)[0].clone())]);
    let tagged = tags(&hub);
    hub.publish(&project, &["rollback"]).code(0);
    assert_eq!(tags(&hub), tagged);
}

#[test]
fn diff_shows_files_texts_and_facts_and_says_what_is_not_made_yet() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &["diff"]).code(0).prints("? data.bin  not made yet").says("not made yet (card, data)");
    hub.publish(&project, &[]).code(0);
    hub.publish(&project, &["diff"]).code(0).says("nothing differs, 3 the same");
    project.write("data.bin", "second");
    hub.publish(&project, &["diff"]).code(0).prints("? data.bin  3 B -> not made yet").says("not made yet");
    hub.publish(&project, &["build", "data", "card"]).code(0);
    let told = hub.publish(&project, &["diff"]).code(0).says("3 changed, 0 the same");
    assert!(told.stdout.starts_with("~ README.md  "), "{}", told.stdout);
    assert!(told.stdout.contains("~ data.bin  3 B -> 6 B\n"), "{}", told.stdout);
    let record = told.stdout.lines().find(|l| l.starts_with("~ provenance.json ")).unwrap_or_default();
    assert_eq!(record.rsplit(' ').next().unwrap().len(), 12, "by digest: {}", told.stdout);
    assert!(told.stdout.contains("data.bytes  3 -> 6\n"), "{}", told.stdout);
    assert!(told.stdout.contains("--- a/README.md\n+++ b/README.md\n@@ "), "{}", told.stdout);
    assert!(
        told.stdout.contains("-[data](data.bin) has 3 bytes.\n+[data](data.bin) has 6 bytes.\n"),
        "{}",
        told.stdout
    );
    let found = json(&hub.publish(&project, &["diff", "--json"]).code(0));
    let readme = &found["repos"][0]["files"][0];
    assert_eq!((&readme["path"], &readme["change"]), (&"README.md".into(), &"changed".into()));
    assert!(readme["diff"].as_str().unwrap().contains("has 6 bytes."));
    assert_eq!(found["repos"][0]["facts"][0], serde_json::json!({"name": "data.bytes", "was": 3, "now": 6}));
    // after a colleague's edit the text is held against what is there now
    hub.colleague("from the web", "README.md", b"better words\n");
    hub.publish(&project, &["diff"]).code(0).prints("-better words\n").says("changed by others");
}

#[test]
fn diff_shows_no_text_in_which_a_secret_stands() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    let token = format!("hf_{}", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG");
    for secret in [token.as_str(), TOKEN] {
        hub.colleague("from the web", "README.md", format!("one\nkey: {secret}\n").as_bytes());
        let told = hub.publish(&project, &["diff"]).code(0).prints("not shown: `README.md` holds ").never_says(secret);
        assert!(!told.stdout.contains(secret) && told.stdout.contains(", as it is published"), "{}", told.stdout);
        let told = hub.publish(&project, &["diff", "--json"]).code(0);
        assert!(!told.stdout.contains(secret) && told.stdout.contains("not_shown"), "{}", told.stdout);
    }
}

#[test]
fn a_repo_that_was_deleted_is_said_to_be_gone_and_what_it_gets_then_is_all_new() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    let body = serde_json::json!({"name": "tinydit-cats", "organization": "d-oit", "type": "model"}).to_string();
    let url = format!("{}/api/repos/delete", hub.url());
    let deleted = hub.runtime.block_on(async {
        let request = reqwest::Client::new().delete(url).bearer_auth(TOKEN).header("content-type", "application/json");
        request.body(body).send().await.unwrap().status()
    });
    assert!(deleted.is_success(), "{deleted}");
    let status = hub.publish(&project, &["status"]).code(0).prints("the repo or its branch is no longer there");
    assert!(!status.stdout.contains("yet"), "{}", status.stdout);
    hub.publish(&project, &["rollback"]).code(5).says("it is gone");
    hub.publish(&project, &[]).code(5).says("it is gone");
    hub.publish(&project, &["--overwrite"]).code(0);
    let history = json(&hub.publish(&project, &["history", "--json"]).code(0));
    let newest = &history["repos"][0]["publishes"][0]["files"];
    assert_eq!(newest["added"], newest["total"], "{history}");
    assert_eq!(history["repos"][0]["publishes"][0]["on_remote"], true);
}

#[test]
fn data_that_cannot_be_written_is_no_success() {
    let (hub, project) = (Hub::start(Options::default()), light());
    hub.publish(&project, &[]).code(0);
    for args in [&["plan", "--json"][..], &["verify", "--json"], &["history"], &["status"], &["graph"], &["schema"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let refused = run(hub.command(&project, args).stdout(full)).code(1);
        assert!(refused.stderr.contains("could not be written"), "{args:?}: {}", refused.stderr);
    }
}

#[test]
fn a_diff_of_a_mirror_names_what_would_be_deleted() {
    let (hub, project) = (Hub::start(Options::default()), light());
    project.write("publish.toml", &project.read("publish.toml").replace("tag = ", "mirror = true\ntag = "));
    hub.publish(&project, &[]).code(0);
    hub.colleague("from the web", "theirs.txt", b"mine\n");
    hub.publish(&project, &["diff"]).code(0).prints("- theirs.txt").says("1 deleted");
}
