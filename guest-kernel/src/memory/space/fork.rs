//! The copy of an address space that a child gets.

use super::super::address::PhysAddr;
use super::super::areas::{Area, AreaFlags};
use super::AddressSpace;
use crate::arch::tlb::{flush_all, flush_elsewhere};
use crate::errno::Result;
use core::sync::atomic::Ordering;

impl AddressSpace {
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
}
