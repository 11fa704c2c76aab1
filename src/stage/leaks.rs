//! What a file must not hold before it is published: secrets, a Git LFS pointer in the content's place, a pickle that runs
//! code; and names that no manifest means to publish.
//!
//! Texts are searched wholly. Of binary files what people and tools write texts into is searched: the header of safetensors,
//! and of any other the texts within the first and the last [`WINDOW`] bytes, where checkpoints keep their pickle, ONNX and
//! GGUF their metadata, PNG its texts. A text there is what `strings` shows: [`RUN`] readable bytes in a row or more, with
//! what stands around. Compressed content is not unpacked.
//!
//! Knows names, bytes and rules. Does not know the manifest: what may pass is decided in [`crate::core::leaks`].

use super::files;
use super::secrets::{self, Hit};
use crate::core::error::{Error, OnPath, Result};
use crate::core::leaks::{Finding, LFS_POINTER, OWN_TOKEN, PICKLE, SECRET_FILE, STRAY_FILE, Spot};
use crate::model::magic::{self, Magic};
use aho_corasick::AhoCorasick;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Raised when the same file is judged otherwise.
const FORMAT: &str = "leaks 2";
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
    [SECRET_FILE, STRAY_FILE, LFS_POINTER, PICKLE, OWN_TOKEN].contains(&name) || secrets::is_rule(name)
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
    let Some(mut found) = Found::open(path, file, &secrets::search)? else { return Ok(vec![]) };
    if magic::is_lfs_pointer(&found.head) && found.size < 1024 {
        return Ok(vec![Finding { rule: LFS_POINTER.into(), spot: Spot::File, what: String::new() }]);
    }
    let magic = magic::sniff(file)?;
    if let Err(error) = files::check_pickle(path, file, magic) {
        let what = error.message().replace(&file.display().to_string(), path);
        found.all.insert(Finding { rule: PICKLE.into(), spot: Spot::File, what });
    }
    found.everywhere()?;
    Ok(found.all.into_iter().take(KEPT).collect())
}

/// Where the token stands that this very call uses, whatever it looks like.
///
/// # Errors
/// The file cannot be read.
pub fn own_token(path: &str, file: &Path, token: &str) -> Result<Vec<Finding>> {
    let finder = AhoCorasick::new([token]).map_err(|_| Error::bug("the token cannot be looked for"))?;
    let hit = |found: aho_corasick::Match| Hit { rule: OWN_TOKEN, at: found.start() };
    let search = |_: &str, text: &[u8]| Ok(finder.find_iter(text).map(hit).collect());
    let Some(mut found) = Found::open(path, file, &search)? else { return Ok(vec![]) };
    found.everywhere()?;
    Ok(found.all.into_iter().collect())
}

/// Bytes of a safetensors header, which the file says in its first eight.
fn header(head: &[u8], size: u64) -> u64 {
    let said = head.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    said.min(HEADER).min(size.saturating_sub(8))
}

/// How the characters of a text stand in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// A byte each, those of ASCII at least.
    Bytes,
    /// UTF-16, as some shells of Windows write.
    Little,
    Big,
}

/// What kind of text begins so; `None`: a binary. A byte order mark tells UTF-16, or zeros in every other byte; and a text
/// that a program has cut or padded may hold a few.
fn text_of(head: &[u8]) -> Option<Text> {
    let zeros = |from: usize| head.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let most = |part: usize| part * 20 > head.len() * 9; // nine in ten of one half
    match head {
        [0xff, 0xfe, ..] => Some(Text::Little),
        [0xfe, 0xff, ..] => Some(Text::Big),
        _ if even + odd == 0 => Some(Text::Bytes),
        _ if most(odd) && even == 0 => Some(Text::Little),
        _ if most(even) && odd == 0 => Some(Text::Big),
        _ if (even + odd) * 100 <= head.len()
            && head.iter().filter(|b| is_readable(b)).count() * 10 > head.len() * 9 =>
        {
            Some(Text::Bytes)
        }
        _ => None,
    }
}

/// Characters of ASCII as they are, and `?` for others.
fn narrow(bytes: &[u8], text: Text) -> Vec<u8> {
    let one = |pair: &[u8]| match (text, pair) {
        (Text::Little, [low, 0]) | (Text::Big, [0, low]) => *low,
        _ => b'?',
    };
    bytes.chunks(2).map(one).collect()
}

fn is_readable(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')
}

/// Looks for secrets in a text of the file of this name.
type Search<'a> = &'a dyn Fn(&str, &[u8]) -> Result<Vec<Hit>>;

/// A file that is being searched.
struct Found<'a> {
    /// Its last name.
    name: &'a str,
    file: &'a Path,
    open: File,
    size: u64,
    /// Its first bytes.
    head: Vec<u8>,
    search: Search<'a>,
    all: BTreeSet<Finding>,
}

