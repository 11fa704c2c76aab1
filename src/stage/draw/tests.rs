use super::*;
use crate::core::error::ErrorKind;
use crate::core::parts::{Kept, Parts};
use crate::core::runtime::{DeviceKind, Used};
use crate::model::runtime::{Data, Input, Output, Session};
use crate::stage::sessions::{Key, Sessions};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A device with room for so many rows, which notes the rows of each run, and fails where `fails_at` runs were.
struct Device {
    rows: Arc<Mutex<Vec<usize>>>,
    room: usize,
    fails_at: usize,
}

impl Session for Device {
    fn run(&mut self, inputs: &[Input<'_>], _: &str) -> Result<Output> {
        let shape = inputs[0].shape.clone();
        let mut rows = self.rows.lock().unwrap();
        if rows.len() == self.fails_at {
            return Err(Error::stage("the device fell off the bus"));
        }
        rows.push(shape[0]);
        if shape[0] > self.room {
            return Err(Error::new(ErrorKind::OutOfMemory, "the device has not enough memory").cause("4 GB are wanted"));
        }
        let Data::F32(noise) = inputs[0].data else { panic!("noise is f32") };
        Ok(Output { values: noise.iter().map(|x| -x / 2.0).collect(), shape })
    }
    fn used(&self) -> Used {
        Used { runtime: "fake".into(), version: "1".into(), device: DeviceKind::Cuda, detail: None, instead: None }
    }
}

/// What is kept, by what drew it and its name.
type All = BTreeMap<(String, String), Vec<u8>>;

/// Parts in memory.
#[derive(Default, Clone)]
struct Memory(Arc<Mutex<All>>);

impl Parts for Memory {
    fn keep(&self, by: &str, name: &str, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().insert((by.into(), name.into()), bytes.into());
        Ok(())
    }
    fn kept(&self, by: &str) -> Result<Kept> {
        let all = self.0.lock().unwrap();
        let mut kept = Kept::default();
        for ((maker, name), bytes) in all.iter() {
            match maker == by {
                true => drop(kept.parts.insert(name.clone(), bytes.clone())),
                false => drop(kept.others.insert(maker.clone())),
            }
        }
        Ok(kept)
    }
}

/// A run: where it works, what it keeps, and what the device did.
struct Run {
    folder: tempfile::TempDir,
    parts: Memory,
    sessions: Sessions,
    rows: Arc<Mutex<Vec<usize>>>,
}

impl Run {
    fn new() -> Run {
        Run {
            folder: tempfile::tempdir().unwrap(),
            parts: Memory::default(),
            sessions: Sessions::default(),
            rows: Arc::default(),
        }
    }

