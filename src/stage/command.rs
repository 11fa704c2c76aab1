//! `command`: the user's own program. It runs in a work directory that holds its declared inputs and nothing else of the
//! project, with a cleared environment, in a process group of its own.
//!
//! Environment that is handed through without being declared: `PATH`, `HOME`, `USER`, `LANG`, `LC_ALL`, `TMPDIR`,
//! `VIRTUAL_ENV`, `LD_LIBRARY_PATH`. Set: `HFBUILD=1`, `PYTHONHASHSEED=0`, `PYTHONDONTWRITEBYTECODE=1`.

use super::{Declare, Kind, Workspace, param};
use crate::core::action::{Action, Declaration, Input, InputFrom, Shape};
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::fill::fill;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::{RelPath, nearest};
use crate::core::value::Value;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// See the module.
pub struct Command;

/// Undeclared environment that a program gets.
const HANDED_THROUGH: [&str; 8] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"];
/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
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
                Field::optional("inputs", FieldType::Map(&FieldType::Text), "role -> artifact or file"),
                Field::required("outputs", FieldType::List(&FieldType::Path), "what it makes, relative to the project"),
                Field::optional("facts_file", FieldType::Path, "an output that is JSON: its figures become facts"),
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
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let outputs: Vec<String> = cx.spec.texts("outputs").into_iter().map(|(t, _)| t).collect();
        if outputs.is_empty() {
            return Err(cx.error("outputs", "`outputs` is empty: a stage that makes nothing proves nothing"));
        }
        let mut declaration = Declaration::new("command", self.version(), Shape::Paths(outputs.clone()));
        for input in inputs(cx)? {
            declaration.inputs.push(input);
        }
        let line = command_line(cx, &declaration.inputs, &outputs)?;
        declaration = declaration.param("run", line);
        if let Some(file) = cx.spec.text("facts_file") {
            if !outputs.iter().any(|o| o == file) {
                return Err(cx.error("facts_file", format!("`facts_file` is `{file}`, which is not among `outputs`")));
            }
            declaration = declaration.param("facts_file", file);
        }
        declaration.env = names(cx, "env")?;
        declaration.pass_env = cx.spec.texts("pass_env").into_iter().map(|(t, _)| t).collect();
        declaration.tools = cx.spec.texts("tools").into_iter().map(|(t, _)| t).collect();
        declaration.timeout = timeout(cx)?;
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
        let status = spawn_and_wait(&line, action, workspace, &work)?;
        if !status.success() {
            return Err(failed(&line, status, workspace));
        }
        for output in &action.outputs {
            collect(&work.join(output), &workspace.output(output)?, output)?;
        }
        match action.params.get("facts_file").and_then(Value::as_text) {
            Some(file) => read_facts(file, action, workspace),
            None => Ok(Facts::default()),
        }
    }
}

fn inputs(cx: &Declare<'_>) -> Result<Vec<Input>> {
    let mut out = Vec::new();
    for (role, role_span, word, span) in cx.spec.map("inputs") {
        if !role.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || role.is_empty() {
            let error = cx.manifest.source.error(role_span, format!("`{}` cannot be a role", role.escape_debug()));
            return Err(error.hint("a role has letters, digits and `_`"));
        }
        let (from, path) = match cx.manifest.artifact(&word) {
            Some(spec) => (InputFrom::Artifact(spec.name.clone()), format!("{IN}/{role}")),
            None => {
                let path: RelPath = word.parse().map_err(|why: String| {
                    cx.manifest
                        .source
                        .error(span.clone(), format!("input `{role}` is `{}`: {why}", word.escape_debug()))
                })?;
                (InputFrom::File(path.clone()), path.to_string())
            }
        };
        out.push(Input { role, from, span, path: Some(path) });
    }
    Ok(out)
}

