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

/// How a set compares with another of the same pictures, one by one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Pearson correlation of the values with their counterparts, pooled over all pictures; `None` where either side is
    /// constant.
    pub correlation: Option<f64>,
    /// Mean of |a - b|, 0..255.
    pub difference: f64,
}

/// Compares pictures with their counterparts: samples with the noise that they were drawn from. A network that hands its
/// noise through gives correlation 1 and difference 0.
///
/// # Errors
/// As [`stats`], or sets of different lengths or sizes.
pub fn against(pictures: &[Picture], others: &[Picture]) -> Result<Against> {
    check(pictures)?;
    check(others)?;
    if pictures.len() != others.len() || pictures[0].pixels.len() != others[0].pixels.len() {
        return Err(Error::stage("pictures cannot be compared with others of another number or size"));
    }
    let (mut pairs, mut total) = (Pairs::default(), 0u64);
    for (a, b) in pictures.iter().zip(others) {
        for (&a, &b) in a.pixels.iter().zip(&b.pixels) {
            pairs.add(a, b);
            total += u64::from(a.abs_diff(b));
        }
    }
    Ok(Against { correlation: pairs.correlation(), difference: total as f64 / pairs.n as f64 })
}

/// How far classes of pictures lie apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassStats {
    /// Mean of |a - b| over all pairs of pictures of different classes and all values, 0..255.
    pub between: f64,
    /// The same over all pairs of pictures of one class; `None` where no class has two pictures.
    pub within: Option<f64>,
    /// Mean of |a - b| of the mean pictures of the two classes that are nearest to each other.
    pub closest: f64,
    /// Which two they are, by index.
    pub closest_pair: (usize, usize),
}

/// The facts of classes. Pictures drawn without regard to their label have `between` and `within` alike.
///
/// Sums over all pairs are taken from histograms of each value's place, so that the work grows with the pictures and not
/// with their pairs: the sum of |a - b| over the pairs of n numbers is the sum over t in 0..255 of c(t) * (n - c(t)),
/// where c(t) of them are at most t.
///
/// # Errors
/// Fewer than two classes, an empty one, pictures of different sizes.
pub fn class_stats(classes: &[Vec<Picture>]) -> Result<ClassStats> {
    if classes.len() < 2 {
        return Err(Error::stage("classes can only be compared where there are two of them at least"));
    }
    classes.iter().try_for_each(|class| check(class))?;
    let size = classes[0][0].pixels.len();
    if classes.iter().any(|class| class[0].pixels.len() != size || class[0].width != classes[0][0].width) {
        return Err(Error::stage("pictures of different sizes cannot be measured together"));
    }
    let (mut all_pairs, mut inner_pairs) = (0u128, 0u128);
    for at in 0..size {
        let mut all = [0u64; 256];
        for class in classes {
            let mut own = [0u64; 256];
            class.iter().for_each(|picture| own[usize::from(picture.pixels[at])] += 1);
            all.iter_mut().zip(&own).for_each(|(all, own)| *all += own);
            inner_pairs += pair_sum(&own);
        }
        all_pairs += pair_sum(&all);
    }
    let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as f64;
    let inner: f64 = classes.iter().map(|class| pairs(class.len())).sum();
    let outer = pairs(classes.iter().map(Vec::len).sum()) - inner;
    let mean = |sum: u128, pairs: f64| sum as f64 / (pairs * size as f64);
    let (closest, closest_pair) = closest(classes)?;
    Ok(ClassStats {
        between: mean(all_pairs - inner_pairs, outer),
        within: (inner > 0.0).then(|| mean(inner_pairs, inner)),
        closest,
        closest_pair,
    })
}

/// The sum of |a - b| over all pairs of the counted numbers.
fn pair_sum(counts: &[u64; 256]) -> u128 {
    let n: u64 = counts.iter().sum();
    let mut below = 0;
    let steps = counts[..255].iter().map(|count| {
        below += count;
        u128::from(below) * u128::from(n - below)
    });
    steps.sum()
}

/// The least difference of two classes' mean pictures, and the first two that have it.
fn closest(classes: &[Vec<Picture>]) -> Result<(f64, (usize, usize))> {
    let means = classes.iter().map(|class| mean_picture(class)).collect::<Result<Vec<_>>>()?;
    let mut least = (f64::INFINITY, (0, 0));
    for (b, second) in means.iter().enumerate() {
        for (a, first) in means[..b].iter().enumerate() {
            let difference = mean_difference(first, second)?;
            if difference < least.0 {
                least = (difference, (a, b));
            }
        }
    }
    Ok(least)
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
