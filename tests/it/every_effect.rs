//! SIGKILL in place of every single effect on the disk, one after the other, then hfbuild again: the same bytes, one
//! commit. Nothing is sampled: `tests/native/killer.c` counts the calls of one run that change something below the
//! project, and each of them is the last one once; each write is also torn in its middle once.
//!
//! What it does not see: renames that a library makes past libc (those of the embedded hub). What lies between such a
//! write and its rename differs from what a torn write leaves by the content of a file in `tmp/` only.

use crate::support::{Project, Run, native, run};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const REPO: &str = "me/it";

/// Three chained programs, one with a folder for its output; a page, a gate, an upload. `$HOME` is the project's folder:
/// each program leaves a line there, so that its runs can be counted.
pub fn small() -> Project {
    let project = Project::with(
        r#"
[project]
name = "p"
version = "0.1.0"
license = "mit"
[hub]
repo = "me/it"
endpoint = "embedded"
tag = "v{project.version}"
[artifact.words]
kind = "command"
run = ["sh", "-c", "echo words >> $HOME/ran; tr a-z A-Z < {in.text} > words.txt"]
inputs = { text = "text.txt" }
outputs = ["words.txt"]
[artifact.parts]
kind = "command"
run = ["sh", "-c", "echo parts >> $HOME/ran; mkdir -p parts && cat {in.words} > parts/a.txt && sed s/T/-/ {in.words} > parts/b.txt"]
inputs = { words = "words" }
outputs = ["parts"]
[artifact.figures]
kind = "command"
run = ["sh", "-c", "echo figures >> $HOME/ran; printf '{\"lines\": %s}' $(cat {in.parts}/parts/*.txt | wc -l) > figures.json"]
inputs = { parts = "parts" }
outputs = ["figures.json"]
facts_file = "figures.json"
[artifact.page]
kind = "card"
template = "page.hbs"
facts = ["figures"]
[artifact.gates]
kind = "check"
require = ["figures.lines >= 1"]
[artifact.publish]
kind = "upload"
after = ["gates"]
files = { "README.md" = "page", "parts/" = "parts" }
"#,
    );
    project.write("page.hbs", "---\nlicense: {{project.license}}\n---\n\n# Page\n\n{{figures.lines}} lines\n");
    project.write("text.txt", "one\ntwo\nthree\n");
    project
}

/// The same without gate, upload and hub: one that can tell at first sight that nothing has changed.
pub fn unpublished() -> Project {
    let project = small();
    let manifest = project.read("publish.toml");
    let (head, rest) = manifest.split_once("[hub]").expect("the hub's table");
    let (_, rest) = rest.split_once("[artifact.words]").expect("the first artifact");
    let (stages, _) = rest.split_once("[artifact.gates]").expect("the gates");
    project.write("publish.toml", &format!("{head}[artifact.words]{stages}"));
    project
}

/// All that a build makes outside of the cache.
pub fn outputs(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let mut all = project.tree(".");
    all.retain(|path, _| {
        path.starts_with("dist/") || path.starts_with("parts/") || path == "words.txt" || path == "figures.json"
    });
    all
}

/// Runs that left a log.
pub fn logs(project: &Project) -> usize {
    std::fs::read_dir(project.path("cache/runs")).map_or(0, Iterator::count)
}

/// A project with all that another one holds: modes and times too.
pub fn copy_of(project: &Project) -> Project {
    let copy = Project::empty();
    let copied = run(Command::new("cp").arg("-a").arg(project.path(".")).arg(copy.path(".")));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    copy
}

/// A run under the killer.
pub fn preloaded(project: &Project, args: &[&str], at: usize) -> Command {
    let mut command = project.command(args);
    let below = project.path("").canonicalize().expect("the project's folder");
    command.env("LD_PRELOAD", native("killer")).env("KILL_ROOT", below).env("KILL_AT", at.to_string());
    command
}

