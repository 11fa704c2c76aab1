//! Graphs as users need them: `each` over lists and products, single shards as inputs, directories and globs, frozen
//! artifacts, and the remembered "nothing to do".

use crate::support::Project;

const HEAD: &str = "[project]\nname = \"x\"\nversion = \"1\"\nlicense = \"mit\"\n";

fn project(rest: &str) -> Project {
    Project::with(&format!("{HEAD}{rest}"))
}

const PRODUCT: &str = r#"
[params]
labels = ["a", "b c", "d"]
[artifact.one]
kind = "command"
each = "params.labels"
run = ["sh", "-c", "echo {each} > {out}"]
outputs = ["o/{each}.txt"]
[artifact.two]
kind = "command"
each = { label = "params.labels", k = [1, 2] }
run = ["sh", "-c", "cat {in.a} > {out}; echo {each.k} >> {out}"]
inputs = { a = "one[{each.label}]" }
outputs = ["p/{each.label}-{each.k}.txt"]
"#;

#[test]
fn a_product_of_lists_makes_a_shard_a_combination_and_one_shard_reads_one_shard() {
    let p = project(PRODUCT);
    p.run(&[]).code(0).says("ran 9 stages");
    assert_eq!(p.read("p/b_c-2.txt"), "b c\n2\n");
    // a new item adds its own shards and reruns none of the others
    let manifest = p.read("publish.toml").replace("\"d\"]", "\"d\", \"e\"]");
    p.write("publish.toml", &manifest);
    p.run(&[]).code(0).says("ran 3 stages, 9 up to date");
    // one shard can be asked for, and its own ancestors only
    let q = project(PRODUCT);
    q.run(&["build", "two[d,1]"]).code(0).says("ran 2 stages");
}

#[test]
fn shards_that_would_make_one_file_or_read_no_shard_are_mistakes_of_the_manifest() {
    let p = project(&PRODUCT.replace("p/{each.label}-{each.k}.txt", "p/{each.label}.txt"));
    p.run(&["plan"]).code(2).says("every shard would make");
    let p = project(&PRODUCT.replace("one[{each.label}]", "one[{each.k}]"));
    p.run(&["plan"]).code(2).says("which is no shard of `one`").says("publish.toml:");
    let p = project(&PRODUCT.replace("{each.k} >>", "{each.kk} >>"));
    p.run(&["plan"]).code(2).says("`{each.kk}` in the command stands for nothing");
}

const FILES: &str = r#"
[artifact.all]
kind = "command"
inputs = { data = "data/", scripts = "src/**/*.py" }
run = ["sh", "-c", "find -L . -type f ! -name all.txt | sort > {out}"]
outputs = ["all.txt"]
"#;

fn files() -> Project {
    let p = project(FILES);
    p.write("data/x", "1");
    p.write("data/sub/y", "2");
    p.write("src/deep/z.py", "3");
    p.write("src/deep/not.txt", "4");
    p
}

#[test]
fn a_stage_sees_what_its_directory_and_glob_match_and_nothing_else() {
    let p = files();
    p.run(&[]).code(0).says("ran 1 stage");
    assert_eq!(p.read("all.txt"), "./data/sub/y\n./data/x\n./src/deep/z.py\n");
    p.write("src/deep/not.txt", "5");
    p.run(&[]).code(0).says("ran 0 stages");
}

#[test]
fn a_file_that_comes_or_goes_in_a_directory_input_reruns_the_stage_and_is_named() {
    let p = files();
    p.run(&[]).code(0);
    p.write("data/new", "5");
    p.run(&["plan"]).code(0).prints("file `data/new` is new");
    p.run(&[]).code(0).says("ran 1 stage");
    std::fs::remove_file(p.path("data/new")).expect("removed");
    p.run(&["plan"]).code(0).prints("Restore");
    p.run(&[]).code(0).says("ran 0 stages");
    assert!(!p.read("all.txt").contains("new"));
}

#[test]
fn a_link_in_a_directory_input_counts_with_where_it_points_and_may_not_leave_the_project() {
    let p = files();
    std::os::unix::fs::symlink("x", p.path("data/link")).expect("a link");
    p.run(&[]).code(0);
    std::fs::remove_file(p.path("data/link")).expect("removed");
    std::os::unix::fs::symlink("sub/../x", p.path("data/link")).expect("a link");
    p.run(&["plan"]).code(0).prints("file `data/link` changed");
    std::fs::remove_file(p.path("data/link")).expect("removed");
    std::os::unix::fs::symlink("/etc/hostname", p.path("data/link")).expect("a link");
    p.run(&["plan"]).code(2).says("leaves the project").says("publish.toml:");
}

