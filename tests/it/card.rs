//! The card: what it refuses, what it says of results, and that its own snippets and handler work from the published tree.

use crate::support::{Project, Served, python, root, run};
use hfbuild::model::checkpoint::{Checkpoint, Scalar, Settings};
use hfbuild::model::pytorch_out::{self, Saved};
use hfbuild::model::tensor::{StateDict, TensorEntry};
use serde_json::Value;
use std::process::Command;

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"1\"\nlicense = \"mit\"\n[hub]\nrepo = \"me/p\"\nendpoint = \"embedded\"\n\
    [declared]\nday = { value = \"2025-09-30\", source = \"the lab book\" }\n";

/// A project whose evaluation gives `accuracy` 0.93 and `parameters` 33063168, with this card, and further keys of it.
fn project(card: &str, keys: &str) -> Project {
    let tables = format!(
        "[artifact.evaluation]\nkind = \"command\"\nrun = [\"sh\", \"eval.sh\"]\noutputs = [\"evaluation.json\"]\n\
         facts_file = \"evaluation.json\"\ninputs = {{ script = \"eval.sh\", data = \"data.txt\" }}\n\
         [artifact.data]\nkind = \"files\"\npaths = [\"data.txt\"]\n\
         [artifact.card]\nkind = \"card\"\ntemplate = \"card.md.hbs\"\nfacts = [\"evaluation\"]\n{keys}\n\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"README.md\" = \"card\", \"data.txt\" = \"data\" }}\n"
    );
    let project = Project::with(&format!("{HEAD}{tables}"));
    project.write("eval.sh", "echo '{\"accuracy\": 0.93, \"parameters\": 33063168}' > evaluation.json\n");
    project.write("data.txt", "1\n");
    project.write("card.md.hbs", &format!("---\nlicense: {{{{project.license}}}}\n---\n{card}\n"));
    project
}

const RESULT: &str = "results = [{ task = \"image-classification\", dataset = { type = \"acme/set\", name = \"Set\" }, \
    metric = \"accuracy\", value = \"evaluation.accuracy\", on = \"data.txt\" }]";

/// A row of `rows`.
pub fn a_figure_typed_next_to_a_fact_that_says_otherwise_is_refused_with_line_and_column() {
    let project = project("It has 22M parameters.", "");
    project.run(&[]).code(1).says("card.md.hbs:4:8").says("`22M`").says("`evaluation.parameters` is 33063168");
    project
        .write("card.md.hbs", "---\nlicense: mit\n---\n33M parameters, {{literal \"22M\" \"the older\"}} parameters\n");
    project.run(&[]).code(0);
    assert!(project.read("dist/README.md").ends_with("33M parameters, 22M parameters\n"));
}

/// A row of `rows`.
pub fn a_licence_that_contradicts_its_text_is_refused_before_anything_runs() {
    let project = project("a", "");
    project.copy(&root().join("LICENSE"), "LICENSE");
    project
        .run(&["plan"])
        .code(2)
        .says("license `mit`")
        .says("`LICENSE` is the text of `apache-2.0`")
        .says("publish.toml:4:11");
}

/// A row of `rows`.
pub fn a_figure_of_one_file_is_not_said_of_another() {
    let project = project("Measured on {{measured_on evaluation.accuracy \"data.txt\"}}: {{evaluation.accuracy}}", "");
    project.run(&[]).code(1).says("`evaluation.accuracy` was measured on").says("`data.txt` of the published tree is");
}

/// A row of `rows`.
pub fn a_link_to_what_will_not_be_there_is_refused() {
    project("[x](nope.txt)", "")
        .run(&[])
        .code(1)
        .says("`nope.txt`, which is not in the published tree")
        .says("README.md:4:1");
}

