//! Pages for people: repositories, a repository's card and files, one file, the history.
//!
//! Small HTML with one style sheet inside, nothing from elsewhere, no scripts. Everything that comes from a repository is
//! escaped. Knows no protocol.

use axum::http::HeaderValue;

use super::answer::{Answer, Outcome, Refused, answer};
use super::card;
use super::files::content_type;
use super::listing::tags_of;
use super::markdown::{Places, escape, render};
use super::routes::{Ask, Hub};
use super::store::{Commit, StoredFile};
use crate::hub::repo::{RepoId, RepoKind};

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}\
a{color:#2563eb;text-decoration:none}a:hover{text-decoration:underline}code,pre{font:.9em/1.4 ui-monospace,monospace}\
pre{background:#8881;padding:.75rem;overflow:auto;border-radius:.4rem}code{background:#8882;padding:0 .2em}pre code{\
background:none;padding:0}table{border-collapse:collapse;margin:.5rem 0}td,th{border:1px solid #8884;padding:.2rem .6rem;\
text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}header{border-bottom:1px solid \
#8884;margin-bottom:1rem}.dim{color:#888}blockquote{border-left:.25rem solid #8886;margin-left:0;padding-left:1rem}";

/// How much of a text file a page shows.
const SHOWN: u64 = 256 << 10;

fn page(title: &str, heading: &str, body: &str) -> Outcome {
    let title = escape(title);
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><header><a href=\"/\">embedded hub</a> {heading}</header>\n{body}</html>\n"
    );
    let mut answer: Answer = answer(200, "text/html; charset=utf-8", html);
    let policy =
        "default-src 'none'; img-src 'self' https:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    answer.headers_mut().insert("content-security-policy", HeaderValue::from_static(policy));
    Ok(answer)
}

/// A path in a URL: all that is not plain is percent-encoded.
fn url(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'.' | b'_' | b'~');
    path.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn segment(revision: &str) -> String {
    url(revision).replace('/', "%2F")
}

fn bytes(size: u64) -> String {
    match size {
        0..=999 => format!("{size} B"),
        1_000..=999_999 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} MB", size as f64 / 1e6),
        _ => format!("{:.2} GB", size as f64 / 1e9),
    }
}

fn heading(repo: &RepoId) -> String {
    let path = repo.web_path();
    format!("/ <a href=\"/{}\">{}</a>", url(&path), escape(&path))
}

/// All repositories.
pub(super) fn home(hub: &Hub, ask: &Ask) -> Outcome {
    let mut body = String::new();
    for kind in RepoKind::ALL {
        let repos = hub.repos(ask, kind);
        if repos.is_empty() {
            continue;
        }
        body.push_str(&format!("<h2>{}</h2>\n<table>\n", kind.plural()));
        for repo in repos {
            let commit = hub.at(&repo, "main")?;
            body.push_str(&format!(
                "<tr><td><a href=\"/{}\">{}</a><td class=dim>{}<td class=dim>{}</tr>\n",
                url(&repo.web_path()),
                escape(repo.name()),
                escape(&commit.title),
                escape(&commit.date)
            ));
        }
        body.push_str("</table>\n");
    }
    if body.is_empty() {
        body = "<p>Nothing is published here yet.</p>".to_owned();
    }
    page("embedded hub", "", &body)
}

/// The card, and below it the files.
pub(super) fn front(hub: &Hub, repo: &RepoId) -> Outcome {
    let commit = hub.at(repo, "main")?;
    let mut body = about(hub, repo, "main", &commit);
    if let Some(file) = commit.tree.get("README.md").filter(|file| file.size <= 4 * SHOWN) {
        let text = String::from_utf8_lossy(&hub.store.read_object(file)?).into_owned();
        let base = url(&repo.web_path());
        let (content, pages) = (format!("/{base}/resolve/main/"), format!("/{base}/blob/main/"));
        body.push_str(&gallery(&text, &content));
        body.push_str(&render(card::body(&text), &Places { content: &content, pages: &pages }));
    }
    body.push_str("<h2>Files</h2>\n");
    body.push_str(&file_table(repo, "main", &commit, ""));
    page(repo.name(), &heading(repo), &body)
}

