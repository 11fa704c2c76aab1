//! `gc` and `store verify`: what goes, what stays, and that neither ever costs more than work.

use crate::support::{Project, Run, run};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"0.1.0\"\nlicense = \"mit\"\n";
/// Bytes of what `weights` makes: a letter, then spaces.
const SIZE: usize = 100_000;

/// An artifact of kind `command` that runs a shell line.
fn shell(name: &str, line: &str, output: &str, more: &str) -> String {
    format!(
        "[artifact.{name}]\nkind = \"command\"\nrun = [\"sh\", \"-c\", '''{line}''']\noutputs = [\"{output}\"]\n{more}\n"
    )
}

/// `weights` makes 100 kB that begin with `letter`; `report` reads them.
fn manifest(letter: char) -> String {
    let line = format!("echo {letter} >> $HOME/ran; printf '%-{SIZE}s' {letter} > weights.bin");
    let report =
        shell("report", "head -c 1 {in.weights} > report.txt", "report.txt", "inputs = { weights = \"weights\" }");
    format!("{HEAD}{}{report}", shell("weights", &line, "weights.bin", ""))
}

/// A project that was built with these letters, one after another.
fn built(letters: &str) -> Project {
    let project = Project::empty();
    letters.chars().for_each(|letter| build(&project, letter).map_or_else(|e| panic!("{e}"), drop));
    project
}

/// Builds with this letter; the letters of all runs so far.
fn build(project: &Project, letter: char) -> Result<String, String> {
    project.write("publish.toml", &manifest(letter));
    let run = project.run(&[]);
    match run.code {
        0 => Ok(ran(project)),
        _ => Err(run.stderr),
    }
}

/// The letters of all runs of `weights`.
fn ran(project: &Project) -> String {
    project.read("ran").split_whitespace().collect()
}

/// A letter and spaces after it, as `printf '%-100000s'` writes them.
fn padded(letter: char) -> String {
    format!("{letter}{}", " ".repeat(SIZE - 1))
}

/// The blob of what `weights` made with a letter, where it stands.
fn blob(project: &Project, letter: char) -> PathBuf {
    let hex = blake3::hash(padded(letter).as_bytes()).to_hex().to_string();
    project.path(&format!("cache/blobs/{}/{hex}", &hex[..2]))
}

/// Which of these letters' blobs are there.
fn there(project: &Project, letters: &str) -> String {
    letters.chars().filter(|letter| blob(project, *letter).exists()).collect()
}

/// Flips a bit in the middle of a blob.
fn damage(path: &PathBuf) {
    let mut bytes = std::fs::read(path).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("its permissions");
    std::fs::write(path, bytes).expect("a blob");
}

fn sums_up(run: &Run, text: &str) {
    assert_eq!(run.summary(), text, "{}{}", run.stdout, run.stderr);
}

// --- gc --------------------------------------------------------------------------------------------------------------

#[test]
fn gc_keeps_what_the_current_manifest_needs_and_says_where_that_is_more_than_asked_for() {
    let project = built("abc");
    let run = project.run(&["gc", "--max-size", "0B"]).code(0);
    let needed = "100.0 kB are needed by the current manifest, more than 0 B";
    sums_up(&run, &format!("hfbuild: removed 4 blobs (200.0 kB), kept 2 (100.0 kB); {needed}"));
    assert_eq!(there(&project, "abc"), "c");
    let again = project.run(&[]).code(0);
    assert!(again.summary().starts_with("hfbuild: ran 0 stages, 2 up to date"), "{}", again.summary());
    assert_eq!(ran(&project), "abc");
    // and the outputs can be put back from what stayed
    std::fs::remove_file(project.path("weights.bin")).expect("weights.bin");
    project.run(&[]).code(0).says("Restored weights");
    assert_eq!(ran(&project), "abc");
    project.run(&["store", "verify"]).code(0);
}

#[test]
fn gc_removes_the_least_recently_used_first() {
    let project = built("abcd");
    build(&project, 'b').expect("restored"); // used again, so it is younger than a and c
    build(&project, 'd').expect("restored");
    assert_eq!(ran(&project), "abcd");
    for (size, left) in [("1MB", "abcd"), ("350kB", "bcd"), ("210kB", "bd"), ("110 kB", "d")] {
        project.run(&["gc", "--max-size", size]).code(0);
        assert_eq!(there(&project, "abcd"), left, "{size}");
    }
}

