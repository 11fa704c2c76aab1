//! Wrong manifests and wrong command lines: the exit code is 2, the message names the thing, the place is exact, and a
//! hint says what to do.

use crate::support::{Project, Run};
use hfbuild::exec::project::Project as Opened;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const HEAD: &str = "[project]\nname = \"p\"\nversion = \"1\"\nlicense = \"mit\"\n";

/// A `command` artifact `a` that makes `a.txt`; `extra` is its last line.
fn command(name: &str, extra: &str) -> String {
    format!("[artifact.{name}]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [\"{name}.txt\"]\n{extra}\n")
}

/// `HEAD` and what follows it.
fn manifest(rest: &str) -> String {
    format!("{HEAD}{rest}\n")
}

/// A manifest in which the mistake stands between `«` and `»`: the text without the marks, and its place.
fn marked(text: &str) -> (String, usize, usize) {
    let at = text.find('«').expect("a marked mistake");
    let line = 1 + text[..at].matches('\n').count();
    let column = 1 + text[..at].rsplit('\n').next().unwrap_or_default().chars().count();
    (text.replace(['«', '»'], ""), line, column)
}

#[track_caller]
fn complains(run: Run, file: &str, (line, column): (usize, usize), message: &str, hint: &str) {
    let run = run.code(2).says(&format!("error: {message}\n")).says(&format!("--> {file}:{line}:{column}\n"));
    let run = if hint.is_empty() { run.never_says("hint:") } else { run.says(&format!("hint: {hint}")) };
    run.never_says("panicked").never_says("this is a bug");
}

/// Planning the marked manifest fails with this message at the mark, and this hint (none where it is empty).
#[track_caller]
fn refused(text: &str, message: &str, hint: &str) {
    let (text, line, column) = marked(&manifest(text));
    complains(Project::with(&text).run(&["plan"]), "publish.toml", (line, column), message, hint);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    refused("[«artefact».x]\nkind = \"files\"", "unknown key `artefact` in the manifest", "did you mean `artifact`?");
    refused(
        &command("a", "«output» = [\"x\"]"),
        "unknown key `output` in artifact `a` (kind `command`)",
        "did you mean `outputs`?",
    );
    refused(
        &command("a", "«zzzz» = 1"),
        "unknown key `zzzz` in artifact `a` (kind `command`)",
        "known keys: `kind`, `after`,",
    );
    refused("[hub]\nrepo = \"a/b\"\n«privat» = true", "unknown key `privat` in `hub`", "did you mean `private`?");
}

#[test]
fn a_wrong_type_is_told_with_what_is_expected_and_what_is_there() {
    refused(
        "[artifact.a]\nkind = \"command\"\nrun = «\"true\"»\noutputs = [\"a.txt\"]",
        "`run` takes an array, each item a string, not the string `true`",
        "for example `[\"text\"]`",
    );
    refused("[hub]\nrepo = «3»", "`repo` takes a string, not 3", "for example `\"text\"`");
    refused(
        "[hub]\nrepo = \"a/b\"\ntype = «\"modle\"»",
        "`type` takes one of `model`, `dataset`, `space`, not `modle`",
        "did you mean `model`?",
    );
    refused("[params]\nday = «2020-01-01»", "`params`.`day` takes a value, not a date", "for example `1`");
    refused(&command("a", "retries = «-1»"), "`retries` takes an integer from 0 to 100, not -1", "for example `1`");
    refused(
        &command("a", "timeout = «\"soon\"»"),
        "`timeout` is `soon`, which is no duration",
        "write `90s`, `30m` or `2h`",
    );
}

