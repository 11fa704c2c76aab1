//! Several uploads in one manifest, to repos of every sort and to branches.

use crate::support::Project;
use hfbuild::core::error::ErrorKind;
use hfbuild::hub::client::{CommitOutcome, CommitRequest, Operation};
use hfbuild::hub::embedded::{EmbeddedHub, Options};
use hfbuild::hub::{HubClient, RepoId, RepoKind};
use serde_json::Value;
use std::collections::BTreeMap;

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n";

const SPACE: &str = "---\ntitle: Cats\nemoji: 🐈\ncolorFrom: yellow\ncolorTo: gray\nsdk: gradio\nsdk_version: 6.31.0\n\
    app_file: app.py\nlicense: {{project.license}}\nmodels:\n- {{hub.repo}}\n---\n# Cats\n";

/// A model, a dataset and a Space; `more` is said of [hub], `space` of the Space's upload.
fn manifest(more: &str, space: &str) -> String {
    format!(
        r#"{HEAD}
[hub]
repo = "me/cats"
endpoint = "embedded"
{more}
[artifact.weights]
kind = "files"
paths = ["weights.bin"]
[artifact.pictures]
kind = "files"
paths = ["pictures.bin"]
[artifact.app]
kind = "files"
paths = ["app.py"]
[artifact.readme]
kind = "template"
template = "space/README.md.hbs"
[artifact.model]
kind = "upload"
files = {{ "weights.bin" = "weights" }}
[artifact.data]
kind = "upload"
type = "dataset"
repo = "me/pictures"
files = {{ "pictures.bin" = "pictures", "model.bin" = "weights" }}
[artifact.demo]
kind = "upload"
type = "space"
{space}
files = {{ "README.md" = "readme", "app.py" = "app" }}
"#
    )
}

fn three(more: &str, space: &str) -> Project {
    let project = Project::with(&manifest(more, space));
    project.write("weights.bin", "w1");
    project.write("pictures.bin", "p1");
    project.write("app.py", "print('cats')\n");
    project.write("space/README.md.hbs", SPACE);
    project
}

/// What stands on a branch of the project's embedded hub: the commits of its history and its files by path.
fn remote(project: &Project, kind: RepoKind, repo: &str, branch: &str) -> (Vec<String>, BTreeMap<String, u64>) {
    with_client(project, async |client| {
        let repo = RepoId::new(kind, repo).unwrap();
        let commits = client.commits_since(&repo, branch, "", 100).await.unwrap();
        let tree = client.tree(&repo, branch).await.unwrap();
        let files = tree.into_iter().filter(|(path, _)| path != ".gitattributes").map(|(path, f)| (path, f.size));
        (commits.into_iter().map(|c| c.id).collect(), files.collect())
    })
}

pub fn with_client<T>(project: &Project, ask: impl AsyncFnOnce(HubClient) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = project.path("cache/hub");
    runtime.block_on(async {
        let start = || EmbeddedHub::start(&folder, Options::default());
        let mut hub = start().await;
        // a program that another test starts holds the lock's file until it is loaded
        for _ in 0..100_000 {
            match &hub {
                Err(error) if error.kind() == ErrorKind::Locked => hub = start().await,
                _ => break,
            }
        }
        let hub = hub.unwrap();
        let answer = ask(HubClient::new(hub.url(), None).unwrap()).await;
        hub.stop().await;
        answer
    })
}

/// A colleague's commit.
pub fn colleague(project: &Project, kind: RepoKind, repo: &str, revision: &str, path: &str, content: &str) {
    with_client(project, async |client| {
        let repo = RepoId::new(kind, repo).unwrap();
        let parent = client.head(&repo, revision).await.unwrap().unwrap().sha;
        let operations = vec![Operation::AddRegular { path: path.into(), bytes: content.into() }];
        let request = CommitRequest { summary: "by hand".into(), description: String::new(), parent, operations };
        let outcome = client.commit(&repo, revision, &request).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Landed { .. }), "{outcome:?}");
    });
}

