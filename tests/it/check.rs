//! `hfbuild check`: the gates alone, and stages that are run twice to see whether they make the same.
//!
//! Programs leave a line in `$HOME/ran` (the project's folder) every time: so runs are counted, and so a program can
//! differ from one run to the next in a way that a test can foretell.

use crate::support::{Project, Run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub const HEAD: &str = "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n";

/// A project with these tables after [project].
pub fn project(tables: &str) -> Project {
    Project::with(&format!("{HEAD}{tables}"))
}

/// An artifact of kind `command` that runs a shell line; `more` are further keys.
pub fn shell(name: &str, line: &str, outputs: &str, more: &str) -> String {
    format!(
        "[artifact.{name}]\nkind = \"command\"\nrun = [\"sh\", \"-c\", '''{line}''']\noutputs = {outputs}\n{more}\n"
    )
}

/// How often a program left a line in a file of the project.
pub fn lines(project: &Project, file: &str) -> usize {
    std::fs::read_to_string(project.path(file)).map_or(0, |text| text.lines().count())
}

/// Polls until something holds; a minute at most.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "after a minute still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run of hfbuild in the background, its stderr in a file of the project; killed when dropped.
pub struct Background {
    pub child: Child,
    log: std::path::PathBuf,
}

impl Background {
    pub fn start(project: &Project, log: &str, args: &[&str]) -> Background {
        let log = project.path(log);
        let file = std::fs::File::create(&log).expect("a log");
        let child = project.command(args).stdout(Stdio::null()).stderr(file).spawn().expect("hfbuild starts");
        Background { child, log }
    }
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("its log")
    }
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
    }
    pub fn end(mut self) -> Run {
        let mut status = None;
        until("hfbuild has ended", || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        });
        Run { code: status.and_then(|s| s.code()).unwrap_or(-1), stdout: String::new(), stderr: self.said() }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the process of which a program left the number has ended (a zombie has).
pub fn gone(project: &Project, file: &str) -> bool {
    let pid: u32 = project.read(file).trim().parse().expect("a process's number");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}

/// All that a check must leave as it was: every file but the lock's note of its holder and the programs' own traces.
fn kept(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let mut tree = project.tree(".");
    tree.retain(|name, _| name != "cache/lock" && name != "ran");
    tree
}

// --- twice -----------------------------------------------------------------------------------------------------------

const COUNT: &str = "echo ran >> $HOME/ran; n=$(wc -l < $HOME/ran)";

/// Builds, checks, and asserts that nothing is left of the check: no file, no record, no work to do.
#[track_caller]
fn checked(line: &str, outputs: &str, more: &str, code: i32) -> Run {
    let project = project(&shell("a", &format!("{COUNT}; {line}"), outputs, more));
    project.run(&[]).code(0);
    let before = kept(&project);
    let run = project.run(&["check", "--determinism", "a"]).code(code);
    assert_eq!(lines(&project, "ran"), 3, "it ran twice more");
    assert_eq!(kept(&project), before, "nothing is placed and nothing is recorded");
    assert_eq!(std::fs::read_dir(project.path("cache/tmp")).expect("the folder").count(), 0);
    project.run(&["plan", "--check"]).code(0);
    run
}

