//! The flow-matching sampler, and pictures from its numbers.
//!
//! The formulas are those of `tinydit.md`, section 2. It integrates any velocity: a runtime's session ([`session_velocity`]),
//! the plain network, a test's closure. Knows no files and no clock. A picture depends on (seed, label, index) and on the
//! velocity alone, not on the batch that it is made in.

use super::noise::normals;
use super::runtime::{Data, Input, Session};
use crate::core::error::{Error, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;

/// White pixels around and between the pictures of a grid.
const GUTTER: usize = 2;

/// What to sample: `count` pictures of one label in one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSpec {
    /// The label.
    pub label: i64,
    /// The label of the unconditional prediction; used only with guidance.
    pub null_label: i64,
    /// The scale of classifier-free guidance; `None` for none, or where the graph has it baked in.
    pub guidance: Option<f32>,
    /// Euler steps.
    pub steps: usize,
    /// The seed.
    pub seed: u64,
    /// Index of the first picture.
    pub first: u64,
    /// Number of pictures.
    pub count: usize,
    /// Channels, height, width.
    pub shape: [usize; 3],
}

/// A velocity: noise `[B, C, H, W]`, time `[B]`, labels `[B]` to `[B, C, H, W]`.
pub type Velocity<'a> = dyn FnMut(&[f32], &[f32], &[i64]) -> Result<Vec<f32>> + 'a;

/// Integrates from noise to pictures in [-1, 1] (not clipped), `[count, C, H, W]`. `progress` is told the steps done after
/// each, and may stop the run with an error.
///
/// # Errors
/// No steps or pictures asked for, a label or index beyond 32 bits, a velocity of another length, an error of the velocity
/// or of `progress`.
pub fn sample(
    velocity: &mut Velocity<'_>,
    spec: &SampleSpec,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f32>> {
    sample_from(initial_noise(spec)?, velocity, spec, progress)
}

/// The same from its noise. With guidance both predictions are one doubled batch, never two calls.
///
/// # Errors
/// As [`sample`].
pub fn sample_from(
    noise: Vec<f32>,
    velocity: &mut Velocity<'_>,
    spec: &SampleSpec,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f32>> {
    let (size, mut x, mut labels) = (noise.len(), noise, vec![spec.label; spec.count]);
    if spec.guidance.is_some() {
        x.extend_from_within(..);
        labels.resize(2 * spec.count, spec.null_label);
    }
    let steps = spec.steps as f32;
    for step in 0..spec.steps {
        let t = (step as f64 / spec.steps as f64) as f32;
        let v = checked(velocity(&x, &vec![t; labels.len()], &labels)?, x.len())?;
        match spec.guidance {
            None => x.iter_mut().zip(&v).for_each(|(x, v)| *x += v / steps),
            Some(scale) => {
                let (conditional, unconditional) = v.split_at(size);
                let (x, copy) = x.split_at_mut(size);
                let v = conditional.iter().zip(unconditional).map(|(c, u)| u + scale * (c - u));
                x.iter_mut().zip(v).for_each(|(x, v)| *x += v / steps);
                copy.copy_from_slice(x);
            }
        }
        progress(step + 1)?;
    }
    x.truncate(size);
    Ok(x)
}

/// The noise that the pictures start from, `[count, C, H, W]`.
///
/// # Errors
/// As [`sample`].
pub fn initial_noise(spec: &SampleSpec) -> Result<Vec<f32>> {
    let label = u32::try_from(spec.label).map_err(|_| Error::stage(format!("label {} is out of range", spec.label)))?;
    let fits = spec.first.checked_add(spec.count as u64).is_some_and(|end| end <= 1 << 32);
    let size: usize = spec.shape.iter().product();
    if !fits || spec.count == 0 || spec.steps == 0 || size == 0 {
        return Err(Error::stage(
            "nothing to sample: steps, pictures and sizes must be at least 1, indices below 2^32",
        ));
    }
    let picture = |k| normals(spec.seed, label.into(), spec.first + k, size);
    let pictures: Vec<Vec<f32>> = (0..spec.count as u64).into_par_iter().map(picture).collect();
    Ok(pictures.concat())
}

fn checked(v: Vec<f32>, expected: usize) -> Result<Vec<f32>> {
    match v.len() == expected {
        true => Ok(v),
        false => Err(Error::stage(format!("the velocity has {} numbers, expected {expected}", v.len()))),
    }
}

/// The velocity of a generator's session: inputs `noise`, `timestep`, `breed`, output `velocity`; pictures of `shape`.
pub fn session_velocity<'a>(
    session: &'a mut dyn Session,
    shape: [usize; 3],
) -> impl FnMut(&[f32], &[f32], &[i64]) -> Result<Vec<f32>> + 'a {
    move |noise, t, labels| {
        let [c, h, w] = shape;
        let inputs = [
            Input { name: "noise", shape: vec![t.len(), c, h, w], data: Data::F32(noise) },
            Input { name: "timestep", shape: vec![t.len()], data: Data::F32(t) },
            Input { name: "breed", shape: vec![labels.len()], data: Data::I64(labels) },
        ];
        Ok(session.run(&inputs, "velocity")?.values)
    }
}

