//! The demo Space of this project: what is published as its app runs with the gradio that its front matter names.

use crate::support::{Project, Served, root, run, venv};
use std::process::Command;

#[test]
fn the_published_app_draws_the_published_picture() {
    let list = root().join("tests/python/requirements-space.txt");
    let project = Project::root_model(|m| m.replace("count = 8", "count = 2").replace("steps = 50", "steps = 12"));
    project.run(&[]).code(0).says("Published d-oit/tinydit-cats at ").says("Published spaces/d-oit/tinydit-cats at ");
    let readme = project.read("dist-space/README.md");
    let gradio = std::fs::read_to_string(&list).unwrap();
    let version = gradio.lines().find_map(|l| l.strip_prefix("gradio==")).unwrap();
    assert!(readme.contains(&format!("sdk_version: {version}\n")), "the front matter names another gradio: {readme}");

    let hub = Served::of(&project);
    let mut check = Command::new(venv("venv-space", &list));
    check.arg(root().join("tests/python/check_space.py")).arg(project.path("dist-space")).arg("Tiger");
    check.arg(project.path("dist/samples/Tiger/0.png")).current_dir(project.path(""));
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "PYTHONPATH", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        check.env_remove(name);
    }
    check.env("HF_ENDPOINT", &hub.url).env("HF_HUB_DISABLE_XET", "1").env("HF_HOME", project.path("hf-home"));
    check.env("HOME", project.path("")).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_PROXY", "127.0.0.1,localhost");
    let drawn = run(&mut check).code(0);
    assert_eq!(drawn.stdout.lines().last(), Some("d-oit/tinydit-cats, onnx/model.onnx"));
}
