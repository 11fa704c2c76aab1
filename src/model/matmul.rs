//! The arithmetic of the plain reference forward: matrix product, layer norm, softmax, activations, all in f32.
//!
//! Written to be read and to be the same on every machine: fixed order of summation whatever the number of threads, no
//! explicit SIMD. Knows no network and no tensor names.

use rayon::prelude::*;

/// Lanes of a partial sum, so that the compiler can use vector registers.
const LANES: usize = 8;
/// Rows of `x` that share one pass over the weights.
const ROWS: usize = 4;

/// `y[m, n] = sum_k x[m, k] * w[n, k] + b[n]`: PyTorch's `Linear`. `k` is `x.len() / rows`, `n` is `w.len() / k`; an
/// empty `bias` is none. Each number of `y` is summed in the same order whatever `rows` is.
pub fn linear(x: &[f32], rows: usize, w: &[f32], bias: &[f32]) -> Vec<f32> {
    let k = (x.len() / rows.max(1)).max(1);
    let n = w.len() / k;
    let mut y = vec![0.0; rows * n];
    y.par_chunks_mut((ROWS * n).max(1)).zip(x.par_chunks(ROWS * k)).for_each(|(y, x)| linear_rows(y, x, w, bias, k, n));
    y
}

/// Up to [`ROWS`] rows of [`linear`].
fn linear_rows(y: &mut [f32], x: &[f32], w: &[f32], bias: &[f32], k: usize, n: usize) {
    let rows: Vec<&[f32]> = x.chunks_exact(k).collect();
    for (column, weights) in w.chunks_exact(k).enumerate() {
        let bias = bias.get(column).copied().unwrap_or(0.0);
        if let [a, b, c, d] = rows[..] {
            for (row, sum) in dot4([a, b, c, d], weights).into_iter().enumerate() {
                y[row * n + column] = sum + bias;
            }
        } else {
            for (row, x) in rows.iter().enumerate() {
                y[row * n + column] = dot4([x], weights)[0] + bias;
            }
        }
    }
}

/// Dot products of `R` rows with one row of weights.
fn dot4<const R: usize>(rows: [&[f32]; R], weights: &[f32]) -> [f32; R] {
    let mut sums = [[0f32; LANES]; R];
    let (chunks, tail) = weights.as_chunks::<LANES>();
    let split = rows.map(|row| row.as_chunks::<LANES>().0);
    for (i, w) in chunks.iter().enumerate() {
        for r in 0..R {
            let x = &split[r][i];
            for lane in 0..LANES {
                sums[r][lane] += x[lane] * w[lane];
            }
        }
    }
    let start = chunks.len() * LANES;
    std::array::from_fn(|r| {
        let rest: f32 = rows[r][start..].iter().zip(tail).map(|(x, w)| x * w).sum();
        sums[r].iter().sum::<f32>() + rest
    })
}

/// Dot product of two rows, in the order of [`linear`].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot4([a], b)[0]
}

/// `y = (x - mean) / sqrt(variance + 1e-5) * weight + bias` over each row of `weight.len()` numbers (biased variance).
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let width = weight.len();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(y, x)| {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        for (i, y) in y.iter_mut().enumerate() {
            *y = ((f64::from(x[i]) - mean) * scale) as f32 * weight[i] + bias[i];
        }
    });
    y
}

/// Softmax of one row, in place.
pub fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// `x * sigmoid(x)` of every number.
pub fn silu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| v / (1.0 + (-v).exp())).collect()
}

/// Exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in place.
pub fn gelu(x: &mut [f32]) {
    x.par_chunks_mut(4096).flatten_iter().for_each(|v| {
        let wide = f64::from(*v);
        *v = (wide * 0.5 * (1.0 + erf(wide * std::f64::consts::FRAC_1_SQRT_2))) as f32;
    });
}

/// The error function: `2 / sqrt(pi) * exp(-x^2) * sum_n 2^n x^(2n+1) / (2n+1)!!`, whose terms are all of one sign. Exact
/// to about 1e-15 for |x| < 6; beyond, it is one to within f64.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let square = 2.0 * x * x;
    let (mut term, mut sum, mut odd) = (x, x, 3.0);
    while term.abs() > sum.abs() * 1e-17 {
        term *= square / odd;
        sum += term;
        odd += 2.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}
