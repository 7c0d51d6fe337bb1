//! Moving and resizing mappings: mremap(2).

use super::super::address::{PAGE, USER_END, page_ceil};
use super::super::areas::{Area, AreaFlags, Backing, Bounds, LOWEST};
use super::{AddressSpace, Inner, range_end};
use crate::arch::tlb::{flush_elsewhere, flush_page};
use crate::errno::{Errno, Result};

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

impl AddressSpace {
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
}

/// What of an area moves.
struct Range {
    old: u64,
    old_len: u64,
    new_len: u64,
    keep: bool,
}