#[test]
fn what_is_missing_is_named_with_what_it_is_for() {
    refused(
        "[artifact.«a»]\nkind = \"command\"\nrun = [\"true\"]",
        "artifact `a` (kind `command`) lacks `outputs`",
        "`outputs`: what it makes, relative to the project; it takes an array, each item a path inside the project",
    );
    refused(
        "[artifact.«a»]\nrun = [\"true\"]",
        "artifact `a` lacks `kind`",
        "add `kind = \"...\"`, one of: checkpoint, ",
    );
    let run = Project::with("").run(&["plan"]);
    complains(run, "publish.toml", (1, 1), "the manifest lacks `project`", "`project`: name, version, licence");
}

#[test]
fn an_unknown_kind_is_refused_with_the_nearest_known_one() {
    refused("[artifact.a]\nkind = «\"comand\"»", "unknown kind `comand`", "did you mean `command`?");
    refused("[artifact.a]\nkind = «\"zzz\"»", "unknown kind `zzz`", "known kinds: checkpoint, metadata, ");
}

#[test]
fn a_reference_to_nothing_is_refused_with_the_nearest_artifact() {
    let two = |extra: &str| format!("{}{}", command("abc", ""), command("b", extra));
    refused(
        &two("after = [«\"abd\"»]"),
        "artifact `b` reads `abd`, which nothing makes",
        "did you mean artifact `abc`?",
    );
    refused(
        &format!("{}[artifact.w]\nkind = \"safetensors\"\nfrom = «\"abc\"»", command("abc", "")),
        "artifact `w` takes an artifact of kind `checkpoint`, and `abc` is of kind `command`",
        "",
    );
    let gate = |clause: &str| format!("{}[artifact.g]\nkind = \"check\"\nrequire = [{clause}]", command("abc", ""));
    refused(&gate("«\"abd.x > 1\"»"), "artifact `g` reads `abd`, which nothing makes", "did you mean artifact `abc`?");
    refused(
        &gate("«\"zzz.x > 1\"»"),
        "artifact `g` reads `zzz`, which nothing makes",
        "add [artifact.zzz], or name one that is there",
    );
}

#[test]
fn a_cycle_is_refused_and_named() {
    let reads = |name: &str, of: &str| command(name, &format!("inputs = {{ x = \"{of}\" }}"));
    let ring = format!("{}{}{}{}", reads("d", "a"), reads("a", "b"), reads("b", "c"), reads("c", "a"));
    let hint = "an artifact cannot depend on itself: take one of these edges out";
    refused(&ring.replacen(".a]", ".«a»]", 1), "a cycle: `a` needs `b` needs `c` needs `a`", hint);
    refused(&reads("a", "a").replacen(".a]", ".«a»]", 1), "a cycle: `a` needs `a`", hint);
    let order = format!("{}{}", command("a", "after = [\"b\"]"), reads("b", "a"));
    refused(&order.replacen(".a]", ".«a»]", 1), "a cycle: `a` needs `b` needs `a`", hint);
}

#[test]
fn two_makers_of_one_output_are_refused() {
    let makes = |name: &str, path: &str| {
        command(name, "").replace(&format!("\"{}.txt\"", name.replace(['«', '»'], "")), &format!("\"{path}\""))
    };
    let two = |first: &str, second: &str| {
        let b = command("b", "").replace("\"b.txt\"", &format!("\"{second}\"")).replace(".b]", ".«b»]");
        format!("{}{b}", makes("a", first))
    };
    refused(&two("x.txt", "x.txt"), "`a` and `b` both make `x.txt`", "two artifacts cannot make one output");
    refused(
        &two("x.txt", "X.txt"),
        "`x.txt` (of `a`) and `X.txt` are one file where case does not matter",
        "give them names that differ in more than case",
    );
    refused(
        &two("out", "out/x.txt"),
        "`b` makes `out/x.txt` inside `out`, which `a` makes",
        "give them places side by side",
    );
}

