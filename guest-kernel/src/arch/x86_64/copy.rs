//! The only instructions in the kernel that may fault on a program's address.
//!
//! Each has an entry in the exception table: where it is, and where to go on when the page-fault
//! handler found nothing to map. `stac` and `clac` open and close SMAP's door around them where the
//! CPU has it; host B refuses these instructions in ring 0, and CPUID does not show SMAP there.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether CR4.SMAP is set.
static SMAP: AtomicBool = AtomicBool::new(false);

/// From now on, copies lift SMAP.
pub fn enable_smap() {
    SMAP.store(true, Ordering::Relaxed);
}

// Quadwords first: an interpreter of instructions pays by the element, not by the byte.
global_asm!(
    ".pushsection .text.user_copy, \"ax\", @progbits",
    ".global user_copy",
    "user_copy:",
    "    mov rcx, rdx",
    "    shr rcx, 3",
    "    and edx, 7",
    "    cmp byte ptr [{smap}], 0",
    "    jne 3f",
    "1:  rep movsq",
    "    mov ecx, edx",
    "2:  rep movsb",
    "    xor eax, eax",
    "    ret",
    "3:  stac",
    "4:  rep movsq",
    "    mov ecx, edx",
    "5:  rep movsb",
    "    xor eax, eax",
    "    clac",
    "    ret",
    // A fault within the quadwords: RCX of them and the tail are left. The bytes up to the fault
    // are copied one by one, since callers promise programs a count that is exact.
    "6:  lea rcx, [rdx + rcx*8]",
    "7:  rep movsb",
    "8:  mov rax, rcx",
    "    cmp byte ptr [{smap}], 0",
    "    je 9f",
    "    clac",
    "9:  ret",
    ".popsection",
    ".pushsection .exception_table, \"a\", @progbits",
    "    .quad 1b, 6b",
    "    .quad 2b, 8b",
    "    .quad 4b, 6b",
    "    .quad 5b, 8b",
    "    .quad 7b, 8b",
    ".popsection",
    smap = sym SMAP,
);

unsafe extern "C" {
    fn user_copy(target: *mut u8, source: *const u8, len: usize) -> usize;
    static exception_table: [u64; 2];
    static exception_table_end: [u64; 2];
}

/// Copies `len` bytes; returns how many were not copied because an address faulted.
///
/// # Safety
/// The kernel's side is valid for `len` bytes; the program's side lies in the lower half.
pub unsafe fn copy(target: *mut u8, source: *const u8, len: usize) -> usize {
    crate::sync::expect_none_held();
    if super::Cpu::current().native.take_stale() {
        super::tlb::reload_root();
    }
    // SAFETY: by the contract; faults on the program's side are in the exception table.
    unsafe { user_copy(target, source, len) }
}

/// Where to continue after a fault at this instruction, if it may fault.
pub fn fixup(instruction: u64) -> Option<u64> {
    let mut entry = &raw const exception_table;
    while entry != &raw const exception_table_end {
        // SAFETY: the linker script puts whole entries between the two symbols.
        let [at, target] = unsafe { entry.read() };
        if at == instruction {
            return Some(target);
        }
        // SAFETY: not yet at the end.
        entry = unsafe { entry.add(1) };
    }
    None
}