fn names(files: &BTreeMap<String, u64>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

#[test]
fn a_model_a_dataset_and_a_space_come_from_one_manifest() {
    let project = three("", "");
    let plan = project.run(&["plan"]).code(0);
    for line in ["Send me/cats: ", "Send datasets/me/pictures: ", "Send spaces/me/cats: "] {
        assert!(plan.stdout.contains(line), "{line}\n{}", plan.stdout);
    }
    let first = project.run(&[]).code(0).says("Published spaces/me/cats at ");
    assert_eq!(first.summary().matches("published ").count(), 3, "{}", first.summary());
    let (model, dataset) = (RepoKind::Model, RepoKind::Dataset);
    assert_eq!(names(&remote(&project, model, "me/cats", "main").1), ["provenance.json", "weights.bin"]);
    let there = remote(&project, dataset, "me/pictures", "main").1;
    assert_eq!(names(&there), ["model.bin", "pictures.bin", "provenance.json"]);
    let there = remote(&project, RepoKind::Space, "me/cats", "main").1;
    assert_eq!(names(&there), ["README.md", "app.py", "provenance.json"]);
    // each is laid out by itself, with a record of its own artifacts alone
    let laid: Vec<String> = project.tree("dist").into_keys().collect();
    assert_eq!(
        laid,
        [
            "data/model.bin",
            "data/pictures.bin",
            "data/provenance.json",
            "demo/README.md",
            "demo/app.py",
            "demo/provenance.json",
            "model/provenance.json",
            "model/weights.bin"
        ]
    );
    let record: Value = serde_json::from_str(&project.read("dist/demo/provenance.json")).unwrap();
    let artifacts = record["predicate"]["hfbuild"]["artifacts"].as_object().unwrap();
    assert_eq!(artifacts.keys().collect::<Vec<_>>(), ["app", "readme"]);
    // again: nothing
    let again = project.run(&[]).code(0);
    assert_eq!(again.summary().matches("remote unchanged at ").count(), 3, "{}", again.summary());
    assert_eq!(remote(&project, dataset, "me/pictures", "main").0.len(), 2);
}

#[test]
fn one_upload_is_published_by_itself_and_a_change_goes_where_it_belongs() {
    let project = three("", "");
    project.run(&["build", "demo"]).code(0).says("Published spaces/me/cats").never_says("datasets/me/pictures");
    assert_eq!(project.commits("me/cats"), 0);
    project.run(&[]).code(0);
    project.write("pictures.bin", "p2");
    let run = project.run(&[]).code(0).says("Published datasets/me/pictures");
    assert_eq!(run.summary().matches("remote unchanged at ").count(), 2, "{}", run.summary());
    // `weights` is in two repos
    project.write("weights.bin", "w2");
    let run = project.run(&[]).code(0);
    assert_eq!(run.summary().matches("published ").count(), 2, "{}", run.summary());
}

#[test]
fn the_looking_commands_name_every_target() {
    let project = three("", "revision = \"next\"\npull_request = true");
    project.run(&["build", "model", "data"]).code(0);
    let json: Value = serde_json::from_str(&project.run(&["plan", "--json"]).code(0).stdout).unwrap();
    let target = |name: &str| {
        let sends = json["publishes"].as_array().unwrap();
        let send = sends.iter().find(|s| s["artifact"] == name).unwrap();
        ["type", "repo", "revision", "endpoint"].map(|key| send[key].as_str().unwrap().to_string())
    };
    assert_eq!(target("data"), ["dataset", "me/pictures", "main", "embedded"]);
    assert_eq!(target("demo"), ["space", "me/cats", "next", "embedded"]);
    let status = project.run(&["status"]).code(0).prints("last publish  datasets/me/pictures at ");
    assert!(status.stdout.contains("last publish  none to spaces/me/cats@next from here"), "{}", status.stdout);
    project
        .run(&["explain", "demo"])
        .code(0)
        .prints("to      the space me/cats, branch next, on embedded, as a pull request")
        .prints("laid out in dist/demo/");
    project.run(&["graph"]).code(0).prints("demo([\"demo\"])");
}

#[test]
fn an_upload_that_is_refused_stops_only_what_waits_for_it() {
    let project = three("", "after = [\"data\"]");
    project.run(&[]).code(0);
    colleague(&project, RepoKind::Dataset, "me/pictures", "main", "pictures.bin", "by hand");
    for (file, text) in [("weights.bin", "w2"), ("app.py", "print('more cats')\n")] {
        project.write(file, text);
    }
    // the dataset has drifted, which is known before anything runs; the Space waits for it; the model does neither
    let run = project
        .run(&[])
        .code(5)
        .says("Published me/cats at ")
        .says("Blocked demo by data")
        .says("`data`: `datasets/me/pictures` is not what the last publish left: 1 file differs");
    assert!(run.summary().contains("1 failed, 1 not run, published "), "{}", run.summary());
    assert_eq!(remote(&project, RepoKind::Space, "me/cats", "main").0.len(), 2);
    assert_eq!(project.commits("me/cats"), 2);
    project.run(&["--overwrite"]).code(0).says("Published spaces/me/cats").says("Published datasets/me/pictures");
}

#[test]
fn what_waits_for_a_publish_alone_is_known_before_that() {
    let project = three("", "after = [\"data\"]");
    project.run(&[]).code(0);
    project.write("pictures.bin", "p2");
    project.run(&["build", "pictures"]).code(0);
    let plan = project.run(&["plan"]).code(0).prints("Send datasets/me/pictures: 2 of 3 files changed");
    assert!(!plan.stdout.contains("spaces/me/cats"), "it is up to date: {}", plan.stdout);
    project.write("app.py", "print('more cats')\n");
    project.run(&["build", "app"]).code(0);
    project.run(&["plan"]).code(0).prints("Send spaces/me/cats: 2 of 3 files changed").prints("~ app.py  19 B");
    project.run(&[]).code(0).says("Published spaces/me/cats");
}

#[test]
fn nothing_is_run_for_an_upload_that_cannot_be() {
    let project = three("", "");
    let slow =
        "[artifact.slow]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"date > {out}\"]\noutputs = [\"slow.txt\"]\n";
    let manifest = manifest("", "").replace("\"model.bin\" = \"weights\"", "\"slow.txt\" = \"slow\"");
    project.write("publish.toml", &format!("{manifest}{slow}"));
    project.run(&[]).code(0);
    colleague(&project, RepoKind::Dataset, "me/pictures", "main", "pictures.bin", "by hand");
    project.write("weights.bin", "w2");
    project.write("publish.toml", &format!("{manifest}{}", slow.replace("date", "date +%s")));
    project.run(&[]).code(5).never_says("Running slow").says("Published me/cats at ");
}

#[test]
fn a_repo_on_the_command_line_is_taken_only_where_it_can_mean_one() {
    let project = three("", "");
    project
        .run(&["--repo", "me/other"])
        .code(2)
        .says("`--repo me/other` is one repo, and `data` has its own, `me/pictures`")
        .says("hint: name one upload (`hfbuild build data --repo ...`)");
    // these take [hub]'s: a model and a Space of one name
    project.run(&["build", "model", "demo", "--repo", "me/other"]).code(0);
    assert_eq!((project.commits("me/other"), project.commits("me/cats")), (1, 0));
    assert_eq!(remote(&project, RepoKind::Space, "me/other", "main").0.len(), 2);
    project.run(&["build", "data", "--repo", "me/third"]).code(0).says("Published datasets/me/third");
    // two that a flag would bring together
    let both = manifest("", "").replace("type = \"dataset\"\nrepo = \"me/pictures\"", "repo = \"me/b\"");
    project.write("publish.toml", &both);
    project.run(&["plan", "--repo", "me/x"]).code(2).says("`data` has its own, `me/b`");
}

#[test]
fn uploads_that_would_get_into_each_others_way_are_refused_with_both_places() {
    let with = |more: &str| {
        let project = three("", more);
        project.run(&["plan"]).code(2)
    };
    let same = manifest("", "").replace("\"README.md\" = \"readme\", ", "");
    let same = same.replace("type = \"space\"", "type = \"dataset\"\nrepo = \"me/pictures\"");
    let project = three("", "");
    project.write("publish.toml", &same);
    project
        .run(&["plan"])
        .code(2)
        .says("`demo` and `data` both publish to the dataset `me/pictures` at `main`: each would delete the other's files")
        .says("the other upload, `data`, is here");
    with("dist = \"dist/model/x\"").says("`demo` is laid out in `dist/model/x/`, and `model` in `dist/model/`");
}

#[test]
fn a_profile_changes_one_upload_or_all() {
    let profiles =
        "[profile.mine]\nhub = { repo = \"you/cats\" }\n[profile.mine.upload.data]\nrepo = \"you/pictures\"\n";
    let project = three("", "");
    project.write("publish.toml", &format!("{}{profiles}", manifest("", "")));
    project
        .run(&["--profile", "mine"])
        .code(0)
        .says("Published datasets/you/pictures")
        .says("Published spaces/you/cats");
    assert_eq!((project.commits("you/cats"), project.commits("me/cats")), (1, 0));
    assert!(project.read("dist/demo/README.md").contains("- you/cats"));
    let wrong = format!("{}{}", manifest("", ""), profiles.replace("upload.data", "upload.dat"));
    project.write("publish.toml", &wrong);
    project
        .run(&["plan"])
        .code(2)
        .says("profile `mine` has keys for the upload `dat`, and no upload is called so")
        .says("hint: did you mean `data`?");
}

#[test]
fn an_upload_with_a_repo_of_its_own_needs_no_hub_table() {
    let project = Project::with(&format!(
        "{HEAD}[artifact.f]\nkind = \"files\"\npaths = [\"f.bin\"]\n[artifact.u]\nkind = \"upload\"\nrepo = \"me/alone\"\n\
         files = {{ \"f.bin\" = \"f\" }}\n"
    ));
    project.write("f.bin", "1");
    project.run(&["--endpoint", "embedded"]).code(0).says("Published me/alone");
    assert!(project.path("dist/f.bin").exists());
}

#[test]
fn a_second_upload_moves_the_first_ones_tree_into_a_folder() {
    let one = format!(
        "{HEAD}[hub]\nrepo = \"me/a\"\nendpoint = \"embedded\"\n[artifact.f]\nkind = \"files\"\npaths = [\"f.bin\"]\n\
         [artifact.u]\nkind = \"upload\"\nfiles = {{ \"f.bin\" = \"f\" }}\n"
    );
    let project = Project::with(&one);
    project.write("f.bin", "1");
    project.run(&[]).code(0);
    assert!(project.path("dist/f.bin").exists() && project.path("dist/provenance.json").exists());
    project.write("dist/mine.txt", "mine");
    let two = "[artifact.v]\nkind = \"upload\"\nrepo = \"me/b\"\nfiles = { \"g.bin\" = \"f\" }\n";
    project.write("publish.toml", &format!("{one}{two}"));
    project.run(&[]).code(0);
    let laid: Vec<String> = project.tree("dist").into_keys().collect();
    assert_eq!(laid, ["mine.txt", "u/f.bin", "u/provenance.json", "v/g.bin", "v/provenance.json"]);
}

#[test]
fn a_branch_that_is_not_there_is_made_from_main_and_the_plan_says_so() {
    let project = three("", "");
    project.run(&["build", "model"]).code(0);
    let model = RepoKind::Model;
    let main = remote(&project, model, "me/cats", "main").0;
    project.write("publish.toml", &manifest("revision = \"staging\"", ""));
    project.write("weights.bin", "w2");
    let plan = project.run(&["plan", "model"]).code(0);
    assert!(!plan.stderr.contains("error"), "{}", plan.stderr);
    let line = format!("the branch `staging` is not there: it is made from `main` at {}", &main[0][..7]);
    assert!(plan.stdout.contains(&line), "{}", plan.stdout);
    project.run(&["build", "model"]).code(0).says("made the branch `staging` from `main`").says("me/cats@staging at ");
    let (staging, files) = remote(&project, model, "me/cats", "staging");
    assert_eq!((staging[1..].to_vec(), files["weights.bin"]), (main.clone(), 2));
    assert_eq!(remote(&project, model, "me/cats", "main").0, main);
    project.run(&["build", "model"]).code(0).says("remote unchanged");
    // back on main there is nothing new, and the two do not disturb each other
    project.write("publish.toml", &manifest("", ""));
    project.write("weights.bin", "w1");
    project.run(&["build", "model"]).code(0).says("remote unchanged");
}

#[test]
fn a_branch_that_would_equal_main_is_made_without_a_commit() {
    let project = three("", "");
    project.run(&["build", "model"]).code(0);
    project.write("publish.toml", &manifest("revision = \"copy\"", ""));
    project.run(&["build", "model"]).code(0).says("made the branch `copy`");
    let model = RepoKind::Model;
    assert_eq!(remote(&project, model, "me/cats", "copy").0, remote(&project, model, "me/cats", "main").0);
    project.run(&["build", "model"]).code(0).says("remote unchanged");
}

#[test]
fn a_new_repo_gets_the_branch_too() {
    let project = three("revision = \"dev\"", "");
    project.run(&["build", "model", "demo"]).code(0);
    let (commits, files) = remote(&project, RepoKind::Space, "me/cats", "dev");
    assert_eq!((commits.len(), files.len()), (2, 3));
    assert_eq!(remote(&project, RepoKind::Space, "me/cats", "main").0.len(), 1);
}

#[test]
fn a_branch_that_others_deleted_is_drift() {
    let project = three("revision = \"dev\"", "");
    project.run(&["build", "model"]).code(0);
    let heads = project.path("cache/hub/repos/models/me/cats/refs/heads/dev");
    std::fs::remove_file(heads).unwrap();
    project.run(&["build", "model"]).code(5).says("`me/cats@dev` is not what the last publish left: it is gone");
    project.run(&["build", "model", "--overwrite"]).code(0).says("made the branch `dev`");
}

#[test]
fn two_uploads_to_one_repo_may_not_share_a_tag() {
    let project = three("tag = \"v{project.version}\"", "type = \"model\"\nrevision = \"dev\"\n");
    let manifest = project.read("publish.toml").replace("type = \"space\"\n", "");
    let manifest = manifest.replace("{ \"README.md\" = \"readme\", \"app.py\" = \"app\" }", "{ \"app.py\" = \"app\" }");
    project.write("publish.toml", &manifest);
    project.run(&["plan"]).code(2).says("both tag the model `me/cats` with `v1.0.0`").says("a `tag` of its own");
}

#[test]
fn a_spaces_front_matter_is_checked_before_anything_is_sent() {
    let project = three("", "");
    project.write("space/README.md.hbs", &SPACE.replace("app_file: app.py", "app_file: main.py"));
    project
        .run(&["build", "demo"])
        .code(1)
        .says("`app_file` is `main.py`, which is not in the published tree")
        .says("README.md:8:")
        .never_says("Uploading");
    project.write("space/README.md.hbs", &SPACE.replace("colorTo: gray", "colorTo: grey"));
    project.run(&["build", "demo"]).code(1).says("did you mean `gray`?");
    // a README that is a file and no template is checked too, when it is about to be sent
    project.write("space/README.md.hbs", SPACE);
    let file = manifest("", "").replace(
        "kind = \"template\"\ntemplate = \"space/README.md.hbs\"",
        "kind = \"files\"\npaths = [\"README.md\"]",
    );
    project.write("publish.toml", &file);
    project.write("README.md", "---\ntitle: x\nsdk: gradio\n---\n");
    project.run(&["build", "demo"]).code(1).says("a gradio Space's front matter lacks `sdk_version`");
    assert!(!project.path("cache/hub/repos/spaces").exists());
}

#[test]
fn a_new_space_is_made_for_what_its_readme_says() {
    let project = three("", "");
    project.run(&["build", "demo"]).code(0);
    let record = project.read("cache/hub/repos/spaces/me/cats/repo.json");
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["sdk"], "gradio");
}

