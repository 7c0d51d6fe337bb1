//! The first stack of a program: strings, auxiliary vector, environment and arguments (System V ABI,
//! AMD64 supplement, section 3.4.1), in the order in which Linux puts them.

use super::Entropy;
use super::elf::Loaded;
use crate::errno::{Errno, Result};
use crate::memory::areas::{Area, AreaFlags, Backing, Bounds, Label, Protection};
use crate::memory::space::{AddressSpace, Layout};
use crate::memory::{Content, Frame, PAGE, PAGE_SIZE, USER_END, page_floor, usize_from};
use alloc::vec::Vec;

/// Linux's default `RLIMIT_STACK`.
pub const DEFAULT_STACK: u64 = 8 << 20;
/// All strings together may take a quarter of the stack, as on Linux.
const MAX_STRINGS: usize = 2 << 20;
/// The stack's top moves down by up to 2^22 pages, and mappings by up to 2^28.
const STACK_BITS: u32 = 22;
const MMAP_BITS: u32 = 28;
/// Linux keeps at least this much below the stack's top free of mappings.
const MINIMUM_GAP: u64 = 128 << 20;
/// Of the stack, this much exists from the start, as with Linux's `setup_arg_pages`.
const INITIAL: u64 = 128 << 10;

/// What of `struct rseq` (linux/rseq.h) the kernel fills in: up to `mm_cid`.
pub const RSEQ_FEATURE_SIZE: u64 = 28;
/// How that has to be aligned.
pub const RSEQ_ALIGN: u64 = 32;

const STACK_RIGHTS: Protection = Protection(3);

/// The stack's pages while they are being written, from the highest one down.
struct Pages {
    /// First address behind the highest page.
    top: u64,
    frames: Vec<Frame>,
}

impl Pages {
    fn write(&mut self, mut address: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let number = usize_from((self.top - 1 - address) / PAGE);
            while self.frames.len() <= number {
                self.frames.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.frames.push(Frame::allocate(Content::Zeroes)?);
            }
            let within = usize_from(address) % PAGE_SIZE;
            let count = self.frames[number].write(within, bytes);
            address += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn install(self, space: &AddressSpace) -> Result<()> {
        let mut address = self.top;
        for frame in self.frames {
            address -= PAGE;
            space.install(address, frame, STACK_RIGHTS)?;
        }
        Ok(())
    }
}

/// Numbers of auxiliary vector entries (getauxval(3), linux/auxvec.h).
mod auxiliary {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
    pub const RSEQ_FEATURE_SIZE: u64 = 27;
    pub const RSEQ_ALIGN: u64 = 28;
}

/// Strings one after the other, each followed by NUL.
#[derive(Clone, Copy)]
pub struct Strings<'a>(pub &'a [u8]);

/// What a program is told at its start.
pub struct Start<'a> {
    /// `argv`.
    pub arguments: Strings<'a>,
    /// `envp`.
    pub environment: Strings<'a>,
    /// The path that `execve` was given.
    pub path: &'a [u8],
    /// What the processor has: CPUID leaf 1, EDX.
    pub hwcap: u64,
    /// Bit 1: RDFSBASE and its kin may be used.
    pub hwcap2: u64,
    /// Largest signal frame.
    pub minimum_signal_stack: u64,
    /// User and group, real and effective.
    pub ids: [u32; 4],
    /// Whether the program has rights that its caller had not.
    pub secure: bool,
    /// Bytes for AT_RANDOM.
    pub random: [u8; 16],
    /// Where the vDSO's ELF header is.
    pub vdso: u64,
}

/// Chooses the top of the stack and of the mappings, and maps the stack.
///
/// # Errors
/// ENOMEM.
pub fn place(space: &AddressSpace, entropy: &mut Entropy<'_>) -> Result<Layout> {
    let top = USER_END - entropy.bits(STACK_BITS) * PAGE;
    let gap = MINIMUM_GAP.max(DEFAULT_STACK) + ((1 << STACK_BITS) * PAGE);
    let layout = Layout {
        mmap_top: page_floor(USER_END - gap - entropy.bits(MMAP_BITS) * PAGE),
        stack_start: top,
        ..Layout::default()
    };
    space.set_layout(layout);
    let stack = Area {
        start: top - INITIAL,
        end: top,
        protection: STACK_RIGHTS,
        allowed: Protection::ALL,
        shared: false,
        backing: Backing::Anonymous,
        label: Label::Stack,
        flags: AreaFlags::NONE,
    };
    space.add(stack, 0)?;
    Ok(layout)
}

