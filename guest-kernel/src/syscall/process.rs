//! Identity, limits and the end of a process.

use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{Pid, current};

/// `exit_group(2)`.
#[cfg(target_os = "none")]
pub fn exit_group(status: i32) -> i32 {
    let [status, ..] = status.to_le_bytes();
    crate::process::end(airlock_abi::exit::Exit::Exited(status))
}

/// `exit(2)`: the only thread's end is the process's.
#[cfg(target_os = "none")]
pub fn exit(status: i32) -> i32 {
    exit_group(status)
}

/// `getpid(2)`.
pub fn getpid() -> Pid {
    current().pid
}

/// `gettid(2)`.
pub fn gettid() -> Pid {
    current().pid
}

/// `getppid(2)`.
pub fn getppid() -> Pid {
    current().parent
}

/// `set_tid_address(2)`.
pub fn set_tid_address(address: UserPtr<i32>) -> Pid {
    let process = current();
    process.clear_child_tid.store(address.address(), core::sync::atomic::Ordering::Relaxed);
    process.pid
}

/// `arch_prctl(2)`.
///
/// # Errors
/// As the man page says.
#[cfg(target_os = "none")]
pub fn arch_prctl(option: i32, address: u64) -> Result<()> {
    use crate::arch::cpu::{msr, read_msr, write_msr};
    use crate::memory::USER_END;
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    match option {
        ARCH_SET_FS | ARCH_SET_GS if address >= USER_END => Err(Errno::EPERM),
        ARCH_SET_FS => {
            // SAFETY: the kernel does not use FS, and the address is canonical.
            unsafe { write_msr(msr::FS_BASE, address) };
            Ok(())
        }
        ARCH_SET_GS => {
            // SAFETY: while in the kernel this is the program's GS base.
            unsafe { write_msr(msr::KERNEL_GS_BASE, address) };
            Ok(())
        }
        // SAFETY: both registers exist on every x86-64 processor.
        ARCH_GET_FS => UserPtr::new(address).write(unsafe { read_msr(msr::FS_BASE) }),
        // SAFETY: as above.
        ARCH_GET_GS => UserPtr::new(address).write(unsafe { read_msr(msr::KERNEL_GS_BASE) }),
        _ => Err(Errno::EINVAL),
    }
}
