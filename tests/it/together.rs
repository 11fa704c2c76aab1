//! Two commands on one project at once: a build with `gc`, `clean`, `plan` and `store verify`.
//!
//! Whoever comes second waits or looks on. Neither panics or hangs, nothing wrong is made, and afterwards the project is
//! as if they had come one after the other.

use crate::check::{Background, lines, until};
use crate::every_effect::{outputs, unpublished};
use crate::support::Project;
use std::collections::BTreeMap;

/// What is made of this text.
fn right(text: &str) -> BTreeMap<String, Vec<u8>> {
    let words = text.to_uppercase();
    let dashed: String = words.lines().map(|line| format!("{}\n", line.replacen('T', "-", 1))).collect();
    let figures = format!("{{\"lines\": {}}}", 2 * text.lines().count());
    let files = [("words.txt", &words), ("parts/a.txt", &words), ("parts/b.txt", &dashed), ("figures.json", &figures)];
    files.map(|(path, text)| (path.to_string(), text.as_bytes().to_vec())).into()
}

/// When the second of two begins.
#[derive(Debug, Clone, Copy)]
enum When {
    AtOnce,
    /// When so many programs of the first, which is a build, have run.
    AfterPrograms(usize),
}

/// Runs a build and another command at once, in all orders; the other ends with one of `codes`.
fn together(other: &[&str], codes: &[i32]) {
    let project = unpublished();
    project.run(&[]).code(0);
    let moments = [When::AtOnce, When::AfterPrograms(1), When::AfterPrograms(2), When::AfterPrograms(3)];
    let rounds = moments.iter().map(|when| (true, *when)).chain([(false, When::AtOnce), (false, When::AtOnce)]);
    for (round, (build_first, when)) in rounds.enumerate() {
        let text = format!("two\nthree and {round}\n");
        project.write("text.txt", &text);
        let before = lines(&project, "ran");
        let (first, second) = if build_first { (&[][..], other) } else { (other, &[][..]) };
        let first = Background::start(&project, "first.log", first);
        if let When::AfterPrograms(n) = when {
            until("the programs have run", || lines(&project, "ran") >= before + n);
        }
        let second = Background::start(&project, "second.log", second);
        let (first, second) = (first.end(), second.end());
        let (build, other) = if build_first { (first, second) } else { (second, first) };
        let at = format!("round {round}, {when:?}:\n--- build\n{}\n--- other\n{}", build.stderr, other.stderr);
        assert!(build.code == 0 && codes.contains(&other.code), "{} and {}, {at}", build.code, other.code);
        assert!(!at.contains("panicked") && !at.contains("a bug"), "{at}");
        assert_eq!(outputs(&project), right(&text), "{at}");
        let after = project.run(&[]).code(0);
        assert!(after.summary().starts_with("hfbuild: ran "), "{at}");
        assert_eq!(outputs(&project), right(&text), "the next build, {at}");
        project.run(&["store", "verify"]).code(0);
        let idle = project.run(&[]).code(0);
        assert!(idle.summary().starts_with("hfbuild: ran 0 stages, 4 up to date"), "{}{at}", idle.stderr);
    }
}

#[test]
fn a_build_and_a_gc_at_once_come_one_after_the_other() {
    together(&["gc", "--max-size", "0B"], &[0]);
}

#[test]
fn a_build_and_a_clean_at_once_come_one_after_the_other() {
    together(&["clean"], &[0]);
}

#[test]
fn a_plan_beside_a_build_is_no_hindrance() {
    together(&["plan", "--check"], &[0, 3]);
}

#[test]
fn a_verification_beside_a_build_finds_nothing_wrong() {
    together(&["store", "verify"], &[0]);
}

#[test]
fn what_a_build_is_held_against_is_what_it_makes() {
    let project: Project = unpublished();
    project.write("text.txt", "two\nthree\n");
    project.run(&[]).code(0);
    assert_eq!(outputs(&project), right("two\nthree\n"));
}
