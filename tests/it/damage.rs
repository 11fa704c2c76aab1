//! What happens to a project whose cache is damaged, whose disk is full or read-only, and that two builds want at once.
//!
//! After any damage the next build ends in one of two ways: with the right bytes and no further commit, or with an error
//! that names the damaged file, which works again once that file is removed. What is in `dist/` and on the hub is never
//! wrong.

use crate::every_effect::{REPO, copy_of, killed, of_all, outputs, preloaded, small, unpublished};
use crate::support::{Project, Run, history, native, run};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    Deleted,
    Emptied,
    FirstFlipped,
    MiddleFlipped,
    LastCut,
    Appended,
    Unreadable,
    /// A folder where a file was, a file where a folder was.
    Replaced,
}
use Damage::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// Exit 0, the right bytes, no further commit; so many stages ran again.
    Right(usize),
    /// Exit 1 and an error that names the file; without the file it works.
    Refused,
}
use Outcome::*;

const FILE: [Damage; 8] = [Deleted, Emptied, FirstFlipped, MiddleFlipped, LastCut, Appended, Unreadable, Replaced];
const FOLDER: [Damage; 2] = [Deleted, Replaced];

/// What becomes of a build with nothing to do whose cache holds this damage, in the order of `FILE` and of `FOLDER`.
/// Another VERSION is another layout, of which nothing is read: all four stages run again.
#[rustfmt::skip]
const TABLE: &[(&str, &[Outcome])] = &[
    // path below cache/      deleted   emptied   first     middle    cut       appended  unreadable replaced
    ("VERSION",             &[Right(0), Right(4), Right(4), Right(4), Right(0), Right(4), Refused, Refused]),
    ("CACHEDIR.TAG",        &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("lock",                &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Refused, Refused]),
    ("actions/log",         &[Right(4), Right(4), Right(1), Right(1), Right(0), Right(0), Refused, Refused]),
    ("publishes/log",       &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Refused, Refused]),
    ("memo/log",            &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Refused, Refused]),
    ("blobs/WORDS",         &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("runs/RUN/events.jsonl", &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("hub/lock",            &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Refused, Refused]),
    ("runs",                &[Right(0), Refused]),
    ("tmp",                 &[Right(0), Refused]),
    ("actions",             &[Right(4), Refused]),
    ("blobs",               &[Right(0), Right(0)]),
];

/// The same of a project that publishes nothing, and that remembers in `memo/fresh` that nothing has changed.
#[rustfmt::skip]
const UNPUBLISHED: &[(&str, &[Outcome])] = &[
    // path below cache/      deleted   emptied   first     middle    cut       appended  unreadable replaced
    ("memo/fresh",          &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("memo/log",            &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("VERSION",             &[Right(0), Right(4), Right(4), Right(4), Right(0), Right(4), Refused, Refused]),
    ("CACHEDIR.TAG",        &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("lock",                &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Refused, Refused]),
    ("actions/log",         &[Right(4), Right(4), Right(1), Right(1), Right(0), Right(0), Refused, Refused]),
    ("blobs/WORDS",         &[Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0), Right(0)]),
    ("memo",                &[Right(0), Refused]),
    ("runs",                &[Right(0), Right(0)]),
    ("tmp",                 &[Right(0), Refused]),
    ("actions",             &[Right(4), Refused]),
    ("blobs",               &[Right(0), Right(0)]),
];

/// The file that a path of the table means in this project.
fn meant(project: &Project, path: &str) -> PathBuf {
    let cache = project.path("cache");
    match path {
        "blobs/WORDS" => {
            let name = blake3::hash(b"ONE\nTWO\nTHREE\n").to_hex().to_string();
            cache.join("blobs").join(&name[..2]).join(name)
        }
        "runs/RUN/events.jsonl" => {
            let mut runs = std::fs::read_dir(cache.join("runs")).expect("runs").flatten();
            runs.next().expect("a run").path().join("events.jsonl")
        }
        other => cache.join(other),
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).expect("removed");
    } else if path.exists() {
        std::fs::remove_file(path).expect("removed");
    }
}

