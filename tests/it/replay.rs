//! Plans replayed: what `plan --json` says of random graphs after random edits, beside what the build that follows does.
//!
//! Through the real binary, so that observing, looking for blobs, placing and publishing are in it. What happened is read
//! from two witnesses: the events that the run logged, and a file to which every program adds its node's name. A whole
//! build that ends well is also held against one from scratch in another folder.

use crate::check::{HEAD, shell};
use crate::every_effect::of_all;
use crate::support::{Project, Run, run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const CASES: u64 = 40;
const ROUNDS: usize = 6;
/// Rounds after these in which everything is asked for and nothing is changed.
const QUIET: usize = 3;
const REPO: &str = "me/it";

// --- what is generated -----------------------------------------------------------------------------------------------

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.roll(of.len())).cloned()
    }
}

/// A program: all that it reads goes into `all`, of which its output says everything, one bit, or nothing.
#[derive(Debug)]
struct Stage {
    reads: BTreeSet<usize>,
    files: Vec<usize>,
    /// A folder or a glob among its inputs.
    data: Option<&'static str>,
    /// The shell's expression for what it makes of `all`.
    makes: &'static str,
    param: Option<usize>,
    env: bool,
    shards: bool,
    frozen: bool,
    fails: bool,
    folder: bool,
    facts: bool,
}

#[derive(Debug)]
struct Graph {
    stages: Vec<Stage>,
    /// The stage whose fact a page and a gate read.
    read: usize,
    gated: bool,
    /// The stage that is published, if any is.
    published: Option<usize>,
}

const EXACT: &str = "$(cksum < all | tr -d ' ')";
const PARITY: &str = "$(( $(cksum < all | cut -d' ' -f1) % 2 ))";

fn graph(dice: &mut Dice) -> Graph {
    let count = 2 + dice.roll(5);
    let stages: Vec<Stage> = (0..count)
        .map(|n| Stage {
            reads: (0..dice.roll(3)).filter(|_| n > 0).map(|_| dice.roll(n)).collect(),
            files: (0..3).filter(|_| dice.chance(40)).collect(),
            data: dice.chance(25).then(|| if dice.chance(50) { "data/*.txt" } else { "data/" }),
            makes: [EXACT, PARITY, PARITY, "same"][dice.roll(4)],
            param: dice.chance(60).then(|| dice.roll(2)),
            env: dice.chance(20),
            shards: n > 0 && dice.chance(25),
            frozen: dice.chance(8),
            fails: dice.chance(20),
            folder: dice.chance(30),
            facts: n == 0 || dice.chance(30),
        })
        .collect();
    let measured: Vec<usize> = (0..count).filter(|n| stages[*n].facts && !stages[*n].shards).collect();
    let read = dice.pick(&measured).unwrap_or(0);
    let gated = dice.chance(60);
    let published = (gated && dice.chance(70)).then(|| dice.roll(count));
    Graph { stages, read, gated, published }
}

impl Graph {
    /// Every artifact's name.
    fn names(&self) -> Vec<String> {
        let stages = (0..self.stages.len()).map(|n| format!("s{n}"));
        let rest = [Some("page"), self.gated.then_some("gates"), self.published.map(|_| "publish")];
        stages.chain(rest.into_iter().flatten().map(String::from)).collect()
    }

    /// The stages that an artifact is made of: itself, and all that it needs.
    fn needed(&self, name: &str) -> Vec<usize> {
        let number = |name: &str| name.strip_prefix('s')?.parse().ok();
        let published = self.published.filter(|_| name == "publish");
        let mut found: Vec<usize> = match number(name) {
            Some(n) => vec![n],
            None => published.into_iter().chain([self.read]).collect(),
        };
        let mut at = 0;
        while at < found.len() {
            found.extend(&self.stages[found[at]].reads);
            at += 1;
        }
        found
    }

