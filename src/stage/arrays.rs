//! Pickles inside of arrays of numpy that hold Python objects: one follows their header, which `numpy.load` runs where it is
//! let.
//!
//! Knows the `.npy` format (numpy's `lib/format.py`). Reads the header, and of an array of objects the pickle. Archives of
//! them, as `.npz` is one, are looked into by [`super::archives`].

use crate::core::error::{Error, Result};
use crate::model::checkpoint::unpickle;
use std::io::{BufReader, Read};

const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// Longest header that is read; numpy's own limit is 10,000.
const HEADER: u64 = 1 << 20;

/// Refuses an array whose objects would run code. What is no array is none of ours.
///
/// # Errors
/// As [`unpickle::check`].
pub fn check(input: &mut impl Read, what: &str) -> Result<()> {
    match holds_objects(input).unwrap_or(false) {
        true => unpickle::check(&mut BufReader::new(input), what),
        false => Ok(()),
    }
}

/// Whether bytes begin as a pickle of protocol 2 to 5 does.
pub fn opens_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

/// Whether bytes begin as an array of numpy's does.
pub fn opens_array(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The refusal of what calls something.
pub fn refuse_called(called: Option<String>, what: &str) -> Result<()> {
    let Some(called) = called else { return Ok(()) };
    let called: String = called.chars().flat_map(char::escape_debug).collect();
    Err(Error::stage(format!("{what} is a pickle that calls `{called}`, which is refused"))
        .hint("a checkpoint holds tensors and plain values: save `model.state_dict()`, not the model"))
}

/// Whether the header says so; its last byte was read then.
fn holds_objects(input: &mut impl Read) -> std::io::Result<bool> {
    let mut start = [0; 8];
    input.read_exact(&mut start)?;
    if !start.starts_with(&MAGIC) {
        return Ok(false);
    }
    let (mut length, wide) = ([0; 4], start[6] > 1);
    input.read_exact(&mut length[..if wide { 4 } else { 2 }])?;
    let length = u64::from(u32::from_le_bytes(length));
    let mut header = Vec::new();
    (&mut *input).take(length.min(HEADER)).read_to_end(&mut header)?;
    // `'|O'`, or with a byte order or a count in a structured one
    let text = String::from_utf8_lossy(&header);
    Ok(text
        .split(['\'', '"'])
        .any(|word| word.trim_start_matches(['|', '<', '>', '=']).trim_end_matches(char::is_numeric) == "O"))
}
