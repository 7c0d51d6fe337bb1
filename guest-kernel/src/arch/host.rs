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
pub mod tlb {
    /// Forgets the translation of one page: there is none.
    pub fn flush_page(_address: u64) {}

    /// Forgets the translation of a page that was faulted on: there is none.
    pub fn forget_fault(_address: u64) {}

    /// Forgets all translations: there are none.
    pub fn flush_all() {}

    /// Lets other processors forget translations of an address space: there are none.
    pub fn flush_elsewhere(_root: crate::memory::PhysAddr) {}

    /// The same for tables.
    pub fn flush_tables_elsewhere(_root: crate::memory::PhysAddr) {}

    /// Whether no other processor has translations to forget.
    pub fn is_only_one() -> bool {
        true
    }
}

/// The thread that a test runs on.
pub mod cpu {
    /// The locks that this thread holds.
    #[cfg(debug_assertions)]
    pub fn held_locks() -> Option<&'static crate::sync::order::Held> {
        use crate::sync::order::Held;
        use std::boxed::Box;
        std::thread_local! {
            static HELD: &'static Held = Box::leak(Box::new(Held::new()));
        }
        // A thread that is ending may still give locks back.
        HELD.try_with(|held| *held).ok()
    }

    /// Lets a moment pass for whoever waits for another thread.
    pub fn relax() {
        core::hint::spin_loop();
    }

    /// Lets another thread run instead of this one.
    pub fn yield_to_host() {
        std::thread::yield_now();
    }
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