    fn table(&self, n: usize, state: &State) -> String {
        let stage = &self.stages[n];
        let (node, out) = match stage.shards {
            true => (format!("s{n}[{{each}}]"), format!("o/s{n}-{{each}}")),
            false => (format!("s{n}"), format!("o/s{n}")),
        };
        let dep = |d: &usize| format!("$(find -L {{in.d{d}}} -type f | sort) ");
        let deps: String = stage.reads.iter().map(dep).collect();
        let files: String = stage.files.iter().map(|f| format!("{{in.f{f}}} ")).collect();
        let data = stage.data.map_or("", |_| "data/*.txt ");
        let param = stage.param.map_or(String::new(), |p| format!("{{params.p{p}}}"));
        let env = if stage.env { "$EV" } else { "" };
        let mut line = format!("echo '{node}' >> $HOME/ran; cat {deps}{files}{data}/dev/null > all; ");
        line += &format!("echo '{node}' {param} {env} v{} >> all; h={}; ", state.versions[n], stage.makes);
        if stage.fails {
            line += "if test $(( $(cksum < all | cut -d' ' -f1) % 4 )) = 0; then exit 1; fi; ";
        }
        line += &match stage.folder {
            true => format!("mkdir -p {out}; echo $h > {out}/a; case $h in *1*) echo $h > {out}/b;; esac"),
            false => format!("echo $h > {out}"),
        };
        let (mut outputs, mut more) = (format!("\"{out}\""), String::new());
        if stage.facts && !stage.shards {
            line += &format!("; printf '{{\"h\": \"%s\"}}' $h > o/s{n}.json");
            outputs += &format!(", \"o/s{n}.json\"");
            more += &format!("facts_file = \"o/s{n}.json\"\n");
        }
        let inputs = stage.reads.iter().map(|d| format!("d{d} = \"s{d}\""));
        let inputs = inputs.chain(stage.files.iter().map(|f| format!("f{f} = \"src/f{f}.txt\"")));
        let inputs: Vec<String> = inputs.chain(stage.data.map(|data| format!("data = \"{data}\""))).collect();
        more += &format!("inputs = {{ {} }}\n", inputs.join(", "));
        more += if stage.env { "env = [\"EV\"]\n" } else { "" };
        more += if stage.frozen { "frozen = true\n" } else { "" };
        if stage.shards {
            more += &format!("each = {:?}\n", state.each);
        }
        shell(&format!("s{n}"), &line, &format!("[{outputs}]"), &more)
    }

    fn manifest(&self, state: &State) -> String {
        let mut out = HEAD.to_string();
        if self.published.is_some() {
            out += &format!("[hub]\nrepo = \"{REPO}\"\nendpoint = \"embedded\"\n");
        }
        let [p0, p1] = state.params;
        out += &format!("[params]\np0 = {p0}\np1 = {p1}\n[profile.alt]\nparams = {{ p0 = 7, p1 = 8 }}\n");
        out += &(0..self.stages.len()).map(|n| self.table(n, state)).collect::<String>();
        let read = self.read;
        out += &format!("[artifact.page]\nkind = \"template\"\ntemplate = \"page.txt.hbs\"\nfacts = [\"s{read}\"]\n");
        if self.gated {
            out += &format!("[artifact.gates]\nkind = \"check\"\nrequire = [\"s{read}.h != '1'\"]\n");
        }
        if let Some(n) = self.published {
            let files = format!("{{ \"page.txt\" = \"page\", \"x/\" = \"s{n}\" }}");
            out += &format!("[artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = {files}\n");
        }
        out
    }
}

/// What the user has set; a build is a function of it.
#[derive(Debug)]
struct State {
    params: [usize; 2],
    versions: Vec<usize>,
    each: Vec<&'static str>,
    env: usize,
    files: [usize; 3],
    more_data: bool,
}

impl State {
    /// Writes what is not there as it should be.
    fn write(&self, graph: &Graph, project: &Project) {
        let put = |path: &str, text: &str| {
            if std::fs::read(project.path(path)).ok().as_deref() != Some(text.as_bytes()) {
                project.write(path, text);
            }
        };
        put("publish.toml", &graph.manifest(self));
        put("page.txt.hbs", &format!("{{{{s{}.h}}}}\n", graph.read));
        self.files.iter().enumerate().for_each(|(n, content)| put(&format!("src/f{n}.txt"), &format!("{content}\n")));
        put("data/1.txt", "one\n");
        match self.more_data {
            true => put("data/2.txt", "two\n"),
            false => drop(std::fs::remove_file(project.path("data/2.txt"))),
        }
    }

