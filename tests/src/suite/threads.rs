//! Programs with several threads and processes on several vCPUs.

use std::time::Duration;

use super::ensure;
use crate::comparison::{Program, difference};
use crate::harness::{Context, Tests};

/// What the programs in `fixtures/threads` say depends on nothing that races.
const PROGRAMS: [&str; 13] = [
    "affinity",
    "copies",
    "endings",
    "files",
    "handover",
    "locks",
    "many",
    "messages",
    "output",
    "rseq",
    "signalled",
    "storm",
    "unmapped",
];
const CPUS: [&str; 3] = ["1", "2", "4"];
/// Where ring 0 is interpreted, other vCPUs are slow to hear.
const LIMIT: Duration = Duration::from_secs(100);
/// What keeps a vCPU busy for half a minute there takes much longer when the host is shared.
const LONG: Duration = Duration::from_secs(240);

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
    for libc in ["glibc", "musl"] {
        for cpus in ["1", "4"] {
            tests.add(format!("threads/pthreads-{libc}, {cpus} vCPUs"), move |context| {
                program(context, &format!("pthreads-{libc}"), cpus)
                    .limit(LONG)
                    .compare(context)
                    .map(drop)
            });
        }
    }
    // In all more than 100 000 system calls, signals and switches, unless the host is slow.
    for (cpus, pin) in [("1", &["pin"][..]), ("4", &["pin"]), ("4", &[])] {
        let where_from = if pin.is_empty() { "wherever" } else { "on one" };
        tests.add(format!("threads/state, {cpus} vCPUs, {where_from}"), move |context| {
            // On several vCPUs each wait is for another vCPU.
            let rounds = match (context.patience > 1, cpus) {
                (true, _) => "400",
                (false, "1") => "3200",
                (false, _) => "800",
            };
            let program = Program::new(context.fixture("state"))
                .args([&[rounds], pin].concat())
                .options(["--cpus", cpus])
                .limit(LONG);
            let run = program.compare(context)?;
            ensure(run.status == 0 && run.stdout.ends_with(b"kept\nswitched often: 1\n"), || {
                format!("{run:?}")
            })
        });
    }
    for (cpus, used) in [("1", "one\n"), ("2", "several\n"), ("4", "several\n")] {
        tests.add(format!("threads/both-cpus, {cpus} vCPUs"), move |context| {
            let run = program(context, "both-cpus", cpus).run_in_guest(context)?;
            ensure(run.status == 0 && run.stdout == used.as_bytes(), || run.complaint())
        });
    }
}
