//! Resource limits: getrlimit(2), setrlimit(2), prlimit(2).

use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{
    self, Credentials, Limit, Pid, Process, current, find_thread, resource, watch_cpu_limit,
};
use alloc::sync::Arc;

// SAFETY: two integers.
unsafe impl crate::memory::user::Plain for Limit {}

/// Linux's `fs.nr_open`: no limit of descriptors is higher.
const MOST_DESCRIPTORS: u64 = 1 << 20;

/// Whose limits are meant, if the caller may see and change them.
fn target(pid: Pid) -> Result<Arc<Process>> {
    let me = current();
    if pid == 0 || pid == me.tid() {
        return Ok(me.process.clone());
    }
    let thread = find_thread(pid).ok_or(Errno::ESRCH)?;
    if thread.pid == me.pid {
        return Ok(me.process.clone());
    }
    let (mine, theirs): (Credentials, Credentials) = (me.credentials(), thread.credentials());
    let same = [theirs.euid, theirs.suid, theirs.uid].iter().all(|&id| id == mine.uid)
        && [theirs.egid, theirs.sgid, theirs.gid].iter().all(|&id| id == mine.gid);
    if same || mine.can(Capability::SysResource) {
        Ok(thread.process.clone())
    } else {
        Err(Errno::EPERM)
    }
}

/// Reads and changes a limit of a process.
fn exchange(process: &Arc<Process>, number: u32, new: Option<Limit>) -> Result<Limit> {
    let index = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
    if index >= resource::COUNT {
        return Err(Errno::EINVAL);
    }
    if let Some(limit) = new {
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        if index == resource::NOFILE && limit.hard > MOST_DESCRIPTORS {
            return Err(Errno::EPERM);
        }
    }
    let may_raise = current().can(Capability::SysResource);
    let before = {
        let mut limits = process.limits().lock();
        let slot = &mut limits.0[index];
        let before = *slot;
        if let Some(limit) = new {
            if limit.hard > before.hard && !may_raise {
                return Err(Errno::EPERM);
            }
            *slot = limit;
        }
        before
    };
    match new {
        Some(limit) if index == resource::NOFILE => {
            let most = usize::try_from(limit.soft).unwrap_or(usize::MAX);
            for thread in process.threads() {
                if let Some(files) = thread.shared_files() {
                    files.lock().set_limit(most);
                }
            }
        }
        Some(_) if index == resource::CPU => watch_cpu_limit(process)?,
        _ => {}
    }
    Ok(before)
}

/// `prlimit64(2)`.
///
/// # Errors
/// As the man page says.
pub fn prlimit64(pid: Pid, number: u32, new: UserPtr<Limit>, old: UserPtr<Limit>) -> Result<()> {
    let wanted = new.non_null().map(UserPtr::read).transpose()?;
    let before = exchange(&target(pid)?, number, wanted)?;
    old.non_null().map_or(Ok(()), |old| old.write(before))
}

/// `getrlimit(2)`.
///
/// # Errors
/// As the man page says.
pub fn getrlimit(number: u32, limit: UserPtr<Limit>) -> Result<()> {
    limit.write(exchange(&process::current().process, number, None)?)
}

/// `setrlimit(2)`.
///
/// # Errors
/// As the man page says.
pub fn setrlimit(number: u32, limit: UserPtr<Limit>) -> Result<()> {
    let wanted = limit.read()?;
    exchange(&current().process, number, Some(wanted)).map(|_| ())
}