    /// One edit or accident; what it was.
    fn change(&mut self, project: &Project, dice: &mut Dice) -> &'static str {
        let file = |below: &str, dice: &mut Dice| {
            let files: Vec<String> = project.tree(below).into_keys().collect();
            dice.pick(&files).map(|f| project.path(below).join(f))
        };
        match dice.roll(14) {
            0..=2 => {
                self.files[dice.roll(3)] = dice.roll(4);
                "a source"
            }
            3 | 4 => {
                self.params[dice.roll(2)] = dice.roll(4);
                "a parameter"
            }
            5 => {
                self.env = dice.roll(3);
                "the environment"
            }
            6 => {
                self.each = [vec!["a"], vec!["a", "b"], vec!["b", "c"]][dice.roll(3)].clone();
                "the shards"
            }
            7 => {
                let n = dice.roll(self.versions.len());
                self.versions[n] = dice.roll(3);
                "a program"
            }
            8 => {
                self.more_data = !self.more_data;
                "what a folder holds"
            }
            9 => {
                let _ = file("o", dice).map(std::fs::remove_file);
                "an output deleted"
            }
            10 => {
                file("o", dice).iter().for_each(append);
                "an output changed"
            }
            11 => {
                let _ = file("cache/blobs", dice).map(std::fs::remove_file);
                "a blob lost"
            }
            12 => {
                file("cache/blobs", dice).iter().for_each(append);
                "a blob damaged"
            }
            _ => {
                project.run(&["gc", "--max-size", ["0B", "50B"][dice.roll(2)]]).code(0);
                "gc"
            }
        }
    }
}

fn append(path: &PathBuf) {
    let mut bytes = std::fs::read(path).expect("the file");
    bytes.extend(b"by hand\n");
    std::fs::remove_file(path).expect("the file");
    std::fs::write(path, bytes).expect("the file");
}

// --- what was planned, and what happened -----------------------------------------------------------------------------

#[derive(Debug, Clone)]
struct Planned {
    work: bool,
    /// Kind and verdict by node.
    nodes: BTreeMap<String, (String, String)>,
}

impl Planned {
    fn of(json: &str) -> Planned {
        let json: serde_json::Value = serde_json::from_str(json).expect("a plan");
        let text = |node: &serde_json::Value, key: &str| node[key].as_str().expect("a text").to_string();
        let nodes = json["nodes"].as_array().expect("nodes").iter();
        let nodes = nodes.map(|n| (text(n, "name"), (text(n, "kind"), text(n, "verdict"))));
        Planned { work: json["work"].as_bool().expect("work"), nodes: nodes.collect() }
    }
}

/// What a build did.
#[derive(Debug, Clone, Default)]
struct Happened {
    code: i32,
    keep_going: bool,
    /// Whether it left a log: where it knew at first sight that nothing has changed, it leaves none.
    logged: bool,
    /// What was logged of each node, in order.
    ends: BTreeMap<String, Vec<String>>,
    /// How often each program ran, by its own count.
    counted: BTreeMap<String, usize>,
}

/// The events that say how a node ended, each with the node.
fn ends_of(event: &serde_json::Value) -> Vec<(String, String)> {
    let word = event["event"].as_str().expect("a name");
    let text = |key: &str| event[key].as_str().expect("a text").to_string();
    match word {
        "running" | "finished" | "restored" | "cutoff" | "failed" => vec![(text("node"), word.into())],
        "fresh" | "blocked" => {
            let nodes = event["nodes"].as_array().expect("nodes").iter();
            nodes.map(|n| (n.as_str().expect("a name").to_string(), word.to_string())).collect()
        }
        "gate" => vec![(text("node"), event["outcome"]["gate"].as_str().expect("an outcome").into())],
        "published" | "remote_fresh" => vec![("publish".into(), word.into())],
        "planned" | "uploading" | "note" | "warning" => vec![],
        other => panic!("an event that this test does not know: {other}"),
    }
}

