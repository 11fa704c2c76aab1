//! Facts as an aligned table of names and values.

use serde_json::Value as Json;

/// Longest name or value that is shown whole; `--json` has all of it.
const LONGEST: usize = 400;

/// Lines `name  value`, names padded to the longest.
pub fn render(rows: &[(String, Json)]) -> String {
    let rows: Vec<_> = rows.iter().map(|(name, value)| (shown(name), shown(&text(value)))).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            let items: Vec<_> = items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), String::from)).collect();
            items.join(", ")
        }
        other => other.to_string(),
    }
}

/// What a file says of itself, names and values, must not steer the terminal or flood it.
fn shown(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    match text.char_indices().nth(LONGEST) {
        None => plain.collect(),
        Some(_) => plain.take(LONGEST).chain(['\u{2026}']).collect::<String>() + &format!(" ({} bytes)", text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn neither_a_name_nor_a_value_steers_the_terminal_or_floods_it() {
        let rows = [
            ("extra.\u{1b}[31mred\u{9b}".to_string(), json!("a\u{1b}]0;b\u{7}\n")),
            ("long".into(), json!("x".repeat(9000))),
        ];
        let table = render(&rows);
        assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
        assert_eq!(table.lines().count(), 2);
        assert!(table.len() < 1000 && table.ends_with("(9000 bytes)\n"));
    }
}
