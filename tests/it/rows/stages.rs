//! Runs that did nothing, were lost, or ran on something else than was thought.

use super::{REPO, copies, files, manifest, published, publishing, refused};
use crate::check::{Background, lines, shell, until};
use crate::support::Project;
use crate::{commands, gates, story};
use nix::sys::signal::Signal;

#[test]
fn row_15_runs_that_did_nothing_were_green() {
    let made = copies("a = \"a.txt\"", "test $(cat a.txt) != bad && cp {in.a} made.txt", "[\"made.txt\"]");
    let gate = "has(measured.score) && measured.score >= 0.5";
    let measured = shell(
        "measured",
        "cp {in.a} score.json",
        "[\"score.json\"]",
        "inputs = { a = \"score.txt\" }\nfacts_file = \"score.json\"",
    );
    let project = publishing(&format!("{made}{measured}"), "\"made.txt\" = \"made\"", &[gate]);
    project.write("a.txt", "one");
    project.write("score.txt", "{\"score\": 0.9}");
    let ends = |args: &[&str], code: i32, last: &str| {
        let run = project.run(args).code(code);
        assert!(run.summary().starts_with(last), "`{last}` does not begin `{}`", run.summary());
        run
    };
    // the last line says what ran, was up to date, came from the cache, failed, was not run, and what was published
    ends(&["plan", "--check"], 3, "hfbuild: would run 2 stages, then publish");
    ends(&[], 0, "hfbuild: ran 2 stages, published ");
    ends(&["plan", "--check"], 0, "hfbuild: nothing to do, 2 up to date, remote unchanged at ");
    ends(&[], 0, "hfbuild: ran 0 stages, 2 up to date, remote unchanged at ");
    project.write("a.txt", "two");
    ends(&["build", "made"], 0, "hfbuild: ran 1 stage");
    project.write("a.txt", "one");
    ends(&[], 0, "hfbuild: ran 0 stages, 1 up to date, 1 restored, remote unchanged at ");
    // a failure, a refusal and a mistake are none of these, and none is 0
    project.write("a.txt", "bad");
    ends(&[], 1, "hfbuild: ran 0 stages, 1 up to date, 1 failed, 1 not run").never_says("ublished ");
    project.write("a.txt", "three");
    project.write("score.txt", "{\"score\": 0.1}");
    let run = ends(&[], 1, "hfbuild: ran ").never_says("ublished ");
    assert!(run.summary().contains("1 gate refused") && run.summary().contains("not run"), "{}", run.summary());
    assert_eq!(project.commits(REPO), 1);
    // a target that is not there, and a build of nothing
    project.run(&["build", "nothing"]).code(2).says("nothing");
    project.write("publish.toml", "[project]\nname = \"p\"\nversion = \"1\"\nlicense = \"mit\"\n");
    let run = project.run(&[]);
    assert!(!run.stderr.contains("ublished "), "{}", run.stderr);
    assert!(run.code == 2 || run.summary().starts_with("hfbuild: "), "{}", run.stderr);
}

#[test]
fn row_18_long_stages_were_lost_to_hang_ups_and_what_was_partial_counted_as_done() {
    // four shards, of which the third holds half of what it makes and hangs
    let line = "echo {each} >> $HOME/ran; mkdir -p out/{each}; echo half > out/{each}/part.txt; \
        if test {each} = c && ! test -e $HOME/go; then touch $HOME/hangs; sleep 600; fi; echo whole > out/{each}/part.txt";
    let drawn = shell("drawn", line, "[\"out/{each}\"]", "each = [\"a\", \"b\", \"c\", \"d\"]");
    let project = publishing(&drawn, "\"samples/\" = \"drawn\"", &[]);
    for how in ["killed", "hung up", "its time was over"] {
        for file in ["hangs", "go", "ran"] {
            let _ = std::fs::remove_file(project.path(file));
        }
        let text =
            manifest(&drawn, "\"samples/\" = \"drawn\"", &[]).replace("echo whole", &format!("echo {how}; echo whole"));
        let limited = text.replace("each = [", "timeout = \"1s\"\neach = [");
        project.write("publish.toml", if how == "its time was over" { &limited } else { &text });
        let mut build = Background::start(&project, "log", &["-j", "1"]);
        until("the third shard hangs", || project.path("hangs").exists());
        match how {
            "killed" => {
                build.child.kill().unwrap();
                let _ = build.child.wait();
            }
            "hung up" => {
                build.signal(Signal::SIGTERM);
                assert_eq!(build.end().code, 143);
            }
            _ => assert_eq!(build.end().code, 1),
        }
        let before = project.read("ran");
        assert!(before.ends_with("c\n"), "{before}");
        let half = |tree: &str| project.tree(tree).into_values().any(|bytes| bytes == b"half\n");
        assert!(!half("out") && !half("cache/blobs") && !half("dist"), "{how}: half a result was kept");
        assert_eq!(project.commits(REPO), 0, "{how}");
        project.run(&["plan"]).code(0).prints("Run drawn");
        // the next run makes what is missing, and only that
        project.write("go", "");
        let target = if how == "its time was over" { &[][..] } else { &["build", "drawn"][..] };
        project.run(target).code(0);
        let ran = project.read("ran");
        let times = |shard: &str| ran.lines().filter(|line| *line == shard).count();
        assert_eq!(["a", "b", "c", "d"].map(times), [1, 1, 2, 1], "{how}: {ran}");
    }
    assert_eq!(project.commits(REPO), 1);
    assert_eq!(project.tree("dist/samples").into_values().filter(|bytes| bytes == b"whole\n").count(), 4);
}

