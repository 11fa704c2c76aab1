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
kind = "template"
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

/// A project with all that another one holds: modes and times too.
pub fn copy_of(project: &Project) -> Project {
    let copy = Project::empty();
    let copied = run(Command::new("cp").arg("-a").arg(project.path(".")).arg(copy.path(".")));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    copy
}

/// A build under the killer.
pub fn preloaded(project: &Project, at: usize) -> Command {
    let mut command = project.command(&["-q"]);
    let below = project.path("").canonicalize().expect("the project's folder");
    command.env("LD_PRELOAD", native("killer")).env("KILL_ROOT", below).env("KILL_AT", at.to_string());
    command
}

/// Runs a build under the killer: the run, and the effects up to the kill. It is never killed where `at` is 0.
pub fn killed(project: &Project, at: usize, torn: bool) -> (Run, Vec<String>) {
    let trace = tempfile::NamedTempFile::new().expect("a file");
    let mut command = preloaded(project, at);
    command.env("KILL_TRACE", trace.path());
    if torn {
        command.env("KILL_TORN", "1");
    }
    let run = run(&mut command);
    let effects = std::fs::read_to_string(trace.path()).expect("its trace").lines().map(String::from).collect();
    (run, effects)
}

/// What every way to the end has to lead to.
struct Expected {
    dist: BTreeMap<String, Vec<u8>>,
    commits: usize,
    effects: Vec<String>,
}

/// A run that nothing disturbs: what comes of it, and the effects that it has.
fn undisturbed(project: &Project, commits: usize) -> Expected {
    let (run, effects) = killed(project, 0, false);
    run.code(0);
    assert_eq!(project.commits(REPO), commits);
    Expected { dist: project.tree("dist"), commits, effects }
}

/// Kills one run, and says what is wrong after the next two.
fn wrong_after(project: &Project, at: usize, torn: bool, expected: &Expected) -> (bool, Vec<String>) {
    let (cut, effects) = killed(project, at, torn);
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            let torn = if torn { "torn " } else { "" };
            let effect = effects.last().map_or("", String::as_str);
            wrong.push(format!("killed at {torn}effect {at} `{effect}`: {what}"));
        }
    };
    check(cut.code == -1 || cut.code == 0, format!("it ended with {}: {}", cut.code, cut.stderr));
    let next = project.run(&[]);
    check(next.code == 0, format!("the next run ends with {}: {}", next.code, next.stderr));
    check(project.tree("dist") == expected.dist, format!("dist/ is another: {}", next.stderr));
    let commits = project.commits(REPO);
    check(commits == expected.commits, format!("{commits} commits: {}", next.stderr));
    let left: Vec<_> = project.tree("cache/tmp").into_keys().collect();
    let dirs = std::fs::read_dir(project.path("cache/tmp")).map_or(99, Iterator::count);
    check(dirs == 0, format!("left in cache/tmp: {left:?}"));
    let left: Vec<_> = project.tree("cache/hub/tmp").into_keys().collect();
    check(left.is_empty(), format!("left in cache/hub/tmp: {left:?}"));
    let third = project.run(&[]);
    let idle = third.code == 0
        && third.summary().starts_with("hfbuild: ran 0 stages, 4 up to date, remote unchanged")
        && !third.stderr.contains("Restored");
    check(idle, format!("the third run does something: {}", third.stderr));
    check(project.commits(REPO) == expected.commits, "the third run publishes".into());
    check(project.path("cache/hub/repos/models/me/it/refs/tags/v0.1.0").exists(), "there is no tag".into());
    (cut.code == -1, wrong)
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

/// Kills at every effect, and at the middle of every write, each in a project of its own that `fresh` makes.
fn everywhere(expected: &Expected, fresh: &(dyn Fn() -> Project + Sync)) {
    let effects = &expected.effects;
    let is_write = |n: &usize| effects[n - 1].starts_with("write ") || effects[n - 1].starts_with("copy ");
    let mut cases: Vec<(usize, bool)> = (1..=effects.len()).map(|n| (n, false)).collect();
    cases.extend((1..=effects.len()).filter(is_write).map(|n| (n, true)));
    let kills = AtomicUsize::new(0);
    let wrong = of_all(&cases, |(at, torn)| {
        let (was_killed, wrong) = wrong_after(&fresh(), *at, *torn, expected);
        kills.fetch_add(usize::from(was_killed), Ordering::Relaxed);
        wrong
    });
    let kills = kills.into_inner();
    println!("{} effects, {} cases, {kills} kills", effects.len(), cases.len());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // two threads may make a folder at once or one after the other, so a run may have a few effects fewer
    assert!(kills + 10 >= cases.len(), "only {kills} of {} cases were kills", cases.len());
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
    everywhere(&expected, &small);
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
    everywhere(&undisturbed(&retrained(), 2), &retrained);
}