#[test]
fn an_output_outside_the_project_is_refused() {
    let outputs = |path: &str| format!("[artifact.a]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [«\"{path}\"»]");
    let leaves = "a path may not leave the project (`..`)";
    let absolute = "a path is relative to the project's root, not absolute";
    for (path, why) in [
        ("../x", leaves),
        ("a/../../x", leaves),
        ("/etc/x", absolute),
        ("C:/x", absolute),
        ("./a", "a path holds no `.` component"),
        ("a//b", "a path has no empty component and no slash at its end"),
        ("", "a path may not be empty"),
    ] {
        refused(
            &outputs(path),
            &format!("an item of `outputs` is `{path}`: {why}"),
            "paths are relative to the project's root",
        );
    }
    let control = "an item of `outputs` is `a\\u{1b}b`: a path holds no control characters and no backslash";
    refused(&outputs("a\\u001bb"), control, "paths are relative to the project's root");
}

#[test]
fn an_output_that_is_hfbuilds_own_or_a_stages_source_is_refused() {
    for path in ["publish.toml", "cache/lock", ".git/config"] {
        let text = format!("[artifact.«a»]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [\"{path}\"]");
        refused(&text, &format!("`a` would make `{path}`, which is not for stages to write"), "give it another place");
    }
    let own = "a stage cannot make what it reads: give the output another name";
    let text = command("a", "inputs = { s = «\"a.txt\"» }");
    refused(&text, "artifact `a` reads the file `a.txt`, and artifact `a` makes `a.txt`", own);
    let text = format!("{}{}", command("a", "inputs = { s = «\"b.txt\"» }"), command("b", ""));
    let other = "name the artifact, `b`, in place of the file";
    refused(&text, "artifact `a` reads the file `b.txt`, and artifact `b` makes `b.txt`", other);
}

#[test]
fn a_name_that_gates_could_not_spell_is_refused() {
    let hint = "an artifact's name is a letter, then letters, digits and `_`, at most 64 in all";
    let long = "a".repeat(65);
    for (written, shown) in [
        ("\"a\\nb\"", "a\\nb"),
        ("\"a\\u0000b\"", "a\\0b"),
        ("\"a\\u001b[31m\"", "a\\u{1b}[31m"),
        ("a-b", "a-b"),
        ("\"\"", ""),
        ("1a", "1a"),
        ("\"ä\"", "ä"),
        (&long, &long),
    ] {
        let text = format!("[artifact.«{written}»]\nkind = \"files\"\npaths = [\"x\"]");
        refused(&text, &format!("no artifact can be called `{shown}`"), hint);
    }
    let text = "[artifact.«params»]\nkind = \"files\"\npaths = [\"x\"]";
    refused(
        text,
        "no artifact can be called `params`",
        "`params` is taken: gates and templates know it as something else",
    );
}

#[test]
fn an_input_that_is_not_there_is_refused_with_the_nearest_file() {
    let reads = |path: &str| command("a", &format!("inputs = {{ s = «\"{path}\"» }}"));
    let with_files = |text: &str, message: &str, hint: &str| {
        let (text, line, column) = marked(&manifest(text));
        let project = Project::with(&text);
        project.write("evaluate.py", "");
        project.write("data/x", "");
        complains(project.run(&["plan"]), "publish.toml", (line, column), message, hint);
    };
    let missing = |path: &str| format!("artifact `a` reads `{path}`, which nothing makes and is not there");
    with_files(&reads("evalute.py"), &missing("evalute.py"), "did you mean `evaluate.py`?");
    with_files(&reads("zzz"), &missing("zzz"), "paths are relative to the project's root");
    with_files(
        &reads("data"),
        "artifact `a` reads `data`, which is a directory",
        "a command takes all that is in it as",
    );
    with_files(&reads("../x"), "input `s` is `../x`: a path may not leave the project (`..`)", "");
}

