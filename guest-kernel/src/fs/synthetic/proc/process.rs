//! /proc/PID.

use super::super::super::facts::{Area, ProcessFacts, ProcessStatus};
use super::super::super::metadata::device_parts;
use super::super::super::mount;
use super::super::super::services::services;
use super::super::{Dynamic, Entry, Kind, Node, Target, directory, parse_decimal, text};
use super::{line, trimmed};
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

/// The directory of one process.
pub(super) static ROOT: Entry =
    Entry { number: 100, name: "", mode: 0o555, kind: Kind::Directory(ENTRIES) };

/// The directory of one thread, which has no threads itself.
static THREAD: Entry = Entry {
    number: 99,
    name: "",
    mode: 0o555,
    kind: Kind::Directory(match ENTRIES.split_last() {
        Some((_, rest)) => rest,
        None => &[],
    }),
};

static ENTRIES: &[Entry] = &[
    magic_link(101, "exe", |node| Ok(Target::Path(of(node)?.executable()))),
    magic_link(102, "cwd", |node| Ok(Target::File(of(node)?.context()?.directory))),
    magic_link(103, "root", |node| Ok(Target::File(of(node)?.context()?.root))),
    text(104, "maps", maps),
    text(105, "stat", stat),
    text(106, "statm", statm),
    text(107, "status", status),
    text(108, "cmdline", |node| of(node)?.arguments()),
    Entry {
        number: 109,
        name: "environ",
        mode: 0o400,
        kind: Kind::Text(|node| of(node)?.environment()),
    },
    text(110, "comm", |node| line(&trimmed(&of(node)?.status().name))),
    text(111, "mounts", mounts),
    text(112, "mountinfo", mount_information),
    text(113, "limits", limits),
    Entry {
        number: 114,
        name: "auxv",
        mode: 0o400,
        kind: Kind::Text(|node| of(node)?.auxiliary_vector()),
    },
    Entry { number: 115, name: "fd", mode: 0o500, kind: Kind::Dynamic(&[], &Descriptors(&FD)) },
    Entry {
        number: 116,
        name: "fdinfo",
        mode: 0o555,
        kind: Kind::Dynamic(&[], &Descriptors(&FD_INFORMATION)),
    },
    directory(121, "net", &[text(122, "unix", |_| crate::net::unix::text())]),
    text(117, "cgroup", |_| line("0::/")),
    text(119, "oom_score_adj", |_| line("0")),
    text(120, "loginuid", |_| line("4294967295")),
    // The last, so that threads can have all others.
    Entry { number: 118, name: "task", mode: 0o555, kind: Kind::Dynamic(&[], &Threads) },
];

/// What /proc/PID/fd holds for each descriptor...
static FD: Entry = magic_link(130, "", |node| {
    let item = i32::try_from(node.item).map_err(|_| Errno::ENOENT)?;
    of(node)?.files().lock().get(item).map(Target::Open).map_err(|_| Errno::ENOENT)
});
/// ...and /proc/PID/fdinfo.
static FD_INFORMATION: Entry = text(131, "", |node| {
    let item = i32::try_from(node.item).map_err(|_| Errno::ENOENT)?;
    let process = of(node)?;
    let (file, close) = {
        let files = process.files();
        let files = files.lock();
        (files.get(item)?, files.close_on_exec(item)?)
    };
    let close = if close { linux_raw_sys::general::O_CLOEXEC } else { 0 };
    let text = format!(
        "pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}",
        file.offset(),
        file.flags() | close,
        file.mount().map_or(0, |mount| mount.id()),
        file.inode().number()
    );
    let details = file.as_stream().map_or_else(Vec::new, |stream| stream.details());
    let mut text = line(&text)?;
    if !details.is_empty() {
        text.try_reserve(details.len() + 1).map_err(|_| Errno::ENOMEM)?;
        text.extend_from_slice(&details);
        text.push(b'\n');
    }
    Ok(text)
});

const fn magic_link(number: u16, name: &'static str, target: fn(&Node) -> Result<Target>) -> Entry {
    Entry { number, name, mode: 0o777, kind: Kind::Link(target) }
}

/// The process that a path named, or its thread.
fn of(node: &Node) -> Result<Arc<dyn ProcessFacts>> {
    let id = if node.thread == 0 { node.process } else { node.thread };
    services().and_then(|services| services.process(id)).ok_or(Errno::ENOENT)
}