/// Runs hfbuild under the killer: the run, and the effects up to the kill. It is never killed where `at` is 0.
pub fn killed(project: &Project, args: &[&str], at: usize, torn: bool) -> (Run, Vec<String>) {
    let trace = tempfile::NamedTempFile::new().expect("a file");
    let mut command = preloaded(project, args, at);
    command.env("KILL_TRACE", trace.path());
    if torn {
        command.env("KILL_TORN", "1");
    }
    let run = run(&mut command);
    let effects = std::fs::read_to_string(trace.path()).expect("its trace").lines().map(String::from).collect();
    (run, effects)
}

/// The effects of which a run may have more or fewer than another, and why. All others every run has.
const VARYING: [&str; 5] = [
    // what was read within a tick of its last change is not remembered, nor then that there is nothing to do
    "write /cache/memo/log",
    "open /cache/tmp/snapshot",
    "write /cache/tmp/snapshot",
    "rename /cache/tmp/snapshot",
    // files are sent side by side, and two may find the same folder missing
    "mkdir /cache/hub/objects",
];

/// How many effects a run has that every run must have.
fn certain(effects: &[String]) -> usize {
    effects.iter().filter(|effect| !VARYING.iter().any(|varying| effect.starts_with(varying))).count()
}

/// What every way to the end has to lead to.
struct Expected {
    dist: BTreeMap<String, Vec<u8>>,
    commits: usize,
    effects: Vec<String>,
}

/// A run that nothing disturbs: what comes of it, and the effects that it has.
fn undisturbed(project: &Project, commits: usize) -> Expected {
    let (run, effects) = killed(project, &["-q"], 0, false);
    run.code(0);
    assert_eq!(project.commits(REPO), commits);
    Expected { dist: project.tree("dist"), commits, effects }
}

/// What is found wrong.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// After a publish that was cut off: what is wrong after the next two runs.
fn unfinished(project: &Project, expected: &Expected) -> Vec<String> {
    let mut wrong = Wrong::default();
    let next = project.run(&[]);
    wrong.unless(next.code == 0, || format!("the next run ends with {}: {}", next.code, next.stderr));
    wrong.unless(project.tree("dist") == expected.dist, || format!("dist/ is another: {}", next.stderr));
    let commits = project.commits(REPO);
    wrong.unless(commits == expected.commits, || format!("{commits} commits: {}", next.stderr));
    let left: Vec<_> = project.tree("cache/tmp").into_keys().collect();
    let dirs = std::fs::read_dir(project.path("cache/tmp")).map_or(99, Iterator::count);
    wrong.unless(dirs == 0, || format!("left in cache/tmp: {left:?}"));
    let left: Vec<_> = project.tree("cache/hub/tmp").into_keys().collect();
    wrong.unless(left.is_empty(), || format!("left in cache/hub/tmp: {left:?}"));
    let third = project.run(&[]);
    let idle = third.code == 0
        && third.summary().starts_with("hfbuild: ran 0 stages, 4 up to date, remote unchanged")
        && !third.stderr.contains("Restored");
    wrong.unless(idle, || format!("the third run does something: {}", third.stderr));
    wrong.unless(project.commits(REPO) == expected.commits, || "the third run publishes".into());
    let tag = project.path("cache/hub/repos/models/me/it/refs/tags/v0.1.0");
    wrong.unless(tag.exists(), || "there is no tag".into());
    wrong.0
}

/// After `gc`, `store verify` or `clean` was cut off: builds give the right bytes, and the store is well after one repair
/// at most.
fn unkept(project: &Project, right: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut wrong = Wrong::default();
    let mut built = |what: &str| {
        let run = project.run(&[]);
        wrong.unless(run.code == 0, || format!("{what} ends with {}: {}", run.code, run.stderr));
        wrong.unless(outputs(project) == *right, || format!("{what} makes other bytes: {}", run.stderr));
        run
    };
    built("the next build");
    let verify = || project.run(&["store", "verify"]);
    let first = verify();
    let repaired = if first.code == 1 { verify() } else { first };
    built("the build after `store verify`");
    let idle = built("the last build");
    let last = verify();
    let idle_too = idle.summary().starts_with("hfbuild: ran 0 stages, 4 up to date");
    wrong.unless(idle_too, || format!("it does not come to rest: {}", idle.stderr));
    for run in [repaired, last] {
        wrong.unless(run.code == 0, || format!("the store is not well: {}{}", run.stdout, run.stderr));
    }
    wrong.0
}

