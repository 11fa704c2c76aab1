//! What an interrupted run has drawn is not drawn again: kill -9 in place of every effect, real signals, damaged parts.
//!
//! The graph hands its noise through, so a picture is known beforehand and drawing costs nothing but steps.

use crate::check::{Background, HEAD, until};
use crate::evaluation::{CLASSIFY, coloured, write_classifier, write_noise_generator};
use crate::every_effect::{copy_of, everywhere, killed};
use crate::support::Project;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

const BUILD: [&str; 2] = ["build", "samples"];

/// A project that draws `count` pictures of each label, with the graph imported already.
fn project(labels: &str, count: usize, steps: usize, batch: usize) -> Project {
    let project = Project::with(&format!(
        "{HEAD}[artifact.generator]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\n\
         [artifact.samples]\nkind = \"samples\"\nfrom = \"generator\"\neach = [{labels}]\ncount = {count}\n\
         steps = {steps}\nseed = 5\nbatch = {batch}\nruntime = \"rten\"\n"
    ));
    write_noise_generator(&project.path("noise.onnx"));
    project.run(&["-q", "build", "generator"]).code(0);
    project
}

/// Outputs and facts that are measured, of each shard's last receipt.
fn made(project: &Project) -> BTreeMap<String, (Value, Value)> {
    made_by(project, "samples")
}

/// The same of another stage.
fn made_by(project: &Project, stage: &str) -> BTreeMap<String, (Value, Value)> {
    let log = project.read("cache/actions/log");
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line.get(17..)?).ok());
    let receipts = records.filter(|r| r["receipt"]["node"].as_str().is_some_and(|node| node.starts_with(stage)));
    let entry = |r: Value| {
        let receipt = &r["receipt"];
        let made = (receipt["outputs"].clone(), receipt["facts"]["values"].clone());
        (receipt["node"].as_str().unwrap_or_default().to_string(), made)
    };
    receipts.map(entry).collect()
}

/// The part files.
fn parts(project: &Project) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(project.path("cache/parts")).into_iter().flatten();
    files.filter(|e| e.file_type().is_file()).map(|e| e.into_path()).collect()
}

/// The pictures that they hold.
fn kept(project: &Project) -> usize {
    let count = |file: PathBuf| {
        let bytes = std::fs::read(file).expect("a part");
        let head = bytes.split(|b| *b == b'\n').nth(1).expect("its head");
        let name = serde_json::from_slice::<Value>(head).expect("JSON")["name"].as_str().unwrap().to_string();
        name.rsplit('-').next().unwrap().parse::<usize>().expect("a count")
    };
    parts(project).into_iter().map(count).sum()
}

/// The logs of `samples` in the last run.
fn log(project: &Project) -> String {
    log_of(project, "samples")
}

/// The same of another stage.
fn log_of(project: &Project, stage: &str) -> String {
    let mut runs: Vec<_> = std::fs::read_dir(project.path("cache/runs")).unwrap().flatten().map(|e| e.path()).collect();
    runs.sort();
    let files = std::fs::read_dir(runs.last().expect("a run")).unwrap().flatten().map(|e| e.path());
    let logs = files.filter(|f| f.file_name().unwrap().to_string_lossy().starts_with(stage));
    logs.map(|f| std::fs::read_to_string(f).unwrap()).collect()
}

/// A project whose drawing was killed with one part kept.
fn interrupted(count: usize, batch: usize) -> Project {
    let project = project("\"a\"", count, 2, batch);
    let (run, effects) = killed(&copy_of(&project), &BUILD, 0, false);
    run.code(0);
    let first = effects.iter().position(|e| e.starts_with("rename /cache/tmp/part-")).expect("a part");
    killed(&project, &BUILD, first + 2, false).0.code(-1);
    assert!((batch..count).contains(&kept(&project)), "{} pictures are kept", kept(&project));
    project
}

#[test]
fn a_drawing_that_is_killed_at_any_effect_goes_on_with_every_batch_that_was_kept() {
    let whole = project("\"a\"", 5, 2, 2);
    let fresh = || copy_of(&whole);
    let undisturbed = fresh();
    let (run, effects) = killed(&undisturbed, &BUILD, 0, false);
    run.code(0);
    let (expected, seen) = (made(&undisturbed), effects.join("\n"));
    assert_eq!(seen.matches("rename /cache/tmp/part-").count(), 3, "a part for each of the batches 2, 2, 1: {seen}");
    everywhere(&BUILD, &effects, &fresh, &|project| {
        let (mut wrong, finished, there) = (vec![], made(project) == expected, kept(project));
        let next = project.run(&BUILD);
        if next.code != 0 || made(project) != expected {
            wrong.push(format!("the next run ends with {} or makes other bytes: {}", next.code, next.stderr));
        }
        let goes_on = log(project).contains(&format!("goes on after {there} of 5 pictures"));
        if !finished && goes_on != (there > 0) {
            wrong.push(format!("{there} pictures were kept: {}", log(project)));
        }
        if !parts(project).is_empty() || std::fs::read_dir(project.path("cache/tmp")).map_or(9, Iterator::count) > 0 {
            wrong.push("something is left".into());
        }
        wrong
    });
}

