//! Noise, arithmetic, pictures and their statistics.

use super::support::fixture;
use crate::model::matmul::{erf, linear};
use crate::model::noise::{Philox, normals};
use crate::model::pictures::{against, class_stats, mean_difference, mean_picture, stats, tiles};
use crate::model::sample::{Picture, grid, png, read_png, to_rgb8};
use crate::model::tensor::f16_to_f32;

#[test]
fn philox_is_numpys() {
    let first: Vec<u64> = Philox::new([7, 3 << 32 | 5]).take(9).collect();
    assert_eq!(
        first,
        [
            0xdf77a934d5dae933,
            0xff1115faecf5acf4,
            0x28d820202a0d8d65,
            0xb831e5fc533c2ba9,
            0x4cee22570fe3fefe,
            0x83207463e085abe1,
            0xc7e695dd2ad1866b,
            0x127ff015377372c3,
            0x5fea7caccd5a3f53
        ]
    );
    let zero: Vec<u64> = Philox::new([0, 0]).take(6).collect();
    assert_eq!(zero[..2], [0x2f4ba6408e4d89b, 0x3dd62b0b9ca8c5b2]);
    assert_eq!(zero[5], 0x471128b9e807f7dd);
    let ones: Vec<u64> = Philox::new([u64::MAX, u64::MAX]).take(5).collect();
    assert_eq!(ones[4], 0x67e12c1eff8de57e);
}

#[test]
fn normals_are_numpys() {
    let bits: Vec<u32> = normals(7, 3, 5, 10).iter().map(|v| v.to_bits()).collect();
    assert_eq!(
        bits,
        [
            0x3f056f59, 0xbc43a4f4, 0xbebac568, 0xbff0c10f, 0xbfc5e697, 0xbdf37a19, 0x3f21d0cb, 0x3e9df3cd, 0xbfb1a9d5,
            0xbe44a5c4
        ]
    );
    assert_eq!(normals(7, 3, 5, 9), normals(7, 3, 5, 3072)[..9]);
    assert_ne!(normals(7, 3, 5, 4), normals(7, 3, 6, 4));
}

#[test]
fn arithmetic_is_right() {
    for (x, expected) in
        [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (-2.5, -0.999_593_047_982_555)]
    {
        assert!((erf(x) - expected).abs() < 1e-15, "erf({x}) = {}", erf(x));
    }
    assert_eq!((erf(7.0), erf(-7.0)), (1.0, -1.0));
    let x: Vec<f32> = (0..5 * 11).map(|v| v as f32 * 0.5).collect();
    let w: Vec<f32> = (0..3 * 11).map(|v| (v % 7) as f32).collect();
    let y = linear(&x, 5, &w, &[1.0, 2.0, 3.0]);
    let expected = |m: usize, n: usize| (0..11).map(|k| x[m * 11 + k] * w[n * 11 + k]).sum::<f32>() + (n + 1) as f32;
    assert_eq!(y, (0..15).map(|i| expected(i / 3, i % 3)).collect::<Vec<_>>());
    let halves = [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 5.960_464_5e-8), (0x7bff, 65504.0), (0x7c00, f32::INFINITY)];
    halves.iter().for_each(|&(bits, value)| assert_eq!(f16_to_f32(bits), value));
}

/// The tiles of a fixture sheet; `shrink` undoes a nearest-neighbour enlargement.
fn sheet(name: &str, tile: usize, shrink: usize) -> Vec<Picture> {
    let sheet = read_png(&std::fs::read(fixture(name)).unwrap()).unwrap();
    let (width, height) = (sheet.width / shrink, sheet.height / shrink);
    let pixel = |at: usize| 3 * (at / width * shrink * sheet.width + at % width * shrink);
    let pixels = (0..width * height).flat_map(|at| sheet.pixels[pixel(at)..pixel(at) + 3].to_vec()).collect();
    tiles(&Picture { width, height, pixels }, tile)
}

#[test]
fn the_fixtures_have_the_correlations_of_their_readme() {
    let cats = sheet("cats_samples.png", 32, 2); // drawn at twice their size
    let shapes = sheet("tiny_trained_grid.png", 32, 1);
    assert_eq!((cats.len(), shapes.len()), (78, 52));
    let [cats, shapes] = [cats, shapes].map(|set| stats(&set).unwrap());
    let rounded = |value: Option<f64>| (value.unwrap() * 1e4).round() / 1e4;
    assert_eq!([rounded(cats.horizontal_correlation), rounded(shapes.horizontal_correlation)], [0.8991, 0.8384]);
    assert_eq!([rounded(cats.neighbour_correlation), rounded(shapes.neighbour_correlation)], [0.8900, 0.8386]);
    assert!(cats.saturated > 0.2 && shapes.saturated < 0.02);
}

