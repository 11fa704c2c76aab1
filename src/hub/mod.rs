//! The Hub: what is said on the wire, the client that says it, and the embedded hub that answers.
//!
//! - [`repo`]: the name of a repository, checked by the Hub's own rules.
//! - [`protocol`]: the JSON of the wire, shared by both sides, so that they cannot drift apart.
//! - [`client`]: requests to any hub: the live one, a self-hosted one, the embedded one.
//! - [`embedded`]: a staging hub on loopback, with its storage in a folder.
//!
//! Knows nothing of manifests, plans, receipts or terminals: it publishes what it is handed and prints nothing.
//! Commits are never retried here; whoever calls keeps the journal that makes a second try safe.

pub mod client;
pub mod embedded;
pub mod protocol;
pub mod repo;

#[cfg(test)]
mod tests;

pub use client::{HubClient, Token, resolve_token, token_texts};
pub use embedded::EmbeddedHub;
pub use repo::{RepoId, RepoKind};