#[test]
fn a_gate_that_is_no_condition_is_refused() {
    let gate = |clauses: &str| format!("{}[artifact.g]\nkind = \"check\"\nrequire = {clauses}", command("a", ""));
    for clauses in ["[«\"a.x >=\"»]", "[\"a.x > 1\", «\"a.x >> 2\"»]", "[«\"((\"»]"] {
        let (text, line, column) = marked(&manifest(&gate(clauses)));
        let run = Project::with(&text).run(&["plan"]).code(2).says("error: this is no condition: ");
        run.says(&format!("--> publish.toml:{line}:{column}\n")).says("hint: gates are written in CEL: ");
    }
    refused(&gate("«[]»"), "`require` is empty: a check without conditions proves nothing", "");
    refused(&gate("[«\"1 > 0\"»]"), "this condition names no fact, so it proves nothing", "");
    refused(&gate("[\"a.x > 1\", «\"a.x > 1\"»]"), "this condition is there twice", "");
}

/// A family `s` over `each`, with all that it needs.
fn family(each: &str) -> String {
    let before = "[artifact.c]\nkind = \"checkpoint\"\npath = \"c.pt\"\n[artifact.w]\nkind = \"safetensors\"\nfrom = \"c\"\n\
                  [artifact.gen]\nkind = \"onnx\"\nfrom = \"w\"\n[artifact.s]\nkind = \"samples\"\nfrom = \"gen\"\n";
    format!("{before}count = 1\nsteps = 1\nseed = 0\neach = {each}\n")
}

#[test]
fn shards_that_nobody_could_tell_apart_are_refused() {
    let hint = "shards become folders: their names must differ in letters and digits, not only in case or signs";
    refused(&family("«[\"Cat\", \"cat\"]»"), "`Cat` and `cat` would be one shard", hint);
    refused(&family("«[\"Cat\", \"Cat\"]»"), "`Cat` and `Cat` would be one shard", hint);
    refused(&family("«[]»"), "`each` is empty, so nothing would be made", "");
    refused(
        &family("«[\"a]b\"]»"),
        "`a]b` cannot name a shard: it has at most 200 bytes, no control characters and no brackets",
        "",
    );
}

#[test]
fn an_unknown_parameter_is_refused_with_the_nearest_one() {
    let text = format!("[params]\nlabels = [\"a\"]\n{}", family("«\"params.lables\"»"));
    let message = "`each` names the parameter `lables`, which [params] lacks";
    refused(&text, message, "did you mean `params.labels`?");
    refused(
        &family("«\"params.zzz\"»"),
        "`each` names the parameter `zzz`, which [params] lacks",
        "add `zzz = ...` to [params]",
    );
}

#[test]
fn a_secret_is_no_part_of_a_key() {
    refused(
        &command("a", "env = [«\"HF_TOKEN\"»]"),
        "`HF_TOKEN` is a secret by its name, and `env` keeps values in receipts",
        "use `pass_env = [\"HF_TOKEN\"]`: it is handed through, never keyed and never logged",
    );
}

#[test]
fn a_placeholder_that_stands_for_nothing_is_refused() {
    let runs = |word: &str| {
        format!(
            "[artifact.a]\nkind = \"command\"\nrun = [\"echo\", «\"{word}\"»]\noutputs = [\"o\"]\ninputs = {{ model = \"m\" }}"
        )
    };
    refused(&runs("{in.modle}"), "`{in.modle}` in the command stands for nothing", "did you mean `{in.model}`?");
    refused(
        &runs("{zzz}"),
        "`{zzz}` in the command stands for nothing",
        "known: in.model, out, params.NAME; a brace for itself is `{{`",
    );
}

#[test]
fn a_number_that_is_none_is_refused() {
    refused("[params]\nx = «99999999999999999999»", "this integer does not fit in 64 bits", "");
    refused("[params]\nx = «nan»", "this float is not a finite number", "");
    refused("[params]\nx = «-inf»", "this float is not a finite number", "");
    refused("[params]\nx = «1e999»", "this float is not a finite number", "");
}