#[test]
fn results_are_held_against_the_tree_of_their_own_card() {
    let project = project("a", RESULT);
    let other = "[artifact.other]\nkind = \"files\"\npaths = [\"eval.sh\"]\n\
                 [artifact.data2]\nkind = \"upload\"\ntype = \"dataset\"\nrepo = \"me/d\"\ndist = \"d2\"\nfiles = { \"eval.sh\" = \"other\" }\n";
    project.write("publish.toml", &format!("{}{other}", project.read("publish.toml")));
    project.run(&[]).code(0);
    assert_eq!((project.commits("me/p"), project.path("d2/eval.sh").exists()), (1, true));
}

#[test]
fn a_step_that_is_no_number_is_told_and_not_dropped() {
    let project = Project::empty();
    let weights = TensorEntry::of_f32("w", vec![1], &[1.0]).and_then(|one| StateDict::new(vec![one])).expect("weights");
    let saved = Saved::Dict(vec![
        ("model".into(), Saved::Tensors(&weights)),
        ("step".into(), Saved::Plain(Scalar::Text("200000".into()))),
        ("loss".into(), Saved::Plain(Scalar::Bool(true))),
    ]);
    pytorch_out::write(&project.path("a.pt"), "a", &saved).expect("the file");
    let told = project.run(&["inspect", "a.pt", "--json"]);
    assert!(
        told.stdout.contains("unread.step") && told.stdout.contains("unread.loss"),
        "{}{}",
        told.stdout,
        told.stderr
    );
}

#[test]
fn a_link_to_a_heading_that_is_not_there_is_refused_with_its_place() {
    project("[x](#measured)\n\n## Measured\n", "").run(&[]).code(0);
    let run = project("[x](#mesured)\n\n## Measured\n", "").run(&[]).code(1);
    run.says("the card links to `#mesured`").says("README.md:4:1").says("did you mean `#measured`?");
}

#[test]
fn a_text_that_passes_through_a_helper_for_numbers_stays_one_line_of_the_front_matter() {
    let card = "---\nlicense: mit\ntags:\n- {{HELPER declared.day.value 3}}\n---\na\n";
    for helper in ["round", "thousands", "bytes", "sci", "percent"] {
        let project = project("a", "");
        let manifest = project.read("publish.toml");
        project.write("card.md.hbs", &card.replace("HELPER", helper));
        project.run(&[]).code(0);
        project.write("publish.toml", &manifest.replace("2025-09-30", "a\\nlicense: apache-2.0"));
        project.run(&[]).code(1).says("is filled into the front matter, and is more than one line");
    }
}

#[test]
fn a_front_matter_that_the_hub_would_refuse_is_refused_offline() {
    let project = project("a", "");
    project.write("card.md.hbs", "---\nlicense: mit\npipeline_tag: image-generation\nlibrary_name: onnx\n---\na\n");
    // where the template shows it, before anything runs, and all of it when the card is rendered
    let run = project.run(&[]).code(2).says("card.md.hbs:3:15").says("card.md.hbs:4:15");
    run.says("a file format is no library").never_says("Running");
    project.write("card.md.hbs", "---\nlicense: mit\npipeline_tag: {{project.name}}\ntags: x\n---\na\n");
    project.run(&[]).code(1).says("README.md:3:15").says("README.md:4:7");
}

#[test]
fn results_come_from_facts_and_stand_in_the_cards_model_index_and_in_eval_results() {
    let project = project("a", RESULT);
    project.run(&[]).code(0);
    let card = project.read("dist/README.md");
    assert!(card.contains("    metrics:\n    - type: \"accuracy\"\n      value: 0.93\n---\na\n"), "{card}");

    let eval = "[artifact.acme]\nkind = \"eval_results\"\nresults = [{ dataset = { id = \"acme/set\", task_id = \"all\" }, \
        value = \"evaluation.accuracy\", on = \"data.txt\", date = \"declared.day\" }]\n";
    let manifest = project.read("publish.toml").replace("[artifact.publish]", &format!("{eval}[artifact.publish]"));
    let manifest =
        manifest.replace("\"data.txt\" = \"data\"", "\"data.txt\" = \"data\", \".eval_results/acme.yaml\" = \"acme\"");
    project.write("publish.toml", &manifest);
    project.run(&[]).code(0);
    let file = project.read("dist/.eval_results/acme.yaml");
    assert_eq!(file, "- dataset:\n    id: \"acme/set\"\n    task_id: \"all\"\n  value: 0.93\n  date: \"2025-09-30\"\n");

    project.write("publish.toml", &manifest.replace("id = \"acme/set\"", "id = \"https://hub.co/acme/set\""));
    project
        .run(&["plan"])
        .code(2)
        .says("`https://hub.co/acme/set`, which is no repo on the Hub")
        .says("namespace/name");

    let typed = manifest.replace("value = \"evaluation.accuracy\", on = \"data.txt\" }]", "value = \"0.99\" }]");
    project.write("publish.toml", &typed);
    project.run(&["plan"]).code(2).says("a typed figure");
}

