//! Locked memory: mlock(2) and its kin. Nothing is ever swapped out here, so that locking a page means
//! to have it, and to count it.

use super::memory::populate;
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, USER_END, page_ceil, page_floor};
use crate::process::{bounds, current, resource};
use linux_raw_sys::general::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT};

/// Whether the caller may lock anything at all.
pub(super) fn may_lock() -> bool {
    let me = current();
    me.can(Capability::IpcLock) || me.limits().lock().0[resource::MEMLOCK].soft != 0
}

/// Whole pages: the start is rounded down, the end up.
fn range(address: u64, len: u64) -> Result<(u64, u64)> {
    let start = page_floor(address);
    let end = page_ceil(len.checked_add(address - start).ok_or(Errno::ENOMEM)?)
        .and_then(|len| start.checked_add(len))
        .ok_or(Errno::EINVAL)?;
    if end > USER_END && end != start { Err(Errno::ENOMEM) } else { Ok((start, end)) }
}

fn lock(address: u64, len: u64, on_fault: bool) -> Result<()> {
    if !may_lock() {
        return Err(Errno::EPERM);
    }
    let (start, end) = range(address, len)?;
    if start == end {
        return Ok(());
    }
    current().memory().lock_range(start, end, &bounds())?;
    // What cannot be touched cannot be locked.
    if on_fault { Ok(()) } else { populate(start, end).map_err(|_| Errno::ENOMEM) }
}

/// `mlock(2)`.
///
/// # Errors
/// As the man page says.
pub fn mlock(address: u64, len: u64) -> Result<()> {
    lock(address, len, false)
}

/// `mlock2(2)`.
///
/// # Errors
/// As the man page says.
pub fn mlock2(address: u64, len: u64, flags: u32) -> Result<()> {
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    lock(address, len, flags & MLOCK_ONFAULT != 0)
}

/// `munlock(2)`.
///
/// # Errors
/// As the man page says.
pub fn munlock(address: u64, len: u64) -> Result<()> {
    let (start, end) = range(address, len)?;
    if start == end { Ok(()) } else { current().memory().unlock_range(start, end) }
}

/// `mlockall(2)`.
///
/// # Errors
/// As the man page says.
pub fn mlockall(flags: u32) -> Result<()> {
    if flags == 0 || flags == MCL_ONFAULT || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0
    {
        return Err(Errno::EINVAL);
    }
    if !may_lock() {
        return Err(Errno::EPERM);
    }
    let now = flags & MCL_CURRENT != 0;
    let me = current();
    me.memory().lock_all(now.then_some(true), flags & MCL_FUTURE != 0, &bounds())?;
    if now && flags & MCL_ONFAULT == 0 {
        for area in me.memory().areas()? {
            let mut at = area.start;
            // As on Linux, what cannot be touched is passed over.
            while at < area.end && populate(at, area.end).is_err() {
                at += PAGE;
                if area.protection.0 == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// `munlockall(2)`.
///
/// # Errors
/// ENOMEM.
pub fn munlockall() -> Result<()> {
    current().memory().lock_all(Some(false), false, &bounds())
}
