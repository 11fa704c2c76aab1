//! A project in a temporary folder, the hfbuild binary, and the Python environment that tests make themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A project of its own in a temporary folder.
pub struct Project {
    dir: tempfile::TempDir,
}

/// What a run of hfbuild gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Asserts the exit code, and shows everything where it is another.
    #[track_caller]
    pub fn code(self, code: i32) -> Run {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
    /// Asserts that stderr holds a text.
    #[track_caller]
    pub fn says(self, text: &str) -> Run {
        assert!(
            self.stderr.contains(text),
            "`{text}` is not in\n--- stderr\n{}\n--- stdout\n{}",
            self.stderr,
            self.stdout
        );
        self
    }
    /// Asserts that stdout holds a text.
    #[track_caller]
    pub fn prints(self, text: &str) -> Run {
        assert!(
            self.stdout.contains(text),
            "`{text}` is not in\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
    /// Asserts that neither stream holds a text.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Run {
        let both = format!("{}{}", self.stdout, self.stderr);
        assert!(!both.contains(text), "`{text}` is in\n{both}");
        self
    }
    /// The last line of stderr that sums up.
    pub fn summary(&self) -> &str {
        self.stderr.lines().rfind(|l| l.starts_with("hfbuild: ")).unwrap_or_default()
    }
}

impl Project {
    /// An empty project.
    pub fn empty() -> Project {
        Project { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A project with this manifest.
    pub fn with(manifest: &str) -> Project {
        let project = Project::empty();
        project.write("publish.toml", manifest);
        project
    }

    /// The repository's own project: manifest, templates, licence, checkpoint. `edit` may change the manifest.
    pub fn root_model(edit: impl Fn(String) -> String) -> Project {
        let project = Project::empty();
        let manifest = std::fs::read_to_string(root().join("publish.toml")).expect("publish.toml");
        project.write("publish.toml", &edit(manifest));
        let templates = [
            "card.md.hbs",
            "inference.py.hbs",
            "handler.py.hbs",
            "requirements.txt",
            "space/README.md.hbs",
            "space/app.py.hbs",
        ];
        for file in templates.map(|name| format!("templates/{name}")) {
            project.copy(&root().join(&file), &file);
        }
        for file in ["LICENSE", "checkpoints/tinydit_final.pt", "checkpoints/classifier.pt"] {
            project.copy(&root().join(file), file);
        }
        project
    }

    /// The same with fewer and quicker pictures, for tests that are not about pictures: how far those of a label lie apart is
    /// then told by two of them, so the gate over it is wider.
    pub fn small_model() -> Project {
        Project::root_model(|m| {
            let fewer = m.replace("steps = 50", "steps = 12").replace("count = 8", "count = 2");
            fewer.replace("0.9 * published.", "0.7 * published.")
        })
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn write(&self, path: &str, text: &str) {
        let full = self.path(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
        std::fs::write(full, text).expect("a file");
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn copy(&self, from: &Path, to: &str) {
        let full = self.path(to);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
        std::fs::copy(from, full).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// The command, with an environment in which no token, no hub and no
    /// runtime of the developer's own can be found.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hfbuild"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        // nor a runtime of the developer's own
        for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command.env("HOME", self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        run(&mut self.command(args))
    }

    /// Commits in the history of the embedded hub's repo, without the hub's own first one.
    pub fn commits(&self, repo: &str) -> usize {
        history(&self.path("cache/hub"), repo)
    }

    /// Every file below a folder with its content, for comparing.
    pub fn tree(&self, folder: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
        let base = self.path(folder);
        let files = walkdir::WalkDir::new(&base).into_iter().flatten().filter(|e| e.file_type().is_file());
        files
            .map(|e| {
                let name = e.path().strip_prefix(&base).expect("below").display().to_string();
                (name, std::fs::read(e.path()).expect("a file"))
            })
            .collect()
    }
}

/// Commits that `main` of a hub's repo leads back to, without the first one. A commit that was written and never became
/// the branch's is no commit of the repo.
pub fn history(hub: &Path, repo: &str) -> usize {
    let folder = hub.join("repos/models").join(repo);
    let Ok(mut oid) = std::fs::read_to_string(folder.join("refs/heads/main")) else { return 0 };
    for n in 0.. {
        let text = std::fs::read_to_string(folder.join(format!("commits/{}.json", oid.trim()))).expect("a commit");
        let commit: serde_json::Value = serde_json::from_str(&text).expect("a commit's record");
        match commit["parents"][0].as_str() {
            Some(parent) => oid = parent.to_string(),
            None => return n,
        }
    }
    unreachable!("a history without end")
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    Run {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// The library of `tests/native/NAME.c`, to be preloaded; compiled once a process.
pub fn native(name: &str) -> PathBuf {
    static MADE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = target.join(format!("{name}.so"));
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !made.contains(name) {
        let source = root().join(format!("tests/native/{name}.c"));
        let new = target.join(format!("{name}-{}.so", std::process::id()));
        let compiled = run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&new).arg(&source));
        assert_eq!(compiled.code, 0, "{} cannot be compiled:\n{}", source.display(), compiled.stderr);
        std::fs::rename(&new, &library).expect("the library");
        made.insert(name.to_string());
    }
    library
}

/// The Python of an environment with the packages of `tests/python/requirements.txt`, made once and kept in the target
/// folder until the list changes.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| venv("venv", &root().join("tests/python/requirements.txt")))
}

/// The Python of an environment of this name with the packages of a list.
pub fn venv(name: &str, list: &Path) -> PathBuf {
    let wanted = std::fs::read_to_string(list).expect("the list of packages");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, stamp) = (venv.join("bin/python"), venv.join("installed.txt"));
    if std::fs::read_to_string(&stamp).ok().as_deref() == Some(&wanted) {
        return python;
    }
    let _ = std::fs::remove_dir_all(&venv);
    let done = |command: &mut Command| {
        let run = run(command);
        assert_eq!(run.code, 0, "the Python environment cannot be made:\n{}\n{}", run.stdout, run.stderr);
    };
    done(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    done(
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(list),
    );
    std::fs::write(&stamp, wanted).expect("the stamp");
    python
}

/// A running `hfbuild hub serve`, ended when dropped.
pub struct Served {
    child: std::process::Child,
    pub url: String,
}

impl Served {
    pub fn of(project: &Project) -> Served {
        Served::with(project, &[], &[])
    }

    /// With more options, and variables of the environment.
    pub fn with(project: &Project, options: &[&str], env: &[(&str, &str)]) -> Served {
        use std::io::BufRead;
        let mut command = project.command(&["hub", "serve", "--port", "0"]);
        command.args(options).envs(env.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the hub starts");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
        let url = line.trim().to_string();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Served { child, url }
    }

    /// The most memory that its process has held so far, in bytes.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
