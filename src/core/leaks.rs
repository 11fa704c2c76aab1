//! What a published file must not hold: the finding itself, which findings the manifest lets pass, and how the others are
//! said. A finding names a rule and a place, never what was found.
//!
//! Knows words and places. Reads no file and knows no rule.

use crate::core::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Files of secrets, by their name alone.
pub const SECRET_FILE: &str = "secret-file";
/// Files that tools leave behind, by their name alone.
pub const STRAY_FILE: &str = "stray-file";
/// A Git LFS pointer where the content should be.
pub const LFS_POINTER: &str = "lfs-pointer";
/// A pickle that runs code when it is loaded, or one of which that cannot be told.
pub const PICKLE: &str = "pickle";
/// Weights that hold values which are NaN or infinite.
pub const NONFINITE: &str = "nonfinite-weights";
/// Weights of a network that was never trained.
pub const UNTRAINED: &str = "untrained-weights";
/// A token that hfbuild itself uses. No manifest lets it pass.
pub const OWN_TOKEN: &str = "own-token";

/// Where in a file something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spot {
    /// The file as a whole.
    File,
    /// A line of a text, from 1.
    Line(u64),
    /// A byte of a binary file, from 0.
    Byte(u64),
}

/// Something that must not be published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// Where.
    pub spot: Spot,
    /// What it is, where the rule's name does not tell; never a part of the content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
}

/// Rules that the manifest lets pass, by path in the repo.
pub type Allowed = BTreeMap<String, Vec<String>>;

/// The findings of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// By path in the repo.
    pub refused: Vec<(String, Finding)>,
    /// Those that the manifest lets pass: path and rule.
    pub allowed: BTreeSet<(String, String)>,
}

impl Findings {
    /// Adds what was found in a file.
    pub fn add(&mut self, path: &str, found: Vec<Finding>, allowed: &Allowed) {
        let rules = allowed.get(path).map(Vec::as_slice).unwrap_or_default();
        for finding in found {
            match rules.contains(&finding.rule) {
                true => drop(self.allowed.insert((path.to_string(), finding.rule))),
                false => self.refused.push((path.to_string(), finding)),
            }
        }
    }

    /// The refusal, if anything is refused: an error a finding, 20 of them at most.
    pub fn refusal(&self) -> Option<Error> {
        const TOLD: usize = 20;
        let mut errors = self.refused.iter().take(TOLD).map(|(path, finding)| refusal(path, finding));
        let mut first = errors.next()?;
        if self.refused.len() > TOLD {
            first = first.cause(format!("{} more findings are not shown", self.refused.len() - TOLD));
        }
        Some(first.also(errors.collect()))
    }
}

/// A finding in one line.
pub fn say(path: &str, finding: &Finding) -> String {
    let spot = match finding.spot {
        Spot::File => String::new(),
        Spot::Line(line) => format!(", on line {line}"),
        Spot::Byte(byte) => format!(", at byte {byte}"),
    };
    match finding.rule.as_str() {
        SECRET_FILE => format!("`{path}` is a file of secrets by its name"),
        STRAY_FILE => format!("`{path}` is what a tool leaves behind, and no manifest means to publish it"),
        LFS_POINTER => format!("`{path}` is a Git LFS pointer, and not the content"),
        PICKLE => format!("`{path}` would be published as a pickle that may run code: {}", finding.what),
        NONFINITE | UNTRAINED => format!("`{path}` {}", finding.what),
        OWN_TOKEN => format!("`{path}` holds a token that hfbuild itself uses{spot}"),
        rule => format!("`{path}` holds what looks like a secret{spot} (rule `{rule}`)"),
    }
}

fn refusal(path: &str, finding: &Finding) -> Error {
    let mend = match finding.rule.as_str() {
        SECRET_FILE | STRAY_FILE => "keep it out of the published folder",
        LFS_POINTER => "fetch the content: `git lfs pull`",
        PICKLE => "publish the weights as safetensors",
        NONFINITE | UNTRAINED => "look whether it is the file that you mean",
        _ => "take it out, and revoke it where it is real: it may have been published before",
    };
    if finding.rule == OWN_TOKEN {
        return Error::stage(say(path, finding)).hint(format!("{mend}; this one cannot be let pass"));
    }
    Error::stage(say(path, finding)).hint(format!(
        "{mend}; to publish it all the same, put `\"{path}\" = [\"{}\"]` under [hub.allow_findings]",
        finding.rule
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(rule: &str, spot: Spot) -> Finding {
        Finding { rule: rule.into(), spot, what: String::new() }
    }

    #[test]
    fn a_finding_is_allowed_for_its_file_and_its_rule_only() {
        let allowed = Allowed::from([("a.md".to_string(), vec!["private-key".to_string()])]);
        let mut findings = Findings::default();
        findings.add(
            "a.md",
            vec![finding("private-key", Spot::Line(3)), finding("hub-token", Spot::Line(4))],
            &allowed,
        );
        findings.add("b.md", vec![finding("private-key", Spot::Line(1))], &allowed);
        assert_eq!(findings.allowed.len(), 1);
        let error = findings.refusal().unwrap();
        assert_eq!(error.message(), "`a.md` holds what looks like a secret, on line 4 (rule `hub-token`)");
        assert_eq!(error.others().len(), 1);
        assert!(error.hint_text().unwrap().contains("\"a.md\" = [\"hub-token\"]"));
    }

    #[test]
    fn nothing_refused_is_no_error() {
        assert!(Findings::default().refusal().is_none());
    }
}
