//! xet storage without HTTP: what is true is stored and comes back, what is not is refused. Xorbs and shards are written
//! with the crate that clients write them with.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xet_core_structures::merklehash::{MerkleHash, compute_data_hash, file_hash, xorb_hash};
use xet_core_structures::metadata_shard::MDBShardFileHeader;
use xet_core_structures::metadata_shard::file_structs::{
    FileDataSequenceEntry, FileDataSequenceHeader, FileMetadataExt, MDBFileInfo,
};
use xet_core_structures::metadata_shard::streaming_shard::MDBMinimalShard;
use xet_core_structures::metadata_shard::xorb_structs::{XorbChunkSequenceEntry, XorbChunkSequenceHeader};
use xet_core_structures::xorb_object::{CompressionScheme, serialize_chunk};

use super::read::XetReader;
use super::{XetFile, XetStore};
use crate::hub::embedded::answer::Refused;

/// Chunks of a block, as a client has them.
struct Block(Vec<Vec<u8>>);

impl Block {
    fn new(seed: u8, sizes: &[usize]) -> Block {
        let chunk = |(n, size): (usize, &usize)| (0..*size).map(|at| seed ^ ((at * (n + 3)) >> 2) as u8).collect();
        Block(sizes.iter().enumerate().map(chunk).collect())
    }
    fn hashes(&self) -> Vec<(MerkleHash, u64)> {
        self.0.iter().map(|chunk| (compute_data_hash(chunk), chunk.len() as u64)).collect()
    }
    fn hash(&self) -> MerkleHash {
        xorb_hash(&self.hashes())
    }
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in &self.0 {
            serialize_chunk(chunk, &mut bytes, CompressionScheme::LZ4).unwrap();
        }
        bytes
    }
}

/// A file of some chunks of some blocks.
struct Pieces<'a>(Vec<(&'a Block, std::ops::Range<usize>)>);

impl Pieces<'_> {
    fn content(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(block, range)| block.0[range.clone()].concat()).collect()
    }
    fn hash(&self) -> MerkleHash {
        let chunks: Vec<_> = self.0.iter().flat_map(|(block, range)| block.hashes()[range.clone()].to_vec()).collect();
        file_hash(&chunks)
    }
    fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.content()))
    }
    fn info(&self, hash: MerkleHash, sha256: &str) -> MDBFileInfo {
        let segment = |(block, range): &(&Block, std::ops::Range<usize>)| {
            let size: usize = block.0[range.clone()].iter().map(Vec::len).sum();
            FileDataSequenceEntry::new(block.hash(), size, range.start, range.end)
        };
        MDBFileInfo {
            metadata: FileDataSequenceHeader::new(hash, self.0.len(), false, true),
            segments: self.0.iter().map(segment).collect(),
            verification: vec![],
            metadata_ext: Some(FileMetadataExt::new(MerkleHash::from_hex(sha256).unwrap())),
        }
    }
}

fn shard(files: &[MDBFileInfo], blocks: &[(&Block, Vec<(MerkleHash, u64)>)]) -> MDBMinimalShard {
    let mut bytes = Vec::new();
    MDBShardFileHeader::default().serialize(&mut bytes).unwrap();
    for file in files {
        file.serialize(&mut bytes).unwrap();
    }
    FileDataSequenceHeader::bookend().serialize(&mut bytes).unwrap();
    for (block, chunks) in blocks {
        let size: u64 = chunks.iter().map(|(_, size)| size).sum();
        let header = XorbChunkSequenceHeader::new(block.hash(), chunks.len(), size as usize);
        header.serialize(&mut bytes).unwrap();
        let mut at = 0;
        for (hash, size) in chunks {
            XorbChunkSequenceEntry::new(*hash, *size as usize, at).serialize(&mut bytes).unwrap();
            at += *size as usize;
        }
    }
    XorbChunkSequenceHeader::bookend().serialize(&mut bytes).unwrap();
    MDBMinimalShard::from_reader(&mut &bytes[..], true, true).unwrap()
}

fn store() -> (TempDir, XetStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = XetStore::new(dir.path());
    (dir, store)
}

fn send(store: &XetStore, bytes: &[u8], hash: MerkleHash) -> Result<bool, Refused> {
    let mut temp = store.temp().unwrap();
    temp.write_all(bytes).unwrap();
    store.accept_xorb(temp, &hash.hex())
}

#[track_caller]
fn said<T>(outcome: Result<T, Refused>) -> String {
    outcome.map(drop).unwrap_err().message
}

fn read(store: &XetStore, file: &XetFile, start: u64) -> Vec<u8> {
    let mut content = Vec::new();
    XetReader::new(store, file, start).unwrap().read_to_end(&mut content).unwrap();
    content
}

