//! The one test binary. Each file is a subject; each test is named after the fact that it proves.

mod support;

mod bad_input;
mod card;
mod check;
mod checklist;
mod commands;
mod conformance;
mod crash;
mod damage;
mod evaluation;
mod every_effect;
mod gates;
mod graphs;
mod hub_python;
mod hub_routes;
mod hubs;
mod laws;
mod onnx;
mod publish;
mod python;
mod readme;
mod regressions;
mod replay;
mod resources;
mod settings;
mod store;
mod story;
mod tidy;
mod together;
mod weights;
mod xet;
