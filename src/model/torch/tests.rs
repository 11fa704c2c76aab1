//! A worker that fails in every way: each is an error that says so, and none a wait without end. Programs of the shell stand
//! in for it; the real one is in `tests/torch`.

use super::client::{Limits, Worker};
use super::protocol::{Hello, PROTOCOL, Reply, TORCH, head};
use super::{NAME, Subject, TorchSession, find_in};
use crate::core::error::Error;
use crate::core::runtime::DeviceKind;
use crate::model::runtime::{Data, Input, Session};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A worker of these lines of shell, with answers in files beside it.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn of(script: &str, answers: &[Reply]) -> Fake {
        let fake = Fake { folder: tempfile::tempdir().unwrap() };
        for (at, answer) in answers.iter().enumerate() {
            std::fs::write(fake.folder.path().join(format!("{at}")), head(answer, 0).unwrap()).unwrap();
        }
        let script = format!("#!/bin/sh\ncd '{}'\n{script}\n", fake.folder.path().display());
        std::fs::write(fake.path(), script).unwrap();
        std::fs::set_permissions(fake.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fake
    }
    fn path(&self) -> PathBuf {
        self.folder.path().join("worker")
    }
    /// The error of starting it. A file that was just written may be open in a child of another test's thread.
    fn error(&self, limits: Limits) -> Error {
        loop {
            match Worker::start(&self.path(), limits, None) {
                Ok(worker) => panic!("it started: {:?}", worker.hello()),
                Err(e) if e.to_string().contains("busy") => std::thread::yield_now(),
                Err(error) => return error,
            }
        }
    }
    fn session(&self, limits: Limits) -> TorchSession {
        loop {
            match Worker::start(&self.path(), limits, None) {
                Err(e) if e.to_string().contains("busy") => std::thread::yield_now(),
                other => return TorchSession::with(other.unwrap()),
            }
        }
    }
}

fn module() -> Subject {
    Subject::TorchScript { path: PathBuf::from("module.pt") }
}

fn hello() -> Hello {
    Hello { protocol: PROTOCOL, torch: TORCH.into(), cuda_devices: 0, no_cuda: Some("none".into()), threads: 2 }
}

/// Long enough for a loaded machine to start a shell.
fn patient() -> Limits {
    let long = Duration::from_secs(60);
    Limits { hello: long, open: long, run: long }
}

#[test]
fn a_worker_that_dies_at_the_start_is_an_error_with_its_own_words() {
    let error = Fake::of("echo 'worker: error while loading shared libraries: libcupti.so.13' >&2; exit 127", &[])
        .error(patient());
    assert!(error.message().contains("ended with exit code 127 before it answered"), "{error}");
    assert!(error.causes().iter().any(|c| c.contains("libcupti.so.13")), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("scripts/build_torch.sh")), "{error:?}");
    let error = Fake::of("kill -9 $$", &[]).error(patient());
    assert!(error.message().contains("was ended by signal 9"), "{error}");
}

