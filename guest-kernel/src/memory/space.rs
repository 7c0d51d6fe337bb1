//! An address space: areas, and the page tables that are filled as a program touches them.

use super::address::{PAGE, PAGE_SIZE, PhysAddr, USER_END, page_ceil, page_floor, usize_from};
use super::areas::{
    Area, AreaFlags, Areas, Backing, Bounds, LOWEST, Label, Protection, STACK_GUARD,
};
use super::bytes::SharedBytes;
use super::frame::{Content, Frame};
use super::page_table::{Entry, Leaf, PageTable, Slot, flag};
use super::{Page, PageSource};
use crate::arch::cpu::{flush_all, flush_elsewhere, flush_page, forget_fault};
use crate::errno::{Errno, Result};
use crate::signal::Fault;
use crate::sync::{SpinLock, SpinLockGuard};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Pages that are mapped together when a program touches one of an image: they cost nothing but an
/// entry, and every fault saved is worth many of these.
const FAULT_AROUND: u64 = 16;

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

/// A request to move or resize mappings (mremap(2)).
#[derive(Clone, Copy, Debug)]
pub struct Remapping {
    /// Where they are.
    pub old: u64,
    /// How long that is, in bytes.
    pub old_len: u64,
    /// How long it shall be.
    pub new_len: u64,
    /// Where they shall be, in place of what is there.
    pub target: Option<u64>,
    /// Where they would best be, if that is free; 0 for no wish.
    pub hint: u64,
    /// Whether they may move at all.
    pub may_move: bool,
    /// Whether the old areas stay, without their pages (`MREMAP_DONTUNMAP`).
    pub keep: bool,
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

