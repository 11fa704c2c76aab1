//! Errors on the screen: message, the place with an excerpt, causes, one hint after a blank line.

use crate::core::error::Error;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// How many errors that came together are shown.
const SHOWN: usize = 20;

/// The whole text of an error, with those that came with it.
pub fn render(error: &Error, colour: bool) -> String {
    let mut out = one(error, colour);
    for other in error.others().iter().take(SHOWN - 1) {
        out.push('\n');
        out.push_str(&one(other, colour));
    }
    match error.others().len().saturating_sub(SHOWN - 1) {
        0 => {}
        more => out.push_str(&format!("\n... and {more} more: mend these {SHOWN} first\n")),
    }
    out
}

fn one(error: &Error, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let message = clean(error.message());
    let title = Level::ERROR.primary_title(message.as_str());
    let mut out = match error.place() {
        Some(place) => {
            let (excerpt, first_line, offset) = excerpt(&place.source, place.start, place.end);
            let at = |byte: usize| floor(excerpt, byte.saturating_sub(offset).min(excerpt.len()));
            let span = at(place.start)..at(place.end).max(at(place.start));
            let snippet = Snippet::source(excerpt)
                .path(place.file.as_str())
                .line_start(first_line)
                .annotation(AnnotationKind::Primary.span(span));
            renderer.render(&[title.element(snippet)])
        }
        None => renderer.render(&[annotate_snippets::Group::with_title(title)]),
    };
    for cause in error.causes() {
        out.push_str(&format!("\n  caused by: {}", clean(cause)));
    }
    if let Some(hint) = error.hint_text().filter(|h| !h.is_empty()) {
        out.push_str(&format!("\n\nhint: {hint}"));
    }
    out.push('\n');
    out
}

/// A text without control characters: what a program or a file says must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// The lines of a place, three at most and 300 bytes of each side, so that a manifest of a gigabyte on one line is not
/// shown whole: the text, the number of its first line, its offset in the source.
fn excerpt(source: &str, start: usize, end: usize) -> (&str, usize, usize) {
    let start = floor(source, start.min(source.len()));
    let end = floor(source, end.clamp(start, source.len()));
    let line_start = source[..start].rfind('\n').map_or(0, |i| i + 1);
    let from = floor(source, line_start.max(start.saturating_sub(300)));
    let first_end = source[start..].find('\n').map_or(source.len(), |i| start + i);
    let to = floor(source, first_end.max(end.min(first_end)).min(start + 300));
    let line = 1 + source.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
    (&source[from..to.max(from)], line, from)
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::core::error::{Error, ErrorKind, Place};

    #[test]
    fn an_error_shows_its_place_causes_and_hint() {
        let source = "[a]\ninputs = [\"onnx/model.onx\"]\n";
        let start = source.find('"').unwrap();
        let place = Place { file: "publish.toml".into(), source: source.into(), start, end: start + 16 };
        let error =
            Error::new(ErrorKind::Manifest, "nothing makes `x`").at(place).cause("it is not there").hint("name it");
        let text = render(&error, false);
        assert!(text.contains("--> publish.toml:2:11"), "{text}");
        assert!(text.contains("caused by: it is not there") && text.ends_with("\n\nhint: name it\n"), "{text}");
    }

    #[test]
    fn a_line_of_a_megabyte_and_a_place_past_the_end_are_shown_in_part() {
        let source = "ä".repeat(1 << 19);
        for (start, end) in [(700_001, 700_002), (5, 1 << 20), (1 << 20, 1 << 21)] {
            let place = Place { file: "f".into(), source: source.as_str().into(), start, end };
            let text = render(&Error::new(ErrorKind::Manifest, "m").at(place), false);
            assert!(text.len() < 4000, "{}", text.len());
        }
    }
}
