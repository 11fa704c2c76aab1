//! Gates: conditions in CEL (the Common Expression Language, by the `cel` crate) over facts, params and declared
//! figures. They fail closed: a fact that is missing or could not be measured is not a pass.
//!
//! Pure: parsing and evaluation only. Does not know when a gate is asked.
//!
//! A family (`each`) is seen as `samples["Siamese"].x` (one shard), `samples.mean.x` / `.min.x` / `.max.x` (folds), and
//! `samples.all(s, s.x > c)` (macros over the shards). A bare `samples.x` must hold for every shard.
//!
//! `published` is the version that the commit would replace ([`Replaced`]); in a clause over a bare family
//! `published.samples.x` is the same shard's fact in that version.

use crate::core::comparison::{self, Comparison};
use crate::core::evidence;
use crate::core::facts::{FactSet, is_family_word};
use crate::core::name::ArtifactName;
use crate::core::replaced::{PUBLISHED, Replaced};
use crate::core::strict::{self, strict};
use crate::core::value::Value;
use cel::Program;
use cel::common::ast::{Expr, IdedExpr, SelectExpr, operators};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A parsed clause.
#[derive(Debug, Clone)]
pub struct Clause {
    /// As written.
    pub text: String,
    /// Root names that it mentions: artifacts, `params`, `declared`, `published`.
    pub roots: BTreeSet<String>,
    /// Every dotted name that it spells, e.g. `["checkpoint", "config", "depth"]`.
    pub names: BTreeSet<Vec<String>>,
    /// Names that it asks for with `has(..)`: these may be missing.
    tested: BTreeSet<String>,
    expr: IdedExpr,
}

/// Root names that are no artifacts.
pub const SETTINGS: [&str; 3] = ["params", "declared", PUBLISHED];

impl Clause {
    fn new(text: &str, expr: IdedExpr) -> Clause {
        let (mut names, mut tested) = (BTreeSet::new(), BTreeSet::new());
        walk(&expr, &mut vec![], &mut |path| {
            names.insert(path.iter().map(ToString::to_string).collect::<Vec<_>>());
        });
        tests(&expr, &mut tested);
        let roots = names.iter().map(|path| path[0].clone()).collect();
        Clause { text: text.to_string(), roots, names, tested, expr }
    }
    /// The parts of its outermost `&&` that do not name `published`, each a clause: they hold whatever was published before.
    pub fn absolute(&self) -> Vec<Clause> {
        let mut parts = Vec::new();
        strict::flatten(self.expr.clone(), operators::LOGICAL_AND, &mut parts);
        let parts = parts.into_iter().map(|part| Clause::new(&self.text, part));
        parts.filter(|part| !part.is_about_published()).collect()
    }
    /// Whether it compares with the version that would be replaced: then it is asked when something is sent.
    pub fn is_about_published(&self) -> bool {
        self.roots.contains(PUBLISHED)
    }
    /// The artifacts that it mentions.
    pub fn artifacts(&self) -> impl Iterator<Item = &String> {
        self.roots.iter().filter(|root| !SETTINGS.contains(&root.as_str()))
    }
    /// What it reads: segments of names, a shard's key and a family's views among them.
    pub fn reads(&self) -> Vec<Vec<String>> {
        evidence::paths(&self.expr)
    }
    /// Its comparisons of a dotted name with a number or with another name; of two names both ways round.
    pub fn comparisons(&self) -> Vec<Comparison> {
        comparison::all(&self.expr)
    }
}

/// How a clause ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "gate", rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed {
        /// The facts it mentions, with their values; of all shards of a family the least and the greatest value.
        values: Vec<(String, Value)>,
        /// Those of them that change from run to run, by name.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        volatile: Vec<String>,
    },
    /// It does not hold.
    Refused {
        /// The shard for which it does not, where it is about a family.
        shard: Option<String>,
        /// The facts it mentions, with their values.
        values: Vec<(String, Value)>,
    },
    /// It could not be evaluated, which is no pass.
    Unmeasured {
        /// The shard, where it is about a family.
        shard: Option<String>,
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// Whether the gate is open.
    pub fn passed(&self) -> bool {
        matches!(self, Outcome::Passed { .. })
    }
    /// The facts that it was decided by, with their values; none where it could not be.
    pub fn values(&self) -> &[(String, Value)] {
        match self {
            Outcome::Passed { values, .. } | Outcome::Refused { values, .. } => values,
            Outcome::Unmeasured { .. } => &[],
        }
    }
}

