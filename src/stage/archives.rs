//! Pickles inside of archives: members of zip and tar archives, compressed by gzip or not, and of archives in these.
//!
//! Unpacks nothing to where it could be run, and looks at each member's first bytes, wherever its name leads. What is looked
//! into is bounded: so many containers deep, and so many bytes in all that decompressing may give. Knows no other
//! compression (bzip2, xz, zstd), and nothing of what `torch.load` makes of a zip: see [`super::files`].

use super::arrays;
use crate::core::error::{Error, OnPath, Result};
use crate::model::checkpoint::zip::Archive;
use crate::model::checkpoint::{calls, unpickle};
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// Containers in one another that are opened: a `.tar.gz` in a zip is three.
const DEEP: u8 = 4;
/// How many times a file's own size its decompressed content may be, and what any file's may be.
const RATIO: u64 = 200;
const LEAST: u64 = 1 << 30;
/// Bytes of a member by which it is told what it is; a tar says so at 257.
const HEAD: u64 = 512;

/// Refuses an archive, gzip's compression of anything, or an array, in which a pickle would run code. Another file is not
/// looked at.
///
/// # Errors
/// Such a pickle, or array of objects; what it decompresses to is too much to be looked through; the file cannot be read.
pub fn check(path: &str, file: &Path) -> Result<()> {
    let size = std::fs::metadata(file).on("stat", file)?.len();
    check_within(path, file, size.saturating_mul(RATIO).max(LEAST))
}

/// The same of a zip archive behind something else, which lenient programs find by its end.
///
/// # Errors
/// As for [`check`].
pub fn check_behind(path: &str, file: &Path) -> Result<()> {
    let size = std::fs::metadata(file).on("stat", file)?.len();
    let most = size.saturating_mul(RATIO).max(LEAST);
    let left = Cell::new(most);
    zip_behind(file, &format!("`{path}`"), &left)?;
    enough(path, most, &left)
}

/// What does not begin as a zip and cannot be read as one is none: bytes of any file may look like an archive's end.
fn zip_behind(file: &Path, what: &str, left: &Cell<u64>) -> Result<()> {
    match Archive::scan(file) {
        Ok(Some(_)) => zip(file, what, DEEP - 1, left),
        _ => Ok(()),
    }
}

/// The same as [`check`] with at most so many decompressed bytes.
fn check_within(path: &str, file: &Path, most: u64) -> Result<()> {
    let left = Cell::new(most);
    let what = format!("`{path}`");
    let mut open = File::open(file).on("open", file)?;
    let mut head = Vec::new();
    (&open).take(HEAD).read_to_end(&mut head).on("read", file)?;
    open.seek(SeekFrom::Start(0)).on("read", file)?;
    let container = Container::of(&head);
    let is_zip = matches!(container, Some(Container::Zip));
    match container {
        Some(Container::Zip) => zip(file, &what, DEEP - 1, &left)?,
        Some(Container::Tar) => {
            let mut archive = tar::Archive::new(open); // what need not be read is passed over
            archive.entries_with_seek().map_or(Ok(()), |members| tar(members, &what, DEEP - 1, &left))?;
        }
        Some(Container::Gzip) => look(&mut open, &what, DEEP, &left)?,
        None if arrays::opens_array(&head) => arrays::check(&mut BufReader::new(open), &what)?,
        None => {}
    }
    if !is_zip {
        zip_behind(file, &what, &left)?;
    }
    enough(path, most, &left)
}

/// Refuses a file of which not all could be looked at.
fn enough(path: &str, most: u64, left: &Cell<u64>) -> Result<()> {
    match left.get() {
        0 => Err(Error::stage(format!(
            "`{path}` decompresses to more than {most} bytes, too much to be looked through for pickles, which is refused"
        ))
        .hint("publish what is in it as files of their own, or less of it in one archive")),
        _ => Ok(()),
    }
}

/// What holds members.
enum Container {
    Zip,
    Tar,
    Gzip,
}

impl Container {
    fn of(head: &[u8]) -> Option<Container> {
        match head {
            [b'P', b'K', 3, 4, ..] => Some(Container::Zip),
            [0x1f, 0x8b, 8, ..] => Some(Container::Gzip),
            _ if is_tar(head) => Some(Container::Tar),
            _ => None,
        }
    }
}

/// Whether a block is the header of a tar's member, by its checksum: the oldest form has no other mark, and Python's `tarfile`
/// asks for none.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<512>() else { return false };
    let said = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let said = u64::from_str_radix(said.trim_matches([' ', '\0']), 8);
    let sum = |of: &[u8]| of.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    said.is_ok_and(|said| said == sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..]))
}

/// What a decompressor gives, up to where all of the file's have given enough.
struct Metered<'l, R> {
    from: R,
    left: &'l Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        let read = self.from.read(&mut into[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

