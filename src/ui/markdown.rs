//! Markdown for the terminal: headings, paragraphs wrapped to a width, lists, tables, code, links with their targets.
//!
//! Knows markdown by `pulldown-cmark`. Control characters of the text are left out: it must not steer the terminal.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Renders a card at most `width` columns wide, but for tables and code; with ANSI styles where `colour`.
pub fn render(text: &str, width: usize, colour: bool) -> String {
    let mut options = Options::ENABLE_TABLES;
    options.insert(Options::ENABLE_YAML_STYLE_METADATA_BLOCKS);
    let mut writer = Writer { width, colour, ..Writer::default() };
    Parser::new_ext(text, options).for_each(|event| writer.event(event));
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    width: usize,
    colour: bool,
    /// The words of the paragraph, heading or cell that is open.
    line: String,
    /// Of each open list: the next number, where it is numbered.
    lists: Vec<Option<u64>>,
    /// What stands before the first line of an item.
    marker: String,
    links: Vec<String>,
    rows: Vec<Vec<String>>,
    code: bool,
    metadata: bool,
    quote: usize,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.metadata || self.code => self.verbatim(&text),
            Event::Text(text) => self.line.push_str(&clean(&text)),
            Event::Code(text) => {
                let text = clean(&text);
                self.styled("36", &text);
            }
            Event::SoftBreak | Event::HardBreak => self.line.push(' '),
            Event::Rule => {
                let rule = "─".repeat(self.width.min(40));
                self.out.push_str(&format!("{rule}\n\n"));
            }
            _ => {} // HTML is for browsers
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::MetadataBlock(_) => self.metadata = true,
            Tag::CodeBlock(kind) => {
                self.flush();
                self.code = true;
                if let CodeBlockKind::Fenced(language) = kind
                    && !language.is_empty()
                {
                    self.out.push_str(&format!("    [{}]\n", clean(&language)));
                }
            }
            Tag::List(first) => {
                self.flush();
                self.lists.push(first);
            }
            Tag::Item => {
                let depth = "  ".repeat(self.lists.len().saturating_sub(1));
                self.marker = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{depth}{}. ", *number - 1)
                    }
                    _ => format!("{depth}• "),
                };
            }
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => self.links.push(clean(&dest_url)),
            Tag::TableHead | Tag::TableRow => self.rows.push(vec![]),
            Tag::BlockQuote(_) => self.quote += 1,
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::MetadataBlock(_) => {
                self.metadata = false;
                self.out.push('\n');
            }
            TagEnd::CodeBlock => {
                self.code = false;
                self.out.push('\n');
            }
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.line);
                let signs = "#".repeat(level as usize);
                self.styled("1", &format!("{signs} {text}"));
                self.flush();
                self.out.push('\n');
            }
            TagEnd::Paragraph => {
                self.flush();
                if self.lists.is_empty() {
                    self.out.push('\n');
                }
            }
            TagEnd::Item => self.flush(),
            TagEnd::List(_) => {
                self.lists.pop();
                if self.lists.is_empty() {
                    self.out.push('\n');
                }
            }
            TagEnd::Link | TagEnd::Image => {
                let url = self.links.pop().unwrap_or_default();
                if !self.line.ends_with(&url) {
                    self.styled("2", &format!(" ({url})"));
                }
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.line);
                self.rows.last_mut().into_iter().for_each(|row| row.push(cell.clone()));
            }
            TagEnd::Table => self.table(),
            TagEnd::BlockQuote(_) => self.quote = self.quote.saturating_sub(1),
            _ => {}
        }
    }

    fn styled(&mut self, style: &str, text: &str) {
        match self.colour {
            true => self.line.push_str(&format!("\u{1b}[{style}m{text}\u{1b}[0m")),
            false => self.line.push_str(text),
        }
    }

    fn verbatim(&mut self, text: &str) {
        text.lines().for_each(|line| self.out.push_str(&format!("    {}\n", clean(line))));
    }

    /// Wraps what was collected.
    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let marker = std::mem::take(&mut self.marker);
        if line.trim().is_empty() {
            return;
        }
        let quote = "> ".repeat(self.quote);
        let rest = format!("{quote}{}", " ".repeat(marker.chars().count().max(2 * self.lists.len())));
        let mut current = format!("{quote}{marker}");
        let mut empty = true;
        for word in line.split_whitespace() {
            if !empty && columns(&current) + 1 + columns(word) > self.width {
                self.out.push_str(&format!("{}\n", current.trim_end()));
                current = rest.clone();
                empty = true;
            }
            if !empty {
                current.push(' ');
            }
            current.push_str(word);
            empty = false;
        }
        self.out.push_str(&format!("{}\n", current.trim_end()));
    }

    /// The rows, each column as wide as its widest cell.
    fn table(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let count = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|c| columns(c)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..count).map(widest).collect();
        for (number, row) in rows.iter().enumerate() {
            let pad = |(cell, width): (&String, &usize)| format!("{cell}{}", " ".repeat(width - columns(cell)));
            let cells: Vec<_> = row.iter().zip(&widths).map(pad).collect();
            self.out.push_str(&format!("{}\n", cells.join("  ").trim_end()));
            if number == 0 {
                let rule: Vec<_> = widths.iter().map(|w| "─".repeat(*w)).collect();
                self.out.push_str(&format!("{}\n", rule.join("  ")));
            }
        }
        self.out.push('\n');
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Characters that are shown, ANSI styles left out.
fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (true, 'm') => escape = false,
            (false, _) => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::render;

    const CARD: &str = "---\nlicense: mit\n---\n# Title\n\nSome *words* with a [link](config.json) and `code`, long enough to \
                        be wrapped.\n\n- one\n- two\n\n| a | bb |\n|---|---|\n| ccc | d |\n\n```sh\nls\n```\n";

    #[test]
    fn a_card_becomes_plain_lines_no_wider_than_asked() {
        let text = render(CARD, 40, false);
        assert!(text.contains("# Title\n") && text.contains("link (config.json)"), "{text}");
        assert!(text.contains("• one\n• two\n"), "{text}");
        assert!(text.contains("a    bb\n───  ──\nccc  d\n"), "{text}");
        assert!(text.contains("    [sh]\n    ls\n"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 40), "{text}");
    }

    #[test]
    fn styles_come_only_where_asked_and_never_from_the_text() {
        assert!(render(CARD, 40, true).contains("\u{1b}[1m# Title\u{1b}[0m"));
        assert!(!render("a \u{1b}[31mred\u{1b}[0m", 40, false).contains('\u{1b}'));
    }
}