#[test]
fn two_repos_of_one_name_are_told_apart() {
    let project = three("", "");
    project.run(&[]).code(0);
    let verify = project.run(&["verify"]).code(0).says("`spaces/me/cats` at");
    assert!(verify.stdout.lines().any(|line| line.ends_with("spaces/me/cats")), "{}", verify.stdout);
    project.run(&["history"]).code(0).says("1 publish to `me/cats`").says("1 publish to `spaces/me/cats`");
    project.run(&["diff"]).code(0).says("`datasets/me/pictures`: nothing differs");
    for command in ["verify", "history", "diff"] {
        let all: Value = serde_json::from_str(&project.run(&[command, "--json"]).code(0).stdout).unwrap();
        let which = |r: &Value| ["artifact", "type", "revision"].map(|key| r[key].as_str().unwrap().to_string());
        let repos: Vec<_> = all["repos"].as_array().unwrap().iter().map(which).collect();
        let expected = [["model", "model", "main"], ["data", "dataset", "main"], ["demo", "space", "main"]];
        let expected: Vec<_> = expected.iter().map(|row| row.map(String::from)).collect();
        let sorted = |mut rows: Vec<[String; 3]>| {
            rows.sort();
            rows
        };
        assert_eq!(sorted(repos), sorted(expected), "{command}");
    }
}

