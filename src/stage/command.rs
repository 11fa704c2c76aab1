//! `command`: the user's own program. It runs in a work directory that holds its declared inputs and nothing else of the
//! project, with a cleared environment, in a process group of its own.
//!
//! Environment that is handed through without being declared: `PATH`, `HOME`, `USER`, `LANG`, `LC_ALL`, `TMPDIR`,
//! `VIRTUAL_ENV`, `LD_LIBRARY_PATH`. Set: `HFBUILD=1`, `PYTHONHASHSEED=0`, `PYTHONDONTWRITEBYTECODE=1`.

use super::workspace::InputFile;
use super::{Declare, Kind, Workspace, param, process, report};
use crate::core::action::{Action, Declaration, Input, InputFrom, Shape};
use crate::core::digest::Digest;
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::fill::fill;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::{FilePattern, NodeName, RelPath, nearest, slug};
use crate::core::value::Value;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// See the module.
pub struct Command;

const LIST: FieldType =
    FieldType::Param(&FieldType::List(&FieldType::Either(&FieldType::Text, &FieldType::Int(0, i64::MAX))));

/// The folder in the work directory for outputs of other artifacts.
const IN: &str = "in";

impl Kind for Command {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "command",
            doc: "a program of your own, with declared inputs, outputs and facts",
            fields: &[
                Field::required(
                    "run",
                    FieldType::List(&FieldType::Text),
                    "the program and its arguments; {in.ROLE}, {out}, {params.NAME}",
                ),
                Field::optional(
                    "inputs",
                    FieldType::Map(&FieldType::Text),
                    "role -> artifact, one shard of it, file, folder/ or glob",
                ),
                Field::required("outputs", FieldType::List(&FieldType::Path), "what it makes, relative to the project"),
                Field::optional(
                    "each",
                    FieldType::Either(&LIST, &FieldType::Map(&LIST)),
                    "a shard an item, named {each}; of a table of lists a shard a combination, {each.NAME}",
                ),
                Field::optional("facts_file", FieldType::Path, "an output that is JSON: its figures become facts"),
                Field::optional("facts_schema", FieldType::Map(&report::TYPE), "the type of every figure in it"),
                Field::optional("facts_subject", FieldType::Table(SUBJECT), "which input it is about"),
                Field::optional(
                    "env",
                    FieldType::List(&FieldType::Text),
                    "variables whose values are part of the action",
                ),
                Field::optional(
                    "pass_env",
                    FieldType::List(&FieldType::Text),
                    "variables handed through, never keyed or logged",
                ),
                Field::optional(
                    "tools",
                    FieldType::List(&FieldType::Text),
                    "`python`, `pip:torch`: their versions are part of the action",
                ),
                Field::optional("timeout", FieldType::Text, "e.g. `90s`, `2h`"),
                Field::optional("retries", FieldType::Int(0, 100), "how often a failure is tried again"),
            ],
            facts: &[],
        };
        INFO
    }

    fn version(&self) -> u32 {
        2
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let outputs = outputs(cx)?;
        if outputs.is_empty() {
            return Err(cx.error("outputs", "`outputs` is empty: a stage that makes nothing proves nothing"));
        }
        if let Some(twice) = outputs.iter().enumerate().find_map(|(i, o)| outputs[..i].contains(o).then_some(o)) {
            return Err(cx.error("outputs", format!("`{twice}` is there twice")).hint("name each output once"));
        }
        let mut declaration = Declaration::new("command", self.version(), Shape::Paths(outputs.clone()));
        for input in inputs(cx)? {
            declaration.inputs.push(input);
        }
        let used = RefCell::default();
        let line = command_line(cx, &declaration.inputs, &outputs, &used)?;
        declaration = declaration.param("run", line);
        // named beside the line that they are part of, so that it can be said which one changed
        for name in used.into_inner() {
            let value = name.strip_prefix("params.").and_then(|n| cx.manifest.params.get(n)).cloned();
            declaration = declaration.param(&name, value.unwrap_or(Value::Null));
        }
        if let Some(file) = cx.spec.text("facts_file") {
            let file = filled(cx, file, &cx.spec.place("facts_file"), true)?;
            if !outputs.contains(&file) {
                return Err(cx.error("facts_file", format!("`facts_file` is `{file}`, which is not among `outputs`")));
            }
            declaration = declaration.param("facts_file", file);
        }
        declaration = typed(cx, declaration)?;
        declaration.env = names(cx, "env")?;
        declaration.pass_env = cx.spec.texts("pass_env").into_iter().map(|(t, _)| t).collect();
        declaration.tools = cx.spec.texts("tools").into_iter().map(|(t, _)| t).collect();
        declaration.timeout_ms = timeout(cx)?;
        declaration.retries = cx.int("retries").unwrap_or(0) as u32;
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let work = workspace.dir.join("work");
        std::fs::create_dir_all(&work).on("create", &work)?;
        link_inputs(action, workspace, &work)?;
        for output in &action.outputs {
            if let Some(dir) = work.join(output).parent() {
                std::fs::create_dir_all(dir).on("create", dir)?;
            }
        }
        let line: Vec<&str> =
            param(action, "run")?.as_list().unwrap_or_default().iter().filter_map(Value::as_text).collect();
        let status = process::run(&program(line[0], action, &work), &line[1..], action, workspace, &work)?;
        if !status.success() {
            return Err(process::failed(line[0], status, workspace));
        }
        for output in &action.outputs {
            resolve_links(&work.join(output), output, workspace)?;
            collect(&work.join(output), &workspace.output(output)?, output, true)?;
        }
        match action.params.get("facts_file").and_then(Value::as_text) {
            Some(file) => read_facts(file, action, workspace),
            None => Ok(Facts::default()),
        }
    }
}

