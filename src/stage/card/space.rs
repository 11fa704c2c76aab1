//! A Space's README: its front matter says how the Hub runs it, and is checked here without a network.
//!
//! Source: <https://huggingface.co/docs/hub/spaces-config-reference>. What the Hub would only find out when it builds the
//! Space (a key that is mistyped, an `app_file` that is not there) is an error before anything is sent. Does not know what
//! the app does.

use super::front::{self, Check, Rule};
use super::links;
use super::yaml::{Data, Node};
use crate::core::error::Result;
use crate::core::manifest::dom::join;
use crate::core::manifest::target;
use crate::core::name::nearest;
use crate::stage::Declare;
use std::sync::Arc;

/// What a Space may run on.
const SDKS: [&str; 3] = ["gradio", "docker", "static"];
/// The colours of a thumbnail.
const COLOURS: [&str; 8] = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"];
/// The Hub's licence identifiers.
const LICENSES: &str = include_str!("../licenses.txt");
/// The most characters of `short_description`.
const DESCRIPTION: usize = 60;

/// The keys, each by its rule.
const KEYS: &[(&str, Rule)] = &[
    ("title", |c, key, node| _ = c.text(key, node)),
    ("emoji", emoji),
    ("colorFrom", |c, key, node| word(c, key, node, &COLOURS)),
    ("colorTo", |c, key, node| word(c, key, node, &COLOURS)),
    ("sdk", |c, key, node| word(c, key, node, &SDKS)),
    ("sdk_version", version),
    ("python_version", version),
    ("app_file", file),
    ("app_build_command", |c, key, node| _ = c.text(key, node)),
    ("app_port", port),
    ("base_path", |c, key, node| _ = c.text(key, node)),
    ("fullWidth", truth),
    ("header", |c, key, node| word(c, key, node, &["default", "mini"])),
    ("short_description", description),
    ("models", |c, key, node| c.list(key, node, |c, key, node| c.repo(key, node))),
    ("datasets", |c, key, node| c.list(key, node, |c, key, node| c.repo(key, node))),
    ("tags", |c, key, node| c.list(key, node, |c, key, node| _ = c.text(key, node))),
    ("thumbnail", |c, key, node| _ = c.text(key, node)),
    ("license", license),
    ("pinned", truth),
    ("hf_oauth", truth),
    ("hf_oauth_scopes", |c, key, node| c.list(key, node, |c, key, node| _ = c.text(key, node))),
    ("hf_oauth_expiration_minutes", |c, key, node| _ = number(c, key, node)),
    ("disable_embedding", truth),
    ("startup_duration_timeout", |c, key, node| _ = c.text(key, node)),
    ("suggested_hardware", |c, key, node| _ = c.text(key, node)),
    ("suggested_storage", |c, key, node| _ = c.text(key, node)),
    ("custom_headers", |_, _, _| {}),
    ("preload_from_hub", |c, key, node| c.list(key, node, |c, key, node| _ = c.text(key, node))),
];

/// Where an artifact is the README of a Space: the paths of that Space's tree, those of directories ending in `/`.
pub fn tree(cx: &Declare<'_>) -> Option<Vec<String>> {
    let spaces = cx.manifest.uploads().filter(|s| target::of_upload(cx.manifest, s).is_ok_and(|to| to.kind == "space"));
    let files = spaces.map(|s| s.map("files"));
    let ours = |path: &str, artifact: &str| path == "README.md" && artifact == cx.spec.name.as_str();
    let files = files.into_iter().find(|f| f.iter().any(|(path, _, artifact, _)| ours(path, artifact)))?;
    Some(files.into_iter().map(|(path, ..)| path).chain([crate::core::plan::RECORD.into()]).collect())
}

/// What a Space runs on, where its README says so.
pub fn sdk(text: &str) -> Option<String> {
    let front = front::read(text).ok()?;
    Some(front.root.get("sdk")?.text()?.to_string())
}

