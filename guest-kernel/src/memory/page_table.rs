//! A program's page tables: four levels of 512 entries (SDM volume 3, section 4.5).
//!
//! Tables are frames, reached through the direct map. An entry for a page of RAM holds a reference to
//! its [`Frame`] and carries [`flag::OWNED`]; one for a page of an image does not.
//!
//! **Fork** copies no leaf table: parent and child share them, with a reference each, and the entry
//! above lacks [`flag::WRITABLE`], so that any write faults. Whoever wants to change a shared leaf table
//! gets one of its own first, by copying it; the last one keeps the original. In both, pages that are
//! not [`flag::SHARED`] are read-only from then on, as long as someone else has them too.

use super::address::{PAGE, PhysAddr, usize_from};
use super::frame::{Content, Frame};
use crate::arch::tlb;
use crate::errno::Result;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of an entry.
pub mod flag {
    /// The entry is valid.
    pub const PRESENT: u64 = 1 << 0;
    /// Writable.
    pub const WRITABLE: u64 = 1 << 1;
    /// Accessible from ring 3.
    pub const USER: u64 = 1 << 2;
    /// The processor saw an access; set from the start, so that it need not write.
    pub const ACCESSED: u64 = 1 << 5;
    /// The processor saw a write.
    pub const DIRTY: u64 = 1 << 6;
    /// Ours (bits 9 to 11 are software's): the entry holds a reference to a frame.
    pub const OWNED: u64 = 1 << 9;
    /// Ours: the page is there, but no access is allowed (`PROT_NONE`), so `PRESENT` is off.
    pub const HIDDEN: u64 = 1 << 10;
    /// Ours: a page of a `MAP_SHARED` area, which `fork` leaves writable.
    pub const SHARED: u64 = 1 << 11;
    /// Not executable.
    pub const NO_EXECUTE: u64 = 1 << 63;
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
const TABLE: u64 = flag::PRESENT | flag::WRITABLE | flag::USER | flag::ACCESSED;
/// Entries of the root that cover programs' half.
const USER_ENTRIES: usize = 256;

/// A leaf entry's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Whether it maps something, even if no access is allowed.
    pub fn is_present(self) -> bool {
        self.0 & (flag::PRESENT | flag::HIDDEN) != 0
    }

    /// Whether writes are allowed.
    pub fn is_writable(self) -> bool {
        self.0 & flag::WRITABLE != 0
    }

    /// Whether it holds a reference to a frame.
    pub fn is_owned(self) -> bool {
        self.0 & flag::OWNED != 0
    }

    /// The page's guest-physical address.
    pub fn address(self) -> PhysAddr {
        PhysAddr(self.0 & ADDRESS)
    }
}

/// Where a leaf entry is.
#[derive(Clone, Copy)]
pub struct Slot<'a>(&'a AtomicU64);

impl Slot<'_> {
    /// Reads the entry.
    pub fn get(self) -> Entry {
        Entry(self.0.load(Ordering::Relaxed))
    }

    /// Replaces the entry; the caller forgets old translations. Another vCPU that sees the entry sees what
    /// was written to the page before, too.
    pub fn set(self, entry: u64) {
        self.0.store(entry, Ordering::Release);
    }
}

/// A table of leaf entries: 2 MiB of addresses.
#[derive(Clone, Copy)]
pub struct Leaf<'a> {
    table: u64,
    tables: PhantomData<&'a PageTable>,
}

impl<'a> Leaf<'a> {
    /// The entry for an address, which must be among those that the table is for.
    pub fn slot(self, address: u64) -> Slot<'a> {
        Slot(entry_at(self.table, index(address, 0)))
    }

    /// First address behind those that the table with this one is for.
    pub const fn end(address: u64) -> u64 {
        (address | (512 * PAGE - 1)).saturating_add(1)
    }
}

/// How many frames wait together until no vCPU remembers a translation to them.
const BATCH: usize = 64;

