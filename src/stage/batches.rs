//! Work on a row of things, a batch at a time: what an earlier run kept is not done again, and a batch for which the memory
//! is too small is halved.
//!
//! A part is named after the things in it (`0-8`: eight of them from the first), so a run with other batches finds it too.
//! Does not know what the things are, but for calling them pictures.

use super::Workspace;
use crate::core::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// What is there of a row, and what is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Parts, in their order; none overlaps another.
    pub parts: Vec<(Range<usize>, Vec<u8>)>,
    /// What is still to be done, in its order.
    pub gaps: Vec<Range<usize>>,
}

impl Found {
    /// How many things are there.
    pub fn things(&self) -> usize {
        self.parts.iter().map(|(things, _)| things.len()).sum()
    }
}

/// Says, in the log and to people, that a stage goes on after so many pictures; of none there is nothing to say.
///
/// # Errors
/// The log cannot be written.
pub fn goes_on(workspace: &Workspace, there: usize, total: usize) -> Result<()> {
    if there > 0 {
        let text = format!("goes on after {there} of {total} pictures, kept from an interrupted run");
        workspace.say(&text)?;
        (workspace.tell)(text);
    }
    Ok(())
}

/// The name of a part of the row called `row`.
pub fn name(row: &str, things: &Range<usize>) -> String {
    format!("{row}/{}-{}", things.start, things.len())
}

/// Finds the parts of a row of `total` things. `fits` says whether so many bytes can be so many things.
pub fn find(
    kept: &mut BTreeMap<String, Vec<u8>>,
    row: &str,
    total: usize,
    fits: &dyn Fn(usize, usize) -> bool,
) -> Found {
    let range = |name: &str| {
        let (first, count) = name.strip_prefix(row)?.strip_prefix('/')?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        Some(first..first.checked_add(count.parse().ok()?)?)
    };
    let mut ranges: Vec<(Range<usize>, String)> = kept.keys().filter_map(|n| Some((range(n)?, n.clone()))).collect();
    ranges.sort_by_key(|(things, _)| (things.start, things.end));
    let (mut found, mut at) = (Found::default(), 0);
    for (things, name) in ranges {
        let Some(bytes) = kept.remove(&name) else { continue };
        if things.start < at || things.is_empty() || things.end > total || !fits(bytes.len(), things.len()) {
            continue;
        }
        if at < things.start {
            found.gaps.push(at..things.start);
        }
        at = things.end;
        found.parts.push((things, bytes));
    }
    if at < total {
        found.gaps.push(at..total);
    }
    found
}

/// Does a gap in batches of at most `batch`. Where the memory is too small for one, that batch and all after it are half as
/// large.
///
/// # Errors
/// Those of `one`; that the memory is too small for a single thing.
pub fn each(
    workspace: &Workspace,
    gap: &Range<usize>,
    batch: &mut usize,
    one: &mut dyn FnMut(Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut at = gap.start;
    while at < gap.end {
        workspace.cancel.check()?;
        let size = (*batch).clamp(1, gap.end - at);
        match one(at..at + size) {
            Ok(()) => at += size,
            Err(error) if error.kind() == ErrorKind::OutOfMemory && size > 1 => {
                *batch = size / 2;
                let text = format!("the memory does not hold a batch of {size}, so from here on `batch` is {batch}");
                workspace.say(&format!("{text}: {error}"))?;
                (workspace.tell)(text);
            }
            Err(error) if error.kind() == ErrorKind::OutOfMemory => return Err(too_small(workspace, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Nothing is left to be halved.
fn too_small(workspace: &Workspace, error: Error) -> Error {
    let is_on_cpu = workspace.device.as_ref().is_some_and(|device| device.contains("(cpu"));
    error.within("not even one at a time fits").hint(match is_on_cpu {
        true => "`batch` cannot go below 1: free memory (other programs, or stages beside it, by `resources`)",
        false => {
            "`batch` cannot go below 1: free memory on the device (other programs, or stages beside it, by `resources`), or \
             set `device = \"cpu\"`"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
        names.iter().map(|name| (name.to_string(), vec![1, 2])).collect()
    }

    fn one(range: Range<usize>) -> Vec<Range<usize>> {
        std::iter::once(range).collect()
    }

    fn whole() -> Vec<Range<usize>> {
        one(0..24)
    }

    fn gaps(names: &[&str]) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let found = find(&mut kept(names), "cat", 24, &|bytes, _| bytes == 2);
        (found.parts.into_iter().map(|(things, _)| things).collect(), found.gaps)
    }

    #[test]
    fn what_is_kept_is_not_done_again_whatever_the_batches_were() {
        assert_eq!(gaps(&[]), (vec![], whole()));
        assert_eq!(gaps(&["cat/0-8", "cat/16-4"]), (vec![0..8, 16..20], vec![8..16, 20..24]));
        assert_eq!(gaps(&["cat/0-8", "cat/8-16"]), (vec![0..8, 8..24], vec![]));
        assert_eq!(gaps(&["cat/8-8", "cat/10-4", "cat/4-8"]), (one(4..12), vec![0..4, 12..24]), "none overlaps");
    }

    #[test]
    fn what_is_no_part_of_the_row_is_left_alone() {
        let strange = ["dog/0-8", "cat/20-8", "cat/3-0", "cat/x-1", "cat/18446744073709551615-9", "cat", "cat/-1"];
        assert_eq!(gaps(&strange), (vec![], whole()));
        let found = find(&mut kept(&["cat/0-8"]), "cat", 24, &|_, _| false);
        assert_eq!(found, Found { parts: vec![], gaps: whole() }, "of another size");
    }
}
