//! /sys: what C libraries and language runtimes read of it.

use super::{Dynamic, Entry, Kind, Node, directory, parse_decimal, proc::machine, text};
use crate::errno::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The tree.
pub(super) static ROOT: Entry = directory(
    1,
    "sys",
    &[
        directory(2, "devices", &[directory(3, "system", DEVICES_SYSTEM)]),
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

static DEVICES_SYSTEM: &[Entry] =
    &[Entry { number: 4, name: "cpu", mode: 0o555, kind: Kind::Dynamic(CPUS, &Cpus) }];

static CPUS: &[Entry] = &[
    text(5, "online", cpus),
    text(6, "possible", cpus),
    text(7, "present", cpus),
    text(15, "offline", |_| Ok(Vec::from(b"\n"))),
    text(16, "isolated", |_| Ok(Vec::from(b"\n"))),
    text(17, "kernel_max", |_| Ok(format!("{}\n", MOST_CPUS - 1).into_bytes())),
];

/// As many vCPUs as the kernel supports.
const MOST_CPUS: u32 = 254;

/// The directories of all vCPUs.
struct Cpus;

impl Dynamic for Cpus {
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let number = name.strip_prefix(self.prefix().as_bytes()).and_then(parse_decimal);
        let item = number.ok_or(Errno::ENOENT)?;
        if item >= machine()?.cpus {
            return Err(Errno::ENOENT);
        }
        Ok(Node { entry: cpu(item), item, ..*directory })
    }

    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>> {
        let exists = number < machine()?.cpus;
        Ok(exists.then(|| (number, Node { entry: cpu(number), item: number, ..*directory })))
    }

    fn prefix(&self) -> &'static str {
        "cpu"
    }
}

/// The first vCPU, which can never be taken away, and the others.
static FIRST_CPU: Entry = directory(18, "cpu0", &[directory(19, "topology", TOPOLOGY)]);
static OTHER_CPU: Entry = directory(
    20,
    "cpu",
    &[directory(21, "topology", TOPOLOGY_TOO), text(22, "online", |_| Ok(Vec::from(b"1\n")))],
);

fn cpu(number: u32) -> &'static Entry {
    if number == 0 { &FIRST_CPU } else { &OTHER_CPU }
}

/// A vCPU is a core with one thread, and all are in one package, as /proc/cpuinfo has it. (An entry is in one
/// table only, by which its directory is found.)
static TOPOLOGY: &[Entry] = &topology(30);
static TOPOLOGY_TOO: &[Entry] = &topology(50);

const fn topology(first: u16) -> [Entry; 13] {
    [
        text(first, "core_id", |node| Ok(format!("{}\n", node.item).into_bytes())),
        text(first + 1, "physical_package_id", zero),
        text(first + 2, "die_id", zero),
        text(first + 3, "core_cpus", own_mask),
        text(first + 4, "core_cpus_list", own_number),
        text(first + 5, "thread_siblings", own_mask),
        text(first + 6, "thread_siblings_list", own_number),
        text(first + 7, "core_siblings", all_mask),
        text(first + 8, "core_siblings_list", cpus),
        text(first + 9, "die_cpus", all_mask),
        text(first + 10, "die_cpus_list", cpus),
        text(first + 11, "package_cpus", all_mask),
        text(first + 12, "package_cpus_list", cpus),
    ]
}

fn zero(_: &Node) -> Result<Vec<u8>> {
    Ok(Vec::from(b"0\n"))
}

fn own_number(node: &Node) -> Result<Vec<u8>> {
    Ok(format!("{}\n", node.item).into_bytes())
}

fn own_mask(node: &Node) -> Result<Vec<u8>> {
    Ok(mask(machine()?.cpus, |cpu| cpu == node.item))
}

fn all_mask(_: &Node) -> Result<Vec<u8>> {
    Ok(mask(machine()?.cpus, |_| true))
}

/// A mask of vCPUs as Linux writes it: groups of 32 bits in hexadecimal, the highest first, which has no more digits
/// than there are vCPUs for.
fn mask(count: u32, is_in: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut text = String::new();
    let groups = count.div_ceil(32).max(1);
    for group in (0..groups).rev() {
        let first = group * 32;
        let bits = (count - first).min(32);
        let word =
            (0..bits).filter(|&bit| is_in(first + bit)).fold(0_u32, |word, bit| word | 1 << bit);
        let width = crate::memory::usize_from(bits.div_ceil(4).into());
        // Writing to a string does not fail.
        let _ = write!(text, "{word:0width$x}{}", if group == 0 { "\n" } else { "," });
    }
    text.into_bytes()
}

/// Whether an entry is somewhere in the tree.
pub(super) fn holds(entry: &Entry) -> bool {
    [&ROOT, &FIRST_CPU, &OTHER_CPU].iter().any(|root| root.holds(entry))
}

/// The directory above an entry that is in a vCPU's, or is that, and the vCPU in its path.
pub(super) fn parent_of_dynamic(entry: &'static Entry, cpu: u32) -> Option<(&'static Entry, u32)> {
    let roots = [&FIRST_CPU, &OTHER_CPU];
    if roots.iter().any(|root| core::ptr::eq(*root, entry)) {
        let cpus = DEVICES_SYSTEM.iter().find(|entry| entry.name == "cpu");
        return cpus.map(|cpus| (cpus, 0));
    }
    roots.iter().find_map(|root| root.parent_of(entry)).map(|parent| (parent, cpu))
}

fn cpus(_: &Node) -> Result<Vec<u8>> {
    let last = machine()?.cpus.saturating_sub(1);
    Ok(if last == 0 { Vec::from(b"0\n") } else { format!("0-{last}\n").into_bytes() })
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masks_have_as_many_digits_as_there_are_vcpus_for() {
        let all = |count| mask(count, |_| true);
        assert_eq!([all(1), all(2), all(4)], [b"1\n", b"3\n", b"f\n"]);
        assert_eq!([all(5), all(8)], [b"1f\n", b"ff\n"]);
        assert_eq!(all(32), b"ffffffff\n");
        assert_eq!(all(33), b"1,ffffffff\n");
        assert_eq!(mask(40, |cpu| cpu == 33), b"02,00000000\n");
        assert_eq!(mask(8, |cpu| cpu == 2), b"04\n");
    }
}