#[test]
fn a_stage_that_makes_the_same_twice_and_the_same_as_in_the_build_is_told_in_a_line() {
    let line = "seq 100 > one.txt; mkdir d; echo 2 > d/two.txt; echo '{{\"score\": 0.5}}' > facts.json";
    let run = checked(line, r#"["one.txt", "d", "facts.json"]"#, "facts_file = \"facts.json\"", 0);
    assert_eq!(run.stdout, "same  a  3 files\n");
}

#[test]
fn a_stage_that_writes_something_random_is_named_with_the_file_and_the_first_byte() {
    let line = "printf 1234 > noise.bin; head -c 8 /dev/urandom >> noise.bin; echo quiet > quiet.txt";
    let run = checked(line, r#"["noise.bin", "quiet.txt"]"#, "", 1);
    let byte = run.stdout.trim_end().strip_prefix("differs  a  noise.bin: 12 B, first difference at byte ");
    let byte: u64 = byte.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{run:?}"));
    assert!((5..=12).contains(&byte), "{byte}");
    let run = checked("printf same-$n > r.txt", r#"["r.txt"]"#, "", 1);
    assert_eq!(run.stdout, "differs  a  r.txt: 6 B, first difference at byte 6\n");
    let run = checked("seq $n > r.txt", r#"["r.txt"]"#, "", 1);
    assert_eq!(run.stdout, "differs  a  r.txt: 4 B and 6 B, first difference at byte 5\n");
}

#[test]
fn files_that_only_one_run_makes_are_named() {
    let run = checked("mkdir d; touch d/$n d/both", r#"["d"]"#, "", 1);
    let expected = "differs  a  d/2: made by the first run only; d/3: made by the second run only; \
        d/1: made by the last build only\n";
    assert_eq!(run.stdout, expected);
}

#[test]
fn a_fact_that_is_not_the_same_is_named_with_both_values() {
    let with = |digits: &str| {
        let line = format!("echo \"{{{{\\\"score\\\": {digits}$n, \\\"same\\\": 1}}}}\" > f.json");
        checked(&line, r#"["f.json"]"#, "facts_file = \"f.json\"", 1)
    };
    with("0.")
        .prints("f.json: 26 B, first difference at byte ")
        .prints("; fact `score`: 0.2 and 0.3")
        .never_says("same`");
    // also where what is shown for people would be the same
    with("0.12345678").prints("fact `score`: 0.123456782 and 0.123456783");
}

#[test]
fn two_runs_that_agree_with_each_other_and_not_with_the_build_differ() {
    let project = project(&shell("a", "cat $HOME/undeclared > out.txt", r#"["out.txt"]"#, ""));
    project.write("undeclared", "abc");
    project.run(&[]).code(0);
    project.run(&["check", "--determinism", "a"]).code(0).prints("same  a  1 file\n");
    project.write("undeclared", "abd");
    let run = project.run(&["check", "--determinism", "a"]).code(1);
    assert_eq!(run.stdout, "differs  a  out.txt: 3 B, first difference at byte 3 (both runs and the last build)\n");
    assert_eq!(project.read("out.txt"), "abc");
}

#[test]
fn what_was_never_built_can_be_checked_once_its_inputs_are_there_and_not_before() {
    let tables = [
        shell("a", "echo 1 > a.txt; echo a >> $HOME/ran", r#"["a.txt"]"#, ""),
        shell("b", "cat {in.a} > b.txt; echo b >> $HOME/ran", r#"["b.txt"]"#, "inputs = { a = \"a\" }"),
    ];
    let project = project(&tables.concat());
    project.run(&["check", "--determinism", "b"]).code(2).says("not up to date: `a`").says("`hfbuild build b`");
    assert_eq!(lines(&project, "ran"), 0);
    project.run(&["build", "a"]).code(0);
    let run = project.run(&["check", "--determinism", "b", "a"]).code(0);
    assert_eq!(run.stdout, "same  a  1 file\nsame  b  1 file\n");
    assert!(!project.path("b.txt").exists());
    project.run(&["plan"]).code(0).prints("Run b: it never ran");
}

#[test]
fn a_shard_can_be_checked_alone() {
    let project = Project::small_model();
    project.run(&["build", "samples[Tiger]"]).code(0);
    let run = project.run(&["check", "--determinism", "samples[Tiger]"]).code(0);
    assert!(run.stdout.starts_with("same  samples[Tiger]  ") && run.stdout.lines().count() == 1, "{run:?}");
}

#[test]
fn what_has_no_stage_or_no_name_cannot_be_checked_and_a_stage_that_fails_is_an_error() {
    let project = gated();
    project.run(&["check", "--determinism", "gates"]).code(2).says("`gates` is a gate");
    project.run(&["check", "--determinism", "publish"]).code(2).says("`publish` is an upload");
    project.run(&["check", "--determinism", "evaluatino"]).code(2).says("did you mean `evaluation`?");
    project.write("publish.toml", &format!("{HEAD}{}", shell("a", "echo half > a.txt; exit 3", r#"["a.txt"]"#, "")));
    let run =
        project.run(&["check", "--determinism", "a"]).code(1).says("`a`, first run: `sh` failed with exit code 3");
    assert_eq!(run.stdout, "failed  a\n");
    assert_eq!(std::fs::read_dir(project.path("cache/tmp")).expect("the folder").count(), 0);
}

#[test]
fn an_interrupted_check_ends_with_130_and_leaves_nobody() {
    let line = "sleep 603 & echo $! > $HOME/sleeper; echo $$ > $HOME/program; wait; echo 1 > a.txt";
    let project = project(&shell("a", line, r#"["a.txt"]"#, ""));
    let check = Background::start(&project, "check.log", &["check", "--determinism", "a"]);
    until("the program runs", || lines(&project, "program") == 1);
    check.signal(Signal::SIGINT);
    check.end().code(130).says("interrupted");
    for file in ["program", "sleeper"] {
        until(&format!("`{file}` is gone"), || gone(&project, file));
    }
    assert_eq!(std::fs::read_dir(project.path("cache/tmp")).expect("the folder").count(), 0);
}

// --- gates -----------------------------------------------------------------------------------------------------------

/// A score that is read from data.txt, a gate over it, and an upload to where nobody listens.
fn gated() -> Project {
    let line = "echo ran >> $HOME/ran; cat {in.data} > score.json";
    let tables = format!(
        "[params]\nbound = 0.9\n{}{}",
        shell("evaluation", line, r#"["score.json"]"#, "inputs = { data = \"data.txt\" }\nfacts_file = \"score.json\""),
        "[artifact.gates]\nkind = \"check\"\nrequire = [\"evaluation.score >= params.bound\", \"evaluation.name != 'x'\"]\n\
        [artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = { \"score.json\" = \"evaluation\" }\n\
        [hub]\nrepo = \"me/it\"\nendpoint = \"http://127.0.0.1:9\"\n",
    );
    let project = project(&tables);
    project.write("data.txt", "{\"score\": 0.9375, \"name\": \"tiny\"}");
    project
}

#[test]
fn gates_that_pass_are_shown_with_value_bound_and_what_was_measured_and_no_remote_is_asked() {
    let project = gated();
    project.run(&["build", "evaluation"]).code(0);
    let before = kept(&project);
    let run = project
        .run(&["check"])
        .code(0)
        .prints("passed   gates[evaluation.score >= params.bound]  `evaluation.score` is 0.9375, `params.bound` is 0.9")
        .prints("(of data.txt, ")
        .prints("passed   gates[evaluation.name != 'x']  `evaluation.name` is \"tiny\"")
        .says("hfbuild: 2 gates: 2 passed");
    assert_eq!(run.stdout.lines().count(), 2);
    assert_eq!(kept(&project), before);
    assert_eq!(lines(&project, "ran"), 1);
}

#[test]
fn gates_that_refuse_or_cannot_be_evaluated_end_with_1() {
    let project = gated();
    project.run(&["build", "evaluation"]).code(0);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("bound = 0.9", "bound = 0.95"));
    project
        .run(&["check"])
        .code(1)
        .prints(
            "refused  gates[evaluation.score >= params.bound]  `evaluation.score` is 0.9375, `params.bound` is 0.95",
        )
        .prints("passed   gates[evaluation.name != 'x']")
        .says("hfbuild: 2 gates: 1 passed, 1 refused");
    project.write("publish.toml", &manifest.replace("evaluation.name != 'x'", "evaluation.nothing > 1"));
    project
        .run(&["check"])
        .code(1)
        .prints("refused  gates[evaluation.nothing > 1]  cannot be evaluated: `evaluation.nothing` was not measured");
    assert_eq!(lines(&project, "ran"), 1, "no stage runs for a gate");
}

#[test]
fn gates_over_what_is_not_up_to_date_are_not_known_yet_and_nothing_runs_or_is_made() {
    let project = gated();
    let unknown = "unknown  gates[evaluation.score >= params.bound]  `evaluation.score` is not known before this is up to date: \
        evaluation\n";
    project.run(&["check"]).code(3).prints(unknown).says("hfbuild: 2 gates: 2 not known yet").says("hfbuild build");
    assert!(!project.path("cache").exists());
    project.run(&["build", "evaluation"]).code(0);
    project.write("data.txt", "{\"score\": 0.1, \"name\": \"tiny\"}");
    project.run(&["check"]).code(3).prints(unknown);
    assert_eq!(lines(&project, "ran"), 1);
    project.write("publish.toml", HEAD);
    project.run(&["check"]).code(0).says("the manifest has no gates");
}
