//! The Airlock virtual machine monitor: runs one Linux program in a microVM of its own.
//!
//! [`run`] takes a [`Config`] and returns how the program ended, as an [`Outcome`].

pub mod config;
mod error;
pub mod strace;

pub use config::{Config, KernelImage, Outcome, Piece, RootImage, StraceTarget};
pub use error::Error;

/// Runs a program in a microVM until it, the user or a limit ends the machine.
///
/// Everything that the guest was told is written has been written when this returns.
///
/// # Errors
///
/// Whenever the fault is Airlock's, the host's or the guest kernel's, not the program's.
pub fn run(config: Config) -> Result<Outcome, Error> {
    drop(config);
    Err(Error::Unfinished)
}
