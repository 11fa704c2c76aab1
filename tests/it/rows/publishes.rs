//! Uploads: to the wrong place, by halves, again and again, with a token that was shown.

use super::{REPO, copies, files, manifest, published, publishing, refused};
use crate::support::{Project, Run, run};
use crate::{commands, publish};
use hfbuild::hub::embedded::{EmbeddedHub, Fault, Faults, Options, Running};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Counts requests, and where it is told to changes what landed before the answer goes out.
struct Watch {
    root: PathBuf,
    asked: Mutex<Vec<String>>,
    spoils: Mutex<Option<&'static str>>,
}

impl Faults for Watch {
    fn at(&self, point: &str) -> Fault {
        self.asked.lock().unwrap().push(point.into());
        if point == "commit.after"
            && let Some(path) = self.spoils.lock().unwrap().take()
        {
            let (file, mut commit) = head(&self.root);
            let digest = commit["tree"][path]["sha256"].as_str().unwrap();
            let other: String = digest.chars().rev().collect();
            commit["tree"][path]["sha256"] = other.into();
            std::fs::write(file, commit.to_string()).unwrap();
        }
        Fault::None
    }
}

/// The file and the record of the branch's commit.
fn head(hub: &Path) -> (PathBuf, Value) {
    let folder = hub.join("repos/models").join(REPO);
    let oid = std::fs::read_to_string(folder.join("refs/heads/main")).unwrap();
    let file = folder.join(format!("commits/{}.json", oid.trim()));
    let commit = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    (file, commit)
}

