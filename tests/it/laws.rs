//! The laws of the engine, over random graphs and edits, against an oracle that makes everything from scratch.
//!
//! The driver here is the loop of `exec::drive` without effects: it asks the same `plan::decide`, and keeps history,
//! disk and blobs in memory. What a stage makes is a function of what it *sees* (never of its action), so that an action
//! that forgets something shows as a wrong output. The deliberately broken engines at the end must each be caught.

use hfbuild::core::action::{Declaration, FactRead, InputFrom, Shape};
use hfbuild::core::digest::{Digest, HubDigests};
use hfbuild::core::facts::Facts;
use hfbuild::core::gate;
use hfbuild::core::graph::{self, Body, Graph, NodeId, Part, Upload, Work, placed_path};
use hfbuild::core::manifest::dom::Source;
use hfbuild::core::plan::{self, Decision, Plan, Settled, World};
use hfbuild::core::publish::{Observed, Tree, UploadVerdict};
use hfbuild::core::receipt::{History, KeptAction, Output, Receipt};
use hfbuild::core::value::Value;
use hfbuild::core::verdict::{Reason, Verdict};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

// ---- what is generated

const SOURCES: usize = 4;
const CASES: u32 = 200;

/// How much of what a stage sees comes through to its output.
#[derive(Debug, Clone, Copy)]
enum Nature {
    Exact,
    Parity,
    Constant,
}

/// What the output of a single-node stage looks like; shards write into one directory.
#[derive(Debug, Clone, Copy)]
enum Form {
    File,
    Placed,
    /// A placed directory of one or two files, as the content has it.
    Folder,
}

#[derive(Debug, Clone, Copy)]
enum Read {
    All,
    Bit,
    Mark,
}

impl Read {
    fn names(self) -> &'static [&'static str] {
        match self {
            Read::All => &["bit", "mark"],
            Read::Bit => &["bit"],
            Read::Mark => &["mark"],
        }
    }
}

#[derive(Debug, Clone)]
struct Stage {
    nature: Nature,
    form: Form,
    shards: usize,
    files: BTreeSet<usize>,
    inputs: BTreeSet<usize>,
    facts: BTreeMap<usize, Read>,
    after: BTreeSet<usize>,
    env: bool,
    tool: bool,
    published: bool,
}

/// All that a user sets: a build is a function of it.
#[derive(Debug, Clone)]
struct State {
    sources: [u8; SOURCES],
    params: Vec<u8>,
    env: u8,
    tool: u8,
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    Source(usize, u8),
    Param(usize, u8),
    Env(u8),
    Tool(u8),
    DeletePlaced(usize),
    ChangePlaced(usize),
    LoseBlob(usize),
    Force(usize),
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Bit(bool),
    Unmeasured,
}

#[derive(Debug, Clone)]
struct Case {
    stages: Vec<Stage>,
    rounds: Vec<Vec<Edit>>,
    gates: Vec<(usize, Ask)>,
    /// Stages whose program fails on some of what it sees.
    failing: BTreeSet<usize>,
    /// The stages that a build asks for; none: everything.
    targets: BTreeSet<usize>,
    seed: u64,
}

fn picks(at_most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..64usize, 0..=at_most)
}

fn stage() -> impl Strategy<Value = (Stage, Vec<(usize, Read)>)> {
    let nature = prop_oneof![2 => Just(Nature::Exact), 3 => Just(Nature::Parity), 1 => Just(Nature::Constant)];
    let form = prop_oneof![Just(Form::File), Just(Form::Placed), Just(Form::Folder)];
    let shards = prop_oneof![4 => Just(0usize), 1 => 1..4usize];
    let read = prop_oneof![Just(Read::All), Just(Read::Bit), Just(Read::Mark)];
    let facts = prop::collection::vec((0..64usize, read), 0..=2);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>());
    (nature, form, shards, picks(2), picks(2), facts, picks(1), flags).prop_map(
        |(nature, form, shards, files, inputs, facts, after, (env, tool, published))| {
            let files = files.into_iter().map(|f| f % SOURCES).collect();
            let (inputs, after) = (inputs.into_iter().collect(), after.into_iter().collect());
            let stage =
                Stage { nature, form, shards, files, inputs, facts: BTreeMap::new(), after, env, tool, published };
            (stage, facts)
        },
    )
}

fn setting() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (0..SOURCES, 0..4u8).prop_map(|(s, v)| Edit::Source(s, v)),
        2 => (0..64usize, 0..4u8).prop_map(|(s, v)| Edit::Param(s, v)),
        1 => (0..3u8).prop_map(Edit::Env),
        1 => (0..3u8).prop_map(Edit::Tool),
    ]
}

fn accident() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..64usize).prop_map(Edit::DeletePlaced),
        (0..64usize).prop_map(Edit::ChangePlaced),
        (0..64usize).prop_map(Edit::LoseBlob),
        (0..64usize).prop_map(Edit::Force),
    ]
}

/// Graphs of one to nine stages, each depending on earlier ones only.
fn case(edit: impl Strategy<Value = Edit>) -> impl Strategy<Value = Case> {
    let ask = prop_oneof![5 => any::<bool>().prop_map(Ask::Bit), 1 => Just(Ask::Unmeasured)];
    let stages = prop::collection::vec(stage(), 1..10);
    let rounds = prop::collection::vec(prop::collection::vec(edit, 1..4), 1..6);
    (stages, rounds, prop::collection::vec((0..64usize, ask), 1..3), any::<u64>()).prop_map(
        |(raw, rounds, gates, seed)| {
            let earlier = |set: &BTreeSet<usize>, i: usize| -> BTreeSet<usize> {
                set.iter().filter(|_| i > 0).map(|d| d % i.max(1)).collect()
            };
            let count = raw.len();
            let stages = raw.into_iter().enumerate().map(|(i, (mut stage, facts))| {
                (stage.inputs, stage.after) = (earlier(&stage.inputs, i), earlier(&stage.after, i));
                stage.facts = facts.into_iter().filter(|_| i > 0).map(|(d, read)| (d % i.max(1), read)).collect();
                stage
            });
            let stages: Vec<Stage> = stages.collect();
            let mut asked = BTreeSet::new();
            let gates = gates.into_iter().map(|(s, ask)| (s % count, ask)).filter(|(s, _)| asked.insert(*s)).collect();
            Case { stages, rounds, gates, failing: BTreeSet::new(), targets: BTreeSet::new(), seed }
        },
    )
}

