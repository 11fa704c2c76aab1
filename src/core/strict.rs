//! What gates change in CEL before a clause is evaluated, so that it fails closed: `||` and `&&` swallow no error,
//! comparisons take two values of one type and finite numbers only, and `/` is the division of numbers, not of integers.
//!
//! Pure. Knows CEL's expressions and values; nothing of facts.

use crate::core::gate::{each_child, spelled, tests};
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, ExecutionError, Value};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// The operators that are evaluated here, each as a function of its name with `@` before it, which no clause can spell.
const OWN: [&str; 8] = [
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::DIVIDE,
];

/// The functions that a rewritten expression calls.
pub(super) fn context() -> Context<'static, 'static> {
    let mut context = Context::default();
    for name in OWN {
        let own = format!("@{name}");
        let call =
            move |a: Value, b: Value| operate(name, &a, &b).map_err(|why| ExecutionError::function_error("@", why));
        // one that could not be added is one that is not found: no pass
        let _ = context.add_function(&own, call);
    }
    context
}

/// What an error says, without the name of a function that nobody wrote.
pub(super) fn said(error: ExecutionError) -> String {
    match error {
        ExecutionError::FunctionError { function, message } if function == "@" => message,
        other => other.to_string().to_lowercase(),
    }
}

fn operate(operator: &str, a: &Value, b: &Value) -> Result<Value, String> {
    if operator == operators::DIVIDE {
        let (x, y) = number(a).zip(number(b)).ok_or_else(|| format!("{} is divided by {}", kind(a), kind(b)))?;
        return match x / y {
            ratio if ratio.is_finite() => Ok(Value::Float(ratio)),
            _ => Err(format!("{x} / {y} is no number")),
        };
    }
    if operator == operators::IN {
        return match b {
            Value::List(list) => {
                list.iter().try_for_each(|item| comparable(a, item))?;
                Ok(Value::Bool(list.contains(a)))
            }
            Value::Map(map) => match a {
                Value::String(key) => Ok(Value::Bool(map.map.contains_key(&cel::objects::Key::String(key.clone())))),
                _ => Err(format!("{} is no key of a map", kind(a))),
            },
            _ => Err(format!("`in` takes a list or a map, and here it has {}", kind(b))),
        };
    }
    comparable(a, b)?;
    let order = || a.partial_cmp(b).ok_or_else(|| format!("{} and {} have no order", kind(a), kind(b)));
    Ok(Value::Bool(match operator {
        operators::EQUALS => a == b,
        operators::NOT_EQUALS => a != b,
        operators::LESS => order()? == Ordering::Less,
        operators::LESS_EQUALS => order()? != Ordering::Greater,
        operators::GREATER => order()? == Ordering::Greater,
        _ => order()? != Ordering::Less,
    }))
}