#[test]
fn a_file_comes_back_from_every_byte_on() {
    let (_dir, store) = store();
    let (one, two) = (Block::new(1, &[1000, 70_000, 3, 500]), Block::new(2, &[9, 4000]));
    for block in [&one, &two] {
        assert!(send(&store, &block.bytes(), block.hash()).unwrap());
        assert!(!send(&store, &block.bytes(), block.hash()).unwrap(), "it is here already");
    }
    let pieces = Pieces(vec![(&one, 1..3), (&two, 0..2), (&one, 0..1), (&one, 3..4)]);
    let told = shard(&[pieces.info(pieces.hash(), &pieces.sha256())], &[(&one, one.hashes()), (&two, two.hashes())]);
    store.accept_shard(&told).unwrap();

    let file = store.by_sha256(&pieces.sha256()).unwrap().unwrap();
    let content = pieces.content();
    assert_eq!((file.size, file.hash.clone()), (content.len() as u64, pieces.hash().hex()));
    for start in [0, 1, 69_999, 70_000, 70_002, 70_003, 70_012, 74_012, 75_012, content.len() - 1, content.len()] {
        assert!(read(&store, &file, start as u64) == content[start..], "from {start}");
    }
    // The first chunk of each file is known for deduplication.
    assert!(store.shard_of(&compute_data_hash(&one.0[1]).hex()).is_some());
}

#[test]
fn a_range_is_answered_with_the_fewest_chunks() {
    let (_dir, store) = store();
    let (one, two) = (Block::new(1, &[100, 200, 300]), Block::new(2, &[10, 20]));
    for block in [&one, &two] {
        send(&store, &block.bytes(), block.hash()).unwrap();
    }
    let pieces = Pieces(vec![(&one, 0..3), (&two, 0..2), (&one, 1..2)]);
    store.accept_shard(&shard(&[pieces.info(pieces.hash(), &pieces.sha256())], &[])).unwrap();
    let file = store.by_sha256(&pieces.sha256()).unwrap().unwrap();
    let ask = |start, end| store.pieces(&file, start, end, |xorb| format!("/{xorb}")).unwrap();
    let terms = |start, end| -> Vec<(u64, u64, u64)> {
        let said = ask(start, end).unwrap();
        let term = |t: &serde_json::Value| {
            let number = |value: &serde_json::Value| value.as_u64().unwrap();
            (number(&t["range"]["start"]), number(&t["range"]["end"]), number(&t["unpacked_length"]))
        };
        said["terms"].as_array().unwrap().iter().map(term).collect()
    };
    assert_eq!(terms(0, file.size), [(0, 3, 600), (0, 2, 30), (1, 2, 200)]);
    assert_eq!(terms(150, 160), [(1, 2, 200)]);
    assert_eq!(ask(150, 160).unwrap()["offset_into_first_range"], 50);
    assert_eq!(terms(299, 301), [(1, 3, 500)]);
    assert_eq!(terms(605, 611), [(0, 2, 30)]);
    assert_eq!(ask(605, 611).unwrap()["offset_into_first_range"], 5);
    assert!(ask(file.size, file.size + 1).is_none());
    // Chunks of one xorb that meet are fetched at once.
    let fetched = &ask(0, file.size).unwrap()["fetch_info"][one.hash().hex()];
    assert_eq!(fetched.as_array().unwrap().len(), 1);
}

#[test]
fn what_is_not_so_is_refused_and_not_stored() {
    let (_dir, store) = store();
    let (block, other) = (Block::new(1, &[1000, 2000]), Block::new(2, &[50]));
    assert!(said(send(&store, &block.bytes(), other.hash())).contains("is not what it is said to be"));
    assert!(said(send(&store, b"", block.hash())).contains("no chunks"));
    assert!(said(send(&store, &[7; 400], block.hash())).contains("cannot be read"));
    let half = block.bytes();
    assert!(said(send(&store, &half[..half.len() - 1], block.hash())).contains("cannot be read"));

    let pieces = Pieces(vec![(&block, 0..2)]);
    let (hash, sha256) = (pieces.hash(), pieces.sha256());
    let tell = |files: &[MDBFileInfo], blocks: &[(&Block, Vec<(MerkleHash, u64)>)]| {
        store.accept_shard(&shard(files, blocks)).map(drop)
    };
    assert!(said(tell(&[pieces.info(hash, &sha256)], &[])).contains("no xorb"));
    send(&store, &block.bytes(), block.hash()).unwrap();

    let wrong = "is not what it is said to be";
    assert!(said(tell(&[pieces.info(hash, &"ab".repeat(32))], &[])).contains("the SHA-256 of the file"));
    assert!(said(tell(&[pieces.info(other.hash(), &sha256)], &[])).contains("the file `"));
    let mut long = pieces.info(hash, &sha256);
    long.segments[0].unpacked_segment_bytes += 1;
    assert!(said(tell(&[long], &[])).contains(wrong));
    let mut beyond = pieces.info(hash, &sha256);
    beyond.segments[0].chunk_index_end = 9;
    assert!(said(tell(&[beyond], &[])).contains(wrong));
    assert!(said(tell(&[], &[(&block, other.hashes())])).contains("the list of chunks"));
    assert_eq!(store.by_sha256(&sha256).unwrap(), None);
    assert!(store.shard_of(&compute_data_hash(&block.0[0]).hex()).is_none());

    tell(&[pieces.info(hash, &sha256)], &[(&block, block.hashes())]).unwrap();
    assert!(said(tell(&[pieces.info(hash, &"ab".repeat(32))], &[])).contains("the SHA-256"), "also when it is known");
}
