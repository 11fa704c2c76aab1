//! The published record, `provenance.json`: an in-toto statement with the SLSA provenance predicate, made of actions and
//! facts alone. It holds no clock, host or path of this machine, so that the same publish gives the same bytes.
//!
//! Formats: <https://in-toto.io/Statement/v1>, <https://slsa.dev/provenance/v1>. What is hfbuild's own stands under
//! `predicate.hfbuild`: sizes and git digests of the managed files, actions, facts, gates.

use crate::core::action::ActionInput;
use crate::core::digest::HubDigests;
use crate::core::facts::{Fact, FactSet, Facts};
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
    let closure = graph.closure(&[upload]);
    let mut artifacts: BTreeMap<String, Json> = BTreeMap::new();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut gates: BTreeMap<String, Json> = BTreeMap::new();
    for id in graph.ids().filter(|id| closure[id.index()]) {
        let node = graph.node(id);
        match (&node.work, &settled[id.index()]) {
            (Work::Stage(_), Some(Settled::Made(receipt))) => {
                for input in sources_of(receipt, world) {
                    sources.insert(input.name.clone(), input.digest.hex());
                }
                artifacts.insert(node.name.to_string(), artifact(receipt));
            }
            (Work::Gate(clause), Some(Settled::Judged(outcome))) => {
                gates.insert(clause.text.clone(), json!({"require": clause.text, "outcome": outcome}));
            }
            // its outcome depends on what was there before: the same tree would have another record the next time
            (Work::Gate(clause), Some(Settled::AtUpload)) => {
                gates.insert(clause.text.clone(), json!({"require": clause.text, "asked": "at the upload"}));
            }
            _ => {}
        }
    }
    let subject: Vec<_> =
        tree.iter().map(|(path, f)| json!({"name": path, "digest": {"sha256": f.hub.sha256}})).collect();
    let managed: Map<String, Json> = tree
        .iter()
        .map(|(path, f)| (path.clone(), json!({"size": f.size, "sha256": f.hub.sha256, "git_sha1": f.hub.git_sha1})))
        .collect();
    let dependencies: Vec<_> =
        sources.iter().map(|(name, digest)| json!({"name": name, "digest": {"blake3": digest}})).collect();
    let map = |m: &BTreeMap<String, Value>| -> Json {
        m.iter().map(|(k, v)| (k.clone(), v.to_json())).collect::<Map<_, _>>().into()
    };
    let mut record = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "project": map(&world.project), "params": map(&world.params), "declared": map(&world.declared),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": "urn:hfbuild"}},
            "hfbuild": {"managed": managed, "artifacts": artifacts, "gates": gates.into_values().collect::<Vec<_>>()},
        },
    });
    if !allowed.is_empty() {
        record["predicate"]["hfbuild"]["allowed_regressions"] = allowed.into();
    }
    let mut text = serde_json::to_vec_pretty(&record).unwrap_or_default();
    text.push(b'\n');
    text
}

fn artifact(receipt: &Receipt) -> Json {
    let facts: Map<String, Json> = receipt
        .facts
        .values
        .iter()
        .map(|(name, fact)| {
            let of = receipt.facts.subjects.get(fact.of);
            let mut entry = json!({"value": fact.value.to_json()});
            if let Some(subject) = of {
                entry["of"] = json!({"what": subject.what, "blake3": subject.digest.hex()});
            }
            (name.clone(), entry)
        })
        .collect();
    json!({
        "kind": receipt.action.read().map(|a| a.kind.as_str()),
        "kind_version": receipt.action.read().map(|a| a.version),
        "action": receipt.action_digest.hex(),
        "facts": facts,
    })
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