#[test]
fn patterns_that_match_nothing_or_lie_over_outputs_are_refused() {
    let p = project(&FILES.replace("data/\"", "nowhere/\""));
    p.run(&["plan"]).code(2).says("`nowhere/` matches no file");
    let p = files();
    p.write("publish.toml", &p.read("publish.toml").replace("\"all.txt\"", "\"data/all.txt\""));
    p.run(&["plan"]).code(2).says("makes `data/all.txt` there");
}

#[test]
fn a_frozen_artifact_keeps_its_result_until_it_is_forced() {
    let p = project(
        "[artifact.cold]\nkind = \"command\"\nfrozen = true\ninputs = { d = \"in.txt\" }\nrun = [\"cp\", \"{in.d}\", \"{out}\"]\noutputs = [\"cold.txt\"]\n",
    );
    p.write("in.txt", "1");
    p.run(&[]).code(0).says("ran 1 stage");
    p.write("in.txt", "2");
    p.run(&["plan", "--check"]).code(0);
    p.run(&[]).code(0).says("ran 0 stages");
    std::fs::remove_file(p.path("cold.txt")).expect("removed");
    p.run(&[]).code(0).says("restored");
    assert_eq!(p.read("cold.txt"), "1");
    p.run(&["--force", "cold"]).code(0).says("ran 1 stage");
    assert_eq!(p.read("cold.txt"), "2");
}

const CHAIN: &str = r#"
[artifact.one]
kind = "command"
inputs = { a = "root.txt" }
env = ["HFBUILD_TEST_WORD"]
run = ["cp", "{in.a}", "{out}"]
outputs = ["one.txt"]
[artifact.two]
kind = "command"
inputs = { a = "one" }
run = ["cp", "{in.a}", "{out}"]
outputs = ["two.txt"]
"#;

#[test]
fn nothing_to_do_is_remembered_and_anything_that_changes_is_seen() {
    let p = project(CHAIN);
    p.write("root.txt", "1");
    p.run(&[]).code(0).says("ran 2 stages");
    p.run(&[]).code(0).says("ran 0 stages, 2 up to date");
    assert!(p.path("cache/memo/fresh").exists());
    let runs = || std::fs::read_dir(p.path("cache/runs")).expect("runs").count();
    let before = runs();
    p.run(&[]).code(0).says("Fresh one, two").says("ran 0 stages, 2 up to date");
    assert_eq!(runs(), before, "the remembered answer needs no run");
    // an output, a source, a variable, the manifest, the records: each is seen
    p.write("two.txt", "9");
    p.run(&[]).code(0).says("1 restored");
    p.write("root.txt", "2");
    p.run(&[]).code(0).says("ran 2 stages");
    p.run(&[]).code(0).says("ran 0 stages");
    p.run(&[]).code(0).says("ran 0 stages");
    let with_word = p.command(&[]).env("HFBUILD_TEST_WORD", "x").output().expect("it runs");
    assert!(String::from_utf8_lossy(&with_word.stderr).contains("ran 1 stage"));
    p.run(&[]).code(0).says("1 restored");
    p.run(&[]).code(0);
    std::fs::remove_file(p.path("cache/actions/log")).expect("removed");
    p.run(&[]).code(0).says("ran 2 stages");
    p.run(&[]).code(0);
    p.write("publish.toml", &p.read("publish.toml").replace("\"two.txt\"", "\"three.txt\""));
    p.run(&[]).code(0).says("ran 1 stage");
    assert_eq!(p.read("three.txt"), "2");
}

#[test]
fn stages_that_make_the_same_content_side_by_side_do_not_disturb_each_other() {
    let rest: String = (0..60)
        .map(|i| {
            let from = if i < 6 { "root".to_string() } else { format!("s{}", i - 6) };
            format!("[artifact.s{i}]\nkind = \"command\"\ninputs = {{ a = \"{from}\" }}\nrun = [\"cp\", \"{{in.a}}\", \"{{out}}\"]\noutputs = [\"o/{i}.txt\"]\n")
        })
        .collect();
    let root = "[artifact.root]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"echo same > {out}\"]\noutputs = [\"root.txt\"]\n";
    let p = project(&format!("{root}{rest}"));
    p.run(&["-j", "6"]).code(0).says("ran 61 stages").never_says("Warning");
}
