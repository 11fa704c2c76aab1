//! The README is true: its transcripts are what hfbuild says, and its commands and snippets work.

use crate::support::{Project, Served, python, root, run};
use std::process::Command;

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let opening = format!("```{language}\n");
    let fenced = readme.split(&opening).skip(1);
    fenced.map(|rest| rest.split("```").next().unwrap().to_string()).collect()
}

/// A line without what differs from run to run: commits. Lines that only slow machines print are left out.
fn stable(text: &str) -> Vec<String> {
    let is_commit = |word: &str| word.len() == 7 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let word = |word: &str| match word.trim_end_matches(',') {
        commit if is_commit(commit) => word.replace(commit, "COMMIT"),
        _ => word.to_string(),
    };
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("Finished "));
    let mut lines: Vec<String> = lines.map(|l| l.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect();
    // which of two stages that could both start does so first depends on what they took last time
    let stage = |line: &String| ["Running ", "Cutoff "].iter().any(|w| line.trim_start().starts_with(w));
    lines.chunk_by_mut(|a, b| stage(a) && stage(b)).for_each(<[String]>::sort);
    lines
}

#[test]
fn its_transcripts_are_what_hfbuild_says() {
    let project = Project::root_model(|m| m);
    project.copy(&root().join("checkpoints/tinydit_retrained.pt"), "checkpoints/tinydit_retrained.pt");
    let transcripts = blocks("console");
    assert_eq!(transcripts.len(), 4);
    for transcript in transcripts {
        for step in transcript.split("$ ").filter(|s| !s.is_empty()) {
            let (line, expected) = step.split_once('\n').unwrap();
            let line = line.replace("hfbuild", env!("CARGO_BIN_EXE_hfbuild"));
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{line} 2>&1")]).current_dir(project.path(""));
            ["HF_TOKEN", "HF_ENDPOINT", "ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH"]
                .iter()
                .for_each(|n| {
                    shell.env_remove(n);
                });
            let got = run(&mut shell);
            assert_eq!(got.code, 0, "{line}: {}", got.stdout);
            assert_eq!(stable(&got.stdout), stable(expected), "after `{line}`");
        }
    }
    // what it says of the page and of Python
    let served = Served::of(&project);
    let commands = blocks("sh").into_iter().find(|b| b.contains("hf download")).unwrap();
    let bin = python().parent().unwrap();
    for line in commands.lines().filter(|l| !l.trim().is_empty()) {
        let line = line.replace("http://127.0.0.1:7860", &served.url);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(project.path("")).env("PATH", path).env("HF_HOME", project.path("hf"));
        let got = run(&mut shell);
        assert_eq!(got.code, 0, "{line}: {}{}", got.stdout, got.stderr);
    }
    assert_eq!(std::fs::read_dir(project.path("pictures")).unwrap().count(), 2);
}

#[test]
fn its_numpy_snippet_repeats_the_noise() {
    let snippet = blocks("python").into_iter().find(|b| b.contains("def normals")).unwrap();
    let (seed, label, index, n) = (3, 11, 5, 3073);
    let ours: Vec<String> =
        hfbuild::model::noise::normals(seed, label, index, n).iter().map(|x| x.to_bits().to_string()).collect();
    let script = format!(
        "import numpy as np\n{snippet}\nours = np.array([{}], np.uint32).view(np.float32)\n\
         assert np.array_equal(ours, normals({seed}, {label}, {index}, {n}))\n",
        ours.join(",")
    );
    let got = run(Command::new(python()).args(["-c", &script]));
    assert_eq!(got.code, 0, "{}", got.stderr);
}

#[test]
fn its_gates_are_conditions_and_its_commands_are_hfbuilds() {
    let toml = blocks("toml").into_iter().find(|b| b.contains("require")).unwrap();
    let table: toml::Table = toml.parse().unwrap();
    for clause in table["require"].as_array().unwrap() {
        hfbuild::core::gate::parse(clause.as_str().unwrap()).unwrap_or_else(|e| panic!("{clause}: {e}"));
    }
    let help = run(Project::empty().command(&[]).arg("--help")).stdout;
    let first =
        ["build", "plan", "explain", "check", "status", "graph", "inspect", "schema", "gc", "store", "clean", "hub"];
    for command in first.into_iter().chain(["diff", "verify", "history", "rollback", "doctor", "runtime"]) {
        assert!(
            help.contains(&format!("  {command} ")) && readme().contains(&format!("`hfbuild {command}")),
            "{command}"
        );
    }
}
