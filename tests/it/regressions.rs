//! Mistakes that were made once, each as a transcript.

use crate::support::Project;

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n";

/// `a` counts lines, `p` doubles, `q` copies and adds.
fn chain(tail: &str) -> String {
    format!(
        r#"{HEAD}
[artifact.a]
kind = "command"
run = ["sh", "-c", "wc -l < {{in.s}} > {{out}}"]
inputs = {{ s = "s.txt" }}
outputs = ["out/a.txt"]
[artifact.p]
kind = "command"
run = ["sh", "-c", "cat {{in.a}} {{in.a}} > {{out}}"]
inputs = {{ a = "a" }}
outputs = ["out/p.txt"]
[artifact.q]
kind = "command"
run = ["sh", "-c", "cat {{in.p}} > {{out}}; echo {tail} >> {{out}}"]
inputs = {{ p = "p" }}
outputs = ["out/q.txt"]
"#
    )
}

#[test]
fn a_blob_that_is_lost_behind_a_cutoff_is_made_again_before_it_is_read() {
    let project = Project::with(&chain("1"));
    project.write("s.txt", "x\n");
    project.run(&[]).code(0);
    let doubled = project.read("out/p.txt");
    let blob =
        project.path("cache/blobs").join(&blake3_hex(doubled.as_bytes())[..2]).join(blake3_hex(doubled.as_bytes()));
    std::fs::remove_file(&blob).unwrap();
    project.write("s.txt", "y\n");
    project.write("publish.toml", &chain("2"));
    project.run(&[]).code(0).says("is gone in the cache");
    assert_eq!(project.read("out/q.txt"), format!("{doubled}2\n"));
    assert!(blob.exists());
}

fn blake3_hex(bytes: &[u8]) -> String {
    hfbuild::core::digest::Digest::of(bytes).hex()
}

fn publishing(more: &str) -> String {
    format!(
        r#"{HEAD}
[hub]
repo = "me/it"
endpoint = "embedded"
{more}
[artifact.data]
kind = "files"
paths = ["src/data.bin"]
[artifact.publish]
kind = "upload"
files = {{ "data.bin" = "data" }}
"#
    )
}

#[test]
fn a_users_own_file_below_dist_is_never_removed() {
    let project = Project::with(&publishing(""));
    project.write("src/data.bin", "one");
    project.run(&[]).code(0);
    project.write("dist/my-backup.bin", "one");
    project.write("src/data.bin", "two");
    project.run(&[]).code(0).says("`dist/my-backup.bin` is not part of the tree");
    assert_eq!(project.read("dist/my-backup.bin"), "one");
}

#[test]
fn a_dist_that_holds_a_source_is_refused_and_nothing_is_removed() {
    let manifest = publishing("").replace("kind = \"upload\"", "kind = \"upload\"\ndist = \"src\"");
    let project = Project::with(&manifest);
    project.write("src/data.bin", "one");
    project.run(&[]).code(2).says("the published tree is laid out in `src`");
    assert_eq!(project.read("src/data.bin"), "one");
}

#[test]
fn a_tag_that_cannot_be_is_refused_before_anything_runs() {
    for tag in ["v{project.versio}", "v 1", "a..b", "v~1"] {
        let project = Project::with(&publishing(&format!("tag = \"{tag}\"")));
        project.write("src/data.bin", "one");
        project.run(&[]).code(2).says("--> publish.toml:9:7").never_says("Running");
    }
    let project = Project::with(&publishing("tag = \"v{project.version}\"\non_tag = \"fail\""));
    project.write("src/data.bin", "one");
    project.run(&[]).code(0);
    project.write("src/data.bin", "two");
    project.run(&[]).code(4).says("tag `v1.0.0` is there already").never_says("Running");
    assert_eq!(project.commits("me/it"), 1);
}

#[test]
fn moving_an_artifact_in_the_manifest_changes_nothing_that_is_published() {
    let project = Project::with(&publishing("").replace("files = { ", "files = { \"b.bin\" = \"zeta\", "));
    let zeta = "[artifact.zeta]\nkind = \"files\"\npaths = [\"src/zeta.bin\"]\n";
    let manifest = project.read("publish.toml");
    project.write("src/data.bin", "one");
    project.write("src/zeta.bin", "three");
    project.write("publish.toml", &format!("{manifest}{zeta}"));
    project.run(&[]).code(0);
    project.write("publish.toml", &manifest.replace("[artifact.data]", &format!("{zeta}[artifact.data]")));
    project.run(&["plan", "--check"]).code(0).says("nothing to do");
}

#[test]
fn a_cache_of_another_version_is_set_aside_and_the_plan_knows_it() {
    let project = Project::with(&publishing(""));
    project.write("src/data.bin", "one");
    project.run(&[]).code(0);
    project.write("cache/VERSION", "99\n");
    project.run(&["plan"]).code(0).prints("Run data: it never ran");
    let run = project.run(&[]).code(0).says("it is kept as `cache/old-1`");
    assert!(run.summary().contains("remote unchanged"), "what was published stays known: {}", run.summary());
    assert!(project.path("cache/old-1/actions/log").exists());
}

