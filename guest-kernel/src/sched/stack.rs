//! Kernel stacks: each with an unmapped page below, so that one that overflows faults instead of
//! writing over its neighbour.
//!
//! Stacks that were used stay mapped and are used again: so no vCPU ever has to forget a translation.

use crate::arch::TrapFrame;
use crate::arch::entry;
use crate::errno::{Errno, Result};
use crate::memory::page_table::flag;
use crate::memory::{Content, Frame, PAGE, PhysAddr, usize_from};
use crate::sync::SpinLock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where stacks are (guest-virtual): slot 510 of every root, whose table is linked in.
const AREA: u64 = 0xffff_ff00_0000_0000;
/// Pages of a stack.
const PAGES: u64 = 4;
/// From one stack to the next: the guard page and what rounds up to a power of two.
const STRIDE: u64 = 8 * PAGE;
/// More stacks than the process table has ids.
const LIMIT: u64 = 1 << 16;
/// Entry bits of a table and of a page (SDM volume 3, section 4.5). Ring 3 may use them as far as the root
/// allows it, which it only does for the kernel itself; see `arch::native`.
const TABLE: u64 = flag::PRESENT | flag::WRITABLE | flag::USER | flag::ACCESSED;
const STACK_PAGE: u64 = TABLE | flag::DIRTY | flag::NO_EXECUTE;

struct Pool {
    free: Vec<u64>,
    made: u64,
}

static POOL: SpinLock<Pool> = SpinLock::new(Pool { free: Vec::new(), made: 0 });

/// A kernel stack, given back when dropped.
pub struct KernelStack(u64);

fn entry(table: u64, index: u64) -> &'static AtomicU64 {
    let base = PhysAddr(table).to_pointer().cast::<u64>();
    // SAFETY: tables of the stack area are frames of 512 entries that live for good.
    unsafe { AtomicU64::from_ptr(base.add(usize_from(index & 511))) }
}

/// Maps a stack that has not existed yet. Called with the pool's lock held.
fn map(number: u64) -> Result<()> {
    unsafe extern "C" {
        static stack_area_pdpt: u8;
    }
    const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;
    let root = (&raw const stack_area_pdpt).expose_provenance() as u64 - IMAGE_OFFSET;
    let start = AREA + number * STRIDE + (STRIDE - PAGES * PAGE);
    for page in 0..PAGES {
        let address = start + page * PAGE;
        let mut table = root;
        for shift in [30, 21] {
            let slot = entry(table, address >> shift);
            let mut value = slot.load(Ordering::Relaxed);
            if value == 0 {
                value = Frame::allocate(Content::Zeroes)?.into_raw().0 | TABLE;
                slot.store(value, Ordering::Release);
            }
            table = value & !0xfff;
        }
        let slot = entry(table, address >> 12);
        // A page may be there from an attempt that ran out of memory.
        if slot.load(Ordering::Relaxed) == 0 {
            let frame = Frame::allocate(Content::Overwritten)?.into_raw().0;
            slot.store(frame | STACK_PAGE, Ordering::Release);
        }
    }
    Ok(())
}

impl KernelStack {
    /// A stack.
    ///
    /// # Errors
    /// ENOMEM, EAGAIN if there are too many.
    pub fn new() -> Result<Self> {
        let mut pool = POOL.lock();
        if let Some(number) = pool.free.pop() {
            return Ok(Self(number));
        }
        let number = pool.made;
        if number >= LIMIT {
            return Err(Errno::EAGAIN);
        }
        // Room to give it back later must not have to be found then.
        let needed = usize_from(number) + 1;
        let more = needed.saturating_sub(pool.free.len());
        pool.free.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        map(number)?;
        pool.made += 1;
        Ok(Self(number))
    }

    /// First address above it (guest-virtual).
    pub fn top(&self) -> u64 {
        AREA + (self.0 + 1) * STRIDE
    }

    /// Puts a program's registers at its top, and below them what `switch_stacks` takes off when a new
    /// thread runs first; returns RSP for that.
    pub fn place(&self, frame: &TrapFrame) -> u64 {
        let at = self.top() - size_of::<TrapFrame>() as u64;
        let start = super::cpus::first_run as *const () as u64;
        let entry = entry::thread_start as *const () as u64;
        // `switch_stacks` pops R15, R14, R13, R12, RBP, RBX and returns.
        let words = [0, 0, 0, at, 0, start, entry];
        let below = at - 8 - size_of_val(&words) as u64;
        // SAFETY: both lie in the stack, which is mapped and not in use.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<TrapFrame>(usize_from(at)).write(*frame);
            core::ptr::with_exposed_provenance_mut::<[u64; 7]>(usize_from(below)).write(words);
        }
        below
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        // There is room: it was reserved when the stack was made.
        POOL.lock().free.push(self.0);
    }
}