    /// Makes the stack reach down to `address` at least, as far as it may grow.
    pub fn extend_stack(&self, address: u64) {
        let mut inner = self.inner.lock_fairly();
        let page = page_floor(address);
        if let Some((area, _)) = inner.areas.find_above(page)
            && matches!(area.label, Label::Stack)
        {
            area.start = area.start.min(page);
        }
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

    /// Bytes in locked areas.
    pub fn locked(&self) -> u64 {
        self.inner.lock_fairly().areas.locked()
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

    /// A copy for a child: the same areas, and all pages shared until one of the two writes
    /// (`fork(2)`).
    ///
    /// # Errors
    /// ENOMEM.
    pub fn fork(&self, kernel: PhysAddr, kernel_slots: &[usize]) -> Result<Self> {
        let child = Self::new(kernel, kernel_slots)?;
        let inner = self.inner.lock_fairly();
        {
            // Nobody else knows the child yet.
            let mut copy = child.inner.lock_in_order();
            copy.areas = inner.areas.try_clone()?;
            copy.layout = inner.layout;
            copy.resident = inner.resident;
            copy.resident_peak = inner.resident;
        }
        let expects = self.expects_barriers.load(Ordering::Relaxed);
        child.expects_barriers.store(expects, Ordering::Relaxed);
        let ranges = inner.areas.iter().map(|area| (area.start, area.end));
        let shared = self.table.share_with(&child.table, ranges);
        // What this space may write has become less.
        flush_all();
        flush_elsewhere(self.root());
        drop(inner);
        shared?;
        child.obey_advice_on_fork()?;
        Ok(child)
    }

    /// A child's copy has no locked areas, and not all that its parent has.
    fn obey_advice_on_fork(&self) -> Result<()> {
        let mut inner = self.inner.lock_fairly();
        let mut at = 0;
        let special = |area: &&Area, at| area.end > at && area.flags != AreaFlags::NONE;
        while let Some((start, end, flags)) = {
            let next = inner.areas.iter().find(|area| special(area, at));
            next.map(|area| (area.start, area.end, area.flags))
        } {
            at = end;
            if flags.contains(AreaFlags::DONT_FORK) {
                self.remove(&mut inner, start, end)?;
                continue;
            }
            if flags.contains(AreaFlags::WIPE_ON_FORK) {
                self.table.own_range(start, end, false)?;
                self.unmap_pages(&mut inner, start, end)?;
            }
            if flags.contains(AreaFlags::LOCKED) {
                inner.areas.change_flags(start, end, |flags| flags.without(AreaFlags::LOCKED))?;
            }
        }
        Ok(())
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

    /// `mremap`.
    ///
    /// # Errors
    /// EINVAL, EFAULT, ENOMEM, EAGAIN as in mremap(2).
    pub fn remap(&self, request: &Remapping, bounds: &Bounds) -> Result<u64> {
        let Remapping { old, old_len, new_len, target, hint, may_move, keep } = *request;
        let old_len = page_ceil(old_len).ok_or(Errno::EINVAL)?;
        let new_len =
            page_ceil(new_len).filter(|&len| len > 0 && len <= USER_END).ok_or(Errno::EINVAL)?;
        if keep && old_len != new_len {
            return Err(Errno::EINVAL);
        }
        let old_end = range_end(old, old_len, Errno::EINVAL)?;
        let mut inner = self.inner.lock_fairly();
        let area = inner.areas.find(old).ok_or(Errno::EFAULT)?.clone();
        if old_len == 0 && !area.shared {
            return Err(Errno::EINVAL);
        }
        if old_end > area.end {
            return Err(Errno::EFAULT);
        }
        let more = if keep { new_len } else { new_len.saturating_sub(old_len) };
        if more > 0 {
            if area.flags.contains(AreaFlags::LOCKED) && !inner.areas.may_lock(more, bounds) {
                return Err(Errno::EAGAIN);
            }
            let data = if area.is_data() { more } else { 0 };
            if !inner.areas.may_grow(more, data, bounds) {
                return Err(Errno::ENOMEM);
            }
        }
        let range = Range { old, old_len, new_len, keep };
        if let Some(target) = target {
            let target_end = range_end(target, new_len, Errno::EINVAL)?;
            if target < LOWEST || (target < old_end && old < target_end) {
                return Err(Errno::EINVAL);
            }
            self.remove(&mut inner, target, target_end)?;
            return self.move_area(&mut inner, &area, &range, target);
        }
        if keep {
            let target = inner.place(hint, new_len).ok_or(Errno::ENOMEM)?;
            return self.move_area(&mut inner, &area, &range, target);
        }
        if new_len <= old_len {
            self.remove(&mut inner, old + new_len, old_end)?;
            return Ok(old);
        }
        let grown_end = range_end(old, new_len, Errno::ENOMEM)?;
        if old_len > 0 && old_end == area.end && inner.areas.is_free(old_end, grown_end) {
            let mut tail = area.clone();
            if let Backing::Object { first_page, .. } = &mut tail.backing {
                *first_page += (old_end - area.start) / PAGE;
            }
            tail.start = old_end;
            tail.end = grown_end;
            inner.areas.insert(tail)?;
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let target = inner.place(0, new_len).ok_or(Errno::ENOMEM)?;
        self.move_area(&mut inner, &area, &range, target)
    }

    fn move_area(&self, inner: &mut Inner, area: &Area, range: &Range, target: u64) -> Result<u64> {
        let Range { old, old_len, new_len, .. } = *range;
        let mut moved = area.clone();
        if let Backing::Object { first_page, .. } = &mut moved.backing {
            *first_page += (old - area.start) / PAGE;
        }
        moved.start = target;
        moved.end = target + new_len;
        // Tables for the pages that move exist before anything changes, so that a lack of memory
        // leaves the program as it was.
        let kept = old_len.min(new_len);
        let mut short = false;
        self.table.for_each_present(old, old + kept, |address, _| {
            short |= self.table.make(target + (address - old)).is_err();
        })?;
        if short {
            return Err(Errno::ENOMEM);
        }
        inner.areas.insert(moved)?;
        if old_len > 0 {
            self.table.for_each_present(old, old + kept, |address, slot| {
                if let Ok(destination) = self.table.make(target + (address - old)) {
                    destination.set(slot.get().0);
                    slot.set(0);
                    flush_page(address);
                }
            })?;
            flush_elsewhere(self.root());
            if range.keep {
                let unlocked = |flags: AreaFlags| flags.without(AreaFlags::LOCKED);
                inner.areas.change_flags(old, old + old_len, unlocked)?;
            } else {
                self.remove(inner, old, old + old_len)?;
            }
        }
        Ok(target)
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

    /// `mlock`: these areas count as locked. Their pages are touched by the caller.
    ///
    /// # Errors
    /// EINVAL, ENOMEM as in mlock(2).
    pub fn lock_range(&self, start: u64, end: u64, bounds: &Bounds) -> Result<()> {
        let mut inner = self.inner.lock_fairly();
        let locked = |area: &Area| area.flags.contains(AreaFlags::LOCKED);
        let more = (end - start).saturating_sub(inner.areas.bytes(start, end, locked));
        if !inner.areas.may_lock(more, bounds) {
            return Err(Errno::ENOMEM);
        }
        inner.areas.change_flags(start, end, |flags| flags.with(AreaFlags::LOCKED))
    }

    /// `munlock`.
    ///
    /// # Errors
    /// ENOMEM as in mlock(2).
    pub fn unlock_range(&self, start: u64, end: u64) -> Result<()> {
        let mut inner = self.inner.lock_fairly();
        inner.areas.change_flags(start, end, |flags| flags.without(AreaFlags::LOCKED))
    }

    /// `mlockall` and `munlockall`: all areas that there are (`None`: they stay as they are), and all
    /// that will come.
    ///
    /// # Errors
    /// ENOMEM as in mlock(2).
    pub fn lock_all(&self, current: Option<bool>, future: bool, bounds: &Bounds) -> Result<()> {
        let mut inner = self.inner.lock_fairly();
        if current == Some(true) && inner.areas.total() > bounds.locked {
            return Err(Errno::ENOMEM);
        }
        inner.future = if future { AreaFlags::LOCKED } else { AreaFlags::NONE };
        let change = |flags: AreaFlags| match current {
            Some(true) => flags.with(AreaFlags::LOCKED),
            _ => flags.without(AreaFlags::LOCKED),
        };
        if current.is_some() {
            // That not everything is mapped does not matter.
            let _ = inner.areas.change_flags(0, USER_END, change);
        }
        Ok(())
    }

    /// Whether a part of the range is locked.
    pub fn is_locked_in(&self, start: u64, end: u64) -> bool {
        let locked = |area: &Area| area.flags.contains(AreaFlags::LOCKED);
        self.inner.lock_fairly().areas.bytes(start, end, locked) > 0
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

    /// Copies bytes of this space, whoever runs; returns how many were readable from the first on.
    pub fn read(&self, mut address: u64, target: &mut [u8]) -> usize {
        let mut done = 0;
        while done < target.len() {
            let Ok((physical, _frame)) = self.pin(address, Access::Read) else { break };
            let count = (PAGE_SIZE - usize_from(physical.0 % PAGE)).min(target.len() - done);
            // SAFETY: the page is held, or an image's, and so stays in the direct map meanwhile.
            let bytes = unsafe { SharedBytes::new(physical.to_pointer(), count) };
            bytes.copy_to(&mut target[done..]);
            done += count;
            address += count as u64;
        }
        done
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

    /// A program touched an address: makes the page be there if it may.
    ///
    /// # Errors
    /// What signal the program gets if not.
    pub fn fault(
        &self,
        address: u64,
        access: Access,
        bounds: fn() -> Bounds,
    ) -> core::result::Result<(), Fault> {
        let mut inner = self.inner.lock_fairly();
        if inner.areas.find(address).is_none() {
            inner.grow_stack(address, &bounds())?;
        }
        let area = inner.areas.find(address).ok_or(Fault::UNMAPPED)?;
        if !access.allowed_by(area.protection) {
            return Err(Fault::ACCESS);
        }
        let area = area.clone();
        let mapped = self.map_page(&mut inner, &area, page_floor(address), access)?;
        if mapped && access != Access::Write {
            self.map_around(&mut inner, &area, page_floor(address));
        }
        Ok(())
    }

    /// Makes one page of an area accessible, of which the processor remembers nothing; says whether it is
    /// an image's page.
    fn map_page(
        &self,
        inner: &mut Inner,
        area: &Area,
        address: u64,
        access: Access,
    ) -> core::result::Result<bool, Fault> {
        let slot = self.table.make(address).map_err(|_| Fault::OUT_OF_MEMORY)?;
        let old = slot.get();
        let write = access == Access::Write;
        if old.is_present() {
            if write && !old.is_writable() {
                self.make_writable(area, address, slot)?;
            } else {
                // Another vCPU was first, or the processor remembered less than the tables say.
            }
            forget_fault(address);
            return Ok(false);
        }
        let rights = rights(area.protection);
        let (entry, image) = match &area.backing {
            Backing::Anonymous => {
                let frame = Frame::allocate(Content::Zeroes).map_err(|_| Fault::OUT_OF_MEMORY)?;
                let writable =
                    if area.protection.contains(Protection::WRITE) { WRITABLE } else { 0 };
                (frame.into_raw().0 | flag::OWNED | writable, false)
            }
            Backing::Object { source, .. } => {
                let page = source
                    .page(area.page_index(address), write && area.shared)
                    .map_err(object_fault)?;
                match page {
                    Page::Image(image) if !write => (image.0, true),
                    // A private copy, or an object that offers an image's page for writing: never
                    // write to that.
                    Page::Image(image) => {
                        // SAFETY: an image's pages are mapped in the direct map for good.
                        let bytes = unsafe { SharedBytes::new(image.to_pointer(), PAGE_SIZE) };
                        (copy_of(bytes)?, false)
                    }
                    Page::Frame(frame) if area.shared => {
                        let writable = if write { WRITABLE } else { 0 };
                        (frame.into_raw().0 | flag::OWNED | flag::SHARED | writable, false)
                    }
                    Page::Frame(frame) if !write => (frame.into_raw().0 | flag::OWNED, false),
                    Page::Frame(frame) => (copy_of(frame.bytes(0, PAGE_SIZE))?, false),
                }
            }
        };
        slot.set(entry | rights);
        inner.count(1);
        Ok(image)
    }

    /// The program writes to a page that is there and read-only: it becomes writable, or is copied.
    fn make_writable(
        &self,
        area: &Area,
        address: u64,
        slot: Slot<'_>,
    ) -> core::result::Result<(), Fault> {
        let old = slot.get();
        let rights = rights(area.protection);
        if area.shared {
            let Backing::Object { source, .. } = &area.backing else {
                return Err(Fault::ACCESS);
            };
            let page = source.page(area.page_index(address), true).map_err(object_fault)?;
            let Page::Frame(frame) = page else {
                return Err(Fault::ACCESS);
            };
            slot.set(frame.into_raw().0 | flag::OWNED | flag::SHARED | WRITABLE | rights);
        } else if old.is_owned() {
            // SAFETY: looked at without taking over the reference that the entry keeps.
            let frame = core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(old.address()) });
            if frame.is_unique() {
                slot.set(old.address().0 | flag::OWNED | WRITABLE | rights);
                return Ok(());
            }
            slot.set(copy_of(frame.bytes(0, PAGE_SIZE))? | rights);
        } else {
            // SAFETY: an entry without a frame maps an image's page, which is there for good.
            let bytes = unsafe { SharedBytes::new(old.address().to_pointer(), PAGE_SIZE) };
            slot.set(copy_of(bytes)? | rights);
        }
        // Other threads must not read on in the old page, least of all when it is someone else's.
        flush_elsewhere(self.root());
        if old.is_owned() {
            // SAFETY: the reference of the entry that was just replaced.
            drop(unsafe { Frame::from_raw(old.address()) });
        }
        Ok(())
    }

    /// Maps the neighbours of an image's page, as far as they are in the same table and area.
    fn map_around(&self, inner: &mut Inner, area: &Area, address: u64) {
        let Backing::Object { source, .. } = &area.backing else {
            return;
        };
        let window = address & !(FAULT_AROUND * PAGE - 1);
        let start = window.max(area.start);
        let end = (window + FAULT_AROUND * PAGE).min(area.end);
        self.map_images(inner, area, source, start, end);
    }

    fn map_images(
        &self,
        inner: &mut Inner,
        area: &Area,
        source: &Arc<dyn PageSource>,
        start: u64,
        end: u64,
    ) {
        let rights = rights(area.protection);
        let mut mapped = 0;
        let mut at = start;
        while at < end {
            let index = area.page_index(at);
            let (image, pages) = match source.image_run(index) {
                Some(run) if run.1 > 0 => run,
                _ => match source.page(index, false) {
                    Ok(Page::Image(image)) => (image, 1),
                    _ => break,
                },
            };
            let Ok(leaf) = self.table.make_leaf(at) else { break };
            let mut entry = image.0 | rights;
            let stop = end.min(Leaf::end(at)).min(at.saturating_add(pages.saturating_mul(PAGE)));
            while at < stop {
                let slot = leaf.slot(at);
                if !slot.get().is_present() {
                    slot.set(entry);
                    mapped += 1;
                }
                entry += PAGE;
                at += PAGE;
            }
        }
        inner.count(mapped);
    }

    /// Adds an area while a program is being loaded, in place of what is there, and maps up to `ahead`
    /// of its pages now, if they are an image's.
    ///
    /// # Errors
    /// ENOMEM, or EINVAL if the area does not lie in the program's half.
    pub fn add(&self, area: Area, ahead: u64) -> Result<()> {
        if area.start >= area.end || area.end > USER_END || area.start < LOWEST {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.inner.lock_fairly();
        if !inner.areas.is_free(area.start, area.end) {
            self.remove(&mut inner, area.start, area.end)?;
        }
        if ahead > 0
            && area.protection.0 != 0
            && let Backing::Object { source, .. } = &area.backing
        {
            let end = area.end.min(area.start.saturating_add(ahead * PAGE));
            self.map_images(&mut inner, &area, source, area.start, end);
        }
        inner.areas.insert(area)
    }

    /// Puts a frame of ours in the place of a private page before the program runs, in an area with
    /// this protection.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn install(&self, address: u64, frame: Frame, protection: Protection) -> Result<()> {
        let mut inner = self.inner.lock_fairly();
        let slot = self.table.make(page_floor(address))?;
        let old = slot.get();
        if old.is_owned() {
            // SAFETY: the reference of the entry that is replaced.
            drop(unsafe { Frame::from_raw(old.address()) });
        }
        let writable = if protection.contains(Protection::WRITE) { WRITABLE } else { 0 };
        slot.set(frame.into_raw().0 | flag::OWNED | writable | rights(protection));
        inner.count(1);
        Ok(())
    }

    /// The guest-physical address behind a program's address, for a device that is to read or write
    /// it; faults the page in. The reference keeps a page of RAM from being reused meanwhile.
    ///
    /// # Errors
    /// EFAULT if the program could not do the access itself.
    pub fn pin(&self, address: u64, access: Access) -> Result<(PhysAddr, Option<Frame>)> {
        let mut inner = self.inner.lock_fairly();
        let (physical, entry) = self.find_page(&mut inner, address, access)?;
        let frame = entry.is_owned().then(|| {
            // SAFETY: the entry keeps its reference; this borrows it for long enough to clone.
            let held = core::mem::ManuallyDrop::new(unsafe { Frame::from_raw(entry.address()) });
            Frame::clone(&held)
        });
        Ok((physical, frame))
    }

    /// The guest-physical address behind a program's address, and the entry that leads there.
    fn find_page(
        &self,
        inner: &mut Inner,
        address: u64,
        access: Access,
    ) -> Result<(PhysAddr, Entry)> {
        if address >= USER_END {
            return Err(Errno::EFAULT);
        }
        let area = inner.areas.find(address).ok_or(Errno::EFAULT)?;
        if !access.allowed_by(area.protection) {
            return Err(Errno::EFAULT);
        }
        let page = page_floor(address);
        let present =
            |entry: Entry| entry.is_present() && (access != Access::Write || entry.is_writable());
        let mut entry = self.table.look(page);
        if !present(entry) {
            let area = area.clone();
            self.map_page(inner, &area, page, access).map_err(|_| Errno::EFAULT)?;
            // Nothing has faulted on it, so that the processor may remember what was there.
            flush_page(page);
            entry = self.table.look(page);
            if !present(entry) {
                return Err(Errno::EFAULT);
            }
        }
        Ok((PhysAddr(entry.address().0 + address % PAGE), entry))
    }

    /// Calls `act` with an aligned word of a program's memory, faulted in for this access, while no page
    /// is replaced by another: what it sees or does is what the program has.
    ///
    /// # Errors
    /// EFAULT if the program could not do the access itself.
    pub fn with_word<T>(
        &self,
        address: u64,
        access: Access,
        act: impl FnOnce(&AtomicU32) -> T,
    ) -> Result<T> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EFAULT);
        }
        let mut inner = self.inner.lock_fairly();
        let (physical, _) = self.find_page(&mut inner, address, access)?;
        // SAFETY: four aligned bytes of a page that the entry keeps in the direct map while the lock is
        // held; programs access them as they like, which atomics allow for.
        Ok(act(unsafe { AtomicU32::from_ptr(physical.to_pointer().cast()) }))
    }

    /// Writes to a program's memory before it runs, as `execve` does.
    ///
    /// # Errors
    /// ENOMEM, or EFAULT if nothing is mapped there.
    pub fn write(&self, mut address: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (physical, frame) = self.pin(address, Access::Write)?;
            let frame = frame.ok_or(Errno::EFAULT)?;
            let count = frame.write(usize_from(physical.0 % PAGE), bytes);
            address += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
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

/// What of an area moves.
struct Range {
    old: u64,
    old_len: u64,
    new_len: u64,
    keep: bool,
}

/// The running process's address space is about to go: the vCPU uses the kernel's own tables.
#[cfg(target_os = "none")]
pub fn leave() {
    // SAFETY: the linked tables map the kernel like every other root.
    unsafe { crate::arch::Cpu::current().set_root(crate::boot::kernel_root()) };
    crate::arch::native::resume_if_used();
}

/// The protection bits of an entry, all but [`WRITABLE`].
fn rights(protection: Protection) -> u64 {
    let execute = if protection.contains(Protection::EXECUTE) { 0 } else { flag::NO_EXECUTE };
    flag::PRESENT | flag::USER | flag::ACCESSED | execute
}

/// A page that may be written to is marked dirty at once: the processor need not do it then.
const WRITABLE: u64 = flag::WRITABLE | flag::DIRTY;

fn copy_of(bytes: SharedBytes<'_>) -> core::result::Result<u64, Fault> {
    let frame = Frame::allocate(Content::Overwritten).map_err(|_| Fault::OUT_OF_MEMORY)?;
    frame.copy_page(bytes);
    Ok(frame.into_raw().0 | flag::OWNED | WRITABLE)
}

fn object_fault(error: Errno) -> Fault {
    match error {
        Errno::ENOMEM | Errno::ENOSPC => Fault::OUT_OF_MEMORY,
        _ => Fault::BUS,
    }
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