#[test]
fn a_parameter_within_a_table_cannot_be_named_and_the_hint_says_where_it_belongs() {
    let text = "[params.deep]\nlist = [\"a\"]\n[artifact.a]\nkind = \"command\"\neach = «\"params.deep.list\"»\n\
                run = [\"true\"]\noutputs = [\"{each}\"]\n";
    let message = "`each` names the parameter `deep.list`, which [params] lacks";
    refused(
        text,
        message,
        "a parameter is a key of [params] itself: write `deep_list = ...` there, and use `params.deep_list`",
    );
}

#[test]
fn of_very_many_mistakes_the_first_are_told_and_the_others_counted() {
    let all: String = (0..3000).map(|i| command(&format!("a{i}"), "oops = 1")).collect();
    let run = Project::with(&manifest(&all)).run(&["plan"]).code(2).says("... and 2980 more: mend these 20 first");
    assert_eq!(run.stderr.matches("error: ").count(), 20);
}

#[test]
fn a_shard_that_is_not_there_is_refused_with_its_neighbour_or_a_few() {
    let keys: Vec<String> = (1001..2000).map(|i| format!("\"{i}\"")).chain(["\"Siamese\"".into()]).collect();
    let family = format!(
        "[artifact.a]\nkind = \"command\"\neach = [{}]\nrun = [\"true\"]\noutputs = [\"{{each}}\"]\n",
        keys.join(", ")
    );
    let project = Project::with(&manifest(&family));
    project.run(&["plan", "a[Siamse]"]).code(2).says("did you mean `a[Siamese]`?");
    project.run(&["plan", "a[zzzzzzz]"]).code(2).says("hint: 1000 shards: 1001, 1002,").never_says("1011");
}

#[test]
fn cores_are_a_count_and_no_build_runs_on_none() {
    let hint = "every stage takes at least one core; which one is the kernel's to say";
    let message = "pool `cores` takes a count of 1 or more, or `\"auto\"`";
    refused("[pools]\ncores = «0»", message, hint);
    refused("[pools]\ncores = «[\"a\"]»", message, hint);
    let run = Project::with(&manifest(&command("a", ""))).run(&["-j", "0"]).code(2);
    run.says("invalid value '0' for '--jobs <N>'");
}

#[test]
fn a_pool_that_is_not_there_or_too_small_is_refused() {
    let takes = |what: &str| format!("[pools]\ngpu = 1\n{}", command("a", &format!("resources = «{what}»")));
    refused(&takes("{ gpus = 1 }"), "artifact `a` takes of pool `gpus`, which [pools] lacks", "did you mean `gpu`?");
    refused(&takes("{ gpu = 2 }"), "artifact `a` takes 2 of pool `gpu`, which has 1", "");
}

#[test]
fn a_bad_repository_name_is_refused() {
    let hub = |repo: &str| {
        let upload = "[artifact.u]\nkind = \"upload\"\nfiles = { \"a.txt\" = \"a\" }";
        format!("[hub]\nrepo = «\"{repo}\"»\nendpoint = \"embedded\"\n{}{upload}", command("a", ""))
    };
    let hint = "write it as `namespace/name`, for example `acme/tiny-model`";
    for (repo, why) in [
        ("tiny", "the namespace is missing"),
        ("a/b/c", "it has more than one `/`"),
        ("a/", "a part is empty"),
        ("a/b.git", "it ends with `.git`"),
        ("a/b c", "only letters, digits, `.`, `_` and `-` are allowed"),
    ] {
        refused(&hub(repo), &format!("`{repo}` is no repository name: {why}"), hint);
    }
    let good = Project::with(&manifest(&hub("a/b").replace(['«', '»'], "")));
    good.run(&["plan", "--repo", "tiny"])
        .code(2)
        .says("error: `tiny` is no repository name: the namespace is missing\n");
}