/// Changes of settings, files changed by hand, blobs lost, stages forced.
fn any_case() -> impl Strategy<Value = Case> {
    case(prop_oneof![2 => setting(), 1 => accident()])
}

/// The same with programs that fail, and builds of a part of the graph.
fn troubled_case() -> impl Strategy<Value = Case> {
    (any_case(), picks(3), picks(2)).prop_map(|(mut case, failing, targets)| {
        let count = case.stages.len();
        case.failing = failing.into_iter().map(|s| s % count).collect();
        case.targets = targets.into_iter().map(|s| s % count).collect();
        case
    })
}

// ---- what a stage makes, and the oracle

/// All that a stage gets to see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    node: String,
    param: u8,
    files: Vec<u8>,
    inputs: Vec<Vec<(String, Digest)>>,
    facts: Vec<String>,
    env: Option<u8>,
    tool: Option<u8>,
}

#[derive(Debug, Clone, PartialEq)]
struct Made {
    outputs: Vec<(String, Digest)>,
    bit: i64,
    mark: String,
}

impl Made {
    fn fact(&self, name: &str) -> Value {
        if name == "bit" { Value::Int(self.bit) } else { Value::Text(self.mark.clone()) }
    }
}

impl Case {
    fn nodes(&self, stage: usize) -> Vec<(String, Option<String>)> {
        match self.stages[stage].shards {
            0 => vec![(format!("s{stage}"), None)],
            n => (0..n).map(|k| (format!("s{stage}[k{k}]"), Some(format!("k{k}")))).collect(),
        }
    }

    fn see(&self, state: &State, stage: usize, node: &str, made: &dyn Fn(&str) -> Made) -> Seen {
        let spec = &self.stages[stage];
        let outputs = |dep: &usize| self.nodes(*dep).iter().flat_map(|(n, _)| made(n).outputs).collect();
        let facts = spec.facts.iter().flat_map(|(dep, read)| {
            let of = |(n, _): &(String, _)| {
                let made = made(n);
                read.names().iter().map(|name| format!("{n}.{name}={}", made.fact(name))).collect::<Vec<_>>()
            };
            self.nodes(*dep).iter().flat_map(of).collect::<Vec<_>>()
        });
        Seen {
            node: node.into(),
            param: state.params[stage],
            files: spec.files.iter().map(|f| state.sources[*f]).collect(),
            inputs: spec.inputs.iter().map(outputs).collect(),
            facts: facts.collect(),
            env: spec.env.then_some(state.env),
            tool: spec.tool.then_some(state.tool),
        }
    }

    /// The stage's program: lossy ones give the same content for many inputs, but tell the input apart in `mark`.
    fn make(&self, stage: usize, key: Option<&str>, seen: &Seen) -> Made {
        let spec = &self.stages[stage];
        let whole = Digest::of(format!("{seen:?}").as_bytes());
        let bytes = seen.inputs.iter().flatten().map(|(_, d)| u32::from(d.bytes()[0]));
        let texts = seen.facts.iter().flat_map(|f| f.bytes()).map(u32::from);
        let small = seen.files.iter().chain(&seen.env).chain(&seen.tool).map(|b| u32::from(*b));
        let parity = (bytes.chain(texts).chain(small).sum::<u32>() + u32::from(seen.param)) & 1;
        let content = match spec.nature {
            Nature::Exact => whole,
            Nature::Parity => Digest::of(format!("parity {parity}").as_bytes()),
            Nature::Constant => Digest::of(b"constant"),
        };
        let bit = i64::from(content.bytes()[0] & 1);
        let outputs = match (key, spec.form) {
            (Some(key), _) => vec![(format!("{key}.bin"), content)],
            (None, Form::File) => vec![("out.bin".into(), content)],
            (None, Form::Placed) => vec![(format!("out/s{stage}.bin"), content)],
            (None, Form::Folder) => {
                let second = Digest::of(content.hex().as_bytes());
                let all = [(format!("out/s{stage}/a.bin"), content), (format!("out/s{stage}/b.bin"), second)];
                all.into_iter().take(1 + bit as usize).collect()
            }
        };
        Made { outputs, bit, mark: whole.short() }
    }

    fn fails(&self, stage: usize, seen: &Seen) -> bool {
        self.failing.contains(&stage) && Digest::of(format!("luck {seen:?}").as_bytes()).bytes()[0] < 100
    }

    /// Everything, from scratch.
    fn oracle(&self, state: &State) -> BTreeMap<String, Made> {
        let mut all: BTreeMap<String, Made> = BTreeMap::new();
        for stage in 0..self.stages.len() {
            for (node, key) in self.nodes(stage) {
                let seen = self.see(state, stage, &node, &|n| all[n].clone());
                all.insert(node, self.make(stage, key.as_deref(), &seen));
            }
        }
        all
    }

    fn declaration(&self, state: &State, stage: usize, key: Option<&str>) -> Declaration {
        let spec = &self.stages[stage];
        let shape = match (key, spec.form) {
            (Some(_), _) => Shape::Dir,
            (None, Form::File) => Shape::File("out.bin".into()),
            (None, Form::Placed) => Shape::Paths(vec![format!("out/s{stage}.bin")]),
            (None, Form::Folder) => Shape::Paths(vec![format!("out/s{stage}/")]),
        };
        let mut out = Declaration::new("test", 1, shape)
            .param("n", i64::from(state.params[stage]))
            .param("who", format!("s{stage}[{}]", key.unwrap_or_default()));
        for file in &spec.files {
            let path = format!("src/f{file}").parse().expect("a path");
            out = out.input(&format!("f{file}"), InputFrom::File(path), 0..0);
        }
        for dep in &spec.inputs {
            out = out.input(&format!("s{dep}"), InputFrom::Artifact(name(*dep)), 0..0);
        }
        for (dep, read) in &spec.facts {
            let read = match read {
                Read::All => FactRead::All,
                named => FactRead::Names(named.names().iter().map(ToString::to_string).collect()),
            };
            out.facts.push((name(*dep), read, 0..0));
        }
        out.env = spec.env.then(|| "E".to_string()).into_iter().collect();
        out.tools = spec.tool.then(|| "T".to_string()).into_iter().collect();
        out
    }

