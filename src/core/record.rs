//! The published record, `provenance.json`: an in-toto statement with the SLSA provenance predicate, made of actions and
//! facts alone. It holds no clock, host or path of this machine, so that the same publish gives the same bytes.
//!
//! Formats: <https://in-toto.io/Statement/v1>, <https://slsa.dev/provenance/v1>. What is hfbuild's own stands under
//! `predicate.hfbuild`: sizes and git digests of the managed files, actions, facts, gates.

use crate::core::action::ActionInput;
use crate::core::digest::{Digest, HubDigests};
use crate::core::facts::{Fact, FactSet, Facts, is_family_word};
use crate::core::gate::{Clause, Outcome};
use crate::core::graph::{Graph, NodeId, Work};
use crate::core::name::{ArtifactName, NodeName};
use crate::core::past::{Files, Recorded};
use crate::core::plan::{RECORD, Settled, World};
use crate::core::publish::{Tree, TreeFile};
use crate::core::receipt::Receipt;
use crate::core::replaced::Replaced;
use crate::core::value::Value;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use sha1::Digest as _;
use std::collections::BTreeMap;

/// The record as it is written, piece by piece: of very many files it would be large in memory.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Subjects<'a>,
    #[serde(rename = "predicateType")]
    predicate_type: &'static str,
    predicate: Predicate<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: Json,
    hfbuild: Own<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: Json,
    resolved_dependencies: Sources<'a>,
}

#[derive(Serialize)]
struct Own<'a> {
    managed: Managed<'a>,
    artifacts: BTreeMap<String, Artifact<'a>>,
    gates: Vec<Json>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allowed_regressions: &'a [String],
}

#[derive(Serialize)]
struct Artifact<'a> {
    kind: Option<&'a str>,
    kind_version: Option<u32>,
    action: String,
    facts: Measured<'a>,
}

/// The files of a tree with their SHA-256.
struct Subjects<'a>(&'a Tree);

impl Serialize for Subjects<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|(path, f)| json!({"name": path, "digest": {"sha256": f.hub.sha256}})))
    }
}

/// The files of a tree with all that the Hub knows them by.
struct Managed<'a>(&'a Tree);

impl Serialize for Managed<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let file = |f: &TreeFile| json!({"size": f.size, "sha256": f.hub.sha256, "git_sha1": f.hub.git_sha1});
        to.collect_map(self.0.iter().map(|(path, f)| (path, file(f))))
    }
}

/// Files of the project by name.
struct Sources<'a>(&'a BTreeMap<&'a str, Digest>);

impl Serialize for Sources<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|(name, digest)| json!({"name": name, "digest": {"blake3": digest.hex()}})))
    }
}

/// Facts, each with what it was measured on.
struct Measured<'a>(&'a Facts);

impl Serialize for Measured<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let entry = |fact: &Fact| {
            let mut entry = json!({"value": fact.value.to_json()});
            if let Some(subject) = self.0.subjects.get(fact.of) {
                entry["of"] = json!({"what": subject.what, "blake3": subject.digest.hex()});
            }
            entry
        };
        to.collect_map(self.0.values.iter().map(|(name, fact)| (name, entry(fact))))
    }
}

/// The build type that names this predicate's parameters.
const BUILD_TYPE: &str = "urn:hfbuild:publish:1";

