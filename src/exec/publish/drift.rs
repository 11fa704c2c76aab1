//! Drift in words: what others changed on the remote, and the refusal to publish over it.
//!
//! Only words: what drift is, is decided in [`crate::core::publish`].

use crate::core::error::{Error, ErrorKind};
use crate::core::publish::Drifted;
use crate::exec::remote::Remote;

/// One of them in words.
pub(super) fn drifted_path(drifted: &Drifted) -> String {
    match drifted {
        Drifted::Changed { path } => format!("`{path}` (changed there)"),
        Drifted::Deleted { path } => format!("`{path}` (deleted there)"),
        Drifted::Foreign { path } => format!("`{path}` (not of ours)"),
        Drifted::Gone => "the repo or its branch is gone".into(),
    }
}

/// The refusal to publish over what others changed.
pub fn drift_error(files: &[Drifted], remote: &Remote, pull_request: Option<u64>) -> Error {
    let foreign = files.iter().all(|file| matches!(file, Drifted::Foreign { .. }));
    let which = pull_request.map_or(String::new(), |number| format!("pull request #{number} of "));
    let mut error = Error::new(
        ErrorKind::Drift,
        format!(
            "{which}`{}` {}",
            remote.target,
            match files {
                [Drifted::Gone] => "is not what the last publish left: it is gone".to_string(),
                [_] if foreign => "has a file in the way that hfbuild did not put there".to_string(),
                many if foreign => format!("has {} files in the way that hfbuild did not put there", many.len()),
                [_] => "is not what the last publish left: 1 file differs".to_string(),
                many => format!("is not what the last publish left: {} files differ", many.len()),
            }
        ),
    );
    for file in files.iter().take(10) {
        error = error.cause(drifted_path(file));
    }
    if files == [Drifted::Gone] {
        error = error.cause("a hub also says so of a private repo that this token may no longer see");
    }
    let proposed =
        if files == [Drifted::Gone] || pull_request.is_some() { "" } else { ", to propose the change, `--pr`" };
    error.hint(format!(
        "look at it there; to publish over it, set `on_drift = \"overwrite\"` or give `--overwrite`{proposed}"
    ))
}
