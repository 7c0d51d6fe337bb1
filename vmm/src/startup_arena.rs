//! Memory for what Airlock allocates while it starts.
//!
//! A start-up makes a few hundred small allocations and lasts two milliseconds. The C library's
//! allocator maps and unmaps dozens of regions for them, and each is a page fault: a tenth of the
//! whole start-up. Here they lie one behind the other in one piece of zeroed memory that is part of
//! the executable. When that is used up, the C library takes over; a long-running virtual machine
//! allocates from it alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the arena. Pages that are never used cost nothing.
const SIZE: usize = 192 << 10;

/// Allocates from an arena first, then as usual.
pub struct StartupArena {
    memory: Memory,
    /// Bytes of the arena that are taken.
    used: AtomicUsize,
}

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: the bytes are only accessed through allocations, which never overlap.
unsafe impl Sync for Memory {}

impl StartupArena {
    /// An arena that is all free.
    pub const fn new() -> Self {
        Self {
            memory: Memory(UnsafeCell::new([0; SIZE])),
            used: AtomicUsize::new(0),
        }
    }

    fn start(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    /// Where in the arena an allocation is, if it is there.
    fn offset(&self, allocation: *mut u8) -> Option<usize> {
        let offset = allocation.addr().wrapping_sub(self.start().addr());
        (offset < SIZE).then_some(offset)
    }

    /// Moves the end of what is taken from one place to another, unless it has moved since.
    fn move_end(&self, from: usize, to: usize) -> Result<usize, usize> {
        // Acquire and release: whoever gets bytes that another thread gave back comes after it.
        self.used
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

// SAFETY: an allocation from the arena is the range from `aligned` to `end` that `move_end` has taken
// for it alone, aligned as the layout asks since the arena is aligned to any alignment that gets past
// the check. `dealloc` and `realloc` give back or extend a range only if it is the last one taken.
// All else is the system allocator's, told apart by its address.
unsafe impl GlobalAlloc for StartupArena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            let aligned = used.next_multiple_of(layout.align());
            let end = aligned.saturating_add(layout.size());
            if end > SIZE || layout.align() > align_of::<Memory>() {
                // SAFETY: the caller's promises are those that the system allocator asks for.
                return unsafe { System.alloc(layout) };
            }
            match self.move_end(used, end) {
                // SAFETY: `aligned` is within the arena.
                Ok(_) => return unsafe { self.start().add(aligned) },
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, allocation: *mut u8, layout: Layout) {
        match self.offset(allocation) {
            // Only the last allocation can be taken back; if another is, its bytes are lost.
            Some(offset) => drop(self.move_end(offset + layout.size(), offset)),
            // SAFETY: it is not from the arena, so it is from the system allocator.
            None => unsafe { System.dealloc(allocation, layout) },
        }
    }

    unsafe fn realloc(&self, allocation: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(allocation) else {
            // SAFETY: it is not from the arena, so it is from the system allocator.
            return unsafe { System.realloc(allocation, layout, new_size) };
        };
        let new_end = offset.saturating_add(new_size);
        if new_end <= SIZE && self.move_end(offset + layout.size(), new_end).is_ok() {
            return allocation;
        }
        if new_size <= layout.size() {
            return allocation;
        }
        // SAFETY: the caller promises that `new_size` makes a valid layout with this alignment. The
        // two allocations are different, and both have the bytes that are copied.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(allocation, moved, layout.size());
                self.dealloc(allocation, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Box<StartupArena> {
        Box::new(StartupArena::new())
    }

    #[test]
    fn allocations_do_not_overlap_and_are_aligned() {
        let arena = arena();
        let mut ranges = Vec::new();
        for step in 0_usize..2000 {
            let layout = Layout::from_size_align(1 + step * 7 % 300, 1 << (step % 13)).unwrap();
            // SAFETY: the layout has a size; what is allocated is written within its bounds.
            let start = unsafe {
                let allocation = arena.alloc(layout);
                assert!(!allocation.is_null());
                allocation.write_bytes(1, layout.size());
                allocation.addr()
            };
            assert!(start.is_multiple_of(layout.align()));
            ranges.push((start, start + layout.size()));
        }
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert!(
            arena.used.load(Ordering::Relaxed) > SIZE - 8192,
            "the arena was used up, and more"
        );
    }

    #[test]
    fn the_last_allocation_grows_in_place_and_is_given_back() {
        let arena = arena();
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: every allocation is used with the layout that it has then.
        unsafe {
            let first = arena.alloc(layout);
            let second = arena.alloc(layout);
            second.write(7);
            assert_eq!(arena.realloc(second, layout, 5000), second);
            let grown = Layout::from_size_align(5000, 8).unwrap();
            let moved = arena.realloc(first, layout, 200);
            assert_ne!(moved, first);
            let end = arena.used.load(Ordering::Relaxed);
            arena.dealloc(moved, Layout::from_size_align(200, 8).unwrap());
            assert!(arena.used.load(Ordering::Relaxed) <= end - 200);
            let large = arena.realloc(second, grown, SIZE);
            assert_eq!(
                (arena.offset(large), *large),
                (None, 7),
                "what no longer fits is the system's"
            );
            arena.dealloc(large, Layout::from_size_align(SIZE, 8).unwrap());
        }
    }
}
