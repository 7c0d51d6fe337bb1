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
            let program = program(context).args([&way]);
            if way.ends_with("_to_kernel") && program.run_on_host(context)?.status == 137 {
                // QEMU reads the stack of such a return with the rights of ring 0, which SMAP forbids:
                // an emulated host's own Linux kills the program for that.
                let run = program.run_in_guest(context)?;
                return ensure(run.status == 139, || format!("{run:?}"));
            }
            let run = program.compare(context)?;
            ensure(run.stdout.starts_with(way.as_bytes()), || format!("{run:?}"))
        });
    }
    Ok(())
}