/// The command line with its placeholders filled, so that what is hashed is what runs.
fn command_line(cx: &Declare<'_>, inputs: &[Input], outputs: &[String]) -> Result<Vec<String>> {
    let lookup = |name: &str| -> Option<String> {
        if name == "out" {
            return outputs.first().cloned();
        }
        if let Some(role) = name.strip_prefix("in.") {
            return inputs.iter().find(|i| i.role == role)?.path.clone();
        }
        cx.manifest.params.get(name.strip_prefix("params.")?).map(ToString::to_string)
    };
    let mut line = Vec::new();
    for (text, span) in cx.spec.texts("run") {
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
    if line.is_empty() {
        return Err(cx.error("run", "`run` is empty"));
    }
    Ok(line)
}

/// Names of variables whose values are hashed and kept: never one that smells of a secret.
fn names(cx: &Declare<'_>, key: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (name, span) in cx.spec.texts(key) {
        let upper = name.to_uppercase();
        if ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "PRIVATE_KEY", "CREDENTIAL"]
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

fn timeout(cx: &Declare<'_>) -> Result<Option<u64>> {
    let Some(text) = cx.spec.text("timeout") else { return Ok(None) };
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    match parsed.map(|d| d.as_secs()) {
        Some(seconds) if seconds > 0 => Ok(Some(seconds as u64)),
        _ => Err(cx
            .error("timeout", format!("`timeout` is `{text}`, which is no duration"))
            .hint("write `90s`, `30m` or `2h`")),
    }
}

/// Links the declared inputs into the work directory, at the paths that the action names.
fn link_inputs(action: &Action, workspace: &Workspace, work: &Path) -> Result<()> {
    for (role, input) in &action.inputs {
        let Some(path) = &input.path else { continue };
        let files = workspace.inputs.get(role).map(Vec::as_slice).unwrap_or_default();
        let base = work.join(path);
        for file in files {
            // a source and a single file stand at the path itself, a directory's files below it
            let target: PathBuf = if files.len() == 1 { base.clone() } else { base.join(&file.path) };
            if let Some(dir) = target.parent() {
                std::fs::create_dir_all(dir).on("create", dir)?;
            }
            std::os::unix::fs::symlink(&file.file, &target).on("link", &target)?;
        }
    }
    Ok(())
}

fn spawn_and_wait(line: &[&str], action: &Action, workspace: &Workspace, work: &Path) -> Result<ExitStatus> {
    let log = output_to(workspace)?;
    let mut command = std::process::Command::new(program(line[0], workspace));
    command.args(&line[1..]).current_dir(work).env_clear().stdin(Stdio::null()).process_group(0);
    command.stdout(log.try_clone().on("open", &workspace.log)?).stderr(log);
    command.envs(HANDED_THROUGH.iter().filter_map(|n| Some((*n, std::env::var_os(n)?))));
    command.env("HFBUILD", "1").env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
    command.envs(action.env.iter().filter_map(|(k, v)| Some((k, v.as_ref()?))));
    command.envs(&workspace.secrets);
    // SAFETY: between fork and exec only one async-signal-safe system call is made. It ties the program's life to this
    // thread's, which waits for it: if hfbuild is killed, its program does not go on writing.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    let mut child = command.spawn().map_err(|e| {
        Error::stage(format!("cannot start `{}`", line[0]))
            .cause(e.to_string())
            .hint("is it on the PATH, or declared as an input?")
    })?;
    let begun = Instant::now();
    loop {
        if let Some(status) =
            child.try_wait().map_err(|e| Error::stage("cannot wait for the program").cause(e.to_string()))?
        {
            return Ok(status);
        }
        if workspace.cancel.stopped().is_some() {
            stop(&mut child);
            workspace.cancel.check()?;
        }
        if let Some(limit) = workspace.command.timeout.filter(|s| begun.elapsed().as_secs() >= *s) {
            stop(&mut child);
            return Err(Error::stage(format!(
                "`{}` took longer than its `timeout` of {limit} s and was stopped",
                line[0]
            )));
        }
        std::thread::sleep(Duration::from_millis(if begun.elapsed().as_millis() < 200 { 1 } else { 20 }));
    }
}

/// Where the program's output goes: the log, through a filter where values were handed through that no log may hold.
fn output_to(workspace: &Workspace) -> Result<std::fs::File> {
    let mut log =
        std::fs::OpenOptions::new().create(true).append(true).open(&workspace.log).on("open", &workspace.log)?;
    if workspace.secrets.is_empty() {
        return Ok(log);
    }
    let (reader, writer) = std::io::pipe().on("open a pipe for", &workspace.log)?;
    let secrets = workspace.secrets.clone();
    std::thread::spawn(move || {
        let mut reader = std::io::BufReader::new(reader);
        let mut line = Vec::new();
        while std::io::BufRead::read_until(&mut reader, b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            let _ = std::io::Write::write_all(&mut log, mask(&text, &secrets).as_bytes()); // a full disk must not hang the program
            line.clear();
        }
    });
    Ok(std::os::fd::OwnedFd::from(writer).into())
}

