//! A lint: figures that were typed into a card's template next to a fact that says otherwise.
//!
//! Only the template's own literal text is looked at: expressions, code, URLs and the front matter's words are masked, so
//! what came from a fact cannot be blamed. A figure counts only where it stands next to a fact's name (`22M parameters`,
//! `loss: 0.1`, a row `| training steps | 200k |`), and it is wrong where no fact of that name agrees with it, at the
//! precision in which it was typed, or where the card has no such fact: then it is nobody's. What is meant otherwise is said so: `{{literal "22M" "of the larger model"}}`.
//!
//! Knows texts and facts; does not know which template renders what.

use super::license;
use crate::core::error::{Error, Place, Result};
use crate::core::manifest::dom::join;
use crate::core::value::Value;
use crate::stage::pages::NOT_MEASURED;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Facts that figures on cards are about, with the words for them.
const RULES: &[Rule] = &[
    Rule { facts: &["parameters"], words: "parameters|parameter|params", unit: Unit::Count, beside: false },
    Rule { facts: &["step", "steps", "ema_step"], words: "steps|step", unit: Unit::Count, beside: false },
    Rule { facts: &["epoch"], words: "epochs|epoch", unit: Unit::Count, beside: false },
    Rule { facts: &["tensors"], words: "tensors", unit: Unit::Count, beside: false },
    Rule { facts: &["opset"], words: "opset", unit: Unit::Count, beside: true },
    Rule { facts: &["loss"], words: "loss", unit: Unit::Ratio, beside: true },
    Rule { facts: &["val_acc", "accuracy"], words: "accuracy", unit: Unit::Ratio, beside: true },
    Rule { facts: &["fid"], words: "fid", unit: Unit::Ratio, beside: true },
    Rule {
        facts: &["bytes"],
        words: r"size|file|weights|checkpoint|model|graph|\w+\.(?:safetensors|onnx|pt|pth|ckpt)",
        unit: Unit::Bytes,
        beside: false,
    },
];

/// Facts that are read for this lint alone, wherever a kind can measure them.
pub fn facts() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.facts.iter().copied())
}

struct Rule {
    facts: &'static [&'static str],
    /// A pattern of the words for it.
    words: &'static str,
    unit: Unit,
    /// Whether the word right before a number is enough (`opset 17`; but `step 3` is an instruction).
    beside: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// `22M`, `200k`, `1,000`.
    Count,
    /// `126 MB`.
    Bytes,
    /// `0.97`, `97 %`.
    Ratio,
}

/// A typed figure.
struct Figure {
    start: usize,
    end: usize,
    /// Every value that it can stand for, with how far a fact may be from it.
    values: Vec<(f64, f64)>,
}

/// Words that may stand between a figure and what it counts.
const BETWEEN: &str = "training|trainable|learnable|total|euler|sampling|denoising|diffusion|inference|optimi[sz]er|optimi[sz]ation|gradient|model|network";
const NUMBER: &str = r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\.\d+|\d+)";
const GAP: &str = r"(?:[ \t]+|[ \t]*\n[ \t]*)";

