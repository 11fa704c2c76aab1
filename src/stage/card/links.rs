//! Links and pictures of a card, in its text, its HTML and its gallery.
//!
//! Does not know which files there are.

use super::front::{Front, place};
use crate::core::error::Error;
use html5gum::{Token, Tokenizer};
use percent_encoding::percent_decode_str;
use pulldown_cmark::{Event, LinkType, Options, Parser, Tag};
use std::ops::Range;
use std::sync::Arc;

/// A link to a file of the repo.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// The file, as [`local`] gives it.
    pub path: String,
    /// The first byte of what links, in the card.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// Endings of pictures and videos: a path with one of these is no page of the Hub's site.
const MEDIA: [&str; 8] = [".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".webm"];

/// The path in the repo that a link leads to: decoded, without `.` and `..`, `?...` and `#...`. `None` for what leads
/// elsewhere, to the repo itself, or to a file that the Hub writes. `repos`: the URLs of this very repo, without a slash at
/// the end. A link that begins with `/` leads out of the repo; where it can be no page of the site, it is given as it is.
pub fn local(link: &str, repos: &[String]) -> Option<String> {
    let link = link.trim();
    let path = match own(link, repos) {
        Some(path) => path,
        None if link.starts_with("//") || link.starts_with('#') || has_scheme(link) => return None,
        None => link,
    };
    let path = path.split(['#', '?']).next().unwrap_or_default();
    let path = percent_decode_str(path).decode_utf8_lossy();
    if let Some(rest) = path.strip_prefix('/') {
        let lower = rest.to_lowercase();
        let is_file = (!rest.contains('/') && rest.contains('.')) || MEDIA.iter().any(|m| lower.ends_with(m));
        return is_file.then(|| path.to_string());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            other => parts.push(other),
        }
    }
    let path = parts.join("/");
    let root = path.is_empty() && !link.is_empty();
    (!root && path != ".gitattributes").then_some(path)
}

/// The file that a full URL into this repo names, at its main branch.
fn own<'l>(link: &'l str, repos: &[String]) -> Option<&'l str> {
    let bare = |url: &'l str| url.strip_prefix("https:").or_else(|| url.strip_prefix("http:")).unwrap_or(url);
    let rest = repos.iter().find_map(|repo| {
        let repo = repo.strip_prefix("https:").or_else(|| repo.strip_prefix("http:")).unwrap_or(repo);
        bare(link).strip_prefix(repo)?.strip_prefix('/')
    })?;
    let rest = ["resolve/", "blob/", "raw/"].iter().find_map(|word| rest.strip_prefix(word))?;
    rest.strip_prefix("main/")
}

/// `https:`, `mailto:`, `tel:`, `data:`, ...
fn has_scheme(link: &str) -> bool {
    let scheme = link.split_once(':').map_or("", |(scheme, _)| scheme);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Every link and picture of the card that leads into the repo, and the gallery's pictures.
pub fn all(text: &str, front: &Front, repos: &[String]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    let mut add = |link: &str, at: Range<usize>| {
        links.extend(local(link, repos).map(|path| Link { path, start: at.start, end: at.end }))
    };
    for (piece, at) in pieces(text) {
        match piece {
            Piece::Html(html) => html_links(&html).into_iter().for_each(|link| add(&link, within(text, &at, &link))),
            Piece::Other(Event::Start(Tag::Link { link_type: LinkType::Email, .. })) => {}
            Piece::Other(Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. })) => add(&dest_url, at),
            Piece::Other(_) => {}
        }
    }
    let gallery = front.root.get("widget").map(|w| w.list()).unwrap_or_default();
    let urls = gallery.iter().flat_map(|w| [w.get("output").and_then(|output| output.get("url")), w.get("src")]);
    let nodes = urls.flatten().chain(["thumbnail", "license_link"].iter().filter_map(|key| front.root.get(key)));
    nodes.filter_map(|n| Some((n.text()?, n))).for_each(|(url, n)| add(url, n.start..n.end));
    links
}

/// A card's text as it is read.
pub(super) enum Piece<'a> {
    /// HTML, whole: a tag of several lines comes in several events.
    Html(String),
    /// Anything else.
    Other(Event<'a>),
}

/// A card's text in pieces, each with its place.
pub(super) fn pieces(text: &str) -> Vec<(Piece<'_>, Range<usize>)> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    let mut out: Vec<(Piece<'_>, Range<usize>)> = Vec::new();
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match (event, out.last_mut()) {
            (Event::Html(more) | Event::InlineHtml(more), Some((Piece::Html(html), at))) => {
                html.push_str(&more);
                at.end = range.end;
            }
            (Event::Html(html) | Event::InlineHtml(html), _) => out.push((Piece::Html(html.into_string()), range)),
            (other, _) => out.push((Piece::Other(other), range)),
        }
    }
    out
}

/// Where a link stands in a piece of HTML, as far as it is spelled there as it reads.
pub(super) fn within(text: &str, place: &Range<usize>, link: &str) -> Range<usize> {
    match text[place.clone()].find(link) {
        Some(at) if !link.is_empty() => place.start + at..place.start + at + link.len(),
        _ => place.clone(),
    }
}

/// What the tags of a piece of HTML load and link to.
pub(super) fn html_links(html: &str) -> Vec<String> {
    let mut links = Vec::new();
    for Ok(token) in Tokenizer::new(html) {
        let Token::StartTag(tag) = token else { continue };
        for (name, value) in &tag.attributes {
            let value = String::from_utf8_lossy(&value.value);
            match &name.0[..] {
                b"src" | b"href" | b"poster" | b"data" => links.push(value.into_owned()),
                // `a.png 1x, b.png 2x`
                b"srcset" if !value.contains("data:") => {
                    links.extend(value.split(',').filter_map(|one| one.split_whitespace().next()).map(String::from));
                }
                _ => {}
            }
        }
    }
    links
}

/// The error of a link that leads nowhere.
pub fn dangling(text: &Arc<str>, link: &Link) -> Error {
    let hint = match link.path.strip_prefix('/') {
        Some(path) => format!("a link that begins with `/` leads out of the repo: write `{path}`"),
        None => "publish it under that path, or take the link out".into(),
    };
    Error::stage(format!("the card links to `{}`, which is not in the published tree", link.path))
        .at(place(text, link.start, link.end))
        .hint(hint)
}

/// Whether a path is a file of the tree, or a folder of one. A path of the tree that ends in `/` is a folder of which the
/// files are not known.
pub fn is_in<'t>(mut tree: impl Iterator<Item = &'t str>, path: &str) -> bool {
    tree.any(|t| {
        t == path
            || (t.ends_with('/') && path.starts_with(t))
            || t.strip_prefix(path).is_some_and(|rest| !path.is_empty() && rest.starts_with('/'))
    })
}
