//! The tree as it will stand on the Hub, laid out under `dist/`.
//!
//! Puts the record beside the files that artifacts placed, and takes away what an earlier publish laid out. Never
//! touches a file whose content is not what was recorded.

use crate::core::action::Shape;
use crate::core::digest::Digest;
use crate::core::error::{OnPath, Result};
use crate::core::event::Event;
use crate::core::graph::{Upload, Work};
use crate::core::plan::RECORD;
use crate::core::publish::Tree;
use crate::exec::publish::Publisher;
use std::collections::BTreeMap;

/// Where the tree stands while there is one upload.
const FIRST: &str = "dist";

impl Publisher<'_, '_> {
    /// Whether this very record stands in `dist/`: then the whole tree was laid out with it.
    pub(super) fn is_laid_out(&mut self, record: &[u8]) -> Result<bool> {
        let Work::Upload(upload) = &self.driver.project.graph.node(self.upload).work else { return Ok(true) };
        let place = format!("{}/{RECORD}", upload.dist);
        let there = self.driver.memo.digest(&self.driver.project.root, &place)?;
        Ok(there == Some(Digest::of(record)))
    }

    /// Puts the record beside the other files of the tree, and takes away files of earlier trees that are ours.
    pub(super) fn lay_out(&mut self, tree: &Tree, record: &[u8]) -> Result<()> {
        let Work::Upload(upload) = &self.driver.project.graph.node(self.upload).work else { return Ok(()) };
        let dist = upload.dist.to_string();
        let blobs = self.driver.store.blobs();
        let digest = blobs.put(record)?;
        self.driver.place_one(&format!("{dist}/{RECORD}"), &digest, &blobs, None)?;
        self.clear_old(tree, &dist)?;
        // where the only upload of an earlier manifest was laid out
        if self.driver.project.graph.uploads().all(|(_, upload)| upload.dist.as_str() != FIRST) {
            self.clear_old(&Tree::new(), FIRST)?;
        }
        let root = self.driver.project.root.clone();
        for entry in walkdir::WalkDir::new(root.join(&dist)).into_iter().flatten().filter(|e| e.file_type().is_file()) {
            let Some(path) = entry.path().strip_prefix(root.join(&dist)).ok().and_then(|p| p.to_str()) else {
                continue;
            };
            if !tree.contains_key(path) {
                self.driver.emit(Event::Warning {
                    text: format!("`{dist}/{path}` is not part of the tree and is not published"),
                });
            }
        }
        Ok(())
    }

    /// Takes away what an earlier publish laid out and this tree does not have: only files at the very paths of a
    /// recorded tree, with the very content that was recorded. Anything else is somebody's.
    fn clear_old(&mut self, tree: &Tree, dist: &str) -> Result<()> {
        let root = self.driver.project.root.clone();
        let trees = self.driver.loaded.publishes.landed.iter().map(|p| &p.tree);
        let old: BTreeMap<String, Vec<Digest>> = trees.flatten().filter(|(path, _)| !tree.contains_key(*path)).fold(
            BTreeMap::new(),
            |mut old, (path, file)| {
                old.entry(path.clone()).or_insert_with(Vec::new).push(file.digest);
                old
            },
        );
        for (path, digests) in old {
            let place = format!("{dist}/{path}");
            let there = self.driver.memo.digest(&root, &place)?;
            let elsewhere = |(_, upload): (_, &Upload)| {
                let theirs = format!("{}/", upload.dist);
                theirs.len() > dist.len() + 1 && place.starts_with(&theirs)
            };
            if self.driver.project.graph.uploads().any(elsewhere)
                || self.is_somebodys(&place)
                || !there.is_some_and(|d| digests.contains(&d))
            {
                continue;
            }
            let full = root.join(&place);
            std::fs::remove_file(&full).on("remove", &full)?;
            self.driver.world.placed.remove(&place);
            for parent in full.ancestors().skip(1).take_while(|p| *p != root.join(dist) && p.starts_with(&root)) {
                if std::fs::remove_dir(parent).is_err() {
                    break; // it holds something else
                }
            }
        }
        Ok(())
    }

    /// Whether an artifact of the project makes this very path.
    fn is_somebodys(&self, place: &str) -> bool {
        let declared = |id| self.driver.project.graph.stage(id).map(|d| &d.shape);
        self.driver.project.graph.ids().filter_map(declared).any(|shape| match shape {
            Shape::Paths(paths) => paths.iter().any(|p| p == place || place.starts_with(&format!("{p}/"))),
            _ => false,
        })
    }
}