#[test]
fn gc_counts_a_result_as_used_until_another_took_its_place() {
    // a stood for three builds, though it was made before the other artifact's results
    let project = Project::empty();
    let other = |letter: char| {
        format!("{}{}", manifest('a'), shell("other", &format!("printf '%-{SIZE}s' {letter} > o"), "o", ""))
    };
    for letter in ['x', 'y'] {
        project.write("publish.toml", &other(letter));
        project.run(&[]).code(0);
    }
    project.write("publish.toml", &other('y').replace("echo a", "echo b").replace("s' a >", "s' b >"));
    project.run(&[]).code(0);
    assert_eq!(there(&project, "abxy"), "abxy");
    project.run(&["gc", "--max-size", "310kB"]).code(0);
    assert_eq!(there(&project, "abxy"), "aby");
}

#[test]
fn going_back_to_a_collected_result_runs_the_stage_again() {
    let project = built("ab");
    project.run(&["gc", "--max-size", "150kB"]).code(0).says("removed 1 blob (100 kB)");
    assert_eq!(build(&project, 'a').expect("made again"), "aba");
    assert_eq!(project.read("weights.bin").trim(), "a");
    assert_eq!(project.read("report.txt"), "a");
    // b stayed and is a hit
    assert_eq!(build(&project, 'b').expect("restored"), "aba");
    assert_eq!(project.read("weights.bin").trim(), "b");
    assert_eq!(project.read("report.txt"), "b");
}

#[test]
fn a_dry_run_of_gc_says_the_same_and_removes_nothing() {
    let project = built("abc");
    let (blobs, log) = (project.tree("cache/blobs"), project.read("cache/actions/log"));
    let run = project.run(&["gc", "--max-size", "150kB", "--dry-run"]).code(0);
    sums_up(&run, "hfbuild: would remove 3 blobs (200.0 kB) and keep 3 (100.0 kB)");
    assert_eq!((project.tree("cache/blobs"), project.read("cache/actions/log")), (blobs, log));
    let run = project.run(&["gc", "--max-size", "150kB"]).code(0);
    sums_up(&run, "hfbuild: removed 3 blobs (200.0 kB), kept 3 (100.0 kB)");
}

#[test]
fn gc_takes_blobs_that_no_receipt_names_first_and_leaves_other_files_alone() {
    let project = built("ab");
    let stray = blob(&project, 'z');
    std::fs::create_dir_all(stray.parent().expect("a folder")).expect("a folder");
    std::fs::write(&stray, padded('z')).expect("a blob");
    project.write("cache/blobs/notes.txt", "somebody's");
    project.run(&["gc", "--max-size", "250kB"]).code(0).says("removed 1 blob (100 kB)");
    assert_eq!(there(&project, "abz"), "ab");
    assert_eq!(project.read("cache/blobs/notes.txt"), "somebody's");
}

#[test]
fn gc_keeps_what_the_last_publish_sent_and_the_next_build_finds_nothing_to_do() {
    let hub = "[hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n";
    let upload = "[artifact.publish]\nkind = \"upload\"\nfiles = { \"weights.bin\" = \"weights\" }\n";
    let project = Project::empty();
    for letter in ['a', 'b'] {
        project.write("publish.toml", &format!("{}{hub}{upload}", manifest(letter)));
        project.run(&[]).code(0);
    }
    project.run(&["gc", "--max-size", "0B"]).code(0).says("are needed by the current manifest and the last publishes");
    assert_eq!(there(&project, "ab"), "b");
    project.run(&["plan", "--check"]).code(0);
    let again = project.run(&[]).code(0);
    assert!(again.summary().contains("ran 0 stages"), "{}", again.summary());
    assert_eq!(project.commits("me/it"), 2);
    // a manifest without the artifact: the publish alone holds the weights
    project.write("publish.toml", &format!("{HEAD}{}", shell("other", "echo 1 > other.txt", "other.txt", "")));
    project.run(&["gc", "--max-size", "0B"]).code(0);
    assert_eq!(there(&project, "ab"), "b");
}

#[test]
fn gc_compacts_the_log_and_what_is_current_stays_current() {
    let project = built("ab");
    for _ in 0..5 {
        "ab".chars().for_each(|letter| drop(build(&project, letter).expect("restored")));
    }
    let lines = || project.read("cache/actions/log").lines().count();
    let before = lines();
    project.run(&["gc", "--max-size", "1GB"]).code(0).says("removed 0 blobs (0 B), kept 4");
    assert!(before > 20 && lines() <= 8, "{before} to {}", lines());
    project.run(&["plan", "--check"]).code(0);
    // an artifact that was taken out does not come back as an earlier result of its own
    let other = format!("{HEAD}{}", shell("other", "echo 1 > other.txt", "other.txt", ""));
    project.write("publish.toml", &other);
    project.run(&["gc", "--max-size", "0B"]).code(0);
    assert_eq!(build(&project, 'b').expect("made again"), "abb");
}

