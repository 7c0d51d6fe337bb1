//! The kernel's own way to the memory of a program, whoever runs.

use super::super::address::{PAGE, PAGE_SIZE, PhysAddr, USER_END, page_floor, usize_from};
use super::super::bytes::SharedBytes;
use super::super::frame::Frame;
use super::super::page_table::Entry;
use super::{Access, AddressSpace, Inner};
use crate::arch::tlb::flush_page;
use crate::errno::{Errno, Result};
use core::sync::atomic::AtomicU32;

impl AddressSpace {
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
}
