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

/// How much of a machine's memory is the host's in the end, in KiB, after a program that used 32 MiB.
fn resident_after(context: &Context, mode: &str, cpus: &str) -> Result<u64, String> {
    let report = context.directory.join("statistics");
    let run = Program::new(context.fixture("hungry"))
        .args([mode])
        .options(["--mem", "256M", "--cpus", cpus])
        .guest_spec(context)
        .envs([("AIRLOCK_STATS".into(), report.clone().into())])
        .directory(&context.directory)
        .limit(Duration::from_secs(60) * context.patience)
        .run()?;
    ensure(run.status == 0 && run.stdout == b"done\n", || format!("{run:?}"))?;
    let text = std::fs::read_to_string(&report).map_err(|error| error.to_string())?;
    let (_, rest) = text.split_once("\"guest_memory_kib\": ").ok_or_else(|| text.clone())?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().map_err(|error| format!("{error}: {text}"))
}

/// `128 + SIGKILL`.
const KILLED: u8 = 137;

pub(super) fn add(tests: &mut Tests) {
    for cpus in ["1", "3"] {
        tests.add(format!("memory/given back to the host, {cpus} vCPUs"), move |context| {
            let resident = resident_after(context, "give-back", cpus)?;
            ensure(resident < 4 << 10, || format!("{resident} KiB are resident"))?;
            let resident = resident_after(context, "take-again", cpus)?;
            ensure(resident > 32 << 10, || format!("only {resident} KiB are resident"))
        });
    }
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