/// Parses a clause. The error is the parser's own, on one line.
pub fn parse(text: &str) -> Result<Clause, String> {
    if text.len() > 10_000 {
        return Err("a clause is at most 10000 bytes".into());
    }
    let program = Program::compile(text).map_err(|e| {
        // the first one is the cause, and what the grammar would have liked instead helps nobody
        let first =
            e.errors.first().map(|e| (e.msg.split(" expecting ").next().unwrap_or_default().to_string(), e.pos.1));
        first.map_or_else(
            || "it cannot be read".into(),
            |(msg, at)| format!("{} (column {})", msg.to_lowercase(), at + 1),
        )
    })?;
    Ok(Clause::new(text, program.expression().clone()))
}

/// Evaluates a clause over the facts of artifacts. Facts of an artifact that the clause mentions and `facts` lacks make
/// it unmeasured; so does `published` where what would be replaced is not known.
pub fn evaluate(
    clause: &Clause,
    facts: &BTreeMap<ArtifactName, FactSet>,
    params: &BTreeMap<String, Value>,
    declared: &BTreeMap<String, Value>,
    replaced: &Replaced,
) -> Outcome {
    if clause.is_about_published() && *replaced == Replaced::Unknown {
        return Outcome::Unmeasured { shard: None, why: "what is published now is not known".into() };
    }
    let families: BTreeMap<&str, &FactSet> = facts
        .iter()
        .filter(|(name, set)| matches!(set, FactSet::Family(_)) && clause.roots.contains(name.as_str()))
        .map(|(name, set)| (name.as_str(), set))
        .collect();
    let expr = strict(over_shards(&replaced.settle(clause.expr.clone()), &families));
    let mut roots: BTreeMap<String, Value> = facts
        .iter()
        .filter(|(name, _)| clause.roots.contains(name.as_str()))
        .map(|(name, set)| (name.to_string(), set.view(None)))
        .collect();
    roots.insert("params".into(), Value::Map(params.clone()));
    roots.insert("declared".into(), Value::Map(declared.clone()));
    roots.insert(PUBLISHED.into(), replaced.value(None));
    let Some((family, FactSet::Family(shards))) = bare_family(&expr, &families) else {
        return judge(&expr, &roots, None, &clause.tested, facts);
    };
    if shards.is_empty() {
        return Outcome::Unmeasured { shard: None, why: format!("`{family}` has no shard") };
    }
    let mut refused = None;
    for (key, _) in shards {
        roots.insert(family.to_string(), families[family].view(Some(key)));
        roots.insert(PUBLISHED.into(), replaced.value(Some((family, key))));
        match judge(&expr, &roots, Some(key), &clause.tested, facts) {
            Outcome::Passed { .. } => {}
            first @ Outcome::Refused { .. } => refused = refused.or(Some(first)),
            // a refusal may be allowed, what cannot be evaluated never: it is said first
            unmeasured => return unmeasured,
        }
    }
    roots.insert(PUBLISHED.into(), replaced.value(None));
    let (values, volatile) = evidence::values(&expr, facts, &roots, None);
    refused.unwrap_or(Outcome::Passed { values, volatile })
}

/// Judges one expression. A fact that it names and that is missing or was not measured makes it unmeasured, also where
/// `||` would let it pass: only what it asks for with `has(..)` may be missing.
fn judge(
    expr: &IdedExpr,
    roots: &BTreeMap<String, Value>,
    shard: Option<&String>,
    tested: &BTreeSet<String>,
    facts: &BTreeMap<ArtifactName, FactSet>,
) -> Outcome {
    let mut context = strict::context();
    for (name, value) in roots {
        context.add_variable_from_value(name.clone(), to_cel(value));
    }
    let (values, volatile) = evidence::values(expr, facts, roots, shard.map(String::as_str));
    let shard = shard.cloned();
    let missing = |(name, value): &&(String, Value)| *value == Value::Null && !tested.contains(name);
    if let Some((name, _)) = mentioned(expr, roots).iter().find(missing) {
        let why = match name.strip_prefix("published.") {
            Some(fact) => format!("the version that would be replaced has no `{fact}` (ask with `has({name})`)"),
            None => format!("`{name}` was not measured"),
        };
        return Outcome::Unmeasured { shard, why };
    }
    match cel::Value::resolve(expr, &context) {
        Ok(cel::Value::Bool(true)) => Outcome::Passed { values, volatile },
        Ok(cel::Value::Bool(false)) => Outcome::Refused { shard, values },
        Ok(_) => Outcome::Unmeasured { shard, why: "the clause is no condition: it must be true or false".into() },
        Err(e) => Outcome::Unmeasured { shard, why: strict::said(e) },
    }
}