#[test]
fn a_card_says_of_the_samples_what_was_drawn_and_not_what_was_meant() {
    let project = Project::root_model(|m| {
        let m = m.replace("steps = 50", "steps = 2").replace("guidance = \"params.guidance\"\n", "");
        m.replace("count = \"params.count\"", "count = 2")
            .replace("    \"samples.neighbour_correlation >= 0.3\",\n", "")
    });
    project.run(&[]).code(0);
    let card = project.read("dist/README.md");
    assert!(card.contains("2 pictures a label"), "{card}");
    assert!(!card.contains("guidance\n1.5"), "{card}");
    let script = project.read("dist/inference.py");
    assert!(script.contains("DEFAULT_GUIDANCE = \"as the graph has it\""), "{script}");
}

#[test]
fn mistakes_in_a_template_or_a_gate_are_found_when_planning() {
    let wrong = |edit: &dyn Fn(&Project), says: &str| {
        let project = Project::small_model();
        edit(&project);
        project.run(&["plan"]).code(2).says(says);
    };
    let card = |from: &'static str, to: &'static str| {
        move |p: &Project| p.write("templates/card.md.hbs", &p.read("templates/card.md.hbs").replace(from, to))
    };
    wrong(&card("thousands weights.parameters", "thousands wights.parameters"), "did you mean `weights`?");
    wrong(&card("thousands weights.parameters", "thousands weights.paramaters"), "did you mean `parameters`?");
    wrong(&card("thousands weights.parameters", "thousandz weights.parameters"), "did you mean `thousands`?");
    let gate = |from: &'static str, to: &'static str| {
        move |p: &Project| p.write("publish.toml", &p.read("publish.toml").replace(from, to))
    };
    wrong(&gate("checkpoint.step >= 1000", "checkpoint.stepp >= 1000"), "did you mean `checkpoint.step`?");
    wrong(&gate("size(params.labels)", "size(params.label)"), "did you mean `params.labels`?");
}

#[test]
fn every_fact_that_a_stage_measures_is_one_that_its_kind_names() {
    let project = Project::small_model();
    project.run(&[]).code(0);
    let record: serde_json::Value = serde_json::from_str(&project.read("dist/provenance.json")).unwrap();
    let infos = hfbuild::stage::infos();
    let artifacts = record.pointer("/predicate/hfbuild/artifacts").unwrap().as_object().unwrap();
    assert!(artifacts.len() > 20);
    for (name, artifact) in artifacts {
        let info = infos.iter().find(|i| i.name == artifact["kind"]).unwrap();
        for fact in artifact["facts"].as_object().unwrap().keys() {
            assert!(
                info.has_fact(fact) && !info.facts.is_empty(),
                "`{name}` measured `{fact}`, which kind `{}` does not name",
                info.name
            );
        }
    }
}

#[test]
fn a_second_upload_to_the_one_repo_is_refused() {
    let second = "[artifact.again]\nkind = \"upload\"\nfiles = { \"z.bin\" = \"data\" }\n";
    let project = Project::with(&format!("{}{second}", publishing("")));
    project.write("src/data.bin", "one");
    project
        .run(&["plan"])
        .code(2)
        .says("`again` and `publish` both publish to the model `me/it` at `main`: each would delete the other's files")
        .says("or put its files into [artifact.publish]")
        .says("the other upload, `publish`, is here");
}

#[test]
fn an_output_that_stands_in_dist_is_not_cleared_when_it_is_no_longer_published() {
    let made = "[artifact.made]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"echo 1 > dist/extra.txt\"]\noutputs = [\"dist/extra.txt\"]\n";
    let project = Project::with(&format!(
        "{}{made}",
        publishing("").replace("files = { ", "files = { \"extra.txt\" = \"made\", ")
    ));
    project.write("src/data.bin", "one");
    project.run(&[]).code(0);
    project.write("publish.toml", &format!("{}{made}", publishing("")));
    project.run(&[]).code(0);
    assert_eq!(project.read("dist/extra.txt"), "1\n");
    project.run(&["plan", "--check"]).code(0);
}

#[test]
fn a_users_file_at_the_place_of_an_output_is_kept_however_often_hfbuild_runs() {
    let project = Project::with(&format!(
        "{HEAD}[artifact.a]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"echo made > mine.txt\"]\noutputs = [\"mine.txt\"]\n"
    ));
    project.write("mine.txt", "precious");
    project.run(&[]).code(0).says("`mine.txt` is not what hfbuild put there; it is kept as `cache/displaced/");
    for _ in 0..22 {
        project.run(&["-q", "build", "--force", "a", "a"]).code(0);
    }
    project.run(&["clean"]).code(0);
    let kept: Vec<_> = project.tree("cache/displaced").into_values().collect();
    assert_eq!(kept, [b"precious".to_vec()]);
}