/// A text of the manifest with what stands for the shard put in; in a path as a file name.
fn filled(cx: &Declare<'_>, text: &str, span: &Range<usize>, path: bool) -> Result<String> {
    let lookup = |name: &str| {
        let item = each_item(cx, name).or_else(|| param_text(cx, name))?;
        Some(if path { slug(&item) } else { item })
    };
    fill(text, &lookup).map_err(|name| {
        let error = cx.manifest.source.error(span.clone(), format!("`{{{name}}}` in `{text}` stands for nothing"));
        let each = match cx.shard {
            None => "an artifact with `each` has {each}".to_string(),
            Some(shard) if shard.items.is_empty() => "known: {each}".to_string(),
            Some(shard) => {
                let names: Vec<_> = shard.items.iter().map(|(list, _)| format!("{{each.{list}}}")).collect();
                format!("known: {{each}}, {}", names.join(", "))
            }
        };
        error.hint(format!("{each}, and there is {{params.NAME}}; a brace for itself is `{{{{`"))
    })
}

/// What `each` or `each.LIST` stands for in a shard.
fn each_item(cx: &Declare<'_>, name: &str) -> Option<String> {
    let (shard, rest) = (cx.shard?, name.strip_prefix("each")?);
    let named = |list: &str| shard.items.iter().find(|(n, _)| n == list).map(|(_, item)| item.clone());
    match rest.strip_prefix('.') {
        Some(list) => named(list),
        None => rest.is_empty().then(|| shard.key.clone()),
    }
}

fn param_text(cx: &Declare<'_>, name: &str) -> Option<String> {
    cx.manifest.params.get(name.strip_prefix("params.")?).map(ToString::to_string)
}

/// The outputs, which of every shard must be others.
fn outputs(cx: &Declare<'_>) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (text, span) in cx.spec.texts("outputs") {
        let path = filled(cx, &text, &span, true)?;
        if let Some(shard) = cx.shard {
            let names_all = text.contains("{each}")
                || (!shard.items.is_empty()
                    && shard.items.iter().all(|(n, _)| text.contains(&format!("{{each.{n}}}"))));
            if !names_all {
                return Err(cx
                    .manifest
                    .source
                    .error(span, format!("every shard would make `{text}`"))
                    .hint("put `{each}` into the path"));
            }
        }
        out.push(path);
    }
    Ok(out)
}

