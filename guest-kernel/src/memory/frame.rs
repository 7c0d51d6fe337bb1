//! Physical frames: who has one, and which are still the zeroes that the VMM started with.
//!
//! RAM that no one has written is zero, and clearing a page is the dearest thing that interpreted
//! ring 0 does (142 us a page). So frames are handed out from the untouched end
//! of RAM first where that matters, and a frame that was used and freed goes on a list of its
//! own, linked through the frames themselves.
//!
//! Every frame has a reference count, in an array at the start of RAM of which only the part for
//! frames in use is ever touched. [`Frame`] is one reference.

use super::address::{PAGE, PAGE_SIZE, PhysAddr, usize_from};
use super::bytes::SharedBytes;
use super::pool::{ORDERS, Pool};
use crate::errno::{Errno, Result};
use crate::sync::SpinLock;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

static POOL: SpinLock<Pool> = SpinLock::new(Pool::EMPTY);
/// Reference counts of the frames of both regions, one after the other.
static COUNTS: [CountTable; 2] = [const { CountTable::new() }; 2];
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Frames that only the kernel's own data may use.
static RESERVE: AtomicU64 = AtomicU64::new(0);
/// Whether programs may have half of the reserve for a moment.
static DIPPING: AtomicBool = AtomicBool::new(false);
/// Whether half of the reserve is gone, and nobody has done anything about it yet.
static PRESSURE: AtomicBool = AtomicBool::new(false);
/// Whether clearing a frame costs more than touching a new one.
static CLEARING_IS_DEAR: AtomicBool = AtomicBool::new(false);

struct CountTable {
    start: AtomicU64,
    end: AtomicU64,
    table: AtomicU64,
}

impl CountTable {
    const fn new() -> Self {
        Self { start: AtomicU64::new(0), end: AtomicU64::new(0), table: AtomicU64::new(0) }
    }
}

/// Takes over free RAM: `[start, end)` pairs (guest-physical, page-aligned, zero-filled).
///
/// # Safety
/// The ranges are RAM inside the direct map that nothing else uses, and hold zeroes. Called once,
/// before any other function here.
pub unsafe fn init(ranges: [(u64, u64); 2]) {
    let mut pool = POOL.lock();
    let mut total = 0;
    for (index, (start, end)) in ranges.into_iter().enumerate() {
        let frames = end.saturating_sub(start) / PAGE;
        if frames == 0 {
            continue;
        }
        let table_bytes = (frames * 4).next_multiple_of(PAGE);
        COUNTS[index].start.store(start, Ordering::Relaxed);
        COUNTS[index].end.store(end, Ordering::Relaxed);
        COUNTS[index].table.store(start, Ordering::Relaxed);
        let next = start + table_bytes;
        if next < end {
            pool.add_fresh(index, next, end);
        }
        total += frames;
    }
    TOTAL.store(total, Ordering::Relaxed);
    // Enough for the kernel's own tables of what is left: 1/32, but at least 64 KiB.
    RESERVE.store((pool.free() / 32).max(16), Ordering::Relaxed);
}

/// Chooses which free frames are handed out first when zeroes are wanted.
pub fn set_clearing_is_dear(dear: bool) {
    CLEARING_IS_DEAR.store(dear, Ordering::Relaxed);
}

/// All frames of RAM that the kernel was given.
pub fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Frames that are free now.
pub fn free() -> u64 {
    POOL.lock().free()
}

/// Whether there is memory for more than the kernel itself needs to go on.
///
/// # Errors
/// ENOMEM if not.
pub fn check_room() -> Result<()> {
    let reserve = RESERVE.load(Ordering::Relaxed);
    let kept = if DIPPING.load(Ordering::Relaxed) { reserve / 2 } else { reserve };
    if free() <= kept { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// The same for something of this many bytes.
///
/// # Errors
/// ENOMEM.
pub fn check_room_for(bytes: usize) -> Result<()> {
    let frames = bytes.div_ceil(PAGE_SIZE).next_power_of_two() as u64;
    let needed = RESERVE.load(Ordering::Relaxed).saturating_add(frames);
    if free() <= needed { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// Lets a program have pages of the first half of the reserve: a system call cannot wait for the
/// memory of another process in the middle of a copy. What other vCPUs take meanwhile does no harm.
pub fn dip_into_reserve<T>(act: impl FnOnce() -> T) -> T {
    DIPPING.store(true, Ordering::Relaxed);
    let result = act();
    DIPPING.store(false, Ordering::Relaxed);
    result
}

/// Whether memory became scarce since this was asked last.
pub fn take_pressure() -> bool {
    PRESSURE.load(Ordering::Relaxed) && PRESSURE.swap(false, Ordering::Relaxed)
}

/// Whether half of the reserve is gone.
pub fn is_scarce() -> bool {
    free() < RESERVE.load(Ordering::Relaxed) / 2
}

/// What is left of the reserve for allocations that may fail. The rest is for those that may not: the
/// kernel's small objects.
fn last_resort() -> u64 {
    RESERVE.load(Ordering::Relaxed) / 4
}

/// The reference count of the frame at a guest-physical address.
pub fn count_of(address: u64) -> &'static AtomicU32 {
    for region in &COUNTS {
        let start = region.start.load(Ordering::Relaxed);
        if address >= start && address < region.end.load(Ordering::Relaxed) {
            let index = usize_from((address - start) / PAGE);
            let table = PhysAddr(region.table.load(Ordering::Relaxed)).to_pointer();
            // SAFETY: the table has a 4-byte entry for each frame of the region, lies in RAM that
            // `init` set aside for it, and is only ever accessed as atomics.
            return unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) };
        }
    }
    unreachable!("frame {address:#x} is not RAM");
}

/// Whether the content of an allocation matters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It must be zeroes.
    Zeroes,
    /// It will be overwritten in full before anyone reads it.
    Overwritten,
}

