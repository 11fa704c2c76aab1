//! What the Hub takes in a model card's front matter: names, types and lists of known words, checked without a network.
//!
//! Source: the Hub's documentation of model cards and licences; the lists are those of npm's `@huggingface/tasks` 0.21.54
//! (`PIPELINE_DATA`, `MODEL_LIBRARIES_UI_ELEMENTS`) and `@huggingface/hub` 2.17.5 (`License`). Keys that are not in
//! [`KEYS`] are left alone (the Hub keeps them), unless they are one of these mistyped.
//!
//! Does not know what else is on the card.

use super::yaml::{self, Data, Node};
use crate::core::error::{Error, ErrorKind, Place, Result};
use crate::core::manifest::dom::join;
use crate::core::name::nearest;
use crate::stage::pages::Renderer;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The Hub's pipeline tags.
const PIPELINE_TAGS: &str = include_str!("../pipeline_tags.txt");
/// The Hub's licence identifiers.
const LICENSES: &str = include_str!("../licenses.txt");
/// The libraries that the Hub has a snippet or a filter for.
const LIBRARIES: &str = include_str!("../libraries.txt");
/// What `base_model_relation` may say.
const RELATIONS: [&str; 4] = ["adapter", "finetune", "merge", "quantized"];

/// What a key's value must be: the key as messages name it, and the value.
pub(super) type Rule = fn(&mut Check<'_>, &str, &Node);

/// The keys that are checked, each by its rule.
const KEYS: &[(&str, Rule)] = &[
    ("license", |c, key, node| c.license(key, node)),
    ("license_name", |c, key, node| _ = c.text(key, node)),
    ("license_link", |c, key, node| c.link(key, node)),
    ("pipeline_tag", |c, key, node| c.word(key, node, PIPELINE_TAGS, "pipeline tag", "")),
    ("library_name", |c, key, node| c.library(key, node)),
    ("language", |c, key, node| c.one_or_list(key, node, |c, key, node| c.language(key, node))),
    ("tags", |c, key, node| c.list(key, node, |c, key, node| _ = c.text(key, node))),
    ("datasets", |c, key, node| c.one_or_list(key, node, |c, key, node| c.repo(key, node))),
    ("metrics", |c, key, node| c.one_or_list(key, node, |c, key, node| _ = c.text(key, node))),
    ("base_model", |c, key, node| c.one_or_list(key, node, |c, key, node| c.repo(key, node))),
    ("base_model_relation", |c, key, node| c.word(key, node, &RELATIONS.join("\n"), "relation", "")),
    ("new_version", |c, key, node| c.repo(key, node)),
    ("thumbnail", |c, key, node| c.link(key, node)),
    ("widget", |c, key, node| c.list(key, node, |c, key, node| c.widget(key, node))),
    ("inference", |c, key, node| c.inference(key, node)),
    ("model-index", |c, key, node| c.list(key, node, |c, key, node| c.model(key, node))),
];

/// A card's front matter, and where its body begins.
pub struct Front {
    /// The mapping.
    pub root: Node,
    /// The byte after the YAML, at its closing `---`.
    pub end: usize,
}

/// The fence of a front matter: a line of its own, before and after.
const FENCE: &str = "---";

/// Where the YAML of the front matter ends, at its closing `---`; it begins at byte 4. The error is told of the text as
/// `README.md`.
fn bounds(text: &str) -> Result<usize> {
    let hint = "a card starts with `---`, YAML, and `---`, each `---` a line of its own";
    let wrong = |message: &str, start: usize, end: usize| {
        Err(Error::stage(message).at(place(&text.into(), start, end)).hint(hint))
    };
    let first = text.lines().next().unwrap_or_default();
    let blank = text.len() - text.trim_start().len();
    if let Some(rest) = text.strip_prefix('\u{feff}').filter(|rest| rest.starts_with(FENCE)) {
        return wrong("a byte order mark stands before the card's front matter", 0, text.len() - rest.len());
    }
    if first != FENCE && first.trim_end() == FENCE {
        return wrong("a space stands behind the `---` that opens the card's front matter", 3, first.len());
    }
    if first != FENCE && text.trim_start().starts_with(FENCE) {
        return wrong("an empty line, or a space, stands before the card's front matter", 0, blank.max(1));
    }
    if first != FENCE {
        return Err(Error::stage("the card has no front matter").hint(hint));
    }
    let mut at = 4;
    for line in text.get(4..).unwrap_or_default().split_inclusive('\n') {
        let bare = line.strip_suffix('\n').unwrap_or(line);
        if bare == FENCE {
            return Ok(at);
        }
        if bare.trim_end() == FENCE {
            return wrong(
                "a space stands behind the `---` that closes the card's front matter",
                at + 3,
                at + bare.len(),
            );
        }
        at += line.len();
    }
    wrong("the card's front matter is never closed: there is no second `---`", 0, 3)
}

/// Reads the front matter between the two `---` lines at the top of a card.
pub fn read(text: &str) -> Result<Front> {
    let end = bounds(text)?;
    let rest = &text[4..];
    let end = end - 4;
    let root = yaml::parse(&rest[..end], 4).map_err(|wrong| {
        let message = format!("the card's front matter is no YAML: {}", wrong.message);
        Error::stage(message).at(place(&text.into(), wrong.at, wrong.at + 1))
    })?;
    match root.data {
        Data::Map(_) => Ok(Front { root, end: 4 + end }),
        _ => Err(Error::stage("the card's front matter is no YAML mapping").hint("write `key: value` lines")),
    }
}

/// A place in the card.
pub fn place(text: &Arc<str>, start: usize, end: usize) -> Place {
    let start = start.min(text.len());
    Place { file: "README.md".into(), source: text.clone(), start, end: end.clamp(start, text.len()) }
}

/// Checks a card's front matter; every problem is told, with its place in the card. `license` is the manifest's, `known`
/// says whether a path will be in the published tree.
pub fn check(text: &Arc<str>, front: &Front, license: &str, known: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut check = Check { text, root: &front.root, license, known, problems: vec![] };
    check.keys();
    if check.problems.is_empty() { Ok(()) } else { Err(join(check.problems)) }
}

/// Keys whose value stands on their own line, so that a template shows it before anything is rendered.
const STATIC: [&str; 3] = ["license", "library_name", "pipeline_tag"];

/// Checks what a template's front matter says without a placeholder: those of [`STATIC`], before any stage runs. What is
/// filled in, and everything else, is checked when the card is rendered.
///
/// # Errors
/// The same as for the card, with the place in the template.
pub fn check_static(file: &str, template: &str, license: &str) -> Result<()> {
    let source: Arc<str> = template.into();
    let mut at = 4;
    let mut problems = Vec::new();
    // a first line that is filled in may open it
    let opening = bounds(template).err().filter(|e| e.place().is_some() && !template.contains("{{#"));
    problems.extend(opening);
    for line in template.strip_prefix("---\n").into_iter().flat_map(str::lines).take_while(|line| *line != "---") {
        let is_static = |key: &&str| line.strip_prefix(*key).is_some_and(|rest| rest.starts_with(':'));
        if STATIC.iter().any(is_static) && !line.contains("{{") {
            let root = yaml::parse(line, at).ok();
            // what `other` needs beside it may be filled in
            let entries = root.iter().flat_map(|root| root.entries()).filter(|(.., node)| node.text() != Some("other"));
            for (key, _, node) in entries {
                let mut check = Check { text: &source, root: node, license, known: &|_| true, problems: vec![] };
                KEYS.iter()
                    .filter(|(name, _)| name == key)
                    .for_each(|(_, rule)| rule(&mut check, &format!("`{key}`"), node));
                problems.append(&mut check.problems);
            }
        }
        at += line.len() + 1;
    }
    let in_template = |error: Error| match error.place().cloned() {
        Some(place) => error.at(Place { file: file.into(), ..place }).with_kind(ErrorKind::Manifest),
        None => error,
    };
    if problems.is_empty() { Ok(()) } else { Err(join(problems.into_iter().map(in_template).collect())) }
}

/// Checks that what is filled into a template's front matter leaves its lists and mappings as the template has them: that
/// every value is one YAML scalar.
///
/// # Errors
/// A value of several lines, or one that adds a key or an item.
pub fn check_filled(template: &str, renderer: &mut Renderer<'_>) -> Result<()> {
    let Ok(end) = bounds(template) else { return Ok(()) };
    let yaml = &template[4..end];
    if handlebars::Template::compile(yaml).is_err() {
        return Ok(()); // a block that ends below the front matter: its parts cannot be rendered alone
    }
    let hint = "write `{{yaml NAME}}`: then it is quoted";
    let lines = Arc::new(Mutex::new(None));
    let (count, found) = (AtomicUsize::new(0), lines.clone());
    let plain = renderer.render_as(yaml, move |value| {
        if let (true, Ok(mut found)) = (value.contains(['\n', '\r']), found.lock()) {
            *found = Some(value.to_string());
        }
        format!("x{}", count.fetch_add(1, Ordering::Relaxed))
    })?;
    if let Some(value) = lines.lock().ok().and_then(|found| found.clone()) {
        let message = format!("`{}` is filled into the front matter, and is more than one line", value.escape_debug());
        return Err(Error::stage(message).hint(hint));
    }
    let filled = renderer.render(yaml)?;
    let (Ok(plain), Ok(filled)) = (yaml::parse(&plain, 0), yaml::parse(&filled, 0)) else { return Ok(()) };
    if plain.is_shaped_as(&filled) {
        return Ok(());
    }
    Err(Error::stage("what is filled into the front matter adds keys or items to it").hint(hint))
}

/// Whether a text is the name of a repo: `name` or `namespace/name`, each of letters, digits, `-`, `_`, `.`, at most 96
/// characters.
pub(super) fn is_repo(text: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['-', '.'])
            && !p.ends_with(['-', '.'])
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split('/').count() <= 2 && text.split('/').all(part)
}