fn inflict(damage: Damage, path: &Path) {
    let (was_dir, mut bytes) = (path.is_dir(), std::fs::read(path).unwrap_or_default());
    let mode = std::fs::metadata(path).expect("it is there").permissions();
    if damage == Unreadable {
        let none = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        return std::fs::set_permissions(path, none).expect("its permissions");
    }
    remove(path);
    // never the end of a line, so that it is one record that is damaged
    let middle = bytes.len() / 2 - usize::from(bytes.get(bytes.len() / 2) == Some(&b'\n'));
    match damage {
        Deleted => return,
        Replaced if was_dir => return std::fs::write(path, "a file").expect("a file"),
        Replaced => {
            std::fs::create_dir(path).expect("a folder");
            return std::fs::write(path.join("a file"), "").expect("a file");
        }
        Emptied => bytes.clear(),
        FirstFlipped => bytes[0] ^= 1,
        MiddleFlipped => bytes[middle] ^= 1,
        LastCut => drop(bytes.pop()),
        _ => bytes.extend(b"\0\xff garbage"),
    }
    std::fs::write(path, bytes).expect("written");
    std::fs::set_permissions(path, mode).expect("its permissions");
}

/// What is on the hub: the content of every file of `main`, whose digest is checked.
fn on_the_hub(cache: &Path) -> BTreeMap<String, Vec<u8>> {
    let repo = cache.join("hub/repos/models").join(REPO);
    let head = std::fs::read_to_string(repo.join("refs/heads/main")).expect("a branch");
    let text = std::fs::read_to_string(repo.join(format!("commits/{}.json", head.trim()))).expect("a commit");
    let commit: serde_json::Value = serde_json::from_str(&text).expect("a commit");
    let tree = commit["tree"].as_object().expect("its files");
    let content = |file: &serde_json::Value| {
        let name = file["sha256"].as_str().expect("a digest");
        let bytes = std::fs::read(cache.join("hub/objects/sha256").join(&name[..2]).join(name)).expect("an object");
        assert_eq!(hex::encode(sha2::Sha256::digest(&bytes)), name);
        bytes
    };
    tree.iter()
        .filter(|(path, _)| *path != ".gitattributes")
        .map(|(path, file)| (path.clone(), content(file)))
        .collect()
}

/// Whether files without permissions are read all the same: root does.
fn reads_everything() -> bool {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("permissions");
    std::fs::read(&file).is_ok()
}

fn edit(project: &Project) {
    project.write("page.hbs", "---\nlicense: {{project.license}}\n---\n\n# Another\n\n{{figures.lines}} lines\n");
}

/// The stages that a run ran.
fn ran(run: &Run) -> usize {
    let count = run.summary().split("ran ").nth(1).and_then(|s| s.split(' ').next()).and_then(|s| s.parse().ok());
    count.unwrap_or(usize::MAX)
}

/// A build that may be refused because of `path`; then the path is removed, and the build must work.
fn build(project: &Project, path: &Path, wrong: &mut Vec<String>) -> (Run, bool) {
    let run = project.run(&[]);
    if run.code == 0 {
        return (run, false);
    }
    let named = run.stderr.contains("error: ") && run.stderr.contains(&path.display().to_string());
    if run.code != 1 || !named || run.stderr.contains("panicked") {
        wrong.push(format!("it ends with {} and does not name the file: {}", run.code, run.stderr));
    }
    remove(path);
    let next = project.run(&[]);
    if next.code != 0 {
        wrong.push(format!("without the file it ends with {}: {}", next.code, next.stderr));
    }
    (next, true)
}

