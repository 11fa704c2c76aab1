//! What must not be published is refused before anything is sent, and hfbuild's own token is written nowhere.

use crate::support::{Project, Run, Served, run};

/// Random-looking, and put together here: no file of this repository holds a token.
fn token() -> String {
    format!("hf_{}", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG")
}

/// A project that publishes `notes.md` as it is, and the folder `out/` that a program makes.
fn project(hub: &str, program: &str) -> Project {
    let project = Project::with(&format!(
        r##"
[project]
name = "leaky"
version = "1.0.0"
license = "apache-2.0"
[hub]
repo = "ann/leaky"
endpoint = "embedded"
{hub}
[artifact.notes]
kind = "files"
paths = ["notes.md"]
[artifact.made]
kind = "command"
run = ["sh", "-c", "touch $MARK; {program}"]
pass_env = ["MARK"]
outputs = ["out"]
[artifact.publish]
kind = "upload"
files = {{ "notes.md" = "notes", "made/" = "made" }}
"##
    ));
    project.write("notes.md", "good words\n");
    project
}

fn build(project: &Project, args: &[&str]) -> Run {
    run(project.command(args).env("MARK", project.path("ran")))
}

const GOOD: &str = "mkdir out && echo good > out/a.txt";

#[test]
fn a_token_in_a_source_is_refused_by_file_and_line_before_any_stage_runs() {
    let project = project("", GOOD);
    project.write("notes.md", &format!("one\ntwo\nkey = \"{}\"\n", token()));
    let refused = build(&project, &[])
        .code(1)
        .says("`notes.md` holds what looks like a secret, on line 3 (rule `huggingface-access-token`)")
        .says("[hub.allow_findings]")
        .never_says(&token()[..8]);
    assert!(!refused.stderr.contains("Running"), "{}", refused.stderr);
    assert!(!project.path("ran").exists(), "a stage ran");
    assert_eq!(project.commits("ann/leaky"), 0);
    build(&project, &["check"]).code(1).prints("refused  leaks  `notes.md` holds what looks like a secret, on line 3");
    for (name, bytes) in project.tree("cache") {
        assert!(!bytes.windows(token().len()).any(|w| w == token().as_bytes()), "{name} holds the token");
    }
}

#[test]
fn a_finding_that_the_manifest_allows_is_published_and_recorded() {
    let project = project("[hub.allow_findings]\n\"notes.md\" = [\"huggingface-access-token\"]", GOOD);
    project.write("notes.md", &format!("key = \"{}\"\n", token()));
    build(&project, &[]).code(0).says("what `huggingface-access-token` finds is allowed by the manifest");
    assert_eq!(project.commits("ann/leaky"), 1);
    let said = project
        .tree("cache/hub")
        .into_values()
        .any(|bytes| String::from_utf8_lossy(&bytes).contains("allowed finding: huggingface-access-token in notes.md"));
    assert!(said, "the commit does not say what was allowed");
    // for that file only
    project.write("publish.toml", &project.read("publish.toml").replace("\"notes.md\" = [", "\"other.md\" = ["));
    project.write("notes.md", &format!("now\nkey = \"{}\"\n", token()));
    build(&project, &[]).code(1).says("on line 2");
}

#[test]
fn a_rule_that_there_is_not_cannot_be_allowed() {
    let project = project("[hub.allow_findings]\n\"notes.md\" = [\"hugging-face\"]", GOOD);
    build(&project, &[]).code(2).says("`hugging-face`").says("there is none of that name");
}

#[test]
fn what_a_stage_makes_is_searched_before_anything_of_it_is_sent() {
    let program = format!("mkdir out && printf 'a\\\\nkey = %s\\\\n' {} > out/a.txt", token());
    let project = project("", &program);
    build(&project, &[])
        .code(1)
        .says("`made/out/a.txt` holds what looks like a secret, on line 2")
        .never_says(&token());
    assert_eq!(project.commits("ann/leaky"), 0);
    let hub = project.tree("cache/hub");
    assert!(hub.keys().all(|name| !name.contains("objects/")), "{:?}", hub.keys());
    // known by now: the next run says it before any stage
    std::fs::remove_file(project.path("ran")).unwrap();
    build(&project, &["--force", "made"]).code(1).says("`made/out/a.txt` holds");
    build(&project, &["check"]).code(1).prints("refused  leaks  `made/out/a.txt`");
}

#[test]
fn files_of_secrets_strays_pointers_and_pickles_that_run_code_are_refused() {
    let pickle = r"printf '\\200\\002cos\\nsystem\\nX\\002\\000\\000\\000id\\205R.' > out/a.dat";
    let pointer = "printf 'version https://git-lfs.github.com/spec/v1\\\\noid sha256:00\\\\nsize 1\\\\n' > out/m.bin";
    let program = format!(
        "mkdir -p out/.git && echo A=1 > out/.env && echo > out/.DS_Store && echo > out/.git/HEAD && {pickle} && {pointer}"
    );
    let project = project("", &program);
    build(&project, &[])
        .code(1)
        .says("`made/out/.env` is a file of secrets by its name")
        .says("`made/out/.DS_Store` is what a tool leaves behind")
        .says("`made/out/.git/HEAD` is what a tool leaves behind")
        .says("`made/out/m.bin` is a Git LFS pointer")
        .says("`made/out/a.dat` would be published as a pickle that may run code");
    assert_eq!(project.commits("ann/leaky"), 0);
}

#[test]
fn content_that_was_searched_is_not_read_again() {
    let project = project("", GOOD);
    build(&project, &[]).code(0);
    let memo = || {
        let all = project.tree("cache");
        let (_, bytes) = all.into_iter().find(|(name, _)| name.contains("memo")).expect("the memo");
        String::from_utf8_lossy(&bytes).matches("Leaks").count()
    };
    let judged = memo();
    assert!(judged >= 3, "notes, what was made, the record: {judged}");
    build(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(memo(), judged);
}

/// Everything that is written while a build runs whose program prints all that it can find, and every command line.
#[test]
fn hfbuilds_own_token_is_in_no_log_receipt_error_or_argument() {
    let program = "env; cat $HOME/.cache/huggingface/token; cat /proc/*/cmdline | tr '\\\\0' ' ' > out.tmp; mkdir out; mv out.tmp out/seen.txt; ls -l /proc/self/fd; false";
    let project = project("", program);
    let token = token();
    project.write(".cache/huggingface/token", &token);
    let served = Served::of(&project);
    let with = |args: &[&str], env: bool| {
        let mut command = project.command(args);
        command.args(["--endpoint", &served.url]).env("MARK", project.path("ran"));
        if env {
            command.env("HF_TOKEN", &token);
        }
        run(&mut command)
    };
    for env in [false, true] {
        with(&["-v"], env).code(1).says("failed with exit code 1").never_says(&token);
    }
    project.write("publish.toml", &project.read("publish.toml").replace("; false", ""));
    with(&["-v"], true).code(0).never_says(&token);
    assert!(project.read("dist/made/out/seen.txt").contains("hfbuild"), "the command lines were seen");
    let logs = project.tree("cache").into_values().filter(|b| String::from_utf8_lossy(b).contains("***")).count();
    assert!(logs > 0, "the program printed the token, and no log shows that it was masked");
    let written = ["cache", "dist", ".cache/hfbuild", ".config"];
    for (name, bytes) in written.iter().flat_map(|folder| project.tree(folder)) {
        assert!(!bytes.windows(token.len()).any(|w| w == token.as_bytes()), "{name} holds the token");
    }
}

#[test]
fn a_token_that_hfbuild_uses_is_never_published_whatever_it_looks_like() {
    let own = "s3lfh0stedT0kenValue77";
    let project = project(
        "",
        "mkdir out && head -c 700000 /dev/zero > out/a.dat && printf $WORD >> out/a.dat && head -c 700000 /dev/zero >> out/a.dat",
    );
    project.write("publish.toml", &project.read("publish.toml").replace("[\"MARK\"]", "[\"MARK\", \"WORD\"]"));
    let with = |name: &str, word: &str| {
        let mut command = project.command(&[]);
        run(command.env("MARK", project.path("ran")).env("WORD", word).env(name, own))
    };
    for name in ["HF_TOKEN", "HFBUILD_HUB_TOKEN"] {
        let refused = with(name, own).code(1).never_says(own);
        refused
            .says("`made/out/a.dat` holds a token that hfbuild itself uses, at byte 700000")
            .says("cannot be let pass");
        assert_eq!(project.commits("ann/leaky"), 0);
    }
    project.write("notes.md", &format!("the word is {own}\n"));
    with("HF_TOKEN", own).code(1).says("`notes.md` holds a token that hfbuild itself uses");
    for (name, bytes) in project.tree("cache") {
        let holds = bytes.windows(own.len()).any(|w| w == own.as_bytes());
        assert!(!holds || name.starts_with("blobs/"), "{name} holds the token");
    }
    // for whoever has another token it is a word
    run(project.command(&[]).env("MARK", project.path("ran")).env("WORD", own)).code(0);
}

#[test]
fn pickles_of_any_protocol_and_arrays_of_objects_that_run_code_are_refused() {
    let python = crate::support::python();
    let program = r#"
import io, numpy, os, pickle, tarfile
class X:
    def __reduce__(self): return (os.system, ("id",))
for protocol in range(6):
    open(f"p{protocol}.bin", "wb").write(pickle.dumps({"a": [X()]}, protocol=protocol))
    open(f"p{protocol}.weights", "wb").write(pickle.dumps(X(), protocol=protocol))
open("two.pkl", "wb").write(pickle.dumps(1) + pickle.dumps(X()))
open("two.bin", "wb").write(pickle.dumps(1, protocol=0) + pickle.dumps(X(), protocol=0))
def tar(name, content):
    with tarfile.open(name, "w") as archive:
        for member, bytes in [("sys_info", pickle.dumps({})), ("pickle", content)]:
            info = tarfile.TarInfo(member)
            info.size = len(bytes)
            archive.addfile(info, io.BytesIO(bytes))
tar("old.tar", pickle.dumps(X(), protocol=2))
tar("older.nemo", pickle.dumps(X(), protocol=0))
numpy.save("obj.npy", numpy.array([X()], dtype=object))
numpy.savez("obj.npz", a=numpy.zeros(3), b=numpy.array([X()], dtype=object))
numpy.savez_compressed("packed.npz", a=numpy.zeros(3), b=numpy.array([X()], dtype=object))
import gzip, zipfile
def zipped(name, *members, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(name, "w", how) as archive:
        for member in members: archive.write(member, "inside/" + member)
zipped("a.zip", "p2.weights")
zipped("b.whl", "p0.bin", how=zipfile.ZIP_STORED)
zipped("in.zip", "a.zip", how=zipfile.ZIP_STORED)
zipped("tarred.zip", "old.tar")
def targz(name, *members):
    with tarfile.open(name, "w:gz") as archive:
        for member in members: archive.add(member)
targz("c.tar.gz", "p3.bin")
targz("d.tgz", "a.zip")
gzip.open("e.gz", "wb").write(pickle.dumps(X(), protocol=4))
os.mkdir("good")
numpy.random.default_rng(0).standard_normal(100000, dtype=numpy.float32).tofile("good/model.bin")
numpy.save("good/plain.npy", numpy.zeros(3))
numpy.save("good/words.npy", numpy.array(["a", None, 3], dtype=object))
numpy.savez("good/plain.npz", a=numpy.zeros(3))
numpy.savez_compressed("good/packed.npz", a=numpy.zeros(3), b=numpy.array(["a"], dtype=object))
for protocol in range(6):
    open(f"good/p{protocol}.pkl", "wb").write(pickle.dumps({"a": [1, 2.5, None, True, "x"]}, protocol=protocol))
tar("good/old.tar", pickle.dumps([1], protocol=2) + b"\\0" * 99)
open("good/two.pkl", "wb").write(pickle.dumps(1) + pickle.dumps([2]))
zipped("good/all.zip", "good/plain.npz", "good/old.tar", "good/p0.pkl", "good/p4.pkl", "good/model.bin")
with zipfile.ZipFile("good/weights.zip", "w") as archive: archive.write(os.environ["WEIGHTS"], "model.pt")
targz("good/all.tar.gz", "good/all.zip", "good/plain.npy")
open("good/vocab.bin", "w").write("cat\ndog\nRabbit\n")
open("good/c.txt", "w").write("call me (Ishmael).\nSome years ago.\n")
"#;
    let files = |names: &[&str]| {
        let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let artifact = |name: &str| {
            format!("[artifact.a{0}]\nkind = \"files\"\npaths = [\"{name}\"]\n", name.replace(['.', '/'], "_"))
        };
        let artifacts: String = names.iter().map(|name| artifact(name)).collect();
        let upload: String =
            names.iter().map(|name| format!("\"{name}\" = \"a{}\", ", name.replace(['.', '/'], "_"))).collect();
        assert!(!list.is_empty());
        format!(
            "[project]\nname = \"p\"\nversion = \"1.0.0\"\nlicense = \"mit\"\n[hub]\nrepo = \"ann/p\"\nendpoint = \"embedded\"\n{artifacts}\
             [artifact.publish]\nkind = \"upload\"\nfiles = {{ {} }}\n",
            upload.trim_end_matches(", ")
        )
    };
    let project = Project::empty();
    let made = run(std::process::Command::new(python)
        .args(["-c", program])
        .current_dir(project.path(""))
        .env("WEIGHTS", crate::support::root().join("checkpoints/tinydit_final.pt")));
    assert_eq!(made.code, 0, "{}", made.stderr);
    let bad: Vec<String> = project.tree("").into_keys().filter(|name| !name.starts_with("good/")).collect();
    assert_eq!(bad.len(), 26, "{bad:?}");
    for name in &bad {
        project.write("publish.toml", &files(&[name]));
        let refused = project.run(&[]).code(1);
        assert!(refused.stderr.contains("system") && refused.stderr.contains("refused"), "{name}: {}", refused.stderr);
    }
    assert_eq!(project.commits("ann/p"), 0);
    let good: Vec<String> = project.tree("good").into_keys().map(|name| format!("good/{name}")).collect();
    project.write("publish.toml", &files(&good.iter().map(String::as_str).collect::<Vec<_>>()));
    project.run(&[]).code(0);
    assert_eq!(project.commits("ann/p"), 1);
}
