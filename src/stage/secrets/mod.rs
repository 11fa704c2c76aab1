//! Secrets in content that is about to be published, by a maintained set of rules.
//!
//! `rules.toml` is Betterleaks' set (MIT, `LICENSE` beside it; scripts/secret_rules.py renews it), `own.toml` what we look
//! for beside it. A rule is asked only where one of its keywords stands; its finding counts where the secret's entropy is
//! high enough, no allowlist knows it, and what else the rule needs stands in the same stretch of text.
//!
//! Knows rules and bytes. Does not know what a file is ([`super::leaks`] does), and never hands out what it found.

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::bytes::{Captures, Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::{LazyLock, OnceLock};

const RULES: &str = include_str!("rules.toml");
const OWN: &str = include_str!("own.toml");
/// Raised when the same rules find otherwise.
const FORMAT: &str = "hfbuild secrets 2";
/// A stretch of base64 of so many bytes is coded content, where any short pattern comes up by chance.
const CODED: usize = 256;
/// Bytes that a compiled rule may take; the largest takes a tenth of it.
const REGEX_LIMIT: usize = 64 << 20;

/// A file of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    version: String,
    /// Secrets that are none, for every rule.
    #[serde(default)]
    allow: Vec<String>,
    rule: Vec<RuleText>,
}

/// A rule as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RuleText {
    id: String,
    regex: String,
    /// In any case; one of them has to stand in the text.
    keywords: Vec<String>,
    /// Bits a byte that the secret's entropy has to be above.
    above: Option<f64>,
    /// Bits a byte that it must have.
    at_least: Option<f64>,
    /// Secrets that are none.
    allow: Vec<String>,
    /// Matches that are none.
    allow_match: Vec<String>,
    /// What a secret has to match, all of them.
    needs: Vec<String>,
    /// The group that is the secret, else the first that is not empty, else the whole match.
    group: Option<usize>,
    /// Only files of these names.
    path: Option<String>,
    /// Rules that have to find something too.
    with: Vec<String>,
    /// Only there for another's `with`.
    part: bool,
}

/// A rule and, once it was asked, its compiled form.
struct Rule {
    text: RuleText,
    made: OnceLock<Option<Made>>,
}

struct Made {
    regex: Regex,
    path: Option<Regex>,
    allow: Vec<Regex>,
    allow_match: Vec<Regex>,
    needs: Vec<Regex>,
}

struct Rules {
    rules: Vec<Rule>,
    allow: Vec<Regex>,
    keywords: AhoCorasick,
    /// Rules by keyword.
    asks: Vec<Vec<usize>>,
    version: String,
}

static SET: LazyLock<Result<Rules>> = LazyLock::new(load);

/// One finding: a rule, and where the secret begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// The rule's name.
    pub rule: &'static str,
    /// Byte of the text.
    pub at: usize,
}

/// Names the rules and how they are used: what was found under another version has to be looked for again.
///
/// # Errors
/// The rules that are built in cannot be read: a bug.
pub fn version() -> Result<&'static str> {
    Ok(&set()?.version)
}

/// Whether there is a rule of this name that can find something.
pub fn is_rule(name: &str) -> bool {
    set().is_ok_and(|set| set.rules.iter().any(|rule| rule.text.id == name && !rule.text.part))
}

/// Every finding in a text of the file `name`, in the order of the text, one a secret.
///
/// # Errors
/// As for [`version`].
pub fn search(name: &str, text: &[u8]) -> Result<Vec<Hit>> {
    let set = set()?;
    let mut asked: BTreeSet<usize> = BTreeSet::new();
    for found in set.keywords.find_overlapping_iter(text) {
        asked.extend(&set.asks[found.pattern().as_usize()]);
    }
    let mut hits = Vec::new();
    for at in asked.into_iter().filter(|at| !set.rules[*at].text.part) {
        let rule = &set.rules[at];
        let found = set.hits(rule, name, text);
        let whole = || {
            rule.text.with.iter().all(|id| {
                let part = set.rules.iter().find(|r| r.text.id == *id);
                part.is_some_and(|part| !set.hits(part, name, text).is_empty())
            })
        };
        if !found.is_empty() && whole() {
            hits.extend(found.into_iter().map(|at| Hit { rule: &rule.text.id, at }));
        }
    }
    hits.sort_by_key(|hit| hit.at); // stable: of two rules for one secret the first stands
    hits.dedup_by_key(|hit| hit.at);
    Ok(hits)
}

fn set() -> Result<&'static Rules> {
    SET.as_ref().map_err(Clone::clone)
}

