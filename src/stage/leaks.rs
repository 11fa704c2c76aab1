//! What a file must not hold before it is published: secrets, a Git LFS pointer in the content's place, a pickle that runs
//! code; and names that no manifest means to publish.
//!
//! Texts are searched wholly, also those in UTF-16. Of binary files what people and tools write texts into is searched: the
//! header of safetensors, and of any other the texts within the first and the last [`WINDOW`] bytes, where checkpoints keep
//! their pickle, ONNX and GGUF their metadata, PNG its texts. A text there is what `strings` shows: [`RUN`] readable bytes
//! in a row or more, with what stands around. Compressed content is not unpacked for that.
//!
//! Knows names, bytes and rules. Does not know the manifest: what may pass is decided in [`crate::core::leaks`].

use super::{files, secrets};
use crate::core::error::{OnPath, Result};
use crate::core::leaks::{
    Finding, LFS_POINTER, NONFINITE, OWN_TOKEN, PICKLE, SECRET_FILE, STRAY_FILE, Spot, UNTRAINED,
};
use crate::model::magic::{self, Magic};
use aho_corasick::AhoCorasick;
use encoding_rs::{Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Raised when the same file is judged otherwise.
const FORMAT: &str = "leaks 6";
/// Bytes at either end of a binary file.
const WINDOW: u64 = 256 << 10;
/// Readable bytes in a row that make a text of a binary file; any secret is longer.
const RUN: usize = 8;
/// Bytes around a text that are searched with it: the name of a value may stand apart from it.
const AROUND: usize = 64;
/// Bytes of a text that are searched at a time.
const PIECE: usize = 1 << 20;
/// Bytes that two pieces of a text share: longer than any key.
const SHARED: usize = 16 << 10;
/// Bytes of a safetensors header that are searched; the format's own limit is 100 MB.
const HEADER: u64 = 100_000_000;
/// Findings of a file that are kept.
const KEPT: usize = 50;

/// Names whose files are secrets, lower case.
const SECRETS: [&str; 13] = [
    ".env",
    ".netrc",
    "_netrc",
    ".pypirc",
    ".npmrc",
    ".pgpass",
    ".htpasswd",
    ".git-credentials",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "stored_tokens",
];
/// Endings of key stores.
const STORES: [&str; 6] = [".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk"];
/// Folders of secrets.
const SECRET_FOLDERS: [&str; 4] = [".ssh", ".aws", ".gnupg", ".kube"];
/// Folders that tools leave behind.
const STRAY_FOLDERS: [&str; 9] = [
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".ipynb_checkpoints",
    ".pytest_cache",
    ".mypy_cache",
    ".venv",
    "node_modules",
];
/// Files that tools leave behind, lower case.
const STRAYS: [&str; 3] = [".ds_store", "thumbs.db", "desktop.ini"];
/// Endings of editors' copies.
const COPIES: [&str; 6] = ["~", ".swp", ".swo", ".orig", ".rej", ".pyc"];

/// Under which version of rules and words content was judged.
///
/// # Errors
/// The rules that are built in cannot be read: a bug.
pub fn version() -> Result<String> {
    Ok(format!("{FORMAT}, {}", secrets::version()?))
}

/// Whether a finding can have this rule.
pub fn is_rule(name: &str) -> bool {
    [SECRET_FILE, STRAY_FILE, LFS_POINTER, PICKLE, NONFINITE, UNTRAINED].contains(&name) || secrets::is_rule(name)
}

/// What a path in the repo says by itself.
pub fn by_name(path: &str) -> Option<Finding> {
    let path = path.to_lowercase();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let inside = |known: &[&str]| folders.split('/').any(|folder| known.contains(&folder));
    let ends = |known: &[&str]| known.iter().any(|end| name.ends_with(end));
    // what shows which variables there are holds none of their values
    let shows = [".example", ".sample", ".template", ".dist"].iter().any(|end| name.ends_with(end));
    let secret =
        SECRETS.contains(&name) || (name.starts_with(".env.") && !shows) || ends(&STORES) || inside(&SECRET_FOLDERS);
    let stray = STRAYS.contains(&name) || inside(&STRAY_FOLDERS) || ends(&COPIES);
    let rule = match (secret, stray) {
        (true, _) => SECRET_FILE,
        (false, true) => STRAY_FILE,
        (false, false) => return None,
    };
    Some(Finding { rule: rule.into(), spot: Spot::File, what: String::new() })
}

/// What the content of a file says that would be published as `path`.
///
/// # Errors
/// The file cannot be read.
pub fn in_content(path: &str, file: &Path) -> Result<Vec<Finding>> {
    let mut open = File::open(file).on("open", file)?;
    let size = open.metadata().on("stat", file)?.len();
    if size == 0 {
        return Ok(vec![]);
    }
    let mut head = vec![0; size.min(8192) as usize];
    open.read_exact(&mut head).on("read", file)?;
    if magic::is_lfs_pointer(&head) && size < 1024 {
        return Ok(vec![Finding { rule: LFS_POINTER.into(), spot: Spot::File, what: String::new() }]);
    }
    let mut found = Found { name: path.rsplit('/').next().unwrap_or(path), file, open, all: BTreeSet::new() };
    let magic = magic::sniff(file)?;
    if let Err(error) = files::check_pickle(path, file, magic) {
        let what = error.message().replace(&file.display().to_string(), path);
        found.all.insert(Finding { rule: PICKLE.into(), spot: Spot::File, what });
    }
    match (utf16(&head), magic) {
        (Some(encoding), _) => found.text(Some(encoding.new_decoder_with_bom_removal()))?,
        (_, Magic::Safetensors) => found.window(8, header(&head, size))?,
        _ if !is_binary(&head) => found.text(None)?,
        _ if size <= 2 * WINDOW => found.texts_in(0, size)?,
        _ => {
            found.texts_in(0, WINDOW)?;
            found.texts_in(size - WINDOW, WINDOW)?;
        }
    }
    Ok(found.all.into_iter().take(KEPT).collect())
}

/// Whether a file that begins so is no text: it has zero bytes, and more than one in 32 is a control character. A single
/// zero byte in a log makes it no binary file.
fn is_binary(head: &[u8]) -> bool {
    let control = |byte: &&u8| byte.is_ascii_control() && !byte.is_ascii_whitespace() && **byte != 0x1b;
    head.contains(&0) && head.iter().filter(control).count() * 32 > head.len()
}

/// The encoding of a text in UTF-16: by its byte order mark, or because nearly every second byte is zero and the others
/// are printable.
fn utf16(head: &[u8]) -> Option<&'static Encoding> {
    if head.starts_with(&[0xff, 0xfe, 0, 0]) {
        return None; // UTF-32
    }
    let marked = Encoding::for_bom(head).map(|(encoding, _)| encoding).filter(|encoding| *encoding != UTF_8);
    let latin = |units: &dyn Fn([u8; 2]) -> u16| {
        let (pairs, _) = head.as_chunks::<2>();
        let printable = |unit: &u16| matches!(unit, 0x20..=0x7e | 0x09 | 0x0a | 0x0d);
        let count = pairs.iter().map(|pair| units(*pair)).filter(printable).count();
        pairs.len() >= 8 && count * 10 >= pairs.len() * 9
    };
    marked.or_else(|| match (latin(&u16::from_le_bytes), latin(&u16::from_be_bytes)) {
        (true, _) => Some(UTF_16LE),
        (_, true) => Some(UTF_16BE),
        _ => None,
    })
}