    fn draw(&self, count: usize, batch: Option<usize>, by: &str, room: usize, fails_at: usize) -> Result<Drawn> {
        let mut workspace = Workspace::new(self.folder.path().join("work"), self.folder.path().join("log"));
        workspace.parts = Some(Box::new(self.parts.clone()));
        workspace.batch = batch;
        let key = Key { graph: Digest::of(b"g"), runtime: by.into(), device: "cuda:0".into(), threads: None };
        let open = || Ok(Box::new(Device { rows: self.rows.clone(), room, fails_at }) as Box<dyn Session>);
        let mut lent = self.sessions.open(key, open)?;
        lent.by = by.into();
        let (seed, guidance) = (3, Some(1.5));
        let spec = SampleSpec { label: 1, null_label: 2, guidance, steps: 2, seed, first: 0, count, shape: [3, 4, 4] };
        draw(&workspace, &mut lent, &spec, "cat")
    }
    fn rows(&self) -> Vec<usize> {
        std::mem::take(&mut *self.rows.lock().unwrap())
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// All but the seconds.
fn made(drawn: &Drawn) -> (&[Picture], &[Picture], &[Digest]) {
    (&drawn.pictures, &drawn.noise, &drawn.files)
}

const ROOMY: usize = 1000;
const NEVER: usize = 1000;

#[test]
fn guidance_is_one_doubled_batch_and_never_two_calls() {
    let run = Run::new();
    run.draw(20, None, "a", ROOMY, NEVER).unwrap();
    assert_eq!(run.rows(), [16, 16, 16, 16, 8, 8]);
}

#[test]
fn files_hold_the_pictures_and_their_digests_are_those_of_the_files() {
    let run = Run::new();
    let drawn = run.draw(5, Some(2), "a", ROOMY, NEVER).unwrap();
    for k in 0..5 {
        let file = std::fs::read(run.folder.path().join(format!("work/out/cat/{k}.png"))).unwrap();
        assert_eq!((sample::read_png(&file).unwrap(), Digest::of(&file)), (drawn.pictures[k].clone(), drawn.files[k]));
    }
    assert_ne!(drawn.pictures, drawn.noise);
    assert!(drawn.times.drawing >= drawn.times.graph && drawn.times.graph > 0.0);
}

#[test]
fn a_run_that_fails_in_any_step_loses_its_batch_and_no_other() {
    let whole = Run::new();
    let expected = whole.draw(7, Some(2), "a", ROOMY, NEVER).unwrap();
    let all = whole.rows();
    for fails_at in 0..all.len() {
        let run = Run::new();
        assert!(run.draw(7, Some(2), "a", ROOMY, fails_at).unwrap_err().message().contains("fell off the bus"));
        let kept = fails_at / 2;
        assert_eq!(run.parts.0.lock().unwrap().len(), kept, "failed at {fails_at}");
        run.rows();
        let resumed = run.draw(7, Some(2), "a", ROOMY, NEVER).unwrap();
        assert_eq!(made(&resumed), made(&expected));
        assert_eq!(run.rows(), all[2 * kept..], "failed at {fails_at}");
        let says = format!("goes on after {} of 7 pictures", 2 * kept);
        assert_eq!(run.log().contains(&says), kept > 0, "{}", run.log());
    }
}

#[test]
fn the_seconds_of_a_resumed_label_are_those_of_all_its_pictures() {
    let run = Run::new();
    let first = run.draw(4, Some(2), "a", ROOMY, NEVER).unwrap().times;
    assert_eq!(run.draw(4, Some(2), "a", ROOMY, NEVER).unwrap().times, first);
    let of_nothing = run.rows().len();
    assert_eq!(of_nothing, 4, "the second run draws nothing");
}

#[test]
fn what_another_runtime_drew_is_not_used() {
    let run = Run::new();
    run.draw(4, Some(2), "a", ROOMY, 2).unwrap_err();
    run.rows();
    run.draw(4, Some(2), "b", ROOMY, NEVER).unwrap();
    assert_eq!(run.rows(), [4, 4, 4, 4]);
    assert!(run.log().contains("made by a is left alone: this run is by b"), "{}", run.log());
}

#[test]
fn another_batch_finds_what_was_kept_and_draws_the_same() {
    let expected = Run::new().draw(7, None, "a", ROOMY, NEVER).unwrap();
    let run = Run::new();
    run.draw(7, Some(3), "a", ROOMY, 3).unwrap_err();
    run.rows();
    assert_eq!(made(&run.draw(7, Some(2), "a", ROOMY, NEVER).unwrap()), made(&expected));
    assert_eq!(run.rows(), [4, 4, 4, 4]);
}

#[test]
fn a_memory_that_is_too_small_halves_the_batch_and_it_stays_so() {
    let expected = Run::new().draw(12, None, "a", ROOMY, NEVER).unwrap();
    let run = Run::new();
    assert_eq!(made(&run.draw(12, None, "a", 5, NEVER).unwrap()), made(&expected));
    assert_eq!(run.rows(), [[16, 8].to_vec(), vec![4; 12]].concat());
    assert!(run.log().contains("the memory does not hold a batch of 8"), "{}", run.log());
    *run.parts.0.lock().unwrap() = BTreeMap::new();
    run.draw(4, None, "a", 5, NEVER).unwrap();
    assert_eq!(run.rows(), [4; 4], "the next label of the build knows");
}

#[test]
fn a_device_that_does_not_hold_one_picture_is_an_error_that_says_so() {
    let run = Run::new();
    let error = run.draw(4, None, "a", 1, NEVER).unwrap_err();
    assert_eq!(run.rows(), [8, 4, 2]);
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("not enough memory") && error.causes() == ["4 GB are wanted"], "{error}");
    assert!(error.hint_text().unwrap().contains("`batch`"), "{error:?}");
}

#[test]
fn an_encoder_that_cannot_write_ends_the_run_with_its_own_error() {
    let run = Run::new();
    std::fs::create_dir_all(run.folder.path().join("work/out/cat/1.png")).unwrap();
    let error = run.draw(40, Some(1), "a", ROOMY, NEVER).unwrap_err();
    assert!(error.message().contains("cannot write") && error.message().contains("1.png"), "{error}");
    assert!(run.rows().len() < 80, "it did not draw to the end");
}
