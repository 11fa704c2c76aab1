//! Data on stdout: all of it is written, or the call says that it was not. A reader that has gone away has what it wanted.
//!
//! Keeps the first failure until the call ends; a command goes on, for what it does matters more than what it prints.

use crate::core::error::{Error, ErrorKind};
use std::io::{ErrorKind as Io, Write};
use std::sync::OnceLock;

static FAILED: OnceLock<String> = OnceLock::new();

/// Prints data.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Keeps in mind that data could not be written.
pub fn written(result: std::io::Result<()>) {
    if let Err(error) = result
        && error.kind() != Io::BrokenPipe
    {
        let _ = FAILED.set(error.to_string()); // the first says enough
    }
}

/// What could not be written, at the end of the call.
pub fn failure() -> Option<Error> {
    let why = FAILED.get()?;
    Some(Error::new(ErrorKind::Io, "what was asked for could not be written to the standard output").cause(why))
}