fn load() -> Result<Rules> {
    let read = |text: &str| -> Result<RuleFile> {
        toml::from_str(text).map_err(|e| Error::bug("the rules for secrets cannot be read").cause(e.to_string()))
    };
    let (file, own) = (read(RULES)?, read(OWN)?);
    let rules: Vec<Rule> =
        file.rule.into_iter().chain(own.rule).map(|text| Rule { text, made: OnceLock::new() }).collect();
    let (mut words, mut asks): (Vec<&str>, Vec<Vec<usize>>) = (vec![], vec![]);
    for (at, rule) in rules.iter().enumerate() {
        for word in &rule.text.keywords {
            match words.iter().position(|w| w == word) {
                Some(known) => asks[known].push(at),
                None => {
                    words.push(word);
                    asks.push(vec![at]);
                }
            }
        }
    }
    // a table of 1.4 MB, and twice as fast as what is chosen for so many words
    let kind = Some(AhoCorasickKind::DFA);
    let keywords = AhoCorasick::builder().ascii_case_insensitive(true).kind(kind).build(&words);
    let keywords = keywords.map_err(|e| Error::bug("the keywords of the rules are too many").cause(e.to_string()))?;
    let allow = all(&file.allow).ok_or_else(|| Error::bug("the allowlist of the rules is no list of patterns"))?;
    let digest = Digest::of(format!("{FORMAT}\n{RULES}\n{OWN}").as_bytes());
    let version = format!("{} {}", file.version, digest.short());
    Ok(Rules { rules, allow, keywords, asks, version })
}

/// Compiles a pattern: over bytes, as the rules are written for Go's RE2.
fn pattern(text: &str) -> Option<Regex> {
    RegexBuilder::new(text).unicode(false).size_limit(REGEX_LIMIT).dfa_size_limit(REGEX_LIMIT).build().ok()
}

fn all(texts: &[String]) -> Option<Vec<Regex>> {
    texts.iter().map(|text| pattern(text)).collect()
}

impl Rule {
    fn made(&self) -> Option<&Made> {
        let make = || {
            let text = &self.text;
            let path = match &text.path {
                Some(path) => Some(pattern(path)?),
                None => None,
            };
            let (allow, allow_match, needs) = (all(&text.allow)?, all(&text.allow_match)?, all(&text.needs)?);
            Some(Made { regex: pattern(&text.regex)?, path, allow, allow_match, needs })
        };
        self.made.get_or_init(make).as_ref()
    }
}

impl Rules {
    /// Where a rule alone finds secrets.
    fn hits(&self, rule: &Rule, name: &str, text: &[u8]) -> Vec<usize> {
        let Some(made) = rule.made() else { return vec![] };
        if made.path.as_ref().is_some_and(|path| !path.is_match(name.as_bytes())) {
            return vec![];
        }
        let found = made.regex.captures_iter(text).filter_map(|found| self.secret(rule, made, &found, text));
        found.collect()
    }

    /// Where the secret of a match begins, if it is one.
    fn secret(&self, rule: &Rule, made: &Made, found: &Captures<'_>, text: &[u8]) -> Option<usize> {
        let whole = found.get(0)?;
        let group = match rule.text.group {
            Some(group) => found.get(group),
            None => found.iter().skip(1).flatten().find(|g| !g.is_empty()),
        };
        let secret = group.unwrap_or(whole);
        let bits = entropy(secret.as_bytes());
        let counts = rule.text.above.is_none_or(|least| bits > least)
            && rule.text.at_least.is_none_or(|least| bits >= least)
            && made.needs.iter().all(|need| need.is_match(secret.as_bytes()))
            && !self.allow.iter().chain(&made.allow).any(|allow| allow.is_match(secret.as_bytes()))
            && !made.allow_match.iter().any(|allow| allow.is_match(whole.as_bytes()));
        (counts && !is_coded(text, whole.start()..whole.end())).then(|| secret.start())
    }
}

/// Whether a match is but a piece of a long stretch of base64: no other sign in it, and far more of its alphabet around
/// it, with signs among them that no word has.
fn is_coded(text: &[u8], found: std::ops::Range<usize>) -> bool {
    let coded = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if !text[found.clone()].iter().all(|byte| coded(&byte)) {
        return false;
    }
    let before = text[..found.start].iter().rev().take(CODED).take_while(coded);
    let after = text[found.end..].iter().take(CODED).take_while(coded);
    let around: Vec<u8> = before.chain(after).copied().collect();
    around.len() >= CODED && around.iter().any(|byte| matches!(byte, b'+' | b'/'))
}

