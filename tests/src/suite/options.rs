//! Options of `airlock run`.

use std::fs;
use std::time::Duration;

use super::{ensure, noise};
use crate::comparison::Program;
use crate::harness::Tests;

pub(super) fn add(tests: &mut Tests) {
    for memory in ["16M", "64M", "3G", "5G", "200G"] {
        tests.add(format!("options/mem {memory}"), move |context| {
            Program::new(context.fixture("hello-musl"))
                .options(["--mem", memory])
                .compare(context)
                .map(drop)
        });
    }
    tests.add("options/mem is what the program sees", |context| {
        let program =
            Program::new(context.fixture("busybox")).args(["grep", "MemTotal", "/proc/meminfo"]);
        let run = program.options(["--mem", "1G"]).run_in_guest(context)?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let kilobytes =
            text.split_whitespace().nth(1).and_then(|number| number.parse::<u32>().ok());
        ensure(kilobytes.is_some_and(|size| (900_000..=1_048_576).contains(&size)), || {
            format!("{text:?} {}", run.complaint())
        })
    });
    for cpus in ["1", "2", "4", "16"] {
        tests.add(format!("options/cpus {cpus}"), move |context| {
            let program =
                Program::new(context.fixture("busybox")).args(["nproc"]).options(["--cpus", cpus]);
            let run = program.run_in_guest(context)?;
            ensure(run.stdout == format!("{cpus}\n").as_bytes(), || format!("{run:?}"))
        });
    }
    tests.add("options/workdir", |context| {
        let program = Program::new(context.fixture("busybox"))
            .args(["pwd"])
            .options(["--workdir", "/some/where"]);
        let run = program.run_in_guest(context)?;
        ensure(run.stdout == b"/some/where\n", || format!("{run:?}"))
    });
    tests.add("options/file elsewhere", |context| {
        let bytes = noise(10_000);
        let path = context.directory.join("name on the host");
        fs::write(&path, &bytes).map_err(|error| error.to_string())?;
        let option = format!("{}:/data/in/guest", path.display());
        let program = Program::new(context.fixture("read256-musl"))
            .args(["/data/in/guest"])
            .options(["--file", &option]);
        let run = program.run_in_guest(context)?;
        ensure(run.stdout == bytes, || run.complaint())
    });
    tests.add("options/file, a directory", |context| {
        let failed = |error: std::io::Error| error.to_string();
        let tree = context.directory.join("tree");
        fs::create_dir_all(tree.join("a/b")).map_err(failed)?;
        for number in 0..500 {
            fs::write(tree.join(format!("a/file-{number}")), format!("{number}"))
                .map_err(failed)?;
        }
        fs::write(tree.join("a/b/deep"), noise(5000)).map_err(failed)?;
        std::os::unix::fs::symlink("../file-7", tree.join("a/b/link")).map_err(failed)?;
        let list = |option: &[&str], path: &str| {
            let program = Program::new(context.fixture("busybox"))
                .args(["find", path])
                .options(option.iter().copied());
            let program = program.run_in_guest(context)?;
            ensure(program.status == 0, || program.complaint())?;
            let mut lines: Vec<_> =
                String::from_utf8_lossy(&program.stdout).lines().map(str::to_owned).collect();
            lines.sort();
            Ok::<_, String>(lines)
        };
        let lines = list(&["--file", &format!("{}:/tree", tree.display())], "/tree")?;
        // The tree itself, a, b, deep, link and 500 files.
        ensure(lines.len() == 505 && lines.contains(&"/tree/a/file-499".to_owned()), || {
            format!("{} entries", lines.len())
        })?;
        let program = Program::new(context.fixture("busybox")).args([
            "cat",
            "/tree/a/b/link",
            "/tree/a/b/../../a/file-8",
        ]);
        let run = program
            .options(["--file", &format!("{}:/tree", tree.display())])
            .run_in_guest(context)?;
        ensure(run.stdout == b"78", || format!("{run:?}"))
    });
    tests.add("options/the guest sees no other file of the host", |context| {
        let program = Program::new(context.fixture("busybox")).args([
            "ls",
            "/etc/hostname",
            "/etc/shadow",
            "/home",
            "/usr/bin/env",
        ]);
        let run = program.run_in_guest(context)?;
        ensure(run.status != 0 && run.stdout.is_empty(), || format!("{run:?}"))
    });
    tests.add("options/timeout", |context| {
        let program =
            Program::new(context.fixture("wait")).args(["spin"]).options(["--timeout", "500ms"]);
        let run = program.run_in_guest(context)?;
        ensure(run.status == 124 && run.stdout == b"ready\n", || format!("{run:?}"))?;
        let patience = Duration::from_secs(3) * context.patience;
        ensure(run.time >= Duration::from_millis(500) && run.time < patience, || {
            format!("after {:?}", run.time)
        })
    });
    for (state, what) in [("sleep", "sleeps"), ("calls", "makes system calls"), ("print", "prints")]
    {
        tests.add(format!("options/timeout of a program that {what}"), move |context| {
            let program =
                Program::new(context.fixture("wait")).args([state]).options(["--timeout", "1"]);
            let run = program.run_in_guest(context)?;
            ensure(run.status == 124, || format!("{} {}", run.status, run.complaint()))
        });
    }
    tests.add("options/timeout that is not reached", |context| {
        Program::new(context.fixture("hello-musl"))
            .options(["--timeout", "1h"])
            .compare(context)
            .map(drop)
    });
    tests.add("options/idle uses no processor", |context| {
        let run =
            Program::new(context.fixture("busybox")).args(["sleep", "2"]).run_in_guest(context)?;
        ensure(run.status == 0 && run.time >= Duration::from_secs(2), || format!("{run:?}"))?;
        ensure(run.processor < Duration::from_millis(200) * context.patience, || {
            format!("{:?} of CPU time", run.processor)
        })
    });
}