#[test]
fn a_repo_to_which_nothing_was_published_is_in_what_verify_says() {
    let project = three("", "");
    project.run(&["build", "model"]).code(0);
    let run = project.run(&["verify", "--json"]).code(4);
    let all: Value = serde_json::from_str(&run.stdout).unwrap();
    let data = all["repos"].as_array().unwrap().iter().find(|r| r["artifact"] == "data").unwrap();
    assert_eq!(data["holds"], false);
    assert!(data["error"].as_str().unwrap().contains("`datasets/me/pictures`"), "{data}");
}

#[test]
fn a_file_becomes_a_folder_and_a_file_again() {
    let upload = |path: &str| {
        format!(
            "{HEAD}[hub]\nrepo = \"me/cats\"\nendpoint = \"embedded\"\n[artifact.a]\nkind = \"files\"\npaths = [\"a.txt\"]\n\
             [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"{path}\" = \"a\" }}\n"
        )
    };
    let project = Project::with(&upload("thing"));
    project.write("a.txt", "one\n");
    project.run(&[]).code(0);
    project.write("publish.toml", &upload("thing/deep/a.txt"));
    project.run(&[]).code(0);
    assert_eq!(names(&remote(&project, RepoKind::Model, "me/cats", "main").1), ["provenance.json", "thing/deep/a.txt"]);
    assert_eq!(project.read("dist/thing/deep/a.txt"), "one\n");
    // what somebody has put beside it is kept
    project.write("dist/thing/mine.txt", "mine\n");
    project.write("publish.toml", &upload("thing"));
    project.run(&[]).code(0).says("it is kept as");
    assert_eq!(names(&remote(&project, RepoKind::Model, "me/cats", "main").1), ["provenance.json", "thing"]);
    assert_eq!(project.read("dist/thing"), "one\n");
    assert!(project.tree("cache/displaced").into_values().any(|bytes| bytes == b"mine\n"));
}