/// Shannon's entropy in bits a byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let total = bytes.len() as f64;
    let share = |count: &u32| f64::from(*count) / total;
    counts.iter().filter(|count| **count > 0).map(|count| -share(count) * share(count).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str, text: &str) -> Vec<&'static str> {
        search(name, text.as_bytes()).unwrap().into_iter().map(|hit| hit.rule).collect()
    }

    /// Random-looking, and never twice the same: no file of this repository holds a token.
    fn word(length: usize, alphabet: &str) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        (0..length).map(|i| letters[(i * i * 7 + i * 11 + 3) % letters.len()]).collect()
    }

    const LETTERS: &str = "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG";

    #[test]
    fn every_rule_compiles() {
        let set = set().unwrap();
        let broken: Vec<_> = set.rules.iter().filter(|r| r.made().is_none()).map(|r| &r.text.id).collect();
        assert!(broken.is_empty(), "{broken:?}");
        assert!(set.rules.len() > 400);
    }

    #[test]
    fn tokens_of_the_hub_are_found_whatever_stands_after_them() {
        let token = format!("hf_{}", word(34, LETTERS));
        assert!(rules("a.md", &format!("key = \"{token}\"\n")).contains(&"huggingface-access-token"));
        assert_eq!(rules("a.md", &format!("(see {token})")), ["hub-token"]);
        assert_eq!(rules("a.md", &format!("see {token}, please")), ["hub-token"]);
        assert!(rules("a.md", "set HF_TOKEN to your token, hf_... in short").is_empty());
        assert!(rules("a.md", &format!("hf_{}", "x".repeat(34))).is_empty());
    }

    #[test]
    fn tokens_of_the_hub_are_found_in_other_forms_and_right_after_other_letters() {
        let word = word(34, LETTERS);
        for (before, token) in [
            ("a.txt", format!("hf_{word}")),
            ("x_", format!("hf_{word}")),
            ("", format!("hf_oauth_{word}")),
            ("_", format!("hf_jwt_eyJ{word}.eyJ{word}.a-b_c")),
        ] {
            let hits = search("a.md", format!("see {before}{token}, please").as_bytes()).unwrap();
            assert_eq!(hits, [Hit { rule: "hub-token", at: 4 + before.len() }], "{before}{token}");
        }
        assert!(rules("a.md", &format!("hf_oauth_{}", "x".repeat(40))).is_empty());
        assert!(rules("a.py", "the_hf_oauth_client_of_the_hub = half_of_it").is_empty());
        assert!(rules("a.txt", &format!("Zm9vYmFyhf_{word}{word}")).is_empty());
    }

    #[test]
    fn keys_of_clouds_and_private_keys_are_found() {
        let aws = format!("AKIA{}", word(16, "Q2W3E4R5T6Y7U2I3OPASDF"));
        assert!(rules("a.py", &format!("id = '{aws}'\n")).contains(&"aws-access-token"), "{aws}");
        let pem =
            format!("-----BEGIN RSA {0} KEY-----\n{1}\n-----END RSA {0} KEY-----\n", "PRIVATE", word(256, LETTERS));
        assert_eq!(rules("key.txt", &pem), ["private-key"]);
        let github = format!("ghp_{}", word(36, LETTERS));
        assert_eq!(rules("a.sh", &format!("export T={github}\n")), ["github-pat"]);
    }

    #[test]
    fn what_allowlists_know_and_what_has_no_entropy_is_no_secret() {
        assert!(rules("a.py", "id = 'AKIAIOSFODNN7EXAMPLE'\n").is_empty());
        assert!(rules("a.sh", &format!("ghp_{}", "a".repeat(36))).is_empty());
    }

    #[test]
    fn what_stands_in_a_long_stretch_of_base64_by_chance_is_no_secret() {
        let word = format!("BSA{}", word(24, LETTERS));
        let coded = "Zm9vYmFy+/AA".repeat(30);
        assert_eq!(rules("a.txt", &format!("key: {word}\n")), ["brave-search-api-key"]);
        assert_eq!(rules("a.txt", &format!("https://a.example/v1/{word}/x")), ["brave-search-api-key"]);
        assert!(rules("a.json", &format!("\"{coded}/{word}+{coded}\"")).is_empty());
        let token = format!("hf_{}", self::word(34, LETTERS));
        assert_eq!(rules("a.json", &format!("\"{coded}/{token}+{coded}\"")), ["hub-token"]);
    }

    #[test]
    fn a_hit_says_where_the_secret_begins() {
        let text = format!("one\nkey: hf_{}\n", word(34, LETTERS));
        let hits = search("a.md", text.as_bytes()).unwrap();
        assert!(hits.iter().all(|hit| hit.at == text.find("hf_").unwrap()) && !hits.is_empty());
    }
}