impl<'a> Found<'a> {
    /// `None`: the file is empty.
    fn open(path: &'a str, file: &'a Path, search: Search<'a>) -> Result<Option<Found<'a>>> {
        let mut open = File::open(file).on("open", file)?;
        let size = open.metadata().on("stat", file)?.len();
        let mut head = vec![0; size.min(8192) as usize];
        open.read_exact(&mut head).on("read", file)?;
        let name = path.rsplit('/').next().unwrap_or(path);
        Ok((size > 0).then(|| Found { name, file, open, size, head, search, all: BTreeSet::new() }))
    }

    /// Searches all that is searched of a file of its kind.
    fn everywhere(&mut self) -> Result<()> {
        let size = self.size;
        match (text_of(&self.head), magic::of_bytes(&self.head, size)) {
            (_, Magic::Safetensors) => self.stretch(8, header(&self.head, size)),
            (Some(text), _) => self.text(text),
            (None, _) if size <= 2 * WINDOW => self.texts_in(0, size),
            (None, _) => {
                self.texts_in(0, WINDOW)?;
                self.texts_in(size - WINDOW, WINDOW)
            }
        }
    }

    fn add(&mut self, rule: &str, spot: Spot) {
        if self.all.len() < KEPT {
            self.all.insert(Finding { rule: rule.into(), spot, what: String::new() });
        }
    }

    fn read(&mut self, from: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open.seek(SeekFrom::Start(from)).on("read", self.file)?;
        (&self.open).take(length).read_to_end(&mut bytes).on("read", self.file)?;
        Ok(bytes)
    }

    /// Searches a stretch of a file, whatever it holds.
    fn stretch(&mut self, from: u64, length: u64) -> Result<()> {
        let bytes = self.read(from, length)?;
        for hit in (self.search)(self.name, &bytes)? {
            self.add(hit.rule, Spot::Byte(from + hit.at as u64));
        }
        Ok(())
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
        for hit in (self.search)(self.name, &joined)? {
            let before = starts.partition_point(|(at, _)| *at <= hit.at);
            if let Some((at, start)) = before.checked_sub(1).and_then(|last| starts.get(last)) {
                self.add(hit.rule, Spot::Byte(from + (start + hit.at - at) as u64));
            }
        }
        Ok(())
    }

    /// Searches a whole text, in pieces that overlap: a secret on the seam stands whole in one of them.
    fn text(&mut self, text: Text) -> Result<()> {
        let (mut bytes, mut line) = (Vec::new(), 1);
        let mut from = 0;
        loop {
            let piece = self.read(from, PIECE as u64)?;
            let read = piece.len();
            from += read as u64;
            match text {
                Text::Bytes => bytes.extend_from_slice(&piece),
                wide => bytes.extend(narrow(&piece, wide)),
            }
            let mut seen = (0, line);
            for hit in (self.search)(self.name, &bytes)? {
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
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = RUN - 1; // a run that long covers one of these
    while at < bytes.len() {
        if !is_readable(&bytes[at]) {
            at += RUN;
            continue;
        }
        let start = bytes[..at].iter().rposition(|byte| !is_readable(byte)).map_or(0, |before| before + 1);
        let end = at + bytes[at..].iter().position(|byte| !is_readable(byte)).unwrap_or(bytes.len() - at);
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
            binary[100] = 0;
            let at = binary.len();
            binary.extend(token().as_bytes());
            binary.extend([0xff; 5000]);
            assert_eq!(found("a.bin", &binary), [("hub-token".into(), Spot::Byte(at as u64))], "{shift}");
        }
        let whole = |bytes: &[u8]| texts(bytes).iter().map(|text| text.len()).sum::<usize>();
        assert_eq!(whole(&[0; 4096]), 0);
        assert_eq!(whole(b"all of it is readable"), 21);
        let between = [&[1_u8; 500][..], b"12345678", &[1; 100], b"abcdefgh", &[1; 500]].concat();
        assert_eq!(texts(&between), [500 - AROUND..616 + AROUND], "their surroundings meet");
        let seven = [&[1_u8; 500][..], b"1234567", &[1; 500]].concat();
        assert!(texts(&seven).is_empty());
    }

    #[test]
    fn a_token_in_utf_16_and_in_a_text_with_a_zero_byte_is_found_by_its_line() {
        let text = format!("one\ntwo\nkey = \"{}\"\n", token());
        let token = |line| [("huggingface-access-token".to_string(), Spot::Line(line))];
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (mark, wide) in [(&b"\xff\xfe"[..], &little), (b"", &little), (b"\xfe\xff", &big), (b"", &big)] {
            assert_eq!(found("notes.txt", &[mark, wide].concat()), token(3), "{mark:?}");
        }
        let filler = "a line of a log\n".repeat(100_000);
        let log = format!("\0begins\n{filler}{text}{filler}");
        assert_eq!(found("run.log", log.as_bytes()), token(100_004));
    }

    #[test]
    fn the_very_token_that_is_used_is_found_whatever_it_looks_like() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("blob");
        std::fs::write(&file, "one\nuse s3lfh0sted to log in\n").unwrap();
        let found = own_token("notes.md", &file, "s3lfh0sted").unwrap();
        assert_eq!(found, [Finding { rule: OWN_TOKEN.into(), spot: Spot::Line(2), what: String::new() }]);
        assert!(own_token("notes.md", &file, "another").unwrap().is_empty());
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