/// A program named with a slash is one of the declared inputs (in the work directory) or a file of the project's tools.
fn program(name: &str, workspace: &Workspace) -> PathBuf {
    let in_project = workspace.command.project.join(name);
    if name.contains('/') && !name.starts_with('/') && in_project.exists() { in_project } else { PathBuf::from(name) }
}

/// TERM to the process group, a grace, then KILL.
fn stop(child: &mut Child) {
    let group = Pid::from_raw(child.id() as i32);
    let _ = killpg(group, Signal::SIGTERM); // it may have ended by itself
    let begun = Instant::now();
    while begun.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = killpg(group, Signal::SIGKILL); // what is left of the group
    let _ = child.wait();
}

fn failed(line: &[&str], status: ExitStatus, workspace: &Workspace) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "no exit code".into(),
    };
    let mut error = Error::stage(format!("`{}` failed with {how}", line[0]));
    let log = std::fs::read(&workspace.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let tail: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(8).collect();
    for line in tail.into_iter().rev() {
        error = error.cause(mask(line, &workspace.secrets));
    }
    if text.contains("No such file or directory")
        || text.contains("FileNotFoundError")
        || text.contains("ModuleNotFoundError")
    {
        return error
            .hint("a stage sees only its declared inputs: name the file under `inputs`, and use it as {in.ROLE}");
    }
    error
}

/// The line without the values that were handed through.
fn mask(line: &str, secrets: &std::collections::BTreeMap<String, String>) -> String {
    let secrets = secrets.values().filter(|v| v.len() >= 4);
    secrets.fold(line.to_string(), |line, secret| line.replace(secret.as_str(), "***"))
}

/// Moves an output out of the work directory; a directory's files are moved one by one. Symbolic links are refused:
/// they would lead out of the store.
fn collect(from: &Path, to: &Path, name: &str) -> Result<()> {
    let meta = std::fs::symlink_metadata(from).map_err(|_| {
        Error::stage(format!("the program ended well but did not make `{name}`"))
            .hint("`outputs` names what it makes, relative to where it runs")
    })?;
    if meta.is_symlink() {
        return Err(
            Error::stage(format!("output `{name}` is a symbolic link")).hint("an output holds its content itself")
        );
    }
    if meta.is_file() {
        return std::fs::rename(from, to).on("move", from);
    }
    let entries: Vec<_> = std::fs::read_dir(from).on("list", from)?.collect::<std::io::Result<_>>().on("list", from)?;
    if entries.is_empty() {
        return Err(Error::stage(format!("output `{name}` is an empty directory")));
    }
    std::fs::create_dir_all(to).on("create", to)?;
    for entry in entries {
        let file = entry.file_name();
        let file = file.to_str().ok_or_else(|| Error::stage(format!("a file name under `{name}` is no UTF-8")))?;
        collect(&entry.path(), &to.join(file), &format!("{name}/{file}"))?;
    }
    Ok(())
}

/// Reads the facts file: a JSON object of finite numbers, strings, booleans, and objects and lists of these. Every fact is
/// bound to the stage's inputs.
fn read_facts(file: &str, action: &Action, workspace: &Workspace) -> Result<Facts> {
    let path = workspace.output(file)?;
    let bytes = std::fs::read(&path).on("read", &path)?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| {
        Error::stage(format!("`{file}` is no JSON")).cause(e.to_string()).hint("NaN and Infinity are no JSON")
    })?;
    let object = json.as_object().ok_or_else(|| Error::stage(format!("`{file}` is no JSON object")))?;
    let mut facts = Facts::default();
    let mut subject = crate::core::digest::Canonical::new("hfbuild inputs 1");
    action.inputs.iter().for_each(|(role, input)| {
        subject.text(role).digest(&input.digest);
    });
    let names: Vec<_> = action.inputs.values().map(|i| i.name.clone()).collect();
    let of = facts.subject(&names.join(", "), subject.finish());
    flatten("", object, of, &mut facts);
    Ok(facts)
}

fn flatten(prefix: &str, object: &serde_json::Map<String, serde_json::Value>, of: usize, facts: &mut Facts) {
    for (name, value) in object {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            serde_json::Value::Object(inner) => flatten(&name, inner, of, facts),
            other => facts.set(&name, Value::from_json(other), of),
        }
    }
}