/// Checks a template against the facts of the action (`checkpoint.step`, `samples[Tiger].steps`) and the manifest's licence.
pub fn check(file: &str, text: &str, facts: &BTreeMap<String, Value>, license: &str) -> Result<()> {
    let (masked, front) = mask(text);
    let source: Arc<str> = text.into();
    let place = |start, end| Place { file: file.into(), source: source.clone(), start, end };
    let mut problems = Vec::new();
    for rule in RULES {
        let mine: Vec<(&String, &Value)> = facts.iter().filter(|(name, _)| rule.names(name)).collect();
        for figure in rule.figures(&masked, front) {
            if !mine.iter().any(|(_, value)| figure.agrees(value)) {
                problems.push(contradiction(
                    &text[figure.start..figure.end],
                    &mine,
                    rule,
                    place(figure.start, figure.end),
                ));
            }
        }
    }
    for (range, found) in license::claims(&masked[front..]) {
        let (start, end) = (front + range.start, front + range.end);
        if !license::agree(license, found) {
            let message = format!("the template says `{}`, the manifest says license `{license}`", &text[start..end]);
            let hint = format!(
                "write `{{{{project.license}}}}`; of something else: `{{{{literal \"{}\" \"why\"}}}}`",
                &text[start..end]
            );
            problems.push(Error::stage(message).at(place(start, end)).hint(hint));
        }
    }
    problems.extend(typed_results(&masked[..front]).into_iter().map(|(start, end)| {
        Error::stage(format!("the result `{}` is typed into the template", &text[start..end]))
            .at(place(start, end))
            .hint("results come from facts: name them under `results` of the card's artifact")
    }));
    problems.sort_by_key(|e| e.place().map_or(0, |p| p.start));
    problems.dedup_by_key(|e| e.place().map_or(0, |p| p.start));
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

fn contradiction(typed: &str, facts: &[(&String, &Value)], rule: &Rule, place: Place) -> Error {
    if facts.is_empty() {
        let name = rule.facts[0];
        return Error::stage(format!("the template says `{typed}`, and no fact of the card is called `{name}`"))
            .at(place)
            .hint(format!(
                "list the artifact that measures it under `facts`; what nothing can measure goes to [declared]; a figure \
                 of something else: `{{{{literal \"{typed}\" \"why\"}}}}`"
            ));
    }
    let said: Vec<_> = facts.iter().take(3).map(|(name, value)| format!("`{name}` is {}", shown(value))).collect();
    let more = if facts.len() > 3 { ", ..." } else { "" };
    let name = facts.first().map_or("", |(name, _)| name.as_str());
    let helper = match rule.unit {
        Unit::Count => "thousands ",
        Unit::Bytes => "bytes ",
        Unit::Ratio => "",
    };
    Error::stage(format!("the template says `{typed}`, and {}{more}", said.join(", "))).at(place).hint(format!(
        "write `{{{{{helper}{name}}}}}`; a figure of something else: `{{{{literal \"{typed}\" \"why\"}}}}`"
    ))
}

fn shown(value: &Value) -> String {
    if *value == Value::Null { NOT_MEASURED.into() } else { value.to_string() }
}

impl Rule {
    fn names(&self, fact: &str) -> bool {
        // `bytes.FILE` of several files
        let parts: Vec<&str> = fact.rsplit(']').next().unwrap_or_default().split('.').collect();
        parts.iter().skip(1).any(|part| self.facts.contains(part)) && !fact.contains(".config.")
    }

    fn figures(&self, text: &str, front: usize) -> Vec<Figure> {
        let unit = match self.unit {
            Unit::Count => r"(?:[ \t]?(?P<unit>k|K|M|B|thousand|million|billion))?\b",
            Unit::Bytes => r"[ \t]?(?P<unit>kB|KB|MB|GB|KiB|MiB|GiB|bytes)\b",
            Unit::Ratio => r"(?:[ \t]?(?P<unit>%))?",
        };
        let words = self.words;
        let joined = if self.beside { format!("|{GAP}") } else { String::new() };
        let connected = format!(
            r"(?:[*`]*[ \t]*(?::|=|\||≈|~)[ \t]*[*`]*[ \t]*|{GAP}(?:is|are|was|were|of){GAP}{joined})(?:(?:about|around|roughly|only|~|≈)[ \t]*)?\**"
        );
        let patterns = match self.unit {
            // a size is of a file: the line names one
            Unit::Bytes => vec![format!("{NUMBER}{unit}")],
            _ => vec![
                format!(r"{NUMBER}{unit}\**(?:-|{GAP})(?:(?i:{BETWEEN})(?:-|{GAP}))*\**(?i:{words})\b"),
                format!(r"\b(?i:{words})\b{connected}{NUMBER}{unit}"),
            ],
        };
        let mut found = Vec::new();
        for regex in patterns.iter().filter_map(|p| Regex::new(p).ok()) {
            found.extend(regex.captures_iter(&text[front..]).filter_map(|c| self.figure(&c, text, front)));
        }
        if self.unit != Unit::Bytes {
            found.extend(self.cells(text, front, unit));
        }
        found
    }

    /// The figures that begin the cells of a table's row whose first cell holds the word.
    fn cells(&self, text: &str, front: usize, unit: &str) -> Vec<Figure> {
        let (Ok(label), Ok(number)) =
            (Regex::new(&format!(r"\b(?i:{})\b", self.words)), Regex::new(&format!(r"\|[ \t]*\**{NUMBER}{unit}")))
        else {
            return vec![];
        };
        let mut found = Vec::new();
        let mut at = front;
        for line in text[front..].split_inclusive('\n') {
            let first = line.trim_start().strip_prefix('|').and_then(|rest| rest.split('|').next());
            if first.is_some_and(|cell| label.is_match(cell)) {
                let begin = line.match_indices('|').nth(1).map_or(line.len(), |(i, _)| i);
                let cells = number.captures_iter(&line[begin..]);
                found.extend(cells.filter_map(|c| self.figure(&c, text, at + begin)));
            }
            at += line.len();
        }
        found
    }

    fn figure(&self, captures: &regex::Captures<'_>, text: &str, offset: usize) -> Option<Figure> {
        let number = captures.name("number")?;
        let unit = captures.name("unit");
        let (start, end) = (offset + number.start(), offset + unit.map_or(number.end(), |u| u.end()));
        let before = &text[..start];
        // part of a word, a version, a path, a range; or a period, not an amount
        let last = before.chars().next_back().unwrap_or(' ');
        let period = ["every", "each", "per", "first", "last", "next"];
        let word = before.trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if last.is_alphanumeric()
            || "_./-,".contains(last)
            || last == MASK
            || period.contains(&word.to_lowercase().as_str())
        {
            return None;
        }
        if text[end..].starts_with(MASK) || text[end..].starts_with(['x', '×']) {
            return None;
        }
        if self.unit == Unit::Bytes {
            let line = before.rfind('\n').map_or(0, |i| i + 1)..text[end..].find('\n').map_or(text.len(), |i| end + i);
            let label = Regex::new(&format!(r"\b(?i:{})\b", self.words)).ok()?;
            label.is_match(&text[line]).then_some(())?;
        }
        let digits = number.as_str().replace(',', "");
        let value: f64 = digits.parse().ok()?;
        let decimals = digits.split_once('.').map_or(0, |(_, d)| d.len() as i32);
        let ulp = 10f64.powi(-decimals);
        let scales = scales(self.unit, unit.map_or("", |u| u.as_str()));
        Some(Figure { start, end, values: scales.into_iter().map(|s| (value * s, ulp * s)).collect() })
    }
}

/// What one of a unit stands for; megabytes are of a thousand or of 1024.
fn scales(unit: Unit, word: &str) -> Vec<f64> {
    match (unit, word) {
        (Unit::Bytes, "kB" | "KB" | "KiB") => vec![1e3, 1024.0],
        (Unit::Bytes, "MB" | "MiB") => vec![1e6, 1048576.0],
        (Unit::Bytes, "GB" | "GiB") => vec![1e9, 1073741824.0],
        (Unit::Count, "k" | "K" | "thousand") => vec![1e3],
        (Unit::Count, "M" | "million") => vec![1e6],
        (Unit::Count, "B" | "billion") => vec![1e9],
        (Unit::Ratio, "%") => vec![1.0, 0.01],
        _ => vec![1.0],
    }
}

impl Figure {
    /// Whether a fact is this figure, rounded or cut to the digits that were typed.
    fn agrees(&self, value: &Value) -> bool {
        let Some(fact) = value.as_f64() else { return false };
        self.values.iter().any(|(value, precision)| (fact - value).abs() < *precision)
    }
}

/// Stands for what is not the template's own text.
const MASK: char = '\u{1}';

/// The template with everything masked that is not its own words, byte for byte; and where the front matter ends. Of code
/// spans only the digits are masked: a name stays a name.
fn mask(text: &str) -> (String, usize) {
    let mut bytes = text.as_bytes().to_vec();
    let hide = |bytes: &mut Vec<u8>, range: std::ops::Range<usize>| {
        bytes[range].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = MASK as u8);
    };
    let patterns = [
        r"(?s)\{\{!--.*?--\}\}|\{\{\{.*?\}\}\}|\{\{.*?\}\}",
        r"(?s)<!--.*?-->",
        r"(?ms)^[ \t]*(?:```.*?^[ \t]*```|~~~.*?^[ \t]*~~~)",
        r"[a-z]+://[^\s)>\]]+|\]\([^)\n]*\)",
    ];
    for regex in patterns.iter().filter_map(|p| Regex::new(p).ok()) {
        for found in regex.find_iter(text) {
            hide(&mut bytes, found.range());
        }
    }
    if let Ok(code) = Regex::new(r"`[^`\n]+`") {
        for found in code.find_iter(text) {
            bytes[found.range()].iter_mut().filter(|b| b.is_ascii_digit()).for_each(|b| *b = MASK as u8);
        }
    }
    let front = match text.strip_prefix("---\n").and_then(|rest| rest.find("\n---")) {
        Some(end) => 4 + end + 4,
        None => 0,
    };
    (String::from_utf8_lossy(&bytes).into_owned(), front)
}