    fn parts(&self, state: &State, gated: bool) -> Vec<Part> {
        let mut parts: Vec<Part> = (0..self.stages.len())
            .map(|i| {
                let spec = &self.stages[i];
                let shard = |key: String| (key.clone(), self.declaration(state, i, Some(&key)));
                let body = match spec.shards {
                    0 => Body::One(Box::new(self.declaration(state, i, None))),
                    n => Body::Family((0..n).map(|k| shard(format!("k{k}"))).collect()),
                };
                let after = spec.after.iter().map(|d| (format!("s{d}"), 0..0)).collect();
                Part { name: name(i), span: 0..0, body, after }
            })
            .collect();
        if gated {
            let clause = |(stage, ask): &(usize, Ask)| match ask {
                Ask::Bit(bit) => format!("s{stage}.bit == {}", i64::from(*bit)),
                Ask::Unmeasured => format!("s{stage}.nothing == 1"),
            };
            let clauses = self.gates.iter().map(|g| (gate::parse(&clause(g)).expect("a clause"), 0..0));
            let body = Body::Gates(clauses.collect());
            parts.push(Part { name: "gates".parse().expect("a name"), span: 0..0, body, after: vec![] });
            let published = (0..self.stages.len()).filter(|i| self.stages[*i].published || *i == 0);
            let files = published.map(|i| {
                let folder = self.stages[i].shards > 0 || matches!(self.stages[i].form, Form::Folder);
                (format!("p{i}{}", if folder { "/" } else { "" }), 0..0, name(i), 0..0)
            });
            let to = hfbuild::core::manifest::Hub::default();
            let upload = Upload { files: files.collect(), dist: "dist".parse().expect("a path"), to };
            let after = vec![("gates".to_string(), 0..0)];
            let name = "publish".parse().expect("a name");
            parts.push(Part { name, span: 0..0, body: Body::Upload(upload), after });
        }
        parts
    }

    /// Whether the publish may happen: every clause holds, of a family for every shard.
    fn may_publish(&self, state: &State) -> bool {
        let made = self.oracle(state);
        self.gates.iter().all(|(stage, ask)| match ask {
            Ask::Bit(bit) => self.nodes(*stage).iter().all(|(n, _)| made[n].bit == i64::from(*bit)),
            Ask::Unmeasured => false,
        })
    }
}

fn name(stage: usize) -> hfbuild::core::name::ArtifactName {
    format!("s{stage}").parse().expect("a name")
}

fn graph_of(parts: Vec<Part>) -> Graph {
    graph::build(parts, &Source { file: "publish.toml".into(), text: "".into() }).expect("a graph")
}

// ---- the engine in memory

type Decide = fn(&Graph, NodeId, &[Option<Settled>], &History, &World) -> Decision;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ran,
    Fresh,
    Restored,
    Failed,
}

/// A stage that was started, and whether it should have been.
struct Start {
    node: String,
    /// It had run on the very same before, was not forced, and nothing that it made was lost.
    needless: bool,
    /// Every target that it leads to is cut off by a refused gate.
    useless: bool,
    /// An input's blob was not there.
    starved: bool,
}

#[derive(Default)]
struct Report {
    ends: BTreeMap<String, End>,
    starts: Vec<Start>,
    published: Option<Tree>,
    /// How each node stands after it.
    settled: Vec<Option<Settled>>,
}

impl Report {
    fn ended(&self, end: End) -> Vec<&str> {
        self.ends.iter().filter(|(_, e)| **e == end).map(|(n, _)| n.as_str()).collect()
    }
}

struct Engine {
    case: Case,
    gated: bool,
    decide: Decide,
    state: State,
    history: History,
    disk: BTreeMap<String, Digest>,
    by_hand: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
    forced: BTreeSet<usize>,
    seen: HashSet<Seen>,
    remote: Observed,
    dice: u64,
}

impl Engine {
    fn new(case: &Case, decide: Decide, gated: bool) -> Engine {
        Engine {
            case: case.clone(),
            gated,
            decide,
            state: State { sources: [0; SOURCES], params: vec![0; case.stages.len()], env: 0, tool: 0 },
            history: History::default(),
            disk: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            blobs: BTreeSet::new(),
            forced: BTreeSet::new(),
            seen: HashSet::new(),
            remote: Observed::default(),
            dice: case.seed,
        }
    }

