//! Values of a tensor that are no numbers: NaN and the infinities. One of them in the weights makes every picture NaN.
//!
//! Told from the bits: all ones in the exponent. Integers have none. Knows no file format and no network.

use super::tensor::{DType, StateDict};
use crate::core::error::Result;
use rayon::prelude::*;

/// How many elements are NaN or infinite; `bytes` are whole elements, little-endian.
pub fn nonfinite(dtype: DType, bytes: &[u8]) -> u64 {
    match dtype {
        DType::F64 => count(bytes, |b| u64::from_le_bytes(b) & (0x7ff << 52) == 0x7ff << 52),
        DType::F32 => count(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        DType::F16 => count(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        DType::BF16 => count(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        DType::F8E5M2 => count(bytes, |[b]| b & 0x7c == 0x7c),
        // no infinities, and one NaN of either sign
        DType::F8E4M3 => count(bytes, |[b]| b & 0x7f == 0x7f),
        _ => 0,
    }
}

fn count<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool) -> u64 {
    // in short runs, whose sums the compiler keeps in vectors
    let runs = bytes.as_chunks::<N>().0.chunks(1024);
    runs.map(|run| u64::from(run.iter().map(|value| u32::from(is(*value))).sum::<u32>())).sum()
}

/// The same of all tensors, read in pieces, in parallel.
///
/// # Errors
/// A tensor cannot be read.
pub fn nonfinite_of(dict: &StateDict) -> Result<u64> {
    let counts = dict.tensors().par_iter().map(|tensor| {
        let mut found = 0;
        tensor.chunks(&mut |piece| {
            found += nonfinite(tensor.dtype, piece);
            Ok(())
        })?;
        Ok(found)
    });
    counts.try_reduce(|| 0, |a, b| Ok(a + b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tensor::TensorEntry;

    #[test]
    fn nan_and_infinity_are_counted_in_every_type_and_the_largest_number_is_none() {
        let halves = |values: [u16; 5]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let singles = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0];
        let doubles = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN, 5e-324];
        for (dtype, bytes) in [
            (DType::F32, singles.iter().flat_map(|v| v.to_le_bytes()).collect()),
            (DType::F64, doubles.iter().flat_map(|v| v.to_le_bytes()).collect()),
            (DType::F16, halves([0x7e00, 0x7c00, 0xfc00, 0x7bff, 0x8001])),
            (DType::BF16, halves([0x7fc0, 0x7f80, 0xff80, 0x7f7f, 0x8001])),
            (DType::F8E5M2, vec![0x7e, 0x7c, 0xfc, 0x7b, 0]),
        ] {
            assert_eq!(nonfinite(dtype, &bytes), 3, "{dtype:?}");
        }
        assert_eq!(nonfinite(DType::F8E4M3, &[0x7f, 0xff, 0x7e, 0xfe]), 2);
        assert_eq!(nonfinite(DType::I32, &[0xff; 8]) + nonfinite(DType::Bool, &[1]), 0);
        let tensor = |name: &str| TensorEntry::of_f32(name, vec![5], &singles).unwrap();
        assert_eq!(nonfinite_of(&StateDict::new(vec![tensor("a"), tensor("b")]).unwrap()).unwrap(), 6);
    }
}
