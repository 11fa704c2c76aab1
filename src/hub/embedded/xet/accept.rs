//! What clients send to xet storage: xorbs and shards, checked before they are stored.
//!
//! A xorb is read chunk by chunk from disk; a file that a shard tells of is put together once and hashed, so that what
//! `resolve` will send for its SHA-256 has that SHA-256.

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use xet_core_structures::CoreError;
use xet_core_structures::merklehash::{MerkleHash, compute_data_hash, file_hash, xorb_hash};
use xet_core_structures::metadata_shard::file_structs::MDBFileInfoView;
use xet_core_structures::metadata_shard::streaming_shard::MDBMinimalShard;
use xet_core_structures::metadata_shard::xorb_structs::MDBXorbInfoView;
use xet_core_structures::xorb_object::constants::{MAX_XORB_BYTES, MAX_XORB_CHUNKS};
use xet_core_structures::xorb_object::{XorbObject, XorbObjectInfoV1, deserialize_chunk_to_writer};

use super::read::{PIECE, XetReader};
use super::{Segment, XetFile, XetStore, no_xorb};
use crate::core::error::OnPath;
use crate::hub::embedded::answer::Refused;
use crate::hub::embedded::store::place;

/// What a client says of a thing that is not so.
fn untrue(what: &str, hash: &str) -> Refused {
    Refused::bad(format!("{what} `{hash}` is not what it is said to be"))
}

impl XetStore {
    /// Stores a xorb: the chunks as they were sent, with a footer of our own. False when it was here.
    pub(super) fn accept_xorb(&self, mut temp: NamedTempFile, hash: &str) -> Result<bool, Refused> {
        let path = self.path("xorbs", hash).ok_or_else(|| Refused::bad("a xorb is named by 64 hex digits"))?;
        if path.exists() {
            return Ok(false);
        }
        let info = chunks_of(&mut temp)?;
        if info.xorb_hash.hex() != hash {
            return Err(untrue("the xorb", hash));
        }
        let file = temp.as_file_mut();
        let end = u64::from(info.chunk_boundary_offsets.last().copied().unwrap_or_default());
        file.set_len(end).on("write", &path)?;
        file.seek(SeekFrom::Start(end)).on("write", &path)?;
        let mut writer = BufWriter::new(file);
        XorbObject::serialize_given_info(&mut writer, info).map_err(|e| Refused::new(500, e.to_string()))?;
        writer.into_inner().map_err(|e| e.into_error()).on("write", &path)?;
        place(temp, &path)?;
        Ok(true)
    }

    /// Stores what a shard tells: the files, and which chunks are where.
    pub(super) fn accept_shard(&self, shard: &MDBMinimalShard) -> Result<String, Refused> {
        for xorb in (0..shard.num_xorb()).filter_map(|n| shard.xorb(n)) {
            self.check_chunk_list(xorb)?;
        }
        for file in (0..shard.num_files()).filter_map(|n| shard.file(n)) {
            self.accept_file(file)?;
        }
        let mut bytes = Vec::new();
        let written = shard.serialize_xorb_subset_only(&mut bytes, None, |_| true);
        written.map_err(|e| Refused::bad(format!("the shard cannot be read: {e}")))?;
        let name = compute_data_hash(&bytes).hex();
        self.put("shards", &name, &bytes)?;
        for chunk in shard.global_dedup_eligible_chunks() {
            self.put("chunks", &chunk.hex(), name.as_bytes())?;
        }
        Ok(name)
    }

    fn check_chunk_list(&self, said: &MDBXorbInfoView) -> Result<(), Refused> {
        let hash = said.xorb_hash().hex();
        let (_, footer) = self.xorb(&hash)?.ok_or_else(|| no_xorb(&hash))?;
        let there = &footer.info.chunk_hashes;
        let same = there.len() == said.num_entries()
            && there.iter().enumerate().all(|(n, chunk)| said.chunk(n).chunk_hash == *chunk);
        if same { Ok(()) } else { Err(untrue("the list of chunks of the xorb", &hash)) }
    }

