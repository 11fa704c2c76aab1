//! What is known of models: checkpoints, tensors, the TinyDiT network, ONNX graphs, runtimes, sampling, pictures.
//!
//! The way of the data: a file is told by its content ([`magic`]), a [`checkpoint`] gives state dicts ([`tensor`]), and
//! those become a canonical [`table`], a safetensors file ([`safetensors_out`]; [`cast`] and [`shards`] of it), a `.pt`
//! ([`pytorch_out`]), a network ([`tinydit`]) or a graph
//! ([`onnx`]). A graph is run through [`runtime`]; [`sample`] integrates it from [`noise`] to [`pictures`].
//!
//! Nothing here knows of artifacts, receipts, the store, the Hub or the terminal, and nothing prints.

pub mod architecture;
pub mod cast;
pub mod checkpoint;
pub mod classifier;
mod digesting;
pub mod finite;
pub mod inspect;
pub mod magic;
pub mod matmul;
pub mod network;
pub mod noise;
pub mod onnx;
pub mod pictures;
pub mod pytorch_out;
pub mod resnet;
pub mod runtime;
pub mod safetensors_out;
pub mod sample;
pub mod shards;
mod stored;
pub mod table;
pub mod tensor;
pub mod tinydit;
pub mod torch;
pub mod torchscript;

#[cfg(test)]
mod tests;