#[test]
fn an_output_with_a_backslash_in_its_name_is_refused_by_its_stage() {
    let project = Project::with(&format!(
        "{HEAD}[hub]\nrepo = \"me/cats\"\nendpoint = \"embedded\"\n[artifact.odd]\nkind = \"command\"\n\
         run = [\"sh\", \"-c\", \"mkdir out && echo 1 > 'out/back\\\\\\\\slash.txt'\"]\noutputs = [\"out\"]\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"odd/\" = \"odd\" }}\n"
    ));
    project.run(&[]).code(1).says("holds a backslash in its name");
    project.write("publish.toml", &project.read("publish.toml").replace("back\\\\\\\\slash.txt", "a:b"));
    project.run(&[]).code(1).says("`out/a:b` has a name that begins as a drive's");
}

#[test]
fn a_plan_counts_the_files_of_an_artifact_that_is_not_made_yet() {
    let project = Project::with(&format!(
        "{HEAD}[hub]\nrepo = \"me/cats\"\nendpoint = \"embedded\"\n[artifact.data]\nkind = \"files\"\npaths = [\"a.txt\", \"big.bin\"]\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"files/\" = \"data\" }}\n"
    ));
    project.write("a.txt", "one\n");
    project.write("big.bin", "two\n");
    project.run(&["plan"]).code(0).prints("? files/a.txt").prints("? files/big.bin");
}

