//! What a template names, told from its syntax tree before it is rendered: so that only what is read enters the key, and
//! a mistyped name is a mistake of the template, not a failure after hours of sampling.
//!
//! Knows handlebars; does not know which names there are.

use handlebars::template::{BlockParam, HelperTemplate, Parameter, TemplateElement};
use handlebars::{Path, PathSeg, Template};
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// Helpers that a template may call: ours, and handlebars' own.
pub const HELPERS: [&str; 30] = [
    "bytes",
    "thousands",
    "round",
    "sci",
    "percent",
    "slug",
    "yaml",
    "declared",
    "literal",
    "gallery",
    "sha256",
    "subject",
    "measured_on",
    "recorded",
    "each",
    "if",
    "unless",
    "with",
    "lookup",
    "raw",
    "eq",
    "ne",
    "gt",
    "gte",
    "lt",
    "lte",
    "and",
    "or",
    "not",
    "len",
];

/// See the module.
#[derive(Debug, Default)]
pub struct Reads {
    /// Every dotted name, as its segments.
    pub names: BTreeSet<Vec<String>>,
    /// First segments that stand where only the context's own names can stand: outside of `each` and `with`, whose plain
    /// names are the item's own also where the block has parameters, or after `@root`.
    pub free: BTreeSet<String>,
    /// Helpers that are called.
    pub helpers: BTreeSet<String>,
    /// Facts of which also the subject is read (`subject`, `measured_on`).
    pub subjects: BTreeSet<Vec<String>>,
    /// Paths of the published tree whose content is read (`sha256`, `measured_on`).
    pub paths: BTreeSet<String>,
    /// Declared figures that are read where there are such (`recorded`).
    pub declared: BTreeSet<String>,
    bound: Vec<String>,
    inside: usize,
}

impl Reads {
    /// Of a template.
    pub fn of(template: &Template) -> Reads {
        let mut reads = Reads::default();
        reads.template(template);
        reads
    }

    fn template(&mut self, template: &Template) {
        for element in &template.elements {
            match element {
                TemplateElement::HtmlExpression(h)
                | TemplateElement::Expression(h)
                | TemplateElement::HelperBlock(h) => {
                    self.helper(h);
                }
                TemplateElement::DecoratorExpression(d)
                | TemplateElement::DecoratorBlock(d)
                | TemplateElement::PartialExpression(d)
                | TemplateElement::PartialBlock(d) => {
                    // there are no partials to call: the name is told like that of an unknown helper
                    self.helpers.extend(name_of(&d.name));
                    d.params.iter().for_each(|p| self.parameter(p));
                    d.template.iter().for_each(|t| self.template(t));
                }
                _ => {} // text and comments
            }
        }
    }

    fn helper(&mut self, h: &HelperTemplate) {
        let name = name_of(&h.name);
        let is_call = h.block || !h.params.is_empty() || matches!(h.name, Parameter::Name(_));
        match &name {
            Some(name) if is_call => {
                self.helpers.insert(name.clone());
            }
            _ => self.parameter(&h.name),
        }
        if let (Some("declared"), Some(Parameter::Literal(Json::String(word)))) = (name.as_deref(), h.params.first()) {
            self.names.insert(vec!["declared".into(), word.clone()]);
        }
        self.proofs(name.as_deref(), &h.params);
        h.params.iter().chain(h.hash.values()).for_each(|p| self.parameter(p));
        let depth = self.bound.len();
        match &h.block_param {
            Some(BlockParam::Single(p)) => self.bound.extend(name_of(p)),
            Some(BlockParam::Pair((a, b))) => self.bound.extend(name_of(a).into_iter().chain(name_of(b))),
            _ => {}
        }
        let opens = matches!(name.as_deref(), Some("each" | "with"));
        self.inside += usize::from(opens);
        h.template.iter().for_each(|t| self.template(t));
        self.inside -= usize::from(opens);
        self.bound.truncate(depth);
        h.inverse.iter().for_each(|t| self.template(t));
    }

