//! The JSON of the wire, one type a message, for the client and the embedded hub alike.
//!
//! Field names are the live Hub's. What other self-hosted hubs leave out is optional here; what they add is ignored.
//! Knows no network, no files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How many files one preupload or LFS batch request may name.
pub const BATCH: usize = 256;

/// How many bytes of a file a preupload sends as a sample.
pub const SAMPLE: usize = 512;

/// The content type of a commit's body.
pub const NDJSON: &str = "application/x-ndjson";

/// The content type of the LFS API.
pub const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// The LFS part of a tree entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LfsRef {
    /// The content's SHA-256 in hex. Some answers call it `sha256`.
    #[serde(alias = "sha256")]
    pub oid: String,
    /// The content's size.
    pub size: u64,
    /// The size of the pointer file that git stores.
    #[serde(default)]
    pub pointer_size: u64,
}

/// One line of `GET tree` and of `POST paths-info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeEntry {
    /// `file` or `directory`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The git object's SHA-1: of the content, or for an LFS file of its pointer.
    pub oid: String,
    /// The content's size, also for LFS files.
    #[serde(default)]
    pub size: u64,
    /// The path in the repository.
    pub path: String,
    /// Present for LFS files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs: Option<LfsRef>,
    /// Present for files in xet storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xet_hash: Option<String>,
    /// Present when the listing was asked to `expand`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Value>,
}

/// A file that preupload is asked about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreuploadFile {
    /// The path in the repository.
    pub path: String,
    /// The content's size.
    pub size: u64,
    /// The first [`SAMPLE`] bytes in base64.
    pub sample: String,
}

/// The body of `POST preupload`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreuploadRequest {
    /// At most [`BATCH`] files.
    pub files: Vec<PreuploadFile>,
}

/// What preupload says of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreuploadVerdict {
    /// The path asked about.
    pub path: String,
    /// `lfs` or `regular`.
    pub upload_mode: String,
    /// The hub would leave the file out: an ignore rule matches or, on some hubs, it is unchanged.
    #[serde(default)]
    pub should_ignore: bool,
    /// What is now at that path: an LFS file's SHA-256, a regular file's git blob SHA-1.
    #[serde(default)]
    pub oid: Option<String>,
}

/// The answer of `POST preupload`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreuploadAnswer {
    /// One a file asked about.
    pub files: Vec<PreuploadVerdict>,
}

/// An object of the LFS API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsPointer {
    /// The content's SHA-256 in hex.
    pub oid: String,
    /// The content's size.
    pub size: u64,
}

/// The ref an LFS batch is meant for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsRefName {
    /// A branch.
    pub name: String,
}

/// The body of `POST info/lfs/objects/batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsBatchRequest {
    /// `upload` or `download`.
    pub operation: String,
    /// The transfers the client can do: `basic`, `multipart`, `xet`.
    #[serde(default)]
    pub transfers: Vec<String>,
    /// What is to be transferred.
    pub objects: Vec<LfsPointer>,
    /// Always `sha256`.
    #[serde(default)]
    pub hash_algo: Option<String>,
    /// The branch.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub to: Option<LfsRefName>,
}

/// Where and how one step of a transfer is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsAction {
    /// The URL.
    pub href: String,
    /// Headers to send; for a multipart upload also `chunk_size` and a URL a numbered part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Map<String, Value>>,
}

/// The steps of one object's transfer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LfsActions {
    /// Send the content here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<LfsAction>,
    /// Say here that it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<LfsAction>,
    /// Get the content here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<LfsAction>,
}

/// Why one object cannot be transferred.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsError {
    /// As an HTTP status.
    #[serde(default)]
    pub code: u16,
    /// In words.
    #[serde(default)]
    pub message: String,
}

/// What the batch says of one object. No `actions` on an upload: the content is already there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsBatchObject {
    /// The content's SHA-256 in hex.
    pub oid: String,
    /// The content's size.
    #[serde(default)]
    pub size: u64,
    /// What is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<LfsActions>,
    /// Why nothing can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<LfsError>,
}

/// The answer of `POST info/lfs/objects/batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsBatchAnswer {
    /// The transfer the hub chose; `basic` where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<String>,
    /// One an object asked about.
    pub objects: Vec<LfsBatchObject>,
}