/// A signal while pictures are drawn: the exit code, what is kept, and the next run goes on from there.
fn stopped_by(signal: Signal, code: i32) {
    let whole = project("\"a\"", 6, 10_000, 1);
    let stopped = copy_of(&whole);
    whole.run(&BUILD).code(0);
    let build = Background::start(&stopped, "build.log", &BUILD);
    until("two batches are kept", || parts(&stopped).len() >= 2);
    build.signal(signal);
    build.end().code(code).says("interrupted").never_says("Failed");
    let there = kept(&stopped);
    assert!((2..6).contains(&there) && made(&stopped).is_empty(), "{there} pictures are kept");
    let next = stopped.run(&BUILD).code(0);
    let says = format!("goes on after {there} of 6 pictures, kept from an interrupted run");
    assert!(log(&stopped).contains(&says), "{}", log(&stopped));
    next.says(&format!("samples[a] {says}"));
    assert_eq!(made(&stopped), made(&whole));
    assert_eq!(parts(&stopped), Vec::<PathBuf>::new());
}

#[test]
fn sigterm_while_pictures_are_drawn_ends_with_143_and_keeps_its_batches() {
    stopped_by(Signal::SIGTERM, 143);
}

#[test]
fn sigint_while_pictures_are_drawn_ends_with_130_and_keeps_its_batches() {
    stopped_by(Signal::SIGINT, 130);
}

#[test]
fn a_damaged_part_is_drawn_again_and_told_of_in_the_log() {
    let project = interrupted(4, 1);
    let whole = copy_of(&project);
    whole.run(&BUILD).code(0);
    let before = kept(&project);
    let file = parts(&project).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    project.run(&BUILD).code(0);
    assert!(log(&project).contains("1 damaged and made again"), "{}", log(&project));
    assert_eq!(log(&project).contains(&format!("goes on after {} of 4", before - 1)), before > 1, "{}", log(&project));
    assert_eq!(made(&project), made(&whole));
}

#[test]
fn force_begins_anew_and_so_does_a_check_of_determinism() {
    let project = interrupted(4, 2);
    project.run(&["build", "samples", "--force", "samples"]).code(0).never_says("goes on");
    assert!(!log(&project).contains("goes on"), "{}", log(&project));
    let run = project.run(&["check", "--determinism", "samples"]).code(0);
    run.never_says("goes on");
    assert_eq!(parts(&project), Vec::<PathBuf>::new());
}

#[test]
fn a_batch_is_no_part_of_the_action_and_another_one_goes_on_too() {
    let project = interrupted(5, 2);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("batch = 2", "batch = 3"));
    project.run(&BUILD).code(0).says("goes on after 2 of 5 pictures");
    let drawn = made(&project);
    project.write("publish.toml", &manifest.replace("batch = 2", "batch = 4096"));
    project.run(&["plan", "--check", "samples"]).code(0);
    project.run(&["build", "samples", "--force", "samples"]).code(0);
    assert_eq!(made(&project), drawn);
    project.write("publish.toml", &manifest.replace("batch = 2", "batch = 0"));
    project.run(&["plan"]).code(2).says("batch");
}

#[test]
fn gc_keeps_what_can_be_resumed_and_takes_what_cannot() {
    let project = interrupted(4, 2);
    let count = parts(&project).len();
    project.run(&["gc", "--max-size", "1GB"]).code(0).never_says("partial");
    assert_eq!(parts(&project).len(), count);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("seed = 5", "seed = 6"));
    project.run(&["gc", "--max-size", "1GB", "--dry-run"]).code(0).says("would remove 1 partial result (");
    assert_eq!(parts(&project).len(), count);
    project.run(&["gc", "--max-size", "1GB"]).code(0).says("removed 1 partial result (");
    assert_eq!(parts(&project), Vec::<PathBuf>::new());
}

#[test]
fn the_shards_of_a_family_load_their_graph_once() {
    let project = project("\"a\", \"b\"", 1, 1, 8);
    project.run(&BUILD).code(0);
    let log = log(&project);
    let seen = [log.matches("loaded the graph in ").count(), log.matches("the graph is loaded already").count()];
    assert_eq!(seen, [1, 1], "{log}");
}

