//! The vDSO: the shared object that lets programs read the clocks without a system call
//! (`vdso(7)`).
//!
//! Its one page is assembled into the kernel's read-only data ([`image`]), complete with ELF
//! headers, so that it needs no linker and no second compilation, and the very page of the kernel
//! image is mapped into processes. It lies directly after the page of [`Vvar`], in every process at
//! another address:
//!
//! ```text
//! base - 0x1000  [vvar]  r--  crate::time::VVAR
//! base           [vdso]  r-x  image(); AT_SYSINFO_EHDR
//! ```

use core::mem::offset_of;

use airlock_abi::syscalls;

use super::vvar::{self, Vvar};
use super::{Clock, NANOSECONDS};

/// Size of [`image`] in bytes, a page.
pub const SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Image([u8; SIZE]);

unsafe extern "C" {
    #[link_name = "airlock_vdso_image"]
    static IMAGE: Image;
}

/// The shared object, page-aligned, in the kernel's read-only data.
pub fn image() -> &'static [u8; SIZE] {
    // SAFETY: vdso.s defines the symbol as one page of constant data, aligned to a page.
    unsafe { &IMAGE.0 }
}

/// The clocks that the vDSO knows: bit *n* for the clock with the id *n*.
const fn clocks(realtime_only: bool) -> u32 {
    let mut mask = 0;
    let mut id = 0;
    while id < 32 {
        match Clock::from_id(id) {
            Some(clock) if clock.is_realtime() || !realtime_only => mask |= 1 << id,
            _ => {}
        }
        id += 1;
    }
    mask
}

/// The hash of the System V ABI, which version definitions carry.
const fn elf_hash(name: &str) -> u32 {
    let name = name.as_bytes();
    let mut hash: u32 = 0;
    let mut index = 0;
    while index < name.len() {
        hash = (hash << 4).wrapping_add(name[index] as u32);
        hash ^= (hash >> 24) & 0xf0;
        hash &= 0x0fff_ffff;
        index += 1;
    }
    hash
}

/// The hash of `DT_GNU_HASH`, without bit 0, which the table uses for something else.
const fn gnu_hash(name: &str) -> u32 {
    let name = name.as_bytes();
    let mut hash: u32 = 5381;
    let mut index = 0;
    while index < name.len() {
        hash = hash.wrapping_mul(33).wrapping_add(name[index] as u32);
        index += 1;
    }
    hash & !1
}

core::arch::global_asm!(
    include_str!("vdso.s"),
    SECTION_TEXT = const 10,
    SECTION_NAMES = const 11,
    ELF_HASH_SONAME = const elf_hash("linux-vdso.so.1"),
    ELF_HASH_VERSION = const elf_hash("LINUX_2.6"),
    H_VDSO_CLOCK_GETTIME = const gnu_hash("__vdso_clock_gettime"),
    H_CLOCK_GETTIME = const gnu_hash("clock_gettime"),
    H_VDSO_CLOCK_GETRES = const gnu_hash("__vdso_clock_getres"),
    H_CLOCK_GETRES = const gnu_hash("clock_getres"),
    H_VDSO_GETTIMEOFDAY = const gnu_hash("__vdso_gettimeofday"),
    H_GETTIMEOFDAY = const gnu_hash("gettimeofday"),
    H_VDSO_TIME = const gnu_hash("__vdso_time"),
    H_TIME = const gnu_hash("time"),
    H_VDSO_GETCPU = const gnu_hash("__vdso_getcpu"),
    H_GETCPU = const gnu_hash("getcpu"),
    FLAGS = const offset_of!(Vvar, flags),
    FLAG_TSC = const vvar::FLAG_TSC,
    CPU_SELECTOR = const offset_of!(Vvar, cpu_selector),
    TSC_BASE = const offset_of!(Vvar, tsc_base),
    MULTIPLIER = const offset_of!(Vvar, multiplier),
    REALTIME_OFFSET = const offset_of!(Vvar, realtime_offset),
    ZONE = const offset_of!(Vvar, zone),
    CLOCKS = const clocks(false),
    REALTIME_CLOCKS = const clocks(true),
    RECIPROCAL = const (1_u128 << 75).div_ceil((NANOSECONDS >> 9) as u128),
    NR_CLOCK_GETTIME = const syscalls::number("clock_gettime"),
    NR_CLOCK_GETRES = const syscalls::number("clock_getres"),
    NR_GETTIMEOFDAY = const syscalls::number("gettimeofday"),
    NR_TIME = const syscalls::number("time"),
    NR_GETCPU = const syscalls::number("getcpu"),
);