/// A project with one file, published, and what a colleague does then.
fn with_colleague(does: impl Fn(&Project)) -> Project {
    let project = Project::with(&format!(
        "{HEAD}[hub]\nrepo = \"me/cats\"\nendpoint = \"embedded\"\n[artifact.a]\nkind = \"files\"\npaths = [\"a.txt\"]\n\
         [artifact.b]\nkind = \"files\"\npaths = [\"b.txt\"]\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"a.txt\" = \"a\", \"b.txt\" = \"b\" }}\n"
    ));
    project.write("a.txt", "one\n");
    project.write("b.txt", "two\n");
    project.run(&[]).code(0);
    does(&project);
    project
}

#[test]
fn the_same_change_on_both_sides_is_no_drift_whether_it_is_made_already_or_not() {
    for made_before in [false, true] {
        let project = with_colleague(|p| colleague(p, RepoKind::Model, "me/cats", "main", "a.txt", "fixed\n"));
        project.write("a.txt", "fixed\n");
        if made_before {
            project.run(&["build", "a"]).code(0);
            project.run(&["plan"]).code(0).prints("Send me/cats: 1 of 3 files changed");
        }
        project.run(&[]).code(0).says("Published me/cats");
    }
    let project = with_colleague(|p| colleague(p, RepoKind::Model, "me/cats", "main", "a.txt", "theirs\n"));
    project.write("a.txt", "fixed\n");
    project.run(&[]).code(5).says("`a.txt` (changed there)").never_says("Running");
}

