//! Airlock's memory allocator: one fixed arena.
//!
//! A start-up makes a few hundred small allocations and lasts two milliseconds. The C library's
//! allocator would map and unmap dozens of regions for them, and each costs a page fault: a tenth of
//! the whole start-up. Here they lie one behind the other in zeroed memory that is part of the
//! executable. And since blocks that are freed are used again, the threads that serve a guest never
//! have to ask the host for memory: their seccomp filters do not let them.
//!
//! Large blocks, and more than the arena holds, are the C library's. Only the start-up, before the
//! filters, needs any: it reads files.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the arena. Pages that are never used cost nothing.
const ARENA: usize = 2 << 20;
/// Blocks have sizes and addresses that are multiples of this.
const GRAIN: usize = 16;
/// Larger blocks are not from the arena.
const LARGEST: usize = 256 << 10;
/// Up to this size there is a class for every multiple of [`GRAIN`]; beyond, there are four for every
/// doubling.
const FINE: usize = 256;
/// How many classes there are.
const CLASSES: usize = class(LARGEST) + 1;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

/// Allocates from an arena.
struct Allocator {
    memory: Memory,
    state: Mutex<State>,
    /// New blocks are the C library's, see [`outside_arena`].
    bypassed: AtomicBool,
}

/// Does something that may need much memory for a while. It leaves the arena as it is, so that the threads that
/// serve a guest find room there later.
///
/// What it returns may be in memory of the C library, which must not be given back once filters are on.
pub fn outside_arena<T>(work: impl FnOnce() -> T) -> T {
    ALLOCATOR.bypassed.store(true, Ordering::Relaxed);
    let result = work();
    ALLOCATOR.bypassed.store(false, Ordering::Relaxed);
    result
}

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; ARENA]>);

// SAFETY: the bytes are only accessed by the owners of blocks, which never overlap, and by the
// allocator while a block is free and the lock is held.
unsafe impl Sync for Memory {}

/// Offsets in the arena.
struct State {
    /// Bytes that blocks have, free or not; those behind are for new blocks.
    used: usize,
    /// The first free block of each class. Each holds the offset of the next; [`NONE`] ends the list.
    free: [usize; CLASSES],
}

/// No block has this offset. It is zero so that an unused arena is all zeroes, and takes no room in the
/// executable.
const NONE: usize = 0;

/// Class of blocks that hold `size` bytes, which is between 1 and [`LARGEST`].
const fn class(size: usize) -> usize {
    if size <= FINE {
        return size.div_ceil(GRAIN) - 1;
    }
    // 257 to 320 is the first class beyond, 321 to 384 the second: two bits behind the leading one.
    let last = size - 1;
    let log = last.ilog2();
    let quarter = (last >> (log - 2)) & 3;
    FINE / GRAIN + 4 * (log - FINE.ilog2()) as usize + quarter
}

/// Bytes of the blocks of a class.
const fn class_size(class: usize) -> usize {
    if class < FINE / GRAIN {
        return (class + 1) * GRAIN;
    }
    let beyond = class - FINE / GRAIN;
    let doubling = FINE << (beyond / 4);
    doubling + doubling / 4 * (beyond % 4 + 1)
}

/// How a layout is served from the arena.
#[derive(Clone, Copy)]
enum Kind {
    /// By a block of a class.
    Class(usize),
    /// By bytes that are never used again, since blocks do not have this alignment.
    Aligned,
}

impl Kind {
    /// `None` is what the arena does not serve.
    const fn of(layout: Layout) -> Option<Self> {
        if layout.size() == 0 || layout.size() > LARGEST || layout.align() > align_of::<Memory>() {
            None
        } else if layout.align() > GRAIN {
            Some(Self::Aligned)
        } else {
            Some(Self::Class(class(layout.size())))
        }
    }
}

impl Allocator {
    const fn new() -> Self {
        Self {
            memory: Memory(UnsafeCell::new([0; ARENA])),
            state: Mutex::new(State { used: 0, free: [NONE; CLASSES] }),
            bypassed: AtomicBool::new(false),
        }
    }

