//! Any text as `publish.toml`: read, and declared without templates. Seed: the root `publish.toml`.
#![no_main]

use hfbuild::core::manifest::dom::Source;
use hfbuild::core::manifest::{self, overlay::Settings};
use hfbuild::stage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { file: "publish.toml".into(), text: text.into() };
    if let Ok(manifest) = manifest::read(source, &Settings::default(), &stage::infos()) {
        let _ = stage::parts(&manifest, &Default::default());
    }
});
