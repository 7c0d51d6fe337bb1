//! What a program that is being loaded finds in its address space.

use super::super::address::{PAGE, USER_END, page_floor};
use super::super::areas::{Area, Backing, LOWEST, Label, Protection};
use super::super::frame::Frame;
use super::super::page_table::flag;
use super::AddressSpace;
use super::fault::{WRITABLE, rights};
use crate::errno::{Errno, Result};

impl AddressSpace {
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
}