/// Looks at a member, and where it is a container at its members. `deep`: how many more are opened. What cannot be read is
/// passed over: whoever loads it cannot read it either.
fn look(from: &mut dyn Read, what: &str, deep: u8, left: &Cell<u64>) -> Result<()> {
    let mut head = Vec::new();
    let _ = (&mut *from).take(HEAD).read_to_end(&mut head);
    let mut whole = BufReader::new(Cursor::new(&head).chain(from));
    match Container::of(&head) {
        _ if deep == 0 => {}
        Some(Container::Gzip) => {
            return look(&mut Metered { from: MultiGzDecoder::new(whole), left }, what, deep - 1, left);
        }
        Some(Container::Tar) => {
            let mut archive = tar::Archive::new(whole);
            return archive.entries().map_or(Ok(()), |members| tar(members, what, deep - 1, left));
        }
        Some(Container::Zip) => {
            // its directory stands at its end: it is read from a file
            let mut whole_zip = tempfile::NamedTempFile::new().on("make", std::env::temp_dir())?;
            let at = whole_zip.path().to_path_buf();
            std::io::copy(&mut Metered { from: whole, left }, &mut whole_zip).on("write", &at)?;
            return zip(&at, what, deep - 1, left);
        }
        None => {}
    }
    match head {
        _ if arrays::opens_array(&head) => arrays::check(&mut whole, what),
        _ if arrays::opens_pickle(&head) => pickle(whole, what),
        _ => arrays::refuse_called(calls::first_called(&mut whole), what),
    }
}

/// Bytes of what may be a pickle that are kept to be read once more.
const KEPT: usize = 1 << 20;

/// A reader that keeps what it gave first.
struct Kept<R> {
    from: R,
    first: Vec<u8>,
    read: usize,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(into)?;
        let room = (KEPT - self.first.len()).min(read);
        self.first.extend_from_slice(&into[..room]);
        self.read += read;
        Ok(read)
    }
}

/// Refuses what begins as a pickle of protocol 2 to 5 and names what is not known. Raw numbers may begin so too: what is
/// soon no pickle is refused only where it calls something before. After a pickle raw numbers may follow.
fn pickle(from: impl Read, what: &str) -> Result<()> {
    let mut kept = Kept { from, first: Vec::new(), read: 0 };
    let mut reader = BufReader::new(&mut kept);
    let Err(refusal) = unpickle::unpickle(&mut reader, what, u64::MAX) else {
        return arrays::refuse_called(calls::first_called(&mut reader), what); // another pickle may follow
    };
    let soon = kept.read <= KEPT;
    let mut again = BufReader::new(Cursor::new(kept.first).chain(kept.from));
    match soon && calls::first_called(&mut again).is_none() {
        true => Ok(()),
        false => Err(refusal),
    }
}

fn member(name: &str, what: &str) -> String {
    format!("`{}` of {what}", name.escape_debug())
}

fn tar<R: Read>(members: tar::Entries<'_, R>, what: &str, deep: u8, left: &Cell<u64>) -> Result<()> {
    for entry in members {
        let Ok(mut entry) = entry else { break };
        let what = member(&String::from_utf8_lossy(&entry.path_bytes()), what);
        look(&mut entry, &what, deep, left)?;
    }
    Ok(())
}