#[test]
fn a_result_is_of_a_published_file_and_of_one_value() {
    let project = project("a", RESULT);
    let manifest = project.read("publish.toml");
    // what the command was given is not told apart, and nobody says which of it was measured
    project.write("publish.toml", &manifest.replace(", on = \"data.txt\"", ""));
    project.run(&[]).code(1).says("`evaluation.accuracy` was measured on").says("not in the published tree");
    project.write("publish.toml", &manifest.replace("on = \"data.txt\"", "on = \"nope.txt\""));
    project.run(&["plan"]).code(2).says("`nope.txt`, which no upload publishes");
    let again = RESULT.replace("results = [", "").replace("}]", "}");
    project.write("publish.toml", &manifest.replace("results = [", &format!("results = [{again}, ")));
    project.run(&["plan"]).code(2).says("two results are of one task, dataset and metric");
    project.write("publish.toml", &manifest);
    project.run(&[]).code(0);

    // a report binds its figures to one file, whose digest is published or not; a frozen one stays of the file before
    let report = "[artifact.evaluation]\nkind = \"report\"\npath = \"r.json\"\nfrozen = true\n\
        schema = { accuracy = \"number\" }\nsubject = { of = \"OF\", key = \"sha256\" }\n[artifact.data]";
    let (before, _) = manifest.split_once("[artifact.evaluation]").expect("a table");
    let (_, after) = manifest.split_once("[artifact.data]").expect("a table");
    let with = |of: &str| {
        let text = format!("{before}{}{after}", report.replace("OF", of)).replace(", on = \"data.txt\"", "");
        project.write("publish.toml", &text);
        let sha256 = hfbuild::core::record::hub_digests(project.read(of).as_bytes()).sha256;
        project.write("r.json", &format!("{{\"accuracy\": 0.5, \"sha256\": \"{sha256}\"}}"));
    };
    project.write("other.txt", "2\n");
    with("data.txt");
    project.run(&["--force", "evaluation"]).code(0);
    project.run(&[]).code(0);
    assert!(project.read("dist/README.md").contains("value: 0.5"));
    project.write("data.txt", "3\n");
    project.run(&[]).code(1).says("`evaluation.accuracy` was measured on `data.txt`").says("not in the published tree");
    with("other.txt");
    project.run(&["--force", "evaluation"]).code(1).says("`evaluation.accuracy` was measured on `other.txt`");
}