    fn roll(&mut self, below: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) as usize % below.max(1)
    }

    fn edit(&mut self, edit: Edit) {
        let stages = self.case.stages.len();
        let nth = |n: usize, of: usize| n % of.max(1);
        match edit {
            Edit::Source(source, value) => self.state.sources[source] = value,
            Edit::Param(stage, value) => self.state.params[stage % stages] = value,
            Edit::Env(value) => self.state.env = value,
            Edit::Tool(value) => self.state.tool = value,
            Edit::Force(stage) => {
                self.forced.insert(stage % stages);
            }
            Edit::DeletePlaced(n) | Edit::ChangePlaced(n) => {
                let Some(path) = self.disk.keys().nth(nth(n, self.disk.len())).cloned() else { return };
                self.disk.remove(&path);
                if matches!(edit, Edit::ChangePlaced(_)) {
                    let mine = Digest::of(format!("by hand {}", self.by_hand.len()).as_bytes());
                    self.by_hand.insert(mine);
                    self.disk.insert(path, mine);
                }
            }
            Edit::LoseBlob(n) => {
                let lost = self.blobs.iter().nth(nth(n, self.blobs.len())).copied();
                lost.iter().for_each(|d| {
                    self.blobs.remove(d);
                });
            }
        }
    }

    fn graph(&self) -> Graph {
        graph_of(self.case.parts(&self.state, self.gated))
    }

    /// What `observe` would see.
    fn world(&self, graph: &Graph) -> World {
        let source = |(i, v): (usize, &u8)| (format!("src/f{i}"), Some(Digest::of(&[i as u8, *v])));
        let forced = self.forced.iter().flat_map(|s| graph.of(&name(*s)).to_vec());
        let uploads = graph.ids().filter(|id| matches!(graph.node(*id).work, Work::Upload(_)));
        World {
            sources: self.state.sources.iter().enumerate().map(source).collect(),
            env: [("E".to_string(), Some(self.state.env.to_string()))].into(),
            tools: [("T".to_string(), self.state.tool.to_string())].into(),
            placed: self.disk.clone().into_iter().collect(),
            forced: forced.collect(),
            remotes: uploads.map(|id| (id, self.remote.clone())).collect(),
            ..World::default()
        }
    }

    /// The nodes that are asked for, and with all that they need.
    fn asked(&self, graph: &Graph) -> (BTreeSet<NodeId>, Vec<bool>) {
        let named = self.case.targets.iter().flat_map(|s| graph.of(&name(*s)).to_vec());
        let targets = if self.case.targets.is_empty() { sinks(graph) } else { named.collect() };
        let wanted = graph.closure(&targets.iter().copied().collect::<Vec<_>>());
        (targets, wanted)
    }

    fn plan_once(&self, graph: &Graph, world: &World) -> Plan {
        let (targets, wanted) = self.asked(graph);
        if std::ptr::fn_addr_eq(self.decide, plan::decide as Decide) {
            return plan::plan(graph, &wanted, &targets, &self.history, world);
        }
        let mut plan = Plan { decisions: vec![None; graph.nodes.len()], settled: vec![None; graph.nodes.len()] };
        for &id in graph.order.iter().filter(|id| wanted[id.index()]) {
            let decision = (self.decide)(graph, id, &plan.settled, &self.history, world);
            plan.settled[id.index()] = plan::settle(&decision, graph, id);
            plan.decisions[id.index()] = Some(decision);
        }
        plan
    }

    /// As `drive::plan_whole`: looks for the blobs that the plan needs, and plans again without those that are lost.
    fn plan(&self, graph: &Graph, world: &mut World) -> Plan {
        loop {
            let plan = self.plan_once(graph, world);
            let mut needed: Vec<Arc<Receipt>> = Vec::new();
            for id in graph.ids() {
                let Some(decision) = &plan.decisions[id.index()] else { continue };
                match (&decision.verdict, &decision.receipt) {
                    (Verdict::Restore { places }, Some(receipt)) if !places.is_empty() => needed.push(receipt.clone()),
                    (Verdict::Run { .. } | Verdict::Pending { .. }, _) => {
                        needed.extend(graph.node(id).deps.iter().filter_map(|d| made(&plan.settled, *d)));
                    }
                    _ => {}
                }
            }
            let gone: BTreeSet<Digest> = needed.iter().flat_map(|r| self.missing(r)).collect();
            if gone.is_subset(&world.lost) {
                return plan;
            }
            world.lost.extend(gone);
        }
    }

    fn missing(&self, receipt: &Receipt) -> Vec<Digest> {
        receipt.outputs.iter().map(|o| o.digest).filter(|d| !self.blobs.contains(d)).collect()
    }

    /// The loop of `exec::drive`, with several stages under way and ends in any order.
    fn build(&mut self) -> Report {
        let graph = self.graph();
        let mut world = self.world(&graph);
        let (targets, wanted) = self.asked(&graph);
        let first = self.plan(&graph, &mut world);
        let spare = |settled: &[Option<Settled>]| -> BTreeSet<NodeId> {
            plan::useless(&graph, &wanted, &targets, settled).into_iter().map(|(id, _)| id).collect()
        };
        let mut spared = spare(&first.settled);
        let mut settled: Vec<Option<Settled>> = vec![None; graph.nodes.len()];
        let mut waits: Vec<usize> = graph.ids().map(|id| graph.node(id).deps.len()).collect();
        let mut ready: Vec<NodeId> = graph.ids().filter(|id| wanted[id.index()] && waits[id.index()] == 0).collect();
        let mut running: Vec<(NodeId, Decision)> = Vec::new();
        let mut report = Report::default();
        while !ready.is_empty() || !running.is_empty() {
            let gate = ready.iter().position(|id| matches!(graph.node(*id).work, Work::Gate(_)));
            let stages: Vec<usize> = (0..ready.len()).filter(|i| graph.stage(ready[*i]).is_some()).collect();
            let next = match gate {
                Some(at) => Some(at),
                None if !running.is_empty() && (stages.is_empty() || self.roll(2) == 0) => None,
                None if stages.is_empty() => Some(0),
                None => Some(stages[self.roll(stages.len())]),
            };
            let (id, end) = match next {
                None => {
                    let at = self.roll(running.len());
                    let (id, decision) = running.swap_remove(at);
                    let made = self.finish(&graph, id, decision, &settled);
                    let end = if made.is_some() { End::Ran } else { End::Failed };
                    report.ends.insert(graph.node(id).name.to_string(), end);
                    (id, made.map_or(Settled::Failed, Settled::Made))
                }
                Some(at) => {
                    let id = ready.swap_remove(at);
                    let node = graph.node(id).name.to_string();
                    let decision = (self.decide)(&graph, id, &settled, &self.history, &world);
                    match decision.verdict.clone() {
                        Verdict::UpToDate | Verdict::Restore { .. }
                            if self.is_lost(&graph, id, &first, &decision, &mut world) =>
                        {
                            ready.push(id);
                            continue;
                        }
                        Verdict::UpToDate if decision.receipt.is_some() => {
                            report.ends.insert(node, End::Fresh);
                            (id, Settled::Made(decision.receipt.expect("a receipt")))
                        }
                        Verdict::Restore { .. } if !spared.contains(&id) => {
                            let receipt = decision.receipt.expect("a receipt");
                            self.place(&graph, id, &receipt.outputs);
                            self.history.make_current(&graph.node(id).name, receipt.action_digest);
                            report.ends.insert(node, End::Restored);
                            (id, Settled::Made(receipt))
                        }
                        Verdict::Run { .. } if decision.action.is_some() => {
                            if !spared.contains(&id) {
                                let start = self.start(&graph, id, &decision, &settled, &world, &targets);
                                report.starts.push(start);
                                running.push((id, decision));
                            }
                            continue;
                        }
                        Verdict::Blocked { .. } if decision.outcome.is_none() && decision.upload.is_none() => {
                            (id, Settled::Failed)
                        }
                        _ if decision.outcome.is_some() => {
                            let outcome = decision.outcome.expect("an outcome");
                            (id, Settled::Judged(outcome))
                        }
                        _ => {
                            let Some((tree, _, verdict)) = decision.upload else { continue };
                            if matches!(verdict, Some(UploadVerdict::Send { .. })) {
                                self.publish(&tree);
                                report.published = Some(tree);
                            }
                            (id, Settled::Published)
                        }
                    }
                }
            };
            let refused = matches!(&end, Settled::Judged(outcome) if !outcome.passed());
            let stops = refused || matches!(end, Settled::Failed);
            settled[id.index()] = Some(end);
            if stops {
                spared = spare(&settled);
            }
            for consumer in &graph.node(id).consumers {
                waits[consumer.index()] -= 1;
                if waits[consumer.index()] == 0 && wanted[consumer.index()] {
                    ready.push(*consumer);
                }
            }
        }
        self.forced.clear();
        report.settled = settled;
        report
    }

    /// Whether a hit cannot be taken, because a blob is gone that is to be placed, or that a stage below a surprise (a
    /// node that the plan could not tell) may read. The world knows then. What it knew before is no news, so that a
    /// broken engine does not go in circles.
    fn is_lost(&self, graph: &Graph, id: NodeId, first: &Plan, hit: &Decision, world: &mut World) -> bool {
        let Some(receipt) = &hit.receipt else { return false };
        let planned = first.decisions[id.index()].as_ref().map(|d| &d.verdict);
        let surprise = matches!(planned, Some(Verdict::Pending { .. })) && !graph.node(id).consumers.is_empty();
        let placed = matches!(&hit.verdict, Verdict::Restore { places } if !places.is_empty());
        let missing = if surprise || placed { self.missing(receipt) } else { vec![] };
        let known = world.lost.len();
        world.lost.extend(missing);
        world.lost.len() > known
    }

    fn look(&self, graph: &Graph, id: NodeId, settled: &[Option<Settled>]) -> (usize, Option<String>, Seen) {
        let node = &graph.node(id).name;
        let stage: usize = node.artifact.as_str()[1..].parse().expect("s and a number");
        let made = |word: &str| {
            let dep = graph.ids().find(|id| graph.node(*id).name.to_string() == word).expect("a node");
            let receipt = made(settled, dep).expect("a dependency that is made");
            let text = |n: &str| receipt.facts.get(n).cloned().expect("a fact");
            Made {
                outputs: receipt.outputs.iter().map(|o| (o.path.clone(), o.digest)).collect(),
                bit: text("bit").as_int().expect("a bit"),
                mark: text("mark").to_string(),
            }
        };
        (stage, node.key.clone(), self.case.see(&self.state, stage, &node.to_string(), &made))
    }

    fn start(
        &self,
        graph: &Graph,
        id: NodeId,
        decision: &Decision,
        settled: &[Option<Settled>],
        world: &World,
        targets: &BTreeSet<NodeId>,
    ) -> Start {
        let (stage, _, seen) = self.look(graph, id, settled);
        let lost = matches!(&decision.verdict, Verdict::Run { reasons }
            if reasons.iter().any(|r| matches!(r, Reason::BlobLost { digest, .. } if world.lost.contains(digest))));
        let read = self.case.stages[stage].inputs.iter().flat_map(|s| graph.of(&name(*s)).to_vec());
        let starved = read.filter_map(|d| made(settled, d)).any(|r| !self.missing(&r).is_empty());
        Start {
            node: graph.node(id).name.to_string(),
            needless: self.seen.contains(&seen) && !self.forced.contains(&stage) && !lost,
            useless: !leads_somewhere(graph, id, settled, targets),
            starved,
        }
    }

    /// `None`: its program failed.
    fn finish(
        &mut self,
        graph: &Graph,
        id: NodeId,
        decision: Decision,
        settled: &[Option<Settled>],
    ) -> Option<Arc<Receipt>> {
        let (stage, key, seen) = self.look(graph, id, settled);
        if self.case.fails(stage, &seen) {
            return None;
        }
        let made = self.case.make(stage, key.as_deref(), &seen);
        self.seen.insert(seen);
        let (digest, action) = decision.action.expect("an action");
        let mut facts = Facts::default();
        let of = facts.subject("the output", made.outputs[0].1);
        facts.set("bit", made.bit, of);
        facts.set("mark", made.mark.as_str(), of);
        facts.set_volatile("seconds", self.seen.len());
        let output = |(path, digest): &(String, Digest)| {
            let hub = HubDigests { sha256: digest.hex(), git_sha1: None };
            Output { path: path.clone(), size: 1, digest: *digest, hub: Some(hub) }
        };
        let receipt = Arc::new(Receipt {
            node: graph.node(id).name.clone(),
            action_digest: digest,
            action: KeptAction::new(&action).unwrap(),
            outputs: made.outputs.iter().map(output).collect(),
            facts,
            started_ms: 0,
            seconds: 0.0,
            host: String::new(),
            device: None,
        });
        self.blobs.extend(receipt.outputs.iter().map(|o| o.digest));
        self.place(graph, id, &receipt.outputs);
        self.history.add(receipt.clone());
        Some(receipt)
    }

    fn place(&mut self, graph: &Graph, id: NodeId, outputs: &[Output]) {
        let node = graph.node(id);
        let last = self.history.last(&node.name).cloned();
        for place in &node.places {
            for old in last.iter().flat_map(|r| &r.outputs) {
                let path = placed_path(place, &old.path);
                if self.disk.get(&path) == Some(&old.digest) {
                    self.disk.remove(&path);
                }
            }
            self.disk.extend(outputs.iter().map(|o| (placed_path(place, &o.path), o.digest)));
        }
    }

    fn publish(&mut self, tree: &Tree) {
        let commit = Some(format!("after {}", self.remote.head.as_deref().unwrap_or("nothing")));
        let managed = tree.iter().map(|(path, file)| (path.clone(), file.hub.clone())).collect();
        self.remote = Observed { head: commit.clone(), managed, last_commit: commit, ..Observed::default() };
    }
}

