//! /sys: what C libraries and language runtimes read of it.

use super::{Entry, Node, directory, proc::machine, text};
use crate::errno::Result;
use alloc::format;
use alloc::vec::Vec;

/// The tree.
pub(super) static ROOT: Entry = directory(
    1,
    "sys",
    &[
        directory(
            2,
            "devices",
            &[directory(
                3,
                "system",
                &[directory(
                    4,
                    "cpu",
                    &[text(5, "online", cpus), text(6, "possible", cpus), text(7, "present", cpus)],
                )],
            )],
        ),
        directory(
            8,
            "kernel",
            &[directory(
                9,
                "mm",
                &[directory(
                    10,
                    "transparent_hugepage",
                    &[
                        text(11, "enabled", |_| Ok(Vec::from(b"always madvise [never]\n"))),
                        text(12, "hpage_pmd_size", |_| Ok(Vec::from(b"2097152\n"))),
                    ],
                )],
            )],
        ),
        directory(13, "fs", &[directory(14, "cgroup", &[])]),
    ],
);

fn cpus(_: &Node) -> Result<Vec<u8>> {
    let last = machine()?.cpus.saturating_sub(1);
    Ok(if last == 0 { Vec::from(b"0\n") } else { format!("0-{last}\n").into_bytes() })
}