fn inputs(cx: &Declare<'_>) -> Result<Vec<Input>> {
    let mut out = Vec::new();
    for (role, role_span, word, span) in cx.spec.map("inputs") {
        if !role.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || role.is_empty() {
            let error = cx.manifest.source.error(role_span, format!("`{}` cannot be a role", role.escape_debug()));
            return Err(error.hint("a role has letters, digits and `_`"));
        }
        let word = filled(cx, &word, &span, false)?;
        let wrong = |why: String| {
            cx.manifest.source.error(span.clone(), format!("input `{role}` is `{}`: {why}", word.escape_debug()))
        };
        let shard: Option<NodeName> = word.parse().ok().filter(|n: &NodeName| n.key.is_some());
        let (from, path) = match (cx.manifest.artifact(&word), shard) {
            (Some(spec), _) => (InputFrom::Artifact(spec.name.clone()), format!("{IN}/{role}")),
            (None, Some(shard)) if cx.manifest.artifact(shard.artifact.as_str()).is_some() => {
                (InputFrom::Shard(shard), format!("{IN}/{role}"))
            }
            _ if FilePattern::looks_like(&word) => {
                let pattern: FilePattern = word.parse().map_err(wrong)?;
                let base = if pattern.base().is_empty() { "." } else { pattern.base() }.to_string();
                (InputFrom::Files(pattern), base)
            }
            _ => {
                let path: RelPath = word.parse().map_err(wrong)?;
                (InputFrom::File(path.clone()), path.to_string())
            }
        };
        out.push(Input { role, from, span, path: Some(path) });
    }
    Ok(out)
}