fn made(settled: &[Option<Settled>], id: NodeId) -> Option<Arc<Receipt>> {
    if let Some(Settled::Made(receipt)) = &settled[id.index()] { Some(receipt.clone()) } else { None }
}

fn sinks(graph: &Graph) -> BTreeSet<NodeId> {
    graph.ids().filter(|id| graph.node(*id).consumers.is_empty()).collect()
}

/// The definition, not the algorithm: some target that is reached from here has nothing refused among all it needs.
fn leads_somewhere(graph: &Graph, id: NodeId, settled: &[Option<Settled>], targets: &BTreeSet<NodeId>) -> bool {
    let refused = |d: usize| match &settled[d] {
        Some(Settled::Judged(outcome)) => !outcome.passed(),
        Some(Settled::Failed) => true,
        _ => false,
    };
    targets.iter().any(|target| {
        let needs = graph.closure(&[*target]);
        needs[id.index()] && !needs.iter().enumerate().any(|(d, needed)| *needed && refused(d))
    })
}

// ---- the laws

type Law = fn(&Case, Decide) -> Result<(), String>;

fn none(what: &str, found: &[&str]) -> Result<(), String> {
    if found.is_empty() { Ok(()) } else { Err(format!("{what}: {}", found.join(", "))) }
}

/// Disk and history hold what a build from scratch would make, and no stage was started without its inputs.
fn as_from_scratch(engine: &Engine, report: &Report) -> Result<(), String> {
    let starved: Vec<_> = report.starts.iter().filter(|s| s.starved).map(|s| s.node.as_str()).collect();
    none("started without an input", &starved)?;
    let graph = engine.graph();
    let oracle = engine.case.oracle(&engine.state);
    let mut rest = engine.disk.clone();
    for id in graph.ids().filter(|id| graph.stage(*id).is_some()) {
        let node = graph.node(id);
        let want = &oracle[&node.name.to_string()];
        let have = engine.history.last(&node.name).ok_or(format!("{} has no receipt", node.name))?;
        let outputs: Vec<_> = have.outputs.iter().map(|o| (o.path.clone(), o.digest)).collect();
        let facts = (have.facts.get("bit"), have.facts.get("mark"));
        if outputs != want.outputs || facts != (Some(&want.fact("bit")), Some(&want.fact("mark"))) {
            return Err(format!("{} is {outputs:?} {facts:?}, and should be {want:?}", node.name));
        }
        for place in &node.places {
            for (path, digest) in &want.outputs {
                let path = placed_path(place, path);
                if rest.remove(&path) != Some(*digest) {
                    return Err(format!("`{path}` does not hold what {} makes", node.name));
                }
            }
        }
    }
    let stale: Vec<_> = rest.iter().filter(|(_, d)| !engine.by_hand.contains(d)).map(|(p, _)| p.as_str()).collect();
    none("left behind", &stale)
}

