//! System calls: programs that ask the kernel many questions, on the host and in the guest.

use super::ensure;
use crate::comparison::Program;
use crate::harness::Tests;

/// The probes in `fixtures/probes`, but for the one of faults.
const PROBES: [&str; 51] = [
    "boosting",
    "clocks",
    "cpus",
    "cputime",
    "descriptors",
    "devices",
    "epoll",
    "eventfd",
    "exchange",
    "exec",
    "files",
    "groups",
    "identity",
    "inheritance",
    "inotify",
    "int80",
    "jobs",
    "limits",
    "locks",
    "memfd",
    "memory",
    "mounts",
    "mqueue",
    "paths",
    "peeking",
    "pidfd",
    "pipes",
    "pointers",
    "polling",
    "privileges",
    "proc",
    "processes",
    "pty",
    "queued",
    "registers",
    "rights",
    "rseq",
    "schedule",
    "selecting",
    "signalfd",
    "sockets",
    "splicing",
    "status",
    "sysv",
    "tasks",
    "termios",
    "threads",
    "timerfd",
    "timers",
    "vdso",
    "waitv",
];

/// Probes of what came to Linux with a release that a host may not have.
const NEWER: [(&str, (u32, u32)); 1] = [("rseq", (6, 3))];

/// The release of the host's Linux: its first two numbers.
fn host_release() -> Result<(u32, u32), String> {
    let text =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| error.to_string())?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("the host's Linux is '{text}'")),
    }
}

/// Answers of a probe that say that the probe could not do its work.
const BROKEN: [&str; 2] = [" failed: ", ": no\n"];

pub(super) fn add(tests: &mut Tests) {
    for probe in PROBES {
        for build in ["glibc", "glibc-pie"] {
            tests.add(format!("probes/{probe}-{build}"), move |context| {
                let mut program = Program::new(context.fixture(&format!("probe-{probe}-{build}")));
                if probe == "proc" {
                    program = program.args(["argument"]);
                }
                // What the host does not have yet can only be seen to work in the guest.
                let run = match NEWER.iter().find(|(name, _)| *name == probe) {
                    Some((_, since)) if host_release()? < *since => {
                        let run = program.run_in_guest(context)?;
                        ensure(run.status == 0, || run.complaint())?;
                        run
                    }
                    _ => program.compare(context)?,
                };
                let text = String::from_utf8_lossy(&run.stdout);
                ensure(text.lines().count() >= 10, || format!("the probe said little:\n{text}"))?;
                let broken = text
                    .lines()
                    .find(|line| BROKEN.iter().any(|sign| format!("{line}\n").contains(sign)));
                ensure(broken.is_none(), || {
                    format!("the probe does not even work on the host: {broken:?}")
                })
            });
        }
    }
}