/// Allocates 2^order contiguous frames, for the kernel's own use and without a reference count.
pub fn allocate_block(order: usize, content: Content) -> Option<PhysAddr> {
    if order >= ORDERS {
        return None;
    }
    let prefer_fresh = content == Content::Zeroes && CLEARING_IS_DEAR.load(Ordering::Relaxed);
    let (address, dirty) = {
        let mut pool = POOL.lock();
        let left = pool.free().saturating_sub(1 << order);
        if order > 0 && left < last_resort() {
            return None;
        }
        if left < RESERVE.load(Ordering::Relaxed) / 2 {
            note_pressure();
        }
        if prefer_fresh {
            match pool.take_fresh(order) {
                Some(address) => (address, false),
                None => (pool.take_used(order)?, true),
            }
        } else {
            match pool.take_used(order) {
                Some(address) => (address, true),
                None => (pool.take_fresh(order)?, false),
            }
        }
    };
    if dirty && content == Content::Zeroes {
        // SAFETY: the block was just taken from the pool; nobody else refers to it.
        unsafe { PhysAddr(address).to_pointer().write_bytes(0, PAGE_SIZE << order) };
    }
    Some(PhysAddr(address))
}

/// Memory is scarce: on the way back to ring 3, something is done about it.
fn note_pressure() {
    PRESSURE.store(true, Ordering::Relaxed);
    #[cfg(target_os = "none")]
    crate::arch::Cpu::current().request_work();
}

/// Returns what [`allocate_block`] gave.
///
/// # Safety
/// The block was allocated with this order, and nothing refers to it any more.
pub unsafe fn free_block(address: PhysAddr, order: usize) {
    let mut pool = POOL.lock();
    pool.give_back(address.0, order);
    #[cfg(target_os = "none")]
    if pool.is_report_due() {
        drop(pool);
        super::reporting::ask();
    }
}

/// Sets the free frames apart that shall be looked at for a report to the host.
pub fn begin_report() {
    POOL.lock().begin_report();
}

/// Takes free frames out that shall be looked at, by number, as long as plenty are left; 0 if there are none.
pub fn take_candidates(numbers: &mut [u32]) -> usize {
    let mut pool = POOL.lock();
    let plenty = RESERVE.load(Ordering::Relaxed) + 2 * numbers.len() as u64;
    if pool.free() <= plenty {
        return 0;
    }
    pool.take_candidates(numbers)
}

/// Puts one back that was not reported.
///
/// # Safety
/// It came from [`take_candidates`], and is put back once.
pub unsafe fn put_back(number: u32) {
    POOL.lock().put_back(number);
}

/// Puts frames back that the host knows to be free.
///
/// # Safety
/// They came from [`take_candidates`], and are put back once.
pub unsafe fn put_back_reported(numbers: core::ops::Range<u32>) {
    let mut pool = POOL.lock();
    for number in numbers {
        pool.put_back_reported(number);
    }
}

/// The report is finished: the next one is due when enough has been freed again. True if it is now.
pub fn end_report() -> bool {
    POOL.lock().end_report()
}

/// One reference to a frame of RAM that programs can map. The frame is freed with the last one.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(PhysAddr);

impl Frame {
    /// A frame that nobody else has, for a program's data.
    ///
    /// # Errors
    /// ENOMEM when what is left is the kernel's reserve.
    pub fn allocate(content: Content) -> Result<Self> {
        check_room()?;
        Self::allocate_from_reserve(content)
    }

    /// The same for the kernel's own structures (page tables), which may use the reserve.
    ///
    /// # Errors
    /// ENOMEM when only the last part of the reserve is left.
    pub fn allocate_from_reserve(content: Content) -> Result<Self> {
        if free() <= last_resort() {
            note_pressure();
            return Err(Errno::ENOMEM);
        }
        let address = allocate_block(0, content).ok_or(Errno::ENOMEM)?;
        count_of(address.0).store(1, Ordering::Relaxed);
        Ok(Self(address))
    }

    /// Its guest-physical address.
    pub fn address(&self) -> PhysAddr {
        self.0
    }

    /// Whether this is the only reference.
    pub fn is_unique(&self) -> bool {
        count_of(self.0.0).load(Ordering::Acquire) == 1
    }

    /// Gives up the reference without dropping it: a page table entry holds it from now on.
    pub fn into_raw(self) -> PhysAddr {
        let address = self.0;
        core::mem::forget(self);
        address
    }

