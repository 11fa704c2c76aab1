//! Rules that run: who may use whom, what the core never names, lengths, banned words. Limits are ratchets: a test fails
//! where one is broken, and also where its list of exceptions is longer than it has to be.
//!
//! The scanner reads lines of code that rustfmt has formatted; it is no parser.

use crate::support::root;
use std::collections::{BTreeMap, BTreeSet};

/// Who may use whom: the arrows of `src/lib.rs`. A module may always use itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "process"]),
    // the worker `hfbuild-torch`
    ("bin", &["model", "core"]),
    ("process", &[]),
    ("cli", &["exec", "ui", "store", "hub", "model", "core"]),
    ("exec", &["stage", "store", "hub", "core"]),
    ("stage", &["model", "core"]),
    ("store", &["core"]),
    ("hub", &["core"]),
    ("ui", &["core"]),
    ("model", &["core"]),
    ("core", &[]),
];
/// Uses that no arrow allows, by file. To be taken out one by one.
const AGAINST_THE_ARROWS: &[(&str, usize)] = &[];
/// Who may write to the screen.
const PRINTERS: &[&str] = &["main", "bin", "process", "cli", "ui"];
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const LONG_FUNCTIONS: &[(&str, usize)] = &[];
/// `.unwrap()` and `.expect(` outside of tests.
const UNWRAPS: &[(&str, usize)] = &[];
/// Paths below cache/ that a module beside `store` spells.
const CACHE_PATHS: &[(&str, usize)] = &[];

/// One file of `src/`.
struct File {
    /// Relative to `src/`.
    name: String,
    text: String,
    /// Lines that are not tests and not comments, with their numbers.
    code: Vec<(usize, String)>,
}

impl File {
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines of code that hold one of these texts, as `file:line: text`.
    fn mentions(&self, words: &[&str]) -> Vec<String> {
        let hits = self.code.iter().filter(|(_, line)| words.iter().any(|w| line.contains(w)));
        hits.map(|(n, line)| format!("{}:{n}: {}", self.name, line.trim())).collect()
    }
}

/// Every source file without its tests: neither folders and files called `tests`, nor a `#[cfg(test)]` tail.
fn sources() -> Vec<File> {
    let src = root().join("src");
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&src).sort_by_file_name().into_iter().map(|e| e.expect("an entry")) {
        let name = entry.path().strip_prefix(&src).expect("below src").display().to_string();
        let is_test = name.split('/').any(|part| part == "tests" || part == "tests.rs");
        if is_test || !name.ends_with(".rs") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("a source file");
        let own = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = own.lines().enumerate().map(|(i, line)| (i + 1, line.to_string()));
        let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect();
        files.push(File { name, text, code });
    }
    assert!(files.len() > 60, "the scanner finds only {} files", files.len());
    files
}

#[track_caller]
fn none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// What is found is exactly what is allowed: nothing new, and no exception that is no longer needed.
#[track_caller]
fn ratchet(rule: &str, found: &BTreeMap<String, usize>, allowed: &[(&str, usize)]) {
    let allowed: BTreeMap<String, usize> = allowed.iter().map(|(name, n)| (name.to_string(), *n)).collect();
    let worse: Vec<_> = found.iter().filter(|(name, n)| allowed.get(*name).is_none_or(|a| a < n)).collect();
    assert!(worse.is_empty(), "{rule}: {worse:?}");
    let loose: Vec<_> = allowed.iter().filter(|(name, n)| found.get(*name).is_none_or(|f| f < n)).collect();
    assert!(loose.is_empty(), "{rule}: it got better, so tighten the list of exceptions: {loose:?}");
}

fn counted(found: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    found.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

/// The modules that a line names: `crate::exec::drive` names `exec`.
fn used(line: &str) -> Vec<&str> {
    let after = ["crate::", "hfbuild::"].into_iter().flat_map(|root| line.split(root).skip(1));
    after.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()).collect()
}

#[test]
fn modules_use_only_those_below_them() {
    let modules: BTreeSet<&str> = ARROWS.iter().map(|(module, _)| *module).collect();
    let mut against = Vec::new();
    for file in sources().iter().filter(|f| f.name != "lib.rs") {
        let (_, may) = ARROWS.iter().find(|(m, _)| *m == file.module()).unwrap_or_else(|| {
            panic!("`{}` is in no arrow: add it to `ARROWS` here and to src/lib.rs", file.name);
        });
        let grouped = file.mentions(&["crate::{", "super::super::super"]);
        none("spell the module out, so that the arrows can be checked", grouped);
        for (number, line) in &file.code {
            for module in used(line).into_iter().filter(|m| modules.contains(m) && *m != file.module()) {
                if !may.contains(&module) {
                    eprintln!("{}:{number}: {}", file.name, line.trim());
                    against.push(format!("{} uses {module}", file.name));
                }
            }
        }
    }
    ratchet("against the arrows of src/lib.rs", &counted(against), AGAINST_THE_ARROWS);
}

