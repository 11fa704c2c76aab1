//! Drawing the pictures of a label, batch by batch: what an interrupted run kept is not drawn again, and while a batch is
//! drawn the one before it is encoded and written.
//!
//! A batch is kept as pixels before the next one begins, so a kill loses one batch, whatever the encoder was at. Two batches
//! at most wait for it. Knows how `samples` names its files; measures nothing but seconds.

use super::sessions::Lent;
use super::{Workspace, batches};
use crate::core::digest::Digest;
use crate::core::error::{Error, OnPath, Result};
use crate::model::sample::{self, Picture, SampleSpec};
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// Pictures that are drawn at once (with guidance, twice as many rows go through the graph).
pub const BATCH: usize = 8;
/// What the parts are called.
const ROW: &str = "pictures";
/// Bytes of a part before its pixels.
const HEAD: usize = 16;

/// What was drawn.
#[derive(Debug, Default, PartialEq)]
pub struct Drawn {
    /// The pictures, in their order.
    pub pictures: Vec<Picture>,
    /// The noise of each, as a picture.
    pub noise: Vec<Picture>,
    /// BLAKE3 of each file.
    pub files: Vec<Digest>,
    /// What drawing took, that of an interrupted run included.
    pub times: Times,
}

/// Seconds.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Times {
    /// Of drawing.
    pub drawing: f64,
    /// Of these, within the graph.
    pub graph: f64,
}

/// Pictures on their way to the encoder.
struct Batch {
    first: usize,
    pictures: Vec<Picture>,
    /// What they were drawn from, where it is at hand.
    noise: Option<Vec<f32>>,
}

/// Draws `spec` (all pictures of a label) into `FOLDER/K.png`.
///
/// # Errors
/// Those of the graph, a device that does not hold a single picture, files that cannot be written, an interruption.
pub fn draw(workspace: &Workspace, lent: &mut Lent, spec: &SampleSpec, folder: &str) -> Result<Drawn> {
    let size = spec.shape.iter().product::<usize>();
    let mut kept = workspace.kept(&lent.by)?;
    let found = batches::find(&mut kept, ROW, spec.count, &|bytes, count| bytes == HEAD + count * size);
    drop(kept);
    batches::goes_on(workspace, found.things(), spec.count)?;
    let out = workspace.out().join(folder);
    std::fs::create_dir_all(&out).on("create", &out)?;
    std::thread::scope(|scope| {
        // one batch waits while another is encoded
        let (send, receive) = sync_channel(1);
        let encoder = scope.spawn(|| encode(receive, &out, spec));
        let mut drawing = Drawing { workspace, lent, spec, encoder: send, done: 0, times: Times::default() };
        let drawn = drawing.all(found);
        let drawn = drawing.lent.checked(drawn);
        if drawn.is_ok() {
            // the next label is drawn while the rest of this one is encoded, measured and stored
            drawing.lent.give_back();
            (workspace.release)();
        }
        let times = drawing.times;
        drop(drawing);
        // where the encoder failed, that is why the drawing stopped
        let files = encoder.join().map_err(|_| Error::bug("the encoder's thread ended badly"))??;
        drawn.map(|()| Drawn { times, ..files })
    })
}

/// A label under way.
struct Drawing<'a> {
    workspace: &'a Workspace,
    lent: &'a mut Lent,
    spec: &'a SampleSpec,
    encoder: SyncSender<Batch>,
    /// Pictures that are there.
    done: usize,
    times: Times,
}