/// Pages that were removed from tables, whose frames are free when every vCPU has forgotten them.
struct Gone<'a> {
    table: &'a PageTable,
    frames: [PhysAddr; BATCH],
    count: usize,
    pages: u64,
    remembered: bool,
}

impl<'a> Gone<'a> {
    const fn new(table: &'a PageTable) -> Self {
        Self { table, frames: [PhysAddr(0); BATCH], count: 0, pages: 0, remembered: false }
    }

    /// A page whose entry was this and is now 0.
    fn page(&mut self, address: u64, entry: Entry) {
        self.pages += 1;
        if tlb::is_only_one() {
            tlb::flush_page(address);
            if entry.is_owned() {
                // SAFETY: the entry held this reference, and is gone.
                drop(unsafe { Frame::from_raw(entry.address()) });
            }
            return;
        }
        self.remembered = true;
        if entry.is_owned() {
            self.frames[self.count] = entry.address();
            self.count += 1;
            if self.count == BATCH {
                self.settle();
            }
        }
    }

    /// A leaf table that others go on using, which the entry above no longer leads to.
    fn leaf(&mut self, above: u64, pages: u64) {
        self.pages += pages;
        tlb::flush_all();
        tlb::flush_tables_elsewhere(self.table.root());
        self.remembered = false;
        self.settle();
        release_leaf(above);
    }

    fn settle(&mut self) {
        if core::mem::take(&mut self.remembered) {
            tlb::flush_all();
            tlb::flush_elsewhere(self.table.root());
        }
        for frame in &self.frames[..core::mem::take(&mut self.count)] {
            // SAFETY: the entry held this reference, and is gone.
            drop(unsafe { Frame::from_raw(*frame) });
        }
    }
}

/// The tables of one address space. Dropping them frees tables and mapped frames.
pub struct PageTable {
    root: Frame,
    /// A second root with the same tables, which lets ring 3 use the kernel's half: what the kernel
    /// runs with on host B.
    kernel_root: Option<Frame>,
}

/// Slot of a root, in the kernel's half and never present, that holds the address of the second root.
const SECOND_ROOT: usize = 257;

/// The second root of the address space whose first root is at `root`; 0 if it has none.
pub fn kernel_root(root: u64) -> u64 {
    entry_at(root, SECOND_ROOT).load(Ordering::Relaxed)
}

fn entry_at(table: u64, index: usize) -> &'static AtomicU64 {
    let base = PhysAddr(table).to_pointer().cast::<u64>();
    // SAFETY: a table is a frame of 512 entries; indices come masked to 9 bits. Tables live until
    // their `PageTable` is dropped, and are only accessed as atomics.
    unsafe { AtomicU64::from_ptr(base.add(index)) }
}

const fn index(address: u64, level: u32) -> usize {
    usize_from(address >> (12 + 9 * level) & 511)
}

