//! `card`: the model card, README.md. A template whose every figure comes from facts or is declared with its source, and
//! which is checked: the front matter parses and agrees with the manifest, the links lead somewhere.

use super::{Declare, Kind, Workspace, param, template, text_param};
use crate::core::action::{Action, Declaration};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::name::nearest;
use crate::core::value::Value;
use pulldown_cmark::{Event, Options, Parser, Tag};
use yaml_rust2::{Yaml, YamlLoader};

/// See the module.
pub struct Card;

/// The Hub's pipeline tags, from npm's `@huggingface/tasks` (`PIPELINE_DATA`).
const PIPELINE_TAGS: &str = include_str!("pipeline_tags.txt");

impl Kind for Card {
    fn info(&self) -> KindInfo {
        KindInfo {
            name: "card",
            doc: "the model card, its front matter and links checked",
            fields: template::FIELDS,
            facts: &["bytes", "links"],
        }
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let declaration = template::declare(cx, "card", self.version(), Some("README.md"))?;
        let published = cx.manifest.artifacts.iter().filter(|s| s.kind == super::UPLOAD.name);
        let mut tree: Vec<String> = published
            .filter(|s| s.map("files").iter().any(|(_, _, artifact, _)| *artifact == cx.spec.name.as_str()))
            .flat_map(|s| s.map("files").into_iter().map(|(path, ..)| path))
            .collect();
        tree.push(crate::core::plan::RECORD.into());
        tree.sort();
        tree.dedup();
        Ok(declaration.param("tree", tree).param("license", cx.manifest.project.license.as_str()))
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let text = template::rendered(action, workspace)?;
        let front = front_matter(&text)?;
        check_front(&front, text_param(action, "license")?)?;
        let tree: Vec<&str> =
            param(action, "tree")?.as_list().unwrap_or_default().iter().filter_map(Value::as_text).collect();
        let known = |path: &str| tree.iter().any(|t| *t == path || (t.ends_with('/') && path.starts_with(t)));
        if let Some(bad) = local_links(&text, &front).into_iter().find(|link| !known(link)) {
            return Err(dangling(&bad));
        }
        let digest = workspace.write("README.md", text.as_bytes())?;
        let mut facts = Facts::default();
        let of = facts.subject("README.md", digest);
        facts.set("bytes", text.len(), of);
        facts.set("links", local_links(&text, &front).len(), of);
        Ok(facts)
    }
}

fn dangling(link: &str) -> Error {
    Error::stage(format!("the card links to `{link}`, which is not in the published tree"))
        .hint("publish it under that path, or take the link out")
}

/// Checks a card against the very tree that would be published.
pub fn check_links(text: &str, exists: &dyn Fn(&str) -> bool) -> Result<()> {
    let front = front_matter(text)?;
    match local_links(text, &front).into_iter().find(|link| !exists(link)) {
        Some(bad) => Err(dangling(&bad)),
        None => Ok(()),
    }
}

/// The front matter between the two `---` lines at the top.
fn front_matter(text: &str) -> Result<Yaml> {
    let missing = || Error::stage("the card has no front matter").hint("a card starts with `---`, YAML, and `---`");
    let rest = text.strip_prefix("---\n").ok_or_else(missing)?;
    let end = rest.find("\n---").ok_or_else(missing)?;
    let mut documents = YamlLoader::load_from_str(&rest[..end])
        .map_err(|e| Error::stage("the card's front matter is no YAML").cause(e.to_string()))?;
    match documents.pop() {
        Some(front @ Yaml::Hash(_)) => Ok(front),
        _ => Err(Error::stage("the card's front matter is no YAML mapping")),
    }
}

fn check_front(front: &Yaml, license: &str) -> Result<()> {
    match front["license"].as_str() {
        None => {
            return Err(
                Error::stage("the card's front matter names no `license`").hint(format!("add `license: {license}`"))
            );
        }
        Some(found) if found != license => {
            return Err(Error::stage(format!("the card says license `{found}`, the manifest says `{license}`"))
                .hint("write `license: {{project.license}}` in the template"));
        }
        Some(_) => {}
    }
    if let Some(tag) = front["pipeline_tag"].as_str() {
        let mut known = PIPELINE_TAGS.lines();
        if !known.any(|k| k == tag) {
            let error = Error::stage(format!("the card's `pipeline_tag` is `{tag}`, which the Hub does not know"));
            return Err(match nearest(tag, PIPELINE_TAGS.lines()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        }
    }
    Ok(())
}

/// Every link and picture of the card that is no URL and no anchor, and the gallery's pictures, without `./` before and
/// `#...` behind.
fn local_links(text: &str, front: &Yaml) -> Vec<String> {
    let mut links: Vec<String> = Vec::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => links.push(dest_url.to_string()),
            Event::Html(html) | Event::InlineHtml(html) => links.extend(html_links(&html)),
            _ => {}
        }
    }
    let gallery = front["widget"].as_vec().map_or(&[][..], Vec::as_slice);
    links.extend(gallery.iter().filter_map(|w| w["output"]["url"].as_str()).map(String::from));
    links.extend(front["thumbnail"].as_str().map(String::from));
    let local = |link: &String| !link.contains("://") && !link.starts_with(['#', '/']) && !link.starts_with("mailto:");
    let clean = |link: String| {
        let path = link.split(['#', '?']).next().unwrap_or_default();
        path.strip_prefix("./").unwrap_or(path).replace("%20", " ")
    };
    links.into_iter().filter(local).map(clean).collect()
}

/// `src="..."` and `href="..."` of a piece of HTML.
fn html_links(html: &str) -> Vec<String> {
    let attributes = ["src=\"", "href=\""];
    let found = attributes.iter().flat_map(|a| html.split(a).skip(1).filter_map(|rest| rest.split('"').next()));
    found.map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---\nlicense: mit\nwidget:\n- text: a\n  output:\n    url: samples/a/0.png\n---\n# A\n[x](./config.json#top) \
                        [u](https://a.b) <img src=\"grid.png\">\n";

    #[test]
    fn links_of_text_html_and_gallery_are_found_and_urls_are_not() {
        let front = front_matter(CARD).unwrap();
        assert_eq!(local_links(CARD, &front), ["config.json", "grid.png", "samples/a/0.png"]);
        let error = check_links(CARD, &|path| path != "grid.png").unwrap_err();
        assert!(error.message().contains("`grid.png`"), "{error}");
    }

    #[test]
    fn a_licence_that_contradicts_the_manifest_and_an_unknown_pipeline_tag_are_refused() {
        let front = front_matter(CARD).unwrap();
        assert!(check_front(&front, "mit").is_ok());
        assert!(check_front(&front, "apache-2.0").is_err());
        let front = front_matter("---\nlicense: mit\npipeline_tag: image-generation\n---\n").unwrap();
        assert!(check_front(&front, "mit").unwrap_err().message().contains("image-generation"));
        assert!(front_matter("# no front matter").is_err());
        assert!(front_matter("---\nlicense: [\n---\n").is_err());
    }
}
