//! Facts as an aligned table of names and values.

use serde_json::Value as Json;

/// Lines `name  value`, names padded to the longest.
pub fn render(rows: &[(String, Json)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in rows {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => items
                .iter()
                .map(|i| i.as_str().map_or_else(|| i.to_string(), String::from))
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        };
        // what a file says of itself must not steer the terminal
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        out.push_str(&format!("{name:<width$}  {text}\n"));
    }
    out
}
