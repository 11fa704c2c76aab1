//! `--profile` and `--set`: what they change, what they leave alone, and what is said of wrong ones.

use crate::support::{Project, Run};

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"1\"\nlicense = \"mit\"\n";

/// Two programs that read one parameter each, a family over a list, and a publish; `more` ends the manifest.
fn project(more: &str) -> Project {
    let shell = |name: &str, word: &str| {
        format!(
            "[artifact.{name}]\nkind = \"command\"\nrun = [\"sh\", \"-c\", 'echo {word} > {name}.txt; echo >> \"$HOME/{name}.runs\"']\n\
             outputs = [\"{name}.txt\"]\n"
        )
    };
    Project::with(&format!(
        "{HEAD}[hub]\nrepo = \"me/real\"\nendpoint = \"embedded\"\n\
         [params]\nsteps = 5\nscale = 1.5\nname = \"cat\"\nlabels = [\"a\", \"b\"]\nunused = true\n{}{}\
         [artifact.publish]\nkind = \"upload\"\nfiles = {{ \"one.txt\" = \"one\", \"two.txt\" = \"two\" }}\n{more}",
        shell("one", "{params.steps}"),
        shell("two", "{params.name}"),
    ))
}

fn runs(project: &Project) -> (usize, usize) {
    let count = |file| std::fs::read_to_string(project.path(file)).map_or(0, |text| text.lines().count());
    (count("one.runs"), count("two.runs"))
}

/// The exit code is 2, the message and the hint are these.
#[track_caller]
fn refused(run: Run, message: &str, hint: &str) -> Run {
    run.code(2).says(&format!("error: {message}\n")).says(&format!("hint: {hint}"))
}

#[test]
fn an_unused_parameter_reruns_nothing() {
    let project = project("");
    project.run(&["build", "one", "two"]).code(0);
    project.run(&["plan", "--check", "one", "two", "--set", "params.unused=false"]).code(0);
    project.run(&["build", "one", "two", "--set", "params.unused=false", "--set", "params.scale=2"]).code(0);
    assert_eq!(runs(&project), (1, 1));
}

#[test]
fn a_set_parameter_reruns_only_what_reads_it_and_going_back_restores() {
    let project = project("");
    project.run(&["build", "one", "two"]).code(0);
    let set = ["--set", "params.steps=7"];
    let plan = project.run(&[&set[..], &["plan", "one", "two"]].concat()).code(0);
    assert_eq!(plan.summary(), "hfbuild: would run 1 stage, 1 up to date");
    project.run(&[&["explain", "one"][..], &set].concat()).code(0).prints("verdict would run");
    project.run(&[&["status"][..], &set].concat()).code(0).prints("stale");
    project.run(&[&["graph"][..], &set].concat()).code(0).prints("one");
    project.run(&[&["check"][..], &set].concat()).code(0);
    project.run(&[&["build", "one", "two"][..], &set].concat()).code(0);
    assert_eq!((runs(&project), project.read("one.txt").as_str()), ((2, 1), "7\n"));
    let back = project.run(&["build", "one", "two"]).code(0).never_says("Running");
    assert!(back.summary().contains("1 restored"), "{}", back.summary());
    assert_eq!((runs(&project), project.read("one.txt").as_str()), ((2, 1), "5\n"));
    // what is no TOML is a string, and the last one counts
    let bare = ["build", "two", "--set", "params.name=dog", "--set", "params.name=big dog"];
    project.run(&bare).code(0);
    assert_eq!(project.read("two.txt"), "big dog\n");
}

#[test]
fn a_profile_publishes_to_its_own_repo_and_leaves_the_other_alone() {
    let project = project("[profile.staging]\nhub = { repo = \"me/stage\" }\nparams = { steps = 2 }\n");
    project.run(&[]).code(0);
    assert_eq!((project.commits("me/real"), project.commits("me/stage")), (1, 0));
    project.run(&["--profile", "staging"]).code(0);
    assert_eq!((project.commits("me/real"), project.commits("me/stage")), (1, 1));
    assert_eq!((runs(&project), project.read("one.txt").as_str()), ((2, 1), "2\n"));
    project.run(&["plan", "--check", "--profile", "staging"]).code(0).says("hfbuild: nothing to do");
    project.run(&["status", "--profile", "staging"]).code(0).prints("me/stage");
    // without it: the first results come back, and the first repo has nothing new
    let back = project.run(&[]).code(0).never_says("Running").says("remote unchanged");
    assert!(back.summary().contains("restored"), "{}", back.summary());
    assert_eq!((project.commits("me/real"), project.commits("me/stage")), (1, 1));
    // `--set` goes before the profile
    project.run(&["build", "one", "--profile", "staging", "--set", "params.steps=9"]).code(0);
    assert_eq!(project.read("one.txt"), "9\n");
    // a name alone changes nothing
    let mut command = project.command(&["plan", "--check"]);
    project.run(&["build"]).code(0);
    crate::support::run(command.env("HFBUILD_PROFILE", "staging")).code(0);
}