#[test]
fn a_worker_that_never_answers_is_stopped_when_its_time_is_over() {
    let begun = Instant::now();
    let limits = Limits { hello: Duration::from_millis(300), ..patient() };
    let error = Fake::of("cat > /dev/null", &[]).error(limits);
    assert!(error.message().contains("did not answer within 300ms"), "{error}");
    // and one that answers half of a message
    let error = Fake::of("head -c 20 0; cat > /dev/null", &[Reply::Hello(hello())]).error(limits);
    assert!(error.message().contains("did not answer within 300ms"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_worker_that_does_not_read_is_stopped_too() {
    let limits = Limits { run: Duration::from_millis(300), ..patient() };
    // `tail` keeps the input open, and reads none of it
    let fake = Fake::of("cat 0 1; exec tail -f 0", &[Reply::Hello(hello()), Reply::Opened]);
    let mut session = fake.session(limits);
    session.open(module(), DeviceKind::Cpu, None).unwrap();
    let values = vec![0.0; 1 << 20];
    let input = Input { name: "input", shape: vec![1 << 20], data: Data::F32(&values) };
    let error = session.run(std::slice::from_ref(&input), "output").unwrap_err();
    assert!(error.message().contains("did not answer within 300ms"), "{error}");
    let error = session.run(&[input], "output").unwrap_err();
    assert!(error.message().contains("is gone"), "{error}");
}

#[test]
fn a_worker_that_hangs_up_or_prints_is_an_error() {
    let error = Fake::of("exec 1>&-; cat > /dev/null", &[]).error(patient());
    assert!(error.message().contains("hung up before it answered"), "{error}");
    let error = Fake::of("echo 'Usage: some other program'; cat > /dev/null", &[]).error(patient());
    assert!(error.message().contains("does not speak as it should"), "{error}");
    assert!(error.to_string().contains("Usage: some oth"), "{error}");
    let error = Fake::of("cat 0; cat > /dev/null", &[Reply::Opened]).error(patient());
    assert!(error.to_string().contains("it answers `Opened`"), "{error}");
}

#[test]
fn a_worker_of_another_version_is_refused() {
    for (other, said) in [
        (Hello { protocol: PROTOCOL + 1, ..hello() }, format!("protocol {} with torch {TORCH}", PROTOCOL + 1)),
        (Hello { torch: "2.9.1".into(), ..hello() }, format!("protocol {PROTOCOL} with torch 2.9.1")),
    ] {
        let error = Fake::of("cat 0; cat > /dev/null", &[Reply::Hello(other)]).error(patient());
        assert!(error.message().contains("is of another version"), "{error}");
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn what_a_worker_cannot_do_is_its_own_error_and_a_device_that_is_not_there_is_one() {
    let failed = Reply::failed(&Error::stage("libtorch cannot load it").cause("no such file").hint("mend it"), false);
    let fake = Fake::of("cat 0 1; cat > /dev/null", &[Reply::Hello(hello()), failed]);
    let mut session = fake.session(patient());
    let error = session.open(module(), DeviceKind::Cpu, None).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.hint_text()),
        ("libtorch cannot load it: no such file", Some("mend it"))
    );
    let error = session.open(module(), DeviceKind::Cuda, None).unwrap_err();
    assert!(error.to_string().contains("cannot run on CUDA here: none"), "{error}");
}

#[test]
fn no_secret_of_the_environment_reaches_the_worker() {
    // SAFETY: nothing else in these tests reads or sets this variable.
    unsafe { std::env::set_var("HFBUILD_TEST_TOKEN", "hf_not_for_a_worker") };
    let error = Fake::of("env >&2; exit 1", &[]).error(patient());
    assert!(
        error.causes().iter().any(|cause| cause.starts_with("PATH=") || cause.contains("NVIDIA_TF32_OVERRIDE=0")),
        "{error}"
    );
    assert!(!error.to_string().contains("hf_not_for_a_worker"), "{error}");
}

#[test]
fn the_worker_is_where_it_is_named_then_beside_the_executable_then_on_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let program = |place: &str| {
        let file = folder.path().join(place).join(NAME);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file
    };
    let executable = folder.path().join("bin/hfbuild");
    let path = || Some(std::env::join_paths([folder.path().join("empty"), folder.path().join("path")]).unwrap());
    let found = |named: Option<&Path>| find_in(named.map(OsString::from), Some(&executable), path());

    let error = found(None).unwrap_err();
    assert!(error.hint_text().unwrap().contains("scripts/build_torch.sh"), "{error:?}");
    let on_path = program("path");
    assert_eq!(found(None).unwrap(), on_path);
    let beside = program("bin");
    assert_eq!(found(None).unwrap(), beside);
    let elsewhere = program("elsewhere");
    assert_eq!(found(Some(&elsewhere)).unwrap(), elsewhere);
    // a name that leads nowhere is a mistake, and nothing else is taken in its place
    let error = found(Some(&folder.path().join("nowhere"))).unwrap_err();
    assert!(error.message().contains("HFBUILD_TORCH names") && error.message().contains("nowhere"), "{error}");
}