/// Two values of one type, numbers finite.
fn comparable(a: &Value, b: &Value) -> Result<(), String> {
    if kind(a) != kind(b) {
        return Err(format!("{} is compared with {}", kind(a), kind(b)));
    }
    if [a, b].into_iter().filter_map(number).any(|x| !x.is_finite()) {
        return Err("a number that is not finite is compared".into());
    }
    match (a, b) {
        (Value::List(a), Value::List(b)) => a.iter().zip(b.iter()).try_for_each(|(a, b)| comparable(a, b)),
        _ => Ok(()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::UInt(u) => Some(*u as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::Bool(_) => "a truth value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Null => "null",
        _ => "another type",
    }
}

/// The expression as gates evaluate it, in [`context`].
pub(super) fn strict(expr: IdedExpr) -> IdedExpr {
    connected(own(expr))
}

/// Calls the functions of this module in place of the operators.
fn own(mut expr: IdedExpr) -> IdedExpr {
    each_child(&mut expr, &mut |child| *child = own(std::mem::take(child)));
    match &mut expr.expr {
        Expr::Call(call) if call.args.len() == 2 && OWN.contains(&call.func_name.as_str()) => {
            call.func_name.insert(0, '@');
        }
        // `exists` and `all` look at every item, also when the answer is known: an item that errs is not passed over
        Expr::Comprehension(c) => c.loop_cond.expr = Expr::Literal(LiteralValue::Boolean(true.into())),
        _ => {}
    }
    expr
}

/// `||` and `&&` that do not swallow errors. CEL lets `true || error` pass, and so would let a gate pass over a fact that is
/// missing; here every part must be known. `a || b` becomes `(a ? 1 : 0) + (b ? 1 : 0) > 0`.
///
/// Only a part over a name that another part asks for with `has(..)` is left out where the parts that ask settle it:
/// `!has(x) || x > 1` becomes `!has(x) ? true : x > 1`.
fn connected(mut expr: IdedExpr) -> IdedExpr {
    let (name, id) = match &expr.expr {
        Expr::Call(call) if is_connective(call) => (call.func_name.clone(), expr.id),
        _ => {
            each_child(&mut expr, &mut |child| *child = connected(std::mem::take(child)));
            return expr;
        }
    };
    let mut parts = Vec::new();
    flatten(expr, &name, &mut parts);
    let mut asked = BTreeSet::new();
    parts.iter().for_each(|part| tests(part, &mut asked));
    let (mut asking, mut guarded, mut plain) = (vec![], vec![], vec![]);
    for part in parts {
        let (mut own, mut read) = (BTreeSet::new(), BTreeSet::new());
        tests(&part, &mut own);
        reads(&part, &mut read);
        let part = connected(part);
        match read.iter().any(|name| asked.contains(name) && !own.contains(name)) {
            true => guarded.push(part),
            false if !own.is_empty() => asking.push(part),
            false => plain.push(part),
        }
    }
    let or = name == operators::LOGICAL_OR;
    if guarded.is_empty() || asking.is_empty() {
        plain.extend(asking);
        plain.extend(guarded);
        return all_or_any(id, or, plain);
    }
    // settled by those that ask: the plain parts must still be known
    let constant = |b: bool| IdedExpr { id, expr: Expr::Literal(LiteralValue::Boolean(b.into())) };
    let mut settled = plain.clone();
    settled.push(constant(or));
    plain.extend(guarded);
    let asks = all_or_any(id, or, asking);
    let (settled, open) = (all_or_any(id, or, settled), all_or_any(id, or, plain));
    call(id, operators::CONDITIONAL, if or { vec![asks, settled, open] } else { vec![asks, open, settled] })
}

fn is_connective(call: &CallExpr) -> bool {
    call.args.len() == 2 && [operators::LOGICAL_OR, operators::LOGICAL_AND].contains(&call.func_name.as_str())
}

/// The parts of a chain of one connective, however it is bracketed.
pub(super) fn flatten(expr: IdedExpr, name: &str, out: &mut Vec<IdedExpr>) {
    match expr.expr {
        Expr::Call(call) if is_connective(&call) && call.func_name == name => {
            call.args.into_iter().for_each(|side| flatten(side, name, out));
        }
        other => out.push(IdedExpr { id: expr.id, expr: other }),
    }
}

/// Whether any (or all) of the parts hold, every one evaluated.
fn all_or_any(id: u64, any: bool, parts: Vec<IdedExpr>) -> IdedExpr {
    let number = |n: usize| IdedExpr { id, expr: Expr::Literal(LiteralValue::Int((n as i64).into())) };
    let bound = if any { 0 } else { parts.len().saturating_sub(1) };
    let count = |part| call(id, operators::CONDITIONAL, vec![part, number(1), number(0)]);
    let sum = parts.into_iter().map(count).fold(number(0), |sum, part| call(id, operators::ADD, vec![sum, part]));
    call(id, operators::GREATER, vec![sum, number(bound)])
}

fn call(id: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: name.into(), target: None, args }) }
}

/// The dotted names whose values an expression reads; one that stands in `has(..)` alone is not read.
fn reads(expr: &IdedExpr, out: &mut BTreeSet<String>) {
    if matches!(&expr.expr, Expr::Select(select) if select.test) {
        return;
    }
    match spelled(&expr.expr) {
        Some(path) => out.extend((1..=path.len()).map(|n| path[..n].join("."))),
        None => each_child(&mut expr.clone(), &mut |child| reads(child, out)),
    }
}