#[test]
fn row_19_stages_ran_without_the_files_that_they_needed() {
    commands::a_file_that_is_not_declared_is_not_found_and_the_failure_hints_at_inputs();
    // what its command line names and no input brings along is found before anything runs
    let line = |words: &str, more: &str| {
        let first = shell("first", "echo ran >> $HOME/ran; echo 1 > first.txt", "[\"first.txt\"]", "");
        format!("{first}[artifact.made]\nkind = \"command\"\nrun = [{words}]\noutputs = [\"made.txt\"]\n{more}\n")
    };
    let project = publishing(&line("\"sh\", \"evaluate.sh\", \"data.txt\"", ""), "\"made.txt\" = \"made\"", &[]);
    project.write("evaluate.sh", "cat \"$1\" > made.txt\n");
    project.write("data.txt", "one\n");
    refused(&project, 2, &["the command of `made` names `evaluate.sh`, which is no input of it", "publish.toml:"]);
    let script = "inputs = { script = \"evaluate.sh\" }";
    let words = "\"sh\", \"{in.script}\", \"data.txt\"";
    project.write("publish.toml", &manifest(&line(words, script), "\"made.txt\" = \"made\"", &[]));
    refused(&project, 2, &["names `data.txt`, which is no input of it", "name it under `inputs`"]);
    assert!(!project.path("ran").exists(), "nothing ran");
    let both = "inputs = { script = \"evaluate.sh\", data = \"data.txt\" }";
    project.write("publish.toml", &manifest(&line(words, both), "\"made.txt\" = \"made\"", &[]));
    published(&project);
    assert_eq!(project.read("made.txt"), "one\n");
    // one that is gone, or was never there
    std::fs::remove_file(project.path("data.txt")).unwrap();
    refused(&project, 2, &["`data.txt`, which nothing makes and is not there"]).never_says("Running");
    // a program of another version is another stage
    project.write("data.txt", "one\n");
    let tool = |says: &str| {
        use std::os::unix::fs::PermissionsExt;
        project.write("bin/teller", &format!("#!/bin/sh\necho {says}\n"));
        std::fs::set_permissions(project.path("bin/teller"), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap());
    let told = line("\"sh\", \"-c\", \"teller > made.txt\"", "tools = [\"teller\"]");
    project.write("publish.toml", &manifest(&told, "\"made.txt\" = \"made\"", &[]));
    refused(&project, 2, &["needs the tool `teller`, which is not there"]);
    let build = || crate::support::run(project.command(&[]).env("PATH", &path)).code(0);
    tool("one");
    build().says("Running made");
    tool("two");
    build().says("Running made: tool `teller` changed");
    assert_eq!(project.read("made.txt"), "two\n");
}

#[test]
fn row_20_command_lines_had_drifted_from_the_scripts() {
    let with = |run: &str, more: &str| {
        let made = format!("[artifact.made]\nkind = \"command\"\nrun = [{run}]\noutputs = [\"made.txt\"]\n{more}\n");
        let first = shell("first", "echo ran >> $HOME/ran; echo 1 > first.txt", "[\"first.txt\"]", "");
        let project = publishing(&format!("[params]\nsteps = 5\n{first}{made}"), "\"made.txt\" = \"made\"", &[]);
        project.write("evaluate.sh", "echo $1 > made.txt\n");
        project
    };
    let inputs = "inputs = { script = \"evaluate.sh\" }";
    for (run, more, texts) in [
        // a placeholder of an earlier day: an input, a parameter
        (
            "\"sh\", \"{in.scrip}\"",
            inputs,
            &["`{in.scrip}` in the command stands for nothing", "did you mean `{in.script}`?"][..],
        ),
        ("\"sh\", \"{in.script}\", \"{params.step}\"", inputs, &["`{params.step}` in the command stands for nothing"]),
        // a script that was renamed
        (
            "\"sh\", \"{in.script}\"",
            "inputs = { script = \"evaluat.sh\" }",
            &["`evaluat.sh`", "did you mean `evaluate.sh`?"],
        ),
        (
            "\"sh\", \"evaluat.sh\"",
            inputs,
            &["names `evaluat.sh`, which is no input of it", "no such file in the project"],
        ),
        ("\"./evaluat.sh\"", inputs, &["`./evaluat.sh` is a program of the project that `inputs` does not declare"]),
        // a program that is not on this machine
        ("\"no-such-program\", \"--model\"", inputs, &["`made` runs `no-such-program`, which is not there", "PATH"]),
        ("\"/nowhere/python\"", inputs, &["`made` runs `/nowhere/python`, which is not there"]),
        // an artifact that is called otherwise now
        ("\"sh\", \"-c\", \"true\"", "inputs = { model = \"firsd\" }", &["firsd"]),
        // facts out of a file that it does not make
        (
            "\"sh\", \"{in.script}\"",
            "inputs = { script = \"evaluate.sh\" }\nfacts_file = \"fid.json\"",
            &["`fid.json`, which is not among `outputs`"],
        ),
    ] {
        let project = with(run, more);
        let plan = project.run(&["plan"]).code(2);
        let build = refused(&project, 2, texts);
        assert!(texts.iter().all(|text| plan.stderr.contains(text)), "{}", plan.stderr);
        assert!(plan.stderr.contains("publish.toml:"), "{}", plan.stderr);
        assert!(!project.path("ran").exists() && !build.stderr.contains("Running"), "nothing ran: {}", build.stderr);
    }
    // what waits for another stage is looked at too, before the first one runs
    let project = with("\"no-such-program\"", "inputs = { first = \"first\" }");
    project.run(&["plan"]).code(0).says("`made` runs `no-such-program`, which is not there");
    // and one that drifted in a way that only itself knows fails by name, with the end of what it said
    let project = with("\"sh\", \"{in.script}\", \"--bogus\"", inputs);
    project.write("evaluate.sh", "echo unknown option $1 >&2; exit 2\n");
    refused(&project, 1, &["exit code 2", "unknown option --bogus"]);
}

#[test]
fn row_21_thresholds_were_absurd_or_wired_to_nothing() {
    gates::a_check_that_no_upload_waits_for_is_a_mistake();
    gates::bounds_that_can_never_refuse_and_conditions_without_a_fact_are_mistakes();
    let project = Project::small_model();
    let text = project.read("publish.toml");
    let says = |gate: &str, said: &str| {
        project.write("publish.toml", &text.replace("samples.saturated <= 0.9", gate));
        project.run(&["plan"]).code(2).says(said).says("publish.toml:");
    };
    // per cent where a share is meant, behind a shard's name, a macro, a negation, a parameter
    says("samples.saturated <= 90", "`samples.saturated` lies from 0 to 1");
    says("samples['Tiger'].saturated <= 1.5", "the comparison with 1.5 always holds");
    says("samples.all(s, s.saturated <= 1.5)", "the comparison with 1.5 always holds");
    says("!(samples.max.saturated > 1.0)", "the comparison with 1 never holds");
    says("samples.saturated <= params.steps", "the comparison with 12 always holds");
    says("checkpoint.step >= 0", "the comparison with 0 always holds");
    says("generator.max_abs_diff >= 0.0", "always holds");
    says("checkpoint.step == checkpoint.step", "`checkpoint.step` is compared with itself");
    says("samples.all(s, s.count == s.count)", "is compared with itself");
    says("checkpoint.stepp >= 1000", "did you mean `checkpoint.step`?");
    says("true", "names no fact");
    // a bound that is set for one call is held to the same
    let bounded =
        text.replace("seed = 0\n", "seed = 0\nbound = 0.9\n").replace("saturated <= 0.9", "saturated <= params.bound");
    project.write("publish.toml", &bounded);
    project.run(&["plan"]).code(0);
    project.run(&["plan", "--set", "params.bound=2.0"]).code(2).says("the comparison with 2 always holds");
    // two shards that are to be alike, and a bound within the range, are conditions
    for gate in ["samples['Tiger'].count == samples['Cat'].count", "samples.all(s, samples.all(t, s.count == t.count))"]
    {
        project.write("publish.toml", &text.replace("samples.saturated <= 0.9", gate));
        project.run(&["plan"]).code(0);
    }
    // what was skipped or could not be measured did not pass
    let measured = shell("measured", "echo '{\"score\": null}' > s.json", "[\"s.json\"]", "facts_file = \"s.json\"");
    for gate in [
        "measured.score >= 0.5",
        "measured.score >= 0.5 || measured.score < 0.5",
        "measured.other != 1",
        "measured.all == null",
    ] {
        let project = publishing(&format!("{}{measured}", files("a.txt")), "\"a.txt\" = \"file\"", &[gate]);
        project.write("a.txt", "a");
        refused(&project, 1, &["Refused gates[", "was not measured"]);
    }
}

#[test]
fn row_24_stale_settings_were_inherited() {
    story::a_changed_parameter_reruns_only_what_reads_it_and_says_from_what_to_what();
    // a setting that was changed for one call is not there in the next, and nothing in the environment brings one along
    let made = shell(
        "made",
        "echo ran >> $HOME/ran; echo {params.steps} $MODE $STEPS > made.txt",
        "[\"made.txt\"]",
        "env = [\"MODE\"]",
    );
    let project = publishing(&format!("[params]\nsteps = 50\n{made}"), "\"made.txt\" = \"made\"", &[]);
    let build = |args: &[&str], mode: &str| {
        crate::support::run(project.command(args).env("MODE", mode).env("STEPS", "7")).code(0)
    };
    build(&[], "a");
    assert_eq!(project.read("made.txt"), "50 a\n");
    build(&["--set", "params.steps=5"], "a").says("parameter `params.steps` changed from 50 to 5");
    assert_eq!(project.read("made.txt"), "5 a\n");
    build(&[], "b").says("Running made: parameter `params.steps` changed from 5 to 50");
    assert_eq!((project.read("made.txt").as_str(), lines(&project, "ran")), ("50 b\n", 3));
    build(&[], "a").never_says("Running");
    assert_eq!(project.read("made.txt"), "50 a\n");
    // what is published says with which settings it was made
    assert!(project.read("dist/provenance.json").contains("50"));
}

#[test]
fn row_25_the_state_was_kept_by_hand_in_documents_that_contradicted_one_another() {
    let project =
        publishing(&copies("a = \"a.txt\"", "cp {in.a} made.txt", "[\"made.txt\"]"), "\"made.txt\" = \"made\"", &[]);
    project.write("a.txt", "one");
    let status = || project.run(&["status"]).code(0).stdout;
    let has = |text: &str| assert!(status().contains(text), "`{text}` is not in\n{}", status());
    has("made     stale");
    has("last publish  none to me/it from here");
    has("there is no such repo or branch yet");
    published(&project);
    has("made     up to date");
    has("publish  published");
    has("remote        as the last publish left it");
    project.write("a.txt", "two");
    has("made     stale");
    // it agrees with the plan, and both with what a build then does
    let plan = project.run(&["plan"]).code(0).prints("Run made: input `a.txt` changed");
    assert_eq!(plan.summary(), "hfbuild: would run 1 stage, then publish");
    project.run(&["build", "made"]).code(0);
    has("made     up to date");
    has("publish  to be published");
    // the receipt says what it was made from, and the published record the same of what stands there
    let explained = project.run(&["explain", "made"]).code(0).prints("input `a.txt`").stdout;
    assert!(explained.contains("made made.txt (3 B, "), "{explained}");
    published(&project);
    let record: serde_json::Value = serde_json::from_str(&project.read("dist/provenance.json")).unwrap();
    let made = record["subject"].as_array().unwrap().iter().find(|s| s["name"] == "made.txt").unwrap();
    assert_eq!(made["digest"]["sha256"], hfbuild::core::record::hub_digests(b"two").sha256);
    // and without this machine's memory it is known from there
    std::fs::remove_dir_all(project.path("cache/publishes")).unwrap();
    project.run(&[]).code(0).says("remote unchanged");
    has("remote        as the last publish left it");
}
