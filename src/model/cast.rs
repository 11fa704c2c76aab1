//! Casting floating-point tensors to another precision, and what that costs, measured.
//!
//! Rounds to nearest, ties to even, as torch does: a double goes through single precision on its way to a half. Infinity
//! and NaN stay what they are; a number that would become infinite is an error. Knows no file format.

use super::tensor::{DType, TensorEntry, f16_to_f32};
use crate::core::error::{Error, Result};

/// The types that are cast: anything else keeps its own.
const FLOATING: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// A cast of every floating tensor to one type, and the largest errors so far.
#[derive(Debug, Clone)]
pub struct Cast {
    to: DType,
    /// The largest distance of a value from what it was cast from.
    pub max_abs_error: f64,
    /// The largest distance by the size of what it was cast from; 1 where a value became zero.
    pub max_rel_error: f64,
}

impl Cast {
    /// A cast to the type that a manifest calls `fp32`, `fp16` or `bf16`.
    pub fn to(word: &str) -> Option<Cast> {
        let to = match word {
            "fp32" => DType::F32,
            "fp16" => DType::F16,
            "bf16" => DType::BF16,
            _ => return None,
        };
        Cast::to_dtype(to)
    }

    /// A cast to a type, if it is one of those.
    pub fn to_dtype(to: DType) -> Option<Cast> {
        let known = [DType::F32, DType::F16, DType::BF16].contains(&to);
        known.then_some(Cast { to, max_abs_error: 0.0, max_rel_error: 0.0 })
    }

    /// The type that a tensor of this one will have.
    pub fn dtype(&self, from: DType) -> DType {
        if FLOATING.contains(&from) { self.to } else { from }
    }

    /// Casts `bytes`, the elements of `tensor` from number `first` on, into `out` (cleared before).
    ///
    /// # Errors
    /// A finite value that is too large for the type.
    pub fn chunk(&mut self, tensor: &TensorEntry, first: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        if self.dtype(tensor.dtype) == tensor.dtype {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let large = match tensor.dtype {
            DType::F64 => self.each(bytes, f64::from_le_bytes, out),
            DType::F32 => self.each(bytes, |b| f32::from_le_bytes(b).into(), out),
            DType::F16 => self.each(bytes, |b| f16_to_f32(u16::from_le_bytes(b)).into(), out),
            _ => self.each(bytes, |b| bf16_to_f32(u16::from_le_bytes(b)).into(), out),
        };
        match large {
            None => Ok(()),
            Some((at, value)) => Err(self.overflow(tensor, first + at, value)),
        }
    }

    /// The first value that becomes infinite, and its number, if one does.
    fn each<const N: usize>(
        &mut self,
        bytes: &[u8],
        read: impl Fn([u8; N]) -> f64,
        out: &mut Vec<u8>,
    ) -> Option<(usize, f64)> {
        let values = bytes.as_chunks::<N>().0;
        out.reserve(values.len() * self.to.size());
        for (at, bytes) in values.iter().enumerate() {
            let value = read(*bytes);
            let single = value as f32;
            let now = match self.to {
                DType::F16 => put(out, f32_to_f16(single), f16_to_f32),
                DType::BF16 => put(out, f32_to_bf16(single), bf16_to_f32),
                _ => {
                    out.extend_from_slice(&single.to_le_bytes());
                    single
                }
            };
            let distance = (f64::from(now) - value).abs();
            if distance > self.max_abs_error {
                if value.is_finite() && now.is_infinite() {
                    return Some((at, value));
                }
                self.max_abs_error = distance;
            }
            // zero is cast to zero: it has no error, and no size to divide by
            if distance > self.max_rel_error * value.abs() {
                self.max_rel_error = distance / value.abs();
            }
        }
        None
    }

    fn overflow(&self, tensor: &TensorEntry, at: usize, value: f64) -> Error {
        let (name, to) = (&tensor.name, self.to.name());
        let error =
            Error::stage(format!("tensor `{name}` holds {value:e} (element {at}), which is too large for {to}"));
        match self.to {
            DType::F16 => error.hint("`dtype = \"bf16\"` has the range of fp32, with fewer digits"),
            _ => error.hint("such a value is a sign of a training that diverged; without `dtype` nothing is cast"),
        }
    }
}

fn put(out: &mut Vec<u8>, half: u16, back: impl Fn(u16) -> f32) -> f32 {
    out.extend_from_slice(&half.to_le_bytes());
    back(half)
}

/// IEEE single to half precision, to nearest, ties to even.
pub fn f32_to_f16(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    sign | match magnitude {
        0x7f80_0001.. => 0x7e00,
        // 65520 and above lie nearer to 65536, which is none
        0x477f_f000.. => 0x7c00,
        // from 2^-14 on: the exponent's bias goes from 127 to 15, 13 bits of the fraction are rounded away
        0x3880_0000.. => {
            let biased = magnitude - 0x3800_0000;
            ((biased + 0xfff + ((biased >> 13) & 1)) >> 13) as u16
        }
        // multiples of 2^-24
        _ => (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even() as u16,
    }
}

/// Single precision to bfloat16, to nearest, ties to even.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fc0 | (bits >> 16) as u16 & 0x8000;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(word: &str, values: &[f32]) -> (Result<Vec<u8>>, Cast) {
        let tensor = TensorEntry::of_f32("t", vec![values.len()], values).unwrap();
        let (mut cast, mut out) = (Cast::to(word).unwrap(), vec![]);
        let done = cast.chunk(&tensor, 0, &tensor.bytes().unwrap(), &mut out);
        (done.map(|()| out), cast)
    }