struct Hub {
    watch: Arc<Watch>,
    running: Running,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

const TOKEN: &str = "hf_aTokenThatMustNeverBeSeenAnywhere99";

impl Hub {
    fn start() -> Hub {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch { root: dir.path().into(), asked: Mutex::default(), spoils: Mutex::default() };
        let watch = Arc::new(watch);
        let options = Options { token: Some(TOKEN.into()), faults: Some(watch.clone()), ..Options::default() };
        let running = runtime.block_on(EmbeddedHub::start(dir.path(), options)).unwrap();
        Hub { watch, running, _runtime: runtime, _dir: dir }
    }
    fn publish(&self, project: &Project, args: &[&str]) -> Run {
        run(project.command(args).args(["--endpoint", self.running.url()]).env("HF_TOKEN", TOKEN))
    }
    /// How often a request was made since it was asked last.
    fn count(&self, points: &[&str]) -> Vec<usize> {
        let asked = std::mem::take(&mut *self.watch.asked.lock().unwrap());
        points.iter().map(|point| asked.iter().filter(|asked| asked == point).count()).collect()
    }
}

/// Two files and a tag.
fn two() -> Project {
    let tables = format!("{}[artifact.other]\nkind = \"files\"\npaths = [\"other.bin\"]\n", files("data.bin"));
    let project = publishing(&tables, "\"data.bin\" = \"file\", \"more/other.bin\" = \"other\"", &[]);
    let tagged = project.read("publish.toml").replace("[hub]\n", "[hub]\ntag = \"v{project.version}\"\n");
    project.write("publish.toml", &tagged);
    project.write("data.bin", "one");
    project.write("other.bin", "other");
    project
}

#[test]
fn row_12_two_scripts_wrote_to_two_repos_at_other_paths_than_were_read() {
    // one manifest, one path map for each repo
    let again = "[artifact.again]\nkind = \"upload\"\nfiles = { \"data.bin\" = \"file\" }\n";
    let project = publishing(&format!("{}{again}", files("data.bin")), "\"data.bin\" = \"file\"", &[]);
    project.write("data.bin", "one");
    refused(&project, 2, &["both publish to the model `me/it`", "delete the other's files", "publish.toml:"]);
    let made = copies("a = \"data.bin\"", "cp {in.a} data.bin.out", "[\"data.bin.out\"]");
    let paths = "\"x/\" = \"made\", \"x/data.bin.out\" = \"file\"";
    project.write("publish.toml", &manifest(&format!("{}{made}", files("data.bin")), paths, &[]));
    refused(&project, 2, &["`file` makes `dist/x/data.bin.out` inside `dist/x`, which `made` makes"]);
    // what landed is held against what was sent by digest: a listing with the right names and sizes is not enough
    let (hub, project) = (Hub::start(), two());
    *hub.watch.spoils.lock().unwrap() = Some("data.bin");
    let run = hub.publish(&project, &[]).code(4).says("`data.bin` has other content there").never_says("Published");
    assert!(run.summary().contains("1 failed"), "{}", run.summary());
    // and by the next run too
    hub.publish(&project, &["plan", "--check"]).code(3).prints("Drift").prints("data.bin");
    hub.publish(&project, &[]).code(5);
    hub.publish(&project, &["--overwrite"]).code(0).says("Published");
    assert_eq!(
        head(&hub.watch.root).1["tree"]["data.bin"]["sha256"],
        hfbuild::core::record::hub_digests(b"one").sha256
    );
}

#[test]
fn row_13_main_was_mutable_untagged_and_full_of_stale_files() {
    let project = two();
    let hub = project.path("cache/hub");
    let tag = |name: &str| std::fs::read_to_string(hub.join("repos/models/me/it/refs/tags").join(name)).unwrap();
    published(&project);
    let (_, first) = head(&hub);
    assert_eq!(tag("v1"), first["oid"].as_str().unwrap());
    // the next version: one commit on the one before, with what was renamed and removed gone, and a tag of its own
    let next = project.read("publish.toml").replace("version = \"1\"", "version = \"2\"");
    let next = next.replace("\"data.bin\" = \"file\", \"more/other.bin\"", "\"renamed.bin\"");
    project.write("publish.toml", &next);
    project.write("other.bin", "two");
    project.run(&["plan"]).code(0).prints("- data.bin").prints("- more/other.bin").prints("renamed.bin");
    published(&project);
    let (_, second) = head(&hub);
    assert_eq!(second["parents"], serde_json::json!([first["oid"]]));
    let paths: Vec<&String> = second["tree"].as_object().unwrap().keys().collect();
    assert_eq!(paths, [".gitattributes", "provenance.json", "renamed.bin"]);
    assert_eq!((tag("v2"), tag("v1")), (text(&second["oid"]), text(&first["oid"])));
    // a version that was published stays where it is, and a manifest may make that an error
    project.write("other.bin", "three");
    published(&project).says("tag `v2` is there already and stays where it is");
    assert_eq!(tag("v2"), text(&second["oid"]));
    project.write("other.bin", "four");
    project.write("publish.toml", &next.replace("[hub]\n", "[hub]\non_tag = \"fail\"\n"));
    refused(&project, 4, &["tag `v2` is there already"]).never_says("Running");
    // what others changed is not published over, and what others added is not taken away
    publish::a_colleagues_edit_of_a_published_file_is_drift_and_is_not_overwritten();
    publish::a_colleagues_own_file_is_no_drift_and_stays();
    publish::a_lost_answer_after_a_landed_commit_makes_no_second_commit();
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_string()
}

#[test]
fn row_14_everything_was_made_and_sent_again_every_time() {
    let (hub, project) = (Hub::start(), two());
    let points = ["revision", "lfs.put", "commit.before"];
    hub.publish(&project, &[]).code(0);
    assert_eq!(hub.count(&points)[1..], [2, 1], "two files, one commit");
    // nothing new: one request, no stage, no byte
    hub.publish(&project, &[]).code(0).says("ran 0 stages").says("remote unchanged");
    assert_eq!(hub.count(&points), [1, 0, 0]);
    // one file new: that one is sent
    project.write("data.bin", "two");
    let run =
        hub.publish(&project, &[]).code(0).says("Running file: input `data.bin` changed").says("2 of 3 files changed");
    run.never_says("Running other");
    assert_eq!(hub.count(&points)[1..], [1, 1]);
    // and going back makes nothing and sends only what differs
    project.write("data.bin", "one");
    hub.publish(&project, &[]).code(0).says("ran 0 stages").never_says("Running");
    assert_eq!(hub.count(&points)[2], 1);
    // a file that was touched, or moved to another path in the repo, is the same file
    project.copy(&project.path("other.bin"), "copy");
    std::fs::rename(project.path("copy"), project.path("other.bin")).unwrap();
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    project.write("publish.toml", &project.read("publish.toml").replace("more/other.bin", "other.bin"));
    hub.count(&points);
    hub.publish(&project, &[]).code(0).says("ran 0 stages");
    assert_eq!(hub.count(&points)[1..], [0, 1], "content that is there is not sent again");
}

#[test]
fn row_16_a_bad_token_was_found_after_half_an_hour_of_work() {
    publish::a_refused_or_missing_token_is_said_before_any_stage_runs();
    commands::a_missing_token_is_said_before_any_stage_runs();
    // an account that may not write to the namespace
    let (hub, project) = (Hub::start(), two());
    let made = copies("a = \"data.bin\"", "echo ran >> $HOME/ran; cp {in.a} made.bin", "[\"made.bin\"]");
    project.write("publish.toml", &manifest(&made, "\"made.bin\" = \"made\"", &[]));
    let wrong = "hf_ofAnotherAccountThatMayNotWrite12345678";
    let begun = run(project.command(&["--endpoint", hub.running.url()]).env("HF_TOKEN", wrong)).code(4);
    assert!(!project.path("ran").exists() && !begun.stderr.contains("Running"), "{}", begun.stderr);
    assert_eq!(hub.count(&["create", "commit.before"]), [0, 0]);
    hub.publish(&project, &[]).code(0);
    assert!(project.path("ran").exists());
}

#[test]
fn row_17_token_prefixes_were_printed_and_committed() {
    publish::the_token_is_written_nowhere();
    // a part of it says enough: none is anywhere, not in what is said, kept, laid out or on the hub, whatever goes wrong
    let prefix = &TOKEN[..8];
    let (hub, project) = (Hub::start(), two());
    let more = copies("a = \"data.bin\"", "env > env.txt; cp {in.a} made.bin", "[\"made.bin\", \"env.txt\"]");
    let tables = format!("{}{more}", files("data.bin"));
    project.write("publish.toml", &manifest(&tables, "\"data.bin\" = \"file\", \"made/\" = \"made\"", &[]));
    project.write("home/token", TOKEN);
    let token_file = project.path("home/token");
    let none = |run: Run| run.never_says(prefix);
    none(hub.publish(&project, &["-v"]).code(0));
    project.write("data.bin", "two");
    *hub.watch.spoils.lock().unwrap() = Some("data.bin");
    none(hub.publish(&project, &["-v"]).code(4));
    for args in [&["plan", "--json"][..], &["status"], &["explain", "made"], &["-v", "--overwrite"]] {
        none(hub.publish(&project, args).code(0));
        none(
            run(project.command(args).args(["--endpoint", hub.running.url()]).env("HF_TOKEN_PATH", &token_file))
                .code(0),
        );
    }
    none(run(project.command(&["-v", "--endpoint", "http://127.0.0.1:9"]).env("HF_TOKEN", TOKEN)).code(4));
    // a token with a line's end in it, as it is pasted
    none(run(project.command(&["-v", "--endpoint", hub.running.url()]).env("HF_TOKEN", format!("{TOKEN}\nx"))));
    std::fs::remove_file(&token_file).unwrap();
    let searched = project.tree(".");
    assert!(searched.len() > 15 && searched.keys().any(|k| k.ends_with("events.jsonl")), "{:?}", searched.keys());
    let on_the_hub = walkdir::WalkDir::new(&hub.watch.root).into_iter().flatten().filter(|e| e.file_type().is_file());
    let on_the_hub = on_the_hub.map(|e| (e.path().display().to_string(), std::fs::read(e.path()).unwrap()));
    for (name, bytes) in searched.into_iter().chain(on_the_hub) {
        assert!(!bytes.windows(prefix.len()).any(|w| w == prefix.as_bytes()), "{name} holds a part of the token");
    }
    // and one that stands in a file is not published
    commands::a_secret_in_a_file_is_refused_by_file_and_line_and_never_shown();
}