    fn accept_file(&self, said: &MDBFileInfoView) -> Result<(), Refused> {
        let hash = said.file_hash().hex();
        let sha256 = said.metadata_ext().map(|more| more.sha256).filter(|sha| *sha != MerkleHash::default());
        let sha256 = sha256.map(|sha| sha.hex());
        let wrong = |there: &XetFile| sha256.as_ref().is_some_and(|said| *said != there.sha256);
        if let Some(there) = self.file(&hash)? {
            return if wrong(&there) { Err(untrue("the SHA-256 of the file", &hash)) } else { Ok(()) };
        }
        let mut file = XetFile { hash, sha256: String::new(), size: 0, segments: Vec::new() };
        let mut chunks = Vec::new();
        for entry in (0..said.num_entries()).map(|n| said.entry(n)) {
            let xorb = entry.xorb_hash.hex();
            let (_, footer) = self.xorb(&xorb)?.ok_or_else(|| no_xorb(&xorb))?;
            let (first, end) = (entry.chunk_index_start, entry.chunk_index_end);
            let found = footer.chunk_hash_sizes(first, end).map_err(|_| untrue("a segment of the file", &file.hash))?;
            let size = found.iter().map(|(_, size)| size).sum();
            if size != u64::from(entry.unpacked_segment_bytes) {
                return Err(untrue("a segment of the file", &file.hash));
            }
            chunks.extend(found);
            file.size += size;
            file.segments.push(Segment { xorb, first, end, size });
        }
        if file_hash(&chunks).hex() != file.hash {
            return Err(untrue("the file", &file.hash));
        }
        file.sha256 = self.sha256_of(&file)?;
        if wrong(&file) {
            return Err(untrue("the SHA-256 of the file", &file.hash));
        }
        let content = serde_json::to_vec(&file).map_err(|e| Refused::new(500, e.to_string()))?;
        self.put("files", &file.hash, &content)?;
        Ok(self.put("sha256", &file.sha256, file.hash.as_bytes())?)
    }

    fn sha256_of(&self, file: &XetFile) -> Result<String, Refused> {
        let (mut reader, mut hash) = (XetReader::new(self, file, 0)?, Sha256::new());
        let mut piece = vec![0; PIECE];
        loop {
            let read = reader.read(&mut piece).on("read", &self.dir)?;
            if read == 0 {
                return Ok(hex::encode(hash.finalize()));
            }
            hash.update(&piece[..read]);
        }
    }
}

/// Reads all chunks of a xorb; what its footer will say.
fn chunks_of(temp: &mut NamedTempFile) -> Result<XorbObjectInfoV1, Refused> {
    let length = temp.as_file().metadata().on("read", "tmp")?.len();
    temp.as_file_mut().rewind().on("read", "tmp")?;
    let mut reader = BufReader::with_capacity(PIECE, temp.as_file_mut());
    let mut info = XorbObjectInfoV1::default();
    let (mut chunks, mut data) = (Vec::new(), Vec::new());
    let (mut packed, mut plain) = (0, 0);
    while packed < length {
        data.clear();
        let (sent, size) = match deserialize_chunk_to_writer(&mut reader, &mut data) {
            Ok(sizes) => sizes,
            // A footer: ours will take its place.
            Err(CoreError::ChunkHeaderParse) => break,
            Err(e) => return Err(Refused::bad(format!("the xorb cannot be read: {e}"))),
        };
        packed += sent as u64;
        plain += u64::from(size);
        // The end of a compressed chunk is padding to the decoder, which does not miss it.
        if packed > length {
            return Err(Refused::bad("the xorb cannot be read: its last chunk is cut off"));
        }
        if chunks.len() >= *MAX_XORB_CHUNKS || plain > *MAX_XORB_BYTES as u64 {
            return Err(Refused::new(413, "the xorb is too large"));
        }
        let hash = compute_data_hash(&data);
        chunks.push((hash, u64::from(size)));
        info.chunk_hashes.push(hash);
        // Both fit: neither is above the limits just checked, but for the headers of the chunks.
        info.chunk_boundary_offsets.push(u32::try_from(packed).unwrap_or(u32::MAX));
        info.unpacked_chunk_offsets.push(u32::try_from(plain).unwrap_or(u32::MAX));
    }
    if chunks.is_empty() {
        return Err(Refused::bad("the xorb has no chunks"));
    }
    info.num_chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    info.xorb_hash = xorb_hash(&chunks);
    info.fill_in_boundary_offsets();
    Ok(info)
}
