//! Random changes of what files hold.

use super::{Machine, address, call, host, image_of};
use crate::fs::erofs::tests::{SMALL, Scratch};
use crate::numbers::Random;
use std::format;
use std::string::String;
use std::vec::Vec;

const AT_FDCWD: u64 = (-100i64).cast_unsigned();

/// Descriptors of the same files: one for reading and writing, another of the same file, one that
/// appends, and another file.
const FILES: [(&str, u64); 4] = [
    ("/work/one\0", 0o102),
    ("/work/one\0", 0o102),
    ("/work/one\0", 0o2102),
    ("/work/two\0", 0o102),
];

struct Both {
    fds: Vec<(u64, u64)>,
    log: Vec<String>,
}

impl Both {
    fn same(&mut self, what: String, ours: i64, theirs: i64) {
        self.log.push(format!("{what} = {ours}"));
        if ours != theirs {
            let start = self.log.len().saturating_sub(40);
            panic!("{} but Linux says {theirs}", self.log[start..].join("\n"));
        }
    }

    fn check(&mut self, what: &str, number: u64, which: usize, rest: [u64; 5]) {
        let (our, their) = self.fds[which];
        let [b, c, d, e, f] = rest;
        let ours = call(number, [our, b, c, d, e, f]);
        // SAFETY: pointers are to buffers of the caller's that live as long as the call.
        let theirs = unsafe { host::call(number, [their, b, c, d, e, f]) };
        self.same(format!("{what} fd {which} {c} {d}"), ours, theirs);
    }

    fn read(&mut self, number: u64, which: usize, len: usize, offset: u64) {
        let (our, their) = self.fds[which];
        let (ours, theirs) = (std::vec![0xeeu8; len], std::vec![0xeeu8; len]);
        let result = call(number, [our, address(&*ours), len as u64, offset, 0, 0]);
        // SAFETY: the buffer lives as long as the call.
        let expected =
            unsafe { host::call(number, [their, address(&*theirs), len as u64, offset, 0, 0]) };
        self.same(format!("read {number} fd {which} {len} {offset}"), result, expected);
        let (ours, theirs) = (core::hint::black_box(ours), core::hint::black_box(theirs));
        if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
            panic!("{}\nbyte {at}: {:#x}, not {:#x}", self.log.join("\n"), ours[at], theirs[at]);
        }
    }

    /// Two descriptors and two offsets, at which the call says how far it came.
    fn copy(&mut self, from: usize, to: usize, offsets: [u64; 2], len: u64) {
        let (mut ours, mut theirs) = (offsets, offsets);
        let result = call(
            326,
            [self.fds[from].0, address(&ours[0]), self.fds[to].0, address(&ours[1]), len, 0],
        );
        let arguments =
            [self.fds[from].1, address(&theirs[0]), self.fds[to].1, address(&theirs[1]), len, 0];
        // SAFETY: the numbers live as long as the call.
        let expected = unsafe { host::call(326, arguments) };
        self.same(format!("copy {from} {to} {offsets:?} {len}"), result, expected);
        core::hint::black_box((&mut ours, &mut theirs));
        assert_eq!(ours, theirs);
    }
}

/// Fills the files, so that the image has them; returns the image.
fn prepare(scratch: &Scratch) -> Option<Vec<u8>> {
    let work = scratch.0.join("work");
    std::fs::create_dir(&work).expect("a directory");
    for (name, len) in [("one", 50_000), ("two", 12_288)] {
        let bytes: Vec<u8> = (0..len).map(|at: usize| (at % 251).to_le_bytes()[0]).collect();
        std::fs::write(work.join(name), bytes).expect("a file");
    }
    image_of(scratch)
}

