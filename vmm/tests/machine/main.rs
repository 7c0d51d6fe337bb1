//! Whole machines on this host's KVM, with kernels of a few instructions.
//!
//! Every case runs in a process of its own, as `airlock` does: this program again, with `--guest`.
//! So standard files, signals and the end of the process are the real ones.

mod cases;
mod guests;
mod kernel;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--guest") {
        return cases::run_guest(&arguments[1..]);
    }
    let filters: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    if arguments.iter().any(|argument| argument == "--list") {
        cases::CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let cases: Vec<_> = cases::CASES.iter().filter(|(name, _)| chosen(name)).collect();
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        println!(
            "SKIPPED: {} tests of whole machines, because /dev/kvm cannot be opened: {error}",
            cases.len()
        );
        return ExitCode::SUCCESS;
    }
    println!("running {} tests of whole machines", cases.len());
    let mut failed = Vec::new();
    for (name, case) in &cases {
        let begin = Instant::now();
        let passed = std::panic::catch_unwind(case).is_ok();
        println!(
            "test {name} ... {} ({:.1?})",
            if passed { "ok" } else { "FAILED" },
            begin.elapsed()
        );
        if !passed {
            failed.push(name);
        }
    }
    println!("{} passed, {} failed {failed:?}", cases.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
