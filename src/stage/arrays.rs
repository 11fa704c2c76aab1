//! Pickles inside of other files: arrays of numpy that hold Python objects (a pickle follows their header, which `numpy.load`
//! runs where it is let), and members of tar archives.
//!
//! Knows the `.npy` format (numpy's `lib/format.py`) and the zip of it, `.npz`, whose entries may be deflated. Reads the
//! header, and of an array of objects the pickle.

use crate::core::error::{Error, OnPath, Result};
use crate::model::checkpoint::zip::Archive;
use crate::model::checkpoint::{calls, unpickle};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

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

/// The same of each array in a zip archive. One that cannot be read as a zip archive has none.
///
/// # Errors
/// As [`check`]; the file cannot be read.
pub fn check_zip(path: &str, file: &Path) -> Result<()> {
    let Ok(archive) = Archive::open(file) else { return Ok(()) };
    for entry in archive.entries.iter().filter(|entry| entry.name.ends_with(".npy")) {
        // what is located is what lies in the file, of a deflated entry the compressed bytes
        let mut lies = entry.clone();
        lies.size = entry.compressed;
        let Ok(start) = archive.locate(&lies) else { continue };
        let mut open = File::open(file).on("open", file)?;
        open.seek(SeekFrom::Start(start)).on("read", file)?;
        let mut bytes = BufReader::new(open).take(entry.compressed);
        let what = format!("`{}` of `{path}`", entry.name.escape_debug());
        match entry.method {
            8 => check(&mut flate2::read::DeflateDecoder::new(bytes), &what)?,
            _ => check(&mut bytes, &what)?,
        }
    }
    Ok(())
}

/// Refuses a tar archive one of whose members is a pickle that would run code: torch's oldest layout is one. A file that is
/// no tar archive has none.
///
/// # Errors
/// As [`unpickle::check`]; the file cannot be read.
pub fn check_tar(path: &str, file: &Path) -> Result<()> {
    let mut head = Vec::new();
    File::open(file).on("open", file)?.take(262).read_to_end(&mut head).on("read", file)?;
    if !head.ends_with(b"ustar") {
        return Ok(());
    }
    let mut archive = tar::Archive::new(File::open(file).on("open", file)?);
    let Ok(members) = archive.entries_with_seek() else { return Ok(()) };
    for member in members {
        let Ok(member) = member else { break };
        let what = format!("`{}` of `{path}`", String::from_utf8_lossy(&member.path_bytes()).escape_debug());
        let mut bytes = BufReader::new(member);
        match bytes.fill_buf().is_ok_and(opens_pickle) {
            true => unpickle::unpickle(&mut bytes, &what, u64::MAX).map(drop)?, // raw numbers may follow
            false => refuse_called(calls::first_called(&mut bytes), &what)?,
        }
    }
    Ok(())
}

/// Whether bytes begin as a pickle of protocol 2 to 5 does.
pub fn opens_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
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
