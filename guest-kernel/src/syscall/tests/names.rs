//! Random changes of a tree.

use super::{Machine, address, call, host, image_of};
use crate::fs::erofs::tests::Scratch;
use crate::numbers::Random;
use std::format;
use std::string::String;
use std::vec::Vec;

const AT_FDCWD: u64 = (-100i64).cast_unsigned();
const EBADF: i64 = -9;

/// Fields of `struct stat` that must be the same: mode, links of what is no directory, size of a file
/// or link, owner.
fn shown(stat: &[u8; 144]) -> (u32, u64, u64, u64) {
    let number = |at: usize| u64::from_le_bytes(stat[at..at + 8].try_into().expect("8 bytes"));
    let mode = u32::try_from(number(24) & 0xffff_ffff).expect("32 bits");
    let is_directory = mode & 0o170_000 == 0o040_000;
    let links = if is_directory { 0 } else { number(16) };
    let size = if is_directory { 0 } else { number(48) };
    (mode, links, size, number(24) >> 32 | number(32) << 32)
}

/// Names and types in a buffer that getdents64 filled, sorted. Those that are mounted over are left out.
fn names(bytes: &[u8]) -> Vec<(Vec<u8>, u8)> {
    let mut list = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = usize::from(u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]));
        let name = &bytes[at + 19..at + length];
        let end = name.iter().position(|&byte| byte == 0).expect("a terminated name");
        if !matches!(&name[..end], b"dev" | b"proc" | b"sys") {
            list.push((name[..end].to_vec(), bytes[at + 18]));
        }
        at += length;
    }
    list.sort();
    list
}

/// Both kernels, and the descriptors that are open in them: the same files under different numbers.
struct Both {
    open: Vec<(i64, i64)>,
    log: Vec<String>,
    succeeded: u32,
}

impl Both {
    /// Makes a call twice and compares the results; returns the common one.
    fn check(&mut self, what: &str, number: u64, arguments: [u64; 6]) -> i64 {
        let ours = call(number, arguments);
        // SAFETY: the tests pass addresses of their own live buffers.
        let theirs = unsafe { host::call(number, arguments) };
        self.same(what, ours, theirs);
        ours
    }

    fn same(&mut self, what: &str, ours: i64, theirs: i64) {
        self.log.push(format!("{what} = {ours}"));
        self.succeeded += u32::from(ours >= 0);
        if ours != theirs {
            let start = self.log.len().saturating_sub(60);
            panic!("{} but Linux says {theirs}", self.log[start..].join("\n"));
        }
    }

    /// The same with a descriptor, which has a number in each kernel.
    fn check_fd(&mut self, what: &str, number: u64, which: usize, rest: [u64; 5]) -> i64 {
        let Some(&(our, their)) = self.open.get(which) else { return EBADF };
        let [b, c, d, e, f] = rest;
        let ours = call(number, [our.cast_unsigned(), b, c, d, e, f]);
        // SAFETY: as above.
        let theirs = unsafe { host::call(number, [their.cast_unsigned(), b, c, d, e, f]) };
        self.same(&format!("{what} fd {which}"), ours, theirs);
        ours
    }

    fn open(&mut self, path: &str, flags: u64, mode: u64) {
        let text = format!("{path}\0");
        let arguments = [AT_FDCWD, address(text.as_bytes()), flags, mode, 0, 0];
        let ours = call(257, arguments);
        // SAFETY: the string lives as long as the call.
        let theirs = unsafe { host::call(257, arguments) };
        self.same(&format!("open {path} {flags:#o}"), ours.min(0), theirs.min(0));
        if ours >= 0 {
            self.open.push((ours, theirs));
            if self.open.len() > 6 {
                self.close(0);
            }
        }
    }

    fn close(&mut self, which: usize) {
        if which < self.open.len() {
            self.check_fd("close", 3, which, [0; 5]);
            self.open.remove(which);
        }
    }

    /// Lists a directory from its start, with a buffer that may need several calls.
    fn list(&mut self, which: usize, room: usize) {
        let Some(&(our, their)) = self.open.get(which) else { return };
        let mut lists = Vec::new();
        for (fd, is_ours) in [(our, true), (their, false)] {
            let make = |number, arguments| {
                if is_ours {
                    call(number, arguments)
                } else {
                    // SAFETY: as above.
                    unsafe { host::call(number, arguments) }
                }
            };
            make(8, [fd.cast_unsigned(), 0, 0, 0, 0, 0]);
            let mut all = Vec::new();
            let error = loop {
                let buffer = std::vec![0u8; room];
                let arguments = [fd.cast_unsigned(), address(&*buffer), room as u64, 0, 0, 0];
                match make(217, arguments) {
                    count if count > 0 => {
                        let count = usize::try_from(count).expect("a count");
                        all.extend(names(&buffer[..count]));
                    }
                    end => break end,
                }
            };
            all.sort();
            lists.push((all, error));
        }
        let (theirs, ours) = (lists.pop(), lists.pop());
        assert_eq!(ours, theirs, "after {:#?}", self.log.last());
    }