    /// What helpers that prove something read beside values.
    fn proofs(&mut self, helper: Option<&str>, params: &[Parameter]) {
        let path = match helper {
            Some("sha256") => params.first(),
            Some("measured_on") => params.get(1),
            _ => None,
        };
        if let Some(Parameter::Literal(Json::String(path))) = path {
            self.paths.insert(path.clone());
        }
        if let (Some("recorded"), Some(Parameter::Literal(Json::String(name)))) = (helper, params.get(1)) {
            self.declared.insert(name.clone());
        }
        if let (Some("subject" | "measured_on" | "recorded"), Some(Parameter::Path(Path::Relative((segments, _))))) =
            (helper, params.first())
        {
            self.subjects.insert(segments.iter().filter_map(named).collect());
        }
    }

    fn parameter(&mut self, p: &Parameter) {
        match p {
            Parameter::Path(Path::Relative((segments, raw))) => {
                let named: Vec<String> = segments.iter().filter_map(named).collect();
                let Some(root) = named.first().cloned() else { return };
                if self.bound.contains(&root) {
                    return;
                }
                // inside of a block a plain name is the item's own; `../` may be either's, `@root` is the context's
                match (self.inside > 0, raw.starts_with("@root"), raw.starts_with("../")) {
                    (false, ..) | (_, true, _) => {
                        self.free.insert(root);
                        self.names.insert(named);
                    }
                    (true, false, true) => {
                        self.names.insert(named);
                    }
                    _ => {}
                }
            }
            Parameter::Subexpression(sub) => {
                if let TemplateElement::Expression(h) | TemplateElement::HtmlExpression(h) = sub.element.as_ref() {
                    self.helper(h);
                }
            }
            _ => {}
        }
    }
}

/// A segment that is a name of the context's.
fn named(segment: &PathSeg) -> Option<String> {
    match segment {
        PathSeg::Named(name) if name != "@root" && name != "this" => Some(name.clone()),
        _ => None,
    }
}

/// The plain name of a helper, a partial or a block's parameter.
fn name_of(p: &Parameter) -> Option<String> {
    match p {
        Parameter::Name(name) => Some(name.clone()),
        Parameter::Path(Path::Relative((_, name))) => Some(name.clone()),
        Parameter::Literal(Json::String(name)) => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str) -> Reads {
        Reads::of(&Template::compile(text).unwrap())
    }

    fn joined(names: &BTreeSet<Vec<String>>) -> Vec<String> {
        names.iter().map(|n| n.join(".")).collect()
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let text =
            "{{a.b}} {{round c.d 2}} {{#if e.f}}{{g}}{{else}}{{h}}{{/if}} {{bytes (lookup i.j 0)}} {{declared \"x\"}}";
        assert_eq!(joined(&reads(text).names), ["a.b", "c.d", "declared.x", "e.f", "g", "h", "i.j"]);
    }

    #[test]
    fn a_blocks_own_names_are_not_the_contexts() {
        for block in ["{{#each a.list}}", "{{#each a.list as |item|}}", "{{#with a.list as |item|}}"] {
            let close = if block.contains("with") { "{{/with}}" } else { "{{/each}}" };
            let found = reads(&format!("{block}{{{{x}}}} {{{{this.z}}}} {{{{@root.b.y}}}} {{{{../c.w}}}}{close}"));
            assert_eq!(found.free.iter().collect::<Vec<_>>(), ["a", "b"], "{block}");
            assert_eq!(joined(&found.names), ["a.list", "b.y", "c.w"], "{block}");
        }
        assert_eq!(joined(&reads("{{#each a.list as |item|}}{{item.x}} {{@index}}{{/each}}").names), ["a.list"]);
    }

    #[test]
    fn helpers_and_partials_are_told_from_values() {
        let found =
            reads("{{thousands a.b}} {{nope a.b}} {{> part}} {{#each a.c as |x|}}{{slug x}}{{/each}} {{plain}}");
        assert_eq!(found.helpers.into_iter().collect::<Vec<_>>(), ["each", "nope", "part", "slug", "thousands"]);
    }
}