    fn start(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    /// The state, locked. The standard library's lock does not allocate on Linux; it is a futex.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where in the arena a block is, if it is there.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.start().addr());
        (offset < ARENA).then_some(offset)
    }

    /// Takes a block from the arena, if it has room.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if self.bypassed.load(Ordering::Relaxed) {
            return None;
        }
        let kind = Kind::of(layout)?;
        let mut state = self.lock();
        let offset = match kind {
            Kind::Class(class) if state.free[class] != NONE => {
                let offset = state.free[class];
                // SAFETY: the block is in the arena, aligned to GRAIN and free: it holds the next offset.
                state.free[class] = unsafe { self.start().add(offset).cast::<usize>().read() };
                offset
            }
            Kind::Class(class) => state.extend(GRAIN, class_size(class))?,
            Kind::Aligned => state.extend(layout.align(), layout.size().next_multiple_of(GRAIN))?,
        };
        // SAFETY: the offset is within the arena.
        Some(unsafe { self.start().add(offset) })
    }

    /// Gives a block back to the arena.
    ///
    /// # Safety
    ///
    /// The block at `offset` was taken with this layout, and its owner has given it up.
    unsafe fn give_back(&self, offset: usize, layout: Layout) {
        let Some(Kind::Class(class)) = Kind::of(layout) else { return };
        let mut state = self.lock();
        if state.used == offset + class_size(class) {
            // The last block: its bytes may as well become part of any other.
            state.used = offset;
            return;
        }
        // SAFETY: the block is in the arena, aligned to GRAIN, nobody else's, and has room.
        unsafe { self.start().add(offset).cast::<usize>().write(state.free[class]) };
        state.free[class] = offset;
    }

    /// Whether the block can have another size where it is: if it has room, or is the last one.
    fn resize(&self, offset: usize, layout: Layout, new_size: usize) -> bool {
        let Some(Kind::Class(old)) = Kind::of(layout) else { return false };
        if new_size == 0 || new_size > LARGEST {
            return false;
        }
        let new = class(new_size);
        if new == old {
            return true;
        }
        let end = offset + class_size(new);
        let mut state = self.lock();
        let possible = state.used == offset + class_size(old) && end <= ARENA && new > old;
        if possible {
            state.used = end;
        }
        possible
    }
}

impl State {
    /// Takes bytes behind all blocks.
    fn extend(&mut self, align: usize, size: usize) -> Option<usize> {
        let offset = self.used.max(GRAIN).next_multiple_of(align);
        let end = offset + size;
        (end <= ARENA).then(|| {
            self.used = end;
            offset
        })
    }
}

