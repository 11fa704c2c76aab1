//! The version that a commit would replace, as gates see it under `published`: null at the first publish, else the facts
//! of that version.
//!
//! What depends on there being such a version (`published == null || ...`, `has(published.samples)`) is settled before a
//! clause is evaluated, so that a guard needs no fact that only the other case has. Does not know where it was read.

use crate::core::facts::{FactSet, is_family_word};
use crate::core::name::ArtifactName;
use crate::core::value::Value;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use std::collections::BTreeMap;

/// The name that gates know it by.
pub const PUBLISHED: &str = "published";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Replaced {
    /// Nobody looked, or its record cannot be read: a gate over it is no pass.
    #[default]
    Unknown,
    /// There is none: this is the first publish.
    First,
    /// Its facts by artifact.
    Version(BTreeMap<ArtifactName, FactSet>),
}

impl Replaced {
    /// The value of `published`. `shard` is a family and one of its keys, whose facts then stand beside the family's folds,
    /// as they do for the artifact itself.
    pub fn value(&self, shard: Option<(&str, &str)>) -> Value {
        let Replaced::Version(facts) = self else { return Value::Null };
        let tree = facts.iter().map(|(name, set)| {
            let key = shard.filter(|(family, _)| *family == name.as_str()).map(|(_, key)| key);
            (name.to_string(), set.view(key))
        });
        Value::Map(tree.collect())
    }

    /// Puts the shards of every family into the order that `keys` gives, so that a fold adds up in the same order now and
    /// then. Shards that are there no more come last.
    pub fn in_order(mut self, keys: &dyn Fn(&ArtifactName) -> Vec<String>) -> Replaced {
        let Replaced::Version(facts) = &mut self else { return self };
        for (artifact, set) in facts {
            let FactSet::Family(shards) = set else { continue };
            let order = keys(artifact);
            shards.sort_by_key(|(key, _)| order.iter().position(|k| k == key).unwrap_or(usize::MAX));
        }
        self
    }

    /// The expression with every question whether there is a version, or whether it has a fact, answered; and `||`, `&&`,
    /// `!` and `?:` over such answers reduced to what is left of them.
    pub fn settle(&self, expr: IdedExpr) -> IdedExpr {
        self.reduce(expr, &self.value(None)).0
    }

    /// The reduced expression, and its value where it is an answer.
    fn reduce(&self, mut expr: IdedExpr, tree: &Value) -> (IdedExpr, Option<bool>) {
        if let Some(answer) = question(&expr.expr, tree) {
            return (literal(expr.id, answer), Some(answer));
        }
        let Expr::Call(call) = &mut expr.expr else {
            super::gate::each_child(&mut expr, &mut |child| *child = self.reduce(std::mem::take(child), tree).0);
            return (expr, None);
        };
        call.target.iter_mut().for_each(|t| **t = self.reduce(std::mem::take(t), tree).0);
        let mut args: Vec<_> = std::mem::take(&mut call.args).into_iter().map(|a| self.reduce(a, tree)).collect();
        let known: Vec<Option<bool>> = args.iter().map(|(_, known)| *known).collect();
        let kept = match (call.func_name.as_str(), &known[..]) {
            (operators::LOGICAL_NOT, [Some(x)]) => return (literal(expr.id, !x), Some(!x)),
            (operators::LOGICAL_OR, [Some(true), _]) => Some(0),
            (operators::LOGICAL_OR, [_, Some(true)] | [Some(false), _]) => Some(1),
            (operators::LOGICAL_OR, [_, Some(false)]) => Some(0),
            (operators::LOGICAL_AND, [Some(false), _]) => Some(0),
            (operators::LOGICAL_AND, [_, Some(false)] | [Some(true), _]) => Some(1),
            (operators::LOGICAL_AND, [_, Some(true)]) => Some(0),
            (operators::CONDITIONAL, [Some(x), ..]) => Some(if *x { 1 } else { 2 }),
            _ => None,
        };
        match kept.filter(|at| *at < args.len()) {
            Some(at) => args.swap_remove(at),
            None => {
                call.args = args.into_iter().map(|(arg, _)| arg).collect();
                (expr, None)
            }
        }
    }
}

impl FactSet {
    /// The facts as a tree: of a family its views and its shards by key; with `key` that shard's own facts and the views.
    pub fn view(&self, key: Option<&str>) -> Value {
        let (Value::Map(mut tree), FactSet::Family(shards)) = (self.tree(), self) else { return self.tree() };
        if let Some(key) = key {
            tree.retain(|name, _| is_family_word(name));
            let own = shards.iter().find(|(k, _)| k == key).map(|(_, facts)| facts.tree());
            if let Some(Value::Map(own)) = own {
                own.into_iter().for_each(|(name, value)| {
                    tree.insert(name, value);
                });
            }
            return Value::Map(tree);
        }
        for (key, facts) in shards {
            tree.entry(key.clone()).or_insert_with(|| facts.tree());
        }
        Value::Map(tree)
    }
}

fn literal(id: u64, value: bool) -> IdedExpr {
    IdedExpr { id, expr: Expr::Literal(LiteralValue::Boolean(value.into())) }
}

/// The answer to `published == null`, `published != null`, `has(published.a.b)`.
fn question(expr: &Expr, tree: &Value) -> Option<bool> {
    match expr {
        Expr::Call(CallExpr { func_name, target: None, args }) => {
            let is_root = |e: &IdedExpr| matches!(&e.expr, Expr::Ident(name) if name == PUBLISHED);
            let is_null = |e: &IdedExpr| matches!(e.expr, Expr::Literal(LiteralValue::Null));
            let [a, b] = &args[..] else { return None };
            if !(is_root(a) && is_null(b) || is_null(a) && is_root(b)) {
                return None;
            }
            match func_name.as_str() {
                operators::EQUALS => Some(*tree == Value::Null),
                operators::NOT_EQUALS => Some(*tree != Value::Null),
                _ => None,
            }
        }
        Expr::Select(select) if select.test => {
            let path = super::gate::spelled(expr).filter(|path| path[0] == PUBLISHED)?;
            let found = path[1..].iter().try_fold(tree, |at, name| match at {
                Value::Map(map) => map.get(*name),
                _ => None,
            });
            Some(found.is_some_and(|value| *value != Value::Null))
        }
        _ => None,
    }
}
