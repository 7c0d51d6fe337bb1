//! Standard input, output and error: every byte, in order, to the right place, and no byte more.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{ensure, noise};
use crate::command::{Input, Output};
use crate::comparison::Program;
use crate::harness::{Context, Tests};

const MEGABYTE: usize = 1 << 20;

fn generate(context: &Context, count: usize, step: usize) -> Program {
    Program::new(context.fixture("generate")).args([count.to_string(), step.to_string()])
}

fn take(context: &Context, count: usize, step: usize) -> Program {
    Program::new(context.fixture("take")).args([count.to_string(), step.to_string()])
}

pub(super) fn add(tests: &mut Tests) {
    for (count, step) in [
        (1, 1),
        (3000, 1),
        (MEGABYTE, 4095),
        (10 * MEGABYTE, 65_536),
        (10 * MEGABYTE, 10 * MEGABYTE),
        (5_000_001, 100_001),
    ] {
        tests.add(format!("streams/output of {count} in steps of {step}"), move |context| {
            let run = generate(context, count, step).compare(context)?;
            ensure(run.stdout.len() == count, || format!("{} bytes", run.stdout.len()))
        });
    }
    tests.add("streams/output and error in order", |context| {
        let run = generate(context, 100_000, 61)
            .args(["both"])
            .output(Output::Merged)
            .compare(context)?;
        ensure(run.stdout.len() == 100_000, || format!("{} bytes", run.stdout.len()))
    });
    tests.add("streams/output and error apart", |context| {
        let run = generate(context, 200_000, 997).args(["both"]).compare(context)?;
        ensure(run.stdout.len() > 90_000 && run.stderr.len() > 90_000, || {
            format!("{} and {} bytes", run.stdout.len(), run.stderr.len())
        })
    });
    tests.add("streams/output to a file", |context| {
        let path = context.directory.join("output");
        let mut outputs = Vec::new();
        for guest in [false, true] {
            fs::write(&path, "").map_err(|error| error.to_string())?;
            let program = generate(context, 3 * MEGABYTE, 5000).output(Output::File(path.clone()));
            let run = if guest {
                program.run_in_guest(context)?
            } else {
                program.run_on_host(context)?
            };
            outputs.push((fs::read(&path).map_err(|error| error.to_string())?, run.status));
        }
        ensure(outputs[0] == outputs[1] && outputs[0].0.len() == 3 * MEGABYTE, || {
            "the files differ".to_owned()
        })
    });
    tests.add("streams/output to a full disk", |context| {
        let run = generate(context, 100_000, 100)
            .output(Output::File("/dev/full".into()))
            .compare(context)?;
        ensure(run.status == 4 && run.complaint().contains("No space left"), || format!("{run:?}"))
    });
    tests.add("streams/output to nobody", |context| {
        let run = generate(context, 100_000, 100).output(Output::Broken).compare(context)?;
        ensure(run.status == 141, || format!("{run:?}"))
    });
    tests.add("streams/output to nobody through streams", |context| {
        let run = Program::new(context.fixture("busybox"))
            .args(["seq", "100000"])
            .output(Output::Broken)
            .compare(context)?;
        ensure(run.status == 141, || format!("{run:?}"))
    });
    tests.add("streams/a reader that leaves", a_reader_that_leaves);
    for (name, input) in [
        ("a pipe", Input::Pipe(noise(3 * MEGABYTE + 17))),
        ("an empty pipe", Input::Pipe(Vec::new())),
        ("null", Input::Null),
        ("zeroes", Input::File("/dev/zero".into())),
    ] {
        for step in [1000, 200_000] {
            let input = input.clone();
            tests.add(format!("streams/input from {name} in steps of {step}"), move |context| {
                take(context, 4 * MEGABYTE, step).input(input.clone()).compare(context).map(drop)
            });
        }
    }
    tests.add("streams/closed input", |context| {
        // Rust's runtime opens /dev/null in the place of a closed descriptor, before `airlock` itself begins: the
        // program sees the end of its input, and no host's file by accident.
        let run = take(context, 100, 100).input(Input::Closed).run_in_guest(context)?;
        ensure(run.status == 0 && run.stdout.is_empty() && run.stderr.is_empty(), || {
            format!("{run:?}")
        })
    });
    tests.add("streams/input one byte at a time", |context| {
        take(context, 2000, 1).input(Input::Pipe(noise(2000))).compare(context).map(drop)
    });
    tests.add("streams/how much input there is", |context| {
        let input = Input::Pipe(noise(100));
        Program::new(context.fixture("available"))
            .args(["100"])
            .input(input)
            .compare(context)
            .map(drop)
    });
    tests.add("streams/input from a file", |context| {
        let path = context.directory.join("input");
        fs::write(&path, noise(MEGABYTE)).map_err(|error| error.to_string())?;
        take(context, 4 * MEGABYTE, 4096).input(Input::File(path)).compare(context).map(drop)
    });
    for count in [0, 1, 100, 4096, 5000] {
        tests.add(
            format!("streams/the rest of the input after {count} bytes of a file"),
            move |context| {
                let path = context.directory.join("input");
                fs::write(&path, noise(10_000)).map_err(|error| error.to_string())?;
                the_rest(
                    context,
                    count,
                    Stdio::from(fs::File::open(&path).map_err(|error| error.to_string())?),
                )
            },
        );
        tests.add(
            format!("streams/the rest of the input after {count} bytes of a pipe"),
            move |context| {
                let (reader, mut writer) = std::io::pipe().map_err(|error| error.to_string())?;
                // Less than a pipe holds, so this does not block.
                std::io::Write::write_all(&mut writer, &noise(10_000))
                    .map_err(|error| error.to_string())?;
                drop(writer);
                the_rest(context, count, Stdio::from(reader))
            },
        );
    }
    tests.add("streams/input that never comes does not hold up the end", |context| {
        let run = Program::new(context.fixture("hello-musl"))
            .input(Input::Silence)
            .run_in_guest(context)?;
        ensure(run.status == 0 && run.time < Duration::from_secs(10) * context.patience, || {
            format!("{run:?}")
        })
    });
    tests.add("streams/ten at a time", |context| {
        let spec = |number: usize| {
            let program = generate(context, 200_000 + number, 7000);
            program.guest_spec(context).directory(Path::new("/")).start()
        };
        let running = (0..10).map(spec).collect::<Result<Vec<_>, _>>()?;
        for (number, machine) in running.into_iter().enumerate() {
            let run = machine.finish()?;
            ensure(run.status == 0 && run.stdout.len() == 200_000 + number, || {
                format!("{}: {}", run.status, run.complaint())
            })?;
        }
        Ok(())
    });
}

