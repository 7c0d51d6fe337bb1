//! Ordinary programs, built in the ways in which static programs are built.

use super::{ensure, noise};
use crate::comparison::Program;
use crate::harness::Tests;

pub(super) fn add(tests: &mut Tests) {
    for name in [
        "hello-musl",
        "hello-glibc",
        "hello-glibc-pie",
        "hello-asm",
        "hello-rust",
        "hello-rust-gnu",
    ] {
        tests.add(format!("programs/{name}"), move |context| {
            let run = Program::new(context.fixture(name)).compare(context)?;
            ensure(run.stdout.starts_with(b"hello"), || format!("no greeting: {run:?}"))
        });
    }
    for build in ["musl", "glibc", "glibc-pie", "stdio", "stdio-musl"] {
        let fixture = move |context: &crate::harness::Context| {
            Program::new(context.fixture(&format!("read256-{build}")))
        };
        tests.add(format!("programs/read256-{build}"), move |context| {
            // Not a multiple of 256, of 4096, or of a buffer.
            let bytes = noise(100_003);
            let run =
                fixture(context).args(["input"]).file("input", bytes.clone()).compare(context)?;
            ensure(run.stdout == bytes && run.status == 0, || {
                "the copy is not the original".to_owned()
            })
        });
        tests.add(format!("programs/read256-{build}-missing"), move |context| {
            let run = fixture(context).args(["no-such-file"]).compare(context)?;
            ensure(run.complaint().contains("No such file or directory") && run.status == 1, || {
                format!("{run:?}")
            })
        });
        tests.add(format!("programs/read256-{build}-empty"), move |context| {
            fixture(context).args(["empty"]).file("empty", "").compare(context).map(drop)
        });
        tests.add(format!("programs/read256-{build}-directory"), move |context| {
            fixture(context).args(["/"]).compare(context).map(drop)
        });
        tests.add(format!("programs/read256-{build}-usage"), move |context| {
            fixture(context).compare(context).map(drop)
        });
    }
    tests.add("programs/arguments", |context| {
        let program = Program::new(context.fixture("arguments-musl"))
            .args([
                "one",
                "",
                "three four",
                "--mem",
                "-t",
                "ünï",
                "tab\there\nand newline",
                "'\"$HOME\\",
            ])
            .env("NAME", "value=with=signs")
            .env("EMPTY", "")
            .env("HOME", "/elsewhere");
        let run = program.compare(context)?;
        ensure(run.status == 9, || format!("{run:?}"))
    });
    tests.add("programs/arguments-not-utf-8", |context| {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::ffi::OsString::from_vec(b"\xff\xfe\x01".to_vec());
        Program::new(context.fixture("arguments-glibc-pie")).args([odd]).compare(context).map(drop)
    });
    tests.add("programs/arguments-many", |context| {
        let program = Program::new(context.fixture("arguments-musl"));
        // Linux takes 128 KiB for one string, and a quarter of the stack's limit for all of them.
        let long = "x".repeat(100_000);
        let program = program
            .args((0..200).map(|number| format!("{number}")))
            .args([long])
            .env("LONG", "y".repeat(50_000));
        program.compare(context).map(drop)
    });
    // How a stack overflow ends depends on the C library, and is compared like everything else.
    for (mode, statuses) in [
        ("tour", 0..=0),
        ("panic", 134..=134),
        ("overflow", 134..=139),
        ("segfault", 139..=139),
        ("exit", 42..=42),
        ("stderr", 0..=0),
        ("file-missing", 1..=1),
        ("memory", 0..=0),
    ] {
        for build in ["rust", "rust-gnu"] {
            let statuses = statuses.clone();
            tests.add(format!("programs/{build}-{mode}"), move |context| {
                let program = Program::new(context.fixture(&format!("standard-{build}")));
                let program = program
                    .args([mode, "argument"])
                    .env("RUST_BACKTRACE", "0")
                    .file("data.txt", "one\ntwo\nthree\n");
                let run = program.normalise(without_numbers).compare(context)?;
                ensure(statuses.contains(&run.status), || format!("{run:?}"))
            });
        }
    }
}

/// Rust's panic messages name the thread by its number.
fn without_numbers(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().filter(|byte| !byte.is_ascii_digit()).collect()
}
