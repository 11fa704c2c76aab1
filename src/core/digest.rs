//! Digests: BLAKE3 for identity here, SHA-256 and git's SHA-1 for identity on the Hub; and the canonical byte stream
//! that structured things are hashed through.
//!
//! Does not know how a file is read.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A BLAKE3 digest of content or of a canonical byte stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of the bytes given.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }
    /// The name of content whose BLAKE3 nobody here knows, because this machine never held it: no blob has it.
    pub const UNHELD: Digest = Digest([0; 32]);
    /// From BLAKE3's own type.
    pub fn from_hash(hash: blake3::Hash) -> Digest {
        Digest(*hash.as_bytes())
    }
    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
    /// The raw bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}
impl FromStr for Digest {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(s, &mut bytes).map_err(|_| format!("`{s}` is no digest of 64 hexadecimal digits"))?;
        Ok(Digest(bytes))
    }
}
impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.hex())
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the Hub knows a file by: SHA-256 (LFS) and, for files small enough to be stored in git itself, the SHA-1 of
/// git's blob object (`"blob " + size + NUL + bytes`). Both as lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubDigests {
    /// SHA-256 of the content.
    pub sha256: String,
    /// Git's blob SHA-1; only for files of at most [`REGULAR_LIMIT`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_sha1: Option<String>,
}

/// The Hub's limit for files stored in git itself rather than in LFS, in bytes.
pub const REGULAR_LIMIT: u64 = 10 << 20;

/// All digests of one file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigests {
    /// Bytes.
    pub size: u64,
    /// BLAKE3.
    pub digest: Digest,
    /// What the Hub knows it by.
    pub hub: HubDigests,
}

/// [`HubDigests`] of content that comes piece by piece. Git's SHA-1 starts with the size, so the size is said before.
pub struct HubHasher {
    sha256: sha2::Sha256,
    git: Option<sha1::Sha1>,
    expected: u64,
    fed: u64,
}

impl HubHasher {
    /// For content of `expected` bytes.
    pub fn new(expected: u64) -> HubHasher {
        let git = || {
            let mut git = sha1::Sha1::new();
            git.update(format!("blob {expected}\0"));
            git
        };
        let git = (expected <= REGULAR_LIMIT).then(git);
        HubHasher { sha256: sha2::Sha256::new(), git, expected, fed: 0 }
    }
    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.fed += piece.len() as u64;
        self.sha256.update(piece);
        self.git.iter_mut().for_each(|git| git.update(piece));
    }
    /// Of all that was fed; without git's SHA-1 where that is not the size that was said.
    pub fn finish(self) -> HubDigests {
        let git = self.git.filter(|_| self.fed == self.expected);
        let git_sha1 = git.map(|git| hex::encode(git.finalize()));
        HubDigests { sha256: hex::encode(self.sha256.finalize()), git_sha1 }
    }
}

/// A hasher for structured things. Every text is length-prefixed and every stream starts with a domain, so two
/// different structures never feed the same bytes.
pub struct Canonical(blake3::Hasher);

impl Canonical {
    /// Starts a stream for `domain`, e.g. `hfbuild action 1`.
    pub fn new(domain: &str) -> Self {
        let mut this = Canonical(blake3::Hasher::new());
        this.text(domain);
        this
    }
    /// One byte that says what follows.
    pub fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.update(&[tag]);
        self
    }
    /// A number, as 8 little-endian bytes.
    pub fn number(&mut self, n: u64) -> &mut Self {
        self.0.update(&n.to_le_bytes());
        self
    }
    /// A text with its length before it.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
        self
    }
    /// A digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.update(digest.bytes());
        self
    }
    /// The digest of all that was fed.
    pub fn finish(&self) -> Digest {
        Digest::from_hash(self.0.finalize())
    }
}
