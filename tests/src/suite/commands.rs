//! The rest of the command line: the tour, traces of system calls, the seccomp filters, help.

use std::collections::BTreeSet;
use std::fs;

use super::ensure;
use crate::command::Run;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

fn airlock(context: &Context, arguments: &[&str]) -> Result<Run, String> {
    context.airlock().args(arguments.iter().copied()).directory(&context.directory).run()
}

pub(super) fn add(tests: &mut Tests) {
    tests.add("commands/tour", |context| {
        let run = airlock(context, &["run"])?;
        let text = String::from_utf8_lossy(&run.stdout);
        ensure(run.status == 0 && run.stderr.is_empty() && text.contains("EFAULT"), || {
            format!("{run:?}")
        })?;
        let lines = text.lines().count();
        ensure((5..=45).contains(&lines), || format!("{lines} lines"))?;
        context.check_nothing_left()
    });
    tests.add("commands/help", |context| {
        let run = airlock(context, &["--help"])?;
        ensure(run.status == 0 && run.stdout.len() > 100 && run.stderr.is_empty(), || {
            format!("{run:?}")
        })?;
        let run = airlock(context, &["run", "--help"])?;
        let text = String::from_utf8_lossy(&run.stdout);
        for word in [
            "--mem",
            "--cpus",
            "--env",
            "--workdir",
            "--file",
            "--timeout",
            "--kernel",
            "--strace",
            "Examples",
            "125",
        ] {
            ensure(text.contains(word), || format!("'{word}' is not in the help:\n{text}"))?;
        }
        Ok(())
    });
    tests.add("commands/version", |context| {
        let run = airlock(context, &["--version"])?;
        ensure(run.status == 0 && run.stdout.starts_with(b"airlock "), || format!("{run:?}"))
    });
    tests.add("commands/seccomp print", |context| {
        let vcpu = allowed(context, &["--thread", "vcpu"])?;
        let vmm = allowed(context, &["--thread", "vmm"])?;
        ensure((3..=15).contains(&vcpu.len()), || {
            format!("{} calls on the vCPU thread: {vcpu:?}", vcpu.len())
        })?;
        ensure(vmm.len() >= 3, || format!("{vmm:?}"))?;
        let all = vcpu.union(&vmm).count();
        ensure(all <= 30, || format!("{all} calls on all threads"))
    });
    tests.add("commands/seccomp is in force on every thread", |context| {
        let directory = context.directory.join("elsewhere");
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let program = Program::new(context.fixture("wait")).args(["spin"]);
        let machine = program.guest_spec(context).directory(&directory).start()?;
        let result = seccomp_modes(machine.number());
        machine.signal(libc::SIGTERM);
        machine.finish()?;
        let modes = result?;
        ensure(!modes.is_empty() && modes.iter().all(|mode| mode == "2"), || {
            format!("seccomp modes of the threads: {modes:?}")
        })
    });
    tests.add("commands/strace", |context| {
        let program = Program::new(context.fixture("hello-musl")).options(["--strace"]);
        let run = program.run_in_guest(context)?;
        ensure(run.stdout == b"hello, world\n" && run.status == 0, || format!("{run:?}"))?;
        let trace = run.complaint();
        let line = |start: &str, end: &str| {
            trace.lines().any(|line| line.contains(start) && line.trim_end().ends_with(end))
        };
        ensure(
            line("writev(1, ", "= 13")
                && line("arch_prctl(", "= 0")
                && trace.contains("exit_group(0)"),
            || trace.clone(),
        )
    });
    tests.add("commands/strace to a file", |context| {
        let path = context.directory.join("calls");
        let option = format!("--strace={}", path.display());
        let program =
            Program::new(context.fixture("read256-musl")).args(["absent"]).options([option]);
        let run = program.run_in_guest(context)?;
        ensure(run.complaint() == "absent: No such file or directory\n", || run.complaint())?;
        let trace = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let opened = trace.lines().find(|line| line.contains("open"));
        ensure(
            opened.is_some_and(|line| line.contains("\"absent\"") && line.contains("= -1 ENOENT")),
            || trace.clone(),
        )
    });
    tests.add("commands/strace to a full disk", |context| {
        let program = Program::new(context.fixture("hello-musl")).options(["--strace=/dev/full"]);
        let run = program.run_in_guest(context)?;
        let expected = "airlock: cannot write the trace, which is incomplete: \
                        No space left on device (os error 28)\n";
        ensure(run.status == 0 && run.complaint() == expected, || format!("{run:?}"))
    });
    tests.add("commands/strace changes nothing", |context| {
        let options = [format!("--strace={}", context.directory.join("calls").display())];
        let program = Program::new(context.fixture("probe-paths-glibc")).options(options);
        program.compare(context).map(drop)
    });
    tests.add("commands/verbose", |context| {
        let program = Program::new(context.fixture("hello-musl")).options(["-v"]);
        let run = program.run_in_guest(context)?;
        ensure(run.status == 0 && run.stdout == b"hello, world\n" && !run.stderr.is_empty(), || {
            format!("{run:?}")
        })
    });
}

/// The names of system calls that the filter of a thread allows.
fn allowed(context: &Context, arguments: &[&str]) -> Result<BTreeSet<String>, String> {
    let run = airlock(context, &[&["seccomp", "print"], arguments].concat())?;
    ensure(run.status == 0, || format!("{run:?}"))?;
    // A system call is the first word of an indented line.
    let names = String::from_utf8_lossy(&run.stdout)
        .lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| {
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .map(str::to_owned)
        .collect();
    Ok(names)
}

/// The seccomp mode of every thread of a process, once they are all in place.
fn seccomp_modes(process: i32) -> Result<Vec<String>, String> {
    let mut modes = Vec::new();
    for _ in 0..100 {
        let threads =
            fs::read_dir(format!("/proc/{process}/task")).map_err(|error| error.to_string())?;
        modes = threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
            .filter_map(|status| {
                Some(
                    status
                        .lines()
                        .find(|line| line.starts_with("Seccomp:"))?
                        .split_whitespace()
                        .nth(1)?
                        .to_owned(),
                )
            })
            .collect();
        if modes.len() >= 2 && modes.iter().all(|mode| mode == "2") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(modes)
}
