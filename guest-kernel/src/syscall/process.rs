//! Which process and thread this is, and how they end.

use crate::memory::UserPtr;
use crate::process::{Pid, current};
use core::sync::atomic::Ordering;

/// `getpid(2)`.
pub fn getpid() -> Pid {
    current().pid
}

/// `gettid(2)`.
pub fn gettid() -> Pid {
    current().tid()
}

/// `getppid(2)`.
pub fn getppid() -> Pid {
    current().parent()
}

/// `set_tid_address(2)`.
pub fn set_tid_address(address: UserPtr<i32>) -> Pid {
    let me = current();
    me.clear_child_tid.store(address.address(), Ordering::Relaxed);
    me.tid()
}