/// A front matter that is being checked, of a card or of a Space's README.
pub(super) struct Check<'a> {
    pub(super) text: &'a Arc<str>,
    pub(super) root: &'a Node,
    pub(super) license: &'a str,
    pub(super) known: &'a dyn Fn(&str) -> bool,
    pub(super) problems: Vec<Error>,
}

impl Check<'_> {
    pub(super) fn problem(&mut self, node: &Node, message: String, hint: impl Into<String>) {
        let error = Error::stage(message).at(place(self.text, node.start, node.end.max(node.start + 1)));
        let hint = hint.into();
        self.problems.push(if hint.is_empty() { error } else { error.hint(hint) });
    }

    fn keys(&mut self) {
        let root = self.root;
        if root.get("license").is_none() {
            let hint = format!("add `license: {}`", self.license);
            self.problem(root, "the card's front matter names no `license`".into(), hint);
        }
        for (key, at, node) in root.entries() {
            match KEYS.iter().find(|(name, _)| name == key) {
                Some((_, rule)) => rule(self, &format!("`{key}`"), node),
                None => self.unknown(key, at),
            }
        }
        if let (None, Some(node)) = (root.get("base_model"), root.get("base_model_relation")) {
            let message = "`base_model_relation` is there, and no `base_model`".into();
            self.problem(node, message, "name the model that this one comes from, or take the key out");
        }
    }

    /// A key of one's own is kept by the Hub; a mistyped one of its own would be silently without effect.
    fn unknown(&mut self, key: &str, at: &Node) {
        let same = |known: &str| strsim::damerau_levenshtein(&key.to_lowercase().replace('-', "_"), known);
        let near = KEYS.iter().map(|(k, _)| (same(&k.replace('-', "_")), *k)).min();
        if let Some((distance, near)) = near.filter(|(d, k)| *d <= 1 + usize::from(k.len() > 7)) {
            let word = if distance == 0 { "is spelled otherwise" } else { "is mistyped" };
            self.problem(at, format!("the key `{key}` of the front matter {word}"), format!("did you mean `{near}`?"));
        }
    }

    pub(super) fn wrong(&mut self, key: &str, node: &Node, expected: &str) {
        self.problem(node, format!("{key} of the front matter takes {expected}, not {}", node.type_name()), "");
    }

    pub(super) fn text<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n str> {
        match node.text().filter(|t| !t.trim().is_empty()) {
            Some(text) => Some(text),
            None if node.text().is_some() => {
                self.problem(node, format!("{key} of the front matter is empty"), "");
                None
            }
            None => {
                self.wrong(key, node, "a text");
                None
            }
        }
    }

    pub(super) fn list(&mut self, key: &str, node: &Node, rule: Rule) {
        match &node.data {
            Data::List(items) => items.iter().for_each(|item| rule(self, &format!("an item of {key}"), item)),
            _ => self.wrong(key, node, "a list"),
        }
    }

    fn one_or_list(&mut self, key: &str, node: &Node, rule: Rule) {
        match node.data {
            Data::List(_) => self.list(key, node, rule),
            Data::Text(_) => rule(self, key, node),
            _ => self.wrong(key, node, "a text or a list of texts"),
        }
    }

    fn mapping(&mut self, key: &str, node: &Node) -> bool {
        let is = matches!(node.data, Data::Map(_));
        if !is {
            self.wrong(key, node, "a mapping");
        }
        is
    }

    /// A text that is one of the lines of `words`.
    fn word(&mut self, key: &str, node: &Node, words: &str, what: &str, hint: &str) {
        let Some(found) = self.text(key, node) else { return };
        if words.lines().any(|known| known == found) {
            return;
        }
        let lower = found.to_lowercase().replace(' ', "-");
        let near = words.lines().find(|k| k.to_lowercase() == lower).or_else(|| nearest(&lower, words.lines()));
        let hint = near.filter(|_| hint.is_empty()).map_or(hint.to_string(), |near| format!("did you mean `{near}`?"));
        let hint = if hint.is_empty() { format!("known: {}", few(words)) } else { hint };
        self.problem(node, format!("{key} is `{}`, which is no {what} of the Hub", found.escape_debug()), hint);
    }

    fn license(&mut self, key: &str, node: &Node) {
        self.one_or_list(key, node, |c, key, node| c.word(key, node, LICENSES, "licence identifier", ""));
        let all: Vec<&str> = node.text().into_iter().chain(node.list().iter().filter_map(Node::text)).collect();
        if all.iter().any(|license| *license != self.license) {
            let message = format!("the card says license `{}`, the manifest says `{}`", all.join("`, `"), self.license);
            self.problem(node, message, "write `license: {{project.license}}` in the template");
        }
        if let Some(name) = self.root.get("license_name").filter(|_| !all.is_empty() && !all.contains(&"other")) {
            let hint = "take it out, or write `license = \"other\"` in [project]";
            self.problem(name, "`license_name` is the name of a licence that is `other`".into(), hint);
        }
        if all.contains(&"other") && self.root.get("license_name").is_none() {
            let hint = "add `license_name: short-name` and `license_link: LICENSE` (a file of the repo, or a URL)";
            self.problem(node, "`license: other` needs a `license_name`".into(), hint);
        }
    }

    fn library(&mut self, key: &str, node: &Node) {
        let hint = match node.text().unwrap_or_default() {
            "onnx" | "safetensors" | "gguf" | "pytorch" | "torch" => {
                "a file format is no library: put it under `tags`, and leave `library_name` out where no library loads the model"
            }
            _ => "",
        };
        self.word(key, node, LIBRARIES, "library", hint);
    }

    /// ISO 639-1, -2 or -3, with subtags as in BCP 47; and the Hub's `code` and `multilingual`.
    fn language(&mut self, key: &str, node: &Node) {
        let Some(text) = self.text(key, node) else { return };
        let mut parts = text.split('-');
        let first = parts.next().unwrap_or_default();
        let fits = (2..=3).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_lowercase());
        let rest = parts.all(|p| (2..=8).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric()));
        let code = (fits && rest) || ["code", "multilingual"].contains(&text);
        if !code {
            let message = format!("{key} is `{}`, which is no language code", text.escape_debug());
            self.problem(node, message, "write ISO 639 codes, for example `en`, `de`, `zh`, `pt-BR`");
        }
    }

    /// Checked by [`is_repo`].
    pub(super) fn repo(&mut self, key: &str, node: &Node) {
        let Some(text) = self.text(key, node) else { return };
        if !is_repo(text) {
            let message = format!("{key} is `{}`, which is no repo on the Hub", text.escape_debug());
            self.problem(node, message, "write `namespace/name`, without a URL before it");
        }
    }

    /// A URL, or a path that will be in the published tree.
    fn link(&mut self, key: &str, node: &Node) {
        let Some(text) = self.text(key, node) else { return };
        match super::links::local(text, &[]) {
            Some(path) if !(self.known)(&path) => {
                let message = format!("{key} is `{path}`, which is not in the published tree");
                self.problem(node, message, "publish it under that path, or write a URL");
            }
            _ => {}
        }
    }

    fn widget(&mut self, key: &str, node: &Node) {
        if !self.mapping(key, node) {
            return;
        }
        if node.entries().is_empty() {
            self.problem(node, format!("{key} is empty"), "an example has a `text`, and a picture under `output`");
        }
        if let Some(text) = node.get("text") {
            self.text(&format!("`text` in {key}"), text);
        }
        let Some(output) = node.get("output") else { return };
        let key = format!("`output` in {key}");
        if !self.mapping(&key, output) {
            return;
        }
        match output.get("url") {
            Some(url) => self.link(&format!("`url` of {key}"), url),
            None if output.get("text").is_none() && output.get("label").is_none() => {
                let hint = "write `url: samples/a/0.png`, a file of the repo";
                self.problem(output, format!("{key} has no `url`"), hint);
            }
            None => {}
        }
    }

    fn inference(&mut self, key: &str, node: &Node) {
        match &node.data {
            Data::Bool(_) => {}
            Data::Map(entries) => {
                let bad = entries.iter().find(|(k, _, v)| k == "parameters" && !matches!(v.data, Data::Map(_)));
                if let Some((.., value)) = bad {
                    self.wrong("`parameters` of `inference`", value, "a mapping");
                }
            }
            _ => self.wrong(key, node, "`true`, `false` or a mapping with `parameters`"),
        }
    }

    fn model(&mut self, key: &str, node: &Node) {
        if !self.mapping(key, node) {
            return;
        }
        self.required(key, node, "name", |c, key, node| _ = c.text(key, node));
        self.required(key, node, "results", |c, key, node| c.list(key, node, |c, key, node| c.result(key, node)));
    }

    /// <https://github.com/huggingface/hub-docs/blob/main/modelcard.md>: a task and a dataset with their types, metrics.
    fn result(&mut self, key: &str, node: &Node) {
        if !self.mapping(key, node) {
            return;
        }
        self.required(key, node, "task", |c, key, node| {
            if c.mapping(key, node) {
                c.required(key, node, "type", |c, key, node| _ = c.text(key, node));
            }
        });
        self.required(key, node, "dataset", |c, key, node| {
            if c.mapping(key, node) {
                c.required(key, node, "type", |c, key, node| _ = c.text(key, node));
                c.required(key, node, "name", |c, key, node| _ = c.text(key, node));
            }
        });
        self.required(key, node, "metrics", |c, key, node| c.list(key, node, |c, key, node| c.metric(key, node)));
        if let Some(source) = node.get("source") {
            let key = format!("`source` in {key}");
            if self.mapping(&key, source) {
                self.required(&key, source, "url", |c, key, node| {
                    if c.text(key, node).is_some_and(|u| !u.starts_with("http://") && !u.starts_with("https://")) {
                        c.problem(node, format!("{key} is no URL"), "write `https://...`");
                    }
                });
            }
        }
    }

    fn metric(&mut self, key: &str, node: &Node) {
        if !self.mapping(key, node) {
            return;
        }
        self.required(key, node, "type", |c, key, node| _ = c.text(key, node));
        self.required(key, node, "value", |c, key, node| match node.data {
            Data::Number(n) if n.is_finite() => {}
            _ => c.wrong(key, node, "a number"),
        });
    }

    fn required(&mut self, what: &str, node: &Node, name: &str, rule: Rule) {
        match node.get(name) {
            Some(value) => rule(self, &format!("`{name}` in {what}"), value),
            None => self.problem(node, format!("{what} of the front matter lacks `{name}`"), ""),
        }
    }
}

/// The first lines of a list.
fn few(words: &str) -> String {
    let all: Vec<&str> = words.lines().collect();
    let more = if all.len() > 8 { ", ..." } else { "" };
    format!("{}{more}", all[..all.len().min(8)].join(", "))
}