/// The dotted names in an expression that have a value, in the order of their first mention.
fn mentioned(expr: &IdedExpr, roots: &BTreeMap<String, Value>) -> Vec<(String, Value)> {
    let mut out: Vec<(String, Value)> = Vec::new();
    walk(expr, &mut vec![], &mut |path| {
        let mut value = roots.get(path[0]);
        for segment in &path[1..] {
            value = match value {
                Some(Value::Map(map)) => map.get(*segment),
                _ => None,
            };
        }
        let name = path.join(".");
        match value {
            Some(Value::Map(_) | Value::List(_)) => {}
            Some(value) if !out.iter().any(|(n, _)| *n == name) => out.push((name, value.clone())),
            None if roots.contains_key(path[0]) && !out.iter().any(|(n, _)| *n == name) => {
                out.push((name, Value::Null))
            }
            _ => {}
        }
    });
    out
}

/// The family whose facts the expression reads barely (`samples.x`), if there is one.
fn bare_family<'a>(expr: &IdedExpr, families: &BTreeMap<&'a str, &'a FactSet>) -> Option<(&'a str, &'a FactSet)> {
    let mut found = None;
    walk(expr, &mut vec![], &mut |path| {
        if let Some((name, set)) = families.get_key_value(path[0])
            && path.get(1).is_some_and(|field| !is_family_word(field))
        {
            let FactSet::Family(shards) = set else { return };
            if !shards.iter().any(|(key, _)| key == path[1]) {
                found = Some((*name, *set));
            }
        }
    });
    found
}

/// Calls `visit` for every name that the expression spells (`["samples", "mean", "x"]`), longest form only. Variables
/// that a macro binds are left out. `["samples"]` is visited for `samples["key"].x`, whose index is no field.
fn walk<'e>(expr: &'e IdedExpr, bound: &mut Vec<&'e str>, visit: &mut dyn FnMut(&[&str])) {
    if let Some(path) = spelled(&expr.expr) {
        if !bound.contains(&path[0]) {
            visit(&path);
        }
        return;
    }
    match &expr.expr {
        Expr::Call(call) => {
            call.target.iter().for_each(|t| walk(t, bound, visit));
            call.args.iter().for_each(|a| walk(a, bound, visit));
        }
        Expr::Comprehension(c) => {
            walk(&c.iter_range, bound, visit);
            walk(&c.accu_init, bound, visit);
            let depth = bound.len();
            bound.push(&c.iter_var);
            bound.push(&c.accu_var);
            bound.extend(c.iter_var2.as_deref());
            walk(&c.loop_cond, bound, visit);
            walk(&c.loop_step, bound, visit);
            walk(&c.result, bound, visit);
            bound.truncate(depth);
        }
        Expr::List(list) => list.elements.iter().for_each(|e| walk(e, bound, visit)),
        Expr::Select(select) => walk(&select.operand, bound, visit),
        Expr::Map(map) => map.entries.iter().for_each(|entry| {
            if let cel::common::ast::EntryExpr::MapEntry(e) = &entry.expr {
                walk(&e.key, bound, visit);
                walk(&e.value, bound, visit);
            }
        }),
        _ => {}
    }
}

/// Collects the names under `has(..)`.
pub(super) fn tests(expr: &IdedExpr, out: &mut BTreeSet<String>) {
    match &expr.expr {
        Expr::Select(select) if select.test => out.extend(spelled(&expr.expr).map(|path| path.join("."))),
        Expr::Select(select) => tests(&select.operand, out),
        Expr::Call(call) => {
            call.target.iter().for_each(|t| tests(t, out));
            call.args.iter().for_each(|a| tests(a, out));
        }
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
                .into_iter()
                .for_each(|e| tests(e, out));
        }
        Expr::List(list) => list.elements.iter().for_each(|e| tests(e, out)),
        _ => {}
    }
}

