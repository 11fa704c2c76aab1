//! The one test binary. Each file is a subject; each test is named after the fact that it proves.

mod support;

mod bad_input;
mod commands;
mod crash;
mod laws;
mod publish;
mod python;
mod readme;
mod regressions;
mod story;
mod tidy;
