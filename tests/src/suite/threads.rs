//! Programs with several threads and processes on several vCPUs.

use std::time::Duration;

use super::ensure;
use crate::comparison::{Program, difference};
use crate::harness::{Context, Tests};

/// What the programs in `fixtures/threads` say depends on nothing that races.
const PROGRAMS: [&str; 12] = [
    "affinity",
    "copies",
    "endings",
    "files",
    "handover",
    "locks",
    "many",
    "messages",
    "output",
    "signalled",
    "storm",
    "unmapped",
];
const CPUS: [&str; 3] = ["1", "2", "4"];
/// Where ring 0 is interpreted, other vCPUs are slow to hear.
const LIMIT: Duration = Duration::from_secs(100);

fn program(context: &Context, name: &str, cpus: &str) -> Program {
    Program::new(context.fixture(&format!("threads-{name}"))).options(["--cpus", cpus]).limit(LIMIT)
}

fn sorted_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = bytes.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

pub(super) fn add(tests: &mut Tests) {
    for name in PROGRAMS {
        for cpus in CPUS {
            tests.add(format!("threads/{name}, {cpus} vCPUs"), move |context| {
                let program = program(context, name, cpus);
                let (host, guest) = (program.run_on_host(context)?, program.run_in_guest(context)?);
                if let Some(text) = difference("standard output", &host.stdout, &guest.stdout) {
                    return Err(format!("{text}\n{}", guest.complaint()));
                }
                ensure(host.status == guest.status, || {
                    format!("status {} instead of {}", guest.status, host.status)
                })?;
                // In whatever order, but whole.
                ensure(sorted_lines(&host.stderr) == sorted_lines(&guest.stderr), || {
                    format!("other lines on standard error\n{}", guest.complaint())
                })
            });
        }
    }
    for (cpus, used) in [("1", "one\n"), ("2", "several\n"), ("4", "several\n")] {
        tests.add(format!("threads/both-cpus, {cpus} vCPUs"), move |context| {
            let run = program(context, "both-cpus", cpus).run_in_guest(context)?;
            ensure(run.status == 0 && run.stdout == used.as_bytes(), || run.complaint())
        });
    }
}