    fn status(&mut self, path: &str, flags: u64) {
        let text = format!("{path}\0");
        let (ours, theirs) = ([0u8; 144], [0u8; 144]);
        let path_address = address(text.as_bytes());
        let result = call(262, [AT_FDCWD, path_address, address(&ours), flags, 0, 0]);
        let arguments = [AT_FDCWD, path_address, address(&theirs), flags, 0, 0];
        // SAFETY: the string and the buffer live as long as the call.
        let expected = unsafe { host::call(262, arguments) };
        self.same(&format!("stat {path} {flags:#x}"), result, expected);
        if result == 0 {
            let (ours, theirs) = (core::hint::black_box(ours), core::hint::black_box(theirs));
            assert_eq!(shown(&ours), shown(&theirs), "{path} after\n{}", self.log.join("\n"));
        }
    }

    fn read_bytes(&mut self, which: usize, offset: u64, len: usize) {
        let Some(&(our, their)) = self.open.get(which) else { return };
        let (ours, theirs) = (std::vec![0u8; len], std::vec![0u8; len]);
        let result = call(17, [our.cast_unsigned(), address(&*ours), len as u64, offset, 0, 0]);
        let arguments = [their.cast_unsigned(), address(&*theirs), len as u64, offset, 0, 0];
        // SAFETY: the buffer lives as long as the call.
        let expected = unsafe { host::call(17, arguments) };
        self.same(&format!("pread fd {which} {len} at {offset}"), result, expected);
        assert!(core::hint::black_box(ours) == core::hint::black_box(theirs), "content differs");
    }
}

const NAMES: [&str; 8] = ["a", "b", "c", "d", "one", "two", "sub", "file"];

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    if random.below(5) == 0 {
        path.push('/');
    }
    for index in 0..random.one_of(&[1, 1, 1, 2, 2, 3]) {
        if index > 0 {
            path.push_str(random.one_of(&["/", "/", "/", "//"]));
        }
        match random.below(16) {
            0 => path.push('.'),
            1 => path.push_str(".."),
            _ => path.push_str(random.one_of(&NAMES)),
        }
    }
    match random.below(60) {
        0 => String::new(),
        1..4 => path + "/",
        4 => "x".repeat(256),
        5 => "/".into(),
        _ => path,
    }
}

fn fill(directory: &std::path::Path) {
    let write = |name: &str, len: usize| {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251).to_le_bytes()[0]).collect();
        std::fs::write(directory.join(name), bytes).expect("a file");
    };
    for sub in ["a/sub/one", "b/sub", "c", "two/d"] {
        std::fs::create_dir_all(directory.join(sub)).expect("a directory");
    }
    for (name, len) in [("file", 10), ("a/file", 9000), ("a/sub/b", 4096), ("b/one", 20_000)] {
        write(name, len);
    }
    for (name, target) in
        [("one", "a/sub"), ("a/two", "../b"), ("b/c", "/file"), ("d", "d"), ("c/d", "nowhere")]
    {
        std::os::unix::fs::symlink(target, directory.join(name)).expect("a link");
    }
    std::fs::hard_link(directory.join("a/file"), directory.join("two/file")).expect("a link");
}