fn runs(project: &Project) -> BTreeSet<PathBuf> {
    let folders = std::fs::read_dir(project.path("cache/runs"));
    folders.into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn events(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).expect("the events");
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        for (node, end) in ends_of(&serde_json::from_str(line).expect("an event")) {
            ends.entry(node).or_default().push(end);
        }
    }
    ends
}

/// Builds, and looks at what it did.
fn build(project: &Project, keep_going: bool, command: &mut std::process::Command) -> (Run, Happened) {
    let _ = std::fs::remove_file(project.path("ran"));
    let before = runs(project);
    let said = run(command);
    let new: Vec<PathBuf> = runs(project).difference(&before).cloned().collect();
    assert!(new.len() <= 1, "{new:?}");
    let mut counted = BTreeMap::new();
    let ran = std::fs::read_to_string(project.path("ran")).unwrap_or_default();
    ran.lines().for_each(|node| *counted.entry(node.to_string()).or_default() += 1);
    let ends = new.first().map_or(BTreeMap::new(), |folder| events(folder));
    let happened = Happened { code: said.code, keep_going, logged: !new.is_empty(), ends, counted };
    (said, happened)
}

impl Happened {
    fn any(&self, end: &str) -> bool {
        self.ends.values().flatten().any(|e| e == end)
    }
    fn refused(&self) -> bool {
        self.any("refused") || self.any("unmeasured")
    }
    fn ends(&self, node: &str) -> Vec<&str> {
        self.ends.get(node).into_iter().flatten().map(String::as_str).collect()
    }

    /// Whether a node with this verdict may have ended so.
    fn may(&self, kind: &str, verdict: &str, ends: &[&str]) -> bool {
        let cut_short = self.any("failed") && !self.keep_going;
        let stopped = self.any("failed") || self.refused();
        match (kind, verdict, ends) {
            (_, "up_to_date", []) => !self.logged || (matches!(kind, "gate" | "upload") && cut_short),
            ("gate", "up_to_date", ["passed"]) => true,
            ("gate", "blocked", ["refused" | "unmeasured"]) => true,
            ("gate", "blocked", []) => cut_short,
            ("gate", "pending", ["passed" | "refused" | "unmeasured"]) => true,
            ("gate", "pending", []) => stopped,
            ("gate", ..) => false,
            ("upload", "up_to_date", ["remote_fresh"]) => true,
            ("upload", "run", ["published"]) => true,
            ("upload", "pending", ["published" | "remote_fresh"]) => true,
            ("upload", "run" | "pending" | "up_to_date", ["blocked"]) => stopped,
            ("upload", _, []) => cut_short,
            ("upload", "blocked", ["blocked"]) => true,
            ("upload", ..) => false,
            (_, "up_to_date", ["fresh"]) => true,
            (_, "restore", ["restored"]) => true,
            (_, "run", ["running", "finished" | "failed"]) => true,
            (_, "pending", ["running", "finished" | "failed"] | ["cutoff"] | ["restored"]) => true,
            (_, "run" | "restore" | "pending", ["blocked"]) => stopped,
            (_, "run" | "restore" | "pending", []) => cut_short,
            (_, "blocked", ["blocked"]) => true,
            _ => false,
        }
    }
}

/// Where the plan said something that did not come true. Nothing: it is true to what happened.
fn lies(plan: &Planned, happened: &Happened) -> Vec<String> {
    let mut lies = Vec::new();
    for (node, (kind, verdict)) in &plan.nodes {
        let ends = happened.ends(node);
        if !happened.may(kind, verdict, &ends) {
            lies.push(format!("{node} was planned as {verdict} and ended as {ends:?}"));
        }
    }
    let known = happened.ends.keys().chain(happened.counted.keys());
    lies.extend(known.filter(|n| !plan.nodes.contains_key(*n)).map(|n| format!("{n} was not planned")));
    for (node, (kind, _)) in plan.nodes.iter().filter(|(_, (kind, _))| kind == "command") {
        let logged = happened.ends(node).iter().filter(|e| **e == "running").count();
        let counted = happened.counted.get(node).copied().unwrap_or(0);
        if logged != counted {
            lies.push(format!("the log says that the {kind} {node} ran {logged} times, and it ran {counted} times"));
        }
    }
    let did = ["running", "restored", "published"].iter().any(|end| happened.any(end));
    if !plan.work && (did || happened.code != 0) {
        lies.push("the plan said that there is nothing to do".into());
    }
    if plan.work && !did && happened.code == 0 {
        lies.push("the plan said that there is something to do, and nothing was done".into());
    }
    lies
}