/// The segments of a plain dotted name, root first.
pub(super) fn spelled(mut expr: &Expr) -> Option<Vec<&str>> {
    let mut segments = Vec::new();
    loop {
        match expr {
            Expr::Ident(name) => {
                segments.push(name.as_str());
                segments.reverse();
                return Some(segments);
            }
            Expr::Select(select) => {
                segments.push(select.field.as_str());
                expr = &select.operand.expr;
            }
            _ => return None,
        }
    }
}

/// The same expression with every macro over a family (`samples.all(s, ..)`), and `size` of one, asking its list of shards:
/// CEL itself would ask the keys of a map.
fn over_shards(expr: &IdedExpr, families: &BTreeMap<&str, &FactSet>) -> IdedExpr {
    let mut expr = expr.clone();
    rewrite(&mut expr, families);
    expr
}

fn rewrite(expr: &mut IdedExpr, families: &BTreeMap<&str, &FactSet>) {
    if let Expr::Comprehension(c) = &mut expr.expr
        && let Expr::Ident(name) = &c.iter_range.expr
        && families.contains_key(name.as_str())
    {
        let operand = Box::new(c.iter_range.clone());
        c.iter_range.expr = Expr::Select(SelectExpr { operand, field: "shards".into(), test: false });
    }
    if let Expr::Call(call) = &mut expr.expr
        && call.func_name == "size"
    {
        for counted in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
            if matches!(&counted.expr, Expr::Ident(name) if families.contains_key(name.as_str())) {
                let operand = Box::new(counted.clone());
                counted.expr = Expr::Select(SelectExpr { operand, field: "shards".into(), test: false });
            }
        }
    }
    each_child(expr, &mut |child| rewrite(child, families));
}

/// Calls `visit` for every direct part of an expression.
pub(super) fn each_child(expr: &mut IdedExpr, visit: &mut dyn FnMut(&mut IdedExpr)) {
    match &mut expr.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|t| visit(t));
            call.args.iter_mut().for_each(visit);
        }
        Expr::Comprehension(c) => {
            for part in [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                visit(part);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(visit),
        Expr::Select(select) => visit(&mut select.operand),
        _ => {}
    }
}

