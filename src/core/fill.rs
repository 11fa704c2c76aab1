//! `{name}` in strings of the manifest: `v{project.version}`, `{in.generator}`, `{out}`.
//!
//! Not handlebars: that speaks `{{name}}`, and a command's arguments may hold braces of their own (JSON, shell). Here
//! only a brace pair around a dotted name is a placeholder; `{{` and `}}` stand for single braces; anything else stays.

/// Replaces every `{name}` by what `lookup` gives. An unknown name is the error.
pub fn fill(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let here = &rest[at..];
        if here.starts_with("{{") || here.starts_with("}}") {
            out.push_str(&here[..1]);
            rest = &here[2..];
            continue;
        }
        match here.strip_prefix('{').and_then(|inner| inner.split_once('}')).filter(|(name, _)| is_name(name)) {
            Some((name, after)) => {
                out.push_str(&lookup(name).ok_or_else(|| name.to_string())?);
                rest = after;
            }
            None => {
                out.push_str(&here[..1]);
                rest = &here[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    !text.is_empty() && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::fill;

    fn ask(text: &str) -> Result<String, String> {
        fill(text, &|name| (name == "in.model").then(|| "m.onnx".to_string()))
    }

    #[test]
    fn names_are_replaced_and_other_braces_stay() {
        assert_eq!(ask("--model={in.model}").as_deref(), Ok("--model=m.onnx"));
        assert_eq!(ask("print({}) {\"a\": 1} {{in.model}} }").as_deref(), Ok("print({}) {\"a\": 1} {in.model} }"));
        assert_eq!(ask("{in.modle}"), Err("in.modle".into()));
        assert_eq!(ask("{ä} {").as_deref(), Ok("{ä} {"));
    }
}
