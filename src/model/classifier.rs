//! Classifying pictures by an ONNX graph: `[B, 3, H, W]` f32 in, `[B, classes]` f32 out, the greatest output is the class.
//!
//! Knows how pictures become numbers: values through 255, minus the mean, through the standard deviation, a channel at a
//! time. Does not know what the classes mean.

use super::onnx::import::{Extent, GraphInfo, Port};
use super::runtime::{Data, Input, Session};
use super::sample::Picture;
use crate::core::error::{Error, Result};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Rgb};

/// How pictures of another size than the graph's are brought to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Not at all: another size is an error.
    None,
    /// The nearest pixel.
    Nearest,
    /// Bilinear, averaging where it shrinks, as Pillow and torchvision with `antialias=True` do (values may differ by 1 of
    /// 255).
    Bilinear,
}

/// What is done to a picture before it goes into the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// See [`Resize`].
    pub resize: Resize,
    /// Subtracted from the values in 0..1, by channel.
    pub mean: [f32; 3],
    /// Divided by, by channel.
    pub std: [f32; 3],
}

/// The signature of a classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The input's name.
    pub input: String,
    /// The output's name.
    pub output: String,
    /// Height and width, where the graph fixes them.
    pub size: Option<(usize, usize)>,
}

/// Reads the signature of a classifier off a graph.
///
/// # Errors
/// Not one input `[B, 3, H, W]` of f32, or not one output of f32.
pub fn signature(graph: &GraphInfo) -> Result<Signature> {
    let wrong = || {
        let all = |ports: &[Port]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::stage(format!("the graph is no classifier: {} -> {}", all(&graph.inputs), all(&graph.outputs)))
            .hint("a classifier has one input F32 [batch, 3, height, width] and one output F32 [batch, classes]")
    };
    let ([input], [output]) = (&graph.inputs[..], &graph.outputs[..]) else { return Err(wrong()) };
    let [_, channels, height, width] = &input.shape[..] else { return Err(wrong()) };
    let three = matches!(channels, Extent::Fixed(3) | Extent::Symbol(_));
    if !three || input.dtype != "F32" || output.dtype != "F32" {
        return Err(wrong());
    }
    let fixed = |extent: &Extent| match extent {
        Extent::Fixed(n) => usize::try_from(*n).ok(),
        Extent::Symbol(_) => None,
    };
    let size = fixed(height).zip(fixed(width));
    Ok(Signature { input: input.name.clone(), output: output.name.clone(), size })
}

/// Whether pictures can go through the graph as they are, where it takes any size: it names none that they could be brought
/// to.
///
/// # Errors
/// They are of different sizes, or a way to resize them is given, which would do nothing.
pub fn of_any_size<'a>(
    signature: &Signature,
    how: Resize,
    mut pictures: impl Iterator<Item = &'a Picture>,
) -> Result<()> {
    let Some(first) = pictures.next().filter(|_| signature.size.is_none()) else { return Ok(()) };
    if how != Resize::None {
        return Err(Error::stage("the classifier takes pictures of any size, so `resize` has none to bring them to")
            .hint("take `resize` out, or export the classifier for the one size that it was trained on"));
    }
    let size = |picture: &Picture| format!("{}x{}", picture.width, picture.height);
    match pictures.find(|picture| size(picture) != size(first)) {
        Some(other) => {
            let (one, other) = (size(first), size(other));
            Err(Error::stage(format!(
                "there are pictures of {one} and of {other} pixels, and the classifier takes any size"
            ))
            .hint("make them alike: hfbuild does not choose a size"))
        }
        None => Ok(()),
    }
}

/// The outputs of the graph for a batch of pictures, one row a picture.
///
/// # Errors
/// Pictures of another size than the graph's without a way to resize them, or of different sizes; outputs of another
/// shape than one row a picture, or that are not finite.
pub fn scores(
    session: &mut dyn Session,
    signature: &Signature,
    preprocess: &Preprocess,
    pictures: &[&Picture],
) -> Result<Vec<Vec<f32>>> {
    let Some(first) = pictures.first() else { return Ok(vec![]) };
    let (height, width) = signature.size.unwrap_or((first.height, first.width));
    let mut numbers = Vec::with_capacity(pictures.len() * 3 * height * width);
    for picture in pictures {
        let fitted = fitted(picture, height, width, preprocess.resize)?;
        for channel in 0..3 {
            let (mean, std) = (preprocess.mean[channel], preprocess.std[channel]);
            let values = fitted.pixels.iter().skip(channel).step_by(3);
            numbers.extend(values.map(|v| (f32::from(*v) / 255.0 - mean) / std));
        }
    }
    let shape = vec![pictures.len(), 3, height, width];
    let input = Input { name: &signature.input, shape, data: Data::F32(&numbers) };
    let output = session.run(&[input], &signature.output)?;
    let rows = match output.shape[..] {
        [rows, classes] if rows == pictures.len() && classes > 0 => output.values.chunks_exact(classes),
        _ => {
            return Err(Error::stage(format!(
                "the classifier gives the shape {:?} for {} pictures, expected [{}, classes]",
                output.shape,
                pictures.len(),
                pictures.len()
            )));
        }
    };
    if output.values.iter().any(|value| !value.is_finite()) {
        return Err(Error::stage("the classifier gives a number that is not finite"));
    }
    Ok(rows.map(<[f32]>::to_vec).collect())
}

fn fitted(picture: &Picture, height: usize, width: usize, how: Resize) -> Result<Picture> {
    if (picture.height, picture.width) == (height, width) {
        return Ok(picture.clone());
    }
    let filter = match how {
        Resize::Nearest => FilterType::Nearest,
        Resize::Bilinear => FilterType::Triangle,
        Resize::None => {
            let (w, h) = (picture.width, picture.height);
            return Err(Error::stage(format!(
                "the pictures have {w}x{h} pixels, the classifier takes {width}x{height}"
            ))
            .hint("set `resize = \"bilinear\"` or `\"nearest\"`, as the classifier was trained"));
        }
    };
    let (w, h) = (picture.width as u32, picture.height as u32);
    let buffer: ImageBuffer<Rgb<u8>, Vec<u8>> = ImageBuffer::from_raw(w, h, picture.pixels.clone())
        .ok_or_else(|| Error::stage(format!("{} bytes are no {w}x{h} picture", picture.pixels.len())))?;
    let pixels = resize(&buffer, width as u32, height as u32, filter).into_raw();
    Ok(Picture { width, height, pixels })
}

/// The index of the greatest score, the first of equals.
pub fn greatest(scores: &[f32]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}
