//! Facts about a set of pictures: what tells samples from noise, and classes from one another.
//!
//! All sums are of integers, so the facts are the same on every machine and in every order of the pictures. A white
//! background gives many saturated values, so saturation alone is no sign of noise: neighbour correlation tells them apart
//! (0 for noise; .89 and .84 for the two trained fixtures).

use super::sample::Picture;
use crate::core::error::{Error, Result};
use serde::Serialize;

/// Facts about pictures of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PictureStats {
    /// Number of pictures.
    pub count: usize,
    /// Fraction of the channel values that are 0 or 255.
    pub saturated: f64,
    /// Pearson correlation of all pairs of horizontally or vertically adjacent values of the same channel, pooled over
    /// directions, channels and pictures; the left or upper one is the first of a pair. `None` where all are equal.
    pub neighbour_correlation: Option<f64>,
    /// The same of horizontal pairs alone: what the fixtures' README gives as .90 and .84.
    pub horizontal_correlation: Option<f64>,
    /// Mean of the channel values, 0..255.
    pub mean: f64,
    /// Standard deviation of the channel values over the whole set (biased).
    pub std: f64,
    /// Mean of |a - b| over all pairs of pictures and all values, 0..255; `None` for fewer than two pictures.
    pub pair_difference: Option<f64>,
}

/// Sums of pairs, for a Pearson correlation.
#[derive(Debug, Clone, Copy, Default)]
struct Pairs {
    n: u64,
    a: u64,
    b: u64,
    aa: u64,
    bb: u64,
    ab: u64,
}

impl Pairs {
    fn add(&mut self, a: u8, b: u8) {
        let (a, b) = (u64::from(a), u64::from(b));
        self.n += 1;
        self.a += a;
        self.b += b;
        self.aa += a * a;
        self.bb += b * b;
        self.ab += a * b;
    }

    fn plus(self, o: Pairs) -> Pairs {
        Pairs {
            n: self.n + o.n,
            a: self.a + o.a,
            b: self.b + o.b,
            aa: self.aa + o.aa,
            bb: self.bb + o.bb,
            ab: self.ab + o.ab,
        }
    }

    /// `None` where there are no pairs or either side is constant.
    fn correlation(self) -> Option<f64> {
        let [n, a, b, aa, bb, ab] = [self.n, self.a, self.b, self.aa, self.bb, self.ab].map(i128::from);
        let (var_a, var_b) = (n * aa - a * a, n * bb - b * b);
        let covariance = (n * ab - a * b) as f64;
        (var_a > 0 && var_b > 0).then(|| covariance / ((var_a as f64).sqrt() * (var_b as f64).sqrt()))
    }
}

/// The facts of a set.
///
/// # Errors
/// No pictures, empty ones, or ones of different sizes.
pub fn stats(pictures: &[Picture]) -> Result<PictureStats> {
    check(pictures)?;
    let (mut horizontal, mut vertical) = (Pairs::default(), Pairs::default());
    for picture in pictures {
        let row = 3 * picture.width;
        for line in picture.pixels.chunks_exact(row) {
            line.iter().zip(&line[3..]).for_each(|(&a, &b)| horizontal.add(a, b));
        }
        picture.pixels.iter().zip(&picture.pixels[row..]).for_each(|(&a, &b)| vertical.add(a, b));
    }
    let values = || pictures.iter().flat_map(|picture| &picture.pixels).map(|&value| u64::from(value));
    let n = values().count() as f64;
    let (sum, squares) = values().fold((0u64, 0u64), |(sum, squares), v| (sum + v, squares + v * v));
    let mean = sum as f64 / n;
    Ok(PictureStats {
        count: pictures.len(),
        saturated: values().filter(|&v| v == 0 || v == 255).count() as f64 / n,
        neighbour_correlation: horizontal.plus(vertical).correlation(),
        horizontal_correlation: horizontal.correlation(),
        mean,
        std: (squares as f64 / n - mean * mean).max(0.0).sqrt(),
        pair_difference: pair_difference(pictures),
    })
}

fn check(pictures: &[Picture]) -> Result<()> {
    let first = pictures.first().ok_or_else(|| Error::stage("there are no pictures to measure"))?;
    let size = 3 * first.width * first.height;
    let fits = |p: &&Picture| (p.width, p.height, p.pixels.len()) == (first.width, first.height, size);
    match size > 0 && pictures.iter().filter(fits).count() == pictures.len() {
        true => Ok(()),
        false => Err(Error::stage("pictures of different or empty sizes cannot be measured together")),
    }
}

fn pair_difference(pictures: &[Picture]) -> Option<f64> {
    let (mut total, mut pairs) = (0u64, 0u64);
    for (index, a) in pictures.iter().enumerate() {
        for b in &pictures[index + 1..] {
            total += a.pixels.iter().zip(&b.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
            pairs += a.pixels.len() as u64;
        }
    }
    (pairs > 0).then(|| total as f64 / pairs as f64)
}

/// The mean picture of a set: `3 * width * height` values in 0..255.
///
/// # Errors
/// As [`stats`].
pub fn mean_picture(pictures: &[Picture]) -> Result<Vec<f32>> {
    check(pictures)?;
    let size = pictures[0].pixels.len();
    let sum = |at: usize| pictures.iter().map(|picture| u64::from(picture.pixels[at])).sum::<u64>();
    Ok((0..size).map(|at| (sum(at) as f64 / pictures.len() as f64) as f32).collect())
}

/// Mean of |a - b| of two mean pictures, 0..255: how far two classes lie apart.
///
/// # Errors
/// Their sizes differ.
pub fn mean_difference(a: &[f32], b: &[f32]) -> Result<f64> {
    if a.len() != b.len() || a.is_empty() {
        return Err(Error::stage(format!("mean pictures of {} and {} values cannot be compared", a.len(), b.len())));
    }
    Ok(a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / a.len() as f64)
}

/// Cuts a sheet into tiles of `tile` x `tile` pixels, row by row, leaving out what does not fill one.
pub fn tiles(sheet: &Picture, tile: usize) -> Vec<Picture> {
    if tile == 0 {
        return vec![];
    }
    let (across, down) = (sheet.width / tile, sheet.height / tile);
    let cut = |(top, left): (usize, usize)| {
        let line = |y: usize| {
            let start = 3 * ((top * tile + y) * sheet.width + left * tile);
            &sheet.pixels[start..start + 3 * tile]
        };
        Picture { width: tile, height: tile, pixels: (0..tile).flat_map(line).copied().collect() }
    };
    (0..across * down).map(|index| cut((index / across, index % across))).collect()
}
