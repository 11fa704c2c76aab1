//! The one test binary. Each file is a subject; each test is named after the fact that it proves.

mod support;

mod bad_input;
mod card;
mod check;
mod checklist;
mod commands;
mod crash;
mod damage;
mod evaluation;
mod every_effect;
mod gates;
mod graphs;
mod hub_python;
mod hub_routes;
mod laws;
mod leaks;
mod onnx;
mod past;
mod preflight;
mod publish;
mod pulls;
mod python;
mod readme;
mod regressions;
mod replay;
mod resources;
mod rows;
mod settings;
mod space;
mod store;
mod story;
mod targets;
mod tidy;
mod together;
mod weights;
