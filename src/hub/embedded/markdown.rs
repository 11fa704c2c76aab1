//! A small Markdown, for the README on a repository's page: headings, paragraphs, lists, tables, quotes, code, emphasis,
//! links and pictures. Raw HTML stays text. Pure; everything is escaped, and links go to http(s), mail, or the
//! repository itself.

/// Escapes text for HTML, attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Where relative addresses lead: pictures to content, links to pages.
pub(super) struct Places<'a> {
    /// Ends with a slash: `/ns/name/resolve/main/`.
    pub content: &'a str,
    /// Ends with a slash: `/ns/name/blob/main/`.
    pub pages: &'a str,
}

/// `text` as HTML.
pub(super) fn render(text: &str, places: &Places<'_>) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (mut out, mut at) = (String::new(), 0);
    while at < lines.len() {
        at += block(&lines[at..], places, &mut out);
    }
    out
}

/// One block; gives the number of its lines, at least 1.
fn block(lines: &[&str], places: &Places<'_>, out: &mut String) -> usize {
    let line = lines[0].trim_end();
    let inner = line.trim_start();
    let run = |fits: &dyn Fn(&str) -> bool| lines.iter().take_while(|line| fits(line.trim())).count();
    if inner.is_empty() {
        return 1;
    }
    if let Some(fence) = ["```", "~~~"].into_iter().find(|fence| inner.starts_with(fence)) {
        let code: Vec<&str> = lines[1..].iter().copied().take_while(|line| !line.trim().starts_with(fence)).collect();
        out.push_str(&format!("<pre><code>{}</code></pre>\n", escape(&code.join("\n"))));
        return code.len() + 2;
    }
    let level = inner.bytes().take_while(|b| *b == b'#').count();
    if (1..=6).contains(&level) && inner[level..].starts_with(' ') {
        let text = inline(inner[level..].trim().trim_end_matches('#').trim_end(), places);
        out.push_str(&format!("<h{level}>{text}</h{level}>\n"));
        return 1;
    }
    if inner.len() >= 3 && ["-", "*", "_"].iter().any(|mark| inner.replace(' ', "").replace(mark, "").is_empty()) {
        out.push_str("<hr>\n");
        return 1;
    }
    if inner.starts_with('|') && lines.get(1).is_some_and(|next| is_rule(next)) {
        let count = run(&|line| line.starts_with('|'));
        table(&lines[..count], places, out);
        return count;
    }
    if inner.starts_with('>') {
        let count = run(&|line| line.starts_with('>'));
        let text: Vec<&str> = lines[..count].iter().map(|line| line.trim().trim_start_matches('>').trim()).collect();
        out.push_str(&format!("<blockquote>{}</blockquote>\n", inline(&text.join(" "), places)));
        return count;
    }
    if item(inner).is_some() {
        return list(lines, places, out);
    }
    let count = run(&|line| !line.is_empty() && !starts_block(line)).max(1);
    let text = lines[..count].iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n");
    out.push_str(&format!("<p>{}</p>\n", inline(&text, places)));
    count
}

fn starts_block(line: &str) -> bool {
    line.starts_with("```")
        || line.starts_with("~~~")
        || line.starts_with("# ")
        || line.starts_with("##")
        || line.starts_with('>')
        || line.starts_with('|')
        || item(line).is_some()
}

fn is_rule(line: &str) -> bool {
    let line = line.trim();
    line.starts_with('|') && line.contains('-') && line.chars().all(|c| "|-: ".contains(c))
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.trim().trim_start_matches('|').trim_end_matches('|').split('|').map(str::trim)
}

fn table(lines: &[&str], places: &Places<'_>, out: &mut String) {
    out.push_str("<table>\n");
    for (index, line) in lines.iter().enumerate().filter(|(index, _)| *index != 1) {
        let cell = if index == 0 { "th" } else { "td" };
        let row: String = cells(line).map(|text| format!("<{cell}>{}</{cell}>", inline(text, places))).collect();
        out.push_str(&format!("<tr>{row}</tr>\n"));
    }
    out.push_str("</table>\n");
}

