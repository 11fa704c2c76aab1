//! What goes wrong, as data: a kind (which decides the exit code), a message, causes, a place and a hint.
//!
//! Knows nothing of terminals: `ui` renders it. Messages speak lower case, name the thing in backticks, say what was
//! expected and what was found, and carry no final period. No secret may be put into one.

use std::fmt;
use std::path::Path;

/// Shorthand used by every module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of failure this is. The one documented table of exit codes is [`ErrorKind::exit_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A stage failed: its program, its input's content, or its output.
    Stage,
    /// A stage's runtime had not enough memory for what it was given at once; with less it may do.
    OutOfMemory,
    /// A gate refused, or could not be evaluated.
    Gate,
    /// The command line is wrong.
    Usage,
    /// The manifest is wrong.
    Manifest,
    /// `plan --check` found work to do. Not a failure: it only carries the exit code.
    WorkToDo,
    /// The Hub refused, or could not be reached.
    Hub,
    /// The remote is neither what the last publish left nor what our own interrupted publish intended.
    Drift,
    /// Another process holds the project's lock and `--no-wait` was given.
    Locked,
    /// The store or the file system failed (permission, disk full).
    Io,
    /// A bug of hfbuild itself.
    Bug,
    /// Stopped by SIGINT.
    Interrupted,
    /// Stopped by SIGTERM.
    Terminated,
}

impl ErrorKind {
    /// The process's exit code for this kind: 0 done; 1 a stage or gate failed; 2 usage or manifest; 3 `plan --check`
    /// found work; 4 the Hub refused or is unreachable; 5 drift; 6 locked with --no-wait; 70 a bug of ours;
    /// 130 and 143 interrupted.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Stage | ErrorKind::OutOfMemory | ErrorKind::Gate | ErrorKind::Io => 1,
            ErrorKind::Usage | ErrorKind::Manifest => 2,
            ErrorKind::WorkToDo => 3,
            ErrorKind::Hub => 4,
            ErrorKind::Drift => 5,
            ErrorKind::Locked => 6,
            ErrorKind::Bug => 70,
            ErrorKind::Interrupted => 130,
            ErrorKind::Terminated => 143,
        }
    }

    /// Which of several failures decides the exit code: 5 before 4 before 1 (the design's section 6); an interrupt
    /// and a bug go before all.
    pub fn rank(self) -> u8 {
        match self {
            ErrorKind::Bug => 0,
            ErrorKind::Interrupted | ErrorKind::Terminated => 1,
            ErrorKind::Drift => 2,
            ErrorKind::Hub => 3,
            ErrorKind::Manifest | ErrorKind::Usage => 4,
            ErrorKind::Locked => 5,
            ErrorKind::Stage | ErrorKind::OutOfMemory | ErrorKind::Gate | ErrorKind::Io => 6,
            ErrorKind::WorkToDo => 7,
        }
    }
}

/// A place in a text file, for the excerpt below the message. `start..end` are byte offsets into `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name as the user knows it, e.g. `publish.toml`.
    pub file: String,
    /// The whole text of the file.
    pub source: std::sync::Arc<str>,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// One failure. Build it with [`Error::new`] or a shorthand, then add `.hint(..)`, `.cause(..)`, `.at(..)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    kind: ErrorKind,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    place: Option<Place>,
    also: Vec<Error>,
}

impl Error {
    /// A failure of `kind` with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), causes: vec![], hint: None, place: None, also: vec![] }))
    }

    /// A stage's failure.
    pub fn stage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Stage, message)
    }

    /// The Hub's failure.
    pub fn hub(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Hub, message)
    }

    /// A bug of ours.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message).hint("this is a bug of hfbuild: please report it with this message")
    }

    /// A failed effect on a path: `verb` is what was tried, e.g. "read". Keeps verb, path and cause.
    pub fn io(verb: &str, path: &Path, cause: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {verb} `{}`", path.display())).cause(cause.to_string())
    }

    /// Adds the one hint, shown after a blank line.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a cause, shown indented as `caused by:`.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.causes.push(cause.into());
        self
    }

    /// Adds the place in a file.
    pub fn at(mut self, place: Place) -> Self {
        self.0.place = Some(place);
        self
    }

    /// Puts words before the message: `samples[Cat]: ...`.
    pub fn within(mut self, what: &str) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// The same failure under another kind.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Further failures of the same operation, each shown in full (several mistakes in one manifest, say).
    pub fn also(mut self, others: Vec<Error>) -> Self {
        self.0.also.extend(others);
        self
    }

    /// Its class.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The causes, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }
    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// The place, if there is one.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }
    /// Further failures of the same operation.
    pub fn others(&self) -> &[Error] {
        &self.0.also
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        self.0.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Error {}

/// `file.read(..).on("read", path)?`: an I/O result that keeps its verb and path.
pub trait OnPath<T> {
    /// Turns the error into an [`Error`] that names verb and path.
    fn on(self, verb: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> OnPath<T> for std::io::Result<T> {
    fn on(self, verb: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::io(verb, path.as_ref(), &e))
    }
}
