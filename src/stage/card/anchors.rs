//! Anchors of a card: what its headings and its HTML can be jumped to, and the links that jump nowhere.
//!
//! The Hub names a heading's anchor as GitHub does (<https://github.com/Flet/github-slugger>): its text in lower case, without
//! what is no letter, digit, `_` or `-`, spaces as `-`, and from the second of a name on a number. Knows no files.

use super::front::place;
use super::links::{Link, Piece, html_links, pieces, within};
use crate::core::error::Error;
use crate::core::name::nearest;
use html5gum::{Token, Tokenizer};
use percent_encoding::percent_decode_str;
use pulldown_cmark::{Event, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What of a card is jumped to, and from where.
#[derive(Default)]
struct Anchors {
    known: BTreeSet<String>,
    /// How often a heading's name came.
    times: BTreeMap<String, usize>,
    links: Vec<Link>,
}

impl Anchors {
    fn heading(&mut self, text: &str) {
        let slug = slug(text);
        let times = self.times.entry(slug.clone()).or_default();
        self.known.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
        *times += 1;
    }

    fn link(&mut self, link: &str, start: usize, end: usize) {
        let Some(anchor) = link.trim_start_matches("./").trim_start_matches("README.md").strip_prefix('#') else {
            return;
        };
        let path = percent_decode_str(anchor).decode_utf8_lossy().to_lowercase();
        // both lead to the top of any page, by the HTML standard
        if !["", "top"].contains(&path.as_str()) {
            self.links.push(Link { path, start, end });
        }
    }

    fn html(&mut self, html: &str) {
        for Ok(token) in Tokenizer::new(html) {
            let Token::StartTag(tag) = token else { continue };
            let named = tag.attributes.iter().filter(|(name, _)| matches!(&name.0[..], b"id" | b"name"));
            self.known.extend(named.map(|(_, value)| String::from_utf8_lossy(&value.value).to_lowercase()));
        }
    }
}

/// The first link to an anchor that the card does not have: an error that says so.
pub fn dangling(text: &str) -> Option<Error> {
    let anchors = read(text);
    let plain = |name: &str| name.trim_start_matches("user-content-").trim_matches('-').to_string();
    let known: BTreeSet<String> = anchors.known.iter().map(|name| plain(name)).collect();
    let bad = anchors.links.iter().find(|link| !known.contains(&plain(&link.path)))?;
    let source: Arc<str> = text.into();
    let error = Error::stage(format!("the card links to `#{}`, and no heading of it has this name", bad.path))
        .at(place(&source, bad.start, bad.end));
    Some(match nearest(&bad.path, known.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean `#{near}`?")),
        None => error.hint("an anchor is the heading's text in lower case, spaces as `-`, without other signs"),
    })
}

fn read(text: &str) -> Anchors {
    let mut anchors = Anchors::default();
    let mut heading = None::<String>;
    for (piece, at) in pieces(text) {
        let event = match piece {
            Piece::Html(html) => {
                of_html(&mut anchors, text, &html, &at);
                continue;
            }
            Piece::Other(event) => event,
        };
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { id, .. }), _) => {
                anchors.known.extend(id.map(|id| id.to_lowercase()));
                heading = Some(String::new());
            }
            (Event::End(TagEnd::Heading(_)), Some(name)) => {
                anchors.heading(name);
                heading = None;
            }
            (Event::Text(words) | Event::Code(words), Some(name)) => name.push_str(&words),
            (Event::Start(Tag::Link { dest_url, .. }), _) => anchors.link(&dest_url, at.start, at.end),
            _ => {}
        }
    }
    anchors
}

/// The ids of a piece of HTML, its headings, and its links.
fn of_html(anchors: &mut Anchors, text: &str, html: &str, at: &std::ops::Range<usize>) {
    anchors.html(html);
    html_headings(html).iter().for_each(|heading| anchors.heading(heading));
    for link in html_links(html) {
        let place = within(text, at, &link);
        anchors.link(&link, place.start, place.end);
    }
}

/// The texts of `<h1>` to `<h6>`.
fn html_headings(html: &str) -> Vec<String> {
    let is = |name: &[u8]| matches!(name, [b'h', b'1'..=b'6']);
    let (mut found, mut open) = (vec![], None::<String>);
    for Ok(token) in Tokenizer::new(html) {
        match token {
            Token::StartTag(tag) if is(&tag.name) => open = Some(String::new()),
            Token::EndTag(tag) if is(&tag.name) => found.extend(open.take()),
            Token::String(words) => {
                if let Some(text) = &mut open {
                    text.push_str(&String::from_utf8_lossy(&words.value));
                }
            }
            _ => {}
        }
    }
    found
}

fn slug(text: &str) -> String {
    let kept = text.trim().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_heading_that_is_there_is_right_and_any_other_is_an_error() {
        let card = "---\na: b\n---\n# The card's `Title`: 1.5!\n\n## Same\n\n## Same\n\n<a name=\"Deep\"></a>\n\n\
                    <h2 align=\"center\">In HTML</h2>\n\nSee LINK here.\n";
        let ask = |link: &str| dangling(&card.replace("LINK", link)).map(|e| e.message().to_string());
        for right in [
            "[a](#the-cards-title-15)",
            "[a](#The-Cards-Title-15)",
            "[a](#same)",
            "[a](#same-1)",
            "[a](#deep)",
            "[a](#in-html)",
            "[a](#)",
            "[a](#top)",
            "[a](https://x.y/#nothing)",
            "[a](other.md#nothing)",
            "<a href=\"#same\">a</a>",
            "`[a](#nothing)`",
        ] {
            assert_eq!(ask(right), None, "{right}");
        }
        for (wrong, name) in [
            ("[a](#sam)", "sam"),
            ("[a](#same-2)", "same-2"),
            ("[a][r]\n\n[r]: #none\n\n", "none"),
            ("<a href=\"#nope\">a</a>", "nope"),
        ] {
            let found = ask(wrong).unwrap_or_default();
            assert!(found.contains(&format!("`#{name}`")), "{wrong}: {found}");
        }
        let error = dangling(&card.replace("LINK", "[a](#sam)")).unwrap();
        assert_eq!(error.hint_text(), Some("did you mean `#same`?"));
        assert!(error.place().is_some_and(|place| &place.source[place.start..place.end] == "[a](#sam)"));
    }
}