/// Each damage of a table, but for those that this user does not feel.
fn cases(table: &[(&'static str, &[Outcome])]) -> Vec<(&'static str, Damage, Outcome)> {
    let mut cases = Vec::new();
    for (path, outcomes) in table {
        let damages = if outcomes.len() == FILE.len() { &FILE[..] } else { &FOLDER[..] };
        cases.extend(damages.iter().zip(*outcomes).map(|(damage, outcome)| (*path, *damage, *outcome)));
    }
    if reads_everything() {
        println!("skipped: unreadable files, because this user reads everything");
        cases.retain(|(_, damage, _)| *damage != Unreadable);
    }
    cases
}

/// Damages the cache, builds, and says where the outcome is another.
fn suffers(project: &Project, (name, damage, outcome): (&str, Damage, Outcome), wrong: &mut Vec<String>) -> PathBuf {
    let path = meant(project, name);
    inflict(damage, &path);
    let (run, refused) = build(project, &path, wrong);
    let seen = if refused { Refused } else { Right(ran(&run)) };
    if seen != outcome {
        wrong.push(format!("{seen:?}, not {outcome:?}: {}", run.stderr));
    }
    path
}

#[test]
fn a_damaged_cache_costs_work_or_is_named_and_never_makes_wrong_bytes() {
    let whole = small();
    whole.run(&[]).code(0);
    let dist = whole.tree("dist");
    let edited = copy_of(&whole);
    edit(&edited);
    edited.run(&[]).code(0);
    let edited = edited.tree("dist");
    let cases = cases(TABLE);
    let wrong = of_all(&cases, |case| {
        let project = copy_of(&whole);
        let mut wrong = Vec::new();
        let path = suffers(&project, *case, &mut wrong);
        if project.commits(REPO) != 1 || project.tree("dist") != dist || on_the_hub(&project.path("cache")) != dist {
            wrong.push(format!("{} commits, or other bytes", project.commits(REPO)));
        }
        // what was not read for want of anything to do is read now
        edit(&project);
        let (run, _) = build(&project, &path, &mut wrong);
        if project.commits(REPO) != 2 || project.tree("dist") != edited || on_the_hub(&project.path("cache")) != edited
        {
            wrong.push(format!("edited: {} commits, or other bytes: {}", project.commits(REPO), run.stderr));
        }
        wrong.into_iter().map(|w| format!("{} {:?}: {w}", case.0, case.1)).collect()
    });
    assert!(wrong.is_empty(), "{} things are wrong in {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_damaged_snapshot_or_what_it_rests_on_costs_work_or_is_named_and_never_makes_wrong_bytes() {
    let made = |text: &str| {
        let project = unpublished();
        project.write("text.txt", text);
        // a source that was written within a clock tick of being read is not remembered by the first build
        (0..2).for_each(|_| drop(project.run(&[]).code(0)));
        assert!(project.path("cache/memo/fresh").exists(), "a build remembers that nothing has changed since");
        project
    };
    const TEXT: &str = "one\ntwo\nthree\n";
    let (right, edited) = (outputs(&made(TEXT)), outputs(&made("four\nfive\n")));
    let cases = cases(UNPUBLISHED);
    let wrong = of_all(&cases, |case| {
        let project = made(TEXT); // no copy: the snapshot holds inodes
        let mut wrong = Vec::new();
        let path = suffers(&project, *case, &mut wrong);
        if outputs(&project) != right {
            wrong.push("other bytes".into());
        }
        project.write("text.txt", "four\nfive\n");
        let (run, _) = build(&project, &path, &mut wrong);
        if outputs(&project) != edited {
            wrong.push(format!("edited: other bytes: {}", run.stderr));
        }
        wrong.into_iter().map(|w| format!("{} {:?}: {w}", case.0, case.1)).collect()
    });
    assert!(wrong.is_empty(), "{} things are wrong in {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

// --- clocks ----------------------------------------------------------------------------------------------------------

/// A build by a clock that is so many seconds ahead.
fn at(project: &Project, seconds: i64, args: &[&str]) -> Run {
    let mut command = project.command(args);
    run(command.env("LD_PRELOAD", native("clock")).env("CLOCK_OFFSET", seconds.to_string()))
}

#[test]
fn a_clock_that_runs_backwards_costs_reads_and_nothing_else() {
    const DAY: i64 = 86_400;
    let project = small();
    at(&project, 0, &[]).code(0);
    let first = project.tree("dist");
    for days in [400, 30, 0, -400] {
        project.write("text.txt", "four\nfive\n");
        let run = at(&project, days * DAY, &[]).code(0);
        assert!(run.summary().contains("published"), "{}", run.stderr);
        project.write("text.txt", "one\ntwo\nthree\n");
        at(&project, (days - 10) * DAY, &[]).code(0).says("Restored words from the cache");
        assert_eq!(project.tree("dist"), first);
        let idle = at(&project, (days - 20) * DAY, &[]).code(0);
        assert!(idle.summary().starts_with("hfbuild: ran 0 stages, 4 up to date, remote unchanged"), "{}", idle.stderr);
    }
    // by its name the newest run is the oldest one, and still it keeps its log
    let future = project.path("cache/runs/2099");
    for n in 0..30 {
        std::fs::create_dir_all(format!("{}{n}", future.display())).expect("a folder");
    }
    project.write("text.txt", "six\n");
    project.run(&[]).code(0);
    let runs: Vec<_> = std::fs::read_dir(project.path("cache/runs")).expect("runs").flatten().collect();
    let logs = runs.iter().filter(|r| r.path().join("words.log").exists()).count();
    assert_eq!((runs.len(), logs), (20, 1));
}

// --- two builds at once ----------------------------------------------------------------------------------------------

const ONCE: &str = "words\nparts\nfigures\n";

#[test]
fn two_builds_at_once_run_each_stage_once_and_publish_once() {
    let project = small();
    let start = || {
        let mut command = project.command(&[]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("hfbuild starts")
    };
    for ended in [start(), start()].map(|child| child.wait_with_output().expect("it ends")) {
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!((project.read("ran").as_str(), project.commits(REPO)), (ONCE, 1));
    assert!(!project.path("cache/old-1").exists(), "one took the other's new cache for one of another version");
}

#[test]
fn a_build_that_begins_at_any_effect_of_anothers_beginning_takes_nothing_from_it() {
    let effects = killed(&small(), &["-q"], 0, false).1;
    let begun = effects.iter().position(|e| e.contains("/cache/actions/log")).expect("the actions' log") + 1;
    let cases: Vec<usize> = (1..=begun).collect();
    let wrong = of_all(&cases, |at| {
        let project = small();
        let mut command = preloaded(&project, &["-q"], *at);
        let mut first = command.env("KILL_STOP", "1").stderr(Stdio::null()).spawn().expect("hfbuild starts");
        let pid = Pid::from_raw(i32::try_from(first.id()).expect("a pid"));
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("its state");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "effect {at}: {stopped:?}");
        let second = project.run(&["--no-wait"]);
        kill(pid, Signal::SIGCONT).expect("it is there");
        let first = first.wait().expect("it ends").code();
        let seen = (first, matches!(second.code, 0 | 6), project.read("ran"), project.commits(REPO));
        let mut wrong = Vec::new();
        if seen != (Some(0), true, ONCE.into(), 1) || project.path("cache/old-1").exists() {
            wrong.push(format!(
                "at effect {at} `{}`: {seen:?}, then {}: {}",
                effects[at - 1],
                second.code,
                second.stderr
            ));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

// --- disks -----------------------------------------------------------------------------------------------------------

/// A project on a disk of its own, of two megabytes; unmounted when dropped.
struct Disk {
    around: Project,
}

impl Disk {
    /// `None`: this user mounts nothing.
    fn of(project: &Project) -> Option<Disk> {
        let around = Project::empty();
        let at = around.path("disk");
        std::fs::create_dir(&at).expect("a folder");
        let mounted = mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"], &at);
        if !mounted {
            println!("skipped: this user cannot mount a disk");
            return None;
        }
        let disk = Disk { around };
        for (path, bytes) in project.tree("") {
            disk.around.write(&format!("disk/{path}"), &String::from_utf8(bytes).expect("text"));
        }
        Some(disk)
    }
    fn run(&self, args: &[&str]) -> Run {
        self.around.run(&[&["-C", "disk"], args].concat())
    }
    fn commits(&self) -> usize {
        history(&self.around.path("disk/cache/hub"), REPO)
    }
    fn set(&self, from: &str, to: &str) {
        let manifest = self.around.read("disk/publish.toml");
        assert!(manifest.contains(from), "{manifest}");
        self.around.write("disk/publish.toml", &manifest.replace(from, to));
    }
    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.around.path("disk")), "remount {how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.around.path("disk")).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let status = Command::new("mount").args(args).arg(at).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
}

/// The small project with a stage before the upload that makes as many bytes as `[params]` says.
fn filled(bytes: usize) -> Project {
    let project = small();
    let filler = "[artifact.filler]\nkind = \"command\"\n\
        run = [\"sh\", \"-c\", \"head -c {params.fill} /dev/zero > filler.bin\"]\n\
        inputs = { after = \"page\" }\noutputs = [\"filler.bin\"]\n";
    let manifest = project.read("publish.toml").replace("after = [\"gates\"]", "after = [\"gates\", \"filler\"]");
    project.write("publish.toml", &format!("{manifest}{filler}[params]\nfill = {bytes}\n"));
    project
}

#[test]
fn a_full_disk_is_named_and_nothing_is_lost_by_it() {
    let expected = filled(1000);
    expected.run(&[]).code(0);
    // the first is too much for the stage, the second for hfbuild's own copy of what the stage made
    for bytes in ["8000000", "1500000"] {
        let Some(disk) = Disk::of(&filled(1000)) else { return };
        disk.set("fill = 1000", &format!("fill = {bytes}"));
        let full = disk.run(&[]).code(1).says("error: ").never_says("panicked");
        full.says("No space left");
        // now to the last byte
        let fill = "head -c 4000000 /dev/zero > disk/ballast; true";
        let shell =
            Command::new("sh").args(["-c", fill]).current_dir(disk.around.path("")).stderr(Stdio::null()).status();
        assert!(shell.is_ok_and(|s| s.success()));
        // what was made and could not be put in its place is kept
        let would = if bytes == "8000000" { "would run 1 stage" } else { "would restore 1" };
        disk.run(&["plan"]).code(0).prints("filler").says(would);
        disk.run(&[]).code(1).says("error: ").says("No space left").never_says("panicked");
        std::fs::remove_file(disk.around.path("disk/ballast")).expect("the ballast");
        disk.set(&format!("fill = {bytes}"), "fill = 1000");
        disk.run(&[]).code(0);
        assert_eq!((disk.around.tree("disk/dist"), disk.commits()), (expected.tree("dist"), 1));
        assert_eq!(on_the_hub(&disk.around.path("disk/cache")), expected.tree("dist"));
        assert_eq!(disk.around.read("ran"), ONCE, "what was made before the disk was full is not made again");
        let idle = disk.run(&[]).code(0);
        assert!(idle.summary().starts_with("hfbuild: ran 0 stages"), "{}", idle.summary());
    }
}

#[test]
fn a_read_only_project_is_planned_truly_and_its_build_is_refused() {
    let Some(disk) = Disk::of(&small()) else { return };
    disk.remount("ro");
    disk.run(&["plan"]).code(0).says("would run 1 stage, 3 pending, then publish");
    disk.run(&[]).code(1).says("error: ").says("Read-only file system").never_says("panicked");
    disk.remount("rw");
    disk.run(&[]).code(0);
    disk.remount("ro");
    disk.run(&["plan", "--check"]).code(0);
    disk.run(&[]).code(1).says("error: ").says("Read-only file system").never_says("panicked");
    disk.remount("rw");
    disk.around.write("disk/text.txt", "four\n");
    disk.remount("ro");
    disk.run(&["plan", "--check"]).code(3).prints("Run words: input `text.txt` changed");
    disk.run(&[]).code(1).says("Read-only file system");
    disk.remount("rw");
    disk.run(&[]).code(0);
    assert_eq!(disk.commits(), 2);
}
