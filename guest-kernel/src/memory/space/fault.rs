//! Page faults: what is put where a program touches its memory for the first time, or writes to what it
//! shares.

use super::super::address::{PAGE, PAGE_SIZE, page_floor};
use super::super::areas::{Area, Backing, Bounds, Protection};
use super::super::bytes::SharedBytes;
use super::super::frame::{Content, Frame};
use super::super::page_table::{Leaf, Slot, flag};
use super::super::{Page, PageSource};
use super::{Access, AddressSpace, Inner};
use crate::arch::tlb::{flush_elsewhere, forget_fault};
use crate::errno::Errno;
use crate::signal::Fault;
use alloc::sync::Arc;

/// Pages that are mapped together when a program touches one of an image: they cost nothing but an
/// entry, and every fault saved is worth many of these.
const FAULT_AROUND: u64 = 16;

/// A page that may be written to is marked dirty at once: the processor need not do it then.
pub(super) const WRITABLE: u64 = flag::WRITABLE | flag::DIRTY;

impl AddressSpace {
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
    pub(super) fn map_page(
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

    pub(super) fn map_images(
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
}

/// The protection bits of an entry, all but [`WRITABLE`].
pub(super) fn rights(protection: Protection) -> u64 {
    let execute = if protection.contains(Protection::EXECUTE) { 0 } else { flag::NO_EXECUTE };
    flag::PRESENT | flag::USER | flag::ACCESSED | execute
}

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
