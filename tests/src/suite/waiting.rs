//! Waiting for events: several threads and processes, and the time of day.

use super::ensure;
use crate::comparison::Program;
use crate::harness::Tests;

pub(super) fn add(tests: &mut Tests) {
    for cpus in ["1", "4"] {
        tests.add(format!("waiting/threads on {cpus} CPUs"), move |context| {
            let program = Program::new(context.fixture("event-threads")).options(["--cpus", cpus]);
            let run = program.compare(context)?;
            ensure(run.status == 0, || format!("{run:?}"))
        });
    }
    // Not on the host, whose clock is not ours to set.
    tests.add("waiting/clock set", |context| {
        let run = Program::new(context.fixture("clock-set")).run_in_guest(context)?;
        ensure(run.status == 0 && run.stdout == b"set\n", || format!("{run:?}"))
    });
}