/// The pictures that the card's `widget` names.
fn gallery(text: &str, content: &str) -> String {
    let card = card::front_matter(text).unwrap_or_default();
    let widgets = card.get("widget").and_then(|widget| widget.as_array()).cloned().unwrap_or_default();
    let picture = |widget: &serde_json::Value| {
        let path = widget.get("output")?.get("url")?.as_str().filter(|path| !path.contains(':'))?;
        let text = widget.get("text").and_then(|text| text.as_str()).unwrap_or_default();
        let (src, text) = (url(path), escape(text));
        Some(format!("<img src=\"{content}{src}\" alt=\"{text}\" title=\"{text}\" height=96> "))
    };
    let pictures: String = widgets.iter().filter_map(picture).collect();
    if pictures.is_empty() { pictures } else { format!("<p>{pictures}</p>\n") }
}

fn about(hub: &Hub, repo: &RepoId, revision: &str, commit: &Commit) -> String {
    let base = url(&repo.web_path());
    let tags: String =
        tags_of(hub, repo, &commit.oid).iter().map(|tag| format!(" <code>{}</code>", escape(tag))).collect();
    format!(
        "<p class=dim>{} at <a href=\"/{base}/commit/{oid}\"><code>{}</code></a>{tags}, {} · {} files, {} · \
         <a href=\"/{base}/commits/{}\">history</a></p>\n",
        escape(revision),
        &commit.oid[..commit.oid.len().min(7)],
        escape(&commit.date),
        commit.tree.len(),
        bytes(commit.tree.values().map(|file| file.size).sum()),
        segment(revision),
        oid = commit.oid,
    )
}

/// What lies directly in `folder` (empty: the root).
fn file_table(repo: &RepoId, revision: &str, commit: &Commit, folder: &str) -> String {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let base = format!("/{}", url(&repo.web_path()));
    let revision = segment(revision);
    let (mut folders, mut files) = (std::collections::BTreeMap::<&str, (usize, u64)>::new(), String::new());
    for (path, file) in &commit.tree {
        let Some(rest) = path.strip_prefix(prefix.as_str()) else { continue };
        match rest.split_once('/') {
            Some((name, _)) => {
                let sum = folders.entry(name).or_default();
                *sum = (sum.0 + 1, sum.1 + file.size);
            }
            None => files.push_str(&format!(
                "<tr><td><a href=\"{base}/blob/{revision}/{path}\">{}</a><td class=n>{}<td>{}\
                 <td><a href=\"{base}/resolve/{revision}/{path}\" download>download</a></tr>\n",
                escape(rest),
                bytes(file.size),
                if file.lfs { "LFS" } else { "" },
                path = url(path),
            )),
        }
    }
    let folders: String = folders
        .into_iter()
        .map(|(name, (count, size))| {
            let href = url(&format!("{prefix}{name}"));
            let name = escape(name);
            let size = bytes(size);
            format!(
                "<tr><td><a href=\"{base}/tree/{revision}/{href}\">{name}/</a><td class=n>{size}<td>{count} files<td></tr>\n"
            )
        })
        .collect();
    format!("<table>\n{folders}{files}</table>\n")
}

/// One folder.
pub(super) fn tree(hub: &Hub, repo: &RepoId, revision: &str, folder: &str) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let prefix = format!("{folder}/");
    if !folder.is_empty() && !commit.tree.keys().any(|path| path.starts_with(&prefix)) {
        return Err(Refused::no_entry(folder));
    }
    let body = about(hub, repo, revision, &commit) + &file_table(repo, revision, &commit, folder);
    page(&format!("{repo} {folder}"), &format!("{} / {}", heading(repo), escape(folder)), &body)
}