fn addresses(strings: Strings<'_>, start: u64, list: &mut Vec<u64>) -> Result<usize> {
    let mut count = 0;
    let mut at = 0;
    while at < strings.0.len() {
        list.try_reserve(2).map_err(|_| Errno::ENOMEM)?;
        list.push(start + at as u64);
        count += 1;
        at += strings.0[at..]
            .iter()
            .position(|&byte| byte == 0)
            .map_or(strings.0.len() - at, |end| end + 1);
    }
    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    list.push(0);
    Ok(count)
}

/// Writes the stack; returns the first RSP and notes where the strings are.
///
/// # Errors
/// E2BIG if the strings are too long, ENOMEM.
pub fn fill(
    space: &AddressSpace,
    layout: &mut Layout,
    start: &Start<'_>,
    loaded: &Loaded,
    entropy: &mut Entropy<'_>,
) -> Result<u64> {
    const PLATFORM: &[u8] = b"x86_64\0";
    let string_bytes = start.arguments.0.len() + start.environment.0.len() + start.path.len();
    if string_bytes > MAX_STRINGS {
        return Err(Errno::E2BIG);
    }
    // The last word of the stack is empty; then, downwards: the path, the environment, the arguments.
    let path_at = layout.stack_start - 8 - (start.path.len() as u64 + 1);
    let environment_at = path_at - start.environment.0.len() as u64;
    let arguments_at = environment_at - start.arguments.0.len() as u64;
    layout.arguments = (arguments_at, environment_at);
    layout.environment = (environment_at, path_at);
    let mut pages = Pages { top: layout.stack_start, frames: Vec::new() };
    pages.write(path_at, start.path)?;
    pages.write(environment_at, start.environment.0)?;
    pages.write(arguments_at, start.arguments.0)?;

    // Up to 8 KiB of distance, so that stacks of two runs do not share their low bits either.
    let platform_at = (arguments_at - entropy.bits(13)) & !15;
    let platform_at = platform_at - PLATFORM.len() as u64;
    let random_at = platform_at - 16;
    let mut small = [0; 16 + PLATFORM.len()];
    small[..16].copy_from_slice(&start.random);
    small[16..].copy_from_slice(PLATFORM);
    pages.write(random_at, &small)?;

    let mut words: Vec<u64> = Vec::new();
    words.try_reserve(128).map_err(|_| Errno::ENOMEM)?;
    words.push(0);
    let count = addresses(start.arguments, arguments_at, &mut words)?;
    words[0] = count as u64;
    addresses(start.environment, environment_at, &mut words)?;
    words.try_reserve(2 * 23).map_err(|_| Errno::ENOMEM)?;
    let before_auxiliary = words.len() as u64 * 8;
    let [uid, euid, gid, egid] = start.ids.map(u64::from);
    for (kind, value) in [
        (auxiliary::SYSINFO_EHDR, start.vdso),
        (auxiliary::MINSIGSTKSZ, start.minimum_signal_stack),
        (auxiliary::HWCAP, start.hwcap),
        (auxiliary::PAGESZ, PAGE),
        (auxiliary::CLKTCK, 100),
        (auxiliary::PHDR, loaded.headers),
        (auxiliary::PHENT, 56),
        (auxiliary::PHNUM, loaded.header_count.into()),
        (auxiliary::BASE, loaded.interpreter),
        (auxiliary::FLAGS, 0),
        (auxiliary::ENTRY, loaded.entry),
        (auxiliary::UID, uid),
        (auxiliary::EUID, euid),
        (auxiliary::GID, gid),
        (auxiliary::EGID, egid),
        (auxiliary::SECURE, start.secure.into()),
        (auxiliary::RANDOM, random_at),
        (auxiliary::HWCAP2, start.hwcap2),
        (auxiliary::EXECFN, path_at),
        (auxiliary::PLATFORM, platform_at),
        (auxiliary::RSEQ_FEATURE_SIZE, RSEQ_FEATURE_SIZE),
        (auxiliary::RSEQ_ALIGN, RSEQ_ALIGN),
        (auxiliary::NULL, 0),
    ] {
        words.push(kind);
        words.push(value);
    }
    let size = words.len() as u64 * 8;
    let rsp = (random_at - size) & !15;
    // SAFETY: a slice of integers is as good as one of bytes.
    let bytes =
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 8) };
    pages.write(rsp, bytes)?;
    pages.install(space)?;
    space.extend_stack(rsp - INITIAL / 2);
    if loaded.executable_stack {
        let start = page_floor(rsp - INITIAL / 2).min(layout.stack_start - INITIAL);
        space.protect(start, layout.stack_start - start, Protection::ALL, &Bounds::NONE)?;
    }
    layout.stack_start = rsp;
    layout.auxiliary = (rsp + before_auxiliary, rsp + size);
    space.set_layout(*layout);
    Ok(rsp)
}
