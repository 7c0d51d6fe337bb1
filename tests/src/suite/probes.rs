//! System calls: programs that ask the kernel many questions, on the host and in the guest.

use super::ensure;
use crate::comparison::Program;
use crate::harness::Tests;

/// The probes in `fixtures/probes`, but for the one of faults.
const PROBES: [&str; 45] = [
    "clocks",
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
    "mqueue",
    "paths",
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
                let run = program.compare(context)?;
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
