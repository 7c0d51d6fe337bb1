//! Which process this is.

use crate::memory::UserPtr;
use crate::process::{Pid, current};

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
