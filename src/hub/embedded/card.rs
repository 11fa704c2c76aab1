//! The front matter of a README: what the repository's page and information show of it.
//!
//! Reads a part of YAML, enough for a card's usual lines: `key: scalar`, lists, and mappings by indentation. What it
//! cannot read stays text or is left out; the live Hub, with a real YAML reader, may refuse more. Pure.

use serde_json::{Map, Value};

/// What is wrong with a card.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lint {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

/// The lines between the two `---`; `None` when there is no front matter.
fn front(text: &str) -> Option<Vec<&str>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines();
    (lines.next()?.trim_end() == "---").then_some(())?;
    let mut found = Vec::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(found);
        }
        found.push(line);
    }
    None
}

/// What follows the front matter.
pub(super) fn body(text: &str) -> &str {
    match front(text) {
        None => text,
        Some(_) => {
            let mut rest = text.split_once('\n').map_or("", |(_, rest)| rest);
            while let Some((line, after)) = rest.split_once('\n') {
                rest = after;
                if line.trim_end() == "---" {
                    return rest;
                }
            }
            ""
        }
    }
}

/// The front matter as JSON; `None` when there is none or it cannot be read.
pub(super) fn front_matter(text: &str) -> Option<Map<String, Value>> {
    let lines = front(text)?;
    read(&lines).ok()
}

/// One line that holds something.
struct Line<'a> {
    indent: usize,
    text: &'a str,
    number: usize,
}

fn read(lines: &[&str]) -> Result<Map<String, Value>, String> {
    let mut kept = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let text = line.trim_start_matches(' ');
        if text.starts_with('\t') {
            return Err(format!("line {}: a tab indents", index + 2));
        }
        if !text.trim().is_empty() && !text.starts_with('#') {
            kept.push(Line { indent: line.len() - text.len(), text: text.trim_end(), number: index + 2 });
        }
    }
    match block(&kept, 0)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err("the front matter is no mapping".to_owned()),
    }
}

/// A mapping, a list or text: the lines of one indentation and below. `depth` ends what is nested without end.
fn block(lines: &[Line<'_>], depth: usize) -> Result<Value, String> {
    let Some(first) = lines.first() else { return Ok(Value::Null) };
    if depth > 20 {
        return Err(format!("line {}: nested too deeply", first.number));
    }
    let mut list = Vec::new();
    let mut map = Map::new();
    let mut at = 0;
    while at < lines.len() {
        let line = &lines[at];
        if line.indent != first.indent {
            return Err(format!("line {}: the indentation fits nothing above", line.number));
        }
        let dash = line.text == "-" || line.text.starts_with("- ");
        let inside = |other: &Line<'_>| other.indent > line.indent || (!dash && same_level_item(line, other));
        let end = at + 1 + lines[at + 1..].iter().take_while(|other| inside(other)).count();
        let below = &lines[at + 1..end];
        if dash {
            list.push(item(line, below, depth)?);
        } else {
            let (key, value) = split_key(line.text)
                .ok_or_else(|| format!("line {}: expected `key: value`, found `{}`", line.number, line.text))?;
            map.insert(key, value_of(value, below, depth)?);
        }
        at = end;
    }
    match (list.is_empty(), map.is_empty()) {
        (true, _) => Ok(map.into()),
        (false, true) => Ok(list.into()),
        (false, false) => Err(format!("line {}: a list and a mapping in one", first.number)),
    }
}

/// `key:` followed by `- item` at the same indentation is a list too.
fn same_level_item(line: &Line<'_>, other: &Line<'_>) -> bool {
    other.indent == line.indent && line.text.ends_with(':') && (other.text == "-" || other.text.starts_with("- "))
}

fn item(line: &Line<'_>, below: &[Line<'_>], depth: usize) -> Result<Value, String> {
    let text = line.text[1..].trim_start();
    if text.is_empty() {
        return block(below, depth + 1);
    }
    let nested = split_key(text).is_some() && !text.starts_with(['"', '\'', '[', '{']);
    if !nested && !text.starts_with("- ") {
        return value_of(text, below, depth);
    }
    // `- key: value` opens a block at the key's column.
    let indent = line.indent + (line.text.len() - text.len());
    let mut lines = vec![Line { indent, text, number: line.number }];
    lines.extend(below.iter().map(|line| Line { ..*line }));
    block(&lines, depth + 1)
}

