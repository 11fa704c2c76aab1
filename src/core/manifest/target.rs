//! Where an upload goes: the keys that it shares with `[hub]`, each of which defaults to that table's.
//!
//! A profile may change them too: `[profile.NAME.hub]` for all, `[profile.NAME.upload.UPLOAD]` for one. Knows the keys and
//! which table goes before which; does not know hubs, flags or what is published.

use crate::core::error::{Error, Result};
use crate::core::fill::fill;
use crate::core::leaks::Allowed;
use crate::core::manifest::dom::{Data, Node, Source, Table};
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::manifest::{Manifest, Project, Spec, overlay, project, table_at, text_of};
use crate::core::name::nearest;
use std::ops::Range;

/// The kind whose artifacts are publishes.
pub(super) const UPLOAD: &str = "upload";

/// The keys of one publish. In `[hub]`, `repo` is required.
pub const TARGET: [Field; 10] = [
    Field::optional("repo", FieldType::Text, "the repo on the Hub, `namespace/name`"),
    Field::optional("type", FieldType::Choice(&["model", "dataset", "space"]), "what the repo is"),
    Field::optional("private", FieldType::Bool, "whether a repo that has to be created is private"),
    Field::optional(
        "revision",
        FieldType::Text,
        "the branch to publish to, `main` by default; made where it is not there",
    ),
    Field::optional("tag", FieldType::Text, "a tag for each new version, e.g. `v{project.version}`"),
    Field::optional(
        "on_tag",
        FieldType::Choice(&["skip", "fail", "move"]),
        "what to do where the tag is there already",
    ),
    Field::optional(
        "on_drift",
        FieldType::Choice(&["fail", "overwrite", "pull-request"]),
        "what to do where the remote drifted",
    ),
    Field::optional("pull_request", FieldType::Bool, "whether to open a pull request instead of committing"),
    Field::optional("mirror", FieldType::Bool, "whether files of the repo that the manifest does not name are deleted"),
    Field::optional(
        "allow_findings",
        FieldType::Map(&FieldType::List(&FieldType::Text)),
        "path in the repo -> rules whose findings in it are published all the same",
    ),
];

/// `[hub]`, and the target of an upload.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    /// `namespace/name`
    pub repo: String,
    /// Where `repo` stands.
    pub repo_span: Range<usize>,
    /// Whether an upload names the repo itself, and not [hub].
    pub own_repo: bool,
    /// `model`, `dataset` or `space`
    pub kind: String,
    /// Whether a repo that has to be created becomes private.
    pub private: bool,
    /// A URL or `embedded`; nothing: `HF_ENDPOINT`, then the public Hub. One for all uploads.
    pub endpoint: Option<String>,
    /// The branch.
    pub revision: String,
    /// The tag to set at each publish of a new version, its placeholders filled.
    pub tag: Option<String>,
    /// What to do where the tag is there already.
    pub on_tag: OnTag,
    /// What to do where the remote drifted.
    pub on_drift: OnDrift,
    /// Whether a pull request is opened instead of a commit to the branch.
    pub pull_request: bool,
    /// Whether files of the repo that the manifest does not name are deleted, whoever put them there.
    pub mirror: bool,
    /// Findings in files that are published all the same: rules by path in the repo.
    pub allow_findings: Allowed,
}

/// `on_tag`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnTag {
    /// Leave it, and say so.
    #[default]
    Skip,
    /// Refuse.
    Fail,
    /// Set it on the new commit.
    Move,
}

/// `on_drift`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDrift {
    /// Show it and refuse.
    #[default]
    Fail,
    /// Publish over it.
    Overwrite,
    /// Propose the change as a pull request.
    PullRequest,
}

/// `[hub]` as it stands.
pub(super) fn of_hub(table: &Table, project: &Project) -> Hub {
    read(&|key| table.get(key), project)
}

/// The target of an upload: its own keys before [hub]'s. An error where neither names a repo.
pub fn of_upload(manifest: &Manifest, spec: &Spec) -> Result<Hub> {
    let hub = manifest.hub_table.as_ref();
    let own = |key: &str| spec.table.get(key);
    let target = read(&|key| own(key).or_else(|| hub?.get(key)), &manifest.project);
    if target.repo.is_empty() {
        let message = format!("artifact `{}` publishes, and there is no [hub]", spec.name);
        return Err(manifest
            .source
            .error(spec.span.clone(), message)
            .hint("add [hub] with `repo = \"namespace/name\"`, or `repo` to the artifact"));
    }
    Ok(Hub { own_repo: own("repo").is_some(), ..target })
}

fn read<'t>(get: &dyn Fn(&str) -> Option<&'t Node>, project: &Project) -> Hub {
    let text = |key| get(key).and_then(Node::as_text).map(str::to_string);
    let yes = |key| matches!(get(key).map(|n| &n.data), Some(Data::Bool(true)));
    Hub {
        repo: text("repo").unwrap_or_default(),
        repo_span: get("repo").map_or(0..0, |n| n.span.clone()),
        own_repo: false,
        kind: text("type").unwrap_or_else(|| "model".into()),
        private: yes("private"),
        endpoint: text("endpoint"),
        revision: text("revision").unwrap_or_else(|| "main".into()),
        tag: text("tag").and_then(|template| tag(&template, project).ok()),
        on_tag: match text("on_tag").as_deref() {
            Some("fail") => OnTag::Fail,
            Some("move") => OnTag::Move,
            _ => OnTag::Skip,
        },
        on_drift: match text("on_drift").as_deref() {
            Some("overwrite") => OnDrift::Overwrite,
            Some("pull-request") => OnDrift::PullRequest,
            _ => OnDrift::Fail,
        },
        pull_request: yes("pull_request"),
        mirror: yes("mirror"),
        allow_findings: get("allow_findings").and_then(Node::as_table).map(allowed).unwrap_or_default(),
    }
}