/// The directories whose names are descriptors.
struct Descriptors(&'static Entry);

impl Dynamic for Descriptors {
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let item = parse_decimal(name).ok_or(Errno::ENOENT)?;
        let fd = i32::try_from(item).map_err(|_| Errno::ENOENT)?;
        of(directory)?.files().lock().get(fd).map_err(|_| Errno::ENOENT)?;
        Ok(Node { entry: self.0, item, ..*directory })
    }

    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>> {
        let Ok(from) = i32::try_from(number) else { return Ok(None) };
        let next = of(directory)?.files().lock().next(from);
        Ok(next.and_then(|fd| {
            let item = u32::try_from(fd).ok()?;
            Some((item, Node { entry: self.0, item, ..*directory }))
        }))
    }
}

/// The threads.
struct Threads;

impl Dynamic for Threads {
    fn find(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let tid = parse_decimal(name).ok_or(Errno::ENOENT)?;
        if of(directory)?.thread_ids().contains(&tid) {
            Ok(Node { entry: &THREAD, thread: tid, ..*directory })
        } else {
            Err(Errno::ENOENT)
        }
    }

    fn next(&self, directory: &Node, number: u32) -> Result<Option<(u32, Node)>> {
        let next = of(directory)?.thread_ids().into_iter().find(|&tid| tid >= number);
        Ok(next.map(|tid| (tid, Node { entry: &THREAD, thread: tid, ..*directory })))
    }
}

/// The directory that a file of a process or thread is in; the directory of a process is in none here.
pub(super) fn parent_of(node: &Node) -> Option<Node> {
    let named = |name| ENTRIES.iter().find(|entry| entry.name == name);
    if core::ptr::eq(node.entry, &THREAD) {
        return Some(Node { entry: named("task")?, thread: 0, ..*node });
    }
    let entry = if core::ptr::eq(node.entry, &FD) {
        named("fd")
    } else if core::ptr::eq(node.entry, &FD_INFORMATION) {
        named("fdinfo")
    } else {
        let top = if node.thread == 0 { &ROOT } else { &THREAD };
        top.parent_of(node.entry)
    };
    Some(Node { entry: entry?, item: 0, ..*node })
}

fn maps(node: &Node) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for area in of(node)?.areas()? {
        append_area(&mut text, &area)?;
    }
    Ok(text)
}

fn append_area(text: &mut Vec<u8>, area: &Area) -> Result<()> {
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let (device, number) = area.file;
    let (major, minor) = device_parts(device);
    let mut start = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {number} ",
        area.start,
        area.end,
        flag(area.read, 'r'),
        flag(area.write, 'w'),
        flag(area.execute, 'x'),
        if area.shared { 's' } else { 'p' },
        area.offset,
    );
    if !area.name.is_empty() {
        // Linux pads to the column after 25 + 6 * 8 characters.
        while start.len() < 73 {
            start.push(' ');
        }
    }
    text.try_reserve(start.len() + 4 * area.name.len() + 1).map_err(|_| Errno::ENOMEM)?;
    text.extend_from_slice(start.as_bytes());
    for &byte in &area.name {
        // A line break in a name would break the table.
        if byte == b'\n' { text.extend_from_slice(b"\\012") } else { text.push(byte) }
    }
    text.push(b'\n');
    Ok(())
}

fn stat(node: &Node) -> Result<Vec<u8>> {
    let s = of(node)?.status();
    let ProcessStatus { pid, parent, group, session, .. } = s;
    let (device, foreground) = s.terminal;
    let priority = if s.policy.1 > 0 { -1 - i32::from(s.policy.1) } else { 20 + s.nice };
    // The fields of proc(5), in groups of ten.
    let text = format!(
        "{pid} ({}) {} {parent} {group} {session} {device} {foreground} 0 {} \
         0 0 0 {} {} 0 0 {} {} {} \
         0 {} {} {} {} {} {} {} 0 0 \
         {} {} {} {} 0 0 0 17 {} {} \
         {} 0 0 0 0 0 0 0 0 0 0 0",
        trimmed(&s.name),
        char::from(s.state),
        s.faults,
        s.times.0,
        s.times.1,
        priority,
        s.nice,
        s.threads,
        s.start,
        s.virtual_size,
        s.resident,
        u64::MAX,
        s.code.0,
        s.code.1,
        s.stack,
        s.own_pending & 0x7fff_ffff,
        s.signals[1] & 0x7fff_ffff,
        s.signals[2] & 0x7fff_ffff,
        s.signals[3] & 0x7fff_ffff,
        s.cpu,
        s.policy.1,
        s.policy.0,
    );
    line(&text)
}

