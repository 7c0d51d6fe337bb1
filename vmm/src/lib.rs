//! The Airlock virtual machine monitor: runs one Linux program in a microVM of its own.
//!
//! [`run`] takes a [`Config`] and returns how the program ended, as an [`Outcome`].

mod allocator;
mod boot;
mod bus;
pub mod config;
mod cpuid;
mod devices;
pub mod embedded;
mod ending;
mod entropy;
mod error;
mod event_loop;
mod exits;
pub mod image;
mod interrupts;
mod loader;
mod machine;
mod memory;
pub mod rootfs;
#[cfg(test)]
mod scratch;
pub mod seccomp;
mod statistics;
pub mod strace;
pub mod terminal;
pub mod trace;
mod vcpu;
mod vm;
pub mod volume;

pub use config::{Config, Identity, KernelImage, Outcome, Piece, RootImage, StraceTarget};
pub use error::Error;
pub use machine::run;
