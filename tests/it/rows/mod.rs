//! What went wrong once, a test a row: each makes the failure again with the binary and shows that it is refused with thing
//! and place while nothing reaches the hub, or that the truth is computed. The list was drawn up from a publish in which
//! all of it happened; the names say what.

mod cards;
mod models;
mod publishes;
mod stages;

use crate::support::{Project, Run, root, run};
use std::path::{Path, PathBuf};
use std::process::Command;

const REPO: &str = "me/it";

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// A project with these tables that publishes `files`, behind these conditions where there are any.
fn publishing(tables: &str, files: &str, gates: &[&str]) -> Project {
    Project::with(&manifest(tables, files, gates))
}

fn manifest(tables: &str, files: &str, gates: &[&str]) -> String {
    let (check, after) = match gates {
        [] => (String::new(), ""),
        _ => (format!("[artifact.gates]\nkind = \"check\"\nrequire = {gates:?}\n"), "after = [\"gates\"]\n"),
    };
    format!(
        "[project]\nname = \"p\"\nversion = \"1\"\nlicense = \"mit\"\n[hub]\nrepo = \"{REPO}\"\nendpoint = \"embedded\"\n\
         {tables}\n{check}[artifact.publish]\nkind = \"upload\"\n{after}files = {{ {files} }}\n"
    )
}

/// Builds, and asserts how it is refused: by this exit code and these texts, with nothing new on the hub.
#[track_caller]
fn refused(project: &Project, code: i32, texts: &[&str]) -> Run {
    let before = project.commits(REPO);
    let run = project.run(&[]).code(code).never_says("Published ");
    for text in texts {
        assert!(run.stderr.contains(text), "`{text}` is not in\n{}", run.stderr);
    }
    assert_eq!(project.commits(REPO), before, "nothing was published");
    run
}

/// Builds, and asserts that it was published.
#[track_caller]
fn published(project: &Project) -> Run {
    let before = project.commits(REPO);
    let run = project.run(&[]).code(0).says("Published me/it at ");
    assert_eq!(project.commits(REPO), before + 1);
    run
}

/// A checkpoint (layout A) with a change, written as `model.pt`: `edit` is Python on the dict `saved`.
fn edited(project: &Project, from: &Path, edit: &str) {
    let code = format!(
        "import sys, make_checkpoint as m\nsaved = m.read_checkpoint(sys.argv[1])\n{edit}\nm.write_checkpoint(sys.argv[2], saved, 'model')"
    );
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", root().join("scripts")).env("PYTHONDONTWRITEBYTECODE", "1");
    run(python.args(["-c", &code]).arg(from).arg(project.path("model.pt"))).code(0);
}

/// The text that stands in place of a file where Git LFS was not run.
fn pointer() -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "ab".repeat(32))
}

const CHECKPOINT: &str = "[artifact.checkpoint]\nkind = \"checkpoint\"\npath = \"model.pt\"\nweights = \"raw\"\n";
const WEIGHTS: &str = "[artifact.weights]\nkind = \"safetensors\"\nfrom = \"checkpoint\"\n";
const WEIGHTS_FILE: &str = "\"model.safetensors\" = \"weights\"";

fn files(path: &str) -> String {
    format!("[artifact.file]\nkind = \"files\"\npaths = [\"{path}\"]\n")
}

/// A command `made` that copies what it is given to `outputs`.
fn copies(inputs: &str, line: &str, outputs: &str) -> String {
    crate::check::shell("made", line, outputs, &format!("inputs = {{ {inputs} }}"))
}