impl PageTable {
    /// Tables that map the kernel like the root at `kernel`, and nothing for programs.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(kernel: PhysAddr, kernel_slots: &[usize]) -> Result<Self> {
        let root = Frame::allocate_from_reserve(Content::Zeroes)?;
        let kernel_root = if crate::arch::kernel_needs_root() {
            Some(Frame::allocate_from_reserve(Content::Zeroes)?)
        } else {
            None
        };
        for &slot in kernel_slots {
            let value = entry_at(kernel.0, slot).load(Ordering::Relaxed);
            entry_at(root.address().0, slot).store(value, Ordering::Relaxed);
            if let Some(second) = &kernel_root {
                entry_at(second.address().0, slot).store(value | flag::USER, Ordering::Relaxed);
            }
        }
        if let Some(second) = &kernel_root {
            // An address is aligned, so that the entry is not present.
            entry_at(root.address().0, SECOND_ROOT).store(second.address().0, Ordering::Relaxed);
        }
        Ok(Self { root, kernel_root })
    }

    /// Sets an entry of the programs' half of the root.
    fn set_top(&self, index: usize, value: u64) {
        entry_at(self.root.address().0, index).store(value, Ordering::Release);
        if let Some(second) = &self.kernel_root {
            entry_at(second.address().0, index).store(value, Ordering::Release);
        }
    }

    /// Guest-physical address for CR3.
    pub fn root(&self) -> PhysAddr {
        self.root.address()
    }

    /// The entry above the leaf table for a page of a program, if the tables down to it exist.
    fn find_above_leaf(&self, address: u64) -> Option<&'static AtomicU64> {
        let mut table = self.root.address().0;
        for level in [3, 2] {
            let entry = entry_at(table, index(address, level)).load(Ordering::Relaxed);
            if entry & flag::PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(entry_at(table, index(address, 1)))
    }

    /// The leaf entry for a page of a program, to look at: without [`flag::WRITABLE`] while its table
    /// is shared. 0 if the tables down to it don't exist.
    pub fn look(&self, address: u64) -> Entry {
        let Some(above) = self.find_above_leaf(address) else { return Entry(0) };
        let above = above.load(Ordering::Relaxed);
        if above & flag::PRESENT == 0 {
            return Entry(0);
        }
        let value = entry_at(above & ADDRESS, index(address, 0)).load(Ordering::Relaxed);
        let shared = above & flag::WRITABLE == 0;
        Entry(if shared { value & !flag::WRITABLE } else { value })
    }

    /// The leaf entry for a page of a program; makes tables as needed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn make(&self, address: u64) -> Result<Slot<'_>> {
        Ok(self.make_leaf(address)?.slot(address))
    }

    /// The table with the leaf entry for a page of a program, to change; makes tables as needed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn make_leaf(&self, address: u64) -> Result<Leaf<'_>> {
        let mut table = self.root.address().0;
        for level in [3, 2, 1] {
            let entry = entry_at(table, index(address, level));
            let mut value = entry.load(Ordering::Relaxed);
            if value & flag::PRESENT == 0 {
                let next = Frame::allocate_from_reserve(Content::Zeroes)?;
                value = next.into_raw().0 | TABLE;
                if level == 3 {
                    self.set_top(index(address, 3), value);
                } else {
                    entry.store(value, Ordering::Release);
                }
            } else if value & flag::WRITABLE == 0 {
                value = self.own_leaf(entry)?;
            }
            table = value & ADDRESS;
        }
        Ok(Leaf { table, tables: PhantomData })
    }

    /// Calls `visit` with address and slot of every present leaf entry in `[start, end)`, to change.
    ///
    /// # Errors
    /// ENOMEM, when a leaf table that is shared cannot be copied; then some were visited.
    pub fn for_each_present(
        &self,
        start: u64,
        end: u64,
        mut visit: impl FnMut(u64, Slot<'_>),
    ) -> Result<()> {
        self.for_each_leaf(start, end, |above, from, to| {
            let mut value = above.load(Ordering::Relaxed);
            if value & flag::WRITABLE == 0 {
                value = self.own_leaf(above)?;
            }
            let base = from & !(LEAF_SPAN - 1);
            for_each_used(value & ADDRESS, index(from, 0), last_index(to), |at, slot| {
                visit(base + at as u64 * PAGE, Slot(slot));
            });
            Ok(())
        })
    }

    /// Calls `visit` for every leaf table that has addresses in `[start, end)`: with the entry above it,
    /// and the part of the range that it is for.
    fn for_each_leaf(
        &self,
        start: u64,
        end: u64,
        mut visit: impl FnMut(&'static AtomicU64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut address = start;
        while address < end {
            let mut table = self.root.address().0;
            let mut skip = None;
            for level in [3, 2] {
                let entry = entry_at(table, index(address, level)).load(Ordering::Relaxed);
                if entry & flag::PRESENT == 0 {
                    skip = Some(1u64 << (12 + 9 * level));
                    break;
                }
                table = entry & ADDRESS;
            }
            if let Some(span) = skip {
                address = (address & !(span - 1)).saturating_add(span);
                continue;
            }
            loop {
                let above = entry_at(table, index(address, 1));
                let next = Leaf::end(address);
                if above.load(Ordering::Relaxed) & flag::PRESENT != 0 {
                    visit(above, address, next.min(end))?;
                }
                address = next;
                if address >= end || index(address, 1) == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes the leaf tables of `[start, end)` this address space's own, so that changes there cannot
    /// fail; with `whole`, also those that lie in the range as a whole.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn own_range(&self, start: u64, end: u64, whole: bool) -> Result<()> {
        self.for_each_leaf(start, end, |above, from, to| {
            if above.load(Ordering::Relaxed) & flag::WRITABLE == 0
                && (whole || to - from < LEAF_SPAN)
            {
                self.own_leaf(above)?;
            }
            Ok(())
        })
    }

    /// Removes all pages in `[start, end)`, and lets all vCPUs forget them before their frames are free;
    /// returns how many were removed.
    ///
    /// # Errors
    /// ENOMEM, when a leaf table that is shared cannot be copied; then some were removed.
    pub fn unmap(&self, start: u64, end: u64) -> (u64, Result<()>) {
        let mut gone = Gone::new(self);
        let result = self.for_each_leaf(start, end, |above, from, to| {
            let value = above.load(Ordering::Relaxed);
            let base = from & !(LEAF_SPAN - 1);
            if value & flag::WRITABLE == 0 && to - from == LEAF_SPAN {
                // Someone else goes on using the table: nothing in it need be touched.
                let mut pages = 0;
                for_each_used(value & ADDRESS, 0, ENTRIES, |_, _| pages += 1);
                above.store(0, Ordering::Relaxed);
                gone.leaf(value, pages);
                return Ok(());
            }
            let value = if value & flag::WRITABLE == 0 { self.own_leaf(above)? } else { value };
            for_each_used(value & ADDRESS, index(from, 0), last_index(to), |at, slot| {
                let entry = Entry(slot.load(Ordering::Relaxed));
                slot.store(0, Ordering::Relaxed);
                gone.page(base + at as u64 * PAGE, entry);
            });
            Ok(())
        });
        gone.settle();
        (gone.pages, result)
    }

    /// Lets `child`, whose programs' half is empty, share the pages of these ranges, in ascending order: all
    /// there are. Their neighbours in a leaf table come along. The caller forgets all translations of this one.
    ///
    /// # Errors
    /// ENOMEM; the child is then to be dropped.
    pub fn share_with(&self, child: &Self, ranges: impl Iterator<Item = (u64, u64)>) -> Result<()> {
        let mut done = 0;
        for (start, end) in ranges {
            self.share_leaves(child, start.max(done), end)?;
            done = Leaf::end(end - 1);
        }
        Ok(())
    }

    fn share_leaves(&self, child: &Self, start: u64, end: u64) -> Result<()> {
        self.for_each_leaf(start, end, |above, from, _| {
            let mut table = child.root.address().0;
            for level in [3, 2] {
                let entry = entry_at(table, index(from, level));
                let mut value = entry.load(Ordering::Relaxed);
                if value & flag::PRESENT == 0 {
                    let next = Frame::allocate_from_reserve(Content::Zeroes)?;
                    value = next.into_raw().0 | TABLE;
                    if level == 3 {
                        child.set_top(index(from, 3), value);
                    } else {
                        entry.store(value, Ordering::Relaxed);
                    }
                }
                table = value & ADDRESS;
            }
            let value = above.load(Ordering::Relaxed) & !flag::WRITABLE;
            // SAFETY: the entry keeps its reference to the leaf table; this one is the child's.
            let leaf =
                core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(PhysAddr(value & ADDRESS)) });
            core::mem::forget(Frame::clone(&leaf));
            above.store(value, Ordering::Relaxed);
            entry_at(table, index(from, 1)).store(value, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Makes the leaf table below an entry one that only this address space has; returns the new entry.
    /// Pages that others have too become read-only unless they are meant to be shared.
    fn own_leaf(&self, above: &AtomicU64) -> Result<u64> {
        let value = above.load(Ordering::Relaxed);
        // SAFETY: looked at without taking over the entry's reference.
        let old =
            core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(PhysAddr(value & ADDRESS)) });
        let old_table = old.address().0;
        if old.is_unique() {
            for_each_used(old_table, 0, ENTRIES, |_, slot| {
                let entry = Entry(slot.load(Ordering::Relaxed));
                if entry.0 & (flag::WRITABLE | flag::SHARED) == flag::WRITABLE && entry.is_owned() {
                    // SAFETY: looked at without taking over the entry's reference.
                    let page =
                        core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(entry.address()) });
                    if !page.is_unique() {
                        slot.store(entry.0 & !flag::WRITABLE, Ordering::Relaxed);
                    }
                }
            });
            above.store(value | flag::WRITABLE, Ordering::Relaxed);
            return Ok(value | flag::WRITABLE);
        }
        let new = Frame::allocate_from_reserve(Content::Zeroes)?;
        let new_table = new.address().0;
        for_each_used(old_table, 0, ENTRIES, |at, slot| {
            let mut entry = Entry(slot.load(Ordering::Relaxed));
            if entry.is_owned() {
                // SAFETY: the entry keeps its reference; the clone's becomes the new entry's.
                let page =
                    core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(entry.address()) });
                core::mem::forget(Frame::clone(&page));
                if entry.0 & flag::SHARED == 0 {
                    entry.0 &= !flag::WRITABLE;
                }
            }
            entry_at(new_table, at).store(entry.0, Ordering::Relaxed);
        });
        let new_value = new.into_raw().0 | TABLE;
        above.store(new_value, Ordering::Release);
        // The processor may remember the old table; forgetting any page makes it forget that, too (SDM
        // volume 3, section 4.10.4.1). Others as well, before someone else changes that table.
        tlb::flush_page(0);
        tlb::flush_tables_elsewhere(self.root());
        release_leaf(value);
        Ok(new_value)
    }
}

