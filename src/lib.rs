//! hfbuild: a declarative build system that publishes a model to the Hugging Face Hub.
//!
//! # The way of the data
//! `publish.toml` -> [`core::manifest`] (checked types with places) -> [`stage`] (each kind declares what it takes and
//! makes) -> [`core::graph`] -> [`exec::observe`] and [`exec::remote`] (digests, places, environment, the remote's head)
//! -> [`core::plan`] (pure: a verdict a node) -> [`exec::drive`] (runs, records) -> [`exec::publish`] (one commit).
//!
//! # Words
//! *artifact*, *stage*, *kind*; *action*: all that a result may depend on, and its digest; *receipt*: what an action made
//! and measured; *facts*: measured values bound to what they were measured on; *verdict*: up to date, restore, run,
//! pending, blocked; *early cutoff*: an output that comes out identical stops the wave; *CAS*: blobs by digest.
//!
//! # Invariants
//! - [`core`] does no I/O, knows no clock and no environment, and prints nothing. `plan` and `build` call one `decide`.
//! - A receipt is written after its blobs; a blob enters by rename; nothing is cached that failed.
//! - An intent is on disk before its commit is sent; a commit always names its parent.
//! - What is published comes from the CAS, verified by digest, never from `dist/`.
//! - A gate that cannot be evaluated is refused.
//!
//! # Who may use whom
//! main -> cli -> exec, ui, store, hub, model; exec -> stage, store, hub, core; stage -> model, core; store, hub, ui, model ->
//! core; bin -> model, core; core -> nothing of ours. The test `tidy` holds these arrows. `bin` is `hfbuild-torch`, a program of
//! its own that runs libtorch ([`model::torch`]).
//!
//! # How to add a kind
//! One file in [`stage`], one word in [`stage::KINDS`], one transcript in `tests/`.

pub mod cli;
pub mod core;
pub mod exec;
pub mod hub;
pub mod model;
pub mod process;
pub mod stage;
pub mod store;
pub mod ui;
