//! Signals to the command, at any moment: it ends as the program would, and leaves nothing behind.

use std::thread;
use std::time::Duration;

use super::ensure;
use crate::command::{Input, Run};
use crate::comparison::Program;
use crate::harness::{Context, Tests};

/// Starts a program that does not end, sends a signal after a time, and returns how the command ended.
fn interrupted(
    context: &Context,
    state: &str,
    signal: i32,
    after: Duration,
) -> Result<Run, String> {
    let program = Program::new(context.fixture("wait"))
        .args([state])
        .input(Input::Silence)
        .limit(Duration::from_secs(10));
    let spec = program.guest_spec(context).directory(&context.directory).input(Input::Silence);
    let machine = spec.limit(Duration::from_secs(10) * context.patience).start()?;
    thread::sleep(after);
    machine.signal(signal);
    machine.finish()
}

pub(super) fn add(tests: &mut Tests) {
    let signals = [
        ("SIGINT", libc::SIGINT),
        ("SIGTERM", libc::SIGTERM),
        ("SIGHUP", libc::SIGHUP),
        ("SIGKILL", libc::SIGKILL),
    ];
    for (name, signal) in signals {
        for state in ["spin", "sleep", "read", "calls", "print"] {
            tests.add(format!("endings/{name} to a program that does '{state}'"), move |context| {
                let run = interrupted(
                    context,
                    state,
                    signal,
                    Duration::from_millis(300) * context.patience,
                )?;
                let expected = 128 + u8::try_from(signal).unwrap_or(0);
                ensure(
                    run.status == expected
                        && run.stdout.starts_with(b"ready\n")
                        && run.stderr.is_empty(),
                    || {
                        format!(
                            "status {}, {} bytes, {}",
                            run.status,
                            run.stdout.len(),
                            run.complaint()
                        )
                    },
                )?;
                ensure(!run.leftovers, || "processes were left behind".to_owned())?;
                context.check_nothing_left()
            });
        }
        tests.add(format!("endings/{name} at any moment"), move |context| {
            for step in 0..40_u32 {
                // From before the new process executes to well into the guest's life.
                let after = Duration::from_micros(150) * step * context.patience;
                let run = interrupted(context, "spin", signal, after)?;
                let expected = 128 + u8::try_from(signal).unwrap_or(0);
                ensure(run.status == expected && run.stderr.is_empty() && !run.leftovers, || {
                    format!(
                        "after {after:?}: status {}, left something: {}, {}",
                        run.status,
                        run.leftovers,
                        run.complaint()
                    )
                })?;
            }
            context.check_nothing_left()
        });
    }
    tests.add("endings/signals that are ignored from the start", |context| {
        let program = Program::new(context.fixture("busybox")).args(["sleep", "1"]);
        let spec = program.guest_spec(context).directory(&context.directory);
        let ignore = || {
            for signal in [libc::SIGHUP, libc::SIGINT] {
                // SAFETY: signal(2) is async-signal-safe.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            Ok(())
        };
        // SAFETY: system calls and nothing else.
        let machine = unsafe { spec.before(ignore) }.start()?;
        for _ in 0..8 {
            machine.signal(libc::SIGHUP);
            machine.signal(libc::SIGINT);
            thread::sleep(Duration::from_millis(100));
        }
        let run = machine.finish()?;
        ensure(run.status == 0 && run.stderr.is_empty(), || format!("{run:?}"))
    });
    tests.add("endings/a program that has ended", |context| {
        // A signal that comes when all is over changes nothing; the status is the program's or the signal's.
        for step in 0..20_u32 {
            let program = Program::new(context.fixture("hello-musl"));
            let machine = program.guest_spec(context).directory(&context.directory).start()?;
            thread::sleep(Duration::from_micros(500) * step * context.patience);
            machine.signal(libc::SIGTERM);
            let run = machine.finish()?;
            ensure(
                run.status == 0 && run.stdout == b"hello, world\n" || run.status == 143,
                || format!("{run:?}"),
            )?;
        }
        Ok(())
    });
}
