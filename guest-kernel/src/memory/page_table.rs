//! A program's page tables: four levels of 512 entries (SDM volume 3, section 4.5).
//!
//! Tables are frames, reached through the direct map. An entry for a page of RAM holds a reference to
//! its [`Frame`] and carries [`flag::OWNED`]; one for a page of an image does not.

use super::address::{PAGE, PhysAddr, usize_from};
use super::frame::{Content, Frame};
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
    /// Not executable.
    pub const NO_EXECUTE: u64 = 1 << 63;
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
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

    /// Replaces the entry; the caller forgets old translations.
    pub fn set(self, entry: u64) {
        self.0.store(entry, Ordering::Relaxed);
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
        entry_at(self.root.address().0, index).store(value, Ordering::Relaxed);
        if let Some(second) = &self.kernel_root {
            entry_at(second.address().0, index).store(value, Ordering::Relaxed);
        }
    }

    /// Guest-physical address for CR3.
    pub fn root(&self) -> PhysAddr {
        self.root.address()
    }

    /// The leaf entry for a page of a program, if the tables down to it exist.
    pub fn find(&self, address: u64) -> Option<Slot<'_>> {
        let mut table = self.root.address().0;
        for level in [3, 2, 1] {
            let entry = entry_at(table, index(address, level)).load(Ordering::Relaxed);
            if entry & flag::PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(Slot(entry_at(table, index(address, 0))))
    }

    /// The leaf entry for a page of a program; makes tables as needed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn make(&self, address: u64) -> Result<Slot<'_>> {
        Ok(self.make_leaf(address)?.slot(address))
    }

    /// The table with the leaf entry for a page of a program; makes tables as needed.
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
                    entry.store(value, Ordering::Relaxed);
                }
            }
            table = value & ADDRESS;
        }
        Ok(Leaf { table, tables: PhantomData })
    }

    /// Calls `visit` with address and slot of every present leaf entry in `[start, end)`.
    pub fn for_each_present(&self, start: u64, end: u64, mut visit: impl FnMut(u64, Slot<'_>)) {
        let mut address = start;
        while address < end {
            let mut table = self.root.address().0;
            let mut skip = None;
            for level in [3, 2, 1] {
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
                let slot = Slot(entry_at(table, index(address, 0)));
                if slot.get().is_present() {
                    visit(address, slot);
                }
                address += PAGE;
                if address >= end || index(address, 0) == 0 {
                    break;
                }
            }
        }
    }

    /// Removes all pages in `[start, end)`; the caller forgets translations of what `visit` is told.
    pub fn unmap(&self, start: u64, end: u64, mut visit: impl FnMut(u64)) {
        self.for_each_present(start, end, |address, slot| {
            let entry = slot.get();
            slot.set(0);
            visit(address);
            if entry.is_owned() {
                // SAFETY: the entry held this reference, and is gone.
                drop(unsafe { Frame::from_raw(entry.address()) });
            }
        });
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        fn free_below(table: u64, level: u32, entries: usize) {
            for index in 0..entries {
                let value = entry_at(table, index).load(Ordering::Relaxed);
                if !Entry(value).is_present() {
                    continue;
                }
                if level > 0 {
                    free_below(value & ADDRESS, level - 1, 512);
                }
                if level > 0 || Entry(value).is_owned() {
                    // SAFETY: the entry held the reference to the table or page; nothing uses the
                    // tables any more.
                    drop(unsafe { Frame::from_raw(Entry(value).address()) });
                }
            }
        }
        free_below(self.root.address().0, 3, USER_ENTRIES);
    }
}
