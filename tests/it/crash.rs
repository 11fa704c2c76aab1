//! kill -9 at moments of the first publish that matter, then hfbuild again: the same bytes, one commit.
//!
//! A moment is something that can be seen on the disk, not a point in time: so many receipts, the intent, the commit on
//! the hub. The process is killed as soon as it is seen.

use crate::support::Project;
use std::path::Path;
use std::time::{Duration, Instant};

const REPO: &str = "d-oit/tinydit-cats";

fn project() -> Project {
    Project::root_model(|m| m.replace("steps = 50", "steps = 12").replace("count = 8", "count = 2"))
}

fn lines(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |b| b.iter().filter(|c| **c == b'\n').count())
}

/// Starts a build, kills it as soon as `moment` is true, and says whether it was killed before it ended by itself.
fn killed_at(project: &Project, moment: &dyn Fn() -> bool) -> bool {
    let mut child = project.command(&["-q"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if moment() {
            child.kill().unwrap(); // SIGKILL
            return !child.wait().unwrap().success();
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "the moment never came and the build never ended");
        std::hint::spin_loop();
    }
}

#[test]
fn killed_at_any_moment_the_next_run_ends_with_the_same_bytes_and_one_commit() {
    let undisturbed = project();
    undisturbed.run(&[]).code(0);
    let (dist, receipts) = (undisturbed.tree("dist"), lines(&undisturbed.path("cache/actions/log")));
    assert!(receipts > 20, "{receipts}");

    let mut kills = 0;
    for moment in 0..12 {
        let project = project();
        let (actions, publishes) = (project.path("cache/actions/log"), project.path("cache/publishes/log"));
        let seen = || match moment {
            0 => project.path("cache/VERSION").exists(),
            1..=7 => lines(&actions) > (moment - 1) * receipts / 7,
            8 => project.path("cache/hub/repos").exists(),
            9 => project.path("cache/hub/objects").exists(),
            10 => lines(&publishes) >= 1,
            _ => project.commits(REPO) >= 1,
        };
        kills += usize::from(killed_at(&project, &seen));
        let run = project.run(&[]).code(0);
        assert_eq!(project.commits(REPO), 1, "moment {moment}: {}", run.stderr);
        assert_eq!(project.tree("dist"), dist, "moment {moment}");
        assert!(run.summary().contains("published ") || run.summary().contains("unchanged at "), "{}", run.summary());
        let again = project.run(&[]).code(0);
        assert!(
            again.summary().starts_with("hfbuild: ran 0 stages, 29 up to date, remote unchanged"),
            "{}",
            again.summary()
        );
        assert_eq!(std::fs::read_dir(project.path("cache/tmp")).unwrap().count(), 0, "no work directory is left");
        assert!(
            project.path("cache/hub").join("repos/models").join(REPO).join("refs/tags/v0.1.0").exists(),
            "moment {moment}: the tag"
        );
    }
    assert!(kills >= 6, "half of the moments at least are seen before the build ends: {kills} of 12");
}

#[test]
fn what_was_finished_before_a_kill_is_not_done_twice() {
    let project = project();
    let actions = project.path("cache/actions/log");
    assert!(killed_at(&project, &|| lines(&actions) >= 8));
    let kept = lines(&actions);
    let all = ["samples", "license", "pytorch", "inference", "metadata", "classifier", "handler", "requirements"];
    let run = project.run(&[&["build", "space_readme", "space_app"], &all[..]].concat()).code(0);
    let ran: usize = run.summary().split("ran ").nth(1).and_then(|s| s.split(' ').next()).unwrap().parse().unwrap();
    assert!(ran <= 27 - kept, "{kept} receipts were kept, and {ran} stages ran: {}", run.stderr);
}

#[test]
fn a_damaged_or_lost_blob_is_a_miss_with_a_warning_and_the_result_is_right() {
    let project = project();
    project.run(&["build", "generator"]).code(0);
    let weights = |p: &Project| {
        let blobs =
            walkdir::WalkDir::new(p.path("cache/blobs")).into_iter().flatten().filter(|e| e.file_type().is_file());
        let mut blobs: Vec<_> = blobs.map(|e| e.into_path()).collect();
        blobs.retain(|b| {
            std::fs::read(b).unwrap().windows(14).any(|w| w == b"hfbuild.config")
                && std::fs::metadata(b).unwrap().len() < 3_640_000
        });
        blobs
    };
    for damage in ["flip", "truncate", "remove"] {
        let found = weights(&project);
        assert_eq!(found.len(), 1, "{found:?}");
        let blob = &found[0];
        let bytes = std::fs::read(blob).unwrap();
        std::fs::remove_file(blob).unwrap();
        match damage {
            "flip" => std::fs::write(
                blob,
                bytes.iter().enumerate().map(|(i, b)| if i == 99_999 { b ^ 1 } else { *b }).collect::<Vec<_>>(),
            )
            .unwrap(),
            "truncate" => std::fs::write(blob, &bytes[..1000]).unwrap(),
            _ => {}
        }
        // the generator has to run, so the lost weights are needed, and made again
        let run = project.run(&["build", "generator", "--force", "generator"]).code(0);
        assert!(run.stderr.contains("in the cache") && run.stderr.contains("made again"), "{damage}: {}", run.stderr);
        assert_eq!(std::fs::read(blob).unwrap(), bytes, "{damage}");
    }
}

#[test]
fn a_log_with_damaged_lines_costs_work_and_nothing_else() {
    let project = project();
    project.run(&["build", "metadata", "license"]).code(0);
    let log = project.path("cache/actions/log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[40] ^= 0xff;
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&log, bytes).unwrap();
    let run = project.run(&["build", "metadata", "license"]).code(0);
    assert!(run.stderr.contains("damaged"), "{}", run.stderr);
    project.run(&["plan", "--check", "metadata", "license"]).code(0);
    project.run(&["build", "metadata", "license"]).code(0).never_says("damaged"); // told once
}
