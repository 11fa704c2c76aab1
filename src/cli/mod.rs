//! The command line: argument types, and one short function a command.
//!
//! Parses, calls the engine, hands what comes back to `ui`. Decides nothing of its own.

mod build;
mod card;
mod check;
mod diff;
mod doctor;
mod history;
mod out;
mod past;
mod rollback;
mod show;
mod store;
mod verify;

use crate::core::error::{Error, ErrorKind};
use crate::core::manifest::overlay::Settings;
use crate::exec::guard;
use crate::exec::targets::Flags;
use clap::{Args, Parser, Subcommand};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Publishes a model to the Hugging Face Hub, running only what changed.
#[derive(Debug, Parser)]
#[command(name = "hfbuild", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do; without it: build everything and publish.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Everything that `build` takes.
    #[command(flatten)]
    pub build: BuildArgs,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The project's root, with its publish.toml
    #[arg(short = 'C', long = "project", global = true, default_value = ".", value_name = "DIR")]
    pub project: PathBuf,
    /// The hub's URL, or `embedded` for the local hub under cache/
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The repo on the hub, `namespace/name`, instead of [hub]'s
    #[arg(long, global = true, value_name = "REPO")]
    pub repo: Option<String>,
    /// Lay [profile.NAME] of the manifest over its [hub] and [params]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Give a parameter another value, in TOML or as a bare string (may be given several times)
    #[arg(long, global = true, value_name = "params.NAME=VALUE")]
    pub set: Vec<String>,
    /// Say more: every shard, every reason
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say only what is wrong, and the last line
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Global {
    /// What this call lays over the manifest.
    pub fn settings(&self) -> Settings {
        Settings { profile: self.profile.clone(), set: self.set.clone() }
    }
    /// Where this call publishes to.
    pub fn flags(&self) -> Flags<'_> {
        Flags { endpoint: self.endpoint.as_deref(), repo: self.repo.as_deref() }
    }
}

/// Options of a build.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct BuildArgs {
    /// Stages side by side (default: as many as there are cores)
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Go on with what does not depend on a failure
    #[arg(short, long)]
    pub keep_going: bool,
    /// Fail (exit code 6) where another hfbuild builds this project, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
    /// Run this artifact even if it is up to date (may be given several times)
    #[arg(long, value_name = "ARTIFACT")]
    pub force: Vec<String>,
    /// Publish over a remote that was changed by others
    #[arg(long)]
    pub overwrite: bool,
    /// Open pull requests instead of committing
    #[arg(long)]
    pub pr: bool,
    /// Ask no hub: build what can be built, and publish nothing
    #[arg(long, conflicts_with_all = ["overwrite", "pr", "allow_regression"])]
    pub offline: bool,
    /// Publish where a gate over `published` refuses; the published record says so
    #[arg(long)]
    pub allow_regression: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build artifacts and what they need; publish where one of them is a publish
    Build {
        /// Artifacts, or single shards: `samples[Siamese]` (default: all)
        targets: Vec<String>,
        #[command(flatten)]
        args: BuildArgs,
    },
    /// Say what a build would run, why, and what would be sent
    Plan {
        /// Artifacts (default: all)
        targets: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Exit with 3 where there is work to do
        #[arg(long)]
        check: bool,
        /// Ask no hub: plan against what this machine published last
        #[arg(long)]
        offline: bool,
        /// Plan as if this artifact were forced
        #[arg(long, value_name = "ARTIFACT")]
        force: Vec<String>,
        /// Plan pull requests instead of commits
        #[arg(long)]
        pr: bool,
    },
    /// Say what an artifact depends on, what changed, and what it made last
    Explain {
        /// The artifact, or a shard
        artifact: String,
    },
    /// Ask the gates alone, over what is known now; or whether artifacts come out the same twice
    Check {
        /// Run these artifacts (or shards) twice and compare, without keeping anything
        #[arg(long, value_name = "ARTIFACT", num_args = 1..)]
        determinism: Vec<String>,
    },
    /// Print the model card as it was built last
    Card {
        /// Render it for the terminal
        #[arg(long)]
        preview: bool,
    },
    /// Say what was built and published last, and whether it still holds
    Status {
        /// Ask no hub: say what this machine knows
        #[arg(long)]
        offline: bool,
    },
    /// Show what a publish would change, file by file
    Diff {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Prove by digest that the remote is what was published
    Verify {
        /// Download every file and hash it
        #[arg(long)]
        full: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List what was published, newest first
    History {
        /// So many of them
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        most: usize,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Ask no hub: list what this machine published
        #[arg(long)]
        offline: bool,
    },
    /// Publish an earlier version again, in one commit
    Rollback(rollback::RollbackArgs),
    /// Print the graph as a mermaid flowchart
    Graph,
    /// Print the facts of a .pt, .safetensors, .onnx or .png file
    Inspect {
        /// The file
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of publish.toml
    Schema,
    /// Remove the cache (what was published, and the embedded hub, stay)
    Clean,
    /// Trim the cache to a size, least recently used first; what the manifest needs stays
    Gc {
        /// The size: `20GB`, `512MiB`
        #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
        max_size: String,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// The cache's own content
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Say which runtimes and devices are here, and what each stage that runs a graph would use
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Runtimes that are no part of hfbuild
    Runtime {
        #[command(subcommand)]
        command: RuntimeCommand,
    },
    /// The embedded hub
    Hub {
        #[command(subcommand)]
        command: HubCommand,
    },
}

/// Commands of the cache.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read every blob back; remove what is damaged, so that the next build makes it again
    Verify,
}

/// Commands of runtimes.
#[derive(Debug, Subcommand)]
pub enum RuntimeCommand {
    /// Fetch a runtime with pip, at a pinned version, and put it under cache/
    Install {
        runtime: Installable,
        /// With CUDA, and the parts of CUDA that it needs (about 1.5 GB)
        #[arg(long)]
        gpu: bool,
    },
    /// Take it away again
    Remove { runtime: Installable },
}

/// What can be installed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Installable {
    /// libonnxruntime
    Onnxruntime,
}

/// Commands of the embedded hub.
#[derive(Debug, Subcommand)]
pub enum HubCommand {
    /// Serve what was published to the embedded hub, until interrupted
    ///
    /// It is a staging hub: it listens on loopback only, has one account, no quotas and no TLS, and does not wait for the
    /// disk. It is no server for the internet. Whoever reaches the port may write, unless HFBUILD_HUB_TOKEN names a
    /// token: then writing and private repositories need that one.
    Serve {
        /// The port on loopback (0: any free one)
        #[arg(long, default_value_t = 7860, value_name = "PORT")]
        port: u16,
        /// Offer LFS only (what came over xet before is still served)
        #[arg(long)]
        no_xet: bool,
    },
}

/// Runs a command line; the exit code.
pub fn main(args: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let args: Vec<_> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == guard::WORD) {
        let work = args.get(2).map(PathBuf::from).unwrap_or_default();
        guard::watch(std::io::stdin().lock(), &work);
        return 0;
    }
    let sets = count_of("--set", &args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print(); // nobody to tell when the terminal is gone
            return if e.use_stderr() { ErrorKind::Usage.exit_code() } else { 0 };
        }
    };
    let result = match cli.global.set.len() == sets {
        true => dispatch(cli),
        false => Err(Error::new(ErrorKind::Usage, "`--set` stands before the command and after it")
            .hint("give them all in one place: of the others nothing would be known")),
    };
    let mut errors = match result {
        Ok(errors) => errors,
        Err(error) => vec![error],
    };
    errors.extend(out::failure());
    report(&errors)
}

