//! Programs of the user's own (`command`), files of the project (`files`), checkpoints that must not be published, the
//! lock, signals, tokens: all through the real binary.
//!
//! Programs are shell lines. `$HOME` is the project's folder (the harness sets it, hfbuild hands it through), so that
//! they can leave traces outside of their work directory: that is how runs are counted and programs are held up.

use crate::support::{Project, Run, root, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n";
const HUB: &str = "[hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n";
const REPO: &str = "me/it";

/// A project with these tables after [project].
fn project(tables: &str) -> Project {
    Project::with(&format!("{HEAD}{tables}"))
}

/// An artifact of kind `command` that runs a shell line; `more` are further keys.
fn shell(name: &str, line: &str, outputs: &str, more: &str) -> String {
    format!(
        "[artifact.{name}]\nkind = \"command\"\nrun = [\"sh\", \"-c\", '''{line}''']\noutputs = {outputs}\n{more}\n"
    )
}

/// The upload of these files, with [hub].
fn upload(files: &str, after: &str) -> String {
    format!("{HUB}[artifact.publish]\nkind = \"upload\"\nafter = {after}\nfiles = {files}\n")
}

/// How often a program left a line in a file of the project.
fn lines(project: &Project, file: &str) -> usize {
    std::fs::read_to_string(project.path(file)).map_or(0, |text| text.lines().count())
}

/// Every file below a folder that holds these bytes.
fn holding(project: &Project, folder: &str, text: &str) -> Vec<String> {
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    project.tree(folder).into_iter().filter(|(_, bytes)| has(bytes)).map(|(name, _)| name).collect()
}

/// Polls until something holds; a minute at most.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "after a minute still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run of hfbuild in the background, its stderr in a file of the project; killed when dropped.
struct Background {
    child: Child,
    log: std::path::PathBuf,
}

impl Background {
    fn start(project: &Project, log: &str, args: &[&str]) -> Background {
        let log = project.path(log);
        let file = std::fs::File::create(&log).expect("a log");
        let child = project.command(args).stdout(Stdio::null()).stderr(file).spawn().expect("hfbuild starts");
        Background { child, log }
    }
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("its log")
    }
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
    }
    fn end(mut self) -> Run {
        let mut code = None;
        until("hfbuild has ended", || {
            code = self.child.try_wait().expect("its state");
            code.is_some()
        });
        Run { code: code.and_then(|c| c.code()).unwrap_or(-1), stdout: String::new(), stderr: self.said() }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the process of which a program left the number has ended (a zombie has).
fn gone(project: &Project, file: &str) -> bool {
    let pid = project.read(file).trim().to_string();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(pid.parse::<u32>().is_ok(), "{pid}");
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}

// --- facts, inputs, outputs ------------------------------------------------------------------------------------------

/// An evaluation over data.txt whose figures go to a gate, a card and a template, and whose table goes to a second program.
fn evaluation() -> Project {
    let tables = format!(
        "{}{}",
        r#"
[artifact.evaluation]
kind = "command"
run = ["sh", "{in.script}", "{in.data}", "{out}"]
inputs = { script = "evaluate.sh", data = "data.txt" }
outputs = ["evaluation.json", "table.csv"]
facts_file = "evaluation.json"
[artifact.rows]
kind = "command"
run = ["sh", "-c", "wc -l < {in.results}/table.csv > rows.txt"]
inputs = { results = "evaluation" }
outputs = ["rows.txt"]
[artifact.gates]
kind = "check"
require = ["evaluation.accuracy >= 0.9", "evaluation.confusion.missed == 2", "evaluation.name == 'tiny'"]
[artifact.card]
kind = "card"
template = "card.md.hbs"
facts = ["evaluation"]
[artifact.page]
kind = "template"
template = "page.txt.hbs"
facts = ["evaluation"]
"#,
        upload(
            r#"{ "README.md" = "card", "page.txt" = "page", "results/" = "evaluation", "rows.txt" = "rows" }"#,
            r#"["gates"]"#
        )
    );
    let project = project(&tables);
    let script = "read accuracy < \"$1\"\nprintf 'a,b\\n1,2\\n' > table.csv\n\
        printf '{\"accuracy\": %s, \"name\": \"tiny\", \"confusion\": {\"missed\": 2}}' \"$accuracy\" > \"$2\"\n";
    project.write("evaluate.sh", script);
    project.write("data.txt", "0.9375\n");
    project.write(
        "card.md.hbs",
        "---\nlicense: {{project.license}}\n---\n\n# Card\n\nAccuracy {{evaluation.accuracy}}.\n",
    );
    project.write("page.txt.hbs", "{{evaluation.name}} missed {{evaluation.confusion.missed}}\n");
    project
}

#[test]
fn the_figures_and_files_of_a_command_reach_gates_cards_templates_and_other_commands() {
    let project = evaluation();
    project.run(&[]).code(0);
    assert_eq!(project.commits(REPO), 1);
    let published = project.tree("dist");
    let text = |name: &str| String::from_utf8_lossy(&published[name]).into_owned();
    assert!(text("README.md").contains("Accuracy 0.9375."), "{}", text("README.md"));
    assert_eq!(text("page.txt"), "tiny missed 2\n");
    assert_eq!(text("rows.txt").trim(), "2");
    assert_eq!(text("results/table.csv"), "a,b\n1,2\n");
    assert!(text("results/evaluation.json").contains("0.9375"));
    project.run(&["plan", "--check"]).code(0);
}

#[test]
fn a_gate_over_the_figures_of_a_command_refuses_with_the_value_and_nothing_is_published() {
    let project = evaluation();
    project.write("data.txt", "0.5\n");
    project.run(&[]).code(1).says("Refused").says("`evaluation.accuracy` is 0.5");
    assert_eq!(project.commits(REPO), 0);
    // a figure that is not there is no pass either
    project.write("data.txt", "0.95\n");
    project.write("evaluate.sh", "printf '{\"other\": 1}' > \"$2\"\necho > table.csv\n");
    project.run(&["build", "publish"]).code(1).says("`evaluation.accuracy` was not measured");
    assert_eq!(project.commits(REPO), 0);
}

#[test]
fn a_facts_file_that_is_no_object_of_finite_figures_is_an_error() {
    let project =
        project(&shell("a", "cp $HOME/given.json facts.json", r#"["facts.json"]"#, "facts_file = \"facts.json\""));
    for (json, why) in [("[1]", "is no JSON object"), ("{\"a\": NaN}", "is no JSON"), ("{\"a\": 1e999}", "is no JSON")]
    {
        project.write("given.json", json);
        project.run(&[]).code(1).says(why);
        assert!(!project.path("facts.json").exists());
    }
    project.write("given.json", "{\"a\": 1}");
    project.run(&[]).code(0);
    assert_eq!(project.read("facts.json"), "{\"a\": 1}");
}

/// A row of `rows`.
pub fn a_file_that_is_not_declared_is_not_found_and_the_failure_hints_at_inputs() {
    let line = "cat given.txt > out.txt && cat undeclared.txt >> out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "inputs = { given = \"given.txt\" }"));
    project.write("given.txt", "given\n");
    project.write("undeclared.txt", "undeclared\n");
    let run = project.run(&[]).code(1).says("failed with exit code 1").says("undeclared.txt");
    assert!(run.stderr.contains("hint: ") && run.stderr.contains("`inputs`"), "{}", run.stderr);
    assert!(!project.path("out.txt").exists());
    let manifest = project.read("publish.toml").replace("{ given", "{ more = \"undeclared.txt\", given");
    project.write("publish.toml", &manifest);
    project.run(&[]).code(0);
    assert_eq!(project.read("out.txt"), "given\nundeclared\n");
}

// --- failures --------------------------------------------------------------------------------------------------------

#[test]
fn a_failing_command_shows_the_end_of_its_log_and_is_never_cached() {
    let line = "echo ran >> $HOME/ran; seq 100; echo the last word >&2; test -e $HOME/good && echo good > out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, ""));
    for times in 1..=2 {
        let run = project.run(&[]).code(1).says("`a`: `sh` failed with exit code 1").says("the last word").says("100");
        assert!(!run.stderr.contains("caused by: 42"), "the whole log is shown: {}", run.stderr);
        assert!(run.summary().starts_with("hfbuild: ran 0 stages, 1 failed"), "{}", run.summary());
        assert_eq!(lines(&project, "ran"), times);
        project.run(&["plan", "--check"]).code(3);
    }
    project.write("good", "");
    project.run(&[]).code(0);
    project.run(&[]).code(0);
    assert_eq!((lines(&project, "ran"), project.read("out.txt").as_str()), (3, "good\n"));
}

#[test]
fn with_keep_going_what_does_not_depend_on_a_failure_runs() {
    let tables = [
        shell("bad", "exit 7", r#"["bad.txt"]"#, ""),
        shell("below", "cat {in.bad} > below.txt", r#"["below.txt"]"#, "inputs = { bad = \"bad\" }"),
        shell("one", "echo 1 > one.txt", r#"["one.txt"]"#, ""),
        shell("two", "cat {in.one} > two.txt", r#"["two.txt"]"#, "inputs = { one = \"one\" }"),
        upload(r#"{ "one.txt" = "one", "below.txt" = "below" }"#, "[]"),
    ];
    let tables = tables.concat();
    let without = project(&tables);
    let run = without.run(&["-j", "1"]).code(1);
    assert!(run.summary().contains("1 failed") && !without.path("two.txt").exists(), "{}", run.stderr);
    let project = project(&tables);
    let run =
        project.run(&["--keep-going"]).code(1).says("failed with exit code 7").says("Blocked below, publish by bad");
    assert!(run.summary().contains("ran 2 stages, 1 failed"), "{}", run.summary());
    assert_eq!(project.read("two.txt"), "1\n");
    assert!(!project.path("below.txt").exists());
    assert_eq!(project.commits(REPO), 0);
}

#[test]
fn a_command_that_does_not_make_what_it_declares_fails_and_nothing_partial_is_kept() {
    let both = r#"["a.txt", "b.txt"]"#;
    let line = "echo half-of-it > a.txt; test ! -e $HOME/whole || echo rest > b.txt";
    let project = project(&shell("a", line, both, ""));
    project.run(&[]).code(1).says("did not make `b.txt`");
    assert!(!project.path("a.txt").exists() && !project.path("b.txt").exists());
    assert_eq!(holding(&project, "cache", "half-of-it\n"), Vec::<String>::new());
    project.write("whole", "");
    project.run(&[]).code(0);
    assert_eq!((project.read("a.txt").as_str(), project.read("b.txt").as_str()), ("half-of-it\n", "rest\n"));

    // one that fails after it has written everything leaves what was there before
    let line = "echo newer > a.txt; echo newer > b.txt; exit 1";
    project.write("publish.toml", &format!("{HEAD}{}", shell("a", line, both, "")));
    project.run(&[]).code(1);
    assert_eq!((project.read("a.txt").as_str(), project.read("b.txt").as_str()), ("half-of-it\n", "rest\n"));
    assert_eq!(holding(&project, "cache/blobs", "newer"), Vec::<String>::new());

    // a link out of the work directory, or an empty directory, is no output
    for (line, why) in [("ln -s /etc/hostname o", "is a symbolic link"), ("mkdir o", "is a directory without a file")] {
        project.write("publish.toml", &format!("{HEAD}{}", shell("a", line, r#"["o"]"#, "")));
        project.run(&[]).code(1).says(why);
        assert!(!project.path("o").exists());
    }
}

// --- environment -----------------------------------------------------------------------------------------------------

#[test]
fn a_declared_variable_is_part_of_the_action_and_another_one_is_not_even_seen() {
    let line = "echo ran >> $HOME/ran; echo \"$DECLARED/$OTHER\" > out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "env = [\"DECLARED\"]"));
    let with =
        |declared: &str, other: &str| run(project.command(&[]).env("DECLARED", declared).env("OTHER", other)).code(0);
    with("1", "x");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("1/\n", 1));
    with("1", "y").never_says("Running");
    assert_eq!(lines(&project, "ran"), 1);
    with("2", "y").says("environment variable `DECLARED` changed from \"1\" to \"2\"");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("2/\n", 2));
    with("1", "y").says("Restored a");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("1/\n", 2));
}

#[test]
fn a_value_that_is_handed_through_is_never_written_down() {
    let secret = ["very", "secret", "value", "7391"].join("-");
    let line = "test -n \"$KEY\" || exit 9; echo \"key is $KEY\"; echo \"$KEY\" >&2; printf 'no end of line %s' \"$KEY\"; \
        echo ran >> $HOME/ran; test -e $HOME/good && echo done > out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "pass_env = [\"KEY\"]"));
    let with = |key: &str, args: &[&str]| run(project.command(args).env("KEY", key));
    with(&secret, &["--verbose"]).code(1).never_says(&secret);
    project.write("good", "");
    with(&secret, &["--verbose"]).code(0).never_says(&secret);
    assert_eq!(lines(&project, "ran"), 2, "the program was handed the value");
    // another value is no reason to run again
    with("another-value-7391", &[]).code(0).never_says("Running");
    for args in [&["explain", "a"][..], &["status"], &["plan", "--json"]] {
        with(&secret, args).code(0).never_says(&secret);
    }
    assert_eq!(holding(&project, ".", &secret), Vec::<String>::new());
    assert!(project.tree("cache").len() > 5, "there is something to search");
    // and a variable that is a secret by its name cannot be declared at all
    project.write("publish.toml", &format!("{HEAD}{}", shell("a", line, r#"["out.txt"]"#, "env = [\"HF_TOKEN\"]")));
    project.run(&[]).code(2).says("`HF_TOKEN` is a secret by its name").says("pass_env");
}

// --- time ------------------------------------------------------------------------------------------------------------

#[test]
fn a_timeout_stops_the_program_and_its_children() {
    let line = "(trap '' TERM; echo $(exec sh -c 'echo $PPID') > $HOME/stubborn; while :; do sleep 600; done) & \
        sleep 601 & echo $! > $HOME/sleeper; echo $$ > $HOME/program; touch out.txt; wait";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "timeout = \"1s\""));
    let begun = Instant::now();
    project.run(&[]).code(1).says("took longer than its `timeout` of 1s");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(!project.path("out.txt").exists());
    for file in ["program", "sleeper", "stubborn"] {
        until(&format!("`{file}` is gone"), || gone(&project, file));
    }
}

#[test]
fn a_failure_is_tried_again_as_often_as_declared() {
    let line = "echo ran >> $HOME/ran; test $(wc -l < $HOME/ran) -ge 2 && echo done > out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "retries = 1"));
    project.run(&[]).code(0);
    assert_eq!((lines(&project, "ran"), project.read("out.txt").as_str()), (2, "done\n"));
    let line = "echo ran >> $HOME/never; exit 5";
    project.write("publish.toml", &format!("{HEAD}{}", shell("a", line, r#"["out.txt"]"#, "retries = 1")));
    project.run(&[]).code(1).says("exit code 5");
    assert_eq!(lines(&project, "never"), 2);
}

#[test]
fn a_source_that_changes_while_a_stage_runs_poisons_nothing() {
    let line = "cat data.txt > out.txt; echo ran >> $HOME/ran; test -e $HOME/calm || echo more >> $HOME/data.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, "inputs = { data = \"data.txt\" }"));
    project.write("data.txt", "first\n");
    project.run(&[]).code(1).says("`data.txt` changed while it was being read");
    assert!(!project.path("out.txt").exists());
    assert_eq!(holding(&project, "cache/blobs", "first\n"), Vec::<String>::new());
    project.write("calm", "");
    project.run(&[]).code(0);
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("first\nmore\n", 2));
    // nor is the state before the change taken for built
    project.write("data.txt", "first\n");
    project.run(&[]).code(0).says("Running a: input `data.txt` changed");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("first\n", 3));
}

// --- files that must not be published --------------------------------------------------------------------------------

/// A project that publishes one file as it is.
fn one_file(path: &str) -> Project {
    let files = format!("[artifact.file]\nkind = \"files\"\npaths = [\"{path}\"]\n");
    project(&format!("{files}{}", upload(&format!("{{ \"{path}\" = \"file\" }}"), "[]")))
}

fn refused(project: &Project, why: &[&str]) {
    let run = project.run(&[]).code(1);
    for text in why {
        assert!(run.stderr.contains(text), "`{text}` is not in {}", run.stderr);
    }
    run.never_says("Running").never_says("Upload"); // before anything runs
    assert_eq!(project.commits(REPO), 0);
    assert!(!project.path("dist").exists());
}

/// A row of `rows`.
pub fn a_git_lfs_pointer_in_place_of_a_file_is_refused() {
    let project = one_file("model.bin");
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "ab".repeat(32));
    project.write("model.bin", &pointer);
    refused(&project, &["is a Git LFS pointer", "model.bin", "git lfs pull"]);
    project.write("model.bin", "the content itself\n");
    project.run(&[]).code(0);
    assert_eq!(project.commits(REPO), 1);
}

/// A row of `rows`.
pub fn a_secret_in_a_file_is_refused_by_file_and_line_and_never_shown() {
    let project = one_file("notes.md");
    let token = format!("hf_{}", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG");
    project.write("notes.md", &format!("# Notes\n\nexport HF_TOKEN={token}\n"));
    refused(&project, &["`notes.md`", "looks like a secret", "line 3"]);
    project.run(&["--verbose"]).code(1).never_says(&token);
    assert_eq!(holding(&project, "cache", &token), Vec::<String>::new());
}

#[test]
fn a_hostile_pickle_is_refused_by_the_name_of_what_it_calls_and_not_executed() {
    let project = one_file("model.pt");
    let marker = project.path("owned");
    let mut make = Command::new("python3");
    make.arg(root().join("tests/python/hostile_checkpoint.py")).arg(project.path("model.pt")).arg(&marker);
    run(&mut make).code(0);
    refused(&project, &["`os.system`", "model.pt"]);
    // the same as a checkpoint to convert, and looked at
    let tables = "[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\n";
    project.write("publish.toml", &format!("{HEAD}{tables}"));
    project.run(&[]).code(1).says("`os.system`");
    project.run(&["inspect", "model.pt"]).code(1).says("`os.system`");
    assert!(!marker.exists(), "it was executed");
}

// --- models that must not be published -------------------------------------------------------------------------------

/// A row of `rows`.
pub fn a_placeholder_is_not_published_and_no_picture_is_drawn_for_it() {
    for (weights, why) in [("raw", "`checkpoint.step` is 0"), ("ema", "no moving average")] {
        let project = Project::root_model(|m| m.replace("weights = \"ema\"", &format!("weights = \"{weights}\"")));
        project.copy(&root().join("tests/fixtures/tiny_placeholder.pt"), "checkpoints/tinydit_final.pt");
        let run = project.run(&[]).code(1).says(why).never_says("Running samples").never_says("ublished");
        assert!(run.summary().contains("not run"), "{}", run.summary());
        assert_eq!(project.commits("d-oit/tinydit-cats"), 0);
        assert!(!project.path("dist/samples").exists());
        let ran = holding(&project, "cache/runs", "\"event\":\"running\"").len();
        assert_eq!(ran, 1, "the run's events can be read");
        assert_eq!(holding(&project, "cache/runs", "samples[").len(), 1, "they are only named as not run");
        assert!(!project.tree("cache/runs").keys().any(|k| k.contains("samples")), "no stage of pictures has a log");
    }
}

/// A row of `rows`.
pub fn a_model_that_draws_noise_is_refused_by_the_picture_gate_and_not_published() {
    let project = Project::root_model(|m| m.replace("steps = 50", "steps = 4").replace("count = 8", "count = 2"));
    let mut make = Command::new("python3");
    make.arg(root().join("scripts/make_checkpoint.py"))
        .arg("noise-model")
        .arg(project.path("checkpoints/tinydit_final.pt"));
    run(&mut make).code(0);
    let run =
        project.run(&["--keep-going"]).code(1).says("samples.neighbour_correlation >= 0.3").never_says("ublished");
    let refused: Vec<&str> = run.stderr.lines().filter(|l| l.trim_start().starts_with("Refused")).collect();
    assert!(refused.len() == 1 && refused[0].contains("`samples.neighbour_correlation` is "), "{refused:?}");
    assert_eq!(project.commits("d-oit/tinydit-cats"), 0);
}

// --- the lock, signals -----------------------------------------------------------------------------------------------

fn fifo(path: &Path) {
    assert_eq!(run(Command::new("mkfifo").arg(path)).code, 0);
}

#[test]
fn a_second_build_waits_or_exits_6_and_plan_and_status_work_meanwhile() {
    let line = "echo ran >> $HOME/ran; read word < $HOME/go; echo $word > out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, ""));
    fifo(&project.path("go"));
    let first = Background::start(&project, "first.log", &[]);
    until("the program runs", || lines(&project, "ran") == 1);

    let pid = first.child.id();
    project.run(&["--no-wait"]).code(6).says(&format!("process {pid} is building this project"));
    project.run(&["plan"]).code(0).prints("Run a: it never ran");
    project.run(&["status"]).code(0);
    project.run(&["explain", "a"]).code(0);
    let second = Background::start(&project, "second.log", &[]);
    until("the second waits", || second.said().contains(&format!("waiting for process {pid}")));

    // opened for reading too, so that this never blocks
    let mut go = std::fs::OpenOptions::new().read(true).write(true).open(project.path("go")).expect("the fifo");
    go.write_all(b"went\n").expect("a word");
    first.end().code(0);
    let second = second.end().code(0);
    assert!(second.summary().contains("ran 0 stages, 1 up to date"), "{}", second.stderr);
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("went\n", 1));
}

/// A signal during a command: the exit code, and nobody left behind; the next run goes on where this one stopped.
fn stopped_by(signal: Signal, code: i32) {
    let tables = [
        shell("one", "echo one >> $HOME/ran-one; echo 1 > one.txt", r#"["one.txt"]"#, ""),
        shell(
            "two",
            "test -e $HOME/quick || {{ sleep 602 & echo $! > $HOME/sleeper; echo $$ > $HOME/program; wait; }}; cat {in.one} > two.txt",
            r#"["two.txt"]"#,
            "inputs = { one = \"one\" }",
        ),
    ];
    let project = project(&tables.concat());
    let build = Background::start(&project, "build.log", &[]);
    until("the program runs", || lines(&project, "program") == 1);
    build.signal(signal);
    build.end().code(code).says("interrupted").never_says("Failed two");
    for file in ["program", "sleeper"] {
        until(&format!("`{file}` is gone"), || gone(&project, file));
    }
    assert!(project.path("one.txt").exists() && !project.path("two.txt").exists());
    project.run(&["plan"]).code(0).prints("Run two: it never ran");

    project.write("quick", "");
    let next = project.run(&[]).code(0);
    assert!(next.summary().starts_with("hfbuild: ran 1 stage, 1 up to date"), "{}", next.summary());
    assert_eq!((project.read("two.txt").as_str(), lines(&project, "ran-one")), ("1\n", 1));
}

#[test]
fn sigint_ends_a_build_with_130_and_leaves_no_child_and_the_next_run_goes_on() {
    stopped_by(Signal::SIGINT, 130);
}

#[test]
fn sigterm_ends_a_build_with_143_and_leaves_no_child_and_the_next_run_goes_on() {
    stopped_by(Signal::SIGTERM, 143);
}

// --- tokens ----------------------------------------------------------------------------------------------------------

/// A name that no resolver knows, by RFC 6761.
const REAL: &str = "https://hub.invalid";
/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";

fn for_a_real_hub() -> Project {
    let line = "echo ran >> $HOME/ran; echo 1 > out.txt";
    project(&format!("{}{}", shell("a", line, r#"["out.txt"]"#, ""), upload(r#"{ "out.txt" = "a" }"#, "[]")))
}

/// A row of `rows`.
pub fn a_missing_token_is_said_before_any_stage_runs() {
    let project = for_a_real_hub();
    project.run(&["--endpoint", REAL]).code(4).says(&format!("there is no token for `{REAL}`")).says("HF_TOKEN");
    assert_eq!(lines(&project, "ran"), 0);
    assert!(!project.path("out.txt").exists());
    // what publishes nothing needs no token
    project.run(&["build", "a", "--endpoint", REAL]).code(0);
    assert_eq!(lines(&project, "ran"), 1);
}

#[test]
fn a_hub_that_cannot_be_reached_ends_with_4_before_any_stage_runs_and_the_token_is_nowhere() {
    let project = for_a_real_hub();
    let token = format!("hf_{}", "Zy7q".repeat(9));
    let with = |args: &[&str]| run(project.command(args).env("HF_TOKEN", &token));
    with(&["--verbose", "--endpoint", NOBODY]).code(4).says("cannot reach the hub").says(NOBODY).never_says(&token);
    assert_eq!(lines(&project, "ran"), 0);
    assert!(project.path("cache/runs").exists(), "there is something to search");
    assert_eq!(holding(&project, ".", &token), Vec::<String>::new());
}

#[test]
fn a_tool_that_is_not_there_stops_a_build_before_it_begins_and_status_and_explain_all_the_same() {
    let project = Project::with(&format!(
        "{HEAD}[artifact.first]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"touch $HOME/ran; echo > {{out}}\"]\n\
         outputs = [\"a\"]\n[artifact.second]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [\"b\"]\ntools = [\"no-such-tool\"]\n"
    ));
    let message = "artifact `second` needs the tool `no-such-tool`, which is not there";
    project.run(&["build"]).code(2).says(message).says("it is looked for on the PATH");
    project.run(&["plan"]).code(2).says(message);
    assert!(!project.path("ran").exists(), "nothing ran");
    project.run(&["status"]).code(0);
    project.run(&["explain", "second"]).code(0);
    project.run(&["build", "first"]).code(0);
}
