//! What a reader sees of a card, as plain text: markdown markup and HTML tags taken off, code blocks left out, inline code
//! kept, white space of any width one space; each byte with its place in the source.
//!
//! A row of a table becomes several passages: the row as it stands, and each cell behind the row's first cell and behind
//! its column's head (`parameters: 22M`). Knows no facts and no figures.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};
use regex::Regex;
use std::ops::Range;

/// Stands for what is not the template's own text. A printable byte, so that markdown reads around it.
pub const MASK: char = '@';
/// Stands for `=` in inline code: a setting of a call, not a claim.
pub const ASSIGNED: char = '\u{2}';

/// Words of a text that may be the figure of the heading above it: `about 33.1 million`.
const SHORT: usize = 3;

/// A stretch of text that belongs together.
#[derive(Clone, Default)]
pub struct Passage {
    /// The text.
    pub text: String,
    /// Where in the source each of its bytes stands.
    at: Vec<usize>,
}

impl Passage {
    fn push(&mut self, c: char, at: usize) {
        let c = match c {
            '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{ad}' | '\u{feff}' => return,
            '\u{2010}' | '\u{2011}' => '-',
            c if c.is_whitespace() && c != '\n' => ' ',
            c => c,
        };
        if c == ' ' && self.text.ends_with([' ', '\n']) {
            return;
        }
        self.text.push(c);
        self.at.extend((0..c.len_utf8()).map(|k| at + k));
    }

    fn push_text(&mut self, text: &str, at: usize, moves: bool) {
        text.char_indices().for_each(|(i, c)| self.push(c, if moves { at + i } else { at }));
    }

    /// The place in the source of a range of the text.
    pub fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = self.at.get(range.start).copied().unwrap_or_default();
        start..self.at.get(range.end.saturating_sub(1)).map_or(start, |last| last + 1)
    }

    fn part(&self, range: Range<usize>) -> Passage {
        Passage { text: self.text[range.clone()].to_string(), at: self.at[range].to_vec() }
    }

    /// `head: self`.
    fn behind(&self, head: &Passage) -> Passage {
        let mut joined = head.clone();
        let last = head.at.last().copied().unwrap_or_default();
        joined.push(':', last);
        joined.push(' ', last);
        joined.text.push_str(&self.text);
        joined.at.extend(&self.at);
        joined
    }
}

/// The passages of a text (markdown), with what is no template text masked.
pub fn passages(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut block = Passage::default();
    let mut heading: Option<Passage> = None;
    let (mut code, mut html) = (false, false);
    for (event, range) in Parser::new(text).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(_)) => code = true,
            Event::End(TagEnd::CodeBlock) => code = false,
            Event::Start(Tag::HtmlBlock) => {
                push_html(&mut block, &text[range.clone()], range.start);
                html = true;
            }
            Event::End(TagEnd::HtmlBlock) => {
                html = false;
                split(&std::mem::take(&mut block), &mut found);
            }
            Event::InlineHtml(tag) if !html => push_html(&mut block, &tag, range.start),
            Event::Text(words) if !code && !html => push_words(&mut block, &words, &text[range.clone()], range.start),
            Event::Code(words) => {
                let mut inline = Passage::default();
                push_words(&mut inline, &words, &text[range.clone()], range.start);
                block.text.push_str(&inline.text.replace('=', &ASSIGNED.to_string()));
                block.at.append(&mut inline.at);
            }
            Event::SoftBreak | Event::HardBreak => block.push('\n', range.start),
            Event::End(TagEnd::Heading(_)) => {
                heading = Some(block.clone());
                split(&std::mem::take(&mut block), &mut found);
            }
            Event::Start(Tag::Item | Tag::Paragraph | Tag::Heading { .. })
            | Event::End(TagEnd::Item | TagEnd::Paragraph) => {
                // a heading with nothing but its figure below
                let below = heading.take_if(|_| !block.text.trim().is_empty());
                let short = block.text.split_whitespace().count() <= SHORT;
                found.extend(below.filter(|_| short).map(|head| block.behind(&head)));
                split(&std::mem::take(&mut block), &mut found);
            }
            _ => {}
        }
    }
    found
}