#[test]
fn a_publish_of_what_cannot_be_published_is_refused() {
    let hub = "[hub]\nrepo = \"a/b\"\nendpoint = \"embedded\"\n";
    let sends = |files: &str| format!("{hub}{}[artifact.u]\nkind = \"upload\"\nfiles = {files}", command("a", ""));
    refused(
        &sends("{ \"a\" = «\"aa\"» }"),
        "artifact `u` reads `aa`, which nothing makes",
        "did you mean artifact `a`?",
    );
    refused(
        &sends("{ «\"../a\"» = \"a\" }"),
        "`../a` is no path in the repo: a path may not leave the project (`..`)",
        "",
    );
    refused(
        &sends("{ «\"provenance.json\"» = \"a\" }"),
        "`provenance.json` is written by hfbuild or by the server",
        "",
    );
    refused(&sends("«{}»"), "`files` is empty: there is nothing to publish", "");
    let without = sends("{ \"a\" = \"a\" }").replace(hub, "").replace(".u]", ".«u»]");
    refused(&without, "artifact `u` publishes, and there is no [hub]", "add [hub] with `repo = \"namespace/name\"`");
}

/// A template's mistakes are told at their place in the template.
#[test]
fn a_template_is_checked_before_anything_runs() {
    let planned = |template: &str, facts: &str| {
        let artifact = format!("[artifact.t]\nkind = \"template\"\ntemplate = \"t.md.hbs\"\nfacts = [{facts}]");
        let project = Project::with(&manifest(&format!("[params]\nsteps = 5\n{}{artifact}", command("a", ""))));
        project.write("t.md.hbs", template);
        project.run(&["plan"])
    };
    let refused = |template: &str, facts: &str, message: &str, hint: &str| {
        let (template, line, column) = marked(template);
        complains(planned(&template, facts), "t.md.hbs", (line, column), message, hint);
    };
    let unknown = |name: &str| format!("the template names `{name}`, which is not there");
    refused("hello\n  {{«params.step»}}\n", "", &unknown("params.step"), "did you mean `params.steps`?");
    refused(
        "hello\n{{«declared.loss».value}}\n",
        "",
        &unknown("declared.loss"),
        "add it to [declared] of the manifest",
    );
    let run = planned("x", "\"aa\"").code(2).says("error: artifact `t` reads `aa`, which nothing makes\n");
    run.says("--> publish.toml:15:10\n").says("hint: did you mean artifact `a`?");
    let unlisted = "the template reads facts of `a`, which `facts` does not list";
    refused("hello\n{{«a».x}}\n", "", unlisted, "add `\"a\"` to `facts` of [artifact.t]");
    let run = planned("hello\n  {{a.x\n", "\"a\"").code(2).says("error: the template's syntax is wrong: ");
    run.says("--> t.md.hbs:2:");
    planned("{{#if a}}".repeat(20_000).as_str(), "\"a\"").code(2).says("error: the template's syntax is wrong: ");
}

#[test]
fn what_is_no_toml_is_refused_at_its_place() {
    refused("[params]\na = 1\n«a» = 2", "this is not TOML: duplicate key", "a key stands once in its table");
    let noise: String = (0..10_000).map(|i| format!("= ] [ {i} }}\n")).collect();
    let run =
        Project::with(&noise).run(&["plan"]).code(2).says("error: this is not TOML: ").says("--> publish.toml:1:");
    assert!(run.stderr.lines().count() < 100, "a wall of errors:\n{}", run.stderr);
    for deep in ["[".repeat(50_000) + &"]".repeat(50_000), "{a=".repeat(50_000) + "1" + &"}".repeat(50_000)] {
        let run = Project::with(&manifest(&format!("[params]\nx = {deep}"))).run(&["plan"]).code(2);
        let run = run.says("max recursion depth").says("--> publish.toml:6:");
        assert!(run.stderr.len() < 20_000, "{} bytes of errors", run.stderr.len());
    }
}