/// A value for CEL. What was not measured is left out of its map, so that reaching for it, by name, index or macro, is an
/// error and never a comparison with null.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        Value::Int(i) => cel::Value::Int(*i),
        Value::Float(f) => cel::Value::Float(*f),
        Value::Text(t) => cel::Value::String(Arc::new(t.clone())),
        Value::List(list) => cel::Value::List(Arc::new(list.iter().map(to_cel).collect())),
        Value::Map(map) => {
            let measured = map.iter().filter(|(_, v)| **v != Value::Null);
            let entries = measured.map(|(k, v)| (cel::objects::Key::String(Arc::new(k.clone())), to_cel(v)));
            cel::Value::Map(cel::objects::Map { map: Arc::new(entries.collect()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::digest::Digest;
    use crate::core::facts::Facts;

    fn facts(pairs: &[(&str, Value)]) -> Facts {
        let mut facts = Facts::default();
        let of = facts.subject("x", Digest::of(b""));
        pairs.iter().for_each(|(k, v)| facts.set(k, v.clone(), of));
        facts
    }

    fn ask(clause: &str) -> Outcome {
        let one = FactSet::One(facts(&[("step", Value::Int(7000)), ("ema", true.into()), ("loss", Value::Null)]));
        let shard = |x: f64| facts(&[("ncc", x.into()), ("void", Value::Null)]);
        let family = FactSet::Family(vec![("Siamese".into(), shard(0.9)), ("Big Cat".into(), shard(0.5))]);
        let all = BTreeMap::from([("checkpoint".parse().unwrap(), one), ("samples".parse().unwrap(), family)]);
        let params = BTreeMap::from([("bound".to_string(), Value::Float(0.6))]);
        evaluate(&parse(clause).unwrap(), &all, &params, &BTreeMap::new(), &Replaced::Unknown)
    }

    #[test]
    fn a_clause_over_measured_facts_passes_or_is_refused_with_its_values() {
        assert!(ask("checkpoint.step >= 1000 && checkpoint.ema").passed());
        assert!(ask("checkpoint.step >= 6999.5").passed());
        let values = vec![("checkpoint.step".to_string(), Value::Int(7000))];
        assert_eq!(ask("checkpoint.step > 7000"), Outcome::Refused { shard: None, values });
    }

    #[test]
    fn what_was_not_measured_or_is_no_condition_is_not_a_pass() {
        for clause in
            ["checkpoint.loss < 1.0", "checkpoint.nothing > 1", "nobody.x > 1", "checkpoint.step", "1 / 0 == 1"]
        {
            assert!(matches!(ask(clause), Outcome::Unmeasured { .. }), "{clause}: {:?}", ask(clause));
        }
    }

    #[test]
    fn what_a_clause_asks_for_with_has_may_be_missing() {
        assert!(ask("!has(checkpoint.nothing) || checkpoint.nothing > 1").passed());
        assert!(!ask("has(checkpoint.nothing)").passed());
    }

    #[test]
    fn a_bare_family_must_hold_for_every_shard_and_names_the_one_that_does_not() {
        assert!(ask("samples.ncc >= 0.5").passed());
        let refused = ask("samples.ncc >= params.bound");
        assert!(matches!(&refused, Outcome::Refused { shard: Some(s), .. } if s == "Big Cat"), "{refused:?}");
    }

    #[test]
    fn a_family_has_shards_folds_and_macros() {
        assert!(ask("samples[\"Siamese\"].ncc > 0.8").passed());
        assert!(ask("samples.mean.ncc > 0.69 && samples.min.ncc == 0.5 && samples.max.ncc == 0.9").passed());
        assert!(ask("samples.all(s, s.ncc > 0.4)").passed());
        assert!(ask("size(samples) == 2").passed() && ask("samples.size() == 2").passed());
        assert!(!ask("size(samples) >= 3").passed());
        assert!(!ask("samples.all(s, s.ncc > 0.6)").passed());
        assert!(ask("samples.exists(s, s.key == 'Big Cat')").passed());
    }

    #[test]
    fn published_is_null_at_first_then_the_facts_of_the_version_and_unknown_is_no_pass() {
        let set = |n: f64| {
            FactSet::Family(vec![
                ("a".into(), facts(&[("x", n.into())])),
                ("b".into(), facts(&[("x", (n / 2.0).into())])),
            ])
        };
        let name = || "samples".parse().unwrap();
        let now = BTreeMap::from([(name(), set(0.5))]);
        let then = |n: f64| Replaced::Version(BTreeMap::from([(name(), set(n))]));
        let ask = |clause: &str, replaced: &Replaced| {
            evaluate(&parse(clause).unwrap(), &now, &BTreeMap::new(), &BTreeMap::new(), replaced)
        };
        for clause in [
            "published == null || samples.mean.x >= published.samples.mean.x",
            "published == null || samples.x >= published.samples.x",
            "published != null ? samples.mean.x >= published.samples.mean.x : true",
            "!has(published.samples.mean.x) || samples.mean.x >= published.samples.mean.x",
            "!(published != null && samples.mean.x < published.samples.mean.x)",
        ] {
            assert!(ask(clause, &Replaced::First).passed(), "{clause}: {:?}", ask(clause, &Replaced::First));
            assert!(ask(clause, &then(0.5)).passed() && ask(clause, &then(0.4)).passed(), "{clause}");
            assert!(
                matches!(ask(clause, &then(0.6)), Outcome::Refused { .. }),
                "{clause}: {:?}",
                ask(clause, &then(0.6))
            );
            assert!(matches!(ask(clause, &Replaced::Unknown), Outcome::Unmeasured { .. }), "{clause}");
        }
        let lacking = ask("samples.mean.x >= published.samples.mean.y", &then(0.5));
        assert!(matches!(lacking, Outcome::Unmeasured { .. }), "{lacking:?}");
        assert!(!ask("samples.mean.x >= published.samples.mean.x", &Replaced::First).passed());
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for text in ["", "checkpoint.", "a >=", "((", "\"", "a b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
