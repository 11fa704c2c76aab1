//! Tests of `model` over the fixtures of `tests/fixtures`, and helpers for them.

mod checkpoints;
mod classifier;
mod graphs;
mod pickles;
mod pictures;
mod pytorch;
mod shards;
mod support;
mod variants;