    /// Takes back a reference that [`Frame::into_raw`] gave up.
    ///
    /// # Safety
    /// Each reference is taken back once.
    pub unsafe fn from_raw(address: PhysAddr) -> Self {
        Self(address)
    }

    /// Where its bytes are. Programs may be writing to them.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.to_pointer()
    }

    /// `len` bytes from `offset`, clipped to the frame.
    pub fn bytes(&self, offset: usize, len: usize) -> SharedBytes<'_> {
        // SAFETY: the frame stays allocated while `self` is borrowed.
        unsafe { SharedBytes::new(self.as_ptr(), PAGE_SIZE) }.part(offset, len)
    }

    /// Overwrites bytes from `offset`, as far as the frame reaches; returns how many.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> usize {
        let offset = offset.min(PAGE_SIZE);
        let count = bytes.len().min(PAGE_SIZE - offset);
        // SAFETY: the range lies in the frame, which we hold; `bytes` is borrowed memory of the
        // kernel's, which is never part of a frame that programs map.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_ptr().add(offset), count) };
        count
    }

    /// Overwrites bytes from `offset` with bytes from elsewhere, as far as the frame reaches;
    /// returns how many.
    pub fn fill(&self, offset: usize, source: SharedBytes<'_>) -> usize {
        let offset = offset.min(PAGE_SIZE);
        let count = source.len().min(PAGE_SIZE - offset);
        // SAFETY: `count` bytes are readable at the source by its type's contract, and writable in
        // the frame from `offset`; `copy` allows the two to overlap.
        unsafe { core::ptr::copy(source.as_ptr(), self.as_ptr().add(offset), count) };
        count
    }

    /// Clears bytes from `offset`, as far as the frame reaches.
    pub fn clear(&self, offset: usize, len: usize) {
        let offset = offset.min(PAGE_SIZE);
        // SAFETY: the range lies in the frame, which we hold.
        unsafe { self.as_ptr().add(offset).write_bytes(0, len.min(PAGE_SIZE - offset)) };
    }

    /// Overwrites the whole frame with a page's worth of bytes from elsewhere.
    pub fn copy_page(&self, source: SharedBytes<'_>) {
        let count = source.len().min(PAGE_SIZE);
        self.fill(0, source);
        self.clear(count, PAGE_SIZE - count);
    }
}

impl Frame {
    /// Drops the reference; if it was the last one, `last` runs before the frame is free.
    pub fn drop_last(self, last: impl FnOnce()) {
        let address = self.0;
        core::mem::forget(self);
        if count_of(address.0).fetch_sub(1, Ordering::AcqRel) == 1 {
            last();
            // SAFETY: this was the last reference to a block of order 0.
            unsafe { free_block(address, 0) };
        }
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        count_of(self.0.0).fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        Self(self.0).drop_last(|| {});
    }
}

/// Physical memory for tests on the host: one allocation that plays RAM.
#[cfg(not(target_os = "none"))]
pub mod host {
    use std::alloc::{Layout, alloc_zeroed};
    use std::sync::OnceLock;

    /// RAM that tests have, in bytes.
    const SIZE: usize = 64 << 20;

    static BASE: OnceLock<usize> = OnceLock::new();

    /// Address in this process of guest-physical address 0; sets the allocator up at first use.
    pub fn base() -> usize {
        *BASE.get_or_init(|| {
            let layout = Layout::from_size_align(SIZE, 4096).expect("a valid layout");
            // SAFETY: the size is not zero.
            unsafe { alloc_zeroed(layout) }.expose_provenance()
        })
    }

    /// Gives the frame allocator its RAM; every test that needs frames calls this first.
    pub fn init() {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| {
            base();
            // SAFETY: fresh zeroed memory that is never freed, given once; address 0 stays unused.
            unsafe { super::init([(4096, SIZE as u64), (0, 0)]) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_zero_when_it_must_be_and_comes_back_when_dropped() {
        host::init();
        let frame = Frame::allocate(Content::Zeroes).expect("memory");
        frame.write(0, &[0xff; PAGE_SIZE]);
        let second = frame.clone();
        assert!(!frame.is_unique());
        drop(frame);
        assert!(second.is_unique());
        let address = second.address();
        drop(second);
        // Other tests run beside this one, so look for the frame among several.
        let frames: std::vec::Vec<_> =
            (0..64).map(|_| Frame::allocate(Content::Zeroes).expect("memory")).collect();
        assert!(frames.iter().any(|frame| frame.address() == address));
        for frame in &frames {
            let mut bytes = [1; PAGE_SIZE];
            frame.bytes(0, PAGE_SIZE).copy_to(&mut bytes);
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_block_is_aligned_to_pages_and_split_when_smaller_ones_are_needed() {
        host::init();
        let block = allocate_block(3, Content::Zeroes).expect("memory");
        assert_eq!(block.0 % PAGE, 0);
        // SAFETY: just allocated with this order.
        unsafe { free_block(block, 3) };
        assert!(allocate_block(ORDERS, Content::Zeroes).is_none());
    }
}
