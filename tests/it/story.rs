//! The story of the README as a transcript: first publish, nothing to do, retrain, revert.

use crate::support::{Project, root};

const REPO: &str = "d-oit/tinydit-cats";

#[test]
fn first_publish_then_nothing_to_do_then_retrain_then_revert() {
    let project = Project::small_model();
    let (first, retrained) =
        (root().join("checkpoints/tinydit_final.pt"), root().join("checkpoints/tinydit_retrained.pt"));

    // beforehand, the plan names everything
    let plan = project.run(&["plan"]).code(0);
    assert!(plan.stdout.contains("Run checkpoint: it never ran"), "{}", plan.stdout);
    assert!(plan.stdout.contains("Pending samples (13 shards): waits for generator"), "{}", plan.stdout);
    assert_eq!(plan.summary(), "hfbuild: would run 5 stages, 24 pending, then publish");
    project.run(&["plan", "--check"]).code(3);
    assert!(!project.path("cache").exists(), "a plan writes nothing");

    let run = project.run(&[]).code(0).says("Running checkpoint: it never ran").says("look at it: hfbuild hub serve");
    assert!(run.summary().starts_with("hfbuild: ran 29 stages, published "), "{}", run.summary());
    assert_eq!(project.commits(REPO), 1);
    let published = project.tree("dist");
    assert_eq!(published.len(), 11 + 13 * 3, "{:?}", published.keys());

    // again: nothing runs, nothing is committed
    project.run(&["plan"]).code(0).says("hfbuild: nothing to do, 29 up to date, remote unchanged at ");
    project.run(&["plan", "--check"]).code(0);
    let again = project.run(&[]).code(0);
    assert!(
        again.summary().starts_with("hfbuild: ran 0 stages, 29 up to date, remote unchanged at "),
        "{}",
        again.summary()
    );
    assert_eq!(project.commits(REPO), 1);

    // retrained: only what depends on the checkpoint
    project.copy(&retrained, "checkpoints/tinydit_final.pt");
    let plan = project.run(&["plan"]).code(0).prints("Run checkpoint: input `checkpoints/tinydit_final.pt` changed");
    assert!(!plan.stdout.contains("license"), "{}", plan.stdout);
    assert!(plan.stdout.contains("? model.safetensors  ~3.6 MB"), "{}", plan.stdout);
    let run = project
        .run(&[])
        .code(0)
        .says("Cutoff metadata: inputs unchanged")
        .says(", requirements, license, space_readme\n");
    assert!(run.summary().starts_with("hfbuild: ran 20 stages, 9 up to date, published "), "{}", run.summary());
    assert_eq!(project.commits(REPO), 2);
    let second = project.tree("dist");
    assert_ne!(second["model.safetensors"], published["model.safetensors"]);
    assert_eq!(second["config.json"], published["config.json"]);
    assert!(String::from_utf8_lossy(&second["README.md"]).contains("10,000"), "the card has the new step");

    // and back: no stage runs, one commit
    project.copy(&first, "checkpoints/tinydit_final.pt");
    project
        .run(&["plan"])
        .code(0)
        .prints("Restore weights: 1 file from the cache")
        .says("hfbuild: would restore 20, 9 up to date, then publish");
    let run = project.run(&[]).code(0).never_says("Running");
    assert!(
        run.summary().starts_with("hfbuild: ran 0 stages, 9 up to date, 20 restored, published "),
        "{}",
        run.summary()
    );
    assert_eq!(project.commits(REPO), 3);
    assert_eq!(project.tree("dist"), published, "the very bytes of the first publish");
}

#[test]
fn a_resaved_checkpoint_with_other_bytes_reruns_nothing_below_the_tensor_table() {
    let project = Project::small_model();
    project.run(&["build", "samples", "metadata"]).code(0);
    let script = root().join("scripts/make_checkpoint.py");
    let (from, to) = (project.path("checkpoints/tinydit_final.pt"), project.path("resaved.pt"));
    let mut command = std::process::Command::new("python3");
    let resaved = crate::support::run(command.arg(script).arg("resave").arg(&from).arg(&to).args(["--stem", "other"]));
    assert_eq!(resaved.code, 0, "{}", resaved.stderr);
    assert_ne!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
    std::fs::rename(to, from).unwrap();
    let run = project.run(&["build", "samples", "metadata"]).code(0).says("Cutoff weights: inputs unchanged");
    assert!(run.summary().starts_with("hfbuild: ran 1 stage, 16 up to date"), "{}", run.summary());
}