/// Adds words that stand in `raw`, at `start` of the source, byte for byte or (an entity) in another form.
fn push_words(block: &mut Passage, words: &str, raw: &str, start: usize) {
    match raw.find(words) {
        Some(at) => block.push_text(words, start + at, true),
        None => block.push_text(words, start, false),
    }
}

/// Adds the text of HTML: what ends a line or begins a cell on the screen does so here.
fn push_html(block: &mut Passage, html: &str, start: usize) {
    const NOT_TEXT: &str = r"(?is)<(?:pre|script|style)\b.*?</(?:pre|script|style)\s*>|<!--.*?-->";
    let Ok(markup) = Regex::new(&format!(r"{NOT_TEXT}|(?P<line>\n)|&[#\w]+;|</?(?P<tag>[a-z][a-z0-9]*)[^>]*>")) else {
        return;
    };
    let mut done = 0;
    for found in markup.captures_iter(html) {
        let Some(whole) = found.get(0) else { continue };
        block.push_text(&html[done..whole.start()], start + done, true);
        done = whole.end();
        let at = start + whole.start();
        match found.name("tag").map(|tag| tag.as_str().to_lowercase()).as_deref() {
            Some("td" | "th" | "dd") if !whole.as_str().starts_with("</") => block.push('|', at),
            Some("td" | "th" | "dd") => {}
            Some(
                "a" | "b" | "i" | "u" | "em" | "strong" | "span" | "code" | "kbd" | "tt" | "small" | "sup" | "sub",
            ) => {}
            Some("font" | "mark" | "big" | "ins" | "abbr" | "var" | "samp") => {}
            Some(_) => block.push('\n', at),
            None => block.push(' ', at),
        }
    }
    block.push_text(&html[done..], start + done, true);
}

/// The passages of a block: its rows of tables (lines with a `|`), and what stands between them.
fn split(block: &Passage, found: &mut Vec<Passage>) {
    let (mut prose, mut heads) = (Passage::default(), Vec::new());
    let mut start = 0;
    for line in block.text.split_inclusive('\n') {
        let range = start..start + line.trim_end_matches('\n').len();
        start += line.len();
        if line.contains('|') {
            found.extend(Some(std::mem::take(&mut prose)).filter(|p| !p.text.is_empty()));
            row(&block.part(range), &mut heads, found);
            continue;
        }
        heads.clear();
        if !prose.text.is_empty() {
            prose.push(' ', block.at[range.start.min(block.at.len() - 1)]);
        }
        let line = block.part(range);
        prose.text.push_str(&line.text);
        prose.at.extend(line.at);
    }
    found.extend(Some(prose).filter(|p| !p.text.is_empty()));
}

/// The passages of a table's row. `heads` are the cells of the table's first row.
fn row(line: &Passage, heads: &mut Vec<Passage>, found: &mut Vec<Passage>) {
    let text = line.text.trim();
    if text.chars().all(|c| "|-: ".contains(c)) {
        return;
    }
    let mut cells = Vec::new();
    let mut start = 0;
    for cell in line.text.split('|') {
        let begin = start + cell.len() - cell.trim_start().len();
        cells.push(line.part(begin..begin + cell.trim().len()));
        start += cell.len() + 1;
    }
    if text.starts_with('|') {
        cells.remove(0);
    }
    found.push(line.clone());
    for (column, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.text.is_empty()) {
        let of_row = cells.first().filter(|_| column > 0);
        let of_column = heads.get(column);
        found.extend([of_row, of_column].into_iter().flatten().filter(|h| !h.text.is_empty()).map(|h| cell.behind(h)));
    }
    if heads.is_empty() {
        *heads = cells;
    }
}
