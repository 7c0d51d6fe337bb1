//! The Airlock guest kernel.
//!
//! Everything that needs no hardware also compiles for, and is tested on, the host; what does need it
//! is under [`arch`] and [`drivers`] or marked `target_os = "none"`.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod arch;
pub mod errno;
pub mod fs;
pub mod memory;
pub mod sync;
