//! The checklist that separates a good build tool from a toy, a test a point, through the real binary with small programs.
//!
//! `$HOME` is the project's folder: programs leave traces there, wait there for a word, and so are counted and held up.

use crate::check::{Background, HEAD, gone, lines, project, shell, until};
use crate::support::{Project, Run, run};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// One program that copies data.txt to out.txt and counts itself.
fn copy(more: &str) -> Project {
    let line = format!("echo ran >> $HOME/ran; cat {{in.data}} > out.txt{more}");
    let project = project(&shell("a", &line, r#"["out.txt"]"#, "inputs = { data = \"data.txt\" }"));
    project.write("data.txt", "first\n");
    project
}

/// The blob of this content.
fn blob(project: &Project, content: &str) -> PathBuf {
    let blobs = project.tree("cache/blobs");
    let found: Vec<_> = blobs.into_iter().filter(|(_, bytes)| bytes == content.as_bytes()).collect();
    assert_eq!(found.len(), 1, "blobs with {content:?}");
    project.path("cache/blobs").join(&found[0].0)
}

fn fifo(project: &Project) {
    assert_eq!(run(Command::new("mkfifo").arg(project.path("go"))).code, 0);
}

/// Lets a program that reads a word from the fifo go on. Opened for reading too, so that this never blocks.
fn go(project: &Project) -> File {
    let mut go = OpenOptions::new().read(true).write(true).open(project.path("go")).expect("the fifo");
    go.write_all(b"went\n").expect("a word");
    go
}

/// What a plan says of each node.
fn planned(project: &Project, code: i32) -> Vec<(String, String)> {
    let run = project.run(&["plan", "--json", "--check"]).code(code);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let text = |node: &serde_json::Value, key: &str| node[key].as_str().expect("a text").to_string();
    let nodes = json["nodes"].as_array().expect("nodes");
    nodes.iter().map(|n| (text(n, "name"), text(n, "verdict"))).collect()
}

/// The nodes that a build says it runs.
fn ran(run: &Run) -> BTreeSet<String> {
    let lines = run.stderr.lines().filter_map(|l| l.trim_start().strip_prefix("Running "));
    lines.filter_map(|l| Some(l.split(':').next()?.to_string())).collect()
}

#[test]
fn point_01_the_key_holds_command_env_tools_inputs_and_outputs_and_an_identical_output_stops_the_wave() {
    let manifest = |line: &str, outputs: &str| {
        let more = "inputs = { data = \"data.txt\" }\nenv = [\"MODE\"]\ntools = [\"teller\"]";
        let below = shell("b", "echo ran >> $HOME/ran-b; cat {in.a} > b.txt", r#"["b.txt"]"#, "inputs = { a = \"a\" }");
        format!("{HEAD}{}{below}", shell("a", line, outputs, more))
    };
    let line = "echo ran >> $HOME/ran-a; teller > more.txt; wc -l < {in.data} > out.txt";
    let project = Project::with(&manifest(line, r#"["out.txt"]"#));
    project.write("data.txt", "one\n");
    let tool = |says: &str| {
        project.write("bin/teller", &format!("#!/bin/sh\necho {says}\n"));
        std::fs::set_permissions(project.path("bin/teller"), std::fs::Permissions::from_mode(0o755))
            .expect("a program");
    };
    tool("one");
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").expect("a PATH"));
    let mut times = 0;
    let mut build = |mode: &str, why: &str| {
        let said = run(project.command(&[]).env("PATH", &path).env("MODE", mode)).code(0).says(why);
        times += 1;
        assert_eq!(lines(&project, "ran-a"), times, "{why}");
        run(project.command(&[]).env("PATH", &path).env("MODE", mode)).code(0).never_says("Running");
        said
    };
    build("1", "Running a: it never ran");
    // each of these reruns the stage; what it makes is the same, so nothing below it runs
    build("2", "Running a: environment variable `MODE` changed from \"1\" to \"2\"");
    project.write("data.txt", "two\n");
    build("2", "Running a: input `data.txt` changed");
    tool("two");
    build("2", "Running a: tool `teller` changed");
    let line = format!("{line}; true");
    project.write("publish.toml", &manifest(&line, r#"["out.txt"]"#));
    build("2", "Running a: parameter `run` changed");
    assert_eq!(lines(&project, "ran-b"), 1, "an output that is the same stops the wave");
    project.write("publish.toml", &manifest(&line, r#"["out.txt", "more.txt"]"#).replace("cat {in.a}", "ls {in.a}"));
    build("2", "Running a: the declared outputs changed");
    assert_eq!(lines(&project, "ran-b"), 2);
}

#[test]
fn point_01_the_key_holds_the_facts_that_are_read_and_no_others() {
    let line = "echo ran >> $HOME/ran; cp {in.measured} figures.json";
    let more = "inputs = { measured = \"measured.json\" }\nfacts_file = \"figures.json\"";
    let page = "[artifact.page]\nkind = \"template\"\ntemplate = \"page.txt.hbs\"\nfacts = [\"a\"]\n";
    let project = project(&format!("{}{page}", shell("a", line, r#"["figures.json"]"#, more)));
    project.write("page.txt.hbs", "{{a.read}}\n");
    let build = |read: usize, other: usize| {
        project.write("measured.json", &format!("{{\"read\": {read}, \"other\": {other}}}"));
        project.run(&[]).code(0)
    };
    build(1, 1).says("Running page: it never ran");
    build(1, 2).says("Running a").never_says("Running page");
    build(2, 2).says("Running a").says("Running page: fact `a.read` changed from 1 to 2");
    project.run(&["plan", "--check"]).code(0);
    assert_eq!(lines(&project, "ran"), 3);
}

#[test]
fn point_02_what_a_failed_or_killed_stage_left_is_never_taken_for_good_and_the_record_is_written_last() {
    let line = "echo half > out.txt; echo begun >> $HOME/begun; test -e $HOME/fail && exit 1; \
        test -e $HOME/good || read word < $HOME/go; echo whole >> out.txt";
    let project = project(&shell("a", line, r#"["out.txt"]"#, ""));
    fifo(&project);
    let nothing = |what: &str| {
        assert!(!project.path("out.txt").exists(), "{what}");
        assert!(project.tree("cache/blobs").is_empty(), "{what}");
        project.run(&["plan"]).code(0).prints("Run a: it never ran");
    };
    let killed = Background::start(&project, "killed.log", &[]);
    until("half of it is written", || lines(&project, "begun") == 1);
    killed.signal(Signal::SIGKILL);
    killed.end();
    nothing("after a kill");
    project.write("fail", "");
    project.run(&[]).code(1);
    nothing("after a failure");
    // a folder of the user's where the output goes is kept beside
    std::fs::remove_file(project.path("fail")).expect("it was there");
    project.write("good", "");
    project.write("out.txt/in-the-way", "");
    project.run(&[]).code(0).says("`out.txt` is not what hfbuild put there; it is kept as `cache/displaced/");
    let kept = project.tree("cache/displaced");
    assert!(kept.iter().any(|(path, _)| path.ends_with("out.txt/in-the-way")), "{kept:?}");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "begun")), ("half\nwhole\n", 3));
}

#[test]
fn point_03_a_torn_tail_of_the_journal_is_ignored_and_a_kill_needs_no_unlock() {
    let one = shell("a", "echo ran >> $HOME/ran; echo 1 > a.txt", r#"["a.txt"]"#, "");
    let line = "echo ran >> $HOME/ran-b; test -e $HOME/free || read word < $HOME/go; cat {in.a} > b.txt";
    let project = project(&format!("{one}{}", shell("b", line, r#"["b.txt"]"#, "inputs = { a = \"a\" }")));
    fifo(&project);
    let killed = Background::start(&project, "killed.log", &[]);
    until("the second program runs", || lines(&project, "ran-b") == 1);
    killed.signal(Signal::SIGKILL);
    killed.end();
    project.write("free", "");
    project.run(&["--no-wait"]).code(0);
    assert_eq!((lines(&project, "ran"), lines(&project, "ran-b")), (1, 2), "what was recorded before the kill stands");

    let log = project.path("cache/actions/log");
    let whole = std::fs::read(&log).expect("the journal");
    let torn = [&whole[..], &whole[..30]].concat(); // the next record was begun
    std::fs::write(&log, torn).expect("the journal");
    project.run(&[]).code(0).never_says("Running");
    std::fs::write(&log, &whole[..whole.len() - 7]).expect("the journal"); // the last record was not finished
    let again = project.run(&[]).code(0);
    assert!(ran(&again).len() <= 1, "{again:?}");
    assert_eq!(lines(&project, "ran"), 1);
    project.run(&["plan", "--check"]).code(0);
}

#[test]
fn point_04_a_second_build_waits_and_says_for_whom_or_with_no_wait_exits_6() {
    let project =
        project(&shell("a", "echo ran >> $HOME/ran; read word < $HOME/go; echo 1 > a.txt", r#"["a.txt"]"#, ""));
    fifo(&project);
    let first = Background::start(&project, "first.log", &[]);
    until("the program runs", || lines(&project, "ran") == 1);
    let holder = format!("process {}", first.child.id());
    project.run(&["--no-wait"]).code(6).says(&holder);
    let second = Background::start(&project, "second.log", &[]);
    until("the second waits", || second.said().contains(&format!("waiting for {holder}")));
    let _go = go(&project);
    first.end().code(0);
    second.end().code(0);
    assert_eq!(lines(&project, "ran"), 1);
}

#[test]
fn point_05_an_input_is_seen_to_change_with_an_older_mtime_with_the_very_same_one_and_within_a_tick() {
    let project = copy("");
    let data = project.path("data.txt");
    for _ in 0..3 {
        project.run(&[]).code(0); // the second and third look at a file whose times lie behind them
    }
    let mtime = std::fs::metadata(&data).and_then(|m| m.modified()).expect("its time");
    let dated = |path: &str, text: &str, time| {
        project.write(path, text);
        let file = OpenOptions::new().write(true).open(project.path(path)).expect("the file");
        file.set_modified(time).expect("another time");
    };
    dated("other.txt", "older\n", mtime - Duration::from_secs(3600));
    std::fs::rename(project.path("other.txt"), &data).expect("over it"); // as `mv` or a checkout does
    project.run(&[]).code(0).says("Running a: input `data.txt` changed");
    assert_eq!(project.read("out.txt"), "older\n");
    project.run(&[]).code(0).never_says("Running");
    dated("data.txt", "equal\n", mtime - Duration::from_secs(3600)); // the same file, size and time
    project.run(&[]).code(0).says("Running a: input `data.txt` changed");
    assert_eq!(project.read("out.txt"), "equal\n");
    for n in 0..20 {
        let text = format!("no {n:02}\n");
        project.write("data.txt", &text);
        project.run(&[]).code(0);
        assert_eq!(project.read("out.txt"), text, "an edit right after a build");
    }
}

#[test]
fn point_06_the_result_of_a_stage_whose_input_changed_meanwhile_is_not_kept() {
    let project = copy("; test -e $HOME/calm || echo more >> {params.source}");
    let params = format!("[params]\nsource = \"{}\"\n", project.path("data.txt").display());
    project.write("publish.toml", &format!("{}{params}", project.read("publish.toml")));
    project.run(&[]).code(1).says("`data.txt` changed while it was being read");
    assert!(!project.path("out.txt").exists() && project.tree("cache/blobs").is_empty());
    project.write("calm", "");
    project.run(&[]).code(0).says("Running a: it never ran");
    assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("first\nmore\n", 2));
    project.write("data.txt", "first\n");
    project.run(&[]).code(0).says("Running a"); // nor was it kept under what it was before
    assert_eq!(project.read("out.txt"), "first\n");
}

#[test]
fn point_07_a_damaged_or_lost_blob_is_a_miss_with_a_warning_and_no_blob_is_a_hard_link_of_an_output() {
    let project = copy("");
    project.run(&[]).code(0);
    let (kept, out) = (blob(&project, "first\n"), project.path("out.txt"));
    let inode = |path: &PathBuf| std::fs::metadata(path).map(|m| (m.ino(), m.nlink())).expect("a file");
    assert_eq!((inode(&kept).1, inode(&out).1), (1, 1));
    assert_ne!(inode(&kept).0, inode(&out).0);
    OpenOptions::new().append(true).open(&out).and_then(|mut f| f.write_all(b"by hand\n")).expect("an edit");
    assert_eq!(std::fs::read(&kept).expect("the blob"), b"first\n", "an edit of the output does not reach the blob");

    for (n, damage) in [Some("worst\n"), None].into_iter().enumerate() {
        std::fs::remove_file(&out).expect("the output");
        std::fs::remove_file(&kept).expect("the blob");
        if let Some(text) = damage {
            std::fs::write(&kept, text).expect("a damaged blob");
        }
        let how = if damage.is_some() { "is damaged in the cache" } else { "is gone in the cache" };
        project.run(&[]).code(0).says(how).says("`out.txt` of `a`").says("Running a");
        assert_eq!((project.read("out.txt").as_str(), lines(&project, "ran")), ("first\n", 2 + n));
        assert_eq!(std::fs::read(&kept).expect("the blob"), b"first\n");
    }
}

#[test]
fn point_08_a_failure_is_never_cached() {
    for (line, why) in [("echo half > out.txt; exit 4", "exit code 4"), ("true", "did not make `out.txt`")] {
        let project = project(&shell("a", &format!("echo ran >> $HOME/ran; {line}"), r#"["out.txt"]"#, ""));
        for times in 1..=3 {
            project.run(&[]).code(1).says(why);
            assert_eq!(lines(&project, "ran"), times);
            project.run(&["plan", "--check"]).code(3);
        }
        assert!(project.tree("cache/blobs").is_empty());
    }
}

#[test]
fn point_09_the_plan_is_data_that_a_build_follows_and_has_an_exit_code_for_work() {
    let tables = [
        shell("a", "cat {in.data} > a.txt", r#"["a.txt"]"#, "inputs = { data = \"data.txt\" }"),
        shell("b", "wc -l < {in.a} > b.txt", r#"["b.txt"]"#, "inputs = { a = \"a\" }"),
        shell("c", "cat {in.b} > c.txt", r#"["c.txt"]"#, "inputs = { b = \"b\" }"),
        shell("d", "echo 4 > d.txt", r#"["d.txt"]"#, ""),
    ];
    let project = project(&tables.concat());
    project.write("data.txt", "one\n");
    for (text, expected) in [("one\n", "a b c d"), ("two\n", "a b"), ("two\ntwo\n", "a b c")] {
        project.write("data.txt", text);
        let plan = planned(&project, 3);
        let build = project.run(&[]).code(0);
        let with = |words: &[&str]| -> BTreeSet<String> {
            plan.iter().filter(|(_, v)| words.contains(&v.as_str())).map(|(name, _)| name.clone()).collect()
        };
        let ran = ran(&build);
        assert!(with(&["run"]).is_subset(&ran), "what the plan calls certain: {plan:?} and {ran:?}");
        assert!(ran.is_subset(&with(&["run", "pending"])), "nothing else: {plan:?} and {ran:?}");
        assert_eq!(ran.into_iter().collect::<Vec<_>>().join(" "), expected);
        assert!(planned(&project, 0).iter().all(|(_, verdict)| verdict == "up_to_date"));
    }
}

#[test]
fn point_10_explain_names_what_changed_with_old_and_new() {
    let line = "test $MODE != nothing && cat {in.script} > /dev/null && sh {in.script} {params.n} {params.unchanged}";
    assert!(line.len() > 60, "longer than what a screen shows of a value");
    let more = "inputs = { script = \"make.sh\" }\nenv = [\"MODE\"]";
    let stage = shell("a", line, r#"["out.txt"]"#, more);
    let project = project(&format!("[params]\nn = 1\nunchanged = 5\n{stage}"));
    project.write("make.sh", "echo $1 > out.txt\n");
    let with = |mode: &str, args: &[&str]| run(project.command(args).env("MODE", mode)).code(0);
    with("quick", &[]);
    project.write("publish.toml", &project.read("publish.toml").replace("n = 1", "n = 2"));
    project.write("make.sh", "echo $1 $1 > out.txt\n");
    let reasons = [
        "because parameter `params.n` changed from 1 to 2\n",
        "because environment variable `MODE` changed from \"quick\" to \"whole\"\n",
        "because input `make.sh` changed\n",
    ];
    let said = reasons.iter().fold(with("whole", &["explain", "a"]), |said, reason| said.prints(reason));
    // and nothing else, but for the command line, which holds the parameter
    let why = said.stdout.lines().map(str::trim_start).filter(|line| line.starts_with("because "));
    let others = why.filter(|line| !line.starts_with("because parameter `run` changed"));
    assert_eq!(others.count(), reasons.len(), "{}", said.stdout);
    with("whole", &[]);
    // afterwards it still says why it ran last, also when nothing ran since
    for _ in 0..2 {
        let said = with("whole", &["explain", "a"]).prints("up to date");
        said.prints("`params.n` changed from 1 to 2\n").prints("`MODE` changed from \"quick\" to \"whole\"\n");
        with("whole", &[]).never_says("Running");
    }
}

#[test]
fn point_11_a_timeout_or_an_interrupt_ends_a_stage_with_all_that_it_started_and_its_log_stays() {
    let line = "echo said by a; test -e $HOME/quick || (sh -c 'sleep 604 & echo $! > $HOME/grandchild; wait' & \
        echo $$ > $HOME/program; wait); echo 1 > a.txt";
    let before = shell("first", "echo ran >> $HOME/ran; echo 1 > first.txt", r#"["first.txt"]"#, "");
    let tables = |timeout: &str| {
        format!("{before}{}", shell("a", line, r#"["a.txt"]"#, &format!("inputs = {{ f = \"first\" }}\n{timeout}")))
    };
    let project = project(&tables(""));
    let all_gone = || {
        for file in ["program", "grandchild"] {
            until(&format!("`{file}` is gone"), || gone(&project, file));
        }
        assert!(!project.path("a.txt").exists());
    };
    let build = Background::start(&project, "build.log", &[]);
    until("the program runs", || lines(&project, "program") == 1 && lines(&project, "grandchild") == 1);
    build.signal(Signal::SIGINT);
    build.end().code(130).says("interrupted");
    all_gone();
    let logs = project.tree("cache/runs");
    let log = logs.iter().find(|(name, _)| name.ends_with("/a.log")).expect("a log of the stage");
    assert_eq!(log.1, b"said by a\n");

    project.write("publish.toml", &format!("{HEAD}{}", tables("timeout = \"1s\"")));
    project.run(&[]).code(1).says("took longer than its `timeout` of 1s");
    all_gone();
    project.write("quick", "");
    project.run(&[]).code(0);
    assert_eq!((lines(&project, "ran"), project.read("a.txt").as_str()), (1, "1\n"), "it went on where it stopped");
}

#[test]
fn point_11_a_program_that_ignores_the_signal_to_end_is_killed() {
    let line = "trap '' TERM; sh -c 'trap \"\" TERM; while :; do read word < $HOME/never; done' & \
        echo $! > $HOME/grandchild; echo $$ > $HOME/program; while :; do read word < $HOME/never; done";
    let more = "timeout = \"1s\"";
    let project = project(&shell("a", line, r#"["a.txt"]"#, more));
    assert_eq!(run(Command::new("mkfifo").arg(project.path("never"))).code, 0);
    let build = Background::start(&project, "build.log", &[]);
    build.end().code(1).says("took longer than its `timeout` of 1s");
    for file in ["program", "grandchild"] {
        until(&format!("`{file}` is gone"), || gone(&project, file));
    }
    assert!(!project.path("a.txt").exists());
    project.run(&["plan"]).code(0).prints("Run a: it never ran");
}

#[test]
fn point_12_an_input_that_is_a_symbolic_link_out_of_the_project_is_refused() {
    let outside = Project::empty();
    outside.write("secret.txt", "of somebody else\n");
    let within = |input: &str| {
        let more = format!("inputs = {{ data = \"{input}\" }}");
        let project = project(&shell("a", "cat data/* {in.data} > a.txt 2> /dev/null; true", r#"["a.txt"]"#, &more));
        project.write("data/own.txt", "own\n");
        project
    };
    let link = |project: &Project, to: PathBuf, at: &str| {
        std::os::unix::fs::symlink(to, project.path(at)).expect("a link");
    };
    for input in ["data/link.txt", "data/", "data/*.txt"] {
        let project = within(input);
        link(&project, outside.path("secret.txt"), "data/link.txt");
        for args in [&["plan"][..], &[]] {
            project.run(args).code(2).says("`data/link.txt`").says("leaves the project");
        }
        assert!(!project.path("a.txt").exists(), "{input}");
    }
    // by a folder on the way, too
    let project = within("data/linked/secret.txt");
    link(&project, outside.path("."), "data/linked");
    project.run(&[]).code(2).says("leaves the project");
    // a link that stays inside is its content
    let project = within("data/link.txt");
    link(&project, project.path("data/own.txt"), "data/link.txt");
    project.run(&[]).code(0);
    assert!(project.read("a.txt").contains("own\n"));
    project.write("data/own.txt", "another\n");
    project.run(&[]).code(0).says("Running a: input `data/link.txt` changed");
}

#[test]
fn point_12_a_directory_is_the_sorted_list_of_its_files_and_a_link_within_it_is_the_file_that_it_leads_to() {
    let line = "echo ran >> $HOME/ran; mkdir d; for n in $(cat {in.names}); do echo same > d/$n; done";
    let tables = [
        shell("a", line, r#"["d"]"#, "inputs = { names = \"names.txt\" }"),
        shell("b", "echo ran >> $HOME/ran-b; ls {in.a}/d > b.txt", r#"["b.txt"]"#, "inputs = { a = \"a\" }"),
    ];
    let project = project(&tables.concat());
    let build = |names: &str, times: (usize, usize)| {
        project.write("names.txt", names);
        project.run(&[]).code(0);
        assert_eq!((lines(&project, "ran"), lines(&project, "ran-b")), times, "{names}");
    };
    build("one two\n", (1, 1));
    build("two one\n", (2, 1)); // made in another order, it is the same
    build("two three\n", (3, 2)); // the same content under another name is not
    assert_eq!(project.read("b.txt"), "three\ntwo\n");
    assert!(!project.path("d/one").exists(), "what is no longer made is taken away");
    let within = shell("a", "mkdir -p d/step-2; echo 2 > d/step-2/file; ln -s step-2/file d/latest", r#"["d"]"#, "");
    project.write("publish.toml", &format!("{HEAD}{within}"));
    project.run(&[]).code(0);
    assert!(project.path("d/latest").symlink_metadata().unwrap().is_file());
    assert_eq!((project.read("d/latest").as_str(), project.read("d/step-2/file").as_str()), ("2\n", "2\n"));
    let linked = shell("a", "mkdir d; echo 1 > d/file; ln -s /etc/hostname d/link", r#"["d"]"#, "");
    project.write("publish.toml", &format!("{HEAD}{linked}"));
    project.run(&[]).code(1).says("`d/link` is a symbolic link");
    assert!(!project.path("d/link").exists() && project.path("d/latest").exists());
}
