//! The one place that turns reasons and outcomes into words.

use crate::core::action::Component;
use crate::core::gate::Outcome;
use crate::core::value::Value;
use crate::core::verdict::Reason;

/// A reason in words: `parameter `opset` changed from 17 to 18`.
pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::NeverRan => "it never ran".into(),
        Reason::Forced => "it is forced".into(),
        Reason::BlobLost { path, .. } => format!("its output `{path}` is lost from the cache"),
        Reason::Changed { component, was, now, subject } => {
            changed(component, was.as_ref(), now.as_ref(), subject.as_deref())
        }
    }
}

/// A component's name in words.
pub fn component(component: &Component, action: &crate::core::action::Action) -> String {
    let subject = match component {
        Component::Input(role) => action.inputs.get(role).map(|i| i.name.as_str()),
        _ => None,
    };
    thing(component, subject)
}

fn changed(component: &Component, was: Option<&Value>, now: Option<&Value>, subject: Option<&str>) -> String {
    let thing = thing(component, subject);
    match (was, now, component) {
        (None, _, _) => format!("{thing} is new"),
        (_, None, _) => format!("{thing} is gone"),
        // digests of inputs say nothing to a person in a line: that it changed is enough
        (Some(_), Some(_), Component::Input(_) | Component::File(_)) => format!("{thing} changed"),
        (Some(was), Some(now), _) => format!("{thing} changed{}", from_to(was, now)),
    }
}

/// ` from 17 to 18`. Of lists the first item that differs; of long texts what lies around their first difference.
fn from_to(was: &Value, now: &Value) -> String {
    if let (Value::List(was), Value::List(now)) = (was, now)
        && was.len() == now.len()
        && let Some(at) = was.iter().zip(now).position(|(a, b)| a != b)
    {
        return format!(" in item {}{}", at + 1, from_to(&was[at], &now[at]));
    }
    let (Value::Text(a), Value::Text(b)) = (was, now) else { return format!(" from {} to {}", brief(was), brief(now)) };
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let skipped = if same > 40 { same - 20 } else { 0 };
    let from = |text: &str| brief(&Value::Text(text.chars().skip(skipped).collect()));
    let dots = if skipped > 0 { "..." } else { "" };
    format!(" from {dots}{} to {dots}{}", from(a), from(b))
}

fn thing(component: &Component, subject: Option<&str>) -> String {
    match component {
        Component::Kind => "the kind".to_string(),
        Component::KindVersion => "hfbuild's version of this kind".to_string(),
        Component::Param(name) => format!("parameter `{name}`"),
        Component::Input(role) => match subject {
            Some(subject) => format!("input `{subject}`"),
            None => format!("input `{role}`"),
        },
        Component::File(path) => format!("file `{path}`"),
        Component::InputPath(role) => format!("the path of input `{role}`"),
        Component::Fact(name) => format!("fact `{name}`"),
        Component::Env(name) => format!("environment variable `{name}`"),
        Component::Tool(name) => format!("tool `{name}`"),
        Component::Outputs => "the declared outputs".to_string(),
    }
}

/// The first reason, and how many more there are.
pub fn reasons(all: &[Reason]) -> String {
    match all {
        [] => "it is stale".into(),
        [one] => reason(one),
        [first, rest @ ..] => format!("{} (and {} more)", reason(first), rest.len()),
    }
}

/// A value in a sentence: long ones are cut.
pub fn brief(value: &Value) -> String {
    let text = match value {
        Value::Null => "nothing".to_string(),
        Value::Text(t) => format!("\"{}\"", t.escape_debug()),
        // six significant digits say enough; what is compared is the exact number
        Value::Float(x) if *x != 0.0 && (1e-3..1e6).contains(&x.abs()) => {
            let decimals = (5 - x.abs().log10().floor() as i32).clamp(0, 9) as usize;
            let text = format!("{x:.decimals$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// A gate's outcome in words, without its clause.
pub fn outcome(outcome: &Outcome) -> String {
    let shard = |s: &Option<String>| s.as_ref().map_or(String::new(), |s| format!("for `{s}`: "));
    let list = |values: &[(String, Value)]| {
        let shown: Vec<_> = values
            .iter()
            .filter(|(n, _)| !n.starts_with("params."))
            .map(|(n, v)| format!("`{n}` is {}", brief(v)))
            .collect();
        shown.join(", ")
    };
    match outcome {
        Outcome::Passed { values, .. } => list(values),
        Outcome::Refused { shard: s, values } => format!("{}{}", shard(s), list(values)),
        Outcome::Unmeasured { shard: s, why } => format!("{}cannot be evaluated: {why}", shard(s)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_as_a_sentence() {
        let change = |component, was: Option<Value>, now: Option<Value>| {
            reason(&Reason::Changed { component, was, now, subject: Some("weights".into()) })
        };
        let (a, b) = (Some(Value::Int(17)), Some(Value::Int(18)));
        assert_eq!(
            change(Component::Param("opset".into()), a.clone(), b.clone()),
            "parameter `opset` changed from 17 to 18"
        );
        assert_eq!(change(Component::Input("w".into()), a.clone(), b.clone()), "input `weights` changed");
        assert_eq!(change(Component::Fact("c.step".into()), None, b.clone()), "fact `c.step` is new");
        assert_eq!(
            change(Component::Env("A".into()), a.clone(), Some(Value::Null)),
            "environment variable `A` changed from 17 to nothing"
        );
        assert_eq!(change(Component::Tool("python".into()), a.clone(), None), "tool `python` is gone");
        assert_eq!(change(Component::KindVersion, a, b), "hfbuild's version of this kind changed from 17 to 18");
        let run = |n: i64| Some(Value::List(vec!["sh".into(), format!("{}{n} > out", "x".repeat(70)).into()]));
        let said = change(Component::Param("run".into()), run(1), run(2));
        let around = "x".repeat(20);
        assert_eq!(
            said,
            format!("parameter `run` changed in item 2 from ...\"{around}1 > out\" to ...\"{around}2 > out\"")
        );
        assert_eq!(reasons(&[Reason::NeverRan, Reason::Forced]), "it never ran (and 1 more)");
    }
}
