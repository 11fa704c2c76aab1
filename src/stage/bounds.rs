//! Bounds that bound nothing: a comparison with a fact that always holds, or never, whatever is measured.
//!
//! Knows the range of the facts that have one by their definition. Does not evaluate clauses.

use super::pages;
use crate::core::comparison::{Bound, Comparison, Operator};
use crate::core::error::Result;
use crate::core::gate::Clause;
use crate::core::manifest::Manifest;

/// Kind, fact, the least and the greatest value that it can have.
const RANGES: &[(&str, &str, f64, f64)] = &[
    ("samples", "saturated", 0.0, 1.0),
    ("samples", "neighbour_correlation", -1.0, 1.0),
    ("samples", "noise_correlation", -1.0, 1.0),
    ("samples", "noise_difference", 0.0, 255.0),
    ("samples", "pair_difference", 0.0, 255.0),
    ("samples", "standard_deviation", 0.0, 127.5),
    ("samples", "count", 1.0, f64::INFINITY),
    ("statistics", "between_class_difference", 0.0, 255.0),
    ("statistics", "within_class_difference", 0.0, 255.0),
    ("statistics", "closest_class_difference", 0.0, 255.0),
    ("statistics", "between_within_ratio", 0.0, f64::INFINITY),
    ("statistics", "classes", 2.0, f64::INFINITY),
    ("classify", "agreement", 0.0, 1.0),
    ("classify", "lowest_agreement", 0.0, 1.0),
    ("classify", "count", 1.0, f64::INFINITY),
    ("onnx", "max_abs_diff", 0.0, f64::INFINITY),
    ("onnx", "weights_differing", 0.0, f64::INFINITY),
    ("onnx", "bytes", 1.0, f64::INFINITY),
    ("onnx_file", "weights_differing", 0.0, f64::INFINITY),
    ("checkpoint", "step", 0.0, f64::INFINITY),
    ("checkpoint", "epoch", 0.0, f64::INFINITY),
    ("checkpoint", "nonfinite", 0.0, f64::INFINITY),
    ("checkpoint", "parameters", 1.0, f64::INFINITY),
    ("checkpoint", "tensors", 1.0, f64::INFINITY),
    ("safetensors", "parameters", 1.0, f64::INFINITY),
    ("safetensors", "tensors", 1.0, f64::INFINITY),
    ("latency", "forward_seconds", 0.0, f64::INFINITY),
    ("latency", "picture_seconds", 0.0, f64::INFINITY),
];

/// Refuses a clause with a comparison that is the same for every value that the fact can have, or of a fact with itself.
pub fn check(manifest: &Manifest, clause: &Clause, span: &std::ops::Range<usize>) -> Result<()> {
    for comparison in clause.comparisons() {
        if matches!(&comparison.bound, Bound::Name(other) if *other == comparison.name) {
            let message = format!("`{}` is compared with itself, which refuses nothing", comparison.name.join("."));
            return Err(manifest.source.error(span.clone(), message).hint("compare it with a bound, or another fact"));
        }
        let Some((low, high)) = range(manifest, &comparison.name) else { continue };
        let Some(bound) = number(manifest, &comparison.bound) else { continue };
        let Some(always) = fixed(&comparison, low, high, bound) else { continue };
        let (fact, how) = (comparison.name.join("."), if always { "always" } else { "never" });
        let range = match (low, high) {
            (low, f64::INFINITY) => format!("is {low} or more"),
            (low, high) => format!("lies from {low} to {high}"),
        };
        let message = format!("the comparison with {bound} {how} holds, for `{fact}` {range}");
        return Err(manifest
            .source
            .error(span.clone(), message)
            .hint("a bound within that range can refuse something"));
    }
    Ok(())
}

fn range(manifest: &Manifest, name: &[String]) -> Option<(f64, f64)> {
    let (root, rest) = name.split_first()?;
    let kind = manifest.artifact(root)?.kind;
    let fact = pages::fact_name(manifest, root, rest)?;
    RANGES.iter().find(|(k, f, ..)| *k == kind && *f == fact).map(|(.., low, high)| (*low, *high))
}

fn number(manifest: &Manifest, bound: &Bound) -> Option<f64> {
    match bound {
        Bound::Number(x) => Some(*x),
        Bound::Name(path) => match &path[..] {
            [root, name] if root == "params" => manifest.params.get(name)?.as_f64(),
            _ => None,
        },
    }
}

/// Whether the comparison holds for every value of the range (`true`), or for none; `None`: that depends on the value.
fn fixed(comparison: &Comparison, low: f64, high: f64, bound: f64) -> Option<bool> {
    let (always, never) = match comparison.operator {
        Operator::Less => (high < bound, low >= bound),
        Operator::AtMost => (high <= bound, low > bound),
        Operator::Greater => (low > bound, high <= bound),
        Operator::AtLeast => (low >= bound, high < bound),
        Operator::Equal => (false, bound < low || bound > high),
        Operator::Unequal => (bound < low || bound > high, false),
    };
    match (always, never) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_outside_of_the_range_is_fixed_and_one_within_is_not() {
        let ask = |text: &str| fixed(&crate::core::gate::parse(text).unwrap().comparisons()[0], 0.0, 1.0, 1.5);
        assert_eq!(ask("a.x <= 1.5"), Some(true));
        assert_eq!(ask("1.5 <= a.x"), Some(false));
        assert_eq!(ask("a.x == 1.5"), Some(false));
        let within = crate::core::gate::parse("a.x >= -0.5").unwrap().comparisons().remove(0);
        assert_eq!(within.bound, Bound::Number(-0.5));
        assert_eq!(fixed(&within, -1.0, 1.0, -0.5), None);
    }
}