#[cfg(test)]
mod tests {
    use crate::core::digest::Digest;
    use crate::core::facts::{FactSet, Facts};
    use crate::core::gate::{Outcome, evaluate, parse};
    use crate::core::replaced::Replaced;
    use crate::core::value::Value;
    use std::collections::BTreeMap;

    fn ask(clause: &str) -> Outcome {
        let mut facts = Facts::default();
        let of = facts.subject("x", Digest::of(b""));
        let pairs: [(&str, Value); 7] = [
            ("score", 0.5.into()),
            ("failures", "3".into()),
            ("errors", Value::Int(50)),
            ("total", Value::Int(100)),
            ("n", Value::Int(3)),
            ("lost", Value::Null),
            ("list", vec![3_i64, 4].into()),
        ];
        pairs.into_iter().for_each(|(name, value)| facts.set(name, value, of));
        let shards = FactSet::Family(vec![("a".into(), facts.clone()), ("b".into(), facts.clone())]);
        let all = BTreeMap::from([("ev".parse().unwrap(), FactSet::One(facts)), ("fam".parse().unwrap(), shards)]);
        evaluate(&parse(clause).unwrap(), &all, &BTreeMap::new(), &BTreeMap::new(), &Replaced::First)
    }

    fn unmeasured(clauses: &[&str]) {
        for clause in clauses {
            assert!(matches!(ask(clause), Outcome::Unmeasured { .. }), "{clause}: {:?}", ask(clause));
        }
    }

    #[test]
    fn a_comparison_of_two_types_is_no_pass_wherever_it_stands() {
        unmeasured(&[
            "ev.failures != 3",
            "!(ev.failures == 3)",
            "fam.failures != 3",
            "fam.all(s, s.failures != 3)",
            "fam.exists(s, s.failures != 3)",
            "ev.list != ['3', '4']",
            "ev.list.all(x, x != '3')",
            "!(ev.failures in [3])",
            "ev.failures != null",
            "ev.score > 0.1 || ev.failures != 3",
        ]);
        assert!(ask("ev.n == 3.0 && ev.n < 3.5 && ev.failures != '4' && ev.list == [3, 4] && ev.n in [3, 4]").passed());
        let Outcome::Unmeasured { why, .. } = ask("ev.failures != 3") else { panic!("a pass") };
        assert_eq!(why, "a text is compared with a number");
    }

    #[test]
    fn what_is_not_finite_is_no_pass() {
        unmeasured(&[
            "ev.score / 0.0 > 1.0",
            "0.0 / 0.0 != ev.score",
            "1.0 / 0.0 > ev.score",
            "ev.score * 1e308 * 1e308 > 1.0",
            "ev.score < double('inf')",
            "ev.n / 0 > 1",
        ]);
    }

    #[test]
    fn a_quotient_of_whole_numbers_is_no_whole_number() {
        assert!(matches!(ask("ev.errors / ev.total <= 0.1"), Outcome::Refused { .. }));
        assert!(ask("ev.errors / ev.total == 0.5").passed());
    }

    #[test]
    fn has_excuses_only_the_name_that_it_asks_for() {
        unmeasured(&[
            "ev.score > 0.4 || has(ev.n) && ev.failures > 5",
            "has(ev.n) && ev.score > 0.4 || ev.failures > 5",
            "!has(ev.lost) || ev.lost > 1 || ev.failures > 5",
            "!has(ev.n) || ev.score > 0.4 || ev.n > '5'",
            "ev.lost > 5 || ev.score > 0.4",
        ]);
        for clause in [
            "!has(ev.lost) || ev.lost > 1",
            "ev.lost > 1 || !has(ev.lost)",
            "!(has(ev.lost) && ev.lost > 1)",
            "!has(ev.lost) || !has(ev.n) || ev.lost > ev.n",
            "has(ev.lost) ? ev.lost > 1 : true",
            "fam.all(s, !has(s.lost) || s.lost > 1)",
            "has(ev.n) && ev.n == 3",
        ] {
            assert!(ask(clause).passed(), "{clause}: {:?}", ask(clause));
        }
    }
}