/// Checks the README of a Space; every problem is told, with its place. `license` is the manifest's, `known` says whether a
/// path will be in the published tree.
pub fn check(text: &str, license: &str, known: &dyn Fn(&str) -> bool) -> Result<()> {
    let front = front::read(text)?;
    let source: Arc<str> = text.into();
    let mut check = Check { text: &source, root: &front.root, license, known, problems: vec![] };
    keys(&mut check);
    needed(&mut check);
    let dangling = links::all(text, &front, &[]).into_iter().filter(|link| !known(&link.path));
    check.problems.extend(dangling.map(|link| links::dangling(&source, &link)));
    if check.problems.is_empty() { Ok(()) } else { Err(join(check.problems)) }
}

fn keys(check: &mut Check<'_>) {
    let root = check.root;
    for (key, at, node) in root.entries() {
        match KEYS.iter().find(|(name, _)| name == key) {
            Some((_, rule)) => rule(check, &format!("`{key}`"), node),
            None => {
                // `color_from` too
                let plain = key.to_lowercase().replace(['_', '-'], "");
                let same = KEYS.iter().map(|(k, _)| *k).find(|k| k.to_lowercase().replace('_', "") == plain);
                let near = same.or_else(|| nearest(key, KEYS.iter().map(|(k, _)| *k)));
                if let Some(near) = near {
                    let message = format!("the key `{key}` of a Space's front matter is mistyped");
                    check.problem(at, message, format!("did you mean `{near}`?"));
                }
            }
        }
    }
}

/// What must be there, and the file that the Hub starts.
fn needed(check: &mut Check<'_>) {
    let root = check.root;
    for (key, hint) in [("title", "add `title: ...`, the name on its page"), ("sdk", "add `sdk: gradio`")] {
        if root.get(key).is_none() {
            check.problem(root, format!("a Space's front matter lacks `{key}`"), hint);
        }
    }
    let sdk = root.get("sdk").and_then(Node::text).unwrap_or_default();
    if sdk == "gradio" && root.get("sdk_version").is_none() {
        let hint = "add `sdk_version: ...`: without it the Space changes when gradio does";
        check.problem(root, "a gradio Space's front matter lacks `sdk_version`".into(), hint);
    }
    let started = match (sdk, root.get("app_file")) {
        ("docker", _) => "Dockerfile",
        ("gradio", None) => "app.py",
        ("static", None) => "index.html",
        _ => return,
    };
    if !(check.known)(started) {
        let message = format!("a Space on {sdk} starts `{started}`, which is not in the published tree");
        check.problem(root, message, "publish it under that path, or name another with `app_file`");
    }
}

fn truth(check: &mut Check<'_>, key: &str, node: &Node) {
    if !matches!(node.data, Data::Bool(_)) {
        check.wrong(key, node, "`true` or `false`");
    }
}

fn number(check: &mut Check<'_>, key: &str, node: &Node) -> Option<f64> {
    if let Data::Number(n) = node.data {
        return Some(n);
    }
    check.wrong(key, node, "a number");
    None
}

fn word(check: &mut Check<'_>, key: &str, node: &Node, words: &[&str]) {
    let Some(text) = check.text(key, node).filter(|text| !words.contains(text)) else { return };
    let hint = match nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", words.join(", ")),
    };
    check.problem(node, format!("{key} is `{}`, which the Hub does not know", text.escape_debug()), hint);
}

fn version(check: &mut Check<'_>, key: &str, node: &Node) {
    match &node.data {
        Data::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {}
        Data::Number(_) => {
            let message = format!("{key} of the front matter is a number, and `5.10` would be `5.1`");
            check.problem(node, message, "write it in quotes");
        }
        _ => check.wrong(key, node, "a version such as `6.31.0`"),
    }
}

fn emoji(check: &mut Check<'_>, key: &str, node: &Node) {
    let Some(text) = check.text(key, node) else { return };
    // one emoji may be several characters that are joined
    if text.chars().any(|c| c.is_ascii() || c.is_alphanumeric()) || text.chars().count() > 10 {
        check.problem(
            node,
            format!("{key} is `{}`, which is no emoji", text.escape_debug()),
            "for example `emoji: 🐈`",
        );
    }
}

