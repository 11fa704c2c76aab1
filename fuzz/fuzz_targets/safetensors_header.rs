//! Any bytes as a safetensors header, its length put before it, with a little data behind. Seeds: headers of real files.
#![no_main]

use hfbuild::model::safetensors_out;
use hfbuild::model::table::TensorTable;
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|header: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header).expect("written");
    file.write_all(&[0; 64]).expect("written");
    if let Ok(opened) = safetensors_out::open(file.path()) {
        let _ = TensorTable::of(&opened.tensors);
    }
});
