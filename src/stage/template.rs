//! `template`: any text file from facts, params and declared values. The README of a Space is checked.

use super::card::space;
use super::{Declare, Kind, Workspace, pages, text_param};
use crate::core::action::{Action, Declaration, InputFrom, Shape};
use crate::core::error::{Error, Result};
use crate::core::facts::Facts;
use crate::core::manifest::KindInfo;
use crate::core::manifest::fields::{Field, FieldType};
use crate::core::name::RelPath;
use crate::core::value::Value;

/// See the module.
pub struct TextTemplate;

/// The parameter that holds the tree of the Space whose README this is.
const SPACE: &str = "space";

/// The keys that `template` and `card` share.
pub const FIELDS: [Field; 2] = [
    Field::required("template", FieldType::Path, "the handlebars template"),
    Field::optional("facts", FieldType::List(&FieldType::Artifact), "artifacts whose facts the template may name"),
];

impl Kind for TextTemplate {
    fn info(&self) -> KindInfo {
        KindInfo {
            name: "template",
            doc: "a text file from facts, params and declared values",
            fields: &FIELDS,
            facts: &["bytes"],
        }
    }

    fn version(&self) -> u32 {
        1
    }

    fn declare(&self, cx: &Declare<'_>) -> Result<Declaration> {
        let mut declaration = declare(cx, "template", self.version(), None)?;
        if let Some(tree) = space::tree(cx) {
            declaration = declaration.param(SPACE, tree).param("license", cx.manifest.project.license.as_str());
        }
        Ok(declaration)
    }

    fn run(&self, action: &Action, workspace: &mut Workspace) -> Result<Facts> {
        let text = rendered(action, workspace)?;
        let name = text_param(action, "name")?.to_string();
        if let Some(tree) = action.params.get(SPACE).and_then(Value::as_list) {
            let tree = tree.iter().filter_map(Value::as_text);
            let known = |path: &str| tree.clone().any(|t| t == path || (t.ends_with('/') && path.starts_with(t)));
            space::check(&text, text_param(action, "license")?, &known)?;
        }
        let digest = workspace.write(&name, text.as_bytes())?;
        let mut facts = Facts::default();
        let of = facts.subject(&name, digest);
        facts.set("bytes", text.len(), of);
        Ok(facts)
    }
}

/// The declaration that both kinds share; the output is called as the template without `.hbs`, or `name`.
pub fn declare(cx: &Declare<'_>, kind: &'static str, version: u32, name: Option<&str>) -> Result<Declaration> {
    let path: RelPath = cx.path("template")?;
    let name = name.unwrap_or_else(|| path.file_name().strip_suffix(".hbs").unwrap_or(path.file_name())).to_string();
    let declaration = Declaration::new(kind, version, Shape::File(name.clone())).param("name", name).input(
        "template",
        InputFrom::File(path),
        cx.spec.place("template"),
    );
    pages::declare_reads(cx, declaration)
}

/// The template's own text.
pub fn source(workspace: &Workspace) -> Result<String> {
    let input = workspace.file("template")?;
    let text = std::fs::read(&input.file).map_err(|e| Error::io("read", &input.file, &e))?;
    String::from_utf8(text).map_err(|_| Error::stage(format!("`{}` is no UTF-8 text", input.path)))
}

/// Renders, and refuses a text that holds a secret.
pub fn rendered(action: &Action, workspace: &Workspace) -> Result<String> {
    let out = pages::render(action, &source(workspace)?, workspace)?;
    super::scan_text(&workspace.file("template")?.path, out.as_bytes())?;
    Ok(out)
}