fn law_outputs_are_those_of_a_build_from_scratch(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, false);
    let report = engine.build();
    as_from_scratch(&engine, &report)?;
    for round in &case.rounds {
        round.iter().for_each(|e| engine.edit(*e));
        let report = engine.build();
        as_from_scratch(&engine, &report)?;
    }
    Ok(())
}

fn law_a_second_build_does_nothing(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, false);
    for round in [&vec![]].into_iter().chain(&case.rounds) {
        round.iter().for_each(|e| engine.edit(*e));
        engine.build();
        let again = engine.build();
        none("ran again", &again.ended(End::Ran))?;
        none("restored again", &again.ended(End::Restored))?;
    }
    Ok(())
}

/// What a planned node may come to. `Pending` is for what hangs on a node that may still run: where all of it was made,
/// the node ends as its program, a cutoff or a restore; where it was not, it does nothing.
fn kept_its_word(
    graph: &Graph,
    id: NodeId,
    plan: &Plan,
    report: &Report,
    targets: &BTreeSet<NodeId>,
) -> Result<(), String> {
    let name = |id: NodeId| graph.node(id).name.to_string();
    let verdict = |id: NodeId| plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
    let (planned, end) = (verdict(id), report.ends.get(&name(id)));
    let deps = &graph.node(id).deps;
    let all_made = deps.iter().all(|d| made(&report.settled, *d).is_some());
    let spared = !leads_somewhere(graph, id, &report.settled, targets);
    let true_to = match (planned, end) {
        (None, end) => end.is_none(),
        (Some(Verdict::Run { .. }), Some(End::Ran | End::Failed)) => all_made,
        (Some(Verdict::UpToDate), end) => end == Some(&End::Fresh),
        (Some(Verdict::Restore { .. }), Some(End::Restored)) => true,
        (Some(Verdict::Pending { on }), end) => {
            let open = |d: &NodeId| matches!(verdict(*d), Some(Verdict::Run { .. } | Verdict::Pending { .. }));
            let awaited: BTreeSet<String> = on.iter().map(ToString::to_string).collect();
            let may_run: BTreeSet<String> = deps.iter().filter(|d| open(d)).map(|d| name(*d)).collect();
            if awaited.is_empty() || awaited != may_run {
                return Err(format!("{} waits for {awaited:?}, and what may run is {may_run:?}", name(id)));
            }
            if end.is_some() { all_made } else { spared }
        }
        (Some(Verdict::Run { .. } | Verdict::Restore { .. }), None) => spared,
        _ => false,
    };
    match true_to {
        true => Ok(()),
        false => Err(format!("{} was planned as {planned:?} and ended as {end:?}", name(id))),
    }
}

fn law_what_the_plan_calls_certain_comes_true(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, false);
    for round in [&vec![]].into_iter().chain(&case.rounds) {
        round.iter().for_each(|e| engine.edit(*e));
        let graph = engine.graph();
        let plan = engine.plan(&graph, &mut engine.world(&graph));
        let report = engine.build();
        let (targets, _) = engine.asked(&graph);
        graph.ids().try_for_each(|id| kept_its_word(&graph, id, &plan, &report, &targets))?;
    }
    Ok(())
}

fn law_going_back_runs_nothing(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, false);
    engine.build();
    let mut past = vec![engine.state.clone()];
    for round in &case.rounds {
        round.iter().for_each(|e| engine.edit(*e));
        engine.build();
        past.push(engine.state.clone());
        engine.state = past[engine.roll(past.len())].clone();
        let report = engine.build();
        none("ran on the way back", &report.ended(End::Ran))?;
        as_from_scratch(&engine, &report)?;
    }
    Ok(())
}

fn law_a_stage_runs_only_on_what_it_never_saw(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, false);
    for round in [&vec![]].into_iter().chain(&case.rounds) {
        round.iter().for_each(|e| engine.edit(*e));
        let forced: Vec<String> =
            engine.forced.iter().flat_map(|s| engine.case.nodes(*s)).map(|(node, _)| node).collect();
        let report = engine.build();
        let needless: Vec<_> = report.starts.iter().filter(|s| s.needless).map(|s| s.node.as_str()).collect();
        none("ran needlessly", &needless)?;
        let ignored: Vec<_> =
            forced.iter().filter(|n| report.ends.get(*n) != Some(&End::Ran)).map(String::as_str).collect();
        none("forced and did not run", &ignored)?;
    }
    Ok(())
}

/// A verdict without the order of the manifest in it.
fn essence(graph: &Graph, plan: &Plan) -> BTreeMap<String, String> {
    let one = |id: NodeId| {
        let decision = plan.decisions[id.index()].as_ref().expect("a decision");
        let verdict = match decision.verdict.clone() {
            Verdict::Pending { mut on } => {
                on.sort();
                Verdict::Pending { on }
            }
            Verdict::Blocked { .. } => Verdict::Blocked { by: vec![] },
            other => other,
        };
        let digest = decision.action.as_ref().map(|(digest, _)| *digest);
        let tree = decision
            .upload
            .as_ref()
            .map(|(tree, ..)| tree.iter().filter(|(path, _)| *path != plan::RECORD).collect::<Vec<_>>());
        format!("{verdict:?} {digest:?} {:?} {tree:?}", decision.outcome.as_ref().map(gate::Outcome::passed))
    };
    graph.ids().map(|id| (graph.node(id).name.to_string(), one(id))).collect()
}

