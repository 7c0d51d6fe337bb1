//! `airlock`: runs one Linux program in a microVM of its own. `airlock --help` says how.

mod cli;
mod startup_arena;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: startup_arena::StartupArena = startup_arena::StartupArena::new();

fn main() -> ExitCode {
    cli::main()
}
