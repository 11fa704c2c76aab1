//! Links and pictures of a card, in its text, its HTML and its gallery.
//!
//! Does not know which files there are.

use super::front::{Front, place};
use crate::core::error::Error;
use pulldown_cmark::{Event, Options, Parser, Tag};
use std::sync::Arc;

/// A link to a file of the repo.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// The file, without `./` before and `#...` behind.
    pub path: String,
    /// The first byte of what links, in the card.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// The path of a link that is no URL and no anchor, without `./` before and `#...` behind.
pub fn local(link: &str) -> Option<String> {
    let elsewhere = link.contains("://") || link.starts_with(['#', '/']) || link.starts_with("mailto:");
    let path = link.split(['#', '?']).next().unwrap_or_default();
    (!elsewhere && !link.starts_with("data:")).then(|| path.strip_prefix("./").unwrap_or(path).replace("%20", " "))
}

/// Every link and picture of the card that is no URL and no anchor, and the gallery's pictures.
pub fn all(text: &str, front: &Front) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    let mut add =
        |link: &str, start: usize, end: usize| links.extend(local(link).map(|path| Link { path, start, end }));
    let options = Options::ENABLE_TABLES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                add(&dest_url, range.start, range.end);
            }
            Event::Html(html) | Event::InlineHtml(html) => {
                html_links(&html).for_each(|link| add(link, range.start, range.end));
            }
            _ => {}
        }
    }
    let gallery = front.root.get("widget").map(|w| w.list()).unwrap_or_default();
    let urls = gallery.iter().filter_map(|w| w.get("output")?.get("url"));
    let nodes = urls.chain(["thumbnail", "license_link"].iter().filter_map(|key| front.root.get(key)));
    nodes.filter_map(|n| Some((n.text()?, n))).for_each(|(url, n)| add(url, n.start, n.end));
    links
}

/// `src="..."` and `href="..."` of a piece of HTML.
fn html_links(html: &str) -> impl Iterator<Item = &str> {
    let attributes = ["src=\"", "href=\""];
    attributes.into_iter().flat_map(move |a| html.split(a).skip(1).filter_map(|rest| rest.split('"').next()))
}

/// The error of a link that leads nowhere.
pub fn dangling(text: &Arc<str>, link: &Link) -> Error {
    Error::stage(format!("the card links to `{}`, which is not in the published tree", link.path))
        .at(place(text, link.start, link.end))
        .hint("publish it under that path, or take the link out")
}
