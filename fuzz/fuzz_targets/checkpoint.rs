//! Any bytes as a checkpoint, and as a bare pickle: an answer, never a panic. Seeds: `tests/fixtures/*.pt`.
#![no_main]

use hfbuild::model::checkpoint::{Checkpoint, unpickle};
use hfbuild::model::table::TensorTable;
use libfuzzer_sys::fuzz_target;
use std::io::{Cursor, Write};

fuzz_target!(|data: &[u8]| {
    let _ = unpickle::unpickle(&mut Cursor::new(data), "`fuzz`", 1 << 20);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("written");
    if let Ok(checkpoint) = Checkpoint::open(file.path()) {
        for dict in [&checkpoint.raw, &checkpoint.ema].into_iter().flatten() {
            let _ = TensorTable::of(dict);
        }
    }
});