#[test]
fn the_map_in_lib_rs_names_the_same_arrows() {
    let lib = sources().into_iter().find(|f| f.name == "lib.rs").expect("lib.rs").text;
    let map: String = lib.lines().filter_map(|l| l.strip_prefix("//! ")).collect::<Vec<_>>().join(" ");
    for arrows in [
        "main -> cli -> exec, ui, store, hub, model;",
        "exec -> stage, store, hub, core;",
        "stage -> model, core;",
        "bin -> model, core;",
        "store, hub, ui, model -> core;",
        "core -> nothing of ours",
    ] {
        assert!(map.contains(arrows), "src/lib.rs no longer says `{arrows}`: change it and `ARROWS` together");
    }
    let modules = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut modules: BTreeSet<&str> = modules.collect();
    modules.extend(["main", "bin"]);
    assert_eq!(modules, ARROWS.iter().map(|(module, _)| *module).collect());
}

#[test]
fn the_core_has_no_effects() {
    let effects = ["std::fs", "std::net", "std::process", "std::thread", "std::time", "std::env", "std::io::"];
    let others = ["tokio", "jiff", "reqwest", "tempfile", "walkdir", "Instant::now", "SystemTime"];
    for file in sources().iter().filter(|f| f.module() == "core") {
        let found = file.mentions(&[&effects[..], &others].concat());
        // `OnPath` turns what others' effects gave into an error: the type of a result is no effect
        let found = found.into_iter().filter(|hit| !hit.contains("std::io::Error") && !hit.contains("std::io::Result"));
        none("the core does no I/O, and knows no clock and no environment", found.collect());
    }
}

#[test]
fn only_the_outermost_modules_print() {
    let words = ["println!", "print!(", "dbg!", "io::stdout", "io::stderr"];
    for file in sources().iter().filter(|f| !PRINTERS.contains(&f.module())) {
        none("the engine never prints: send an event", file.mentions(&words));
    }
}

#[test]
fn every_module_says_first_what_it_is() {
    let silent = sources().into_iter().filter(|f| !f.text.starts_with("//! ")).map(|f| f.name);
    none("a module starts with `//!`", silent.collect());
}

#[test]
fn files_and_functions_are_short() {
    let (mut files, mut functions) = (Vec::new(), BTreeMap::new());
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            files.push(format!("{} has {lines} lines", file.name));
        }
        for (name, lines) in function_lengths(&file.text) {
            if lines > FUNCTION_LINES {
                functions.insert(format!("{} {name}", file.name), lines);
            }
        }
    }
    none(&format!("a file has at most {FILE_LINES} lines"), files);
    ratchet(&format!("a function has at most {FUNCTION_LINES} lines"), &functions, LONG_FUNCTIONS);
}

/// Functions with a body, by name, with their lines. rustfmt closes one with a brace at the column where it began.
fn function_lengths(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split(' ').collect();
        let Some(at) = words.iter().position(|w| *w == "fn") else { continue };
        let before = ["pub", "pub(super)", "pub(crate)", "const", "async", "unsafe", "extern", "\"C\""];
        if !words[..at].iter().all(|w| before.contains(w)) {
            continue;
        }
        let Some(open) = lines[start..].iter().position(|l| l.ends_with(['{', ';', '}'])) else { continue };
        if !lines[start + open].ends_with('{') {
            continue; // a signature of a trait, or a body on the same line
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[start..].iter().position(|l| *l == end).expect("rustfmt's closing brace") + 1;
        let name = words.get(at + 1).unwrap_or(&"").split(['(', '<']).next().unwrap_or_default();
        found.push((name.to_string(), length));
    }
    found
}

#[test]
fn the_scanner_sees_functions_uses_and_tests() {
    let text = "impl A {\n    pub fn one(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n    fn two(&self);\n}\nfn three() {}\n";
    assert_eq!(function_lengths(text), [("one".to_string(), 5)]);
    assert_eq!(used("let a: crate::core::Error = crate::exec::x(hfbuild::cli::main);"), ["core", "exec", "cli"]);
    let gate = sources().into_iter().find(|f| f.name == "core/gate.rs").expect("core/gate.rs");
    assert!(gate.text.contains("#[cfg(test)]") && gate.code.len() < gate.text.lines().count());
    assert!(gate.mentions(&["#[test]"]).is_empty());
}

#[test]
fn no_code_is_left_unfinished_or_unread() {
    let banned = ["todo!", "unimplemented!", "dbg!", "#[ignore", "unreachable!"];
    for file in sources() {
        none("banned", file.mentions(&banned));
        let marks = file.text.lines().filter(|l| l.contains("FIXME") || l.contains("XXX") || l.contains("TODO"));
        none(&format!("{}: finish it, or say it in an issue", file.name), marks.map(String::from).collect());
    }
}

#[test]
fn no_code_takes_for_granted_that_nothing_fails() {
    let found = sources().into_iter().flat_map(|f| {
        let hits = f.mentions(&[".unwrap()", ".expect("]).len();
        std::iter::repeat_n(f.name, hits)
    });
    ratchet("an error is returned, not unwrapped", &counted(found), UNWRAPS);
}

#[test]
fn only_the_store_knows_a_path_under_cache() {
    let parts =
        ["\"cache/", "\"blobs/", "\"actions/", "\"memo/", "\"runs/", "join(\"actions", "join(\"memo", "join(\"runs"];
    let outside = sources().into_iter().filter(|f| f.module() != "store").flat_map(|f| {
        let hits = f.mentions(&parts).len();
        std::iter::repeat_n(f.name, hits)
    });
    ratchet("ask `store` for the path", &counted(outside), CACHE_PATHS);
}
