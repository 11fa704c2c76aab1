//! `report`, and what `command` shares with it: figures that a program of the user's own measured (FID, IS, ...), as typed
//! facts. The schema says which figures there are and of what type; the subject says which file they are about, and the
//! report has to name that file's digest: a report about another file is refused, with both digests.
//!
//! Does not know what a figure means, and trusts the program that it measured what it says.

use super::{Declare, Kind, Workspace, param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::digest::Digest;
use crate::core::error::{Error, OnPath, Result};
use crate::core::facts::Facts;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::manifest::{KindInfo, Manifest};
use crate::core::name::{RelPath, nearest};
use crate::core::value::Value;
use crate::stage::workspace::InputFile;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::Read;

/// See the module.
pub struct Report;

/// The types of a figure.
pub const TYPE: FieldType = FieldType::Choice(&["number", "integer", "text", "boolean", "list"]);
const SUBJECT: &[Field] = &[
    Field::required("of", FieldType::Text, "the artifact or file that the report is about"),
    Field::required("key", FieldType::Text, "the report's key with that file's SHA-256 or BLAKE3"),
];

impl Kind for Report {
    fn info(&self) -> KindInfo {
        const INFO: KindInfo = KindInfo {
            name: "report",
            doc: "a JSON file of figures measured elsewhere, as typed facts bound to what they are about",
            fields: &[
                Field::required("path", FieldType::Path, "the report"),
                Field::required("schema", FieldType::Map(&TYPE), "the type of every figure, by its dotted name"),
                Field::required("subject", FieldType::Table(SUBJECT), "what it is about"),
            ],
            facts: &[],
        };
        INFO
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let path = cx.path("path")?;
        let subject = cx.spec.map("subject");
        let word = |key: &str| subject.iter().find(|(k, ..)| k == key).map(|(.., text, span)| (text.clone(), span));
        let ((of, span), (key, _)) = match (word("of"), word("key")) {
            (Some(of), Some(key)) => (of, key),
            _ => return Err(cx.error("subject", "`subject` takes `of` and `key`")),
        };
        let from = match cx.manifest.artifact(&of) {
            Some(spec) => InputFrom::Artifact(spec.name.clone()),
            None => InputFrom::File(of.parse::<RelPath>().map_err(|why| cx.manifest.source.error(span.clone(), why))?),
        };
        let declaration = Declaration::new("report", self.version(), Shape::File(path.file_name().to_string()))
            .param("schema", schema(cx, "schema"))
            .param("key", key)
            .input("report", InputFrom::File(path), cx.spec.place("path"))
            .input("subject", from, span.clone());
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let report = workspace.file("report")?.clone();
        let bytes = std::fs::read(&report.file).on("read", &report.file)?;
        let figures = figures(&report.path, &bytes)?;
        let key = super::text_param(action, "key")?;
        check_schema(&report.path, &figures, param(action, "schema")?, Some(key))?;
        let about = subject(&report.path, &figures, key, &action.inputs["subject"].name, workspace, "subject")?;
        let name = report.path.rsplit('/').next().unwrap_or(&report.path);
        workspace.write(name, &bytes)?;
        Ok(facts(figures, &about.path, about.digest))
    }
}

/// A schema as a parameter of the action.
pub fn schema(cx: &Declare<'_>, key: &str) -> Value {
    let map = cx.spec.map(key).into_iter().map(|(name, _, ty, _)| (name, Value::from(ty))).collect();
    Value::Map(map)
}

/// Whether the schema of an artifact's facts lacks a name; `None`: it has no schema, or knows the name. Where it lacks it,
/// the nearest that it knows.
pub fn lacks(manifest: &Manifest, artifact: &str, fact: &str) -> Option<Option<String>> {
    let spec = manifest.artifact(artifact)?;
    let (schema, subject) = match spec.kind {
        "report" => ("schema", "subject"),
        "command" => ("facts_schema", "facts_subject"),
        _ => return None,
    };
    spec.node(schema)?;
    let types = spec.map(schema).into_iter().map(|(name, ..)| name);
    let key = spec.map(subject).into_iter().filter(|(k, ..)| k == "key").map(|(.., name, _)| name);
    let known: Vec<String> = types.chain(key).collect();
    let within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    match known.iter().any(|name| within(name, fact) || within(fact, name)) {
        true => None,
        false => Some(nearest(fact, known.iter().map(String::as_str)).map(str::to_string)),
    }
}

/// The figures of a JSON object, nested names joined by dots.
///
/// # Errors
/// No JSON, no object, a name that comes twice.
pub fn figures(path: &str, bytes: &[u8]) -> Result<BTreeMap<String, Value>> {
    let Unique(json) = serde_json::from_slice(bytes).map_err(|e| match e.to_string().contains(TWICE) {
        true => Error::stage(format!("`{path}` says two things of one key"))
            .cause(e.to_string())
            .hint("which of the two holds cannot be known: leave one"),
        false => Error::stage(format!("`{path}` is no JSON")).cause(e.to_string()).hint("NaN and Infinity are no JSON"),
    })?;
    let object = json.as_object().ok_or_else(|| Error::stage(format!("`{path}` is no JSON object")))?;
    let mut out = BTreeMap::new();
    flatten("", object, &mut out).map_err(|name| Error::stage(format!("`{path}` gives the fact `{name}` twice")))?;
    Ok(out)
}

/// JSON in which no object has a key twice: `serde_json` alone keeps the last of them.
struct Unique(Json);

const TWICE: &str = "comes twice in one object";

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson).map(Unique)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> std::result::Result<Json, E> {
        Ok(b.into())
    }
    fn visit_i64<E>(self, i: i64) -> std::result::Result<Json, E> {
        Ok(i.into())
    }
    fn visit_u64<E>(self, u: u64) -> std::result::Result<Json, E> {
        Ok(u.into())
    }
    fn visit_f64<E>(self, x: f64) -> std::result::Result<Json, E> {
        Ok(x.into())
    }
    fn visit_str<E>(self, text: &str) -> std::result::Result<Json, E> {
        Ok(text.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Json, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, Unique>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{}` {TWICE}", key.escape_debug())));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// Groups become dotted names; a name that comes twice is the error.
fn flatten(
    prefix: &str,
    object: &serde_json::Map<String, Json>,
    out: &mut BTreeMap<String, Value>,
) -> Result<(), String> {
    for (name, value) in object {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Json::Object(inner) => flatten(&name, inner, out)?,
            _ if out.contains_key(&name) => return Err(name),
            other => {
                out.insert(name, Value::from_json(other));
            }
        }
    }
    Ok(())
}

/// Holds figures against a schema: each of its type, none missing, none that it does not name but `key`, which is a text.
///
/// # Errors
/// All that is wrong, by name.
pub fn check_schema(path: &str, figures: &BTreeMap<String, Value>, schema: &Value, key: Option<&str>) -> Result<()> {
    let Value::Map(schema) = schema else { return Ok(()) };
    let mut wrong = Vec::new();
    for (name, ty) in schema {
        let ty = ty.as_text().unwrap_or_default();
        match figures.get(name) {
            None => wrong.push(format!("`{name}` is missing")),
            Some(value) if !is_a(value, ty) => {
                wrong.push(format!("`{name}` is {}, expected {}", described(value), article(ty)));
            }
            Some(_) => {}
        }
    }
    wrong.extend(key.filter(|key| !figures.contains_key(*key)).map(|key| format!("`{key}` is missing")));
    let unexpected = figures.keys().filter(|name| !schema.contains_key(*name) && Some(name.as_str()) != key);
    wrong.extend(unexpected.map(|name| format!("`{name}` is not in the schema")));
    if wrong.is_empty() {
        return Ok(());
    }
    let error = Error::stage(format!("`{path}` does not fit its schema"));
    Err(wrong.into_iter().fold(error, Error::cause).hint("correct the program, or the schema in the manifest"))
}

fn is_a(value: &Value, ty: &str) -> bool {
    match ty {
        "number" => matches!(value, Value::Int(_) | Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "text" => matches!(value, Value::Text(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        _ => matches!(value, Value::List(_)),
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => format!("{} ({value})", value.type_name()),
        other => other.type_name().to_string(),
    }
}

fn article(ty: &str) -> &'static str {
    match ty {
        "number" => "a number",
        "integer" => "an integer",
        "text" => "a string",
        "boolean" => "a boolean",
        _ => "an array",
    }
}

/// The file that a report is about: the one of the input whose SHA-256 or BLAKE3 (64 hex digits, `sha256:` before them or
/// not) stands under `key`.
///
/// # Errors
/// The key is missing or no digest, or is that of no file of the input.
pub fn subject(
    report: &str,
    figures: &BTreeMap<String, Value>,
    key: &str,
    name: &str,
    workspace: &Workspace,
    role: &str,
) -> Result<InputFile> {
    let said = figures.get(key).ok_or_else(|| {
        Error::stage(format!("`{report}` does not say what it is about: `{key}` is missing"))
            .hint("a report names the SHA-256 or BLAKE3 of the file that it was measured on")
    })?;
    let text = said.as_text().unwrap_or_default().to_lowercase();
    let digest = text.split_once(':').filter(|(how, _)| ["sha256", "blake3"].contains(how)).map_or(&*text, |(_, d)| d);
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::stage(format!("`{key}` of `{report}` is {}, expected a digest", described(said)))
            .hint("64 hex digits: the SHA-256 or BLAKE3 of the file that it was measured on"));
    }
    let files = workspace.inputs.get(role).map(Vec::as_slice).unwrap_or_default();
    if let Some(file) = files.iter().find(|file| file.digest.hex() == digest) {
        return Ok(file.clone());
    }
    let mut others = Vec::new();
    for file in files {
        let sha256 = sha256_of(&file.file)?;
        if sha256 == digest {
            return Ok(file.clone());
        }
        others.push(format!("`{}` has sha256 {sha256}, blake3 {}", file.path, file.digest.hex()));
    }
    let error = Error::stage(format!("`{report}` is about another file than `{name}`: its `{key}` is {digest}"));
    let error = others.into_iter().take(8).fold(error, Error::cause);
    Err(error.hint(format!("measure `{name}` again, as it is now")))
}

fn sha256_of(path: &std::path::Path) -> Result<String> {
    let mut file = std::fs::File::open(path).on("open", path)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).on("read", path)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Figures as facts of one subject.
pub fn facts(figures: BTreeMap<String, Value>, what: &str, digest: Digest) -> Facts {
    let mut facts = Facts::default();
    let of = facts.subject(what, digest);
    figures.into_iter().for_each(|(name, value)| facts.set(&name, value, of));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_twice_at_any_depth_is_refused_and_named() {
        for text in [
            r#"{"fid": 30.0, "fid": 3.0}"#,
            r#"{"model": {"sha256": "a", "fid": 1, "fid": 2}}"#,
            r#"{"list": [1, {"fid": 1, "fid": 1}]}"#,
            r#"{"fid": 1, "\u0066id": 2}"#,
        ] {
            let error = format!("{:?}", figures("fid.json", text.as_bytes()).unwrap_err());
            assert!(error.contains("the key `fid` comes twice") && error.contains("fid.json"), "{text}: {error}");
        }
        let figures = figures("r", br#"{"a": {"x": 1.5, "n": -3}, "b": {"x": [true, null, "t"]}}"#).unwrap();
        assert_eq!(figures["a.x"], Value::Float(1.5));
        assert_eq!(figures["a.n"], Value::Int(-3));
        assert_eq!(figures["b.x"], Value::List(vec![true.into(), Value::Null, "t".into()]));
    }
}