fn statm(node: &Node) -> Result<Vec<u8>> {
    let s = of(node)?.status();
    line(&format!(
        "{} {} {} {} 0 {} 0",
        s.virtual_size / PAGE,
        s.resident,
        s.resident_files,
        s.text_size.div_ceil(PAGE),
        s.data_size.div_ceil(PAGE)
    ))
}

fn status(node: &Node) -> Result<Vec<u8>> {
    let process = of(node)?;
    let s = process.status();
    let state = match s.state {
        b'R' => "R (running)",
        b'S' => "S (sleeping)",
        b'D' => "D (disk sleep)",
        b'T' => "T (stopped)",
        _ => "Z (zombie)",
    };
    let four = |ids: [u32; 4]| format!("{}\t{}\t{}\t{}", ids[0], ids[1], ids[2], ids[3]);
    let groups =
        s.supplementary.iter().fold(String::new(), |text, group| format!("{text}{group} "));
    let mut text = String::new();
    let kib = |bytes: u64| bytes / 1024;
    let pages = |pages: u64| pages * (PAGE / 1024);
    write!(
        text,
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{}\nGid:\t{}\nFDSize:\t64\nGroups:\t{groups}\n\
         VmPeak:\t{:8} kB\nVmSize:\t{:8} kB\nVmLck:\t{:8} kB\nVmPin:\t{:8} kB\nVmHWM:\t{:8} kB\n\
         VmRSS:\t{:8} kB\nRssAnon:\t{:8} kB\nRssFile:\t{:8} kB\nRssShmem:\t{:8} kB\n\
         VmData:\t{:8} kB\nVmStk:\t{:8} kB\nVmExe:\t{:8} kB\nVmLib:\t{:8} kB\nVmSwap:\t{:8} kB\n\
         Threads:\t{}\n",
        trimmed(&s.name),
        process.context().map_or(0, |context| context.umask),
        s.thread_group,
        s.parent,
        four(s.users),
        four(s.groups),
        kib(s.virtual_size),
        kib(s.virtual_size),
        kib(s.locked),
        0,
        pages(s.resident),
        pages(s.resident),
        pages(s.resident.saturating_sub(s.resident_files)),
        pages(s.resident_files),
        0,
        kib(s.data_size),
        0,
        kib(s.text_size),
        0,
        0,
        s.threads,
        pid = s.pid,
    )
    .map_err(|_| Errno::EIO)?;
    let cpus = super::machine()?.cpus;
    let mask = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    writeln!(
        text,
        "SigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n\
         CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t{}\n\
         Cpus_allowed:\t{mask:x}\nCpus_allowed_list:\t0-{}\n\
         voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}",
        s.own_pending,
        s.signals[0],
        s.signals[1],
        s.signals[2],
        s.signals[3],
        s.capabilities[0],
        s.capabilities[1],
        s.capabilities[2],
        s.capabilities[3],
        s.capabilities[4],
        u32::from(s.no_new_privileges),
        cpus.saturating_sub(1),
        s.switches.0,
        s.switches.1,
    )
    .map_err(|_| Errno::EIO)?;
    Ok(text.into_bytes())
}

fn mounts(node: &Node) -> Result<Vec<u8>> {
    mount::mounts(&of(node)?.context()?)
}

fn mount_information(node: &Node) -> Result<Vec<u8>> {
    mount::mount_information(&of(node)?.context()?)
}

fn limits(node: &Node) -> Result<Vec<u8>> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let number = |limit: u64| match limit {
        u64::MAX => String::from("unlimited"),
        limit => format!("{limit}"),
    };
    let mut text =
        format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in NAMES.iter().zip(of(node)?.limits()) {
        writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", number(soft), number(hard))
            .map_err(|_| Errno::EIO)?;
    }
    Ok(text.into_bytes())
}