#[test]
fn a_manifest_that_cannot_be_read_is_refused() {
    let project = project_with_bytes(b"[params]\nx = \"\xff\"\n");
    project.run(&["plan"]).code(2).says("error: `publish.toml` is no UTF-8 text: line 6, byte ");
    let project = Project::empty();
    std::fs::create_dir(project.path("publish.toml")).unwrap();
    project.run(&["plan"]).code(2).says("error: `publish.toml` is no file\n");
    let run = Project::empty().run(&["plan"]).code(2).says("error: there is no `publish.toml` in `");
    run.says("hint: run hfbuild in the project's root, or name it with `-C DIR`");
    Project::empty().run(&["-C", "nowhere", "plan"]).code(2).says("error: cannot open `nowhere`");
}

#[test]
fn a_manifest_of_a_gigabyte_is_refused_unread() {
    let project = Project::empty();
    let file = std::fs::File::create(project.path("publish.toml")).expect("a file");
    file.set_len(1 << 30).expect("a gigabyte of nothing");
    let run = project.run(&["plan"]).code(2);
    run.says("error: `publish.toml` has 1073741824 bytes, and 268435456 is the most that is read\n");
    file.set_len(200 << 20).expect("zeros");
    project.run(&["plan"]).code(2).says("error: this is not TOML: ").says("--> publish.toml:1:1\n");
}