#[test]
fn noise_has_no_correlation_and_a_flat_picture_none_at_all() {
    let noise = to_rgb8(&normals(0, 0, 0, 4 * 3 * 64 * 64), [3, 64, 64]).unwrap();
    let measured = stats(&noise).unwrap();
    assert!(measured.neighbour_correlation.unwrap().abs() < 0.02 && (measured.saturated - 0.317).abs() < 0.02);
    assert!(measured.pair_difference.unwrap() > 50.0);
    let flat = Picture { width: 4, height: 4, pixels: vec![9; 48] };
    let measured = stats(std::slice::from_ref(&flat)).unwrap();
    assert_eq!((measured.neighbour_correlation, measured.std, measured.pair_difference), (None, 0.0, None));
    let means = [mean_picture(&[flat]).unwrap(), vec![4.0; 48]];
    assert_eq!(mean_difference(&means[0], &means[1]).unwrap(), 5.0);
    assert!(stats(&[]).is_err());
}

#[test]
fn a_picture_of_its_own_noise_correlates_with_it_and_one_of_other_noise_does_not() {
    let noise = |seed| to_rgb8(&normals(seed, 0, 0, 3 * 128 * 128), [3, 128, 128]).unwrap();
    let same = against(&noise(1), &noise(1)).unwrap();
    assert!((same.correlation.unwrap() - 1.0).abs() < 1e-12 && same.difference == 0.0);
    let other = against(&noise(1), &noise(2)).unwrap();
    assert!(other.correlation.unwrap().abs() < 0.05 && other.difference > 50.0);
    assert!(against(&noise(1), &[]).is_err());
}

#[test]
fn differences_of_classes_are_means_over_all_pairs() {
    let classes: Vec<Vec<Picture>> = [[0u8, 10], [50, 60], [200, 255]]
        .map(|class| class.map(|v| Picture { width: 1, height: 1, pixels: vec![v, v / 2, 255 - v] }).to_vec())
        .to_vec();
    let found = class_stats(&classes).unwrap();
    let difference = |a: &Picture, b: &Picture| {
        a.pixels.iter().zip(&b.pixels).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / 3.0
    };
    let (mut between, mut within) = (vec![], vec![]);
    let all: Vec<(usize, &Picture)> =
        classes.iter().enumerate().flat_map(|(c, l)| l.iter().map(move |p| (c, p))).collect();
    for (at, (class, a)) in all.iter().enumerate() {
        for (other, b) in &all[at + 1..] {
            if class == other { within.push(difference(a, b)) } else { between.push(difference(a, b)) }
        }
    }
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    assert!((found.between - mean(&between)).abs() < 1e-9 && (found.within.unwrap() - mean(&within)).abs() < 1e-9);
    assert_eq!(found.closest_pair, (0, 1));
    assert!(class_stats(&classes[..1]).is_err());
}

#[test]
fn pictures_are_drawn_as_the_sampler_says() {
    let values = [-2.0, -1.0, 0.0, 0.999, 1.0, 3.0, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0];
    let picture = &to_rgb8(&values, [3, 2, 2]).unwrap()[0];
    assert_eq!(picture.pixels, [0, 255, 127, 0, 255, 127, 127, 191, 127, 254, 63, 127]);
    let mut broken = values;
    broken[3] = f32::NAN;
    assert!(to_rgb8(&broken, [3, 2, 2]).is_err());
    let bytes = png(picture).unwrap();
    assert_eq!(bytes, png(picture).unwrap());
    assert_eq!(&read_png(&bytes).unwrap(), picture);
    let sheet = grid(&vec![picture.clone(); 3], 2).unwrap();
    assert_eq!((sheet.width, sheet.height), (10, 10));
    assert_eq!(sheet.pixels[..3], [255; 3]);
    assert_eq!(sheet.pixels[3 * (2 * 10 + 2)..][..3], picture.pixels[..3]);
    assert!(read_png(b"\x89PNG\r\n\x1a\nbroken").is_err());
}