#[test]
fn each_shard_of_a_block_has_its_own_subject() {
    let tables = "[params]\nitems = [\"a\", \"b\"]\n[artifact.ev]\nkind = \"command\"\neach = \"params.items\"\n\
        run = [\"sh\", \"-c\", \"echo '{\\\"fid\\\": 2}' > {out}\"]\noutputs = [\"{each}.json\"]\nfacts_file = \"{each}.json\"\n\
        inputs = { model = \"m/{each}.txt\" }\n[artifact.card]\nkind = \"card\"\ntemplate = \"card.md.hbs\"\nfacts = [\"ev\"]\n\
        [artifact.publish]\nkind = \"upload\"\nfiles = { \"README.md\" = \"card\" }\n";
    let project = Project::with(&format!("{HEAD}{tables}"));
    project.write("m/a.txt", "1\n");
    project.write("m/b.txt", "2\n");
    let card = "{{#each ev.shards as |s|}}\n{{s.key}} {{s.fid}} {{subject s.fid}}\n{{/each}}\n";
    project.write("card.md.hbs", &format!("---\nlicense: mit\n---\n{card}"));
    project.run(&[]).code(0);
    let said = |key: &str| {
        let card = project.read("dist/README.md");
        let line =
            card.lines().find(|line| line.starts_with(&format!("{key} 2 m/{key}.txt, BLAKE3 "))).map(String::from);
        line.unwrap_or_else(|| panic!("{card}"))
    };
    let (a, b) = (said("a"), said("b"));
    assert_ne!(a[2..], b[2..]);
    // the subject is in the key: the fact stays as it is
    project.write("m/b.txt", "3\n");
    project.run(&[]).code(0);
    assert!(said("a") == a && said("b") != b);
}

#[test]
fn a_template_with_line_ends_of_windows_makes_the_same_card() {
    let project = project("a", "");
    project.run(&[]).code(0);
    let (card, template) = (project.read("dist/README.md"), project.read("card.md.hbs"));
    project.write("card.md.hbs", &template.replace('\n', "\r\n"));
    project.run(&[]).code(0);
    assert_eq!(project.read("dist/README.md"), card);
}

#[test]
fn a_text_that_is_filled_into_the_front_matter_is_one_scalar() {
    let project = project("a", "");
    let with = |line: &str, note: &str| {
        project.write("note.json", &serde_json::json!({ "note": note }).to_string());
        project.write("eval.sh", "cat note.json > evaluation.json\n");
        project.write("card.md.hbs", &format!("---\nlicense: mit\n{line}\n---\na\n"));
    };
    let manifest =
        project.read("publish.toml").replace("data = \"data.txt\"", "data = \"data.txt\", note = \"note.json\"");
    project.write("publish.toml", &manifest);
    with("x: {{evaluation.note}}", "a\nbase_model: me/q");
    project.run(&[]).code(1).says("is more than one line").says("{{yaml NAME}}");
    with("x: { y: {{evaluation.note}} }", "a, z: b");
    project.run(&[]).code(1).says("adds keys or items").says("{{yaml NAME}}");
    with("x: {{yaml evaluation.note}}", "a\nbase_model: me/q");
    project.run(&[]).code(0);
    assert!(project.read("dist/README.md").contains("x: \"a\\nbase_model: me/q\"\n"));
    with("x: {{evaluation.note}}", "a, z, c");
    project.run(&[]).code(0);
}

#[test]
fn a_licence_text_is_known_by_any_of_its_names_and_whoever_made_it() {
    let tables = "[artifact.terms]\nkind = \"command\"\nrun = [\"cp\", \"{in.text}\", \"{out}\"]\n\
        inputs = { text = \"terms.txt\" }\noutputs = [\"out.txt\"]\n[artifact.card]\nkind = \"card\"\ntemplate = \"card.md.hbs\"\n\
        [artifact.publish]\nkind = \"upload\"\nfiles = { \"README.md\" = \"card\", \"NAME\" = \"terms\" }\n";
    for name in ["license", "LICENSE.txt", "COPYING"] {
        let project = Project::with(&format!("{HEAD}{tables}").replace("NAME", name));
        project.copy(&root().join("LICENSE"), "terms.txt");
        project.write("card.md.hbs", "---\nlicense: mit\n---\na\n");
        project.run(&[]).code(1).says("license `mit`").says(&format!("`{name}` is the text of `apache-2.0`"));
    }
}

#[test]
fn the_card_is_shown_as_it_was_built_last() {
    let project = project("# Title\n\n[data](data.txt)", "");
    project.run(&["card"]).code(2).says("has not been built yet").says("hfbuild build card");
    project.run(&["build", "card"]).code(0);
    project.run(&["card"]).code(0).prints("[data](data.txt)");
    project.run(&["card", "--preview"]).code(0).prints("# Title").prints("data (data.txt)").never_says("\u{1b}");
}