/// What `test` says is wrong, of all cases; they run side by side.
pub fn of_all<C: Sync>(cases: &[C], test: impl Fn(&C) -> Vec<String> + Sync) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = test(case);
                    wrong.lock().expect("no panic").extend(found);
                }
            });
        }
    });
    wrong.into_inner().expect("no panic")
}

/// Kills a command at every one of these effects, and at the middle of every write, each in a project of its own that
/// `fresh` makes; `after` says what is wrong then. A run of which the case's effect did not come has ended by itself, with
/// all effects that every run has.
pub fn everywhere(
    args: &[&str],
    effects: &[String],
    fresh: &(dyn Fn() -> Project + Sync),
    after: &(dyn Fn(&Project) -> Vec<String> + Sync),
) {
    let is_write = |effect: &String| effect.starts_with("write ") || effect.starts_with("copy ");
    let mut cases: Vec<(usize, bool)> = (1..=effects.len()).map(|n| (n, false)).collect();
    cases.extend((1..=effects.len()).filter(|n| is_write(&effects[n - 1])).map(|n| (n, true)));
    let kills = AtomicUsize::new(0);
    let wrong = of_all(&cases, |(at, torn)| {
        let project = fresh();
        let (cut, seen) = killed(&project, args, *at, *torn);
        kills.fetch_add(usize::from(cut.code == -1), Ordering::Relaxed);
        let mut wrong = after(&project);
        let came = seen.get(at - 1).is_some_and(|effect| !torn || is_write(effect));
        if cut.code != -1 && (came || certain(&seen) != certain(effects)) {
            wrong.push(format!("not killed, it ended with {} after {}: {}", cut.code, seen.join("\n"), cut.stderr));
        }
        let torn = if *torn { "torn " } else { "" };
        let last = seen.last().map_or("", String::as_str);
        wrong.into_iter().map(|what| format!("killed at {torn}effect {at} `{last}`: {what}")).collect()
    });
    println!("{} effects, {} cases, {} kills", effects.len(), cases.len(), kills.into_inner());
    assert!(wrong.is_empty(), "{} things in {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_first_publish_that_is_killed_at_any_effect_is_finished_by_the_next_run() {
    let expected = undisturbed(&small(), 1);
    let effects = expected.effects.join("\n");
    for seen in [
        "write /cache/VERSION",
        "rename /cache/tmp/work-0/out/words.txt",
        "write /cache/actions/log",
        "write /cache/publishes/log",
        "sync /cache/publishes/log",
        "write /cache/hub/tmp/",
        "mkdir /dist",
        "write /cache/memo/log",
    ] {
        assert!(effects.contains(seen), "the killer does not see `{seen}`:\n{effects}");
    }
    everywhere(&["-q"], &expected.effects, &small, &|project| unfinished(project, &expected));
}

#[test]
fn a_retrained_publish_that_is_killed_at_any_effect_is_finished_by_the_next_run() {
    let published = small();
    published.run(&["-q"]).code(0);
    let retrained = || {
        let project = copy_of(&published);
        project.write("text.txt", "four\nfive\n");
        project
    };
    let expected = undisturbed(&retrained(), 2);
    everywhere(&["-q"], &expected.effects, &retrained, &|project| unfinished(project, &expected));
}

// --- runs that find nothing to do ------------------------------------------------------------------------------------

/// A project that was built, with its snapshot or without; never a copy, for the snapshot holds inodes.
fn built(snapshot: bool) -> Project {
    let project = unpublished();
    // a source that was written within a clock tick of being read is not remembered by the first build
    (0..2).for_each(|_| drop(project.run(&["-q"]).code(0)));
    let path = project.path("cache/memo/fresh");
    assert!(path.exists(), "a build remembers that the next one has nothing to do");
    if !snapshot {
        std::fs::remove_file(path).expect("the snapshot");
    }
    project
}

/// Kills the run that finds nothing to do after a build. Nothing runs then, and the next run but one at the latest
/// knows at first sight that nothing has changed.
fn idle(snapshot: bool, seen: &str) {
    let whole = built(snapshot);
    let right = outputs(&whole);
    let (run, effects) = killed(&whole, &["-q"], 0, false);
    run.code(0);
    assert!(effects.iter().any(|e| e.contains(seen)), "the killer does not see `{seen}`:\n{}", effects.join("\n"));
    everywhere(&["-q"], &effects, &|| built(snapshot), &|project| {
        let mut wrong = Wrong::default();
        for what in ["the next run", "the one after", "the third"] {
            let before = logs(project);
            let run = project.run(&[]);
            let idle = run.code == 0 && run.summary().starts_with("hfbuild: ran 0 stages, 4 up to date");
            wrong.unless(idle && !run.stderr.contains("Restored"), || format!("{what} does something: {}", run.stderr));
            wrong.unless(outputs(project) == right, || format!("{what} makes other bytes"));
            wrong.unless(what != "the third" || logs(project) == before, || "no snapshot is left".into());
        }
        wrong.unless(project.read("ran").lines().count() == 3, || "a program ran".into());
        wrong.0
    });
}

#[test]
fn a_run_that_is_killed_while_it_remembers_that_nothing_changed_costs_nothing() {
    idle(false, "rename /cache/tmp/snapshot");
}

#[test]
fn a_run_that_knows_at_first_sight_that_nothing_changed_may_be_killed_too() {
    idle(true, "/cache/lock");
}

// --- commands that look after the cache ------------------------------------------------------------------------------

/// Kills a command that looks after the cache, in copies of a project; it ends with `code` where nothing disturbs it.
fn keeping(args: &[&str], code: i32, fresh: &(dyn Fn() -> Project + Sync), seen: &str) {
    let whole = fresh();
    let (right, commits) = (outputs(&whole), whole.commits(REPO));
    let (run, effects) = killed(&whole, args, 0, false);
    run.code(code);
    assert!(effects.iter().any(|e| e.contains(seen)), "the killer does not see `{seen}`:\n{}", effects.join("\n"));
    everywhere(args, &effects, fresh, &|project| {
        let mut wrong = unkept(project, &right);
        if project.commits(REPO) != commits {
            wrong.push("it published again".into());
        }
        wrong
    });
}

/// A project with results of three sources, of which the last is current.
fn of_three() -> Project {
    let project = unpublished();
    for text in ["one\ntwo\nthree\n", "four\nfive\n", "six\n"] {
        project.write("text.txt", text);
        project.run(&["-q"]).code(0);
    }
    project
}

#[test]
fn gc_may_be_killed_at_any_effect() {
    let whole = of_three();
    keeping(&["gc", "--max-size", "0B"], 0, &|| copy_of(&whole), "unlink /cache/blobs/");
}

#[test]
fn store_verify_may_be_killed_at_any_effect_of_its_repair() {
    let whole = of_three();
    let damaged = || {
        let project = copy_of(&whole);
        let name = blake3::hash(b"SIX\n").to_hex().to_string();
        let blob = project.path(&format!("cache/blobs/{}/{name}", &name[..2]));
        std::fs::remove_file(&blob).expect("the blob");
        std::fs::write(&blob, "SAX\n").expect("a damaged blob");
        project
    };
    keeping(&["store", "verify"], 1, &damaged, "unlink /cache/blobs/");
}

#[test]
fn clean_may_be_killed_at_any_effect_and_what_was_published_stays() {
    let whole = small();
    whole.run(&["-q"]).code(0);
    keeping(&["clean"], 0, &|| copy_of(&whole), "unlink /cache/actions/log");
}
