//! Programs that die: of the same signal as on the host, and without the kernel.

use super::ensure;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

pub(super) fn add(tests: &mut Tests, context: &Context) -> Result<(), String> {
    // The program knows the ways in which it can die.
    let program = |context: &Context| Program::new(context.fixture("probe-faults-glibc"));
    let own = Context { directory: context.directory.join("faults"), ..context.clone() };
    let ways = program(&own).run_on_host(&own)?;
    let ways = String::from_utf8(ways.stdout)
        .map_err(|_| "the names of the faults are no text".to_owned())?;
    for way in ways.lines() {
        let way = way.to_owned();
        tests.add(format!("faults/{way}"), move |context| {
            let run = program(context).args([&way]).compare(context)?;
            ensure(run.stdout.starts_with(way.as_bytes()), || format!("{run:?}"))
        });
    }
    Ok(())
}
