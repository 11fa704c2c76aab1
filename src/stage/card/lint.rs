//! A lint: figures that were typed into a card's template next to a fact that says otherwise.
//!
//! Only the template's own literal text is looked at: expressions, code blocks, URLs and the front matter's words are left
//! out, so what came from a fact cannot be blamed. A figure counts only where it stands next to a fact's name (`22M
//! parameters`, `loss: 0.1`, a row `| training steps | 200k |`), and it is wrong where no fact of that name agrees with it,
//! at the precision in which it was typed, or where the card has no such fact: then it is nobody's. What is meant otherwise
//! is said so: `{{literal "22M" "of the larger model"}}`. A range (`0.8-0.9`, `between 3 and 5`) is wrong where no fact lies in it.
//!
//! | file | knows |
//! |---|---|
//! | `prose.rs` | what a reader sees of markdown and HTML |
//! | `figure.rs` | numbers and units |
//! | `words.rs` | numbers in words |
//! | `subjects.rs` | which words about which facts |
//!
//! Knows texts and facts; does not know which template renders what.

mod figure;
mod prose;
mod subjects;
mod words;

use super::license;
use crate::core::error::{Error, Place, Result};
use crate::core::manifest::dom::join;
use crate::core::value::Value;
use crate::stage::pages::NOT_MEASURED;
use figure::{Bound, Figure, NUMBER, Unit};
use prose::{MASK, Passage};
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::Arc;
use subjects::{Around, SUBJECTS, Subject, about};

/// Facts that are read for this lint alone, wherever a kind can measure them.
pub fn facts() -> impl Iterator<Item = &'static str> {
    SUBJECTS.iter().flat_map(|subject| subject.facts.iter().copied())
}