/// Renders the record of an upload over `tree` (which does not hold the record itself). `allowed` are the clauses over
/// `published` that refused and were allowed to.
pub fn render(
    graph: &Graph,
    upload: NodeId,
    tree: &Tree,
    settled: &[Option<Settled>],
    world: &World,
    allowed: &[String],
) -> Vec<u8> {
    let closure = graph.behind(upload);
    let mut artifacts: BTreeMap<String, Artifact<'_>> = BTreeMap::new();
    let mut sources: BTreeMap<&str, Digest> = BTreeMap::new();
    let mut gates: BTreeMap<String, Json> = BTreeMap::new();
    for id in graph.ids().filter(|id| closure[id.index()]) {
        let node = graph.node(id);
        match (&node.work, &settled[id.index()]) {
            (Work::Stage(_), Some(Settled::Made(receipt))) => {
                for input in sources_of(receipt, world) {
                    sources.insert(&input.name, input.digest);
                }
                artifacts.insert(node.name.to_string(), artifact(receipt));
            }
            (Work::Gate(clause), Some(Settled::Judged(outcome))) => {
                let outcome = recorded(outcome);
                let of = subjects(graph, clause, settled);
                gates.insert(clause.text.clone(), json!({"require": clause.text, "outcome": outcome, "of": of}));
            }
            // its outcome depends on what was there before: the same tree would have another record the next time
            (Work::Gate(clause), Some(Settled::AtUpload)) => {
                gates.insert(clause.text.clone(), json!({"require": clause.text, "asked": "at the upload"}));
            }
            _ => {}
        }
    }
    let map = |m: &BTreeMap<String, Value>| -> Json {
        m.iter().map(|(k, v)| (k.clone(), v.to_json())).collect::<Map<_, _>>().into()
    };
    let record = Record {
        kind: "https://in-toto.io/Statement/v1",
        subject: Subjects(tree),
        predicate_type: "https://slsa.dev/provenance/v1",
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: json!({
                    "project": map(&world.project), "params": map(&world.params), "declared": map(&world.declared),
                }),
                resolved_dependencies: Sources(&sources),
            },
            run_details: json!({"builder": {"id": "urn:hfbuild"}}),
            hfbuild: Own {
                managed: Managed(tree),
                artifacts,
                gates: gates.into_values().collect(),
                allowed_regressions: allowed,
            },
        },
    };
    let mut text = serde_json::to_vec_pretty(&record).unwrap_or_default();
    text.push(b'\n');
    text.shrink_to_fit();
    text
}

/// An outcome without the values that change from run to run: of those it says that there were some.
fn recorded(outcome: &Outcome) -> Json {
    let mut json = json!(outcome);
    if let Outcome::Passed { values, volatile } = outcome
        && !volatile.is_empty()
    {
        let kept: Vec<_> = values.iter().filter(|(name, _)| !volatile.contains(name)).collect();
        json["values"] = json!(kept);
        json["volatile"] = json!("its value is not recorded: it changes from run to run");
    }
    json
}

/// What the facts of a clause were measured on: of a family, of the shard that it names or of all.
fn subjects(graph: &Graph, clause: &Clause, settled: &[Option<Settled>]) -> Vec<Json> {
    let mut found = std::collections::BTreeSet::new();
    for read in clause.reads() {
        let Ok(artifact) = read[0].parse::<ArtifactName>() else { continue };
        let nodes = graph.of(&artifact);
        let key = |id: &NodeId| graph.node(*id).name.key.as_ref();
        let one = read.get(1).filter(|word| nodes.iter().any(|id| key(id) == Some(word)));
        for id in nodes.iter().filter(|id| one.is_none() || key(id) == one) {
            let Some(Settled::Made(receipt)) = &settled[id.index()] else { continue };
            let is_view = key(id).is_some() && read.get(1).is_some_and(|word| is_family_word(word));
            let fact = &read[read.len().min(if one.is_some() || is_view { 2 } else { 1 })..];
            let fact = receipt.facts.values.get(&fact.join("."));
            if let Some(subject) = fact.and_then(|fact| receipt.facts.subjects.get(fact.of)) {
                found.insert((subject.what.clone(), subject.digest.hex()));
            }
        }
    }
    found.into_iter().map(|(what, digest)| json!({"what": what, "blake3": digest})).collect()
}

fn artifact(receipt: &Receipt) -> Artifact<'_> {
    let action = receipt.action.read();
    Artifact {
        kind: action.map(|a| a.kind.as_str()),
        kind_version: action.map(|a| a.version),
        action: receipt.action_digest.hex(),
        facts: Measured(&receipt.facts),
    }
}

/// The files of the project that a result was made from.
fn sources_of<'a>(receipt: &'a Receipt, world: &'a World) -> impl Iterator<Item = &'a ActionInput> {
    let inputs = receipt.action.read().into_iter().flat_map(|action| action.inputs.values());
    inputs.filter(|input| world.sources.contains_key(&input.name))
}

/// The record as a file of the tree.
pub fn tree_file(bytes: &[u8]) -> TreeFile {
    TreeFile { size: bytes.len() as u64, digest: crate::core::digest::Digest::of(bytes), hub: hub_digests(bytes) }
}