/// `value: 0.93` typed below `model-index` of the front matter.
fn typed_results(front: &str) -> Vec<(usize, usize)> {
    let Some(from) = front.find("model-index:") else { return vec![] };
    let Ok(regex) = Regex::new(r"(?m)^[ \t-]*value:[ \t]*([-+.0-9][-+.0-9eE]*)[ \t]*$") else { return vec![] };
    let all = regex.captures_iter(&front[from..]).filter_map(|c| c.get(1));
    all.map(|m| (from + m.start(), from + m.end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> BTreeMap<String, Value> {
        let text = |name: &str, value: Value| (name.to_string(), value);
        [
            text("checkpoint.parameters", Value::Int(33_063_168)),
            text("weights.bytes", Value::Int(132_252_672)),
            text("checkpoint.step", Value::Int(200_000)),
            text("samples[Tiger].steps", Value::Int(50)),
            text("checkpoint.val_acc", Value::Float(0.9731)),
            text("checkpoint.loss", Value::Null),
            text("generator.opset", Value::Int(18)),
        ]
        .into()
    }

    fn problems(text: &str) -> Vec<String> {
        let body = format!("---\nlicense: x\n---\n{text}");
        match check("card.md.hbs", &body, &facts(), "apache-2.0") {
            Ok(()) => vec![],
            Err(e) => std::iter::once(&e)
                .chain(e.others())
                .map(|e| {
                    let place = e.place().unwrap();
                    body[place.start..place.end].to_string()
                })
                .collect(),
        }
    }

    #[test]
    fn a_typed_figure_that_a_fact_contradicts_is_found_where_it_stands() {
        for (text, typed) in [
            ("It has 22M parameters.", "22M"),
            ("a 22M-parameter model", "22M"),
            ("about 22 million trainable\nparameters", "22 million"),
            ("| parameters | 22M | `model.safetensors` |", "22M"),
            ("**Parameters:** 22,000,000", "22,000,000"),
            ("trained for 100k training steps", "100k"),
            ("The model file is 126.9 MB.", "126.9 MB"),
            ("`model.safetensors` | 529 MB", "529 MB"),
            ("an accuracy of 98.2 %", "98.2 %"),
            ("accuracy 0.99", "0.99"),
            ("loss: 0.05", "0.05"),
            ("exported with opset 17", "17"),
            ("released under the MIT license", "MIT"),
        ] {
            assert_eq!(problems(text), [typed], "{text}");
        }
    }

    #[test]
    fn what_agrees_is_code_or_is_about_something_else_is_left_alone() {
        for text in [
            "33M parameters, or 33.1M parameters, 33,063,168 parameters, 33 million parameters",
            "{{thousands checkpoint.parameters}} parameters and {{x}}M parameters",
            "{{literal \"22M\" \"the teacher\"}} parameters",
            "132 MB of weights, 132.3 MB of weights, 126.1 MB file",
            "200k steps, 200,000 training steps, 50 Euler steps",
            "accuracy 97.3 %, accuracy: 0.973, an accuracy of .97",
            "Step 1: clone. step 3 of 4. evaluated every 1000 steps; seconds per 2 steps",
            "`--steps 12` and\n```sh\npython x.py --steps 12 steps\n12 steps\n```\n",
            "needs 2 GB of memory. Python 3.12 and 13 labels; 32x32 pixels; opset {{generator.opset}}",
            "[the paper](https://a.b/22M-parameters) says more",
            "published under {{project.license}}, or Apache-2.0",
        ] {
            assert_eq!(problems(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_result_typed_below_model_index_is_refused() {
        let text = "---\nmodel-index:\n- results:\n  - metrics:\n    - type: accuracy\n      value: 0.93\n---\n";
        let error = check("c", text, &BTreeMap::new(), "mit").unwrap_err();
        assert_eq!(&text[error.place().unwrap().start..error.place().unwrap().end], "0.93");
        assert!(check("c", &text.replace("0.93", "{{e.accuracy}}"), &BTreeMap::new(), "mit").is_ok());
    }
}