fn value_of(text: &str, below: &[Line<'_>], depth: usize) -> Result<Value, String> {
    match text {
        "" => block(below, depth + 1),
        "|" | "|-" | ">" | ">-" | "|+" | ">+" => {
            let join = if text.starts_with('|') { "\n" } else { " " };
            Ok(below.iter().map(|line| line.text).collect::<Vec<_>>().join(join).into())
        }
        _ if below.is_empty() => Ok(scalar(text)),
        // Text that goes on in the next lines.
        _ => {
            let more = below.iter().map(|line| line.text);
            Ok(scalar(&std::iter::once(text).chain(more).collect::<Vec<_>>().join(" ")))
        }
    }
}

fn split_key(text: &str) -> Option<(String, &str)> {
    let (key, rest) = match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = text[1..].split_once(quote)?;
            (key, rest.strip_prefix(':')?)
        }
        _ => text.split_once(": ").or_else(|| Some((text.strip_suffix(':')?, "")))?,
    };
    let fits = !key.is_empty() && !key.starts_with(['[', '{', '-', '*', '&', '!', '|', '>', '%', '@', '`']);
    fits.then(|| (key.trim_end().to_owned(), strip_comment(rest.trim())))
}

fn strip_comment(text: &str) -> &str {
    if text.starts_with(['"', '\'']) {
        return text;
    }
    text.split_once(" #").map_or(text, |(before, _)| before).trim_end()
}

fn scalar(text: &str) -> Value {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let items = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
        return items.map(scalar).collect::<Vec<_>>().into();
    }
    if let (true, Ok(value)) = (text.starts_with('"'), serde_json::from_str::<String>(text)) {
        return value.into();
    }
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return inner.replace("''", "'").into();
    }
    match text {
        "true" | "True" => true.into(),
        "false" | "False" => false.into(),
        "null" | "~" | "" => Value::Null,
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) if text.contains('.') => number.into(),
            _ => text.into(),
        },
    }
}

/// What the embedded hub has to say of a README: that the front matter is there, can be read, and that the best known
/// keys hold what they should.
pub(super) fn lint(text: &str) -> Lint {
    let mut lint = Lint::default();
    let Some(lines) = front(text) else {
        if text.trim_start_matches('\u{feff}').starts_with("---") {
            lint.errors.push("the front matter has no end: a second line `---` is missing".to_owned());
        } else {
            lint.warnings.push("empty or missing yaml metadata in repo card".to_owned());
        }
        return lint;
    };
    let card = match read(&lines) {
        Ok(card) => card,
        Err(why) => {
            lint.errors.push(why);
            return lint;
        }
    };
    for key in ["library_name", "pipeline_tag", "license_name", "license_link", "thumbnail"] {
        if card.get(key).is_some_and(|value| !value.is_string()) {
            lint.errors.push(format!("\"{key}\" must be a string"));
        }
    }
    for key in ["license", "base_model", "language", "tags", "datasets", "metrics"] {
        let strings =
            |value: &Value| value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        if card.get(key).is_some_and(|value| !strings(value)) {
            lint.errors.push(format!("\"{key}\" must be a string or a list of strings"));
        }
    }
    for key in ["widget", "model-index"] {
        if card.get(key).is_some_and(|value| !value.is_array()) {
            lint.errors.push(format!("\"{key}\" must be an array"));
        }
    }
    lint
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CARD: &str = "---\nlicense: apache-2.0 # free\ntags:\n- cats\n- \"a: b\"\nlanguage: [en, de]\nwidget:\n  - text: x y\n    \
        output:\n      url: samples/a.png\nmodel-index:\n- name: tiny\n  results:\n  - task:\n      type: t\n    metrics:\n    - \
        type: acc\n      value: 0.5\ninference: false\n---\n# Title\n";

    #[test]
    fn a_card() {
        let card = front_matter(CARD).unwrap();
        let expected = json!({
            "license": "apache-2.0", "tags": ["cats", "a: b"], "language": ["en", "de"],
            "widget": [{"text": "x y", "output": {"url": "samples/a.png"}}],
            "model-index": [{"name": "tiny", "results": [{"task": {"type": "t"}, "metrics": [{"type": "acc", "value": 0.5}]}]}],
            "inference": false,
        });
        assert_eq!(Value::Object(card), expected);
        assert_eq!(body(CARD), "# Title\n");
        assert_eq!(lint(CARD), Lint::default());
    }

    #[test]
    fn what_is_wrong_with_a_card() {
        let errors = |text: &str| lint(text).errors;
        assert_eq!(errors("---\nlicense: 3\n---\n"), ["\"license\" must be a string or a list of strings"]);
        assert_eq!(errors("---\nwidget: x\n---\n"), ["\"widget\" must be an array"]);
        assert_eq!(errors("---\nlicense mit\n---\n"), ["line 2: expected `key: value`, found `license mit`"]);
        assert_eq!(errors("---\na: b\n").len(), 1);
        assert_eq!(lint("# no front matter").warnings.len(), 1);
        assert_eq!(lint("---\n---\n"), Lint::default());
        assert_eq!(front_matter("# x"), None);
    }
}
