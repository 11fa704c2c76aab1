//! Loaded graphs, lent from one stage of a build to the next: the shards of a family load theirs once.
//!
//! A device holds the last graph that ran on it, and none beside it: what is not asked for any more makes room for what is.
//! Stages side by side on one device each get a session of their own, and one of them stays. Ends with the build. Does not
//! know how a graph is loaded.

use crate::core::digest::Digest;
use crate::core::error::{Error, ErrorKind, Result};
use crate::model::runtime::Session;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a session depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The graph's content, with its external data.
    pub graph: Digest,
    /// The runtime and its version.
    pub runtime: String,
    /// The device.
    pub device: String,
    /// Threads; `None`: as many as the runtime takes.
    pub threads: Option<usize>,
}

/// The sessions of a build that nobody uses now, by device.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<BTreeMap<String, Idle>>>);

struct Idle {
    key: Key,
    session: Box<dyn Session>,
    fits: Option<usize>,
}

/// A session that a stage has; it goes back when it is dropped.
pub struct Lent {
    key: Key,
    session: Option<Box<dyn Session>>,
    /// Whether it was loaded before.
    pub again: bool,
    /// What makes the results: partial ones of another are none of this session's.
    pub by: String,
    /// The largest batch that the device's memory is known to hold, where a larger one did not fit.
    pub fits: Option<usize>,
    home: Sessions,
}

impl Sessions {
    /// The session of this key: one that is loaded, or else a new one, for which the device's last one makes room.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(&self, key: Key, open: impl FnOnce() -> Result<Box<dyn Session>>) -> Result<Lent> {
        let idle = self.idle().remove(&key.device).filter(|idle| idle.key == key);
        let (again, fits) = (idle.is_some(), idle.as_ref().and_then(|idle| idle.fits));
        let session = idle.map_or_else(open, |idle| Ok(idle.session))?;
        let by = session.used().to_string();
        Ok(Lent { key, session: Some(session), again, by, fits, home: self.clone() })
    }
    /// Unloads what nobody uses.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }
    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a map is whole after every step
    }
}

impl Lent {
    /// The session itself.
    pub fn session(&mut self) -> Result<&mut dyn Session> {
        match self.session.as_deref_mut() {
            Some(session) => Ok(session),
            None => Err(Error::bug("a session that was given back")),
        }
    }
    /// Hands a result on; where it is a failure of the graph or its device, the session is unloaded, for it may be broken.
    pub fn checked<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::Stage | ErrorKind::OutOfMemory)) {
            self.session = None;
        }
        result
    }
    /// Gives the session back; it cannot be used here any more.
    pub fn give_back(&mut self) {
        let Some(session) = self.session.take() else { return };
        let idle = Idle { key: self.key.clone(), session, fits: self.fits };
        let before = self.home.idle().insert(self.key.device.clone(), idle);
        drop(before); // unloaded after the lock is free
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runtime::{DeviceKind, Used};
    use crate::model::runtime::{Input, Output};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// A graph that counts how many of its kind are loaded.
    struct Counted(Arc<AtomicUsize>);

    impl Session for Counted {
        fn run(&mut self, _: &[Input<'_>], _: &str) -> Result<Output> {
            Err(Error::stage("it runs nothing"))
        }
        fn used(&self) -> Used {
            Used { runtime: "rten".into(), version: "1".into(), device: DeviceKind::Cuda, detail: None, instead: None }
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    struct Machine {
        sessions: Sessions,
        loads: AtomicUsize,
        loaded: Arc<AtomicUsize>,
    }

    impl Machine {
        fn new() -> Machine {
            Machine { sessions: Sessions::default(), loads: AtomicUsize::new(0), loaded: Arc::default() }
        }
        fn lend(&self, graph: &str, device: &str, threads: usize) -> Lent {
            let (graph, device) = (Digest::of(graph.as_bytes()), device.to_string());
            let key = Key { graph, runtime: "rten 1".into(), device, threads: Some(threads) };
            let open = || {
                self.loads.fetch_add(1, SeqCst);
                self.loaded.fetch_add(1, SeqCst);
                Ok(Box::new(Counted(self.loaded.clone())) as Box<dyn Session>)
            };
            self.sessions.open(key, open).expect("a session")
        }
        /// How often a graph was loaded, and how many are.
        fn count(&self) -> [usize; 2] {
            [self.loads.load(SeqCst), self.loaded.load(SeqCst)]
        }
    }

    #[test]
    fn thirteen_shards_one_after_the_other_load_their_graph_once() {
        let machine = Machine::new();
        let again = (0..13).filter(|_| machine.lend("g", "cpu", 2).again).count();
        assert_eq!((again, machine.count()), (12, [1, 1]));
    }

    #[test]
    fn a_device_holds_the_last_graph_and_each_device_its_own() {
        let machine = Machine::new();
        for (graph, device) in [("g", "cuda:0"), ("g", "cuda:1"), ("h", "cuda:0"), ("h", "cuda:0"), ("g", "cuda:1")] {
            drop(machine.lend(graph, device, 2));
        }
        assert_eq!(machine.count(), [3, 2]);
        drop(machine.lend("h", "cuda:0", 1));
        assert_eq!(machine.count(), [4, 2], "other threads are another session");
        machine.sessions.clear();
        assert_eq!(machine.count(), [4, 0]);
    }

    #[test]
    fn a_session_that_failed_is_loaded_anew_and_one_that_was_interrupted_is_not() {
        let machine = Machine::new();
        for (kind, loads) in [(ErrorKind::Interrupted, 1), (ErrorKind::Stage, 1), (ErrorKind::OutOfMemory, 2)] {
            let mut lent = machine.lend("g", "cuda:0", 2);
            assert_eq!(machine.count(), [loads, 1], "before {kind:?}");
            lent.checked(Err::<(), _>(Error::new(kind, "it ended"))).expect_err("handed on");
        }
        assert_eq!(machine.count(), [2, 0]);
    }

    #[test]
    fn stages_side_by_side_on_a_device_have_a_session_each_and_one_stays_with_what_it_learnt() {
        let machine = Machine::new();
        let (mut one, two) = (machine.lend("g", "cuda:0", 2), machine.lend("g", "cuda:0", 2));
        assert_eq!(machine.count(), [2, 2]);
        one.fits = Some(4);
        drop(two);
        drop(one);
        assert_eq!(machine.count(), [2, 1]);
        assert_eq!(machine.lend("g", "cuda:0", 2).fits, Some(4));
    }
}