    #[test]
    fn every_half_survives_single_precision_and_what_lies_between_two_goes_to_the_nearest_or_the_even_one() {
        for half in 0..0x7c00_u16 {
            let (low, high) = (f16_to_f32(half), f16_to_f32(half + 1));
            assert_eq!((f32_to_f16(low), f32_to_f16(-low)), (half, half | 0x8000));
            let middle = if half == 0x7bff { 65520.0 } else { (low + high) / 2.0 };
            assert_eq!(f32_to_f16(middle), half + (half & 1), "{half:#x}");
            assert_eq!(f32_to_f16(middle.next_down()), half, "{half:#x}");
            assert_eq!(f32_to_f16(middle.next_up()), half + 1, "{half:#x}");
        }
        assert_eq!(f32_to_f16(f32::INFINITY), 0x7c00);
        assert!(f16_to_f32(f32_to_f16(f32::NAN)).is_nan());
    }

    #[test]
    fn bfloat16_is_the_upper_half_of_a_single_rounded_to_the_nearest_or_the_even_one() {
        for upper in 0..0x7f7f_u16 {
            let low = bf16_to_f32(upper);
            let middle = f32::from_bits(low.to_bits() | 0x8000);
            assert_eq!((f32_to_bf16(low), f32_to_bf16(-low)), (upper, upper | 0x8000));
            assert_eq!(f32_to_bf16(middle), upper + (upper & 1));
            assert_eq!((f32_to_bf16(middle.next_down()), f32_to_bf16(middle.next_up())), (upper, upper + 1));
        }
        assert_eq!(f32_to_bf16(f32::INFINITY), 0x7f80);
        assert!(bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    fn the_error_of_a_cast_is_measured_and_infinity_and_nan_stay_what_they_are() {
        let (bytes, measured) = cast("fp16", &[1.0, 2049.0, -0.0, f32::INFINITY, f32::NAN, 1e-9]);
        let halves: Vec<u16> = bytes.unwrap().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        assert_eq!(halves, [0x3c00, 0x6800, 0x8000, 0x7c00, 0x7e00, 0]);
        assert_eq!((measured.max_abs_error, measured.max_rel_error), (1.0, 1.0));
        let (_, exact) = cast("fp32", &[1.0, 2049.0]);
        assert_eq!((exact.max_abs_error, exact.max_rel_error), (0.0, 0.0));
    }

    #[test]
    fn a_value_too_large_for_the_type_is_an_error_that_names_it() {
        let error = cast("fp16", &[1.0, -70000.0]).0.unwrap_err();
        assert_eq!(error.message(), "tensor `t` holds -7e4 (element 1), which is too large for F16");
        assert!(error.hint_text().unwrap().contains("bf16"));
        assert!(cast("bf16", &[70000.0]).0.is_ok());
        assert!(cast("bf16", &[f32::MAX]).0.is_err());
    }
}