#[test]
fn a_size_that_is_none_ends_with_2_and_a_hint() {
    let project = built("a");
    for size in ["20XB", "GB", "-5GB", "much", "20"] {
        project.run(&["gc", "--max-size", size]).code(2).says(&format!("not `{size}`")).says("for example `20GB`");
    }
    project.run(&["gc"]).code(2).says("--max-size");
    assert_eq!(there(&project, "a"), "a");
}

#[test]
fn gc_and_verify_where_there_is_no_cache_say_so_and_make_none() {
    let project = Project::with(&manifest('a'));
    project.run(&["gc", "--max-size", "1GB"]).code(0).says("there is no cache here");
    project.run(&["store", "verify"]).code(0).says("there is no cache here");
    assert!(!project.path("cache").exists());
}

#[test]
fn gc_waits_for_a_build_and_says_for_whom() {
    let line = "echo ran >> $HOME/ran; read word < $HOME/go; echo $word > out.txt";
    let project = Project::with(&format!("{HEAD}{}", shell("a", line, "out.txt", "")));
    assert_eq!(run(Command::new("mkfifo").arg(project.path("go"))).code, 0);
    let quiet = |args: &[&str], log: &str| {
        let file = std::fs::File::create(project.path(log)).expect("a log");
        project.command(args).stdout(Stdio::null()).stderr(file).spawn().expect("hfbuild starts")
    };
    let mut build = quiet(&[], "build.log");
    until(|| project.path("ran").exists());
    let mut gc = quiet(&["gc", "--max-size", "0B"], "gc.log");
    until(|| project.read("gc.log").contains(&format!("waiting for process {}", build.id())));
    assert!(gc.try_wait().expect("its state").is_none());
    // opened for reading too, so that this never blocks
    let mut go = std::fs::OpenOptions::new().read(true).write(true).open(project.path("go")).expect("the fifo");
    go.write_all(b"went\n").expect("a word");
    assert!(build.wait().expect("its end").success() && gc.wait().expect("its end").success());
    assert!(project.read("gc.log").contains("removed 0 blobs (0 B), kept 1 (5 B)"), "{}", project.read("gc.log"));
}

/// Polls until something holds; a minute at most.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "after a minute still not");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// --- store verify ----------------------------------------------------------------------------------------------------

#[test]
fn verify_finds_a_flipped_byte_and_whose_it_is_and_the_next_build_makes_it_again() {
    let project = built("ab");
    let well = project.run(&["store", "verify"]).code(0);
    sums_up(&well, "hfbuild: 4 blobs (200.0 kB) verified, 0 damaged, 0 missing");
    assert_eq!(well.stdout, "");
    damage(&blob(&project, 'b'));
    let run = project.run(&["store", "verify"]).code(1).prints("weights: weights.bin is damaged");
    sums_up(&run, "hfbuild: 4 blobs (200.0 kB) verified, 1 damaged, 0 missing");
    assert_eq!((run.stdout.lines().count(), there(&project, "ab").as_str()), (1, "a"));
    assert_eq!(build(&project, 'b').expect("made again"), "abb");
    assert_eq!(there(&project, "ab"), "ab");
    project.run(&["store", "verify"]).code(0);
    project.run(&["plan", "--check"]).code(0);
}

#[test]
fn verify_counts_missing_blobs_by_artifact_once() {
    let project = built("abc");
    for letter in ['a', 'b'] {
        std::fs::remove_file(blob(&project, letter)).expect("a blob");
    }
    let run = project.run(&["store", "verify"]).code(1).prints("weights: 2 blobs are missing\n");
    sums_up(&run, "hfbuild: 4 blobs (100.0 kB) verified, 0 damaged, 2 missing");
    project.run(&["store", "verify"]).code(0);
    assert_eq!(build(&project, 'c').expect("up to date"), "abc");
    assert_eq!(build(&project, 'a').expect("made again"), "abca");
}

#[test]
fn verify_reports_damaged_lines_of_the_log_and_a_blob_that_nothing_names() {
    let project = built("a");
    let stray = blob(&project, 'z');
    std::fs::create_dir_all(stray.parent().expect("a folder")).expect("a folder");
    std::fs::write(&stray, "not what its name says").expect("a blob");
    let log = project.read("cache/actions/log");
    project.write("cache/actions/log", &format!("{log}no record\n"));
    let run = project.run(&["store", "verify"]).code(1).prints("a blob that nothing names is damaged");
    assert!(run.stdout.contains("1 line of the logs left out as damaged"), "{}", run.stdout);
    sums_up(&run, "hfbuild: 3 blobs (100.0 kB) verified, 1 damaged, 0 missing, 1 record damaged");
    assert_eq!(there(&project, "az"), "a");
    sums_up(&project.run(&["store", "verify"]).code(0), "hfbuild: 2 blobs (100.0 kB) verified, 0 damaged, 0 missing");
    assert_eq!(project.read("cache/actions/log"), log);
}
