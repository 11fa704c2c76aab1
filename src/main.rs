//! The binary: parse, call, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hfbuild::process::prepare();
    ExitCode::from(hfbuild::cli::main(std::env::args_os()))
}