#[test]
fn names_and_paths_that_no_file_system_or_terminal_should_see_are_refused() {
    let control = "a path holds no control characters and no backslash";
    for bad in ["a\\nb", "a\\u0000b", "a\\u001b[31mb", "a\\\\b"] {
        let outputs = format!("[artifact.a]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [«\"{bad}\"»]\n");
        let run = planned_marked(&outputs).says(control);
        assert!(run.stderr.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", run.stderr);
        planned_marked(&command("a", &format!("inputs = {{ x = «\"{bad}\"» }}"))).says(control);
    }
    for bad in ["/etc/x", "../x", "x/../../y", "x//y", "./x", ""] {
        planned_marked(&format!("[artifact.f]\nkind = \"files\"\npaths = [«\"{bad}\"»]\n"));
    }
    for bad in ["a\\nb", "a\\u0000b", "", "a/b", "a.b"] {
        let text = format!("[artifact.«\"{bad}\"»]\nkind = \"command\"\nrun = [\"true\"]\noutputs = [\"x\"]\n");
        planned_marked(&text);
    }
    let nul = project_with_bytes(b"[params]\nx = \"\0\"\n");
    nul.run(&["plan"]).code(2).says("error: this is not TOML: ").says("--> publish.toml:6:6\n");
}

/// Plans the marked manifest: exit code 2, and the place is the mark's.
#[track_caller]
fn planned_marked(text: &str) -> Run {
    let (text, line, column) = marked(&manifest(text));
    let run = Project::with(&text).run(&["plan"]).code(2).says(&format!("--> publish.toml:{line}:{column}\n"));
    run.never_says("panicked").never_says("this is a bug")
}

/// `HEAD` and bytes after it.
fn project_with_bytes(rest: &[u8]) -> Project {
    let project = Project::empty();
    std::fs::write(project.path("publish.toml"), [HEAD.as_bytes(), rest].concat()).expect("a file");
    project
}

#[test]
fn several_mistakes_are_told_at_once() {
    let text = format!("{}{}", command("a", "output = 1"), command("b", "zz = 1"));
    let run = Project::with(&manifest(&text)).run(&["plan"]).code(2);
    let run = run.says("unknown key `output` in artifact `a`").says("--> publish.toml:9:1\n");
    run.says("unknown key `zz` in artifact `b`").says("--> publish.toml:14:1\n");
}

#[test]
fn a_wrong_command_line_is_refused_with_the_nearest_right_one() {
    let project = Project::with(&manifest(&family("[\"Siamese\", \"Big Cat\"]")));
    project.write("c.pt", "x");
    for args in [&["plan", "gem"][..], &["build", "gem"], &["explain", "gem"], &["--force", "gem"]] {
        project.run(args).code(2).says("error: no artifact is called `gem`\n").says("hint: did you mean `gen`?");
    }
    project.run(&["plan", "zzz"]).code(2).says("hint: artifacts: `c`, `gen`, `s`, `w`");
    project.run(&["plan", "a\n\u{1b}b"]).code(2).says("error: no artifact is called `a\\n\\u{1b}b`\n");
    let run = project.run(&["plan", "s[Nope]"]).code(2).says("error: `s` has no shard `");
    run.says("Nope").says("hint: shards: Siamese, Big Cat");
    project.run(&["plan", "w[Nope]"]).code(2).says("hint: `w` is one node");
    project.run(&["plan", "--chek"]).code(2).says("'--chek'").says("'--check'");
    project.run(&["bild"]).code(2).says("'bild'").says("'build'");
    project.run(&["-j", "many"]).code(2).says("'many'");
    project.run(&["-q", "-v", "plan"]).code(2).says("cannot be used with");
    assert!(!project.path("cache/actions").exists(), "a wrong command line does nothing");
}

#[test]
fn a_chain_of_100_000_artifacts_is_planned_and_a_ring_of_them_refused() {
    const LENGTH: usize = 100_000;
    let before = |i: usize| format!("inputs = {{ p = \"n{}\" }}", (i + LENGTH - 1) % LENGTH);
    let ring: Vec<String> = (0..LENGTH).map(|i| command(&format!("n{i}"), &before(i))).collect();
    let chain = command("n0", "") + &ring[1..].concat();
    let begun = Instant::now();
    let run = Project::with(&manifest(&chain)).run(&["plan"]).code(0);
    assert_eq!(run.summary(), "hfbuild: would run 1 stage, 99999 pending");
    let run = Project::with(&manifest(&ring.concat())).run(&["plan"]).code(2).says("error: a cycle: `n0` needs ");
    assert!(run.stderr.len() < 1000, "a wall of names: {} bytes", run.stderr.len());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// Opens a manifest of these bytes and shows what is wrong with it: never a panic, and always a message.
fn open(bytes: &[u8]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("publish.toml"), bytes).expect("a file");
    if let Err(error) = Opened::open(dir.path(), &Default::default()) {
        prop_assert_eq!(error.kind().exit_code(), 2, "{}", error);
        let shown = hfbuild::ui::error::render(&error, false);
        prop_assert!(shown.starts_with("error: "), "{}", shown);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        open(&bytes)?;
    }

    #[test]
    fn noise_of_toml_words_is_refused_without_a_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", "\n", " ", "\"", "'", "\"\"\"", "#", "-", "1", "nan",
            "\u{feff}", "\u{0}", "\r", "ä", "🐈", "kind", "artifact", "project", "hub", "params", "a", "\"command\"",
            "\"files\"", "\"check\"", "\"upload\"", "run", "outputs", "require", "files", "each", "\"a.x > 1\"", "\"{in.a}\"",
        ]), 0..60),
    ) {
        open(words.concat().as_bytes())?;
    }

    /// The repository's own manifest with one piece taken out, doubled or moved.
    #[test]
    fn a_damaged_manifest_is_refused_without_a_panic(start in any::<prop::sample::Index>(), length in 0usize..80, what in 0u8..3) {
        let text = std::fs::read(crate::support::root().join("publish.toml")).expect("publish.toml");
        let start = start.index(text.len());
        let end = (start + length).min(text.len());
        let piece = &text[start..end];
        let damaged = match what {
            0 => [&text[..start], &text[end..]].concat(),
            1 => [&text[..end], piece, &text[end..]].concat(),
            _ => [&text[..start], &text[end..], piece].concat(),
        };
        open(&damaged)?;
    }
}