#[test]
fn a_wrong_set_is_refused() {
    let project = project("");
    let plan = |set: &str| project.run(&["plan", "--set", set]);
    let lacks = |name: &str| format!("`--set` names the parameter `{name}`, which [params] lacks");
    refused(plan("params.step=1"), &lacks("step"), "did you mean `params.steps`?");
    refused(plan("params.zzz=1"), &lacks("zzz"), "parameters: `steps`, `scale`, `name`, `labels`, `unused`");
    refused(plan("params.steps"), "`--set params.steps` has no value", "write `--set params.NAME=VALUE`");
    refused(plan("steps=1"), "`--set steps=1` names no parameter", "write `--set params.steps=...`");
    refused(plan("project.version=2"), "`--set project.version=2` names no parameter", "only parameters can be set");
    let is = |name: &str, own: &str, value: &str, given: &str| {
        format!("`params.{name}` is {own} in the manifest, and `--set params.{name}={value}` gives {given}")
    };
    refused(plan("params.steps=1.5"), &is("steps", "an integer", "1.5", "a float"), "values are written as in TOML");
    refused(plan("params.steps=ten"), &is("steps", "an integer", "ten", "a string"), "values are written as in TOML");
    refused(plan("params.name=7"), &is("name", "a string", "7", "an integer"), "a string that looks like something");
    let labels = "an array, each item a string";
    refused(plan("params.labels=[1]"), &is("labels", labels, "[1]", "an array, each item an integer"), "values are");
    refused(plan("params.labels=[a]"), &is("labels", labels, "[a]", "a string"), "values are");
    plan("params.name=\"7\"").code(0);
    plan("params.labels=[\"c\"]").code(0);
    let both = project.run(&["--set", "params.steps=1", "plan", "--set", "params.scale=1"]);
    refused(both, "`--set` stands before the command and after it", "give them all in one place");
    assert!(!project.path("cache").exists(), "a wrong command line does nothing");
}

#[test]
fn a_value_that_a_field_refuses_says_where_it_comes_from() {
    let text = "[params]\ncount = 1\n[profile.big]\nparams = { count = -3 }\n[artifact.c]\nkind = \"checkpoint\"\npath = \"c.pt\"\n\
                [artifact.w]\nkind = \"safetensors\"\nfrom = \"c\"\n[artifact.g]\nkind = \"onnx\"\nfrom = \"w\"\n\
                [artifact.s]\nkind = \"samples\"\nfrom = \"g\"\neach = [\"a\"]\ncount = \"params.count\"\nsteps = 1\nseed = 0\n";
    let project = Project::with(&format!("{HEAD}{text}"));
    project.write("c.pt", "x");
    project.run(&["plan"]).code(0);
    let run = project.run(&["plan", "--set", "params.count=-2"]).code(2);
    let run = run.says("`count` (`params.count`) takes ").says("not -2").says("--> publish.toml:22:9\n");
    run.says("`params.count` is given by `--set params.count=-2`");
    let run = project.run(&["plan", "--profile", "big"]).code(2).says("`count` (`params.count`) takes ").says("not -3");
    run.says("--> publish.toml:8:20\n").says("`params.count` is given by [profile.big]");
}

#[test]
fn a_wrong_profile_is_refused_at_its_own_line() {
    let good = project("[profile.staging.hub]\nrepo = \"me/stage\"\n[profile.nightly]\n");
    let none = |name: &str| format!("no profile is called `{name}`");
    refused(good.run(&["plan", "--profile", "stagin"]), &none("stagin"), "did you mean `staging`?");
    refused(good.run(&["--profile", "zzz"]), &none("zzz"), "profiles: `staging`, `nightly`");
    refused(project("").run(&["plan", "--profile", "a"]), &none("a"), "the manifest has no [profile.NAME]");
    // every profile is checked, chosen or not; `«` marks the place
    let wrong = |profile: &str, chosen: &[&str], message: &str, hint: &str| {
        let project = project(&format!("[profile.p]\n{profile}\n"));
        let text = project.read("publish.toml");
        let at = text.find('«').expect("a marked mistake");
        let line = 1 + text[..at].matches('\n').count();
        let column = 1 + text[..at].rsplit('\n').next().unwrap_or_default().chars().count();
        project.write("publish.toml", &text.replace('«', ""));
        let run = project.run(&[&["plan"][..], chosen].concat());
        refused(run, message, hint).says(&format!("--> publish.toml:{line}:{column}\n"));
    };
    let p = ["--profile", "p"];
    wrong("«hubb = {}", &[], "unknown key `hubb` in `profile`.`p`", "did you mean `hub`?");
    wrong("hub = { «privat = true }", &[], "unknown key `privat` in `hub`", "did you mean `private`?");
    wrong("hub = { repo = «3 }", &[], "`repo` takes a string, not 3", "for example");
    wrong("hub = { endpoint = «\"x\" }", &[], "`x` is no hub's address", "write `embedded`");
    let lacks = "profile `p` sets the parameter `step`, which [params] lacks";
    wrong("params = { «step = 1 }", &[], lacks, "did you mean `steps`?");
    let typed = "`steps` is an integer in [params], not a string";
    wrong("params = { steps = «\"1\" }", &[], typed, "a profile's value has the same type");
    wrong("params = { steps = «\"1\" }", &p, typed, "a profile's value has the same type");
    let repo = "`tiny` is no repository name: the namespace is missing";
    wrong("hub = { repo = «\"tiny\" }", &p, repo, "write it as `namespace/name`");
}

#[test]
fn the_schema_knows_profiles() {
    let schema: serde_json::Value = serde_json::from_str(&project("").run(&["schema"]).code(0).stdout).expect("JSON");
    let profile = &schema["properties"]["profile"]["additionalProperties"]["properties"];
    assert_eq!(profile["hub"]["required"], serde_json::json!([]));
    assert_eq!(profile["hub"]["properties"], schema["properties"]["hub"]["properties"]);
    assert_eq!(profile["params"]["type"], "object");
}