/// One file: a picture, text, or only what is known of it.
pub(super) fn file(hub: &Hub, repo: &RepoId, revision: &str, path: &str) -> Outcome {
    let commit = hub.at(repo, revision)?;
    let file = commit.tree.get(path).ok_or_else(|| Refused::no_entry(path))?;
    let content = format!("/{}/resolve/{}/{}", url(&repo.web_path()), segment(revision), url(path));
    let known = format!(
        "<p>{}{} · <a href=\"{content}\" download>download</a></p><p class=dim>SHA-256 <code>{}</code></p>\n",
        bytes(file.size),
        if file.lfs { ", LFS" } else { "" },
        file.sha256
    );
    let shown = if content_type(path).starts_with("image/") {
        format!("<p><img src=\"{content}\" alt=\"{}\"></p>", escape(path))
    } else {
        text_of(hub, file)?.map(|text| format!("<pre><code>{}</code></pre>", escape(&text))).unwrap_or_default()
    };
    page(path, &format!("{} / {}", heading(repo), escape(path)), &(known + &shown))
}

fn text_of(hub: &Hub, file: &StoredFile) -> Result<Option<String>, Refused> {
    if file.size > SHOWN {
        return Ok(None);
    }
    let text = String::from_utf8(hub.store.read_object(file)?).ok();
    Ok(text.filter(|text| !text.contains('\0')))
}

/// The history of a revision.
pub(super) fn commits(hub: &Hub, repo: &RepoId, revision: &str) -> Outcome {
    let head = hub.at(repo, revision)?;
    let base = url(&repo.web_path());
    let row = |commit: &Commit| {
        let tags: String = tags_of(hub, repo, &commit.oid).iter().map(|tag| format!(" · {}", escape(tag))).collect();
        format!(
            "<tr><td><a href=\"/{base}/commit/{oid}\"><code>{}</code></a><td>{}{tags}<td class=dim>{}\
             <td><a href=\"/{base}/tree/{oid}\">files</a></tr>\n",
            &commit.oid[..commit.oid.len().min(7)],
            escape(&commit.title),
            escape(&commit.date),
            oid = commit.oid,
        )
    };
    let rows: String = hub.store.history(repo, &head.oid, 200)?.iter().map(row).collect();
    page(&format!("{repo} history"), &heading(repo), &format!("<h2>History</h2>\n<table>\n{rows}</table>\n"))
}

/// One commit: its words and which files it changed.
pub(super) fn commit(hub: &Hub, repo: &RepoId, oid: &str) -> Outcome {
    let commit = hub.at(repo, oid)?;
    let before = match commit.parents.first() {
        Some(parent) => hub.store.commit(repo, parent)?.map(|parent| parent.tree).unwrap_or_default(),
        None => Default::default(),
    };
    let mut rows = String::new();
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(commit.tree.keys()).collect();
    for path in paths {
        let (was, now) = (before.get(path), commit.tree.get(path));
        let what = match (was, now) {
            (None, _) => "added",
            (_, None) => "deleted",
            (was, now) if was == now => continue,
            _ => "changed",
        };
        let size = |file: Option<&StoredFile>| file.map(|file| bytes(file.size)).unwrap_or_default();
        rows.push_str(&format!(
            "<tr><td>{what}<td>{}<td class=n>{}<td class=n>{}</tr>\n",
            escape(path),
            size(was),
            size(now)
        ));
    }
    let body = format!(
        "<h2>{}</h2>\n<pre>{}</pre>\n<p class=dim>{} · {} · <code>{}</code></p>\n<table>\n\
         <tr><th><th>file<th>was<th>now</tr>\n{rows}</table>\n",
        escape(&commit.title),
        escape(&commit.message),
        escape(&commit.author),
        escape(&commit.date),
        commit.oid
    );
    page(&commit.title, &heading(repo), &body)
}