/// Addresses that one leaf table is for.
const LEAF_SPAN: u64 = ENTRIES as u64 * PAGE;

/// One past the index of the last page before `end`, in its leaf table.
fn last_index(end: u64) -> usize {
    index(end - 1, 0) + 1
}

/// Calls `visit` with index and entry of what a table holds in `[from, to)`.
fn for_each_used(
    table: u64,
    mut from: usize,
    to: usize,
    mut visit: impl FnMut(usize, &'static AtomicU64),
) {
    loop {
        // SAFETY: tables have 512 entries, and indices are at most that.
        from = unsafe { crate::arch::paging::next_used(entry_at(table, 0).as_ptr(), from, to) };
        if from >= to {
            return;
        }
        let entry = entry_at(table, from);
        if Entry(entry.load(Ordering::Relaxed)).is_present() {
            visit(from, entry);
        }
        from += 1;
    }
}

/// Gives up a reference to a leaf table; the last one frees what it maps.
fn release_leaf(value: u64) {
    // SAFETY: the caller's entry held this reference, and is gone.
    let leaf = unsafe { Frame::from_raw(PhysAddr(value & ADDRESS)) };
    let table = leaf.address().0;
    // Only the last reference's drop finds nobody else: two that let go at once are told apart there.
    leaf.drop_last(|| {
        for_each_used(table, 0, ENTRIES, |_, slot| {
            let entry = Entry(slot.load(Ordering::Relaxed));
            if entry.is_owned() {
                // SAFETY: the entry held the reference, and nothing uses the table any more.
                drop(unsafe { Frame::from_raw(entry.address()) });
            }
        });
    });
}

impl Drop for PageTable {
    fn drop(&mut self) {
        fn free_below(table: u64, level: u32, entries: usize) {
            for_each_used(table, 0, entries, |_, slot| {
                let value = slot.load(Ordering::Relaxed);
                if level == 1 {
                    release_leaf(value);
                    return;
                }
                free_below(value & ADDRESS, level - 1, ENTRIES);
                // SAFETY: the entry held the reference to the table; nothing uses it any more.
                drop(unsafe { Frame::from_raw(Entry(value).address()) });
            });
        }
        free_below(self.root.address().0, 3, USER_ENTRIES);
    }
}
