//! Errors of system calls.

pub use airlock_abi::errno::Errno;

/// What a system call, or a part of one, comes to.
pub type Result<T> = core::result::Result<T, Errno>;
