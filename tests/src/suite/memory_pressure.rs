//! Programs that take all memory of a small machine: they end with errors or are killed, and the kernel
//! goes on.

use std::time::Duration;

use super::ensure;
use crate::command::Run;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

fn run(context: &Context, mode: &str) -> Result<Run, String> {
    let limit = Duration::from_secs(90) * context.patience;
    let run = Program::new(context.fixture("hungry"))
        .args([mode])
        .options(["--mem", "32M"])
        .guest_spec(context)
        .directory(&context.directory)
        .limit(limit)
        .start()?
        .finish()?;
    ensure(!run.leftovers, || "processes were left behind".to_owned())?;
    Ok(run)
}

/// `128 + SIGKILL`.
const KILLED: u8 = 137;

pub(super) fn add(tests: &mut Tests) {
    for mode in ["touch", "read"] {
        tests.add(format!("memory/{mode}"), move |context| {
            let run = run(context, mode)?;
            ensure(run.status == KILLED && run.stderr.is_empty(), || format!("{run:?}"))
        });
    }
    for mode in ["children", "readers"] {
        tests.add(format!("memory/{mode}"), move |context| {
            let run = run(context, mode)?;
            let text = String::from_utf8_lossy(&run.stdout);
            let expected = "round 0: signal 9\nround 1: signal 9\nround 2: signal 9\n\
                            the small one lives: 1\nmemory is there again\ndone\n";
            ensure(run.status == 0 && text == expected, || format!("{run:?}"))
        });
    }
    for mode in ["bomb", "objects"] {
        tests.add(format!("memory/{mode}"), move |context| {
            let run = run(context, mode)?;
            let ended = run.status == 0 && run.stdout.ends_with(b"done\n");
            // The first process may have been the largest.
            ensure(ended || run.status == KILLED, || format!("{run:?}"))
        });
    }
}
