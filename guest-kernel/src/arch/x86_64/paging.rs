//! The direct map: physical memory at a fixed place in the kernel's half.

use crate::memory::{PAGE, PhysAddr, page_ceil, usize_from};

const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
// Entry bits: SDM volume 3, section 4.5.4.
// What ring 3 may touch, the root decides; see build.rs.
const TABLE: u64 = 0x27; // present, writable, user, accessed
const PAGE_2M: u64 = 1 << 63 | 0x1e7; // never executed; present, writable, user, accessed, dirty, large, global

/// Maps the GiBs of these ranges (guest-physical) that the linked tables don't have.
///
/// # Safety
/// `free` is the start of unused, zero, page-aligned RAM within the linked tables, enough for a page
/// per GiB; called once, before there is a frame allocator.
pub unsafe fn extend_direct_map(ranges: [(u64, u64); 3], free: &mut u64) {
    unsafe extern "C" {
        static mut direct_map_pdpt: [u64; 512];
    }
    let mut next = page_ceil(*free).unwrap_or(*free);
    for (start, end) in ranges {
        let mut gib = start / GIB;
        while gib * GIB < end && gib < 512 {
            // SAFETY: the table is only used here, on the only vCPU; the index is below 512.
            let entry =
                unsafe { &mut *(&raw mut direct_map_pdpt).cast::<u64>().add(usize_from(gib)) };
            if *entry == 0 {
                let table = PhysAddr(next).to_pointer().cast::<u64>();
                for page in 0..512 {
                    // SAFETY: one page of RAM that nothing uses yet.
                    unsafe {
                        table.add(usize_from(page)).write((gib * GIB + page * LARGE_PAGE) | PAGE_2M)
                    };
                }
                *entry = next | TABLE;
                next += PAGE;
            }
            gib += 1;
        }
    }
    *free = next;
}

/// Index of the first entry that is not 0 in `[from, to)` of a table; `to` if there is none.
///
/// A string instruction, since most entries are 0 and an interpreter pays by the instruction.
///
/// # Safety
/// The table has at least `to` entries.
pub unsafe fn next_used(table: *const u64, from: usize, to: usize) -> usize {
    if from >= to {
        return to;
    }
    let left: usize;
    let found: u8;
    // SAFETY: reads entries `from` to `to`, which the table has by the contract.
    unsafe {
        core::arch::asm!(
            "xor eax, eax",
            "repe scasq",
            "setne al",
            inout("rdi") table.add(from) => _,
            inout("rcx") to - from => left,
            out("al") found,
            options(nostack, readonly),
        );
    }
    if found == 0 { to } else { to - left - 1 }
}