/// Checks a template against the facts of the action (`checkpoint.step`, `samples[Tiger].steps`) and the manifest's licence.
pub fn check(file: &str, text: &str, facts: &BTreeMap<String, Value>, license: &str) -> Result<()> {
    let (masked, front) = mask(text);
    let source: Arc<str> = text.into();
    let place = |start, end| Place { file: file.into(), source: source.clone(), start, end };
    let mut problems = Vec::new();
    for passage in prose::passages(&masked[front..]) {
        for (subject, figure, bound) in figures(&passage) {
            let mine = subject.of(facts.iter());
            let wrong = !mine.iter().any(|(_, value)| figure.agrees(subject.unit, bound, value));
            if wrong && (subject.must_be_known || !mine.is_empty()) {
                let range = passage.source(figure.range);
                let (start, end) = (front + range.start, front + range.end);
                problems.push(contradiction(&text[start..end], &mine, subject, place(start, end)));
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
    problems.sort_by_key(|e| e.place().map_or(0, |p| p.start));
    problems.dedup_by_key(|e| e.place().map_or(0, |p| p.start));
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

fn contradiction(typed: &str, facts: &[(&String, &Value)], subject: &Subject, place: Place) -> Error {
    if facts.is_empty() {
        let name = subject.facts[0];
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
    let helper = match subject.unit {
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

/// The figures of a passage that are about something, and whether each is said to be a bound.
fn figures(passage: &Passage) -> Vec<(&'static Subject, Figure, Bound)> {
    typed(&passage.text)
        .into_iter()
        .filter_map(|figure| {
            let around = sentence(&passage.text, &figure);
            if figure_of_else(&figure, &around) {
                return None;
            }
            let (subject, figure) = about(&figure, &around)?;
            Some((subject, figure, around.bound()))
        })
        .collect()
}

/// The figures of a text in their order; of a range the two ends are none by themselves.
fn typed(text: &str) -> Vec<Figure> {
    let Ok(number) = Regex::new(NUMBER) else { return vec![] };
    let mut all: Vec<Figure> = number.captures_iter(text).filter_map(|found| Figure::read(&found)).collect();
    all.extend(words::all(text).into_iter().map(Figure::spelled));
    all.sort_by_key(|figure| (figure.range.start, std::cmp::Reverse(figure.range.end)));
    // `200 thousand` is a figure with its unit, and `thousand` no number by itself
    all.dedup_by(|next, figure| next.range.start < figure.range.end);
    let mut found: Vec<Figure> = Vec::new();
    for figure in all {
        let range = found.last().filter(|low| !low.is_range() && joins(text, low, &figure));
        match range.and_then(|low| low.up_to(&figure)) {
            Some(range) => _ = found.pop().map(|_| found.push(range)),
            None => found.push(figure),
        }
    }
    found
}

/// Whether what stands between two figures makes them the ends of a range. `from 0.9 to 0.1` is a way, and says where it ended.
fn joins(text: &str, low: &Figure, high: &Figure) -> bool {
    let between = &text[low.range.end..high.range.start];
    let before = text[..low.range.start].trim_end().to_lowercase();
    match between.trim() {
        "-" | "–" | "—" => true,
        "to" => !before.ends_with("from"),
        "and" => before.ends_with("between"),
        _ => false,
    }
}

/// The sentence around a figure. A short form (`approx.`) ends none.
fn sentence<'a>(text: &'a str, figure: &Figure) -> Around<'a> {
    const SHORT: &[&str] =
        &["approx", "ca", "c", "e.g", "i.e", "vs", "resp", "incl", "no", "fig", "val", "acc", "max", "min", "avg"];
    let (before, after) = (&text[..figure.range.start], &text[figure.range.end..]);
    let ends = |text: &str, at: usize| {
        let word = text[..at].rsplit([' ', '(']).next().unwrap_or_default().to_lowercase();
        !text[at..].starts_with('.') || !SHORT.contains(&word.as_str())
    };
    let breaks = |text: &'a str| {
        let signs = text.char_indices().filter(|(_, c)| ".!?;".contains(*c)).map(|(at, _)| at);
        signs.filter(move |at| text[at + 1..].starts_with(' ')).filter(move |at| ends(text, *at))
    };
    let start = breaks(before).next_back().map_or(0, |at| at + 2);
    // what numbers an item (`1. install`) is told by what follows
    let end = breaks(after).find(|at| *at > 0 || !figure.is(1.0)).unwrap_or(after.len());
    Around { before: &before[start..], after: &after[..end] }
}

/// Part of a word, a version, a path, a range; a period, a year, a place in a text: not an amount.
fn figure_of_else(figure: &Figure, around: &Around<'_>) -> bool {
    const PERIODS: &[&str] = &["every", "each", "per", "first", "last", "next"];
    const NAMED: &str = r"(?i)\b(?:python|pytorch|torch|cuda|onnx|onnxruntime|numpy|rust|section|sec\.|figure|fig\.|table|chapter|page|appendix|line|issue|version)[ -]?v?$|[#§]$";
    const SINCE: &str = r"(?:\b(?i:since|until|during|copyright|\(c\))|\bIn|©) ?$";
    const OPSET: &str = r"(?i)\bopset[ _]?(?:version)?[ -]?v?$";
    let Around { before, after } = around;
    let says = |pattern: &str| Regex::new(pattern).is_ok_and(|regex| regex.is_match(before));
    if says(OPSET) {
        return after.starts_with(|c: char| c.is_alphanumeric());
    }
    let last = before.chars().next_back().unwrap_or(' ');
    let mut next = after.chars();
    let (first, second) = (next.next().unwrap_or(' '), next.next().unwrap_or(' '));
    let size = "xX×".contains(first);
    let goes_on =
        (first.is_alphanumeric() && !size) || first == MASK || (".,/_-".contains(first) && second.is_ascii_digit());
    let word = before.trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    last.is_alphanumeric()
        || "_./-,".contains(last)
        || last == MASK
        || goes_on
        || PERIODS.contains(&word.as_str())
        || says(NAMED)
        || (figure.year() && says(SINCE))
}

/// The template with everything masked that is not its own words, byte for byte; and where the front matter ends.
fn mask(text: &str) -> (String, usize) {
    let mut bytes = text.as_bytes().to_vec();
    let hide = |bytes: &mut Vec<u8>, range: std::ops::Range<usize>| {
        bytes[range].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = MASK as u8);
    };
    let patterns = [
        r"(?s)\{\{!--.*?--\}\}|\{\{\{.*?\}\}\}|\{\{.*?\}\}",
        r"(?s)<!--.*?-->",
        r"(?ms)^[ \t]*(?:```.*?^[ \t]*```|~~~.*?^[ \t]*~~~)",
        r"[a-z]+://[^\s)>\]]+",
    ];
    for regex in patterns.iter().filter_map(|p| Regex::new(p).ok()) {
        for found in regex.find_iter(text) {
            hide(&mut bytes, found.range());
        }
    }
    let front = match text.strip_prefix("---\n").and_then(|rest| rest.find("\n---")) {
        Some(end) => 4 + end + 4,
        None => 0,
    };
    (String::from_utf8_lossy(&bytes).into_owned(), front)
}

#[cfg(test)]
mod tests;