/// The tokens that hfbuild itself uses, as fixed words.
pub struct OwnTokens {
    words: AhoCorasick,
    longest: usize,
}

impl OwnTokens {
    /// Tokens of fewer characters are not looked for: they may be any word.
    pub const SHORTEST: usize = 8;

    /// `None`: there is none that can be looked for.
    pub fn of(tokens: &[String]) -> Option<OwnTokens> {
        let long = tokens.iter().filter(|token| token.chars().count() >= Self::SHORTEST);
        let wide = |token: &str, bytes: fn(u16) -> [u8; 2]| token.encode_utf16().flat_map(bytes).collect();
        let words = long.flat_map(|token| {
            [token.clone().into_bytes(), wide(token, u16::to_le_bytes), wide(token, u16::to_be_bytes)]
        });
        let words: Vec<Vec<u8>> = words.collect();
        let longest = words.iter().map(Vec::len).max()?;
        Some(OwnTokens { words: AhoCorasick::new(&words).ok()?, longest })
    }

    /// Where the first of them stands in a file, whatever it is: read wholly, in pieces that overlap. What was found is
    /// kept nowhere, and neither is that nothing was.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn in_file(&self, file: &Path) -> Result<Option<Finding>> {
        let mut open = File::open(file).on("open", file)?;
        let (mut bytes, mut before) = (Vec::with_capacity(PIECE + self.longest), 0);
        loop {
            let read = (&mut open).take(PIECE as u64).read_to_end(&mut bytes).on("read", file)?;
            if let Some(found) = self.words.find(&bytes) {
                let spot = Spot::Byte(before + found.start() as u64);
                return Ok(Some(Finding { rule: OWN_TOKEN.into(), spot, what: String::new() }));
            }
            if read < PIECE {
                return Ok(None);
            }
            let kept = bytes.len().saturating_sub(self.longest - 1);
            before += kept as u64;
            bytes.drain(..kept);
        }
    }
}

