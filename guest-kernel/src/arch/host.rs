//! Stand-ins for the processor in tests on the host: a program's memory is the test's own, and
//! there are no translations to forget.

/// Copies that cannot fault.
pub mod copy {
    /// Copies `len` bytes; returns how many were not copied.
    ///
    /// # Safety
    /// Both sides are valid: there is no one here to catch a fault.
    pub unsafe fn copy(target: *mut u8, source: *const u8, len: usize) -> usize {
        // SAFETY: by the contract.
        unsafe { core::ptr::copy(source, target, len) };
        0
    }
}

/// Whether address spaces need a second root for the kernel.
pub fn kernel_needs_root() -> bool {
    false
}

/// A processor without page tables of ours.
pub mod cpu {
    /// Forgets the translation of one page: there is none.
    pub fn flush_page(_address: u64) {}

    /// Forgets the translation of a page that was faulted on: there is none.
    pub fn forget_fault(_address: u64) {}

    /// Forgets all translations: there are none.
    pub fn flush_all() {}
}

/// Page tables that no processor walks.
pub mod paging {
    /// Index of the first entry that is not 0 in `[from, to)` of a table; `to` if there is none.
    ///
    /// # Safety
    /// The table has at least `to` entries.
    pub unsafe fn next_used(table: *const u64, from: usize, to: usize) -> usize {
        // SAFETY: by the contract.
        (from..to).find(|&index| unsafe { table.add(index).read() } != 0).unwrap_or(to)
    }
}
