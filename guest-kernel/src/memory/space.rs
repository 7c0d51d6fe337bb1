//! An address space: areas, and the page tables that are filled as a program touches them.
//!
//! * `fault`: what a page fault maps
//! * `remap`: mremap(2)
//! * `fork`: the copy that a child gets
//! * `lock`: mlock(2)
//! * `load`: what a program finds at its start
//! * `access`: the kernel's own way to a program's memory

mod access;
mod fault;
mod fork;
mod load;
mod lock;
mod remap;

pub use remap::Remapping;

use super::address::{PAGE, PhysAddr, USER_END, page_ceil, page_floor};
use super::areas::{
    Area, AreaFlags, Areas, Backing, Bounds, LOWEST, Label, Protection, STACK_GUARD,
};
use super::concurrency::ConcurrencyIds;
use super::page_table::{PageTable, flag};
use crate::arch::tlb::{flush_elsewhere, flush_page};
use crate::errno::{Errno, Result};
use crate::signal::Fault;
use crate::sync::{SpinLock, SpinLockGuard};
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;

/// How a program touched an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    fn allowed_by(self, protection: Protection) -> bool {
        match self {
            // On x86-64 writable or executable memory is readable, as Linux has it too.
            Self::Read => protection.0 != 0,
            Self::Write => protection.contains(Protection::WRITE),
            Self::Execute => protection.contains(Protection::EXECUTE),
        }
    }
}

/// Where a mapping shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere, near this address if it is not 0 and free.
    Hint(u64),
    /// Anywhere below 2 GiB (`MAP_32BIT`).
    Low,
    /// Here, in place of what is there.
    Fixed(u64),
    /// Here, if nothing is there (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(u64),
}

/// A request for a new area.
pub struct Mapping {
    /// Where.
    pub placement: Placement,
    /// Length in bytes, not yet rounded.
    pub len: u64,
    /// Rights.
    pub protection: Protection,
    /// Rights that `mprotect` may grant later.
    pub allowed: Protection,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// What is behind it.
    pub backing: Backing,
    /// What it is.
    pub label: Label,
    /// What else is said of it.
    pub flags: AreaFlags,
}

/// The addresses that a program was given at `execve`, and its break.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Mappings go below this address.
    pub mmap_top: u64,
    /// Start of the heap.
    pub break_start: u64,
    /// End of the heap, not rounded.
    pub break_end: u64,
    /// For `/proc/PID/stat` and friends: code, data, stack, arguments, environment.
    pub code: (u64, u64),
    /// Initialised data.
    pub data: (u64, u64),
    /// RSP at the program's first instruction.
    pub stack_start: u64,
    /// Argument strings.
    pub arguments: (u64, u64),
    /// Environment strings.
    pub environment: (u64, u64),
    /// The auxiliary vector.
    pub auxiliary: (u64, u64),
}

struct Inner {
    areas: Areas,
    layout: Layout,
    /// Pages with an entry, for `RLIMIT_AS`'s and `ru_maxrss`'s sake.
    resident: u64,
    /// The most there ever were.
    resident_peak: u64,
    /// What is said of areas to come (`mlockall(MCL_FUTURE)`).
    future: AreaFlags,
}

/// What a program sees of memory. Shared by its threads.
pub struct AddressSpace {
    inner: SpinLock<Inner>,
    table: PageTable,
    /// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`.
    pub expects_barriers: AtomicBool,
    /// Of those that run with it.
    pub concurrency_ids: ConcurrencyIds,
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.inner.get_mut().areas.iter().for_each(Area::tell_unmapped);
    }
}

