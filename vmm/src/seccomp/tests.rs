//! The filters are run in a model of the host's BPF machine, for every rule and every number; and
//! once each for real.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::*;

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const ARCHITECTURE: u32 = 0xc000_003e;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// A system call as a filter sees it: `struct seccomp_data` (seccomp(2)).
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    const fn new(number: u32) -> Self {
        Self { number, architecture: ARCHITECTURE, arguments: [0; 6] }
    }

    /// The 32-bit word at an offset.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => 0,
            _ => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).unwrap()];
                let half = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
                u32::try_from(half & 0xffff_ffff).unwrap()
            }
        }
    }
}

/// What a program answers for a call: the instructions of bpf(4) that seccompiler uses.
fn answer(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |condition: bool| usize::from(if condition { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = call.word(step.k),
            0x54 => accumulator &= step.k,
            0x05 => at += usize::try_from(step.k).unwrap(),
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn number(name: &str) -> u32 {
    airlock_abi::syscalls::by_name(name).unwrap_or_else(|| panic!("there is no {name}")).number
}

/// The threads of the process that the guest runs in.
const MACHINE: [Thread; 2] = [Thread::Vcpu, Thread::Vmm];

fn all_calls() -> BTreeSet<&'static str> {
    MACHINE.iter().flat_map(|thread| thread.filter().system_calls()).collect()
}

#[test]
fn the_filters_allow_few_calls() {
    assert!(
        Thread::Vcpu.filter().system_calls().len() <= 15,
        "{:?}",
        Thread::Vcpu.filter().system_calls()
    );
    assert!(all_calls().len() <= 30, "{:?}", all_calls());
}

/// Without a usable TSC, the vDSO of the host asks its kernel for the time. Both threads tell the time:
/// the vCPUs when a device has a signal for the program.
#[test]
fn the_time_may_be_told_where_the_vdso_cannot() {
    for thread in MACHINE {
        assert_eq!(answer(thread.filter().program, &Call::new(number("clock_gettime"))), ALLOW);
    }
}

#[test]
fn nothing_that_reaches_memory_files_processes_or_the_network_is_allowed() {
    let calls = all_calls();
    for call in [
        "open",
        "openat",
        "execve",
        "execveat",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "socket",
        "connect",
        "ptrace",
        "process_vm_writev",
        "mount",
        "kill",
        "bpf",
        "io_uring_setup",
        "unlink",
        "rename",
        "chmod",
        "mmap",
        "brk",
        "mremap",
        "mprotect",
        "userfaultfd",
        "memfd_create",
        "dup2",
        "prctl",
        "seccomp",
        "setuid",
    ] {
        assert!(!calls.contains(call), "{call}");
        let serves = matches!(call, "openat");
        let volume = Thread::Volume.filter().system_calls();
        assert!(serves || !volume.contains(&call), "{call}");
    }
}

#[test]
fn every_rule_allows_what_it_says_and_all_else_is_killed() {
    for thread in Thread::ALL {
        let filter = thread.filter();
        for rule in filter.rules {
            let mut call = Call::new(number(rule.name));
            for condition in rule.conditions {
                assert_eq!(condition.operator, "==", "the test sets arguments to be equal");
                call.arguments[usize::from(condition.argument)] |= condition.value;
            }
            assert_eq!(answer(filter.program, &call), ALLOW, "{rule}");
            for condition in rule.conditions {
                let mut wrong = call;
                wrong.arguments[usize::from(condition.argument)] ^=
                    condition.mask.unwrap_or(1 << 31);
                assert_eq!(
                    answer(filter.program, &wrong),
                    KILL,
                    "{rule}, with {:#x}",
                    wrong.arguments[usize::from(condition.argument)]
                );
            }
        }
        let allowed: BTreeSet<u32> = filter.system_calls().into_iter().map(number).collect();
        for number in (0..1024).filter(|number| !allowed.contains(number)) {
            assert_eq!(answer(filter.program, &Call::new(number)), KILL, "{number}");
        }
    }
}

#[test]
fn other_tables_of_system_calls_are_closed() {
    for thread in Thread::ALL {
        let program = thread.filter().program;
        for number in 0..1024 {
            // i386, as by int 0x80; and x32, whose numbers have bit 30 set.
            let i386 = Call { architecture: 0x4000_0003, ..Call::new(number) };
            assert_eq!(answer(program, &i386), KILL);
            assert_eq!(answer(program, &Call::new(number | 1 << 30)), KILL);
        }
    }
}

#[test]
fn every_rule_has_a_reason() {
    for thread in Thread::ALL {
        assert!(
            thread.filter().rules.iter().all(|rule| rule.reason.len() > 10),
            "{}",
            thread.filter()
        );
    }
}

/// Tells a copy of this test program which filter to apply.
const FILTER: &str = "AIRLOCK_TEST_SECCOMP_FILTER";

/// Not a test by itself: applies a filter and makes a call that it does not allow.
#[test]
fn in_a_filter() {
    let Ok(name) = std::env::var(FILTER) else {
        return;
    };
    let thread = Thread::ALL.into_iter().find(|thread| thread.name() == name).unwrap();
    restrict(thread).unwrap();
    // SAFETY: the call takes nothing and changes nothing.
    unsafe { libc::syscall(libc::SYS_getppid) };
    println!("still here");
}

fn in_filter(name: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seccomp::tests::in_a_filter"])
        .env(FILTER, name)
        .output()
        .unwrap()
        .status
}

#[test]
fn a_violation_ends_the_process() {
    for thread in Thread::ALL {
        assert_eq!(in_filter(thread.name()).signal(), Some(libc::SIGSYS));
    }
}
