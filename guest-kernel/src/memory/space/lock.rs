//! Locked memory: mlock(2). Nothing is ever swapped; what counts is the limit.

use super::super::address::USER_END;
use super::super::areas::{Area, AreaFlags, Bounds};
use super::AddressSpace;
use crate::errno::{Errno, Result};

impl AddressSpace {
    /// Bytes in locked areas.
    pub fn locked(&self) -> u64 {
        self.inner.lock_fairly().areas.locked()
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
}
