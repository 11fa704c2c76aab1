//! Tests of `model` over the fixtures of `tests/fixtures`, and helpers for them.

mod checkpoints;
mod classifier;
mod graphs;
mod pictures;
mod support;
mod variants;
