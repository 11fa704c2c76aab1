//! The embedded hub as the official client knows hubs: `huggingface_hub` with `hf_xet`, and the `hf` command.

use crate::python::script;
use crate::support::{Project, Run, Served, python, run};
use std::path::Path;
use std::process::Command;

/// How the client is told to transfer.
const TRANSFERS: [(&str, &str); 2] = [("xet", "0"), ("lfs", "1")];

fn project() -> Project {
    let project = Project::empty();
    project.write("publish.toml", "");
    project
}

fn client(project: &Project, name: &str, without_xet: &str) -> Command {
    let mut command = script(name);
    command.env("HF_HUB_DISABLE_XET", without_xet).env("HF_HOME", project.path(&format!("hf-home-{without_xet}")));
    command.env("DO_NOT_TRACK", "1").env("HF_XET_TELEMETRY_ENABLED", "0");
    command
}

/// What lies below a folder, in bytes.
fn size_of(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

#[test]
fn the_official_client_does_its_work_with_xet_and_without() {
    let project = project();
    let hub = Served::of(&project);
    for (mode, without_xet) in TRANSFERS {
        let mut command = client(&project, "hub_client.py", without_xet);
        command.args([&hub.url, &format!("acme-{mode}"), mode]).arg(project.path(mode));
        let run = run(&mut command).code(0);
        assert!(run.stdout.ends_with("ok\n"), "{}", run.stdout);
    }
    // Each came the way it was told to.
    assert!(size_of(&project.path("cache/hub/xet/xorbs")) > 1 << 20);
    assert!(size_of(&project.path("cache/hub/objects")) > 1 << 20);
}

#[test]
fn tokens_and_private_repos_are_heeded() {
    for (_, without_xet) in TRANSFERS {
        let project = project();
        let hub = Served::with(&project, &[], &[("HFBUILD_HUB_TOKEN", "hf_right")]);
        let mut command = client(&project, "hub_private.py", without_xet);
        run(command.args([&hub.url, "hf_right"]).arg(project.path("down"))).code(0).prints("ok");
    }
}

/// The `hf` command; whatever it says of failures is shown.
fn hf(project: &Project, hub: &Served, without_xet: &str, args: &[&str]) -> Run {
    let mut command = client(project, "", without_xet);
    let words = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let mut hf = Command::new(python().with_file_name("hf"));
    hf.args(args).envs(words.collect::<Vec<_>>()).env("HF_ENDPOINT", &hub.url).env("NO_COLOR", "1");
    hf.env_remove("HF_TOKEN").env_remove("HF_TOKEN_PATH").current_dir(project.path("."));
    command = hf;
    run(&mut command).code(0)
}

#[test]
fn what_went_in_over_one_protocol_comes_out_over_the_other() {
    let project = project();
    let hub = Served::of(&project);
    let weights: Vec<u8> = (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (mode, without_xet) in TRANSFERS {
        let repo = format!("acme/{mode}");
        project.write(&format!("{mode}/up/config.json"), "{}\n");
        std::fs::write(project.path(&format!("{mode}/up/model.bin")), &weights).expect("a file");
        let up = format!("{mode}/up");
        hf(&project, &hub, without_xet, &["upload", &repo, &up]);
        let other = if without_xet == "0" { "1" } else { "0" };
        for (number, way) in [other, without_xet].into_iter().enumerate() {
            let down = format!("{mode}/down{number}");
            hf(&project, &hub, way, &["download", &repo, "--local-dir", &down]);
            let back = std::fs::read(project.path(&format!("{down}/model.bin"))).expect("the download");
            assert!(back == weights, "{mode}, HF_HUB_DISABLE_XET={way}");
        }
    }
}

#[test]
fn the_hf_command_manages_repos() {
    let project = project();
    let hub = Served::of(&project);
    let hf = |args: &[&str]| hf(&project, &hub, "0", args);
    project.write("a.txt", "a\n");
    hf(&["repos", "create", "acme/cli", "--type", "dataset"]);
    hf(&["upload", "acme/cli", "a.txt", "b.txt", "--repo-type", "dataset", "--commit-message", "one"]);
    hf(&["repos", "tag", "create", "acme/cli", "v1", "--type", "dataset"]);
    hf(&["repos", "tag", "list", "acme/cli", "--type", "dataset"]).prints("refs/tags/v1");
    hf(&["repos", "branch", "create", "acme/cli", "next", "--type", "dataset"]);
    hf(&["repos", "settings", "acme/cli", "--private", "--type", "dataset"]);
    hf(&["datasets", "info", "acme/cli"]).prints("\"private\": true");
    hf(&["repos", "delete-files", "acme/cli", "b.txt", "--type", "dataset"]);
    hf(&["download", "acme/cli", "b.txt", "--revision", "v1", "--repo-type", "dataset", "--local-dir", "d"]);
    assert_eq!(project.read("d/b.txt"), "a\n");
    hf(&["repos", "delete", "acme/cli", "--type", "dataset", "--yes"]);
    assert!(!project.path("cache/hub/repos/datasets/acme/cli").exists());
}

#[test]
fn a_change_in_the_middle_stores_only_what_is_new() {
    let project = project();
    let hub = Served::of(&project);
    // The generator's bytes cannot be compressed.
    let mut state = 1u64;
    let mut content: Vec<u8> = (0..2_500_000)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let stored = |home: &str| {
        let before = size_of(&project.path("cache/hub/xet"));
        let mut hf = Command::new(python().with_file_name("hf"));
        hf.args(["upload", "acme/large", "large.bin"]).env("HF_ENDPOINT", &hub.url);
        hf.env("HF_HOME", project.path(home)).env_remove("HF_TOKEN").current_dir(project.path("."));
        run(&mut hf).code(0);
        size_of(&project.path("cache/hub/xet")) - before
    };
    std::fs::write(project.path("large.bin"), &content).expect("a file");
    assert!(stored("hf-1") > content.len() as u64);
    content.splice(10_000_000..10_000_000, [7; 1024]);
    std::fs::write(project.path("large.bin"), &content).expect("a file");
    // Another machine, which has to ask the hub what is there.
    let new = stored("hf-2");
    assert!(new < 500_000, "{new} bytes");
}

#[test]
fn large_files_over_xet_are_never_whole_in_memory() {
    let project = project();
    let hub = Served::of(&project);
    std::fs::create_dir(project.path("work")).expect("a folder");
    let mut command = client(&project, "hub_large.py", "0");
    run(command.args([&hub.url, "acme/large"]).arg(project.path("work")).arg("200")).code(0).prints("ok");
    // Down again without xet, put together by the hub.
    let plain = format!("{}/acme/large/resolve/main/large.bin", hub.url);
    let bytes = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let mut response = reqwest::get(plain).await.expect("an answer");
        let mut size = 0;
        while let Some(piece) = response.chunk().await.expect("a piece") {
            size += piece.len();
        }
        size
    });
    assert_eq!(bytes, 200 << 20);
    let peak = hub.peak();
    assert!(peak < 100 << 20, "the hub held {} MiB", peak >> 20);
}
