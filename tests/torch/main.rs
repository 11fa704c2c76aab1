//! libtorch's worker at work: against torch's own numbers, against the plain forwards, in a project. Built with the cargo
//! feature `tch` alone; what hfbuild does where there is no worker, or a bad one, the other tests show.

#[allow(dead_code)]
#[path = "../it/support.rs"]
mod support;

mod forward;
mod project;

use hfbuild::core::runtime::DeviceKind;
use hfbuild::model::torch::{Limits, Subject, TorchSession, Worker};
use std::path::{Path, PathBuf};

/// The worker that was built with these tests.
fn worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hfbuild-torch"))
}

fn fixture(name: &str) -> PathBuf {
    support::root().join("tests/fixtures").join(name)
}

/// A worker with nothing loaded.
fn started() -> TorchSession {
    TorchSession::with(Worker::start(worker(), Limits::default(), None).expect("the worker starts"))
}

/// A network on the CPU.
fn opened(subject: Subject) -> TorchSession {
    let mut session = started();
    session.open(subject, DeviceKind::Cpu, None).expect("the network is loaded");
    session
}
