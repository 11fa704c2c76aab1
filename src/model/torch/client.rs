//! hfbuild's side of the pipe: starts a worker, asks, and waits no longer than it said.
//!
//! Knows processes and pipes; what is said is [`super::protocol`]'s. A worker ends when it is dropped, and by itself when
//! hfbuild is gone, for then its input ends.

use super::NAME;
use super::protocol::{self, Hello, PREFIX, PROTOCOL, Reply, Request, Subject, TORCH};
use crate::core::error::{Error, OnPath, Result};
use crate::core::runtime::DeviceKind;
use crate::model::runtime::{Input, Output};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The environment that a worker gets, beside what is set here: where programs and libraries lie, which devices there are.
const HANDED_THROUGH: [&str; 8] =
    ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"];
/// What is set for it. Numbers are rounded to 19 bits otherwise where a device multiplies, too coarse for a reference; and
/// libtorch's threads spin while they wait, which made it eight times slower on a machine that had other work too.
const SET: [(&str, &str); 2] = [("NVIDIA_TF32_OVERRIDE", "0"), ("OMP_WAIT_POLICY", "PASSIVE")];
/// How long a worker whose pipe has ended may take to be gone, so that its exit can be told.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of what it said on stderr that are looked at, and lines that are shown.
const TAIL: (u64, usize) = (16 << 10, 6);
/// A reply's data grows by at most so much at a time: its claimed length alone takes no memory.
const PIECE: usize = 16 << 20;

/// How long a worker may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To start, load libtorch and say who it is.
    pub hello: Duration,
    /// To load a network.
    pub open: Duration,
    /// To run it once.
    pub run: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Limits { hello: minutes(2), open: minutes(10), run: minutes(30) }
    }
}

/// A running worker.
pub struct Worker {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// What it says to people.
    said: File,
    hello: Hello,
    limits: Limits,
    /// The pipe cannot be used any more: it was left in the middle of a message.
    broken: bool,
}