/// Bytes of a safetensors header, which the file says in its first eight.
fn header(head: &[u8], size: u64) -> u64 {
    let said = head.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    said.min(HEADER).min(size.saturating_sub(8))
}

/// A file that is being searched.
struct Found<'a> {
    /// Its last name.
    name: &'a str,
    file: &'a Path,
    open: File,
    all: BTreeSet<Finding>,
}

impl Found<'_> {
    fn add(&mut self, rule: &str, spot: Spot) {
        if self.all.len() < KEPT {
            self.all.insert(Finding { rule: rule.into(), spot, what: String::new() });
        }
    }

    /// Searches a stretch of a binary file.
    fn window(&mut self, from: u64, length: u64) -> Result<()> {
        let bytes = self.read(from, length)?;
        for hit in secrets::search(self.name, &bytes)? {
            self.add(hit.rule, Spot::Byte(from + hit.at as u64));
        }
        Ok(())
    }

    fn read(&mut self, from: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open.seek(SeekFrom::Start(from)).on("read", self.file)?;
        (&self.open).take(length).read_to_end(&mut bytes).on("read", self.file)?;
        Ok(bytes)
    }

    /// Searches the texts within a stretch of a binary file, all of them at once: a rule may need two of them.
    fn texts_in(&mut self, from: u64, length: u64) -> Result<()> {
        let bytes = self.read(from, length)?;
        let (mut joined, mut starts) = (Vec::new(), Vec::new());
        for text in texts(&bytes) {
            starts.push((joined.len(), text.start));
            joined.extend_from_slice(&bytes[text]);
            joined.push(0);
        }
        for hit in secrets::search(self.name, &joined)? {
            let before = starts.partition_point(|(at, _)| *at <= hit.at);
            if let Some((at, start)) = before.checked_sub(1).and_then(|last| starts.get(last)) {
                self.add(hit.rule, Spot::Byte(from + (start + hit.at - at) as u64));
            }
        }
        Ok(())
    }

    /// Searches a whole text, in pieces that overlap: a secret on the seam stands whole in one of them.
    /// One that is not in ASCII or UTF-8 comes with its decoder.
    fn text(&mut self, mut decoder: Option<Decoder>) -> Result<()> {
        let (mut bytes, mut line) = (Vec::new(), 1);
        self.open.seek(SeekFrom::Start(0)).on("read", self.file)?;
        loop {
            let read = match &mut decoder {
                None => (&self.open).take(PIECE as u64).read_to_end(&mut bytes).on("read", self.file)?,
                Some(decoder) => {
                    let mut coded = Vec::new();
                    let read = (&self.open).take(PIECE as u64).read_to_end(&mut coded).on("read", self.file)?;
                    let longest = decoder.max_utf8_buffer_length(read);
                    let mut text = String::with_capacity(longest.unwrap_or(4 * PIECE)); // it is not made longer
                    let _ = decoder.decode_to_string(&coded, &mut text, read < PIECE);
                    bytes.extend_from_slice(text.as_bytes());
                    read
                }
            };
            let mut seen = (0, line);
            for hit in secrets::search(self.name, &bytes)? {
                seen = (hit.at, seen.1 + lines(&bytes[seen.0..hit.at]));
                self.add(hit.rule, Spot::Line(seen.1));
            }
            if read < PIECE || self.all.len() >= KEPT {
                return Ok(());
            }
            let kept = bytes.len().saturating_sub(SHARED);
            line += lines(&bytes[..kept]);
            bytes.drain(..kept);
        }
    }
}

