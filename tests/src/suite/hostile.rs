//! Programs that attack the kernel they run on. They may die of it; the virtual machine ends in order.

use std::time::Duration;

use super::ensure;
use crate::command::Run;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

/// Attacks in a microVM (never on the host), and returns how it ended if it ended in order.
fn attack(context: &Context, kind: &str, seed: u32, memory: &str) -> Result<Run, String> {
    let program =
        Program::new(context.fixture("hostile")).args([kind.to_owned(), seed.to_string()]);
    let program =
        program.options(["--mem", memory, "--timeout", "100"]).limit(Duration::from_secs(110));
    let run = program.run_in_guest(context)?;
    // 125: the kernel panicked or the VMM gave up. 124: something never ended.
    ensure(run.status != 125 && run.status != 124 && run.stderr.is_empty(), || {
        format!("seed {seed}: {run:?}\n{}", run.complaint())
    })?;
    Ok(run)
}

pub(super) fn add(tests: &mut Tests) {
    for seed in 1..=6 {
        tests.add(format!("hostile/calls, seed {seed}"), move |context| {
            attack(context, "calls", seed, "128M").map(drop)
        });
        tests.add(format!("hostile/transfers, seed {seed}"), move |context| {
            attack(context, "transfers", seed, "128M").map(drop)
        });
    }
    for group in 0..5 {
        tests.add(format!("hostile/random code, group {group}"), move |context| {
            for seed in 0..20 {
                attack(context, "execute", 1 + group * 20 + seed, "64M")?;
            }
            Ok(())
        });
    }
    tests.add("hostile/writes to every address", |context| {
        for seed in 0..20 {
            let run = attack(context, "write", seed, "64M")?;
            ensure(run.status == 139 || run.status == 135, || format!("seed {seed}: {run:?}"))?;
        }
        Ok(())
    });
    tests.add("hostile/copies to every address", |context| {
        for seed in 0..4 {
            let run = attack(context, "copies", seed, "64M")?;
            // A copy that succeeded may have been to memory of the program's own.
            ensure(run.status != 77 && run.status != 78, || {
                format!("the kernel let it write into the kernel: {run:?}")
            })?;
        }
        Ok(())
    });
    tests.add("hostile/jumps into the kernel", |context| {
        let run = attack(context, "jumps", 1, "64M")?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        ensure(run.status == 0 && text.contains("jumps 1\ndone"), || format!("{run:?}: {text}"))
    });
    for (kind, said) in
        [("memory", "memory"), ("disk", "afterwards 1000\ndone"), ("objects", "objects 1\ndone")]
    {
        for memory in ["16M", "64M"] {
            tests.add(
                format!("hostile/takes all of a resource: {kind}, {memory}"),
                move |context| {
                    let run = attack(context, kind, 1, memory)?;
                    let text = String::from_utf8_lossy(&run.stdout).into_owned();
                    ensure(text.contains(said), || format!("{run:?}: {text}"))
                },
            );
        }
    }
}