#[test]
fn the_next_label_is_drawn_while_the_last_one_is_measured_and_stored() {
    let project = project("\"a\", \"b\"", 64, 1, 8);
    let manifest = project.read("publish.toml");
    let pooled = manifest.replace("[artifact.generator]", "[pools]\ngpu = [\"7\"]\n[artifact.generator]");
    project.write("publish.toml", &format!("{pooled}resources = {{ gpu = 1 }}\n"));
    let mut overlapped = false;
    // which is told first, that a stage has ended or that it needs its device no longer, is a matter of milliseconds
    for _ in 0..10 {
        project.run(&["build", "-j", "4", "samples", "--force", "samples"]).code(0);
        let runs = project.tree("cache/runs");
        let (_, events) = runs.iter().rfind(|(path, _)| path.ends_with("events.jsonl")).unwrap();
        let events = String::from_utf8_lossy(events);
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        let order: Vec<String> = events
            .filter(|e| e["node"].as_str().is_some_and(|node| node.starts_with("samples[")))
            .map(|e| e["event"].as_str().unwrap_or_default().to_string())
            .collect();
        overlapped |= order == ["running", "running", "finished", "finished"];
    }
    assert!(overlapped);
    let log = log(&project);
    assert_eq!(log.matches("loaded the graph in ").count(), 1, "never two sessions on one device: {log}");
}

const JUDGE: [&str; 2] = ["build", "seen"];

/// A project that judges two pictures of each of three labels, one at a time; nothing but that is left to do.
fn judging() -> Project {
    let project = coloured(&format!("{CLASSIFY}runtime = \"rten\"\nbatch = 1\n"), true);
    write_classifier(&project.path("colours.onnx"));
    project.run(&["-q", "build", "drawn"]).code(0);
    project
}

#[test]
fn pictures_that_a_killed_classify_has_judged_are_not_judged_again() {
    let whole = judging();
    let (undisturbed, killed_one) = (copy_of(&whole), copy_of(&whole));
    let (run, effects) = killed(&undisturbed, &JUDGE, 0, false);
    run.code(0);
    let is_part = |effect: &&String| effect.starts_with("rename /cache/tmp/part-");
    assert_eq!(effects.iter().filter(is_part).count(), 6, "{}", effects.join("\n"));
    let fourth = effects.iter().enumerate().filter(|(_, effect)| is_part(effect)).nth(3).expect("a part").0;
    killed(&killed_one, &JUDGE, fourth + 1, false).0.code(-1);
    assert_eq!(kept(&killed_one), 3, "the fourth did not come into its place");
    let (next, effects) = killed(&killed_one, &JUDGE, 0, false);
    next.code(0).says("seen goes on after 3 of 6 pictures, kept from an interrupted run");
    assert_eq!(effects.iter().filter(is_part).count(), 3, "three were left to be judged");
    assert_eq!(made_by(&killed_one, "seen"), made_by(&undisturbed, "seen"));
    assert_eq!(parts(&killed_one), Vec::<PathBuf>::new());
}

#[test]
fn a_classify_that_is_killed_at_any_effect_ends_as_if_nothing_had_been() {
    let whole = judging();
    let fresh = || copy_of(&whole);
    let undisturbed = fresh();
    let (run, effects) = killed(&undisturbed, &JUDGE, 0, false);
    run.code(0);
    let expected = made_by(&undisturbed, "seen");
    everywhere(&JUDGE, &effects, &fresh, &|project| {
        let (mut wrong, finished, there) = (vec![], made_by(project, "seen") == expected, kept(project));
        let next = project.run(&JUDGE);
        if next.code != 0 || made_by(project, "seen") != expected {
            wrong.push(format!("the next run ends with {} or sees other classes: {}", next.code, next.stderr));
        }
        let log = log_of(project, "seen");
        if !finished && log.contains(&format!("goes on after {there} of 6 pictures")) != (there > 0) {
            wrong.push(format!("{there} pictures were kept: {log}"));
        }
        if !parts(project).is_empty() {
            wrong.push("something is left".into());
        }
        wrong
    });
}

#[test]
fn the_batch_of_classify_is_no_part_of_the_action() {
    let project = judging();
    project.run(&JUDGE).code(0);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("batch = 1\n", "batch = 4096\n"));
    project.run(&["plan", "--check", "seen"]).code(0);
    let before = made_by(&project, "seen");
    project.run(&["build", "seen", "--force", "seen"]).code(0);
    assert_eq!(made_by(&project, "seen"), before);
    project.write("publish.toml", &manifest.replace("batch = 1\n", "batch = 0\n"));
    project.run(&["plan"]).code(2).says("batch");
}