/// The command line with its placeholders filled, so that what is hashed is what runs.
fn command_line(
    cx: &Declare<'_>,
    inputs: &[Input],
    outputs: &[String],
    used: &RefCell<BTreeSet<String>>,
) -> Result<Vec<String>> {
    let lookup = |name: &str| -> Option<String> {
        if name == "out" {
            return outputs.first().cloned();
        }
        if let Some(role) = name.strip_prefix("in.") {
            return inputs.iter().find(|i| i.role == role)?.path.clone();
        }
        let text = each_item(cx, name).or_else(|| param_text(cx, name));
        if text.is_some() && name.starts_with("params.") {
            used.borrow_mut().insert(name.to_string());
        }
        text
    };
    let mut line = Vec::new();
    for (text, span) in cx.spec.texts("run") {
        if text.contains('\0') {
            return Err(cx.manifest.source.error(span, "a program's argument cannot hold a NUL"));
        }
        line.push(fill(&text, &lookup).map_err(|name| {
            let error = cx.manifest.source.error(span, format!("`{{{name}}}` in the command stands for nothing"));
            let roles: Vec<String> =
                inputs.iter().map(|i| format!("in.{}", i.role)).chain(["out".to_string()]).collect();
            match nearest(&name, roles.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{{{near}}}`?")),
                None => error.hint(format!("known: {}, params.NAME; a brace for itself is `{{{{`", roles.join(", "))),
            }
        })?);
    }
    let Some(program) = line.first() else { return Err(cx.error("run", "`run` is empty")) };
    let path = program.strip_prefix("./").unwrap_or(program);
    if path.contains('/') || program != path {
        let declared = path.starts_with('/') || inputs.iter().any(|i| i.path.as_deref() == Some(path));
        if !declared {
            return Err(cx
                .error("run", format!("`{program}` is a program of the project that `inputs` does not declare"))
                .hint("name it under `inputs`, so that a change of it reruns the stage, and use it as {in.ROLE}"));
        }
    }
    Ok(line)
}

/// Names of variables whose values are hashed and kept: never one that smells of a secret.
fn names(cx: &Declare<'_>, key: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (name, span) in cx.spec.texts(key) {
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            let error = cx.manifest.source.error(span, format!("`{}` is no variable's name", name.escape_debug()));
            return Err(error.hint("`env` lists names; their values are hfbuild's own environment's"));
        }
        let upper = name.to_uppercase();
        if ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL"]
            .iter()
            .any(|w| upper.contains(w))
        {
            return Err(cx
                .manifest
                .source
                .error(span, format!("`{name}` is a secret by its name, and `env` keeps values in receipts"))
                .hint(format!("use `pass_env = [\"{name}\"]`: it is handed through, never keyed and never logged")));
        }
        out.push(name);
    }
    Ok(out)
}

/// A program that is one of the declared inputs stands in the work directory; any other is found on the PATH.
fn program(name: &str, action: &Action, work: &Path) -> PathBuf {
    let path = name.strip_prefix("./").unwrap_or(name);
    match action.inputs.values().any(|i| i.path.as_deref() == Some(path)) {
        true => work.join(path),
        false => PathBuf::from(name),
    }
}

/// Milliseconds.
fn timeout(cx: &Declare<'_>) -> Result<Option<u64>> {
    let Some(text) = cx.spec.text("timeout") else { return Ok(None) };
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    match parsed.and_then(|d| u64::try_from(d.as_millis()).ok()) {
        Some(ms) if ms > 0 => Ok(Some(ms)),
        _ => Err(cx
            .error("timeout", format!("`timeout` is `{text}`, which is no duration"))
            .hint("write `90s`, `30m` or `2h`")),
    }
}

/// Files of the project up to this size are copied into the work directory. So a program finds what lies beside its file
/// there and not in the project, what it writes does not reach the project, and an edit meanwhile does not reach it.
const COPIED: u64 = 64 << 20;

/// Puts the declared inputs into the work directory, at the paths that the action names: outputs of other stages and large
/// files as links, others as copies.
fn link_inputs(action: &Action, workspace: &Workspace, work: &Path) -> Result<()> {
    let mut there: HashMap<PathBuf, Digest> = HashMap::new();
    for (role, input) in &action.inputs {
        let Some(path) = &input.path else { continue };
        let files = workspace.inputs.get(role).map(Vec::as_slice).unwrap_or_default();
        let base = work.join(path);
        for file in files {
            let whole = !workspace.directories.contains(role);
            let target: PathBuf = match (whole, input.files.is_empty()) {
                (true, _) => base.clone(),
                (false, true) => base.join(&file.path),
                (false, false) => work.join(&file.path), // files of the project stand at their own paths
            };
            if let Some(dir) = target.parent().filter(|dir| !dir.is_dir()) {
                std::fs::create_dir_all(dir).on("create", dir)?;
            }
            match there.insert(target.clone(), file.digest) {
                Some(digest) if digest == file.digest => continue, // two roles may name one source
                Some(_) => {
                    let path = target.strip_prefix(work).unwrap_or(&target).display().to_string();
                    return Err(Error::stage(format!("two inputs would stand at `{path}`")).hint(
                        "artifacts stand at `in/ROLE`: give the role, or the folder `in` of the project, another name",
                    ));
                }
                None => put(file, &target)?,
            }
        }
    }
    Ok(())
}

fn put(file: &InputFile, target: &Path) -> Result<()> {
    if !file.is_source {
        return std::os::unix::fs::symlink(&file.file, target).on("link", target);
    }
    let meta = std::fs::metadata(&file.file).on("stat", &file.file)?;
    if meta.len() > COPIED {
        return std::os::unix::fs::symlink(&file.file, target).on("link", target);
    }
    reflink_copy::reflink_or_copy(&file.file, target).on("copy", &file.file)?;
    let mode = 0o444 | (meta.permissions().mode() & 0o111);
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(mode)).on("set the permissions of", target)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(target).on("read", target)?;
    match Digest::from_hash(hasher.finalize()) == file.digest {
        true => Ok(()),
        false => {
            Err(Error::stage(format!("`{}` changed while it was being read, so the result is not kept", file.path))
                .hint("run hfbuild again when the file is complete"))
        }
    }
}

/// Puts a file's content where an output directory holds a symbolic link to it: the Hub knows no links, and a blob that is
/// there twice is kept once. A link that leads out of the output is left for [`collect`], which refuses it.
fn resolve_links(output: &Path, name: &str, workspace: &Workspace) -> Result<()> {
    if !std::fs::symlink_metadata(output).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    let top = output.canonicalize().on("resolve", output)?;
    for entry in walkdir::WalkDir::new(output).sort_by_file_name().into_iter().flatten() {
        let target = entry.path().canonicalize().ok().filter(|_| entry.path_is_symlink());
        let Some(target) = target.filter(|target| target.starts_with(&top) && target.is_file()) else { continue };
        std::fs::remove_file(entry.path()).on("remove", entry.path())?;
        reflink_copy::reflink_or_copy(&target, entry.path()).on("copy", &target)?;
        let at = |path: &Path, base: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
        workspace.say(&format!(
            "{name}: `{}` is a link to `{}`, whose content is taken",
            at(entry.path(), output),
            at(&target, &top)
        ))?;
    }
    Ok(())
}

/// Moves an output out of the work directory; a directory's files are moved one by one. Symbolic links are refused:
/// they would lead out of the store.
fn collect(from: &Path, to: &Path, name: &str, top: bool) -> Result<()> {
    let meta = std::fs::symlink_metadata(from).map_err(|_| {
        Error::stage(format!("the program ended well but did not make `{name}`"))
            .hint("`outputs` names what it makes, relative to where it runs")
    })?;
    if meta.is_symlink() {
        return Err(Error::stage(format!("output `{name}` is a symbolic link")).hint(
            "an output holds its content itself; in a directory, links to files of the same output are taken as these",
        ));
    }
    if meta.is_file() {
        return std::fs::rename(from, to).on("move", from);
    }
    if !meta.is_dir() {
        return Err(Error::stage(format!("output `{name}` is no regular file and no directory")));
    }
    let entries: Vec<_> = std::fs::read_dir(from).on("list", from)?.collect::<std::io::Result<_>>().on("list", from)?;
    if walkdir::WalkDir::new(from).into_iter().flatten().all(|e| e.file_type().is_dir()) && top {
        return Err(Error::stage(format!("output `{name}` is a directory without a file")));
    }
    std::fs::create_dir_all(to).on("create", to)?;
    for entry in entries {
        let file = entry.file_name();
        let file = file.to_str().ok_or_else(|| Error::stage(format!("a file name under `{name}` is no UTF-8")))?;
        collect(&entry.path(), &to.join(file), &format!("{name}/{file}"), false)?;
    }
    Ok(())
}

/// Reads the facts file: a JSON object of finite numbers, strings, booleans, and objects and lists of these, held against
/// the schema where there is one. Every fact is bound to the file that the report is about, or else to all inputs.
fn read_facts(file: &str, action: &Action, workspace: &Workspace) -> Result<Facts> {
    let path = workspace.output(file)?;
    let bytes = std::fs::read(&path).on("read", &path)?;
    let held = |secret: &String| secret.len() >= 4 && bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
    if workspace.unlogged().iter().any(held) {
        return Err(Error::stage(format!("`{file}` holds a secret, and facts are kept in receipts"))
            .hint("leave the token, or the value of `pass_env`, out of it"));
    }
    let figures = report::figures(file, &bytes)?;
    let text = |name: &str| action.params.get(name).and_then(Value::as_text);
    let (key, role) = (text("facts_key"), text("facts_input"));
    if let Some(schema) = action.params.get("facts_schema") {
        report::check_schema(file, &figures, schema, key)?;
    }
    if let (Some(key), Some(role)) = (key, role) {
        let about = report::subject(file, &figures, key, &action.inputs[role].name, workspace, role)?;
        return Ok(report::facts(figures, &about.path, about.digest));
    }
    let mut subject = crate::core::digest::Canonical::new("hfbuild inputs 1");
    action.inputs.iter().for_each(|(role, input)| {
        subject.text(role).digest(&input.digest);
    });
    if action.inputs.is_empty() {
        // about nothing but what its own command line says
        action.params.get("run").and_then(Value::as_list).unwrap_or_default().iter().for_each(|word| {
            subject.text(word.as_text().unwrap_or_default());
        });
        return Ok(report::facts(figures, "the command line, no input", subject.finish()));
    }
    let names: Vec<_> = action.inputs.values().map(|i| i.name.clone()).collect();
    Ok(report::facts(figures, &names.join(", "), subject.finish()))
}

/// The schema of the facts file, and which input it is about under which key.
fn typed(cx: &Declare<'_>, mut declaration: Declaration) -> Result<Declaration> {
    for key in ["facts_schema", "facts_subject"] {
        if cx.spec.node(key).is_some() && cx.spec.node("facts_file").is_none() {
            return Err(cx.error(key, format!("`{key}` is of a `facts_file`, and there is none")));
        }
    }
    if cx.spec.node("facts_schema").is_some() {
        declaration = declaration.param("facts_schema", report::schema(cx, "facts_schema"));
    }
    for (key, _, text, span) in cx.spec.map("facts_subject") {
        if key == "input" && !declaration.inputs.iter().any(|input| input.role == text) {
            let error = cx.manifest.source.error(span, format!("`{text}` is no input of this command"));
            let roles: Vec<_> = declaration.inputs.iter().map(|input| format!("`{}`", input.role)).collect();
            return Err(error.hint(format!("its inputs: {}", roles.join(", "))));
        }
        declaration = declaration.param(if key == "input" { "facts_input" } else { "facts_key" }, text);
    }
    Ok(declaration)
}

const SUBJECT: &[Field] = &[
    Field::required("input", FieldType::Text, "the role of the input that the figures are about"),
    Field::required("key", FieldType::Text, "the key with that file's SHA-256 or BLAKE3"),
];