impl AddressSpace {
    /// An empty one that maps the kernel like the root at `kernel` does.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(kernel: PhysAddr, kernel_slots: &[usize]) -> Result<Self> {
        let mut inner = Inner {
            areas: Areas::new(),
            layout: Layout::default(),
            resident: 0,
            resident_peak: 0,
            future: AreaFlags::NONE,
        };
        inner.areas.reserve()?;
        Ok(Self {
            inner: SpinLock::new(inner),
            table: PageTable::new(kernel, kernel_slots)?,
            expects_barriers: AtomicBool::new(false),
            concurrency_ids: ConcurrencyIds::new(),
        })
    }

    /// Guest-physical address for CR3.
    pub fn root(&self) -> PhysAddr {
        self.table.root()
    }

    /// Where things were put.
    pub fn layout(&self) -> Layout {
        self.inner.lock_fairly().layout
    }

    /// Says where things were put.
    pub fn set_layout(&self, layout: Layout) {
        self.inner.lock_fairly().layout = layout;
    }

    /// Pages mapped now, and the most that ever were.
    pub fn resident(&self) -> (u64, u64) {
        let inner = self.inner.lock_fairly();
        (inner.resident, inner.resident_peak)
    }

    /// Bytes in all areas.
    pub fn total(&self) -> u64 {
        self.inner.lock_fairly().areas.total()
    }

    /// How many areas there are.
    pub fn area_count(&self) -> u64 {
        self.inner.lock_fairly().areas.iter().count() as u64
    }

    /// A copy of the areas, in ascending order.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn areas(&self) -> Result<Vec<Area>> {
        let inner = self.inner.lock_fairly();
        let mut list = Vec::new();
        list.try_reserve(inner.areas.iter().count()).map_err(|_| Errno::ENOMEM)?;
        list.extend(inner.areas.iter().cloned());
        Ok(list)
    }

    /// `mmap`.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EEXIST, EPERM, EAGAIN as in mmap(2).
    pub fn map(&self, mapping: Mapping, bounds: &Bounds) -> Result<u64> {
        if mapping.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_ceil(mapping.len).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        let mut inner = self.inner.lock_fairly();
        let flags = mapping.flags.with(inner.future);
        inner.check_growth(&mapping, flags, len, bounds)?;
        let start = match mapping.placement {
            Placement::Fixed(start) | Placement::FixedNoReplace(start) => {
                if start % PAGE != 0 {
                    return Err(Errno::EINVAL);
                }
                if start > USER_END - len {
                    return Err(Errno::ENOMEM);
                }
                if start < LOWEST {
                    return Err(Errno::EPERM);
                }
                if mapping.placement == Placement::FixedNoReplace(start) {
                    if !inner.areas.is_free(start, start + len) {
                        return Err(Errno::EEXIST);
                    }
                } else {
                    self.remove(&mut inner, start, start + len)?;
                }
                start
            }
            // Linux: between 1 and 2 GiB.
            Placement::Low => inner
                .areas
                .find_free(len, 0x8000_0000)
                .filter(|&start| start >= 0x4000_0000)
                .ok_or(Errno::ENOMEM)?,
            Placement::Hint(hint) => inner.place(hint, len).ok_or(Errno::ENOMEM)?,
        };
        inner.areas.insert(Area {
            start,
            end: start + len,
            protection: mapping.protection,
            allowed: mapping.allowed,
            shared: mapping.shared,
            backing: mapping.backing,
            label: mapping.label,
            flags,
        })?;
        Ok(start)
    }

    /// Where a mapping of `len` bytes, whole pages, would go if there were no wish.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn find_free(&self, len: u64) -> Result<u64> {
        let inner = self.inner.lock_fairly();
        inner.areas.find_free(len, inner.layout.mmap_top).ok_or(Errno::ENOMEM)
    }

    /// The area that contains an address, or else the next above it.
    pub fn area_above(&self, address: u64) -> Option<Area> {
        self.inner.lock_fairly().areas.find_above(address).map(|(area, _)| area.clone())
    }

    /// Whether nothing is mapped in `[start, end)`.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.inner.lock_fairly().areas.is_free(start, end)
    }

    /// `munmap`.
    ///
    /// # Errors
    /// EINVAL, ENOMEM as in munmap(2).
    pub fn unmap(&self, start: u64, len: u64) -> Result<()> {
        let end = range_end(start, len, Errno::EINVAL)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        self.remove(&mut self.inner.lock_fairly(), start, end)
    }

    fn remove(&self, inner: &mut Inner, start: u64, end: u64) -> Result<()> {
        self.table.own_range(start, end, false)?;
        let removed = inner.areas.remove(start, end)?;
        if !removed.is_empty() {
            self.unmap_pages(inner, start, end)?;
        }
        removed.iter().for_each(Area::tell_unmapped);
        Ok(())
    }

    fn unmap_pages(&self, inner: &mut Inner, start: u64, end: u64) -> Result<()> {
        let (removed, result) = self.table.unmap(start, end);
        inner.resident -= removed;
        result
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EACCES as in mprotect(2).
    pub fn protect(
        &self,
        start: u64,
        len: u64,
        protection: Protection,
        bounds: &Bounds,
    ) -> Result<()> {
        let end = range_end(start, len, Errno::ENOMEM)?;
        if start == end {
            return Ok(());
        }
        let mut inner = self.inner.lock_fairly();
        if bounds.data != u64::MAX && protection.contains(Protection::WRITE) {
            let becomes_data = |area: &Area| !area.shared && !area.grows() && !area.is_data();
            let more = inner.areas.bytes(start, end, becomes_data);
            if !inner.areas.may_grow(0, more, bounds) {
                return Err(Errno::ENOMEM);
            }
        }
        self.table.own_range(start, end, true)?;
        inner.areas.protect(start, end, protection)?;
        let mut less = false;
        let result = self.table.for_each_present(start, end, |address, slot| {
            let old = slot.get().0;
            let new = if protection.0 == 0 {
                old & !flag::PRESENT | flag::HIDDEN
            } else {
                let mut entry = old & !flag::HIDDEN | flag::PRESENT | flag::NO_EXECUTE;
                if protection.contains(Protection::EXECUTE) {
                    entry &= !flag::NO_EXECUTE;
                }
                // Writes come back by a fault, which knows whether the page must be copied first.
                entry & !flag::WRITABLE
            };
            slot.set(new);
            less |= old & !new & (flag::PRESENT | flag::WRITABLE) != 0
                || new & !old & flag::NO_EXECUTE != 0;
            flush_page(address);
        });
        if less {
            flush_elsewhere(self.root());
        }
        result
    }

    /// `brk`: the new break, or the old one where it cannot change.
    pub fn set_break(&self, wanted: u64, bounds: &Bounds) -> u64 {
        let mut inner = self.inner.lock_fairly();
        let layout = inner.layout;
        let (Some(old_end), Some(new_end)) = (page_ceil(layout.break_end), page_ceil(wanted))
        else {
            return layout.break_end;
        };
        let data = layout.data.1.saturating_sub(layout.data.0);
        if wanted < layout.break_start
            || new_end > USER_END
            || (bounds.heap != u64::MAX
                && (wanted - layout.break_start).saturating_add(data) > bounds.heap)
        {
            return layout.break_end;
        }
        let flags = inner.future;
        let done = if new_end > old_end {
            let more = new_end - old_end;
            let locked = flags.contains(AreaFlags::LOCKED);
            inner.areas.may_grow(more, more, bounds)
                && (!locked || inner.areas.may_lock(more, bounds))
                // Linux keeps a stack guard's distance to what is above.
                && inner.areas.is_free(old_end, new_end.saturating_add(PAGE))
                && inner
                    .areas
                    .insert(Area {
                        start: old_end,
                        end: new_end,
                        protection: Protection::READ.with(Protection::WRITE),
                        allowed: Protection::ALL,
                        shared: false,
                        backing: Backing::Anonymous,
                        label: Label::Heap,
                        flags,
                    })
                    .is_ok()
        } else {
            new_end == old_end || self.remove(&mut inner, new_end, old_end).is_ok()
        };
        if done {
            inner.layout.break_end = wanted;
        }
        inner.layout.break_end
    }

    /// `madvise(MADV_DONTNEED)`: private pages are zeroes, or the file's, again; with `free`
    /// (`MADV_FREE`) only those of anonymous memory.
    ///
    /// # Errors
    /// EINVAL if a part is locked, or is not anonymous; ENOMEM if a part is not mapped.
    pub fn discard(&self, start: u64, len: u64, free: bool) -> Result<()> {
        let end = range_end(start, len, Errno::EINVAL)?;
        let mut inner = self.inner.lock_fairly();
        let refused = |area: &Area| {
            area.flags.contains(AreaFlags::LOCKED)
                || (free && !matches!(area.backing, Backing::Anonymous))
        };
        if inner.areas.bytes(start, end, refused) > 0 {
            return Err(Errno::EINVAL);
        }
        self.table.own_range(start, end, false)?;
        self.unmap_pages(&mut inner, start, end)?;
        if inner.areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `madvise` with what a child is to get of the areas.
    ///
    /// # Errors
    /// EINVAL if only private anonymous memory can have it; ENOMEM if a part is not mapped.
    pub fn advise(&self, start: u64, len: u64, set: AreaFlags, clear: AreaFlags) -> Result<()> {
        let end = range_end(start, len, Errno::EINVAL)?;
        let mut inner = self.inner.lock_fairly();
        let not_anonymous = |area: &Area| !matches!(area.backing, Backing::Anonymous);
        if set == AreaFlags::WIPE_ON_FORK && inner.areas.bytes(start, end, not_anonymous) > 0 {
            return Err(Errno::EINVAL);
        }
        inner.areas.change_flags(start, end, |flags| flags.without(clear).with(set))
    }

    /// The rights of the area at an address.
    pub fn protection_at(&self, address: u64) -> Option<(Protection, bool, u64)> {
        let inner = self.inner.lock_fairly();
        inner.areas.find(address).map(|area| (area.protection, area.shared, area.end))
    }

    /// Whether the address is in a `MAP_SHARED` area.
    pub fn is_shared(&self, address: u64) -> bool {
        self.inner.lock_fairly().areas.find(address).is_some_and(|area| area.shared)
    }

    /// Whether every page in the range belongs to an area.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        self.inner.lock_fairly().areas.covers(start, end)
    }

    /// `mincore`: whether a page is in memory; `None` where nothing is mapped.
    pub fn is_resident(&self, address: u64) -> Option<bool> {
        let inner = self.inner.lock_fairly();
        let area = inner.areas.find(address)?;
        if self.table.look(page_floor(address)).is_present() {
            return Some(true);
        }
        Some(match &area.backing {
            Backing::Anonymous => false,
            Backing::Object { source, .. } => source.is_resident(area.page_index(address)),
        })
    }

    /// Whether a thread waits for the lock of this space: for the panic handler's sake.
    pub fn is_locked(&self) -> bool {
        self.inner.try_lock().is_none_or(|_: SpinLockGuard<'_, Inner>| false)
    }
}

impl Inner {
    fn count(&mut self, pages: u64) {
        self.resident += pages;
        self.resident_peak = self.resident_peak.max(self.resident);
    }

    fn place(&self, hint: u64, len: u64) -> Option<u64> {
        let hint = page_floor(hint);
        if hint >= LOWEST && hint <= USER_END - len && self.areas.is_free(hint, hint + len) {
            return Some(hint);
        }
        self.areas
            .find_free(len, self.layout.mmap_top)
            .or_else(|| self.areas.find_free(len, USER_END))
    }

    /// Checks the limits for a new area.
    fn check_growth(
        &self,
        mapping: &Mapping,
        flags: AreaFlags,
        len: u64,
        bounds: &Bounds,
    ) -> Result<()> {
        if flags.contains(AreaFlags::LOCKED) && !self.areas.may_lock(len, bounds) {
            return Err(Errno::EAGAIN);
        }
        if bounds.total == u64::MAX && bounds.data == u64::MAX {
            return Ok(());
        }
        let is_data = !mapping.shared
            && mapping.protection.contains(Protection::WRITE)
            && !flags.contains(AreaFlags::GROWS_DOWN);
        // What it takes the place of need not be counted twice.
        let (replaced, replaced_data) = match mapping.placement {
            Placement::Fixed(start) => {
                let end = start.saturating_add(len);
                (
                    self.areas.bytes(start, end, |_| true),
                    self.areas.bytes(start, end, Area::is_data),
                )
            }
            _ => (0, 0),
        };
        let data = if is_data { len.saturating_sub(replaced_data) } else { 0 };
        if self.areas.may_grow(len.saturating_sub(replaced), data, bounds) {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    /// Extends a stack down to `address` if it may grow that far.
    fn grow_stack(&mut self, address: u64, bounds: &Bounds) -> core::result::Result<(), Fault> {
        let page = page_floor(address);
        let (area, below) = self.areas.find_above(address).ok_or(Fault::UNMAPPED)?;
        if !area.grows() || page < LOWEST || area.end - page > bounds.stack {
            return Err(Fault::UNMAPPED);
        }
        if below != 0 && page < below.saturating_add(STACK_GUARD) {
            return Err(Fault::UNMAPPED);
        }
        let more = area.start - page;
        let locked = area.flags.contains(AreaFlags::LOCKED);
        if bounds.total != u64::MAX || locked {
            let fits = self.areas.may_grow(more, 0, bounds)
                && (!locked || self.areas.may_lock(more, bounds));
            if !fits {
                return Err(Fault::UNMAPPED);
            }
        }
        let (area, _) = self.areas.find_above(address).ok_or(Fault::UNMAPPED)?;
        area.start = page;
        Ok(())
    }
}

/// The running process's address space is about to go: the vCPU uses the kernel's own tables.
#[cfg(target_os = "none")]
pub fn leave() {
    // SAFETY: the linked tables map the kernel like every other root.
    unsafe { crate::arch::Cpu::current().set_root(crate::boot::kernel_root()) };
    crate::arch::native::resume_if_used();
}

fn range_end(start: u64, len: u64, error: Errno) -> Result<u64> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    page_ceil(len)
        .and_then(|len| start.checked_add(len))
        .filter(|&end| end <= USER_END)
        .ok_or(error)
}
