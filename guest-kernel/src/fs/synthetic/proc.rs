//! /proc (`proc(5)`): the machine's part, and which processes there are.

mod process;

use super::super::facts::MachineFacts;
use super::super::services::services;
use super::super::tty::registry;
use super::super::{epoll, inotify, pipe, root};
use super::{Dynamic, Entry, Kind, Node, Target, directory, link, parse_decimal, text};
use crate::errno::{Errno, Result};
use crate::ipc::{messages, mqueue, semaphores, shared_memory};
use crate::memory::PAGE;
use crate::net::options;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The tree.
pub(super) static ROOT: Entry =
    Entry { number: 1, name: "proc", mode: 0o555, kind: Kind::Dynamic(ENTRIES, &Processes) };

static ENTRIES: &[Entry] = &[
    link(2, "self", |_| own_path("")),
    link(3, "thread-self", |_| own_path("/task/")),
    link(4, "mounts", |_| super::device::path(b"self/mounts")),
    link(60, "net", |_| super::device::path(b"self/net")),
    text(5, "meminfo", memory),
    text(70, "locks", |_| crate::fs::locks::text()),
    directory(
        71,
        "sysvipc",
        &[
            text(72, "shm", |_| crate::ipc::listing::shared_memory()),
            text(73, "sem", |_| crate::ipc::listing::semaphores()),
            text(74, "msg", |_| crate::ipc::listing::messages()),
        ],
    ),
    text(6, "cpuinfo", cpus),
    text(7, "stat", statistics),
    text(8, "uptime", uptime),
    text(9, "loadavg", load),
    text(10, "version", version),
    text(11, "filesystems", |_| {
        Ok(Vec::from(
            b"nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\t9p\n\terofs\n",
        ))
    }),
    text(12, "cmdline", |_| {
        let mut line = machine()?.command_line;
        line.push(b'\n');
        Ok(line)
    }),
    text(13, "devices", |_| {
        Ok(Vec::from(b"Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n128 ptm\n136 pts\n\nBlock devices:\n"))
    }),
    directory(50, "tty", &[text(51, "drivers", |_| Ok(Vec::from(TERMINAL_DRIVERS)))]),
    directory(
        14,
        "sys",
        &[
            directory(
                15,
                "kernel",
                &[
                    text(16, "hostname", |_| {
                        let mut name = machine()?.host_name;
                        name.push(b'\n');
                        Ok(name)
                    }),
                    text(17, "osrelease", |_| line(machine()?.names[2])),
                    text(18, "ostype", |_| line(machine()?.names[0])),
                    text(19, "version", |_| line(machine()?.names[3])),
                    text(75, "shmmax", |_| number(shared_memory::MAX_SIZE)),
                    text(76, "shmall", |_| number(shared_memory::MAX_PAGES)),
                    text(77, "shmmni", |_| number(shared_memory::MAX_SEGMENTS as u64)),
                    text(78, "sem", |_| {
                        let [of_set, of_all, of_call, sets] = semaphores::LIMITS;
                        line(&format!("{of_set}\t{of_all}\t{of_call}\t{sets}"))
                    }),
                    text(79, "msgmax", |_| number(messages::MAX_MESSAGE as u64)),
                    text(80, "msgmnb", |_| number(messages::MAX_QUEUE)),
                    text(81, "msgmni", |_| number(messages::MAX_QUEUES as u64)),
                    text(20, "pid_max", |_| line("32768")),
                    text(21, "threads-max", |_| line("32768")),
                    text(22, "ngroups_max", |_| line("65536")),
                    text(23, "cap_last_cap", |_| line("40")),
                    text(24, "randomize_va_space", |_| line("2")),
                    text(100, "domainname", |_| line("(none)")),
                    text(101, "arch", |_| line(machine()?.names[4])),
                    text(102, "core_pattern", |_| line("core")),
                    text(103, "core_uses_pid", |_| line("0")),
                    text(104, "core_pipe_limit", |_| line("0")),
                    text(105, "overflowuid", |_| line("65534")),
                    text(106, "overflowgid", |_| line("65534")),
                    text(107, "tainted", |_| line("0")),
                    text(108, "max_lock_depth", |_| line("1024")),
                    text(109, "shm_rmid_forced", |_| line("0")),
                    text(110, "sched_rr_timeslice_ms", |_| {
                        number(crate::sched::task::slice_ns() / 1_000_000)
                    }),
                    directory(
                        46,
                        "pty",
                        &[
                            text(47, "max", |_| number(registry::LIMIT as u64)),
                            text(48, "nr", |_| number(registry::count() as u64)),
                            text(49, "reserve", |_| number(registry::RESERVED as u64)),
                        ],
                    ),
                    directory(
                        25,
                        "random",
                        &[
                            text(26, "boot_id", |_| uuid(boot_seed()?)),
                            text(27, "uuid", |_| uuid(random_bytes()?)),
                            text(28, "entropy_avail", |_| line("256")),
                            text(29, "poolsize", |_| line("256")),
                        ],
                    ),
                ],
            ),
            directory(
                30,
                "vm",
                &[
                    text(31, "overcommit_memory", |_| line("1")),
                    text(32, "max_map_count", |_| line("65530")),
                ],
            ),
            directory(
                33,
                "net",
                &[
                    directory(
                        34,
                        "core",
                        &[
                            text(35, "somaxconn", |_| line("4096")),
                            text(61, "wmem_default", |_| number(options::DEFAULT_BUFFER.into())),
                            text(62, "rmem_default", |_| number(options::DEFAULT_BUFFER.into())),
                            text(63, "wmem_max", |_| number(options::MAX_BUFFER.into())),
                            text(64, "rmem_max", |_| number(options::MAX_BUFFER.into())),
                        ],
                    ),
                    directory(
                        65,
                        "unix",
                        &[text(66, "max_dgram_qlen", |_| {
                            number(crate::net::unix::MAX_DATAGRAMS as u64)
                        })],
                    ),
                ],
            ),
            directory(
                36,
                "fs",
                &[
                    text(37, "pipe-max-size", |_| number(pipe::MAX_CAPACITY as u64)),
                    text(38, "nr_open", |_| line("1048576")),
                    text(39, "file-max", |_| line("1048576")),
                    directory(
                        82,
                        "mqueue",
                        &[
                            text(83, "msg_default", |_| line(&format!("{}", mqueue::MESSAGES))),
                            text(84, "msg_max", |_| line(&format!("{}", mqueue::MESSAGES))),
                            text(85, "msgsize_default", |_| {
                                line(&format!("{}", mqueue::MESSAGE_SIZE))
                            }),
                            text(86, "msgsize_max", |_| line(&format!("{}", mqueue::MESSAGE_SIZE))),
                            text(87, "queues_max", |_| number(mqueue::MAX_QUEUES as u64)),
                        ],
                    ),
                    directory(
                        40,
                        "epoll",
                        &[text(41, "max_user_watches", |_| number(epoll::max_items()))],
                    ),
                    directory(
                        42,
                        "inotify",
                        &[
                            text(43, "max_queued_events", |_| number(inotify::MAX_EVENTS as u64)),
                            text(44, "max_user_instances", |_| {
                                number(inotify::MAX_INSTANCES as u64)
                            }),
                            text(45, "max_user_watches", |_| number(inotify::max_watches() as u64)),
                        ],
                    ),
                ],
            ),
        ],
    ),
];

