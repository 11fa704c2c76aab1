//! Putting outputs at their places in the project, and taking away what no longer belongs there.
//!
//! A file that hfbuild did not make is moved aside, never overwritten. Does not decide what is placed.

use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, OnPath, Result};
use crate::core::event::Event;
use crate::core::graph::{NodeId, placed_path};
use crate::core::receipt::Output;
use crate::exec::drive::Driver;
use crate::exec::observe;
use crate::store::blobs::Blobs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a disk that is full, or a quota that is used up, is said.
const FULL: [&str; 2] = ["(os error 28)", "(os error 122)"];

impl Driver<'_> {
    /// Puts outputs at their places and takes away what an earlier receipt of the same node put there and this one does
    /// not. A file that hfbuild did not make is moved aside, never overwritten. `copies` are there already, by place.
    pub(super) fn place(
        &mut self,
        id: NodeId,
        outputs: &[Output],
        copies: &mut BTreeMap<String, PathBuf>,
    ) -> Result<()> {
        let node = self.project.graph.node(id);
        let blobs = self.store.blobs();
        let last = self.loaded.history.last(&node.name).cloned();
        for place in node.places.clone() {
            for output in outputs {
                let path = placed_path(&place, &output.path);
                let placed = self.place_one(&path, &output.digest, &blobs, copies.remove(&path));
                placed.map_err(|error| hinted(error, &self.project.root, &path))?;
            }
            let old = last.iter().flat_map(|r| r.outputs.iter()).filter(|o| !outputs.iter().any(|n| n.path == o.path));
            for output in old {
                let path = placed_path(&place, &output.path);
                if self.world.placed.get(&path) == Some(&output.digest) {
                    let full = self.project.root.join(&path);
                    std::fs::remove_file(&full).on("remove", &full)?;
                    self.world.placed.remove(&path);
                }
            }
        }
        Ok(())
    }

    pub(super) fn place_one(
        &mut self,
        path: &str,
        digest: &Digest,
        blobs: &Blobs,
        copy: Option<PathBuf>,
    ) -> Result<()> {
        // looked at again: somebody may have changed it while the stage ran
        self.world.placed.remove(path);
        let there = std::fs::symlink_metadata(self.project.root.join(path));
        if !there.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            observe::observe_place(&self.project.root, path, &mut self.memo, &mut self.world)?;
        }
        if there.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::NotADirectory, |m| m.is_dir()) {
            self.make_room(path)?;
        }
        let is_link = there.is_ok_and(|m| m.is_symlink());
        match self.world.placed.get(path) {
            Some(there) if there == digest => return Ok(()),
            Some(there) if !blobs.path(there).exists() && !self.is_ours(there) => self.move_aside(path)?,
            None if is_link => self.move_aside(path)?,
            _ => {}
        }
        blobs.place(digest, &self.project.root, path, copy)?;
        self.memo.placed(&self.project.root, path, *digest)?;
        self.world.placed.insert(path.into(), *digest);
        Ok(())
    }

    /// Takes away a file where a folder has to be, or a folder where a file has to be: what an earlier tree had there.
    /// Where anything in it was not made by hfbuild, all of it is moved aside.
    fn make_room(&mut self, path: &str) -> Result<()> {
        let root = self.project.root.clone();
        let is_file = |place: &&str| std::fs::symlink_metadata(root.join(place)).is_ok_and(|m| !m.is_dir());
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(is_file);
        let place = above.unwrap_or(path);
        let full = root.join(place);
        let mut ours = true;
        for entry in walkdir::WalkDir::new(&full) {
            let entry = entry.map_err(|e| Error::stage(format!("cannot look into `{place}`")).cause(e.to_string()))?;
            let relative = entry.path().strip_prefix(&root).ok().and_then(|path| path.to_str());
            let digest = match relative.filter(|_| entry.file_type().is_file()) {
                Some(file) => self.memo.digest(&root, file)?,
                None => None,
            };
            ours &= entry.file_type().is_dir() || digest.is_some_and(|digest| self.is_ours(&digest));
        }
        if !ours {
            self.move_aside(place)?;
        } else if above.is_some() {
            std::fs::remove_file(&full).on("remove", &full)?;
        } else {
            std::fs::remove_dir_all(&full).on("remove", &full)?;
        }
        let below = format!("{place}/");
        self.world.placed.retain(|placed, _| placed != place && !placed.starts_with(&below));
        Ok(())
    }

    /// Keeps what a user has put at the place of an output.
    fn move_aside(&self, path: &str) -> Result<()> {
        let run = self.run_dir.file_name().unwrap_or_default();
        let aside = self.store.displaced().join(run).join(path);
        if let Some(dir) = aside.parent() {
            std::fs::create_dir_all(dir).on("create", dir)?;
        }
        let full = self.project.root.join(path);
        std::fs::rename(&full, &aside).on("move aside", &full)?;
        let to = aside.strip_prefix(&self.project.root).unwrap_or(&aside).display().to_string();
        self.emit(Event::Warning { text: format!("`{path}` is not what hfbuild put there; it is kept as `{to}`") });
        Ok(())
    }

    /// Whether a publish or a receipt has this content: then hfbuild made it, and it can be made again.
    fn is_ours(&self, digest: &Digest) -> bool {
        let published = self.loaded.publishes.landed.iter().flat_map(|p| p.tree.values()).map(|f| f.digest);
        let made = self.loaded.history.all().flat_map(|r| r.outputs.iter()).map(|o| o.digest);
        published.chain(made).any(|d| d == *digest)
    }
}

/// An output that cannot be put at its place, with what a user can do about it.
fn hinted(error: Error, root: &Path, path: &str) -> Error {
    if error.kind() != ErrorKind::Io || error.hint_text().is_some() {
        return error;
    }
    let is_file = |(at, _)| std::fs::metadata(root.join(&path[..at])).is_ok_and(|m| !m.is_dir());
    let stands = path.match_indices('/').any(is_file) || std::fs::symlink_metadata(root.join(path)).is_ok();
    let is_full = error.causes().iter().any(|cause| FULL.iter().any(|full| cause.contains(full)));
    let mend = match (is_full, stands) {
        (true, _) => "make room on the disk; ",
        (_, true) => "move away what stands at the place of the output; ",
        _ => "",
    };
    error.hint(format!("{mend}what was made is kept, and is put there by the next run"))
}