/// One without an archive's end has no members. Another whose members cannot be listed is refused: who knows what others make
/// of it.
fn zip(file: &Path, what: &str, deep: u8, left: &Cell<u64>) -> Result<()> {
    let Some(archive) = Archive::scan(file).map_err(|error| error.within(what))? else { return Ok(()) };
    let mut open = File::open(file).on("open", file)?;
    for entry in &archive.entries {
        // what is located is what lies in the file, of a deflated entry the compressed bytes
        let mut lies = entry.clone();
        lies.size = entry.compressed;
        let Ok(start) = archive.locate(&lies) else { continue };
        open.seek(SeekFrom::Start(start)).on("read", file)?;
        let mut bytes = BufReader::new(&open).take(entry.compressed);
        let what = member(&entry.name, what);
        match entry.method {
            8 => look(&mut Metered { from: DeflateDecoder::new(bytes), left }, &what, deep, left)?,
            _ => look(&mut bytes, &what, deep, left)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn refusal(bytes: &[u8], most: u64) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, bytes).unwrap();
        check_within("x.gz", &file, most).err().map(|error| error.message().to_string())
    }

    /// `os.system("id")` in protocol 0.
    const RUNS: &[u8] = b"cos\nsystem\n(S'id'\ntR.";

    #[test]
    fn what_decompresses_to_too_much_is_refused_and_not_read_to_its_end() {
        let mut bomb = gzip(&vec![0; 50 << 20]);
        assert!(refusal(&bomb, 1 << 20).is_none(), "no more is read than is needed to see that it is no pickle");
        bomb = tar_of("zeros", &vec![0; 50 << 20]);
        let said = refusal(&gzip(&bomb), 1 << 20).unwrap_or_default();
        assert!(said.contains("`x.gz` decompresses to more than 1048576 bytes"), "{said}");
    }

    #[test]
    fn numbers_that_begin_as_a_pickle_does_are_none_and_a_pickle_before_numbers_is_one() {
        let refused = |content: &[u8]| refusal(&gzip(&tar_of("data/0", content)), LEAST);
        assert_eq!(refused(&[&[0x80, 2][..], &[0xff; 9000]].concat()), None);
        assert_eq!(refused(&[&b"\x80\x02]."[..], &[0xff; 9000]].concat()), None);
        assert_eq!(refused(b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R."), None, "a global that is known");
        let runs = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.";
        let said = refused(&[&runs[..], &[0xff; 9000]].concat()).unwrap_or_default();
        assert!(said.contains("system"), "{said}");
        // one that ends before its `STOP` has run all the same
        assert!(refused(&runs[..runs.len() - 1]).is_some());
    }

    #[test]
    fn containers_in_one_another_are_opened_to_a_depth() {
        let mut inner = RUNS.to_vec();
        for depth in 1..=6 {
            inner = gzip(&inner);
            let found = refusal(&inner, LEAST);
            assert_eq!(found.is_some(), depth <= usize::from(DEEP), "{depth}: {found:?}");
        }
        let said = refusal(&gzip(&tar_of("a/b.pkl", RUNS)), LEAST).unwrap_or_default();
        assert!(said.starts_with("`a/b.pkl` of `x.gz` is a pickle that calls `os.system`"), "{said}");
    }

    fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).unwrap();
        archive.into_inner().unwrap()
    }

    /// A zip archive of stored members, with something before it.
    fn zipped(before: &[u8], members: &[(&[u8], &[u8])]) -> Vec<u8> {
        let (mut out, mut directory) = (before.to_vec(), vec![]);
        for (name, bytes) in members {
            let at = (out.len() - before.len()) as u32;
            let length = bytes.len() as u32;
            let sizes = [[0; 4], length.to_le_bytes(), length.to_le_bytes()].concat();
            let names = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
            out.extend([b"PK\x03\x04", &[0; 10][..], &sizes, &names, name, bytes].concat());
            let tail = [&[0; 10][..], &at.to_le_bytes()].concat();
            directory.extend([b"PK\x01\x02", &[0; 12][..], &sizes, &names, &tail, name].concat());
        }
        let (at, count) = ((out.len() - before.len()) as u32, (members.len() as u16).to_le_bytes());
        let size = (directory.len() as u32).to_le_bytes();
        out.extend(
            [&directory[..], b"PK\x05\x06", &[0; 4], &count, &count, &size, &at.to_le_bytes(), &[0; 2]].concat(),
        );
        out
    }

    /// A tar of one member.
    fn tarred(name: &str, bytes: &[u8], magic: &[u8]) -> Vec<u8> {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000644");
        head[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        head[156] = b'0';
        head[257..257 + magic.len()].copy_from_slice(magic);
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut out = [&head[..], bytes].concat();
        out.resize(out.len().next_multiple_of(512) + 1024, 0);
        out
    }

    #[test]
    fn members_are_found_as_lenient_programs_find_them() {
        let most = LEAST;
        let calls = |bytes: &[u8]| refusal(bytes, most).is_some_and(|said| said.contains("os.system"));
        assert!(calls(&zipped(b"", &[(b"a", RUNS)])));
        assert!(calls(&zipped(b"", &[(b"a", b"1"), (b"a", RUNS)])), "a name that comes twice");
        assert!(calls(&zipped(b"", &[(b"\x81", RUNS)])), "a name in no UTF-8");
        assert!(calls(&zipped(b"anything at all", &[(b"a", RUNS)])), "another beginning");
        assert_eq!(refusal(b"anything, PK\x05\x06 and what is no end of an archive", most), None);
        assert!(calls(&zipped(b"PK\x03\x04 and something else before", &[(b"a", RUNS)])), "something before it");
        assert!(calls(&tarred("a", RUNS, b"ustar\x0000")) && calls(&tarred("a", RUNS, b"")), "the oldest form of tar");
        let two = [b"\x80\x02K\x01.\x80\x02", RUNS].concat();
        assert!(calls(&tarred("storages", &two, b"ustar\x0000")), "a pickle behind another");
        let latin = [b"\x80\x02cos\nsystem\n0V\xff\n0", RUNS].concat();
        assert!(refusal(&tarred("pickle", &latin, b"ustar\x0000"), most).is_some());
        assert_eq!(refusal(&zipped(b"", &[(b"a", b"1")]), most), None);
        let mut broken = zipped(b"", &[(b"a", b"1")]);
        let end = broken.len() - 22;
        broken[end + 16] ^= 1; // the directory is elsewhere
        assert!(refusal(&broken, most).is_some());
        broken.truncate(end); // nobody reads it
        assert_eq!(refusal(&broken, most), None);
    }
}