fn law_a_plan_depends_on_no_order(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, true);
    for round in [&vec![]].into_iter().chain(&case.rounds) {
        round.iter().for_each(|e| engine.edit(*e));
        // not against the remote: the published record lists artifacts in the order of the manifest
        let planned = |graph: &Graph| {
            let mut world = World { remotes: BTreeMap::new(), ..engine.world(graph) };
            essence(graph, &engine.plan(graph, &mut world))
        };
        let graph = engine.graph();
        let plan = planned(&graph);
        if plan != planned(&graph) {
            return Err("the same plan twice differs".into());
        }
        let mut parts = engine.case.parts(&engine.state, true);
        let turn = case.seed as usize % parts.len();
        parts.rotate_left(turn);
        parts.reverse();
        let other = graph_of(parts);
        let shuffled = planned(&other);
        if let Some((node, verdict)) = plan.iter().find(|(node, verdict)| shuffled.get(*node) != Some(verdict)) {
            return Err(format!("{node}: {verdict}, and in another order {:?}", shuffled.get(node)));
        }
        engine.build();
    }
    Ok(())
}

fn law_a_refused_gate_stops_the_publish_and_what_only_it_needs(case: &Case, decide: Decide) -> Result<(), String> {
    let mut engine = Engine::new(case, decide, true);
    let mut remote: Option<Tree> = None;
    for round in [&vec![]].into_iter().chain(&case.rounds) {
        round.iter().for_each(|e| engine.edit(*e));
        let graph = engine.graph();
        let plan = engine.plan(&graph, &mut engine.world(&graph));
        for id in graph.ids() {
            let verdict = plan.decisions[id.index()].as_ref().map(|d| &d.verdict);
            let spends = matches!(verdict, Some(Verdict::Run { .. } | Verdict::Pending { .. }));
            if plan.settled[id.index()].is_none()
                && spends != leads_somewhere(&graph, id, &plan.settled, &sinks(&graph))
            {
                return Err(format!("{} is planned as {verdict:?}", graph.node(id).name));
            }
        }
        let report = engine.build();
        let useless: Vec<_> = report.starts.iter().filter(|s| s.useless).map(|s| s.node.as_str()).collect();
        none("ran for nothing", &useless)?;
        let may = case.may_publish(&engine.state);
        match (&report.published, may) {
            (Some(_), false) => return Err("published through a refused gate".into()),
            (Some(tree), true) => remote = Some(tree.clone()),
            (None, true) if remote.is_none() => return Err("not published, though the gates hold".into()),
            (None, _) => {}
        }
        if may {
            as_from_scratch(&engine, &report)?;
            let tree = remote.as_ref().expect("published");
            let dist = engine.disk.iter().filter_map(|(path, d)| Some((path.strip_prefix("dist/")?, *d)));
            let dist: BTreeMap<_, _> = dist.filter(|(_, d)| !engine.by_hand.contains(d)).collect();
            let sent = tree.iter().filter(|(path, _)| *path != plan::RECORD).map(|(path, f)| (path.as_str(), f.digest));
            if sent.collect::<BTreeMap<_, _>>() != dist {
                return Err("the published tree is not the oracle's".into());
            }
            if engine.build().published.is_some() {
                return Err("published again without a change".into());
            }
        }
    }
    Ok(())
}

// ---- the real engine obeys them

/// What a law says begins so; what else ends a case is a panic of this file's own.
const BROKEN: &str = "the law is broken: ";

fn try_law<S: Strategy<Value = Case>>(
    law: Law,
    cases: S,
    decide: Decide,
    shrinks: u32,
) -> Result<(), Box<TestError<Case>>> {
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: shrinks, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let said = |why: String| TestCaseError::fail(format!("{BROKEN}{why}"));
    TestRunner::new_with_rng(config, rng).run(&cases, |case| law(&case, decide).map_err(said)).map_err(Box::new)
}

#[track_caller]
fn holds<S: Strategy<Value = Case>>(law: Law, cases: S) {
    if let Err(e) = try_law(law, cases, plan::decide, 2000) {
        panic!("{e}");
    }
}

#[test]
fn outputs_are_those_of_a_build_from_scratch() {
    holds(law_outputs_are_those_of_a_build_from_scratch, any_case());
}

#[test]
fn a_second_build_does_nothing() {
    holds(law_a_second_build_does_nothing, any_case());
}

#[test]
fn what_the_plan_calls_certain_comes_true() {
    holds(law_what_the_plan_calls_certain_comes_true, any_case());
    holds(law_what_the_plan_calls_certain_comes_true, troubled_case());
}

#[test]
fn going_back_to_any_earlier_state_runs_nothing() {
    holds(law_going_back_runs_nothing, case(setting()));
}

#[test]
fn a_stage_runs_only_on_what_it_never_saw() {
    holds(law_a_stage_runs_only_on_what_it_never_saw, any_case());
}

#[test]
fn a_plan_depends_on_no_order() {
    holds(law_a_plan_depends_on_no_order, any_case());
}

#[test]
fn a_refused_gate_stops_the_publish_and_what_only_it_needs() {
    holds(law_a_refused_gate_stops_the_publish_and_what_only_it_needs, any_case());
}

// ---- broken engines are caught

/// `decide` whose actions forget something.
fn forgetful(
    (graph, id, settled): (&Graph, NodeId, &[Option<Settled>]),
    history: &History,
    world: &World,
    forget: fn(&mut hfbuild::core::action::Action),
) -> Decision {
    let mut decision = plan::decide(graph, id, settled, history, world);
    if let Some((digest, action)) = &mut decision.action {
        forget(action);
        *digest = action.digest();
        decision.receipt = history.receipt(digest).cloned();
        let current = history.last(&graph.node(id).name).is_some_and(|last| last.action_digest == *digest);
        decision.verdict = match (&decision.receipt, current) {
            (Some(_), true) => Verdict::UpToDate,
            (Some(_), false) => Verdict::Restore { places: vec![] },
            (None, _) => Verdict::Run { reasons: vec![] },
        };
    }
    decision
}

fn by_params_only(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    forgetful((g, id, s), h, w, |action| {
        action.inputs.clear();
        action.facts.clear();
    })
}

fn without_facts(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    forgetful((g, id, s), h, w, |action| action.facts.clear())
}

fn without_environment(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    forgetful((g, id, s), h, w, |action| action.env.clear())
}