/// The text of a list's line, and whether the list is numbered.
fn item(line: &str) -> Option<(&str, bool)> {
    if let Some(text) = ["- ", "* ", "+ "].iter().find_map(|mark| line.strip_prefix(mark)) {
        return Some((text, false));
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let text = line[digits..].strip_prefix(". ")?;
    (1..=9).contains(&digits).then_some((text, true))
}

/// A list; deeper levels are shown flat.
fn list(lines: &[&str], places: &Places<'_>, out: &mut String) -> usize {
    let numbered = item(lines[0].trim_start()).is_some_and(|(_, numbered)| numbered);
    let tag = if numbered { "ol" } else { "ul" };
    let mut items: Vec<String> = Vec::new();
    let mut count = 0;
    for line in lines {
        let inner = line.trim();
        match item(inner) {
            Some((text, _)) => items.push(text.to_owned()),
            None if inner.is_empty() || !line.starts_with(' ') => break,
            None => items.iter_mut().last().into_iter().for_each(|last| *last = format!("{last} {inner}")),
        }
        count += 1;
    }
    let items: String = items.iter().map(|text| format!("<li>{}</li>\n", inline(text, places))).collect();
    out.push_str(&format!("<{tag}>\n{items}</{tag}>\n"));
    count
}

/// Emphasis, code, links and pictures inside a block.
fn inline(text: &str, places: &Places<'_>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['`', '*', '!', '[', '\\', '<']) {
        out.push_str(&escape(&rest[..at]));
        rest = &rest[at..];
        let (html, used) = span(rest, places).unwrap_or_else(|| (escape(&rest[..1]), 1));
        out.push_str(&html);
        rest = &rest[used..];
    }
    out.push_str(&escape(rest));
    out
}

/// What starts at `text`: its HTML and its length; `None` when it is only a character.
fn span(text: &str, places: &Places<'_>) -> Option<(String, usize)> {
    let enclosed = |mark: &str| {
        let inner = text.strip_prefix(mark)?;
        let end = inner.find(mark).filter(|end| *end > 0 && !inner.starts_with(' '))?;
        Some((&inner[..end], end + 2 * mark.len()))
    };
    if let Some((code, used)) = enclosed("``").or_else(|| enclosed("`")) {
        return Some((format!("<code>{}</code>", escape(code)), used));
    }
    if let Some((bold, used)) = enclosed("**") {
        return Some((format!("<strong>{}</strong>", inline(bold, places)), used));
    }
    if let Some((italic, used)) = enclosed("*") {
        return Some((format!("<em>{}</em>", inline(italic, places)), used));
    }
    if let Some(escaped) = text.strip_prefix('\\') {
        let c = escaped.chars().next().filter(char::is_ascii_punctuation)?;
        return Some((escape(&c.to_string()), 2));
    }
    if let Some(address) = text.strip_prefix('<') {
        let address = &address[..address.find('>')?];
        address.starts_with("http").then_some(())?;
        let url = escape(&absolute(address, "")?);
        return Some((format!("<a href=\"{url}\">{url}</a>"), address.len() + 2));
    }
    let picture = text.starts_with("![");
    let opened = text.strip_prefix("![").or_else(|| text.strip_prefix('['))?;
    let middle = matching(opened, '[', ']')?;
    let (label, target) = (&opened[..middle], opened[middle + 1..].strip_prefix('(')?);
    let end = matching(target, '(', ')')?;
    let address = target[..end].split_whitespace().next()?;
    let used = text.len() - target.len() + end + 1;
    let html = if picture {
        let url = absolute(address, places.content)?;
        format!("<img src=\"{}\" alt=\"{}\">", escape(&url), escape(label))
    } else {
        format!("<a href=\"{}\">{}</a>", escape(&absolute(address, places.pages)?), inline(label, places))
    };
    Some((html, used))
}

/// Where the bracket that is open before `text` closes.
fn matching(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            if depth == 0 {
                return Some(at);
            }
            depth -= 1;
        }
    }
    None
}

/// An address that may stand in a page: http(s), mail, a place on the page, or a path of the repository.
fn absolute(address: &str, base: &str) -> Option<String> {
    let scheme = address.split_once(':').filter(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    match scheme {
        Some(("http" | "https" | "mailto", _)) => Some(address.to_owned()),
        Some(_) => None,
        None if address.starts_with("//") => None,
        None if address.starts_with(['#', '/']) => Some(address.to_owned()),
        None => Some(format!("{base}{}", address.trim_start_matches("./"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> String {
        render(text, &Places { content: "/a/b/resolve/main/", pages: "/a/b/blob/main/" })
    }

    #[test]
    fn what_a_card_uses() {
        assert_eq!(
            html("# A *b*\n\ntext **c** `<d>`\nmore"),
            "<h1>A <em>b</em></h1>\n<p>text <strong>c</strong> <code>&lt;d&gt;</code>\nmore</p>\n"
        );
        assert_eq!(html("- a\n- b\n  c\n1. d"), "<ul>\n<li>a</li>\n<li>b c</li>\n<li>d</li>\n</ul>\n");
        assert_eq!(html("```py\nx < 1\n```\ny"), "<pre><code>x &lt; 1</code></pre>\n<p>y</p>\n");
        assert_eq!(
            html("| a | b |\n|---|---|\n| 1 | 2 |"),
            "<table>\n<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td>2</td></tr>\n</table>\n"
        );
        assert_eq!(html("![x](s/a.png)"), "<p><img src=\"/a/b/resolve/main/s/a.png\" alt=\"x\"></p>\n");
        assert_eq!(
            html("[x](config.json) <https://e.org>"),
            "<p><a href=\"/a/b/blob/main/config.json\">x</a> <a href=\"https://e.org\">https://e.org</a></p>\n"
        );
    }

    #[test]
    fn nothing_gets_through() {
        assert_eq!(html("<script>alert(1)</script>"), "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n");
        assert!(!html("[x](javascript:alert(1))").contains("href"));
        assert!(!html("![x](data:text/html,x)").contains("src"));
        assert!(html("![\"><script>](a.png)").contains("alt=\"&quot;&gt;&lt;script&gt;\""));
        for odd in ["**", "[", "![](", "`", "```", "|\n|-", "\\", "<", "> ", "1.", "#", "é*é", "[a](b", "* *"] {
            html(odd);
        }
    }
}
