//! Gates against the version that a commit would replace, and gates that could never refuse.

use crate::check::{project, shell};
use crate::support::Project;

const REPO: &str = "me/it";

/// A score that is read from data.txt, published to the embedded hub behind these conditions.
fn scored(require: &str) -> Project {
    let line = "cp {in.data} score.json";
    let more = "inputs = { data = \"data.txt\" }\nfacts_file = \"score.json\"";
    let tables = format!(
        "[params]\nleast = 0.5\n{}[artifact.gates]\nkind = \"check\"\nrequire = {require}\n\
         [artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = {{ \"score.json\" = \"evaluation\" }}\n\
         [hub]\nrepo = \"{REPO}\"\nendpoint = \"embedded\"\n",
        shell("evaluation", line, r#"["score.json"]"#, more),
    );
    let project = project(&tables);
    score(&project, 0.9);
    project
}

fn score(project: &Project, score: f64) {
    project.write("data.txt", &format!("{{\"score\": {score}}}"));
}

const BETTER: &str = r#"["published == null || evaluation.score >= published.evaluation.score"]"#;

#[test]
fn a_regression_is_refused_and_an_allowed_one_is_recorded_and_published_once() {
    let project = scored(BETTER);
    project.run(&["check"]).code(3).prints("unknown").prints("is not known before this is up to date");
    project.run(&[]).code(0).says("1 gate passed");
    project.run(&[]).code(0).says("remote unchanged");
    project.run(&["check"]).code(0).prints("passed").prints("nothing differs from what was published last");
    score(&project, 0.8);
    project.run(&["build", "evaluation"]).code(0);
    let values = "`evaluation.score` is 0.8, `published.evaluation.score` is 0.9";
    project.run(&["plan"]).code(0).prints("Refused gates[").prints(values).prints("Blocked publish by gates[");
    project.run(&["check"]).code(1).prints("refused").prints(values).prints("(published: ");
    project.run(&[]).code(1).says("Refused gates[").says(values);
    assert_eq!(project.commits(REPO), 1);
    assert!(!project.read("dist/provenance.json").contains("allowed_regressions"));
    project.run(&["--allow-regression"]).code(0).says("`--allow-regression` publishes all the same").says("Published");
    assert_eq!(project.commits(REPO), 2);
    assert!(project.read("dist/provenance.json").contains("\"allowed_regressions\": ["));
    assert!(project.read("cache/publishes/log").contains("\"allowed\":["));
    project.run(&[]).code(0).says("remote unchanged");
    project.run(&["--allow-regression"]).code(0).says("remote unchanged");
    // another machine knows it from the repo alone
    for folder in ["blobs", "actions", "publishes", "memo"] {
        std::fs::remove_dir_all(project.path(&format!("cache/{folder}"))).expect("a folder of the cache");
    }
    project.run(&[]).code(0).says("remote unchanged");
    assert_eq!(project.commits(REPO), 2);
    score(&project, 0.85);
    project.run(&[]).code(0).says("1 gate passed");
    assert!(!project.read("dist/provenance.json").contains("allowed_regressions"));
    assert_eq!(project.commits(REPO), 3);
}

#[test]
fn an_allowed_regression_does_not_allow_less_than_the_absolute_bound() {
    let clause = "evaluation.score > 0.5 && (published == null || evaluation.score >= published.evaluation.score)";
    let project = scored(&format!("[\"{clause}\"]"));
    project.run(&[]).code(0);
    score(&project, 0.4);
    project.run(&["--allow-regression"]).code(1).says("Refused gates[").says("`evaluation.score` is 0.4");
    assert_eq!(project.commits(REPO), 1);
    score(&project, 0.6);
    project.run(&[]).code(1).says("Refused gates[");
    project.run(&["--allow-regression"]).code(0).says("Published");
    assert_eq!(project.commits(REPO), 2);
}

#[test]
fn the_version_is_read_from_the_repo_where_this_machine_has_not_kept_it() {
    let project = scored(BETTER);
    project.run(&[]).code(0);
    std::fs::remove_dir_all(project.path("cache/publishes")).expect("the log of publishes");
    std::fs::remove_dir_all(project.path("cache/blobs")).expect("the blobs");
    score(&project, 0.8);
    project.run(&[]).code(1).says("`published.evaluation.score` is 0.9");
    assert_eq!(project.commits(REPO), 1);
}

#[test]
fn what_the_replaced_version_lacks_is_no_pass_and_is_asked_for_with_has() {
    let project = scored(r#"["evaluation.score > 0.1"]"#);
    project.run(&[]).code(0);
    let manifest = project.read("publish.toml");
    let gate = |clause: &str| project.write("publish.toml", &manifest.replace("evaluation.score > 0.1", clause));
    gate("published == null || evaluation.score >= published.evaluation.fid");
    let lacks = "the version that would be replaced has no `evaluation.fid`";
    score(&project, 0.95);
    project.run(&[]).code(1).says(lacks);
    project.run(&["--allow-regression"]).code(1).says(lacks);
    gate("!has(published.evaluation.fid) || evaluation.score >= published.evaluation.fid");
    project.run(&[]).code(0).says("1 gate passed");
    gate("evaluation.nothing >= published.evaluation.score");
    score(&project, 0.96);
    project.run(&["--allow-regression"]).code(1).says("`evaluation.nothing` was not measured");
}

/// A row of `rows`.
pub fn a_check_that_no_upload_waits_for_is_a_mistake() {
    let project = scored(BETTER);
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("after = [\"gates\"]\n", ""));
    project.run(&["plan"]).code(2).says("`gates` guards nothing: no upload waits for it").says("add `\"gates\"` to");
    let alone = manifest.split("[artifact.publish]").next().expect("the tables before");
    project.write("publish.toml", alone);
    project.run(&["plan"]).code(2).says("nothing here publishes");
}

/// A row of `rows`.
pub fn bounds_that_can_never_refuse_and_conditions_without_a_fact_are_mistakes() {
    let says = |clause: &str, text: &str| {
        let project = Project::small_model();
        let manifest = project.read("publish.toml");
        project.write("publish.toml", &manifest.replace("samples.saturated <= 0.9", clause));
        project.run(&["plan"]).code(2).says(text);
    };
    says("1 < 2", "names no fact");
    says("params.steps >= 10", "names no fact");
    says("samples.saturated <= 1.5", "the comparison with 1.5 always holds");
    says("samples.mean.neighbour_correlation >= -1", "always holds");
    says("params.steps < samples.saturated", "the comparison with 12 never holds");
}

#[test]
fn a_shard_with_the_name_of_a_fold_or_of_a_fact_is_a_mistake_of_the_manifest() {
    let of = |keys: &str| {
        let more =
            format!("each = {keys}\nfacts_file = \"fam/{{each}}.json\"\nfacts_schema = {{ score = \"number\" }}");
        project(&shell("fam", "echo {each} > {out}", r#"["fam/{each}.json"]"#, &more))
    };
    of(r#"["mean", "c"]"#).run(&["plan"]).code(2).says("the shard `mean` of `fam` has the name of what gates");
    of(r#"["score", "c"]"#).run(&["plan"]).code(2).says("the shard `score` of `fam` has the name of a fact");
    of(r#"["all", "c"]"#).run(&["plan"]).code(0);
}

/// What the record says of its gates: the clause, and what its facts were measured on.
fn gates_of(project: &Project) -> Vec<(String, serde_json::Value)> {
    let record: serde_json::Value = serde_json::from_str(&project.read("dist/provenance.json")).expect("JSON");
    let gates = record["predicate"]["hfbuild"]["gates"].as_array().expect("gates").clone();
    gates
        .into_iter()
        .map(|gate| (gate["require"].as_str().expect("a clause").to_string(), gate["of"].clone()))
        .collect()
}

#[test]
fn the_verdict_and_the_record_say_of_every_gate_what_its_facts_were_measured_on() {
    let family = shell(
        "fam",
        "cp {in.data} {out}",
        r#"["fam/{each}.json"]"#,
        "each = [\"a\", \"b\"]\ninputs = { data = \"{each}.txt\" }\nfacts_file = \"fam/{each}.json\"",
    );
    let clauses = [
        "evaluation.score > 0.5 && params.least < 1.0",
        "fam.score > 0.5",
        "fam['a'].score > 0.5",
        "fam.mean.score > evaluation.score - 1.0",
    ];
    let project = scored(&format!("{clauses:?}"));
    let manifest = project.read("publish.toml").replace("[artifact.gates]", &format!("{family}[artifact.gates]"));
    project.write("publish.toml", &manifest);
    ["a.txt", "b.txt"].into_iter().for_each(|file| project.write(file, "{\"score\": 0.75}"));
    project.run(&[]).code(0).says("4 gates passed");
    let names = |of: &serde_json::Value| -> Vec<String> {
        let all = of.as_array().expect("subjects").iter();
        all.map(|subject| subject["what"].as_str().expect("a name").to_string()).collect()
    };
    let gates = gates_of(&project);
    for (clause, expected) in
        clauses.iter().zip([&["data.txt"][..], &["a.txt", "b.txt"], &["a.txt"], &["a.txt", "b.txt", "data.txt"]])
    {
        let (_, of) = gates.iter().find(|(require, _)| require == clause).expect("the gate");
        assert_eq!(names(of), expected, "{clause}");
    }
    // the digest is that of the fact, and what `check` shows the start of
    let record: serde_json::Value = serde_json::from_str(&project.read("dist/provenance.json")).expect("JSON");
    let fact = &record["predicate"]["hfbuild"]["artifacts"]["evaluation"]["facts"]["score"]["of"];
    let (_, of) = gates.iter().find(|(require, _)| require == clauses[0]).expect("the gate");
    assert_eq!(of[0], *fact);
    let short = &fact["blake3"].as_str().expect("a digest")[..12];
    project.run(&["check"]).code(0).prints(&format!("`params.least` is 0.5 (of data.txt, {short})"));
    // other content, another subject
    score(&project, 0.8);
    project.run(&[]).code(0);
    let (_, after) = gates_of(&project).into_iter().find(|(require, _)| require == clauses[0]).expect("the gate");
    assert_eq!(names(&after), ["data.txt"]);
    assert_ne!(after[0]["blake3"], of[0]["blake3"]);
}

#[test]
fn values_that_change_from_run_to_run_do_not_change_the_published_record() {
    let tables = format!(
        "[artifact.generator]\nkind = \"onnx_file\"\npath = \"noise.onnx\"\n\
         [artifact.speed]\nkind = \"latency\"\nfrom = \"generator\"\nthreads = 1\nwarmup = 0\nruns = 2\nsteps = 1\n\
         [artifact.gates]\nkind = \"check\"\nrequire = [\"speed.picture_seconds < 1000.0\", \"speed.runs == 2\"]\n\
         [artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = {{ \"model.onnx\" = \"generator\" }}\n\
         [hub]\nrepo = \"{REPO}\"\nendpoint = \"embedded\"\n"
    );
    let project = project(&tables);
    crate::evaluation::write_noise_generator(&project.path("noise.onnx"));
    project.run(&[]).code(0).says("2 gates passed");
    let record = project.read("dist/provenance.json");
    let seconds = |project: &Project| {
        let told = project.run(&["explain", "speed"]).code(0).stdout;
        told.lines().find(|line| line.contains("fact picture_seconds = ")).expect("the fact").to_string()
    };
    // measured again until it comes out otherwise, as it nearly always does at once
    let first = seconds(&project);
    let other = (0..50).any(|_| {
        project.run(&["--force", "speed"]).code(0).says("remote unchanged");
        seconds(&project) != first
    });
    assert!(other, "{first}");
    assert_eq!((project.read("dist/provenance.json"), project.commits(REPO)), (record.clone(), 1));
    assert!(!record.contains("\"picture_seconds\"") && record.contains("it changes from run to run"), "{record}");
    // and what is published by somebody else's machine is the same: nothing to do there
    for folder in ["blobs", "actions", "publishes", "memo"] {
        std::fs::remove_dir_all(project.path(&format!("cache/{folder}"))).expect("a folder of the cache");
    }
    project.run(&[]).code(0).says("Running speed").says("remote unchanged");
    assert_eq!(project.commits(REPO), 1);
}
