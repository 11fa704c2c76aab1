//! ONNX graphs: emitted from weights ([`emit`]), and read back to say what they are ([`import`]).
//!
//! The messages are prost structs written by hand ([`proto`]); nothing is generated at build time.

pub mod bounds;
pub mod emit;
pub mod graph;
pub mod import;
pub mod precision;
pub mod proto;
pub mod resnet;
pub mod verify;
