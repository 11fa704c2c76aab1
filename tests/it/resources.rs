//! Pools: which tokens a stage is given, that no two hold the same, and who goes first; and what a second Ctrl-C does.
//!
//! Programs are shell lines that meet, or keep each other out, through files below `$HOME`, which is the project's folder.
//! A meeting that does not come about fails after a minute.

use crate::support::{Project, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::{Duration, Instant};

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n";
/// Shards `a` and `b` are both running when this ends.
const MEET: &str = "touch $HOME/{each}.here; n=0; until test -e $HOME/a.here && test -e $HOME/b.here; \
    do n=$((n+1)); test $n -lt 3000 || exit 9; sleep 0.02; done";
/// Fails where another shard is between its two ends.
const ALONE: &str = "mkdir $HOME/busy || exit 8; sleep 0.05; rmdir $HOME/busy";

/// A project with these pools and artifacts.
fn project(pools: &str, artifacts: &str) -> Project {
    let pools = if pools.is_empty() { String::new() } else { format!("[pools]\n{pools}\n") };
    Project::with(&format!("{HEAD}{pools}{artifacts}"))
}

/// An artifact that runs a shell line and makes one file; `more` are further keys.
fn stage(name: &str, line: &str, out: &str, more: &str) -> String {
    format!(
        "[artifact.{name}]\nkind = \"command\"\nrun = [\"sh\", \"-c\", '''{line}''']\noutputs = [\"{out}\"]\n{more}\n"
    )
}

/// One of a shard for each of `keys`.
fn shards(line: &str, keys: &str, resources: &str) -> String {
    stage("s", line, "s/{each}.txt", &format!("each = {keys}\nresources = {resources}"))
}

#[test]
fn two_stages_side_by_side_hold_different_devices() {
    for (pool, ids) in [("2", ["0", "1"]), ("[\"0\", \"3\"]", ["0", "3"]), ("[7, \"GPU-1a\"]", ["7", "GPU-1a"])] {
        let line = format!("{MEET}; echo $CUDA_VISIBLE_DEVICES $HFBUILD_POOL_GPU > s/{{each}}.txt");
        let project = project(&format!("gpu = {pool}"), &shards(&line, "[\"a\", \"b\"]", "{ gpu = 1 }"));
        project.run(&["-j", "4"]).code(0);
        let mut seen = [project.read("s/a.txt"), project.read("s/b.txt")];
        seen.sort();
        assert_eq!(seen, ids.map(|id| format!("{id} {id}\n")));
    }
}

#[test]
fn stages_that_take_one_device_never_overlap_and_a_failed_one_gives_it_back() {
    let line = format!("{ALONE}; test {{each}} != 3 || exit 7; echo $CUDA_VISIBLE_DEVICES > s/{{each}}.txt");
    let project = project("gpu = 1", &shards(&line, "[1, 2, 3, 4, 5, 6]", "{ gpu = 1 }"));
    let run = project.run(&["-j", "8", "--keep-going"]).code(1).says("exit code 7").never_says("exit code 8");
    assert!(run.summary().contains("ran 5 stages, 1 failed"), "{}", run.summary());
    assert_eq!(project.read("s/6.txt"), "0\n");
}

#[test]
fn a_stage_that_takes_two_devices_sees_both() {
    let line = "echo $CUDA_VISIBLE_DEVICES $HFBUILD_POOL_TPU_V4 > a.txt";
    let pools = "gpu = [\"1\", \"2\", \"5\"]\n\"tpu-v4\" = 4";
    let project = project(pools, &stage("a", line, "a.txt", "resources = { gpu = 2, tpu-v4 = 3 }"));
    project.run(&[]).code(0);
    assert_eq!(project.read("a.txt"), "1,2 0,1,2\n");
}

#[test]
fn where_there_is_a_pool_of_devices_a_stage_without_one_sees_none() {
    let line = "printenv CUDA_VISIBLE_DEVICES > a.txt || echo unset > a.txt";
    let seen = |pools: &str| {
        let project = project(pools, &stage("a", line, "a.txt", ""));
        run(project.command(&[]).env("CUDA_VISIBLE_DEVICES", "6")).code(0);
        project.read("a.txt")
    };
    assert_eq!([seen("gpu = 2"), seen("gpu = \"auto\"")], ["\n", "\n"]);
    assert_eq!([seen(""), seen("memory = \"1GB\"")], ["unset\n", "unset\n"]);
}

#[test]
fn an_auto_pool_of_devices_is_those_that_hfbuild_was_given() {
    let line = "echo $CUDA_VISIBLE_DEVICES > a.txt";
    for (given, taken, seen) in [("GPU-1,4", 1, "GPU-1"), ("GPU-1,4", 2, "GPU-1,4"), ("3", 2, "3"), ("", 1, "")] {
        let project =
            project("gpu = \"auto\"", &stage("a", line, "a.txt", &format!("resources = {{ gpu = {taken} }}")));
        run(project.command(&[]).env("CUDA_VISIBLE_DEVICES", given)).code(0);
        assert_eq!(project.read("a.txt"), format!("{seen}\n"));
    }
}

#[test]
fn the_ids_that_a_stage_held_are_no_part_of_its_action() {
    let line = "echo $CUDA_VISIBLE_DEVICES > a.txt";
    let project = project("gpu = [\"3\"]", &stage("a", line, "a.txt", "resources = { gpu = 1 }"));
    project.run(&[]).code(0);
    assert_eq!(project.read("a.txt"), "3\n");
    let manifest = project.read("publish.toml").replace("\"3\"", "\"5\"");
    project.write("publish.toml", &manifest);
    project.run(&["plan", "--check"]).code(0);
    project.run(&[]).code(0).never_says("Running");
    project.run(&["--force", "a"]).code(0).says("Running a");
    assert_eq!(project.read("a.txt"), "5\n");
}

#[test]
fn stages_run_side_by_side_as_far_as_their_memory_fits() {
    let fits = format!("{MEET}; touch s/{{each}}.txt");
    project("memory = \"1GiB\"", &shards(&fits, "[\"a\", \"b\"]", "{ memory = \"512MiB\" }")).run(&["-j", "4"]).code(0);
    let alone = format!("{ALONE}; touch s/{{each}}.txt");
    for (pool, taken) in [("1GiB", "513MiB"), ("1.5GB", "0.8 GB")] {
        let resources = format!("{{ memory = \"{taken}\" }}");
        let project = project(&format!("memory = \"{pool}\""), &shards(&alone, "[1, 2, 3, 4]", &resources));
        project.run(&["-j", "4"]).code(0);
    }
    // of a machine's own memory a stage gets all there is where it asks for more
    let project = project("memory = \"auto\"", &shards(&alone, "[1, 2, 3]", "{ memory = \"900TB\" }"));
    project.run(&["-j", "4"]).code(0);
}

/// Planning fails at this place with this message and hint.
#[track_caller]
fn refused(pools: &str, resources: &str, place: &str, message: &str, hint: &str) {
    let project = project(pools, &stage("a", "true", "a.txt", &format!("resources = {resources}")));
    project.run(&["plan"]).code(2).says(message).says(&format!("publish.toml:{place}")).says(&format!("hint: {hint}"));
}

#[test]
fn what_is_no_size_or_no_id_is_refused_where_it_stands() {
    let example = "for example `\"16GB\"`";
    for bad in ["16 gigs", "16", "16G", "-1GB", "1,5GB"] {
        let message = format!("not the string `{bad}`");
        refused(&format!("memory = \"{bad}\""), "{}", "6:10", &message, example);
        refused("memory = \"8GB\"", &format!("{{ memory = \"{bad}\" }}"), "11:24", &message, example);
    }
    refused("gpu = [\"0\", \"0\"]", "{}", "6:13", "pool `gpu` has the id `0` twice", "name each id once");
    refused("gpu = [\"0,1\"]", "{}", "6:8", "`0,1` cannot be an id", "write each id by itself");
    let at = "11:13";
    refused("memory = \"8GB\"", "{ memory = 4 }", at, "takes 4 of pool `memory`, which is a size", "write a size too");
    refused("memory = \"auto\"", "{ memory = 4 }", at, "of pool `memory`, which is a size", "write a size too");
    refused("gpu = 2", "{ gpu = \"4GB\" }", at, "takes a size of pool `gpu`, which is counted", "write a count");
    for (pool, taken, message) in [
        ("memory = \"8GB\"", "{ memory = \"8.5GB\" }", "takes 8.50GB of pool `memory`, which has 8GB"),
        ("gpu = [\"4\"]", "{ gpu = 2 }", "takes 2 of pool `gpu`, which has 1"),
    ] {
        let project = project(pool, &stage("a", "true", "a.txt", &format!("resources = {taken}")));
        project.run(&["plan"]).code(2).says(message).says(&format!("publish.toml:{at}"));
    }
}

/// The names in the order in which the programs ran.
fn order(project: &Project) -> Vec<String> {
    project.read("order").lines().map(String::from).collect()
}

#[test]
fn the_stage_that_the_longest_chain_waits_for_goes_first() {
    let one = |name: &str, after: &str| {
        stage(name, &format!("echo {name} >> $HOME/order; touch {name}.txt"), &format!("{name}.txt"), after)
    };
    let tables = [
        one("alone", ""),
        one("pair", ""),
        one("pair2", "after = [\"pair\"]"),
        one("chain", ""),
        one("chain2", "after = [\"chain\"]"),
        one("chain3", "after = [\"chain2\"]"),
        one("other", ""),
    ];
    for tables in [tables.concat(), tables.iter().rev().cloned().collect::<String>()] {
        let project = project("", &tables);
        project.run(&["-j", "1"]).code(0);
        let order = order(&project);
        let at = |name: &str| order.iter().position(|n| n == name).expect("it ran");
        assert_eq!((order.len(), at("chain")), (7, 0), "{order:?}");
        assert!(at("pair") < at("alone") && at("chain2") < at("other"), "{order:?}");
    }
}

#[test]
fn the_stage_that_took_longest_before_goes_first() {
    for slow in ["a", "b", "c"] {
        let one = |name: &str| {
            let wait = if name == slow { "test -e $HOME/quick || sleep 1; " } else { "" };
            let line = format!("{wait}echo {name} >> $HOME/order; cat {{in.go}} > {name}.txt");
            stage(name, &line, &format!("{name}.txt"), "inputs = { go = \"go.txt\" }")
        };
        let project = project("", &["a", "b", "c"].map(one).concat());
        project.write("go.txt", "1");
        project.run(&[]).code(0);
        project.write("order", "");
        project.write("quick", "");
        project.write("go.txt", "2");
        project.run(&["-j", "1"]).code(0);
        let order = order(&project);
        assert_eq!((order.len(), order[0].as_str()), (3, slow), "{order:?}");
    }
}

#[test]
fn a_second_ctrl_c_ends_the_build_and_its_programs_at_once() {
    // asked to end, the program starts another one and goes on
    let line = "trap 'echo >> $HOME/asked' TERM; echo $$ > $HOME/program; \
        while :; do sleep 603 & echo $! >> $HOME/sleepers; wait $!; done";
    let project = project("", &stage("a", line, "a.txt", ""));
    let (log, files) = (project.path("build.log"), ["program", "sleepers"]);
    let stderr = std::fs::File::create(&log).expect("a log");
    let mut build = project.command(&[]).stdout(Stdio::null()).stderr(stderr).spawn().expect("hfbuild starts");
    let pid = Pid::from_raw(build.id() as i32);
    let lines = |file: &str| std::fs::read_to_string(project.path(file)).map_or(0, |text| text.lines().count());
    until("the program runs", || files.iter().all(|f| lines(f) == 1));
    kill(pid, Signal::SIGINT).expect("it is there");
    until("the program was asked to end and went on", || lines("asked") == 1 && lines("sleepers") == 2);
    kill(pid, Signal::SIGINT).expect("it is there");
    assert_eq!(build.wait().expect("its end").code(), Some(130));
    let said = std::fs::read_to_string(&log).expect("its log");
    assert!(!said.contains("hfbuild: ran"), "it went on to its summary: {said}");
    for file in files {
        let ids = project.read(file);
        until(&format!("{file} are gone"), || ids.lines().all(gone));
    }
    // what was left does not stand in the way of the next build
    let manifest = project.read("publish.toml").replace("while :;", "touch a.txt; while false;");
    project.write("publish.toml", &manifest);
    project.run(&[]).code(0);
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

/// Whether a process has ended (a zombie has).
fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}