impl Worker {
    /// Starts `program` and asks who it is. `gpus`: the devices that it may see, as `CUDA_VISIBLE_DEVICES` takes them; by
    /// default those of this process.
    ///
    /// # Errors
    /// It cannot be started, dies, hangs, says nonsense, or is of another version.
    pub fn start(program: &Path, limits: Limits, gpus: Option<&[String]>) -> Result<Worker> {
        let said = tempfile::tempfile().on("create", std::env::temp_dir())?;
        let mut command = Command::new(program);
        command.env_clear().envs(HANDED_THROUGH.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        command.envs(SET);
        if let Some(gpus) = gpus {
            command.env("CUDA_VISIBLE_DEVICES", gpus.join(","));
        }
        // a group of its own: a Ctrl-C is hfbuild's to handle
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let cannot = |e: std::io::Error| {
            Error::stage(format!("cannot start the worker `{}`", program.display())).cause(e.to_string())
        };
        let mut child = command.stderr(said.try_clone().map_err(cannot)?).spawn().map_err(cannot)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::bug("a worker was started without its pipes"));
        };
        let unknown = Hello { protocol: 0, torch: String::new(), cuda_devices: 0, no_cuda: None, threads: 0 };
        let mut worker = Worker { child, to, from, said, hello: unknown, limits, broken: false };
        never_blocks(worker.to.as_fd())?;
        never_blocks(worker.from.as_fd())?;
        let (reply, _) = worker.ask(&Request::Hello { protocol: PROTOCOL }, &[], limits.hello)?;
        let Reply::Hello(hello) = reply else { return Err(worker.nonsense(&reply)) };
        if hello.protocol != PROTOCOL || hello.torch != TORCH {
            let (theirs, torch) = (hello.protocol, &hello.torch);
            return Err(Error::stage(format!("the worker `{}` is of another version", program.display()))
                .cause(format!(
                    "it speaks protocol {theirs} with torch {torch}, expected protocol {PROTOCOL} with torch {TORCH}"
                ))
                .hint("build it again with `scripts/build_torch.sh`"));
        }
        worker.hello = hello;
        Ok(worker)
    }

    /// Who it is.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Loads a network.
    ///
    /// # Errors
    /// It cannot be read, is none that the worker knows, or the worker fails.
    pub fn open(&mut self, subject: Subject, device: DeviceKind, threads: Option<usize>) -> Result<()> {
        match self.ask(&Request::Open { subject, device, threads }, &[], self.limits.open)? {
            (Reply::Opened, _) => Ok(()),
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// Runs what was loaded.
    ///
    /// # Errors
    /// Inputs that do not fit, or the worker fails.
    pub fn run(&mut self, inputs: &[Input<'_>], output: &str) -> Result<Output> {
        let (tensors, data) = protocol::pack(inputs);
        let request = Request::Run { inputs: tensors, output: output.into() };
        match self.ask(&request, &data, self.limits.run)? {
            (Reply::Output { shape }, data) if shape.iter().product::<usize>() * 4 == data.len() => {
                Ok(Output { shape, values: protocol::unpack(&data) })
            }
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// One question and its answer.
    fn ask(&mut self, request: &Request, data: &[u8], limit: Duration) -> Result<(Reply, Vec<u8>)> {
        if self.broken {
            return Err(Error::stage(format!("`{NAME}` is gone")));
        }
        let until = Deadline { end: Instant::now() + limit, limit };
        let head = protocol::head(request, data.len() as u64)?;
        self.broken = true; // until the answer is whole
        let answer = self.write(&head, until).and_then(|()| self.write(data, until)).and_then(|()| self.read(until))?;
        self.broken = false;
        Ok((answer.0.ok()?, answer.1))
    }

    fn write(&mut self, mut bytes: &[u8], until: Deadline) -> Result<()> {
        while !bytes.is_empty() {
            self.ready(Way::To, until)?;
            match self.to.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(e) if is_passing(&e) => {}
                Err(_) => return Err(self.died()),
            }
        }
        Ok(())
    }

    fn read(&mut self, until: Deadline) -> Result<(Reply, Vec<u8>)> {
        let prefix = self.read_exactly(PREFIX, until)?;
        let told = prefix.first_chunk().ok_or_else(|| Error::bug("a short message")).and_then(protocol::lengths);
        let (header, data) = told.map_err(|e| self.not_understood(e))?;
        let header = self.read_exactly(header, until)?;
        let header = protocol::parse(&header).map_err(|e| self.not_understood(e))?;
        Ok((header, self.read_exactly(data, until)?))
    }

    fn read_exactly(&mut self, length: usize, until: Deadline) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < length {
            bytes.resize(length.min(at + PIECE), 0);
            self.ready(Way::From, until)?;
            match self.from.read(&mut bytes[at..]) {
                Ok(0) => return Err(self.died()),
                Ok(read) => at += read,
                Err(e) if is_passing(&e) => {}
                Err(_) => return Err(self.died()),
            }
        }
        Ok(bytes)
    }

    /// Waits until a pipe can go on.
    fn ready(&mut self, way: Way, until: Deadline) -> Result<()> {
        let left = until.end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut pipes = match way {
            Way::To => [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)],
            Way::From => [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)],
        };
        match poll(&mut pipes, timeout) {
            Ok(0) if until.end <= Instant::now() => {
                let _ = self.child.kill(); // it may have ended by itself
                Err(self
                    .told(Error::stage(format!("`{NAME}` did not answer within {:?} and was stopped", until.limit))))
            }
            _ => Ok(()), // and where it was interrupted, the pipe says that it cannot go on yet
        }
    }

    /// Its pipe has ended.
    fn died(&mut self) -> Error {
        let how = match self.ended() {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (_, Some(signal)) => format!("was ended by signal {signal}"),
                _ => "ended".into(),
            },
            None => "hung up".into(),
        };
        let error = self.told(Error::stage(format!("`{NAME}` {how} before it answered")));
        let lacks = error.causes().iter().any(|cause| cause.contains("error while loading shared libraries"));
        match lacks {
            true => error.hint(
                "is the libtorch that it was built against still there? `scripts/build_torch.sh` builds it again",
            ),
            false => error,
        }
    }

    /// How it ended, if it does within a moment.
    fn ended(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn not_understood(&mut self, why: Error) -> Error {
        let error = Error::stage(format!("`{NAME}` does not speak as it should")).cause(why.message());
        let error = why.causes().iter().fold(error, |error, cause| error.cause(cause.clone()));
        error.hint("is it the worker that belongs to this hfbuild? `scripts/build_torch.sh` builds it")
    }

    fn nonsense(&mut self, reply: &Reply) -> Error {
        self.broken = true;
        let reply = format!("{reply:?}");
        self.not_understood(Error::stage(format!("it answers `{}`", reply.chars().take(80).collect::<String>())))
    }

    /// With the end of what it said on stderr.
    fn told(&mut self, error: Error) -> Error {
        let text = tail(&mut self.said).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TAIL.1)..];
        last.iter().fold(error, |error, line| error.cause(line.trim()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it holds nothing that a kill could harm
        let _ = self.child.wait();
    }
}

enum Way {
    To,
    From,
}

#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    limit: Duration,
}

fn is_passing(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn never_blocks(pipe: BorrowedFd<'_>) -> Result<()> {
    let set = fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    set.map(drop).map_err(|e| Error::stage("cannot set up a pipe").cause(e.to_string()))
}

fn tail(said: &mut File) -> std::io::Result<String> {
    let end = said.metadata()?.len();
    said.seek(SeekFrom::Start(end.saturating_sub(TAIL.0)))?;
    let mut bytes = Vec::new();
    said.take(TAIL.0).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