impl Drawing<'_> {
    /// Sends what is kept and draws the rest.
    fn all(&mut self, found: batches::Found) -> Result<()> {
        for (things, bytes) in &found.parts {
            let (pictures, times) = unpacked(bytes, self.spec.shape);
            self.sent(Batch { first: things.start, pictures, noise: None }, times)?;
        }
        let asked = self.workspace.batch.unwrap_or(BATCH);
        let mut batch = asked.min(self.lent.fits.unwrap_or(asked));
        for gap in &found.gaps {
            batches::each(self.workspace, gap, &mut batch, &mut |things| self.one(&things))?;
        }
        if batch < asked {
            self.lent.fits = Some(batch);
        }
        Ok(())
    }

    /// Draws one batch, keeps it and hands it on.
    fn one(&mut self, things: &Range<usize>) -> Result<()> {
        let begun = Instant::now();
        let spec = SampleSpec { first: things.start as u64, count: things.len(), ..self.spec.clone() };
        let noise = sample::initial_noise(&spec)?;
        let (values, graph) = self.integrated(noise.clone(), &spec)?;
        let pictures = sample::to_rgb8(&values, spec.shape)?;
        let times = Times { drawing: begun.elapsed().as_secs_f64(), graph };
        self.workspace.keep(&self.lent.by, &batches::name(ROW, things), &packed(&pictures, times))?;
        self.sent(Batch { first: things.start, pictures, noise: Some(noise) }, times)
    }

    /// The numbers of a batch, and the seconds that were spent within the graph.
    fn integrated(&mut self, noise: Vec<f32>, batch: &SampleSpec) -> Result<(Vec<f32>, f64)> {
        let mut graph = 0.0;
        let (workspace, before) = (self.workspace, self.done * batch.steps);
        let total = (self.spec.count * batch.steps) as u64;
        let mut run = sample::session_velocity(self.lent.session()?, batch.shape);
        let mut velocity = |x: &[f32], t: &[f32], labels: &[i64]| {
            let begun = Instant::now();
            let velocity = run(x, t, labels);
            graph += begun.elapsed().as_secs_f64();
            velocity
        };
        let mut progress = |step: usize| {
            (workspace.progress)((before + step * batch.count) as u64, total);
            workspace.cancel.check()
        };
        let values = sample::sample_from(noise, &mut velocity, batch, &mut progress)?;
        Ok((values, graph))
    }

    fn sent(&mut self, batch: Batch, times: Times) -> Result<()> {
        self.done += batch.pictures.len();
        self.times.drawing += times.drawing;
        self.times.graph += times.graph;
        self.encoder.send(batch).map_err(|_| Error::bug("the encoder has ended"))
    }
}

/// A part: both seconds as f64, then the pixels. Little-endian.
fn packed(pictures: &[Picture], times: Times) -> Vec<u8> {
    let seconds = [times.drawing, times.graph].into_iter().flat_map(f64::to_le_bytes);
    seconds.chain(pictures.iter().flat_map(|picture| picture.pixels.iter().copied())).collect()
}

/// The same, read.
fn unpacked(bytes: &[u8], shape: [usize; 3]) -> (Vec<Picture>, Times) {
    let (head, pixels) = bytes.split_at(HEAD);
    let seconds = |at: usize| head[at..at + 8].try_into().map_or(0.0, f64::from_le_bytes);
    let [channels, height, width] = shape;
    let picture = |pixels: &[u8]| Picture { width, height, pixels: pixels.to_vec() };
    let pictures = pixels.chunks_exact(channels * height * width).map(picture).collect();
    (pictures, Times { drawing: seconds(0), graph: seconds(8) })
}

/// Encodes and writes batches until there are no more. Ends early only with an error.
fn encode(batches: Receiver<Batch>, out: &Path, spec: &SampleSpec) -> Result<Drawn> {
    let mut drawn: Vec<(usize, Drawn)> = Vec::new();
    for batch in batches {
        let write = |(at, picture): (usize, &Picture)| {
            let (file, bytes) = (out.join(format!("{}.png", batch.first + at)), sample::png(picture)?);
            std::fs::write(&file, &bytes).on("write", &file)?;
            Ok(Digest::of(&bytes))
        };
        let files = batch.pictures.par_iter().enumerate().map(write).collect::<Result<Vec<_>>>()?;
        let of = SampleSpec { first: batch.first as u64, count: batch.pictures.len(), ..spec.clone() };
        let noise = batch.noise.map_or_else(|| sample::initial_noise(&of), Ok)?;
        let noise = sample::to_rgb8(&noise, spec.shape)?;
        drawn.push((batch.first, Drawn { pictures: batch.pictures, noise, files, times: Times::default() }));
    }
    drawn.sort_by_key(|(first, _)| *first);
    let mut all = Drawn::default();
    for (_, batch) in drawn {
        all.pictures.extend(batch.pictures);
        all.noise.extend(batch.noise);
        all.files.extend(batch.files);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
