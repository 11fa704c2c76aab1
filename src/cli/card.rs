//! `card`: the model card as it was built last, as it is or rendered for the terminal.
//!
//! Reads the record of the last build and the cache; runs nothing.

use super::{Failure, Global};
use crate::core::error::{Error, ErrorKind};
use crate::core::graph::Work;
use crate::exec::project::Project;
use crate::store::{Store, records};
use crate::ui::markdown;
use std::io::IsTerminal;

/// Columns where neither the terminal nor `COLUMNS` says.
const WIDTH: usize = 100;

/// `hfbuild card`
pub fn card(global: &Global, preview: bool) -> Result<(), Failure> {
    let project = Project::open(&global.project, &global.settings())?;
    let graph = &project.graph;
    let is_card = |id: &_| matches!(&graph.node(*id).work, Work::Stage(d) if d.kind == "card");
    let Some(id) = graph.ids().find(is_card) else {
        let error = Error::new(ErrorKind::Usage, "the manifest has no artifact of kind `card`");
        return Err(error.hint("add `kind = \"card\"` with a `template`").into());
    };
    let name = &graph.node(id).name;
    let missing = || {
        Error::new(ErrorKind::Usage, format!("`{name}` has not been built yet"))
            .hint(format!("run `hfbuild build {name}` first: it shows the card that was built last"))
    };
    let store = Store::at(&project.root);
    let loaded = records::load(&store)?;
    let receipt = loaded.history.last(name).ok_or_else(missing)?;
    let output = receipt.outputs.first().ok_or_else(missing)?;
    let bytes = store.blobs().read(&output.digest)?.ok_or_else(missing)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let shown = if preview {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        markdown::render(&text, width(), colour)
    } else {
        text
    };
    super::out::print(&shown);
    Ok(())
}

fn width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    asked.filter(|c| (20..=1000).contains(c)).unwrap_or(WIDTH)
}