/// An RGB picture, 8 bits a channel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

/// Numbers `[N, 3, H, W]` in [-1, 1] to pictures: `x * 127.5 + 127.5`, clipped to 0..255, truncated.
///
/// # Errors
/// Not three channels, a length that is no multiple of a picture's, a number that is not finite.
pub fn to_rgb8(values: &[f32], shape: [usize; 3]) -> Result<Vec<Picture>> {
    let [channels, height, width] = shape;
    let size = channels * height * width;
    if channels != 3 || size == 0 || !values.len().is_multiple_of(size) {
        return Err(Error::stage(format!("{} numbers are no RGB pictures of shape {shape:?}", values.len())));
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::stage(format!("picture {} holds {}, no number to draw", at / size, values[at]))
            .hint("the network diverged: check its weights"));
    }
    let byte = |value: f32| (value * 127.5 + 127.5).clamp(0.0, 255.0) as u8;
    let plane = height * width;
    let picture = |values: &[f32]| {
        let pixels = (0..plane).flat_map(|at| [0, 1, 2].map(|channel| byte(values[channel * plane + at]))).collect();
        Picture { width, height, pixels }
    };
    Ok(values.chunks_exact(size).map(picture).collect())
}

/// PNG bytes of a picture: no clock and no metadata, so the same picture gives the same bytes.
///
/// # Errors
/// The pixels do not fit the size.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let [width, height] = [picture.width, picture.height].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    if picture.pixels.len() != 3 * picture.width * picture.height {
        return Err(Error::stage(format!("{} bytes are no {width}x{height} picture", picture.pixels.len())));
    }
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(&picture.pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|e| Error::stage("cannot encode a PNG").cause(e.to_string()))?;
    Ok(bytes)
}

/// A PNG's pixels as RGB.
///
/// # Errors
/// The bytes are no PNG, or one of more than 64 megapixels.
pub fn read_png(bytes: &[u8]) -> Result<Picture> {
    decode_png(std::io::Cursor::new(bytes))
}

/// The same, read as far as it goes: a file of any size.
///
/// # Errors
/// As [`read_png`].
pub fn decode_png(from: impl std::io::BufRead + std::io::Seek) -> Result<Picture> {
    let failed = |cause: String| Error::stage("cannot read a PNG").cause(cause);
    let mut reader = image::ImageReader::with_format(from, image::ImageFormat::Png);
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(16_384), Some(16_384));
    limits.max_alloc = Some(512 << 20);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|e| failed(e.to_string()))?.into_rgb8();
    Ok(Picture { width: decoded.width() as usize, height: decoded.height() as usize, pixels: decoded.into_raw() })
}

/// Pictures of one size in rows of `columns`, two white pixels around each.
///
/// # Errors
/// No pictures, no columns, or pictures of different sizes.
pub fn grid(pictures: &[Picture], columns: usize) -> Result<Picture> {
    let Some(first) = pictures.first().filter(|_| columns > 0) else {
        return Err(Error::stage("a grid needs at least one picture and one column"));
    };
    if let Some(other) = pictures.iter().find(|p| (p.width, p.height) != (first.width, first.height)) {
        let (w, h) = (first.width, first.height);
        return Err(Error::stage(format!("a grid of {w}x{h} pictures got one of {}x{}", other.width, other.height)));
    }
    let columns = columns.min(pictures.len());
    let width = columns * (first.width + GUTTER) + GUTTER;
    let height = pictures.len().div_ceil(columns) * (first.height + GUTTER) + GUTTER;
    let mut pixels = vec![255; 3 * width * height];
    for (index, picture) in pictures.iter().enumerate() {
        let left = index % columns * (first.width + GUTTER) + GUTTER;
        let top = index / columns * (first.height + GUTTER) + GUTTER;
        for (row, line) in picture.pixels.chunks_exact(3 * first.width).enumerate() {
            let start = 3 * ((top + row) * width + left);
            pixels[start..start + line.len()].copy_from_slice(line);
        }
    }
    Ok(Picture { width, height, pixels })
}
