//! What `samples` draws from: an ONNX graph, or with `runtime = "torch"` the weights themselves, in libtorch's worker.
//!
//! Either says how many labels it has, which one stands for none, and how large its pictures are. Does not draw.

use super::samples::picture_shape;
use super::sessions::Lent;
use super::{Workspace, evaluation, onnx, param, safetensors, torch};
use crate::core::action::Action;
use crate::core::digest::{Canonical, Digest};
use crate::core::error::{Error, Result};
use crate::core::runtime::{DeviceKind, Wanted};
use crate::model::architecture::Architecture;
use crate::model::onnx::import::OnnxFile;
use crate::model::torch::{Subject, TORCH, TorchSession};
use std::path::PathBuf;

/// See the module.
pub(super) struct Generator {
    /// Of the graph, or of the weights.
    pub digest: Digest,
    /// What facts call it.
    pub name: &'static str,
    /// Labels, without the null label.
    pub labels: i64,
    /// The label of the unconditional prediction.
    pub null_label: i64,
    /// Channels, height, width.
    pub shape: [usize; 3],
    from: From,
}

enum From {
    Graph(PathBuf),
    Weights(Subject),
}

/// Refuses a graph that applies guidance itself, or that does not say: `external`, `baked:SCALE`, or nothing.
fn applies_none(written: &str) -> Result<()> {
    match written {
        "external" => Ok(()),
        "" => Err(Error::stage("the graph does not say who applies guidance, so it could be applied twice")
            .hint("its metadata has `hfbuild.guidance`, `external` or `baked:SCALE`, where hfbuild wrote it")),
        baked => Err(Error::stage(format!("the graph says guidance `{baked}`, and guidance would be applied twice"))),
    }
}

impl Generator {
    /// The generator of a stage.
    ///
    /// # Errors
    /// A graph that does not say what it must, weights of another network, files that cannot be read.
    pub(super) fn of(action: &Action, workspace: &Workspace) -> Result<Generator> {
        match torch::is_asked(action) {
            true => Generator::of_weights(workspace),
            false => Generator::of_graph(action, workspace),
        }
    }

    fn of_graph(action: &Action, workspace: &Workspace) -> Result<Generator> {
        let graph = onnx::graph_file(workspace, "graph")?;
        let described = OnnxFile::open(&graph.file)?.info()?;
        if param(action, "guidance")?.as_f64().is_some() {
            applies_none(described.metadata.get("hfbuild.guidance").map_or("", String::as_str))?;
        }
        let meta = |key: &str| {
            described.metadata.get(key).and_then(|v| v.parse::<i64>().ok()).ok_or_else(|| {
                Error::stage(format!("the graph does not say its `{key}`"))
                    .hint("`samples` takes graphs that hfbuild wrote (kind `onnx`)")
            })
        };
        Ok(Generator {
            digest: graph.digest,
            name: "the graph",
            labels: meta("hfbuild.num_labels")?,
            null_label: meta("hfbuild.null_label")?,
            shape: picture_shape(&described)?,
            from: From::Graph(graph.file),
        })
    }

    fn of_weights(workspace: &Workspace) -> Result<Generator> {
        let files = workspace.files("weights")?;
        let architecture = Architecture::of_metadata(&safetensors::open(files)?.metadata)?;
        let Some(Architecture::TinyDit(config)) = &architecture else {
            let found =
                architecture.as_ref().map_or("of another network".into(), |found| format!("a {}", found.name()));
            return Err(Error::stage(format!("libtorch draws from a TinyDiT, and these weights are {found}")));
        };
        let mut digest = Canonical::new("hfbuild weights 1");
        files.iter().for_each(|file| {
            digest.digest(&file.digest);
        });
        Ok(Generator {
            digest: if let [one] = files { one.digest } else { digest.finish() },
            name: "the weights",
            labels: config.num_classes as i64,
            null_label: config.null_label(),
            shape: [config.channels, config.image_size, config.image_size],
            from: From::Weights(torch::weights(files, &Architecture::TinyDit(config.clone()))),
        })
    }

    /// A session of it where the stage runs, as [`evaluation::lend`] gives one.
    ///
    /// # Errors
    /// What the manifest names cannot be had here, or it cannot be loaded.
    pub(super) fn lend(&self, action: &Action, workspace: &mut Workspace) -> Result<Lent> {
        let subject = match &self.from {
            From::Graph(file) => return evaluation::lend(workspace, action, "graph", file),
            From::Weights(subject) => subject.clone(),
        };
        let device = Wanted::of(&action.params).device;
        let gpus = torch::gpus(workspace);
        let held = gpus.as_ref().map_or(String::new(), |gpus| format!(" {}", gpus.join(",")));
        let place = format!("torch {}{held}", device.map_or("auto", DeviceKind::word));
        evaluation::lend_by(workspace, action, "weights", [format!("torch {TORCH}"), place], || {
            let mut session = TorchSession::start(gpus.as_deref())?;
            let best = if session.hello().cuda_devices > 0 { DeviceKind::Cuda } else { DeviceKind::Cpu };
            session.open(subject, device.unwrap_or(best), None)?;
            Ok(Box::new(session))
        })
    }
}