/// The texts of a binary: runs of [`RUN`] readable bytes and more with [`AROUND`] bytes on either side, those that meet as
/// one. Only every eighth byte is looked at where nothing is readable.
fn texts(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let readable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = RUN - 1; // a run that long covers one of these
    while at < bytes.len() {
        if !readable(&bytes[at]) {
            at += RUN;
            continue;
        }
        let start = bytes[..at].iter().rposition(|byte| !readable(byte)).map_or(0, |before| before + 1);
        let end = at + bytes[at..].iter().position(|byte| !readable(byte)).unwrap_or(bytes.len() - at);
        at = end + RUN;
        if end - start < RUN {
            continue;
        }
        let (start, end) = (start.saturating_sub(AROUND), (end + AROUND).min(bytes.len()));
        match found.last_mut().filter(|last| last.end >= start) {
            Some(last) => last.end = end,
            None => found.push(start..end),
        }
    }
    found
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("hf_{}", "aQbRcSdTeUfVgWhXiYjZkAlBmCnDoEpFqG")
    }

    fn found(path: &str, content: &[u8]) -> Vec<(String, Spot)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("blob");
        std::fs::write(&file, content).unwrap();
        let found = in_content(path, &file).unwrap();
        assert!(!format!("{found:?}").contains(&token()[..12]));
        found.into_iter().map(|f| (f.rule, f.spot)).collect()
    }

    #[test]
    fn a_token_in_a_text_is_found_by_its_line_also_on_the_seam_of_two_pieces() {
        let text = format!("one\ntwo\nkey = \"{}\"\n", token());
        assert_eq!(found("notes.md", text.as_bytes()), [("huggingface-access-token".into(), Spot::Line(3))]);
        for shift in [0, 10, 30, 60] {
            let mut long = "a line\n".repeat((PIECE - shift) / 7);
            let line = lines(long.as_bytes()) + 1;
            long.push_str(&format!("key = \"{}\"\n{}", token(), "rest\n".repeat(1000)));
            let spots = found("long.txt", long.as_bytes());
            assert_eq!(spots, [("huggingface-access-token".into(), Spot::Line(line))], "{shift}");
        }
    }

    #[test]
    fn a_token_in_the_metadata_of_a_model_is_found() {
        let header = format!("{{\"__metadata__\":{{\"by\":\"{}\"}}}}", token());
        let mut model = (header.len() as u64).to_le_bytes().to_vec();
        model.extend(header.as_bytes());
        let spots = found("model.safetensors", &model);
        assert_eq!(spots.iter().map(|(rule, _)| rule.as_str()).collect::<Vec<_>>(), ["huggingface-access-token"]);
        let mut picture = vec![0_u8; 3 * WINDOW as usize];
        picture.extend(format!("tEXtby\0{}\0\0", token()).as_bytes());
        assert!(matches!(&found("a.gguf", &picture)[..], [(rule, Spot::Byte(_))] if rule == "hub-token"));
    }

    #[test]
    fn of_a_binary_its_texts_are_searched_wherever_they_stand_and_whatever_is_between_them() {
        for shift in 0..9 {
            let mut binary: Vec<u8> = (0..3000 + shift).map(|i| (i * 37 % 251) as u8 | 0x80).collect();
            binary[100..900].fill(0);
            let at = binary.len();
            binary.extend(token().as_bytes());
            binary.extend([0xff; 5000]);
            assert_eq!(found("a.bin", &binary), [("hub-token".into(), Spot::Byte(at as u64))], "{shift}");
        }
        let whole = |bytes: &[u8]| texts(bytes).iter().map(|text| text.len()).sum::<usize>();
        assert_eq!(whole(&[0; 4096]), 0);
        assert_eq!(whole(b"all of it is readable"), 21);
        let between = [&[1_u8; 500][..], b"12345678", &[1; 100], b"abcdefgh", &[1; 500]].concat();
        let met = texts(&between);
        assert_eq!((met.len(), &met[0]), (1, &(500 - AROUND..616 + AROUND)), "their surroundings meet");
        let seven = [&[1_u8; 500][..], b"1234567", &[1; 500]].concat();
        assert!(texts(&seven).is_empty());
    }

    #[test]
    fn pointers_and_pickles_that_run_code_are_found() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert_eq!(found("model.onnx", pointer.as_bytes()), [(LFS_POINTER.into(), Spot::File)]);
        let pickle = b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.";
        assert_eq!(found("a.dat", pickle), [(PICKLE.into(), Spot::File)]);
        assert!(found("empty.pt", b"").is_empty());
    }

    #[test]
    fn a_token_in_utf_16_and_in_a_log_with_a_zero_byte_is_found() {
        let text = format!("one\ntwo\nkey = \"{}\"\nmore words\n", token());
        let expected = [("huggingface-access-token".to_string(), Spot::Line(3))];
        for (mark, bytes) in [("\u{feff}", u16::to_le_bytes as fn(u16) -> [u8; 2]), ("\u{feff}", u16::to_be_bytes)] {
            let coded = |text: &str| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
            assert_eq!(found("a.txt", &coded(&text)), expected);
            assert_eq!(found("a.txt", &coded(&format!("{mark}{text}"))), expected);
            let long = format!("{mark}{}{text}{}", "\u{e4} line\n".repeat(200_000), "a line\n".repeat(200_000));
            let spots = found("a.txt", &coded(&long));
            assert_eq!(spots, [("huggingface-access-token".into(), Spot::Line(200_003))]);
        }
        let log = format!("a\0line\n{}{text}{}", "a line\n".repeat(200_000), "a line\n".repeat(200_000));
        let spots = found("a.log", log.as_bytes());
        assert_eq!(spots, [("huggingface-access-token".into(), Spot::Line(200_004))]);
    }

    #[test]
    fn own_tokens_are_found_anywhere_in_any_file() {
        let own = OwnTokens::of(&["short".into(), "s3lfh0stedT0kenValue77".into()]).unwrap();
        assert!(OwnTokens::of(&["short".into()]).is_none() && OwnTokens::of(&[]).is_none());
        let at = |content: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            own.in_file(file.path()).unwrap().map(|finding| finding.spot)
        };
        assert_eq!(at(b"the words s3lfh0stedT0kenValue77."), Some(Spot::Byte(10)));
        assert_eq!(at(b"the words s3lfh0stedT0kenValue7 and short"), None);
        let wide: Vec<u8> = "s3lfh0stedT0kenValue77".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(at(&wide), Some(Spot::Byte(0)));
        for before in [PIECE - 30, PIECE - 10, PIECE - 1, PIECE, 2 * PIECE + 5] {
            let mut binary = vec![0x80; before];
            binary.extend(b"s3lfh0stedT0kenValue77");
            binary.extend(vec![0; PIECE]);
            assert_eq!(at(&binary), Some(Spot::Byte(before as u64)), "{before}");
        }
    }

    #[test]
    fn old_pickles_and_arrays_of_objects_that_run_code_are_found_and_raw_numbers_are_not() {
        let old = b"cos\nsystem\n(S'id'\ntR.";
        let array = |rest: &[u8]| {
            let header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n";
            let mut array = b"\x93NUMPY\x01\x00".to_vec();
            array.extend((header.len() as u16).to_le_bytes());
            array.extend(header);
            array.extend(rest);
            array
        };
        for (name, bytes) in [
            ("pytorch_model.bin", old.to_vec()),
            ("p.weights", old.to_vec()),
            ("obj.npy", array(b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.")),
            ("obj.npy", array(old)),
        ] {
            assert_eq!(found(name, &bytes), [(PICKLE.into(), Spot::File)], "{name}");
        }
        for (name, bytes) in [
            ("pytorch_model.bin", 0.5_f32.to_le_bytes().repeat(1000)),
            ("model.bin", b"GGUF\x03\0\0\0".to_vec()),
            ("vocab.bin", b"cat\ndog\nRabbit\n".to_vec()),
            ("obj.npy", array(b"\x80\x02]X\x02\0\0\0ida.")),
            ("plain.pkl", b"(dp0\nS'a'\np1\nI1\ns.".to_vec()),
        ] {
            assert!(found(name, &bytes).is_empty(), "{name}");
        }
    }

    #[test]
    fn names_of_secrets_and_of_what_tools_leave() {
        let rule = |path| by_name(path).map(|finding| finding.rule);
        for secret in [".env", "app/.env.local", ".ssh/config", "id_rsa", "key.P12"] {
            assert_eq!(rule(secret).as_deref(), Some(SECRET_FILE), "{secret}");
        }
        for stray in [".DS_Store", "src/__pycache__/a.pyc", ".git/config", "README.md~", "a.py.orig"] {
            assert_eq!(rule(stray).as_deref(), Some(STRAY_FILE), "{stray}");
        }
        for good in [".env.example", "README.md", ".gitattributes", "model.safetensors", "envs/a.env.md", ".gitignore"]
        {
            assert_eq!(rule(good), None, "{good}");
        }
    }
}
