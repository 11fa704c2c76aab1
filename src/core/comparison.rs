//! The comparisons that a gate's clause makes, for those who ask whether they can ever refuse anything.
//!
//! Pure. Knows CEL's expressions; evaluates none.

use crate::core::gate::{each_child, spelled};
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

/// A comparison in a clause.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The segments of the name on its left.
    pub name: Vec<String>,
    /// The operator, turned round where the name was on the right.
    pub operator: Operator,
    /// What the name is compared with.
    pub bound: Bound,
}

/// An order or an equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    Unequal,
}

/// The other side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// A number as written.
    Number(f64),
    /// Another name, e.g. `["params", "bound"]`.
    Name(Vec<String>),
}

/// Every comparison of an expression, wherever it stands. A shard's fact stands under the family's name, whether it is
/// reached by its key (`samples["Siamese"].x`) or by the variable of a macro (`samples.all(s, s.x > c)`): `samples.x`.
pub(super) fn all(expr: &IdedExpr) -> Vec<Comparison> {
    let mut out = Vec::new();
    compared(expr, &mut vec![], &mut out);
    out
}

/// `bound`: the variables of the macros around, with the family that each runs over.
fn compared(expr: &IdedExpr, variables: &mut Vec<(String, String)>, out: &mut Vec<Comparison>) {
    if let Expr::Call(call) = &expr.expr
        && let (Some(operator), [a, b]) = (operator(&call.func_name), &call.args[..])
    {
        let (left, right) = (bound(a, variables), bound(b, variables));
        // two shards of a family have one name here, and are not one fact
        let one = spelled(&a.expr).is_some_and(|name| Some(name) == spelled(&b.expr));
        let (left, right) = match left == right && !one {
            true => (None, None),
            false => (left, right),
        };
        if let (Some(Bound::Name(name)), Some(bound)) = (left.clone(), right.clone()) {
            out.push(Comparison { name, operator, bound });
        }
        if let (Some(bound), Some(Bound::Name(name))) = (left, right) {
            out.push(Comparison { name, operator: operator.turned(), bound });
        }
    }
    let depth = variables.len();
    if let Expr::Comprehension(c) = &expr.expr
        && let Expr::Ident(family) = &c.iter_range.expr
    {
        variables.push((c.iter_var.clone(), family.clone()));
    }
    each_child(&mut expr.clone(), &mut |child| compared(child, variables, out));
    variables.truncate(depth);
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::AtMost,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::AtLeast,
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::Unequal,
        _ => return None,
    })
}

impl Operator {
    /// The operator that says the same of the sides exchanged.
    fn turned(self) -> Operator {
        match self {
            Operator::Less => Operator::Greater,
            Operator::AtMost => Operator::AtLeast,
            Operator::Greater => Operator::Less,
            Operator::AtLeast => Operator::AtMost,
            same => same,
        }
    }
}

fn bound(expr: &IdedExpr, variables: &[(String, String)]) -> Option<Bound> {
    if let Some(path) = named(&expr.expr) {
        let mut path: Vec<String> = path.into_iter().map(String::from).collect();
        if let Some((_, family)) = variables.iter().rev().find(|(variable, _)| *variable == path[0]) {
            path[0].clone_from(family);
        }
        return Some(Bound::Name(path));
    }
    match &expr.expr {
        Expr::Literal(LiteralValue::Int(n)) => Some(Bound::Number(*n.inner() as f64)),
        Expr::Literal(LiteralValue::UInt(n)) => Some(Bound::Number(*n.inner() as f64)),
        Expr::Literal(LiteralValue::Double(x)) => Some(Bound::Number(*x.inner())),
        Expr::Call(call) if call.func_name == operators::NEGATE => match bound(call.args.first()?, variables)? {
            Bound::Number(x) => Some(Bound::Number(-x)),
            Bound::Name(_) => None,
        },
        _ => None,
    }
}

/// The segments of a dotted name, with a shard's key left out.
fn named(expr: &Expr) -> Option<Vec<&str>> {
    if let Some(path) = spelled(expr) {
        return Some(path);
    }
    let Expr::Select(select) = expr else { return None };
    let mut path = match &select.operand.expr {
        Expr::Call(call) if call.func_name == operators::INDEX => match &call.args[..] {
            [family, key] if matches!(key.expr, Expr::Literal(_)) => spelled(&family.expr)?,
            _ => return None,
        },
        deeper => named(deeper)?,
    };
    path.push(select.field.as_str());
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<Comparison> {
        crate::core::gate::parse(text).unwrap().comparisons()
    }

    #[test]
    fn a_shard_stands_under_its_familys_name_however_it_is_reached() {
        let expected = of("samples.x <= 2");
        assert_eq!(expected.len(), 1);
        for text in ["samples['Big Cat'].x <= 2", "samples.all(s, s.x <= 2)", "!(2 >= samples[\"a\"].x)"] {
            let mut found = of(text);
            found.retain(|c| c.name == ["samples", "x"]);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_fact_and_itself_are_compared_and_two_shards_of_a_family_are_not_one_fact() {
        assert_eq!(of("a.x == a.x").len(), 2);
        assert_eq!(of("samples['a'].x == samples['b'].x"), []);
        assert!(of("samples.all(s, samples.all(t, s.x == t.x))").iter().all(|c| c.name != ["samples", "x"]));
    }

    #[test]
    fn a_comparison_of_two_names_is_told_both_ways_round() {
        let found = of("a.x < b.y");
        let told: Vec<_> = found.iter().map(|c| (c.name.join("."), c.operator)).collect();
        assert_eq!(told, [("a.x".to_string(), Operator::Less), ("b.y".to_string(), Operator::Greater)]);
    }
}
