//! Dynamically linked programs, and scripts: what they need comes with them.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::ensure;
use crate::comparison::Program;
use crate::harness::{Context, Tests};

/// What scripts do with processes; its argument is busybox.
const SHELLS: &str = include_str!("../../fixtures/shells.sh");

/// A fixture that is also given to the guest.
fn with_file(context: &Context, name: &str) -> [OsString; 2] {
    ["--file".into(), context.fixture(name).into()]
}

fn busybox() -> [&'static str; 2] {
    ["--file", "/bin/busybox"]
}

pub(super) fn add(tests: &mut Tests) {
    for (name, plugin) in [
        ("dynamic-glibc", "libplugin.so"),
        ("dynamic-glibc-no-pie", "libplugin.so"),
        ("dynamic-musl", "libplugin-musl.so"),
    ] {
        tests.add(format!("dynamic/{name}"), move |context| {
            let run = Program::new(context.fixture(name))
                .options(with_file(context, plugin))
                .args([plugin])
                .compare(context)?;
            let text = String::from_utf8_lossy(&run.stdout);
            ensure(run.status == 7 && text.contains("plugin got 6"), || format!("{run:?}"))
        });
        tests.add(format!("dynamic/{name} without its plugin"), move |context| {
            Program::new(context.fixture(name)).args(["absent.so"]).compare(context).map(drop)
        });
    }
    tests.add("dynamic/LD_LIBRARY_PATH and LD_PRELOAD", |context| {
        // A copy of the program finds no library beside itself.
        let program = std::fs::read(context.fixture("dynamic-glibc")).map_err(|e| e.to_string())?;
        let directory = context.fixture("libnumbers.so");
        let directory = directory.parent().ok_or("no directory")?;
        let copy = |name: &str| Program::new("./copy").file_with_mode(name, program.clone(), 0o755);
        let run = copy("copy").compare(context)?;
        ensure(run.status == 127 && run.complaint().contains("libnumbers.so"), || {
            format!("{run:?}")
        })?;
        let run = copy("copy").env("LD_LIBRARY_PATH", directory).compare(context)?;
        ensure(run.status == 7, || format!("{run:?}"))?;
        let run = copy("copy")
            .env("LD_LIBRARY_PATH", directory)
            .env("LD_PRELOAD", context.fixture("libplugin.so"))
            .compare(context)?;
        ensure(run.stdout.starts_with(b"numbers: constructor\nplugin: constructor"), || {
            format!("{run:?}")
        })
    });
    tests.add("dynamic/a link to a program", |context| {
        // Its libraries are beside the program, not beside the link.
        let link = context.directory.join("link");
        symlink(context.fixture("dynamic-glibc"), &link).map_err(|error| error.to_string())?;
        let run = Program::new(&link).compare(context);
        std::fs::remove_file(&link).map_err(|error| error.to_string())?;
        run.map(drop)
    });
    tests.add("dynamic/the interpreter as a program", |context| {
        Program::new("/lib64/ld-linux-x86-64.so.2")
            .options(with_file(context, "dynamic-glibc"))
            .options(with_file(context, "libnumbers.so"))
            .options(["--file", "/lib/x86_64-linux-gnu/libc.so.6"])
            .options(["--file", "/lib/x86_64-linux-gnu/libm.so.6"])
            .options(["--file", "/lib/x86_64-linux-gnu/libgcc_s.so.1"])
            .args(["--list".into(), context.fixture("dynamic-glibc")])
            .normalise(|bytes| bytes)
            .run_in_guest(context)
            .and_then(|run| {
                let text = String::from_utf8_lossy(&run.stdout).into_owned();
                ensure(run.status == 0 && text.contains("libnumbers.so =>"), || format!("{run:?}"))
            })
    });
    for (name, shell) in [
        ("bash", &["/bin/bash"][..]),
        ("dash", &["/bin/dash"]),
        ("busybox", &["/bin/busybox", "sh"]),
    ] {
        tests.add(format!("dynamic/scripts of {name}"), move |context| {
            let run = Program::new(shell[0])
                .options(busybox())
                .file("shells.sh", SHELLS)
                .args(&shell[1..])
                .args(["./shells.sh", "/bin/busybox"])
                .limit(Duration::from_secs(60))
                .compare(context)?;
            ensure(run.status == 5 && run.stdout.ends_with(b"the end\n"), || format!("{run:?}"))
        });
    }
    for (name, first_line) in [
        ("a script", "#!/bin/bash"),
        ("a script with an argument", "#! /bin/bash -eu "),
        ("a script for a static program", "#!/bin/busybox sh"),
    ] {
        tests.add(format!("dynamic/{name}"), move |context| {
            let text = format!(
                "{first_line}\necho \"$0\" \"$#\" \"$1\" \"$-\"\n/bin/busybox cat /proc/$$/comm\nexit 3\n"
            );
            let run = Program::new("./script")
                .options(busybox())
                .file_with_mode("script", text, 0o755)
                .args(["an argument"])
                .compare(context)?;
            ensure(run.status == 3, || format!("{run:?}"))
        });
    }
    tests.add("dynamic/a script for a script", |context| {
        Program::new("./outer")
            .options(busybox())
            .file_with_mode("outer", "#!./inner -x\n", 0o755)
            .file_with_mode("inner", "#!/bin/busybox sh\necho \"$0\" \"$@\"\n", 0o755)
            .args(["a", "b"])
            .compare(context)
            .map(drop)
    });
}