/// A row of `rows`.
pub fn a_changed_parameter_reruns_only_what_reads_it_and_says_from_what_to_what() {
    let project = Project::small_model();
    project.run(&["build", "samples", "inference"]).code(0);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("opset = 18", "opset = 17"));
    project.run(&["plan", "generator"]).code(0).prints("Run generator: parameter `opset` changed from 18 to 17");
    project.run(&["explain", "generator"]).code(0).prints("because parameter `opset` changed from 18 to 17");
    // a parameter that nothing reads changes nothing
    project.write("publish.toml", &manifest.replace("seed = 0", "seed = 0\nunused = 7"));
    project.run(&["plan", "--check", "samples", "inference"]).code(0);
}

#[test]
fn an_output_deleted_or_changed_by_hand_is_restored_without_running_and_the_hand_made_file_is_kept() {
    let project = Project::small_model();
    project.run(&[]).code(0);
    let before = project.tree("dist");
    std::fs::remove_file(project.path("dist/model.safetensors")).unwrap();
    project.write("dist/README.md", "# mine\n");
    project.run(&["plan"]).code(0).prints("Restore card: 1 file from the cache");
    let run = project
        .run(&[])
        .code(0)
        .says("`dist/README.md` is not what hfbuild put there; it is kept as")
        .never_says("Running");
    assert!(run.summary().contains("ran 0 stages"), "{}", run.summary());
    assert_eq!(project.tree("dist"), before);
    let kept = walkdir::WalkDir::new(project.path("cache/displaced")).into_iter().flatten();
    let kept: Vec<_> =
        kept.filter(|e| e.file_name() == "README.md").map(|e| std::fs::read_to_string(e.path()).unwrap()).collect();
    assert_eq!(kept, ["# mine\n"]);
}

#[test]
fn a_regression_of_the_pictures_is_refused_by_the_manifests_own_gates_and_a_label_that_is_not_heeded_too() {
    let project = Project::small_model();
    project.run(&[]).code(0).says("; 12 gates passed");
    let model = root().join("checkpoints/tinydit_final.pt");
    let changed = |code: &str| {
        let code = format!(
            "import sys, make_checkpoint as m\nsaved = m.read_checkpoint(sys.argv[1])\n{code}\n\
             m.write_checkpoint(sys.argv[2], saved, 'tinydit_final')"
        );
        let mut python = std::process::Command::new("python3");
        python.env("PYTHONPATH", root().join("scripts")).env("PYTHONDONTWRITEBYTECODE", "1");
        let to = project.path("checkpoints/tinydit_final.pt");
        let run = crate::support::run(python.args(["-c", &code]).arg(&model).arg(to));
        assert_eq!(run.code, 0, "{}", run.stderr);
    };
    // three tenths of every weight are noise: the pictures pass for pictures still, and are worse than what is published
    changed(
        "for part in ('model', 'ema_params'):\n    for name, tensor in saved[part].items():\n        \
         saved[part][name] = m.perturbed(tensor, name, 0, 0.3)",
    );
    let run = project.run(&[]).code(1).never_says("Published");
    let refused: Vec<&str> = run.stderr.lines().filter(|l| l.contains("Refused")).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("`published.samples.mean.neighbour_correlation` is 0.8"), "{refused:?}");
    assert_eq!(project.commits(REPO), 1);
    // labels whose embeddings are all the same are drawn alike, however well
    changed(
        "for part in ('model', 'ema_params'):\n    name = 'breed_embedder.embedding.weight'\n    \
         shape = saved[part][name].shape\n    saved[part][name] = m.Tensor(shape, lambda: bytes(4 * shape[0] * shape[1]))",
    );
    project.run(&[]).code(1).says("Refused gates[statistics.between_within_ratio >= 1.1]").never_says("Published");
    assert_eq!(project.commits(REPO), 1);
}
