//! The forms in which a graph holds its weights: as they are, in half precision, or as 8-bit integers with scales.
//!
//! int8 is symmetric and a row at a time (a row is an output of a Linear or Conv, or a label's embedding): the scale is the
//! row's largest magnitude / 127, the integer is the weight / scale, rounded to the nearest (ties to even). That is what
//! ONNX's `DequantizeLinear` with `axis = 0` and no zero point undoes. Knows no graph and no network.

use super::proto::{FLOAT, FLOAT16, INT8};
use crate::core::error::{Error, Result};
use crate::model::tensor::{DType, TensorEntry};
use std::borrow::Cow;

/// What a graph's weights are stored in and what it computes in. Inputs and outputs are f32 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Weights and arithmetic in f32.
    #[default]
    Fp32,
    /// Weights and arithmetic in f16.
    Fp16,
    /// Matrices and kernels in 8-bit integers with a scale a row, arithmetic in f32.
    Int8,
}

impl Precision {
    /// The words of the manifest, the facts and the file's metadata.
    pub const NAMES: &'static [&'static str] = &["fp32", "fp16", "int8"];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        }
    }

    /// The precision of a word.
    pub fn from_name(name: &str) -> Option<Precision> {
        [Precision::Fp32, Precision::Fp16, Precision::Int8].into_iter().find(|p| p.name() == name)
    }
}

/// What an initialiser holds of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Its values in f32.
    F32,
    /// Its values in f16.
    F16,
    /// Its values as integers of [`quantized`].
    Int8,
    /// The scales of [`quantized`].
    Scale,
}

impl Form {
    /// The ONNX element type.
    pub fn data_type(self) -> i32 {
        match self {
            Form::F32 | Form::Scale => FLOAT,
            Form::F16 => FLOAT16,
            Form::Int8 => INT8,
        }
    }

    /// The extents, of a tensor in this form.
    pub fn shape(self, tensor: &TensorEntry) -> Vec<usize> {
        match self {
            Form::F32 | Form::F16 | Form::Int8 => tensor.shape.clone(),
            Form::Scale => tensor.shape.iter().take(1).copied().collect(),
        }
    }

    /// The bytes that a tensor has in this form.
    pub fn byte_len(self, tensor: &TensorEntry) -> usize {
        let size = match self {
            Form::F32 | Form::Scale => 4,
            Form::F16 => 2,
            Form::Int8 => 1,
        };
        self.shape(tensor).iter().product::<usize>() * size
    }

    /// The bytes of a tensor in this form, row-major, little-endian.
    ///
    /// # Errors
    /// The tensor cannot be read, or a finite value of it is beyond f16.
    pub fn bytes(self, tensor: &TensorEntry) -> Result<Cow<'_, [u8]>> {
        if self == Form::F32 && tensor.dtype == DType::F32 {
            return tensor.bytes();
        }
        let values = tensor.f32()?;
        Ok(Cow::Owned(match self {
            Form::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Form::F16 => halves(&tensor.name, &values)?,
            Form::Int8 => quantized(&values, rows(tensor)).0.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Form::Scale => quantized(&values, rows(tensor)).1.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }))
    }
}

fn rows(tensor: &TensorEntry) -> usize {
    tensor.shape.first().copied().unwrap_or(1)
}

fn halves(name: &str, values: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    for &value in values {
        let half = f32_to_f16(value);
        if half & 0x7fff == INFINITE && value.is_finite() {
            return Err(Error::stage(format!("tensor `{name}` holds {value}, which is beyond fp16's 65504"))
                .hint("use `precision = \"fp32\"` or `\"int8\"` for these weights"));
        }
        bytes.extend(half.to_le_bytes());
    }
    Ok(bytes)
}

/// The bits of an infinite f16, without the sign.
const INFINITE: u16 = 0x7c00;

/// IEEE single precision to half, rounded to the nearest, ties to even.
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let (sign, size) = ((value.to_bits() >> 16) as u16 & 0x8000, value.abs());
    let bits = size.to_bits();
    sign | match size {
        _ if size.is_nan() => 0x7e00,
        _ if size >= 65520.0 => INFINITE,
        // below the smallest normal number: multiples of 2^-24
        _ if size < 2f32.powi(-14) => (size * 2f32.powi(24)).round_ties_even() as u16,
        // 13 bits of the fraction go; the exponent's bias falls by 112
        _ => ((bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13) as u16,
    }
}

/// The integers -127..=127 and the scale of each of `rows` rows: `value` is about `integer * scale`. A row of zeros has
/// scale 1.
pub(super) fn quantized(values: &[f32], rows: usize) -> (Vec<i8>, Vec<f32>) {
    let width = (values.len() / rows.max(1)).max(1);
    let largest = values.chunks_exact(width).map(|row| row.iter().fold(0f32, |m, v| m.max(v.abs())));
    let scales: Vec<f32> = largest.map(|largest| if largest > 0.0 { largest / 127.0 } else { 1.0 }).collect();
    let rows = values.chunks_exact(width).zip(&scales);
    let integers =
        rows.flat_map(|(row, scale)| row.iter().map(move |v| (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
    (integers.collect(), scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tensor::f16_to_f32;

    #[test]
    fn int8_is_off_by_half_a_scale_at_most_and_keeps_each_rows_extremes() {
        let values = [0.5, -1.27, 0.004, 0.0, 300.0, -20.0, 1.1, 2.0, 0.0, 0.0, 0.0, 0.0];
        let (integers, scales) = quantized(&values, 3);
        assert_eq!((integers[1], integers[4], scales[2]), (-127, 127, 1.0));
        for (n, (value, integer)) in values.iter().zip(&integers).enumerate() {
            let scale = scales[n / 4];
            assert!((value - f32::from(*integer) * scale).abs() <= scale * 0.5001, "{value}");
        }
    }

    #[test]
    fn every_half_comes_back_and_what_lies_between_two_goes_to_the_nearer() {
        for half in 0..INFINITE {
            let value = f16_to_f32(half);
            assert_eq!((f32_to_f16(value), f32_to_f16(-value)), (half, half | 0x8000));
            let above = if half + 1 == INFINITE { 65536.0 } else { f16_to_f32(half + 1) };
            let middle = (value + above) / 2.0;
            assert_eq!(f32_to_f16(middle), half + (half & 1), "the middle above {value}");
            assert_eq!((f32_to_f16(middle.next_down()), f32_to_f16(middle.next_up())), (half, half + 1));
        }
        assert_eq!((f32_to_f16(f32::INFINITY), f32_to_f16(-1e9), f32_to_f16(f32::NAN)), (0x7c00, 0xfc00, 0x7e00));
    }

    #[test]
    fn fp16_refuses_a_number_that_it_cannot_hold() {
        let tensor = TensorEntry::of_f32("w", vec![2], &[65504.0, 1e-9]).unwrap();
        assert_eq!(Form::F16.bytes(&tensor).unwrap().to_vec(), [0xff, 0x7b, 0, 0]);
        let tensor = TensorEntry::of_f32("w", vec![2], &[1.0, 1e5]).unwrap();
        let error = Form::F16.bytes(&tensor).unwrap_err();
        assert!(error.message().contains("tensor `w` holds 100000, which is beyond fp16's 65504"), "{error}");
    }

    #[test]
    fn words_and_precisions_go_both_ways() {
        for name in Precision::NAMES {
            assert_eq!(Precision::from_name(name).map(Precision::name), Some(*name));
        }
        assert_eq!(Precision::from_name("int4"), None);
    }
}