#[test]
fn a_file_of_somebody_elses_in_the_way_is_said_before_the_stages_and_not_called_a_publish() {
    let project = with_colleague(|p| colleague(p, RepoKind::Model, "me/cats", "main", "c.txt", "theirs\n"));
    let more =
        "[artifact.c]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"echo ours > c.txt\"]\noutputs = [\"c.txt\"]\n";
    let manifest = project.read("publish.toml").replace("\"b.txt\" = \"b\"", "\"b.txt\" = \"b\", \"c.txt\" = \"c\"");
    project.write("publish.toml", &format!("{manifest}{more}"));
    let refused =
        project.run(&[]).code(5).says("has a file in the way that hfbuild did not put there").says("(not of ours)");
    let (said, ran) = (refused.stderr.find("which hfbuild did not put there"), refused.stderr.find("Running"));
    assert!(said.is_some() && said < ran, "{}", refused.stderr);
}

#[test]
fn a_branch_that_was_deleted_and_is_published_to_again_has_the_manifests_files_and_no_others() {
    let manifest = format!(
        "{HEAD}[hub]\nrepo = \"me/cats\"\nendpoint = \"embedded\"\n[artifact.a]\nkind = \"files\"\npaths = [\"a.txt\"]\n\
         [artifact.b]\nkind = \"files\"\npaths = [\"b.txt\"]\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"a.txt\" = \"a\", \"b.txt\" = \"b\" }}\n\
         [artifact.stg]\nkind = \"upload\"\nrevision = \"staging\"\nafter = [\"publish\"]\nfiles = {{ \"a.txt\" = \"a\" }}\n"
    );
    let project = Project::with(&manifest);
    project.write("a.txt", "one\n");
    project.write("b.txt", "two\n");
    project.run(&[]).code(0);
    let staging = || remote(&project, RepoKind::Model, "me/cats", "staging").1;
    assert_eq!(names(&staging()), ["a.txt", "provenance.json"]);
    let ref_file = project.path("cache/hub/repos/models/me/cats/refs/heads/staging");
    std::fs::remove_file(ref_file).unwrap();
    project.run(&[]).code(5).says("it is gone");
    project.run(&["--overwrite"]).code(0);
    assert_eq!(names(&staging()), ["a.txt", "provenance.json"]);
    project.run(&["verify"]).code(0);
}

#[test]
fn a_plan_and_a_diff_name_what_others_changed_and_a_publish_would_change_back() {
    let project = with_colleague(|p| colleague(p, RepoKind::Model, "me/cats", "main", "a.txt", "theirs\n"));
    let manifest = project.read("publish.toml").replace("endpoint = ", "on_drift = \"overwrite\"\nendpoint = ");
    project.write("publish.toml", &manifest);
    project.run(&["plan"]).code(0).prints("over what others changed on the remote").prints("a.txt: changed");
    project.run(&["diff"]).code(0).says("the remote was changed by others (1 file)");
}
