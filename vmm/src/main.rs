//! `airlock`: runs one Linux program in a microVM of its own. `airlock --help` says how.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