fn file(check: &mut Check<'_>, key: &str, node: &Node) {
    let Some(text) = check.text(key, node).filter(|text| !(check.known)(text)) else { return };
    let message = format!("{key} is `{text}`, which is not in the published tree");
    check.problem(node, message, "publish it under that path");
}

fn port(check: &mut Check<'_>, key: &str, node: &Node) {
    if number(check, key, node).is_some_and(|n| n.fract() != 0.0 || !(1.0..=65535.0).contains(&n)) {
        check.problem(node, format!("{key} is no port"), "for example `app_port: 7860`");
    }
}

fn description(check: &mut Check<'_>, key: &str, node: &Node) {
    let long = check.text(key, node).map_or(0, |text| text.chars().count());
    if long > DESCRIPTION {
        check.problem(node, format!("{key} has {long} characters, and the Hub takes {DESCRIPTION}"), "");
    }
}

fn license(check: &mut Check<'_>, key: &str, node: &Node) {
    let Some(text) = check.text(key, node) else { return };
    if !LICENSES.lines().any(|known| known == text) {
        check.problem(
            node,
            format!("{key} is `{}`, which is no licence identifier of the Hub", text.escape_debug()),
            "",
        );
    } else if text != check.license {
        let message = format!("the Space says license `{text}`, the manifest says `{}`", check.license);
        check.problem(node, message, "write `license: {{project.license}}` in the template");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "---\ntitle: Cats\nemoji: 🐈\ncolorFrom: yellow\ncolorTo: gray\nsdk: gradio\nsdk_version: 6.31.0\n\
        app_file: app.py\npinned: false\nlicense: mit\nshort_description: draws cats\nmodels:\n- a/b\n---\n[app](app.py)\n";

    fn problems(text: &str) -> Vec<String> {
        match check(text, "mit", &|path| path == "app.py") {
            Ok(()) => vec![],
            Err(e) => std::iter::once(&e).chain(e.others()).map(|e| e.message().to_string()).collect(),
        }
    }

    #[test]
    fn a_good_one_passes_and_its_sdk_is_read() {
        assert_eq!(problems(GOOD), [""; 0]);
        assert_eq!(sdk(GOOD).as_deref(), Some("gradio"));
    }

    #[test]
    fn what_the_hub_would_only_find_when_it_builds_the_space_is_told_before() {
        for (was, now, told) in [
            ("title: Cats\n", "", "a Space's front matter lacks `title`"),
            ("sdk: gradio\n", "", "a Space's front matter lacks `sdk`"),
            ("sdk: gradio", "sdk: gradoi", "`sdk` is `gradoi`, which the Hub does not know"),
            ("sdk_version: 6.31.0\n", "", "a gradio Space's front matter lacks `sdk_version`"),
            ("6.31.0", "6.30", "`sdk_version` of the front matter is a number, and `5.10` would be `5.1`"),
            ("app_file: app.py", "app_file: main.py", "`app_file` is `main.py`, which is not in the published tree"),
            ("colorTo: gray", "colorTo: grey", "`colorTo` is `grey`, which the Hub does not know"),
            ("colorTo", "color_to", "the key `color_to` of a Space's front matter is mistyped"),
            ("🐈", "cat", "`emoji` is `cat`, which is no emoji"),
            ("license: mit", "license: apache-2.0", "the Space says license `apache-2.0`, the manifest says `mit`"),
            ("pinned: false", "pinned: maybe", "`pinned` of the front matter takes `true` or `false`, not a text"),
            ("- a/b", "- https://x/a/b", "an item of `models` is `https://x/a/b`, which is no repo on the Hub"),
            ("(app.py)", "(gone.py)", "the card links to `gone.py`, which is not in the published tree"),
        ] {
            assert_eq!(problems(&GOOD.replacen(was, now, 1)), [told], "{now}");
        }
        let long = GOOD.replace("draws cats", &"x".repeat(61));
        assert_eq!(problems(&long), ["`short_description` has 61 characters, and the Hub takes 60"]);
        let docker = GOOD.replace("sdk: gradio", "sdk: docker");
        assert_eq!(problems(&docker), ["a Space on docker starts `Dockerfile`, which is not in the published tree"]);
    }
}