fn step(both: &mut Both, random: &mut Random) {
    let (p, q) = (path(random), path(random));
    let (first, second) = (format!("{p}\0"), format!("{q}\0"));
    let (old, new) = (address(first.as_bytes()), address(second.as_bytes()));
    let which = usize::try_from(random.below(6)).expect("small");
    let size = random.below(30_000);
    match random.below(26) {
        0..4 => {
            const FLAGS: [u64; 14] = [
                0,
                0o1,
                0o2,
                0o100 | 0o2,
                0o100 | 0o1 | 0o1000,
                0o100 | 0o200 | 0o2,
                0o200_000,
                0o400_000,
                0o2 | 0o2000,
                0o1000 | 0o2,
                0o10_000_000,
                0o10_000_000 | 0o400_000,
                0o100 | 0o200_000 | 0o1,
                0o20_200_000 | 0o2,
            ];
            let flags = random.one_of(&FLAGS) | 0o4000;
            both.open(&p, flags, 0o666);
        }
        4 => both.close(which),
        5 | 6 => drop(both.check(&format!("mkdir {p}"), 258, [AT_FDCWD, old, 0o777, 0, 0, 0])),
        7 | 8 => {
            let flags = random.one_of(&[0, 0x200]);
            both.check(&format!("unlink {p} {flags:#x}"), 263, [AT_FDCWD, old, flags, 0, 0, 0]);
        }
        9..12 => {
            let flags = random.one_of(&[0, 0, 0, 1, 2]);
            let what = format!("rename {p} {q} {flags}");
            both.check(&what, 316, [AT_FDCWD, old, AT_FDCWD, new, flags, 0]);
        }
        12 => {
            let flags = random.one_of(&[0, 0, 0x400]);
            let what = format!("link {p} {q} {flags:#x}");
            both.check(&what, 265, [AT_FDCWD, old, AT_FDCWD, new, flags, 0]);
        }
        13 => drop(both.check(&format!("symlink {p} {q}"), 266, [old, AT_FDCWD, new, 0, 0, 0])),
        14 => {
            let buffer = [0u8; 300];
            let arguments = [AT_FDCWD, old, address(&buffer), 300, 0, 0];
            both.check(&format!("readlink {p}"), 267, arguments);
            core::hint::black_box(buffer);
        }
        15 | 16 => both.status(&p, random.one_of(&[0, 0x100])),
        17 => {
            let mode = random.below(8);
            both.check(&format!("access {p} {mode}"), 439, [AT_FDCWD, old, mode, 0, 0, 0]);
        }
        18 => {
            let mode = random.one_of(&[0o644, 0o755, 0o600, 0o7777]);
            both.check(&format!("chmod {p} {mode:o}"), 268, [AT_FDCWD, old, mode, 0, 0, 0]);
        }
        19 => drop(both.check(&format!("truncate {p} {size}"), 76, [old, size, 0, 0, 0, 0])),
        20 => {
            let data = std::vec![b'w'; 10_000];
            let len = random.one_of(&[1, 100, 4096, 5000, 10_000]);
            let what = format!("pwrite {len} at {size}");
            both.check_fd(&what, 18, which, [address(&*data), len, size, 0, 0]);
        }
        21 => both.read_bytes(which, size, 9000),
        22 => both.list(which, random.one_of(&[64, 400, 4000])),
        23 => {
            let kind = random.one_of(&[0o010_644, 0o100_600, 0o020_600, 0o040_000]);
            // Devices and directories: EPERM for us, so those are left to the unit tests.
            if kind & 0o170_000 != 0o020_000 {
                both.check(&format!("mknod {p} {kind:o}"), 259, [AT_FDCWD, old, kind, 0, 0, 0]);
            }
        }
        24 => drop(both.check(&format!("chdir {p}"), 80, [old, 0, 0, 0, 0, 0])),
        _ => {
            let (ours, theirs) = ([0u8; 4096], [0u8; 4096]);
            let result = call(79, [address(&ours), 4096, 0, 0, 0, 0]);
            // SAFETY: the buffer lives as long as the call.
            let expected = unsafe { host::call(79, [address(&theirs), 4096, 0, 0, 0, 0]) };
            both.same("getcwd", result, expected);
            let (ours, theirs) = (core::hint::black_box(ours), core::hint::black_box(theirs));
            assert!(result < 0 || ours == theirs, "the working directory differs");
        }
    }
}

/// Runs in a thread of its own, as its root directory on the host changes.
fn compare(directory: &std::path::Path, image: &[u8], seed: u64, steps: u32) -> bool {
    let machine = Machine::with_image(image);
    if !host::enter(directory) {
        return false;
    }
    let mut both = Both { open: Vec::new(), log: Vec::new(), succeeded: 0 };
    let mut random = Random(seed);
    for _ in 0..steps {
        step(&mut both, &mut random);
    }
    while !both.open.is_empty() {
        both.close(0);
    }
    // Names are few, so that random calls meet files often enough to mean something.
    assert!(both.succeeded > steps / 10, "only {} of {steps} calls did anything", both.succeeded);
    drop(machine);
    true
}

#[test]
fn random_changes_of_a_tree_have_the_same_results_as_on_linux() {
    let shared = std::path::Path::new("/dev/shm");
    for seed in 1..=12 {
        let compared = shared.is_dir().then(|| {
            let scratch = Scratch::within(shared, &format!("names-{seed}"));
            fill(&scratch.0);
            let image = image_of(&scratch)?;
            let compared = std::thread::scope(|scope| {
                scope.spawn(|| compare(&scratch.0, &image, seed, 1500)).join()
            });
            match compared {
                Ok(compared) => compared.then_some(()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        if compared.flatten().is_none() {
            std::eprintln!("needs root, /dev/shm and mkfs.erofs: not compared");
            return;
        }
    }
}