fn compare(directory: &std::path::Path, image: &[u8], seed: u64) -> bool {
    let _machine = Machine::with_image(image);
    if !host::enter(directory) {
        return false;
    }
    let in_image = image.len() != SMALL.len();
    let mut both = Both { fds: Vec::new(), log: Vec::new() };
    let path = address(b"/work\0");
    if !in_image {
        assert_eq!(call(258, [AT_FDCWD, path, 0o755, 0, 0, 0]), 0);
        // SAFETY: the string lives as long as the call.
        assert_eq!(unsafe { host::call(258, [AT_FDCWD, path, 0o755, 0, 0, 0]) }, 0);
    }
    for (path, flags) in FILES {
        let arguments = [AT_FDCWD, address(path.as_bytes()), flags, 0o644, 0, 0];
        let ours = call(257, arguments);
        // SAFETY: as above.
        let theirs = unsafe { host::call(257, arguments) };
        assert!(ours >= 0 && theirs >= 0);
        both.fds.push((ours.cast_unsigned(), theirs.cast_unsigned()));
    }
    let mut random = Random(seed);
    for round in 0..1500u64 {
        let which = usize::try_from(random.below(4)).expect("small");
        let other = usize::try_from(random.below(4)).expect("small");
        // Offsets and lengths near the borders of pages, and elsewhere.
        let mut near = |limit: u64| {
            let page = random.below(limit) * 4096;
            page.saturating_add_signed(random.one_of(&[-1, 0, 1, 100, 2000]))
        };
        let (offset, second, len) = (near(20), near(20), near(4));
        let data = std::vec![(round % 251).to_le_bytes()[0]; usize::try_from(len).expect("small")];
        match random.below(13) {
            0 | 1 => both.check("pwrite", 18, which, [address(&*data), len, offset, 0, 0]),
            2 => both.check("write", 1, which, [address(&*data), len, 0, 0, 0]),
            3 => both.read(0, which, 5000, 0),
            4..6 => both.read(17, which, 9000, offset),
            6 => both.check("lseek", 8, which, [offset, random.below(3), 0, 0, 0]),
            7 => both.check("ftruncate", 77, which, [offset, 0, 0, 0, 0]),
            8 => {
                // Linux does not count pages that were allocated and not written as data, and need
                // not: the two are compared apart. (Nor does an image have holes where Linux has.)
                let modes = if seed.is_multiple_of(2) { [0, 1, 3, 16] } else { [3, 3, 3, 16] };
                let mode = random.one_of(&modes);
                both.check("fallocate", 285, which, [mode, offset, len, 0, 0]);
            }
            9 if seed.is_multiple_of(2) || in_image => {}
            9 => {
                let whence = 3 + random.below(2);
                both.check("seek data", 8, which, [offset, whence, 0, 0, 0]);
            }
            10 => both.copy(which, other, [offset, second], len),
            // Linux sends references to pages: from a file to itself, what arrives is not defined.
            11 if (which == 3) == (other == 3) => {}
            11 => {
                let (from, to) = (both.fds[which], both.fds[other]);
                let ours = call(40, [to.0, from.0, 0, len, 0, 0]);
                // SAFETY: no pointers.
                let theirs = unsafe { host::call(40, [to.1, from.1, 0, len, 0, 0]) };
                both.same(format!("sendfile {other} {which} {len}"), ours, theirs);
            }
            _ => both.check("flock", 73, which, [random.one_of(&[1, 2, 8]) | 4, 0, 0, 0, 0]),
        }
    }
    for index in 0..both.fds.len() {
        both.read(17, index, 100_000, 0);
        both.check("close", 3, index, [0; 5]);
    }
    true
}

#[test]
fn random_changes_of_content_have_the_same_results_as_on_linux() {
    let shared = std::path::Path::new("/dev/shm");
    for seed in 1..=12u64 {
        let compared = shared.is_dir().then(|| {
            let scratch = Scratch::within(shared, &format!("content-{seed}"));
            let prepared = if seed.is_multiple_of(3) { prepare(&scratch) } else { None };
            let image = prepared.as_deref().unwrap_or(SMALL);
            if prepared.is_none() {
                let _ = std::fs::remove_dir_all(scratch.0.join("work"));
            }
            let compared =
                std::thread::scope(|scope| scope.spawn(|| compare(&scratch.0, image, seed)).join());
            compared.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if compared != Some(true) {
            std::eprintln!("needs root and /dev/shm: not compared");
            return;
        }
    }
}