fn allowed(table: &Table) -> Allowed {
    let texts =
        |node: &Node| node.as_array().unwrap_or_default().iter().filter_map(Node::as_text).map(String::from).collect();
    table.entries.iter().map(|(path, _, rules)| (path.clone(), texts(rules))).collect()
}

/// The tag's name, its placeholders filled; the error is its message and hint.
fn tag(template: &str, project: &Project) -> Result<String, (String, &'static str)> {
    let known = [("name", &project.name), ("version", &project.version), ("license", &project.license)];
    let lookup = |name: &str| {
        let name = name.strip_prefix("project.")?;
        known.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).clone())
    };
    let name = fill(template, &lookup).map_err(|name| {
        (format!("`{{{name}}}` in `tag` stands for nothing"), "known: {project.name}, {project.version}")
    })?;
    match is_ref(&name) {
        true => Ok(name),
        false => {
            Err((format!("`{}` cannot be the name of a tag", name.escape_debug()), "for example `v{project.version}`"))
        }
    }
}

/// Whether git takes it as the name of a branch or tag: git-check-ref-format(1).
fn is_ref(name: &str) -> bool {
    let bad = |c: char| c.is_control() || c == ' ' || "~^:?*[\\".contains(c);
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.ends_with(".lock");
    let fits = !name.contains(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && !name.starts_with('-');
    fits && name.split('/').all(part)
}

/// What the types of these keys do not tell: in [hub], in every upload, and of both in every profile.
pub(super) fn check(top: &Table, source: &Source, problems: &mut Vec<Error>) {
    let project = project(&table_at(top, "project"));
    let none = Table::default();
    let artifacts = top.get("artifact").and_then(Node::as_table).unwrap_or(&none);
    let is_upload = |table: &Table| table.get("kind").and_then(Node::as_text) == Some(UPLOAD);
    let uploads = artifacts.entries.iter().filter_map(|(name, _, node)| Some((name, node.as_table()?)));
    let uploads: Vec<_> = uploads.filter(|(_, table)| is_upload(table)).collect();
    uploads.iter().for_each(|(_, table)| check_table(table, &project, source, problems));
    let hubs = std::iter::once(top).chain(overlay::profiles(top).map(|(_, profile)| profile));
    hubs.filter_map(|t| t.get("hub")?.as_table()).for_each(|hub| check_table(hub, &project, source, problems));
    for (profile, table) in overlay::profiles(top) {
        for (name, span, node) in &table_at(table, "upload").entries {
            node.as_table().into_iter().for_each(|table| check_table(table, &project, source, problems));
            if uploads.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let (profile, shown) = (profile.escape_debug(), name.escape_debug());
            let message = format!("profile `{profile}` has keys for the upload `{shown}`, and no upload is called so");
            problems.push(source.error(span.clone(), message).hint(
                match nearest(name, uploads.iter().map(|(name, _)| name.as_str())) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "name an artifact of kind `upload`".into(),
                },
            ));
        }
    }
}

fn check_table(table: &Table, project: &Project, source: &Source, problems: &mut Vec<Error>) {
    let place = |key: &str| table.get(key).map_or(0..0, |n| n.span.clone());
    if let Some(Err((why, hint))) = text_of(table, "tag").map(|template| tag(&template, project)) {
        problems.push(source.error(place("tag"), why).hint(hint));
    }
    if let Some(name) = text_of(table, "revision").filter(|name| !name.is_empty() && !is_ref(name)) {
        let message = format!("`{}` cannot be the name of a branch", name.escape_debug());
        problems.push(source.error(place("revision"), message).hint("for example `main` or `staging`"));
    }
    let endpoint = text_of(table, "endpoint").unwrap_or_else(|| "embedded".into());
    if endpoint != "embedded" && !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        let error = source.error(place("endpoint"), format!("`{}` is no hub's address", endpoint.escape_debug()));
        problems.push(error.hint("write `embedded`, or a URL such as `https://huggingface.co`"));
    }
}

/// Lays a profile's keys of single uploads over their tables.
pub(super) fn lay(top: &mut Table, profile: &Table) {
    for (name, _, node) in table_at(profile, "upload").entries {
        let Some(keys) = node.as_table() else { continue };
        let artifacts = top.entries.iter_mut().find(|(k, ..)| k == "artifact").map(|(.., node)| &mut node.data);
        let Some(Data::Table(artifacts)) = artifacts else { return };
        let found = artifacts.entries.iter_mut().find(|(k, ..)| *k == name).map(|(.., node)| &mut node.data);
        let Some(Data::Table(own)) = found else { continue };
        for (key, span, value) in &keys.entries {
            match own.entries.iter_mut().find(|(k, ..)| k == key) {
                Some((.., old)) => *old = value.clone(),
                None => own.entries.push((key.clone(), span.clone(), value.clone())),
            }
        }
    }
}
