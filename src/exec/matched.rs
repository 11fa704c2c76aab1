//! What a directory or glob input matches: every regular file below, sorted, with its digest.
//!
//! Knows files; does not know which stage asked. hfbuild's own folders and git's are never matched.

use crate::core::digest::{Canonical, Digest};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::name::FilePattern;
use crate::core::plan::World;
use crate::exec::project::Project;
use crate::store::memo::Memo;
use std::collections::BTreeMap;

/// Folders of the root that no pattern looks into.
const NEVER: [&str; 2] = ["cache", ".git"];

/// Digests of what a pattern matches, by project-relative path. The content of each file goes to `world.sources` too. A
/// symbolic link counts with where it points and with what is there; one that leaves the project is an error.
pub fn digests(
    project: &Project,
    pattern: &FilePattern,
    memo: &mut Memo,
    world: &mut World,
) -> Result<BTreeMap<String, Digest>> {
    let wrong = |message: String| Error::new(ErrorKind::Manifest, message);
    let glob = match pattern.as_str().strip_suffix('/') {
        Some(dir) => format!("{}/**", globset::escape(dir)),
        None => pattern.to_string(),
    };
    let matcher = globset::GlobBuilder::new(&glob)
        .literal_separator(true)
        .build()
        .map_err(|e| wrong(format!("`{pattern}` is no pattern: {}", e.kind())))?
        .compile_matcher();
    let mut found = BTreeMap::new();
    let base = project.root.join(pattern.base());
    let walk = walkdir::WalkDir::new(&base).follow_links(false).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(|e| !NEVER.iter().any(|n| e.path() == project.root.join(n))) {
        let Ok(entry) = entry else { continue }; // what is not there, or may not be listed, matches nothing
        let Ok(relative) = entry.path().strip_prefix(&project.root) else { continue };
        if entry.file_type().is_dir() || !matcher.is_match(relative) {
            continue;
        }
        let path = relative.to_str().ok_or_else(|| wrong(format!("`{}` is no UTF-8", relative.display())))?;
        if path.chars().any(char::is_control) {
            return Err(wrong(format!(
                "`{pattern}` matches `{}`, whose name holds control characters",
                path.escape_debug()
            ))
            .hint("give the file another name"));
        }
        let link = match entry.file_type().is_symlink() {
            true => Some(link(project, path)?),
            false => None,
        };
        let Some(content) = memo.digest(&project.root, path)? else {
            return Err(wrong(format!("`{pattern}` matches `{path}`, which is no regular file")));
        };
        world.sources.insert(path.into(), Some(content));
        let digest = link.map_or(content, |to| Canonical::new("hfbuild link 1").text(&to).digest(&content).finish());
        found.insert(path.to_string(), digest);
    }
    if found.is_empty() {
        return Err(wrong(format!("`{pattern}` matches no file"))
            .hint("patterns are relative to the project's root; `**` crosses folders"));
    }
    Ok(found)
}

/// Where a link points, as it is written; an error where that is outside the project.
fn link(project: &Project, path: &str) -> Result<String> {
    let full = project.root.join(path);
    let to = std::fs::read_link(&full).map_err(|e| Error::io("read the link", &full, &e))?;
    match full.canonicalize() {
        Ok(real) if real.starts_with(&project.root) => Ok(to.display().to_string()),
        Err(_) => Err(Error::new(ErrorKind::Manifest, format!("`{path}` is a symbolic link that leads nowhere"))
            .hint("remove it, or mend what it points to")),
        _ => Err(Error::new(ErrorKind::Manifest, format!("`{path}` is a symbolic link that leaves the project"))
            .hint("copy the file into the project, or name what it points to")),
    }
}
