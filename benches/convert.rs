//! A checkpoint to safetensors by the very functions that the stage `weights` calls, part by part: `cargo bench --bench convert
//! -- CHECKPOINT.pt [raw|ema] [PAIRS]`. It says what writing alone costs, which `hfbuild` never does without digests.
//!
//! Knows nothing of stages, stores and caches; `weights.py` measures these.

use hfbuild::core::error::{Error, OnPath, Result};
use hfbuild::model::checkpoint::{Checkpoint, WeightsChoice};
use hfbuild::model::shards::{self, Wanted};
use hfbuild::model::table::TensorTable;
use hfbuild::model::tensor::StateDict;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The columns, in the order in which each round measures them. `all` is what the stage does: the table and all digests of the
/// file, taken while it is written.
const PARTS: [&str; 7] = ["cp", "write", "write + table", "all", "sha256sum", "SHA-256", "table"];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    // `cargo test --benches` and the like hand over no checkpoint: there is nothing to measure
    let Some(path) = words.first() else { return Ok(()) };
    let choice = if words.get(1).is_some_and(|word| word == "ema") { WeightsChoice::Ema } else { WeightsChoice::Raw };
    let pairs: usize = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(7);
    let folder = tempfile::tempdir().map_err(|e| Error::stage(e.to_string()))?;
    let file = Checkpoint::open(Path::new(path))?;
    let dict = file.select(choice)?;
    let (rounds, bytes) = measure(dict, folder.path(), pairs)?;
    println!("{bytes} bytes of output, {pairs} rounds; seconds of the median (least)");
    for (at, part) in PARTS.iter().enumerate() {
        let column = sorted(rounds.iter().map(|round| round[at]));
        println!("{part:<14} {:>8.3} ({:.3})", column[column.len() / 2], column[0]);
    }
    let ratio = |of: &dyn Fn(&[f64; 7]) -> f64| {
        let all = sorted(rounds.iter().map(of));
        format!("{:.2} ({:.2} to {:.2})", all[all.len() / 2], all[0], all[all.len() - 1])
    };
    println!("round by round:");
    println!("write by cp                                          {}", ratio(&|r| r[1] / r[0]));
    println!("write + table + all digests by sha256sum             {}", ratio(&|r| r[3] / r[4]));
    println!("write + table + all digests by SHA-256 of this crate {}", ratio(&|r| r[3] / r[5]));
    Ok(())
}

/// The seconds of every part of every round, and the bytes that were written.
fn measure(dict: &StateDict, folder: &Path, pairs: usize) -> Result<(Vec<[f64; 7]>, u64)> {
    let out = folder.join(shards::ONE);
    let copy = folder.join("copy");
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let table = TensorTable::of(dict)?;
    let bare = Wanted { metadata: &metadata, max: None, table: None, digest: false };
    let with_table = Wanted { table: Some(&table), ..bare };
    let whole = Wanted { digest: true, ..with_table };
    let write = |wanted| shards::write(folder, dict, wanted, None);
    let written = write(bare)?;
    let mut rounds = vec![];
    for _ in 0..pairs {
        let fresh = |path: &Path| drop(std::fs::remove_file(path)); // a file that is written anew, as theirs is
        fresh(&copy);
        let cp = timed(|| run(Command::new("cp").arg("--reflink=never").arg(&out).arg(&copy)))?;
        fresh(&out);
        let plain = timed(|| write(bare).map(drop))?;
        fresh(&out);
        let checked = timed(|| write(with_table).map(drop))?;
        fresh(&out);
        let all = timed(|| write(whole).map(drop))?;
        let sha256 = timed(|| run(Command::new("sha256sum").arg(&out)))?;
        let own = timed(|| sha256_of(&out))?;
        rounds.push([cp, plain, checked, all, sha256, own, timed(|| TensorTable::of(dict).map(drop))?]);
    }
    Ok((rounds, written.bytes))
}

/// SHA-256 alone, by the implementation that hfbuild uses: faster than `sha256sum` where that has no use of the processor's own.
fn sha256_of(path: &Path) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path).on("open", path)?;
    std::io::copy(&mut file, &mut hasher).on("read", path)?;
    std::hint::black_box(hasher.finalize());
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|e| Error::stage(format!("{command:?}: {e}")))?;
    if output.status.success() { Ok(()) } else { Err(Error::stage(format!("{command:?} failed"))) }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}
