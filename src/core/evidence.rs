//! What a clause was decided by: the facts that it reads, each with its value, of a family those of the shards at the ends.
//!
//! Pure. Knows CEL's expressions and facts; evaluates nothing.

use crate::core::facts::{FactSet, Facts, is_family_word};
use crate::core::name::ArtifactName;
use crate::core::value::Value;
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use std::collections::BTreeMap;

/// Lists of more items are not shown.
const MOST_ITEMS: usize = 16;

/// What a clause reads: segments of names, root first, a shard's key among them. What is read of the variable of a macro
/// stands under what the macro runs over: `samples.all(s, s.x > 0)` reads `["samples", "x"]`.
pub(super) fn paths(expr: &IdedExpr) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    collect(expr, &mut vec![], &mut out);
    out
}

type Variables = Vec<(String, Option<Vec<String>>)>;

fn collect(expr: &IdedExpr, variables: &mut Variables, out: &mut Vec<Vec<String>>) {
    if let Some(path) = path(&expr.expr, variables) {
        if let Some(path) = path.filter(|path| !out.contains(path)) {
            out.push(path);
        }
        return;
    }
    if let Expr::Comprehension(c) = &expr.expr {
        collect(&c.iter_range, variables, out);
        collect(&c.accu_init, variables, out);
        let depth = variables.len();
        let over = ranged(&c.iter_range, variables);
        variables.push((c.iter_var.clone(), over));
        variables.push((c.accu_var.clone(), None));
        variables.extend(c.iter_var2.clone().map(|name| (name, None)));
        [&c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(|part| collect(part, variables, out));
        variables.truncate(depth);
        return;
    }
    super::gate::each_child(&mut expr.clone(), &mut |child| collect(child, variables, out));
}

/// What a macro runs over; of a macro over a macro that of the inner one.
fn ranged(expr: &IdedExpr, variables: &Variables) -> Option<Vec<String>> {
    match &expr.expr {
        Expr::Comprehension(inner) => ranged(&inner.iter_range, variables),
        other => path(other, variables)?,
    }
}

/// The segments of a name, where the expression is one (`Some`); `Some(None)`: of a variable that stands for no fact.
fn path(expr: &Expr, variables: &Variables) -> Option<Option<Vec<String>>> {
    let further = |inner: &IdedExpr, segment: Option<&str>| {
        let path = path(&inner.expr, variables)?;
        Some(path.map(|path| path.into_iter().chain(segment.map(String::from)).collect()))
    };
    match expr {
        Expr::Ident(name) => match variables.iter().rev().find(|(variable, _)| variable == name) {
            Some((_, stands_for)) => Some(stands_for.clone()),
            None => Some(Some(vec![name.clone()])),
        },
        Expr::Select(select) => further(&select.operand, Some(&select.field)),
        Expr::Call(call) if call.func_name == operators::INDEX => match &call.args[..] {
            [of, key] => match &key.expr {
                Expr::Literal(LiteralValue::String(key)) => further(of, Some(key.inner())),
                // one of a list: what is said of the list holds
                Expr::Literal(LiteralValue::Int(_)) => further(of, None),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The values of what an expression reads, in the order of their first mention, each with its name as a clause would write
/// it. `shard`: the one that bare facts of a family are of; without it they are of all, and of those stand here the one
/// with the least value and the one with the greatest. Beside them the names of those that are volatile.
pub(super) fn values(
    expr: &IdedExpr,
    facts: &BTreeMap<ArtifactName, FactSet>,
    roots: &BTreeMap<String, Value>,
    shard: Option<&str>,
) -> (Vec<(String, Value)>, Vec<String>) {
    let (mut out, mut volatile): (Vec<(String, Value)>, _) = (Vec::new(), Vec::new());
    for path in paths(expr) {
        let set = path[0].parse::<ArtifactName>().ok().and_then(|name| facts.get(&name));
        let found = match set {
            Some(FactSet::Family(shards)) => of_family(&path, shards, roots, shard),
            _ => plain(&path, roots),
        };
        for (name, value) in found {
            if is_shown(&value) && !out.iter().any(|(n, _)| *n == name) {
                if set.is_some_and(|set| is_volatile(set, &path[1..])) {
                    volatile.push(name.clone());
                }
                out.push((name, value));
            }
        }
    }
    (out, volatile)
}

/// Whether a name, with or without a shard's key before it, is that of a fact that changes from run to run.
fn is_volatile(set: &FactSet, name: &[String]) -> bool {
    let has = |facts: &Facts| (0..name.len().min(2)).any(|at| facts.volatile.contains_key(&name[at..].join(".")));
    match set {
        FactSet::One(facts) => has(facts),
        FactSet::Family(shards) => shards.iter().any(|(_, facts)| has(facts)),
    }
}

fn is_shown(value: &Value) -> bool {
    match value {
        Value::Map(_) => false,
        Value::List(list) => {
            list.len() <= MOST_ITEMS && !list.iter().any(|i| matches!(i, Value::Map(_) | Value::List(_)))
        }
        _ => true,
    }
}

fn plain(path: &[String], roots: &BTreeMap<String, Value>) -> Vec<(String, Value)> {
    let mut value = roots.get(&path[0]);
    for segment in &path[1..] {
        value = match value {
            Some(Value::Map(map)) => map.get(segment),
            _ => None,
        };
    }
    value.map(|value| (spell(path), value.clone())).into_iter().collect()
}

fn of_family(
    path: &[String],
    shards: &[(String, Facts)],
    roots: &BTreeMap<String, Value>,
    shard: Option<&str>,
) -> Vec<(String, Value)> {
    let rest = match &path[1..] {
        [word, fact @ ..] if word == "shards" => fact,
        [word, ..] if is_family_word(word) => return plain(path, roots),
        [key, fact @ ..] if shards.iter().any(|(k, _)| k == key) => {
            let value = shards.iter().find(|(k, _)| k == key).and_then(|(_, facts)| facts.get(&fact.join(".")));
            return value.map(|value| (spell_shard(path), value.clone())).into_iter().collect();
        }
        _ if shard.is_some() => return plain(path, roots),
        fact => fact,
    };
    let fact = rest.join(".");
    let known: Vec<_> = shards.iter().filter_map(|(key, facts)| Some((key, facts.get(&fact)?))).collect();
    let Some(first) = known.first() else { return vec![] };
    let (mut least, mut most) = (first, first);
    for one in &known {
        match (one.1.as_f64(), least.1.as_f64(), most.1.as_f64()) {
            (Some(x), Some(low), _) if x < low => least = one,
            (Some(x), _, Some(high)) if x > high => most = one,
            (None, ..) if one.1 != least.1 && most.1 == least.1 => most = one,
            _ => {}
        }
    }
    let named = |(key, value): &(&String, &Value)| {
        let path: Vec<String> = [path[0].clone(), (*key).clone()].into_iter().chain(rest.iter().cloned()).collect();
        (spell_shard(&path), (*value).clone())
    };
    if least.1 == most.1 { vec![named(least)] } else { vec![named(least), named(most)] }
}

/// A name as a clause writes it: a segment that is no word stands in brackets.
fn spell(path: &[String]) -> String {
    let is_word = |s: &str| {
        !s.is_empty()
            && !s.starts_with(|c: char| c.is_ascii_digit())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut out = path[0].clone();
    for segment in &path[1..] {
        match is_word(segment) {
            true => out.push_str(&format!(".{segment}")),
            false => out.push_str(&format!("[\"{}\"]", segment.escape_debug())),
        }
    }
    out
}

/// The same with a shard's key, the second segment, in brackets.
fn spell_shard(path: &[String]) -> String {
    let rest = spell(&[vec![String::new()], path[2..].to_vec()].concat());
    format!("{}[\"{}\"]{rest}", path[0], path[1].escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::digest::Digest;
    use crate::core::gate::{Outcome, evaluate, parse};
    use crate::core::replaced::Replaced;

    fn told(clause: &str) -> (Vec<String>, Vec<String>) {
        let shard = |x: f64| {
            let mut facts = Facts::default();
            let of = facts.subject("x", Digest::of(b""));
            facts.set("x", x, of);
            facts.set("group.y", 2_i64, of);
            facts.set_volatile("seconds", x * 10.0);
            facts
        };
        let family = [("a b", 0.5), ("c", 0.9), ("d", 0.3), ("e", 0.4)].map(|(key, x)| (key.to_string(), shard(x)));
        let all = BTreeMap::from([
            ("ev".parse().unwrap(), FactSet::One(shard(0.7))),
            ("fam".parse().unwrap(), FactSet::Family(family.to_vec())),
        ]);
        let params = BTreeMap::from([("most".to_string(), Value::Float(0.95))]);
        match evaluate(&parse(clause).unwrap(), &all, &params, &BTreeMap::new(), &Replaced::Unknown) {
            Outcome::Passed { values, volatile } => {
                (values.iter().map(|(n, v)| format!("{n} = {v}")).collect(), volatile)
            }
            other => panic!("{clause}: {other:?}"),
        }
    }

    #[test]
    fn what_was_read_of_a_family_is_told_by_shard_however_it_was_reached() {
        let ends = vec!["fam[\"d\"].x = 0.3".to_string(), "fam[\"c\"].x = 0.9".to_string()];
        for clause in [
            "fam.x < 0.95",
            "fam.all(s, s.x < 0.95)",
            "fam.exists(t, t.x > 0.8)",
            "fam.filter(s, s.x > 0.4).all(t, t.x > 0.4)",
            "fam.all(s, s['x'] < 0.95)",
        ] {
            assert_eq!(told(clause).0, ends, "{clause}");
        }
        assert_eq!(told("fam.x < params.most").0, [&ends[..], &["params.most = 0.95".to_string()]].concat());
        assert_eq!(told("fam.group.y == 2").0, ["fam[\"a b\"].group.y = 2"]);
        assert_eq!(told("fam['a b'].x == 0.5 && fam.mean.x > 0.5").0, ["fam[\"a b\"].x = 0.5", "fam.mean.x = 0.525"]);
        assert_eq!(told("ev['x'] > 0.5").0, ["ev.x = 0.7"]);
    }

    #[test]
    fn values_that_change_from_run_to_run_are_marked() {
        assert_eq!(told("ev.x > 0.5 && ev.seconds < 8.0").1, ["ev.seconds"]);
        assert_eq!(told("fam.seconds < 10.0").1, ["fam[\"d\"].seconds", "fam[\"c\"].seconds"]);
        assert_eq!(told("fam.all(s, s.seconds < 10.0)").1.len(), 2);
        assert_eq!(told("fam['c'].seconds < 10.0").1.len(), 1);
    }
}
