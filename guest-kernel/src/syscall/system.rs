//! The machine and its limits: uname(2), sysinfo(2), getrlimit(2), prctl(2), scheduling.

use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{Limit, Pid, current, find};

/// What `uname -r` says: the version of Linux whose interface this is.
pub const RELEASE: &str = "6.1.0-airlock";
/// What `uname -v` says.
pub const VERSION: &str = concat!("#1 SMP Airlock ", env!("CARGO_PKG_VERSION"));
/// The machine's name.
pub const HOST_NAME: &str = "airlock";

/// `uname(2)`.
///
/// # Errors
/// EFAULT.
pub fn uname(name: UserPtr<[u8; 390]>) -> Result<()> {
    let mut fields = [0; 390];
    for (field, text) in
        fields.chunks_exact_mut(65).zip(["Linux", HOST_NAME, RELEASE, VERSION, "x86_64", "(none)"])
    {
        let count = text.len().min(64);
        field[..count].copy_from_slice(&text.as_bytes()[..count]);
    }
    name.write(fields)
}

// SAFETY: two integers.
unsafe impl crate::memory::user::Plain for Limit {}

/// `prlimit64(2)`.
///
/// # Errors
/// As the man page says.
pub fn prlimit64(pid: Pid, resource: u32, new: UserPtr<Limit>, old: UserPtr<Limit>) -> Result<()> {
    let me = current();
    if pid != 0 && pid != me.pid {
        return Err(if find(pid).is_some() { Errno::EPERM } else { Errno::ESRCH });
    }
    let wanted = new.non_null().map(UserPtr::read).transpose()?;
    let privileged = me.credentials().is_privileged();
    let index = usize::try_from(resource).map_err(|_| Errno::EINVAL)?;
    let before = {
        let mut limits = me.limits().lock();
        let slot = limits.0.get_mut(index).ok_or(Errno::EINVAL)?;
        let before = *slot;
        if let Some(limit) = wanted {
            if limit.soft > limit.hard {
                return Err(Errno::EINVAL);
            }
            if limit.hard > before.hard && !privileged {
                return Err(Errno::EPERM);
            }
            *slot = limit;
        }
        before
    };
    if let Some(limit) = wanted {
        apply_limit(index, limit);
    }
    old.non_null().map_or(Ok(()), |old| old.write(before))
}

/// Tells those who enforce a limit.
fn apply_limit(resource: usize, limit: Limit) {
    use crate::process::resource::{NOFILE, STACK};
    let process = current();
    match resource {
        NOFILE => {
            let most = usize::try_from(limit.soft).unwrap_or(usize::MAX);
            process.files().lock().set_limit(most);
        }
        STACK => process.memory().set_stack_size(limit.soft),
        _ => {}
    }
}

/// `getrlimit(2)`.
///
/// # Errors
/// As the man page says.
pub fn getrlimit(resource: u32, limit: UserPtr<Limit>) -> Result<()> {
    let index = usize::try_from(resource).map_err(|_| Errno::EINVAL)?;
    let value = *current().limits().lock().0.get(index).ok_or(Errno::EINVAL)?;
    limit.write(value)
}

/// `setrlimit(2)`.
///
/// # Errors
/// As the man page says.
pub fn setrlimit(resource: u32, limit: UserPtr<Limit>) -> Result<()> {
    if limit.is_null() {
        return Err(Errno::EFAULT);
    }
    prlimit64(0, resource, limit, UserPtr::new(0))
}

/// `prctl(2)`.
///
/// # Errors
/// As the man page says.
pub fn prctl(
    option: i32,
    argument: u64,
    argument3: u64,
    argument4: u64,
    argument5: u64,
) -> Result<i32> {
    const PR_GET_DUMPABLE: i32 = 3;
    const PR_SET_NAME: i32 = 15;
    const PR_GET_NAME: i32 = 16;
    const PR_SET_CHILD_SUBREAPER: i32 = 36;
    const PR_GET_CHILD_SUBREAPER: i32 = 37;
    const PR_SET_NO_NEW_PRIVS: i32 = 38;
    const PR_GET_NO_NEW_PRIVS: i32 = 39;
    const NAME_SIZE: usize = 16;
    let process = current();
    match option {
        PR_GET_DUMPABLE => Ok(1),
        PR_SET_NAME => {
            let mut name = [0; NAME_SIZE - 1];
            let mut len = 0;
            while len < name.len() {
                let byte = UserPtr::<u8>::new(argument).element(len).read()?;
                if byte == 0 {
                    break;
                }
                name[len] = byte;
                len += 1;
            }
            *process.name.lock() = crate::process::short_name(&name[..len]);
            Ok(0)
        }
        PR_GET_NAME => {
            let name: [u8; NAME_SIZE] = *process.name.lock();
            UserPtr::new(argument).write(name)?;
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            process.subreaper.store(argument != 0, core::sync::atomic::Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            let on = process.subreaper.load(core::sync::atomic::Ordering::Relaxed);
            UserPtr::<i32>::new(argument).write(on.into())?;
            Ok(0)
        }
        PR_SET_NO_NEW_PRIVS
            if argument == 1 && argument3 == 0 && argument4 == 0 && argument5 == 0 =>
        {
            process.no_new_privileges.store(true, core::sync::atomic::Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_NO_NEW_PRIVS
            if argument == 0 && argument3 == 0 && argument4 == 0 && argument5 == 0 =>
        {
            Ok(process.no_new_privileges.load(core::sync::atomic::Ordering::Relaxed).into())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_yield(2)`.
pub fn sched_yield() {
    #[cfg(target_os = "none")]
    crate::sched::run::yield_now();
}

/// The process with this id, or the caller for 0.
fn scheduled(pid: Pid) -> Result<()> {
    match pid {
        0 => Ok(()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => find(pid).map(|_| ()).ok_or(Errno::ESRCH),
    }
}

/// `SCHED_FIFO`, `SCHED_RR`, and those without priorities.
const REAL_TIME: [i32; 2] = [1, 2];
const WITHOUT_PRIORITY: [i32; 3] = [0, 3, 5];

/// `sched_getscheduler(2)`: every process is `SCHED_OTHER`, as none can change that.
///
/// # Errors
/// As the man page says.
pub fn sched_getscheduler(pid: Pid) -> Result<i32> {
    scheduled(pid).map(|()| 0)
}

/// `sched_getparam(2)`.
///
/// # Errors
/// As the man page says.
pub fn sched_getparam(pid: Pid, parameter: UserPtr<i32>) -> Result<()> {
    if parameter.is_null() {
        return Err(Errno::EINVAL);
    }
    scheduled(pid)?;
    parameter.write(0)
}

/// `sched_get_priority_max(2)`.
///
/// # Errors
/// EINVAL.
pub fn sched_get_priority_max(policy: i32) -> Result<i32> {
    match policy {
        _ if REAL_TIME.contains(&policy) => Ok(99),
        _ if WITHOUT_PRIORITY.contains(&policy) || policy == 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_get_priority_min(2)`.
///
/// # Errors
/// EINVAL.
pub fn sched_get_priority_min(policy: i32) -> Result<i32> {
    sched_get_priority_max(policy).map(|most| most.min(1))
}