// SAFETY: a block from the arena is large enough for its class or layout and aligned to GRAIN or to its
// own alignment, and no one else gets it before it is given back: it comes either from behind all blocks, or
// from a list that it then leaves. What is not in the arena is the system allocator's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system allocator asks for.
        self.take(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            // SAFETY: the caller gives up a block of this layout, and it is from the arena.
            Some(offset) => unsafe { self.give_back(offset, layout) },
            // SAFETY: it is not from the arena, so it is from the system allocator.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = self.take(layout) {
            // SAFETY: the block has at least the layout's size.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: it is not from the arena, so it is from the system allocator.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        if self.resize(offset, layout, new_size) {
            return block;
        }
        // SAFETY: the caller promises that `new_size` makes a valid layout with this alignment. The two
        // blocks are different, and both have the bytes that are copied.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.give_back(offset, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence of numbers that is different enough each time (xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 16).unwrap() % limit
        }
    }

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for size in 1..=LARGEST {
            let class = class(size);
            assert!(class_size(class) >= size, "{size}");
            assert!(class == 0 || class_size(class - 1) < size, "{size}");
            assert!(class_size(class).is_multiple_of(GRAIN));
        }
        assert_eq!(class_size(CLASSES - 1), LARGEST);
    }

    #[test]
    fn blocks_are_aligned_and_keep_what_is_in_them() {
        static ALLOCATOR: Allocator = Allocator::new();
        let allocator = &ALLOCATOR;
        let mut numbers = Numbers(88_172_645_463_325_252);
        let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let holds = |(block, layout, value): &(*mut u8, Layout, u8), length: usize| {
            // SAFETY: the block is allocated with this layout, and was filled.
            let bytes = unsafe { std::slice::from_raw_parts(*block, layout.size().min(length)) };
            assert!(bytes.iter().all(|byte| byte == value));
        };
        // SAFETY: each block is used within its layout, and given back once, with the layout it has then.
        unsafe {
            for step in 0..20_000_usize {
                let value = u8::try_from(step % 251).unwrap();
                let limit = [40, 300, 5000, 300_000][numbers.below(4)];
                let size = 1 + numbers.below(limit);
                match numbers.below(3) {
                    0 if blocks.len() < 60 => {
                        let layout = Layout::from_size_align(size, 1 << numbers.below(8)).unwrap();
                        let zeroed = numbers.below(2) == 0;
                        let block = if zeroed {
                            allocator.alloc_zeroed(layout)
                        } else {
                            allocator.alloc(layout)
                        };
                        assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
                        if zeroed {
                            holds(&(block, layout, 0), size);
                        }
                        block.write_bytes(value, size);
                        blocks.push((block, layout, value));
                    }
                    1 if !blocks.is_empty() => {
                        let at = numbers.below(blocks.len());
                        let (block, layout, old) = blocks[at];
                        let block = allocator.realloc(block, layout, size);
                        let new = Layout::from_size_align(size, layout.align()).unwrap();
                        assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
                        holds(&(block, new, old), layout.size());
                        block.write_bytes(value, size);
                        blocks[at] = (block, new, value);
                    }
                    _ if !blocks.is_empty() => {
                        let entry = blocks.swap_remove(numbers.below(blocks.len()));
                        holds(&entry, usize::MAX);
                        allocator.dealloc(entry.0, entry.1);
                    }
                    _ => {}
                }
            }
            for (block, layout, _) in blocks {
                allocator.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn memory_in_use_is_what_bounds_the_arena() {
        static ALLOCATOR: Allocator = Allocator::new();
        let allocator = &ALLOCATOR;
        let layout = Layout::from_size_align(3000, 8).unwrap();
        // SAFETY: what is allocated is given back, with its layout.
        unsafe {
            for _ in 0..10_000 {
                let blocks = [allocator.alloc(layout), allocator.alloc(layout)];
                assert!(blocks.iter().all(|&block| allocator.offset(block).is_some()));
                blocks.into_iter().for_each(|block| allocator.dealloc(block, layout));
            }
        }
        assert!(allocator.lock().used < 10_000);
    }

    #[test]
    fn a_growing_block_at_the_end_stays_where_it_is() {
        static ALLOCATOR: Allocator = Allocator::new();
        let allocator = &ALLOCATOR;
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: the block is used with the layout that it has then.
        unsafe {
            let block = allocator.alloc(layout);
            assert_eq!(allocator.realloc(block, layout, 5000), block);
            let large =
                allocator.realloc(block, Layout::from_size_align(5000, 8).unwrap(), LARGEST + 1);
            assert_eq!(allocator.offset(large), None, "too large for the arena");
            allocator.dealloc(large, Layout::from_size_align(LARGEST + 1, 8).unwrap());
        }
    }

    #[test]
    fn threads_do_not_get_each_others_blocks() {
        let threads: Vec<_> = (0_u8..4)
            .map(|thread| {
                std::thread::spawn(move || {
                    let mut numbers = Numbers(u64::from(thread) + 1);
                    let mut kept: Vec<Vec<u8>> = Vec::new();
                    for _ in 0..20_000 {
                        let block = vec![thread; 1 + numbers.below(2000)];
                        if kept.len() < 20 {
                            kept.push(block);
                        } else {
                            let at = numbers.below(20);
                            assert!(kept[at].iter().all(|&byte| byte == thread));
                            kept[at] = block;
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