/// One part of a finished multipart upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LfsPart {
    /// From 1.
    pub part_number: u32,
    /// The `ETag` that the part's PUT answered.
    pub etag: String,
}

/// The body that completes a multipart upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LfsCompletion {
    /// The content's SHA-256 in hex.
    pub oid: String,
    /// All parts, in order.
    pub parts: Vec<LfsPart>,
}

/// The first line of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitHeader {
    /// The title.
    pub summary: String,
    /// The text below the title.
    #[serde(default)]
    pub description: String,
    /// The head the commit was made from; the hub answers 412 when it has moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_commit: Option<String>,
}

/// A regular file, whole, in a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitFile {
    /// The content, encoded as `encoding` says.
    pub content: String,
    /// The path in the repository.
    pub path: String,
    /// `base64` or `utf-8`.
    #[serde(default)]
    pub encoding: Option<String>,
}

/// An LFS file in a commit: only its name, the content was sent before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitLfsFile {
    /// The path in the repository.
    pub path: String,
    /// Always `sha256`.
    #[serde(default)]
    pub algo: Option<String>,
    /// The content's SHA-256 in hex.
    pub oid: String,
    /// The content's size; copies leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A path in a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitPath {
    /// The path in the repository.
    pub path: String,
}

/// A copy inside the repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitCopy {
    /// Where to.
    pub path: String,
    /// Where from.
    pub src_path: String,
    /// At which revision; the commit's parent where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_revision: Option<String>,
}

/// One line of a commit's body.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "key", content = "value", rename_all = "camelCase")]
pub enum CommitLine {
    /// The first line.
    Header(CommitHeader),
    /// Add or replace a regular file.
    File(CommitFile),
    /// Add or replace an LFS file.
    LfsFile(CommitLfsFile),
    /// Delete one file.
    DeletedFile(CommitPath),
    /// Delete everything below a folder.
    DeletedFolder(CommitPath),
    /// Copy a file.
    CopyFile(CommitCopy),
}

/// The answer of a landed commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitAnswer {
    /// The new commit, 40 hex digits on the live Hub, 64 on others.
    pub commit_oid: String,
    /// Its page; relative on some hubs.
    #[serde(default)]
    pub commit_url: Option<String>,
    /// The pull request's page, where one was asked for.
    #[serde(default)]
    pub pull_request_url: Option<String>,
}

/// The little of a revision's information that the client needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionInfo {
    /// `ns/name` as the hub writes it now, also after a rename.
    #[serde(default)]
    pub id: Option<String>,
    /// The commit.
    #[serde(default)]
    pub sha: Option<String>,
    /// When the repository last changed, RFC 3339.
    #[serde(default)]
    pub last_modified: Option<String>,
    /// Whether only its owners see it.
    #[serde(default)]
    pub private: Option<bool>,
    /// Bytes that the repository takes, as the hub counts them.
    #[serde(default)]
    pub used_storage: Option<u64>,
}

/// The part of whoami that the client needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The account.
    pub name: String,
    /// The organizations it belongs to.
    #[serde(default)]
    pub orgs: Vec<WhoOrg>,
    /// How it proved itself.
    #[serde(default)]
    pub auth: Option<WhoAuth>,
}

/// An organization in whoami.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoOrg {
    /// The namespace.
    pub name: String,
    /// `admin`, `write`, `contributor`, `read`.
    #[serde(default)]
    pub role_in_org: Option<String>,
}

/// The token part of whoami.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoAuth {
    /// The token's description, never the token.
    #[serde(default)]
    pub access_token: Option<WhoToken>,
}

/// A token's description.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoToken {
    /// `read`, `write` or `fineGrained`.
    #[serde(default)]
    pub role: Option<String>,
}

/// The body of `POST validate-yaml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidateYaml {
    /// The whole README.
    pub content: String,
    /// `model`, `dataset` or `space`.
    #[serde(default)]
    pub repo_type: Option<String>,
}

/// One remark of validate-yaml.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct YamlRemark {
    /// In words.
    #[serde(default)]
    pub message: String,
}

/// The answer of `POST validate-yaml`, on 200 and on 400.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct YamlAnswer {
    /// What makes the hub refuse the file.
    #[serde(default)]
    pub errors: Vec<YamlRemark>,
    /// What it only complains of.
    #[serde(default)]
    pub warnings: Vec<YamlRemark>,
}