// --- the replay ------------------------------------------------------------------------------------------------------

/// How a round asks for what.
#[derive(Default)]
struct Asked {
    settings: Vec<String>,
    words: Vec<String>,
    force: Vec<String>,
    keep_going: bool,
}

impl Asked {
    fn roll(graph: &Graph, dice: &mut Dice) -> Asked {
        let mut settings = Vec::new();
        if dice.chance(15) {
            settings.extend(["--set".into(), format!("params.p{}={}", dice.roll(2), dice.roll(4))]);
        }
        if dice.chance(12) {
            settings.extend(["--profile", "alt"].map(String::from));
        }
        let words = if dice.chance(20) { dice.pick(&graph.names()).into_iter().collect() } else { vec![] };
        let built = words.first().map_or((0..graph.stages.len()).collect(), |word: &String| graph.needed(word));
        let force = dice.pick(&built).filter(|_| dice.chance(25));
        let force = force.map_or(vec![], |n| vec!["--force".into(), format!("s{n}")]);
        Asked { settings, words, force, keep_going: dice.chance(60) }
    }

    /// A command line: `command` with what goes for it, and the targets.
    fn line(&self, command: &[&str], more: &[String]) -> Vec<String> {
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        [&self.settings[..], &command, more, &self.words].concat()
    }
}

/// Outputs, and what was published but for its record, which names the commit before.
fn made(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let mut tree = project.tree("dist");
    tree.retain(|path, _| path != "provenance.json");
    let tree = tree.into_iter().map(|(path, bytes)| (format!("dist/{path}"), bytes));
    tree.chain(project.tree("o").into_iter().map(|(path, bytes)| (format!("o/{path}"), bytes))).collect()
}

/// What a build from scratch makes otherwise. Outputs of shards that are no longer in the manifest stay.
fn other_than_from_scratch(project: &Project, graph: &Graph, state: &State, asked: &Asked) -> Vec<String> {
    let scratch = Project::empty();
    state.write(graph, &scratch);
    let line = asked.line(&["build"], &[]);
    let args: Vec<&str> = line.iter().map(String::as_str).collect();
    let built = run(scratch.command(&args).env("EV", state.env.to_string()));
    if built.code != 0 {
        return vec![format!("from scratch it ends with {}: {}", built.code, built.stderr)];
    }
    let (have, want) = (made(project), made(&scratch));
    let other = want.iter().filter(|(path, bytes)| have.get(*path) != Some(bytes));
    let text = |bytes: Option<&Vec<u8>>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
    other.map(|(path, b)| format!("{path}: {:?}, from scratch {:?}", text(have.get(path)), text(Some(b)))).collect()
}