/// What the Hub knows a small file by, from its bytes.
pub fn hub_digests(bytes: &[u8]) -> HubDigests {
    let mut git = sha1::Sha1::new();
    git.update(format!("blob {}\0", bytes.len()));
    git.update(bytes);
    HubDigests { sha256: hex::encode(sha2::Sha256::digest(bytes)), git_sha1: Some(hex::encode(git.finalize())) }
}

/// Reads the managed files out of a record found on the Hub, the record itself included. `None`: it is no record of
/// ours.
pub fn managed(bytes: &[u8]) -> Option<BTreeMap<String, HubDigests>> {
    let ours = own_part(bytes)?;
    let managed = ours.get("managed")?.as_object()?;
    let mut out = BTreeMap::new();
    for (path, file) in managed {
        out.insert(path.clone(), serde_json::from_value::<HubDigests>(file.clone()).ok()?);
    }
    out.insert(RECORD.into(), hub_digests(bytes));
    Some(out)
}

/// The files of a record found on the Hub with their sizes, the record itself included. `None`: it is no record of ours.
pub fn files(bytes: &[u8]) -> Option<Files> {
    let ours = own_part(bytes)?;
    let digests = managed(bytes)?;
    let size = |path: &str| match path {
        RECORD => Some(bytes.len() as u64),
        _ => ours.get("managed")?.get(path)?.get("size")?.as_u64(),
    };
    digests.into_iter().map(|(path, hub)| Some((path.clone(), Recorded { size: size(&path)?, hub }))).collect()
}

/// What a record says of its publish in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// `version` of `[project]`.
    pub version: Option<String>,
    /// Gates that passed, those that were asked at the upload included.
    pub passed: usize,
    /// Clauses that refused and were allowed to.
    pub allowed: Vec<String>,
}

/// Reads it. `None`: it is no record of ours.
pub fn account(bytes: &[u8]) -> Option<Account> {
    let ours = own_part(bytes)?;
    let json: Json = serde_json::from_slice(bytes).ok()?;
    let version = json.pointer("/predicate/buildDefinition/externalParameters/project/version");
    let (_, allowed) = version_of(&ours);
    let gates = ours.get("gates").and_then(Json::as_array).map_or(0, Vec::len);
    Some(Account {
        version: version.and_then(Json::as_str).map(String::from),
        passed: gates.saturating_sub(allowed.len()),
        allowed,
    })
}

/// What is hfbuild's own in a record. `None`: it is no record of ours.
fn own_part(bytes: &[u8]) -> Option<Json> {
    let mut json: Json = serde_json::from_slice(bytes).ok()?;
    let predicate = json.get_mut("predicate")?;
    (predicate.pointer("/buildDefinition/buildType")? == BUILD_TYPE).then_some(())?;
    Some(predicate.get_mut("hfbuild")?.take())
}

/// Reads what a record says of its version: the facts, for gates, and the regressions that were allowed. A file that is no
/// record of ours says nothing that could be known.
pub fn version(bytes: &[u8]) -> (Replaced, Vec<String>) {
    own_part(bytes).map_or((Replaced::Unknown, vec![]), |ours| version_of(&ours))
}

fn version_of(ours: &Json) -> (Replaced, Vec<String>) {
    let texts = ours.get("allowed_regressions").and_then(Json::as_array);
    let allowed = texts.into_iter().flatten().filter_map(|t| Some(t.as_str()?.to_string())).collect();
    (facts(ours).map_or(Replaced::Unknown, Replaced::Version), allowed)
}

/// The facts of every artifact in a record; shards of a family together.
fn facts(ours: &Json) -> Option<BTreeMap<ArtifactName, FactSet>> {
    let mut out: BTreeMap<ArtifactName, FactSet> = BTreeMap::new();
    for (name, artifact) in ours.get("artifacts")?.as_object()? {
        let name: NodeName = name.parse().ok()?;
        let mut facts = Facts::default();
        for (fact, entry) in artifact.get("facts")?.as_object()? {
            facts.values.insert(fact.clone(), Fact { value: Value::from_json(entry.get("value")?), of: 0 });
        }
        match name.key {
            None => {
                out.insert(name.artifact, FactSet::One(facts));
            }
            Some(key) => match out.entry(name.artifact).or_insert_with(|| FactSet::Family(vec![])) {
                FactSet::Family(shards) => shards.push((key, facts)),
                FactSet::One(_) => return None,
            },
        }
    }
    Some(out)
}