/// `/proc/tty/drivers`: name, node, major number, minor numbers, kind.
const TERMINAL_DRIVERS: &[u8] = b"\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

/// The directories whose names are process IDs.
struct Processes;

impl Dynamic for Processes {
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let pid = parse_decimal(name).filter(|&pid| pid > 0).ok_or(Errno::ENOENT)?;
        services().and_then(|services| services.process(pid)).ok_or(Errno::ENOENT)?;
        Ok(Node { entry: &process::ROOT, process: pid, ..*directory })
    }

    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>> {
        let pid = services().and_then(|services| services.next_process(number.max(1)));
        Ok(pid.map(|pid| (pid, Node { entry: &process::ROOT, process: pid, ..*directory })))
    }
}

/// The directory above what is below a process, or is a process's.
pub(super) fn parent_of(node: &Node) -> Node {
    process::parent_of(node).unwrap_or_else(|| Node::new(node.file_system, &ROOT))
}

/// What the rest of the kernel tells of the machine.
pub(super) fn machine() -> Result<MachineFacts> {
    services().map(|services| services.machine()).ok_or(Errno::EIO)
}

pub(super) fn line(text: &str) -> Result<Vec<u8>> {
    Ok(format!("{text}\n").into_bytes())
}

fn number(value: u64) -> Result<Vec<u8>> {
    Ok(format!("{value}\n").into_bytes())
}

fn own_path(rest: &str) -> Result<Target> {
    let services = services().ok_or(Errno::ENOENT)?;
    let pid = services.process(0).ok_or(Errno::ENOENT)?.status().pid;
    let rest = match rest {
        "" => String::new(),
        rest => format!("{rest}{}", services.thread_id()),
    };
    Ok(Target::Path(format!("{pid}{rest}").into_bytes()))
}

fn random_bytes() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    services().ok_or(Errno::EIO)?.random(&mut bytes);
    Ok(bytes)
}

/// Random bytes that stay the same until the machine ends.
fn boot_seed() -> Result<[u8; 16]> {
    static SEED: crate::sync::SpinLock<Option<[u8; 16]>> = crate::sync::SpinLock::new(None);
    let new = random_bytes()?;
    Ok(*SEED.lock().get_or_insert(new))
}

