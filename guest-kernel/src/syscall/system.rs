//! The machine and its limits: uname(2), sysinfo(2), getrlimit(2), prctl(2), scheduling.

use crate::errno::{Errno, Result};
use crate::memory::{UserPtr, UserWriter};
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

/// `getrandom(2)`.
///
/// # Errors
/// As the man page says.
#[cfg(target_os = "none")]
pub fn getrandom(buffer: UserPtr<u8>, len: usize, flags: u32) -> Result<usize> {
    const GRND_NONBLOCK: u32 = 1;
    const GRND_RANDOM: u32 = 2;
    const GRND_INSECURE: u32 = 4;
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let mut writer = UserWriter::new(buffer.address(), len.min(i32::MAX as usize));
    let mut done = 0;
    while writer.remaining() > 0 {
        let mut bytes = [0; 256];
        let count = bytes.len().min(writer.remaining());
        crate::random::fill(&mut bytes[..count]);
        match writer.write_slice(&bytes[..count]) {
            Ok(written) => done += written,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `struct sysinfo`, without its variable padding.
#[repr(C)]
#[derive(Clone, Copy)]
struct SystemInformation {
    uptime: u64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    swap: [u64; 2],
    processes: u16,
    padding: u16,
    padding2: u32,
    high: [u64; 2],
    unit: u32,
    padding3: u32,
}

// SAFETY: integers, with the padding spelled out.
unsafe impl crate::memory::user::Plain for SystemInformation {}

/// `sysinfo(2)`.
///
/// # Errors
/// EFAULT.
#[cfg(target_os = "none")]
pub fn sysinfo(information: UserPtr<u8>) -> Result<()> {
    use crate::memory::{PAGE, frame};
    information.cast().write(SystemInformation {
        uptime: crate::time::monotonic_ns() / 1_000_000_000,
        loads: [0; 3],
        total: frame::total() * PAGE,
        free: frame::free() * PAGE,
        shared: 0,
        buffers: 0,
        swap: [0; 2],
        processes: u16::try_from(crate::process::all().len()).unwrap_or(u16::MAX),
        padding: 0,
        padding2: 0,
        high: [0; 2],
        unit: 1,
        padding3: 0,
    })
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
            process.program.lock().name = name[..len].to_vec();
            Ok(0)
        }
        PR_GET_NAME => {
            let mut name = [0; NAME_SIZE];
            {
                let program = process.program.lock();
                let len = program.name.len().min(NAME_SIZE - 1);
                name[..len].copy_from_slice(&program.name[..len]);
            }
            UserPtr::new(argument).write(name)?;
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

/// `sched_yield(2)`: nobody else could run.
pub fn sched_yield() {}

/// `getcpu(2)`.
///
/// # Errors
/// EFAULT.
#[cfg(target_os = "none")]
pub fn getcpu(cpu: UserPtr<u32>, node: UserPtr<u32>, _cache: u64) -> Result<()> {
    cpu.non_null().map_or(Ok(()), |cpu| cpu.write(crate::arch::Cpu::current().index()))?;
    node.non_null().map_or(Ok(()), |node| node.write(0))
}

/// `sched_getaffinity(2)`: every vCPU.
///
/// # Errors
/// As the man page says.
#[cfg(target_os = "none")]
pub fn sched_getaffinity(pid: Pid, size: usize, mask: UserPtr<u64>) -> Result<usize> {
    if pid != 0 && find(pid).is_none() {
        return Err(Errno::ESRCH);
    }
    let cpus = usize::try_from(crate::boot::cpus()).unwrap_or(1);
    let words = cpus.div_ceil(64);
    if size % 8 != 0 || size < words * 8 {
        return Err(Errno::EINVAL);
    }
    for index in 0..words {
        let left = cpus - index * 64;
        mask.element(index).write(if left >= 64 { u64::MAX } else { (1 << left) - 1 })?;
    }
    Ok(words * 8)
}
