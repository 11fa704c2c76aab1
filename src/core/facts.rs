//! Facts: typed values that a stage measured, each with the digest of what it was measured on. The only source of
//! figures on a card and in a gate.
//!
//! Does not know how anything is measured.

use crate::core::digest::Digest;
use crate::core::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a fact was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// In words: `checkpoints/tinydit_final.pt`, `the state dict`, `model.onnx`.
    pub what: String,
    /// BLAKE3 of its content.
    pub digest: Digest,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The value.
    pub value: Value,
    /// What it was measured on: an index into [`Facts::subjects`].
    pub of: usize,
}

/// What one stage measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// What was measured on.
    pub subjects: Vec<Subject>,
    /// The facts by name; a dot in a name opens a group (`config.depth`).
    pub values: BTreeMap<String, Fact>,
    /// Facts that change from run to run (seconds, host): never in a key unless named, never in the published record. They
    /// are of the first subject.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volatile: BTreeMap<String, Value>,
}

impl Facts {
    /// Names a subject; the facts recorded next with the returned number are bound to it.
    pub fn subject(&mut self, what: &str, digest: Digest) -> usize {
        self.subjects.push(Subject { what: what.into(), digest });
        self.subjects.len() - 1
    }
    /// Records a fact of the subject `of`.
    pub fn set(&mut self, name: &str, value: impl Into<Value>, of: usize) {
        self.values.insert(name.into(), Fact { value: value.into(), of });
    }
    /// Records a fact that changes from run to run, of the first subject.
    pub fn set_volatile(&mut self, name: &str, value: impl Into<Value>) {
        self.volatile.insert(name.into(), value.into());
    }
    /// A fact's value, a volatile one too.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).map(|f| &f.value).or_else(|| self.volatile.get(name))
    }
    /// What a fact was measured on; of a volatile one, the first subject.
    pub fn subject_of(&self, name: &str) -> Option<&Subject> {
        match self.values.get(name) {
            Some(fact) => self.subjects.get(fact.of),
            None => self.subjects.first().filter(|_| self.volatile.contains_key(name)),
        }
    }
    /// The facts as a tree: `config.depth` becomes `{config: {depth: ..}}`. Where a name is both a value and a group,
    /// the group wins.
    pub fn tree(&self) -> Value {
        let mut root = BTreeMap::new();
        let all = self.values.iter().map(|(k, f)| (k, &f.value)).chain(self.volatile.iter());
        for (name, value) in all {
            insert(&mut root, name, value);
        }
        Value::Map(root)
    }
}

fn insert(map: &mut BTreeMap<String, Value>, name: &str, value: &Value) {
    match name.split_once('.') {
        None => {
            map.entry(name.into()).or_insert_with(|| value.clone());
        }
        Some((group, rest)) => {
            let entry = map.entry(group.into()).or_insert_with(|| Value::Map(BTreeMap::new()));
            if !matches!(entry, Value::Map(_)) {
                *entry = Value::Map(BTreeMap::new());
            }
            if let Value::Map(inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// Facts of an artifact as gates and templates see them: those of one node, or those of every shard.
#[derive(Debug, Clone, PartialEq)]
pub enum FactSet {
    /// An artifact of one node.
    One(Facts),
    /// A family (`each`): shards by key, in the order of the list.
    Family(Vec<(String, Facts)>),
}

impl FactSet {
    /// The tree for a template: of a family, `shards` (a list, each with its `key`) and, over the numbers that every
    /// shard has, `mean`, `min`, `max`; under `common` the facts that are the same in all shards.
    pub fn tree(&self) -> Value {
        let shards = match self {
            FactSet::One(facts) => return facts.tree(),
            FactSet::Family(shards) => shards,
        };
        let mut root = BTreeMap::new();
        let list = shards.iter().map(|(key, facts)| {
            let mut tree = match facts.tree() {
                Value::Map(map) => map,
                _ => BTreeMap::new(),
            };
            tree.insert("key".into(), Value::Text(key.clone()));
            Value::Map(tree)
        });
        root.insert("shards".into(), Value::List(list.collect()));
        for (name, fold) in FOLDS {
            root.insert((*name).into(), Value::Map(self.fold(*fold)));
        }
        root.insert(COMMON.into(), common(shards));
        Value::Map(root)
    }

    /// A fold over every number that all shards have; a fact that one shard lacks, or could not measure, is `Null`.
    pub fn fold(&self, fold: fn(&[f64]) -> f64) -> BTreeMap<String, Value> {
        let FactSet::Family(shards) = self else { return BTreeMap::new() };
        let names: std::collections::BTreeSet<_> = shards.iter().flat_map(|(_, f)| f.values.keys()).collect();
        let mut out = BTreeMap::new();
        for name in names {
            let values: Vec<Option<&Value>> =
                shards.iter().map(|(_, f)| f.values.get(name).map(|f| &f.value)).collect();
            let is_number =
                |v: &Option<&Value>| v.is_none_or(|v| matches!(v, Value::Int(_) | Value::Float(_) | Value::Null));
            if !values.iter().all(is_number) {
                continue;
            }
            let numbers: Option<Vec<f64>> = values.iter().map(|v| v.and_then(Value::as_f64)).collect();
            out.insert(name.clone(), numbers.map_or(Value::Null, |n| Value::float(fold(&n))));
        }
        out
    }
}

/// The facts that every shard has with one value.
fn common(shards: &[(String, Facts)]) -> Value {
    let Some(((_, first), rest)) = shards.split_first() else { return Value::Map(BTreeMap::new()) };
    let mut same = first.clone();
    same.values
        .retain(|name, fact| rest.iter().all(|(_, f)| f.values.get(name).map(|f| &f.value) == Some(&fact.value)));
    same.volatile.clear();
    same.tree()
}

/// Where a family's tree holds what all shards agree on.
pub const COMMON: &str = "common";

/// Whether a word under a family is no shard's fact but a view of all shards.
pub fn is_family_word(word: &str) -> bool {
    word == "shards" || word == COMMON || FOLDS.iter().any(|(name, _)| *name == word)
}

type Fold = (&'static str, fn(&[f64]) -> f64);

/// The folds that gates and templates may ask of a family.
pub const FOLDS: &[Fold] = &[
    ("mean", |n| n.iter().sum::<f64>() / n.len() as f64),
    ("min", |n| n.iter().copied().fold(f64::INFINITY, f64::min)),
    ("max", |n| n.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
];