/// How often an option was given; the parser of arguments drops those before a command where others follow it.
fn count_of(option: &str, args: &[std::ffi::OsString]) -> usize {
    let words = args.iter().map(|a| a.to_str().unwrap_or_default()).take_while(|word| *word != "--");
    words.filter(|word| word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))).count()
}

fn dispatch(cli: Cli) -> Result<Vec<Error>, Error> {
    let global = &cli.global;
    if cli.command.is_some() && cli.build != BuildArgs::default() {
        return Err(Error::new(ErrorKind::Usage, "options of a build stand before the command")
            .hint("write them after it: `hfbuild build --force ARTIFACT`"));
    }
    match cli.command {
        None => build::build(global, &[], &cli.build),
        Some(Command::Build { targets, args }) => build::build(global, &targets, &args),
        Some(Command::Plan { targets, json, check, offline, force, pr }) => {
            build::plan(global, &targets, &force, &build::PlanArgs { json, check, offline, pr })
        }
        Some(Command::Explain { artifact }) => show::explain(global, &artifact),
        Some(Command::Check { determinism }) if determinism.is_empty() => check::gates(global),
        Some(Command::Check { determinism }) => check::determinism(global, &determinism),
        Some(Command::Card { preview }) => card::card(global, preview),
        Some(Command::Status { offline }) => show::status(global, offline),
        Some(Command::Diff { json }) => diff::diff(global, json),
        Some(Command::Verify { full, json }) => verify::verify(global, full, json),
        Some(Command::History { most, json, offline }) => history::history(global, most, json, offline),
        Some(Command::Rollback(args)) => rollback::rollback(global, &args),
        Some(Command::Graph) => show::graph(global),
        Some(Command::Inspect { file, json }) => show::inspect(&file, json),
        Some(Command::Schema) => show::schema(),
        Some(Command::Clean) => build::clean(global),
        Some(Command::Gc { max_size, dry_run }) => store::gc(global, &max_size, dry_run),
        Some(Command::Store { command: StoreCommand::Verify }) => store::verify(global),
        Some(Command::Doctor { json }) => doctor::doctor(global, json),
        Some(Command::Runtime { command: RuntimeCommand::Install { runtime: Installable::Onnxruntime, gpu } }) => {
            doctor::install(global, gpu)
        }
        Some(Command::Runtime { command: RuntimeCommand::Remove { runtime: Installable::Onnxruntime } }) => {
            doctor::remove(global)
        }
        Some(Command::Hub { command: HubCommand::Serve { port, no_xet } }) => show::serve(global, port, !no_xet),
    }
    .map(|()| vec![])
    .or_else(|failure| match failure {
        Failure::One(error) => Err(error),
        Failure::Many(errors) => Ok(errors),
    })
}

/// One error, or all that a build came to.
#[derive(Debug)]
pub enum Failure {
    /// The command itself failed.
    One(Error),
    /// Stages, gates or publishes failed; their errors.
    Many(Vec<Error>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::One(error)
    }
}

fn report(errors: &[Error]) -> u8 {
    use std::io::{IsTerminal, Write};
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let told = errors.iter().filter(|e| e.kind() != ErrorKind::WorkToDo && !e.message().is_empty());
    for error in told {
        let _ = writeln!(std::io::stderr(), "\n{}", crate::ui::error::render(error, colour).trim_end());
    }
    errors.iter().map(Error::kind).min_by_key(|k| k.rank()).map_or(0, ErrorKind::exit_code)
}