/// One random project through its rounds: what is wrong, and which ends which verdicts had.
fn replay(case: u64) -> (Vec<String>, BTreeSet<(String, String)>) {
    let mut dice = Dice(case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let graph = graph(&mut dice);
    let project = Project::empty();
    let mut state = State {
        params: [1, 2],
        versions: vec![0; graph.stages.len()],
        each: vec!["a", "b"],
        env: 0,
        files: [0; 3],
        more_data: false,
    };
    let (mut seen, mut told) = (BTreeSet::new(), Vec::new());
    for round in 0..ROUNDS + QUIET {
        let changes = if round == 0 || round >= ROUNDS { 0 } else { dice.roll(3) };
        told.extend((0..changes).map(|_| state.change(&project, &mut dice).to_string()));
        state.write(&graph, &project);
        let asked = if round < ROUNDS { Asked::roll(&graph, &mut dice) } else { Asked::default() };
        let command = |line: &[String]| {
            let mut command = project.command(&line.iter().map(String::as_str).collect::<Vec<_>>());
            command.env("EV", state.env.to_string());
            command
        };
        let plan = run(&mut command(&asked.line(&["plan", "--json"], &asked.force)));
        let flags = [&asked.force[..], &asked.keep_going.then(|| "-k".to_string()).into_iter().collect::<Vec<_>>()];
        let line = asked.line(&["build"], &flags.concat());
        told.push(line.join(" "));
        let (said, happened) = build(&project, asked.keep_going, &mut command(&line));
        let wrong = |what: Vec<String>| {
            let what = what.join("\n  ");
            format!("case {case}, round {round} ({}):\n  {what}\n{graph:?}\n{}", told.join(", "), said.stderr)
        };
        if plan.code != 0 || !matches!(said.code, 0 | 1) || said.stderr.contains("panicked") {
            return (vec![wrong(vec![format!("plan {}: {}", plan.code, plan.stderr)])], seen);
        }
        let planned = Planned::of(&plan.stdout);
        let mut problems = lies(&planned, &happened);
        for (node, (kind, verdict)) in &planned.nodes {
            let kind = if matches!(kind.as_str(), "gate" | "upload") { kind.as_str() } else { "stage" };
            let end = happened.ends(node).last().map_or("nothing", |e| *e).to_string();
            seen.insert((format!("{kind} {verdict}"), end));
        }
        if said.code == 0 {
            let again = run(&mut command(&asked.line(&["plan", "--check"], &[])));
            if again.code != 0 {
                problems.push(format!("the next plan finds work: {}{}", again.stdout, again.stderr));
            }
        }
        if said.code == 0 && asked.words.is_empty() && graph.stages.iter().all(|s| !s.frozen) {
            problems.extend(other_than_from_scratch(&project, &graph, &state, &asked));
        }
        if !problems.is_empty() {
            return (vec![wrong(problems)], seen);
        }
    }
    (vec![], seen)
}

#[test]
fn what_a_plan_says_comes_true_on_random_projects_and_nothing_else_runs() {
    let seen = Mutex::new(BTreeSet::new());
    let cases: Vec<u64> = (1..=CASES).collect();
    let wrong = of_all(&cases, |case| {
        let (wrong, ends) = replay(*case);
        seen.lock().expect("no panic").extend(ends);
        wrong
    });
    assert!(wrong.is_empty(), "{} of {CASES} cases:\n{}", wrong.len(), wrong.join("\n"));
    // the generator still reaches what this is about
    let seen = seen.into_inner().expect("no panic");
    for (verdict, end) in [
        ("stage up_to_date", "fresh"),
        ("stage restore", "restored"),
        ("stage run", "finished"),
        ("stage run", "failed"),
        ("stage pending", "finished"),
        ("stage pending", "failed"),
        ("stage pending", "cutoff"),
        ("stage pending", "restored"),
        ("stage pending", "blocked"),
        ("stage up_to_date", "nothing"), // at first sight
        ("gate up_to_date", "passed"),
        ("gate blocked", "refused"),
        ("gate pending", "passed"),
        ("gate pending", "refused"),
        ("upload up_to_date", "remote_fresh"),
        ("upload pending", "published"),
        ("upload pending", "blocked"),
    ] {
        assert!(seen.contains(&(verdict.into(), end.into())), "no `{verdict}` ended as `{end}`: {seen:#?}");
    }
}

/// `extra` gets its turn while the refused gate alone is in the way of the upload that it is for; then `slow`, of the same
/// upload, fails. It is built or it is said to be blocked, and not forgotten.
#[test]
fn what_a_refused_gate_had_spared_is_not_forgotten_where_a_stage_fails_later() {
    let late = "inputs = { late = \"late\" }";
    let tables = [
        "[hub]\nrepo = \"me/it\"\nendpoint = \"embedded\"\n".to_string(),
        shell("slow", "echo slow >> $HOME/ran; read word < $HOME/go; exit 1", r#"["slow.txt"]"#, ""),
        shell(
            "measured",
            "echo measured >> $HOME/ran; echo '{\"h\": 1}' > m.json",
            r#"["m.json"]"#,
            "facts_file = \"m.json\"",
        ),
        shell("late", "echo late >> $HOME/ran; echo 1 > late.txt", r#"["late.txt"]"#, "inputs = { m = \"measured\" }"),
        shell("extra", "echo extra >> $HOME/ran; echo 1 > extra.txt", r#"["extra.txt"]"#, late),
        shell("last", "echo last >> $HOME/ran; echo went > $HOME/go; echo 1 > last.txt", r#"["last.txt"]"#, late),
        "[artifact.gates]\nkind = \"check\"\nrequire = [\"measured.h != 1\"]\n".to_string(),
        "[artifact.publish]\nkind = \"upload\"\nafter = [\"gates\"]\nfiles = { slow = \"slow\", extra = \"extra\" }\n"
            .to_string(),
    ];
    let project = Project::with(&format!("{HEAD}{}", tables.concat()));
    assert_eq!(run(std::process::Command::new("mkfifo").arg(project.path("go"))).code, 0);
    let planned = Planned::of(&project.run(&["plan", "--json"]).code(0).stdout);
    let (said, happened) = build(&project, true, &mut project.command(&["-k", "-j", "4"]));
    let said = said.code(1).says("Failed slow").says("Refused gates");
    assert_eq!(lies(&planned, &happened), [""; 0], "{}", said.stderr);
}

// --- the comparison itself -------------------------------------------------------------------------------------------

/// `a` runs, `b` waits for it, `c` is up to date, `d` is put back; they are planned and built.
fn one_of_each() -> (Planned, Happened) {
    let tables = [
        shell("a", "echo a >> $HOME/ran; cat {in.text} > a.txt", r#"["a.txt"]"#, "inputs = { text = \"text.txt\" }"),
        shell("b", "echo b >> $HOME/ran; wc -l < {in.a} > b.txt", r#"["b.txt"]"#, "inputs = { a = \"a\" }"),
        shell("c", "echo c >> $HOME/ran; echo 3 > c.txt", r#"["c.txt"]"#, ""),
        shell("d", "echo d >> $HOME/ran; echo 4 > d.txt", r#"["d.txt"]"#, ""),
    ];
    let project = Project::with(&format!("{HEAD}{}", tables.concat()));
    project.write("text.txt", "one\n");
    project.run(&[]).code(0);
    project.write("text.txt", "one\ntwo\n");
    std::fs::remove_file(project.path("d.txt")).expect("d.txt");
    let planned = Planned::of(&project.run(&["plan", "--json"]).code(0).stdout);
    let (said, happened) = build(&project, false, &mut project.command(&[]));
    said.code(0);
    (planned, happened)
}

#[test]
fn a_doctored_plan_is_refused() {
    let (plan, happened) = one_of_each();
    assert_eq!(lies(&plan, &happened), [""; 0]);
    let verdicts = ["run", "pending", "up_to_date", "restore", "blocked"];
    // a stage that is said to wait and runs, or is put back, is no lie by itself: it may end so
    let fits = [("a", "pending"), ("b", "run"), ("d", "pending")];
    for (node, (_, truth)) in &plan.nodes {
        for verdict in verdicts.iter().filter(|v| *v != truth && !fits.contains(&(node, v))) {
            let mut doctored = plan.clone();
            doctored.nodes.get_mut(node).expect("it is there").1 = verdict.to_string();
            assert!(!lies(&doctored, &happened).is_empty(), "{node} as {verdict}, not {truth}: {happened:?}");
        }
        let mut doctored = plan.clone();
        doctored.nodes.remove(node);
        assert!(!lies(&doctored, &happened).is_empty(), "{node} is not in the plan");
    }
    assert!(!lies(&Planned { work: false, ..plan.clone() }, &happened).is_empty());
    let quiet = |happened: Happened| assert!(!lies(&plan, &happened).is_empty(), "{happened:?}");
    let with = |change: &dyn Fn(&mut Happened)| {
        let mut other = happened.clone();
        change(&mut other);
        quiet(other);
    };
    with(&|h| h.counted.extend([("c".into(), 1)])); // it ran, and the log keeps silent
    with(&|h| h.counted.extend([("a".into(), 2)]));
    with(&|h| h.counted.retain(|node, _| node != "b"));
    with(&|h| drop(h.ends.remove("d")));
    with(&|h| drop(h.ends.insert("a".into(), vec!["blocked".into()]))); // by nothing that failed
    with(&|h| *h = Happened { code: 0, logged: true, ..Happened::default() });
}