fn without_tools(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    forgetful((g, id, s), h, w, |action| action.tools.clear())
}

fn pending_is_up_to_date(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if let (Verdict::Pending { .. }, Some(last)) = (&decision.verdict, h.last(&g.node(id).name)) {
        decision.verdict = Verdict::UpToDate;
        decision.receipt = Some(last.clone());
    }
    decision
}

fn remembers_one_receipt_a_node(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    let last = h.last(&g.node(id).name).map(|r| r.action_digest);
    if decision.receipt.as_ref().is_some_and(|r| Some(r.action_digest) != last) {
        decision.receipt = None;
        decision.verdict = Verdict::Run { reasons: vec![] };
    }
    decision
}

fn places_are_not_looked_at(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if matches!(&decision.verdict, Verdict::Restore { places } if !places.is_empty()) {
        decision.verdict = Verdict::UpToDate;
    }
    decision
}

fn lost_blobs_are_forgiven(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    plan::decide(g, id, s, h, &World { lost: BTreeSet::new(), ..w.clone() })
}

fn force_is_ignored(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    plan::decide(g, id, s, h, &World { forced: BTreeSet::new(), ..w.clone() })
}

fn gates_are_open(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if let Some(outcome) = &mut decision.outcome {
        *outcome = gate::Outcome::Passed { values: vec![], volatile: vec![] };
        decision.verdict = Verdict::UpToDate;
    }
    decision
}

/// A stage below one that failed is decided as if that one had made what it made last.
fn failures_are_forgotten(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let last = |(dep, how): (usize, &Option<Settled>)| match how {
        Some(Settled::Failed) => {
            let name = &g.node(NodeId(dep as u32)).name;
            h.last(name).cloned().map_or(Some(Settled::Failed), |receipt| Some(Settled::Made(receipt)))
        }
        other => other.clone(),
    };
    plan::decide(g, id, &s.iter().enumerate().map(last).collect::<Vec<_>>(), h, w)
}

/// What waits is said to wait for all that it needs.
fn waits_for_everything(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if let Verdict::Pending { on } = &mut decision.verdict {
        *on = g.node(id).deps.iter().map(|d| g.node(*d).name.clone()).collect();
    }
    decision
}

/// What must run is said to wait, for nothing.
fn is_certain_of_nothing(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if matches!(decision.verdict, Verdict::Run { .. }) && g.node(id).deps.is_empty() {
        decision.verdict = Verdict::Pending { on: vec![] };
    }
    decision
}

fn takes_nothing_for_current(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if g.stage(id).is_some() && decision.verdict == Verdict::UpToDate {
        decision.verdict = Verdict::Restore { places: vec![] };
    }
    decision
}

/// No result is taken again.
fn remembers_nothing(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if g.stage(id).is_some() && decision.receipt.take().is_some() {
        decision.verdict = Verdict::Run { reasons: vec![] };
    }
    decision
}

/// The place of a stage in the manifest is in its action.
fn numbers_its_stages(g: &Graph, id: NodeId, s: &[Option<Settled>], h: &History, w: &World) -> Decision {
    let mut decision = plan::decide(g, id, s, h, w);
    if let Some((digest, action)) = &mut decision.action {
        action.params.insert("number".into(), (id.index() as i64).into());
        *digest = action.digest();
        decision.receipt = h.receipt(digest).cloned();
        decision.verdict = match decision.receipt {
            Some(_) => Verdict::Restore { places: vec![] },
            None => Verdict::Run { reasons: vec![] },
        };
    }
    decision
}

/// The law itself says that this engine is broken: no panic of this file is taken for that.
#[track_caller]
fn caught_in<S: Strategy<Value = Case>>(law: Law, cases: S, decide: Decide) {
    match try_law(law, cases, decide, 0).map_err(|e| *e) {
        Ok(()) => panic!("this engine is broken, and the law does not see it"),
        Err(TestError::Fail(why, _)) if why.message().starts_with(BROKEN) => {}
        Err(other) => panic!("not the law ended it: {other}"),
    }
}

#[track_caller]
fn caught(law: Law, decide: Decide) {
    caught_in(law, any_case(), decide);
}

#[test]
fn engines_whose_actions_forget_something_are_caught() {
    for decide in [by_params_only, without_facts, without_environment, without_tools] {
        caught(law_outputs_are_those_of_a_build_from_scratch, decide);
    }
}

#[test]
fn an_engine_that_takes_pending_for_up_to_date_is_caught() {
    caught(law_what_the_plan_calls_certain_comes_true, pending_is_up_to_date);
}

#[test]
fn an_engine_that_lets_stages_wait_for_the_wrong_thing_or_goes_on_after_a_failure_is_caught() {
    caught(law_what_the_plan_calls_certain_comes_true, waits_for_everything);
    caught(law_what_the_plan_calls_certain_comes_true, is_certain_of_nothing);
    caught_in(law_what_the_plan_calls_certain_comes_true, troubled_case(), failures_are_forgotten);
}

#[test]
fn an_engine_that_does_again_what_is_done_is_caught() {
    caught(law_a_second_build_does_nothing, takes_nothing_for_current);
    caught(law_a_second_build_does_nothing, remembers_nothing);
}

#[test]
fn an_engine_that_looks_at_the_order_of_the_manifest_is_caught() {
    caught(law_a_plan_depends_on_no_order, numbers_its_stages);
}

/// A law that has a harness's panic, in place of an answer.
fn law_that_panics(_: &Case, _: Decide) -> Result<(), String> {
    panic!("of the harness")
}

#[test]
#[should_panic(expected = "not the law ended it")]
fn a_panic_of_the_harness_is_not_taken_for_a_caught_engine() {
    caught(law_that_panics, plan::decide);
}

#[test]
fn an_engine_that_remembers_only_the_last_run_is_caught() {
    caught(law_going_back_runs_nothing, remembers_one_receipt_a_node);
    caught(law_a_stage_runs_only_on_what_it_never_saw, remembers_one_receipt_a_node);
}

#[test]
fn an_engine_that_trusts_disk_or_cache_blindly_is_caught() {
    caught(law_outputs_are_those_of_a_build_from_scratch, places_are_not_looked_at);
    caught(law_outputs_are_those_of_a_build_from_scratch, lost_blobs_are_forgiven);
}

#[test]
fn an_engine_that_ignores_force_or_gates_is_caught() {
    caught(law_a_stage_runs_only_on_what_it_never_saw, force_is_ignored);
    caught(law_a_refused_gate_stops_the_publish_and_what_only_it_needs, gates_are_open);
}
