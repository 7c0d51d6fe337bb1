//! The Airlock guest kernel.
//!
//! Everything that needs no hardware also compiles for, and is tested on, the host; what does need it
//! is under [`arch`] and `drivers`, or marked `target_os = "none"`.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod arch;
#[cfg(target_os = "none")]
pub mod boot;
pub mod capability;
#[cfg(target_os = "none")]
pub mod drivers;
pub mod errno;
pub mod exec;
pub mod fs;
pub mod ipc;
#[cfg(target_os = "none")]
pub mod log;
pub mod memory;
pub mod net;
#[cfg(test)]
mod numbers;
pub mod process;
#[cfg(target_os = "none")]
pub mod random;
pub mod sched;
pub mod signal;
pub mod sync;
pub mod syscall;
pub mod time;