/// A random UUID (RFC 4122, version 4).
fn uuid(mut bytes: [u8; 16]) -> Result<Vec<u8>> {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(text, "{dash}{byte:02x}").map_err(|_| Errno::EIO)?;
    }
    text.push('\n');
    Ok(text.into_bytes())
}

fn memory(node: &Node) -> Result<Vec<u8>> {
    let (free, total) = machine()?.frames;
    let kib = |frames: u64| frames * (PAGE / 1024);
    let files = (node.file_system.usage.used() + root::used_in_memory()) / 1024;
    let mut text = String::new();
    for (name, value) in [
        ("MemTotal", kib(total)),
        ("MemFree", kib(free)),
        ("MemAvailable", kib(free)),
        ("Buffers", 0),
        ("Cached", files),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", kib(total - free.min(total)).saturating_sub(files)),
        ("Mapped", 0),
        ("Shmem", files),
        ("Slab", 0),
        ("CommitLimit", kib(total)),
        ("Committed_AS", kib(total - free.min(total))),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("HugePages_Total", 0),
        ("HugePages_Free", 0),
        ("Hugepagesize", 2048),
    ] {
        let unit = if name.starts_with("HugePages_") { "" } else { " kB" };
        let label = format!("{name}:");
        writeln!(text, "{label:<15}{value:>9}{unit}").map_err(|_| Errno::EIO)?;
    }
    Ok(text.into_bytes())
}

fn trimmed(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).into();
    String::from(text.trim_matches('\0').trim())
}

fn cpus(_: &Node) -> Result<Vec<u8>> {
    let machine = machine()?;
    // CPUID leaf 1, EAX: SDM volume 2A, figure 3-6.
    let signature = machine.signature;
    let base_family = signature >> 8 & 0xf;
    let extended_family = if base_family == 0xf { signature >> 20 & 0xff } else { 0 };
    let family = base_family + extended_family;
    let model = (signature >> 4 & 0xf) | (signature >> 16 & 0xf) << 4;
    let mut text = String::new();
    for cpu in 0..machine.cpus {
        let mhz = machine.frequency_khz / 1000;
        let khz = machine.frequency_khz % 1000;
        writeln!(
            text,
            "processor\t: {cpu}\nvendor_id\t: {}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {}\nstepping\t: {}\ncpu MHz\t\t: {mhz}.{khz:03}\nphysical id\t: 0\n\
             siblings\t: {}\ncore id\t\t: {cpu}\ncpu cores\t: {}\napicid\t\t: {cpu}\nfpu\t\t: yes\n\
             address sizes\t: 39 bits physical, 48 bits virtual\n",
            trimmed(&machine.vendor),
            trimmed(&machine.model_name),
            signature & 0xf,
            machine.cpus,
            machine.cpus,
        )
        .map_err(|_| Errno::EIO)?;
    }
    Ok(text.into_bytes())
}

fn statistics(_: &Node) -> Result<Vec<u8>> {
    let machine = machine()?;
    // Clock ticks are hundredths of a second.
    let ticks = |ns: u64| ns / 10_000_000;
    let all = machine.uptime_ns.saturating_mul(machine.cpus.into());
    let busy = ticks(all.saturating_sub(machine.idle_ns));
    let idle = ticks(machine.idle_ns.min(all));
    let mut text = format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n");
    let cpus = u64::from(machine.cpus.max(1));
    for cpu in 0..machine.cpus {
        writeln!(text, "cpu{cpu} {} 0 0 {} 0 0 0 0 0 0", busy / cpus, idle / cpus)
            .map_err(|_| Errno::EIO)?;
    }
    let (made, running) = machine.processes;
    writeln!(
        text,
        "intr {}\nctxt {}\nbtime {}\nprocesses {made}\nprocs_running {running}\nprocs_blocked 0",
        machine.interrupts, machine.switches, machine.boot_time,
    )
    .map_err(|_| Errno::EIO)?;
    Ok(text.into_bytes())
}

fn uptime(_: &Node) -> Result<Vec<u8>> {
    let machine = machine()?;
    let seconds = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100);
    line(&format!("{} {}", seconds(machine.uptime_ns), seconds(machine.idle_ns)))
}

fn load(_: &Node) -> Result<Vec<u8>> {
    let machine = machine()?;
    // No average is kept: the load is what runs now.
    let running = machine.processes.1;
    line(&format!(
        "{running}.00 {running}.00 {running}.00 {running}/{} {}",
        machine.threads, machine.last_pid
    ))
}

fn version(_: &Node) -> Result<Vec<u8>> {
    let [system, _, release, version, _] = machine()?.names;
    line(&format!("{system} version {release} {version}"))
}