/// The program takes `count` bytes of an input that it shares with us; what is left has to be the rest.
fn the_rest(context: &Context, count: usize, input: Stdio) -> Result<(), String> {
    // One shell would do; without one, both commands get the same open file description from here.
    let failed = |error: std::io::Error| error.to_string();
    let mut holder = Command::new(context.fixture("busybox"));
    holder
        .args(["sh", "-c", "\"$@\" >&2; exec cat", "sh"])
        .arg(&context.airlock)
        .arg("run")
        .arg(context.fixture("take"));
    holder.args([count.to_string(), "100000".to_owned()]).stdin(input).process_group(0);
    let output = holder
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?
        .wait_with_output()
        .map_err(failed)?;
    let all = noise(10_000);
    ensure(output.stderr == all[..count], || {
        format!(
            "the program took {} bytes: {:?}",
            output.stderr.len(),
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    ensure(output.stdout == all[count..], || {
        format!("{} bytes were left instead of {}", output.stdout.len(), 10_000 - count)
    })
}

/// The reader of a pipe leaves in the middle of a long output.
fn a_reader_that_leaves(context: &Context) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut child = Command::new(&context.airlock)
        .arg("run")
        .arg(context.fixture("wait"))
        .arg("print")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut some = [0; 100_000];
    let mut output = child.stdout.take().ok_or("no output")?;
    output.read_exact(&mut some).map_err(failed)?;
    drop(output);
    let output = child.wait_with_output().map_err(failed)?;
    let status = output.status;
    let piped = status.code() == Some(141)
        || std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGPIPE);
    ensure(piped && output.stderr.is_empty(), || {
        format!("{status}: {}", String::from_utf8_lossy(&output.stderr))
    })
}