#[test]
fn the_published_handler_and_the_cards_snippets_draw_the_published_pictures() {
    let project = Project::small_model();
    project.run(&[]).code(0);
    let dist = project.path("dist");
    let script = "
import base64, io, sys
import numpy as np
from PIL import Image
sys.dont_write_bytecode = True
sys.path.insert(0, '.')
from handler import EndpointHandler
draw = EndpointHandler('.')
[one] = draw({'inputs': 'Tiger'})
got = np.asarray(Image.open(io.BytesIO(base64.b64decode(one['image'])))).astype(int)
want = np.asarray(Image.open('samples/Tiger/0.png')).astype(int)
assert got.shape == want.shape, (got.shape, want.shape)
assert abs(got - want).max() <= 1, abs(got - want).max()
try:
    draw({'inputs': 'Tiger', 'parameters': {'num_images': 0}})
except Exception as error:
    assert 'num_images' in str(error), error
else:
    raise SystemExit('0 pictures were drawn')
print('equal', one['label'], one['index'])
";
    let python = |script: &str| {
        let mut command = Command::new(python());
        command.args(["-B", "-c", script]).current_dir(&dist).env_remove("PYTHONPATH");
        run(&mut command).code(0)
    };
    python(script).prints("equal Tiger 0");

    let card = project.read("dist/README.md");
    let snippets: Vec<&str> = card.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(snippets.len(), 1, "{card}");
    python(snippets[0]).prints("['Crying Cat', 'Crying Cat']");

    // its shell commands as they stand, against the hub that it was published to
    let shell: Vec<&str> = card.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(shell.len(), 1, "{card}");
    let hub = Served::of(&project);
    let bin = self::python().parent().expect("its folder");
    let mut command = Command::new("sh");
    command.args(["-e", "-c", shell[0]]).current_dir(project.path("")).env_remove("PYTHONPATH").env_remove("HF_TOKEN");
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path")));
    command.env("HF_ENDPOINT", &hub.url).env("HF_HUB_DISABLE_XET", "1").env("HF_HOME", project.path("hf"));
    run(&mut command).code(0);
    let drawn = project.tree("tinydit-cats/pictures");
    let names: Vec<&String> = drawn.keys().collect();
    assert_eq!(names, ["Crying_Cat-0.png", "Crying_Cat-1.png", "Crying_Cat-2.png", "Crying_Cat-3.png"]);
}

const CHECKPOINT: &str = "[artifact.ckpt]\nkind = \"checkpoint\"\npath = \"a.pt\"\n\
    [artifact.card]\nkind = \"card\"\ntemplate = \"card.md.hbs\"\nfacts = [\"ckpt\"]\n\
    [artifact.publish]\nkind = \"upload\"\nfiles = { \"README.md\" = \"card\" }\n";

#[test]
fn the_commit_of_the_training_code_is_what_the_checkpoint_records_or_is_declared_or_is_not_recorded() {
    let (full, source) = ("0123456789abcdef0123456789abcdef01234567", root().join("checkpoints/tinydit_final.pt"));
    let project = Project::with(&format!("{HEAD}{CHECKPOINT}"));
    project.write(
        "card.md.hbs",
        "---\nlicense: mit\n---\nCommit: {{recorded ckpt.training_commit \"training_commit\"}}.\n",
    );
    let line = || project.read("dist/README.md").lines().last().expect("a line").to_string();
    project.copy(&source, "a.pt");
    project.run(&[]).code(0);
    assert_eq!(line(), "Commit: not recorded.");

    let declare = |commit: &str| {
        let declared =
            format!("training_commit = {{ value = \"{commit}\", source = \"the training log\" }}\n[artifact.ckpt]");
        project.write("publish.toml", &format!("{HEAD}{CHECKPOINT}").replacen("[artifact.ckpt]", &declared, 1));
    };
    declare(&full[..10]);
    project.run(&[]).code(0);
    assert_eq!(line(), "Commit: `0123456789` (declared; source: the training log).");

    let file = Checkpoint::open(&source).expect("the checkpoint");
    let config =
        |settings: &Settings| Saved::Dict(settings.iter().map(|(k, v)| (k.clone(), Saved::Plain(v.clone()))).collect());
    let (raw, ema) = (file.raw.as_ref().expect("weights"), file.ema.as_ref().expect("their average"));
    let saved = Saved::Dict(vec![
        ("model".into(), Saved::Tensors(raw)),
        ("ema_params".into(), Saved::Tensors(ema)),
        ("step".into(), Saved::Plain(Scalar::Int(5))),
        ("config".into(), config(&file.config)),
        ("git_sha".into(), Saved::Plain(Scalar::Text(full.into()))),
    ]);
    pytorch_out::write(&project.path("a.pt"), "a", &saved).expect("the file");
    project.run(&[]).code(0);
    assert!(line().starts_with(&format!("Commit: `{full}`, recorded in a.pt (BLAKE3 ")), "{}", line());
    let record: Value = serde_json::from_str(&project.read("dist/provenance.json")).expect("JSON");
    let fact = &record["predicate"]["hfbuild"]["artifacts"]["ckpt"]["facts"]["training_commit"];
    assert_eq!((fact["value"].as_str(), fact["of"]["what"].as_str()), (Some(full), Some("a.pt")));
    let told = project.run(&["inspect", "a.pt", "--json"]).code(0);
    assert!(told.stdout.contains(full));

    declare("fedcba9876");
    project.run(&[]).code(1).says(&format!("`ckpt.training_commit` is `{full}`, and it is declared as `fedcba9876`"));
}

#[test]
fn the_record_is_a_whole_in_toto_statement_with_slsa_provenance_and_has_no_clock() {
    let project = project("a", "");
    project.run(&[]).code(0);
    let text = project.read("dist/provenance.json");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&record), ["_type", "subject", "predicateType", "predicate"]);
    assert_eq!(record["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(record["predicateType"], "https://slsa.dev/provenance/v1");
    let digest = |value: &Value, algorithm: &str| {
        let hex = value["digest"][algorithm].as_str().expect("a digest");
        assert!(hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{hex}");
        assert!(!value["name"].as_str().expect("a name").is_empty());
    };
    let subjects = record["subject"].as_array().expect("subjects");
    assert_eq!(subjects.len(), 2);
    subjects.iter().for_each(|s| digest(s, "sha256"));
    let definition = &record["predicate"]["buildDefinition"];
    assert!(definition["buildType"].as_str().is_some_and(|t| t.starts_with("urn:") || t.starts_with("https:")));
    assert!(definition["externalParameters"].is_object());
    definition["resolvedDependencies"].as_array().expect("dependencies").iter().for_each(|d| digest(d, "blake3"));
    let run = &record["predicate"]["runDetails"];
    assert!(run["builder"]["id"].as_str().is_some_and(|id| id.starts_with("urn:") || id.starts_with("https:")));
    // SLSA leaves `metadata` to the builder; all that it could hold is a clock or the name of one invocation
    assert_eq!(keys(run), ["builder"]);
    for clock in ["startedOn", "finishedOn", "timestamp", "seconds"] {
        assert!(!text.contains(clock), "the record names `{clock}`");
    }
}

/// A row of `rows`.
pub fn config_json_says_what_the_checkpoint_is_not_what_somebody_typed() {
    let project = Project::small_model();
    project.run(&["build", "metadata"]).code(0);
    let config: Value = serde_json::from_str(&project.read("dist/config.json")).expect("JSON");
    let facts = project.run(&["inspect", "checkpoints/tinydit_final.pt", "--json"]).code(0);
    let facts: Value = serde_json::from_str(&facts.stdout).expect("JSON");
    assert_eq!(config["parameters"], facts["parameters"]);
    assert_eq!((config["embed_dim"].as_i64(), config["depth"].as_i64()), (Some(96), Some(5)));
}
